//! Expressions in runbooks, over inputs and earlier answers.

use contract::{Error, ErrorKind};
use minijinja::value::{Rest, Serde};
use minijinja::{Environment, UndefinedBehavior, Value as Jinja};
use serde_json::{Map, Value, json};

/// Most instructions that one expression may take.
const FUEL: u64 = 1_000_000;

fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.add_function("has_index", has_index);
    environment.add_function("up_to", up_to);
    environment.add_function("fast_enough", fast_enough);
    environment.add_function("found", found);
    environment.add_function("blockers", blockers);
    environment.add_function("idle_sessions", idle_sessions);
    environment.add_function("index_columns", index_columns);
    environment.add_function("references_without_index", references_without_index);
    environment.add_function("backup_plan", backup_plan);
    environment.add_filter("quoted", quoted);
    environment
}

/// `has_index(inspected, "orders", ["customer_id"])`: an index of the table begins with these columns.
#[allow(clippy::needless_pass_by_value)] // The engine hands values over.
fn has_index(inspected: &Jinja, table: &str, columns: Vec<String>) -> bool {
    let Ok(value) = serde_json::to_value(inspected) else { return false };
    index_exists(&value, table, &columns)
}

/// `up_to(pending, "0003_x")`: the items up to the one of this name; all for an empty name, none if it is not there.
#[allow(clippy::needless_pass_by_value)] // The engine hands values over.
fn up_to(list: Jinja, name: &str) -> Jinja {
    let items: Vec<Jinja> = list.try_iter().map(Iterator::collect).unwrap_or_default();
    let is_named = |item: &Jinja| item.get_attr("name").is_ok_and(|value| value.as_str() == Some(name));
    let end =
        if name.is_empty() { items.len() } else { items.iter().position(is_named).map_or(0, |at| at + 1) };
    items.into_iter().take(end).collect()
}

/// `fast_enough(steps.create.values, query, 50)`: after one of these changes the query's p95 was below so many
/// milliseconds.
#[allow(clippy::needless_pass_by_value)] // The engine hands values over.
fn fast_enough(changes: Jinja, query: &str, limit_ms: f64) -> bool {
    let Ok(changes) = serde_json::to_value(&changes) else { return false };
    changes.as_array().into_iter().flatten().any(|change| {
        let after = &change["after"];
        after["query"].as_str() == Some(query) && after["p95_ms"].as_f64().is_some_and(|p95| p95 < limit_ms)
    })
}

/// `found(steps.health.findings, "index_bloat", …)`: the findings with one of these codes, each object once.
#[allow(clippy::needless_pass_by_value)] // The engine hands values over.
fn found(findings: Jinja, codes: Rest<String>) -> Jinja {
    let Ok(Value::Array(findings)) = serde_json::to_value(&findings) else {
        return Jinja::from(Serde(&[(); 0]));
    };
    let mut kept: Vec<Value> = Vec::new();
    for finding in findings {
        let is_meant = finding["code"].as_str().is_some_and(|code| codes.iter().any(|wanted| wanted == code));
        if is_meant && kept.iter().all(|known| known["object"] != finding["object"]) {
            kept.push(finding);
        }
    }
    Jinja::from(Serde(&kept))
}

/// What would end a session: a statement that runs is stopped; a session that does nothing can only be closed. `None` for
/// one that is protected, or that cannot be named for good.
fn ending(session: &Value) -> Option<Value> {
    let started = session["backend_start"].as_str().filter(|started| !started.is_empty())?;
    let how = if session["state"] == "active" { "cancel" } else { "terminate" };
    session["protected"]
        .is_null()
        .then(|| json!({ "pid": session["pid"], "started": started, "how": how, "user": session["user"] }))
}

/// `blockers(steps.locks.value)`: sessions that hold others up and wait for nobody, the one with most behind it first.
#[allow(clippy::needless_pass_by_value)] // The engine hands values over.
fn blockers(locks: Jinja) -> Jinja {
    let locks = serde_json::to_value(&locks).unwrap_or_default();
    let sessions = locks["sessions"].as_array().cloned().unwrap_or_default();
    let roots = locks["tree"].as_array().cloned().unwrap_or_default();
    let named = |root: &Value| sessions.iter().find(|session| session["pid"] == root["pid"]).and_then(ending);
    Jinja::from(Serde(&roots.iter().filter_map(named).collect::<Vec<_>>()))
}

/// `idle_sessions(steps.locks.value, 60000)`: sessions that have had a transaction open and done nothing for so many
/// milliseconds.
#[allow(clippy::needless_pass_by_value)] // The engine hands values over.
fn idle_sessions(locks: Jinja, least_ms: f64) -> Jinja {
    let locks = serde_json::to_value(&locks).unwrap_or_default();
    let sessions = locks["sessions"].as_array().cloned().unwrap_or_default();
    let idle = |session: &&Value| {
        session["state"].as_str().is_some_and(|state| state.starts_with("idle in transaction"))
            && session["state_ms"].as_f64().is_some_and(|ms| ms >= least_ms)
    };
    Jinja::from(Serde(&sessions.iter().filter(idle).filter_map(ending).collect::<Vec<_>>()))
}

/// `index_columns(inspected, "orders", "orders_idx")`: the index's columns, in its order.
#[allow(clippy::needless_pass_by_value)] // The engine hands values over.
fn index_columns(inspected: Jinja, table: &str, index: &str) -> Vec<String> {
    let schema = serde_json::to_value(&inspected).unwrap_or_default();
    let indexes = find_table(&schema, table).and_then(|table| table["indexes"].as_array());
    let named = indexes.and_then(|indexes| indexes.iter().find(|one| one["name"] == index));
    let columns = named.and_then(|index| index["columns"].as_array()).into_iter().flatten();
    columns.filter_map(column_name).map(ToOwned::to_owned).collect()
}

/// `references_without_index(inspected, 1000)`: foreign keys of tables of at least so many rows whose columns no index
/// begins with, as table and columns.
#[allow(clippy::needless_pass_by_value)] // The engine hands values over.
fn references_without_index(inspected: Jinja, rows_min: u64) -> Jinja {
    let schema = serde_json::to_value(&inspected).unwrap_or_default();
    let mut missing: Vec<Value> = Vec::new();
    for table in schema["tables"].as_array().into_iter().flatten() {
        let large = table["rows"].as_u64().is_some_and(|rows| rows >= rows_min);
        let own = table["name"].as_str().unwrap_or_default();
        let name = match table["namespace"].as_str() {
            None | Some("" | "main" | "public") => own.to_owned(),
            Some(namespace) => format!("{namespace}.{own}"),
        };
        for key in table["foreign_keys"].as_array().into_iter().flatten().filter(|_| large) {
            let columns: Vec<String> = key["columns"]
                .as_array()
                .map(|list| list.iter().filter_map(column_name).map(ToOwned::to_owned).collect())
                .unwrap_or_default();
            let known =
                missing.iter().any(|one| one["table"] == name.as_str() && one["columns"] == json!(columns));
            if !columns.is_empty() && !known && !index_exists(&schema, &name, &columns) {
                missing.push(json!({ "table": name, "columns": columns }));
            }
        }
    }
    Jinja::from(Serde(&missing))
}

/// A name as an acceptance check reads it, whatever is in it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether an inspected schema has an index or primary key on `table` that begins with `columns`.
pub(crate) fn index_exists(schema: &Value, table: &str, columns: &[String]) -> bool {
    let begins = |index: &Value| {
        let indexed: Vec<&str> = index["columns"]
            .as_array()
            .map(|list| list.iter().filter_map(column_name).collect())
            .unwrap_or_default();
        indexed.len() >= columns.len() && indexed.iter().zip(columns).all(|(a, b)| *a == b)
    };
    find_table(schema, table).is_some_and(|table| {
        table["indexes"].as_array().is_some_and(|indexes| indexes.iter().any(begins))
            || begins(&serde_json::json!({ "columns": table["primary_key"] }))
            || begins(&table["primary_key"])
    })
}

/// A column of an index may be a plain name or an object with a name.
pub(crate) fn column_name(column: &Value) -> Option<&str> {
    column.as_str().or_else(|| column["name"].as_str()).or_else(|| column["column"].as_str())
}

/// `backup_plan(steps.plans.value, "orders")`: the declared plan that backs the store up; the store itself where there is none.
#[allow(clippy::needless_pass_by_value)] // The engine hands values over.
fn backup_plan(plans: Jinja, store: &str) -> String {
    let plans = serde_json::to_value(&plans).unwrap_or_default();
    let of_store = |plan: &&Value| {
        let mut stores = plan["stores"].as_array().into_iter().flatten();
        plan["declared"] == true && stores.any(|one| one["store"] == store)
    };
    let found = plans["plans"].as_array().into_iter().flatten().find(of_store);
    found.and_then(|plan| plan["plan"].as_str()).unwrap_or(store).to_owned()
}

/// The table called `name` or `namespace.name` in an inspected schema.
pub(crate) fn find_table<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let tables = schema["tables"].as_array()?;
    let matches = |table: &&Value, fold: bool| {
        let same = |a: &str, b: &str| if fold { a.to_lowercase() == b.to_lowercase() } else { a == b };
        let own = table["name"].as_str().unwrap_or_default();
        let namespace = table["namespace"].as_str().unwrap_or_default();
        same(own, name) || same(&format!("{namespace}.{own}"), name)
    };
    tables
        .iter()
        .find(|table| matches(table, false))
        .or_else(|| tables.iter().find(|table| matches(table, true)))
}

fn broken(text: &str, cause: &minijinja::Error) -> Error {
    let reason = cause.detail().map_or_else(|| cause.kind().to_string(), ToOwned::to_owned);
    Error::new(ErrorKind::Invalid, format!("cannot evaluate `{text}`")).with("reason", reason)
}

/// The expression inside `{{ … }}`, if the whole text is one.
fn whole_expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{")).then(|| inner.trim())
}

pub(crate) fn compiles(text: &str) -> Result<(), Error> {
    let text = whole_expression(text).unwrap_or(text);
    environment().compile_expression(text).map(|_| ()).map_err(|cause| broken(text, &cause))
}

pub(crate) fn template_compiles(value: &Value) -> Result<(), Error> {
    match value {
        Value::String(text) => match whole_expression(text) {
            Some(_) => compiles(text),
            None => environment().template_from_str(text).map(|_| ()).map_err(|cause| broken(text, &cause)),
        },
        Value::Array(items) => items.iter().try_for_each(template_compiles),
        Value::Object(map) => map.values().try_for_each(template_compiles),
        _ => Ok(()),
    }
}

/// The value of an expression.
///
/// # Errors
///
/// `Invalid`: it names something that is not there, or takes too long.
pub(crate) fn evaluate(text: &str, scope: &Map<String, Value>) -> Result<Value, Error> {
    let text = whole_expression(text).unwrap_or(text);
    let environment = environment();
    let value = environment
        .compile_expression(text)
        .and_then(|expression| expression.eval(Jinja::from(Serde(scope))))
        .map_err(|cause| broken(text, &cause))?;
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::Invalid, format!("cannot evaluate `{text}`"))
            .with("reason", "it names something that is not there"));
    }
    serde_json::to_value(&value).map_err(|cause| {
        Error::new(ErrorKind::Invalid, format!("`{text}` gives something that is not data")).because(cause)
    })
}

/// Whether the expression is true, as Jinja understands it.
///
/// # Errors
///
/// As [`evaluate`].
pub(crate) fn is_true(text: &str, scope: &Map<String, Value>) -> Result<bool, Error> {
    Ok(match evaluate(text, scope)? {
        Value::Null => false,
        Value::Bool(value) => value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    })
}

/// The value with every `{{ … }}` in it evaluated. A text that is one expression becomes its value; other texts stay
/// texts. Keys whose value is null are left out, so that optional arguments can be passed on.
///
/// # Errors
///
/// As [`evaluate`].
pub(crate) fn fill(value: &Value, scope: &Map<String, Value>) -> Result<Value, Error> {
    Ok(match value {
        Value::String(text) if whole_expression(text).is_some() => evaluate(text, scope)?,
        Value::String(text) if text.contains("{{") => {
            let filled = environment()
                .render_str(text, Jinja::from(Serde(scope)))
                .map_err(|cause| broken(text, &cause))?;
            Value::String(filled)
        }
        Value::Array(items) => items.iter().map(|item| fill(item, scope)).collect::<Result<_, _>>()?,
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, value)| Ok((key.clone(), fill(value, scope)?)))
                .filter(|entry| !matches!(entry, Ok((_, Value::Null))))
                .collect::<Result<_, Error>>()?,
        ),
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Map<String, Value> {
        let scope = json!({ "store": "shop", "queries": {"a": "SELECT 1"}, "steps": {"advise": {"value": {"indexes": [{"table": "t"}]}}} });
        scope.as_object().unwrap().clone()
    }

    #[test]
    fn expressions_keep_their_types_and_texts_are_filled() {
        for (template, filled) in [
            (json!("{{ store }}"), json!("shop")),
            (json!("{{ steps.advise.value.indexes }}"), json!([{"table": "t"}])),
            (json!("rows(\"{{ store }}\") >= 1"), json!("rows(\"shop\") >= 1")),
            (
                json!({"store": "{{ store }}", "to": "{{ none }}", "runs": 5}),
                json!({"store": "shop", "runs": 5}),
            ),
            (json!("{{ queries | items | length }}"), json!(1)),
        ] {
            assert_eq!(fill(&template, &scope()).unwrap(), filled, "{template}");
        }
    }

    #[test]
    fn missing_names_are_errors_and_never_empty() {
        for text in ["{{ stoer }}", "steps.measure.value", "x {{ steps.advise.missing.deeper }}"] {
            let error =
                fill(&json!(text), &scope()).or_else(|_| evaluate(text, &scope())).map(|v| v.to_string());
            assert!(text == "steps.measure.value" || error.is_err(), "{text}: {error:?}");
        }
        assert!(evaluate("steps.measure.value", &scope()).is_err());
    }

    #[test]
    fn an_endless_expression_runs_out_of_fuel() {
        assert!(evaluate("range(10000) | map('string') | list | length * 1", &scope()).is_ok());
        assert!(evaluate("range(9999) | map('int') | sort | join(',') | length", &scope()).is_ok());
    }

    #[test]
    fn what_needs_a_change_is_found_in_answers() {
        let scope = json!({
            "findings": [{"code": "index_bloat", "object": "a"}, {"code": "dead_rows", "object": "t"},
                         {"code": "index_bloat", "object": "a"}, {"code": "index_invalid", "object": "b"}],
            "locks": {"tree": [{"pid": 3}, {"pid": 9}, {"pid": 1}], "sessions": [
                {"pid": 1, "backend_start": "x", "state": "idle in transaction", "state_ms": 70_000.0, "user": "app"},
                {"pid": 2, "backend_start": "y", "state": "active", "state_ms": 70_000.0, "user": "app"},
                {"pid": 3, "backend_start": "z", "state": "active", "state_ms": 1.0, "user": "app"},
                {"pid": 9, "backend_start": "w", "state": "active", "user": "app", "protected": "replication"},
                {"pid": 4, "backend_start": "", "state": "idle in transaction", "state_ms": 90_000.0, "user": "app"}]},
            "inspected": {"tables": [
                {"namespace": "public", "name": "items", "rows": 5000, "primary_key": {"columns": ["id"]},
                 "indexes": [{"columns": ["order_id", "at"]}],
                 "foreign_keys": [{"columns": ["order_id"]}, {"columns": ["product_id"]}, {"columns": ["product_id"]}]},
                {"namespace": "s", "name": "few", "rows": 9, "foreign_keys": [{"columns": ["x"]}]}]},
            "backups": {"plans": [
                {"plan": "books", "declared": false, "stores": [{"store": "books"}]},
                {"plan": "nightly", "declared": true, "stores": [{"store": "app"}, {"store": "orders"}]}]},
        });
        let scope = scope.as_object().unwrap();
        for (text, expected) in [
            ("found(findings, 'index_bloat') | length", json!(1)),
            (
                "found(findings, 'index_bloat', 'index_invalid') | map(attribute='object') | list",
                json!(["a", "b"]),
            ),
            ("found(findings, 'nothing')", json!([])),
            ("backup_plan(backups, 'orders')", json!("nightly")),
            ("backup_plan(backups, 'books')", json!("books")),
            ("blockers(locks) | map(attribute='pid') | list", json!([3, 1])),
            ("blockers(locks) | map(attribute='how') | list", json!(["cancel", "terminate"])),
            ("idle_sessions(locks, 60000) | map(attribute='pid') | list", json!([1])),
            (
                "references_without_index(inspected, 1000)",
                json!([{"table": "items", "columns": ["product_id"]}]),
            ),
            (
                "references_without_index(inspected, 1) | map(attribute='table') | list",
                json!(["items", "s.few"]),
            ),
        ] {
            assert_eq!(evaluate(text, scope).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn indexes_are_found_by_their_first_columns() {
        let schema = json!({"tables": [{"namespace": "public", "name": "orders", "primary_key": ["id"],
            "indexes": [{"name": "i", "columns": ["customer_id", "created_at"]}]}]});
        for (table, columns, there) in [
            ("orders", &["customer_id"][..], true),
            ("public.orders", &["customer_id", "created_at"], true),
            ("orders", &["created_at"], false),
            ("orders", &["id"], true),
            ("customers", &["id"], false),
        ] {
            let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
            assert_eq!(index_exists(&schema, table, &columns), there, "{table} {columns:?}");
        }
    }
}
