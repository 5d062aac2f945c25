//! `tally deploy`: replacing a guest of a running host, over its admin listener.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tally_net::HostPort;

/// Sends a component to a host, and gives what became of it, for people.
///
/// # Errors
/// When the file cannot be read, the host cannot be reached, has no such route, or refuses the
/// component; the text says why.
pub async fn deploy(file: &Path, route: Option<&str>, admin: &str) -> Result<String> {
    let bytes = crate::server::read_guest(file)?;
    let name = match route {
        Some(route) => route.to_owned(),
        None => only_guest(admin).await?,
    };
    let path = format!("/guests/{}", utf8_percent_encode(&name, NON_ALPHANUMERIC));
    let (status, body) = send(admin, Method::PUT, &path, bytes.into()).await?;
    if status != StatusCode::OK {
        bail!("{}: {}", file.display(), body.trim());
    }
    let done: Value = serde_json::from_str(&body).context("the host's answer is no JSON")?;
    let text = |key: &str| done.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(format!(
        "deployed {} to '{name}': version {} instead of {}, after {} ms",
        file.display(),
        text("version"),
        text("previous"),
        done.get("milliseconds").unwrap_or(&Value::Null),
    ))
}

/// The guest of a host that has but one.
async fn only_guest(admin: &str) -> Result<String> {
    let (_, body) = send(admin, Method::GET, "/guests", Bytes::new()).await?;
    let guests: Vec<Value> = serde_json::from_str(&body)
        .with_context(|| format!("{admin} is no admin listener of tally"))?;
    let names: Vec<&str> =
        guests.iter().filter_map(|guest| guest.get("name").and_then(Value::as_str)).collect();
    match names.as_slice() {
        [name] => Ok((*name).to_owned()),
        names => {
            bail!("the host has several guests; choose one with --route: {}", names.join(", "))
        }
    }
}

async fn send(
    admin: &str,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, String)> {
    let advice = "write the admin listener's URL, such as http://127.0.0.1:3001";
    let uri: Uri = admin.parse().with_context(|| format!("'{admin}' is no URL; {advice}"))?;
    let authority = match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) => authority.clone(),
        _ => bail!("'{admin}' is no URL of http; {advice}"),
    };
    let HostPort { host, port } = HostPort::parse(authority.as_str())
        .map_err(|why| anyhow::anyhow!("'{admin}' is no URL: {why}; {advice}"))?;
    let connecting = async {
        let addresses = tally_net::resolve(host, port.unwrap_or(80)).await?;
        tally_net::connect(&addresses).await
    };
    let stream = connecting.await.with_context(|| {
        format!("cannot reach {admin}; is the host running, with this --admin?")
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority.as_str())
        .body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
