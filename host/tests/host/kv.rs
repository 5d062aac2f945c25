//! `tally kv`, on an SQLite file and on Redis.

mod buckets;
mod windows;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tally_state::{Bucket, Metrics, Options, State};
use tally_testkit::{Durability, Postgres, Redis, free_port};
use tempfile::TempDir;

use crate::{
    client::{get, post},
    command_line::run,
    host::{Host, tally},
};

/// A store, and a folder to run commands in.
struct Store {
    dir: TempDir,
    url: String,
    /// Runs for as long as it is used.
    redis: Option<Redis>,
}

impl Store {
    /// An SQLite file that does not exist yet.
    fn sqlite() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), url: "sqlite:kv.db".into(), redis: None }
    }

    fn redis() -> Self {
        let redis = Redis::start().unwrap();
        Self { dir: tempfile::tempdir().unwrap(), url: redis.url(), redis: Some(redis) }
    }

    fn both() -> [Self; 2] {
        [Self::sqlite(), Self::redis()]
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(self.dir.path(), &[&["kv", "--store", &self.url], arguments].concat())
    }

    /// Runs a command that must succeed and complain of nothing; gives the bytes it printed.
    #[track_caller]
    fn bytes(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
        output.stdout
    }

    /// As [`Store::bytes`]; gives text.
    #[track_caller]
    fn text(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.bytes(arguments)).unwrap()
    }

    /// As [`Store::bytes`]; gives the JSON documents.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.text(&[arguments, &["--json"]].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs a command that must fail; gives its standard output, and what it says is wrong.
    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> (String, String) {
        failed(&self.run(arguments))
    }

    /// Runs a command that reads these bytes.
    fn reading(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = tally(self.dir.path());
        command.args(["kv", "--store", &self.url]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that has read enough may have closed it.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Puts many keys into the bucket `many`, in some other way.
    async fn fill(&self, keys: &[String]) {
        let url = match self.url.strip_prefix("sqlite:") {
            Some(path) => format!("sqlite:{}", self.dir.path().join(path).display()),
            None => self.url.clone(),
        };
        let state = State::open(&url, Options::default(), Metrics::default()).await.unwrap();
        let bucket = Bucket::new("many").unwrap();
        for some in keys.chunks(1_000) {
            let values = some.iter().map(|key| (key.clone(), "value".into())).collect();
            state.worker().set_many(&bucket, values).await.unwrap();
        }
    }
}

#[track_caller]
fn failed(output: &Output) -> (String, String) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    let parts: Vec<&str> = error.trim().split(": ").collect();
    assert!(parts.windows(2).all(|pair| pair[0] != pair[1]), "it says one thing twice: {error}");
    (text(&output.stdout), error)
}

#[test]
fn values_are_set_read_and_deleted() {
    for store in Store::both() {
        assert_eq!(store.text(&["set", "a", "some text"]), "");
        assert_eq!(store.text(&["get", "a"]), "some text", "without a newline of ours");
        assert_eq!(store.text(&["set", "a", "-5"]), "", "is no flag");
        assert_eq!(store.text(&["get", "a"]), "-5");
        store.text(&["set", "b", ""]);
        assert_eq!(store.text(&["get", "b"]), "");

        let (_, error) = store.fails(&["set", "a", "other", "--if-absent"]);
        assert!(error.contains("not set: key 'a' in the bucket 'default' exists"), "{error}");
        assert_eq!(store.text(&["get", "a"]), "-5");
        store.text(&["set", "c", "first", "--if-absent"]);
        assert_eq!(store.text(&["get", "c"]), "first");

        let (output, error) = store.fails(&["get", "a", "--bucket", "other"]);
        assert_eq!(output, "");
        assert!(error.contains("there is no key 'a': there is no bucket 'other'"), "{error}");
        let (output, error) = store.fails(&["get", "b2"]);
        assert_eq!(output, "");
        assert!(error.contains("there is no key 'b2' in the bucket 'default'"), "{error}");

        assert_eq!(store.text(&["delete", "a", "b", "never-was"]), "");
        store.fails(&["get", "a"]);
        store.fails(&["get", "b"]);
        assert_eq!(store.text(&["get", "c"]), "first");
    }
}

#[test]
fn any_bytes_go_in_and_come_out() {
    for store in Store::both() {
        let all: Vec<u8> = (0..=255).collect();
        let output = store.reading(&["set", "bytes", "-"], &all);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(store.bytes(&["get", "bytes"]), all);
        let value = &store.json(&["get", "bytes"])[0];
        assert_eq!(value["encoding"], "base64");
        assert!(value["value"].as_str().unwrap().starts_with("AAECAwQF"), "{value}");

        // As much as fits, and a byte more.
        let mut large = vec![b'x'; 1 << 20];
        assert!(store.reading(&["set", "large", "-"], &large).status.success());
        assert_eq!(store.bytes(&["get", "large"]).len(), 1 << 20);
        large.push(b'x');
        let (_, error) = failed(&store.reading(&["set", "larger", "-"], &large));
        assert!(error.contains("more than the 1048576 bytes"), "{error}");
        store.fails(&["get", "larger"]);
    }
}

#[test]
fn numbers_are_added_within_bounds() {
    for store in Store::both() {
        assert_eq!(store.text(&["incr", "n"]), "1\n");
        assert_eq!(store.text(&["incr", "n", "--by", "5"]), "6\n");
        assert_eq!(store.text(&["incr", "n", "--by", "-4"]), "2\n");
        assert_eq!(store.text(&["incr", "n", "--max", "3"]), "3\n");
        let (output, error) = store.fails(&["incr", "n", "--max", "3"]);
        assert_eq!(output, "");
        assert!(error.contains("nothing was changed") && error.contains("is 3"), "{error}");
        store.fails(&["incr", "n", "--by", "-9", "--min", "-5", "--max", "5"]);
        assert_eq!(store.text(&["incr", "n", "--by", "-8", "--min", "-5"]), "-5\n");

        assert_eq!(
            store.json(&["incr", "n"]),
            [json!({"bucket": "default", "key": "n", "count": -4, "applied": true})]
        );
        let (output, _) = store.fails(&["incr", "n", "--max", "-4", "--json"]);
        let refused: Value = serde_json::from_str(&output).unwrap();
        assert_eq!(refused["applied"], false);
        assert_eq!(refused["count"], -4);

        store.text(&["set", "most", &i64::MAX.to_string()]);
        let (_, error) = store.fails(&["incr", "most"]);
        assert!(error.contains("nothing was changed"), "{error}");
        assert_eq!(store.text(&["get", "most"]), i64::MAX.to_string());

        store.text(&["set", "text", "abc"]);
        let (_, error) = store.fails(&["incr", "text"]);
        assert!(error.contains("not a whole number"), "{error}");
    }
}

#[test]
fn keys_live_as_long_as_they_are_told() {
    for store in Store::both() {
        store.text(&["set", "k", "v", "--ttl", "10m"]);
        let left = store.text(&["ttl", "k"]);
        assert!(left.starts_with("9m 5") || left.starts_with("10m"), "{left}");
        let left = store.json(&["ttl", "k"])[0]["ttl"].as_u64().unwrap();
        assert!((500_000..=600_000).contains(&left), "{left}");
        let left = store.json(&["get", "k"])[0]["ttl"].as_u64().unwrap();
        assert!((500_000..=600_000).contains(&left), "{left}");

        assert_eq!(store.text(&["ttl", "k", "--persist"]), "");
        assert_eq!(store.text(&["ttl", "k"]), "unlimited\n");
        assert_eq!(store.json(&["get", "k"])[0]["ttl"], Value::Null);

        store.text(&["ttl", "k", "--set", "50ms"]);
        std::thread::sleep(Duration::from_millis(100));
        let (_, error) = store.fails(&["get", "k"]);
        assert!(error.contains("no key 'k'"), "{error}");
        for flags in [&[][..], &["--set", "1m"], &["--persist"]] {
            let (output, error) = store.fails(&[&["ttl", "k", "--json"], flags].concat());
            let missing = json!({"bucket": "default", "key": "k", "exists": false, "ttl": null});
            assert_eq!(serde_json::from_str::<Value>(&output).unwrap(), missing);
            assert!(error.contains("no key 'k'"), "{error}");
        }
        let (_, error) = store.fails(&["set", "k", "v", "--ttl", "0s"]);
        assert!(error.contains("at least one millisecond"), "{error}");
    }
}

#[test]
fn json_has_one_document_for_each_command() {
    for store in Store::both() {
        let key = |rest: Value| {
            let mut all = json!({"bucket": "b", "key": "k"});
            all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            vec![all]
        };
        let bucket = ["--bucket", "b"];
        let json = |arguments: &[&str]| store.json(&[arguments, &bucket].concat());
        assert_eq!(json(&["set", "k", "42"]), key(json!({"set": true})));
        assert_eq!(
            json(&["get", "k"]),
            key(json!({"value": "42", "encoding": "utf-8", "ttl": null}))
        );
        assert_eq!(json(&["ttl", "k", "--set", "2s"]), key(json!({"exists": true, "ttl": 2_000})));
        assert_eq!(json(&["ttl", "k", "--persist"]), key(json!({"exists": true, "ttl": null})));
        assert_eq!(json(&["list"]), key(json!({})));
        assert_eq!(json(&["list", "--values"]), key(json!({"value": "42", "encoding": "utf-8"})));
        assert_eq!(json(&["delete", "k"]), [json!({"bucket": "b", "deleted": ["k"]})]);

        let (output, error) = store.fails(&["get", "k", "--json", "--bucket", "b"]);
        let missing: Vec<Value> =
            output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(missing, key(json!({"value": null, "encoding": null, "ttl": null})));
        assert!(error.contains("no key 'k'"), "{error}");
        store.text(&["set", "k", "v", "--bucket", "b"]);
        let (output, _) = store.fails(&["set", "k", "w", "--if-absent", "--json", "--bucket", "b"]);
        assert_eq!(serde_json::from_str::<Value>(&output).unwrap()["set"], false);
    }
}

#[tokio::test]
async fn keys_are_listed_page_by_page() {
    for store in Store::both() {
        let mut all: Vec<String> = (0..1_700).map(|n| format!("key-{n:04}")).collect();
        all.extend((0..3).map(|n| format!("other-{n}")));
        store.fill(&all).await;
        let list = |arguments: &[&str]| {
            let text = store.text(&[&["list", "--bucket", "many"], arguments].concat());
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let mut listed = list(&[]);
        if store.redis.is_some() {
            listed.sort_unstable();
            // Which SCAN may repeat.
            listed.dedup();
        }
        assert_eq!(listed, all);
        assert_eq!(list(&["--prefix", "other-"]), ["other-0", "other-1", "other-2"]);
        assert!(list(&["--prefix", "nothing"]).is_empty());
        for limit in ["1", "16", "17", "600"] {
            let some = list(&["--limit", limit]);
            assert_eq!(some.len().to_string(), limit);
            assert!(some.iter().all(|key| all.contains(key)), "{some:?}");
        }
        assert_eq!(
            list(&["--prefix", "other-", "--values", "--limit", "2"]),
            ["other-0\tvalue", "other-1\tvalue"]
        );
        let documents = store.json(&["list", "--bucket", "many", "--values", "--limit", "520"]);
        assert_eq!(documents.len(), 520);
        assert!(documents.iter().all(|entry| entry["value"] == "value"), "{documents:?}");
    }
}

#[test]
fn postgresql_answers_as_the_others_do() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    let store = Store { dir: tempfile::tempdir().unwrap(), url: postgres.url(), redis: None };
    store.text(&["set", "text", "abc", "--ttl", "1h"]);
    assert_eq!(store.text(&["get", "text"]), "abc");
    assert!(store.text(&["ttl", "text"]).starts_with("59m "));
    assert_eq!(store.text(&["incr", "n", "--by", "2"]), "2\n");
    store.fails(&["incr", "n", "--max", "2"]);
    assert_eq!(store.text(&["list", "--values"]), "n\t2\ntext\tabc\n");
    store.text(&["incr", "hits", "--ttl", "1h", "--bucket", "windows"]);
    assert!(store.text(&["ttl", "hits", "--bucket", "windows"]).starts_with("59m "));
    assert_eq!(store.text(&["buckets"]), "default\nwindows\n");
    store.text(&["delete", "n", "text"]);
    let (_, error) = store.fails(&["list"]);
    assert!(
        error.contains("there is no bucket 'default' in this store; there are: 'windows'"),
        "{error}"
    );
}

#[test]
fn a_line_of_a_list_is_a_key() {
    for store in Store::both() {
        store.text(&["set", "a\nb\\c", "x\ty\n"]);
        assert_eq!(store.text(&["list"]), "a\\nb\\\\c\n");
        assert_eq!(store.text(&["list", "--values"]), "a\\nb\\\\c\tx\\ty\\n\n");
        assert_eq!(store.json(&["list"])[0]["key"], "a\nb\\c");
    }
}

#[tokio::test]
async fn more_keys_than_one_call_takes_are_deleted() {
    let store = Store::sqlite();
    let all: Vec<String> = (0..1_200).map(|n| format!("key-{n}")).collect();
    store.fill(&all).await;
    let keys: Vec<&str> = all.iter().map(String::as_str).collect();
    store.text(&[&["delete", "--bucket", "many"], &keys[..1_100]].concat());
    assert_eq!(store.text(&["list", "--bucket", "many"]).lines().count(), 100);
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_ends_it_quietly() {
    for store in Store::both() {
        // More than a pipe holds.
        let all: Vec<String> = (0..4_000).map(|n| format!("{n:0100}")).collect();
        store.fill(&all).await;
        let mut command = tally(store.dir.path());
        command.args(["kv", "list", "--store", &store.url, "--bucket", "many"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.len(), 101);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let store = Store::sqlite();
    store.text(&["set", "k", "v"]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = tally(store.dir.path());
    command.args(["kv", "get", "k", "--store", &store.url]).stdout(full);
    let (_, error) = failed(&command.stderr(Stdio::piped()).output().unwrap());
    assert!(error.contains("cannot write to standard output"), "{error}");
}

#[test]
fn a_command_line_that_cannot_be_understood_ends_with_2() {
    let store = Store::sqlite();
    for arguments in [
        &["get"][..],
        &["get", "k", "--nope"],
        &["delete"],
        &["list", "--limit", "0"],
        &["incr", "k", "--by", "many"],
        &["incr", "k", "--min", "2", "--max", "1"],
        &["incr", "k", "--ttl", "soon"],
        &["buckets", "--bucket", "main"],
        &["ttl", "k", "--set", "1m", "--persist"],
        &["set", "k", "v", "--ttl", "soon"],
    ] {
        let output = store.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    assert!(!store.dir.path().join("kv.db").exists());
}

#[test]
fn a_store_that_is_not_there_is_explained_and_not_created() {
    let store = Store::sqlite();
    let file = store.dir.path().join("kv.db");
    for arguments in [
        &["get", "k"][..],
        &["list"],
        &["buckets"],
        &["ttl", "k"],
        &["ttl", "k", "--persist"],
        &["delete", "k"],
    ] {
        let (output, error) = store.fails(arguments);
        assert_eq!(output, "");
        assert!(error.contains("there is no SQLite file kv.db"), "{error}");
        assert!(error.contains("--store"), "{error}");
        assert!(!file.exists(), "{arguments:?}");
    }
    store.text(&["set", "k", "v"]);
    assert!(file.exists());
    assert_eq!(store.text(&["get", "k"]), "v");

    let output = run(store.dir.path(), &["kv", "get", "k", "--store", "memory:"]);
    assert!(failed(&output).1.contains("inside of one process"), "{output:?}");
}

#[test]
fn the_hosts_own_buckets_are_read_only() {
    for store in Store::both() {
        store.text(&["set", "k", "v"]);
        let (_, error) = store.fails(&["list", "--bucket", "tally.once"]);
        assert!(error.contains("there is no bucket 'tally.once'"), "{error}");
        for arguments in
            [&["set", "k", "v"][..], &["delete", "k"], &["incr", "k"], &["ttl", "k", "--set", "1m"]]
        {
            let (_, error) = store.fails(&[arguments, &["--bucket", "tally.once"]].concat());
            assert!(error.contains("'tally.once' is read only"), "{error}");
        }
        // Keys of such names are anybody's.
        store.text(&["set", "tally.key", "v"]);
    }
}

#[test]
fn the_store_is_found_as_serve_finds_it_and_its_password_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let closed = free_port().unwrap();
    let secret = format!("redis://u:planted-secret@127.0.0.1:{closed}");
    let get = ["kv", "get", "k"];
    let check = |output: &Output| {
        let (output, error) = failed(output);
        assert!(error.contains(&format!("Redis at 127.0.0.1:{closed}")), "{error}");
        assert!(!output.contains("planted-secret") && !error.contains("planted-secret"), "{error}");
    };
    check(&run(dir.path(), &[&get[..], &["--store", &secret]].concat()));
    check(&tally(dir.path()).args(get).env("TALLY_STORE", &secret).output().unwrap());
    let config = format!("store = \"{secret}\"\n");
    std::fs::write(dir.path().join("tally.toml"), &config).unwrap();
    check(&run(dir.path(), &get));
    std::fs::rename(dir.path().join("tally.toml"), dir.path().join("other.toml")).unwrap();
    check(&run(dir.path(), &["kv", "--config", "other.toml", "get", "k"]));

    // What no file and no variable says is the default.
    let (_, error) = failed(&run(dir.path(), &get));
    assert!(error.contains("there is no SQLite file tally.db"), "{error}");
    for store in ["mongodb://u:planted-secret@h/d", "redis://u:planted-secret@h:port"] {
        let (_, error) = failed(&run(dir.path(), &[&get[..], &["--store", store]].concat()));
        assert!(!error.contains("planted-secret"), "{error}");
    }
    let mut help = tally(dir.path());
    let help = help.args(["kv", "get", "--help"]).env("TALLY_STORE", &secret).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("TALLY_STORE") && !help.contains("planted-secret"), "{help}");
}

#[test]
fn connecting_takes_no_longer_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let arguments = ["kv", "get", "k", "--store", &url, "--connect-timeout", "150ms"];
    let (_, error) = failed(&run(dir.path(), &arguments));
    assert!(error.contains("no connection within 150ms"), "{error}");
}

#[test]
fn an_unknown_outcome_is_called_that() {
    let mut postgres = Postgres::start(Durability::Unsynced).unwrap();
    let store = Store { dir: tempfile::tempdir().unwrap(), url: postgres.url(), redis: None };
    assert_eq!(store.text(&["incr", "k"]), "1\n");
    // It commits, and then waits for a standby that never comes.
    postgres.stop().unwrap();
    postgres.set("synchronous_standby_names=gone");
    postgres.restart().unwrap();
    let (output, error) = store.fails(&["incr", "k", "--store-timeout", "300ms"]);
    assert_eq!(output, "");
    for part in ["outcome unknown", "did not answer in time", "before doing it again"] {
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn what_a_server_counts_is_seen_and_the_other_way_round() {
    let redis = Redis::start().unwrap();
    for (url, bucket, stored) in [
        ("sqlite:tally.db".to_owned(), "default", "default"),
        (redis.url(), "default=main", "main"),
    ] {
        let host = Host::start("counter", &url, &["--bucket", bucket]);
        for _ in 0..3 {
            assert_eq!(post(host.address, "/increment").await.status, 200);
        }
        let kv = |arguments: &[&str]| {
            let place = ["kv", "--store", &url, "--bucket", stored];
            let output = run(host.dir(), &[&place[..], arguments].concat());
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(kv(&["get", "count"]), "3");
        assert_eq!(kv(&["list"]), "count\n");
        assert_eq!(kv(&["incr", "count", "--by", "4"]), "7\n");
        assert_eq!(get(host.address, "/report").await.count(), 7);
        assert_eq!(post(host.address, "/increment").await.count(), 8);
    }
}
