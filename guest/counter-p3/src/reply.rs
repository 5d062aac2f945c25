//! Replies, and what goes wrong as `application/problem+json` (RFC 9457).

use serde_json::{Value, json};
use wasip3::{
    http::types::{ErrorCode, Fields, Response},
    spawn_local, wit_future, wit_stream,
};

use crate::bindings::wasi::keyvalue::store;

/// A status, headers and a body.
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn json(value: &Value) -> Self {
        let body = value.to_string().into_bytes();
        Self { body, ..Self::new(200) }.with("content-type", "application/json")
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The response, whose body is sent after it.
    pub fn into_response(self, is_head: bool) -> Response {
        let fields = Fields::new();
        for (name, value) in &self.headers {
            // Refused are names that are the host's, and none of these is.
            let _ = fields.append(name, value.as_bytes());
        }
        if is_head && self.status != 304 {
            let _ = fields.append("content-length", self.body.len().to_string().as_bytes());
        }
        let contents = (!is_head && !self.body.is_empty()).then(|| {
            let (mut sender, contents) = wit_stream::new();
            // A client that has gone away is no concern of this request's any more.
            spawn_local(async move { drop(sender.write_all(self.body).await) });
            contents
        });
        // Without trailers, which is what is sent when nothing else is.
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _) = Response::new(fields, contents, trailers);
        let _ = response.set_status_code(self.status);
        response
    }
}

/// The value of a header, if it is text.
pub fn header(headers: &Fields, name: &str) -> Option<String> {
    let lines: Option<Vec<String>> =
        headers.get(name).into_iter().map(|line| String::from_utf8(line).ok()).collect();
    lines.filter(|lines| !lines.is_empty()).map(|lines| lines.join(", "))
}

/// Why there is no count to tell.
pub enum Problem {
    BadRequest(String),
    NotFound,
    /// The methods that the path takes.
    MethodNotAllowed(&'static str),
    /// A state operation failed.
    State(String),
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        Self::State(match error {
            store::Error::NoSuchStore => {
                "the bucket 'default' is not configured for this guest".into()
            }
            store::Error::AccessDenied => "this guest may not use the bucket 'default'".into(),
            store::Error::Other(reason) => reason,
        })
    }
}

impl Problem {
    /// The reply to a request with this id. What went wrong with state, the host knows better: whether
    /// anything was changed, and whether to try again. It answers in the guest's place.
    pub fn into_reply(self, id: Option<&str>) -> Result<Reply, ErrorCode> {
        let (status, title, code, detail, allow) = match self {
            Self::BadRequest(reason) => (400, "Bad Request", "bad_request", reason, None),
            Self::NotFound => {
                (404, "Not Found", "not_found", "There is nothing at this path.".into(), None)
            }
            Self::MethodNotAllowed(methods) => {
                let detail = format!("This path takes {methods}.");
                (405, "Method Not Allowed", "method_not_allowed", detail, Some(methods))
            }
            Self::State(reason) => return Err(ErrorCode::InternalError(Some(reason))),
        };
        let problem = json!({
            "type": "about:blank",
            "title": title,
            "status": status,
            "code": code,
            "detail": detail,
            "instance": id,
        });
        let body = problem.to_string().into_bytes();
        let reply = Reply { body, ..Reply::new(status) }
            .with("content-type", "application/problem+json")
            .with("cache-control", "no-store");
        Ok(match allow {
            Some(methods) => reply.with("allow", methods),
            None => reply,
        })
    }
}
