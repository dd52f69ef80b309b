//! The words for relational data: schemas, tables, columns, keys, indexes and their differences.

mod diff;
mod model;

pub use diff::{Change, Difference, diff};
pub use model::{
    Check, Column, Dialect, Extension, ForeignKey, Index, Key, Partition, Schema, Table, TableName, View,
};
