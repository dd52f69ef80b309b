//! Rights, sessions, vacuum, rebuilds and settings on a real server: each change is carried out, taken back and compared.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

#[allow(dead_code, reason = "shared with the other suites")]
mod server;

use std::sync::Arc;
use std::time::Duration;

use conformance::{NoSecrets, change, permit_for};
use contract::{
    AccessChange, AccessTarget, Activity, Actor, Context, EndHow, Error, ErrorKind, Operation, Plan,
    Prepared, SettingLevel, Severity, Store,
};
use serde_json::json;
use server::Database;
use store_postgres::PostgresStore;
use tokio_postgres::Client;

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_mins(1);

async fn database(case: &str) -> Database {
    Database::create(&conformance::namespace(case)).await
}

fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

async fn prepare(store: &PostgresStore, operation: &Operation) -> Result<Prepared, Error> {
    store.operate().unwrap().prepare(&ctx(), operation).await
}

fn plan(database: &Database, operation: &Operation, prepared: &Prepared) -> Plan {
    let mut plan = change(&database.opened_without_guard(), prepared.steps.clone());
    plan.request = match operation {
        Operation::EndSession { .. } => "session.end",
        Operation::Vacuum { .. } => "store.vacuum",
        Operation::RebuildIndex { .. } => "index.rebuild",
        Operation::Configure { .. } => "store.configure",
        Operation::Grant(_) => "access.grant",
        Operation::Revoke(_) => "access.revoke",
    }
    .into();
    plan.arguments = json!(conformance::namespace("again"));
    plan.predicted = json!({"login": prepared.login});
    plan
}

/// Prepares the operation and carries it out; gives what was prepared.
async fn carry_out(
    database: &Database,
    store: &PostgresStore,
    operation: &Operation,
) -> Result<Prepared, Error> {
    let prepared = prepare(store, operation).await?;
    let operate = store.operate().unwrap();
    let baseline = operate.baseline(&ctx(), operation, &prepared.predicted).await?;
    let plan = plan(database, operation, &prepared);
    let permit = permit_for(&ctx(), &plan);
    let mut execution = store.execute().unwrap().begin(&ctx(), &permit, &plan, Arc::new(NoSecrets)).await?;
    for index in 0..plan.steps.len() {
        execution.run(&ctx(), &permit, &plan, index).await?;
    }
    execution.finish(&ctx()).await?;
    let unfulfilled = operate.unfulfilled(&ctx(), operation, &prepared.predicted, &baseline).await?;
    assert_eq!(unfulfilled, Vec::<String>::new(), "{operation:?}");
    Ok(prepared)
}

/// Runs the way back of what was prepared, last step first, with the login that carried it out.
async fn take_back(database: &Database, prepared: &Prepared) {
    let client = database.connect_as_superuser().await;
    if prepared.login == "writer" {
        client.batch_execute(&format!("SET ROLE {}", database.writer())).await.unwrap();
    }
    for statement in prepared.steps.iter().rev().flat_map(|step| &step.undo) {
        client
            .batch_execute(&statement.sql)
            .await
            .unwrap_or_else(|error| panic!("{}: {error:?}", statement.sql));
    }
}

fn sql(prepared: &Prepared) -> Vec<&str> {
    prepared.steps.iter().flat_map(|step| &step.statements).map(|statement| statement.sql.as_str()).collect()
}

/// Roles of a test, dropped with what they own at its end.
struct Roles {
    database: Database,
    names: Vec<String>,
}

impl Roles {
    async fn create(database: &Database, roles: &[(&str, &str)]) -> Self {
        let names: Vec<String> =
            roles.iter().map(|(role, _)| format!("{}_{role}", database.name())).collect();
        for (name, (_, options)) in names.iter().zip(roles) {
            database.superuser(&format!("CREATE ROLE {name} {options}")).await;
        }
        Self { database: database.clone(), names }
    }

    async fn drop(self) {
        for name in &self.names {
            self.database.superuser(&format!("DROP OWNED BY {name} CASCADE; DROP ROLE {name}")).await;
        }
    }
}

fn on(role: &str, privileges: &[&str], target: AccessTarget, objects: &[&str]) -> AccessChange {
    AccessChange {
        role: role.into(),
        privileges: privileges.iter().map(ToString::to_string).collect(),
        on: Some(target),
        objects: objects.iter().map(ToString::to_string).collect(),
        columns: Vec::new(),
        member_of: Vec::new(),
        defaults: false,
        owner: None,
        option: false,
        public: false,
        cascade: false,
    }
}

/// Every right in the database and every membership, as the catalog has them.
async fn all_rights(database: &Database) -> String {
    database
        .text(
            "SELECT jsonb_pretty(jsonb_build_object( \
             'tables', (SELECT jsonb_object_agg(c.oid::regclass::text, (SELECT jsonb_agg(a::text ORDER BY a::text) \
                FROM unnest(COALESCE(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", c.relowner))) a)) \
                FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'S', 'v')), \
             'columns', (SELECT jsonb_object_agg(attrelid::regclass::text || attname, attacl::text) FROM pg_attribute \
                WHERE attacl <> '{}' AND attrelid >= 16384), \
             'schemas', (SELECT jsonb_object_agg(nspname, (SELECT jsonb_agg(a::text ORDER BY a::text) FROM unnest(nspacl) a)) \
                FROM pg_namespace WHERE nspname = 'public'), \
             'functions', (SELECT jsonb_object_agg(oid::regprocedure::text, (SELECT jsonb_agg(a::text ORDER BY a::text) \
                FROM unnest(COALESCE(proacl, acldefault('f', proowner))) a)) \
                FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'sql')), \
             'defaults', (SELECT jsonb_agg(defaclrole::regrole::text || defaclobjtype::text || e::text ORDER BY e::text) \
                FROM pg_default_acl, unnest(defaclacl) e WHERE defaclnamespace = 'public'::regnamespace), \
             'members', (SELECT jsonb_agg(to_jsonb(m) - 'oid' ORDER BY (to_jsonb(m) - 'oid')::text) FROM pg_auth_members m \
                WHERE m.member::regrole::text LIKE current_database() || '%')))",
        )
        .await
}

const SHOP: &str = "CREATE TABLE orders (id int PRIMARY KEY, email text, total numeric); \
                    CREATE TABLE \"Odd \"\"name\" (id int); CREATE SEQUENCE numbers; \
                    CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_given_once_and_taken_back_exactly() {
    let database = database("rights").await;
    database.admin(SHOP).await;
    let roles = Roles::create(&database, &[("app", "LOGIN"), ("group", "NOLOGIN")]).await;
    let (app, group) = (roles.names[0].as_str(), roles.names[1].as_str());
    // What was there before must be there after the way back.
    database
        .admin(&format!("GRANT SELECT ON orders TO {app}; GRANT USAGE ON SEQUENCE numbers TO {app}"))
        .await;
    let store = database.store();
    let mut columns = on(app, &["update"], AccessTarget::Table, &["public.orders"]);
    columns.columns = vec!["email".into(), "total".into()];
    let mut with_defaults = on(app, &["select", "insert"], AccessTarget::AllTables, &["public"]);
    with_defaults.defaults = true;
    let mut option = on(app, &["select"], AccessTarget::Table, &["orders"]);
    option.option = true;
    let mut member = on(app, &[], AccessTarget::Table, &[]);
    member.on = None;
    member.member_of = vec![group.into()];
    let changes = [
        on(app, &["select"], AccessTarget::Table, &["public.Odd \"name"]),
        with_defaults,
        columns,
        option,
        on(app, &["all"], AccessTarget::Sequence, &["numbers"]),
        on(app, &["execute"], AccessTarget::Function, &["twice(integer)"]),
        on(app, &["usage"], AccessTarget::Schema, &["public"]),
        on(app, &["temp"], AccessTarget::Database, &[]),
        on(app, &["all"], AccessTarget::AllTables, &["public"]),
        member,
    ];
    for change in changes {
        let before = all_rights(&database).await;
        let grant = Operation::Grant(change.clone());
        let given =
            carry_out(&database, &store, &grant).await.unwrap_or_else(|error| panic!("{change:?}: {error}"));
        assert!(!given.steps.is_empty(), "{change:?}: {}", given.summary);
        let after = all_rights(&database).await;
        let again = prepare(&store, &grant).await.unwrap();
        assert!(again.steps.is_empty() && again.summary.starts_with("nothing to do"), "{:?}", sql(&again));
        take_back(&database, &given).await;
        assert_eq!(all_rights(&database).await, before, "{:?}", sql(&given));

        // The same through a revocation, and its way back.
        carry_out(&database, &store, &grant).await.unwrap();
        let mut gone = change.clone();
        if change.option {
            gone.option = true;
        }
        let revoke = Operation::Revoke(gone);
        let taken = carry_out(&database, &store, &revoke).await.unwrap();
        assert!(prepare(&store, &revoke).await.unwrap().steps.is_empty(), "{change:?}");
        take_back(&database, &taken).await;
        assert_eq!(all_rights(&database).await, after, "{:?}", sql(&taken));
        take_back(&database, &given).await;
    }
    roles.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_changed_by_whoever_may_and_refused_with_who_could() {
    let database = database("who_may").await;
    database.admin(SHOP).await;
    database.superuser("CREATE TABLE of_another (id int)").await;
    let roles = Roles::create(&database, &[("app", "LOGIN"), ("boss", "LOGIN SUPERUSER")]).await;
    let (app, boss) = (roles.names[0].as_str(), roles.names[1].as_str());
    let store = database.store();
    let own = Operation::Grant(on(app, &["select"], AccessTarget::Table, &["orders"]));
    assert_eq!(prepare(&store, &own).await.unwrap().login, "writer", "the writing login owns the table");
    let others = Operation::Grant(on(app, &["select"], AccessTarget::Table, &["of_another"]));
    assert_eq!(prepare(&store, &others).await.unwrap().login, "admin");
    // Without a superuser: the answer says who could.
    let without = database.store_with(|config| config.admin = None, &[]);
    let error = prepare(&without, &others).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.hint_text().unwrap().contains("the owner `postgres` or a superuser could"), "{error}");
    prepare(&without, &own).await.unwrap();

    let mut member = on(app, &[], AccessTarget::Table, &[]);
    member.on = None;
    let mut to_boss = member.clone();
    to_boss.member_of = vec![boss.into()];
    let mut to_files = member;
    to_files.member_of = vec!["pg_read_server_files".into()];
    let mut columns = on(app, &["delete"], AccessTarget::Table, &["orders"]);
    columns.columns = vec!["email".into()];
    for (change, kind, words) in [
        (
            on("PUBLIC", &["select"], AccessTarget::Table, &["orders"]),
            ErrorKind::Invalid,
            "PUBLIC is everyone",
        ),
        (
            on("public", &["select"], AccessTarget::Table, &["orders"]),
            ErrorKind::Invalid,
            "PUBLIC is everyone",
        ),
        (
            on(app, &["superuser"], AccessTarget::Table, &["orders"]),
            ErrorKind::Invalid,
            "not given by Steward",
        ),
        (
            on(app, &["execute"], AccessTarget::Table, &["orders"]),
            ErrorKind::Invalid,
            "knows no right `execute`",
        ),
        (on(app, &["select"], AccessTarget::Table, &["nothing"]), ErrorKind::NotFound, "no table `nothing`"),
        (
            on(app, &["select"], AccessTarget::AllTables, &["nowhere"]),
            ErrorKind::NotFound,
            "no schema `nowhere`",
        ),
        (on("nobody_here", &["select"], AccessTarget::Table, &["orders"]), ErrorKind::NotFound, "no role"),
        (to_boss, ErrorKind::Invalid, "as good as superuser"),
        (to_files, ErrorKind::Invalid, "as good as superuser"),
        (columns, ErrorKind::Invalid, "a column knows no right `delete`"),
    ] {
        let error = prepare(&store, &Operation::Grant(change)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "`{words}` is missing: {error}");
    }
    let mut everyone = on("PUBLIC", &["select"], AccessTarget::Table, &["orders"]);
    everyone.public = true;
    let prepared = prepare(&store, &Operation::Grant(everyone)).await.unwrap();
    assert_eq!(sql(&prepared), ["GRANT SELECT ON TABLE public.orders TO PUBLIC"]);
    assert_eq!(prepared.findings[0].severity, Severity::Critical);
    roles.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passed_on_rights_need_a_cascade_and_other_sources_are_told() {
    let database = database("passed_on").await;
    database.admin(SHOP).await;
    let roles = Roles::create(&database, &[("a", "LOGIN"), ("b", "LOGIN"), ("g", "NOLOGIN")]).await;
    let [a, b, g] = [0, 1, 2].map(|index| roles.names[index].as_str());
    database
        .admin(&format!("GRANT SELECT ON orders TO {a} WITH GRANT OPTION; GRANT SELECT ON orders TO {g}"))
        .await;
    database
        .superuser(&format!("GRANT {g} TO {a}; SET ROLE {a}; GRANT SELECT ON orders TO {b}; RESET ROLE"))
        .await;
    let store = database.store();
    let mut change = on(a, &["select"], AccessTarget::Table, &["orders"]);
    let error = prepare(&store, &Operation::Revoke(change.clone())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains(b), "{error}");
    // What another grantor gave cannot be taken directly.
    let error = prepare(&store, &Operation::Revoke(on(b, &["select"], AccessTarget::Table, &["orders"])))
        .await
        .unwrap_err();
    assert!(error.hint_text().unwrap().contains("--only-option --cascade"), "{error}");
    change.cascade = true;
    let prepared = carry_out(&database, &store, &Operation::Revoke(change)).await.unwrap();
    assert!(!prepared.steps[0].reversible, "the passed-on rights have no exact way back");
    assert_eq!(prepared.findings[0].code, "still_allowed");
    assert!(prepared.findings[0].title.contains(g), "{:?}", prepared.findings);
    let left = database.text(&format!("SELECT has_table_privilege('{b}', 'orders', 'SELECT')::text")).await;
    assert_eq!(left, "false");
    roles.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_listed() {
    let database = database("listed").await;
    database.admin(SHOP).await;
    let roles =
        Roles::create(&database, &[("app", "LOGIN CONNECTION LIMIT 5 VALID UNTIL '2020-01-01'"), ("g", "")])
            .await;
    let [app, g] = [0, 1].map(|index| roles.names[index].as_str());
    database
        .admin(&format!(
            "GRANT SELECT ON orders TO {app} WITH GRANT OPTION; GRANT UPDATE (email) ON orders TO {app}; \
             GRANT USAGE ON SEQUENCE numbers TO PUBLIC; \
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {g}"
        ))
        .await;
    database.superuser(&format!("GRANT {g} TO {app} WITH ADMIN OPTION")).await;
    let map = database.store().access().unwrap().access(&ctx()).await.unwrap();
    let role = map.roles.iter().find(|role| role.name == app).unwrap();
    assert_eq!((role.connections_max, role.expired, role.login), (Some(5), true, true));
    assert!(map.roles.iter().any(|role| role.superuser && role.name == "postgres"));
    let writer = map.roles.iter().find(|role| role.name == database.writer()).unwrap();
    assert!(writer.objects_owned >= 4, "{writer:?}");
    let membership = map.memberships.iter().find(|membership| membership.member == app).unwrap();
    assert!(membership.admin && membership.role == g);
    let version: u32 = database.text("SHOW server_version_num").await.parse().unwrap();
    assert_eq!(membership.inherit.is_some(), version >= 160_000, "the option is the grant's from 16 on");
    let grant = |kind: &str, role: &str, object: &str| {
        map.grants
            .iter()
            .find(|grant| grant.kind == kind && grant.role == role && grant.object == object)
            .unwrap_or_else(|| panic!("{kind} {object}: {:#?}", map.grants))
            .clone()
    };
    assert_eq!(grant("table", app, "public.orders").grantable, ["SELECT"]);
    assert_eq!(grant("column", app, "public.orders.email").privileges, ["UPDATE"]);
    assert_eq!(grant("sequence", "PUBLIC", "public.numbers").privileges, ["USAGE"]);
    assert_eq!(grant("function", "PUBLIC", "public.twice(n integer)").privileges, ["EXECUTE"]);
    assert!(grant("database", "PUBLIC", &database.name()).privileges.contains(&"CONNECT".to_owned()));
    assert!(
        map.defaults.iter().any(|default| default.role == g && default.schema.as_deref() == Some("public"))
    );
    assert!(map.ownership.iter().any(|owned| owned.role == database.writer() && owned.kind == "table"));
    assert!(map.grants.iter().all(|grant| !grant.object.starts_with("steward.")));
    roles.drop().await;
}

// --- sessions ----------------------------------------------------------------

async fn activity(store: &PostgresStore) -> Activity {
    store.operate().unwrap().activity(&ctx()).await.unwrap()
}

/// Looks until the condition holds.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = tokio::time::Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "this never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

fn end(session: &contract::SessionInfo, how: EndHow) -> Operation {
    Operation::EndSession {
        pid: session.pid,
        backend_start: session.backend_start.clone(),
        how,
        protected: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blockers_are_shown_and_ended() {
    let database = database("blockers").await;
    database
        .admin("CREATE TABLE orders (id int PRIMARY KEY, email text); INSERT INTO orders VALUES (1, 'anna')")
        .await;
    let store = database.store();
    let blocker = database.connect_as_superuser().await;
    let blocker_pid = pid(&blocker).await;
    blocker.batch_execute("BEGIN; UPDATE orders SET email = 'secret-of-anna' WHERE id = 1").await.unwrap();
    let waiter = database.connect_as_superuser().await;
    let waiter_pid = pid(&waiter).await;
    let waiting =
        tokio::spawn(
            async move { waiter.batch_execute("UPDATE orders SET email = 'bob' WHERE id = 1").await },
        );
    let seen = until("the second session waits", async || {
        let seen = activity(&store).await;
        let waits =
            seen.sessions.iter().any(|session| session.pid == waiter_pid && session.waits_for.is_some());
        waits.then_some(seen)
    })
    .await;
    let one = |pid: i32| seen.sessions.iter().find(|session| session.pid == pid).unwrap();
    assert_eq!(one(waiter_pid).blocked_by, [blocker_pid]);
    assert!(one(waiter_pid).waits_for.as_ref().unwrap().object.starts_with("transaction "), "{seen:?}");
    assert_eq!(one(blocker_pid).state, "idle in transaction");
    assert!(one(blocker_pid).has_written);
    assert!(one(blocker_pid).holds.iter().any(|lock| lock.object == "table public.orders"), "{seen:?}");
    assert_eq!(one(blocker_pid).statement, "BEGIN; UPDATE orders SET email = ? WHERE id = ?");
    assert!(!format!("{seen:?}").contains("secret-of-anna"), "literals stay away: {seen:?}");
    assert!(seen.connections >= 2 && seen.connections <= seen.connections_max);
    assert!(seen.hidden.is_none(), "the administering login sees all");

    // It runs nothing: there is nothing to cancel.
    let error = prepare(&store, &end(one(blocker_pid), EndHow::Cancel)).await.unwrap_err();
    assert!(error.to_string().contains("runs nothing that could be canceled"), "{error}");
    // The waiter's statement is stopped, its session stays; whoever sent it can send it again.
    let canceled = carry_out(&database, &store, &end(one(waiter_pid), EndHow::Cancel)).await.unwrap();
    assert_eq!(risk(&canceled), (false, true));
    assert_eq!(waiting.await.unwrap().unwrap_err().code().unwrap().code(), "57014");
    // A number that has been used again is not hit.
    let mut another = one(blocker_pid).clone();
    another.backend_start = "2020-01-01T00:00:00.000000Z".into();
    let nothing = prepare(&store, &end(&another, EndHow::Terminate)).await.unwrap();
    assert!(
        nothing.steps.is_empty() && nothing.summary.contains("its number now belongs"),
        "{}",
        nothing.summary
    );
    let closed = carry_out(&database, &store, &end(one(blocker_pid), EndHow::Terminate)).await.unwrap();
    assert_eq!(closed.findings[0].code, "uncommitted_work");
    assert_eq!(risk(&closed), (true, false), "what it had changed is lost");
    let nothing = prepare(&store, &end(one(blocker_pid), EndHow::Terminate)).await.unwrap();
    assert!(nothing.steps.is_empty(), "it has ended: {}", nothing.summary);
    assert_eq!(database.text("SELECT email FROM orders").await, "anna");
}

/// Whether what was prepared is destructive, and whether it is reversible.
fn risk(prepared: &Prepared) -> (bool, bool) {
    (prepared.steps[0].destructive, prepared.steps[0].reversible)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uncommitted_work_makes_the_end_of_a_session_destructive() {
    let database = database("uncommitted").await;
    database.admin("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1), (2)").await;
    let store = database.store();
    let (reader, writer) = (database.connect_as_superuser().await, database.connect_as_superuser().await);
    reader.batch_execute("BEGIN; LOCK TABLE orders IN SHARE MODE").await.unwrap();
    let of = async |client: &Client, how| {
        let number = pid(client).await;
        let seen = activity(&store).await;
        end(seen.sessions.iter().find(|session| session.pid == number).unwrap(), how)
    };
    let operation = of(&reader, EndHow::Terminate).await;
    let prepared = prepare(&store, &operation).await.unwrap();
    assert_eq!((risk(&prepared), prepared.findings.len()), ((false, true), 0), "a lock alone is no work");

    // It writes after the plan was made: what was decided was something else, so nothing is ended.
    reader.batch_execute("INSERT INTO orders VALUES (3)").await.unwrap();
    let plan = plan(&database, &operation, &prepared);
    let permit = permit_for(&ctx(), &plan);
    let mut execution =
        store.execute().unwrap().begin(&ctx(), &permit, &plan, Arc::new(NoSecrets)).await.unwrap();
    assert_eq!(execution.run(&ctx(), &permit, &plan, 0).await.unwrap(), 0, "no session was told anything");
    execution.finish(&ctx()).await.unwrap();
    let again = prepare(&store, &operation).await.unwrap();
    assert_eq!(risk(&again), (true, false));
    assert_ne!(again.state, prepared.state, "the first plan no longer fits");

    // A statement that is stopped takes what its transaction did before with it.
    let number = pid(&writer).await;
    writer.batch_execute("BEGIN; CREATE TABLE made (id int)").await.unwrap();
    let waiting =
        tokio::spawn(async move { writer.batch_execute("UPDATE orders SET id = 10 WHERE id = 1").await });
    let operation = until("it waits", async || {
        let seen = activity(&store).await;
        let session =
            seen.sessions.iter().find(|session| session.pid == number && session.waits_for.is_some());
        session.map(|session| end(session, EndHow::Cancel))
    })
    .await;
    let canceled = carry_out(&database, &store, &operation).await.unwrap();
    assert_eq!((risk(&canceled), canceled.findings[0].code.as_str()), ((true, false), "uncommitted_work"));
    waiting.await.unwrap().unwrap_err();
    reader.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_for_one_session_never_ends_another() {
    let database = database("reused_pid").await;
    let store = database.store();
    let victim = database.connect_as_superuser().await;
    let victim_pid = pid(&victim).await;
    victim.batch_execute("BEGIN").await.unwrap();
    let seen = activity(&store).await;
    let session = seen.sessions.iter().find(|session| session.pid == victim_pid).unwrap();
    let operation = end(session, EndHow::Terminate);
    let mut prepared = prepare(&store, &operation).await.unwrap();
    // As if the number had been given to another session between the plan and its execution.
    prepared.steps[0].statements[0].parameters[1] = json!("2020-01-01T00:00:00.000000Z");
    let plan = plan(&database, &operation, &prepared);
    let permit = permit_for(&ctx(), &plan);
    let mut execution =
        store.execute().unwrap().begin(&ctx(), &permit, &plan, Arc::new(NoSecrets)).await.unwrap();
    assert_eq!(execution.run(&ctx(), &permit, &plan, 0).await.unwrap(), 0, "no session was told anything");
    assert_eq!(pid(&victim).await, victim_pid, "it lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_matter_are_protected_and_rights_are_needed() {
    let database = database("protected").await;
    let store = database.store();
    let own = database.connect_as_superuser().await;
    own.batch_execute("SET application_name = 'steward'; BEGIN").await.unwrap();
    let own_pid = pid(&own).await;
    let seen = activity(&store).await;
    let session = seen.sessions.iter().find(|session| session.pid == own_pid).unwrap();
    let error = prepare(&store, &end(session, EndHow::Terminate)).await.unwrap_err();
    assert!(error.to_string().contains("Steward's own"), "{error}");

    // The server's own sessions are never ended, whatever is said.
    let row = own
        .query_one(
            "SELECT pid, to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
             FROM pg_stat_activity WHERE backend_type = 'checkpointer'",
            &[],
        )
        .await
        .unwrap();
    let checkpointer = Operation::EndSession {
        pid: row.get(0),
        backend_start: row.get(1),
        how: EndHow::Terminate,
        protected: true,
    };
    let error = prepare(&store, &checkpointer).await.unwrap_err();
    assert!(error.to_string().contains("never ended"), "{error}");

    // Without a superuser: what cannot be seen is said, and who could.
    let without = database.store_with(|config| config.admin = None, &[]);
    let seen = without.operate().unwrap().activity(&ctx()).await.unwrap();
    assert!(seen.hidden.as_ref().unwrap().contains("pg_read_all_stats"), "{seen:?}");
    own.batch_execute("SET application_name = 'shop'").await.unwrap();
    let error = prepare(&without, &end(session, EndHow::Terminate)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    database.superuser(&format!("GRANT pg_read_all_stats TO {}", database.reader())).await;
    let error = prepare(&without, &end(session, EndHow::Terminate)).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("a superuser or a member of `postgres` could"), "{error}");
}

// --- vacuum, rebuilds ----------------------------------------------------------

fn vacuum(tables: &[&str], full: bool) -> Operation {
    Operation::Vacuum {
        tables: tables.iter().map(ToString::to_string).collect(),
        analyze: true,
        full,
        freeze: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_rows_are_cleared_where_it_is_needed() {
    let database = database("vacuum").await;
    let store = database.store();
    assert!(prepare(&store, &vacuum(&[], false)).await.unwrap().steps.is_empty(), "nothing needs it");
    database
        .admin(
            "CREATE TABLE bloated (id int) WITH (autovacuum_enabled = off); CREATE TABLE calm (id int); \
             INSERT INTO bloated SELECT generate_series(1, 2000); ANALYZE bloated; DELETE FROM bloated WHERE id > 500; \
             CREATE TABLE parts (id int) PARTITION BY RANGE (id); \
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (10)",
        )
        .await;
    let prepared = until("the server has counted the dead rows", async || {
        let prepared = prepare(&store, &vacuum(&[], false)).await.unwrap();
        (!prepared.steps.is_empty()).then_some(prepared)
    })
    .await;
    assert_eq!(sql(&prepared), ["VACUUM (ANALYZE) \"public\".\"bloated\""]);
    assert_eq!(prepared.login, "writer");
    carry_out(&database, &store, &vacuum(&[], false)).await.unwrap();
    until("the dead rows are gone", async || {
        prepare(&store, &vacuum(&[], false)).await.unwrap().steps.is_empty().then_some(())
    })
    .await;
    carry_out(&database, &store, &vacuum(&["parts", "public.calm"], false)).await.unwrap();

    let error = prepare(&store, &vacuum(&[], true)).await.unwrap_err();
    assert!(error.to_string().contains("a full vacuum needs the tables"), "{error}");
    let full = carry_out(&database, &store, &vacuum(&["bloated"], true)).await.unwrap();
    assert!(!full.steps[0].reversible, "so that someone must approve it");
    assert_eq!(full.steps[0].lock.as_deref(), Some("ACCESS EXCLUSIVE"));
    assert_eq!(prepare(&store, &vacuum(&["nothing"], false)).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vacuum_that_the_server_would_skip_is_refused() {
    let database = database("vacuum_rights").await;
    // The writing login of the tests owns the database, and with it may vacuum everything.
    database
        .superuser(&format!(
            "ALTER DATABASE {} OWNER TO postgres; CREATE TABLE foreign_to_us (id int)",
            database.name()
        ))
        .await;
    let without = database.store_with(|config| config.admin = None, &[]);
    let error = prepare(&without, &vacuum(&["foreign_to_us"], false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.hint_text().unwrap().contains("`postgres`"), "{error}");
    let prepared = carry_out(&database, &database.store(), &vacuum(&["foreign_to_us"], false)).await.unwrap();
    assert_eq!(prepared.login, "admin");
    let version: u32 = database.text("SHOW server_version_num").await.parse().unwrap();
    if version >= 170_000 {
        database.superuser(&format!("GRANT MAINTAIN ON foreign_to_us TO {}", database.writer())).await;
        carry_out(&database, &without, &vacuum(&["foreign_to_us"], false)).await.unwrap();
    }
}

fn rebuild(index: &str) -> Operation {
    Operation::RebuildIndex { index: Some(index.into()), table: None, blocking: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_are_built_anew_and_leftovers_go() {
    let database = database("rebuild").await;
    database
        .admin(
            "CREATE TABLE orders (id int PRIMARY KEY, email text, span int4range, EXCLUDE USING gist (span WITH &&)); \
             INSERT INTO orders SELECT n, n, int4range(n, n + 1) FROM generate_series(1, 500) n; CREATE INDEX by_email ON orders (email); \
             CREATE TABLE parts (id int) PARTITION BY RANGE (id); \
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (10); CREATE INDEX by_part ON parts (id)",
        )
        .await;
    let store = database.store();
    let file = "SELECT relfilenode::text FROM pg_class WHERE relname = 'by_email'";
    let before = database.text(file).await;
    // What a rebuild that was cut short leaves: an index that is not valid, under the server's working name.
    database
        .superuser(
            "CREATE INDEX by_email_ccnew ON orders (email); \
             UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'by_email_ccnew'::regclass",
        )
        .await;
    let error = prepare(&store, &rebuild("by_email_ccnew")).await.unwrap_err();
    assert!(error.to_string().contains("cut short left behind"), "{error}");
    let prepared = carry_out(&database, &store, &rebuild("public.by_email")).await.unwrap();
    assert_eq!(prepared.steps.len(), 2, "first what is left, then the index: {:?}", sql(&prepared));
    assert_ne!(database.text(file).await, before);
    let left = "SELECT count(*)::text FROM pg_class WHERE relname ~ '_cc(new|old)'";
    assert_eq!(database.text(left).await, "0");
    carry_out(&database, &store, &rebuild("by_part")).await.unwrap();

    let error = prepare(&store, &rebuild("orders_span_excl")).await.unwrap_err();
    assert!(error.to_string().contains("while nobody writes"), "{error}");
    let all = Operation::RebuildIndex { index: None, table: Some("orders".into()), blocking: true };
    assert_eq!(carry_out(&database, &store, &all).await.unwrap().steps.len(), 3);
    assert_eq!(prepare(&store, &rebuild("nothing")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_was_cut_short_is_cleaned_up_and_done() {
    let database = database("rebuild_cut").await;
    database.admin("CREATE TABLE orders (id int, email text); INSERT INTO orders SELECT n, n FROM generate_series(1, 500) n; CREATE INDEX by_email ON orders (email)").await;
    let store = database.store();
    let operation = rebuild("by_email");
    let prepared = prepare(&store, &operation).await.unwrap();
    let plan = plan(&database, &operation, &prepared);
    let permit = permit_for(&ctx(), &plan);
    // An older transaction that has the table: the build makes its index, then waits for it, until it is canceled.
    let old = database.connect_as_superuser().await;
    old.batch_execute("BEGIN; SELECT * FROM orders LIMIT 1; LOCK TABLE orders IN ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    let mut execution =
        store.execute().unwrap().begin(&ctx(), &permit, &plan, Arc::new(NoSecrets)).await.unwrap();
    let waiting_ctx = ctx();
    let stop = waiting_ctx.cancellation().clone();
    let left = "SELECT count(*)::text FROM pg_class WHERE relname ~ '_cc(new|old)'";
    let (outcome, ()) = tokio::join!(execution.run(&waiting_ctx, &permit, &plan, 0), async {
        until("the new index is there", async || (database.text(left).await == "1").then_some(())).await;
        stop.cancel();
    });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Canceled);
    drop(execution);
    old.batch_execute("COMMIT").await.unwrap();
    assert_eq!(database.text(left).await, "1", "what was begun is left");
    // The same plan again: it sees that it is not done, clears up and builds.
    let mut execution = until("the change lock is free", async || {
        store.execute().unwrap().begin(&ctx(), &permit, &plan, Arc::new(NoSecrets)).await.ok()
    })
    .await;
    execution.run(&ctx(), &permit, &plan, 0).await.unwrap();
    execution.finish(&ctx()).await.unwrap();
    assert_eq!(database.text(left).await, "0");
    let problems = store
        .operate()
        .unwrap()
        .unfulfilled(&ctx(), &operation, &prepared.predicted, &json!(null))
        .await
        .unwrap();
    assert_eq!(problems, Vec::<String>::new());
}

// --- settings --------------------------------------------------------------------

fn setting(name: &str, value: Option<&str>, level: SettingLevel, role: Option<&str>) -> Operation {
    Operation::Configure {
        setting: name.into(),
        value: value.map(Into::into),
        level,
        role: role.map(Into::into),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_changed_and_taken_back() {
    let database = database("settings").await;
    let store = database.store();
    let reader = database.reader();
    let stored = "SELECT COALESCE(string_agg(setrole::regrole::text || ': ' || array_to_string(setconfig, ', '), '; ' ORDER BY setrole), '') \
                  FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = current_database()";
    for operation in [
        setting("work_mem", Some("64MB"), SettingLevel::Database, None),
        setting("Work_Mem", Some("65MB"), SettingLevel::Database, None),
        setting("search_path", Some("\"$user\", \"Odd, name\""), SettingLevel::Database, None),
        setting("statement_timeout", Some("5s"), SettingLevel::Role, Some(&reader)),
        setting("enable_seqscan", Some("off"), SettingLevel::Role, Some(&reader)),
        setting("log_min_duration_statement", Some("250"), SettingLevel::Database, None),
    ] {
        let before = database.text(stored).await;
        let prepared = carry_out(&database, &store, &operation).await.unwrap();
        assert_ne!(database.text(stored).await, before, "{operation:?}");
        let again = prepare(&store, &operation).await.unwrap();
        assert!(again.steps.is_empty(), "{:?}", sql(&again));
        take_back(&database, &prepared).await;
        assert_eq!(database.text(stored).await, before, "{operation:?}");
        carry_out(&database, &store, &operation).await.unwrap();
    }
    let reset =
        carry_out(&database, &store, &setting("work_mem", None, SettingLevel::Database, None)).await.unwrap();
    take_back(&database, &reset).await;
    assert!(database.text(stored).await.contains("work_mem=65MB"), "the way back knows the old value");
    assert_eq!(database.text("SHOW search_path").await, "\"$user\", \"Odd, name\"");

    for (operation, kind, words) in [
        (
            setting("wrok_mem", Some("1"), SettingLevel::Database, None),
            ErrorKind::NotFound,
            "no setting `wrok_mem`",
        ),
        (
            setting("work_mem", Some("much"), SettingLevel::Database, None),
            ErrorKind::Invalid,
            "does not take `much`",
        ),
        (
            setting("enable_seqscan", Some("maybe"), SettingLevel::Database, None),
            ErrorKind::Invalid,
            "on or off",
        ),
        (
            setting("shared_buffers", Some("1GB"), SettingLevel::Database, None),
            ErrorKind::Invalid,
            "whole server",
        ),
        (setting("block_size", Some("1"), SettingLevel::Server, None), ErrorKind::Unsupported, "fixed"),
        (
            setting("fsync", Some("off"), SettingLevel::Server, None),
            ErrorKind::Invalid,
            "destroys the whole cluster",
        ),
        (setting("work_mem", Some("1MB"), SettingLevel::Role, None), ErrorKind::Invalid, "needs a `role`"),
        (
            setting("work_mem", Some("1MB"), SettingLevel::Role, Some("nobody_here")),
            ErrorKind::NotFound,
            "no role",
        ),
    ] {
        let error = prepare(&store, &operation).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "`{words}` is missing: {error}");
    }
    let without = database.store_with(|config| config.admin = None, &[]);
    prepare(&without, &setting("jit", Some("off"), SettingLevel::Database, None)).await.unwrap();
    let operation = setting("log_min_duration_statement", Some("1"), SettingLevel::Database, None);
    let error = prepare(&without, &operation).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.hint_text().unwrap().contains("a superuser could"), "{error}");
    let error =
        prepare(&without, &setting("work_mem", Some("1MB"), SettingLevel::Server, None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

// --- review ------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_more_than_needed_are_found_with_the_command_that_ends_them() {
    let database = database("review").await;
    database.admin(SHOP).await;
    database.admin("CREATE TABLE more (id int); REVOKE ALL ON orders FROM PUBLIC").await;
    // The server's own databases and roles are shared with other tests: only what is named after this one counts.
    let mine = database.name();
    let found = async || {
        let store = database.store();
        let access = store.access().unwrap();
        let map = access.access(&ctx()).await.unwrap();
        let (problems, not_seen) = access.review(&ctx(), &map).await.unwrap();
        assert!(
            not_seen.iter().any(|what| what.contains("pg_stat_statements")),
            "no extension is said: {not_seen:?}"
        );
        problems
            .into_iter()
            .filter(|problem| {
                problem.title.contains(&mine)
                    || problem.title.contains("everyone") && !problem.fix.contains("ct_")
            })
            .collect::<Vec<_>>()
    };
    let before = found().await;
    assert!(before.iter().all(|problem| problem.severity == Severity::Info), "{before:#?}");

    let roles = Roles::create(
        &database,
        &[
            ("app", "LOGIN"),
            ("boss", "LOGIN SUPERUSER"),
            ("maker", "LOGIN CREATEROLE"),
            ("g", ""),
            ("idle", ""),
            ("old", "LOGIN VALID UNTIL '2020-01-01'"),
        ],
    )
    .await;
    let [app, _boss, maker, g, idle, _old] = [0, 1, 2, 3, 4, 5].map(|index| roles.names[index].as_str());
    let reader = database.reader();
    database
        .admin(&format!(
            "GRANT CREATE ON SCHEMA public TO PUBLIC; GRANT INSERT ON more TO PUBLIC; \
             GRANT ALL ON orders TO {app}; GRANT SELECT ON more TO {app} WITH GRANT OPTION; \
             GRANT DELETE ON orders TO {reader}; GRANT SELECT ON more TO {idle}; \
             CREATE SCHEMA closed; CREATE TABLE closed.inner (id int); GRANT SELECT ON closed.inner TO {app}; \
             CREATE FUNCTION act() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; \
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO {maker}"
        ))
        .await;
    database
        .superuser(&format!(
            "GRANT {g} TO {app} WITH ADMIN OPTION; GRANT pg_execute_server_program TO {app}; \
             CREATE TABLE made_by_app (id int); ALTER TABLE made_by_app OWNER TO {app}"
        ))
        .await;
    let problems = found().await;
    for (code, severity, words) in [
        ("superuser_login", Severity::Warning, "NOSUPERUSER"),
        ("far_reaching_attribute", Severity::Warning, "NOCREATEROLE"),
        ("far_reaching_membership", Severity::Critical, "--member-of pg_execute_server_program`"),
        ("admin_option", Severity::Warning, "--only-option`"),
        ("owner_logs_in", Severity::Warning, "REASSIGN OWNED BY"),
        (
            "public_can_create",
            Severity::Warning,
            "revoke orders PUBLIC --privileges create --on schema --objects public`",
        ),
        (
            "public_rights",
            Severity::Critical,
            "revoke orders PUBLIC --privileges insert --on table --objects public.more`",
        ),
        ("public_definer_function", Severity::Warning, "--on function --objects 'public.act()'`"),
        ("grant_option", Severity::Warning, "--only-option --cascade`"),
        (
            "write_right_of_a_reader",
            Severity::Warning,
            "--privileges delete --on table --objects public.orders`",
        ),
        ("over_broad_grant", Severity::Warning, "--privileges truncate"),
        ("missing_default_privileges", Severity::Warning, "--with-defaults --owner"),
        ("grant_without_effect", Severity::Info, "--privileges usage --on schema --objects closed`"),
        ("unused_role", Severity::Info, "DROP ROLE"),
        ("expired_login", Severity::Info, "renew it"),
    ] {
        let found = problems.iter().find(|problem| problem.code == code);
        let problem = found.unwrap_or_else(|| panic!("`{code}` was not found: {problems:#?}"));
        assert_eq!(problem.severity, severity, "{problem:?}");
        assert!(problem.fix.contains(words), "`{words}` is missing: {problem:?}");
    }
    // What a command ends is not found again.
    let store = database.store();
    carry_out(
        &database,
        &store,
        &Operation::Revoke(on("PUBLIC", &["insert"], AccessTarget::Table, &["public.more"])),
    )
    .await
    .unwrap();
    assert!(!found().await.iter().any(|problem| problem.code == "public_rights"));
    roles.drop().await;
}
