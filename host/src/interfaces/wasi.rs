//! `wasi:cli`, `wasi:clocks`, `wasi:io`, `wasi:random` and what else standard libraries import,
//! from the `wasmtime-wasi` crate.
//!
//! The context is made when a guest first uses it: most plugin guests never do, and pay nothing.
//! It gives no file, no network, no environment and no arguments.

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::Context;

/// Handles of streams, pollables and the like that one request may hold.
const MAX_RESOURCES: usize = 1_000;

/// A WASI context that is made when first asked for.
#[derive(Default)]
pub(super) struct Lazy(Option<Box<(WasiCtx, ResourceTable)>>);

impl WasiView for Context {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (ctx, table) = &mut **self.wasi.0.get_or_insert_with(|| {
            let mut table = ResourceTable::new();
            table.set_max_capacity(MAX_RESOURCES);
            Box::new((WasiCtx::default(), table))
        });
        WasiCtxView { ctx, table }
    }
}
