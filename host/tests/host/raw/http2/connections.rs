//! Frames, streams, settings and field compression: RFC 9113, 4 to 6; RFC 7541.

use super::{
    Case, case,
    frames::{
        ACK, CONTINUATION, END, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, PING, PREFACE,
        PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, data, frame, get,
        headers, post, settings,
    },
};

/// A stream's error, which may be one of the connection (5.4.2).
const CLOSED: &str = "1:200 open / 1:STREAM_CLOSED open / STREAM_CLOSED / PROTOCOL_ERROR";

/// A flood may be served or refused, but must not hang.
const FLOOD: &str = "open / close";

#[rustfmt::skip]
pub fn cases() -> Vec<Case> {
    let number = |value: u32| value.to_be_bytes().to_vec();
    let window = |stream, by| frame(WINDOW_UPDATE, 0, stream, &number(by));
    let fields = |bytes: &[u8]| frame(HEADERS, END, 1, bytes);
    let whole = block(&GET);
    let goaway = |payload: &[u8]| frame(GOAWAY, 0, 0, payload);
    let mut all = vec![
        // Frames on streams that they do not belong to (6.1 to 6.10).
        case("DATA on no stream", "9113 6.1", &[data(0, 0, b"hello")], "PROTOCOL_ERROR"),
        case("HEADERS on no stream", "9113 6.2", &[headers(0, END, &GET)], "PROTOCOL_ERROR"),
        case("PRIORITY on no stream", "9113 6.3", &[frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 16])], "PROTOCOL_ERROR"),
        case("RST_STREAM on no stream", "9113 6.4", &[frame(RST_STREAM, 0, 0, &number(8))], "PROTOCOL_ERROR"),
        case("SETTINGS on a stream", "9113 6.5", &[frame(SETTINGS, 0, 1, b"")], "PROTOCOL_ERROR"),
        case("PUSH_PROMISE of a client", "9113 8.4", &[post(1, &[]), frame(PUSH_PROMISE, END_HEADERS, 1, &[number(2), block(&GET)].concat())], "PROTOCOL_ERROR"),
        case("PING on a stream", "9113 6.7", &[frame(PING, 0, 1, b"12345678")], "PROTOCOL_ERROR"),
        case("GOAWAY on a stream", "9113 6.8", &[frame(GOAWAY, 0, 1, &[0; 8])], "PROTOCOL_ERROR"),
        case("CONTINUATION on no stream", "9113 6.10", &[frame(CONTINUATION, END_HEADERS, 0, &whole)], "PROTOCOL_ERROR"),
        // States of streams (5.1).
        case("an even stream", "9113 5.1.1", &[get(2)], "PROTOCOL_ERROR"),
        case("a stream before the last", "9113 5.1.1", &[get(5), get(3)], "PROTOCOL_ERROR / STREAM_CLOSED / 5:200 3:STREAM_CLOSED open"),
        case("a stream twice", "9113 5.1", &[get(1), get(1)], CLOSED),
        case("streams with gaps", "9113 5.1.1", &[get(1), get(1_001)], "1:200 1001:200 open"),
        case("the last stream of all", "9113 5.1.1", &[get(0x7fff_ffff)], "2147483647:200 any"),
        case("DATA on an idle stream", "9113 5.1", &[data(1, 0, b"hello")], "PROTOCOL_ERROR / STREAM_CLOSED"),
        case("RST_STREAM on an idle stream", "9113 6.4", &[frame(RST_STREAM, 0, 1, &number(8))], "PROTOCOL_ERROR"),
        case("WINDOW_UPDATE on an idle stream", "9113 5.1", &[window(1, 1)], "PROTOCOL_ERROR"),
        case("CONTINUATION on an idle stream", "9113 6.10", &[frame(CONTINUATION, END_HEADERS, 1, &whole)], "PROTOCOL_ERROR"),
        case("PRIORITY on an idle stream", "9113 6.3", &[frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 16])], "open"),
        case("PRIORITY on a stream that has ended", "9113 5.1", &[get(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])], "1:200 open"),
        case("PRIORITY of a stream on itself", "9113 5.3.2", &[frame(PRIORITY, 0, 3, &[0, 0, 0, 3, 16])], "open / PROTOCOL_ERROR"),
        case("DATA behind the end of a stream", "9113 5.1", &[get(1), data(1, 0, b"hello")], CLOSED),
        case("DATA behind a reset", "9113 5.1", &[post(1, &[]), frame(RST_STREAM, 0, 1, &number(8)), data(1, END_STREAM, b"hello")], "open / STREAM_CLOSED / PROTOCOL_ERROR"),
        case("HEADERS behind a reset", "9113 5.1", &[post(1, &[]), frame(RST_STREAM, 0, 1, &number(8)), get(1)], "open / STREAM_CLOSED / PROTOCOL_ERROR"),
        case("WINDOW_UPDATE behind the end of a stream", "9113 5.1", &[get(1), window(1, 1)], "1:200 open"),
        case("RST_STREAM twice", "9113 5.1", &[post(1, &[]), frame(RST_STREAM, 0, 1, &number(8)), frame(RST_STREAM, 0, 1, &number(8))], "open / STREAM_CLOSED"),
        // Field blocks (4.3, 6.10).
        case("CONTINUATION of another stream", "9113 6.10", &[frame(HEADERS, END_STREAM, 1, &whole), frame(CONTINUATION, END_HEADERS, 3, b"")], "PROTOCOL_ERROR"),
        case("DATA within a field block", "9113 6.10", &[frame(HEADERS, 0, 1, &whole), data(1, END_STREAM, b"")], "PROTOCOL_ERROR"),
        case("PING within a field block", "9113 6.10", &[frame(HEADERS, END_STREAM, 1, &whole), frame(PING, 0, 0, b"12345678")], "PROTOCOL_ERROR"),
        case("HEADERS within a field block", "9113 6.10", &[frame(HEADERS, END_STREAM, 1, &whole), get(3)], "PROTOCOL_ERROR"),
        case("an unknown frame within a field block", "9113 5.5", &[frame(HEADERS, END_STREAM, 1, &whole), frame(200, 0, 1, b"")], "PROTOCOL_ERROR"),
        case("CONTINUATION behind a whole block", "9113 6.10", &[get(1), frame(CONTINUATION, END_HEADERS, 1, b"")], "PROTOCOL_ERROR"),
        // Sizes (4.2).
        case("PING that is short", "9113 6.7", &[frame(PING, 0, 0, b"1234567")], "FRAME_SIZE_ERROR"),
        case("PING that is long", "9113 6.7", &[frame(PING, 0, 0, b"123456789")], "FRAME_SIZE_ERROR"),
        case("RST_STREAM that is short", "9113 6.4", &[post(1, &[]), frame(RST_STREAM, 0, 1, &[0; 3])], "FRAME_SIZE_ERROR"),
        case("RST_STREAM that is long", "9113 6.4", &[post(1, &[]), frame(RST_STREAM, 0, 1, &[0; 5])], "FRAME_SIZE_ERROR"),
        case("PRIORITY that is short", "9113 6.3", &[post(1, &[]), frame(PRIORITY, 0, 1, &[0; 4])], "1:FRAME_SIZE_ERROR open / FRAME_SIZE_ERROR"),
        case("WINDOW_UPDATE that is short", "9113 6.9", &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])], "FRAME_SIZE_ERROR"),
        case("GOAWAY that is short", "9113 6.8", &[goaway(&[0; 7])], "FRAME_SIZE_ERROR"),
        case("SETTINGS that are no pairs", "9113 6.5", &[frame(SETTINGS, 0, 0, &[0; 5])], "FRAME_SIZE_ERROR"),
        case("SETTINGS with ACK that say something", "9113 6.5", &[frame(SETTINGS, ACK, 0, &[0; 6])], "FRAME_SIZE_ERROR"),
        case("HEADERS with a priority that is cut", "9113 6.2", &[frame(HEADERS, END | 32, 1, &[0; 3])], "FRAME_SIZE_ERROR / PROTOCOL_ERROR"),
        case("DATA of more than a frame may have", "9113 4.2", &[post(1, &[]), data(1, END_STREAM, &[b'x'; 16_385])], "1:FRAME_SIZE_ERROR open / FRAME_SIZE_ERROR"),
        case("an unknown frame of more than a frame may have", "9113 4.2", &[frame(200, 0, 0, &[0; 16_385])], "open / FRAME_SIZE_ERROR"),
        // Settings (6.5.2).
        case("no settings first", "9113 3.4", &[get(1)], "PROTOCOL_ERROR"),
        case("PING before settings", "9113 3.4", &[frame(PING, 0, 0, b"12345678")], "PROTOCOL_ERROR"),
        case("settings twice", "9113 6.5", &[settings(&[]), get(1)], "1:200 open"),
        case("a setting that nobody knows", "9113 6.5.2", &[settings(&[(0x99, 1)]), get(1)], "1:200 open"),
        case("push allowed", "9113 6.5.2", &[settings(&[(2, 1)]), get(1)], "1:200 open"),
        case("push of 2", "9113 6.5.2", &[settings(&[(2, 2)])], "PROTOCOL_ERROR"),
        case("no concurrent streams", "9113 6.5.2", &[settings(&[(3, 0)]), get(1)], "1:200 open"),
        case("a window of two to the 31st", "9113 6.5.2", &[settings(&[(4, 1 << 31)])], "FLOW_CONTROL_ERROR"),
        case("a window of nothing, and then more", "9113 6.9.2", &[settings(&[(4, 0)]), get(1), window(1, 1_000)], "1:200=Hello,_World! open"),
        case("a window of nothing, and then another", "9113 6.9.2", &[settings(&[(4, 0)]), get(1), settings(&[(4, 1_000)])], "1:200=Hello,_World! open"),
        case("frames smaller than the smallest", "9113 6.5.2", &[settings(&[(5, 16_383)])], "PROTOCOL_ERROR"),
        case("frames larger than the largest", "9113 6.5.2", &[settings(&[(5, 1 << 24)])], "PROTOCOL_ERROR"),
        case("field sections of nothing", "9113 6.5.2", &[settings(&[(6, 0)]), get(1)], "1:200 open / 1:INTERNAL_ERROR|REFUSED_STREAM open"),
        case("settings and windows that overflow", "9113 6.9.2", &[post(1, &[]), window(1, 0x7fff_0000), settings(&[(4, 0x7fff_ffff)])], "FLOW_CONTROL_ERROR"),
        // Flow control (6.9).
        case("a window of the connection by nothing", "9113 6.9", &[window(0, 0)], "PROTOCOL_ERROR"),
        case("a window of a stream by nothing", "9113 6.9", &[post(1, &[]), window(1, 0)], "1:PROTOCOL_ERROR open / PROTOCOL_ERROR"),
        case("a window of the connection that overflows", "9113 6.9.1", &[window(0, 0x7fff_ffff)], "FLOW_CONTROL_ERROR"),
        case("a window of a stream that overflows", "9113 6.9.1", &[post(1, &[]), window(1, 0x7fff_ffff)], "1:FLOW_CONTROL_ERROR open / FLOW_CONTROL_ERROR"),
        // Others.
        case("an unknown frame", "9113 5.5", &[frame(200, 255, 0, b"what is this?"), get(1)], "1:200 open"),
        case("an unknown frame on a stream", "9113 5.5", &[get(1), frame(200, 255, 1, b"what is this?")], "1:200 open"),
        case("flags that nobody knows", "9113 4.1", &[frame(HEADERS, END | 0x40 | 0x80, 1, &whole)], "1:200 open"),
        case("a reserved bit", "9113 4.1", &[headers(0x8000_0001, END, &GET)], "1:200 open"),
        case("a ping's answer that nobody asked for", "9113 6.7", &[frame(PING, ACK, 0, b"12345678"), get(1)], "1:200 open"),
        case("GOAWAY and a request", "9113 6.8", &[get(1), goaway(&[0; 8])], "1:200 any"),
        case("RST_STREAM with a code that nobody knows", "9113 7", &[post(1, &[]), frame(RST_STREAM, 0, 1, &number(0xffff)), get(3)], "3:200 open"),
        // Field compression.
        case("fields of the static table", "7541 6.1", &[fields(&[0x82, 0x86, 0x84, 0x41, 0x01, b'x'])], "1:2xx|404 open"),
        case("index 0", "7541 6.1", &[fields(&[0x80])], "COMPRESSION_ERROR"),
        case("an index beyond the table", "7541 2.3.3", &[fields(&[0xff, 0x80, 0x01])], "COMPRESSION_ERROR"),
        case("a name beyond the table", "7541 2.3.3", &[fields(&[0x7f, 0x80, 0x01, 0x01, b'x'])], "COMPRESSION_ERROR"),
        case("an integer that overflows", "7541 5.1", &[fields(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])], "COMPRESSION_ERROR"),
        case("a literal that is cut", "7541 6.2", &[fields(&[0x00, 0x05, b'x', b'-'])], "COMPRESSION_ERROR"),
        case("a literal without a value", "7541 6.2", &[fields(&[0x00, 0x03, b'x', b'-', b'a'])], "COMPRESSION_ERROR"),
        case("a table larger than allowed", "7541 6.3", &[fields(&[&[0x3f, 0xe1, 0xff, 0x03], whole.as_slice()].concat())], "COMPRESSION_ERROR"),
        case("a table's size behind fields", "7541 4.2", &[fields(&[whole.as_slice(), &[0x20]].concat())], "COMPRESSION_ERROR"),
        case("Huffman's code with a long padding", "7541 5.2", &[fields(&[&whole, [0x00, 0x82, 0x1f, 0xff, 0x01, b'b'].as_slice()].concat())], "COMPRESSION_ERROR"),
        case("Huffman's code with a padding of zeros", "7541 5.2", &[fields(&[&whole, [0x00, 0x81, 0x18, 0x01, b'b'].as_slice()].concat())], "COMPRESSION_ERROR"),
        case("Huffman's code with its end", "7541 5.2", &[fields(&[&whole, [0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x01, b'b'].as_slice()].concat())], "COMPRESSION_ERROR"),
        // Floods.
        case("ten thousand pings", "9113 10.5", &[frame(PING, 0, 0, b"12345678").repeat(10_000)], FLOOD),
        case("ten thousand settings", "9113 10.5", &[settings(&[]).repeat(10_000)], FLOOD),
        case("a thousand requests that are taken back", "9113 10.5", &resets(), FLOOD),
        case("a thousand frames without content", "9113 10.5", &[post(1, &[]), data(1, 0, b"").repeat(1_000), data(1, END_STREAM, b"")], "1:200 open / ENHANCE_YOUR_CALM / PROTOCOL_ERROR"),
        case("a thousand continuations without fields", "9113 10.5", &[frame(HEADERS, END_STREAM, 1, &whole), frame(CONTINUATION, 0, 1, b"").repeat(1_000), frame(CONTINUATION, END_HEADERS, 1, b"")], "1:200|431 open / ENHANCE_YOUR_CALM / PROTOCOL_ERROR"),
        case("continuations without an end", "9113 10.5.1", &continuations(), "ENHANCE_YOUR_CALM / PROTOCOL_ERROR / COMPRESSION_ERROR / close"),
    ];
    for case in &mut all {
        if case.name == "no settings first" || case.name == "PING before settings" {
            case.preface = PREFACE.to_vec();
        }
    }
    all
}

fn resets() -> Vec<Vec<u8>> {
    (0..1_000)
        .map(|number| number * 2 + 1)
        .flat_map(|stream| [get(stream), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())])
        .collect()
}

/// Two megabytes of fields.
fn continuations() -> Vec<Vec<u8>> {
    let value = [b'b'; 10_000];
    let part = frame(CONTINUATION, 0, 1, &block(&[(b"x-a", &value)]));
    vec![frame(HEADERS, END_STREAM, 1, &block(&GET)), part.repeat(200)]
}
