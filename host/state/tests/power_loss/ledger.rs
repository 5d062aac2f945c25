//! Keeps account of what was asked and what was acknowledged, each with the position of the log at
//! which it was.
//!
//! The position of a question is taken before it is asked, that of an acknowledgement after it has
//! come. So a log cut at a position holds all that the acknowledgements up to there stand on, and
//! nothing of what was asked from there on.

use std::sync::{Arc, Mutex};

use tally_state::{Bucket, Handle};

use crate::log::Disk;

/// The account of one counter, which only grows.
#[derive(Default)]
struct Counter {
    asked: Vec<(usize, i64)>,
    acknowledged: Vec<(usize, i64)>,
    /// Those acknowledged that are to be made once, by the names of their requests.
    once: Vec<(usize, i64, u64)>,
}

/// A value that one caller puts in place of another, `None` for its absence.
struct Placed {
    value: Option<String>,
    asked: usize,
    acknowledged: usize,
}

/// What a store held after a power loss.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) counters: Vec<i64>,
    pub(crate) replaced: Option<String>,
}

/// The accounts of some counters and of one key whose value is replaced.
pub(crate) struct Ledger {
    disk: Arc<Disk>,
    counters: Mutex<Vec<Counter>>,
    replaced: Mutex<Vec<Placed>>,
}

impl Ledger {
    pub(crate) fn new(disk: Arc<Disk>, counters: usize) -> Self {
        let counters = (0..counters).map(|_| Counter::default()).collect();
        // What is there before anything was placed.
        let absent = Placed { value: None, asked: 0, acknowledged: 0 };
        Self { disk, counters: Mutex::new(counters), replaced: Mutex::new(vec![absent]) }
    }

    /// One addition to a counter, done by `add`, entered into the account; with the name of its request, if it
    /// is to be made once.
    pub(crate) async fn count(
        &self,
        counter: usize,
        delta: i64,
        request: Option<u64>,
        add: impl Future<Output = i64>,
    ) {
        let asked = self.disk.position();
        self.counters.lock().unwrap()[counter].asked.push((asked, delta));
        let value = add.await;
        let acknowledged = self.disk.position();
        let account = &mut self.counters.lock().unwrap()[counter];
        account.acknowledged.push((acknowledged, delta));
        account.once.extend(request.map(|request| (acknowledged, delta, request)));
        assert!(value >= delta, "{value} was given after {delta} was added");
    }

    /// Sets or deletes a key, entered into the account.
    pub(crate) async fn place(
        &self,
        handle: &Handle,
        bucket: &Bucket,
        key: &str,
        value: Option<String>,
    ) {
        let asked = self.disk.position();
        match &value {
            Some(value) => handle.set(bucket, key, value.clone().into()).await.unwrap(),
            None => handle.delete(bucket, key).await.unwrap(),
        }
        let acknowledged = self.disk.position();
        self.replaced.lock().unwrap().push(Placed { value, asked, acknowledged });
    }

    /// What was acknowledged up to a position and is to be made once: the counter, what was added, and the
    /// request.
    pub(crate) fn once(&self, position: usize) -> Vec<(usize, i64, u64)> {
        let counters = self.counters.lock().unwrap();
        let of = |(number, counter): (usize, &Counter)| {
            let known = counter.once.iter().filter(|(at, ..)| *at <= position);
            known.map(|(_, delta, request)| (number, *delta, *request)).collect::<Vec<_>>()
        };
        counters.iter().enumerate().flat_map(of).collect()
    }

    /// The position of the first acknowledgement and of the last.
    pub(crate) fn acknowledged(&self) -> (usize, usize) {
        let counters = self.counters.lock().unwrap();
        let positions = || counters.iter().flat_map(|counter| &counter.acknowledged);
        let positions = || positions().map(|(position, _)| *position);
        (positions().min().unwrap(), positions().max().unwrap())
    }

    /// Whether a power loss at a position of the log may leave these contents, or else which of
    /// them it may not.
    pub(crate) fn explains(&self, contents: &Contents, position: usize) -> Result<(), String> {
        for (number, counter) in self.counters.lock().unwrap().iter().enumerate() {
            let sum = |entries: &[(usize, i64)], end: usize| -> i64 {
                entries.iter().filter(|(at, _)| *at < end).map(|(_, delta)| delta).sum()
            };
            let acknowledged = sum(&counter.acknowledged, position + 1);
            let asked = sum(&counter.asked, position);
            let count = contents.counters[number];
            if !(acknowledged..=asked).contains(&count) {
                return Err(format!(
                    "counter {number} is {count}, with {acknowledged} acknowledged and {asked} asked"
                ));
            }
        }
        let placed = self.replaced.lock().unwrap();
        let last = placed.iter().rposition(|placed| placed.acknowledged <= position).unwrap();
        // The one that was acknowledged last, or one asked for since.
        let mut possible = placed[last..]
            .iter()
            .enumerate()
            .filter(|(place, placed)| *place == 0 || placed.asked < position)
            .map(|(_, placed)| &placed.value);
        if possible.any(|value| *value == contents.replaced) {
            return Ok(());
        }
        let found =
            contents.replaced.as_ref().map(|value| value.chars().take(12).collect::<String>());
        Err(format!("the replaced value is {found:?}, not number {last} or one asked for since"))
    }
}
