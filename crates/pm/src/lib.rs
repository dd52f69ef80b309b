//! The PM's side: a task in, a plan of known requests, a report and escalations out.

mod acceptance;
mod delivery;
mod escalation;
mod evaluate;
mod expression;
mod intent;
mod names;
mod plan;
mod prose;
mod record;
mod report;
mod request;
mod run;
mod runbook;
mod task;
mod words;
mod yaml;

pub use acceptance::{Check, Comparison, Subject};
pub use delivery::{Delivered, Sender, Webhook, deliver_due, sign};
pub use escalation::{Escalation, NewEscalation, acknowledge, list, raise};
pub use plan::{Defaults, Job, NotOurs, PlannedCheck, Question, TaskPlan, plan};
pub use record::{StepRecord, StepState, TaskRecord};
pub use report::{Accepted, Action, MigrationSummary, Report, ReportedFinding, Status};
pub use request::{
    AcknowledgeEscalation, ListInbox, ListTasks, PlanTask, ReportFormat, ResumeTask, RunTask, ShowReport,
    ShowTask, acknowledge_escalation, list_inbox, list_tasks, plan_task, resume_task, run_task, show_report,
    show_task,
};
pub use run::{Room, resume, run};
pub use runbook::{Runbook, runbooks};
pub use task::{Autonomy, Form, Item, TASK_BYTES_MAX, Task};
