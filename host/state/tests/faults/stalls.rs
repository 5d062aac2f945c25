//! Connections that stall after each byte of an exchange, in both directions: nothing more comes,
//! and nothing ends, until what was held up goes on its way or the connections are cut. And slow
//! ones, on which all comes in the end.

use std::time::Duration;

use tally_state::{Error, Options};
use tally_testkit::{Durability, Postgres, Proxy, Redis, Way};

use crate::{cuts::Outcomes, ledger::Ledger, observer::Observer, open, open_hastily, patient, run};

/// Time limits that a stalled operation reaches soon. Where a slow machine makes others reach them
/// too, they are tried again.
fn hasty() -> Options {
    Options {
        timeout: Duration::from_millis(60),
        connect_timeout: Duration::from_millis(50),
        ..Options::default()
    }
}

/// How a stall ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// What was held up goes on its way, long after it was given up.
    Release,
    Cut,
}

impl End {
    fn bring(self, proxy: &Proxy) {
        match self {
            Self::Release => proxy.release(),
            Self::Cut => proxy.cut_all(),
        }
    }
}

/// A store behind a proxy, asked through one connection, and what is known of it.
struct Bench<'a> {
    proxy: &'a Proxy,
    ledger: Ledger,
    observer: &'a mut Observer,
}

impl Bench<'_> {
    /// The store serves by itself, and nothing is left of connections that were given up.
    async fn serves(&mut self) {
        self.ledger.until_ok().await;
        self.observer.others(1).await;
        self.ledger.verify(self.observer).await;
    }

    /// One increment with a stall after some bytes. Gives whether it came to the stall, and the
    /// error.
    async fn stalled(&mut self, way: Way, after: usize, end: End) -> (bool, Result<i64, Error>) {
        self.proxy.stall(way, after);
        let answer = self.ledger.increment().await;
        let held = !self.proxy.is_pending();
        end.bring(self.proxy);
        (held, answer)
    }

    /// Stalls while the connection is made, logs in and is set up, and then in the increment.
    async fn connecting(&mut self, way: Way, end: End, step: usize) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let mut after = 0;
        // No connection is left at this point.
        while let (held, Err(error)) = self.stalled(way, after, end).await {
            if held {
                outcomes.enter(&error, &mut self.ledger, self.observer).await;
                after += step;
            } else {
                // It was too early for another attempt to connect.
                assert!(matches!(error, Error::NotApplied(_)), "{error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        self.serves().await;
        outcomes
    }

    /// Stalls a connection that has served before, after the bytes of one increment.
    async fn connected(&mut self, way: Way, end: End, step: usize) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let mut after = 0;
        loop {
            self.serves().await;
            let (held, answer) = self.stalled(way, after, end).await;
            match (held, answer) {
                // The whole exchange is shorter.
                (false, Ok(_)) => break,
                // It stalled behind the last byte.
                (true, Ok(_)) => {}
                (true, Err(error)) => {
                    outcomes.enter(&error, &mut self.ledger, self.observer).await;
                }
                (false, Err(error)) => {
                    Outcomes::default().enter(&error, &mut self.ledger, self.observer).await;
                }
            }
            after += if held { step } else { 0 };
        }
        self.serves().await;
        outcomes
    }
}

/// The sweeps of both ways on one server, with stalls that all end alike. A key lives in one lane,
/// so one key means one connection.
async fn sweep(
    proxied_url: &str,
    proxy: &Proxy,
    mut observer: Observer,
    (connecting, connected): (usize, usize),
    end: End,
) {
    for way in [Way::Requests, Way::Replies] {
        let state = open_hastily(proxied_url, hasty()).await;
        observer.alone().await;
        let ledger = Ledger::new(state.worker(), &format!("{way:?}"));
        let mut bench = Bench { proxy, ledger, observer: &mut observer };
        let made = bench.connecting(way, end, connecting).await;
        assert!(made.not_applied > 0, "{way:?}: {made:?}");
        let served = bench.connected(way, end, connected).await;
        println!("{way:?}, {end:?}: connecting {made:?}, connected {served:?}");
        match (way, end) {
            (Way::Requests, End::Cut) => {
                assert!(served.unknown_lost > 10, "{served:?}");
                // At the very end of the request, the server may have it whole.
                assert!(served.unknown_applied <= 1, "{served:?}");
            }
            (Way::Requests, End::Release) => {
                // Most of it; some is overtaken by the host's cancelling, sent when it gave up.
                assert!(served.unknown_applied > 10, "it comes late: {served:?}");
            }
            (Way::Replies, _) => assert!(served.unknown_applied > 0, "{served:?}"),
        }
        drop((state, bench));
        observer.alone().await;
    }
}

fn sweep_redis(end: End) {
    let server = Redis::start().unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    run(async {
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        let steps = match end {
            End::Release => (7, 1),
            // Cuts come after each byte elsewhere.
            End::Cut => (7, 3),
        };
        sweep(&url, &proxy, Observer::redis(&server.url()).await, steps, end).await;
    });
}

fn sweep_postgres(end: End) {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    run(async {
        let url = server.url_at(proxy.port());
        // An exchange is long, and each stall lasts as long as the time limits.
        sweep(&url, &proxy, Observer::postgres(&server.url()).await, (797, 3), end).await;
    });
}

#[test]
fn a_stalled_redis_connection_that_goes_on_never_counts_twice() {
    sweep_redis(End::Release);
}

#[test]
fn a_stalled_redis_connection_that_is_cut_never_counts_twice() {
    sweep_redis(End::Cut);
}

#[test]
fn a_stalled_postgres_connection_that_goes_on_never_counts_twice() {
    sweep_postgres(End::Release);
}

#[test]
fn a_stalled_postgres_connection_that_is_cut_never_counts_twice() {
    sweep_postgres(End::Cut);
}

/// Counts while each chunk waits, one way and then the other.
async fn count_slowly(proxied_url: &str, proxy: &Proxy) {
    let state = open(proxied_url, patient()).await;
    let mut ledger = Ledger::new(state.worker(), "slow");
    for way in [Way::Requests, Way::Replies] {
        proxy.delay(way, 20, Duration::from_millis(10));
        for _ in 0..10 {
            ledger.increment().await.unwrap();
        }
        assert!(!proxy.is_pending(), "it became slow");
        proxy.release();
    }
    assert_eq!(ledger.values, (1..=20).collect::<Vec<_>>());
}

#[test]
fn a_slow_network_fails_nothing() {
    let (redis, postgres) =
        (Redis::start().unwrap(), Postgres::start(Durability::Unsynced).unwrap());
    run(async {
        let proxy = Proxy::start(redis.port()).unwrap();
        count_slowly(&format!("redis://127.0.0.1:{}", proxy.port()), &proxy).await;
        let proxy = Proxy::start(postgres.port()).unwrap();
        count_slowly(&postgres.url_at(proxy.port()), &proxy).await;
    });
}
