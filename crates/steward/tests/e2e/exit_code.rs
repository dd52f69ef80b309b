//! What a check finds is its exit code, so that a script can go by it.

use std::os::unix::fs::PermissionsExt;

use crate::program::Project;

#[test]
fn health_ends_with_5_when_something_is_wrong_and_with_0_when_nothing_is() {
    let project = Project::with_sqlite(
        "project: shop",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER NOT NULL)",
    );
    // The files beside it get the rights of the first one.
    std::fs::set_permissions(project.file("app.db"), std::fs::Permissions::from_mode(0o640)).unwrap();
    project.database().execute_batch("PRAGMA journal_mode = WAL").unwrap();
    project.run(&["store", "health", "app"]).expect(0);
    project
        .database()
        .execute_batch("CREATE TABLE log (n INTEGER REFERENCES orders (no_such_column))")
        .unwrap();
    project.run(&["store", "health", "app"]).expect(5);
    let json = project.run(&["store", "health", "app", "--json"]).expect(5).json();
    assert_eq!(json["value"]["healthy"], false, "{json:#}");
}

#[test]
fn compare_ends_with_5_when_rows_differ_and_with_0_when_none_does() {
    let table = "CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER NOT NULL); \
                 INSERT INTO orders VALUES (1, 10), (2, 20), (3, 30)";
    let project = Project::with_sqlite("project: shop", table);
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    project.write("steward.yaml", format!("{yaml}  copy:\n    kind: sqlite\n    path: copy.db\n"));
    let copy = rusqlite::Connection::open(project.file("copy.db")).unwrap();
    copy.execute_batch(table).unwrap();
    let compare = ["store", "compare", "app.orders", "copy.orders"];
    project.run(&compare).expect(0);
    copy.execute_batch("UPDATE orders SET total = 21 WHERE id = 2").unwrap();
    let differ = project.run(&compare).expect(5);
    assert!(differ.stdout.contains("1 changed"), "{}", differ.stdout);
}

#[test]
fn slow_statements_above_the_objective_end_with_5() {
    let table = "CREATE TABLE orders (id INTEGER PRIMARY KEY); INSERT INTO orders VALUES (1)";
    let project = Project::with_sqlite("project: shop\nobjectives:\n  query_p95_ms: 100000", table);
    project.run(&["store", "query", "app", "SELECT id FROM orders"]).expect(0);
    project.run(&["store", "slow", "app"]).expect(0);
    // Nothing is as fast as this.
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    project.write("steward.yaml", yaml.replace("100000", "0.000001"));
    let slow = project.run(&["store", "slow", "app"]).expect(5);
    assert!(slow.stdout.contains("SELECT id FROM orders"), "{}", slow.stdout);
}
