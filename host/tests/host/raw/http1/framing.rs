//! How long a request is: RFC 9112, 6; RFC 9110, 8.6.
//!
//! `/length` answers with the length of the request's content, and fails where that does.

use super::super::case::{Case, case};

/// Name, the value of `Content-Length` with `hello` behind the head, what is asked for.
#[rustfmt::skip]
const LENGTHS: &[(&str, &[u8], &str)] = &[
    ("5", b"5", "200=5 open"),
    ("zeros first", b"0005", "200=5 open / 400 close"),
    ("twenty digits of which most are zeros", b"00000000000000000005", "200=5 open / 400 close"),
    ("spaces around it", b"  5  ", "200=5 open"),
    ("a plus", b"+5", "400 close"),
    ("a minus", b"-5", "400 close"),
    ("minus nothing", b"-0", "400 close"),
    ("hexadecimal", b"0x5", "400 close"),
    ("a letter behind", b"5x", "400 close"),
    ("a fraction", b"5.0", "400 close"),
    ("an exponent", b"5e0", "400 close"),
    ("nothing", b"", "400 close"),
    ("a word", b"five", "400 close"),
    ("quotes", b"\"5\"", "400 close"),
    ("a semicolon", b"5;", "400 close"),
    ("an underscore", b"1_0", "400 close"),
    ("a space within", b"5 5", "400 close"),
    ("a tab within", b"5\t5", "400 close"),
    ("a vertical tab", b"\x0b5", "400 close"),
    ("a list of equals", b"5, 5", "200=5 open / 400 close"),
    ("a list of equals without a space", b"5,5", "200=5 open / 400 close"),
    ("a list of others", b"5, 6", "400 close"),
    ("a list with an empty member", b"5,", "200=5 open / 400 close"),
    ("two to the 64th", b"18446744073709551616", "400|413 close"),
    ("two to the 64th and 5", b"18446744073709551621", "400|413 close"),
    ("two to the 64th less one", b"18446744073709551615", "4xx close"),
    ("two to the 63rd", b"9223372036854775808", "400|413 close"),
    ("two to the 32nd and 5", b"4294967301", "400|413 close"),
    ("thirty digits", b"999999999999999999999999999999", "400|413 close"),
    ("a high byte", b"5\xb2", "400 close"),
];

/// Name, the value of `Transfer-Encoding` with a chunk of `hello` behind the head, what is asked for.
#[rustfmt::skip]
const CODINGS: &[(&str, &[u8], &str)] = &[
    ("chunked", b"chunked", "200=5 open"),
    ("capitals", b"Chunked", "200=5 open"),
    ("capitals alone", b"CHUNKED", "200=5 open"),
    ("spaces around it", b"  chunked  ", "200=5 open"),
    ("a tab behind", b"chunked\t", "200=5 open"),
    ("an empty member behind", b"chunked,", "200=5 open / 400|501 close"),
    ("an empty member before", b", chunked", "200=5 open / 400|501 close"),
    ("gzip, chunked", b"gzip, chunked", "501|400 close"),
    ("deflate, chunked", b"deflate, chunked", "501|400 close"),
    ("compress, chunked", b"compress,chunked", "501|400 close"),
    ("x-gzip, chunked", b"x-gzip, chunked", "501|400 close"),
    ("identity, chunked", b"identity, chunked", "501|400 close"),
    ("a coding that nobody knows, chunked", b"cow, chunked", "501|400 close"),
    ("chunked, chunked", b"chunked, chunked", "400|501 close"),
    ("chunked, chunked without a space", b"chunked,chunked", "400|501 close"),
    ("chunked, gzip", b"chunked, gzip", "400|501 close"),
    ("chunked, identity", b"chunked, identity", "400|501 close"),
    ("chunked, gzip, chunked", b"chunked, gzip, chunked", "400|501 close"),
    ("gzip", b"gzip", "400|501 close"),
    ("identity", b"identity", "400|501 close"),
    ("a coding that nobody knows", b"cow", "400|501 close"),
    ("trailers", b"trailers", "400|501 close"),
    ("nothing", b"", "400|501 close"),
    ("a parameter", b"chunked;q=1", "400|501 close"),
    ("a parameter of another coding", b"gzip;q=1, chunked", "400|501 close"),
    ("a letter before", b"xchunked", "400|501 close"),
    ("a letter behind", b"chunkedx", "400|501 close"),
    ("a space within", b"chun ked", "400|501 close"),
    ("two words", b"gzip chunked", "400|501 close"),
    ("quotes", b"\"chunked\"", "400|501 close"),
    ("a vertical tab", b"\x0bchunked", "400|501 close"),
    ("a high byte", b"chunked\xff", "400|501 close"),
    ("a semicolon in a list", b"gzip; chunked", "400|501 close"),
];

/// Name, section, the fields about the length, what follows the head, what is asked for.
type Both = (&'static str, &'static str, &'static [u8], &'static [u8], &'static str);

#[rustfmt::skip]
const BOTH: &[Both] = &[
    ("no length", "9112 6.3", b"", b"", "200=0 open"),
    ("a length of nothing", "9112 6.3", b"content-length: 0\r\n", b"", "200=0 open"),
    ("two lengths that are the same", "9110 8.6", b"content-length: 5\r\ncontent-length: 5\r\n", b"hello", "200=5 open / 400 close"),
    ("two lengths", "9112 6.3", b"content-length: 5\r\ncontent-length: 6\r\n", b"hello!", "400 close"),
    ("two lengths, one of nothing", "9112 6.3", b"content-length: 0\r\ncontent-length: 5\r\n", b"hello", "400 close"),
    ("a length and one that is none", "9112 6.3", b"content-length: 5\r\ncontent-length: x\r\n", b"hello", "400 close"),
    ("a length with a space before the colon", "9112 5.1", b"content-length : 5\r\n", b"hello", "400 close"),
    ("a folded length", "9112 5.2", b"content-length:\r\n 5\r\n", b"hello", "400 close / 200=5 open"),
    ("a length beside chunks", "9112 6.1", b"content-length: 5\r\ntransfer-encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", "400 close / 200=5 close"),
    ("chunks beside a length", "9112 6.1", b"transfer-encoding: chunked\r\ncontent-length: 5\r\n", b"5\r\nhello\r\n0\r\n\r\n", "400 close / 200=5 close"),
    ("a length of nothing beside chunks", "9112 6.1", b"content-length: 0\r\ntransfer-encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", "400 close / 200=5 close"),
    ("a request behind a length and chunks", "9112 11.2", b"content-length: 5\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close / 200=0 close"),
    ("a request behind chunks and a length", "9112 11.2", b"transfer-encoding: chunked\r\ncontent-length: 46\r\n", b"0\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "400 close / 200=0 close"),
    ("a length that is none beside chunks", "9112 6.1", b"content-length: x\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n", "400 close"),
    ("chunks beside a length that is none", "9112 6.1", b"transfer-encoding: chunked\r\ncontent-length: x\r\n", b"0\r\n\r\n", "400 close / 200=0 close"),
    ("a length beside identity", "9112 6.1", b"content-length: 5\r\ntransfer-encoding: identity\r\n", b"hello", "400|501 close"),
    ("a length beside gzip", "9112 6.1", b"content-length: 5\r\ntransfer-encoding: gzip\r\n", b"hello", "400|501 close"),
    ("chunked twice, in two fields", "9112 6.1", b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n", "400|501 close"),
    ("gzip and chunked, in two fields", "9112 6.1", b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n", "400|501 close"),
    ("identity and chunked, in two fields", "9112 6.1", b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n", "400|501 close"),
    ("chunked and identity, in two fields", "9112 6.1", b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", b"0\r\n\r\n", "400|501 close"),
    ("chunked and nothing, in two fields", "9112 6.1", b"transfer-encoding: chunked\r\ntransfer-encoding:\r\n", b"0\r\n\r\n", "400|501 close / 200=0 open"),
    ("chunks with a space before the colon", "9112 5.1", b"transfer-encoding : chunked\r\n", b"0\r\n\r\n", "400 close"),
    ("a folded coding", "9112 5.2", b"transfer-encoding:\r\n chunked\r\n", b"0\r\n\r\n", "400 close / 200=0 open"),
    ("chunks, the name in capitals", "9110 5.1", b"TRANSFER-ENCODING: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", "200=5 open"),
    ("chunks, no space", "9112 5", b"transfer-encoding:chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", "200=5 open"),
    ("another name with an underscore", "9112 6.1", b"transfer_encoding: chunked\r\n", b"0\r\n\r\n", "200=0 400 close / 400 close"),
    ("a control character before the name", "9112 5.1", b"\x0btransfer-encoding: chunked\r\n", b"0\r\n\r\n", "400 close"),
    ("more than the length", "9112 6.3", b"content-length: 3\r\n", b"hello\r\n\r\n", "200=3 400 close"),
];

pub fn cases() -> Vec<Case> {
    let post = |fields: &[u8], rest: &[u8]| {
        [b"POST /length HTTP/1.1\r\nhost: x\r\n", fields, b"\r\n", rest].concat()
    };
    let lengths = LENGTHS.iter().map(|(name, value, wanted)| {
        let bytes = post(&[b"content-length: ", *value, b"\r\n"].concat(), b"hello");
        case(&format!("Content-Length: {name}"), "9110 8.6", bytes, wanted)
    });
    let codings = CODINGS.iter().map(|(name, value, wanted)| {
        let field = [b"transfer-encoding: ", *value, b"\r\n"].concat();
        let bytes = post(&field, b"5\r\nhello\r\n0\r\n\r\n");
        case(&format!("Transfer-Encoding: {name}"), "9112 6.1", bytes, wanted)
    });
    let both = BOTH.iter().map(|(name, section, fields, rest, wanted)| {
        case(name, section, post(fields, rest), wanted)
    });
    lengths.chain(codings).chain(both).collect()
}
