//! PostgreSQL that cannot be used as it is set up, and what is said of it.

use std::time::Duration;

use tally_state::{Metrics, OpenError, Options, State};
use tally_testkit::{Durability, PgBouncer, Postgres};

use crate::{bucket, increment, open, patient, postgres::session, refuses, refuses_with, run};

#[test]
fn a_user_without_rights_is_told_which_to_ask_for() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    let url = server.url().replace("test_user:", "limited:");
    run(async {
        let admin = session(&server.url()).await;
        let tell = async |sql: &str| admin.batch_execute(sql).await.unwrap();
        tell("CREATE ROLE limited LOGIN PASSWORD 'test_pass'; REVOKE ALL ON SCHEMA public FROM public").await;
        let grant = "GRANT USAGE, CREATE ON SCHEMA public TO limited";
        refuses(&url, &["may not create tables", grant]).await;
        tell("GRANT USAGE ON SCHEMA public TO limited").await;
        refuses(&url, &["may not create tables", grant]).await;
        // Tables of somebody else's.
        assert_eq!(increment(&open(&server.url()).await.worker()).await, Ok(1));
        refuses(&url, &["lacks rights", "UPDATE", "TO limited"]).await;
        tell("GRANT SELECT ON tally_kv TO limited").await;
        let options = Options { read_only: true, ..patient() };
        let look = State::open(&url, options, Metrics::default()).await.unwrap();
        assert_eq!(look.worker().get(&bucket(), "key").await, Ok(Some("1".into())));
        tell("GRANT ALL ON ALL TABLES IN SCHEMA public TO limited").await;
        assert_eq!(increment(&open(&url).await.worker()).await, Ok(2));
        tell("ALTER ROLE limited CONNECTION LIMIT 3").await;
        refuses(&url, &["3 sessions", "CONNECTION LIMIT 4"]).await;
        tell("ALTER ROLE limited CONNECTION LIMIT -1; REVOKE CONNECT ON DATABASE test_db FROM public").await;
        refuses(&url, &["GRANT CONNECT"]).await;
        tell("DROP TABLE tally_kv; GRANT CONNECT ON DATABASE test_db TO limited").await;
        tell(grant).await;
        tell("DROP TABLE IF EXISTS tally_write").await;
        assert_eq!(increment(&open(&url).await.worker()).await, Ok(1), "the advice helps");
    });
}

#[test]
fn a_pooler_that_shares_sessions_is_refused_and_one_that_does_not_is_used() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        for mode in ["transaction", "statement"] {
            let pooler = PgBouncer::start(&server, mode).unwrap();
            let url = server.url_at(pooler.port());
            // With any number of processes that are free to be used.
            let mut busy = Vec::new();
            for _ in 0..3 {
                refuses(&url, &["pool_mode=transaction or statement", "pool_mode=session"]).await;
                let other = session(&url).await;
                other.simple_query("SELECT pg_sleep(0.01)").await.unwrap();
                busy.push(other);
            }
            let timeouts = busy[0].simple_query("SHOW lock_timeout").await.unwrap();
            let timeout = timeouts.iter().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            assert_eq!(timeout, Some("0"), "nothing was set");
        }
        let pooler = PgBouncer::start(&server, "session").unwrap();
        let state = open(&server.url_at(pooler.port())).await;
        for count in 1..=20 {
            assert_eq!(increment(&state.worker()).await, Ok(count));
        }
    });
}

#[test]
fn a_standby_and_a_database_that_is_read_only_are_refused_with_what_to_do() {
    let mut server = Postgres::start(Durability::Unsynced).unwrap();
    let primary = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        assert_eq!(increment(&open(&server.url()).await.worker()).await, Ok(1));
        let set = "ALTER DATABASE test_db SET default_transaction_read_only";
        let admin = session(&server.url()).await;
        admin.batch_execute(&format!("{set} = on")).await.unwrap();
        refuses(&server.url(), &["default_transaction_read_only", "ALTER DATABASE"]).await;
        admin
            .batch_execute(&format!("SET default_transaction_read_only = off; {set} = off"))
            .await
            .unwrap();
        server.stop().unwrap();
        server.become_standby().unwrap();
        server.restart().unwrap();
        refuses(&server.url(), &["is a standby", "name the primary"]).await;
        let options = Options { read_only: true, ..patient() };
        let look = State::open(&server.url(), options.clone(), Metrics::default()).await.unwrap();
        assert_eq!(look.worker().get(&bucket(), "key").await, Ok(Some("1".into())));
        refuses_with(&primary.url(), options, &["tally_kv"]).await;
        // Of two, the one that takes writes.
        let both = server.url().replace('@', &format!("@127.0.0.1:{},", server.port()));
        let both = both.replace(
            &format!(",127.0.0.1:{}", server.port()),
            &format!(",127.0.0.1:{}", primary.port()),
        );
        let state = open(&both).await;
        assert_eq!(increment(&state.worker()).await, Ok(1));
        assert_eq!(increment(&open(&primary.url()).await.worker()).await, Ok(2));
    });
}

/// A server that has stopped may still take connections: it accepts them and says nothing.
#[test]
fn of_several_hosts_a_silent_one_leaves_time_for_the_next() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = server.url().replace('@', &format!("@127.0.0.1:{port},"));
    run(async {
        let options = Options { connect_timeout: Duration::from_secs(3), ..patient() };
        let state = State::open(&url, options.clone(), Metrics::default()).await.unwrap();
        assert_eq!(increment(&state.worker()).await, Ok(1));
        let nobody = server.url().replace(&server.port().to_string(), &port.to_string());
        let url = nobody.replace('@', &format!("@127.0.0.1:{port},"));
        let Err(refused) = State::open(&url, options, Metrics::default()).await else {
            panic!("{url} was opened");
        };
        let each = refused.to_string().matches(&format!("127.0.0.1:{port}: no connection")).count();
        assert!(matches!(refused, OpenError::Away(_)) && each == 2, "{refused}");
    });
}
