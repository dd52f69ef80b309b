//! Who may do what: listed, reviewed, and changed by plans.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Instant;

use contract::{
    Access, AccessChange, AccessMap, AccessTarget, Context, Effect, Error, ErrorKind, Finding, Operation,
    Outcome, Request, Severity, Store, StoreDirectory,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::inquiry::{Inquiry, millis_since};
use crate::operate::{self, Considered};
use crate::text::{self, TO_STRING};

/// Arguments of `access.list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListAccess {
    /// The store's name in the project file.
    pub store: String,
    /// Only what this role may, itself or through the roles that it is a member of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Only rights on this object, such as `public.orders`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

impl Request for ListAccess {
    const NAME: &'static str = "access.list";
    const SUMMARY: &'static str =
        "Show roles, memberships, grants, default privileges and ownership of a store";
    const EXAMPLE: &'static str = "steward store access list orders --role reporting";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "store.read";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Arguments of `access.review`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReviewAccess {
    /// The store's name in the project file.
    pub store: String,
}

impl Request for ReviewAccess {
    const NAME: &'static str = "access.review";
    const SUMMARY: &'static str = "Find rights that are more than is needed, with the command that ends each";
    const EXAMPLE: &'static str = "steward store access review orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "store.read";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Rights, and whose.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Rights {
    /// Who gets or loses the rights; `PUBLIC` is everyone.
    pub role: String,
    /// The rights, such as `select`; `all` for all that the kind of object knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub privileges: Vec<String>,
    /// The kind of object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<AccessTarget>,
    /// The objects, such as `public.orders`; schemas for `all_tables` and its like; functions with their types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// Only these columns of the tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The membership in these roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_of: Vec<String>,
    /// Also for objects that are made later in the named schemas.
    #[serde(default)]
    pub with_defaults: bool,
    /// Whose later objects; without it, of the owners of what is there, or of all that have such a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl Rights {
    fn change(&self) -> AccessChange {
        AccessChange {
            role: self.role.clone(),
            privileges: words(&self.privileges),
            on: self.on,
            objects: self.objects.clone(),
            columns: self.columns.clone(),
            member_of: self.member_of.clone(),
            defaults: self.with_defaults,
            owner: self.owner.clone(),
            option: false,
            public: true,
            cascade: false,
        }
    }
}

/// Arguments of `access.grant`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantAccess {
    /// The store's name in the project file.
    pub store: String,
    /// Which rights, and whose.
    #[serde(flatten)]
    pub rights: Rights,
    /// Lets the role pass the rights or the membership on.
    #[serde(default)]
    pub with_option: bool,
    /// Says that everyone is meant, where the role is `PUBLIC`.
    #[serde(default)]
    pub public: bool,
}

impl Request for GrantAccess {
    const NAME: &'static str = "access.grant";
    const SUMMARY: &'static str = "Give a role rights, exactly these and with the way back";
    const EXAMPLE: &'static str = "steward store access grant orders reporting --privileges select --on all_tables --objects public --with-defaults";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "security.protocol.change";
    const POSITIONAL: &'static [&'static str] = &["store", "role"];
}

/// Arguments of `access.revoke`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeAccess {
    /// The store's name in the project file.
    pub store: String,
    /// Which rights, and whose.
    #[serde(flatten)]
    pub rights: Rights,
    /// Takes only the right to pass them on.
    #[serde(default)]
    pub only_option: bool,
    /// Also takes what the role has passed on to others.
    #[serde(default)]
    pub cascade: bool,
}

impl Request for RevokeAccess {
    const NAME: &'static str = "access.revoke";
    const SUMMARY: &'static str = "Take rights away, exactly these and with the way back";
    const EXAMPLE: &'static str =
        "steward store access revoke orders app --privileges truncate --on table --objects public.orders";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "security.protocol.change";
    const POSITIONAL: &'static [&'static str] = &["store", "role"];
}

/// `select,insert` and `select` `insert` say the same.
fn words(list: &[String]) -> Vec<String> {
    list.iter()
        .flat_map(|words| words.split(','))
        .map(|word| word.trim().to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

/// The operation that a grant asks for.
pub(crate) fn granting(request: &GrantAccess) -> Operation {
    let (option, public) = (request.with_option, request.public);
    Operation::Grant(AccessChange { option, public, ..request.rights.change() })
}

/// The operation that a revocation asks for.
pub(crate) fn revoking(request: &RevokeAccess) -> Operation {
    let (option, cascade) = (request.only_option, request.cascade);
    Operation::Revoke(AccessChange { option, cascade, ..request.rights.change() })
}

/// Plans to give rights. Only what is missing is given, so that the way back takes nothing else away.
///
/// # Errors
///
/// `Unsupported`: the store knows no roles. `NotFound`: no such role or object. `Invalid`: a right that the object
/// does not know; `PUBLIC` without saying so; superuser. `Denied`: no configured login may; the hint says who could.
pub async fn plan_grant(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &GrantAccess,
) -> Result<Considered, Error> {
    let operation = granting(request);
    operate::consider(ctx, stores, &request.store, GrantAccess::NAME, json!(request), &operation).await
}

/// Plans to take rights away. Rights that the role has from elsewhere stay, and the plan says which.
///
/// # Errors
///
/// As [`plan_grant`]; `Conflict`: others have the right from this role, and `cascade` was not said.
pub async fn plan_revoke(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &RevokeAccess,
) -> Result<Considered, Error> {
    let operation = revoking(request);
    operate::consider(ctx, stores, &request.store, RevokeAccess::NAME, json!(request), &operation).await
}

/// The store's role, or why there is none.
fn role(store: &dyn Store) -> Result<&dyn Access, Error> {
    store.access().ok_or_else(|| {
        store.unsupported(
            "store access",
            "a file has no roles: whoever may open it may do everything",
            "use file permissions: a user of its own with mode 0640, and its group for those who read",
        )
    })
}

/// Lists who may do what.
///
/// Value: `store` and the fields of [`AccessMap`]; with `role`, also `through[]`: the roles whose rights it has.
///
/// # Errors
///
/// `Unsupported`: the store knows no roles. `NotFound`: no such role or object. Otherwise from the store.
pub async fn list(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &ListAccess,
) -> Result<Outcome, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let (mut map, _) = read(&mut inquiry).await?;
    let mut through = Vec::new();
    if let Some(name) = &request.role {
        if name != "PUBLIC" && !map.roles.iter().any(|role| role.name == *name) {
            let names: Vec<&str> = map.roles.iter().map(|role| role.name.as_str()).collect();
            return Err(Error::new(ErrorKind::NotFound, format!("there is no role `{name}`"))
                .with("store", &request.store)
                .hint(format!("there are: {}", names.join(", "))));
        }
        let reached = reaches(&map, name);
        map.grants.retain(|grant| reached.contains(&grant.role));
        map.defaults.retain(|default| reached.contains(&default.role));
        map.ownership.retain(|owned| reached.contains(&owned.role));
        map.memberships.retain(|membership| reached.contains(&membership.member));
        map.roles.retain(|role| reached.contains(&role.name));
        through = reached.into_iter().filter(|role| role != name).collect();
    }
    if let Some(object) = &request.object {
        let within = format!("{object}.");
        map.grants.retain(|grant| grant.object == *object || grant.object.starts_with(&within));
        if map.grants.is_empty() {
            map.ownership.clear();
        }
        map.defaults.clear();
        map.ownership.retain(|owned| owned.examples.contains(object));
    }
    let mut value = json!(map);
    value["store"] = json!(request.store);
    if request.role.is_some() {
        value["through"] = json!(through);
    }
    let mut outcome = Outcome::new(value, list_text(&request.store, &map, request.object.is_some()));
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

async fn read(inquiry: &mut Inquiry<'_>) -> Result<(AccessMap, String), Error> {
    let started = Instant::now();
    let map = role(&*inquiry.store)?.access(inquiry.ctx).await?;
    let evidence = inquiry.note("access", json!(map), millis_since(started));
    Ok((map, evidence))
}

/// The role, everyone, and all roles whose rights it has or can take.
fn reaches(map: &AccessMap, name: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::from([name.to_owned(), "PUBLIC".to_owned()]);
    let mut next = vec![name.to_owned()];
    while let Some(member) = next.pop() {
        for membership in map.memberships.iter().filter(|membership| membership.member == member) {
            let useless = membership.inherit == Some(false) && membership.set == Some(false);
            if !useless && reached.insert(membership.role.clone()) {
                next.push(membership.role.clone());
            }
        }
    }
    reached
}

fn list_text(store: &str, map: &AccessMap, only_object: bool) -> String {
    let mut out = format!("{store}: {}", text::count(map.roles.len() as u64, "role"));
    let mut section = |title: &str, columns: &[&str], rows: Vec<Vec<Value>>| {
        if !rows.is_empty() {
            let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
            write!(out, "\n\n{title}\n{}", text::table(&columns, &rows)).expect(TO_STRING);
        }
    };
    if !only_object {
        let rows = map.roles.iter().map(|role| {
            let mut may = Vec::new();
            for (has, word) in [
                (role.superuser, "SUPERUSER"),
                (role.login, "log in"),
                (role.create_role, "create roles"),
                (role.create_database, "create databases"),
                (role.replication, "replicate"),
                (role.bypass_row_security, "bypass row security"),
            ] {
                may.extend(has.then_some(word));
            }
            let until = role.valid_until.as_deref().unwrap_or("");
            let until = if role.expired { format!("{until} (expired)") } else { until.to_owned() };
            vec![
                json!(role.name),
                json!(may.join(", ")),
                role.connections_max.map_or(json!(""), |max| json!(max.to_string())),
                json!(until),
                json!(role.objects_owned),
            ]
        });
        section("roles", &["role", "may", "sessions", "valid until", "owns"], rows.collect());
        let rows = map.memberships.iter().map(|membership| {
            let mut options = Vec::new();
            options.extend(membership.admin.then_some("may pass it on"));
            options.extend((membership.inherit == Some(false)).then_some("must ask (SET ROLE)"));
            options.extend((membership.set == Some(false)).then_some("cannot become it"));
            vec![
                json!(membership.member),
                json!(membership.role),
                json!(options.join(", ")),
                json!(membership.grantor),
            ]
        });
        section("memberships", &["member", "of", "", "given by"], rows.collect());
    }
    // One line for what is alike: the same rights of the same role on objects of one kind.
    let mut alike: BTreeMap<(&str, &str, String), Vec<&str>> = BTreeMap::new();
    for grant in &map.grants {
        let rights: Vec<String> = grant
            .privileges
            .iter()
            .map(|right| format!("{right}{}", if grant.grantable.contains(right) { "*" } else { "" }))
            .collect();
        alike.entry((&grant.role, &grant.kind, rights.join(", "))).or_default().push(&grant.object);
    }
    let rows = alike.into_iter().map(|((role, kind, rights), objects)| {
        let shown = match objects.as_slice() {
            [] => String::new(),
            [one] => (*one).to_owned(),
            [first, rest @ ..] if rest.len() > 3 => {
                format!("{first} and {} more", text::thousands(rest.len() as u64))
            }
            few => few.join(", "),
        };
        vec![json!(role), json!(rights), json!(kind), json!(shown)]
    });
    section("grants (* may be passed on)", &["role", "may", "on", "object"], rows.collect());
    let rows = map.defaults.iter().map(|default| {
        vec![
            json!(default.role),
            json!(default.privileges.join(", ")),
            json!(default.kind),
            json!(default.owner),
            json!(default.schema.as_deref().unwrap_or("(all)")),
        ]
    });
    section("on what is made later", &["role", "may", "on", "of", "in schema"], rows.collect());
    let rows = map.ownership.iter().map(|owned| {
        vec![json!(owned.role), json!(owned.objects), json!(owned.kind), json!(owned.examples.join(", "))]
    });
    section("owners", &["role", "owns", "kind", "such as"], rows.collect());
    if map.truncated {
        out.push_str("\n\n(there are more grants: ask for one `--role` or `--object`)");
    }
    out
}

/// Finds rights that are more than is needed.
///
/// Value: `store`, `roles`, `grants`, `problems[] {code, severity, title, object, fix}`, `not_seen[]`. Findings: the
/// problems; `not_seen` where our login could not look.
///
/// # Errors
///
/// `Unsupported`: the store knows no roles. Otherwise from the store.
pub async fn review(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &ReviewAccess,
) -> Result<Outcome, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let (map, map_evidence) = read(&mut inquiry).await?;
    let started = Instant::now();
    let (problems, not_seen) = role(&*inquiry.store)?.review(ctx, &map).await?;
    let evidence = inquiry.note(
        "access review",
        json!({"problems": problems, "not_seen": not_seen}),
        millis_since(started),
    );
    let value = json!({"store": request.store, "roles": map.roles.len(), "grants": map.grants.len(),
                       "problems": problems, "not_seen": not_seen});
    let mut findings: Vec<Finding> = problems
        .into_iter()
        .map(|problem| Finding {
            code: problem.code,
            severity: problem.severity,
            title: problem.title,
            object: problem.object,
            recommendation: Some(problem.fix),
            evidence: vec![map_evidence.clone(), evidence.clone()],
            escalate: None,
        })
        .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings.extend(not_seen.into_iter().map(|what| Finding {
        code: "not_seen".into(),
        severity: Severity::Info,
        title: what,
        object: String::new(),
        recommendation: None,
        evidence: vec![evidence.clone()],
        escalate: None,
    }));
    let mut out = format!(
        "{}: {}, {} looked at, {}",
        request.store,
        text::count(map.roles.len() as u64, "role"),
        text::count(map.grants.len() as u64, "grant"),
        match findings.iter().filter(|finding| finding.severity > Severity::Info).count() {
            0 => "nothing to change".to_owned(),
            n => text::count(n as u64, "finding"),
        }
    );
    for finding in &findings {
        let severity = match finding.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        };
        write!(out, "\n\n  {severity:<8}  {} ({})", finding.title, finding.code).expect(TO_STRING);
        if let Some(fix) = &finding.recommendation {
            write!(out, "\n            {fix}").expect(TO_STRING);
        }
    }
    let mut outcome = Outcome::new(value, out);
    outcome.findings = findings;
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}
