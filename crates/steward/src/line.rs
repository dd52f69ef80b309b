//! A client's line: told apart are a client that has only shut its sending side and one that is gone.
//!
//! Both look alike: reading gives the end. A client may shut its sending side once its request is out and still wait for the
//! answer (RFC 9112, section 9.6, speaks of it for servers; TCP allows it to both), so the end is kept from the server while
//! an answer is under way. Only what comes back after something was written says who is there: a closed connection is reset.
//! So something is written every now and then: before the answer an interim one, which clients skip (RFC 9110, section 15.2);
//! in a stream its own comments, see [`gateway::Peer`]. Where neither may be, as in the middle of a file or with HTTP/1.0, a
//! line on which nothing was written for a moment is given up.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use gateway::Peer;
use http::{Request, Version};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How often a half-closed line is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Looks between which nothing was written, after which the client is taken for gone. With [`LOOK`] within the two seconds
/// that are promised.
const SILENT_LOOKS_MAX: u8 = 3;
/// An interim answer. Source: RFC 9110, section 15.2.1.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The end of what the client sends is what it seems: nothing is asked, or not yet all of it.
const ASKING: u8 = 0;
/// The request is whole and nothing of its answer is written; an interim answer is allowed.
const ASKED: u8 = 1;
/// The same with HTTP/1.0, which has no interim answers; or the answer has begun.
const ANSWERED: u8 = 2;

/// What a line and the requests on it know of each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    stage: Arc<AtomicU8>,
    peer: Peer,
}

impl State {
    /// Watches how a request is read and lets it know the line.
    ///
    /// To be called before anything is read after the request's head.
    pub(crate) fn watch<B: Body>(&self, request: Request<B>) -> Request<Asked<B>> {
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(self.peer.clone());
        let whole = if parts.version >= Version::HTTP_11 { ASKED } else { ANSWERED };
        let asked = Asked { body, state: self.clone(), whole };
        asked.look();
        Request::from_parts(parts, asked)
    }

    /// The answer begins; it ends when the body is dropped.
    pub(crate) fn answer<B>(&self, body: B) -> Told<B> {
        // Where the request was not read whole, its end is still what it seems.
        if self.stage.load(Ordering::Relaxed) == ASKED {
            self.stage.store(ANSWERED, Ordering::Relaxed);
        }
        Told { body, state: self.clone() }
    }
}

/// A request's body.
#[derive(Debug)]
pub(crate) struct Asked<B> {
    body: B,
    state: State,
    whole: u8,
}

impl<B: Body> Asked<B> {
    fn look(&self) {
        if self.body.is_end_stream() {
            self.state.stage.store(self.whole, Ordering::Relaxed);
        }
    }
}

impl<B: Body + Unpin> Body for Asked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(_)) => self.look(),
            Some(Err(_)) => {}
            None => self.state.stage.store(self.whole, Ordering::Relaxed),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body.
#[derive(Debug)]
pub(crate) struct Told<B> {
    body: B,
    state: State,
}

impl<B> Drop for Told<B> {
    fn drop(&mut self) {
        self.state.stage.store(ASKING, Ordering::Relaxed);
    }
}

impl<B: Body + Unpin> Body for Told<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The bytes of a line.
pub(crate) struct Line<S> {
    stream: S,
    state: State,
    /// Since the client has shut its sending side, while an answer is under way.
    look: Option<Pin<Box<Sleep>>>,
    silent_looks: u8,
    /// The end was kept back for a turn.
    is_waited: bool,
    /// The client reads slower than the server writes.
    is_full: bool,
    /// What is left of an interim answer.
    interim: &'static [u8],
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(crate) fn new(stream: S, state: State) -> Self {
        Self { stream, state, look: None, silent_looks: 0, is_waited: false, is_full: false, interim: &[] }
    }

    /// Reading gave the end: whether it is to be believed.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let stage = self.state.stage.load(Ordering::Relaxed);
            if stage == ASKING {
                if self.is_waited {
                    return Poll::Ready(Ok(()));
                }
                // The server may have read the whole request, while who answers it has not had a turn yet.
                self.is_waited = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.is_waited = false;
            match &mut self.look {
                None => {
                    self.state.peer.close_half();
                    self.look = Some(Box::pin(tokio::time::sleep(LOOK)));
                }
                Some(look) => {
                    ready!(look.as_mut().poll(cx));
                    look.as_mut().reset(tokio::time::Instant::now() + LOOK);
                    if !self.is_full {
                        self.silent_looks += 1;
                    }
                }
            }
            if self.silent_looks >= SILENT_LOOKS_MAX {
                return Poll::Ready(Ok(()));
            }
            if stage == ASKED && !self.is_full && self.interim.is_empty() {
                self.interim = INTERIM;
                if let Poll::Ready(sent) = self.poll_interim(cx) {
                    sent?;
                }
            }
        }
    }

    /// Writes what is left of an interim answer, and flushes it.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, self.interim))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim = self.interim.get(count..).unwrap_or_default();
            self.silent_looks = 0;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        self.is_full = written.is_pending();
        if !self.is_full {
            self.silent_looks = 0;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.look.is_none() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_gone(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.interim.is_empty() {
            ready!(self.poll_interim(cx))?;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.interim.is_empty() {
            ready!(self.poll_interim(cx))?;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
