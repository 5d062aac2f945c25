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
    host::{Instances, Runtime, Sizes},
    limits::Limits,
    load_error::LoadError,
    middleware, module,
    worlds::{self, World},
};
use crate::interfaces::{Draft2, Interface, advice};

/// Bytes a guest may have: compiling takes time and memory in proportion. Interpreters compiled to
/// WebAssembly have some twenty million.
const MAX_GUEST_BYTES: usize = 64 << 20;

/// Kinds of components that are of no world this host serves, told apart for what would help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unserved {
    /// A handler of HTTP of another version of WASI.
    OtherHttp,
    /// A program that runs once.
    Command,
    /// None of these.
    Other,
}

impl Unserved {
    fn of(exports: &[String]) -> Self {
        let exports_any =
            |names: &[&str]| exports.iter().any(|name| names.contains(&Interface::of(name).base));
        if exports_any(&["wasi:http/incoming-handler", "wasi:http/handler"]) {
            Self::OtherHttp
        } else if exports_any(&["wasi:cli/run"]) {
            Self::Command
        } else {
            Self::Other
        }
    }

    /// Its name for people.
    fn name(self) -> &'static str {
        match self {
            Self::OtherHttp => "wasi:http of another version",
            Self::Command => "wasi:cli/command",
            Self::Other => "none that serves requests",
        }
    }

    /// Why it cannot be served, and what would help.
    fn problem(self, exports: &[String]) -> String {
        let names = match exports {
            [] => "nothing".into(),
            exports => exports.join(", ").escape_debug().to_string(),
        };
        let served = worlds::handlers();
        match self {
            Self::OtherHttp => format!(
                "the guest exports {names}; this host serves the releases of wasi:http 0.2 and 0.3, and 0.3.0-rc-2026-03-15: build it with a toolchain for one of these (in Rust, --target wasm32-wasip2 and the crate wasip2 or wasip3)"
            ),
            Self::Command => format!(
                "the guest is a program that runs once (it exports {names}), not a handler of requests; build a library that exports {served}"
            ),
            Self::Other if names.contains("tally:plugin/handler") => format!(
                "the guest exports {names}; this host serves {served}: build it with this host's wit/"
            ),
            Self::Other if names.contains("fermyon:spin/") || names.contains("wasmcloud:") => {
                format!(
                    "the guest exports {names}, which only its own host calls; build it as a handler that exports {served}"
                )
            }
            Self::Other => format!(
                "the guest does not export {served}, so it handles no requests; it exports {names}"
            ),
        }
    }
}

/// What a component is and what it needs, for `tally check`.
pub struct Inspection {
    world: Option<&'static dyn World>,
    pub(super) version: Arc<str>,
    anatomy: Anatomy,
    needs: Option<Needs>,
    draft2: Option<Draft2>,
    /// What is compiled, if it is not what was given.
    converted: Option<Vec<u8>>,
    is_module: bool,
    /// What its requests pass before it, the outermost first.
    middleware: Vec<PathBuf>,
    /// Whether all that it imports has to be offered.
    strict: bool,
    /// Functions that it imports from interfaces that are offered, and that these do not have here.
    missing_functions: Arc<[String]>,
}

/// Looks at a component, and compiles and links it if this host knows its kind. Does not run it.
///
/// # Errors
/// [`LoadError`] when it is no component at all, is broken, or does not fit.
pub fn inspect(bytes: &[u8], limits: &Limits) -> Result<Inspection, LoadError> {
    let mut inspection = Inspection::of(bytes, limits)?;
    if inspection.can_run() {
        let runtime =
            Runtime::new(Sizes { instances: Instances::of([limits.pool]), ..Sizes::default() });
        let loaded = runtime.compile(&inspection, limits, bytes)?;
        inspection.needs = Some(loaded.needs);
        inspection.draft2 = loaded.draft2;
        inspection.missing_functions = loaded.missing_functions;
    }
    Ok(inspection)
}

impl Inspection {
    /// Takes a component apart, without compiling it. Of a core module, the component that it stands for.
    ///
    /// # Errors
    /// [`LoadError`] for what is no component, or is too large to be compiled.
    pub(super) fn of(bytes: &[u8], limits: &Limits) -> Result<Self, LoadError> {
        if bytes.len() > MAX_GUEST_BYTES {
            return Err(LoadError::TooLarge { actual: bytes.len(), limit: MAX_GUEST_BYTES });
        }
        let is_module = module::is_module(bytes);
        let mut converted = is_module.then(|| module::into_component(bytes)).transpose()?;
        let middleware = limits.middleware.clone();
        if !middleware.is_empty() {
            let guest = converted.as_deref().unwrap_or(bytes);
            let chain = middleware::compose(&middleware, guest)?;
            if chain.len() > MAX_GUEST_BYTES {
                return Err(LoadError::TooLarge { actual: chain.len(), limit: MAX_GUEST_BYTES });
            }
            converted = Some(chain);
        }
        let anatomy = Anatomy::of(converted.as_deref().unwrap_or(bytes))?;
        let strict = limits.strict_imports;
        let version = version(bytes);
        Ok(Self { converted, is_module, middleware, strict, ..Self::new(anatomy, version) })
    }

    fn new(anatomy: Anatomy, version: Arc<str>) -> Self {
        Self {
            world: worlds::of(&anatomy.exports),
            version,
            anatomy,
            needs: None,
            draft2: None,
            converted: None,
            is_module: false,
            middleware: Vec::new(),
            strict: false,
            missing_functions: Arc::default(),
        }
    }

    /// Whether all that it imports has to be offered.
    pub(super) fn is_strict(&self) -> bool {
        self.strict
    }

    /// Whether it came as a core module.
    pub(super) fn is_module(&self) -> bool {
        self.is_module
    }

    /// What is compiled for the bytes that were looked at.
    pub(super) fn component<'a>(&'a self, bytes: &'a [u8]) -> &'a [u8] {
        self.converted.as_deref().unwrap_or(bytes)
    }

    /// The slots that it needs, within what its limits say.
    ///
    /// # Errors
    /// [`LoadError`], when this host cannot run it or it needs more than it may have.
    pub(super) fn needs(&self, limits: &Limits) -> Result<Needs, LoadError> {
        let world = self.world()?;
        Ok(Needs::of(&self.anatomy, limits)?.concurrent(world.is_concurrent()))
    }

    /// Whether this host can serve the component.
    #[must_use]
    pub fn can_run(&self) -> bool {
        self.world().is_ok()
    }

    /// Its world.
    ///
    /// # Errors
    /// [`LoadError`], when this host serves none that it is of, or does not offer what it imports and has to.
    pub(super) fn world(&self) -> Result<&'static dyn World, LoadError> {
        let Some(world) = self.world else { return Err(LoadError::World(self.problem())) };
        let missing = if self.strict { self.missing() } else { Vec::new() };
        let missing: Vec<String> = missing
            .into_iter()
            .map(|import| match advice(Interface::of(import)) {
                Some(advice) => format!("{} ({advice})", import.escape_debug()),
                None => import.escape_debug().to_string(),
            })
            .collect();
        if missing.is_empty() { Ok(world) } else { Err(LoadError::Imports(missing)) }
    }

    /// Whether it imports an interface of Spin's.
    pub(super) fn imports_spin(&self) -> bool {
        let of_spin =
            |import: &String| import.starts_with("spin:") || import.starts_with("fermyon:spin/");
        self.anatomy.imports.iter().any(of_spin)
    }

    /// What it imports and this host does not offer to guests of its world.
    pub(super) fn missing(&self) -> Vec<&str> {
        let imports = self.anatomy.imports.iter().map(String::as_str);
        let offers =
            |import: &&str| self.world.is_none_or(|world| world.offers(Interface::of(import)));
        imports.filter(|import| !offers(import)).collect()
    }

    /// Why it cannot be served, where it is of no world that is.
    fn problem(&self) -> String {
        Unserved::of(&self.anatomy.exports).problem(&self.anatomy.exports)
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exports = &self.anatomy.exports;
        let world = self.world.map_or_else(|| Unserved::of(exports).name(), World::name);
        writeln!(f, "world    {world}")?;
        writeln!(f, "version  {}", self.version)?;
        if self.is_module() {
            writeln!(f, "module   of WASI preview 1; turned into a component when it is loaded")?;
        }
        if !self.middleware.is_empty() {
            let names = self.middleware.iter().map(|file| file.display().to_string());
            let names: Vec<_> = names.map(|name| name.escape_debug().to_string()).collect();
            writeln!(f, "chain    {} -> the guest", names.join(" -> "))?;
        }
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
        for export in exports {
            writeln!(f, "exports  {}", export.escape_debug())?;
        }
        for import in &self.anatomy.imports {
            write!(f, "imports  {}", import.escape_debug())?;
            let interface = Interface::of(import);
            if self.world.is_some_and(|world| !world.offers(interface)) {
                let advice = advice(interface).unwrap_or("not offered by this host");
                match self.strict {
                    true => write!(f, "   (missing: {advice})")?,
                    false => write!(f, "   (runs; calling it fails: {advice})")?,
                }
            }
            writeln!(f)?;
        }
        for function in self.missing_functions.iter() {
            let function = function.escape_debug();
            writeln!(
                f,
                "imports  {function}   (runs; calling it fails: not offered by this host)"
            )?;
        }
        let missing = self.missing();
        match (self.world, missing.as_slice()) {
            (None, _) => write!(f, "This host cannot serve it: {}.", self.problem()),
            (_, []) => write!(f, "This host can serve it."),
            (_, missing) if self.strict => write!(
                f,
                "This host cannot serve it: {} of its imports are missing.",
                missing.len()
            ),
            (_, missing) => write!(f, "This host can serve it; {}.", calling_fails(missing)),
        }
    }
}

/// What becomes of a guest that calls what is missing.
pub(super) fn calling_fails(missing: &[impl AsRef<str>]) -> String {
    let names: Vec<_> =
        missing.iter().map(|name| name.as_ref().escape_debug().to_string()).collect();
    format!("calling {} fails", names.join(", "))
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
            ("tally:plugin/handler@0.1.0", "tally:plugin/plugin"),
            ("wasi:http/incoming-handler@0.2.0", "wasi:http/proxy"),
            ("wasi:http/incoming-handler@0.2.9", "wasi:http/proxy"),
            ("wasi:http/incoming-handler@0.2.0-rc-2023-11-10", "wasi:http of another version"),
            ("wasi:http/handler@0.3.0", "wasi:http/service"),
            ("wasi:http/handler@0.3.7", "wasi:http/service"),
            ("wasi:http/handler@0.3.0-rc-2026-03-15", "wasi:http/service"),
            ("wasi:http/handler@0.3.0-rc-2025-09-16", "wasi:http of another version"),
            ("wasi:http/handler@0.4.0", "wasi:http of another version"),
            ("wasi:cli/run@0.2.3", "wasi:cli/command"),
            ("other:thing/run", "none that serves requests"),
        ] {
            let text = inspection(&[], &[export]).to_string();
            assert!(text.starts_with(&format!("world    {world}\n")), "{export}: {text}");
        }
    }

    #[test]
    fn what_is_missing_comes_with_what_would_help() {
        let http = "wasi:http/incoming-handler@0.2.0";
        for (import, part) in [
            ("wasi:keyvalue/store@0.2.0-draft3", "0.2.0-draft2"),
            ("wasi:clocks/system-clock@0.3.0", "exports wasi:http/handler"),
            ("fermyon:spin/llm@2.0.0", "key-value, variables"),
            ("wasmcloud:bus/lattice@1.0.0", "wasmCloud"),
            ("mine:own/thing", "not offered"),
        ] {
            let text = inspection(&[import], &[http]).to_string();
            assert!(text.contains(part), "{text}");
            assert!(text.ends_with(&format!("can serve it; calling {import} fails.")), "{text}");
            let strict = Inspection { strict: true, ..inspection(&[import], &[http]) };
            let text = strict.to_string();
            assert!(text.contains(part) && text.contains("1 of its imports"), "{text}");
            assert!(!strict.can_run());
        }
        for (export, part) in [
            ("wasi:http/handler@0.4.0", "releases of wasi:http 0.2 and 0.3"),
            ("wasi:cli/run@0.2.0", "runs once"),
            ("x:y/z", "does not export"),
            ("tally:plugin/handler@0.2.0", "handler@0.1.x"),
            ("fermyon:spin/inbound-http", "only its own host"),
        ] {
            let text = inspection(&[], &[export]).to_string();
            assert!(text.contains(part), "{text}");
        }
    }
}
