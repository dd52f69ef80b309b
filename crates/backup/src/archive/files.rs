//! Files of rows: written, put away, fetched again and read to their last byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use contract::cold::{ArchivePlace, ColdPage, ColdRows, ColdSelection, ColdTable};
use contract::columnar::{Column, ColumnKind, Columnar, ColumnarTable, Row, encode_row};
use contract::{Context, Error, ErrorKind, RecoveryPoint, RowSum};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::manifest::{ArchiveFile, ArchiveManifest};
use super::place::failed;

/// Pieces of rows between the store and the file; a full channel stops the store.
const PIECES_IN_FLIGHT_MAX: usize = 2;

/// Counts a row.
pub(super) fn add(sum: &mut RowSum, row: &[contract::columnar::Cell]) {
    let mut encoded = Vec::with_capacity(row.len() * 16);
    encode_row(row, &mut encoded);
    sum.add([encoded.as_slice()]);
}

/// What a row's key is, for people.
pub(super) fn key_of(table: &ColdTable, row: &Row) -> Vec<Value> {
    table.key_places().into_iter().map(|place| row[place].json(table.columns[place].kind)).collect()
}

/// Whether the file holds the column as the engine's text because no type of it fits.
pub(super) fn is_kept_as_text(column: &Column) -> bool {
    let native = column.native_type.to_ascii_lowercase();
    let is_text = ["char", "text", "clob", "name", "json", "string"].iter().any(|word| native.contains(word));
    column.kind == ColumnKind::Text && (!is_text || native.ends_with("[]"))
}

pub(super) fn sha256_of(file: &Path) -> Result<(u64, String), Error> {
    let mut source = File::open(file).map_err(|error| failed(file, &error))?;
    let (mut hash, mut piece, mut bytes) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let read = source.read(&mut piece).map_err(|error| failed(file, &error))?;
        if read == 0 {
            return Ok((bytes, contract::columnar::hex(&hash.finalize())));
        }
        hash.update(&piece[..read]);
        bytes += read as u64;
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Canceled, "the runtime is shutting down")))
}

/// What was written.
pub(super) struct Exported {
    pub(super) files: Vec<ArchiveFile>,
    pub(super) sum: RowSum,
    pub(super) point: RecoveryPoint,
    pub(super) beside: BTreeMap<String, u64>,
}

/// Everything that an export needs to know.
pub(super) struct Export<'a> {
    pub(super) ctx: &'a Context,
    pub(super) cold: &'a dyn ColdRows,
    pub(super) place: &'a dyn ArchivePlace,
    pub(super) columnar: Arc<dyn Columnar>,
    pub(super) table: &'a ColdTable,
    pub(super) selection: &'a ColdSelection,
    pub(super) scratch: &'a Path,
    pub(super) folder: String,
    pub(super) rows_per_file: u64,
    pub(super) rows_max: u64,
    pub(super) notes: BTreeMap<String, String>,
}

/// A file that is full.
struct Full {
    path: PathBuf,
    file: ArchiveFile,
    sum: RowSum,
}

impl Export<'_> {
    /// Reads the rows in one state of the database into files, and puts each away when it is full.
    pub(super) async fn run(&self) -> Result<Exported, Error> {
        let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT_MAX);
        let (full, mut to_put) = mpsc::channel::<Full>(1);
        let write = self.writer(receiver, full);
        let whole = ColdPage::default();
        let read = self.cold.cold_read(self.ctx, self.table, self.selection, &whole, sender);
        // The receiver goes with it: a place that takes no more stops the writer.
        let put = async move {
            let (mut files, mut sum) = (Vec::new(), RowSum::default());
            let mut beside: BTreeMap<String, u64> = BTreeMap::new();
            while let Some(one) = to_put.recv().await {
                self.place.put(self.ctx, &format!("{}/{}", self.folder, one.file.name), &one.path).await?;
                std::fs::remove_file(&one.path).map_err(|error| failed(&one.path, &error))?;
                sum.merge(one.sum);
                for (column, values) in &one.file.beside {
                    *beside.entry(column.clone()).or_default() += values;
                }
                files.push(one.file);
            }
            Ok::<_, Error>((files, sum, beside))
        };
        // Each ends when another does; the first error in this order is the reason, the others follow from it.
        let (put, write, read) = tokio::join!(put, write, read);
        let (files, sum, beside) = put?;
        write?;
        Ok(Exported { files, sum, beside, point: read? })
    }

    /// Writes the files on a thread of their own.
    fn writer(
        &self,
        mut rows: mpsc::Receiver<Vec<Row>>,
        full: mpsc::Sender<Full>,
    ) -> impl Future<Output = Result<(), Error>> + use<> {
        let (columnar, scratch) = (Arc::clone(&self.columnar), self.scratch.to_owned());
        let layout = ColumnarTable { columns: self.table.columns.clone(), notes: self.notes.clone() };
        let (table, rows_per_file, rows_max) = (self.table.clone(), self.rows_per_file, self.rows_max);
        blocking(move || {
            let mut number = 0;
            let mut total = 0_u64;
            let mut pending = Vec::new().into_iter();
            loop {
                let mut next = || loop {
                    if let Some(row) = pending.next() {
                        return Some(row);
                    }
                    pending = rows.blocking_recv()?.into_iter();
                };
                let Some(first) = next() else { return Ok(()) };
                number += 1;
                let name = format!("rows-{number:05}.parquet");
                let path = scratch.join(&name);
                let mut writer = columnar.create(&path, &layout)?;
                let (mut sum, mut in_file) = (RowSum::default(), 0);
                let (first_key, mut last) = (key_of(&table, &first), None);
                let mut row = Some(first);
                while let Some(one) = row.take() {
                    total += 1;
                    if total > rows_max {
                        return Err(Error::new(
                            ErrorKind::Conflict,
                            "there are more old rows than the plan says",
                        )
                        .with("planned", rows_max)
                        .with_retry(contract::Retry::Never)
                        .hint("nothing was deleted; ask again, and read the new plan"));
                    }
                    add(&mut sum, &one);
                    last = Some(key_of(&table, &one));
                    writer.write(one)?;
                    in_file += 1;
                    if in_file < rows_per_file {
                        row = next();
                    }
                }
                let written = writer.finish()?;
                let (bytes, sha256) = sha256_of(&path)?;
                let digest = sum.of_table("");
                let file = ArchiveFile {
                    name,
                    rows: written.rows,
                    bytes,
                    sha256,
                    digest: digest.digest,
                    first_key,
                    last_key: last.unwrap_or_default(),
                    beside: written.beside,
                };
                if full.blocking_send(Full { path, file, sum }).is_err() {
                    return Err(Error::new(ErrorKind::Canceled, "nobody takes the files any more"));
                }
            }
        })
    }
}

/// A file of an archive that was fetched and whose bytes are those that were written; gone with the handle.
pub(super) struct Fetched(PathBuf);

impl Drop for Fetched {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %self.0.display(), %error, "a copy of archived rows is left");
        }
    }
}

/// Fetches a file and compares its length and SHA-256 with the manifest.
///
/// # Errors
///
/// `Corrupt`: it is another, or not there. As the place's.
pub(super) async fn fetch(
    ctx: &Context,
    place: &dyn ArchivePlace,
    folder: &str,
    file: &ArchiveFile,
    scratch: &Path,
) -> Result<Fetched, Error> {
    let path = scratch.join(format!("{}-{}", uuid::Uuid::now_v7().simple(), file.name));
    let fetched = Fetched(path.clone());
    let name = format!("{folder}/{}", file.name);
    place.get(ctx, &name, &path).await.map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            Error::new(ErrorKind::Corrupt, "a file of the archive is missing").with("file", &name)
        } else {
            error
        }
    })?;
    let (bytes, sha256) = blocking(move || sha256_of(&path)).await?;
    if bytes == file.bytes && sha256 == file.sha256 {
        return Ok(fetched);
    }
    Err(Error::new(ErrorKind::Corrupt, "a file of the archive is not what was written")
        .with("file", name)
        .with("bytes", bytes)
        .with("bytes_written", file.bytes))
}

/// The rows of a fetched file, group by group, each with the number of its first row in the file.
pub(super) fn rows(
    columnar: &Arc<dyn Columnar>,
    fetched: &Fetched,
    table: &ColdTable,
    wanted: Option<super::query::Wanted>,
) -> mpsc::Receiver<Result<(u64, Vec<Row>), Error>> {
    let (sender, receiver) = mpsc::channel(1);
    let (columnar, path, columns) = (Arc::clone(columnar), fetched.0.clone(), table.columns.clone());
    drop(tokio::task::spawn_blocking(move || {
        let read = || -> Result<(), Error> {
            let mut reader = columnar.open(&path)?;
            if reader.columns() != columns {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "a file of the archive has other columns than its manifest",
                )
                .with("file", path.display()));
            }
            let mut first = 0;
            for group in 0..reader.groups() {
                let count = reader.rows(group);
                let may = wanted
                    .as_ref()
                    .is_none_or(|wanted| wanted.may_hold(&|column| reader.bounds(group, column)));
                if may && sender.blocking_send(Ok((first, reader.read(group)?))).is_err() {
                    return Ok(());
                }
                first += count;
            }
            Ok(())
        };
        if let Err(error) = read() {
            // Whoever does not listen any more has an error of its own.
            drop(sender.blocking_send(Err(error)));
        }
    }));
    receiver
}

/// Reads every file back whole and compares bytes, rows and digests with the manifest.
///
/// # Errors
///
/// `Corrupt`: something differs. As the place's.
pub(super) async fn verify(
    ctx: &Context,
    place: &dyn ArchivePlace,
    columnar: &Arc<dyn Columnar>,
    manifest: &ArchiveManifest,
    scratch: &Path,
) -> Result<(), Error> {
    let mut all = RowSum::default();
    for file in &manifest.files {
        let fetched = fetch(ctx, place, &manifest.folder(), file, scratch).await?;
        let mut sum = RowSum::default();
        let mut rows = rows(columnar, &fetched, &manifest.table, None);
        while let Some(group) = rows.recv().await {
            let (_, rows) = group?;
            for row in &rows {
                add(&mut sum, row);
            }
            ctx.run(async { Ok(()) }).await?;
        }
        all.merge(sum);
        let found = sum.of_table("");
        if (found.rows, &found.digest) != (file.rows, &file.digest) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "a file of the archive holds other rows than were written",
            )
            .with("file", format!("{}/{}", manifest.folder(), file.name))
            .with("rows", found.rows)
            .with("rows_written", file.rows));
        }
    }
    let found = all.of_table("");
    if (found.rows, &found.digest) != (manifest.rows, &manifest.digest) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the archive does not hold the rows that its manifest says",
        )
        .with("archive", &manifest.id));
    }
    Ok(())
}

/// A record of an archive, such as its manifest.
///
/// # Errors
///
/// `NotFound`, `Corrupt`: it is no such record. As the place's.
pub(super) async fn read_record<T: serde::de::DeserializeOwned>(
    ctx: &Context,
    place: &dyn ArchivePlace,
    name: &str,
    scratch: &Path,
) -> Result<T, Error> {
    let path = scratch.join(format!("{}.json", uuid::Uuid::now_v7().simple()));
    let fetched = Fetched(path.clone());
    place.get(ctx, name, &path).await?;
    let text = std::fs::read(&path).map_err(|error| failed(&path, &error))?;
    drop(fetched);
    serde_json::from_slice(&text).map_err(|cause| {
        Error::new(ErrorKind::Corrupt, "a record of the archive cannot be read")
            .with("file", name)
            .because(cause.to_string())
    })
}

/// Writes a record of an archive.
///
/// # Errors
///
/// `Conflict`: it is there. As the place's.
pub(super) async fn write_record(
    ctx: &Context,
    place: &dyn ArchivePlace,
    name: &str,
    record: &impl serde::Serialize,
    scratch: &Path,
) -> Result<(), Error> {
    let path = scratch.join(format!("{}.json", uuid::Uuid::now_v7().simple()));
    let written = Fetched(path.clone());
    let text = serde_json::to_vec_pretty(record).expect("records are JSON");
    std::fs::write(&path, text).map_err(|error| failed(&path, &error))?;
    let put = place.put(ctx, name, &path).await;
    drop(written);
    put
}

/// Writes a record and reads it back: on its being there depends what is deleted.
///
/// # Errors
///
/// `Corrupt`: it is not there, or another, though the place said that it was kept. As [`write_record`].
pub(super) async fn write_record_for_sure(
    ctx: &Context,
    place: &dyn ArchivePlace,
    name: &str,
    record: &impl serde::Serialize,
    scratch: &Path,
) -> Result<(), Error> {
    write_record(ctx, place, name, record, scratch).await?;
    let wrong = |why: &str| {
        Error::new(ErrorKind::Corrupt, format!("a record of the archive was taken, and {why}"))
            .with("file", name)
            .hint("nothing was deleted from the store")
    };
    let path = scratch.join(format!("{}.json", uuid::Uuid::now_v7().simple()));
    let fetched = Fetched(path.clone());
    place
        .get(ctx, name, &path)
        .await
        .map_err(|error| if error.kind() == ErrorKind::NotFound { wrong("is not there") } else { error })?;
    let text = std::fs::read(&path).map_err(|error| failed(&path, &error))?;
    drop(fetched);
    let same = text == serde_json::to_vec_pretty(record).expect("records are JSON");
    if same { Ok(()) } else { Err(wrong("is another now")) }
}
