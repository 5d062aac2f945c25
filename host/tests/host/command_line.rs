//! The program's commands, and what it says when it cannot do what it was asked.

use std::{path::Path, process::Output};

use tally_testkit::{Durability, Postgres, free_port};

use crate::host::{Host, guest, tally};

/// Runs a command to its end.
pub fn run(dir: &Path, arguments: &[&str]) -> Output {
    tally(dir).args(arguments).output().unwrap()
}

/// Runs a command that must fail; gives the last line it wrote.
#[track_caller]
pub fn fails(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = String::from_utf8(output.stderr).unwrap();
    errors.lines().last().unwrap().to_owned()
}

/// Fails to serve, with flags beside listening at any port.
#[track_caller]
pub fn fails_to_serve(dir: &Path, arguments: &[&str]) -> String {
    let mut all = vec!["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    all.extend(["--store-wait", "0s"]);
    all.extend(arguments);
    fails(dir, &all)
}

#[test]
fn guests_that_cannot_be_served_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let mut broken = std::fs::read(guest("counter")).unwrap();
    broken.truncate(broken.len() / 2);
    write("broken.wasm", &broken);
    write("text.wasm", b"not wasm at all");
    write("empty.wasm", b"");
    write("module.wasm", &wat::parse_str("(module)").unwrap());
    write("no-world.wasm", &wat::parse_str("(component)").unwrap());
    write(
        "import.wasm",
        &wat::parse_str(
            r#"(component
                (import "example:other/thing@1.0.0" (instance))
                (instance $empty)
                (export "tally:plugin/handler@0.1.0" (instance $empty)))"#,
        )
        .unwrap(),
    );
    for (name, export) in
        [("http4.wasm", "wasi:http/handler@0.4.0"), ("command.wasm", "wasi:cli/run@0.2.3")]
    {
        let text = format!(r#"(component (instance $e) (export "{export}" (instance $e)))"#);
        write(name, &wat::parse_str(text).unwrap());
    }
    write(
        "shape.wasm",
        &wat::parse_str(
            r#"(component (instance $e) (export "tally:plugin/handler@0.1.0" (instance $e)))"#,
        )
        .unwrap(),
    );
    for (name, parts) in [
        ("missing.wasm", ["cannot read the guest missing.wasm", "No such file"]),
        ("text.wasm", ["text.wasm", "not WebAssembly"]),
        ("empty.wasm", ["empty.wasm", "not WebAssembly"]),
        ("module.wasm", ["core WebAssembly module", "wasm32-wasip2"]),
        ("broken.wasm", ["broken.wasm", "not a valid component"]),
        ("no-world.wasm", ["does not export tally:plugin/handler", "exports nothing"]),
        ("import.wasm", ["example:other/thing@1.0.0", "tally check"]),
        ("http4.wasm", ["wasi:http/handler@0.4.0", "releases of wasi:http 0.2 and 0.3"]),
        ("command.wasm", ["runs once", "wasi:http/incoming-handler"]),
        ("shape.wasm", ["shape.wasm", "does not fit this host"]),
    ] {
        let flags = ["--store", "memory:", "--strict-imports", name];
        let error = fails_to_serve(dir.path(), &flags);
        for part in parts {
            assert!(error.contains(part), "{name}: {error}");
        }
    }
    let error = fails_to_serve(dir.path(), &["--store", "memory:"]);
    assert!(error.contains("no guest given") && error.contains("just build-guest"), "{error}");
}

#[test]
fn stores_that_cannot_be_used_are_explained_without_their_passwords() {
    let dir = tempfile::tempdir().unwrap();
    let counter = guest("counter");
    let counter = counter.to_str().unwrap();
    let closed = free_port().unwrap();
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    let wrong_password = postgres.url().replace("test_pass", "planted-secret");
    let cases = [
        ("mongodb://u:planted-secret@h/d".into(), "'mongodb' is no store Tally knows"),
        ("tally.db".into(), "sqlite:PATH"),
        ("sqlite:".into(), "sqlite:tally.db"),
        ("sqlite:/nowhere/at/all/tally.db".into(), "/nowhere/at/all/tally.db"),
        (format!("redis://u:planted-secret@127.0.0.1:{closed}"), "cannot use Redis at 127.0.0.1"),
        ("redis://u:planted-secret@127.0.0.1:port".into(), "redis://[USER"),
        (
            format!("postgres://u:planted-secret@127.0.0.1:{closed}/d"),
            "cannot use PostgreSQL at 127.0.0.1",
        ),
        (wrong_password, "password authentication failed"),
        (postgres.url().replace("/test_db", "/no_such_db"), "no_such_db"),
    ];
    for (store, part) in cases {
        let error = fails_to_serve(dir.path(), &["--store", &store, counter]);
        assert!(error.contains(part), "{store}: {error}");
        assert!(error.matches("cannot use").count() <= 1, "said once: {error}");
        assert!(!error.contains("planted-secret"), "{error}");
    }
}

#[test]
fn an_address_in_use_is_explained() {
    // Workers share their address among themselves, but with nobody else.
    let host = Host::start("counter", "memory:", &["--workers", "4"]);
    let dir = tempfile::tempdir().unwrap();
    let counter = guest("counter");
    let address = host.address.to_string();
    let arguments =
        ["serve", "--store", "memory:", "--listen", &address, counter.to_str().unwrap()];
    let error = fails(dir.path(), &arguments);
    assert!(error.contains(&address) && error.contains("--listen"), "{error}");
}

#[test]
fn startup_says_what_is_served_where_and_what_the_store_guarantees() {
    let host = Host::start("counter", "sqlite:tally.db", &["--pool", "5", "--workers", "1"]);
    for part in [
        "serving  http://127.0.0.1:",
        "with 1 workers",
        "route    /*  to ",
        "counter.wasm (version ",
        "tally:plugin/plugin, pool of 5)",
        "admin    http://127.0.0.1:",
        "store    sqlite tally.db: every acknowledged write is synced to disk",
    ] {
        assert!(host.banner.contains(part), "{}", host.banner);
    }
}

#[test]
fn check_tells_what_a_component_is_and_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["check", guest("counter").to_str().unwrap()]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "world    tally:plugin/plugin",
        "exports  tally:plugin/handler@0.1.0",
        "imports  wasi:keyvalue/atomics@0.2.0-draft2\n",
        "This host can serve it.",
    ] {
        assert!(text.contains(part), "{text}");
    }

    let foreign = wat::parse_str(
        r#"(component
            (import "example:other/thing@1.0.0" (instance))
            (import "wasi:keyvalue/store@0.2.0-draft3" (instance))
            (instance $e)
            (export "tally:plugin/handler@0.1.0" (instance $e)))"#,
    );
    let path = dir.path().join("foreign.wasm");
    std::fs::write(&path, foreign.unwrap()).unwrap();
    let output = run(dir.path(), &["check", "--strict-imports", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "imports  example:other/thing@1.0.0   (missing",
        "imports  wasi:keyvalue/store@0.2.0-draft3   (missing: this host offers wasi:keyvalue 0.2.0-draft and",
        "2 of its imports are missing",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn config_prints_what_is_in_force_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("tally.toml"),
        "store = \"redis://u:planted-secret@h\"\npool = 5\nqueue = 6\n",
    )
    .unwrap();
    let output =
        tally(dir.path()).args(["config", "--pool", "8"]).env("TALLY_QUEUE", "9").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "store = \"redis://u:***@h\"",
        "pool = 8",
        "queue = 9",
        "wall-limit = \"10s\"",
        "listen = \"127.0.0.1:3000\"",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("planted-secret"), "{text}");
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    let dir = tempfile::tempdir().unwrap();
    let output = tally(dir.path()).arg("config").env("TALLY_STROE", "memory:").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("'TALLY_STROE'") && error.contains("'TALLY_STORE'"), "{error}");

    std::fs::write(dir.path().join("tally.toml"), "cpu_limit = \"1s\"\n").unwrap();
    let error = fails(dir.path(), &["config"]);
    assert!(error.contains("'cpu_limit'") && error.contains("'cpu-limit'"), "{error}");

    let output = run(dir.path(), &["serve", "--stroe", "memory:"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--stroe") && error.contains("--store"), "{error}");
}

#[test]
fn a_switch_before_the_guest_does_not_take_it_for_its_value() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, watch) in
        [(["--watch", "g.wasm"], "watch = true"), (["--watch=false", "g.wasm"], "watch = false")]
    {
        let output = run(dir.path(), &[&["config"], arguments.as_slice()].concat());
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(text.contains("guest = \"g.wasm\"") && text.contains(watch), "{text}");
    }
}
