//! Connections with TLS, cut after a number of bytes.

use futures_util::future::join_all;
use tally_state::{Bucket, Error, Metrics, State};
use tally_testkit::{Authority, Clients, Durability, Postgres, Proxy, Redis, Way, ask};

use crate::{BUCKET, ledger::Ledger, observer::Observer, patient, run, until};

/// How the rounds of a sweep ended.
#[derive(Debug, Default)]
struct Outcomes {
    not_applied: usize,
    /// Unknown, and the store shows that it was applied.
    unknown_applied: usize,
    /// Unknown, and the store shows that it was not.
    unknown_lost: usize,
}

/// Cuts one increment after more and more bytes, until three in a row were not cut: on a
/// connection that has just served, or on none, so that connecting is cut first.
async fn sweep(
    state: &State,
    key: &str,
    proxy: &Proxy,
    observer: &mut Observer,
    way: Way,
    connected: bool,
) -> Outcomes {
    let mut ledger = Ledger::new(state.worker(), key);
    let mut outcomes = Outcomes::default();
    let mut uncut = 0;
    for after in (0..).step_by(if connected { 5 } else { 97 }) {
        if connected {
            ledger.until_ok().await;
        }
        ledger.verify(observer).await;
        proxy.cut(way, after);
        let mut answer = ledger.increment().await;
        // It may be too early for another attempt to connect.
        while answer.is_err() && proxy.is_pending() {
            answer = ledger.increment().await;
        }
        proxy.release();
        let Err(error) = answer else {
            uncut += 1;
            if uncut == 3 || !connected {
                break;
            }
            continue;
        };
        uncut = 0;
        // Once the server is done with the connection, nothing more can come of the increment.
        observer.alone().await;
        match (error, ledger.verify(observer).await) {
            (Error::NotApplied(_), 0) => outcomes.not_applied += 1,
            (Error::Unknown(_), 1) => outcomes.unknown_applied += 1,
            (Error::Unknown(_), 0) => outcomes.unknown_lost += 1,
            (error, applied) => panic!("{error}, and {applied} more were applied"),
        }
    }
    outcomes
}

/// All sweeps on one server.
async fn sweeps(url: &str, proxy: &Proxy, mut observer: Observer) {
    let open = || async { State::open(url, patient(), Metrics::default()).await.unwrap() };
    for (key, way) in [("requests", Way::Requests), ("replies", Way::Replies)] {
        let state = open().await;
        // The connection that opening made is closed.
        observer.alone().await;
        let connecting = format!("connecting, {key}");
        let outcomes = sweep(&state, &connecting, proxy, &mut observer, way, false).await;
        println!("{connecting}: {outcomes:?}");
        assert!(outcomes.not_applied > 3, "{outcomes:?}");
        drop(state);
        observer.alone().await;

        let outcomes = sweep(&open().await, key, proxy, &mut observer, way, true).await;
        println!("{key}: {outcomes:?}");
        assert_eq!(outcomes.not_applied, 0, "all was sent");
        match key {
            // At the very end of the request, the server may have it whole.
            "requests" => assert!(
                outcomes.unknown_lost > 5 && outcomes.unknown_applied <= 1,
                "a record of TLS counts once it is whole: {outcomes:?}"
            ),
            _ => assert!(
                outcomes.unknown_applied > 2 && outcomes.unknown_lost == 0,
                "what is answered was applied: {outcomes:?}"
            ),
        }
        observer.alone().await;
    }
}

#[test]
fn a_cut_redis_connection_with_tls_never_counts_twice() {
    let authority = Authority::new().unwrap();
    let tls = authority.tls(&["127.0.0.1"], Clients::Any).unwrap();
    let server = Redis::start_with_tls(&tls).unwrap();
    let proxy = Proxy::start(server.tls_port().unwrap()).unwrap();
    let roots = authority.certificate();
    let url = format!("rediss://127.0.0.1:{}?cacert={}", proxy.port(), roots.display());
    run(async {
        sweeps(&url, &proxy, Observer::redis(&server.url()).await).await;
    });
}

#[test]
fn a_batch_of_many_records_that_is_cut_is_never_taken_for_unsent() {
    let authority = Authority::new().unwrap();
    let tls = authority.tls(&["127.0.0.1"], Clients::Any).unwrap();
    let server = Redis::start_with_tls(&tls).unwrap();
    let proxy = Proxy::start(server.tls_port().unwrap()).unwrap();
    let roots = authority.certificate();
    let url = format!("rediss://127.0.0.1:{}?cacert={}", proxy.port(), roots.display());
    run(async {
        let state = State::open(&url, patient(), Metrics::default()).await.unwrap();
        let (handle, bucket) = (state.worker(), Bucket::new(BUCKET).unwrap());
        let mut observer = Observer::redis(&server.url()).await;
        let keys = (0..24).map(|key| format!("key {key}"));
        let mut ledgers: Vec<Ledger> = keys.map(|key| Ledger::new(handle.clone(), &key)).collect();
        let (mut applied, mut lost) = (0, 0);
        for round in 1..=15 {
            ledgers[0].until_ok().await;
            proxy.cut(Way::Requests, round * 11_003);
            // Between the increments lie values, each of half a record.
            join_all(ledgers.iter_mut().enumerate().map(|(place, ledger)| {
                let (handle, bucket) = (&handle, &bucket);
                async move {
                    let (key, value) = (format!("value {place}"), vec![b'x'; 8_192].into());
                    tokio::join!(handle.set(bucket, &key, value), ledger.increment())
                }
            }))
            .await;
            proxy.release();
            // One connection serves, and those that were cut are gone: with the observer's and the
            // one that asks, three are left.
            ledgers[0].until_ok().await;
            until(|| async {
                let clients = ask(server.port(), "CLIENT LIST").unwrap();
                clients.matches(" fd=").count() == 3
            })
            .await;
            for ledger in &mut ledgers {
                let unknown = ledger.unknown;
                // What ended as not applied is not among what may have been.
                let was = ledger.verify(&mut observer).await;
                (applied, lost) = (applied + was, lost + unknown - was);
            }
        }
        println!("of the unknown, {applied} were applied and {lost} were not");
        assert!(applied > 0 && lost > 0, "batches were cut in their middle");
    });
}

#[test]
fn a_cut_postgres_connection_with_tls_never_counts_twice() {
    let authority = Authority::new().unwrap();
    let tls = authority.tls(&["127.0.0.1"], Clients::Any).unwrap();
    let server = Postgres::start_with_tls(Durability::Unsynced, &tls).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let roots = authority.certificate();
    let place = format!("127.0.0.1:{}", proxy.port());
    let parameters = format!("sslmode=verify-full&sslrootcert={}", roots.display());
    run(async {
        let url = server.url_with(&place, &parameters);
        sweeps(&url, &proxy, Observer::postgres(&server.url()).await).await;
    });
}
