//! Migrations through the command line, up to a process that is killed at any moment.

use std::process::Stdio;
use std::time::Instant;

use crate::program::{Project, eventually};

const CREATE: &str = "CREATE TABLE log (n INTEGER);\n-- steward: down\nDROP TABLE log;\n";

fn shop() -> Project {
    Project::with_sqlite("project: shop", "CREATE TABLE orders (id INTEGER PRIMARY KEY)")
}

#[test]
fn migrations_are_written_planned_applied_and_taken_back() {
    let project = shop();
    project.run(&["migration", "new", "app", "create log"]).expect(0);
    let file = project.file("migrations/app/0001_create_log.sql");
    let template = std::fs::read_to_string(&file).unwrap();
    assert!(template.contains("-- steward: up") && template.contains("-- steward: down"), "{template}");
    project.run(&["migration", "apply", "app"]).expect(2);

    std::fs::write(&file, CREATE).unwrap();
    let status = project.answer(&["migration", "status", "app"]);
    assert_eq!(status["value"]["pending"][0]["name"], "0001_create_log", "{status}");
    let plan = project.answer(&["migration", "plan", "app"]);
    let (digest, dry) =
        (plan["value"]["digest"].clone(), project.answer(&["migration", "apply", "app", "--dry-run"]));
    assert_eq!(dry["status"], "planned");
    assert_eq!(dry["value"]["digest"], digest, "what is shown is what will run");
    assert_eq!(project.number("SELECT count(*) FROM sqlite_master WHERE name = 'log'"), 0);

    let applied = project.run(&["migration", "apply", "app"]).expect(0);
    assert!(applied.stdout.contains("verified"), "{}", applied.stdout);
    let nothing = project.run(&["migration", "apply", "app"]).expect(0);
    assert!(nothing.stdout.contains("nothing to apply"), "{}", nothing.stdout);
    project.run(&["migration", "status", "app"]).expect(0);

    // The way back loses a table: it waits for a person.
    let back = project.run(&["migration", "rollback", "app", "--json"]).expect(3).json();
    assert_eq!(back["status"], "waiting", "{back}");
    assert_eq!(project.number("SELECT count(*) FROM sqlite_master WHERE name = 'log'"), 1);
}

#[test]
fn migration_without_loss_is_taken_back_at_once() {
    let project = shop();
    project.migrations(&[(
        "0001_index.sql",
        "CREATE INDEX orders_id ON orders (id);\n-- steward: down\nDROP INDEX orders_id;\n",
    )]);
    project.run(&["migration", "apply", "app"]).expect(0);
    project.run(&["migration", "rollback", "app"]).expect(0);
    assert_eq!(project.number("SELECT count(*) FROM sqlite_master WHERE name = 'orders_id'"), 0);
    let nothing = project.run(&["migration", "rollback", "app"]).expect(0);
    assert!(nothing.stdout.contains("nothing to take back"), "{}", nothing.stdout);
}

#[test]
fn files_that_do_not_fit_the_history_are_named() {
    let project = shop();
    project.migrations(&[
        ("0001_create_log.sql", CREATE),
        ("0002_more.sql", "CREATE TABLE more (n INTEGER);\n-- steward: down\nDROP TABLE more;\n"),
    ]);
    project.run(&["migration", "apply", "app"]).expect(0);
    let refused = |parts: &[&str]| {
        for verb in ["status", "plan", "apply", "rollback"] {
            let ended = project.run(&["migration", verb, "app"]);
            assert!([1, 2].contains(&ended.code), "{verb}: {ended:?}");
            for part in parts {
                assert!(ended.stderr.contains(part), "{verb} wants {part}\n{}", ended.stderr);
            }
        }
    };
    project.migrations(&[("0001_create_log.sql", &CREATE.replace("INTEGER", "TEXT"))]);
    refused(&["edited after it was applied", "migrations/app/0001_create_log.sql", "hint: "]);
    project.migrations(&[("0001_create_log.sql", CREATE), ("0002_twin.sql", CREATE)]);
    refused(&["two migrations have the number 2", "0002_more.sql", "0002_twin.sql", "hint: "]);
    std::fs::remove_file(project.file("migrations/app/0002_twin.sql")).unwrap();
    std::fs::remove_file(project.file("migrations/app/0002_more.sql")).unwrap();
    refused(&["0002_more", "missing", "hint: "]);
    project.migrations(&[("0003_gap.sql", CREATE)]);
    refused(&["missing", "0003_gap.sql"]);
    std::fs::remove_file(project.file("migrations/app/0003_gap.sql")).unwrap();
    project.migrations(&[("last.sql", CREATE)]);
    refused(&["last.sql", "hint: "]);
    assert_eq!(project.number("SELECT count(*) FROM steward_migrations"), 2);
}

#[test]
fn failing_statement_takes_its_whole_migration_back() {
    let project = shop();
    project.migrations(&[
        ("0001_create_log.sql", CREATE),
        ("0002_fails.sql", "INSERT INTO log VALUES (1);\nINSERT INTO no_such_table VALUES (1);\n-- steward: down\nDELETE FROM log;\n"),
    ]);
    let ended = project.run(&["migration", "apply", "app"]).expect(1);
    assert!(
        ended.stderr.contains("no_such_table") && ended.stderr.contains("0002_fails"),
        "{}",
        ended.stderr
    );
    assert_eq!(project.number("SELECT count(*) FROM steward_migrations"), 1, "the first one stays");
    assert_eq!(project.number("SELECT count(*) FROM log"), 0);
    project.migrations(&[(
        "0002_fails.sql",
        "INSERT INTO log VALUES (1);\n-- steward: down\nDELETE FROM log;\n",
    )]);
    project.run(&["migration", "apply", "app"]).expect(0);
    assert_eq!(project.number("SELECT count(*) FROM log"), 1);
    project.run(&["audit", "verify"]).expect(0);
}

/// Processes that the kill test must have ended before they were done.
const KILLS: u32 = 20;

#[test]
fn process_killed_at_any_moment_is_resumed_and_runs_nothing_twice() {
    let project = shop();
    let mut files = vec![("0001_create_log.sql".to_owned(), CREATE.to_owned())];
    for n in 2..=9 {
        // Half of them in one transaction, half with a step for each statement.
        let mode = if n % 2 == 0 { "-- steward: no-transaction\n" } else { "" };
        let inserts = [0, 1, 2].map(|i| format!("INSERT INTO log VALUES ({});\n", n * 10 + i)).concat();
        files.push((
            format!("000{n}_log.sql"),
            format!("{mode}{inserts}-- steward: down\nDELETE FROM log WHERE n / 10 = {n};\n"),
        ));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, sql)| (name.as_str(), sql.as_str())).collect();
    project.migrations(&files);
    let fresh = std::fs::read(project.file("app.db")).unwrap();
    let started = Instant::now();
    project.run(&["migration", "apply", "app"]).expect(0);
    let mut whole = started.elapsed();

    let (mut killed, mut interrupted, mut round) = (0, 0, 0);
    while killed < KILLS || interrupted < 4 {
        round += 1;
        assert!(round < 100, "killed {killed}, with an open intent {interrupted}: the moments miss the work");
        for name in ["app.db-wal", "app.db-shm", "app.db-journal"] {
            drop(std::fs::remove_file(project.file(name)));
        }
        std::fs::write(project.file("app.db"), &fresh).unwrap();
        let mut child = project
            .command(&["migration", "apply", "app"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Spread over the run, without a pattern (multiples of the golden ratio); the exact moments are chance.
        std::thread::sleep(whole.mul_f64(0.2 + 0.8 * (f64::from(round) * 0.618).fract()));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            whole = whole.mul_f64(0.9); // The machine was busier when the first run was timed.
        } else {
            killed += 1;
        }
        let open: i64 = project
            .state()
            .query_row("SELECT count(*) FROM intents WHERE finished_us IS NULL", [], |row| row.get(0))
            .unwrap();
        interrupted += open;
        assert!(open <= 1);
        // The next command goes on with it, and so does the daemon.
        if round % 6 == 0 {
            let daemon = project.daemon(&[]);
            eventually("the daemon takes up the change", || {
                let open: i64 = project
                    .state()
                    .query_row("SELECT count(*) FROM intents WHERE finished_us IS NULL", [], |row| row.get(0))
                    .unwrap();
                open == 0
            });
            assert_eq!(daemon.stop(), 0);
        }
        project.run(&["migration", "apply", "app"]).expect(0);
        let (rows, distinct) =
            (project.number("SELECT count(*) FROM log"), project.number("SELECT count(DISTINCT n) FROM log"));
        assert_eq!((rows, distinct), (24, 24), "round {round}");
        assert_eq!(
            project.number("SELECT count(*) FROM steward_migrations WHERE state = 'applied'"),
            9,
            "round {round}"
        );
    }
    let state = project.state();
    let count = |sql: &str| state.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM intents WHERE finished_us IS NULL"), 0);
    assert_eq!(
        count("SELECT count(*) FROM events WHERE kind = 'migration.apply.intent'"),
        count("SELECT count(*) FROM events WHERE kind = 'migration.apply.outcome'"),
    );
    assert!(count("SELECT count(*) FROM intents WHERE outcome = 'resumed'") >= 1);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn two_processes_that_apply_at_once_run_nothing_twice() {
    let project = shop();
    project.migrations(&[
        ("0001_create_log.sql", CREATE),
        ("0002_log.sql", "INSERT INTO log VALUES (1);\n-- steward: down\nDELETE FROM log;\n"),
    ]);
    let children: Vec<_> = (0..4)
        .map(|_| {
            project
                .command(&["migration", "apply", "app"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let ended: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    assert!(ended.iter().any(|one| one.status.success()), "{ended:?}");
    for one in &ended {
        assert!(matches!(one.status.code(), Some(0 | 1)), "{one:?}");
    }
    // Whoever was turned away finds it done.
    project.run(&["migration", "apply", "app"]).expect(0);
    assert_eq!(project.number("SELECT count(*) FROM log"), 1);
    project.run(&["audit", "verify"]).expect(0);
}
