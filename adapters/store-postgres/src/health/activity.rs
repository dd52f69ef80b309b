//! Connections, open transactions and waiting.

use std::collections::BTreeMap;

use contract::quantity::{percent, span, thousands};
use contract::{Error, Severity, Trigger};
use serde::Deserialize;

use super::judgement::{Judged, Row, Server, count, listed, read};

/// Share of the allowed connections from which on it is worth a look: a deployment or a retry storm takes the rest.
///
/// Our judgement; monitoring templates warn between 75 % and 90 %.
const CONNECTIONS_WARNING: f64 = 0.8;
/// Share from which on the next client is likely to be refused.
const CONNECTIONS_CRITICAL: f64 = 0.95;
/// Idle connections that are worth a pooler, if they are also half of what is allowed.
///
/// Each idle backend costs memory and makes every snapshot dearer. Source: PostgreSQL wiki, "Number Of Database
/// Connections".
const IDLE_CONNECTIONS_MIN: i64 = 50;
/// An open transaction of this age hurts whatever it does.
const TRANSACTION_CRITICAL_SECONDS: f64 = 3_600.0;
/// Longest wait for a lock that nobody needs to hear of.
const LOCK_WAIT_SECONDS: f64 = 30.0;
/// So many sessions behind one are a pile-up: the application's pool is next.
const LOCK_QUEUE_CRITICAL: usize = 5;

#[derive(Deserialize)]
struct Connections {
    scope: String,
    name: String,
    used: i64,
    allowed: i64,
    idle: Option<i64>,
}

pub(crate) fn connections(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Connections>(rows)? {
        #[allow(clippy::cast_precision_loss)] // Connections are few.
        let share = row.used as f64 / row.allowed.max(1) as f64;
        let (code, whose) = match row.scope.as_str() {
            "server" => ("connections_near_limit", "the server's".to_owned()),
            "database" => ("database_connections_near_limit", format!("the database `{}`'s", row.name)),
            _ => ("role_connections_near_limit", format!("the role `{}`'s", row.name)),
        };
        if share >= CONNECTIONS_WARNING {
            let critical = share >= CONNECTIONS_CRITICAL;
            let title = format!(
                "{} of {whose} {} connections are in use ({})",
                row.used,
                row.allowed,
                percent(share)
            );
            let fix = match row.scope.as_str() {
                "server" => "put a pooler in front (PgBouncer), or end what leaks connections: `SELECT usename, \
                             application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2, 3 ORDER BY 4 DESC`"
                    .to_owned(),
                "database" => format!("ALTER DATABASE \"{}\" CONNECTION LIMIT {}", row.name, row.allowed * 2),
                _ => format!("ALTER ROLE \"{}\" CONNECTION LIMIT {}", row.name, row.allowed * 2),
            };
            if critical && row.scope == "server" {
                judged.escalated(Trigger::PerformanceDegradation, code, &row.name, title, fix);
            } else {
                let severity = if critical { Severity::Critical } else { Severity::Warning };
                judged.found(code, severity, &row.name, title, fix);
            }
        }
        if let Some(idle) = row.idle.filter(|idle| *idle >= IDLE_CONNECTIONS_MIN && idle * 2 >= row.allowed) {
            judged.found(
                "idle_connections",
                Severity::Warning,
                "",
                format!("{idle} of {} connections are open and do nothing", row.allowed),
                "put a pooler in transaction mode in front, and let the application's pools be smaller",
            );
        }
    }
    judged.hidden = server.others_hidden();
    Ok(judged)
}

#[derive(Deserialize)]
struct Transaction {
    pid: i64,
    user: Option<String>,
    application: Option<String>,
    state: Option<String>,
    #[serde(rename = "transaction_seconds")]
    open_seconds: f64,
    state_seconds: Option<f64>,
}

/// `pid 123 (app, billing)`.
fn session(pid: i64, user: Option<&str>, application: Option<&str>) -> String {
    let who: Vec<&str> = [user, application].into_iter().flatten().filter(|word| !word.is_empty()).collect();
    if who.is_empty() { format!("pid {pid}") } else { format!("pid {pid} ({})", who.join(", ")) }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Saturates, and ages are no negative numbers.
fn seconds(value: f64) -> String {
    span(value.max(0.0) as u64)
}

pub(crate) fn transactions(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    let most = server.transaction_max.as_secs_f64();
    for row in read::<Transaction>(rows)? {
        let who = session(row.pid, row.user.as_deref(), row.application.as_deref());
        let object = format!("pid {}", row.pid);
        let state = row.state.as_deref().unwrap_or_default();
        let idle = state.starts_with("idle in transaction");
        let age = if idle { row.state_seconds.unwrap_or(row.open_seconds) } else { row.open_seconds };
        if age < most {
            continue;
        }
        let severity =
            if age >= TRANSACTION_CRITICAL_SECONDS { Severity::Critical } else { Severity::Warning };
        let end = format!("SELECT pg_terminate_backend({})", row.pid);
        if idle {
            judged.found(
                "idle_in_transaction",
                severity,
                &object,
                format!("{who} has an open transaction and has done nothing for {}", seconds(age)),
                format!("{end}; then let `idle_in_transaction_session_timeout` end such sessions by itself"),
            );
        } else {
            judged.found(
                "long_transaction",
                severity,
                &object,
                format!("the transaction of {who} is open for {}", seconds(age)),
                format!(
                    "{end}, if nobody waits for its result; vacuum removes nothing that died since it began"
                ),
            );
        }
    }
    judged.hidden = server.others_hidden();
    Ok(judged)
}

#[derive(Deserialize)]
struct LockWait {
    waiting_pid: i64,
    object: Option<String>,
    waiting_seconds: Option<f64>,
    blocking_pid: i64,
    blocking_user: Option<String>,
    blocking_application: Option<String>,
    blocking_state: Option<String>,
    blocking_seconds: Option<f64>,
    blocker_waits: bool,
}

/// One finding per session that waits for nobody and keeps others waiting; those behind a waiting one are its queue.
pub(crate) fn lock_waits(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let waits: Vec<LockWait> = read(rows)?;
    let mut judged = Judged::default();
    let most = LOCK_WAIT_SECONDS.min(server.transaction_max.as_secs_f64());
    let mut of_blocker: BTreeMap<i64, Vec<&LockWait>> = BTreeMap::new();
    for wait in &waits {
        of_blocker.entry(wait.blocking_pid).or_default().push(wait);
    }
    for (pid, direct) in of_blocker.iter().filter(|(_, waits)| !waits[0].blocker_waits) {
        let mut queue: Vec<i64> = Vec::new();
        let mut next: Vec<i64> = vec![*pid];
        while let Some(blocker) = next.pop() {
            for wait in of_blocker.get(&blocker).into_iter().flatten() {
                if !queue.contains(&wait.waiting_pid) {
                    queue.push(wait.waiting_pid);
                    next.push(wait.waiting_pid);
                }
            }
        }
        let longest = waits
            .iter()
            .filter(|wait| queue.contains(&wait.waiting_pid))
            .filter_map(|wait| wait.waiting_seconds)
            .fold(0.0, f64::max);
        if longest < most && queue.len() < LOCK_QUEUE_CRITICAL {
            continue;
        }
        let first = direct[0];
        let who = session(*pid, first.blocking_user.as_deref(), first.blocking_application.as_deref());
        let state = first.blocking_state.as_deref().unwrap_or("of unknown state");
        let since = first.blocking_seconds.map_or_else(String::new, |age| format!(" since {}", seconds(age)));
        let mut objects: Vec<String> = direct.iter().filter_map(|wait| wait.object.clone()).collect();
        objects.sort();
        objects.dedup();
        let title = format!(
            "{who}, {state}{since}, keeps {} waiting for {}, the longest for {}",
            count(queue.len() as u64, "session"),
            listed(&objects),
            seconds(longest)
        );
        let fix = format!("SELECT pg_terminate_backend({pid})");
        if queue.len() >= LOCK_QUEUE_CRITICAL {
            judged.escalated(
                Trigger::PerformanceDegradation,
                "lock_queue",
                &format!("pid {pid}"),
                title,
                fix,
            );
        } else {
            judged.found("lock_wait", Severity::Warning, &format!("pid {pid}"), title, fix);
        }
    }
    judged.hidden = server.others_hidden();
    Ok(judged)
}

#[derive(Deserialize)]
struct Prepared {
    gid: String,
    owner: String,
    seconds: f64,
    quoted_gid: String,
}

pub(crate) fn prepared_transactions(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Prepared>(rows)? {
        if row.seconds < server.transaction_max.as_secs_f64() {
            continue;
        }
        judged.found(
            "prepared_transaction_forgotten",
            if row.seconds >= TRANSACTION_CRITICAL_SECONDS { Severity::Critical } else { Severity::Warning },
            &row.gid,
            format!(
                "the prepared transaction of `{}` waits for its end for {}; its locks survive a restart",
                row.owner,
                seconds(row.seconds)
            ),
            format!(
                "COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid}, as its coordinator says",
                gid = row.quoted_gid
            ),
        );
    }
    Ok(judged)
}

/// Transactions that something may hold vacuum back before it is reported: at 1,000 a second, close to three hours.
const HORIZON_TRANSACTIONS: u64 = 10_000_000;

#[derive(Deserialize)]
struct Holder {
    kind: String,
    #[serde(rename = "holder")]
    name: String,
    age: Option<u64>,
}

pub(crate) fn horizon(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Holder>(rows)? {
        if let Some(age) = row.age.filter(|age| *age >= HORIZON_TRANSACTIONS) {
            judged.found(
                "vacuum_held_back",
                Severity::Warning,
                &row.name,
                format!(
                    "the {} `{}` keeps vacuum from removing what died in the last {} transactions",
                    row.kind,
                    row.name,
                    thousands(age)
                ),
                match row.kind.as_str() {
                    "slot" => format!(
                        "SELECT pg_drop_replication_slot('{}'), if nobody needs it",
                        row.name.replace('\'', "''")
                    ),
                    "standby" => {
                        "end the long query on the standby, or switch `hot_standby_feedback` off there"
                            .to_owned()
                    }
                    "prepared transaction" => "commit it or roll it back".to_owned(),
                    _ => "end the session: `SELECT pg_terminate_backend(pid)`".to_owned(),
                },
            );
        }
    }
    judged.hidden = server.others_hidden();
    Ok(judged)
}
