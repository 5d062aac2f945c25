//! Frames of HTTP/2, and field blocks without a table (RFC 9113, 4 and 6; RFC 7541, 6.2.2).

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const HAS_PRIORITY: u8 = 32;

/// Both flags of a request without content.
pub const END: u8 = END_STREAM | END_HEADERS;

pub type Field<'a> = (&'a [u8], &'a [u8]);

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(id, value)| [id.to_be_bytes().as_slice(), &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// An integer with a prefix of seven bits (RFC 7541, 5.1).
fn integer(mut value: usize) -> Vec<u8> {
    if value < 127 {
        return vec![value as u8];
    }
    let mut bytes = vec![127];
    value -= 127;
    while value >= 128 {
        bytes.push((value % 128 + 128) as u8);
        value /= 128;
    }
    bytes.push(value as u8);
    bytes
}

/// Fields as literals that are not indexed.
pub fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let field = |(name, value): &Field<'_>| {
        [&[0], integer(name.len()).as_slice(), name, &integer(value.len()), value].concat()
    };
    fields.iter().flat_map(field).collect()
}

/// A HEADERS frame.
pub fn headers(stream: u32, flags: u8, fields: &[Field<'_>]) -> Vec<u8> {
    frame(HEADERS, flags, stream, &block(fields))
}

pub fn data(stream: u32, flags: u8, content: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, content)
}

/// The fields of a GET of `/hello`.
pub const GET: [Field<'static>; 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/hello"), (b":authority", b"x")];

/// Those of a POST to `/length`.
pub const POST: [Field<'static>; 4] =
    [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/length"), (b":authority", b"x")];

/// A request without content.
pub fn get(stream: u32) -> Vec<u8> {
    headers(stream, END, &GET)
}

/// The head of a request with content.
pub fn post(stream: u32, more: &[Field<'_>]) -> Vec<u8> {
    headers(stream, END_HEADERS, &[POST.as_slice(), more].concat())
}

/// The status of a response's field block, which begins with it; none of a block of trailers.
pub fn status(block: &[u8]) -> Option<u16> {
    // A server may say first that its table is of no size.
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20)?;
    let block = block.get(start..)?;
    match *block.first()? {
        0x88 => Some(200),
        0x89 => Some(204),
        0x8a => Some(206),
        0x8b => Some(304),
        0x8c => Some(400),
        0x8d => Some(404),
        0x8e => Some(500),
        // A literal whose name is one of those of `:status`.
        0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e => {
            let length = usize::from(block.get(1)? & 0x7f);
            let text = block.get(2..2 + length)?;
            match block.get(1)? & 0x80 {
                0 => std::str::from_utf8(text).ok()?.parse().ok(),
                _ => digits(text),
            }
        }
        _ => None,
    }
}

/// Three digits in Huffman's code (RFC 7541, appendix B).
fn digits(text: &[u8]) -> Option<u16> {
    let bits: Vec<u8> =
        text.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let mut bits = bits.into_iter();
    let mut number = 0;
    for _ in 0..3 {
        let mut code = 0_u16;
        for _ in 0..5 {
            code = code << 1 | u16::from(bits.next()?);
        }
        if code > 2 {
            code = code << 1 | u16::from(bits.next()?);
            code = code.checked_sub(0x19)? + 3;
        }
        number = number * 10 + code;
    }
    Some(number)
}

#[test]
fn statuses_are_read_in_each_form() {
    assert_eq!(status(&[0x88]), Some(200));
    assert_eq!(status(&[0x20, 0x8d]), Some(404));
    assert_eq!(status(b"\x48\x03413"), Some(413));
    // 4 is 011010, 1 is 00001, 3 is 011001.
    assert_eq!(status(&[0x08, 0x83, 0b0110_1000, 0b0010_1100, 0b1111_1111]), Some(413));
    assert_eq!(status(&block(&[(b"x-a", b"b")])), None);
}
