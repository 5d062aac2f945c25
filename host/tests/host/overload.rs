//! More requests than can be served: those that are too many are refused soon, and the others are served.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    client::{Client, get},
    host::Host,
};

/// Clients that ask again as soon as they are answered.
const CLIENTS: usize = 64;

/// Keeps asking until so many requests were served and so many refused with a code.
async fn ask(host: &Host, path: &'static str, code: &str) {
    const ENOUGH: usize = 200;
    let (served, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (address, stop) = (host.address, Arc::<AtomicBool>::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (served, refused, stop) = (served.clone(), refused.clone(), stop.clone());
            let code = code.to_owned();
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                while !stop.load(Ordering::Relaxed) {
                    let response = client.get(path).await;
                    if response.status == 200 {
                        served.fetch_add(1, Ordering::Relaxed);
                    } else {
                        response.problem(503, &code);
                        assert_eq!(response.headers["retry-after"], "1");
                        assert_eq!(response.json()["applied"], "no");
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let enough = async {
        while served.load(Ordering::Relaxed) < ENOUGH || refused.load(Ordering::Relaxed) < ENOUGH {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let enough = tokio::time::timeout(Duration::from_secs(90), enough).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(enough.is_ok(), "{served:?} were served and {refused:?} refused");
    assert_eq!(get(address, path).await.status, 200, "one alone is served at once");
}

/// Whoever may wait for ten seconds is refused before where the queue is never empty.
const PATIENT: [&str; 4] = ["--queue-timeout", "10s", "--wall-limit", "2h"];

#[tokio::test]
async fn requests_that_a_full_pool_cannot_serve_are_refused_before_their_time() {
    let host = Host::start("probe-http", "memory:", &[&["--pool", "2"], &PATIENT[..]].concat());
    ask(&host, "/sleep?20", "busy").await;
}

#[tokio::test]
async fn requests_that_there_is_no_time_to_compute_are_refused() {
    let host = Host::start("probe", "memory:", &PATIENT);
    ask(&host, "/spin?20000000", "overloaded").await;
    let metrics = get(host.admin, "/metrics").await;
    assert!(metrics.text().contains("reason=\"overload\""), "{}", metrics.text());
}

/// However many clients a guest has whose requests are short, none of them is refused.
#[tokio::test]
async fn many_clients_of_a_short_request_are_all_served() {
    let host = Host::start("counter", "memory:", &["--queue-timeout", "1m"]);
    let address = host.address;
    let clients: Vec<_> = (0..500)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for _ in 0..20 {
                    assert_eq!(client.post("/increment").await.status, 200);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(get(address, "/report").await.count(), 10_000);
}
