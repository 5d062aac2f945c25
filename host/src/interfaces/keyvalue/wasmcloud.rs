//! `wasmcloud:keyvalue` 0.2.0, on the same buckets. All of its functions are `async`, so a guest of WASI 0.3 may
//! have many operations on their way at a time, which share a batch of the store.
//!
//! A version is a digest of the value: swaps are exact, and take a key that was changed and changed back for
//! unchanged. The other shapes compare values as well.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tally_state::Swapped;
use wasmtime::{
    Result,
    component::{Accessor, HasSelf, Linker, LinkerInstance, Resource},
};

use super::{Bucket, MAX_SET_BYTES, store as draft2};
use crate::interfaces::{
    Context,
    bindings::wasmcloud::wasmcloud::keyvalue::{
        atomics, batch,
        cas::{self, CasOptions, CasResult, Entry},
        store,
        types::{self, Error, KeyResponse, SetOptions},
    },
    operator::{Failed, OwnOperator},
};

/// What the calls of a guest share: its request's context, one call at a time and only while it does not wait.
type Shared = HasSelf<Context>;

type Answer<T> = Result<Result<T, Error>>;

/// Offers the interfaces to a linker.
///
/// # Errors
/// When its engine runs no calls beside each other, or one of the names is taken, which is a bug.
#[allow(dead_code, reason = "for engines of WASI 0.3")]
pub(in crate::interfaces) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    types::add_to_linker::<_, Shared>(linker, |context| context)?;
    store::add_to_linker::<_, Shared>(linker, |context| context)?;
    atomics::add_to_linker::<_, Shared>(linker, |context| context)?;
    cas::add_to_linker::<_, Shared>(linker, |context| context)?;
    batch::add_to_linker::<_, Shared>(linker, |context| context)
}

/// Offers `store` under a label, whose names stand for other buckets.
///
/// # Errors
/// As [`add_to_linker`].
pub(in crate::interfaces) fn add_label(
    instance: &mut LinkerInstance<'_, Context>,
    bucket: impl Fn(&str) -> String + Send + Sync + 'static,
) -> Result<()> {
    let bucket = Arc::new(bucket);
    instance.func_wrap_concurrent("open", move |accessor, (name,): (String,)| {
        let name = bucket(&name);
        let opened = accessor.with(|mut access| access.data_mut().open_bucket(&name));
        let opened = opened.map(Resource::<Bucket>::new_own).map_err(error);
        Box::pin(async move { Ok((opened,)) })
    })
}

/// What stands for a value as it is.
fn version(value: &[u8]) -> String {
    let digest = Sha256::digest(value);
    let mut version = String::with_capacity(32);
    for byte in digest.iter().take(16) {
        // Writing to a string does not fail.
        let _ = write!(version, "{byte:02x}");
    }
    version
}

fn error(error: draft2::Error) -> Error {
    match error {
        draft2::Error::NoSuchStore => Error::NoSuchStore,
        draft2::Error::AccessDenied => Error::AccessDenied,
        draft2::Error::Other(reason) => Error::Other(reason),
    }
}

/// A failure in this package's terms. What is wrong with an operation itself is told in words.
fn failed(failed: Failed) -> Error {
    use tally_state::Error as State;
    match &failed {
        Failed::Operations => Error::QuotaExceeded,
        Failed::Read(State::NotApplied(_)) | Failed::Write(State::NotApplied(_)) => {
            Error::StoreUnavailable
        }
        Failed::Read(State::Unknown(_)) | Failed::Write(State::Unknown(_)) => Error::Timeout,
        Failed::Read(State::Rejected(_)) | Failed::Write(State::Rejected(_)) => {
            Error::Other(failed.to_string())
        }
    }
}

/// What asks for a call, and the bucket it is about.
fn on<T>(
    accessor: &Accessor<T, Shared>,
    bucket: &Resource<Bucket>,
) -> Result<(OwnOperator, tally_state::Bucket)> {
    accessor.with(|mut access| {
        let context = access.get();
        Ok((context.own_operator(), context.bucket(bucket)?))
    })
}

/// Charges the request for bytes it has read.
fn charge<T>(accessor: &Accessor<T, Shared>, bytes: usize) -> Result<(), Error> {
    accessor.with(|mut access| access.get().charge(bytes)).map_err(error)
}

/// An entry for a guest, whose request is charged for it.
fn entry<T>(accessor: &Accessor<T, Shared>, value: Option<Bytes>) -> Result<Option<Entry>, Error> {
    let Some(value) = value else { return Ok(None) };
    charge(accessor, value.len())?;
    Ok(Some(Entry { version: version(&value), value: value.into() }))
}

impl types::Host for Context {}

impl types::HostBucket for Context {
    fn drop(&mut self, _this: Resource<Bucket>) -> Result<()> {
        Ok(())
    }
}

impl<T: Send> types::HostBucketWithStore<T> for Shared {
    async fn get(
        accessor: &Accessor<T, Self>,
        this: Resource<Bucket>,
        key: String,
    ) -> Answer<Option<Vec<u8>>> {
        let (own, bucket) = on(accessor, &this)?;
        let by = own.by();
        let value = by.reading(by.state.get(&bucket, &key)).await?.map_err(failed);
        Ok(value.and_then(|value| {
            charge(accessor, value.as_ref().map_or(0, Bytes::len))?;
            Ok(value.map(Vec::from))
        }))
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        this: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
        options: Option<SetOptions>,
    ) -> Answer<()> {
        let (own, bucket) = on(accessor, &this)?;
        let by = own.by();
        let ttl = options.and_then(|options| options.ttl_ms).map(Duration::from_millis);
        if options.is_some_and(|options| options.if_not_exists) {
            let setting = by.state.set_if_absent(&bucket, &key, value.into(), ttl);
            return Ok(match by.attempt(setting, |set| *set).await? {
                Ok(true) => Ok(()),
                Ok(false) => Err(Error::PreconditionFailed),
                Err(reason) => Err(failed(reason)),
            });
        }
        let setting = by.state.set_for(&bucket, &key, value.into(), ttl);
        Ok(by.writing(setting).await?.map_err(failed))
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        this: Resource<Bucket>,
        key: String,
    ) -> Answer<()> {
        let (own, bucket) = on(accessor, &this)?;
        let by = own.by();
        Ok(by.writing(by.state.delete(&bucket, &key)).await?.map_err(failed))
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        this: Resource<Bucket>,
        key: String,
    ) -> Answer<bool> {
        let (own, bucket) = on(accessor, &this)?;
        let by = own.by();
        Ok(by.reading(by.state.exists(&bucket, &key)).await?.map_err(failed))
    }

    async fn list_keys(
        accessor: &Accessor<T, Self>,
        this: Resource<Bucket>,
        prefix: Option<String>,
        cursor: Option<String>,
    ) -> Answer<KeyResponse> {
        let (own, bucket) = on(accessor, &this)?;
        let by = own.by();
        let prefix = prefix.unwrap_or_default();
        let page = by.reading(by.state.list(&bucket, &prefix, cursor.as_deref())).await?;
        let page = page.map_err(failed);
        Ok(page.map(|page| KeyResponse { keys: page.keys, cursor: page.cursor }))
    }
}

impl store::Host for Context {}

impl<T: Send> store::HostWithStore<T> for Shared {
    async fn open(accessor: &Accessor<T, Self>, identifier: String) -> Answer<Resource<Bucket>> {
        let opened = accessor.with(|mut access| access.get().open_bucket(&identifier));
        Ok(opened.map(Resource::new_own).map_err(error))
    }
}

impl atomics::Host for Context {}

impl<T: Send> atomics::HostWithStore<T> for Shared {
    async fn increment(
        accessor: &Accessor<T, Self>,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> Answer<i64> {
        let (own, bucket) = on(accessor, &bucket)?;
        let by = own.by();
        Ok(by.writing(by.state.increment(&bucket, &key, delta)).await?.map_err(failed))
    }
}

impl cas::Host for Context {}

impl<T: Send> cas::HostWithStore<T> for Shared {
    async fn current(
        accessor: &Accessor<T, Self>,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Answer<Option<Entry>> {
        let (own, bucket) = on(accessor, &bucket)?;
        let by = own.by();
        let value = by.reading(by.state.get(&bucket, &key)).await?.map_err(failed);
        Ok(value.and_then(|value| entry(accessor, value)))
    }

    async fn swap(
        accessor: &Accessor<T, Self>,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
        options: CasOptions,
    ) -> Answer<CasResult> {
        let (own, bucket) = on(accessor, &bucket)?;
        let by = own.by();
        let expected = match expected(&own, &bucket, &key, options).await? {
            Ok(expected) => expected,
            Err(reason) => return Ok(Err(reason)),
        };
        let swapping = by.state.swap(&bucket, &key, Some(expected), value.into());
        let changed = |swapped: &Swapped| matches!(swapped, Swapped::Yes);
        Ok(match by.attempt(swapping, changed).await? {
            Ok(Swapped::Yes) => Ok(CasResult::Swapped),
            Ok(Swapped::No(current)) => entry(accessor, current).map(CasResult::Stale),
            Err(reason) => Err(failed(reason)),
        })
    }
}

/// The value that a swap is to find. Where none can be what is required, the swap is made all the same, with what
/// no key holds: it is a write of the request, and may have been made before, when the key held something else.
async fn expected(
    own: &OwnOperator,
    bucket: &tally_state::Bucket,
    key: &str,
    options: CasOptions,
) -> Answer<Bytes> {
    let by = own.by();
    let (wanted, value) = match (options.require_version, options.require_value) {
        (None, None) => return Ok(Err(Error::InvalidArgument)),
        (None, Some(value)) => return Ok(Ok(value.into())),
        (Some(wanted), Some(value)) => (wanted, Some(Bytes::from(value))),
        (Some(wanted), None) => match by.reading(by.state.get(bucket, key)).await? {
            Ok(value) => (wanted, value),
            Err(reason) => return Ok(Err(failed(reason))),
        },
    };
    Ok(match value.filter(|value| version(value) == wanted) {
        Some(value) => Ok(value),
        None => {
            let mut nothing = [0; 32];
            let random = getrandom::fill(&mut nothing);
            random.map(|()| Bytes::copy_from_slice(&nothing)).map_err(|_| Error::StoreUnavailable)
        }
    })
}

impl batch::Host for Context {}

impl<T: Send> batch::HostWithStore<T> for Shared {
    async fn get_many(
        accessor: &Accessor<T, Self>,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let (own, bucket) = on(accessor, &bucket)?;
        let by = own.by();
        let limit = accessor.with(|mut access| access.get().readable);
        let values = match by.reading(by.state.get_many(&bucket, &keys, limit)).await? {
            Ok(values) => values,
            Err(reason) => return Ok(Err(failed(reason))),
        };
        let bytes = values.iter().flatten().map(Bytes::len).sum();
        Ok(charge(accessor, bytes).map(|()| {
            keys.into_iter()
                .zip(values)
                .map(|(key, value)| value.map(|value| (key, Vec::from(value))))
                .collect()
        }))
    }

    async fn set_many(
        accessor: &Accessor<T, Self>,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> Answer<()> {
        let (own, bucket) = on(accessor, &bucket)?;
        let by = own.by();
        let bytes: usize = key_values.iter().map(|(_, value)| value.len()).sum();
        if bytes > MAX_SET_BYTES {
            return Ok(Err(Error::QuotaExceeded));
        }
        let values = key_values.into_iter().map(|(key, value)| (key, value.into())).collect();
        Ok(by.writing(by.state.set_many(&bucket, values)).await?.map_err(failed))
    }

    async fn delete_many(
        accessor: &Accessor<T, Self>,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<()> {
        let (own, bucket) = on(accessor, &bucket)?;
        let by = own.by();
        Ok(by.writing(by.state.delete_many(&bucket, &keys)).await?.map_err(failed))
    }
}
