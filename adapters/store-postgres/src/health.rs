//! Whether the database is well: the list of checks, and how they are run.

mod activity;
mod index;
mod judgement;
mod login;
mod replication;
mod setting;
mod shape;
mod space;
mod vacuum;

use std::time::Duration;

use async_trait::async_trait;
use contract::{
    Context, Error, ErrorKind, Health, HealthArea, HealthCheck, HealthScope, Limits, Query, Rows, Seen,
};

use crate::error::translate;
use crate::session::{Purpose, Session};
use crate::statement::quote_identifier;
use crate::store::{PostgresStore, milliseconds, rows};
use judgement::{Judge, Judged, Server, objects};

/// The tables that are looked at, as part of other statements: without the system's, Steward's and those of extensions.
const TABLES: &str = include_str!("sql/health/tables.sql");
/// Longest time for one check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a lock; hardly any check takes one, and those that do must not stand in a queue.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Rows that one check reads; each asks for the worst first.
const ROWS_MAX: usize = 1_000;
/// Bytes of values that one check reads.
const BYTES_MAX: usize = 4 << 20;

/// What must be so for a check to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The server is no standby.
    Primary,
    /// The server is a standby.
    Standby,
    /// At least this version.
    From(i32),
    /// A version before this one.
    Before(i32),
    /// A superuser, as for passwords and the rules of `pg_hba.conf`.
    Superuser,
    /// An extension; `{schema}` in the statement becomes the schema that it is in.
    Extension(&'static str),
    /// The right to use this predefined role, or superuser.
    Member(&'static str),
}

/// One question and its judge.
struct Check {
    name: &'static str,
    area: HealthArea,
    needs: &'static [Need],
    sql: &'static str,
    judge: Judge,
}

macro_rules! check {
    ($name:literal, $area:ident, [$($need:expr),*], $sql:expr, $judge:path) => {
        Check { name: $name, area: HealthArea::$area, needs: &[$($need),*], sql: $sql, judge: $judge }
    };
}

use Need::{Before, Extension, From, Member, Primary, Standby, Superuser};

/// Every check, in the order of the areas.
const CHECKS: &[Check] = &[
    check!(
        "checksum_failures",
        Integrity,
        [],
        include_str!("sql/health/checksum_failures.sql"),
        space::checksum_failures
    ),
    check!(
        "collation_versions",
        Integrity,
        [From(150_000)],
        include_str!("sql/health/collations.sql"),
        shape::collations
    ),
    check!(
        "collation_versions",
        Integrity,
        [Before(150_000)],
        include_str!("sql/health/collations_14.sql"),
        shape::collations
    ),
    check!("connections", Connections, [], include_str!("sql/health/connections.sql"), activity::connections),
    check!("transactions", Sessions, [], include_str!("sql/health/transactions.sql"), activity::transactions),
    check!("lock_waits", Sessions, [], include_str!("sql/health/lock_waits.sql"), activity::lock_waits),
    check!(
        "prepared_transactions",
        Sessions,
        [],
        include_str!("sql/health/prepared_transactions.sql"),
        activity::prepared_transactions
    ),
    check!(
        "replication_slots",
        Replication,
        [Primary],
        include_str!("sql/health/slots.sql"),
        replication::slots
    ),
    check!(
        "replicas",
        Replication,
        [Primary],
        include_str!("sql/health/replicas.sql"),
        replication::replicas
    ),
    check!(
        "archiver",
        Replication,
        [Primary],
        include_str!("sql/health/archiver.sql"),
        replication::archiver
    ),
    check!("standby", Replication, [Standby], include_str!("sql/health/standby.sql"), replication::standby),
    check!(
        "publications",
        Replication,
        [],
        include_str!("sql/health/publications.sql"),
        replication::publications
    ),
    check!("dead_rows", Vacuum, [Primary], include_str!("sql/health/dead_rows.sql"), vacuum::dead_rows),
    check!("statistics", Vacuum, [Primary], include_str!("sql/health/statistics.sql"), vacuum::statistics),
    check!(
        "autovacuum_of_tables",
        Vacuum,
        [],
        include_str!("sql/health/autovacuum_off.sql"),
        vacuum::autovacuum_off
    ),
    check!("wraparound", Vacuum, [], include_str!("sql/health/wraparound.sql"), vacuum::wraparound),
    check!("vacuum_horizon", Vacuum, [], include_str!("sql/health/horizon.sql"), vacuum::horizon),
    check!("table_bloat", Bloat, [], include_str!("sql/health/table_bloat.sql"), space::table_bloat),
    check!(
        "table_bloat_measured",
        Bloat,
        [Extension("pgstattuple"), Member("pg_stat_scan_tables")],
        include_str!("sql/health/table_bloat_measured.sql"),
        space::table_bloat_measured
    ),
    check!("index_bloat", Bloat, [], include_str!("sql/health/index_bloat.sql"), space::index_bloat),
    check!("invalid_indexes", Indexes, [], include_str!("sql/health/invalid_indexes.sql"), index::invalid),
    check!(
        "duplicate_indexes",
        Indexes,
        [],
        include_str!("sql/health/duplicate_indexes.sql"),
        index::duplicates
    ),
    check!("unused_indexes", Indexes, [], include_str!("sql/health/unused_indexes.sql"), index::unused),
    check!(
        "foreign_key_indexes",
        Indexes,
        [],
        include_str!("sql/health/foreign_key_indexes.sql"),
        index::foreign_keys
    ),
    check!("primary_keys", Schema, [], include_str!("sql/health/primary_keys.sql"), shape::primary_keys),
    check!("constraints", Schema, [], include_str!("sql/health/constraints.sql"), shape::constraints),
    check!(
        "foreign_key_types",
        Schema,
        [],
        include_str!("sql/health/foreign_key_types.sql"),
        shape::foreign_key_types
    ),
    check!("triggers", Schema, [], include_str!("sql/health/triggers_off.sql"), shape::triggers),
    check!("unlogged_tables", Schema, [], include_str!("sql/health/unlogged.sql"), shape::unlogged),
    check!("extensions", Schema, [], include_str!("sql/health/extensions.sql"), shape::extensions),
    check!("sequences", Sequences, [], include_str!("sql/health/sequences.sql"), shape::sequences),
    check!("cache", Cache, [], include_str!("sql/health/database_statistics.sql"), space::cache),
    check!(
        "checkpoints",
        Cache,
        [From(170_000)],
        include_str!("sql/health/checkpoints.sql"),
        space::checkpoints
    ),
    check!(
        "checkpoints",
        Cache,
        [Before(170_000)],
        include_str!("sql/health/checkpoints_16.sql"),
        space::checkpoints
    ),
    check!("disk", Disk, [], include_str!("sql/health/disk.sql"), space::disk),
    check!(
        "wal_directory",
        Disk,
        [Member("pg_monitor")],
        include_str!("sql/health/wal_directory.sql"),
        space::wal_directory
    ),
    check!("settings", Settings, [], include_str!("sql/health/settings.sql"), setting::settings),
    check!(
        "settings_of_roles",
        Settings,
        [],
        include_str!("sql/health/settings_of_roles.sql"),
        setting::of_roles
    ),
    check!(
        "pending_restart",
        Settings,
        [],
        include_str!("sql/health/pending_restart.sql"),
        setting::pending_restart
    ),
    check!(
        "encryption_in_transit",
        Encryption,
        [],
        include_str!("sql/health/encryption.sql"),
        setting::encryption
    ),
    check!(
        "encryption_of_sessions",
        Encryption,
        [],
        include_str!("sql/health/sessions_tls.sql"),
        login::sessions_without_tls
    ),
    check!(
        "superusers_at_work",
        Logins,
        [],
        include_str!("sql/health/superusers_at_work.sql"),
        login::superusers_at_work
    ),
    check!("role_attributes", Logins, [], include_str!("sql/health/roles.sql"), login::roles),
    check!("passwords", Logins, [Superuser], include_str!("sql/health/passwords.sql"), login::passwords),
    check!(
        "authentication_rules",
        Logins,
        [Superuser],
        include_str!("sql/health/hba.sql"),
        login::authentication_rules
    ),
    check!("public_rights", Logins, [], include_str!("sql/health/public_rights.sql"), login::public_rights),
    check!(
        "security_definer_functions",
        Logins,
        [],
        include_str!("sql/health/security_definer.sql"),
        login::security_definer
    ),
    check!("row_security", Logins, [], include_str!("sql/health/row_security.sql"), login::row_security),
];

#[async_trait]
impl Health for PostgresStore {
    /// Makes the checks with the reading login, each in a read-only transaction of its own, on a connection without
    /// Steward's usual session settings, so that what it sees is what the server gives everyone. Where ordinary logins
    /// find no place, with the administering one.
    async fn check_health(&self, ctx: &Context, scope: &HealthScope) -> Result<Vec<HealthCheck>, Error> {
        let open = self.opener.open_or(ctx, Purpose::Observe, Purpose::ObserveInNeed);
        let (session, _) = self.within(ctx, open).await?;
        let answer = self.within(ctx, self.check_all(&session, scope)).await;
        if answer.is_err() {
            session.stopper().stop().await;
        }
        answer
    }
}

impl PostgresStore {
    async fn check_all(&self, session: &Session, scope: &HealthScope) -> Result<Vec<HealthCheck>, Error> {
        let about = ask(session, include_str!("sql/health/server.sql")).await?;
        let server = Server::read(&objects(&about), scope, self)?;
        let mut checks = vec![];
        for check in CHECKS.iter().filter(|check| scope.wants(check.area)) {
            // Another version of the same check is made instead, or there is nothing to look at.
            let pointless = check.needs.iter().any(|need| match need {
                From(version) => server.version_num < *version,
                Before(version) => server.version_num >= *version,
                Standby => !server.in_recovery,
                _ => false,
            });
            if !pointless {
                checks.push(make(session, check, &server).await?);
            }
        }
        if scope.wants(HealthArea::Encryption) {
            checks.push(at_rest());
        }
        Ok(checks)
    }
}

/// One check from question to judgement.
async fn make(session: &Session, check: &Check, server: &Server) -> Result<HealthCheck, Error> {
    let mut made = HealthCheck {
        name: check.name.into(),
        area: check.area,
        statement: String::new(),
        answer: None,
        seen: Seen::All,
        findings: Vec::new(),
    };
    let mut sql = statement(check.sql).replace("{tables}", TABLES.trim_end());
    for need in check.needs {
        match missing(*need, server) {
            Some(because) => {
                made.seen = Seen::Nothing { because };
                return Ok(made);
            }
            None => {
                if let Extension(name) = need {
                    let schema = server.extensions.get(*name).map_or("public", String::as_str);
                    sql = sql.replace("{schema}", &quote_identifier(schema));
                }
            }
        }
    }
    made.statement.clone_from(&sql);
    let rows = match ask(session, &sql).await {
        Ok(rows) => rows,
        // The answer of this check is not to be had; the others' may be.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::Denied
                    | ErrorKind::NotFound
                    | ErrorKind::Unsupported
                    | ErrorKind::TimedOut
                    | ErrorKind::Invalid
                    | ErrorKind::Conflict
                    | ErrorKind::LimitExceeded
                    | ErrorKind::Other
            ) =>
        {
            made.seen = Seen::Nothing { because: format!("the server answers: {}", error.message()) };
            return Ok(made);
        }
        Err(error) => return Err(error.with("check", check.name)),
    };
    let Judged { findings, hidden } = (check.judge)(server, &objects(&rows))?;
    made.findings = findings;
    let cut = rows.truncated.map(|_| format!("only the first {} rows were judged", rows.rows.len()));
    if let Some(because) = hidden.or(cut) {
        made.seen = Seen::Part { because };
    }
    made.answer = Some(rows);
    Ok(made)
}

/// Why a check cannot be made here.
fn missing(need: Need, server: &Server) -> Option<String> {
    match need {
        Primary if server.in_recovery => Some("this server is a standby: ask the primary".to_owned()),
        Superuser if !server.superuser => Some(format!(
            "only a superuser may read this, and the login `{}` is none, as it should be",
            server.user
        )),
        Extension(name) if !server.extensions.contains_key(name) => Some(format!(
            "the extension `{name}` is not installed in this database: `CREATE EXTENSION {name}`"
        )),
        Member(role) if !server.superuser && !server.member_of.contains(role) => Some(format!(
            "the login `{user}` may not see this: `GRANT {role} TO {user}` would let it",
            user = quote_identifier(&server.user)
        )),
        _ => None,
    }
}

/// What cannot be asked: honest about it, every time.
fn at_rest() -> HealthCheck {
    HealthCheck {
        name: "encryption_at_rest".into(),
        area: HealthArea::Encryption,
        statement: String::new(),
        answer: None,
        seen: Seen::Nothing {
            because: "PostgreSQL does not encrypt its files and cannot tell whether the disk below does: ask who runs \
                      the machine"
                .into(),
        },
        findings: Vec::new(),
    }
}

/// Runs one statement in a read-only transaction of its own.
async fn ask(session: &Session, sql: &str) -> Result<Rows, Error> {
    let begin = format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; SET LOCAL timezone = 'UTC'{}",
        milliseconds(CHECK_TIMEOUT),
        milliseconds(LOCK_TIMEOUT),
        session.prelude
    );
    session.client.batch_execute(&begin).await.map_err(|error| translate(&error))?;
    let limits = Limits { rows_max: ROWS_MAX, bytes_max: BYTES_MAX, statement_timeout: CHECK_TIMEOUT };
    let answer = rows(session, &Query { sql: sql.to_owned(), parameters: Vec::new(), limits }).await;
    session.client.batch_execute("ROLLBACK").await.map_err(|error| translate(&error))?;
    answer
}

/// The statement without the comments above it, as it is shown and kept.
fn statement(file: &str) -> String {
    let lines = file.lines().skip_while(|line| line.starts_with("--"));
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn checks_are_named_once_per_version_and_ordered_by_area() {
        let mut seen = BTreeSet::new();
        for check in CHECKS {
            let version = check.needs.iter().any(|need| matches!(need, Before(_)));
            assert!(seen.insert((check.name, version)), "{} twice", check.name);
        }
        assert!(CHECKS.is_sorted_by_key(|check| check.area));
    }

    #[test]
    fn statements_are_shown_without_their_comment() {
        assert_eq!(
            statement("-- What it is.\n-- More.\nSELECT 1\n  -- why\n  + 1\n"),
            "SELECT 1\n  -- why\n  + 1"
        );
    }
}
