use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tollway_core::{Clock, Timestamp};

/// The wall clock read once, then a monotonic clock: steps of the wall change nothing.
#[derive(Debug)]
pub struct SystemClock {
    wall: u64,
    start: Instant,
}

impl SystemClock {
    /// A clock that starts at the wall's time now.
    pub fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        Self { wall, start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.wall + self.start.elapsed().as_nanos() as u64)
    }
}
