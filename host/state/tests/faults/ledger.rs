//! Keeps account of increments of one key: what was acknowledged, and what ended unknown.

use std::time::Duration;

use tally_state::{Bucket, Error, Handle};

use crate::{BUCKET, observer::Observer};

/// The account of one caller, who asks for one increment after another.
pub(crate) struct Ledger {
    handle: Handle,
    bucket: Bucket,
    key: String,
    /// The stored count when it was last verified.
    base: i64,
    /// Since then.
    pub(crate) acknowledged: i64,
    /// Since then.
    pub(crate) unknown: i64,
    /// Every acknowledged value.
    pub(crate) values: Vec<i64>,
}

impl Ledger {
    pub(crate) fn new(handle: Handle, key: &str) -> Self {
        let bucket = Bucket::new(BUCKET).unwrap();
        let key = key.to_owned();
        Self { handle, bucket, key, base: 0, acknowledged: 0, unknown: 0, values: Vec::new() }
    }

    /// One increment, entered into the account.
    pub(crate) async fn increment(&mut self) -> Result<i64, Error> {
        let answer = self.handle.increment(&self.bucket, &self.key, 1).await;
        match &answer {
            Ok(value) => {
                let last = self.values.last().copied().unwrap_or(0);
                assert!(*value > last, "{value} was given after {last}");
                self.acknowledged += 1;
                self.values.push(*value);
            }
            Err(error) => {
                let text = error.to_string();
                assert!(!text.contains(tally_testkit::TEST_PASSWORD), "{text}");
                match error {
                    Error::NotApplied(_) => {}
                    Error::Unknown(_) => self.unknown += 1,
                    Error::Rejected(_) => panic!("{error}"),
                }
            }
        }
        answer
    }

    /// Increments until one succeeds; gives how many were tried.
    pub(crate) async fn until_ok(&mut self) -> usize {
        let mut tries = 1;
        while self.increment().await.is_err() {
            tries += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tries
    }

    /// Compares the account with what the store holds, and begins a new one from there. Gives how
    /// many of the unknown had been applied.
    pub(crate) async fn verify(&mut self, observer: &mut Observer) -> i64 {
        let stored = observer.count(&self.key).await;
        let applied = stored - self.base - self.acknowledged;
        assert!(
            (0..=self.unknown).contains(&applied),
            "from {} to {stored} with {} acknowledged and {} unknown",
            self.base,
            self.acknowledged,
            self.unknown
        );
        (self.base, self.acknowledged, self.unknown) = (stored, 0, 0);
        applied
    }
}
