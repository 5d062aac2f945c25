//! The types and traits generated from WIT: the plugin world, and the other shapes of key-value
//! stores that guests of other hosts import.

#![allow(missing_docs, unreachable_pub, reason = "generated; the WIT documents each function")]
#![allow(clippy::all, clippy::indexing_slicing, reason = "generated")]

pub mod plugin {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "plugin",
        imports: {
            // What asks the store waits for it; the others answer from the request's own context.
            "wasi:keyvalue/store": async | trappable,
            "wasi:keyvalue/store.open": trappable,
            "wasi:keyvalue/atomics": async | trappable,
            "wasi:keyvalue/batch": async | trappable,
            "tally:keyvalue/extensions": async | trappable,
        },
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: false },
        with: {
            "wasi:keyvalue/store.bucket": crate::interfaces::keyvalue::Bucket,
            "wasi:keyvalue/atomics.cas": crate::interfaces::keyvalue::Cas,
        },
    });
}

pub mod draft {
    wasmtime::component::bindgen!({
        path: "wit/keyvalue-draft",
        world: "imports",
        imports: {
            default: async | trappable,
            "wasi:keyvalue/store.open": trappable,
        },
        with: { "wasi:keyvalue/store.bucket": crate::interfaces::keyvalue::Bucket },
    });
}

pub mod spin {
    wasmtime::component::bindgen!({
        path: "wit/spin-key-value",
        world: "imports",
        imports: {
            default: async | trappable,
            "fermyon:spin/key-value.[static]store.open": trappable,
        },
        with: { "fermyon:spin/key-value.store": crate::interfaces::keyvalue::Bucket },
    });
}

/// `fermyon:spin/postgres@2.0.0`.
pub mod spin_postgres_2 {
    wasmtime::component::bindgen!({
        path: "wit/spin-postgres-2",
        world: "imports",
        imports: { default: async | trappable },
        with: { "fermyon:spin/postgres.connection": crate::interfaces::spin::PostgresConnection },
    });
}

/// `spin:postgres/postgres@3.0.0`.
pub mod spin_postgres_3 {
    wasmtime::component::bindgen!({
        path: "wit/spin-postgres-3",
        world: "imports",
        imports: { default: async | trappable },
        with: { "spin:postgres/postgres.connection": crate::interfaces::spin::PostgresConnection },
    });
}

/// `spin:postgres/postgres@4.0.0`, which later versions of 4 add to.
pub mod spin_postgres_4 {
    wasmtime::component::bindgen!({
        path: "wit/spin-postgres-4",
        world: "imports",
        imports: { default: async | trappable },
        with: { "spin:postgres/postgres.connection": crate::interfaces::spin::PostgresConnection },
    });
}

pub mod blobstore {
    wasmtime::component::bindgen!({
        path: "wit/blobstore",
        world: "imports",
        imports: {
            "wasi:blobstore/blobstore": async | trappable,
            "wasi:blobstore/container": async | trappable,
            "wasi:blobstore/types": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:io": wasmtime_wasi_io::bindings::wasi::io,
            "wasi:blobstore/types.outgoing-value": crate::interfaces::blobstore::Outgoing,
            "wasi:blobstore/types.incoming-value": crate::interfaces::blobstore::Incoming,
            "wasi:blobstore/container.container": crate::interfaces::keyvalue::Bucket,
            "wasi:blobstore/container.stream-object-names": crate::interfaces::blobstore::Names,
        },
    });
}

pub mod wasmcloud {
    wasmtime::component::bindgen!({
        path: "wit/wasmcloud-keyvalue",
        world: "imports",
        imports: { default: trappable },
        with: { "wasmcloud:keyvalue/types.bucket": crate::interfaces::keyvalue::Bucket },
    });
}
