//! Replies that outlive the process: the second tier of the cache, in the state file, sealed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use contract::{Actor, Context, Error, ErrorKind};
use jiff::Timestamp;
use ledger::{Ledger, Place, Row, Value, Write};
use tokio::sync::Semaphore;
use wire::Format;

use crate::cache::{Kept, Key};
use crate::meter::RequestId;

/// Replies that are being written; further ones stay in memory alone.
const WRITING_MAX: usize = 64;
/// Every so many writes, what has had its time is deleted.
const SWEEP_EVERY: u64 = 256;
/// Rows that one sweep deletes at most.
const SWEPT_MAX: i64 = 1_000;

const FIND: &str =
    "SELECT format, body, usage, made_by, until_us FROM ai_cache WHERE project = ? AND question = ?";
const PUT: &str = "INSERT INTO ai_cache (project, question, format, body, usage, made_by, until_us) \
                   VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (project, question) DO UPDATE SET format = excluded.format, \
                   body = excluded.body, usage = excluded.usage, made_by = excluded.made_by, until_us = excluded.until_us";
const CHECKED: &str = "INSERT INTO ai_cache_checks (project, id, of, at_us, route, similarity, agrees) \
                       VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (project, id) DO NOTHING";
const SWEEP: &str = "DELETE FROM ai_cache WHERE (project, question) IN \
                     (SELECT project, question FROM ai_cache WHERE until_us <= ? LIMIT ?)";

/// Replies in the state file.
pub(crate) struct Shelf {
    ledger: Ledger,
    writing: Arc<Semaphore>,
    writes: AtomicU64,
}

impl Shelf {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger, writing: Arc::new(Semaphore::new(WRITING_MAX)), writes: AtomicU64::new(0) }
    }

    /// The reply, if it is there and still good. What cannot be read is as good as not there.
    pub(crate) async fn find(&self, project: &str, key: Key, now: SystemTime) -> Option<Kept> {
        let question = key.to_string();
        let rows = self.ledger.glance(FIND, vec![project.into(), question.as_str().into()]).await;
        let read = |row: &Row| self.read(project, &question, row);
        match rows.and_then(|rows| rows.first().map(read).transpose()) {
            Ok(kept) => kept.filter(|kept| kept.until > now),
            Err(error) => {
                tracing::warn!(%error, "a reply in the cache cannot be read");
                None
            }
        }
    }

    fn read(&self, project: &str, question: &str, row: &Row) -> Result<Kept, Error> {
        let damaged = || Error::new(ErrorKind::Corrupt, "a reply in the cache is damaged");
        let name = row.get_text("format")?;
        let format = Format::ALL.into_iter().find(|format| format.name() == name).ok_or_else(damaged)?;
        let body = self.ledger.unseal(place(project, question), row)?.ok_or_else(damaged)?;
        let until = u64::try_from(row.get_i64("until_us")?).map_err(|_| damaged())?;
        Ok(Kept {
            format,
            body: body.into_bytes().into(),
            usage: row.get_json("usage")?,
            made_by: row.get_text("made_by")?.to_owned(),
            until: UNIX_EPOCH + Duration::from_micros(until),
        })
    }

    /// Writes a reply in the background; not at all when too many are being written.
    pub(crate) fn put(&self, project: &str, key: Key, kept: &Kept, now: SystemTime) {
        let Ok(permit) = Arc::clone(&self.writing).try_acquire_owned() else { return };
        // Replies are JSON, which is text.
        let Ok(body) = std::str::from_utf8(&kept.body) else { return };
        let question = key.to_string();
        let sealed = self.ledger.seal(place(project, &question), body);
        let usage = serde_json::to_string(&kept.usage).expect("usage is numbers");
        let values: Vec<Value> = vec![
            project.into(),
            question.as_str().into(),
            kept.format.name().into(),
            sealed,
            usage.as_str().into(),
            kept.made_by.as_str().into(),
            micros(kept.until).into(),
        ];
        let mut write = Write::new().exec(PUT, values).unsynced();
        if self.writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP_EVERY) {
            write = write.exec(SWEEP, vec![micros(now).into(), SWEPT_MAX.into()]);
        }
        let (ledger, ctx) = (self.ledger.clone(), Context::new(project, Actor::system()));
        tokio::spawn(async move {
            if let Err(error) = ledger.write(&ctx, write).await {
                tracing::warn!(%error, "a reply is not kept beyond this process");
            }
            drop(permit);
        });
    }
}

impl Shelf {
    /// Records whether an answer to another wording agrees with a fresh one.
    pub(crate) async fn checked(&self, check: &Check<'_>) -> Result<(), Error> {
        let ctx = Context::new(check.project, Actor::system());
        let values: Vec<Value> = vec![
            check.project.into(),
            check.id.to_string().into(),
            check.of.to_string().into(),
            check.at.into(),
            check.route.into(),
            i64::from(check.similarity).into(),
            check.agrees.into(),
        ];
        self.ledger.write(&ctx, Write::new().exec(CHECKED, values).unsynced()).await.map(drop)
    }
}

/// An answer to another wording, asked for once more.
pub(crate) struct Check<'a> {
    pub(crate) project: &'a str,
    pub(crate) route: &'a str,
    pub(crate) id: RequestId,
    pub(crate) of: RequestId,
    pub(crate) at: Timestamp,
    pub(crate) similarity: u16,
    pub(crate) agrees: bool,
}

fn place<'a>(project: &'a str, question: &'a str) -> Place<'a> {
    Place { table: "ai_cache", project, key: question, column: "body" }
}

fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Tenant, key};
    use ledger::{Keys, Options};
    use secrecy::SecretBox;
    use wire::Usage;

    async fn open(folder: &std::path::Path) -> Ledger {
        let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
        Ledger::open(&folder.join("state.db"), keys, Options::new(folder.join("audit.head"))).await.unwrap()
    }

    #[tokio::test]
    async fn replies_outlive_the_process_and_lie_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let tenant = Tenant {
            project: "shop",
            owner: None,
            route: "fast",
            targets: b"openai/gpt-5-mini",
            variant: b"",
        };
        let question = key(tenant, Format::Chat, br#"{"temperature":0}"#, false).unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let kept = Kept {
            format: Format::Chat,
            body: bytes::Bytes::from_static(br#"{"choices":"marmalade"}"#),
            usage: Usage { input: 3, output: 5, ..Usage::default() },
            made_by: "openai/gpt-5-mini".into(),
            until: now + Duration::from_mins(10),
        };
        let ledger = open(folder.path()).await;
        let shelf = Shelf::new(ledger.clone());
        assert_eq!(shelf.find("shop", question, now).await, None);
        shelf.put("shop", question, &kept, now);
        // All permits are back when nothing is being written any more.
        drop(shelf.writing.acquire_many(u32::try_from(WRITING_MAX).unwrap()).await.unwrap());
        drop(shelf);
        ledger.close().await.unwrap();

        let ledger = open(folder.path()).await;
        let shelf = Shelf::new(ledger.clone());
        assert_eq!(shelf.find("shop", question, now).await, Some(kept.clone()));
        assert_eq!(shelf.find("bank", question, now).await, None);
        assert_eq!(shelf.find("shop", question, kept.until).await, None);
        let other = key(tenant, Format::Chat, br#"{"temperature":0.0}"#, false).unwrap();
        assert_eq!(shelf.find("shop", other, now).await, None);
        ledger.close().await.unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(9).any(|window| window == b"marmalade"));
        }
    }
}
