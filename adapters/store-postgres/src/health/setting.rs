//! Settings that are unsafe or out of proportion, and encryption on the way.

use std::collections::BTreeMap;

use contract::quantity::{size, thousands};
use contract::{Error, Severity, Trigger};
use serde::Deserialize;

use super::judgement::{Judged, Row, Server, listed, read};
use crate::statement::quote_identifier;

/// Connections that a server may allow before a pooler serves better.
///
/// Source: PostgreSQL wiki, "Number Of Database Connections": throughput falls beyond a few connections per core.
const CONNECTIONS_MAX: u64 = 500;
/// work_mem × max_connections that no usual machine has, where the machine's memory is not known.
const WORK_MEM_BYTES_MAX: u64 = 64 << 30;
/// The default of shared_buffers; a database of many times this size deserves more.
///
/// Source: PostgreSQL manual, "Resource Consumption": a quarter of the memory is a reasonable start.
const SHARED_BUFFERS_DEFAULT: u64 = 128 << 20;
/// So many times the default of shared_buffers is a database that has outgrown it.
const SHARED_BUFFERS_FACTOR: u64 = 16;
/// Share of the memory, as a divisor, that shared_buffers may have at most.
const SHARED_BUFFERS_MEMORY_DIVISOR: u64 = 2;
/// Share of dead rows at which autovacuum should have come by any taste; the default is 0.2.
const SCALE_FACTOR_MAX: f64 = 0.4;
/// Age at which autovacuum forces a freeze, beyond which little room is left to the end.
const FREEZE_MAX_AGE_MAX: f64 = 1_000_000_000.0;

#[derive(Deserialize)]
struct Setting {
    name: String,
    value: Option<String>,
    unit: Option<String>,
    source: String,
}

/// Settings by name.
struct Settings(BTreeMap<String, Setting>);

impl Settings {
    fn is(&self, name: &str, value: &str) -> bool {
        self.text(name) == Some(value)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.value.as_deref()
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.text(name)?.parse().ok()
    }

    fn bytes(&self, name: &str) -> Option<u64> {
        let unit = match self.0.get(name)?.unit.as_deref()? {
            "8kB" => 8 << 10,
            "kB" => 1 << 10,
            "MB" => 1 << 20,
            "B" => 1,
            // Blocks of another size, such as 16kB.
            other => other.strip_suffix("kB")?.parse::<u64>().ok()?.checked_mul(1024)?,
        };
        self.text(name)?.parse::<u64>().ok()?.checked_mul(unit)
    }

    /// How to set it where it is set now.
    fn set(&self, server: &Server, name: &str, value: &str) -> String {
        match self.0.get(name).map(|setting| setting.source.as_str()) {
            Some("database") => format!("ALTER DATABASE \"{}\" SET {name} = {value}", server.database),
            Some("user" | "database user") => {
                format!("ALTER ROLE … SET {name} = {value}, for the role that has another value")
            }
            Some("command line" | "environment variable") => {
                format!("start the server without `{name}` on its command line")
            }
            _ => format!("ALTER SYSTEM SET {name} = {value}, then SELECT pg_reload_conf()"),
        }
    }
}

/// A setting with this value is a danger.
struct Danger {
    name: &'static str,
    value: &'static str,
    code: &'static str,
    severity: Severity,
    escalate: Option<Trigger>,
    title: &'static str,
    better: &'static str,
}

/// Sources: PostgreSQL manual, "Write Ahead Log", "Automatic Vacuuming", "Developer Options", "Run-time Statistics".
const DANGERS: &[Danger] = &[
    Danger {
        name: "fsync",
        value: "off",
        code: "fsync_off",
        severity: Severity::Critical,
        escalate: Some(Trigger::DataLossRisk),
        title: "fsync is off: a crash of the machine can destroy the whole cluster",
        better: "on",
    },
    Danger {
        name: "full_page_writes",
        value: "off",
        code: "full_page_writes_off",
        severity: Severity::Critical,
        escalate: Some(Trigger::DataLossRisk),
        title: "full_page_writes is off: a page half written at a crash stays broken",
        better: "on",
    },
    Danger {
        name: "zero_damaged_pages",
        value: "on",
        code: "damaged_pages_zeroed",
        severity: Severity::Critical,
        escalate: Some(Trigger::DataLossRisk),
        title: "zero_damaged_pages is on: what is damaged is destroyed when it is read",
        better: "off",
    },
    Danger {
        name: "ignore_checksum_failure",
        value: "on",
        code: "checksum_failures_ignored",
        severity: Severity::Critical,
        escalate: Some(Trigger::DataLossRisk),
        title: "ignore_checksum_failure is on: damaged pages are answered from as if they were sound",
        better: "off",
    },
    Danger {
        name: "session_replication_role",
        value: "replica",
        code: "constraints_bypassed",
        severity: Severity::Critical,
        escalate: None,
        title: "session_replication_role is replica: foreign keys and triggers do not work",
        better: "origin",
    },
    Danger {
        name: "autovacuum",
        value: "off",
        code: "autovacuum_off",
        severity: Severity::Critical,
        escalate: None,
        title: "autovacuum is off: tables swell, statistics age, and transaction ids run out",
        better: "on",
    },
    Danger {
        name: "track_counts",
        value: "off",
        code: "statistics_off",
        severity: Severity::Critical,
        escalate: None,
        title: "track_counts is off: autovacuum does not know what to do",
        better: "on",
    },
    Danger {
        name: "track_activities",
        value: "off",
        code: "activity_hidden",
        severity: Severity::Warning,
        escalate: None,
        title: "track_activities is off: nobody sees what sessions do",
        better: "on",
    },
    Danger {
        name: "synchronous_commit",
        value: "off",
        code: "synchronous_commit_off",
        severity: Severity::Warning,
        escalate: None,
        title: "synchronous_commit is off: a crash loses transactions of the last moments that were reported as done",
        better: "on",
    },
    Danger {
        name: "password_encryption",
        value: "md5",
        code: "password_encryption_md5",
        severity: Severity::Warning,
        escalate: None,
        title: "new passwords are kept as MD5, which is broken and which PostgreSQL is giving up",
        better: "'scram-sha-256'",
    },
    Danger {
        name: "wal_level",
        value: "minimal",
        code: "wal_level_minimal",
        severity: Severity::Warning,
        escalate: None,
        title: "wal_level is minimal: neither copies nor a restore to a moment are possible",
        better: "replica (takes a restart)",
    },
    Danger {
        name: "log_statement",
        value: "all",
        code: "statements_logged",
        severity: Severity::Warning,
        escalate: None,
        title: "log_statement is all: every value of every statement, personal data too, is written to the log",
        better: "'ddl'",
    },
];

/// Switches of the planner, made for finding out, not for leaving off.
const PLANNER_SWITCHES: [&str; 9] = [
    "enable_seqscan",
    "enable_indexscan",
    "enable_indexonlyscan",
    "enable_bitmapscan",
    "enable_hashjoin",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_sort",
    "enable_hashagg",
];

pub(crate) fn settings(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    let settings = Settings(read::<Setting>(rows)?.into_iter().map(|s| (s.name.clone(), s)).collect());
    for danger in DANGERS.iter().filter(|danger| settings.is(danger.name, danger.value)) {
        let fix = settings.set(server, danger.name, danger.better);
        judged.found(danger.code, danger.severity, danger.name, danger.title.to_owned(), fix).escalate =
            danger.escalate;
    }
    let off: Vec<String> = PLANNER_SWITCHES
        .iter()
        .filter(|name| settings.is(name, "off"))
        .map(|name| (*name).to_owned())
        .collect();
    if let Some(first) = off.first() {
        judged.found(
            "planner_switched_off",
            Severity::Warning,
            &off.join(", "),
            format!("{} is off for everyone: the planner may not choose what is best", listed(&off)),
            settings.set(server, first, "on"),
        );
    }
    proportions(server, &settings, &mut judged);
    limits_and_logs(server, &settings, &mut judged);
    Ok(judged)
}

fn proportions(server: &Server, settings: &Settings, judged: &mut Judged) {
    if server.memory_bytes.is_none() {
        judged.hidden = Some(format!(
            "a server does not tell the memory of its machine, which is another one than this: `shared_buffers` is not \
             held against it, and `work_mem` against {}",
            size(WORK_MEM_BYTES_MAX)
        ));
    }
    let connections = settings.text("max_connections").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if connections > CONNECTIONS_MAX {
        judged.found(
            "max_connections_high",
            Severity::Warning,
            "max_connections",
            format!("the server allows {} connections at once", thousands(connections)),
            "put a pooler in front and allow a few per core",
        );
    }
    if let Some(work_mem) = settings.bytes("work_mem") {
        let all = work_mem.saturating_mul(connections);
        let (most, what) = match server.memory_bytes {
            Some(memory) => (memory, format!("the {} of this machine", size(memory))),
            None => (WORK_MEM_BYTES_MAX, format!("the {} of a large machine", size(WORK_MEM_BYTES_MAX))),
        };
        if all > most {
            judged.found(
                "work_mem_exceeds_memory",
                Severity::Warning,
                "work_mem",
                format!(
                    "one sort of {} in each of {connections} sessions takes {}, beyond {what}",
                    size(work_mem),
                    size(all)
                ),
                settings.set(server, "work_mem", "'16MB'"),
            );
        }
    }
    let buffers = settings.bytes("shared_buffers").unwrap_or(0);
    if server.memory_bytes.is_some_and(|memory| buffers > memory / SHARED_BUFFERS_MEMORY_DIVISOR) {
        judged.found(
            "shared_buffers_large",
            Severity::Warning,
            "shared_buffers",
            format!(
                "shared_buffers takes {} of the machine's {}",
                size(buffers),
                size(server.memory_bytes.unwrap_or_default())
            ),
            settings.set(server, "shared_buffers", "a quarter of the memory"),
        );
    } else if buffers <= SHARED_BUFFERS_DEFAULT
        && server.database_bytes > SHARED_BUFFERS_FACTOR * SHARED_BUFFERS_DEFAULT
    {
        judged.found(
            "shared_buffers_small",
            Severity::Warning,
            "shared_buffers",
            format!("the server caches {} of a database of {}", size(buffers), size(server.database_bytes)),
            settings.set(server, "shared_buffers", "a quarter of the memory"),
        );
    }
    if settings.bytes("effective_cache_size").is_some_and(|cache| cache < buffers) {
        judged.found(
            "effective_cache_size_small",
            Severity::Warning,
            "effective_cache_size",
            format!(
                "the planner believes in {} of cache, and shared_buffers alone has {}: it avoids indexes",
                size(settings.bytes("effective_cache_size").unwrap_or_default()),
                size(buffers)
            ),
            settings.set(server, "effective_cache_size", "half of the memory"),
        );
    }
    if let Some(factor) = settings.number("autovacuum_vacuum_scale_factor").filter(|f| *f >= SCALE_FACTOR_MAX)
    {
        judged.found(
            "autovacuum_too_late",
            Severity::Warning,
            "autovacuum_vacuum_scale_factor",
            format!("autovacuum comes when {factor} of a table's rows are dead"),
            settings.set(server, "autovacuum_vacuum_scale_factor", "0.1"),
        );
    }
    if settings.number("autovacuum_freeze_max_age").is_some_and(|age| age > FREEZE_MAX_AGE_MAX) {
        judged.found(
            "freeze_too_late",
            Severity::Warning,
            "autovacuum_freeze_max_age",
            "autovacuum freezes at an age at which half of all transaction ids are used".into(),
            settings.set(server, "autovacuum_freeze_max_age", "200000000 (takes a restart)"),
        );
    }
}

fn limits_and_logs(server: &Server, settings: &Settings, judged: &mut Judged) {
    let unlimited: Vec<String> = ["statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout"]
        .into_iter()
        .filter(|name| settings.is(name, "0"))
        .map(ToOwned::to_owned)
        .collect();
    if !unlimited.is_empty() {
        judged.found(
            "no_timeouts",
            Severity::Info,
            &unlimited.join(", "),
            format!("a session of this database has no limit by {}", listed(&unlimited)),
            format!(
                "ALTER DATABASE \"{}\" SET idle_in_transaction_session_timeout = '60s', and a statement_timeout for the \
                 application's role",
                server.database
            ),
        );
    }
    let mut silent = Vec::new();
    if settings.is("log_min_duration_statement", "-1") {
        silent.push("slow statements".to_owned());
    }
    for (name, what) in [("log_lock_waits", "long waits for locks"), ("log_checkpoints", "checkpoints")] {
        if settings.is(name, "off") {
            silent.push(what.to_owned());
        }
    }
    if !silent.is_empty() {
        judged.found(
            "log_incomplete",
            Severity::Info,
            "",
            format!("the server's log says nothing of {}", listed(&silent)),
            "ALTER SYSTEM SET log_min_duration_statement = '1s'; ALTER SYSTEM SET log_lock_waits = on; ALTER SYSTEM SET \
             log_checkpoints = on; SELECT pg_reload_conf()",
        );
    }
}

#[derive(Deserialize)]
struct OfRole {
    role: String,
    name: String,
    value: String,
}

pub(crate) fn of_roles(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<OfRole>(rows)? {
        for danger in DANGERS.iter().filter(|danger| danger.name == row.name && danger.value == row.value) {
            judged
                .found(
                    danger.code,
                    danger.severity,
                    &format!("role {}", row.role),
                    format!("for the role `{}`, {}", row.role, danger.title),
                    format!("ALTER ROLE \"{}\" RESET {}", row.role, row.name),
                )
                .escalate = danger.escalate;
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

pub(crate) fn pending_restart(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    let names: Vec<String> = read::<Named>(rows)?.into_iter().map(|row| row.name).collect();
    if !names.is_empty() {
        judged.found(
            "restart_pending",
            Severity::Warning,
            &names.join(", "),
            format!(
                "{} changed and waits for a restart: the next one changes more than whoever restarts expects",
                listed(&names)
            ),
            "restart the server in a maintenance window, or take the change back with ALTER SYSTEM RESET",
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Encryption {
    enabled: bool,
    /// Only superusers and members of `pg_read_all_settings` are told.
    oldest_version: Option<String>,
    listens_on: String,
}

/// Source: RFC 8996, which deprecates TLS 1.0 and 1.1.
pub(crate) fn encryption(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Encryption>(rows)? {
        let outside = row
            .listens_on
            .split(',')
            .map(str::trim)
            .any(|address| !matches!(address, "" | "localhost" | "127.0.0.1" | "::1"));
        if !row.enabled {
            let title = if outside {
                format!("the server listens on `{}` and cannot encrypt connections", row.listens_on)
            } else {
                "the server cannot encrypt connections; it listens on this machine alone".to_owned()
            };
            let fix = "set ssl_cert_file and ssl_key_file, then ALTER SYSTEM SET ssl = on and SELECT pg_reload_conf()";
            if outside {
                judged.escalated(Trigger::SecurityViolation, "tls_off", "ssl", title, fix);
            } else {
                judged.found("tls_off", Severity::Info, "ssl", title, fix);
            }
            continue;
        }
        let Some(oldest) = row.oldest_version else {
            judged.hidden = Some(format!(
                "the oldest version of TLS that the server accepts is hidden from `{user}`: `GRANT pg_read_all_settings TO \
                 {quoted}` would show it",
                user = server.user,
                quoted = quote_identifier(&server.user)
            ));
            continue;
        };
        if matches!(oldest.as_str(), "" | "TLSv1" | "TLSv1.1") {
            judged.found(
                "tls_version_old",
                Severity::Warning,
                "ssl_min_protocol_version",
                format!(
                    "the server accepts {}, which is deprecated",
                    if oldest.is_empty() { "any version of TLS" } else { &oldest }
                ),
                "ALTER SYSTEM SET ssl_min_protocol_version = 'TLSv1.2', then SELECT pg_reload_conf()",
            );
        }
    }
    Ok(judged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Recorded rows with other values: the machine of the tests has one size, and its servers one of each setting.
    #[test]
    fn settings_out_of_proportion_are_found() {
        const GIB: u64 = 1 << 30;
        let row = |name: &str, value: &str, unit: Option<&str>| {
            let row = json!({"name": name, "value": value, "unit": unit, "source": "configuration file"});
            row.as_object().expect("an object").clone()
        };
        let server =
            |memory_bytes, database_bytes| Server { database_bytes, memory_bytes, ..Server::default() };
        for (server, rows, code) in [
            (server(None, 0), vec![row("max_connections", "501", None)], Some("max_connections_high")),
            (server(None, 0), vec![row("max_connections", "500", None)], None),
            (
                server(Some(8 * GIB), 0),
                vec![row("shared_buffers", "655360", Some("8kB"))],
                Some("shared_buffers_large"),
            ),
            (server(Some(8 * GIB), 0), vec![row("shared_buffers", "262144", Some("8kB"))], None),
            (
                server(None, 3 * GIB),
                vec![row("shared_buffers", "16384", Some("8kB"))],
                Some("shared_buffers_small"),
            ),
            (server(None, GIB), vec![row("shared_buffers", "16384", Some("8kB"))], None),
            (
                server(None, 0),
                vec![row("work_mem", "1048576", Some("kB")), row("max_connections", "100", None)],
                Some("work_mem_exceeds_memory"),
            ),
            (
                server(None, 0),
                vec![row("work_mem", "4096", Some("kB")), row("max_connections", "100", None)],
                None,
            ),
            (server(None, 0), vec![row("wal_level", "minimal", None)], Some("wal_level_minimal")),
        ] {
            let judged = settings(&server, &rows).expect("rows fit");
            let codes: Vec<&str> = judged.findings.iter().map(|finding| finding.code.as_str()).collect();
            assert_eq!(codes, Vec::from_iter(code), "{rows:?}");
            assert_eq!(judged.hidden.is_some(), server.memory_bytes.is_none(), "{rows:?}");
        }
    }

    /// Recorded rows: a server that listens to everyone in the clear is none to leave running.
    #[test]
    fn a_server_without_tls_is_judged_by_whom_it_listens_to() {
        for (listens_on, severity) in
            [("localhost", Severity::Info), ("127.0.0.1, ::1", Severity::Info), ("*", Severity::Critical)]
        {
            let row = json!({"enabled": false, "oldest_version": "TLSv1.2", "listens_on": listens_on});
            let row = row.as_object().expect("an object").clone();
            let judged = encryption(&Server::default(), &[row]).expect("rows fit");
            assert_eq!(
                (judged.findings[0].code.as_str(), judged.findings[0].severity),
                ("tls_off", severity)
            );
        }
    }
}
