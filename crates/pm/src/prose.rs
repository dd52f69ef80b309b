//! The prose form of a task, as a PM agent delegates it, and plain sentences.

use contract::Error;
use serde_json::Value;

use crate::acceptance::Check;
use crate::task::{self, Autonomy, Form, Item, Section, Task};

/// Reads headings with what stands below them; a text without headings is one section of sentences.
///
/// Prose is never refused for its form: what is not understood is kept.
///
/// # Errors
///
/// `Invalid`: an acceptance check under its own heading cannot be read.
pub(crate) fn parse(source: &str, text: &str) -> Result<Task, Error> {
    let (lead, sections) = sections(text);
    let mut task = Task::empty(if sections.is_empty() { Form::Text } else { Form::Prose });
    for sentence in sentences(&lead) {
        task.task.push(Item::Text(sentence));
    }
    for (heading, line, body) in sections {
        let key = task::normal(&heading);
        let one_line = body.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        match key.as_str() {
            "data_engineer_agent"
            | "data_engineer"
            | "steward"
            | "title"
            | "summary"
            | "goal"
            | "objective" => {
                task.title = task::shorten(one_line, 200);
                // What follows the title line is part of the assignment.
                let rest = body.split_once('\n').map(|(_, rest)| rest).unwrap_or_default();
                task.task.extend(points(rest));
            }
            "task" | "tasks" | "assignment" | "request" | "instructions" | "requirements" | "what" => {
                task.task.extend(points(&body));
            }
            "context" | "background" | "details" | "data" | "temporal_context" => {
                if key == "temporal_context" {
                    task.sections.push(Section { heading, text: body.trim().to_owned() });
                } else {
                    task.context.extend(points(&body));
                }
            }
            "standards" | "constraints" | "rules" => task.standards.extend(points(&body)),
            "previous_learning" | "lessons" | "learnings" => task.previous_learning.extend(points(&body)),
            "ticket_reference" | "ticket" | "ticket_ref" | "issue" => {
                task.ticket =
                    Some(task::shorten(one_line.trim_matches(['`', '*']), 120)).filter(|t| !t.is_empty());
            }
            "project" => task.project = Some(one_line.trim_matches('`').to_owned()).filter(|p| !p.is_empty()),
            "environment" => task.environment = Some(one_line.trim_matches('`').to_owned()),
            "store" => task.context.push(Item::Pair { key, value: one_line.trim_matches('`').into() }),
            "id" | "task_id" => {
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                task.id = Some(one_line.chars().filter(|c| fits(*c)).take(64).collect::<String>())
                    .filter(|id: &String| !id.is_empty());
            }
            "autonomy" => {
                if let Some(autonomy) = task::autonomy(one_line.trim_matches('`')) {
                    task.autonomy = autonomy;
                } else {
                    task.autonomy = Autonomy::PlanOnly;
                    task.notes.push(format!(
                        "`{one_line}` is not an autonomy; taken as `plan_only`, the most careful one"
                    ));
                }
            }
            "deadline" => match task::deadline(one_line) {
                Ok(time) => task.deadline = Some(time),
                Err(hint) => {
                    task.notes.push(format!("the deadline `{one_line}` is not kept track of: {hint}"));
                }
            },
            "budget" | "budget_usd" => {
                let amount: String = one_line.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
                task.budget_usd = amount.parse().ok();
            }
            "acceptance" | "acceptance_criteria" | "acceptance_checks" => {
                for item in points(&body) {
                    let text = item.text();
                    match Check::parse(text.trim_matches('`')) {
                        Ok(check) => task.acceptance.push(check),
                        Err(error) if text.contains(['(', '<', '>', '=']) => {
                            return Err(error.with("file", source).with("line", line).with("key", heading));
                        }
                        Err(_) => task.expected_results.push(text),
                    }
                }
            }
            "expected_results" | "expected_result" | "expected_outcome" | "deliverables" | "done_when" => {
                for item in points(&body) {
                    let text = item.text();
                    match Check::parse(text.trim_matches('`')) {
                        Ok(check) => task.acceptance.push(check),
                        Err(_) => task.expected_results.push(text),
                    }
                }
            }
            "authority" | "permissions" | "approval" | "approvals" => {
                task.notes.push(format!(
                    "`{heading}` in the text grants nothing; the authority matrix decides every step"
                ));
                task.sections.push(Section { heading, text: body.trim().to_owned() });
            }
            _ => task.sections.push(Section { heading, text: body.trim().to_owned() }),
        }
    }
    // A heading nobody knows may still hold the assignment.
    if task.task.is_empty() && task.title.is_empty() {
        for section in &task.sections {
            task.task.extend(points(&section.text));
        }
    }
    Ok(task)
}

/// The text before the first heading, and each heading with the line it stands on and what follows.
fn sections(text: &str) -> (String, Vec<(String, usize, String)>) {
    let mut lead = String::new();
    let mut sections: Vec<(String, usize, String)> = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        let is_fence = line.trim_start().starts_with("```");
        let heading = if fenced || is_fence { None } else { heading(line) };
        fenced ^= is_fence;
        match (heading, sections.last_mut()) {
            (Some((name, rest)), _) => sections.push((name, number + 1, format!("{rest}\n"))),
            (None, Some((_, _, body))) => {
                body.push_str(line);
                body.push('\n');
            }
            (None, None) => {
                lead.push_str(line);
                lead.push('\n');
            }
        }
    }
    (lead, sections)
}

/// `**Task**: text`, `## Task`, `TEMPORAL CONTEXT: text`, or a known heading with a colon.
fn heading(line: &str) -> Option<(String, String)> {
    let trimmed = line.trim();
    if let Some(title) = trimmed.strip_prefix('#') {
        let title = title.trim_start_matches('#').trim();
        let (name, rest) = title.split_once(':').unwrap_or((title, ""));
        return is_name(name).then(|| (plain(name), rest.trim().to_owned()));
    }
    if let Some((name, rest)) = trimmed.strip_prefix("**").and_then(|bold| bold.split_once("**")) {
        let inside = name.trim_end().ends_with(':');
        let name = name.trim_end().trim_end_matches(':');
        let rest = rest.trim_start();
        if is_name(name) && (inside || rest.is_empty() || rest.starts_with([':', '-', '–'])) {
            return Some((plain(name), rest.trim_start_matches([':', '-', '–']).trim().to_owned()));
        }
        return None;
    }
    let (name, rest) = trimmed.split_once(':')?;
    let known = [
        "data engineer agent",
        "task",
        "tasks",
        "context",
        "temporal context",
        "ticket",
        "ticket reference",
        "authority",
        "expected results",
        "progress reporting",
        "escalation",
        "standards",
        "previous learning",
        "acceptance",
        "autonomy",
        "project",
        "environment",
        "deadline",
        "store",
    ];
    let shouted = name.len() > 3 && name.chars().all(|c| c.is_ascii_uppercase() || c == ' ' || c == '_');
    let unindented = !line.starts_with([' ', '\t', '-', '*']);
    (unindented && (shouted || known.contains(&name.to_lowercase().as_str())))
        .then(|| (plain(name), rest.trim().to_owned()))
}

fn is_name(name: &str) -> bool {
    let name = name.trim();
    !name.is_empty() && name.chars().count() <= 60 && name.split_whitespace().count() <= 6
}

fn plain(name: &str) -> String {
    name.trim().trim_matches(['*', '_', '`']).trim().to_owned()
}

/// The points of a section: one per bullet, a fenced block belonging to the point before it; otherwise sentences.
fn points(body: &str) -> Vec<Item> {
    let mut points: Vec<String> = Vec::new();
    let mut open = false;
    let mut fenced = false;
    for line in body.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with("```") {
            fenced = !fenced;
            append(&mut points, trimmed, "\n");
            open = true;
            continue;
        }
        if fenced {
            append(&mut points, line, "\n");
        } else if trimmed.is_empty() {
            open = false;
        } else if let Some(bullet) = bullet(trimmed) {
            points.push(bullet.to_owned());
            open = true;
        } else if open {
            append(&mut points, trimmed, " ");
        } else {
            points.push(trimmed.to_owned());
            open = true;
        }
    }
    let mut items = Vec::new();
    for point in points {
        match keyed(&point) {
            Some(item) => items.push(item),
            None => items.extend(sentences(&point).into_iter().map(Item::Text)),
        }
    }
    items
}

fn append(points: &mut Vec<String>, text: &str, glue: &str) {
    match points.last_mut() {
        Some(last) => {
            last.push_str(glue);
            last.push_str(text);
        }
        None => points.push(text.to_owned()),
    }
}

fn bullet(line: &str) -> Option<&str> {
    for mark in ["- [ ] ", "- [x] ", "- ", "* ", "+ ", "• "] {
        if let Some(rest) = line.strip_prefix(mark) {
            return Some(rest.trim());
        }
    }
    let digits = line.chars().take_while(char::is_ascii_digit).count();
    let rest = &line[digits..];
    (digits > 0 && digits < 4).then(|| rest.strip_prefix(". ").or_else(|| rest.strip_prefix(") "))).flatten()
}

/// `Store: orders` and `Query: SELECT …` as a key with its value; any other colon is part of a sentence.
fn keyed(point: &str) -> Option<Item> {
    let (key, value) = point.split_once(':')?;
    let key = task::normal(key.trim_matches(['*', '`']));
    let known = [
        "store",
        "stores",
        "database",
        "table",
        "tables",
        "query",
        "queries",
        "migration",
        "column",
        "columns",
    ];
    let named_query = key.starts_with("query_") || key.ends_with("_query");
    let value = unquoted(value);
    (!value.is_empty() && (known.contains(&key.as_str()) || named_query))
        .then(|| Item::Pair { key, value: Value::String(value) })
}

/// Without bold marks, backticks or a fence around it.
fn unquoted(value: &str) -> String {
    let value = value.trim().trim_matches('*').trim();
    if let Some(fenced) = value.strip_prefix("```") {
        let inside = fenced.split_once('\n').map_or(fenced, |(_, inside)| inside);
        return inside.trim().trim_end_matches("```").trim().to_owned();
    }
    value.trim_matches('`').trim().to_owned()
}

/// The sentences of a text. Backticks, quotes and fences are not cut.
pub(crate) fn sentences(text: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut sentence = String::new();
    let mut fence = false;
    let mut ticks = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        sentence.push(c);
        if c == '`' {
            if sentence.ends_with("```") {
                fence = !fence;
                ticks = false;
            } else if !fence {
                ticks = !ticks;
            }
        }
        let next_is_space = chars.peek().is_none_or(|next| next.is_whitespace());
        let ends = matches!(c, '.' | '!' | '?' | ';') && next_is_space && !ends_short(&sentence);
        let paragraph = c == '\n' && (chars.peek() == Some(&'\n') || next_line_is_bullet(chars.clone()));
        if !fence && !ticks && (ends || paragraph) {
            push(&mut sentences, &sentence);
            sentence.clear();
        }
    }
    push(&mut sentences, &sentence);
    sentences
}

fn next_line_is_bullet(chars: impl Iterator<Item = char>) -> bool {
    let line: String = chars.take_while(|c| *c != '\n').take(8).collect();
    bullet(line.trim_start()).is_some()
}

/// `e.g.` and the like do not end a sentence.
fn ends_short(sentence: &str) -> bool {
    let last = sentence.split_whitespace().next_back().unwrap_or_default().to_lowercase();
    ["e.g.", "i.e.", "etc.", "vs.", "no.", "approx."].contains(&last.as_str())
}

fn push(sentences: &mut Vec<String>, sentence: &str) {
    let sentence = sentence.trim();
    let sentence = bullet(sentence).unwrap_or(sentence).trim_end_matches(';').trim();
    if !sentence.is_empty() {
        sentences.push(sentence.to_owned());
    }
}
