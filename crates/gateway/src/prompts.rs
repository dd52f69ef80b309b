//! Stored prompts and replies: written beside the requests, sealed and without keys, deleted when their time is over;
//! shown and erased on request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use contract::{
    Clock, Context, Effect, Error, ErrorKind, Evidence, Outcome, Permit, Plan, Request, sha256_hex,
};
use jiff::{SignedDuration, Timestamp};
use ledger::{Ledger, NewEvent, Place, Row, Value, Write};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vault::{REDACTED, Vault};
use wire::Shown;
use wire::sse::Splitter;

use crate::config::AiConfig;
use crate::metrics::Metrics;
use crate::report::columns;
use crate::scan::{Detector, Leak, delta};
use crate::settings;
use crate::transcript::{Inbox, MARGIN_BYTES, TEXT_BYTES_MAX, Transcript, Transcripts};
use crate::usage::context;

/// Transcripts in one write.
const BATCH_MAX: usize = 32;
/// Rows that one write deletes at most.
const SWEPT_MAX: u64 = 10_000;
/// Longest private key in its frame.
const PEM_BYTES_MAX: usize = 32 << 10;
/// Rows of a list, unless told otherwise, and at most.
const LISTED: u32 = 50;
const LISTED_MAX: u32 = 1_000;

const PUT: &str = "INSERT INTO ai_prompts (project, id, at_us, until_us, route, key_name, person, format, status, ending, \
     prompt_bytes, reply_bytes, redactions, prompt, reply) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
     ON CONFLICT (project, id) DO NOTHING";
const SWEEP: &str = "DELETE FROM ai_prompts WHERE project = ? AND id IN \
     (SELECT id FROM ai_prompts WHERE project = ? AND until_us <= ? LIMIT ?)";
const SWEEP_ROUTE: &str = "DELETE FROM ai_prompts WHERE project = ? AND id IN \
     (SELECT id FROM ai_prompts WHERE project = ? AND route = ? AND at_us <= ? LIMIT ?)";
const LIST: &str = "SELECT id, at_us, until_us, route, key_name, person, status, ending, prompt_bytes, reply_bytes, \
     redactions FROM ai_prompts WHERE project = ? AND (? = '' OR route = ?) AND (? = '' OR key_name = ?) \
     AND (? = '' OR person = ?) ORDER BY at_us DESC, id DESC LIMIT ?";
const SHOW: &str = "SELECT * FROM ai_prompts WHERE project = ? AND id = ? AND until_us > ?";
const COUNT: &str = "SELECT COUNT(*) AS n FROM ai_prompts WHERE project = ? AND (? = '' OR id = ?) \
     AND (? = '' OR route = ?) AND (? = '' OR key_name = ?) AND (? = '' OR person = ?)";
const ERASE: &str = "DELETE FROM ai_prompts WHERE project = ? AND (? = '' OR id = ?) \
     AND (? = '' OR route = ?) AND (? = '' OR key_name = ?) AND (? = '' OR person = ?)";

/// Writes what requests hand on, in a task of its own.
pub struct PromptStore {
    transcripts: Transcripts,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl PromptStore {
    /// A store in this state file. Secrets of the vault are replaced in everything that it writes.
    pub fn open(ledger: Ledger, vault: Vault, clock: Arc<dyn Clock>, metrics: &Metrics) -> Self {
        let (transcripts, inbox) = Transcripts::channel(metrics.prompts.clone());
        let stop = CancellationToken::new();
        let writer =
            Writer { ledger, vault, clock, detector: Detector::new(), known: BTreeMap::new(), inbox };
        let task = tokio::spawn(writer.run(stop.clone()));
        Self { transcripts, stop, task: Mutex::new(Some(task)) }
    }

    /// Where requests hand their transcripts to.
    pub fn transcripts(&self) -> Transcripts {
        self.transcripts.clone()
    }

    /// Writes what waits and ends.
    pub async fn close(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && task.await.is_err()
        {
            tracing::error!("the writer of prompts ended in the middle");
        }
    }
}

struct Writer {
    ledger: Ledger,
    vault: Vault,
    clock: Arc<dyn Clock>,
    detector: Detector,
    /// The generation of secrets up to which each project's are known to the redactor.
    known: BTreeMap<Arc<str>, i64>,
    inbox: Inbox,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let count = tokio::select! {
                biased;
                count = self.inbox.queue.recv_many(&mut batch, BATCH_MAX) => count,
                () = stop.cancelled() => 0,
            };
            if count == 0 {
                return;
            }
            for transcript in &batch {
                self.inbox.taken(transcript);
            }
            let mut projects: BTreeMap<Arc<str>, Vec<Box<Transcript>>> = BTreeMap::new();
            for transcript in batch.drain(..) {
                projects.entry(Arc::clone(&transcript.project)).or_default().push(transcript);
            }
            for (project, transcripts) in projects {
                let written = self.write(&project, &transcripts).await;
                if let Err(error) = &written {
                    tracing::error!(%error, prompts = transcripts.len(), "prompts are not stored");
                }
                let outcome = if written.is_ok() { "stored" } else { "failed" };
                for transcript in &transcripts {
                    self.inbox.count(transcript, outcome);
                }
            }
        }
    }

    async fn write(&mut self, project: &Arc<str>, transcripts: &[Box<Transcript>]) -> Result<(), Error> {
        let ctx = context(project, &self.clock);
        // Without every secret at hand nothing is written: one of them could be in it.
        let generation = self.ledger.generation("secrets").await?;
        if self.known.get(project) != Some(&generation) {
            self.vault.visit(&ctx, |_, _, _| {}).await?;
            self.known.insert(Arc::clone(project), generation);
        }
        let mut write = Write::new().unsynced();
        for transcript in transcripts {
            write = write.exec(PUT, self.row(transcript));
        }
        self.ledger.write(&ctx, write).await.map(drop)
    }

    fn row(&self, transcript: &Transcript) -> Vec<Value> {
        let project = &*transcript.project;
        let (reply, reply_was_cut) = reply_text(transcript);
        let prompt = String::from_utf8_lossy(&transcript.prompt);
        let prompt_was_cut = transcript.prompt_bytes > transcript.prompt.len() as u64;
        let (prompt, in_prompt) = self.without_keys(&prompt, prompt_was_cut);
        let (reply, in_reply) = self.without_keys(&reply, reply_was_cut);
        let sealed = |column, text: &str| {
            self.ledger.seal(Place { table: "ai_prompts", project, key: &transcript.id, column }, text)
        };
        let until = until(transcript.at, transcript.retention_days);
        vec![
            project.into(),
            transcript.id.as_str().into(),
            transcript.at.into(),
            until.into(),
            (&*transcript.route).into(),
            (&*transcript.key_name).into(),
            transcript.person.as_deref().unwrap_or_default().into(),
            transcript.format.name().into(),
            i64::from(transcript.status).into(),
            transcript.ending.into(),
            transcript.prompt_bytes.into(),
            transcript.reply_bytes.into(),
            (in_prompt + in_reply).into(),
            sealed("prompt", &prompt),
            sealed("reply", &reply),
        ]
    }

    /// The text without secrets and keys, cut to what is stored, and how many were replaced.
    fn without_keys(&self, text: &str, was_cut: bool) -> (String, u64) {
        let redacted = self.vault.redactor().redact(text);
        let mut count = redacted.matches(REDACTED).count() - text.matches(REDACTED).count();
        let mut clean = String::with_capacity(redacted.len());
        let mut end = 0;
        for hit in self.detector.all(redacted.as_bytes()) {
            let range = match hit.leak {
                // What is found is the frame; the key is what follows.
                Leak::PrivateKey => pem(&redacted, hit.range),
                _ => hit.range,
            };
            if range.start < end || !redacted.is_char_boundary(range.start) {
                continue;
            }
            clean.push_str(&redacted[end..range.start]);
            clean.push_str(REDACTED);
            end = range.end;
            count += 1;
        }
        clean.push_str(&redacted[end..]);
        // What stands at a cut may be the first half of a key.
        let margin = if was_cut { MARGIN_BYTES } else { 0 };
        let most = TEXT_BYTES_MAX.min(clean.len().saturating_sub(margin));
        clean.truncate(clean.floor_char_boundary(most));
        (clean, count as u64)
    }
}

/// The whole of a private key, whose frame begins at `range`: to its end, or as long as it goes on.
fn pem(text: &str, range: Range<usize>) -> Range<usize> {
    let rest = &text.as_bytes()[range.end..];
    // Also where it stands in quotes, line by line, as in source code.
    let near = &rest[..rest.len().min(PEM_BYTES_MAX)];
    if let Some(at) = memchr::memmem::find(near, b"-----END ") {
        let end = memchr::memmem::find(&near[at + 9..], b"-----").map_or(at, |more| at + 9 + more + 5);
        return range.start..range.end + end;
    }
    // Base64, line breaks and their escapes, and the dashes and capitals of the frame's end.
    let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=\\\r\n -".contains(byte);
    let length = rest.iter().take_while(|byte| goes_on(byte)).count();
    range.start..range.end + length
}

/// Until when something is kept.
fn until(at: Timestamp, days: u32) -> Timestamp {
    at.saturating_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MAX)
}

/// The reply as one document, so that a key which came in several events is found; and whether its end is missing.
fn reply_text(transcript: &Transcript) -> (Cow<'_, str>, bool) {
    if !transcript.streaming {
        return (String::from_utf8_lossy(&transcript.reply), !transcript.has_all());
    }
    let created_s = u64::try_from(transcript.at.as_second()).unwrap_or(0);
    let shown = Shown { model: &transcript.asked_model, created_s, seed: 0 };
    let events = Bytes::copy_from_slice(&transcript.reply);
    if transcript.has_all()
        && let Ok(reply) = wire::events_as_reply(transcript.format, events.clone(), &shown, transcript.usage)
    {
        return (String::from_utf8_lossy(&reply).into_owned().into(), false);
    }
    // A stream that broke off, or one array: its texts, as far as they came.
    let mut text = String::new();
    let mut add = |data: &[u8]| {
        if let Some(piece) = delta(data)
            && let Ok(piece) =
                serde_json::from_str::<String>(&format!("\"{}\"", String::from_utf8_lossy(piece)))
        {
            text.push_str(&piece);
        }
    };
    let reply = transcript.reply.trim_ascii_start();
    if reply.starts_with(b"[") {
        let elements = reply.strip_suffix(b"]").unwrap_or(reply);
        for element in String::from_utf8_lossy(&elements[1..]).split(",\n") {
            add(element.as_bytes());
        }
    } else {
        let mut splitter = Splitter::new();
        splitter.push(events);
        while let Some(event) = splitter.next() {
            add(&event.data);
        }
    }
    (json!({ "text": text, "whole": false }).to_string().into(), !transcript.has_all())
}

/// Deletes what has had its time, in this project; says how many. A shorter time in the project file counts for what
/// is stored already, too.
///
/// # Errors
///
/// As the ledger's.
pub async fn sweep(ctx: &Context, ledger: &Ledger, config: &AiConfig) -> Result<u64, Error> {
    let now = ctx.now();
    let mut due =
        vec![(SWEEP, vec![ctx.project().into(), ctx.project().into(), now.into(), SWEPT_MAX.into()])];
    for (name, route) in &config.routes {
        let Some(store) = route.store_prompts else { continue };
        let oldest = now
            .saturating_sub(SignedDuration::from_hours(24 * i64::from(store.retention_days)))
            .unwrap_or(Timestamp::MIN);
        let parameters = vec![
            ctx.project().into(),
            ctx.project().into(),
            name.as_str().into(),
            oldest.into(),
            SWEPT_MAX.into(),
        ];
        due.push((SWEEP_ROUTE, parameters));
    }
    let mut deleted = 0;
    for (sql, parameters) in due {
        loop {
            let written = ledger.write(ctx, Write::new().exec(sql, parameters.clone()).unsynced()).await?;
            let rows = written.rows_changed.first().copied().unwrap_or(0);
            deleted += rows;
            if rows < SWEPT_MAX {
                break;
            }
        }
    }
    if deleted > 0 {
        let subject = format!("project:{}", ctx.project());
        let event = NewEvent::new("ai.prompts.expired", subject, json!({ "prompts": deleted }));
        ledger.append(ctx, event).await?;
    }
    Ok(deleted)
}

/// Lists stored prompts: when, by which key, how large; not what they say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListPrompts {
    /// Only those of this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Only those of this virtual key, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Only those of this person's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// At most so many, the newest first. Default: 50; at most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl Request for ListPrompts {
    const NAME: &'static str = "prompts.list";
    const SUMMARY: &'static str = "Stored prompts: when, by which key, until when; not what they say";
    const EXAMPLE: &'static str = "steward ai prompts list --route support";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Shows a stored prompt with its reply. In production this reads out personal data and needs Security's approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowPrompt {
    /// Id of the request, as in the header `steward-receipt` of its answer.
    pub id: String,
}

impl Request for ShowPrompt {
    const NAME: &'static str = "prompts.show";
    const SUMMARY: &'static str = "A stored prompt with its reply; in production with Security's approval";
    const EXAMPLE: &'static str = "steward ai prompts show req_01jd6w2x8h0000000000000000";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.prompt.read";
    const POSITIONAL: &'static [&'static str] = &["id"];
}

/// Erases stored prompts with their replies, for good: one, or all of a route, a key or a person. Needs Security's
/// approval.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErasePrompts {
    /// The one of this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// All of this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// All of this virtual key, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// All of this person's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
}

impl Request for ErasePrompts {
    const NAME: &'static str = "prompts.erase";
    const SUMMARY: &'static str = "Erase stored prompts for good; needs Security's approval";
    const EXAMPLE: &'static str = "steward ai prompts erase --person anna";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "compliance.erase";
    const POSITIONAL: &'static [&'static str] = &["id"];
}

impl ErasePrompts {
    fn parameters(&self, project: &str) -> Vec<Value> {
        let mut parameters = vec![project.into()];
        for wanted in [&self.id, &self.route, &self.key, &self.person] {
            let wanted = wanted.as_deref().unwrap_or_default();
            parameters.extend([wanted.into(), wanted.into()]);
        }
        parameters
    }

    /// What it is about, in words.
    fn words(&self) -> String {
        let of = [("", &self.id), ("route ", &self.route), ("key ", &self.key), ("person ", &self.person)];
        let named: Vec<String> =
            of.iter().filter_map(|(what, name)| Some(format!("{what}`{}`", name.as_ref()?))).collect();
        named.join(", ")
    }
}

async fn count(ctx: &Context, ledger: &Ledger, which: &ErasePrompts) -> Result<u64, Error> {
    let rows = ledger.query(COUNT, which.parameters(ctx.project())).await?;
    let count = rows.first().map(|row| row.get_i64("n")).transpose()?.unwrap_or(0);
    Ok(u64::try_from(count).unwrap_or(0))
}

fn facts(row: &Row) -> Result<serde_json::Value, Error> {
    Ok(json!({
        "id": row.get_text("id")?, "at": row.get_time("at_us")?, "until": row.get_time("until_us")?,
        "route": row.get_text("route")?, "key": row.get_text("key_name")?, "person": row.get_text("person")?,
        "status": row.get_i64("status")?, "ending": row.get_text("ending")?,
        "prompt_bytes": row.get_i64("prompt_bytes")?, "reply_bytes": row.get_i64("reply_bytes")?,
        "redactions": row.get_i64("redactions")?,
    }))
}

/// Answers `prompts.list`.
///
/// # Errors
///
/// As the ledger's.
pub async fn list(
    ctx: &Context,
    ledger: &Ledger,
    config: &AiConfig,
    request: &ListPrompts,
) -> Result<Outcome, Error> {
    let mut parameters: Vec<Value> = vec![ctx.project().into()];
    for wanted in [&request.route, &request.key, &request.person] {
        let wanted = wanted.as_deref().unwrap_or_default();
        parameters.extend([wanted.into(), wanted.into()]);
    }
    parameters.push(i64::from(request.limit.unwrap_or(LISTED).min(LISTED_MAX)).into());
    let rows = ledger.query(LIST, parameters).await?;
    let mut table = vec![
        ["request", "at", "until", "route", "key", "person", "status", "bytes", "redacted"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut listed = Vec::new();
    for row in &rows {
        let minute = |column| Ok::<_, Error>(row.get_time(column)?.strftime("%Y-%m-%d %H:%M").to_string());
        table.push(vec![
            row.get_text("id")?.to_owned(),
            minute("at_us")?,
            minute("until_us")?,
            row.get_text("route")?.to_owned(),
            row.get_text("key_name")?.to_owned(),
            row.get_text("person")?.to_owned(),
            row.get_i64("status")?.to_string(),
            format!("{}+{}", row.get_i64("prompt_bytes")?, row.get_i64("reply_bytes")?),
            row.get_i64("redactions")?.to_string(),
        ]);
        listed.push(facts(row)?);
    }
    let stored: Vec<_> = config
        .routes
        .iter()
        .filter_map(|(name, route)| {
            let store = route.store_prompts?;
            Some(json!({ "route": name, "retention_days": store.retention_days }))
        })
        .collect();
    let mut text = if rows.is_empty() { "no stored prompts\n".to_owned() } else { columns(&table) };
    if stored.is_empty() {
        text.push_str("no route stores prompts now\n");
    }
    let value = json!({ "prompts": listed, "routes": stored });
    let mut outcome = Outcome::new(value.clone(), text);
    let source = format!("project:{}", ctx.project());
    outcome.evidence.push(Evidence::new(&source, "prompts.list", value, ctx.now(), 0.0));
    Ok(outcome)
}

/// Answers `prompts.show`. The evidence holds the hash of what was shown and not the text, which would outlive its
/// retention there.
///
/// # Errors
///
/// `NotFound`: nothing is stored of this request. `Corrupt`: the row was changed.
pub async fn show(ctx: &Context, ledger: &Ledger, request: &ShowPrompt) -> Result<Outcome, Error> {
    let parameters = vec![ctx.project().into(), (&request.id).into(), ctx.now().into()];
    let rows = ledger.query(SHOW, parameters).await?;
    let row = rows.first().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "nothing is stored of this request")
            .with("id", &request.id)
            .hint("`steward ai prompts list` shows what is; a route stores with `store_prompts: { retention_days: 30 }`")
    })?;
    let open = |column| {
        let place = Place { table: "ai_prompts", project: ctx.project(), key: &request.id, column };
        Ok::<_, Error>(ledger.unseal(place, row)?.unwrap_or_default())
    };
    let (prompt, reply) = (open("prompt")?, open("reply")?);
    let mut value = facts(row)?;
    let mut proof = value.clone();
    proof["prompt_sha256"] = sha256_hex(prompt.as_bytes()).into();
    proof["reply_sha256"] = sha256_hex(reply.as_bytes()).into();
    let mut text = String::new();
    let said = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    writeln!(
        text,
        "{}  route `{}`, key `{}`, {} ({}), deleted from {} on\n\nprompt\n{prompt}\n\nreply\n{reply}",
        request.id,
        said("route"),
        said("key"),
        said("ending"),
        value["status"],
        said("until")
    )
    .expect("writing to a string does not fail");
    value["prompt"] = parsed(prompt);
    value["reply"] = parsed(reply);
    let mut outcome = Outcome::new(value, text);
    let (source, statement) = (format!("project:{}", ctx.project()), format!("prompts.show {}", request.id));
    outcome.evidence.push(Evidence::new(&source, &statement, proof, ctx.now(), 0.0));
    Ok(outcome)
}

/// The document, or the text of what is none, such as one that was cut. Its numbers stay as written only in the text.
fn parsed(text: String) -> serde_json::Value {
    serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text))
}

/// When the prompt of a request is deleted, if it is stored.
pub(crate) async fn kept_until(ctx: &Context, ledger: &Ledger, id: &str) -> Result<Option<Timestamp>, Error> {
    let rows = ledger.query(SHOW, vec![ctx.project().into(), id.into(), ctx.now().into()]).await?;
    rows.first().map(|row| row.get_time("until_us")).transpose()
}

/// Plans an erasure, and says how many prompts it is about at present. Those that come until it is carried out are
/// erased too: the plan names what is erased, not how much.
///
/// # Errors
///
/// `Invalid`: it does not say which. As the ledger's.
pub async fn plan_erase(
    ctx: &Context,
    ledger: &Ledger,
    request: &ErasePrompts,
) -> Result<(Plan, u64), Error> {
    let about = request.words();
    // An empty name, such as of a variable that is not set, would mean all.
    let is_vague = [&request.id, &request.route, &request.key, &request.person]
        .into_iter()
        .any(|name| name.as_deref().is_some_and(|name| name.trim().is_empty()));
    if about.is_empty() || is_vague {
        return Err(Error::new(ErrorKind::Invalid, "it does not say which prompts")
            .hint("name a request's id, or `--route`, `--key` or `--person`"));
    }
    let present = count(ctx, ledger, request).await?;
    let arguments = serde_json::to_value(request).expect("a request holds only JSON values");
    let summary = format!("erase the stored prompts and replies of {about}");
    let target = format!("project:{}", ctx.project());
    let mut plan = settings::plan(ctx, ErasePrompts::NAME, arguments, target, summary, String::new());
    for step in &mut plan.steps {
        step.destructive = true;
        step.reversible = false;
    }
    if present == 0 {
        plan.steps.clear();
    }
    Ok((plan, present))
}

/// Erases as planned.
///
/// # Errors
///
/// `Forbidden`: the permit is for another plan. As the ledger's.
pub async fn erase(
    ctx: &Context,
    ledger: &Ledger,
    permit: &Permit,
    plan: &Plan,
    request: &ErasePrompts,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let before = count(ctx, ledger, request).await?;
    let body = json!({ "erased": before, "of": request, "approval": permit.approval() });
    let write = Write::new().exec(ERASE, request.parameters(ctx.project())).event(NewEvent::new(
        "ai.prompts.erased",
        plan.target.clone(),
        body.clone(),
    ));
    ledger.write(ctx, write).await?;
    let left = count(ctx, ledger, request).await?;
    let text = format!("{before} stored prompts of {} are erased; {left} are left\n", request.words());
    Ok(Outcome::new(body, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_taken_whole_also_out_of_source_code() {
        let begin = "-----BEGIN PRIVATE KEY-----";
        let end = "-----END PRIVATE KEY-----";
        for between in [
            "\nMIIEv\nQIBAD\n",
            "\\n\" +\n  \"MIIEv\\n\" +\n  \"QIBAD\\n\" +\n  \"",
            "\nProc-Type: 4,ENCRYPTED\n\nMIIEv\n",
        ] {
            let text = format!("key: {begin}{between}{end}\nand more");
            let taken = pem(&text, 5..5 + begin.len());
            assert_eq!(&text[taken.end..], "\nand more", "{between}");
        }
        let cut = format!("{begin}\nMIIEv+QIBAD");
        assert_eq!(pem(&cut, 0..begin.len()).end, cut.len(), "cut off before its end");
    }
}
