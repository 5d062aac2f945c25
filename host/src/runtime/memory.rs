//! The memory that an instance may have, of what its slot has, and what it had.

use wasmtime::ResourceLimiter;

/// A bound on the linear memories of one instance together, in bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    /// What all of them have.
    used: usize,
    highest: usize,
    /// What the last growth added.
    added: usize,
}

impl Memory {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: 0, highest: 0, added: 0 }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The most that it had so far.
    pub(super) fn highest(&self) -> usize {
        self.highest
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let added = desired.saturating_sub(current);
        let used = self.used.saturating_add(added);
        if used > self.limit {
            return Ok(false);
        }
        (self.used, self.added) = (used, added);
        self.highest = self.highest.max(used);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.used = self.used.saturating_sub(std::mem::take(&mut self.added));
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_of_an_instance_count_together() {
        let mut memory = Memory::new(100);
        let mut grow = |current, desired| memory.memory_growing(current, desired, None).unwrap();
        assert!(grow(0, 60) && grow(0, 30));
        assert!(!grow(60, 80));
        assert!(grow(60, 70) && !grow(30, 31));
        memory.memory_grow_failed(wasmtime::Error::msg("no pages")).unwrap();
        assert!(memory.memory_growing(30, 40, None).unwrap());
        assert_eq!(memory.highest(), 100);
    }
}
