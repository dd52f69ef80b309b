//! The corruption check of the extension `amcheck`, and what rows are asked because the planner believes it.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use contract::{
    Context, Error, ErrorKind, Integrity, IntegrityProblem, IntegrityReport, KeysCompared, RowPromise,
    RowTest, Store,
};
use schema::{Table, TableName};
use tokio_postgres::{Client, Row};

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

/// Whether the entries of an index are compared with the rows of its table, which costs most of a check.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IndexEntries {
    Compared,
    /// The server has just made them from these rows.
    Trusted,
}

/// A relation that is checked, in words of its own.
struct Checked {
    object: String,
    /// A unique index whose keys were compared.
    unique: Option<TableName>,
    /// None where it was dropped since the list was made.
    problems: Option<Vec<String>>,
    /// Why it was not checked.
    unchecked: Option<String>,
}

/// Checks what the session's database holds; the extension must be there.
pub(crate) async fn check(
    client: &Client,
    version_num: i32,
    limit: Duration,
) -> Result<IntegrityReport, Error> {
    check_side_by_side(&[client], version_num, limit, IndexEntries::Compared).await
}

/// The same over several sessions of one database.
pub(crate) async fn check_side_by_side(
    clients: &[&Client],
    version_num: i32,
    limit: Duration,
    entries: IndexEntries,
) -> Result<IntegrityReport, Error> {
    let failed = |error: tokio_postgres::Error| translate(&error);
    let Some(client) = clients.first() else {
        return Err(Error::new(ErrorKind::Unavailable, "no session to check with"));
    };
    let extension = client
        .query_opt(
            "SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
             WHERE e.extname = 'amcheck'",
            &[],
        )
        .await
        .map_err(failed)?;
    let Some(extension) = extension else {
        return Err(Error::new(ErrorKind::Unsupported, "no amcheck"));
    };
    let schema = quote_identifier(extension.get(0));
    let unique = if version_num >= CHECK_UNIQUE_VERSION_NUM { ", checkunique => true" } else { "" };
    let all = entries == IndexEntries::Compared;
    let index_check = format!(
        "SELECT {schema}.bt_index_check(index => $1::oid::regclass, heapallindexed => {all}{unique})"
    );
    let heap_check = format!(
        "SELECT format('block %s: %s', blkno, msg) FROM {schema}.verify_heapam(relation => $1::oid::regclass)"
    );
    let verify_heap = version_num >= VERIFY_HEAP_VERSION_NUM;
    let rows = client.query(include_str!("sql/checkable.sql"), &[]).await.map_err(failed)?;
    let mut jobs: VecDeque<(usize, Row)> =
        rows.into_iter().filter(|row| verify_heap || row.get::<_, bool>("is_index")).enumerate().collect();
    if clients.len() > 1 {
        // The largest first, so that they end together.
        jobs.make_contiguous().reverse();
    }
    let jobs = Mutex::new(jobs);
    let next = || jobs.lock().ok().and_then(|mut jobs| jobs.pop_front());
    let timeout = format!("SET statement_timeout = {}", milliseconds(limit));
    let workers = clients.iter().map(|client| async {
        client.batch_execute(&timeout).await.map_err(failed)?;
        let mut checked = Vec::new();
        while let Some((number, row)) = next() {
            let statement = if row.get("is_index") { &index_check } else { &heap_check };
            checked.push((number, check_one(client, statement, &row, !unique.is_empty()).await?));
        }
        Ok::<_, Error>(checked)
    });
    let mut checked: Vec<(usize, Checked)> =
        futures::future::try_join_all(workers).await?.into_iter().flatten().collect();
    checked.sort_by_key(|(number, _)| *number);
    let mut report = IntegrityReport::default();
    let mut compared = Vec::new();
    for (_, Checked { object, unique, problems, unchecked }) in checked {
        if let Some(problems) = problems {
            report.checked += 1;
            compared.extend(unique);
            let of = |problem| IntegrityProblem { object: object.clone(), problem };
            report.problems.extend(problems.into_iter().map(of));
        } else if let Some(problem) = unchecked {
            report.unchecked.push(IntegrityProblem { object, problem });
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
        .map_err(failed)?;
    report.checksum_failures = failures
        .and_then(|row| row.get::<_, Option<i64>>(0))
        .and_then(|failures| u64::try_from(failures).ok());
    Ok(report)
}

/// Checks one relation.
async fn check_one(
    client: &Client,
    statement: &str,
    row: &Row,
    checks_unique: bool,
) -> Result<Checked, Error> {
    let (oid, object, is_index): (u32, String, bool) = (row.get("oid"), row.get("name"), row.get("is_index"));
    let mut checked = Checked { object, unique: None, problems: None, unchecked: None };
    match client.query(statement, &[&oid]).await {
        Ok(found) => {
            if row.get("is_unique") && checks_unique {
                checked.unique =
                    Some(TableName { namespace: row.get("namespace"), name: row.get("relation") });
            }
            let problems = if is_index { &[][..] } else { &found };
            checked.problems = Some(problems.iter().map(|row| row.get(0)).collect());
        }
        // The check of an index says what is wrong by failing, and so does a page that cannot be read.
        Err(error) => match translate(&error) {
            error if error.kind() == ErrorKind::Corrupt => {
                checked.problems = Some(vec![error.message().to_owned()]);
            }
            error if error.kind() == ErrorKind::TimedOut => {
                checked.unchecked = Some(error.message().to_owned());
            }
            // Dropped since the list was made.
            error if error.kind() == ErrorKind::NotFound => {}
            error => return Err(error.with("object", checked.object)),
        },
    }
    Ok(checked)
}
