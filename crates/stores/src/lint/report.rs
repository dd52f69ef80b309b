//! Verdicts as text for people and as SARIF for code hosts.

use contract::Severity;
use serde_json::{Value, json};

use super::request::Judged;
use super::rules::RULES;
use super::verdict::Verdict;
use crate::text;

pub(super) fn text(files: &[Judged], connected: bool, store: Option<&str>) -> String {
    let mut lines = Vec::new();
    let (mut statements, mut hurting) = (0_u64, 0_u64);
    for file in files {
        lines.push(file.path.clone());
        for verdict in &file.verdicts {
            statements += 1;
            hurting += u64::from(verdict.blocking.hurts());
            statement(&mut lines, verdict);
        }
        for line in &file.idle_allowances {
            lines.push(format!("  {line}: `-- steward: allow` allows nothing"));
        }
    }
    let with = match (connected, store) {
        (true, Some(store)) => format!("with the catalog of `{store}`"),
        _ => "without a catalog: every table is taken for large; `--store NAME` asks".into(),
    };
    lines.push(format!(
        "{} in {}, {hurting} of them need a look; judged {with}",
        text::count(statements, "statement"),
        text::count(files.len() as u64, "file"),
    ));
    lines.join("\n") + "\n"
}

fn statement(lines: &mut Vec<String>, verdict: &Verdict) {
    lines.push(format!("  {}: {}", verdict.line, verdict.statement));
    let locks: Vec<String> =
        verdict.locks.iter().rev().map(|held| format!("{} {}", held.relation, held.lock)).collect();
    let locks = if locks.is_empty() { String::new() } else { format!("; locks {}", locks.join(", ")) };
    lines.push(format!("     {}{locks}", verdict.blocking));
    for remark in &verdict.remarks {
        let level = match (&remark.allowed, remark.severity) {
            (Some(_), _) => "allowed",
            (None, Severity::Critical) => "error",
            (None, Severity::Warning) => "warning",
            (None, Severity::Info) => "note",
        };
        lines.push(format!("     {level} {}: {}", remark.rule, remark.message));
        match (&remark.allowed, &remark.instead) {
            (Some(reason), _) => lines.push(format!("       because: {reason}")),
            (None, Some(instead)) if remark.severity > Severity::Info => {
                lines.push(format!("       instead: {instead}"));
            }
            _ => {}
        }
    }
    for assumed in &verdict.assumed {
        lines.push(format!("     assumed: {assumed}"));
    }
}

/// A SARIF 2.1.0 log with one run.
///
/// Source: OASIS, "Static Analysis Results Interchange Format (SARIF) Version 2.1.0".
pub(super) fn sarif(files: &[Judged], contents: &[&[u8]]) -> Value {
    let level = |severity: Severity| match severity {
        Severity::Critical => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    };
    let rules: Vec<Value> = RULES
        .iter()
        .map(|rule| {
            json!({
                "id": rule.code,
                "shortDescription": {"text": rule.summary},
                "help": {"text": rule.instead},
                "defaultConfiguration": {"level": level(rule.severity)},
            })
        })
        .collect();
    let mut results = Vec::new();
    for (file, content) in files.iter().zip(contents) {
        for verdict in &file.verdicts {
            for remark in &verdict.remarks {
                let index = RULES.iter().position(|rule| rule.code == remark.rule);
                let mut message = remark.message.clone();
                if let Some(instead) = &remark.instead {
                    message.push_str(". Instead: ");
                    message.push_str(instead);
                }
                let (end_line, end_column) = end(content, verdict);
                let mut result = json!({
                    "ruleId": remark.rule,
                    "ruleIndex": index,
                    "level": level(remark.severity),
                    "message": {"text": message},
                    "locations": [{"physicalLocation": {
                        "artifactLocation": {"uri": uri(&file.path)},
                        "region": {
                            "startLine": verdict.line,
                            "startColumn": start_column(content, verdict),
                            "endLine": end_line,
                            "endColumn": end_column,
                        },
                    }}],
                });
                if let Some(reason) = &remark.allowed {
                    result["suppressions"] = json!([{"kind": "inSource", "justification": reason}]);
                }
                results.push(result);
            }
        }
    }
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "steward migration lint",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

/// A relative path as a URI reference: what is not allowed in one is percent-encoded.
fn uri(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'-' | b'.' | b'_' | b'~' | b'/' => char::from(byte).to_string(),
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn column_of(content: &[u8], at: usize) -> usize {
    let before = String::from_utf8_lossy(&content[..at.min(content.len())]);
    before.rsplit('\n').next().unwrap_or_default().chars().count() + 1
}

fn start_column(content: &[u8], verdict: &Verdict) -> usize {
    column_of(content, verdict.range.start)
}

/// Line and column behind the statement's last character.
fn end(content: &[u8], verdict: &Verdict) -> (usize, usize) {
    let range = verdict.range.start.min(content.len())..verdict.range.end.min(content.len());
    let lines = content[range].split(|byte| *byte == b'\n').count() - 1;
    (verdict.line + lines, column_of(content, verdict.range.end))
}
