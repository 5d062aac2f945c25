//! How many writes of requests with a key may be recorded, for each default bucket.
//!
//! Clients choose their keys, so a client that makes them up could fill the store with records. The
//! sum over all hosts is kept in the store, in counters that expire with the records they count: one
//! for each eighth of the window. A host counts what it records by itself and adds it once a second,
//! so that ordinary requests pay nothing; the limit may be passed by as much as all hosts record in a
//! second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tally_state::{Bucket, Error, Handle, RecordMeter};

use crate::runtime::Recordings;

/// Where the sums are kept. Guests can open no bucket whose name begins so.
const BUCKET: &str = "tally.records";

/// Parts of a window that are counted by themselves.
const PARTS: u32 = 8;

/// What is recorded of a guest, and how much may be.
#[derive(Debug)]
pub(crate) struct Budget {
    /// What this host has recorded since it last told the store.
    meter: Arc<RecordMeter>,
    /// What the store knew of all hosts then.
    records: AtomicU64,
    bytes: AtomicU64,
    limits: Recordings,
    window: Duration,
    was_told: AtomicBool,
    /// Whether any request had a key: of thousands of guests, few have such requests.
    is_used: AtomicBool,
}

impl Budget {
    pub(crate) fn new(limits: Recordings, window: Duration) -> Self {
        Self {
            meter: Arc::default(),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            limits,
            window,
            was_told: AtomicBool::new(false),
            is_used: AtomicBool::new(false),
        }
    }

    /// What counts the records of the guest's requests.
    pub(super) fn meter(&self) -> Arc<RecordMeter> {
        Arc::clone(&self.meter)
    }

    /// How much is recorded, as far as this host knows.
    pub(crate) fn used(&self) -> Recordings {
        let (records, bytes) = self.meter.get();
        Recordings {
            records: self.records.load(Relaxed).saturating_add(records),
            bytes: self.bytes.load(Relaxed).saturating_add(bytes),
        }
    }

    /// How much may be.
    pub(crate) fn limits(&self) -> Recordings {
        self.limits
    }

    /// Whether the store has told how much is recorded. The first request with a key asks, so that a host that
    /// was started again takes no more than there may be.
    pub(super) fn is_known(&self) -> bool {
        if !self.is_used.load(Relaxed) {
            self.is_used.store(true, Relaxed);
        }
        self.was_told.load(Relaxed)
    }

    /// Whether there is room for another record.
    pub(super) fn has_room(&self) -> bool {
        let used = self.used();
        used.records < self.limits.records && used.bytes < self.limits.bytes
    }

    /// Adds what this host has recorded to the store's sums, and reads them.
    ///
    /// # Errors
    /// See [`Error`]; what was not added is added next time.
    pub(crate) async fn report(&self, account: &str, state: &Handle) -> Result<(), Error> {
        let (records, bytes) = self.meter.get();
        let known = self.records.load(Relaxed);
        let is_known = self.was_told.load(Relaxed) || !self.is_used.load(Relaxed);
        if records == 0 && known == 0 && is_known {
            return Ok(());
        }
        let bucket = Bucket::new(BUCKET)?;
        let part = self.window.checked_div(PARTS).unwrap_or_default().max(Duration::from_millis(1));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = now.as_millis().checked_div(part.as_millis()).unwrap_or_default();
        let key = |number: u128, of: &str| format!("{}:{number}:{of}", digest(account));
        if records > 0 {
            let ttl = Some(self.window.saturating_add(part));
            let number_of = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            state.increment_for(&bucket, &key(number, "records"), number_of(records), ttl).await?;
            self.meter.take(records, 0);
            state.increment_for(&bucket, &key(number, "bytes"), number_of(bytes), ttl).await?;
            self.meter.take(0, bytes);
        }
        let numbers = || (0..=u128::from(PARTS)).map(|before| number.saturating_sub(before));
        let keys: Vec<String> =
            numbers().flat_map(|number| [key(number, "records"), key(number, "bytes")]).collect();
        let values = state.get_many(&bucket, &keys, usize::MAX).await?;
        let sum = |of: usize| values.iter().skip(of).step_by(2).map(count).sum::<u64>();
        self.records.store(sum(0), Relaxed);
        self.bytes.store(sum(1), Relaxed);
        self.was_told.store(true, Relaxed);
        Ok(())
    }
}

/// An account's name in a key, whatever characters it has.
fn digest(account: &str) -> String {
    format!("{:032x}", u128::from_be_bytes(super::digest(&[account.as_bytes()])))
}

fn count(value: &Option<Bytes>) -> u64 {
    let text = value.as_ref().and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use tally_state::{Metrics, Options, Scope, State};

    use super::*;

    const LIMITS: Recordings = Recordings { records: 5, bytes: 1 << 20 };

    #[tokio::test]
    async fn all_hosts_share_one_budget_until_its_records_expire() {
        let state = State::open("memory:", Options::default(), Metrics::default()).await.unwrap();
        let (handle, bucket) = (state.worker(), Bucket::new("b").unwrap());
        let window = Duration::from_millis(800);
        let hosts = [(); 2].map(|()| Budget::new(LIMITS, window));
        for number in 0..5_u8 {
            let budget = &hosts[usize::from(number % 2)];
            assert!(budget.has_room());
            let scope = Scope::metered([number; 16], [0; 16], budget.meter());
            handle.scoped(&scope).increment(&bucket, "key", 1).await.unwrap();
            // A repeat records nothing.
            let scope = Scope::metered([number; 16], [0; 16], budget.meter());
            handle.scoped(&scope).increment(&bucket, "key", 1).await.unwrap();
        }
        assert_eq!((hosts[0].used().records, hosts[1].used().records), (3, 2));
        for host in [&hosts[0], &hosts[1], &hosts[0]] {
            host.report("guest", &handle).await.unwrap();
        }
        // One that is started again knows with its first request.
        let again = Budget::new(LIMITS, window);
        assert!(!again.is_known());
        again.report("guest", &handle).await.unwrap();
        assert!(again.is_known() && !again.has_room());
        for host in &hosts {
            assert_eq!(host.used().records, 5);
            assert!(host.used().bytes > 5 * 64 && !host.has_room());
        }
        let other = Budget::new(LIMITS, window);
        assert!(!other.is_known());
        other.report("another guest", &handle).await.unwrap();
        assert!(other.has_room());
        let emptied = async {
            while !hosts[0].has_room() {
                hosts[0].report("guest", &handle).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), emptied).await.expect("records expire");
    }
}
