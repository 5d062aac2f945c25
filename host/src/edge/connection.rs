//! One connection: HTTP/1.1, or HTTP/2 with prior knowledge (RFC 9113, 3.3), whichever it begins
//! with.
//!
//! hyper times the heads of HTTP/1 requests. What it does not time is watched here: a connection
//! that sends nothing, half a preface, or no more requests, one that does not read (`progress`, and over HTTP/2
//! `responses`), and one that does not close when it is asked to. What is being read is never cut.

use std::{net::TcpStream, pin::pin, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{sync::watch, time::Instant};

use super::{
    progress::{Progress, Watched},
    responses::{Active, Patience, Requests, Streams},
    service::Service,
};

/// Requests at once on one HTTP/2 connection: what RFC 9113 (6.5.2) recommends as the least, and
/// what common clients expect.
const MAX_STREAMS: u32 = 128;

/// How often an idle HTTP/2 connection is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);

/// Headers of one request.
const MAX_HEADERS: usize = 100;

/// How long a connection without a request under way may take to close when it is asked to: time
/// for the last response to be read.
const FAREWELL: Duration = Duration::from_secs(5);

/// The same for one whose client answers pings or takes a few bytes now and then.
const LONGEST_FAREWELL: Duration = Duration::from_secs(60);

/// How often a connection is looked at that may have to close.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes of bodies that a client may send on one stream of HTTP/2 before they are read: what the protocol begins with.
/// Each frame takes some hundred bytes of memory, however few it holds.
const STREAM_WINDOW: u32 = 64 << 10;

/// The same on one connection: a body of the largest size in a few round trips.
const CONNECTION_WINDOW: u32 = 256 << 10;

/// Bytes of a response that are kept of each stream of HTTP/2 for a client that takes its time.
const SEND_BUFFER: usize = 64 << 10;

/// Serves a connection until it is closed or drained.
pub(super) async fn serve(
    stream: TcpStream,
    service: Service,
    mut draining: watch::Receiver<bool>,
) {
    // Answers written in two parts would wait for each other's acknowledgement.
    let stream = stream.set_nodelay(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "a connection was lost");
            return;
        }
    };
    let builder = builder(&service);
    let idle_timeout = service.limits().head_timeout;
    let patience = Patience::new(service.waiting(), idle_timeout);
    // Asked for only where it is logged: that is a system call.
    let client = service.access().and_then(|_| stream.peer_addr().ok());
    let requests = Arc::new(Requests::default());
    let counted = Arc::clone(&requests);
    let handle = hyper::service::service_fn(move |request| {
        let service = service.clone();
        let active = Active::begin(&counted);
        let access = client.zip(service.access());
        let access = access.map(|(client, log)| log.begin(client, &request));
        async move { Ok::<_, std::convert::Infallible>(service.handle(request, active, access).await) }
    });
    let stream = Watched::new(stream, patience.clone());
    let state = State { requests, progress: stream.progress(), patience };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), handle));
    let closing = async {
        tokio::select! {
            // An error means that the server is gone, which asks for the same.
            _ = draining.wait_for(|draining| *draining) => {}
            () = state.idle(idle_timeout) => {}
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = state.done() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        // Clients that go away or speak nonsense are the common case here.
        tracing::debug!(%error, "a connection ended");
    }
}

/// How a connection gets on.
struct State {
    requests: Arc<Requests>,
    progress: Arc<Progress>,
    patience: Patience,
}

impl State {
    /// Waits until for `longest` no request has been under way, none has begun, and all that there was to
    /// send has been taken.
    async fn idle(&self, longest: Duration) {
        let look = longest.checked_div(8).unwrap_or_default().max(LOOK.min(longest));
        let mut last_begun = self.requests.begun();
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(look).await;
            self.requests.end_stalled(self.patience.longest());
            let begun = self.requests.begun();
            if begun != last_begun || self.is_busy() {
                last_begun = begun;
                since = Instant::now();
            } else if since.elapsed() >= longest {
                return;
            }
        }
    }

    /// Waits until a connection that is to close has nothing more to do, and its client has had time to read the
    /// last of it.
    async fn done(&self) {
        let began = Instant::now();
        let (mut since, mut written) = (began, self.progress.written());
        loop {
            tokio::time::sleep(LOOK).await;
            self.requests.end_stalled(self.patience.longest().min(FAREWELL));
            // What is left of the last response over HTTP/2 is seen only as it is written.
            let now = self.progress.written();
            if self.is_busy() || (now != written && began.elapsed() < LONGEST_FAREWELL) {
                (since, written) = (Instant::now(), now);
            } else if since.elapsed() >= FAREWELL {
                return;
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.requests.active() > 0 || self.progress.is_blocked()
    }
}

fn builder(service: &Service) -> Builder<Streams> {
    let limits = service.limits();
    let head = u32::try_from(limits.head).unwrap_or(u32::MAX);
    let mut builder = Builder::new(Streams);
    builder
        .http1()
        // Without a timer, the timeout does nothing.
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        // Bodies are small: one buffer is cheaper for the kernel than two.
        .writev(false)
        .max_buf_size(limits.head)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(head)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(limits.head_timeout);
    builder
}
