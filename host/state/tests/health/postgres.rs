//! PostgreSQL sessions that take no writes, end, or hang.

use std::time::Duration;

use futures_util::future::join_all;
use tally_state::{Error, Metrics, Options, Scope, State};
use tally_testkit::{Durability, Postgres, Proxy, Way};
use tokio_postgres::{Client, NoTls};

use crate::{bucket, increment, not_applied, open, patient, run, until, until_health};

/// A session past the code under test.
pub(crate) async fn session(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(async move {
        // Ends with an error when the test stops the server.
        let _ = connection.await;
    });
    client
}

/// Ends all sessions but the one that asks.
const END_OTHERS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

#[test]
fn a_session_that_was_made_while_there_was_nothing_to_write_to_is_not_kept() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let state = open(&server.url()).await;
        let handle = state.worker();
        assert_eq!(increment(&handle).await, Ok(1));
        until_health(&state, None).await;
        let admin = session(&server.url()).await;
        let set = "ALTER DATABASE test_db SET default_transaction_read_only";
        admin.batch_execute(&format!("{set} = on; {END_OTHERS}")).await.unwrap();
        until_health(&state, Some("default_transaction_read_only")).await;
        not_applied(increment(&handle).await, "default_transaction_read_only");
        let reset = "SET default_transaction_read_only = off;
            ALTER DATABASE test_db RESET default_transaction_read_only";
        admin.batch_execute(reset).await.unwrap();
        // By themselves, without a restart.
        until_health(&state, None).await;
        assert_eq!(increment(&handle).await, Ok(2));
        // And one that came to be so while it was open.
        for (on, says) in [("on", Some("25006")), ("off", None)] {
            let alter = format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
            admin.batch_execute(&alter).await.unwrap();
            admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
            if says.is_some() {
                until("writes are refused", || async { increment(&handle).await.is_err() }).await;
            }
            until_health(&state, says.map(|_| "read")).await;
        }
        assert!(increment(&handle).await.is_ok());
    });
}

/// In this encoding ő comes before ü, and in UTF-8 behind it.
#[test]
fn keys_have_their_own_numbers_whatever_the_order_of_the_databases_encoding() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let admin = session(&server.url()).await;
        let create = "CREATE DATABASE latin ENCODING 'LATIN2' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
        admin.batch_execute(create).await.unwrap();
        let state = open(&server.url().replace("/test_db", "/latin")).await;
        let (handle, bucket) = (state.worker(), bucket());
        assert_eq!(handle.increment(&bucket, "ü", 1_000).await, Ok(1_000));
        let requests = (0..200_u8).map(|number| {
            let handle = handle.scoped(&Scope::new([number; 16], [number; 16]));
            let (key, bucket) = (if number % 2 == 0 { "ü" } else { "ő" }, bucket.clone());
            async move { (key, handle.increment(&bucket, key, 1).await.unwrap()) }
        });
        let mut counts = join_all(requests).await;
        counts.sort_unstable();
        let of =
            |key: &'static str, first: i64| (first..first + 100).map(move |count| (key, count));
        let mut expected: Vec<_> = of("ü", 1_001).chain(of("ő", 1)).collect();
        expected.sort_unstable();
        assert_eq!(counts, expected);
    });
}

#[test]
fn a_standby_serves_nobody_until_it_is_promoted() {
    let mut server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let state = open(&server.url()).await;
        let handle = state.worker();
        assert_eq!(increment(&handle).await, Ok(1));
        server.stop().unwrap();
        server.become_standby().unwrap();
        server.restart().unwrap();
        until_health(&state, Some("standby")).await;
        not_applied(increment(&handle).await, "standby");
        until("reads find it out", || async {
            let read = handle.get(&bucket(), "key").await;
            matches!(read, Err(Error::NotApplied(text)) if text.contains("standby"))
        })
        .await;
        session(&server.url()).await.batch_execute("SELECT pg_promote()").await.unwrap();
        until_health(&state, None).await;
        assert_eq!(increment(&handle).await, Ok(2));
    });
}

#[test]
fn a_session_that_ended_for_being_idle_has_read_nothing_of_what_was_sent() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    run(async {
        let admin = session(&server.url()).await;
        admin.batch_execute("ALTER ROLE test_user SET idle_session_timeout = '1s'").await.unwrap();
        let options = Options { connect_timeout: Duration::from_secs(2), ..patient() };
        let url = server.url_at(proxy.port());
        let state = State::open(&url, options, Metrics::default()).await.unwrap();
        let handle = state.worker();
        let mut seen = 0;
        for _ in 0..20 {
            // Both lanes have a session that was not idle for long.
            for key in 0..16 {
                while handle.increment(&bucket(), &format!("lane {key}"), 1).await.is_err() {}
            }
            while increment(&handle).await.is_err() {}
            // What is sent next waits on its way, until the server has ended the session.
            proxy.stall(Way::Requests, 0);
            let bucket = bucket();
            let answers = join_all((0..6).map(|number| {
                let (handle, bucket) = (handle.clone(), bucket.clone());
                async move {
                    match number % 3 {
                        0 => handle.increment(&bucket, "key", 1000).await.map(drop),
                        1 => handle.set(&bucket, "other", "1".into()).await,
                        _ => handle.delete(&bucket, "third").await,
                    }
                }
            }))
            .await;
            for answer in answers {
                match answer {
                    Err(Error::NotApplied(text)) => seen += usize::from(text.contains("57P05")),
                    other => panic!("it was never read, and ends as {other:?}"),
                }
            }
            proxy.cut_all();
            if seen > 5 {
                break;
            }
        }
        assert!(seen > 5, "none met the end of its session");
        let value = handle.get(&bucket(), "key").await.unwrap().unwrap();
        assert!(value.len() < 3, "{value:?}: nothing was applied");
    });
}

#[test]
fn users_that_begin_with_a_stricter_isolation_count_without_failures() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let admin = session(&server.url()).await;
        let alter = "ALTER ROLE test_user SET default_transaction_isolation = 'serializable'";
        admin.batch_execute(alter).await.unwrap();
        let hosts = [open(&server.url()).await, open(&server.url()).await];
        // Fails whatever is not done at the isolation that it counts on.
        let strict = "CREATE FUNCTION strict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF current_setting('transaction_isolation') <> 'read committed' THEN
                    RAISE 'isolation is %', current_setting('transaction_isolation');
                END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER strict BEFORE INSERT OR UPDATE OR DELETE ON tally_kv
                FOR EACH STATEMENT EXECUTE FUNCTION strict()";
        admin.batch_execute(strict).await.unwrap();
        let callers = hosts.iter().flat_map(|host| std::iter::repeat_n(host.worker(), 4)).map(
            |handle| async move {
                for _ in 0..50 {
                    increment(&handle).await.unwrap();
                }
                handle.expire(&bucket(), "key", None).await.unwrap();
            },
        );
        join_all(callers).await;
        assert_eq!(increment(&hosts[0].worker()).await, Ok(8 * 50 + 1));
        hosts[0].worker().delete(&bucket(), "key").await.unwrap();
    });
}

#[test]
fn a_standby_that_is_waited_for_in_vain_leaves_no_sessions_behind() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let timeout = Duration::from_millis(400);
        let options = Options { timeout, ..patient() };
        let state = State::open(&server.url(), options, Metrics::default()).await.unwrap();
        let handle = state.worker();
        while increment(&handle).await.is_err() {}
        let admin = session(&server.url()).await;
        let wait_for = async |standby: &str| {
            let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'");
            admin.batch_execute(&set).await.unwrap();
            admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        };
        wait_for("gone").await;
        until("commits wait", || async {
            matches!(increment(&handle).await, Err(Error::Unknown(_)))
        })
        .await;
        for number in 0..16 {
            // Each waits until it is given up, for no row that another has locked.
            let _ = handle.increment(&bucket(), &format!("key {number}"), 1).await;
        }
        let sessions = "SELECT count(*) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let left: i64 = admin.query_one(sessions, &[]).await.unwrap().get(0);
        assert!(left <= 6, "{left} sessions");
        until_health(&state, Some("")).await;
        wait_for("").await;
        until_health(&state, None).await;
        until("it counts again", || async { increment(&handle).await.is_ok() }).await;
    });
}

#[test]
fn a_right_that_is_taken_away_is_said() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        let admin = session(&server.url()).await;
        let create = "CREATE ROLE limited LOGIN PASSWORD 'test_pass';
            GRANT CREATE ON SCHEMA public TO limited";
        admin.batch_execute(create).await.unwrap();
        assert_eq!(increment(&open(&server.url()).await.worker()).await, Ok(1));
        let rights = "ALL ON ALL TABLES IN SCHEMA public";
        admin.batch_execute(&format!("GRANT {rights} TO limited")).await.unwrap();
        let state = open(&server.url().replace("test_user:", "limited:")).await;
        until_health(&state, None).await;
        admin.batch_execute(&format!("REVOKE {rights} FROM limited")).await.unwrap();
        until_health(&state, Some("permission denied")).await;
        let read = state.health().await.into_iter().find(|part| part.name == "read").unwrap();
        assert!(read.failure.is_some() && read.is_needed, "{read:?}");
        admin.batch_execute(&format!("GRANT {rights} TO limited")).await.unwrap();
        until_health(&state, None).await;
    });
}
