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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::line::{Asked, Line, State, Told};

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
        request: Request<Asked<Incoming>>,
        line: State,
    ) -> Result<Response<Told<Either<Answer, axum::body::Body>>>, Infallible> {
        let response = if self.gateway.serves(request.uri().path()) {
            self.gateway.handle(request).await.map(Either::Left)
        } else {
            self.app.oneshot(request).await?.map(Either::Right)
        };
        Ok(response.map(|body| line.answer(body)))
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
                None => connection(stream, doors, stop).await,
                Some(acceptor) => {
                    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => connection(stream, doors, stop).await,
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
                    }
                }
            }
        });
    }
}

async fn connection<S>(stream: S, doors: Doors, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let line = State::default();
    let io = TokioIo::new(Line::new(stream, line.clone()));
    let service = service_fn(move |request| doors.clone().answer(line.watch(request), line.clone()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, Bytes};
    use axum::routing::any;
    use futures::StreamExt;
    use gateway::{Fingerprints, Table, Unmetered};
    use secrecy::SecretBox;
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::Instant;

    /// When the daemon has noticed that a client is gone.
    const PROMISED: Duration = Duration::from_secs(2);

    /// A client's end of a line to a server that answers at `/later` with what is sent to it, and streams at `/stream`; the
    /// clock is the test's.
    struct Scene {
        client: DuplexStream,
        answer: mpsc::UnboundedSender<Bytes>,
        /// Gets something for each request.
        asked: mpsc::UnboundedReceiver<()>,
        /// For another line.
        doors: Option<Doors>,
        /// Resolves once nobody answers any more.
        gone: oneshot::Receiver<()>,
        _stop: CancellationToken,
    }

    impl Scene {
        fn new() -> Self {
            let (answer, told) = mpsc::unbounded_channel::<Bytes>();
            let (hold, gone) = oneshot::channel::<()>();
            let once = Arc::new(Mutex::new(Some((told, hold))));
            let (arrive, asked) = mpsc::unbounded_channel();
            let take = move || once.lock().expect("no test panics with it").take().expect("it is asked once");
            let app = Router::new().route(
                "/{how}",
                any(move |axum::extract::Path(how): axum::extract::Path<String>, body: Body| async move {
                    let (mut told, hold) = take();
                    if axum::body::to_bytes(body, 1 << 20).await.is_err() {
                        return Body::from("broken off");
                    }
                    let _nobody_waits = arrive.send(());
                    if how == "later" {
                        let all = told.recv().await.unwrap_or_default();
                        drop(hold);
                        return Body::from(all);
                    }
                    let pieces = futures::stream::poll_fn(move |cx| told.poll_recv(cx));
                    Body::from_stream(pieces.map(move |piece| {
                        let _hold = &hold;
                        Ok::<_, Infallible>(piece)
                    }))
                }),
            );
            let fingerprints = Fingerprints::new(&SecretBox::new(Box::new([7; 32])));
            let gateway = Gateway::new(Table::new(fingerprints, Vec::new(), []), Arc::new(Unmetered));
            let (client, server) = tokio::io::duplex(1 << 16);
            let stop = CancellationToken::new();
            let doors = Doors { gateway: Arc::new(gateway), app };
            tokio::spawn(connection(server, doors.clone(), stop.clone()));
            Self { client, answer, asked, doors: Some(doors), gone, _stop: stop }
        }

        async fn send(&mut self, text: &str) {
            self.client.write_all(text.as_bytes()).await.expect("it is read");
        }

        async fn ask(&mut self, how: &str, version: &str) {
            self.send(&format!("GET /{how} HTTP/{version}\r\nhost: h\r\n\r\n")).await;
        }

        fn tell(&self, text: &'static str) {
            drop(self.answer.send(Bytes::from_static(text.as_bytes())));
        }

        /// Reads until this has come.
        async fn until(&mut self, text: &str) {
            let mut read = String::new();
            while !read.contains(text) {
                let mut buffer = [0; 1024];
                let count = self.client.read(&mut buffer).await.expect("it reads");
                assert!(count > 0, "{read}");
                read.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        }

        async fn rest(&mut self) -> String {
            let mut rest = String::new();
            self.client.read_to_string(&mut rest).await.expect("text");
            rest
        }

        /// How long it takes until nobody answers any more.
        async fn noticed(self, client: bool) -> Duration {
            let left = Instant::now();
            let kept = client.then_some(self.client);
            drop(tokio::time::timeout(Duration::from_mins(10), self.gone).await.expect("it is noticed"));
            drop(kept);
            left.elapsed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_shut_its_sending_side_gets_its_whole_answer() {
        let mut scene = Scene::new();
        scene.ask("later", "1.1").await;
        scene.client.shutdown().await.expect("it shuts");
        tokio::time::sleep(Duration::from_mins(3)).await;
        scene.tell("here it is");
        let read = scene.rest().await;
        let whole = read.rsplit_once("HTTP/1.1 200 OK\r\n");
        let (interim, answer) = whole.unwrap_or_else(|| panic!("{read}"));
        assert!(answer.ends_with("\r\n\r\nhere it is"), "{answer}");
        let interims = interim.matches("HTTP/1.1 100 Continue\r\n\r\n").count();
        assert_eq!(interim.len(), interims * "HTTP/1.1 100 Continue\r\n\r\n".len(), "{interim}");
        assert!(interims > 300, "{interims}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_whole_counts_however_it_came() {
        let chunked = "transfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
        let long = format!("content-length: 100000\r\n\r\n{}", "x".repeat(100_000));
        for body in ["content-length: 6\r\n\r\nonetwo", chunked, &long] {
            for pieces in [1, 3, 1000, usize::MAX] {
                let mut scene = Scene::new();
                let request = format!("POST /later HTTP/1.1\r\nhost: h\r\n{body}");
                for piece in request.as_bytes().chunks(pieces.max(request.len() / 10_000)) {
                    scene.client.write_all(piece).await.expect("it is read");
                    tokio::task::yield_now().await;
                }
                scene.client.shutdown().await.expect("it shuts");
                tokio::time::sleep(Duration::from_mins(1)).await;
                scene.tell("here it is");
                let read = scene.rest().await;
                assert!(read.ends_with("\r\n\r\nhere it is"), "{body:.40} in pieces of {pieces}: {read}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_shut_its_sending_side_gets_a_stream_that_goes_on() {
        let mut scene = Scene::new();
        scene.ask("stream", "1.1").await;
        scene.tell("begin");
        scene.until("begin").await;
        scene.client.shutdown().await.expect("it shuts");
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            scene.tell("more");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.answer = mpsc::unbounded_channel().0;
        let read = scene.rest().await;
        assert_eq!(read.matches("more").count(), 100, "{read}");
        assert!(read.ends_with("0\r\n\r\n"), "it ends as it should: {read}");
        assert!(!read.contains("100 Continue"), "nothing is said in the middle of an answer: {read}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_is_noticed_in_time() {
        for (how, version, shuts) in [
            ("later", "1.1", false),
            ("later", "1.0", false),
            ("later", "1.0", true),
            ("stream", "1.1", true),
        ] {
            let mut scene = Scene::new();
            scene.ask(how, version).await;
            if how == "stream" {
                scene.tell("begin");
                scene.until("begin").await;
            }
            // The server waits for what nobody says.
            tokio::time::sleep(Duration::from_mins(1)).await;
            if shuts {
                scene.client.shutdown().await.expect("it shuts");
            } else {
                scene.client = tokio::io::duplex(1).0;
            }
            let noticed = scene.noticed(shuts).await;
            assert!(noticed <= PROMISED, "{how} HTTP/{version}, shuts: {shuts}: {noticed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn headers_that_never_end_are_not_waited_for() {
        let mut scene = Scene::new();
        scene.send("GET /later HTTP/1.1\r\nhost: h\r\nx-slow: ").await;
        let begun = Instant::now();
        scene.rest().await;
        assert!(begun.elapsed() <= HANDSHAKE_TIMEOUT + Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_request_is_none() {
        let mut scene = Scene::new();
        scene.send("POST /later HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nhalf").await;
        scene.client.shutdown().await.expect("it shuts");
        let read = scene.rest().await;
        assert!(!read.contains("100 Continue"), "{read}");
        assert!(scene.gone.await.is_err(), "it was let go");
    }

    // As above over a real connection, where only a second write hears that the client is gone. The clock stands still once
    // the server waits.
    #[tokio::test]
    async fn who_has_closed_its_connection_is_noticed_in_time() {
        let mut scene = Scene::new();
        let (listener, stop) =
            (TcpListener::bind("127.0.0.1:0").await.expect("a port"), CancellationToken::new());
        let address = listener.local_addr().expect("an address");
        let (doors, tracker) = (scene.doors.take().expect("it is taken once"), TaskTracker::new());
        let serving = {
            let (stop, tracker) = (stop.clone(), tracker.clone());
            tokio::spawn(async move { serve(listener, None, doors, stop, &tracker).await })
        };
        let mut client = tokio::net::TcpStream::connect(address).await.expect("it listens");
        client.write_all(b"GET /later HTTP/1.1\r\nhost: h\r\n\r\n").await.expect("it is read");
        scene.asked.recv().await.expect("it is asked");
        tokio::time::pause();
        drop(client);
        let noticed = scene.noticed(true).await;
        assert!(noticed <= PROMISED, "{noticed:?}");
        stop.cancel();
        drop(serving.await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_without_a_question_ends_at_once() {
        let mut scene = Scene::new();
        scene.ask("later", "1.1").await;
        scene.tell("here it is");
        scene.until("here it is").await;
        let shut = Instant::now();
        scene.client.shutdown().await.expect("it shuts");
        assert_eq!(scene.rest().await, "");
        assert_eq!(shut.elapsed(), Duration::ZERO);
    }
}
