//! Replies as the client can read them: the lines of errors and simple strings as ASCII.
//!
//! An error may quote what it was sent, and that may be any bytes; the client takes a line that is
//! not UTF-8 for the end of the connection, and all that was sent for lost. A byte that is not ASCII
//! becomes a question mark on its way to the client, in such lines alone: values pass as they are
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where in the stream of replies the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the byte that says of which type the next element is.
    Type,
    /// In a line of text.
    Text,
    /// In a line of another type, such as a number of elements.
    Line,
    /// In the line that says how many bytes follow: the number so far, and none for one that is
    /// negative.
    Length(Option<u64>),
    /// In those bytes, or the end of the line after them.
    Bytes(u64),
}

/// A stream whose replies the client can read.
pub(super) struct Readable<S> {
    inner: S,
    place: Place,
}

impl<S> Readable<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, place: Place::Type }
    }
}

impl Place {
    /// Goes through the next bytes of the stream, and mends them.
    fn mend(mut self, mut bytes: &mut [u8]) -> Self {
        while !bytes.is_empty() {
            let passed = match self {
                Self::Type => {
                    self = match bytes.first() {
                        Some(b'-' | b'+') => Self::Text,
                        // Values, errors and texts with a length. The client reads the latter two
                        // whatever their bytes.
                        Some(b'$' | b'!' | b'=') => Self::Length(Some(0)),
                        _ => Self::Line,
                    };
                    1
                }
                Self::Text | Self::Line => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let passed = end.map_or(bytes.len(), |end| end.saturating_add(1));
                    if self == Self::Text {
                        let line = bytes.iter_mut().take(passed);
                        line.filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
                    }
                    if end.is_some() {
                        self = Self::Type;
                    }
                    passed
                }
                Self::Length(length) => {
                    self = match (bytes.first(), length) {
                        (Some(b'\n'), Some(length)) => Self::Bytes(length.saturating_add(2)),
                        (Some(b'\n'), None) => Self::Type,
                        (Some(digit @ b'0'..=b'9'), Some(length)) => {
                            let digit = u64::from(digit.saturating_sub(b'0'));
                            Self::Length(Some(length.saturating_mul(10).saturating_add(digit)))
                        }
                        (Some(b'\r'), length) => Self::Length(length),
                        _ => Self::Length(None),
                    };
                    1
                }
                Self::Bytes(left) => {
                    let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(left);
                    let left = left.saturating_sub(here);
                    self = if left == 0 { Self::Type } else { Self::Bytes(left) };
                    usize::try_from(here).unwrap_or(usize::MAX)
                }
            };
            bytes = bytes.get_mut(passed..).unwrap_or_default();
        }
        self
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Readable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let read = buffer.filled_mut().get_mut(before..).unwrap_or_default();
        self.place = self.place.mend(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Readable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_text_are_mended_and_values_are_not_wherever_reads_end() {
        let replies: [(&[u8], &[u8]); 8] = [
            (b"-ERR '\xff\xc3\xa9'\r\n", b"-ERR '???'\r\n"),
            (b"+\xff\r\n", b"+?\r\n"),
            (b":1\r\n", b":1\r\n"),
            (b"*2\r\n$4\r\n-\xff\r\n\r\n$-1\r\n", b"*2\r\n$4\r\n-\xff\r\n\r\n$-1\r\n"),
            (b"$0\r\n\r\n-\xff\r\n", b"$0\r\n\r\n-?\r\n"),
            (b"*-1\r\n_\r\n#t\r\n,1.5\r\n", b"*-1\r\n_\r\n#t\r\n,1.5\r\n"),
            (b"=6\r\ntxt:\xff\n\r\n", b"=6\r\ntxt:\xff\n\r\n"),
            (b"!3\r\n-\xff\n\r\n-\xfe\r\n", b"!3\r\n-\xff\n\r\n-?\r\n"),
        ];
        let sent: Vec<u8> = replies.iter().flat_map(|(sent, _)| sent.to_vec()).collect();
        let mended: Vec<u8> = replies.iter().flat_map(|(_, mended)| mended.to_vec()).collect();
        for size in 1..=sent.len() {
            let (mut place, mut bytes) = (Place::Type, sent.clone());
            for chunk in bytes.chunks_mut(size) {
                place = place.mend(chunk);
            }
            assert_eq!(bytes, mended, "in chunks of {size}");
            assert_eq!(place, Place::Type);
        }
    }
}
