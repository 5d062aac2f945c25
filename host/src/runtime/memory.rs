//! The memory that an instance may have, of what its slot has, and what it had.

use wasmtime::ResourceLimiter;

/// A bound on the linear memory of one instance, in bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    highest: usize,
}

impl Memory {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, highest: 0 }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes of the largest memory so far.
    pub(super) fn highest(&self) -> usize {
        self.highest
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = desired <= self.limit;
        if fits {
            self.highest = self.highest.max(desired);
        }
        Ok(fits)
    }

    /// Tables have the bounds of their slots.
    fn table_growing(
        &mut self,
        _current: usize,
        _desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(true)
    }
}
