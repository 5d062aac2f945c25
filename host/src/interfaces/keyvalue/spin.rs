//! The two shapes that Spin's guests import, over the implementation of `wasi:keyvalue`
//! 0.2.0-draft2: Spin's own reading of that draft, and `fermyon:spin/key-value`.

use wasmtime::{
    Result,
    component::{Linker, Resource},
};

use super::{Answer, Bucket, Context, batch::Host as _, store};
use crate::interfaces::bindings::spin::fermyon::spin::key_value;

/// Puts Spin's shape of `get-many` in the place of upstream's; all else of the two is the same.
///
/// # Errors
/// When the linker does not hold upstream's yet, which is a bug.
pub(in crate::interfaces) fn reshape(linker: &mut Linker<Context>) -> Result<()> {
    linker.allow_shadowing(true);
    linker.instance("wasi:keyvalue/batch@0.2.0-draft2")?.func_wrap_async(
        "get-many",
        |mut store, (bucket, keys): (Resource<Bucket>, Vec<String>)| {
            Box::new(async move { Ok((get_many(store.data_mut(), bucket, keys).await?,)) })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Each key asked for, in order, with its value.
async fn get_many(
    context: &mut Context,
    bucket: Resource<Bucket>,
    keys: Vec<String>,
) -> Result<Answer<Vec<(String, Option<Vec<u8>>)>>> {
    let asked = keys.clone();
    Ok(context.get_many(bucket, keys).await?.map(|values| {
        let values = values.into_iter().map(|value| value.map(|(_, value)| value));
        asked.into_iter().zip(values).collect()
    }))
}

/// Bytes that a key takes in the host besides its own.
pub(super) const KEY_BYTES: usize = 64;

/// The error in Spin's terms. Spin tells a guest of no store that it may not have, whether it is there or not.
pub(in crate::interfaces) fn error(error: store::Error) -> key_value::Error {
    match error {
        store::Error::NoSuchStore | store::Error::AccessDenied => key_value::Error::AccessDenied,
        store::Error::Other(reason) => key_value::Error::Other(reason),
    }
}

/// The answer in Spin's terms.
fn told<T>(answer: Result<Answer<T>>) -> Result<Result<T, key_value::Error>> {
    Ok(answer?.map_err(error))
}

impl key_value::Host for Context {}

impl key_value::HostStore for Context {
    fn open(&mut self, label: String) -> Result<Result<Resource<Bucket>, key_value::Error>> {
        told(store::Host::open(self, label))
    }

    async fn get(
        &mut self,
        this: Resource<Bucket>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, key_value::Error>> {
        told(store::HostBucket::get(self, this, key).await)
    }

    async fn set(
        &mut self,
        this: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), key_value::Error>> {
        told(store::HostBucket::set(self, this, key, value).await)
    }

    async fn delete(
        &mut self,
        this: Resource<Bucket>,
        key: String,
    ) -> Result<Result<(), key_value::Error>> {
        told(store::HostBucket::delete(self, this, key).await)
    }

    async fn exists(
        &mut self,
        this: Resource<Bucket>,
        key: String,
    ) -> Result<Result<bool, key_value::Error>> {
        told(store::HostBucket::exists(self, this, key).await)
    }

    /// All keys, gathered page by page. Each page is an operation of the request, and the keys count
    /// as bytes it reads, so a bucket of any size takes a bounded part of the host.
    async fn get_keys(
        &mut self,
        this: Resource<Bucket>,
    ) -> Result<Result<Vec<String>, key_value::Error>> {
        let mut keys = Vec::new();
        let mut cursor = None;
        loop {
            let this = Resource::new_borrow(this.rep());
            let page = match store::HostBucket::list_keys(self, this, cursor).await? {
                Ok(page) => page,
                Err(reason) => return Ok(Err(error(reason))),
            };
            if let Err(reason) =
                self.charge(page.keys.iter().map(|key| key.len().saturating_add(KEY_BYTES)).sum())
            {
                return Ok(Err(error(reason)));
            }
            keys.extend(page.keys);
            match page.cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        // A key may be on two pages where others come and go.
        keys.sort_unstable();
        keys.dedup();
        Ok(Ok(keys))
    }

    async fn drop(&mut self, _this: Resource<Bucket>) -> Result<()> {
        Ok(())
    }
}
