//! Who is connected, who waits for whom, and how a session is ended.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::{
    Activity, Context, EndHow, Error, ErrorKind, Finding, LockOn, PlanStep, Prepared, SessionCount,
    SessionInfo, Severity, Statement, StepMode,
};
use serde_json::{Value, json};
use tokio_postgres::{Client, Row};

use crate::error::translate;
use crate::operate::denied;
use crate::session::{Purpose, Session};
use crate::statement::without_literals;
use crate::store::PostgresStore;

/// Locks of one session that are told.
const LOCKS_MAX: usize = 20;
/// Longest wait for a session to end, and for a statement to stop, once the server has been told.
const END_WAIT: Duration = Duration::from_secs(15);
/// Between two looks.
const END_LOOK_EVERY: Duration = Duration::from_millis(50);

/// A session with what only the end of it needs.
struct Found {
    info: SessionInfo,
    /// Its transaction has changed something, and began before the statement that it runs.
    has_written_before: bool,
    query_start: String,
    leader: Option<i32>,
}

fn found(row: &Row, own_logins: &[String]) -> Found {
    let statement: String = row.get("statement");
    let hidden = statement == "<insufficient privilege>";
    let mut info = SessionInfo {
        pid: row.get("pid"),
        backend_start: row.get("backend_start"),
        kind: row.get("kind"),
        user: row.get("user"),
        database: row.get("database"),
        application: row.get("application"),
        client: row.get("client"),
        state: row.get("state"),
        waits_on: row.get("waits_on"),
        transaction_ms: row.get("transaction_ms"),
        statement_ms: row.get("statement_ms"),
        state_ms: row.get("state_ms"),
        has_written: row.get("has_written"),
        statement: if hidden { String::new() } else { without_literals(&statement) },
        blocked_by: row.get("blocked_by"),
        waits_for: None,
        waiting_ms: row.get("waiting_ms"),
        holds: Vec::new(),
        protected: None,
    };
    if hidden && info.state.is_empty() {
        info.state = "not visible".into();
    }
    info.protected = protected(&info.kind, &info.user, &info.application, &statement, own_logins);
    Found {
        info,
        has_written_before: row.get("has_written_before"),
        query_start: row.get("query_start"),
        leader: row.get("leader_pid"),
    }
}

/// Why the end of a session harms more than itself.
pub(crate) fn protected(
    kind: &str,
    user: &str,
    application: &str,
    statement: &str,
    own_logins: &[String],
) -> Option<String> {
    let why = match kind {
        "client backend" | "not visible" | "parallel worker" => {
            let own = application == "steward" && own_logins.iter().any(|login| login == user);
            return own.then(|| "it is Steward's own".to_owned());
        }
        "walsender" => "it streams changes to a replica or a consumer, which falls behind without it",
        "autovacuum worker" if statement.contains("(to prevent wraparound)") => {
            "it vacuums against wraparound: without it the server stops taking writes in the end"
        }
        "autovacuum worker" => return None,
        _ => "it works for the server itself",
    };
    Some(why.to_owned())
}

/// Sessions that the server needs to run: never ended.
fn is_of_the_server(kind: &str) -> bool {
    !matches!(
        kind,
        "client backend"
            | "not visible"
            | "parallel worker"
            | "walsender"
            | "autovacuum worker"
            | "background worker"
            | "logical replication worker"
            | "logical replication apply worker"
            | "logical replication parallel worker"
            | "logical replication tablesync worker"
    )
}

impl PostgresStore {
    pub(crate) fn own_logins(&self) -> Vec<String> {
        [Purpose::Read, Purpose::Write, Purpose::Administer]
            .into_iter()
            .filter_map(|purpose| Some(self.opener.login(purpose)?.user.clone()))
            .collect()
    }

    /// A session that sees what others do: of the reading login if it may, otherwise of the administering one. Where
    /// all places of ordinary logins are taken, also of that.
    pub(crate) async fn open_to_watch(&self, ctx: &Context) -> Result<(Session, bool), Error> {
        let has_admin = self.opener.login(Purpose::Administer).is_some();
        let reader = match self.open_to_look(ctx, Purpose::Read).await {
            Ok(session) => session,
            Err(error) if has_admin && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied) => {
                return match self.open_to_look(ctx, Purpose::Administer).await {
                    Ok(session) => Ok((session, true)),
                    Err(_) => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        let sees = sees_all(&reader.client).await?;
        if !sees
            && has_admin
            && let Ok(admin) = self.open_to_look(ctx, Purpose::Administer).await
        {
            let sees = sees_all(&admin.client).await?;
            return Ok((admin, sees));
        }
        Ok((reader, sees))
    }

    pub(crate) async fn look_at_activity(&self, ctx: &Context) -> Result<Activity, Error> {
        let (session, sees_all) = self.open_to_watch(ctx).await?;
        let client = &session.client;
        let failed = |error: tokio_postgres::Error| translate(&error);
        let row = client
            .query_one(
                "SELECT current_setting('max_connections')::int8, \
                 current_setting('superuser_reserved_connections')::int8 \
                 + COALESCE(NULLIF(current_setting('reserved_connections', true), ''), '0')::int8",
                &[],
            )
            .await
            .map_err(failed)?;
        let number = |number: i64| u64::try_from(number).unwrap_or(0);
        let mut activity = Activity {
            connections_max: number(row.get(0)),
            connections_reserved: number(row.get(1)),
            seen_as: session.rights.login.user.clone(),
            ..Activity::default()
        };
        for row in client.query(include_str!("sql/connections.sql"), &[]).await.map_err(failed)? {
            let count = SessionCount { of: row.get("of"), sessions: number(row.get("sessions")) };
            match row.get("by") {
                "state" => {
                    activity.connections += count.sessions;
                    activity.by_state.push(count);
                }
                "application" => activity.by_application.push(count),
                "user" => activity.by_user.push(count),
                _ => activity.by_database.push(count),
            }
        }
        let own = self.own_logins();
        let rows =
            client.query(include_str!("sql/activity.sql"), &[&Vec::<i32>::new()]).await.map_err(failed)?;
        activity.sessions = rows.iter().map(|row| found(row, &own).info).collect();
        add_locks(client, &mut activity.sessions).await?;
        let rows = client
            .query(
                "SELECT format('%s of %s, prepared %s', quote_literal(gid), owner, \
                 to_char(prepared AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')) \
                 FROM pg_catalog.pg_prepared_xacts WHERE database = current_database() ORDER BY prepared",
                &[],
            )
            .await
            .map_err(failed)?;
        activity.prepared_transactions = rows.iter().map(|row| row.get(0)).collect();
        if !sees_all {
            activity.hidden = Some(format!(
                "the login `{user}` does not see states and statements of other logins: GRANT pg_read_all_stats TO \
                 {quoted}, or configure an `admin` login that may",
                user = activity.seen_as,
                quoted = crate::statement::quote_identifier(&activity.seen_as)
            ));
        }
        Ok(activity)
    }

    /// The one session, if it is there. A number that has been used again is another session.
    async fn find_session(&self, client: &Client, pid: i32) -> Result<Option<Found>, Error> {
        client
            .batch_execute("SELECT pg_catalog.pg_stat_clear_snapshot()")
            .await
            .map_err(|error| translate(&error))?;
        let rows = client
            .query(include_str!("sql/activity.sql"), &[&vec![pid]])
            .await
            .map_err(|error| translate(&error))?;
        let own = self.own_logins();
        Ok(rows.iter().map(|row| found(row, &own)).find(|found| found.info.pid == pid))
    }

    pub(crate) async fn prepare_end(
        &self,
        ctx: &Context,
        pid: i32,
        backend_start: &str,
        how: EndHow,
        even_protected: bool,
    ) -> Result<Prepared, Error> {
        let (session, _) = self.open_to_watch(ctx).await?;
        let seen = self.find_session(&session.client, pid).await?;
        let gone = |why: String| Prepared {
            summary: format!("nothing to do: {why}"),
            state: json!({"pid": pid, "started": null}),
            seen: json!({"pid": pid, "found": null}),
            login: "writer".into(),
            ..Prepared::default()
        };
        let Some(found) = seen else {
            return Ok(gone(format!("there is no session {pid} any more")));
        };
        let target = &found.info;
        if target.backend_start.is_empty() {
            return Err(denied(
                &format!("the login `{}` does not see when session {pid} began", session.rights.login.user),
                "a superuser, or a member of pg_read_all_stats: configure it as `admin`",
            ));
        }
        if target.backend_start != backend_start {
            return Ok(gone(format!(
                "the session {pid} that began at {backend_start} has ended; its number now belongs to one that began \
                 at {}",
                target.backend_start
            )));
        }
        if is_of_the_server(&target.kind) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("session {pid} is the server's own {}: it is never ended", target.kind),
            ));
        }
        if let Some(leader) = found.leader.filter(|leader| *leader != pid) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("session {pid} only helps session {leader} with its statement"),
            )
            .hint(format!("end session {leader}")));
        }
        if let Some(why) = target.protected.as_ref().filter(|_| !even_protected) {
            return Err(Error::new(ErrorKind::Invalid, format!("session {pid} is protected: {why}"))
                .with("kind", &target.kind)
                .hint("say `protected` if it is to be ended all the same"));
        }
        if how == EndHow::Cancel && target.state != "active" && target.kind == "client backend" {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("session {pid} is {}: it runs nothing that could be canceled", target.state),
            )
            .hint("`terminate` closes it; what it has not committed is rolled back"));
        }
        let login = self.login_to_signal(&session.client, target).await?;
        let begun = "to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') = $2";
        // A statement alone can be asked for again; what its transaction did before is rolled back with it.
        let loses_work = match how {
            EndHow::Cancel => found.has_written_before,
            EndHow::Terminate => target.has_written,
        };
        let loses_nothing = match (loses_work, how) {
            (true, _) => "",
            (false, EndHow::Cancel) => " AND (a.backend_xid IS NULL OR a.xact_start >= a.query_start)",
            (false, EndHow::Terminate) => " AND a.backend_xid IS NULL",
        };
        let (statement, summary, title, query_start) = match how {
            EndHow::Cancel => (
                Statement::with_parameters(
                    format!(
                        "SELECT pg_catalog.pg_cancel_backend(a.pid) FROM pg_catalog.pg_stat_activity a WHERE a.pid = \
                         $1::int4 AND {begun} AND to_char(a.query_start AT TIME ZONE 'UTC', \
                         'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') = $3{loses_nothing}"
                    ),
                    vec![json!(pid), json!(backend_start), json!(found.query_start)],
                ),
                format!("stop the statement of session {pid} ({})", target.user),
                "ask the server to stop the statement; its client gets an error and may ask again",
                Some(found.query_start.clone()),
            ),
            EndHow::Terminate => (
                Statement::with_parameters(
                    format!(
                        "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a WHERE \
                         a.pid = $1::int4 AND {begun}{loses_nothing}"
                    ),
                    vec![json!(pid), json!(backend_start)],
                ),
                format!("close session {pid} ({})", target.user),
                "ask the server to close the session; what it has not committed is rolled back",
                None,
            ),
        };
        let mut findings = Vec::new();
        if loses_work {
            findings.push(Finding {
                code: "uncommitted_work".into(),
                severity: Severity::Warning,
                title: format!(
                    "session {pid} has changed something that is not committed: it is rolled back"
                ),
                object: format!("session {pid}"),
                recommendation: Some("ask its owner first, if there is time".into()),
                evidence: Vec::new(),
                escalate: None,
            });
        }
        let step = PlanStep {
            // What it has not committed is gone, and nobody can bring it back.
            destructive: loses_work,
            reversible: !loses_work,
            ..PlanStep::new(
                format!("end session {pid} of {backend_start}"),
                title,
                StepMode::Transaction,
                vec![statement],
            )
        };
        Ok(Prepared {
            summary,
            steps: vec![step],
            login,
            state: json!({"pid": pid, "started": backend_start, "user": target.user, "statement_started": query_start,
                          "loses_work": loses_work}),
            predicted: json!({"pid": pid, "started": backend_start, "statement_started": query_start}),
            findings,
            seen: json!({"session": target}),
        })
    }

    /// The configured login that may signal the session.
    async fn login_to_signal(&self, client: &Client, target: &SessionInfo) -> Result<String, Error> {
        let rows = client
            .query(include_str!("sql/may_signal.sql"), &[&self.acting_logins().1, &target.user])
            .await
            .map_err(|error| translate(&error))?;
        let may: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        self.first_of(&may).ok_or_else(|| {
            let who = if target.user.is_empty() {
                "a superuser could: configure it as `admin`".to_owned()
            } else {
                format!(
                    "a superuser or a member of `{}` could, or of pg_signal_backend and pg_read_all_stats (not against a \
                     superuser's session): configure it as `admin`",
                    target.user
                )
            };
            denied(&format!("no configured login may end sessions of `{}`", target.user), &who)
        })
    }

    pub(crate) async fn unended(
        &self,
        ctx: &Context,
        predicted: &Value,
        how: EndHow,
    ) -> Result<Vec<String>, Error> {
        let pid = i32::try_from(predicted["pid"].as_i64().unwrap_or_default()).unwrap_or_default();
        let (session, _) = self.open_to_watch(ctx).await?;
        let began = tokio::time::Instant::now();
        loop {
            let found = self.find_session(&session.client, pid).await?;
            let same = found.as_ref().filter(|found| json!(found.info.backend_start) == predicted["started"]);
            let problem = match (same, how) {
                (None, _) => return Ok(Vec::new()),
                (Some(found), EndHow::Cancel) => {
                    if found.info.state != "active"
                        || json!(found.query_start) != predicted["statement_started"]
                    {
                        return Ok(Vec::new());
                    }
                    format!("the statement of session {pid} still runs")
                }
                (Some(_), EndHow::Terminate) => format!("session {pid} is still there"),
            };
            if began.elapsed() >= END_WAIT {
                return Ok(vec![format!("{problem} {} s after the server was told", END_WAIT.as_secs())]);
            }
            tokio::time::sleep(END_LOOK_EVERY).await;
        }
    }
}

async fn sees_all(client: &Client) -> Result<bool, Error> {
    let row = client
        .query_one("SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')", &[])
        .await
        .map_err(|error| translate(&error))?;
    Ok(row.get(0))
}

/// The locks that sessions wait for, and those that blockers and idle ones hold.
async fn add_locks(client: &Client, sessions: &mut [SessionInfo]) -> Result<(), Error> {
    let blockers: Vec<i32> = sessions.iter().flat_map(|session| session.blocked_by.clone()).collect();
    let wanted: Vec<i32> = sessions
        .iter()
        .filter(|session| {
            !session.blocked_by.is_empty()
                || blockers.contains(&session.pid)
                || session.state.starts_with("idle in transaction")
        })
        .map(|session| session.pid)
        .collect();
    let rows =
        client.query(include_str!("sql/locks.sql"), &[&wanted]).await.map_err(|error| translate(&error))?;
    let mut locks: BTreeMap<i32, Vec<(bool, LockOn)>> = BTreeMap::new();
    for row in &rows {
        let lock = LockOn { mode: row.get("mode"), object: row.get("object") };
        locks.entry(row.get("pid")).or_default().push((row.get("granted"), lock));
    }
    for session in sessions {
        let Some(locks) = locks.remove(&session.pid) else { continue };
        let holds = blockers.contains(&session.pid) || session.state.starts_with("idle in transaction");
        for (granted, lock) in locks {
            if !granted {
                session.waits_for = Some(lock);
            } else if holds && session.holds.len() < LOCKS_MAX {
                session.holds.push(lock);
            }
        }
    }
    Ok(())
}
