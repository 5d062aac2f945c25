//! Several requests on a connection, its end, and content that is too large: RFC 9112, 9; RFC 9110, 15.

use super::super::case::{Case, case};

/// Name, section, what is sent, what is asked for.
#[rustfmt::skip]
const WHOLE: &[(&str, &str, &[u8], &str)] = &[
    ("two requests at once", "9112 9.3.2", b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\nGET /authority HTTP/1.1\r\nhost: y\r\n\r\n", "200=Hello,_World! 200=y open"),
    ("three requests at once", "9112 9.3.2", b"GET /authority HTTP/1.1\r\nhost: x\r\n\r\nGET /authority HTTP/1.1\r\nhost: y\r\n\r\nGET /authority HTTP/1.1\r\nhost: z\r\n\r\n", "200=x 200=y 200=z open"),
    ("a request with content, and another", "9112 9.3.2", b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhelloGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200=5 200=Hello,_World! open"),
    ("two requests with an empty line between", "9112 2.2", b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200=5 200 open"),
    ("a request behind one that closes", "9112 9.6", b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200 close"),
    ("a request behind one of HTTP/1.0", "9112 9.3", b"GET /hello HTTP/1.0\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200 close"),
    ("a request and nonsense", "9112 9.3.2", b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n", "200 400 close"),
    ("nonsense and a request", "9112 9.3.2", b"nonsense\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close"),
    ("a bad host and a request", "9112 3.2", b"GET /hello HTTP/1.1\r\nhost: a b\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close / 400 200 open"),
    ("a bad coding and a request", "9112 6.1", b"POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400|501 close"),
    ("a bad chunk and a request", "9112 7.1", b"POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nx\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close"),
    ("GET with content", "9110 9.3.1", b"GET /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", "200=5 open / 400 any"),
    ("DELETE with content", "9110 9.3.5", b"DELETE /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", "200=5 open / 400|405 any"),
    ("OPTIONS with content", "9110 9.3.7", b"OPTIONS /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", "200=5 open / 400|405 any"),
    ("content that the handler does not read", "9112 9.3", b"POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", "200 any"),
    ("chunks that the handler does not read", "9112 9.3", b"POST /hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "200 any"),
    ("HTTP/1.0 without Host", "9112 3.2", b"GET /hello HTTP/1.0\r\n\r\n", "200 close"),
    ("HTTP/1.0 with keep-alive", "9112 9.3", b"GET /hello HTTP/1.0\r\nhost: x\r\nconnection: keep-alive\r\n\r\n", "200 any"),
    ("HTTP/1.0 with a bad host", "9112 3.2", b"GET /hello HTTP/1.0\r\nhost: a b\r\n\r\n", "400 close"),
    ("HTTP/1.0 with two hosts", "9112 3.2", b"GET /hello HTTP/1.0\r\nhost: x\r\nhost: y\r\n\r\n", "400 close"),
    ("HTTP/1.0 with a length", "9112 6.3", b"POST /length HTTP/1.0\r\ncontent-length: 5\r\n\r\nhello", "200=5 close"),
    ("HTTP/1.0 with chunks", "9112 6.1", b"POST /length HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "400|501 close / 200 close"),
    ("HTTP/1.0 with a length and chunks", "9112 6.1", b"POST /length HTTP/1.0\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello", "400|501 close"),
    ("HTTP/1.0 that waits for 100", "9110 10.1.1", b"POST /length HTTP/1.0\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\nhello", "200=5 close"),
    ("HTTP/1.0 with an upgrade", "9110 7.8", b"GET /hello HTTP/1.0\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", "200 close"),
    ("content that does not wait for 100", "9110 10.1.1", b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\nhello", "200=5 open"),
    ("chunks that do not wait for 100", "9110 10.1.1", b"POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "200=5 open"),
    ("100-continue in capitals", "9110 10.1.1", b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-Continue\r\n\r\nhello", "200=5 open"),
    ("content too large, of which nothing is sent", "9110 15.5.14", b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\n", "413 close"),
    ("content too large, of which some is sent", "9110 15.5.14", b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\nhello", "413 close"),
    ("content too large that waits for 100", "9110 15.5.14", b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\nexpect: 100-continue\r\n\r\n", "413 close"),
    ("content too large that looks like a request", "9112 11.2", b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "413 close"),
    ("content too large for a path that is not there", "9110 15.5.14", b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\n", "404|413 close"),
];

/// The same, where the client then shuts its side down.
#[rustfmt::skip]
const FINISHED: &[(&str, &str, &[u8], &str)] = &[
    ("a request", "9112 9.6", b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200=Hello,_World! close"),
    ("a request with content", "9112 9.6", b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", "200=5 close"),
    ("a request with chunks", "9112 9.6", b"POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "200=5 close"),
    ("a request of HTTP/1.0", "9112 9.6", b"GET /hello HTTP/1.0\r\n\r\n", "200 close"),
    ("two requests", "9112 9.6", b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200 200 close"),
    ("nothing", "9112 9.6", b"", "none close"),
    ("an empty line", "9112 2.2", b"\r\n", "none close / 400 close"),
    ("half a request line", "9112 8", b"GET /hel", "400|408 close / none close"),
    ("half a head", "9112 8", b"GET /hello HTTP/1.1\r\nhost: x\r\n", "400|408 close / none close"),
    ("a request and half of another", "9112 8", b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\nGET /hel", "200 400|408 close / 200 close"),
    ("half the content", "9112 8", b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhel", "400 close / none close"),
    ("none of the content", "9112 8", b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n", "400 close / none close"),
    ("half a preface of HTTP/2", "9113 3.4", b"PRI * HTTP/2.0\r\n", "400|505 close / none close"),
];

/// Requests for heads alone.
#[rustfmt::skip]
const HEADS: &[(&str, &str, &[u8], &str)] = &[
    ("HEAD", "9110 9.3.2", b"HEAD /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200= open"),
    ("HEAD and another request", "9110 9.3.2", b"HEAD /hello HTTP/1.1\r\nhost: x\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200= 200 open"),
    ("HEAD of what is not there", "9110 9.3.2", b"HEAD /nowhere HTTP/1.1\r\nhost: x\r\n\r\n", "404= open"),
    ("HEAD with a bad host", "9110 9.3.2", b"HEAD /hello HTTP/1.1\r\nhost: a b\r\n\r\n", "400= any"),
    ("HEAD of HTTP/1.0", "9110 9.3.2", b"HEAD /hello HTTP/1.0\r\n\r\n", "200= close"),
];

pub fn cases() -> Vec<Case> {
    let of = |(name, section, bytes, wanted): &(&str, &'static str, &[u8], &'static str)| {
        case(name, section, bytes, wanted)
    };
    let finished = FINISHED.iter().map(|line| {
        let case = of(line).finish();
        Case { name: format!("shut down behind {}", case.name), ..case }
    });
    let body = vec![b'x'; 1_100_000];
    let head = b"POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n", body.len()).into_bytes();
    let chunked = [head.as_slice(), &chunk, &body, b"\r\n0\r\n\r\n"].concat();
    let head = b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 1100000\r\n\r\n";
    let whole = [head.as_slice(), &body].concat();
    let large = [
        case("content too large, of which all is sent", "9110 15.5.14", whole, "413 close"),
        case("content too large, in a chunk", "9110 15.5.14", chunked, "413 close"),
    ];
    WHOLE
        .iter()
        .map(of)
        .chain(finished)
        .chain(HEADS.iter().map(of).map(Case::head))
        .chain(large)
        .collect()
}
