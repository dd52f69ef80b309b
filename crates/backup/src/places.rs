//! Where a backup is read from: its repository, or a copy where that is gone or damaged.

use std::collections::VecDeque;
use std::sync::Arc;

use contract::{Context, Error, ErrorKind, Repository};

use crate::Surroundings;
use crate::catalog::Recorded;
use crate::manifest::Manifest;
use crate::run::read_manifest;
use crate::signature;

/// A backup where it could be opened.
pub(crate) struct Place {
    pub(crate) repository: Arc<dyn Repository>,
    /// As it lies there.
    pub(crate) backup: Recorded,
    pub(crate) manifest: Manifest,
}

/// The places of a backup that are still to be tried, and what was wrong with those before.
pub(crate) struct Places {
    left: VecDeque<Recorded>,
    /// Of each place that was passed by: which, and why.
    pub(crate) passed: Vec<String>,
    /// Also what this project has not signed.
    pub(crate) accept_unsigned: bool,
}

/// A backup as a copy of it lies in its repository.
fn copy(backup: &Recorded, number: usize) -> Recorded {
    let copied = &backup.copies[number];
    Recorded {
        repository: copied.repository.clone(),
        snapshot: copied.snapshot.clone(),
        problem: copied.problem.clone(),
        ..backup.clone()
    }
}

/// Whether another place may have what this one could not give.
pub(crate) fn is_the_place(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::Corrupt
            | ErrorKind::Unavailable
            | ErrorKind::Denied
            | ErrorKind::Invalid
    )
}

/// A backup as it lies in each of its places, or in the one that is asked for: where it was made first, then the copies.
///
/// # Errors
///
/// `NotFound`: the backup is not in that repository.
pub(crate) fn places(backup: &Recorded, from: Option<&str>) -> Result<Vec<Recorded>, Error> {
    let mut all = vec![backup.clone()];
    all.extend((0..backup.copies.len()).map(|number| copy(backup, number)));
    if let Some(from) = from {
        let names: Vec<String> = all.iter().map(|it| it.repository.clone()).collect();
        all.retain(|it| it.repository == from);
        if all.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("the backup is not in `{from}`"))
                .with("backup", &backup.id)
                .hint(format!("it is in: {}", names.join(", "))));
        }
    }
    Ok(all)
}

impl Places {
    /// The repository that is asked for alone; else the first one, then the copies, and last what is known to be damaged.
    ///
    /// # Errors
    ///
    /// `NotFound`: the backup is not in that repository.
    pub(crate) fn of(backup: &Recorded, from: Option<&str>) -> Result<Self, Error> {
        let mut all = places(backup, from)?;
        all.sort_by_key(|it| it.problem.is_some());
        Ok(Self { left: all.into(), passed: Vec::new(), accept_unsigned: false })
    }

    /// The next place where the backup can be opened.
    ///
    /// # Errors
    ///
    /// Of the first place, where there is none.
    pub(crate) async fn next(
        &mut self,
        ctx: &Context,
        around: &dyn Surroundings,
        mut first: Option<Error>,
    ) -> Result<Place, Error> {
        let accepted = self.accept_unsigned;
        while let Some(backup) = self.left.pop_front() {
            let opened = async {
                let repository = around.repository(ctx, &backup.repository).await?;
                let manifest = read_manifest(ctx, &repository, &backup).await?;
                signature::check(ctx, around, &manifest, &backup, accepted).await?;
                Ok::<_, Error>((repository, manifest))
            };
            match opened.await {
                Ok((repository, manifest)) => return Ok(Place { repository, backup, manifest }),
                Err(error) if is_the_place(&error) => {
                    self.pass(&backup, &error);
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(first.unwrap_or_else(|| Error::new(ErrorKind::NotFound, "the backup lies nowhere")))
    }

    /// Whether there is another place to try.
    pub(crate) fn has_more(&self) -> bool {
        !self.left.is_empty()
    }

    /// Notes that a place could not give the backup.
    pub(crate) fn pass(&mut self, backup: &Recorded, error: &Error) {
        self.passed.push(format!("not from {}: {}", backup.repository, error.message()));
    }

    /// What is said of where the backup was read, if it was not read where it was made.
    pub(crate) fn said(&self, made_in: &str, read_in: &str) -> String {
        if self.passed.is_empty() && made_in == read_in {
            return String::new();
        }
        let mut said = format!("read from the copy in {read_in}");
        for passed in &self.passed {
            said.push_str("; ");
            said.push_str(passed);
        }
        said.push('\n');
        said
    }
}
