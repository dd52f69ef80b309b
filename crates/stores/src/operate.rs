//! Operations on a running store, by plans: sessions, vacuum, index rebuilds, settings.

use std::time::Instant;

use contract::{
    Context, Effect, EndHow, Error, ErrorKind, Evidence, Finding, Operate, Operation, Plan, Request,
    SettingLevel, Store, StoreDirectory, canonical_json, sha256_hex,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::access::{self, GrantAccess, RevokeAccess};
use crate::inquiry::{Inquiry, millis_since};
use crate::prestate::Scope;

/// A change that has been thought through, with what was found out on the way.
#[derive(Debug, Clone)]
pub struct Considered {
    /// The plan; without steps there is nothing to do.
    pub plan: Plan,
    /// What whoever decides should know.
    pub findings: Vec<Finding>,
    /// What it rests on.
    pub evidence: Vec<Evidence>,
}

/// Arguments of `session.end`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndSession {
    /// The store's name in the project file.
    pub store: String,
    /// The session's number, as `store locks` shows it.
    pub pid: i32,
    /// When the session began, as `store locks` shows it: a number that has been given to another session meanwhile is not hit.
    pub started: String,
    /// `cancel` stops its statement, `terminate` closes the session and rolls back what it has not committed.
    #[serde(default)]
    pub how: EndHow,
    /// Also a session whose end harms more than itself: replication, Steward's own, a vacuum against wraparound.
    #[serde(default)]
    pub protected: bool,
}

impl Request for EndSession {
    const NAME: &'static str = "session.end";
    const SUMMARY: &'static str = "Stop the statement of a session, or close the session";
    const EXAMPLE: &'static str =
        "steward session end orders 4711 --started 2026-03-04T05:06:07.123456Z --how terminate";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "store.tune";
    const POSITIONAL: &'static [&'static str] = &["store", "pid"];
}

/// Arguments of `store.vacuum`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VacuumStore {
    /// The store's name in the project file.
    pub store: String,
    /// These tables; without any, those that need it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Leaves the planner's statistics as they are.
    #[serde(default)]
    pub without_analyze: bool,
    /// Rewrites the tables to give space back; nobody can use them meanwhile.
    #[serde(default)]
    pub full: bool,
    /// Freezes all rows, against wraparound.
    #[serde(default)]
    pub freeze: bool,
}

impl Request for VacuumStore {
    const NAME: &'static str = "store.vacuum";
    const SUMMARY: &'static str = "Clear dead rows away and renew the planner's statistics";
    const EXAMPLE: &'static str = "steward store vacuum orders --tables public.orders";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "store.tune";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Arguments of `index.rebuild`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RebuildIndex {
    /// The store's name in the project file.
    pub store: String,
    /// The index, such as `public.orders_customer_id_idx`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// All indexes of this table instead of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Also an index that can only be built while nobody writes to its table.
    #[serde(default)]
    pub blocking: bool,
}

impl Request for RebuildIndex {
    const NAME: &'static str = "index.rebuild";
    const SUMMARY: &'static str =
        "Build an index anew without blocking writers: against bloat, or when it is invalid";
    const EXAMPLE: &'static str = "steward index rebuild orders public.orders_customer_id_idx";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "index.create";
    const POSITIONAL: &'static [&'static str] = &["store", "index"];
}

/// Arguments of `store.configure`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigureStore {
    /// The store's name in the project file.
    pub store: String,
    /// The setting, such as `work_mem`.
    pub setting: String,
    /// The new value, such as `64MB`; without it the setting goes back to its default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where: in new sessions of the `database`, of one `role` in it, or on the whole `server`.
    #[serde(default)]
    pub level: SettingLevel,
    /// Whose sessions, for the level `role`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

impl Request for ConfigureStore {
    const NAME: &'static str = "store.configure";
    const SUMMARY: &'static str = "Change one setting of a database, a role or the server, with the way back";
    const EXAMPLE: &'static str =
        "steward store configure orders work_mem 64MB --level role --role reporting";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "store.configure";
    const POSITIONAL: &'static [&'static str] = &["store", "setting", "value"];
}

/// Plans to end a session.
///
/// # Errors
///
/// `NotFound`: no such session any more. `Invalid`: it runs nothing that could be canceled, or its end would harm more
/// than itself. `Denied`: no configured login may. `Unsupported`: the store has no sessions.
pub async fn plan_end_session(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &EndSession,
) -> Result<Considered, Error> {
    consider(ctx, stores, &request.store, EndSession::NAME, json!(request), &ending(request)).await
}

/// Plans a vacuum.
///
/// # Errors
///
/// `NotFound`: no such table. `Denied`: no configured login may.
pub async fn plan_vacuum(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &VacuumStore,
) -> Result<Considered, Error> {
    consider(ctx, stores, &request.store, VacuumStore::NAME, json!(request), &vacuuming(request)).await
}

/// Plans to build indexes anew.
///
/// # Errors
///
/// `NotFound`: no such index or table. `Invalid`: it can only be built while nobody writes, and `blocking` was not
/// said. `Denied`: no configured login may.
pub async fn plan_rebuild(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &RebuildIndex,
) -> Result<Considered, Error> {
    consider(ctx, stores, &request.store, RebuildIndex::NAME, json!(request), &rebuilding(request)).await
}

/// Plans to change a setting.
///
/// # Errors
///
/// `NotFound`: no such setting or role. `Invalid`: a value that the setting does not take, or one that endangers data.
/// `Denied`: no configured login may. `Unsupported`: the store has no settings of this kind.
pub async fn plan_configure(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &ConfigureStore,
) -> Result<Considered, Error> {
    consider(ctx, stores, &request.store, ConfigureStore::NAME, json!(request), &configuring(request)).await
}

fn ending(request: &EndSession) -> Operation {
    Operation::EndSession {
        pid: request.pid,
        backend_start: request.started.clone(),
        how: request.how,
        protected: request.protected,
    }
}

fn vacuuming(request: &VacuumStore) -> Operation {
    Operation::Vacuum {
        tables: request.tables.clone(),
        analyze: !request.without_analyze,
        full: request.full,
        freeze: request.freeze,
    }
}

fn rebuilding(request: &RebuildIndex) -> Operation {
    Operation::RebuildIndex {
        index: request.index.clone(),
        table: request.table.clone(),
        blocking: request.blocking,
    }
}

fn configuring(request: &ConfigureStore) -> Operation {
    Operation::Configure {
        setting: request.setting.clone(),
        value: request.value.clone(),
        level: request.level,
        role: request.role.clone(),
    }
}

/// The store's role, or why there is none.
pub(crate) fn role(store: &dyn Store) -> Result<&dyn Operate, Error> {
    store
        .operate()
        .ok_or_else(|| store.unsupported("operate", "this store is not run by a server", "use its own tools"))
}

/// Asks the adapter what the operation takes, and makes the plan of it.
pub(crate) async fn consider(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    store: &str,
    request: &str,
    arguments: Value,
    operation: &Operation,
) -> Result<Considered, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, store).await?;
    let started = Instant::now();
    // Roles are asked for by another name, and what to do instead is another thing.
    if matches!(operation, Operation::Grant(_) | Operation::Revoke(_)) && inquiry.store.access().is_none() {
        return Err(inquiry.store.unsupported(
            request,
            "a file has no roles: whoever may open it may do everything",
            "use file permissions: a user of its own with mode 0640, and its group for those who read",
        ));
    }
    let mut prepared = role(&*inquiry.store)?.prepare(ctx, operation).await?;
    let evidence = inquiry.note(request, prepared.seen.take(), millis_since(started));
    let mut findings = prepared.findings;
    for finding in &mut findings {
        finding.evidence.push(evidence.clone());
    }
    let scope = Scope { tables: Some(Vec::new()), history: false };
    let records = if prepared.steps.is_empty() {
        String::new()
    } else {
        inquiry.pre_state(&scope, &prepared.steps).await?
    };
    let plan = Plan {
        request: request.into(),
        arguments,
        project: ctx.project().into(),
        target: format!("store:{store}"),
        summary: prepared.summary,
        pre_state: fingerprint(&prepared.state, &records),
        steps: prepared.steps,
        predicted: json!({"scope": scope, "login": prepared.login, "operation": operation,
                          "before": prepared.state, "effect": prepared.predicted}),
        cost_usd_nanos: 0,
    };
    Ok(Considered { plan, findings, evidence: inquiry.evidence })
}

fn fingerprint(state: &Value, records: &str) -> String {
    sha256_hex(canonical_json(&json!({"state": state, "records": records})).as_bytes())
}

/// The operation of a plan that [`consider`] made; `None` for other plans.
fn operation(plan: &Plan) -> Result<Option<Operation>, Error> {
    let arguments = plan.arguments.clone();
    let read = |error: serde_json::Error| {
        Error::new(ErrorKind::Invalid, "the plan's arguments do not fit its request").because(error)
    };
    Ok(Some(match plan.request.as_str() {
        EndSession::NAME => ending(&serde_json::from_value(arguments).map_err(read)?),
        VacuumStore::NAME => vacuuming(&serde_json::from_value(arguments).map_err(read)?),
        RebuildIndex::NAME => rebuilding(&serde_json::from_value(arguments).map_err(read)?),
        ConfigureStore::NAME => configuring(&serde_json::from_value(arguments).map_err(read)?),
        GrantAccess::NAME => access::granting(&serde_json::from_value(arguments).map_err(read)?),
        RevokeAccess::NAME => access::revoking(&serde_json::from_value(arguments).map_err(read)?),
        _ => return Ok(None),
    }))
}

/// The fingerprint of the store as it is now, for a plan of this room; `None` for other plans.
pub(crate) async fn pre_state(inquiry: &mut Inquiry<'_>, plan: &Plan) -> Result<Option<String>, Error> {
    let Some(operation) = operation(plan)? else { return Ok(None) };
    let prepared = role(&*inquiry.store)?.prepare(inquiry.ctx, &operation).await?;
    let records = inquiry.pre_state(&Scope::of(plan), &plan.steps).await?;
    Ok(Some(fingerprint(&prepared.state, &records)))
}

/// What is measured before the plan runs.
pub(crate) async fn baseline(inquiry: &mut Inquiry<'_>, plan: &Plan) -> Result<Value, Error> {
    let Some(operation) = operation(plan)? else { return Ok(Value::Null) };
    role(&*inquiry.store)?.baseline(inquiry.ctx, &operation, &plan.predicted["effect"]).await
}

/// What is not as the plan said, after it ran.
pub(crate) async fn verify(
    inquiry: &mut Inquiry<'_>,
    plan: &Plan,
    baseline: &Value,
) -> Result<Vec<String>, Error> {
    let Some(operation) = operation(plan)? else { return Ok(Vec::new()) };
    let started = Instant::now();
    let problems = role(&*inquiry.store)?
        .unfulfilled(inquiry.ctx, &operation, &plan.predicted["effect"], baseline)
        .await?;
    inquiry.note("verify", json!({"before": baseline, "unfulfilled": problems}), millis_since(started));
    Ok(problems)
}
