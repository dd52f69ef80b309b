//! A restore in place whose process died: whether the copy is in the store's place, and if not, the store as it was.

use contract::{Context, Error, ErrorKind, Plan, SwapLeft};
use jiff::Timestamp;

use crate::Surroundings;
use crate::restore::{RestoreBackup, RestoreTo};

/// How a copy is called until it is in the store's place: by the newest part of the backup's id, which is what tells two apart.
pub(crate) fn copy_in_place(backup: &str) -> String {
    let from =
        (0..=backup.len().saturating_sub(12)).rev().find(|at| backup.is_char_boundary(*at)).unwrap_or(0);
    format!("restored_{}", &backup[from..])
}

/// What an interrupted restore has left of its swap; `None` where the plan is about no swap, or the store is not declared any
/// more. `since` is when it was begun.
pub(crate) async fn left(
    ctx: &Context,
    around: &dyn Surroundings,
    plan: &Plan,
    since: Timestamp,
) -> Result<Option<SwapLeft>, Error> {
    let request = serde_json::from_value::<RestoreBackup>(plan.arguments.clone());
    let in_place = request.is_ok_and(|request| request.to == RestoreTo::InPlace);
    let (Some(name), Some(backup), true) =
        (plan.target.strip_prefix("store:"), plan.predicted["backup"].as_str(), in_place)
    else {
        return Ok(None);
    };
    let store = match around.stores().open(ctx, name).await {
        Ok(store) => store,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match store.load() {
        Some(load) => load.settle_swap(ctx, &copy_in_place(backup), since).await.map(Some),
        None => Ok(None),
    }
}
