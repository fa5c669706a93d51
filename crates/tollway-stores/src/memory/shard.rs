//! One part of the map, under one lock.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use smallvec::SmallVec;
use tollway_core::{
    Change, Charge, Decision, Limit, Part, Policy, State, Timestamp, adjust, carry_states, decide, judge_one,
};

use crate::table::{Applied, give_back};

/// How many places a full shard looks at to find one to give away.
const SEARCH: usize = 64;

/// The states of one key, in the order of its policy's limits.
pub(super) type Kept = SmallVec<[State; 1]>;

#[derive(Debug)]
struct Entry {
    hash: u128,
    policy: Arc<Policy>,
    states: Kept,
    /// When nothing is spent any more: from then on the entry is as good as absent.
    whole_at: Timestamp,
    /// Until when its key is being refused.
    refused_until: Timestamp,
}

/// The hash is already random: use its low half as it is.
#[derive(Debug, Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

/// Entries in a list, found by hash; a hand goes round the list when room is needed.
#[derive(Debug)]
pub(super) struct Shard {
    room: usize,
    places: HashMap<u128, u32, BuildHasherDefault<Same>>,
    entries: Vec<Entry>,
    hand: usize,
}

impl Shard {
    pub(super) fn new(room: usize) -> Self {
        Self { room, places: HashMap::default(), entries: Vec::new(), hand: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Charges a key. A peek changes nothing; with `record` the answer holds the states.
    pub(super) fn apply(
        &mut self,
        hash: u128,
        charge: &Charge<'_>,
        now: Timestamp,
        peek: bool,
        record: bool,
    ) -> Applied<Option<Kept>, Kept> {
        let place = self.places.get(&hash).map(|place| *place as usize);
        let same = place.is_some_and(|place| Arc::ptr_eq(&self.entries[place].policy, charge.policy));
        let known = place.map(|place| match same && !peek {
            // Taken out and put back, so that a long log is never copied.
            true => std::mem::take(&mut self.entries[place].states),
            false => carry(&self.entries[place], charge.policy, now),
        });
        let before = if record { known.clone() } else { None };
        let mut parts: SmallVec<[Part<'_>; 2]> = parts(charge, known, 0).collect();
        let (decision, states) = decide(&mut parts, now);
        drop(parts);
        let states: Kept = states.into_iter().collect();
        let after = if record { states.clone() } else { Kept::new() };
        if !peek {
            match place {
                Some(place) if same => self.entries[place].update(states, &decision, now),
                _ => self.put(hash, charge.policy, states, &decision, now),
            }
        }
        Applied { decision, before, after }
    }

    pub(super) fn holds(&self, hash: u128) -> bool {
        self.places.contains_key(&hash)
    }

    /// Takes over what a key has spent elsewhere.
    pub(super) fn adopt(&mut self, hash: u128, policy: &Arc<Policy>, state: State, now: Timestamp) {
        let place = self.place(hash, policy, now);
        self.entries[place].keep(Kept::from_iter([state]), Timestamp::default(), now);
    }

    /// Hands back `cost` of what came to the states `charged`.
    pub(super) fn refund(&mut self, hash: u128, policy: &Policy, charged: &[State], cost: u32, now: Timestamp) {
        let Some(place) = self.places.get(&hash) else { return };
        let entry = &mut self.entries[*place as usize];
        if *entry.policy == *policy {
            let states: Kept = (policy.limits().iter().zip(&entry.states).zip(charged))
                .map(|((limit, state), charged)| give_back(limit, state.clone(), charged, cost))
                .collect();
            entry.keep(states, Timestamp::default(), now);
        }
    }

    /// Charges or gives back without asking; answers how the key stands then.
    pub(super) fn adjust(&mut self, hash: u128, policy: &Arc<Policy>, change: Change, now: Timestamp) -> Decision {
        let known = self.states(hash, policy, now);
        let mut parts: SmallVec<[Part<'_>; 2]> = parts(&Charge { policy, key: "", cost: 0 }, known, 0).collect();
        let (decision, states) = adjust(&mut parts, now, change);
        drop(parts);
        self.put(hash, policy, states.into_iter().collect(), &decision, now);
        decision
    }

    /// The states of a key, brought over to `policy` when it changed. `None` when nothing is known.
    pub(super) fn states(&self, hash: u128, policy: &Arc<Policy>, now: Timestamp) -> Option<Kept> {
        self.places.get(&hash).map(|place| carry(&self.entries[*place as usize], policy, now))
    }

    fn put(&mut self, hash: u128, policy: &Arc<Policy>, states: Kept, decision: &Decision, now: Timestamp) {
        let place = match self.places.get(&hash) {
            Some(place) => *place as usize,
            // A refused newcomer has spent nothing: there is nothing to remember.
            None if !decision.allowed && !policy.notes_arrivals() => return,
            None => self.place(hash, policy, now),
        };
        let entry = &mut self.entries[place];
        entry.policy = Arc::clone(policy);
        entry.update(states, decision, now);
    }

    pub(super) fn remove(&mut self, hash: u128) {
        if let Some(place) = self.places.remove(&hash) {
            self.entries.swap_remove(place as usize);
            if let Some(moved) = self.entries.get(place as usize) {
                self.places.insert(moved.hash, place);
            }
        }
    }

    /// A place for a new key: a fresh one while there is room, else somebody's.
    fn place(&mut self, hash: u128, policy: &Arc<Policy>, now: Timestamp) -> usize {
        let entry = Entry {
            hash,
            policy: Arc::clone(policy),
            states: Kept::new(),
            whole_at: Timestamp::default(),
            refused_until: Entry::NEW,
        };
        let place = if self.entries.len() < self.room {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let place = self.victim(now);
            self.places.remove(&self.entries[place].hash);
            self.entries[place] = entry;
            place
        };
        self.places.insert(hash, place as u32);
        place
    }

    /// Whose place to take: one with nothing spent costs nobody anything; then the one who loses
    /// least, and somebody who is being refused last of all.
    fn victim(&mut self, now: Timestamp) -> usize {
        let mut best = (true, Timestamp::from_nanos(u64::MAX), self.hand % self.entries.len());
        for _ in 0..SEARCH.min(self.entries.len()) {
            self.hand = (self.hand + 1) % self.entries.len();
            let entry = &self.entries[self.hand];
            if entry.whole_at <= now {
                return self.hand;
            }
            best = best.min((entry.refused_until > now, entry.whole_at, self.hand));
        }
        best.2
    }
}

impl Entry {
    /// Stands for a time of refusal in an entry that has no states yet.
    const NEW: Timestamp = Timestamp::from_nanos(u64::MAX);

    fn update(&mut self, states: Kept, decision: &Decision, now: Timestamp) {
        let refused = !decision.allowed && self.refused_until != Self::NEW;
        self.keep(states, if refused { now.plus(decision.retry_after) } else { Timestamp::default() }, now);
    }

    fn keep(&mut self, states: Kept, refused_until: Timestamp, now: Timestamp) {
        self.refused_until = refused_until;
        self.states = states;
        let lasts = |(limit, state): (&Limit, &State)| match limit.bucket().initial {
            // Full is not the same as absent where a bucket does not begin full.
            Some(_) => limit.lifetime(),
            None => judge_one(limit, Some(state), now, 0).reset_after,
        };
        let lasts = self.policy.limits().iter().zip(&self.states).map(lasts).max();
        self.whole_at = now.plus(lasts.unwrap_or(0));
    }
}

/// A charge's limits with what is known of its key.
pub(super) fn parts<'a>(
    charge: &Charge<'a>,
    states: Option<Kept>,
    number: u16,
) -> impl Iterator<Item = Part<'a>> + use<'a> {
    let cost = charge.cost;
    let known = states.is_some();
    let mut states = states.into_iter().flatten();
    charge.policy.limits().iter().enumerate().map(move |(index, limit)| Part {
        limit,
        state: if known { states.next() } else { None },
        cost,
        charge: number,
        index: index as u16,
    })
}

/// An entry's states for `policy`: as they are, or the same share of the new limits.
fn carry(entry: &Entry, policy: &Arc<Policy>, now: Timestamp) -> Kept {
    if Arc::ptr_eq(&entry.policy, policy) || entry.policy == *policy {
        return entry.states.clone();
    }
    let old: SmallVec<[_; 2]> = entry.policy.limits().iter().zip(entry.states.iter().cloned()).collect();
    carry_states(&old, policy, now).into_iter().collect()
}
