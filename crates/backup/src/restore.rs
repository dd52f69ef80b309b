//! Restoring: plan, approve, load beside, compare, and only then put in the place of what was there.

use std::fmt::Write as _;

use contract::{
    Context, Effect, Error, ErrorKind, LoadTarget, Outcome, PartSource, Permit, Plan, PlanStep, Recovery,
    RecoveryTarget, Request, Selection, StepMode,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;
use crate::catalog::{self, Level, Recorded};
use crate::chain::{self, Chain};
use crate::config::PlanConfig;
use crate::drilled;
use crate::log_copies;
use crate::meter::MeteredSource;
use crate::places::{Place, Places, is_the_place};
use crate::run::{self, Scratch, kept, plan_named, point, repository_of};
use crate::verify::{self, backup_named};
use contract::quantity::{count, size, thousands};

/// Where a backup is restored to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestoreTo {
    /// A server or file of its own, which is left running; nothing else is touched.
    #[default]
    Scratch,
    /// A new database beside the store's own, or a new file beside its file.
    Beside,
    /// In the place of the store's own data, after a safety backup of it.
    InPlace,
}

/// Restores a backup: whole, one schema or some tables; into scratch, beside the store, or in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBackup {
    /// The backup's id, or a store, whose newest backup is meant.
    pub backup: String,
    /// `scratch`, `beside` or `in_place`. Default: `scratch`.
    #[serde(default)]
    pub to: RestoreTo,
    /// Bring it forward by its log to this moment: `end`, a time with its zone such as `2026-03-04T14:03:05Z`, `lsn:0/16B3748`,
    /// `xid:735` or `marker:NAME`. Of a store, the newest backup before it is taken. Default: the state of the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<RecoveryTarget>,
    /// Which timeline of the server is followed. Default: the newest that the backup leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// In its place: end the sessions of others that are still connected when the copy is ready; what they had not committed
    /// is undone. Default: wait for the store's lock time, then leave everything as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end_sessions: bool,
    /// Name of the new database or file, for `beside`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only this schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Only these tables, by the names that `backup show` gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// The repository to read from. Default: where it was made, and a copy where that is gone or damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Also a backup that was found in the repository and is not signed by this project's key: what is in it may be anybody's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_unsigned: bool,
}

impl Request for RestoreBackup {
    const NAME: &'static str = "backup.restore";
    const SUMMARY: &'static str =
        "Restore a backup into scratch, beside the store, or in its place after a safety backup";
    const EXAMPLE: &'static str = "steward backup restore orders --to scratch";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.restore";
    const POSITIONAL: &'static [&'static str] = &["backup"];
}

impl RestoreBackup {
    fn selection(&self) -> Result<Selection, Error> {
        match (&self.schema, self.tables.as_slice()) {
            (Some(_), [_, ..]) => Err(Error::new(ErrorKind::Invalid, "a schema or tables, not both")
                .with("argument", "schema")
                .hint("leave one of them out")),
            (Some(schema), []) => Ok(Selection::Schema(schema.clone())),
            (None, []) => Ok(Selection::Whole),
            (None, tables) => Ok(Selection::Tables(tables.to_vec())),
        }
    }

    fn check(&self, selection: &Selection) -> Result<(), Error> {
        let invalid = |argument: &'static str, message: &str| {
            Err(Error::new(ErrorKind::Invalid, message).with("argument", argument))
        };
        if self.timeline.is_some() && self.until.is_none() {
            return invalid("timeline", "a timeline is followed to a moment: say which with `until`");
        }
        if self.until.is_some() && *selection != Selection::Whole {
            return invalid(
                "until",
                "a server is brought forward whole; take tables from the copy with pg_dump",
            );
        }
        if self.until.is_some() && self.to != RestoreTo::Scratch {
            return invalid(
                "to",
                "a server is brought forward in scratch; the answer says how the copy takes its place",
            );
        }
        if self.end_sessions && self.to != RestoreTo::InPlace {
            return invalid("end_sessions", "sessions are only in the way of a restore in place");
        }
        match (self.to, &self.name) {
            (RestoreTo::Beside, None) => {
                invalid("name", "a restore beside the store needs the name of the new database")
            }
            (RestoreTo::Scratch | RestoreTo::InPlace, Some(_)) => {
                invalid("name", "only a restore beside the store takes a name")
            }
            (RestoreTo::InPlace, None) if *selection != Selection::Whole => invalid(
                "to",
                "in its place a store is restored whole; restore tables beside it and copy the rows",
            ),
            _ => Ok(()),
        }
    }
}

/// What a restore is about.
struct Meant {
    backup: Recorded,
    selection: Selection,
    places: Places,
    place: Place,
    /// With the log behind it, where it is brought forward.
    chain: Option<(RecoveryTarget, Chain)>,
}

async fn meant(ctx: &Context, around: &dyn Surroundings, request: &RestoreBackup) -> Result<Meant, Error> {
    let selection = request.selection()?;
    request.check(&selection)?;
    let (backup, chain) = match &request.until {
        Some(target) => {
            let chain = chain::chain_for(
                ctx,
                around,
                &request.backup,
                target,
                request.timeline,
                request.from.as_deref(),
            )
            .await?;
            (chain.backup.clone(), Some((target.clone(), chain)))
        }
        None => (backup_named(ctx, around, &request.backup).await?, None),
    };
    let mut places = Places::of(&backup, request.from.as_deref())?;
    places.accept_unsigned = request.accept_unsigned;
    let place = places.next(ctx, around, None).await?;
    let manifest = &place.manifest;
    if let Selection::Tables(tables) = &selection
        && let Some(unknown) =
            tables.iter().find(|name| !manifest.dumped.tables.iter().any(|it| it.table == **name))
    {
        let known: Vec<&str> = manifest.dumped.tables.iter().map(|it| it.table.as_str()).collect();
        return Err(Error::new(ErrorKind::NotFound, format!("the backup holds no table `{unknown}`"))
            .with("backup", &backup.id)
            .hint(format!("it holds: {}", known.join(", "))));
    }
    Ok(Meant { backup, selection, places, place, chain })
}

fn target(request: &RestoreBackup, backup: &Recorded, scratch: Option<&Scratch>) -> LoadTarget {
    match (request.to, scratch) {
        (RestoreTo::Scratch, Some(scratch)) => LoadTarget::Scratch { folder: scratch.path().to_owned() },
        (RestoreTo::Beside, _) => LoadTarget::Beside { name: request.name.clone().unwrap_or_default() },
        _ => LoadTarget::Beside { name: crate::interrupted::copy_in_place(&backup.id) },
    }
}

/// A forecast as a plan says it. What needs an approval is bound to the plan, and must not expire with each restore that is measured: so
/// it is rounded up there, to 1, 2 or 5 with noughts; elsewhere to two digits.
fn said_ms(to: RestoreTo, ms: u64) -> u64 {
    let step = |digits: u32| 10_u64.pow((ms.max(1).ilog10() + 1).saturating_sub(digits));
    match to {
        RestoreTo::Scratch => ms.div_ceil(step(2)) * step(2),
        RestoreTo::Beside | RestoreTo::InPlace => {
            let one = step(1);
            [1, 2, 5, 10].map(|times| times * one).into_iter().find(|round| *round >= ms).unwrap_or(ms)
        }
    }
}

/// Says what a restore would do: chain, target, what would be overwritten, what it needs.
///
/// # Errors
///
/// `Invalid`: arguments that do not go together. `NotFound`: no such backup or table. `Unsupported`: something is missing that
/// the restore needs. As the repository's and the store's.
pub async fn plan_restore(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &RestoreBackup,
) -> Result<Plan, Error> {
    let Meant { backup, selection, places, place, chain } = meant(ctx, around, request).await?;
    let manifest = &place.manifest;
    let store = around.stores().open(ctx, &backup.store).await?;
    let load = store.load().ok_or_else(|| {
        store.unsupported(
            "restore",
            "this kind of store cannot be restored by itself",
            "use the backup's parts",
        )
    })?;
    let rehearsed = match request.to {
        RestoreTo::Scratch => LoadTarget::Scratch { folder: around.scratch() },
        _ => target(request, &backup, None),
    };
    let preflight = load.preflight(ctx, &manifest.dumped, &rehearsed).await?;
    if let Some(refusal) = preflight.refusals.first() {
        return Err(Error::new(ErrorKind::Unsupported, format!("the backup cannot be restored: {refusal}"))
            .with("backup", &backup.id)
            .with("store", &backup.store));
    }
    let what = match &selection {
        Selection::Whole => "everything".to_owned(),
        Selection::Schema(schema) => format!("the schema {schema}"),
        Selection::Tables(tables) => format!("the tables {}", tables.join(", ")),
    };
    let step = |id: &str, title: String| PlanStep {
        reversible: true,
        ..PlanStep::new(id, &title, StepMode::Transaction, Vec::new())
    };
    let bytes = manifest.parts.iter().map(|part| part.bytes).sum::<u64>();
    let forecast_ms = drilled::forecast(ctx, around.ledger(), &backup.store, bytes).await?;
    let forecast_ms = forecast_ms.map(|ms| said_ms(request.to, ms));
    let room = match (preflight.bytes_expected, request.to) {
        (Some(bytes), RestoreTo::Beside | RestoreTo::InPlace) => {
            format!(", which takes about {}", size(bytes))
        }
        _ => String::new(),
    };
    let mut warnings = preflight.warnings;
    let as_of = point(&backup).strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let mut steps = Vec::new();
    let (mut pre_state, mut subject) = (String::new(), format!("backup:{}", backup.id));
    if let Some((target, chain)) = &chain {
        steps.push(step(
            "log",
            format!(
                "fetch the log from {} to {} on timeline {}: {}, {}, from {}",
                chain.start.position,
                chain.reach.end,
                chain.reach.timeline,
                count(chain.reach.pieces.len() as u64, "piece"),
                size(chain.reach.bytes()),
                chain.repository.name(),
            ),
        ));
        if let Some(gap) = &chain.reach.gap {
            // It is behind the target, or there would be no plan.
            tracing::warn!(store = backup.store, before = %gap.before.unwrap_or_default(), "the log has a gap");
        }
        let unknown = match target {
            RecoveryTarget::Marker(name) if !chain.knows_marker(name) => true,
            RecoveryTarget::Transaction(_) => true,
            _ => false,
        };
        let sure = if unknown { "; whether the log holds it is known when it was read" } else { "" };
        steps.push(step(
            "load",
            format!(
                "load {} as of {as_of} into a scratch server and bring it forward to {target}{sure}",
                backup.id
            ),
        ));
    }
    let elsewhere = match request.to {
        RestoreTo::Scratch => None,
        RestoreTo::Beside | RestoreTo::InPlace => {
            // Where nothing is, there is nothing to be mistaken for another: that is when a restore is needed most.
            let there = store.probe(ctx).await.ok();
            there.filter(|there| there.identity != manifest.dumped.identity).map(|there| {
                format!(
                    "the backup is of another database, {}, than the one that is at {} now",
                    manifest.dumped.address, there.address
                )
            })
        }
    };
    warnings.extend(elsewhere.clone());
    match request.to {
        RestoreTo::Scratch if chain.is_some() => {}
        RestoreTo::Scratch => {
            steps.push(step("load", format!("load {what} as of {as_of} into a scratch copy")));
        }
        RestoreTo::Beside => {
            let name = request.name.clone().unwrap_or_default();
            let title = format!("load {what} as of {as_of} into {name}, which must not exist{room}");
            steps.push(step("load", title));
        }
        RestoreTo::InPlace => {
            let probe = store.probe(ctx).await?;
            pre_state.clone_from(&probe.identity);
            subject = format!("store:{}", backup.store);
            if request.end_sessions && !store.load().is_some_and(contract::Load::can_end_sessions) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this store has no sessions that could be ended",
                )
                .with("store", &backup.store)
                .hint("leave `end_sessions` out, and stop the programs that use it"));
            }
            steps.push(step("safety", format!("back {} up as it is now", backup.store)));
            steps.push(step("load", format!("load everything as of {as_of} beside it{room}")));
            steps.push(step("compare", "compare every table with what was dumped".to_owned()));
            let others = if request.end_sessions {
                "; sessions of others that do not end by themselves are ended, and what they had not committed is undone"
            } else {
                ""
            };
            steps.push(PlanStep {
                destructive: true,
                reversible: true,
                ..PlanStep::new(
                    "swap",
                    format!(
                        "put it in the place of {}: what was written after {as_of} is no longer there{others}{}",
                        probe.address,
                        elsewhere.map(|said| format!("; {said}")).unwrap_or_default()
                    ),
                    StepMode::Transaction,
                    Vec::new(),
                )
            });
        }
    }
    Ok(Plan {
        request: RestoreBackup::NAME.to_owned(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().to_owned(),
        target: subject,
        summary: match &chain {
            None => format!("restore {what} of {} as of {as_of} ({})", backup.store, backup.id),
            Some((target, _)) => {
                format!("restore {} to {target}, from the backup as of {as_of} ({})", backup.store, backup.id)
            }
        },
        steps,
        pre_state,
        predicted: json!({
            "backup": backup.id, "as_of": as_of, "proven": backup.level, "rows": manifest.rows(),
            "bytes": bytes, "last_restore_ms": backup.restore_ms, "forecast_ms": forecast_ms,
            "target_bytes": preflight.bytes_expected,
            "scratch_bytes": preflight.scratch_bytes + chain.as_ref().map_or(0, |(_, chain)| chain.reach.clear_bytes()),
            "log": chain.as_ref().map(|(target, chain)| json!({
                "until": target, "from": chain.start.position, "to": chain.reach.end, "reaches": chain.reach.until,
                "timeline": chain.reach.timeline, "pieces": chain.reach.pieces.len(), "bytes": chain.reach.bytes(),
                "gap": chain.reach.gap,
            })),
            "warnings": warnings, "from": place.backup.repository, "passed_by": places.passed,
        }),
        cost_usd_nanos: 0,
    })
}

/// Restores as a permitted plan says. A restored copy that is not what was dumped is never put in place of anything.
///
/// # Errors
///
/// `Conflict`: the store is another one than when the plan was made. `Corrupt`: the copy differs from what was dumped; it is
/// taken away, and the store is as before. As the repository's and the store's.
pub async fn restore(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &RestoreBackup,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let Meant { backup, selection, mut places, mut place, chain } = meant(ctx, around, request).await?;
    // The plan names one backup; "the newest" may be another by now.
    if plan.predicted["backup"] != json!(backup.id) {
        return Err(Error::new(ErrorKind::Conflict, "another backup is the newest now")
            .with("planned", &plan.predicted["backup"])
            .with("newest", &backup.id)
            .hint("ask again, with the backup's id"));
    }
    let store = around.stores().open(ctx, &backup.store).await?;
    let load = store.load().ok_or_else(|| Error::new(ErrorKind::Unsupported, "it cannot be restored"))?;
    let mut safety = None;
    if request.to == RestoreTo::InPlace {
        let identity = store.probe(ctx).await?.identity;
        if identity != plan.pre_state {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the store is another one than when the plan was made",
            )
            .with("store", &backup.store)
            .hint("ask for the restore again, and read the new plan"));
        }
        safety = Some(safety_backup(ctx, around, &backup).await?);
    }
    let scratch = match request.to {
        RestoreTo::Scratch => {
            let id = uuid::Uuid::now_v7().simple().to_string();
            Some(Scratch::make(around, &format!("restore-{}", &id[id.len() - 12..]))?)
        }
        _ => None,
    };
    let target = target(request, &backup, scratch.as_ref());
    let started = std::time::Instant::now();
    let mut log_passed = Vec::new();
    let (chain, logs) = match (chain, &scratch) {
        (Some((until, chain)), Some(scratch)) => {
            let folder = scratch.path().join("log");
            let from = request.from.as_deref();
            let (chain, passed) = log_copies::fetch(ctx, around, chain, &until, from, &folder).await?;
            log_passed = passed;
            (Some((until, chain)), Some(folder))
        }
        (chain, _) => (chain, None),
    };
    let recovery = chain.as_ref().zip(logs.clone()).map(|((until, chain), logs)| Recovery {
        target: until.clone(),
        timeline: chain.reach.timeline,
        logs,
        target_is_covered: matches!(until, RecoveryTarget::Time(_) | RecoveryTarget::Position(_)),
    });
    let (source, mut restored) = loop {
        let loaded = async {
            let parts = place.manifest.parts.clone();
            let source = place.repository.open(ctx, &kept(&place.backup), parts).await?;
            let stage = format!("{}: restore", backup.store);
            let source: Box<dyn PartSource> = Box::new(MeteredSource::new(ctx, stage, source));
            let dumped = &place.manifest.dumped;
            let restored = match &recovery {
                Some(recovery) => load.recover(ctx, dumped, &*source, recovery, &target).await?,
                None => load.load(ctx, dumped, &*source, &selection, &target).await?,
            };
            Ok::<_, Error>((source, restored))
        };
        match loaded.await {
            Ok(loaded) => break loaded,
            // Nothing is left of it, and a copy may have what this place could not give.
            Err(error) if places.has_more() && is_the_place(&error) => {
                places.pass(&place.backup, &error);
                place = places.next(ctx, around, Some(error)).await?;
            }
            Err(error) => return Err(error),
        }
    };
    if let Some(logs) = &logs {
        // It is applied, and in the clear.
        drop(std::fs::remove_dir_all(logs));
    }
    let manifest = &place.manifest;
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let compared = verify::compare_and_count(ctx, &*restored, &manifest.dumped, &*source, &selection).await;
    let (problems, counted) = match compared {
        Ok(compared) => compared,
        Err(error) => {
            drop(restored.remove().await);
            return Err(error);
        }
    };
    if let Some(problem) = problems.first() {
        let error =
            Error::new(ErrorKind::Corrupt, format!("the restored copy is not what was backed up: {problem}"))
                .with("backup", &backup.id)
                .with("differences", problems.len())
                .hint("nothing was put in place; try an older backup: steward backup list");
        drop(restored.remove().await);
        return Err(error);
    }
    let address = restored.address();
    let by = restored.proven_by();
    let reached = restored.reached();
    let as_of = match (&chain, &reached) {
        (Some((target, _)), Some(reached)) => format!(
            "{target} (its last commit is of {}, position {})",
            reached.server_at.map_or_else(|| "no time".to_owned(), chain::moment),
            reached.position.as_deref().unwrap_or("unknown")
        ),
        _ => point(&backup).strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
    };
    places.passed.append(&mut log_passed);
    let said = format!(
        "{}{} of {} as of {as_of}: {} rows, {} ({ms} ms)",
        places.said(&backup.repository, &place.backup.repository),
        backup.id,
        backup.store,
        thousands(counted.iter().map(|table| table.rows).sum()),
        if by.is_empty() { "every table is as it was dumped".to_owned() } else { by.join("; ") },
    );
    let mut value = json!({
        "backup": backup.id, "to": request.to, "restore_ms": ms, "safety_backup": safety, "proven_by": by,
        "take_over": restored.take_over(), "reached": reached,
        "from": place.backup.repository, "passed_by": places.passed,
        "log_from": chain.as_ref().map(|(_, chain)| chain.repository.name()),
    });
    let mut take_over = String::new();
    if !restored.take_over().is_empty() {
        take_over.push_str("to let it take the server's place: stop that server, then run\n");
        for line in restored.take_over() {
            writeln!(take_over, "  {line}").expect("writing to a string does not fail");
        }
        take_over.push_str("  and start the server on that data directory\n");
    }
    let text = match request.to {
        RestoreTo::Scratch | RestoreTo::Beside => {
            let end = restored.keep();
            if let Some(scratch) = scratch {
                scratch.leave();
            }
            value["address"] = json!(address);
            value["take_away"] = json!(end);
            format!("{said}\nit is at {address}\n{take_over}take it away with: {end}\n")
        }
        RestoreTo::InPlace => {
            let undo = match load.swap(ctx, &*restored, request.end_sessions).await {
                Ok(undo) => undo,
                Err(error) => {
                    drop(restored.remove().await);
                    return Err(error);
                }
            };
            value["undo"] = json!(undo);
            let safety = safety.unwrap_or_default();
            format!("{said}\nit is in place now; {undo}\nas it was before: backup {safety}\n")
        }
    };
    let mut text = text;
    if let Some(name) = &backup.together {
        let others = catalog::together(ctx, around.ledger(), name).await?;
        let others: Vec<&Recorded> = others.iter().filter(|other| other.id != backup.id).collect();
        for other in &others {
            let apart_ms = (point(other).as_millisecond() - point(&backup).as_millisecond()).unsigned_abs();
            let apart = crate::list::seconds(apart_ms);
            writeln!(text, "taken together with {} of {}, {apart} apart", other.id, other.store)
                .expect("writing to a string does not fail");
        }
        value["together"] = json!(others.iter().map(|other| &other.id).collect::<Vec<_>>());
    }
    Ok(Outcome::new(value, text))
}

/// Backs the store up before it is overwritten. Gives the backup's id.
async fn safety_backup(ctx: &Context, around: &dyn Surroundings, backup: &Recorded) -> Result<String, Error> {
    let config =
        plan_named(ctx, around, &backup.plan).unwrap_or_else(|_| PlanConfig::of_store(&backup.store));
    let repository = around.repository(ctx, &repository_of(around, &config)?).await?;
    let made = run::run_one(ctx, around, &repository, &config, &backup.plan, &backup.store, Level::L1)
        .await
        .map_err(|error| {
            error
                .with("step", "safety backup")
                .hint("nothing has changed; what cannot be backed up is not overwritten")
        })?;
    tracing::info!(
        backup = made.recorded.id,
        bytes = size(made.recorded.bytes.unwrap_or_default()),
        "backed up before it is overwritten"
    );
    Ok(made.recorded.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forecasts_are_said_as_exactly_as_an_approval_can_bear() {
        for (ms, scratch, in_place) in [
            (0, 0, 1),
            (7, 7, 10),
            (99, 99, 100),
            (100, 100, 100),
            (1_234, 1_300, 2_000),
            (48_001, 49_000, 50_000),
            (501_000, 510_000, 1_000_000),
        ] {
            assert_eq!(said_ms(RestoreTo::Scratch, ms), scratch, "{ms}");
            assert_eq!(said_ms(RestoreTo::InPlace, ms), in_place, "{ms}");
            assert_eq!(said_ms(RestoreTo::Beside, ms), in_place, "{ms}");
        }
    }
}
