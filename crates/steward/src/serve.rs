//! Accepts connections, with or without TLS, until told to stop; then lets those in flight end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use contract::{Error, ErrorKind};
use gateway::{Answer, Gateway};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections served at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 1_024;
/// Time for a TLS handshake, and for the headers of a request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, such as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What stands behind the listener.
#[derive(Clone)]
pub(crate) struct Doors {
    /// Answers AI calls, which need neither the routes nor the layers of the rest.
    pub(crate) gateway: Arc<Gateway>,
    /// Answers everything else.
    pub(crate) app: Router,
}

impl Doors {
    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Either<Answer, axum::body::Body>>, Infallible> {
        if self.gateway.serves(request.uri().path()) {
            return Ok(self.gateway.handle(request).await.map(Either::Left));
        }
        Ok(self.app.oneshot(request).await?.map(Either::Right))
    }
}

/// Serves `doors` until `stop`; returns when the listener is closed. Connections go on in `tracker` until idle.
///
/// # Errors
///
/// `Unavailable`: the listener broke.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    doors: Doors,
    stop: CancellationToken,
    tracker: &TaskTracker,
) -> Result<(), Error> {
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let acceptor = tls.map(TlsAcceptor::from);
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            place = Arc::clone(&places).acquire_owned() => {
                place.map_err(|cause| Error::new(ErrorKind::Unavailable, "the server is closed").because(cause))?
            }
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (doors, stop, acceptor) = (doors.clone(), stop.clone(), acceptor.clone());
        tracker.spawn(async move {
            let _place = place;
            // Small answers must not wait for the peer's acknowledgement.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            match acceptor {
                None => connection(TokioIo::new(stream), doors, stop).await,
                Some(acceptor) => {
                    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => connection(TokioIo::new(stream), doors, stop).await,
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
                    }
                }
            }
        });
    }
}

async fn connection<I>(io: I, doors: Doors, stop: CancellationToken)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = service_fn(move |request| doors.clone().answer(request));
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .serve_connection(io, service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        result = serving.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(%error, "connection ended early");
            }
            return;
        }
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    if let Err(error) = serving.await {
        tracing::debug!(%error, "connection ended early");
    }
}
