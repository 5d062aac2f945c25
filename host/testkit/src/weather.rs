//! One fault after another, at random bytes of a proxy's traffic.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::traffic::{Fault, Traffic, Way};

/// How often a thread that waits for a fault looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// The fewest and the most bytes until the next fault, as powers of two: from within one exchange
/// to the traffic of a busy moment.
const BYTES: (u64, u64) = (3, 14);

/// Milliseconds that a stall lasts at most: longer and shorter than what its tests wait for.
const LONGEST_STALL: u64 = 350;

/// Milliseconds for which chunks are delayed at most.
const LONGEST_DELAYS: u64 = 150;

/// Milliseconds that a chunk waits at most.
const LONGEST_DELAY: u64 = 25;

/// Random faults of a proxy; they end when it is dropped.
pub struct Weather {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Weather {
    pub(crate) fn start(traffic: Arc<Traffic>, seed: u64) -> Self {
        println!("weather of seed {seed}");
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut random = Random(seed);
            let mut faults: usize = 0;
            while !stopping.load(Ordering::Relaxed) {
                faults =
                    faults.saturating_add(usize::from(spell(&traffic, &mut random, &stopping)));
            }
            traffic.release();
            faults
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it, lets everything pass again, and gives how many faults there were.
    #[must_use]
    pub fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Weather {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Waits for one fault at a random byte, and ends it; whether there was one.
fn spell(traffic: &Traffic, random: &mut Random, stop: &AtomicBool) -> bool {
    let way = if random.below(2) == 0 { Way::Requests } else { Way::Replies };
    let (fewest, most) = BYTES;
    let magnitude = fewest.saturating_add(random.below(most.saturating_sub(fewest)));
    let after = usize::try_from(random.below(1 << magnitude)).unwrap_or(0);
    let (fault, lasts) = match random.below(3) {
        0 => (Fault::Cut, 0),
        1 => (Fault::Stall, random.below(LONGEST_STALL)),
        _ => {
            let pause = Duration::from_millis(random.below(LONGEST_DELAY));
            (Fault::Delay(pause), random.below(LONGEST_DELAYS))
        }
    };
    let ends_in_cut = random.below(3) == 0;
    traffic.expect(way, after, fault);
    while !traffic.wait_for_fault(LOOK) {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
    }
    if fault != Fault::Cut {
        std::thread::sleep(Duration::from_millis(lasts));
        if ends_in_cut {
            traffic.cut_all();
        } else {
            traffic.release();
        }
    }
    true
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    /// A number below a limit. That low ones are a little more frequent is no matter here.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(limit).unwrap_or(0)
    }
}
