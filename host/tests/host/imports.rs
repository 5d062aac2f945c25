//! Imports that this host does not offer: a guest that has them runs until it calls one.

use crate::{
    client::{Client, get, until_metrics_say},
    command_line::{fails_to_serve, run},
    host::{Host, guest},
};

/// Paths of the probe that call what is missing, and what the log says that it called.
const CALLS: [(&str, &str); 6] = [
    ("/count", "example:missing/things@1.0.0#count"),
    ("/thing?a", "example:missing/things@1.0.0#[constructor]thing"),
    // Its handle of a thing cannot be had.
    ("/wait?a", "example:missing/things@1.0.0#[constructor]thing"),
    ("/alone", "called alone, which"),
    ("/lucky", "wasi:random/random@0.2.40#get-lucky-number"),
    ("/log?a", "wasi:logging/logging@9.0.0#log"),
];

#[tokio::test]
async fn a_guest_runs_until_it_calls_what_is_missing() {
    let host = Host::start("probe-imports", "memory:", &["--log-every-failure"]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/hello").await.text(), "hello");
    assert!(client.get("/random").await.text().parse::<u64>().is_ok(), "of the same interface");
    for (path, called) in CALLS {
        let detail = client.get(path).await.problem(500, "trap");
        assert!(!detail.contains("example:"), "the client is not told of it: {detail}");
        host.wait_for_log(called);
    }
    assert_eq!(client.get("/hello").await.text(), "hello", "and goes on");
    let calls = CALLS.len();
    until_metrics_say(
        host.admin,
        &format!("tally_guest_traps_total{{guest=\"default\",kind=\"host\"}} {calls}"),
    )
    .await;
    // What this host has of an interface is said where another version is asked for.
    let log = host.log();
    assert!(log.contains("wasi:logging/logging, without a version or 0.1.0-draft"), "{log}");
    for missing in ["example:missing/more@1.0.0", "example:missing/things@1.0.0", "alone"] {
        let said = log.lines().find(|line| line.contains("the guest runs; calling")).unwrap();
        assert!(said.contains(missing) && said.contains("guest=default"), "{said}");
    }
    assert!(log.contains("calling wasi:random/random@0.2.40#get-lucky-number fails"), "{log}");
}

#[tokio::test]
async fn what_is_missing_of_one_guest_is_not_offered_to_another() {
    // The same imports with other types, and the same guest, which may not have them.
    let dir = tempfile::tempdir().unwrap();
    let other = r#"(component
        (import "wasi:http/types@0.2.0" (instance $types
            (export "incoming-request" (type (sub resource)))
            (export "response-outparam" (type (sub resource)))))
        (import "example:missing/things@1.0.0" (instance
            (export "thing" (func (param "a" string)))
            (export "inner" (instance (export "deep" (func))))))
        (alias export $types "incoming-request" (type $request))
        (alias export $types "response-outparam" (type $outparam))
        (core module $module (func (export "handle") (param i32 i32)))
        (core instance $instance (instantiate $module))
        (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
            (canon lift (core func $instance "handle")))
        (instance $handler (export "handle" (func $handle)))
        (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#;
    std::fs::write(dir.path().join("other.wasm"), wat::parse_str(other).unwrap()).unwrap();
    let probe = guest("probe-imports");
    let probe = probe.display();
    let host = Host::start_configured(
        dir,
        &format!(
            "store = \"memory:\"\n\
             [[route]]\nname = \"a\"\nprefix = \"/\"\nguest = \"{probe}\"\n\
             [[route]]\nname = \"b\"\nhost = \"b\"\nguest = \"other.wasm\"\n\
             [[route]]\nname = \"c\"\nhost = \"c\"\nguest = \"{probe}\"\nstrict-imports = true\n"
        ),
    );
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/hello").await.text(), "hello");
    let mut to = async |name: &str| {
        let mut request = client.request(http::Method::GET, "/hello");
        request.headers_mut().insert("host", name.parse().unwrap());
        client.try_send(request).await.unwrap()
    };
    // It runs, and answers nothing.
    to("b").await.problem(500, "invalid_response");
    to("c").await.problem(503, "guest_unavailable");
    let log = host.wait_for_log("needs what this host does not offer");
    assert!(log.contains("guest=\"c\""), "{log}");
}

#[tokio::test]
async fn strict_imports_refuse_such_a_guest_at_the_start_and_at_a_deploy() {
    let dir = tempfile::tempdir().unwrap();
    let probe = guest("probe-imports");
    let probe = probe.to_str().unwrap();
    let error = fails_to_serve(dir.path(), &["--store", "memory:", "--strict-imports", probe]);
    for part in ["example:missing/things@1.0.0", "wasi:logging/logging@9.0.0", "strict-imports"] {
        assert!(error.contains(part), "{error}");
    }
    std::fs::write(dir.path().join("tally.toml"), "strict-imports = true\n").unwrap();
    let error = fails_to_serve(dir.path(), &["--store", "memory:", probe]);
    assert!(error.contains("example:missing/things@1.0.0"), "{error}");

    let strict = Host::start_with("counter-http", |command| {
        command.args(["--store", "memory:"]).env("TALLY_STRICT_IMPORTS", "true");
    });
    let bytes = std::fs::read(probe).unwrap();
    let refused = strict.deploy("default", bytes.clone()).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("example:missing/things@1.0.0"), "{refused:?}");
    assert_eq!(get(strict.address, "/report").await.count(), 0, "the one before goes on");

    let host = Host::start("counter-http", "memory:", &[]);
    let deployed = host.deploy("default", bytes).await;
    let notes = deployed.json()["notes"].to_string();
    for part in ["calling", "example:missing/things@1.0.0", "random@0.2.40#get-lucky-number"] {
        assert!(notes.contains(part), "{notes}");
    }
    assert_eq!(get(host.address, "/hello").await.text(), "hello");
    host.wait_for_log("the guest runs; calling");
    let admin = format!("http://{}", host.admin);
    let output = run(host.dir(), &["deploy", probe, "--admin", &admin]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("the guest runs; calling example:missing/things@1.0.0"), "{text}");
}

#[test]
fn check_says_what_fails_and_what_would_help() {
    let dir = tempfile::tempdir().unwrap();
    let probe = guest("probe-imports");
    let probe = probe.to_str().unwrap();
    let output = run(dir.path(), &["check", probe]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "imports  example:missing/things@1.0.0   (runs; calling it fails: not offered by this host)",
        "imports  wasi:logging/logging@9.0.0   (runs; calling it fails: this host offers wasi:logging/logging, without",
        "imports  wasi:random/random@0.2.40#get-lucky-number   (runs; calling it fails",
        "This host can serve it; calling ",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let output = run(dir.path(), &["check", probe, "--strict-imports"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("cannot serve it: 4 of its imports are missing.\n"), "{text}");
}

#[test]
fn check_names_the_interface_behind_a_label() {
    let dir = tempfile::tempdir().unwrap();
    let labelled = r#"(component
        (import "team-a" (implements "wasi:config/store@0.2.0-rc.1") (instance))
        (import "team-b" (implements "example:missing/things@1.0.0") (instance
            (export "count" (func (result u32)))))
        (instance $handler)
        (export "tally:plugin/handler@0.1.0" (instance $handler)))"#;
    let path = dir.path().join("labelled.wasm");
    std::fs::write(&path, wat::parse_str(labelled).unwrap()).unwrap();
    let output = run(dir.path(), &["check", "--strict-imports", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |start: &str| {
        let found = text.lines().find(|line| line.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in\n{text}"))
    };
    assert!(line("imports  team-a: wasi:config/store@0.2.0-rc.1").contains("by its own name"));
    assert!(line("imports  team-b: example:missing/things@1.0.0").contains("not offered"));
}
