//! From each request to the room that serves it: one arm for a read, one arm each to plan and to do for a change.

use std::path::Path;
use std::sync::Arc;

use authority::{Decision, Terminal};
use backup::archive;
use contract::{
    ActorKind, Context, Error, ErrorKind, Evidence, Finding, Outcome, Permit, Plan, PlanStep, Severity,
    StepMode, StepState, Trigger,
};
use ledger::{Event, EventFilter, Ledger};
use serde_json::json;
use stores::migration;

use crate::backups::Room;
use crate::config::{Objectives, StoreConfig};
use crate::door::{Options, Steward};
use crate::project::{POLICIES_DIR, Project};
use crate::request::Request;
use crate::{ai, audit, exposure, files, reference, spend, status};

/// A change that has been thought through, with what was found out on the way.
pub(crate) struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Risks and notes.
    pub findings: Vec<Finding>,
    /// What they rest on.
    pub evidence: Vec<Evidence>,
    /// The state is already as asked for.
    pub nothing_to_do: bool,
}

impl From<Plan> for Planned {
    fn from(plan: Plan) -> Self {
        let nothing_to_do = plan.steps.is_empty();
        Self { plan, findings: Vec::new(), evidence: Vec::new(), nothing_to_do }
    }
}

impl From<stores::Considered> for Planned {
    fn from(considered: stores::Considered) -> Self {
        let nothing_to_do = considered.plan.steps.is_empty();
        Self {
            plan: considered.plan,
            findings: considered.findings,
            evidence: considered.evidence,
            nothing_to_do,
        }
    }
}

/// Answers a request that only looks.
///
/// # Errors
///
/// As the room's.
pub(crate) async fn read(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    request: &Request,
    _options: &Options,
) -> Result<Outcome, Error> {
    let ledger = steward.ledger();
    let directory = &**project;
    match request {
        Request::StoreList(request) => stores::list(ctx, directory, request).await,
        Request::StoreCheck(request) => stores::check(ctx, directory, request).await,
        Request::StoreInspect(request) => stores::inspect(ctx, directory, request).await,
        Request::StoreQuery(request) => stores::query(ctx, directory, request).await,
        Request::StoreDiff(request) => stores::diff(ctx, directory, request).await,
        Request::StoreMeasure(request) => {
            let mut outcome = stores::measure(ctx, directory, request).await?;
            outcome.findings.extend(below_objective(&outcome, project.loaded().config.objectives));
            Ok(outcome)
        }
        Request::StoreConsistency(request) => {
            let mut outcome = stores::consistency(ctx, directory, request).await?;
            if request.tables.is_empty() {
                let declared = &project.loaded().config.checks;
                stores::compare_declared(ctx, directory, declared, &request.store, &mut outcome).await;
            }
            Ok(outcome)
        }
        Request::StoreLocks(request) => stores::locks(ctx, directory, request).await,
        Request::AccessList(request) => stores::access::list(ctx, directory, request).await,
        Request::AccessReview(request) => stores::access::review(ctx, directory, request).await,
        Request::StoreHealth(request) => stores::health(ctx, directory, request).await,
        Request::StoreCompare(request) => {
            stores::compare(ctx, directory, &project.loaded().config.checks, request).await
        }
        Request::StoreSlow(request) => {
            let earlier = times_before(ctx, ledger, request).await?;
            let objective_ms = project.loaded().config.objectives.query_p95_ms;
            stores::slow(ctx, directory, &earlier, objective_ms, request).await
        }
        Request::IndexAdvise(request) => stores::advise(ctx, directory, request).await,
        Request::MigrationStatus(request) => {
            let files = project.migrations(&request.store)?;
            migration::status(ctx, directory, &files, request).await
        }
        Request::MigrationLint(request) => {
            let mut given = Vec::new();
            for path in &request.files {
                let bytes = files::read(&project.loaded().dir, path)?.ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, "there is no such file in the project").with("file", path)
                })?;
                given.push(migration::MigrationFile::new(path, bytes));
            }
            // Pending ones, or without a store those before the files given.
            let mut folders: Vec<&str> = request.store.as_deref().into_iter().collect();
            folders.extend(
                request
                    .files
                    .iter()
                    .filter_map(|path| path.strip_prefix("migrations/")?.split_once('/'))
                    .map(|it| it.0),
            );
            folders.sort_unstable();
            folders.dedup();
            let mut migrations = Vec::new();
            for store in folders {
                migrations.extend(project.migrations(store)?);
            }
            stores::lint::lint(ctx, directory, &given, &migrations, request).await
        }
        Request::MigrationPlan(request) => {
            let files = project.migrations(&request.store)?;
            migration::preview(ctx, directory, &files, request).await
        }
        Request::AiUsage(request) => {
            gateway::report::usage(ctx, ledger, &project.loaded().config.ai, request).await
        }
        Request::AiCost(request) => spend::cost(ctx, ledger, project, request).await,
        Request::AiForecast(request) => spend::forecast(ctx, ledger, project, request).await,
        Request::AiReceipt(request) => gateway::receipt::receipt(ctx, ledger, request).await,
        Request::AiLimits(request) => {
            gateway::settings::limits(ctx, ledger, &project.loaded().config.ai, request).await
        }
        Request::AiReconcile(request) => spend::compare(ctx, ledger, project, request).await,
        Request::AiAdvise(request) => spend::advise(ctx, ledger, project, request).await,
        Request::PromptsList(request) => {
            gateway::prompts::list(ctx, ledger, &project.loaded().config.ai, request).await
        }
        Request::PromptsShow(request) => gateway::prompts::show(ctx, ledger, request).await,
        Request::JobsList(request) => gateway::job_view::list(ctx, ledger, request).await,
        Request::JobsShow(request) => gateway::job_view::show(ctx, ledger, request).await,
        Request::JobsEstimate(request) => spend::estimate(ctx, project, request),
        Request::TaskRun(request) => {
            let (defaults, webhooks) = (project.defaults(), project.webhooks_for(Trigger::DecisionRequired));
            let room = pm::Room { ledger, defaults: &defaults, webhooks: &webhooks };
            pm::run_task(ctx, steward, room, request).await
        }
        Request::TaskResume(request) => {
            let (defaults, webhooks) = (project.defaults(), project.webhooks_for(Trigger::DecisionRequired));
            let room = pm::Room { ledger, defaults: &defaults, webhooks: &webhooks };
            pm::resume_task(ctx, steward, room, request).await
        }
        Request::TaskPlan(request) => {
            let defaults = project.defaults();
            let room = pm::Room { ledger, defaults: &defaults, webhooks: &[] };
            pm::plan_task(ctx, steward, room, request).await
        }
        Request::TaskList(request) => pm::list_tasks(ctx, ledger, request).await,
        Request::TaskShow(request) => pm::show_task(ctx, ledger, steward, request).await,
        Request::ReportShow(request) => pm::show_report(ctx, ledger, request).await,
        Request::InboxList(request) => pm::list_inbox(ctx, ledger, request).await,
        Request::InboxAck(request) => pm::acknowledge_escalation(ctx, ledger, request).await,
        Request::ApprovalList(request) => steward.approvals().list(ctx, request).await,
        Request::ApprovalShow(request) => steward.approvals().show(ctx, request).await,
        Request::PolicyCheck(request) => project.authority().check(ctx, &steward.people(), request).await,
        Request::PolicyExplain(request) => project.authority().explained(request),
        Request::PolicyList(request) => Ok(project.authority().listed(request)),
        Request::PolicyTest(request) => {
            let own = format!("{POLICIES_DIR}/tests.csv");
            let cases = files::read(&project.loaded().dir, &own)?
                .map(|bytes| files::utf8(&own, bytes))
                .transpose()?;
            project.authority().test(request, cases.as_deref().map(|text| (Path::new(&own), text)))
        }
        Request::PersonList(request) => steward.people().list(ctx, request).await,
        Request::TokenList(request) => steward.tokens().list(ctx, request).await,
        Request::SecretList(request) => steward.vault().list(ctx, request).await,
        Request::AuditList(request) => audit::list(ctx, ledger, request).await,
        Request::AuditVerify(request) => audit::verify(ledger, request.head.clone()).await,
        Request::AuditExport(request) => audit::export(ctx, ledger, request).await,
        Request::EvidenceShow(request) => audit::show_evidence(ctx, ledger, request).await,
        Request::StatusShow(request) => status::show(ctx, steward, project, request).await,
        Request::AiModels(request) => ai::models(steward, ctx, project, request).await,
        Request::AiRoutes(request) => ai::routes(steward, ctx, project, request).await,
        Request::AiTest(request) => ai::test(steward, ctx, project, request).await,
        Request::AiScan(request) => exposure::scan(steward, ctx, project, request).await,
        Request::AiImport(request) => ai::import(ctx, project, request),
        Request::KeysList(request) => ai::list_keys(steward, ctx, project, request).await,
        Request::ScheduleList(_) => status::schedules(ctx, steward, project).await,
        Request::ScheduleAdvise(request) => status::advise_schedules(project, request),
        Request::DocsReference(_) => Ok(reference::show(steward.specs())),
        Request::DocsCapabilities(_) => reference::capabilities(),
        Request::BackupPlan(request) => backup::show_plans(ctx, &Room::new(steward, project), request).await,
        Request::BackupExportRunbook(request) => {
            backup::export_runbook(ctx, &Room::new(steward, project), request).await
        }
        Request::ArchiveList(request) => {
            archive::list_archives(ctx, &Room::new(steward, project), request).await
        }
        Request::ArchiveShow(request) => {
            archive::show_archive(ctx, &Room::new(steward, project), request).await
        }
        Request::ArchiveVerify(request) => {
            archive::verify_archive(ctx, &Room::new(steward, project), request).await
        }
        Request::ArchiveQuery(request) => {
            archive::query_archive(ctx, &Room::new(steward, project), request).await
        }
        Request::RetentionList(request) => {
            archive::list_retention(ctx, &Room::new(steward, project), request).await
        }
        Request::BackupLogs(request) => backup::show_logs(ctx, &Room::new(steward, project), request).await,
        Request::BackupList(request) => backup::list(ctx, &Room::new(steward, project), request).await,
        Request::BackupShow(request) => backup::show(ctx, &Room::new(steward, project), request).await,
        _ => Err(wrong_way(request)),
    }
}

/// What the ledger knows of the time that statements on this store took: each query, and each run of a measurement; and
/// the last look at what the engine counts.
async fn times_before(
    ctx: &Context,
    ledger: &Ledger,
    request: &stores::ListSlowStatements,
) -> Result<stores::Earlier, Error> {
    let source = format!("store:{}", request.store);
    let look = [<stores::ListSlowStatements as contract::Request>::NAME];
    let last = ledger.evidence_of_source(ctx.project(), &source, &look).await?.pop();
    let after = last.as_ref().filter(|_| request.since_last).map(|last| last.taken_at);
    let recorded =
        ledger.evidence_of_source(ctx.project(), &source, &["store.query", "store.measure"]).await?;
    let mut own = Vec::new();
    for item in recorded.into_iter().filter(|item| after.is_none_or(|after| item.taken_at > after)) {
        let time = |elapsed_ms| stores::OwnTime {
            statement: item.statement.clone(),
            elapsed_ms,
            evidence: item.id.clone(),
        };
        match item.answer["runs_ms"].as_array() {
            Some(runs) => own.extend(runs.iter().filter_map(serde_json::Value::as_f64).map(time)),
            // The plan of a measured statement is no run of it.
            None if item.answer.get("rows").is_some() => own.push(time(item.elapsed_ms)),
            None => {}
        }
    }
    Ok(stores::Earlier { own, last })
}

/// The mission's threshold: a query slower than the objective is something that the PM must hear of.
fn below_objective(outcome: &Outcome, objectives: Objectives) -> Option<Finding> {
    let (p95_ms, objective_ms) = (outcome.value["p95_ms"].as_f64()?, objectives.query_p95_ms);
    (p95_ms > objective_ms).then(|| Finding {
        code: "slow_query".into(),
        severity: Severity::Warning,
        title: format!("p95 is {p95_ms} ms, above the objective of {objective_ms} ms"),
        object: contract::sha256_hex(outcome.value["query"].as_str().unwrap_or_default().as_bytes())[..12]
            .to_owned(),
        recommendation: Some("ask `steward index advise` for an index".into()),
        evidence: outcome.evidence.iter().map(|evidence| evidence.id.clone()).collect(),
        escalate: Some(Trigger::PerformanceDegradation),
    })
}

/// Thinks a change through; nothing is changed.
///
/// # Errors
///
/// As the room's.
pub(crate) async fn plan(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    request: &Request,
) -> Result<Planned, Error> {
    let vault = steward.vault();
    let directory = &**project;
    Ok(match request {
        Request::StoreSetup(request) => plan_setup(ctx, project, request).await?.into(),
        Request::IndexCreate(request) => stores::index::plan_create(ctx, directory, request).await?.into(),
        Request::IndexDrop(request) => stores::index::plan_drop(ctx, directory, request).await?.into(),
        Request::IndexRebuild(request) => {
            stores::operate::plan_rebuild(ctx, directory, request).await?.into()
        }
        Request::StoreVacuum(request) => stores::operate::plan_vacuum(ctx, directory, request).await?.into(),
        Request::StoreConfigure(request) => {
            stores::operate::plan_configure(ctx, directory, request).await?.into()
        }
        Request::SessionEnd(request) => {
            stores::operate::plan_end_session(ctx, directory, request).await?.into()
        }
        Request::AccessGrant(request) => stores::access::plan_grant(ctx, directory, request).await?.into(),
        Request::AccessRevoke(request) => stores::access::plan_revoke(ctx, directory, request).await?.into(),
        Request::MigrationNew(new) => {
            let file = migration::new_file(&project.migrations(&new.store)?, new)?;
            let mut plan = own_plan(ctx, request, &format!("write {}", file.path), "absent".into());
            plan.target = format!("path:{}", file.path);
            plan.into()
        }
        Request::MigrationRewrite(rewrite) => {
            let file =
                migration::safe_file(ctx, directory, &project.migrations(&rewrite.store)?, rewrite).await?;
            let content = files::utf8(&file.path, file.content)?;
            let before = files::fingerprint(&project.loaded().dir, &file.path)?;
            let summary = format!("replace {} by its safe form", file.path);
            let mut plan = own_plan(ctx, request, &summary, before);
            plan.target = format!("path:{}", file.path);
            plan.predicted = json!({ "content": content });
            plan.into()
        }
        Request::MigrationApply(request) => {
            let files = project.migrations(&request.store)?;
            migration::plan_apply(ctx, directory, &files, request).await?.into()
        }
        Request::MigrationRollback(request) => {
            let files = project.migrations(&request.store)?;
            migration::plan_rollback(ctx, directory, &files, request).await?.into()
        }
        Request::SecretPut(request) => vault.plan_put(ctx, request).await?.into(),
        Request::SecretRotate(request) => vault.plan_rotate(ctx, request).await?.into(),
        Request::SecretRemove(request) => vault.plan_remove(ctx, request).await?.into(),
        Request::AiLimit(request) => {
            gateway::settings::plan_limit(ctx, steward.ledger(), request).await?.into()
        }
        Request::AiBudget(request) => {
            let config = &project.loaded().config.ai;
            gateway::settings::plan_raise(ctx, steward.ledger(), config, request).await?.into()
        }
        Request::PromptsErase(request) => {
            let (plan, present) = gateway::prompts::plan_erase(ctx, steward.ledger(), request).await?;
            let finding = Finding {
                code: "prompts_present".into(),
                severity: Severity::Info,
                title: format!("{present} stored prompts are meant at present"),
                object: plan.target.clone(),
                recommendation: None,
                evidence: Vec::new(),
                escalate: None,
            };
            Planned { findings: vec![finding], ..plan.into() }
        }
        Request::FileWrite(file) => {
            let question = Steward::question(project, request, None)?;
            let decision = project.authority().decide(ctx, &question, &[]);
            // Who may not write the file learns nothing about it either, such as whether it holds what they guess.
            let before = if matches!(decision, Decision::Forbidden { .. }) {
                "not looked at".to_owned()
            } else {
                files::fingerprint(&project.loaded().dir, &file.path)?
            };
            if before == contract::sha256_hex(file.content.as_bytes()) {
                let summary = format!("nothing to do: {} holds this content", file.path);
                return Ok(crate::door::bare_plan(ctx, request, &summary).into());
            }
            let exists = before != "absent";
            let summary = format!("{} {}", if exists { "replace" } else { "write" }, file.path);
            let mut plan = own_plan(ctx, request, &summary, before);
            plan.steps[0].reversible = !exists;
            plan.into()
        }
        Request::DocsSchema(document) => plan_document(ctx, project, request, document).await?,
        Request::ApprovalGrant(grant) => {
            let approval = steward.approvals().get(ctx, &grant.id).await?;
            own_plan(
                ctx,
                request,
                &format!("approve plan {}: {}", approval.plan.short(), approval.summary),
                format!("{:?}", approval.state),
            )
            .into()
        }
        Request::ApprovalDeny(deny) => {
            let approval = steward.approvals().get(ctx, &deny.id).await?;
            own_plan(
                ctx,
                request,
                &format!("deny plan {}: {}", approval.plan.short(), approval.summary),
                format!("{:?}", approval.state),
            )
            .into()
        }
        Request::PersonAdd(person) => {
            own_plan(ctx, request, &format!("give {} a key", person.name), String::new()).into()
        }
        Request::PersonRemove(person) => {
            own_plan(ctx, request, &format!("take the key of {} away", person.name), String::new()).into()
        }
        Request::TokenCreate(token) => {
            own_plan(ctx, request, &format!("make a token for {}", token.name), String::new()).into()
        }
        Request::TokenRevoke(token) => {
            own_plan(ctx, request, &format!("revoke the token {}", token.token), String::new()).into()
        }
        Request::KeysCreate(request) => {
            let names = ai::scope_names(project);
            steward.virtual_keys().plan_create(ctx, request, ai::borrowed(&names)).await?.into()
        }
        Request::KeysRevoke(request) => steward.virtual_keys().plan_revoke(ctx, request).await?.into(),
        Request::KeysRegenerate(request) => {
            steward.virtual_keys().plan_regenerate(ctx, request).await?.into()
        }
        Request::KeysRotate(request) => {
            let keys = ai::keys_of(project, &request.provider)?;
            match steward.rotations().plan(ctx, request, &keys).await {
                // A schedule that finds nothing to do must be heard of: keys are to be rotated.
                Err(error) if request.staged && error.kind() == ErrorKind::NotFound => {
                    if ctx.actor().kind == ActorKind::Schedule
                        && let subject = format!("ai:provider/{}", request.provider)
                        && let finding = ai::nothing_staged(&request.provider)
                        && let Some(escalation) = pm::NewEscalation::of_finding(&subject, &finding)
                    {
                        steward.raise(ctx, escalation).await?;
                    }
                    return Err(error);
                }
                planned => planned?.into(),
            }
        }
        Request::BackupSetup(request) => {
            backup::plan_setup(ctx, &Room::new(steward, project), request)?.into()
        }
        Request::BackupRun(request) => {
            let (plan, findings) = backup::plan_run(ctx, &Room::new(steward, project), request).await?;
            Planned { findings, ..plan.into() }
        }
        Request::BackupFollow(request) => {
            let (plan, findings) = backup::plan_follow(ctx, &Room::new(steward, project), request).await?;
            Planned { findings, ..plan.into() }
        }
        Request::BackupMarker(request) => {
            backup::plan_marker(ctx, &Room::new(steward, project), request).await?.into()
        }
        Request::BackupExportLogs(request) => {
            backup::plan_export_logs(ctx, &Room::new(steward, project), request).await?.into()
        }
        Request::BackupVerify(request) => {
            backup::plan_verify(ctx, &Room::new(steward, project), request).await?.into()
        }
        Request::BackupPrune(request) => {
            let plan = backup::plan_prune(ctx, &Room::new(steward, project), request).await?;
            Planned { findings: backup::prune_warnings(&plan), ..plan.into() }
        }
        Request::BackupAccept(request) => {
            backup::plan_accept(ctx, &Room::new(steward, project), request).await?.into()
        }
        Request::BackupCopy(request) => {
            backup::plan_copy(ctx, &Room::new(steward, project), request).await?.into()
        }
        Request::BackupDrill(request) => {
            backup::plan_drill(ctx, &Room::new(steward, project), request)?.into()
        }
        Request::BackupRebuild(request) => {
            backup::plan_rebuild(ctx, &Room::new(steward, project), request)?.into()
        }
        Request::BackupRestore(request) => {
            backup::plan_restore(ctx, &Room::new(steward, project), request).await?.into()
        }
        Request::BackupArchive(request) => {
            let (plan, evidence) = archive::plan_archive(ctx, &Room::new(steward, project), request).await?;
            Planned { evidence, ..plan.into() }
        }
        Request::RetentionApply(request) => {
            let (plan, evidence) =
                archive::plan_retention(ctx, &Room::new(steward, project), request).await?;
            Planned { evidence, ..plan.into() }
        }
        Request::ArchiveRestore(request) => {
            archive::plan_restore_archive(ctx, &Room::new(steward, project), request).await?.into()
        }
        Request::AuditErase(erase) => {
            let summary = format!("erase the body of entry {}: {}", erase.seq, erase.reason);
            let mut plan = own_plan(ctx, request, &summary, format!("entry {}", erase.seq));
            plan.steps[0].destructive = true;
            plan.steps[0].reversible = false;
            plan.into()
        }
        _ => return Err(wrong_way(request)),
    })
}

/// What a change came to, with the key that it made, which goes to whoever asked and nowhere else.
pub(crate) struct Done {
    /// What is recorded.
    pub outcome: Outcome,
    /// The value of a new key.
    pub made: Option<secrecy::SecretString>,
}

/// Does what was permitted.
///
/// # Errors
///
/// As the room's.
pub(crate) async fn perform(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    request: &Request,
    permit: &Permit,
    plan: &Plan,
    options: &Options,
) -> Result<Done, Error> {
    let (outcome, made) = match request {
        Request::KeysCreate(request) => {
            let names = ai::scope_names(project);
            let keys = steward.virtual_keys();
            let (outcome, made) = keys.create(ctx, permit, plan, request, ai::borrowed(&names)).await?;
            (outcome, Some(made))
        }
        Request::KeysRegenerate(request) => {
            let (outcome, made) = steward.virtual_keys().regenerate(ctx, permit, plan, request).await?;
            (outcome, Some(made))
        }
        Request::BackupSetup(request) => {
            let room = Room::new(steward, project);
            if !request.tends() {
                room.make_key(ctx, permit, plan, &request.name(&room)?).await?;
                room.make_signing_key(ctx, permit, plan, request.new_signing_key).await?;
            }
            backup::setup(ctx, &room, permit, plan, request, options.secret.as_ref()).await?
        }
        _ => (carry_out(steward, ctx, project, request, permit, plan, options).await?, None),
    };
    Ok(Done { outcome, made })
}

/// Does what was permitted and makes no key.
///
/// # Errors
///
/// As the room's.
async fn carry_out(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    request: &Request,
    permit: &Permit,
    plan: &Plan,
    options: &Options,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    match request {
        Request::StoreSetup(_)
        | Request::IndexCreate(_)
        | Request::IndexDrop(_)
        | Request::IndexRebuild(_)
        | Request::StoreVacuum(_)
        | Request::StoreConfigure(_)
        | Request::SessionEnd(_)
        | Request::AccessGrant(_)
        | Request::AccessRevoke(_)
        | Request::MigrationApply(_)
        | Request::MigrationRollback(_) => change_store(steward, ctx, project, permit, plan).await,
        Request::MigrationNew(request) => {
            let dir = &project.loaded().dir;
            // Two who take the next number at the same time take it one after the other.
            let _turn = files::take_turn(dir)?;
            let file = migration::new_file(&project.migrations(&request.store)?, request)?;
            if plan.target != format!("path:{}", file.path) {
                return Err(Error::new(ErrorKind::Conflict, "another migration was added meanwhile")
                    .with("path", &file.path)
                    .with_retry(contract::Retry::Never)
                    .hint("ask for the change again"));
            }
            let content = files::utf8(&file.path, file.content)?;
            files::write(dir, &files::WriteFile { path: file.path, content })
        }
        Request::MigrationRewrite(_) => {
            let dir = &project.loaded().dir;
            let path = plan.target.strip_prefix("path:").unwrap_or_default().to_owned();
            if files::fingerprint(dir, &path)? != plan.pre_state {
                return Err(Error::new(ErrorKind::Conflict, "the file has changed since the plan was made")
                    .with("path", &path)
                    .with_retry(contract::Retry::Never)
                    .hint("ask for the change again"));
            }
            let content = plan.predicted["content"].as_str().unwrap_or_default().to_owned();
            files::write(dir, &files::WriteFile { path, content })
        }
        Request::SecretPut(_) | Request::SecretRotate(_) | Request::SecretRemove(_) => {
            steward.vault().execute(ctx, permit, plan, options.secret.clone()).await
        }
        Request::ApprovalGrant(request) => {
            steward.approvals().grant(ctx, request, secret(options)?, terminal(options)).await
        }
        Request::ApprovalDeny(request) => {
            steward.approvals().deny(ctx, request, secret(options)?, terminal(options)).await
        }
        Request::PersonAdd(request) => {
            steward.people().add(ctx, request, secret(options)?, options.voucher.clone()).await
        }
        Request::PersonRemove(request) => steward.people().remove(ctx, request, secret(options)?).await,
        Request::TokenCreate(request) => {
            let (mut outcome, token) = steward.tokens().create(ctx, request).await?;
            // The one place where a secret leaves: it was made for whoever asked, and is shown once.
            let shown =
                format!("{}\n\n{}\n", outcome.text.trim_end(), secrecy::ExposeSecret::expose_secret(&token));
            outcome.text = shown;
            Ok(outcome)
        }
        Request::TokenRevoke(request) => steward.tokens().revoke(ctx, request).await,
        Request::KeysRevoke(request) => steward.virtual_keys().revoke(ctx, permit, plan, request).await,
        Request::KeysRotate(_) => {
            let canary = ai::canary(steward, ctx, project).await?;
            let serves = || crate::daemon::running(steward.state()).is_some();
            steward.rotations().rotate(ctx, permit, plan, &canary, options.secret.clone(), &serves).await
        }
        Request::AiLimit(request) => {
            gateway::settings::limit(ctx, steward.ledger(), permit, plan, request).await
        }
        Request::AiBudget(request) => {
            let config = &project.loaded().config.ai;
            gateway::settings::raise(ctx, steward.ledger(), permit, plan, config, request).await
        }
        Request::PromptsErase(request) => {
            gateway::prompts::erase(ctx, steward.ledger(), permit, plan, request).await
        }
        Request::FileWrite(request) => {
            let dir = &project.loaded().dir;
            if files::fingerprint(dir, &request.path)? != plan.pre_state {
                return Err(Error::new(ErrorKind::Conflict, "the file has changed since the plan was made")
                    .with("path", &request.path)
                    .with_retry(contract::Retry::Never)
                    .hint("ask for the change again"));
            }
            files::write(dir, request)
        }
        Request::BackupRun(request) => {
            let room = Room::new(steward, project);
            // That of a project whose backups an older Steward began.
            room.make_signing_key(ctx, permit, plan, false).await?;
            backup::run(ctx, &room, permit, plan, request).await
        }
        Request::BackupFollow(request) => {
            backup::follow(ctx, &Room::new(steward, project), permit, plan, request).await
        }
        Request::BackupMarker(request) => {
            backup::marker(ctx, &Room::new(steward, project), permit, plan, request).await
        }
        Request::BackupExportLogs(request) => {
            backup::export_logs(ctx, &Room::new(steward, project), permit, plan, request).await
        }
        Request::BackupPrune(request) => {
            backup::prune(ctx, &Room::new(steward, project), permit, plan, request).await
        }
        Request::BackupAccept(request) => {
            backup::accept(ctx, &Room::new(steward, project), permit, plan, request).await
        }
        Request::BackupCopy(request) => {
            backup::copy(ctx, &Room::new(steward, project), permit, plan, request).await
        }
        Request::BackupDrill(request) => {
            let key = options.secret.as_ref().filter(|_| request.takes_key());
            backup::drill(ctx, &Room::new(steward, project), permit, plan, request, key).await
        }
        Request::BackupRebuild(request) => {
            backup::rebuild(ctx, &Room::new(steward, project), permit, plan, request).await
        }
        Request::BackupVerify(request) => {
            backup::verify(ctx, &Room::new(steward, project), permit, plan, request).await
        }
        Request::BackupRestore(request) => {
            let restored = backup::restore(ctx, &Room::new(steward, project), permit, plan, request).await;
            if request.to != backup::RestoreTo::Scratch {
                // Open connections belong to what was there before: a file that was replaced, or lost.
                project.reconnect().await;
            }
            restored
        }
        Request::BackupArchive(request) => {
            archive::run_archive(ctx, &Room::new(steward, project), permit, plan, request).await
        }
        Request::RetentionApply(request) => {
            archive::apply_retention(ctx, &Room::new(steward, project), permit, plan, request).await
        }
        Request::ArchiveRestore(request) => {
            archive::restore_archive(ctx, &Room::new(steward, project), permit, plan, request).await
        }
        Request::DocsSchema(request) => write_document(ctx, project, request, plan).await,
        Request::AuditErase(request) => {
            steward.ledger().erase_body(ctx, request.seq, &request.reason).await?;
            Ok(Outcome::new(
                json!({ "seq": request.seq }),
                format!("the body of entry {} is erased\n", request.seq),
            ))
        }
        _ => Err(wrong_way(request)),
    }
}

/// Plans the logins that the project file names, with the secrets that it names for them.
async fn plan_setup(ctx: &Context, project: &Project, request: &stores::SetupStore) -> Result<Plan, Error> {
    let mut request = request.clone();
    let mut secrets = Vec::new();
    if let Some(StoreConfig::Postgres(config)) = project.loaded().config.stores.get(&request.store) {
        // Without it every login is tried in turn, and the error would name the wrong one.
        if let Some(secret) = config.admin.as_ref().and_then(|admin| admin.password_secret.as_deref()) {
            project.secrets().secret(ctx, secret).await?;
        }
        let writer = config.writer.as_ref().map_or(&request.writer, |writer| &writer.user);
        for (flag, asked, usual, named) in [
            ("--reader", &request.reader, "steward_reader", &config.reader.user),
            ("--writer", &request.writer, "steward_writer", writer),
        ] {
            if asked != usual && asked != named {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("the project file names `{named}`, not `{asked}`"),
                )
                .with("flag", flag)
                .with("store", &request.store)
                .hint("change the name in steward.yaml: it is the login that Steward uses afterwards"));
            }
        }
        request.reader.clone_from(&config.reader.user);
        secrets.push((request.reader.clone(), config.reader.password_secret.clone()));
        if let Some(writer) = &config.writer {
            request.writer.clone_from(&writer.user);
            secrets.push((request.writer.clone(), writer.password_secret.clone()));
        }
    }
    let mut plan = stores::setup::plan(ctx, project, &request).await?;
    for (role, secret) in secrets {
        let Some(secret) = secret else { continue };
        let by_convention = format!("{}/{role}", request.store);
        for statement in plan.steps.iter_mut().flat_map(|step| &mut step.statements) {
            statement
                .secrets
                .values_mut()
                .filter(|name| **name == by_convention)
                .for_each(|name| name.clone_from(&secret));
        }
    }
    Ok(plan)
}

/// Plans to write the data architecture document of a store, if it is not there as it would be written.
async fn plan_document(
    ctx: &Context,
    project: &Project,
    request: &Request,
    document: &stores::DocumentSchema,
) -> Result<Planned, Error> {
    let (content, evidence) = stores::document(ctx, project, document).await?;
    let (path, dir) = (document.path(), &project.loaded().dir);
    let before = files::read(dir, &path)?;
    if before.as_deref() == Some(content.as_bytes()) {
        let mut plan =
            crate::door::bare_plan(ctx, request, &format!("nothing to do: {path} is as the store is"));
        plan.target = format!("path:{path}");
        return Ok(Planned { evidence, ..plan.into() });
    }
    // What someone wrote by hand is not ours to replace.
    if before.as_ref().is_some_and(|bytes| !bytes.starts_with(stores::document::MARK.as_bytes())) {
        return Err(Error::new(ErrorKind::Conflict, "another document lies where this one belongs")
            .with("path", &path)
            .with_retry(contract::Retry::Never)
            .hint("move it to another name, and ask again"));
    }
    let verb = if before.is_some() { "replace" } else { "write" };
    let mut plan = own_plan(ctx, request, &format!("{verb} {path}"), files::fingerprint(dir, &path)?);
    plan.target = format!("path:{path}");
    plan.predicted = json!({ "sha256": contract::sha256_hex(content.as_bytes()) });
    Ok(Planned { evidence, ..plan.into() })
}

/// Writes the document that was planned.
async fn write_document(
    ctx: &Context,
    project: &Project,
    request: &stores::DocumentSchema,
    plan: &Plan,
) -> Result<Outcome, Error> {
    let (content, evidence) = stores::document(ctx, project, request).await?;
    let (path, dir) = (request.path(), &project.loaded().dir);
    let planned = plan.predicted["sha256"].as_str().unwrap_or_default();
    if files::fingerprint(dir, &path)? != plan.pre_state
        || contract::sha256_hex(content.as_bytes()) != planned
    {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the store or the file has changed since the plan was made",
        )
        .with("path", &path)
        .with_retry(contract::Retry::Never)
        .hint("ask for the change again"));
    }
    let mut outcome = files::write(dir, &files::WriteFile { path, content })?;
    outcome.evidence = evidence;
    Ok(outcome)
}

/// Runs a plan of the stores room; passwords that it names and that do not exist yet are made first.
async fn change_store(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    permit: &Permit,
    plan: &Plan,
) -> Result<Outcome, Error> {
    steward.vault().generate_missing(ctx, permit, plan).await?;
    stores::execute(ctx, permit, plan, &**project, project.secrets()).await
}

fn secret(options: &Options) -> Result<secrecy::SecretString, Error> {
    options.secret.clone().ok_or_else(|| {
        Error::new(ErrorKind::Forbidden, "this needs a person at a terminal")
            .hint("run the command in a terminal")
    })
}

fn terminal(options: &Options) -> Terminal {
    if options.terminal { Terminal::Yes } else { Terminal::No }
}

/// How an interrupted change ended.
pub(crate) struct Resumed {
    /// `resumed`, `done`, `undone` or `unknown`.
    pub word: &'static str,
    /// What happened, for people.
    pub text: String,
}

/// Goes on with an interrupted change.
///
/// # Errors
///
/// As the room's; the change stays open.
pub(crate) async fn resume(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    request: &str,
    plan: &Plan,
    intent: &Event,
) -> Result<Resumed, Error> {
    if let Some(path) = plan.target.strip_prefix("path:") {
        return left_file(&project.loaded().dir, path, plan);
    }
    if request == <gateway::RotateKeys as contract::Request>::NAME {
        return left_rotation(steward, ctx, project, plan).await;
    }
    if let Some(text) = left_rows(steward, ctx, project, request, plan, intent).await? {
        return Ok(Resumed { word: "resumed", text });
    }
    if request.starts_with("backup.") {
        let room = Room::new(steward, project);
        let backup::Left { is_done, text } = backup::left(ctx, &room, plan, intent.at).await?;
        return Ok(Resumed { word: if is_done { "done" } else { "undone" }, text });
    }
    if !plan.target.starts_with("store:") {
        return left_state(steward, ctx, request, plan, intent).await;
    }
    let states = stores::progress(ctx, &**project, plan).await?;
    if states.iter().all(|state| *state == StepState::Pending) {
        return Ok(Resumed { word: "undone", text: "no step had begun; nothing has changed".into() });
    }
    let parsed = Request::parse(request, &plan.arguments)?;
    let id = intent.body.as_ref().and_then(|body| body["intent"].as_str()).unwrap_or_default();
    let approved = steward.approvals().of_intent(ctx, id).await?;
    let mut question = Steward::question(project, &parsed, Some(plan))?;
    question.facts.verified_backup_minutes = steward.verified_backup(ctx, plan).await?;
    let permit = project.authority().permit(ctx, &question, plan, &approved)?;
    let outcome = change_store(steward, ctx, project, &permit, plan).await?;
    let done = states.iter().filter(|state| **state == StepState::Done).count();
    let text = format!("{done} of {} steps were done before; {}", states.len(), outcome.text.trim_end());
    Ok(Resumed { word: "resumed", text })
}

/// Goes on with a change of rows by a rule: an archive that is whole is finished, all else stays as its last batch left it.
async fn left_rows(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    request: &str,
    plan: &Plan,
    intent: &Event,
) -> Result<Option<String>, Error> {
    let parsed = match request {
        <archive::ArchiveRows as contract::Request>::NAME => Request::parse(request, &plan.arguments)?,
        <archive::ApplyRetention as contract::Request>::NAME => {
            return Ok(Some("whole batches are deleted, or none; asked again, it goes on".to_owned()));
        }
        <archive::RestoreArchive as contract::Request>::NAME => {
            return Ok(Some("whole batches are put back, or none; asked again, it goes on".to_owned()));
        }
        _ => return Ok(None),
    };
    let id = intent.body.as_ref().and_then(|body| body["intent"].as_str()).unwrap_or_default();
    let approved = steward.approvals().of_intent(ctx, id).await?;
    let mut question = Steward::question(project, &parsed, Some(plan))?;
    question.facts.verified_backup_minutes = steward.verified_backup(ctx, plan).await?;
    let permit = project.authority().permit(ctx, &question, plan, &approved)?;
    archive::finish_archive(ctx, &Room::new(steward, project), &permit, plan).await.map(Some)
}

/// Goes on with rotations that were begun: each is finished or was never begun.
async fn left_rotation(
    steward: &Steward,
    ctx: &Context,
    project: &Project,
    plan: &Plan,
) -> Result<Resumed, Error> {
    let canary = ai::canary(steward, ctx, project).await?;
    let serves = || crate::daemon::running(steward.state()).is_some();
    let rotations = steward.rotations().resume(ctx, plan, &canary, &serves).await?;
    if rotations.is_empty() {
        return Ok(Resumed {
            word: "undone",
            text: "no rotation was open; the keys serve as they did".into(),
        });
    }
    for rotation in &rotations {
        if let Some(finding) = rotation.finding(Vec::new())
            && let Some(escalation) = pm::NewEscalation::of_finding(&plan.target, &finding)
        {
            steward.raise(ctx, escalation).await?;
        }
    }
    let undone =
        rotations.iter().all(|it| matches!(it.state, gateway::Stage::Undone | gateway::Stage::Failed));
    let text: Vec<String> = rotations.iter().map(gateway::Rotation::text).collect();
    Ok(Resumed { word: if undone { "undone" } else { "resumed" }, text: text.join("; ") })
}

/// Whether a file that was being written was written: a rename happens as a whole or not at all.
fn left_file(dir: &Path, path: &str, plan: &Plan) -> Result<Resumed, Error> {
    let now = files::fingerprint(dir, path)?;
    let wanted = plan.arguments["content"].as_str().map(|content| contract::sha256_hex(content.as_bytes()));
    let (word, text) = match wanted {
        Some(wanted) if now == wanted => ("done", format!("{path} was written")),
        None if now != plan.pre_state => ("done", format!("{path} was written")),
        _ if now == plan.pre_state => ("undone", format!("{path} was not written; nothing has changed")),
        _ => ("unknown", format!("{path} holds neither what it held before nor what was to be written")),
    };
    Ok(Resumed { word, text })
}

/// Whether a change of Steward's own state happened: its rooms record it in the same transaction.
async fn left_state(
    steward: &Steward,
    ctx: &Context,
    request: &str,
    plan: &Plan,
    intent: &Event,
) -> Result<Resumed, Error> {
    let argument = |name: &str| plan.arguments[name].as_str().unwrap_or_default().to_owned();
    let (kind, subject) = match request {
        "secret.put" | "secret.rotate" | "secret.remove" => (request, Some(plan.target.clone())),
        "person.add" => ("people.added", Some(plan.target.clone())),
        "person.remove" => ("people.removed", Some(plan.target.clone())),
        "approval.grant" => ("approval.granted", Some(format!("approval:{}", argument("id")))),
        "approval.deny" => ("approval.denied", Some(format!("approval:{}", argument("id")))),
        "keys.create" => ("ai.key.created", Some(plan.target.clone())),
        "keys.regenerate" => ("ai.key.regenerated", Some(plan.target.clone())),
        "keys.revoke" => ("ai.key.revoked", Some(plan.target.clone())),
        "token.create" => ("token.created", None),
        "token.revoke" => ("token.revoked", None),
        "ai.limit" => ("ai.limit.set", Some(plan.target.clone())),
        "ai.budget" => ("ai.budget.set", Some(plan.target.clone())),
        "prompts.erase" => ("ai.prompts.erased", Some(plan.target.clone())),
        "audit.erase" => ("audit.erasure", Some(format!("event:{}", plan.arguments["seq"]))),
        _ => {
            let text = format!("nothing says how far `{request}` came; look at {}", plan.target);
            return Ok(Resumed { word: "unknown", text });
        }
    };
    let filter = EventFilter {
        project: Some(ctx.project().to_owned()),
        after_seq: intent.seq,
        ..EventFilter::default()
    };
    let is_it = |event: &Event| {
        let body = |name: &str| event.body.as_ref().and_then(|body| body[name].as_str()).unwrap_or_default();
        event.kind == kind
            && match (&subject, request) {
                (Some(subject), _) => event.subject == *subject,
                (None, "token.create") => body("name") == argument("name"),
                (None, _) => {
                    let token = argument("token");
                    body("name") == token || event.subject == format!("token:{token}")
                }
            }
    };
    // The same may have been asked for again; whose event it is cannot be told then.
    let again = |event: &Event| event.kind == intent.kind && event.subject == intent.subject;
    for event in steward.ledger().events(filter.kind(kind)).await? {
        if !is_it(&event) {
            continue;
        }
        let between = EventFilter {
            subject: Some(intent.subject.clone()),
            after_seq: intent.seq,
            ..EventFilter::project(ctx.project()).kind(&intent.kind)
        };
        let asked_again =
            steward.ledger().events(between).await?.iter().any(|other| again(other) && other.seq < event.seq);
        let text = if asked_again {
            format!("entry {} says that it was done, by this or by a later request", event.seq)
        } else {
            format!("it was done before the process ended: entry {}", event.seq)
        };
        let lost = match request {
            "token.create" => "; nobody has seen the token's value: revoke it and make another",
            "keys.create" | "keys.regenerate" => "; nobody has seen the key's value: regenerate it",
            _ => "",
        };
        let word = if asked_again { "unknown" } else { "done" };
        return Ok(Resumed { word, text: format!("{text}{lost}") });
    }
    Ok(Resumed { word: "undone", text: "it had not begun; nothing has changed".into() })
}

/// A plan of one step that changes Steward's own state or a file, not a store.
fn own_plan(ctx: &Context, request: &Request, summary: &str, pre_state: String) -> Plan {
    let mut plan = crate::door::bare_plan(ctx, request, summary);
    plan.pre_state = pre_state;
    plan.steps.push(PlanStep {
        reversible: true,
        ..PlanStep::new(request.name(), summary, StepMode::Transaction, Vec::new())
    });
    plan
}

/// A plan for people: what, in which steps, with what decision.
pub(crate) fn plan_text(plan: &Plan, decision: &Decision) -> String {
    use std::fmt::Write;
    let mut text = format!("plan {} on {}\n{}\n", plan.digest().short(), plan.target, plan.summary);
    for (number, step) in plan.steps.iter().enumerate() {
        let mut notes = Vec::new();
        if step.destructive {
            notes.push("DESTRUCTIVE");
        }
        if !step.reversible {
            notes.push("cannot be taken back");
        }
        match step.mode {
            StepMode::Transaction => {}
            StepMode::Autocommit => notes.push("outside a transaction"),
            StepMode::Batched(_) => notes.push("in batches"),
        }
        if let Some(lock) = &step.lock {
            notes.push(lock);
        }
        let notes = if notes.is_empty() { String::new() } else { format!(" [{}]", notes.join("; ")) };
        writeln!(text, "  {}. {}{notes}", number + 1, step.title).expect("writing to a string does not fail");
        for statement in &step.statements {
            for line in statement.sql.trim().lines() {
                writeln!(text, "       {line}").expect("writing to a string does not fail");
            }
        }
    }
    if plan.predicted.as_object().is_some_and(|predicted| !predicted.is_empty()) {
        writeln!(text, "expected: {}", plan.predicted).expect("writing to a string does not fail");
    }
    let decided = decision.decided();
    let who = if decided.approvers.is_empty() {
        String::new()
    } else {
        format!(" by {}", decided.approvers.join(" or "))
    };
    let why = if decided.reason.is_empty() { String::new() } else { format!(": {}", decided.reason) };
    writeln!(text, "decision: {}{who}{why}", decided.decision).expect("writing to a string does not fail");
    text
}

fn wrong_way(request: &Request) -> Error {
    Error::new(ErrorKind::Other, format!("`{}` has no arm in the dispatch", request.name()))
}
