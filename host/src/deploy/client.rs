//! A client of the admin listener of a host.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header, uri::Authority};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tally_net::HostPort;
use tokio::net::TcpStream;

use crate::{
    admin::{is_loopback, token},
    config::{ADMIN_TOKEN, Secret},
};

/// The admin token that the environment or a file gives, if one does: the first one of a file with several.
///
/// # Errors
/// When it is in both, or cannot be a token.
pub(super) fn token(
    environment: &[(String, String)],
    file: Option<&Path>,
) -> Result<Option<Secret>> {
    let variable = environment.iter().find(|(name, _)| name == ADMIN_TOKEN);
    let variable = variable.and_then(|(_, token)| Secret::new(token));
    let tokens = token::configured(variable.as_ref(), file)?;
    Ok(tokens.first().map(|token| token.token().clone()))
}

impl Host<'_> {
    /// Asks for something, and gives the answer.
    ///
    /// # Errors
    /// What the host says instead, or why it cannot be asked.
    pub(super) async fn ask(&self, method: &Method, path: &str, body: Bytes) -> Result<Value> {
        let (status, text) = self.send(method, path, body).await?;
        self.value(status, &text)
    }

    /// The same of something that there may not be.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) async fn find(&self, path: &str) -> Result<Option<Value>> {
        let (status, text) = self.send(&Method::GET, path, Bytes::new()).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        self.value(status, &text).map(Some)
    }

    fn value(&self, status: StatusCode, text: &str) -> Result<Value> {
        if status.is_success() {
            return serde_json::from_str(text).with_context(|| {
                format!("{}: the answer is no JSON; is this an admin listener of tally?", self.url)
            });
        }
        let problem: Option<Value> = serde_json::from_str(text).ok();
        let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str());
        match detail {
            Some(detail) => bail!("{detail}"),
            None => bail!("{}: {}", self.url, text.trim()),
        }
    }
}

/// An admin listener.
pub(super) struct Host<'a> {
    pub(super) url: &'a str,
    authority: Authority,
    token: Option<Secret>,
}

impl<'a> Host<'a> {
    pub(super) fn parse(url: &'a str, token: Option<Secret>) -> Result<Self> {
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
    pub(super) async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, String)> {
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
