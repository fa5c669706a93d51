//! What lies in a shared segment, as numbers: whoever changes them changes its layout version too.

use portable_atomic::AtomicU128;
use tollway_core::{Algorithm, Align, Policy, Timestamp};

use super::ground::WAYS;
use super::heap::Heap;
use super::layout::Layout;
use super::level::Level;

/// A slot of a key that has spent two permits.
fn slot(rate: &str, algorithm: Algorithm) -> String {
    let layout = Layout::new(&Policy::new("p", rate, algorithm).unwrap().limits()[0]).unwrap();
    let (_, mark) = layout.decide(0, Timestamp::from_secs(1_700_000_000), 2);
    format!("{:032x}", layout.packing().word(0x1234_5678_9abc, mark, (mark >> layout.packing().step) + 3).unwrap())
}

/// When this fails, either the change was not meant, or `LAYOUT` in `shm/segment.rs` goes up by one.
#[test]
fn slots_and_places_are_those_of_layout_version_1() {
    let slots = [
        slot("5/m", Algorithm::Gcra),
        slot("7/s", Algorithm::TokenBucket),
        slot("100/h", Algorithm::FixedWindow(Align::Clock)),
        slot("100/h", Algorithm::FixedWindow(Align::First)),
        slot("100/h", Algorithm::SlidingWindow),
        slot("100/month", Algorithm::Calendar),
    ];
    let meant = [
        "17979d03ccacf0000006123456789abc",
        "2f2f39fc8e634edb4006123456789abc",
        "0000000007349e020006123456789abc",
        "5e5e73f8d8a800000806123456789abc",
        "00000007349e02000006123456789abc",
        "00000065419500020006123456789abc",
    ];
    assert_eq!(slots.each_ref().map(String::as_str), meant);
    let level = Level::new(Heap::<AtomicU128>::new(12_500));
    let homes = [1, 0x1234_5678_9abc, (1 << 48) - 1].map(|id| level.homes(id));
    assert_eq!(homes, [[0, 7_725], [888, 367], [12_499, 10_833]]);
    let ways: Vec<_> = level.ways(0x1234_5678_9abc).map(|(place, _)| (place / WAYS, place % WAYS)).collect();
    let line = |home, ways: std::ops::Range<usize>| ways.map(move |way| (home, way));
    let second_lines = line(888, 4..8).zip(line(367, 4..8)).flat_map(|(one, other)| [one, other]);
    assert_eq!(ways, line(888, 0..4).chain(line(367, 0..4)).chain(second_lines).collect::<Vec<_>>());
}
