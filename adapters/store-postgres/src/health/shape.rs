//! Tables, keys, constraints, triggers, sequences, collations, extensions.

use contract::quantity::{percent, thousands};
use contract::{Error, Severity, Trigger};
use serde::Deserialize;

use super::judgement::{Judged, Row, Server, count, read};

/// Share of a sequence from which on there is time to plan a wider type.
const SEQUENCE_WARNING: f64 = 0.75;
/// Share of a sequence from which on inserts may soon fail.
const SEQUENCE_CRITICAL: f64 = 0.9;

#[derive(Deserialize)]
struct Collation {
    kind: String,
    name: String,
    recorded: Option<String>,
    actual: Option<String>,
}

/// Source: PostgreSQL manual, ALTER COLLATION, "Notes": an index built under other rules may be corrupt.
pub(crate) fn collations(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Collation>(rows)? {
        if row.recorded == row.actual {
            continue;
        }
        let (recorded, actual) =
            (row.recorded.as_deref().unwrap_or("none"), row.actual.as_deref().unwrap_or("none"));
        let (what, refresh) = match row.kind.as_str() {
            "database" => {
                ("the database", format!("ALTER DATABASE \"{}\" REFRESH COLLATION VERSION", row.name))
            }
            _ => ("the collation", format!("ALTER COLLATION {} REFRESH VERSION", row.name)),
        };
        judged.escalated(
            Trigger::DataCorruption,
            "collation_version_changed",
            &row.name,
            format!(
                "{what} `{}` was made with version {recorded} of its rules and the machine has {actual}: indexes on text \
                 may miss rows",
                row.name
            ),
            format!("REINDEX every index on text that uses it, check its uniqueness, then {refresh}"),
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Keyless {
    name: String,
    rows: u64,
    candidate: Option<String>,
}

pub(crate) fn primary_keys(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Keyless>(rows)? {
        let fix = match &row.candidate {
            Some(index) => format!(
                "ALTER TABLE {} ADD PRIMARY KEY USING INDEX {}",
                row.name,
                index.rsplit_once('.').map_or(index.as_str(), |(_, name)| name)
            ),
            None => format!("ALTER TABLE {} ADD PRIMARY KEY (…)", row.name),
        };
        judged.found(
            "no_primary_key",
            Severity::Warning,
            &row.name,
            format!(
                "`{}` ({}) has no primary key: its rows cannot be told apart, by copies neither",
                row.name,
                count(row.rows, "row")
            ),
            fix,
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Constraint {
    table_name: String,
    name: String,
    enforced: bool,
}

pub(crate) fn constraints(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Constraint>(rows)? {
        let object = format!("{}.{}", row.table_name, row.name);
        if row.enforced {
            judged.found(
                "constraint_not_validated",
                Severity::Warning,
                &object,
                format!(
                    "the rows that `{}` had before `{}` were never checked against it",
                    row.table_name, row.name
                ),
                format!("ALTER TABLE {} VALIDATE CONSTRAINT {}", row.table_name, row.name),
            );
        } else {
            judged.found(
                "constraint_not_enforced",
                Severity::Warning,
                &object,
                format!("`{}` of `{}` is written down and not enforced", row.name, row.table_name),
                format!("ALTER TABLE {} ALTER CONSTRAINT {} ENFORCED", row.table_name, row.name),
            );
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct KeyTypes {
    table_name: String,
    name: String,
    column_name: String,
    #[serde(rename = "type")]
    kind: String,
    parent: String,
    parent_type: String,
    narrower: bool,
}

pub(crate) fn foreign_key_types(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<KeyTypes>(rows)? {
        let end = if row.narrower { "; its numbers end before the parent's do" } else { "" };
        judged.found(
            "foreign_key_type_differs",
            if row.narrower { Severity::Warning } else { Severity::Info },
            &format!("{}.{}", row.table_name, row.column_name),
            format!(
                "`{}` of `{}` is {} and refers to {} of `{}`{end}",
                row.column_name, row.table_name, row.kind, row.parent_type, row.parent
            ),
            format!(
                "give `{}` the type {} by a migration that `steward migration plan` has judged (key `{}`)",
                row.column_name, row.parent_type, row.name
            ),
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct TriggerOff {
    table_name: String,
    name: String,
    of_foreign_key: bool,
}

pub(crate) fn triggers(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<TriggerOff>(rows)? {
        let object = format!("{}.{}", row.table_name, row.name);
        if row.of_foreign_key {
            judged.found(
                "foreign_key_switched_off",
                Severity::Critical,
                &object,
                format!("the foreign key `{}` is not enforced on `{}`: its triggers are off", row.name, row.table_name),
                format!(
                    "ALTER TABLE {} ENABLE TRIGGER ALL, then `steward store consistency` for what came in meanwhile",
                    row.table_name
                ),
            );
        } else {
            judged.found(
                "trigger_disabled",
                Severity::Warning,
                &object,
                format!("the trigger `{}` of `{}` is switched off", row.name, row.table_name),
                format!("ALTER TABLE {} ENABLE TRIGGER {}", row.table_name, row.name),
            );
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Unlogged {
    name: String,
    rows: u64,
}

pub(crate) fn unlogged(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Unlogged>(rows)? {
        judged.found(
            "table_unlogged",
            Severity::Warning,
            &row.name,
            format!("a crash empties `{}` ({}), and no replica has it", row.name, count(row.rows, "row")),
            format!("ALTER TABLE {} SET LOGGED, if its rows matter", row.name),
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Extension {
    name: String,
    installed: String,
    available: Option<String>,
}

pub(crate) fn extensions(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Extension>(rows)? {
        let Some(available) = row.available else { continue };
        judged.found(
            "extension_update_available",
            Severity::Info,
            &row.name,
            format!("the extension `{}` is at {} and the server has {available}", row.name, row.installed),
            format!("ALTER EXTENSION \"{}\" UPDATE", row.name),
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Sequence {
    name: String,
    last_value: Option<f64>,
    cycle: bool,
    ends_at: f64,
    increment: f64,
    readable: bool,
    column_name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    column_holds_to: Option<f64>,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Saturates; the sign was taken off.
pub(crate) fn sequences(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    let mut hidden = 0;
    for row in read::<Sequence>(rows)? {
        if !row.readable {
            hidden += 1;
            continue;
        }
        let Some(last) = row.last_value else { continue };
        // The column may end before the sequence does.
        let column_ends = row.column_holds_to.filter(|holds| *holds < row.ends_at.abs());
        let end = column_ends.unwrap_or(row.ends_at.abs()).max(1.0);
        // How far from 0 towards its end: a sequence that goes the other way, or on the other side of 0, is not judged.
        let used = last.abs();
        let share = used / end;
        let towards_end = last * row.increment > 0.0 && row.ends_at * row.increment > 0.0;
        if share < SEQUENCE_WARNING || (row.cycle && column_ends.is_none()) || !towards_end {
            continue;
        }
        let critical = share >= SEQUENCE_CRITICAL;
        let severity = if critical { Severity::Critical } else { Severity::Warning };
        let left = ((end - used) / row.increment.abs().max(1.0)).max(0.0) as u64;
        let (code, object) = match (&row.column_name, column_ends) {
            (Some(column), Some(_)) => ("integer_key_near_end", column.clone()),
            _ => ("sequence_near_end", row.name.clone()),
        };
        let whose = match (&row.column_name, &row.kind) {
            (Some(column), Some(kind)) => format!("`{column}` ({kind})"),
            _ => format!("`{}`", row.name),
        };
        let title =
            format!("{} of the numbers of {whose} are used; {} are left", percent(share), thousands(left));
        let fix = match &row.column_name {
            Some(column) => format!(
                "widen `{column}` to bigint before it ends: add a bigint column, fill it in batches, switch; then ALTER \
                 SEQUENCE {} AS bigint",
                row.name
            ),
            None => format!("ALTER SEQUENCE {} AS bigint NO MAXVALUE", row.name),
        };
        let finding = judged.found(code, severity, &object, title, fix);
        finding.escalate = critical.then_some(Trigger::DataLossRisk);
    }
    if hidden > 0 {
        judged.hidden = Some(format!(
            "{} may not be read by this login: `GRANT SELECT ON ALL SEQUENCES IN SCHEMA …`, which `steward store setup` \
             does, shows them",
            count(hidden, "sequence")
        ));
    }
    Ok(judged)
}
