//! Rows of a table as a set that can be compared with one in another store without moving it.
//!
//! Each side encodes its rows in one canonical form (`docs/internals/canonical-encoding.md`), hashes them inside the
//! engine and answers per key range how many there are and what their hashes sum up to. Equal ranges are never moved.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Context, Error};

/// What a column holds, as far as it matters for comparing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnKind {
    /// True and false.
    Boolean,
    /// Whole numbers.
    Integer,
    /// Exact decimal numbers.
    Decimal,
    /// Floating point of 32 bits.
    Float32,
    /// Floating point of 64 bits.
    Float64,
    /// Text.
    Text,
    /// Bytes.
    Bytes,
    /// Date and time without zone.
    Timestamp,
    /// A point in time.
    TimestampUtc,
    /// A date.
    Date,
    /// A time of day without zone.
    Time,
    /// JSON.
    Json,
    /// A UUID.
    Uuid,
    /// Another type of the engine, known by the text that it prints.
    Other(String),
    /// A column whose type is a preference: each value has its own.
    Loose(Affinity),
}

/// What a column of SQLite prefers to store.
///
/// Source: sqlite.org, "Datatypes In SQLite", 3.1 "Determination Of Column Affinity".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// `INTEGER`.
    Integer,
    /// `REAL`.
    Real,
    /// `NUMERIC`: numbers that are some, anything else as it came.
    Numeric,
    /// `TEXT`.
    Text,
    /// `BLOB`, declared as such.
    Blob,
    /// No declared type.
    Any,
}

impl ColumnKind {
    /// The kind in words.
    pub fn word(&self) -> &str {
        match self {
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Decimal => "decimal",
            Self::Float32 | Self::Float64 => "floating point",
            Self::Text => "text",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::TimestampUtc => "timestamp with time zone",
            Self::Date => "date",
            Self::Time => "time",
            Self::Json => "json",
            Self::Uuid => "uuid",
            Self::Other(name) => name,
            Self::Loose(Affinity::Integer) => "INTEGER of SQLite",
            Self::Loose(Affinity::Real) => "REAL of SQLite",
            Self::Loose(Affinity::Numeric) => "NUMERIC of SQLite",
            Self::Loose(Affinity::Text) => "TEXT of SQLite",
            Self::Loose(Affinity::Blob) => "BLOB of SQLite",
            Self::Loose(Affinity::Any) => "a column without type",
        }
    }
}

/// The canonical form in which values of two columns are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `t` or `f`.
    Boolean,
    /// Decimal digits.
    Integer,
    /// Plain decimal notation without zeros at the end: `1.50` and `1.5` are equal.
    Decimal,
    /// The 32 bits, in hex; both zeros are equal.
    Float32,
    /// The 64 bits, in hex; both zeros are equal.
    Float64,
    /// The bytes of UTF-8, as they are.
    Text,
    /// Hex.
    Bytes,
    /// `2026-03-04 05:06:07.89`, UTC, microseconds.
    Timestamp,
    /// `2026-03-04`.
    Date,
    /// `05:06:07.89`.
    Time,
    /// Keys in the order of `jsonb`, no white space.
    Json,
    /// 36 lower-case characters.
    Uuid,
    /// The value as SQLite stores it, between two SQLite files; whole numbers are equal whatever their class.
    Stored,
}

impl Form {
    /// Whether both engines put values of this form in the same order, so that they can be a key.
    pub fn is_key(self) -> bool {
        matches!(
            self,
            Self::Boolean
                | Self::Integer
                | Self::Text
                | Self::Bytes
                | Self::Timestamp
                | Self::Date
                | Self::Uuid
        )
    }

    /// Whether a value is written with its length before it.
    pub fn has_length(self) -> bool {
        matches!(self, Self::Text | Self::Bytes | Self::Json | Self::Stored)
    }

    /// An encoded value as people read it; `None` is NULL. What does not fit its form begins with `!`.
    pub fn shown(self, encoded: &str) -> Option<String> {
        if let Some(odd) = encoded.strip_prefix('!') {
            let kind = match odd.as_bytes().first() {
                Some(b'i') => "integer",
                Some(b'r') => "real",
                Some(b't') => "text",
                _ => "blob",
            };
            let rest = odd.get(1..).unwrap_or_default();
            let value = rest.split_once(':').map_or(rest, |(_, value)| value);
            return Some(format!("{value} ({kind})"));
        }
        match self {
            Self::Float64 => {
                u64::from_str_radix(encoded, 16).ok().map(|bits| f64::from_bits(bits).to_string())
            }
            Self::Float32 => match encoded.len() {
                8 => u32::from_str_radix(encoded, 16).ok().map(|bits| f32::from_bits(bits).to_string()),
                _ => Self::Float64.shown(encoded),
            },
            Self::Stored => {
                let value = encoded.split_once(':').filter(|(length, _)| !length.is_empty())?.1;
                match (value.get(..1), value.get(1..)) {
                    (Some("r"), Some(bits)) => Self::Float64.shown(bits),
                    (_, rest) => rest.map(ToOwned::to_owned),
                }
            }
            _ if self.has_length() => encoded
                .split_once(':')
                .filter(|(length, _)| !length.is_empty())
                .map(|(_, value)| value.to_owned()),
            Self::Boolean => match encoded {
                "t" => Some("true".into()),
                "f" => Some("false".into()),
                _ => None,
            },
            _ => (!encoded.is_empty()).then(|| encoded.to_owned()),
        }
    }
}

/// The form in which two columns can be compared.
///
/// # Errors
///
/// The reason why they cannot, as a sentence without full stop.
pub fn form(left: &ColumnKind, right: &ColumnKind) -> Result<Form, String> {
    use ColumnKind as K;
    let form = match (left, right) {
        (K::Loose(_), K::Loose(_)) => Some(Form::Stored),
        (strict, K::Loose(loose)) | (K::Loose(loose), strict) => loose_form(strict, *loose),
        (K::Boolean, K::Boolean) => Some(Form::Boolean),
        (K::Integer, K::Integer) => Some(Form::Integer),
        (
            K::Integer | K::Decimal | K::Float32 | K::Float64,
            K::Integer | K::Decimal | K::Float32 | K::Float64,
        ) => Some(match (left, right) {
            (K::Float32, K::Float32 | K::Float64) | (K::Float64, K::Float32) => Form::Float32,
            (K::Float64, K::Float64) => Form::Float64,
            _ => Form::Decimal,
        }),
        (K::Text, K::Text) => Some(Form::Text),
        (K::Bytes, K::Bytes) => Some(Form::Bytes),
        (K::Timestamp | K::TimestampUtc, K::Timestamp | K::TimestampUtc) => Some(Form::Timestamp),
        (K::Date, K::Date) => Some(Form::Date),
        (K::Time, K::Time) => Some(Form::Time),
        (K::Json, K::Json) => Some(Form::Json),
        (K::Uuid, K::Uuid) => Some(Form::Uuid),
        (K::Other(left), K::Other(right)) if left == right => Some(Form::Text),
        _ => None,
    };
    form.ok_or_else(|| {
        format!(
            "{} and {} have no common form; compare a view that casts one of them",
            left.word(),
            right.word()
        )
    })
}

/// The form in which two columns can be compared and put in order.
///
/// # Errors
///
/// As [`form`].
pub fn key_form(left: &ColumnKind, right: &ColumnKind) -> Result<Form, String> {
    use Affinity as A;
    let found = match (left, right) {
        (ColumnKind::Loose(A::Integer), ColumnKind::Loose(_))
        | (ColumnKind::Loose(_), ColumnKind::Loose(A::Integer)) => Form::Integer,
        (ColumnKind::Loose(A::Blob), ColumnKind::Loose(A::Blob)) => Form::Bytes,
        (ColumnKind::Loose(_), ColumnKind::Loose(_)) => Form::Text,
        _ => form(left, right)?,
    };
    if found.is_key() {
        return Ok(found);
    }
    Err(format!(
        "{} and {} have no common order; a key is of integers, text, bytes, uuids, dates or timestamps",
        left.word(),
        right.word()
    ))
}

/// A typed column against a preference: the values must be able to be of the type.
fn loose_form(strict: &ColumnKind, loose: Affinity) -> Option<Form> {
    use Affinity as A;
    let (form, affinities): (Form, &[Affinity]) = match strict {
        ColumnKind::Boolean => (Form::Boolean, &[A::Integer, A::Numeric, A::Text, A::Any]),
        ColumnKind::Integer if loose == A::Real => (Form::Decimal, &[A::Real]),
        ColumnKind::Integer => (Form::Integer, &[A::Integer, A::Numeric, A::Any]),
        ColumnKind::Decimal => (Form::Decimal, &[A::Integer, A::Real, A::Numeric, A::Text, A::Any]),
        ColumnKind::Float32 => (Form::Float32, &[A::Integer, A::Real, A::Numeric, A::Any]),
        ColumnKind::Float64 => (Form::Float64, &[A::Integer, A::Real, A::Numeric, A::Any]),
        ColumnKind::Text => (Form::Text, &[A::Text, A::Any]),
        ColumnKind::Bytes => (Form::Bytes, &[A::Blob, A::Any]),
        ColumnKind::Timestamp | ColumnKind::TimestampUtc => {
            (Form::Timestamp, &[A::Integer, A::Real, A::Numeric, A::Text, A::Any])
        }
        ColumnKind::Date => (Form::Date, &[A::Numeric, A::Text, A::Any]),
        ColumnKind::Time => (Form::Time, &[A::Numeric, A::Text, A::Any]),
        ColumnKind::Json => (Form::Json, &[A::Numeric, A::Text, A::Any]),
        ColumnKind::Uuid => (Form::Uuid, &[A::Numeric, A::Text, A::Blob, A::Any]),
        ColumnKind::Other(_) => (Form::Text, &[A::Text, A::Numeric, A::Any]),
        ColumnKind::Loose(_) => return None,
    };
    affinities.contains(&loose).then_some(form)
}

/// How rows are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowHash {
    /// 64 bits of Bob Jenkins' lookup3, as PostgreSQL's `hashtextextended`: chance leaves one difference in 10^19
    /// unseen; someone who chooses rows for it can hide one.
    #[default]
    Fast,
    /// 128 bits of MD5: about half as fast.
    Md5,
}

/// A column of a table that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSetColumn {
    /// Its name.
    pub name: String,
    /// The engine's type.
    pub native_type: String,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// What it holds.
    pub kind: ColumnKind,
}

/// A table, view or materialized view that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSetTable {
    /// The name as the engine resolved it, with namespace where the engine has such.
    pub name: String,
    /// Columns in the table's order.
    pub columns: Vec<RowSetColumn>,
    /// Columns of the primary key, or of the first unique index that allows no NULL; empty without either.
    pub key: Vec<String>,
    /// The engine's estimate of rows, 0 if it has none.
    pub rows_estimated: u64,
    /// Hashes that this server can compute.
    pub hashes: Vec<RowHash>,
    /// It can give quantiles of a key from a sample, without reading every row into this process.
    pub samples: bool,
}

/// A column and its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSetField {
    /// The column's name on this side.
    pub column: String,
    /// The form, the same on both sides.
    pub form: Form,
}

/// What is compared of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSetSpec {
    /// The table, as [`RowSetTable::name`].
    pub table: String,
    /// The key, whose order both sides share.
    pub key: Vec<RowSetField>,
    /// The other columns.
    pub columns: Vec<RowSetField>,
    /// A condition in the engine's own SQL.
    pub filter: Option<String>,
    /// How rows are hashed.
    pub hash: RowHash,
    /// Longest time for one statement.
    pub statement_timeout: Duration,
}

/// A key: one encoded value per key column, never NULL, without lengths.
pub type RowKey = Vec<String>;

/// Keys from `from` (with it) to `to` (without it); open where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// The first key.
    pub from: Option<RowKey>,
    /// The key after the last.
    pub to: Option<RowKey>,
}

/// What a range holds: two ranges are equal when these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RangeDigest {
    /// Rows.
    pub rows: u64,
    /// Sums of the rows' hashes, as signed 64-bit numbers; the second only for [`RowHash::Md5`].
    pub sums: [i128; 2],
}

/// A row by its key and hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowEntry {
    /// The key.
    pub key: RowKey,
    /// The hash.
    pub hash: [i64; 2],
}

/// Which rows.
#[derive(Debug, Clone, Copy)]
pub enum RowChoice<'a> {
    /// Those in any of these ranges.
    Ranges(&'a [KeyRange]),
    /// Those with one of these keys.
    Keys(&'a [RowKey]),
}

/// What a comparison has taken out of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct RowTraffic {
    /// Statements, or passes over the table.
    pub statements: u64,
    /// Rows of which at least key and hash left the engine.
    pub rows: u64,
    /// Digests of ranges that left the engine.
    pub digests: u64,
    /// Bytes of all answers.
    pub bytes: u64,
}

/// Opens tables as sets of rows.
#[async_trait]
pub trait RowSets: Send + Sync {
    /// What can be compared of the table, view or materialized view called `table`.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such table. `Unavailable`, `Denied`, `TimedOut`, `Canceled`.
    async fn describe(&self, ctx: &Context, table: &str) -> Result<RowSetTable, Error>;

    /// A snapshot of the rows. It ends when the set is closed or dropped.
    ///
    /// # Errors
    ///
    /// As `describe`; `Invalid`: a column does not exist or cannot take its form, or the filter is no condition.
    async fn open_rows<'a>(&'a self, ctx: &Context, spec: &RowSetSpec)
    -> Result<Box<dyn RowSet + 'a>, Error>;
}

/// The rows of a table at one moment. All calls see the same rows.
///
/// Ranges are ordered and do not overlap. After an error the set can only be dropped.
#[async_trait]
pub trait RowSet: Send {
    /// Rows without a whole key: at least one of its columns is NULL. No range holds them.
    async fn keyless(&mut self, ctx: &Context) -> Result<u64, Error>;

    /// At most `parts` keys that cut all rows into parts of about the same size, in order, without repetition.
    async fn quantiles(&mut self, ctx: &Context, parts: usize) -> Result<Vec<RowKey>, Error>;

    /// Every `step`-th key of each range, in order, without its first.
    async fn cuts(&mut self, ctx: &Context, ranges: &[(KeyRange, u64)]) -> Result<Vec<Vec<RowKey>>, Error>;

    /// The digest of each range.
    async fn digests(&mut self, ctx: &Context, ranges: &[KeyRange]) -> Result<Vec<RangeDigest>, Error>;

    /// Key and hash of the chosen rows, in no order.
    async fn entries(&mut self, ctx: &Context, choice: RowChoice<'_>) -> Result<Vec<RowEntry>, Error>;

    /// The encoded values of the rows with these keys: key, then one value per column; in no order.
    async fn rows(&mut self, ctx: &Context, keys: &[RowKey]) -> Result<Vec<(RowKey, Vec<String>)>, Error>;

    /// How a digest is asked for, as it can be run again.
    fn statement(&self) -> String;

    /// What has left the store so far.
    fn traffic(&self) -> RowTraffic;

    /// Ends the snapshot.
    async fn close(self: Box<Self>);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_values_are_shown_as_people_write_them() {
        for (form, encoded, shown) in [
            (Form::Text, "5:a:b;c", Some("a:b;c")),
            (Form::Text, "0:", Some("")),
            (Form::Text, ":", None),
            (Form::Integer, "-5", Some("-5")),
            (Form::Integer, "", None),
            (Form::Integer, "!t3:abc", Some("abc (text)")),
            (Form::Float64, "3ff8000000000000", Some("1.5")),
            (Form::Boolean, "t", Some("true")),
        ] {
            assert_eq!(form.shown(encoded).as_deref(), shown, "{form:?} {encoded}");
        }
    }

    #[test]
    fn kinds_have_a_common_form_or_a_reason() {
        use ColumnKind as K;
        for (left, right, expected) in [
            (K::Integer, K::Integer, Some(Form::Integer)),
            (K::Integer, K::Decimal, Some(Form::Decimal)),
            (K::Float32, K::Float64, Some(Form::Float32)),
            (K::Timestamp, K::TimestampUtc, Some(Form::Timestamp)),
            (K::Integer, K::Text, None),
            (K::Uuid, K::Text, None),
            (K::Date, K::Timestamp, None),
            (K::Other("inet".into()), K::Other("inet".into()), Some(Form::Text)),
            (K::Other("inet".into()), K::Other("cidr".into()), None),
            (K::Integer, K::Loose(Affinity::Integer), Some(Form::Integer)),
            (K::Integer, K::Loose(Affinity::Text), None),
            (K::Bytes, K::Loose(Affinity::Text), None),
            (K::Decimal, K::Loose(Affinity::Real), Some(Form::Decimal)),
            (K::Uuid, K::Loose(Affinity::Blob), Some(Form::Uuid)),
            (K::Loose(Affinity::Text), K::Loose(Affinity::Integer), Some(Form::Stored)),
        ] {
            for (a, b) in [(&left, &right), (&right, &left)] {
                let found = form(a, b);
                assert_eq!(found.as_ref().ok(), expected.as_ref(), "{a:?} {b:?}");
                assert!(
                    found.is_ok() || found.as_ref().is_err_and(|reason| reason.contains("no common form"))
                );
            }
        }
    }
}
