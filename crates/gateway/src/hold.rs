//! Money for work that takes hours: set aside when a job is let in, and held by the job itself in the state file until it
//! ends, whatever becomes of the process.
//!
//! What a job holds is a slice of each budget that it falls under, as a process holds slices, with the job as its holder.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use contract::{Error, ErrorKind, SharedCounters, SliceSpent, TakeSlice};
use jiff::Timestamp;
use ledger::Write;
use serde::{Deserialize, Serialize};

use crate::accounts::{Accounts, Inner, Purse, refuse, short_refusal, unwritable};
use crate::budget::{Amount, Part, Span, Who};
use crate::config::BudgetScope;
use crate::keeper::{KEEP_AFTER, KEEP_TOTALS, SHRINK, counter, settle_shared};
use crate::meter::{Metering, Refusal};
use crate::usage::{context, spend};

/// How often money that is on its way, or that somebody else just took, is tried for again.
const TRIES_MAX: usize = 4;
/// Jobs have no time by which they are gone.
const NEVER: i64 = i64::MAX;

const TAKE_OVER: &str = "INSERT INTO ai_slices (project, account, period_us, holder, amount_usd_nanos, spent_usd_nanos, \
     expires_us) VALUES (?, ?, ?, ?, ?, 0, ?)";
const SHRINK_ANYHOW: &str = "UPDATE ai_slices SET amount_usd_nanos = amount_usd_nanos - ? \
     WHERE project = ? AND account = ? AND period_us = ? AND holder = ?";
const LET_GO: &str = "DELETE FROM ai_slices WHERE holder = ?";

/// What a job holds of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Draw {
    pub account: String,
    pub period_us: i64,
    pub usd_nanos: i64,
    /// The model whose budget it is, where it is a model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// What a job may cost with one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Charge {
    pub model: String,
    /// The most that it can cost.
    pub bound_usd_nanos: i64,
    /// What it is likely to cost.
    pub usual_usd_nanos: i64,
}

/// For whom and for what money is held.
pub(crate) struct Asked<'a> {
    pub job: &'a str,
    pub project: &'a str,
    pub who: Who<'a>,
    pub provider: &'a str,
    pub charges: &'a [Charge],
    pub now: Timestamp,
}

/// The name under which a job holds slices.
fn holder(job: &str) -> String {
    format!("job/{job}")
}

/// A part with what is needed to take it over.
struct Named {
    draw: Draw,
    span: Span,
    limit: i64,
}

/// Why the money did not come to the job.
enum Missed {
    /// Somebody else was faster.
    Faster,
    Broken(Error),
}

/// Sets money aside and hands it over to the job, in the same write as `record`, which is made from what is held.
///
/// # Errors
///
/// The budget that has too little and when it begins anew; or that the state file cannot be written.
pub(crate) async fn hold(
    accounts: &Accounts,
    asked: &Asked<'_>,
    record: impl Fn(&[Draw]) -> Write + Send + Sync,
) -> Result<Vec<Draw>, Box<Refusal>> {
    let inner = accounts.inner();
    let unavailable = |why: &str| {
        let status = http::StatusCode::SERVICE_UNAVAILABLE;
        refuse(why, "accounts_unavailable", status, Some(Duration::from_secs(1)))
    };
    let Some(purse) = inner.known_purse(asked.project) else {
        return Err(unavailable("the accounts of this project are not open yet"));
    };
    let mut tries = 0;
    loop {
        tries += 1;
        let amounts: Vec<Amount<'_>> = asked
            .charges
            .iter()
            .map(|charge| Amount {
                model: &charge.model,
                bound: charge.bound_usd_nanos,
                usual: charge.usual_usd_nanos,
            })
            .collect();
        let taken = purse.books().take_amounts(asked.who, asked.provider, &amounts, asked.now);
        let parts = match taken {
            Ok(parts) => parts,
            Err(short) if short.on_its_way && tries < TRIES_MAX => {
                accounts.replenished().await;
                continue;
            }
            Err(short) => return Err(short_refusal(&short, asked.now)),
        };
        let named = named(&purse, &parts);
        let draws: Vec<Draw> = named.iter().map(|named| named.draw.clone()).collect();
        match take_over(inner, asked, &named, record(&draws)).await {
            Ok(()) => {
                purse.books().hand_over(&parts);
                return Ok(draws);
            }
            Err(Missed::Faster) => {
                give_up(&purse, inner, &parts);
                if tries >= TRIES_MAX {
                    return Err(unavailable("the budgets are changing just now; try again"));
                }
                accounts.replenished().await;
            }
            Err(Missed::Broken(error)) => {
                give_up(&purse, inner, &parts);
                return Err(unwritable(Some(&error)));
            }
        }
    }
}

/// With shared counters parts may be gone from this process already; the next look at them says how much it has.
fn give_up(purse: &Purse, inner: &Inner, parts: &[Part]) {
    if inner.shared.is_some() {
        purse.books().hand_over(parts);
    } else {
        purse.books().settle(parts, 1, |_, _| 0);
    }
}

fn named(purse: &Purse, parts: &[Part]) -> Vec<Named> {
    let books = purse.books();
    let of = |part: &Part| {
        let account = &books.accounts[part.account];
        let rule = books.rules.get(account.rule)?;
        Some(Named {
            draw: Draw {
                account: account.id.to_string(),
                period_us: part.period_us,
                usd_nanos: part.amount,
                model: (rule.scope == BudgetScope::Model).then(|| account.value.to_string()),
            },
            span: account.span,
            limit: rule.usd.nanos(),
        })
    };
    parts.iter().filter_map(of).collect()
}

async fn take_over(
    inner: &Arc<Inner>,
    asked: &Asked<'_>,
    named: &[Named],
    mut write: Write,
) -> Result<(), Missed> {
    let ctx = context(asked.project, &inner.clock);
    let holder = holder(asked.job);
    if let Some(shared) = &inner.shared
        && let Err(missed) = take_shared(inner, &**shared, asked, &holder, named).await
    {
        withdraw_shared(inner, &**shared, asked, &holder, named).await;
        return Err(missed);
    }
    for Named { draw, .. } in named {
        let (account, period, amount) = (draw.account.as_str(), draw.period_us, draw.usd_nanos);
        let own =
            vec![amount.into(), asked.project.into(), account.into(), period.into(), (&inner.holder).into()];
        write = if inner.shared.is_some() {
            write.exec(SHRINK_ANYHOW, own)
        } else {
            let mut own = own;
            own.push(amount.into());
            write.exec_expecting(SHRINK, own, 1)
        };
        write = write.exec(
            TAKE_OVER,
            vec![
                asked.project.into(),
                account.into(),
                period.into(),
                holder.as_str().into(),
                amount.into(),
                NEVER.into(),
            ],
        );
    }
    match inner.ledger.write(&ctx, write).await {
        Ok(_) => Ok(()),
        Err(error) => {
            if let Some(shared) = &inner.shared {
                withdraw_shared(inner, &**shared, asked, &holder, named).await;
            }
            Err(if error.kind() == ErrorKind::Conflict { Missed::Faster } else { Missed::Broken(error) })
        }
    }
}

/// This process gives its part back and the job takes it. Somebody else may take it between the two: then the job is not
/// let in, and nothing is overspent.
async fn take_shared(
    inner: &Inner,
    shared: &dyn SharedCounters,
    asked: &Asked<'_>,
    holder: &str,
    named: &[Named],
) -> Result<(), Missed> {
    let ctx = context(asked.project, &inner.clock);
    for Named { draw, span, limit } in named {
        let name = counter(asked.project, &draw.account, draw.period_us);
        shared.give_back(&ctx, &name, &inner.holder, draw.usd_nanos).await.map_err(Missed::Broken)?;
        let keep_for = match span.end_us {
            i64::MAX => KEEP_TOTALS,
            end => Duration::from_micros((end - asked.now.as_microsecond()).unsigned_abs()) + KEEP_AFTER,
        };
        let ask = TakeSlice { counter: &name, holder, limit: *limit, needs: draw.usd_nanos, keep_for };
        let slice = shared.take(&ctx, &ask).await.map_err(Missed::Broken)?;
        let spare = slice.amount - draw.usd_nanos;
        if spare > 0 {
            shared.give_back(&ctx, &name, holder, spare).await.map_err(Missed::Broken)?;
        }
        if spare < 0 {
            return Err(Missed::Faster);
        }
    }
    Ok(())
}

/// The job is not let in: it holds nothing any more, whatever it had taken.
async fn withdraw_shared(
    inner: &Inner,
    shared: &dyn SharedCounters,
    asked: &Asked<'_>,
    holder: &str,
    named: &[Named],
) {
    let ctx = context(asked.project, &inner.clock);
    for Named { draw, .. } in named {
        let name = counter(asked.project, &draw.account, draw.period_us);
        if let Err(error) = shared.settle(&ctx, &SliceSpent { counter: &name, holder, spent: 0 }).await {
            tracing::warn!(%error, job = asked.job, "a job that was not let in still holds money at the shared counters");
        }
    }
}

/// Ends what a job holds: `spent` says what it came to at each account, the rest is free. `write` comes with it.
///
/// # Errors
///
/// As the ledger's; `Conflict`: another process was faster.
pub(crate) async fn let_go(
    accounts: &Accounts,
    project: &str,
    job: &str,
    draws: &[Draw],
    spent: impl Fn(&Draw) -> i64,
    mut write: Write,
) -> Result<(), Error> {
    let inner = accounts.inner();
    let holder = holder(job);
    let mut also: HashMap<(String, String, i64), i64> = HashMap::new();
    for draw in draws {
        *also.entry((project.to_owned(), draw.account.clone(), draw.period_us)).or_default() += spent(draw);
    }
    // Before the rows go: said twice it does no harm, and not said the money would stay held.
    settle_shared(inner, &holder, &also).await?;
    write = write.exec(LET_GO, vec![holder.into()]);
    for ((_, account, period_us), spent) in &also {
        if *spent > 0 {
            write = self::spend(write, project, account, *period_us, *spent);
        }
    }
    inner.ledger.write(&context(project, &inner.clock), write).await?;
    inner.outbox.wake.notify_one();
    Ok(())
}
