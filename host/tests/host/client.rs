//! An HTTP client for tests: one connection, one request at a time.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName},
};
use tokio_rustls::TlsConnector;

/// A response, read whole.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Response {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn count(&self) -> i64 {
        self.json()["count"].as_i64().unwrap_or_else(|| panic!("no count: {self:?}"))
    }

    /// Checks that this is a problem of RFC 9457 with a status and a code; gives its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let json = self.json();
        assert_eq!(json["status"], status);
        assert_eq!(json["code"], code);
        assert_eq!(json["instance"].as_str().unwrap(), self.headers["x-request-id"]);
        json["detail"].as_str().unwrap().to_owned()
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A connection.
pub struct Client {
    address: SocketAddr,
    sender: Sender,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.unwrap()
    }

    /// `None` where nobody listens, any more.
    pub async fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = tokio::net::TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(Self { address, sender: Sender::Http1(sender) })
    }

    /// HTTP/2 with prior knowledge.
    pub async fn connect_http2(address: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { address, sender: Sender::Http2(sender) }
    }

    /// HTTP over TLS, in the version that is agreed on among those offered (ALPN); and the certificate that
    /// the server showed.
    pub async fn connect_tls(
        address: SocketAddr,
        config: Arc<ClientConfig>,
        name: &str,
    ) -> std::io::Result<(Self, CertificateDer<'static>)> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().unwrap()[0].clone().into_owned();
        let sender = match session.alpn_protocol() {
            Some(b"h2") => {
                let io = TokioIo::new(stream);
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
                    .await
                    .map_err(std::io::Error::other)?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
            _ => {
                let (sender, connection) =
                    http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
        };
        Ok((Self { address, sender }, certificate))
    }

    /// Whether it speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// The same connection of HTTP/2 once more, for a request beside this one's.
    pub fn beside(&self) -> Self {
        let Sender::Http2(sender) = &self.sender else { panic!("it has one request at a time") };
        Self { address: self.address, sender: Sender::Http2(sender.clone()) }
    }

    /// Sends a request; an error when the connection fails before the response has arrived.
    pub async fn try_send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response> {
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response { status: parts.status, headers: parts.headers, body })
    }

    pub fn request(&self, method: Method, target: &str) -> Request<Full<Bytes>> {
        let mut builder = Request::builder().method(method);
        builder = match self.sender {
            Sender::Http1(_) => builder.uri(target).header("host", self.address.to_string()),
            Sender::Http2(_) => builder.uri(format!("http://{}{target}", self.address)),
        };
        builder.body(Full::default()).unwrap()
    }

    pub async fn send(&mut self, method: Method, target: &str) -> Response {
        let request = self.request(method, target);
        self.try_send(request).await.unwrap()
    }

    pub async fn get(&mut self, target: &str) -> Response {
        self.send(Method::GET, target).await
    }

    pub async fn post(&mut self, target: &str) -> Response {
        self.send(Method::POST, target).await
    }

    /// A POST with an `Idempotency-Key`.
    pub async fn post_with_key(&mut self, target: &str, key: &str) -> Response {
        let mut request = self.request(Method::POST, target);
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        self.try_send(request).await.unwrap()
    }
}

/// A GET on a connection of its own.
pub async fn get(address: SocketAddr, target: &str) -> Response {
    Client::connect(address).await.get(target).await
}

/// A POST on a connection of its own.
pub async fn post(address: SocketAddr, target: &str) -> Response {
    Client::connect(address).await.post(target).await
}

/// Waits until the metrics of an admin listener say something.
pub async fn until_metrics_say(admin: SocketAddr, text: &str) {
    let mut last = String::new();
    let waiting = async {
        loop {
            last = get(admin, "/metrics").await.text().to_owned();
            if last.contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(120), waiting).await.is_err() {
        let name = text.split(['{', ' ']).next().unwrap_or_default();
        let alike: Vec<&str> = last.lines().filter(|line| line.starts_with(name)).collect();
        panic!("the metrics never say {text}, but {alike:#?}");
    }
}

/// A request that is under way for as long as the test wants: its body has not ended.
pub struct Held(TcpStream);

impl Held {
    pub fn begin(address: SocketAddr, path: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"5\r\nfirst\r\n").unwrap();
        Self(stream)
    }

    /// Sends more of the body, chunked.
    pub fn send(&mut self, chunk: &[u8]) {
        self.0.write_all(chunk).unwrap();
    }

    /// Ends the body, and gives all that comes back.
    pub fn finish(mut self) -> String {
        self.0.write_all(b"0\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        self.0.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Sends bytes as they are, and gives all that comes back until the server closes.
pub fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is as good as a close.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
