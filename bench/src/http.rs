//! Single HTTP requests, apart from the load.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Method, Request, Response, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

const LIMIT: Duration = Duration::from_secs(10);

/// Sends a request on a connection of its own, and returns the whole answer.
pub(crate) async fn request(
    address: SocketAddr,
    method: Method,
    path: &str,
) -> Result<Response<Bytes>> {
    let text = format!("{method} http://{address}{path}");
    timeout(LIMIT, exchange(address, method, path))
        .await
        .with_context(|| format!("{text}: no answer within {LIMIT:?}"))?
        .with_context(|| format!("{text} failed"))
}

async fn exchange(address: SocketAddr, method: Method, path: &str) -> Result<Response<Bytes>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}
