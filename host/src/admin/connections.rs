//! Connections of the admin listener: bounded in number and time, and none that is slow keeps others
//! out.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::Admin;
use crate::{
    edge::{Patience, Watched},
    logging::{self, Failure},
};

/// The pause after a failed accept, as at the edge.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest time that a connection may be idle, take to send a request's head, or leave its response
/// unread. Whoever asks comes from nearby.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections at once: many times what collectors and probes of one host need. Their files are among
/// those that the limit on connections of clients leaves.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// How often to look whether one of them has ended, if all are at work. There are fewer uploads.
const LOOK: Duration = Duration::from_millis(20);

/// An open connection.
struct Connection {
    /// Deployments over it that are under way.
    at_work: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// A deployment that is under way, until dropped.
pub(super) struct AtWork(Arc<AtomicUsize>);

impl AtWork {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request needs to know of its connection.
#[derive(Clone)]
pub(super) struct Peer {
    /// The address of this machine that it came to.
    pub(super) local: IpAddr,
    at_work: Arc<AtomicUsize>,
}

impl Peer {
    /// Keeps the connection open until a deployment is done, whoever else comes.
    pub(super) fn begin(&self) -> AtWork {
        AtWork::begin(&self.at_work)
    }
}

/// The connections of all listeners.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<tokio::sync::Mutex<Vec<Connection>>>);

/// Serves connections of a listener until dropped.
pub(super) async fn serve(admin: Arc<Admin>, listener: TcpListener, connections: Connections) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                logging::log(&Failure {
                    level: tracing::Level::WARN,
                    what: "the admin listener cannot accept connections; trying until it can",
                    kind: "accept",
                    guest: "",
                    id: "",
                    method: None,
                    reason: &error,
                });
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let mut open = connections.0.lock().await;
        make_room(&mut open).await;
        let at_work = Arc::<AtomicUsize>::default();
        let peer = Peer { local: local(&stream), at_work: Arc::clone(&at_work) };
        let task = tokio::spawn(serve_one(Arc::clone(&admin), stream, peer));
        open.push(Connection { at_work, task });
    }
}

/// Makes room for another connection: at the limit, the oldest without a deployment under way is
/// closed. It is idle, slow to send a head or to read, or was refused.
async fn make_room(open: &mut Vec<Connection>) {
    loop {
        open.retain(|connection| !connection.task.is_finished());
        if open.len() < MAX_CONNECTIONS {
            return;
        }
        let idle = open.iter().position(|open| open.at_work.load(Ordering::Relaxed) == 0);
        match idle {
            Some(idle) => open.remove(idle).task.abort(),
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn serve_one(admin: Arc<Admin>, stream: TcpStream, peer: Peer) {
    let service = service_fn(move |request| {
        let (admin, peer) = (Arc::clone(&admin), peer.clone());
        async move { Ok::<_, Infallible>(admin.answer(request, &peer).await) }
    });
    let stream = TokioIo::new(Watched::new(stream, Patience::of(IDLE_TIMEOUT)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    if let Err(error) = builder.serve_connection(stream, service).await {
        tracing::debug!(%error, "an admin connection ended");
    }
}

fn local(stream: &TcpStream) -> IpAddr {
    // One that is gone already gets no answer.
    stream.local_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
}
