//! Where an HTTP/1.1 answer ends, as far as servers that are measured need it: a length or chunks.

use anyhow::{Context as _, Result, bail};

/// A whole answer.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Its bytes, with the head.
    pub(super) size: usize,
}

/// The answer at the front of what was received; `None` while it is not whole.
pub(super) fn parse(received: &[u8]) -> Result<Option<Answer>> {
    let Some(head) = find(received, b"\r\n\r\n") else { return Ok(None) };
    let (head, body) = received.split_at(head + 4);
    let text = str::from_utf8(head).context("the head of an answer is no text")?;
    let status = text.get(9..12).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("an answer has no status: {text:?}"))?;
    let size = match (header(text, "content-length"), header(text, "transfer-encoding")) {
        (Some(length), _) => Some(length.parse().context("no content-length")?),
        (None, Some("chunked")) => chunks(body)?,
        _ => bail!("an answer has neither a length nor chunks: {text:?}"),
    };
    let whole = size.filter(|size| *size <= body.len());
    Ok(whole.map(|size| Answer { status, size: head.len() + size }))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// The size of a body in chunks, up to the empty one and without trailers.
fn chunks(body: &[u8]) -> Result<Option<usize>> {
    let mut start = 0;
    loop {
        let rest = body.get(start..).unwrap_or_default();
        let Some(line) = find(rest, b"\r\n") else { return Ok(None) };
        let digits = str::from_utf8(rest.get(..line).unwrap_or_default())?;
        let size = usize::from_str_radix(digits, 16).context("a chunk has no size")?;
        start += line + 2 + size + 2;
        if size == 0 {
            return Ok(Some(start));
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every part of an answer but the whole is none.
    fn whole(answer: &str) -> Answer {
        for end in 0..answer.len() {
            assert_eq!(parse(&answer.as_bytes()[..end]).unwrap(), None, "{end}");
        }
        parse(answer.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn an_answer_ends_with_its_length() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(whole(text), Answer { status: 200, size: text.len() });
    }

    #[test]
    fn an_answer_ends_with_its_last_chunk() {
        let text =
            "HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(whole(text), Answer { status: 503, size: text.len() });
    }

    #[test]
    fn an_answer_without_an_end_is_refused() {
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"nothing\r\n\r\n").is_err());
    }
}
