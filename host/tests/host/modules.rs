//! Core modules with an embedded world, as toolchains for WASI preview 1 build them.

use std::time::{Duration, Instant};

use crate::{
    client::{Client, get},
    command_line::{fails_to_serve, run},
    host::{Host, guest},
};

fn module() -> Vec<u8> {
    let module = std::fs::read(guest("counter-module")).unwrap();
    assert_eq!(module[..8], *b"\0asm\x01\0\0\0", "a core module");
    module
}

#[test]
fn check_says_that_a_module_is_turned_into_a_component() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["check", guest("counter-module").to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for part in [
        "world    wasi:http/proxy",
        "module   of WASI preview 1; turned into a component",
        "as for compiled code",
        "This host can serve it.",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn the_log_says_once_that_a_module_is_turned_into_a_component() {
    let host = Host::start("counter-module", "memory:", &[]);
    let mut client = Client::connect(host.address).await;
    for _ in 0..10 {
        client.post("/increment").await;
    }
    assert_eq!(client.get("/report").await.count(), 10);
    let log = host.wait_for_log("a core module of WASI preview 1");
    assert_eq!(log.matches("a core module of WASI preview 1").count(), 1, "{log}");
}

#[tokio::test]
async fn modules_are_deployed_as_components_are() {
    let host = Host::start("counter-http", "memory:", &[]);
    assert_eq!(Client::connect(host.address).await.post("/increment").await.count(), 1);
    let deployed = host.deploy("default", module()).await;
    assert_eq!(deployed.status, 200, "{deployed:?}");
    assert!(deployed.json()["notes"].to_string().contains("a core module"), "{deployed:?}");
    let report = get(host.address, "/report").await;
    assert_eq!(report.count(), 1);
    assert_eq!(report.json()["guest_version"], deployed.json()["version"]);

    // Half a module, one whose world is cut off, and one that does not have what its world says.
    let mut half = module();
    half.truncate(half.len() / 2);
    let section = |bytes: &[u8]| {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        let name = b"component-type:x";
        module.extend([0, u8::try_from(1 + name.len() + bytes.len()).unwrap(), 16]);
        module.extend(name);
        module.extend(bytes);
        module
    };
    let mut large = module();
    // A custom section of 65 MiB with an empty name.
    large.extend([0, 0x81, 0x80, 0x80, 0x20, 0]);
    large.resize(large.len() + (64 << 20), 0);
    for (broken, part) in [
        (half, "cannot be turned into a component"),
        (section(b"what is no world"), "cannot be turned into a component"),
        (section(b""), "cannot be turned into a component"),
        (wat::parse_str("(module)").unwrap(), "without a world"),
        (large, "over the limit of 67108864"),
    ] {
        let refused = host.deploy("default", broken).await;
        assert_eq!(refused.status, 422, "{part}: {refused:?}");
        assert!(refused.text().contains(part), "{refused:?}");
    }
    assert_eq!(get(host.address, "/report").await.count(), 1, "the one before goes on");
}

#[tokio::test]
async fn a_module_that_is_watched_is_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.wasm");
    std::fs::copy(guest("counter-http"), &path).unwrap();
    let host =
        Host::start_configured(dir, "guest = \"guest.wasm\"\nwatch = true\nstore = \"memory:\"\n");
    let version = async || get(host.address, "/report").await.json()["guest_version"].clone();
    let before = version().await;
    std::fs::write(&path, module()).unwrap();
    let started = Instant::now();
    while version().await == before {
        assert!(started.elapsed() < Duration::from_secs(120), "it is not loaded:\n{}", host.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    host.wait_for_log("a core module of WASI preview 1");
}

#[test]
fn modules_that_cannot_be_served_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("command.wasm", &wat::parse_str("(module (func (export \"_start\")))").unwrap());
    let mut half = module();
    half.truncate(half.len() / 3);
    write("half.wasm", &half);
    for (name, parts) in [
        ("command.wasm", ["without a world", "wasm-tools component embed"]),
        ("half.wasm", ["cannot be turned into a component", "wasm32-wasip2"]),
    ] {
        let error = fails_to_serve(dir.path(), &["--store", "memory:", name]);
        for part in parts {
            assert!(error.contains(part), "{name}: {error}");
        }
    }
}
