//! Files of guests, where their configuration has some: directories of this machine, read-only, and a scratch
//! directory that belongs to one request. By default there are none, and nothing here costs a request anything.
//!
//! `wasmtime-wasi` keeps guests within a directory, symbolic links included, and does its work with files on threads
//! for that: those that serve requests do not wait for a disk.

pub(super) mod concurrent;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use rustix::io::Errno;
use tempfile::TempDir;
use wasmtime::{
    Result, bail,
    component::{Linker, Resource, ResourceTable},
};
use wasmtime_wasi::{
    FsPerms, WasiCtx, WasiCtxView, WasiView as _,
    filesystem::{Descriptor, WasiFilesystemCtx, WasiFilesystemCtxView},
    p2::{
        DynOutputStream, FsResult, OutputStream, Pollable, StreamError, StreamResult,
        bindings::filesystem::{
            preopens::Host as _,
            types::{
                DescriptorFlags, ErrorCode, Host as _, HostDescriptor as _, OpenFlags, PathFlags,
            },
        },
    },
};

use super::Context;

/// Interfaces that the crate `wasmtime-wasi` defines, by its version of them.
const PREOPENS: &str = "wasi:filesystem/preopens@0.2.12";
/// See [`PREOPENS`].
const TYPES: &str = "wasi:filesystem/types@0.2.12";

/// Where a guest finds its scratch directory.
const SCRATCH: &str = "/tmp";

/// What the names of scratch directories on this machine begin with.
const SCRATCH_PREFIX: &str = "tally-scratch-";

/// Bytes that a file or directory counts for in a scratch directory, besides what is written to it.
const ENTRY_BYTES: u64 = 4 << 10;

/// The files of a guest, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    mapped: Vec<Mapped>,
    /// Bytes that a request may write to its scratch directory; without, it has none.
    scratch: Option<u64>,
}

/// A directory of this machine that a guest may read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapped {
    /// Its path for the guest.
    guest: String,
    host: PathBuf,
}

/// What is no directory to map.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}': write /GUEST/PATH=DIRECTORY, such as /www=/srv/site; a path of a guest stands there once"
)]
pub(crate) struct NoFiles(String);

impl Files {
    /// Reads a list of `/GUEST/PATH=DIRECTORY`.
    pub(crate) fn parse<'a>(
        entries: impl IntoIterator<Item = &'a str>,
        scratch: Option<u64>,
    ) -> Result<Self, NoFiles> {
        let mut mapped: Vec<Mapped> = Vec::new();
        for entry in entries {
            let wrong = || NoFiles(entry.to_owned());
            let (guest, host) = entry.split_once('=').ok_or_else(wrong)?;
            let is_plain = guest.starts_with('/')
                && !guest.split('/').any(|part| matches!(part, "." | ".."))
                && !guest.chars().any(char::is_control);
            let is_taken = mapped.iter().any(|other| other.guest == guest)
                || (scratch.is_some() && guest == SCRATCH);
            if !is_plain || host.is_empty() || is_taken {
                return Err(wrong());
            }
            mapped.push(Mapped { guest: guest.to_owned(), host: host.into() });
        }
        Ok(Self { mapped, scratch })
    }

    /// Says in the log which of the directories cannot be read. Blocks.
    pub(crate) fn check(&self, guest: &str) {
        for Mapped { host, .. } in &self.mapped {
            if let Err(error) = std::fs::read_dir(host) {
                let host = host.display();
                tracing::error!(%guest, "the directory {host} of its files cannot be read: {error}");
            }
        }
    }

    pub(crate) fn are_none(&self) -> bool {
        self.count() == 0
    }

    /// How many directories there are.
    fn count(&self) -> usize {
        self.mapped.len().saturating_add(usize::from(self.scratch.is_some()))
    }

    /// Opens the directories for one request. Blocks.
    fn open(&self) -> Result<Opened> {
        let mut builder = WasiCtx::builder();
        for Mapped { guest, host } in &self.mapped {
            builder.preopened_dir(host, guest, FsPerms::ReadOnly).map_err(|error| {
                error.context(format!("the directory {} cannot be opened", host.display()))
            })?;
        }
        let scratch = match self.scratch {
            None => None,
            Some(bytes) => {
                let directory = tempfile::Builder::new().prefix(SCRATCH_PREFIX).tempdir()?;
                builder.preopened_dir(directory.path(), SCRATCH, FsPerms::ReadWrite)?;
                Some(Scratch { left: Arc::new(AtomicU64::new(bytes)), directory: Some(directory) })
            }
        };
        let filesystem = builder.build().filesystem().clone();
        Ok(Opened { filesystem, scratch })
    }
}

/// Directories that are open for a request.
struct Opened {
    filesystem: WasiFilesystemCtx,
    scratch: Option<Scratch>,
}

/// The scratch directory of a request, removed with it.
pub(super) struct Scratch {
    /// Bytes that may still be written.
    left: Arc<AtomicU64>,
    directory: Option<TempDir>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(directory) = self.directory.take() else { return };
        match tokio::runtime::Handle::try_current() {
            // Removing files takes as long as the disk does.
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(directory))),
            Err(_) => drop(directory),
        }
    }
}

/// Takes bytes from what may still be written.
fn charge(left: &AtomicU64, bytes: u64) -> bool {
    left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
}

impl Context {
    /// Opens the guest's directories, the first time that it asks for them.
    async fn open_files(&mut self) -> Result<()> {
        if self.settings.files.are_none() || self.files_are_open() {
            return Ok(());
        }
        let settings = Arc::clone(&self.settings);
        if !(0..settings.files.count()).all(|_| self.may_open()) {
            bail!("its directories cannot be opened: guests hold as many files as they may");
        }
        let Opened { filesystem, scratch } =
            tokio::task::spawn_blocking(move || settings.files.open()).await??;
        *self.ctx().ctx.filesystem() = filesystem;
        self.keep_files(scratch);
        Ok(())
    }

    fn files(&mut self) -> WasiFilesystemCtxView<'_> {
        let WasiCtxView { ctx, table } = self.ctx();
        WasiFilesystemCtxView { ctx: ctx.filesystem(), table }
    }

    /// Whether the guest may write so much more to its scratch directory. What it may not write to anyway is not
    /// asked here.
    fn may_write(&mut self, bytes: u64) -> bool {
        self.scratch().is_none_or(|scratch| charge(&scratch.left, bytes))
    }

    /// Whether the guest may make a file, directory or link in its scratch directory.
    fn may_make(&mut self) -> bool {
        self.may_open() && self.may_write(ENTRY_BYTES)
    }

    /// The result of a call in the guest's terms.
    fn told<T>(&mut self, result: FsResult<T>) -> Result<(Result<T, ErrorCode>,)> {
        Ok((match result {
            Ok(done) => Ok(done),
            Err(error) => Err(self.files().convert_error_code(error)?),
        },))
    }

    /// A stream to a file, which counts what is written.
    fn counted(
        &mut self,
        stream: Resource<DynOutputStream>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let Some(left) = self.scratch().map(|scratch| Arc::clone(&scratch.left)) else {
            return Ok(stream);
        };
        let table: &mut ResourceTable = self.ctx().table;
        let inner = table.delete(stream)?;
        let counted: DynOutputStream = Box::new(Counted { inner, left });
        Ok(table.push(counted)?)
    }
}

/// Offers files to a linker, in the place of functions of `wasmtime-wasi`: directories are opened when a guest asks
/// for them, and what it writes is counted.
///
/// # Errors
/// When an interface is not there, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    linker.allow_shadowing(true);
    linker.instance(PREOPENS)?.func_wrap_async("get-directories", |mut store, (): ()| {
        Box::new(async move {
            let context: &mut Context = store.data_mut();
            context.open_files().await?;
            Ok((context.files().get_directories()?,))
        })
    })?;
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async(
        "[method]descriptor.write",
        |mut store, (this, bytes, offset): (Resource<Descriptor>, Vec<u8>, u64)| {
            Box::new(async move {
                let context: &mut Context = store.data_mut();
                if !context.may_write(bytes.len() as u64) {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let written = context.files().write(this, bytes, offset).await;
                context.told(written)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.set-size",
        |mut store, (this, size): (Resource<Descriptor>, u64)| {
            Box::new(async move {
                let context: &mut Context = store.data_mut();
                if !context.may_write(size) {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let set = context.files().set_size(this, size).await;
                context.told(set)
            })
        },
    )?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store, (this, offset): (Resource<Descriptor>, u64)| {
            let context: &mut Context = store.data_mut();
            let stream = context.files().write_via_stream(this, offset);
            let stream = stream.and_then(|stream| context.counted(stream));
            context.told(stream)
        },
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store, (this,): (Resource<Descriptor>,)| {
            let context: &mut Context = store.data_mut();
            let stream = context.files().append_via_stream(this);
            let stream = stream.and_then(|stream| context.counted(stream));
            context.told(stream)
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store, (this, links, path, open, flags): (_, PathFlags, String, OpenFlags, _)| {
            Box::new(async move {
                let context: &mut Context = store.data_mut();
                if !context.may_open() {
                    return Ok((Err(ErrorCode::InsufficientMemory),));
                }
                if open.contains(OpenFlags::CREATE) && !context.may_write(ENTRY_BYTES) {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let flags: DescriptorFlags = flags;
                let opened = context.files().open_at(this, links, path, open, flags).await;
                context.told(opened)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.create-directory-at",
        |mut store, (this, path): (Resource<Descriptor>, String)| {
            Box::new(async move {
                let context: &mut Context = store.data_mut();
                if !context.may_make() {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let made = context.files().create_directory_at(this, path).await;
                context.told(made)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.symlink-at",
        |mut store, (this, old, new): (Resource<Descriptor>, String, String)| {
            Box::new(async move {
                let context: &mut Context = store.data_mut();
                if !context.may_make() {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let made = context.files().symlink_at(this, old, new).await;
                context.told(made)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.link-at",
        |mut store, (this, links, old, to, new): (_, PathFlags, String, _, String)| {
            Box::new(async move {
                let context: &mut Context = store.data_mut();
                if !context.may_make() {
                    return Ok((Err(ErrorCode::InsufficientSpace),));
                }
                let made = context.files().link_at(this, links, old, to, new).await;
                context.told(made)
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// A stream to a file in a scratch directory.
struct Counted {
    inner: DynOutputStream,
    left: Arc<AtomicU64>,
}

impl OutputStream for Counted {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if !charge(&self.left, bytes.len() as u64) {
            // As the file system has it when it is full.
            let full = io::Error::from(Errno::NOSPC);
            return Err(StreamError::LastOperationFailed(full.into()));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Counted {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_directory_to_map_is_explained() {
        let parse =
            |entries: &[&'static str], scratch| Files::parse(entries.iter().copied(), scratch);
        assert!(parse(&["/www=/srv/site", "/=data"], Some(1)).is_ok());
        assert!(parse(&["/tmp=/srv"], None).is_ok());
        for (entries, scratch) in [
            (&["/www"][..], None),
            (&["www=/srv"], None),
            (&["/www="], None),
            (&["/a/../b=/srv"], None),
            (&["/www=/a", "/www=/b"], None),
            (&["/tmp=/srv"], Some(1)),
        ] {
            let error = parse(entries, scratch).unwrap_err().to_string();
            assert!(error.contains("/www=/srv/site"), "{error}");
        }
        assert!(Files::default().are_none());
    }
}
