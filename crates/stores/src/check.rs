//! Whether a store can be reached, as whom, and how safely.

use std::net::IpAddr;

use contract::{Context, Effect, Error, Finding, Outcome, Probe, Request, Severity, StoreDirectory, Trigger};
use schema::Dialect;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::inquiry::Inquiry;
use crate::text;

/// Arguments of `store.check`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckStore {
    /// The store's name in the project file.
    pub store: String,
}

impl Request for CheckStore {
    const NAME: &'static str = "store.check";
    const SUMMARY: &'static str = "Connect and say who we are there and how safe it is";
    const EXAMPLE: &'static str = "steward store check orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "store.read";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Connects with each configured login and reports what is unsafe.
///
/// Value: `store`, `kind`, `capabilities[]` and the fields of [`Probe`]. Findings: `superuser_reader`,
/// `owner_reader`, `reader_can_write`, `unencrypted`, `no_writer`, `pooler_between`, `standby`, `standby_not_streaming`.
///
/// # Errors
///
/// `NotFound`: no such store. `Unavailable`, `Denied`, `TimedOut`, `Unsupported`: from the probe.
pub async fn check(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &CheckStore,
) -> Result<Outcome, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let probe = inquiry.store.probe(ctx).await?;
    let evidence = inquiry.note("probe", json!(probe), probe.connect_ms);
    // Whoever may read a file or a folder needs no login, and nothing is sent anywhere.
    let is_file = inquiry.store.kind() == "folder"
        || inquiry.store.relational().is_some_and(|sql| sql.dialect() == Dialect::Sqlite);
    let mut value = json!(probe);
    value["store"] = json!(request.store);
    value["kind"] = json!(inquiry.store.kind());
    value["capabilities"] = json!(inquiry.store.capabilities());
    let mut outcome = Outcome::new(value, summary(&request.store, inquiry.store.kind(), &probe));
    outcome.findings = findings(&request.store, &probe, is_file, &evidence);
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

fn summary(store: &str, kind: &str, probe: &Probe) -> String {
    let rights = |login: &contract::Login| {
        let mut rights = Vec::new();
        for (has, word) in
            [(login.superuser, "superuser"), (login.owner, "owner"), (login.can_write, "can write")]
        {
            if has {
                rights.push(word);
            }
        }
        let rights = if rights.is_empty() { "reads only".to_owned() } else { rights.join(", ") };
        format!("{} ({rights})", login.user)
    };
    let writer = probe.writer.as_ref().map_or_else(|| "none".to_owned(), rights);
    let mut lines = vec![
        format!("{store}: {kind} {}", probe.version),
        format!("  address    {}", probe.address),
        format!("  identity   {}", probe.identity),
        format!("  reader     {}", rights(&probe.reader)),
        format!("  writer     {writer}"),
        format!("  read-only  by {}", probe.read_only_by),
        format!("  encrypted  {}", if probe.encrypted { "yes" } else { "no" }),
        format!("  connected  in {}", text::millis(probe.connect_ms)),
    ];
    if let Some(standby) = &probe.standby {
        let of = standby.primary.as_deref().unwrap_or("a server that our login may not see");
        let behind = standby.lag_ms.map_or_else(|| "unknown".to_owned(), text::millis);
        let bytes =
            standby.lag_bytes.map_or_else(String::new, |bytes| format!(", {} to apply", text::size(bytes)));
        lines.push(format!("  standby    of {of}, {behind} behind{bytes}"));
    }
    if let Some(how) = &probe.pooler {
        lines.push(format!("  pooler     in between: {how}"));
    }
    lines.join("\n")
}

fn findings(store: &str, probe: &Probe, is_file: bool, evidence: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |code: &str, severity, title: String, recommendation: String, escalate| {
        findings.push(Finding {
            code: code.into(),
            severity,
            title,
            object: String::new(),
            recommendation: Some(recommendation),
            evidence: vec![evidence.to_owned()],
            escalate,
        });
    };
    let setup = || format!("make least-privilege logins: `steward store setup {store}`");
    let reader = &probe.reader;
    if !is_file {
        if reader.superuser {
            found(
                "superuser_reader",
                Severity::Critical,
                format!(
                    "the login `{}` that reads is a superuser; queries are refused until it is not",
                    reader.user
                ),
                setup(),
                None,
            );
        } else if reader.owner {
            found(
                "owner_reader",
                Severity::Critical,
                format!(
                    "the login `{}` that reads owns tables or the database; queries are refused until it does not",
                    reader.user
                ),
                setup(),
                None,
            );
        } else if reader.can_write {
            found(
                "reader_can_write",
                Severity::Warning,
                format!("the login `{}` that reads has the right to write", reader.user),
                setup(),
                None,
            );
        }
        if !probe.encrypted && !is_loopback(&probe.address) {
            found(
                "unencrypted",
                Severity::Critical,
                format!("the connection to {} is not encrypted", probe.address),
                "switch TLS on at the server, and in the store's `url`".to_owned(),
                Some(Trigger::SecurityViolation),
            );
        }
    }
    if let Some(how) = &probe.pooler {
        found(
            "pooler_between",
            Severity::Info,
            format!(
                "a pooler in between shares sessions ({how}): reads go through it, changes need a way past it"
            ),
            "set `direct_url` of this store to the server itself".to_owned(),
            None,
        );
    }
    if let Some(standby) = &probe.standby {
        let primary = standby.primary.as_deref().unwrap_or("its primary");
        let broken = standby.streaming == Some(false);
        found(
            if broken { "standby_not_streaming" } else { "standby" },
            if broken { Severity::Warning } else { Severity::Info },
            if broken {
                format!("the server is a standby and is not connected to {primary}: what it shows grows old")
            } else {
                format!("the server is a standby of {primary}: it takes no changes")
            },
            format!("point `url` (or `direct_url`) of this store to {primary} to change it"),
            None,
        );
    }
    if probe.writer.is_none() {
        found(
            "no_writer",
            Severity::Info,
            "no login that writes is configured or can connect: changes are not possible".to_owned(),
            if is_file {
                "give the user that runs Steward write access to the file".to_owned()
            } else {
                setup()
            },
            None,
        );
    }
    findings
}

/// Whether an address stays on this machine: `127.0.0.1:5432/orders`, `[::1]:5432/orders`, `localhost/orders`, a path.
fn is_loopback(address: &str) -> bool {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let address = address.rsplit_once('@').map_or(address, |(_, rest)| rest);
    if address.starts_with('/') {
        return true;
    }
    let authority = address.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None if authority.matches(':').count() > 1 => authority,
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use contract::Login;

    use super::*;

    #[test]
    fn loopback_addresses_are_known() {
        for (address, loopback) in [
            ("127.0.0.1:5432/orders", true),
            ("localhost:5432/orders", true),
            ("[::1]:5432/orders", true),
            ("/var/run/postgresql", true),
            ("db.example.com:5432/orders", false),
            ("10.0.0.7/orders", false),
            ("localhost.example.com/x", false),
            ("[2001:db8::1]:5432/orders", false),
        ] {
            assert_eq!(is_loopback(address), loopback, "{address}");
        }
    }

    #[test]
    fn unsafe_logins_and_lines_are_found() {
        let login = |superuser, owner, can_write| Login { user: "app".into(), superuser, owner, can_write };
        let probe = |reader, address: &str, encrypted| Probe {
            version: "15.18".into(),
            address: address.into(),
            identity: "1".into(),
            reader,
            writer: Some(login(false, true, true)),
            read_only_by: "session".into(),
            encrypted,
            pooler: None,
            standby: None,
            connect_ms: 1.0,
        };
        for (probe, codes) in [
            (probe(login(true, true, true), "127.0.0.1:5432/x", false), vec!["superuser_reader"]),
            (probe(login(false, true, true), "127.0.0.1:5432/x", false), vec!["owner_reader"]),
            (probe(login(false, false, true), "127.0.0.1:5432/x", true), vec!["reader_can_write"]),
            (probe(login(false, false, false), "db.example:5432/x", false), vec!["unencrypted"]),
            (probe(login(false, false, false), "db.example:5432/x", true), vec![]),
        ] {
            let found: Vec<_> =
                findings("orders", &probe, false, "ev-1").into_iter().map(|finding| finding.code).collect();
            assert_eq!(found, codes, "{probe:?}");
        }
    }
}
