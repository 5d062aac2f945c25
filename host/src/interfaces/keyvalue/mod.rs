//! Key-value stores as guests see them: `wasi:keyvalue` 0.2.0-draft2 (`store`, `atomics`, `batch`)
//! over the state layer, and the other shapes of it (`draft`, `spin`) over this one.
//!
//! A bucket handle is its place in the guest's list, so opening and dropping one costs nothing. A
//! compare-and-swap handle remembers a value, and their number is bounded.

use bytes::Bytes;
use tally_state::{Error, Swapped};
use wasmtime::{Result, bail, component::Resource};

use super::{
    Context,
    bindings::plugin::wasi::keyvalue::{
        atomics::{self, CasError},
        batch,
        store::{self, KeyResponse},
    },
    buckets::{Opened, too_many_opened},
    denied,
    operator::Failed,
};

mod concurrent;
mod draft;
mod extensions;
mod spin;
pub(super) mod spin_3;
pub(super) mod wasmcloud;

pub(super) use self::{
    concurrent::make_concurrent,
    draft::{Cursors, error as draft_error},
    spin::{error as spin_error, reshape},
};

/// Bytes of values that one call may set: they wait in the host until the store has them.
const MAX_SET_BYTES: usize = 4 << 20;

/// Compare-and-swap handles one request may hold at a time.
const MAX_CAS: usize = 100;

/// What a guest's handle of a bucket stands for. The handle's number is the bucket's place in the
/// guest's list.
#[allow(unreachable_pub, reason = "the generated code re-exports it")]
pub struct Bucket;

/// A key and the value it held.
#[allow(unreachable_pub, reason = "the generated code re-exports it")]
pub struct Cas {
    bucket: u32,
    key: String,
    current: Option<Bytes>,
}

/// The compare-and-swap handles of one request, by number.
#[derive(Default)]
pub(super) struct CasTable(Vec<Option<Cas>>);

impl CasTable {
    fn push(&mut self, cas: Cas) -> Option<Resource<Cas>> {
        let free = match self.0.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.0.len() < MAX_CAS => {
                self.0.push(None);
                self.0.len().checked_sub(1)?
            }
            None => return None,
        };
        *self.0.get_mut(free)? = Some(cas);
        Some(Resource::new_own(u32::try_from(free).ok()?))
    }

    fn get(&self, handle: &Resource<Cas>) -> Option<&Cas> {
        self.0.get(usize::try_from(handle.rep()).ok()?)?.as_ref()
    }

    fn take(&mut self, handle: &Resource<Cas>) -> Option<Cas> {
        self.0.get_mut(usize::try_from(handle.rep()).ok()?)?.take()
    }
}

/// Stops a guest whose request was answered before: its response is stored.
#[derive(Debug, thiserror::Error)]
#[error("the request was answered before")]
pub(crate) struct AnsweredBefore;

impl From<Failed> for store::Error {
    fn from(failed: Failed) -> Self {
        Self::Other(failed.to_string())
    }
}

type Answer<T> = Result<T, store::Error>;

impl Context {
    /// Runs an operation that reads; see [`Operator::reading`](super::operator::Operator::reading).
    async fn reading<T>(
        &mut self,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Result<Answer<T>> {
        Ok(self.operator().reading(run).await?.map_err(Into::into))
    }

    /// Runs a write that changes something if it succeeds.
    async fn writing<T>(
        &mut self,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Result<Answer<T>> {
        self.attempt(run, |_| true).await
    }

    /// Runs a write that may succeed and change nothing; see
    /// [`Operator::attempt`](super::operator::Operator::attempt).
    async fn attempt<T>(
        &mut self,
        run: impl Future<Output = Result<T, Error>>,
        changed: impl FnOnce(&T) -> bool,
    ) -> Result<Answer<T>> {
        Ok(self.operator().attempt(run, changed).await?.map_err(Into::into))
    }

    /// Charges the request for bytes it has read.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), store::Error> {
        self.readable = self.readable.checked_sub(bytes).ok_or_else(|| {
            store::Error::Other("this request has read more values than its memory holds".into())
        })?;
        Ok(())
    }

    /// Reads a key, and charges the request for its value.
    async fn read(
        &mut self,
        bucket: &tally_state::Bucket,
        key: &str,
    ) -> Result<Answer<Option<Bytes>>> {
        let state = self.state.clone();
        let value = self.reading(state.get(bucket, key)).await?;
        Ok(value.and_then(|value| {
            self.charge(value.as_ref().map_or(0, Bytes::len))?;
            Ok(value)
        }))
    }

    /// Opens a bucket by a name; the number of its handle.
    pub(super) fn open_bucket(&mut self, name: &str) -> Result<u32, store::Error> {
        let opened = self.settings.buckets.open(name);
        if matches!(opened, Opened::NoSuchStore | Opened::AccessDenied) {
            denied::bucket(&self.settings, name);
        }
        match opened {
            Opened::Bucket(place) => Ok(place),
            Opened::Chosen(bucket) => self
                .settings
                .buckets
                .keep(&mut self.chosen, bucket)
                .ok_or_else(|| store::Error::Other(too_many_opened())),
            Opened::NoSuchStore => Err(store::Error::NoSuchStore),
            Opened::AccessDenied => Err(store::Error::AccessDenied),
            Opened::Invalid(reason) => Err(store::Error::Other(reason.to_string())),
        }
    }

    /// The name that the guest has opened a bucket by.
    pub(super) fn bucket_name(&self, handle: &Resource<Bucket>) -> Result<String> {
        match self.settings.buckets.name(&self.chosen, handle.rep()) {
            Some(name) => Ok(name.to_owned()),
            None => bail!("a bucket handle that was never given out"),
        }
    }

    pub(super) fn bucket(&self, handle: &Resource<Bucket>) -> Result<tally_state::Bucket> {
        match self.settings.buckets.get(&self.chosen, handle.rep()) {
            Some(bucket) => Ok(bucket.clone()),
            None => bail!("a bucket handle that was never given out"),
        }
    }
}

impl store::Host for Context {
    fn open(&mut self, identifier: String) -> Result<Answer<Resource<Bucket>>> {
        Ok(self.open_bucket(&identifier).map(Resource::new_own))
    }
}

impl store::HostBucket for Context {
    async fn get(
        &mut self,
        this: Resource<Bucket>,
        key: String,
    ) -> Result<Answer<Option<Vec<u8>>>> {
        let bucket = self.bucket(&this)?;
        let value = self.read(&bucket, &key).await?;
        Ok(value.map(|value| value.map(Vec::from)))
    }

    async fn set(
        &mut self,
        this: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Answer<()>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&this)?);
        self.writing(state.set(&bucket, &key, value.into())).await
    }

    async fn delete(&mut self, this: Resource<Bucket>, key: String) -> Result<Answer<()>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&this)?);
        self.writing(state.delete(&bucket, &key)).await
    }

    async fn exists(&mut self, this: Resource<Bucket>, key: String) -> Result<Answer<bool>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&this)?);
        self.reading(state.exists(&bucket, &key)).await
    }

    async fn list_keys(
        &mut self,
        this: Resource<Bucket>,
        cursor: Option<String>,
    ) -> Result<Answer<KeyResponse>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&this)?);
        let page = self.reading(state.list(&bucket, "", cursor.as_deref())).await?;
        Ok(page.map(|page| KeyResponse { keys: page.keys, cursor: page.cursor }))
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
        delta: i64,
    ) -> Result<Answer<i64>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        self.writing(state.increment(&bucket, &key, delta)).await
    }

    async fn swap(
        &mut self,
        handle: Resource<Cas>,
        value: Vec<u8>,
    ) -> Result<Result<(), CasError>> {
        let Some(cas) = self.cas.take(&handle) else {
            bail!("a compare-and-swap handle that was never given out");
        };
        let bucket = self.bucket(&Resource::new_borrow(cas.bucket))?;
        let state = self.state.clone();
        let swapping = state.swap(&bucket, &cas.key, cas.current.clone(), value.into());
        let changed = |swapped: &Swapped| matches!(swapped, Swapped::Yes);
        Ok(match self.attempt(swapping, changed).await? {
            Ok(Swapped::Yes) => Ok(()),
            Ok(Swapped::No(current)) => Err(self.newer(Cas { current, ..cas })),
            Err(error) => Err(CasError::StoreError(error)),
        })
    }
}

impl atomics::HostCas for Context {
    async fn new(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Answer<Resource<Cas>>> {
        let name = self.bucket(&bucket)?;
        let current = match self.read(&name, &key).await? {
            Ok(current) => current,
            Err(error) => return Ok(Err(error)),
        };
        let handle = self.cas.push(Cas { bucket: bucket.rep(), key, current });
        Ok(handle.ok_or_else(too_many_handles))
    }

    async fn current(&mut self, this: Resource<Cas>) -> Result<Answer<Option<Vec<u8>>>> {
        self.seen(&this)
    }

    async fn drop(&mut self, this: Resource<Cas>) -> Result<()> {
        self.cas.take(&this);
        Ok(())
    }
}

impl Context {
    /// What a compare-and-swap handle remembers.
    fn seen(&mut self, handle: &Resource<Cas>) -> Result<Answer<Option<Vec<u8>>>> {
        let current = self.cas.get(handle).map(|cas| cas.current.clone());
        match current {
            Some(current) => {
                let charged = self.charge(current.as_ref().map_or(0, Bytes::len));
                Ok(charged.map(|()| current.map(Vec::from)))
            }
            None => bail!("a compare-and-swap handle that was never given out"),
        }
    }

    /// The handle that a failed swap gives back.
    fn newer(&mut self, cas: Cas) -> CasError {
        if let Err(error) = self.charge(cas.current.as_ref().map_or(0, Bytes::len)) {
            return CasError::StoreError(error);
        }
        match self.cas.push(cas) {
            Some(newer) => CasError::CasFailed(newer),
            None => CasError::StoreError(too_many_handles()),
        }
    }
}

fn too_much_to_set(bytes: usize) -> store::Error {
    store::Error::Other(format!(
        "one call may set {MAX_SET_BYTES} bytes of values, and this one sets {bytes}"
    ))
}

fn too_many_handles() -> store::Error {
    store::Error::Other(format!("one request may hold {MAX_CAS} compare-and-swap handles"))
}

impl batch::Host for Context {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Answer<Vec<Option<(String, Vec<u8>)>>>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        let limit = self.readable;
        let values = match self.reading(state.get_many(&bucket, &keys, limit)).await? {
            Ok(values) => values,
            Err(error) => return Ok(Err(error)),
        };
        let bytes = values.iter().flatten().map(Bytes::len).sum();
        Ok(self.charge(bytes).map(|()| {
            keys.into_iter()
                .zip(values)
                .map(|(key, value)| value.map(|value| (key, Vec::from(value))))
                .collect()
        }))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> Result<Answer<()>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        let bytes: usize = key_values.iter().map(|(_, value)| value.len()).sum();
        if bytes > MAX_SET_BYTES {
            return Ok(Err(too_much_to_set(bytes)));
        }
        let values = key_values.into_iter().map(|(key, value)| (key, value.into())).collect();
        self.writing(state.set_many(&bucket, values)).await
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Answer<()>> {
        let (state, bucket) = (self.state.clone(), self.bucket(&bucket)?);
        self.writing(state.delete_many(&bucket, &keys)).await
    }
}
