//! Slots in buckets: how a key is found, charged, let in and pushed out without a lock.
//!
//! A key may stand in any slot of two buckets that its fingerprint names. **At most one slot holds
//! it**, although callers insert without a lock, because of three rules:
//! 1. a slot's order never gets smaller, and gets larger whenever the slot changes hands;
//! 2. a caller that finds a key nowhere takes the slot of least (order, place) among all it read,
//!    and only if that slot is still as it was read;
//! 3. the places are ranked the same for everybody who looks for the same key.
//!
//! Two callers that insert one key must want the same slot: had they wanted `s` and `t`, each would
//! have read the other's slot as the larger one, before it was taken and after, and orders only grow.
//!
//! A key that is pushed out while it has something spent leaves that behind in its bucket's *floor*.
//! Whoever comes in starts no better than the floors of both buckets, so nobody comes back richer:
//! under pressure newcomers are refused too early, never anybody too late.

use tollway_core::{Change, Clock, State, Timestamp, Verdict};

use super::ground::{Ground, WAYS};
use super::layout::{Layout, give_back};
use super::word::{FROZEN, ID, Word};

/// In a floor: the bucket's keys have moved to the next level.
pub(super) const MOVED: u128 = 1 << 127;

/// The time of one operation, and where to ask again when it may be stale.
pub(crate) struct Moment<'a> {
    clock: &'a dyn Clock,
    pub(crate) now: Timestamp,
}

impl<'a> Moment<'a> {
    #[inline]
    pub(crate) fn new(clock: &'a dyn Clock, now: Timestamp) -> Self {
        Self { clock, now }
    }

    /// The time again: not before anything that was written by now.
    fn again(&mut self) -> Timestamp {
        self.now = self.clock.now().max(self.now);
        self.now
    }

    /// Whether time has gone on since it was read. A state from the future is another caller's newer
    /// time, unless the clock went back.
    fn was_stale(&mut self) -> bool {
        let before = self.now;
        self.again() > before
    }
}

/// What a charge came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Charged {
    pub(crate) verdict: Verdict,
    /// The key's mark before, and after.
    pub(crate) before: u128,
    pub(crate) after: u128,
}

/// Why a level could not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// The key's slots are moving, or have moved.
    Frozen,
    /// Only live keys in its slots, and the caller would rather grow.
    Crowded,
}

pub(super) enum Found {
    Here(usize, u128),
    /// Nowhere; the slot to take, and what is in it.
    Nowhere(usize, u128),
    Frozen,
}

pub(crate) struct Level<G> {
    pub(super) ground: G,
}

impl<G: Ground> Level<G> {
    pub(crate) fn new(ground: G) -> Self {
        Self { ground }
    }

    pub(crate) fn buckets(&self) -> usize {
        self.ground.buckets()
    }

    /// The two buckets of a fingerprint. When a level is a multiple of another, the buckets of a key
    /// in it are among the multiples of its old ones: see [`Level::children`].
    #[inline]
    pub(crate) fn homes(&self, id: u64) -> [usize; 2] {
        let scale = |hash: u64| (((hash >> 32) * self.buckets() as u64) >> 32) as usize;
        [scale(id << 16), scale(id.wrapping_mul(0x9E37_79B9_7F4A_7C15))]
    }

    #[inline]
    fn slot(&self, place: usize) -> &G::Word {
        &self.ground.bucket(place / WAYS)[place % WAYS]
    }

    #[inline]
    pub(super) fn find(&self, layout: &Layout, id: u64) -> Found {
        let packing = layout.packing();
        let mut least = (u128::MAX, 0, 0);
        for (place, slot) in self.ways(id) {
            let word = slot.load();
            if word & FROZEN != 0 {
                return Found::Frozen;
            }
            if word & ID == u128::from(id) {
                return Found::Here(place, word);
            }
            let order = packing.order(word);
            if order < least.0 {
                least = (order, place, word);
            }
        }
        Found::Nowhere(least.1, least.2)
    }

    /// The slots of a key's two buckets in the order in which it looks and newcomers take them: the
    /// first line of each, and then whichever bucket is less full. So hardly anybody is pushed out
    /// before three quarters of all slots are taken. The order must be the same for all who look for a
    /// key: two who let it in at once then meet at one slot.
    #[inline(always)]
    pub(super) fn ways(&self, id: u64) -> impl Iterator<Item = (usize, &G::Word)> {
        const LINE: usize = WAYS / 2;
        let homes = self.homes(id);
        let buckets = homes.map(|home| self.ground.bucket(home));
        (0..2 * WAYS).map(move |turn| {
            let (home, way) = if turn < WAYS { (turn / LINE, turn % LINE) } else { (turn % 2, turn / 2) };
            (homes[home] * WAYS + way, &buckets[home][way])
        })
    }

    /// Charges a key that is there, where that is plain arithmetic and nobody is in the way.
    #[inline(always)]
    pub(crate) fn charge_plainly(&self, layout: &Layout, id: u64, cost: u32, now: Timestamp) -> Option<Verdict> {
        for (_, slot) in self.ways(id) {
            let mut word = slot.load();
            while word & (ID | FROZEN) == u128::from(id) {
                // Where it is plain arithmetic, the mark is the upper half.
                let mark = (word >> 64) as u64;
                let (verdict, next) = layout.decide_plainly(mark, now, cost)?;
                if !verdict.allowed || next < mark {
                    return (next >= mark).then_some(verdict);
                }
                let new = if word as u64 == id {
                    u128::from(next) << 64 | u128::from(id)
                } else {
                    let packing = layout.packing();
                    packing.word(id, u128::from(next), packing.order(word))?
                };
                match slot.exchange(word, new) {
                    Ok(()) => return Some(verdict),
                    Err(current) => word = current,
                }
            }
        }
        None
    }

    /// Charges `cost`, or says why not. With `may_grow`, a newcomer among live keys is `Crowded`.
    #[inline]
    pub(crate) fn charge(
        &self,
        layout: &Layout,
        id: u64,
        cost: u32,
        moment: &mut Moment<'_>,
        may_grow: bool,
    ) -> Result<Charged, Blocked> {
        loop {
            let done = match self.find(layout, id) {
                Found::Frozen => return Err(Blocked::Frozen),
                Found::Here(place, word) => self.update(layout, (place, word), cost, moment)?,
                Found::Nowhere(place, word) => self.insert(layout, id, (place, word), cost, moment, may_grow)?,
            };
            if let Some(charged) = done {
                return Ok(charged);
            }
        }
    }

    /// Charges a key where it stands. `None` when it is there no longer.
    #[inline]
    fn update(
        &self,
        layout: &Layout,
        (place, mut word): (usize, u128),
        cost: u32,
        moment: &mut Moment<'_>,
    ) -> Result<Option<Charged>, Blocked> {
        let (packing, id) = (layout.packing(), word & ID);
        loop {
            if word & FROZEN != 0 {
                return Err(Blocked::Frozen);
            }
            if word & ID != id {
                return Ok(None);
            }
            let mark = packing.mark(word);
            let (verdict, next) = layout.decide(mark, moment.now, cost);
            let charged = Charged { verdict, before: mark, after: next };
            // A refusal is written only where it takes a state back from the future.
            if next == mark || (next > mark && !verdict.allowed) {
                return Ok(Some(charged));
            }
            if next < mark && moment.was_stale() {
                continue;
            }
            match packing.word(id as u64, next, packing.order(word)) {
                Some(new) => match self.slot(place).exchange(word, new) {
                    Ok(()) => return Ok(Some(charged)),
                    Err(current) => word = current,
                },
                // Far back in time: the floor takes it over.
                None => return Ok(self.leave(layout, (place, word), next).then_some(charged)),
            }
        }
    }

    /// Lets a key in. `None` when somebody was faster.
    #[cold]
    fn insert(
        &self,
        layout: &Layout,
        id: u64,
        (place, victim): (usize, u128),
        cost: u32,
        moment: &mut Moment<'_>,
        may_grow: bool,
    ) -> Result<Option<Charged>, Blocked> {
        if may_grow && !layout.is_idle(layout.packing().mark(victim), moment.now) {
            return Err(Blocked::Crowded);
        }
        let start = self.start(layout, id, victim, moment.now);
        let (verdict, next) = layout.decide(start, moment.now, cost);
        let charged = Charged { verdict, before: start, after: next };
        if next < start && moment.was_stale() {
            return Ok(None);
        }
        // A newcomer that has spent nothing is nothing to remember.
        if !verdict.allowed || layout.is_idle(next, moment.now) {
            return Ok(Some(charged));
        }
        Ok(match self.enter(layout, id, (place, victim), next) {
            Some(true) => Some(charged),
            Some(false) => None,
            None => Some(no_room(layout, moment.now, cost)),
        })
    }

    /// Puts a key in the slot of a victim, who leaves behind what it had spent. Whether nobody was
    /// faster; `None` when the slot is held too far into the future.
    fn enter(&self, layout: &Layout, id: u64, (place, victim): (usize, u128), mark: u128) -> Option<bool> {
        let packing = layout.packing();
        let new = packing.word(id, mark, packing.order(victim) + 1)?;
        if victim & ID != 0 {
            self.raise(layout, place / WAYS, packing.mark(victim));
        }
        Some(self.slot(place).exchange(victim, new).is_ok())
    }

    /// The same for what must not be lost: where no slot can have it, the floors do.
    pub(super) fn keep(&self, layout: &Layout, id: u64, found: (usize, u128), mark: u128) -> bool {
        self.enter(layout, id, found, mark).unwrap_or_else(|| {
            self.homes(id).into_iter().for_each(|home| self.raise(layout, home, mark));
            true
        })
    }

    /// Puts a key that moves in its place, unless it is there already.
    pub(crate) fn settle(&self, layout: &Layout, id: u64, mark: u128, now: Timestamp) -> Result<(), Blocked> {
        loop {
            let (place, victim) = match self.find(layout, id) {
                Found::Frozen => return Err(Blocked::Frozen),
                Found::Here(..) => return Ok(()),
                Found::Nowhere(place, victim) => (place, victim),
            };
            // It may have been here and been pushed out since: the floors know.
            let start = layout.join(mark, self.start(layout, id, victim, now));
            if self.keep(layout, id, (place, victim), start) {
                return Ok(());
            }
        }
    }

    /// What a newcomer has spent at least: what those had who were pushed out of its buckets.
    pub(super) fn start(&self, layout: &Layout, id: u64, victim: u128, now: Timestamp) -> u128 {
        let left = if victim & ID == 0 { 0 } else { layout.packing().mark(victim) };
        let [one, two] = self.homes(id).map(|home| self.floor(home));
        [left, one, two].into_iter().filter(|mark| !layout.is_idle(*mark, now)).fold(0, |a, b| layout.join(a, b))
    }

    pub(super) fn floor(&self, bucket: usize) -> u128 {
        self.ground.floor(bucket).load() & !MOVED
    }

    pub(super) fn raise(&self, layout: &Layout, bucket: usize, mark: u128) {
        let floor = self.ground.floor(bucket);
        let mut old = floor.load();
        loop {
            let joined = layout.join(old & !MOVED, mark);
            if joined == old & !MOVED {
                return;
            }
            match floor.exchange(old, joined | old & MOVED) {
                Ok(()) => return,
                Err(current) => old = current,
            }
        }
    }

    /// Gives a slot up, leaving `mark` behind.
    fn leave(&self, layout: &Layout, (place, word): (usize, u128), mark: u128) -> bool {
        self.raise(layout, place / WAYS, mark);
        self.slot(place).exchange(word, layout.packing().vacated(word)).is_ok()
    }

    /// What a charge would start from.
    pub(crate) fn look(
        &self,
        layout: &Layout,
        id: u64,
        now: Timestamp,
        may_grow: bool,
    ) -> Result<Option<State>, Blocked> {
        match self.find(layout, id) {
            Found::Frozen => Err(Blocked::Frozen),
            Found::Here(_, word) => Ok(layout.state(layout.packing().mark(word))),
            Found::Nowhere(_, victim) => {
                let grows = may_grow && !layout.is_idle(layout.packing().mark(victim), now);
                Ok(layout.state(self.start(layout, id, if grows { 0 } else { victim }, now)))
            }
        }
    }

    /// Hands back `cost` of what came to the state `charged`.
    pub(crate) fn refund(&self, layout: &Layout, id: u64, charged: &State, cost: u32) -> Result<(), Blocked> {
        self.rewrite(layout, id, |mark| {
            let state = layout.state(mark).map(|state| give_back(layout.limit(), state, charged, cost));
            state.map_or(0, |state| layout.mark(&state))
        })
    }

    /// Charges or gives back without asking; the key's mark then.
    pub(crate) fn adjust(
        &self,
        layout: &Layout,
        id: u64,
        change: Change,
        moment: &mut Moment<'_>,
        may_grow: bool,
    ) -> Result<u128, Blocked> {
        let packing = layout.packing();
        loop {
            let found = self.find(layout, id);
            let now = moment.again();
            let (next, done) = match found {
                Found::Frozen => return Err(Blocked::Frozen),
                Found::Here(place, word) => {
                    let mark = packing.mark(word);
                    let next = layout.adjust(mark, now, change);
                    if layout.is_idle(mark, now) && layout.is_idle(next, now) {
                        return Ok(next);
                    }
                    let done = match packing.word(id, next, packing.order(word)) {
                        Some(new) => self.slot(place).exchange(word, new).is_ok(),
                        None => self.leave(layout, (place, word), next),
                    };
                    (next, done)
                }
                Found::Nowhere(_, victim) if may_grow && !layout.is_idle(packing.mark(victim), now) => {
                    return Err(Blocked::Crowded);
                }
                Found::Nowhere(place, victim) => {
                    let next = layout.adjust(self.start(layout, id, victim, now), now, change);
                    (next, layout.is_idle(next, now) || self.keep(layout, id, (place, victim), next))
                }
            };
            if done {
                return Ok(next);
            }
        }
    }

    /// Forgets what a key has spent.
    pub(crate) fn reset(&self, layout: &Layout, id: u64, now: Timestamp) -> Result<(), Blocked> {
        self.rewrite(layout, id, |mark| mark.min(layout.unspent(now)))
    }

    /// Puts another mark on a key that is there.
    fn rewrite(&self, layout: &Layout, id: u64, next: impl Fn(u128) -> u128) -> Result<(), Blocked> {
        let packing = layout.packing();
        loop {
            let (place, word) = match self.find(layout, id) {
                Found::Frozen => return Err(Blocked::Frozen),
                Found::Nowhere(..) => return Ok(()),
                Found::Here(place, word) => (place, word),
            };
            let next = next(packing.mark(word));
            let done = match packing.word(id, next, packing.order(word)) {
                Some(new) => self.slot(place).exchange(word, new).is_ok(),
                None => self.leave(layout, (place, word), next),
            };
            if done {
                return Ok(());
            }
        }
    }
}

/// The answer where every slot is held far into the future: only after a clock was set back.
fn no_room(layout: &Layout, now: Timestamp, cost: u32) -> Charged {
    let limit = layout.limit();
    let whole = layout.mark(&limit.spent(limit.capacity(), limit.capacity(), now));
    let (verdict, after) = layout.decide(whole, now, cost.max(1));
    Charged { verdict, before: whole, after }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use portable_atomic::AtomicU128;
    use tollway_core::{Algorithm, ManualClock, Policy};

    use super::super::heap::Heap;
    use super::*;

    #[test]
    fn nobody_is_pushed_out_of_a_level_before_two_thirds_are_taken() {
        let layout = Layout::new(&Policy::new("p", "2/h", Algorithm::Gcra).unwrap().limits()[0]).unwrap();
        let clock = ManualClock::new(Timestamp::from_secs(1_700_000_000));
        let level = Level::new(Heap::<AtomicU128>::new(12_288));
        let keys = 12_288 * WAYS as u64 * 2 / 3;
        for number in 0..keys {
            // Spread as a hash spreads keys, and in the same way each time.
            let id = (number + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 16;
            let id = (id ^ id >> 23).wrapping_mul(0x2127_599B_F432_5C37) >> 16;
            let charged = level.charge(&layout, id, 1, &mut Moment::new(&clock, clock.now()), false).unwrap();
            assert_eq!(charged.before, 0, "key {number} of {keys} begins with what another has spent");
        }
        assert_eq!(level.ground.held() as u64, keys);
    }
}
