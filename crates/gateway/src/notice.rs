//! What the hot path tells the rest of the house, without waiting for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::pool::{KeyId, KeyState};
use crate::scan::Leak;

/// Notices that may wait; more are counted and dropped.
const WAITING_MAX: usize = 1024;

/// Something that somebody should record or hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A provider key came into another state.
    Key {
        /// Which.
        key: KeyId,
        /// Its state now.
        state: KeyState,
    },
    /// A prompt or a reply held a key or another secret.
    Exposed {
        /// The project.
        project: String,
        /// Name of the virtual key of the call.
        key: String,
        /// The route or model that was called.
        route: String,
        /// Id of the call's receipt.
        receipt: String,
        /// Whether it stood in the reply; otherwise in the prompt.
        in_reply: bool,
        /// What it was.
        leak: Leak,
    },
}

/// Takes notices; cheap to clone. The default has nobody who listens.
#[derive(Clone, Default)]
pub struct Notices {
    sender: Option<mpsc::Sender<Notice>>,
    dropped: Arc<AtomicU64>,
}

impl Notices {
    /// A sender, and where its notices arrive.
    pub fn channel() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self { sender: Some(sender), dropped: Arc::default() }, receiver)
    }

    /// Tells it, or counts it when too many wait.
    pub fn send(&self, notice: Notice) {
        let Some(sender) = &self.sender else { return };
        if sender.try_send(notice).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
