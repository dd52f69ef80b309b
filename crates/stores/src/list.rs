//! Which stores a project has.

use contract::{Context, Effect, Error, Outcome, Request, StoreDirectory};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::text;

/// Arguments of `store.list`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListStores {}

impl Request for ListStores {
    const NAME: &'static str = "store.list";
    const SUMMARY: &'static str = "List the project's stores";
    const EXAMPLE: &'static str = "steward store list";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "store.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Lists the project's stores without connecting to any. Value: `stores[] {name, kind}`.
///
/// # Errors
///
/// None today.
#[allow(clippy::unused_async)] // Room functions are alike, so that the door calls them alike.
pub async fn list(ctx: &Context, stores: &dyn StoreDirectory, _: &ListStores) -> Result<Outcome, Error> {
    let stores = stores.list(ctx);
    let value: Vec<_> = stores.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
    if stores.is_empty() {
        return Ok(Outcome::new(json!({"stores": []}), "no stores; add one under `stores:` in steward.yaml"));
    }
    let rows: Vec<_> = stores.iter().map(|(name, kind)| vec![json!(name), json!(kind)]).collect();
    Ok(Outcome::new(json!({"stores": value}), text::table(&["store".into(), "kind".into()], &rows)))
}
