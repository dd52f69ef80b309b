//! Old rows through the program: archived, verified, deleted, read, put back; and what waits for whom.

use serde_json::{Value, json};

use crate::program::Project;

const SHOP: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, created_at TEXT NOT NULL, status TEXT, total REAL); \
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
     INSERT INTO orders SELECT i, i % 7, CASE WHEN i <= 2000 THEN '2019-05-06 07:08:09' ELSE datetime('now') END, \
       CASE i % 2 WHEN 0 THEN 'closed' ELSE 'open' END, i / 4.0 FROM n; \
     CREATE TABLE logins (id INTEGER PRIMARY KEY, at INTEGER); \
     INSERT INTO logins VALUES (1, 1), (2, 2), (3, unixepoch())";

const YAML: &str = "project: shop
archive:
  rules:
    old_orders: { store: app, table: orders, older_than: 2 years, by: created_at, where: \"status = 'closed'\", to: cold }
retention:
  rules:
    old_logins: { store: app, table: logins, older_than: 90 days, by: at }
legal_holds:
  case_17: { store: app, table: orders, where: \"customer_id = 3\", reason: litigation }
";

const ANNA: &str = "violet harbor tin kettle";

fn shop() -> Project {
    Project::with_sqlite(YAML, SHOP)
}

fn with_backup() -> Project {
    let project = shop();
    project.run(&["backup", "setup"]).expect(0);
    project.run(&["backup", "run", "app"]).expect(0);
    project
}

#[test]
fn old_rows_are_archived_read_and_put_back() {
    let project = with_backup();
    let listed = project.run(&["retention", "list"]).expect(0).stdout;
    assert!(listed.contains("857 rows now, 143 rows under case_17"), "{listed}");
    let planned = project.run(&["backup", "archive", "old_orders", "--dry-run"]).expect(0).stdout;
    assert!(planned.contains("DESTRUCTIVE") && planned.contains("\"rows_max\":860"), "{planned}");
    assert_eq!(project.number("SELECT count(*) FROM orders"), 3_000);
    let done = project.run(&["backup", "archive", "old_orders", "--json"]).expect(0).json();
    let archive = &done["value"]["archives"][0];
    assert_eq!((&archive["rows"], &archive["deleted"]), (&json!(857), &json!(857)), "{done:#}");
    assert_eq!(archive["digest"], archive["deleted_digest"]);
    assert_eq!(project.number("SELECT count(*) FROM orders"), 3_000 - 857);
    let id = archive["archive"].as_str().unwrap();
    // Every number has its evidence.
    let evidence = done["evidence"][0].as_str().unwrap();
    project.run(&["evidence", "show", evidence]).expect(0);
    let nothing = project.run(&["backup", "archive", "old_orders"]).expect(0).stdout;
    assert!(nothing.contains("nothing to archive"), "{nothing}");

    assert!(project.run(&["archive", "list"]).expect(0).stdout.contains(id));
    let shown = project.run(&["archive", "show", "old_orders"]).expect(0).stdout;
    assert!(shown.contains("rows-00001.parquet") && shown.contains("sha256"), "{shown}");
    let verified = project.run(&["archive", "verify", id]).expect(0).stdout;
    assert!(verified.contains("857 rows in 1 file, every one as it was written"), "{verified}");
    let query = [
        "archive",
        "query",
        "old_orders",
        "--where",
        "customer_id = 4 AND total < 20",
        "--columns",
        "id",
        "--json",
    ];
    let found = project.run(&query).expect(0).json();
    assert_eq!(found["value"]["rows"], json!([[4], [18], [32], [46], [60], [74]]), "{found:#}");
    let refused = project.run(&["archive", "query", "old_orders", "--where", "id IN (SELECT 1)"]).expect(2);
    assert!(refused.stderr.contains("it asks other rows"), "{}", refused.stderr);

    let restored = project.run(&["archive", "restore", "old_orders", "--into", "orders_2019"]).expect(0);
    assert!(restored.stdout.contains("put 857 rows back into orders_2019"), "{}", restored.stdout);
    let same = "SELECT count(*) FROM orders_2019 WHERE typeof(total) = 'real' AND total = id / 4.0";
    assert_eq!(project.number(same), 857);
    project.run(&["archive", "restore", "old_orders"]).expect(0);
    assert_eq!(project.number("SELECT count(*) FROM orders"), 3_000);

    // A file that is damaged later.
    let file = project.file(&format!("cold/shop/old_orders/{id}/rows-00001.parquet"));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let found = project.run(&["archive", "verify", id]).expect(5).stdout;
    assert!(found.contains("DAMAGED"), "{found}");
    project.run(&["archive", "restore", id, "--into", "damaged"]).expect(1);
}

#[test]
fn deleting_waits_for_the_pm_and_covers_no_more_than_was_shown() {
    let project = shop();
    project.add_person("anna", ANNA, &["pm"]);
    // No backup was proven, so archiving waits too.
    let asked = project.run(&["backup", "archive", "old_orders", "--json"]).expect(3).json();
    assert_eq!(asked["status"], "waiting", "{asked:#}");
    let grant = |asked: &Value| {
        let approval = asked["approval"].as_str().unwrap();
        project.run_on_terminal(&["approval", "grant", approval, "--person", "anna"], &[ANNA]).expect(0);
    };
    grant(&asked);
    let done = project.run(&["backup", "archive", "old_orders", "--json"]).expect(0).json();
    assert_eq!(done["value"]["archives"][0]["deleted"], 857, "{done:#}");

    let asked = project.run(&["retention", "apply", "old_logins", "--json"]).expect(3).json();
    assert_eq!(project.number("SELECT count(*) FROM logins"), 3);
    grant(&asked);
    // More rows than were approved: the plan is another, and waits anew.
    project.database().execute_batch("INSERT INTO logins VALUES (4, 4)").unwrap();
    project.run(&["retention", "apply", "old_logins"]).expect(3);
    project.database().execute_batch("DELETE FROM logins WHERE id = 4").unwrap();
    let done = project.run(&["retention", "apply", "old_logins", "--json"]).expect(0).json();
    assert_eq!(
        (&done["value"]["deleted"], project.number("SELECT id FROM logins")),
        (&json!(2), 3),
        "{done:#}"
    );
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_program_asks_over_http_and_waits_like_everybody() {
    let project = shop();
    let token = project.token("bot", "requester");
    let daemon = project.daemon(&[]);
    let (code, answer) = daemon.post(&token, "retention/apply", &json!({ "rule": "old_logins" }));
    assert_eq!((code, &answer["status"]), (202, &json!("waiting")), "{answer:#}");
    let (code, answer) = daemon.post(&token, "retention/list", &json!({}));
    assert_eq!((code, &answer["value"]["rules"][1]["rows"]), (200, &json!(2)), "{answer:#}");
    let (code, answer) = daemon.post(&token, "archive/list", &json!({}));
    assert_eq!((code, &answer["value"]["archives"]), (200, &json!([])), "{answer:#}");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(project.number("SELECT count(*) FROM logins"), 3);
}

#[test]
fn rules_that_cannot_work_are_told_with_their_line() {
    for (yaml, said) in [
        (
            "archive: { rules: { r: { store: none, table: t, older_than: 1 day, by: a, to: c } } }",
            "there is no store",
        ),
        ("archive: { rules: { r: { store: app, table: t, older_than: soon, by: a, to: c } } }", "is no age"),
        ("retention: { rules: { r: { store: app, table: t } } }", "the rule would mean every row"),
        ("retention: { rules: { r: { store: app, table: t, where: a = 1, to: c } } }", "deletes"),
        ("archive: { rules: { R!: { store: app, table: t, where: a = 1, to: c } } }", "name"),
        ("legal_holds: { h: { store: none, table: t } }", "there is no such store"),
        ("legal_holds: { h: { store: app, table: t, were: a } }", "were"),
    ] {
        let project = Project::with_sqlite(&format!("project: shop\n{yaml}"), SHOP);
        let ended = project.run(&["retention", "list"]).expect(2);
        assert!(ended.stderr.contains(said), "{yaml}: {}", ended.stderr);
    }
}
