//! What is looked at every second, whether or not there are requests.

use std::{hint::black_box, sync::Arc, time::Duration};

use crate::runtime::Runtime;

/// How often. Each time takes some microseconds, which an idle host can spare.
const EVERY: Duration = Duration::from_secs(1);

/// Bytes that are asked for and given up again, for the allocator to do what is due: more than its
/// largest pages, which it would keep for a while. Nothing is written there, so no memory is taken.
const LARGE: usize = 8 << 20;

/// Looks whether swap was turned on, and has memory that was freed given back to the kernel, until
/// dropped.
pub(super) async fn upkeep(runtime: Arc<Runtime>) {
    loop {
        tokio::time::sleep(EVERY).await;
        runtime.look_at_swap();
        give_back();
    }
}

/// The allocator gives memory back a second after it was freed, when some thread frees a large block
/// after that (mimalloc's `purge_delay`; there is no thread of its own). After a burst of requests
/// nothing is freed any more, and hundreds of megabytes would stay.
fn give_back() {
    drop(black_box(Vec::<u8>::with_capacity(LARGE)));
}
