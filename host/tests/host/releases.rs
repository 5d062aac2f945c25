//! Releases in the store: one deployment for all hosts, seen from outside.

use std::{
    collections::HashMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tally_testkit::{Durability, Postgres, Redis};

use crate::{
    client::{Client, get},
    command_line::run,
    host::{Host, guest, tally},
    swapping::versioned,
};

/// Longest wait for what has to come.
const LIMIT: Duration = Duration::from_secs(60);

/// How many deployments there are, unless an environment variable says otherwise.
fn deployments(default: usize) -> usize {
    std::env::var("TALLY_DEPLOYMENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A token that all hosts of a test know.
const TOKEN: &str = "a-token-of-these-tests";

fn start(store: &str, flags: &[&str]) -> Host {
    Host::start_with("counter", |command| {
        command.args(["--store", store]).args(flags).env("TALLY_ADMIN_TOKEN", TOKEN);
    })
}

/// Runs a command about releases against one host. Gives whether it succeeded, and what it said.
fn ask(host: &Host, arguments: &[&str]) -> (bool, String, String) {
    let mut command: Command = tally(host.dir());
    command.args(arguments).args(["--admin", &format!("http://{}", host.admin)]);
    command.env("TALLY_ADMIN_TOKEN", TOKEN);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn ask_json(host: &Host, arguments: &[&str]) -> Value {
    let (done, out, error) = ask(host, &[arguments, &["--json"]].concat());
    assert!(done, "{arguments:?}: {out}{error}");
    serde_json::from_str(&out).unwrap()
}

/// Deploys the counter under a label; gives its version.
fn deploy(host: &Host, label: &str, arguments: &[&str]) -> Result<String, String> {
    let file = format!("{label}.wasm");
    std::fs::write(host.dir().join(&file), versioned("counter", label)).unwrap();
    let (done, out, error) = ask(host, &[&["deploy", &file, "--json"], arguments].concat());
    if !done {
        return Err(error);
    }
    let made: Value = serde_json::from_str(&out).unwrap();
    Ok(made["version"].as_str().unwrap().to_owned())
}

async fn version(host: &Host) -> String {
    let report = get(host.address, "/report").await;
    assert_eq!(report.status, 200, "{report:?}");
    report.json()["guest_version"].as_str().unwrap().to_owned()
}

async fn until_version(host: &Host, wanted: &str) {
    let enough = Instant::now() + LIMIT;
    loop {
        let now = version(host).await;
        if now == wanted {
            return;
        }
        assert!(Instant::now() < enough, "it stays at {now} and does not get to {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Clients of several hosts, which check each response: it is of a release that was current when it was asked for, or
/// of a later one.
struct Load {
    stop: Arc<AtomicBool>,
    /// The number of the last deployment that has returned.
    returned: Arc<AtomicU64>,
    /// Numbers of deployments by their versions, from before they begin.
    known: Arc<std::sync::Mutex<HashMap<String, u64>>>,
    clients: Vec<tokio::task::JoinHandle<u64>>,
}

impl Load {
    fn start(hosts: &[&Host]) -> Self {
        let (stop, returned) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let known = Arc::<std::sync::Mutex<HashMap<String, u64>>>::default();
        let clients = hosts.iter().flat_map(|host| [host.address; 2]).map(|address| {
            let (stop, returned, known) = (stop.clone(), returned.clone(), known.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut answered = 0;
                while !stop.load(Ordering::SeqCst) {
                    let current = returned.load(Ordering::SeqCst);
                    let report = client.get("/report").await;
                    assert_eq!(report.status, 200, "{report:?}");
                    let json = report.json();
                    let version = json["guest_version"].as_str().unwrap();
                    let number = known.lock().unwrap().get(version).copied().unwrap_or(0);
                    assert!(
                        number >= current,
                        "release {number} answered after the deployment of {current} had returned"
                    );
                    answered += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                answered
            })
        });
        let clients = clients.collect();
        Self { stop, returned, known, clients }
    }

    /// Deploys to one of the hosts while the clients go on.
    async fn deploy(&self, host: &Host, number: u64) -> String {
        let label = format!("n{number}");
        let bytes = versioned("counter", &label);
        let digest = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
        let expected: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        self.known.lock().unwrap().insert(expected.clone(), number);
        let version = tokio::task::block_in_place(|| deploy(host, &label, &[])).unwrap();
        assert_eq!(version, expected);
        self.returned.store(number, Ordering::SeqCst);
        version
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut answered = 0;
        for client in self.clients {
            answered += client.await.unwrap();
        }
        answered
    }
}

/// Three hosts of one store, deployed to in turn under load.
async fn three_hosts(store: &str) {
    let hosts = [start(store, &[]), start(store, &[]), start(store, &[])];
    let load = Load::start(&hosts.each_ref());
    let count = deployments(6) as u64;
    let mut slowest = Duration::ZERO;
    for number in 1..=count {
        let started = Instant::now();
        let version = load.deploy(&hosts[number as usize % 3], number).await;
        slowest = slowest.max(started.elapsed());
        for host in &hosts {
            assert_eq!(self::version(host).await, version);
        }
    }
    println!("the slowest of {count} deployments took {slowest:?}");
    assert!(load.stop().await > 100);
    for host in &hosts {
        let history = ask_json(host, &["history", "default", "--limit", "1000"]);
        let numbers: Vec<u64> = history
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["number"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers, (1..=count).rev().collect::<Vec<_>>());
        let guests = ask_json(host, &["ps"]);
        assert_eq!(guests[0]["release"], count);
        assert_eq!(guests[0]["here"]["release"], count);
        assert_eq!(guests[0]["supersedes"], true);
    }
    assert_eq!(ask_json(&hosts[0], &["hosts"]).as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hosts_of_one_redis_run_what_any_of_them_is_given() {
    let server = Redis::start().unwrap();
    three_hosts(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hosts_of_one_postgres_run_what_any_of_them_is_given() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    three_hosts(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_die_freeze_or_come_late_end_on_the_same_release() {
    let server = Redis::start().unwrap();
    let store = server.url();
    let (first, killed, frozen) = (start(&store, &[]), start(&store, &[]), start(&store, &[]));
    deploy(&first, "a", &[]).unwrap();
    killed.signal("KILL");
    frozen.signal("STOP");
    // It waits for both, until it is certain that neither answers by the one before.
    let started = Instant::now();
    let new = deploy(&first, "b", &[]).unwrap();
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    // Asked while it is frozen: the request waits for the process, and then for what it is to run.
    let address = frozen.address;
    let asked = tokio::spawn(async move { get(address, "/report").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    frozen.signal("CONT");
    let answer = tokio::time::timeout(LIMIT, asked).await.expect("it is answered").unwrap();
    assert_eq!(answer.json()["guest_version"], *new, "no answer is older");
    let late = start(&store, &[]);
    assert_eq!(version(&late).await, new);
    let newest = deploy(&late, "c", &[]).unwrap();
    for host in [&first, &frozen, &late] {
        assert_eq!(version(host).await, newest);
    }
    let hosts = ask_json(&first, &["hosts"]);
    assert_eq!(hosts.as_array().unwrap().len(), 3, "{hosts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_alone_that_is_killed_comes_back_with_release_and_history() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("tally.db").display());
    let host = start(&store, &[]);
    let of_file = version(&host).await;
    let first = deploy(&host, "a", &["--note", "the first"]).unwrap();
    let second = deploy(&host, "b", &[]).unwrap();
    host.signal("KILL");
    drop(host);
    let host = start(&store, &[]);
    assert_eq!(version(&host).await, second);
    let history = ask_json(&host, &["history", "default"]);
    assert_eq!((&history[1]["note"], &history[1]["who"]), (&"the first".into(), &"admin".into()));
    // The number of a release is that of its entry.
    let back = ask_json(&host, &["rollback", "default"]);
    assert_eq!((&back["release"], &back["number"]), (&1.into(), &3.into()));
    assert_eq!(version(&host).await, first);
    let (done, _, error) = ask(&host, &["rollback", "default", "--to", "9"]);
    assert!(
        !done && error.contains("release 9 of guest 'default' is not kept; there is 1, 2"),
        "{error}"
    );
    ask_json(&host, &["rollback", "default", "--to", "2"]);
    assert_eq!(version(&host).await, second);
    // The file says what runs where nothing is deployed.
    ask_json(&host, &["remove", "default"]);
    assert_eq!(version(&host).await, of_file);
    let (done, _, error) = ask(&host, &["remove", "default"]);
    assert!(!done && error.contains("as tally.toml has it"), "{error}");
    drop(host);
    assert_eq!(version(&start(&store, &[])).await, of_file);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_deployments_at_once_one_wins_and_the_other_is_told() {
    let server = Redis::start().unwrap();
    let hosts = [start(&server.url(), &[]), start(&server.url(), &[])];
    let (mut won, mut told) = (0, 0);
    for round in 0..3 {
        let results: Vec<_> = std::thread::scope(|scope| {
            let at_once = hosts.iter().enumerate().map(|(number, host)| {
                scope.spawn(move || deploy(host, &format!("r{round}n{number}"), &[]))
            });
            let at_once: Vec<_> = at_once.collect();
            at_once.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for result in &results {
            match result {
                Ok(_) => won += 1,
                Err(error) => {
                    assert!(error.contains("was changed meanwhile, by 'admin'"), "{error}");
                    told += 1;
                }
            }
        }
        assert!(results.iter().any(Result::is_ok), "{results:?}");
    }
    let history = ask_json(&hosts[0], &["history", "default"]);
    assert_eq!((history.as_array().unwrap().len(), won + told), (won, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_cannot_run_a_release_says_why_and_goes_on() {
    let server = Redis::start().unwrap();
    let able = Host::start_with("counter", |command| {
        command.args(["--store", &server.url()]).env("TALLY_ADMIN_TOKEN", TOKEN);
        command.env("OF_THIS_TEST", "a secret value");
    });
    let unable = start(&server.url(), &[]);
    let first = deploy(&able, "a", &[]).unwrap();
    let error = deploy(&able, "b", &["--env", "SECRET=${OF_THIS_TEST}"]).unwrap_err();
    for part in ["these hosts cannot run it", "no environment variable OF_THIS_TEST", "rollback"] {
        assert!(error.contains(part), "{error}");
    }
    assert_ne!(version(&able).await, first);
    assert_eq!(version(&unable).await, first, "it goes on");
    let ready = get(unable.admin, "/readyz?verbose").await.text().to_owned();
    assert!(ready.contains("release 2 of default: failed: "), "{ready}");
    let metrics = get(unable.admin, "/metrics").await.text().to_owned();
    assert!(metrics.contains("tally_releases_failed 1"), "{metrics}");
    let (_, shown, _) = ask(&able, &["ps"]);
    assert!(shown.contains("fails on 1 hosts") && shown.contains("OF_THIS_TEST"), "{shown}");
    // Nobody who reads the store reads the secret.
    let dump = tally_testkit::ask(server.port(), "GET tally.releases:log:2").unwrap();
    assert!(dump.contains("${OF_THIS_TEST}") && !dump.contains("a secret value"), "{dump}");
    // The one who is asked tries it first, and then nothing changes anywhere.
    let error = deploy(&unable, "c", &[]).unwrap_err();
    assert!(error.contains("no environment variable OF_THIS_TEST"), "{error}");
    assert_eq!(ask_json(&able, &["history", "default"]).as_array().unwrap().len(), 2);
    ask_json(&able, &["rollback", "default"]);
    assert_eq!((version(&able).await, version(&unable).await), (first.clone(), first));
    assert!(!get(unable.admin, "/readyz?verbose").await.text().contains("release 2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_come_and_go_with_their_routes_and_settings() {
    let server = Redis::start().unwrap();
    let empty = |flags: &[&str]| {
        Host::start_configured_with(tempfile::tempdir().unwrap(), "", |command| {
            command.args(["--store", &server.url(), "--start-empty"]).args(flags);
            command.env("TALLY_ADMIN_TOKEN", TOKEN);
        })
    };
    let hosts = [empty(&[]), empty(&[])];
    assert_eq!(get(hosts[0].address, "/report").await.status, 404);
    let error = deploy(&hosts[0], "a", &["--guest", "api"]).unwrap_err();
    assert!(
        error.contains("there is no guest named 'api'") && error.contains("--prefix"),
        "{error}"
    );
    let first = deploy(&hosts[0], "a", &["--guest", "api", "--prefix", "/"]).unwrap();
    for host in &hosts {
        assert_eq!(version(host).await, first);
    }
    let error = deploy(&hosts[1], "b", &["--guest", "other", "--prefix", "/"]).unwrap_err();
    assert!(error.contains("guest 'api' takes the same requests"), "{error}");
    std::fs::write(hosts[1].dir().join("settings.toml"), "pool = 3\npath = '/report'\n").unwrap();
    let second =
        deploy(&hosts[1], "b", &["--guest", "other", "--settings", "settings.toml"]).unwrap();
    for host in &hosts {
        assert_eq!(version(host).await, second, "the longer route");
    }
    // Settings stay with a guest until others are given.
    deploy(&hosts[0], "c", &["--guest", "other"]).unwrap();
    let shown = ask_json(&hosts[1], &["ps"]);
    let other = shown.as_array().unwrap().iter().find(|guest| guest["name"] == "other").unwrap();
    assert_eq!(other["settings"]["pool"], 3);
    assert_eq!(other["route"], "/report");
    ask_json(&hosts[0], &["remove", "other"]);
    for host in &hosts {
        assert_eq!(version(host).await, first);
    }
    let (done, _, error) = ask(&hosts[0], &["history", "nobody"]);
    assert!(!done && error.contains("there is no guest named 'nobody'"), "{error}");
    // One that starts later has what is left.
    let late = empty(&[]);
    assert_eq!(version(&late).await, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_go_on_while_the_store_is_away_and_follow_it_when_it_is_back() {
    let mut server = Redis::start().unwrap();
    let hosts = [start(&server.url(), &[]), start(&server.url(), &[])];
    deploy(&hosts[0], "a", &[]).unwrap();
    server.stop().unwrap();
    hosts[1].wait_for_log("goes on with what it has");
    // No state is to be had, but requests are not held up.
    let asked = tokio::time::timeout(LIMIT, get(hosts[1].address, "/report")).await.unwrap();
    assert_eq!(asked.status, 503, "{asked:?}");
    let error = deploy(&hosts[0], "b", &[]).unwrap_err();
    assert!(error.contains("store"), "{error}");
    server.restart().unwrap();
    let enough = Instant::now() + LIMIT;
    let newest = loop {
        match deploy(&hosts[0], "c", &[]) {
            Ok(version) => break version,
            Err(error) => assert!(Instant::now() < enough, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    until_version(&hosts[1], &newest).await;
}

#[tokio::test]
async fn nobody_reads_or_changes_releases_from_a_guest_or_by_hand() {
    let host = start("memory:", &[]);
    deploy(&host, "a", &[]).unwrap();
    for bucket in ["tally.releases", "default=tally.releases"] {
        let output = run(
            host.dir(),
            &[
                "serve",
                "--store",
                "memory:",
                "--bucket",
                bucket,
                guest("counter").to_str().unwrap(),
            ],
        );
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("are reserved"), "{error}");
    }
}

/// Checks a value against a schema of the description.
fn check_schema(description: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/components/schemas/").unwrap();
        return check_schema(
            description,
            &description["components"]["schemas"][name],
            value,
            place,
        );
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let chosen = choices.iter().find(|choice| (choice["type"] == "null") == value.is_null());
        return check_schema(description, chosen.expect("one fits"), value, place);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => vec![one.as_str().unwrap_or_else(|| panic!("{place}: {schema} has no type"))],
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(types.contains(&is), "{place}: {value} is none of {types:?}");
    if let Some(choices) = schema["enum"].as_array() {
        assert!(choices.contains(value), "{place}: {value} is none of {choices:?}");
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        check_schema(description, &schema["items"], item, &format!("{place}[{number}]"));
    }
    let (Some(object), Some(known)) = (value.as_object(), schema["properties"].as_object()) else {
        return;
    };
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(
            object.contains_key(required.as_str().unwrap()),
            "{place} has no {required}: {value}"
        );
    }
    for (key, value) in object {
        assert!(known.contains_key(key), "{place}.{key} is not described");
        check_schema(description, &known[key], value, &format!("{place}.{key}"));
    }
}

/// Each operation is asked for what it does and for what it refuses, and answers as it is described.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_served_is_what_the_description_says() {
    let host = start("memory:", &[]);
    deploy(&host, "a", &["--note", "n", "--env", "A=b"]).unwrap();
    deploy(&host, "b", &[]).unwrap();
    let description = get(host.admin, "/admin/v1/openapi.json").await.json();
    assert_eq!(description["openapi"], "3.1.0");
    let wasm = versioned("counter", "c");
    let ask = async |method: &str, path: &str, body: Vec<u8>| {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", host.admin.to_string())
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(http_body_util::Full::from(body))
            .unwrap();
        Client::connect(host.admin).await.try_send(request).await.unwrap()
    };
    let uploaded = ask("POST", "/admin/v1/components", wasm.clone()).await.json();
    let text = |value: Value| value.to_string().into_bytes();
    let release = |base: u64| {
        text(serde_json::json!({"component": uploaded, "base": base, "settings": {"pool": 4}}))
    };
    let cases: Vec<(&str, &str, &str, Vec<u8>, u16)> = vec![
        ("describe", "get", "/admin/v1/openapi.json", vec![], 200),
        ("guests", "get", "/admin/v1/guests", vec![], 200),
        ("guest", "get", "/admin/v1/guests/default", vec![], 200),
        ("guest", "get", "/admin/v1/guests/nobody", vec![], 404),
        ("history", "get", "/admin/v1/guests/default/history?limit=1", vec![], 200),
        ("history", "get", "/admin/v1/guests/default/history?limit=x", vec![], 400),
        ("history", "get", "/admin/v1/guests/nobody/history", vec![], 404),
        ("hosts", "get", "/admin/v1/hosts", vec![], 200),
        ("rollout", "get", "/admin/v1/rollouts/2", vec![], 200),
        ("rollout", "get", "/admin/v1/rollouts/99", vec![], 404),
        ("rollout", "get", "/admin/v1/rollouts/x", vec![], 400),
        ("upload", "post", "/admin/v1/components", wasm.clone(), 201),
        ("upload", "post", "/admin/v1/components", vec![0; 66 << 20], 413),
        ("deploy", "post", "/admin/v1/guests/default/releases", release(0), 409),
        ("deploy", "post", "/admin/v1/guests/default/releases", release(2), 200),
        ("deploy", "post", "/admin/v1/guests/nobody/releases", release(0), 404),
        ("deploy", "post", "/admin/v1/guests/default/releases", b"{}".to_vec(), 400),
        ("deploy", "post", "/admin/v1/guests/default/releases", vec![b' '; 300 << 10], 413),
        (
            "rollBack",
            "post",
            "/admin/v1/guests/default/rollback",
            text(serde_json::json!({"to": 1})),
            200,
        ),
        (
            "rollBack",
            "post",
            "/admin/v1/guests/default/rollback",
            text(serde_json::json!({"to": 9})),
            422,
        ),
        (
            "rollBack",
            "post",
            "/admin/v1/guests/default/rollback",
            text(serde_json::json!({"two": 9})),
            400,
        ),
        ("remove", "delete", "/admin/v1/guests/default", vec![], 200),
        ("remove", "delete", "/admin/v1/guests/default", vec![], 422),
        ("remove", "delete", "/admin/v1/guests/nobody", vec![], 404),
    ];
    let mut asked = std::collections::BTreeSet::new();
    for (operation, method, path, body, status) in cases {
        let response = ask(&method.to_uppercase(), path, body).await;
        assert_eq!(response.status, status, "{method} {path}: {response:?}");
        let paths = description["paths"].as_object().unwrap();
        let found = paths.values().find(|path| path[method]["operationId"] == operation);
        let found = &found.unwrap_or_else(|| panic!("{operation} is not described"))[method];
        let described = &found["responses"][status.to_string()]["content"];
        let kind = response.headers["content-type"].to_str().unwrap();
        let schema = &described[kind]["schema"];
        assert!(!schema.is_null(), "{operation} {status} {kind} is not described");
        check_schema(&description, schema, &response.json(), operation);
        asked.insert(operation);
    }
    let described: std::collections::BTreeSet<&str> = description["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap().values())
        .filter_map(|operation| operation["operationId"].as_str())
        .collect();
    assert_eq!(asked, described, "each operation that is described is asked for");
    // And nothing without the token.
    for (method, path) in [
        ("POST", "/admin/v1/components"),
        ("POST", "/admin/v1/guests/default/releases"),
        ("POST", "/admin/v1/guests/default/rollback"),
        ("DELETE", "/admin/v1/guests/default"),
    ] {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", host.admin.to_string())
            .body(http_body_util::Full::from(Vec::new()))
            .unwrap();
        let response = Client::connect(host.admin).await.try_send(request).await.unwrap();
        assert_eq!(response.status, 401, "{method} {path}");
    }
}

/// Components that are broken in some place: none is served in part, and none ends the host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_components_are_run_or_refused_as_a_whole() {
    let server = Redis::start().unwrap();
    let hosts = [start(&server.url(), &[]), start(&server.url(), &[])];
    let count = deployments(6) * 4;
    let mut random = fastrand::Rng::with_seed(7);
    let mut current = deploy(&hosts[0], "good", &[]).unwrap();
    let mut refused = 0;
    for number in 0..count {
        let mut bytes = versioned("counter", &format!("m{number}"));
        for _ in 0..random.usize(1..8) {
            let place = random.usize(..bytes.len());
            bytes[place] = random.u8(..);
        }
        std::fs::write(hosts[0].dir().join("mutated.wasm"), &bytes).unwrap();
        let (done, out, error) = ask(&hosts[0], &["deploy", "mutated.wasm"]);
        if done {
            // It can be instantiated, and may do whatever it does.
            current = deploy(&hosts[1], &format!("good{number}"), &[]).unwrap();
        } else {
            refused += 1;
            assert!(error.contains("guest") && !error.contains("these hosts"), "{out}{error}");
        }
        assert_eq!(version(&hosts[1]).await, current);
    }
    assert!(refused > 0);
    for host in &hosts {
        assert_eq!(version(host).await, current);
    }
}

/// Also with a database whose tables it cannot make then: it was there before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_starts_with_what_it_ran_while_the_store_is_away() {
    let (mut redis, mut postgres) =
        (Redis::start().unwrap(), Postgres::start(Durability::Unsynced).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let start = |url: &str, flags: &[&str]| {
        Host::start_with("counter-http", |command| {
            command.args(["--store", url, "--store-wait", "100ms"]).args(flags);
            command.env("TALLY_ADMIN_TOKEN", TOKEN).env("TALLY_RELEASES_DIR", dir.path());
        })
    };
    let urls = [redis.url(), postgres.url()];
    let mut versions = Vec::new();
    for url in &urls {
        let host = start(url, &[]);
        versions.push(deploy(&host, "a", &[]).unwrap());
        // Written a moment after the release runs.
        let enough = Instant::now() + LIMIT;
        while !std::fs::read_dir(dir.path())
            .unwrap()
            .any(|folder| folder.unwrap().path().join("running.json").exists())
        {
            assert!(Instant::now() < enough, "what runs is not kept");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        host.signal("KILL");
    }
    redis.stop().unwrap();
    postgres.stop().unwrap();
    let hosts = [start(&urls[0], &[]), start(&urls[1], &[])];
    for (host, version) in hosts.iter().zip(&versions) {
        host.wait_for_log("begins with the releases that it ran last");
        let guests = get(host.admin, "/guests").await.json();
        assert_eq!(guests[0]["version"], **version);
        assert_eq!(get(host.address, "/report").await.status, 503, "without state");
    }
    redis.restart().unwrap();
    postgres.restart().unwrap();
    for host in &hosts {
        let enough = Instant::now() + LIMIT;
        let newest = loop {
            match deploy(host, "b", &[]) {
                Ok(version) => break version,
                Err(error) => assert!(Instant::now() < enough, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        until_version(host, &newest).await;
    }
}

/// Guests that were deployed long ago cost little until they are asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_starts_with_ten_thousand_guests_and_follows_a_change_of_one() {
    const GUESTS: u64 = 10_000;
    let server = Redis::start().unwrap();
    let flags = ["--store", &server.url(), "--start-empty"];
    let empty = || {
        Host::start_configured_with(tempfile::tempdir().unwrap(), "", |command| {
            command.args(flags).env("TALLY_ADMIN_TOKEN", TOKEN);
        })
    };
    let mut first = empty();
    deploy(&first, "a", &["--guest", "g0", "--host", "g0.example"]).unwrap();
    first.signal("TERM");
    assert!(first.wait().success());
    // As if each had been deployed as that one was.
    let metrics = tally_state::Metrics::register(&prometheus::Registry::new()).unwrap();
    let state = tally_state::State::open(&server.url(), Default::default(), metrics).await.unwrap();
    let (handle, bucket) = (state.worker(), tally_state::Bucket::new("tally.releases").unwrap());
    let head = handle.get(&bucket, "guest:g0").await.unwrap().unwrap();
    let mut head: Value = serde_json::from_slice(&head).unwrap();
    let (mut heads, mut names) = (Vec::new(), HashMap::<u8, Vec<String>>::new());
    for number in 0..GUESTS {
        let name = format!("g{number}");
        head["release"]["settings"]["host"] = format!("{name}.example").into();
        head["revision"] = (number + 1).into();
        heads.push((format!("guest:{name}"), head.to_string().into()));
        let digest = <sha2::Sha256 as sha2::Digest>::digest(name.as_bytes());
        names.entry(digest[0] % 64).or_default().push(name);
    }
    for heads in heads.chunks(500) {
        handle.set_many(&bucket, heads.to_vec()).await.unwrap();
    }
    for (part, names) in names {
        let names = serde_json::to_vec(&names).unwrap();
        handle.set(&bucket, &format!("names:{part}"), names.into()).await.unwrap();
    }
    let revision = GUESTS.to_string().into();
    handle.set(&bucket, "revision", revision).await.unwrap();

    let started = Instant::now();
    let hosts = [empty(), empty()];
    let took = started.elapsed() / 2;
    let version_of = async |host: &Host, name: &str| {
        let request = http::Request::get("/report")
            .header("host", format!("{name}.example"))
            .body(http_body_util::Full::default())
            .unwrap();
        let response = Client::connect(host.address).await.try_send(request).await.unwrap();
        assert_eq!(response.status, 200, "{response:?}");
        response.json()["guest_version"].as_str().unwrap().to_owned()
    };
    let old = version_of(&hosts[1], "g777").await;
    let started = Instant::now();
    let new = deploy(&hosts[0], "b", &["--guest", "g777"]).unwrap();
    println!("a start took {took:?}, a change of one {:?}", started.elapsed());
    assert_ne!(old, new);
    for host in &hosts {
        assert_eq!(version_of(host, "g777").await, new);
        assert_eq!(version_of(host, "g778").await, old);
        let metrics = get(host.admin, "/metrics").await.text().to_owned();
        let loaded = metrics.lines().find_map(|line| line.strip_prefix("tally_loaded_guests "));
        let loaded: u64 = loaded.unwrap().parse().unwrap();
        assert!(loaded < 100, "{loaded} are loaded, of which few were asked for");
    }
}
