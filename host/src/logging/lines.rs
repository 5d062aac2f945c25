//! A log that never blocks its writers: lines go into a bounded buffer, and a thread of its own
//! writes them out.
//!
//! `tracing-appender` offers the same with three differences that matter here. It bounds lines and not
//! bytes, and a line may have a guest's 4 KiB. It writes each line by itself. When its thread is stuck
//! at the end of the process, it says so on the standard error that nobody reads.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes that wait to be written: some 40,000 ordinary lines, which is more than a log collector
/// misses while it restarts, and little beside the memory of guests. As much again may be on its way
/// to the reader.
const CAPACITY: usize = 4 << 20;

/// Bytes up to which lines of guests are taken: the rest is for the host's own, which a guest that
/// prints much must not crowd out.
const GUESTS_CAPACITY: usize = CAPACITY / 4 * 3;

/// The target of lines that guests print.
const GUESTS: &str = "guest";

/// A buffer that has grown beyond this is given back once it is written.
const KEPT: usize = 64 << 10;

/// The pause before a write is tried again on a descriptor that does not block and is not ready.
const RETRY: Duration = Duration::from_millis(10);

/// Permissions of a new log file: it may hold addresses of clients.
const FILE_MODE: u32 = 0o640;

/// Where lines go. Cheap to clone; all clones share one buffer.
#[derive(Clone)]
pub(crate) struct Lines(Arc<Shared>);

struct Shared {
    buffer: Mutex<Buffer>,
    /// Told to the thread that writes: there is something to do.
    filled: Condvar,
    /// Told to those who flush: all is written.
    written: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
    /// Lines dropped since the thread last looked.
    lost: u64,
    /// The thread has written all that it took.
    is_idle: bool,
    /// The process is about to end: the thread writes without pauses.
    is_ending: bool,
}

/// What becomes of the lines.
pub(super) struct Output {
    pub(super) sink: Sink,
    /// The pause after each write, in which lines gather for the next.
    pub(super) pause: Duration,
    /// Called when lines can be written again after some were lost, with their number.
    pub(super) tell_lost: fn(u64),
    /// Called when writing begins to fail.
    pub(super) tell_failure: fn(&io::Error),
}

impl Lines {
    /// Starts a thread that writes lines.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub(super) fn start(name: &str, output: Output) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            buffer: Mutex::new(Buffer { is_idle: true, ..Buffer::default() }),
            filled: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name(name.into()).spawn(move || of_thread.write(output))?;
        Ok(Self(shared))
    }

    /// Takes a line with its end, or drops it if there is no room. Never blocks on the reader.
    pub(super) fn push(&self, line: &[u8]) {
        self.0.push(line, CAPACITY);
    }

    /// Lines that were dropped so far, or could not be written.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all is written, at most for so long.
    pub(super) fn flush(&self, longest: Duration) {
        let mut buffer = self.0.lock();
        buffer.is_ending = true;
        self.0.filled.notify_all();
        let waits =
            |buffer: &mut Buffer| !(buffer.is_idle && buffer.bytes.is_empty() && buffer.lost == 0);
        // Whatever is not written by then is lost with the process.
        drop(self.0.written.wait_timeout_while(buffer, longest, waits));
    }
}

impl Shared {
    /// Nothing panics while it is locked, and it is whole between statements.
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8], capacity: usize) {
        let mut buffer = self.lock();
        let wakes = buffer.bytes.is_empty();
        if buffer.bytes.len().saturating_add(line.len()) > capacity {
            buffer.lost = buffer.lost.saturating_add(1);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            buffer.bytes.extend_from_slice(line);
            buffer.lines = buffer.lines.saturating_add(1);
        }
        drop(buffer);
        if wakes {
            self.filled.notify_one();
        }
    }

    /// Writes lines for as long as the process runs.
    fn write(&self, Output { mut sink, pause, tell_lost, tell_failure }: Output) {
        let mut batch = Vec::new();
        let (mut untold, mut fails) = (0_u64, false);
        loop {
            let mut buffer = self.lock();
            while buffer.bytes.is_empty() && buffer.lost == 0 {
                buffer.is_idle = true;
                self.written.notify_all();
                buffer = self.filled.wait(buffer).unwrap_or_else(PoisonError::into_inner);
            }
            buffer.is_idle = false;
            std::mem::swap(&mut batch, &mut buffer.bytes);
            let lines = std::mem::take(&mut buffer.lines);
            untold = untold.saturating_add(std::mem::take(&mut buffer.lost));
            drop(buffer);
            match sink.write(&batch) {
                Ok(()) => {
                    fails = false;
                    // Only now: a line about lines that cannot be written would be another one.
                    if untold > 0 {
                        tell_lost(std::mem::take(&mut untold));
                    }
                }
                Err(error) => {
                    self.dropped.fetch_add(lines, Ordering::Relaxed);
                    untold = untold.saturating_add(lines);
                    if !std::mem::replace(&mut fails, true) {
                        tell_failure(&error);
                    }
                }
            }
            batch.clear();
            batch.shrink_to(KEPT);
            if !pause.is_zero() {
                let buffer = self.lock();
                let waits = |buffer: &mut Buffer| !buffer.is_ending;
                drop(self.filled.wait_timeout_while(buffer, pause, waits));
            }
        }
    }
}

/// One line of `tracing`, which writes each with one call.
pub(crate) struct Line<'a> {
    lines: &'a Lines,
    capacity: usize,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.0.push(bytes, self.capacity);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, capacity: CAPACITY }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        let capacity = if event.target() == GUESTS { GUESTS_CAPACITY } else { CAPACITY };
        Line { lines: self, capacity }
    }
}

/// Where a thread writes lines to.
pub(super) enum Sink {
    /// An open stream. Not `std`'s own: its lock would be held while a write blocks.
    Stream(File),
    File(LogFile),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => write_all(stream, bytes),
            Self::File(file) => file.write(bytes),
        }
    }
}

/// A file that is opened again when it was moved or removed, as programs that rotate logs do.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// A write ended within a line.
    is_torn: bool,
    /// It was moved, and there can be no new one, which has been said.
    is_stuck: bool,
}

impl LogFile {
    /// Opens a file to append to, or creates it.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: open(path)?, is_torn: false, is_stuck: false })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.was_moved() {
            match open(&self.path) {
                Ok(file) => (self.file, self.is_torn, self.is_stuck) = (file, false, false),
                // What is written to a file that was removed is lost.
                Err(error) if self.file.metadata().is_ok_and(|file| file.nlink() == 0) => {
                    return Err(error);
                }
                // One that was moved still takes lines.
                Err(error) => {
                    if !std::mem::replace(&mut self.is_stuck, true) {
                        let path = self.path.display();
                        tracing::warn!(
                            %error, %path,
                            "the log file was moved, and a new one cannot be opened: lines go on to the moved one"
                        );
                    }
                }
            }
        }
        if self.is_torn {
            write_all(&mut self.file, b"\n")?;
        }
        self.is_torn = true;
        write_all(&mut self.file, bytes)?;
        self.is_torn = false;
        Ok(())
    }

    fn was_moved(&self) -> bool {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(open)) => id(there) != id(open),
            (Err(_), _) => true,
            (Ok(_), Err(_)) => false,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // A pipe that nobody reads is an error, and not a start that hangs.
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let flags = i32::try_from(flags).unwrap_or_default();
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).custom_flags(flags).open(path)
}

/// As `write_all`, also for a descriptor that does not block: others may have made it so.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    static TOLD: AtomicU64 = AtomicU64::new(0);

    const LONG: Duration = Duration::from_secs(30);

    fn output(sink: Sink) -> Output {
        let tell_lost = |lines| {
            TOLD.fetch_add(lines, Ordering::Relaxed);
        };
        Output { sink, pause: Duration::ZERO, tell_lost, tell_failure: |_| {} }
    }

    #[test]
    fn what_does_not_fit_is_dropped_counted_and_told_of() {
        let (mut reader, writer) = io::pipe().unwrap();
        let stream = File::from(std::os::fd::OwnedFd::from(writer));
        let lines = Lines::start("test", output(Sink::Stream(stream))).unwrap();
        let line = [&[b'x'; 999][..], b"\n"].concat();
        // More than the buffer, what is on its way, and the pipe.
        let pushed = 3 * CAPACITY / line.len();
        for _ in 0..pushed {
            lines.push(&line);
        }
        let dropped = lines.dropped();
        assert!(dropped > 0);
        lines.flush(Duration::from_millis(10));
        let read = std::thread::spawn(move || {
            let mut text = Vec::new();
            let expected = (pushed - usize::try_from(dropped).unwrap()) * line.len();
            reader.by_ref().take(expected as u64).read_to_end(&mut text).unwrap();
            (text.len(), expected)
        });
        lines.flush(LONG);
        let (read, expected) = read.join().unwrap();
        assert_eq!(read, expected, "whole lines, all that were not dropped");
        assert_eq!(TOLD.load(Ordering::Relaxed), dropped);
        assert_eq!(lines.dropped(), dropped, "none was dropped since");
    }

    #[test]
    fn guests_leave_room_for_the_host() {
        let (_reader, writer) = io::pipe().unwrap();
        let stream = File::from(std::os::fd::OwnedFd::from(writer));
        let lines = Lines::start("test", output(Sink::Stream(stream))).unwrap();
        let mut guest = Line { lines: &lines, capacity: GUESTS_CAPACITY };
        while lines.dropped() == 0 {
            guest.write_all(&[b'x'; 1_000]).unwrap();
        }
        lines.push(b"from the host\n");
        assert_eq!(lines.dropped(), 1);
    }

    #[test]
    fn a_file_that_was_moved_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let file = LogFile::open(&path).unwrap();
        let lines = Lines::start("test", output(Sink::File(file))).unwrap();
        lines.push(b"one\n");
        lines.flush(LONG);
        fs::rename(&path, &moved).unwrap();
        lines.push(b"two\n");
        lines.flush(LONG);
        fs::remove_file(&path).unwrap();
        lines.push(b"three\n");
        lines.flush(LONG);
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn where_no_new_file_can_be_opened_no_line_is_lost_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let file = LogFile::open(&path).unwrap();
        // Of others' lines, another test keeps count.
        let output = Output { tell_lost: |_| {}, ..output(Sink::File(file)) };
        let lines = Lines::start("test", output).unwrap();
        fs::rename(&path, &moved).unwrap();
        // Nobody can open a folder as a file.
        fs::create_dir(&path).unwrap();
        lines.push(b"one\n");
        lines.flush(LONG);
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(lines.dropped(), 0);
        fs::remove_file(&moved).unwrap();
        lines.push(b"two\n");
        lines.flush(LONG);
        assert_eq!(lines.dropped(), 1);
        fs::remove_dir(&path).unwrap();
        lines.push(b"three\n");
        lines.flush(LONG);
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }
}
