//! The counter's three routes in plain hyper, and a fourth that says hello, without WebAssembly:
//! what Tally is measured beside.
//!
//! One runtime and one listener for each core, all on one port through `SO_REUSEPORT`; a request
//! stays on the thread that accepted its connection. Tried beside it, one work-stealing runtime
//! answered fewer requests a second from SQLite and Redis, and no more from memory. HTTP/1.1 only;
//! no time limits, no limits of size, no metrics, no log: the least that answers these requests.

#![forbid(unsafe_code)]

mod store;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use clap::Parser;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};

use self::store::{Operation, Source, Store};

/// As in Tally.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Counters over HTTP: POST /increment, GET /report, POST /reset, each with ?name=NAME. And GET
/// /hello.
#[derive(Parser)]
struct Options {
    /// Where the count is kept: memory:, sqlite:PATH, redis://… or postgres://…
    #[arg(long)]
    store: String,
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let threads = thread::available_parallelism()?.get();
    let source = Arc::new(runtime()?.block_on(Source::open(&options.store))?);

    // The first listener settles the port, if it is to be a free one.
    let first = bind(options.listen)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..threads {
        listeners.push(bind(address)?);
    }

    let (ended, ends) = mpsc::channel();
    for listener in listeners {
        let (source, ended) = (Arc::clone(&source), ended.clone());
        thread::spawn(move || {
            let end = runtime().and_then(|runtime| runtime.block_on(serve(listener, &source)));
            let _ = ended.send(end);
        });
    }
    drop(ended);
    println!("listening on {address}");
    // No thread ends but by a failure.
    ends.recv().map_err(|_| anyhow!("a thread panicked"))?
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn bind(address: SocketAddr) -> Result<std::net::TcpListener> {
    let domain = if address.is_ipv4() { TcpSocket::new_v4 } else { TcpSocket::new_v6 };
    // Sockets are made within a runtime, and here outlive it.
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let socket = domain()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address).with_context(|| format!("cannot listen on {address}"))?;
    Ok(socket.listen(BACKLOG)?.into_std()?)
}

async fn serve(listener: std::net::TcpListener, source: &Source) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let store = Arc::new(source.connect().await?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let store = Arc::clone(&store);
        let service = service_fn(move |request| {
            let store = Arc::clone(&store);
            async move { Ok::<_, Infallible>(answer(&request, &store).await) }
        });
        // A connection that breaks is its client's affair.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(request: &Request<Incoming>, store: &Store) -> Response<Full<Bytes>> {
    let operation = match (request.uri().path(), request.method()) {
        ("/increment", &Method::POST) => Operation::Increment,
        ("/reset", &Method::POST) => Operation::Reset,
        ("/report", &Method::GET) => Operation::Report,
        ("/hello", &Method::GET) => {
            return response(StatusCode::OK, CONTENT_TYPE, "text/plain", "Hello, World!");
        }
        ("/increment" | "/reset", _) => return not_allowed("POST"),
        ("/report" | "/hello", _) => return not_allowed("GET"),
        _ => return response(StatusCode::NOT_FOUND, CONTENT_TYPE, "text/plain", "not found\n"),
    };
    let query = request.uri().query().and_then(|query| query.strip_prefix("name="));
    match (store.apply(operation, query.unwrap_or("count")).await, operation) {
        (Ok(count), Operation::Report) => {
            let id = std::process::id();
            json("no-cache", format!("{{\"count\":{count},\"current_process_id\":{id}}}"))
        }
        (Ok(count), _) => json("no-store", format!("{{\"count\":{count}}}")),
        (Err(error), _) => {
            eprintln!("{operation:?} failed: {error:#}");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            response(status, CONTENT_TYPE, "text/plain", "the store failed\n")
        }
    }
}

fn json(cache: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut answer = response(StatusCode::OK, CONTENT_TYPE, "application/json", body);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    answer
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    response(StatusCode::METHOD_NOT_ALLOWED, ALLOW, methods, "method not allowed\n")
}

fn response(
    status: StatusCode,
    name: HeaderName,
    value: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}
