//! Connections with TLS, cut after a number of bytes.

use tally_state::{Error, Metrics, State};
use tally_testkit::{Authority, Clients, Cut, Durability, Postgres, Proxy, Redis};

use crate::{ledger::Ledger, observer::Observer, patient, run};

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
    cut: fn(usize) -> Cut,
    connected: bool,
) -> Outcomes {
    let mut ledger = Ledger::new(state.worker(), key);
    let mut outcomes = Outcomes::default();
    let mut uncut = 0;
    for after in (0..).step_by(if connected { 3 } else { 61 }) {
        if connected {
            ledger.until_ok().await;
        }
        ledger.verify(observer).await;
        proxy.cut(cut(after));
        let answer = ledger.increment().await;
        proxy.cut(Cut::Never);
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
    for (key, cut) in [("requests", Cut::Requests as fn(usize) -> Cut), ("replies", Cut::Replies)] {
        let state = open().await;
        // The connection that opening made is closed.
        observer.alone().await;
        let connecting = format!("connecting, {key}");
        let outcomes = sweep(&state, &connecting, proxy, &mut observer, cut, false).await;
        println!("{connecting}: {outcomes:?}");
        assert!(outcomes.not_applied > 5, "{outcomes:?}");
        drop(state);
        observer.alone().await;

        let outcomes = sweep(&open().await, key, proxy, &mut observer, cut, true).await;
        println!("{key}: {outcomes:?}");
        assert_eq!(outcomes.not_applied, 0, "all was sent");
        match key {
            // At the very end of the request, the server may have it whole.
            "requests" => assert!(
                outcomes.unknown_lost > 10 && outcomes.unknown_applied <= 1,
                "a record of TLS counts once it is whole: {outcomes:?}"
            ),
            _ => assert!(
                outcomes.unknown_applied > 5 && outcomes.unknown_lost == 0,
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
