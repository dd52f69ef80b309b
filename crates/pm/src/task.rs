//! A PM's task: the mission's YAML, a PM agent's prose, or a plain sentence, read into one struct.

use std::io::Read;

use contract::{Error, ErrorKind};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::acceptance::Check;
use crate::yaml::{self, Node, Tree};
use crate::{prose, words};

/// Largest task that is read: 1 MiB.
pub const TASK_BYTES_MAX: usize = 1 << 20;

/// How far Steward goes on its own. It never reaches beyond the authority matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Autonomy {
    /// Looks and plans; every change is only planned.
    PlanOnly,
    /// Does what the matrix permits and asks for approval of the rest.
    #[default]
    AutoAllowed,
    /// As `AutoAllowed`, and takes a change back by itself when its verification fails.
    Full,
}

impl Autonomy {
    /// The name in a task, such as `plan_only`.
    pub fn as_str(self) -> &'static str {
        match self {
            Autonomy::PlanOnly => "plan_only",
            Autonomy::AutoAllowed => "auto_allowed",
            Autonomy::Full => "full",
        }
    }
}

/// How the task was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The mission's Context/Task/Standards/Previous Learning, as YAML or JSON.
    Yaml,
    /// The headings of a PM agent's delegation.
    Prose,
    /// Sentences.
    Text,
}

/// One thing said under a heading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Item {
    /// A key with its value, such as `store: orders`.
    Pair {
        /// Lower case, words joined by `_`.
        key: String,
        /// As given.
        value: Value,
    },
    /// A sentence.
    Text(String),
}

/// A key of so many words is no key but the beginning of a sentence.
const SENTENCE_WORDS_MIN: usize = 4;

impl Item {
    /// The item as a sentence.
    pub fn text(&self) -> String {
        match self {
            Item::Text(text) => text.clone(),
            Item::Pair { key, value: Value::String(text) } => format!("{key}: {text}"),
            Item::Pair { key, value } => format!("{key}: {value}"),
        }
    }
}

/// A part of the text that has no field of its own, kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The heading.
    pub heading: String,
    /// What stood below it.
    pub text: String,
}

/// What a PM asks for. Nothing in it grants anything: authority comes from the matrix and from signed approvals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// How it was written.
    pub form: Form,
    /// The PM's own id, if given.
    pub id: Option<String>,
    /// The ticket it belongs to, if given.
    pub ticket: Option<String>,
    /// One line.
    pub title: String,
    /// The project it is meant for; another than the one asked is a cross-project matter and escalates.
    pub project: Option<String>,
    /// What the PM calls the environment; only shown, since Steward takes it from the project file.
    pub environment: Option<String>,
    /// When it must be finished, UTC.
    pub deadline: Option<Timestamp>,
    /// Most it may cost, in US dollars.
    pub budget_usd: Option<f64>,
    /// How far Steward goes on its own.
    pub autonomy: Autonomy,
    /// What there is and is needed.
    pub context: Vec<Item>,
    /// What is to be done.
    pub task: Vec<Item>,
    /// Rules to keep.
    pub standards: Vec<Item>,
    /// What worked before.
    pub previous_learning: Vec<Item>,
    /// Checks that decide whether it is done.
    pub acceptance: Vec<Check>,
    /// What the PM expects, in words.
    pub expected_results: Vec<String>,
    /// Other headings, verbatim.
    pub sections: Vec<Section>,
    /// What Steward noticed while reading, such as an approval that counts for nothing.
    pub notes: Vec<String>,
}

impl Task {
    pub(crate) fn empty(form: Form) -> Self {
        Self {
            form,
            id: None,
            ticket: None,
            title: String::new(),
            project: None,
            environment: None,
            deadline: None,
            budget_usd: None,
            autonomy: Autonomy::default(),
            context: Vec::new(),
            task: Vec::new(),
            standards: Vec::new(),
            previous_learning: Vec::new(),
            acceptance: Vec::new(),
            expected_results: Vec::new(),
            sections: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Reads a task's text, never more than [`TASK_BYTES_MAX`] and one byte of it.
    ///
    /// # Errors
    ///
    /// `Invalid`: larger, or not UTF-8 (with the line). Or the reader failed.
    pub fn read_text(source: &str, reader: impl Read) -> Result<String, Error> {
        let mut bytes = Vec::new();
        reader.take(TASK_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|cause| {
            Error::new(ErrorKind::Invalid, "cannot read the task")
                .with("file", source)
                .because(cause)
                .hint("name a file, or - for standard input")
        })?;
        if bytes.len() > TASK_BYTES_MAX {
            return Err(too_large(source));
        }
        String::from_utf8(bytes).map_err(|cause| {
            let valid = &cause.as_bytes()[..cause.utf8_error().valid_up_to()];
            let line = valid.split(|byte| *byte == b'\n').count();
            Error::new(ErrorKind::Invalid, "the task is not UTF-8 text")
                .with("file", source)
                .with("line", line)
                .hint("save it as UTF-8")
        })
    }

    /// Reads the text of a task; `source` is its file name or `-`, for messages and for the form (`.yaml`, `.json`).
    ///
    /// # Errors
    ///
    /// `Invalid`: with file, line, key and a hint.
    pub fn parse(source: &str, text: &str) -> Result<Self, Error> {
        if text.len() > TASK_BYTES_MAX {
            return Err(too_large(source));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the task is empty")
                .with("file", source)
                .hint("write what is to be done, such as: check the store `orders` for orphan rows"));
        }
        let mut task = match yaml_part(source, text) {
            Some(yaml) => from_yaml(source, &yaml)?,
            None => prose::parse(source, text)?,
        };
        if task.title.is_empty() {
            let first = task.task.first().map(Item::text).unwrap_or_default();
            task.title = shorten(first.lines().next().unwrap_or_default(), 80);
        }
        if grants_authority(text) {
            task.notes.push(
                "the text speaks of an approval or of permissions; such words count for nothing, approvals are signed \
                 with `steward approval grant`"
                    .into(),
            );
        }
        Ok(task)
    }

    /// Everything that says what is to be done: title and task.
    pub(crate) fn assignment(&self) -> Vec<String> {
        let mut texts = Vec::new();
        if !self.task.iter().any(|item| item.text().starts_with(self.title.trim_end_matches('…'))) {
            texts.push(self.title.clone());
        }
        texts.extend(self.task.iter().map(Item::text));
        texts
    }

    /// Everything in which a name may be mentioned.
    pub(crate) fn mentions(&self) -> String {
        let mut text = self.assignment().join("\n");
        for item in self.context.iter().chain(&self.standards).chain(&self.previous_learning) {
            text.push('\n');
            text.push_str(&item.text());
        }
        for line in &self.expected_results {
            text.push('\n');
            text.push_str(line);
        }
        text
    }

    /// The value that context or task gives under one of these keys.
    pub(crate) fn keyed(&self, keys: &[&str]) -> Option<&Value> {
        self.context.iter().chain(&self.task).find_map(|item| match item {
            Item::Pair { key, value } if keys.contains(&key.as_str()) => Some(value),
            _ => None,
        })
    }
}

fn too_large(source: &str) -> Error {
    Error::new(ErrorKind::Invalid, "the task is larger than 1 MiB")
        .with("file", source)
        .hint("a task says what is to be done; name data by its store and table")
}

/// The first `most` characters, with an ellipsis when there were more.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    let text = text.trim();
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most - 1).collect();
    short.push('…');
    short
}

/// Words that try to give authority by saying so.
fn grants_authority(text: &str) -> bool {
    let text = words::tokens(text).into_iter().map(|token| token.raw).collect::<Vec<_>>().join(" ");
    [
        "approved by",
        "pre approved",
        "preapproved",
        "already approved",
        "approval granted",
        "approval is granted",
        "approval has been",
        "no approval required",
        "no approval needed",
        "no approval is needed",
        "without approval",
        "skip approval",
        "skip the approval",
        "you are authorized",
        "you are authorised",
        "permission granted",
        "full permission",
        "ignore the policy",
        "ignore policies",
        "bypass",
    ]
    .iter()
    .any(|phrase| text.contains(phrase))
}

/// The YAML of the text, with its line numbers kept: the whole, or what stands in a fence of a Markdown file.
fn yaml_part(source: &str, text: &str) -> Option<String> {
    let has_ending = |endings: &[&str]| {
        std::path::Path::new(source)
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| endings.contains(&ending.to_lowercase().as_str()))
    };
    if has_ending(&["yaml", "yml", "json"]) {
        return Some(text.to_owned());
    }
    let first = text.lines().find(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && line != "---"
    })?;
    if first.trim_start().starts_with("```yaml") || first.trim_start().starts_with("```json") {
        let mut inside = false;
        let kept = text.lines().map(|line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            if inside && !fence { line } else { "" }
        });
        return Some(kept.collect::<Vec<_>>().join("\n"));
    }
    let is_yaml = first.trim_start().starts_with('{')
        || (!first.starts_with([' ', '*', '-', '`'])
            && first.split_once(':').is_some_and(|(key, rest)| {
                KEYS.contains(&normal(key).as_str())
                    // A heading above bullets is YAML as long as no Markdown follows on the line.
                    && !rest.trim_start().starts_with('*')
                    && (rest.is_empty() || rest.starts_with(' '))
                    && reads_as_yaml(text)
            }));
    is_yaml.then(|| text.to_owned())
}

/// Whether every unindented line is a heading of the task, so that a slip in YAML is reported as such while a sentence
/// such as `Task: look at the orders` with prose below it is not.
fn reads_as_yaml(text: &str) -> bool {
    text.lines().all(|line| {
        line.trim().is_empty()
            || line.starts_with([' ', '\t', '-', '#', '}', ']'])
            || line.starts_with("...")
            || line.split_once(':').is_some_and(|(key, _)| key.split_whitespace().count() <= 3)
    })
}

const KEYS: [&str; 15] = [
    "context",
    "task",
    "standards",
    "previous_learning",
    "id",
    "ticket",
    "title",
    "project",
    "environment",
    "deadline",
    "budget_usd",
    "autonomy",
    "acceptance",
    "expected_results",
    "store",
];

/// `Previous Learning`, `previous-learning` and `PREVIOUS_LEARNING` are the same key.
pub(crate) fn normal(key: &str) -> String {
    key.split(|c: char| c.is_whitespace() || c == '-' || c == '_')
        .filter(|part| !part.is_empty())
        .map(str::to_lowercase)
        .collect::<Vec<_>>()
        .join("_")
}

struct At<'a> {
    source: &'a str,
    line: u64,
    key: &'a str,
}

impl At<'_> {
    fn wrong(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
            .with("file", self.source)
            .with("line", self.line)
            .with("key", self.key)
    }
}

fn from_yaml(source: &str, text: &str) -> Result<Task, Error> {
    let root = yaml::parse(source, text)?;
    let Tree::Map(entries) = root.value else {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("a task has keys, this is {}", root.value.noun()),
        )
        .with("file", source)
        .with("line", root.line)
        .hint("begin with `Context:`, `Task:`, `Standards:` and `Previous Learning:`"));
    };
    let mut task = Task::empty(Form::Yaml);
    let mut seen: Vec<String> = Vec::new();
    for (written, line, node) in entries {
        let at = At { source, line, key: &written };
        let key = normal(&written);
        if seen.contains(&key) {
            return Err(at.wrong(format!("`{written}` is given twice")).hint("keep one of them"));
        }
        match key.as_str() {
            "context" => task.context = items(&at, &node)?,
            "task" => task.task = items(&at, &node)?,
            "standards" => task.standards = items(&at, &node)?,
            "previous_learning" => task.previous_learning = items(&at, &node)?,
            "expected_results" => task.expected_results = items(&at, &node)?.iter().map(Item::text).collect(),
            "id" => task.id = Some(name(&at, &node)?),
            "ticket" => task.ticket = Some(text_of(&at, &node)?),
            "title" => task.title = text_of(&at, &node)?,
            "project" => task.project = Some(text_of(&at, &node)?),
            "environment" => task.environment = Some(text_of(&at, &node)?),
            "store" => {
                task.context.push(Item::Pair { key: "store".into(), value: text_of(&at, &node)?.into() });
            }
            "deadline" => {
                task.deadline = Some(
                    deadline(&text_of(&at, &node)?)
                        .map_err(|hint| at.wrong("`deadline` is not a time").hint(hint))?,
                );
            }
            "budget_usd" => task.budget_usd = Some(budget(&at, &node)?),
            "autonomy" => {
                let given = text_of(&at, &node)?;
                task.autonomy = autonomy(&given).ok_or_else(|| {
                    at.wrong(format!("`{given}` is not an autonomy"))
                        .hint("write `plan_only`, `auto_allowed` or `full`")
                })?;
            }
            "acceptance" => task.acceptance = checks(&at, &node)?,
            _ => {
                let hint = match words::nearest(&key, KEYS) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("a task has the keys {}", KEYS.join(", ")),
                };
                return Err(at.wrong(format!("`{written}` is not a key of a task")).hint(hint));
            }
        }
        seen.push(key);
    }
    if task.task.is_empty() && task.title.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "the task does not say what is to be done")
            .with("file", source)
            .with("key", "Task")
            .hint("add `Task:` with at least one line, such as `- check the store orders for orphan rows`"));
    }
    Ok(task)
}

fn items(at: &At<'_>, node: &Node) -> Result<Vec<Item>, Error> {
    match &node.value {
        Tree::Null => Ok(Vec::new()),
        Tree::List(list) => {
            let mut all = Vec::new();
            for entry in list {
                let at = At { line: entry.line, ..*at };
                match &entry.value {
                    Tree::Map(pairs) => all.extend(pairs.iter().map(pair)),
                    Tree::Null => {}
                    Tree::List(_) => {
                        return Err(at.wrong("a list inside a list").hint("write one `- ` line per point"));
                    }
                    scalar => all.push(Item::Text(scalar.scalar().unwrap_or_default())),
                }
            }
            Ok(all)
        }
        Tree::Map(pairs) => Ok(pairs.iter().map(pair).collect()),
        scalar => Ok(vec![Item::Text(scalar.scalar().unwrap_or_default())]),
    }
    .map(|mut all: Vec<Item>| {
        all.retain(|item| !matches!(item, Item::Text(text) if text.trim().is_empty()));
        all
    })
}

fn pair((key, _, node): &(String, u64, Node)) -> Item {
    let value = node.value.to_json();
    match value {
        // A sentence with a colon in it, such as "bring the database to production shape: logins, indexes".
        Value::String(text) if key.split_whitespace().count() >= SENTENCE_WORDS_MIN => {
            Item::Text(format!("{}: {text}", key.trim()))
        }
        value => Item::Pair { key: normal(key), value },
    }
}

fn text_of(at: &At<'_>, node: &Node) -> Result<String, Error> {
    match node.value.scalar() {
        Some(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        _ => Err(at
            .wrong(format!("`{}` is {}, not a text", at.key, node.value.noun()))
            .hint("write one line of text")),
    }
}

fn name(at: &At<'_>, node: &Node) -> Result<String, Error> {
    let text = text_of(at, node)?;
    let fits =
        text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits {
        Ok(text)
    } else {
        Err(at
            .wrong(format!("`{}` is not an id", shorten(&text, 40)))
            .hint("use up to 64 letters, digits, `-`, `_` and `.`"))
    }
}

fn budget(at: &At<'_>, node: &Node) -> Result<f64, Error> {
    let amount = match &node.value {
        Tree::Number(number) => number.as_f64(),
        _ => None,
    };
    amount.filter(|amount| *amount >= 0.0 && amount.is_finite()).ok_or_else(|| {
        at.wrong(format!("`{}` is {}, not an amount", at.key, node.value.noun()))
            .hint("write US dollars as a number, such as `budget_usd: 2.50`")
    })
}

/// A time or a day; the day ends at midnight UTC.
pub(crate) fn deadline(text: &str) -> Result<Timestamp, &'static str> {
    const HINT: &str = "write it as `2026-12-01T18:00:00Z` or `2026-12-01`";
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let date = text.parse::<jiff::civil::Date>().map_err(|_| HINT)?;
    let end = date.tomorrow().map_err(|_| HINT)?.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| HINT)?;
    Ok(end.timestamp())
}

pub(crate) fn autonomy(text: &str) -> Option<Autonomy> {
    [Autonomy::PlanOnly, Autonomy::AutoAllowed, Autonomy::Full]
        .into_iter()
        .find(|autonomy| autonomy.as_str() == normal(text))
}

fn checks(at: &At<'_>, node: &Node) -> Result<Vec<Check>, Error> {
    let list = match &node.value {
        Tree::List(list) => list.as_slice(),
        Tree::Text(_) => std::slice::from_ref(node),
        Tree::Null => return Ok(Vec::new()),
        other => {
            return Err(at
                .wrong(format!("`{}` is {}, not a list of checks", at.key, other.noun()))
                .hint("write one check per line, such as `- p95_ms(query) < 50`"));
        }
    };
    list.iter()
        .map(|entry| {
            let at = At { line: entry.line, ..*at };
            let text = entry.value.scalar().ok_or_else(|| {
                at.wrong(format!("a check is a text, this is {}", entry.value.noun()))
                    .hint("put the check in quotes: `- \"p95_ms(query) < 50\"`")
            })?;
            Check::parse(&text).map_err(|error| {
                let mut placed = at.wrong(error.message());
                for (name, value) in error.context() {
                    placed = placed.with(name, value);
                }
                placed.hint(error.hint_text().unwrap_or_default())
            })
        })
        .collect()
}
