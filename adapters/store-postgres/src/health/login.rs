//! Who may do more than they need, and who comes in how.

use std::net::IpAddr;

use contract::{Error, Severity, Trigger};
use serde::Deserialize;

use super::judgement::{Judged, Row, Server, count, listed, read};

/// Programs with which people administer; a superuser there is no application.
const ADMINISTRATION: [&str; 10] = [
    "psql",
    "pg_dump",
    "pg_dumpall",
    "pg_restore",
    "pg_basebackup",
    "pg_receivewal",
    "pg_rewind",
    "vacuumdb",
    "reindexdb",
    "steward",
];

#[derive(Deserialize)]
struct Clear {
    user: Option<String>,
    application: Option<String>,
    address: String,
    sessions: u64,
}

pub(crate) fn sessions_without_tls(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Clear>(rows)? {
        if row.address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
            continue;
        }
        let user = row.user.unwrap_or_default();
        judged.escalated(
            Trigger::SecurityViolation,
            "session_not_encrypted",
            &user,
            format!(
                "{} of `{user}` ({}) from {} come over the network in the clear",
                count(row.sessions, "session"),
                row.application.unwrap_or_default(),
                row.address
            ),
            "let the client ask for `sslmode=verify-full`, and make its line in pg_hba.conf `hostssl`",
        );
    }
    judged.hidden = server.others_hidden();
    Ok(judged)
}

#[derive(Deserialize)]
struct AtWork {
    user: String,
    application: Option<String>,
    sessions: u64,
}

pub(crate) fn superusers_at_work(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<AtWork>(rows)? {
        let application = row.application.unwrap_or_default();
        if ADMINISTRATION.contains(&application.as_str()) || application.starts_with("pgAdmin") {
            continue;
        }
        judged.found(
            "superuser_at_work",
            Severity::Warning,
            &row.user,
            format!(
                "{} of the application `{application}` as the superuser `{}`: one hole in it is the whole server",
                count(row.sessions, "session"),
                row.user
            ),
            "give the application a login that owns nothing and has the rights that it uses: `steward store setup` makes \
             such logins",
        );
    }
    if !server.sees_others() {
        judged.hidden = server.others_hidden();
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Role {
    name: String,
    quoted_name: String,
    extra_superuser: bool,
    creates_roles: bool,
    bypasses_row_security: bool,
    replicates: bool,
    expired: Option<bool>,
    reaches: Vec<String>,
    row_security_used: bool,
}

pub(crate) fn roles(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Role>(rows)? {
        let mut found = |code: &str, severity, title: String, fix: String| {
            judged.found(code, severity, &row.name, title, fix);
        };
        if row.extra_superuser {
            found(
                "superuser_login",
                Severity::Warning,
                format!("`{}` may log in and is a superuser beside the first one", row.name),
                format!(
                    "ALTER ROLE {} NOSUPERUSER, after giving it the rights that it uses",
                    row.quoted_name
                ),
            );
        }
        if row.creates_roles {
            found(
                "role_creates_roles",
                Severity::Warning,
                format!("`{}` may make and change roles (before PostgreSQL 16: nearly any)", row.name),
                format!("ALTER ROLE {} NOCREATEROLE", row.quoted_name),
            );
        }
        if row.bypasses_row_security {
            found(
                "role_bypasses_row_security",
                if row.row_security_used { Severity::Warning } else { Severity::Info },
                format!("row-level security does not hold for `{}`", row.name),
                format!("ALTER ROLE {} NOBYPASSRLS", row.quoted_name),
            );
        }
        if row.replicates {
            found(
                "role_replicates",
                Severity::Info,
                format!("`{}` may copy the whole server by replication", row.name),
                format!(
                    "ALTER ROLE {} NOREPLICATION, unless a copy or a backup logs in with it",
                    row.quoted_name
                ),
            );
        }
        if !row.reaches.is_empty() {
            found(
                "role_reaches_server_files",
                Severity::Warning,
                format!("`{}` reaches the server's machine through {}", row.name, listed(&row.reaches)),
                format!("REVOKE {} FROM {}", row.reaches.join(", "), row.quoted_name),
            );
        }
        if row.expired == Some(true) {
            found(
                "login_expired",
                Severity::Info,
                format!("the password of `{}` has expired", row.name),
                format!(
                    "DROP ROLE {name}, or ALTER ROLE {name} NOLOGIN, if nobody misses it",
                    name = row.quoted_name
                ),
            );
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Password {
    name: String,
    kept_as: String,
}

pub(crate) fn passwords(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Password>(rows)?.into_iter().filter(|row| row.kept_as == "md5") {
        judged.found(
            "password_md5",
            Severity::Warning,
            &row.name,
            format!(
                "the password of `{}` is kept as MD5: whoever reads a backup can log in with it",
                row.name
            ),
            format!("SET password_encryption = 'scram-sha-256', then give `{}` a new password", row.name),
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Rule {
    line: Option<i64>,
    #[serde(rename = "type")]
    kind: String,
    users: Option<Vec<String>>,
    address: Option<String>,
    method: String,
    error: Option<String>,
}

/// Source: PostgreSQL manual, "The pg_hba.conf File", "Password Authentication".
pub(crate) fn authentication_rules(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Rule>(rows)? {
        let line = format!("pg_hba.conf line {}", row.line.unwrap_or_default());
        if let Some(error) = row.error {
            judged.found(
                "authentication_rule_broken",
                Severity::Warning,
                &line,
                format!("{line} is not understood ({error}): the server goes on with the rules it had and will not start again"),
                "mend the line, then SELECT pg_reload_conf()",
            );
            continue;
        }
        let users = listed(&row.users.unwrap_or_default());
        let address = row.address.as_deref().unwrap_or_default();
        let near = row.kind == "local"
            || address == "samehost"
            || address == "localhost"
            || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let from = if row.kind == "local" { "this machine" } else { address };
        if row.method == "trust" {
            let title = format!("{line} lets `{users}` in from {from} without any proof");
            let fix = "write `scram-sha-256` instead of `trust` (`peer` for local sockets), then SELECT pg_reload_conf()";
            if near {
                judged.found("authentication_trust", Severity::Warning, &line, title, fix);
            } else {
                judged.escalated(Trigger::SecurityViolation, "authentication_trust", &line, title, fix);
            }
        }
        if matches!(row.method.as_str(), "password" | "ldap" | "radius" | "pam" | "bsd")
            && !near
            && matches!(row.kind.as_str(), "host" | "hostnossl")
        {
            judged.found(
                "password_in_the_clear",
                Severity::Critical,
                &line,
                format!("{line} lets `{users}` send passwords from {from} in the clear"),
                "write `hostssl`, and `scram-sha-256` where passwords are the server's own; then SELECT pg_reload_conf()",
            );
        }
        if row.method == "md5" {
            judged.found(
                "authentication_md5",
                Severity::Info,
                &line,
                format!("{line} accepts MD5 for `{users}`"),
                "write `scram-sha-256`, once no password is kept as MD5",
            );
        }
        if !near && matches!(row.kind.as_str(), "host" | "hostnossl") && row.method != "reject" {
            judged.found(
                "encryption_not_demanded",
                Severity::Warning,
                &line,
                format!("{line} lets `{users}` in from {from} without encryption"),
                "write `hostssl` instead, then SELECT pg_reload_conf()",
            );
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct PublicRight {
    kind: String,
    name: String,
    rights: Vec<String>,
}

/// Source: PostgreSQL manual, "Schemas", "Usage Patterns".
pub(crate) fn public_rights(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<PublicRight>(rows)? {
        if row.kind == "schema" {
            judged.found(
                "public_may_create",
                Severity::Warning,
                &row.name,
                format!(
                    "everyone may make objects in the schema `{}`, also ones that others call by mistake",
                    row.name
                ),
                format!("REVOKE CREATE ON SCHEMA {} FROM PUBLIC", row.name),
            );
            continue;
        }
        let writes: Vec<String> = row.rights.iter().filter(|right| *right != "SELECT").cloned().collect();
        if writes.is_empty() {
            judged.found(
                "public_may_read",
                Severity::Warning,
                &row.name,
                format!("everyone who can connect may read `{}`", row.name),
                format!(
                    "REVOKE SELECT ON {} FROM PUBLIC, after granting it to the roles that need it",
                    row.name
                ),
            );
        } else {
            judged.found(
                "public_may_write",
                Severity::Critical,
                &row.name,
                format!("everyone who can connect may {} `{}`", listed(&writes), row.name),
                format!(
                    "REVOKE ALL ON {} FROM PUBLIC, after granting what is needed to the roles that need it",
                    row.name
                ),
            );
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Function {
    name: String,
    owner: String,
    owner_is_superuser: bool,
    open_to_all: bool,
}

/// Source: PostgreSQL manual, CREATE FUNCTION, "Writing SECURITY DEFINER Functions Safely".
pub(crate) fn security_definer(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Function>(rows)? {
        let all = if row.open_to_all { ", and everyone may call it" } else { "" };
        judged.found(
            "security_definer_without_search_path",
            if row.owner_is_superuser && row.open_to_all { Severity::Critical } else { Severity::Warning },
            &row.name,
            format!("`{}` runs as `{}` and finds its names where the caller says{all}", row.name, row.owner),
            format!(
                "ALTER FUNCTION {} SET search_path = pg_catalog, pg_temp (and its own schema before pg_temp)",
                row.name
            ),
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Policies {
    name: String,
    policies: u64,
}

pub(crate) fn row_security(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Policies>(rows)? {
        let policies = match row.policies {
            1 => "1 policy".to_owned(),
            n => format!("{n} policies"),
        };
        judged.found(
            "row_security_off",
            Severity::Warning,
            &row.name,
            format!("`{}` has {policies} that are not applied: row-level security is off", row.name),
            format!("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", row.name),
        );
    }
    Ok(judged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Recorded rows with another address: the tests' clients are all on this machine.
    #[test]
    fn sessions_in_the_clear_are_told_from_those_on_this_machine() {
        let server = Server { superuser: true, ..Server::default() };
        for (address, found) in [("127.0.0.1", 0), ("::1", 0), ("192.0.2.7", 1), ("2001:db8::7", 1)] {
            let row = json!({"user": "app", "application": "shop", "address": address, "sessions": 3});
            let row = row.as_object().expect("an object").clone();
            let judged = sessions_without_tls(&server, &[row]).expect("rows fit");
            assert_eq!(judged.findings.len(), found, "{address}");
            assert!(judged.findings.iter().all(|f| f.escalate == Some(Trigger::SecurityViolation)));
        }
    }
}
