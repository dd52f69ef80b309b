//! The PM's side: a task in, a plan of known requests, a report and escalations out.

mod acceptance;
mod expression;
mod intent;
mod prose;
mod runbook;
mod task;
mod words;
mod yaml;

pub use acceptance::Check;
pub use runbook::{Runbook, runbooks};
pub use task::{Autonomy, Form, Item, TASK_BYTES_MAX, Task};
