//! Requests to other guests of the same host, which take no way over the network: to one by its name,
//! or to whichever takes a path.
//!
//! Both ends are on the thread that the guest runs on. So whoever serves there is known to the thread,
//! and to nobody else.

use std::{
    cell::RefCell,
    io,
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
};
use wasmtime_wasi_http::Error;

use super::Outgoing;

/// What a guest's name is followed by, as a host. Spin's own.
const DOMAIN: &str = ".spin.internal";

/// The host of a URL that has none: this host itself, by the name that Spin has for it.
pub(super) const SELF: &str = "self";

/// The same for those whose libraries ask for a host with a dot.
const SELF_WITH_DOT: &str = "self.alt";

/// In-flight requests of one guest to other guests. It stops a guest that calls itself in a loop.
const MAX_IN_FLIGHT: usize = 256;

/// Bytes on their way between two guests.
const BUFFER: usize = 64 << 10;

/// What serves the guests of a host on this thread.
pub(crate) trait Neighbours {
    /// Whether there is a guest of this name.
    fn has(&self, guest: &str) -> bool;

    /// Serves a connection, until it is aborted or closed.
    fn serve(&self, connection: DuplexStream) -> AbortHandle;
}

thread_local! {
    static NEIGHBOURS: RefCell<Option<Rc<dyn Neighbours>>> = const { RefCell::new(None) };
}

/// What serves guests on this thread does so until this is dropped.
pub(crate) struct Offered(PhantomData<Rc<()>>);

/// Lets guests on this thread reach others.
pub(crate) fn offer(neighbours: impl Neighbours + 'static) -> Offered {
    NEIGHBOURS.with(|offered| *offered.borrow_mut() = Some(Rc::new(neighbours)));
    Offered(PhantomData)
}

impl Drop for Offered {
    fn drop(&mut self) {
        // Dropped outside of the borrow, as it may be the last of much.
        drop(NEIGHBOURS.with(|offered| offered.borrow_mut().take()));
    }
}

/// The guest that a host names, if it names one. Names of hosts have no case, and those of guests do:
/// so this is the text as it was sent.
pub(crate) fn guest_of(host: &str) -> Option<&str> {
    let (name, domain) = host.split_at_checked(host.len().checked_sub(DOMAIN.len())?)?;
    (!name.is_empty() && domain.eq_ignore_ascii_case(DOMAIN)).then_some(name)
}

/// Whom within this host a URL is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// The guest of this name.
    Guest(&'a str),
    /// Whichever takes the path.
    Path,
}

impl<'a> Target<'a> {
    /// `None` for URLs of other hosts.
    pub(super) fn of(uri: &'a Uri) -> Option<Self> {
        match uri.host() {
            None | Some("" | SELF | SELF_WITH_DOT) => Some(Self::Path),
            Some(host) => guest_of(host).map(Self::Guest),
        }
    }
}

/// Permits for the in-flight requests of one guest to other guests.
#[derive(Clone, Debug)]
pub(super) struct InFlight(Arc<Semaphore>);

impl Default for InFlight {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_IN_FLIGHT)))
    }
}

/// A connection to another guest.
pub(super) struct Connection {
    stream: DuplexStream,
    serving: AbortHandle,
    _place: OwnedSemaphorePermit,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Nobody waits for an answer any more.
        self.serving.abort();
    }
}

impl Outgoing {
    /// Connects to a guest of this host.
    pub(super) fn connect_within(&self, target: &Target<'_>) -> Result<Connection, Error> {
        let is_allowed = match target {
            Target::Guest(name) => self.names(&format!("{name}{DOMAIN}"), 80),
            Target::Path => self.names(SELF, 80),
        };
        if !is_allowed {
            return Err(Error::HttpRequestDenied);
        }
        let neighbours = NEIGHBOURS.with(|offered| offered.borrow().clone());
        let neighbours = neighbours.ok_or(Error::DestinationUnavailable)?;
        if let Target::Guest(name) = target
            && !neighbours.has(name)
        {
            return Err(Error::DestinationNotFound);
        }
        let place = Arc::clone(&self.in_flight.0).try_acquire_owned();
        let place = place.map_err(|_| Error::ConnectionLimitReached)?;
        let (stream, other) = tokio::io::duplex(BUFFER);
        Ok(Connection { stream, serving: neighbours.serve(other), _place: place })
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct OnlyCart;

    impl Neighbours for OnlyCart {
        fn has(&self, guest: &str) -> bool {
            guest == "cart"
        }

        fn serve(&self, _: DuplexStream) -> AbortHandle {
            tokio::spawn(std::future::pending::<()>()).abort_handle()
        }
    }

    #[test]
    fn urls_name_a_guest_or_a_path_of_this_host_or_another_host() {
        for (url, target) in [
            ("http://cart.spin.internal/a", Some(Target::Guest("cart"))),
            ("http://Cart.SPIN.internal:80/", Some(Target::Guest("Cart"))),
            ("http://a.b.spin.internal/", Some(Target::Guest("a.b"))),
            ("/a?b", Some(Target::Path)),
            ("http://self/a", Some(Target::Path)),
            ("http://self.alt/a", Some(Target::Path)),
            ("http://spin.internal/", None),
            ("http://.spin.internal/", None),
            ("http://cart.spin.internal.example.com/", None),
            ("http://cartspin.internal/", None),
            ("http://myself/", None),
        ] {
            assert_eq!(Target::of(&url.parse().unwrap()), target, "{url}");
        }
    }

    #[tokio::test]
    async fn guests_are_reached_that_are_named() {
        let cart = Target::Guest("cart");
        let reach = |hosts: &[&str], private, target: &Target<'_>| {
            let allowed = Outgoing::parse(hosts.iter().copied(), private).unwrap();
            allowed.connect_within(target).err()
        };
        assert!(matches!(
            reach(&["cart.spin.internal"], false, &cart),
            Some(Error::DestinationUnavailable)
        ));
        let offered = offer(OnlyCart);
        for (hosts, private, by_name, by_path) in [
            (&[][..], true, false, false),
            (&["cart.spin.internal"], false, true, false),
            (&["*.spin.internal"], false, true, false),
            (&["self"], false, false, true),
            (&["other.spin.internal"], false, false, false),
            // All others on the network, and these where what is private is allowed.
            (&["*"], false, false, false),
            (&["*"], true, true, true),
        ] {
            let denied =
                |target| matches!(reach(hosts, private, target), Some(Error::HttpRequestDenied));
            assert_eq!(!denied(&cart), by_name, "{hosts:?}");
            assert_eq!(!denied(&Target::Path), by_path, "{hosts:?}");
        }
        let nobody = reach(&["*.spin.internal"], false, &Target::Guest("car"));
        assert!(matches!(nobody, Some(Error::DestinationNotFound)));
        drop(offered);
        let after = reach(&["*.spin.internal"], false, &cart);
        assert!(matches!(after, Some(Error::DestinationUnavailable)));
    }

    #[tokio::test]
    async fn in_flight_requests_of_a_guest_are_bounded() {
        let _offered = offer(OnlyCart);
        let allowed = Outgoing::parse(["self"], false).unwrap();
        let connect = || allowed.clone().connect_within(&Target::Path);
        let mut all: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| connect().ok().unwrap()).collect();
        assert!(matches!(connect(), Err(Error::ConnectionLimitReached)));
        let last = all.pop().unwrap();
        let serving = last.serving.clone();
        drop(last);
        while !serving.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(connect().is_ok());
    }
}
