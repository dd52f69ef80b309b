//! Work that only one process does at a time.

use std::time::Duration;

use contract::{Context, Error, ErrorKind};
use jiff::{SignedDuration, Timestamp};

use crate::seal::{hex, random};
use crate::{Ledger, Row, Write};

/// The right to do something alone until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The project that it belongs to.
    pub project: String,
    /// What may be done alone, such as `scheduler` or `intent:…`.
    pub name: String,
    /// Who holds it: process id and a random part.
    pub holder: String,
    /// When it ends by itself, on the clock of the context.
    pub expires: Timestamp,
}

impl Ledger {
    /// Takes the lease `name` of the context's project for `ttl`, unless someone else holds it and it has not
    /// expired: `None`. Taking a lease twice in one process gives `None` the second time.
    ///
    /// # Errors
    ///
    /// As [`Ledger::write`].
    pub async fn acquire_lease(
        &self,
        ctx: &Context,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, Error> {
        let lease = Lease {
            project: ctx.project().to_owned(),
            name: name.to_owned(),
            holder: format!("{}-{}", std::process::id(), hex(&random::<8>())),
            expires: after(ctx, ttl),
        };
        let write = Write::new().unsynced().exec(
            "INSERT INTO leases (project, name, holder, expires_us) VALUES (?, ?, ?, ?) \
             ON CONFLICT (project, name) DO UPDATE SET holder = excluded.holder, expires_us = excluded.expires_us \
             WHERE leases.expires_us <= ?",
            vec![
                (&lease.project).into(),
                (&lease.name).into(),
                (&lease.holder).into(),
                lease.expires.into(),
                ctx.now().into(),
            ],
        );
        let written = self.write(ctx, write).await?;
        Ok((written.rows_changed == [1]).then_some(lease))
    }

    /// Prolongs a lease to `ttl` from now.
    ///
    /// # Errors
    ///
    /// `Conflict`: it has expired and someone else took it; stop the work. Otherwise as [`Ledger::write`].
    pub async fn renew_lease(&self, ctx: &Context, lease: &Lease, ttl: Duration) -> Result<Lease, Error> {
        let renewed = Lease { expires: after(ctx, ttl), ..lease.clone() };
        let write = Write::new().unsynced().exec(
            "UPDATE leases SET expires_us = ? WHERE project = ? AND name = ? AND holder = ?",
            vec![
                renewed.expires.into(),
                (&lease.project).into(),
                (&lease.name).into(),
                (&lease.holder).into(),
            ],
        );
        if self.write(ctx, write).await?.rows_changed == [1] {
            return Ok(renewed);
        }
        Err(Error::new(ErrorKind::Conflict, "the lease has expired and was taken or released")
            .with("lease", &lease.name)
            .with("project", &lease.project))
    }

    /// Gives a lease back before it expires. A lease that someone else has taken by now stays with them.
    ///
    /// # Errors
    ///
    /// As [`Ledger::write`].
    pub async fn release_lease(&self, ctx: &Context, lease: &Lease) -> Result<(), Error> {
        let write = Write::new().unsynced().exec(
            "DELETE FROM leases WHERE project = ? AND name = ? AND holder = ?",
            vec![(&lease.project).into(), (&lease.name).into(), (&lease.holder).into()],
        );
        self.write(ctx, write).await.map(drop)
    }

    /// Who holds the lease `name` of the context's project now, if anyone.
    ///
    /// # Errors
    ///
    /// As [`Ledger::query`].
    pub async fn lease(&self, ctx: &Context, name: &str) -> Result<Option<Lease>, Error> {
        let rows = self
            .query(
                "SELECT project, name, holder, expires_us FROM leases WHERE project = ? AND name = ? AND expires_us > ?",
                vec![ctx.project().into(), name.into(), ctx.now().into()],
            )
            .await?;
        let lease = |row: &Row| {
            Ok(Lease {
                project: row.get_text("project")?.to_owned(),
                name: row.get_text("name")?.to_owned(),
                holder: row.get_text("holder")?.to_owned(),
                expires: row.get_time("expires_us")?,
            })
        };
        rows.first().map(lease).transpose()
    }
}

fn after(ctx: &Context, ttl: Duration) -> Timestamp {
    let ttl = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
    ctx.now().saturating_add(ttl).unwrap_or(Timestamp::MAX)
}
