//! Random numbers that are cheap, and differ from run to run.

use std::hash::{BuildHasher as _, RandomState};

/// SplitMix64, twice: Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// 2014. Each generator has a seed of 128 bits of its own, made from one of the operating system.
pub(crate) struct Random {
    high: u64,
    low: u64,
}

impl Random {
    pub(crate) fn new() -> Self {
        let seed = RandomState::new();
        Self { high: seed.hash_one("high"), low: seed.hash_one("low") }
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        next(&mut self.low)
    }

    pub(crate) fn next_u128(&mut self) -> u128 {
        u128::from(next(&mut self.high)) << 64 | u128::from(next(&mut self.low))
    }
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
