//! What was said on routes that store it, gathered while it passes and handed on without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::mpsc;
use wire::{Format, Usage};

use crate::handle::Visit;
use crate::meter::{Settlement, What};
use crate::table::{Grant, Route};

/// Longest prompt and longest reply that are stored, in bytes; more is cut off.
pub(crate) const TEXT_BYTES_MAX: usize = 256 << 10;
/// More is looked at for keys than is stored, so that none is cut in two at the end.
pub(crate) const MARGIN_BYTES: usize = 4 << 10;
/// Events take several times the bytes of the text in them.
const EVENTS_BYTES_MAX: usize = 4 * (TEXT_BYTES_MAX + MARGIN_BYTES);
/// Transcripts that may wait to be written, and their bytes.
const WAITING_MAX: usize = 1_024;
const WAITING_BYTES_MAX: usize = 32 << 20;

/// What became of a transcript.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Fate {
    steward_project: String,
    steward_route: String,
    outcome: &'static str,
}

/// How many transcripts were stored, dropped because too many waited, or could not be written.
pub(crate) type Fates = Family<Fate, Counter>;

/// Takes transcripts; cheap to clone. The default has nobody who stores them, and so gathers none.
#[derive(Clone, Default)]
pub struct Transcripts(Option<Arc<Sending>>);

struct Sending {
    queue: mpsc::Sender<Box<Transcript>>,
    waiting_bytes: Arc<AtomicUsize>,
    fates: Fates,
}

/// Where transcripts arrive.
pub(crate) struct Inbox {
    pub(crate) queue: mpsc::Receiver<Box<Transcript>>,
    waiting_bytes: Arc<AtomicUsize>,
    fates: Fates,
}

impl Inbox {
    /// A transcript was taken out of the queue.
    pub(crate) fn taken(&self, transcript: &Transcript) {
        self.waiting_bytes.fetch_sub(transcript.bytes(), Ordering::AcqRel);
    }

    /// Counts what became of it: `stored` or `failed`.
    pub(crate) fn count(&self, transcript: &Transcript, outcome: &'static str) {
        self.fates.get_or_create(&transcript.fate(outcome)).inc();
    }
}

/// What a transcript says of a request.
pub(crate) struct Told<'a> {
    pub(crate) what: What,
    pub(crate) format: Format,
    pub(crate) streaming: bool,
    pub(crate) body: &'a Bytes,
    pub(crate) asked_model: &'a str,
}

/// A request and its reply, as they pass.
pub(crate) struct Transcript {
    transcripts: Transcripts,
    pub(crate) project: Arc<str>,
    pub(crate) route: Arc<str>,
    pub(crate) key_name: Arc<str>,
    pub(crate) person: Option<Arc<str>>,
    pub(crate) id: String,
    pub(crate) at: Timestamp,
    pub(crate) retention_days: u32,
    pub(crate) format: Format,
    pub(crate) streaming: bool,
    pub(crate) asked_model: String,
    pub(crate) prompt: Bytes,
    pub(crate) prompt_bytes: u64,
    pub(crate) reply: Vec<u8>,
    pub(crate) reply_bytes: u64,
    pub(crate) usage: Option<Usage>,
    pub(crate) status: u16,
    pub(crate) ending: &'static str,
}

impl Transcripts {
    /// A sender, and where its transcripts arrive.
    pub(crate) fn channel(fates: Fates) -> (Self, Inbox) {
        Self::with_room(fates, WAITING_MAX)
    }

    pub(crate) fn with_room(fates: Fates, waiting_max: usize) -> (Self, Inbox) {
        let (sender, queue) = mpsc::channel(waiting_max);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let sending =
            Sending { queue: sender, waiting_bytes: Arc::clone(&waiting_bytes), fates: fates.clone() };
        (Self(Some(Arc::new(sending))), Inbox { queue, waiting_bytes, fates })
    }

    /// A transcript of a request, if its route stores them.
    pub(crate) fn begin(
        &self,
        visit: &Visit,
        grant: &Grant,
        route: &Route,
        told: &Told<'_>,
    ) -> Option<Box<Transcript>> {
        let config =
            route.config.store_prompts.filter(|_| told.what == What::Generate && self.0.is_some())?;
        let bytes_max = TEXT_BYTES_MAX + MARGIN_BYTES;
        // A part of a large body is copied: sharing it would keep all of it in memory.
        let prompt = match told.body.get(..bytes_max) {
            Some(beginning) => Bytes::copy_from_slice(beginning),
            None => told.body.clone(),
        };
        Some(Box::new(Transcript {
            transcripts: self.clone(),
            project: Arc::clone(&grant.project.name),
            route: Arc::clone(&route.name),
            key_name: Arc::clone(&grant.name),
            person: grant.person.clone(),
            id: visit.id.to_string(),
            at: visit.now,
            retention_days: config.retention_days,
            format: told.format,
            streaming: told.streaming,
            asked_model: told.asked_model.to_owned(),
            prompt,
            prompt_bytes: told.body.len() as u64,
            reply: Vec::new(),
            reply_bytes: 0,
            usage: None,
            status: 0,
            ending: "",
        }))
    }
}

impl Transcript {
    /// The client was given this part of its answer.
    pub(crate) fn saw(&mut self, bytes: &[u8]) {
        let most = if self.streaming { EVENTS_BYTES_MAX } else { TEXT_BYTES_MAX + MARGIN_BYTES };
        let room = most.saturating_sub(self.reply.len());
        self.reply.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.reply_bytes += bytes.len() as u64;
    }

    /// Whether the whole reply was gathered.
    pub(crate) fn has_all(&self) -> bool {
        self.reply_bytes == self.reply.len() as u64
    }

    fn bytes(&self) -> usize {
        self.prompt.len() + self.reply.len()
    }

    fn fate(&self, outcome: &'static str) -> Fate {
        Fate { steward_project: self.project.to_string(), steward_route: self.route.to_string(), outcome }
    }

    /// Hands it on; drops and counts it when too many wait.
    pub(crate) fn send(mut self: Box<Self>, record: &Settlement) {
        self.usage = record.usage;
        self.status = record.status;
        self.ending = record.ending.as_str();
        self.hand_on();
    }

    fn hand_on(mut self: Box<Self>) {
        let Some(sending) = self.transcripts.0.take() else { return };
        let bytes = self.bytes();
        let fits = sending.waiting_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes <= WAITING_BYTES_MAX;
        let refused = if fits {
            sending.queue.try_send(self).err().map(mpsc::error::TrySendError::into_inner)
        } else {
            Some(self)
        };
        if let Some(refused) = refused {
            sending.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
            sending.fates.get_or_create(&refused.fate("dropped")).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static LARGE: [u8; WAITING_BYTES_MAX / 2] = [b'x'; WAITING_BYTES_MAX / 2];

    fn transcript(transcripts: &Transcripts, prompt: &'static [u8]) -> Box<Transcript> {
        Box::new(Transcript {
            transcripts: transcripts.clone(),
            project: "shop".into(),
            route: "fast".into(),
            key_name: "website".into(),
            person: None,
            id: "req_1".into(),
            at: Timestamp::UNIX_EPOCH,
            retention_days: 1,
            format: Format::Chat,
            streaming: false,
            asked_model: "fast".into(),
            prompt: Bytes::from_static(prompt),
            prompt_bytes: prompt.len() as u64,
            reply: Vec::new(),
            reply_bytes: 0,
            usage: None,
            status: 200,
            ending: "complete",
        })
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let fates = Fates::default();
        let (transcripts, mut inbox) = Transcripts::with_room(fates.clone(), 2);
        let dropped = || fates.get_or_create(&transcript(&transcripts, b"").fate("dropped")).get();
        for _ in 0..5 {
            transcript(&transcripts, b"hello").hand_on(); // Nobody takes them, and nobody waits.
        }
        assert_eq!(dropped(), 3);
        let taken = inbox.queue.try_recv().unwrap();
        inbox.taken(&taken);
        transcript(&transcripts, b"hello").hand_on();
        assert_eq!(dropped(), 3, "there is room again");

        // Few large ones are too much as well.
        let fates = Fates::default();
        let (transcripts, _inbox) = Transcripts::channel(fates.clone());
        for _ in 0..3 {
            transcript(&transcripts, &LARGE).hand_on();
        }
        assert_eq!(fates.get_or_create(&transcript(&transcripts, b"").fate("dropped")).get(), 1);
    }

    #[test]
    fn a_long_reply_is_gathered_up_to_its_bound() {
        let (transcripts, _inbox) = Transcripts::channel(Fates::default());
        let mut one = transcript(&transcripts, b"hello");
        let piece = vec![b'x'; TEXT_BYTES_MAX];
        one.saw(&piece);
        assert!(one.has_all());
        one.saw(&piece);
        assert_eq!((one.reply.len(), one.has_all()), (TEXT_BYTES_MAX + MARGIN_BYTES, false));
        assert_eq!(one.reply_bytes, 2 * TEXT_BYTES_MAX as u64);
    }
}
