//! What the server knows of the client at the other end of a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A client's connection. The server puts it among the extensions of a request.
///
/// A client that has shut its sending side may still read, or it may be gone: TCP tells both in the same words. Whoever
/// streams to it then says something every now and then, so that the server hears what comes back.
#[derive(Debug, Clone, Default)]
pub struct Peer(Arc<AtomicBool>);

impl Peer {
    /// The client has shut its sending side.
    pub fn close_half(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the client has shut its sending side.
    pub fn is_half_closed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
