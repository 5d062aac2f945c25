//! What guests of Spin and WASI 0.3 may do that others cannot: several calls at once, and results as streams.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tally_testkit::{Authority, Clients, Durability, Postgres, Redis};

use crate::{
    client::{Client, get},
    host::Host,
    spin::{call, fails, says},
};

/// A host with a database of the guest's own.
fn with_sqlite(dir: &tempfile::TempDir) -> Host {
    let folder = dir.path().display().to_string();
    Host::start("probe-spin-p3", "memory:", &["--sqlite", "default", "--sqlite-dir", &folder])
}

/// A host whose guest may connect to this machine.
fn with_setting(setting: &str, more: &[&str]) -> Host {
    let flags = ["--setting", setting, "--outgoing-host", "127.0.0.1", "--outgoing-private"];
    Host::start("probe-spin-p3", "memory:", &[&flags[..], more].concat())
}

async fn keys_come_page_by_page_from(store: &str) {
    let host = Host::start("probe-spin-p3", store, &["--memory-limit", "4MiB"]);
    says(&get(host.address, "/count-keys").await, "0 Ok(())");
    // More than two pages of 500.
    for prefix in ["a", "b"] {
        says(&get(host.address, &format!("/fill?{prefix}=600")).await, "filled");
    }
    says(&get(host.address, "/count-keys").await, "1200 Ok(())");
    // A guest may leave the rest where it is.
    says(&get(host.address, "/first-key").await, "true Ok(())");
    // Keys have 1,000 bytes, and count as what the request reads.
    for prefix in ["c", "d", "e", "f", "g"] {
        says(&get(host.address, &format!("/fill?{prefix}=700")).await, "filled");
    }
    let some = get(host.address, "/count-keys").await;
    let (count, outcome) = some.text().split_once(' ').unwrap();
    assert!(outcome.contains("more values than its memory holds"), "{some:?}");
    // 4 MiB of them, but for a page, which Redis makes as large as it likes.
    let count: usize = count.parse().unwrap();
    assert!((2_000..3_950).contains(&count), "{some:?}");
}

#[tokio::test]
async fn keys_come_page_by_page_from_memory() {
    keys_come_page_by_page_from("memory:").await;
}

#[tokio::test]
async fn keys_come_page_by_page_from_redis() {
    let redis = Redis::start().unwrap();
    keys_come_page_by_page_from(&redis.url()).await;
}

#[tokio::test]
async fn statements_of_one_connection_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let host = with_sqlite(&dir);
    says(&get(host.address, "/sqlite?default=CREATE%20TABLE%20t%20(x)").await, ": ");
    // Long enough to be looked at while it runs, whether somebody still waits for it.
    let statement = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO t SELECT i FROM n";
    let statement = utf8_percent_encode(statement, NON_ALPHANUMERIC);
    says(&get(host.address, &format!("/sqlite-at-once?20={statement}")).await, "20 []");
    let count = get(host.address, "/sqlite?default=SELECT%20count(*)%20AS%20n%20FROM%20t").await;
    says(&count, "n: 100000");
}

/// A result that is read slowly, or not to its end, keeps nothing from going on.
#[tokio::test]
async fn a_connection_is_free_while_its_rows_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let host = with_sqlite(&dir);
    let setup = "CREATE%20TABLE%20t%20(x),INSERT%20INTO%20t%20VALUES%20(1)%2C(2)%2C(3)";
    get(host.address, &format!("/sqlite?default={setup}")).await;
    let path =
        "/sqlite-between?default=SELECT%20x%20FROM%20t,UPDATE%20t%20SET%20x%20=%20x%20%2B%201";
    says(&get(host.address, path).await, "2");
    let sum = get(host.address, "/sqlite?default=SELECT%20sum(x)%20AS%20n%20FROM%20t").await;
    says(&sum, "n: 12");
    // What a statement changes does not hang on whether its rows are taken.
    let path = "/sqlite-between?default=UPDATE%20t%20SET%20x%20=%200%20RETURNING%20x,SELECT%201";
    says(&get(host.address, path).await, "2");
    let sum = get(host.address, "/sqlite?default=SELECT%20sum(x)%20AS%20n%20FROM%20t").await;
    says(&sum, "n: 0");
}

#[tokio::test]
async fn commands_of_one_connection_to_redis_run_at_once() {
    let redis = Redis::start().unwrap();
    let host = with_setting(&format!("redis={}", redis.url()), &[]);
    let counts: Vec<_> = (1..=100).map(|count| count.to_string()).collect();
    says(&get(host.address, "/redis-incr-at-once?n=100").await, &counts.join(" "));
    // As many as one request may have open, however it asks.
    says(&get(host.address, "/redis-open-at-once?20").await, "16 4");
    // They are closed with their request.
    says(&get(host.address, "/redis-open-at-once?16").await, "16 0");

    let mut client = Client::connect(host.address).await;
    let first = client.post_with_key("/redis-incr-at-once?once=50", "k").await;
    let again = client.post_with_key("/redis-incr-at-once?once=50", "k").await;
    assert_eq!(again.text(), first.text());
    assert_eq!(again.headers["idempotent-replayed"], "true");
    says(&call(&host, "/redis-get", "once").await, "50");
}

#[tokio::test]
async fn statements_of_one_connection_to_postgres_run_at_once() {
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    let host = with_setting(&format!("postgres={}", postgres.url()), &[]);
    says(&call(&host, "/pg-execute", "CREATE TABLE t (x int)").await, "0");
    says(&call(&host, "/pg-at-once", "50 INSERT INTO t VALUES (1), (2)").await, "100");
    says(&call(&host, "/pg4", "SELECT count(*) FROM t").await, "DbValue::Int64(100)");
    let columns = call(&host, "/pg-columns", "SELECT x, 'a' AS y FROM t WHERE false").await;
    says(&columns, "x DbDataType::Int32, y DbDataType::Str");
    fails(&call(&host, "/pg-at-once", "2 SELEC").await, "42601");
}

#[tokio::test]
async fn a_server_with_an_authority_of_its_own_is_trusted_where_the_guest_says_so() {
    let authority = Authority::new().unwrap();
    let tls = authority.tls(&["localhost"], Clients::Any).unwrap();
    let postgres = Postgres::start_with_tls(Durability::Unsynced, &tls).unwrap();
    let server = format!("localhost:{}", postgres.port());
    let setting = format!("postgres={}", postgres.url_with(&server, "sslmode=require"));
    let flags = ["--setting", &setting, "--outgoing-host", "localhost", "--outgoing-private"];
    let host = Host::start("probe-spin-p3", "memory:", &flags);
    for path in ["/pg-build", "/pg-build-async"] {
        fails(&get(host.address, path).await, "UnknownIssuer");
        fails(&call(&host, path, "nonsense").await, "no certificate");
    }
    let certificate = std::fs::read_to_string(authority.certificate()).unwrap();
    let trusted = format!("authority={certificate}");
    let host =
        Host::start("probe-spin-p3", "memory:", &[&flags[..], &["--setting", &trusted]].concat());
    for path in ["/pg-build", "/pg-build-async"] {
        says(&get(host.address, path).await, "[[DbValue::Boolean(true)]]");
    }
    // Without the builder it is not.
    fails(&call(&host, "/pg4", "SELECT 1").await, "UnknownIssuer");
}
