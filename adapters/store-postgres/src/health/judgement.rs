//! What a judge is given and gives: facts of the server, rows, findings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use contract::{Error, ErrorKind, HealthFinding, HealthScope, Rows, Severity, Trigger};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::store::PostgresStore;

/// A row by column name.
pub(crate) type Row = Map<String, Value>;

/// Makes findings of rows. It sees nothing else, so recorded rows are judged as live ones are.
pub(crate) type Judge = fn(&Server, &[Row]) -> Result<Judged, Error>;

/// What a judge says.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) findings: Vec<HealthFinding>,
    /// What could not be seen, and what would show it.
    pub(crate) hidden: Option<String>,
}

impl Judged {
    /// Adds a finding.
    pub(crate) fn found(
        &mut self,
        code: &str,
        severity: Severity,
        object: &str,
        title: String,
        fix: impl Into<String>,
    ) -> &mut HealthFinding {
        self.findings.push(HealthFinding {
            code: code.into(),
            severity,
            title,
            object: object.into(),
            fix: fix.into(),
            escalate: None,
        });
        self.findings.last_mut().expect("one was pushed")
    }

    /// Adds a finding that the PM must hear of.
    pub(crate) fn escalated(
        &mut self,
        trigger: Trigger,
        code: &str,
        object: &str,
        title: String,
        fix: impl Into<String>,
    ) {
        self.found(code, Severity::Critical, object, title, fix).escalate = Some(trigger);
    }
}

/// Facts of the server and of this run that judges need beside the rows.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Server {
    pub(crate) version_num: i32,
    pub(crate) user: String,
    pub(crate) superuser: bool,
    pub(crate) in_recovery: bool,
    pub(crate) database: String,
    pub(crate) database_bytes: u64,
    /// Seconds that the database's statistics cover; `None` where they were never reset.
    pub(crate) statistics_seconds: Option<u64>,
    /// Predefined roles whose rights the login has.
    #[serde(deserialize_with = "strings")]
    pub(crate) member_of: BTreeSet<String>,
    /// Extensions and the schemas they are in.
    #[serde(default)]
    pub(crate) extensions: BTreeMap<String, String>,
    /// How long a transaction may be open.
    #[serde(skip)]
    pub(crate) transaction_max: Duration,
    /// Steward's own logins.
    #[serde(skip)]
    pub(crate) own_users: Vec<String>,
    /// Memory of the machine, where it is this machine.
    #[serde(skip)]
    pub(crate) memory_bytes: Option<u64>,
}

fn strings<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    Ok(Vec::<String>::deserialize(deserializer)?.into_iter().collect())
}

impl Server {
    pub(crate) fn read(rows: &[Row], scope: &HealthScope, store: &PostgresStore) -> Result<Self, Error> {
        let mut server: Server = read::<Server>(rows)?
            .pop()
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the server says nothing of itself"))?;
        server.transaction_max = scope.transaction_max;
        let config = &store.opener.config;
        server.own_users = [Some(&config.reader), config.writer.as_ref()]
            .into_iter()
            .flatten()
            .map(|l| l.user.clone())
            .collect();
        server.memory_bytes = store.opener.address.is_loopback().then(memory_bytes).flatten();
        Ok(server)
    }

    /// Whether sessions, texts and statistics of other logins are shown to us.
    pub(crate) fn sees_others(&self) -> bool {
        self.superuser || self.member_of.contains("pg_read_all_stats")
    }

    /// What to say where others are hidden.
    pub(crate) fn others_hidden(&self) -> Option<String> {
        (!self.sees_others()).then(|| {
            format!(
                "other logins' sessions are hidden from `{user}`: `GRANT pg_read_all_stats TO {user}`, which `steward \
                 store setup` does, shows them",
                user = self.user
            )
        })
    }
}

/// The machine's memory, where the operating system tells it as Linux does.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Rows as objects.
pub(crate) fn objects(rows: &Rows) -> Vec<Row> {
    rows.rows.iter().map(|row| rows.columns.iter().cloned().zip(row.iter().cloned()).collect()).collect()
}

/// Rows as what a judge works with.
pub(crate) fn read<T: DeserializeOwned>(rows: &[Row]) -> Result<Vec<T>, Error> {
    rows.iter()
        .map(|row| {
            serde_json::from_value(Value::Object(row.clone())).map_err(|error| {
                Error::new(ErrorKind::Corrupt, "the server's answer has another shape than was asked for")
                    .because(error)
            })
        })
        .collect()
}

/// `a`, `a and b`, `a, b and 3 more`.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] if names.len() <= SHOWN => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN),
    }
}

/// `1 row`, `12,000 rows`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        _ if noun.ends_with('x') || noun.ends_with('s') => {
            format!("{} {noun}es", contract::quantity::thousands(n))
        }
        _ => format!("{} {noun}s", contract::quantity::thousands(n)),
    }
}
