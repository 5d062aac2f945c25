//! What a component is and whether this host can run it, said so that its author knows what to do.

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use super::{
    anatomy::Anatomy,
    class::Needs,
    host::{Runtime, Sizes},
    limits::Limits,
};
use crate::interfaces::{Draft2, OFFERED};

/// The interface that makes a component a guest of the plugin world.
const PLUGIN_EXPORT: &str = "tally:plugin/handler";

/// The interface that standard handlers of HTTP export.
const HTTP_EXPORT: &str = "wasi:http/incoming-handler";

/// Bytes a guest may have: compiling takes time and memory in proportion. Interpreters compiled to
/// WebAssembly have some twenty million.
const MAX_GUEST_BYTES: usize = 64 << 20;

/// Why a guest cannot be loaded. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// Wasmtime cannot be set up on this machine.
    #[error(
        "the WebAssembly engine cannot start: {0:#}; a smaller --pool or --memory-limit takes less address space"
    )]
    Engine(wasmtime::Error),
    /// The kernel does not let a process have what it takes.
    #[error("{0}")]
    Kernel(String),
    /// Another kind of file.
    #[error(
        "the file is not WebAssembly; a guest is a component in binary form, usually with the ending .wasm"
    )]
    NotWebAssembly,
    /// A core module rather than a component.
    #[error(
        "the guest is a core WebAssembly module, not a component; in Rust, build it with --target wasm32-wasip2, elsewhere turn it into one with `wasm-tools component new`"
    )]
    CoreModule,
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
    #[error("the guest needs what this host does not offer: {}; `tally check` lists all imports", .0.join("; "))]
    Imports(Vec<String>),
    /// It needs more than a slot of the pool may have.
    #[error("the guest does not fit the pool: {0}")]
    Size(String),
    /// It imports the right names with other types.
    #[error("the guest does not fit this host: {0:#}")]
    Link(wasmtime::Error),
    /// An instance of it cannot be made.
    #[error("the guest cannot be instantiated: {0}")]
    Start(String),
}

/// The kinds of components this host can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// `tally:plugin/plugin`.
    Plugin,
    /// `wasi:http/proxy` 0.2, or anything that exports its handler.
    Http,
    /// A handler of HTTP of another version of WASI.
    OtherHttp,
    /// A program that runs once.
    Command,
    /// None of these.
    Other,
}

impl World {
    fn of(anatomy: &Anatomy) -> Self {
        let exports = |name: &str, versions: &str| {
            anatomy.exports.iter().any(|export| {
                let (base, version) = parts(export);
                base == name && version.starts_with(versions)
            })
        };
        if exports(PLUGIN_EXPORT, "0.1.") {
            Self::Plugin
        } else if anatomy.exports.iter().any(|export| {
            let (base, version) = parts(export);
            base == HTTP_EXPORT && is_release(version)
        }) {
            Self::Http
        } else if exports(HTTP_EXPORT, "") || exports("wasi:http/handler", "") {
            Self::OtherHttp
        } else if exports("wasi:cli/run", "") {
            Self::Command
        } else {
            Self::Other
        }
    }

    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plugin => "tally:plugin/plugin",
            Self::Http => "wasi:http/proxy",
            Self::OtherHttp => "wasi:http of another version",
            Self::Command => "wasi:cli/command",
            Self::Other => "none that serves requests",
        }
    }
}

/// Whether a version is of WASI 0.2 as it was released: candidates before it had other types.
fn is_release(version: &str) -> bool {
    version.starts_with("0.2.") && !version.contains('-')
}

/// What a component is and what it needs, for `tally check`.
pub struct Inspection {
    pub(super) world: World,
    pub(super) version: Arc<str>,
    anatomy: Anatomy,
    needs: Option<Needs>,
    draft2: Option<Draft2>,
}

/// Looks at a component, and compiles and links it if this host knows its kind. Does not run it.
///
/// # Errors
/// [`LoadError`] when it is no component at all, is broken, or does not fit.
pub fn inspect(bytes: &[u8], limits: &Limits) -> Result<Inspection, LoadError> {
    let mut inspection = Inspection::of(bytes)?;
    if inspection.can_run() {
        let runtime = Runtime::new(Sizes { most: limits.pool, ..Sizes::default() });
        let loaded = runtime.load(&inspection, limits, bytes)?;
        inspection.needs = Some(loaded.needs);
        inspection.draft2 = loaded.draft2;
    }
    Ok(inspection)
}

impl Inspection {
    /// Takes a component apart, without compiling it.
    ///
    /// # Errors
    /// [`LoadError`] for what is no component, or is too large to be compiled.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, LoadError> {
        if bytes.len() > MAX_GUEST_BYTES {
            return Err(LoadError::TooLarge { actual: bytes.len(), limit: MAX_GUEST_BYTES });
        }
        Ok(Self::new(Anatomy::of(bytes)?, version(bytes)))
    }

    fn new(anatomy: Anatomy, version: Arc<str>) -> Self {
        Self { world: World::of(&anatomy), version, anatomy, needs: None, draft2: None }
    }

    /// The slots that it needs, within what its limits say.
    ///
    /// # Errors
    /// [`LoadError`], when this host cannot run it or it needs more than it may have.
    pub(super) fn needs(&self, limits: &Limits) -> Result<Needs, LoadError> {
        self.check()?;
        Needs::of(&self.anatomy, limits)
    }

    /// Whether this host can serve the component.
    #[must_use]
    pub fn can_run(&self) -> bool {
        self.check().is_ok()
    }

    /// Whether this host calls what it exports and offers what it imports.
    fn check(&self) -> Result<(), LoadError> {
        if !matches!(self.world, World::Plugin | World::Http) {
            return Err(LoadError::World(self.world_problem()));
        }
        let missing: Vec<String> = self
            .missing()
            .map(|import| match advice(import) {
                Some(advice) => format!("{} ({advice})", import.escape_debug()),
                None => import.escape_debug().to_string(),
            })
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(LoadError::Imports(missing)) }
    }

    fn missing(&self) -> impl Iterator<Item = &str> {
        self.anatomy.imports.iter().map(String::as_str).filter(|import| !is_offered(import))
    }

    fn world_problem(&self) -> String {
        let exports = match self.anatomy.exports.as_slice() {
            [] => "nothing".into(),
            exports => exports.join(", ").escape_debug().to_string(),
        };
        match self.world {
            World::Plugin | World::Http => String::from("the guest is of a world that is served"),
            World::OtherHttp => format!(
                "the guest exports {exports}; this host serves wasi:http 0.2: build it with a toolchain for WASI 0.2 (in Rust, --target wasm32-wasip2 and the crate wasip2)"
            ),
            World::Command => format!(
                "the guest is a program that runs once (it exports {exports}), not a handler of requests; build a library that exports {HTTP_EXPORT}@0.2.x or {PLUGIN_EXPORT}"
            ),
            World::Other if exports.contains(PLUGIN_EXPORT) => format!(
                "the guest exports {exports}; this host serves {PLUGIN_EXPORT}@0.1.x: build it with this host's wit/"
            ),
            World::Other if exports.contains("fermyon:spin/") || exports.contains("wasmcloud:") => {
                format!(
                    "the guest exports {exports}, which only its own host calls; build it as a handler of wasi:http ({HTTP_EXPORT}@0.2.x)"
                )
            }
            World::Other => format!(
                "the guest exports neither {PLUGIN_EXPORT} nor {HTTP_EXPORT}@0.2.x, so it handles no requests; it exports {exports}"
            ),
        }
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "world    {}", self.world.name())?;
        writeln!(f, "version  {}", self.version)?;
        if let Some(Needs { class, pool, memory }) = &self.needs {
            let kind = if class.large { "an interpreter or engine" } else { "compiled code" };
            writeln!(f, "slots    {pool} of {} MiB, as for {kind}", memory >> 20)?;
        }
        if let Some(draft2) = self.draft2 {
            let shape = match draft2 {
                Draft2::Upstream => "upstream's",
                Draft2::Spin => "Spin's",
            };
            writeln!(f, "state    wasi:keyvalue 0.2.0-draft2 in {shape} shape")?;
        }
        // Names are the author's: what would move the cursor is written out.
        for export in &self.anatomy.exports {
            writeln!(f, "exports  {}", export.escape_debug())?;
        }
        for import in &self.anatomy.imports {
            write!(f, "imports  {}", import.escape_debug())?;
            if !is_offered(import) {
                write!(
                    f,
                    "   (missing: {})",
                    advice(import).unwrap_or("not offered by this host")
                )?;
            }
            writeln!(f)?;
        }
        match (self.world, self.missing().count()) {
            (World::Plugin | World::Http, 0) => write!(f, "This host can serve it."),
            (World::Plugin | World::Http, missing) => {
                write!(f, "This host cannot serve it: {missing} of its imports are missing.")
            }
            _ => write!(f, "This host cannot serve it: {}.", self.world_problem()),
        }
    }
}

/// The name of an interface, and its version if it has one.
fn parts(name: &str) -> (&str, &str) {
    name.split_once('@').unwrap_or((name, ""))
}

fn is_offered(import: &str) -> bool {
    let (base, version) = parts(import);
    let package = base.split_once('/').map_or(base, |(package, _)| package);
    OFFERED.iter().filter(|(offered, _)| *offered == base || *offered == package).any(
        |(_, versions)| {
            versions.iter().any(|offered| match *offered {
                "0.2." => is_release(version),
                range if range.ends_with('.') => version.starts_with(range),
                exact => version == exact,
            })
        },
    )
}

/// What would help with an import that this host does not offer.
fn advice(import: &str) -> Option<&'static str> {
    let (base, version) = parts(import);
    let package = base.split_once('/').map_or(base, |(package, _)| package);
    Some(match package {
        "wasi:keyvalue" => "this host offers wasi:keyvalue 0.2.0-draft and 0.2.0-draft2",
        "wasi:config" => "this host offers wasi:config/store@0.2.0-rc.1",
        "wasi:logging" => "this host offers wasi:logging/logging, without a version or 0.1.0-draft",
        "tally:plugin" => {
            "this host offers tally:plugin 0.1; build the guest with this host's wit/"
        }
        "wasi:http" | "wasi:cli" | "wasi:clocks" | "wasi:io" | "wasi:random"
        | "wasi:filesystem" | "wasi:sockets" => match version.starts_with("0.3") {
            true => "of WASI 0.3; this host runs WASI 0.2: build for that",
            false => "this host offers the releases of WASI 0.2",
        },
        "wasi:blobstore" | "wasi:messaging" | "wasi:nn" | "wasi:sql" | "wasi:tls" => {
            "not offered; reach such a service over outgoing HTTP"
        }
        "fermyon:spin" => match base {
            "fermyon:spin/key-value" => "this host offers fermyon:spin/key-value@2.0.0",
            "fermyon:spin/variables" => "use wasi:config/store instead",
            _ => "Spin's own; of these, this host offers fermyon:spin/key-value@2.0.0",
        },
        _ if package.starts_with("wasmcloud:") => {
            "wasmCloud's own; use wasi:keyvalue and wasi:http"
        }
        _ => return None,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn inspection(imports: &[&str], exports: &[&str]) -> Inspection {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let anatomy =
            Anatomy { imports: names(imports), exports: names(exports), ..Anatomy::default() };
        Inspection::new(anatomy, "".into())
    }

    #[test]
    fn worlds_are_told_apart_by_what_they_export() {
        for (export, world) in [
            ("tally:plugin/handler@0.1.0", World::Plugin),
            ("wasi:http/incoming-handler@0.2.0", World::Http),
            ("wasi:http/incoming-handler@0.2.9", World::Http),
            ("wasi:http/incoming-handler@0.2.0-rc-2023-11-10", World::OtherHttp),
            ("wasi:http/handler@0.3.0", World::OtherHttp),
            ("wasi:cli/run@0.2.3", World::Command),
            ("other:thing/run", World::Other),
        ] {
            assert_eq!(inspection(&[], &[export]).world, world, "{export}");
        }
    }

    #[test]
    fn any_release_of_wasi_matches_and_drafts_match_to_the_letter() {
        for (import, offered) in [
            ("wasi:io/streams@0.2.0", true),
            ("wasi:io/streams@0.2.12", true),
            ("wasi:io/streams@0.3.0", false),
            ("wasi:io/streams@0.2.0-rc-2023-11-10", false),
            ("wasi:http/types@0.2.3", true),
            ("wasi:clocks/wall-clock@0.2.3", true),
            ("wasi:clocks/timezone@0.2.3", false),
            ("wasi:keyvalue/store@0.2.0-draft", true),
            ("wasi:keyvalue/store@0.2.0-draft2", true),
            ("wasi:keyvalue/store@0.2.0-draft3", false),
            ("wasi:keyvalue/watcher@0.2.0-draft2", false),
            ("wasi:logging/logging", true),
            ("wasi:logging/logging@0.1.0-draft", true),
            ("wasi:config/store@0.2.0-rc.1", true),
            ("fermyon:spin/key-value@2.0.0", true),
            ("fermyon:spin/sqlite@2.0.0", false),
        ] {
            assert_eq!(is_offered(import), offered, "{import}");
        }
    }

    #[test]
    fn what_is_missing_comes_with_what_would_help() {
        let http = "wasi:http/incoming-handler@0.2.0";
        for (import, part) in [
            ("wasi:keyvalue/store@0.2.0-draft3", "0.2.0-draft2"),
            ("wasi:io/streams@0.3.0", "WASI 0.2"),
            ("fermyon:spin/variables@2.0.0", "wasi:config/store"),
            ("wasmcloud:bus/lattice@1.0.0", "wasmCloud"),
            ("mine:own/thing", "not offered"),
        ] {
            let text = inspection(&[import], &[http]).to_string();
            assert!(text.contains(part) && text.contains("1 of its imports"), "{text}");
        }
        for (export, part) in [
            ("wasi:http/handler@0.3.0", "toolchain for WASI 0.2"),
            ("wasi:cli/run@0.2.0", "runs once"),
            ("x:y/z", "neither"),
            ("tally:plugin/handler@0.2.0", "handler@0.1.x"),
            ("fermyon:spin/inbound-http", "only its own host"),
        ] {
            let text = inspection(&[], &[export]).to_string();
            assert!(text.contains(part), "{text}");
        }
    }
}
