//! Checks across stores that the project file declares, between a PostgreSQL and a SQLite store.

use serde_json::{Value, json};

use crate::live::Live;

/// The PostgreSQL store `app` and the SQLite store `copy`, with the same customers, and a check that says so.
async fn two_stores() -> Live {
    let live = Live::new(conformance::postgres(), "checks").await;
    live.application()
        .await
        .batch_execute(
            "CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, credit numeric(12, 2), seen timestamptz); \
             INSERT INTO customers SELECT n, 'customer ' || n, n * 1.5, '2026-03-04 05:06:07+00' FROM \
             generate_series(1, 500) AS n; ANALYZE customers",
        )
        .await
        .unwrap();
    live.project
        .database()
        .execute_batch(
            "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, credit REAL, seen TEXT, loaded_at TEXT); \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
             INSERT INTO customers SELECT i, 'customer ' || i, i * 1.5, '2026-03-04T05:06:07Z', 'today' FROM n",
        )
        .unwrap();
    let yaml = std::fs::read_to_string(live.project.file("steward.yaml")).unwrap();
    live.project.write(
        "steward.yaml",
        format!(
            "{yaml}  copy:\n    kind: sqlite\n    path: app.db\nchecks:\n  customers-copied:\n    left: app.customers\n    \
             right: copy.customers\n    ignore: [loaded_at]\n  first-hundred:\n    left: app.customers\n    right: \
             copy.customers\n    columns: [name]\n    where: id <= 100\n"
        ),
    );
    live
}

/// Codes and severities of an answer's findings that are about a comparison.
fn differences(answer: &Value) -> Vec<(String, String)> {
    let findings = answer["findings"].as_array().into_iter().flatten();
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    findings
        .map(|finding| (word(finding, "code"), word(finding, "severity")))
        .filter(|(code, _)| code.starts_with("rows_"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declared_checks_hold_between_two_engines_and_a_broken_one_is_told() {
    let live = two_stores().await;
    let compare = ["store", "compare", "--json"];
    let equal = live.run(&compare).await.expect(0).json();
    let comparisons = equal["value"]["comparisons"].as_array().unwrap_or_else(|| panic!("{equal:#}"));
    assert_eq!((comparisons.len(), differences(&equal)), (2, Vec::new()), "{equal:#}");
    for store in ["app", "copy"] {
        let kept = live.run(&["store", "consistency", store, "--json"]).await.expect(0).json();
        assert_eq!(differences(&kept), [], "{kept:#}");
        let checks = &kept["value"]["checks_across_stores"];
        assert_eq!(checks.as_array().map(Vec::len), Some(2), "{kept:#}");
    }
    assert!(live.project.escalations("data_corruption").is_empty());

    // One row lost, one changed, one invented; the narrower check is about none of them.
    live.project
        .database()
        .execute_batch(
            "DELETE FROM customers WHERE id = 300; UPDATE customers SET credit = 1 WHERE id = 17; \
             INSERT INTO customers VALUES (900, 'nobody', 0, NULL, 'today')",
        )
        .unwrap();
    let expected = ["rows_only_left", "rows_only_right", "rows_changed"]
        .map(|code| (code.to_owned(), "critical".to_owned()));
    let broken = live.run(&compare).await.expect(5).json();
    assert_eq!(differences(&broken), expected, "{broken:#}");
    // Asked again it is the same three broken promises, and nobody is told anew.
    live.run(&compare).await.expect(5);
    let told = live.project.escalations("data_corruption");
    let seen: Vec<&Value> = told.iter().map(|one| &one["seen"]).collect();
    assert_eq!(seen, [&json!(2); 3], "{told:#?}");
    for store in ["app", "copy"] {
        let told = live.run(&["store", "consistency", store, "--json"]).await.expect(5).json();
        assert_eq!(differences(&told), expected, "{told:#}");
    }
    live.run(&["store", "compare", "--checks", "first-hundred", "--json"]).await.expect(0);
    live.run(&["store", "compare", "--checks", "nothing-of-the-kind"]).await.expect(1);
    // Repaired, it holds again.
    live.project
        .database()
        .execute_batch(
            "DELETE FROM customers WHERE id = 900; UPDATE customers SET credit = 25.5 WHERE id = 17; \
             INSERT INTO customers VALUES (300, 'customer 300', 450, '2026-03-04T05:06:07Z', 'later')",
        )
        .unwrap();
    assert_eq!(live.run(&compare).await.expect(0).json()["value"]["equal"], json!(true));
}
