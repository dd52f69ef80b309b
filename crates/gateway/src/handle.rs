//! The story of a request: authenticate, admit, route, attempt, relay, settle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use contract::ai::{Failure, FailureClass};
use contract::{Clock, SystemClock};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use jiff::Timestamp;
use ledger::Ledger;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use wire::{Embedding, ErrorClass, Format, Named, Rewrite, Scanned, Shown, StreamConverter, StreamOptions};

use crate::answer::{Answer, BodyError, Problem, status_for, told_as, whole_seconds};
use crate::attempt::{Failed, Outbound, Won, WonBody, attempt, read};
use crate::balance::{Tried, back_at, choose};
use crate::cache::{self, Cache, Found, Keeping, Kept, Tenant};
use crate::catalog;
use crate::compare::{self, Compared};
use crate::config::{CachePer, ProviderKind};
use crate::flight::{Flight, KeptThere};
use crate::job::Jobs;
use crate::lookout::Lookout;
use crate::meter::{Ask, CacheDecision, CacheNote, Ending, Metering, Refusal, RequestId, Reservation, What};
use crate::metrics::{Ends, Metrics, REFUSED};
use crate::notice::{Notice, Notices};
use crate::once::{self, IDEMPOTENCY_KEY, Once};
use crate::peer::Peer;
use crate::relay::{Relay, Shape};
use crate::retry::backoff;
use crate::scan::Detector;
use crate::semantic::{Checks, Saying, Sayings};
use crate::shelf::Shelf;
use crate::surface::{self, Surface};
use crate::table::{Grant, OpenProvider, Ready, Route, Table, Target};
use crate::trace::Trace;
use crate::transcript::{Told, Transcripts};
use crate::watch::Watch;
use crate::{header, models, repeats};

/// Attempts in all, also with other keys, whatever the configuration says.
const ATTEMPTS_MAX: usize = 16;
/// How long a request waits for another one that asks the same.
const SAME_QUESTION_WAIT: Duration = Duration::from_mins(1);
/// Files that a request may name, each of which is looked up.
const NAMES_MAX: usize = 500;
/// How often money that is on its way is waited for.
const REPLENISHED_MAX: usize = 3;

/// The AI gateway of a daemon; cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    table: Arc<ArcSwap<Table>>,
    metering: Arc<dyn Metering>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) notices: Notices,
    pub(crate) detector: Arc<Detector>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) shelf: Option<Arc<Shelf>>,
    transcripts: Transcripts,
    jobs: Option<Jobs>,
    pub(crate) once: Once,
    pub(crate) sayings: Arc<Sayings>,
    pub(crate) checks: Checks,
    ends: Ends,
    pub(crate) checking: Arc<Semaphore>,
}

/// What every step of a request knows.
#[derive(Clone)]
pub(crate) struct Visit {
    pub(crate) id: RequestId,
    /// The id that the client knows the request by.
    pub(crate) request_id: HeaderValue,
    pub(crate) started: Instant,
    pub(crate) now: Timestamp,
    pub(crate) table: Arc<Table>,
    pub(crate) watch: Arc<Watch>,
    /// The trace that the client began.
    pub(crate) trace: Option<Trace>,
    /// At the other end, where the server says so.
    pub(crate) peer: Peer,
    pub(crate) recorded: Recorded,
}

/// Whether a request has, or is going to have, a row of its own, and so a receipt.
#[derive(Default)]
pub(crate) struct Recorded(AtomicBool);

impl Recorded {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// What is recorded of a part of the request is recorded of the whole.
    pub(crate) fn copy(&self, part: &Self) {
        self.0.fetch_or(part.is_set(), Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clone for Recorded {
    fn clone(&self) -> Self {
        Self(AtomicBool::new(self.is_set()))
    }
}

impl Visit {
    /// The same, as if it came now.
    fn begun_now(&self) -> Self {
        let started = Instant::now();
        let waited = jiff::SignedDuration::try_from(started - self.started).unwrap_or_default();
        Self {
            id: self.id,
            request_id: self.request_id.clone(),
            started,
            now: self.now.saturating_add(waited).unwrap_or(self.now),
            table: Arc::clone(&self.table),
            watch: Arc::clone(&self.watch),
            trace: self.trace,
            peer: self.peer.clone(),
            recorded: self.recorded.clone(),
        }
    }

    /// Adds what a provider is told of the client's trace.
    pub(crate) fn trace(
        &self,
        provider: &OpenProvider,
        attempt: usize,
        from: &HeaderMap,
        to: &mut HeaderMap,
    ) {
        if let Some(trace) = self.trace.as_ref().filter(|_| provider.hears_traces) {
            trace.pass_on(attempt, from, to);
        }
    }
}

/// A request to a model.
pub(crate) struct Question<'a> {
    pub(crate) what: What,
    /// The client's format.
    pub(crate) format: Format,
    pub(crate) streaming: bool,
    /// A stream as one array; several embeddings at once.
    array: bool,
    pub(crate) body: Bytes,
    scanned: Scanned,
    pub(crate) headers: &'a HeaderMap,
    asked_model: String,
}

impl Question<'_> {
    /// What a transcript holds of it.
    fn told(&self) -> Told<'_> {
        Told {
            what: self.what,
            format: self.format,
            streaming: self.streaming,
            body: &self.body,
            asked_model: &self.asked_model,
        }
    }
}

/// In whose name a model is asked.
#[derive(Clone, Copy)]
pub(crate) enum Errand {
    /// A client asks.
    Client,
    /// The cache compares questions, by a route that the project file names.
    Embed,
    /// The cache asks once more what it answered to this request.
    Check(RequestId),
}

/// What goes to a target.
struct Prepared<'t> {
    ready: &'t Ready,
    format: Format,
    body: Bytes,
    headers: HeaderMap,
    /// Fields that the provider's format cannot say, or only otherwise.
    lost: Vec<String>,
}

impl Gateway {
    /// A gateway with this table.
    pub fn new(table: Table, metering: Arc<dyn Metering>) -> Self {
        Self::sharing(Arc::new(ArcSwap::from_pointee(table)), metering)
    }

    /// A gateway with a table that somebody else replaces.
    pub fn sharing(table: Arc<ArcSwap<Table>>, metering: Arc<dyn Metering>) -> Self {
        Self {
            table,
            metering,
            clock: Arc::new(SystemClock),
            watch: Arc::default(),
            notices: Notices::default(),
            detector: Arc::new(Detector::new()),
            cache: Arc::default(),
            shelf: None,
            transcripts: Transcripts::default(),
            jobs: None,
            once: Once::default(),
            sayings: Arc::default(),
            checks: Checks::default(),
            ends: Ends::default(),
            checking: Arc::new(Semaphore::new(compare::CHECKING_MAX)),
        }
    }

    /// The same, telling `watch` how calls end and `notices` what was exposed.
    #[must_use]
    pub fn telling(mut self, watch: Arc<Watch>, notices: Notices) -> Self {
        self.watch = watch;
        self.notices = notices;
        self
    }

    /// The same, keeping the replies of its cache also in the state file.
    #[must_use]
    pub fn with_ledger(mut self, ledger: Ledger) -> Self {
        self.shelf = Some(Arc::new(Shelf::new(ledger)));
        self
    }

    /// The same, handing what is said on routes that store it to whoever keeps it.
    #[must_use]
    pub fn storing(mut self, transcripts: Transcripts) -> Self {
        self.transcripts = transcripts;
        self
    }

    /// The same, letting files, batches and training in against the budgets and keeping projects apart. Without it they
    /// are only forwarded.
    #[must_use]
    pub fn with_jobs(mut self, jobs: Jobs) -> Self {
        self.jobs = Some(jobs);
        self
    }

    pub(crate) fn jobs(&self) -> Option<&Jobs> {
        self.jobs.as_ref()
    }

    /// The same, counting what it checks and refuses among these metrics.
    #[must_use]
    pub fn measured(mut self, metrics: &Metrics) -> Self {
        self.checks = metrics.cache_checks.clone();
        self.ends = metrics.ends.clone();
        self
    }

    /// The same with another clock, by which keys expire.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Puts another table in place; requests on their way keep theirs.
    pub fn replace(&self, table: Table) {
        self.table.store(Arc::new(table));
    }

    /// The table in force.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Whether a path is answered here.
    pub fn serves(&self, path: &str) -> bool {
        surface::is_surface(path) || self.table.load().passes_through(path)
    }

    /// Answers a request. Errors are told in the protocol that the path belongs to.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + std::fmt::Display,
    {
        let (parts, body) = request.into_parts();
        let now = self.clock.now();
        let id = RequestId::new(now);
        let visit = Visit {
            id,
            request_id: header::request_id(&parts.headers, id),
            started: Instant::now(),
            now,
            table: self.table.load_full(),
            watch: Arc::clone(&self.watch),
            trace: Trace::of(&parts.headers),
            peer: parts.extensions.get().cloned().unwrap_or_default(),
            recorded: Recorded::default(),
        };
        let mut caller = None;
        let mut response = self.route(&visit, &parts, body, &mut caller).await;
        if visit.recorded.is_set() {
            response.headers_mut().insert(header::RECEIPT, header::id_value(id));
        } else {
            // A reply that is given again names the request that was paid for; what was refused has no receipt.
            self.refused(&visit, caller.as_deref(), &response);
        }
        response.headers_mut().insert(header::REQUEST_ID, visit.request_id);
        response
    }

    /// Counts what was refused before anybody was asked.
    fn refused(&self, visit: &Visit, caller: Option<&Grant>, response: &Response<Answer>) {
        let status = response.status();
        if !(status.is_client_error() || status.is_server_error()) {
            return;
        }
        // Who has no key is no project's; where there is but one, it is meant.
        let only = || match visit.table.projects() {
            [only] => Some(only),
            _ => None,
        };
        let Some(project) = caller.map(|caller| &caller.project).or_else(only) else { return };
        let named = response.headers().get(header::ROUTE).and_then(|name| name.to_str().ok());
        // Models that clients name themselves could be any number.
        let route =
            named.filter(|name| project.routes().any(|route| &*route.name == *name)).unwrap_or_default();
        self.ends.count(&project.name, route, REFUSED, status.as_u16());
    }

    async fn route<B>(
        &self,
        visit: &Visit,
        parts: &Parts,
        body: B,
        caller: &mut Option<Arc<Grant>>,
    ) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + std::fmt::Display,
    {
        let path = parts.uri.path();
        let passes_through = visit.table.passes_through(path);
        let likely = surface::likely_format(path, &parts.headers);
        let refuse = |problem: Problem<'_>| problem.answer(likely, &visit.request_id);
        let grant = match authenticate(visit, &parts.headers) {
            Ok(grant) => Arc::clone(caller.insert(grant)),
            Err((known, message)) => {
                *caller = known;
                let mut problem = Problem::new(ErrorClass::Unauthorized, message);
                problem.status = StatusCode::UNAUTHORIZED;
                return refuse(problem);
            }
        };
        if passes_through {
            return match grant.project.pass_through_at(path).cloned() {
                Some(forwarded) => self.pass_through(visit, &grant, &forwarded, parts, body).await,
                None => refuse(Problem::new(ErrorClass::NotFound, "there is nothing at this path")),
            };
        }
        let Some(surface) =
            surface::recognise(&parts.method, path, parts.uri.query().unwrap_or_default(), &parts.headers)
        else {
            let message = surface::not_offered(path).unwrap_or("there is nothing at this path");
            let mut problem = Problem::new(ErrorClass::NotFound, message);
            problem.code = Some("not_found");
            return refuse(problem);
        };
        let format = surface.format();
        match surface {
            Surface::Forward { what: What::Responses, path, .. } => {
                self.kept_response(visit, &grant, &path, parts, body).await
            }
            Surface::Models { format, one } => list_models(visit, &grant, format, one.as_deref()),
            Surface::Forward { format, what, path } => {
                self.forward(visit, &grant, format, what, &path, parts, body).await
            }
            surface => {
                let body = match receive(&parts.headers, body, grant.project.body_bytes_max).await {
                    Ok(body) => body,
                    Err(problem) => return problem.answer(format, &visit.request_id),
                };
                match parts.headers.get(IDEMPOTENCY_KEY) {
                    None => {
                        self.ask_a_model(visit, &grant, surface, &parts.headers, body, Errand::Client).await
                    }
                    Some(key) => {
                        let (asked, outer) = ((&parts.uri, key), visit);
                        let make = async {
                            // Who waited for the first one begins only now.
                            let visit = visit.begun_now();
                            let (headers, client) = (&parts.headers, Errand::Client);
                            let now =
                                self.ask_a_model(&visit, &grant, surface, headers, body.clone(), client);
                            let response = now.await;
                            outer.recorded.copy(&visit.recorded);
                            response
                        };
                        self.once.answer(visit, &grant.id, format, asked, &body, make).await
                    }
                }
            }
        }
    }

    pub(crate) async fn ask_a_model(
        &self,
        visit: &Visit,
        grant: &Arc<Grant>,
        surface: Surface,
        headers: &HeaderMap,
        body: Bytes,
        errand: Errand,
    ) -> Response<Answer> {
        let format = surface.format();
        let refuse = |problem: Problem<'_>| problem.answer(format, &visit.request_id);
        let question = match read_question(&surface, headers, body) {
            Ok(question) => question,
            Err(error) => {
                let mut problem = Problem::new(ErrorClass::BadRequest, &error.message);
                problem.field = error.field.as_deref();
                return refuse(problem);
            }
        };
        let reached = match errand {
            Errand::Client => reachable(grant, &question.asked_model),
            // What the project file names for it needs no right of the client's key.
            Errand::Embed | Errand::Check(_) => grant
                .project
                .resolve(&question.asked_model)
                .ok_or_else(|| (ErrorClass::NotFound, "the route is gone".to_owned())),
        };
        let route = match reached {
            Ok(route) => route,
            Err((class, message)) => return refuse(Problem::new(class, &message)),
        };
        if let Some(message) = all_gone(&route) {
            let mut problem = Problem::new(ErrorClass::NotFound, &message);
            problem.code = Some("model_retired");
            problem.field = Some("model");
            return refuse(problem);
        }
        let input = wire::input_tokens(question.format, &question.body);
        let ask = Ask {
            request: visit.id,
            what: question.what,
            route: &route,
            input_tokens_bound: input.bound,
            input_tokens_estimate: input.estimate,
            max_tokens: question.scanned.max_tokens.as_ref().map(|field| field.value),
            choices: question
                .scanned
                .choices
                .as_ref()
                .map_or(1, |field| u32::try_from(field.value).unwrap_or(u32::MAX).max(1)),
            service_tier: question.scanned.service_tier.as_ref().map(|field| field.value.as_str()),
            charged: question.scanned.charged.as_deref(),
            now: visit.now,
        };
        let reservation = match self.admit(grant, &ask).await {
            Ok(reservation) => reservation,
            Err(refusal) => {
                let mut response = refused(&refusal, format, &visit.request_id);
                name_route(response.headers_mut(), &route);
                return response;
            }
        };
        let named = match self.named(grant, &question, &input, errand).await {
            Ok(named) => named,
            Err(problem) => return problem.answer(format, &visit.request_id),
        };
        let clamp =
            reservation.max_tokens().filter(|allowed| ask.max_tokens.is_none_or(|asked| *allowed < asked));
        let asked_model = &question.asked_model;
        let is_client = matches!(errand, Errand::Client);
        if let Some(leak) = is_client.then(|| self.detector.first(&question.body)).flatten() {
            self.notices.send(Notice::Exposed {
                project: grant.project.name.to_string(),
                key: grant.name.to_string(),
                route: route.name.to_string(),
                receipt: visit.id.to_string(),
                in_reply: false,
                leak,
            });
        }
        let mut flight =
            Flight::new(visit, question.what, grant, &route, asked_model, question.streaming, reservation);
        flight.lookout = Some(Lookout::new(&self.detector, &self.notices, grant, &route.name, visit.id));
        if is_client {
            flight.transcript = self.transcripts.begin(visit, grant, &route, &question.told());
        }
        let record = flight.record();
        record.input_tokens_estimate = input.estimate;
        record.clamped_max_tokens = clamp;
        record.request_bytes = question.body.len() as u64;
        if question.format == Format::Responses && question.what == What::Generate && self.jobs.is_some() {
            let response = question.scanned.store.as_ref().is_none_or(|field| field.value);
            let conversation = named.into_iter().find(|named| named.field == "conversation");
            let conversation = conversation.map(|named| named.id.into());
            flight.kept_there = Some(Box::new(KeptThere { response, conversation }));
        }
        let counts = |target: &Arc<Target>| target.counts().is_some();
        if question.what == What::CountTokens && !route.targets.iter().any(counts) {
            return counted_here(&question, &route, input.estimate, flight);
        }
        let course = Course { visit, question: &question, route: &route, client: &grant.id, clamp };
        if let Errand::Check(checks) = errand {
            let note = CacheNote { checks: Some(checks), ..CacheNote::default() };
            flight.record().cache_note = Some(Box::new(note));
        }
        if is_client
            && let Some(kept) = self.look(&course, grant, &mut flight).await
            && let Some(answer) = course.again(&kept, &mut flight)
        {
            let like = flight.record().cache_note.as_ref().and_then(|note| note.like);
            flight.end(Ending::Complete);
            if let Some(like) = like {
                self.check_later(&course, grant, surface, &kept, like);
            }
            return answer;
        }
        match course.fly(&mut flight).await {
            Ok((won, lost)) => course.land(won, &lost, flight),
            Err(given_up) => course.give_up(given_up, flight),
        }
    }

    /// What the request names of what the provider keeps, if none of it is another project's.
    async fn named(
        &self,
        grant: &Grant,
        question: &Question<'_>,
        input: &wire::InputTokens,
        errand: Errand,
    ) -> Result<Vec<Named>, Foreign> {
        let Some(jobs) = self.jobs.as_ref().filter(|_| input.has_names) else { return Ok(Vec::new()) };
        if !matches!(errand, Errand::Client) {
            return Ok(Vec::new());
        }
        let named = wire::names(&question.body).filter(|names| names.len() <= NAMES_MAX);
        let Some(named) = named else { return Err(Foreign::TooMany) };
        match jobs.foreign(&grant.project.name, &named).await {
            Ok(None) => Ok(named),
            Ok(Some(foreign)) => Err(Foreign::Named(foreign.field)),
            Err(error) => Err(Foreign::Unknown(error)),
        }
    }

    /// The reply to the same question, if it was given before. If not, the flight keeps its own for the next one.
    async fn look(&self, course: &Course<'_>, grant: &Arc<Grant>, flight: &mut Flight) -> Option<Arc<Kept>> {
        let Course { visit, question, route, .. } = course;
        if question.what != What::Generate {
            return None;
        }
        let config = route.config.cache.as_ref();
        // Without a cache, a sample says what one would be good for.
        if config.is_none() && !repeats::is_in_sample(&question.body) {
            return None;
        }
        let asked = course.asked(grant);
        if let Ok((key, greedy)) = asked {
            let question = Some(visit.table.mark(&key.0));
            flight.record().cache_note =
                Some(Box::new(CacheNote { question, samples: !greedy, ..CacheNote::default() }));
        }
        let config = config?;
        flight.record().cache = CacheDecision::Bypass;
        // A client that wants a fresh answer says so as to any cache (RFC 9111, section 5.2.1).
        let told = question.headers.get(http::header::CACHE_CONTROL).and_then(|value| value.to_str().ok());
        if question.array || told.is_some_and(|told| told.contains("no-store") || told.contains("no-cache")) {
            return None;
        }
        let (key, _) = asked.ok().filter(|(_, greedy)| *greedy || config.sampled)?;
        let now = SystemTime::from(visit.now);
        match self.cache.look(key, now, SAME_QUESTION_WAIT).await? {
            Found::Kept(kept) => {
                flight.record().cache = CacheDecision::Hit;
                Some(kept)
            }
            Found::Unknown(asking) => {
                if let Some(shelf) = &self.shelf
                    && let Some(kept) = shelf.find(&grant.project.name, key, now).await
                {
                    flight.record().cache = CacheDecision::Hit;
                    self.cache.keep(asking, kept.clone());
                    return Some(Arc::new(kept));
                }
                let saying = match &config.semantic {
                    None => None,
                    // Boxed, so that requests without it carry nothing of it.
                    Some(semantic) => {
                        match Box::pin(self.compare(course, grant, semantic, key, flight)).await {
                            Compared::Same(kept) => return Some(kept),
                            Compared::New(saying) => saying,
                        }
                    }
                };
                let until = now + Duration::from_secs(config.ttl_s);
                flight.record().cache = CacheDecision::Miss;
                flight.keeping = Some(Box::new(Keeping {
                    cache: Arc::clone(&self.cache),
                    shelf: self.shelf.clone(),
                    project: Arc::clone(&grant.project.name),
                    now,
                    asking,
                    format: question.format,
                    model: question.asked_model.clone(),
                    created_s: course.created_s(),
                    seed: course.seed(),
                    until,
                    tool_calls: config.tool_calls,
                    streamed: question.streaming.then(Vec::new),
                    saying: saying.map(|(place, saying)| {
                        (Arc::clone(&self.sayings), place, Saying { until, ..saying })
                    }),
                }));
                None
            }
        }
    }

    /// Sets aside what a request may cost, waiting a moment for money that is on its way.
    pub(crate) async fn admit(&self, grant: &Arc<Grant>, ask: &Ask<'_>) -> Result<Reservation, Box<Refusal>> {
        let mut waited = 0;
        loop {
            match self.metering.admit(grant, ask) {
                Err(refusal) if refusal.on_its_way && waited < REPLENISHED_MAX => {
                    waited += 1;
                    self.metering.replenished().await;
                }
                decided => return decided,
            }
        }
    }
}

/// Why what a request names may not be used.
enum Foreign {
    /// It belongs to another project.
    Named(&'static str),
    /// There are too many names, or they lie too deep.
    TooMany,
    /// The state file does not say.
    Unknown(contract::Error),
}

impl Foreign {
    fn answer(&self, format: Format, id: &HeaderValue) -> Response<Answer> {
        let (class, message, field) = match self {
            // Whether it exists is nobody's business but its owner's.
            Self::Named(field) => (
                ErrorClass::NotFound,
                format!("`{field}`: this project has nothing of this name"),
                Some(*field),
            ),
            Self::TooMany => {
                (ErrorClass::BadRequest, format!("more than {NAMES_MAX} files are named, or too deep"), None)
            }
            Self::Unknown(error) => (ErrorClass::Unavailable, error.message().to_owned(), None),
        };
        let mut problem = Problem::new(class, &message);
        problem.field = field;
        problem.answer(format, id)
    }
}

/// Who asks, by the first header that holds a key.
///
/// # Errors
///
/// Why it is not let in; with the grant that has ended.
fn authenticate(
    visit: &Visit,
    headers: &HeaderMap,
) -> Result<Arc<Grant>, (Option<Arc<Grant>>, &'static str)> {
    let bearer = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|value| {
        let (scheme, token) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
    });
    let plain = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let key = bearer
        .or_else(|| plain("x-api-key"))
        .or_else(|| plain("x-goog-api-key"))
        .or_else(|| plain("api-key"))
        .map(<[u8]>::trim_ascii)
        .filter(|key| !key.is_empty())
        .ok_or((None, "no key: send one of `steward ai keys create` as `authorization: Bearer`, `x-api-key`, `x-goog-api-key` or `api-key`"))?;
    let grant = visit
        .table
        .grant(key)
        .ok_or((None, "this key is not known: it may have been revoked or belong to another installation"))?;
    match grant.expires {
        Some(expires) if expires <= visit.now => {
            Err((Some(Arc::clone(grant)), "this key has expired: ask for `steward ai keys regenerate`"))
        }
        _ => Ok(Arc::clone(grant)),
    }
}

/// The whole body, unless it is too large; a length that is told is believed before anything is read.
pub(crate) async fn receive<B>(
    headers: &HeaderMap,
    mut body: B,
    max: usize,
) -> Result<Bytes, Problem<'static>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let too_large = || {
        let mut problem = Problem::new(ErrorClass::TooLarge, "the body is larger than `ai.body_bytes_max`");
        problem.status = StatusCode::PAYLOAD_TOO_LARGE;
        problem
    };
    let told: Option<u64> = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if told.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    if headers.get(http::header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        let mut problem = Problem::new(ErrorClass::BadRequest, "compressed bodies are not read");
        problem.status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(problem);
    }
    match read(&mut body, max).await {
        Ok(bytes) => Ok(bytes),
        Err((_, so_far)) if so_far.len() < max && told.is_some_and(|told| told <= max as u64) => {
            Err(Problem::new(ErrorClass::BadRequest, "the body broke off"))
        }
        Err(_) => Err(too_large()),
    }
}

fn read_question<'a>(
    surface: &Surface,
    headers: &'a HeaderMap,
    body: Bytes,
) -> Result<Question<'a>, wire::BadRequest> {
    let format = surface.format();
    let scanned = wire::scan(format, &body)?;
    let (what, named, streaming, array) = match surface {
        Surface::Generate { model, streaming, array, .. } => {
            (What::Generate, model.clone(), *streaming, *array)
        }
        Surface::Embed { model, batch, .. } => (What::Embed, model.clone(), Some(false), *batch),
        Surface::CountTokens { model, .. } => (What::CountTokens, model.clone(), Some(false), false),
        Surface::Models { .. } | Surface::Forward { .. } => (What::Generate, None, None, false),
    };
    let streaming = streaming.unwrap_or_else(|| scanned.stream.as_ref().is_some_and(|field| field.value));
    let asked_model = named.or_else(|| scanned.model.as_ref().map(|field| field.value.clone()));
    let Some(asked_model) = asked_model.filter(|model| !model.is_empty()) else {
        return Err(bad_request("`model` is missing: name a route or `provider/model`", Some("model")));
    };
    if scanned.background.as_ref().is_some_and(|field| field.value) {
        // It would go on, and cost, when its reply is long settled.
        let message = "`background` is not offered: what such an answer costs is known only after it was let go; ask \
                       without, with `stream`, or make a batch";
        return Err(bad_request(message, Some("background")));
    }
    if format == Format::Messages && what == What::Generate && scanned.max_tokens.is_none() {
        return Err(bad_request("`max_tokens` is missing", Some("max_tokens")));
    }
    Ok(Question { what, format, streaming, array, body, scanned, headers, asked_model })
}

fn bad_request(message: &str, field: Option<&str>) -> wire::BadRequest {
    wire::BadRequest { message: message.to_owned(), field: field.map(str::to_owned) }
}

/// The route for a model's name, if the key reaches it.
fn reachable(grant: &Grant, asked: &str) -> Result<Arc<Route>, (ErrorClass, String)> {
    if !grant.rights.call {
        return Err((ErrorClass::Forbidden, "this key may not call models".into()));
    }
    let Some(route) = grant.project.resolve(asked) else {
        // Whether the name exists is said only to who may use it; what was retired is known to everybody.
        let message = grant.project.farewell(asked).unwrap_or_else(|| {
            format!(
                "there is no route and no model `{asked}` for this key; `GET /v1/models` lists what there is"
            )
        });
        return Err((ErrorClass::NotFound, message));
    };
    if grant.reach.allows(asked) || grant.reach.allows(&route.name) {
        return Ok(route);
    }
    Err((
        ErrorClass::NotFound,
        format!(
            "there is no route and no model `{asked}` for this key; `GET /v1/models` lists what there is"
        ),
    ))
}

/// Why nobody can be asked, where the models of all targets were retired without a successor.
fn all_gone(route: &Route) -> Option<String> {
    let first = route.targets.first()?;
    let all = route.targets.iter().all(|target| target.is_gone);
    let retired = first.retired.as_ref().filter(|_| all)?;
    Some(catalog::gone(first.provider.kind.as_str(), retired))
}

fn list_models(visit: &Visit, grant: &Grant, format: Format, one: Option<&str>) -> Response<Answer> {
    match models::list(grant, format, one) {
        Some(body) => json(body),
        None => Problem::new(ErrorClass::NotFound, "there is no such model for this key")
            .answer(format, &visit.request_id),
    }
}

/// Tokens by our own estimate, where the provider does not count.
fn counted_here(
    question: &Question<'_>,
    route: &Route,
    count: u64,
    mut flight: Box<Flight>,
) -> Response<Answer> {
    let body = wire::count_tokens_reply(question.format, count);
    flight.record().response_bytes = body.len() as u64;
    flight.committed(StatusCode::OK.as_u16(), Instant::now());
    flight.end(Ending::Complete);
    let mut response = json(body);
    response.headers_mut().insert(header::ESTIMATED, HeaderValue::from_static("true"));
    name_route(response.headers_mut(), route);
    response
}

fn json(body: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn name_route(headers: &mut HeaderMap, route: &Route) {
    if let Ok(value) = HeaderValue::from_str(&route.name) {
        headers.insert(header::ROUTE, value);
    }
}

/// A limit or a budget in the client's protocol.
pub(crate) fn refused(refusal: &Refusal, format: Format, id: &HeaderValue) -> Response<Answer> {
    let class = match refusal.status {
        StatusCode::TOO_MANY_REQUESTS => ErrorClass::Rate,
        StatusCode::PAYMENT_REQUIRED => ErrorClass::Quota,
        StatusCode::BAD_REQUEST => ErrorClass::BadRequest,
        StatusCode::FORBIDDEN => ErrorClass::Forbidden,
        _ => ErrorClass::Unavailable,
    };
    let problem = Problem {
        status: refusal.status,
        class,
        message: &refusal.message,
        code: Some(refusal.code),
        field: None,
        retry_after: refusal.retry_after,
    };
    let mut response = problem.answer(format, id);
    // Official clients try a 429 again by themselves; a budget does not come back in seconds.
    if refusal.retry_after.is_none_or(|wait| wait > Duration::from_mins(1)) {
        response.headers_mut().insert(header::SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    response
}

/// A request with its route, from the first attempt to the answer.
pub(crate) struct Course<'a> {
    pub(crate) visit: &'a Visit,
    pub(crate) question: &'a Question<'a>,
    pub(crate) route: &'a Arc<Route>,
    /// Id of the virtual key.
    client: &'a str,
    /// Tokens that the budget allows, where fewer than asked for.
    clamp: Option<u64>,
}

/// Why there is no answer.
enum GivenUp {
    /// The last attempt's failure.
    Failed(Box<Failed>),
    /// Nobody could be asked.
    Nobody { retry_after: Option<Duration>, why: Option<FailureClass> },
    /// No target can do this.
    Impossible(String),
    /// The budget has no money for another attempt.
    Refused(Box<Refusal>),
    /// The request cannot be said in the only formats that there are.
    Unsayable(wire::BadRequest),
}

impl Course<'_> {
    async fn fly(&self, flight: &mut Flight) -> Result<(Won, Vec<String>), GivenUp> {
        let config = &self.route.config;
        let deadline = self.visit.started + Duration::from_millis(config.timeouts.total_ms);
        let mut tried = Tried::default();
        let mut counted = 0_u32;
        let mut last: Option<Box<Failed>> = None;
        let mut unsayable = None;
        for (index, target) in self.route.targets.iter().enumerate() {
            let barred = flight.reservation.as_ref().is_some_and(|reservation| !reservation.allows(target));
            if barred || target.is_gone || !self.can(target) {
                tried.exclude(index);
            }
        }
        loop {
            let now = Instant::now();
            let Some(index) = choose(self.route, &tried, now) else {
                // All rest: waited for only as long as the route allows.
                let back = back_at(self.route, &tried, now);
                let wait = back.map(|back| back.saturating_duration_since(now));
                let patient = wait.is_some_and(|wait| {
                    wait <= Duration::from_millis(config.retry.wait_max_ms) && now + wait < deadline
                });
                if let (Some(back), true, true) = (back, patient, counted < config.retry.attempts) {
                    tokio::time::sleep_until(
                        back + backoff(1, Duration::from_millis(50), Duration::from_millis(50)),
                    )
                    .await;
                    continue;
                }
                return Err(match (last, unsayable) {
                    (Some(last), _) => GivenUp::Failed(last),
                    (None, Some(error)) => GivenUp::Unsayable(error),
                    (None, None) => self.nobody(&tried, now),
                });
            };
            let target = &self.route.targets[index];
            let repeats = u32::from(tried.times(index));
            if repeats > 0 {
                let wait = backoff(
                    repeats,
                    Duration::from_millis(config.retry.base_ms),
                    Duration::from_millis(config.retry.wait_max_ms),
                );
                let asked = last.as_ref().and_then(|failed| failed.failure.retry_after).unwrap_or_default();
                let wait = wait.max(asked);
                let too_long =
                    asked > Duration::from_millis(config.retry.wait_max_ms) || now + wait >= deadline;
                if let Some(failed) = last.take_if(|_| too_long || !target.provider.retries.take(now)) {
                    return Err(GivenUp::Failed(failed));
                }
                tokio::time::sleep(wait).await;
            } else if flight.attempts() == 0 {
                target.provider.retries.earn();
            }
            let now = Instant::now();
            let (Some(pass), Some(lent)) = (target.breaker.enter(now), target.provider.pool.pick(now)) else {
                // Somebody else was faster; with a bound, so that two requests cannot push each other for ever.
                tried.failed(index);
                counted += 1;
                if counted >= config.retry.attempts.max(1) {
                    return Err(last.map_or_else(|| self.nobody(&tried, now), GivenUp::Failed));
                }
                continue;
            };
            let prepared = match self.prepare(target) {
                Ok(mut prepared) => {
                    let from = self.question.headers;
                    self.visit.trace(&target.provider, flight.attempts(), from, &mut prepared.headers);
                    if let Some(key) = from.get(IDEMPOTENCY_KEY) {
                        let to: [&[u8]; 2] = [target.shown().as_bytes(), &prepared.body];
                        prepared.headers.insert(IDEMPOTENCY_KEY, once::for_provider(self.client, key, &to));
                    }
                    prepared
                }
                Err(error) => {
                    tried.exclude(index);
                    unsayable = Some(error);
                    continue;
                }
            };
            if let Some(failed) = &last
                && failed.may_cost
                && let Some(reservation) = &mut flight.reservation
            {
                reservation.again().map_err(GivenUp::Refused)?;
            }
            let outbound = Outbound {
                ready: prepared.ready,
                headers: prepared.headers,
                body: prepared.body,
                format: prepared.format,
                streaming: self.question.streaming,
                timeouts: &config.timeouts,
                deadline,
                now: self.visit.now,
            };
            let failed = match attempt(target, pass, lent, outbound, flight).await {
                Ok(won) => return Ok((won, prepared.lost)),
                Err(failed) => failed,
            };
            let class = failed.failure.class;
            let mut is_free = false;
            match class {
                FailureClass::BadRequest | FailureClass::Refused => return Err(GivenUp::Failed(failed)),
                FailureClass::ContextLength => self.exclude_smaller(index, &mut tried),
                FailureClass::NotFound => tried.exclude(index),
                FailureClass::Rate | FailureClass::Quota | FailureClass::Key => {
                    // Another key of the same provider is no second try of the same thing.
                    if target.provider.pool.is_ready(Instant::now()) {
                        is_free = true;
                    } else if class != FailureClass::Rate {
                        tried.exclude(index);
                    }
                }
                FailureClass::Overloaded
                | FailureClass::Server
                | FailureClass::Network
                | FailureClass::Timeout
                | FailureClass::Truncated => tried.failed(index),
            }
            counted += u32::from(!is_free);
            last = Some(failed);
            if counted >= config.retry.attempts
                || flight.attempts() >= ATTEMPTS_MAX
                || Instant::now() >= deadline
            {
                return Err(last.map_or_else(|| self.nobody(&tried, now), GivenUp::Failed));
            }
        }
    }

    /// Whether a target can do what is asked at all.
    fn can(&self, target: &Target) -> bool {
        match self.question.what {
            What::Embed => target.embed().is_some(),
            What::CountTokens => target.counts().is_some(),
            _ => true,
        }
    }

    /// After a prompt that was too long only models with a larger window are asked.
    fn exclude_smaller(&self, than: usize, tried: &mut Tried) {
        let window = |index: usize| self.route.targets[index].context_tokens.unwrap_or(0);
        for index in 0..self.route.targets.len() {
            if index == than || window(index) <= window(than) {
                tried.exclude(index);
            }
        }
    }

    fn nobody(&self, tried: &Tried, now: Instant) -> GivenUp {
        let mut targets =
            self.route.targets.iter().enumerate().filter(|(index, _)| !tried.is_excluded(*index)).peekable();
        if targets.peek().is_none() {
            let what = match self.question.what {
                What::Embed => "embeds",
                What::CountTokens => "counts tokens",
                _ => "answers",
            };
            return GivenUp::Impossible(format!("no target of `{}` {what} in this format", self.route.name));
        }
        let (mut until, mut why) = (None::<Instant>, None);
        for (_, target) in targets {
            let opens = target.breaker.open_until(now);
            let waits = target.provider.pool.waits(now).filter(|_| opens.is_none());
            let ends = opens.or(waits.map(|(at, _)| at));
            until = until.into_iter().chain(ends).min();
            // A rate limit that ends by itself says more than a quota.
            why = match (why, waits.map(|(_, class)| class)) {
                (Some(FailureClass::Rate), _) | (_, None) => why,
                (_, class) => class,
            };
        }
        GivenUp::Nobody { retry_after: until.map(|at| at.saturating_duration_since(now)), why }
    }

    /// What a target is sent: the client's own bytes if it understands them, else the same in its own format.
    fn prepare<'t>(&self, target: &'t Target) -> Result<Prepared<'t>, wire::BadRequest> {
        let question = self.question;
        let model = target.provider.adapter.name_sent(&target.model);
        // Servers that are only compatible know the older name.
        let own = target.provider.kind != ProviderKind::Openai || target.provider.formats.len() > 1;
        let chat_limit = if own { "max_completion_tokens" } else { "max_tokens" };
        let to = wire::Target {
            stream: question.streaming,
            // No more than the model can say, which it would refuse.
            max_tokens_default: self.clamp.unwrap_or_else(|| {
                self.route.config.max_tokens.min(target.output_tokens_max.unwrap_or(u64::MAX))
            }),
            chat_limit,
            chat_cache_control: target.provider.cache_control,
            ..wire::Target::new(model)
        };
        let (format, ready) = match question.what {
            What::Embed => {
                let Some((format, one, batch)) = target.embed() else {
                    return Err(bad_request("the provider has no embeddings", None));
                };
                let (asked, provided) = (self.embedding(), provided(*format, question));
                let ready = match (provided, batch) {
                    (Embedding::GeminiBatch, Some(batch)) => batch,
                    _ => one,
                };
                if asked != provided {
                    let converted = wire::convert_embedding_request(asked, provided, &question.body, model)?;
                    return Ok(self.converted(ready, *format, converted));
                }
                (*format, ready)
            }
            What::CountTokens => {
                let Some((format, ready)) =
                    target.count(question.format).map(|ready| (question.format, ready)).or(target.counts())
                else {
                    return Err(bad_request("the provider does not count tokens", None));
                };
                if format != question.format {
                    let converted =
                        wire::convert_count_request(question.format, format, &question.body, &to)?;
                    return Ok(self.converted(ready, format, converted));
                }
                (format, ready)
            }
            _ => {
                let lane = target.lane(question.format);
                (lane.format, if question.streaming { &lane.streaming } else { &lane.plain })
            }
        };
        let mut rewrite = Rewrite::new(&question.body, &question.scanned);
        if let Some(clamp) = self.clamp {
            rewrite = rewrite.max_tokens_as(clamp, chat_limit);
        }
        if format != question.format {
            let body = if rewrite.is_unchanged() { question.body.clone() } else { rewrite.finish().into() };
            let converted = wire::convert_request(question.format, format, &body, &to)?;
            return Ok(self.converted(ready, format, converted));
        }
        rewrite = rewrite.model(model);
        if question.streaming && question.what == What::Generate {
            rewrite = rewrite.include_usage();
        }
        let body = if rewrite.is_unchanged() { question.body.clone() } else { rewrite.finish().into() };
        let mut headers = HeaderMap::with_capacity(question.headers.len() + 4);
        header::forward(question.headers, &mut headers);
        Ok(Prepared { ready, format, body, headers, lost: Vec::new() })
    }

    fn converted<'t>(&self, ready: &'t Ready, format: Format, converted: wire::Converted) -> Prepared<'t> {
        let mut headers = HeaderMap::with_capacity(8);
        header::forward_neutral(self.question.headers, &mut headers);
        let mut lost = converted.dropped;
        lost.extend(converted.changed);
        Prepared { ready, format, body: converted.body.into(), headers, lost }
    }

    /// In which form the client asks for embeddings.
    fn embedding(&self) -> Embedding {
        match (self.question.format, self.question.array) {
            (Format::Gemini, true) => Embedding::GeminiBatch,
            (Format::Gemini, false) => Embedding::GeminiOne,
            _ => Embedding::OpenAi,
        }
    }

    /// A whole answer in the client's format.
    fn reply(&self, format: Format, body: Bytes) -> Result<Bytes, wire::BadReply> {
        let question = self.question;
        let shown = Shown {
            model: &question.asked_model,
            created_s: u64::try_from(self.visit.now.as_second()).unwrap_or(0),
            seed: self.seed(),
        };
        match question.what {
            What::Embed => {
                let (asked, provided) = (self.embedding(), provided(format, question));
                if asked == provided {
                    return Ok(body);
                }
                let base64 = asked == Embedding::OpenAi && wire::wants_base64(&question.body);
                wire::convert_embedding_reply(provided, asked, &body, &shown, base64).map(Bytes::from)
            }
            _ if format == question.format => Ok(body),
            What::CountTokens => match wire::read_count_tokens(format, &body) {
                Some(count) => Ok(wire::count_tokens_reply(question.format, count).into()),
                None => {
                    Err(wire::BadReply { message: "the provider's count cannot be read".into(), error: None })
                }
            },
            _ => wire::convert_reply(format, question.format, &body, &shown).map(Bytes::from),
        }
    }

    /// Under which key the reply to this question is kept, and whether the likeliest answer is wanted and no other.
    fn asked(&self, grant: &Grant) -> Result<(cache::Key, bool), cache::Bypass> {
        self.tenant(grant, |tenant| cache::asked(tenant, self.question.format, &self.question.body))
    }

    /// Whose question it is.
    pub(crate) fn tenant<T>(&self, grant: &Grant, with: impl FnOnce(Tenant<'_>) -> T) -> T {
        let targets: Vec<&[u8]> = self.route.targets.iter().map(|target| target.shown().as_bytes()).collect();
        let targets = targets.join(&b' ');
        let owner = match (self.route.config.cache.as_ref().map(|cache| cache.per), &grant.person) {
            (None | Some(CachePer::Project), _) => None,
            (Some(CachePer::Person), Some(person)) => Some(format!("person/{person}")),
            (Some(CachePer::Person | CachePer::Key), _) => Some(format!("key/{}", grant.id)),
        };
        with(Tenant {
            project: &grant.project.name,
            owner: owner.as_deref(),
            route: &self.route.name,
            targets: &targets,
            variant: &cache::variant(self.question.headers),
        })
    }

    /// A number that no other request has.
    fn seed(&self) -> u64 {
        u64::try_from(self.visit.id.as_u128() & u128::from(u64::MAX)).unwrap_or(0)
    }

    fn created_s(&self) -> u64 {
        u64::try_from(self.visit.now.as_second()).unwrap_or(0)
    }

    /// Gives an earlier reply again, streamed or whole as it is asked for now.
    ///
    /// `None`: it cannot be streamed; the provider is asked.
    fn again(&self, kept: &Kept, flight: &mut Flight) -> Option<Response<Answer>> {
        let question = self.question;
        let (body, kind) = if question.streaming {
            let options = StreamOptions {
                model: question.asked_model.clone(),
                created_s: self.created_s(),
                seed: self.seed(),
                include_usage: question.scanned.include_usage.as_ref().is_some_and(|field| field.value),
            };
            let Ok(events) = wire::reply_as_events(kept.format, &kept.body, options) else {
                flight.record().cache = CacheDecision::Bypass;
                return None;
            };
            (Bytes::from(events), "text/event-stream; charset=utf-8")
        } else {
            (kept.body.clone(), "application/json")
        };
        if let Some(transcript) = &mut flight.transcript {
            transcript.saw(&body);
        }
        flight.record().usage = Some(kept.usage);
        flight.record().response_bytes = body.len() as u64;
        flight.committed(StatusCode::OK.as_u16(), Instant::now());
        let mut response = Response::new(Answer::whole(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if question.streaming {
            headers.insert(header::ACCEL_BUFFERING, HeaderValue::from_static("no"));
        }
        headers.insert(header::ATTEMPTS, header::number(0));
        name_route(headers, self.route);
        if let Ok(made_by) = HeaderValue::try_from(kept.made_by.as_str()) {
            headers.insert(header::TARGET, made_by);
        }
        headers.insert(header::CACHE, HeaderValue::from_static(flight.record().cache.as_str()));
        if let Some(like) = flight.record().cache_note.as_ref().and_then(|note| note.like) {
            headers.insert(header::CACHE_OF, header::id_value(like.of));
            let similarity = format!("{}.{:04}", like.similarity / 10_000, like.similarity % 10_000);
            if let Ok(similarity) = HeaderValue::try_from(similarity) {
                headers.insert(header::CACHE_SIMILARITY, similarity);
            }
        }
        Some(response)
    }

    /// Answers with what was won.
    fn land(&self, won: Won, lost: &[String], mut flight: Box<Flight>) -> Response<Answer> {
        let Won { target, status, headers, format, what } = won;
        if format != Format::Responses {
            flight.kept_there = None;
        }
        flight.committed(status.as_u16(), Instant::now());
        let attempts = flight.attempts();
        let decision = flight.record().cache;
        let mut response = match what {
            WonBody::Whole(bytes, observed) => {
                flight.observed(&observed);
                if let Some(lookout) = &mut flight.lookout {
                    lookout.whole(&bytes);
                }
                match self.reply(format, bytes) {
                    Ok(bytes) => {
                        flight.record().response_bytes = bytes.len() as u64;
                        if let Some(transcript) = &mut flight.transcript {
                            transcript.saw(&bytes);
                        }
                        if let (Some(keeping), Some(usage), true) =
                            (flight.keeping.take(), flight.record().usage, status == StatusCode::OK)
                        {
                            let made_by = target.shown().to_str().unwrap_or_default().to_owned();
                            keeping.keep(bytes.clone(), usage, made_by);
                        }
                        flight.end(Ending::Complete);
                        let mut response = Response::new(Answer::whole(bytes));
                        *response.status_mut() = status;
                        let same = format == self.question.format;
                        header::backward(&headers, response.headers_mut(), same);
                        if !same {
                            let json = HeaderValue::from_static("application/json");
                            response.headers_mut().insert(CONTENT_TYPE, json);
                        }
                        response
                    }
                    Err(error) => {
                        let mut problem = Problem::new(ErrorClass::Server, &error.message);
                        problem.status = StatusCode::BAD_GATEWAY;
                        flight.failed_later(FailureClass::Server, &error.message);
                        flight.committed(problem.status.as_u16(), Instant::now());
                        flight.end(Ending::Interrupted);
                        problem.answer(self.question.format, &self.visit.request_id)
                    }
                }
            }
            WonBody::Stream(opened) => {
                let asked_for_usage =
                    self.question.scanned.include_usage.as_ref().is_some_and(|field| field.value);
                let converter = (format != self.question.format).then(|| {
                    let options = StreamOptions {
                        model: self.question.asked_model.clone(),
                        created_s: u64::try_from(self.visit.now.as_second()).unwrap_or(0),
                        seed: self.seed(),
                        include_usage: asked_for_usage,
                    };
                    StreamConverter::new(format, self.question.format, options)
                });
                let shape = Shape {
                    format: self.question.format,
                    hide_usage: converter.is_none() && format == Format::Chat && !asked_for_usage,
                    array: self.question.array,
                    converter,
                };
                let kind = if shape.array { "application/json" } else { "text/event-stream; charset=utf-8" };
                let timeouts = &self.route.config.timeouts;
                let peer = self.visit.peer.clone();
                let relay = Relay::new(Arc::clone(&target), *opened, shape, flight, timeouts, peer);
                let mut response = Response::new(Answer::stream(relay));
                header::backward(&headers, response.headers_mut(), false);
                let to = response.headers_mut();
                to.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                to.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                to.insert(header::ACCEL_BUFFERING, HeaderValue::from_static("no"));
                *response.status_mut() = status;
                response
            }
        };
        let to = response.headers_mut();
        name_route(to, self.route);
        to.insert(header::TARGET, target.shown().clone());
        if let Some(retired) = &target.retired
            && let Ok(value) = HeaderValue::try_from(format!("{}; retired={}", retired.model, retired.since))
        {
            to.insert(header::INSTEAD_OF, value);
        }
        to.insert(header::ATTEMPTS, header::number(attempts as u64));
        if decision != CacheDecision::Off {
            to.insert(header::CACHE, HeaderValue::from_static(decision.as_str()));
        }
        if let Some(clamp) = self.clamp {
            to.insert(header::MAX_TOKENS, header::number(clamp));
        }
        if !lost.is_empty()
            && let Ok(value) = HeaderValue::try_from(lost.join(", "))
        {
            to.insert(header::DROPPED, value);
        }
        response
    }

    /// Tells the client why there is no answer.
    fn give_up(&self, given_up: GivenUp, mut flight: Box<Flight>) -> Response<Answer> {
        let (format, id) = (self.question.format, &self.visit.request_id);
        let attempts = flight.attempts();
        let mut response = match given_up {
            GivenUp::Failed(failed) => failure_answer(*failed, format, id),
            GivenUp::Refused(refusal) => refused(&refusal, format, id),
            GivenUp::Impossible(message) => Problem::new(ErrorClass::BadRequest, &message).answer(format, id),
            GivenUp::Unsayable(error) => {
                let mut problem = Problem::new(ErrorClass::BadRequest, &error.message);
                problem.field = error.field.as_deref();
                problem.answer(format, id)
            }
            GivenUp::Nobody { retry_after, why } => {
                // What the provider would say if it were asked: 429 also for a quota.
                let (class, why) = match why {
                    Some(FailureClass::Rate) => (ErrorClass::Rate, "their keys wait for a rate limit"),
                    Some(_) => (ErrorClass::Rate, "the quota or the credit of their keys is used up"),
                    None => (ErrorClass::Unavailable, "they failed, or none of their keys works"),
                };
                let message = format!("no target of `{}` can be asked now: {why}", self.route.name);
                let mut problem = Problem::new(class, &message);
                problem.retry_after = retry_after;
                problem.answer(format, id)
            }
        };
        let headers = response.headers_mut();
        name_route(headers, self.route);
        headers.insert(header::ATTEMPTS, header::number(attempts as u64));
        flight.committed(response.status().as_u16(), Instant::now());
        flight.end(Ending::Failed);
        response
    }
}

/// In which form the provider embeds; Gemini is asked for several at once unless one is all that was asked for.
fn provided(format: Format, question: &Question<'_>) -> Embedding {
    match (format, question.format, question.array) {
        (Format::Gemini, Format::Gemini, false) => Embedding::GeminiOne,
        (Format::Gemini, ..) => Embedding::GeminiBatch,
        _ => Embedding::OpenAi,
    }
}

/// The provider's own error where the client speaks its format, else the same said in the client's.
pub(crate) fn failure_answer(failed: Failed, format: Format, id: &HeaderValue) -> Response<Answer> {
    let Failed { failure, answer, format: theirs, .. } = failed;
    let Failure { class, retry_after, message, .. } = failure;
    let mut response = match answer {
        Some((status, headers, body)) if theirs == format && !body.is_empty() => {
            let mut response = Response::new(Answer::whole(body));
            header::backward(&headers, response.headers_mut(), true);
            *response.status_mut() = status;
            response
        }
        other => {
            let message = if message.is_empty() { "the provider failed" } else { &message };
            let mut problem = Problem::new(told_as(class), message);
            let (status, headers) = match other {
                Some((status, headers, _)) => (status, Some(headers)),
                None => (status_for(class), None),
            };
            problem.status = status;
            problem.retry_after = retry_after;
            let mut response = problem.answer(format, id);
            if let Some(headers) = headers {
                let mut kept = HeaderMap::new();
                header::backward(&headers, &mut kept, false);
                for (name, value) in &kept {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            response
        }
    };
    let to = response.headers_mut();
    if let Some(wait) = retry_after
        && !to.contains_key(RETRY_AFTER)
    {
        to.insert(RETRY_AFTER, header::number(whole_seconds(wait)));
    }
    response
}
