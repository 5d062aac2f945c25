//! Requests and responses as the runtime and the edge exchange them.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};

/// A request whose head has arrived.
pub(crate) struct Request {
    /// Its id, for the log.
    pub(crate) id: HeaderValue,
    pub(crate) method: Method,
    /// The target; its path and query are in origin form.
    pub(crate) uri: Uri,
    /// Whether it came over TLS.
    pub(crate) tls: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// The longest that the body may take to arrive.
    pub(crate) body_timeout: Duration,
}

/// A response of a guest, its head checked: safe to send as it is.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// The guest has ended: nothing of what it did is still to come.
    pub(crate) is_final: bool,
}

/// Why a body does not come to its end. Of a response, the guest's failure, which is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is over the limit of {limit} bytes")]
    TooLarge { limit: usize },
    #[error("too many bodies are arriving")]
    TooMany,
    #[error("the body did not arrive in time")]
    Timeout,
    #[error("the body ended early")]
    Broken,
}

/// A body: here in full, or on its way.
pub(crate) enum Body {
    Whole(Bytes),
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    /// The body in full.
    pub(super) async fn collect(self) -> Result<Bytes, BodyError> {
        let mut stream = match self {
            Self::Whole(bytes) => return Ok(bytes),
            Self::Stream(stream) => stream,
        };
        let mut parts = Vec::new();
        while let Some(frame) = stream.frame().await {
            parts.extend(frame?.into_data().ok());
        }
        Ok(join(parts))
    }
}

/// The parts of a body as one; most have one part, which is not copied.
pub(super) fn join(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() > 1 {
        return Bytes::from(parts.concat());
    }
    parts.pop().unwrap_or_default()
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream) => Pin::new(stream).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}
