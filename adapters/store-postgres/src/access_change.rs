//! Rights given and taken away: exactly what differs, and the way back.

use std::collections::{BTreeMap, BTreeSet};

use contract::{
    AccessChange, AccessTarget, Error, ErrorKind, Finding, PlanStep, Prepared, Severity, Statement, StepMode,
};
use serde_json::{Value, json};
use tokio_postgres::{Client, Row};

use crate::error::translate;
use crate::operate::denied;
use crate::session::Session;
use crate::statement::quote_identifier;
use crate::store::PostgresStore;
use crate::vacuum::MAINTAIN_SINCE;

/// Objects that one statement names.
const OBJECTS_PER_STATEMENT: usize = 100;
/// Memberships have options and grantors of their own from here on.
const MEMBERSHIP_OPTIONS_SINCE: i32 = 160_000;
/// Everyone.
const PUBLIC: &str = "PUBLIC";
/// Roles that come with the server and reach its files and programs: as good as superuser.
const AS_GOOD_AS_SUPERUSER: &[&str] =
    &["pg_execute_server_program", "pg_read_server_files", "pg_write_server_files"];

/// A right that a role has, from one grantor.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Right {
    privilege: String,
    grantable: bool,
    grantor: String,
}

fn rights(row: &Row) -> Vec<Right> {
    row.get::<_, Vec<String>>("rights")
        .iter()
        .filter_map(|text| {
            let (privilege, grantor) = text.split_once('/')?;
            Some(Right {
                privilege: privilege.trim_end_matches('*').to_owned(),
                grantable: privilege.ends_with('*'),
                grantor: grantor.to_owned(),
            })
        })
        .collect()
}

fn pairs(row: &Row, column: &str) -> Vec<(String, String)> {
    row.get::<_, Vec<String>>(column)
        .iter()
        .filter_map(|text| text.split_once('/').map(|(left, right)| (left.to_owned(), right.to_owned())))
        .collect()
}

/// Something that rights are on.
struct Object {
    name: String,
    /// A function with its types alone.
    typed: String,
    sql: String,
    owner: String,
    /// Quoted columns, for a part of a table.
    column: Option<String>,
    rights: Vec<Right>,
    passed_on: Vec<(String, String)>,
    elsewhere: Vec<(String, String)>,
    reachable: bool,
    schema: Option<String>,
}

/// Whose rights change.
struct Grantee {
    name: String,
    /// As it stands in a statement.
    sql: String,
    oid: u32,
    superuser: bool,
}

/// A kind of object in the server's words.
struct Kind {
    letter: &'static str,
    word: &'static str,
    plural: &'static str,
    all: bool,
    privileges: &'static [&'static str],
}

fn kind(target: AccessTarget) -> Kind {
    const TABLE: &[&str] =
        &["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"];
    const SEQUENCE: &[&str] = &["USAGE", "SELECT", "UPDATE"];
    let (letter, word, plural, all, privileges): (_, _, _, _, &[&str]) = match target {
        AccessTarget::Database => ("d", "DATABASE", "", false, &["CREATE", "CONNECT", "TEMPORARY"]),
        AccessTarget::Schema => ("n", "SCHEMA", "SCHEMAS", false, &["CREATE", "USAGE"]),
        AccessTarget::Table => ("r", "TABLE", "TABLES", false, TABLE),
        AccessTarget::AllTables => ("r", "TABLE", "TABLES", true, TABLE),
        AccessTarget::Sequence => ("S", "SEQUENCE", "SEQUENCES", false, SEQUENCE),
        AccessTarget::AllSequences => ("S", "SEQUENCE", "SEQUENCES", true, SEQUENCE),
        AccessTarget::Function => ("f", "ROUTINE", "ROUTINES", false, &["EXECUTE"]),
        AccessTarget::AllFunctions => ("f", "ROUTINE", "ROUTINES", true, &["EXECUTE"]),
    };
    Kind { letter, word, plural, all, privileges }
}

/// The asked rights in the server's words; refuses what the kind does not know.
fn privileges(kind: &Kind, asked: &[String], version: i32, columns: bool) -> Result<Vec<String>, Error> {
    let mut known: Vec<&str> = kind.privileges.to_vec();
    if version < MAINTAIN_SINCE {
        known.retain(|word| *word != "MAINTAIN");
    }
    if columns {
        known.retain(|word| matches!(*word, "SELECT" | "INSERT" | "UPDATE" | "REFERENCES"));
    }
    let mut out = Vec::new();
    for word in asked {
        let upper = word.to_uppercase();
        match upper.as_str() {
            "ALL" | "ALL PRIVILEGES" => out.extend(known.iter().map(ToString::to_string)),
            "TEMP" if known.contains(&"TEMPORARY") => out.push("TEMPORARY".into()),
            "SUPERUSER" | "CREATEROLE" | "CREATEDB" | "REPLICATION" | "BYPASSRLS" => {
                return Err(Error::new(ErrorKind::Invalid, format!("`{word}` is not given by Steward"))
                    .hint(
                        "it reaches beyond this store; whoever runs the server decides it with ALTER ROLE",
                    ));
            }
            word_known if known.contains(&word_known) => out.push(upper),
            _ => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("a {} knows no right `{word}`", if columns { "column" } else { kind_name(kind) }),
                )
                .hint(format!("one of: {}", known.join(", ").to_lowercase())));
            }
        }
    }
    out.sort();
    out.dedup();
    if out.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "no right is named")
            .with("key", "privileges")
            .hint(format!("one or more of: {}", known.join(", ").to_lowercase())));
    }
    Ok(out)
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind.letter {
        "d" => "database",
        "n" => "schema",
        "r" => "table",
        "S" => "sequence",
        _ => "function",
    }
}

async fn grantee(client: &Client, name: &str) -> Result<Grantee, Error> {
    // No role can have this name: the server keeps it for everyone.
    if name.eq_ignore_ascii_case(PUBLIC) {
        return Ok(Grantee { name: PUBLIC.into(), sql: PUBLIC.into(), oid: 0, superuser: false });
    }
    let row = client
        .query_opt("SELECT oid, rolsuper FROM pg_catalog.pg_roles WHERE rolname = $1", &[&name])
        .await
        .map_err(|error| translate(&error))?
        .ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no role `{name}`"))
                .hint("`steward store access list` shows them; CREATE ROLE makes one")
        })?;
    Ok(Grantee { name: name.into(), sql: quote_identifier(name), oid: row.get(0), superuser: row.get(1) })
}

/// The objects that the change names, each found; with columns, one per table and column.
async fn objects(
    client: &Client,
    change: &AccessChange,
    kind: &Kind,
    role: &Grantee,
) -> Result<Vec<Object>, Error> {
    if change.objects.is_empty() && kind.letter != "d" {
        return Err(Error::new(ErrorKind::Invalid, "no object is named")
            .with("key", "objects")
            .hint(if kind.all { "name the schemas" } else { "name the objects, such as `public.orders`" }));
    }
    let rows = client
        .query(include_str!("sql/access_objects.sql"), &[&kind.letter, &change.objects, &kind.all, &role.oid])
        .await
        .map_err(|error| translate(&error))?;
    let mut objects: Vec<Object> = rows
        .iter()
        .map(|row| Object {
            name: row.get("name"),
            typed: row.get("typed"),
            sql: row.get("sql_name"),
            owner: row.get("owner"),
            column: None,
            rights: rights(row),
            passed_on: pairs(row, "passed_on"),
            elsewhere: pairs(row, "elsewhere"),
            reachable: row.get("reachable"),
            schema: row.get("schema"),
        })
        .collect();
    check_names(client, change, kind, &objects).await?;
    if change.columns.is_empty() {
        return Ok(objects);
    }
    let tables: Vec<&str> = objects.iter().map(|object| object.name.as_str()).collect();
    let rows = client
        .query(include_str!("sql/access_columns.sql"), &[&tables, &change.columns, &role.oid])
        .await
        .map_err(|error| translate(&error))?;
    let mut parts = Vec::new();
    for table in objects.drain(..) {
        for column in &change.columns {
            let row = rows
                .iter()
                .find(|row| {
                    row.get::<_, String>("table_name") == table.name
                        && row.get::<_, String>("name") == *column
                })
                .ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, format!("`{}` has no column `{column}`", table.name))
                })?;
            parts.push(Object {
                name: format!("{}.{column}", table.name),
                typed: String::new(),
                sql: table.sql.clone(),
                owner: table.owner.clone(),
                column: Some(quote_identifier(column)),
                rights: rights(row),
                passed_on: pairs(row, "passed_on"),
                // A right on the whole table holds for each of its columns.
                elsewhere: table
                    .elsewhere
                    .iter()
                    .cloned()
                    .chain(
                        table.rights.iter().map(|right| (right.privilege.clone(), "the whole table".into())),
                    )
                    .collect(),
                reachable: table.reachable,
                schema: table.schema.clone(),
            });
        }
    }
    Ok(parts)
}

/// Refuses names that mean nothing or more than one thing.
async fn check_names(
    client: &Client,
    change: &AccessChange,
    kind: &Kind,
    found: &[Object],
) -> Result<(), Error> {
    if kind.letter == "d" {
        if let Some(name) =
            change.objects.iter().find(|name| found.iter().all(|object| object.name != **name))
        {
            return Err(Error::new(ErrorKind::NotFound, format!("the store's database is not `{name}`"))
                .hint("rights on a database are changed in the store that is in it"));
        }
        return Ok(());
    }
    for name in &change.objects {
        if kind.all {
            let row = client
                .query_opt("SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1", &[name])
                .await
                .map_err(|error| translate(&error))?;
            if row.is_none() {
                return Err(Error::new(ErrorKind::NotFound, format!("there is no schema `{name}`")));
            }
            continue;
        }
        let packed = |name: &str| name.replace(' ', "");
        let fits = |object: &&Object| {
            let plain = object.name.split('(').next().unwrap_or_default();
            let last = plain.rsplit_once('.').map_or(plain, |(_, last)| last);
            let typed = packed(&object.typed);
            let ends = typed.split_once('.').is_some_and(|(_, rest)| rest == packed(name));
            object.name == *name || plain == name || last == name || typed == packed(name) || ends
        };
        let meant: Vec<&Object> = found.iter().filter(fits).collect();
        let exact = meant.iter().filter(|object| object.name == *name).count() == 1;
        match meant.len() {
            0 => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("there is no {} `{name}`", kind_name(kind)),
                )
                .hint("`steward store inspect` shows tables; write a function with its types"));
            }
            1 => {}
            _ if exact => {}
            _ => {
                let names: Vec<&str> = meant.iter().map(|object| object.name.as_str()).collect();
                return Err(Error::new(ErrorKind::Invalid, format!("`{name}` can mean several things"))
                    .hint(format!("one of: {}", names.join(", "))));
            }
        }
    }
    Ok(())
}

/// The statements that say the same for objects that are alike, and their way back.
struct Sentences {
    statements: Vec<Statement>,
    undo: Vec<Statement>,
}

/// Puts what is alike into one statement: `verb` is given the rights and the objects.
fn sentences(
    kind: &Kind,
    todo: &[(&Object, Vec<(String, bool)>)],
    forth: impl Fn(&str, &str, bool) -> String,
    back: impl Fn(&str, &str, bool) -> String,
) -> Sentences {
    /// Rights with the same ending, such as `WITH GRANT OPTION`, on the same column.
    type Alike<'a> = (bool, Vec<String>, Option<&'a String>);
    let mut alike: BTreeMap<Alike<'_>, Vec<&str>> = BTreeMap::new();
    for (object, rights) in todo {
        for flag in [false, true] {
            let words: Vec<String> =
                rights.iter().filter(|(_, with)| *with == flag).map(|(word, _)| word.clone()).collect();
            if !words.is_empty() {
                alike.entry((flag, words, object.column.as_ref())).or_default().push(&object.sql);
            }
        }
    }
    let mut out = Sentences { statements: Vec::new(), undo: Vec::new() };
    for ((flag, words, column), objects) in alike {
        let words: Vec<String> = words
            .into_iter()
            .map(|word| column.map_or_else(|| word.clone(), |column| format!("{word} ({column})")))
            .collect();
        for some in objects.chunks(OBJECTS_PER_STATEMENT) {
            let on = format!("{} {}", kind.word, some.join(", "));
            out.statements.push(Statement::new(forth(&words.join(", "), &on, flag)));
            out.undo.push(Statement::new(back(&words.join(", "), &on, flag)));
        }
    }
    out
}

fn with_option(flag: bool, words: &str) -> String {
    if flag { format!(" {words}") } else { String::new() }
}

fn step(id: String, title: String, sentences: Sentences, reversible: bool) -> PlanStep {
    let mut undo = sentences.undo;
    undo.reverse();
    PlanStep { undo, reversible, ..PlanStep::new(id, title, StepMode::Transaction, sentences.statements) }
}

fn finding(code: &str, severity: Severity, title: String, object: String, fix: Option<String>) -> Finding {
    Finding {
        code: code.into(),
        severity,
        title,
        object,
        recommendation: fix,
        evidence: Vec::new(),
        escalate: None,
    }
}

/// What the role has there now, for the record and the fingerprint.
fn before(objects: &[Object]) -> Value {
    let all: BTreeMap<&str, Vec<String>> = objects
        .iter()
        .map(|object| {
            let rights = object.rights.iter().map(|right| {
                format!("{}{} by {}", right.privilege, if right.grantable { "*" } else { "" }, right.grantor)
            });
            (object.name.as_str(), rights.collect())
        })
        .collect();
    json!(all)
}

fn shown(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [a] => (*a).to_owned(),
        [a, rest @ ..] if rest.len() > 3 => format!("{a} and {} more", rest.len()),
        few => few.join(", "),
    }
}

/// What must hold of the request whatever the store says.
fn check_shape(change: &AccessChange, kind: Option<&Kind>) -> Result<(), Error> {
    let wrong = |message: &str, hint: &str| Err(Error::new(ErrorKind::Invalid, message).hint(hint));
    if kind.is_none() && change.member_of.is_empty() {
        return wrong("nothing is asked for", "name `on` and `privileges`, or `member_of`");
    }
    if kind.is_none() && !change.privileges.is_empty() {
        return wrong("`privileges` are named, but not on what", "say `on`, such as `table` or `all_tables`");
    }
    if !change.columns.is_empty() && change.on != Some(AccessTarget::Table) {
        return wrong("`columns` go with tables", "say `--on table` and name the tables");
    }
    if change.defaults && !kind.is_some_and(|kind| kind.all) {
        return wrong(
            "defaults go with all objects of a schema",
            "say `--on all_tables` (or all_sequences, all_functions) and name the schemas",
        );
    }
    if change.role.eq_ignore_ascii_case(PUBLIC) && !change.member_of.is_empty() {
        return wrong("everyone cannot be a member of a role", "name a role");
    }
    Ok(())
}

impl PostgresStore {
    pub(crate) async fn prepare_grant(
        &self,
        session: &Session,
        change: &AccessChange,
    ) -> Result<Prepared, Error> {
        let client = &session.client;
        let kind = change.on.map(kind);
        check_shape(change, kind.as_ref())?;
        let role = grantee(client, &change.role).await?;
        if role.oid == 0 && !change.public {
            return Err(Error::new(ErrorKind::Invalid, "PUBLIC is everyone who can connect, now and later")
                .hint("name a role; or say `public` if everyone is meant"));
        }
        if role.oid == 0 && change.option {
            return Err(Error::new(ErrorKind::Invalid, "everyone cannot be allowed to pass rights on"));
        }
        let mut work = Work::default();
        if let Some(kind) = &kind {
            let wanted =
                privileges(kind, &change.privileges, session.rights.version_num, !change.columns.is_empty())?;
            let objects = objects(client, change, kind, &role).await?;
            let todo: Vec<(&Object, Vec<(String, bool)>)> = objects
                .iter()
                .map(|object| (object, missing(&object.rights, &wanted, change.option)))
                .filter(|(_, missing)| !missing.is_empty())
                .collect();
            work.before.insert("objects".into(), before(&objects));
            work.owners.extend(todo.iter().map(|(object, _)| object.owner.clone()));
            if !todo.is_empty() {
                let sentences = sentences(
                    kind,
                    &todo,
                    |words, on, _| {
                        format!(
                            "GRANT {words} ON {on} TO {}{}",
                            role.sql,
                            with_option(change.option, "WITH GRANT OPTION")
                        )
                    },
                    // What was there without the option keeps being there.
                    |words, on, had| {
                        format!(
                            "REVOKE {}{words} ON {on} FROM {}",
                            if had { "GRANT OPTION FOR " } else { "" },
                            role.sql
                        )
                    },
                );
                let names: Vec<&str> = todo.iter().map(|(object, _)| object.name.as_str()).collect();
                work.parts.push(format!("{} on {}", wanted.join(", "), shown(&names)));
                work.steps.push(step(
                    format!("grant {}", role.name),
                    format!("give `{}` {} on {}", role.name, wanted.join(", "), shown(&names)),
                    sentences,
                    true,
                ));
            }
            let unreachable: BTreeSet<&String> = objects
                .iter()
                .filter(|object| !object.reachable)
                .filter_map(|object| object.schema.as_ref())
                .collect();
            for schema in unreachable {
                work.findings.push(finding(
                    "schema_usage_missing",
                    Severity::Warning,
                    format!("`{}` has no USAGE on the schema `{schema}`: rights in it have no effect", role.name),
                    schema.clone(),
                    Some(format!(
                        "`steward store access grant {} {} --privileges usage --on schema --objects {schema}`",
                        contract::Store::name(self),
                        role.name
                    )),
                ));
            }
            if change.defaults {
                self.grant_defaults(client, change, kind, &role, &wanted, &mut work).await?;
            }
            if role.oid == 0 {
                work.findings.push(finding(
                    "granted_to_everyone",
                    Severity::Critical,
                    "everyone who can connect gets these rights, also logins that are made later".into(),
                    PUBLIC.into(),
                    None,
                ));
            }
        }
        let mut able = self.able_for(client, &work.owners).await?;
        if !change.member_of.is_empty() {
            self.grant_memberships(session, change, &role, &mut work, &mut able).await?;
        }
        if role.superuser {
            work.findings.push(finding(
                "superuser_needs_no_rights",
                Severity::Info,
                format!("`{}` is a superuser: rights change nothing for it", role.name),
                role.name.clone(),
                None,
            ));
        }
        self.finish(
            work,
            &able,
            &format!("give `{}` ", role.name),
            &format!("`{}` has these rights", role.name),
        )
    }

    async fn grant_defaults(
        &self,
        client: &Client,
        change: &AccessChange,
        kind: &Kind,
        role: &Grantee,
        wanted: &[String],
        work: &mut Work,
    ) -> Result<(), Error> {
        let rows = self.default_rights(client, change, kind, role).await?;
        let mut sentences = Sentences { statements: Vec::new(), undo: Vec::new() };
        let mut before = BTreeMap::new();
        let mut owners = BTreeSet::new();
        for row in &rows {
            let (schema, owner): (String, String) = (row.get("schema"), row.get("owner"));
            let has = rights(row);
            before.insert(format!("{schema} of {owner}"), row.get::<_, Vec<String>>("rights"));
            let missing = missing(&has, wanted, change.option);
            for flag in [false, true] {
                let words: Vec<&str> =
                    missing.iter().filter(|(_, had)| *had == flag).map(|(word, _)| word.as_str()).collect();
                if words.is_empty() {
                    continue;
                }
                let words = words.join(", ");
                let (of, within) = (quote_identifier(&owner), quote_identifier(&schema));
                let head = format!("ALTER DEFAULT PRIVILEGES FOR ROLE {of} IN SCHEMA {within}");
                sentences.statements.push(Statement::new(format!(
                    "{head} GRANT {words} ON {} TO {}{}",
                    kind.plural,
                    role.sql,
                    with_option(change.option, "WITH GRANT OPTION")
                )));
                sentences.undo.push(Statement::new(format!(
                    "{head} REVOKE {}{words} ON {} FROM {}",
                    if flag { "GRANT OPTION FOR " } else { "" },
                    kind.plural,
                    role.sql
                )));
                owners.insert(owner.clone());
            }
        }
        work.before.insert("defaults".into(), json!(before));
        if !sentences.statements.is_empty() {
            let makers: Vec<&str> = owners.iter().map(String::as_str).collect();
            let title = format!(
                "{} on {} that {} makes later in {}",
                wanted.join(", "),
                kind.plural.to_lowercase(),
                makers.join(", "),
                change.objects.join(", ")
            );
            work.parts.push(title.clone());
            work.steps.push(step(
                format!("grant {} by default", role.name),
                format!("give `{}` {title}", role.name),
                sentences,
                true,
            ));
            work.owners.extend(owners);
        }
        Ok(())
    }

    async fn default_rights(
        &self,
        client: &Client,
        change: &AccessChange,
        kind: &Kind,
        role: &Grantee,
    ) -> Result<Vec<Row>, Error> {
        let rows = client
            .query(
                include_str!("sql/access_default_rights.sql"),
                &[&kind.letter, &change.objects, &role.oid, &change.owner],
            )
            .await
            .map_err(|error| translate(&error))?;
        if rows.is_empty() {
            let error = match &change.owner {
                Some(owner) => Error::new(ErrorKind::NotFound, format!("there is no role `{owner}`")),
                None => Error::new(ErrorKind::Invalid, "nobody has made such an object there yet")
                    .hint("say whose later objects are meant: `owner`"),
            };
            return Err(error);
        }
        Ok(rows)
    }

    async fn grant_memberships(
        &self,
        session: &Session,
        change: &AccessChange,
        role: &Grantee,
        work: &mut Work,
        able: &mut Vec<String>,
    ) -> Result<(), Error> {
        let client = &session.client;
        let mut sentences = Sentences { statements: Vec::new(), undo: Vec::new() };
        let mut names = Vec::new();
        for name in &change.member_of {
            let group = grantee(client, name).await?;
            if group.superuser || AS_GOOD_AS_SUPERUSER.contains(&name.as_str()) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("membership in `{name}` is not given by Steward: it is as good as superuser"),
                )
                .hint("whoever runs the server decides that"));
            }
            let rows = memberships(client, group.oid, role.oid).await?;
            work.before.insert(
                format!("member of {name}"),
                json!(
                    rows.iter()
                        .map(|row| { json!([row.get::<_, bool>("admin"), row.get::<_, String>("grantor")]) })
                        .collect::<Vec<_>>()
                ),
            );
            let has = !rows.is_empty();
            let admin = rows.iter().any(|row| row.get("admin"));
            if has && (admin || !change.option) {
                continue;
            }
            sentences.statements.push(Statement::new(format!(
                "GRANT {} TO {}{}",
                group.sql,
                role.sql,
                with_option(change.option, "WITH ADMIN OPTION")
            )));
            let only = if has { "ADMIN OPTION FOR " } else { "" };
            sentences.undo.push(Statement::new(format!("REVOKE {only}{} FROM {}", group.sql, role.sql)));
            names.push(name.as_str());
            keep_admins(client, able, group.oid, session.rights.version_num).await?;
            work.groups.push(name.clone());
        }
        if !names.is_empty() {
            work.parts.push(format!("membership in {}", names.join(", ")));
            work.steps.push(step(
                format!("grant membership {}", role.name),
                format!("make `{}` a member of {}", role.name, names.join(", ")),
                sentences,
                true,
            ));
        }
        Ok(())
    }

    pub(crate) async fn prepare_revoke(
        &self,
        session: &Session,
        change: &AccessChange,
    ) -> Result<Prepared, Error> {
        let client = &session.client;
        let kind = change.on.map(kind);
        check_shape(change, kind.as_ref())?;
        let role = grantee(client, &change.role).await?;
        let mut work = Work::default();
        if let Some(kind) = &kind {
            let wanted =
                privileges(kind, &change.privileges, session.rights.version_num, !change.columns.is_empty())?;
            let objects = objects(client, change, kind, &role).await?;
            work.before.insert("objects".into(), before(&objects));
            self.revoke_rights(change, kind, &role, &wanted, &objects, &mut work)?;
            if change.defaults {
                self.revoke_defaults(client, change, kind, &role, &wanted, &mut work).await?;
            }
        }
        let mut able = self.able_for(client, &work.owners).await?;
        if !change.member_of.is_empty() {
            self.revoke_memberships(session, change, &role, &mut work, &mut able).await?;
        }
        if role.superuser {
            work.findings.push(finding(
                "superuser_keeps_rights",
                Severity::Warning,
                format!("`{}` is a superuser: it may everything all the same", role.name),
                role.name.clone(),
                Some(format!("ALTER ROLE {} NOSUPERUSER", role.sql)),
            ));
        }
        self.finish(
            work,
            &able,
            &format!("take from `{}` ", role.name),
            &format!("`{}` has no such rights", role.name),
        )
    }

    fn revoke_rights(
        &self,
        change: &AccessChange,
        kind: &Kind,
        role: &Grantee,
        wanted: &[String],
        objects: &[Object],
        work: &mut Work,
    ) -> Result<(), Error> {
        let mut todo: Vec<(&Object, Vec<(String, bool)>)> = Vec::new();
        let mut dependents = Vec::new();
        for object in objects {
            if object.owner == role.name {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("`{}` owns `{}`: it could give itself every right again", role.name, object.name),
                )
                .hint(format!(
                    "give the object to a role that nobody logs in as: ALTER {} {} OWNER TO …",
                    kind.word, object.sql
                )));
            }
            let mine: Vec<&Right> = object
                .rights
                .iter()
                .filter(|right| wanted.contains(&right.privilege) && (right.grantable || !change.option))
                .collect();
            // What others than the owner gave, only they can take back.
            if let Some(right) = mine.iter().find(|right| right.grantor != object.owner) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("`{}` has {} on `{}` from `{}`", role.name, right.privilege, object.name, right.grantor),
                )
                .with_retry(contract::Retry::Never)
                .hint(format!(
                    "take the right to pass it on from `{}` first: `steward store access revoke {} {} --privileges {} \
                     --on {} --objects {} --only-option --cascade`",
                    right.grantor,
                    contract::Store::name(self),
                    right.grantor,
                    right.privilege.to_lowercase(),
                    kind_name(kind),
                    object.name
                )));
            }
            let passed: Vec<String> = object
                .passed_on
                .iter()
                .filter(|(privilege, _)| mine.iter().any(|right| right.privilege == *privilege))
                .map(|(privilege, to)| format!("{privilege} on {} to {to}", object.name))
                .collect();
            dependents.extend(passed);
            if !mine.is_empty() {
                todo.push((
                    object,
                    mine.iter().map(|right| (right.privilege.clone(), right.grantable)).collect(),
                ));
            }
            for right in &mine {
                let others: BTreeSet<&str> = object
                    .elsewhere
                    .iter()
                    .filter(|(privilege, _)| *privilege == right.privilege)
                    .map(|(_, from)| from.as_str())
                    .collect();
                if !others.is_empty() && !change.option && !role.superuser {
                    work.findings.push(finding(
                        "still_allowed",
                        Severity::Warning,
                        format!(
                            "`{}` keeps {} on `{}` through {}",
                            role.name,
                            right.privilege,
                            object.name,
                            others.into_iter().collect::<Vec<_>>().join(", ")
                        ),
                        object.name.clone(),
                        None,
                    ));
                }
            }
        }
        if !dependents.is_empty() && !change.cascade {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("`{}` has passed on {} of these rights", role.name, dependents.len()),
            )
            .with("passed_on", shown(&dependents.iter().map(String::as_str).collect::<Vec<_>>()))
            .with_retry(contract::Retry::Never)
            .hint("say `cascade` to take these away too; that has no exact way back"));
        }
        if todo.is_empty() {
            return Ok(());
        }
        let cascade = if dependents.is_empty() { "" } else { " CASCADE" };
        let sentences = sentences(
            kind,
            &todo,
            |words, on, _| {
                let only = if change.option { "GRANT OPTION FOR " } else { "" };
                format!("REVOKE {only}{words} ON {on} FROM {}{cascade}", role.sql)
            },
            |words, on, grantable| {
                format!(
                    "GRANT {words} ON {on} TO {}{}",
                    role.sql,
                    with_option(grantable, "WITH GRANT OPTION")
                )
            },
        );
        let names: Vec<&str> = todo.iter().map(|(object, _)| object.name.as_str()).collect();
        let words: BTreeSet<&str> =
            todo.iter().flat_map(|(_, rights)| rights.iter().map(|(word, _)| word.as_str())).collect();
        let words = words.into_iter().collect::<Vec<_>>().join(", ");
        let what = format!(
            "{}{words} on {}",
            if change.option { "the right to pass on " } else { "" },
            shown(&names)
        );
        work.owners.extend(todo.iter().map(|(object, _)| object.owner.clone()));
        work.parts.push(what.clone());
        work.steps.push(step(
            format!("revoke {}", role.name),
            format!(
                "take {what} from `{}`{}",
                role.name,
                if cascade.is_empty() { "" } else { " and from whom it passed it on to" }
            ),
            sentences,
            dependents.is_empty(),
        ));
        Ok(())
    }

    async fn revoke_defaults(
        &self,
        client: &Client,
        change: &AccessChange,
        kind: &Kind,
        role: &Grantee,
        wanted: &[String],
        work: &mut Work,
    ) -> Result<(), Error> {
        let mut sentences = Sentences { statements: Vec::new(), undo: Vec::new() };
        let mut before = BTreeMap::new();
        for row in &self.default_rights(client, change, kind, role).await? {
            let (schema, owner): (String, String) = (row.get("schema"), row.get("owner"));
            before.insert(format!("{schema} of {owner}"), row.get::<_, Vec<String>>("rights"));
            let mine: Vec<Right> = rights(row)
                .into_iter()
                .filter(|right| wanted.contains(&right.privilege) && (right.grantable || !change.option))
                .collect();
            let head = format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {}",
                quote_identifier(&owner),
                quote_identifier(&schema)
            );
            for grantable in [false, true] {
                let words: Vec<&str> = mine
                    .iter()
                    .filter(|right| right.grantable == grantable)
                    .map(|right| right.privilege.as_str())
                    .collect();
                if words.is_empty() {
                    continue;
                }
                let (words, plural) = (words.join(", "), kind.plural);
                sentences.statements.push(Statement::new(format!(
                    "{head} REVOKE {}{words} ON {plural} FROM {}",
                    if change.option { "GRANT OPTION FOR " } else { "" },
                    role.sql
                )));
                sentences.undo.push(Statement::new(format!(
                    "{head} GRANT {words} ON {plural} TO {}{}",
                    role.sql,
                    with_option(grantable, "WITH GRANT OPTION")
                )));
                work.owners.insert(owner.clone());
            }
        }
        work.before.insert("defaults".into(), json!(before));
        if !sentences.statements.is_empty() {
            let title = format!(
                "{} on later {} in {}",
                wanted.join(", "),
                kind.plural.to_lowercase(),
                change.objects.join(", ")
            );
            work.parts.push(title.clone());
            work.steps.push(step(
                format!("revoke {} by default", role.name),
                format!("take {title} from `{}`", role.name),
                sentences,
                true,
            ));
        }
        Ok(())
    }

    async fn revoke_memberships(
        &self,
        session: &Session,
        change: &AccessChange,
        role: &Grantee,
        work: &mut Work,
        able: &mut Vec<String>,
    ) -> Result<(), Error> {
        let client = &session.client;
        let version = session.rights.version_num;
        let mut sentences = Sentences { statements: Vec::new(), undo: Vec::new() };
        let mut names = Vec::new();
        for name in &change.member_of {
            let group = grantee(client, name).await?;
            let rows = memberships(client, group.oid, role.oid).await?;
            work.before.insert(
                format!("member of {name}"),
                json!(
                    rows.iter()
                        .map(|row| { json!([row.get::<_, bool>("admin"), row.get::<_, String>("grantor")]) })
                        .collect::<Vec<_>>()
                ),
            );
            for row in &rows {
                let admin: bool = row.get("admin");
                if change.option && !admin {
                    continue;
                }
                let grantor: String = row.get("grantor");
                // Each grantor's own grant is taken back; another's would stay, and the server would only warn.
                let by = if version >= MEMBERSHIP_OPTIONS_SINCE {
                    format!(" GRANTED BY {}", quote_identifier(&grantor))
                } else {
                    String::new()
                };
                let only = if change.option { "ADMIN OPTION FOR " } else { "" };
                let cascade = if change.cascade { " CASCADE" } else { "" };
                sentences.statements.push(Statement::new(format!(
                    "REVOKE {only}{} FROM {}{by}{cascade}",
                    group.sql, role.sql
                )));
                let mut options = Vec::new();
                options.extend(admin.then(|| "ADMIN TRUE".to_owned()));
                for (word, column) in [("INHERIT", "inherit"), ("SET", "set")] {
                    let option: Option<bool> = row.get(column);
                    options.extend(option.map(|on| format!("{word} {}", if on { "TRUE" } else { "FALSE" })));
                }
                let options = match (version >= MEMBERSHIP_OPTIONS_SINCE, admin) {
                    (true, _) => format!(" WITH {}", options.join(", ")),
                    (false, true) => " WITH ADMIN OPTION".to_owned(),
                    (false, false) => String::new(),
                };
                sentences
                    .undo
                    .push(Statement::new(format!("GRANT {} TO {}{options}{by}", group.sql, role.sql)));
                if names.last() != Some(&name.as_str()) {
                    names.push(name.as_str());
                }
                keep_admins(client, able, group.oid, version).await?;
                work.groups.push(name.clone());
            }
        }
        if !names.is_empty() {
            work.parts.push(format!("membership in {}", names.join(", ")));
            work.steps.push(step(
                format!("revoke membership {}", role.name),
                if change.option {
                    format!("`{}` may no longer pass on its membership in {}", role.name, names.join(", "))
                } else {
                    format!("end the membership of `{}` in {}", role.name, names.join(", "))
                },
                sentences,
                !change.cascade,
            ));
        }
        Ok(())
    }

    /// The configured logins that have the rights of all these owners.
    async fn able_for(&self, client: &Client, owners: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let (_, users) = self.acting_logins();
        let owners: Vec<&String> = owners.iter().collect();
        let rows = client
            .query(
                "SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($1::text[]) AND NOT EXISTS \
                 (SELECT FROM pg_catalog.pg_roles o WHERE o.rolname = ANY ($2::text[]) \
                 AND NOT pg_has_role(r.oid, o.oid, 'USAGE'))",
                &[&users, &owners],
            )
            .await
            .map_err(|error| translate(&error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn finish(&self, work: Work, able: &[String], verb: &str, already: &str) -> Result<Prepared, Error> {
        let state = json!(work.before);
        if work.steps.is_empty() {
            return Ok(Prepared {
                summary: format!("nothing to do: {already}"),
                login: "writer".into(),
                seen: state.clone(),
                state,
                findings: work.findings,
                ..Prepared::default()
            });
        }
        let owners: Vec<String> = work.owners.into_iter().collect();
        let Some(login) = self.first_of(able) else {
            let mut who = Vec::new();
            if !owners.is_empty() {
                who.push(self.who_owns(&owners));
            }
            if !work.groups.is_empty() {
                let groups: Vec<String> = work.groups.iter().map(|group| format!("`{group}`")).collect();
                who.push(format!(
                    "whoever has {} WITH ADMIN OPTION or a superuser could change the membership",
                    groups.join(", ")
                ));
            }
            return Err(denied("no configured login may change these rights", &who.join("; ")));
        };
        Ok(Prepared {
            summary: format!("{verb}{}", work.parts.join("; ")),
            steps: work.steps,
            login,
            seen: state.clone(),
            state,
            predicted: Value::Null,
            findings: work.findings,
        })
    }
}

/// What a change of rights comes to.
#[derive(Default)]
struct Work {
    steps: Vec<PlanStep>,
    parts: Vec<String>,
    owners: BTreeSet<String>,
    groups: Vec<String>,
    findings: Vec<Finding>,
    before: BTreeMap<String, Value>,
}

/// The rights that are not there yet; true for those that are there without the option that is asked for.
fn missing(has: &[Right], wanted: &[String], option: bool) -> Vec<(String, bool)> {
    wanted
        .iter()
        .filter_map(|word| {
            let mut mine = has.iter().filter(|right| right.privilege == *word).peekable();
            let there = mine.peek().is_some();
            let enough = there && (!option || mine.any(|right| right.grantable));
            (!enough).then(|| (word.clone(), there))
        })
        .collect()
}

async fn memberships(client: &Client, role: u32, member: u32) -> Result<Vec<Row>, Error> {
    client
        .query(
            "SELECT m.admin_option AS admin, (to_jsonb(m) ->> 'inherit_option')::bool AS inherit, \
             (to_jsonb(m) ->> 'set_option')::bool AS set, pg_get_userbyid(m.grantor)::text AS grantor \
             FROM pg_catalog.pg_auth_members m WHERE m.roleid = $1 AND m.member = $2 ORDER BY 4",
            &[&role, &member],
        )
        .await
        .map_err(|error| translate(&error))
}

/// Keeps those logins that may pass the role on.
async fn keep_admins(client: &Client, able: &mut Vec<String>, role: u32, version: i32) -> Result<(), Error> {
    let rows = client
        .query(
            "SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($1::text[]) AND (r.rolsuper \
             OR pg_has_role(r.oid, $2::oid, 'MEMBER WITH ADMIN OPTION') \
             OR $3::int4 < 160000 AND r.rolcreaterole \
                AND NOT (SELECT t.rolsuper FROM pg_catalog.pg_roles t WHERE t.oid = $2::oid))",
            &[able, &role, &version],
        )
        .await
        .map_err(|error| translate(&error))?;
    *able = rows.iter().map(|row| row.get(0)).collect();
    Ok(())
}
