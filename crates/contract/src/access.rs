//! Who may do what in a store.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Context, Error, Severity};

/// A role of the server: a login, a group, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessRole {
    /// Its name.
    pub name: String,
    /// May log in.
    pub login: bool,
    /// Bypasses all permission checks.
    pub superuser: bool,
    /// May create databases.
    pub create_database: bool,
    /// May create and change roles.
    pub create_role: bool,
    /// May stream the whole cluster.
    pub replication: bool,
    /// Row-level security does not apply to it.
    pub bypass_row_security: bool,
    /// Has the rights of its roles without asking for them.
    pub inherit: bool,
    /// Most sessions at once; `None` without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u32>,
    /// When its password expires, ISO 8601; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
    /// That time has passed: it can no longer log in by password.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
    /// Settings that its sessions begin with, such as `lock_timeout=5s`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
    /// Comes with the server, such as `pg_monitor`.
    pub predefined: bool,
    /// Objects of this database that belong to it.
    pub objects_owned: u64,
}

/// A role that is a member of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Membership {
    /// The role whose rights are passed on.
    pub role: String,
    /// Who gets them.
    pub member: String,
    /// May give the membership to others.
    pub admin: bool,
    /// Has the rights without asking; `None` where the server keeps this at the member (before 16).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherit: Option<bool>,
    /// May become the role; `None` where every member may (before 16).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<bool>,
    /// Who gave it.
    pub grantor: String,
}

/// Rights of one role on one object, from one grantor. What an owner has by owning is not listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Grant {
    /// `database`, `schema`, `table`, `column`, `sequence`, `function` or `parameter`.
    pub kind: String,
    /// The object, such as `public.orders` or `public.orders.email`.
    pub object: String,
    /// Who owns it.
    pub owner: String,
    /// Who has the rights; `PUBLIC` is everyone.
    pub role: String,
    /// The rights in the server's words, such as `SELECT`.
    pub privileges: Vec<String>,
    /// Those of them that may be passed on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grantable: Vec<String>,
    /// Who gave them.
    pub grantor: String,
}

/// Rights on objects that are yet to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DefaultGrant {
    /// Whose new objects.
    pub owner: String,
    /// In which schema; `None`: in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// `tables`, `sequences`, `functions`, `types`, `schemas` or `large_objects`.
    pub kind: String,
    /// Who gets the rights; `PUBLIC` is everyone.
    pub role: String,
    /// The rights.
    pub privileges: Vec<String>,
    /// Those of them that may be passed on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grantable: Vec<String>,
}

/// How many objects of a kind belong to a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ownership {
    /// The owner.
    pub role: String,
    /// `database`, `schema`, `table`, `sequence` or `function`.
    pub kind: String,
    /// How many.
    pub objects: u64,
    /// The first few of them.
    pub examples: Vec<String>,
}

/// Everything that decides who may do what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessMap {
    /// All roles but predefined ones without members, by name.
    pub roles: Vec<AccessRole>,
    /// Who is a member of what.
    pub memberships: Vec<Membership>,
    /// Rights on objects of this database.
    pub grants: Vec<Grant>,
    /// Rights on objects yet to be made.
    pub defaults: Vec<DefaultGrant>,
    /// What belongs to whom.
    pub ownership: Vec<Ownership>,
    /// There were more grants than are listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Something about who may do what that should be different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessProblem {
    /// Stable name, such as `public_can_create`.
    pub code: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence with its numbers.
    pub title: String,
    /// The role or object.
    pub object: String,
    /// The command or SQL that ends it.
    pub fix: String,
}

/// What a change of rights is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessTarget {
    /// The database of the store.
    Database,
    /// Schemas.
    Schema,
    /// Tables, views and materialized views.
    Table,
    /// All tables of the named schemas.
    AllTables,
    /// Sequences.
    Sequence,
    /// All sequences of the named schemas.
    AllSequences,
    /// Functions and procedures.
    Function,
    /// All functions and procedures of the named schemas.
    AllFunctions,
}

/// A change of rights, to be given or taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessChange {
    /// Whose rights change; `PUBLIC` is everyone.
    pub role: String,
    /// The rights, such as `select`; `all` for all that the kind of object knows.
    pub privileges: Vec<String>,
    /// On what kind of object.
    pub on: Option<AccessTarget>,
    /// The objects; schemas for `AllTables` and its like.
    pub objects: Vec<String>,
    /// Only these columns of the tables.
    pub columns: Vec<String>,
    /// Roles whose member `role` becomes or ceases to be.
    pub member_of: Vec<String>,
    /// Also for objects yet to be made.
    pub defaults: bool,
    /// Whose objects yet to be made; without it those of the owners of what is there.
    pub owner: Option<String>,
    /// The right to pass the rights on; a revocation then takes only that.
    pub option: bool,
    /// `PUBLIC` is meant.
    pub public: bool,
    /// A revocation also takes what was passed on.
    pub cascade: bool,
}

/// Reads and judges who may do what; changes go through [`crate::Operate`].
#[async_trait]
pub trait Access: Send + Sync {
    /// Roles, memberships, grants, default privileges and ownership.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `TimedOut`, `Canceled`.
    async fn access(&self, ctx: &Context) -> Result<AccessMap, Error>;

    /// What of it is more than is needed, in the order of its severity; and what could not be seen by our login.
    ///
    /// # Errors
    ///
    /// As `access`.
    async fn review(
        &self,
        ctx: &Context,
        map: &AccessMap,
    ) -> Result<(Vec<AccessProblem>, Vec<String>), Error>;
}
