//! Sliding log and concurrency: an entry for each request, which counts for one period.
//!
//! Both are the same state. What a log forgets by time alone, the holder of a permit may also give
//! back, or renew; an entry is known by the instant it was made at, so permits of one instant are one
//! entry, and need no further name.

use std::collections::VecDeque;

use super::{State, Verdict, never, refused};
use crate::Limit;

/// The most permits a log may be made for.
pub(super) const MOST: u32 = 10_000;

/// Entries in the order they were made: when, and how many permits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    entries: VecDeque<(u64, u32)>,
    total: u64,
}

impl FromIterator<(u64, u32)> for Log {
    /// From instants in nanoseconds, which do not get smaller, and permits. Empty entries are left out.
    fn from_iter<T: IntoIterator<Item = (u64, u32)>>(entries: T) -> Self {
        let mut log = Self::default();
        entries.into_iter().for_each(|(at, count)| log.add(at, count));
        log
    }
}

impl Log {
    /// The entries: when, in nanoseconds since the epoch, and how many permits.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (u64, u32)> + '_ {
        self.entries.iter().copied()
    }

    /// Permits in all entries.
    pub fn total(&self) -> u64 {
        self.total
    }

    fn add(&mut self, at: u64, count: u32) {
        if count == 0 {
            return;
        }
        self.total += u64::from(count);
        match self.entries.back_mut() {
            Some((last, sum)) if *last >= at => *sum = sum.saturating_add(count),
            _ => self.entries.push_back((at, count)),
        }
    }

    /// Forgets what is over. Entries from the future, after a clock went back, count from now on.
    fn turn(&mut self, period: u64, now: u64) {
        while let Some((at, count)) = self.entries.front().copied()
            && at.saturating_add(period) <= now
        {
            self.entries.pop_front();
            self.total -= u64::from(count);
        }
        let mut ahead: u32 = 0;
        while let Some((at, count)) = self.entries.back().copied()
            && at > now
        {
            self.entries.pop_back();
            self.total -= u64::from(count);
            ahead = ahead.saturating_add(count);
        }
        self.add(now, ahead);
    }

    /// Takes out up to `count` permits, the newest first.
    fn give_back(&mut self, mut count: u64) {
        while let Some((_, newest)) = self.entries.back_mut() {
            let taken = count.min(u64::from(*newest));
            *newest -= taken as u32;
            count -= taken;
            self.total -= taken;
            if *newest > 0 {
                break;
            }
            self.entries.pop_back();
        }
    }

    /// Takes `count` permits out of the entry made at `since`. False when they are not there.
    pub fn take(&mut self, since: u64, count: u32) -> bool {
        let Ok(place) = self.entries.binary_search_by_key(&since, |(at, _)| *at) else { return false };
        let entry = &mut self.entries[place];
        if entry.1 < count {
            return false;
        }
        entry.1 -= count;
        self.total -= u64::from(count);
        if entry.1 == 0 {
            self.entries.remove(place);
        }
        true
    }

    /// The verdict on `cost`, without a change.
    pub(crate) fn judge(&self, limit: &Limit, now: u64, cost: u32) -> Verdict {
        let period = limit.period;
        // What is over does not count; what lies ahead counts from now on.
        let ends = |at: u64| at.min(now).saturating_add(period);
        let over: u64 = self.entries.iter().take_while(|(at, _)| ends(*at) <= now).map(|(_, n)| u64::from(*n)).sum();
        let used = self.total - over;
        let capacity = u64::from(limit.capacity);
        let left = capacity.saturating_sub(used) as u32;
        let newest = self.entries.back().map_or(0, |(at, _)| ends(*at).saturating_sub(now));
        if cost <= left {
            let reset_after = if cost > 0 { period } else { newest };
            return Verdict { allowed: true, remaining: left - cost, reset_after, retry_after: 0 };
        }
        let retry_after = never(limit, cost).unwrap_or_else(|| {
            let mut excess = (used + u64::from(cost)).saturating_sub(capacity);
            let live = self.entries.iter().skip_while(|(at, _)| ends(*at) <= now);
            for (at, count) in live {
                excess = excess.saturating_sub(u64::from(*count));
                if excess == 0 {
                    return ends(*at) - now;
                }
            }
            period
        });
        refused(left, newest, retry_after)
    }
}

fn log_of(state: Option<State>) -> Box<Log> {
    match state {
        Some(State::Log(log)) => log,
        _ => Box::default(),
    }
}

pub(super) fn decide(limit: &Limit, state: Option<State>, now: u64, cost: u32) -> (Verdict, State) {
    let mut log = log_of(state);
    log.turn(limit.period, now);
    let verdict = log.judge(limit, now, cost);
    if verdict.allowed {
        log.add(now, cost);
    }
    (verdict, State::Log(log))
}

/// What happens to a log without anybody being asked; true unless a permit could not be renewed.
pub(crate) enum Move {
    Charge(u32),
    GiveBack(u32),
    Release { since: u64, count: u32 },
    Renew { since: u64, count: u32 },
}

pub(crate) fn adjust(limit: &Limit, state: Option<State>, now: u64, step: Move) -> (bool, State) {
    let mut log = log_of(state);
    log.turn(limit.period, now);
    let mut done = true;
    match step {
        Move::Charge(count) => {
            let room = (2 * u64::from(limit.capacity)).saturating_sub(log.total);
            log.add(now, room.min(u64::from(count)) as u32);
        }
        Move::GiveBack(count) => log.give_back(u64::from(count)),
        Move::Release { since, count } => {
            // What is not there any more was over, and had been given to somebody else.
            log.take(since, count);
        }
        Move::Renew { since, count } => {
            done = log.take(since, count) || log.judge(limit, now, count).allowed;
            if done {
                log.add(now, count);
            }
        }
    }
    (done, State::Log(log))
}
