//! What is asked of the matrix: an action, a resource, and facts that Steward itself found out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much hangs on a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Environment {
    /// A developer's own.
    Development,
    /// Made for tests, thrown away after them.
    Test,
    /// A rehearsal for production.
    Staging,
    /// What users depend on; also whatever the configuration does not name.
    #[default]
    Production,
}

impl Environment {
    /// Every environment.
    pub const ALL: [Environment; 4] =
        [Environment::Development, Environment::Test, Environment::Staging, Environment::Production];

    /// The name used in configuration, policies and output, such as `production`.
    pub fn as_str(self) -> &'static str {
        match self {
            Environment::Development => "development",
            Environment::Test => "test",
            Environment::Staging => "staging",
            Environment::Production => "production",
        }
    }

    /// The environment with this name, if there is one.
    pub fn parse(name: &str) -> Option<Environment> {
        Environment::ALL.into_iter().find(|environment| environment.as_str() == name)
    }
}

/// From this cost on, a change counts as major spending: 1,000 US dollars.
pub(crate) const MAJOR_COST_USD_NANOS: u64 = 1_000 * 1_000_000_000;

/// What Steward found out about a change; nothing in it comes from the caller.
///
/// The default is a harmless read in production.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Facts {
    /// Where the resource belongs. Default: production.
    pub environment: Environment,
    /// Data or objects are lost by it. Default: false.
    pub destructive: bool,
    /// The plan's undo brings everything back. Default: true.
    pub reversible: bool,
    /// Age in minutes of the newest backup of the resource that was restored and compared; `None`: there is none.
    pub verified_backup_minutes: Option<u64>,
    /// What it costs, in thousand-millionths of a US dollar.
    pub cost_usd_nanos: u64,
    /// What is left of the budget; `None`: no budget is set.
    pub budget_left_usd_nanos: Option<u64>,
    /// From this cost on it is major spending. Default: 1,000 US dollars.
    pub major_cost_usd_nanos: u64,
    /// Personal data is read out, moved or changed.
    pub personal_data: bool,
    /// The effect reaches beyond the project. A resource `project:x` of another project sets it as well.
    pub cross_project: bool,
    /// For `file.write`: the path in the project; taken from the resource `path:…` when absent.
    pub path: Option<String>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            environment: Environment::default(),
            destructive: false,
            reversible: true,
            verified_backup_minutes: None,
            cost_usd_nanos: 0,
            budget_left_usd_nanos: None,
            major_cost_usd_nanos: MAJOR_COST_USD_NANOS,
            personal_data: false,
            cross_project: false,
            path: None,
        }
    }
}

impl Facts {
    /// The same with what the plan itself says: whether it destroys, whether it can be undone, what it costs.
    #[must_use]
    pub fn of_plan(mut self, plan: &contract::Plan) -> Self {
        self.destructive |= plan.destructive();
        self.reversible &= plan.reversible();
        self.cost_usd_nanos = self.cost_usd_nanos.max(plan.cost_usd_nanos);
        self
    }
}

/// May this be done?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// An action of the catalogue, such as `schema.migrate`.
    pub action: String,
    /// On what, such as `store:orders`, `path:src/main.rs`, `project:shop`.
    pub resource: String,
    /// What Steward found out about it.
    pub facts: Facts,
}

impl Question {
    /// A question with the default facts: a harmless read.
    pub fn new(action: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { action: action.into(), resource: resource.into(), facts: Facts::default() }
    }

    /// The same with these facts.
    #[must_use]
    pub fn with_facts(mut self, facts: Facts) -> Self {
        self.facts = facts;
        self
    }
}
