//! The cache's second look: questions in other words are compared, and what was answered to them is checked.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::HeaderMap;
use serde_json::json;
use tokio::time::Instant;
use wire::{Format, Shown};

use crate::attempt::read;
use crate::cache::{self, Kept};
use crate::config::SemanticConfig;
use crate::flight::Flight;
use crate::handle::{Course, Errand, Gateway, Recorded, Visit};
use crate::header;
use crate::meter::{CacheDecision, Likeness, RequestId};
use crate::once::IDEMPOTENCY_KEY;
use crate::peer::Peer;
use crate::semantic::{self, CheckLabels, Place, Saying, per_ten_thousand, similarity};
use crate::sense::sense;
use crate::shelf::Check;
use crate::surface::Surface;
use crate::table::{Grant, Limits, Route, Table};

/// Answers that are checked at the same time; further ones are not.
pub(crate) const CHECKING_MAX: usize = 8;
/// Largest answer that is checked, and largest list of embeddings, in bytes.
const CHECKED_BYTES_MAX: usize = 4 << 20;

/// The embeddings of texts, in their order. Boxed: a request asks for it, and it is a request itself.
type Embedding<'a> = Pin<Box<dyn Future<Output = Option<Vec<Arc<[f32]>>>> + Send + 'a>>;

/// What came of comparing a question.
pub(crate) enum Compared {
    /// It was asked before in other words.
    Same(Arc<Kept>),
    /// It was not; where it is remembered once it is answered, if it can be compared at all.
    New(Option<(Place, Saying)>),
}

/// An answer to other words that is asked for once more.
struct Checked {
    /// The request that got it.
    of: RequestId,
    route: Arc<Route>,
    table: Arc<Table>,
    surface: Surface,
    headers: HeaderMap,
    body: Bytes,
    streaming: bool,
    kept: Arc<Kept>,
    like: Likeness,
    semantic: SemanticConfig,
}

/// The same without limits: the client asked once, and what the cache asks besides must not take its place. Budgets hold.
fn unlimited(grant: &Arc<Grant>) -> Arc<Grant> {
    if grant.limits == Limits::default() {
        return Arc::clone(grant);
    }
    Arc::new(Grant {
        id: Arc::clone(&grant.id),
        name: Arc::clone(&grant.name),
        person: grant.person.clone(),
        project: Arc::clone(&grant.project),
        reach: grant.reach.clone(),
        rights: grant.rights,
        expires: grant.expires,
        limits: Limits::default(),
    })
}

impl Gateway {
    /// Waits until nothing is being checked beside the requests any more.
    pub async fn settled(&self) {
        let all = u32::try_from(CHECKING_MAX).unwrap_or(u32::MAX);
        drop(self.checking.acquire_many(all).await);
    }

    /// Compares the question with those that ask the same in other words.
    pub(crate) async fn compare(
        &self,
        course: &Course<'_>,
        grant: &Arc<Grant>,
        semantic: &SemanticConfig,
        key: cache::Key,
        flight: &mut Flight,
    ) -> Compared {
        let Course { visit, question, .. } = course;
        let single = wire::single(question.format, &question.body)
            .filter(|single| single.text.len() <= semantic.question_bytes_max);
        let Some((single, sense)) =
            single.and_then(|single| Some((sense(&single.text)?, single))).map(|(a, b)| (b, a))
        else {
            return Compared::New(None);
        };
        let place = course.tenant(grant, |tenant| {
            cache::place(tenant, question.format, &semantic.embeddings, &single.frame, &sense)
        });
        let now = SystemTime::from(visit.now);
        let mut own = Saying {
            text: single.text.into(),
            vector: None,
            key,
            request: visit.id,
            until: now,
            is_echo: false,
        };
        let mut known = self.sayings.find(&place, now);
        // The very same words may have been compared before.
        own.vector = known.iter().find(|saying| saying.text == own.text).and_then(|same| same.vector.clone());
        let is_echoed = own.vector.is_some();
        known.retain(|saying| saying.text != own.text && !saying.is_echo);
        if known.is_empty() {
            // Nothing to compare with, so nothing is embedded: whoever asks next in other words does it for both.
            return Compared::New(Some((place, own)));
        }
        let unknown = known.iter().filter(|saying| saying.vector.is_none()).map(|saying| &*saying.text);
        let texts: Vec<&str> = Some(&*own.text).filter(|_| !is_echoed).into_iter().chain(unknown).collect();
        if !texts.is_empty() {
            let waited = Instant::now();
            let embedding = self.embed(grant, &visit.table, &semantic.embeddings, &texts);
            let embedded = tokio::time::timeout(Duration::from_millis(semantic.timeout_ms), embedding).await;
            flight.record().waited += waited.elapsed();
            let Some(vectors) = embedded.ok().flatten() else {
                if let Some(note) = &mut flight.record().cache_note {
                    note.embedding_failed = true;
                }
                return Compared::New(Some((place, own)));
            };
            let mut vectors = vectors.into_iter();
            if !is_echoed {
                own.vector = vectors.next();
            }
            for saying in known.iter_mut().filter(|saying| saying.vector.is_none()) {
                saying.vector = vectors.next();
                self.sayings.add(place, saying.clone());
            }
        }
        let mut alike: Vec<(f32, Saying)> = known
            .into_iter()
            .filter_map(|saying| Some((similarity(own.vector.as_ref()?, saying.vector.as_ref()?)?, saying)))
            .filter(|(similarity, _)| *similarity >= semantic.threshold)
            .collect();
        alike.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        for (similarity, saying) in alike {
            let kept = match (self.cache.peek(saying.key, now), &self.shelf) {
                (Some(kept), _) => Some(kept),
                (None, Some(file)) => file.find(&grant.project.name, saying.key, now).await.map(Arc::new),
                (None, None) => None,
            };
            let Some(kept) = kept else { continue };
            if !is_echoed {
                self.sayings.add(place, Saying { until: saying.until, is_echo: true, ..own });
            }
            flight.record().cache = CacheDecision::Semantic;
            if let Some(note) = &mut flight.record().cache_note {
                note.like = Some(Likeness { of: saying.request, similarity: per_ten_thousand(similarity) });
            }
            return Compared::Same(kept);
        }
        Compared::New(Some((place, own)))
    }

    /// Embeds texts in the name of the client's key, whose limits it does not use; `None`: it failed, and its receipt says
    /// why.
    fn embed<'a>(
        &'a self,
        grant: &'a Arc<Grant>,
        table: &'a Arc<Table>,
        route: &'a str,
        texts: &'a [&'a str],
    ) -> Embedding<'a> {
        Box::pin(async move {
            let body = json!({ "model": route, "input": texts, "encoding_format": "float" }).to_string();
            let surface = Surface::Embed { format: Format::Chat, model: None, batch: false };
            let (visit, headers) = (self.visit_of_ours(table), HeaderMap::new());
            let response = self
                .ask_a_model(&visit, &unlimited(grant), surface, &headers, body.into(), Errand::Embed)
                .await;
            if !response.status().is_success() {
                return None;
            }
            let body = read(&mut response.into_body(), CHECKED_BYTES_MAX).await.ok()?;
            semantic::vectors(&body, texts.len())
        })
    }

    fn visit_of_ours(&self, table: &Arc<Table>) -> Visit {
        let now = self.clock.now();
        let id = RequestId::new(now);
        Visit {
            id,
            request_id: header::id_value(id),
            started: Instant::now(),
            now,
            table: Arc::clone(table),
            watch: Arc::clone(&self.watch),
            trace: None,
            peer: Peer::default(),
            recorded: Recorded::default(),
        }
    }

    /// Asks a share of what was answered to other words once more, beside the request.
    pub(crate) fn check_later(
        &self,
        course: &Course<'_>,
        grant: &Arc<Grant>,
        surface: Surface,
        kept: &Arc<Kept>,
        like: Likeness,
    ) {
        let Some(semantic) = course.route.config.cache.as_ref().and_then(|cache| cache.semantic.clone())
        else {
            return;
        };
        if !crate::random::happens(semantic.check) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.checking).try_acquire_owned() else { return };
        let mut headers = course.question.headers.clone();
        // It is another request, and nobody's first one.
        headers.remove(IDEMPOTENCY_KEY);
        let checked = Checked {
            of: course.visit.id,
            route: Arc::clone(course.route),
            table: Arc::clone(&course.visit.table),
            surface,
            headers,
            body: course.question.body.clone(),
            streaming: course.question.streaming,
            kept: Arc::clone(kept),
            like,
            semantic,
        };
        let (gateway, grant) = (self.clone(), Arc::clone(grant));
        tokio::spawn(async move {
            if let Some((id, agrees)) = gateway.check(&grant, &checked).await {
                gateway.checked(&grant, &checked, id, agrees).await;
            }
            drop(permit);
        });
    }

    /// Whether a fresh answer agrees with the one that was given; `None`: there is no fresh one to compare with.
    async fn check(&self, grant: &Arc<Grant>, checked: &Checked) -> Option<(RequestId, bool)> {
        let visit = self.visit_of_ours(&checked.table);
        let (surface, body) = (checked.surface.clone(), checked.body.clone());
        let errand = Errand::Check(checked.of);
        let grant = &unlimited(grant);
        let response = self.ask_a_model(&visit, grant, surface, &checked.headers, body, errand).await;
        if !response.status().is_success() {
            return None;
        }
        let mut body = read(&mut response.into_body(), CHECKED_BYTES_MAX).await.ok()?;
        let format = checked.kept.format;
        if checked.streaming {
            body = wire::events_as_reply(format, body, &Shown::default(), None).ok()?.into();
        }
        let fresh = wire::reply_text(format, &body).ok()?;
        let given = wire::reply_text(format, &checked.kept.body).ok()?;
        if semantic::same_words(&fresh, &given) {
            return Some((visit.id, true));
        }
        let texts = [fresh.as_str(), given.as_str()];
        let vectors = self.embed(grant, &checked.table, &checked.semantic.embeddings, &texts).await?;
        Some((visit.id, semantic::agree((&fresh, &vectors[0]), (&given, &vectors[1]))))
    }

    async fn checked(&self, grant: &Grant, checked: &Checked, id: RequestId, agrees: bool) {
        let labels = CheckLabels {
            steward_project: grant.project.name.to_string(),
            steward_route: checked.route.name.to_string(),
            agrees: if agrees { "yes" } else { "no" },
        };
        self.checks.get_or_create(&labels).inc();
        let Some(file) = &self.shelf else { return };
        let check = Check {
            project: &grant.project.name,
            route: &checked.route.name,
            id,
            of: checked.of,
            at: self.clock.now(),
            similarity: checked.like.similarity,
            agrees,
        };
        if let Err(error) = file.checked(&check).await {
            tracing::warn!(%error, "a check of the cache is not recorded");
        }
    }
}
