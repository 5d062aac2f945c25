//! What guests import, over the state layer: the host side of the WIT in `wit/`.
//!
//! Each request has one [`Context`], which is the data of its wasmtime store. It holds the
//! request's own view of the world and a ledger of what its state operations did, from which the
//! runtime tells whether a failed request may have changed something.

mod bindings;
mod buckets;
mod keyvalue;
mod ledger;
mod wasi;
mod worker;

use std::sync::Arc;

use http::HeaderMap;
use tally_state::Handle;
use wasmtime::component::{HasSelf, Linker};

pub(crate) use self::{
    bindings::{PluginIndices, exports::tally::plugin::handler},
    buckets::Buckets,
    ledger::Ledger,
};
use crate::runtime::Meter;

/// The imports every guest may use, by interface name without version, in the order in which
/// `tally check` lists them.
pub(crate) const OFFERED: [&str; 9] = [
    "tally:plugin/request-headers",
    "tally:plugin/worker",
    "wasi:keyvalue/store",
    "wasi:keyvalue/atomics",
    "wasi:keyvalue/batch",
    "wasi:cli",
    "wasi:clocks",
    "wasi:io",
    "wasi:random",
];

/// What one request brings along.
pub(crate) struct Context {
    pub(crate) state: Handle,
    pub(crate) buckets: Arc<Buckets>,
    /// Headers of the request, asked for by name.
    pub(crate) headers: HeaderMap,
    pub(crate) worker: Worker,
    pub(crate) ledger: Ledger,
    pub(crate) cpu: Meter,
    /// Bytes of values that this request may still read: they are held by the host on their way to
    /// the guest, whose own memory they would not fit into either.
    readable: usize,
    cas: keyvalue::CasTable,
    wasi: wasi::Lazy,
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
        buckets: Arc<Buckets>,
        headers: HeaderMap,
        worker: Worker,
        ledger: Ledger,
        cpu: Meter,
        readable: usize,
    ) -> Self {
        Self {
            state,
            buckets,
            headers,
            worker,
            ledger,
            cpu,
            readable,
            cas: keyvalue::CasTable::default(),
            wasi: wasi::Lazy::default(),
        }
    }
}

/// Offers all imports to a linker.
///
/// # Errors
/// When two of them have one name, which is a bug.
pub(crate) fn add_to_linker(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    use bindings::{tally::plugin, wasi::keyvalue};

    plugin::request_headers::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    plugin::worker::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    keyvalue::store::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    keyvalue::atomics::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    keyvalue::batch::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    wasmtime_wasi::p2::add_to_linker_async(linker)
}
