//! Connecting to a name that has several addresses: Happy Eyeballs (RFC 8305).
//!
//! An address that refuses or swallows packets must not keep the others from being tried. The next
//! one is tried when the one before it has failed, or has not answered for [`ATTEMPT_DELAY`]. Attempts
//! that have begun go on beside each other, and the first connection wins.

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::net::TcpStream;

/// How long an attempt has the network to itself (RFC 8305, section 5).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The addresses of a name or of an address, in the order in which to try them: as the system
/// prefers them (RFC 6724), with the two families by turns (RFC 8305, section 4). There is at least
/// one.
///
/// # Errors
/// What the system's resolver says, or [`io::ErrorKind::NotFound`] for a name without addresses.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        false => Ok(by_turns(found)),
    }
}

/// Addresses of both families by turns, beginning with that of the first.
fn by_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let starts_with_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == starts_with_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return all;
        }
        all.extend(pair.0.into_iter().chain(pair.1));
    }
}

/// Connects to one of several addresses. Has no time limit of its own.
///
/// # Errors
/// Why the last attempt failed, when all of them have. With several addresses, the text names that
/// one.
///
/// # Cancel safety
/// Dropping the future closes all connections that it has begun.
pub async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    first_of(addresses, TcpStream::connect).await
}

async fn first_of<T, F: Future<Output = io::Result<T>>>(
    addresses: &[SocketAddr],
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut waiting = addresses.iter().copied();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "there is no address");
    loop {
        match waiting.next() {
            Some(address) => {
                let attempt = attempt(address);
                attempts.push(async move { (address, attempt.await) });
            }
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        let mut delay = pin!(tokio::time::sleep(ATTEMPT_DELAY));
        let ended = tokio::select! {
            biased;
            ended = attempts.next() => ended,
            () = &mut delay, if waiting.len() > 0 => None,
        };
        match ended {
            Some((_, Ok(connected))) => return Ok(connected),
            Some((address, Err(error))) => {
                failure = match addresses.len() {
                    1 => error,
                    _ => io::Error::new(error.kind(), format!("{address}: {error}")),
                };
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, net::Ipv4Addr};

    use tokio::{net::TcpListener, time::Instant};

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Attempts that answer as their port says: 1 refuses at once, 2 never answers, 3 connects after
    /// a second, others connect at once.
    async fn scripted(address: SocketAddr) -> io::Result<SocketAddr> {
        match address.port() {
            1 => Err(io::ErrorKind::ConnectionRefused.into()),
            2 => std::future::pending().await,
            3 => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(address)
            }
            _ => Ok(address),
        }
    }

    async fn chosen(texts: &[&str]) -> (io::Result<SocketAddr>, Duration) {
        let started = Instant::now();
        let limit = Duration::from_secs(60);
        let connected = tokio::time::timeout(limit, first_of(&addresses(texts), scripted)).await;
        let timed_out = |_| Err(io::ErrorKind::TimedOut.into());
        (connected.unwrap_or_else(timed_out), started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_delays_the_next_by_a_quarter_of_a_second() {
        let (connected, took) = chosen(&["192.0.2.1:2", "192.0.2.2:2", "192.0.2.3:9"]).await;
        assert_eq!(connected.unwrap().port(), 9);
        assert_eq!(took.as_millis(), 2 * ATTEMPT_DELAY.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_delays_the_next_not_at_all() {
        let (connected, took) = chosen(&["192.0.2.1:1", "192.0.2.2:9"]).await;
        assert_eq!((connected.unwrap().port(), took), (9, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_is_still_waited_for() {
        let (connected, took) = chosen(&["192.0.2.1:3", "192.0.2.2:2", "192.0.2.3:1"]).await;
        assert_eq!((connected.unwrap().port(), took.as_millis()), (3, 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_last_failure_is_told() {
        let (failed, _) = chosen(&["192.0.2.1:1", "192.0.2.2:1"]).await;
        let failed = failed.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::ConnectionRefused);
        assert!(failed.to_string().starts_with("192.0.2.2:1: "), "{failed}");
        assert!(chosen(&[]).await.0.is_err());
        let (silent, took) = chosen(&["192.0.2.1:2", "192.0.2.2:1"]).await;
        assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::TimedOut, "one may still answer");
        assert_eq!(took.as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_the_attempts() {
        let tried = RefCell::new(Vec::new());
        let both = addresses(&["192.0.2.1:9", "192.0.2.2:9"]);
        let connected = first_of(&both, |address| {
            tried.borrow_mut().push(address);
            scripted(address)
        });
        assert_eq!(connected.await.unwrap(), tried.borrow()[0]);
        assert_eq!(tried.borrow().len(), 1);
    }

    #[tokio::test]
    async fn a_real_server_is_found_behind_an_address_where_nothing_listens() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let listening = listener.local_addr().unwrap();
        let deaf = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), listening.port()));
        let stream = connect(&[deaf, listening]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listening);
        assert!(connect(&[deaf]).await.is_err());
        assert_eq!(resolve("127.0.0.1", 7).await.unwrap(), addresses(&["127.0.0.1:7"]));
    }

    #[test]
    fn families_are_tried_by_turns() {
        let order = ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"];
        let turns = ["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"];
        assert_eq!(by_turns(addresses(&order)), addresses(&turns));
        assert_eq!(by_turns(addresses(&["127.0.0.1:1", "[::1]:1"]))[0].port(), 1);
    }
}
