//! Looks at the backups without being asked: how old they are, and whether logs are kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{Actor, ActorKind, Context, Error};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::door::{Options, Steward};
use crate::project::Project;

/// Most time between two looks.
const EVERY_MAX: Duration = Duration::from_hours(1);
/// Least time between two looks: each asks every repository.
const EVERY_MIN: Duration = Duration::from_mins(5);
/// A look that takes longer has failed.
const LOOK_MAX: Duration = Duration::from_mins(10);

/// When the backups of each project were last looked at.
#[derive(Default)]
pub(crate) struct Lookout {
    looks: HashMap<String, (Instant, JoinHandle<()>)>,
}

impl Lookout {
    /// Begins to look, if it is time to; at once after a start. What is found is escalated as if somebody had asked.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub(crate) async fn look(
        &mut self,
        steward: &Arc<Steward>,
        ctx: &Context,
        project: &Project,
        tracker: &TaskTracker,
    ) -> Result<(), Error> {
        let config = &project.loaded().config;
        if let Some((last, task)) = self.looks.get(project.name())
            && (!task.is_finished() || last.elapsed() < every(config))
        {
            return Ok(());
        }
        if config.backup.plans.is_empty() {
            let any = "SELECT 1 AS n FROM backups WHERE project = ? LIMIT 1";
            if steward.ledger().query(any, vec![ctx.project().into()]).await?.is_empty() {
                return Ok(()); // Nobody wants backups of it.
            }
        }
        let ctx =
            ctx.clone().with_actor(Actor::new(ActorKind::Schedule, "lookout", [])).with_timeout(LOOK_MAX);
        let steward = Arc::clone(steward);
        let task = tracker.spawn(async move {
            // The door escalates the findings, and that it failed.
            let asked = steward.submit_with(&ctx, "backup.list", json!({ "limit": 1 }), Options::default());
            if let Err(error) = asked.await {
                let error = steward.redact(&error.to_string());
                tracing::error!(error, "the state of the backups is not known");
            }
        });
        self.looks.insert(project.name().to_owned(), (Instant::now(), task));
        Ok(())
    }
}

/// As often as the strictest plan allows work to be lost, within limits.
fn every(config: &Config) -> Duration {
    within_limits(config.backup.plans.values().map(|plan| plan.objectives.rpo_minutes).min())
}

fn within_limits(rpo_minutes: Option<u32>) -> Duration {
    let strictest = rpo_minutes.map_or(EVERY_MAX, |minutes| Duration::from_mins(minutes.into()));
    strictest.clamp(EVERY_MIN, EVERY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_objective_is_looked_at_more_often() {
        for (rpo_minutes, minutes) in [(None, 60), (Some(1_500), 60), (Some(20), 20), (Some(1), 5)] {
            assert_eq!(within_limits(rpo_minutes), Duration::from_mins(minutes), "{rpo_minutes:?}");
        }
    }
}
