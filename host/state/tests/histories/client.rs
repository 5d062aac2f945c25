//! What histories are recorded of.

use std::time::Duration;

use tally_state::{Bucket, Error, Handle, Scope};

use crate::history::{Answer, Clock, Event, Operation, Outcome};

/// Whoever can be asked for operations.
pub(crate) trait Client: Send + Sync {
    fn ask(
        &self,
        bucket: &Bucket,
        key: &str,
        operation: &Operation,
    ) -> impl Future<Output = Outcome> + Send;
}

impl Client for Handle {
    async fn ask(&self, bucket: &Bucket, key: &str, operation: &Operation) -> Outcome {
        let answer = match operation {
            Operation::Get => self.get(bucket, key).await.map(Answer::Value),
            Operation::Exists => self.exists(bucket, key).await.map(Answer::Exists),
            Operation::Set(value) => {
                self.set(bucket, key, value.clone()).await.map(|()| Answer::Done)
            }
            Operation::Delete => self.delete(bucket, key).await.map(|()| Answer::Done),
            Operation::Increment(delta) => {
                self.increment(bucket, key, *delta).await.map(Answer::Count)
            }
            Operation::GetAndSet(value) => {
                self.get_and_set(bucket, key, value.clone(), None).await.map(Answer::Value)
            }
            Operation::SetIfAbsent(value) => {
                self.set_if_absent(bucket, key, value.clone(), None).await.map(Answer::Set)
            }
            Operation::Within(delta, bounds) => {
                let within = self.increment_within(bucket, key, *delta, bounds.clone());
                within.await.map(Answer::Bounded)
            }
            Operation::Swap { expected, value } => {
                let swapped = self.swap(bucket, key, expected.clone(), value.clone());
                swapped.await.map(Answer::Swapped)
            }
        };
        match answer {
            Ok(answer) => Outcome::Answered(answer),
            Err(Error::Rejected(rejection)) => Outcome::Answered(Answer::Rejected(rejection)),
            Err(Error::NotApplied(_)) => Outcome::NotApplied,
            Err(Error::Unknown(_)) => Outcome::Unknown,
        }
    }
}

/// A client who asks again, with one token, until there is an answer: of any host, and without
/// knowing what became of it before.
pub(crate) struct Persistent {
    hosts: Vec<Handle>,
}

impl Persistent {
    pub(crate) fn new(hosts: &[Handle]) -> Self {
        Self { hosts: hosts.to_vec() }
    }
}

impl Client for Persistent {
    async fn ask(&self, bucket: &Bucket, key: &str, operation: &Operation) -> Outcome {
        let name = fastrand::u128(..).to_be_bytes();
        loop {
            let once = Scope::new(name, [0; 16]);
            let host = self.hosts[fastrand::usize(..self.hosts.len())].scoped(&once);
            let outcome = host.ask(bucket, key, operation).await;
            if matches!(outcome, Outcome::Answered(_)) {
                return outcome;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Where a client's operations are recorded.
pub(crate) struct Recorder<'a, C> {
    pub(crate) asked: &'a C,
    pub(crate) bucket: &'a Bucket,
    pub(crate) clock: &'a Clock,
    pub(crate) client: usize,
}

impl<C: Client> Recorder<'_, C> {
    pub(crate) async fn ask(&self, key: &str, operation: Operation) -> Event {
        let start = self.clock.now();
        let outcome = self.asked.ask(self.bucket, key, &operation).await;
        let end = self.clock.now();
        Event { client: self.client, operation, outcome, start, end }
    }
}
