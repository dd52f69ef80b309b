//! Least-privilege logins: one that reads and one that writes.

use std::collections::{BTreeMap, BTreeSet};

use contract::{Context, Error, ErrorKind, Plan, PlanStep, Request, Statement, StepMode, StoreDirectory};
use schema::Dialect;
use serde_json::json;

use crate::inquiry::{Inquiry, quoted_literal};
use crate::prestate::Scope;
use crate::request::SetupStore;

/// Logins of one role that may be open at once.
const CONNECTIONS_MAX: u32 = 16;

/// Plans the roles `steward_reader` and `steward_writer` and what they may do; running it again only renews passwords.
///
/// Must be executed by a superuser, or by a role with CREATEROLE that owns the namespaces. The passwords are the
/// secrets `<store>/steward_reader` and `<store>/steward_writer`, which the caller makes before execution: see
/// [`secrets`].
///
/// # Errors
///
/// `Unsupported`: the engine knows no logins. `Invalid`: no namespaces, or a name that cannot stand in a statement.
///
/// Source: PostgreSQL manual, "Database Roles", "Privileges", ALTER DEFAULT PRIVILEGES.
pub async fn plan(ctx: &Context, stores: &dyn StoreDirectory, request: &SetupStore) -> Result<Plan, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    if inquiry.store.relational().is_none_or(|sql| sql.dialect() != Dialect::Postgres) {
        return Err(inquiry.store.unsupported(
            "store.setup",
            "a file has no logins: whoever may open it may do everything",
            "use file permissions: give the file to a user of its own with mode 0640, and run readers in its group",
        ));
    }
    if request.schemas.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "`schemas` names no namespace"));
    }
    let store = &request.store;
    let role = |name: &str, more: &str| -> Vec<Statement> {
        let mut secret = Statement::new(format!("ALTER ROLE {name} LOGIN PASSWORD {{{{password}}}}"));
        secret.secrets = BTreeMap::from([("password".to_owned(), format!("{store}/{name}"))]);
        vec![
            Statement::new(format!(
                "DO $steward$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{name}') THEN \
                 CREATE ROLE {name} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS \
                 CONNECTION LIMIT {CONNECTIONS_MAX}; END IF; END $steward$"
            )),
            secret,
            Statement::new(format!("ALTER ROLE {name} SET {more}")),
            Statement::new(format!(
                "DO $steward$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO {name}', current_database()); \
                 END $steward$"
            )),
        ]
    };
    let mut own = vec![Statement::new(
        "DO $steward$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'steward') THEN \
         CREATE SCHEMA steward AUTHORIZATION steward_writer; END IF; END $steward$",
    )];
    // The records of this very plan were made by another role before there was a writer.
    own.push(Statement::new("ALTER SCHEMA steward OWNER TO steward_writer"));
    own.push(Statement::new(
        "DO $steward$ DECLARE name text; BEGIN FOR name IN SELECT tablename FROM pg_catalog.pg_tables \
         WHERE schemaname = 'steward' LOOP EXECUTE format('ALTER TABLE steward.%I OWNER TO steward_writer', name); \
         END LOOP; END $steward$",
    ));
    own.push(Statement::new("GRANT USAGE ON SCHEMA steward TO steward_reader"));
    own.push(Statement::new("GRANT SELECT ON ALL TABLES IN SCHEMA steward TO steward_reader"));
    own.push(Statement::new(
        "ALTER DEFAULT PRIVILEGES FOR ROLE steward_writer IN SCHEMA steward GRANT SELECT ON TABLES TO steward_reader",
    ));
    let mut reading = Vec::new();
    let mut writing = Vec::new();
    for schema in &request.schemas {
        let schema = inquiry.quoted(schema)?;
        reading.extend([
            Statement::new(format!("GRANT USAGE ON SCHEMA {schema} TO steward_reader")),
            Statement::new(format!("GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO steward_reader")),
            Statement::new(format!(
                "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO steward_reader"
            )),
            Statement::new(format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE steward_writer IN SCHEMA {schema} GRANT SELECT ON TABLES TO steward_reader"
            )),
        ]);
        writing.push(Statement::new(format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO steward_writer")));
        match &request.owner {
            Some(owner) => reading.push(Statement::new(format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {schema} GRANT SELECT ON TABLES TO steward_reader",
                inquiry.quoted(owner)?
            ))),
            None => writing.extend([
                Statement::new(format!(
                    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO steward_writer"
                )),
                Statement::new(format!("GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO steward_writer")),
            ]),
        }
    }
    if let Some(owner) = &request.owner {
        let literal = quoted_literal(owner)?;
        writing.insert(
            0,
            Statement::new(format!(
                "DO $steward$ BEGIN IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = {literal}) THEN \
                 RAISE EXCEPTION 'the owner is a superuser: give the tables to a role of their own first'; \
                 END IF; END $steward$"
            )),
        );
        writing.insert(1, Statement::new(format!("GRANT {} TO steward_writer", inquiry.quoted(owner)?)));
    }
    let step = |id: &str, title: &str, statements: Vec<Statement>, undo: Vec<&str>| PlanStep {
        id: id.into(),
        title: title.into(),
        mode: StepMode::Transaction,
        statements,
        is_done: None,
        clean_up: Vec::new(),
        undo: undo.into_iter().map(Statement::new).collect(),
        destructive: false,
        reversible: true,
        lock: None,
    };
    let mut roles = role("steward_reader", "default_transaction_read_only = on");
    roles.extend(role("steward_writer", "lock_timeout = '5s'"));
    let gone = |role: &'static str| {
        if role == "reader" {
            vec!["DROP OWNED BY steward_reader", "DROP ROLE steward_reader"]
        } else {
            vec!["DROP OWNED BY steward_writer", "DROP ROLE steward_writer"]
        }
    };
    let steps = vec![
        step(
            "setup/roles",
            "make the roles `steward_reader` and `steward_writer`",
            roles,
            [gone("reader"), gone("writer")].concat(),
        ),
        step("setup/reader", "let `steward_reader` read", reading, vec!["DROP OWNED BY steward_reader"]),
        step("setup/writer", "let `steward_writer` work", writing, vec!["DROP OWNED BY steward_writer"]),
        step("setup/own", "make the namespace `steward` for Steward's own records", own, Vec::new()),
    ];
    let scope = Scope { tables: Some(Vec::new()), history: false };
    let pre_state = inquiry.pre_state(&scope, &steps).await?;
    Ok(Plan {
        request: SetupStore::NAME.into(),
        arguments: json!(request),
        project: ctx.project().into(),
        target: format!("store:{store}"),
        summary: format!("make least-privilege logins for {store} in {}", request.schemas.join(", ")),
        steps,
        pre_state,
        predicted: json!({"scope": scope, "roles": ["steward_reader", "steward_writer"]}),
        cost_usd_nanos: 0,
    })
}

/// Names of the secrets that a plan puts into its statements; those that do not exist yet must be made before it runs.
pub fn secrets(plan: &Plan) -> BTreeSet<String> {
    plan.steps
        .iter()
        .flat_map(|step| step.statements.iter().chain(&step.clean_up).chain(&step.undo))
        .flat_map(|statement| statement.secrets.values().cloned())
        .collect()
}
