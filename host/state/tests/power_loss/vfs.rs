//! A VFS (<https://sqlite.org/vfs.html>) around the one SQLite uses by itself, which enters into a
//! [`Disk`]'s log what is asked of the database, its log and its journal.
//!
//! The wal-index in shared memory is passed through and not entered: SQLite builds it anew from
//! the log after a crash (<https://sqlite.org/walformat.html#recovery>). So are temporary files.

use std::{
    cell::Cell,
    ffi::{CStr, CString, c_char, c_int, c_void},
    ptr, slice,
    sync::Arc,
};

use rusqlite::ffi::{
    self, SQLITE_OK, SQLITE_OPEN_CREATE, SQLITE_OPEN_MAIN_DB, SQLITE_OPEN_MAIN_JOURNAL,
    SQLITE_OPEN_WAL, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs,
};

use crate::log::{Disk, Event};

const RECORDED: c_int = SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_WAL;

/// What a VFS of ours points to.
struct Shim {
    real: *mut sqlite3_vfs,
    disk: Arc<Disk>,
}

/// What an open file points to.
struct Record {
    disk: Arc<Disk>,
    file: usize,
    /// Whether its first sync is still to come and will sync the folder too: the Unix VFS does so
    /// for a log or a journal that it may have created.
    syncs_folder: Cell<bool>,
}

/// An open file as SQLite sees it. The file of the real VFS comes right after it in memory.
#[repr(C)]
struct Opened {
    base: sqlite3_file,
    record: *mut Record,
}

/// Registers a VFS of this name, for as long as the process runs: threads that have been told to
/// end may still use it.
pub(crate) fn register(name: &str, disk: Arc<Disk>) {
    let name = CString::new(name).unwrap().into_raw();
    // SAFETY: what SQLite is given to keep is never freed. The functions that are copied do not
    // look at the VFS they are called with, so that they work with ours as well.
    unsafe {
        assert_eq!(ffi::sqlite3_initialize(), SQLITE_OK);
        let real = ffi::sqlite3_vfs_find(ptr::null());
        let own = c_int::try_from(size_of::<Opened>()).unwrap();
        let vfs = sqlite3_vfs {
            szOsFile: own + (*real).szOsFile,
            pNext: ptr::null_mut(),
            zName: name,
            pAppData: Box::into_raw(Box::new(Shim { real, disk })).cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            ..*real
        };
        let code = ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 0);
        assert_eq!(code, SQLITE_OK);
    }
}

/// The last part of a path.
///
/// # Safety
/// `path` must be a string that ends in a null byte.
unsafe fn name(path: *const c_char) -> String {
    let path = unsafe { CStr::from_ptr(path) }.to_str().unwrap();
    path.rsplit('/').next().unwrap().to_owned()
}

// SAFETY, from here on: SQLite calls a VFS's functions with that VFS, and a file's with a file
// that was opened and is not closed, from one thread at a time; buffers are as long as it says.

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    path: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    given: *mut c_int,
) -> c_int {
    unsafe {
        let shim = &*(*vfs).pAppData.cast::<Shim>();
        let open = (*shim.real).xOpen.unwrap();
        if flags & RECORDED == 0 {
            return open(shim.real, path, file, flags, given);
        }
        let opened = file.cast::<Opened>();
        // Without methods, SQLite does not close a file that could not be opened.
        (*opened).base.pMethods = ptr::null();
        let mut log = shim.disk.log();
        let code = open(shim.real, path, real(file), flags, given);
        if code == SQLITE_OK {
            let created = flags & SQLITE_OPEN_CREATE != 0 && flags & SQLITE_OPEN_MAIN_DB == 0;
            let (disk, file) = (Arc::clone(&shim.disk), log.opened(&name(path)));
            let record = Record { disk, file, syncs_folder: Cell::new(created) };
            (*opened).record = Box::into_raw(Box::new(record));
            (*opened).base.pMethods = &raw const METHODS;
        }
        code
    }
}

unsafe extern "C" fn delete(
    vfs: *mut sqlite3_vfs,
    path: *const c_char,
    sync_folder: c_int,
) -> c_int {
    unsafe {
        let shim = &*(*vfs).pAppData.cast::<Shim>();
        let mut log = shim.disk.log();
        let code = (*shim.real).xDelete.unwrap()(shim.real, path, 0);
        if code == SQLITE_OK {
            log.deleted(&name(path), sync_folder != 0);
        }
        code
    }
}

unsafe fn real(file: *mut sqlite3_file) -> *mut sqlite3_file {
    unsafe { file.cast::<Opened>().add(1).cast() }
}

unsafe fn record<'a>(file: *mut sqlite3_file) -> &'a Record {
    unsafe { &*(*file.cast::<Opened>()).record }
}

/// Functions that ask the real file and do no more.
macro_rules! forward {
    ($($method:ident as $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        unsafe extern "C" fn $name(file: *mut sqlite3_file, $($argument: $type),*) $(-> $result)? {
            unsafe {
                let file = real(file);
                (*(*file).pMethods).$method.unwrap()(file, $($argument),*)
            }
        }
    )*};
}

forward! {
    xClose as close_real() -> c_int;
    xRead as read(to: *mut c_void, amount: c_int, offset: sqlite3_int64) -> c_int;
    xWrite as write_real(from: *const c_void, amount: c_int, offset: sqlite3_int64) -> c_int;
    xTruncate as truncate_real(size: sqlite3_int64) -> c_int;
    xFileSize as file_size(size: *mut sqlite3_int64) -> c_int;
    xLock as lock(level: c_int) -> c_int;
    xUnlock as unlock(level: c_int) -> c_int;
    xCheckReservedLock as check_reserved_lock(reserved: *mut c_int) -> c_int;
    xFileControl as file_control(operation: c_int, argument: *mut c_void) -> c_int;
    xSectorSize as sector_size() -> c_int;
    xDeviceCharacteristics as device_characteristics() -> c_int;
    xShmMap as shm_map(page: c_int, size: c_int, extend: c_int, to: *mut *mut c_void) -> c_int;
    xShmLock as shm_lock(offset: c_int, count: c_int, flags: c_int) -> c_int;
    xShmBarrier as shm_barrier();
    xShmUnmap as shm_unmap(delete: c_int) -> c_int;
}

/// Version 2: without memory-mapped files, whose writes would not be seen.
static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    unsafe {
        drop(Box::from_raw((*file.cast::<Opened>()).record));
        close_real(file)
    }
}

/// Enters a write even if it failed: some of it may be there.
unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    from: *const c_void,
    amount: c_int,
    offset: sqlite3_int64,
) -> c_int {
    unsafe {
        let record = record(file);
        let bytes = slice::from_raw_parts(from.cast::<u8>(), usize::try_from(amount).unwrap());
        let (bytes, at) = (bytes.to_vec(), usize::try_from(offset).unwrap());
        let mut log = record.disk.log();
        log.push(Event::Wrote { file: record.file, offset: at, bytes });
        write_real(file, from, amount, offset)
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    unsafe {
        let record = record(file);
        let mut log = record.disk.log();
        log.push(Event::Truncated { file: record.file, size: usize::try_from(size).unwrap() });
        truncate_real(file, size)
    }
}

/// Enters the sync only: the log stands for the disk, and the real one would be waited for.
unsafe extern "C" fn sync(file: *mut sqlite3_file, _flags: c_int) -> c_int {
    let record = unsafe { record(file) };
    record.disk.log().synced(record.file, record.syncs_folder.replace(false));
    SQLITE_OK
}
