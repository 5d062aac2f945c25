//! Releases on the stores that there are, with several hosts, cuts and crashes.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use prometheus::Registry;
use tally_state::{Metrics, Options, State, TimeToLive};
use tally_testkit::{Durability, Postgres, Proxy, Redis, Way};

use super::{
    hosts::{LIFE, Record},
    model::{Change, Component, Head, Kind, PIECE_BYTES, Release, random_id},
    store::{Error, Look, Store},
};

async fn open(url: &str) -> (State, Store) {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let options = Options { timeout: Duration::from_secs(2), ..Options::default() };
    let state = State::open(url, options, metrics).await.unwrap();
    let store = Store::new(state.worker()).unwrap();
    (state, store)
}

fn made(guest: &str, head: &Head, kind: Kind, release: Option<Release>, keep: usize) -> Change {
    Change {
        guest: guest.into(),
        number: head.number + 1,
        previous: head.revision,
        id: random_id(),
        kind,
        time: 0,
        who: "test".into(),
        note: String::new(),
        release,
        keep,
    }
}

/// Deploys a component that was uploaded, over the entry that is the last one now.
async fn deploy(
    store: &Store,
    guest: &str,
    component: Component,
    keep: usize,
) -> Result<(u64, Change), Error> {
    store.settle().await?;
    let head = store.head(guest).await?;
    let release = Release { number: head.number + 1, component, settings: Default::default() };
    let change = made(guest, &head, Kind::Deploy, Some(release), keep);
    store.append(guest, head.number, |_| Ok(change.clone())).await
}

/// Checks that the log and what follows from it are as they have to be, whoever stopped where: the history of each
/// guest has all numbers from 1 on, each head is its last entry, and all its pieces are there. Gives the log.
async fn check(store: &Store) -> Vec<Change> {
    let last = store.settle().await.unwrap();
    let mut log = Vec::new();
    for revision in 1..=last {
        log.push(store.entry(revision).await.unwrap().expect("no entry is missing"));
    }
    assert_eq!(store.entry(last + 1).await.unwrap(), None);
    let mut heads = BTreeMap::<String, (u64, u64)>::new();
    for (revision, change) in (1..).zip(&log) {
        let before = heads.insert(change.guest.clone(), (change.number, revision));
        let (number, previous) = before.unwrap_or_default();
        assert_eq!((change.number, change.previous), (number + 1, previous), "{change:?}");
    }
    let (revision, all) = store.all().await.unwrap();
    assert_eq!((revision, all.len()), (last, heads.len()));
    for (guest, head) in all {
        assert_eq!((head.number, head.revision), heads[&guest], "{guest}");
        if let Some(release) = &head.release {
            store.fetch(&release.component).await.unwrap();
            let key = format!("piece:{}:0", release.component.upload);
            let left = store.state.time_to_live(&store.bucket, &key).await.unwrap();
            assert_eq!(left, TimeToLive::Unlimited, "it would be gone some day");
        }
        let history = store.history(&guest, usize::MAX).await.unwrap();
        let numbers: Vec<u64> = history.iter().rev().map(|change| change.number).collect();
        assert_eq!(numbers, (1..=head.number).collect::<Vec<_>>());
    }
    log
}

/// What all stores do. `again` opens the store as another host would.
async fn contract(url: &str) {
    let (_state, store) = open(url).await;
    // One that lets nobody share it has one host.
    let is_shared = url != "memory:";
    let mut stores = vec![store.clone()];
    for _ in 0..if is_shared { 2 } else { 0 } {
        stores.push(open(url).await.1);
    }

    // A component comes back as it was, and is known by its digest if it does not.
    let bytes = Bytes::from((0..3 * PIECE_BYTES + 5).map(|i| i as u8).collect::<Vec<_>>());
    let component = store.upload(&bytes).await.unwrap();
    assert_eq!((component.pieces(), store.fetch(&component).await.unwrap()), (4, bytes.clone()));
    let piece = format!("piece:{}:2", component.upload);
    let left = store.state.time_to_live(&store.bucket, &piece).await.unwrap();
    assert!(matches!(left, TimeToLive::Left(_)), "no release names it");
    store.state.set(&store.bucket, &piece, Bytes::from(vec![0; PIECE_BYTES])).await.unwrap();
    assert!(matches!(store.fetch(&component).await, Err(Error::Broken { .. })));
    store.state.delete(&store.bucket, &piece).await.unwrap();
    assert!(matches!(store.fetch(&component).await, Err(Error::Missing { piece: 2, .. })));

    // Many at once: each that was told that it won has, and no other.
    let mut deploying = Vec::new();
    for (number, store) in stores.iter().cycle().take(4 * stores.len()).cloned().enumerate() {
        deploying.push(tokio::spawn(async move {
            let mut won = Vec::new();
            for round in 0..8 {
                let bytes = Bytes::from(format!("{number} {round}"));
                let component = store.upload(&bytes).await.unwrap();
                match deploy(&store, &format!("g{}", round % 2), component, 3).await {
                    Ok((revision, change)) => won.push((revision, change.id)),
                    Err(Error::Conflict { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            won
        }));
    }
    let mut won = Vec::new();
    for deploying in deploying {
        won.extend(deploying.await.unwrap());
    }
    won.sort();
    let log = check(&store).await;
    let ids: Vec<(u64, String)> = (1..).zip(log.iter().map(|change| change.id.clone())).collect();
    assert_eq!(won, ids);
    assert!(won.len() >= 8, "some win each time: {}", won.len());

    // Of what is no longer kept, the pieces go.
    for (guest, head) in store.all().await.unwrap().1 {
        assert_eq!(head.kept.len(), 3);
        let kept: Vec<&str> = head.kept.iter().map(|kept| &*kept.component.upload).collect();
        for change in log.iter().filter(|change| change.guest == guest) {
            let Some(release) = &change.release else { continue };
            let key = format!("piece:{}:0", release.component.upload);
            let left = store.state.time_to_live(&store.bucket, &key).await.unwrap();
            if kept.contains(&&*release.component.upload) {
                assert_eq!(left, TimeToLive::Unlimited);
            } else {
                assert_ne!(left, TimeToLive::Unlimited);
            }
        }
    }

    // Whoever has written an entry and died has others finish it.
    let head = store.head("g0").await.unwrap();
    let component = store.upload(&Bytes::from_static(b"dead")).await.unwrap();
    let release = Release { number: head.number + 1, component, settings: Default::default() };
    let change = made("g0", &head, Kind::Deploy, Some(release), 3);
    let key = format!("log:{}", log.len() + 1);
    let value = serde_json::to_vec(&change).unwrap().into();
    assert!(store.state.set_if_absent(&store.bucket, &key, value, None).await.unwrap());
    let seen = log.len() as u64;
    let other = stores.last().unwrap();
    assert_eq!(other.look(seen).await.unwrap(), Look::Entry(Box::new(change)));
    assert_eq!(other.look(seen + 1).await.unwrap(), Look::End { settled: seen });
    assert!(matches!(
        deploy(other, "g1", store.upload(&Bytes::from_static(b"x")).await.unwrap(), 3).await,
        Ok((revision, _)) if revision == seen + 2
    ));
    assert_eq!(check(&store).await.len() as u64, seen + 2);

    // A store that has lost its end, and one that is far ahead.
    assert!(
        matches!(store.look(seen + 9).await.unwrap(), Look::Lost { settled } if settled == seen + 2)
    );
    store.state.set(&store.bucket, "revision", Bytes::from("9999")).await.unwrap();
    assert_eq!(store.look(seen + 2).await.unwrap(), Look::Far);
    let restored = Bytes::from((seen + 2).to_string());
    store.state.set(&store.bucket, "revision", restored).await.unwrap();

    // Hosts are listed while they keep their sessions alive.
    let record = |host: &str, seen| Record { host: host.into(), seen, ..Record::default() };
    let mut one = store.begin_session(&record("one", 1)).await.unwrap();
    let two = other.begin_session(&record("two", 1)).await.unwrap();
    assert!(store.keep_session(&mut one, &record("one", 2)).await.unwrap());
    let seen: Vec<(String, u64)> =
        other.hosts().await.unwrap().into_iter().map(|record| (record.host, record.seen)).collect();
    assert_eq!(seen, [("one".into(), 2), ("two".into(), 1)]);
    other.end_session(two.key()).await.unwrap();
    let enough = tokio::time::Instant::now() + LIFE * 4;
    // One that was not kept alive has ended, and stays so.
    while store.hosts().await.unwrap().iter().any(|record| record.host == "one") {
        assert!(tokio::time::Instant::now() < enough, "its record outlives it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!store.keep_session(&mut one, &record("one", 3)).await.unwrap());
    assert!(!store.keep_session(&mut one, &record("one", 2)).await.unwrap());
    store.begin_session(&record("three", 1)).await.unwrap();
    let list = store.state.get(&store.bucket, "hosts").await.unwrap().unwrap();
    let list: Vec<String> = serde_json::from_slice(&list).unwrap();
    assert_eq!(list.len(), 1, "those that have ended are no longer listed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    contract("memory:").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    let dir = tempfile::tempdir().unwrap();
    contract(&format!("sqlite:{}", dir.path().join("tally.db").display())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis() {
    let server = Redis::start().unwrap();
    contract(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    contract(&server.url()).await;
}

/// A deployment whose connection is cut after each number of bytes: as a host that dies there, or one that does not
/// learn what became of it. What it is told is true, and nothing half is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_is_cut_anywhere_is_made_or_not_and_nothing_half_is_seen() {
    let server = Redis::start().unwrap();
    let (_state, store) = open(&server.url()).await;
    let (mut cut_off, mut made) = (0, 0);
    for way in [Way::Requests, Way::Replies] {
        for after in (0..1_600).step_by(67) {
            let proxy = Proxy::start(server.port()).unwrap();
            let url = server.url().replace(&server.port().to_string(), &proxy.port().to_string());
            let (_state, through) = open(&url).await;
            let before = check(&store).await.len();
            proxy.cut(way, after);
            let id = format!("{way:?} {after}");
            let deploying = async {
                let component = through.upload(&Bytes::from(id.clone())).await?;
                deploy(&through, "g", component, 2).await
            };
            let done = tokio::time::timeout(Duration::from_secs(60), deploying).await;
            let done = done.expect("it comes to an end");
            cut_off += usize::from(!proxy.is_pending());
            proxy.release();
            let log = check(&store).await;
            let is_made = log.len() - before;
            assert!(is_made <= 1, "{id}: made {is_made} times");
            match done {
                Ok((revision, change)) => {
                    assert_eq!(log[revision as usize - 1].id, change.id, "{id}");
                    assert_eq!(is_made, 1, "{id}");
                }
                Err(Error::Store(error)) => {
                    assert_eq!(is_made, 0, "{id}: {error} says that nothing was changed");
                }
                Err(Error::Unknown) => {}
                Err(other) => panic!("{id}: {other}"),
            }
            made += is_made;
        }
    }
    assert!(cut_off > 10 && made > 10, "{cut_off} were cut off, {made} were made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_guests_are_read_at_once_and_one_change_by_itself() {
    let server = Redis::start().unwrap();
    let (_state, store) = open(&server.url()).await;
    let component = store.upload(&Bytes::from_static(b"all")).await.unwrap();
    // As their changes would have left it.
    let mut names = BTreeMap::<u64, Vec<String>>::new();
    let mut heads = Vec::new();
    for number in 0..10_000_u64 {
        let name = format!("guest-{number}");
        let release =
            Release { number: 1, component: component.clone(), settings: Default::default() };
        let change = made(&name, &Head::default(), Kind::Deploy, Some(release), 10);
        let head = Head::default().after(&change, number + 1);
        heads.push((format!("guest:{name}"), Bytes::from(serde_json::to_vec(&head).unwrap())));
        names.entry(super::store::part_of(&name)).or_default().push(name);
    }
    for heads in heads.chunks(500) {
        store.state.set_many(&store.bucket, heads.to_vec()).await.unwrap();
    }
    for (part, names) in names {
        let value = serde_json::to_vec(&names).unwrap().into();
        store.state.set(&store.bucket, &format!("names:{part}"), value).await.unwrap();
    }
    store.state.set(&store.bucket, "revision", Bytes::from("10000")).await.unwrap();
    let (revision, all) = store.all().await.unwrap();
    assert_eq!((revision, all.len()), (10_000, 10_000));
    let changed = deploy(&store, "guest-7", component, 10).await.unwrap();
    let look = store.look(revision).await.unwrap();
    assert_eq!(look, Look::Entry(Box::new(changed.1)));
}
