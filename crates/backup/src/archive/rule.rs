//! Rules: which rows are old, and what becomes of them.

use std::collections::BTreeSet;

use contract::cold::{ColdSelection, ColdTable, OlderThan, TimeUnit};
use contract::{Error, ErrorKind};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use schema::{Dialect, TableName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ColdSurroundings, predicate};

/// Rows that are moved into an archive, or deleted, because they are old or are of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColdRule {
    /// The store.
    pub store: String,
    /// The table; with its schema, such as `sales.orders`, where it is not in the usual one.
    pub table: String,
    /// Rows older than this, such as `2 years`, `18 months`, `90 days`; `by` says by which column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than: Option<String>,
    /// The column that says how old a row is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What numbers in `by` count since 1970: `seconds` or `milliseconds`. Default: `seconds`.
    #[serde(default)]
    pub by_unit: TimeUnit,
    /// The zone whose days count, and in which columns without a zone are read. Default: `UTC`.
    #[serde(default = "utc")]
    pub zone: String,
    /// And only rows for which this is true: one expression of SQL without subqueries, such as `status = 'closed'`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Of an archive: where the files go: a name under `archive.places`, or a folder relative to the project file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Of an archive: delete the rows once the files are verified. Default: true.
    #[serde(default = "yes")]
    pub delete: bool,
    /// Rows deleted in one transaction. Default: 1,000.
    #[serde(default = "rows_per_batch")]
    pub rows_per_batch: usize,
    /// Of an archive: rows in one file. Default: 1,000,000.
    #[serde(default = "rows_per_file")]
    pub rows_per_file: u64,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn yes() -> bool {
    true
}

fn rows_per_batch() -> usize {
    1_000
}

fn rows_per_file() -> u64 {
    1_000_000
}

/// Rows that nothing archives away or deletes while the hold is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LegalHold {
    /// The store.
    pub store: String,
    /// The table, as in a rule.
    pub table: String,
    /// Which rows: one expression of SQL without subqueries. Default: all.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Why; it is told with every row that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

fn invalid<T>(key: &'static str, message: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(ErrorKind::Invalid, message.into()).with("key", key))
}

/// `2 years` as a span.
fn age(text: &str) -> Result<Span, Error> {
    let wrong = || {
        Error::new(ErrorKind::Invalid, format!("`{text}` is no age"))
            .with("key", "older_than")
            .hint("write a number and a unit: `90 days`, `6 weeks`, `18 months`, `2 years`")
    };
    let (number, unit) = text.trim().split_once(' ').ok_or_else(wrong)?;
    let number: i64 = number.parse().map_err(|_| wrong())?;
    if !(1..=10_000).contains(&number) {
        return Err(wrong());
    }
    Ok(match unit.trim().trim_end_matches('s') {
        "day" => Span::new().days(number),
        "week" => Span::new().weeks(number),
        "month" => Span::new().months(number),
        "year" if number <= 1_000 => Span::new().years(number),
        _ => return Err(wrong()),
    })
}

/// The moments before which rows are old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Boundary {
    pub(super) at: Timestamp,
}

impl ColdRule {
    /// Refuses a rule that cannot work.
    ///
    /// # Errors
    ///
    /// `Invalid`: with the key.
    pub fn check(&self, stores: &BTreeSet<String>, archives: bool) -> Result<(), Error> {
        if !stores.contains(&self.store) {
            return invalid("store", format!("there is no store `{}`", self.store));
        }
        match (&self.older_than, &self.by) {
            (Some(age), Some(_)) => drop(self::age(age)?),
            (None, None) if self.filter.is_some() => {}
            (None, None) => {
                return invalid("older_than", "the rule would mean every row: say how old, or `where`");
            }
            (Some(_), None) => return invalid("by", "`older_than` needs `by`: the column that says when"),
            (None, Some(_)) => return invalid("older_than", "`by` needs `older_than`"),
        }
        self.zone()?;
        match (archives, &self.to) {
            (true, None) => return invalid("to", "an archive needs `to`: a folder or a place for its files"),
            (false, Some(_)) => {
                return invalid(
                    "to",
                    "a rule under `retention` deletes; move it to `archive` to keep the rows",
                );
            }
            _ => {}
        }
        if !archives && !self.delete {
            return invalid("delete", "a rule under `retention` that deletes nothing does nothing");
        }
        if !(1..=100_000).contains(&self.rows_per_batch) {
            return invalid("rows_per_batch", "a batch has 1 to 100,000 rows");
        }
        if self.rows_per_file == 0 {
            return invalid("rows_per_file", "a file has at least one row");
        }
        Ok(())
    }

    fn zone(&self) -> Result<TimeZone, Error> {
        TimeZone::get(&self.zone).map_err(|cause| {
            Error::new(ErrorKind::Invalid, format!("there is no time zone `{}`", self.zone))
                .with("key", "zone")
                .because(cause.to_string())
                .hint("use a name such as `Europe/Berlin`, or `UTC`")
        })
    }

    /// The start of the day that is `older_than` before today; `None` for a rule without an age. It is the same all day, so that
    /// a plan is too.
    pub(super) fn boundary(&self, now: Timestamp, asked: Option<&str>) -> Result<Option<Boundary>, Error> {
        let Some(text) = &self.older_than else {
            return match asked {
                None => Ok(None),
                Some(_) => Err(Error::new(ErrorKind::Invalid, "the rule has no age, so it has no `before`")
                    .with("argument", "before")),
            };
        };
        let zone = self.zone()?;
        let no_time = |cause: jiff::Error| {
            Error::new(ErrorKind::Invalid, format!("`{text}` before today is no time"))
                .because(cause.to_string())
        };
        let today = now.to_zoned(zone.clone()).start_of_day().map_err(no_time)?;
        // From the calendar's day, not from midnight's moment: so that a change of the clock moves nothing.
        let day = today.date().checked_sub(age(text)?).map_err(no_time)?;
        let newest =
            day.to_zoned(zone.clone()).and_then(|day| day.start_of_day()).map_err(no_time)?.timestamp();
        let Some(asked) = asked else { return Ok(Some(Boundary { at: newest })) };
        let parsed = asked.parse::<Timestamp>().or_else(|_| {
            let day: jiff::civil::Date = asked.parse()?;
            Ok(day.to_zoned(zone)?.start_of_day()?.timestamp())
        });
        let at = parsed.map_err(|_: jiff::Error| {
            Error::new(ErrorKind::Invalid, format!("`{asked}` is no day and no moment"))
                .with("argument", "before")
                .hint("write `2024-11-23` or `2024-11-23T00:00:00Z`")
        })?;
        if at > newest {
            return Err(Error::new(ErrorKind::Invalid, "rows after that are not old by the rule")
                .with("argument", "before")
                .with("newest", newest)
                .hint("give an earlier day, or change `older_than`"));
        }
        if at.subsec_nanosecond() != 0 {
            return Err(Error::new(ErrorKind::Invalid, "the moment must be a whole second")
                .with("argument", "before"));
        }
        Ok(Some(Boundary { at }))
    }

    /// The table's name; without a schema the engine's usual one.
    pub(super) fn table_name(&self, dialect: Dialect) -> TableName {
        named(&self.table, dialect)
    }

    /// What the rule means now, with the holds that are on the table; every expression is checked.
    pub(super) fn selection(
        &self,
        around: &dyn ColdSurroundings,
        table: &ColdTable,
        dialect: Dialect,
        boundary: Option<Boundary>,
    ) -> Result<(ColdSelection, Vec<String>), Error> {
        let name = self.table_name(dialect);
        let older = match (boundary, &self.by) {
            (Some(boundary), Some(by)) => {
                let column = table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(by));
                let Some(column) = column else {
                    return Err(unknown_column(by, table).with("key", "by"));
                };
                let local = boundary.at.to_zoned(self.zone()?);
                Some(OlderThan {
                    column: column.name.clone(),
                    before: boundary.at,
                    before_local: local.strftime("%Y-%m-%d %H:%M:%S").to_string(),
                    unit: self.by_unit,
                })
            }
            _ => None,
        };
        let checked = |text: &String| predicate::checked(text, dialect, &table.columns);
        let filter = self.filter.as_ref().map(checked).transpose()?;
        let (mut holds, mut names) = (Vec::new(), Vec::new());
        for (hold_name, hold) in around.legal_holds() {
            let same = named(&hold.table, dialect);
            let is_same = same.namespace == name.namespace
                && if dialect == Dialect::Sqlite {
                    same.name.eq_ignore_ascii_case(&name.name)
                } else {
                    same.name == name.name
                };
            if hold.store == self.store && is_same {
                let all = || Ok("TRUE".to_owned());
                // A hold that is not understood stops the rule: it must not be passed over.
                let filter = hold.filter.as_ref().map_or_else(all, checked);
                holds.push(filter.map_err(|error| error.with("legal_hold", hold_name))?);
                names.push(hold_name.clone());
            }
        }
        Ok((ColdSelection { table: name, older, filter, holds }, names))
    }

    /// The rule in a sentence.
    pub(super) fn said(&self) -> String {
        let mut parts = Vec::new();
        if let (Some(age), Some(by)) = (&self.older_than, &self.by) {
            parts.push(format!("`{by}` older than {age}"));
        }
        if let Some(filter) = &self.filter {
            parts.push(format!("`{filter}`"));
        }
        format!("rows of {} with {}", self.table, parts.join(" and "))
    }
}

fn named(text: &str, dialect: Dialect) -> TableName {
    let usual = if dialect == Dialect::Sqlite { "main" } else { "public" };
    match text.split_once('.') {
        Some((namespace, name)) => TableName { namespace: namespace.to_owned(), name: name.to_owned() },
        None => TableName { namespace: usual.to_owned(), name: text.to_owned() },
    }
}

pub(super) fn unknown_column(name: &str, table: &ColdTable) -> Error {
    let known: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    Error::new(ErrorKind::Invalid, format!("the table {} has no column `{name}`", table.name))
        .hint(format!("it has: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(yaml: serde_json::Value) -> ColdRule {
        serde_json::from_value(yaml).unwrap()
    }

    #[test]
    fn rules_that_cannot_work_are_refused_by_their_key() {
        let stores = BTreeSet::from(["shop".to_owned()]);
        let base = serde_json::json!({
            "store": "shop", "table": "orders", "older_than": "2 years", "by": "created_at", "to": "cold"
        });
        assert!(rule(base.clone()).check(&stores, true).is_ok());
        for (key, value, at, archives) in [
            ("store", serde_json::json!("none"), "store", true),
            ("older_than", serde_json::json!("two years"), "older_than", true),
            ("older_than", serde_json::json!("0 days"), "older_than", true),
            ("older_than", serde_json::json!("3 fortnights"), "older_than", true),
            ("older_than", serde_json::Value::Null, "older_than", true),
            ("by", serde_json::Value::Null, "by", true),
            ("to", serde_json::Value::Null, "to", true),
            ("store", serde_json::json!("shop"), "to", false),
            ("zone", serde_json::json!("Mars/Olympus"), "zone", true),
            ("rows_per_batch", serde_json::json!(0), "rows_per_batch", true),
            ("rows_per_file", serde_json::json!(0), "rows_per_file", true),
        ] {
            let mut changed = base.clone();
            changed[key] = value.clone();
            let error = rule(changed).check(&stores, archives).unwrap_err();
            assert_eq!(
                error.context().iter().find(|(name, _)| *name == "key").unwrap().1,
                at,
                "{key} {value}"
            );
        }
        let everything = rule(serde_json::json!({ "store": "shop", "table": "orders" }));
        assert!(everything.check(&stores, false).is_err());
    }

    #[test]
    fn the_boundary_is_a_day_of_the_rules_zone() {
        let of = |age: &str, zone: &str, now: &str| {
            let rule = rule(serde_json::json!({
                "store": "s", "table": "t", "older_than": age, "by": "at", "zone": zone
            }));
            rule.boundary(now.parse().unwrap(), None).unwrap().unwrap().at.to_string()
        };
        for (age, zone, now, expected) in [
            ("1 day", "UTC", "2026-03-05T23:59:59Z", "2026-03-04T00:00:00Z"),
            ("1 year", "UTC", "2024-02-29T12:00:00Z", "2023-02-28T00:00:00Z"),
            ("1 month", "UTC", "2026-03-31T00:00:00Z", "2026-02-28T00:00:00Z"),
            // Already the next day there.
            ("1 day", "Europe/Berlin", "2026-03-04T23:30:00Z", "2026-03-03T23:00:00Z"),
            // The clock went forward on 2026-03-29, so the day before began an hour later by UTC.
            ("1 day", "Europe/Berlin", "2026-03-30T12:00:00Z", "2026-03-28T23:00:00Z"),
            ("2 days", "Europe/Berlin", "2026-03-31T12:00:00Z", "2026-03-28T23:00:00Z"),
            ("1 day", "America/Sao_Paulo", "2018-11-05T12:00:00Z", "2018-11-04T03:00:00Z"),
        ] {
            assert_eq!(of(age, zone, now), expected, "{age} {zone} {now}");
        }
    }

    #[test]
    fn a_boundary_that_is_asked_for_is_never_younger_than_the_rule() {
        let rule = rule(serde_json::json!({
            "store": "s", "table": "t", "older_than": "1 year", "by": "at", "zone": "Europe/Berlin"
        }));
        let now: Timestamp = "2026-03-05T12:00:00Z".parse().unwrap();
        let at = |asked| rule.boundary(now, Some(asked)).map(|found| found.unwrap().at.to_string());
        assert_eq!(at("2025-03-05").unwrap(), "2025-03-04T23:00:00Z");
        assert_eq!(at("2024-01-01T00:00:00Z").unwrap(), "2024-01-01T00:00:00Z");
        for wrong in ["2025-03-06", "yesterday", "2024-01-01T00:00:00.5Z"] {
            assert_eq!(at(wrong).unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
        }
    }
}
