//! What the kernel says of this process's memory, and the one thing that is asked of it.
//!
//! Formats: proc_pid_maps(5), proc_pid_pagemap(5).

use std::{
    ffi::c_void,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    ptr,
};

use crate::stretches::{Pages, Stretch};

/// What Wasmtime names the initial contents of a memory (`sys/unix/vm.rs`).
const IMAGE: &str = "/memfd:wasm-memory-image";

/// Bits of an entry of the page map: the page is in memory; it is that of a file or shared; it is mapped
/// here alone, as the page of zeros is not that all share until they write.
const PRESENT: u64 = 1 << 63;
const OF_A_FILE: u64 = 1 << 61;
const ALONE: u64 = 1 << 56;

/// The part of a memory that a guest can access, which begins with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) inode: u64,
    start: usize,
    end: usize,
}

impl Image {
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Pages that a guest can access.
    pub(crate) fn pages(&self) -> usize {
        pages(self.end.saturating_sub(self.start))
    }
}

/// The kernel, where it tells and does what is needed.
#[derive(Debug)]
pub(crate) struct Kernel {
    page_map: File,
}

impl Kernel {
    /// # Errors
    /// Where it does not (Linux before 5.14, or no `/proc`).
    pub(crate) fn new() -> io::Result<Self> {
        let page_map = File::open("/proc/self/pagemap")?;
        let own = vec![0_u8; page().saturating_mul(2)];
        populate(own.as_ptr().expose_provenance().next_multiple_of(page()), page())?;
        Ok(Self { page_map })
    }

    /// All memories whose image has at least so many bytes.
    pub(crate) fn images(&self, least: usize) -> io::Result<Vec<Image>> {
        let maps = fs::read_to_string("/proc/self/maps")?;
        Ok(parse(&maps, least))
    }

    /// The pages of a memory that are its own: it was written there, or made resident.
    pub(crate) fn written(&self, image: &Image) -> io::Result<Pages> {
        let mut entries = vec![0; image.pages().saturating_mul(size_of::<u64>())];
        let offset = (image.start / page()).saturating_mul(size_of::<u64>());
        self.page_map.read_exact_at(&mut entries, u64::try_from(offset).unwrap_or(u64::MAX))?;
        let (entries, _) = entries.as_chunks();
        let is_own = |entry: u64| entry & (PRESENT | OF_A_FILE | ALONE) == PRESENT | ALONE;
        Ok(entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| is_own(u64::from_ne_bytes(**entry)))
            .map(|(page, _)| page)
            .collect())
    }

    /// Gives a memory pages of its own there, with the bytes that it has. What lies beyond its end is
    /// left out, and nothing happens where it is there no longer, or was just taken from its guest.
    pub(crate) fn make_resident(&self, image: &Image, stretch: &Stretch) {
        let at =
            |pages: usize| image.start.saturating_add(pages.saturating_mul(page())).min(image.end);
        let (start, end) = (at(stretch.start), at(stretch.end));
        if start < end {
            let _ = populate(start, end.saturating_sub(start));
        }
    }
}

/// Has the kernel fault pages in as a write would.
fn populate(start: usize, bytes: usize) -> io::Result<()> {
    let start = ptr::with_exposed_provenance_mut::<c_void>(start);
    // SAFETY: this advice changes no byte of what is mapped there, whatever that is: it may have
    // become another mapping since it was looked up, which then takes more memory, or none, which is
    // an error.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    unsafe {
        rustix::mm::madvise(start, bytes, rustix::mm::Advice::LinuxPopulateWrite)?;
    }
    #[cfg(not(target_os = "linux"))]
    return Err(io::ErrorKind::Unsupported.into());
    #[cfg(target_os = "linux")]
    Ok(())
}

/// Bytes of a page.
fn page() -> usize {
    rustix::param::page_size()
}

/// Whole pages in so many bytes.
pub(crate) fn pages(bytes: usize) -> usize {
    bytes / page()
}

/// Finds images of so many bytes in the text of `/proc/self/maps`, with what is accessible behind each:
/// a heap that has grown.
fn parse(maps: &str, least: usize) -> Vec<Image> {
    let mut images: Vec<Image> = Vec::new();
    let mut grows = false;
    for line in maps.lines() {
        let Some((start, end, writable, inode, path)) = fields(line) else { continue };
        let is_image = writable && path.starts_with(IMAGE) && end.saturating_sub(start) >= least;
        match images.last_mut() {
            Some(last) if grows && writable && inode == 0 && last.end == start => last.end = end,
            _ if is_image => images.push(Image { inode, start, end }),
            _ => {}
        }
        grows = is_image || images.last().is_some_and(|last| grows && last.end == end);
    }
    images
}

/// The fields of one line: start and end, whether it is private and can be read and written, inode
/// and path.
fn fields(line: &str) -> Option<(usize, usize, bool, u64, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let writable = fields.next()? == "rw-p";
    let inode = fields.nth(2)?.parse().ok()?;
    Some((address(start)?, address(end)?, writable, inode, fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_with_the_heap_behind_them() {
        let maps = "\
55d0c0a00000-55d0c0b00000 r-xp 00000000 fe:00 1234                       /usr/bin/tally
7f0000000000-7f0000010000 rw-p 00000000 00:01 77                         /memfd:wasm-memory-image (deleted)
7f0000010000-7f0000030000 rw-p 00000000 00:00 0 
7f0000030000-7f0008000000 ---p 00000000 00:00 0 
7f0008000000-7f0008010000 rw-p 00000000 00:01 78                         /memfd:wasm-memory-image (deleted)
7f0008010000-7f0010000000 ---p 00000000 00:00 0 
7f0010000000-7f0010010000 r--p 00000000 00:01 79                         /memfd:wasm-memory-image (deleted)
7f0010010000-7f0010020000 rw-p 00000000 00:00 0 
";
        let expected = [
            Image { inode: 77, start: 0x7f00_0000_0000, end: 0x7f00_0003_0000 },
            Image { inode: 78, start: 0x7f00_0800_0000, end: 0x7f00_0801_0000 },
        ];
        assert_eq!(parse(maps, 0x1_0000), expected);
        assert_eq!(parse(maps, 0x1_0001), []);
    }

    #[test]
    fn pages_that_were_written_are_seen_and_made_resident_without_a_change() {
        let kernel = Kernel::new().unwrap();
        let (bytes, size) = (32 * page(), page());
        // As a memory of a guest: private, of nobody else's.
        let mut memory = vec![0_u8; bytes.saturating_add(size)];
        let start = memory.as_ptr().expose_provenance().next_multiple_of(size);
        let skip = start.saturating_sub(memory.as_ptr().expose_provenance());
        let image = Image { inode: 0, start, end: start.saturating_add(bytes) };
        if let Some(byte) = memory.get_mut(skip.saturating_add(3 * size)) {
            *byte = 7;
        }
        assert!(kernel.written(&image).unwrap().holds(&(3..4)));
        // What is only read is the page of zeros that all share.
        let read = memory.get(skip.saturating_add(10 * size)).copied();
        assert_eq!(std::hint::black_box(read), Some(0));
        assert!(!kernel.written(&image).unwrap().holds(&(8..12)));
        assert!(!kernel.written(&image).unwrap().holds(&(10..11)));
        kernel.make_resident(&image, &(8..12));
        assert!(kernel.written(&image).unwrap().holds(&(8..12)));
        let sevens = memory.iter().filter(|byte| **byte == 7).count();
        assert_eq!((sevens, memory.iter().filter(|byte| **byte != 0).count()), (1, 1));
    }
}
