//! Who waits for whom in a running store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Instant;

use contract::{
    Activity, Context, Effect, Error, Finding, LockHolder, Outcome, Request, SessionCount, SessionInfo,
    Severity, StoreDirectory, Trigger,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::inquiry::{Inquiry, millis_since};
use crate::operate::role;
use crate::text::{self, TO_STRING};

/// Sessions of a kind that the text shows; the value has all.
const SHOWN_MAX: usize = 20;

/// Longest part of a statement that the text shows, in characters.
const STATEMENT_CHARS_MAX: usize = 100;

/// Share of the connections from which on the next surge may be refused.
const CONNECTIONS_SHARE_MAX: f64 = 0.8;

/// Arguments of `store.locks`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreLocks {
    /// The store's name in the project file.
    pub store: String,
    /// A statement or an open transaction is long from this age on, in milliseconds.
    #[serde(default = "default_long_ms")]
    pub long_ms: u64,
}

fn default_long_ms() -> u64 {
    60_000
}

impl Request for StoreLocks {
    const NAME: &'static str = "store.locks";
    const SUMMARY: &'static str =
        "Show who waits for whom, long and idle transactions, and how many connections are left";
    const EXAMPLE: &'static str = "steward store locks orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "performance.read";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Looks at the sessions of the server.
///
/// Value: `store`, the fields of [`Activity`], `tree[] {pid, blocks, waiting, sessions_behind}` (roots first, the one
/// with most behind it first), `long[]` and `idle_in_transaction[]` (pids). Findings: `blocking_session`,
/// `lock_cycle`, `idle_in_transaction`, `long_transaction`, `long_statement`, `prepared_transaction`,
/// `connections_nearly_used_up`, `sessions_hidden`.
///
/// # Errors
///
/// `Unsupported`: the engine does not know who waits. Otherwise from the store.
pub async fn locks(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &StoreLocks,
) -> Result<Outcome, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let started = Instant::now();
    let activity = role(&*inquiry.store)?.activity(ctx).await?;
    let evidence = inquiry.note("activity", json!(activity), millis_since(started));
    let tree = Tree::of(&activity.sessions);
    #[allow(clippy::cast_precision_loss, reason = "compared with an age")]
    let long_ms = request.long_ms as f64;
    let mut value = json!(activity);
    value["store"] = json!(request.store);
    value["tree"] = json!(tree.roots.iter().map(|root| tree.value(*root)).collect::<Vec<_>>());
    value["long"] = json!(long(&activity, long_ms).map(|session| session.pid).collect::<Vec<_>>());
    value["idle_in_transaction"] = json!(idle(&activity).map(|session| session.pid).collect::<Vec<_>>());
    let mut outcome = Outcome::new(value, locks_text(&request.store, &activity, &tree, long_ms));
    outcome.findings = findings(&request.store, &activity, &tree, long_ms, &evidence);
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

/// Who waits for whom, from those who wait for nobody down.
struct Tree<'a> {
    sessions: BTreeMap<i32, &'a SessionInfo>,
    /// Whom a session holds up directly.
    behind: BTreeMap<i32, Vec<i32>>,
    /// Sessions that block and are not blocked, the one with most behind it first; then one of each circle.
    roots: Vec<i32>,
    /// Sessions that wait in a circle.
    circles: BTreeSet<i32>,
}

impl<'a> Tree<'a> {
    fn of(sessions: &'a [SessionInfo]) -> Self {
        let mut behind: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for session in sessions {
            for blocker in &session.blocked_by {
                let waiting = behind.entry(*blocker).or_default();
                if !waiting.contains(&session.pid) {
                    waiting.push(session.pid);
                }
            }
        }
        let by_pid: BTreeMap<i32, &SessionInfo> =
            sessions.iter().map(|session| (session.pid, session)).collect();
        let mut tree = Self { sessions: by_pid, behind, roots: Vec::new(), circles: BTreeSet::new() };
        let blocked =
            |pid: &i32| tree.sessions.get(pid).is_some_and(|session| !session.blocked_by.is_empty());
        let mut roots: Vec<i32> = tree.behind.keys().copied().filter(|pid| !blocked(pid)).collect();
        roots.sort_by_key(|pid| std::cmp::Reverse(tree.all_behind(*pid).len()));
        let mut seen: BTreeSet<i32> = roots.iter().flat_map(|root| tree.all_behind(*root)).collect();
        // What no root reaches waits in a circle, or behind one.
        for pid in tree.behind.keys().copied().collect::<Vec<_>>() {
            let reached = tree.all_behind(pid);
            if reached.contains(&pid) {
                tree.circles.insert(pid);
                if !seen.contains(&pid) {
                    seen.extend(&reached);
                    seen.insert(pid);
                    roots.push(pid);
                }
            }
        }
        tree.roots = roots;
        tree
    }

    /// All who cannot go on before this one has ended.
    fn all_behind(&self, pid: i32) -> BTreeSet<i32> {
        let mut all = BTreeSet::new();
        let mut next = vec![pid];
        while let Some(blocker) = next.pop() {
            for waiting in self.behind.get(&blocker).into_iter().flatten() {
                if all.insert(*waiting) {
                    next.push(*waiting);
                }
            }
        }
        all
    }

    fn value(&self, root: i32) -> Value {
        json!({"pid": root, "blocks": self.behind.get(&root), "sessions_behind": self.all_behind(root).len(),
               "waiting": self.all_behind(root)})
    }

    /// Lines for a session and for those behind it, indented.
    fn lines(&self, pid: i32, depth: usize, seen: &mut BTreeSet<i32>, out: &mut String) {
        let indent = "  ".repeat(depth + 1);
        if !seen.insert(pid) {
            write!(out, "\n{indent}{pid} (shown above)").expect(TO_STRING);
            return;
        }
        match self.sessions.get(&pid) {
            Some(session) => {
                write!(out, "\n{indent}{}", session_line(session)).expect(TO_STRING);
                if let Some(lock) = &session.waits_for {
                    let since = session.waiting_ms.map_or_else(String::new, |ms| format!(" for {}", age(ms)));
                    write!(out, "\n{indent}  waits{since}: {} on {}", lock.mode, lock.object)
                        .expect(TO_STRING);
                }
                if depth == 0 && !session.holds.is_empty() {
                    let holds: Vec<String> = session
                        .holds
                        .iter()
                        .take(4)
                        .map(|lock| format!("{} on {}", lock.mode, lock.object))
                        .collect();
                    let more = session.holds.len().saturating_sub(4);
                    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                    write!(out, "\n{indent}  holds {}{more}", holds.join(", ")).expect(TO_STRING);
                }
                if !session.statement.is_empty() {
                    let statement = text::plain(&one_line(&session.statement), STATEMENT_CHARS_MAX);
                    write!(out, "\n{indent}  {statement}").expect(TO_STRING);
                }
            }
            None => write!(out, "\n{indent}{pid}: a prepared transaction, or a session that we may not see")
                .expect(TO_STRING),
        }
        for waiting in self.behind.get(&pid).into_iter().flatten() {
            self.lines(*waiting, depth + 1, seen, out);
        }
    }
}

fn one_line(statement: &str) -> String {
    statement.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn age(ms: f64) -> String {
    if ms < 1_000.0 {
        text::millis(ms)
    } else if ms < 120_000.0 {
        format!("{:.0} s", ms / 1e3)
    } else if ms < 7_200_000.0 {
        format!("{:.0} min", ms / 6e4)
    } else {
        format!("{:.1} h", ms / 3.6e6)
    }
}

fn session_line(session: &SessionInfo) -> String {
    let mut line = format!("{} {}", session.pid, session.state);
    let ages = [("in transaction", session.transaction_ms), ("in this state", session.state_ms)];
    for (what, ms) in ages {
        if let Some(ms) = ms {
            write!(line, ", {} {what}", age(ms)).expect(TO_STRING);
        }
    }
    for (what, word) in [("", &session.user), ("from ", &session.application), ("", &session.kind)] {
        if !word.is_empty() && word != "client backend" {
            write!(line, ", {what}{word}").expect(TO_STRING);
        }
    }
    if !session.backend_start.is_empty() {
        write!(line, ", started {}", session.backend_start).expect(TO_STRING);
    }
    line
}

fn is_idle_in_transaction(session: &SessionInfo) -> bool {
    session.state.starts_with("idle in transaction")
}

fn long(activity: &Activity, long_ms: f64) -> impl Iterator<Item = &SessionInfo> {
    activity.sessions.iter().filter(move |session| {
        session.kind == "client backend"
            && session.state == "active"
            && session.statement_ms.is_some_and(|ms| ms >= long_ms)
    })
}

fn idle(activity: &Activity) -> impl Iterator<Item = &SessionInfo> {
    activity.sessions.iter().filter(|session| is_idle_in_transaction(session))
}

fn end_command(store: &str, session: &SessionInfo) -> String {
    let started = Some(session.backend_start.as_str()).filter(|started| !started.is_empty());
    end_of(store, i64::from(session.pid), &session.state, started, session.protected.as_deref())
}

/// How a session that holds a lock is ended, as a whole command.
pub(crate) fn end_of_holder(store: &str, holder: &LockHolder) -> String {
    let state = holder.state.as_deref().unwrap_or_default();
    end_of(store, holder.pid, state, holder.started.as_deref(), holder.protected.as_deref())
}

fn end_of(store: &str, pid: i64, state: &str, started: Option<&str>, protected: Option<&str>) -> String {
    if let Some(why) = protected {
        return format!("look at it first: {why}");
    }
    let Some(started) = started else {
        return format!("give Steward a login that may see it: `steward store locks {store}` says how");
    };
    // There is nothing to cancel in a session that runs nothing.
    let how = if state == "active" { "cancel" } else { "terminate" };
    format!("`steward session end {store} {pid} --started {started} --how {how}`")
}

fn findings(store: &str, activity: &Activity, tree: &Tree<'_>, long_ms: f64, evidence: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |code: &str, severity, title: String, object: String, fix: String, escalate| {
        findings.push(Finding {
            code: code.into(),
            severity,
            title,
            object,
            recommendation: Some(fix),
            evidence: vec![evidence.to_owned()],
            escalate,
        });
    };
    let mut told = BTreeSet::new();
    for root in &tree.roots {
        let behind = tree.all_behind(*root);
        let Some(session) = tree.sessions.get(root) else { continue };
        told.insert(*root);
        if tree.circles.contains(root) {
            found(
                "lock_cycle",
                Severity::Critical,
                format!(
                    "{} wait for each other; the server ends one of them after its deadlock_timeout",
                    text::count(behind.len() as u64, "session")
                ),
                format!("session {root}"),
                end_command(store, session),
                Some(Trigger::PerformanceDegradation),
            );
            continue;
        }
        let longest =
            behind.iter().filter_map(|pid| tree.sessions.get(pid)?.waiting_ms).fold(0.0_f64, f64::max);
        let severe = longest >= long_ms;
        found(
            "blocking_session",
            if severe { Severity::Critical } else { Severity::Warning },
            format!(
                "session {root} ({}, {}) holds up {}, the longest for {}",
                session.user,
                session.state,
                text::count(behind.len() as u64, "session"),
                age(longest)
            ),
            format!("session {root}"),
            end_command(store, session),
            severe.then_some(Trigger::PerformanceDegradation),
        );
    }
    for session in idle(activity).filter(|session| session.state_ms.is_some_and(|ms| ms >= long_ms)) {
        if told.insert(session.pid) {
            found(
                "idle_in_transaction",
                Severity::Warning,
                format!(
                    "session {} ({}) has been idle in a transaction for {}",
                    session.pid,
                    session.user,
                    age(session.state_ms.unwrap_or_default())
                ),
                format!("session {}", session.pid),
                end_command(store, session),
                None,
            );
        }
    }
    for session in long(activity, long_ms) {
        if session.blocked_by.is_empty() && told.insert(session.pid) {
            found(
                "long_statement",
                Severity::Warning,
                format!(
                    "session {} ({}) has run one statement for {}",
                    session.pid,
                    session.user,
                    age(session.statement_ms.unwrap_or_default())
                ),
                format!("session {}", session.pid),
                end_command(store, session),
                None,
            );
        }
    }
    for session in &activity.sessions {
        let old = session.transaction_ms.is_some_and(|ms| ms >= long_ms);
        if old
            && session.kind == "client backend"
            && session.blocked_by.is_empty()
            && told.insert(session.pid)
        {
            found(
                "long_transaction",
                Severity::Warning,
                format!(
                    "session {} ({}) has had a transaction open for {}: nothing that died since is cleared away",
                    session.pid,
                    session.user,
                    age(session.transaction_ms.unwrap_or_default())
                ),
                format!("session {}", session.pid),
                end_command(store, session),
                None,
            );
        }
    }
    for name in &activity.prepared_transactions {
        found(
            "prepared_transaction",
            Severity::Warning,
            format!("the prepared transaction {name} keeps its locks until someone ends it"),
            name.clone(),
            "`COMMIT PREPARED` or `ROLLBACK PREPARED` by whoever prepared it; no session holds it".to_owned(),
            None,
        );
    }
    let usable = activity.connections_max.saturating_sub(activity.connections_reserved);
    #[allow(clippy::cast_precision_loss, reason = "counts of connections")]
    let share = activity.connections as f64 / (usable.max(1)) as f64;
    if activity.connections_max > 0 && share >= CONNECTIONS_SHARE_MAX {
        let most = activity.by_application.first();
        found(
            "connections_nearly_used_up",
            if share >= 0.95 { Severity::Critical } else { Severity::Warning },
            format!(
                "{} of {usable} connections are used{}",
                activity.connections,
                most.map_or_else(String::new, |most| format!(", {} of them by {}", most.sessions, most.of))
            ),
            String::new(),
            "let applications share connections through a pool, end idle ones, or raise `max_connections` (restart)"
                .to_owned(),
            (share >= 0.95).then_some(Trigger::PerformanceDegradation),
        );
    }
    if let Some(hidden) = &activity.hidden {
        found(
            "sessions_hidden",
            Severity::Info,
            hidden.clone(),
            String::new(),
            format!(
                "name an `admin` login for {store} in steward.yaml, or let the reading one see statistics"
            ),
            None,
        );
    }
    findings
}

fn counts(counts: &[SessionCount]) -> String {
    let shown: Vec<String> =
        counts.iter().take(5).map(|count| format!("{} {}", count.sessions, count.of)).collect();
    let rest: u64 = counts.iter().skip(5).map(|count| count.sessions).sum();
    if rest > 0 { format!("{}, {rest} others", shown.join(", ")) } else { shown.join(", ") }
}

fn locks_text(store: &str, activity: &Activity, tree: &Tree<'_>, long_ms: f64) -> String {
    let mut out = format!(
        "{store}: {} of {} connections ({} reserved)",
        activity.connections, activity.connections_max, activity.connections_reserved
    );
    for (what, list) in [
        ("by state", &activity.by_state),
        ("by application", &activity.by_application),
        ("by login", &activity.by_user),
        ("by database", &activity.by_database),
    ] {
        if !list.is_empty() {
            write!(out, "\n  {what:<14}  {}", counts(list)).expect(TO_STRING);
        }
    }
    let mut seen = BTreeSet::new();
    if tree.roots.is_empty() {
        out.push_str("\n\nnobody waits for a lock");
    } else {
        out.push_str("\n\nwho waits for whom (end the outermost first)");
        for root in tree.roots.iter().take(SHOWN_MAX) {
            tree.lines(*root, 0, &mut seen, &mut out);
        }
    }
    let mut section = |title: &str, sessions: Vec<&SessionInfo>| {
        if sessions.is_empty() {
            return;
        }
        write!(out, "\n\n{title}").expect(TO_STRING);
        for session in sessions.iter().take(SHOWN_MAX) {
            write!(out, "\n  {}", session_line(session)).expect(TO_STRING);
            if !session.statement.is_empty() {
                let statement = text::plain(&one_line(&session.statement), STATEMENT_CHARS_MAX);
                write!(out, "\n    {statement}").expect(TO_STRING);
            }
        }
        if sessions.len() > SHOWN_MAX {
            write!(out, "\n  and {} more", sessions.len() - SHOWN_MAX).expect(TO_STRING);
        }
    };
    let rest = |session: &&SessionInfo| !seen.contains(&session.pid);
    section("idle in a transaction", idle(activity).filter(rest).collect());
    let title = format!("statements longer than {}", age(long_ms));
    section(&title, long(activity, long_ms).filter(rest).collect());
    for name in &activity.prepared_transactions {
        write!(out, "\n\nprepared transaction {name}").expect(TO_STRING);
    }
    if let Some(hidden) = &activity.hidden {
        write!(out, "\n\n{hidden}").expect(TO_STRING);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(pid: i32, blocked_by: &[i32]) -> SessionInfo {
        SessionInfo {
            pid,
            backend_start: format!("2026-03-04T05:06:0{}.000000Z", pid % 10),
            kind: "client backend".into(),
            user: "app".into(),
            database: "shop".into(),
            application: "checkout".into(),
            client: "10.0.0.7".into(),
            state: if blocked_by.is_empty() { "idle in transaction" } else { "active" }.into(),
            waits_on: String::new(),
            transaction_ms: Some(65_000.0),
            statement_ms: Some(64_000.0),
            state_ms: Some(64_000.0),
            has_written: true,
            statement: "UPDATE orders SET total = ? WHERE id = ?".into(),
            blocked_by: blocked_by.to_vec(),
            waits_for: (!blocked_by.is_empty())
                .then(|| contract::LockOn { mode: "ShareLock".into(), object: "transaction 733".into() }),
            waiting_ms: (!blocked_by.is_empty()).then_some(61_000.0),
            holds: vec![contract::LockOn {
                mode: "RowExclusiveLock".into(),
                object: "table public.orders".into(),
            }],
            protected: None,
        }
    }

    #[test]
    fn the_root_with_most_behind_it_comes_first() {
        let sessions =
            [session(1, &[]), session(2, &[1]), session(3, &[]), session(4, &[3]), session(5, &[4, 3])];
        let tree = Tree::of(&sessions);
        assert_eq!(tree.roots, [3, 1]);
        assert_eq!(tree.all_behind(3), BTreeSet::from([4, 5]));
        assert!(tree.circles.is_empty());
        let activity = Activity {
            connections_max: 100,
            connections_reserved: 3,
            connections: 5,
            by_state: vec![SessionCount { of: "active".into(), sessions: 3 }],
            sessions: sessions.to_vec(),
            ..Activity::default()
        };
        insta::assert_snapshot!(locks_text("shop", &activity, &tree, 60_000.0));
        let found = findings("shop", &activity, &tree, 60_000.0, "ev-1");
        let codes: Vec<&str> = found.iter().map(|finding| finding.code.as_str()).collect();
        assert_eq!(codes, ["blocking_session", "blocking_session"]);
        assert_eq!(
            found[0].recommendation.as_deref(),
            Some("`steward session end shop 3 --started 2026-03-04T05:06:03.000000Z --how terminate`")
        );
    }

    #[test]
    fn sessions_that_wait_in_a_circle_are_found() {
        let sessions = [session(1, &[2]), session(2, &[1]), session(3, &[2])];
        let tree = Tree::of(&sessions);
        assert_eq!(tree.roots, [1]);
        assert_eq!(tree.circles, BTreeSet::from([1, 2]));
        let activity = Activity { sessions: sessions.to_vec(), ..Activity::default() };
        let text = locks_text("shop", &activity, &tree, 60_000.0);
        assert!(text.contains("1 (shown above)"), "{text}");
        assert_eq!(findings("shop", &activity, &tree, 60_000.0, "ev-1")[0].code, "lock_cycle");
    }
}
