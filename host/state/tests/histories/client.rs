//! What histories are recorded of.

use tally_state::{Bucket, Error, Handle};

use crate::history::{Answer, Clock, Event, Life, Operation, Outcome};

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
        let (operation, ttl) = match operation {
            Operation::Living(life, operation) => (&**operation, life.ttl()),
            operation => (operation, None),
        };
        let answer = match operation {
            Operation::Get => self.get(bucket, key).await.map(Answer::Value),
            Operation::Exists => self.exists(bucket, key).await.map(Answer::Exists),
            Operation::Set(value) => {
                self.set_for(bucket, key, value.clone(), ttl).await.map(|()| Answer::Done)
            }
            Operation::Delete => self.delete(bucket, key).await.map(|()| Answer::Done),
            Operation::Increment(delta) => {
                self.increment_for(bucket, key, *delta, ttl).await.map(Answer::Count)
            }
            Operation::GetAndSet(value) => {
                self.get_and_set(bucket, key, value.clone(), ttl).await.map(Answer::Value)
            }
            Operation::SetIfAbsent(value) => {
                self.set_if_absent(bucket, key, value.clone(), ttl).await.map(Answer::Set)
            }
            Operation::Within(delta, bounds) => {
                let within = self.increment_within(bucket, key, *delta, bounds.clone());
                within.await.map(Answer::Bounded)
            }
            Operation::Swap { expected, value } => {
                let swapped = self.swap(bucket, key, expected.clone(), value.clone());
                swapped.await.map(Answer::Swapped)
            }
            Operation::Expire(life) => {
                self.expire(bucket, key, life.ttl()).await.map(Answer::Expired)
            }
            Operation::Lives => {
                let left = self.time_to_live(bucket, key).await;
                left.map(|left| Answer::Lives(Life::of(left)))
            }
            Operation::Living(..) => panic!("one time to live is enough: {operation:?}"),
        };
        outcome(answer)
    }
}

/// How an operation ended.
pub(crate) fn outcome(answer: Result<Answer, Error>) -> Outcome {
    match answer {
        Ok(answer) => Outcome::Answered(answer),
        Err(Error::Rejected(rejection)) => Outcome::Answered(Answer::Rejected(rejection)),
        Err(Error::NotApplied(_)) => Outcome::NotApplied,
        Err(Error::Unknown(reason)) if reason.contains("other writes") => {
            Outcome::Answered(Answer::OtherWrites)
        }
        Err(Error::Unknown(_)) => Outcome::Unknown,
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
        Event { client: self.client, request: None, operation, outcome, start, end }
    }
}
