//! States as bytes, and what becomes of them when a policy changes.

use smallvec::SmallVec;

use crate::{Algorithm, Align, CalendarUnit, Limit, Log, Period, Policy, Rate, State, States, Timestamp, judge_one};

/// The first byte of what this version writes.
const VERSION: u8 = 1;

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
/// let saved = read_states(&write_states(&policy, &[state.clone()])).unwrap();
/// assert_eq!(saved[0], (policy.limits()[0].clone(), state));
/// # Ok::<(), tollway_core::ConfigError>(())
/// ```
pub fn write_states(policy: &Policy, states: &[State]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + states.len() * 34);
    bytes.push(VERSION);
    for (limit, state) in policy.limits().iter().zip(states) {
        write_limit(limit, &mut bytes);
        match state {
            State::Schedule { full_at, fraction } => {
                bytes.extend_from_slice(&full_at.to_le_bytes());
                bytes.extend_from_slice(&fraction.to_le_bytes());
            }
            State::Window { start, count } => {
                bytes.extend_from_slice(&start.to_le_bytes());
                bytes.extend_from_slice(&count.to_le_bytes());
            }
            State::Sliding { start, current, previous } => {
                bytes.extend_from_slice(&start.to_le_bytes());
                bytes.extend_from_slice(&current.to_le_bytes());
                bytes.extend_from_slice(&previous.to_le_bytes());
            }
            State::Log(log) => {
                bytes.extend_from_slice(&(log.entries().len() as u32).to_le_bytes());
                for (at, count) in log.entries() {
                    bytes.extend_from_slice(&at.to_le_bytes());
                    bytes.extend_from_slice(&count.to_le_bytes());
                }
            }
            State::Custom(own) => write_part(own, &mut bytes),
        }
    }
    bytes
}

/// What a limit was: its law, permits, capacity, and its period or calendar.
fn write_limit(limit: &Limit, bytes: &mut Vec<u8>) {
    bytes.push(kind(limit.algorithm()));
    bytes.extend_from_slice(&limit.permits().to_le_bytes());
    bytes.extend_from_slice(&limit.capacity().to_le_bytes());
    match limit.rate().period() {
        Period::Fixed(period) => bytes.extend_from_slice(&period.to_le_bytes()),
        Period::Calendar { unit, zone } => {
            bytes.push(*unit as u8);
            write_part(zone.as_deref().unwrap_or("").as_bytes(), bytes);
        }
    }
    if let Algorithm::Custom(custom) = limit.algorithm() {
        write_part(custom.get().name().as_bytes(), bytes);
    }
}

fn write_part(part: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
    bytes.extend_from_slice(part);
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
    let mut reader = Reader(rest);
    let mut saved = Saved::new();
    while !reader.0.is_empty() || saved.is_empty() {
        saved.push(reader.limit_and_state().ok_or(StateError::Malformed)?);
    }
    Ok(saved)
}

/// The states for `policy` of a key that has spent what `old` says.
///
/// A limit that stayed keeps its state; a new one takes the share spent of the one in its place, or
/// of the last. So a change of rate neither frees a caller nor locks one out.
pub fn carry_states(old: &[(&Limit, State)], policy: &Policy, now: Timestamp) -> States {
    let carry = |(index, limit): (usize, &Limit)| {
        if let Some((_, state)) = old.iter().find(|(known, _)| same_law(known, limit)) {
            return Some(state.clone());
        }
        let (known, state) = old.get(index).or(old.last())?;
        if (known.algorithm(), limit.algorithm()) == (Algorithm::Concurrency, Algorithm::Concurrency) {
            // What is held is held, and its holders will give it back.
            return Some(state.clone());
        }
        let left = judge_one(known, Some(state), now, 0).remaining;
        Some(limit.spent(known.capacity() - left, known.capacity(), now))
    };
    let fresh = |limit: &Limit| limit.spent(0, 1, now);
    policy.limits().iter().enumerate().map(|pair| carry(pair).unwrap_or_else(|| fresh(pair.1))).collect()
}

/// Whether a state of one means the same to the other.
fn same_law(one: &Limit, other: &Limit) -> bool {
    kind(one.algorithm()) == kind(other.algorithm())
        && one.permits() == other.permits()
        && one.rate().period() == other.rate().period()
        && one.capacity() == other.capacity()
        && match (one.algorithm(), other.algorithm()) {
            (Algorithm::Custom(one), Algorithm::Custom(other)) => one == other,
            _ => true,
        }
}

const CALENDAR: u8 = 6;
const CUSTOM: u8 = 7;

/// One law, one kind: GCRA and token bucket share theirs.
fn kind(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => 0,
        Algorithm::FixedWindow(Align::Clock) => 1,
        Algorithm::FixedWindow(Align::First) => 2,
        Algorithm::SlidingWindow => 3,
        Algorithm::SlidingLog => 4,
        Algorithm::Concurrency => 5,
        Algorithm::Calendar => CALENDAR,
        Algorithm::Custom(_) => CUSTOM,
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, width: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(width)?;
        self.0 = rest;
        Some(part)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|part| part[0])
    }

    fn short(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn part(&mut self) -> Option<&'a [u8]> {
        let width = self.short()?;
        self.take(width as usize)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.part()?).ok()
    }

    fn limit_and_state(&mut self) -> Option<(Limit, State)> {
        let (kind, permits, capacity) = (self.byte()?, self.short()?, self.short()?);
        let rate = if kind == CALENDAR {
            let unit = match self.byte()? {
                0 => CalendarUnit::Day,
                1 => CalendarUnit::Week,
                2 => CalendarUnit::Month,
                3 => CalendarUnit::Year,
                _ => return None,
            };
            let zone = Some(self.text()?).filter(|zone| !zone.is_empty());
            Rate::calendar(permits, unit, zone).ok()?
        } else {
            let period = self.long()?;
            match capacity.checked_sub(permits) {
                Some(burst) => Rate::new(permits, period, burst).ok()?,
                None => Rate::new(permits, period, capacity.checked_sub(1)?).ok()?.smooth(),
            }
        };
        let algorithm = match kind {
            0 => Algorithm::Gcra,
            1 => Algorithm::FixedWindow(Align::Clock),
            2 => Algorithm::FixedWindow(Align::First),
            3 => Algorithm::SlidingWindow,
            4 => Algorithm::SlidingLog,
            5 => Algorithm::Concurrency,
            CALENDAR => Algorithm::Calendar,
            CUSTOM => self.text()?.parse().ok()?,
            _ => return None,
        };
        let limit = Limit::new(rate, algorithm).ok()?;
        let state = match algorithm {
            Algorithm::Gcra => {
                let (full_at, fraction) = (self.long()?, self.short()?);
                (fraction < permits).then_some(State::Schedule { full_at, fraction })?
            }
            Algorithm::SlidingWindow => {
                State::Sliding { start: self.long()?, current: self.short()?, previous: self.short()? }
            }
            Algorithm::SlidingLog | Algorithm::Concurrency => State::Log(Box::new(self.log()?)),
            Algorithm::Custom(_) => State::Custom(self.part()?.into()),
            _ => State::Window { start: self.long()?, count: self.short()? },
        };
        Some((limit, state))
    }

    fn log(&mut self) -> Option<Log> {
        let count = self.short()?;
        let mut last = 0;
        let mut entry = || {
            let (at, permits) = (self.long()?, self.short()?);
            let sorted = at > last || last == 0;
            last = at;
            (sorted && permits > 0).then_some((at, permits))
        };
        (0..count).map(|_| entry()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decide_one;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn any_rates() -> impl Strategy<Value = (Algorithm, Rate)> {
        let permits = 1..=1_000_000_000_u32;
        (prop::sample::select(Algorithm::all().to_vec()), permits, 1..100_000_u64).prop_map(
            |(algorithm, permits, ms)| {
                let permits = permits % algorithm.most_permits() + 1;
                let rate = match algorithm {
                    Algorithm::Calendar => Rate::calendar(permits, CalendarUnit::Week, Some("America/New_York")),
                    _ => Rate::new(permits, ms * 1_000_000, 0),
                };
                (algorithm, rate.unwrap())
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back((algorithm, rate) in any_rates(), costs in prop::collection::vec(0..5_u32, 1..4)) {
            let policy = Policy::from_rates("p", vec![rate], algorithm).unwrap();
            let mut state = None;
            for (step, cost) in costs.into_iter().enumerate() {
                state = Some(decide_one(&policy.limits()[0], state, NOW.plus(step as u64), cost).1);
            }
            let state = state.unwrap();
            let saved = read_states(&write_states(&policy, std::slice::from_ref(&state))).unwrap();
            prop_assert!(same_law(&saved[0].0, &policy.limits()[0]));
            prop_assert_eq!(&saved[0].1, &state);
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
            (algorithm, rate) in any_rates(), places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in 0..4_usize, cost in any::<u32>()
        ) {
            // Real bytes with a few of them changed.
            let policy = Policy::from_rates("p", vec![rate], algorithm).unwrap();
            let (_, state) = decide_one(&policy.limits()[0], None, NOW, 1);
            let mut bytes = write_states(&policy, &[state]);
            for (place, value) in places {
                let place = place.index(bytes.len() - 1) + 1;
                bytes[place] = value;
            }
            bytes.truncate(bytes.len() - cut);
            if let Ok(saved) = read_states(&bytes) {
                for (limit, state) in saved {
                    let (verdict, next) = decide_one(&limit, Some(state), NOW, cost);
                    prop_assert!(verdict.remaining <= limit.capacity());
                    let _ = decide_one(&limit, Some(next), NOW, 1);
                }
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
