//! What is written on standard output: bytes, lines, or JSON.

use std::{
    borrow::Cow,
    io::{self, BufWriter, IsTerminal as _, Stdout, Write as _},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

/// Standard output.
pub(super) struct Output {
    writer: BufWriter<Stdout>,
    terminal: bool,
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self { writer: BufWriter::new(stdout), terminal, json }
    }

    /// Whether JSON is asked for.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// A value: its bytes as they are, unless a person and a terminal read them.
    pub(super) fn value(&mut self, value: &[u8]) -> Result<()> {
        match self.terminal {
            true => self.line(&escape(value, |c| !c.is_control() || matches!(c, '\n' | '\t'))),
            false => self.write(value),
        }
    }

    /// A line.
    pub(super) fn line(&mut self, text: &str) -> Result<()> {
        self.write(text.as_bytes())?;
        self.write(b"\n")
    }

    /// A JSON document, on one line.
    pub(super) fn document(&mut self, document: &impl Serialize) -> Result<()> {
        self.line(&serde_json::to_string(document)?)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).context(FAILED)
    }

    /// Hands on what has been written so far.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.writer.flush().context(FAILED)
    }
}

const FAILED: &str = "cannot write to standard output";

/// Whether it failed because standard output has been closed at its other end.
pub(super) fn nobody_reads(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A value within JSON, which holds text alone.
#[derive(Default, Serialize)]
pub(super) struct Encoded<'a> {
    value: Option<Cow<'a, str>>,
    encoding: Option<&'static str>,
}

impl<'a> Encoded<'a> {
    pub(super) fn of(value: &'a [u8]) -> Self {
        let (value, encoding) = match std::str::from_utf8(value) {
            Ok(text) => (text.into(), "utf-8"),
            Err(_) => (STANDARD.encode(value).into(), "base64"),
        };
        Self { value: Some(value), encoding: Some(encoding) }
    }
}

/// Text that takes one line and can be taken back: as `mysql --batch` writes it, with backslashes
/// and control characters as escapes.
pub(super) fn one_line(bytes: &[u8]) -> String {
    escape(bytes, |character| !character.is_control() && character != '\\')
}

/// Text with escapes for all characters but those that may stay, and for what is no UTF-8.
fn escape(bytes: &[u8], stays: impl Fn(char) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match stays(character) {
                true => text.push(character),
                false => text.extend(character.escape_default()),
            }
        }
        for byte in chunk.invalid() {
            text.extend(std::ascii::escape_default(*byte).map(char::from));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_and_no_two_values_look_the_same() {
        assert_eq!(one_line("grüße, 'a' \"b\"".as_bytes()), "grüße, 'a' \"b\"");
        assert_eq!(one_line(b"a\nb\tc\\n\x1b[2J"), "a\\nb\\tc\\\\n\\u{1b}[2J");
        assert_eq!(one_line(b"\xff\x00"), "\\xff\\u{0}");
    }

    #[test]
    fn what_is_no_text_is_base64() {
        let json = |value| serde_json::to_string(&Encoded::of(value)).unwrap();
        assert_eq!(json(b"4\"2"), r#"{"value":"4\"2","encoding":"utf-8"}"#);
        assert_eq!(json(b"\xff\xfe"), r#"{"value":"//4=","encoding":"base64"}"#);
        let missing = serde_json::to_string(&Encoded::default()).unwrap();
        assert_eq!(missing, r#"{"value":null,"encoding":null}"#);
    }
}
