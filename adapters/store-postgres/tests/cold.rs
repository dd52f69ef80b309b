//! Rows moved by rule: every type out and back, and never deleted as another than was read, whoever writes meanwhile.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

#[allow(dead_code, reason = "shared with the other suites")]
mod server;

use std::sync::Arc;
use std::time::Duration;

use contract::cold::{ColdPage, ColdRows, ColdSelection, ColdTable, Fate, OlderThan, Return, TimeUnit};
use contract::columnar::{Cell, Row};
use contract::{Actor, Context, Error, ErrorKind, Permit, Plan, PlanStep, StepMode, Store};
use schema::TableName;
use serde_json::json;
use server::Database;
use store_postgres::PostgresStore;
use tokio::sync::mpsc;

fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

async fn database(case: &str) -> Database {
    Database::create(&conformance::namespace(case)).await
}

fn name(table: &str) -> TableName {
    TableName { namespace: "public".into(), name: table.into() }
}

fn selection(table: &str, filter: &str) -> ColdSelection {
    ColdSelection { table: name(table), older: None, filter: Some(filter.into()), holds: Vec::new() }
}

fn cold(store: &PostgresStore) -> &dyn ColdRows {
    Store::cold_rows(store).unwrap()
}

fn permitted(store: &PostgresStore) -> (Plan, Permit) {
    let plan = Plan {
        request: "backup.archive".into(),
        arguments: json!({}),
        project: "shop".into(),
        target: format!("store:{}", Store::name(store)),
        summary: "a test".into(),
        steps: vec![PlanStep::new("delete", "delete", StepMode::Transaction, Vec::new())],
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    };
    let permit =
        Permit::mint(&ctx(), "archive.run", &plan.target, plan.digest(), None, Duration::from_mins(10));
    (plan, permit)
}

async fn read(
    store: &PostgresStore,
    table: &ColdTable,
    selection: &ColdSelection,
    page: ColdPage,
) -> Result<Vec<Row>, Error> {
    let (sender, mut receiver) = mpsc::channel(1);
    let ctx = ctx();
    let take = async {
        let mut rows = Vec::new();
        while let Some(piece) = receiver.recv().await {
            rows.extend(piece);
        }
        Ok(rows)
    };
    let read = cold(store).cold_read(&ctx, table, selection, &page, sender);
    let (rows, point) = tokio::try_join!(take, read)?;
    assert!(point.position.is_some() && point.server_at.is_some());
    Ok(rows)
}

async fn delete(
    store: &PostgresStore,
    table: &ColdTable,
    selection: &ColdSelection,
    rows: &[Row],
) -> Result<Vec<Fate>, Error> {
    let (plan, permit) = permitted(store);
    cold(store).cold_delete(&ctx(), &permit, &plan, table, selection, rows).await
}

async fn insert(store: &PostgresStore, table: &ColdTable, target: &str, rows: &[Row]) -> Vec<Return> {
    let (plan, permit) = permitted(store);
    cold(store).cold_insert(&ctx(), &permit, &plan, table, &name(target), rows).await.unwrap()
}

const ZOO: &str = r#"
CREATE TYPE mood AS ENUM ('happy', 'it''s so-so');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE "Zoo ""1""" (
  id bigint GENERATED ALWAYS AS IDENTITY,
  part uuid NOT NULL,
  yes boolean, small smallint, medium int, big bigint, r real, d double precision,
  money_ numeric(12,2), any_number numeric, huge numeric(50,10),
  t text, v varchar(20), c char(5), j json, jb jsonb, b bytea,
  day date, at_time time, at_timetz timetz, ts timestamp, tstz timestamptz(3), iv interval,
  m mood, p pair, pos positive, ints int[], texts text[], ip inet, rng int4range, x xml, bits bit(3),
  halved int GENERATED ALWAYS AS (medium / 2) STORED,
  PRIMARY KEY (part, id)
);
INSERT INTO "Zoo ""1""" (part, yes, small, medium, big, r, d, money_, any_number, huge, t, v, c, j, jb, b, day, at_time,
  at_timetz, ts, tstz, iv, m, p, pos, ints, texts, ip, rng, x, bits) VALUES
('00000000-0000-0000-0000-000000000001', true, -1, 2, 9223372036854775807, 0.1, 0.1, -1234567890.50, 1.500, 1e-10,
 E'a\tb\n''ü☃', 'x', 'ab', '{"b": 1,  "a": [1]}', '{"b": 1, "a": [1]}', '\x00ff', '2024-02-29', '24:00:00', '05:06:07+02',
 '2024-02-29 12:00:00.000001', '2024-02-29 12:00:00.5+01', '1 year 2 mons 3 days 04:05:06.7', 'it''s so-so', '(1,"a b")', 5,
 '{1,NULL,3}', '{"a,b",NULL,"NULL",""}', '10.0.0.0/8', '[1,5)', '<a/>', B'101'),
('00000000-0000-0000-0000-000000000002', false, NULL, 3, -9223372036854775808, 'NaN', 'Infinity', 'NaN', 'Infinity',
 'NaN', '', '', '', '[]', 'null', '', 'infinity', '00:00', '00:00:00.000001-12', '-infinity', 'infinity', '-1 mon', NULL, NULL, NULL,
 '{}', '[0:1]={a,b}', '::1', 'empty', NULL, NULL),
('00000000-0000-0000-0000-000000000003', NULL, NULL, NULL, NULL, '-0', '-0', 0, -0.00, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
 '0044-03-15 BC', NULL, NULL, '0044-03-15 01:02:03 BC', '294276-12-31 23:59:59+00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
('00000000-0000-0000-0000-000000000004', true, 32767, -2147483648, 0, 3.4e38, 1e-300, 9999999999.99, 123456789012345678901234567890.123456789,
 1234567890123456789012345678901234567890.0123456789, repeat('x', 10000), 'y', 'abcde', '1', '1', decode(repeat('ab', 5000), 'hex'),
 '9999-12-31', '23:59:59.999999', '23:59:59-00', '0001-01-01', '1969-12-31 23:59:59.999+00', '00:00:00', 'happy', '(,)', 1, '{{1,2},{3,4}}',
 '{}', '127.0.0.1', '(,)', 'text', B'000');
"#;

const TABLE: &str = r#""Zoo ""1""""#;

#[tokio::test]
async fn every_type_goes_out_and_comes_back_as_it_was() {
    let database = database("cold_zoo").await;
    database.admin(ZOO).await;
    let store = database.store();
    let table = cold(&store).cold_table(&ctx(), &name("Zoo \"1\"")).await.unwrap();
    assert_eq!(table.key, ["part", "id"]);
    assert!(!table.columns.iter().any(|column| column.name == "halved"), "the server computes it again");
    let all = selection("Zoo \"1\"", "\"id\" > 0");
    let text = format!("SELECT string_agg(z::text, E'\\n' ORDER BY id) FROM {TABLE} AS z");
    let before = database.text(&text).await;
    let rows = read(&store, &table, &all, ColdPage::default()).await.unwrap();
    assert_eq!(rows.len(), 4);
    let typed = |row: usize, column: &str| {
        let place = table.columns.iter().position(|it| it.name == column).unwrap();
        !matches!(rows[row][place], Cell::Text(_))
    };
    for (row, column, expected) in [
        (0, "money_", true),
        (1, "money_", false),
        (0, "day", true),
        (1, "day", false),
        (2, "day", false),
        (0, "tstz", true),
        (1, "tstz", false),
        (1, "d", true),
        (0, "any_number", false),
        (0, "ints", false),
    ] {
        assert_eq!(typed(row, column), expected, "{row} {column}");
    }
    // Into a table beside, made from what the archive knows.
    let (plan, permit) = permitted(&store);
    cold(&store).cold_create(&ctx(), &permit, &plan, &table, &name("beside")).await.unwrap();
    let twice = cold(&store).cold_create(&ctx(), &permit, &plan, &table, &name("beside")).await.unwrap_err();
    assert!(matches!(twice.kind(), ErrorKind::Conflict | ErrorKind::AlreadyExists), "{twice}");
    assert_eq!(insert(&store, &table, "beside", &rows).await, [Return::Inserted; 4]);
    assert_eq!(insert(&store, &table, "beside", &rows).await, [Return::Present; 4]);
    let beside = cold(&store).cold_table(&ctx(), &name("beside")).await.unwrap();
    let shape = |table: &ColdTable| {
        table.columns.iter().map(|it| (it.name.clone(), it.native_type.clone(), it.kind)).collect::<Vec<_>>()
    };
    assert_eq!(shape(&beside), shape(&table));
    // Deleted exactly as read, and back in their own table.
    assert_eq!(delete(&store, &table, &all, &rows).await.unwrap(), [Fate::Deleted; 4]);
    assert_eq!(database.text(&format!("SELECT count(*)::text FROM {TABLE}")).await, "0");
    assert_eq!(delete(&store, &table, &all, &rows).await.unwrap(), [Fate::Gone; 4]);
    assert_eq!(insert(&store, &table, "Zoo \"1\"", &rows).await, [Return::Inserted; 4]);
    assert_eq!(database.text(&text).await, before);
    database.admin(&format!("UPDATE {TABLE} SET t = 'other' WHERE id = 2")).await;
    assert_eq!(
        insert(&store, &table, "Zoo \"1\"", &rows).await,
        [Return::Present, Return::Conflict, Return::Present, Return::Present]
    );
    // Pages by a key of two columns.
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = read(&store, &table, &all, ColdPage { after, rows_max: Some(3) }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        found.extend(page);
    }
    assert_eq!(found.len(), 4);
}

const ORDERS: &str = "CREATE TABLE orders (id int PRIMARY KEY, customer int, at timestamptz, local timestamp, day date, s bigint, note text); \
    INSERT INTO orders SELECT i, i % 10, ts, ts, ts::date, extract(epoch FROM ts)::bigint * 1000, 'note ' || i \
      FROM (SELECT i, '2024-01-01 00:00+00'::timestamptz + i * interval '1 hour' AS ts FROM generate_series(1, 100) AS i) AS x";

#[tokio::test]
async fn the_boundary_is_one_moment_whatever_the_column_and_the_zones() {
    let database = database("cold_age").await;
    database.superuser(&format!("ALTER DATABASE {} SET timezone = 'Asia/Tokyo'", database.name())).await;
    database.admin(&format!("SET timezone = 'UTC'; {ORDERS}")).await;
    let store = database.store();
    let table = cold(&store).cold_table(&ctx(), &name("orders")).await.unwrap();
    for (column, unit, rows) in [
        ("at", TimeUnit::Seconds, 22),
        ("local", TimeUnit::Seconds, 23),
        ("day", TimeUnit::Seconds, 23),
        ("s", TimeUnit::Milliseconds, 22),
        // Seconds that are milliseconds are far in the future: nothing is old.
        ("s", TimeUnit::Seconds, 0),
    ] {
        let older = OlderThan {
            column: column.into(),
            // Midnight in Berlin.
            before: "2024-01-01T23:00:00Z".parse().unwrap(),
            before_local: "2024-01-02 00:00:00".into(),
            unit,
        };
        let selection =
            ColdSelection { table: name("orders"), older: Some(older), filter: None, holds: Vec::new() };
        let counted = cold(&store).cold_count(&ctx(), &table, &selection).await.unwrap();
        assert_eq!(counted.rows, rows, "{column} {unit:?}");
        let read = read(&store, &table, &selection, ColdPage::default()).await.unwrap();
        assert_eq!(read.len() as u64, rows, "{column}");
    }
    let older = OlderThan {
        column: "note".into(),
        before: "2024-01-01T23:00:00Z".parse().unwrap(),
        before_local: "2024-01-02 00:00:00".into(),
        unit: TimeUnit::Seconds,
    };
    let selection =
        ColdSelection { table: name("orders"), older: Some(older), filter: None, holds: Vec::new() };
    let error = cold(&store).cold_count(&ctx(), &table, &selection).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_row_that_another_writer_changes_is_not_deleted() {
    let database = database("cold_race").await;
    database.admin(ORDERS).await;
    let store = Arc::new(database.store());
    let table = cold(&store).cold_table(&ctx(), &name("orders")).await.unwrap();
    let chosen =
        ColdSelection { holds: vec!["\"customer\" = 7".into()], ..selection("orders", "\"id\" <= 20") };
    let everything = ColdSelection { holds: Vec::new(), ..chosen.clone() };
    let rows = read(&store, &table, &everything, ColdPage::default()).await.unwrap();
    assert_eq!(rows.len(), 20);
    // Begun before the deletion and ended while it waits for the row: it is seen as it is then.
    let other = database.connect_as_superuser().await;
    other
        .batch_execute(
            "BEGIN; UPDATE orders SET note = 'changed' WHERE id = 3; DELETE FROM orders WHERE id = 4",
        )
        .await
        .unwrap();
    let deletion = {
        let (store, table, chosen, rows) = (Arc::clone(&store), table.clone(), chosen.clone(), rows.clone());
        tokio::spawn(async move { delete(&store, &table, &chosen, &rows).await })
    };
    database.until_sessions(&database.writer(), "wait_event_type = 'Lock'", 1).await;
    other.batch_execute("COMMIT").await.unwrap();
    let fates = deletion.await.unwrap().unwrap();
    let mut expected = vec![Fate::Deleted; 20];
    (expected[2], expected[3]) = (Fate::Changed, Fate::Gone);
    (expected[6], expected[16]) = (Fate::Held, Fate::Held);
    assert_eq!(fates, expected);
    let left = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM orders WHERE id <= 20";
    assert_eq!(database.text(left).await, "3 7 17");
}

#[tokio::test]
async fn rows_that_others_point_at_stay() {
    let database = database("cold_keys").await;
    database.admin(ORDERS).await;
    database
        .admin(
            "CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE); \
             INSERT INTO lines VALUES (1, 5), (2, 90)",
        )
        .await;
    let store = Arc::new(database.store());
    let table = cold(&store).cold_table(&ctx(), &name("orders")).await.unwrap();
    let chosen = selection("orders", "\"id\" <= 10");
    let counted = cold(&store).cold_count(&ctx(), &table, &chosen).await.unwrap();
    assert_eq!(counted.referred, [("lines_order_id_fkey of lines".to_owned(), 1)]);
    let rows = read(&store, &table, &chosen, ColdPage::default()).await.unwrap();
    // A line that is being written for another of them: the deletion waits, and then sees it.
    let other = database.connect_as_superuser().await;
    other.batch_execute("BEGIN; INSERT INTO lines VALUES (3, 6)").await.unwrap();
    let deletion = {
        let (store, table, chosen, rows) = (Arc::clone(&store), table.clone(), chosen.clone(), rows.clone());
        tokio::spawn(async move { delete(&store, &table, &chosen, &rows).await })
    };
    database.until_sessions(&database.writer(), "wait_event_type = 'Lock'", 1).await;
    other.batch_execute("COMMIT").await.unwrap();
    let fates = deletion.await.unwrap().unwrap();
    assert_eq!((fates[4], fates[5]), (Fate::Referred, Fate::Referred));
    assert_eq!(fates.iter().filter(|fate| **fate == Fate::Deleted).count(), 8);
    assert_eq!(database.text("SELECT count(*)::text FROM lines").await, "3", "no line went with its order");
}

#[tokio::test]
async fn what_the_table_does_not_allow_is_said_and_deletes_nothing() {
    let database = database("cold_no").await;
    database.admin(ORDERS).await;
    database.admin("CREATE TABLE keyless (a int); CREATE VIEW v AS SELECT * FROM orders").await;
    let store = database.store();
    for (table, kind) in
        [("keyless", ErrorKind::Invalid), ("v", ErrorKind::Invalid), ("none", ErrorKind::NotFound)]
    {
        let error = cold(&store).cold_table(&ctx(), &name(table)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{table}");
    }
    let table = cold(&store).cold_table(&ctx(), &name("orders")).await.unwrap();
    let chosen = selection("orders", "\"id\" <= 10");
    let rows = read(&store, &table, &chosen, ColdPage::default()).await.unwrap();
    // A permit for another plan.
    let (plan, permit) = permitted(&store);
    let other = Plan { summary: "another".into(), ..plan };
    let refused = cold(&store).cold_delete(&ctx(), &permit, &other, &table, &chosen, &rows).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Forbidden);
    // A trigger that keeps one row.
    database
        .admin(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF OLD.id = 5 THEN RETURN NULL; END IF; RETURN OLD; END'; \
             CREATE TRIGGER keep BEFORE DELETE ON orders FOR EACH ROW EXECUTE FUNCTION keep()",
        )
        .await;
    let error = delete(&store, &table, &chosen, &rows).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    database.admin("DROP TRIGGER keep ON orders; ALTER TABLE orders ADD COLUMN late int").await;
    let error = delete(&store, &table, &chosen, &rows).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(database.text("SELECT count(*)::text FROM orders").await, "100");
}
