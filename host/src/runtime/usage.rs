//! What is counted of each guest, for its operators.

use std::{
    sync::atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

/// Counts of one guest. All but the highest memory only go up.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    loads: AtomicU64,
    failed_loads: AtomicU64,
    loading_micros: AtomicU64,
    evictions: AtomicU64,
    highest_memory: AtomicUsize,
    traps: [AtomicU64; Trap::ALL.len()],
    refusals: [AtomicU64; Refused::ALL.len()],
}

/// Kinds of ends that a guest did not choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trap {
    /// It computed for longer than it may.
    Cpu,
    /// It took longer than it may.
    Wall,
    /// Its stack ended.
    Stack,
    /// It did what WebAssembly has no result for, such as to panic.
    Wasm,
    /// It broke a promise to the host, or the host failed.
    Host,
}

impl Trap {
    pub(crate) const ALL: [Self; 5] = [Self::Cpu, Self::Wall, Self::Stack, Self::Wasm, Self::Host];

    /// As a label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wall => "wall",
            Self::Stack => "stack",
            Self::Wasm => "wasm",
            Self::Host => "host",
        }
    }
}

/// Why requests of a guest are refused before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No instance was free in time.
    Busy,
    /// More came than there was time for.
    Overload,
    /// There were more than its rate.
    Rate,
    /// It could not be loaded, or not in time.
    Load,
    /// As much of its bodies is held as may be.
    Bodies,
    /// As much of responses waits for clients as may.
    Responses,
}

impl Refused {
    pub(crate) const ALL: [Self; 6] =
        [Self::Busy, Self::Overload, Self::Rate, Self::Load, Self::Bodies, Self::Responses];

    /// As a label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Overload => "overload",
            Self::Rate => "rate",
            Self::Load => "load",
            Self::Bodies => "bodies",
            Self::Responses => "responses",
        }
    }
}

impl Usage {
    pub(super) fn loaded(&self, took: Duration, succeeded: bool) {
        self.loads.fetch_add(1, Relaxed);
        self.failed_loads.fetch_add(u64::from(!succeeded), Relaxed);
        self.loading_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(0), Relaxed);
    }

    pub(super) fn evicted(&self) {
        self.evictions.fetch_add(1, Relaxed);
    }

    pub(super) fn trapped(&self, kind: Trap) {
        if let Some(count) = self.traps.get(kind as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn refused(&self, reason: Refused) {
        if let Some(count) = self.refusals.get(reason as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// To be told of the memory that an instance had.
    pub(super) fn had_memory(&self, bytes: usize) {
        // Seldom more than ever before.
        if bytes > self.highest_memory.load(Relaxed) {
            self.highest_memory.fetch_max(bytes, SeqCst);
        }
    }

    /// How often it was loaded, of these in vain, and how long all that took.
    pub(crate) fn loads(&self) -> (u64, u64, Duration) {
        let micros = self.loading_micros.load(Relaxed);
        (self.loads.load(Relaxed), self.failed_loads.load(Relaxed), Duration::from_micros(micros))
    }

    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }

    /// Bytes of the largest memory that an instance had.
    pub(crate) fn highest_memory(&self) -> usize {
        self.highest_memory.load(Relaxed)
    }

    pub(crate) fn traps(&self) -> impl Iterator<Item = (Trap, u64)> {
        Trap::ALL.into_iter().zip(self.traps.iter().map(|count| count.load(Relaxed)))
    }

    pub(crate) fn refusals(&self) -> impl Iterator<Item = (Refused, u64)> {
        Refused::ALL.into_iter().zip(self.refusals.iter().map(|count| count.load(Relaxed)))
    }
}
