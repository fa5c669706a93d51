//! States as bytes, and what becomes of them when a policy changes.

use smallvec::SmallVec;

use crate::{Algorithm, Align, Limit, Policy, Rate, State, States, Timestamp, decide_one};

/// The first byte of what this version writes.
const VERSION: u8 = 1;
/// Bytes of one limit: kind, permits, period, capacity, three numbers.
const WIDTH: usize = 1 + 4 + 8 + 4 + 8 + 4 + 4;

/// Why bytes are not a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// Another version wrote them.
    Version {
        /// The version found.
        found: u8,
        /// The version this build reads.
        known: u8,
    },
    /// Something else did.
    Malformed,
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version { found, known } => {
                write!(f, "state of version {found}, and this build reads version {known}")
            }
            Self::Malformed => f.write_str("bytes that are no state"),
        }
    }
}

impl std::error::Error for StateError {}

/// What was saved: each limit as it was then, with its state.
pub type Saved = SmallVec<[(Limit, State); 2]>;

/// The bytes of a policy's states: a version, then for each limit what it was and what it holds.
///
/// ```
/// use tollway_core::{Algorithm, Policy, Timestamp, decide_one, read_states, write_states};
///
/// let policy = Policy::new("login", "5/m", Algorithm::Gcra)?;
/// let (_, state) = decide_one(&policy.limits()[0], None, Timestamp::from_secs(100), 1);
/// let saved = read_states(&write_states(&policy, &[state])).unwrap();
/// assert_eq!(saved[0], (policy.limits()[0].clone(), state));
/// # Ok::<(), tollway_core::ConfigError>(())
/// ```
pub fn write_states(policy: &Policy, states: &[State]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + states.len() * WIDTH);
    bytes.push(VERSION);
    for (limit, state) in policy.limits().iter().zip(states) {
        let (a, b, c) = match *state {
            State::Schedule { full_at, fraction } => (full_at, fraction, 0),
            State::Window { start, count } => (start, count, 0),
            State::Sliding { start, current, previous } => (start, current, previous),
        };
        bytes.push(kind(limit.algorithm()));
        bytes.extend_from_slice(&limit.permits().to_le_bytes());
        bytes.extend_from_slice(&limit.period().to_le_bytes());
        bytes.extend_from_slice(&limit.capacity().to_le_bytes());
        bytes.extend_from_slice(&a.to_le_bytes());
        bytes.extend_from_slice(&b.to_le_bytes());
        bytes.extend_from_slice(&c.to_le_bytes());
    }
    bytes
}

/// Reads what [`write_states`] wrote.
///
/// # Errors
/// When another version, or somebody else, wrote it.
pub fn read_states(bytes: &[u8]) -> Result<Saved, StateError> {
    let (version, rest) = bytes.split_first().ok_or(StateError::Malformed)?;
    if *version != VERSION {
        return Err(StateError::Version { found: *version, known: VERSION });
    }
    if rest.is_empty() || !rest.len().is_multiple_of(WIDTH) {
        return Err(StateError::Malformed);
    }
    rest.chunks_exact(WIDTH).map(|chunk| read_one(chunk).ok_or(StateError::Malformed)).collect()
}

/// The states for `policy` of a key that has spent what `old` says.
///
/// A limit that stayed keeps its state; a new one takes the share spent of the one in its place, or
/// of the last. So a change of rate neither frees a caller nor locks one out.
pub fn carry_states(old: &[(&Limit, State)], policy: &Policy, now: Timestamp) -> States {
    let carry = |(index, limit): (usize, &Limit)| {
        if let Some((_, state)) = old.iter().find(|(known, _)| same_law(known, limit)) {
            return Some(*state);
        }
        let (known, state) = old.get(index).or(old.last())?;
        let left = decide_one(known, Some(*state), now, 0).0.remaining;
        Some(limit.spent(known.capacity() - left, known.capacity(), now))
    };
    let fresh = |limit: &Limit| limit.spent(0, 1, now);
    policy.limits().iter().enumerate().map(|pair| carry(pair).unwrap_or_else(|| fresh(pair.1))).collect()
}

/// Whether a state of one means the same to the other.
fn same_law(one: &Limit, other: &Limit) -> bool {
    kind(one.algorithm()) == kind(other.algorithm())
        && one.permits() == other.permits()
        && one.period() == other.period()
        && one.capacity() == other.capacity()
}

/// One law, one kind: GCRA and token bucket share theirs.
fn kind(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => 0,
        Algorithm::FixedWindow(Align::Clock) => 1,
        Algorithm::FixedWindow(Align::First) => 2,
        Algorithm::SlidingWindow => 3,
    }
}

fn read_one(bytes: &[u8]) -> Option<(Limit, State)> {
    let (kind, rest) = bytes.split_first()?;
    let mut at = 0;
    let mut number = |width: usize| {
        let mut word = [0; 8];
        word[..width].copy_from_slice(rest.get(at..at + width)?);
        at += width;
        Some(u64::from_le_bytes(word))
    };
    let (permits, period, capacity) = (number(4)? as u32, number(8)?, number(4)? as u32);
    let (a, b, c) = (number(8)?, number(4)? as u32, number(4)? as u32);
    let (algorithm, state) = match kind {
        0 => (Algorithm::Gcra, State::Schedule { full_at: a, fraction: b }),
        1 => (Algorithm::FixedWindow(Align::Clock), State::Window { start: a, count: b }),
        2 => (Algorithm::FixedWindow(Align::First), State::Window { start: a, count: b }),
        3 => (Algorithm::SlidingWindow, State::Sliding { start: a, current: b, previous: c }),
        _ => return None,
    };
    if matches!(state, State::Schedule { fraction, .. } if fraction >= permits) {
        return None;
    }
    let rate = match capacity.checked_sub(permits) {
        Some(burst) => Rate::new(permits, period, burst).ok()?,
        None => Rate::new(permits, period, capacity.checked_sub(1)?).ok()?.smooth(),
    };
    Some((Limit::new(rate, algorithm).ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            algorithm in prop::sample::select(Algorithm::all().to_vec()), permits in 1..=1_000_000_000_u32,
            ms in 1..100_000_u64, cost in 0..5_u32
        ) {
            let rate = Rate::new(permits, ms * 1_000_000, 0).unwrap();
            let policy = Policy::from_rates("p", vec![rate], algorithm).unwrap();
            let (_, state) = decide_one(&policy.limits()[0], None, NOW, cost.min(permits));
            let saved = read_states(&write_states(&policy, &[state])).unwrap();
            prop_assert!(same_law(&saved[0].0, &policy.limits()[0]));
            prop_assert_eq!(saved[0].1, state);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(saved) = read_states(&bytes) {
                for (limit, state) in saved {
                    let _ = decide_one(&limit, Some(state), NOW, 1);
                }
            }
        }

        #[test]
        fn nearly_states_do_not_panic(
            kind in 0..5_u8, permits in any::<u32>(), period in any::<u64>(), capacity in any::<u32>(),
            a in any::<u64>(), b in any::<u32>(), c in any::<u32>(), cost in any::<u32>()
        ) {
            let mut bytes = vec![1, kind];
            bytes.extend(permits.to_le_bytes());
            bytes.extend((period % 1_000_000 * 1_000_000).to_le_bytes());
            bytes.extend(capacity.to_le_bytes());
            bytes.extend(a.to_le_bytes());
            bytes.extend(b.to_le_bytes());
            bytes.extend(c.to_le_bytes());
            if let Ok(saved) = read_states(&bytes) {
                let (verdict, next) = decide_one(&saved[0].0, Some(saved[0].1), NOW, cost);
                prop_assert!(verdict.remaining <= saved[0].0.capacity());
                let _ = decide_one(&saved[0].0, Some(next), NOW, 1);
            }
        }
    }

    #[test]
    fn another_version_is_named() {
        let error = read_states(&[9, 0, 0]).unwrap_err();
        assert_eq!(error.to_string(), "state of version 9, and this build reads version 1");
        assert_eq!(read_states(&[]), Err(StateError::Malformed));
        assert_eq!(read_states(&[1]), Err(StateError::Malformed));
        assert_eq!(read_states(&[1, 2, 3]), Err(StateError::Malformed));
    }
}
