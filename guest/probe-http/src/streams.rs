//! Bodies as streams: one that is read, and one that is written.

use probing::WRITE_BYTES;
use wasip2::{
    http::types::{
        ErrorCode, Fields, IncomingBody, OutgoingBody, OutgoingResponse, ResponseOutparam,
        http_error_code,
    },
    io::streams::{InputStream, OutputStream, StreamError},
};

/// Bytes asked for in one read.
const READ_BYTES: u64 = 64 << 10;

/// A body that is read. The stream stands first: it must be dropped before what it is a part of.
pub struct Reading {
    stream: InputStream,
    body: IncomingBody,
}

impl Reading {
    pub fn new(body: IncomingBody) -> Self {
        let stream = body.stream().expect("the first time it is asked for");
        Self { stream, body }
    }

    /// What has arrived, waiting for it; none at the end.
    pub fn next(&self) -> Result<Option<Vec<u8>>, ErrorCode> {
        match self.stream.blocking_read(READ_BYTES) {
            Ok(part) => Ok(Some(part)),
            Err(StreamError::Closed) => Ok(None),
            Err(StreamError::LastOperationFailed(error)) => Err(http_error_code(&error)
                .unwrap_or_else(|| ErrorCode::InternalError(Some(error.to_debug_string())))),
        }
    }

    /// All of it.
    pub fn to_end(&self) -> Result<Vec<u8>, ErrorCode> {
        let mut all = Vec::new();
        while let Some(part) = self.next()? {
            all.extend(part);
        }
        Ok(all)
    }

    /// What follows the body.
    pub fn trailers(self) -> Result<Option<Fields>, ErrorCode> {
        let Self { stream, body } = self;
        drop(stream);
        let trailers = IncomingBody::finish(body);
        trailers.subscribe().block();
        let taken = trailers.get().expect("it is ready");
        taken.expect("the first time it is asked for")
    }
}

/// A body that is written. A client that has gone away is an error of the stream.
pub struct Writing {
    stream: OutputStream,
    body: OutgoingBody,
}

impl Writing {
    /// Sets a response, whose body is to follow.
    pub fn begin(response: OutgoingResponse, out: ResponseOutparam) -> Self {
        let body = response.body().expect("the first time it is asked for");
        let stream = body.write().expect("the first time it is asked for");
        ResponseOutparam::set(out, Ok(response));
        Self { stream, body }
    }

    /// Sets a response with nothing to say of its own.
    pub fn plain(out: ResponseOutparam) -> Self {
        Self::begin(OutgoingResponse::new(Fields::new()), out)
    }

    /// Writes, and waits until the host has taken it.
    pub fn write(&self, bytes: &[u8]) -> Result<(), StreamError> {
        bytes.chunks(WRITE_BYTES).try_for_each(|part| self.stream.blocking_write_and_flush(part))
    }

    /// Writes nothing, once there is room for it: it takes a place in the host's queue like any other.
    pub fn write_nothing(&self) -> Result<(), StreamError> {
        while self.stream.check_write()? == 0 {
            self.stream.subscribe().block();
        }
        self.stream.write(&[])
    }

    /// Ends it. That it is not as long as was told is the host's to say.
    pub fn finish(self, trailers: Option<Fields>) {
        let Self { stream, body } = self;
        drop(stream);
        let _ = OutgoingBody::finish(body, trailers);
    }
}
