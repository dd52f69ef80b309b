//! Backups that nobody watches: what a schedule cannot do is told, what was cut off is made, and what is too old is seen.

use serde_json::{Value, json};

use crate::program::{Daemon, Project, eventually};

const ORDERS: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY); INSERT INTO orders VALUES (1), (2)";
/// The schedule of the plan, which is due on a leap day only: in a test it is due when the test says so.
const JOB: &str = "backup:nightly";
const DAY_US: i64 = 86_400_000_000;

/// A project with a plan on a schedule, and a repository that is set up.
fn shop(more: &str) -> Project {
    let project = Project::new(&format!(
        "project: shop\nhttp:\n  listen: 127.0.0.1:0\n  drain_s: 5\nstores:\n  \
         app: {{ kind: sqlite, path: app.db, lock_timeout_ms: 600000 }}\n\
         backup:\n  plans:\n    nightly:\n      stores: [app]\n      schedule: {{ cron: \"10 2 29 2 *\" }}\n{more}"
    ));
    project.database().execute_batch(ORDERS).unwrap();
    project.run(&["backup", "setup"]).expect(0);
    project
}

/// One column of the schedule's job.
fn job<T: rusqlite::types::FromSql>(project: &Project, column: &str) -> Option<T> {
    let sql = format!("SELECT {column} FROM jobs WHERE name = ?1");
    project.state().query_row(&sql, [JOB], |row| row.get::<_, Option<T>>(0)).ok().flatten()
}

/// Makes the schedule of a daemon that runs due now.
fn make_due(project: &Project) {
    eventually("the daemon knows the schedule", || job::<i64>(project, "next_us").is_some());
    project.state().execute("UPDATE jobs SET next_us = 1 WHERE name = ?1", [JOB]).unwrap();
}

fn has_status(project: &Project, status: &str) -> bool {
    job::<String>(project, "last_status").as_deref() == Some(status)
}

fn proven(project: &Project) -> i64 {
    let sql = "SELECT count(*) FROM backups WHERE level = 'l3'";
    project.state().query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Makes the schedule due once more and waits until that has failed.
fn fails(project: &Project) {
    project.state().execute("UPDATE jobs SET last_status = NULL WHERE name = ?1", [JOB]).unwrap();
    make_due(project);
    eventually("the run has failed", || has_status(project, "failed"));
}

fn one_escalation(project: &Project, seen: i64) -> Value {
    let open = project.escalations("backup_failure");
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!(open[0]["seen"], seen, "{open:?}");
    open[0].clone()
}

fn acknowledge(project: &Project, escalation: &Value) {
    project.run(&["inbox", "ack", escalation["id"].as_str().unwrap()]).expect(0);
}

#[test]
fn a_scheduled_backup_whose_source_or_repository_is_gone_is_told_once() {
    let project = shop("");
    let moved = |from: &str, to: &str| std::fs::rename(project.file(from), project.file(to)).unwrap();
    // Whoever mistypes a name at the command line sees it there.
    project.run(&["backup", "run", "nothing"]).expect(1);
    project.run(&["backup", "run", "nightly"]).expect(0);
    let daemon = project.daemon(&[]);
    moved("app.db", "app.away");
    fails(&project);
    fails(&project);
    let told = one_escalation(&project, 2);
    assert!(told["title"].as_str().unwrap().contains("nightly"), "{told:#}");
    acknowledge(&project, &told);
    moved("app.away", "app.db");

    let repository = ".steward/backups/shop";
    moved(repository, "away");
    fails(&project);
    fails(&project);
    assert!(!project.file(repository).join("pages/config").exists(), "no new one is made in its place");
    let told = one_escalation(&project, 2);
    acknowledge(&project, &told);
    drop(std::fs::remove_dir_all(project.file(repository)));
    moved("away", repository);
    make_due(&project);
    eventually("the next one is made", || proven(&project) == 2);
    eventually("and said", || has_status(&project, "done"));
    assert!(project.escalations("backup_failure").is_empty());
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_backup_that_is_too_old_is_told_though_nobody_asks() {
    let project = shop("");
    project.run(&["backup", "run", "nightly"]).expect(0);
    let daemon = project.daemon(&[]);
    let looks = || -> i64 {
        let sql =
            "SELECT count(*) FROM events WHERE kind = 'backup.list.answered' AND actor LIKE '%lookout%'";
        project.state().query_row(sql, [], |row| row.get(0)).unwrap()
    };
    eventually("it has looked", || looks() == 1);
    assert_eq!(daemon.stop(), 0);
    assert!(project.escalations("backup_failure").is_empty());
    let older = "UPDATE backups SET begun_us = begun_us - ?1, point_us = point_us - ?1";
    project.state().execute(older, [2 * DAY_US]).unwrap();
    let daemon = project.daemon(&[]);
    eventually("it is told", || !project.escalations("backup_failure").is_empty());
    let told = one_escalation(&project, 1);
    assert!(told["title"].as_str().unwrap().contains("the newest proven backup of app is 2 d"), "{told:#}");
    assert_eq!(daemon.stop(), 0);
}

/// As where the login may no longer replicate: a file has no log at all.
#[test]
fn a_log_that_cannot_be_followed_is_told_though_nobody_asks() {
    let project = shop("");
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    let wanted = "stores: [app]\n      method: physical\n      logs: continuous\n";
    project.write("steward.yaml", yaml.replace("stores: [app]\n", wanted));
    project.run(&["backup", "list"]).expect(5);
    let follow = |ago_us: i64| {
        let row = "INSERT OR REPLACE INTO backup_logs (project, store, plan, repository, holder, source, timeline, written, kept, \
             until_us, retained_bytes, problem, looked_us) VALUES ('shop', 'app', 'nightly', 'local', 'x', '7', 1, '0/9', '0/9', \
             unixepoch() * 1000000 - ?1, 0, 'it may not replicate', unixepoch() * 1000000)";
        project.state().execute(row, [ago_us]).unwrap();
    };
    // An hour is within what may be lost, two days are not.
    follow(DAY_US / 24);
    project.run(&["backup", "list"]).expect(5);
    assert!(project.escalations("backup_failure").is_empty());
    follow(2 * DAY_US);
    let daemon = project.daemon(&[]);
    eventually("it is told", || !project.escalations("backup_failure").is_empty());
    let told = one_escalation(&project, 1);
    assert!(
        told["title"].as_str().unwrap().starts_with("the log of app was not kept for 2 days"),
        "{told:#}"
    );
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_project_without_backups_is_left_alone() {
    let project = Project::with_sqlite(
        "project: shop\nschedules:\n  hourly: { cron: \"0 * * * *\", request: store.list }\n",
        ORDERS,
    );
    let daemon = project.daemon(&[]);
    let count = |sql: &str| project.state().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    // A tick has passed, in which it would have looked.
    eventually("the schedule is noted", || count("SELECT count(*) FROM jobs") == 1);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(count("SELECT count(*) FROM events WHERE actor LIKE '%lookout%'"), 0);
}

#[test]
fn what_a_clock_that_ran_ahead_has_noted_does_not_silence_a_schedule() {
    let project = shop("");
    let daemon = project.daemon(&[]);
    eventually("the daemon knows the schedule", || job::<i64>(&project, "next_us").is_some());
    let leap_day = job::<i64>(&project, "next_us").unwrap();
    let ahead = "UPDATE jobs SET next_us = next_us + ?1 WHERE name = ?2";
    project.state().execute(ahead, rusqlite::params![4 * 1461 * DAY_US, JOB]).unwrap();
    eventually("it is due when it should be", || job::<i64>(&project, "next_us") == Some(leap_day));
    assert_eq!(daemon.stop(), 0);
}

/// A daemon in the middle of the scheduled backup, which waits for the lock that is held here.
fn inside(project: &Project) -> (Daemon, rusqlite::Connection) {
    let daemon = project.daemon(&[]);
    let lock = project.database();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    make_due(project);
    eventually("the run has begun", || has_status(project, "running"));
    (daemon, lock)
}

#[test]
fn a_backup_that_was_cut_off_is_made_at_the_next_start() {
    let project = shop("");
    let (mut daemon, lock) = inside(&project);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    // By a clock that ran ahead, the lease of the killed run would last for days.
    project.state().execute("UPDATE leases SET expires_us = expires_us + ?1", [2 * DAY_US]).unwrap();
    lock.execute_batch("COMMIT").unwrap();
    let daemon = project.daemon(&[]);
    eventually("it was made", || proven(&project) == 1);
    eventually("and said", || has_status(&project, "done"));
    assert_eq!(daemon.stop(), 0);
    assert_eq!(proven(&project), 1, "once");
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_backup_that_the_end_of_the_daemon_cut_off_is_made_at_the_next_start() {
    let project = shop("");
    let (daemon, lock) = inside(&project);
    daemon.stop();
    lock.execute_batch("COMMIT").unwrap();
    assert!(!has_status(&project, "failed"), "nothing was wrong with it");
    assert!(project.escalations("backup_failure").is_empty());
    let daemon = project.daemon(&[]);
    eventually("it was made", || proven(&project) == 1);
    eventually("and said", || has_status(&project, "done"));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_backup_that_was_cut_off_and_is_not_made_up_for_is_told() {
    let skipped = "schedules:\n  weekly:\n    cron: \"10 2 29 2 *\"\n    catch_up: skip\n    request: backup.run\n    \
                   arguments: { plan: app }\n";
    let project = shop(skipped);
    let daemon = project.daemon(&[]);
    eventually("the daemon knows the schedule", || job::<i64>(&project, "next_us").is_some());
    assert_eq!(daemon.stop(), 0);
    // As a daemon that was killed inside leaves it.
    project.state().execute("UPDATE jobs SET last_status = 'running' WHERE name = 'weekly'", []).unwrap();
    let daemon = project.daemon(&[]);
    let told = one_escalation(&project, 1);
    assert!(told["title"].as_str().unwrap().contains("`backup.run` of the schedule weekly"), "{told:#}");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(proven(&project), 0);
}

#[test]
fn the_numbers_of_backups_are_shown_and_measured() {
    let project = shop("");
    let metrics = |daemon: &Daemon, token: &str| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let request = crate::program::client().get(format!("{}/metrics", daemon.url)).bearer_auth(token);
            request.send().await.unwrap().text().await.unwrap()
        })
    };
    for _ in 0..3 {
        project.run(&["backup", "run", "nightly"]).expect(0);
    }
    let moments = |sql: &str| project.state().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let newest = moments("SELECT max(point_us) FROM backups");
    let fail = "UPDATE backups SET state = 'failed', level = 'none' WHERE point_us < ?1";
    project.state().execute(fail, [newest]).unwrap();
    // A log that was followed for a minute behind a backup that is physical; the newest one was 1,000 s ago.
    let older = "UPDATE backups SET point_us = point_us - 1000000000, begun_us = begun_us - 1000000000, restore_ms = 1500, method = 'logical'";
    project.state().execute(older, []).unwrap();
    let rpo_s =
        |project: &Project| project.answer(&["status"])["value"]["backups"][0]["rpo_s"].as_i64().unwrap();
    assert!(rpo_s(&project) >= 1_000);
    let followed = "INSERT INTO backup_logs (project, store, plan, repository, holder, source, timeline, written, kept, until_us, \
         retained_bytes, looked_us) VALUES ('shop', 'app', 'nightly', 'local', 'x', '7', 1, '0/9', '0/9', ?1, 0, ?1)";
    let until = newest - 900_000_000;
    project.state().execute(followed, [until]).unwrap();
    assert!(rpo_s(&project) >= 1_000, "a log without a backup that it can be applied to leads nowhere");
    project.state().execute("UPDATE backups SET method = 'physical'", []).unwrap();
    let status = project.answer(&["status"]);
    let one = &status["value"]["backups"][0];
    let rpo = one["rpo_s"].as_i64().unwrap();
    assert!((900..1_000).contains(&rpo), "the log counts: {one:#}");
    assert!(one["verified_age_s"].as_i64().unwrap() >= 1_000, "{one:#}");
    assert_eq!((&one["runs_30d"], &one["succeeded_30d"]), (&json!(3), &json!(1)), "{one:#}");
    assert!(
        status["text"].as_str().unwrap().contains("1 of 3 backups in 30 days succeeded (33.3 %"),
        "{status:#}"
    );
    let gap = "UPDATE backup_logs SET gap = 'it was lost', gap_us = ?1";
    project.state().execute(gap, [until]).unwrap();
    assert!(rpo_s(&project) >= 1_000, "behind a gap it does not");
    project.state().execute("UPDATE backup_logs SET gap = NULL, gap_us = NULL", []).unwrap();

    let token = project.token("ci", "reader");
    let daemon = project.daemon(&[]);
    let text = metrics(&daemon, &token);
    let value = |name: &str| -> &str {
        let head = format!("steward_backup_{name}{{steward_project=\"shop\",store=\"app\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&head));
        line.unwrap_or_else(|| panic!("{name}: {text}"))
    };
    let second = |us: i64| us.div_euclid(1_000_000).to_string();
    let verified = moments("SELECT max(verified_us) FROM backups WHERE level = 'l3'");
    for (name, expected) in [
        ("proven_point_timestamp_seconds", second(newest - 1_000_000_000)),
        ("recovery_point_timestamp_seconds", second(until)),
        ("verified_timestamp_seconds", second(verified)),
        ("rpo_objective_seconds", "90000".into()),
        ("rto_objective_seconds", "1800".into()),
        ("restore_seconds", "1.5".into()),
        ("restore_forecast_seconds", "1.5".into()),
        ("success_ratio", "0.3333333333333333".into()),
        ("success_objective_ratio", "1".into()),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_task_makes_a_backup_proves_it_and_drills() {
    let project = shop("");
    project.write(
        "task.yaml",
        "Context:\n  - store: app\n  - lose: database\nTask:\n  - Take a backup and prove it by a restore\n",
    );
    let done = project.run(&["task", "run", "task.yaml", "--json"]).expect(0).json();
    let report = &done["value"];
    assert_eq!((&report["status"], &report["runbooks"]), (&json!("done"), &json!(["backup@1"])), "{done:#}");
    let shown = project.answer(&["backup", "list"]);
    assert_eq!(shown["value"]["backups"][0]["plan"], "nightly", "the plan that names the store: {shown:#}");
    assert_eq!(
        (proven(&project), &shown["value"]["stores"][0]["last_drill"]["result"]),
        (1, &json!("passed"))
    );
    // What nobody could restore is no backup, and the task has failed.
    std::fs::write(project.file("app.db"), "this is no database, and longer than a header of one would be")
        .unwrap();
    let failed = project.run(&["task", "run", "task.yaml", "--json"]).expect(1).json();
    assert_eq!(failed["value"]["status"], "failed", "{failed:#}");
}
