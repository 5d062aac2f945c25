//! Fields and line endings: RFC 9110, 5; RFC 9112, 2.2 and 5.

use super::super::case::{Case, case};

/// Name, section, lines of a head behind a valid `Host`, what is asked for.
#[rustfmt::skip]
const FIELDS: &[(&str, &str, &[u8], &str)] = &[
    ("a field", "9112 5", b"x-a: b", "200 open"),
    ("a field without a space", "9112 5", b"x-a:b", "200 open"),
    ("tabs around a value", "9112 5", b"x-a:\tb\t", "200 open"),
    ("an empty value", "9110 5.5", b"x-a:", "200 open"),
    ("a value with high bytes", "9110 5.5", b"x-a: \x80\xff", "200 open / 400 close"),
    ("a value with a tab", "9110 5.5", b"x-a: b\tc", "200 open"),
    ("a name of all that a token may have", "9110 5.6.2", b"!#$%&'*+-.^_`|~1: b", "200 open"),
    ("a field twice", "9110 5.3", b"x-a: b\r\nx-a: c", "200 open"),
    ("a name with a space", "9112 5.1", b"x a: b", "400 close"),
    ("a space before the colon", "9112 5.1", b"x-a : b", "400 close"),
    ("a tab before the colon", "9112 5.1", b"x-a\t: b", "400 close"),
    ("an empty name", "9112 5", b": b", "400 close"),
    ("no colon", "9112 5", b"x-a", "400 close"),
    ("no colon, with spaces", "9112 5", b"x a b", "400 close"),
    ("a name with parentheses", "9110 5.6.2", b"x(a): b", "400 close"),
    ("a name with a slash", "9110 5.6.2", b"x/a: b", "400 close"),
    ("a name with an at sign", "9110 5.6.2", b"x@a: b", "400 close"),
    ("a name with brackets", "9110 5.6.2", b"x[a]: b", "400 close"),
    ("a name with braces", "9110 5.6.2", b"x{a}: b", "400 close"),
    ("a name with a quote", "9110 5.6.2", b"x\"a: b", "400 close"),
    ("a name with a comma", "9110 5.6.2", b"x,a: b", "400 close"),
    ("a name with a semicolon", "9110 5.6.2", b"x;a: b", "400 close"),
    ("a name with an equals sign", "9110 5.6.2", b"x=a: b", "400 close"),
    ("a name with a question mark", "9110 5.6.2", b"x?a: b", "400 close"),
    ("a name with a backslash", "9110 5.6.2", b"x\\a: b", "400 close"),
    ("a name with NUL", "9110 5.6.2", b"x\0a: b", "400 close"),
    ("a name with a high byte", "9110 5.6.2", b"x\x80a: b", "400 close"),
    ("a name with DEL", "9110 5.6.2", b"x\x7fa: b", "400 close"),
    ("a name with a bare CR", "9110 5.6.2", b"x\ra: b", "400 close"),
    ("a value with NUL", "9110 5.5", b"x-a: b\0c", "400 close"),
    ("a value with a control character", "9110 5.5", b"x-a: b\x01c", "400 close"),
    ("a value with a backspace", "9110 5.5", b"x-a: b\x08c", "400 close"),
    ("a value with a vertical tab", "9110 5.5", b"x-a: b\x0bc", "400 close"),
    ("a value with ESC", "9110 5.5", b"x-a: b\x1bc", "400 close"),
    ("a value with DEL", "9110 5.5", b"x-a: b\x7fc", "400 close"),
    ("a value with a bare CR", "9110 5.5", b"x-a: b\rc", "400 close"),
    ("a value with a field behind a bare CR", "9112 2.2", b"x-a: b\rx-b: c", "400 close"),
    ("a value that ends with a bare CR", "9112 2.2", b"x-a: b\r\r\nx-b: c", "400 close"),
    ("a folded value, by a space", "9112 5.2", b"x-a: b\r\n c", "400 close / 200 open"),
    ("a folded value, by a tab", "9112 5.2", b"x-a: b\r\n\tc", "400 close / 200 open"),
    ("a line of spaces", "9112 5.2", b"x-a: b\r\n  \r\nx-b: c", "400 close / 200 open"),
    ("a folded name", "9112 5.2", b"x-a\r\n : b", "400 close"),
    ("a line that ends with LF", "9112 2.2", b"x-a: b\nx-b: c", "200 open / 400 close"),
    ("an upgrade to HTTP/2", "9113 3.1", b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__", "200 open"),
    ("an upgrade to a web socket", "9110 7.8", b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13", "200 open"),
    ("an upgrade without Connection", "9110 7.8", b"upgrade: h2c", "200 open"),
    ("an upgrade to nothing", "9110 7.8", b"connection: upgrade\r\nupgrade:", "200 open / 400 any"),
    ("Connection: close", "9112 9.6", b"connection: close", "200 close"),
    ("Connection: close in capitals", "9112 9.6", b"connection: CLOSE", "200 close"),
    ("Connection: close in a list", "9112 9.6", b"connection: x-a, close", "200 close"),
    ("Connection: close in a list without spaces", "9112 9.6", b"connection: x-a,close,x-b", "200 close"),
    ("Connection: keep-alive, and close", "9112 9.6", b"connection: keep-alive\r\nconnection: close", "200 close"),
    ("Connection: close, and keep-alive", "9112 9.6", b"connection: close\r\nconnection: keep-alive", "200 close"),
    ("Connection: keep-alive", "9112 9.3", b"connection: keep-alive", "200 open"),
    ("Connection: closed is another word", "9112 9.6", b"connection: closed", "200 open"),
    ("Connection: empty", "9110 7.6.1", b"connection:", "200 open"),
    ("TE", "9110 10.1.4", b"te: trailers, deflate;q=0.5\r\nconnection: te", "200 open"),
    ("an expectation without content", "9110 10.1.1", b"expect: 100-continue", "200 open"),
    ("an expectation that nobody knows", "9110 10.1.1", b"expect: a-pony", "200 open / 417 any"),
    ("Keep-Alive", "9110 7.6.1", b"keep-alive: timeout=1000000", "200 open"),
    ("Max-Forwards", "9110 7.6.2", b"max-forwards: 0", "200 open"),
    ("a range of a resource without ranges", "9110 14.2", b"range: bytes=0-1", "200|206 open"),
    ("a date that is none", "9110 13.1.3", b"if-modified-since: yesterday", "200 open"),
];

/// Name, section, the whole of what is sent, what is asked for.
#[rustfmt::skip]
const WHOLE: &[(&str, &str, &[u8], &str)] = &[
    ("a space before the first field", "9112 2.2", b"GET /hello HTTP/1.1\r\n host: x\r\n\r\n", "400 close"),
    ("a tab before the first field", "9112 2.2", b"GET /hello HTTP/1.1\r\n\thost: x\r\n\r\n", "400 close"),
    ("lines that end with LF", "9112 2.2", b"GET /hello HTTP/1.1\nhost: x\n\n", "200 open / 400 close"),
    ("a head that ends with LF", "9112 2.2", b"GET /hello HTTP/1.1\r\nhost: x\r\n\n", "200 open / 400 close"),
    ("lines that end with CR", "9112 2.2", b"GET /hello HTTP/1.1\rhost: x\r\r", "400 close"),
    ("an empty line first", "9112 2.2", b"\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200 open"),
    ("two empty lines first", "9112 2.2", b"\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200 open / 400 close"),
    ("LF first", "9112 2.2", b"\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "200 open / 400 close"),
    ("a CR first", "9112 2.2", b"\rGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close"),
    ("a space and an empty line first", "9112 2.2", b" \r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close"),
    ("a byte order mark", "9112 3", b"\xef\xbb\xbfGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close"),
    ("NUL first", "9112 3", b"\0GET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close"),
    ("a greeting of TLS", "9112 3", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no TLS here\r\n\r\n", "400 close / none close"),
    ("a greeting of SSH", "9112 3", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "400 close"),
    ("a greeting of SMTP", "9112 3", b"EHLO x\r\n\r\n", "400 close"),
    ("a line of the PROXY protocol", "9112 3", b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close"),
    ("the PROXY protocol, in bytes", "9112 3", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\0\x02GET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close"),
    ("a response", "9112 3", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "400 close"),
    ("nonsense", "9112 3", b"nonsense\r\n\r\n", "400 close"),
    ("a preface of HTTP/2 that goes wrong", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "400|505 close / none close"),
];

pub fn cases() -> Vec<Case> {
    let fields = FIELDS.iter().map(|(name, section, lines, wanted)| {
        let bytes = [b"GET /hello HTTP/1.1\r\nhost: x\r\n", *lines, b"\r\n\r\n"].concat();
        case(name, section, bytes, wanted)
    });
    let whole =
        WHOLE.iter().map(|(name, section, bytes, wanted)| case(name, section, bytes, wanted));
    fields.chain(whole).chain(long()).collect()
}

/// Fields that are many or long.
fn long() -> impl Iterator<Item = Case> {
    let get = |fields: &str| format!("GET /hello HTTP/1.1\r\nhost: x\r\n{fields}\r\n").into_bytes();
    let many = |count: usize| {
        let lines: String = (0..count).map(|number| format!("x-{number}: a\r\n")).collect();
        get(&lines)
    };
    let value = |length: usize| get(&format!("x-a: {}\r\n", "b".repeat(length)));
    let name = |length: usize| get(&format!("{}: b\r\n", "a".repeat(length)));
    [
        case("99 fields", "6585 5", many(98), "200 open"),
        case("a hundred fields and more", "6585 5", many(120), "200 open / 400|431 close"),
        case("a thousand fields", "6585 5", many(1_000), "200 open / 400|431 close"),
        case("a value of 8,000 bytes", "6585 5", value(8_000), "200 open"),
        case("a value of 40,000 bytes", "6585 5", value(40_000), "200 open / 400|431 close"),
        case("a value of 100,000 bytes", "6585 5", value(100_000), "200 open / 400|431 close"),
        case("a name of a thousand bytes", "6585 5", name(1_000), "200 open / 400|431 close"),
        case("a name of 70,000 bytes", "6585 5", name(70_000), "400|431 close"),
    ]
    .into_iter()
}
