//! Where a backup is put back: a scratch server, or a database beside the store's own.

use std::sync::Arc;
use std::time::Duration;

use contract::{Context, Error, ErrorKind};
use tokio_postgres::Client;

use super::programs::{Libpq, Programs};
use super::scratch_server::{ScratchServer, on_this_disk};
use crate::error::translate;
use crate::session::{Opener, Purpose, Session};
use crate::statement::quote_identifier;

/// What the name of a database ends in that is being loaded.
const LOADING: &str = "_steward_loading";
/// Longest name of a database.
const NAME_BYTES_MAX: usize = 63;
/// Longest that taking a database away may take when nobody waits for it.
const REMOVE_TIMEOUT: Duration = Duration::from_mins(1);

/// A database that is made, loaded and used here alone.
pub(crate) struct Place {
    kind: Kind,
    /// The name that it has now.
    pub(crate) database: String,
    kept: bool,
}

enum Kind {
    Scratch(Box<ScratchServer>),
    Beside(Arc<Opener>),
}

impl Place {
    /// In a server of its own; the database bears the name of the one that was dumped.
    pub(crate) fn scratch(server: ScratchServer, database: &str) -> Self {
        Self { kind: Kind::Scratch(Box::new(server)), database: database.to_owned(), kept: false }
    }

    /// Beside the store's own, under a name that says that it is not whole yet. `opener` leads to the store's own.
    pub(crate) fn beside(opener: Opener, database: &str) -> Self {
        Self { kind: Kind::Beside(Arc::new(opener)), database: loading_name(database), kept: false }
    }

    pub(crate) fn is_scratch(&self) -> bool {
        matches!(self.kind, Kind::Scratch(_))
    }

    /// What the server says of a load that failed because the disk of its scratch folder is full, and with what it needs.
    pub(crate) fn on_its_disk(&self, error: Error, bytes_needed: u64) -> Error {
        match &self.kind {
            Kind::Scratch(server) => on_this_disk(error, server.folder(), bytes_needed, &server.log()),
            Kind::Beside(_) => error,
        }
    }

    /// A session in the database.
    pub(crate) async fn connect(&self, ctx: &Context) -> Result<Client, Error> {
        match &self.kind {
            Kind::Scratch(server) => server.connect(ctx, &self.database).await,
            Kind::Beside(opener) => {
                let opener = opener.of_database(&self.database);
                Ok(ctx.run(opener.open(ctx, Purpose::Administer)).await?.client)
            }
        }
    }

    /// A session in another database of the same server.
    pub(crate) async fn outside(&self, ctx: &Context) -> Result<Client, Error> {
        match &self.kind {
            Kind::Scratch(server) => server.connect(ctx, "template1").await,
            Kind::Beside(opener) => Ok(outside(ctx, opener).await?.client),
        }
    }

    pub(crate) async fn libpq(&self, ctx: &Context, programs: &Programs) -> Result<Libpq, Error> {
        match &self.kind {
            Kind::Scratch(server) => Ok(server.libpq(&self.database)),
            Kind::Beside(opener) => {
                opener.of_database(&self.database).libpq(ctx, Purpose::Administer, programs.major).await
            }
        }
    }

    pub(crate) fn address(&self) -> String {
        match &self.kind {
            Kind::Scratch(server) => server.address(&self.database),
            Kind::Beside(opener) => {
                let mut url = url::Url::parse("postgres://localhost").expect("a URL");
                let address = &opener.of_database(&self.database).address;
                // What the configuration has taken is a host.
                url.set_host(Some(&address.host)).unwrap_or_default();
                url.set_port(Some(address.port)).unwrap_or_default();
                url.set_path(&self.database);
                url.to_string()
            }
        }
    }

    /// Gives it its own name, now that it is whole.
    pub(crate) async fn finish(&mut self, ctx: &Context, name: &str) -> Result<(), Error> {
        if self.database == name {
            return Ok(());
        }
        let client = self.outside(ctx).await?;
        let rename = format!(
            "ALTER DATABASE {} RENAME TO {}",
            quote_identifier(&self.database),
            quote_identifier(name)
        );
        ctx.run(async { client.batch_execute(&rename).await.map_err(|error| translate(&error)) }).await?;
        name.clone_into(&mut self.database);
        Ok(())
    }

    pub(crate) fn keep(&mut self) -> String {
        self.kept = true;
        match &mut self.kind {
            Kind::Scratch(server) => server.keep(),
            Kind::Beside(_) => format!("DROP DATABASE {}", quote_identifier(&self.database)),
        }
    }

    /// Takes what is there under its name away, which a load that was killed has left.
    pub(crate) async fn clear(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::Scratch(_) => Ok(()),
            Kind::Beside(opener) => drop_database(opener, &self.database).await,
        }
    }

    /// Takes it away.
    pub(crate) async fn remove(mut self) -> Result<(), Error> {
        self.kept = true;
        match &mut self.kind {
            Kind::Scratch(server) => {
                server.stop();
                Ok(())
            }
            Kind::Beside(opener) => drop_database(opener, &self.database).await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // A scratch server ends with its own handle.
        if let Kind::Beside(opener) = &self.kind
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (opener, database) = (Arc::clone(opener), self.database.clone());
            runtime.spawn(async move {
                if let Err(error) = drop_database(&opener, &database).await {
                    tracing::warn!(%error, database, "the restored database could not be removed");
                }
            });
        }
    }
}

/// The name of a database that becomes `database` when it is whole.
pub(crate) fn loading_name(database: &str) -> String {
    let most = NAME_BYTES_MAX - LOADING.len();
    let cut = (0..=most.min(database.len())).rev().find(|at| database.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{LOADING}", &database[..cut])
}

/// A session of the administering login in a database that is neither restored nor replaced.
pub(crate) async fn outside(ctx: &Context, opener: &Opener) -> Result<Session, Error> {
    let first = ctx.run(opener.of_database("postgres").open(ctx, Purpose::Administer)).await;
    match first {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {
            ctx.run(opener.of_database("template1").open(ctx, Purpose::Administer)).await
        }
        other => other,
    }
}

/// A database with subscriptions cannot be dropped, and dropping one by itself takes its slot away at the publisher, which is
/// that of the original.
const WITHOUT_SUBSCRIPTIONS: &str = "DO $$ DECLARE one pg_catalog.name; BEGIN FOR one IN SELECT s.subname \
     FROM pg_catalog.pg_subscription AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid \
     WHERE d.datname = pg_catalog.current_database() LOOP \
     EXECUTE pg_catalog.format('ALTER SUBSCRIPTION %I DISABLE', one); \
     EXECUTE pg_catalog.format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', one); \
     EXECUTE pg_catalog.format('DROP SUBSCRIPTION %I', one); END LOOP; END $$";

/// Takes a copy away, if it is there.
pub(super) async fn drop_database(opener: &Opener, database: &str) -> Result<(), Error> {
    // Also when the caller's time is over.
    let ctx = Context::new("backup", contract::Actor::local()).with_timeout(REMOVE_TIMEOUT);
    let session = outside(&ctx, opener).await?;
    let subscribed = "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription AS s \
         JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid WHERE d.datname = $1)";
    let asked = ctx.run(async {
        session.client.query_one(subscribed, &[&database]).await.map_err(|error| translate(&error))
    });
    if asked.await?.get(0) {
        let inside = ctx.run(opener.of_database(database).open(&ctx, Purpose::Administer)).await?;
        let settings = "SET default_transaction_read_only = off; SET session_replication_role = replica";
        let run = async {
            inside.client.batch_execute(settings).await?;
            inside.client.batch_execute(WITHOUT_SUBSCRIPTIONS).await
        };
        ctx.run(async { run.await.map_err(|error| translate(&error)) }).await?;
    }
    let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_identifier(database));
    ctx.run(async { session.client.batch_execute(&statement).await.map_err(|error| translate(&error)) }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_unfinished_databases_fit() {
        assert_eq!(loading_name("shop"), "shop_steward_loading");
        let long = loading_name(&"ä".repeat(31));
        assert!(long.len() <= NAME_BYTES_MAX && long.ends_with(LOADING), "{long}");
    }
}
