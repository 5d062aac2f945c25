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
        Ok((context.one_of_several(), context.bucket(bucket)?))
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

#[cfg(test)]
mod tests {
    use tally_state::{Error as State, Rejection};
    use wasmtime::{Config, Engine, Store};

    use super::{
        atomics::HostWithStore as _, batch::HostWithStore as _, cas::HostWithStore as _,
        store::HostWithStore as _, types::HostBucketWithStore as _, *,
    };
    use crate::interfaces::tests::fresh;

    type Caller = Accessor<Context, Shared>;

    /// Calls functions as a guest of one request does.
    async fn as_a_guest<T: Send + 'static>(run: impl AsyncFnOnce(&Caller) -> T) -> T {
        let engine = Engine::new(Config::new().concurrency_support(true)).unwrap();
        let (context, _) = fresh().await;
        let mut store = Store::new(&engine, context);
        let running = store.run_concurrent(async |accessor: &Accessor<Context>| {
            run(&accessor.with_getter::<Shared>(|context| context)).await
        });
        running.await.unwrap()
    }

    fn bucket() -> Resource<Bucket> {
        Resource::new_borrow(0)
    }

    fn key() -> String {
        "key".into()
    }

    async fn set(caller: &Caller, value: &str, options: Option<SetOptions>) -> Result<(), Error> {
        Shared::set(caller, bucket(), key(), value.into(), options).await.unwrap()
    }

    async fn current(caller: &Caller) -> Option<Entry> {
        Shared::current(caller, bucket(), key()).await.unwrap().unwrap()
    }

    async fn swap(
        caller: &Caller,
        value: &str,
        require_version: Option<String>,
        require_value: Option<&str>,
    ) -> Result<CasResult, Error> {
        let options = CasOptions { require_version, require_value: require_value.map(Into::into) };
        Shared::swap(caller, bucket(), key(), value.into(), options).await.unwrap()
    }

    /// The value that a swap found, which it was not to find.
    fn stale(swapped: Result<CasResult, Error>) -> Option<Vec<u8>> {
        match swapped {
            Ok(CasResult::Stale(entry)) => entry.map(|entry| entry.value),
            other => panic!("it was no stale swap: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_swap_is_made_where_every_condition_holds() {
        as_a_guest(async |caller| {
            assert!(current(caller).await.is_none());
            let version_of = |value: &str| Some(version(value.as_bytes()));
            assert_eq!(stale(swap(caller, "new", version_of("a"), None).await), None);
            assert_eq!(stale(swap(caller, "new", None, Some("a")).await), None);
            set(caller, "a", None).await.unwrap();
            let first = current(caller).await.unwrap();
            for (require_version, require_value) in [
                (version_of("b"), None),
                (None, Some("b")),
                (Some(first.version.clone()), Some("b")),
                (version_of("b"), Some("a")),
                (Some(String::new()), None),
            ] {
                let found = swap(caller, "new", require_version, require_value).await;
                assert_eq!(stale(found), Some(b"a".to_vec()));
            }
            assert_eq!(current(caller).await.unwrap().value, b"a", "nothing was written");

            let swapped = swap(caller, "b", Some(first.version.clone()), None).await;
            assert!(matches!(swapped, Ok(CasResult::Swapped)));
            let swapped = swap(caller, "c", version_of("b"), Some("b")).await;
            assert!(matches!(swapped, Ok(CasResult::Swapped)));
            let swapped = swap(caller, "d", None, Some("c")).await;
            assert!(matches!(swapped, Ok(CasResult::Swapped)));
            let again = swap(caller, "e", Some(first.version), None).await;
            assert_eq!(stale(again), Some(b"d".to_vec()));
            let nothing = swap(caller, "e", None, None).await;
            assert!(matches!(nothing, Err(Error::InvalidArgument)));
        })
        .await;
    }

    #[tokio::test]
    async fn one_of_many_swaps_from_one_version_succeeds() {
        as_a_guest(async |caller| {
            set(caller, "0", None).await.unwrap();
            let before = current(caller).await.unwrap().version;
            let values: Vec<String> = (1..=50).map(|number| number.to_string()).collect();
            let swaps = values.iter().map(|value| swap(caller, value, Some(before.clone()), None));
            let swapped = futures_util::future::join_all(swaps).await;
            let made = swapped.iter().filter(|swap| matches!(swap, Ok(CasResult::Swapped)));
            assert_eq!(made.count(), 1);
            let now = current(caller).await.unwrap().value;
            for other in swapped.into_iter().filter(|swap| !matches!(swap, Ok(CasResult::Swapped)))
            {
                assert_eq!(stale(other).as_ref(), Some(&now));
            }
        })
        .await;
    }

    #[tokio::test]
    async fn conditions_of_a_set_are_kept() {
        as_a_guest(async |caller| {
            let only_new = SetOptions { ttl_ms: None, if_not_exists: true };
            set(caller, "first", Some(only_new)).await.unwrap();
            let again = set(caller, "second", Some(only_new)).await;
            assert!(matches!(again, Err(Error::PreconditionFailed)));
            assert_eq!(current(caller).await.unwrap().value, b"first");
            let short = SetOptions { ttl_ms: Some(1), if_not_exists: false };
            set(caller, "short", Some(short)).await.unwrap();
            let gone = async {
                while Shared::exists(caller, bucket(), key()).await.unwrap().unwrap() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), gone).await.expect("it ends");
            let both = SetOptions { ttl_ms: Some(60_000), if_not_exists: true };
            set(caller, "third", Some(both)).await.unwrap();
            let kept = Shared::get(caller, bucket(), key()).await.unwrap().unwrap();
            assert_eq!(kept, Some(b"third".to_vec()));
        })
        .await;
    }

    #[tokio::test]
    async fn increments_that_are_on_their_way_together_are_all_counted() {
        as_a_guest(async |caller| {
            let adding = (0..100).map(|_| Shared::increment(caller, bucket(), key(), -2));
            let mut counts: Vec<i64> = futures_util::future::join_all(adding)
                .await
                .into_iter()
                .map(|added| added.unwrap().unwrap())
                .collect();
            counts.sort_unstable_by(|a, b| b.cmp(a));
            assert_eq!(counts, (1..=100).map(|number| number * -2).collect::<Vec<_>>());
            set(caller, "text", None).await.unwrap();
            let refused = Shared::increment(caller, bucket(), key(), 1).await.unwrap();
            assert!(matches!(refused, Err(Error::Other(_))), "{refused:?}");
        })
        .await;
    }

    #[tokio::test]
    async fn several_keys_are_set_read_listed_and_deleted() {
        as_a_guest(async |caller| {
            let keys = || ["b/1", "a/1", "a/2"].map(str::to_owned).to_vec();
            let pairs = keys().into_iter().map(|key| (key.clone(), key.into_bytes())).collect();
            Shared::set_many(caller, bucket(), pairs).await.unwrap().unwrap();
            let mut asked = keys();
            asked.insert(1, "none".into());
            let read = Shared::get_many(caller, bucket(), asked).await.unwrap().unwrap();
            let pair = |key: &str| Some((key.to_owned(), key.as_bytes().to_vec()));
            assert_eq!(read, [pair("b/1"), None, pair("a/1"), pair("a/2")]);
            for (prefix, listed) in [(None, 3), (Some("a/"), 2), (Some("c"), 0)] {
                let page = Shared::list_keys(caller, bucket(), prefix.map(Into::into), None).await;
                assert_eq!(page.unwrap().unwrap().keys.len(), listed, "{prefix:?}");
            }
            Shared::delete(caller, bucket(), "b/1".into()).await.unwrap().unwrap();
            let rest = vec!["a/1".into(), "none".into()];
            Shared::delete_many(caller, bucket(), rest).await.unwrap().unwrap();
            let page = Shared::list_keys(caller, bucket(), None, None).await.unwrap().unwrap();
            assert_eq!(page.keys, ["a/2"]);
            let large = vec![("k".to_owned(), vec![0; MAX_SET_BYTES + 1])];
            let refused = Shared::set_many(caller, bucket(), large).await.unwrap();
            assert!(matches!(refused, Err(Error::QuotaExceeded)));
        })
        .await;
    }

    #[tokio::test]
    async fn errors_have_their_names() {
        as_a_guest(async |caller| {
            let open = async |name: &str| Shared::open(caller, name.into()).await.unwrap();
            assert!(open("").await.is_ok() && open("default").await.is_ok());
            assert!(matches!(open("elsewhere").await, Err(Error::NoSuchStore)));
            assert!(matches!(open("tally.health").await, Err(Error::AccessDenied)));
            let empty = Shared::get(caller, bucket(), String::new()).await.unwrap();
            assert!(matches!(empty, Err(Error::Other(_))), "{empty:?}");
            // Of the 1,000 of a request one was used.
            for _ in 1..1_000 {
                Shared::exists(caller, bucket(), key()).await.unwrap().unwrap();
            }
            let one_more = Shared::exists(caller, bucket(), key()).await.unwrap();
            assert!(matches!(one_more, Err(Error::QuotaExceeded)), "{one_more:?}");
        })
        .await;
        for (failure, name) in [
            (Failed::Write(State::NotApplied("down".into())), "StoreUnavailable"),
            (Failed::Read(State::NotApplied("down".into())), "StoreUnavailable"),
            (Failed::Write(State::Unknown("cut off".into())), "Timeout"),
            (Failed::Write(State::Rejected(Rejection::NotANumber)), "Other"),
        ] {
            let told = format!("{:?}", failed(failure));
            assert!(told.contains(name) && !told.contains("down"), "{told}");
        }
    }

    #[test]
    fn equal_values_have_equal_versions_and_others_do_not() {
        assert_eq!(version(b"a"), version(b"a"));
        assert_ne!(version(b"a"), version(b"b"));
        assert_eq!(version(b"").len(), 32);
    }
}
