//! The corruption check of the extension `amcheck`.

use async_trait::async_trait;
use contract::{Context, Error, ErrorKind, Integrity, IntegrityProblem, Store};

use crate::error::translate;
use crate::session::{Purpose, Session};
use crate::statement::quote_identifier;
use crate::store::PostgresStore;

/// `verify_heapam` came with this version.
const VERIFY_HEAP_VERSION_NUM: i32 = 140_000;

#[async_trait]
impl Integrity for PostgresStore {
    /// Checks every B-tree index against its table, and every table's pages from PostgreSQL 14 on.
    ///
    /// Reads the whole database under locks that let others read and write. Answers `Unsupported` where the extension
    /// `amcheck` is not installed, `Denied` where the login may not call it.
    async fn check_integrity(&self, ctx: &Context) -> Result<(String, Vec<IntegrityProblem>), Error> {
        let purpose = if self.opener.login(Purpose::Administer).is_some() {
            Purpose::Administer
        } else {
            Purpose::Read
        };
        let session = self.within(ctx, self.opener.open(ctx, purpose)).await?;
        self.refuse_shared(&session)?;
        let answer = self.within(ctx, check(&session)).await;
        if answer.is_err() {
            session.stopper().stop().await;
        }
        answer.map_err(|error| match error.kind() {
            ErrorKind::Unsupported => self
                .unsupported(
                    "check_integrity",
                    "the extension `amcheck` is not installed in this database",
                    "let an administrator run `CREATE EXTENSION amcheck`",
                ),
            ErrorKind::Denied => error.hint(
                "the check needs the right to call amcheck's functions: configure `admin`, or grant EXECUTE on them",
            ),
            _ => error,
        })
    }
}

async fn check(session: &Session) -> Result<(String, Vec<IntegrityProblem>), Error> {
    let client = &session.client;
    let extension = client
        .query_opt(
            "SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
             WHERE e.extname = 'amcheck'",
            &[],
        )
        .await
        .map_err(|error| translate(&error))?;
    let Some(extension) = extension else {
        return Err(Error::new(ErrorKind::Unsupported, "no amcheck"));
    };
    let schema = quote_identifier(extension.get(0));
    let index_check =
        format!("SELECT {schema}.bt_index_check(index => $1::oid::regclass, heapallindexed => true)");
    let heap_check = format!(
        "SELECT format('block %s: %s', blkno, msg) FROM {schema}.verify_heapam(relation => $1::oid::regclass)"
    );
    let verify_heap = session.rights.version_num >= VERIFY_HEAP_VERSION_NUM;
    let mut problems = Vec::new();
    for row in
        client.query(include_str!("sql/checkable.sql"), &[]).await.map_err(|error| translate(&error))?
    {
        let (oid, object, is_index): (u32, String, bool) =
            (row.get("oid"), row.get("name"), row.get("is_index"));
        if !is_index && !verify_heap {
            continue;
        }
        match client.query(if is_index { &index_check } else { &heap_check }, &[&oid]).await {
            Ok(found) if !is_index => problems.extend(
                found.iter().map(|row| IntegrityProblem { object: object.clone(), problem: row.get(0) }),
            ),
            Ok(_) => {}
            // The check of an index says what is wrong by failing.
            Err(error) => match translate(&error) {
                error if error.kind() == ErrorKind::Corrupt => {
                    problems.push(IntegrityProblem { object, problem: error.message().to_owned() });
                }
                // Dropped since the list was made.
                error if error.kind() == ErrorKind::NotFound => {}
                error => return Err(error.with("object", object)),
            },
        }
    }
    let statement = if verify_heap { format!("{index_check}; {heap_check}") } else { index_check };
    Ok((statement, problems))
}
