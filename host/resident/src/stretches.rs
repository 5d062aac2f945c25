//! A set of pages, and joining it into few stretches.

use std::ops::Range;

/// Neighbouring pages, by their numbers.
pub(crate) type Stretch = Range<usize>;

/// A set of pages, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pages(Vec<bool>);

impl Pages {
    /// Adds pages. Whether one of them is new.
    pub(crate) fn add(&mut self, others: &Self) -> bool {
        if self.0.len() < others.0.len() {
            self.0.resize(others.0.len(), false);
        }
        let mut is_new = false;
        for (here, there) in self.0.iter_mut().zip(&others.0) {
            is_new |= *there && !*here;
            *here |= there;
        }
        is_new
    }

    /// Whether all pages of a stretch are in the set.
    pub(crate) fn holds(&self, stretch: &Stretch) -> bool {
        self.0.get(stretch.clone()).is_some_and(|pages| !pages.contains(&false))
    }

    /// The set with what lies between its stretches, beginning with the smallest gaps, so that there
    /// are no more than `most` of them. None where that takes more than `most_pages` pages.
    pub(crate) fn joined(&self, most: usize, most_pages: usize) -> Option<Self> {
        let stretches = self.stretches();
        let surplus = stretches.len().saturating_sub(most);
        let mut gaps: Vec<Stretch> =
            stretches.iter().zip(stretches.iter().skip(1)).map(|(a, b)| a.end..b.start).collect();
        gaps.sort_unstable_by_key(Stretch::len);
        gaps.truncate(surplus);
        let total: usize = stretches.iter().chain(&gaps).map(Stretch::len).sum();
        let mut joined = self.clone();
        for gap in gaps {
            joined.0.get_mut(gap)?.fill(true);
        }
        (total <= most_pages).then_some(joined)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().filter(|is_in| **is_in).count()
    }

    /// What neighbours what, in order.
    pub(crate) fn stretches(&self) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        for (page, _) in self.0.iter().enumerate().filter(|(_, is_in)| **is_in) {
            match stretches.last_mut() {
                Some(last) if last.end == page => last.end = page.saturating_add(1),
                _ => stretches.push(page..page.saturating_add(1)),
            }
        }
        stretches
    }
}

impl FromIterator<usize> for Pages {
    fn from_iter<T: IntoIterator<Item = usize>>(pages: T) -> Self {
        let mut set = Vec::new();
        for page in pages {
            if set.len() <= page {
                set.resize(page.saturating_add(1), false);
            }
            if let Some(place) = set.get_mut(page) {
                *place = true;
            }
        }
        Self(set)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pages(pages: &[usize]) -> Pages {
        pages.iter().copied().collect()
    }

    fn joined(written: &[usize], most: usize, most_pages: usize) -> Option<Vec<Stretch>> {
        Some(pages(written).joined(most, most_pages)?.stretches())
    }

    /// With gaps of 1, 7, 2 and 30.
    const WRITTEN: [usize; 6] = [0, 2, 10, 11, 14, 45];

    #[test]
    fn the_smallest_gaps_are_filled() {
        assert_eq!(joined(&WRITTEN, 3, 100), Some(vec![0..3, 10..15, 45..46]));
        assert_eq!(joined(&WRITTEN, 2, 100), Some(vec![0..15, 45..46]));
        let as_it_is = vec![0..1, 2..3, 10..12, 14..15, 45..46];
        assert_eq!(joined(&WRITTEN, 5, 100), Some(as_it_is), "few enough");
    }

    #[test]
    fn no_more_is_filled_than_may_be_resident() {
        // Six pages, and gaps of 1 and 2.
        assert_eq!(joined(&WRITTEN, 3, 9), Some(vec![0..3, 10..15, 45..46]));
        assert_eq!(joined(&WRITTEN, 3, 8), None);
        assert_eq!(joined(&WRITTEN, 5, 5), None, "nothing to fill, but too much already");
    }

    #[test]
    fn what_is_new_is_told() {
        let mut known = pages(&[1, 5]);
        assert!(!known.add(&pages(&[5])));
        assert!(known.add(&pages(&[5, 9])));
        assert!(known.holds(&(9..10)) && !known.holds(&(5..10)) && !known.holds(&(9..20)));
        assert_eq!((Pages::default().len(), known.len()), (0, 3));
    }

    proptest! {
        #[test]
        fn all_pages_are_held_by_stretches_that_are_apart(
            written in proptest::collection::vec(0..2_000_usize, 0..300),
            most in 1..40_usize,
        ) {
            let after = joined(&written, most, usize::MAX).unwrap_or_default();
            prop_assert!(after.len() <= most);
            prop_assert!(written.iter().all(|page| after.iter().any(|one| one.contains(page))));
            prop_assert!(after.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
