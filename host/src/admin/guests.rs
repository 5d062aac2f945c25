//! Guests over the admin listener: which there are, and replacing one.
//!
//! - `GET /guests`: a JSON array of `{"name","route","version","world","pool","loaded","failure"}`;
//!   `failure` is why it cannot be loaded, or null.
//! - `PUT /guests/NAME`, the name percent-encoded, with a component as its body: replaces the guest
//!   while requests run, and answers `{"name","version","previous","milliseconds"}`; 422 with a
//!   reason for one that cannot be run, and then nothing has changed. The file it was started from
//!   stays, and the next start loads that.

use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{Admin, text};
use crate::runtime::World;

/// Bytes of a component that are taken: more than any that can be loaded.
const MAX_BYTES: usize = 65 << 20;

/// Guests that are named to who asks for one that there is not.
const MOST_NAMED: usize = 20;

/// Longest time that a component may take to arrive.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(30);

impl Admin {
    pub(super) fn list_guests(&self) -> Response<Full<Bytes>> {
        let guests = self.routes.iter().map(|(pattern, guest)| {
            let release = guest.release();
            json!({
                "name": **guest.name(),
                "route": pattern.to_string(),
                "version": *release.version(),
                "world": release.world().map(World::name),
                "pool": guest.tenant().pool(),
                "loaded": release.is_loaded(),
                "failure": release.failure().as_deref(),
            })
        });
        answer(StatusCode::OK, &guests.collect())
    }

    pub(super) async fn deploy(
        &self,
        name: &str,
        request: Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        // Read first, so that a client that is slow to send keeps no other from deploying, and gets
        // to read an answer.
        let Ok(_upload) = self.uploads.acquire().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into());
        };
        let reading = Limited::new(request.into_body(), MAX_BYTES).collect();
        let bytes = match tokio::time::timeout(UPLOAD_TIMEOUT, reading).await {
            Ok(Ok(bytes)) => bytes.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let reason = format!("a component has at most {MAX_BYTES} bytes\n");
                return text(StatusCode::PAYLOAD_TOO_LARGE, reason);
            }
            Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            Err(_) => {
                let reason = "the component did not arrive in time\n".into();
                return text(StatusCode::REQUEST_TIMEOUT, reason);
            }
        };
        let name = percent_decode_str(name).decode_utf8_lossy();
        let Some(guest) = self.routes.named(&name) else {
            let names = self.routes.iter().map(|(_, guest)| &**guest.name());
            let known = names.take(MOST_NAMED).collect::<Vec<_>>().join("', '");
            let more = if self.routes.iter().count() > MOST_NAMED { " and others" } else { "" };
            let reason = format!("there is no guest named '{name}'; there is '{known}'{more}\n");
            return text(StatusCode::NOT_FOUND, reason);
        };
        // One at a time: a component takes memory, and compiling it all cores.
        let Ok(_turn) = self.deploying.acquire().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into());
        };
        match guest.deploy(bytes.into(), None, self.state.clone()).await {
            Ok(done) => {
                tracing::info!(
                    guest = %name, version = %done.version, previous = %done.previous, "deployed"
                );
                let milliseconds = u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX);
                answer(
                    StatusCode::OK,
                    &json!({
                        "name": name,
                        "version": *done.version,
                        "previous": *done.previous,
                        "milliseconds": milliseconds,
                    }),
                )
            }
            Err(error) => {
                tracing::warn!(guest = %name, "a new version was refused: {error}");
                text(StatusCode::UNPROCESSABLE_ENTITY, format!("{error}\n"))
            }
        }
    }
}

fn answer(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{value}\n")));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
