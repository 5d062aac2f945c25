//! Requests of HTTP/2: RFC 9113, 8.

use super::{
    Case, case,
    frames::{
        CONTINUATION, END, END_HEADERS, END_STREAM, Field, GET, HAS_PRIORITY, HEADERS, PADDED,
        block, data, frame, get, headers, post,
    },
};

/// A malformed request (8.1.1): its stream is reset, maybe behind a response, or the connection closed.
const MALFORMED: &str = "1:PROTOCOL_ERROR open / 1:400 open / PROTOCOL_ERROR";

/// One that another version of HTTP would be asked about by its grammar.
const BAD: &str = MALFORMED;

const METHOD: Field<'static> = (b":method", b"GET");
const SCHEME: Field<'static> = (b":scheme", b"http");
const PATH: Field<'static> = (b":path", b"/hello");
const AUTHORITY: Field<'static> = (b":authority", b"x");

/// Name, section, all fields of a request without content, what is asked for.
#[rustfmt::skip]
const REQUESTS: &[(&str, &str, &[Field<'static>], &str)] = &[
    ("a request", "9113 8.3.1", &[METHOD, SCHEME, PATH, AUTHORITY], "1:200=Hello,_World! open"),
    ("another order", "9113 8.3", &[AUTHORITY, PATH, METHOD, SCHEME], "1:200 open"),
    ("host in place of the authority", "9113 8.3.1", &[METHOD, SCHEME, PATH, (b"host", b"x")], "1:200 open"),
    ("host that agrees", "9113 8.3.1", &[METHOD, SCHEME, PATH, AUTHORITY, (b"host", b"x")], "1:200 open"),
    ("host that disagrees", "9113 8.3.1", &[METHOD, SCHEME, PATH, AUTHORITY, (b"host", b"y")], MALFORMED),
    ("host that is empty", "9113 8.3.1", &[METHOD, SCHEME, PATH, AUTHORITY, (b"host", b"")], MALFORMED),
    ("two hosts", "9110 7.2", &[METHOD, SCHEME, PATH, AUTHORITY, (b"host", b"x"), (b"host", b"x")], MALFORMED),
    ("two hosts and no authority", "9110 7.2", &[METHOD, SCHEME, PATH, (b"host", b"x"), (b"host", b"y")], MALFORMED),
    ("no host at all", "9113 8.3.1", &[METHOD, SCHEME, PATH], MALFORMED),
    ("no method", "9113 8.3.1", &[SCHEME, PATH, AUTHORITY], MALFORMED),
    ("no scheme", "9113 8.3.1", &[METHOD, PATH, AUTHORITY], MALFORMED),
    ("no path", "9113 8.3.1", &[METHOD, SCHEME, AUTHORITY], MALFORMED),
    ("nothing", "9113 8.3.1", &[], MALFORMED),
    ("an empty method", "9110 9.1", &[(b":method", b""), SCHEME, PATH, AUTHORITY], MALFORMED),
    ("an empty scheme", "3986 3.1", &[METHOD, (b":scheme", b""), PATH, AUTHORITY], MALFORMED),
    ("an empty path", "9113 8.3.1", &[METHOD, SCHEME, (b":path", b""), AUTHORITY], MALFORMED),
    ("two methods", "9113 8.3.1", &[METHOD, METHOD, SCHEME, PATH, AUTHORITY], MALFORMED),
    ("two schemes", "9113 8.3.1", &[METHOD, SCHEME, SCHEME, PATH, AUTHORITY], MALFORMED),
    ("two paths", "9113 8.3.1", &[METHOD, SCHEME, PATH, PATH, AUTHORITY], MALFORMED),
    ("two authorities", "9113 8.3.1", &[METHOD, SCHEME, PATH, AUTHORITY, AUTHORITY], MALFORMED),
    ("a pseudo-field behind others", "9113 8.3", &[METHOD, SCHEME, AUTHORITY, (b"x-a", b"b"), PATH], MALFORMED),
    ("a pseudo-field that nobody knows", "9113 8.3", &[METHOD, SCHEME, PATH, AUTHORITY, (b":a", b"b")], MALFORMED),
    ("a pseudo-field of responses", "9113 8.3", &[METHOD, SCHEME, PATH, AUTHORITY, (b":status", b"200")], MALFORMED),
    ("a protocol without CONNECT", "8441 4", &[METHOD, SCHEME, PATH, AUTHORITY, (b":protocol", b"websocket")], MALFORMED),
    ("CONNECT", "9113 8.5", &[(b":method", b"CONNECT"), (b":authority", b"x:80")], "1:400|403|404|405|501 open / 1:PROTOCOL_ERROR open"),
    ("CONNECT with a path", "9113 8.5", &[(b":method", b"CONNECT"), SCHEME, PATH, AUTHORITY], "1:400|405|501 open / 1:PROTOCOL_ERROR open / PROTOCOL_ERROR"),
    ("OPTIONS of the server", "9113 8.3.1", &[(b":method", b"OPTIONS"), SCHEME, (b":path", b"*"), AUTHORITY], "1:2xx|404|405 open"),
    ("GET of the server", "9113 8.3.1", &[METHOD, SCHEME, (b":path", b"*"), AUTHORITY], BAD),
    ("a path without a slash", "9113 8.3.1", &[METHOD, SCHEME, (b":path", b"hello"), AUTHORITY], BAD),
    ("a path that is a URL", "9113 8.3.1", &[METHOD, SCHEME, (b":path", b"http://x/hello"), AUTHORITY], BAD),
    ("a path with a space", "3986 3.3", &[METHOD, SCHEME, (b":path", b"/he llo"), AUTHORITY], BAD),
    ("a path with NUL", "3986 3.3", &[METHOD, SCHEME, (b":path", b"/\0"), AUTHORITY], BAD),
    ("a path with line ends", "3986 3.3", &[METHOD, SCHEME, (b":path", b"/ HTTP/1.1\r\nx-a: b"), AUTHORITY], BAD),
    ("a method with a space", "9110 9.1", &[(b":method", b"G T"), SCHEME, PATH, AUTHORITY], BAD),
    ("a method with line ends", "9110 9.1", &[(b":method", b"GET / HTTP/1.1\r\nx: y\r\n\r\n"), SCHEME, PATH, AUTHORITY], BAD),
    ("a method that nobody knows", "9110 9.1", &[(b":method", b"FROB"), SCHEME, PATH, AUTHORITY], "1:2xx|4xx|501 open"),
    ("the scheme https", "9113 8.3.1", &[METHOD, (b":scheme", b"https"), PATH, AUTHORITY], "1:200|400|421 open"),
    ("another scheme", "9110 7.4", &[METHOD, (b":scheme", b"ftp"), PATH, AUTHORITY], BAD),
    ("a scheme with a space", "3986 3.1", &[METHOD, (b":scheme", b"ht tp"), PATH, AUTHORITY], BAD),
    ("cookies in several fields", "9113 8.2.3", &[METHOD, SCHEME, (b":path", b"/header?cookie"), AUTHORITY, (b"cookie", b"a=b"), (b"cookie", b"c=d"), (b"cookie", b"e=f")], "1:200=a=b;_c=d;_e=f open"),
    ("one cookie", "9113 8.2.3", &[METHOD, SCHEME, (b":path", b"/header?cookie"), AUTHORITY, (b"cookie", b"a=b; c=d")], "1:200=a=b;_c=d open"),
    ("a length of nothing", "9113 8.1.1", &[METHOD, SCHEME, PATH, AUTHORITY, (b"content-length", b"0")], "1:200 open"),
    ("a length without content", "9113 8.1.1", &[METHOD, SCHEME, PATH, AUTHORITY, (b"content-length", b"5")], MALFORMED),
    ("a length that is none", "9110 8.6", &[METHOD, SCHEME, PATH, AUTHORITY, (b"content-length", b"x")], MALFORMED),
];

/// Name, section, one field behind those of a GET, what is asked for.
#[rustfmt::skip]
const FIELDS: &[(&str, &str, Field<'static>, &str)] = &[
    ("a name in capitals", "9113 8.2.1", (b"X-A", b"b"), MALFORMED),
    ("an empty name", "9113 8.2.1", (b"", b"b"), MALFORMED),
    ("a name with a space", "9113 8.2.1", (b"x a", b"b"), MALFORMED),
    ("a name with a colon", "9113 8.2.1", (b"x:a", b"b"), MALFORMED),
    ("a name with NUL", "9113 8.2.1", (b"x\0a", b"b"), MALFORMED),
    ("a name with a line end", "9113 8.2.1", (b"x\r\na", b"b"), MALFORMED),
    ("a name with a high byte", "9113 8.2.1", (b"x\x80a", b"b"), MALFORMED),
    ("a name with DEL", "9113 8.2.1", (b"x\x7fa", b"b"), MALFORMED),
    ("a value with NUL", "9113 8.2.1", (b"x-a", b"b\0c"), MALFORMED),
    ("a value with CR", "9113 8.2.1", (b"x-a", b"b\rc"), MALFORMED),
    ("a value with LF", "9113 8.2.1", (b"x-a", b"b\nc"), MALFORMED),
    ("a value with a field", "9113 8.2.1", (b"x-a", b"b\r\nx-b: c"), MALFORMED),
    ("a value with a space first", "9113 8.2.1", (b"x-a", b" b"), MALFORMED),
    ("a value with a space last", "9113 8.2.1", (b"x-a", b"b "), MALFORMED),
    ("a value with a tab first", "9113 8.2.1", (b"x-a", b"\tb"), MALFORMED),
    ("an empty value", "9113 8.2.1", (b"x-a", b""), "1:200 open"),
    ("a value with high bytes", "9110 5.5", (b"x-a", b"\x80\xff"), "1:200 open / 1:400 open / 1:PROTOCOL_ERROR open"),
    ("Connection", "9113 8.2.2", (b"connection", b"close"), MALFORMED),
    ("Proxy-Connection", "9113 8.2.2", (b"proxy-connection", b"close"), MALFORMED),
    ("Keep-Alive", "9113 8.2.2", (b"keep-alive", b"timeout=5"), MALFORMED),
    ("Transfer-Encoding", "9113 8.2.2", (b"transfer-encoding", b"chunked"), MALFORMED),
    ("Upgrade", "9113 8.2.2", (b"upgrade", b"h2c"), MALFORMED),
    ("TE with trailers", "9113 8.2.2", (b"te", b"trailers"), "1:200 open"),
    ("TE with more", "9113 8.2.2", (b"te", b"gzip"), MALFORMED),
    ("an expectation without content", "9110 10.1.1", (b"expect", b"100-continue"), "1:200 open"),
];

/// Name, an authority, what is asked for.
#[rustfmt::skip]
const AUTHORITIES: &[(&str, &[u8], &str)] = &[
    ("a port", b"x:80", "1:200 open"),
    ("capitals", b"X.Example.COM", "1:200 open"),
    ("an address of IPv6", b"[::1]:80", "1:200 open"),
    ("nothing", b"", BAD),
    ("user information", b"u@x", BAD),
    ("user information with a password", b"u:p@x", BAD),
    ("a name that looks as if it had a port", b"ph:80@evil", BAD),
    ("a port too large", b"x:65536", BAD),
    ("a port of letters", b"x:http", BAD),
    ("two ports", b"x:80:80", BAD),
    ("a port alone", b":80", BAD),
    ("a space", b"x y", BAD),
    ("a path", b"x/y", BAD),
    ("a query", b"x?y", BAD),
    ("a fragment", b"x#y", BAD),
    ("a URL", b"http://x", BAD),
    ("an open bracket", b"[::1", BAD),
    ("an address with a wrong digit", b"[g::1]", BAD),
    ("a line end", b"x\r\nx-a: b", BAD),
    ("a high byte", b"x\xff", BAD),
];

/// Requests of several frames.
fn contents() -> Vec<Case> {
    let length = |text: &'static [u8]| post(1, &[(b"content-length", text)]);
    let trailer = |flags, fields: &[Field<'_>]| headers(1, flags, fields);
    let whole = block(&GET);
    let (first, rest) = whole.split_at(10);
    let (second, third) = rest.split_at(10);
    let padded = |padding: u8, content: &[u8], flags| {
        data(1, flags | PADDED, &[&[padding], content].concat())
    };
    let priority = |on: u32| [on.to_be_bytes().as_slice(), &[16], &block(&GET)].concat();
    vec![
        case("content", "9113 8.1", &[post(1, &[]), data(1, END_STREAM, b"hello")], "1:200=5 open"),
        case(
            "content in two frames",
            "9113 8.1",
            &[post(1, &[]), data(1, 0, b"hello"), data(1, END_STREAM, b"hello")],
            "1:200=10 open",
        ),
        case(
            "content that ends with an empty frame",
            "9113 6.1",
            &[post(1, &[]), data(1, 0, b"hello"), data(1, END_STREAM, b"")],
            "1:200=5 open",
        ),
        case(
            "empty content",
            "9113 6.1",
            &[post(1, &[]), data(1, END_STREAM, b"")],
            "1:200=0 open",
        ),
        case(
            "content with padding",
            "9113 6.1",
            &[post(1, &[]), padded(3, b"hello\0\0\0", END_STREAM)],
            "1:200=5 open",
        ),
        case(
            "content with too much padding",
            "9113 6.1",
            &[post(1, &[]), padded(9, b"hello", END_STREAM)],
            "PROTOCOL_ERROR",
        ),
        case(
            "content of padding without its length",
            "9113 6.1",
            &[post(1, &[]), data(1, PADDED, b"")],
            "FRAME_SIZE_ERROR / PROTOCOL_ERROR",
        ),
        case(
            "a length that is right",
            "9113 8.1.1",
            &[length(b"5"), data(1, END_STREAM, b"hello")],
            "1:200=5 open",
        ),
        case(
            "a length that is too large",
            "9113 8.1.1",
            &[length(b"9"), data(1, END_STREAM, b"hello")],
            MALFORMED,
        ),
        case(
            "a length that is too small",
            "9113 8.1.1",
            &[length(b"3"), data(1, END_STREAM, b"hello")],
            MALFORMED,
        ),
        case(
            "a length over the limit",
            "9110 15.5.14",
            &[length(b"2000000")],
            "1:413 open / 1:413 close",
        ),
        case(
            "two lengths",
            "9110 8.6",
            &[
                post(1, &[(b"content-length", b"5"), (b"content-length", b"6")]),
                data(1, END_STREAM, b"hello"),
            ],
            MALFORMED,
        ),
        case(
            "an expectation",
            "9110 10.1.1",
            &[post(1, &[(b"expect", b"100-continue")]), data(1, END_STREAM, b"hello")],
            "1:200=5 open",
        ),
        case(
            "trailers",
            "9113 8.1",
            &[post(1, &[]), data(1, 0, b"hello"), trailer(END, &[(b"x-a", b"b")])],
            "1:200=5 open",
        ),
        case(
            "trailers that do not end the stream",
            "9113 8.1",
            &[post(1, &[]), data(1, 0, b"hello"), trailer(END_HEADERS, &[(b"x-a", b"b")])],
            MALFORMED,
        ),
        case(
            "trailers with a pseudo-field",
            "9113 8.1",
            &[post(1, &[]), data(1, 0, b"hello"), trailer(END, &[(b":path", b"/")])],
            MALFORMED,
        ),
        case(
            "trailers with a name in capitals",
            "9113 8.2.1",
            &[post(1, &[]), data(1, 0, b"hello"), trailer(END, &[(b"X-A", b"b")])],
            MALFORMED,
        ),
        case(
            "fields in two frames",
            "9113 6.10",
            &[frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 1, rest)],
            "1:200 open",
        ),
        case(
            "fields in three frames",
            "9113 6.10",
            &[
                frame(HEADERS, END_STREAM, 1, first),
                frame(CONTINUATION, 0, 1, second),
                frame(CONTINUATION, END_HEADERS, 1, third),
            ],
            "1:200 open",
        ),
        case(
            "fields with padding",
            "9113 6.2",
            &[frame(HEADERS, END | PADDED, 1, &[&[2], whole.as_slice(), &[0, 0]].concat())],
            "1:200 open",
        ),
        case(
            "fields with too much padding",
            "9113 6.2",
            &[frame(HEADERS, END | PADDED, 1, &[&[255], whole.as_slice()].concat())],
            "PROTOCOL_ERROR",
        ),
        case(
            "fields with a priority",
            "9113 6.2",
            &[frame(HEADERS, END | HAS_PRIORITY, 1, &priority(0))],
            "1:200 open",
        ),
        case(
            "fields that depend on themselves",
            "9113 5.3.2",
            &[frame(HEADERS, END | HAS_PRIORITY, 1, &priority(1))],
            "1:200 open / 1:PROTOCOL_ERROR open / PROTOCOL_ERROR",
        ),
        case(
            "three requests at once",
            "9113 5.1.2",
            &[get(1), get(3), get(5)],
            "1:200 3:200 5:200 open",
        ),
        case(
            "a malformed request and another",
            "9113 5.4.2",
            &[headers(1, END, &GET[..3]), headers(3, END, &[METHOD]), get(5)],
            "5:200 open / PROTOCOL_ERROR",
        ),
        case(
            "a request that is taken back",
            "9113 6.4",
            &[post(1, &[]), frame(3, 0, 1, &8_u32.to_be_bytes()), get(3)],
            "3:200 open",
        ),
        case(
            "a hundred fields",
            "9113 10.5.1",
            &[headers(
                1,
                END,
                &[GET.as_slice(), &[(b"x-a".as_slice(), b"b".as_slice()); 100]].concat(),
            )],
            "1:200|400|431 open",
        ),
        case(
            "a path of 9,000 bytes",
            "9110 4.1",
            &[headers(1, END, &[METHOD, SCHEME, (b":path", &[b'/'; 9_000]), AUTHORITY])],
            "1:404|414 open",
        ),
        case(
            "a value of 14,000 bytes",
            "9113 10.5.1",
            &[headers(1, END, &[GET.as_slice(), &[(b"x-a", &[b'b'; 14_000])]].concat())],
            "1:200|431 open",
        ),
        case(
            "values of 42,000 bytes",
            "9113 10.5.1",
            &large(),
            "1:200|400|431 open / 1:PROTOCOL_ERROR|REFUSED_STREAM|ENHANCE_YOUR_CALM open / ENHANCE_YOUR_CALM",
        ),
    ]
}

/// A request whose fields take three frames, and more than a head may.
fn large() -> Vec<Vec<u8>> {
    let value = [b'b'; 14_000];
    let field: Field<'_> = (b"x-a", &value);
    vec![
        headers(1, END_STREAM, &GET),
        frame(CONTINUATION, 0, 1, &block(&[field])),
        frame(CONTINUATION, 0, 1, &block(&[field])),
        frame(CONTINUATION, END_HEADERS, 1, &block(&[field])),
    ]
}

pub fn cases() -> Vec<Case> {
    let requests = REQUESTS.iter().map(|(name, section, fields, wanted)| {
        case(*name, section, &[headers(1, END, fields)], wanted)
    });
    let fields = FIELDS.iter().map(|(name, section, field, wanted)| {
        case(*name, section, &[headers(1, END, &[GET.as_slice(), &[*field]].concat())], wanted)
    });
    let authorities = AUTHORITIES.iter().map(|(name, authority, wanted)| {
        let fields = [METHOD, SCHEME, PATH, (b":authority".as_slice(), *authority)];
        case(format!(":authority: {name}"), "9113 8.3.1", &[headers(1, END, &fields)], wanted)
    });
    requests.chain(fields).chain(authorities).chain(contents()).collect()
}
