//! Requests of guests to other guests of their host, and what Spin tells a guest of its own.

use std::time::{Duration, Instant};

use http::Method;

use crate::{
    client::{Client, Response, get},
    host::{Host, guest},
};

/// A guest that clients reach at every path, and one that they do not reach.
fn host(of_front: &str) -> Host {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(guest("probe-http"), dir.path().join("probe.wasm")).unwrap();
    let config = format!(
        r#"
        store = "memory:"

        [[route]]
        name = "front"
        prefix = "/"
        guest = "probe.wasm"
        {of_front}

        [[route]]
        name = "Back"
        internal = true
        guest = "probe.wasm"
        env = {{ WHO = "back" }}
        "#
    );
    Host::start_configured(dir, &config)
}

async fn fetch(host: &Host, url: &str) -> String {
    get(host.address, &format!("/fetch?{url}")).await.text().to_owned()
}

#[tokio::test]
async fn guests_reach_each_other_by_name_where_the_configuration_says_so() {
    let host = host("outgoing-hosts = ['*.spin.internal']");
    assert_eq!(fetch(&host, "http://Back.spin.internal/hello").await, "200 Hello, World!");
    // Whatever the scheme, as nothing leaves the host.
    let authority = fetch(&host, "https://Back.spin.internal/authority").await;
    assert_eq!(authority, "200 Back.spin.internal");
    let large = fetch(&host, "http://Back.spin.internal/stream?1000").await;
    assert_eq!(large.len(), "200 ".len() + 1_000_000, "in parts");
    // There is no client whose address would be known.
    let client = fetch(&host, "http://Back.spin.internal/header?x-forwarded-for").await;
    assert_eq!(client, "200 (none)");
    let failed = fetch(&host, "http://Back.spin.internal/trap-before").await;
    assert!(failed.starts_with("500 ") && failed.contains("\"trap\""), "{failed}");
    let missing = fetch(&host, "http://nobody.spin.internal/").await;
    assert!(missing.contains("DestinationNotFound"), "{missing}");
    assert!(fetch(&host, "/hello").await.contains("HttpRequestDenied"), "a path is another matter");

    // Names are no hosts of clients'.
    let mut client = Client::connect(host.address).await;
    let mut request = client.request(Method::GET, "/env");
    request.headers_mut().insert("host", "Back.spin.internal".parse().unwrap());
    let answer = client.try_send(request).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.text()),
        (200, ""),
        "that of the guest at every path"
    );
    assert_eq!(fetch(&host, "http://Back.spin.internal/env").await, "200 WHO=back\n");
    assert!(host.banner.contains("(internal)  to probe.wasm"), "{}", host.banner);
}

#[tokio::test]
async fn a_path_alone_is_for_the_guests_own_host() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(guest("probe-http"), dir.path().join("probe.wasm")).unwrap();
    let config = "store = 'memory:'\n\
         [[route]]\nguest = 'probe.wasm'\nprefix = '/'\noutgoing-hosts = ['self']\nname = 'b'\n\
         [[route]]\nguest = 'probe.wasm'\nhost = 'c'\noutgoing-hosts = ['self']\nname = 'c'\n";
    let host = Host::start_configured(dir, config);
    for url in ["/authority", "http://self/authority", "http://self.alt/authority"] {
        assert_eq!(fetch(&host, url).await, "200 localhost");
    }
    let mut client = Client::connect(host.address).await;
    let mut request = client.request(Method::GET, "/fetch?/authority");
    request.headers_mut().insert("host", "c".parse().unwrap());
    assert_eq!(client.try_send(request).await.unwrap().text(), "200 c");
    let denied = fetch(&host, "http://c.spin.internal/hello").await;
    assert!(denied.contains("HttpRequestDenied"), "{denied}");
}

#[tokio::test]
async fn a_guest_that_asks_itself_without_end_is_stopped() {
    let host = host("outgoing-hosts = ['self']");
    let deep = get(host.address, "/ask-again").await;
    assert_eq!(deep.status, 200);
    assert!(deep.text().ends_with("ErrorCode::ConnectionLimitReached"), "{}", deep.text());
    assert_eq!(deep.text().matches("200 ").count(), 256);
    // And it can ask again.
    assert_eq!(fetch(&host, "/hello").await, "200 Hello, World!");
}

/// The metric of instances that a guest has at work.
async fn at_work(host: &Host, guest: &str) -> String {
    let name = format!("tally_pool_instances_in_use{{guest=\"{guest}\"}} ");
    let metrics = get(host.admin, "/metrics").await;
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name}: {}", metrics.text())).to_owned()
}

#[tokio::test]
async fn a_request_within_the_host_ends_with_the_one_that_it_is_for() {
    let host = host("outgoing-hosts = ['*.spin.internal']\nwall-limit = '500ms'");
    let late: Response = get(host.address, "/fetch?http://Back.spin.internal/sleep?60000").await;
    late.problem(504, "wall_limit");
    // It would have slept on until its own limit, which is ten seconds.
    let deadline = Instant::now() + Duration::from_secs(5);
    while at_work(&host, "Back").await != "0" {
        assert!(Instant::now() < deadline, "the guest that was asked still waits after 5 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn guests_of_spin_are_told_their_route() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["probe-http", "probe-spin-data"] {
        std::fs::copy(guest(name), dir.path().join(format!("{name}.wasm"))).unwrap();
    }
    let config = "store = 'memory:'\n\
        [[route]]\nguest = 'probe-http.wasm'\npath = '/:what'\nspin-headers = true\nname = 'told'\n\
        [[route]]\nguest = 'probe-http.wasm'\nhost = 'plain'\nname = 'plain'\n";
    let host = Host::start_configured(dir, config);
    for (name, value) in [
        ("spin-path-match-what", "header".to_owned()),
        ("spin-matched-route", "/:what".to_owned()),
        ("spin-path-info", String::new()),
        ("spin-full-url", format!("http://{}/header?spin-full-url", host.address)),
    ] {
        let answer = get(host.address, &format!("/header?{name}")).await;
        assert_eq!(answer.text(), value, "{name}");
    }
    let client = get(host.address, "/header?spin-client-addr").await;
    assert!(client.text().starts_with("127.0.0.1:"), "{client:?}");
    let mut client = Client::connect(host.address).await;
    for (to, told) in [("other", "header"), ("plain", "made-up")] {
        let mut request = client.request(Method::GET, "/header?spin-path-match-what");
        request.headers_mut().insert("host", to.parse().unwrap());
        request.headers_mut().insert("spin-path-match-what", "made-up".parse().unwrap());
        let answer = client.try_send(request).await.unwrap();
        assert_eq!(answer.text(), told, "a guest that is not told is shown what its client sent");
    }
    assert_eq!(get(host.address, "/a/b").await.status, 404, "a name is one segment");
}
