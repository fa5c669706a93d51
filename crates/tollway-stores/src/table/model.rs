//! The lock-free steps under a scheduler that tries interleavings of every read and exchange.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;
use tollway_core::{Algorithm, Change, ManualClock, Policy, Timestamp};

use super::growing::{Room, Table};
use super::heap::Heap;
use super::layout::Layout;
use super::level::{Level, Moment};
use super::word::{ID, Word};

/// A word whose every access is a point at which others may go first.
#[derive(Default)]
struct Watched(Mutex<u128>);

impl Word for Watched {
    fn load(&self) -> u128 {
        *self.0.lock().unwrap()
    }

    fn exchange(&self, old: u128, new: u128) -> Result<(), u128> {
        let mut word = self.0.lock().unwrap();
        if *word != old {
            return Err(*word);
        }
        *word = new;
        Ok(())
    }
}

type Slots = Level<Heap<Watched>>;

/// Interleavings tried of each kind; set `TABLE_ROUNDS` for a long run.
fn rounds() -> usize {
    std::env::var("TABLE_ROUNDS").map_or(250, |rounds| rounds.parse().expect("a number"))
}

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

fn layout(rate: &str) -> Layout {
    Layout::new(&Policy::new("p", rate, Algorithm::Gcra).unwrap().limits()[0]).unwrap()
}

/// Fills a level of one bucket but for `free` slots with keys that have spent one permit each.
fn filled(layout: &Layout, clock: &ManualClock, free: usize) -> Slots {
    let level = Slots::new(Heap::new(1));
    for id in 100..108 - free as u64 {
        assert!(charge(&level, layout, clock, id));
    }
    level
}

fn charge(level: &Slots, layout: &Layout, clock: &ManualClock, id: u64) -> bool {
    let mut moment = Moment::new(clock, NOW);
    level.charge(layout, id, 1, &mut moment, false).expect("nothing is frozen").verdict.allowed
}

/// Runs `turns` (a list of keys to charge) on one thread each; how many passed for key 1.
fn race(level: Slots, layout: &Layout, clock: &Arc<ManualClock>, turns: &[&[u64]]) -> (Arc<Slots>, usize) {
    let level = Arc::new(level);
    let threads: Vec<_> = (turns.iter())
        .map(|keys| {
            let (level, layout, clock, keys) = (level.clone(), layout.clone(), clock.clone(), keys.to_vec());
            thread::spawn(move || keys.iter().filter(|id| charge(&level, &layout, &clock, **id) && **id == 1).count())
        })
        .collect();
    let passed = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    (level, passed)
}

fn copies(level: &Slots, id: u64) -> usize {
    level.freeze(0).into_iter().filter(|word| word & ID == u128::from(id)).count()
}

/// A fingerprint as a hash would make it.
fn id(number: u64) -> u64 {
    number.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 16
}

fn explore(test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let random = test.clone();
    shuttle::check_random(move || random(), rounds());
    shuttle::check_pct(move || test(), rounds(), 3);
}

#[test]
fn racing_inserts_of_one_key_share_a_slot() {
    explore(|| {
        let (layout, clock) = (layout("2/h"), Arc::new(ManualClock::new(NOW)));
        let (level, passed) = race(filled(&layout, &clock, 3), &layout, &clock, &[&[1, 1], &[1, 1], &[2]]);
        assert_eq!(copies(&level, 1), 1);
        assert_eq!(passed, 2);
    });
}

#[test]
fn a_key_that_is_pushed_out_comes_back_no_richer() {
    explore(|| {
        let (layout, clock) = (layout("3/h"), Arc::new(ManualClock::new(NOW)));
        let turns: [&[u64]; 3] = [&[1, 1, 1], &[1, 2, 1], &[3, 4, 1, 1]];
        let (level, passed) = race(filled(&layout, &clock, 1), &layout, &clock, &turns);
        assert!(copies(&level, 1) <= 1);
        assert!(passed <= 3, "{passed}");
    });
}

#[test]
fn a_refused_key_is_not_what_is_pushed_out() {
    explore(|| {
        let (layout, clock) = (layout("2/h"), Arc::new(ManualClock::new(NOW)));
        let level = filled(&layout, &clock, 2);
        while charge(&level, &layout, &clock, 1) {}
        let (level, passed) = race(level, &layout, &clock, &[&[1, 2], &[3, 1], &[4]]);
        assert_eq!((copies(&level, 1), passed), (1, 0));
    });
}

#[test]
fn a_reset_while_others_insert_makes_no_second_copy() {
    explore(|| {
        let (layout, clock) = (layout("2/h"), Arc::new(ManualClock::new(NOW)));
        let level = Arc::new(filled(&layout, &clock, 0));
        let resetter = {
            let (level, layout) = (level.clone(), layout.clone());
            thread::spawn(move || (103..106).for_each(|id| level.reset(&layout, id, NOW).unwrap()))
        };
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let (level, layout, clock) = (level.clone(), layout.clone(), clock.clone());
                thread::spawn(move || (0..2).filter(|_| charge(&level, &layout, &clock, 1)).count())
            })
            .collect();
        let passed: usize = callers.into_iter().map(|thread| thread.join().unwrap()).sum();
        resetter.join().unwrap();
        assert!(copies(&level, 1) <= 1 && passed <= 2, "{passed} passed");
    });
}

#[test]
fn what_is_adjusted_while_others_insert_is_counted_once() {
    explore(|| {
        let (layout, clock) = (layout("9/h"), Arc::new(ManualClock::new(NOW)));
        let level = Arc::new(filled(&layout, &clock, 1));
        let adjusters: Vec<_> = [2, -1]
            .map(|delta| {
                let (level, layout, clock) = (level.clone(), layout.clone(), clock.clone());
                thread::spawn(move || {
                    let mut moment = Moment::new(&*clock, NOW);
                    assert!(charge(&level, &layout, &clock, 1));
                    level.adjust(&layout, 1, Change::by(delta), &mut moment, false).unwrap();
                })
            })
            .into();
        let other = {
            let (level, layout, clock) = (level.clone(), layout.clone(), clock.clone());
            thread::spawn(move || charge(&level, &layout, &clock, 2))
        };
        adjusters.into_iter().for_each(|thread| thread.join().unwrap());
        other.join().unwrap();
        assert!(copies(&level, 1) <= 1);
        let state = level.take(&layout, 1, NOW);
        let left = tollway_core::decide_one(layout.limit(), state, NOW, 0).0.remaining;
        // Three were spent; who was pushed out comes back with somebody's share on top.
        assert!(left <= 6, "{left}");
    });
}

#[test]
fn a_table_that_grows_meanwhile_counts_every_charge_once() {
    explore(|| {
        let clock = Arc::new(ManualClock::new(NOW));
        let room = Arc::new(Room::new(1_000));
        let table = Arc::new(Table::<Watched>::new(layout("3/h"), 64, &room));
        // Two buckets to begin with, full or nearly so: a newcomer makes the table grow.
        for number in 100..116 {
            table.charge(id(number), 1, &mut Moment::new(&*clock, NOW), &room).unwrap();
        }
        let threads: Vec<_> = (0..3_u64)
            .map(|thread| {
                let (table, room, clock) = (table.clone(), room.clone(), clock.clone());
                thread::spawn(move || {
                    let asked = [1, 101, 2 + thread, 101, 1].map(id);
                    let charge =
                        |id: &u64| table.charge(*id, 1, &mut Moment::new(&*clock, NOW), &room).unwrap().verdict.allowed;
                    let passed = asked.map(|id| charge(&id));
                    (usize::from(passed[0]) + usize::from(passed[4]), usize::from(passed[1]) + usize::from(passed[3]))
                })
            })
            .collect();
        let passed: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(passed.iter().map(|passed| passed.0).sum::<usize>(), 3);
        assert_eq!(passed.iter().map(|passed| passed.1).sum::<usize>(), 2, "one permit was spent before");
    });
}

#[test]
fn a_key_taken_out_of_a_closed_table_leaves_no_charge_behind() {
    explore(|| {
        let clock = Arc::new(ManualClock::new(NOW));
        let room = Arc::new(Room::new(1_000));
        let table = Arc::new(Table::<Watched>::new(layout("9/h"), 16, &room));
        let charger = {
            let (table, room, clock) = (table.clone(), room.clone(), clock.clone());
            thread::spawn(move || {
                let charge = |_: &i32| table.charge(1, 1, &mut Moment::new(&*clock, NOW), &room).is_ok();
                (0..4).take_while(charge).count()
            })
        };
        table.close(NOW);
        let taken = table.take(1, NOW);
        let charged = charger.join().unwrap();
        let limit = table.layout().limit();
        let left = tollway_core::decide_one(limit, taken, NOW, 0).0.remaining;
        assert_eq!(left as usize, 9 - charged);
    });
}
