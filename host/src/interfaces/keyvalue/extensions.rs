//! `tally:keyvalue/extensions`: what `wasi:keyvalue` leaves out, on the same buckets.

use std::time::Duration;

use bytes::Bytes;
use wasmtime::{Result, component::Resource};

use super::{Answer, Bucket, store};
use crate::interfaces::{
    Context,
    bindings::plugin::tally::keyvalue::extensions::{
        Bounded, Host, KeyResponse, Milliseconds, TimeToLive,
    },
};

pub(super) fn duration(ttl: Milliseconds) -> Duration {
    Duration::from_millis(ttl)
}

/// Whether an increment within bounds changed something.
pub(super) fn was_applied(bounded: &tally_state::Bounded) -> bool {
    matches!(bounded, tally_state::Bounded::Applied(_))
}

pub(super) fn bounded(bounded: tally_state::Bounded) -> Bounded {
    match bounded {
        tally_state::Bounded::Applied(count) => Bounded::Applied(count),
        tally_state::Bounded::Refused(count) => Bounded::Refused(count),
    }
}

pub(super) fn left_of(left: tally_state::TimeToLive) -> TimeToLive {
    match left {
        tally_state::TimeToLive::Missing => TimeToLive::Missing,
        tally_state::TimeToLive::Unlimited => TimeToLive::Unlimited,
        tally_state::TimeToLive::Left(left) => {
            TimeToLive::Left(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
        }
    }
}

/// Said where a value was replaced that the guest may not read any more.
pub(super) fn set_and_too_large() -> store::Error {
    store::Error::Other(
        "the new value was set, but the one before is more than what this request may still read"
            .into(),
    )
}

impl Host for Context {
    async fn set_for(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
        ttl: Milliseconds,
    ) -> Result<Answer<()>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        let ttl = Some(duration(ttl));
        self.writing(state.set_for(&bucket, &key, value.into(), ttl)).await
    }

    async fn extend(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        ttl: Milliseconds,
    ) -> Result<Answer<bool>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        let extending = state.expire(&bucket, &key, Some(duration(ttl)));
        self.attempt(extending, |found| *found).await
    }

    async fn persist(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Answer<bool>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        self.attempt(state.expire(&bucket, &key, None), |found| *found).await
    }

    async fn remaining(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Answer<TimeToLive>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        let left = self.reading(state.time_to_live(&bucket, &key)).await?;
        Ok(left.map(left_of))
    }

    async fn get_and_set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
        ttl: Option<Milliseconds>,
    ) -> Result<Answer<Option<Vec<u8>>>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        let ttl = ttl.map(duration);
        let setting = state.get_and_set(&bucket, &key, value.into(), ttl);
        let before = match self.writing(setting).await? {
            Ok(before) => before,
            Err(error) => return Ok(Err(error)),
        };
        // The write has been made, and the guest must not take it for undone.
        Ok(match self.charge(before.as_ref().map_or(0, Bytes::len)) {
            Ok(()) => Ok(before.map(Vec::from)),
            Err(_) => Err(set_and_too_large()),
        })
    }

    async fn set_if_absent(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
        ttl: Option<Milliseconds>,
    ) -> Result<Answer<bool>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        let ttl = ttl.map(duration);
        let setting = state.set_if_absent(&bucket, &key, value.into(), ttl);
        self.attempt(setting, |set| *set).await
    }

    async fn increment_for(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
        ttl: Milliseconds,
    ) -> Result<Answer<i64>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        self.writing(state.increment_for(&bucket, &key, delta, Some(duration(ttl)))).await
    }

    async fn increment_within(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
        min: i64,
        max: i64,
    ) -> Result<Answer<Bounded>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        let adding = state.increment_within(&bucket, &key, delta, min..=max);
        Ok(self.attempt(adding, was_applied).await?.map(bounded))
    }

    async fn increment_within_for(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
        min: i64,
        max: i64,
        ttl: Milliseconds,
    ) -> Result<Answer<Bounded>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        let ttl = Some(duration(ttl));
        let adding = state.increment_within_for(&bucket, &key, delta, min..=max, ttl);
        Ok(self.attempt(adding, was_applied).await?.map(bounded))
    }

    async fn list_prefix(
        &mut self,
        bucket: Resource<Bucket>,
        prefix: String,
        cursor: Option<String>,
    ) -> Result<Answer<KeyResponse>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        let page = self.reading(state.list(&bucket, &prefix, cursor.as_deref())).await?;
        Ok(page.map(|page| KeyResponse { keys: page.keys, cursor: page.cursor }))
    }
}
