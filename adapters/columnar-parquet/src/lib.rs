//! `contract::columnar::Columnar` on Parquet.

mod beside;
mod error;
mod kind;
mod reader;
mod writer;

use std::path::Path;

use contract::Error;
use contract::columnar::{Columnar, ColumnarReader, ColumnarTable, ColumnarWriter};

/// Key of the file's metadata that holds the columns, with their kinds and the store's names of their types.
const COLUMNS: &str = "steward.columns";

/// Reads and writes Parquet files: zstd, groups of at most 50,000 rows or 16 MiB, statistics for every column.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parquet;

impl Columnar for Parquet {
    fn create(&self, file: &Path, table: &ColumnarTable) -> Result<Box<dyn ColumnarWriter>, Error> {
        Ok(Box::new(writer::Writer::create(file, table)?))
    }

    fn open(&self, file: &Path) -> Result<Box<dyn ColumnarReader>, Error> {
        Ok(Box::new(reader::Reader::open(file)?))
    }
}
