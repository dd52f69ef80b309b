//! The corruption check of the extension `amcheck`, and what rows are asked because the planner believes it.

use std::time::Duration;

use async_trait::async_trait;
use contract::{
    Context, Error, ErrorKind, Integrity, IntegrityProblem, IntegrityReport, KeysCompared, RowPromise,
    RowTest, Store,
};
use schema::{Table, TableName};
use tokio_postgres::Client;

use crate::error::translate;
use crate::session::{Purpose, Session};
use crate::statement::quote_identifier;
use crate::store::{PostgresStore, milliseconds};

/// `verify_heapam` came with this version.
const VERIFY_HEAP_VERSION_NUM: i32 = 140_000;
/// `bt_index_check` looks for duplicates of a unique index since this version.
const CHECK_UNIQUE_VERSION_NUM: i32 = 170_000;

#[async_trait]
impl Integrity for PostgresStore {
    /// Checks every B-tree index against its table, and every table's pages from PostgreSQL 14 on.
    ///
    /// Reads the whole database under locks that let others read and write. A relation that takes longer than `limit`, or
    /// whose lock does not come, is left out and named. Answers `Unsupported` where the extension `amcheck` is not
    /// installed, `Denied` where the login may not call it.
    async fn check_integrity(&self, ctx: &Context, limit: Duration) -> Result<IntegrityReport, Error> {
        let purpose = if self.opener.login(Purpose::Administer).is_some() {
            Purpose::Administer
        } else {
            Purpose::Read
        };
        let session = self.within(ctx, self.opener.open(ctx, purpose)).await?;
        self.refuse_shared(&session)?;
        let answer = self.within(ctx, check(&session.client, session.rights.version_num, limit)).await;
        if answer.is_err() {
            session.stopper().stop().await;
        }
        answer.map_err(|error| match error.kind() {
            ErrorKind::Unsupported => self.unsupported(
                "check_integrity",
                "the extension `amcheck` is not installed in this database",
                "let an administrator run `CREATE EXTENSION amcheck`",
            ),
            ErrorKind::Denied => {
                let user = &session.rights.login.user;
                error.with("reason", format!("the login `{user}` may not call amcheck's functions")).hint(
                    format!(
                        "configure `admin` for this store, or let an administrator run `{}`",
                        grants(&session, &quote_identifier(user))
                    ),
                )
            }
            _ => error,
        })
    }

    fn row_tests(&self, table: &Table) -> Vec<RowTest> {
        let checks = table.checks.iter().map(|check| {
            let expression = check.expression.trim_end_matches(" NO INHERIT");
            RowTest {
                promise: RowPromise::Check,
                name: check.name.clone(),
                text: expression.to_owned(),
                broken: format!("({expression}) IS FALSE"),
            }
        });
        let columns = table.columns.iter().filter(|column| !column.nullable).map(|column| RowTest {
            promise: RowPromise::NotNull,
            name: column.name.clone(),
            text: "NOT NULL".into(),
            // `IS NULL` of a NOT NULL column is false to the planner (17 and later), whatever the rows hold.
            broken: format!("num_nulls({}) = 1", quote_identifier(&column.name)),
        });
        checks.chain(columns).collect()
    }

    fn unindexed(&self, table: &str) -> String {
        format!("(SELECT * FROM {table} OFFSET 0)")
    }
}

/// What lets a login call the check: EXECUTE is enough, the tables themselves need no grant.
fn grants(session: &Session, user: &str) -> String {
    let arguments = if session.rights.version_num >= CHECK_UNIQUE_VERSION_NUM {
        "regclass, boolean, boolean"
    } else {
        "regclass, boolean"
    };
    let heap = if session.rights.version_num >= VERIFY_HEAP_VERSION_NUM {
        ", verify_heapam(regclass, boolean, boolean, text, bigint, bigint)"
    } else {
        ""
    };
    format!("GRANT EXECUTE ON FUNCTION bt_index_check({arguments}){heap} TO {user}")
}

/// Checks what the session's database holds; the extension must be there.
pub(crate) async fn check(
    client: &Client,
    version_num: i32,
    limit: Duration,
) -> Result<IntegrityReport, Error> {
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
    let unique = if version_num >= CHECK_UNIQUE_VERSION_NUM { ", checkunique => true" } else { "" };
    let index_check =
        format!("SELECT {schema}.bt_index_check(index => $1::oid::regclass, heapallindexed => true{unique})");
    let heap_check = format!(
        "SELECT format('block %s: %s', blkno, msg) FROM {schema}.verify_heapam(relation => $1::oid::regclass)"
    );
    let verify_heap = version_num >= VERIFY_HEAP_VERSION_NUM;
    let timeout = format!("SET statement_timeout = {}", milliseconds(limit));
    client.batch_execute(&timeout).await.map_err(|error| translate(&error))?;
    let mut report = IntegrityReport::default();
    let mut compared = Vec::new();
    for row in
        client.query(include_str!("sql/checkable.sql"), &[]).await.map_err(|error| translate(&error))?
    {
        let (oid, object, is_index): (u32, String, bool) =
            (row.get("oid"), row.get("name"), row.get("is_index"));
        if !is_index && !verify_heap {
            continue;
        }
        match client.query(if is_index { &index_check } else { &heap_check }, &[&oid]).await {
            Ok(found) => {
                report.checked += 1;
                if row.get("is_unique") && !unique.is_empty() {
                    compared.push(TableName { namespace: row.get("namespace"), name: row.get("relation") });
                }
                if !is_index {
                    report.problems.extend(
                        found
                            .iter()
                            .map(|row| IntegrityProblem { object: object.clone(), problem: row.get(0) }),
                    );
                }
            }
            // The check of an index says what is wrong by failing, and so does a page that cannot be read.
            Err(error) => match translate(&error) {
                error if error.kind() == ErrorKind::Corrupt => {
                    report.checked += 1;
                    report.problems.push(IntegrityProblem { object, problem: error.message().to_owned() });
                }
                error if error.kind() == ErrorKind::TimedOut => {
                    report.unchecked.push(IntegrityProblem { object, problem: error.message().to_owned() });
                }
                // Dropped since the list was made.
                error if error.kind() == ErrorKind::NotFound => {}
                error => return Err(error.with("object", object)),
            },
        }
    }
    report.keys_compared = KeysCompared::Of(compared);
    report.statement = if verify_heap { format!("{index_check}; {heap_check}") } else { index_check };
    let failures = client
        .query_opt(
            "SELECT checksum_failures FROM pg_catalog.pg_stat_database WHERE datname = current_database()",
            &[],
        )
        .await
        .map_err(|error| translate(&error))?;
    report.checksum_failures = failures
        .and_then(|row| row.get::<_, Option<i64>>(0))
        .and_then(|failures| u64::try_from(failures).ok());
    Ok(report)
}
