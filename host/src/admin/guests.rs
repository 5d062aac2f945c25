//! Guests over the admin listener: which there are, and replacing one.
//!
//! - `GET /guests`: a JSON array of `{"name","route","version","world","pool","loaded","failure"}`;
//!   `failure` is why it cannot be loaded, or null.
//! - `PUT /guests/NAME`, the name percent-encoded, with a component as its body: deploys it as a release with the
//!   settings that the guest has, waits until every host runs it, and answers
//!   `{"name","version","previous","milliseconds","notes",…}`, where `notes` lists, for example, imports that this host
//!   does not offer; 422 with a reason for one that cannot be run, and then nothing has changed.
//!
//! Both are for people with `curl`; `v1` is for programs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Admin, Who,
    connections::Peer,
    text,
    v1::{Refusal, answer, made_value},
};
use crate::{
    releases::{Deployment, Error, Where},
    runtime::World,
};

/// Bytes of a component that are taken: more than any that can be loaded.
const MAX_BYTES: usize = 65 << 20;

/// Bytes of all components that are arriving or waiting to be loaded: four of the largest.
pub(super) const UPLOAD_BYTES: usize = 4 * MAX_BYTES;

/// Components that are arriving or waiting to be loaded: half of the connections (`MAX_CONNECTIONS`), so that others are
/// left for health and metrics.
pub(super) const MAX_UPLOADS: usize = 32;

/// Longest time without a byte of a component that is arriving.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time that a component may take to arrive.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a refused body that are read on: twice the largest component.
const MAX_DISCARDED: usize = 130 << 20;

/// Longest time that a refused body is read on.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest pause in a refused body: a client that has stopped sending is answered then.
const DISCARD_PAUSE: Duration = Duration::from_secs(1);

/// What a component takes of [`UPLOAD_BYTES`], until dropped.
pub(super) struct Held(
    #[expect(dead_code, reason = "given back when dropped")] Option<OwnedSemaphorePermit>,
);

impl Admin {
    pub(super) fn list_guests(&self) -> Response<Full<Bytes>> {
        let routes = self.table.routes();
        let guests = routes.iter().map(|(pattern, guest)| {
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
        answer(&guests.collect())
    }

    /// Reads a component. Each part is charged as it arrives: a slow client holds little, and keeps
    /// no other from sending.
    async fn read(&self, body: &mut Incoming) -> Result<(Bytes, Held), UploadError> {
        if body.size_hint().lower() > MAX_BYTES as u64 {
            return Err(UploadError::TooLarge);
        }
        let (mut bytes, mut held) = (Vec::new(), None::<OwnedSemaphorePermit>);
        loop {
            let frame = tokio::time::timeout(STALL_TIMEOUT, body.frame()).await;
            let Some(frame) = frame.map_err(|_| UploadError::Timeout)? else { break };
            let Ok(part) = frame?.into_data() else { continue };
            if bytes.len().saturating_add(part.len()) > MAX_BYTES {
                return Err(UploadError::TooLarge);
            }
            let permits = u32::try_from(part.len()).map_err(|_| UploadError::TooLarge)?;
            let taken = Arc::clone(&self.upload_bytes).try_acquire_many_owned(permits);
            let taken = taken.map_err(|_| UploadError::TooMany)?;
            match &mut held {
                Some(held) => held.merge(taken),
                None => held = Some(taken),
            }
            bytes.extend_from_slice(&part);
        }
        Ok((bytes.into(), Held(held)))
    }

    /// Reads a component before anything else is done, so that a client that is slow to send keeps no other from
    /// deploying, and gets to read an answer.
    pub(super) async fn receive(
        &self,
        request: Request<Incoming>,
    ) -> Result<(Bytes, Held), UploadError> {
        let Ok(_upload) = self.uploads.try_acquire() else {
            discard(request.into_body()).await;
            return Err(UploadError::TooMany);
        };
        let mut body = request.into_body();
        let reading = tokio::time::timeout(UPLOAD_TIMEOUT, self.read(&mut body)).await;
        let read = reading.unwrap_or(Err(UploadError::Timeout));
        if let Err(UploadError::TooLarge | UploadError::TooMany) = read {
            discard(body).await;
        }
        read
    }

    /// Deploys a component with the settings that the guest has, and answers when every host runs it, or has said
    /// why it cannot.
    pub(super) async fn deploy(
        &self,
        name: &str,
        request: Request<Incoming>,
        peer: &Peer,
        who: Who,
    ) -> Response<Full<Bytes>> {
        let _at_work = peer.begin();
        let (bytes, _held) = match self.receive(request).await {
            Ok(read) => read,
            Err(error) => return error.into_response(),
        };
        let name = percent_decode_str(name).decode_utf8_lossy();
        // One at a time: a component takes memory, and compiling it all cores.
        let Ok(_turn) = self.deploying.acquire().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into());
        };
        let started = Instant::now();
        let before = self.table.routes().named(&name).map(|guest| guest.release().version());
        let deployment = Deployment { who: who.0, ..Deployment::default() };
        let deploying = async {
            let component = self.releases.upload(&bytes).await?;
            let made = self.releases.deploy(&name, component, deployment).await?;
            let rollout = self.releases.wait(made.revision).await?;
            Ok::<_, Error>((made, rollout))
        };
        let (made, rollout) = match deploying.await {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(guest = %name, "a new version was refused: {error}");
                let refusal = Refusal::from(error);
                return text(refusal.status, format!("{}\n", refusal.detail));
            }
        };
        let failed = rollout.hosts.iter().find_map(|(record, place)| match place {
            Where::Failed(reason) => Some(format!("host {}: {reason}", record.host)),
            Where::Behind | Where::Loading => Some(format!("host {} is still at it", record.host)),
            Where::Runs => None,
        });
        if let Some(reason) = failed {
            let reason = format!("deployed, and not every host can run it: {reason}\n");
            return text(StatusCode::INTERNAL_SERVER_ERROR, reason);
        }
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut value = made_value(&made);
        if let Some(object) = value.as_object_mut() {
            object.insert("name".into(), json!(name));
            object.insert("previous".into(), json!(before.as_deref()));
            object.insert("milliseconds".into(), json!(milliseconds));
        }
        answer(&value)
    }
}

/// Why a component could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("a component has at most {MAX_BYTES} bytes")]
    TooLarge,
    #[error("too many components are arriving at once; try again")]
    TooMany,
    #[error("the component did not arrive in time")]
    Timeout,
    #[error("{0}")]
    Broken(#[from] hyper::Error),
}

impl UploadError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooMany => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let status = self.status();
        let mut response = text(status, format!("{self}\n"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let after = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        response
    }
}

/// Reads on what is left of a refused body, within bounds, so that its client gets to read why.
pub(super) async fn discard(mut body: Incoming) {
    let reading = async {
        let mut left = MAX_DISCARDED;
        while let Ok(Some(Ok(frame))) = tokio::time::timeout(DISCARD_PAUSE, body.frame()).await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(after) => left = after,
                None => return,
            }
        }
    };
    // The connection is closed then.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, reading).await;
}
