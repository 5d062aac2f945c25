//! Writing an object: pieces first, as they arrive, and then the manifest, which makes them an object.
//!
//! Pieces that never become one end by themselves, as they have a time to live until just before that. What an
//! object is made of once it is replaced or deleted has one as well, so that whoever is reading it can go on.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, join_all, poll_fn};
use sha2::{Digest as _, Sha256};
use tally_state::{Bucket, Swapped};
use wasmtime::Result;
use wasmtime_wasi_io::{
    poll::Pollable,
    streams::{OutputStream, StreamError, StreamResult},
};

use super::{
    super::operator::{Failed, OwnOperator},
    object::{self, Content, DELETED, INLINE_BYTES, Id, Manifest, PIECE_BYTES},
};

/// Bytes that are held of an object of which it is not known yet what it is to be: as many as one call may set
/// of values.
const MAX_UNPLACED: usize = 4 << 20;

/// Bytes that a guest may write at once.
const PERMIT: usize = 64 << 10;

/// How long pieces live that have not become an object: longer than any request.
const UNFINISHED: Duration = Duration::from_secs(60 * 60);

/// How long pieces live on whose object is gone: longer than requests read as a rule.
const REPLACED: Duration = Duration::from_secs(5 * 60);

/// How long an object's key says that it is deleted, before it is gone: what all stores can tell.
const DELETING: Duration = Duration::from_millis(1);

/// After so long it is gone.
const UNTIL_GONE: Duration = Duration::from_millis(3);

/// Ids that are tried: a second one is needed where a request's key is used again after its records are gone.
const MOST_IDS: u32 = 8;

/// An object that is being written. Its stream has the same.
#[derive(Clone)]
pub(super) struct Upload(Arc<Mutex<State>>);

/// Where an object is to be.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) bucket: Bucket,
    pub(super) name: String,
    /// How many objects the request has written before.
    pub(super) ordinal: u32,
}

type Sending = BoxFuture<'static, Result<Result<Id, Failed>>>;

struct State {
    operator: OwnOperator,
    limit: usize,
    place: Option<Place>,
    has_body: bool,
    /// What has arrived and is not on its way to the store.
    buffer: BytesMut,
    size: usize,
    id: Option<Id>,
    /// Pieces that are written.
    pieces: u64,
    /// All has arrived.
    is_whole: bool,
    sending: Option<Sending>,
    failed: Option<String>,
    /// Why the guest is to be stopped.
    stop: Option<wasmtime::Error>,
}

impl Upload {
    pub(super) fn new(operator: OwnOperator, limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            operator,
            limit,
            place: None,
            has_body: false,
            buffer: BytesMut::new(),
            size: 0,
            id: None,
            pieces: 0,
            is_whole: false,
            sending: None,
            failed: None,
            stop: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what it is to be.
    ///
    /// # Errors
    /// When that has been said before.
    pub(super) fn place(&self, place: Place) -> Result<(), String> {
        let mut state = self.lock();
        if state.place.is_some() {
            return Err("write-data was called for this value before".into());
        }
        state.place = Some(place);
        Ok(())
    }

    /// Its stream, once.
    pub(super) fn body(&self) -> Option<Body> {
        let mut state = self.lock();
        let is_first = !std::mem::replace(&mut state.has_body, true);
        is_first.then(|| Body(self.clone()))
    }

    /// Takes what is to be the next part of it, and waits until there is room for more.
    pub(super) async fn push(&self, bytes: &Bytes) -> Result<Result<(), String>> {
        self.lock().push(bytes);
        poll_fn(|cx| self.lock().poll_room(cx)).await;
        self.check()
    }

    fn check(&self) -> Result<Result<(), String>> {
        let mut state = self.lock();
        if let Some(stop) = state.stop.take() {
            return Err(stop);
        }
        Ok(state.failed.clone().map_or(Ok(()), Err))
    }

    /// Makes it an object.
    pub(super) async fn finish(&self) -> Result<Result<(), String>> {
        self.lock().is_whole = true;
        poll_fn(|cx| self.lock().poll_room(cx)).await;
        if let Err(reason) = self.check()? {
            return Ok(Err(reason));
        }
        let (operator, place, manifest) = {
            let mut state = self.lock();
            let Some(place) = state.place.clone() else {
                return Ok(Err("write-data was not called, so it has no place".into()));
            };
            let content = match state.id {
                Some(id) => Content::Pieces(id),
                None => Content::Inline(std::mem::take(&mut state.buffer).freeze()),
            };
            let manifest = Manifest { created: now(), size: state.size as u64, content };
            (state.operator.clone(), place, manifest)
        };
        commit(&operator, &place, &manifest).await
    }
}

impl State {
    fn push(&mut self, bytes: &Bytes) {
        if self.size.saturating_add(bytes.len()) > self.limit {
            self.fail(format!("an object of more than {} bytes is over the limit", self.limit));
        }
        if self.failed.is_none() {
            self.size = self.size.saturating_add(bytes.len());
            self.buffer.extend_from_slice(bytes);
        }
        if self.place.is_none() && self.buffer.len() > MAX_UNPLACED {
            self.fail(format!(
                "more than {MAX_UNPLACED} bytes were written before write-data said what they are; call it first"
            ));
        }
    }

    fn fail(&mut self, reason: String) {
        self.buffer = BytesMut::new();
        self.failed.get_or_insert(reason);
    }

    /// Sends what can be sent, until there is room for more, or all is sent if all is there.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(sending) = &mut self.sending {
                let sent = ready!(sending.as_mut().poll(cx));
                self.sending = None;
                match sent {
                    Ok(Ok(id)) => {
                        self.id = Some(id);
                        self.pieces = self.pieces.saturating_add(1);
                    }
                    Ok(Err(failed)) => self.fail(failed.to_string()),
                    Err(stop) => {
                        self.fail("the request was stopped".into());
                        self.stop = Some(stop);
                    }
                }
            }
            match self.next() {
                Some(next) => self.sending = Some(next),
                None => return Poll::Ready(()),
            }
        }
    }

    /// Begins to send the next piece, if there is one.
    fn next(&mut self) -> Option<Sending> {
        let place = self.place.clone()?;
        let is_in_pieces = self.id.is_some() || self.buffer.len() > INLINE_BYTES;
        let rest = self.is_whole && is_in_pieces && !self.buffer.is_empty();
        if self.failed.is_some() || (self.buffer.len() < PIECE_BYTES && !rest) {
            return None;
        }
        let piece = self.buffer.split_to(self.buffer.len().min(PIECE_BYTES)).freeze();
        let (operator, id, number) = (self.operator.clone(), self.id, self.pieces);
        Some(Box::pin(async move { send(&operator, &place, id, number, piece).await }))
    }
}

/// Writes a piece; the first one finds the id.
async fn send(
    operator: &OwnOperator,
    place: &Place,
    id: Option<Id>,
    number: u64,
    piece: Bytes,
) -> Result<Result<Id, Failed>> {
    let state = operator.by().state;
    let ids = match id {
        Some(_) => 0..1,
        None => 0..MOST_IDS,
    };
    for attempt in ids {
        let id = id.unwrap_or_else(|| new_id(operator, place, attempt));
        let key = object::piece_key(&id, number);
        let writing = state.set_if_absent(&place.bucket, &key, piece.clone(), Some(UNFINISHED));
        match operator.by().attempt(writing, |set| *set).await? {
            Ok(true) => return Ok(Ok(id)),
            Ok(false) => {}
            Err(failed) => return Ok(Err(failed)),
        }
    }
    let reason = "no room was found for the pieces of an object".into();
    Ok(Err(Failed::Write(tally_state::Error::NotApplied(reason))))
}

/// An id for an object's pieces. That of a request which is applied once comes out the same when it runs again,
/// so that its pieces are the same writes.
fn new_id(operator: &OwnOperator, place: &Place, attempt: u32) -> Id {
    let mut id = Id::default();
    let Some(scope) = operator.by().state.scope() else {
        // Where the kernel has none, which it never says, another id is found by `set_if_absent`.
        let _ = getrandom::fill(&mut id);
        return id;
    };
    let mut hash = Sha256::new();
    hash.update(b"tally blob");
    hash.update(scope.name());
    hash.update(place.ordinal.to_be_bytes());
    hash.update(attempt.to_be_bytes());
    hash.update(place.name.as_bytes());
    hash.finalize().first_chunk().copied().unwrap_or(id)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Writes an object's manifest in place of the one before, whose pieces then end.
async fn commit(
    operator: &OwnOperator,
    place: &Place,
    manifest: &Manifest,
) -> Result<Result<(), String>> {
    let state = operator.by().state;
    let key = match object::key(&place.name) {
        Ok(key) => key,
        Err(reason) => return Ok(Err(reason)),
    };
    for kept in set_times(operator, &place.bucket, manifest, None).await? {
        match kept {
            Ok(true) => {}
            Ok(false) => return Ok(Err("its pieces are gone, as it took too long".into())),
            Err(failed) => return Ok(Err(failed.to_string())),
        }
    }
    let mut before = match operator.by().reading(state.get(&place.bucket, &key)).await? {
        Ok(before) => before,
        Err(failed) => return Ok(Err(failed.to_string())),
    };
    loop {
        // It would take over the time to live.
        if before.as_deref() == Some(DELETED) {
            tokio::time::sleep(UNTIL_GONE).await;
            before = None;
        }
        let swapping = state.swap(&place.bucket, &key, before.clone(), manifest.encode());
        let changed = |swapped: &Swapped| matches!(swapped, Swapped::Yes);
        match operator.by().attempt(swapping, changed).await? {
            Ok(Swapped::Yes) => break,
            Ok(Swapped::No(current)) => before = current,
            Err(failed) => return Ok(Err(failed.to_string())),
        }
    }
    release(operator, &place.bucket, before).await?;
    Ok(Ok(()))
}

/// Deletes objects; whether each was there.
pub(super) async fn delete(
    operator: &OwnOperator,
    bucket: &Bucket,
    keys: &[String],
) -> Result<Result<(), String>> {
    let state = operator.by().state;
    let deleting = keys.iter().map(|key| async move {
        let taking = state.get_and_set(bucket, key, DELETED.into(), Some(DELETING));
        match operator.by().writing(taking).await? {
            Ok(before) => release(operator, bucket, before).await.map(Ok),
            Err(failed) => Ok(Err(failed.to_string())),
        }
    });
    for deleted in join_all(deleting).await {
        if let Err(reason) = deleted? {
            return Ok(Err(reason));
        }
    }
    tokio::time::sleep(UNTIL_GONE).await;
    Ok(Ok(()))
}

/// Lets the pieces end of an object that is gone. Where that fails they stay, and nobody finds them.
async fn release(operator: &OwnOperator, bucket: &Bucket, before: Option<Bytes>) -> Result<()> {
    if let Some(Ok(Some(manifest))) = before.map(Manifest::decode) {
        set_times(operator, bucket, &manifest, Some(REPLACED)).await?;
    }
    Ok(())
}

/// Gives all pieces of an object a time to live; whether each is there.
async fn set_times(
    operator: &OwnOperator,
    bucket: &Bucket,
    manifest: &Manifest,
    ttl: Option<Duration>,
) -> Result<Vec<Result<bool, Failed>>> {
    let state = operator.by().state;
    let keys = manifest.pieces();
    let setting = keys
        .iter()
        .map(|key| operator.by().attempt(state.expire(bucket, key, ttl), |found| *found));
    join_all(setting).await.into_iter().collect()
}

/// The stream that an object is written to.
pub(super) struct Body(Upload);

impl OutputStream for Body {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > PERMIT {
            return Err(StreamError::trap("more was written than was permitted"));
        }
        self.0.lock().push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        // It is kept with `finish`, and until then by nobody.
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let mut state = self.0.lock();
        if let Some(stop) = state.stop.take() {
            return Err(StreamError::Trap(stop));
        }
        if let Some(reason) = &state.failed {
            return Err(StreamError::LastOperationFailed(wasmtime::Error::msg(reason.clone())));
        }
        let is_full = state.place.is_some() && state.buffer.len() >= PIECE_BYTES;
        Ok(if state.sending.is_some() || is_full { 0 } else { PERMIT })
    }
}

impl Pollable for Body {
    fn ready<'a, 'b>(&'a mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(poll_fn(|cx| self.0.lock().poll_room(cx)))
    }
}
