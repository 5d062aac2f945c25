//! `wasi:cli`, `wasi:clocks`, `wasi:io`, `wasi:random` and what else standard libraries import,
//! from the `wasmtime-wasi` crate, and `wasi:http` from `wasmtime-wasi-http`.
//!
//! The context is made when a guest first uses it: most plugin guests never do, and pay nothing.
//! It gives no file, no socket and no arguments; the environment is the guest's own.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::{
    Context, Settings,
    outgoing::Hooks,
    output::{Journal, Output},
};

/// Handles of streams, pollables and the like that one request may hold.
const MAX_RESOURCES: usize = 1_000;

/// Bytes of headers or trailers that one guest may gather in one place: twice what a response may
/// have, as the crate counts its own overhead.
const MAX_FIELD_BYTES: usize = 64 << 10;

/// Random bytes that one call may ask for.
const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// A WASI context that is made when first asked for.
#[derive(Default)]
pub(super) struct Lazy(Option<Box<Wasi>>);

struct Wasi {
    ctx: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
}

impl Wasi {
    fn new(settings: &Arc<Settings>, journal: Journal) -> Self {
        let ctx = WasiCtx::builder()
            .stdout(Output::new(journal.clone(), "stdout"))
            .stderr(Output::new(journal, "stderr"))
            .envs(&settings.environment)
            .max_random_size(MAX_RANDOM_BYTES)
            .allow_tcp(false)
            .allow_udp(false)
            .build();
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELD_BYTES);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        Self { ctx, http, hooks: Hooks::new(Arc::clone(settings)), table }
    }
}

impl Context {
    fn wasi(&mut self) -> &mut Wasi {
        let Self { wasi, settings, journal, id, .. } = self;
        wasi.0.get_or_insert_with(|| {
            let journal = journal.get_or_insert_with(|| Journal::new(settings.name.clone(), id));
            Box::new(Wasi::new(settings, journal.clone()))
        })
    }

    /// The request's part of the log.
    pub(super) fn journal(&mut self) -> Journal {
        let Self { settings, journal, id, .. } = self;
        journal.get_or_insert_with(|| Journal::new(settings.name.clone(), id)).clone()
    }
}

impl WasiView for Context {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Wasi { ctx, table, .. } = self.wasi();
        WasiCtxView { ctx, table }
    }
}

impl WasiHttpView for Context {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let Wasi { http, hooks, table, .. } = self.wasi();
        WasiHttpCtxView { ctx: http, hooks, table }
    }
}
