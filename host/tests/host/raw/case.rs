//! A case of the table: bytes that a client sends, and what the RFCs ask of the server.
//!
//! What is asked for is a short text. Each alternative is the statuses of the final responses in order,
//! and how the connection ends up:
//!
//! - `200 open`: one response, and the connection serves another request.
//! - `400|501 close`, `4xx close`: one of several statuses, and the connection is closed.
//! - `200=5 open`: the status, and the response's content, with `_` for each space.
//! - `none close`: no response at all.
//! - `200 any`: open or closed.
//! - `400 close / 200 open`: either is right.

use std::fmt;

/// One line of the table.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    /// Where the RFC says so.
    pub section: &'static str,
    pub bytes: Vec<u8>,
    pub wanted: &'static str,
    /// The first request is `HEAD`: its response has no content.
    pub is_head: bool,
    /// The client shuts its writing side down after the bytes.
    pub finishes: bool,
}

/// A case whose bytes are written in full.
pub fn case(
    name: &str,
    section: &'static str,
    bytes: impl AsRef<[u8]>,
    wanted: &'static str,
) -> Case {
    let bytes = bytes.as_ref().to_vec();
    Case { name: name.to_owned(), section, bytes, wanted, is_head: false, finishes: false }
}

impl Case {
    pub fn head(self) -> Self {
        Self { is_head: true, ..self }
    }

    pub fn finish(self) -> Self {
        Self { finishes: true, ..self }
    }
}

/// How a connection ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It served another request.
    Open,
    Closed,
    /// It neither answered another request in time nor closed.
    Hung,
}

/// What a server did.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Final responses: status and content.
    pub responses: Vec<(u16, String)>,
    pub end: End,
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.responses.is_empty() {
            write!(f, "none ")?;
        }
        for (status, _) in &self.responses {
            write!(f, "{status} ")?;
        }
        write!(
            f,
            "{}",
            match self.end {
                End::Open => "open",
                End::Closed => "close",
                End::Hung => "hangs",
            }
        )
    }
}

/// The most responses that any alternative asks for.
pub fn most_responses(wanted: &str) -> usize {
    let count = |text: &str| {
        let words = text.split_whitespace().filter(|word| *word != "none").count();
        words.saturating_sub(1)
    };
    wanted.split(" / ").map(count).max().unwrap_or_default()
}

/// Whether a server did what is asked for.
pub fn is_met(wanted: &str, observed: &Observed) -> bool {
    wanted.split(" / ").any(|alternative| {
        let mut words: Vec<&str> =
            alternative.split_whitespace().filter(|word| *word != "none").collect();
        let end = match words.pop() {
            Some("open") => observed.end == End::Open,
            Some("close") => observed.end == End::Closed,
            Some("any") => observed.end != End::Hung,
            other => panic!("{wanted:?} does not end with open, close or any: {other:?}"),
        };
        let pairs = words.iter().zip(&observed.responses);
        end && words.len() == observed.responses.len()
            && pairs.into_iter().all(|(word, (status, content))| fits(word, *status, content))
    })
}

fn fits(word: &str, status: u16, content: &str) -> bool {
    let (statuses, wanted_content) = match word.split_once('=') {
        Some((statuses, content)) => (statuses, Some(content)),
        None => (word, None),
    };
    let status = status.to_string();
    let fits = |wanted: &str| match wanted.strip_suffix("xx") {
        Some(class) => status.starts_with(class),
        None => status == wanted,
    };
    statuses.split('|').any(fits)
        && wanted_content.is_none_or(|wanted| wanted == content.replace(' ', "_"))
}

#[test]
fn a_text_says_what_is_asked_for() {
    let observed = |responses: &[(u16, &str)], end| Observed {
        responses: responses.iter().map(|(status, text)| (*status, (*text).to_owned())).collect(),
        end,
    };
    let one = observed(&[(200, "5")], End::Open);
    for wanted in ["200 open", "200=5 open", "2xx any", "400 close / 200 open", "400|200 open"] {
        assert!(is_met(wanted, &one), "{wanted}");
    }
    for wanted in ["200 close", "200=6 open", "4xx any", "200 200 open", "none open"] {
        assert!(!is_met(wanted, &one), "{wanted}");
    }
    assert!(is_met("none close", &observed(&[], End::Closed)));
    assert!(!is_met("none any", &observed(&[], End::Hung)));
    assert_eq!(most_responses("none close"), 0);
    assert_eq!(most_responses("400 close / 200 200 open"), 2);
}
