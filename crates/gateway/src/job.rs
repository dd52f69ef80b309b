//! Work at a provider that takes hours: let in against the budgets, held across restarts, settled when it has ended,
//! whether somebody asks for it or not.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use contract::ai::FailureClass;
use contract::{Clock, Error, ErrorKind, Severity, Trigger};
use futures::StreamExt;
use http::header::HeaderMap;
use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use ledger::{Ledger, NewEvent, Row, Write};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::accounts::{Accounts, Alarm};
use crate::answer::Answer;
use crate::attempt::read;
use crate::budget::Who;
use crate::config::Enforce;
use crate::hold::{self, Charge, Draw};
use crate::job_tally::{Answers, Counted, Requests, Training, TrainingAsk, Wrong, trained, unique};
use crate::job_word::{self, Kind, Wanted, Word};
use crate::keeper;
use crate::key::GENERATION;
use crate::meter::{Ending, Refusal, RequestId, Reservation};
use crate::price::{Model, Tier};
use crate::remote::{Failed, OBJECT_BYTES_MAX, Remote};
use crate::table::{Grant, OpenProvider, Project, Table, Tuned};
use crate::usage::{LOST, UsageRow, context, write_rows};
use crate::usd::Usd;

/// Largest file of requests or examples that is read to know what it may cost, in bytes.
/// Source: OpenAI API reference: 200 MB for batches, 512 MB for any file.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// How long a provider may take to make a job.
const CREATE_WITHIN: Duration = Duration::from_mins(2);
/// How long a provider may take to say how a job stands.
const LOOK_WITHIN: Duration = Duration::from_secs(30);
/// The provider is asked for a job that is this many times older than the last look.
const LOOK_PART: i64 = 20;
/// Shortest and longest time between looks, in microseconds.
const LOOK_US_MIN: i64 = 15_000_000;
const LOOK_US_MAX: i64 = 300_000_000;
/// Time between looks at which jobs are due, in microseconds: a daemon without any must not feel them.
const QUIET_US: i64 = 5_000_000;
/// A job of a process that is gone, or whose making is as old as this, is not known to be made.
const MAKING_US_MAX: i64 = 3_600_000_000;
/// Jobs that the provider is asked for at the same time, and in one round.
const LOOKS_AT_ONCE: usize = 8;
const LOOKS_MAX: i64 = 500;
/// A job that the provider has not known for so long does not come back, in microseconds.
const MISSING_US_MAX: i64 = 24 * 3_600_000_000;
/// Jobs of one provider that are settled at the same time: their answers may be large.
const SETTLING_MAX: usize = 8;
/// How long a response that is not known is looked for, while something waits to be written.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);
/// How long one waits for a job to be settled, which goes on without.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

const INSERT: &str = "INSERT INTO ai_jobs (id, project, kind, provider, remote_id, state, status, holder, made_us, \
     looked_us, set_aside_usd_nanos, base_model, body) VALUES (?, ?, ?, ?, '', 'creating', '', ?, ?, ?, ?, ?, ?)";
const MADE: &str = "UPDATE ai_jobs SET state = 'open', remote_id = ?, status = ?, looked_us = ? WHERE id = ? AND state = 'creating'";
const LOOKED: &str =
    "UPDATE ai_jobs SET status = ?, looked_us = ?, problem = ?, body = ? WHERE id = ? AND state = 'open'";
const SETTLE: &str = "UPDATE ai_jobs SET state = 'settled', status = ?, settled_us = ?, cost_usd_nanos = ?, \
     tuned_model = ?, problem = ? WHERE id = ? AND state IN ('creating', 'open')";
const REFUSE: &str = "UPDATE ai_jobs SET state = 'refused', settled_us = ?, cost_usd_nanos = 0, problem = ? \
     WHERE id = ? AND state = 'creating'";
const REMEMBER: &str = "INSERT INTO ai_things (project, provider, remote_id, kind, key_id, made_us) \
     VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (project, provider, remote_id) DO NOTHING";

/// What a job's row says beside its columns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Body {
    pub key_id: String,
    pub key_name: String,
    pub person: String,
    pub route: String,
    /// The provider's kind, such as `openai`.
    #[serde(default)]
    pub provider_kind: String,
    /// What a batch was made for, such as `/v1/responses`.
    pub endpoint: String,
    pub price_table: String,
    /// Requests of a batch, examples of a training file.
    pub requests: u64,
    /// Passes over a training file.
    pub epochs: u64,
    pub charges: Vec<Charge>,
    pub draws: Vec<Draw>,
    /// Since when the provider has not known it, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_us: Option<i64>,
}

impl Body {
    fn text(&self) -> String {
        serde_json::to_string(self).expect("a job's body holds only JSON values")
    }
}

/// A job as the state file has it.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub id: String,
    pub project: String,
    pub kind: Kind,
    pub provider: String,
    pub remote_id: String,
    pub state: String,
    pub status: String,
    pub holder: String,
    pub made: Timestamp,
    pub looked_us: i64,
    pub settled: Option<Timestamp>,
    pub set_aside: i64,
    pub cost: Option<i64>,
    pub base_model: Option<String>,
    pub tuned_model: Option<String>,
    pub problem: Option<String>,
    pub body: Body,
}

impl Job {
    pub(crate) fn read(row: &Row) -> Result<Self, Error> {
        let text = |name: &str| row.get_text(name).map(str::to_owned);
        let opt = |name: &str| row.get_opt_text(name).map(|text| text.map(str::to_owned));
        Ok(Self {
            id: text("id")?,
            project: text("project")?,
            kind: Kind::parse(row.get_text("kind")?)
                .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a job of the AI gateway has no known kind"))?,
            provider: text("provider")?,
            remote_id: text("remote_id")?,
            state: text("state")?,
            status: text("status")?,
            holder: text("holder")?,
            made: row.get_time("made_us")?,
            looked_us: row.get_i64("looked_us")?,
            settled: row.get_opt_time("settled_us")?,
            set_aside: row.get_i64("set_aside_usd_nanos")?,
            cost: row.get_opt_i64("cost_usd_nanos")?,
            base_model: opt("base_model")?,
            tuned_model: opt("tuned_model")?,
            problem: opt("problem")?,
            body: row.get_json("body")?,
        })
    }

    /// Whether the provider is to be asked again.
    fn is_due(&self, now: Timestamp) -> bool {
        let now = now.as_microsecond();
        let age = now.saturating_sub(self.made.as_microsecond());
        now.saturating_sub(self.looked_us) >= (age / LOOK_PART).clamp(LOOK_US_MIN, LOOK_US_MAX)
    }
}

/// What training has made, in all projects of a state.
///
/// # Errors
///
/// As the ledger's.
pub async fn tuned(ledger: &Ledger) -> Result<Vec<Tuned>, Error> {
    let rows = ledger
        .query(
            "SELECT project, provider, tuned_model, base_model FROM ai_jobs \
             WHERE tuned_model IS NOT NULL ORDER BY made_us",
            Vec::new(),
        )
        .await?;
    let read = |row: &Row| {
        Ok(Tuned {
            project: row.get_text("project")?.to_owned(),
            provider: row.get_text("provider")?.to_owned(),
            model: row.get_text("tuned_model")?.to_owned(),
            base: row.get_opt_text("base_model")?.unwrap_or_default().to_owned(),
        })
    };
    rows.iter().map(read).collect()
}

/// Batches and training of all projects of a daemon.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    ledger: Ledger,
    accounts: Accounts,
    clock: Arc<dyn Clock>,
    /// What goes on though its client has left.
    tasks: TaskTracker,
    looking: AtomicBool,
    /// Until then nobody looks which jobs are due.
    quiet_until_us: AtomicI64,
    /// Jobs that are being settled just now, with project and provider.
    settling: Mutex<HashMap<String, (String, String)>>,
}

/// A job that a client wants made.
pub(crate) struct Creation {
    pub kind: Kind,
    pub request: RequestId,
    pub grant: Arc<Grant>,
    pub provider: Arc<OpenProvider>,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub now: Timestamp,
    /// What the request itself takes of its key's limits.
    pub reservation: Reservation,
    /// Makes the client's answer of the provider's.
    pub answer: MakeAnswer,
}

/// Called once the job is made, though its client may have left.
pub(crate) type MakeAnswer = Box<dyn FnOnce(StatusCode, &HeaderMap, Bytes) -> Response<Answer> + Send>;

/// What became of it.
pub(crate) enum Created {
    /// It is under way; what it costs is recorded when it ends.
    Made(Response<Answer>),
    /// It is not: by our own judgement.
    Refused(Box<Refusal>, Reservation),
    Wrong(Wrong, Reservation),
    Foreign(&'static str, Reservation),
    /// The provider did not make it, or nobody knows.
    Failed(Box<Failed>, Reservation),
}

impl From<Box<Failed>> for Stopped {
    fn from(failed: Box<Failed>) -> Self {
        Self::Failed(failed)
    }
}

impl From<Wrong> for Stopped {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}

/// Why a creation stops before anything is sent.
enum Stopped {
    Wrong(Wrong),
    Foreign(&'static str),
    Failed(Box<Failed>),
    Broken(Error),
}

/// What a creation came to before it is sent.
struct Reckoned {
    charges: Vec<Charge>,
    requests: u64,
    epochs: u64,
    endpoint: String,
    base: Option<String>,
}

impl Jobs {
    /// Jobs in this state file, paid from these accounts.
    pub fn new(ledger: Ledger, accounts: Accounts, clock: Arc<dyn Clock>) -> Self {
        let inner = Inner {
            ledger,
            accounts,
            clock,
            tasks: TaskTracker::new(),
            looking: AtomicBool::new(false),
            quiet_until_us: AtomicI64::new(0),
            settling: Mutex::default(),
        };
        Self(Arc::new(inner))
    }

    /// Waits for what is being made or settled.
    pub async fn close(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Whether this project made all of these files and jobs.
    pub(crate) async fn owns(&self, project: &str, provider: &str, ids: &[&str]) -> Result<bool, Error> {
        for id in ids {
            let rows = self.0.ledger.glance(
                "SELECT kind FROM ai_things WHERE project = ? AND provider = ? AND remote_id = ?",
                vec![project.into(), provider.into(), (*id).into()],
            );
            if rows.await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first of these that belongs to another project and not to this one.
    pub(crate) async fn foreign<'n>(
        &self,
        project: &str,
        names: &'n [wire::Named],
    ) -> Result<Option<&'n wire::Named>, Error> {
        for named in names {
            let known = self
                .0
                .ledger
                .glance("SELECT project FROM ai_things WHERE remote_id = ?", vec![named.id.as_str().into()]);
            let known = known.await?;
            let is_own = |row: &Row| row.get_text("project").is_ok_and(|owner| owner == project);
            if !known.is_empty() && !known.iter().any(is_own) {
                return Ok(Some(named));
            }
        }
        Ok(None)
    }

    /// The provider that keeps this response of the project, and the key that it was made with. One that was made just now
    /// is waited for until it is written.
    pub(crate) async fn response(
        &self,
        project: &str,
        id: &str,
    ) -> Result<Option<(Box<str>, Box<str>)>, Error> {
        let deadline = tokio::time::Instant::now() + WRITTEN_WITHIN;
        loop {
            let all_written = self.0.accounts.outstanding() == 0;
            let rows = self.0.ledger.glance(
                "SELECT provider, key_id FROM ai_things WHERE remote_id = ? AND project = ? AND kind = 'response'",
                vec![id.into(), project.into()],
            );
            if let Some(row) = rows.await?.first() {
                return Ok(Some((row.get_text("provider")?.into(), row.get_text("key_id")?.into())));
            }
            if all_written || tokio::time::Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // The task that writes says nothing when it is through.
        }
    }

    /// Which of these a project made.
    pub(crate) async fn owned(
        &self,
        project: &str,
        provider: &str,
        ids: &[String],
    ) -> Result<HashSet<String>, Error> {
        let mut owned = HashSet::new();
        for id in ids {
            if self.owns(project, provider, &[id]).await? {
                owned.insert(id.clone());
            }
        }
        Ok(owned)
    }

    /// Remembers files and jobs as the project's.
    pub(crate) async fn remember(
        &self,
        grant: &Grant,
        provider: &str,
        kind: &'static str,
        ids: &[&str],
    ) -> Result<(), Error> {
        let now = self.0.clock.now();
        let project = &*grant.project.name;
        let write = remember(Write::new(), project, provider, kind, ids.iter().copied(), &grant.id, now);
        self.0.ledger.write(&context(project, &self.0.clock), write).await.map(drop)
    }

    /// Forgets one that was deleted.
    pub(crate) async fn forget(&self, project: &str, provider: &str, id: &str) -> Result<(), Error> {
        let write = Write::new().exec(
            "DELETE FROM ai_things WHERE project = ? AND provider = ? AND remote_id = ?",
            vec![project.into(), provider.into(), id.into()],
        );
        self.0.ledger.write(&context(project, &self.0.clock), write).await.map(drop)
    }

    /// Makes a job. Goes on to its end when the client leaves meanwhile: a job that was made must be known.
    pub(crate) async fn create(&self, creation: Creation) -> Option<Created> {
        let jobs = self.clone();
        self.0.tasks.spawn(async move { jobs.create_now(creation).await }).await.ok()
    }

    async fn create_now(&self, creation: Creation) -> Created {
        let Creation { kind, request, grant, provider, query, headers, body, now, reservation, answer } =
            creation;
        let project = &grant.project;
        let reckoned = match self.reckon(kind, project, &provider, &body, now).await {
            Ok(reckoned) => reckoned,
            Err(Stopped::Wrong(wrong)) => return Created::Wrong(wrong, reservation),
            Err(Stopped::Foreign(field)) => return Created::Foreign(field, reservation),
            Err(Stopped::Failed(failed)) => return Created::Failed(failed, reservation),
            Err(Stopped::Broken(error)) => {
                return Created::Refused(crate::accounts::unwritable(Some(&error)), reservation);
            }
        };
        let id = request.to_string();
        let route = match reckoned.charges.as_slice() {
            [one] => format!("{}/{}", provider.name, one.model),
            _ => format!("{}/*", provider.name),
        };
        let asked = hold::Asked {
            job: &id,
            project: &project.name,
            who: Who {
                key: &grant.id,
                person: grant.person.as_deref().unwrap_or_default(),
                project: &project.name,
                route: &route,
            },
            provider: &provider.name,
            charges: &reckoned.charges,
            now,
        };
        let mut kept = Body {
            key_id: grant.id.to_string(),
            key_name: grant.name.to_string(),
            person: grant.person.as_deref().unwrap_or_default().to_owned(),
            route: route.clone(),
            provider_kind: provider.kind.as_str().to_owned(),
            endpoint: reckoned.endpoint.clone(),
            price_table: self.prices_version(&project.name),
            requests: reckoned.requests,
            epochs: reckoned.epochs,
            charges: reckoned.charges.clone(),
            draws: Vec::new(),
            missing_us: None,
        };
        let set_aside: i64 =
            reckoned.charges.iter().map(|charge| charge.bound_usd_nanos).fold(0, i64::saturating_add);
        let holder = &self.0.accounts.inner().holder;
        let record = |draws: &[Draw]| {
            let body = Body { draws: draws.to_vec(), ..kept.clone() }.text();
            Write::new().exec(
                INSERT,
                vec![
                    id.as_str().into(),
                    (&*project.name).into(),
                    kind.as_str().into(),
                    (&*provider.name).into(),
                    holder.as_str().into(),
                    now.into(),
                    now.into(),
                    set_aside.into(),
                    reckoned.base.as_deref().into(),
                    body.into(),
                ],
            )
        };
        let draws = match hold::hold(&self.0.accounts, &asked, record).await {
            Ok(draws) => draws,
            Err(refusal) => return Created::Refused(refusal, reservation),
        };
        kept.draws = draws;
        let job = Job {
            id: id.clone(),
            project: project.name.to_string(),
            kind,
            provider: provider.name.to_string(),
            remote_id: String::new(),
            state: "creating".into(),
            status: String::new(),
            holder: holder.clone(),
            made: now,
            looked_us: now.as_microsecond(),
            settled: None,
            set_aside,
            cost: None,
            base_model: reckoned.base,
            tuned_model: None,
            problem: None,
            body: kept,
        };
        let remote = Remote { project, provider: &provider, what: kind.what(), format: kind.format(), now };
        let sent = remote.call(Method::POST, kind.folder(), &query, headers, body, CREATE_WITHIN).await;
        let answered = match sent {
            Ok((parts, mut body, _lent)) => {
                let reading = tokio::time::timeout(CREATE_WITHIN, read(&mut body, OBJECT_BYTES_MAX));
                match reading.await {
                    Ok(Ok(bytes)) => Ok((parts, bytes)),
                    _ => Err(Failed::silent(
                        FailureClass::Network,
                        "the answer broke off; whether the job was made is not known",
                        true,
                    )),
                }
            }
            Err(failed) => Err(failed),
        };
        match answered {
            Ok((parts, bytes)) => {
                let object: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                match job_word::read(kind, &object) {
                    Some(word) => self.opened(&job, &word, &grant).await,
                    None => self.lose(&job, "the provider's answer names no job").await,
                }
                drop(reservation); // The job's own row stands for the request.
                Created::Made(answer(parts.status, &parts.headers, bytes))
            }
            Err(failed) if failed.may_be_done => {
                self.lose(&job, &failed.line()).await;
                Created::Failed(failed, reservation)
            }
            Err(failed) => {
                self.release(&job, &failed.line()).await;
                Created::Failed(failed, reservation)
            }
        }
    }

    fn prices_version(&self, project: &str) -> String {
        let purse = self.0.accounts.inner().known_purse(project);
        purse.map_or_else(String::new, |purse| purse.table().version().to_owned())
    }

    /// Finds the rows of a provider's models.
    fn finder(
        &self,
        project: &str,
        provider: &OpenProvider,
    ) -> impl Fn(&str) -> Option<Arc<Model>> + Send + Sync + use<> {
        let table = self.0.accounts.inner().known_purse(project).map(|purse| purse.table());
        let (name, kind) = (Arc::clone(&provider.name), provider.kind.as_str());
        move |model: &str| {
            let table = table.as_ref()?;
            table.find(&name, model).or_else(|| table.find(kind, model))
        }
    }

    fn training_row(&self, project: &str, provider: &OpenProvider, base: &str) -> Option<Arc<Model>> {
        let table = self.0.accounts.inner().known_purse(project)?.table();
        table.training(&provider.name, base).or_else(|| table.training(provider.kind.as_str(), base))
    }

    /// What a job may cost, by what it is made from.
    async fn reckon(
        &self,
        kind: Kind,
        project: &Arc<Project>,
        provider: &Arc<OpenProvider>,
        body: &Bytes,
        now: Timestamp,
    ) -> Result<Reckoned, Stopped> {
        let asked = unique(body).map_err(|why| Wrong {
            message: format!("the body {why}"),
            field: None,
            is_price: false,
        })?;
        let strict = self
            .0
            .accounts
            .inner()
            .known_purse(&project.name)
            .is_some_and(|purse| purse.books().rules.iter().any(|rule| rule.enforce == Enforce::Strict));
        let find = self.finder(&project.name, provider);
        let files =
            Remote { project, provider, what: crate::meter::What::Files, format: wire::Format::Chat, now };
        let content = |file: &str| format!("/files/{file}/content");
        let own = async |field: &'static str, file: &str| match self
            .owns(&project.name, &provider.name, &[file])
            .await
        {
            Ok(true) => Ok(()),
            Ok(false) => Err(Stopped::Foreign(field)),
            Err(error) => Err(Stopped::Broken(error)),
        };
        if kind == Kind::FineTuning {
            let ask = TrainingAsk::read(&asked)?;
            own("training_file", &ask.file).await?;
            if let Some(file) = &ask.validation_file {
                own("validation_file", file).await?;
            }
            if project.is_of_others(&ask.base) {
                return Err(Stopped::Foreign("model"));
            }
            let mut training = Training::default();
            files
                .lines::<Stopped>(&content(&ask.file), FILE_BYTES_MAX, |line| {
                    training.line(line);
                    Ok(())
                })
                .await?;
            let row = self.training_row(&project.name, provider, &ask.base);
            let charges = ask.charges(&training, row.as_deref(), now, strict)?;
            return Ok(Reckoned {
                charges,
                requests: training.examples,
                epochs: training.epochs(ask.epochs),
                endpoint: String::new(),
                base: Some(ask.base),
            });
        }
        let mut requests = Requests::new(&find, now, strict);
        let mut endpoint = String::new();
        if kind == Kind::MessageBatch {
            let all = asked["requests"].as_array();
            for request in all.ok_or_else(|| Wrong::new("requests", "`requests` is missing"))? {
                requests.message(request)?;
            }
        } else {
            let file = asked["input_file_id"].as_str();
            let file = file.ok_or_else(|| Wrong::new("input_file_id", "`input_file_id` is missing"))?;
            asked["endpoint"].as_str().unwrap_or_default().clone_into(&mut endpoint);
            own("input_file_id", file).await?;
            requests = requests.only_for(&endpoint);
            files.lines::<Stopped>(&content(file), FILE_BYTES_MAX, |line| Ok(requests.line(line)?)).await?;
        }
        if requests.models().any(|model| project.is_of_others(model)) {
            return Err(Stopped::Foreign("model"));
        }
        match self.foreign(&project.name, &requests.names()).await {
            Ok(None) => {}
            Ok(Some(named)) => return Err(Stopped::Foreign(named.field)),
            Err(error) => return Err(Stopped::Broken(error)),
        }
        Ok(Reckoned {
            charges: requests.charges()?,
            requests: requests.count,
            epochs: 0,
            endpoint,
            base: None,
        })
    }

    /// The provider has made it.
    async fn opened(&self, job: &Job, word: &Word, grant: &Grant) {
        let now = self.0.clock.now();
        let body = json!({
            "job": job.id, "kind": job.kind.as_str(), "provider": job.provider, "remote_id": word.id,
            "requests": job.body.requests, "set_aside_usd_nanos": job.set_aside, "key": job.body.key_name,
        });
        let mut write = Write::new().exec_expecting(
            MADE,
            vec![word.id.as_str().into(), word.status.as_str().into(), now.into(), job.id.as_str().into()],
            1,
        );
        let ids = std::iter::once(word.id.as_str());
        write = remember(write, &job.project, &job.provider, job.kind.as_str(), ids, &grant.id, now);
        write = write.event(NewEvent::new("ai.job.opened", format!("ai:provider/{}", job.provider), body));
        if let Err(error) = self.0.ledger.write(&context(&job.project, &self.0.clock), write).await {
            // It stays as one of which nobody knows whether it was made, and is charged as such.
            tracing::error!(%error, job = job.id, remote_id = word.id, "a job that was made cannot be recorded");
        }
    }

    /// The provider has not made it.
    async fn release(&self, job: &Job, why: &str) {
        let now = self.0.clock.now();
        let write =
            Write::new().exec_expecting(REFUSE, vec![now.into(), why.into(), job.id.as_str().into()], 1);
        let draws = &job.body.draws;
        let done = hold::let_go(&self.0.accounts, &job.project, &job.id, draws, |_| 0, write).await;
        if let Err(error) = done {
            tracing::error!(%error, job = job.id, "what a job holds that was not made cannot be given back");
        }
    }

    /// Nobody knows whether it was made, or what it cost: what was set aside is taken as spent.
    async fn lose(&self, job: &Job, why: &str) {
        let counted = taken(job);
        let word = Word { id: job.remote_id.clone(), status: job.status.clone(), ..Word::default() };
        if let Err(error) = self.record(job, &word, counted, LOST, Some(why)).await {
            if error.kind() != ErrorKind::Conflict {
                tracing::error!(%error, job = job.id, "a job whose cost is not known cannot be settled");
            }
            return;
        }
        self.0.accounts.inner().tell(Alarm {
            project: job.project.clone(),
            trigger: Trigger::AiApiFailure,
            severity: Severity::Warning,
            title: format!("what the job {} at `{}` cost is not known", job.id, job.provider),
            detail: format!(
                "{why}; the {} USD that were set aside for it are taken as spent; `steward ai reconcile` compares with \
                 the provider's own count",
                Usd::from_nanos(job.set_aside)
            ),
            subject: format!("ai:provider/{}", job.provider),
            dedup_key: format!("ai-job-lost:{}", job.id),
        });
    }

    /// Whether something must not be deleted yet because what it cost has not been counted. A batch that is to be deleted
    /// is settled now.
    pub(crate) async fn is_awaited(
        &self,
        project: &Arc<Project>,
        provider: &Arc<OpenProvider>,
        wanted: &Wanted<'_>,
        id: &str,
    ) -> Result<bool, Error> {
        let open = async || {
            let rows = self.0.ledger.query(
                "SELECT * FROM ai_jobs WHERE project = ? AND provider = ? AND state = 'open'",
                vec![(&*project.name).into(), (&*provider.name).into()],
            );
            let mut jobs = Vec::new();
            for row in rows.await? {
                let job = Job::read(&row)?;
                let ended = matches!(job.status.as_str(), "completed" | "expired" | "cancelled");
                let concerns = match wanted {
                    Wanted::Delete(_) => job.kind == Kind::Batch && ended,
                    _ => job.remote_id == id,
                };
                if concerns {
                    jobs.push(job);
                }
            }
            Ok::<_, Error>(jobs)
        };
        for job in open().await? {
            self.ask(&job, project, provider).await;
        }
        Ok(!open().await?.is_empty())
    }

    /// A job's description has passed by: what it says is remembered, and a job that has ended is settled. Waits for
    /// that, but not for long.
    pub(crate) async fn saw(&self, grant: &Grant, provider: &Arc<OpenProvider>, kind: Kind, object: &Value) {
        let Some(word) = job_word::read(kind, object) else { return };
        let project = Arc::clone(&grant.project);
        let rows = self.0.ledger.query(
            "SELECT * FROM ai_jobs WHERE project = ? AND provider = ? AND remote_id = ? AND state = 'open'",
            vec![(&*project.name).into(), (&*provider.name).into(), word.id.as_str().into()],
        );
        let job = match rows.await.and_then(|rows| rows.first().map(Job::read).transpose()) {
            Ok(Some(job)) => job,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the job that was looked at cannot be read");
                return;
            }
        };
        // The client may want them before they are counted.
        let files: Vec<&str> = word.files.iter().map(String::as_str).collect();
        if !files.is_empty()
            && let Err(error) = self.remember(grant, &provider.name, "file", &files).await
        {
            tracing::warn!(%error, "the files of a job cannot be remembered");
        }
        self.heard(&job, word, &project, provider).await;
    }

    /// Asks providers for the jobs that are due, and settles those that have ended. Answers how many were asked for; none
    /// when another round is under way, or was some seconds ago.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub async fn look(&self, table: &Table) -> Result<usize, Error> {
        let now_us = self.0.clock.now().as_microsecond();
        if now_us < self.0.quiet_until_us.load(Ordering::Relaxed)
            || self.0.looking.swap(true, Ordering::AcqRel)
        {
            return Ok(0);
        }
        let _round = Round(&self.0.looking);
        let looked = self.look_now(table).await?;
        self.0.quiet_until_us.store(now_us.saturating_add(QUIET_US), Ordering::Relaxed);
        Ok(looked)
    }

    async fn look_now(&self, table: &Table) -> Result<usize, Error> {
        let rows = self
            .0
            .ledger
            .query(
                "SELECT * FROM ai_jobs WHERE state IN ('creating', 'open') ORDER BY looked_us LIMIT ?",
                vec![LOOKS_MAX.into()],
            )
            .await?;
        let now = self.0.clock.now();
        let mut due = Vec::new();
        for row in &rows {
            let job = Job::read(row)?;
            if job.state == "creating" {
                let old = now.as_microsecond() - job.made.as_microsecond() > MAKING_US_MAX;
                if keeper::is_gone(&job.holder) || old {
                    self.lose(&job, "the process that made it ended meanwhile").await;
                }
                continue;
            }
            let Some(project) = table.project(&job.project) else { continue };
            if !job.is_due(now) {
                continue;
            }
            match project.provider(&job.provider) {
                Some(provider) => due.push((job, Arc::clone(project), Arc::clone(provider))),
                None => self.looked(&job, "the project file has no such provider any more").await,
            }
        }
        let count = due.len();
        futures::stream::iter(due)
            .for_each_concurrent(LOOKS_AT_ONCE, |(job, project, provider)| async move {
                self.ask(&job, &project, &provider).await;
            })
            .await;
        Ok(count)
    }

    async fn ask(&self, job: &Job, project: &Arc<Project>, provider: &Arc<OpenProvider>) {
        let remote = Remote {
            project,
            provider,
            what: job.kind.what(),
            format: job.kind.format(),
            now: self.0.clock.now(),
        };
        let path = format!("{}/{}", job.kind.folder(), job.remote_id);
        match remote.object(&path, LOOK_WITHIN).await {
            Ok(object) => match job_word::read(job.kind, &object) {
                Some(word) => self.heard(job, word, project, provider).await,
                None => self.looked(job, "the provider's answer describes no job").await,
            },
            Err(failed) if failed.failure.class == FailureClass::NotFound && failed.answer.is_some() => {
                let now_us = self.0.clock.now().as_microsecond();
                let since = job.body.missing_us.unwrap_or(now_us);
                let problem = "the provider does not know it any more";
                if now_us.saturating_sub(since) >= MISSING_US_MAX {
                    self.lose(job, problem).await;
                } else {
                    let body = Body { missing_us: Some(since), ..job.body.clone() };
                    self.looked(&Job { body, ..job.clone() }, problem).await;
                }
            }
            Err(failed) => self.looked(job, &failed.line()).await,
        }
    }

    async fn looked(&self, job: &Job, problem: &str) {
        let problem = if problem.is_empty() { ledger::Value::Null } else { problem.into() };
        let now = self.0.clock.now();
        let write = Write::new()
            .exec(
                LOOKED,
                vec![
                    job.status.as_str().into(),
                    now.into(),
                    problem,
                    job.body.text().into(),
                    job.id.as_str().into(),
                ],
            )
            .unsynced();
        if let Err(error) = self.0.ledger.write(&context(&job.project, &self.0.clock), write).await {
            tracing::warn!(%error, job = job.id, "how a job stands cannot be recorded");
        }
    }

    /// The provider has said how a job stands. One that has ended is settled, whether or not the caller is still there;
    /// this waits for it, but not for long.
    async fn heard(&self, job: &Job, word: Word, project: &Arc<Project>, provider: &Arc<OpenProvider>) {
        let body = Body { missing_us: None, ..job.body.clone() };
        let job = Job { status: word.status.clone(), body, ..job.clone() };
        let problem = job.problem.as_deref().filter(|_| word.has_ended);
        // Before anything is counted: what the client now sees to have ended must not be deleted meanwhile.
        self.looked(&job, problem.unwrap_or_default()).await;
        if !word.has_ended {
            return;
        }
        let Some(turn) = Settling::begin(self, &job) else { return };
        let (jobs, project, provider) = (self.clone(), Arc::clone(project), Arc::clone(provider));
        let settling = self.0.tasks.spawn(async move {
            let _turn = turn;
            jobs.settle_ended(&job, &word, &project, &provider).await;
        });
        drop(tokio::time::timeout(SETTLED_WITHIN, settling).await);
    }

    async fn settle_ended(
        &self,
        job: &Job,
        word: &Word,
        project: &Arc<Project>,
        provider: &Arc<OpenProvider>,
    ) {
        match self.settle(job, word, project, provider).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Conflict => {} // Another process was faster.
            Err(error) => {
                let line = error.to_string();
                tracing::warn!(error = line, job = job.id, "a job that has ended cannot be settled yet");
                self.looked(job, &line).await;
            }
        }
    }

    async fn settle(
        &self,
        job: &Job,
        word: &Word,
        project: &Arc<Project>,
        provider: &Arc<OpenProvider>,
    ) -> Result<(), Error> {
        let counted = match job.kind {
            Kind::FineTuning => self.trained(job, word, provider),
            Kind::Batch | Kind::MessageBatch => self.answered(job, word, project, provider).await?,
        };
        let ending = match (word.has_succeeded, counted.is_empty()) {
            (true, _) => Ending::Complete,
            (false, true) => Ending::Failed,
            (false, false) => Ending::Truncated,
        };
        self.record(job, word, counted, ending.as_str(), None).await
    }

    fn trained(&self, job: &Job, word: &Word, provider: &OpenProvider) -> Vec<Counted> {
        let base = job.base_model.as_deref().unwrap_or_default();
        let Some(tokens) = word.trained_tokens.filter(|tokens| *tokens > 0) else {
            // A training that succeeded has trained: what it cost was not told.
            return if word.has_succeeded { taken(job) } else { Vec::new() };
        };
        let row = self.training_row(&job.project, provider, base);
        vec![trained(base, row.as_deref(), job.made, tokens)]
    }

    /// What the answers of a batch cost: by each answer, else by the sum in the batch's description, else by what was set
    /// aside.
    async fn answered(
        &self,
        job: &Job,
        word: &Word,
        project: &Arc<Project>,
        provider: &Arc<OpenProvider>,
    ) -> Result<Vec<Counted>, Error> {
        if word.completed == Some(0) && word.usage.is_none() {
            return Ok(Vec::new());
        }
        let find = self.finder(&job.project, provider);
        let mut answers = Answers::new(job.kind, &job.body.endpoint, &job.body.charges, &find, job.made);
        let (what, path) = match (job.kind, &word.output_file) {
            (Kind::MessageBatch, _) => {
                (job.kind.what(), format!("{}/{}/results", job.kind.folder(), job.remote_id))
            }
            (_, Some(file)) => (crate::meter::What::Files, format!("/files/{file}/content")),
            (_, None) => return Ok(by_total(job, word, answers)),
        };
        let remote = Remote { project, provider, what, format: job.kind.format(), now: self.0.clock.now() };
        let read = remote
            .lines::<Box<Failed>>(&path, u64::MAX, |line| {
                answers.line(line);
                Ok(())
            })
            .await;
        match read {
            Ok(_) => Ok(answers.done()),
            // The file is gone and does not come back, or is none that can be read.
            Err(failed) if failed.is_for_good() => {
                let anew = Answers::new(job.kind, &job.body.endpoint, &job.body.charges, &find, job.made);
                Ok(by_total(job, word, anew))
            }
            Err(failed) => Err(Error::new(ErrorKind::Unavailable, "the answers of a batch cannot be read")
                .with("job", &job.id)
                .because(failed.line())),
        }
    }

    /// Writes what a job came to, with the end of what it held.
    async fn record(
        &self,
        job: &Job,
        word: &Word,
        counted: Vec<Counted>,
        ending: &'static str,
        problem: Option<&str>,
    ) -> Result<(), Error> {
        let now = self.0.clock.now();
        let rows = rows(job, word, &counted, ending, now);
        let cost = rows.iter().map(|row| row.cost.nanos()).fold(0, i64::saturating_add);
        let tuned = word.tuned_model.as_deref().filter(|_| word.has_succeeded);
        let mut write = Write::new().exec_expecting(
            SETTLE,
            vec![
                word.status.as_str().into(),
                now.into(),
                cost.into(),
                tuned.into(),
                problem.into(),
                job.id.as_str().into(),
            ],
            1,
        );
        let files = word.files.iter().map(String::as_str);
        write = remember(write, &job.project, &job.provider, "file", files, &job.body.key_id, now);
        write = write_rows(write, &job.project, &rows);
        let body = json!({
            "job": job.id, "kind": job.kind.as_str(), "provider": job.provider, "remote_id": job.remote_id,
            "status": word.status, "cost_usd_nanos": cost, "set_aside_usd_nanos": job.set_aside,
            "tuned_model": tuned, "problem": problem,
        });
        write = write.event(NewEvent::new("ai.job.settled", format!("ai:provider/{}", job.provider), body));
        if tuned.is_some() {
            write = write.bump(GENERATION);
        }
        let spent = |draw: &Draw| {
            let counts = |counted: &&Counted| draw.model.as_ref().is_none_or(|model| *model == counted.model);
            counted.iter().filter(counts).map(|counted| counted.nanos).fold(0, i64::saturating_add)
        };
        let draws = &job.body.draws;
        hold::let_go(&self.0.accounts, &job.project, &job.id, draws, spent, write).await?;
        for row in rows.iter().filter(|row| !row.model.is_empty()) {
            self.0.accounts.metrics().observe_job(row, &job.body.provider_kind);
        }
        if cost > job.set_aside && !draws.is_empty() {
            self.0.accounts.inner().tell(Alarm {
                project: job.project.clone(),
                trigger: Trigger::CostOverrun,
                severity: Severity::Warning,
                title: format!("the job {} cost more than was set aside for it", job.id),
                detail: format!(
                    "{} USD instead of at most {} USD; `steward ai receipt {}` shows what was counted",
                    Usd::from_nanos(cost),
                    Usd::from_nanos(job.set_aside),
                    job.id
                ),
                subject: format!("ai:provider/{}", job.provider),
                dedup_key: format!("ai-job-over:{}", job.id),
            });
        }
        Ok(())
    }
}

/// A round of looks, until it ends or is dropped.
struct Round<'a>(&'a AtomicBool);

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A job that is being settled, until that ends or is dropped.
struct Settling {
    jobs: Jobs,
    job: String,
}

impl Settling {
    /// `None`: it is being settled already, or as many others of this provider as may be.
    fn begin(jobs: &Jobs, job: &Job) -> Option<Self> {
        let place = (job.project.clone(), job.provider.clone());
        let mut settling = jobs.0.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let others = settling.values().filter(|other| **other == place).count();
        if others >= SETTLING_MAX || settling.contains_key(&job.id) {
            return None;
        }
        settling.insert(job.id.clone(), place);
        Some(Self { jobs: jobs.clone(), job: job.id.clone() })
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.jobs.0.settling.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.job);
    }
}

/// What the batch's own description counts; what was set aside where it counts nothing.
fn by_total(job: &Job, word: &Word, mut answers: Answers<'_>) -> Vec<Counted> {
    match word.usage {
        Some(usage) => {
            answers.total(word.completed.unwrap_or(job.body.requests), usage);
            answers.done()
        }
        None if word.completed.unwrap_or(0) == 0 && !word.has_succeeded => Vec::new(),
        None => taken(job),
    }
}

/// What was set aside, taken as spent.
fn taken(job: &Job) -> Vec<Counted> {
    let of = |charge: &Charge| Counted {
        model: charge.model.clone(),
        nanos: charge.bound_usd_nanos,
        estimated: 2,
        ..Counted::default()
    };
    job.body.charges.iter().map(of).collect()
}

/// One row for each part; the last one has the job's own id.
fn rows(job: &Job, word: &Word, counted: &[Counted], ending: &'static str, now: Timestamp) -> Vec<UsageRow> {
    let nothing = [Counted {
        model: job.body.charges.first().map(|charge| charge.model.clone()).unwrap_or_default(),
        tier: if job.kind == Kind::FineTuning { Tier::Standard } else { Tier::Batch },
        ..Counted::default()
    }];
    let counted = if counted.is_empty() { &nothing } else { counted };
    let last = counted.len() - 1;
    let row = |(number, part): (usize, &Counted)| {
        UsageRow {
        id: if number == last { job.id.clone() } else { format!("{}#{}", job.id, number + 2) },
        project: job.project.as_str().into(),
        at: job.made,
        key_id: job.body.key_id.as_str().into(),
        key_name: job.body.key_name.as_str().into(),
        person: job.body.person.as_str().into(),
        route: job.body.route.as_str().into(),
        provider: job.provider.as_str().into(),
        model: part.model.as_str().into(),
        operation: job.kind.what().as_str(),
        streaming: false,
        tier: part.tier,
        usage: part.usage,
        estimated: part.estimated,
        cost: Usd::from_nanos(part.nanos),
        price_row: part.price_row.clone(),
        price_table: job.body.price_table.as_str().into(),
        ending,
        status: if ending == LOST { 0 } else { 200 },
        cache: "off",
        first_byte_us: None,
        took_us: now.as_microsecond().saturating_sub(job.made.as_microsecond()).max(0),
        receipt: json!({
            "attempts": [], "set_aside_usd_nanos": job.set_aside, "requests": part.requests, "long": part.long,
            "job": {
                "kind": job.kind.as_str(), "remote_id": if word.id.is_empty() { &job.remote_id } else { &word.id },
                "status": word.status, "requests": job.body.requests, "completed": word.completed,
                "failed": word.failed, "epochs": job.body.epochs, "tuned_model": word.tuned_model,
            },
        })
        .to_string()
        .into(),
    }
    };
    counted.iter().enumerate().map(row).collect()
}

/// Writes that these are the project's.
pub(crate) fn remember<'i>(
    mut write: Write,
    project: &str,
    provider: &str,
    kind: &str,
    ids: impl Iterator<Item = &'i str>,
    key: &str,
    now: Timestamp,
) -> Write {
    for id in ids {
        write = write.exec(
            REMEMBER,
            vec![project.into(), provider.into(), id.into(), kind.into(), key.into(), now.into()],
        );
    }
    write
}
