//! Budgets: money is set aside when a request is let in, at every budget that it falls under at once, and taken or given
//! back when it ends.
//!
//! A process spends from slices that it took from the state file ahead of use, so letting a request in looks at memory
//! only, and what a killed process had not accounted for is still held by its slice.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::config::{BudgetConfig, BudgetScope, Enforce, Period};
use crate::cost::{bound, output_tokens_within};
use crate::price::{Prices, Tier};
use crate::usd::Usd;

/// An answer that could not even have so many tokens is refused rather than cut.
pub(crate) const OUTPUT_TOKENS_MIN: u64 = 16;
/// A request that sets no bound on its answer gets the model's own, unless that were more than this part of what is left.
const UNBOUNDED_PART: i64 = 8;
/// Accounts that are kept; further values of a scope are refused, since nobody could pay attention to them.
const ACCOUNTS_MAX: usize = 100_000;
/// Before a period ends, money for the next one is taken.
const AHEAD_US: i64 = 60_000_000;

/// A budget as it is enforced.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub name: Arc<str>,
    pub usd: Usd,
    pub per: Period,
    pub scope: BudgetScope,
    pub of: Option<Box<str>>,
    pub enforce: Enforce,
    /// The share at which an alert goes out, in thousandths.
    pub soft_thousandths: i64,
}

impl Rule {
    pub(crate) fn new(name: &str, config: &BudgetConfig) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a share between 0 and 1, checked with the configuration"
        )]
        let soft_thousandths = (config.soft * 1000.0).round() as i64;
        Self {
            name: name.into(),
            usd: config.usd,
            per: config.per,
            scope: config.scope,
            of: config.of.as_deref().map(Into::into),
            enforce: config.enforce,
            soft_thousandths,
        }
    }
}

/// The word for a scope.
pub(crate) fn scope_word(scope: BudgetScope) -> &'static str {
    match scope {
        BudgetScope::Key => "key",
        BudgetScope::Person => "person",
        BudgetScope::Project => "project",
        BudgetScope::Route => "route",
        BudgetScope::Provider => "provider",
        BudgetScope::Model => "model",
    }
}

/// The time of one period, in microseconds since 1970; without an end for a total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    pub start_us: i64,
    pub end_us: i64,
}

impl Span {
    /// The period that `at` falls into, in UTC.
    pub(crate) fn of(per: Period, at: Timestamp) -> Self {
        let day = at.to_zoned(TimeZone::UTC).date();
        let (start, end) = match per {
            Period::Day => (day, day.saturating_add(1.day())),
            Period::Month => (day.first_of_month(), day.last_of_month().saturating_add(1.day())),
            Period::Total => return Self { start_us: 0, end_us: i64::MAX },
        };
        Self { start_us: midnight(start), end_us: midnight(end) }
    }

    pub(crate) fn next(self, per: Period) -> Self {
        match Timestamp::from_microsecond(self.end_us) {
            Ok(end) if per != Period::Total => Self::of(per, end),
            _ => self,
        }
    }

    /// When it ends; `None`: never.
    pub(crate) fn ends(self) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.end_us).ok().filter(|_| self.end_us != i64::MAX)
    }
}

fn midnight(day: Date) -> i64 {
    day.to_zoned(TimeZone::UTC).map_or(i64::MAX, |at| at.timestamp().as_microsecond())
}

/// What one value of a budget's scope has in one period.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub rule: usize,
    /// Budget, scope and value, such as `month/key/vk_1`; the name in the state.
    pub id: Arc<str>,
    pub value: Box<str>,
    pub span: Span,
    /// What this process took from the state, in all.
    pub granted: i64,
    /// What was used of it, also what waits to be written.
    pub spent: i64,
    /// What is set aside for requests under way.
    pub reserved: i64,
    /// What all processes have spent and written, as last read.
    pub spent_in_all: i64,
    /// What is held for jobs that have not ended, as last read.
    pub for_jobs: i64,
    /// Money for the next period.
    pub next: Option<(Span, i64)>,
    /// The state had no more to give when it was last asked.
    pub dry: bool,
    /// Someone was refused since then, and needed this much.
    pub thirst: i64,
    pub told_soft: bool,
    pub told_hard: bool,
    /// Spent beyond what was set aside for it, since the period began.
    pub overshoot: i64,
}

impl Account {
    pub(crate) fn free(&self) -> i64 {
        self.granted - self.spent - self.reserved
    }
}

/// What was set aside at one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub account: usize,
    pub period_us: i64,
    pub amount: i64,
}

/// A budget is used up, or no slice of it is at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Short {
    pub budget: Arc<str>,
    pub scope: BudgetScope,
    pub value: Box<str>,
    pub limit: Usd,
    /// What the smallest useful answer would need.
    pub needs: Usd,
    pub free: Usd,
    pub in_flight: Usd,
    pub resets: Option<Timestamp>,
    /// The state may have more of it: a slice is on its way.
    pub on_its_way: bool,
}

/// Whom a request is counted to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'a> {
    pub key: &'a str,
    pub person: &'a str,
    pub project: &'a str,
    pub route: &'a str,
}

/// A target that may answer, with what it costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub provider: &'a str,
    pub model: &'a str,
    pub prices: &'a Prices,
    pub output_tokens_max: Option<u64>,
    /// Those that the provider may charge for.
    pub tiers: &'a [Tier],
}

/// What is to be set aside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need<'a> {
    pub who: Who<'a>,
    pub input_tokens_bound: u64,
    /// As the request says.
    pub max_tokens: Option<u64>,
    /// For a request that says nothing, where the model's own bound is not known or too much.
    pub max_tokens_default: u64,
    pub choices: u64,
    /// Whether there is output at all.
    pub generates: bool,
    /// What such requests usually cost, for budgets that only estimate.
    pub usual: Usd,
    pub now: Timestamp,
}

/// What work with one model may cost, known before it begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amount<'a> {
    pub model: &'a str,
    /// The most that it can cost.
    pub bound: i64,
    /// What it is likely to cost.
    pub usual: i64,
}

/// What was set aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub parts: Vec<Part>,
    /// The most that it can cost.
    pub bound: i64,
    /// The tokens that an answer may have, where a budget bounds them.
    pub max_tokens: Option<u64>,
    /// Candidates whose own budgets are used up, by index.
    pub barred: Vec<usize>,
}

/// All budgets of a project.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub rules: Vec<Rule>,
    /// What the log has been told of budgets that wait for approval.
    pub waiting: Vec<String>,
    by_value: Vec<HashMap<Box<str>, usize>>,
    pub accounts: Vec<Account>,
    /// How often money was handed over: what was read before the last time may still count it here.
    pub handed_over: u64,
}

impl Books {
    /// Replaces the rules; accounts of budgets that stay keep what they have. Accounts of others are returned, so that
    /// their slices can be given back.
    pub(crate) fn set_rules(&mut self, rules: Vec<Rule>) {
        let before = std::mem::take(&mut self.rules);
        let maps = std::mem::take(&mut self.by_value);
        let mut kept: HashMap<(Arc<str>, BudgetScope), HashMap<Box<str>, usize>> = HashMap::new();
        for (rule, map) in before.iter().zip(maps) {
            kept.insert((Arc::clone(&rule.name), rule.scope), map);
        }
        for account in &mut self.accounts {
            account.rule = usize::MAX;
        }
        for (index, rule) in rules.iter().enumerate() {
            let same = before.iter().any(|old| old.name == rule.name && old.per == rule.per);
            let map = kept.remove(&(Arc::clone(&rule.name), rule.scope)).filter(|_| same).unwrap_or_default();
            for account in map.values() {
                let account = &mut self.accounts[*account];
                account.rule = index;
                // A raised budget has more to give.
                account.dry = false;
            }
            self.by_value.push(map);
        }
        self.rules = rules;
    }

    /// The account of a value, made if there is none yet. `None`: the budget is for another value.
    pub(crate) fn account(&mut self, rule: usize, value: &str, now: Timestamp) -> Option<usize> {
        let of = &self.rules[rule];
        if of.of.as_deref().is_some_and(|only| only != value) {
            return None;
        }
        if let Some(index) = self.by_value[rule].get(value) {
            return Some(*index);
        }
        let index = self.accounts.len();
        self.accounts.push(Account {
            rule,
            id: format!("{}/{}/{value}", of.name, scope_word(of.scope)).into(),
            value: value.into(),
            span: Span::of(of.per, now),
            granted: 0,
            spent: 0,
            reserved: 0,
            spent_in_all: 0,
            for_jobs: 0,
            next: None,
            dry: false,
            thirst: 0,
            told_soft: false,
            told_hard: false,
            overshoot: 0,
        });
        self.by_value[rule].insert(value.into(), index);
        Some(index)
    }

    /// Goes on to the period of `now`, with the money that was taken for it ahead.
    pub(crate) fn roll(&mut self, account: usize, now_us: i64) {
        let Self { rules, accounts, .. } = self;
        let account = &mut accounts[account];
        if now_us < account.span.end_us || account.rule == usize::MAX {
            return;
        }
        let Ok(now) = Timestamp::from_microsecond(now_us) else { return };
        let span = Span::of(rules[account.rule].per, now);
        let granted = account.next.take().filter(|(next, _)| *next == span).map_or(0, |(_, granted)| granted);
        // What is reserved belongs to the old period; its settlement finds another one here and leaves it alone.
        *account = Account {
            span,
            granted,
            spent: 0,
            reserved: 0,
            spent_in_all: 0,
            for_jobs: 0,
            next: None,
            dry: false,
            thirst: 0,
            told_soft: false,
            told_hard: false,
            overshoot: 0,
            ..account.clone()
        };
    }

    /// Sets aside what a request may cost, at every budget or at none.
    pub(crate) fn take(
        &mut self,
        need: &Need<'_>,
        candidates: &[Candidate<'_>],
    ) -> Result<Taken, Box<Short>> {
        if self.rules.is_empty() {
            return Ok(Taken::default());
        }
        let mut shared: Vec<usize> = Vec::with_capacity(self.rules.len());
        // Accounts of single candidates, with the candidates that they concern.
        let mut own: Vec<(usize, usize)> = Vec::new();
        for rule in 0..self.rules.len() {
            let value = match self.rules[rule].scope {
                BudgetScope::Key => need.who.key,
                BudgetScope::Person => need.who.person,
                BudgetScope::Project => need.who.project,
                BudgetScope::Route => need.who.route,
                scope @ (BudgetScope::Provider | BudgetScope::Model) => {
                    for (at, candidate) in candidates.iter().enumerate() {
                        let value =
                            if scope == BudgetScope::Provider { candidate.provider } else { candidate.model };
                        if let Some(account) = self.open(rule, value, need.now)? {
                            own.push((account, at));
                        }
                    }
                    continue;
                }
            };
            // A key that belongs to nobody falls under no person's budget.
            if !value.is_empty()
                && let Some(account) = self.open(rule, value, need.now)?
            {
                shared.push(account);
            }
        }
        self.take_from(need, candidates, &shared, &own)
    }

    fn open(&mut self, rule: usize, value: &str, now: Timestamp) -> Result<Option<usize>, Box<Short>> {
        if self.accounts.len() >= ACCOUNTS_MAX && !self.by_value[rule].contains_key(value) {
            let of = &self.rules[rule];
            return Err(Box::new(Short {
                budget: Arc::clone(&of.name),
                scope: of.scope,
                value: value.into(),
                limit: of.usd,
                needs: Usd::default(),
                free: Usd::default(),
                in_flight: Usd::default(),
                resets: None,
                on_its_way: false,
            }));
        }
        let account = self.account(rule, value, now);
        if let Some(account) = account {
            self.roll(account, now.as_microsecond());
        }
        Ok(account)
    }

    fn take_from(
        &mut self,
        need: &Need<'_>,
        candidates: &[Candidate<'_>],
        shared: &[usize],
        own: &[(usize, usize)],
    ) -> Result<Taken, Box<Short>> {
        let strict = |books: &Self, account: usize| {
            books.rules[books.accounts[account].rule].enforce == Enforce::Strict
        };
        let mut barred: Vec<usize> = Vec::new();
        let mut short: Option<Box<Short>> = None;
        // Budgets of single targets only bar those targets.
        for (account, at) in own {
            let candidate = &candidates[*at];
            let amount = if strict(self, *account) { least(need, candidate) } else { need.usual.nanos() };
            if self.accounts[*account].free() < amount.max(1) {
                short = Some(self.short(*account, amount));
                barred.push(*at);
            }
        }
        barred.sort_unstable();
        barred.dedup();
        let open = |at: usize| !barred.contains(&at);
        if let Some(short) = short
            && barred.len() == candidates.len()
        {
            return Err(short);
        }
        let bounded = shared.iter().any(|account| strict(self, *account))
            || own.iter().any(|(account, at)| open(*at) && strict(self, *account));
        let mut max_tokens = None;
        if bounded && need.generates {
            // What the strict budgets leave for the answer, in tokens of the dearest target.
            let mut fits = u64::MAX;
            let mut left = i64::MAX;
            let own = own.iter().filter(|(_, at)| open(*at)).map(|(account, at)| (*account, Some(*at)));
            for (account, only) in shared.iter().map(|account| (*account, None)).chain(own) {
                if !strict(self, account) {
                    continue;
                }
                let free = self.accounts[account].free();
                left = left.min(free);
                for (at, candidate) in candidates.iter().enumerate() {
                    if !open(at) || only.is_some_and(|only| only != at) {
                        continue;
                    }
                    let tokens = output_tokens_within(
                        candidate.prices,
                        need.input_tokens_bound,
                        Usd::from_nanos(free.max(0)),
                        candidate.tiers,
                    );
                    let tokens = tokens.unwrap_or(0) / need.choices.max(1);
                    let wanted = need.max_tokens.unwrap_or(OUTPUT_TOKENS_MIN).min(OUTPUT_TOKENS_MIN);
                    if tokens < wanted || free <= 0 {
                        return Err(self.short(account, least(need, candidate)));
                    }
                    fits = fits.min(tokens);
                }
            }
            let wanted = match need.max_tokens {
                Some(asked) => asked,
                None => unasked(need, candidates, &open, left),
            };
            let allowed = wanted.min(fits);
            // A request that sets no bound is told the one that was reckoned with.
            max_tokens = (need.max_tokens.is_none_or(|asked| allowed < asked)).then_some(allowed);
        }
        let output = if need.generates {
            max_tokens
                .or(need.max_tokens)
                .unwrap_or(need.max_tokens_default)
                .saturating_mul(need.choices.max(1))
        } else {
            0
        };
        let amount = |at: usize| {
            let candidate: &Candidate<'_> = &candidates[at];
            bound(candidate.prices, need.input_tokens_bound, output, candidate.tiers).nanos()
        };
        let most = (0..candidates.len()).filter(|at| open(*at)).map(amount).max().unwrap_or(0);
        let mut parts: Vec<Part> = Vec::with_capacity(shared.len() + own.len());
        let own = own.iter().filter(|(_, at)| open(*at)).map(|(account, at)| (*account, Some(*at)));
        for (account, only) in shared.iter().map(|account| (*account, None)).chain(own) {
            let held = &self.accounts[account];
            let set_aside = match (self.rules[held.rule].enforce, only) {
                (Enforce::Strict, Some(at)) => amount(at),
                (Enforce::Strict, None) => most,
                (Enforce::Estimate, _) => need.usual.nanos().max(1),
            };
            if let Some(known) = parts.iter_mut().find(|part| part.account == account) {
                known.amount = known.amount.max(set_aside);
                continue;
            }
            parts.push(Part { account, period_us: held.span.start_us, amount: set_aside });
        }
        for part in &parts {
            if self.accounts[part.account].free() < part.amount {
                return Err(self.short(part.account, part.amount));
            }
        }
        for part in &parts {
            self.accounts[part.account].reserved += part.amount;
        }
        Ok(Taken { parts, bound: most, max_tokens, barred })
    }

    /// Sets amounts aside that are known beforehand, one for each model of a provider, at every budget or at none.
    pub(crate) fn take_amounts(
        &mut self,
        who: Who<'_>,
        provider: &str,
        amounts: &[Amount<'_>],
        now: Timestamp,
    ) -> Result<Vec<Part>, Box<Short>> {
        let mut parts: Vec<Part> = Vec::new();
        for rule in 0..self.rules.len() {
            let (scope, enforce) = (self.rules[rule].scope, self.rules[rule].enforce);
            let of = |amount: &Amount<'_>| match enforce {
                Enforce::Strict => amount.bound,
                Enforce::Estimate => amount.usual,
            };
            let all = || amounts.iter().map(of).fold(0, i64::saturating_add);
            let wanted: Vec<(&str, i64)> = match scope {
                BudgetScope::Key => vec![(who.key, all())],
                BudgetScope::Person => vec![(who.person, all())],
                BudgetScope::Project => vec![(who.project, all())],
                BudgetScope::Route => vec![(who.route, all())],
                BudgetScope::Provider => vec![(provider, all())],
                BudgetScope::Model => amounts.iter().map(|amount| (amount.model, of(amount))).collect(),
            };
            for (value, amount) in wanted {
                if value.is_empty() || amount <= 0 {
                    continue;
                }
                let Some(account) = self.open(rule, value, now)? else { continue };
                let period_us = self.accounts[account].span.start_us;
                parts.push(Part { account, period_us, amount });
            }
        }
        for part in &parts {
            if self.accounts[part.account].free() < part.amount {
                return Err(self.short(part.account, part.amount));
            }
        }
        for part in &parts {
            self.accounts[part.account].reserved += part.amount;
        }
        Ok(parts)
    }

    /// What was set aside is held elsewhere from now on: this process neither reserves nor has it any more.
    pub(crate) fn hand_over(&mut self, parts: &[Part]) {
        self.handed_over += 1;
        for part in parts {
            let held = &mut self.accounts[part.account];
            if held.span.start_us == part.period_us {
                held.reserved -= part.amount;
                held.granted -= part.amount;
            }
        }
    }

    #[allow(clippy::unnecessary_box_returns, reason = "it becomes the large error of a small answer")]
    fn short(&mut self, account: usize, needs: i64) -> Box<Short> {
        let held = &mut self.accounts[account];
        held.thirst = held.thirst.max(needs.max(1));
        let held = &self.accounts[account];
        let rule = &self.rules[held.rule];
        Box::new(Short {
            budget: Arc::clone(&rule.name),
            scope: rule.scope,
            value: held.value.clone(),
            limit: rule.usd,
            needs: Usd::from_nanos(needs),
            free: Usd::from_nanos(held.free().max(0)),
            in_flight: Usd::from_nanos(held.reserved.saturating_add(held.for_jobs)),
            resets: held.span.ends(),
            on_its_way: !held.dry,
        })
    }

    /// Sets aside the same once more, for another attempt after one that may have cost money.
    pub(crate) fn take_again(&mut self, parts: &[Part]) -> Result<(), Box<Short>> {
        for part in parts {
            let held = &self.accounts[part.account];
            if held.span.start_us == part.period_us && held.rule != usize::MAX && held.free() < part.amount {
                return Err(self.short(part.account, part.amount));
            }
        }
        for part in parts {
            let held = &mut self.accounts[part.account];
            if held.span.start_us == part.period_us {
                held.reserved += part.amount;
            }
        }
        Ok(())
    }

    /// Gives back what was set aside `times` times, and takes what was spent: `spent` says how much at each account.
    pub(crate) fn settle(&mut self, parts: &[Part], times: i64, spent: impl Fn(BudgetScope, &str) -> i64) {
        for part in parts {
            let held = &mut self.accounts[part.account];
            // What was set aside in a period that is over went with it; the row tells its period what it cost.
            if held.span.start_us != part.period_us {
                continue;
            }
            let Some(rule) = self.rules.get(held.rule) else { continue };
            let cost = spent(rule.scope, &held.value);
            held.reserved -= part.amount * times;
            held.spent += cost;
            held.overshoot += (cost - part.amount * times).max(0);
        }
    }

    /// Accounts that should have more than they have, or money for the next period.
    pub(crate) fn wants(&mut self, now_us: i64, ask_again: bool) -> Vec<Want> {
        let mut wants = Vec::new();
        for index in 0..self.accounts.len() {
            if self.accounts[index].rule == usize::MAX {
                continue;
            }
            self.roll(index, now_us);
            let held = &self.accounts[index];
            let rule = &self.rules[held.rule];
            let low = held.free() * 2 < held.granted || held.free() <= 0 || held.thirst > 0;
            if low && (!held.dry || ask_again) {
                wants.push(Want::of(held, rule, held.span));
            }
            if held.next.is_none() && held.span.end_us != i64::MAX && held.span.end_us - now_us < AHEAD_US {
                wants.push(Want::of(held, rule, held.span.next(rule.per)));
            }
        }
        wants
    }

    /// Thresholds that were crossed since the last look.
    pub(crate) fn crossed(&mut self) -> Vec<Crossed> {
        let mut crossed = Vec::new();
        for held in &mut self.accounts {
            let Some(rule) = self.rules.get(held.rule) else { continue };
            let limit = rule.usd.nanos();
            let spent = held.spent_in_all.max(held.spent);
            let share = i128::from(spent) * 1000 / i128::from(limit.max(1));
            let hard = spent >= limit || (held.dry && held.thirst > 0 && held.free() <= 0);
            let soft = share >= i128::from(rule.soft_thousandths);
            if !(hard && !held.told_hard || soft && !held.told_soft && !held.told_hard) {
                continue;
            }
            held.told_soft = true;
            held.told_hard |= hard;
            crossed.push(Crossed {
                budget: Arc::clone(&rule.name),
                scope: rule.scope,
                value: held.value.clone(),
                limit: rule.usd,
                spent: Usd::from_nanos(spent),
                overshoot: Usd::from_nanos(held.overshoot),
                hard,
                resets: held.span.ends(),
                period_us: held.span.start_us,
            });
        }
        crossed
    }
}

/// The least that a request of this kind can cost and still be of use.
fn least(need: &Need<'_>, candidate: &Candidate<'_>) -> i64 {
    let wanted = need.max_tokens.unwrap_or(OUTPUT_TOKENS_MIN).min(OUTPUT_TOKENS_MIN);
    let output = if need.generates { wanted * need.choices.max(1) } else { 0 };
    bound(candidate.prices, need.input_tokens_bound, output, candidate.tiers).nanos()
}

/// The bound for an answer whose request sets none: the model's own, unless that were a large part of what is left.
fn unasked(need: &Need<'_>, candidates: &[Candidate<'_>], open: &impl Fn(usize) -> bool, left: i64) -> u64 {
    let of = |(_, candidate): (usize, &Candidate<'_>)| {
        let own = candidate.output_tokens_max.unwrap_or(need.max_tokens_default);
        let part = Usd::from_nanos((left / UNBOUNDED_PART).max(0));
        let small = output_tokens_within(candidate.prices, need.input_tokens_bound, part, candidate.tiers);
        if small.unwrap_or(0) / need.choices.max(1) >= own { own } else { own.min(need.max_tokens_default) }
    };
    let allowed = candidates.iter().enumerate().filter(|(at, _)| open(*at)).map(of);
    allowed.min().unwrap_or(need.max_tokens_default)
}

/// An account that should have more.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub id: Arc<str>,
    pub span: Span,
    pub limit: i64,
    pub scope: BudgetScope,
    pub value: Box<str>,
    /// What a refused request needed.
    pub needs: i64,
}

impl Want {
    fn of(held: &Account, rule: &Rule, span: Span) -> Self {
        Self {
            id: Arc::clone(&held.id),
            span,
            limit: rule.usd.nanos(),
            scope: rule.scope,
            value: held.value.clone(),
            needs: held.thirst.max(1),
        }
    }
}

/// A threshold that was crossed.
#[derive(Debug, Clone)]
pub(crate) struct Crossed {
    pub budget: Arc<str>,
    pub scope: BudgetScope,
    pub value: Box<str>,
    pub limit: Usd,
    pub spent: Usd,
    pub overshoot: Usd,
    pub hard: bool,
    pub resets: Option<Timestamp>,
    pub period_us: i64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::price::PriceTable;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn rule(name: &str, usd: &str, scope: BudgetScope, enforce: Enforce) -> Rule {
        Rule {
            name: name.into(),
            usd: usd.parse().unwrap(),
            per: Period::Day,
            scope,
            of: None,
            enforce,
            soft_thousandths: 800,
        }
    }

    /// Books in which every account that comes up has its whole budget at hand.
    fn books(rules: Vec<Rule>, values: &[(usize, &str)]) -> Books {
        let mut books = Books::default();
        books.set_rules(rules);
        for (rule, value) in values {
            let account = books.account(*rule, value, at("2026-11-23T10:00:00Z")).unwrap();
            books.accounts[account].granted = books.rules[*rule].usd.nanos();
            books.accounts[account].dry = true;
        }
        books
    }

    fn mini() -> Prices {
        let table = PriceTable::built_in();
        table.find("openai", "gpt-4o-mini").unwrap().prices[0].clone()
    }

    fn candidate(prices: &Prices) -> Candidate<'_> {
        let (model, output_tokens_max, tiers) = ("gpt-4o-mini", Some(16_384), &[Tier::Standard]);
        Candidate { provider: "openai", model, prices, output_tokens_max, tiers }
    }

    fn need(input: u64, max_tokens: Option<u64>) -> Need<'static> {
        Need {
            who: Who { key: "vk_1", person: "anna", project: "shop", route: "fast" },
            input_tokens_bound: input,
            max_tokens,
            max_tokens_default: 4096,
            choices: 1,
            generates: true,
            usual: Usd::from_nanos(50_000),
            now: at("2026-11-23T10:00:00Z"),
        }
    }

    #[test]
    fn periods_begin_and_end_at_midnight_utc() {
        for (per, now, start, end) in [
            (Period::Day, "2026-11-23T23:59:59.999999Z", "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"),
            (Period::Day, "2026-11-24T00:00:00Z", "2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z"),
            (Period::Month, "2026-02-28T12:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            (Period::Month, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Period::Month, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ] {
            let span = Span::of(per, at(now));
            assert_eq!(span.start_us, at(start).as_microsecond(), "{now}");
            assert_eq!(span.ends(), Some(at(end)), "{now}");
            assert_eq!(span.next(per).start_us, span.end_us, "{now}");
        }
        assert_eq!(Span::of(Period::Total, at("2026-01-01T00:00:00Z")).ends(), None);
    }

    #[test]
    fn two_hundred_threads_on_money_for_ten_let_in_ten() {
        let prices = mini();
        // 1000 × 0.15 + 1000 × 0.60 dollars a million: 750,000 nano-dollars each.
        let each = 750_000;
        let books = std::sync::Mutex::new(books(
            vec![
                rule("day", "0.0075", BudgetScope::Project, Enforce::Strict),
                rule("mine", "1", BudgetScope::Key, Enforce::Strict),
            ],
            &[(0, "shop"), (1, "vk_1")],
        ));
        let let_in = std::sync::atomic::AtomicUsize::new(0);
        let together = std::sync::Barrier::new(200);
        std::thread::scope(|scope| {
            for _ in 0..200 {
                scope.spawn(|| {
                    together.wait();
                    let taken = books.lock().unwrap().take(&need(1000, Some(1000)), &[candidate(&prices)]);
                    if let Ok(taken) = taken {
                        let_in.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(taken.bound, each);
                        assert_eq!(taken.max_tokens, None);
                        // The dearest end: everything that was allowed is used.
                        books.lock().unwrap().settle(&taken.parts, 1, |_, _| each);
                    }
                });
            }
        });
        assert_eq!(let_in.into_inner(), 10);
        let books = books.into_inner().unwrap();
        assert_eq!(books.accounts[0].spent, 7_500_000);
        assert_eq!((books.accounts[0].reserved, books.accounts[0].free()), (0, 0));
        assert_eq!(books.accounts[1].spent, 7_500_000);
    }

    #[test]
    fn what_fails_at_one_level_leaves_nothing_at_the_others() {
        let prices = mini();
        let mut books = books(
            vec![
                rule("mine", "1", BudgetScope::Key, Enforce::Strict),
                rule("anna", "0.0000001", BudgetScope::Person, Enforce::Strict),
            ],
            &[(0, "vk_1"), (1, "anna")],
        );
        let short = books.take(&need(1000, Some(1000)), &[candidate(&prices)]).unwrap_err();
        assert_eq!((&*short.budget, &*short.value), ("anna", "anna"));
        assert_eq!(short.resets, Some(at("2026-11-24T00:00:00Z")));
        assert!(!short.on_its_way);
        assert!(books.accounts.iter().all(|account| account.reserved == 0));
    }

    #[test]
    fn the_answer_is_bounded_to_what_the_budget_allows() {
        let prices = mini();
        let mut books =
            books(vec![rule("day", "0.00075", BudgetScope::Project, Enforce::Strict)], &[(0, "shop")]);
        // 750,000 nano-dollars; the prompt takes 150,000; 600 are one token of output.
        let taken = books.take(&need(1000, Some(5000)), &[candidate(&prices)]).unwrap();
        assert_eq!((taken.max_tokens, taken.bound), (Some(1000), 750_000));
        assert!(books.take(&need(1, Some(1)), &[candidate(&prices)]).is_err());
        books.settle(&taken.parts, 1, |_, _| 100_000);
        assert_eq!(books.accounts[0].free(), 650_000);
    }

    #[test]
    fn a_request_without_a_bound_does_not_swallow_what_is_left() {
        let prices = mini();
        let mut books =
            books(vec![rule("day", "0.02", BudgetScope::Project, Enforce::Strict)], &[(0, "shop")]);
        // The model's own 16,384 tokens would be half of it.
        let taken = books.take(&need(100, None), &[candidate(&prices)]).unwrap();
        assert_eq!(taken.max_tokens, Some(4096));
        let mut rich =
            self::books(vec![rule("day", "20", BudgetScope::Project, Enforce::Strict)], &[(0, "shop")]);
        assert_eq!(rich.take(&need(100, None), &[candidate(&prices)]).unwrap().max_tokens, Some(16_384));
    }

    #[test]
    fn a_budget_that_estimates_bounds_nothing_and_reports_its_overshoot() {
        let prices = mini();
        let mut books =
            books(vec![rule("day", "0.0001", BudgetScope::Project, Enforce::Estimate)], &[(0, "shop")]);
        let first = books.take(&need(1000, Some(5000)), &[candidate(&prices)]).unwrap();
        let second = books.take(&need(1000, Some(5000)), &[candidate(&prices)]).unwrap();
        assert_eq!(first.max_tokens, None);
        assert!(books.take(&need(1000, Some(5000)), &[candidate(&prices)]).is_err());
        books.settle(&first.parts, 1, |_, _| 90_000);
        books.settle(&second.parts, 1, |_, _| 90_000);
        // Two were in flight, each 40,000 above what was set aside.
        assert_eq!(books.accounts[0].overshoot, 80_000);
        assert!(books.take(&need(1000, Some(1)), &[candidate(&prices)]).is_err());
        let crossed = books.crossed();
        assert!(crossed[0].hard && crossed[0].overshoot.nanos() == 80_000);
        assert!(books.crossed().is_empty(), "told once");
    }

    #[test]
    fn a_providers_budget_bars_only_that_provider() {
        let prices = mini();
        let mut books = books(
            vec![rule("each", "0.001", BudgetScope::Provider, Enforce::Strict)],
            &[(0, "openai"), (0, "azure")],
        );
        books.accounts[0].spent = 1_000_000;
        let both = [candidate(&prices), Candidate { provider: "azure", ..candidate(&prices) }];
        let taken = books.take(&need(1000, Some(100)), &both).unwrap();
        assert_eq!(taken.barred, [0]);
        assert_eq!(taken.parts.len(), 1);
        books.accounts[1].spent = 1_000_000;
        let short = books.take(&need(1000, Some(100)), &both).unwrap_err();
        assert_eq!(&*short.budget, "each");
    }

    #[test]
    fn a_new_day_has_new_money_and_old_requests_do_not_touch_it() {
        let prices = mini();
        let mut books = books(vec![rule("day", "1", BudgetScope::Project, Enforce::Strict)], &[(0, "shop")]);
        let old = books.take(&need(1000, Some(1000)), &[candidate(&prices)]).unwrap();
        let tomorrow = at("2026-11-24T00:00:00Z").as_microsecond();
        books.accounts[0].dry = false;
        let wants = books.wants(tomorrow - 1_000_000, false);
        assert_eq!(wants.last().unwrap().span.start_us, tomorrow);
        books.accounts[0].next = Some((wants.last().unwrap().span, 7));
        books.roll(0, tomorrow);
        assert_eq!((books.accounts[0].granted, books.accounts[0].reserved), (7, 0));
        books.settle(&old.parts, 1, |_, _| 5);
        assert_eq!((books.accounts[0].spent, books.accounts[0].reserved), (0, 0));
    }

    #[test]
    fn another_attempt_needs_its_own_money() {
        let prices = mini();
        let mut books =
            books(vec![rule("day", "0.0015", BudgetScope::Project, Enforce::Strict)], &[(0, "shop")]);
        let taken = books.take(&need(1000, Some(1000)), &[candidate(&prices)]).unwrap();
        assert!(books.take_again(&taken.parts).is_ok());
        assert!(books.take_again(&taken.parts).is_err());
        books.settle(&taken.parts, 2, |_, _| 800_000);
        assert_eq!(books.accounts[0].free(), 700_000);
    }

    proptest! {
        // Whatever comes in whatever order: nothing is negative and no strict budget is overspent.
        #[test]
        fn a_strict_budget_is_never_overspent(
            budget in 1i64..5_000_000,
            steps in prop::collection::vec((0u64..4000, prop::option::of(1u64..4000), 0u64..101, prop::bool::ANY), 1..200),
        ) {
            let prices = mini();
            let mut books = books(
                vec![rule("day", "1", BudgetScope::Project, Enforce::Strict)], &[(0, "shop")],
            );
            books.accounts[0].granted = budget;
            let mut open: Vec<Taken> = Vec::new();
            for (input, max_tokens, percent, later) in steps {
                if let Ok(taken) = books.take(&need(input, max_tokens), &[candidate(&prices)]) {
                    let answer = taken.max_tokens.or(max_tokens).unwrap();
                    prop_assert_eq!(taken.bound, bound(&prices, input, answer, &[Tier::Standard]).nanos());
                    open.push(taken);
                }
                if !later && let Some(taken) = open.pop() {
                    let used = taken.bound * i64::try_from(percent).unwrap() / 100;
                    books.settle(&taken.parts, 1, |_, _| used);
                }
                let account = &books.accounts[0];
                prop_assert!(account.free() >= 0 && account.reserved >= 0);
                prop_assert!(account.spent + account.reserved <= budget);
            }
        }
    }
}
