use std::time::{Instant, SystemTime, UNIX_EPOCH};

use portable_atomic::{AtomicU128, Ordering};
use tollway_core::{Clock, Timestamp};

/// How long the processor's counter is believed before it is set by the system's clock again.
const BELIEVED: u64 = 50_000_000;

/// The wall clock read once, then a monotonic clock: steps of the wall change nothing.
///
/// Between two looks at the system's monotonic clock, at most 50 ms apart while it is used, it reads
/// the processor's counter, which costs half as much. A counter that runs a little fast or slow is
/// therefore off by less than a microsecond, and one that jumps by 50 ms at most.
#[derive(Debug)]
pub struct SystemClock {
    wall: u64,
    start: Instant,
    counter: quanta::Clock,
    /// The counter and the nanoseconds since the epoch, read together.
    anchor: AtomicU128,
}

impl SystemClock {
    /// A clock that starts at the wall's time now. The first one of a process takes a few
    /// milliseconds, to find out how fast the counter runs.
    pub fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let (start, counter) = (Instant::now(), quanta::Clock::new());
        let anchor = AtomicU128::new(pair(counter.raw(), wall + start.elapsed().as_nanos() as u64));
        Self { wall, start, counter, anchor }
    }

    #[cold]
    fn look(&self, old: u128) -> u64 {
        let counted = self.counter.raw();
        let nanos = self.wall + self.start.elapsed().as_nanos() as u64;
        // Whoever looked in the meantime did no worse.
        let _ = self.anchor.compare_exchange(old, pair(counted, nanos), Ordering::AcqRel, Ordering::Acquire);
        nanos
    }
}

fn pair(counted: u64, nanos: u64) -> u128 {
    u128::from(counted) << 64 | u128::from(nanos)
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Timestamp {
        let anchor = self.anchor.load(Ordering::Acquire);
        let (counted, nanos) = ((anchor >> 64) as u64, anchor as u64);
        let since = self.counter.delta_as_nanos(counted, self.counter.raw());
        Timestamp::from_nanos(if since < BELIEVED { nanos + since } else { self.look(anchor) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_time_of_the_system() {
        let clock = SystemClock::new();
        let (first, start) = (clock.now(), Instant::now());
        let mut last = first;
        while start.elapsed().as_millis() < 200 {
            let now = clock.now();
            // Setting it anew may take back what the counter ran ahead by.
            assert!(now.nanos() + 100_000 > last.nanos(), "{last} then {now}");
            last = last.max(now);
        }
        let off = last.since(first).abs_diff(start.elapsed().as_nanos() as u64);
        assert!(off < 20_000_000, "off by {off} ns");
    }
}
