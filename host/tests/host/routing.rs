//! Several guests at once: routes, and what each guest has for itself.

use http::Method;
use tally_testkit::{Durability, Postgres, Redis};

use crate::{
    client::{Client, get, post, raw},
    command_line::run,
    host::{Host, guest},
};

/// A folder with guests, and a configuration that names them.
fn host(config: &str) -> Host {
    let dir = tempfile::tempdir().unwrap();
    for name in ["counter", "probe", "probe-draft2"] {
        std::fs::copy(guest(name), dir.path().join(format!("{name}.wasm"))).unwrap();
    }
    Host::start_configured(dir, config)
}

#[tokio::test]
async fn the_most_specific_route_answers() {
    let host = host(
        r#"
        store = "memory:"
        guest = "counter.wasm"

        [[route]]
        prefix = "/static"
        guest = "probe.wasm"

        [[route]]
        name = "by host"
        host = "Probe.Example"
        guest = "probe.wasm"
        "#,
    );
    // The probe answers /static with its counter, and knows no /report.
    assert_eq!(get(host.address, "/static").await.text(), "1");
    assert_eq!(get(host.address, "/report").await.count(), 0);
    assert_eq!(get(host.address, "/statics").await.status, 404);
    let mut client = Client::connect(host.address).await;
    let mut request = client.request(Method::GET, "/header?host");
    request.headers_mut().insert("host", "probe.example:8080".parse().unwrap());
    assert_eq!(client.try_send(request).await.unwrap().text(), "probe.example:8080");
    // The target's authority counts before the header, for routes as for guests.
    let answer = raw(
        host.address,
        b"GET http://probe.example/header?host HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.ends_with("probe.example"), "{answer}");
    let mut http2 = Client::connect_http2(host.address).await;
    let mut request = http2.request(Method::GET, "/header?host");
    request.headers_mut().insert("host", "probe.example".parse().unwrap());
    http2.try_send(request).await.unwrap().problem(400, "host");
    for part in ["route    probe.example/*  to probe.wasm", "route    /*  to counter.wasm"] {
        assert!(host.banner.contains(part), "{}", host.banner);
    }
    let metrics = get(host.admin, "/metrics").await;
    for guest in ["default", "probe", "by host"] {
        assert!(metrics.text().contains(&format!("tally_pool_instances{{guest=\"{guest}\"}}")));
    }
}

#[tokio::test]
async fn what_no_route_takes_is_404() {
    let host = host("store = 'memory:'\n[[route]]\npath = '/report'\nguest = 'counter.wasm'\n");
    assert_eq!(get(host.address, "/report").await.count(), 0);
    for path in ["/", "/report/", "/increment"] {
        get(host.address, path).await.problem(404, "no_route");
    }
}

#[tokio::test]
async fn buckets_meet_only_where_they_are_configured_to() {
    let host = host(
        r#"
        store = "memory:"

        [[route]]
        host = "a"
        guest = "counter.wasm"

        [[route]]
        name = "b"
        host = "b"
        guest = "counter.wasm"

        [[route]]
        host = "c"
        name = "c"
        guest = "counter.wasm"
        buckets = ["default=b"]

        [[route]]
        host = "p"
        guest = "probe.wasm"
        buckets = ["default", "own"]

        [[route]]
        name = "q"
        host = "q"
        guest = "probe.wasm"
        buckets = ["theirs"]
        "#,
    );
    let mut client = Client::connect(host.address).await;
    let mut ask = async |method: Method, host: &str, path: &str| {
        let mut request = client.request(method, path);
        request.headers_mut().insert("host", host.parse().unwrap());
        client.try_send(request).await.unwrap()
    };
    assert_eq!(ask(Method::POST, "a", "/increment").await.count(), 1);
    assert_eq!(ask(Method::POST, "b", "/increment").await.count(), 1, "not a's");
    assert_eq!(ask(Method::POST, "c", "/increment").await.count(), 2, "b's, as configured");
    assert_eq!(ask(Method::POST, "a", "/increment").await.count(), 2);
    for (host, bucket, seen) in [
        ("p", "own", "Ok(\"opened\")"),
        ("p", "theirs", "Err(Error::AccessDenied)"),
        ("p", "nobodys", "Err(Error::NoSuchStore)"),
        ("q", "own", "Err(Error::AccessDenied)"),
        ("q", "default", "Err(Error::AccessDenied)"),
    ] {
        let answer = ask(Method::GET, host, &format!("/open?{bucket}")).await;
        assert_eq!(answer.text(), seen, "{host} {bucket}");
    }
}

/// Buckets and keys that would be one in the store if their names were just put together.
async fn names_never_run_together(store: &str) {
    let host = host(&format!(
        r#"
        store = "{store}"

        [[route]]
        host = "a"
        guest = "probe.wasm"
        buckets = ["default=x"]

        [[route]]
        name = "b"
        host = "b"
        guest = "probe.wasm"
        buckets = ["default=x:y"]

        [[route]]
        name = "c"
        host = "c"
        guest = "probe.wasm"
        buckets = ["default=x%3Ay"]

        [[route]]
        name = "d"
        host = "d"
        guest = "probe.wasm"
        buckets = ["default=x/*"]
        "#
    ));
    let mut client = Client::connect(host.address).await;
    let mut ask = async |host: &str, path: &str| {
        let mut request = client.request(Method::GET, path);
        request.headers_mut().insert("host", host.parse().unwrap());
        client.try_send(request).await.unwrap().text().to_owned()
    };
    let keys = ["k", "y:k", "y%3Ak", ":k", "/*k", "*:k"];
    for bucket in ["a", "b", "c", "d"] {
        for key in keys {
            assert_eq!(ask(bucket, &format!("/add?{key}")).await, "1", "{bucket} {key}");
        }
    }
    for bucket in ["a", "b", "c", "d"] {
        let mut listed: Vec<String> =
            ask(bucket, "/list").await.split(',').map(str::to_owned).collect();
        listed.sort_unstable();
        let mut all = keys.map(str::to_owned);
        all.sort_unstable();
        assert_eq!(listed, all, "{bucket}");
    }
}

#[tokio::test]
async fn names_never_run_together_in_memory() {
    names_never_run_together("memory:").await;
}

#[tokio::test]
async fn names_never_run_together_in_sqlite() {
    names_never_run_together("sqlite:tally.db").await;
}

#[tokio::test]
async fn names_never_run_together_in_redis() {
    let redis = Redis::start().unwrap();
    names_never_run_together(&redis.url()).await;
}

#[tokio::test]
async fn names_never_run_together_in_postgres() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    names_never_run_together(&postgres.url()).await;
}

#[tokio::test]
async fn each_route_has_limits_settings_and_environment_of_its_own() {
    let host = host(
        r#"
        store = "memory:"
        cpu-limit = "1h"

        [[route]]
        prefix = "/loop"
        guest = "probe.wasm"
        cpu-limit = "20ms"
        pool = 2

        [[route]]
        host = "settings"
        guest = "probe-draft2.wasm"
        settings = { greeting = "hello", other = "x" }

        [[route]]
        name = "without settings"
        host = "none"
        guest = "probe-draft2.wasm"
        "#,
    );
    get(host.address, "/loop").await.problem(504, "cpu_limit");
    let metrics = get(host.admin, "/metrics").await;
    assert!(metrics.text().contains("tally_pool_instances{guest=\"probe\"} 2"));
    let mut client = Client::connect(host.address).await;
    for (name, greeting) in [("settings", "hello"), ("none", "(none)")] {
        let mut request = client.request(Method::GET, "/config?greeting");
        request.headers_mut().insert("host", name.parse().unwrap());
        assert_eq!(client.try_send(request).await.unwrap().text(), greeting);
    }
}

#[test]
fn routes_that_cannot_be_served_are_explained_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(guest("counter"), dir.path().join("counter.wasm")).unwrap();
    for (config, part) in [
        (
            "[[route]]\nprefix = '/a'\nguest = 'missing.wasm'\n",
            "cannot read the guest missing.wasm",
        ),
        ("[route]\nprefix = '/a'\nguest = 'counter.wasm'\n", "write [[route]]"),
        ("[[route]]\nprefx = '/a'\nguest = 'counter.wasm'\n", "the nearest known one is 'prefix'"),
        ("[[route]]\nprefix = '/a'\n", "guest"),
        (
            "guest = 'counter.wasm'\n[[route]]\nprefix = '/'\nguest = 'counter.wasm'\n",
            "two routes take the same requests",
        ),
    ] {
        std::fs::write(dir.path().join("tally.toml"), format!("store = 'memory:'\n{config}"))
            .unwrap();
        let output =
            run(dir.path(), &["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(part), "{config}: {error}");
    }
}

#[tokio::test]
async fn a_route_is_deployed_to_by_its_name() {
    let host = host(
        r#"
        store = "memory:"

        [[route]]
        name = "api"
        prefix = "/"
        guest = "counter.wasm"

        [[route]]
        path = "/static"
        guest = "probe.wasm"
        "#,
    );
    let admin = format!("http://{}", host.admin);
    let deploy = |route: &[&str]| {
        let arguments = [&["deploy", "probe.wasm", "--admin", &admin], route].concat();
        let output = run(host.dir(), &arguments);
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    assert!(deploy(&[]).contains("choose one with --guest: probe, api"), "{}", deploy(&[]));
    assert!(deploy(&["--route", "probe"]).contains("deployed"));
    assert_eq!(post(host.address, "/increment").await.count(), 1, "the other is as it was");
    assert!(deploy(&["--route", "api"]).contains("deployed"));
    assert_eq!(get(host.address, "/exists?count").await.text(), "true", "in the same bucket");
    let guests = get(host.admin, "/guests").await.json();
    assert_eq!(guests[0]["version"], guests[1]["version"]);
}
