//! A plan as people read it before they approve it.

use std::fmt::Write;

use contract::{Plan, Severity, StepMode};
use serde_json::Value;

use crate::migration;
use crate::text::{self, TO_STRING};

/// The plan with every statement, what it locks and loses, and the way back.
pub fn plan_text(plan: &Plan) -> String {
    let mut out = format!("{}\n  digest {}", plan.summary, plan.digest().short());
    for (i, step) in plan.steps.iter().enumerate() {
        let mode = match &step.mode {
            StepMode::Transaction => "one transaction".to_owned(),
            StepMode::Autocommit => "outside a transaction".to_owned(),
            StepMode::Batched(batches) => {
                format!("batches of {} by {}", batches.table, batches.key.join(", "))
            }
        };
        let mut notes = vec![mode];
        notes.extend(step.lock.as_ref().map(|lock| format!("locks {lock}")));
        notes.push(
            match (step.destructive, step.reversible) {
                (true, _) => "LOSES DATA",
                (false, true) => "can be taken back",
                (false, false) => "no way back",
            }
            .to_owned(),
        );
        write!(out, "\n\n{}. {} ({})", i + 1, step.title, notes.join(", ")).expect(TO_STRING);
        for statement in &step.statements {
            let sql = statement.sql.trim().replace('\n', "\n     ");
            write!(out, "\n     {sql};").expect(TO_STRING);
            if !statement.parameters.is_empty() {
                let values: Vec<String> = statement.parameters.iter().map(text::cell).collect();
                write!(out, "  -- {}", values.join(", ")).expect(TO_STRING);
            }
        }
    }
    let risks = migration::risks(plan);
    if !risks.is_empty() {
        out.push_str("\n\nrisks");
    }
    for placed in &risks {
        let severity = match placed.risk.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        };
        write!(
            out,
            "\n  {severity:<8}  {}:{}  {}\n            instead: {}",
            placed.file, placed.line, placed.risk.note, placed.risk.advice
        )
        .expect(TO_STRING);
    }
    if let Some(bytes) = plan.predicted.get("size_bytes").and_then(Value::as_u64) {
        write!(out, "\n\npredicted size: about {}", text::size(bytes)).expect(TO_STRING);
    }
    out
}
