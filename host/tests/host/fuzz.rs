//! Random bytes in the place of requests.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use tally_testkit::fuzz;

use crate::host::Host;

/// What may be said to a client about a request that it has made up.
const STATUSES: [&str; 14] = [
    "200", "400", "404", "405", "408", "409", "411", "413", "414", "417", "422", "431", "501",
    "505",
];

/// Whatever a client sends, it gets answers of HTTP or none, no status that blames the host, and others are
/// served as before.
#[test]
fn fuzz_request_heads() {
    let host = Host::start("counter", "memory:", &["--head-timeout", "2s", "--body-timeout", "2s"]);
    let seeds: [&[u8]; 7] = [
        b"GET /report HTTP/1.1\r\nhost: example.com\r\n\r\n",
        b"POST /increment HTTP/1.1\r\nhost: example.com\r\ncontent-length: 3\r\n\r\nabc",
        b"POST /increment HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET http://example.com:80/report?a=b%20c HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: [::1]:80\r\nidempotency-key: \"k\"\r\n\r\n",
        b"HEAD /report HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ];
    let words: [&[u8]; 20] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b"\0",
        b"\xff",
        b"%",
        b"%zz",
        b"//",
        b"/../",
        b"#",
        b"@",
        b"content-length: 5\r\n",
        b"transfer-encoding: chunked\r\n",
        b"host: other\r\n",
        b"expect: 100-continue\r\n",
        b"upgrade: h2c\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n\r\n",
    ];
    fuzz("request_heads", &seeds, &words, |input| {
        let mut stream = TcpStream::connect(host.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // It may be refused before it is sent.
        let _ = stream.write_all(input);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!read.is_err_and(|error| timed_out(&error)), "the connection stays open");
        if input.starts_with(b"PRI") || answer.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&answer);
        let status = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "));
        // HTTP/2 is spoken to what begins as its preface.
        let status = status.and_then(|rest| rest.get(..3)).unwrap_or_else(|| panic!("{text}"));
        assert!(STATUSES.contains(&status) || status == "100", "{text}");
    });
    let mut stream = TcpStream::connect(host.address).unwrap();
    stream.write_all(b"GET /report HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let log = host.log();
    assert!(!log.contains("panic") && !log.contains("ERROR"), "{log}");
}
