//! Power losses: every increment that SQLite's backend acknowledged is there afterwards, and is not made
//! again when its request is.
//!
//! Ending a process shows nothing of this, as the system keeps what a process wrote. So a storage
//! that SQLite reads and writes through (`vfs`) keeps a log of all that was asked of it (`log`),
//! and from any prefix of that log the files are put together as a power loss might have left
//! them (`storage`): with everything that was synced, and with any part of the rest. The backend
//! opens them, and what it finds is held against what was acknowledged up to that moment, and what
//! was asked for (`ledger`).
//!
//! A test that finds nothing shows something only if it would find a fault: stores that promise
//! less, and disks that lie, are caught by the same means.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that fails should stop where it fails"
)]
#![allow(unsafe_code, reason = "SQLite's storage is a table of C functions")]

mod ledger;
mod load;
mod log;
mod storage;
mod vfs;

use std::time::Duration;

use fastrand::Rng;
use tally_state::{Metrics, Options, State};

use crate::{
    load::Run,
    log::{Disk, Event},
    storage::Storage,
};

const BUCKET: &str = "power";
const COUNTERS: [&str; 3] = ["a", "b", "c"];
/// The key whose value is replaced.
const REPLACED: &str = "replaced";

/// The number of the database among the files of a run: the first to be created.
const DATABASE: usize = 0;

/// Moments at which the power is lost in the run this is about.
const MANY: usize = 300;
/// And in the others, whose faults show at many moments.
const FEW: usize = 60;

/// Longest time that anything awaited may take. Only a broken test or program gets near it.
const LIMIT: Duration = Duration::from_secs(120);

/// What a power loss did to a store.
enum Damage {
    None,
    /// It holds something else than it may.
    Lost(String),
    /// It cannot be opened or read, or is not whole.
    Broken(String),
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(LIMIT, test).await })
        .expect("the test comes to its end")
}

/// Options whose time limits no slow machine reaches.
fn patient() -> Options {
    // Records of requests begin another run many times.
    Options { timeout: Duration::from_secs(60), run_records: 25, ..Options::default() }
}

async fn open(url: &str) -> State {
    State::open(url, patient(), Metrics::default()).await.unwrap()
}

/// Choices that the seed it prints repeats; how callers meet in commits is not among them.
fn seeded() -> Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    Rng::with_seed(seed)
}

/// Moments in a run: a third of them anywhere, a third about the syncs, and a third about what is
/// asked of the database itself and of the folder, which is seldom.
fn moments(events: &[Event], count: usize, random: &mut Rng) -> Vec<usize> {
    let kinds: [fn(&Event) -> bool; 3] = [
        |_| true,
        |event| matches!(event, Event::Synced { .. }),
        |event| match event {
            Event::Created { .. } | Event::Deleted { .. } => true,
            Event::Wrote { file, .. } | Event::Truncated { file, .. } => *file == DATABASE,
            Event::Synced { .. } => false,
        },
    ];
    let places = |kind: fn(&Event) -> bool| -> Vec<usize> {
        (0..events.len()).filter(|place| kind(&events[*place])).collect()
    };
    let places = kinds.map(places);
    let mut moments = Vec::with_capacity(count);
    for number in 0..count {
        let place = random.choice(&places[number % kinds.len()]);
        // Before it or after it. A disk that never syncs has none of the second kind.
        moments.extend(place.map(|place| place + random.usize(..=1)));
    }
    moments.sort_unstable();
    moments
}

/// Loses the power at so many moments of a run, and gives each with what it did.
async fn lose_power(run: &Run, count: usize, random: &mut Rng) -> Vec<(usize, Damage)> {
    let folder = tempfile::tempdir().unwrap();
    let (mut storage, mut taken) = (Storage::default(), 0);
    let mut damages = Vec::with_capacity(count);
    for (number, moment) in moments(&run.events, count, random).into_iter().enumerate() {
        run.events[taken..moment].iter().for_each(|event| storage.take(event));
        taken = moment;
        let folder = folder.path().join(number.to_string());
        std::fs::create_dir(&folder).unwrap();
        for (name, contents) in storage.after_loss(random) {
            std::fs::write(folder.join(name), contents).unwrap();
        }
        damages.push((moment, damage(run, moment, &load::uri(&folder, run.vfs)).await));
    }
    damages
}

/// What losing the power at a moment did to a store.
async fn damage(run: &Run, moment: usize, uri: &str) -> Damage {
    match load::recover(uri, run.ledger.once(moment)).await {
        Err(text) => Damage::Broken(text),
        Ok((contents, after)) => match run.ledger.explains(&contents, moment) {
            Ok(()) if after == contents.counters => Damage::None,
            Ok(()) => Damage::Lost(format!(
                "{:?} became {after:?} when it was asked again",
                contents.counters
            )),
            Err(text) => Damage::Lost(text),
        },
    }
}

/// How many stores had lost something, and how many were broken; prints an example of each.
fn tally(damages: &[(usize, Damage)]) -> (usize, usize) {
    let (mut lost, mut broken) = (0, 0);
    for (moment, damage) in damages {
        let (count, what, text) = match damage {
            Damage::None => continue,
            Damage::Lost(text) => (&mut lost, "lost", text),
            Damage::Broken(text) => (&mut broken, "broken", text),
        };
        if *count == 0 {
            println!("{what} at {moment}: {text}");
        }
        *count += 1;
    }
    println!("of {} stores {lost} had lost something and {broken} were broken", damages.len());
    (lost, broken)
}

#[test]
fn what_was_acknowledged_outlives_a_power_loss_at_any_moment() {
    run(async {
        let mut random = seeded();
        let run = load::callers("honest", Disk::default(), &mut random).await;
        let (first, last) = run.ledger.acknowledged();
        let copied = |event: &&Event| matches!(event, Event::Wrote { file: DATABASE, .. });
        let copied = run.events[first..last].iter().filter(copied).count();
        println!("{} requests, {copied} of them pages copied to the database", run.events.len());
        assert!(copied > 0, "the log was copied to the database under load");
        assert_eq!(tally(&lose_power(&run, MANY, &mut random).await), (0, 0));
    });
}

#[test]
fn a_disk_that_never_syncs_is_found() {
    run(async {
        let mut random = seeded();
        let run = load::callers("never", Disk::that_lies(1), &mut random).await;
        // Many of these stores have nothing left that could be opened.
        let (lost, broken) = tally(&lose_power(&run, FEW, &mut random).await);
        assert!(lost + broken > 0);
    });
}

#[test]
fn a_disk_that_skips_one_sync_in_eight_is_found_to_lose_increments() {
    run(async {
        let mut random = seeded();
        let run = load::callers("seldom", Disk::that_lies(8), &mut random).await;
        assert!(tally(&lose_power(&run, FEW, &mut random).await).0 > 0);
    });
}

#[test]
fn a_store_that_does_not_sync_each_commit_is_found_to_lose_increments_and_stays_whole() {
    run(async {
        let mut random = seeded();
        let run = load::plain("normal", "normal", &mut random).await;
        let (lost, broken) = tally(&lose_power(&run, FEW, &mut random).await);
        assert!(lost > 0, "increments were acknowledged before they were synced");
        assert_eq!(broken, 0, "SQLite promises that much of synchronous=NORMAL");
    });
}

#[test]
fn a_store_that_never_syncs_is_found_to_lose_increments() {
    run(async {
        let mut random = seeded();
        let run = load::plain("off", "off", &mut random).await;
        assert!(tally(&lose_power(&run, FEW, &mut random).await).0 > 0);
    });
}

#[test]
fn one_connection_that_syncs_each_commit_loses_nothing() {
    run(async {
        let mut random = seeded();
        let run = load::plain("full", "full", &mut random).await;
        assert_eq!(tally(&lose_power(&run, FEW, &mut random).await), (0, 0));
    });
}
