//! Deleting rows that are in an archive: in batches, each exactly as it was archived, until every one has been looked at.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use contract::cold::{ArchivePlace, ColdRows, Fate};
use contract::columnar::{Columnar, Row};
use contract::{Context, Error, ErrorKind, Permit, Plan, RowSum};

use super::files::{add, fetch, key_of, rows, write_record};
use super::manifest::{ArchiveManifest, ENDING, Ending, Stayed};

/// Most rows that stay and are named; a rule whose rows change under it is no rule for old rows.
const STAYED_MAX: usize = 100_000;
/// Replicas that are further behind than this are waited for: bytes, and milliseconds.
const LAG_BYTES_MAX: u64 = 64 << 20;
const LAG_MS_MAX: u64 = 10_000;
/// Pause between two looks at replicas.
const LAG_PAUSE: Duration = Duration::from_millis(500);

/// Waits while a replica is far behind. The context's deadline ends the wait.
pub(super) async fn pace(ctx: &Context, cold: &dyn ColdRows) -> Result<(), Error> {
    loop {
        let lags = cold.cold_lag(ctx).await?;
        let behind = lags.iter().find(|lag| {
            lag.bytes.is_some_and(|bytes| bytes > LAG_BYTES_MAX) || lag.ms.is_some_and(|ms| ms > LAG_MS_MAX)
        });
        let Some(behind) = behind else { return Ok(()) };
        tracing::info!(
            replica = behind.replica,
            bytes = behind.bytes,
            ms = behind.ms,
            "waiting for a replica"
        );
        ctx.run(async {
            tokio::time::sleep(LAG_PAUSE).await;
            Ok(())
        })
        .await?;
    }
}

/// What the deletion of an archive's rows needs to know.
pub(super) struct Deletion<'a> {
    pub(super) ctx: &'a Context,
    pub(super) cold: &'a dyn ColdRows,
    pub(super) place: &'a dyn ArchivePlace,
    pub(super) columnar: Arc<dyn Columnar>,
    pub(super) permit: &'a Permit,
    pub(super) plan: &'a Plan,
    pub(super) scratch: &'a Path,
}

impl Deletion<'_> {
    /// Deletes what the archive holds and is still so, and writes the record of it. Can be begun again after any end.
    pub(super) async fn run(&self, manifest: &ArchiveManifest, holds: &[String]) -> Result<Ending, Error> {
        let mut selection = manifest.selection.clone();
        // Holds that came after the archive win too.
        holds.clone_into(&mut selection.holds);
        let mut ending =
            Ending { deleted: 0, digest: String::new(), gone: 0, stayed: Vec::new(), at: self.ctx.now() };
        let (mut deleted, mut all) = (RowSum::default(), RowSum::default());
        for file in &manifest.files {
            let fetched = fetch(self.ctx, self.place, &manifest.folder(), file, self.scratch).await?;
            let mut groups = rows(&self.columnar, &fetched, &manifest.table, None);
            while let Some(group) = groups.recv().await {
                let (mut number, rows) = group?;
                for batch in rows.chunks(manifest.rows_per_batch) {
                    pace(self.ctx, self.cold).await?;
                    let fates = self
                        .cold
                        .cold_delete(self.ctx, self.permit, self.plan, &manifest.table, &selection, batch)
                        .await?;
                    for (row, fate) in batch.iter().zip(fates) {
                        add(&mut all, row);
                        match fate {
                            Fate::Deleted => add(&mut deleted, row),
                            Fate::Gone => ending.gone += 1,
                            why => stay(&mut ending, manifest, &file.name, number, row, why)?,
                        }
                        number += 1;
                    }
                }
            }
        }
        let all = all.of_table("");
        if (all.rows, &all.digest) != (manifest.rows, &manifest.digest) {
            return Err(Error::new(ErrorKind::Corrupt, "the archive gave other rows than its manifest says")
                .with("archive", &manifest.id)
                .hint(
                    "rows that were deleted were deleted exactly as the files hold them; look at the archive",
                ));
        }
        let deleted = deleted.of_table("");
        (ending.deleted, ending.digest, ending.at) = (deleted.rows, deleted.digest, self.ctx.now());
        write_record(self.ctx, self.place, &format!("{}/{ENDING}", manifest.folder()), &ending, self.scratch)
            .await?;
        Ok(ending)
    }
}

fn stay(
    ending: &mut Ending,
    manifest: &ArchiveManifest,
    file: &str,
    number: u64,
    row: &Row,
    why: Fate,
) -> Result<(), Error> {
    if ending.stayed.len() == STAYED_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            "too many of the rows have changed since they were archived",
        )
        .with("archive", &manifest.id)
        .with("rows_max", STAYED_MAX)
        .hint(
            "choose a rule whose rows do not change any more; those that were deleted are in the archive",
        ));
    }
    let key = key_of(&manifest.table, row);
    ending.stayed.push(Stayed { file: file.to_owned(), row: number, key, why });
    Ok(())
}
