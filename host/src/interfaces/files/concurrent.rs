//! Files of guests of WASI 0.3: the same directories and the same limits as those of 0.2, whichever of the two
//! a guest asks.

use std::{
    pin::Pin,
    task::{Context as Waker, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use wasmtime::{
    AsContextMut as _, Result, StoreContextMut,
    component::{
        Accessor, FutureReader, Linker, Resource, Source, StreamConsumer, StreamReader,
        StreamResult,
    },
};
use wasmtime_wasi::{
    WasiView as _,
    filesystem::{Descriptor, WasiFilesystem},
    p2::{
        DynOutputStream, FsResult, StreamError,
        bindings::filesystem::{
            preopens::Host as _,
            types::{ErrorCode as ErrorCode0_2, HostDescriptor as _},
        },
    },
    p3::{
        bindings::filesystem::types::{
            DescriptorFlags, ErrorCode, HostDescriptorWithStore as _, OpenFlags, PathFlags,
        },
        filesystem::FilesystemResult,
    },
};

use super::ENTRY_BYTES;
use crate::interfaces::Context;

/// Interfaces that the crate `wasmtime-wasi` defines, by its version of them.
const PREOPENS: &str = "wasi:filesystem/preopens@0.3.0";
/// See [`PREOPENS`].
const TYPES: &str = "wasi:filesystem/types@0.3.0";

/// Bytes that are taken from a guest's stream and written at a time.
const WRITE_BYTES: usize = 64 << 10;

/// A guest's store, which is at hand only while something is done with it.
type Store = Accessor<Context>;

/// The store, for the functions of `wasmtime-wasi`.
fn files(store: &Store) -> Accessor<Context, WasiFilesystem> {
    store.with_getter::<WasiFilesystem>(Context::files)
}

/// Asks the request's context.
fn ask<T>(store: &Store, ask: impl FnOnce(&mut Context) -> T) -> T {
    store.with(|mut store| ask(store.get()))
}

/// The result of a call in the guest's terms.
fn told<T>(result: FilesystemResult<T>) -> Result<Result<T, ErrorCode>> {
    Ok(match result {
        Ok(done) => Ok(done),
        Err(error) => Err(error.downcast()?),
    })
}

/// Puts a function in the place of one, with the types of its parameters.
macro_rules! function {
    ($instance:ident, $name:literal, |$store:ident, $($param:ident: $type:ty),+| $body:expr) => {
        $instance.func_wrap_concurrent($name, |$store: &Store, ($($param,)+): ($($type,)+)| {
            Box::pin(async move { Ok(($body,)) })
        })?
    };
}

/// Offers files to a linker, in the place of functions of `wasmtime-wasi`: see [`super::add_to_linker`].
///
/// # Errors
/// When an interface is not there, which is a bug.
pub(in crate::interfaces) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    linker.allow_shadowing(true);
    linker.instance(PREOPENS)?.func_wrap_async("get-directories", |mut store, (): ()| {
        Box::new(async move {
            let context: &mut Context = store.data_mut();
            context.open_files().await?;
            Ok((context.files().get_directories()?,))
        })
    })?;
    let mut types = linker.instance(TYPES)?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |store, (this, bytes, offset): (Resource<Descriptor>, StreamReader<u8>, u64)| {
            write(store, bytes, |context| context.files().write_via_stream(this, offset))
        },
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |store, (this, bytes): (Resource<Descriptor>, StreamReader<u8>)| {
            write(store, bytes, |context| context.files().append_via_stream(this))
        },
    )?;
    function!(
        types,
        "[method]descriptor.set-size",
        |store, this: Resource<Descriptor>, size: u64| {
            match ask(store, |context| context.may_write(size)) {
                true => told(WasiFilesystem::set_size(&files(store), this, size).await)?,
                false => Err(ErrorCode::InsufficientSpace),
            }
        }
    );
    function!(
        types,
        "[method]descriptor.open-at",
        |store,
         this: Resource<Descriptor>,
         links: PathFlags,
         path: String,
         open: OpenFlags,
         flags: DescriptorFlags| {
            let is_new = open.contains(OpenFlags::CREATE);
            let may_open = ask(store, Context::may_open);
            if !may_open {
                Err(ErrorCode::InsufficientMemory)
            } else if is_new && !ask(store, |context| context.may_write(ENTRY_BYTES)) {
                Err(ErrorCode::InsufficientSpace)
            } else {
                let files = files(store);
                told(WasiFilesystem::open_at(&files, this, links, path, open, flags).await)?
            }
        }
    );
    function!(
        types,
        "[method]descriptor.create-directory-at",
        |store, this: Resource<Descriptor>, path: String| {
            match ask(store, Context::may_make) {
                true => told(WasiFilesystem::create_directory_at(&files(store), this, path).await)?,
                false => Err(ErrorCode::InsufficientSpace),
            }
        }
    );
    function!(
        types,
        "[method]descriptor.symlink-at",
        |store, this: Resource<Descriptor>, old: String, new: String| {
            match ask(store, Context::may_make) {
                true => told(WasiFilesystem::symlink_at(&files(store), this, old, new).await)?,
                false => Err(ErrorCode::InsufficientSpace),
            }
        }
    );
    function!(
        types,
        "[method]descriptor.link-at",
        |store,
         this: Resource<Descriptor>,
         links: PathFlags,
         old: String,
         to: Resource<Descriptor>,
         new: String| {
            match ask(store, Context::may_make) {
                true => {
                    let files = files(store);
                    told(WasiFilesystem::link_at(&files, this, links, old, to, new).await)?
                }
                false => Err(ErrorCode::InsufficientSpace),
            }
        }
    );
    linker.allow_shadowing(false);
    Ok(())
}

/// What a write of a stream comes to.
type Written = (FutureReader<Result<(), ErrorCode>>,);

/// Writes a guest's stream to a file, by the stream of 0.2, which counts what is written.
fn write(
    mut store: StoreContextMut<'_, Context>,
    mut bytes: StreamReader<u8>,
    open: impl FnOnce(&mut Context) -> FsResult<Resource<DynOutputStream>>,
) -> Result<Written> {
    let (done, result) = oneshot::channel();
    let context = store.data_mut();
    let opened = open(context).and_then(|stream| context.counted(stream));
    match context.told(opened)? {
        (Ok(stream),) => {
            let stream = context.ctx().table.delete(stream)?;
            bytes.pipe(&mut store, Writing { state: State::Idle(stream), done: Some(done) })?;
        }
        (Err(code),) => {
            bytes.close(&mut store)?;
            // The other end is below.
            let _ = done.send(Err(match code {
                ErrorCode0_2::NotPermitted => ErrorCode::NotPermitted,
                ErrorCode0_2::BadDescriptor => ErrorCode::BadDescriptor,
                _ => ErrorCode::Io,
            }));
        }
    }
    let result = async move { wasmtime::error::Ok(result.await.unwrap_or(Ok(()))) };
    Ok((FutureReader::new(store.as_context_mut(), result)?,))
}

/// What takes a guest's stream and writes it.
struct Writing {
    state: State,
    /// Tells the guest how it ended.
    done: Option<oneshot::Sender<Result<(), ErrorCode>>>,
}

enum State {
    Idle(DynOutputStream),
    /// So many bytes are being written.
    Busy(BoxFuture<'static, (DynOutputStream, Result<(), StreamError>)>, usize),
    Failed,
}

impl Writing {
    fn end(&mut self, result: Result<(), ErrorCode>) {
        if let Some(done) = self.done.take() {
            // The guest need not ask.
            let _ = done.send(result);
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.end(Ok(()));
    }
}

impl StreamConsumer<Context> for Writing {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        waker: &mut Waker<'_>,
        store: StoreContextMut<'_, Context>,
        source: Source<'_, u8>,
        _: bool,
    ) -> Poll<Result<StreamResult>> {
        let mut source = source.as_direct(store);
        let (mut writing, count) = match std::mem::replace(&mut self.state, State::Failed) {
            State::Failed => return Poll::Ready(Ok(StreamResult::Dropped)),
            State::Busy(writing, count) => (writing, count),
            State::Idle(mut stream) => {
                let left = source.remaining();
                let bytes = Bytes::copy_from_slice(left.get(..WRITE_BYTES).unwrap_or(left));
                let count = bytes.len();
                if count == 0 {
                    self.state = State::Idle(stream);
                    return Poll::Ready(Ok(StreamResult::Completed));
                }
                let writing = Box::pin(async move {
                    let written = write_all(&mut stream, bytes).await;
                    (stream, written)
                });
                (writing as BoxFuture<'static, _>, count)
            }
        };
        match writing.as_mut().poll(waker) {
            // What is on its way to the disk is waited for, also where the guest has cancelled it.
            Poll::Pending => {
                self.state = State::Busy(writing, count);
                Poll::Pending
            }
            Poll::Ready((stream, Ok(()))) => {
                self.state = State::Idle(stream);
                source.mark_read(count);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready((_, Err(error))) => {
                self.end(Err(code(&error)));
                Poll::Ready(Ok(StreamResult::Dropped))
            }
        }
    }
}

/// Writes all of it, and waits until it is written.
async fn write_all(stream: &mut DynOutputStream, mut bytes: Bytes) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        let permitted = stream.write_ready().await?;
        let part = bytes.split_to(permitted.min(bytes.len()));
        stream.write(part)?;
    }
    stream.write_ready().await?;
    Ok(())
}

/// Why a write failed, in the guest's terms.
fn code(error: &StreamError) -> ErrorCode {
    match error {
        StreamError::LastOperationFailed(error) => {
            error.downcast_ref::<std::io::Error>().map_or(ErrorCode::Io, ErrorCode::from)
        }
        _ => ErrorCode::Io,
    }
}
