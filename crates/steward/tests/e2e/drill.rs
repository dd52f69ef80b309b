//! Disasters that are played on scratch copies: restored for real, compared, timed, and nothing real touched.

use std::path::Path;

use serde_json::{Value, json};

use crate::program::Project;

const SHOP: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL); \
     CREATE TABLE teams (name TEXT PRIMARY KEY); INSERT INTO teams VALUES ('red'); \
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
     INSERT INTO orders SELECT i, 'order ' || i FROM n";

fn shop() -> (Project, String) {
    let project = Project::with_sqlite("project: shop", SHOP);
    let made = project.run(&["backup", "setup", "--json"]).expect(0).json();
    let key = made["value"]["value"].as_str().unwrap_or_else(|| panic!("{made:#}")).to_owned();
    (project, key)
}

fn drill(project: &Project, lose: &str, input: &str, code: i32) -> Value {
    let args = ["backup", "drill", "app", "--lose", lose, "--json"];
    project.run_with_input(&args, input).expect(code).json()
}

fn scratch(project: &Project) -> Vec<String> {
    let entries = project.file(".steward/scratch").read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn look(file: &Path) -> (Vec<u8>, std::time::SystemTime) {
    (std::fs::read(file).unwrap(), file.metadata().unwrap().modified().unwrap())
}

#[test]
fn every_loss_is_played_and_the_source_is_as_before() {
    let (project, key) = shop();
    let nothing = drill(&project, "database", "", 5);
    assert_eq!(nothing["value"]["drills"][0]["result"], "not_tried", "{nothing:#}");
    assert_eq!(nothing["findings"][0]["code"], "drill_not_tried", "{nothing:#}");
    project.run(&["backup", "run", "app"]).expect(0);
    let before = look(&project.file("app.db"));
    for (lose, input, rows, steps) in
        [("database", "", 3001, 3), ("table", "", 3000, 3), ("key", key.as_str(), 3001, 4)]
    {
        let played = drill(&project, lose, input, 0);
        let receipt = &played["value"]["drills"][0];
        assert_eq!((&receipt["result"], &receipt["rows"]), (&json!("passed"), &json!(rows)), "{played:#}");
        assert_eq!(receipt["steps"].as_array().unwrap().len(), steps, "{played:#}");
        assert_eq!(receipt["objective_ms"], 1_800_000, "{played:#}");
        assert!(receipt["recovery_ms"].as_u64().is_some(), "{played:#}");
        let source = &played["value"]["sources"][0];
        assert_eq!(source["before"], source["after"], "{played:#}");
        assert_eq!(source["after"]["bytes"], before.0.len(), "{played:#}");
        assert_eq!(scratch(&project), Vec::<String>::new());
    }
    assert_eq!(look(&project.file("app.db")), before, "a drill touches nothing real");
    // A backup in one place alone, no key, a wrong key: each is said, and none is called recovered.
    let alone = drill(&project, "repository", "", 5);
    assert!(
        alone["value"]["drills"][0]["problem"].as_str().unwrap().contains("is in local alone"),
        "{alone:#}"
    );
    let none = drill(&project, "key", "", 5);
    assert!(
        none["value"]["drills"][0]["problem"].as_str().unwrap().contains("no recovery key was given"),
        "{none:#}"
    );
    let wrong = drill(&project, "key", "0000-1111-0000-1111-0000-1111-0000-1111", 5);
    assert_eq!(wrong["value"]["drills"][0]["result"], "failed", "{wrong:#}");
    assert!(wrong["value"]["drills"][0]["problem"].as_str().unwrap().contains("does not open"), "{wrong:#}");
    assert_eq!(project.escalations("backup_failure").len(), 1);
    // What was measured is kept, and is where people look.
    let listed = project.run(&["backup", "list", "--json"]).expect(0).json();
    let app =
        listed["value"]["stores"].as_array().unwrap().iter().find(|store| store["store"] == "app").unwrap();
    assert!(app["drill_p95_ms"].as_u64() >= app["drill_median_ms"].as_u64(), "{listed:#}");
    assert!(app["forecast_ms"].as_u64().is_some(), "{listed:#}");
    let runbook = std::fs::read_to_string(project.file(".steward/recovery-runbook.md")).unwrap();
    for said in ["When its loss was played", "| table | back and compared after", "| key | NOT RECOVERED"] {
        assert!(runbook.contains(said), "{runbook}");
    }
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn the_machine_is_lost_and_steward_restores_from_an_empty_folder() {
    let (project, key) = shop();
    project.run(&["backup", "run", "app"]).expect(0);
    let none = drill(&project, "machine", "", 5);
    assert!(
        none["value"]["drills"][0]["problem"].as_str().unwrap().contains("backup run steward"),
        "{none:#}"
    );
    project.run(&["backup", "run", "steward"]).expect(0);
    let key_file = look(&project.file(".steward/master.key"));
    for input in ["", key.as_str()] {
        let mut args = vec!["backup", "drill", "--lose", "machine", "--json"];
        if !input.is_empty() {
            args.push("--with-recovery-key");
        }
        let played = project.run_with_input(&args, input).expect(0).json();
        let receipt = &played["value"]["drills"][0];
        assert_eq!(
            (&receipt["subject"], &receipt["result"]),
            (&json!("steward"), &json!("passed")),
            "{played:#}"
        );
        let last = receipt["steps"].as_array().unwrap().last().unwrap();
        assert_eq!(last["step"], "restore and compare app", "{played:#}");
        assert!(receipt["rows"].as_u64().unwrap() > 3001, "the state has rows too: {played:#}");
        assert_eq!(scratch(&project), Vec::<String>::new(), "{played:#}");
    }
    assert_eq!(look(&project.file(".steward/master.key")), key_file);
    let runbook = std::fs::read_to_string(project.file(".steward/recovery-runbook.md")).unwrap();
    assert!(runbook.contains("$ steward recover --repository "), "{runbook}");
    project.run(&["audit", "verify"]).expect(0);
}

/// Whoever kills a drill leaves a copy of the data in the clear behind, until the next one.
#[test]
fn a_drill_that_was_killed_leaves_nothing_after_the_next() {
    let (project, _) = shop();
    project.run(&["backup", "run", "app"]).expect(0);
    project.write(".steward/scratch/drill-killed/restored.db", "rows in the clear");
    project
        .state()
        .execute_batch(
            "INSERT INTO backup_drills (project, id, lose, subject, backup, result, holder, begun_us, objective_ms, steps) \
             VALUES ('shop', 'drill-killed', 'database', 'app', '', 'failed', 'gone', 1, 1, '[]')",
        )
        .unwrap();
    drill(&project, "table", "", 0);
    assert_eq!(scratch(&project), Vec::<String>::new());
    let problem: String = project
        .state()
        .query_row(
            "SELECT problem FROM backup_drills WHERE id = 'drill-killed' AND finished_us > 0",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert!(problem.contains("ended in the middle"), "{problem}");
}

const ALL: &str = "SELECT printf('%s %s %s %s %s %s %d %d %d', id, plan, store, repository, snapshot, state, point_us, bytes, \
     rows) FROM backups ORDER BY id";

/// The list of backups is a cache: without its rows, the manifests say the same.
#[test]
fn the_list_of_backups_is_made_anew_from_the_manifests() {
    let (project, _) = shop();
    for _ in 0..2 {
        project.run(&["backup", "run", "app"]).expect(0);
        project.database().execute_batch("DELETE FROM orders WHERE id > 1000").unwrap();
    }
    let rows = |sql: &str| -> Vec<String> {
        let state = project.state();
        let mut listed = state.prepare(sql).unwrap();
        listed.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let before = rows(ALL);
    assert_eq!(before.len(), 2);
    project.state().execute_batch("DELETE FROM backups").unwrap();
    let rebuilt = project.run(&["backup", "rebuild", "--json"]).expect(0).json();
    assert_eq!(rebuilt["value"]["taken_in"].as_array().unwrap().len(), 2, "{rebuilt:#}");
    assert_eq!(rows(ALL), before);
    assert_eq!(rows("SELECT origin || ' ' || level FROM backups"), ["found l0", "found l0"]);
    let again = project.run(&["backup", "rebuild", "--json"]).expect(0).json();
    assert_eq!((&again["value"]["taken_in"], &again["value"]["known"]), (&json!([]), &json!(2)), "{again:#}");
    project.run(&["backup", "verify", "app"]).expect(0);
    // One snapshot cannot be read any more: it is named, the other is taken in.
    let snapshots = project.file(".steward/backups/shop/pages/snapshots");
    let broken = snapshots.read_dir().unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&broken).unwrap();
    std::fs::remove_file(&broken).unwrap();
    std::fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    project.state().execute_batch("DELETE FROM backups").unwrap();
    let damaged = project.run(&["backup", "rebuild", "--json"]).expect(5).json();
    assert_eq!(damaged["value"]["taken_in"].as_array().unwrap().len(), 1, "{damaged:#}");
    assert_eq!(damaged["value"]["unreadable"].as_array().unwrap().len(), 1, "{damaged:#}");
    // It comes back, and another is deleted by hand: the list says so.
    std::fs::remove_file(&broken).unwrap();
    std::fs::write(&broken, &bytes).unwrap();
    project.run(&["backup", "rebuild"]).expect(0);
    std::fs::remove_file(&broken).unwrap();
    let missing = project.run(&["backup", "rebuild"]).expect(5);
    assert!(missing.stdout.contains("is not in its repository"), "{}", missing.stdout);
    // What others keep beside ours is left alone.
    let other = Project::with_sqlite(
        &format!(
            "project: other\nbackup:\n  repositories:\n    local: {{ url: {} }}",
            project.file(".steward/backups/shop").display()
        ),
        SHOP,
    );
    let key: String = master_key(&project);
    other.run_with_input(&["secret", "put", "repository/local"], &key).expect(0);
    let foreign = other.run(&["backup", "rebuild", "--json"]).expect(0).json();
    assert_eq!(
        (&foreign["value"]["taken_in"], &foreign["value"]["foreign"]),
        (&json!([]), &json!(1)),
        "{foreign:#}"
    );
}

/// The repository's master key, which the recovery key opens for restic too.
pub(crate) fn master_key(project: &Project) -> String {
    let made = project.run(&["backup", "setup", "--new-recovery-key", "--json"]).expect(0).json();
    let key = made["value"]["value"].as_str().unwrap().to_owned();
    let output = std::process::Command::new("restic")
        .args(["cat", "masterkey", "--no-cache"])
        .env("RESTIC_REPOSITORY", project.file(".steward/backups/shop/pages"))
        .env("RESTIC_PASSWORD", key)
        .output()
        .expect("restic is installed");
    assert!(output.status.success(), "{output:?}");
    let key: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes = |text: &Value| -> Vec<u8> { decode(text.as_str().unwrap()) };
    encode(&[bytes(&key["encrypt"]), bytes(&key["mac"]["k"]), bytes(&key["mac"]["r"])].concat())
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A folder is a store for backups alone: backed up, compared, drilled, put back; other requests say that it has no tables.
#[test]
fn a_folder_is_backed_up_drilled_and_put_back() {
    let project = Project::new(
        "project: shop\nstores:\n  docs:\n    kind: folder\n    path: docs\n    exclude: [cache]\nbackup:\n  plans:\n    files: { stores: [docs, steward] }\n",
    );
    for (file, text) in [("docs/letters/a.txt", "dear"), ("docs/b.bin", "\u{0}\u{1}"), ("docs/cache/c", "no")]
    {
        project.write(file, text);
    }
    project.run(&["backup", "setup"]).expect(0);
    project.run(&["store", "check", "docs"]).expect(0);
    project.run(&["store", "list"]).expect(0);
    let refused = project.run(&["store", "inspect", "docs"]).expect(1);
    assert!(refused.stderr.contains("not supported"), "{}", refused.stderr);
    let made = project.run(&["backup", "run", "files", "--json"]).expect(0).json();
    assert_eq!(made["value"]["backups"][0]["backup"]["level"], "l3", "{made:#}");
    let played = project.run(&["backup", "drill", "files", "--lose", "database", "--json"]).expect(0).json();
    assert_eq!(played["value"]["drills"][1]["result"], "passed", "{played:#}");
    project.run(&["backup", "drill", "--lose", "machine"]).expect(0);
    std::fs::remove_file(project.file("docs/letters/a.txt")).unwrap();
    project
        .run(&["backup", "restore", "docs", "--to", "beside", "--name", "back", "--tables", "letters"])
        .expect(0);
    assert_eq!(std::fs::read_to_string(project.file("back/letters/a.txt")).unwrap(), "dear");
    assert!(!project.file("back/b.bin").exists() && !project.file("back/cache").exists());
}
