//! `wasi:cli`, `wasi:clocks`, `wasi:io`, `wasi:random` and what else standard libraries import,
//! from the `wasmtime-wasi` crate, and `wasi:http` from `wasmtime-wasi-http`.
//!
//! Each part is made when a guest first uses it: most plugin guests never do, and pay nothing. The
//! context gives no file, no socket and no arguments; the environment is the guest's own.

use std::sync::Arc;

use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView,
    cli::{WasiCli, WasiCliCtxView},
    p2::bindings::cli,
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_io::bindings::wasi::io;

use super::{
    Context, Effects, Settings,
    outgoing::{self, Hooks},
    output::{Journal, Output},
};

/// Handles of streams, pollables and the like that one request may hold.
const MAX_RESOURCES: usize = 1_000;

/// Bytes of headers or trailers that one guest may gather in one place: twice what a response may
/// have, as the crate counts its own overhead.
const MAX_FIELD_BYTES: usize = 64 << 10;

/// Random bytes that one call may ask for.
const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// What `wasi:io` and `wasi:http` keep of a request, and a WASI context that is made when first asked
/// for: a handler of HTTP may never do that.
pub(super) struct Wasi {
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Hooks,
    ctx: Option<Box<WasiCtx>>,
}

impl Wasi {
    fn new(settings: &Arc<Settings>, effects: &Effects) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELD_BYTES);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let hooks = Hooks::new(Arc::clone(settings), effects.clone());
        Self { table, http, hooks, ctx: None }
    }
}

fn ctx(settings: &Settings, journal: Journal) -> WasiCtx {
    WasiCtx::builder()
        .stdout(Output::new(journal.clone(), "stdout"))
        .stderr(Output::new(journal, "stderr"))
        .envs(&settings.environment)
        .max_random_size(MAX_RANDOM_BYTES)
        .allow_tcp(false)
        .allow_udp(false)
        .build()
}

/// The table of resources, for interfaces that need nothing else.
struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

/// Offers WASI to a linker.
///
/// # Errors
/// When one of its names is taken, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    // The crate goes to the context for the table; streams and polls need no context.
    linker.allow_shadowing(true);
    io::error::add_to_linker::<_, Table>(linker, Context::table)?;
    io::poll::add_to_linker::<_, Table>(linker, Context::table)?;
    io::streams::add_to_linker::<_, Table>(linker, Context::table)?;
    outgoing::add_to_linker(linker)?;
    // A guest that prints has not looked at anything.
    cli::stdout::add_to_linker::<_, WasiCli>(linker, printing)?;
    cli::stderr::add_to_linker::<_, WasiCli>(linker, printing)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn printing(context: &mut Context) -> WasiCliCtxView<'_> {
    let WasiCtxView { ctx, table } = context.printing();
    WasiCliCtxView { ctx: ctx.cli(), table }
}

impl Context {
    fn wasi(&mut self) -> &mut Wasi {
        let Self { wasi, settings, effects, .. } = self;
        wasi.get_or_insert_with(|| Box::new(Wasi::new(settings, effects)))
    }

    pub(super) fn table(&mut self) -> &mut ResourceTable {
        &mut self.wasi().table
    }

    /// The request's part of the log.
    pub(super) fn journal(&mut self) -> Journal {
        let Self { settings, journal, id, .. } = self;
        journal.get_or_insert_with(|| Journal::new(settings.name.clone(), id)).clone()
    }
}

impl WasiView for Context {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.effects.look_outside();
        self.printing()
    }
}

impl Context {
    /// The WASI context, for output, which tells the guest nothing.
    pub(super) fn printing(&mut self) -> WasiCtxView<'_> {
        let Self { wasi, settings, effects, journal, id, .. } = self;
        let Wasi { table, ctx: made, .. } =
            &mut **wasi.get_or_insert_with(|| Box::new(Wasi::new(settings, effects)));
        let ctx = made.get_or_insert_with(|| {
            let journal = journal.get_or_insert_with(|| Journal::new(settings.name.clone(), id));
            Box::new(ctx(settings, journal.clone()))
        });
        WasiCtxView { ctx, table }
    }
}

impl WasiHttpView for Context {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let Wasi { http, hooks, table, .. } = self.wasi();
        WasiHttpCtxView { ctx: http, hooks, table }
    }
}
