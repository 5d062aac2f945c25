//! How a connection and each request on it begin, as far as hyper does not say: which version of HTTP it is,
//! and whether the request line is complete.

use super::signals::Signals;

/// The first bytes of HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where a frame of HTTP/2 has its type, and that of settings (RFC 9113, 4.1 and 6.5).
const TYPE: usize = 3;
/// See [`TYPE`].
const SETTINGS: u8 = 4;

/// What is known of the head that is arriving.
#[derive(Default)]
pub(super) struct Head {
    /// Requests before it.
    pub(super) before: usize,
    /// Bytes that agree with HTTP/2's preface. Only a connection's first can.
    preface: usize,
    /// Bytes behind it, as far as they are looked at.
    behind: usize,
    pub(super) bytes: usize,
    /// Its first line is complete.
    pub(super) has_line: bool,
    /// And names a version that this server does not speak.
    pub(super) is_other_version: bool,
}

impl Head {
    /// Looks at bytes that have arrived. False for HTTP/2 that does not begin with settings.
    pub(super) fn add(&mut self, bytes: &[u8], signals: &Signals) -> bool {
        if signals.is_http2() {
            return self.begins_with_settings(bytes);
        }
        if signals.is_active() {
            return true;
        }
        signals.note_head();
        let before = signals.begun();
        if self.before != before {
            *self = Self { before, ..Self::default() };
        }
        if before == 0 && self.preface == self.bytes {
            let expected = PREFACE.iter().skip(self.preface);
            let agree = bytes.iter().zip(expected).take_while(|(a, b)| a == b).count();
            self.preface += agree;
            if self.preface == PREFACE.len() {
                signals.note_http2();
                return self.begins_with_settings(bytes.get(agree..).unwrap_or_default());
            }
        }
        let is_start = self.bytes == 0;
        self.bytes += bytes.len();
        if self.has_line {
            return true;
        }
        // Empty lines may stand before a request (RFC 9112, 2.2).
        let line = bytes.iter().position(|byte| !b"\r\n".contains(byte));
        let line = line.and_then(|start| bytes.get(start..)).unwrap_or_default();
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            self.has_line = true;
            let line = line.get(..end).unwrap_or_default().trim_ascii_end();
            self.is_other_version = is_start && names_other_version(line);
        }
        true
    }

    /// Whether all that has come may be the beginning of HTTP/2's preface.
    pub(super) fn may_be_http2(&self) -> bool {
        self.before == 0
            && self.bytes > 0
            && self.preface == self.bytes
            && self.preface < PREFACE.len()
    }

    /// Whether the first frame of HTTP/2, as far as it is there, is one of settings (RFC 9113, 3.4): the
    /// fourth of a frame's bytes is its type.
    fn begins_with_settings(&mut self, bytes: &[u8]) -> bool {
        if self.behind > TYPE {
            return true;
        }
        let kind = bytes.get(TYPE - self.behind).copied();
        self.behind += bytes.len();
        kind.is_none_or(|kind| kind == SETTINGS)
    }
}

/// Whether a request line ends with a version that is well formed and not one of HTTP/1.
fn names_other_version(line: &[u8]) -> bool {
    match line.last_chunk::<9>() {
        Some([b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor]) => {
            major.is_ascii_digit() && minor.is_ascii_digit() && *major != b'1'
        }
        _ => false,
    }
}
