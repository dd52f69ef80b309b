//! The fingerprint of what a plan was made for.

use std::collections::BTreeMap;

use contract::{Error, Execute, Plan, PlanStep, canonical_json, sha256_hex};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::inquiry::Inquiry;
use crate::migration;
use crate::migration::risk::resolve;

/// What of a store a plan depends on; kept in the plan as `predicted.scope`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scope {
    /// Tables whose structure it depends on, as it writes them; `None` for the whole schema.
    pub(crate) tables: Option<Vec<String>>,
    /// Whether it depends on the migrations that have been applied.
    pub(crate) history: bool,
}

impl Scope {
    /// The scope that a plan carries; the whole store for a plan that carries none.
    pub(crate) fn of(plan: &Plan) -> Self {
        serde_json::from_value(plan.predicted["scope"].clone())
            .unwrap_or(Self { tables: None, history: true })
    }
}

impl Inquiry<'_> {
    /// The role that changes the store.
    pub(crate) fn execute(&self) -> Result<&dyn Execute, Error> {
        self.store.execute().ok_or_else(|| {
            self.store.unsupported("change", "this store takes no plans", "change it with its own tools")
        })
    }

    /// The fingerprint of the store within `scope`, for a plan with these steps.
    pub(crate) async fn pre_state(&mut self, scope: &Scope, steps: &[PlanStep]) -> Result<String, Error> {
        let ids: Vec<&str> = steps.iter().map(|step| step.id.as_str()).collect();
        let records = self.execute()?.records(self.ctx, &ids).await?;
        let structure = match &scope.tables {
            Some(names) if names.is_empty() => Value::Null,
            Some(names) => {
                let schema = self.schema().await?.0.structure();
                let tables: BTreeMap<&String, Value> = names
                    .iter()
                    .map(|name| {
                        let parts: Vec<String> = name.split('.').map(ToOwned::to_owned).collect();
                        (name, json!(schema.table(name).or_else(|| resolve(&schema, &parts))))
                    })
                    .collect();
                json!(tables)
            }
            None => json!(self.schema().await?.0.structure()),
        };
        let history = if scope.history { json!(migration::history::read(self).await?) } else { Value::Null };
        let state = json!({"structure": structure, "history": history, "records": records});
        Ok(sha256_hex(canonical_json(&state).as_bytes()))
    }
}
