//! A request on its way: what is known of it, and the certainty that it is settled.

use std::sync::Arc;
use std::time::Duration;

use contract::ai::FailureClass;
use tokio::time::Instant;
use wire::Observed;

use crate::cache::Keeping;
use crate::handle::Visit;
use crate::lookout::Lookout;
use crate::meter::{Attempt, CacheDecision, Ending, Reservation, Settlement, What};
use crate::table::{Grant, Project, Route, Target};
use crate::transcript::Transcript;
use crate::watch::Watch;

/// The status of a request whose client left before it got one; as nginx writes it.
const CLIENT_LEFT: u16 = 499;

/// What the provider that answers keeps, so that it is known whose it is.
#[derive(Default)]
pub(crate) struct KeptThere {
    /// The response.
    pub(crate) response: bool,
    /// The conversation that it goes into.
    pub(crate) conversation: Option<Box<str>>,
}

/// An admitted request. Dropped before its end, it is settled as left by its client.
pub(crate) struct Flight {
    project: Arc<Project>,
    watch: Arc<Watch>,
    pub(crate) started: Instant,
    pub(crate) reservation: Option<Reservation>,
    /// Looks for keys in the reply.
    pub(crate) lookout: Option<Lookout>,
    /// Where its reply is kept for the next one who asks.
    pub(crate) keeping: Option<Box<Keeping>>,
    /// What the provider keeps of it, where it does.
    pub(crate) kept_there: Option<Box<KeptThere>>,
    /// What was said, where the route stores it.
    pub(crate) transcript: Option<Box<Transcript>>,
    record: Option<Settlement>,
}

impl Flight {
    pub(crate) fn new(
        visit: &Visit,
        what: What,
        grant: &Grant,
        route: &Arc<Route>,
        asked_model: &str,
        streaming: bool,
        reservation: Reservation,
    ) -> Box<Self> {
        visit.recorded.set();
        Box::new(Self {
            project: Arc::clone(&grant.project),
            watch: Arc::clone(&visit.watch),
            started: visit.started,
            reservation: Some(reservation),
            lookout: None,
            keeping: None,
            kept_there: None,
            transcript: None,
            record: Some(Settlement {
                request: visit.id,
                what,
                started: visit.now,
                attempts: Vec::with_capacity(1),
                route: Arc::clone(route),
                asked_model: asked_model.into(),
                streaming,
                usage: None,
                input_tokens_estimate: 0,
                delivered_bytes: 0,
                reported_model: None,
                service_tier: None,
                ending: Ending::Disconnected,
                status: CLIENT_LEFT,
                cache: CacheDecision::Off,
                cache_note: None,
                first_byte: None,
                duration: Duration::ZERO,
                waited: Duration::ZERO,
                clamped_max_tokens: None,
                request_bytes: 0,
                response_bytes: 0,
                trace: visit.trace,
                kept_there: Vec::new(),
            }),
        })
    }

    /// The record so far.
    ///
    /// It is there until [`Flight::end`] takes the flight itself.
    pub(crate) fn record(&mut self) -> &mut Settlement {
        self.record.as_mut().expect("only `end` and `drop` take it, and both own the flight")
    }

    pub(crate) fn attempts(&self) -> usize {
        self.record.as_ref().map_or(0, |record| record.attempts.len())
    }

    /// An attempt begins. Until it is told otherwise it counts as sent and unanswered.
    pub(crate) fn begin(&mut self, target: &Arc<Target>, key: &Arc<str>, now: Instant) {
        let began = now.saturating_duration_since(self.started);
        self.record().attempts.push(Attempt {
            target: Arc::clone(target),
            key: Arc::clone(key),
            status: None,
            failure: None,
            may_cost: true,
            message: None,
            began,
            took: Duration::ZERO,
        });
    }

    /// The last attempt's headers or failure have come. `may_cost`: the provider may want money for it.
    pub(crate) fn answered(
        &mut self,
        status: Option<u16>,
        failure: Option<(FailureClass, &str)>,
        may_cost: bool,
        now: Instant,
    ) {
        let at = now.saturating_duration_since(self.started);
        let record = self.record();
        if let Some(attempt) = record.attempts.last_mut() {
            // An answer that turns out to be none was an answer all the same.
            attempt.status = status.or(attempt.status);
            let took = at.saturating_sub(attempt.began);
            record.waited += took.saturating_sub(attempt.took);
            attempt.took = took;
            attempt.may_cost = may_cost;
            if let Some((class, message)) = failure {
                attempt.failure = Some(class);
                attempt.message = (!message.is_empty()).then(|| message.into());
            }
        }
    }

    /// The last attempt failed after its headers.
    pub(crate) fn failed_later(&mut self, class: FailureClass, message: &str) {
        if let Some(attempt) = self.record().attempts.last_mut() {
            attempt.failure = Some(class);
            attempt.message = (!message.is_empty()).then(|| message.into());
        }
    }

    /// The client gets its headers now.
    pub(crate) fn committed(&mut self, status: u16, now: Instant) {
        let at = now.saturating_duration_since(self.started);
        let record = self.record();
        record.status = status;
        record.first_byte.get_or_insert(at);
    }

    /// Takes over what the tap saw.
    pub(crate) fn observed(&mut self, observed: &Observed) {
        // By what the provider said: in another format a refusal may look like any text.
        if observed.is_refused || observed.is_cut_at_limit {
            self.keeping = None;
        }
        let record = self.record();
        record.usage = observed.usage;
        record.delivered_bytes = observed.output_bytes;
        record.reported_model = observed.model.as_deref().map(Into::into);
        record.service_tier = observed.service_tier.as_deref().map(Into::into);
        if let Some(kept) = self.kept_there.take() {
            let response = observed.id.as_deref().filter(|_| kept.response).map(|id| ("response", id.into()));
            let conversation = kept.conversation.map(|id| ("conversation", id));
            self.record().kept_there = response.into_iter().chain(conversation).collect();
        }
    }

    /// The request is over.
    pub(crate) fn end(mut self: Box<Self>, ending: Ending) {
        self.record().ending = ending;
        self.settle();
    }

    fn settle(&mut self) {
        let (Some(mut record), Some(reservation)) = (self.record.take(), self.reservation.take()) else {
            return;
        };
        let now = Instant::now();
        record.duration = now.saturating_duration_since(self.started);
        self.watch.see(&self.project.name, &record.attempts, now);
        if let Some(transcript) = self.transcript.take() {
            transcript.send(&record);
        }
        reservation.settle(record);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.settle();
    }
}
