//! Request lines: RFC 9112, 2 and 3.

use super::super::case::{Case, case};

/// Name, section, line, what is asked for. Each is followed by a `Host` of `x`.
#[rustfmt::skip]
const LINES: &[(&str, &str, &[u8], &str)] = &[
    ("a path", "9112 3.2.1", b"GET /hello HTTP/1.1", "200=Hello,_World! open"),
    ("a path and a query", "9112 3.2.1", b"GET /hello?a=b&c HTTP/1.1", "200 open"),
    ("an empty query", "9112 3.2.1", b"GET /hello? HTTP/1.1", "200 open"),
    ("a question mark in a query", "3986 3.4", b"GET /hello?a?b/c HTTP/1.1", "200 open"),
    ("the absolute form", "9112 3.2.2", b"GET http://x/hello HTTP/1.1", "200 open"),
    ("the absolute form with a port", "9112 3.2.2", b"GET http://x:80/hello HTTP/1.1", "200 open"),
    ("the absolute form's scheme in capitals", "3986 3.1", b"GET HTTP://x/hello HTTP/1.1", "200 open / 400 any"),
    ("the absolute form without a path", "9112 3.2.1", b"GET http://x HTTP/1.1", "2xx|404 open"),
    ("the absolute form with a query alone", "9112 3.2.1", b"GET http://x?a HTTP/1.1", "2xx|404 open / 400 any"),
    ("the absolute form's host counts", "9112 3.2.2", b"GET http://y/authority HTTP/1.1", "200=y open"),
    ("the absolute form with an address", "9112 3.2.2", b"GET http://[::1]/hello HTTP/1.1", "200 open"),
    ("the absolute form, https", "9110 7.4", b"GET https://x/hello HTTP/1.1", "200|400|421 any"),
    ("the absolute form, another scheme", "9110 7.4", b"GET ftp://x/hello HTTP/1.1", "400|421 any"),
    ("the absolute form with user information", "9110 4.2.4", b"GET http://u:p@x/hello HTTP/1.1", "400 any"),
    ("the absolute form with an empty host", "9110 4.2.1", b"GET http:///hello HTTP/1.1", "400 any"),
    ("the absolute form with a port alone", "9110 4.2.1", b"GET http://:80/hello HTTP/1.1", "400 any"),
    ("the absolute form with a port too large", "9112 3.2.2", b"GET http://x:99999/hello HTTP/1.1", "400 any"),
    ("the absolute form with a port of letters", "9112 3.2.2", b"GET http://x:abc/hello HTTP/1.1", "400 any"),
    ("the absolute form with an open bracket", "3986 3.2.2", b"GET http://[::1/hello HTTP/1.1", "400 any"),
    ("the absolute form with one slash", "3986 3", b"GET http:/x/hello HTTP/1.1", "400 any"),
    ("OPTIONS of the server", "9112 3.2.4", b"OPTIONS * HTTP/1.1", "2xx|404|405 open"),
    ("GET of the server", "9112 3.2.4", b"GET * HTTP/1.1", "400|404|405 any"),
    ("CONNECT", "9110 9.3.6", b"CONNECT x:80 HTTP/1.1", "400|403|404|405|501 any"),
    ("CONNECT without a port", "9110 9.3.6", b"CONNECT x HTTP/1.1", "400|405|501 any"),
    ("CONNECT of a path", "9112 3.2.3", b"CONNECT /hello HTTP/1.1", "400|404|405|501 any"),
    ("GET of an authority", "9112 3.2.3", b"GET x:80 HTTP/1.1", "400 any"),
    ("GET of a name", "9112 3.2", b"GET hello HTTP/1.1", "400 any"),
    ("GET of a query", "9112 3.2", b"GET ?a HTTP/1.1", "400 any"),
    ("no target", "9112 3", b"GET HTTP/1.1", "400 close"),
    ("an empty target", "9112 3", b"GET  HTTP/1.1", "400 close"),
    ("two spaces before the target", "9112 3", b"GET  /hello HTTP/1.1", "400 close / 200 any"),
    ("two spaces before the version", "9112 3", b"GET /hello  HTTP/1.1", "400 close / 200 any"),
    ("a tab before the target", "9112 3", b"GET\t/hello HTTP/1.1", "400 close / 200 any"),
    ("a tab before the version", "9112 3", b"GET /hello\tHTTP/1.1", "400 close / 200 any"),
    ("a space at the end", "9112 3", b"GET /hello HTTP/1.1 ", "400 close / 200 any"),
    ("a space at the start", "9112 3", b" GET /hello HTTP/1.1", "400 close"),
    ("a vertical tab before the target", "9112 3", b"GET\x0b/hello HTTP/1.1", "400 close / 200 any"),
    ("a bare CR before the version", "9112 2.2", b"GET /hello\rHTTP/1.1", "400 close / 200 any"),
    ("a space within the target", "9112 3.2", b"GET /he llo HTTP/1.1", "400 close"),
    ("a fourth word", "9112 3", b"GET /hello HTTP/1.1 more", "400 close"),
    ("no version", "9112 3", b"GET /hello", "400 close"),
    ("a method alone", "9112 3", b"GET", "400 close"),
    ("HTTP/1.0", "9112 2.3", b"GET /hello HTTP/1.0", "200 close"),
    ("HTTP/1.2", "9110 2.5", b"GET /hello HTTP/1.2", "200 any / 400|505 close"),
    ("HTTP/2.0", "9110 15.6.6", b"GET /hello HTTP/2.0", "400|505 close"),
    ("HTTP/3.0", "9110 15.6.6", b"GET /hello HTTP/3.0", "400|505 close"),
    ("HTTP/0.9", "9110 15.6.6", b"GET /hello HTTP/0.9", "400|505 close"),
    ("HTTP/9.9", "9110 15.6.6", b"GET /hello HTTP/9.9", "400|505 close"),
    ("a version in small letters", "9112 2.3", b"GET /hello http/1.1", "400|505 close"),
    ("a version without a point", "9112 2.3", b"GET /hello HTTP/11", "400|505 close"),
    ("a version without a minor number", "9112 2.3", b"GET /hello HTTP/1", "400|505 close"),
    ("a version that ends with a point", "9112 2.3", b"GET /hello HTTP/1.", "400|505 close"),
    ("a version with a letter", "9112 2.3", b"GET /hello HTTP/1.1x", "400|505 close"),
    ("a version with two digits", "9112 2.3", b"GET /hello HTTP/1.10", "400|505 close"),
    ("a version with a zero first", "9112 2.3", b"GET /hello HTTP/01.1", "400|505 close"),
    ("a version with a space", "9112 2.3", b"GET /hello HTTP /1.1", "400|505 close"),
    ("another protocol's name", "9112 2.3", b"GET /hello HTTPS/1.1", "400|505 close"),
    ("a method that nobody knows", "9110 9.1", b"FROB /hello HTTP/1.1", "2xx|4xx|501 open"),
    ("a method in small letters", "9110 9.1", b"get /hello HTTP/1.1", "2xx|4xx|501 any"),
    ("a method with a hyphen", "9110 9.1", b"M-SEARCH /hello HTTP/1.1", "2xx|4xx|501 any"),
    ("a method of all that a token may have", "9110 5.6.2", b"A!#$%&'*+-.^_`|~9 /hello HTTP/1.1", "2xx|4xx|501 any"),
    ("a method with a parenthesis", "9110 5.6.2", b"G(T /hello HTTP/1.1", "400|501 close"),
    ("a method with a colon", "9110 5.6.2", b"GET: /hello HTTP/1.1", "400|501 close"),
    ("a method with an at sign", "9110 5.6.2", b"G@T /hello HTTP/1.1", "400|501 close"),
    ("a method with a slash", "9110 5.6.2", b"G/T /hello HTTP/1.1", "400|501 close"),
    ("a method in braces", "9110 5.6.2", b"{GET} /hello HTTP/1.1", "400|501 close"),
    ("a method with a comma", "9110 5.6.2", b"G,T /hello HTTP/1.1", "400|501 close"),
    ("a method with a quote", "9110 5.6.2", b"G\"T /hello HTTP/1.1", "400|501 close"),
    ("a method with NUL", "9110 5.6.2", b"G\0T /hello HTTP/1.1", "400|501 close"),
    ("a method with a high byte", "9110 5.6.2", b"G\x80T /hello HTTP/1.1", "400|501 close"),
    ("a method with DEL", "9110 5.6.2", b"G\x7fT /hello HTTP/1.1", "400|501 close"),
    ("a target with NUL", "3986 3.3", b"GET /\0 HTTP/1.1", "400 close"),
    ("a target with a control character", "3986 3.3", b"GET /\x01 HTTP/1.1", "400 close"),
    ("a target with DEL", "3986 3.3", b"GET /\x7f HTTP/1.1", "400 close / 404 open"),
    ("a target with bytes of UTF-8", "3986 3.3", b"GET /h\xc3\xa4 HTTP/1.1", "400 close / 404 open"),
    ("a target with bytes of nothing", "3986 3.3", b"GET /\xff\xfe HTTP/1.1", "400 close / 404 open"),
    ("a target with a fragment", "9112 3.2", b"GET /hello#part HTTP/1.1", "400 any / 200 open"),
    ("a target with angle brackets", "3986 3.3", b"GET /<a> HTTP/1.1", "400 close / 404 open"),
    ("a target with a quote", "3986 3.3", b"GET /\"a\" HTTP/1.1", "400 close / 404 open"),
    ("a target with a backslash", "3986 3.3", b"GET /a\\b HTTP/1.1", "400 close / 404 open"),
    ("a target with braces", "3986 3.3", b"GET /{a} HTTP/1.1", "400 close / 404 open"),
    ("a target with escapes", "3986 2.1", b"GET /%68%65llo HTTP/1.1", "2xx|404 open"),
    ("a target with half an escape", "3986 2.1", b"GET /%6 HTTP/1.1", "400 any / 404 open"),
    ("a target with a wrong escape", "3986 2.1", b"GET /%zz HTTP/1.1", "400 any / 404 open"),
    ("a target with an escaped NUL", "3986 2.1", b"GET /%00 HTTP/1.1", "400 any / 404 open"),
    ("a target with two slashes first", "3986 3.3", b"GET //hello HTTP/1.1", "2xx|404 open"),
    ("a target with dots", "3986 5.2.4", b"GET /../hello HTTP/1.1", "2xx|400|404 any"),
    ("a target with a semicolon", "3986 3.3", b"GET /hello;a=b HTTP/1.1", "2xx|404 open"),
];

/// Name, length of the target, what is asked for.
const LENGTHS: &[(&str, usize, &str)] = &[
    ("a target of 8,000 bytes", 8_000, "404 open"),
    ("a target of 8,001 bytes", 8_001, "404 open / 414 any"),
    ("a target of 20,000 bytes", 20_000, "404 open / 414 any"),
    ("a target longer than a head may be", 40_000, "404 open / 414 any"),
    ("a target longer than hyper takes", 70_000, "404 open / 414 any"),
];

pub fn cases() -> Vec<Case> {
    let lines = LINES.iter().map(|(name, section, line, wanted)| {
        case(name, section, [*line, b"\r\nhost: x\r\n\r\n"].concat(), wanted)
    });
    let lengths = LENGTHS.iter().map(|(name, length, wanted)| {
        let target = "x".repeat(length - 1);
        case(name, "9110 4.1", format!("GET /{target} HTTP/1.1\r\nhost: x\r\n\r\n"), wanted)
    });
    let method = "M".repeat(1_000);
    let method = format!("{method} /hello HTTP/1.1\r\nhost: x\r\n\r\n");
    let long = case("a method of a thousand bytes", "9112 3", method, "2xx|4xx|501 any");
    lines.chain(lengths).chain([long]).collect()
}
