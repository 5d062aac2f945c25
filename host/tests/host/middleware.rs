//! Components that requests pass before a guest. The middleware was built with Spin's SDK.

use std::{fs, path::Path};

use http::Method;
use tempfile::TempDir;

use crate::{
    client::{Client, Response},
    command_line::run,
    host::{Host, guest},
};

/// The name that the middleware is built with.
const NAME: &str = "middleware-one";

/// A folder with a guest, and with the middleware under two names.
fn folder(probe: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(guest(probe), dir.path().join("guest.wasm")).unwrap();
    let middleware = fs::read(guest("probe-middleware")).unwrap();
    fs::write(dir.path().join("one.wasm"), &middleware).unwrap();
    let mut renamed = middleware;
    let place = renamed.windows(NAME.len()).position(|bytes| bytes == NAME.as_bytes()).unwrap();
    renamed[place..place + NAME.len()].copy_from_slice(b"middleware-two");
    fs::write(dir.path().join("two.wasm"), renamed).unwrap();
    dir
}

fn host(probe: &str, middleware: &str) -> Host {
    let config = format!("store = 'memory:'\nguest = 'guest.wasm'\nmiddleware = {middleware}\n");
    Host::start_configured(folder(probe), &config)
}

/// A request with a header.
async fn with(client: &mut Client, path: &str, name: &'static str, value: &str) -> Response {
    let mut request = client.request(Method::POST, path);
    request.headers_mut().insert(name, value.parse().unwrap());
    client.try_send(request).await.unwrap()
}

/// All values of a header of a response.
fn values<'a>(response: &'a Response, name: &str) -> Vec<&'a str> {
    response.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn requests_pass_middleware_in_the_order_of_the_configuration() {
    for (middleware, order) in [
        ("['one.wasm']", vec!["middleware-one"]),
        ("['one.wasm', 'two.wasm']", vec!["middleware-one", "middleware-two"]),
        ("['two.wasm', 'one.wasm']", vec!["middleware-two", "middleware-one"]),
        ("['one.wasm', 'one.wasm']", vec!["middleware-one", "middleware-one"]),
    ] {
        let host = host("probe-p3", middleware);
        let mut client = Client::connect(host.address).await;
        let response = client.get("/header?x-passed").await;
        assert_eq!(response.text(), order.join(", "), "{middleware}: {response:?}");
        let back: Vec<_> = order.into_iter().rev().collect();
        assert_eq!(values(&response, "x-answered"), back, "{middleware}");
    }
}

#[tokio::test]
async fn a_middleware_may_answer_by_itself() {
    let host = host("probe-p3", "['one.wasm', 'two.wasm']");
    let mut client = Client::connect(host.address).await;
    let first = with(&mut client, "/increments?1", "x-refuse", "middleware-one").await;
    assert_eq!((first.status.as_u16(), first.text()), (401, "refused by middleware-one"));
    assert!(values(&first, "x-answered").is_empty(), "{first:?}");
    let second = with(&mut client, "/increments?1", "x-refuse", "middleware-two").await;
    assert_eq!((second.status.as_u16(), second.text()), (401, "refused by middleware-two"));
    assert_eq!(values(&second, "x-answered"), ["middleware-one"]);
    assert_eq!(client.get("/value?many").await.text(), "(none)", "the guest was not called");
}

#[tokio::test]
async fn bodies_stream_through_middleware() {
    let config = "store = 'memory:'\nguest = 'guest.wasm'\nmiddleware = ['one.wasm', 'two.wasm']\nbody-limit = '16MiB'\nresponse-limit = '16MiB'\n";
    let host = Host::start_configured(folder("probe-p3"), config);
    let mut client = Client::connect(host.address).await;
    for bytes in [0, 1, 70_000, 8 << 20] {
        let body: Vec<u8> = (0..bytes).map(|number: usize| number.to_le_bytes()[0]).collect();
        let mut request = client.request(Method::POST, "/echo");
        *request.body_mut() = body.clone().into();
        let response = client.try_send(request).await.unwrap();
        assert_eq!((response.status.as_u16(), response.body == body), (200, true), "{bytes}");
    }
}

#[tokio::test]
async fn a_trap_of_a_middleware_is_one_of_the_chain() {
    let host = host("probe-p3", "['one.wasm', 'two.wasm']");
    let mut client = Client::connect(host.address).await;
    for (header, name, applied, count) in [
        ("x-trap", "middleware-one", "no", "(none)"),
        ("x-trap", "middleware-two", "no", "(none)"),
        ("x-trap-late", "middleware-one", "unknown", "1"),
        ("x-trap-late", "middleware-two", "unknown", "2"),
    ] {
        let response = with(&mut client, "/increments?1", header, name).await;
        response.problem(500, "trap");
        assert_eq!(response.json()["applied"], applied, "{header} {name}");
        assert_eq!(client.get("/value?many").await.text(), count, "{header} {name}");
    }
    assert_eq!(client.get("/hello").await.text(), "Hello, World!");
}

#[tokio::test]
async fn a_request_with_a_key_passes_the_chain_once() {
    let host = host("probe-p3", "['one.wasm']");
    let mut client = Client::connect(host.address).await;
    let first = client.post_with_key("/increments?100", "k").await;
    assert_eq!(values(&first, "x-answered"), ["middleware-one"], "{first:?}");
    let again = client.post_with_key("/increments?100", "k").await;
    assert_eq!(again.text(), first.text());
    assert_eq!(values(&again, "x-answered"), ["middleware-one"]);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(client.get("/value?many").await.text(), "100");
}

/// A deployment replaces the guest, and what stands before it stays.
#[tokio::test]
async fn a_guest_that_is_deployed_is_put_behind_the_middleware() {
    let host = host("probe-p3", "['one.wasm']");
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/header?x-passed").await.text(), "middleware-one");
    let admin = format!("http://{}", host.admin);
    let spin = guest("probe-spin-p3");
    let deployed = run(host.dir(), &["deploy", "--admin", &admin, spin.to_str().unwrap()]);
    assert!(deployed.status.success(), "{deployed:?}");
    let response = client.get("/set?a=1").await;
    assert_eq!(response.text(), "set", "{response:?}");
    assert_eq!(values(&response, "x-answered"), ["middleware-one"]);
}

/// What `tally check` prints of a chain, and whether it can be served.
fn check(dir: &Path, arguments: &[&str]) -> (bool, String) {
    let output = run(dir, &[&["check"], arguments].concat());
    let told = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(told).unwrap())
}

#[test]
fn chains_are_checked_and_what_is_wrong_is_named() {
    let dir = folder("probe-p3");
    for other in ["probe-http", "counter"] {
        fs::copy(guest(other), dir.path().join(format!("{other}.wasm"))).unwrap();
    }
    fs::write(dir.path().join("text.wasm"), "no component").unwrap();
    let chain = ["guest.wasm", "--middleware", "one.wasm", "--middleware", "two.wasm"];
    let (is_served, told) = check(dir.path(), &chain);
    assert!(is_served, "{told}");
    assert!(told.contains("chain    one.wasm -> two.wasm -> the guest"), "{told}");
    assert!(told.contains("exports  wasi:http/handler@0.3"), "{told}");
    for (arguments, parts) in [
        (["guest.wasm", "--middleware", "guest.wasm"], ["guest.wasm", "does not import"]),
        (["guest.wasm", "--middleware", "counter.wasm"], ["counter.wasm", "does not export"]),
        (["guest.wasm", "--middleware", "text.wasm"], ["text.wasm", "not WebAssembly"]),
        (["guest.wasm", "--middleware", "none.wasm"], ["none.wasm", "cannot read"]),
        (["probe-http.wasm", "--middleware", "one.wasm"], ["incoming-handler", "WASI 0.3"]),
    ] {
        let (is_served, told) = check(dir.path(), &arguments);
        assert!(!is_served && parts.iter().all(|part| told.contains(part)), "{told}");
    }
    // Alone it is no guest.
    let (_, told) = check(dir.path(), &["one.wasm"]);
    assert!(told.contains("name this component as middleware"), "{told}");
}

#[tokio::test]
async fn middleware_of_a_spin_application_is_imported() {
    let dir = folder("probe-p3");
    let manifest = r#"
        spin_manifest_version = 2
        [application]
        name = "shop"
        [[trigger.http]]
        route = "/..."
        component = "shop"
        components.middleware = ["first", "second"]
        [component.shop]
        source = "guest.wasm"
        [component.first]
        source = "two.wasm"
        [component.second]
        source = "one.wasm"
        allowed_outbound_hosts = ["https://example.com"]
    "#;
    fs::write(dir.path().join("spin.toml"), manifest).unwrap();
    let output = run(dir.path(), &["import", "spin.toml"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("middleware second: a middleware has"), "{told}");
    assert!(!told.contains("components") && !told.contains("no HTTP trigger"), "{told}");
    let config = fs::read_to_string(dir.path().join("tally.toml")).unwrap();
    let host = Host::start_configured(dir, &format!("store = 'memory:'\n{config}"));
    let mut client = Client::connect(host.address).await;
    let passed = client.get("/header?x-passed").await;
    assert_eq!(passed.text(), "middleware-two, middleware-one", "{passed:?}");
}
