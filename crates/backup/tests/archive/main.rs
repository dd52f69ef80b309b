//! What is promised of old rows: each is in the archive or in the table, whatever dies, changes or is damaged meanwhile.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

mod bucket;
mod world;

#[path = "../../../../adapters/repository-restic/tests/faults/fake_s3.rs"]
#[allow(
    dead_code,
    clippy::format_push_string,
    clippy::format_collect,
    reason = "a server of two crates' tests need not be fast"
)]
mod fake_s3;

use std::path::Path;
use std::process::{Command, Stdio};

use backup::archive::{
    ApplyRetention, ArchiveRows, ListArchives, ListRetention, QueryArchive, RestoreArchive, VerifyArchive,
};
use contract::{Error, ErrorKind, Outcome, Plan};
use serde_json::{Value, json};
use world::{World, dump, number, rule, sql};

/// The child's folder, and at which step it dies.
const FOLDER: &str = "STEWARD_TEST_ARCHIVE_FOLDER";
const DIE_AT: &str = "STEWARD_TEST_ARCHIVE_DIE_AT";

fn request() -> ArchiveRows {
    ArchiveRows { rule: "old".into(), before: None }
}

async fn plan(world: &World) -> Result<Plan, Error> {
    backup::archive::plan_archive(&world.ctx(), world, &request()).await.map(|(plan, _)| plan)
}

async fn carry_out(world: &World, plan: &Plan) -> Result<Outcome, Error> {
    let permit = world.permit("archive.run", plan);
    backup::archive::run_archive(&world.ctx(), world, &permit, plan, &request()).await
}

async fn archive(world: &World) -> Result<Outcome, Error> {
    carry_out(world, &plan(world).await?).await
}

async fn query(world: &World, filter: Option<&str>) -> Result<Vec<Vec<Value>>, Error> {
    let request = QueryArchive {
        archive: "old".into(),
        columns: Vec::new(),
        filter: filter.map(ToOwned::to_owned),
        limit: Some(1_000),
    };
    let found = backup::archive::query_archive(&world.ctx(), world, &request).await?;
    Ok(serde_json::from_value(found.value["rows"].clone()).unwrap())
}

async fn restore(world: &World, into: Option<&str>, filter: Option<&str>) -> Result<Outcome, Error> {
    let request = RestoreArchive {
        archive: "old".into(),
        into: into.map(ToOwned::to_owned),
        filter: filter.map(ToOwned::to_owned),
    };
    let plan = backup::archive::plan_restore_archive(&world.ctx(), world, &request).await?;
    let permit = world.permit("backup.restore", &plan);
    backup::archive::restore_archive(&world.ctx(), world, &permit, &plan, &request).await
}

async fn sweep(world: &World) -> Result<Outcome, Error> {
    let request = ApplyRetention { rule: "gone".into(), before: None };
    let (plan, _) = backup::archive::plan_retention(&world.ctx(), world, &request).await?;
    let permit = world.permit("retention.delete", &plan);
    backup::archive::apply_retention(&world.ctx(), world, &permit, &plan, &request).await
}

fn rows(dir: &Path) -> i64 {
    number(dir, "SELECT count(*) FROM orders")
}

#[tokio::test]
async fn old_rows_move_and_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let before = dump(dir.path(), "orders");
    let made = plan(&world).await.unwrap();
    assert_eq!(made.predicted["before"], "2024-03-04T00:00:00Z");
    assert_eq!(made.predicted["rows_max"], 100);
    let done = carry_out(&world, &made).await.unwrap();
    let value = &done.value["archives"][0];
    assert_eq!((&value["rows"], &value["deleted"]), (&json!(100), &json!(100)), "{}", done.text);
    assert_eq!(value["digest"], value["deleted_digest"], "what was deleted is what was archived");
    assert_eq!(
        value["beside"],
        json!({ "odd": 60 }),
        "values of four classes in one column, three of them are kept beside"
    );
    assert_eq!((world.parquet().len(), rows(dir.path())), (3, 50));
    assert_eq!(dump(dir.path(), "orders"), before[100..], "the young rows are untouched");
    assert_eq!(world.scratch_left(), [""; 0].map(std::path::PathBuf::from));
    // Nothing is left to do, and the plan says so.
    assert!(plan(&world).await.unwrap().steps.is_empty());

    let back = restore(&world, Some("orders_2023"), None).await.unwrap();
    assert_eq!(back.value["inserted"], 100);
    assert_eq!(back.value["digest"], value["digest"]);
    assert_eq!(dump(dir.path(), "orders_2023"), before[..100]);
    let twice = restore(&world, Some("orders_2023"), None).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Conflict);

    // Into their own table, where one key is taken by another row and one row is there already.
    sql(
        dir.path(),
        "INSERT INTO orders SELECT * FROM orders_2023 WHERE id = 1; \
        INSERT INTO orders VALUES (2, 2, '2026-03-02', 0, 'new', NULL)",
    );
    let back = restore(&world, None, None).await.unwrap();
    assert_eq!(
        (&back.value["inserted"], &back.value["present"], &back.value["conflicts"]),
        (&json!(98), &json!(1), &json!(1)),
        "{}",
        back.text
    );
    assert_eq!(back.value["conflict_keys"], json!([[2]]));
    assert_eq!(back.findings[0].code, "archive_rows_in_conflict");
    assert_eq!(
        number(dir.path(), "SELECT count(*) FROM orders WHERE note = 'new'"),
        1,
        "nothing is overwritten"
    );
    assert_eq!(rows(dir.path()), 150);
}

#[tokio::test]
async fn archived_rows_are_read_where_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    archive(&world).await.unwrap();
    for (filter, found) in [
        (None, 100),
        (Some("id = 17"), 1),
        (Some("id BETWEEN 39 AND 42"), 4),
        (Some("customer = 7 AND note IS NULL"), 5),
        (Some("created_at < '2023-01-05'"), 3),
        (Some("odd = 'text'"), 20),
        (Some("id > 1000"), 0),
    ] {
        assert_eq!(query(&world, filter).await.unwrap().len(), found, "{filter:?}");
    }
    let first = &query(&world, Some("id = 5")).await.unwrap()[0];
    assert_eq!(first[..2], [json!(5), json!(2)]);
    assert_eq!(first[5], json!(5));
    for wrong in ["colour = 1", "id = (SELECT 1)", "random() > 1"] {
        assert_eq!(query(&world, Some(wrong)).await.unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
    }
    let restored = restore(&world, Some("some"), Some("id <= 10")).await.unwrap();
    assert_eq!(restored.value["inserted"], 10);
}

#[tokio::test]
async fn rows_that_change_after_the_export_stay_and_are_left_out_of_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let path = dir.path().to_owned();
    // Between the end of the export and the first deletion another writer is at work.
    world.when("was read", move || {
        sql(
            &path,
            "UPDATE orders SET note = 'changed' WHERE id = 3; DELETE FROM orders WHERE id = 4; \
            INSERT INTO orders VALUES (1000, 1, '2023-02-02', 1, 'late', NULL)",
        );
    });
    let done = archive(&world).await.unwrap();
    let value = &done.value["archives"][0];
    assert_eq!(
        (&value["rows"], &value["deleted"], &value["gone"], &value["stayed"]),
        (&json!(100), &json!(98), &json!(1), &json!(1)),
        "{}",
        done.text
    );
    assert_eq!(done.findings[0].code, "archive_rows_changed");
    assert_eq!(number(dir.path(), "SELECT count(*) FROM orders WHERE note IN ('changed', 'late')"), 2);
    // The row in the table is the one that counts.
    assert_eq!(query(&world, Some("id = 3")).await.unwrap().len(), 0);
    assert_eq!(query(&world, None).await.unwrap().len(), 99);
    // The next run takes what is left.
    let done = archive(&world).await.unwrap();
    assert_eq!(done.value["archives"][0]["deleted"], 2, "{}", done.text);
    assert_eq!(query(&world, Some("id = 3")).await.unwrap()[0][4], "changed");
}

#[tokio::test]
async fn legal_holds_win_also_when_they_come_late() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path()).await;
    world.hold("customer = 7");
    let done = archive(&world).await.unwrap();
    assert_eq!(done.value["archives"][0]["deleted"], 90, "{}", done.text);
    assert_eq!(number(dir.path(), "SELECT count(*) FROM orders WHERE customer = 7 AND id <= 100"), 10);
    let made = backup::archive::list_retention(&world.ctx(), &world, &ListRetention {}).await.unwrap();
    assert_eq!(made.value["rules"][0]["held"], 10, "{}", made.text);
    assert_eq!(made.value["rules"][1]["legal_holds"], json!(["case"]));
    // A deletion rule means none of them either.
    assert_eq!(sweep(&world).await.unwrap().value["deleted"], 0);

    // A hold that comes between plan and run voids the plan; one between export and deletion keeps its rows.
    world.holds.clear();
    let made = plan(&world).await.unwrap();
    world.hold("id = 10");
    let error = carry_out(&world, &made).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    // A hold that is not understood stops the rule.
    world.hold("colour = 'red'");
    assert_eq!(plan(&world).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_full_place_or_a_damaged_file_keeps_every_row_in_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    // The lock, three files, the manifest.
    for left in 0..5 {
        world.fill_after(Some(left));
        let error = archive(&world).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{left}");
        assert_eq!((rows(dir.path()), world.parquet().len()), (150, 0), "{left}");
        assert!(world.scratch_left().is_empty());
    }
    world.fill_after(None);
    // One bit of any file, before it is verified.
    let cold = dir.path().join("cold");
    world.when("get", move || {
        let file = world::files(&cold).into_iter().find(|path| path.ends_with("rows-00001.parquet")).unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    });
    let error = archive(&world).await.unwrap_err();
    assert_eq!(
        (error.kind(), rows(dir.path()), world.parquet().len()),
        (ErrorKind::Corrupt, 150, 0),
        "{error}"
    );
    archive(&world).await.unwrap();
    assert_eq!(rows(dir.path()), 50);
    // And later: found by a look, and by whoever reads.
    let request = VerifyArchive { archive: "old".into() };
    let sound = backup::archive::verify_archive(&world.ctx(), &world, &request).await.unwrap();
    assert!(sound.findings.is_empty(), "{}", sound.text);
    for file in world.parquet() {
        let whole = std::fs::read(&file).unwrap();
        for (offset, name) in [(4, "data"), (whole.len() / 2, "middle"), (whole.len() - 6, "footer")] {
            let mut bytes = whole.clone();
            bytes[offset] ^= 0x10;
            std::fs::write(&file, &bytes).unwrap();
            let found = backup::archive::verify_archive(&world.ctx(), &world, &request).await.unwrap();
            assert_eq!(found.findings[0].code, "archive_damaged", "{name}");
            assert_eq!(query(&world, None).await.unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
            assert_eq!(
                restore(&world, Some("no"), None).await.unwrap_err().kind(),
                ErrorKind::Corrupt,
                "{name}"
            );
            sql(dir.path(), "DROP TABLE IF EXISTS no");
        }
        std::fs::remove_file(&file).unwrap();
        let found = backup::archive::verify_archive(&world.ctx(), &world, &request).await.unwrap();
        assert!(found.text.contains("missing"), "{}", found.text);
        std::fs::write(&file, &whole).unwrap();
    }
}

#[tokio::test]
async fn a_table_that_changes_its_shape_or_its_rows_voids_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let made = plan(&world).await.unwrap();
    sql(dir.path(), "ALTER TABLE orders ADD COLUMN paid INTEGER");
    assert_eq!(carry_out(&world, &made).await.unwrap_err().kind(), ErrorKind::Conflict);
    // A column that comes between export and deletion stops it; the rows are in both until it is looked at.
    let path = dir.path().to_owned();
    world.when("was read", move || sql(&path, "ALTER TABLE orders ADD COLUMN late INTEGER"));
    assert_eq!(archive(&world).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(rows(dir.path()), 150);
    let listed =
        backup::archive::list_archives(&world.ctx(), &world, &ListArchives::default()).await.unwrap();
    assert_eq!(listed.findings[0].code, "archive_unfinished", "{}", listed.text);

    // More rows than were counted.
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let made = plan(&world).await.unwrap();
    sql(
        dir.path(),
        "INSERT INTO orders SELECT id + 1000, customer, created_at, total, note, odd FROM orders",
    );
    assert_eq!(carry_out(&world, &made).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!((rows(dir.path()), world.parquet().len()), (300, 0));
    // The next day is another plan.
    let today = plan(&world).await.unwrap();
    world.advance_days(1);
    assert_ne!(plan(&world).await.unwrap().digest(), today.digest());
}

#[tokio::test]
async fn rules_on_what_cannot_be_archived_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path()).await;
    sql(
        dir.path(),
        "CREATE TABLE keyless (at TEXT); CREATE VIEW v AS SELECT * FROM orders; \
        CREATE TABLE lines (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE); \
        INSERT INTO lines VALUES (1, 5), (2, 140)",
    );
    let base = json!({
        "store": "shop", "table": "orders", "older_than": "2 years", "by": "created_at", "to": "cold"
    });
    for (key, value, kind, said) in [
        ("table", json!("keyless"), ErrorKind::Invalid, "has no key"),
        ("table", json!("v"), ErrorKind::Invalid, "is a view"),
        ("table", json!("none"), ErrorKind::NotFound, "there is no table"),
        ("by", json!("colour"), ErrorKind::Invalid, "has no column `colour`"),
        ("where", json!("colour = 1"), ErrorKind::Invalid, "there is no column `colour`"),
        ("where", json!("total"), ErrorKind::Invalid, ""),
        ("where", json!("id IN (SELECT 1)"), ErrorKind::Invalid, "it asks other rows"),
        ("where", json!("1 = 1; DROP TABLE orders"), ErrorKind::Invalid, "goes on after the condition"),
        // Rows of another table go with them, which is told by its name.
        ("where", json!("TRUE"), ErrorKind::Conflict, "rows of other tables point at"),
    ] {
        let mut changed = base.clone();
        changed[key] = value.clone();
        world.archive.insert("old".into(), rule(changed));
        if value == json!("total") {
            continue;
        }
        let error = plan(&world).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{key} {value}: {error}");
        assert!(error.message().contains(said), "{key} {value}: {error}");
    }
    let error = plan(&world).await.unwrap_err();
    assert!(error.to_string().contains("lines(order_id): 1 row"), "{error}");
    // One that comes while the rows are deleted keeps its order, and is kept itself.
    sql(dir.path(), "DELETE FROM lines WHERE id = 1");
    let path = dir.path().to_owned();
    world.when("was read", move || sql(&path, "INSERT INTO lines VALUES (3, 6)"));
    let done = archive(&world).await.unwrap();
    assert_eq!(done.value["archives"][0]["deleted"], 99, "{}", done.text);
    assert_eq!(done.findings[0].code, "archive_rows_referred");
    assert_eq!(number(dir.path(), "SELECT count(*) FROM lines JOIN orders ON orders.id = order_id"), 2);
}

#[tokio::test]
async fn retention_deletes_what_is_old_and_no_more_than_was_planned() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let done = sweep(&world).await.unwrap();
    assert_eq!((&done.value["deleted"], &done.value["batches"]), (&json!(100), &json!(7)), "{}", done.text);
    assert_eq!((rows(dir.path()), done.evidence.len()), (50, 1));
    assert_eq!(sweep(&world).await.unwrap().value["deleted"], 0);

    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let path = dir.path().to_owned();
    world.when("was deleted", move || {
        sql(&path, "INSERT INTO orders SELECT id + 1000, customer, created_at, total, note, odd FROM orders WHERE id > 50");
    });
    let error = sweep(&world).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(rows(dir.path()) >= 100, "only what the plan counted may be gone");
}

#[tokio::test]
async fn two_runs_of_a_rule_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let lock = dir.path().join("cold/.locks/p");
    std::fs::create_dir_all(&lock).unwrap();
    std::fs::write(
        lock.join("old.json"),
        json!({ "holder": format!("pid-{}", std::process::id()) }).to_string(),
    )
    .unwrap();
    assert_eq!(archive(&world).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(rows(dir.path()), 150);
    // Of a process that is gone, or cut short.
    for left in [json!({ "holder": "pid-0" }).to_string(), "{".to_owned()] {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(dir.path()).await;
        let lock = dir.path().join("cold/.locks/p");
        std::fs::create_dir_all(&lock).unwrap();
        std::fs::write(lock.join("old.json"), left).unwrap();
        archive(&world).await.unwrap();
        assert_eq!(rows(dir.path()), 50);
    }
}

/// Not a test of its own: what dies in the next one.
#[tokio::test]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let die_at = std::env::var(DIE_AT).unwrap().parse().unwrap();
    let world = World::at(Path::new(&folder), Some(die_at)).await;
    let made = plan(&world).await.unwrap();
    std::fs::write(Path::new(&folder).join("plan.json"), serde_json::to_vec(&made).unwrap()).unwrap();
    carry_out(&world, &made).await.unwrap();
}

/// Every call of the place and every change of the store, before it and after it, is where the process is killed once.
#[tokio::test]
async fn wherever_the_process_dies_each_row_is_in_the_archive_or_in_the_table() {
    // Each takes a process; the long run tries all.
    let full = std::env::var("STEWARD_TEST_FULL").is_ok_and(|full| full == "1");
    let apart = if full { 1 } else { 4 };
    let died = die_everywhere(0, apart, |_| {}).await;
    assert!(died * apart > 30, "only {died} places to die were found");
}

/// Lets a process die at every so many steps from the first one, each in a world that `prepare` makes ready; gives how many died.
async fn die_everywhere(first: usize, apart: usize, prepare: impl Fn(&Path)) -> usize {
    let mut died = 0;
    for die_at in (first..).step_by(apart) {
        let dir = tempfile::tempdir().unwrap();
        sql(dir.path(), world::SHOP);
        prepare(dir.path());
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(FOLDER, dir.path())
            .env(DIE_AT, die_at.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let world = World::at(dir.path(), None).await;
        let all = |left: i64, archived: usize| left + i64::try_from(archived).unwrap();
        if !ended.success() {
            died += 1;
            // As it is found: no row is lost. Those that are in both are of an archive that says it is not finished.
            let listed =
                backup::archive::list_archives(&world.ctx(), &world, &ListArchives::default()).await.unwrap();
            let unfinished = listed.findings.iter().any(|finding| finding.code == "archive_unfinished");
            let archived = query(&world, None).await.map_or(0, |rows| rows.len());
            let now = all(rows(dir.path()), archived);
            assert!(now == 150 || (unfinished && now > 150), "died at {die_at}: {now} rows");
            // As the next start finds out.
            let made: Plan =
                serde_json::from_slice(&std::fs::read(dir.path().join("plan.json")).unwrap()).unwrap();
            let permit = world.permit("archive.run", &made);
            backup::archive::finish_archive(&world.ctx(), &world, &permit, &made).await.unwrap();
        }
        // Asked again, the rest is done; nothing is in both then, and no file is of no archive.
        let made = plan(&world).await.unwrap();
        if !made.steps.is_empty() {
            let done = carry_out(&world, &made).await.unwrap();
            assert!(done.findings.is_empty(), "died at {die_at}: {}", done.text);
        }
        let archived = query(&world, None).await.unwrap();
        assert_eq!((rows(dir.path()), archived.len()), (50, 100), "died at {die_at}");
        let mut ids: Vec<i64> = archived.iter().map(|row| row[0].as_i64().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=100).collect::<Vec<_>>(), "died at {die_at}: each once");
        let request = VerifyArchive { archive: "old".into() };
        let sound = backup::archive::verify_archive(&world.ctx(), &world, &request).await.unwrap();
        assert!(sound.findings.is_empty(), "{}", sound.text);
        let names = world.place().list(&world.ctx(), "p/old/").await.unwrap();
        let files = names.iter().filter(|name| name.ends_with(".parquet")).count();
        assert_eq!(files, 3, "died at {die_at}: {names:?}");
        if ended.success() {
            break;
        }
    }
    died
}
