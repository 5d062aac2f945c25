//! `tally deploy`: replacing a guest of a running host, over its admin listener.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header, uri::Authority};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tally_net::HostPort;
use tokio::net::TcpStream;

use crate::{
    admin::{is_loopback, token},
    config::{ADMIN_TOKEN, Secret},
};

/// The admin token that the environment or a file gives, if one does.
///
/// # Errors
/// When it is in both, or cannot be a token.
pub fn token(environment: &[(String, String)], file: Option<&Path>) -> Result<Option<Secret>> {
    let variable = environment.iter().find(|(name, _)| name == ADMIN_TOKEN);
    let variable = variable.and_then(|(_, token)| Secret::new(token));
    Ok(token::configured(variable.as_ref(), file)?)
}

/// Sends a component to a host, and gives what became of it, for people. Without a token, that of a
/// host of the same user on this machine is looked for.
///
/// # Errors
/// When the file cannot be read, the host cannot be reached, has no such route, or refuses the token
/// or the component; the text says why.
pub async fn deploy(
    file: &Path,
    route: Option<&str>,
    admin: &str,
    token: Option<Secret>,
) -> Result<String> {
    let bytes = crate::server::read_guest(file)?;
    let host = Host::parse(admin, token)?;
    let name = match route {
        Some(route) => route.to_owned(),
        None => only_guest(&host).await?,
    };
    let path = format!("/guests/{}", utf8_percent_encode(&name, NON_ALPHANUMERIC));
    let (status, body) = host.send(&Method::PUT, &path, bytes.into()).await?;
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        bail!("{admin}: {}", body.trim());
    }
    if status != StatusCode::OK {
        bail!("{}: {}", file.display(), body.trim());
    }
    let done: Value = serde_json::from_str(&body).context("the host's answer is no JSON")?;
    let text = |key: &str| done.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut said = format!(
        "deployed {} to '{name}': version {} instead of {}, after {} ms",
        file.display(),
        text("version"),
        text("previous"),
        done.get("milliseconds").unwrap_or(&Value::Null),
    );
    let notes = done.get("notes").and_then(Value::as_array);
    for note in notes.into_iter().flatten().filter_map(Value::as_str) {
        said.push('\n');
        said.push_str(note);
    }
    Ok(said)
}

/// The guest of a host that has but one.
async fn only_guest(host: &Host<'_>) -> Result<String> {
    let (status, body) = host.send(&Method::GET, "/guests", Bytes::new()).await?;
    let admin = host.url;
    if status.is_client_error() {
        bail!("{admin}: {}", body.trim());
    }
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

/// An admin listener.
struct Host<'a> {
    url: &'a str,
    authority: Authority,
    token: Option<Secret>,
}

impl<'a> Host<'a> {
    fn parse(url: &'a str, token: Option<Secret>) -> Result<Self> {
        let advice = "write the admin listener's URL, such as http://127.0.0.1:3001";
        let uri: Uri = url.parse().with_context(|| format!("'{url}' is no URL; {advice}"))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) => {
                Ok(Self { url, authority: authority.clone(), token })
            }
            _ => bail!("'{url}' is no URL of http; {advice}"),
        }
    }

    async fn connect(&self) -> Result<TcpStream> {
        let HostPort { host, port } = HostPort::parse(self.authority.as_str())
            .map_err(|why| anyhow::anyhow!("'{}' is no URL: {why}", self.url))?;
        let connecting = async {
            let addresses = tally_net::resolve(host, port.unwrap_or(80)).await?;
            tally_net::connect(&addresses).await
        };
        connecting.await.with_context(|| {
            format!("cannot reach {}; is the host running, with this --admin?", self.url)
        })
    }

    /// Sends a request, with one token after the other where several may be the host's: one that was
    /// killed leaves its own behind.
    async fn send(&self, method: &Method, path: &str, body: Bytes) -> Result<(StatusCode, String)> {
        let stream = self.connect().await?;
        let mut tokens = match &self.token {
            Some(token) => vec![token.clone()],
            // Tokens of this machine's hosts are for nobody else.
            None => match stream.peer_addr() {
                Ok(peer) if is_loopback(peer.ip()) => token::find(peer),
                _ => Vec::new(),
            },
        }
        .into_iter();
        let first = tokens.next();
        let mut answer = self.exchange(stream, method, path, body.clone(), first.as_ref()).await?;
        for token in tokens {
            if answer.0 != StatusCode::UNAUTHORIZED {
                break;
            }
            let stream = self.connect().await?;
            answer = self.exchange(stream, method, path, body.clone(), Some(&token)).await?;
        }
        Ok(answer)
    }

    async fn exchange(
        &self,
        stream: TcpStream,
        method: &Method,
        path: &str,
        body: Bytes,
        token: Option<&Secret>,
    ) -> Result<(StatusCode, String)> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.authority.as_str())
            .body(Full::new(body))?;
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        connection.abort();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}
