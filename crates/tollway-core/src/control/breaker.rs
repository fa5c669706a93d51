//! A circuit breaker: after failures it answers for the store, and asks again ever more rarely.

use crate::{ConfigError, Timestamp};

/// When to stop asking, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open the breaker; 0 does not count them. 1 means that a dead store
    /// costs one time-out.
    pub failures: u32,
    /// How many percent of the last `window` calls open it when they failed; 0 does not count them.
    pub failure_percent: u8,
    /// The calls that `failure_percent` is taken of, 1 to 64; fewer since it closed open nothing.
    pub window: u8,
    /// The first pause in nanoseconds; each failed probe doubles it.
    pub pause: u64,
    /// The longest pause in nanoseconds.
    pub max_pause: u64,
    /// Requests let through at once to find out whether the store is back.
    pub probes: u32,
}

impl Default for BreakerSettings {
    /// One failure opens it for 100 ms, then twice as long each time, up to 5 s; one probe.
    fn default() -> Self {
        Self { failures: 1, failure_percent: 0, window: 20, pause: 100_000_000, max_pause: 5_000_000_000, probes: 1 }
    }
}

impl BreakerSettings {
    /// The settings, if they can work.
    ///
    /// # Errors
    /// Names the setting that cannot.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if self.probes == 0 || self.failures == 0 && self.failure_percent == 0 {
            return Err(ConfigError::new("a breaker needs at least 1 failure to open and 1 probe to close"));
        }
        if self.failure_percent > 100 {
            return Err(ConfigError::new(format!(
                "a breaker's failure rate is at most 100 percent, not {}",
                self.failure_percent
            )));
        }
        if !(1..=64).contains(&self.window) {
            return Err(ConfigError::new(format!("a breaker's window is 1 to 64 calls, not {}", self.window)));
        }
        if self.pause == 0 || self.max_pause < self.pause {
            return Err(ConfigError::new("a breaker's pause is above 0 and at most its longest pause"));
        }
        Ok(self)
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything is asked.
    Closed,
    /// Nothing is asked until this time.
    Open(Timestamp),
    /// A few requests are let through to find out.
    HalfOpen,
}

impl BreakerState {
    /// The word for logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open(_) => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Whether a request may go to the store. Every granted permit is given back to
/// [`Breaker::record`] or [`Breaker::forget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// It may; the number says in which spell it was granted.
    Granted(u64),
    /// Not before this time.
    Refused(Timestamp),
}

/// The machine. It reads no clock and rolls no dice: both are given.
///
/// ```
/// use tollway_core::{Breaker, BreakerSettings, Permit, Timestamp};
///
/// let mut breaker = Breaker::new(BreakerSettings::default());
/// let now = Timestamp::from_secs(100);
/// let Permit::Granted(spell) = breaker.permit(now) else { unreachable!() };
/// breaker.record(spell, false, now, 0);
/// assert!(matches!(breaker.permit(now), Permit::Refused(_)));
/// assert!(matches!(breaker.permit(now.plus(100_000_000)), Permit::Granted(_)));
/// ```
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: BreakerState,
    in_a_row: u32,
    /// The last calls, the newest in the lowest bit: 1 failed. And how many there were, up to 64.
    outcomes: u64,
    calls: u8,
    probing: u32,
    pause: u64,
    /// Counts openings and closings, so that a late answer of an earlier spell changes nothing.
    spell: u64,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        let (state, pause) = (BreakerState::Closed, settings.pause);
        Self { settings, state, in_a_row: 0, outcomes: 0, calls: 0, probing: 0, pause, spell: 0 }
    }

    /// Where it stands.
    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// May a request go to the store?
    pub fn permit(&mut self, now: Timestamp) -> Permit {
        if let BreakerState::Open(until) = self.state {
            // A clock that went back must not keep it open for longer than a pause.
            if now < until && until.since(now) <= self.settings.max_pause.saturating_mul(2) {
                return Permit::Refused(until);
            }
            self.turn(BreakerState::HalfOpen);
        }
        if self.state == BreakerState::HalfOpen {
            if self.probing >= self.settings.probes {
                return Permit::Refused(now.plus(self.settings.pause));
            }
            self.probing += 1;
        }
        Permit::Granted(self.spell)
    }

    /// What came of a request. `dice` is any random number: it spreads the probes of many processes
    /// over the second half of a pause.
    pub fn record(&mut self, spell: u64, succeeded: bool, now: Timestamp, dice: u64) {
        if spell != self.spell {
            return;
        }
        match (self.state, succeeded) {
            (BreakerState::Closed, succeeded) => {
                self.in_a_row = if succeeded { 0 } else { self.in_a_row.saturating_add(1) };
                self.outcomes = self.outcomes << 1 | u64::from(!succeeded);
                self.calls = self.calls.saturating_add(1).min(64);
                if !succeeded && self.is_too_much() {
                    self.pause = self.settings.pause;
                    self.open(now, dice);
                }
            }
            (BreakerState::HalfOpen, true) => self.turn(BreakerState::Closed),
            (BreakerState::HalfOpen, false) => self.reopen(now, dice),
            (BreakerState::Open(_), _) => {}
        }
    }

    /// A request was given up before it had an answer: it says nothing about the store.
    pub fn forget(&mut self, spell: u64) {
        if spell == self.spell {
            self.probing = self.probing.saturating_sub(1);
        }
    }

    /// The store was seen alive by other means: the next request finds out whether it works.
    pub fn alive(&mut self) {
        if matches!(self.state, BreakerState::Open(_)) {
            self.turn(BreakerState::HalfOpen);
        }
    }

    /// The store was seen away by other means: an open breaker begins its next pause, twice as long.
    pub fn away(&mut self, now: Timestamp, dice: u64) {
        if matches!(self.state, BreakerState::Open(_)) {
            self.reopen(now, dice);
        }
    }

    /// Whether the failures since it closed are enough to open it.
    fn is_too_much(&self) -> bool {
        let BreakerSettings { failures, failure_percent, window, .. } = self.settings;
        if failures > 0 && self.in_a_row >= failures {
            return true;
        }
        let last = u64::MAX >> (64 - window.clamp(1, 64));
        let failed = (self.outcomes & last).count_ones();
        failure_percent > 0 && self.calls >= window && failed * 100 >= u32::from(failure_percent) * u32::from(window)
    }

    fn reopen(&mut self, now: Timestamp, dice: u64) {
        self.pause = self.pause.saturating_mul(2).min(self.settings.max_pause);
        self.open(now, dice);
    }

    fn open(&mut self, now: Timestamp, dice: u64) {
        let half = self.pause / 2;
        let pause = self.pause - half + dice % (half + 1);
        self.turn(BreakerState::Open(now.plus(pause)));
    }

    fn turn(&mut self, state: BreakerState) {
        self.state = state;
        self.in_a_row = 0;
        (self.outcomes, self.calls) = (0, 0);
        self.probing = 0;
        self.spell += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn granted(breaker: &mut Breaker, now: Timestamp) -> Option<u64> {
        match breaker.permit(now) {
            Permit::Granted(spell) => Some(spell),
            Permit::Refused(_) => None,
        }
    }

    #[test]
    fn a_dead_store_is_asked_ever_more_rarely_and_a_live_one_at_once() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        let (mut now, mut asked) = (Timestamp::from_secs(1_000), Vec::new());
        for _ in 0..60_000 {
            if let Some(spell) = granted(&mut breaker, now) {
                asked.push(now);
                breaker.record(spell, false, now, u64::MAX / 2);
            }
            now = now.plus(MS);
        }
        assert!((12..25).contains(&asked.len()), "{} probes in a minute", asked.len());
        let last = asked[asked.len() - 1];
        let spell = granted(&mut breaker, last.plus(5_001 * MS)).expect("the longest pause is over");
        breaker.record(spell, true, now, 0);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn one_probe_at_a_time() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        let now = Timestamp::from_secs(1_000);
        let spell = granted(&mut breaker, now).unwrap();
        breaker.record(spell, false, now, 0);
        let later = now.plus(100 * MS);
        let probe = granted(&mut breaker, later).expect("one probe");
        assert!((0..50).all(|_| granted(&mut breaker, later).is_none()));
        breaker.forget(probe);
        assert!(granted(&mut breaker, later).is_some(), "a probe that was given up makes room");
    }

    #[test]
    fn late_answers_change_nothing() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        let now = Timestamp::from_secs(1_000);
        let early = granted(&mut breaker, now).unwrap();
        let failing = granted(&mut breaker, now).unwrap();
        breaker.record(failing, false, now, 0);
        breaker.record(early, true, now, 0);
        assert!(matches!(breaker.state(), BreakerState::Open(_)));
    }

    #[test]
    fn a_rate_of_failures_opens_it_once_the_window_is_full() {
        let settings = BreakerSettings { failures: 0, failure_percent: 50, window: 10, ..BreakerSettings::default() };
        let now = Timestamp::from_secs(1_000);
        let opened_after = |outcomes: &[bool]| {
            let mut breaker = Breaker::new(settings);
            outcomes.iter().position(|succeeded| {
                let spell = granted(&mut breaker, now).unwrap();
                breaker.record(spell, *succeeded, now, 0);
                matches!(breaker.state(), BreakerState::Open(_))
            })
        };
        assert_eq!(opened_after(&[false; 10]), Some(9), "not before there are ten");
        let half: Vec<_> = (0..40).map(|call| call % 2 == 0).collect();
        assert_eq!(opened_after(&half), Some(9));
        let third: Vec<_> = (0..400).map(|call| call % 3 > 0).collect();
        assert_eq!(opened_after(&third), None, "a third is less than a half");
        let late: Vec<_> = (0..400).map(|call| call < 300 || call % 2 == 0).collect();
        assert_eq!(opened_after(&late), Some(309), "the last ten count, not the three hundred before");
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let settings = BreakerSettings::default();
        for (wrong, word) in [
            (BreakerSettings { failures: 0, ..settings }, "at least 1 failure"),
            (BreakerSettings { probes: 0, ..settings }, "1 probe"),
            (BreakerSettings { failure_percent: 101, ..settings }, "101"),
            (BreakerSettings { window: 65, ..settings }, "65"),
            (BreakerSettings { window: 0, ..settings }, "1 to 64"),
            (BreakerSettings { pause: 0, ..settings }, "pause"),
            (BreakerSettings { max_pause: 1, ..settings }, "longest pause"),
        ] {
            let error = wrong.checked().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(settings.checked(), Ok(settings));
    }

    #[test]
    fn what_a_ping_finds_shortens_or_prolongs_a_pause_and_opens_nothing() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        let now = Timestamp::from_secs(1_000);
        breaker.away(now, 0);
        breaker.alive();
        assert_eq!(breaker.state(), BreakerState::Closed);
        let spell = granted(&mut breaker, now).unwrap();
        breaker.record(spell, false, now, 0);
        breaker.away(now, u64::MAX / 2);
        let BreakerState::Open(until) = breaker.state() else { panic!("{:?}", breaker.state()) };
        assert!(until.since(now) >= 100 * MS, "the second pause: {}", until.since(now));
        breaker.alive();
        let probe = granted(&mut breaker, now).expect("at once");
        assert!(granted(&mut breaker, now).is_none(), "one finds out for all");
        breaker.record(probe, false, now, u64::MAX / 2);
        let BreakerState::Open(until) = breaker.state() else { panic!("{:?}", breaker.state()) };
        assert!(until.since(now) >= 200 * MS, "a ping that answers does not begin the pauses anew");
    }

    proptest! {
        #[test]
        fn it_never_stays_shut_for_longer_than_the_longest_pause(
            steps in prop::collection::vec((0..8_000_u64, 0..4_u8, any::<u64>()), 1..60),
            failures in 1..5_u32, failure_percent in 0..100_u8, window in 1..=64_u8
        ) {
            let settings = BreakerSettings { failures, failure_percent, window, ..BreakerSettings::default() };
            let mut breaker = Breaker::new(settings);
            let mut now = Timestamp::from_secs(1_000);
            for (gap, step, dice) in steps {
                now = now.plus(gap * MS);
                match step {
                    2 => breaker.alive(),
                    3 => breaker.away(now, dice),
                    _ => {}
                }
                match breaker.permit(now) {
                    Permit::Granted(spell) => breaker.record(spell, step == 0, now, dice),
                    Permit::Refused(until) => {
                        prop_assert!(until > now && until.since(now) <= settings.max_pause);
                        prop_assert!(granted(&mut breaker.clone(), until).is_some());
                    }
                }
            }
        }
    }
}
