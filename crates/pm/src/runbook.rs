//! Runbooks: known jobs as versioned files, made of requests that the door decides one by one.

use std::collections::{BTreeMap, BTreeSet};

use contract::{Error, ErrorKind, RequestSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::expression;

/// Words and phrases by which a text is recognised, with their weights.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Single words; forms and slips of them count too.
    #[serde(default)]
    pub words: BTreeMap<String, f64>,
    /// Words that follow one another with at most two others between them.
    #[serde(default)]
    pub phrases: BTreeMap<String, f64>,
    /// Words that name a part of the job: a clause of nothing else belongs to it once it was asked for.
    #[serde(default)]
    pub parts: Vec<String>,
}

/// What kind of thing an input names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// One store of the project.
    Store,
    /// All stores that are named, or all there are.
    Stores,
    /// Queries by name, as an object of name to SQL.
    Queries,
    /// The last migration to apply; empty for all that are pending.
    Migration,
    /// A number, from the context under the input's own name or its default.
    Number,
    /// A word, such as the name of a role, likewise.
    Word,
}

/// Where an input may come from, tried in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A key in the task's context, such as `store: orders`.
    Context,
    /// A name in the task's text.
    Text,
    /// The project file.
    Project,
    /// The only one there is.
    Only,
    /// All there are.
    All,
    /// What the store says is pending.
    Pending,
    /// What the store itself counts of its statements.
    Statistics,
}

/// Something that the steps need to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its name in expressions.
    pub name: String,
    /// What it names.
    pub kind: InputKind,
    /// Where it may come from.
    pub from: Vec<Origin>,
    /// Who knows it when the task does not say: `engineer`, `ops`, `qa`, `security` or `pm`.
    pub ask: String,
    /// What to ask them.
    pub question: String,
    /// The value when the task does not say, for a number or a word.
    #[serde(default)]
    pub default: Option<Value>,
}

/// What must be true after a step, asked of its answer or of another read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// A read to ask; without it, the step's own answer is looked at.
    #[serde(default)]
    pub request: Option<String>,
    /// The read's arguments.
    #[serde(default)]
    pub arguments: BTreeMap<String, Value>,
    /// Expression over `answer` that must be true.
    pub expect: String,
}

/// What takes a step back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// The request; decided by the door like any other.
    pub request: String,
    /// Its arguments.
    #[serde(default)]
    pub arguments: BTreeMap<String, Value>,
}

/// One request of a runbook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Unique in the runbook.
    pub id: String,
    /// The request's name.
    pub request: String,
    /// Its arguments; texts of the form `{{ … }}` are expressions over inputs, `steps` and `item`.
    #[serde(default)]
    pub arguments: BTreeMap<String, Value>,
    /// Expression that gives a list: the step is done for each `item`.
    #[serde(default)]
    pub for_each: Option<String>,
    /// The items depend on one another: the first that is not done ends the list.
    #[serde(default)]
    pub in_order: bool,
    /// Expression: the step is skipped unless it is true.
    #[serde(default)]
    pub when: Option<String>,
    /// Expression over each `item`: it is left out when this is true.
    #[serde(default)]
    pub unless: Option<String>,
    /// Expression that must be true before the step; otherwise the step fails and nothing is asked.
    #[serde(default)]
    pub check: Option<String>,
    /// Steps that must be done before.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Earlier steps whose findings were about what this step does, and are settled once it is done.
    #[serde(default)]
    pub settles: Vec<String>,
    /// What must be true afterwards.
    #[serde(default)]
    pub verify: Option<Verify>,
    /// What takes it back when that is not so.
    #[serde(default)]
    pub undo: Option<Undo>,
    /// Codes of the findings that this step is about; the others are left out of the report. All without any.
    #[serde(default)]
    pub concerns: Vec<String>,
    /// Errors that are no failure of the task: the step is skipped, and the report says what could not be done.
    #[serde(default)]
    pub tolerates: Vec<Tolerated>,
    /// Why the step is there, in a sentence.
    pub reason: String,
}

/// An error that a step may end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerated {
    /// This kind of store cannot do it.
    Unsupported,
    /// No configured login may.
    Denied,
    /// It is gone by now.
    NotFound,
}

/// A check that a runbook brings along when the task gives none about the same thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// An acceptance check with `{{ … }}` in it.
    pub check: String,
    /// Expression that gives a list: one check for each `item`.
    #[serde(default)]
    pub for_each: Option<String>,
    /// Expression: no check unless it is true.
    #[serde(default)]
    pub when: Option<String>,
    /// It is about the effect of a change, and so says nothing where changes are only planned.
    #[serde(default)]
    pub after_change: bool,
}

/// A known job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runbook {
    /// Its name, such as `performance-review`.
    pub name: String,
    /// Grows with every change of the file.
    pub version: u32,
    /// What it is called in reports.
    pub title: String,
    /// What it does, in a clause that follows "Steward can".
    pub does: String,
    /// How it is recognised.
    pub intent: Intent,
    /// Runbooks whose work is part of this one.
    #[serde(default)]
    pub covers: Vec<String>,
    /// What it needs to know.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// What it does.
    pub steps: Vec<Step>,
    /// What whoever reads the report should know: what the job leaves out.
    #[serde(default)]
    pub notes: Vec<String>,
    /// When it is done.
    #[serde(default)]
    pub acceptance: Vec<Criterion>,
}

const AGENTS: [&str; 5] = ["engineer", "ops", "qa", "security", "pm"];

impl Runbook {
    /// Reads a runbook file.
    ///
    /// # Errors
    ///
    /// `Invalid`: not YAML, an unknown key, or something that `validate` refuses; with file and, where the
    /// YAML itself is at fault, line.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let options = serde_saphyr::options! { with_snippet: false };
        let runbook: Self = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let mut broken = Error::new(ErrorKind::Invalid, "not a runbook").with("file", file);
            if let Some(at) = error.location() {
                broken = broken.with("line", at.line());
            }
            broken.with("reason", error.render_with_formatter(&serde_saphyr::UserMessageFormatter))
        })?;
        runbook.validate().map_err(|error| error.with("file", file))?;
        Ok(runbook)
    }

    fn validate(&self) -> Result<(), Error> {
        let wrong =
            |message: String| Err(Error::new(ErrorKind::Invalid, message).with("runbook", &self.name));
        if self.version == 0 || self.steps.is_empty() {
            return wrong("a runbook has a version from 1 and at least one step".into());
        }
        for input in &self.inputs {
            if !AGENTS.contains(&input.ask.as_str()) {
                return wrong(format!("`{}` cannot be asked; ask one of {}", input.ask, AGENTS.join(", ")));
            }
        }
        let mut known = BTreeSet::new();
        for step in &self.steps {
            if !known.insert(step.id.as_str()) {
                return wrong(format!("step `{}` is there twice", step.id));
            }
            if let Some(need) =
                step.needs.iter().find(|need| !known.contains(need.as_str()) || **need == step.id)
            {
                return wrong(format!("step `{}` needs `{need}`, which is not an earlier step", step.id));
            }
            let mut expressions: Vec<&str> = Vec::new();
            expressions.extend(
                [&step.for_each, &step.when, &step.unless, &step.check]
                    .into_iter()
                    .flatten()
                    .map(String::as_str),
            );
            expressions.extend(step.verify.as_ref().map(|verify| verify.expect.as_str()));
            for text in expressions {
                expression::compiles(text).map_err(|error| error.with("step", &step.id))?;
            }
            let arguments = step
                .arguments
                .values()
                .chain(step.verify.iter().flat_map(|verify| verify.arguments.values()))
                .chain(step.undo.iter().flat_map(|undo| undo.arguments.values()));
            for value in arguments {
                expression::template_compiles(value).map_err(|error| error.with("step", &step.id))?;
            }
        }
        Ok(())
    }

    /// Refuses a runbook that names a request which the door does not have.
    ///
    /// # Errors
    ///
    /// `Invalid`: names runbook, step and request.
    pub fn validate_requests(&self, requests: &[RequestSpec]) -> Result<(), Error> {
        for step in &self.steps {
            let names = [
                Some(&step.request),
                step.verify.as_ref().and_then(|verify| verify.request.as_ref()),
                step.undo.as_ref().map(|undo| &undo.request),
            ];
            for name in names.into_iter().flatten() {
                if !requests.iter().any(|request| request.name == name) {
                    return Err(Error::new(ErrorKind::Invalid, format!("there is no request `{name}`"))
                        .with("runbook", &self.name)
                        .with("step", &step.id));
                }
            }
        }
        Ok(())
    }

    /// `performance-review@1`.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// The runbooks that Steward comes with.
///
/// # Errors
///
/// `Invalid`: a file of the program itself is at fault; a test reads them all.
pub fn runbooks() -> Result<Vec<Runbook>, Error> {
    [
        ("inventory.yaml", include_str!("../runbooks/inventory.yaml")),
        ("performance-review.yaml", include_str!("../runbooks/performance-review.yaml")),
        ("safe-schema-change.yaml", include_str!("../runbooks/safe-schema-change.yaml")),
        ("consistency-check.yaml", include_str!("../runbooks/consistency-check.yaml")),
        ("production-shape.yaml", include_str!("../runbooks/production-shape.yaml")),
        ("bloat.yaml", include_str!("../runbooks/bloat.yaml")),
        ("lock-pile-up.yaml", include_str!("../runbooks/lock-pile-up.yaml")),
        ("connection-storm.yaml", include_str!("../runbooks/connection-storm.yaml")),
        ("disk-pressure.yaml", include_str!("../runbooks/disk-pressure.yaml")),
        ("backup.yaml", include_str!("../runbooks/backup.yaml")),
    ]
    .into_iter()
    .map(|(file, text)| Runbook::parse(file, text))
    .collect()
}

/// What follows when a text is about someone else's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ruling {
    /// The mission forbids it: another agent owns it.
    Refuse,
    /// The mission says that it cannot be decided alone.
    Escalate,
    /// The data engineer's work, without a runbook so far.
    Ask,
}

/// Work that no runbook does, and whose it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Territory {
    pub(crate) name: String,
    /// What the mission calls it.
    pub(crate) title: String,
    /// The agent that owns or decides it.
    pub(crate) owner: String,
    pub(crate) ruling: Ruling,
    pub(crate) intent: Intent,
}

/// The territories, from `runbooks/territories.yaml`.
pub(crate) fn territories() -> Vec<Territory> {
    serde_saphyr::from_str(include_str!("../runbooks/territories.yaml"))
        .expect("the file is part of the program and a test reads it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_runbooks_and_territories_are_valid() {
        let names: Vec<String> = runbooks().unwrap().iter().map(Runbook::reference).collect();
        assert_eq!(
            names,
            [
                "inventory@1",
                "performance-review@2",
                "safe-schema-change@2",
                "consistency-check@1",
                "production-shape@1",
                "bloat@1",
                "lock-pile-up@1",
                "connection-storm@1",
                "disk-pressure@1",
                "backup@1"
            ]
        );
        assert!(territories().iter().any(|territory| territory.ruling == Ruling::Refuse));
    }

    #[test]
    fn mistakes_in_a_runbook_are_named() {
        let good = include_str!("../runbooks/consistency-check.yaml");
        for (from, to, part) in [
            ("version: 1", "version: 0", "a version from 1"),
            ("version: 1", "version: 1\nverison: 2", "verison"),
            ("ask: engineer", "ask: nobody", "`nobody` cannot be asked"),
            ("{{ store }}", "{{ store", "`{{ store`"),
            ("- id: orphans", "- id: inspect", "step `inspect` is there twice"),
        ] {
            assert!(good.contains(from), "{from}");
            let error = Runbook::parse("x.yaml", &good.replace(from, to)).expect_err(to);
            assert!(error.to_string().contains(part), "{to}: {error}");
        }
    }
}
