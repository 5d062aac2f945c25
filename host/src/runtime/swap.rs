//! Whether the kernel may move this process's pages to swap.
//!
//! The pages that a guest has written stay resident for the next request, and the kernel is asked which
//! they are, to put the initial contents back. It is asked for pages that are present: one that was
//! moved to swap would be missed, and would reach the next guest as it is. So memory is kept only where
//! there is no swap, and because swap can be turned on at any time, the host looks again every second (see
//! `Runtime::look_at_swap`).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// Where the kernel lists its swap devices and files (proc_swaps(5)).
pub(crate) const SWAPS: &str = "/proc/swaps";

/// What is known of swap.
#[derive(Debug)]
pub(super) struct Swap {
    list: PathBuf,
    /// Once there was swap, pages may be there until they are used again: it counts as on from then.
    was_seen: AtomicBool,
}

impl Swap {
    /// Reads the list.
    pub(super) fn look_at(list: PathBuf) -> Self {
        let swap = Self { list, was_seen: AtomicBool::new(false) };
        swap.look();
        swap
    }

    /// Reads the list again, until there was swap. Whether there is now for the first time.
    pub(super) fn look(&self) -> bool {
        !self.was_seen() && is_on(&self.list) && !self.was_seen.swap(true, Ordering::Relaxed)
    }

    /// Whether there was swap at any look.
    pub(super) fn was_seen(&self) -> bool {
        self.was_seen.load(Ordering::Relaxed)
    }
}

/// Whether the kernel has swap, or does not tell.
fn is_on(list: &Path) -> bool {
    // One line of headings, and one for each device.
    !fs::read_to_string(list).is_ok_and(|swaps| swaps.lines().count() <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADINGS: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    #[test]
    fn swap_is_seen_once_and_stays_seen() {
        let dir = tempfile::tempdir().unwrap();
        let list = &dir.path().join("swaps");
        fs::write(list, HEADINGS).unwrap();
        let swap = Swap::look_at(list.clone());
        assert!(!swap.look() && !swap.was_seen());
        fs::write(list, format!("{HEADINGS}/dev/sda2 partition 8388604 0 -2\n")).unwrap();
        assert!(swap.look() && swap.was_seen());
        assert!(!swap.look(), "it is told once");
        fs::write(list, HEADINGS).unwrap();
        assert!(!swap.look() && swap.was_seen(), "pages may still be there");
        fs::remove_file(list).unwrap();
        assert!(
            Swap::look_at(list.clone()).was_seen(),
            "a kernel that does not tell may have some"
        );
    }
}
