//! A circuit breaker: after failures it answers for the store, and asks again ever more rarely.

use crate::{ConfigError, Timestamp};

/// When to stop asking, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open the breaker. 1 means that a dead store costs one time-out.
    pub failures: u32,
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
        Self { failures: 1, pause: 100_000_000, max_pause: 5_000_000_000, probes: 1 }
    }
}

impl BreakerSettings {
    /// The settings, if they can work.
    ///
    /// # Errors
    /// Names the setting that cannot.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if self.failures == 0 || self.probes == 0 {
            return Err(ConfigError::new("a breaker needs at least 1 failure to open and 1 probe to close"));
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
    probing: u32,
    pause: u64,
    /// Counts openings and closings, so that a late answer of an earlier spell changes nothing.
    spell: u64,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: BreakerState::Closed, in_a_row: 0, probing: 0, pause: settings.pause, spell: 0 }
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
            (BreakerState::Closed, true) => self.in_a_row = 0,
            (BreakerState::Closed, false) => {
                self.in_a_row += 1;
                if self.in_a_row >= self.settings.failures {
                    self.pause = self.settings.pause;
                    self.open(now, dice);
                }
            }
            (BreakerState::HalfOpen, true) => self.turn(BreakerState::Closed),
            (BreakerState::HalfOpen, false) => {
                self.pause = self.pause.saturating_mul(2).min(self.settings.max_pause);
                self.open(now, dice);
            }
            (BreakerState::Open(_), _) => {}
        }
    }

    /// A request was given up before it had an answer: it says nothing about the store.
    pub fn forget(&mut self, spell: u64) {
        if spell == self.spell {
            self.probing = self.probing.saturating_sub(1);
        }
    }

    /// The store was seen alive by other means.
    pub fn close(&mut self) {
        self.turn(BreakerState::Closed);
    }

    fn open(&mut self, now: Timestamp, dice: u64) {
        let half = self.pause / 2;
        let pause = self.pause - half + dice % (half + 1);
        self.turn(BreakerState::Open(now.plus(pause)));
    }

    fn turn(&mut self, state: BreakerState) {
        self.state = state;
        self.in_a_row = 0;
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

    proptest! {
        #[test]
        fn it_never_stays_shut_for_longer_than_the_longest_pause(
            steps in prop::collection::vec((0..8_000_u64, any::<bool>(), any::<u64>()), 1..60), failures in 1..5_u32
        ) {
            let settings = BreakerSettings { failures, ..BreakerSettings::default() };
            let mut breaker = Breaker::new(settings);
            let mut now = Timestamp::from_secs(1_000);
            for (gap, succeeded, dice) in steps {
                now = now.plus(gap * MS);
                match breaker.permit(now) {
                    Permit::Granted(spell) => breaker.record(spell, succeeded, now, dice),
                    Permit::Refused(until) => {
                        prop_assert!(until > now && until.since(now) <= settings.max_pause);
                        prop_assert!(granted(&mut breaker.clone(), until).is_some());
                    }
                }
            }
        }
    }
}
