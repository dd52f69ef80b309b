//! Rows by columns: the values of any engine in one form, and the files that keep them for other programs to read.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// What the values of a column are, as other programs understand it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// True or false.
    Boolean,
    /// Integer of 32 bits.
    Int32,
    /// Integer of 64 bits.
    Int64,
    /// Float of 32 bits.
    Float32,
    /// Float of 64 bits.
    Float64,
    /// Exact number of so many digits, the last `scale` of them behind the point.
    Decimal {
        /// All digits, at most 38.
        precision: u8,
        /// Digits behind the point.
        scale: u8,
    },
    /// Text; also every type that has no kind of its own, in the form that its engine reads back.
    Text,
    /// JSON, as text.
    Json,
    /// Sixteen bytes.
    Uuid,
    /// Bytes.
    Bytes,
    /// Days since 1970-01-01.
    Date,
    /// Microseconds since midnight.
    Time,
    /// Microseconds since 1970-01-01 on a clock without a zone.
    Timestamp,
    /// Microseconds since 1970-01-01 UTC.
    TimestampUtc,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Column {
    /// Its name in the store.
    pub name: String,
    /// What its values are.
    pub kind: ColumnKind,
    /// The engine's own name of its type, such as `numeric(12,2)`; empty where it has none.
    pub native_type: String,
    /// The engine takes NULL.
    pub nullable: bool,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// NULL.
    Null,
    /// Of a boolean.
    Bool(bool),
    /// Of an integer, a date, a time or a timestamp, in the unit of the column's kind.
    Int(i64),
    /// Of a float.
    Float(f64),
    /// Of a decimal: all digits as one number, by the scale of the column's kind.
    Decimal(i128),
    /// Text.
    Text(String),
    /// Bytes, of a UUID too.
    Bytes(Vec<u8>),
    /// Text that is not UTF-8, as SQLite can hold it.
    Raw(Vec<u8>),
}

/// The values of a row, in the order of its columns.
pub type Row = Vec<Cell>;

impl Cell {
    /// Adds what tells this value from every other: its form, its length and its bytes. Two values are the same when this
    /// is, also NaN and the two zeros.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut put = |form: u8, bytes: &[u8]| {
            out.push(form);
            out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            out.extend_from_slice(bytes);
        };
        match self {
            Cell::Null => put(b'n', &[]),
            Cell::Bool(value) => put(b'b', &[u8::from(*value)]),
            Cell::Int(value) => put(b'i', &value.to_be_bytes()),
            Cell::Float(value) => put(b'f', &value.to_bits().to_be_bytes()),
            Cell::Decimal(value) => put(b'd', &value.to_be_bytes()),
            Cell::Text(value) => put(b't', value.as_bytes()),
            Cell::Bytes(value) => put(b'x', value),
            Cell::Raw(value) => put(b'r', value),
        }
    }

    /// Bytes that it takes in memory, about.
    pub fn size(&self) -> usize {
        let held = match self {
            Cell::Text(text) => text.len(),
            Cell::Bytes(bytes) | Cell::Raw(bytes) => bytes.len(),
            _ => 0,
        };
        held + std::mem::size_of::<Cell>()
    }

    /// Whether a column of this kind holds the value as it is; others are kept beside it, see [`Columnar`].
    pub fn fits(&self, kind: ColumnKind) -> bool {
        use ColumnKind as K;
        match self {
            Cell::Null => true,
            Cell::Bool(_) => kind == K::Boolean,
            Cell::Int(value) => match kind {
                K::Int64 | K::Time | K::Timestamp | K::TimestampUtc => true,
                K::Int32 | K::Date => i32::try_from(*value).is_ok(),
                _ => false,
            },
            #[allow(clippy::cast_possible_truncation, reason = "whether something is lost is the question")]
            Cell::Float(value) => match kind {
                K::Float64 => true,
                K::Float32 => f64::from(*value as f32).to_bits() == value.to_bits(),
                _ => false,
            },
            Cell::Decimal(_) => matches!(kind, K::Decimal { .. }),
            Cell::Text(_) => matches!(kind, K::Text | K::Json),
            Cell::Bytes(bytes) => kind == K::Bytes || (kind == K::Uuid && bytes.len() == 16),
            Cell::Raw(_) => false,
        }
    }

    /// The value as text that SQL engines read back; `None` for NULL. Bytes are `\x` and hex, times are ISO 8601.
    pub fn text(&self, kind: ColumnKind) -> Option<String> {
        Some(match self {
            Cell::Null => return None,
            Cell::Bool(value) => value.to_string(),
            Cell::Int(value) => match kind {
                ColumnKind::Date => date(*value),
                ColumnKind::Time => time(*value),
                ColumnKind::Timestamp => timestamp(*value, ""),
                ColumnKind::TimestampUtc => timestamp(*value, "+00"),
                _ => value.to_string(),
            },
            Cell::Float(value) if value.is_infinite() => {
                (if *value > 0.0 { "Infinity" } else { "-Infinity" }).to_owned()
            }
            #[allow(clippy::cast_possible_truncation, reason = "it was one of 32 bits")]
            Cell::Float(value) if kind == ColumnKind::Float32 => (*value as f32).to_string(),
            Cell::Float(value) => value.to_string(),
            Cell::Decimal(value) => {
                let scale = if let ColumnKind::Decimal { scale, .. } = kind { usize::from(scale) } else { 0 };
                decimal(*value, scale)
            }
            Cell::Text(value) => value.clone(),
            Cell::Bytes(value) if kind == ColumnKind::Uuid && value.len() == 16 => {
                let hex = hex(value);
                format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            }
            Cell::Bytes(value) | Cell::Raw(value) => format!("\\x{}", hex(value)),
        })
    }

    /// The value for people and programs: numbers as numbers where JSON holds them exactly, all else as text.
    pub fn json(&self, kind: ColumnKind) -> Value {
        /// Integers beyond this do not survive a reader that holds numbers as doubles.
        const EXACT_MAX: u64 = 1 << 53;
        match self {
            Cell::Null => Value::Null,
            Cell::Bool(value) => Value::Bool(*value),
            Cell::Int(value)
                if value.unsigned_abs() <= EXACT_MAX
                    && !matches!(
                        kind,
                        ColumnKind::Date
                            | ColumnKind::Time
                            | ColumnKind::Timestamp
                            | ColumnKind::TimestampUtc
                    ) =>
            {
                (*value).into()
            }
            Cell::Float(value) if value.is_finite() => (*value).into(),
            _ => self.text(kind).map_or(Value::Null, Value::String),
        }
    }
}

/// Adds a whole row, as [`Cell::encode`].
pub fn encode_row(row: &[Cell], out: &mut Vec<u8>) {
    for cell in row {
        cell.encode(out);
    }
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02x}").expect("writing to a string does not fail");
        out
    })
}

/// The bytes of hex digits; `None` when they are no such.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}

fn decimal(value: i128, scale: usize) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// Year, month and day of the day with this number since 1970-01-01, by the Gregorian calendar also before its time.
fn civil(day: i64) -> (i64, i64, i64) {
    // Years begin in March here, so that the day that comes every four years is the last one.
    const YEARS_400: i64 = 146_097;
    let since = day + 719_468;
    let (era, day) = (since.div_euclid(YEARS_400), since.rem_euclid(YEARS_400));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// Year 0 is the year 1 BC of the engines.
fn split_date(day: i64) -> (String, &'static str) {
    let (year, month, day) = civil(day);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{year:04}-{month:02}-{day:02}"), era)
}

fn date(day: i64) -> String {
    let (date, era) = split_date(day);
    format!("{date}{era}")
}

fn time(us: i64) -> String {
    let (s, us) = (us / 1_000_000, us % 1_000_000);
    let text = format!("{:02}:{:02}:{:02}", s / 3_600, s / 60 % 60, s % 60);
    if us == 0 { text } else { format!("{text}.{us:06}").trim_end_matches('0').to_owned() }
}

fn timestamp(us: i64, zone: &str) -> String {
    let (date, era) = split_date(us.div_euclid(DAY_US));
    format!("{date} {}{zone}{era}", time(us.rem_euclid(DAY_US)))
}

/// What a file is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnarTable {
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// What is written into the file beside them, such as where the rows come from.
    pub notes: BTreeMap<String, String>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ColumnarFile {
    /// Rows.
    pub rows: u64,
    /// How many values of a column did not fit its kind and are kept beside it, by column.
    pub beside: BTreeMap<String, u64>,
}

/// Reads and writes files of columns that others can read too: Parquet.
///
/// A value that does not fit its column's kind (NaN in a decimal, `infinity` as a date, text in an integer column of SQLite) is
/// NULL there, and is kept exactly in one more column of the file, [`BESIDE`]. So nothing is lost, and every file of a
/// table has the same columns. All calls block.
pub trait Columnar: Send + Sync {
    /// Begins a file, which must not exist, with mode 0600.
    ///
    /// # Errors
    ///
    /// `Conflict`: the file is there. `Invalid`: columns that cannot be. `LimitExceeded`: the disk is full. `Unavailable`.
    fn create(&self, file: &Path, table: &ColumnarTable) -> Result<Box<dyn ColumnarWriter>, Error>;

    /// Opens a file that `create` began and `finish` ended.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Corrupt`, `Unavailable`.
    fn open(&self, file: &Path) -> Result<Box<dyn ColumnarReader>, Error>;
}

/// Name of the column that holds what the others cannot: a JSON object of column to `[form, text]`, mostly NULL.
pub const BESIDE: &str = "_steward_beside";

/// A file that is being written.
pub trait ColumnarWriter: Send {
    /// Adds a row.
    ///
    /// # Errors
    ///
    /// `Invalid`: not as many values as columns. `LimitExceeded`: the disk is full. `Unavailable`.
    fn write(&mut self, row: Row) -> Result<(), Error>;

    /// Ends the file, durably.
    ///
    /// # Errors
    ///
    /// As `write`.
    fn finish(self: Box<Self>) -> Result<ColumnarFile, Error>;
}

/// A file that is being read, one group of rows after the other.
pub trait ColumnarReader: Send {
    /// Its columns.
    fn columns(&self) -> &[Column];

    /// What was written beside them.
    fn notes(&self) -> &BTreeMap<String, String>;

    /// How many groups there are.
    fn groups(&self) -> usize;

    /// Rows of a group.
    fn rows(&self, group: usize) -> u64;

    /// Bounds of the values of a column in a group that are not NULL; they need not be reached. `None` where nothing is known.
    fn bounds(&self, group: usize, column: usize) -> Option<(Cell, Cell)>;

    /// The rows of a group, in the order in which they were written.
    ///
    /// # Errors
    ///
    /// `Corrupt`: bytes that are not as they were written. `Unavailable`.
    fn read(&mut self, group: usize) -> Result<Vec<Row>, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_texts_that_engines_read() {
        use ColumnKind as K;
        for (cell, kind, text) in [
            (Cell::Int(0), K::Date, "1970-01-01"),
            (Cell::Int(19_782), K::Date, "2024-02-29"),
            (Cell::Int(-719_163), K::Date, "0001-12-31 BC"),
            (Cell::Int(-1), K::TimestampUtc, "1969-12-31 23:59:59.999999+00"),
            (Cell::Int(1_709_164_800_500_000), K::Timestamp, "2024-02-29 00:00:00.5"),
            (Cell::Int(86_399_000_000), K::Time, "23:59:59"),
            (Cell::Int(86_400_000_000), K::Time, "24:00:00"),
            (Cell::Decimal(-5), K::Decimal { precision: 12, scale: 2 }, "-0.05"),
            (Cell::Decimal(150), K::Decimal { precision: 12, scale: 2 }, "1.50"),
            (Cell::Decimal(150), K::Decimal { precision: 12, scale: 0 }, "150"),
            (Cell::Float(f64::NAN), K::Float64, "NaN"),
            (Cell::Float(f64::NEG_INFINITY), K::Float64, "-Infinity"),
            (Cell::Float(f64::from(0.1_f32)), K::Float32, "0.1"),
            (Cell::Bytes(vec![0, 255]), K::Bytes, "\\x00ff"),
            (Cell::Bytes((0..16).collect()), K::Uuid, "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        ] {
            assert_eq!(cell.text(kind).as_deref(), Some(text), "{cell:?}");
        }
        assert_eq!(Cell::Null.text(K::Text), None);
    }

    #[test]
    fn days_are_counted_as_a_calendar_does() {
        for day in (-1_000_000..1_000_000).step_by(373) {
            let date = jiff::civil::date(1970, 1, 1).saturating_add(jiff::Span::new().days(day));
            if date.year() > 0 {
                assert_eq!(super::date(day), date.strftime("%Y-%m-%d").to_string(), "{day}");
            }
        }
    }

    #[test]
    fn rows_that_differ_are_encoded_differently() {
        let encoded = |row: &[Cell]| {
            let mut out = Vec::new();
            encode_row(row, &mut out);
            out
        };
        let text = |text: &str| Cell::Text(text.to_owned());
        for (one, other) in [
            (vec![text("ab"), text("c")], vec![text("a"), text("bc")]),
            (vec![Cell::Null], vec![text("")]),
            (vec![Cell::Int(1)], vec![Cell::Float(1.0)]),
            (vec![Cell::Float(0.0)], vec![Cell::Float(-0.0)]),
            (vec![Cell::Bytes(vec![97])], vec![text("a")]),
            (vec![Cell::Raw(vec![255])], vec![Cell::Bytes(vec![255])]),
        ] {
            assert_ne!(encoded(&one), encoded(&other), "{one:?} {other:?}");
        }
        assert_eq!(encoded(&[Cell::Float(f64::NAN)]), encoded(&[Cell::Float(f64::NAN)]));
    }

    #[test]
    fn hex_is_read_back() {
        assert_eq!(from_hex(&hex(&[0, 10, 255])), Some(vec![0, 10, 255]));
        assert_eq!(from_hex("abc"), None);
        assert_eq!(from_hex("zz"), None);
    }
}
