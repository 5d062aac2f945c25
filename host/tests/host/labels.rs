//! Stores that a guest imports under labels, and buckets that it opens by any name.

use std::path::Path;

use tally_testkit::{Durability, Postgres, Redis, ask};
use tempfile::TempDir;

use crate::{
    client::{Client, get},
    host::{Host, guest, tally},
};

/// A folder with the probe in it.
fn probe() -> TempDir {
    component_of("probe-labels")
}

/// A folder with a guest in it. Its component is made here, as the linker of the guests' toolchain knows no labels.
fn component_of(name: &str) -> TempDir {
    let module = std::fs::read(guest(name)).unwrap();
    let encoder = wit_component::ComponentEncoder::default().module(&module).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let component = encoder.validate(true).encode().unwrap();
    std::fs::write(dir.path().join("probe.wasm"), component).unwrap();
    dir
}

fn serve(store: &str, buckets: &str) -> Host {
    let config = format!("guest = 'probe.wasm'\nstore = '{store}'\nbuckets = {buckets}\n");
    Host::start_configured(probe(), &config)
}

async fn labels_are_names_of_buckets(store: &str) {
    let host = serve(store, "['default=labels', 'team-a', 'team-a/sessions=sessions']");
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/a/set?,key=1").await.text(), "set");
    for bucket in ["", "default"] {
        assert_eq!(client.get(&format!("/a/get?{bucket},key")).await.text(), "1");
        assert_eq!(client.get(&format!("/get?{bucket},key")).await.text(), "(none)");
    }
    // It is the bucket of that name, whichever way it is opened.
    assert_eq!(client.get("/get?team-a,key").await.text(), "1");
    assert_eq!(client.get("/a/set?sessions,key=2").await.text(), "set");
    assert_eq!(client.get("/get?team-a/sessions,key").await.text(), "2");
    for path in ["/a/open?elsewhere", "/b/open?", "/b/open?default", "/a/open?team-a"] {
        let refused = client.get(path).await;
        assert_eq!(refused.status, 500, "{path}");
        assert!(refused.text().contains("NoSuchStore"), "{path}: {refused:?}");
    }
}

/// What a guest sees of its label `team-NAME`, below `/NAME`, and the error for a bucket that it may not open.
async fn is_the_name_of_a_bucket(client: &mut Client, name: &str, denied: &str) {
    let mut ask = async |target: String| client.get(&target).await.text().to_owned();
    assert_eq!(ask(format!("/{name}/set?,key={name}")).await, "set");
    for bucket in ["", "default"] {
        assert_eq!(ask(format!("/{name}/get?{bucket},key")).await, name);
        assert_eq!(ask(format!("/get?{bucket},key")).await, "(none)", "it is not the guest's own");
    }
    assert_eq!(ask(format!("/get?team-{name},key")).await, name, "it is the bucket of that name");
    assert_eq!(ask(format!("/{name}/set?sessions,key=2")).await, "set");
    assert_eq!(ask(format!("/get?team-{name}/sessions,key")).await, "2");
    for bucket in ["elsewhere", "labels"] {
        let told = ask(format!("/{name}/open?{bucket}")).await;
        assert!(told.contains(denied), "{name}: {told}");
    }
}

#[tokio::test]
async fn stores_of_every_shape_can_have_labels() {
    let buckets = "['default=labels', 'team-draft', 'team-draft/sessions', 'team-spin', 'team-spin/sessions']";
    let host = serve("memory:", buckets);
    let mut client = Client::connect(host.address).await;
    is_the_name_of_a_bucket(&mut client, "draft", "NoSuchStore").await;
    is_the_name_of_a_bucket(&mut client, "spin", "AccessDenied").await;
}

#[tokio::test]
async fn stores_of_wasmcloud_can_have_labels() {
    let dir = component_of("probe-labels-p3");
    let buckets = "['default=labels', 'team-a', 'team-a/sessions']";
    let config = format!("guest = 'probe.wasm'\nstore = 'memory:'\nbuckets = {buckets}\n");
    let host = Host::start_configured(dir, &config);
    let mut client = Client::connect(host.address).await;
    is_the_name_of_a_bucket(&mut client, "a", "NoSuchStore").await;
}

#[tokio::test]
async fn labels_are_names_of_buckets_on_memory() {
    labels_are_names_of_buckets("memory:").await;
}

#[tokio::test]
async fn labels_are_names_of_buckets_on_sqlite() {
    labels_are_names_of_buckets("sqlite:tally.db").await;
}

#[tokio::test]
async fn labels_are_names_of_buckets_on_redis() {
    let redis = Redis::start().unwrap();
    labels_are_names_of_buckets(&redis.url()).await;
    let held = ask(redis.port(), "GET sessions:key").unwrap();
    assert!(held.contains('2'), "as the configuration maps it: {held}");
}

#[tokio::test]
async fn labels_are_names_of_buckets_on_postgres() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    labels_are_names_of_buckets(&postgres.url()).await;
}

#[test]
fn check_names_the_interface_behind_a_label() {
    let dir = probe();
    let output = tally(dir.path()).args(["check", "probe.wasm"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("imports  team-a: wasi:keyvalue/store@0.2.0-draft2\n"), "{text}");

    let text = r#"(component
        (import "mine" (implements "wasi:keyvalue/atomics@0.2.0-draft2") (instance))
        (instance $e)
        (export "wasi:http/incoming-handler@0.2.0" (instance $e)))"#;
    std::fs::write(dir.path().join("other.wasm"), wat::parse_str(text).unwrap()).unwrap();
    let check = ["check", "--strict-imports", "other.wasm"];
    let output = tally(dir.path()).args(check).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("labels for stores alone"), "{text}");
}

/// Two guests of one host: one may open any bucket, and the other has buckets of its own.
fn serve_two(store: &str, dir: TempDir) -> Host {
    let config = format!(
        "store = '{store}'\n\
         [[route]]\nname = 'any'\nhost = 'any.test'\nguest = 'probe.wasm'\nbuckets = ['*']\n\
         [[route]]\nname = 'own'\nhost = 'own.test'\nguest = 'probe.wasm'\n\
         [[route]]\nname = 'apart'\nhost = 'apart.test'\nguest = 'probe.wasm'\nbuckets = ['*=apart/*']\n"
    );
    Host::start_configured(dir, &config)
}

async fn at(host: &Host, name: &str, target: &str) -> String {
    let mut client = Client::connect(host.address).await;
    let mut request = client.request(http::Method::GET, target);
    request.headers_mut().insert("host", name.parse().unwrap());
    client.try_send(request).await.unwrap().text().to_owned()
}

async fn any_bucket_can_be_opened(store: &str) {
    let host = serve_two(store, probe());
    for (bucket, value) in [("", "1"), ("x", "2"), ("team-b", "3"), ("a:b", "4")] {
        assert_eq!(at(&host, "any.test", &format!("/set?{bucket},key={value}")).await, "set");
        assert_eq!(at(&host, "any.test", &format!("/get?{bucket},key")).await, value);
    }
    assert_eq!(at(&host, "any.test", "/b/get?,key").await, "3", "a label's");
    // Neither the host's buckets nor those of other guests.
    assert!(at(&host, "own.test", "/set?,key=own").await.contains("set"));
    for denied in ["/open?tally.once", "/open?own", "/a/open?tally.x"] {
        let told = at(&host, "any.test", denied).await;
        let is_denied = told.contains("AccessDenied");
        assert!(is_denied || denied == "/a/open?tally.x" && told == "opened", "{denied}: {told}");
    }
    assert!(at(&host, "own.test", "/open?x").await.contains("NoSuchStore"));
    // A prefix keeps what a guest opens apart from what others do.
    assert_eq!(at(&host, "apart.test", "/get?x,key").await, "(none)");
    assert_eq!(at(&host, "apart.test", "/set?x,key=5").await, "set");
    assert_eq!(at(&host, "any.test", "/get?x,key").await, "2");
    assert_eq!(at(&host, "any.test", "/get?apart/x,key").await, "5", "the other sees all");

    let long = "b".repeat(256);
    assert!(at(&host, "any.test", &format!("/open?{long}")).await.contains("256 bytes"));
    assert!(at(&host, "any.test", "/open?a%00b").await.contains("NUL"));
    assert_eq!(at(&host, "any.test", "/open-many?100").await, "100");
    assert!(at(&host, "any.test", "/open-many?101").await.contains("may open 100 buckets"));
}

#[tokio::test]
async fn any_bucket_can_be_opened_on_memory() {
    any_bucket_can_be_opened("memory:").await;
}

#[tokio::test]
async fn any_bucket_can_be_opened_on_sqlite() {
    any_bucket_can_be_opened("sqlite:tally.db").await;
}

#[tokio::test]
async fn any_bucket_can_be_opened_on_redis() {
    let redis = Redis::start().unwrap();
    any_bucket_can_be_opened(&redis.url()).await;
}

#[tokio::test]
async fn any_bucket_can_be_opened_on_postgres() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    any_bucket_can_be_opened(&postgres.url()).await;
}

/// Names that guests choose leave nothing behind in the host's metrics.
#[tokio::test]
async fn names_that_a_guest_chooses_are_in_no_metric() {
    let host = serve("memory:", "['*']");
    let mut client = Client::connect(host.address).await;
    let lines = async || get(host.admin, "/metrics").await.text().lines().count();
    assert_eq!(client.get("/set?first,key=1").await.text(), "set");
    assert_eq!(client.get("/get?first,key").await.text(), "1");
    let before = lines().await;
    for number in 0..200 {
        assert_eq!(client.get(&format!("/set?many-{number},key=1")).await.text(), "set");
        assert_eq!(client.get(&format!("/get?many-{number},key")).await.text(), "1");
    }
    assert_eq!(lines().await, before);
    assert!(!get(host.admin, "/metrics").await.text().contains("many-"));
}

/// A request that reads where to write is answered from its stored response, whatever has changed since.
#[tokio::test]
async fn a_request_that_chooses_its_bucket_is_applied_once() {
    let host = serve("memory:", "['*']");
    let mut client = Client::connect(host.address).await;
    client.get("/set?x,where=a").await;
    let first = client.post_with_key("/read-then-set?x,where=1", "choose").await;
    assert_eq!(first.text(), "set in x-a");
    client.get("/set?x,where=b").await;
    let again = client.post_with_key("/read-then-set?x,where=1", "choose").await;
    assert_eq!(again.text(), "set in x-a");
    assert_eq!(client.get("/get?x-b,where").await.text(), "(none)", "nothing was written there");

    // One that has written before it reads.
    client.get("/set?y-other,key=before").await;
    let first = client.post_with_key("/set-then-get?y,key=1", "write").await;
    assert_eq!(first.text(), "before");
    client.get("/set?y-other,key=after").await;
    let again = client.post_with_key("/set-then-get?y,key=1", "write").await;
    assert_eq!(again.text(), "before");
}

#[test]
fn a_pattern_that_is_none_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let output = tally(Path::new(dir.path()))
        .args(["config", "--bucket", "*=all", "--store", "memory:"])
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("*=PREFIX*"), "{told}");
}
