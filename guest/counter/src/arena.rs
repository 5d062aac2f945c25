//! An allocator for a guest that lives for one request.
//!
//! Memory is handed out from the front of an arena and never taken back: when the request is done,
//! the instance and its memory are gone. The arena is what the module's initial memory has left after
//! its data, some 60 KiB, so that an ordinary request never grows it, which would cost more than the
//! rest of the request. Larger requests go on in memory that is grown for them.
//!
//! It begins where data ends, as data does where the stack ends: an ordinary request writes to one
//! page of the host's, which is all that is cleared for the next. That has 1.5 KiB of the stack
//! (`build.rs`), the data, and more than 1 KiB of the arena; what goes beyond takes a page more.
//!
//! Nothing else may take memory from where data ends: a C library's `malloc` would, and this guest
//! links none.
//!
//! A guest has one thread (this target has no others), which makes the unsynchronized state sound.

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    ptr,
};

/// Bytes of a page of WebAssembly memory.
const PAGE_BYTES: usize = 64 * 1024;

unsafe extern "C" {
    /// Stands where data ends; set by the linker.
    static __heap_base: u8;
}

struct Arena {
    /// Where the free part starts and ends, as addresses; 0 until first used.
    next: Cell<usize>,
    end: Cell<usize>,
}

// SAFETY: a guest has one thread.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena { next: Cell::new(0), end: Cell::new(0) };

// SAFETY: blocks are aligned, lie within the arena or in pages grown for it, and never overlap, as
// `next` only falls to shrink the newest block.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.end.get() == 0 {
            self.next.set(&raw const __heap_base as usize);
            self.end.set(core::arch::wasm32::memory_size(0) * PAGE_BYTES);
        }
        let align = layout.align();
        let aligned = |next: usize| (next + align - 1) & !(align - 1);
        let mut start = aligned(self.next.get());
        if layout.size() > self.end.get().saturating_sub(start) {
            let pages = (layout.size() + align).div_ceil(PAGE_BYTES);
            let before = core::arch::wasm32::memory_grow(0, pages);
            if before == usize::MAX {
                return ptr::null_mut();
            }
            start = aligned(before * PAGE_BYTES);
            self.end.set((before + pages) * PAGE_BYTES);
        }
        self.next.set(start + layout.size());
        start as *mut u8
    }

    unsafe fn dealloc(&self, _block: *mut u8, _layout: Layout) {}

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let block_end = block as usize + layout.size();
        // The newest block grows in place.
        if block_end == self.next.get() && size <= self.end.get() - block as usize {
            self.next.set(block as usize + size);
            return block;
        }
        if size <= layout.size() {
            return block;
        }
        // SAFETY: the new block is large enough for the old one's bytes and does not overlap it.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, layout.size());
            }
            new
        }
    }
}

/// What the host calls to place strings and lists in this guest's memory (the Canonical ABI's
/// `realloc`), which the standard library would bring.
///
/// # Safety
/// `block` must be null with `old_size` 0, or a block of this allocator with that size and `align`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cabi_realloc(
    block: *mut u8,
    old_size: usize,
    align: usize,
    new_size: usize,
) -> *mut u8 {
    if new_size == 0 {
        return ptr::without_provenance_mut(align);
    }
    // SAFETY: the Canonical ABI passes sizes and a power of two that belong together.
    let new = unsafe {
        match old_size {
            0 => ARENA.alloc(Layout::from_size_align_unchecked(new_size, align)),
            _ => ARENA.realloc(block, Layout::from_size_align_unchecked(old_size, align), new_size),
        }
    };
    if new.is_null() { core::arch::wasm32::unreachable() } else { new }
}

// `memcpy` and its like, which this target expects from its C library.
#[link(name = "c")]
unsafe extern "C" {}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
