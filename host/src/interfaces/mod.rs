//! What guests import, over the state layer: the host side of the WIT in `wit/`, of `wasi:http`,
//! and of what guests of other hosts import.
//!
//! Each request has one [`Context`], which is the data of its wasmtime store. It holds the
//! request's own view of the world and its [`Effects`], from which the runtime tells whether a failed
//! request may have changed something.

mod bindings;
mod blobstore;
mod buckets;
mod config;
mod denied;
mod descriptors;
mod effects;
mod files;
mod keyvalue;
mod labels;
mod logging;
mod offered;
#[cfg(test)]
mod offered_page;
mod operator;
mod outgoing;
mod output;
mod settings;
mod spin;
mod tcp;
mod wasi;
mod worker;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use tally_state::Handle;
use wasmtime::component::{HasSelf, Linker};

pub(crate) use self::{
    bindings::plugin::{PluginIndices, exports::tally::plugin::handler},
    buckets::{Buckets, Known, RESERVED},
    descriptors::for_guests as descriptors_for_guests,
    effects::Effects,
    files::Files,
    keyvalue::AnsweredBefore,
    labels::link as link_labels,
    offered::{Interface, advice, is_offered, is_offered_to_0_3, runs_concurrently},
    outgoing::{Neighbours, Outgoing, guest_of, offer},
    settings::Settings,
    spin::Databases,
};
use crate::runtime::{Memory, Meter};

/// Of so many instances, the memory of one is looked at where it has no limit of its own.
const SAMPLED: u64 = 16;

/// What one request brings along.
pub(crate) struct Context {
    pub(crate) state: Handle,
    /// The same for several operations at a time, once there was one of them.
    concurrent: Option<Handle>,
    pub(crate) settings: Arc<Settings>,
    /// The request's id, for the log.
    id: HeaderValue,
    /// Headers of the request, asked for by name.
    headers: HeaderMap,
    worker: Worker,
    effects: Effects,
    pub(crate) cpu: Meter,
    pub(crate) memory: Memory,
    /// Bytes of values that this request may still read: they are held by the host on their way to
    /// the guest, whose own memory they would not fit into either.
    readable: usize,
    /// Buckets that it opened by names that its guest's configuration does not list.
    chosen: buckets::Chosen,
    /// Objects that it has written.
    uploads: u32,
    cas: keyvalue::CasTable,
    cursors: keyvalue::Cursors,
    connections: Option<Box<spin::Connections>>,
    journal: Option<output::Journal>,
    wasi: Option<Box<wasi::Wasi>>,
}

/// Who is answering, as the guest may ask.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) instance: u64,
    pub(crate) guest_version: Arc<str>,
}

impl Context {
    pub(crate) fn new(
        state: Handle,
        settings: Arc<Settings>,
        id: HeaderValue,
        worker: Worker,
        effects: Effects,
        cpu: Meter,
        memory: Memory,
    ) -> Self {
        let readable = memory.limit();
        Self {
            state,
            concurrent: None,
            settings,
            id,
            headers: HeaderMap::new(),
            worker,
            effects,
            cpu,
            memory,
            readable,
            chosen: buckets::Chosen::default(),
            uploads: 0,
            cas: keyvalue::CasTable::default(),
            cursors: keyvalue::Cursors::default(),
            connections: None,
            journal: None,
            wasi: None,
        }
    }

    /// Whether it is one of those whose memory is looked at.
    pub(crate) fn is_sample(&self) -> bool {
        self.worker.instance.is_multiple_of(SAMPLED)
    }

    /// With headers for `tally:plugin/request-headers` to answer from.
    pub(crate) fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers = headers;
        self
    }
}

/// The shape of `wasi:keyvalue` 0.2.0-draft2 that a component was built for. Two are in use under
/// this one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Draft2 {
    #[default]
    Upstream,
    Spin,
}

/// What kind of linker a component needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Linking {
    /// The shape of `wasi:keyvalue` 0.2.0-draft2 that it was built for.
    pub(crate) draft2: Draft2,
    /// Whether it is a guest of WASI 0.3.
    pub(crate) is_of_0_3: bool,
    /// Whether it has several state operations on their way at a time, all of whose functions are `async` then.
    pub(crate) concurrent_state: bool,
}

/// Offers all imports to a linker.
///
/// # Errors
/// When two of them have one name, which is a bug.
pub(crate) fn add_to_linker(
    linker: &mut Linker<Context>,
    linking: Linking,
) -> wasmtime::Result<()> {
    use bindings::plugin::tally::keyvalue::extensions;
    use bindings::plugin::wasi::keyvalue as draft2;
    use bindings::{draft::wasi::keyvalue as draft, plugin::tally::plugin, spin::fermyon};

    plugin::request_headers::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    plugin::worker::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    draft2::store::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    draft2::atomics::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    draft2::batch::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    extensions::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    if linking.draft2 == Draft2::Spin {
        keyvalue::reshape(linker)?;
    }
    draft::store::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    draft::atomics::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    draft::batch::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    fermyon::spin::key_value::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    config::add_to_linker(linker)?;
    self::spin::add_to_linker(linker)?;
    blobstore::add_to_linker(linker)?;
    logging::add_to_linker(linker)?;
    wasi::add_to_linker(linker)?;
    if linking.is_of_0_3 {
        wasi::add_0_3_to_linker(linker)?;
        keyvalue::wasmcloud::add_to_linker(linker)?;
    }
    if linking.concurrent_state {
        keyvalue::make_concurrent(linker, linking.draft2)?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {

    use tally_state::{Metrics, Options, State};
    use wasmtime::component::Resource;
    use wasmtime_wasi::WasiView as _;
    use wasmtime_wasi_http::WasiHttpView as _;

    use super::{
        bindings::plugin::{
            tally::{keyvalue::extensions::Host as _, plugin::worker::Host as _},
            wasi::keyvalue::{
                atomics::{Host as _, HostCas as _},
                batch::Host as _,
                store::HostBucket as _,
            },
        },
        *,
    };

    fn bucket<T: 'static>() -> Resource<T> {
        Resource::new_borrow(0)
    }

    /// A request's context over an empty store, and its effects.
    pub(crate) async fn fresh() -> (Context, Effects) {
        let state = State::open("memory:", Options::default(), Metrics::default()).await.unwrap();
        let buckets = Buckets::parse(["default"]).unwrap();
        let settings = Arc::new(Settings { buckets, ..Settings::default() });
        let (worker, effects) =
            (Worker { instance: 1, guest_version: "1".into() }, Effects::default());
        let (id, meter) = (HeaderValue::from_static("test"), Meter::of_test());
        let made = effects.clone();
        (
            Context::new(state.worker(), settings, id, worker, made, meter, Memory::new(1 << 20)),
            effects,
        )
    }

    /// Whether a guest that does this has seen something that may be different the next time.
    macro_rules! sees {
        ($context:ident => $use:expr) => {{
            let (mut $context, effects) = fresh().await;
            let _ = $use;
            effects.saw_outside()
        }};
    }

    #[tokio::test]
    async fn what_may_be_different_the_next_time_counts_as_seen() {
        let key = || "key".to_owned();
        let keys = || vec!["key".to_owned()];
        assert!(sees!(c => c.get(bucket(), key()).await));
        assert!(sees!(c => c.exists(bucket(), key()).await));
        assert!(sees!(c => c.list_keys(bucket(), None).await));
        assert!(sees!(c => c.list_prefix(bucket(), "k".into(), None).await));
        assert!(sees!(c => c.remaining(bucket(), key()).await));
        assert!(sees!(c => c.get_many(bucket(), keys()).await));
        assert!(sees!(c => c.new(bucket(), key()).await));
        assert!(sees!(c => c.process_id()));
        assert!(sees!(c => c.instance()));
        assert!(sees!(c => c.guest_version()));
        assert!(sees!(c => c.ctx()));
        assert!(sees!(c => request_headers_of(&mut c)), "a repeat may come with others");
    }

    #[tokio::test]
    async fn writes_and_logging_do_not_count_as_seen() {
        let key = || "key".to_owned();
        assert!(!sees!(c => c.set(bucket(), key(), vec![1]).await));
        assert!(!sees!(c => c.delete(bucket(), key()).await));
        assert!(!sees!(c => c.increment(bucket(), key(), 1).await));
        assert!(!sees!(c => c.increment_within(bucket(), key(), 1, 0, 1).await));
        assert!(!sees!(c => c.get_and_set(bucket(), key(), vec![1], None).await));
        assert!(!sees!(c => c.set_if_absent(bucket(), key(), vec![1], None).await));
        assert!(!sees!(c => c.set_many(bucket(), vec![(key(), vec![1])]).await));
        assert!(!sees!(c => c.journal()));
        assert!(!sees!(c => c.printing()));
        assert!(!sees!(c => c.http()));
    }

    /// By a function, because `get` is the name of another method too.
    fn request_headers_of(context: &mut Context) -> Option<String> {
        bindings::plugin::tally::plugin::request_headers::Host::get(context, "host".into())
    }
}
