//! Who is trusted, who is let in, and what is said to those who are not.

use std::{fs, path::Path, time::Duration};

use tally_state::Options;
use tally_testkit::{Authority, Clients, Durability, Identity, Postgres, Redis, Tls};

use crate::{PLANTED, counts, patient, refuses, refuses_with, run};

/// A Redis server with a certificate for these names.
fn redis(tls: &Tls) -> (Redis, u16) {
    let server = Redis::start_with_tls(tls).unwrap();
    let port = server.tls_port().unwrap();
    (server, port)
}

fn postgres(tls: &Tls) -> Postgres {
    Postgres::start_with_tls(Durability::Unsynced, tls).unwrap()
}

fn cacert(authority: &Authority) -> String {
    format!("cacert={}", authority.certificate().display())
}

fn roots(authority: &Authority) -> String {
    format!("sslrootcert={}", authority.certificate().display())
}

/// Parameters that name a client's files.
fn shown(certificate: &str, key: &str, identity: &Identity) -> String {
    let path = Path::display;
    format!("{certificate}={}&{key}={}", path(&identity.certificate), path(&identity.key))
}

#[test]
fn redis_is_trusted_by_its_authority_and_its_name() {
    let (authority, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (_server, port) = redis(&authority.tls(&["localhost"], Clients::Any).unwrap());
    run(async {
        let url = |place: &str, query: &str| format!("rediss://:{PLANTED}@{place}:{port}?{query}");
        let trusted = format!("rediss://localhost:{port}?{}", cacert(&authority));
        counts(&trusted).await;
        let name_a_file = ["UnknownIssuer", "cacert=PATH", "localhost"];
        refuses(&url("localhost", ""), &name_a_file).await;
        refuses(&url("localhost", &cacert(&other)), &name_a_file).await;
        let other_names = ["127.0.0.1", "localhost", "for other names"];
        refuses(&url("127.0.0.1", &cacert(&authority)), &other_names).await;
    });
}

#[test]
fn postgres_is_trusted_as_its_mode_says() {
    let (authority, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    let server = postgres(&authority.tls(&["localhost"], Clients::Any).unwrap());
    run(async {
        let url = |host: &str, mode: &str, more: &str| {
            let place = format!("{host}:{}", server.port());
            server.url_with(&place, &format!("sslmode={mode}&{more}"))
        };
        let (known, unknown) = (roots(&authority), roots(&other));
        counts(&url("localhost", "verify-full", &known)).await;
        for (mode, more) in [
            ("disable", ""),
            ("prefer", ""),
            ("require", ""),
            ("require", known.as_str()),
            ("verify-ca", known.as_str()),
        ] {
            counts(&url("127.0.0.1", mode, more)).await;
        }
        let other_names = ["for other names", "sslmode=verify-ca"];
        refuses(&url("127.0.0.1", "verify-full", &known), &other_names).await;
        for (mode, more) in [
            ("verify-full", ""),
            ("verify-ca", ""),
            ("verify-full", unknown.as_str()),
            ("verify-ca", unknown.as_str()),
            ("require", unknown.as_str()),
        ] {
            let url = url("localhost", mode, more);
            refuses(&url, &["UnknownIssuer", "sslrootcert=PATH"]).await;
        }
    });
}

#[test]
fn a_connection_to_postgres_is_encrypted_where_the_server_has_tls() {
    let authority = Authority::new().unwrap();
    let with = postgres(&authority.tls(&["localhost"], Clients::Any).unwrap());
    let without = Postgres::start(Durability::Unsynced).unwrap();
    run(async {
        for (server, mode, encrypted) in [
            (&with, "disable", false),
            (&with, "prefer", true),
            (&with, "require", true),
            (&without, "prefer", false),
            (&without, "disable", false),
        ] {
            let place = format!("127.0.0.1:{}", server.port());
            let _state = counts(&server.url_with(&place, &format!("sslmode={mode}"))).await;
            let observer = crate::observer::session(&server.url()).await;
            let select = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                WHERE application_name = 'tally'";
            let row = observer.query_one(select, &[]).await.unwrap();
            assert_eq!(row.get::<_, bool>(0), encrypted, "sslmode={mode}");
        }
        for mode in ["require", "verify-ca", "verify-full"] {
            let place = format!("127.0.0.1:{}", without.port());
            let url = without.url_with(&place, &format!("sslmode={mode}"));
            refuses(&url, &["does not support TLS", "ssl to on", "another sslmode"]).await;
        }
    });
}

#[test]
fn redis_without_tls_is_told_from_redis_with_it() {
    let authority = Authority::new().unwrap();
    let (server, port) = redis(&authority.tls(&["localhost"], Clients::Any).unwrap());
    run(async {
        refuses(&format!("redis://:{PLANTED}@localhost:{port}"), &["write rediss"]).await;
        // The server waits for the rest of what it takes for a command, or answers an error.
        let brief = Options { connect_timeout: Duration::from_millis(500), ..patient() };
        let url = format!("rediss://:{PLANTED}@localhost:{}", server.port());
        refuses_with(&url, brief, &["TLS", "port"]).await;
    });
}

#[test]
fn redis_that_demands_a_certificate_gets_one_or_says_so() {
    let (authority, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    let tls = authority.tls(&["localhost"], Clients::WithCertificate).unwrap();
    let (_server, port) = redis(&tls);
    let (known, unknown) = (authority.sign(&[]).unwrap(), other.sign(&[]).unwrap());
    run(async {
        let url = |more: &str| format!("rediss://localhost:{port}?{}&{more}", cacert(&authority));
        counts(&url(&shown("cert", "key", &known))).await;
        refuses(&url(""), &["client certificate", "cert=PATH and key=PATH"]).await;
        refuses(&url(&shown("cert", "key", &unknown)), &["client certificate"]).await;
    });
}

#[test]
fn postgres_that_demands_a_certificate_gets_one_or_says_so() {
    let (authority, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    let server = postgres(&authority.tls(&["localhost"], Clients::WithCertificate).unwrap());
    let (known, unknown) = (authority.sign(&[]).unwrap(), other.sign(&[]).unwrap());
    run(async {
        let url = |more: &str| {
            let place = format!("localhost:{}", server.port());
            server.url_with(&place, &format!("sslmode=verify-full&{}&{more}", roots(&authority)))
        };
        counts(&url(&shown("sslcert", "sslkey", &known))).await;
        refuses(&url(""), &["client certificate", "sslcert=PATH and sslkey=PATH"]).await;
        refuses(&url(&shown("sslcert", "sslkey", &unknown)), &["client certificate"]).await;
    });
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new().unwrap();
    let (one, two) = (authority.sign(&["one"]).unwrap(), authority.sign(&["two"]).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (missing, empty) = (dir.path().join("missing.pem"), dir.path().join("empty.pem"));
    fs::write(&empty, "no certificate").unwrap();
    let mixed = Identity { key: two.key, ..one.clone() };
    let keyless = Identity { key: empty.clone(), ..one };
    run(async {
        for file in [&missing, &empty] {
            let path = file.display().to_string();
            let says = ["certificates", path.as_str()];
            refuses(&format!("rediss://h?cacert={path}"), &says).await;
            let url = format!("postgres://h/d?sslmode=verify-ca&sslrootcert={path}");
            refuses(&url, &says).await;
        }
        let url = format!("rediss://h?{}", shown("cert", "key", &mixed));
        refuses(&url, &["one.pem", "two.key", "together"]).await;
        let url = format!("postgres://h/d?{}", shown("sslcert", "sslkey", &keyless));
        refuses(&url, &["empty.pem", "unencrypted private key"]).await;
    });
}
