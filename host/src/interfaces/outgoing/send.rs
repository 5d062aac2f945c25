//! Sending one request for a guest: resolve, check, connect, and HTTP/1.1 on a connection of its
//! own. An instance lives for one request, so there is nobody to keep a connection for.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header, uri::Scheme};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{ServerName, TrustAnchor},
};
use tally_net::HostPort;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Sleep, timeout},
};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::{Io, Outgoing, internal::Target};
use crate::interfaces::{Effects, Settings};

/// Longest time for each step, where the guest does not say: below the default limit on a whole
/// request, so that a guest can still answer something.
pub(super) const TIMEOUT: Duration = Duration::from_secs(8);

/// Whom requests without a host are for, unless the guest's route names one.
const LOCALHOST: &str = "localhost";

/// Sends a request to a host that the guest may reach. One that may change something there is an
/// effect of the guest's own request, from the first byte of it that may have left.
pub(super) async fn send(
    settings: &Settings,
    mut request: Request<WasiBody>,
    options: RequestOptions,
    effects: &Effects,
) -> Result<(Response<WasiBody>, Io), Error> {
    let allowed = &settings.outgoing;
    let uri = request.uri().clone();
    if let Some(target) = Target::of(&uri) {
        let connection = allowed.connect_within(&target)?;
        *request.uri_mut() = origin_form(&uri)?;
        if target == Target::Path {
            // As for a client of the guest's own host, which decides about the route.
            let host = settings.host.as_deref().unwrap_or(LOCALHOST);
            let host = HeaderValue::try_from(host).map_err(|_| Error::HttpRequestUriInvalid)?;
            request.headers_mut().insert(header::HOST, host);
        }
        record(&request, effects);
        return exchange(connection, request, options).await;
    }
    let tls = uri.scheme() == Some(&Scheme::HTTPS);
    let HostPort { host, port } = server(&uri)?;
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    if !allowed.allows(host, port) {
        return Err(Error::HttpRequestDenied);
    }
    *request.uri_mut() = origin_form(&uri)?;

    let connect_timeout = options.connect_timeout.unwrap_or(TIMEOUT);
    let stream = timeout(connect_timeout, connect(allowed, host, port))
        .await
        .map_err(|_| Error::ConnectionTimeout)??;
    if tls {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::TlsCertificateError)?;
        let stream = timeout(connect_timeout, connector()?.connect(name, stream))
            .await
            .map_err(|_| Error::ConnectionTimeout)?
            .map_err(Error::Tls)?;
        record(&request, effects);
        exchange(stream, request, options).await
    } else {
        record(&request, effects);
        exchange(stream, request, options).await
    }
}

/// Records that a request is sent now, unless its method says that it changes nothing.
fn record(request: &Request<WasiBody>, effects: &Effects) {
    if !request.method().is_safe() {
        effects.reach_out();
    }
}

/// The server that a URL names.
fn server(uri: &Uri) -> Result<HostPort<'_>, Error> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    HostPort::parse(host).map_err(|_| Error::HttpRequestUriInvalid)
}

/// The path and query alone, as a server is asked for them.
fn origin_form(uri: &Uri) -> Result<Uri, Error> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let target = if target.is_empty() { "/" } else { target };
    target.parse().map_err(|_| Error::HttpRequestUriInvalid)
}

/// Connects to a host at an address that the guest may reach.
pub(super) async fn connect(allowed: &Outgoing, host: &str, port: u16) -> Result<TcpStream, Error> {
    let addresses = tally_net::resolve(host, port)
        .await
        .map_err(|error| Error::DnsError { rcode: Some(error.to_string()), info_code: None })?;
    // All of them, as any of them may be the one that answers.
    if !addresses.iter().all(|address| allowed.may_reach(address.ip())) {
        return Err(Error::DestinationIpProhibited);
    }
    let stream = tally_net::connect(&addresses).await.map_err(Error::Connect)?;
    stream.set_nodelay(true).map_err(Error::Connect)?;
    Ok(stream)
}

fn connector() -> Result<TlsConnector, Error> {
    tls_config().map(TlsConnector::from).ok_or(Error::ConfigurationError)
}

/// TLS with the operating system's roots, which are read once.
pub(in crate::interfaces) fn tls_config() -> Option<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Option<Arc<ClientConfig>>> = OnceLock::new();
    CONFIG.get_or_init(|| trusting(RootCertStore::clone(roots()))).clone()
}

/// TLS with the operating system's roots and others.
pub(in crate::interfaces) fn tls_config_with(
    others: &[TrustAnchor<'static>],
) -> Option<Arc<ClientConfig>> {
    let mut all = roots().clone();
    all.extend(others.iter().cloned());
    trusting(all)
}

fn roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    })
}

fn trusting(roots: RootCertStore) -> Option<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().ok()?;
    Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<(Response<WasiBody>, Io), Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The connection moves only when it is polled, here and then for as long as the body is read.
    let mut connection = Box::pin(connection);
    let waiting = options.first_byte_timeout.unwrap_or(TIMEOUT);
    let answering = async {
        let mut sending = std::pin::pin!(sender.send_request(request));
        tokio::select! {
            biased;
            answer = &mut sending => Ok(answer?),
            ended = connection.as_mut() => {
                // It may have ended because the whole answer is there.
                ended?;
                Ok(sending.await?)
            }
        }
    };
    let answer: Result<_, Error> =
        timeout(waiting, answering).await.map_err(|_| Error::HttpResponseTimeout)?;
    let answer: Response<hyper::body::Incoming> = answer?;
    let between = options.between_bytes_timeout.unwrap_or(TIMEOUT);
    let answer = answer.map(|body| Timed { body, between, deadline: None }.boxed_unsync());
    Ok((answer, Box::new(async move { Ok(connection.await?) })))
}

/// A body whose parts come within a time of each other.
struct Timed {
    body: hyper::body::Incoming,
    between: Duration,
    /// Set while the guest waits: what it does between its reads is its own time.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self { body, between, deadline } = &mut *self;
        match Pin::new(body).poll_frame(context) {
            Poll::Ready(frame) => {
                *deadline = None;
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => {
                let deadline =
                    deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(*between)));
                ready!(deadline.as_mut().poll(context));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }
}
