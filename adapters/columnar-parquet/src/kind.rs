//! Kinds of columns as types of Parquet.
//!
//! Source: Apache Parquet format, LogicalTypes.md.

use std::sync::Arc;

use contract::columnar::{BESIDE, Column, ColumnKind};
use parquet::basic::{
    DecimalType, LogicalType, Repetition, TimeType, TimeUnit, TimestampType, Type as Physical,
};
use parquet::errors::ParquetError;
use parquet::schema::types::{Type, TypePtr};

/// How the values of a column lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lies {
    Bool,
    Int32,
    Int64,
    Float,
    Double,
    Bytes,
    /// Big-endian, of this length.
    Fixed(usize),
}

/// Bytes of a decimal: what holds 38 digits.
pub(crate) const DECIMAL_BYTES: usize = 16;

pub(crate) fn lies(kind: ColumnKind) -> Lies {
    match kind {
        ColumnKind::Boolean => Lies::Bool,
        ColumnKind::Int32 | ColumnKind::Date => Lies::Int32,
        ColumnKind::Int64 | ColumnKind::Time | ColumnKind::Timestamp | ColumnKind::TimestampUtc => {
            Lies::Int64
        }
        ColumnKind::Float32 => Lies::Float,
        ColumnKind::Float64 => Lies::Double,
        ColumnKind::Decimal { .. } => Lies::Fixed(DECIMAL_BYTES),
        ColumnKind::Uuid => Lies::Fixed(16),
        ColumnKind::Text | ColumnKind::Json | ColumnKind::Bytes => Lies::Bytes,
    }
}

fn column(name: &str, kind: ColumnKind) -> Result<TypePtr, ParquetError> {
    let time = |utc: bool| {
        LogicalType::Timestamp(TimestampType { is_adjusted_to_u_t_c: utc, unit: TimeUnit::MICROS })
    };
    let logical = match kind {
        ColumnKind::Boolean
        | ColumnKind::Int32
        | ColumnKind::Int64
        | ColumnKind::Float32
        | ColumnKind::Float64
        | ColumnKind::Bytes => None,
        ColumnKind::Decimal { precision, scale } => Some(LogicalType::Decimal(DecimalType {
            scale: i32::from(scale),
            precision: i32::from(precision),
        })),
        ColumnKind::Text => Some(LogicalType::String),
        ColumnKind::Json => Some(LogicalType::Json),
        ColumnKind::Uuid => Some(LogicalType::Uuid),
        ColumnKind::Date => Some(LogicalType::Date),
        ColumnKind::Time => {
            Some(LogicalType::Time(TimeType { is_adjusted_to_u_t_c: false, unit: TimeUnit::MICROS }))
        }
        ColumnKind::Timestamp => Some(time(false)),
        ColumnKind::TimestampUtc => Some(time(true)),
    };
    let (physical, length) = match lies(kind) {
        Lies::Bool => (Physical::BOOLEAN, -1),
        Lies::Int32 => (Physical::INT32, -1),
        Lies::Int64 => (Physical::INT64, -1),
        Lies::Float => (Physical::FLOAT, -1),
        Lies::Double => (Physical::DOUBLE, -1),
        Lies::Bytes => (Physical::BYTE_ARRAY, -1),
        Lies::Fixed(_) => (Physical::FIXED_LEN_BYTE_ARRAY, 16),
    };
    let mut type_ = Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .with_length(length);
    if let ColumnKind::Decimal { precision, scale } = kind {
        type_ = type_.with_precision(i32::from(precision)).with_scale(i32::from(scale));
    }
    type_.build().map(Arc::new)
}

/// The file's schema: the columns, and the one for what they cannot hold.
pub(crate) fn schema(columns: &[Column]) -> Result<TypePtr, ParquetError> {
    let mut fields: Vec<TypePtr> =
        columns.iter().map(|it| column(&it.name, it.kind)).collect::<Result<_, _>>()?;
    fields.push(column(BESIDE, ColumnKind::Json)?);
    Type::group_type_builder("rows").with_fields(fields).build().map(Arc::new)
}
