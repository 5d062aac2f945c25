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

/// Bits of an entry of the page map: the page is in memory; it is that of a file or shared.
const PRESENT: u64 = 1 << 63;
const OF_A_FILE: u64 = 1 << 61;

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
}

/// The kernel, where it tells what is needed.
#[derive(Debug)]
pub(crate) struct Kernel {
    page_map: File,
}

impl Kernel {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { page_map: File::open("/proc/self/pagemap")? })
    }

    /// All memories with an image that has at least so many pages.
    pub(crate) fn images(&self, least_pages: usize) -> io::Result<Vec<Image>> {
        let least = least_pages.saturating_mul(page());
        let mut images = parse(&fs::read_to_string("/proc/self/maps")?);
        images.retain(|image| image.end.saturating_sub(image.start) >= least);
        Ok(images)
    }

    /// The pages of a memory that differ from its image, or did: those that are its own.
    pub(crate) fn written(&self, image: &Image) -> io::Result<Pages> {
        let first = image.start / page();
        let count = (image.end / page()).saturating_sub(first);
        let mut entries = vec![0; count.saturating_mul(size_of::<u64>())];
        let offset = first.saturating_mul(size_of::<u64>());
        self.page_map.read_exact_at(&mut entries, u64::try_from(offset).unwrap_or(u64::MAX))?;
        let (entries, _) = entries.as_chunks();
        Ok(entries
            .iter()
            .map(|entry| u64::from_ne_bytes(*entry))
            .enumerate()
            .filter(|(_, entry)| entry & PRESENT != 0 && entry & OF_A_FILE == 0)
            .map(|(page, _)| page)
            .collect())
    }

    /// Gives a memory pages of its own there, with the bytes that it has. What lies beyond its end is
    /// left out.
    pub(crate) fn make_resident(&self, image: &Image, stretch: &Stretch) -> io::Result<()> {
        let at =
            |pages: usize| image.start.saturating_add(pages.saturating_mul(page())).min(image.end);
        let (start, end) = (at(stretch.start), at(stretch.end));
        if start >= end {
            return Ok(());
        }
        let start_pointer = ptr::with_exposed_provenance_mut::<c_void>(start);
        // SAFETY: this advice has the kernel fault pages in, as a write would, and changes no byte of
        // what is mapped there, whatever that is: it may have become another mapping since it was
        // looked up, or none, which is an error.
        #[cfg(target_os = "linux")]
        #[allow(unsafe_code)]
        let done = unsafe {
            let length = end.saturating_sub(start);
            rustix::mm::madvise(start_pointer, length, rustix::mm::Advice::LinuxPopulateWrite)
        };
        #[cfg(not(target_os = "linux"))]
        let done = Err(rustix::io::Errno::INVAL);
        match done {
            Err(error) if error == rustix::io::Errno::INVAL => Err(error.into()),
            // It is no longer there, or there is no memory for it: both are no harm.
            _ => Ok(()),
        }
    }
}

/// Bytes of a page.
fn page() -> usize {
    rustix::param::page_size()
}

/// Whole pages in so many bytes.
pub(crate) fn pages(bytes: usize) -> usize {
    bytes / page()
}

/// Finds images in the text of `/proc/self/maps`, with what is accessible behind each: a heap that
/// has grown.
fn parse(maps: &str) -> Vec<Image> {
    let mut images: Vec<Image> = Vec::new();
    let mut grows = false;
    for line in maps.lines() {
        let Some((start, end, writable, inode, path)) = fields(line) else { continue };
        let is_image = writable && path.starts_with(IMAGE);
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
        assert_eq!(parse(maps), expected);
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
        assert!(!kernel.written(&image).unwrap().holds(&(8..12)));
        kernel.make_resident(&image, &(8..12)).unwrap();
        assert!(kernel.written(&image).unwrap().holds(&(8..12)));
        let sevens = memory.iter().filter(|byte| **byte == 7).count();
        assert_eq!((sevens, memory.iter().filter(|byte| **byte != 0).count()), (1, 1));
    }
}
