//! Rows of usage: made when a request ends, kept in memory until the state file has them, written in batches.
//!
//! A batch is one transaction: its rows, what they add to the accounts, and one event in the chain with the hash over
//! the rows. Nothing that was let in is dropped: while the state file cannot be written, rows wait in memory up to a
//! bound, and beyond that nothing new is let in.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use contract::ai::FailureClass;
use contract::{Actor, Clock, Context, Error, sha256_hex};
use jiff::Timestamp;
use ledger::{Ledger, NewEvent, Row, Value, Write};
use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;
use wire::Usage;

use crate::cost::Cost;
use crate::job::remember;
use crate::meter::{Attempt, CacheDecision, Ending, RequestId, Settlement, What};
use crate::price::Tier;
use crate::usd::Usd;

/// Requests under way, and rows that wait to be written.
const OUTSTANDING_MAX: usize = 20_000;
/// The same while the state file cannot be written.
pub(crate) const OUTSTANDING_WHILE_FAILING_MAX: usize = 4_000;
/// Notes in one batch, of which a request that is written at once has two. What is written is in memory three times.
const BATCH_MAX: usize = 256;

const INSERT_ROW: &str = include_str!("sql/insert_usage.sql");
const ADD_SPENT: &str = "INSERT INTO ai_accounts (project, account, period_us, spent_usd_nanos) VALUES (?, ?, ?, ?) \
     ON CONFLICT (project, account, period_us) \
     DO UPDATE SET spent_usd_nanos = ai_accounts.spent_usd_nanos + excluded.spent_usd_nanos";
const ADD_SPENT_OF_SLICE: &str = "UPDATE ai_slices SET spent_usd_nanos = spent_usd_nanos + ? \
     WHERE project = ? AND account = ? AND period_us = ? AND holder = ?";
const INSERT_RESERVATION: &str = "INSERT INTO ai_reservations (id, project, holder, at_us, usd_nanos, body) \
     VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING";
const DELETE_RESERVATION: &str = "DELETE FROM ai_reservations WHERE id = ? AND holder = ?";

/// A row of `ai_usage`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UsageRow {
    pub id: String,
    pub project: Arc<str>,
    pub at: Timestamp,
    pub key_id: Arc<str>,
    pub key_name: Arc<str>,
    pub person: Arc<str>,
    pub route: Arc<str>,
    pub provider: Arc<str>,
    pub model: Arc<str>,
    pub operation: &'static str,
    pub streaming: bool,
    pub tier: Tier,
    pub usage: Usage,
    /// 0: counted by the provider; 1: estimated; 2: taken from what was set aside.
    pub estimated: i64,
    pub cost: Usd,
    pub price_row: String,
    pub price_table: Arc<str>,
    pub ending: &'static str,
    pub status: u16,
    pub cache: &'static str,
    pub first_byte_us: Option<i64>,
    pub took_us: i64,
    /// JSON: what the receipt says beside the columns.
    pub receipt: Arc<str>,
}

impl UsageRow {
    /// SHA-256 of everything but the batch, in hexadecimal: the columns in the order of their table, each text behind
    /// its length. Written so because it is made for every request: as JSON it took a fifth of the gateway's time.
    /// `buffer` is room to write in.
    pub(crate) fn hash(&self, buffer: &mut Vec<u8>) -> String {
        fn text(buffer: &mut Vec<u8>, text: &str) {
            buffer.extend_from_slice(&(text.len() as u64).to_le_bytes());
            buffer.extend_from_slice(text.as_bytes());
        }
        fn number(buffer: &mut Vec<u8>, number: impl Into<i128>) {
            buffer.extend_from_slice(&number.into().to_le_bytes());
        }
        buffer.clear();
        buffer.extend_from_slice(b"steward.ai_usage.2\0");
        text(buffer, &self.id);
        text(buffer, &self.project);
        number(buffer, self.at.as_microsecond());
        for name in [&self.key_id, &self.key_name, &self.person, &self.route, &self.provider, &self.model] {
            text(buffer, name);
        }
        text(buffer, self.operation);
        number(buffer, i64::from(self.streaming));
        text(buffer, self.tier.as_str());
        let Usage {
            input,
            cache_read,
            cache_write_5m,
            cache_write_1h,
            audio_input,
            output,
            reasoning,
            audio_output,
        } = self.usage;
        let tokens =
            [input, cache_read, cache_write_5m, cache_write_1h, audio_input, output, reasoning, audio_output];
        for count in tokens {
            number(buffer, count);
        }
        number(buffer, self.estimated);
        number(buffer, self.cost.nanos());
        text(buffer, &self.price_row);
        text(buffer, &self.price_table);
        text(buffer, self.ending);
        number(buffer, self.status);
        text(buffer, self.cache);
        // Beyond all times where there is none.
        number(buffer, self.first_byte_us.map_or(i128::MAX, i128::from));
        number(buffer, self.took_us);
        text(buffer, &self.receipt);
        sha256_hex(buffer)
    }

    /// What the receipt says beside the columns.
    pub(crate) fn details(&self) -> serde_json::Value {
        serde_json::from_str(&self.receipt).unwrap_or_default()
    }

    pub(crate) fn insert(&self, write: Write, batch: &Arc<str>, hash: String) -> Write {
        let tokens = |count: u64| Value::from(count);
        let micro = |value: Option<i64>| value.map_or(Value::Null, Value::Integer);
        write.exec(
            INSERT_ROW,
            vec![
                (&self.id).into(),
                (&self.project).into(),
                self.at.into(),
                (&self.key_id).into(),
                (&self.key_name).into(),
                (&self.person).into(),
                (&self.route).into(),
                (&self.provider).into(),
                (&self.model).into(),
                self.operation.into(),
                self.streaming.into(),
                self.tier.as_str().into(),
                tokens(self.usage.input),
                tokens(self.usage.cache_read),
                tokens(self.usage.cache_write_5m),
                tokens(self.usage.cache_write_1h),
                tokens(self.usage.audio_input),
                tokens(self.usage.output),
                tokens(self.usage.reasoning),
                tokens(self.usage.audio_output),
                self.estimated.into(),
                self.cost.nanos().into(),
                (&self.price_row).into(),
                (&self.price_table).into(),
                self.ending.into(),
                i64::from(self.status).into(),
                self.cache.into(),
                micro(self.first_byte_us),
                self.took_us.into(),
                (&self.receipt).into(),
                batch.into(),
                hash.into(),
            ],
        )
    }

    /// A row as the state file has it.
    pub(crate) fn read(row: &Row) -> Result<(UsageRow, String, String), Error> {
        let text = |name: &str| row.get_text(name).map(str::to_owned);
        let shared = |name: &str| row.get_text(name).map(Arc::<str>::from);
        let tokens = |name: &str| row.get_i64(name).map(|count| u64::try_from(count).unwrap_or(0));
        let usage = Usage {
            input: tokens("input")?,
            cache_read: tokens("cache_read")?,
            cache_write_5m: tokens("cache_write_5m")?,
            cache_write_1h: tokens("cache_write_1h")?,
            audio_input: tokens("audio_input")?,
            output: tokens("output")?,
            reasoning: tokens("reasoning")?,
            audio_output: tokens("audio_output")?,
        };
        let read = UsageRow {
            id: text("id")?,
            project: shared("project")?,
            at: row.get_time("at_us")?,
            key_id: shared("key_id")?,
            key_name: shared("key_name")?,
            person: shared("person")?,
            route: shared("route")?,
            provider: shared("provider")?,
            model: shared("model")?,
            operation: operation(row.get_text("operation")?),
            streaming: row.get_i64("streaming")? != 0,
            tier: Tier::parse(row.get_text("tier")?).unwrap_or_default(),
            usage,
            estimated: row.get_i64("estimated")?,
            cost: Usd::from_nanos(row.get_i64("cost_usd_nanos")?),
            price_row: text("price_row")?,
            price_table: shared("price_table")?,
            ending: ending(row.get_text("ending")?),
            status: u16::try_from(row.get_i64("status")?).unwrap_or_default(),
            cache: cache(row.get_text("cache")?),
            first_byte_us: row.get_opt_i64("first_byte_us")?,
            took_us: row.get_i64("took_us")?,
            receipt: shared("receipt")?,
        };
        Ok((read, text("batch")?, text("hash")?))
    }
}

/// The ending of a request whose process was killed.
pub(crate) const LOST: &str = "lost";

fn operation(word: &str) -> &'static str {
    [
        What::Generate,
        What::Embed,
        What::CountTokens,
        What::Files,
        What::Batches,
        What::FineTuning,
        What::Responses,
        What::PassThrough,
    ]
    .into_iter()
    .map(What::as_str)
    .find(|known| *known == word)
    .unwrap_or("other")
}

fn ending(word: &str) -> &'static str {
    [Ending::Complete, Ending::Truncated, Ending::Interrupted, Ending::Disconnected, Ending::Failed]
        .into_iter()
        .map(Ending::as_str)
        .find(|known| *known == word)
        .unwrap_or(LOST)
}

fn cache(word: &str) -> &'static str {
    [
        CacheDecision::Off,
        CacheDecision::Bypass,
        CacheDecision::Miss,
        CacheDecision::Hit,
        CacheDecision::Semantic,
    ]
    .into_iter()
    .map(CacheDecision::as_str)
    .find(|known| *known == word)
    .unwrap_or("off")
}

/// The root over the hashes of a batch's rows, in the order of the hashes.
pub(crate) fn root<'h>(hashes: impl Iterator<Item = &'h str>) -> String {
    let mut hashes: Vec<&str> = hashes.collect();
    hashes.sort_unstable();
    let mut all = String::new();
    for hash in hashes {
        all.push_str(hash);
        all.push('\n');
    }
    sha256_hex(all.as_bytes())
}

/// Whom a request is counted to, kept until it is written.
#[derive(Debug, Clone)]
pub(crate) struct Party {
    pub project: Arc<str>,
    pub key_id: Arc<str>,
    pub key_name: Arc<str>,
    pub person: Arc<str>,
}

/// A budget's account that a request draws on.
#[derive(Debug, Clone)]
pub(crate) struct Draw {
    pub account: Arc<str>,
    pub period_us: i64,
    pub usd_nanos: i64,
}

/// Something that the state file must learn.
pub(crate) enum Note {
    /// A request was let in.
    Opened {
        request: RequestId,
        party: Party,
        at: Timestamp,
        route: Arc<str>,
        provider: Arc<str>,
        model: Arc<str>,
        what: What,
        price_table: Arc<str>,
        draws: Vec<Draw>,
        bound: i64,
    },
    /// It ended.
    Done(Box<Done>),
    /// It ended before it was sent.
    Dropped { request: RequestId, project: Arc<str> },
}

/// A request that ended, with what each attempt cost.
pub(crate) struct Done {
    pub party: Party,
    pub settlement: Settlement,
    pub price_table: Arc<str>,
    pub billed: Vec<Billed>,
    /// What it adds to each account.
    pub draws: Vec<Draw>,
    pub bound: i64,
}

/// What one attempt cost.
#[derive(Debug, Clone)]
pub(crate) struct Billed {
    /// Which one; `None`: no attempt was made.
    pub attempt: Option<usize>,
    pub usage: Usage,
    pub estimated: bool,
    pub cost: Cost,
    pub price_row: String,
}

impl Done {
    /// What the provider that answered keeps.
    fn kept_there(&self) -> impl Iterator<Item = Thing> {
        let provider = self.settlement.served_by().map(|attempt| &attempt.target.provider.name);
        let things = provider.into_iter().flat_map(|provider| {
            self.settlement.kept_there.iter().map(move |(kind, id)| (provider, *kind, id))
        });
        things.map(|(provider, kind, id)| Thing {
            provider: Arc::clone(provider),
            kind,
            id: id.clone(),
            key_id: Arc::clone(&self.party.key_id),
            at: self.settlement.started,
        })
    }

    /// One row for each attempt that cost money, at least one for the request.
    fn rows(&self) -> Vec<UsageRow> {
        let settlement = &self.settlement;
        let receipt: Arc<str> = receipt(settlement, self.bound).into();
        let micros = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let last = self.billed.len().saturating_sub(1);
        let row = |(number, billed): (usize, &Billed)| {
            let attempt = billed.attempt.and_then(|at| settlement.attempts.get(at));
            let of = |text: fn(&Attempt) -> Arc<str>| attempt.map_or_else(|| Arc::from(""), text);
            // The row that stands for the request itself is the last one, and has its plain id.
            let id = settlement.request.to_string();
            let (id, ending) = if number == last {
                (id, settlement.ending.as_str())
            } else {
                (format!("{id}#{}", number + 1), Ending::Failed.as_str())
            };
            UsageRow {
                id,
                project: Arc::clone(&self.party.project),
                at: settlement.started,
                key_id: Arc::clone(&self.party.key_id),
                key_name: Arc::clone(&self.party.key_name),
                person: Arc::clone(&self.party.person),
                route: Arc::clone(&settlement.route.name),
                provider: of(|attempt| Arc::clone(&attempt.target.provider.name)),
                model: of(|attempt| Arc::clone(&attempt.target.model)),
                operation: settlement.what.as_str(),
                streaming: settlement.streaming,
                tier: billed.cost.tier,
                usage: billed.usage,
                estimated: i64::from(billed.estimated),
                cost: billed.cost.usd,
                price_row: billed.price_row.clone(),
                price_table: Arc::clone(&self.price_table),
                ending,
                status: settlement.status,
                cache: settlement.cache.as_str(),
                first_byte_us: settlement.first_byte.filter(|_| number == last).map(micros),
                took_us: micros(settlement.duration),
                receipt: if number == last {
                    Arc::clone(&receipt)
                } else {
                    json!({ "of": settlement.request.to_string() }).to_string().into()
                },
            }
        };
        self.billed.iter().enumerate().map(row).collect()
    }
}

/// What a receipt says beside the columns of its row.
#[derive(Serialize)]
struct Details<'s> {
    trace: Option<Traced>,
    asked_model: &'s str,
    reported_model: Option<&'s str>,
    service_tier: Option<&'s str>,
    attempts: Vec<Tried<'s>>,
    waited_ms: u64,
    delivered_bytes: u64,
    input_tokens_estimate: u64,
    clamped_max_tokens: Option<u64>,
    set_aside_usd_nanos: i64,
    request_bytes: u64,
    response_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    samples: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    like: Option<Like>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    embedding_failed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<String>,
}

/// Whose answer was given to other words.
#[derive(Serialize)]
struct Like {
    request: String,
    similarity_ten_thousandths: u16,
}

#[derive(Serialize)]
struct Traced {
    id: String,
    parent: String,
    span: String,
}

#[derive(Serialize)]
struct Tried<'s> {
    provider: &'s str,
    model: &'s str,
    key: &'s str,
    status: Option<u16>,
    failure: Option<FailureClass>,
    message: Option<&'s str>,
    began_ms: u64,
    took_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    instead_of: Option<InsteadOf<'s>>,
}

#[derive(Serialize)]
struct InsteadOf<'s> {
    model: &'s str,
    retired: jiff::civil::Date,
}

impl<'s> Tried<'s> {
    fn new(attempt: &'s Attempt) -> Self {
        let retired = attempt.target.retired.as_ref();
        Self {
            provider: &attempt.target.provider.name,
            model: &attempt.target.model,
            key: &attempt.key,
            status: attempt.status,
            failure: attempt.failure,
            message: attempt.message.as_deref(),
            began_ms: millis(attempt.began),
            took_ms: millis(attempt.took),
            instead_of: retired.map(|retired| InsteadOf { model: &retired.model, retired: retired.since }),
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn receipt(settlement: &Settlement, bound: i64) -> String {
    let note = settlement.cache_note.as_ref();
    let details = Details {
        trace: settlement.trace.map(|trace| Traced {
            id: format!("{:032x}", trace.id),
            parent: format!("{:016x}", trace.parent),
            span: format!("{:016x}", trace.span),
        }),
        asked_model: &settlement.asked_model,
        reported_model: settlement.reported_model.as_deref(),
        service_tier: settlement.service_tier.as_deref(),
        attempts: settlement.attempts.iter().map(Tried::new).collect(),
        waited_ms: millis(settlement.waited),
        delivered_bytes: settlement.delivered_bytes,
        input_tokens_estimate: settlement.input_tokens_estimate,
        clamped_max_tokens: settlement.clamped_max_tokens,
        set_aside_usd_nanos: bound,
        request_bytes: settlement.request_bytes,
        response_bytes: settlement.response_bytes,
        question: note.and_then(|note| note.question).map(|question| format!("{question:032x}")),
        samples: note.is_some_and(|note| note.samples),
        like: note
            .and_then(|note| note.like)
            .map(|like| Like { request: like.of.to_string(), similarity_ten_thousandths: like.similarity }),
        embedding_failed: note.is_some_and(|note| note.embedding_failed),
        checks: note.and_then(|note| note.checks).map(|checks| checks.to_string()),
    };
    serde_json::to_string(&details).expect("details are JSON")
}

/// What waits to be written.
#[derive(Default)]
pub(crate) struct Outbox {
    notes: Mutex<Vec<Note>>,
    /// Some were taken and are being written.
    writing: AtomicBool,
    /// Requests under way and rows not yet written.
    outstanding: AtomicUsize,
    failing: Mutex<Option<Error>>,
    pub wake: Notify,
}

impl Outbox {
    /// Makes room for one request, which [`Outbox::push`] of its end takes.
    ///
    /// # Errors
    ///
    /// Why the state file cannot be written, if that is why there is no room.
    pub(crate) fn enter(&self) -> Result<(), Option<Error>> {
        let room = |most: usize| {
            self.outstanding
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| (used < most).then_some(used + 1))
                .is_ok()
        };
        // One atomic look in the usual case; the lock only when there is much to do.
        if self.outstanding.load(Ordering::Relaxed) < OUTSTANDING_WHILE_FAILING_MAX
            && room(OUTSTANDING_WHILE_FAILING_MAX)
        {
            return Ok(());
        }
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if failing.is_none() && room(OUTSTANDING_MAX) {
            return Ok(());
        }
        Err(failing)
    }

    /// Gives room back without a note.
    pub(crate) fn leave(&self) {
        self.outstanding.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn push(&self, note: Note) {
        let first = {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            notes.push(note);
            notes.len() == 1
        };
        if first {
            self.wake.notify_one();
        }
    }

    /// Whether as much waits as is written at once.
    pub(crate) fn has_a_batch(&self) -> bool {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).len() >= BATCH_MAX
    }

    /// Whether all that was handed over is written.
    pub(crate) fn is_empty(&self) -> bool {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.is_empty() && !self.writing.load(Ordering::Acquire)
    }

    /// Requests under way and rows not yet written.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Acquire)
    }

    /// Why nothing can be written now.
    pub(crate) fn failing(&self) -> Option<Error> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self) -> Vec<Note> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        self.writing.store(!notes.is_empty(), Ordering::Release);
        if notes.len() <= BATCH_MAX {
            // With its room: that of the most that ever waited would be held for good.
            return std::mem::take(&mut *notes);
        }
        let rest = notes.split_off(BATCH_MAX);
        std::mem::replace(&mut *notes, rest)
    }

    fn put_back(&self, mut unwritten: Vec<Note>) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        unwritten.append(&mut notes);
        *notes = unwritten;
        self.writing.store(false, Ordering::Release);
    }

    /// Writes what waits, up to a batch; answers whether there is more.
    ///
    /// # Errors
    ///
    /// As the ledger's; everything is kept for another attempt.
    pub(crate) async fn write(
        &self,
        ledger: &Ledger,
        holder: &str,
        clock: &Arc<dyn Clock>,
    ) -> Result<bool, Error> {
        let notes = self.take();
        if notes.is_empty() {
            return Ok(false);
        }
        let result = write_notes(ledger, holder, clock, &notes).await;
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                *failing = None;
                drop(failing);
                let ended = notes.iter().filter(|note| !matches!(note, Note::Opened { .. })).count();
                self.outstanding.fetch_sub(ended, Ordering::AcqRel);
                self.writing.store(false, Ordering::Release);
                Ok(!self.is_empty())
            }
            Err(error) => {
                if failing.is_none() {
                    tracing::error!(%error, "usage of AI calls cannot be written; it is kept");
                }
                *failing = Some(error.clone());
                drop(failing);
                self.put_back(notes);
                Err(error)
            }
        }
    }
}

async fn write_notes(
    ledger: &Ledger,
    holder: &str,
    clock: &Arc<dyn Clock>,
    notes: &[Note],
) -> Result<(), Error> {
    // What begins and ends within one batch needs no reservation in the file.
    let ended: HashSet<RequestId> = notes
        .iter()
        .filter_map(|note| match note {
            Note::Done(done) => Some(done.settlement.request),
            Note::Dropped { request, .. } => Some(*request),
            Note::Opened { .. } => None,
        })
        .collect();
    let opened: HashSet<RequestId> = notes
        .iter()
        .filter_map(|note| if let Note::Opened { request, .. } = note { Some(*request) } else { None })
        .collect();
    let mut projects: BTreeMap<Arc<str>, Batch> = BTreeMap::new();
    for note in notes {
        match note {
            Note::Opened { request, party, at, .. } if !ended.contains(request) => {
                let batch = projects.entry(Arc::clone(&party.project)).or_default();
                let body = open_body(note);
                let amount = if let Note::Opened { bound, .. } = note { *bound } else { 0 };
                batch.opened.push((request.to_string(), *at, amount, body));
            }
            Note::Opened { .. } => {}
            Note::Dropped { request, project } => {
                if !opened.contains(request) {
                    projects.entry(Arc::clone(project)).or_default().closed.push(request.to_string());
                }
            }
            Note::Done(done) => {
                let batch = projects.entry(Arc::clone(&done.party.project)).or_default();
                if !opened.contains(&done.settlement.request) {
                    batch.closed.push(done.settlement.request.to_string());
                }
                batch.rows.extend(done.rows());
                batch.kept_there.extend(done.kept_there());
                for draw in &done.draws {
                    *batch.spent.entry((Arc::clone(&draw.account), draw.period_us)).or_default() +=
                        draw.usd_nanos;
                }
            }
        }
    }
    for (project, batch) in projects {
        batch.write(ledger, &project, holder, clock).await?;
    }
    Ok(())
}

fn open_body(note: &Note) -> String {
    let Note::Opened { party, route, provider, model, what, price_table, draws, .. } = note else {
        return String::new();
    };
    let draws: Vec<_> =
        draws.iter().map(|draw| json!([&*draw.account, draw.period_us, draw.usd_nanos])).collect();
    json!({
        "key_id": &*party.key_id, "key_name": &*party.key_name, "person": &*party.person, "route": &**route,
        "provider": &**provider, "model": &**model, "operation": what.as_str(),
        "price_table": &**price_table, "draws": draws,
    })
    .to_string()
}

/// Something that a provider keeps for a project.
struct Thing {
    provider: Arc<str>,
    kind: &'static str,
    id: Box<str>,
    key_id: Arc<str>,
    at: Timestamp,
}

#[derive(Default)]
struct Batch {
    opened: Vec<(String, Timestamp, i64, String)>,
    closed: Vec<String>,
    rows: Vec<UsageRow>,
    kept_there: Vec<Thing>,
    spent: BTreeMap<(Arc<str>, i64), i64>,
}

impl Batch {
    async fn write(
        self,
        ledger: &Ledger,
        project: &str,
        holder: &str,
        clock: &Arc<dyn Clock>,
    ) -> Result<(), Error> {
        let mut write = Write::new().unsynced();
        for (id, at, amount, body) in self.opened {
            write = write.exec(
                INSERT_RESERVATION,
                vec![id.into(), project.into(), holder.into(), at.into(), amount.into(), body.into()],
            );
        }
        for id in self.closed {
            write = write.exec(DELETE_RESERVATION, vec![id.into(), holder.into()]);
        }
        write = write_rows(write, project, &self.rows);
        for Thing { provider, kind, id, key_id, at } in &self.kept_there {
            write = remember(write, project, provider, kind, std::iter::once(&**id), key_id, *at);
        }
        for ((account, period_us), spent) in self.spent {
            write = spend(write, project, &account, period_us, spent);
            write = write.exec(
                ADD_SPENT_OF_SLICE,
                vec![spent.into(), project.into(), (&*account).into(), period_us.into(), holder.into()],
            );
        }
        ledger.write(&context(project, clock), write).await.map(drop)
    }
}

/// Adds rows and the event with the hash over them.
pub(crate) fn write_rows(mut write: Write, project: &str, rows: &[UsageRow]) -> Write {
    if rows.is_empty() {
        return write;
    }
    let mut buffer = Vec::new();
    let hashes: Vec<String> = rows.iter().map(|row| row.hash(&mut buffer)).collect();
    let root = root(hashes.iter().map(String::as_str));
    let batch: Arc<str> = format!("ub_{}_{}", rows[0].id.trim_start_matches("req_"), &root[..8]).into();
    for (row, hash) in rows.iter().zip(hashes) {
        write = row.insert(write, &batch, hash);
    }
    let cost: i128 = rows.iter().map(|row| i128::from(row.cost.nanos())).sum();
    let body = json!({
        "batch": &*batch, "root": root, "rows": rows.len(), "first": rows[0].id, "last": rows[rows.len() - 1].id,
        "cost_usd_nanos": i64::try_from(cost).unwrap_or(i64::MAX),
    });
    write.event(NewEvent::new("ai.usage", format!("project:{project}"), body))
}

/// Adds to what was spent of an account.
pub(crate) fn spend(write: Write, project: &str, account: &str, period_us: i64, spent: i64) -> Write {
    write.exec(ADD_SPENT, vec![project.into(), account.into(), period_us.into(), spent.into()])
}

/// Steward's own context in a project.
pub(crate) fn context(project: &str, clock: &Arc<dyn Clock>) -> Context {
    Context::new(project, Actor::system()).with_clock(Arc::clone(clock))
}
