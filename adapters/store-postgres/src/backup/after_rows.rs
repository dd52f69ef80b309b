//! What comes after the rows, side by side: indexes and keys, the largest tables first, then foreign keys.
//!
//! The text is that of `pg_dump`. Whatever in it is not known to be independent keeps its place; a text that cannot be
//! taken apart is left to `psql`, which reads it as it stands.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use contract::{Context, Error};
use tokio_postgres::Client;

use super::progress::{Progress, statement_of};
use super::schema_text::unquoted;
use crate::error::translate;

/// SQLSTATE of two statements that waited for one another; neither of them has changed anything.
const DEADLOCK: &str = "40P01";
/// Characters of a statement that an error quotes.
const QUOTED_MAX: usize = 300;

/// What one that needs a table alone counts for; a foreign key may need it at both ends.
const ALONE: usize = usize::MAX / 4;

/// How a statement uses a table while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Beside others that only read it.
    Shared,
    Alone,
}

/// What a statement is to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Makes an index of this table; independent of all others.
    Build(String, Use),
    /// Needs the keys of both tables.
    ForeignKey([String; 2]),
    /// About an index that was just built; nothing that is built needs it.
    OfIndex,
    /// Words about something that is there by then.
    Comment,
    /// Sets something of the session.
    Setting,
    /// Everything before it comes before, everything after it after.
    Barrier,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    sql: String,
    /// Settings under which it was dumped.
    settings: String,
    uses: Vec<(String, Use)>,
}

/// Jobs that may run side by side; all of one before any of the next.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stage(Vec<Job>);

/// What is to be done after the rows, in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AfterRows {
    /// For every session.
    preamble: Vec<String>,
    stages: Vec<Stage>,
}

/// The statements of a text, each without what stands before it; `None` where its end is not clear.
fn statements(text: &str) -> Option<Vec<&str>> {
    let bytes = text.as_bytes();
    let (mut found, mut at, mut start) = (Vec::new(), 0, None);
    let behind = |needle: &[u8], from: usize| {
        memchr::memmem::find(bytes.get(from..)?, needle).map(|found| from + found + needle.len())
    };
    while at < bytes.len() {
        let rest = &bytes[at..];
        match bytes[at] {
            b'-' if rest.starts_with(b"--") => {
                at = memchr::memchr(b'\n', rest).map_or(bytes.len(), |end| at + end);
                continue;
            }
            // Not one that `pg_dump` prints outside of quotes.
            b'/' if rest.starts_with(b"/*") => return None,
            b'\\' if start.is_none() => {
                let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
                if !(line.starts_with(b"\\restrict ") || line.starts_with(b"\\unrestrict ")) {
                    return None;
                }
                at += line.len();
                continue;
            }
            b';' => {
                if let Some(start) = start.take() {
                    found.push(text.get(start..at)?);
                }
                at += 1;
                continue;
            }
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let begun = *start.get_or_insert(at);
        let before = at.checked_sub(1).filter(|before| *before >= begun).map(|before| bytes[before]);
        let is_part_of_word = before
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80);
        at = match bytes[at] {
            b'"' => behind(b"\"", at + 1)?,
            // In the text of a dump a backslash is one, but for strings that say that it is not.
            b'\'' if before.is_some_and(|byte| byte.eq_ignore_ascii_case(&b'e')) => {
                let mut end = at + 1;
                loop {
                    match bytes.get(end)? {
                        b'\\' => end += 2,
                        b'\'' => break end + 1,
                        _ => end += 1,
                    }
                }
            }
            b'\'' => behind(b"'", at + 1)?,
            b'$' if !is_part_of_word => {
                let tag = rest[1..].iter().position(|byte| *byte == b'$').map(|length| &rest[..length + 2]);
                let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
                match tag {
                    Some(tag) if tag[1..tag.len() - 1].iter().all(is_word) => behind(tag, at + tag.len())?,
                    _ => at + 1,
                }
            }
            _ => at + 1,
        };
    }
    start.is_none().then_some(found)
}

/// A quoted name at the beginning, with its namespace, and what follows it.
fn name(text: &str) -> Option<(String, &str)> {
    let mut end = 0;
    loop {
        let rest = text.get(end..)?.strip_prefix('"')?;
        let mut inside = rest.char_indices().peekable();
        let length = loop {
            let (at, letter) = inside.next()?;
            if letter == '"' && inside.next_if(|(_, next)| *next == '"').is_none() {
                break at;
            }
        };
        end += length + 2;
        if !text[end..].starts_with('.') {
            return Some((unquoted(&text[..end]), &text[end..]));
        }
        end += 1;
    }
}

fn strip<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.trim_start()
        .strip_prefix(words)?
        .strip_prefix(|next: char| next.is_ascii_whitespace())
        .map(str::trim_start)
}

fn kind(statement: &str) -> Kind {
    kind_of(statement).unwrap_or(Kind::Barrier)
}

fn kind_of(statement: &str) -> Option<Kind> {
    if statement.starts_with("SET ")
        || statement.starts_with("SELECT pg_catalog.set_config('search_path', '', false)")
    {
        return Some(Kind::Setting);
    }
    if let Some(rest) = strip(statement, "CREATE UNIQUE INDEX").or_else(|| strip(statement, "CREATE INDEX")) {
        let (_, rest) = name(rest)?;
        let rest = strip(rest, "ON")?;
        let (table, _) = name(strip(rest, "ONLY").unwrap_or(rest))?;
        return Some(Kind::Build(table, Use::Shared));
    }
    if let Some(rest) = strip(statement, "ALTER TABLE") {
        let only = strip(rest, "ONLY");
        let (table, rest) = name(only.unwrap_or(rest))?;
        if strip(rest, "CLUSTER ON").is_some() || strip(rest, "REPLICA IDENTITY USING INDEX").is_some() {
            return Some(Kind::OfIndex);
        }
        // Otherwise it reaches tables that it does not name.
        only?;
        let (_, rest) = name(strip(rest, "ADD CONSTRAINT")?)?;
        for words in ["PRIMARY KEY", "UNIQUE", "EXCLUDE"] {
            if strip(rest, words).is_some() {
                return Some(Kind::Build(table, Use::Alone));
            }
        }
        let rest = strip(rest, "FOREIGN KEY")?;
        // Names of columns come before, in brackets and in quotes.
        let (_, rest) = rest.split_once(") REFERENCES ")?;
        return Some(Kind::ForeignKey([table, name(rest)?.0]));
    }
    if strip(statement, "ALTER INDEX").is_some() {
        return Some(Kind::OfIndex);
    }
    if strip(statement, "COMMENT ON INDEX").or_else(|| strip(statement, "COMMENT ON CONSTRAINT")).is_some() {
        return Some(Kind::Comment);
    }
    None
}

impl AfterRows {
    /// Takes a text apart; `None` where it is not certain what its statements are.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut read = Self::default();
        let mut settings: HashMap<&str, &str> = HashMap::new();
        let mut open: [Vec<Job>; 4] = Default::default();
        let mut is_begun = false;
        for sql in statements(text)? {
            let kind = kind(sql);
            if kind == Kind::Setting {
                let named = ["SET default_tablespace = ", "SET default_table_access_method = "];
                match named.iter().find(|start| sql.starts_with(**start)) {
                    Some(start) => {
                        settings.insert(start, sql);
                    }
                    None if is_begun => return None,
                    None => read.preamble.push(sql.to_owned()),
                }
                continue;
            }
            is_begun = true;
            let mut of_job: Vec<&str> = settings.values().copied().collect();
            of_job.sort_unstable();
            let job = |uses| Job { sql: sql.to_owned(), settings: of_job.join("; "), uses };
            match kind {
                Kind::Build(table, how) => open[0].push(job(vec![(table, how)])),
                // In their order: the last attached part makes the index of the whole valid.
                Kind::OfIndex => open[1].push(job(Vec::new())),
                Kind::ForeignKey([a, b]) => {
                    open[2].push(job(vec![(a, Use::Alone), (b, Use::Alone)]));
                }
                Kind::Comment => open[3].push(job(Vec::new())),
                Kind::Barrier | Kind::Setting => {
                    read.close(&mut open);
                    read.stages.push(Stage(vec![job(Vec::new())]));
                }
            }
        }
        read.close(&mut open);
        Some(read)
    }

    fn close(&mut self, open: &mut [Vec<Job>; 4]) {
        let [builds, of_indexes, keys, comments] = std::mem::take(open);
        let one_by_one = |jobs: Vec<Job>| jobs.into_iter().map(|job| Stage(vec![job]));
        self.stages.push(Stage(builds));
        self.stages.extend(one_by_one(of_indexes));
        self.stages.push(Stage(keys));
        self.stages.extend(one_by_one(comments));
        self.stages.retain(|stage| !stage.0.is_empty());
    }

    /// Does it all; `bytes` says how large a table is. Statements are those of the first error.
    pub(crate) async fn run(
        self,
        ctx: &Context,
        clients: &[Client],
        bytes: &HashMap<String, u64>,
        progress: &Progress,
    ) -> Result<(), Error> {
        for client in clients {
            for sql in &self.preamble {
                execute(ctx, client, sql).await.map_err(|error| error.with("statement", quoted(sql)))?;
            }
        }
        for mut stage in self.stages {
            stage.0.retain(|job| !progress.is_done(&statement_of(&job.sql)));
            if !stage.0.is_empty() {
                stage.run(ctx, clients, bytes, progress).await?;
            }
        }
        Ok(())
    }
}

/// What of a stage waits and what runs.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// By table: how many share it; one alone counts as all.
    used: HashMap<String, usize>,
    /// They were in one another's way.
    again: Vec<Job>,
}

impl Queue {
    /// The first that nothing stands in the way of; `None` also when all that wait must go on waiting.
    fn take(&mut self) -> Option<Job> {
        let used = &self.used;
        let is_free = |(table, how): &(String, Use)| match (how, used.get(table).copied().unwrap_or(0)) {
            (_, 0) => true,
            (Use::Shared, count) => count < ALONE,
            (Use::Alone, _) => false,
        };
        let at = self.waiting.iter().position(|job| job.uses.iter().all(is_free))?;
        let job = self.waiting.remove(at)?;
        for (table, how) in &job.uses {
            *self.used.entry(table.clone()).or_default() += weight(*how);
        }
        Some(job)
    }

    fn give_back(&mut self, job: &Job) {
        for (table, how) in &job.uses {
            if let Some(count) = self.used.get_mut(table) {
                *count = count.saturating_sub(weight(*how));
            }
        }
    }
}

fn weight(how: Use) -> usize {
    if how == Use::Alone { ALONE } else { 1 }
}

impl Stage {
    async fn run(
        self,
        ctx: &Context,
        clients: &[Client],
        bytes: &HashMap<String, u64>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let mut jobs = self.0;
        let size = |job: &Job| {
            job.uses.iter().map(|(table, _)| bytes.get(table).copied().unwrap_or(0)).max().unwrap_or(0)
        };
        // Stable: those of one table stay together, its key first.
        jobs.sort_by_key(|job| std::cmp::Reverse(size(job)));
        let sessions = clients.len().min(jobs.len());
        let queue = Mutex::new(Queue { waiting: jobs.into(), ..Queue::default() });
        let ended = tokio::sync::Notify::new();
        let workers = clients[..sessions].iter().map(|client| async {
            let mut settings = String::new();
            loop {
                // Asked for first, so that an end in between is not missed.
                let someone_ended = ended.notified();
                let (job, is_over) = {
                    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                    let job = queue.take();
                    (job, queue.waiting.is_empty())
                };
                let Some(job) = job else {
                    if is_over {
                        return Ok::<(), Error>(());
                    }
                    someone_ended.await;
                    continue;
                };
                let ran = under(ctx, client, &mut settings, &job, progress).await;
                {
                    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                    queue.give_back(&job);
                    match ran {
                        Err(error) if is_deadlock(&error) => queue.again.push(job),
                        other => other?,
                    }
                }
                ended.notify_waiters();
            }
        });
        futures::future::try_join_all(workers).await?;
        let again = queue.into_inner().unwrap_or_else(PoisonError::into_inner).again;
        if let Some(client) = clients.first() {
            // Sessions differ in what is set by now; nothing is assumed.
            for job in again {
                under(ctx, client, &mut String::new(), &job, progress).await?;
            }
        }
        Ok(())
    }
}

fn is_deadlock(error: &Error) -> bool {
    error.context().iter().any(|(name, code)| *name == "code" && code == DEADLOCK)
}

async fn under(
    ctx: &Context,
    client: &Client,
    settings: &mut String,
    job: &Job,
    progress: &Progress,
) -> Result<(), Error> {
    let named = |error: Error| error.with("statement", quoted(&job.sql));
    if *settings != job.settings {
        execute(ctx, client, &job.settings).await.map_err(named)?;
        settings.clone_from(&job.settings);
    }
    let begun = std::time::Instant::now();
    // Several statements in one message are one transaction.
    let sql = format!("{}{}", job.sql.trim_end_matches(';'), progress.mark(&statement_of(&job.sql)));
    execute(ctx, client, &sql).await.map_err(named)?;
    tracing::debug!(
        statement = quoted(&job.sql),
        elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "statement done"
    );
    Ok(())
}

async fn execute(ctx: &Context, client: &Client, sql: &str) -> Result<(), Error> {
    ctx.run(async { client.batch_execute(sql).await.map_err(|error| translate(&error)) }).await
}

fn quoted(sql: &str) -> String {
    let line: String = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(QUOTED_MAX) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_they_end() {
        let text = "-- a; b\n\\restrict x\nSELECT ';', E'\\';', \"a;\"\"b\";\nCREATE f AS $$ ; $$ , $q$;$q$, a$b;\n\
            COMMENT ON x IS 'two\n--\n-- Name: y; Type: INDEX\n;';\n";
        assert_eq!(
            statements(text).unwrap(),
            [
                "SELECT ';', E'\\';', \"a;\"\"b\"",
                "CREATE f AS $$ ; $$ , $q$;$q$, a$b",
                "COMMENT ON x IS 'two\n--\n-- Name: y; Type: INDEX\n;'",
            ]
        );
        for unclear in ["SELECT 'a", "SELECT 1", "\\connect x\n", "/* a */ SELECT 1;", "SELECT $a$ b"] {
            assert_eq!(statements(unclear), None, "{unclear}");
        }
    }

    #[test]
    fn statements_are_known_by_their_words() {
        let build = |table: &str, how| Kind::Build(table.to_owned(), how);
        for (sql, expected) in [
            (
                "CREATE INDEX \"i\" ON \"public\".\"a\" USING \"btree\" (\"b\")",
                build("public.a", Use::Shared),
            ),
            ("CREATE UNIQUE INDEX \"i\" ON ONLY \"s\".\"a.\"\"b\" USING x", build("s.a.\"b", Use::Shared)),
            (
                "ALTER TABLE ONLY \"public\".\"a\"\n    ADD CONSTRAINT \"a_pkey\" PRIMARY KEY (\"id\")",
                build("public.a", Use::Alone),
            ),
            (
                "ALTER TABLE ONLY \"public\".\"a\"\n    ADD CONSTRAINT \"f\" FOREIGN KEY (\"x\", \"y\") REFERENCES \"public\".\"b\"(\"x\", \"y\")",
                Kind::ForeignKey(["public.a".into(), "public.b".into()]),
            ),
            (
                "ALTER TABLE \"public\".\"a\"\n    ADD CONSTRAINT \"f\" FOREIGN KEY (\"x\") REFERENCES \"public\".\"b\"(\"x\")",
                Kind::Barrier,
            ),
            ("ALTER INDEX \"public\".\"a\" ATTACH PARTITION \"public\".\"b\"", Kind::OfIndex),
            ("ALTER TABLE \"public\".\"a\" CLUSTER ON \"i\"", Kind::OfIndex),
            ("CREATE TRIGGER \"t\" BEFORE INSERT ON \"public\".\"a\"", Kind::Barrier),
            ("COMMENT ON INDEX \"public\".\"a\" IS 'x'", Kind::Comment),
            ("SET default_tablespace = ''", Kind::Setting),
        ] {
            assert_eq!(kind(sql), expected, "{sql}");
        }
    }

    #[test]
    fn nothing_passes_what_it_may_need() {
        let text = "SET row_security = off;\nSET default_tablespace = 'fast';\n\
            CREATE INDEX \"i\" ON \"s\".\"a\" USING x;\nSET default_tablespace = '';\n\
            ALTER TABLE ONLY \"s\".\"a\" ADD CONSTRAINT \"f\" FOREIGN KEY (\"b\") REFERENCES \"s\".\"b\"(\"b\");\n\
            COMMENT ON CONSTRAINT \"f\" ON \"s\".\"a\" IS 'x';\n\
            ALTER TABLE ONLY \"s\".\"b\" ADD CONSTRAINT \"k\" PRIMARY KEY (\"b\");\n\
            CREATE MATERIALIZED VIEW \"s\".\"m\" AS SELECT 1;\nCREATE INDEX \"j\" ON \"s\".\"m\" USING x;\n";
        let read = AfterRows::read(text).unwrap();
        assert_eq!(read.preamble, ["SET row_security = off"]);
        let told: Vec<Vec<(&str, &str)>> = read
            .stages
            .iter()
            .map(|stage| stage.0.iter().map(|job| (&job.sql[..12], job.settings.as_str())).collect())
            .collect();
        let (fast, none) = ("SET default_tablespace = 'fast'", "SET default_tablespace = ''");
        assert_eq!(
            told,
            [
                vec![("CREATE INDEX", fast), ("ALTER TABLE ", none)],
                vec![("ALTER TABLE ", none)],
                vec![("COMMENT ON C", none)],
                vec![("CREATE MATER", none)],
                vec![("CREATE INDEX", none)],
            ]
        );
        // A setting in the middle that is not known.
        assert_eq!(AfterRows::read("CREATE TRIGGER x;\nSET x = 1;\n"), None);
    }

    #[test]
    fn tables_are_not_used_by_two_that_each_need_them_alone() {
        let job = |sql: &str, uses: &[(&str, Use)]| Job {
            sql: sql.into(),
            settings: String::new(),
            uses: uses.iter().map(|(table, how)| ((*table).to_owned(), *how)).collect(),
        };
        let mut progress = Queue {
            waiting: [
                job("key", &[("a", Use::Alone)]),
                job("index", &[("a", Use::Shared)]),
                job("index 2", &[("a", Use::Shared)]),
                job("own", &[("b", Use::Alone), ("b", Use::Alone)]),
            ]
            .into(),
            ..Queue::default()
        };
        let key = progress.take().unwrap();
        let own = progress.take().unwrap();
        assert_eq!((key.sql.as_str(), own.sql.as_str()), ("key", "own"));
        assert_eq!(progress.take(), None);
        progress.give_back(&own);
        progress.give_back(&key);
        assert_eq!(progress.take().unwrap().sql, "index");
        assert_eq!(progress.take().unwrap().sql, "index 2");
        assert!(progress.used["b"] == 0 && progress.waiting.is_empty());
    }
}
