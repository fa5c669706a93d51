//! Random states, put into Redis by hand: the store answers and writes what the pure function says.
//! The spelling of values is written down here once more, as the manual describes it.

use std::sync::Arc;

use tollway_core::{
    Algorithm, Align, Bucket, CalendarUnit, Charge, Limit, Log, Part, Period, Policy, Rate, Request, State, Store,
    Timestamp, decide, decide_one,
};

use super::servers::Redis;
use super::{expiry, open, patient, raw};

const MS: u64 = 1_000_000;
const YEAR_MS: u64 = 366 * 86_400_000;
const UNITS: [CalendarUnit; 4] = [CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month, CalendarUnit::Year];
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/Port-au-Prince", "Etc/GMT+12"];

pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 3) % sides
    }

    /// All magnitudes up to `most` alike.
    fn magnitude(&mut self, most: u64) -> u64 {
        let bits = self.below(u64::from(64 - most.leading_zeros()) + 1);
        self.below(1 << bits).min(most)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn rate(&mut self, algorithm: Algorithm) -> Rate {
        loop {
            let permits = 1 + self.magnitude(999_999_999) as u32;
            let permits = if algorithm.is_log() { permits % 10_000 + 1 } else { permits };
            if algorithm == Algorithm::Calendar {
                let (unit, zone) = (self.pick(&UNITS), self.pick(&ZONES));
                return Rate::calendar(permits, unit, Some(zone)).expect("a legal rate");
            }
            let period = (1 + self.magnitude(YEAR_MS - 1)) * MS;
            let bucket = matches!(algorithm, Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_));
            let burst = if bucket { self.magnitude(1_000_000_000) as u32 } else { 0 };
            let rate = Rate::new(permits, period, burst).expect("a legal rate");
            let rate = if bucket && self.below(4) == 0 { rate.smooth() } else { rate };
            if Limit::new(rate.clone(), algorithm).is_ok() {
                return rate;
            }
        }
    }

    fn policy(&mut self, name: &str) -> Arc<Policy> {
        let algorithm = self.pick(&Algorithm::all());
        loop {
            let rates = (0..1 + self.below(3)).map(|_| self.rate(algorithm)).collect();
            let Ok(policy) = Policy::from_rates(name, rates, algorithm) else { continue };
            if algorithm != Algorithm::TokenBucket || self.below(2) == 0 {
                return Arc::new(policy);
            }
            if let Ok(policy) = policy.clone().with_bucket(self.bucket(&policy)) {
                return Arc::new(policy);
            }
        }
    }

    fn bucket(&mut self, policy: &Policy) -> Bucket {
        let limit = &policy.limits()[0];
        let whole = limit.period() / MS;
        Bucket {
            refill_every: if self.below(2) == 0 { (1 + self.magnitude(whole - 1)) * MS } else { 0 },
            initial: (self.below(2) == 0).then(|| self.magnitude(u64::from(limit.capacity())) as u32),
            partial: policy.limits().len() == 1 && self.below(2) == 0,
            per_request: 1,
        }
    }

    /// A state near `now` (microseconds): past, present, or far in the future.
    fn state(&mut self, limit: &Limit, now: u64) -> State {
        let period = limit.period() / 1_000;
        let reach = self.pick(&[1_000, period, 3 * period, YEAR_MS * 1_000]);
        let at = if self.below(3) == 0 { now + self.below(reach) } else { now - self.below(reach) };
        let count = self.magnitude(u64::from(limit.capacity())) as u32;
        match limit.algorithm() {
            Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => {
                let ahead = limit.span(count);
                let fraction = self.below(u64::from(limit.permits())) * 1_000;
                let permits = u64::from(limit.permits());
                let whole = if self.below(2) == 0 { now + ahead.nanos / 1_000 } else { at };
                State::Schedule { full_at: whole * 1_000 + fraction / permits, fraction: (fraction % permits) as u32 }
            }
            Algorithm::FixedWindow(Align::First) => State::Window { start: at * 1_000, count },
            Algorithm::FixedWindow(Align::Clock) => State::Window { start: (at - at % period) * 1_000, count },
            Algorithm::Calendar => {
                let (start, _) = limit.calendar_window(at * 1_000).expect("a calendar limit");
                State::Window { start, count }
            }
            Algorithm::SlidingWindow => {
                let previous = self.magnitude(u64::from(limit.capacity())) as u32;
                State::Sliding { start: (at - at % period) * 1_000, current: count, previous }
            }
            Algorithm::SlidingLog | Algorithm::Concurrency => {
                let mut entries = Vec::new();
                let mut at = now.saturating_sub(self.below(reach));
                let mut left = count;
                while left > 0 && entries.len() < 400 {
                    let some = 1 + self.magnitude(u64::from(left) - 1) as u32;
                    entries.push((at * 1_000, some));
                    left -= some;
                    at += 1 + self.below(1 + 2 * reach / (u64::from(count) + 1).min(400));
                }
                State::Log(Box::new(Log::from_iter(entries)))
            }
            Algorithm::Custom(_) => unreachable!("the built-in ones are drawn"),
        }
    }
}

/// A value as `docs/redis.md` describes it.
fn spell(policy: &Policy, states: &[State]) -> String {
    let mut text = "1".to_owned();
    for (limit, state) in policy.limits().iter().zip(states) {
        let kind = match limit.algorithm() {
            Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => "b",
            Algorithm::FixedWindow(Align::Clock) => "w",
            Algorithm::FixedWindow(Align::First) => "f",
            Algorithm::SlidingWindow => "s",
            Algorithm::Calendar => "c",
            Algorithm::SlidingLog => "l",
            Algorithm::Concurrency => "h",
            Algorithm::Custom(_) => unreachable!("the built-in ones are drawn"),
        };
        let code = match limit.rate().period() {
            Period::Calendar { unit, zone: Some(zone) } => format!("{kind}{}/{}/{zone}", limit.permits(), unit.name()),
            _ => format!("{kind}{}/{}/{}", limit.permits(), limit.period() / MS, limit.capacity()),
        };
        text += &match *state {
            State::Schedule { full_at, fraction } => {
                let permits = u128::from(limit.permits());
                let units = u128::from(full_at) * permits + u128::from(fraction);
                assert_eq!(units % 1_000, 0, "states lie on microseconds and 1/permits of one");
                format!(" {code}:{}:{}", units / 1_000 / permits, units / 1_000 % permits)
            }
            State::Window { start, count } => format!(" {code}:{}:{count}", start / 1_000),
            State::Sliding { start, current, previous } => format!(" {code}:{}:{current}:{previous}", start / 1_000),
            State::Log(ref log) => {
                let records: String =
                    log.entries().map(|(at, count)| format!("{:016}{count:05}", at / 1_000)).collect();
                format!(" {code}:{}:{}:0:0:{records}:", log.total(), log.entries().len())
            }
            State::Custom(_) => unreachable!("the built-in ones are drawn"),
        };
    }
    text
}

/// What lay in the future is pulled back even by a refusal.
fn healed(limit: &Limit, state: &State, now: Timestamp) -> bool {
    let (start, ahead) = match *state {
        State::Schedule { full_at, fraction } => {
            // Twice the capacity: what can be spent and what can be owed.
            let whole = limit.span(limit.capacity());
            let step = limit.bucket().refill_every;
            let seen = if step == 0 { now.nanos() } else { now.nanos() - now.nanos() % step };
            let (nanos, fractions) = (seen + 2 * whole.nanos, 2 * u64::from(whole.fraction));
            let carry = u64::from(fractions >= u64::from(limit.permits()));
            return (full_at, u64::from(fraction)) > (nanos + carry, fractions - carry * u64::from(limit.permits()));
        }
        State::Window { start, .. } => match limit.calendar_window(start) {
            Some((_, end)) => (start, end - start),
            None => (start, limit.period()),
        },
        State::Sliding { start, .. } => (start, limit.period()),
        State::Log(ref log) => return log.entries().any(|(at, _)| at > now.nanos()),
        State::Custom(_) => unreachable!("the built-in ones are drawn"),
    };
    start > now.nanos() && start - now.nanos() > ahead
}

#[tokio::test(flavor = "multi_thread")]
async fn random_states_are_answered_and_kept_as_the_pure_function_says() {
    random_states_agree(&Redis::start(), 4_000).await;
}

/// Puts in states of every algorithm and asks, so many times.
pub(super) async fn random_states_agree(server: &Redis, steps: u32) {
    let store = open(&server.url(), patient());
    let mut connection = server.connection();
    let mut dice = Dice(0x00C0_FFEE_1234_5678);
    let (mut refusals, mut pulled) = (0, 0);
    for step in 0..steps {
        let policies: Vec<_> = (0..1 + dice.below(2)).map(|n| dice.policy(&format!("p{n}"))).collect();
        let now = micros(&mut connection);
        let mut known: Vec<Option<Vec<State>>> = Vec::new();
        let mut pipeline = redis::pipe();
        for (number, policy) in policies.iter().enumerate() {
            let key = format!("tollway:p{number}:{{k}}");
            let states: Vec<State> = policy.limits().iter().map(|limit| dice.state(limit, now)).collect();
            if dice.below(8) == 0 {
                pipeline.del(key);
                known.push(None);
            } else {
                pipeline.del(key.as_str());
                let value = spell(policy, &states);
                match policy.limits().iter().any(|limit| limit.algorithm().is_log()) {
                    true => pipeline.hset(key, "state", value),
                    false => pipeline.set(key, value),
                };
                known.push(Some(states));
            }
        }
        pipeline.exec(&mut connection).expect("SET");
        let costs: Vec<u32> = policies.iter().map(|policy| cost(&mut dice, policy)).collect();
        let charges: Vec<_> =
            policies.iter().zip(&costs).map(|(policy, cost)| Charge { policy, key: "k", cost: *cost }).collect();
        let peek = dice.below(6) == 0;
        let got = store.apply(&[Request { charges: &charges, peek }]).await.expect("an answer")[0];

        let mut parts = Vec::new();
        for (charge, (policy, states)) in policies.iter().zip(&known).enumerate() {
            for (index, limit) in policy.limits().iter().enumerate() {
                let state = states.as_ref().map(|states| states[index].clone());
                parts.push(Part { limit, state, cost: costs[charge], charge: charge as u16, index: index as u16 });
            }
        }
        let (expected, next) = decide(&mut parts.clone(), got.at);
        assert_eq!(got, expected, "step {step}: {parts:?}");
        refusals += u32::from(!got.allowed);

        let mut next = &next[..];
        for (number, (policy, states)) in policies.iter().zip(&known).enumerate() {
            let (own, rest) = next.split_at(policy.limits().len());
            next = rest;
            let before = states.as_ref().map(|states| spell(policy, states));
            let heals = |states: &Vec<State>| {
                policy.limits().iter().zip(states).any(|(limit, state)| healed(limit, state, got.at))
            };
            let expected = if peek {
                before
            } else if got.allowed {
                Some(spell(policy, own))
            } else if states.is_none() && policy.notes_arrivals() {
                let fresh = policy.limits().iter().map(|limit| decide_one(limit, None, got.at, 0).1);
                Some(spell(policy, &fresh.collect::<Vec<_>>()))
            } else if let Some(states) = states.as_ref().filter(|states| heals(states)) {
                pulled += 1;
                let kept = policy.limits().iter().zip(states);
                let kept: Vec<_> =
                    kept.map(|(limit, state)| decide_one(limit, Some(state.clone()), got.at, 0).1).collect();
                Some(spell(policy, &kept))
            } else {
                before
            };
            let after = whole(&mut connection, &format!("tollway:p{number}:{{k}}"));
            if after.is_none() && expected.is_some() {
                // Short-lived keys may be gone already, but not before their time.
                assert!(micros(&mut connection) * 1_000 >= got.at.nanos() + policy.lifetime(), "step {step}");
                continue;
            }
            assert_eq!(after, expected, "step {step} peek {peek}: {got:?} of {parts:?}");
            outlives(&mut connection, number, policy, own);
        }
    }
    assert!(refusals > steps / 10 && pulled > steps / 40, "{refusals} refusals, {pulled} pulled back");
}

/// A key's value with its logs in one piece.
pub(super) fn whole(connection: &mut redis::Connection, key: &str) -> Option<String> {
    let value = raw(connection, key)?;
    let mut words = Vec::new();
    for (number, word) in value.split(' ').enumerate() {
        let fields: Vec<_> = word.split(':').collect();
        let [code, total, size, low, high, front, back] = fields[..] else {
            words.push(word.to_owned());
            continue;
        };
        let mut records = front.to_owned();
        for chunk in low.parse::<u64>().unwrap()..high.parse().unwrap() {
            let chunk: String = redis::cmd("HGET").arg(key).arg(format!("{number}:{chunk}")).query(connection).unwrap();
            let (head, rest) = chunk.split_at(21);
            let sum: u32 =
                (0..rest.len() / 21).map(|at| rest[at * 21 + 16..at * 21 + 21].parse::<u32>().unwrap()).sum();
            assert_eq!(head[16..].parse::<u32>().unwrap(), sum, "a chunk knows its sum");
            records += rest;
        }
        assert_eq!(size.parse::<usize>().unwrap() * 21, records.len() + back.len(), "{value}");
        words.push(format!("{code}:{total}:{size}:0:0:{records}{back}:"));
    }
    Some(words.join(" "))
}

/// A key that goes away says nothing any more: at that instant its states are as good as none.
fn outlives(connection: &mut redis::Connection, number: usize, policy: &Policy, states: &[State]) {
    // It may be gone since it was read.
    if let Some(expiry) = expiry(connection, &format!("tollway:p{number}:{{k}}")) {
        for (limit, state) in policy.limits().iter().zip(states) {
            let left = decide_one(limit, Some(state.clone()), Timestamp::from_nanos(expiry * MS), 0).0.remaining;
            assert_eq!(left, limit.capacity(), "{limit:?} forgets {state:?} at {expiry} ms");
        }
    }
}

/// The server's clock.
fn micros(connection: &mut redis::Connection) -> u64 {
    let (secs, micros): (u64, u64) = redis::cmd("TIME").query(connection).expect("TIME");
    secs * 1_000_000 + micros
}

fn cost(dice: &mut Dice, policy: &Policy) -> u32 {
    let most = policy.limits().iter().map(Limit::capacity).min().unwrap_or(1);
    match dice.below(8) {
        0 => 0,
        1 => most,
        2 => most + 1,
        3 => most / 2,
        _ => 1 + dice.magnitude(u64::from(most)) as u32,
    }
}
