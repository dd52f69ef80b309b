//! Who asks.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Through which kind of identity a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// The command line without a proven identity. Holds no approving role, whatever the process says of itself.
    Local,
    /// A person who proved to hold their key.
    Person,
    /// A bearer token, usually an agent or a program.
    Agent,
    /// A schedule of the daemon.
    Schedule,
    /// Steward itself, such as when it resumes an interrupted change.
    System,
}

/// What someone may be asked for, in the mission's terms, and how far a token reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May ask for reads only.
    Reader,
    /// May ask for reads and changes; approves nothing.
    Requester,
    /// The project manager: retention, AI budget, and what nobody else decides.
    Pm,
    /// Data sharing between systems.
    Architect,
    /// Encryption and access control.
    Security,
    /// Infrastructure and system configuration.
    Ops,
    /// Application code.
    Engineer,
    /// Test files and data validation.
    Qa,
    /// Documentation content.
    Documentation,
}

impl Role {
    /// Every role, in the order of declaration.
    pub const ALL: [Role; 9] = [
        Role::Reader,
        Role::Requester,
        Role::Pm,
        Role::Architect,
        Role::Security,
        Role::Ops,
        Role::Engineer,
        Role::Qa,
        Role::Documentation,
    ];

    /// The name used in configuration, policies and output, such as `pm`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Requester => "requester",
            Role::Pm => "pm",
            Role::Architect => "architect",
            Role::Security => "security",
            Role::Ops => "ops",
            Role::Engineer => "engineer",
            Role::Qa => "qa",
            Role::Documentation => "documentation",
        }
    }

    /// The role with this name, if there is one.
    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who asks: an identity that Steward established, with the roles that it holds in the project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Actor {
    /// How the identity was established.
    pub kind: ActorKind,
    /// The person's, token's or schedule's name; `local` for the unproven command line.
    pub name: String,
    /// Roles held; empty for `local`, which may nevertheless ask for everything and approves nothing.
    pub roles: BTreeSet<Role>,
}

impl Actor {
    /// The command line without a proven identity.
    pub fn local() -> Self {
        Self { kind: ActorKind::Local, name: "local".into(), roles: BTreeSet::new() }
    }

    /// Steward itself.
    pub fn system() -> Self {
        Self { kind: ActorKind::System, name: "steward".into(), roles: BTreeSet::new() }
    }

    /// An actor of this kind and name with these roles.
    pub fn new(kind: ActorKind, name: impl Into<String>, roles: impl IntoIterator<Item = Role>) -> Self {
        Self { kind, name: name.into(), roles: roles.into_iter().collect() }
    }
}

/// `person:anna`, `agent:ci`, `local`.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ActorKind::Local => f.write_str("local"),
            ActorKind::Person => write!(f, "person:{}", self.name),
            ActorKind::Agent => write!(f, "agent:{}", self.name),
            ActorKind::Schedule => write!(f, "schedule:{}", self.name),
            ActorKind::System => f.write_str("steward"),
        }
    }
}
