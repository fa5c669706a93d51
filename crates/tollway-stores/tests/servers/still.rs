//! Servers that stand still.

use std::process::Command;
use std::time::{Duration, Instant};

/// Stops a process from running without closing anything, and waits until none of its threads
/// runs: the signal alone comes back before that.
pub fn stand_still(pid: &str) {
    let status = Command::new("kill").args(["-STOP", pid]).status();
    assert!(status.expect("kill runs").success(), "kill -STOP {pid}");
    let end = Instant::now() + Duration::from_secs(20);
    while runs(pid) {
        assert!(Instant::now() < end, "{pid} does not stand still");
        std::thread::yield_now();
    }
}

fn runs(pid: &str) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.filter_map(Result::ok).any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // Behind the name, which stands in parentheses: T for stopped, Z for gone.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['T', 'Z', 'X']))
    })
}
