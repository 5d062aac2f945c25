//! Chunks and trailers: RFC 9112, 7.1.

use super::super::case::{Case, case};

/// Name, section, what follows a head with `Transfer-Encoding: chunked`, what is asked for.
#[rustfmt::skip]
const CHUNKS: &[(&str, &str, &[u8], &str)] = &[
    ("one chunk", "9112 7.1", b"5\r\nhello\r\n0\r\n\r\n", "200=5 open"),
    ("no chunk but the last", "9112 7.1", b"0\r\n\r\n", "200=0 open"),
    ("two chunks", "9112 7.1", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "200=11 open"),
    ("a size in capitals", "9112 7.1", b"A\r\n0123456789\r\n0\r\n\r\n", "200=10 open"),
    ("a size in small letters", "9112 7.1", b"a\r\n0123456789\r\n0\r\n\r\n", "200=10 open"),
    ("zeros before a size", "9112 7.1", b"005\r\nhello\r\n0\r\n\r\n", "200=5 open"),
    ("twenty digits of which most are zeros", "9112 7.1", b"00000000000000000005\r\nhello\r\n0\r\n\r\n", "200=5 open / 400 close"),
    ("a last chunk of several zeros", "9112 7.1", b"5\r\nhello\r\n000\r\n\r\n", "200=5 open"),
    ("content that looks like the last chunk", "9112 7.1", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", "200=5 open"),
    ("an extension", "9112 7.1.1", b"5;a=b\r\nhello\r\n0\r\n\r\n", "200=5 open"),
    ("an extension without a value", "9112 7.1.1", b"5;a\r\nhello\r\n0\r\n\r\n", "200=5 open"),
    ("an extension in quotes", "9112 7.1.1", b"5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", "200=5 open / 400 close"),
    ("an extension with spaces", "9112 7.1.1", b"5 ; a = b\r\nhello\r\n0\r\n\r\n", "200=5 open / 400 close"),
    ("two extensions", "9112 7.1.1", b"5;a=b;c=d\r\nhello\r\n0\r\n\r\n", "200=5 open"),
    ("an extension of the last chunk", "9112 7.1.1", b"5\r\nhello\r\n0;a=b\r\n\r\n", "200=5 open"),
    ("an extension with LF", "9112 7.1.1", b"5;a\nb\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("an extension with NUL", "9112 7.1.1", b"5;a\0\r\nhello\r\n0\r\n\r\n", "400 close / 200=5 open"),
    ("an extension with a bare CR", "9112 7.1.1", b"5;a\rb\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a space behind a size", "9112 7.1", b"5 \r\nhello\r\n0\r\n\r\n", "200=5 open / 400 close"),
    ("a tab behind a size", "9112 7.1", b"5\t\r\nhello\r\n0\r\n\r\n", "200=5 open / 400 close"),
    ("a space before a size", "9112 7.1", b" 5\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("no size", "9112 7.1", b"\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("an extension alone", "9112 7.1", b";a=b\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size that is no number", "9112 7.1", b"x\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with a letter behind", "9112 7.1", b"5x\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with a prefix", "9112 7.1", b"0x5\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with a plus", "9112 7.1", b"+5\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with a minus", "9112 7.1", b"-5\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with a point", "9112 7.1", b"5.0\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with a comma", "9112 7.1", b"5,5\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with an underscore", "9112 7.1", b"0_5\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("two sizes", "9112 7.1", b"5 5\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size that overflows", "9112 7.1", b"10000000000000005\r\nhello\r\n0\r\n\r\n", "400|413 close"),
    ("a size that overflows by far", "9112 7.1", b"fffffffffffffffffffffffff\r\nhello\r\n0\r\n\r\n", "400|413 close"),
    ("a size behind LF", "9112 7.1", b"5\nhello\r\n0\r\n\r\n", "400 close / 200=5 open"),
    ("a size behind CR", "9112 7.1", b"5\rhello\r\n0\r\n\r\n", "400 close"),
    ("a size behind CR twice", "9112 7.1", b"5\r\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("no line end behind content", "9112 7.1", b"5\r\nhello0\r\n\r\n", "400 close"),
    ("LF behind content", "9112 7.1", b"5\r\nhello\n0\r\n\r\n", "400 close / 200=5 open"),
    ("CR behind content", "9112 7.1", b"5\r\nhello\r0\r\n\r\n", "400 close"),
    ("less content than the size", "9112 7.1", b"5\r\nhell\r\n0\r\n\r\n", "400 close"),
    ("more content than the size", "9112 7.1", b"5\r\nhello!\r\n0\r\n\r\n", "400 close"),
    ("two line ends behind content", "9112 7.1", b"5\r\nhello\r\n\r\n0\r\n\r\n", "400 close"),
    ("a trailer", "9112 7.1.2", b"5\r\nhello\r\n0\r\nx-a: b\r\n\r\n", "200=5 open"),
    ("two trailers", "9112 7.1.2", b"5\r\nhello\r\n0\r\nx-a: b\r\nx-b: c\r\n\r\n", "200=5 open"),
    ("a trailer about the length", "9110 6.5.1", b"5\r\nhello\r\n0\r\ncontent-length: 9\r\n\r\n", "200=5 open / 400 close"),
    ("a trailer about the coding", "9110 6.5.1", b"5\r\nhello\r\n0\r\ntransfer-encoding: chunked\r\n\r\n", "200=5 open / 400 close"),
    ("a trailer about the host", "9110 6.5.1", b"5\r\nhello\r\n0\r\nhost: y\r\n\r\n", "200=5 open / 400 close"),
    ("a trailer without a colon", "9112 7.1.2", b"5\r\nhello\r\n0\r\nx-a\r\n\r\n", "400 close"),
    ("a trailer with a space in its name", "9112 7.1.2", b"5\r\nhello\r\n0\r\nx a: b\r\n\r\n", "400 close"),
    ("a trailer with NUL", "9112 7.1.2", b"5\r\nhello\r\n0\r\nx-a: b\0\r\n\r\n", "400 close"),
    ("a request in place of the trailers", "9112 7.1.2", b"5\r\nhello\r\n0\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close"),
    ("a request behind", "9112 9.3.2", b"5\r\nhello\r\n0\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200=5 200=Hello,_World! open"),
    ("nonsense behind", "9112 9.3.2", b"5\r\nhello\r\n0\r\n\r\nnonsense\r\n\r\n", "200=5 400 close"),
];

/// The same, where the client then shuts its side down: the content is incomplete.
#[rustfmt::skip]
const CUT: &[(&str, &str, &[u8], &str)] = &[
    ("no chunk", "9112 8", b"", "400 close / none close"),
    ("half a size", "9112 8", b"5", "400 close / none close"),
    ("half a chunk", "9112 8", b"5\r\nhel", "400 close / none close"),
    ("no last chunk", "9112 8", b"5\r\nhello\r\n", "400 close / none close"),
    ("half a last chunk", "9112 8", b"5\r\nhello\r\n0", "400 close / none close"),
    ("no end of trailers", "9112 8", b"5\r\nhello\r\n0\r\n", "400 close / none close"),
    ("half a trailer", "9112 8", b"5\r\nhello\r\n0\r\nx-a: b\r\n", "400 close / none close"),
    ("a size as large as can be", "9112 7.1", b"7fffffffffffffff\r\nhello", "400|413 close / none close"),
    ("a size of two to the 64th less one", "9112 7.1", b"ffffffffffffffff\r\nhello", "400|413 close / none close"),
];

const HEAD: &[u8] = b"POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";

pub fn cases() -> Vec<Case> {
    let of = |(name, section, rest, wanted): &(&str, &'static str, &[u8], &'static str)| {
        case(&format!("chunks: {name}"), section, [HEAD, *rest].concat(), wanted)
    };
    let large =
        |name, body: Vec<u8>, wanted| case(name, "9112 7.1.1", [HEAD, &body].concat(), wanted);
    let extension = format!("5;a={}\r\nhello\r\n0\r\n\r\n", "b".repeat(100_000)).into_bytes();
    let size = format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(100_000)).into_bytes();
    let trailers: String = (0..2_000).map(|number| format!("x-{number}: a\r\n")).collect();
    let trailers = format!("0\r\n{trailers}\r\n").into_bytes();
    let single = [b"1\r\na\r\n".repeat(1_000), b"0\r\n\r\n".to_vec()].concat();
    let many = [
        large("chunks: a thousand of one byte", single, "200=1000 open"),
        large("chunks: an extension of 100,000 bytes", extension, "4xx close"),
        large("chunks: a size of 100,000 digits", size, "4xx close / 200=5 open"),
        large("chunks: two thousand trailers", trailers, "4xx close"),
    ];
    let cut = CUT.iter().map(of).map(Case::finish);
    CHUNKS.iter().map(of).chain(cut).chain(many).collect()
}
