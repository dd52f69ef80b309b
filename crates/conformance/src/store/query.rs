//! Cases of `Relational::query` and `Relational::explain`.

use std::time::Duration;

use contract::{Capability, ErrorKind, Limits, Query, Truncation};
use serde_json::json;

use super::Opened;

const SERIES: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i FROM n";

fn limited(sql: &str, limits: Limits) -> Query {
    Query { sql: sql.to_owned(), parameters: Vec::new(), limits }
}

/// Every basic type arrives as the contract says.
pub async fn query_gives_values_of_each_type(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    for (expression, expected) in &opened.sql.values {
        let query = Query::new(format!("SELECT {expression} AS value"));
        let rows = match relational.query(&opened.ctx(), &query).await {
            Ok(rows) => rows,
            Err(error) => panic!("{expression}: {error}"),
        };
        assert_eq!(rows.columns, ["value"], "{expression}");
        assert_eq!(rows.types.len(), 1, "{expression}");
        assert_eq!(rows.rows, [[expected.clone()]], "{expression}");
        assert_eq!(rows.truncated, None, "{expression}");
    }
}

/// Values are bound, never pasted: what looks like SQL stays text.
pub async fn query_binds_parameters(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    opened.make_victim().await;
    opened.admin.run("INSERT INTO victim VALUES (2, 'x''; DROP TABLE victim --')").await;
    let sql = format!(
        "SELECT id FROM victim WHERE name = {} AND id < {}",
        (opened.sql.placeholder)(1),
        (opened.sql.placeholder)(2)
    );
    let query = |parameters: Vec<serde_json::Value>| Query { parameters, ..Query::new(&sql) };
    for (name, bound, expected) in [
        ("one", 10, json!([[1]])),
        ("x'; DROP TABLE victim --", 10, json!([[2]])),
        ("one' OR 'a' = 'a", 10, json!([])),
        ("one", 0, json!([])),
    ] {
        let rows = relational.query(&opened.ctx(), &query(vec![json!(name), json!(bound)])).await.unwrap();
        assert_eq!(json!(rows.rows), expected, "{name}");
    }
    let rows = relational.query(&opened.ctx(), &query(vec![json!(null), json!(1)])).await.unwrap();
    assert!(rows.rows.is_empty(), "NULL equals nothing");
    for wrong in [vec![], vec![json!("one")], vec![json!({"a": 1}), json!(1)]] {
        let error =
            relational.query(&opened.ctx(), &query(wrong.clone())).await.expect_err(&format!("{wrong:?}"));
        opened.expect_kind(&error, &[ErrorKind::Invalid]);
    }
}

/// `quote_identifier` makes any name usable.
pub async fn query_quotes_odd_identifiers(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    for name in ["order", "a\"b", "a b", "a;b", "a'b", "ž🦔", "A"] {
        let quoted = relational.quote_identifier(name);
        let query = Query::new(format!("SELECT {quoted}.{quoted} FROM (SELECT 7 AS {quoted}) AS {quoted}"));
        let rows = relational.query(&opened.ctx(), &query).await.unwrap();
        assert_eq!((rows.columns, rows.rows), (vec![name.to_owned()], vec![vec![json!(7)]]));
    }
}

/// No rows, but the columns.
pub async fn query_of_nothing_is_empty(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    opened.make_victim().await;
    let rows = relational
        .query(&opened.ctx(), &Query::new("SELECT id, name FROM victim WHERE id = 0"))
        .await
        .unwrap();
    assert_eq!((rows.columns, rows.types.len()), (vec!["id".to_owned(), "name".to_owned()], 2));
    assert!(rows.rows.is_empty() && rows.truncated.is_none());
}

/// Exactly `rows_max` rows and a mark; no mark when there were no more.
pub async fn query_stops_at_the_row_limit(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    for (rows_max, rows_returned, truncated) in
        [(10, 10, Some(Truncation::Rows)), (4_999, 4_999, Some(Truncation::Rows)), (5_000, 5_000, None)]
    {
        let limits = Limits { rows_max, ..Limits::default() };
        let rows = relational.query(&opened.ctx(), &limited(SERIES, limits)).await.unwrap();
        assert_eq!((rows.rows.len(), rows.truncated), (rows_returned, truncated), "rows_max {rows_max}");
        assert_eq!(rows.rows[9], [json!(10)], "the first rows, in order");
    }
    // A bounded read of an endless answer ends at once.
    let endless = opened.sql.slow.replace("SELECT count(*) FROM n", "SELECT i FROM n");
    let limits = Limits { rows_max: 3, ..Limits::default() };
    if endless != opened.sql.slow {
        let rows = opened.soon(relational.query(&opened.ctx(), &limited(&endless, limits))).await.unwrap();
        assert_eq!(rows.rows.len(), 3);
    }
}

/// The row that would pass `bytes_max` is left out, even the first.
pub async fn query_stops_at_the_byte_limit(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    let limits = Limits { bytes_max: 4_000, rows_max: 100_000, ..Limits::default() };
    let rows = relational.query(&opened.ctx(), &limited(SERIES, limits)).await.unwrap();
    assert_eq!(rows.truncated, Some(Truncation::Bytes));
    assert!(!rows.rows.is_empty() && rows.rows.len() < 5_000, "{}", rows.rows.len());

    let huge = (opened.sql.wide)(3_000_000);
    let rows = relational.query(&opened.ctx(), &Query::new(&huge)).await.unwrap();
    assert_eq!((rows.rows.len(), rows.truncated), (0, Some(Truncation::Bytes)));
    let limits = Limits { bytes_max: 4_000_000, ..Limits::default() };
    let rows = relational.query(&opened.ctx(), &limited(&huge, limits)).await.unwrap();
    assert_eq!((rows.rows.len(), rows.truncated), (1, None));
    assert_eq!(rows.rows[0][0].as_str().unwrap().len(), 3_000_000);
}

/// `statement_timeout` stops the engine, not only the waiting.
pub async fn query_stops_at_the_time_limit(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    let limits = Limits { statement_timeout: Duration::from_millis(300), ..Limits::default() };
    let error =
        opened.soon(relational.query(&opened.ctx(), &limited(&opened.sql.slow, limits))).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::TimedOut]);
    relational.query(&opened.ctx(), &Query::new("SELECT 1")).await.expect("the store goes on working");
}

/// So does the context's deadline.
pub async fn query_past_its_deadline_times_out(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    let ctx = opened.ctx().with_timeout(Duration::from_millis(300));
    let error = opened.soon(relational.query(&ctx, &Query::new(&opened.sql.slow))).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::TimedOut]);
    relational.query(&opened.ctx(), &Query::new("SELECT 1")).await.expect("the store goes on working");
}

/// A canceled call does not begin.
pub async fn query_canceled_before_it_began_reports_canceled(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    let ctx = opened.ctx();
    ctx.cancellation().cancel();
    let error = opened.soon(relational.query(&ctx, &Query::new(&opened.sql.slow))).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::Canceled]);
}

/// A call that is canceled midway ends soon.
pub async fn query_canceled_midway_reports_canceled(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    let query = Query::new(&opened.sql.slow);
    let answer = opened.canceled_after(200, async |ctx| relational.query(&ctx, &query).await).await;
    opened.expect_kind(&answer.unwrap_err(), &[ErrorKind::Canceled]);
    relational.query(&opened.ctx(), &Query::new("SELECT 1")).await.expect("the store goes on working");
}

/// One statement per call; a closing semicolon and comments are not statements.
pub async fn query_refuses_more_than_one_statement(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    opened.make_victim().await;
    for sql in [
        "SELECT 1; SELECT 2",
        "SELECT 1; DELETE FROM victim",
        "SELECT 1; COMMIT; DELETE FROM victim",
        "; DELETE FROM victim",
        "SELECT 1 /* ; */; DROP TABLE victim; --",
    ] {
        let error = relational.query(&opened.ctx(), &Query::new(sql)).await.expect_err(sql);
        opened.expect_kind(&error, &[ErrorKind::Invalid]);
    }
    for sql in ["", "  ", "-- nothing", ";"] {
        let error = relational.query(&opened.ctx(), &Query::new(sql)).await.expect_err(sql);
        opened.expect_kind(&error, &[ErrorKind::Invalid]);
    }
    for sql in ["SELECT 1;", "SELECT 1 -- ; no more", "/* ; */ SELECT ';' WHERE 1 = 1 ;  "] {
        let rows = relational.query(&opened.ctx(), &Query::new(sql)).await;
        assert_eq!(rows.expect(sql).rows.len(), 1, "{sql}");
    }
    assert_eq!(opened.victim().await, ["1:one"]);
}

/// Whatever the text, the engine does not write.
pub async fn query_refuses_every_write(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    opened.make_victim().await;
    let inspect = async || match relational.inspect(&opened.ctx()).await {
        // Not its sizes: a server may tidy up at any time.
        Ok(schema) => Some(schema.structure()),
        Err(error) => {
            opened.expect_kind(&error, &[ErrorKind::Unsupported]);
            None
        }
    };
    let before = inspect().await;
    for sql in &opened.sql.writes {
        let error = match relational.query(&opened.ctx(), &Query::new(sql)).await {
            Err(error) => error,
            Ok(rows) => panic!("this was not refused: {sql}\n{rows:?}"),
        };
        opened.expect_kind(&error, &[ErrorKind::Denied, ErrorKind::Invalid, ErrorKind::Unsupported]);
        assert_eq!(opened.victim().await, ["1:one"], "{sql}");
        assert_eq!(inspect().await, before, "{sql}");
    }
    let denied = relational.query(&opened.ctx(), &Query::new("DELETE FROM victim")).await.unwrap_err();
    opened.expect_kind(&denied, &[ErrorKind::Denied]);
}

/// Errors can be told apart and keep secrets.
pub async fn query_errors_have_kinds_and_no_secrets(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    for (sql, kinds) in [
        ("SELEC 1", &[ErrorKind::Invalid][..]),
        ("SELECT 'unfinished", &[ErrorKind::Invalid]),
        ("SELECT * FROM no_such_table", &[ErrorKind::NotFound]),
        ("SELECT no_such_column FROM (SELECT 1 AS one) AS t", &[ErrorKind::NotFound]),
        ("SELECT no_such_function(1)", &[ErrorKind::NotFound, ErrorKind::Invalid]),
        ("SELECT '\0'", &[ErrorKind::Invalid]),
    ] {
        let error = relational.query(&opened.ctx(), &Query::new(sql)).await.expect_err(sql);
        opened.expect_kind(&error, kinds);
        assert!(!error.message().is_empty() && !error.message().ends_with('.'), "{error}");
    }
}

/// Queries do not wait for each other.
pub async fn queries_run_side_by_side(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Query).await else { return };
    let (ctx, slow) = (opened.ctx(), Query::new(&opened.sql.slow));
    let quick = async {
        for i in 0..20 {
            let rows = relational.query(&opened.ctx(), &Query::new(format!("SELECT {i}"))).await;
            assert_eq!(rows.expect("quick queries are answered").rows, [[json!(i)]]);
        }
        // Only now: were they to wait for the slow one, this would not come soon.
        ctx.cancellation().cancel();
    };
    let (answer, ()) = opened.soon(async { tokio::join!(relational.query(&ctx, &slow), quick) }).await;
    opened.expect_kind(&answer.unwrap_err(), &[ErrorKind::Canceled]);
}

/// Without an index the table is read from end to end; with one it is not.
pub async fn explain_tells_a_scan_from_an_index(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Explain).await else { return };
    opened
        .admin
        .run(
            "CREATE TABLE visits (id INTEGER PRIMARY KEY, page TEXT, seconds INTEGER); \
             INSERT INTO visits WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
             SELECT i, 'page ' || i, i % 7 FROM n; ANALYZE;",
        )
        .await;
    let sql = "SELECT seconds FROM visits WHERE page = 'page 77'";
    let explain = relational.explain(&opened.ctx(), sql).await.unwrap();
    let scanned: Vec<_> = explain.full_scans.iter().map(|scan| scan.table.as_str()).collect();
    assert_eq!(scanned, ["visits"], "{explain:?}");
    assert!(explain.indexes_used.is_empty() && !explain.text.is_empty(), "{explain:?}");

    opened.admin.run("CREATE INDEX visits_page ON visits (page); ANALYZE;").await;
    let explain = relational.explain(&opened.ctx(), sql).await.unwrap();
    assert!(explain.full_scans.is_empty(), "{explain:?}");
    assert_eq!(explain.indexes_used, ["visits_page"], "{explain:?}");
}

/// To explain is not to run, and what `query` refuses, `explain` refuses.
pub async fn explain_refuses_writes(opened: &Opened) {
    let Some(relational) = opened.relational(Capability::Explain).await else { return };
    opened.make_victim().await;
    for sql in [
        "DELETE FROM victim",
        "ANALYZE DELETE FROM victim",
        "SELECT 1; DELETE FROM victim",
        "DROP TABLE victim",
        "",
    ] {
        let error = relational.explain(&opened.ctx(), sql).await.expect_err(sql);
        opened.expect_kind(&error, &[ErrorKind::Denied, ErrorKind::Invalid]);
    }
    relational.explain(&opened.ctx(), &opened.sql.slow).await.unwrap();
    let error = relational.explain(&opened.ctx(), "SELECT * FROM no_such_table").await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::NotFound]);
    if opened.declares(Capability::Query) {
        assert_eq!(opened.victim().await, ["1:one"]);
    }
}
