//! What guests of Spin import beside key-value stores, through guests that were built for it: with functions that wait,
//! and with those that are `async`.

use http::Request;
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tally_testkit::{Durability, Postgres, Redis, ask};

use crate::{
    client::{Client, Response, get},
    command_line::{self, run},
    host::{Host, guest},
};

/// The guest of WASI 0.2, and the one of 0.3.
pub const PROBES: [&str; 2] = ["probe-spin-data", "probe-spin-p3"];

/// Asks the probe; `argument` is encoded.
pub async fn call(host: &Host, path: &str, argument: &str) -> Response {
    let argument = utf8_percent_encode(argument, NON_ALPHANUMERIC);
    get(host.address, &format!("{path}?{argument}")).await
}

#[track_caller]
pub fn says(response: &Response, expected: &str) {
    assert_eq!(response.text(), expected, "{response:?}");
    assert_eq!(response.status, 200);
}

#[track_caller]
pub fn fails(response: &Response, part: &str) {
    assert_eq!(response.status, 500, "{response:?}");
    assert!(response.text().contains(part), "{response:?}");
}

/// What clients are told of a request that trapped.
#[track_caller]
fn trapped(response: &Response, applied: &str) {
    response.problem(500, "trap");
    assert_eq!(response.json()["applied"], applied, "{response:?}");
}

/// Statements of SQLite, in the default database.
async fn sql(host: &Host, statements: &[&str]) -> Response {
    let encoded: Vec<_> = statements
        .iter()
        .map(|statement| utf8_percent_encode(statement, NON_ALPHANUMERIC).to_string())
        .collect();
    get(host.address, &format!("/sqlite?default={}", encoded.join(","))).await
}

#[tokio::test]
async fn variables_are_the_guests_settings() {
    for probe in PROBES {
        variables_are_the_guests_settings_for(probe).await;
    }
}

async fn variables_are_the_guests_settings_for(probe: &str) {
    let flags = ["--setting", "greeting=hi", "--setting", "Odd-Name=x"];
    let host = Host::start(probe, "memory:", &flags);
    says(&call(&host, "/variable", "greeting").await, "hi");
    says(&call(&host, "/variable", "Odd-Name").await, "x");
    fails(&call(&host, "/variable", "missing").await, "Undefined");
    fails(&call(&host, "/variable", "no name").await, "InvalidName");
    says(&call(&host, "/config", "greeting").await, "hi");
    says(&call(&host, "/config", "missing").await, "(none)");
    says(&get(host.address, "/config").await, "Odd-Name=x,greeting=hi");
}

#[tokio::test]
async fn a_database_of_the_guests_own_is_kept_and_is_its_own() {
    for probe in PROBES {
        a_database_of_the_guests_own_is_kept_and_is_its_own_for(probe).await;
    }
}

async fn a_database_of_the_guests_own_is_kept_and_is_its_own_for(probe: &str) {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("tally.db").display());
    let host = Host::start(probe, &store, &["--sqlite", "default,other"]);
    let rows = sql(
        &host,
        &["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 'x'), (2, NULL)", "SELECT * FROM t"],
    );
    says(&rows.await, "a|b: 1|x\n2|null");
    let changed = get(host.address, "/sqlite-changes?default=INSERT%20INTO%20t%20VALUES%20(3%2C4)");
    says(&changed.await, "1 changes, row 3");
    let values = get(host.address, "/sqlite-values").await;
    let kinds = [
        "Integer(-9223372036854775808)",
        "Real(1.5)",
        "Text(\"a\u{e4}\")",
        "Blob([0, 255])",
        "Null",
    ];
    for kind in kinds {
        assert!(values.text().contains(kind), "{values:?}");
    }
    // Another name is another file, and what is not allowed is denied.
    fails(&get(host.address, "/sqlite?other=SELECT%20*%20FROM%20t").await, "no such table");
    fails(&get(host.address, "/sqlite?third=SELECT%201").await, "AccessDenied");
    fails(&get(host.address, "/sqlite-many").await, "16 connections");
    fails(&sql(&host, &["ATTACH '/tmp/tally-test.db' AS x"]).await, "not authorized");
    drop(host);
    assert!(dir.path().join("tally.db-guests/default/default.db").exists());
    let host = Host::start(probe, &store, &["--sqlite", "default"]);
    says(&sql(&host, &["SELECT count(*) FROM t"]).await, "count(*): 3");
}

#[tokio::test]
async fn a_database_is_bounded_and_needs_a_folder() {
    for probe in PROBES {
        a_database_is_bounded_and_needs_a_folder_for(probe).await;
    }
}

async fn a_database_is_bounded_and_needs_a_folder_for(probe: &str) {
    let error = Host::try_start(probe, "memory:", &["--sqlite", "default"]).err();
    assert!(error.unwrap().contains("sqlite-dir"));
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("databases").display().to_string();
    let flags = ["--sqlite", "default", "--sqlite-dir", &folder, "--sqlite-size", "64KiB"];
    let host = Host::start(probe, "memory:", &[&flags[..], &["--wall-limit", "2s"]].concat());
    let full = sql(&host, &["CREATE TABLE t (x)", "INSERT INTO t VALUES (zeroblob(100000))"]);
    fails(&full.await, "DatabaseFull");
    says(&sql(&host, &["SELECT count(*) FROM t"]).await, "count(*): 0");
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) ";
    fails(&sql(&host, &[&format!("{endless}SELECT i FROM n")]).await, "than its memory holds");
    let slow = sql(&host, &[&format!("{endless}SELECT count(*) FROM n")]).await;
    slow.problem(504, "wall_limit");
    // The thread that ran it is free again, and so is the database.
    says(&sql(&host, &["INSERT INTO t VALUES (1)", "SELECT count(*) FROM t"]).await, "count(*): 1");
}

#[tokio::test]
async fn clients_are_told_whether_a_statement_may_have_changed_something() {
    for probe in PROBES {
        clients_are_told_whether_a_statement_may_have_changed_something_for(probe).await;
    }
}

async fn clients_are_told_whether_a_statement_may_have_changed_something_for(probe: &str) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let flags = ["--sqlite", "default", "--sqlite-dir", &folder];
    let host = Host::start(probe, "memory:", &flags);
    sql(&host, &["CREATE TABLE t (x UNIQUE)"]).await;
    for (statements, applied) in [
        ("SELECT%201", "no"),
        ("BEGIN,INSERT%20INTO%20t%20VALUES%20(1)", "no"),
        ("BEGIN,INSERT%20INTO%20t%20VALUES%20(1),ROLLBACK", "no"),
        ("INSERT%20INTO%20t%20VALUES%20(2)", "unknown"),
        ("INSERT%20INTO%20t%20VALUES%20(2)", "no"),
    ] {
        let response = get(host.address, &format!("/trap/sqlite?default={statements}")).await;
        trapped(&response, applied);
    }
    says(&sql(&host, &["SELECT x FROM t"]).await, "x: 2");
}

/// A statement is no write of the store's, so a request that is sent again must not run it again.
#[tokio::test]
async fn a_request_with_a_key_writes_to_a_database_once() {
    for probe in PROBES {
        a_request_with_a_key_writes_to_a_database_once_for(probe).await;
    }
}

async fn a_request_with_a_key_writes_to_a_database_once_for(probe: &str) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let host = Host::start(probe, "memory:", &["--sqlite", "default", "--sqlite-dir", &folder]);
    sql(&host, &["CREATE TABLE t (x)"]).await;
    let mut client = Client::connect(host.address).await;
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let insert = "/sqlite?default=INSERT%20INTO%20t%20VALUES%20(random())%20RETURNING%20x";
        let request = Request::post(insert)
            .header("host", "h")
            .header("idempotency-key", "k")
            .body(Full::from(Vec::new()))
            .unwrap();
        bodies.push(client.try_send(request).await.unwrap().text().to_owned());
    }
    assert!(bodies[0].starts_with("x: "), "{bodies:?}");
    assert_eq!(bodies[0], bodies[1], "it ran again");
    says(&sql(&host, &["SELECT count(*) FROM t"]).await, "count(*): 1");
}

#[tokio::test]
async fn redis_does_what_spin_offers_of_it() {
    for probe in PROBES {
        redis_does_what_spin_offers_of_it_for(probe).await;
    }
}

async fn redis_does_what_spin_offers_of_it_for(probe: &str) {
    let redis = Redis::start().unwrap();
    let (setting, port) = (format!("redis={}", redis.url()), redis.port());
    let allowed = format!("127.0.0.1:{port}");
    let flags = ["--setting", &setting, "--outgoing-host", &allowed, "--outgoing-private"];
    let host = Host::start(probe, "memory:", &flags);
    says(&call(&host, "/redis-get", "a").await, "(none)");
    says(&get(host.address, "/redis-set?a=1").await, "set");
    says(&call(&host, "/redis-get", "a").await, "1");
    says(&call(&host, "/redis-incr", "a").await, "2");
    says(&get(host.address, "/redis-set?text=x").await, "set");
    fails(&call(&host, "/redis-incr", "text").await, "TypeError");
    says(&get(host.address, "/redis-publish?c=m").await, "published");
    says(&call(&host, "/redis-sets", "s").await, "3 1 b,c 1");
    fails(&call(&host, "/redis-sets", "text").await, "TypeError");
    for (command, reply) in [
        ("PING", "status PONG"),
        ("SET,k,7", "status OK"),
        ("MGET,k,missing", "7,nil"),
        ("LPUSH,l,a,b", "2"),
        ("LRANGE,l,0,-1", "b,a"),
    ] {
        says(&get(host.address, &format!("/redis-execute?{command}")).await, reply);
    }
    fails(&get(host.address, "/redis-execute?MONITOR").await, "cannot be used");
    fails(&get(host.address, "/redis-execute?NONSENSE").await, "NONSENSE");
    let many = get(host.address, "/redis-many").await;
    assert!(many.text().starts_with("16: ") && many.text().contains("TooMany"), "{many:?}");
    // A value that the guest's memory would not hold is not held by the host either.
    ask(port, "SETRANGE large 20000000 x").unwrap();
    fails(&call(&host, "/redis-get", "large").await, "than its memory holds");

    for (path, applied) in [
        ("/redis-get?a", "no"),
        ("/redis-incr?text", "no"),
        ("/redis-execute?GET,a", "no"),
        ("/redis-incr?a", "unknown"),
        ("/redis-execute?INCR,a", "unknown"),
    ] {
        trapped(&get(host.address, &format!("/trap{path}")).await, applied);
    }
}

#[tokio::test]
async fn databases_are_reached_only_where_the_configuration_says_so() {
    for probe in PROBES {
        databases_are_reached_only_where_the_configuration_says_so_for(probe).await;
    }
}

async fn databases_are_reached_only_where_the_configuration_says_so_for(probe: &str) {
    let redis = Redis::start().unwrap();
    let local = format!("redis://127.0.0.1:{}", redis.port());
    let host = Host::start(probe, "memory:", &["--setting", "postgres=x"]);
    fails(&call(&host, "/redis-open", &local).await, "name the host in outgoing-hosts");
    let address = format!("postgres://u@127.0.0.1:{}/d", redis.port());
    fails(&call(&host, "/pg-open", &address).await, "name the host in outgoing-hosts");
    let flags = ["--outgoing-host", "*", "--setting", "postgres=x"];
    let host = Host::start(probe, "memory:", &flags);
    fails(&call(&host, "/redis-open", &local).await, "outgoing-private");
    fails(&call(&host, "/redis-open", "http://x").await, "InvalidAddress");
    fails(&call(&host, "/redis-open", "unix:///tmp/redis.sock").await, "InvalidAddress");
    fails(&call(&host, "/pg-open", &address).await, "outgoing-private");
    fails(&call(&host, "/pg-open", "host=/tmp user=u").await, "sockets in the file system");
    fails(&call(&host, "/pg-open", "host=a hostaddr=127.0.0.1 user=u").await, "hostaddr");
    let secret = call(&host, "/pg-open", "postgres://u:secret@h:x/").await;
    fails(&secret, "ConnectionFailed");
    assert!(!secret.text().contains("secret"), "{secret:?}");
}

#[tokio::test]
async fn postgres_does_what_spin_offers_of_it_in_each_version() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    let setting = format!("postgres={}", postgres.url());
    let flags = ["--setting", &setting, "--outgoing-host", "127.0.0.1", "--outgoing-private"];
    let host = Host::start("probe-spin-data", "memory:", &flags);
    says(&call(&host, "/pg-execute", "CREATE TABLE t (a int PRIMARY KEY, b text)").await, "0");
    says(&call(&host, "/pg-execute", "INSERT INTO t VALUES (1, 'x'), (2, NULL)").await, "2");
    let rows = call(&host, "/pg2", "SELECT a, b, now() AS c FROM t ORDER BY a LIMIT 1").await;
    says(
        &rows,
        "a DbDataType::Int32, b DbDataType::Str, c DbDataType::Other: DbValue::Int32(1)|DbValue::Str(\"x\")|DbValue::Unsupported",
    );
    says(&call(&host, "/pg2", "SELECT a FROM t WHERE a > 5").await, "a DbDataType::Int32: ");
    let dated = call(&host, "/pg3", "SELECT date '2026-11-27', timestamptz 'epoch'").await;
    says(&dated, "DbValue::Date((2026, 11, 27))|DbValue::Datetime((1970, 1, 1, 0, 0, 0, 0))");
    let values = get(host.address, "/pg-old-values").await;
    for value in [
        "Boolean(true)",
        "Int16(-8)",
        "Int16(-16)",
        "Int32(-32)",
        "Int64(-64)",
        "Int16(8)",
        "Int32(16)",
        "Int64(32)",
        "Str(\"18446744073709551615\")",
        "Floating32(0.5)",
        "Floating64(-0.25)",
        "Str(\"\u{e4}\")",
        "Binary([0, 255])",
        "DbNull",
    ] {
        assert!(values.text().contains(value), "{value}: {values:?}");
    }
}

#[tokio::test]
async fn postgres_does_what_the_last_version_of_it_offers() {
    for probe in PROBES {
        postgres_does_what_the_last_version_of_it_offers_for(probe).await;
    }
}

async fn postgres_does_what_the_last_version_of_it_offers_for(probe: &str) {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    let setting = format!("postgres={}", postgres.url());
    let flags = ["--setting", &setting, "--outgoing-host", "127.0.0.1", "--outgoing-private"];
    let host = Host::start(probe, "memory:", &flags);
    says(&call(&host, "/pg-execute", "CREATE TABLE t (a int PRIMARY KEY, b text)").await, "0");
    says(&call(&host, "/pg-execute", "INSERT INTO t VALUES (1, 'x'), (2, NULL)").await, "2");
    let kinds = call(&host, "/pg4", "SELECT 1.50::numeric, point '(1,2)', 'empty'::text").await;
    assert!(
        kinds.text().starts_with("DbValue::Decimal(\"1.50\")|DbValue::Unsupported(["),
        "{kinds:?}"
    );

    let values = get(host.address, "/pg-values").await;
    for value in [
        "Date((2026, 11, 27))",
        "Time((23, 59, 58, 123456000))",
        "Datetime((1999, 12, 31, 23, 59, 59, 999999000))",
        "Datetime((1970, 1, 2, 0, 0, 0, 0))",
        "Uuid(\"00112233-4455-6677-8899-aabbccddeeff\")",
        "Jsonb([123, 34, 97, 34, 58, 32, 49, 125])",
        "Decimal(\"-12345.6780\")",
        "RangeInt32((Some((1, RangeBoundKind::Inclusive)), Some((5, RangeBoundKind::Exclusive))))",
        "RangeInt64((None, Some((9, RangeBoundKind::Exclusive))))",
        "RangeDecimal((Some((\"0.5\", RangeBoundKind::Exclusive)), None))",
        "ArrayInt32([Some(1), None])",
        "ArrayInt64([])",
        "ArrayDecimal([Some(\"1.50\"), None])",
        "ArrayStr([Some(\"a\"), None])",
        "Interval { micros: 1, days: -2, months: 3 }",
    ] {
        assert!(values.text().contains(value), "{value}: {values:?}");
    }

    let twice = call(&host, "/pg-execute", "INSERT INTO t VALUES (1, 'y')").await;
    fails(&twice, "code: \"23505\"");
    fails(&call(&host, "/pg-text", "SELECT $1::int4").await, "BadParameter");
    fails(&call(&host, "/pg4", "SELECT $1::int4").await, "1 parameters, and 0");
    fails(&call(&host, "/pg4", "SELEC").await, "42601");
    let large = "SELECT repeat('x', 1000000) FROM generate_series(1, 100)";
    fails(&call(&host, "/pg4", large).await, "than its memory holds");
    for (statement, applied) in [
        ("INSERT INTO t VALUES (1, 'y')", "no"),
        ("SELEC", "no"),
        ("INSERT INTO t VALUES (3, 'y')", "unknown"),
    ] {
        trapped(&call(&host, "/trap/pg-execute", statement).await, applied);
    }
    says(&call(&host, "/pg4", "SELECT count(*) FROM t").await, "DbValue::Int64(3)");
}

/// A server that does not answer costs its guest no more than its time, and nobody else anything.
#[tokio::test]
async fn a_statement_ends_at_the_wall_limit() {
    for probe in PROBES {
        a_statement_ends_at_the_wall_limit_for(probe).await;
    }
}

async fn a_statement_ends_at_the_wall_limit_for(probe: &str) {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    let setting = format!("postgres={}", postgres.url());
    let flags = [
        "--setting",
        &setting,
        "--outgoing-host",
        "*",
        "--outgoing-private",
        "--wall-limit",
        "500ms",
    ];
    let host = Host::start(probe, "memory:", &flags);
    let slow = call(&host, "/pg4", "SELECT pg_sleep(60)").await;
    slow.problem(504, "wall_limit");
    assert_eq!(slow.json()["applied"], "unknown", "a function may change something");
}

#[tokio::test]
async fn an_application_for_spin_is_imported_and_served() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["probe-spin-data", "probe-http"] {
        std::fs::copy(guest(name), dir.path().join(format!("{name}.wasm"))).unwrap();
    }
    let manifest = r#"
        spin_manifest_version = 2
        [application]
        name = "shop"
        [variables]
        greeting = { default = "hello" }
        [[trigger.http]]
        route = "/..."
        component = "front"
        [[trigger.http]]
        route = { private = true }
        component = "data"
        [component.front]
        source = "probe-http.wasm"
        files = ["a.html"]
        allowed_outbound_hosts = ["http://data.spin.internal"]
        [component.data]
        source = "probe-spin-data.wasm"
        sqlite_databases = ["default"]
        variables = { greeting = "{{ greeting }}, you" }
    "#;
    std::fs::write(dir.path().join("spin.toml"), manifest).unwrap();
    let output = run(dir.path(), &["import", "spin.toml"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && told.contains("wrote tally.toml with 2 routes"), "{told}");
    assert!(told.contains("not carried over: component front: files"), "{told}");
    // What is there already is somebody's.
    let again = command_line::fails(dir.path(), &["import", "spin.toml"]);
    assert!(again.contains("--output"), "{again}");
    let config = std::fs::read_to_string(dir.path().join("tally.toml")).unwrap();
    assert!(config.contains("# Not carried over: component front: files"), "{config}");
    let printed = run(dir.path(), &["import", "spin.toml", "--output", "-"]);
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), config);
    let elsewhere = run(dir.path(), &["import", "spin.toml", "--output", "/nowhere/tally.toml"]);
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}");
    std::fs::remove_file(dir.path().join("tally.toml")).unwrap();

    let host = Host::start_configured(dir, &format!("store = 'sqlite:tally.db'\n{config}"));
    let fetch = async |path: &str| {
        get(host.address, &format!("/fetch?http://data.spin.internal{path}"))
            .await
            .text()
            .to_owned()
    };
    assert_eq!(fetch("/variable?greeting").await, "200 hello, you");
    assert_eq!(fetch("/sqlite?default=SELECT%201").await, "200 1: 1");
    let client = get(host.address, "/variable?greeting").await;
    assert_eq!(client.status, 404, "the private component is no client's");
}
