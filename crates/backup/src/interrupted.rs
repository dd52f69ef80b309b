//! Changes whose process died: what is there now, and a store that a restore was about to replace the one or the other.

use contract::{Context, Error, ErrorKind, Plan, Request as _, SwapLeft};
use jiff::Timestamp;

use crate::Surroundings;
use crate::restore::{RestoreBackup, RestoreTo};
use crate::run::{RunBackup, give_up_dead};

/// How an interrupted change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// All of it was done; only its end was not recorded.
    pub is_done: bool,
    /// What happened, for people.
    pub text: String,
}

/// Finds out how far a change came that was interrupted, and puts in order what it has left: nothing but a finished backup is
/// one, and a store that a restore was about to replace is either that copy or as before, under its name and open.
///
/// # Errors
///
/// As the ledger's and the store's.
pub async fn left(
    ctx: &Context,
    around: &dyn Surroundings,
    plan: &Plan,
    since: Timestamp,
) -> Result<Left, Error> {
    let given_up = give_up_dead(ctx, around).await?;
    let swapped = match plan.request.as_str() {
        RestoreBackup::NAME => swap_left(ctx, around, plan, since).await?,
        _ => None,
    };
    let (is_done, mut text) = match (swapped, plan.request.as_str()) {
        (Some(SwapLeft::InPlace(said)), _) => (true, said),
        (Some(SwapLeft::AsBefore(said)), _) => (false, said),
        (_, RunBackup::NAME) if given_up.is_empty() => {
            (false, "what it had made is kept; nothing else was begun".to_owned())
        }
        (_, RunBackup::NAME) => (false, String::new()),
        (Some(SwapLeft::Unknown), request) => (
            false,
            format!("nothing says how far `{request}` came; the store was not touched before the last step"),
        ),
        (None, request) => (false, format!("nothing says how far `{request}` came")),
    };
    if !given_up.is_empty() {
        let between = if text.is_empty() { "" } else { "; " };
        let did_not = format!("{between}{} did not come to its end and is no backup", given_up.join(", "));
        text.push_str(&did_not);
    }
    Ok(Left { is_done, text })
}

/// How a copy is called until it is in the store's place: by the newest part of the backup's id, which is what tells two apart.
pub(crate) fn copy_in_place(backup: &str) -> String {
    let from =
        (0..=backup.len().saturating_sub(12)).rev().find(|at| backup.is_char_boundary(*at)).unwrap_or(0);
    format!("restored_{}", &backup[from..])
}

/// What an interrupted restore has left of its swap; `None` where the plan is about no swap, or the store is not declared any
/// more. `since` is when it was begun.
async fn swap_left(
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
