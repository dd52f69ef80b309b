//! What others read from our files: DuckDB and pyarrow, from PyPI.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use columnar_parquet::Parquet;
use contract::columnar::{Cell, Column, ColumnKind, Columnar, ColumnarTable};
use serde_json::{Value, json};

fn read(file: &Path) -> Value {
    let python = conformance::server("STEWARD_TEST_COLUMNAR_URL");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read.py");
    let done = Command::new(python).arg(script).arg(file).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn others_read_the_same_types_and_values() {
    let text = |text: &str| Cell::Text(text.to_owned());
    // Kind, value, and its type and text by DuckDB and by pyarrow.
    let columns: Vec<(ColumnKind, Cell, [&str; 2], [&str; 2])> = vec![
        (ColumnKind::Boolean, Cell::Bool(true), ["BOOLEAN", "true"], ["bool", "true"]),
        (ColumnKind::Int32, Cell::Int(-5), ["INTEGER", "-5"], ["int32", "-5"]),
        (
            ColumnKind::Int64,
            Cell::Int(i64::MIN),
            ["BIGINT", "-9223372036854775808"],
            ["int64", "-9223372036854775808"],
        ),
        (ColumnKind::Float32, Cell::Float(0.5), ["FLOAT", "0.5"], ["float", "0.5"]),
        (ColumnKind::Float64, Cell::Float(f64::NAN), ["DOUBLE", "nan"], ["double", "nan"]),
        (
            ColumnKind::Decimal { precision: 12, scale: 2 },
            Cell::Decimal(-105),
            ["DECIMAL(12,2)", "-1.05"],
            ["decimal128(12, 2)", "-1.05"],
        ),
        (
            ColumnKind::Decimal { precision: 38, scale: 0 },
            Cell::Decimal(10_i128.pow(38) - 1),
            ["DECIMAL(38,0)", "99999999999999999999999999999999999999"],
            ["decimal128(38, 0)", "99999999999999999999999999999999999999"],
        ),
        (ColumnKind::Text, text("ü ☃ 'x'"), ["VARCHAR", "ü ☃ 'x'"], ["string", "ü ☃ 'x'"]),
        (ColumnKind::Json, text("{\"a\": [1]}"), ["JSON", "{\"a\": [1]}"], ["*", "{\"a\": [1]}"]),
        (
            ColumnKind::Uuid,
            Cell::Bytes((0..16).collect()),
            ["UUID", "00010203-0405-0607-0809-0a0b0c0d0e0f"],
            ["*", "*"],
        ),
        (ColumnKind::Bytes, Cell::Bytes(vec![0, 255]), ["BLOB", "00FF"], ["binary", "00ff"]),
        (ColumnKind::Date, Cell::Int(19_782), ["DATE", "2024-02-29"], ["date32[day]", "2024-02-29"]),
        (
            ColumnKind::Time,
            Cell::Int(18_367_890_000),
            ["TIME", "05:06:07.89"],
            ["time64[us]", "05:06:07.890000"],
        ),
        (
            ColumnKind::Timestamp,
            Cell::Int(1_709_208_000_500_000),
            ["TIMESTAMP", "2024-02-29 12:00:00.5"],
            ["timestamp[us]", "2024-02-29 12:00:00.500000"],
        ),
        (
            ColumnKind::TimestampUtc,
            Cell::Int(-1),
            ["TIMESTAMP WITH TIME ZONE", "1969-12-31 23:59:59.999999+00"],
            ["timestamp[us, tz=UTC]", "1969-12-31 23:59:59.999999+00:00"],
        ),
        // What no date of theirs can be stands beside.
        (ColumnKind::Date, text("infinity"), ["DATE", "NULL"], ["date32[day]", "NULL"]),
        // An integer that SQLite keeps in a column of floats is in both.
        (ColumnKind::Float64, Cell::Int(12), ["DOUBLE", "12.0"], ["double", "12.0"]),
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.parquet");
    let described = columns.iter().enumerate().map(|(number, (kind, ..))| Column {
        name: format!("c{number}"),
        kind: *kind,
        native_type: String::new(),
        nullable: true,
    });
    let table = ColumnarTable { columns: described.collect(), notes: BTreeMap::new() };
    let mut writer = Parquet.create(&file, &table).unwrap();
    writer.write(columns.iter().map(|(_, cell, ..)| cell.clone()).collect()).unwrap();
    writer.write(vec![Cell::Null; columns.len()]).unwrap();
    writer.finish().unwrap();
    let answer = read(&file);
    for (reader, which) in [("duckdb", 0), ("pyarrow", 1)] {
        let (named, rows) = (&answer[reader]["types"], &answer[reader]["rows"]);
        for (number, (kind, cell, duckdb, pyarrow)) in columns.iter().enumerate() {
            let [type_, text] = if which == 0 { duckdb } else { pyarrow };
            let told = |value: &Value| value.as_str().unwrap_or("NULL").to_owned();
            assert!(*type_ == "*" || told(&named[number]) == *type_, "{reader} {kind:?}: {}", named[number]);
            assert!(
                *text == "*" || told(&rows[0][number]) == *text,
                "{reader} {cell:?}: {}",
                rows[0][number]
            );
            assert_eq!(rows[1][number], Value::Null, "{reader} {kind:?}");
        }
        let beside: Value = serde_json::from_str(rows[0][columns.len()].as_str().unwrap()).unwrap();
        assert_eq!(beside, json!({ "c15": ["text", "infinity"], "c16": ["integer", "12"] }), "{reader}");
    }
}
