//! The types and traits generated from the WIT of the plugin world.

#![allow(missing_docs, unreachable_pub, reason = "generated; the WIT documents each function")]
#![allow(clippy::all, clippy::indexing_slicing, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "plugin",
    imports: {
        // What asks the store waits for it; the others answer from the request's own context.
        "wasi:keyvalue/store": async | trappable,
        "wasi:keyvalue/store.open": trappable,
        "wasi:keyvalue/atomics": async | trappable,
        "wasi:keyvalue/batch": async | trappable,
    },
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: false },
    with: {
        "wasi:keyvalue/store.bucket": super::keyvalue::Bucket,
        "wasi:keyvalue/atomics.cas": super::keyvalue::Cas,
    },
});
