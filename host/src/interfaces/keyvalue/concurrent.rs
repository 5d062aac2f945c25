//! `wasi:keyvalue` and `tally:keyvalue` for guests that have several operations on their way at a time.
//!
//! What such a guest starts at once is asked of the store at once, and shares batches with itself and with everybody
//! else. The store of the instance is nobody's while an operation waits: it is looked at before and after, and what
//! an operation needs meanwhile it takes along.
//!
//! The functions are those of the shapes beside this one, which wait for one operation before the next; only how they
//! wait differs. Their names and types are checked by wasmtime when a guest is linked.

use bytes::Bytes;
use tally_state::{Bounded, Bucket as Name, Error, Handle, Swapped};
use wasmtime::{
    Result, bail,
    component::{Accessor, Linker, Resource},
};

use super::{
    Answer, Bucket, Cas, CasError, KeyResponse, MAX_SET_BYTES,
    extensions::{bounded, duration, left_of, set_and_too_large, was_applied},
    store, too_many_handles, too_much_to_set,
};
use crate::interfaces::{
    Context, Draft2, bindings::plugin::tally::keyvalue::extensions as bound, operator::OwnOperator,
};

/// A guest's store, which is at hand only while something is done with it.
pub(super) type Store = Accessor<Context>;

pub(super) type Handled = Resource<Bucket>;

/// What an operation takes along.
pub(super) struct Operation {
    pub(super) operator: OwnOperator,
    pub(super) bucket: Name,
}

impl Operation {
    pub(super) fn on(store: &Store, bucket: &Handled) -> Result<Self> {
        store.with(|mut store| {
            let context = store.get();
            Ok(Self { operator: context.one_of_several(), bucket: context.bucket(bucket)? })
        })
    }

    pub(super) fn state(&self) -> &Handle {
        self.operator.by().state
    }

    /// Runs an operation that reads.
    pub(super) async fn reading<T>(
        &self,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Result<Answer<T>> {
        Ok(self.operator.by().reading(run).await?.map_err(Into::into))
    }

    /// Runs a write that may succeed and change nothing.
    pub(super) async fn attempt<T>(
        &self,
        run: impl Future<Output = Result<T, Error>>,
        changed: impl FnOnce(&T) -> bool,
    ) -> Result<Answer<T>> {
        Ok(self.operator.by().attempt(run, changed).await?.map_err(Into::into))
    }

    /// Runs a write that changes something if it succeeds.
    pub(super) async fn writing<T>(
        &self,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Result<Answer<T>> {
        Ok(self.operator.by().writing(run).await?.map_err(Into::into))
    }

    /// Reads a key, and charges the request for its value.
    pub(super) async fn read(&self, store: &Store, key: &str) -> Result<Answer<Option<Bytes>>> {
        let value = self.reading(self.state().get(&self.bucket, key)).await?;
        Ok(value.and_then(|value| {
            charge(store, value.as_ref().map_or(0, Bytes::len))?;
            Ok(value)
        }))
    }
}

fn charge(store: &Store, bytes: usize) -> Answer<()> {
    store.with(|mut store| store.get().charge(bytes))
}

/// Puts functions that run at the same time in the place of those that wait for each other.
///
/// # Errors
/// When the linker does not hold those yet, which is a bug.
pub(in crate::interfaces) fn make_concurrent(
    linker: &mut Linker<Context>,
    shape: Draft2,
) -> Result<()> {
    linker.allow_shadowing(true);
    add_store(linker)?;
    add_atomics(linker)?;
    add_batch(linker, shape)?;
    add_extensions(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Adds a function by its name, with the types of its parameters.
macro_rules! function {
    ($instance:ident, $name:literal, |$store:ident, $($param:ident: $type:ty),+| $body:expr) => {
        $instance.func_wrap_concurrent($name, |$store: &Store, ($($param,)+): ($($type,)+)| {
            Box::pin(async move { Ok(($body,)) })
        })?
    };
}
pub(super) use function;

fn add_store(linker: &mut Linker<Context>) -> Result<()> {
    let mut instance = linker.instance("wasi:keyvalue/store@0.2.0-draft2")?;
    function!(instance, "open", |store, name: String| {
        store.with(|mut store| store::Host::open(store.get(), name))?
    });
    function!(instance, "[method]bucket.get", |store, bucket: Handled, key: String| {
        let value = Operation::on(store, &bucket)?.read(store, &key).await?;
        value.map(|value| value.map(Vec::from))
    });
    function!(
        instance,
        "[method]bucket.set",
        |store, bucket: Handled, key: String, value: Vec<u8>| {
            let on = Operation::on(store, &bucket)?;
            on.writing(on.state().set(&on.bucket, &key, value.into())).await?
        }
    );
    function!(instance, "[method]bucket.delete", |store, bucket: Handled, key: String| {
        let on = Operation::on(store, &bucket)?;
        on.writing(on.state().delete(&on.bucket, &key)).await?
    });
    function!(instance, "[method]bucket.exists", |store, bucket: Handled, key: String| {
        let on = Operation::on(store, &bucket)?;
        on.reading(on.state().exists(&on.bucket, &key)).await?
    });
    function!(
        instance,
        "[method]bucket.list-keys",
        |store, bucket: Handled, cursor: Option<String>| {
            let on = Operation::on(store, &bucket)?;
            let page = on.reading(on.state().list(&on.bucket, "", cursor.as_deref())).await?;
            page.map(|page| KeyResponse { keys: page.keys, cursor: page.cursor })
        }
    );
    Ok(())
}

fn add_atomics(linker: &mut Linker<Context>) -> Result<()> {
    let mut instance = linker.instance("wasi:keyvalue/atomics@0.2.0-draft2")?;
    function!(instance, "increment", |store, bucket: Handled, key: String, delta: i64| {
        let on = Operation::on(store, &bucket)?;
        on.writing(on.state().increment(&on.bucket, &key, delta)).await?
    });
    function!(instance, "swap", |store, handle: Resource<Cas>, value: Vec<u8>| {
        swap(store, &handle, value).await?
    });
    function!(instance, "[static]cas.new", |store, bucket: Handled, key: String| {
        match Operation::on(store, &bucket)?.read(store, &key).await? {
            Ok(current) => {
                let cas = Cas { bucket: bucket.rep(), key, current };
                let handle = store.with(|mut store| store.get().cas.push(cas));
                handle.ok_or_else(too_many_handles)
            }
            Err(error) => Err(error),
        }
    });
    function!(instance, "[method]cas.current", |store, handle: Resource<Cas>| {
        store.with(|mut store| store.get().seen(&handle))?
    });
    Ok(())
}

async fn swap(
    store: &Store,
    handle: &Resource<Cas>,
    value: Vec<u8>,
) -> Result<Result<(), CasError>> {
    let Some(cas) = store.with(|mut store| store.get().cas.take(handle)) else {
        bail!("a compare-and-swap handle that was never given out");
    };
    let on = Operation::on(store, &Resource::new_borrow(cas.bucket))?;
    let swapping = on.state().swap(&on.bucket, &cas.key, cas.current.clone(), value.into());
    Ok(match on.attempt(swapping, |swapped| matches!(swapped, Swapped::Yes)).await? {
        Ok(Swapped::Yes) => Ok(()),
        Ok(Swapped::No(current)) => {
            Err(store.with(|mut store| store.get().newer(Cas { current, ..cas })))
        }
        Err(error) => Err(CasError::StoreError(error)),
    })
}

fn add_batch(linker: &mut Linker<Context>, shape: Draft2) -> Result<()> {
    let mut instance = linker.instance("wasi:keyvalue/batch@0.2.0-draft2")?;
    match shape {
        Draft2::Upstream => {
            function!(instance, "get-many", |store, bucket: Handled, keys: Vec<String>| {
                get_many(store, &bucket, &keys).await?.map(|values| {
                    let pair = |(key, value): (String, Option<Bytes>)| {
                        value.map(|value| (key, Vec::from(value)))
                    };
                    keys.into_iter().zip(values).map(pair).collect::<Vec<_>>()
                })
            });
        }
        Draft2::Spin => {
            function!(instance, "get-many", |store, bucket: Handled, keys: Vec<String>| {
                get_many(store, &bucket, &keys).await?.map(|values| {
                    let values = values.into_iter().map(|value| value.map(Vec::from));
                    keys.into_iter().zip(values).collect::<Vec<_>>()
                })
            });
        }
    }
    function!(instance, "set-many", |store, bucket: Handled, pairs: Vec<(String, Vec<u8>)>| {
        let on = Operation::on(store, &bucket)?;
        let bytes: usize = pairs.iter().map(|(_, value)| value.len()).sum();
        if bytes > MAX_SET_BYTES {
            return Ok((Err(too_much_to_set(bytes)),));
        }
        let pairs = pairs.into_iter().map(|(key, value)| (key, value.into())).collect();
        on.writing(on.state().set_many(&on.bucket, pairs)).await?
    });
    function!(instance, "delete-many", |store, bucket: Handled, keys: Vec<String>| {
        let on = Operation::on(store, &bucket)?;
        on.writing(on.state().delete_many(&on.bucket, &keys)).await?
    });
    Ok(())
}

/// The values of keys, in order.
async fn get_many(
    store: &Store,
    bucket: &Handled,
    keys: &[String],
) -> Result<Answer<Vec<Option<Bytes>>>> {
    let on = Operation::on(store, bucket)?;
    let limit = store.with(|mut store| store.get().readable);
    let values = on.reading(on.state().get_many(&on.bucket, keys, limit)).await?;
    Ok(values.and_then(|values| {
        charge(store, values.iter().flatten().map(Bytes::len).sum())?;
        Ok(values)
    }))
}

fn add_extensions(linker: &mut Linker<Context>) -> Result<()> {
    type Ttl = bound::Milliseconds;

    let mut instance = linker.instance("tally:keyvalue/extensions@0.1.0")?;
    function!(instance, "set-for", |store,
                                    bucket: Handled,
                                    key: String,
                                    value: Vec<u8>,
                                    ttl: Ttl| {
        let on = Operation::on(store, &bucket)?;
        let ttl = Some(duration(ttl));
        on.writing(on.state().set_for(&on.bucket, &key, value.into(), ttl)).await?
    });
    function!(instance, "extend", |store, bucket: Handled, key: String, ttl: Ttl| {
        let on = Operation::on(store, &bucket)?;
        let extending = on.state().expire(&on.bucket, &key, Some(duration(ttl)));
        on.attempt(extending, |found| *found).await?
    });
    function!(instance, "persist", |store, bucket: Handled, key: String| {
        let on = Operation::on(store, &bucket)?;
        on.attempt(on.state().expire(&on.bucket, &key, None), |found| *found).await?
    });
    function!(instance, "remaining", |store, bucket: Handled, key: String| {
        let on = Operation::on(store, &bucket)?;
        let left = on.reading(on.state().time_to_live(&on.bucket, &key)).await?;
        left.map(left_of)
    });
    function!(instance, "get-and-set", |store,
                                        bucket: Handled,
                                        key: String,
                                        value: Vec<u8>,
                                        ttl: Option<Ttl>| {
        let on = Operation::on(store, &bucket)?;
        let ttl = ttl.map(duration);
        let setting = on.state().get_and_set(&on.bucket, &key, value.into(), ttl);
        on.writing(setting).await?.and_then(|before| {
            // The write has been made, and the guest must not take it for undone.
            match charge(store, before.as_ref().map_or(0, Bytes::len)) {
                Ok(()) => Ok(before.map(Vec::from)),
                Err(_) => Err(set_and_too_large()),
            }
        })
    });
    function!(
        instance,
        "set-if-absent",
        |store, bucket: Handled, key: String, value: Vec<u8>, ttl: Option<Ttl>| {
            let on = Operation::on(store, &bucket)?;
            let ttl = ttl.map(duration);
            let setting = on.state().set_if_absent(&on.bucket, &key, value.into(), ttl);
            on.attempt(setting, |set| *set).await?
        }
    );
    function!(instance, "increment-for", |store,
                                          bucket: Handled,
                                          key: String,
                                          delta: i64,
                                          ttl: Ttl| {
        let on = Operation::on(store, &bucket)?;
        let ttl = Some(duration(ttl));
        on.writing(on.state().increment_for(&on.bucket, &key, delta, ttl)).await?
    });
    function!(
        instance,
        "increment-within",
        |store, bucket: Handled, key: String, delta: i64, min: i64, max: i64| {
            let on = Operation::on(store, &bucket)?;
            let adding = on.state().increment_within(&on.bucket, &key, delta, min..=max);
            told(on.attempt(adding, was_applied).await?)
        }
    );
    function!(
        instance,
        "increment-within-for",
        |store, bucket: Handled, key: String, delta: i64, min: i64, max: i64, ttl: Ttl| {
            let on = Operation::on(store, &bucket)?;
            let ttl = Some(duration(ttl));
            let adding = on.state().increment_within_for(&on.bucket, &key, delta, min..=max, ttl);
            told(on.attempt(adding, was_applied).await?)
        }
    );
    function!(
        instance,
        "list-prefix",
        |store, bucket: Handled, prefix: String, cursor: Option<String>| {
            let on = Operation::on(store, &bucket)?;
            let listing = on.state().list(&on.bucket, &prefix, cursor.as_deref());
            let page = on.reading(listing).await?;
            page.map(|page| bound::KeyResponse { keys: page.keys, cursor: page.cursor })
        }
    );
    Ok(())
}

fn told(answer: Answer<Bounded>) -> Answer<bound::Bounded> {
    answer.map(bounded)
}
