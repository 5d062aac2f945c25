//! Keeps the pages that guests write resident, by having them lie in few stretches.
//!
//! After a request, Wasmtime asks the kernel which pages of the guest's memory were written
//! (`PAGEMAP_SCAN`), puts the initial contents back into those, and leaves them resident: the next
//! request writes them without a page fault. But it asks for no more than 32 stretches of
//! neighbouring pages and gives back everything behind the last. Compiled code writes in a few
//! places. An interpreter counts references in objects all over its heap, in sixty to a hundred and
//! fifty stretches, so most of its pages are faulted in for each request, and each fault on a page
//! that was read before interrupts all other cores that run the process (TLB shootdown). That was
//! two thirds of the cost of a request.
//!
//! So what lies between stretches is made resident as well, beginning with the smallest gaps, until
//! the stretches are few enough. A page that is resident although no guest writes it costs a copy of
//! four kibibytes after each request, some 0.2 µs; a fault costs about 10 µs.
//!
//! Memories are found in `/proc/self/maps`, by the name that Wasmtime gives to their initial contents,
//! and what was written in `/proc/self/pagemap`. Where that is not to be had, nothing happens, as
//! nothing here is needed for a right answer: making a page resident changes none of its bytes.

#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        reason = "a test that fails should stop where it fails"
    )
)]

mod kernel;
mod stretches;

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Mutex, OnceLock, PoisonError},
};

use self::{
    kernel::Kernel,
    stretches::{Pages, Stretch},
};

/// Stretches to get below. Wasmtime asks for 32 (`MAX_REGIONS` in its `pagemap.rs`, as of version 48);
/// the rest is for pages that only some requests write.
const MOST_STRETCHES: usize = 28;

/// The first calls of a guest are looked at one by one, to know the pages it writes.
const FIRST_CALLS: usize = 16;

/// Later ones this seldom: other requests may write other pages, and memories come into use that were
/// not. A look takes a millisecond with a hundred memories.
const EVERY_CALLS: usize = 256;

/// Images with fewer pages cannot be written in more stretches than Wasmtime asks for.
const LEAST_PAGES: usize = 64;

/// Memories that are looked at in one look.
const MEMORIES_A_LOOK: usize = 8;

/// Watches what guests write, in all memories of this process.
#[derive(Debug)]
pub struct Residency {
    calls: AtomicUsize,
    looking: Mutex<Looking>,
}

/// One for the process, as its memories are: two would take what the other has made resident for
/// what guests write.
static OF_PROCESS: OnceLock<Residency> = OnceLock::new();

#[derive(Debug)]
struct Looking {
    kernel: Option<Kernel>,
    /// Pages of a memory that may be resident.
    most_pages: usize,
    /// What is known of each image, by its inode.
    images: HashMap<u64, Known>,
    /// The memory to begin the next look with.
    next: usize,
}

#[derive(Debug, Default)]
struct Known {
    /// Pages that are written by some request or another, and those between that are resident for it.
    pages: Pages,
    /// What to make resident; empty where few stretches are written as it is.
    plan: Vec<Stretch>,
    /// Where the memories begin that it was made resident in.
    filled: HashSet<usize>,
}

impl Known {
    /// Adds what one memory shows. Whether that is new.
    fn learn(&mut self, written: &Pages, most_pages: usize) -> bool {
        let is_new = self.pages.add(written);
        if is_new {
            let is_joined = self.pages.join(MOST_STRETCHES, most_pages);
            if is_joined || !self.plan.is_empty() {
                self.plan = self.pages.stretches();
                self.filled.clear();
            }
        }
        is_new
    }
}

impl Residency {
    /// Of this process, of whose memories so many bytes each may stay resident after a call. Who asks
    /// first says how many.
    pub fn of_process(keep_resident: usize) -> &'static Self {
        OF_PROCESS.get_or_init(|| Self::new(keep_resident))
    }

    fn new(keep_resident: usize) -> Self {
        let kernel = Kernel::new().ok();
        // An eighth is for what single requests write beside.
        let most_pages = kernel::pages(keep_resident).saturating_mul(7) / 8;
        let looking = Looking { kernel, most_pages, images: HashMap::new(), next: 0 };
        Self { calls: AtomicUsize::new(0), looking: Mutex::new(looking) }
    }

    /// To be called when a guest has been called and its memory is as it left it.
    pub fn called(&self) {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let is_one_of_many = calls.is_multiple_of(EVERY_CALLS);
        if calls >= FIRST_CALLS && !is_one_of_many {
            return;
        }
        // Whoever looks at the moment does so for all.
        let Ok(mut looking) = self.looking.try_lock() else { return };
        match looking.look(is_one_of_many) {
            // The next calls go on.
            Ok(true) => self.calls.store(1, Ordering::Relaxed),
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(%error, "what guests write is not kept resident");
                looking.kernel = None;
            }
        }
    }

    /// Pages that are to be resident in each memory with an image, for all images.
    #[must_use]
    pub fn planned_pages(&self) -> usize {
        let looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        looking.images.values().flat_map(|known| &known.plan).map(Stretch::len).sum()
    }
}

impl Looking {
    /// Learns from some of the memories what is written, and makes resident what is missing in one
    /// of them, `again` even where it has been once. Whether there may be more to do.
    fn look(&mut self, again: bool) -> io::Result<bool> {
        let Some(kernel) = &self.kernel else { return Ok(false) };
        let memories = kernel.images(LEAST_PAGES)?;
        self.images.retain(|inode, _| memories.iter().any(|memory| memory.inode == *inode));
        let turn =
            memories.iter().cycle().skip(self.next).take(memories.len().min(MEMORIES_A_LOOK));
        let next = self.next.saturating_add(MEMORIES_A_LOOK);
        self.next = next.checked_rem(memories.len()).unwrap_or(0);
        let mut seen = Vec::new();
        let mut goes_on = false;
        for memory in turn {
            let written = kernel.written(memory)?;
            let known = self.images.entry(memory.inode).or_default();
            goes_on |= known.learn(&written, self.most_pages);
            seen.push((memory, written));
        }
        for (memory, written) in seen {
            let Some(known) = self.images.get_mut(&memory.inode) else { continue };
            // A memory that no guest has used yet need not take room.
            if written.is_empty() || known.plan.iter().all(|stretch| written.holds(stretch)) {
                continue;
            }
            if known.filled.insert(memory.start()) || again {
                known.plan.iter().try_for_each(|plan| kernel.make_resident(memory, plan))?;
                return Ok(true);
            }
        }
        Ok(goes_on)
    }
}
