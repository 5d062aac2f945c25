//! The imports besides WASI, which the crate `wasip3` brings: `wasi:keyvalue` with functions that are `async`.

wasip3::wit_bindgen::generate!({
    path: "../../wit/async",
    inline: "
        package probe:concurrent;

        world imports {
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
            import wasi:keyvalue/batch@0.2.0-draft2;
            import tally:keyvalue/extensions@0.1.0;
        }
    ",
    world: "probe:concurrent/imports",
    runtime_path: "wasip3::wit_bindgen::rt",
    generate_all,
});
