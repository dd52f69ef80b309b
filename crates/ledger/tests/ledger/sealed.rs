//! Texts in tables that only Steward can read.

use contract::ErrorKind;
use ledger::{Place, Write};

use crate::support::{Home, ctx};

/// How the tables were before anything in them was sealed.
const UNSEALED: &str = "
    DROP TABLE ai_cache; -- Those of later versions.
    DROP TABLE ai_cache_checks;
    DROP TABLE ai_prompts;
    DROP TABLE ai_jobs;
    DROP TABLE ai_things;
    DROP TABLE backups;
    DROP TABLE backup_drills;
    DROP TABLE backup_copies;
    DROP TABLE backup_logs;
    DROP TABLE backup_clocks;
    DROP TABLE repository_shares;
    ALTER TABLE jobs DROP COLUMN timing;
    DROP TABLE plans;
    CREATE TABLE plans (digest TEXT NOT NULL, project TEXT NOT NULL, request TEXT NOT NULL, body TEXT NOT NULL,
        made_us INTEGER NOT NULL, PRIMARY KEY (project, digest));
    DROP TABLE tasks;
    CREATE TABLE tasks (id TEXT NOT NULL, project TEXT NOT NULL, title TEXT NOT NULL, state TEXT NOT NULL,
        source TEXT NOT NULL, body TEXT NOT NULL, report TEXT, created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL,
        PRIMARY KEY (project, id));
    UPDATE meta SET value = '3' WHERE name = 'schema_version';
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1203)
    INSERT INTO plans (digest, project, request, body, made_us) SELECT 'd' || n, 'shop', 'x', 'marmalade ' || n, 1 FROM n;
    INSERT INTO tasks (id, project, title, state, source, body, report, created_us, updated_us)
    VALUES ('t1', 'shop', 'marmalade title', 'done', 'marmalade source', '{\"marmalade\":1}', NULL, 1, 1),
           ('t2', 'shop', '', 'done', '', '{}', 'marmalade report', 1, 1);
";

fn holds(home: &Home, text: &str) -> bool {
    std::fs::read_dir(home.path().parent().unwrap())
        .unwrap()
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

fn task<'a>(key: &'a str, column: &'a str) -> Place<'a> {
    Place { table: "tasks", project: "shop", key, column }
}

#[tokio::test]
async fn what_lies_in_the_clear_is_sealed_when_the_file_is_opened() {
    let home = Home::with_events(2).await;
    home.raw().execute_batch(UNSEALED).unwrap();
    assert!(holds(&home, "marmalade"));
    for _ in 0..2 {
        let ledger = home.open().await;
        let rows = ledger.query("SELECT * FROM tasks ORDER BY id", Vec::new()).await.unwrap();
        for (row, key, texts) in [
            (
                &rows[0],
                "t1",
                [Some("marmalade title"), Some("marmalade source"), Some(r#"{"marmalade":1}"#), None],
            ),
            (&rows[1], "t2", [Some(""), Some(""), Some("{}"), Some("marmalade report")]),
        ] {
            for (column, text) in ["title", "source", "body", "report"].into_iter().zip(texts) {
                let found = ledger.unseal(task(key, column), row).unwrap();
                assert_eq!(found.as_deref(), text, "{key} {column}");
            }
        }
        let plans = ledger.query("SELECT digest, body FROM plans", Vec::new()).await.unwrap();
        assert_eq!(plans.len(), 1203);
        for row in &plans {
            let key = row.get_text("digest").unwrap();
            let body =
                ledger.unseal(Place { table: "plans", project: "shop", key, column: "body" }, row).unwrap();
            assert_eq!(body.unwrap(), format!("marmalade {}", &key[1..]));
        }
        assert!(!holds(&home, "marmalade"), "something still lies in the clear");
        assert!(ledger.verify().await.unwrap().is_whole());
        ledger.close().await.unwrap();
    }
}

#[tokio::test]
async fn sealed_text_opens_only_unchanged_and_in_its_place() {
    let home = Home::new();
    let ledger = home.open().await;
    let insert = "INSERT INTO tasks (id, project, title, state, source, body, created_us, updated_us) \
                  VALUES (?, 'shop', ?, 'done', '', '', 1, 1)";
    let write = Write::new()
        .exec(insert, vec!["a".into(), ledger.seal(task("a", "title"), "marmalade")])
        .exec(insert, vec!["b".into(), ledger.seal(task("a", "title"), "marmalade")])
        .exec(insert, vec!["c".into(), "in the clear".into()])
        .exec(insert, vec!["d".into(), vec![0_u8; 40].into()]);
    ledger.write(&ctx(), write).await.unwrap();
    let rows = ledger.query("SELECT * FROM tasks ORDER BY id", Vec::new()).await.unwrap();
    assert_eq!(ledger.unseal(task("a", "title"), &rows[0]).unwrap().as_deref(), Some("marmalade"));
    assert_eq!(ledger.unseal(task("a", "report"), &rows[0]).unwrap(), None);
    for (key, row) in ["b", "c", "d"].into_iter().zip(&rows[1..]) {
        let error = ledger.unseal(task(key, "title"), row).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{key}");
        assert!(!error.to_string().contains("clear"), "{error}");
    }
    let elsewhere = Place { project: "bank", ..task("a", "title") };
    assert_eq!(ledger.unseal(elsewhere, &rows[0]).unwrap_err().kind(), ErrorKind::Corrupt);
}
