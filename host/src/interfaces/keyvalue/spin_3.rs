//! `spin:key-value` 3.0.0, on the same buckets. All of its functions are `async`, so a guest of WASI 0.3 may have many
//! operations on their way at a time, which share a batch of the store. Keys are a stream, read page by page.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
};

use tally_state::Page;
use tokio::sync::oneshot;
use wasmtime::{
    Result, StoreContextMut,
    component::{
        ComponentType, Destination, FutureReader, Lift, Linker, LinkerInstance, Lower, Resource,
        ResourceType, StreamProducer, StreamReader, StreamResult, VecBuffer,
    },
};

use super::{
    Bucket,
    concurrent::{Handled, Operation, Store, function},
    spin::KEY_BYTES,
    store,
};
use crate::interfaces::{Context, operator::Failed};

/// The name it is imported by.
const NAME: &str = "spin:key-value/key-value@3.0.0";

/// `key-value.error`.
#[derive(Clone, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "store-table-full")]
    StoreTableFull,
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

impl From<store::Error> for Error {
    /// Spin tells a guest of no store that it may not have, whether it is there or not.
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NoSuchStore | store::Error::AccessDenied => Self::AccessDenied,
            store::Error::Other(reason) => Self::Other(reason),
        }
    }
}

type Answer<T> = Result<T, Error>;

/// Keys, and what came of listing them.
type Keys = (StreamReader<String>, FutureReader<Answer<()>>);

/// Offers it to a linker.
///
/// # Errors
/// When its engine runs no calls beside each other, or the name is taken, which is a bug.
pub(in crate::interfaces) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    add(&mut linker.instance(NAME)?, str::to_owned)
}

/// Offers it under a label, whose names stand for other buckets.
///
/// # Errors
/// As [`add_to_linker`].
pub(in crate::interfaces) fn add_label(
    instance: &mut LinkerInstance<'_, Context>,
    bucket: impl Fn(&str) -> String + Send + Sync + 'static,
) -> Result<()> {
    add(instance, bucket)
}

fn add(
    instance: &mut LinkerInstance<'_, Context>,
    bucket: impl Fn(&str) -> String + Send + Sync + 'static,
) -> Result<()> {
    let bucket = Arc::new(bucket);
    instance.resource("store", ResourceType::host::<Bucket>(), |_, _| Ok(()))?;
    instance.func_wrap_concurrent("[static]store.open", move |store, (label,): (String,)| {
        let name = bucket(&label);
        let opened = store.with(|mut store| store.get().open_bucket(&name));
        let opened: Answer<Handled> = opened.map(Resource::new_own).map_err(Into::into);
        Box::pin(async move { Ok((opened,)) })
    })?;
    function!(instance, "[method]store.get", |store, this: Handled, key: String| {
        let value = Operation::on(store, &this)?.read(store, &key).await?;
        value.map(|value| value.map(Vec::from)).map_err(Error::from)
    });
    function!(
        instance,
        "[method]store.set",
        |store, this: Handled, key: String, value: Vec<u8>| {
            let on = Operation::on(store, &this)?;
            on.writing(on.state().set(&on.bucket, &key, value.into())).await?.map_err(Error::from)
        }
    );
    function!(instance, "[method]store.delete", |store, this: Handled, key: String| {
        let on = Operation::on(store, &this)?;
        on.writing(on.state().delete(&on.bucket, &key)).await?.map_err(Error::from)
    });
    function!(instance, "[method]store.exists", |store, this: Handled, key: String| {
        let on = Operation::on(store, &this)?;
        on.reading(on.state().exists(&on.bucket, &key)).await?.map_err(Error::from)
    });
    function!(instance, "[method]store.get-keys", |store, this: Handled| {
        let on = Operation::on(store, &this)?;
        store.with(|mut store| keys(&mut store, on))?
    });
    Ok(())
}

fn keys(store: &mut impl wasmtime::AsContextMut<Data = Context>, on: Operation) -> Result<Keys> {
    let (told, outcome) = oneshot::channel();
    let listing = Listing {
        on: Arc::new(on),
        page: None,
        cursor: None,
        seen: HashSet::new(),
        told: Some(told),
    };
    // A guest that does not take all keys asks for no outcome.
    let outcome = async move { wasmtime::error::Ok(outcome.await.unwrap_or(Ok(()))) };
    Ok((StreamReader::new(&mut *store, listing)?, FutureReader::new(store, outcome)?))
}

type PageRead = Pin<Box<dyn Future<Output = Result<Result<Page, Failed>>> + Send>>;

/// The keys of a bucket on their way to a guest. The next page is asked for when the guest has taken those before,
/// and is an operation of its request; its keys count as bytes that the request reads.
struct Listing {
    on: Arc<Operation>,
    /// The page that is being read.
    page: Option<PageRead>,
    cursor: Option<String>,
    /// A key may be on two pages where others come and go.
    seen: HashSet<String>,
    told: Option<oneshot::Sender<Answer<()>>>,
}

impl Listing {
    fn page(&mut self) -> &mut PageRead {
        self.page.get_or_insert_with(|| {
            let (on, cursor) = (Arc::clone(&self.on), self.cursor.clone());
            Box::pin(async move {
                let by = on.operator.by();
                by.reading(by.state.list(&on.bucket, "", cursor.as_deref())).await
            })
        })
    }

    fn end(&mut self, outcome: Answer<()>) -> Poll<Result<StreamResult>> {
        if let Some(told) = self.told.take() {
            // A guest that dropped the future does not want to know.
            let _ = told.send(outcome);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }

    /// The keys of a page that were not on one before. Charges the request for them.
    fn new_keys(
        &mut self,
        page: Vec<String>,
        context: &mut Context,
    ) -> Result<Vec<String>, store::Error> {
        let new = page.into_iter().filter(|key| self.seen.insert(key.clone()));
        let new: Vec<String> = new.collect();
        context.charge(new.iter().map(|key| key.len().saturating_add(KEY_BYTES)).sum())?;
        Ok(new)
    }
}

impl StreamProducer<Context> for Listing {
    type Item = String;
    type Buffer = VecBuffer<String>;

    fn poll_produce(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        mut store: StoreContextMut<'_, Context>,
        mut destination: Destination<'_, String, VecBuffer<String>>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        let this = self.get_mut();
        if destination.remaining(&mut store) == Some(0) {
            // The guest asks whether there is something to read, which reading shows.
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        loop {
            let page = match this.page().as_mut().poll(task) {
                Poll::Pending if finish => {
                    // Nothing was taken from the page: it is asked for again.
                    this.page = None;
                    return Poll::Ready(Ok(StreamResult::Cancelled));
                }
                polled => ready!(polled),
            };
            this.page = None;
            let Page { keys, cursor } = match page? {
                Ok(page) => page,
                Err(failed) => return this.end(Err(store::Error::from(failed).into())),
            };
            let keys = match this.new_keys(keys, store.data_mut()) {
                Ok(keys) => keys,
                Err(reason) => return this.end(Err(reason.into())),
            };
            this.cursor = cursor;
            let is_empty = keys.is_empty();
            destination.set_buffer(keys.into());
            match this.cursor {
                None => return this.end(Ok(())),
                Some(_) if is_empty => {}
                Some(_) => return Poll::Ready(Ok(StreamResult::Completed)),
            }
        }
    }
}
