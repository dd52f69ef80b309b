//! Reading a file, one group of rows after the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use contract::Error;
use contract::columnar::{Cell, Column, ColumnKind, ColumnarReader, Row};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::statistics::Statistics;
use serde_json::{Map, Value};

use crate::writer::notes;
use crate::{COLUMNS, beside, error};

pub(crate) struct Reader {
    path: PathBuf,
    file: SerializedFileReader<File>,
    columns: Vec<Column>,
    notes: BTreeMap<String, String>,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let opened = File::open(path).map_err(|cause| error::of_file(&cause, path))?;
        let file = SerializedFileReader::new(opened).map_err(|cause| error::of_reading(cause, path))?;
        let metadata = file.metadata().file_metadata();
        let mut notes = notes(metadata.key_value_metadata());
        let columns: Vec<Column> = notes
            .remove(COLUMNS)
            .and_then(|text| serde_json::from_str(&text).ok())
            .ok_or_else(|| error::of_reading("it does not say what its columns are", path))?;
        if metadata.schema_descr().num_columns() != columns.len() + 1 {
            return Err(error::of_reading("it has other columns than it says", path));
        }
        Ok(Self { path: path.to_owned(), file, columns, notes })
    }
}

/// The values of a column in a group; NULL where there is none.
fn column<D: DataType>(
    mut reader: ColumnReaderImpl<D>,
    rows: usize,
    cell: impl Fn(&D::T) -> Result<Cell, ParquetError>,
) -> Result<Vec<Cell>, ParquetError> {
    let (mut values, mut present) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    while present.len() < rows {
        let (records, _, _) =
            reader.read_records(rows - present.len(), Some(&mut present), None, &mut values)?;
        if records == 0 {
            return Err(ParquetError::EOF("a column ends before its group".into()));
        }
    }
    let mut values = values.iter();
    let mut out = Vec::with_capacity(rows);
    for present in present {
        let value = if present == 0 { None } else { values.next() };
        out.push(value.map_or(Ok(Cell::Null), &cell)?);
    }
    Ok(out)
}

fn text(bytes: &[u8]) -> Result<Cell, ParquetError> {
    std::str::from_utf8(bytes)
        .map(|text| Cell::Text(text.to_owned()))
        .map_err(|_| ParquetError::General("a text is not UTF-8".into()))
}

fn fixed(bytes: &[u8], kind: ColumnKind) -> Result<Cell, ParquetError> {
    if !matches!(kind, ColumnKind::Decimal { .. }) {
        return Ok(Cell::Bytes(bytes.to_vec()));
    }
    let bytes = <[u8; 16]>::try_from(bytes)
        .map_err(|_| ParquetError::General("a decimal has another length".into()))?;
    Ok(Cell::Decimal(i128::from_be_bytes(bytes)))
}

fn cells(reader: ColumnReader, rows: usize, kind: ColumnKind) -> Result<Vec<Cell>, ParquetError> {
    match reader {
        ColumnReader::BoolColumnReader(reader) => column(reader, rows, |value| Ok(Cell::Bool(*value))),
        ColumnReader::Int32ColumnReader(reader) => {
            column(reader, rows, |value| Ok(Cell::Int(i64::from(*value))))
        }
        ColumnReader::Int64ColumnReader(reader) => column(reader, rows, |value| Ok(Cell::Int(*value))),
        ColumnReader::FloatColumnReader(reader) => {
            column(reader, rows, |value| Ok(Cell::Float(f64::from(*value))))
        }
        ColumnReader::DoubleColumnReader(reader) => column(reader, rows, |value| Ok(Cell::Float(*value))),
        ColumnReader::ByteArrayColumnReader(reader) => column(reader, rows, |value| {
            if kind == ColumnKind::Bytes {
                Ok(Cell::Bytes(value.data().to_vec()))
            } else {
                text(value.data())
            }
        }),
        ColumnReader::FixedLenByteArrayColumnReader(reader) => {
            column(reader, rows, |value| fixed(value.data(), kind))
        }
        ColumnReader::Int96ColumnReader(_) => {
            Err(ParquetError::General("a column has a type that is never written".into()))
        }
    }
}

impl Reader {
    fn read_group(&self, number: usize) -> Result<Vec<Row>, ParquetError> {
        let group = self.file.get_row_group(number)?;
        let rows = usize::try_from(group.metadata().num_rows())
            .map_err(|_| ParquetError::General("a group has fewer than no rows".into()))?;
        let mut out: Vec<Row> = (0..rows).map(|_| Vec::with_capacity(self.columns.len())).collect();
        for (place, of) in self.columns.iter().enumerate() {
            for (row, cell) in out.iter_mut().zip(cells(group.get_column_reader(place)?, rows, of.kind)?) {
                row.push(cell);
            }
        }
        let beside = cells(group.get_column_reader(self.columns.len())?, rows, ColumnKind::Json)?;
        for (row, cell) in out.iter_mut().zip(beside) {
            let Cell::Text(text) = cell else { continue };
            let object: Map<String, Value> = serde_json::from_str(&text)
                .map_err(|_| ParquetError::General("what lies beside a row is not JSON".into()))?;
            for (name, value) in object {
                let place = self.columns.iter().position(|column| column.name == name);
                let (Some(place), Some(cell)) = (place, beside::read(&value)) else {
                    return Err(ParquetError::General("what lies beside a row is not understood".into()));
                };
                row[place] = cell;
            }
        }
        Ok(out)
    }

    /// Whether something lies beside the columns in this group: their bounds say nothing then.
    fn has_beside(&self, group: usize) -> bool {
        let metadata = self.file.metadata().row_group(group);
        let rows = u64::try_from(metadata.num_rows()).unwrap_or(u64::MAX);
        let statistics = metadata.column(self.columns.len()).statistics();
        statistics.and_then(Statistics::null_count_opt) != Some(rows)
    }
}

impl ColumnarReader for Reader {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    fn groups(&self) -> usize {
        self.file.num_row_groups()
    }

    fn rows(&self, group: usize) -> u64 {
        u64::try_from(self.file.metadata().row_group(group).num_rows()).unwrap_or(0)
    }

    fn bounds(&self, group: usize, column: usize) -> Option<(Cell, Cell)> {
        if self.has_beside(group) {
            return None;
        }
        let kind = self.columns.get(column)?.kind;
        let statistics = self.file.metadata().row_group(group).column(column).statistics()?;
        match statistics {
            Statistics::Int32(it) => {
                Some((Cell::Int(i64::from(*it.min_opt()?)), Cell::Int(i64::from(*it.max_opt()?))))
            }
            Statistics::Int64(it) => Some((Cell::Int(*it.min_opt()?), Cell::Int(*it.max_opt()?))),
            Statistics::ByteArray(it) if kind == ColumnKind::Text => {
                // A bound may be cut short in the middle of a letter; then nothing is known.
                Some((text(it.min_opt()?.data()).ok()?, text(it.max_opt()?.data()).ok()?))
            }
            Statistics::FixedLenByteArray(it) if matches!(kind, ColumnKind::Decimal { .. }) => {
                Some((fixed(it.min_opt()?.data(), kind).ok()?, fixed(it.max_opt()?.data(), kind).ok()?))
            }
            // NaN is in no bounds of floats.
            _ => None,
        }
    }

    fn read(&mut self, group: usize) -> Result<Vec<Row>, Error> {
        self.read_group(group).map_err(|cause| error::of_reading(cause, &self.path))
    }
}
