//! A table that grows while it is used.
//!
//! It begins with few buckets and gets four times as many whenever a newcomer finds only live keys
//! in its slots, up to its bound; at the bound it pushes keys out. Nobody waits for a move: a caller
//! that meets slots being moved moves its own key's two buckets, and a few others, and goes on in
//! the next level. Levels left behind stay allocated, a third of the last one in all, so that no
//! reader ever has to announce itself.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use portable_atomic::AtomicU128;
use tollway_core::{Change, State, Timestamp, Verdict};

use super::ground::WAYS;
use super::heap::Heap;
use super::layout::Layout;
use super::level::{Blocked, Charged, Level, Moment};
use super::word::Word;

/// How many times larger the next level is.
const GROWTH: usize = 4;
/// A table begins with at most this many buckets. Unit tests see it grow sooner.
const FIRST_BUCKETS: usize = if cfg!(test) { 4 } else { 64 };
/// Buckets a caller moves besides its own.
const HELP: usize = 8;
const LEVELS: usize = 16;

/// The slots that the tables of one store may have together.
#[derive(Debug)]
pub(crate) struct Room {
    most: usize,
    taken: AtomicUsize,
}

impl Room {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, taken: AtomicUsize::new(0) }
    }

    /// Makes room for a table that grows from some slots to more. A small table may always grow, to a
    /// sixteenth of the whole, so that a flood on one policy leaves the others their part.
    fn grow(&self, from: usize, to: usize) -> bool {
        let more = to - from;
        let fits = |taken: usize| (taken + more <= self.most || to <= self.most / 16).then_some(taken + more);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }
}

/// The table has been closed: its keys are kept elsewhere now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

pub(crate) struct Table<W = AtomicU128> {
    layout: Layout,
    levels: [OnceLock<Level<Heap<W>>>; LEVELS],
    /// The level to begin at: those before have been left.
    current: AtomicUsize,
    /// Buckets of the current level that have moved, and the next one to move.
    moved: [AtomicUsize; LEVELS],
    cursors: [AtomicUsize; LEVELS],
    largest: usize,
    /// No level is added once it is closed.
    closing: Mutex<()>,
    closed: AtomicBool,
}

impl<W: Word + Default> Table<W> {
    /// A table of at most `most` slots (at least 16).
    pub(crate) fn new(layout: Layout, most: usize, room: &Room) -> Self {
        let largest = (most / WAYS).max(2);
        let mut first = largest;
        while first > FIRST_BUCKETS {
            first /= GROWTH;
        }
        let table = Self {
            layout,
            levels: std::array::from_fn(|_| OnceLock::new()),
            current: AtomicUsize::new(0),
            moved: std::array::from_fn(|_| AtomicUsize::new(0)),
            cursors: std::array::from_fn(|_| AtomicUsize::new(0)),
            largest,
            closing: Mutex::new(()),
            closed: AtomicBool::new(false),
        };
        room.taken.fetch_add(first * WAYS, Ordering::AcqRel);
        // Nobody else has the table yet.
        let _ = table.levels[0].set(Level::new(Heap::new(first)));
        table
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Slots that belong to a key. Reads them all.
    pub(crate) fn held(&self) -> usize {
        let current = self.current.load(Ordering::Acquire);
        self.levels[current..].iter().map_while(OnceLock::get).map(|level| level.ground.held()).max().unwrap_or(0)
    }

    #[inline]
    fn level(&self, index: usize) -> Option<&Level<Heap<W>>> {
        self.levels.get(index)?.get()
    }

    /// Runs `step` on the level that holds the key, growing and moving as it takes.
    #[inline]
    fn run<T>(
        &self,
        id: u64,
        room: &Room,
        now: Timestamp,
        mut step: impl FnMut(&Level<Heap<W>>, bool) -> Result<T, Blocked>,
    ) -> Result<T, Closed> {
        let mut index = self.current.load(Ordering::Acquire);
        let mut may_grow = true;
        loop {
            let level = self.level(index).expect("the current level and those reached from it exist");
            may_grow = may_grow && index + 1 < LEVELS && level.buckets() * GROWTH <= self.largest;
            match step(level, may_grow) {
                Ok(done) => return Ok(done),
                Err(Blocked::Frozen) if self.level(index + 1).is_none() => return Err(Closed),
                Err(Blocked::Crowded) if !self.grow(index, room, now)? => may_grow = false,
                Err(_) => {
                    self.help(index, id, now);
                    index += 1;
                }
            }
        }
    }

    /// Adds the next level if there is none. False when there is no room for it.
    #[cold]
    fn grow(&self, index: usize, room: &Room, now: Timestamp) -> Result<bool, Closed> {
        if self.level(index + 1).is_some() {
            return Ok(true);
        }
        let _growing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) {
            return Err(Closed);
        }
        if self.level(index + 1).is_some() {
            return Ok(true);
        }
        self.catch_up(index, now);
        let buckets = self.level(index).map_or(0, Level::buckets);
        if !room.grow(buckets * WAYS, buckets * GROWTH * WAYS) {
            return Ok(false);
        }
        Ok(self.levels[index + 1].set(Level::new(Heap::new(buckets * GROWTH))).is_ok())
    }

    /// Moves the buckets of `id` from one level to the next, and a few others.
    #[cold]
    fn help(&self, index: usize, id: u64, now: Timestamp) {
        let Some(level) = self.level(index) else { return };
        for bucket in level.homes(id) {
            self.move_bucket(index, bucket, now);
        }
        let from = self.cursors[index].fetch_add(HELP, Ordering::Relaxed);
        for bucket in from..(from + HELP).min(level.buckets()) {
            self.move_bucket(index, bucket, now);
        }
        if self.moved[index].load(Ordering::Acquire) >= level.buckets() {
            self.current.fetch_max(index + 1, Ordering::AcqRel);
        }
    }

    fn move_bucket(&self, index: usize, bucket: usize, now: Timestamp) {
        let (Some(level), Some(next)) = (self.level(index), self.level(index + 1)) else { return };
        // Where the next level is frozen itself, this one has long been moved by others.
        let moved = level.has_moved(bucket) || level.move_bucket(&self.layout, bucket, next, now).is_err();
        if !moved && level.set_moved(bucket) {
            self.moved[index].fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Leaves all levels before `index` behind.
    fn catch_up(&self, index: usize, now: Timestamp) {
        for before in self.current.load(Ordering::Acquire)..index {
            let buckets = self.level(before).map_or(0, Level::buckets);
            (0..buckets).for_each(|bucket| self.move_bucket(before, bucket, now));
            self.current.fetch_max(before + 1, Ordering::AcqRel);
        }
    }

    /// What a charge to this key would start from.
    pub(crate) fn look(&self, id: u64, now: Timestamp, room: &Room) -> Result<Option<State>, Closed> {
        self.run(id, room, now, |level, may_grow| level.look(&self.layout, id, now, may_grow))
    }

    /// Charges a key the short way. `None` where that does not do, and nothing has happened.
    #[inline(always)]
    pub(crate) fn charge_plainly(&self, id: u64, cost: u32, now: Timestamp) -> Option<Verdict> {
        self.level(self.current.load(Ordering::Acquire))?.charge_plainly(&self.layout, id, cost, now)
    }

    /// Charges `cost` to a key if it fits.
    pub(crate) fn charge(&self, id: u64, cost: u32, moment: &mut Moment<'_>, room: &Room) -> Result<Charged, Closed> {
        let now = moment.now;
        self.run(id, room, now, |level, may_grow| level.charge(&self.layout, id, cost, moment, may_grow))
    }

    /// Hands back `cost` of what came to the state `charged`.
    pub(crate) fn refund(
        &self,
        id: u64,
        charged: &State,
        cost: u32,
        now: Timestamp,
        room: &Room,
    ) -> Result<(), Closed> {
        self.run(id, room, now, |level, _| level.refund(&self.layout, id, charged, cost))
    }

    /// Charges or gives back without asking; the key's state then.
    pub(crate) fn adjust(
        &self,
        id: u64,
        change: Change,
        moment: &mut Moment<'_>,
        room: &Room,
    ) -> Result<Option<State>, Closed> {
        let now = moment.now;
        let adjusted =
            self.run(id, room, now, |level, may_grow| level.adjust(&self.layout, id, change, moment, may_grow));
        adjusted.map(|mark| self.layout.state(mark))
    }

    /// Forgets what a key has spent.
    pub(crate) fn reset(&self, id: u64, now: Timestamp, room: &Room) -> Result<(), Closed> {
        self.run(id, room, now, |level, _| level.reset(&self.layout, id, now))
    }

    /// Ends the table's life: from now on keys are only taken out of it.
    pub(crate) fn close(&self, now: Timestamp) {
        let _closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Release);
        self.catch_up(self.last(), now);
    }

    fn last(&self) -> usize {
        self.levels.iter().take_while(|level| level.get().is_some()).count() - 1
    }

    /// What a key had spent when the table was closed. Its slots change no more after that.
    pub(crate) fn take(&self, id: u64, now: Timestamp) -> Option<State> {
        let level = self.level(self.last())?;
        level.take(&self.layout, id, now)
    }

    /// Wipes a key from a closed table.
    pub(crate) fn wipe(&self, id: u64) {
        if let Some(level) = self.level(self.last()) {
            level.wipe(id);
        }
    }
}
