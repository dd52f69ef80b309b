//! Cases of the matrix as rows of CSV, and whether the policies decide them as expected.
//!
//! The built-in matrix is tested with `tests/matrix.csv`; a project may have `policies/tests.csv` in the same form. The
//! first line names the columns, in any order; `action` and `expected` must be there:
//!
//! | column | values |
//! | --- | --- |
//! | `mission_line` | the mission's line, verbatim; may be left out in a project's file |
//! | `case` | what the row is about |
//! | `actor` | `local`, `person`, `agent`, `schedule`, `system`, each with `:name` if it matters. Default: `local` |
//! | `role` | roles of the actor, joined with `+`. Default for an agent: `requester` |
//! | `action`, `resource` | as in the matrix. Default of the resource: `store:orders` |
//! | `environment` | `development`, `test`, `staging`, `production`. Default: `production` |
//! | `destructive`, `personal_data`, `cross_project` | `yes`, `no`. Default: `no` |
//! | `reversible` | `yes`, `no`. Default: `yes` |
//! | `backup_minutes` | age of the newest verified backup; empty: none |
//! | `budget` | US dollars, cost and what is left: `5/3`; `5/` without a budget |
//! | `approvals` | roles that have approved, joined with `+` |
//! | `expected` | `permit`, `approval:pm` (any one of several: `approval:pm+qa`), `escalate:pm`, `forbid`, `forbid:engineer` (who owns it) |
//! | `policy` | ids of policies that must be among those that decided, joined with `+`; empty: any |

use std::collections::BTreeMap;
use std::path::Path;

use contract::{Actor, ActorKind, Context, Error, ErrorKind, Role};

use crate::{Approved, Authority, Decision, Environment, Facts, Question};

const COLUMNS: [&str; 16] = [
    "mission_line",
    "case",
    "actor",
    "role",
    "action",
    "resource",
    "environment",
    "destructive",
    "reversible",
    "backup_minutes",
    "budget",
    "personal_data",
    "cross_project",
    "approvals",
    "expected",
    "policy",
];

/// The project that cases play in.
const PROJECT: &str = "shop";

/// One row.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its line in the file.
    pub line: usize,
    /// The mission's line; empty when the file has none.
    pub mission_line: String,
    /// What it is about.
    pub case: String,
    /// Who asks.
    pub actor: Actor,
    /// What is asked.
    pub question: Question,
    /// Roles that have approved.
    pub approvals: Vec<Role>,
    /// How it must be decided, such as `approval:pm`.
    pub expected: String,
    /// Policies that must be among those that decided.
    pub policies: Vec<String>,
}

impl Case {
    /// The rows of a file.
    ///
    /// # Errors
    ///
    /// `Invalid`: names file, line and column.
    pub fn parse(file: &Path, text: &str) -> Result<Vec<Case>, Error> {
        let mut records = records(text).map_err(|(line, why)| invalid(file, line, why))?.into_iter();
        let Some((line, header)) = records.next() else {
            return Err(invalid(file, 1, "the file is empty"));
        };
        if let Some(unknown) = header.iter().find(|name| !COLUMNS.contains(&name.as_str())) {
            return Err(invalid(file, line, &format!("unknown column `{unknown}`"))
                .hint(format!("the columns are: {}", COLUMNS.join(", "))));
        }
        for needed in ["action", "expected"] {
            if !header.iter().any(|name| name == needed) {
                return Err(invalid(file, line, &format!("the column `{needed}` is missing")));
            }
        }
        records
            .map(|(line, fields)| {
                if fields.len() != header.len() {
                    let why = format!("{} fields, but {} columns", fields.len(), header.len());
                    return Err(invalid(file, line, &why));
                }
                let row: BTreeMap<&str, &str> =
                    header.iter().map(String::as_str).zip(fields.iter().map(|field| field.trim())).collect();
                Case::of(line, &row).map_err(|why| invalid(file, line, &why))
            })
            .collect()
    }

    fn of(line: usize, row: &BTreeMap<&str, &str>) -> Result<Case, String> {
        let field = |name: &str| row.get(name).copied().unwrap_or_default();
        let flag = |name: &str, default: bool| match field(name) {
            "" => Ok(default),
            "yes" => Ok(true),
            "no" => Ok(false),
            other => Err(format!("`{name}` is `{other}`, not `yes` or `no`")),
        };
        let number = |name: &str, text: &str| match text {
            "" => Ok(None),
            text => {
                text.parse::<u64>().map(Some).map_err(|_| format!("`{name}` is `{text}`, not a whole number"))
            }
        };
        let environment = match field("environment") {
            "" => Environment::default(),
            name => Environment::parse(name).ok_or_else(|| format!("no environment `{name}`"))?,
        };
        let (cost, left) = match field("budget") {
            "" => (None, None),
            text => {
                let (cost, left) =
                    text.split_once('/').ok_or_else(|| format!("`budget` is `{text}`, not `cost/left`"))?;
                (number("budget", cost)?, number("budget", left)?)
            }
        };
        let nanos = |dollars: u64| dollars.saturating_mul(1_000_000_000);
        let facts = Facts {
            environment,
            destructive: flag("destructive", false)?,
            reversible: flag("reversible", true)?,
            verified_backup_minutes: number("backup_minutes", field("backup_minutes"))?,
            cost_usd_nanos: cost.map_or(0, nanos),
            budget_left_usd_nanos: left.map(nanos),
            personal_data: flag("personal_data", false)?,
            cross_project: flag("cross_project", false)?,
            ..Facts::default()
        };
        let expected = field("expected").to_owned();
        if !["permit", "approval", "escalate", "forbid"]
            .contains(&expected.split(':').next().unwrap_or_default())
        {
            return Err(format!(
                "`expected` is `{expected}`, not `permit`, `approval:…`, `escalate:…` or `forbid`"
            ));
        }
        let resource = match field("resource") {
            "" => "store:orders",
            resource => resource,
        };
        Ok(Case {
            line,
            mission_line: field("mission_line").to_owned(),
            case: field("case").to_owned(),
            actor: actor(field("actor"), field("role"))?,
            question: Question::new(field("action"), resource).with_facts(facts),
            approvals: roles(field("approvals"))?,
            expected,
            policies: field("policy").split('+').filter(|id| !id.is_empty()).map(str::to_owned).collect(),
        })
    }

    /// What the policies decide.
    pub fn decide(&self, authority: &Authority) -> Decision {
        let ctx = Context::new(PROJECT, self.actor.clone());
        let approved: Vec<Approved> =
            self.approvals.iter().map(|role| Approved::assumed(&ctx, &self.question.action, *role)).collect();
        authority.decide(&ctx, &self.question, &approved)
    }

    /// Why the policies do not decide it as expected; `None` when they do.
    pub fn failure(&self, authority: &Authority) -> Option<String> {
        let decision = self.decide(authority);
        let decided = match &decision {
            Decision::Permitted { .. } => "permit".to_owned(),
            Decision::NeedsApproval { roles, .. } => {
                format!("approval:{}", roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join("+"))
            }
            Decision::Escalate { to, .. } => format!("escalate:{to}"),
            Decision::Forbidden { owner: Some(owner), .. } if self.expected.contains(':') => {
                format!("forbid:{owner}")
            }
            Decision::Forbidden { .. } => "forbid".to_owned(),
        };
        if decided != self.expected {
            return Some(format!("expected {}, but {decided}: {}", self.expected, decision.reason()));
        }
        let missing = self.policies.iter().find(|id| !decision.policies().contains(id))?;
        Some(format!("expected `{missing}` to decide, but it was {}", decision.policies().join(", ")))
    }
}

/// `agent:ci` with `reader+requester`.
pub(crate) fn actor(text: &str, role_names: &str) -> Result<Actor, String> {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let kind = match kind {
        "" | "local" => ActorKind::Local,
        "person" => ActorKind::Person,
        "agent" => ActorKind::Agent,
        "schedule" => ActorKind::Schedule,
        "system" => ActorKind::System,
        other => return Err(format!("no kind of actor `{other}`")),
    };
    let mut held = roles(role_names)?;
    if kind == ActorKind::Agent && held.is_empty() {
        held.push(Role::Requester);
    }
    let name = match (name, kind) {
        ("", ActorKind::Local) => "local",
        ("", ActorKind::System) => "steward",
        ("", _) => "someone",
        (name, _) => name,
    };
    Ok(Actor::new(kind, name, held))
}

fn roles(text: &str) -> Result<Vec<Role>, String> {
    text.split('+')
        .filter(|name| !name.is_empty())
        .map(|name| Role::parse(name).ok_or_else(|| format!("no role `{name}`")))
        .collect()
}

fn invalid(file: &Path, line: usize, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("invalid case: {why}"))
        .with("file", file.display())
        .with("line", line)
}

/// A line and the fields of the record that begins on it.
type Record = (usize, Vec<String>);

/// The fields of each record with the line it begins on; blank lines and lines that begin with `#` are left out.
///
/// Source: RFC 4180.
fn records(text: &str) -> Result<Vec<Record>, (usize, &'static str)> {
    let mut records = Vec::new();
    let mut characters = text.chars().peekable();
    let mut line = 1;
    while characters.peek().is_some() {
        let begins = line;
        let mut fields = vec![String::new()];
        let mut quoted = false;
        loop {
            let character = characters.next();
            let field = fields.last_mut().expect("there is always a field");
            match character {
                Some('"') if quoted && characters.peek() == Some(&'"') => {
                    characters.next();
                    field.push('"');
                }
                Some('"') if quoted => quoted = false,
                Some('"') if field.is_empty() => quoted = true,
                Some(',') if !quoted => fields.push(String::new()),
                Some('\r') if !quoted => {}
                Some('\n') if !quoted => {
                    line += 1;
                    break;
                }
                Some(other) => {
                    line += usize::from(other == '\n');
                    field.push(other);
                }
                None if quoted => return Err((begins, "a quote is not closed")),
                None => break,
            }
        }
        let blank = fields.len() == 1 && fields[0].trim().is_empty();
        if !blank && !fields[0].starts_with('#') {
            records.push((begins, fields));
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_commas_and_lines_in_fields_are_kept() {
        let read = records("a,b\n\n# note\n\"x, \"\"y\"\"\nz\",2\r\n").unwrap();
        assert_eq!(
            read,
            [(1, vec!["a".to_owned(), "b".to_owned()]), (4, vec!["x, \"y\"\nz".to_owned(), "2".to_owned()])]
        );
    }

    #[test]
    fn a_bad_row_names_its_line() {
        for (text, message) in [
            ("", "invalid case: the file is empty"),
            ("action,expect\n", "invalid case: unknown column `expect`"),
            ("action\n", "invalid case: the column `expected` is missing"),
            ("action,expected\nstore.read\n", "invalid case: 1 fields, but 2 columns"),
            ("action,expected\n\"store.read,permit\n", "invalid case: a quote is not closed"),
            (
                "action,expected\nstore.read,ok\n",
                "invalid case: `expected` is `ok`, not `permit`, `approval:…`, `escalate:…` or `forbid`",
            ),
            ("action,expected,role\nstore.read,permit,boss\n", "invalid case: no role `boss`"),
        ] {
            let error = Case::parse(Path::new("tests.csv"), text).unwrap_err();
            assert_eq!(error.message(), message, "{text}");
        }
    }
}
