//! Counts of checks by policy and outcome, added to by many threads for a few nanoseconds each.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ahash::RandomState;
use tollway_core::{Decision, Mode, Reason};

/// The most names that are counted apart; what comes later is counted as [`OTHER`].
pub(super) const NAMES: usize = 256;
/// Twice the names, so that a look finds its name or an empty place after few steps.
const PLACES: usize = 2 * NAMES;
/// Threads beyond that share a count, and its cache line.
const STRIPES: usize = 8;
/// The name of policies beyond [`NAMES`].
const OTHER: &str = "other";

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Allowed,
    /// It was refused.
    Refused,
    /// A limit in shadow mode would have let it pass.
    ShadowAllowed,
    /// A limit in shadow mode would have refused it.
    ShadowRefused,
    /// The store did not answer, and the fail mode let it pass.
    DegradedAllowed,
    /// The store did not answer, and the fallback refused it.
    DegradedRefused,
    /// An access list turned the client away.
    Denied,
    /// Nothing was counted: an access list, a skip or an override says so.
    Exempt,
    /// The store did not answer, and the caller was given its error.
    Failed,
}

impl Outcome {
    /// Every outcome there is, in the order of their discriminants.
    pub const ALL: [Self; 9] = [
        Self::Allowed,
        Self::Refused,
        Self::ShadowAllowed,
        Self::ShadowRefused,
        Self::DegradedAllowed,
        Self::DegradedRefused,
        Self::Denied,
        Self::Exempt,
        Self::Failed,
    ];

    /// The word for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::ShadowAllowed => "shadow_allowed",
            Self::ShadowRefused => "shadow_refused",
            Self::DegradedAllowed => "degraded_allowed",
            Self::DegradedRefused => "degraded_refused",
            Self::Denied => "denied",
            Self::Exempt => "exempt",
            Self::Failed => "failed",
        }
    }

    /// The outcome that a decision is.
    pub fn of(decision: &Decision) -> Self {
        match (decision.mode, decision.reason) {
            (Mode::Shadow, Reason::Allowed) => Self::ShadowAllowed,
            (Mode::Shadow, _) => Self::ShadowRefused,
            (_, Reason::Denied) => Self::Denied,
            (_, Reason::Exempt) => Self::Exempt,
            _ => match (decision.degraded, decision.allowed) {
                (false, true) => Self::Allowed,
                (false, false) => Self::Refused,
                (true, true) => Self::DegradedAllowed,
                (true, false) => Self::DegradedRefused,
            },
        }
    }

    /// Whether one limit of the request said no, and the others were not charged.
    pub(super) fn is_refusal(self) -> bool {
        matches!(self, Self::Refused | Self::ShadowRefused | Self::DegradedRefused)
    }
}

/// One thread's share of a policy's counts, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Stripe([AtomicU64; Outcome::ALL.len()]);

#[derive(Default)]
struct Stripes([Stripe; STRIPES]);

impl Stripes {
    fn sums(&self) -> [u64; Outcome::ALL.len()] {
        let mut sums = [0_u64; Outcome::ALL.len()];
        for stripe in &self.0 {
            sums.iter_mut().zip(&stripe.0).for_each(|(sum, count)| *sum += count.load(Ordering::Relaxed));
        }
        sums
    }

    fn clear(&self) {
        self.0.iter().flat_map(|stripe| &stripe.0).for_each(|count| count.store(0, Ordering::Relaxed));
    }
}

struct Named {
    name: Box<str>,
    stripes: Stripes,
}

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

/// A table by name that is only ever added to, so that it is read without a lock.
pub(super) struct Counts {
    hasher: RandomState,
    places: Box<[OnceLock<Box<Named>>]>,
    names: AtomicUsize,
    other: Stripes,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            places: (0..PLACES).map(|_| OnceLock::new()).collect(),
            names: AtomicUsize::new(0),
            other: Stripes::default(),
        }
    }
}

impl Counts {
    /// Counts one more.
    pub(super) fn add(&self, name: &str, outcome: Outcome) {
        let stripe = &self.find(name).0[STRIPE.with(|stripe| *stripe)];
        stripe.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn find(&self, name: &str) -> &Stripes {
        let mut place = self.hasher.hash_one(name) as usize % PLACES;
        loop {
            match self.places[place].get() {
                Some(named) if *named.name == *name => return &named.stripes,
                Some(_) => place = (place + 1) % PLACES,
                None if self.take_name() => {
                    let named = Named { name: name.into(), stripes: Stripes::default() };
                    // Another thread may have put a name there meanwhile: then look again.
                    if self.places[place].set(Box::new(named)).is_err() {
                        self.names.fetch_sub(1, Ordering::Relaxed);
                    }
                }
                None => return &self.other,
            }
        }
    }

    /// Takes one of the names that are left. There are fewer than places, so a look always ends.
    fn take_name(&self) -> bool {
        let more = |names| (names < NAMES).then_some(names + 1);
        self.names.try_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// What was counted under each name, in the order of the names.
    pub(super) fn read(&self) -> Vec<(String, [u64; Outcome::ALL.len()])> {
        let named = self.places.iter().filter_map(OnceLock::get);
        let mut read: Vec<_> = named.map(|named| (named.name.to_string(), named.stripes.sums())).collect();
        let other = self.other.sums();
        if other.iter().any(|count| *count > 0) {
            match read.iter_mut().find(|(name, _)| name == OTHER) {
                Some((_, sums)) => sums.iter_mut().zip(other).for_each(|(sum, more)| *sum += more),
                None => read.push((OTHER.to_owned(), other)),
            }
        }
        read.sort_unstable();
        read
    }

    /// Begins at nothing again.
    pub(super) fn clear(&self) {
        self.places.iter().filter_map(OnceLock::get).for_each(|named| named.stripes.clear());
        self.other.clear();
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts").field("names", &self.names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_count_exactly() {
        let counts = Counts::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * STRIPES {
                scope.spawn(|| {
                    for number in 0..1_000 {
                        counts.add(["login", "search"][number % 2], Outcome::ALL[number % Outcome::ALL.len()]);
                    }
                });
            }
        });
        let read = counts.read();
        assert_eq!(read.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["login", "search"]);
        assert_eq!(read.iter().flat_map(|(_, sums)| sums).sum::<u64>(), 2 * STRIPES as u64 * 1_000);
    }

    #[test]
    fn names_beyond_the_bound_are_counted_together() {
        let counts = Counts::default();
        for number in 0..NAMES + 10 {
            counts.add(&format!("p{number}"), Outcome::Allowed);
            counts.add(&format!("p{number}"), Outcome::Refused);
        }
        let read = counts.read();
        assert_eq!(read.len(), NAMES + 1);
        let (name, sums) = &read[0];
        assert_eq!((name.as_str(), sums[0], sums[1]), (OTHER, 10, 10));
    }

    #[test]
    fn a_policy_called_other_is_counted_with_the_rest() {
        let counts = Counts::default();
        counts.add(OTHER, Outcome::Allowed);
        for number in 0..NAMES {
            counts.add(&format!("p{number}"), Outcome::Allowed);
        }
        let read = counts.read();
        assert_eq!((read.len(), read[0].1[0]), (NAMES, 2));
    }

    #[test]
    fn outcomes_stand_at_their_places() {
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
        }
    }
}
