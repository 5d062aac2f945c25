//! Connections cut after each byte of an exchange, in both directions.

use tally_state::Error;
use tally_testkit::{Durability, Postgres, Proxy, Redis, Way};

use crate::{ledger::Ledger, observer::Observer, open, patient, run};

/// How the rounds of a sweep ended.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    pub(crate) not_applied: usize,
    /// Unknown, and the store shows that it was applied.
    pub(crate) unknown_applied: usize,
    /// Unknown, and the store shows that it was not.
    pub(crate) unknown_lost: usize,
}

impl Outcomes {
    /// Verifies a round that failed once the server is done with its connection.
    pub(crate) async fn enter(
        &mut self,
        error: &Error,
        ledger: &mut Ledger,
        observer: &mut Observer,
    ) {
        observer.alone().await;
        match (error, ledger.verify(observer).await) {
            (Error::NotApplied(_), 0) => self.not_applied += 1,
            (Error::Unknown(_), 1) => self.unknown_applied += 1,
            (Error::Unknown(_), 0) => self.unknown_lost += 1,
            (error, applied) => panic!("{error}, and {applied} more were applied"),
        }
    }
}

/// Cuts a connection that has served before, after each byte of one increment.
async fn cut_established(
    proxy: &Proxy,
    ledger: &mut Ledger,
    observer: &mut Observer,
    way: Way,
) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let mut uncut = 0;
    for after in 0.. {
        // It connects again by itself.
        ledger.until_ok().await;
        ledger.verify(observer).await;
        proxy.cut(way, after);
        let answer = ledger.increment().await;
        proxy.release();
        match answer {
            // Past the end of the exchange nothing is cut; at its very end the answer may come.
            Ok(_) => uncut += 1,
            Err(error) => {
                uncut = 0;
                outcomes.enter(&error, ledger, observer).await;
            }
        }
        if uncut == 3 {
            break;
        }
    }
    outcomes
}

/// Cuts while the connection is made, logs in and is set up, and then the increment itself.
async fn cut_connecting(
    proxy: &Proxy,
    ledger: &mut Ledger,
    observer: &mut Observer,
    way: Way,
    step: usize,
) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for after in (0..).step_by(step) {
        // No connection is left at this point.
        observer.alone().await;
        proxy.cut(way, after);
        let mut answer = ledger.increment().await;
        // It may be too early for another attempt.
        while answer.is_err() && proxy.is_pending() {
            answer = ledger.increment().await;
        }
        proxy.release();
        match answer {
            Ok(_) => break,
            Err(error) => outcomes.enter(&error, ledger, observer).await,
        }
    }
    ledger.verify(observer).await;
    outcomes
}

/// All sweeps on one server. A key lives in one lane, so one key means one connection.
async fn sweep(proxied_url: &str, proxy: &Proxy, mut observer: Observer, step: usize) {
    let state = open(proxied_url, patient()).await;
    let requests = cut_connecting(
        proxy,
        &mut Ledger::new(state.worker(), "connecting, requests"),
        &mut observer,
        Way::Requests,
        step,
    )
    .await;
    assert!(requests.not_applied > 5, "{requests:?}");
    assert_eq!(requests.unknown_applied, 0, "the server never had the whole request");
    drop(state);

    let state = open(proxied_url, patient()).await;
    let replies = cut_connecting(
        proxy,
        &mut Ledger::new(state.worker(), "connecting, replies"),
        &mut observer,
        Way::Replies,
        step,
    )
    .await;
    assert!(replies.not_applied > 0, "{replies:?}");
    // A cut right behind the last reply of the log-in may meet the increment on its way.
    assert!(replies.unknown_lost <= 1, "{replies:?}");
    drop(state);
    observer.alone().await;

    let state = open(proxied_url, patient()).await;
    let mut ledger = Ledger::new(state.worker(), "established");
    let requests = cut_established(proxy, &mut ledger, &mut observer, Way::Requests).await;
    assert!(requests.unknown_lost > 20, "{requests:?}");
    // At the very end of the request, the server may have it whole.
    assert!(requests.unknown_applied <= 1, "{requests:?}");
    let replies = cut_established(proxy, &mut ledger, &mut observer, Way::Replies).await;
    assert!(replies.unknown_applied > 3, "{replies:?}");
    assert_eq!(replies.unknown_lost, 0, "what is answered was applied");
    assert_eq!(requests.not_applied + replies.not_applied, 0, "all was sent");
}

#[test]
fn a_cut_redis_connection_never_counts_twice() {
    let server = Redis::start().unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    run(async {
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        sweep(&url, &proxy, Observer::redis(&server.url()).await, 3).await;
    });
}

#[test]
fn a_cut_postgres_connection_never_counts_twice() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    run(async {
        let url = server.url_at(proxy.port());
        sweep(&url, &proxy, Observer::postgres(&server.url()).await, 331).await;
    });
}
