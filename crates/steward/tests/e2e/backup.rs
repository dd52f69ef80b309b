//! Backups through the program: made, proven, damaged, restored; and what restic says of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::program::{Ended, Project};
use crate::runbooks::Shop;

const SHOP: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL, paid REAL); \
     CREATE INDEX orders_note ON orders (note); \
     CREATE TABLE teams (name TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID; \
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
     INSERT INTO orders SELECT i, 'order ' || i, i / 3.0 FROM n; \
     INSERT INTO teams VALUES ('red', 3), ('blue', NULL)";

/// A project whose repository is set up, and its recovery key.
fn shop(yaml: &str) -> (Project, String) {
    let project = Project::with_sqlite(&format!("project: shop\n{yaml}"), SHOP);
    let made = project.run(&["backup", "setup", "--json"]).expect(0).json();
    let key = made["value"]["value"].as_str().unwrap_or_else(|| panic!("{made:#}")).to_owned();
    (project, key)
}

fn run(project: &Project) -> Value {
    project.run(&["backup", "run", "app", "--json"]).expect(0).json()["value"]["backups"][0].clone()
}

fn id(backup: &Value) -> String {
    backup["backup"]["id"].as_str().unwrap_or_else(|| panic!("{backup:#}")).to_owned()
}

fn rows(file: &Path) -> i64 {
    rusqlite::Connection::open(file)
        .unwrap()
        .query_row("SELECT count(*) FROM orders", [], |row| row.get(0))
        .unwrap()
}

fn restic(repository: &Path, key: &str, args: &[&str]) -> Output {
    Command::new("restic")
        .args(args)
        .arg("--no-cache")
        .env("RESTIC_REPOSITORY", repository)
        .env("RESTIC_PASSWORD", key)
        .output()
        .expect("restic is installed")
}

/// Everything below a folder that is a file.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn a_backup_is_made_proven_listed_shown_and_restored() {
    let (project, _) = shop("");
    let listed = project.run(&["backup", "list"]).expect(5);
    assert!(listed.stdout.contains("app: no backup that was restored and compared"), "{}", listed.stdout);
    let made = project.run(&["backup", "run", "app"]).expect(0);
    assert!(made.stdout.contains("20,002 rows in 2 tables: all as dumped"), "{}", made.stdout);
    let again = run(&project);
    assert_eq!(
        (&again["backup"]["level"], &again["backup"]["rows"]),
        (&json!("l3"), &json!(20_002)),
        "{again:#}"
    );
    let (bytes, added) = (again["backup"]["bytes"].as_u64(), again["backup"]["bytes_added"].as_u64());
    assert!(added.unwrap() < bytes.unwrap() / 20, "the second adds nearly nothing: {again:#}");
    let listed = project.run(&["backup", "list"]).expect(0);
    assert!(listed.stdout.contains(&id(&again)), "{}", listed.stdout);
    let shown = project.run(&["backup", "show", "app", "--json"]).expect(0).json();
    assert_eq!(shown["value"]["manifest"]["dumped"]["tables"][0]["rows"], 20_000, "{shown:#}");
    let restored = project.run(&["backup", "restore", "app", "--json"]).expect(0).json();
    let address = restored["value"]["address"].as_str().unwrap();
    assert_eq!(rows(Path::new(address)), 20_000, "{restored:#}");
    let beside = project.run(&["backup", "restore", "app", "--to", "beside", "--name", "copy.db"]).expect(0);
    assert_eq!(rows(&project.file("copy.db")), 20_000, "{}", beside.stdout);
    let twice = project.run(&["backup", "restore", "app", "--to", "beside", "--name", "copy.db"]);
    assert!(twice.code != 0 && twice.stderr.contains("copy.db"), "{}", twice.stderr);
    project.run(&["backup", "verify", &id(&again)]).expect(0);
    project.run(&["backup", "plan"]).expect(0);
}

#[test]
fn restic_checks_lists_and_restores_what_steward_wrote() {
    let (project, key) = shop("");
    run(&project);
    project.database().execute_batch("DELETE FROM orders WHERE id > 19000").unwrap();
    let second = run(&project);
    let repository = project.file(".steward/backups/shop/pages");
    let check = restic(&repository, &key, &["check", "--read-data"]);
    assert!(check.status.success(), "{check:?}");
    let listed = restic(&repository, &key, &["snapshots", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed:#}");
    let target = project.file("by-restic");
    let snapshot = second["backup"]["snapshot"].as_str().unwrap();
    let restored = restic(&repository, &key, &["restore", snapshot, "--target", target.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    let database = files(&target).into_iter().find(|path| path.extension().is_some_and(|it| it == "db"));
    assert_eq!(rows(&database.expect("a database")), 19_000);
    let wrong = restic(&repository, "WRONG", &["snapshots"]);
    assert!(!wrong.status.success());
}

/// Whoever has the runbook, the recovery key and the repository needs neither Steward nor its state.
#[test]
fn the_runbook_brings_a_lost_database_back_without_steward() {
    let (project, key) = shop("");
    let nothing = project.run(&["backup", "export-runbook"]).expect(0).stdout;
    assert!(nothing.contains("no backup that was restored and compared"), "{nothing}");
    run(&project);
    let runbook = project.run(&["backup", "export-runbook"]).expect(0).stdout;
    let commands: Vec<&str> = runbook
        .split_once("Without Steward")
        .unwrap()
        .1
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .collect();
    assert_eq!(commands.len(), 3, "{runbook}");
    std::fs::remove_file(project.file("app.db")).unwrap();
    std::fs::remove_file(project.file(".steward/state.db")).unwrap();
    std::fs::remove_file(project.file(".steward/master.key")).unwrap();
    let done = Command::new("sh")
        .args(["-ec", &commands.join("\n")])
        .current_dir(project.path())
        .env("RESTIC_PASSWORD", &key)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(rows(&project.file("app.db")), 20_000);
}

#[test]
fn damage_is_found_named_and_escalated_and_other_backups_still_restore() {
    let (project, _) = shop("");
    let first = id(&run(&project));
    // A second one with bytes of its own.
    project
        .database()
        .execute_batch("UPDATE orders SET note = hex(randomblob(40)) WHERE id > 10000")
        .unwrap();
    let before = files(&project.file(".steward/backups/shop/pages/data"));
    let second = id(&run(&project));
    let of_second: Vec<PathBuf> = files(&project.file(".steward/backups/shop/pages/data"))
        .into_iter()
        .filter(|path| !before.contains(path))
        .collect();
    let largest = of_second.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(largest).unwrap();
    std::fs::write(largest, bytes).unwrap();
    let found = project.run(&["backup", "verify", &second]).expect(5);
    assert!(found.stdout.contains("NOT A BACKUP"), "{}", found.stdout);
    assert_eq!(project.escalations("backup_failure").len(), 1);
    project.run(&["backup", "verify", &first]).expect(0);
    let listed = project.run(&["backup", "list"]).expect(0);
    assert!(listed.stdout.contains("DAMAGED"), "{}", listed.stdout);
    let refused = project.run(&["backup", "restore", &second, "--to", "beside", "--name", "bad.db"]);
    assert!(refused.code != 0 && !project.file("bad.db").exists(), "{}", refused.stderr);
}

#[test]
fn in_place_waits_for_the_pm_and_then_brings_the_rows_back() {
    let (project, _) = shop("");
    project.add_person("maria", "a long enough passphrase", &["pm"]);
    run(&project);
    project.database().execute_batch("DELETE FROM orders").unwrap();
    let asked = project.run(&["backup", "restore", "app", "--to", "in_place"]).expect(3);
    let approval =
        asked.stderr.split_whitespace().find(|word| word.starts_with("approval-")).unwrap().to_owned();
    assert_eq!(rows(&project.file("app.db")), 0, "nothing has changed yet");
    let granted = project.run_on_terminal(
        &["approval", "grant", &approval, "--person", "maria"],
        &["a long enough passphrase"],
    );
    assert_eq!(granted.code, 0, "{}", granted.stdout);
    let done = project.run(&["backup", "restore", "app", "--to", "in_place", "--json"]).expect(0).json();
    assert_eq!(rows(&project.file("app.db")), 20_000, "{done:#}");
    let safety = done["value"]["safety_backup"].as_str().unwrap();
    let shown = project.run(&["backup", "show", safety, "--json"]).expect(0).json();
    assert_eq!(shown["value"]["backup"]["rows"], 2, "what was there before is kept: {shown:#}");
    let emptied = project.escalations("data_loss_risk");
    assert!(emptied.is_empty(), "a safety backup of what was lost is no news: {emptied:?}");
}

#[test]
fn what_cannot_be_backed_up_or_found_is_said_with_what_to_do() {
    let project = Project::with_sqlite("project: shop", SHOP);
    let hint = |ended: Ended, code: i32, text: &str| {
        let ended = ended.expect(code);
        assert!(ended.stderr.contains(text), "{}", ended.stderr);
    };
    hint(project.run(&["backup", "run", "app"]), 1, "steward backup setup local");
    hint(project.run(&["backup", "run", "ap"]), 1, "there are: app");
    project.run(&["backup", "setup"]).expect(0);
    hint(project.run(&["backup", "restore", "app"]), 1, "steward backup run app");
    hint(project.run(&["backup", "verify", "bk-none"]), 1, "steward backup list");
    let again = project.run(&["backup", "setup"]).expect(0);
    assert!(again.stdout.contains("it has a recovery key"), "the key is shown once: {}", again.stdout);
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    project
        .write("steward.yaml", format!("{yaml}backup:\n  plans:\n    nightly:\n      stores: [app, ap]\n"));
    let wrong = project.run(&["backup", "plan"]).expect(2);
    assert!(wrong.stderr.contains("backup.plans.nightly.stores"), "{}", wrong.stderr);
}

/// A table is dropped by accident; it comes back beside the database from which it is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_of_postgres_is_noticed_and_comes_back() {
    let shop = Shop::new("backups").await;
    let app = shop.as_app().await;
    app.batch_execute(
        "CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
         CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int REFERENCES customers,
             placed timestamptz NOT NULL DEFAULT now(), note text);
         CREATE INDEX orders_customer ON orders (customer);
         CREATE VIEW busy AS SELECT customer, count(*) AS orders FROM orders GROUP BY customer;
         INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 500) i;
         INSERT INTO orders (customer, note) SELECT i % 500 + 1, repeat('x', i % 300) FROM generate_series(1, 30000) i",
    )
    .await
    .unwrap();
    let project = &shop.project;
    let admin = shop.as_admin().await;
    let programs: String =
        admin.query_one("SELECT setting FROM pg_config WHERE name = 'BINDIR'", &[]).await.unwrap().get(0);
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    let admins = "    admin: { user: postgres }\n";
    assert!(yaml.contains(admins), "{yaml}");
    project.write("steward.yaml", yaml.replace(admins, &format!("{admins}    bin_dir: {programs}\n")));
    let run = |args: &[&str], code| tokio::task::block_in_place(|| project.run(args)).expect(code);
    run(&["backup", "setup"], 0);
    let made = run(&["backup", "run", "shop", "--json"], 0).json()["value"]["backups"][0].clone();
    assert_eq!(
        (&made["backup"]["level"], &made["proof"]["problems"]),
        (&json!("l3"), &json!([])),
        "{made:#}"
    );
    app.batch_execute("DROP TABLE orders CASCADE").await.unwrap();
    let noticed = run(&["backup", "run", "shop"], 5);
    assert!(
        noticed.stdout.contains("SUSPICIOUS: no longer there: public.orders (had 30,000 rows)"),
        "{}",
        noticed.stdout
    );
    let lost = tokio::task::block_in_place(|| project.escalations("data_loss_risk"));
    assert_eq!(lost.len(), 1, "{lost:?}");
    let back = format!("{}_back", shop.database);
    let backup = id(&made);
    run(&["backup", "restore", &backup, "--tables", "public.orders", "--to", "beside", "--name", &back], 0);
    let copy = shop.connect_to(&back).await;
    let rows: i64 = copy.query_one("SELECT count(*) FROM orders", &[]).await.unwrap().get(0);
    assert_eq!(rows, 30_000);
    drop(copy);
    admin.batch_execute(&format!("DROP DATABASE {back} WITH (FORCE)")).await.unwrap();
    drop((app, admin));
    shop.drop().await;
}

/// Each event of a stream: its name and its data.
fn events(text: &str) -> Vec<(String, Value)> {
    text.split("\n\n")
        .filter(|event| !event.is_empty() && !event.starts_with(':'))
        .map(|event| {
            let (name, data) = event.split_once('\n').unwrap_or_else(|| panic!("{event}"));
            let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            (name.strip_prefix("event: ").unwrap().to_owned(), data)
        })
        .collect()
}

#[test]
fn how_far_a_backup_has_come_is_told_over_http() {
    let (project, _) = shop("");
    let token = project.token("ci", "requester");
    let daemon = project.daemon(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = |path: &str, body: Value| {
        runtime.block_on(async {
            let request = crate::program::client().post(daemon.api(path)).bearer_auth(&token).json(&body);
            let response = request.header("accept", "text/event-stream").send().await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            events(&response.text().await.unwrap())
        })
    };
    let told = ask("backup/run", json!({ "plan": "app" }));
    let (last, before) = told.split_last().unwrap();
    assert_eq!((last.0.as_str(), &last.1["status"]), ("answer", &json!("done")), "{told:?}");
    assert!(!before.is_empty() && before.iter().all(|(name, _)| name == "progress"), "{told:?}");
    assert_eq!(before[0].1["stage"], "app: backup", "{told:?}");
    // What is known of it is told wherever the project's state is.
    let metrics = runtime.block_on(async {
        let request = crate::program::client().get(format!("{}/metrics", daemon.url)).bearer_auth(&token);
        request.send().await.unwrap().text().await.unwrap()
    });
    for wanted in [
        "\nsteward_backup_proven_point_timestamp_seconds{steward_project=\"shop\",store=\"app\"} 1",
        "\nsteward_backup_restore_seconds{steward_project=\"shop\",store=\"app\"} 0.",
    ] {
        assert!(metrics.contains(wanted), "{metrics}");
    }
    assert!(metrics.ends_with("\n# EOF\n") && metrics.matches("# EOF").count() == 1, "{metrics}");
    let status = project.answer(&["status"]);
    assert!(status["value"]["backups"][0]["rpo_s"].is_u64(), "{status:#}");
    project.state().execute("UPDATE backups SET point_us = point_us - 90001000000", []).unwrap();
    let status = project.run(&["status", "--json"]).expect(5).json();
    assert_eq!(status["findings"][0]["code"], "backup_too_old", "{status:#}");
    // What fails says so in the same stream.
    let told = ask("backup/run", json!({ "plan": "nothing" }));
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].0.as_str(), &told[0].1["status"]), ("problem", &json!(404)), "{told:?}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_terminal_shows_a_bar_and_takes_it_away() {
    let (project, _) = shop("");
    let ended = project.run_on_terminal(&["backup", "run", "app", "--yes"], &[]).expect(0);
    assert!(ended.stdout.contains("\r\x1b[2Kapp: backup ["), "{:?}", ended.stdout);
    // Nothing is written behind a bar that still stands there.
    let (_, after) = ended.stdout.rsplit_once("\x1b[2K").unwrap();
    assert!(after.starts_with("app: 20,002 rows"), "{:?}", ended.stdout);
}

/// A plan's schedule is kept by the daemon, as one under `schedules` is.
#[test]
fn a_plan_is_due_by_its_own_schedule() {
    let plan = |cron: &str| {
        format!(
            "backup:\n  plans:\n    nightly:\n      stores: [app]\n      schedule: {{ cron: \"{cron}\", zone: Europe/Berlin, jitter_minutes: 20 }}\n"
        )
    };
    let (project, _) = shop(&plan("10 2 29 2 *"));
    let far = project.answer(&["schedule", "list"])["value"][0].clone();
    assert_eq!((&far["name"], &far["request"]), (&json!("backup:nightly"), &json!("backup.run")), "{far}");
    let daemon = project.daemon(&[]);
    let due = || -> Option<i64> {
        let sql = "SELECT next_us FROM jobs WHERE name = 'backup:nightly'";
        project.state().query_row(sql, [], |row| row.get(0)).ok()
    };
    crate::program::eventually("the daemon knows the schedule", || due().is_some());
    let leap_day = due().unwrap();
    // Changed while it runs, it is due by its new times, and not only after the old one has come.
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    project.write("steward.yaml", yaml.replace("10 2 29 2 *", "10 2 * * *"));
    crate::program::eventually("the schedule has its new time", || due().unwrap() < leap_day);
    project.state().execute("UPDATE jobs SET next_us = 1 WHERE name = 'backup:nightly'", []).unwrap();
    let proven = || project.run(&["backup", "list"]).code == 0;
    crate::program::eventually("the daemon made a backup and proved it", proven);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn stores_that_belong_together_are_taken_at_once() {
    let plans = "  more: { kind: sqlite, path: more.db }\nbackup:\n  plans:\n    both:\n      stores: [app, more]\n      \
                 consistency: { mode: together, max_skew_seconds: 3600 }\n";
    let (project, _) = shop("");
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    assert!(yaml.trim_end().ends_with("app.db }") || yaml.contains("stores:"), "{yaml}");
    project.write("steward.yaml", format!("{}\n{plans}", yaml.trim_end()));
    let more = rusqlite::Connection::open(project.file("more.db")).unwrap();
    more.execute_batch("CREATE TABLE sessions (id INTEGER PRIMARY KEY); INSERT INTO sessions VALUES (1)")
        .unwrap();
    let made = project.run(&["backup", "run", "both", "--json"]).expect(0).json();
    let backups = made["value"]["backups"].as_array().unwrap();
    let name = made["value"]["together"]["name"].as_str().unwrap_or_else(|| panic!("{made:#}"));
    assert!(made["value"]["together"]["skew_ms"].is_u64(), "{made:#}");
    assert!(backups.len() == 2 && backups.iter().all(|one| one["backup"]["together"] == name), "{made:#}");
    assert!(made["text"].as_str().unwrap().contains("taken together"), "{made:#}");
    let restored = project.run(&["backup", "restore", "app"]).expect(0);
    let other = id(&backups[1]);
    assert!(restored.stdout.contains(&format!("taken together with {other} of more")), "{}", restored.stdout);
    // The name is in the manifest, and so outlives the ledger.
    let shown = project.run(&["backup", "show", &other, "--json"]).expect(0).json();
    assert_eq!(shown["value"]["backup"]["together"], name, "{shown:#}");
    // A moment that nobody can meet is told, and the backups count all the same.
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    project.write("steward.yaml", yaml.replace("max_skew_seconds: 3600", "max_skew_seconds: 0"));
    let made = project.run(&["backup", "run", "both", "--json"]).json();
    if made["value"]["together"]["skew_ms"] != 0 {
        assert_eq!(made["findings"][0]["code"], "backup_skew", "{made:#}");
    }
    // One that cannot be taken does not take the other with it.
    drop(more);
    std::fs::write(project.file("more.db"), "this is no database, and longer than a header of one would be")
        .unwrap();
    let half = project.run(&["backup", "run", "both"]);
    assert!(half.code != 0 && half.stderr.contains("more"), "{}", half.stderr);
    let listed = project.run(&["backup", "list", "--store", "app", "--json"]).json();
    assert_eq!(listed["value"]["backups"].as_array().unwrap().len(), 3, "{listed:#}");
}
