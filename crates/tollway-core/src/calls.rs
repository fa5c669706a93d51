//! How the calls to a store went: numbers for whoever watches it.

use crate::StoreErrorKind;

/// What a store's calls were answered with and how long they took, since the store was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// How long they took, failed ones too.
    pub latency: Latency,
    /// Those that failed, by kind, in the order of [`StoreErrorKind::ALL`].
    pub errors: [u64; StoreErrorKind::ALL.len()],
    /// Those that were not made because the breaker was open.
    pub skipped: u64,
}

impl Calls {
    /// Adds what happened to another store of the same name.
    pub fn add(&mut self, other: &Self) {
        add(&mut self.latency.counts, &other.latency.counts);
        self.latency.nanos = self.latency.nanos.wrapping_add(other.latency.nanos);
        add(&mut self.errors, &other.errors);
        self.skipped += other.skipped;
    }
}

fn add(sums: &mut [u64], more: &[u64]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// A histogram of times with fixed bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many took at most each of [`Latency::BOUNDS`] and longer than the one before; the last is
    /// those that took longer than all of them.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// All of them together, in nanoseconds.
    pub nanos: u64,
}

impl Latency {
    /// The bounds in nanoseconds: from 100 µs, a server on the same host, to 1 s, a time-out.
    pub const BOUNDS: [u64; 12] = [
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        1_000_000_000,
    ];

    /// The place of a time among the counts.
    pub fn place(nanos: u64) -> usize {
        Self::BOUNDS.partition_point(|bound| *bound < nanos)
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_on_a_bound_is_within_it() {
        assert_eq!(Latency::place(0), 0);
        assert_eq!(Latency::place(100_000), 0);
        assert_eq!(Latency::place(100_001), 1);
        assert_eq!(Latency::place(1_000_000_000), 11);
        assert_eq!(Latency::place(u64::MAX), 12);
    }

    #[test]
    fn sums_of_two_stores_are_of_every_field() {
        let mut one = Calls { skipped: 1, ..Calls::default() };
        one.latency.counts[3] = 2;
        one.latency.nanos = 5;
        one.errors[6] = 7;
        let mut sum = one;
        sum.add(&one);
        assert_eq!((sum.skipped, sum.latency.count(), sum.latency.nanos, sum.errors[6]), (2, 4, 10, 14));
    }
}
