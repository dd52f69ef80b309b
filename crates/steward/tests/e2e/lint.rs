//! `migration lint` as builds and agents call it: which files it judges, in what order, in which format, and its exit
//! code.

use serde_json::{Value, json};

use crate::doors::{over_stdio, request};
use crate::live::Live;

/// Applied while the table is empty; on a large one its index would be an error.
const APPLIED: [(&str, &str); 2] = [
    (
        "0001_people.sql",
        "CREATE TABLE people (id bigint PRIMARY KEY, name text, team integer);\n-- steward: down\nDROP TABLE people;\n",
    ),
    (
        "0002_people_team.sql",
        "CREATE INDEX people_team ON people (team);\n-- steward: down\nDROP INDEX people_team;\n",
    ),
];
/// The second is brief only because of what the first has proved by then.
const PENDING: [(&str, &str); 2] = [
    (
        "0003_names_are_given.sql",
        "-- steward: no-transaction\nALTER TABLE people ADD CONSTRAINT named CHECK (name IS NOT NULL) NOT VALID;\n\
         ALTER TABLE people VALIDATE CONSTRAINT named;\n-- steward: down\nALTER TABLE people DROP CONSTRAINT named;\n",
    ),
    (
        "0004_name_not_null.sql",
        "ALTER TABLE people ALTER COLUMN name SET NOT NULL;\nALTER TABLE people RENAME COLUMN team TO squad;\n-- steward: \
         down\nALTER TABLE people RENAME COLUMN squad TO team;\nALTER TABLE people ALTER COLUMN name DROP NOT NULL;\n",
    ),
];
const INDEX: &str = "CREATE INDEX people_name ON people (name);\n-- steward: down\nDROP INDEX people_name;\n";

/// A table that the planner takes for large, two migrations applied and two pending.
async fn people() -> Live {
    let live = Live::new(conformance::postgres(), "lint").await;
    live.project.migrations(&APPLIED);
    live.run(&["migration", "apply", "app"]).await.expect(0);
    live.application()
        .await
        .batch_execute(
            "INSERT INTO people SELECT n, 'person ' || n, n % 7 FROM generate_series(1, 20000) AS n; ANALYZE people",
        )
        .await
        .unwrap();
    live.project.migrations(&PENDING);
    live
}

/// The files that were judged, in their order.
fn judged(value: &Value) -> Vec<&str> {
    let files = value["files"].as_array().unwrap_or_else(|| panic!("{value}"));
    files.iter().map(|file| file["path"].as_str().unwrap()).collect()
}

/// Rule and level of each result of a SARIF log, in `file`, and whether it is suppressed.
fn results(log: &Value, file: &str) -> Vec<(String, String, bool)> {
    assert_eq!(log["version"], "2.1.0", "{log}");
    let run = &log["runs"][0];
    let results = run["results"].as_array().unwrap_or_else(|| panic!("{log}"));
    let mut of_file = Vec::new();
    for result in results {
        let rule =
            &run["tool"]["driver"]["rules"][usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
        assert_eq!(rule["id"], result["ruleId"], "{result}");
        let place = &result["locations"][0]["physicalLocation"];
        if place["artifactLocation"]["uri"] == file {
            let word = |key: &str| result[key].as_str().unwrap().to_owned();
            of_file.push((word("ruleId"), word("level"), result["suppressions"].is_array()));
        }
    }
    of_file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_migrations_are_judged_in_order_and_the_exit_code_is_that_of_the_worst() {
    let live = people().await;
    let pending = ["migration", "lint", "--pending", "--store", "app"];
    let with = |more: &[&'static str]| [pending.as_slice(), more].concat();

    // What warns ends with 0; only the pending files are judged, each by what those before it will have done.
    let quiet = live.run(&with(&["--json"])).await.expect(0).json();
    assert_eq!(
        judged(&quiet["value"]),
        ["migrations/app/0003_names_are_given.sql", "migrations/app/0004_name_not_null.sql"]
    );
    assert_eq!(
        (&quiet["value"]["connected"], &quiet["value"]["worst"]),
        (&json!(true), &json!("brief")),
        "{quiet}"
    );
    let severities: Vec<&Value> =
        quiet["findings"].as_array().unwrap().iter().map(|finding| &finding["severity"]).collect();
    assert!(severities.contains(&&json!("warning")), "{quiet}");
    let alone = ["migration", "lint", "migrations/app/0004_name_not_null.sql", "--store", "app"];
    let alone = live.run(&alone).await.expect(5);
    assert!(alone.stdout.contains("error scan_blocks_all"), "{}", alone.stdout);

    // An error among them ends with 5, in each format.
    live.project.migrations(&[("0005_people_name.sql", INDEX)]);
    let text = live.run(&pending).await.expect(5).stdout;
    assert!(text.contains("blocks writes for long; locks people SHARE"), "{text}");
    assert!(text.contains("error index_blocks_writes: ") && text.contains("20,000 rows"), "{text}");
    let value: Value =
        serde_json::from_str(&live.run(&with(&["--format", "json"])).await.expect(5).stdout).unwrap();
    assert_eq!(judged(&value).len(), 3, "{value}");
    assert_eq!((&value["worst"], &value["files"][2]["verdicts"][0]["line"]), (&json!("writes"), &json!(1)));
    let sarif = live.run(&with(&["--format", "sarif"])).await.expect(5);
    let log: Value = serde_json::from_str(&sarif.stdout).unwrap();
    let of_index = results(&log, "migrations/app/0005_people_name.sql");
    assert!(of_index.contains(&("index_blocks_writes".into(), "error".into(), false)), "{of_index:?}");

    // An agent reads the same, and the same log.
    let mcp = over_stdio(&live.project, &[]).await;
    let arguments = json!({"store": "app", "pending": true, "format": "sarif"});
    let answer = request(&mcp, "store", "migration.lint", arguments).await;
    assert_eq!(answer["value"], value);
    assert_eq!(serde_json::from_str::<Value>(answer["text"].as_str().unwrap()).unwrap(), log);
    mcp.cancel().await.unwrap();

    // What somebody allowed ends with 0 and stays in the log with its reason.
    let allowed = format!("-- steward: allow index_blocks_writes nobody writes at night\n{INDEX}");
    live.project.migrations(&[("0005_people_name.sql", &allowed)]);
    let sarif = live.run(&with(&["--format", "sarif"])).await.expect(0);
    let log: Value = serde_json::from_str(&sarif.stdout).unwrap();
    let of_index = results(&log, "migrations/app/0005_people_name.sql");
    assert!(of_index.contains(&("index_blocks_writes".into(), "error".into(), true)), "{of_index:?}");
    let text = live.run(&pending).await.expect(0).stdout;
    assert!(
        text.contains("allowed index_blocks_writes: ") && text.contains("nobody writes at night"),
        "{text}"
    );

    // Once they are applied nothing is pending, and nothing is judged.
    live.run(&["migration", "apply", "app"]).await.expect(0);
    let nothing = live.run(&with(&["--json"])).await.expect(0).json();
    assert_eq!(judged(&nothing["value"]), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_judged_without_a_store_and_only_those_of_the_project() {
    let live = people().await;
    live.project.migrations(&[("0005_people_name.sql", INDEX)]);
    let file = "migrations/app/0005_people_name.sql";
    // What the files before it made is known, so that what is judged is not whether there is such a table.
    for more in [&["--offline"][..], &["--offline", "--store", "app"], &["--server-version", "15"]] {
        let answer =
            live.run(&[&["migration", "lint", file, "--json"], more].concat()).await.expect(5).json();
        let value = &answer["value"];
        assert_eq!(
            (&value["connected"], &value["worst"]),
            (&json!(false), &json!("writes")),
            "{more:?} {value}"
        );
        assert_eq!(answer["evidence"], Value::Null, "the store was left alone: {answer}");
    }
    // What the files before it in its folder did is known; the same text elsewhere stands alone.
    live.run(&["migration", "lint", "migrations/app/0004_name_not_null.sql"]).await.expect(0);
    live.project.write("loose.sql", PENDING[1].1);
    let alone = live.run(&["migration", "lint", "loose.sql"]).await.expect(5);
    assert!(alone.stdout.contains("error scan_blocks_all"), "{}", alone.stdout);

    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("0001_a.sql"), "SELECT 1;").unwrap();
    std::os::unix::fs::symlink(outside.path(), live.project.file("elsewhere")).unwrap();
    let absolute = outside.path().join("0001_a.sql");
    for (path, code) in [
        ("../0001_a.sql", 2),
        (absolute.to_str().unwrap(), 2),
        ("elsewhere/0001_a.sql", 2),
        ("migrations/app/0099_none.sql", 1),
    ] {
        let refused = live.run(&["migration", "lint", path]).await;
        assert_eq!(refused.code, code, "{path}: {refused:?}");
        assert!(refused.stdout.is_empty() && refused.stderr.starts_with("error: "), "{refused:?}");
    }
    for usage in [
        &["migration", "lint"][..],
        &["migration", "lint", "--pending"],
        &["migration", "lint", file, "--format", "xml"],
    ] {
        live.run(usage).await.expect(2);
    }
    live.run(&["migration", "lint", file, "--store", "nowhere"]).await.expect(1);
}
