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
        let numbers: Vec<u64> =
            history.as_array().unwrap().iter().map(|entry| entry["number"].as_u64().unwrap()).collect();
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
    assert!(!done && error.contains("release 9 of guest 'default' is not kept; there is 1, 2"), "{error}");
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
    assert!(error.contains("there is no guest named 'api'") && error.contains("--prefix"), "{error}");
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
    let mut server = Redis::start_with(&["appendonly yes"]).unwrap();
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
            &["serve", "--store", "memory:", "--bucket", bucket, guest("counter").to_str().unwrap()],
        );
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("are reserved"), "{error}");
    }
}
