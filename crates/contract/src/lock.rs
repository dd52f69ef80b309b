//! Who is in the way of a change.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A session that holds a lock on a table, or stands in the queue for one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LockHolder {
    /// The server's number of the session, or the process of a file's holder.
    pub pid: i64,
    /// Its login; empty where it is not shown.
    pub user: String,
    /// What it calls itself; empty where it is not shown.
    pub application: String,
    /// Such as `active` or `idle in transaction`; `None` where our login may not see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Age of its transaction, in milliseconds; `None` where our login may not see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_age_ms: Option<u64>,
    /// The table.
    pub table: String,
    /// The lock, in the engine's words, such as `ACCESS SHARE`.
    pub lock: String,
    /// It waits for the lock and does not have it yet.
    pub waiting: bool,
    /// When the session began, as `session end` wants to hear it; `None` where our login may not see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// Why its end would harm more than itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<String>,
}

/// Such as: pid 4711 (`app` of `shop`) holds ACCESS SHARE on `orders`, idle in transaction for 93 s.
impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid)?;
        match (self.application.as_str(), self.user.as_str()) {
            ("", "") => {}
            ("", who) | (who, "") => write!(f, " (`{who}`)")?,
            (application, user) => write!(f, " (`{application}` of `{user}`)")?,
        }
        let verb = if self.waiting { "waits for" } else { "holds" };
        write!(f, " {verb} {} on `{}`", self.lock, self.table)?;
        match (&self.state, self.transaction_age_ms) {
            (Some(state), Some(age)) => write!(f, ", {state}, in a transaction for {} s", age / 1_000),
            (Some(state), None) => write!(f, ", {state}"),
            (None, Some(age)) => write!(f, ", in a transaction for {} s", age / 1_000),
            (None, None) => f.write_str("; our login may not see what it does"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_is_described_as_far_as_it_is_known() {
        let known = LockHolder {
            pid: 4711,
            user: "app".into(),
            application: "shop".into(),
            state: Some("idle in transaction".into()),
            transaction_age_ms: Some(93_400),
            table: "public.orders".into(),
            lock: "ACCESS SHARE".into(),
            waiting: false,
            started: Some("2026-03-04T05:06:07.000000Z".into()),
            protected: None,
        };
        assert_eq!(
            known.to_string(),
            "pid 4711 (`shop` of `app`) holds ACCESS SHARE on `public.orders`, idle in transaction, in a transaction \
             for 93 s"
        );
        let hidden = LockHolder {
            application: String::new(),
            state: None,
            transaction_age_ms: None,
            waiting: true,
            ..known
        };
        assert_eq!(
            hidden.to_string(),
            "pid 4711 (`app`) waits for ACCESS SHARE on `public.orders`; our login may not see what it does"
        );
    }
}
