//! What a daemon knows of its keys and targets, written where other processes can read it.

use std::collections::BTreeMap;

use contract::{Context, Error};
use jiff::Timestamp;
use ledger::{Ledger, Write};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::table::Project;

/// What a state is about, such as the key `openai/main` of a provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct About {
    /// `key`, `target` or `table`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A state as a daemon wrote it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct State {
    /// What it says.
    pub state: Value,
    /// The process that wrote it.
    pub holder: String,
    /// When it was written.
    pub at: Timestamp,
}

/// The states that daemons wrote. Cheap to clone.
#[derive(Clone)]
pub struct States(Ledger);

impl States {
    /// The states in this ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self(ledger)
    }

    /// Replaces what this process says of the project.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub async fn write(
        &self,
        ctx: &Context,
        holder: &str,
        states: &BTreeMap<About, Value>,
    ) -> Result<(), Error> {
        // The rows of daemons that are gone go as well: one daemon serves a state.
        let mut write =
            Write::new().exec("DELETE FROM ai_states WHERE project = ?", vec![ctx.project().into()]);
        for (about, state) in states {
            write = write.exec(
                "INSERT INTO ai_states (project, kind, name, holder, state, at_us) VALUES (?, ?, ?, ?, ?, ?)",
                vec![
                    ctx.project().into(),
                    about.kind.as_str().into(),
                    about.name.as_str().into(),
                    holder.into(),
                    state.to_string().into(),
                    ctx.now().into(),
                ],
            );
        }
        // A state that is lost in a crash is that of a daemon that is gone.
        self.0.write(ctx, write.unsynced()).await.map(|_| ())
    }

    /// What daemons wrote about the project.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub async fn read(&self, ctx: &Context) -> Result<BTreeMap<About, State>, Error> {
        let rows = self
            .0
            .query(
                "SELECT kind, name, holder, state, at_us FROM ai_states WHERE project = ?",
                vec![ctx.project().into()],
            )
            .await?;
        let mut states = BTreeMap::new();
        for row in &rows {
            let about =
                About { kind: row.get_text("kind")?.to_owned(), name: row.get_text("name")?.to_owned() };
            let state = State {
                state: row.get_json("state")?,
                holder: row.get_text("holder")?.to_owned(),
                at: row.get_time("at_us")?,
            };
            states.insert(about, state);
        }
        Ok(states)
    }
}

/// What a table knows of its keys and targets at the moment.
pub fn snapshot(project: &Project, now: Instant, at: Timestamp) -> BTreeMap<About, Value> {
    let mut states = BTreeMap::new();
    let mut add = |kind: &str, name: String, state: Value| {
        states.insert(About { kind: kind.to_owned(), name }, state);
    };
    let pools = project.providers().map(|provider| (&provider.name, &provider.pool)).chain(
        project
            .pass_through()
            .iter()
            .map(|forwarded| (&forwarded.name, &forwarded.route.targets[0].provider.pool)),
    );
    for (provider, pool) in pools {
        for (secret, version, state) in pool.states(now) {
            let mut value = serde_json::to_value(&state).expect("a state is JSON");
            // An end rather than a rest, which would be another one at every look.
            if let Some(for_ms) = value["for_ms"].as_u64() {
                let until = at.saturating_add(jiff::SignedDuration::from_millis(
                    i64::try_from(for_ms).unwrap_or(i64::MAX),
                ));
                value["until"] =
                    json!(until.ok().map(|until| until.round(jiff::Unit::Second).unwrap_or(until)));
                value.as_object_mut().expect("it is an object").remove("for_ms");
            }
            value["version"] = json!(version);
            let suffix = version.map(|version| format!("@{version}")).unwrap_or_default();
            add("key", format!("{provider}:{secret}{suffix}"), value);
        }
    }
    for route in project.routes() {
        for target in &route.targets {
            let state = match target.breaker.open_until(now) {
                Some(until) => {
                    let left = i64::try_from((until - now).as_millis()).unwrap_or(i64::MAX);
                    let until = at.saturating_add(jiff::SignedDuration::from_millis(left)).ok();
                    json!({ "breaker": "open", "until": until.map(|at| at.round(jiff::Unit::Second).unwrap_or(at)) })
                }
                None if target.breaker.admits(now) => json!({ "breaker": "closed" }),
                None => json!({ "breaker": "probing" }),
            };
            add("target", format!("{}/{}", target.provider.name, target.model), state);
        }
    }
    states
}
