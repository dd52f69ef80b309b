//! How everything is, on one screen.

use std::fmt::Write;
use std::time::Duration;

use contract::quantity::span;
use contract::{Context, Effect, Error, ErrorKind, Outcome, Request, Severity, StoreDirectory};
use futures::future::join_all;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::ScheduleConfig;
use crate::door::Steward;
use crate::project::Project;

/// A store that does not answer within this time is shown as not answering.
const STORE_TIMEOUT: Duration = Duration::from_secs(3);

/// Shows how everything is.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShowStatus {
    /// Also connects to every store.
    #[serde(default)]
    pub probe: bool,
}

impl Request for ShowStatus {
    const NAME: &'static str = "status.show";
    const SUMMARY: &'static str = "Shows how everything is, on one screen";
    const EXAMPLE: &'static str = "steward status --probe";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "report.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Lists the schedules.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListSchedules {}

impl Request for ListSchedules {
    const NAME: &'static str = "schedule.list";
    const SUMMARY: &'static str = "Lists the schedules, when they ran and when they are due";
    const EXAMPLE: &'static str = "steward schedule list";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "report.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Says which schedules watch a store, and which are missing.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdviseSchedules {
    /// The store's name in the project file.
    pub store: String,
}

impl Request for AdviseSchedules {
    const NAME: &'static str = "schedule.advise";
    const SUMMARY: &'static str = "Says which schedules watch a store, and what to add to steward.yaml";
    const EXAMPLE: &'static str = "steward schedule advise orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "monitor.read";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// What watches a store: the request, how often, and what it is for.
const WATCH: [(&str, &str, &str, &str); 2] = [
    ("health", "0 * * * *", "store.health", "every hour: connections, locks, bloat, indexes, settings"),
    ("consistency", "0 3 * * *", "store.consistency", "every night: orphan rows, broken keys, damage"),
];

/// Which of the schedules that watch a store are there.
///
/// Value: `store`, `scheduled[] {name, request, cron}`, `missing[] {name, request, cron}`, `yaml` (what to add to
/// steward.yaml; empty when nothing is missing). Finding: `not_watched`, with the lines to add.
///
/// # Errors
///
/// `NotFound`: no such store.
pub(crate) fn advise_schedules(project: &Project, request: &AdviseSchedules) -> Result<Outcome, Error> {
    let config = &project.loaded().config;
    if !config.stores.contains_key(&request.store) {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no store `{}`", request.store))
            .hint("`steward store list` shows those of steward.yaml"));
    }
    let of_store = |schedule: &ScheduleConfig, wanted: &str| {
        schedule.request == wanted
            && schedule.arguments.get("store").and_then(|store| store.as_str()) == Some(&request.store)
    };
    let (mut scheduled, mut missing, mut lines, mut text) =
        (Vec::new(), Vec::new(), Vec::new(), String::new());
    for (name, cron, wanted, about) in WATCH {
        if let Some((name, schedule)) = config.schedules.iter().find(|(_, one)| of_store(one, wanted)) {
            scheduled.push(json!({ "name": name, "request": wanted, "cron": schedule.cron }));
            writeln!(text, "{wanted}: scheduled as {name} ({} {})", schedule.cron, schedule.zone)
                .expect("writing to a string does not fail");
            continue;
        }
        let name = format!("{}-{name}", request.store);
        writeln!(text, "{wanted}: not scheduled; {about}").expect("writing to a string does not fail");
        missing.push(json!({ "name": name, "request": wanted, "cron": cron }));
        lines.push(format!(
            "{name}: {{ cron: \"{cron}\", request: {wanted}, arguments: {{ store: {} }} }}",
            request.store
        ));
    }
    let mut yaml = String::new();
    for line in &lines {
        let head = if yaml.is_empty() && config.schedules.is_empty() { "schedules:\n" } else { "" };
        writeln!(yaml, "{head}  {line}").expect("writing to a string does not fail");
    }
    if !yaml.is_empty() {
        let place = if config.schedules.is_empty() { "" } else { ", under `schedules`" };
        write!(text, "\nadd to steward.yaml{place}:\n\n{yaml}").expect("writing to a string does not fail");
    }
    let names: Vec<&str> = missing.iter().filter_map(|one| one["request"].as_str()).collect();
    let value = json!({ "store": request.store, "scheduled": scheduled, "missing": missing, "yaml": yaml });
    let mut outcome = Outcome::new(value, text);
    if !names.is_empty() {
        outcome.findings.push(contract::Finding {
            code: "not_watched".into(),
            severity: Severity::Warning,
            title: format!("nothing asks for {} of `{}` by itself", names.join(" and "), request.store),
            object: request.store.clone(),
            // On one line, so that it survives in a report.
            recommendation: Some(format!(
                "add under `schedules` in steward.yaml: {{ {} }}",
                lines.join(", ")
            )),
            evidence: Vec::new(),
            escalate: None,
        });
    }
    Ok(outcome)
}

/// How everything is.
///
/// # Errors
///
/// As the ledger's. A store that does not answer is a line of the answer, not an error.
pub(crate) async fn show(
    ctx: &Context,
    steward: &Steward,
    project: &Project,
    request: &ShowStatus,
) -> Result<Outcome, Error> {
    let ledger = steward.ledger();
    let name = vec![ctx.project().into()];
    let count = |sql: &'static str| {
        let name = name.clone();
        async move {
            let rows = ledger.query(sql, name).await?;
            rows.first().map_or(Ok(0), |row| row.get_i64("n"))
        }
    };
    let waiting =
        count("SELECT COUNT(*) AS n FROM approvals WHERE project = ? AND state = 'waiting'").await?;
    let open =
        count("SELECT COUNT(*) AS n FROM escalations WHERE project = ? AND acknowledged_us IS NULL").await?;
    let unfinished =
        count("SELECT COUNT(*) AS n FROM intents WHERE project = ? AND finished_us IS NULL").await?;
    let tasks = ledger
        .query(
            "SELECT id, title, state FROM tasks WHERE project = ? ORDER BY updated_us DESC LIMIT 5",
            name.clone(),
        )
        .await?;
    let tasks = tasks
        .iter()
        .map(|row| {
            let id = row.get_text("id")?;
            let title = ledger::Place { table: "tasks", project: ctx.project(), key: id, column: "title" };
            Ok((
                id.to_owned(),
                ledger.unseal(title, row)?.unwrap_or_default(),
                row.get_text("state")?.to_owned(),
            ))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let last = ledger
        .query("SELECT MAX(seq) AS seq, MAX(at_us) AS at_us FROM events WHERE project = ?", name.clone())
        .await?;
    let entries = last.first().map(|row| row.get_opt_i64("seq")).transpose()?.flatten().unwrap_or(0);
    let daemon = crate::daemon::running(steward.state());

    let stores = project.list(ctx);
    let probes = join_all(stores.iter().map(|(name, _)| async move {
        if !request.probe {
            return None;
        }
        let ctx = ctx.clone().with_timeout(STORE_TIMEOUT);
        Some(match project.open(&ctx, name).await {
            Ok(store) => ctx.run(store.probe(&ctx)).await,
            Err(error) => Err(error),
        })
    }))
    .await;

    let mut text =
        format!("project {} ({:?})\n", project.name(), project.loaded().config.environment).to_lowercase();
    let daemon_text = match &daemon {
        Some(pid) => format!("running, pid {pid}"),
        None => "not running; `steward up` starts it".to_owned(),
    };
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:<12} {value}").expect("writing to a string does not fail");
    };
    line("daemon", daemon_text);
    line(
        "approvals",
        match waiting {
            0 => "none waiting".to_owned(),
            n => format!("{n} waiting; `steward approval list`"),
        },
    );
    line(
        "inbox",
        match open {
            0 => "no open escalations".to_owned(),
            n => format!("{n} open; `steward inbox`"),
        },
    );
    if unfinished > 0 {
        line(
            "unfinished",
            format!(
                "{unfinished} changes were interrupted; the next change or `steward up` goes on with them"
            ),
        );
    }
    line("audit", format!("{entries} entries; `steward audit verify` checks them"));
    if stores.is_empty() {
        line("stores", "none yet; add one under `stores` in steward.yaml".to_owned());
    }
    let mut store_values = Vec::new();
    let mut failed = Vec::new();
    for ((name, kind), probe) in stores.iter().zip(&probes) {
        let (shown, value) = match probe {
            None => (kind.clone(), json!({ "name": name, "kind": kind })),
            Some(Ok(probe)) => (
                format!("{kind} {} answers in {:.1} ms", probe.version, probe.connect_ms),
                json!({ "name": name, "kind": kind, "answers": true, "version": probe.version, "connect_ms": probe.connect_ms }),
            ),
            Some(Err(error)) => {
                failed.push((name.clone(), error.message().to_owned()));
                (
                    format!("{kind} DOES NOT ANSWER: {}", error.message()),
                    json!({ "name": name, "kind": kind, "answers": false, "error": error.message() }),
                )
            }
        };
        line("store", format!("{name}: {shown}"));
        store_values.push(value);
    }
    let plans = &project.loaded().config.backup.plans;
    let (mut backups, mut too_old) = (Vec::new(), Vec::new());
    for (name, _) in &stores {
        let plan = plans.values().find(|plan| plan.stores.contains(name));
        let objectives = plan.map_or_else(backup::Objectives::default, |plan| plan.objectives);
        let indicators = backup::Indicators::of(ctx, ledger, name, objectives).await?;
        match (&indicators.proven, indicators.rpo_s) {
            (Some(backup), Some(rpo_s)) => {
                let late = if indicators.is_too_old() { "; OLDER THAN ITS OBJECTIVE" } else { "" };
                line("backup", format!("{name}: {} would be lost, {backup}{late}", span(rpo_s)));
                if indicators.is_too_old() {
                    too_old.push((name.clone(), rpo_s, indicators.rpo_objective_s));
                }
            }
            _ => line("backup", format!("{name}: none that was restored and compared")),
        }
        if let Some(said) = indicators.success_said() {
            line("", format!("{name}: {said}"));
        }
        let mut value = serde_json::to_value(&indicators).expect("numbers and times are JSON");
        value["store"] = json!(name);
        value["backup"] = value["proven"].clone();
        backups.push(value);
    }
    for (id, title, state) in &tasks {
        line("task", format!("{id} {state}: {title}"));
    }
    let value = json!({
        "project": project.name(),
        "daemon_pid": daemon,
        "approvals_waiting": waiting,
        "escalations_open": open,
        "changes_unfinished": unfinished,
        "audit_entries": entries,
        "stores": store_values,
        "backups": backups,
        "tasks": tasks.iter().map(|(id, title, state)| json!({ "id": id, "title": title, "state": state })).collect::<Vec<_>>(),
    });
    let mut outcome = Outcome::new(value, text);
    for (name, rpo_s, objective_s) in too_old {
        outcome.findings.push(contract::Finding {
            code: "backup_too_old".into(),
            severity: Severity::Critical,
            title: format!(
                "the newest proven backup of {name} is {} old; the objective is {}",
                span(rpo_s),
                span(objective_s)
            ),
            object: name.clone(),
            recommendation: Some(format!("steward backup run {name}; see why the schedule did not")),
            evidence: Vec::new(),
            escalate: None,
        });
    }
    for (name, message) in failed {
        outcome.findings.push(contract::Finding {
            code: "store_unreachable".into(),
            severity: Severity::Critical,
            title: format!("the store `{name}` does not answer: {message}"),
            object: name,
            recommendation: Some(
                "check that the server runs and that the address in steward.yaml is right".into(),
            ),
            evidence: Vec::new(),
            escalate: None,
        });
    }
    Ok(outcome)
}

/// The schedules of the project with their last and next times.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn schedules(ctx: &Context, steward: &Steward, project: &Project) -> Result<Outcome, Error> {
    let rows = steward
        .ledger()
        .query(
            "SELECT name, next_us, last_us, last_status, last_error FROM jobs WHERE project = ?",
            vec![ctx.project().into()],
        )
        .await?;
    let mut text = String::new();
    let mut values = Vec::new();
    for (name, schedule) in &crate::schedule::all(&project.loaded().config) {
        let mut job = None;
        for row in &rows {
            if row.get_text("name")? == name.as_str() {
                job = Some(row);
            }
        }
        let next = match job.map(|row| row.get_opt_time("next_us")).transpose()?.flatten() {
            Some(next) => next,
            None => crate::schedule::next_after(schedule, &crate::schedule::seed(ctx, name), ctx.now())?,
        };
        let last = job.map(|row| row.get_opt_time("last_us")).transpose()?.flatten();
        let status = job
            .map(|row| row.get_opt_text("last_status").map(|text| text.map(str::to_owned)))
            .transpose()?
            .flatten();
        let error = job
            .map(|row| row.get_opt_text("last_error").map(|text| text.map(str::to_owned)))
            .transpose()?
            .flatten();
        let last_text = match (&last, &status) {
            (Some(last), Some(status)) => format!("last {last}: {status}"),
            _ => "never ran".to_owned(),
        };
        writeln!(
            text,
            "{name}: {} ({} {}), next {next}, {last_text}",
            schedule.request, schedule.cron, schedule.zone
        )
        .expect("writing to a string does not fail");
        values.push(json!({
            "name": name, "request": schedule.request, "cron": schedule.cron, "zone": schedule.zone,
            "next": next, "last": last, "last_status": status, "last_error": error,
        }));
    }
    if values.is_empty() {
        text.push_str("no schedules; add some under `schedules` in steward.yaml\n");
    }
    Ok(Outcome::new(values, text))
}
