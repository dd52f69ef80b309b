//! The closed list of everything that can be asked for.

use contract::{Effect, Error, ErrorKind, Request as _, RequestSpec};
use serde_json::{Map, Value};

macro_rules! requests {
    ($($variant:ident($type:ty)),* $(,)?) => {
        /// One thing that somebody asks for.
        #[derive(Debug)]
        #[allow(missing_docs, reason = "each variant is documented at its type, in the room that serves it")]
        pub(crate) enum Request {
            $($variant($type),)*
        }

        impl Request {
            /// Reads the arguments of the request called `name`.
            ///
            /// # Errors
            ///
            /// `Invalid`: unknown name, or wrong arguments, with the key.
            pub(crate) fn parse(name: &str, arguments: &Value) -> Result<Request, Error> {
                match name {
                    $(<$type>::NAME => read::<$type>(name, arguments).map(Request::$variant),)*
                    _ => Err(unknown(name)),
                }
            }

            /// Noun and verb.
            pub(crate) fn name(&self) -> &'static str {
                match self {
                    $(Request::$variant(_) => <$type>::NAME,)*
                }
            }

            /// The action in the authority matrix.
            pub(crate) fn action(&self) -> &'static str {
                match self {
                    $(Request::$variant(_) => <$type>::ACTION,)*
                }
            }

            /// What it does to the world.
            pub(crate) fn effect(&self) -> Effect {
                match self {
                    $(Request::$variant(_) => <$type>::EFFECT,)*
                }
            }

            /// The arguments with all defaults filled in.
            pub(crate) fn arguments(&self) -> Value {
                match self {
                    $(Request::$variant(request) => serde_json::to_value(request),)*
                }
                .expect("requests hold only JSON values")
            }
        }

        /// All requests as data, in the order of the list.
        pub(crate) fn specs() -> Vec<RequestSpec> {
            vec![$(RequestSpec::of::<$type>(),)*]
        }
    };
}

requests! {
    StoreList(stores::ListStores),
    StoreCheck(stores::CheckStore),
    StoreInspect(stores::InspectStore),
    StoreQuery(stores::QueryStore),
    StoreDiff(stores::DiffStore),
    StoreMeasure(stores::MeasureStore),
    StoreConsistency(stores::CheckConsistency),
    StoreHealth(stores::CheckHealth),
    StoreCompare(stores::CompareStores),
    StoreSlow(stores::ListSlowStatements),
    StoreSetup(stores::SetupStore),
    StoreLocks(stores::StoreLocks),
    StoreVacuum(stores::VacuumStore),
    StoreConfigure(stores::ConfigureStore),
    SessionEnd(stores::EndSession),
    AccessList(stores::ListAccess),
    AccessReview(stores::ReviewAccess),
    AccessGrant(stores::GrantAccess),
    AccessRevoke(stores::RevokeAccess),
    IndexAdvise(stores::AdviseIndexes),
    IndexCreate(stores::CreateIndex),
    IndexDrop(stores::DropIndex),
    IndexRebuild(stores::RebuildIndex),
    MigrationNew(stores::NewMigration),
    MigrationStatus(stores::MigrationStatus),
    MigrationPlan(stores::PlanMigrations),
    MigrationLint(stores::lint::LintMigrations),
    MigrationRewrite(stores::RewriteMigration),
    MigrationApply(stores::ApplyMigrations),
    MigrationRollback(stores::RollbackMigrations),
    AiUsage(gateway::report::ShowUsage),
    AiCost(gateway::report::ShowCost),
    AiForecast(gateway::report::ForecastCost),
    AiReceipt(gateway::receipt::ShowReceipt),
    AiLimits(gateway::settings::ShowLimits),
    AiLimit(gateway::settings::SetLimit),
    AiBudget(gateway::settings::RaiseBudget),
    AiReconcile(gateway::reconcile::ReconcileUsage),
    AiAdvise(gateway::advise::AdviseCost),
    PromptsList(gateway::prompts::ListPrompts),
    PromptsShow(gateway::prompts::ShowPrompt),
    PromptsErase(gateway::prompts::ErasePrompts),
    JobsList(gateway::job_view::ListJobs),
    JobsShow(gateway::job_view::ShowJob),
    JobsEstimate(gateway::job_view::EstimateJob),
    TaskRun(pm::RunTask),
    TaskPlan(pm::PlanTask),
    TaskResume(pm::ResumeTask),
    TaskList(pm::ListTasks),
    TaskShow(pm::ShowTask),
    ReportShow(pm::ShowReport),
    InboxList(pm::ListInbox),
    InboxAck(pm::AcknowledgeEscalation),
    ApprovalList(authority::ListApprovals),
    ApprovalShow(authority::ShowApproval),
    ApprovalGrant(authority::GrantApproval),
    ApprovalDeny(authority::DenyApproval),
    PolicyCheck(authority::CheckPolicy),
    PolicyExplain(authority::ExplainPolicy),
    PolicyList(authority::ListPolicies),
    PolicyTest(authority::TestPolicies),
    PersonAdd(authority::AddPerson),
    PersonList(authority::ListPeople),
    PersonRemove(authority::RemovePerson),
    TokenCreate(authority::CreateToken),
    TokenList(authority::ListTokens),
    TokenRevoke(authority::RevokeToken),
    SecretPut(vault::PutSecret),
    SecretList(vault::ListSecrets),
    SecretRotate(vault::RotateSecret),
    SecretRemove(vault::RemoveSecret),
    FileWrite(crate::files::WriteFile),
    AuditList(crate::audit::ListAudit),
    AuditVerify(crate::audit::VerifyAudit),
    AuditExport(crate::audit::ExportAudit),
    AuditErase(crate::audit::EraseAudit),
    EvidenceShow(crate::audit::ShowEvidence),
    StatusShow(crate::status::ShowStatus),
    AiModels(gateway::ListModels),
    AiRoutes(gateway::ListRoutes),
    AiTest(gateway::TestTargets),
    AiScan(gateway::ScanPath),
    AiImport(gateway::ImportConfig),
    KeysList(gateway::ListKeys),
    KeysCreate(gateway::CreateKey),
    KeysRevoke(gateway::RevokeKey),
    KeysRegenerate(gateway::RegenerateKey),
    KeysRotate(gateway::RotateKeys),
    ScheduleList(crate::status::ListSchedules),
    ScheduleAdvise(crate::status::AdviseSchedules),
    DocsReference(crate::reference::ShowReference),
    DocsCapabilities(crate::reference::ShowCapabilities),
    DocsSchema(stores::DocumentSchema),
    BackupSetup(backup::SetupRepository),
    BackupPlan(backup::ShowPlans),
    BackupRun(backup::RunBackup),
    BackupList(backup::ListBackups),
    BackupShow(backup::ShowBackup),
    BackupVerify(backup::VerifyBackup),
    BackupDrill(backup::DrillBackup),
    BackupRestore(backup::RestoreBackup),
    BackupAccept(backup::AcceptBackup),
    BackupPrune(backup::PruneBackups),
    BackupCopy(backup::CopyBackup),
    BackupFollow(backup::FollowLogs),
    BackupMarker(backup::MarkLogs),
    BackupLogs(backup::ShowLogs),
    BackupExportLogs(backup::ExportLogs),
    BackupRebuild(backup::RebuildCatalog),
    BackupExportRunbook(backup::ExportRunbook),
    BackupArchive(backup::archive::ArchiveRows),
    ArchiveList(backup::archive::ListArchives),
    ArchiveShow(backup::archive::ShowArchive),
    ArchiveVerify(backup::archive::VerifyArchive),
    ArchiveQuery(backup::archive::QueryArchive),
    ArchiveRestore(backup::archive::RestoreArchive),
    RetentionList(backup::archive::ListRetention),
    RetentionApply(backup::archive::ApplyRetention),
}

fn read<R: contract::Request>(name: &str, arguments: &Value) -> Result<R, Error> {
    let arguments = match arguments {
        Value::Null => Value::Object(Map::new()),
        other => other.clone(),
    };
    serde_json::from_value(arguments).map_err(|cause| {
        // serde_json's text names the key and what was expected; it never repeats a whole value.
        Error::new(ErrorKind::Invalid, format!("wrong arguments for `{name}`"))
            .because(cause)
            .hint(format!("for example: {}", R::EXAMPLE))
    })
}

fn unknown(name: &str) -> Error {
    let noun = name.split('.').next().unwrap_or_default();
    let near: Vec<&str> =
        specs().iter().map(|spec| spec.name).filter(|known| known.split('.').next() == Some(noun)).collect();
    let hint = if near.is_empty() {
        "`steward docs reference` lists all requests".to_owned()
    } else {
        format!("there are: {}", near.join(", "))
    };
    Error::new(ErrorKind::Invalid, format!("there is no request `{name}`")).hint(hint)
}

impl Request {
    /// Whether something may be different afterwards: also what is no plan of its own but leads to changes.
    pub(crate) fn leads_to_changes(name: &str, effect: Effect) -> bool {
        effect == Effect::Change || matches!(name, "task.run" | "task.resume" | "inbox.ack" | "ai.test")
    }

    /// Makes a request that is no change itself one that only plans, for a caller who asked for no more.
    ///
    /// # Errors
    ///
    /// `Invalid`: it has no such form and would do something.
    pub(crate) fn plan_only(&mut self) -> Result<(), Error> {
        match self {
            Request::TaskRun(task) => task.dry_run = true,
            other if Self::leads_to_changes(other.name(), other.effect()) => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("`{}` cannot only be planned", other.name()),
                )
                .with("argument", "dry_run")
                .hint("`steward task show` says what a task has before it"));
            }
            _ => {}
        }
        Ok(())
    }

    /// What it is about, such as `store:orders`; `project:` and the name when it is about no single thing.
    pub(crate) fn subject(&self, project: &str) -> String {
        let arguments = self.arguments();
        let field = |name: &str| arguments.get(name).and_then(Value::as_str).map(str::to_owned);
        let noun = self.name().split('.').next().unwrap_or_default();
        match noun {
            "store" | "index" | "migration" | "access" | "session" => {
                field("store").map(|store| format!("store:{store}"))
            }
            "secret" => field("name").map(|name| format!("secret:{name}")),
            "person" => field("name").map(|name| format!("person:{name}")),
            "token" => field("name").or_else(|| field("id")).map(|name| format!("token:{name}")),
            "keys" => field("provider")
                .map(|provider| format!("ai:provider/{provider}"))
                .or_else(|| field("name").map(|name| format!("ai:key/{name}"))),
            "prompts" => field("id").map(|id| format!("ai:prompt/{id}")),
            "backup" => field("plan")
                .or_else(|| field("backup"))
                .or_else(|| field("store"))
                .or_else(|| field("subject"))
                .map(|name| format!("backup:{name}"))
                .or_else(|| field("rule").map(|name| format!("archive:{name}"))),
            "archive" => field("archive").or_else(|| field("rule")).map(|name| format!("archive:{name}")),
            "retention" => field("rule").map(|name| format!("retention:{name}")),
            "file" => field("path").map(|path| format!("path:{path}")),
            _ => None,
        }
        .unwrap_or_else(|| format!("project:{project}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_noun_and_verb_and_unique() {
        let specs = specs();
        for (i, spec) in specs.iter().enumerate() {
            let parts: Vec<&str> = spec.name.split('.').collect();
            assert_eq!(parts.len(), 2, "{}", spec.name);
            assert!(specs.iter().skip(i + 1).all(|other| other.name != spec.name), "{} twice", spec.name);
            assert!(spec.example.contains("steward "), "{}", spec.name);
            assert_eq!(spec.schema["type"], "object", "{}", spec.name);
            let properties = spec.schema["properties"].as_object().cloned().unwrap_or_default();
            for (field, property) in properties {
                let described = property.get("description").is_some() || property.get("$ref").is_some();
                assert!(described, "{}: {field} has no description", spec.name);
            }
            for positional in spec.positional {
                assert!(spec.schema["properties"].get(positional).is_some(), "{}: {positional}", spec.name);
            }
        }
    }

    #[test]
    fn every_action_is_one_of_the_matrix() {
        let matrix = authority::Authority::built_in().expect("the built-in matrix");
        let actions: Vec<&str> = matrix.actions().iter().map(|(name, _)| *name).collect();
        for spec in specs() {
            assert!(actions.contains(&spec.action), "{}: `{}`", spec.name, spec.action);
        }
    }

    #[test]
    fn unknown_requests_and_arguments_are_refused_with_a_hint() {
        let error = Request::parse("store.inspekt", &Value::Null).expect_err("unknown").to_string();
        assert!(error.contains("store.inspect"), "{error}");
        let arguments = serde_json::json!({ "store": "orders", "tabel": "x" });
        let error = Request::parse("store.inspect", &arguments).expect_err("unknown key").to_string();
        assert!(error.contains("tabel"), "{error}");
    }
}
