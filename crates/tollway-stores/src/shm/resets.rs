//! Prefixes that were reset, as all processes see them.
//!
//! Resets are numbered. An entry has the number of its prefix's last reset and of the one before;
//! a reset counts once the segment's news say that its number has been reached. So whoever dies in
//! the middle has done nothing that one process sees and another does not.

use std::sync::{PoisonError, RwLock};

use portable_atomic::Ordering;

use super::directory::write;
use super::segment::{NEWS, RESET, RESETS, Segment};
use crate::prefixes::Prefixes;

/// Bytes of a prefix that an entry has room for.
const LONGEST: usize = (RESET - 2) * tollway_mapping::WORD;

/// What this process has read of them.
#[derive(Debug, Default)]
pub(super) struct Resets(RwLock<(u64, Prefixes)>);

impl Resets {
    /// What to mix into the hash of a key: nothing until there was a reset.
    #[inline(always)]
    pub(super) fn mix(&self, segment: &Segment, policy: impl FnOnce() -> u64, key: &str) -> u64 {
        let reached = segment.word(NEWS).load(Ordering::Relaxed) as u64;
        if reached == 0 { 0 } else { self.look(segment, policy(), key) }
    }

    #[cold]
    fn look(&self, segment: &Segment, policy: u64, key: &str) -> u64 {
        let reached = segment.load(NEWS) as u64;
        {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if known.0 == reached {
                return known.1.mix(policy, key.as_bytes());
            }
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.0 < reached {
            *known = read(segment);
        }
        known.1.mix(policy, key.as_bytes())
    }
}

/// All resets that count, and the number they reach to.
fn read(segment: &Segment) -> (u64, Prefixes) {
    'again: loop {
        let reached = segment.load(NEWS) as u64;
        let mut prefixes = Prefixes::default();
        for number in 0..RESETS {
            let place = segment.shape.reset(number);
            let numbers = segment.load(place);
            if numbers == 0 {
                break;
            }
            let (last, before) = (numbers as u64, (numbers >> 64) as u64);
            let counts = if last <= reached { last } else { before };
            if counts > reached {
                continue 'again;
            }
            if counts > 0 {
                let (policy, prefix) = entry(segment, place);
                prefixes.set(policy, &prefix, counts);
            }
        }
        return (reached, prefixes);
    }
}

fn entry(segment: &Segment, place: usize) -> (u64, Vec<u8>) {
    let named = segment.load(place + 1);
    let bytes = (2..RESET).flat_map(|word| segment.load(place + word).to_le_bytes());
    ((named >> 64) as u64, bytes.take(named as usize & 0xFF).collect())
}

/// Resets a prefix. Under the segment's lock.
pub(super) fn add(segment: &Segment, policy: u64, prefix: &str) -> Result<(), String> {
    let prefix = prefix.as_bytes();
    if prefix.len() > LONGEST {
        return Err(format!("a prefix of {} bytes is longer than the {LONGEST} there is room for", prefix.len()));
    }
    let news = segment.load(NEWS);
    let reached = news as u64;
    let place = |number: usize| segment.shape.reset(number);
    let is_it = |number: &usize| {
        let place = place(*number);
        segment.load(place) == 0 || entry(segment, place) == (policy, prefix.to_vec())
    };
    let Some(number) = (0..RESETS).find(is_it) else {
        return Err(format!(
            "{RESETS} prefixes have been reset, and there is room for no more: reset single keys, or stop all processes \
             and remove {}",
            segment.path.display()
        ));
    };
    let place = place(number);
    let numbers = segment.load(place);
    if numbers == 0 {
        write(segment, place + 2, prefix);
        segment.store(place + 1, u128::from(policy) << 64 | prefix.len() as u128);
    }
    // One that did not count, because somebody died, is overwritten.
    let (last, before) = (numbers as u64, (numbers >> 64) as u64);
    let before = if last <= reached { last } else { before };
    segment.store(place, u128::from(before) << 64 | u128::from(reached + 1));
    segment.store(NEWS, news + 1);
    Ok(())
}
