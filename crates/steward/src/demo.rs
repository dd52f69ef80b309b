//! `steward demo`: a whole task on a real dataset, without network and keys, told as it happens.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use contract::{Actor, Answer, AnswerStatus, Context, Error, ErrorKind};
use fake_ai::FakeAi;
use http_body_util::BodyExt;
use outbound::{Outgoing, Upstream, UpstreamOptions};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::door::{Options, Steward, Surroundings};
use crate::serve::{Doors, serve};
use crate::terminal::print;

/// Marks a folder as the demo's own: only such a folder is recreated.
const MARKER: &str = ".steward-demo";

/// Rows in one INSERT of the generated first migration.
const ROWS_PER_INSERT: usize = 500;

/// What the model is asked.
const QUESTION: &str = "Which planes fly most often from Newark?";

/// Where the example's provider is, in its project file.
const SIMULATION: &str = "http://127.0.0.1:1";

const PROJECT_FILE: &str = include_str!("../../../examples/flights/steward.yaml");
const TASK: &str = include_str!("../../../examples/flights/tasks/review.md");
const QUERY: &str = include_str!("../../../examples/flights/queries/fleet_history.sql");
const CREATE: &str = include_str!("../../../examples/flights/migrations/flights/0001_create_flights.sql");
const PENDING: &[(&str, &str)] = &[
    (
        "0002_add_carrier_punctuality.sql",
        include_str!("../../../examples/flights/migrations/flights/0002_add_carrier_punctuality.sql"),
    ),
    (
        "0003_delete_unmatched_flights.sql",
        include_str!("../../../examples/flights/migrations/flights/0003_delete_unmatched_flights.sql"),
    ),
];
/// Parents first: the rows refer to each other.
const DATA: &[(&str, &str)] = &[
    ("carriers", include_str!("../../../examples/flights/data/carriers.csv")),
    ("planes", include_str!("../../../examples/flights/data/planes.csv")),
    ("flights", include_str!("../../../examples/flights/data/flights.csv")),
];

/// Tells the story; `Ok` when it ended as told.
///
/// # Errors
///
/// `AlreadyExists`: the folder holds something that is not the demo's. `Other`: the story ended differently; the message
/// says where.
pub(crate) async fn run(dir: &Path, surroundings: Surroundings) -> Result<(), Error> {
    let simulation = FakeAi::start().await.map_err(|cause| {
        Error::new(ErrorKind::Unavailable, "the simulated provider cannot listen on 127.0.0.1").because(cause)
    })?;
    set_up(dir, &simulation.url())?;
    let file = dir.join(config::FILE_NAME);
    let steward = Arc::new(Steward::open(vec![config::load(&file)?], &surroundings).await?);
    let ctx = Context::new("flights", Actor::local());

    chapter(1, "A database with real data: one month of departures from New York (public domain)");
    let answer =
        submit(&steward, &ctx, "migration.apply", json!({ "store": "flights", "to": "0001" })).await?;
    expect(answer.status == AnswerStatus::Done, "the first migration is applied", &answer.text)?;
    let answer = submit(&steward, &ctx, "store.inspect", json!({ "store": "flights" })).await?;
    for table in answer.value["tables"].as_array().into_iter().flatten() {
        let name = table["name"].as_str().unwrap_or_default();
        print(&format!("   {name:<10} {:>7} rows", table["rows"].as_u64().unwrap_or_default()));
    }

    chapter(2, "A task from the PM");
    print(&indent(TASK));

    chapter(3, "Steward works on it: inspects, plans, asks the authority matrix, does what it may, verifies");
    let answer = submit(&steward, &ctx, "task.run", json!({ "text": TASK })).await?;
    let task = answer.value["id"].as_str().unwrap_or_default().to_owned();
    for action in answer.value["actions"].as_array().into_iter().flatten() {
        let text = |key: &str| action[key].as_str().unwrap_or_default().to_owned();
        let p95 = |side: &str| action[side]["p95_ms"].as_f64();
        let measured = match (p95("before"), p95("after")) {
            (Some(before), Some(after)) => format!(": p95 {before:.1} ms before, {after:.1} ms after"),
            _ => String::new(),
        };
        print(&format!("   {:<10} {:<18} {}{measured}", text("status"), text("request"), text("reason")));
    }

    chapter(4, "The report");
    // What people read first; the table of actions stands above, the summary for programs is in the file.
    let report = answer.text.split("\n## Actions").next().unwrap_or_default();
    print(&indent(report));
    print(&format!("   The whole report: steward report {task}\n"));

    let actions: Vec<&Value> = answer.value["actions"].as_array().into_iter().flatten().collect();
    let has = |request: &str, status: &str| {
        actions.iter().any(|action| action["request"] == request && action["status"] == status)
    };
    expect(has("index.create", "done"), "the missing index is created", &answer.value.to_string())?;
    expect(
        has("migration.apply", "waiting"),
        "the risky migration waits for approval",
        &answer.value.to_string(),
    )?;
    expect(
        actions.iter().any(|action| matches!(action["status"].as_str(), Some("forbidden" | "escalated"))),
        "the page of the application is refused",
        &answer.value.to_string(),
    )?;
    let passed = answer.value["acceptance"].as_array().into_iter().flatten().any(|check| {
        check["check"].as_str().is_some_and(|check| check.starts_with("p95_ms")) && check["pass"] == true
    });
    expect(passed, "the query now answers within the objective", &answer.value.to_string())?;

    chapter(5, "An AI call through the gateway (a simulation: a program on this machine plays the provider)");
    call_a_model(&steward, &ctx).await?;

    chapter(6, "A backup that was restored, a table out of it, a drill, and a lost database");
    back_up_and_recover(&steward, &ctx, dir).await?;

    chapter(7, "Every number can be traced, and nothing can be edited unseen");
    let evidence = answer.value["acceptance"][0]["evidence"][0]
        .as_str()
        .map(str::to_owned)
        .or_else(|| answer.evidence.first().cloned())
        .unwrap_or_default();
    let shown = submit(&steward, &ctx, "evidence.show", json!({ "id": evidence })).await?;
    print(&indent(&shorten(&shown.text, 12)));
    let verified = submit(&steward, &ctx, "audit.verify", json!({})).await?;
    expect(verified.value["problem"].is_null(), "the audit trail is intact", &verified.text)?;
    print(&indent(&verified.text));
    steward.close().await?;

    chapter(8, "Try next");
    let waiting = actions.iter().find_map(|action| action["approval"].as_str()).unwrap_or_default();
    let cd = dir.display();
    print(&format!(
        "   cd {cd}\n   \
         steward report {task}\n   \
         steward person add $USER --role pm && steward approval grant {waiting}\n   \
         steward store inspect flights --format mermaid\n   \
         steward evidence {evidence}\n   \
         steward policy check file.write --resource path:src/pages/fleet.tsx\n"
    ));
    Ok(())
}

async fn submit(steward: &Steward, ctx: &Context, name: &str, arguments: Value) -> Result<Answer, Error> {
    steward.submit_with(ctx, name, arguments, Options::default()).await
}

/// A backup is made and proven, a table is taken out of it, and then the database is gone.
async fn back_up_and_recover(steward: &Steward, ctx: &Context, dir: &Path) -> Result<(), Error> {
    let made = submit(steward, ctx, "backup.setup", json!({})).await?;
    expect(made.status == AnswerStatus::Done, "the repository is made", &made.text)?;
    let made = submit(steward, ctx, "backup.run", json!({ "plan": "flights" })).await?;
    let backup = &made.value["backups"][0];
    expect(backup["backup"]["level"] == "l3", "the backup is restored and compared", &made.text)?;
    print(&indent(&made.text));
    let rows = backup["backup"]["rows"].clone();

    print(
        "   Say someone has dropped the table `planes`: it comes back in a file of its own, from which its rows can be copied.",
    );
    let planes =
        json!({ "backup": "flights", "tables": ["\"planes\""], "to": "beside", "name": "planes.db" });
    let table = submit(steward, ctx, "backup.restore", planes).await?;
    expect(table.status == AnswerStatus::Done, "the table is restored", &table.text)?;
    print(&indent(&table.text));

    print(
        "   A drill plays the loss of the whole database on a scratch copy, and leaves a receipt with the times.",
    );
    let drill = json!({ "subject": "flights", "lose": "database" });
    let drill = submit(steward, ctx, "backup.drill", drill).await?;
    expect(drill.value["drills"][0]["result"] == "passed", "the drill brings all of it back", &drill.text)?;
    print(&indent(&drill.text));

    // The file itself and what SQLite keeps beside it.
    let database = dir.join("data").join("flights.db");
    for ending in ["", "-wal", "-shm"] {
        let mut file = database.clone().into_os_string();
        file.push(ending);
        drop(std::fs::remove_file(file));
    }
    print(
        "   And now the database itself is gone: data/flights.db was deleted. Nothing is left to be overwritten.",
    );
    let whole = json!({ "backup": "flights", "to": "beside", "name": "flights.db" });
    let restored = submit(steward, ctx, "backup.restore", whole).await?;
    expect(
        restored.status == AnswerStatus::Done && database.is_file(),
        "the database is back",
        &restored.text,
    )?;
    let verified = submit(steward, ctx, "store.check", json!({ "store": "flights" })).await?;
    expect(verified.status == AnswerStatus::Done, "the store answers again", &verified.text)?;
    let took = restored.value["restore_ms"].as_u64().unwrap_or_default();
    print(&format!("   Back after {took} ms with all {rows} rows, every table as it was dumped.\n"));
    Ok(())
}

/// What a program of the team does all day: asks a model through the gateway, with a key that is good for one route.
async fn call_a_model(steward: &Arc<Steward>, ctx: &Context) -> Result<(), Error> {
    let other = |what: &str, cause: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Other, what).because(cause.to_string())
    };
    let arguments = json!({ "name": "demo", "routes": ["fast"] });
    let reveal = Options { reveal: true, ..Options::default() };
    let made = steward.submit_with(ctx, "keys.create", arguments, reveal).await?;
    expect(made.status == AnswerStatus::Done, "a key for the gateway is made", &made.text)?;
    let key = SecretString::from(made.value["value"].as_str().unwrap_or_default().to_owned());

    let (ai, _notices) = crate::ai::Ai::start(Arc::clone(steward)).await?;
    let (address, stop, serving) = listen(steward, &ai).await?;
    let body = json!({ "model": "fast", "max_completion_tokens": 200, "messages": [{ "role": "user", "content": QUESTION }] });
    let request = http::Request::post(format!("http://{address}/v1/chat/completions"))
        .header("authorization", format!("Bearer {}", key.expose_secret()))
        .header("content-type", "application/json")
        .body(Outgoing::whole(Bytes::from(body.to_string())))
        .map_err(|cause| other("the request cannot be made", &cause))?;
    print(&format!(
        "   Over HTTP to http://{address}, what these lines of Python send (package openai):\n\n   \
         client = openai.OpenAI(base_url=\"http://{address}/v1\", api_key=\"sk-steward-…\")\n   \
         client.chat.completions.create(model=\"fast\", max_completion_tokens=200,\n       \
         messages=[{{\"role\": \"user\", \"content\": \"{QUESTION}\"}}])\n"
    ));
    let client = Upstream::new(&UpstreamOptions::default())?;
    let answer = client.send(request).await.map_err(|cause| other("the gateway does not answer", &cause))?;
    let status = answer.status();
    let header =
        |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (receipt, target) = (header("steward-receipt").to_owned(), header("steward-target").to_owned());
    let text = answer.into_body().collect().await.map_err(|cause| other("the answer broke off", &cause))?;
    let value: Value = serde_json::from_slice(&text.to_bytes()).unwrap_or_default();
    expect(status.is_success(), "the gateway answers", &value.to_string())?;
    let said = value["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    print(&format!("   {target} answers: {}\n", shorten(said, 2)));
    stop.cancel();
    serving.await.map_err(|cause| other("the gateway broke", &cause))??;
    ai.accounts.close().await?;

    print(&format!("   steward ai receipt {receipt}"));
    let shown = submit(steward, ctx, "ai.receipt", json!({ "id": receipt })).await?;
    expect(shown.value["cost_usd"].as_str().is_some(), "the receipt names the cost", &shown.text)?;
    print(&indent(&shown.text));
    Ok(())
}

/// Serves as `steward up` does, on a free port, until it is stopped.
async fn listen(
    steward: &Arc<Steward>,
    ai: &Arc<crate::ai::Ai>,
) -> Result<(SocketAddr, CancellationToken, JoinHandle<Result<(), Error>>), Error> {
    let fail = |cause: std::io::Error| {
        Error::new(ErrorKind::Unavailable, "the gateway cannot listen on 127.0.0.1").because(cause)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let stop = CancellationToken::new();
    let app = crate::http::app(Arc::clone(steward), Arc::clone(ai), address, &[], stop.clone());
    let doors = Doors { gateway: ai.gateway(), app };
    let until = stop.clone();
    let serving = tokio::spawn(async move {
        let connections = TaskTracker::new();
        serve(listener, None, doors, until, &connections).await?;
        connections.close();
        connections.wait().await;
        Ok(())
    });
    Ok((address, stop, serving))
}

fn expect(told: bool, what: &str, got: &str) -> Result<(), Error> {
    if told {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Other, "the story ended differently")
        .with("expected", what)
        .with("got", shorten(got, 40)))
}

fn chapter(number: usize, title: &str) {
    print(&format!("\n{number}. {title}\n"));
}

fn indent(text: &str) -> String {
    text.trim_end().lines().fold(String::new(), |out, line| out + "   " + line + "\n")
}

fn shorten(text: &str, lines_max: usize) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let more = lines.len().saturating_sub(lines_max);
    lines.truncate(lines_max);
    let rest = if more > 0 { format!("\n… {more} more lines") } else { String::new() };
    format!("{}{rest}", lines.join("\n"))
}

/// Makes the project folder anew.
fn set_up(dir: &Path, simulation: &str) -> Result<(), Error> {
    let fail = |cause: std::io::Error| {
        Error::new(ErrorKind::Denied, "cannot write the demo's folder")
            .with("folder", dir.display())
            .because(cause)
    };
    if dir.exists() {
        let empty = std::fs::read_dir(dir).map_err(fail)?.next().is_none();
        if !empty && !dir.join(MARKER).is_file() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "the folder holds something that is not the demo's",
            )
            .with("folder", dir.display())
            .hint("name another with `--dir DIR`; only a folder that the demo made is recreated"));
        }
        if crate::daemon::running(&dir.join(".steward/state.db")).is_some() {
            return Err(Error::new(ErrorKind::Conflict, "a daemon serves this folder")
                .with("folder", dir.display())
                .hint("stop it first, or name another folder with `--dir DIR`"));
        }
        for entry in std::fs::read_dir(dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(fail)?;
        }
    }
    let write = |path: &str, text: &str| {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(dir))
            .and_then(|()| std::fs::write(&path, text))
            .map_err(fail)
    };
    // First of all, so that a demo that was interrupted can be recreated.
    write(MARKER, "made by `steward demo`, which may remove everything here\n")?;
    write(config::FILE_NAME, &PROJECT_FILE.replace(SIMULATION, simulation))?;
    write("tasks/review.md", TASK)?;
    write("queries/fleet_history.sql", QUERY)?;
    write("data/flights.db", "")?;
    write("migrations/flights/0001_create_flights.sql", &with_rows(CREATE))?;
    for (name, text) in PENDING {
        write(&format!("migrations/flights/{name}"), text)?;
    }
    Ok(())
}

/// The first migration with the dataset's rows behind its tables.
fn with_rows(create: &str) -> String {
    let (up, down) = create.split_once("-- steward: down").unwrap_or((create, ""));
    let mut out = String::from(up);
    for (table, csv) in DATA {
        let mut lines = csv.lines();
        let columns = lines.next().unwrap_or_default();
        let rows: Vec<&str> = lines.collect();
        for chunk in rows.chunks(ROWS_PER_INSERT) {
            let values: Vec<String> = chunk.iter().map(|row| format!("({})", literals(row))).collect();
            out.extend(["INSERT INTO ", table, " (", columns, ") VALUES\n", &values.join(",\n"), ";\n"]);
        }
    }
    format!("{out}\n-- steward: down{down}")
}

/// A line of the dataset, which has no quotes and no commas in its fields, as SQL literals.
fn literals(row: &str) -> String {
    let literal = |field: &str| match field {
        "" => "NULL".to_owned(),
        // `0` and numbers without leading zeros; everything else is text.
        number if number.parse::<i64>().is_ok_and(|value| value.to_string() == number) => number.to_owned(),
        text => format!("'{}'", text.replace('\'', "''")),
    };
    row.split(',').map(literal).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_folder_is_never_touched() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("precious"), "x").expect("a file");
        assert_eq!(set_up(dir.path(), SIMULATION).expect_err("foreign").kind(), ErrorKind::AlreadyExists);
        assert!(dir.path().join("precious").exists());
        let own = dir.path().join("own");
        set_up(&own, SIMULATION).expect("a new folder");
        set_up(&own, SIMULATION).expect("our own folder");
    }

    #[test]
    fn fields_become_literals() {
        assert_eq!(literals("1,2013-01-01,O'Hare,,007,-3"), "1, '2013-01-01', 'O''Hare', NULL, '007', -3");
    }
}
