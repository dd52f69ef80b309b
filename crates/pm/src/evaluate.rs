//! Acceptance checks, computed through the door.

use contract::{Answer, AnswerStatus, Context, Door, Error, ErrorKind, Severity};
use serde_json::{Value, json};

use crate::acceptance::{Check, Subject};
use crate::expression::{column_name, find_table, index_exists};
use crate::plan::PlannedCheck;
use crate::record::TaskRecord;
use crate::run::{ends_the_run, one_line};

/// Runs of a query per measurement.
const RUNS: u32 = 20;

/// Answers of this run that still hold: everything read since the last change.
#[derive(Debug, Default)]
pub(crate) struct Fresh(Vec<(String, Value, Answer)>);

impl Fresh {
    /// A change makes every earlier answer old.
    pub(crate) fn changed(&mut self) {
        self.0.clear();
    }

    pub(crate) fn answered(&mut self, request: &str, arguments: &Value, answer: &Answer) {
        self.0.push((request.to_owned(), arguments.clone(), answer.clone()));
    }

    /// The newest answer to the request whose arguments agree in these fields.
    fn find(&self, request: &str, arguments: &Value) -> Option<&Answer> {
        let agrees = |given: &Value| {
            ["store", "query", "sql", "areas"].iter().all(|field| given[*field] == arguments[*field])
                && given.get("tables").is_none()
                && given.get("table").is_none()
        };
        self.0
            .iter()
            .rev()
            .find(|(name, given, _)| name == request && agrees(given))
            .map(|(_, _, answer)| answer)
    }
}

/// A check with what was found. A check that cannot be computed has not passed.
#[derive(Debug, Clone)]
pub(crate) struct CheckResult {
    pub(crate) check: Check,
    pub(crate) from: String,
    pub(crate) store: Option<String>,
    /// The number, or 1 for true and 0 for false; `None` when it could not be computed.
    pub(crate) observed: Option<f64>,
    pub(crate) pass: bool,
    /// Why it could not be computed.
    pub(crate) reason: String,
    pub(crate) evidence: Vec<String>,
}

/// Computes the plan's checks, in their order.
///
/// # Errors
///
/// `Canceled`, `TimedOut` of the task itself; everything else makes the check fail with its reason.
pub(crate) async fn all(
    ctx: &Context,
    door: &dyn Door,
    record: &TaskRecord,
    fresh: &Fresh,
) -> Result<Vec<CheckResult>, Error> {
    let stores = stores_of(record);
    let mut results = Vec::new();
    // A task that was handed over or not understood did nothing that could be accepted.
    if record.plan.jobs.is_empty() {
        return Ok(results);
    }
    let evaluator = Evaluator { ctx, door, record, fresh, stores };
    for planned in &record.plan.acceptance {
        let result = evaluator.check(planned).await?;
        results.push(result);
    }
    Ok(results)
}

/// The stores that the task's jobs work on.
fn stores_of(record: &TaskRecord) -> Vec<String> {
    let mut stores: Vec<String> = Vec::new();
    for job in &record.plan.jobs {
        let named = job.inputs.get("store").and_then(Value::as_str).into_iter();
        let listed = job.inputs.get("stores").and_then(Value::as_array).into_iter().flatten();
        for store in named.chain(listed.filter_map(Value::as_str)) {
            if !stores.iter().any(|known| known == store) {
                stores.push(store.to_owned());
            }
        }
    }
    stores
}

struct Evaluator<'a> {
    ctx: &'a Context,
    door: &'a dyn Door,
    record: &'a TaskRecord,
    fresh: &'a Fresh,
    stores: Vec<String>,
}

impl Evaluator<'_> {
    async fn check(&self, planned: &PlannedCheck) -> Result<CheckResult, Error> {
        let check = planned.check.clone();
        let mut result = CheckResult {
            check: check.clone(),
            from: planned.from.clone(),
            store: None,
            observed: None,
            pass: false,
            reason: String::new(),
            evidence: Vec::new(),
        };
        let store = match (&check.store, self.stores.as_slice()) {
            (Some(store), _) => store.clone(),
            (None, [only]) => only.clone(),
            (None, several) => {
                result.reason = format!(
                    "the task is about {} stores; say which one is meant, such as `{check} on {}`",
                    several.len(),
                    several.first().map_or("store", String::as_str)
                );
                return Ok(result);
            }
        };
        result.store = Some(store.clone());
        match self.observe(&check.subject, &store).await {
            Ok((observed, evidence)) => {
                result.observed = Some(observed);
                result.pass = check.passes(observed);
                result.evidence = evidence;
            }
            Err(error) if ends_the_run(self.ctx, &error) => return Err(error),
            Err(error) => result.reason = format!("cannot be computed: {}", one_line(&error)),
        }
        Ok(result)
    }

    async fn ask(&self, request: &str, arguments: Value) -> Result<Answer, Error> {
        if let Some(answer) = self.fresh.find(request, &arguments) {
            return Ok(answer.clone());
        }
        let answer = self.ctx.run(self.door.submit(self.ctx, request, arguments)).await?;
        if answer.status == AnswerStatus::Done {
            return Ok(answer);
        }
        Err(Error::new(ErrorKind::Forbidden, format!("`{request}` was not permitted"))
            .with("reason", &answer.decided.reason))
    }

    async fn observe(&self, subject: &Subject, store: &str) -> Result<(f64, Vec<String>), Error> {
        match subject {
            Subject::Latency { measure, query } => {
                let sql = self.query(query)?;
                let answer =
                    self.ask("store.measure", json!({ "store": store, "query": sql, "runs": RUNS })).await?;
                let number = answer.value[measure.as_str()].as_f64().ok_or_else(|| missing(measure))?;
                Ok((number, answer.evidence))
            }
            Subject::Rows(name) => self.rows(store, name).await,
            Subject::Orphans(of) => self.orphans(store, of).await,
            Subject::IntegrityOk => {
                let answer = self.ask("store.consistency", json!({ "store": store })).await?;
                let integrity = &answer.value["integrity"];
                if integrity["checked"] != json!(true) {
                    return Err(Error::new(ErrorKind::Unsupported, "the engine has no check of its own"));
                }
                let sound = integrity["problems"].as_array().is_some_and(Vec::is_empty);
                Ok((truth(sound), answer.evidence))
            }
            Subject::TableExists(name) => {
                let answer = self.inspect(store).await?;
                Ok((truth(find_table(&answer.value, name).is_some()), answer.evidence))
            }
            Subject::ColumnExists(table, column) => {
                let answer = self.inspect(store).await?;
                let found = find_table(&answer.value, table).ok_or_else(|| no_table(store, table))?;
                let there = found["columns"]
                    .as_array()
                    .is_some_and(|columns| columns.iter().filter_map(column_name).any(|name| name == column));
                Ok((truth(there), answer.evidence))
            }
            Subject::IndexExists(table, columns) => {
                let answer = self.inspect(store).await?;
                find_table(&answer.value, table).ok_or_else(|| no_table(store, table))?;
                Ok((truth(index_exists(&answer.value, table, columns)), answer.evidence))
            }
            Subject::Health { critical, areas } => {
                let mut arguments = json!({ "store": store });
                if !areas.is_empty() {
                    arguments["areas"] = json!(areas);
                }
                let answer = self.ask("store.health", arguments).await?;
                let counts = |severity: Severity| {
                    severity == Severity::Critical || (!critical && severity == Severity::Warning)
                };
                let found = answer.findings.iter().filter(|finding| counts(finding.severity)).count();
                Ok((number(found), answer.evidence))
            }
            Subject::BlockedSessions => {
                let answer = self.ask("store.locks", json!({ "store": store })).await?;
                let sessions = answer.value["sessions"].as_array().ok_or_else(|| missing("sessions"))?;
                let waits = |session: &&Value| !session["blocked_by"].as_array().is_none_or(Vec::is_empty);
                Ok((number(sessions.iter().filter(waits).count()), answer.evidence))
            }
            Subject::IdleTransactions => {
                let answer = self.ask("store.locks", json!({ "store": store })).await?;
                let idle = answer.value["idle_in_transaction"].as_array();
                Ok((number(idle.ok_or_else(|| missing("idle_in_transaction"))?.len()), answer.evidence))
            }
            Subject::ConnectionsPercent => {
                let answer = self.ask("store.locks", json!({ "store": store })).await?;
                let field = |name: &str| answer.value[name].as_f64().ok_or_else(|| missing(name));
                let usable = field("connections_max")? - field("connections_reserved")?;
                let percent = 100.0 * field("connections")? / usable.max(1.0);
                Ok(((percent * 10.0).round() / 10.0, answer.evidence))
            }
            Subject::MigrationApplied(name) => {
                let answer = self.ask("migration.status", json!({ "store": store })).await?;
                let has = |list: &str, name: &str| {
                    answer.value[list].as_array().is_some_and(|rows| {
                        rows.iter().any(|row| row["name"].as_str().or_else(|| row.as_str()) == Some(name))
                    })
                };
                if name.is_empty() {
                    let pending = answer.value["pending"].as_array().ok_or_else(|| missing("pending"))?;
                    return Ok((truth(pending.is_empty()), answer.evidence));
                }
                if !has("applied", name) && !has("pending", name) {
                    return Err(Error::new(ErrorKind::NotFound, format!("there is no migration `{name}`"))
                        .with("store", store));
                }
                Ok((truth(has("applied", name)), answer.evidence))
            }
        }
    }

    async fn inspect(&self, store: &str) -> Result<Answer, Error> {
        self.ask("store.inspect", json!({ "store": store })).await
    }

    /// A query by its name in the task, by `query` when there is only one, or itself.
    fn query(&self, text: &str) -> Result<String, Error> {
        let queries = &self.record.plan.queries;
        if let Some(sql) = queries.get(text) {
            return Ok(sql.clone());
        }
        if text == "query" && queries.len() == 1 {
            return Ok(queries.values().next().cloned().unwrap_or_default());
        }
        if text.contains(char::is_whitespace) {
            return Ok(text.to_owned());
        }
        let known: Vec<String> = queries.keys().map(|name| format!("`{name}`")).collect();
        Err(Error::new(ErrorKind::NotFound, format!("the task names no query `{text}`")).hint(
            if known.is_empty() {
                "name it in the context: `- queries: {name: SELECT …}`".to_owned()
            } else {
                format!("it names {}", known.join(", "))
            },
        ))
    }

    async fn rows(&self, store: &str, name: &str) -> Result<(f64, Vec<String>), Error> {
        let answer = self.inspect(store).await?;
        let table = find_table(&answer.value, name).ok_or_else(|| no_table(store, name))?;
        if table["rows_estimated"] != json!(true) {
            let rows = table["rows"].as_f64().ok_or_else(|| missing("rows"))?;
            return Ok((rows, answer.evidence));
        }
        // The engine only estimates; a check wants the number.
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let own = table["name"].as_str().unwrap_or(name);
        let full = match table["namespace"].as_str().filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => format!("{}.{}", quote(namespace), quote(own)),
            None => quote(own),
        };
        let sql = format!("SELECT count(*) AS rows FROM {full}");
        let answer = self.ask("store.query", json!({ "store": store, "sql": sql })).await?;
        let count = &answer.value["rows"][0][0];
        let rows = count.as_f64().or_else(|| count.as_str().and_then(|text| text.parse().ok()));
        Ok((rows.ok_or_else(|| missing("rows"))?, answer.evidence))
    }

    async fn orphans(&self, store: &str, of: &str) -> Result<(f64, Vec<String>), Error> {
        let answer = self.ask("store.consistency", json!({ "store": store })).await?;
        let is_meant = |row: &Value| {
            let table = row["table"].as_str().unwrap_or_default();
            let columns: Vec<&str> = row["columns"]
                .as_array()
                .map(|list| list.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            of.is_empty()
                || of == table
                || of.rsplit_once('.').is_some_and(|(t, c)| {
                    let same_table = t == table || table.rsplit_once('.').is_some_and(|(_, own)| own == t);
                    same_table && columns.contains(&c)
                })
        };
        let found = answer.value["orphans"].as_array().ok_or_else(|| missing("orphans"))?;
        let meant: Vec<&Value> = found.iter().filter(|row| is_meant(row)).collect();
        let known = answer.value["references"].as_array();
        if meant.is_empty() && !of.is_empty() && !known.is_some_and(|rows| rows.iter().any(is_meant)) {
            return Err(Error::new(ErrorKind::NotFound, format!("`{of}` is not known to refer to anything"))
                .with("store", store));
        }
        let rows = meant.iter().filter_map(|row| row["rows"].as_f64()).sum();
        // The count's own evidence where the answer says which it is.
        let own: Vec<String> = meant
            .iter()
            .filter_map(|row| row["evidence"].as_array())
            .flatten()
            .filter_map(|id| id.as_str().map(ToOwned::to_owned))
            .collect();
        Ok((rows, if own.is_empty() { answer.evidence } else { own }))
    }
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn missing(field: &str) -> Error {
    Error::new(ErrorKind::Other, format!("the answer does not hold `{field}`"))
}

fn no_table(store: &str, table: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no table `{table}`")).with("store", store)
}
