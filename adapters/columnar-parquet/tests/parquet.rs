//! What is written is read back, whatever it is, and what was damaged is noticed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use columnar_parquet::Parquet;
use contract::ErrorKind;
use contract::columnar::{Cell, Column, ColumnKind, Columnar, ColumnarTable, Row, encode_row};
use proptest::prelude::*;

const KINDS: [ColumnKind; 14] = [
    ColumnKind::Boolean,
    ColumnKind::Int32,
    ColumnKind::Int64,
    ColumnKind::Float32,
    ColumnKind::Float64,
    ColumnKind::Decimal { precision: 38, scale: 9 },
    ColumnKind::Text,
    ColumnKind::Json,
    ColumnKind::Uuid,
    ColumnKind::Bytes,
    ColumnKind::Date,
    ColumnKind::Time,
    ColumnKind::Timestamp,
    ColumnKind::TimestampUtc,
];

fn table() -> ColumnarTable {
    let column = |(number, kind): (usize, &ColumnKind)| Column {
        name: format!("c{number}"),
        kind: *kind,
        native_type: String::new(),
        nullable: true,
    };
    ColumnarTable {
        columns: KINDS.iter().enumerate().map(column).collect(),
        notes: BTreeMap::from([("from".to_owned(), "a test".to_owned())]),
    }
}

fn any_cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        Just(Cell::Null),
        any::<bool>().prop_map(Cell::Bool),
        any::<i64>().prop_map(Cell::Int),
        (-5_i64..5).prop_map(Cell::Int),
        any::<u64>().prop_map(|bits| Cell::Float(f64::from_bits(bits))),
        any::<f32>().prop_map(|value| Cell::Float(f64::from(value))),
        any::<i128>().prop_map(Cell::Decimal),
        any::<String>().prop_map(Cell::Text),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Cell::Bytes),
        any::<[u8; 16]>().prop_map(|bytes| Cell::Bytes(bytes.to_vec())),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Cell::Raw),
    ]
}

fn write(file: &Path, rows: &[Row]) -> contract::columnar::ColumnarFile {
    let mut writer = Parquet.create(file, &table()).unwrap();
    for row in rows {
        writer.write(row.clone()).unwrap();
    }
    writer.finish().unwrap()
}

fn read(file: &Path) -> Result<Vec<Row>, contract::Error> {
    let mut reader = Parquet.open(file)?;
    let mut rows = Vec::new();
    for group in 0..reader.groups() {
        rows.extend(reader.read(group)?);
    }
    Ok(rows)
}

fn encoded(rows: &[Row]) -> Vec<u8> {
    rows.iter().fold(Vec::new(), |mut out, row| {
        encode_row(row, &mut out);
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_value_in_any_column_comes_back(
        rows in proptest::collection::vec(proptest::collection::vec(any_cell(), KINDS.len()), 0..40)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows.parquet");
        let written = write(&file, &rows);
        prop_assert_eq!(written.rows, rows.len() as u64);
        prop_assert_eq!(encoded(&read(&file).unwrap()), encoded(&rows));
    }
}

#[test]
fn large_tables_are_cut_into_groups_with_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.parquet");
    let rows: Vec<Row> = (0..120_000)
        .map(|number| {
            let mut row = vec![Cell::Null; KINDS.len()];
            row[2] = Cell::Int(number);
            row[6] = Cell::Text(format!("{number:06}"));
            // One value that does not fit, in the last group alone.
            row[10] = if number == 119_999 { Cell::Text("infinity".into()) } else { Cell::Int(number) };
            row
        })
        .collect();
    let written = write(&file, &rows);
    assert_eq!(written.beside, BTreeMap::from([("c10".to_owned(), 1)]));
    let reader = Parquet.open(&file).unwrap();
    // The values of so many columns fill a group before its rows do.
    assert_eq!(reader.groups(), 4);
    let first = i64::try_from(reader.rows(0)).unwrap();
    assert_eq!(reader.notes()["from"], "a test");
    assert_eq!(reader.columns(), table().columns);
    assert_eq!(reader.bounds(1, 2), Some((Cell::Int(first), Cell::Int(2 * first - 1))));
    let last = Cell::Text(format!("{:06}", first - 1));
    assert_eq!(reader.bounds(0, 6), Some((Cell::Text("000000".into()), last)));
    assert_eq!(reader.bounds(3, 2), None, "a value that lies beside may be the greatest");
    assert_eq!(encoded(&read(&file).unwrap()), encoded(&rows));
}

#[test]
fn a_file_that_was_cut_or_changed_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.parquet");
    let row = |number| {
        let mut row = vec![Cell::Null; KINDS.len()];
        row[6] = Cell::Text(format!("row {number}"));
        row
    };
    write(&file, &(0..100).map(row).collect::<Vec<_>>());
    assert_eq!(Parquet.create(&file, &table()).err().unwrap().kind(), ErrorKind::Conflict);
    let whole = std::fs::read(&file).unwrap();
    for length in [0, 4, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file, &whole[..length]).unwrap();
        assert_eq!(read(&file).unwrap_err().kind(), ErrorKind::Corrupt, "{length}");
    }
    assert_eq!(Parquet.open(&dir.path().join("none")).err().unwrap().kind(), ErrorKind::NotFound);
}
