//! Opening what cannot be opened: the message says what is wrong and holds no password.

use tally_state::{Metrics, OpenError, Options, State};
use tally_testkit::{Durability, Postgres, Redis, TEST_PASSWORD, free_port};

use crate::{open, patient, run};

/// What is planted as a password, to be looked for in messages.
const PLANTED: &str = "hunter2";

/// Opens a URL, which must fail, and checks the message.
async fn refuses(url: &str, says: &[&str]) -> OpenError {
    let error = match State::open(url, Options::default(), Metrics::default()).await {
        Ok(state) => panic!("{url} was opened as {}", state.description()),
        Err(error) => error,
    };
    for text in [error.to_string(), format!("{error:?}")] {
        for part in says {
            assert!(text.contains(part), "{text:?} for {url} does not say {part:?}");
        }
        assert!(!text.contains(PLANTED) && !text.contains(TEST_PASSWORD), "{text}");
    }
    error
}

async fn refuses_url(url: &str, says: &[&str]) {
    let error = refuses(url, says).await;
    assert!(matches!(error, OpenError::Url(_)), "{error:?}");
}

async fn refuses_backend(url: &str, says: &[&str]) {
    let error = refuses(url, says).await;
    assert!(matches!(error, OpenError::Backend(_)), "{error:?}");
}

/// Fails to open what may be there later.
async fn is_away(url: &str, says: &[&str]) {
    let error = refuses(url, says).await;
    assert!(matches!(error, OpenError::Away(_)), "{error:?}");
}

#[test]
fn a_wrong_url_is_refused_with_an_example_of_a_right_one() {
    run(async {
        for url in [
            "",
            "tally.db",
            "mysql://user:hunter2@host/db",
            "user:hunter2@host",
            "postgress://user:hunter2@host/db",
            "http://user:hunter2@host",
            "hunter2@host:6379",
            "redis//hunter2@host",
            " redis://:hunter2@host",
        ] {
            refuses_url(url, &["sqlite:PATH", "memory:", "redis://", "postgres://"]).await;
        }
        for url in [
            "redis:",
            "redis://",
            "redis://:hunter2@",
            "redis://user:hunter2@host:port",
            "redis://user:hunter2@host:99999",
            "redis://user:hunter2@host/database",
            "redis://user:hunter2@host/0?protocol=hunter2",
            "redis://:hunter2%ff@host",
            "rediss://user:hunter2@host:x",
        ] {
            refuses_url(url, &["redis://[USER:PASSWORD@]HOST"]).await;
        }
        for url in [
            "postgres:",
            "postgres://",
            "postgres:///db",
            "postgres://user:hunter2@host:port/db",
            "postgres://user:hunter2@host/db?sslmode=perhaps",
            "postgres://user:hunter2@host/db?colour=blue",
            "postgres://user:hunter2@host/db?connect_timeout=soon",
            "postgres://user:hunter2@host/db?password=hunter2&colour=blue",
            "postgres://user:hunter2%zz%ff@host/db?colour=blue",
            "postgres://user:hunter2@[::1/db",
            "postgres://user:hunter2@/db",
            "postgresql://user:hunter2@host:99999/db",
        ] {
            refuses_url(url, &["postgres://USER:PASSWORD@HOST"]).await;
        }
        refuses_url("sqlite:", &["sqlite:tally.db"]).await;
        refuses_url("sqlite://", &["sqlite:tally.db"]).await;
        refuses_url("sqlite::memory:", &["memory:"]).await;
    });
}

#[test]
fn a_store_that_is_not_there_is_named() {
    run(async {
        let port = free_port().unwrap();
        let address = format!("127.0.0.1:{port}");
        for (url, store) in [
            (format!("redis://user:hunter2@{address}/3"), "Redis"),
            (format!("redis://:hunter2@{address}"), "Redis"),
            (format!("postgres://user:hunter2@{address}/db"), "PostgreSQL"),
            (format!("postgresql://user:hunter2@{address}/db?sslmode=disable"), "PostgreSQL"),
        ] {
            is_away(&url, &[store, &address, "refused", "check that it runs"]).await;
        }
    });
}

#[test]
fn redis_says_why_it_lets_nobody_in() {
    let server = Redis::start().unwrap();
    run(async {
        let port = server.port();
        refuses_backend(&format!("redis://127.0.0.1:{port}/99"), &["database", "99"]).await;
        let client = redis::Client::open(server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let () = redis::cmd("CONFIG")
            .arg("SET")
            .arg("requirepass")
            .arg("the right one")
            .query_async(&mut connection)
            .await
            .unwrap();
        let check = "user and password";
        for url in [
            format!("redis://:hunter2@127.0.0.1:{port}"),
            format!("redis://nobody:hunter2@127.0.0.1:{port}"),
            format!("redis://127.0.0.1:{port}"),
        ] {
            refuses_backend(&url, &["Redis", check]).await;
        }
        let url = format!("redis://:the%20right%20one@127.0.0.1:{port}");
        let state = open(&url, patient()).await;
        state.worker().exists(&tally_state::Bucket::new("b").unwrap(), "key").await.unwrap();
        assert!(!state.description().to_string().contains("right"));
    });
}

#[test]
fn postgres_says_why_it_lets_nobody_in() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let address = format!("127.0.0.1:{}", server.port());
        let url = |login: &str, database: &str| format!("postgres://{login}@{address}/{database}");
        let check = "user, password and database";
        refuses_backend(
            &url("test_user:hunter2", "test_db"),
            &["password authentication failed", &address, check],
        )
        .await;
        refuses_backend(&url("nobody:hunter2", "test_db"), &["authentication failed", check]).await;
        refuses_backend(&url("test_user", "test_db"), &["password", check]).await;
        refuses_backend(
            &url("test_user:test_pass", "missing_db"),
            &["missing_db", "does not exist", check],
        )
        .await;
        refuses_backend(
            &format!("{}?sslmode=require", url("test_user:test_pass", "test_db")),
            &["TLS"],
        )
        .await;
        let state = open(&server.url(), patient()).await;
        let description = format!("{:?}", state.description());
        assert!(description.contains(&address), "{description}");
        assert!(!description.contains(TEST_PASSWORD), "{description}");
        assert!(description.contains("fsync=off"), "the test's server is not durable");
    });
}

#[test]
fn another_kind_of_server_is_no_store() {
    let redis = Redis::start().unwrap();
    let postgres = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let address = format!("127.0.0.1:{}", postgres.port());
        refuses(&format!("redis://u:hunter2@{address}"), &["Redis", &address]).await;
        let address = format!("127.0.0.1:{}", redis.port());
        refuses(&format!("postgres://u:hunter2@{address}/d"), &["PostgreSQL", &address]).await;
    });
}

#[test]
fn a_file_that_cannot_be_a_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("notes.txt");
    std::fs::write(&text, "Not a database, but some notes.\n".repeat(200)).unwrap();
    let broken = dir.path().join("broken.db");
    std::fs::write(&broken, [b"SQLite format 3\0".as_slice(), &[0xff; 4_096]].concat()).unwrap();
    run(async {
        for path in [&text, &broken] {
            let path = path.display().to_string();
            refuses_backend(&format!("sqlite:{path}"), &[&path, "not a database"]).await;
        }
        let missing = dir.path().join("missing/tally.db").display().to_string();
        refuses_backend(&format!("sqlite:{missing}"), &[&missing, "folder exists"]).await;
        let folder = dir.path().display().to_string();
        refuses_backend(&format!("sqlite:{folder}"), &[&folder, "unable to open"]).await;
    });
    assert!(std::fs::read_to_string(&text).unwrap().starts_with("Not a database"), "untouched");
}
