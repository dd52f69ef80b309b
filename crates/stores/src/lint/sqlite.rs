//! Verdicts about SQLite: one writer and no weaker locks, so they say what is lost, what fails and what old code meets.

use std::collections::BTreeSet;

use contract::Severity;
use schema::Schema;

use super::judge::{allow, one_line};
use super::lock::Blocking;
use super::operation::Script;
use super::rules::rule_of;
use super::verdict::{Remark, Verdict};
use crate::migration::risk::{Judge, Judgement, Risk};

/// Judges a file by the store's schema; `made` are the tables of the files before it.
pub(super) fn judge(script: &Script, schema: &Schema, made: &mut BTreeSet<String>) -> Vec<Verdict> {
    let mut judge = Judge::new(schema, std::mem::take(made));
    let mut verdicts: Vec<Verdict> = script
        .statements
        .iter()
        .map(|statement| {
            let judgement = judge.judge(&statement.sql);
            Verdict {
                line: statement.line,
                range: statement.range.clone(),
                statement: one_line(&statement.sql, 100),
                blocking: blocking(&judgement),
                locks: Vec::new(),
                work: Vec::new(),
                remarks: judgement.risks.iter().map(remark).collect(),
                assumed: Vec::new(),
            }
        })
        .collect();
    *made = judge.into_new_tables();
    verdicts.extend(super::judge::broken(script));
    allow(script, &mut verdicts);
    verdicts
}

/// How long the one write lock is held is not known here; a rewrite of the file holds it for as long as the file is large.
fn blocking(judgement: &Judgement) -> Blocking {
    let says = |rules: &[&str]| judgement.risks.iter().any(|risk| rules.contains(&risk.rule.as_str()));
    if says(&["unknown"]) {
        Blocking::Unjudged
    } else if says(&["fails_on_rows", "not_supported"]) {
        Blocking::Fails
    } else if says(&["rewrite"]) {
        Blocking::All
    } else if judgement.lock.is_some() {
        Blocking::Brief
    } else {
        Blocking::None
    }
}

/// The plan's risk under the linter's code, at most as bad as the linter's rule is.
fn remark(risk: &Risk) -> Remark {
    let code = match risk.rule.as_str() {
        "data_loss" | "data_change" => "data_loss",
        "fails_on_rows" => "required_column",
        "not_supported" | "unique_can_fail" => "fails",
        "no_effect" => "no_effect",
        "rewrite" => "rewrite",
        "rename_breaks_application" | "breaks_readers" => "old_code_breaks",
        "guard_removed" | "changes_rights" => "changes_rights",
        _ => "unknown_statement",
    };
    let most = rule_of(code).map_or(Severity::Critical, |rule| rule.severity);
    Remark {
        rule: code,
        severity: risk.severity.min(most),
        message: risk.note.clone(),
        object: String::new(),
        instead: Some(risk.advice.clone()),
        allowed: None,
    }
}
