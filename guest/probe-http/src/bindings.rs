//! The imports besides `wasi:http`, which the crate `wasip2` brings.

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package probe:standard;

        world imports {
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
        }
    ",
    world: "probe:standard/imports",
    generate_all,
});
