//! What of the rights is more than is needed.

use std::collections::{BTreeMap, BTreeSet};

use contract::{AccessMap, AccessProblem, AccessRole, Context, Error, Severity, Store};
use tokio_postgres::Client;

use crate::error::translate;
use crate::session::Purpose;
use crate::statement::quote_identifier;
use crate::store::PostgresStore;

/// Rights that change rows.
const WRITES: &[&str] = &["INSERT", "UPDATE", "DELETE", "TRUNCATE"];
/// Rights on a table that an application hardly ever needs.
const MORE_THAN_ROWS: &[&str] = &["TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"];
/// Roles that come with the server, how much membership in them matters, and why.
const FAR_REACHING: &[(&str, Severity, &str)] = &[
    (
        "pg_execute_server_program",
        Severity::Critical,
        "it runs programs on the server's machine: as good as superuser",
    ),
    (
        "pg_write_server_files",
        Severity::Critical,
        "it writes files of the server's machine: as good as superuser",
    ),
    (
        "pg_read_server_files",
        Severity::Critical,
        "it reads every file that the server can read, also other databases",
    ),
    ("pg_write_all_data", Severity::Warning, "it writes every table, also those that are made later"),
    ("pg_read_all_data", Severity::Warning, "it reads every table, also those that are made later"),
    ("pg_maintain", Severity::Info, "it vacuums, reindexes and locks every table"),
    ("pg_signal_backend", Severity::Info, "it ends sessions of other logins"),
    ("pg_create_subscription", Severity::Warning, "it makes the server connect to others"),
];

/// Collects problems.
struct Review<'a> {
    store: &'a str,
    map: &'a AccessMap,
    problems: Vec<AccessProblem>,
}

impl Review<'_> {
    fn add(&mut self, code: &str, severity: Severity, object: &str, title: String, fix: String) {
        self.problems.push(AccessProblem { code: code.into(), severity, title, object: object.into(), fix });
    }

    fn role(&self, name: &str) -> Option<&AccessRole> {
        self.map.roles.iter().find(|role| role.name == name)
    }

    /// The command that takes rights away.
    fn revoke(
        &self,
        role: &str,
        privileges: &[String],
        kind: &str,
        objects: &[String],
        more: &str,
    ) -> String {
        let words: Vec<String> =
            privileges.iter().map(|word| format!("--privileges {}", word.to_lowercase())).collect();
        let named: Vec<String> =
            objects.iter().map(|object| format!("--objects {}", shell(object))).collect();
        format!(
            "`steward store access revoke {} {} {} --on {kind} {}{more}`",
            self.store,
            shell(role),
            words.join(" "),
            named.join(" ")
        )
    }

    fn powers(&mut self) {
        for role in self.map.roles.iter().filter(|role| role.login && !role.predefined) {
            let quoted = quote_identifier(&role.name);
            // One superuser there always is: the one that the cluster was made with.
            if role.superuser {
                let others = self.map.roles.iter().filter(|other| other.superuser && other.login).count();
                if others > 1 && role.name != "postgres" {
                    self.add(
                        "superuser_login",
                        Severity::Warning,
                        &role.name,
                        format!("`{}` is one of {others} superusers that can log in", role.name),
                        format!("ALTER ROLE {quoted} NOSUPERUSER"),
                    );
                }
                continue;
            }
            for (has, word, why) in [
                (role.create_role, "CREATEROLE", "it makes and changes other logins"),
                (role.bypass_row_security, "BYPASSRLS", "row-level security does not hold for it"),
                (role.replication, "REPLICATION", "it can copy the whole cluster"),
                (role.create_database, "CREATEDB", "it makes databases"),
            ] {
                if has {
                    let severity = if word == "CREATEDB" { Severity::Info } else { Severity::Warning };
                    self.add(
                        "far_reaching_attribute",
                        severity,
                        &role.name,
                        format!("the login `{}` has {word}: {why}", role.name),
                        format!("ALTER ROLE {quoted} NO{word}"),
                    );
                }
            }
            if role.expired {
                self.add(
                    "expired_login",
                    Severity::Info,
                    &role.name,
                    format!("the password of `{}` has expired, and it keeps its rights", role.name),
                    format!("renew it, or drop it: DROP OWNED BY {quoted}; DROP ROLE {quoted}"),
                );
            }
        }
        for membership in &self.map.memberships {
            if let Some((name, severity, why)) =
                FAR_REACHING.iter().find(|(name, ..)| *name == membership.role)
            {
                let fix = format!(
                    "`steward store access revoke {} {} --member-of {name}`",
                    self.store,
                    shell(&membership.member)
                );
                self.add(
                    "far_reaching_membership",
                    *severity,
                    &membership.member,
                    format!("`{}` is a member of `{name}`: {why}", membership.member),
                    fix,
                );
            }
            // From 16 on, who makes a role becomes its administrator by itself.
            let by_making = self.role(&membership.member).is_some_and(|role| role.create_role)
                && membership.inherit == Some(false);
            let superuser = self.role(&membership.member).is_some_and(|role| role.superuser);
            if membership.admin && !by_making && !superuser {
                let fix = format!(
                    "`steward store access revoke {} {} --member-of {} --only-option`",
                    self.store,
                    shell(&membership.member),
                    shell(&membership.role)
                );
                self.add(
                    "admin_option",
                    Severity::Warning,
                    &membership.member,
                    format!("`{}` may make others members of `{}`", membership.member, membership.role),
                    fix,
                );
            }
        }
    }

    fn owners(&mut self, own_writer: Option<&str>) {
        for owned in self.map.ownership.iter().filter(|owned| owned.kind == "table") {
            let Some(role) = self.role(&owned.role) else { continue };
            // Whoever migrates must own; Steward's own login does.
            if role.superuser || !role.login || own_writer == Some(role.name.as_str()) {
                continue;
            }
            let (name, objects) = (role.name.clone(), owned.objects);
            let group = quote_identifier(&format!("{name}_owner"));
            let quoted = quote_identifier(&name);
            self.add(
                "owner_logs_in",
                Severity::Warning,
                &name,
                format!("the login `{name}` owns {objects} tables: it may drop them and give every right on them away"),
                format!(
                    "CREATE ROLE {group} NOLOGIN; REASSIGN OWNED BY {quoted} TO {group}; then give `{name}` the rights it \
                     needs with `steward store access grant`"
                ),
            );
        }
    }

    fn public_rights(&mut self) {
        let mut tables: BTreeMap<(String, Vec<String>), Vec<String>> = BTreeMap::new();
        for grant in self.map.grants.iter().filter(|grant| grant.role == "PUBLIC") {
            match grant.kind.as_str() {
                "schema" if grant.privileges.iter().any(|word| word == "CREATE") => {
                    let fix = self.revoke(
                        "PUBLIC",
                        &["CREATE".into()],
                        "schema",
                        std::slice::from_ref(&grant.object),
                        "",
                    );
                    self.add(
                        "public_can_create",
                        Severity::Warning,
                        &grant.object,
                        format!(
                            "everyone may make objects in the schema `{}`, also such that hide others' objects",
                            grant.object
                        ),
                        fix,
                    );
                }
                "table" | "sequence" => {
                    tables
                        .entry((grant.kind.clone(), grant.privileges.clone()))
                        .or_default()
                        .push(grant.object.clone());
                }
                "column" => self.add(
                    "public_rights",
                    Severity::Warning,
                    &grant.object,
                    format!("everyone has {} on the column `{}`", grant.privileges.join(", "), grant.object),
                    {
                        let (table, column) = grant.object.rsplit_once('.').unwrap_or((&grant.object, ""));
                        let more = format!(" --columns {}", shell(column));
                        self.revoke("PUBLIC", &grant.privileges, "table", &[table.to_owned()], &more)
                    },
                ),
                "database" if grant.privileges.iter().any(|word| word == "CREATE") => {
                    let fix = self.revoke("PUBLIC", &["CREATE".into()], "database", &[], "");
                    self.add(
                        "public_can_create",
                        Severity::Warning,
                        &grant.object,
                        "everyone may make schemas in the database".into(),
                        fix,
                    );
                }
                "database" => {
                    let fix = self.revoke("PUBLIC", &grant.privileges, "database", &[], "");
                    self.add(
                        "public_may_connect",
                        Severity::Info,
                        &grant.object,
                        format!(
                            "everyone has {} on the database, as the server gives by itself",
                            grant.privileges.join(", ")
                        ),
                        format!("grant CONNECT to the logins that need it, then {fix}"),
                    );
                }
                _ => {}
            }
        }
        for ((kind, privileges), objects) in tables {
            let writes = privileges.iter().any(|word| WRITES.contains(&word.as_str()));
            let fix = self.revoke("PUBLIC", &privileges, &kind, &objects, "");
            self.add(
                "public_rights",
                if writes { Severity::Critical } else { Severity::Warning },
                &objects.join(", "),
                format!(
                    "everyone has {} on {} {kind}s: {}",
                    privileges.join(", "),
                    objects.len(),
                    few(&objects)
                ),
                fix,
            );
        }
    }

    fn passing_on(&mut self) {
        let mut chains: BTreeMap<(String, String, Vec<String>), Vec<String>> = BTreeMap::new();
        for grant in self.map.grants.iter().filter(|grant| !grant.grantable.is_empty()) {
            chains
                .entry((grant.role.clone(), grant.kind.clone(), grant.grantable.clone()))
                .or_default()
                .push(grant.object.clone());
        }
        for ((role, kind, privileges), objects) in chains {
            if kind == "column" || kind == "parameter" {
                continue;
            }
            let given: BTreeSet<&str> = self
                .map
                .grants
                .iter()
                .filter(|grant| grant.grantor == role && objects.contains(&grant.object))
                .map(|grant| grant.role.as_str())
                .collect();
            let on = if given.is_empty() {
                String::new()
            } else {
                format!(" and has, to {}", given.into_iter().collect::<Vec<_>>().join(", "))
            };
            let fix = self.revoke(&role, &privileges, &kind, &objects, " --only-option --cascade");
            self.add(
                "grant_option",
                Severity::Warning,
                &role,
                format!("`{role}` may pass on {} on {}{on}", privileges.join(", "), few(&objects)),
                fix,
            );
        }
    }

    /// Writing rights of roles that are known to read only, and rights on tables beyond rows.
    fn broad(&mut self, readers: &BTreeMap<String, String>) {
        let mut writes: BTreeMap<(String, Vec<String>), Vec<String>> = BTreeMap::new();
        let mut more: BTreeMap<(String, Vec<String>), Vec<String>> = BTreeMap::new();
        for grant in self.map.grants.iter().filter(|grant| grant.kind == "table" && grant.role != "PUBLIC") {
            let of = |words: &[&str]| -> Vec<String> {
                grant.privileges.iter().filter(|word| words.contains(&word.as_str())).cloned().collect()
            };
            if readers.contains_key(&grant.role) {
                let found = of(WRITES);
                if !found.is_empty() {
                    writes.entry((grant.role.clone(), found)).or_default().push(grant.object.clone());
                }
            } else if of(&["TRUNCATE"]).len() + of(&["TRIGGER"]).len() == 2 {
                more.entry((grant.role.clone(), of(MORE_THAN_ROWS))).or_default().push(grant.object.clone());
            }
        }
        for ((role, privileges), objects) in writes {
            let fix = self.revoke(&role, &privileges, "table", &objects, "");
            let why = readers[&role].clone();
            self.add(
                "write_right_of_a_reader",
                Severity::Warning,
                &role,
                format!(
                    "`{role}` reads only ({why}), yet has {} on {}",
                    privileges.join(", "),
                    few(&objects)
                ),
                fix,
            );
        }
        for ((role, privileges), objects) in more {
            let fix = self.revoke(&role, &privileges, "table", &objects, "");
            self.add(
                "over_broad_grant",
                Severity::Warning,
                &role,
                format!("`{role}` has {} on {}: more than rows need", privileges.join(", "), few(&objects)),
                fix,
            );
        }
    }

    /// Groups with rights and nobody in them.
    fn unused(&mut self) {
        let names: Vec<String> = self
            .map
            .roles
            .iter()
            .filter(|role| !role.login && !role.predefined && role.objects_owned == 0)
            .filter(|role| !self.map.memberships.iter().any(|membership| membership.role == role.name))
            .filter(|role| self.map.grants.iter().any(|grant| grant.role == role.name))
            .map(|role| role.name.clone())
            .collect();
        for name in names {
            let quoted = quote_identifier(&name);
            self.add(
                "unused_role",
                Severity::Info,
                &name,
                format!("nobody can use the rights of `{name}`: it cannot log in and has no members"),
                format!("DROP OWNED BY {quoted}; DROP ROLE {quoted}"),
            );
        }
    }
}

/// A word as a shell takes it.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ',');
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn few(objects: &[String]) -> String {
    match objects {
        [first, rest @ ..] if rest.len() > 3 => format!("{first} and {} more", rest.len()),
        few => few.join(", "),
    }
}

impl PostgresStore {
    pub(crate) async fn judge_access(
        &self,
        ctx: &Context,
        map: &AccessMap,
    ) -> Result<(Vec<AccessProblem>, Vec<String>), Error> {
        let session = self.open_to_look(ctx, Purpose::Read).await?;
        let client = &session.client;
        let mut not_seen = Vec::new();
        let mut readers = self.known_readers(map);
        match statements_that_read(client).await? {
            Some(seen) => {
                for (role, calls) in seen {
                    readers.entry(role).or_insert_with(|| format!("its {calls} recorded statements only read"));
                }
            }
            None => not_seen.push(
                "what each login really does is not recorded: with the extension pg_stat_statements, logins that only \
                 read would be known by their statements (CREATE EXTENSION pg_stat_statements; \
                 shared_preload_libraries)"
                    .to_owned(),
            ),
        }
        let writer = self.opener.login(Purpose::Write).map(|login| login.user.as_str());
        let mut review = Review { store: self.name(), map, problems: Vec::new() };
        review.powers();
        review.owners(writer);
        review.public_rights();
        review.passing_on();
        review.broad(&readers);
        review.unused();
        if map.truncated {
            not_seen.push(format!("only the first {} grants were looked at", map.grants.len()));
        }
        add_from_catalog(client, &mut review).await?;
        let mut problems = review.problems;
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
        Ok((problems, not_seen))
    }

    /// Roles that are meant to read only, and how we know.
    fn known_readers(&self, map: &AccessMap) -> BTreeMap<String, String> {
        let mut readers = BTreeMap::new();
        for role in &map.roles {
            let read_only = role.settings.iter().any(|setting| {
                matches!(
                    setting.as_str(),
                    "default_transaction_read_only=on" | "default_transaction_read_only=true"
                )
            });
            if read_only {
                readers.insert(role.name.clone(), "its sessions begin read-only".to_owned());
            }
        }
        let reader = &self.opener.config.reader.user;
        if map.roles.iter().any(|role| role.name == *reader && !role.superuser) {
            readers.insert(reader.clone(), "it is the login that reads for Steward".to_owned());
        }
        readers
    }
}

async fn add_from_catalog(client: &Client, review: &mut Review<'_>) -> Result<(), Error> {
    let failed = |error: tokio_postgres::Error| translate(&error);
    for row in client.query(include_str!("sql/review_defaults.sql"), &[]).await.map_err(failed)? {
        let (schema, owner, role): (String, String, String) =
            (row.get("schema"), row.get("owner"), row.get("role"));
        let fix = format!(
            "`steward store access grant {} {} --privileges select --on all_tables --objects {} --with-defaults --owner {}`",
            review.store,
            shell(&role),
            shell(&schema),
            shell(&owner)
        );
        review.add(
            "missing_default_privileges",
            Severity::Warning,
            &role,
            format!(
                "`{role}` reads all {} tables of `{owner}` in `{schema}`, but would not see the next one",
                row.get::<_, i64>("tables")
            ),
            fix,
        );
    }
    for row in client.query(include_str!("sql/review_definer.sql"), &[]).await.map_err(failed)? {
        let (name, owner): (String, String) = (row.get("name"), row.get("owner"));
        let fix = review.revoke("PUBLIC", &["EXECUTE".into()], "function", std::slice::from_ref(&name), "");
        review.add(
            "public_definer_function",
            Severity::Warning,
            &name,
            format!("everyone may call `{name}`, which acts with the rights of `{owner}`"),
            fix,
        );
    }
    for row in client.query(include_str!("sql/review_unreachable.sql"), &[]).await.map_err(failed)? {
        let (schema, role): (String, String) = (row.get("schema"), row.get("role"));
        let fix = format!(
            "`steward store access grant {} {} --privileges usage --on schema --objects {}`, or take the rights away",
            review.store,
            shell(&role),
            shell(&schema)
        );
        review.add(
            "grant_without_effect",
            Severity::Info,
            &role,
            format!(
                "`{role}` has rights on {} tables of the schema `{schema}` and no USAGE on the schema",
                row.get::<_, i64>("tables")
            ),
            fix,
        );
    }
    Ok(())
}

/// Logins whose recorded statements only read; `None` where nothing is recorded or may be seen.
async fn statements_that_read(client: &Client) -> Result<Option<Vec<(String, i64)>>, Error> {
    let failed = |error: tokio_postgres::Error| translate(&error);
    let extension = client
        .query_opt(
            "SELECT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
             WHERE e.extname = 'pg_stat_statements' AND pg_has_role('pg_read_all_stats', 'USAGE')",
            &[],
        )
        .await
        .map_err(failed)?;
    let Some(extension) = extension else { return Ok(None) };
    let schema = quote_identifier(&extension.get::<_, String>(0));
    let sql = include_str!("sql/review_statements.sql").replace("{schema}", &schema);
    client.batch_execute("SAVEPOINT steward_try").await.map_err(failed)?;
    if let Ok(rows) = client.query(&sql, &[]).await {
        return Ok(Some(rows.iter().map(|row| (row.get(0), row.get(1))).collect()));
    }
    // The extension is there, its library is not loaded.
    client.batch_execute("ROLLBACK TO steward_try").await.map_err(failed)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell_are_quoted_where_it_is_needed() {
        for (word, quoted) in [
            ("public.orders", "public.orders"),
            ("odd name", "'odd name'"),
            ("it's", "'it'\\''s'"),
            ("f(int)", "'f(int)'"),
        ] {
            assert_eq!(shell(word), quoted);
        }
    }
}
