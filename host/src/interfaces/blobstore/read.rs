//! Reading an object, or a part of it, as it was when it was asked for.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tally_state::Bucket;
use wasmtime::Result;
use wasmtime_wasi_io::{
    poll::Pollable,
    streams::{InputStream, StreamError, StreamResult},
};

use super::{
    super::operator::{Failed, OwnOperator},
    object::{Content, Manifest, PIECE_BYTES, piece_key},
};

/// A part of an object.
pub(super) struct Part {
    operator: OwnOperator,
    bucket: Bucket,
    manifest: Manifest,
    /// The first byte, and the one after the last.
    start: u64,
    end: u64,
}

impl Part {
    /// From the first byte to the last, both included, or to the end of the object.
    ///
    /// # Errors
    /// When there is no such part.
    pub(super) fn new(
        operator: OwnOperator,
        bucket: Bucket,
        manifest: Manifest,
        (first, last): (u64, u64),
    ) -> Result<Self, String> {
        let size = manifest.size;
        if first > last || first > size || (first == size && size > 0) {
            return Err(format!("there is nothing from {first} to {last} in {size} bytes"));
        }
        Ok(Self { operator, bucket, manifest, start: first, end: last.saturating_add(1).min(size) })
    }

    pub(super) fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// The next bytes of it, as many as are together; none at its end.
    pub(super) async fn next(&mut self) -> Result<Result<Bytes, String>> {
        let Some((fetching, skip, length)) = self.fetch() else { return Ok(Ok(Bytes::new())) };
        Ok(match fetching.await? {
            Ok(value) => self.took(value, skip, length),
            Err(failed) => Err(failed.to_string()),
        })
    }

    /// Begins to fetch what is next, of which so much is to be skipped and so much to be taken.
    fn fetch(&self) -> Option<(Fetching, usize, usize)> {
        let left = usize::try_from(self.len()).unwrap_or(usize::MAX);
        if left == 0 {
            return None;
        }
        let whole = |bytes: Bytes| -> Fetching { Box::pin(async move { Ok(Ok(Some(bytes))) }) };
        Some(match &self.manifest.content {
            Content::Inline(bytes) => {
                (whole(bytes.clone()), usize::try_from(self.start).unwrap_or(usize::MAX), left)
            }
            Content::Pieces(id) => {
                let piece = PIECE_BYTES as u64;
                let number = self.start.checked_div(piece).unwrap_or(0);
                let skip = self.start.saturating_sub(number.saturating_mul(piece));
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                let (operator, bucket) = (self.operator.clone(), self.bucket.clone());
                let key = piece_key(id, number);
                let fetching = Box::pin(async move {
                    let operator = operator.by();
                    operator.reading(operator.state.get(&bucket, &key)).await
                });
                (fetching, skip, left.min(PIECE_BYTES.saturating_sub(skip)))
            }
        })
    }

    fn took(&mut self, value: Option<Bytes>, skip: usize, length: usize) -> Result<Bytes, String> {
        let end = skip.saturating_add(length);
        let value = value.filter(|value| value.len() >= end);
        let value = value.ok_or("the object was replaced or deleted while it was read")?;
        self.start = self.start.saturating_add(length as u64);
        Ok(value.slice(skip..end))
    }
}

type Fetching = BoxFuture<'static, Result<Result<Option<Bytes>, Failed>>>;

/// A part of an object as a stream.
pub(super) struct Body {
    part: Part,
    fetching: Option<(Fetching, usize, usize)>,
    /// What is there to be read.
    bytes: Bytes,
    failed: Option<StreamError>,
}

impl Body {
    pub(super) fn new(part: Part) -> Self {
        Self { part, fetching: None, bytes: Bytes::new(), failed: None }
    }

    async fn fetch(&mut self) {
        if !self.bytes.is_empty() || self.failed.is_some() {
            return;
        }
        if self.fetching.is_none() {
            self.fetching = self.part.fetch();
        }
        // It stays where it is if this is not waited for to the end.
        let Some((fetching, skip, length)) = &mut self.fetching else { return };
        let (skip, length) = (*skip, *length);
        let fetched = fetching.as_mut().await;
        self.fetching = None;
        let failed =
            |reason| StreamError::LastOperationFailed(wasmtime::Error::msg::<String>(reason));
        match fetched {
            Ok(Ok(value)) => match self.part.took(value, skip, length) {
                Ok(bytes) => self.bytes = bytes,
                Err(reason) => self.failed = Some(failed(reason)),
            },
            Ok(Err(reason)) => self.failed = Some(failed(reason.to_string())),
            Err(stop) => self.failed = Some(StreamError::Trap(stop)),
        }
    }
}

impl InputStream for Body {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        if self.bytes.is_empty() && self.part.len() == 0 {
            return Err(StreamError::Closed);
        }
        Ok(self.bytes.split_to(size.min(self.bytes.len())))
    }
}

impl Pollable for Body {
    fn ready<'a, 'b>(&'a mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.fetch())
    }
}
