use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tollway_core::{Clock, Timestamp};

/// How long the processor's counter is believed before it is compared with the system's clock again.
const BELIEVED: u64 = 50_000_000;
/// A comparison that took longer than this says too little.
const QUICK: u64 = 5_000;
const TRIES: usize = 16;

/// The wall clock read once, then a monotonic clock: steps of the wall change nothing.
///
/// Between two looks at the system's monotonic clock, 50 ms apart while it is used, it reads the
/// processor's counter, which costs half as much. A counter that runs a little fast or slow is
/// therefore off by microseconds, and one that jumps is believed for 50 ms at most. Where a look
/// finds the counter ahead, time goes back by as much.
#[derive(Debug)]
pub struct SystemClock {
    wall: u64,
    start: Instant,
    counter: quanta::Clock,
    counted: u64,
    /// What to add to the counter's nanoseconds, and until which of them.
    offset: AtomicU64,
    until: AtomicU64,
}

impl SystemClock {
    /// A clock that starts at the wall's time now. The first one of a process takes some
    /// milliseconds, to find out how fast the counter runs.
    pub fn new() -> Self {
        let counter = quanta::Clock::new();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let (start, counted) = (Instant::now(), counter.raw());
        let clock = Self { wall, start, counter, counted, offset: AtomicU64::new(wall), until: AtomicU64::new(0) };
        clock.look();
        clock
    }

    /// The counter in nanoseconds since this clock began.
    #[inline]
    fn since(&self) -> u64 {
        self.counter.delta_as_nanos(self.counted, self.counter.raw())
    }

    /// The time by the system's clock, which the counter follows from here.
    #[cold]
    fn look(&self) -> u64 {
        let mut nanos = 0;
        for _ in 0..TRIES {
            let before = self.since();
            nanos = self.wall + self.start.elapsed().as_nanos() as u64;
            let after = self.since();
            // Somebody else may have had the processor in between.
            if after.saturating_sub(before) < QUICK {
                self.offset.store(nanos.wrapping_sub(after), Ordering::Relaxed);
                self.until.store(after + BELIEVED, Ordering::Relaxed);
                break;
            }
        }
        nanos
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Timestamp {
        let since = self.since();
        Timestamp::from_nanos(if since < self.until.load(Ordering::Relaxed) {
            self.offset.load(Ordering::Relaxed).wrapping_add(since)
        } else {
            self.look()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: u64 = 1_000_000;

    #[test]
    fn it_keeps_the_time_of_the_system() {
        let clock = SystemClock::new();
        let start = Instant::now();
        let elapsed = || start.elapsed().as_nanos() as u64;
        let first = clock.now();
        let late = elapsed();
        while elapsed() < 300_000_000 {
            let before = elapsed();
            let since = clock.now().since(first);
            let after = elapsed();
            assert!(since + late + SLACK >= before, "{since} ns of at least {before}");
            assert!(since <= after + SLACK, "{since} ns of at most {after}");
        }
    }
}
