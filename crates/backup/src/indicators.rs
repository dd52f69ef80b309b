//! How the backups of a store stand against what they should be: by the ledger alone, so that it can be asked at any time.

use contract::quantity::span;
use contract::{Context, Error, Finding, Severity};
use jiff::{SignedDuration, Timestamp};
use ledger::Ledger;
use serde::Serialize;

use crate::catalog::{self, age_s};
use crate::config::Objectives;
use crate::drilled;
use crate::logs;
use crate::run::point;

/// How far back runs are counted, in days.
const DAYS: i64 = 30;

const COUNT: &str = "SELECT COUNT(*) AS runs, SUM(CASE WHEN state <> 'failed' AND level IN ('l3', 'l4') AND problem IS NULL \
     THEN 1 ELSE 0 END) AS succeeded FROM backups WHERE project = ? AND store = ? AND state <> 'running' \
     AND begun_us >= ? AND begun_us <= ?";
const FIRST: &str = "SELECT MIN(begun_us) AS first_us FROM backups WHERE project = ? AND store = ?";
const AHEAD: &str = "SELECT id, COALESCE(point_us, begun_us) AS dated_us FROM backups WHERE project = ? AND store = ? \
     AND state = 'complete' AND (begun_us > ? OR point_us > ?) ORDER BY dated_us DESC";

/// The share of backups that should come to their end, be restored and be compared.
const SUCCESS_OBJECTIVE: f64 = 1.0;

/// The numbers of a store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Indicators {
    /// The newest backup that was restored and compared.
    pub proven: Option<String>,
    /// The moment whose state it holds.
    pub proven_point: Option<Timestamp>,
    /// The newest moment that can be restored: that of the proven backup, or to which the log kept behind one leads.
    pub recovery_point: Option<Timestamp>,
    /// How much work would be lost now, in seconds; none where nothing was restored and compared.
    pub rpo_s: Option<u64>,
    /// Most that may be lost, in seconds.
    pub rpo_objective_s: u64,
    /// How long the last restore of the proven backup took, in milliseconds.
    pub restore_ms: Option<u64>,
    /// How long its next restore is expected to take, in milliseconds.
    pub forecast_ms: Option<u64>,
    /// Longest that it should take, in seconds.
    pub rto_objective_s: u64,
    /// When the proven backup was restored and compared.
    pub verified_at: Option<Timestamp>,
    /// How old the state is that the proven backup holds, in seconds.
    pub verified_age_s: Option<u64>,
    /// Backups that were begun in the last 30 days and ended, however they did.
    pub runs_30d: u64,
    /// Those that came to their end, were restored and compared, and are without a fault.
    pub succeeded_30d: u64,
    /// The share of them; none where none was begun.
    pub success_rate_30d: Option<f64>,
    /// The share that should be.
    pub success_objective: f64,
}

impl Indicators {
    /// The numbers of a store whose plan has these objectives.
    ///
    /// The log counts as far as its follower last said: the repository is not asked.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub async fn of(
        ctx: &Context,
        ledger: &Ledger,
        store: &str,
        objectives: Objectives,
    ) -> Result<Self, Error> {
        let now = ctx.now();
        let proven = catalog::newest_proven(ctx, ledger, store).await?;
        let until = logs::known_until(ctx, ledger, store).await?;
        let recovery_point = proven.as_ref().map(point).into_iter().chain(until).max();
        let forecast_ms = match proven.as_ref().and_then(|backup| backup.bytes) {
            Some(bytes) => drilled::forecast(ctx, ledger, store, bytes).await?,
            None => None,
        };
        let (runs_30d, succeeded_30d) = counted(ctx, ledger, store).await?;
        #[allow(clippy::cast_precision_loss)] // Nobody makes that many.
        let success_rate_30d = (runs_30d > 0).then(|| succeeded_30d as f64 / runs_30d as f64);
        Ok(Self {
            proven_point: proven.as_ref().map(point),
            recovery_point,
            rpo_s: recovery_point.map(|point| age_s(now, point)),
            rpo_objective_s: u64::from(objectives.rpo_minutes) * 60,
            restore_ms: proven.as_ref().and_then(|backup| backup.restore_ms),
            forecast_ms,
            rto_objective_s: u64::from(objectives.rto_minutes) * 60,
            verified_at: proven.as_ref().and_then(|backup| backup.verified_at),
            verified_age_s: proven.as_ref().map(|backup| age_s(now, point(backup))),
            runs_30d,
            succeeded_30d,
            success_rate_30d,
            success_objective: SUCCESS_OBJECTIVE,
            proven: proven.map(|backup| backup.id),
        })
    }

    /// The share of backups that succeeded, in words; none where none was begun.
    pub fn success_said(&self) -> Option<String> {
        let rate = self.success_rate_30d?;
        Some(format!(
            "{} of {} backups in {DAYS} days succeeded ({:.1} %; the objective is {:.0} %)",
            self.succeeded_30d,
            self.runs_30d,
            rate * 100.0,
            self.success_objective * 100.0
        ))
    }

    /// Whether more work would be lost than may be.
    pub fn is_too_old(&self) -> bool {
        self.rpo_s.is_some_and(|rpo_s| rpo_s > self.rpo_objective_s)
    }
}

/// Backups of the last days that ended, and those of them that succeeded. One that was deleted since keeps what it was.
async fn counted(ctx: &Context, ledger: &Ledger, store: &str) -> Result<(u64, u64), Error> {
    let since = ctx.now().checked_sub(SignedDuration::from_hours(24 * DAYS)).unwrap_or(Timestamp::MIN);
    let (since, until) = (since.as_microsecond(), catalog::latest(ctx.now()).as_microsecond());
    let parameters = vec![ctx.project().into(), store.into(), since.into(), until.into()];
    let rows = ledger.query(COUNT, parameters).await?;
    let number = |name: &str| -> Result<u64, Error> {
        let count = rows.first().map(|row| row.get_opt_i64(name)).transpose()?.flatten();
        Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    };
    Ok((number("runs")?, number("succeeded")?))
}

/// Whether the first backup of a store was begun longer ago than work may be lost.
pub(crate) async fn is_overdue(
    ctx: &Context,
    ledger: &Ledger,
    store: &str,
    age_max_s: u64,
) -> Result<bool, Error> {
    let rows = ledger.query(FIRST, vec![ctx.project().into(), store.into()]).await?;
    let first = rows.first().map(|row| row.get_opt_time("first_us")).transpose()?.flatten();
    Ok(first.is_some_and(|first| age_s(ctx.now(), first) > age_max_s))
}

/// Backups that a clock that ran ahead has dated, as a finding.
pub(crate) async fn ahead(ctx: &Context, ledger: &Ledger, store: &str) -> Result<Option<Finding>, Error> {
    let latest = catalog::latest(ctx.now()).as_microsecond();
    let parameters = vec![ctx.project().into(), store.into(), latest.into(), latest.into()];
    let rows = ledger.query(AHEAD, parameters).await?;
    let Some(newest) = rows.first() else { return Ok(None) };
    let by_s = age_s(newest.get_time("dated_us")?, ctx.now());
    let ids = rows.iter().map(|row| row.get_text("id")).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Finding {
        code: "backup_from_the_future".into(),
        severity: Severity::Warning,
        title: format!(
            "{} of {store} is dated up to {} ahead: it does not count until then",
            ids.join(", "),
            span(by_s)
        ),
        object: store.to_owned(),
        recommendation: Some(format!(
            "see that the clock is right, then make one that counts: steward backup run {store}"
        )),
        evidence: Vec::new(),
        escalate: None,
    }))
}
