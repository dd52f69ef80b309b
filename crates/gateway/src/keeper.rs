//! Slices of budgets in the state file: taken ahead of use, shared with other processes, renewed, given back, and
//! settled for processes that are gone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use contract::{Error, ErrorKind, Severity, SharedCounters, Slice, SliceSpent, TakeSlice, Trigger};
use jiff::Timestamp;
use ledger::{NewEvent, Row, Value, Write};
use serde::Deserialize;
use serde_json::json;
use wire::Usage;

use crate::accounts::{Alarm, Inner, Purse};
use crate::budget::{Books, Span, Want, scope_word};
use crate::price::Tier;
use crate::usage::{LOST, UsageRow, context, spend, write_rows};
use crate::usd::Usd;

/// A process that does not renew its slices for this long is gone, wherever it ran.
const SLICE_TTL: Duration = Duration::from_mins(2);
/// How long shared counters stay after their period, so that late words find them; and those without a period.
pub(crate) const KEEP_AFTER: Duration = Duration::from_hours(48);
pub(crate) const KEEP_TOTALS: Duration = Duration::from_hours(24 * 3650);
/// How long responses that were not deleted are kept by providers, and a day more, in microseconds.
/// Source: OpenAI API, guide "Conversation state": thirty days.
const RESPONSES_KEPT_US: i64 = 31 * 24 * 3_600_000_000;
/// Accounts in one write.
const LEASES_MAX: usize = 200;

const SEED: &str = include_str!("sql/seed_account.sql");
const TAKE: &str = include_str!("sql/take_slice.sql");
const OWN: &str = include_str!("sql/own_slices.sql");
/// A row that says who is here, also when there is nothing to take.
const REGISTER: &str = "INSERT INTO ai_slices (project, account, period_us, holder, amount_usd_nanos, spent_usd_nanos, \
     expires_us) VALUES (?, ?, ?, ?, 0, 0, ?) ON CONFLICT (project, account, period_us, holder) DO NOTHING";
/// What was taken from shared counters.
const REMEMBER: &str = "INSERT INTO ai_slices (project, account, period_us, holder, amount_usd_nanos, spent_usd_nanos, \
     expires_us) VALUES (?, ?, ?, ?, ?, 0, ?) ON CONFLICT (project, account, period_us, holder) \
     DO UPDATE SET amount_usd_nanos = excluded.amount_usd_nanos, expires_us = excluded.expires_us";
pub(crate) const SHRINK: &str = "UPDATE ai_slices SET amount_usd_nanos = amount_usd_nanos - ? \
     WHERE project = ? AND account = ? AND period_us = ? AND holder = ? AND amount_usd_nanos - spent_usd_nanos >= ?";
const RENEW: &str = "UPDATE ai_slices SET expires_us = ? WHERE holder = ?";
const GIVE_BACK: &str = "DELETE FROM ai_slices WHERE holder = ?";
const GIVE_BACK_OLD: &str =
    "DELETE FROM ai_slices WHERE holder = ? AND period_us > 0 AND period_us < ? AND project = ?";

/// Who this process is: the machine and its start, the process and its start, and a random part.
pub(crate) fn holder() -> String {
    let random = format!("{:016x}", crate::random::number());
    match here() {
        Some(here) => {
            format!("{here}/{}/{}/{random}", std::process::id(), started(std::process::id()).unwrap_or(0))
        }
        None => format!("?/{}/0/{random}", std::process::id()),
    }
}

/// The machine since its start and the namespace in which process ids mean something; `None` where neither is known.
fn here() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let space = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}-{}", boot.trim(), space.to_string_lossy()))
}

/// When a process began, in ticks since the machine's start.
///
/// Source: proc(5), field 22 of `/proc/[pid]/stat`; the name before it may hold anything but ends with a bracket.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Whether the process behind a holder is certainly gone.
pub(crate) fn is_gone(holder: &str) -> bool {
    let mut parts = holder.rsplitn(4, '/');
    let (_, began, pid, place) = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some(began), Some(pid), Some(place)) = (began, pid, place) else { return false };
    let (Ok(began), Ok(pid)) = (began.parse::<u64>(), pid.parse::<u32>()) else { return false };
    here().is_some_and(|here| here == place) && began > 0 && started(pid) != Some(began)
}

fn expiry(now: Timestamp) -> i64 {
    now.as_microsecond().saturating_add(i64::try_from(SLICE_TTL.as_micros()).unwrap_or(i64::MAX))
}

/// Takes money for the accounts that want some, and learns how they stand.
pub(crate) async fn lease(inner: &Inner, purse: &Arc<Purse>, ask_again: bool) -> Result<(), Error> {
    let now = inner.clock.now();
    let wants = purse.books().wants(now.as_microsecond(), ask_again);
    if wants.is_empty() && !ask_again {
        return Ok(());
    }
    if let Some(shared) = &inner.shared {
        return lease_shared(inner, &**shared, purse, wants, ask_again).await;
    }
    for wants in wants.chunks(LEASES_MAX) {
        let mut write = Write::new().unsynced();
        for want in wants {
            write = take(write, &purse.project, &inner.holder, want, now);
        }
        inner.ledger.write(&context(&purse.project, &inner.clock), write).await?;
    }
    if purse.books().accounts.is_empty() {
        return Ok(());
    }
    learn(inner, purse).await
}

/// The name of an account's period among shared counters.
pub(crate) fn counter(project: &str, account: &str, period_us: i64) -> String {
    format!("{project}/{account}/{period_us}")
}

/// The same from counters that several daemons share; the state file remembers what was taken.
async fn lease_shared(
    inner: &Inner,
    shared: &dyn SharedCounters,
    purse: &Arc<Purse>,
    wants: Vec<Want>,
    look: bool,
) -> Result<(), Error> {
    let now = inner.clock.now();
    let ctx = context(&purse.project, &inner.clock);
    publish(inner, shared, &purse.project).await?;
    let mut asks: Vec<(Arc<str>, Span, i64, i64)> =
        wants.into_iter().map(|want| (want.id, want.span, want.limit, want.needs)).collect();
    if look {
        // Others may have given something back, or want their part.
        let books = purse.books();
        for account in &books.accounts {
            let Some(rule) = books.rules.get(account.rule) else { continue };
            if !asks.iter().any(|(id, span, ..)| *id == account.id && *span == account.span) {
                asks.push((Arc::clone(&account.id), account.span, rule.usd.nanos(), 0));
            }
        }
    }
    let mut write = Write::new().unsynced();
    for (id, span, limit, needs) in asks {
        let name = counter(&purse.project, &id, span.start_us);
        let keep_for = match span.end_us {
            i64::MAX => KEEP_TOTALS,
            end => Duration::from_micros((end - now.as_microsecond()).unsigned_abs()) + KEEP_AFTER,
        };
        let mut ask = TakeSlice { counter: &name, holder: &inner.holder, limit, needs, keep_for };
        let (slice, spare) = loop {
            let handed_over = purse.books().handed_over;
            let slice = shared.take(&ctx, &ask).await?;
            let mut books = purse.books();
            if books.handed_over == handed_over {
                break (slice, note_slice(&mut books, &id, span, limit, &slice));
            }
            // What was taken shows in the next answer as well.
            ask.needs = 0;
        };
        let Some(spare) = spare else { continue };
        if spare > 0 {
            shared.give_back(&ctx, &name, &inner.holder, spare).await?;
        }
        write = write.exec(
            REMEMBER,
            vec![
                (&*purse.project).into(),
                (&*id).into(),
                span.start_us.into(),
                (&inner.holder).into(),
                (slice.amount - spare).into(),
                expiry(now).into(),
            ],
        );
    }
    inner.ledger.write(&ctx, write).await.map(drop)
}

/// Notes how an account stands at shared counters, and says how much of its slice goes back for the others to have.
/// `None`: there is no such account any more.
fn note_slice(books: &mut Books, id: &str, span: Span, limit: i64, slice: &Slice) -> Option<i64> {
    let account = books.accounts.iter_mut().find(|account| &*account.id == id)?;
    if account.span != span {
        account.next = Some((span, slice.amount));
        return Some(0);
    }
    account.granted = slice.amount;
    account.spent_in_all = slice.spent_in_all;
    account.for_jobs = slice.held_for_jobs;
    account.dry = limit - slice.spent_in_all - slice.held_in_all <= 0;
    let fair = (slice.held_in_all - slice.held_for_jobs) / (i64::from(slice.others) + 1);
    let spare = account.free() - fair.max(account.thirst);
    if account.free() >= account.thirst {
        account.thirst = 0;
    }
    if slice.others == 0 || spare <= 0 || spare <= fair / 8 {
        return Some(0);
    }
    account.granted -= spare;
    Some(spare)
}

/// Tells the others what this process has written as used.
async fn publish(inner: &Inner, shared: &dyn SharedCounters, project: &str) -> Result<(), Error> {
    let rows = inner
        .ledger
        .query(
            "SELECT account, period_us, spent_usd_nanos FROM ai_slices WHERE holder = ? AND project = ? AND spent_usd_nanos > 0",
            vec![(&inner.holder).into(), project.into()],
        )
        .await?;
    let ctx = context(project, &inner.clock);
    for row in rows {
        let name = counter(project, row.get_text("account")?, row.get_i64("period_us")?);
        let spent = row.get_i64("spent_usd_nanos")?;
        shared.spend(&ctx, &SliceSpent { counter: &name, holder: &inner.holder, spent }).await?;
    }
    Ok(())
}

/// Settles the slices of a holder at the shared counters; `more` is spent beside what the rows say.
pub(crate) async fn settle_shared(
    inner: &Inner,
    holder: &str,
    more: &HashMap<(String, String, i64), i64>,
) -> Result<(), Error> {
    let Some(shared) = &inner.shared else { return Ok(()) };
    let rows = inner
        .ledger
        .query(
            "SELECT project, account, period_us, spent_usd_nanos FROM ai_slices WHERE holder = ?",
            vec![holder.into()],
        )
        .await?;
    for row in rows {
        let (project, account) = (row.get_text("project")?, row.get_text("account")?);
        let period_us = row.get_i64("period_us")?;
        let also = more.get(&(project.to_owned(), account.to_owned(), period_us)).copied().unwrap_or(0);
        let spent = row.get_i64("spent_usd_nanos")?.saturating_add(also);
        let name = counter(project, account, period_us);
        let ctx = context(project, &inner.clock);
        shared.settle(&ctx, &SliceSpent { counter: &name, holder, spent }).await?;
    }
    Ok(())
}

fn take(write: Write, project: &str, holder: &str, want: &Want, now: Timestamp) -> Write {
    let (account, period) = (&*want.id, want.span.start_us);
    let whose = || -> Vec<Value> { vec![project.into(), account.into(), period.into()] };
    let mut seed = whose();
    seed.extend([project.into(), want.span.start_us.into(), want.span.end_us.into()]);
    seed.extend([scope_word(want.scope).into(), (&*want.value).into()]);
    seed.extend(whose());
    let mut taken = whose();
    taken.extend([holder.into(), expiry(now).into(), want.needs.into(), want.limit.into()]);
    taken.extend(whose());
    taken.extend(whose());
    taken.extend(whose());
    taken.push(holder.into());
    let mut register = whose();
    register.extend([holder.into(), expiry(now).into()]);
    write.exec(SEED, seed).exec(TAKE, taken).exec(REGISTER, register)
}

/// Reads what this process holds and what is left.
async fn learn(inner: &Inner, purse: &Arc<Purse>) -> Result<(), Error> {
    loop {
        let handed_over = purse.books().handed_over;
        let rows = inner.ledger.query(OWN, vec![(&inner.holder).into(), (&*purse.project).into()]).await?;
        let mut found: HashMap<(String, i64), Own> = HashMap::new();
        for row in &rows {
            found.insert((row.get_text("account")?.to_owned(), row.get_i64("period_us")?), Own::read(row)?);
        }
        if note_rows(&mut purse.books(), handed_over, &found) {
            return Ok(());
        }
    }
}

/// Notes how the accounts stand by rows that were read when money had been handed over so often. Whether that is still so:
/// otherwise the rows may count as ours what a job has, and nothing is noted.
fn note_rows(books: &mut Books, handed_over: u64, found: &HashMap<(String, i64), Own>) -> bool {
    if books.handed_over != handed_over {
        return false;
    }
    for account in &mut books.accounts {
        let Some(rule) = books.rules.get(account.rule) else { continue };
        if let Some(held) = found.get(&(account.id.to_string(), account.span.start_us)) {
            account.granted = held.amount;
            // What this process used and has not written yet is not in the file's sum.
            account.spent_in_all = held.spent_in_all + (account.spent - held.spent).max(0);
            account.for_jobs = held.for_jobs;
            account.dry = rule.usd.nanos() - held.spent_in_all - held.in_slices <= 0;
            if account.free() >= account.thirst {
                account.thirst = 0;
            }
        }
        let next = account.span.next(rule.per);
        if let Some(held) = found.get(&(account.id.to_string(), next.start_us))
            && next != account.span
        {
            account.next = Some((next, held.amount));
        }
    }
    true
}

struct Own {
    amount: i64,
    spent: i64,
    spent_in_all: i64,
    in_slices: i64,
    others: i64,
    for_jobs: i64,
}

impl Own {
    fn read(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            amount: row.get_i64("amount_usd_nanos")?,
            spent: row.get_i64("spent_usd_nanos")?,
            spent_in_all: row.get_i64("spent_in_all")?,
            in_slices: row.get_i64("held_in_all")?,
            others: row.get_i64("others")?,
            for_jobs: row.get_i64("for_jobs")?,
        })
    }
}

/// Gives other processes of the same state their part of what this one does not use.
pub(crate) async fn share(inner: &Inner) -> Result<(), Error> {
    if inner.shared.is_some() {
        return Ok(()); // Done with each look at the counters.
    }
    for purse in inner.all_purses() {
        if purse.books().accounts.is_empty() {
            continue;
        }
        let rows = inner.ledger.query(OWN, vec![(&inner.holder).into(), (&*purse.project).into()]).await?;
        let mut shared: HashMap<(String, i64), Own> = HashMap::new();
        for row in &rows {
            let held = Own::read(row)?;
            if held.others > 0 {
                shared.insert((row.get_text("account")?.to_owned(), row.get_i64("period_us")?), held);
            }
        }
        if shared.is_empty() {
            continue;
        }
        let mut given = Vec::new();
        {
            let mut books = purse.books();
            for account in &mut books.accounts {
                let Some(held) = shared.get(&(account.id.to_string(), account.span.start_us)) else {
                    continue;
                };
                let fair = (held.in_slices - held.for_jobs) / (held.others + 1);
                let spare = account.free() - fair.max(account.thirst);
                // Small differences are not worth a write.
                if spare > fair / 8 && spare > 0 {
                    account.granted -= spare;
                    given.push((Arc::clone(&account.id), account.span.start_us, spare));
                }
            }
        }
        if given.is_empty() {
            continue;
        }
        let mut write = Write::new().unsynced();
        for (account, period_us, spare) in &given {
            write = write.exec(
                SHRINK,
                vec![
                    (*spare).into(),
                    (&*purse.project).into(),
                    (&**account).into(),
                    (*period_us).into(),
                    (&inner.holder).into(),
                    (*spare).into(),
                ],
            );
        }
        let result = inner.ledger.write(&context(&purse.project, &inner.clock), write).await;
        // The file says what is held now, whether that was written or not.
        learn(inner, &purse).await?;
        result?;
    }
    Ok(())
}

/// Says that this process lives, and gives back what belongs to periods that are over.
pub(crate) async fn renew(inner: &Inner) -> Result<(), Error> {
    let now = inner.clock.now();
    let mut write = Write::new().unsynced().exec(RENEW, vec![expiry(now).into(), (&inner.holder).into()]);
    let mut project = None;
    for purse in inner.all_purses() {
        let oldest =
            purse.books().accounts.iter().map(|account| account.span.start_us).filter(|at| *at > 0).min();
        if let Some(oldest) = oldest {
            write = write
                .exec(GIVE_BACK_OLD, vec![(&inner.holder).into(), oldest.into(), (&*purse.project).into()]);
        }
        project = Some(Arc::clone(&purse.project));
    }
    let Some(project) = project else { return Ok(()) };
    inner.ledger.write(&context(&project, &inner.clock), write).await.map(drop)
}

/// Gives everything back at the end.
pub(crate) async fn give_back(inner: &Inner) -> Result<(), Error> {
    settle_shared(inner, &inner.holder, &HashMap::new()).await?;
    let write = Write::new().unsynced().exec(GIVE_BACK, vec![(&inner.holder).into()]);
    let projects = inner.all_purses();
    let project = projects.first().map_or("", |purse| &*purse.project);
    inner.ledger.write(&context(project, &inner.clock), write).await.map(drop)
}

/// What a reservation says beside its columns.
#[derive(Debug, Deserialize)]
struct Open {
    key_id: String,
    key_name: String,
    person: String,
    route: String,
    provider: String,
    model: String,
    operation: String,
    price_table: String,
    draws: Vec<(String, i64, i64)>,
}

/// Takes as spent what processes that are gone had set aside for requests under way, and gives the rest of their slices
/// back.
pub(crate) async fn recover(inner: &Inner) -> Result<(), Error> {
    let now = inner.clock.now();
    let holders = inner
        .ledger
        .query(
            "SELECT holder, MAX(expires_us) AS expires_us FROM (
                 SELECT holder, expires_us FROM ai_slices
                 UNION ALL
                 SELECT r.holder, r.at_us + 120000000 FROM ai_reservations AS r
                 WHERE NOT EXISTS (SELECT 1 FROM ai_slices AS s WHERE s.holder = r.holder)) AS known
             GROUP BY holder",
            Vec::new(),
        )
        .await?;
    for row in holders {
        let holder = row.get_text("holder")?;
        let expired = row.get_i64("expires_us")? <= now.as_microsecond();
        if holder != inner.holder && (expired || is_gone(holder)) {
            match settle_for(inner, holder, now).await {
                // Another process was faster.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Forgets whose responses were that providers have deleted by themselves.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn forget_responses(inner: &Inner) -> Result<(), Error> {
    let before = inner.clock.now().as_microsecond().saturating_sub(RESPONSES_KEPT_US);
    let old = inner
        .ledger
        .query("SELECT 1 FROM ai_things WHERE kind = 'response' AND made_us < ? LIMIT 1", vec![before.into()])
        .await?;
    if old.is_empty() {
        return Ok(());
    }
    let write = Write::new()
        .unsynced()
        .exec("DELETE FROM ai_things WHERE kind = 'response' AND made_us < ?", vec![before.into()]);
    inner.ledger.write(&context("", &inner.clock), write).await.map(drop)
}

async fn settle_for(inner: &Inner, holder: &str, now: Timestamp) -> Result<(), Error> {
    let open = inner
        .ledger
        .query(
            "SELECT id, project, at_us, usd_nanos, body FROM ai_reservations WHERE holder = ? ORDER BY at_us, id",
            vec![holder.into()],
        )
        .await?;
    let slices = inner
        .ledger
        .query(
            "SELECT project, SUM(amount_usd_nanos - spent_usd_nanos) AS held FROM ai_slices WHERE holder = ? GROUP BY project",
            vec![holder.into()],
        )
        .await?;
    let mut projects: BTreeSet<String> = BTreeSet::new();
    for row in open.iter().chain(&slices) {
        projects.insert(row.get_text("project")?.to_owned());
    }
    let mut also: HashMap<(String, String, i64), i64> = HashMap::new();
    for row in &open {
        let body: Open = row.get_json("body")?;
        for (account, period_us, amount) in body.draws {
            *also.entry((row.get_text("project")?.to_owned(), account, period_us)).or_default() += amount;
        }
    }
    // Before the rows go: said twice it does no harm, and not said the money would stay held.
    settle_shared(inner, holder, &also).await?;
    for project in projects {
        let mut write = Write::new();
        let mut rows = Vec::new();
        for row in open.iter().filter(|row| row.get_text("project").is_ok_and(|of| of == project)) {
            let id = row.get_text("id")?;
            let body: Open = row.get_json("body")?;
            // Only one process may do this.
            write = write.exec_expecting(
                "DELETE FROM ai_reservations WHERE id = ? AND holder = ?",
                vec![id.into(), holder.into()],
                1,
            );
            for (account, period_us, amount) in &body.draws {
                write = spend(write, &project, account, *period_us, *amount);
            }
            rows.push(lost(id, &project, row.get_time("at_us")?, row.get_i64("usd_nanos")?, body, now));
        }
        let taken: i64 = rows.iter().map(|row| row.cost.nanos()).sum();
        let held: i64 = slices
            .iter()
            .filter(|row| row.get_text("project").is_ok_and(|of| of == project))
            .map(|row| row.get_i64("held"))
            .sum::<Result<_, _>>()?;
        write = write.exec(
            "DELETE FROM ai_slices WHERE holder = ? AND project = ?",
            vec![holder.into(), (&project).into()],
        );
        write = write_rows(write, &project, &rows);
        if rows.is_empty() && held == 0 {
            inner.ledger.write(&context(&project, &inner.clock), write.unsynced()).await?;
            continue;
        }
        let body = json!({
            "holder": holder, "requests": rows.len(), "taken_as_spent_usd_nanos": taken,
            "slices_given_back_usd_nanos": held,
        });
        write = write.event(NewEvent::new("ai.usage.recovered", format!("project:{project}"), body));
        inner.ledger.write(&context(&project, &inner.clock), write).await?;
        tracing::warn!(
            project,
            requests = rows.len(),
            taken_as_spent_usd_nanos = taken,
            "a process ended without settling its AI calls; what was set aside for them is taken as spent"
        );
        if !rows.is_empty() {
            inner.tell(Alarm {
                project: project.clone(),
                trigger: Trigger::AiApiFailure,
                severity: Severity::Warning,
                title: format!("{} AI calls were cut off when a process ended", rows.len()),
                detail: format!(
                    "{} USD that were set aside for them are taken as spent; `steward ai reconcile` compares with the \
                     provider's own count",
                    Usd::from_nanos(taken)
                ),
                subject: format!("project:{project}"),
                dedup_key: format!("ai-recovered:{project}:{holder}"),
            });
        }
    }
    Ok(())
}

fn lost(id: &str, project: &str, at: Timestamp, amount: i64, open: Open, now: Timestamp) -> UsageRow {
    let operation = ["chat", "embeddings", "batches", "fine_tuning", "pass_through"];
    UsageRow {
        id: id.to_owned(),
        project: project.into(),
        at,
        key_id: open.key_id.into(),
        key_name: open.key_name.into(),
        person: open.person.into(),
        route: open.route.into(),
        provider: open.provider.into(),
        model: open.model.into(),
        operation: operation.into_iter().find(|known| *known == open.operation).unwrap_or("other"),
        streaming: false,
        tier: Tier::Standard,
        usage: Usage::default(),
        estimated: 2,
        cost: Usd::from_nanos(amount),
        price_row: String::new(),
        price_table: open.price_table.into(),
        ending: LOST,
        status: 0,
        cache: "off",
        first_byte_us: None,
        took_us: now.as_microsecond().saturating_sub(at.as_microsecond()).max(0),
        receipt: json!({ "set_aside_usd_nanos": amount, "attempts": [] }).to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Part, Rule};
    use crate::config::{BudgetScope, Enforce, Period};

    #[test]
    fn rows_that_were_read_before_a_job_had_its_money_are_not_noted() {
        let mut books = Books::default();
        books.set_rules(vec![Rule {
            name: "day".into(),
            usd: Usd::from_nanos(1000),
            per: Period::Day,
            scope: BudgetScope::Project,
            of: None,
            enforce: Enforce::Strict,
            soft_thousandths: 800,
        }]);
        let account = books.account(0, "shop", "2026-11-23T10:00:00Z".parse().unwrap()).unwrap();
        let held = &mut books.accounts[account];
        (held.granted, held.reserved) = (1000, 400);
        let (id, period_us) = (held.id.to_string(), held.span.start_us);
        let own = Own { amount: 1000, spent: 0, spent_in_all: 0, in_slices: 1000, others: 0, for_jobs: 0 };
        let rows = HashMap::from([((id, period_us), own)]);
        let before = books.handed_over;
        assert!(note_rows(&mut books, before, &rows));
        books.hand_over(&[Part { account, period_us, amount: 400 }]);
        assert!(!note_rows(&mut books, before, &rows));
        assert_eq!(books.accounts[account].free(), 600);
    }

    #[test]
    fn a_process_that_runs_is_not_gone_and_one_that_ended_is() {
        let own = holder();
        assert!(!is_gone(&own), "{own}");
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let theirs = format!("{}/{}/{}/0", here().unwrap(), child.id(), started(child.id()).unwrap());
        assert!(!is_gone(&theirs));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(&theirs));
        // Of another machine nothing is known.
        assert!(!is_gone(&format!("elsewhere/{}/1/0", u32::MAX)));
        assert!(!is_gone("nonsense"));
    }
}
