//! Writing a file, one group of rows after the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use contract::columnar::{
    BESIDE, Cell, Column, ColumnKind, ColumnarFile, ColumnarTable, ColumnarWriter, Row,
};
use contract::{Error, ErrorKind};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType,
    FloatType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use serde_json::{Map, Value};

use crate::kind::{Lies, lies, schema};
use crate::{COLUMNS, beside, error};

/// Most rows of a group: enough for a scan to be fast, few enough to be held in memory twice.
const GROUP_ROWS_MAX: usize = 50_000;
/// Most bytes of a group's values in memory.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// zstd's own default; higher ones cost much time for little room.
const LEVEL: i32 = 3;

pub(crate) struct Writer {
    path: PathBuf,
    file: File,
    columns: Vec<Column>,
    parquet: Option<SerializedFileWriter<File>>,
    group: Vec<Row>,
    group_bytes: usize,
    written: ColumnarFile,
}

impl Writer {
    pub(crate) fn create(path: &Path, table: &ColumnarTable) -> Result<Self, Error> {
        if table.columns.iter().any(|column| column.name == BESIDE) {
            return Err(Error::new(ErrorKind::Invalid, format!("a column may not be called `{BESIDE}`")));
        }
        let schema = schema(&table.columns).map_err(|cause| {
            Error::new(ErrorKind::Invalid, "Parquet does not take these columns").because(cause.to_string())
        })?;
        let columns = serde_json::to_string(&table.columns).expect("columns are JSON");
        let mut notes = vec![KeyValue::new(COLUMNS.to_owned(), columns)];
        notes.extend(table.notes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
        let level = ZstdLevel::try_new(LEVEL).map_err(|cause| error::of_writing(cause, path))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_created_by("steward".to_owned())
            .set_key_value_metadata(Some(notes))
            .build();
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|cause| error::of_file(&cause, path))?;
        let to_write = file.try_clone().map_err(|cause| error::of_file(&cause, path))?;
        let writer = SerializedFileWriter::new(to_write, schema, Arc::new(properties))
            .map_err(|cause| error::of_writing(cause, path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            columns: table.columns.clone(),
            parquet: Some(writer),
            group: Vec::new(),
            group_bytes: 0,
            written: ColumnarFile::default(),
        })
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.group.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        let beside = self.beside(&rows);
        let writer = self.parquet.as_mut().expect("taken only when the file ends");
        write_group(writer, &self.columns, &rows, &beside)
            .map_err(|cause| error::of_writing(cause, &self.path))?;
        self.written.rows += rows.len() as u64;
        Ok(())
    }

    /// For each row what its columns cannot hold, as text.
    fn beside(&mut self, rows: &[Row]) -> Vec<Option<String>> {
        let mut out = Vec::with_capacity(rows.len());
        for row in rows {
            let mut object = Map::new();
            for (column, cell) in self.columns.iter().zip(row) {
                if !cell.fits(column.kind) {
                    *self.written.beside.entry(column.name.clone()).or_default() += 1;
                    object.insert(column.name.clone(), beside::write(cell));
                }
            }
            out.push((!object.is_empty()).then(|| Value::Object(object).to_string()));
        }
        out
    }
}

impl ColumnarWriter for Writer {
    fn write(&mut self, row: Row) -> Result<(), Error> {
        if row.len() != self.columns.len() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the row has not as many values as there are columns",
            )
            .with("values", row.len())
            .with("columns", self.columns.len()));
        }
        self.group_bytes += row.iter().map(Cell::size).sum::<usize>();
        self.group.push(row);
        if self.group.len() >= GROUP_ROWS_MAX || self.group_bytes >= GROUP_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<ColumnarFile, Error> {
        self.flush()?;
        let writer = self.parquet.take().expect("taken only here");
        writer.close().map_err(|cause| error::of_writing(cause, &self.path))?;
        self.file.sync_all().map_err(|cause| error::of_file(&cause, &self.path))?;
        Ok(std::mem::take(&mut self.written))
    }
}

/// The values of a column that are not NULL, and for each row whether it has one.
fn values<T>(rows: &[Row], place: usize, value: impl Fn(&Cell) -> Option<T>) -> (Vec<T>, Vec<i16>) {
    let mut present = Vec::with_capacity(rows.len());
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let value = value(&row[place]);
        present.push(i16::from(value.is_some()));
        out.extend(value);
    }
    (out, present)
}

fn put<D: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    (values, present): &(Vec<D::T>, Vec<i16>),
) -> Result<(), ParquetError> {
    let mut column = group
        .next_column()?
        .ok_or_else(|| ParquetError::General("the file has fewer columns than the table".into()))?;
    column.typed::<D>().write_batch(values, Some(present), None)?;
    column.close()
}

#[allow(clippy::cast_possible_truncation, reason = "only values that fit come here")]
fn write_group(
    writer: &mut SerializedFileWriter<File>,
    columns: &[Column],
    rows: &[Row],
    beside: &[Option<String>],
) -> Result<(), ParquetError> {
    let mut group = writer.next_row_group()?;
    for (place, column) in columns.iter().enumerate() {
        let kind = column.kind;
        let fits = |cell: &Cell| cell.fits(kind);
        match lies(kind) {
            Lies::Bool => put::<BoolType>(
                &mut group,
                &values(rows, place, |cell| if let Cell::Bool(value) = cell { Some(*value) } else { None }),
            )?,
            Lies::Int32 => put::<Int32Type>(
                &mut group,
                &values(rows, place, |cell| match cell {
                    Cell::Int(value) if fits(cell) => Some(*value as i32),
                    _ => None,
                }),
            )?,
            Lies::Int64 => put::<Int64Type>(
                &mut group,
                &values(rows, place, |cell| if let Cell::Int(value) = cell { Some(*value) } else { None }),
            )?,
            Lies::Float => put::<FloatType>(
                &mut group,
                &values(rows, place, |cell| match cell {
                    Cell::Float(value) if fits(cell) => Some(*value as f32),
                    _ => None,
                }),
            )?,
            Lies::Double => put::<DoubleType>(
                &mut group,
                &values(rows, place, |cell| match cell {
                    Cell::Float(value) => Some(*value),
                    // What SQLite keeps as an integer can be counted with all the same; that it is one is kept beside it.
                    Cell::Int(value) => exact_float(*value),
                    _ => None,
                }),
            )?,
            Lies::Bytes => put::<ByteArrayType>(
                &mut group,
                &values(rows, place, |cell| match cell {
                    Cell::Text(text) if fits(cell) => Some(ByteArray::from(text.as_str())),
                    Cell::Bytes(bytes) if kind == ColumnKind::Bytes => Some(ByteArray::from(bytes.clone())),
                    _ => None,
                }),
            )?,
            Lies::Fixed(_) => put::<FixedLenByteArrayType>(
                &mut group,
                &values(rows, place, |cell| match cell {
                    Cell::Decimal(value) if fits(cell) => {
                        Some(FixedLenByteArray::from(value.to_be_bytes().to_vec()))
                    }
                    Cell::Bytes(bytes) if fits(cell) => Some(FixedLenByteArray::from(bytes.clone())),
                    _ => None,
                }),
            )?,
        }
    }
    let texts: Vec<ByteArray> = beside.iter().flatten().map(|text| ByteArray::from(text.as_str())).collect();
    let present = beside.iter().map(|text| i16::from(text.is_some())).collect();
    put::<ByteArrayType>(&mut group, &(texts, present))?;
    group.close().map(drop)
}

/// The integer as a float, if that loses nothing.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "whether it does is asked")]
fn exact_float(value: i64) -> Option<f64> {
    (value.unsigned_abs() <= 1 << 53).then_some(value as f64)
}

/// What was written beside the columns, for the reader.
pub(crate) fn notes(pairs: Option<&Vec<KeyValue>>) -> BTreeMap<String, String> {
    pairs.into_iter().flatten().filter_map(|pair| Some((pair.key.clone(), pair.value.clone()?))).collect()
}
