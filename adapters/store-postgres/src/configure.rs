//! One setting of a database, of a role in it, or of the server, with the way back.

use contract::{
    Context, Error, ErrorKind, Finding, PlanStep, Prepared, SettingLevel, Severity, Statement, StepMode,
};
use serde_json::json;
use tokio_postgres::Client;

use crate::error::translate;
use crate::operate::denied;
use crate::session::{Purpose, Session};
use crate::statement::{quote_identifier, quote_literal};
use crate::store::PostgresStore;

/// Settings that endanger data or the machine, the values that do (none: every value), and why.
const DANGEROUS: &[(&str, &[&str], &str)] = &[
    ("fsync", &["off"], "a crash of the machine destroys the whole cluster"),
    ("full_page_writes", &["off"], "a crash in the middle of a write leaves torn pages that nothing repairs"),
    ("synchronous_commit", &["off"], "a crash loses transactions that were reported as committed"),
    ("zero_damaged_pages", &["on"], "damaged pages are thrown away without a word"),
    ("ignore_checksum_failure", &["on"], "damaged pages are believed"),
    ("ignore_invalid_pages", &["on"], "recovery goes on over missing data"),
    ("ignore_system_indexes", &["on"], "the catalog is read without its indexes"),
    ("allow_system_table_mods", &["on"], "the catalog can be broken by hand"),
    ("autovacuum", &["off"], "tables bloat, and in the end the server stops taking writes"),
    ("track_counts", &["off"], "autovacuum goes blind, which is as if it were off"),
    ("wal_level", &["minimal"], "replication and point-in-time recovery end"),
    ("row_security", &["off"], "policies of tables turn into errors"),
    ("session_replication_role", &["replica", "local"], "foreign keys and triggers do not fire"),
    ("ssl", &["off"], "data and passwords travel in the clear; encryption is a decision of Security"),
    ("password_encryption", &["md5"], "new passwords are stored in a form that can be broken"),
    ("data_checksums", &[], "it is set when the cluster is made"),
    (
        "archive_command",
        &[],
        "it is a program that the server runs; the backup belongs to whoever runs the machine",
    ),
    ("archive_library", &[], "it is code that the server loads"),
    ("archive_cleanup_command", &[], "it is a program that the server runs"),
    ("recovery_end_command", &[], "it is a program that the server runs"),
    ("restore_command", &[], "it is a program that the server runs"),
    ("ssl_passphrase_command", &[], "it is a program that the server runs"),
    ("shared_preload_libraries", &[], "a library that cannot be loaded keeps the server from starting"),
    ("session_preload_libraries", &[], "it is code that every session loads"),
    ("local_preload_libraries", &[], "it is code that every session loads"),
    ("jit_provider", &[], "it is code that the server loads"),
    ("dynamic_library_path", &[], "it decides which code the server loads"),
    ("extension_control_path", &[], "it decides which code the server loads"),
    ("data_directory", &[], "the server would start without its data"),
    ("config_file", &[], "it belongs to whoever runs the machine"),
    ("hba_file", &[], "who may connect is a decision of Security"),
    ("ident_file", &[], "who may connect is a decision of Security"),
    ("listen_addresses", &[], "who can reach the server is a decision of Security"),
    ("port", &[], "nobody would find the server any more"),
    ("unix_socket_directories", &[], "local programs would not find the server any more"),
];

/// Settings whose value is a list of names; the server would take one text for one name.
const NAME_LISTS: &[&str] = &["search_path", "temp_tablespaces", "createrole_self_grant"];

/// What the server knows of a setting.
struct Known {
    name: String,
    context: String,
    vartype: String,
    choices: Vec<String>,
}

fn truth(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some(true),
        "off" | "false" | "no" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// Refuses what would endanger data.
fn refuse_dangerous(name: &str, value: Option<&str>) -> Result<(), Error> {
    let Some((_, values, why)) = DANGEROUS.iter().find(|(dangerous, ..)| *dangerous == name) else {
        return Ok(());
    };
    let is_one = |bad: &&str| {
        value.is_some_and(|value| {
            value.eq_ignore_ascii_case(bad) || truth(bad).is_some() && truth(value) == truth(bad)
        })
    };
    if !values.is_empty() && !values.iter().any(is_one) {
        return Ok(());
    }
    let value = value.map_or_else(String::new, |value| format!(" = {value}"));
    Err(Error::new(ErrorKind::Invalid, format!("`{name}{value}` is refused: {why}"))
        .hint("whoever runs the server can do it there, knowing what it costs"))
}

/// The value as it stands in a statement.
fn literal(name: &str, value: &str) -> String {
    if NAME_LISTS.contains(&name) {
        return list(value).iter().map(|item| quote_literal(item)).collect::<Vec<_>>().join(", ");
    }
    quote_literal(value)
}

/// The names of a list such as `"$user", public`.
fn list(value: &str) -> Vec<String> {
    let (mut out, mut word, mut quoted, mut was_quoted) = (Vec::new(), String::new(), false, false);
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                word.push('"');
            }
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            ',' if !quoted => {
                out.push(std::mem::take(&mut word));
                was_quoted = false;
            }
            c if c.is_whitespace() && !quoted => {}
            c => word.push(c),
        }
    }
    if !word.is_empty() || was_quoted || out.is_empty() {
        out.push(word);
    }
    out
}

impl PostgresStore {
    pub(crate) async fn prepare_configure(
        &self,
        ctx: &Context,
        session: &Session,
        setting: &str,
        value: Option<&str>,
        level: SettingLevel,
        role: Option<&str>,
    ) -> Result<Prepared, Error> {
        let client = &session.client;
        let known = known(client, setting).await?;
        let name = known.name.as_str();
        refuse_dangerous(name, value)?;
        check_level(&known, level, role)?;
        if let Some(value) = value {
            check_value(client, &known, value).await?;
        }
        let (login, now) = match level {
            SettingLevel::Server => self.server_now(ctx, name).await?,
            SettingLevel::Database | SettingLevel::Role => (
                self.login_to_configure(client, &known, level, role).await?,
                stored(client, name, role).await?,
            ),
        };
        let database = quote_identifier(&self.opener.address.database);
        let of = match (level, role) {
            (SettingLevel::Server, _) => "ALTER SYSTEM".to_owned(),
            (SettingLevel::Database, _) => format!("ALTER DATABASE {database}"),
            (SettingLevel::Role, role) => {
                format!("ALTER ROLE {} IN DATABASE {database}", quote_identifier(role.unwrap_or_default()))
            }
        };
        let statement = |value: Option<&str>| {
            Statement::new(match value {
                Some(value) => format!("{of} SET {} TO {}", quote_identifier(name), literal(name, value)),
                None => format!("{of} RESET {}", quote_identifier(name)),
            })
        };
        let place = match (level, role) {
            (SettingLevel::Server, _) => "on the server".to_owned(),
            (SettingLevel::Database, _) => format!("in new sessions of {database}"),
            (SettingLevel::Role, role) => format!("in new sessions of `{}`", role.unwrap_or_default()),
        };
        let state = json!({"setting": name, "level": level, "role": role, "value": now});
        if same(name, now.as_deref(), value) {
            return Ok(Prepared {
                summary: match value {
                    Some(value) => format!("nothing to do: `{name}` is `{value}` {place}"),
                    None => format!("nothing to do: `{name}` is not set {place}"),
                },
                login,
                state: state.clone(),
                seen: state,
                ..Prepared::default()
            });
        }
        let restart = known.context == "postmaster";
        let reload = Statement::new("SELECT pg_catalog.pg_reload_conf()");
        let (mut statements, mut undo) = (vec![statement(value)], vec![statement(now.as_deref())]);
        if level == SettingLevel::Server {
            statements.push(reload.clone());
            undo.push(reload);
        }
        let title = match value {
            Some(value) => format!("set `{name}` to `{value}` {place}"),
            None => format!("take `{name}` back to its default {place}"),
        };
        let mut findings = Vec::new();
        if restart {
            findings.push(Finding {
                code: "restart_needed".into(),
                severity: Severity::Warning,
                title: format!("`{name}` changes only when the server is restarted"),
                object: name.into(),
                recommendation: Some("restart the server in a maintenance window: `pg_ctl restart`".into()),
                evidence: Vec::new(),
                escalate: None,
            });
        } else if level != SettingLevel::Server {
            findings.push(Finding {
                code: "new_sessions_only".into(),
                severity: Severity::Info,
                title: "sessions that are open keep the old value until they connect again".into(),
                object: name.into(),
                recommendation: None,
                evidence: Vec::new(),
                escalate: None,
            });
        }
        let step = PlanStep {
            undo,
            reversible: true,
            ..PlanStep::new(
                format!("configure {name} {of}"),
                title.clone(),
                // ALTER SYSTEM writes a file and takes part in no transaction; to say the same again does no harm.
                if level == SettingLevel::Server { StepMode::Autocommit } else { StepMode::Transaction },
                statements,
            )
        };
        Ok(Prepared {
            summary: title,
            steps: vec![step],
            login,
            seen: json!({"before": now, "context": known.context, "restart": restart}),
            state,
            predicted: json!({"setting": name, "value": value, "restart": restart}),
            findings,
        })
    }

    /// What the server's own file says of the setting; only an administrator may see it and change it.
    async fn server_now(&self, ctx: &Context, name: &str) -> Result<(String, Option<String>), Error> {
        let who = "a superuser could, or a login with ALTER SYSTEM on the setting that may read pg_file_settings: \
                   configure it as `admin`";
        if self.opener.login(Purpose::Administer).is_none() {
            return Err(denied(
                "settings of the server need an administering login, and none is configured",
                who,
            ));
        }
        let session = self.open_to_look(ctx, Purpose::Administer).await?;
        if !session.rights.login.superuser {
            return Err(denied(
                &format!("the login `{}` may not change settings of the server", session.rights.login.user),
                who,
            ));
        }
        let row = session
            .client
            .query_opt(
                "SELECT setting FROM pg_catalog.pg_file_settings WHERE lower(name) = lower($1) \
                 AND sourcefile ~ '[/\\\\]postgresql[.]auto[.]conf$' ORDER BY seqno DESC LIMIT 1",
                &[&name],
            )
            .await
            .map_err(|error| translate(&error))?;
        Ok(("admin".into(), row.and_then(|row| row.get(0))))
    }

    /// The login that may change what sessions of the database or of a role begin with.
    async fn login_to_configure(
        &self,
        client: &Client,
        known: &Known,
        level: SettingLevel,
        role: Option<&str>,
    ) -> Result<String, Error> {
        let (_, users) = self.acting_logins();
        let rows = client
            .query(
                "SELECT r.rolname::text FROM pg_catalog.pg_roles r \
                 LEFT JOIN pg_catalog.pg_roles t ON t.rolname = $2::text \
                 WHERE r.rolname = ANY ($1::text[]) AND (r.rolsuper OR NOT $3::bool AND CASE WHEN $2::text IS NULL \
                 THEN pg_has_role(r.oid, (SELECT datdba FROM pg_catalog.pg_database \
                                          WHERE datname = current_database()), 'USAGE') \
                 ELSE t.oid = r.oid OR r.rolcreaterole AND NOT t.rolsuper AND (current_setting('server_version_num')::int \
                      < 160000 OR pg_has_role(r.oid, t.oid, 'MEMBER WITH ADMIN OPTION')) END)",
                &[&users, &role, &(known.context == "superuser")],
            )
            .await
            .map_err(|error| translate(&error))?;
        let may: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if let Some(login) = self.first_of(&may) {
            return Ok(login);
        }
        let who = match (known.context.as_str(), level) {
            ("superuser", _) => "a superuser could: configure it as `admin`",
            (_, SettingLevel::Role) => {
                "the role itself could, a superuser, or a role with CREATEROLE that administers it: configure one as `admin`"
            }
            _ => "the owner of the database or a superuser could: configure one as `admin`",
        };
        Err(denied(&format!("no configured login may change `{}` there", known.name), who))
    }
}

fn same(name: &str, now: Option<&str>, wanted: Option<&str>) -> bool {
    match (now, wanted) {
        (None, None) => true,
        (Some(now), Some(wanted)) if NAME_LISTS.contains(&name) => list(now) == list(wanted),
        (Some(now), Some(wanted)) => now == wanted || truth(now).is_some() && truth(now) == truth(wanted),
        _ => false,
    }
}

async fn known(client: &Client, setting: &str) -> Result<Known, Error> {
    let row = client
        .query_opt(
            "SELECT name, context, vartype, COALESCE(enumvals, '{}') FROM pg_catalog.pg_settings \
             WHERE lower(name) = lower($1)",
            &[&setting],
        )
        .await
        .map_err(|error| translate(&error))?;
    let Some(row) = row else {
        return Err(Error::new(ErrorKind::NotFound, format!("the server knows no setting `{setting}`"))
            .hint("settings of an extension are known once its library is loaded; `SELECT name FROM pg_settings` lists all"));
    };
    Ok(Known { name: row.get(0), context: row.get(1), vartype: row.get(2), choices: row.get(3) })
}

fn check_level(known: &Known, level: SettingLevel, role: Option<&str>) -> Result<(), Error> {
    let name = &known.name;
    match (level, role) {
        (SettingLevel::Role, None) => {
            return Err(Error::new(ErrorKind::Invalid, "the level `role` needs a `role`"));
        }
        (SettingLevel::Database | SettingLevel::Server, Some(_)) => {
            return Err(Error::new(ErrorKind::Invalid, "a `role` is named, but the level is not `role`"));
        }
        _ => {}
    }
    match known.context.as_str() {
        "internal" => Err(Error::new(ErrorKind::Unsupported, format!("`{name}` is fixed and cannot be set"))
            .hint("it was decided when the server was built or the cluster was made")),
        "postmaster" | "sighup" if level != SettingLevel::Server => {
            Err(Error::new(ErrorKind::Invalid, format!("`{name}` is the same for the whole server"))
                .hint("say `--level server`"))
        }
        _ => Ok(()),
    }
}

/// Asks the server, where it can be asked without changing anything.
async fn check_value(client: &Client, known: &Known, value: &str) -> Result<(), Error> {
    let name = &known.name;
    let wrong =
        |hint: String| Error::new(ErrorKind::Invalid, format!("`{name}` does not take `{value}`")).hint(hint);
    if known.vartype == "enum" && !known.choices.iter().any(|choice| choice.eq_ignore_ascii_case(value)) {
        return Err(wrong(format!("one of: {}", known.choices.join(", "))));
    }
    if known.vartype == "bool" && truth(value).is_none() {
        return Err(wrong("on or off".into()));
    }
    if known.context == "user" {
        let tried = client
            .batch_execute(&format!(
                "SAVEPOINT steward_try; SELECT pg_catalog.set_config({}, {}, true); ROLLBACK TO steward_try",
                quote_literal(name),
                quote_literal(value)
            ))
            .await;
        if let Err(error) = tried {
            client.batch_execute("ROLLBACK TO steward_try").await.map_err(|error| translate(&error))?;
            return Err(wrong(translate(&error).message().to_owned()));
        }
    }
    Ok(())
}

/// What is stored for the database, or for a role in it.
async fn stored(client: &Client, name: &str, role: Option<&str>) -> Result<Option<String>, Error> {
    if let Some(role) = role {
        let exists = client
            .query_opt("SELECT FROM pg_catalog.pg_roles WHERE rolname = $1", &[&role])
            .await
            .map_err(|error| translate(&error))?;
        if exists.is_none() {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no role `{role}`")));
        }
    }
    let rows = client
        .query(
            "SELECT unnest(s.setconfig) FROM pg_catalog.pg_db_role_setting s \
             JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
             WHERE d.datname = current_database() \
             AND s.setrole = COALESCE((SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = $1::text), 0::oid)",
            &[&role],
        )
        .await
        .map_err(|error| translate(&error))?;
    Ok(rows.iter().find_map(|row| {
        let entry: String = row.get(0);
        let (known, value) = entry.split_once('=')?;
        known.eq_ignore_ascii_case(name).then(|| value.to_owned())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_values_are_refused_however_they_are_written() {
        for (name, value, refused) in [
            ("fsync", Some("off"), true),
            ("fsync", Some("FALSE"), true),
            ("fsync", Some("0"), true),
            ("fsync", Some("on"), false),
            ("fsync", None, false),
            ("archive_command", Some("true"), true),
            ("archive_command", None, true),
            ("wal_level", Some("Minimal"), true),
            ("wal_level", Some("logical"), false),
            ("work_mem", Some("64MB"), false),
        ] {
            assert_eq!(refuse_dangerous(name, value).is_err(), refused, "{name} {value:?}");
        }
    }

    #[test]
    fn lists_of_names_are_taken_apart() {
        for (text, items) in [
            ("public", vec!["public"]),
            ("\"$user\", public", vec!["$user", "public"]),
            ("\"a, b\",c", vec!["a, b", "c"]),
            ("\"say \"\"x\"\"\"", vec!["say \"x\""]),
            ("\"\"", vec![""]),
        ] {
            assert_eq!(list(text), items, "{text}");
        }
        assert_eq!(literal("search_path", "\"$user\", public"), "'$user', 'public'");
        assert_eq!(literal("work_mem", "64MB"), "'64MB'");
    }
}
