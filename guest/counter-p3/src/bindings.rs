//! The imports besides `wasi:http`, which the crate `wasip3` brings.

wasip3::wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package counter:standard;

        world imports {
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
            import tally:keyvalue/extensions@0.1.0;
            import tally:plugin/worker@0.1.0;
        }
    ",
    world: "counter:standard/imports",
    runtime_path: "wasip3::wit_bindgen::rt",
    generate_all,
});
