//! What drills found, as the ledger has it, and what follows from it: times that were measured, and forecasts.

use contract::{Context, Error, ErrorKind};
use jiff::Timestamp;
use ledger::{Ledger, Row};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::catalog;

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The machine, with Steward on it: Steward is recovered into an empty folder, and restores from there.
    Machine,
    /// A whole database.
    Database,
    /// One table.
    Table,
    /// The repository: the backup is taken from a copy in another one.
    Repository,
    /// The vault with the repository's master key: only the recovery key is left.
    Key,
}

impl Loss {
    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Loss::Machine => "machine",
            Loss::Database => "database",
            Loss::Table => "table",
            Loss::Repository => "repository",
            Loss::Key => "key",
        }
    }
}

/// A step of a drill and the time that it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrillStep {
    /// What was done.
    pub step: String,
    /// Milliseconds.
    pub ms: u64,
}

/// How a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrillResult {
    /// All that was lost is back as it was dumped.
    Passed,
    /// It is not.
    Failed,
    /// Something that it needs is missing, so nothing is known.
    NotTried,
}

impl DrillResult {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DrillResult::Passed => "passed",
            DrillResult::Failed => "failed",
            DrillResult::NotTried => "not_tried",
        }
    }
}

/// A drill as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drilled {
    /// Its id.
    pub id: String,
    /// What was lost.
    pub lose: Loss,
    /// The store; `steward` where the machine was lost.
    pub subject: String,
    /// The backup that was restored; empty where there was none.
    pub backup: String,
    /// How it ended.
    pub result: DrillResult,
    /// When it was begun.
    #[schemars(with = "String")]
    pub begun_at: Timestamp,
    /// Bytes of the parts that were restored.
    pub bytes: Option<u64>,
    /// Rows that were compared.
    pub rows: Option<u64>,
    /// From the loss until every table was compared, in milliseconds.
    pub recovery_ms: Option<u64>,
    /// What it should be at most, in milliseconds.
    pub objective_ms: u64,
    /// The steps with their times.
    pub steps: Vec<DrillStep>,
    /// Why it failed, or was not tried.
    pub problem: Option<String>,
}

const LIST: &str = "SELECT * FROM backup_drills WHERE project = ? AND (? = '' OR subject = ?) AND finished_us IS NOT NULL \
     ORDER BY begun_us DESC, id DESC LIMIT ?";

impl Drilled {
    fn read(row: &Row) -> Result<Self, Error> {
        let word = |name: &str| -> Result<serde_json::Value, Error> { Ok(json!(row.get_text(name)?)) };
        let odd = |cause: serde_json::Error| {
            Error::new(ErrorKind::Corrupt, "a record of a drill cannot be read").because(cause)
        };
        let number = |name: &str| -> Result<Option<u64>, Error> {
            Ok(row.get_opt_i64(name)?.and_then(|number| u64::try_from(number).ok()))
        };
        Ok(Self {
            id: row.get_text("id")?.to_owned(),
            lose: serde_json::from_value(word("lose")?).map_err(odd)?,
            subject: row.get_text("subject")?.to_owned(),
            backup: row.get_text("backup")?.to_owned(),
            result: serde_json::from_value(word("result")?).map_err(odd)?,
            begun_at: row.get_time("begun_us")?,
            bytes: number("bytes")?,
            rows: number("rows")?,
            recovery_ms: number("recovery_ms")?,
            objective_ms: number("objective_ms")?.unwrap_or_default(),
            steps: row.get_json("steps")?,
            problem: row.get_opt_text("problem")?.map(str::to_owned),
        })
    }

    /// In a report for people.
    pub(crate) fn said(&self) -> String {
        let subject = match (self.lose, self.subject.as_str()) {
            (Loss::Machine, _) => "the machine".to_owned(),
            (Loss::Database, store) => format!("the database {store}"),
            (Loss::Table, store) => format!("a table of {store}"),
            (Loss::Repository, store) => format!("the repository of {store}"),
            (Loss::Key, store) => format!("the key of {store}"),
        };
        match (self.result, self.recovery_ms) {
            (DrillResult::Passed, Some(ms)) => {
                format!("{subject} lost: back and compared after {}", seconds(ms))
            }
            (DrillResult::NotTried, _) => format!(
                "{subject} lost: NOT TRIED: {}",
                self.problem.as_deref().unwrap_or("something is missing")
            ),
            _ => format!("{subject} lost: NOT RECOVERED: {}", self.problem.as_deref().unwrap_or("unknown")),
        }
    }
}

pub(crate) fn seconds(ms: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // Tenths of a second are shown.
    let seconds = ms as f64 / 1e3;
    format!("{seconds:.1} s")
}

/// The drills of a store, or of all, the newest first; `steward` are those in which the machine was lost.
///
/// # Errors
///
/// As the ledger's.
pub async fn drills(
    ctx: &Context,
    ledger: &Ledger,
    subject: Option<&str>,
    limit: u32,
) -> Result<Vec<Drilled>, Error> {
    let subject = subject.unwrap_or_default();
    let parameters = vec![ctx.project().into(), subject.into(), subject.into(), i64::from(limit).into()];
    ledger.query(LIST, parameters).await?.iter().map(Drilled::read).collect()
}

/// Median and 95th percentile of the recoveries that drills measured, in milliseconds.
pub(crate) fn measured(drills: &[Drilled]) -> (Option<u64>, Option<u64>) {
    let times: Vec<u64> = drills
        .iter()
        .filter(|drill| drill.result == DrillResult::Passed)
        .filter_map(|drill| drill.recovery_ms)
        .collect();
    (crate::forecast::percentile(&times, 50), crate::forecast::percentile(&times, 95))
}

/// When the newest backup of a store would be back, by what was measured before, in milliseconds.
pub(crate) async fn forecast(
    ctx: &Context,
    ledger: &Ledger,
    store: &str,
    bytes: u64,
) -> Result<Option<u64>, Error> {
    /// So many of the newest measurements count.
    const MEASURED_MAX: u32 = 30;
    let mut observed = Vec::new();
    for backup in catalog::list(ctx, ledger, Some(store), MEASURED_MAX).await? {
        if let (Some(bytes), Some(ms)) = (backup.bytes, backup.restore_ms) {
            observed.push(crate::forecast::Observed { bytes, ms });
        }
    }
    for drill in drills(ctx, ledger, Some(store), MEASURED_MAX).await? {
        let restored = drill.steps.iter().find(|step| step.step == "restore it into scratch");
        if let (Loss::Database | Loss::Key | Loss::Repository, Some(bytes), Some(step)) =
            (drill.lose, drill.bytes, restored)
        {
            observed.push(crate::forecast::Observed { bytes, ms: step.ms });
        }
    }
    Ok(crate::forecast::forecast_ms(&observed, bytes))
}
