//! `wasi:cli`, `wasi:clocks`, `wasi:io`, `wasi:random` and what else standard libraries import,
//! from the `wasmtime-wasi` crate, and `wasi:http` from `wasmtime-wasi-http`.
//!
//! Each part is made when a guest first uses it: most plugin guests never do, and pay nothing. The
//! context gives no arguments, and files and sockets only as configured (`files`, `tcp`); the environment is the
//! guest's own.

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
    descriptors::Descriptors,
    files::{self, Scratch},
    outgoing::{self, Hooks},
    output::{Journal, Output},
    tcp::{self, Resolved},
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
    /// Whether the guest's directories are open, and the one that is its own.
    files: Option<Option<Scratch>>,
    /// Names that the guest has looked up, if it may connect to any.
    resolved: Option<Resolved>,
    descriptors: Descriptors,
}

impl Wasi {
    fn new(settings: &Arc<Settings>, effects: &Effects) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELD_BYTES);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let hooks = Hooks::new(Arc::clone(settings), effects.clone());
        Self {
            table,
            http,
            hooks,
            ctx: None,
            files: None,
            resolved: settings.tcp.allows_any().then(Resolved::default),
            descriptors: Descriptors::default(),
        }
    }
}

fn ctx(
    settings: &Arc<Settings>,
    journal: Journal,
    effects: &Effects,
    resolved: Option<&Resolved>,
) -> WasiCtx {
    let mut builder = WasiCtx::builder();
    builder
        .stdout(Output::new(journal.clone(), "stdout"))
        .stderr(Output::new(journal, "stderr"))
        .envs(&settings.environment)
        .max_random_size(MAX_RANDOM_BYTES)
        .allow_tcp(false)
        .allow_udp(false);
    if let Some(resolved) = resolved {
        tcp::allow(&mut builder, settings, effects, resolved);
    }
    builder.build()
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
    files::add_to_linker(linker)?;
    tcp::add_to_linker(linker)
}

/// Offers WASI 0.3 to a linker, over the same context as 0.2.
///
/// # Errors
/// When one of its names is taken, which is a bug.
pub(super) fn add_0_3_to_linker(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    use wasmtime_wasi::p3::bindings::cli;

    wasmtime_wasi::p3::add_to_linker(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)?;
    linker.allow_shadowing(true);
    cli::stdout::add_to_linker::<_, WasiCli>(linker, printing)?;
    cli::stderr::add_to_linker::<_, WasiCli>(linker, printing)?;
    linker.allow_shadowing(false);
    files::concurrent::add_to_linker(linker)?;
    tcp::concurrent::add_to_linker(linker)
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

    /// Notes that the guest looked at something that may be different the next time.
    pub(super) fn look_outside(&self) {
        self.effects.look_outside();
    }

    /// Names that the guest has looked up, if it may connect to any.
    pub(super) fn resolved(&mut self) -> Option<&Resolved> {
        self.wasi().resolved.as_ref()
    }

    /// Counts a file or socket that the guest opens; `false` if it may have no more.
    pub(super) fn may_open(&mut self) -> bool {
        self.wasi().descriptors.take()
    }

    /// Whether the guest's directories are open.
    pub(super) fn files_are_open(&mut self) -> bool {
        self.wasi().files.is_some()
    }

    /// Notes that the guest's directories are open, and keeps the one that is the request's own.
    pub(super) fn keep_files(&mut self, scratch: Option<Scratch>) {
        self.wasi().files = Some(scratch);
    }

    /// The directory that is the request's own.
    pub(super) fn scratch(&mut self) -> Option<&Scratch> {
        self.wasi().files.as_ref()?.as_ref()
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
        let Wasi { table, ctx: made, resolved, .. } =
            &mut **wasi.get_or_insert_with(|| Box::new(Wasi::new(settings, effects)));
        let ctx = made.get_or_insert_with(|| {
            let journal = journal.get_or_insert_with(|| Journal::new(settings.name.clone(), id));
            Box::new(ctx(settings, journal.clone(), effects, resolved.as_ref()))
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
