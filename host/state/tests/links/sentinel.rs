//! Finding the master: through which sentinels, and what is said where none leads to it.

use std::collections::BTreeSet;

use tally_state::{Bucket, Error, Scope};
use tally_testkit::{Authority, Clients, Redis, SERVICE, Sentinel, ask, free_port};

use crate::{BUCKET, PLANTED, counts, refuses, run, until};

/// Tells a server something that it takes.
fn tell(port: u16, command: &str) {
    let reply = ask(port, command).unwrap();
    assert!(reply.starts_with("+OK"), "{command}: {reply}");
}

#[test]
fn any_sentinel_leads_to_the_master() {
    let server = Redis::start().unwrap();
    let sentinel = Sentinel::start(server.port(), 1, None).unwrap();
    run(async {
        let (port, nobody) = (sentinel.port(), free_port().unwrap());
        let state = counts(&format!("redis-sentinel://127.0.0.1:{port}/{SERVICE}")).await;
        let description = state.description();
        assert_eq!(description.location, format!("127.0.0.1:{port}/{SERVICE}/0"));
        let warning = description.warning.as_deref().unwrap();
        assert!(warning.contains("min-replicas-to-write"), "{warning}");
        // Some are away, and each is asked.
        for places in [
            format!("127.0.0.1:{nobody},127.0.0.1:{port}"),
            format!("127.0.0.1:{port},127.0.0.1:{nobody}"),
        ] {
            counts(&format!("redis-sentinel://{places}/{SERVICE}/3")).await;
        }
        let reply = ask(server.port(), "INFO keyspace").unwrap();
        assert!(reply.contains("db3:keys=2"), "{reply}");
        let url = format!("redis-sentinel://:{PLANTED}@127.0.0.1:{nobody}/{SERVICE}");
        refuses(&url, &["no sentinel leads to a master", &nobody.to_string(), "refused"]).await;
        let url = format!("redis-sentinel://:{PLANTED}@127.0.0.1:{port}/another");
        refuses(&url, &["it watches no service 'another'"]).await;
        // A server is no sentinel.
        let url = format!("redis-sentinel://127.0.0.1:{}/{SERVICE}", server.port());
        refuses(&url, &["no sentinel leads to a master"]).await;
    });
}

#[test]
fn servers_and_sentinels_have_users_of_their_own() {
    let server = Redis::start().unwrap();
    let sentinel = Sentinel::start(server.port(), 1, None).unwrap();
    tell(server.port(), &format!("ACL SETUSER writer on >{PLANTED} ~* +@all"));
    tell(sentinel.port(), &format!("ACL SETUSER asker on >{PLANTED}2 +@all"));
    tell(sentinel.port(), "ACL SETUSER default off");
    run(async {
        let place = format!("127.0.0.1:{}/{SERVICE}", sentinel.port());
        let url = |login: &str, asker: &str, password: &str| {
            format!(
                "redis-sentinel://{login}{place}?sentinel_username={asker}&sentinel_password={password}"
            )
        };
        let (login, right) = (format!("writer:{PLANTED}@"), format!("{PLANTED}2"));
        counts(&url(&login, "asker", &right)).await;
        refuses(&url(&login, "asker", PLANTED), &["authentication failed"]).await;
        refuses(&url(&format!("writer:{PLANTED}x@"), "asker", &right), &["authentication failed"])
            .await;
        refuses(&format!("redis-sentinel://{login}{place}"), &["NOAUTH"]).await;
    });
}

#[test]
fn a_replica_that_a_sentinel_takes_for_the_master_is_not_used() {
    let master = Redis::start().unwrap();
    let replica = Redis::start().unwrap();
    tell(replica.port(), &format!("REPLICAOF 127.0.0.1 {}", master.port()));
    let stale = Sentinel::start(replica.port(), 1, None).unwrap();
    let right = Sentinel::start(master.port(), 1, None).unwrap();
    run(async {
        let (stale, right) = (stale.port(), right.port());
        let url = format!("redis-sentinel://127.0.0.1:{stale}/{SERVICE}");
        refuses(&url, &["its role is 'slave'", &replica.port().to_string()]).await;
        counts(&format!("redis-sentinel://127.0.0.1:{stale},127.0.0.1:{right}/{SERVICE}")).await;
    });
}

#[test]
fn sentinels_and_servers_are_reached_with_tls() {
    let authority = Authority::new().unwrap();
    let tls = authority.tls(&["127.0.0.1"], Clients::WithCertificate).unwrap();
    let client = authority.sign(&[]).unwrap();
    let server = Redis::start_with_tls(&tls).unwrap();
    let sentinel = Sentinel::start(server.tls_port().unwrap(), 1, Some(&tls)).unwrap();
    run(async {
        let url = |scheme: &str, query: &str| {
            format!("{scheme}://127.0.0.1:{}/{SERVICE}?{query}", sentinel.port())
        };
        let files = format!(
            "cacert={}&cert={}&key={}",
            authority.certificate().display(),
            client.certificate.display(),
            client.key.display()
        );
        counts(&url("rediss-sentinel", &files)).await;
        refuses(&url("rediss-sentinel", ""), &["cacert=PATH"]).await;
        refuses(&url("redis-sentinel", ""), &["write rediss"]).await;
    });
}

#[test]
fn a_connection_to_a_server_that_became_a_replica_is_made_anew() {
    anew_after_a_demotion(None);
}

/// What the script answers to one of several increments counts as well.
#[test]
fn a_connection_is_made_anew_for_writes_that_are_applied_once() {
    anew_after_a_demotion(Some(Scope::new([1; 16], [1; 16])));
}

fn anew_after_a_demotion(scope: Option<Scope>) {
    let server = Redis::start().unwrap();
    run(async {
        let state = counts(&server.url()).await;
        let (handle, bucket) = (state.worker(), Bucket::new(BUCKET).unwrap());
        let handle = scope.map_or(handle.clone(), |scope| handle.scoped(&scope));
        assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(1));
        // All connections but the one that asks.
        let connections = || -> BTreeSet<String> {
            let clients = ask(server.port(), "CLIENT LIST TYPE normal").unwrap();
            let others = clients.lines().filter(|line| !line.contains("cmd=client"));
            others
                .filter_map(|line| Some(line.split_once("id=")?.1.split_once(' ')?.0.into()))
                .collect()
        };
        let first = connections();
        assert!(!first.is_empty());
        tell(server.port(), &format!("REPLICAOF 127.0.0.1 {}", free_port().unwrap()));
        until(|| async {
            match handle.increment(&bucket, "key", 1).await {
                Err(Error::NotApplied(text)) if text.contains("READONLY") => {}
                answer => panic!("{answer:?}"),
            }
            connections().is_disjoint(&first)
        })
        .await;
        tell(server.port(), "REPLICAOF NO ONE");
        // New connections were refused, as a replica may be behind, and the next is tried soon.
        until(|| async { handle.increment(&bucket, "key", 0).await.is_ok() }).await;
        assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(2), "none was applied");
    });
}
