//! Guests of WASI 0.3, which wait in several places at a time: what they may do, and what they do wrong. What they have
//! in common with guests of 0.2 is in `standard` and in `counter`, which both run.

mod hostile;
mod state;

use crate::{client::Client, host::Host};

/// A host with the probe of WASI 0.3.
fn host(flags: &[&str]) -> Host {
    Host::start("probe-p3", "memory:", flags)
}

#[tokio::test]
async fn a_body_that_is_handed_on_passes_through_whole() {
    let host = host(&["--body-limit", "16MiB", "--response-limit", "16MiB"]);
    let mut client = Client::connect(host.address).await;
    for bytes in [0, 1, 70_000, 8 << 20] {
        let body: Vec<u8> = (0..bytes).map(|number: usize| number.to_le_bytes()[0]).collect();
        let mut request = client.request(http::Method::POST, "/hand-on");
        *request.body_mut() = body.clone().into();
        let response = client.try_send(request).await.unwrap();
        assert_eq!((response.status.as_u16(), response.body == body), (200, true), "{bytes}");
    }
}

/// The interfaces for operations at once are the others, but for `async`.
#[test]
fn the_async_interfaces_are_the_others() {
    let wit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let read = |path: &str| std::fs::read_to_string(wit.join(path)).unwrap();
    for (plain, concurrent) in [
        ("deps/keyvalue/store.wit", "async/deps/keyvalue/store.wit"),
        ("deps/keyvalue/atomics.wit", "async/deps/keyvalue/atomics.wit"),
        ("deps/keyvalue/batch.wit", "async/deps/keyvalue/batch.wit"),
        ("deps/tally-keyvalue/extensions.wit", "async/extensions.wit"),
    ] {
        let concurrent = read(concurrent);
        assert!(concurrent.contains("async func"));
        assert_eq!(concurrent.replace("async func", "func"), read(plain), "{plain}");
    }
}

/// What Spin's tools export is named after the last candidate for 0.3.0.
#[tokio::test]
async fn the_release_candidate_is_served_as_the_release() {
    let release = std::fs::read(crate::host::guest("counter-p3")).unwrap();
    let text = wasmprinter::print_bytes(release).unwrap();
    let candidate = text.replace("@0.3.2", "@0.3.0-rc-2026-03-15");
    assert!(candidate.contains("wasi:http/handler@0.3.0-rc-2026-03-15"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("candidate.wasm"), wat::parse_str(candidate).unwrap()).unwrap();
    let config = "store = \"memory:\"\nguest = \"candidate.wasm\"\n";
    let host = Host::start_configured(dir, config);
    crate::counter::it_counts_reports_and_resets(host).await;
}
