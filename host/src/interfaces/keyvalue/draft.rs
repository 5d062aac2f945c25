//! `wasi:keyvalue` 0.2.0-draft, over the implementation of 0.2.0-draft2.
//!
//! What differs: cursors are numbers, and counters have no sign.

use wasmtime::{Result, component::Resource};

use super::{Answer, Bucket, Context, store as draft2_store};
use crate::interfaces::bindings::draft::wasi::keyvalue::{
    atomics, batch,
    store::{self, KeyResponse},
};

/// Pages that one request has begun: a cursor is the number of a place in here, counted from one.
/// It is worth something in its own request only.
#[derive(Default)]
pub(in crate::interfaces) struct Cursors(Vec<String>);

impl Cursors {
    fn keep(&mut self, cursor: String) -> u64 {
        self.0.push(cursor);
        u64::try_from(self.0.len()).unwrap_or(u64::MAX)
    }

    fn get(&self, number: u64) -> Option<&str> {
        let place = usize::try_from(number).ok()?.checked_sub(1)?;
        self.0.get(place).map(String::as_str)
    }
}

/// The error in this draft's terms.
pub(in crate::interfaces) fn error(error: draft2_store::Error) -> store::Error {
    match error {
        draft2_store::Error::NoSuchStore => store::Error::NoSuchStore,
        draft2_store::Error::AccessDenied => store::Error::AccessDenied,
        draft2_store::Error::Other(reason) => store::Error::Other(reason),
    }
}

fn other<T>(reason: &str) -> Result<Result<T, store::Error>> {
    Ok(Err(store::Error::Other(reason.into())))
}

/// The answer in this draft's terms.
fn told<T>(answer: Result<Answer<T>>) -> Result<Result<T, store::Error>> {
    Ok(answer?.map_err(error))
}

impl store::Host for Context {
    fn open(&mut self, identifier: String) -> Result<Result<Resource<Bucket>, store::Error>> {
        told(draft2_store::Host::open(self, identifier))
    }
}

impl store::HostBucket for Context {
    async fn get(
        &mut self,
        this: Resource<Bucket>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, store::Error>> {
        told(draft2_store::HostBucket::get(self, this, key).await)
    }

    async fn set(
        &mut self,
        this: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), store::Error>> {
        told(draft2_store::HostBucket::set(self, this, key, value).await)
    }

    async fn delete(
        &mut self,
        this: Resource<Bucket>,
        key: String,
    ) -> Result<Result<(), store::Error>> {
        told(draft2_store::HostBucket::delete(self, this, key).await)
    }

    async fn exists(
        &mut self,
        this: Resource<Bucket>,
        key: String,
    ) -> Result<Result<bool, store::Error>> {
        told(draft2_store::HostBucket::exists(self, this, key).await)
    }

    async fn list_keys(
        &mut self,
        this: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Result<Result<KeyResponse, store::Error>> {
        let cursor = match cursor.map(|number| self.cursors.get(number).map(str::to_owned)) {
            None => None,
            Some(Some(cursor)) => Some(cursor),
            Some(None) => {
                return other(
                    "this cursor was not given out in this request; with wasi:keyvalue 0.2.0-draft2, cursors outlive it",
                );
            }
        };
        Ok(match draft2_store::HostBucket::list_keys(self, this, cursor).await? {
            Ok(page) => Ok(KeyResponse {
                keys: page.keys,
                cursor: page.cursor.map(|cursor| self.cursors.keep(cursor)),
            }),
            Err(reason) => Err(error(reason)),
        })
    }

    async fn drop(&mut self, _this: Resource<Bucket>) -> Result<()> {
        Ok(())
    }
}

impl atomics::Host for Context {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> Result<Result<u64, store::Error>> {
        let Ok(delta) = i64::try_from(delta) else {
            return other(
                "the increment would leave the range of a signed 64-bit integer; nothing was changed",
            );
        };
        match super::atomics::Host::increment(self, bucket, key, delta).await? {
            // Below zero only where another program or another interface has brought it there.
            Ok(count) => Ok(u64::try_from(count).map_err(|_| {
                store::Error::Other(format!(
                    "the count is {count}, which wasi:keyvalue 0.2.0-draft cannot say; the increment was made"
                ))
            })),
            Err(reason) => Ok(Err(error(reason))),
        }
    }
}

impl batch::Host for Context {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Result<Vec<Option<(String, Vec<u8>)>>, store::Error>> {
        told(super::batch::Host::get_many(self, bucket, keys).await)
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> Result<Result<(), store::Error>> {
        told(super::batch::Host::set_many(self, bucket, key_values).await)
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Result<(), store::Error>> {
        told(super::batch::Host::delete_many(self, bucket, keys).await)
    }
}
