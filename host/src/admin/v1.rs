//! Version 1 of what programs ask of a host: `/admin/v1/…`. The commands of `tally` are its client; `openapi.json`
//! describes it.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, Who, connections::Peer, route::V1};
use crate::{
    config::ReleaseSettings,
    registry::{Guest, Pattern},
    releases::{Change, Component, Deployment, Error, Made, Record, Rollout, Where},
    runtime::World,
};

/// The description of all this.
const DESCRIPTION: &str = include_str!("openapi.json");

/// Bytes of what is asked for, besides components: settings with a large environment.
const MAX_REQUEST: usize = 256 << 10;

/// Entries of a history that are read where nothing else is said, and at most.
const HISTORY: usize = 50;
const MOST_HISTORY: usize = 1_000;

/// What a deployment says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseRequest {
    component: Component,
    #[serde(default)]
    settings: Value,
    #[serde(default)]
    note: String,
    #[serde(default)]
    base: Option<u64>,
}

/// What a change of another kind says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ChangeRequest {
    to: Option<u64>,
    note: String,
    base: Option<u64>,
}

/// An answer, or why there is none.
type Answer = Result<Response<Full<Bytes>>, Refusal>;

/// Why something is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) detail: String,
}

impl Refusal {
    fn new(status: StatusCode, detail: impl ToString) -> Self {
        Self { status, detail: detail.to_string() }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            Error::Unknown => StatusCode::GATEWAY_TIMEOUT,
            Error::Conflict { .. } => StatusCode::CONFLICT,
            Error::Absent(_) => StatusCode::NOT_FOUND,
            Error::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Missing { .. } | Error::Broken { .. } | Error::Unreadable { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, error)
    }
}

impl Admin {
    pub(super) async fn answer_v1(
        &self,
        route: V1<'_>,
        request: Request<Incoming>,
        peer: &Peer,
        who: Who,
    ) -> Response<Full<Bytes>> {
        match self.try_answer(route, request, peer, who).await {
            Ok(response) => response,
            Err(refusal) => problem(&refusal),
        }
    }

    async fn try_answer(
        &self,
        route: V1<'_>,
        request: Request<Incoming>,
        peer: &Peer,
        who: Who,
    ) -> Answer {
        match route {
            V1::Description => Ok(with_json(StatusCode::OK, DESCRIPTION.into())),
            V1::Guests => self.all_guests().await,
            V1::Guest(name) => {
                let name = decode(name);
                let head = self.releases.head(&name).await?;
                let routes = self.table.routes();
                let found = routes.named_with_pattern(&name);
                if head.number == 0 && found.is_none() {
                    let detail = format!("there is no guest named '{name}'");
                    return Err(Refusal::new(StatusCode::NOT_FOUND, detail));
                }
                Ok(answer(&self.guest(&name, found, &head, &[])))
            }
            V1::Upload => self.upload(request, peer).await,
            V1::Release(name) => {
                let asked: ReleaseRequest = read(request).await?;
                let settings = match asked.settings {
                    Value::Null => ReleaseSettings::default(),
                    settings => ReleaseSettings::parse(settings)
                        .map_err(|error| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error))?,
                };
                let (note, base) = (asked.note, asked.base);
                let deployment = Deployment { settings, who: who.0, note, base };
                let _at_work = peer.begin();
                let _turn = self.turn().await?;
                let made = self.releases.deploy(&decode(name), asked.component, deployment).await?;
                Ok(answer(&made_value(&made)))
            }
            V1::RollBack(name) => {
                let ChangeRequest { to, note, base } = read(request).await?;
                let deployment = Deployment { who: who.0, note, base, ..Deployment::default() };
                let _at_work = peer.begin();
                let _turn = self.turn().await?;
                let made = self.releases.roll_back(&decode(name), to, deployment).await?;
                Ok(answer(&made_value(&made)))
            }
            V1::Remove(name) => {
                let ChangeRequest { note, base, .. } = read(request).await?;
                let deployment = Deployment { who: who.0, note, base, ..Deployment::default() };
                let made = self.releases.remove(&decode(name), deployment).await?;
                Ok(answer(&made_value(&made)))
            }
            V1::History(name) => {
                let query = request.uri().query().unwrap_or_default();
                let limit = query.strip_prefix("limit=").map_or(Ok(HISTORY), str::parse);
                let limit = limit.map_err(|_| {
                    Refusal::new(StatusCode::BAD_REQUEST, "limit: a number of entries")
                })?;
                let entries = self.releases.history(&decode(name), limit.min(MOST_HISTORY)).await?;
                Ok(answer(&entries.iter().map(entry).collect()))
            }
            V1::Hosts => {
                let hosts = self.releases.hosts().await?;
                Ok(answer(&hosts.iter().map(host).collect()))
            }
            V1::Rollout(revision) => {
                let revision = revision
                    .parse()
                    .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "a revision is a number"))?;
                match self.releases.rollout(revision).await? {
                    Some(rollout) => Ok(answer(&rollout_value(revision, &rollout))),
                    None => {
                        let detail = format!("there is no revision {revision}");
                        Err(Refusal::new(StatusCode::NOT_FOUND, detail))
                    }
                }
            }
        }
    }

    /// The one place for a component that is being tried: it takes memory, and compiling it all cores.
    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Refusal> {
        let turn = self.deploying.acquire().await;
        turn.map_err(|_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "stopping"))
    }

    async fn upload(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        let _at_work = peer.begin();
        let (bytes, _held) =
            self.receive(request).await.map_err(|error| Refusal::new(error.status(), error))?;
        let component = self.releases.upload(&bytes).await?;
        let mut response = answer(&json!(component));
        *response.status_mut() = StatusCode::CREATED;
        Ok(response)
    }

    async fn all_guests(&self) -> Answer {
        let heads = self.releases.heads().await?;
        let hosts = self.releases.hosts().await?;
        let mut heads: HashMap<String, _> = heads.into_iter().collect();
        let routes = self.table.routes();
        let mut guests = Vec::new();
        for found in routes.iter() {
            let name = found.1.name();
            let head = heads.remove(&**name).unwrap_or_default();
            guests.push(self.guest(name, Some(found), &head, &hosts));
        }
        // What cannot run here.
        for (name, head) in heads.into_iter().filter(|(_, head)| head.release.is_some()) {
            guests.push(self.guest(&name, None, &head, &hosts));
        }
        Ok(answer(&guests.into()))
    }

    /// A guest, with its route if it has one here.
    fn guest(
        &self,
        name: &str,
        found: Option<(&Pattern, &Arc<Guest>)>,
        head: &crate::releases::Head,
        hosts: &[Record],
    ) -> Value {
        let release = found.map(|(_, guest)| guest.release());
        let wanted = head.release.as_ref().map(|release| release.number);
        let failed = hosts.iter().filter_map(|host| {
            let failed = host.failed.get(name)?;
            Some(json!({"host": host.host, "admin": host.admin, "reason": failed.reason}))
        });
        json!({
            "name": name,
            "route": found.map(|(pattern, _)| pattern.to_string()),
            "entry": head.number,
            "release": wanted,
            "source": if wanted.is_some() { "release" } else { "tally.toml" },
            "supersedes": wanted.is_some() && self.releases.is_in_file(name),
            "digest": head.release.as_ref().map(|release| &release.component.digest),
            "settings": head.release.as_ref().map(|release| &release.settings),
            "kept": head.kept.iter().map(|kept| kept.number).collect::<Vec<_>>(),
            "here": {
                "release": self.releases.running(name),
                "version": release.as_ref().map(|release| release.version().to_string()),
                "world": release.as_ref().and_then(|release| release.world().map(World::name)),
                "weight": found.map(|(_, guest)| guest.tenant().limits().weight),
                "loaded": release.as_ref().is_some_and(|release| release.is_loaded()),
            },
            "failed": failed.collect::<Vec<_>>(),
        })
    }
}

fn decode(name: &str) -> String {
    percent_decode_str(name).decode_utf8_lossy().into_owned()
}

/// Reads what is asked for; nothing is an empty object.
async fn read<T: for<'de> Deserialize<'de>>(request: Request<Incoming>) -> Result<T, Refusal> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect();
    let body = tokio::time::timeout(super::guests::STALL_TIMEOUT, body).await;
    let bytes = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("{error}: at most {MAX_REQUEST} bytes"),
            ));
        }
        Err(_) => {
            return Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "the request did not arrive in time",
            ));
        }
    };
    let text = if bytes.is_empty() { b"{}".as_slice() } else { &bytes };
    serde_json::from_slice(text)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the request: {error}")))
}

pub(super) fn made_value(made: &Made) -> Value {
    let mut value = entry(&made.change);
    let version = made.change.release.as_ref().map(|release| release.component.version());
    if let Some(object) = value.as_object_mut() {
        object.insert("revision".into(), json!(made.revision));
        object.insert("version".into(), json!(version));
        object.insert("previous".into(), json!(made.previous));
        object.insert("milliseconds".into(), json!(made.milliseconds));
        object.insert("notes".into(), json!(made.notes));
    }
    value
}

fn entry(change: &Change) -> Value {
    json!({
        "guest": change.guest,
        "number": change.number,
        "kind": change.kind,
        "release": change.release.as_ref().map(|release| release.number),
        "digest": change.release.as_ref().map(|release| &release.component.digest),
        "time": humantime::format_rfc3339_millis(
            std::time::UNIX_EPOCH + std::time::Duration::from_millis(change.time)
        ).to_string(),
        "who": change.who,
        "note": change.note,
    })
}

fn host(record: &Record) -> Value {
    json!({
        "host": record.host,
        "admin": record.admin,
        "version": record.version,
        "started": humantime::format_rfc3339_seconds(
            std::time::UNIX_EPOCH + std::time::Duration::from_millis(record.started)
        ).to_string(),
        "revision": record.seen,
        "loading": record.loading,
        "failed": record.failed.iter().map(|(guest, failed)| json!({
            "guest": guest, "release": failed.release, "reason": failed.reason,
        })).collect::<Vec<_>>(),
    })
}

fn rollout_value(revision: u64, rollout: &Rollout) -> Value {
    let hosts = rollout.hosts.iter().map(|(record, place)| {
        let (state, reason) = match place {
            Where::Runs => ("runs", None),
            Where::Loading => ("loading", None),
            Where::Behind => ("waiting", None),
            Where::Failed(reason) => ("failed", Some(reason)),
        };
        json!({"host": record.host, "admin": record.admin, "state": state, "reason": reason})
    });
    json!({"revision": revision, "over": rollout.is_over(), "hosts": hosts.collect::<Vec<_>>()})
}

pub(super) fn answer(value: &Value) -> Response<Full<Bytes>> {
    with_json(StatusCode::OK, format!("{value}\n"))
}

/// A problem (RFC 9457).
fn problem(refusal: &Refusal) -> Response<Full<Bytes>> {
    let title = refusal.status.canonical_reason().unwrap_or_default();
    let value =
        json!({"title": title, "status": refusal.status.as_u16(), "detail": refusal.detail});
    let mut response = with_json(refusal.status, format!("{value}\n"));
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn with_json(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
