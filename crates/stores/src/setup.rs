//! Least-privilege logins: one that reads and one that writes.

use std::collections::BTreeMap;

use contract::{Context, Error, ErrorKind, Plan, PlanStep, Request, Statement, StepMode, StoreDirectory};
use schema::Dialect;
use serde_json::json;

use crate::inquiry::{Inquiry, quoted_literal};
use crate::prestate::Scope;
use crate::request::SetupStore;

/// Logins of one role that may be open at once.
const CONNECTIONS_MAX: u32 = 16;

/// Plans the two roles and what they may do; running it again only sets passwords and rights anew.
///
/// Must be executed by a superuser, or by a role with CREATEROLE that owns the namespaces. The passwords are the
/// secrets `<store>/<role>`, which must be there when the plan runs.
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
    let (reader_name, writer_name) = (&request.reader, &request.writer);
    if reader_name == writer_name {
        return Err(
            Error::new(ErrorKind::Invalid, "reader and writer must be two roles").with("role", reader_name)
        );
    }
    // These words end up inside of `DO $steward$ … $steward$`, where quotes do not hold this mark back.
    let names = [reader_name, writer_name, store].into_iter().chain(&request.owner).chain(&request.schemas);
    if let Some(name) = names.into_iter().find(|name| name.contains("$steward$")) {
        return Err(Error::new(ErrorKind::Invalid, "a name holds `$steward$`").with("name", name));
    }
    let (reader, writer) = (inquiry.quoted(reader_name)?, inquiry.quoted(writer_name)?);
    let role = |name: &str, quoted: &str, setting: &str| -> Result<Vec<Statement>, Error> {
        let literal = quoted_literal(name)?;
        let mut secret =
            Statement::new(format!("ALTER ROLE {quoted} LOGIN PASSWORD {{{{password_{setting}}}}}"));
        secret.secrets = BTreeMap::from([(format!("password_{setting}"), format!("{store}/{name}"))]);
        let setting = match setting {
            "reader" => "default_transaction_read_only = on",
            _ => "lock_timeout = '5s'",
        };
        // Roles belong to the whole server: a new password for one that another store uses would lock that store out.
        let mark = quoted_literal(&format!(
            "Steward's login for the store {store} of the project {}",
            ctx.project()
        ))?;
        let taken = quoted_literal(&format!(
            "the role {name} exists and is not this store's: name another in steward.yaml, \
             or make it this store's with COMMENT ON ROLE {quoted} IS {mark}"
        ))?;
        Ok(vec![
            Statement::new(format!(
                "DO $steward$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal}) THEN \
                 CREATE ROLE {quoted} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS \
                 CONNECTION LIMIT {CONNECTIONS_MAX}; COMMENT ON ROLE {quoted} IS {mark}; \
                 ELSIF (SELECT pg_catalog.shobj_description(oid, 'pg_authid') FROM pg_catalog.pg_roles \
                 WHERE rolname = {literal}) IS DISTINCT FROM {mark} THEN \
                 RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = {taken}; END IF; END $steward$"
            )),
            secret,
            Statement::new(format!("ALTER ROLE {quoted} SET {setting}")),
            Statement::new(format!(
                "DO $steward$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), {literal}); \
                 END $steward$"
            )),
        ])
    };
    let own = vec![
        Statement::new(format!(
            "DO $steward$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'steward') THEN \
             CREATE SCHEMA steward AUTHORIZATION {writer}; END IF; END $steward$"
        )),
        // The records of this very plan were made by another role before there was a writer.
        Statement::new(format!("ALTER SCHEMA steward OWNER TO {writer}")),
        Statement::new(format!(
            "DO $steward$ DECLARE name text; BEGIN FOR name IN SELECT tablename FROM pg_catalog.pg_tables \
             WHERE schemaname = 'steward' LOOP EXECUTE format('ALTER TABLE steward.%I OWNER TO %I', name, {}); \
             END LOOP; END $steward$",
            quoted_literal(writer_name)?
        )),
        Statement::new(format!("GRANT USAGE ON SCHEMA steward TO {reader}")),
        Statement::new(format!("GRANT SELECT ON ALL TABLES IN SCHEMA steward TO {reader}")),
        Statement::new(format!(
            "ALTER DEFAULT PRIVILEGES FOR ROLE {writer} IN SCHEMA steward GRANT SELECT ON TABLES TO {reader}"
        )),
    ];
    let mut reading = Vec::new();
    let mut writing = Vec::new();
    for schema in &request.schemas {
        let schema = inquiry.quoted(schema)?;
        reading.extend([
            Statement::new(format!("GRANT USAGE ON SCHEMA {schema} TO {reader}")),
            Statement::new(format!("GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader}")),
            Statement::new(format!(
                "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {reader}"
            )),
            Statement::new(format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {writer} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {reader}"
            )),
            // Without it nobody sees that a sequence is near its end; the numbers themselves are in the tables.
            Statement::new(format!("GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {reader}")),
            Statement::new(format!(
                "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON SEQUENCES TO {reader}"
            )),
            Statement::new(format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {writer} IN SCHEMA {schema} GRANT SELECT ON SEQUENCES TO {reader}"
            )),
        ]);
        writing.push(Statement::new(format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {writer}")));
        match &request.owner {
            Some(owner) => reading.push(Statement::new(format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {reader}",
                inquiry.quoted(owner)?
            ))),
            None => writing.extend([
                Statement::new(format!(
                    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {writer}"
                )),
                Statement::new(format!("GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {writer}")),
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
        writing.insert(1, Statement::new(format!("GRANT {} TO {writer}", inquiry.quoted(owner)?)));
    }
    let step = |id: &str, title: String, statements: Vec<Statement>, undo: Vec<String>| PlanStep {
        undo: undo.into_iter().map(Statement::new).collect(),
        reversible: true,
        ..PlanStep::new(format!("setup/{id}"), title, StepMode::Transaction, statements)
    };
    let mut roles = role(reader_name, &reader, "reader")?;
    roles.extend(role(writer_name, &writer, "writer")?);
    // Not `pg_monitor`: it would also let the login scan tables under locks and list the server's files, which no check
    // of health needs. Before PostgreSQL 16 whoever may make roles may grant this; later only who was given it to grant.
    let statistics = |verb: &str, preposition: &str, otherwise: &str| {
        Statement::new(format!(
            "DO $steward$ BEGIN {verb} pg_read_all_stats {preposition} {reader}; \
             EXCEPTION WHEN insufficient_privilege THEN RAISE NOTICE '{otherwise}'; END $steward$"
        ))
    };
    let steps = vec![
        step(
            "roles",
            format!("make the roles `{reader_name}` and `{writer_name}`"),
            roles,
            vec![format!("DROP ROLE IF EXISTS {reader}"), format!("DROP ROLE IF EXISTS {writer}")],
        ),
        step("reader", format!("let `{reader_name}` read"), reading, vec![format!("DROP OWNED BY {reader}")]),
        step("writer", format!("let `{writer_name}` work"), writing, vec![format!("DROP OWNED BY {writer}")]),
        step(
            "statistics",
            format!("let `{reader_name}` see what other sessions do and what statements cost"),
            vec![statistics(
                "GRANT",
                "TO",
                "not granted: `steward store health` says what it then cannot see",
            )],
            vec![statistics("REVOKE", "FROM", "not revoked").sql],
        ),
        step("own", "make the namespace `steward` for Steward's own records".into(), own, Vec::new()),
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
        predicted: json!({"scope": scope, "roles": [reader_name, writer_name]}),
        cost_usd_nanos: 0,
    })
}
