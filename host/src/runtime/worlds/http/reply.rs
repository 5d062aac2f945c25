//! Collecting a response's body while its guest runs, up to a bound.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::{Progress, Running};
use crate::runtime::{
    failure::Cause,
    message::{Body, join},
};

/// Bytes of a body that are collected before it streams: most answers of an API fit, and what waits
/// in memory for each request stays small.
const BUFFER_BYTES: usize = 64 << 10;

/// What has come of a body.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) parts: Vec<Bytes>,
    pub(super) bytes: usize,
    trailers: Option<HeaderMap>,
}

impl Collected {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0 && self.trailers.is_none()
    }

    /// A body that is complete.
    pub(super) fn into_body(self) -> Body {
        let Self { parts, trailers, .. } = self;
        let whole = join(parts);
        match trailers {
            None => Body::Whole(whole),
            // In frames and without a length: over HTTP/1.1, trailers need chunks before them.
            Some(trailers) => {
                let frames = [Frame::data(whole), Frame::trailers(trailers)];
                let frames = futures_util::stream::iter(frames.map(Ok));
                Body::Stream(StreamBody::new(frames).boxed_unsync())
            }
        }
    }
}

/// How collecting ended.
pub(super) enum Outcome {
    /// The body is complete. Whether the guest has returned.
    Complete(bool),
    /// The body is larger than the buffer, or the guest waits for something.
    More { body: HyperOutgoingBody, ended: bool },
    /// The guest failed before its body was known to be complete.
    Failed(Cause),
}

/// Polls the guest, if it has not returned, and its body by turns.
pub(super) async fn collect(
    (running, mut ended, progress): (&mut Running, bool, &Progress),
    body: HyperOutgoingBody,
    collected: &mut Collected,
    limit: usize,
) -> Outcome {
    let mut body = Some(body);
    poll_fn(|context| {
        loop {
            if !ended && let Poll::Ready(end) = running.as_mut().poll(context) {
                // Where it did not return, its body's end would be worth nothing.
                if let Err(cause) = end {
                    return Poll::Ready(Outcome::Failed(cause));
                }
                ended = true;
            }
            let Some(reading) = &mut body else { return Poll::Ready(Outcome::Complete(ended)) };
            let (read, end) = read(reading, collected, context);
            if collected.bytes > limit {
                return Poll::Ready(Outcome::Failed(Cause::InvalidResponse(format!(
                    "a body of more than the limit of {limit} bytes"
                ))));
            }
            match end {
                // It may return now, and needs no task of its own to do so.
                Some(Ok(())) if !ended && progress.waits_for_body() => body = None,
                Some(Ok(())) => return Poll::Ready(Outcome::Complete(ended)),
                Some(Err(reason)) => {
                    return Poll::Ready(Outcome::Failed(Cause::InvalidResponse(reason)));
                }
                // What was taken may have made room for more.
                None if read && !ended && collected.bytes <= BUFFER_BYTES => {}
                None => break,
            }
        }
        match body.take() {
            Some(body) => Poll::Ready(Outcome::More { body, ended }),
            None => Poll::Ready(Outcome::Complete(ended)),
        }
    })
    .await
}

/// Takes what is there of a body. Gives whether there was something, and its end if it came.
fn read(
    body: &mut HyperOutgoingBody,
    collected: &mut Collected,
    context: &mut Context<'_>,
) -> (bool, Option<Result<(), String>>) {
    let mut progress = false;
    while collected.bytes <= BUFFER_BYTES {
        let frame = match Pin::new(&mut *body).poll_frame(context) {
            Poll::Pending => return (progress, None),
            Poll::Ready(None) => return (progress, Some(Ok(()))),
            Poll::Ready(Some(Err(error))) => {
                let reason = format!("the body was not finished: {error}");
                return (progress, Some(Err(reason)));
            }
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        progress = true;
        keep(frame, collected);
    }
    (progress, None)
}

fn keep(frame: Frame<Bytes>, collected: &mut Collected) {
    match frame.into_data() {
        Ok(data) => {
            collected.bytes = collected.bytes.saturating_add(data.len());
            if !data.is_empty() {
                collected.parts.push(data);
            }
        }
        Err(frame) => collected.trailers = frame.into_trailers().ok().or(collected.trailers.take()),
    }
}
