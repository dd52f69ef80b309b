//! What the statements of a plan do to those who work at the same time: the linter's verdicts, as the plan keeps them.
//!
//! A plan that is made again must be the same plan, or what was approved would no longer be what is asked for. So of
//! numbers of rows only the power of ten is kept, and nothing of who happens to be connected.

use contract::Severity;
use serde::{Deserialize, Serialize};

use super::file::Sql;
use super::risk::{Judgement, Risk};
use crate::lint::operation::Script;
use crate::lint::{Blocking, Lock, Verdict, World, judge, read_statement};
use crate::text;

/// Rules of the linter that say why others wait for long.
const LONG: [&str; 10] = [
    "index_blocks_all",
    "index_blocks_writes",
    "lock_held_during_work",
    "many_rows_changed",
    "rewrite",
    "scan_blocks_all",
    "scan_blocks_writes",
    "unjudged_code",
    "unknown_statement",
    "validated_at_once",
];
/// Rules of the linter about what no longer works afterwards, or does not work at all.
const BREAKING: [&str; 6] = [
    "enum_value_unusable",
    "fails",
    "not_in_transaction",
    "null_values_found",
    "old_code_breaks",
    "required_column",
];
/// The same of the plan's own judge, which knows neither sizes of partitions nor what a transaction holds.
pub(super) const WEIGHED: [&str; 4] =
    ["index_blocks_writes", "index_under_lock", "rewrite", "scan_under_lock"];

/// What one statement does to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Effect {
    pub(crate) migration: String,
    pub(crate) line: usize,
    pub(crate) blocking: Blocking,
    /// Strongest lock on a relation that was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lock: Option<Lock>,
    /// Why others wait for long.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) why: Vec<String>,
    /// What to do instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instead: Option<String>,
    /// What running code meets, and what the server refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) breaks: Vec<String>,
    /// Relations that it locks for more than reading.
    #[serde(skip)]
    pub(crate) relations: Vec<String>,
}

/// Statements as the linter reads them.
pub(super) fn script(list: &[Sql], transaction: bool) -> Script {
    let statements =
        list.iter().map(|sql| read_statement(sql.line, 0, sql.readable().into_owned())).collect();
    Script { statements, transaction, ..Script::default() }
}

/// What statements do, one after the other, to those who use the database as `world` knows it.
pub(super) fn effects(migration: &str, list: &[Sql], transaction: bool, world: &mut World) -> Vec<Effect> {
    let verdicts = judge(&script(list, transaction), world);
    list.iter().zip(verdicts).map(|(sql, verdict)| Effect::of(migration, sql, verdict)).collect()
}

impl Effect {
    fn of(migration: &str, sql: &Sql, verdict: Verdict) -> Self {
        // A batch holds its rows for about half a second, however many there are.
        let batched = sql.batched.is_some() && verdict.blocking < Blocking::Fails;
        let blocking = if batched { Blocking::None } else { verdict.blocking };
        let mut effect = Self {
            migration: migration.to_owned(),
            line: sql.line,
            blocking,
            lock: verdict.locks.iter().map(|held| held.lock).max(),
            why: Vec::new(),
            instead: None,
            breaks: Vec::new(),
            relations: verdict
                .locks
                .iter()
                .filter(|held| held.lock > Lock::RowShare)
                .map(|held| held.relation.clone())
                .collect(),
        };
        let long = effect.is_long();
        for remark in verdict.remarks {
            if long && LONG.contains(&remark.rule) {
                effect.why.push(remark.message);
                effect.instead = effect.instead.or(remark.instead);
            } else if BREAKING.contains(&remark.rule) && remark.severity > Severity::Info {
                effect.breaks.push(match remark.rule {
                    // Its share is the planner's guess of today.
                    "null_values_found" => format!("`{}` holds NULL, so the statement fails", remark.object),
                    _ => remark.message,
                });
            }
        }
        if long && effect.why.is_empty() {
            effect.why.push(format!("`{}` {blocking}", text::plain(&sql.text, 60)));
        }
        effect
    }

    /// Whether others wait as long as a table is read or written, or nobody can say.
    pub(crate) fn is_long(&self) -> bool {
        matches!(self.blocking, Blocking::Writes | Blocking::All | Blocking::Unjudged)
    }

    /// Makes the plan's own judgement say the same: this one was measured.
    pub(super) fn correct(&self, judgement: &mut Judgement) {
        let weighed = |risk: &Risk| WEIGHED.contains(&risk.rule.as_str()) && risk.severity > Severity::Info;
        if !self.is_long() {
            judgement.risks.retain(|risk| !weighed(risk));
        } else if !judgement.risks.iter().any(|risk| weighed(risk) || risk.rule == "unknown") {
            judgement.risks.extend(self.why.iter().map(|why| Risk {
                rule: "blocks_for_long".into(),
                severity: Severity::Warning,
                note: why.clone(),
                advice: self.instead.clone().unwrap_or_else(|| "run it in a quiet hour".into()),
            }));
        }
        if self.blocking < Blocking::Fails {
            judgement.lock = self.lock.filter(|lock| *lock > Lock::RowShare).map(Lock::name);
        }
    }
}
