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

use tollway_core::{Clock, State, Timestamp, Verdict};

use super::layout::{Layout, give_back};
use super::word::{FROZEN, ID, Word};

/// Slots in a bucket: two cache lines.
pub(crate) const WAYS: usize = 8;
/// In a floor: the bucket's keys have moved to the next level.
const MOVED: u128 = 1 << 127;

#[repr(C, align(128))]
pub(crate) struct Bucket<W>(pub(crate) [W; WAYS]);

/// Where the slots lie.
pub(crate) trait Ground {
    type Word: Word;
    fn buckets(&self) -> &[Bucket<Self::Word>];
    /// One for each bucket.
    fn floors(&self) -> &[Self::Word];
}

/// Slots of this process.
pub(crate) struct Heap<W> {
    buckets: Box<[Bucket<W>]>,
    floors: Box<[W]>,
}

impl<W: Word> Heap<W> {
    pub(crate) fn new(buckets: usize) -> Self {
        Self {
            buckets: (0..buckets).map(|_| Bucket(std::array::from_fn(|_| W::new(0)))).collect(),
            floors: (0..buckets).map(|_| W::new(0)).collect(),
        }
    }
}

impl<W: Word> Ground for Heap<W> {
    type Word = W;

    #[inline]
    fn buckets(&self) -> &[Bucket<W>] {
        &self.buckets
    }

    #[inline]
    fn floors(&self) -> &[W] {
        &self.floors
    }
}

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

    /// Whether time has gone on since it was read. A state from the future is another caller's newer
    /// time, unless the clock went back.
    fn was_stale(&mut self) -> bool {
        let now = self.clock.now();
        let newer = now > self.now;
        self.now = now.max(self.now);
        newer
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

enum Found {
    Here(usize, u128),
    /// Nowhere; the slot to take, and what is in it.
    Nowhere(usize, u128),
    Frozen,
}

pub(crate) struct Level<G> {
    ground: G,
}

impl<G: Ground> Level<G> {
    pub(crate) fn new(ground: G) -> Self {
        Self { ground }
    }

    pub(crate) fn buckets(&self) -> usize {
        self.ground.buckets().len()
    }

    /// Slots that belong to somebody.
    pub(crate) fn held(&self) -> usize {
        self.ground.buckets().iter().flat_map(|bucket| &bucket.0).filter(|slot| slot.load() & ID != 0).count()
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
        &self.ground.buckets()[place / WAYS].0[place % WAYS]
    }

    #[inline]
    fn find(&self, layout: &Layout, id: u64) -> Found {
        let packing = layout.packing();
        let mut least = (u128::MAX, 0, 0);
        for home in self.homes(id) {
            for (way, slot) in self.ways(home, id) {
                let word = slot.load();
                if word & FROZEN != 0 {
                    return Found::Frozen;
                }
                if word & ID == u128::from(id) {
                    return Found::Here(home * WAYS + way, word);
                }
                let order = packing.order(word);
                if order < least.0 {
                    least = (order, home * WAYS + way, word);
                }
            }
        }
        Found::Nowhere(least.1, least.2)
    }

    /// The slots of a bucket in the order a key prefers them: those of one cache line first.
    #[inline]
    fn ways(&self, bucket: usize, id: u64) -> impl Iterator<Item = (usize, &G::Word)> {
        let (slots, first) = (&self.ground.buckets()[bucket].0, id as usize % WAYS);
        (0..WAYS).map(move |turn| first ^ turn).map(move |way| (way, &slots[way]))
    }

    /// Charges a key that is there, where that is plain arithmetic and nobody is in the way.
    #[inline(always)]
    pub(crate) fn charge_plainly(&self, layout: &Layout, id: u64, cost: u32, now: Timestamp) -> Option<Verdict> {
        let packing = layout.packing();
        for home in self.homes(id) {
            for (_, slot) in self.ways(home, id) {
                let mut word = slot.load();
                while word & (ID | FROZEN) == u128::from(id) {
                    let mark = packing.mark(word);
                    let (verdict, next) = layout.decide_plainly(mark, now, cost)?;
                    if !verdict.allowed {
                        return (u128::from(next) >= mark).then_some(verdict);
                    }
                    let new = packing.word(id, u128::from(next), packing.order(word))?;
                    match slot.exchange(word, new) {
                        Ok(()) => return Some(verdict),
                        Err(current) => word = current,
                    }
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
        let packing = layout.packing();
        let mark = packing.mark(victim);
        if may_grow && !layout.is_idle(mark, moment.now) {
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
        let Some(new) = packing.word(id, next, packing.order(victim) + 1) else {
            return Ok(Some(no_room(layout, moment.now, cost)));
        };
        if victim & ID != 0 {
            self.raise(layout, place / WAYS, mark);
        }
        Ok(self.slot(place).exchange(victim, new).is_ok().then_some(charged))
    }

    /// What a newcomer has spent at least: what those had who were pushed out of its buckets.
    fn start(&self, layout: &Layout, id: u64, victim: u128, now: Timestamp) -> u128 {
        let left = if victim & ID == 0 { 0 } else { layout.packing().mark(victim) };
        let [one, two] = self.homes(id).map(|home| self.floor(home));
        [left, one, two].into_iter().filter(|mark| !layout.is_idle(*mark, now)).fold(0, |a, b| layout.join(a, b))
    }

    fn floor(&self, bucket: usize) -> u128 {
        self.ground.floors()[bucket].load() & !MOVED
    }

    fn raise(&self, layout: &Layout, bucket: usize, mark: u128) {
        let floor = &self.ground.floors()[bucket];
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
    pub(crate) fn refund(&self, layout: &Layout, id: u64, charged: State, cost: u32) -> Result<(), Blocked> {
        self.rewrite(layout, id, |mark| {
            let state = layout.state(mark).map(|state| give_back(layout.limit(), state, charged, cost));
            state.map_or(0, |state| layout.mark(state))
        })
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

    /// The buckets of a level `times` as large that the keys of `bucket` may move to.
    pub(crate) fn children(bucket: usize, times: usize) -> std::ops::Range<usize> {
        bucket * times..(bucket + 1) * times
    }

    /// Stops all change in a bucket and says what is in it.
    pub(crate) fn freeze(&self, bucket: usize) -> [u128; WAYS] {
        std::array::from_fn(|way| {
            let slot = &self.ground.buckets()[bucket].0[way];
            let mut word = slot.load();
            while word & FROZEN == 0 {
                match slot.exchange(word, word | FROZEN) {
                    Ok(()) => break,
                    Err(current) => word = current,
                }
            }
            word & !FROZEN
        })
    }

    /// Stops all change in a key's buckets and says what it has spent.
    pub(crate) fn take(&self, layout: &Layout, id: u64, now: Timestamp) -> Option<State> {
        let homes = self.homes(id);
        let words = homes.map(|home| self.freeze(home));
        let kept = words.into_iter().flatten().find(|word| word & ID == u128::from(id));
        layout.state(kept.map_or_else(|| self.start(layout, id, 0, now), |word| layout.packing().mark(word)))
    }

    /// Wipes a key from its buckets, which change no more.
    pub(crate) fn wipe(&self, id: u64) {
        for home in self.homes(id) {
            self.freeze(home);
            for slot in &self.ground.buckets()[home].0 {
                let word = slot.load();
                if word & ID == u128::from(id) {
                    let _ = slot.exchange(word, FROZEN);
                }
            }
        }
    }

    pub(crate) fn has_moved(&self, bucket: usize) -> bool {
        self.ground.floors()[bucket].load() & MOVED != 0
    }

    /// Marks a bucket as moved; true for the first caller.
    pub(crate) fn set_moved(&self, bucket: usize) -> bool {
        let floor = &self.ground.floors()[bucket];
        let mut old = floor.load();
        while old & MOVED == 0 {
            match floor.exchange(old, old | MOVED) {
                Ok(()) => return true,
                Err(current) => old = current,
            }
        }
        false
    }

    /// Brings the keys of a bucket, and its floor, to the next level.
    pub(crate) fn move_bucket(
        &self,
        layout: &Layout,
        bucket: usize,
        next: &Self,
        now: Timestamp,
    ) -> Result<(), Blocked> {
        let packing = layout.packing();
        let words = self.freeze(bucket);
        let mut floor = self.floor(bucket);
        for word in words.into_iter().filter(|word| word & ID != 0) {
            let mark = packing.mark(word);
            if layout.is_idle(mark, now) {
                // For callers whose time is a little older than ours.
                floor = layout.join(floor, mark);
            }
        }
        if floor != 0 {
            Self::children(bucket, next.buckets() / self.buckets()).for_each(|child| next.raise(layout, child, floor));
        }
        for word in words.into_iter().filter(|word| word & ID != 0) {
            let mark = packing.mark(word);
            if !layout.is_idle(mark, now) {
                next.settle(layout, (word & ID) as u64, mark, now)?;
            }
        }
        Ok(())
    }

    /// Puts a key that moves in its place, unless it is there already.
    fn settle(&self, layout: &Layout, id: u64, mark: u128, now: Timestamp) -> Result<(), Blocked> {
        let packing = layout.packing();
        loop {
            let (place, victim) = match self.find(layout, id) {
                Found::Frozen => return Err(Blocked::Frozen),
                Found::Here(..) => return Ok(()),
                Found::Nowhere(place, victim) => (place, victim),
            };
            // It may have been here and been pushed out since: the floors know.
            let start = layout.join(mark, self.start(layout, id, victim, now));
            let new = packing.word(id, start, packing.order(victim) + 1);
            if victim & ID != 0 {
                self.raise(layout, place / WAYS, packing.mark(victim));
            }
            match new {
                Some(new) => {
                    if self.slot(place).exchange(victim, new).is_ok() {
                        return Ok(());
                    }
                }
                None => {
                    self.homes(id).into_iter().for_each(|home| self.raise(layout, home, start));
                    return Ok(());
                }
            }
        }
    }
}

/// The answer where every slot is held far into the future: only after a clock was set back.
fn no_room(layout: &Layout, now: Timestamp, cost: u32) -> Charged {
    let limit = layout.limit();
    let whole = layout.mark(limit.spent(limit.capacity(), limit.capacity(), now));
    let (verdict, after) = layout.decide(whole, now, cost.max(1));
    Charged { verdict, before: whole, after }
}
