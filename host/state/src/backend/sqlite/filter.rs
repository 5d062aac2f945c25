//! Which requests may have records in a run that takes no more: a Bloom filter in blocks of one cache
//! line each, so that a look-up in it costs one access to memory (Putze, Sanders, Singler: Cache-,
//! Hash- and Space-Efficient Bloom Filters, 2007).

use crate::idempotency::Digest;

/// Bytes of a block: a cache line.
const BLOCK: usize = 64;

/// With 16 bits for each request, one in a thousand is taken for one that has a record.
const REQUESTS_PER_BLOCK: usize = 32;

/// Bits that are set for each request, all in one block.
const BITS: u32 = 8;

/// Bits of a request's digest that choose one bit of a block, and the bits of their number.
const PLACE: u128 = 511;
const PLACE_BITS: u32 = 9;

/// A filter over the requests of one run. It may take one for another, and misses none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter(Box<[[u8; BLOCK]]>);

impl Filter {
    /// Over these requests.
    pub(super) fn of(requests: &[Digest]) -> Self {
        let blocks = requests.len().div_ceil(REQUESTS_PER_BLOCK).max(1);
        let mut filter = Self(vec![[0; BLOCK]; blocks].into());
        for request in requests {
            let block = filter.block_of(request);
            let Some(block) = filter.0.get_mut(block) else { continue };
            for (byte, bit) in places(request) {
                if let Some(byte) = block.get_mut(byte) {
                    *byte |= bit;
                }
            }
        }
        filter
    }

    /// As it was stored; `None` for what is no filter.
    pub(super) fn stored(bytes: &[u8]) -> Option<Self> {
        let (blocks, rest) = bytes.as_chunks();
        let is_whole = !blocks.is_empty() && rest.is_empty();
        is_whole.then(|| Self(blocks.into()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_flattened()
    }

    /// Whether the request may be one of those it was made over. Never `false` for one that is.
    pub(super) fn may_hold(&self, request: &Digest) -> bool {
        let Some(block) = self.0.get(self.block_of(request)) else { return true };
        places(request).all(|(byte, bit)| block.get(byte).is_some_and(|byte| byte & bit != 0))
    }

    /// The place of a request's block. Digests are spread evenly, so their bits need no further hash.
    fn block_of(&self, request: &Digest) -> usize {
        let top = u128::from_be_bytes(*request) >> 96;
        usize::try_from(top.wrapping_mul(self.0.len() as u128) >> 32).unwrap_or(0)
    }
}

/// The bits of a request in its block: the place of the byte, and the bit in it.
fn places(request: &Digest) -> impl Iterator<Item = (usize, u8)> {
    let mut bits = u128::from_be_bytes(*request);
    (0..BITS).map(move |_| {
        let place = bits & PLACE;
        bits >>= PLACE_BITS;
        (usize::try_from(place >> 3).unwrap_or(0), 1 << (place & 7))
    })
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn requests(numbers: std::ops::Range<u32>) -> Vec<Digest> {
        let digest = |number: u32| *Sha256::digest(number.to_be_bytes()).first_chunk().unwrap();
        numbers.map(digest).collect()
    }

    #[test]
    fn it_misses_none_and_takes_few_for_another() {
        for count in [0, 1, 31, 33, 20_000] {
            let filter = Filter::of(&requests(0..count));
            let filter = Filter::stored(filter.bytes()).unwrap();
            assert!(requests(0..count).iter().all(|request| filter.may_hold(request)), "{count}");
            let others = requests(1_000_000..1_100_000);
            let taken = others.iter().filter(|request| filter.may_hold(request)).count();
            assert!(taken < 300, "{taken} of 100,000 are taken for one of {count}");
        }
    }

    #[test]
    fn what_is_no_filter_is_not_taken_for_one() {
        assert_eq!(Filter::stored(&[]), None);
        assert_eq!(Filter::stored(&[0; BLOCK + 1]), None);
    }
}
