//! `Host`: RFC 9110, 7.2; RFC 9112, 3.2; the grammar is that of RFC 3986, 3.2.2.

use super::super::case::{Case, case};

/// Name, value of the one `Host`, what is asked for.
#[rustfmt::skip]
const HOSTS: &[(&str, &[u8], &str)] = &[
    ("a name", b"x", "200 open"),
    ("a name with a port", b"x:80", "200 open"),
    ("a name in capitals", b"X.Example.COM", "200 open"),
    ("a name with a point at the end", b"x.", "200 open"),
    ("an empty port", b"x:", "200 open / 400 any"),
    ("the largest port", b"x:65535", "200 open"),
    ("a port with zeros first", b"x:00080", "200 open / 400 any"),
    ("an address", b"127.0.0.1", "200 open"),
    ("an address with a port", b"127.0.0.1:80", "200 open"),
    ("an address of IPv6", b"[::1]", "200 open"),
    ("an address of IPv6 with a port", b"[2001:db8::1]:443", "200 open"),
    ("an address of IPv6 that ends as one of IPv4", b"[::ffff:1.2.3.4]", "200 open"),
    ("an address of the future", b"[v1.a:b]", "200 open / 400 any"),
    ("a name with an underscore", b"a_b", "200 open"),
    ("a name with a hyphen", b"a-b.c", "200 open"),
    ("an international name", b"xn--bcher-kva.example", "200 open"),
    ("a name with an escape", b"a%2Db", "200 open / 400 any"),
    ("a name with sub-delimiters", b"a!$&'()*+,;=b", "200 open / 400 any"),
    ("a name with a tilde", b"a~b", "200 open / 400 any"),
    ("spaces around it", b"  x  ", "200 open"),
    ("an empty value", b"", "400 any"),
    ("spaces alone", b"   ", "400 any"),
    ("a port alone", b":80", "400 any"),
    ("a colon alone", b":", "400 any"),
    ("user information", b"u@x", "400 any"),
    ("user information with a password", b"u:p@x", "400 any"),
    ("a name that looks as if it had a port", b"ph:80@evil", "400 any"),
    ("an at sign first", b"@x", "400 any"),
    ("an at sign last", b"x@", "400 any"),
    ("two ports", b"x:80:80", "400 any"),
    ("a port too large", b"x:65536", "400 any"),
    ("a port far too large", b"x:99999999999999999999", "400 any"),
    ("a negative port", b"x:-1", "400 any"),
    ("a port with a sign", b"x:+80", "400 any"),
    ("a port with a letter", b"x:8o", "400 any"),
    ("a port by name", b"x:http", "400 any"),
    ("a space before the port", b"x: 80", "400 any"),
    ("a space before the colon", b"x :80", "400 any"),
    ("a space in the name", b"x y", "400 any"),
    ("a tab in the name", b"x\ty", "400 any"),
    ("two names", b"x, y", "400 any"),
    ("a path", b"x/y", "400 any"),
    ("a path alone", b"/x", "400 any"),
    ("a slash at the end", b"x/", "400 any"),
    ("a backslash", b"x\\y", "400 any"),
    ("a query", b"x?y", "400 any"),
    ("a fragment", b"x#y", "400 any"),
    ("a URL", b"http://x", "400 any"),
    ("an open bracket", b"[::1", "400 any"),
    ("a closing bracket", b"::1]", "400 any"),
    ("an address of IPv6 without brackets", b"::1", "400 any"),
    ("letters behind the bracket", b"[::1]x", "400 any"),
    ("a wrong port behind the bracket", b"[::1]:x", "400 any"),
    ("an address with a wrong digit", b"[g::1]", "400 any"),
    ("an address with three colons", b"[:::1]", "400 any"),
    ("an address of IPv4 in brackets", b"[1.2.3.4]", "400 any"),
    ("a zone", b"[fe80::1%25eth0]", "400 any / 200 open"),
    ("empty brackets", b"[]", "400 any"),
    ("a name in brackets", b"[x]", "400 any"),
    ("half an escape", b"x%4", "400 any"),
    ("a wrong escape", b"x%zz", "400 any"),
    ("angle brackets", b"<x>", "400 any"),
    ("quotes", b"\"x\"", "400 any"),
    ("a bar", b"x|y", "400 any"),
    ("a caret", b"x^y", "400 any"),
    ("braces", b"{x}", "400 any"),
    ("a backtick", b"`x`", "400 any"),
    ("a high byte", b"x\xff", "400 any"),
    ("bytes of UTF-8", b"b\xc3\xbccher", "400 any"),
    ("NUL", b"x\0y", "400 any"),
    ("DEL", b"x\x7fy", "400 any"),
];

/// Name, the whole head behind the request line, what is asked for.
#[rustfmt::skip]
const HEADS: &[(&str, &[u8], &str)] = &[
    ("no Host", b"\r\n", "400 any"),
    ("no Host, and another field", b"x-a: b\r\n\r\n", "400 any"),
    ("two Hosts", b"host: x\r\nhost: y\r\n\r\n", "400 any"),
    ("two Hosts that are the same", b"host: x\r\nhost: x\r\n\r\n", "400 any"),
    ("two Hosts, one of them empty", b"host: x\r\nhost:\r\n\r\n", "400 any"),
    ("three Hosts", b"host: x\r\nHost: x\r\nHOST: x\r\n\r\n", "400 any"),
    ("Host in capitals", b"HOST: x\r\n\r\n", "200 open"),
    ("Host without a space", b"host:x\r\n\r\n", "200 open"),
    ("Host behind others", b"x-a: b\r\nhost: x\r\n\r\n", "200 open"),
    ("Host with a space before the colon", b"host : x\r\n\r\n", "400 close"),
];

pub fn cases() -> Vec<Case> {
    let hosts = HOSTS.iter().map(|(name, value, wanted)| {
        let bytes = [b"GET /hello HTTP/1.1\r\nhost: ", *value, b"\r\n\r\n"].concat();
        case(&format!("Host: {name}"), "9112 3.2", bytes, wanted)
    });
    let heads = HEADS.iter().map(|(name, head, wanted)| {
        case(name, "9112 3.2", [b"GET /hello HTTP/1.1\r\n", *head].concat(), wanted)
    });
    hosts.chain(heads).collect()
}
