//! Key-value stores as guests see them: `wasi:keyvalue` 0.2.0-draft2 (`store`, `atomics`, `batch`)
//! over the state layer, and the other shapes of it (`draft`, `spin`) over this one.
//!
//! A bucket handle is its place in the guest's list, so opening and dropping one costs nothing. A
//! compare-and-swap handle remembers a value, and their number is bounded.

use std::sync::Arc;

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
    buckets::Opened,
    denied,
};

mod draft;
mod extensions;
mod spin;

pub(super) use self::{draft::Cursors, spin::reshape};

/// State operations one request may ask for. A page of work for any handler, and an end to one
/// that loops.
pub(crate) const MAX_OPERATIONS: u32 = 1_000;

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

/// What a guest is told of a failure. The store's own words stay with the host, because they may
/// name what is none of a client's business.
fn explain(error: &Error, write: bool) -> store::Error {
    store::Error::Other(match error {
        Error::Rejected(rejection) => rejection.to_string(),
        Error::NotApplied(_) => {
            "the store cannot be used at the moment; nothing was changed, and it is safe to retry"
                .into()
        }
        Error::Unknown(_) if !write => {
            "the store did not answer; nothing was changed, and it is safe to retry".into()
        }
        Error::Unknown(_) => {
            "the store did not answer; whether the change was made is not known".into()
        }
    })
}

type Answer<T> = Result<T, store::Error>;

impl Context {
    /// Runs an operation that reads. A request that is to be applied once, and that reads before it
    /// writes, may have been answered before, and what it then wrote must not send it another way:
    /// if so, the guest is stopped here.
    async fn reading<T>(
        &mut self,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Result<Answer<T>> {
        if self.state.scope().is_some() && !self.effects.has_read() {
            let (state, settings) = (self.state.clone(), Arc::clone(&self.settings));
            // In a box, as few requests have a key.
            let looking = Box::pin(async move { state.look_up(settings.buckets.stored()).await });
            match looking.await {
                Ok(()) => self.stop_if_answered()?,
                Err(error) => {
                    let told = explain(&error, false);
                    self.effects.end(false, &Err::<(), _>(error), |()| false);
                    return Ok(Err(told));
                }
            }
        }
        Ok(self.recorded(false, run, |_| true).await)
    }

    fn stop_if_answered(&self) -> Result<()> {
        let answered = self.state.scope().is_some_and(|scope| scope.response().is_some());
        if answered && !self.effects.streams() {
            return Err(AnsweredBefore.into());
        }
        Ok(())
    }

    /// Runs a write that changes something if it succeeds.
    async fn writing<T>(
        &mut self,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Result<Answer<T>> {
        self.attempt(run, |_| true).await
    }

    /// Runs a write that may succeed and change nothing. The guest is stopped if it turns out that
    /// its request was answered before, and the response is stored.
    async fn attempt<T>(
        &mut self,
        run: impl Future<Output = Result<T, Error>>,
        changed: impl FnOnce(&T) -> bool,
    ) -> Result<Answer<T>> {
        let answer = self.recorded(true, run, changed).await;
        self.stop_if_answered()?;
        Ok(answer)
    }

    /// Runs an operation, and records its effect.
    async fn recorded<T>(
        &mut self,
        write: bool,
        run: impl Future<Output = Result<T, Error>>,
        changed: impl FnOnce(&T) -> bool,
    ) -> Answer<T> {
        if !self.effects.begin(MAX_OPERATIONS, write) {
            return Err(store::Error::Other(format!(
                "this request has used up its {MAX_OPERATIONS} state operations; nothing was changed"
            )));
        }
        let result = run.await;
        self.effects.end(write, &result, changed);
        result.map_err(|error| explain(&error, write))
    }

    /// Charges the request for bytes it has read.
    fn charge(&mut self, bytes: usize) -> Result<(), store::Error> {
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

    fn bucket(&self, handle: &Resource<Bucket>) -> Result<tally_state::Bucket> {
        match self.settings.buckets.get(handle.rep()) {
            Some(bucket) => Ok(bucket.clone()),
            None => bail!("a bucket handle that was never given out"),
        }
    }
}

impl store::Host for Context {
    fn open(&mut self, identifier: String) -> Result<Answer<Resource<Bucket>>> {
        let opened = self.settings.buckets.open(&identifier);
        if matches!(opened, Opened::NoSuchStore | Opened::AccessDenied) {
            denied::bucket(&self.settings, &identifier);
        }
        Ok(match opened {
            Opened::Bucket(place) => Ok(Resource::new_own(place)),
            Opened::NoSuchStore => Err(store::Error::NoSuchStore),
            Opened::AccessDenied => Err(store::Error::AccessDenied),
        })
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
        let current = self.cas.get(&this).map(|cas| cas.current.clone());
        match current {
            Some(current) => {
                let charged = self.charge(current.as_ref().map_or(0, Bytes::len));
                Ok(charged.map(|()| current.map(Vec::from)))
            }
            None => bail!("a compare-and-swap handle that was never given out"),
        }
    }

    async fn drop(&mut self, this: Resource<Cas>) -> Result<()> {
        self.cas.take(&this);
        Ok(())
    }
}

impl Context {
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
            return Ok(Err(store::Error::Other(format!(
                "one call may set {MAX_SET_BYTES} bytes of values, and this one sets {bytes}"
            ))));
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
