//! Texts in tables that only Steward can read: sealed like bodies, each bound to its place.

use contract::{Error, ErrorKind};

use crate::seal::Sealer;
use crate::sqlite::Connection;
use crate::{Ledger, Row, Value};

/// Rows that are sealed by one look, when a state file of an older version is opened.
const ROWS_AT_ONCE: i64 = 500;

/// Where a sealed text stands. There it opens; moved to another row, column or project it does not.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The table.
    pub table: &'a str,
    /// The project of the row.
    pub project: &'a str,
    /// What names the row in its project.
    pub key: &'a str,
    /// The column.
    pub column: &'a str,
}

impl Place<'_> {
    fn belongs_to(&self) -> Vec<u8> {
        let mut out = b"steward.text.1\0".to_vec();
        for part in [self.table, self.project, self.key, self.column] {
            // With its length, so that no two places are written alike.
            out.extend_from_slice(&(part.len() as u64).to_be_bytes());
            out.extend_from_slice(part.as_bytes());
        }
        out
    }
}

impl Ledger {
    /// The text, as it is kept at this place.
    pub fn seal(&self, place: Place<'_>, text: &str) -> Value {
        seal(&self.0.sealer, place, text)
    }

    /// The text that is kept at this place of the row; `None` where there is none.
    ///
    /// # Errors
    ///
    /// `Corrupt`: it was changed or moved. `Other`: no such column.
    pub fn unseal(&self, place: Place<'_>, row: &Row) -> Result<Option<String>, Error> {
        let damaged = || {
            Error::new(ErrorKind::Corrupt, "a sealed text does not open")
                .with("table", place.table)
                .with("row", place.key)
                .with("column", place.column)
                .hint("the state file was edited; `steward audit verify` checks the trail")
        };
        let sealed = match row.get_opt_blob(place.column) {
            Ok(None) => return Ok(None),
            Ok(Some(sealed)) => sealed,
            Err(error) if error.kind() == ErrorKind::Corrupt => return Err(damaged()),
            Err(error) => return Err(error),
        };
        let mut buffer = Vec::new();
        let plain = self.0.sealer.open(sealed, &place.belongs_to(), &mut buffer).ok_or_else(damaged)?;
        std::str::from_utf8(plain).map(|text| Some(text.to_owned())).map_err(|_| damaged())
    }
}

fn seal(sealer: &Sealer, place: Place<'_>, text: &str) -> Value {
    sealer.seal(text.as_bytes(), &place.belongs_to()).into()
}

/// Seals what an older version has written in the clear; called between the two scripts of the migration.
pub(crate) fn seal_old_rows(connection: &Connection, sealer: &Sealer) -> Result<(), Error> {
    each_row(
        connection,
        "SELECT project, digest AS name, request, body, made_us FROM plans \
         WHERE project > ? OR project = ? AND digest > ? ORDER BY project, digest LIMIT ?",
        |row, project, key| {
            let place = Place { table: "plans", project, key, column: "body" };
            connection.execute(
                "INSERT INTO sealed_plans (digest, project, request, body, made_us) VALUES (?, ?, ?, ?, ?)",
                &[
                    key.into(),
                    project.into(),
                    row.get_text("request")?.into(),
                    seal(sealer, place, row.get_text("body")?),
                    row.get_i64("made_us")?.into(),
                ],
            )
        },
    )?;
    each_row(
        connection,
        "SELECT project, id AS name, title, state, source, body, report, created_us, updated_us FROM tasks \
         WHERE project > ? OR project = ? AND id > ? ORDER BY project, id LIMIT ?",
        |row, project, key| {
            let kept = |column: &'static str| {
                let text = row.get_opt_text(column)?;
                let place = Place { table: "tasks", project, key, column };
                Ok::<Value, Error>(text.map_or(Value::Null, |text| seal(sealer, place, text)))
            };
            connection.execute(
                "INSERT INTO sealed_tasks (id, project, title, state, source, body, report, created_us, updated_us) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                &[
                    key.into(),
                    project.into(),
                    kept("title")?,
                    row.get_text("state")?.into(),
                    kept("source")?,
                    kept("body")?,
                    kept("report")?,
                    row.get_i64("created_us")?.into(),
                    row.get_i64("updated_us")?.into(),
                ],
            )
        },
    )
}

/// Goes through the rows in the order of project and name, few at a time.
fn each_row(
    connection: &Connection,
    sql: &str,
    take: impl Fn(&Row, &str, &str) -> Result<u64, Error>,
) -> Result<(), Error> {
    let (mut project, mut name) = (String::new(), String::new());
    loop {
        let after = [(&project).into(), (&project).into(), (&name).into(), ROWS_AT_ONCE.into()];
        let rows = connection.query(sql, &after)?;
        for row in &rows {
            take(row, row.get_text("project")?, row.get_text("name")?)?;
        }
        let Some(last) = rows.last() else { return Ok(()) };
        (project, name) = (last.get_text("project")?.to_owned(), last.get_text("name")?.to_owned());
    }
}
