//! Keeps the pages that guests write resident, by having them lie in few stretches.
//!
//! After a request, Wasmtime asks the kernel which pages of the guest's memory were written
//! (`PAGEMAP_SCAN`), puts the initial contents back into those, and leaves them resident: the next
//! request writes them without a page fault. But it asks for no more than 32 stretches of
//! neighbouring pages and gives back everything behind the last. Compiled code writes in a few
//! places. An interpreter counts references in objects all over its heap, in sixty to a hundred and
//! fifty stretches, so most of its pages are faulted in for each request, and each fault on a page
//! that was read before interrupts all other cores that run the process (TLB shootdown). That was
//! more than half of the cost of a request.
//!
//! So what lies between stretches is made resident as well, beginning with the smallest gaps, until
//! the stretches are few enough. A page that is resident although no guest writes it costs a copy of
//! four kibibytes after each request; a fault costs some 10 µs.
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

/// After a guest was loaded so many calls are looked at one by one, and as many after a look that
/// found something new.
const FIRST_CALLS: usize = 16;

/// Later ones this seldom: other requests may write other pages, and memories come into use that were
/// not. A look reads the map of the process, and may take a millisecond.
const EVERY_CALLS: usize = 256;

/// So many looks at the memories of an image may find that more is written than was known; what is
/// written beside by then is different for each request.
const MOST_LESSONS: u32 = 32;

/// Memories that are looked at in one look.
const MEMORIES_A_LOOK: usize = 8;

/// Which memories are watched, and how much of them may be resident.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of initial contents that a memory has at least. Pools of small memories keep less.
    pub least_image: usize,
    /// Bytes of each memory that Wasmtime keeps resident at most (`linear_memory_keep_resident`).
    pub keep_resident: usize,
}

/// Watches what guests write, in all memories of this process.
#[derive(Debug)]
pub struct Residency {
    /// Calls since a guest was loaded, or a look found something new.
    calls: AtomicUsize,
    looking: Mutex<Looking>,
}

/// One for the process, as its memories are: two would take what the other has made resident for
/// what guests write.
static OF_PROCESS: OnceLock<Residency> = OnceLock::new();

impl Residency {
    /// Of this process. Who asks first gives the bounds.
    pub fn of_process(bounds: Bounds) -> &'static Self {
        OF_PROCESS.get_or_init(|| {
            let kernel = Kernel::new();
            if let Err(error) = &kernel {
                tracing::debug!(%error, "what guests write is not kept resident");
            }
            let looking = Looking {
                kernel: kernel.ok(),
                least_image: bounds.least_image,
                // An eighth is for what single requests write beside.
                most_pages: kernel::pages(bounds.keep_resident).saturating_mul(7) / 8,
                images: HashMap::new(),
                next: 0,
            };
            Self { calls: AtomicUsize::new(0), looking: Mutex::new(looking) }
        })
    }

    /// To be called when a guest was loaded.
    pub fn loaded(&self) {
        self.calls.store(0, Ordering::Relaxed);
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
            Ok(true) => self.calls.store(1, Ordering::Relaxed),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "cannot look at the memory of guests"),
        }
    }

    /// Pages that are to be resident in each memory with an image, for all images.
    #[must_use]
    pub fn planned_pages(&self) -> usize {
        let looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        looking.images.values().flat_map(|known| &known.plan).map(Stretch::len).sum()
    }
}

#[derive(Debug)]
struct Looking {
    kernel: Option<Kernel>,
    least_image: usize,
    /// Pages of a memory that may be resident.
    most_pages: usize,
    /// What is known of each image, by its inode.
    images: HashMap<u64, Known>,
    /// The memory to begin the next look with.
    next: usize,
}

impl Looking {
    /// Learns from some of the memories what is written, and makes resident what is missing in one
    /// of them, `again` even where it has been once. Whether the next calls are to be looked at too.
    fn look(&mut self, again: bool) -> io::Result<bool> {
        let Some(kernel) = &self.kernel else { return Ok(false) };
        let memories = kernel.images(self.least_image)?;
        self.images.retain(|inode, _| memories.iter().any(|memory| memory.inode == *inode));
        let turn =
            memories.iter().cycle().skip(self.next).take(memories.len().min(MEMORIES_A_LOOK));
        let next = self.next.saturating_add(MEMORIES_A_LOOK);
        self.next = next.checked_rem(memories.len()).unwrap_or(0);
        let mut seen = Vec::new();
        let mut is_new = false;
        for memory in turn {
            let known = self.images.entry(memory.inode).or_default();
            if known.is_given_up() {
                continue;
            }
            let written = kernel.written(memory)?;
            // One that no guest has used yet need not take room, and one in which a request has
            // written very much says nothing of others.
            if (1..=self.most_pages).contains(&written.len()) {
                is_new |= known.learn(&written, self.most_pages);
                seen.push((memory, written));
            }
        }
        for (memory, written) in seen {
            let Some(known) = self.images.get_mut(&memory.inode) else { continue };
            let holds = |plan: &Stretch| {
                written.holds(&(plan.start..plan.end.min(memory.pages()).max(plan.start)))
            };
            if known.plan.iter().all(holds) {
                continue;
            }
            let is_first = known.filled.insert(memory.start());
            if is_first || again {
                known.plan.iter().for_each(|plan| kernel.make_resident(memory, plan));
                return Ok(is_new || is_first);
            }
        }
        Ok(is_new)
    }
}

/// What is known of the memories with one image.
#[derive(Debug, Default)]
struct Known {
    /// Pages that are written by some request or another, and those between that are resident for it.
    pages: Pages,
    /// What to make resident; empty where few stretches are written as it is.
    plan: Vec<Stretch>,
    /// Where the memories begin that it was made resident in.
    filled: HashSet<usize>,
    /// Looks that found more than was known.
    lessons: u32,
}

impl Known {
    /// Adds what one memory shows. Whether that is new.
    fn learn(&mut self, written: &Pages, most_pages: usize) -> bool {
        if self.lessons >= MOST_LESSONS || !self.pages.add(written) {
            return false;
        }
        self.lessons = self.lessons.saturating_add(1);
        match self.pages.joined(MOST_STRETCHES, most_pages) {
            Some(joined) => {
                if joined != self.pages || !self.plan.is_empty() {
                    self.plan = joined.stretches();
                    self.pages = joined;
                    self.filled.clear();
                }
            }
            // All of it would be too much, and a part of no use.
            None => *self = Self { lessons: MOST_LESSONS, ..Self::default() },
        }
        true
    }

    fn is_given_up(&self) -> bool {
        self.lessons >= MOST_LESSONS && self.plan.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_guest_that_writes_too_much_in_too_many_places_is_given_up() {
        let mut known = Known::default();
        let apart = |gap: usize| (0..60).map(|place| place * gap).collect::<Pages>();
        assert!(known.learn(&apart(3), 200));
        assert_eq!(known.plan.len(), MOST_STRETCHES);
        assert!(known.learn(&apart(100), 200));
        assert!(known.plan.is_empty() && known.is_given_up());
        assert!(!known.learn(&apart(3), 200), "for good");
    }

    proptest! {
        #[test]
        fn no_more_is_planned_than_may_be_and_lessons_end(
            looks in proptest::collection::vec(
                proptest::collection::vec(0..3_000_usize, 0..100), 0..60
            ),
            most_pages in 50..1_000_usize,
        ) {
            let mut known = Known::default();
            let mut lessons = 0;
            for look in looks {
                lessons += u32::from(known.learn(&look.into_iter().collect(), most_pages));
                let planned: usize = known.plan.iter().map(Stretch::len).sum();
                prop_assert!(planned <= most_pages && known.plan.len() <= MOST_STRETCHES);
            }
            prop_assert!(lessons <= MOST_LESSONS);
        }
    }
}
