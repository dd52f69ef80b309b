//! Migrations through the command line, up to a process that is killed at any moment.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use crate::program::{Project, eventually};

const CREATE_PADDED: &str = "CREATE TABLE log (n INTEGER, pad TEXT);\n-- steward: down\nDROP TABLE log;\n";

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

/// Killed by its limit on the size of files: the kernel ends it in the middle of a write. The limits go up in steps
/// through the store's file, every insert of which adds pages, and through the log of the state; so every point of the
/// work is met, and none depends on the clock.
#[test]
fn process_killed_at_any_point_is_resumed_and_runs_nothing_twice() {
    const PAGE: u64 = 4096;
    let project = shop();
    let mut files = vec![("0001_create_log.sql".to_owned(), CREATE_PADDED.to_owned())];
    for n in 2..=9 {
        // Half of them in one transaction, half with a step for each statement.
        let mode = if n % 2 == 0 { "-- steward: no-transaction\n" } else { "" };
        let insert = |i: u32| format!("INSERT INTO log VALUES ({}, hex(zeroblob({PAGE})));\n", n * 10 + i);
        let inserts = [0, 1, 2].map(insert).concat();
        files.push((
            format!("000{n}_log.sql"),
            format!("{mode}{inserts}-- steward: down\nDELETE FROM log WHERE n / 10 = {n};\n"),
        ));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, sql)| (name.as_str(), sql.as_str())).collect();
    project.migrations(&files);
    // Larger than what one run adds to the log of the state: above it, only the store's own file meets the limit.
    project
        .database()
        .execute_batch("INSERT INTO orders SELECT 1; CREATE TABLE pad AS SELECT zeroblob(400000)")
        .unwrap();
    let fresh = std::fs::read(project.file("app.db")).unwrap();
    project.run(&["migration", "apply", "app"]).expect(0);
    let (before, after) = (fresh.len() as u64, project.file("app.db").metadata().unwrap().len());
    assert!(after > before + 24 * PAGE, "every insert adds a page: {before}, {after}");
    let in_the_store = (before + PAGE / 2..after).step_by(usize::try_from((after - before) / 24).unwrap());
    // The log begins anew with each process; a few of its pages at a time.
    let in_the_state = (8 * PAGE..40 * PAGE).step_by(usize::try_from(2 * PAGE).unwrap());

    let open = || -> i64 {
        project
            .state()
            .query_row("SELECT count(*) FROM intents WHERE finished_us IS NULL", [], |row| row.get(0))
            .unwrap()
    };
    let (mut killed, mut interrupted) = (0, 0);
    for (round, limit) in in_the_store.chain(in_the_state).enumerate() {
        for name in ["app.db-wal", "app.db-shm", "app.db-journal"] {
            drop(std::fs::remove_file(project.file(name)));
        }
        std::fs::write(project.file("app.db"), &fresh).unwrap();
        let status = std::process::Command::new("prlimit")
            .args([
                &format!("--fsize={limit}"),
                "--core=0",
                env!("CARGO_BIN_EXE_steward"),
                "migration",
                "apply",
                "app",
            ])
            .current_dir(project.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        killed += u32::from(status.signal().is_some());
        assert!(status.signal().is_some() || limit < before, "{limit} of {after} bytes, and not killed");
        interrupted += open();
        assert!(open() <= 1);
        // The next command goes on with it, and so does the daemon.
        if round % 6 == 0 {
            let daemon = project.daemon(&[]);
            eventually("the daemon takes up the change", || open() == 0);
            assert_eq!(daemon.stop(), 0);
        }
        project.run(&["migration", "apply", "app"]).expect(0);
        let (rows, distinct) =
            (project.number("SELECT count(*) FROM log"), project.number("SELECT count(DISTINCT n) FROM log"));
        assert_eq!((rows, distinct), (24, 24), "limit {limit}");
        assert_eq!(
            project.number("SELECT count(*) FROM steward_migrations WHERE state = 'applied'"),
            9,
            "limit {limit}"
        );
    }
    println!("{killed} killed, {interrupted} of them with an open intent");
    assert!(killed >= 24 && interrupted >= 24, "killed {killed}, with an open intent {interrupted}");
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
