//! Why a guest cannot be loaded.

use std::path::PathBuf;

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
    /// It cannot be read from where it is.
    #[error("the component cannot be had: {0}")]
    Fetch(String),
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
    /// A core module that does not say which component it is to be.
    #[error(
        "the guest is a core WebAssembly module without a world (a custom section component-type), so it cannot be turned into a component; in Rust, build it with --target wasm32-wasip2; elsewhere, build it with bindings of wit-bindgen, or add its world with `wasm-tools component embed`"
    )]
    CoreModule,
    /// A core module that cannot be turned into a component.
    #[error(
        "the guest is a core WebAssembly module that cannot be turned into a component: {0}; build it as a component, in Rust with --target wasm32-wasip2"
    )]
    Module(String),
    /// What is configured as middleware cannot stand before a guest.
    #[error("the middleware {} {reason}", path.display())]
    Middleware {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it, as the end of a sentence.
        reason: String,
    },
    /// The guest cannot have middleware.
    #[error(
        "middleware stands before guests of WASI 0.3, which export wasi:http/handler; this guest exports {0}: build it for WASI 0.3, or configure no middleware"
    )]
    BehindMiddleware(String),
    /// The components of a chain do not fit each other.
    #[error("the guest and its middleware do not fit each other: {0}")]
    Chain(String),
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
    #[error("the guest needs what this host does not offer: {}; `tally check` lists all imports, and without strict-imports the guest runs until it calls one of these", .0.join("; "))]
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
