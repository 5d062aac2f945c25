//! A guest, loaded: compiled, checked, and linked to what the host offers.

use std::{fmt::Write as _, sync::Arc};

use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, InstancePre, Linker, types::ComponentItem};

use super::{engine::Engine, limits::Limits};
use crate::interfaces::{self, Context, OFFERED, PluginIndices};

/// The interface that makes a component a guest of the plugin world.
const PLUGIN_EXPORT: &str = "tally:plugin/handler";

/// The interface that a component for other HTTP hosts exports.
const WASI_HTTP_EXPORT: &str = "wasi:http/incoming-handler";

/// Bytes a guest may have: compiling takes time and memory in proportion. Interpreters compiled to
/// WebAssembly have some twenty million.
const MAX_GUEST_BYTES: usize = 64 << 20;

/// A guest that can be instantiated.
pub(super) struct Deployment {
    pub(super) pre: InstancePre<Context>,
    /// Where the component has its handler, looked up once.
    pub(super) indices: PluginIndices,
    pub(super) version: Arc<str>,
}

/// Why a guest cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Wasmtime cannot be set up on this machine.
    #[error("the WebAssembly engine cannot start: {0:#}")]
    Engine(wasmtime::Error),
    /// The file is no WebAssembly at all, or a core module rather than a component.
    #[error("{0}")]
    NotAComponent(&'static str),
    /// Larger than a guest may be.
    #[error("the guest has {actual} bytes, over the limit of {limit}")]
    TooLarge {
        /// Bytes it has.
        actual: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// The component is broken.
    #[error("the guest is not a valid component: {0:#}")]
    Invalid(wasmtime::Error),
    /// It exports nothing that this host calls.
    #[error("{0}")]
    World(String),
    /// It imports what this host does not offer.
    #[error("the guest needs what this host does not offer: {}; `tally check` lists all imports", .0.join(", "))]
    Imports(Vec<String>),
    /// It imports the right names with other types, or needs more than the pool gives.
    #[error("the guest does not fit this host: {0:#}")]
    Link(wasmtime::Error),
}

impl Deployment {
    /// Compiles and checks a guest. Takes long for a large one, unless it was compiled before.
    pub(super) fn load(engine: &Engine, bytes: &[u8]) -> Result<Self, LoadError> {
        let engine = engine.wasmtime();
        let component = compile(engine, bytes)?;
        let inspection = Inspection::of(&component, bytes);
        if inspection.world != World::Plugin {
            return Err(LoadError::World(inspection.world_problem()));
        }
        let missing = inspection.missing();
        if !missing.is_empty() {
            return Err(LoadError::Imports(missing));
        }
        let mut linker = Linker::new(engine);
        interfaces::add_to_linker(&mut linker).map_err(LoadError::Engine)?;
        let pre = linker.instantiate_pre(&component).map_err(LoadError::Link)?;
        let indices = PluginIndices::new(&pre).map_err(LoadError::Link)?;
        // Otherwise made when the first request arrives.
        component.initialize_copy_on_write_image().map_err(LoadError::Link)?;
        Ok(Self { pre, indices, version: inspection.version })
    }
}

fn compile(engine: &wasmtime::Engine, bytes: &[u8]) -> Result<Component, LoadError> {
    if bytes.len() > MAX_GUEST_BYTES {
        return Err(LoadError::TooLarge { actual: bytes.len(), limit: MAX_GUEST_BYTES });
    }
    // The preamble: a magic number, a version, and a layer (0 for core modules, 1 for components).
    match bytes {
        [0, b'a', b's', b'm', _, _, 0, _, ..] => {
            return Err(LoadError::NotAComponent(
                "the guest is a core WebAssembly module, not a component; in Rust, build it with --target wasm32-wasip2, elsewhere turn it into one with `wasm-tools component new`",
            ));
        }
        [0, b'a', b's', b'm', ..] => {}
        _ => {
            return Err(LoadError::NotAComponent(
                "the file is not WebAssembly; a guest is a component in binary form, usually with the ending .wasm",
            ));
        }
    }
    Component::from_binary(engine, bytes).map_err(LoadError::Invalid)
}

/// The kinds of components this host can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    Plugin,
    WasiHttp,
    Other,
}

/// What a component is and what it needs, for `tally check`.
pub struct Inspection {
    world: World,
    imports: Vec<String>,
    exports: Vec<String>,
    version: Arc<str>,
}

/// Looks at a component without running it.
///
/// # Errors
/// [`LoadError`] when it is no component at all, is broken, or does not fit the pool.
pub fn inspect(bytes: &[u8], limits: &Limits) -> Result<Inspection, LoadError> {
    let engine = Engine::new(limits).map_err(LoadError::Engine)?;
    let component = compile(engine.wasmtime(), bytes)?;
    let inspection = Inspection::of(&component, bytes);
    if inspection.can_run() {
        Deployment::load(&engine, bytes)?;
    }
    Ok(inspection)
}

impl Inspection {
    fn of(component: &Component, bytes: &[u8]) -> Self {
        let engine = component.engine();
        let ty = component.component_type();
        let instances =
            |items: Vec<(String, bool)>| items.into_iter().map(|(name, _)| name).collect();
        let imports: Vec<(String, bool)> = ty
            .imports(engine)
            .map(|(name, item)| (name.to_owned(), is_interface(&item.ty)))
            .collect();
        let exports: Vec<(String, bool)> = ty
            .exports(engine)
            .map(|(name, item)| (name.to_owned(), is_interface(&item.ty)))
            .collect();
        let exports_interface =
            |name| exports.iter().any(|(export, interface)| *interface && base(export) == name);
        let world = if exports_interface(PLUGIN_EXPORT) {
            World::Plugin
        } else if exports_interface(WASI_HTTP_EXPORT) {
            World::WasiHttp
        } else {
            World::Other
        };
        Self {
            world,
            imports: instances(imports),
            exports: instances(exports),
            version: version(bytes),
        }
    }

    /// Whether this host can serve the component.
    #[must_use]
    pub fn can_run(&self) -> bool {
        self.world == World::Plugin && self.missing().is_empty()
    }

    /// The imports this host does not offer.
    fn missing(&self) -> Vec<String> {
        self.imports.iter().filter(|import| !is_offered(import)).cloned().collect()
    }

    fn world_problem(&self) -> String {
        match self.world {
            World::Plugin => String::from("the guest is of the plugin world"),
            World::WasiHttp => format!(
                "the guest exports {WASI_HTTP_EXPORT}, which this version does not serve; build it for the world tally:plugin/plugin in wit/"
            ),
            World::Other => format!(
                "the guest does not export {PLUGIN_EXPORT}, so it handles no requests; it exports {}",
                if self.exports.is_empty() { "nothing".into() } else { self.exports.join(", ") }
            ),
        }
    }
}

impl std::fmt::Display for Inspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let world = match self.world {
            World::Plugin => "tally:plugin/plugin",
            World::WasiHttp => "wasi:http/proxy",
            World::Other => "none that serves requests",
        };
        writeln!(f, "world    {world}")?;
        writeln!(f, "version  {}", self.version)?;
        for export in &self.exports {
            writeln!(f, "exports  {export}")?;
        }
        for import in &self.imports {
            let note =
                if is_offered(import) { "" } else { "   (missing: not offered by this host)" };
            writeln!(f, "imports  {import}{note}")?;
        }
        match (self.world, self.missing().len()) {
            (World::Plugin, 0) => write!(f, "This host can serve it."),
            (World::Plugin, missing) => {
                write!(f, "This host cannot serve it: {missing} of its imports are missing.")
            }
            _ => write!(f, "This host cannot serve it: {}.", self.world_problem()),
        }
    }
}

fn is_interface(item: &ComponentItem) -> bool {
    matches!(item, ComponentItem::ComponentInstance(_))
}

/// The name of an interface without its version.
fn base(name: &str) -> &str {
    name.split_once('@').map_or(name, |(base, _)| base)
}

fn is_offered(import: &str) -> bool {
    let version = import.split_once('@').map_or("", |(_, version)| version);
    let base = base(import);
    let package = base.split_once('/').map_or(base, |(package, _)| package);
    match OFFERED.iter().find(|offered| **offered == base || **offered == package) {
        // Pre-releases match to the letter, releases by their compatible range.
        Some(_) if package == "wasi:keyvalue" => version == "0.2.0-draft2",
        Some(_) if package.starts_with("wasi:") => version.starts_with("0.2."),
        Some(_) => version.starts_with("0.1."),
        // Linked so that standard libraries load; they give access to nothing.
        None => {
            matches!(package, "wasi:filesystem" | "wasi:sockets") && version.starts_with("0.2.")
        }
    }
}

/// The first 12 hexadecimal digits of the SHA-256 of a guest: short enough to read, long enough to
/// tell versions apart.
fn version(bytes: &[u8]) -> Arc<str> {
    let digest = Sha256::digest(bytes);
    let mut version = String::with_capacity(12);
    for byte in digest.iter().take(6) {
        // Writing to a string does not fail.
        let _ = write!(version, "{byte:02x}");
    }
    version.into()
}
