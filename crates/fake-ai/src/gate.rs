//! Barriers: a reply waits at a gate until the test opens it, so that nothing depends on time.

use std::sync::Arc;

use tokio::sync::watch;

/// A place where a reply waits until the gate is opened. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<usize>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self { open: Arc::new(watch::Sender::new(false)), waiting: Arc::new(watch::Sender::new(0)) }
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until `count` replies have come to the gate since it was made.
    pub async fn reached(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as `self`.
        drop(waiting.wait_for(|&so_far| so_far >= count).await);
    }

    pub(crate) async fn pass(&self) {
        self.waiting.send_modify(|count| *count += 1);
        let mut open = self.open.subscribe();
        drop(open.wait_for(|&open| open).await);
    }
}
