//! Copies of the audit trail's signed head, kept where the machine's root cannot rewrite them.

use contract::{Actor, Context, Error, ErrorKind};
use serde_json::{Value, json};

use crate::door::Steward;
use crate::project::Project;

/// Copies the newest head to the places that the project file names; nothing is done when none is named.
///
/// # Errors
///
/// `Denied`: the file cannot be written. A webhook that cannot be reached does not fail the request that was done: it
/// is an escalation's delivery, which the daemon repeats.
pub(crate) async fn copy_head(steward: &Steward, project: &Project) -> Result<(), Error> {
    let audit = &project.loaded().config.audit;
    if audit.head_copy.is_none() && audit.head_webhook.is_none() {
        return Ok(());
    }
    let head_file = crate::door::head_file(steward.state());
    let Ok(head) = std::fs::read(&head_file) else { return Ok(()) };
    if let Some(copy) = &audit.head_copy {
        let to = project.loaded().dir.join(copy);
        if std::fs::read(&to).is_ok_and(|known| known == head) {
            return Ok(());
        }
        let new = to.with_extension("new");
        std::fs::write(&new, &head).and_then(|()| std::fs::rename(&new, &to)).map_err(|cause| {
            Error::new(ErrorKind::Denied, "cannot copy the audit head")
                .with("file", to.display())
                .with("key", "audit.head_copy")
                .because(cause)
                .hint("the request itself is done and recorded; make the place writable")
        })?;
    }
    if let Some(webhook) = &audit.head_webhook {
        let ctx =
            Context::new(project.name(), Actor::system()).with_timeout(std::time::Duration::from_secs(10));
        let head: Value = serde_json::from_slice(&head).unwrap_or(Value::Null);
        if let Err(error) =
            crate::daemon::post(steward, &ctx, project, webhook, &json!({ "audit_head": head })).await
        {
            tracing::warn!(webhook, error = steward.redact(&error.to_string()), "cannot send the audit head");
        }
    }
    Ok(())
}
