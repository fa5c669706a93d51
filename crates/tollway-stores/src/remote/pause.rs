//! The pause after an attempt to connect that failed.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The first one, doubled each time up to the longest.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// How long to wait after so many failed attempts: jittered, so that a restarted server is not met
/// by everybody at once.
pub(crate) fn pause(attempt: u32) -> Duration {
    let longest = FIRST.saturating_mul(1 << attempt.min(10)).min(LONGEST);
    let dice = RandomState::new().build_hasher().finish() % 512;
    longest.mul_f64(0.5 + dice as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_up_to_a_second() {
        for (attempt, most) in [(0, 50), (1, 100), (4, 800), (5, 1_000), (u32::MAX, 1_000)] {
            let most = Duration::from_millis(most);
            let range = most / 2..=most;
            assert!((0..100).all(|_| range.contains(&pause(attempt))), "attempt {attempt}");
        }
    }
}
