//! Single HTTP requests, apart from the load.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Method, Request, Response,
    client::conn::http1::{self, SendRequest},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

const LIMIT: Duration = Duration::from_secs(10);

/// A connection for one request after the other.
pub(crate) struct Connection {
    address: SocketAddr,
    sender: SendRequest<Empty<Bytes>>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { address, sender })
    }

    /// Sends a request, and returns the whole answer.
    pub(crate) async fn request(&mut self, method: Method, path: &str) -> Result<Response<Bytes>> {
        let text = format!("{method} http://{}{path}", self.address);
        timeout(LIMIT, self.exchange(method, path))
            .await
            .with_context(|| format!("{text}: no answer within {LIMIT:?}"))?
            .with_context(|| format!("{text} failed"))
    }

    async fn exchange(&mut self, method: Method, path: &str) -> Result<Response<Bytes>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .body(Empty::<Bytes>::new())?;
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }
}

/// Sends a request on a connection of its own, and returns the whole answer.
pub(crate) async fn request(
    address: SocketAddr,
    method: Method,
    path: &str,
) -> Result<Response<Bytes>> {
    Connection::open(address).await?.request(method, path).await
}
