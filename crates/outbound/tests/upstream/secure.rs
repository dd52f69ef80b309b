//! A server with TLS that speaks HTTP/2 or HTTP/1.1 and ends its answers as it is told.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_rustls::server::TlsStream;

/// Made for these tests: an authority, and a certificate for localhost and 127.0.0.1 with its key.
pub const AUTHORITY: &[u8] = include_bytes!("../data/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("../data/localhost.pem");
const KEY: &[u8] = include_bytes!("../data/localhost.key");

/// How an answer ends, after its first piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With all its pieces.
    Whole,
    /// The same, after the server has said that it takes no more requests on this connection (HTTP/2).
    WholeAfterGoAway,
    /// The stream is reset (HTTP/2).
    Reset,
    /// The server says that it goes away with an error, and goes (HTTP/2).
    GoAway,
    /// The connection is closed without a word; so is TLS.
    Gone,
    /// TLS is closed properly. Where the length was not told, that is a whole answer (HTTP/1).
    Closed,
    /// It does not end until the client leaves.
    Silent,
}

/// What the server has seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    pub connections: usize,
    /// The version of each request: 1 or 2.
    pub versions: Vec<u8>,
    /// Requests whose client left before the end.
    pub left: usize,
}

/// The server. Answers wait after their first piece until the gate is opened for them.
pub struct Secure {
    pub address: SocketAddr,
    pub gate: Arc<Semaphore>,
    pub seen: watch::Receiver<Seen>,
}

struct Script {
    content_type: &'static str,
    pieces: Vec<Bytes>,
    end: End,
    gate: Arc<Semaphore>,
    seen: watch::Sender<Seen>,
}

enum Order {
    GoAway,
    /// Answered once it is said, so that the rest of an answer comes behind it on the wire.
    GoAwaySoon(oneshot::Sender<()>),
    Gone,
}

impl Secure {
    /// Starts it with the protocols that it offers.
    pub async fn start(offers: &[&str], content_type: &'static str, pieces: &[&str], end: End) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                CertificateDer::pem_slice_iter(CERTIFICATE).collect::<Result<_, _>>().unwrap(),
                PrivateKeyDer::from_pem_slice(KEY).unwrap(),
            )
            .unwrap();
        tls.alpn_protocols = offers.iter().map(|name| name.as_bytes().to_vec()).collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        // All addresses of this machine, so that it can also be asked under a name that its certificate does not have.
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let gate = Arc::new(Semaphore::new(0));
        let (seen, seeing) = watch::channel(Seen::default());
        let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece.as_bytes())).collect();
        let script = Arc::new(Script { content_type, pieces, end, gate: Arc::clone(&gate), seen });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    script.seen.send_modify(|seen| seen.connections += 1);
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        http2(stream, script).await;
                    } else {
                        http1(stream, script).await;
                    }
                });
            }
        });
        Self { address, gate, seen: seeing }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

async fn http2(stream: TlsStream<TcpStream>, script: Arc<Script>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let (order, mut orders) = mpsc::channel(1);
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                script.seen.send_modify(|seen| seen.versions.push(2));
                tokio::spawn(answer2(request, respond, Arc::clone(&script), order.clone()));
            }
            Some(order) = orders.recv() => match order {
                Order::GoAway => connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM),
                Order::GoAwaySoon(said) => {
                    connection.graceful_shutdown();
                    said.send(()).ok();
                }
                Order::Gone => return,
            },
        }
    }
}

async fn answer2(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    script: Arc<Script>,
    order: mpsc::Sender<Order>,
) {
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        drop(body.flow_control().release_capacity(data.len()));
    }
    let response = http::Response::builder().header("content-type", script.content_type).body(()).unwrap();
    let mut send = respond.send_response(response, false).unwrap();
    let (first, rest) = script.pieces.split_first().unwrap();
    send.send_data(first.clone(), false).unwrap();
    if script.end != End::Silent {
        script.gate.acquire().await.unwrap().forget();
    }
    match script.end {
        End::Whole | End::WholeAfterGoAway | End::Closed => {
            if script.end == End::WholeAfterGoAway {
                let (said, saying) = oneshot::channel();
                order.send(Order::GoAwaySoon(said)).await.ok();
                saying.await.ok();
            }
            for piece in rest {
                send.send_data(piece.clone(), false).unwrap();
            }
            send.send_data(Bytes::new(), true).unwrap();
            return;
        }
        End::Reset => send.send_reset(h2::Reason::INTERNAL_ERROR),
        End::GoAway => order.send(Order::GoAway).await.unwrap_or_default(),
        End::Gone => order.send(Order::Gone).await.unwrap_or_default(),
        End::Silent => {}
    }
    // The stream is kept open until the client or the connection ends it.
    std::future::poll_fn(|cx| send.poll_reset(cx)).await.ok();
    if script.end == End::Silent {
        script.seen.send_modify(|seen| seen.left += 1);
    }
}

async fn http1(mut stream: TlsStream<TcpStream>, script: Arc<Script>) {
    loop {
        if !read_request(&mut stream).await {
            return;
        }
        script.seen.send_modify(|seen| seen.versions.push(1));
        // Without a length the connection's end is the answer's.
        let chunked = script.end != End::Closed;
        let framing = if chunked { "transfer-encoding: chunked" } else { "connection: close" };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {}\r\n{framing}\r\n\r\n", script.content_type);
        stream.write_all(head.as_bytes()).await.ok();
        for (at, piece) in script.pieces.iter().enumerate() {
            if at == 1 {
                script.gate.acquire().await.unwrap().forget();
                if script.end == End::Gone {
                    return;
                }
            }
            let framed = if chunked { format!("{:x}\r\n", piece.len()) } else { String::new() };
            stream.write_all(framed.as_bytes()).await.ok();
            stream.write_all(piece).await.ok();
            stream.write_all(if chunked { b"\r\n" } else { b"" }).await.ok();
            stream.flush().await.ok();
        }
        if !chunked {
            stream.shutdown().await.ok();
            return;
        }
        stream.write_all(b"0\r\n\r\n").await.ok();
        stream.flush().await.ok();
    }
}

/// Reads a head, and the body that it announces. `false`: the connection has ended.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return false };
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.trim().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.is_ok()
}
