//! The access log: one line for each request, written once the last of its response was handed to the
//! connection, or its client was gone.
//!
//! `combined` is the format of that name of Apache and nginx. What clients can make up is escaped as
//! nginx does (`\xHH`), so that no request can forge a line or a field. `json` has more fields, and all
//! beyond ASCII escaped.

use std::{
    fmt::Write as _,
    io,
    net::IpAddr,
    sync::Arc,
    task::Poll,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::{Body, Frame};
use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};

use super::lines::Lines;
use crate::config::AccessFormat;

/// Bytes of a target or a header that are logged: any that the host answers for, in full. A log is no
/// place for a header of 32 KiB.
const MAX_FIELD: usize = 8_000;

/// The status of a request whose client left before there was a response, as in nginx.
const LEFT: u16 = 499;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Where requests are logged.
pub(crate) struct AccessLog {
    lines: Lines,
    is_json: bool,
}

/// A request that is being answered. Dropped, it becomes a line.
pub(crate) struct Access(Box<Inner>);

struct Inner {
    log: Arc<AccessLog>,
    /// None where it has no address: it came through a socket in the file system.
    client: Option<IpAddr>,
    time: SystemTime,
    started: Instant,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    answer: Option<Answer>,
}

struct Answer {
    status: StatusCode,
    id: Option<HeaderValue>,
    guest: Arc<str>,
    /// Bytes of the body that were handed to the connection.
    bytes: u64,
    /// The body came to its end.
    is_complete: bool,
}

impl AccessLog {
    pub(super) fn new(lines: Lines, format: AccessFormat) -> Arc<Self> {
        Arc::new(Self { lines, is_json: format == AccessFormat::Json })
    }

    pub(super) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Notes a request whose head has arrived.
    pub(crate) fn begin<B>(
        self: &Arc<Self>,
        client: Option<IpAddr>,
        request: &Request<B>,
    ) -> Access {
        let header = |name| request.headers().get(name).cloned();
        Access(Box::new(Inner {
            log: Arc::clone(self),
            client: client.map(|client| client.to_canonical()),
            time: SystemTime::now(),
            started: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            host: header(header::HOST),
            referer: header(header::REFERER),
            user_agent: header(header::USER_AGENT),
            answer: None,
        }))
    }
}

impl Access {
    /// Notes who sent it, as a proxy says that is believed.
    pub(crate) fn came_from(&mut self, client: Option<IpAddr>) {
        self.0.client = client;
    }

    /// Notes the head of the response, and who gave it.
    pub(crate) fn answered(&mut self, response: &Response<impl Body>, guest: Arc<str>) {
        let id = response.headers().get(REQUEST_ID).cloned();
        let is_complete = response.body().is_end_stream();
        let status = response.status();
        self.0.answer = Some(Answer { status, id, guest, bytes: 0, is_complete });
    }

    /// Notes a part of the response's body, and whether it was the last.
    pub(crate) fn polled<E>(&mut self, part: &Poll<Option<Result<Frame<Bytes>, E>>>, is_end: bool) {
        let (Some(answer), Poll::Ready(part)) = (&mut self.0.answer, part) else { return };
        if let Some(Ok(frame)) = part {
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            answer.bytes = answer.bytes.saturating_add(bytes);
        }
        answer.is_complete |= part.is_none() || is_end;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut line = match self.log.is_json {
            true => self.json().unwrap_or_default(),
            false => self.combined().into_bytes(),
        };
        line.push(b'\n');
        self.log.lines.push(&line);
    }
}

impl Inner {
    fn status(&self) -> u16 {
        self.answer.as_ref().map_or(LEFT, |answer| answer.status.as_u16())
    }

    fn bytes(&self) -> u64 {
        self.answer.as_ref().map_or(0, |answer| answer.bytes)
    }

    /// The target as it was sent; with HTTP/2, or with a whole URL, its path and query.
    fn target(&self) -> &str {
        match (self.uri.path_and_query(), self.uri.authority()) {
            (Some(target), _) => target.as_str(),
            (None, Some(authority)) => authority.as_str(),
            (None, None) => "",
        }
    }

    fn combined(&self) -> String {
        let mut line = String::with_capacity(256);
        // Writing to a string does not fail.
        let client = self.client.map_or_else(|| "-".into(), |client| client.to_string());
        let _ = write!(line, "{client} - - [{}] \"", common_time(self.time));
        escape(&mut line, self.method.as_str().as_bytes());
        line.push(' ');
        escape(&mut line, self.target().as_bytes());
        let _ = write!(line, " {:?}\" {} {}", self.version, self.status(), self.bytes());
        for value in [&self.referer, &self.user_agent] {
            line.push_str(" \"");
            match value {
                Some(value) => escape(&mut line, value.as_bytes()),
                None => line.push('-'),
            }
            line.push('"');
        }
        line
    }

    fn json(&self) -> io::Result<Vec<u8>> {
        let text = |value: &Option<HeaderValue>| {
            value.as_ref().map(|value| cut(&String::from_utf8_lossy(value.as_bytes())))
        };
        // What is of HTTP/2 has its host in the target.
        let host = match self.uri.authority() {
            Some(authority) => Some(cut(authority.as_str())),
            None => text(&self.host),
        };
        let answer = self.answer.as_ref();
        let line = Line {
            time: humantime::format_rfc3339_millis(self.time).to_string(),
            client: self.client,
            method: cut(self.method.as_str()),
            host,
            target: cut(self.target()),
            version: format!("{:?}", self.version),
            status: self.status(),
            bytes: self.bytes(),
            // Microseconds, as fractions of a second.
            duration: (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e6,
            guest: answer.map(|answer| &*answer.guest).filter(|guest| !guest.is_empty()),
            id: answer.and_then(|answer| answer.id.as_ref()?.to_str().ok()),
            complete: answer.is_some_and(|answer| answer.is_complete),
            referer: text(&self.referer),
            user_agent: text(&self.user_agent),
        };
        let mut bytes = Vec::with_capacity(512);
        line.serialize(&mut Serializer::with_formatter(&mut bytes, Ascii))?;
        Ok(bytes)
    }
}

/// A line of JSON: its fields and their order.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    client: Option<IpAddr>,
    method: String,
    host: Option<String>,
    target: String,
    version: String,
    status: u16,
    bytes: u64,
    duration: f64,
    guest: Option<&'a str>,
    id: Option<&'a str>,
    complete: bool,
    referer: Option<String>,
    user_agent: Option<String>,
}

/// As much of a text as is logged.
fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_FIELD)).unwrap_or_default().to_owned()
}

/// Adds a text with quotes, backslashes and all but printable ASCII as `\xHH`.
fn escape(line: &mut String, bytes: &[u8]) {
    for byte in bytes.iter().take(MAX_FIELD) {
        match byte {
            b'"' | b'\\' | ..=0x1f | 0x7f.. => {
                // Writing to a string does not fail.
                let _ = write!(line, "\\x{byte:02X}");
            }
            _ => line.push(char::from(*byte)),
        }
    }
}

/// A time as in `27/Nov/2026:15:45:26 +0000`.
fn common_time(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let mut parts = text.split(['-', 'T', 'Z']);
    let mut part = || parts.next().unwrap_or_default();
    let (year, month, day, clock) = (part(), part(), part(), part());
    let month = month.parse::<usize>().ok().and_then(|month| MONTHS.get(month.checked_sub(1)?));
    format!("{day}/{}/{year}:{clock} +0000", month.unwrap_or(&"Jan"))
}

/// JSON in ASCII alone: some characters beyond it turn a line around or end it, in what shows it.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| !c.is_ascii() || *c == '\u{7f}')
        {
            let (plain, after) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = after.get(c.len_utf8()..).unwrap_or_default();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(writer, escape)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::logging::lines::{LogFile, Output, Sink};

    fn log(format: AccessFormat, dir: &std::path::Path) -> Arc<AccessLog> {
        let sink = Sink::File(LogFile::open(&dir.join("log")).unwrap());
        let pause = Duration::ZERO;
        let output = Output { sink, pause, tell_lost: |_| {}, tell_failure: |_| {} };
        AccessLog::new(Lines::start("test", output).unwrap(), format)
    }

    fn line(format: AccessFormat, request: &Request<()>, body: Option<&'static str>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let log = log(format, dir.path());
        let mut access = log.begin("::ffff:10.0.0.1".parse().ok(), request);
        access.0.time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_794_326_789);
        if let Some(body) = body {
            let mut body = http_body_util::Full::new(Bytes::from_static(body.as_bytes()));
            access.answered(&Response::new(body.clone()), "counter".into());
            let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
            let part = std::pin::Pin::new(&mut body).poll_frame(context);
            access.polled(&part, body.is_end_stream());
        }
        drop(access);
        log.lines().flush(Duration::from_secs(30));
        std::fs::read_to_string(dir.path().join("log")).unwrap()
    }

    #[test]
    fn lines_are_as_apache_and_nginx_write_them() {
        let request = Request::get("/report?name=a").header("user-agent", "curl/8").body(());
        assert_eq!(
            line(AccessFormat::Combined, &request.unwrap(), Some("body")),
            "10.0.0.1 - - [27/Nov/2026:15:45:26 +0000] \"GET /report?name=a HTTP/1.1\" 200 4 \"-\" \"curl/8\"\n"
        );
    }

    #[test]
    fn what_clients_make_up_stays_in_its_field() {
        let evil = HeaderValue::from_bytes(b"a\" 200 1 \"\\x\t\xff\xe2\x80\xa8").unwrap();
        let request = Request::get("/a\"b").header("referer", &evil).header("user-agent", &evil);
        let request = request.body(()).unwrap();
        let combined = line(AccessFormat::Combined, &request, Some(""));
        assert!(combined.contains("\"GET /a\\x22b HTTP/1.1\" 200 0 "), "{combined}");
        let value = r#""a\x22 200 1 \x22\x5Cx\x09\xFF\xE2\x80\xA8""#;
        assert!(combined.ends_with(&format!("{value} {value}\n")), "{combined}");
        let json = line(AccessFormat::Json, &request, Some(""));
        assert!(json.is_ascii() && json.lines().count() == 1, "{json}");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["user_agent"], "a\" 200 1 \"\\x\t\u{fffd}\u{2028}");
        assert_eq!(json["target"], "/a\"b");
    }

    #[test]
    fn fields_are_bounded() {
        let long = "\u{e9}".repeat(MAX_FIELD);
        let request = Request::get("/").header("user-agent", long.as_bytes()).body(()).unwrap();
        assert!(line(AccessFormat::Combined, &request, None).len() < 5 * MAX_FIELD);
        assert!(line(AccessFormat::Json, &request, None).len() < 7 * MAX_FIELD);
    }

    #[test]
    fn a_client_that_leaves_is_logged_as_such() {
        let request = Request::get("/").body(()).unwrap();
        assert!(line(AccessFormat::Combined, &request, None).contains("\" 499 0 "));
        let json: serde_json::Value =
            serde_json::from_str(&line(AccessFormat::Json, &request, None)).unwrap();
        assert_eq!(json["status"], 499);
        assert_eq!(json["complete"], false);
        assert_eq!(json["time"], "2026-11-27T15:45:26.789Z");
    }
}
