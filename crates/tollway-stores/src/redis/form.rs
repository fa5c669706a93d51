//! How a key's states are spelled in Redis.
//!
//! A value is `1` (the version) and for each limit a space and `CODE:FIELD:FIELD[:FIELD]`. The code
//! holds everything the state depends on, so that a changed rate is seen by comparing text.

use std::fmt::{self, Write};

use smallvec::SmallVec;
use tollway_core::{
    Algorithm, Align, CalendarUnit, Limit, Log, Period, Policy, Rate, State, Timestamp, carry_states, read_states,
    write_states,
};

/// The version this build reads and writes.
pub(super) const VERSION: &str = "1";

/// Times are whole microseconds below this, so that Lua's doubles hold them exactly.
const MOST_MICROS: u64 = (1 << 53) - 1;

/// A limit as it is named in a value: `b100/60000/120`, `c500/day/Europe/Berlin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code<'a> {
    kind: u8,
    permits: u32,
    length: Length<'a>,
    capacity: u32,
}

/// How long a limit's period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length<'a> {
    Millis(u64),
    Calendar(CalendarUnit, Option<&'a str>),
}

/// The digits of a log's record: an instant in microseconds (16) and a number of permits (5).
const RECORD: usize = 21;

const UNITS: [CalendarUnit; 4] = [CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month, CalendarUnit::Year];

impl<'a> Code<'a> {
    pub(super) fn of(limit: &'a Limit) -> Self {
        let kind = match limit.algorithm() {
            // One law, two names: changing between them keeps the state.
            Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => b'b',
            Algorithm::FixedWindow(Align::Clock) => b'w',
            Algorithm::FixedWindow(Align::First) => b'f',
            Algorithm::SlidingWindow => b's',
            Algorithm::Calendar => b'c',
            Algorithm::SlidingLog => b'l',
            Algorithm::Concurrency => b'h',
            // Kept as bytes, see `own`.
            Algorithm::Custom(_) => b'?',
        };
        let length = match limit.rate().period() {
            Period::Fixed(nanos) => Length::Millis(nanos / 1_000_000),
            Period::Calendar { unit, zone } => Length::Calendar(*unit, zone.as_deref()),
        };
        Self { kind, permits: limit.permits(), length, capacity: limit.capacity() }
    }

    /// The limit it stands for, when there is such a limit.
    fn limit(self) -> Option<Limit> {
        let algorithm = match self.kind {
            b'b' => Algorithm::Gcra,
            b'w' => Algorithm::FixedWindow(Align::Clock),
            b'f' => Algorithm::FixedWindow(Align::First),
            b'c' => Algorithm::Calendar,
            b'l' => Algorithm::SlidingLog,
            b'h' => Algorithm::Concurrency,
            _ => Algorithm::SlidingWindow,
        };
        let rate = match self.length {
            Length::Calendar(unit, zone) => Rate::calendar(self.permits, unit, zone).ok()?,
            Length::Millis(millis) => {
                let period = millis.checked_mul(1_000_000)?;
                match self.capacity.checked_sub(self.permits) {
                    Some(burst) => Rate::new(self.permits, period, burst).ok()?,
                    None => Rate::new(self.permits, period, self.capacity.checked_sub(1)?).ok()?.smooth(),
                }
            }
        };
        Limit::new(rate, algorithm).ok()
    }

    fn read(text: &'a str) -> Option<Self> {
        let kind = *text.as_bytes().first().filter(|kind| b"bwfsclh".contains(kind))?;
        let (permits, rest) = text[1..].split_once('/')?;
        let permits: u32 = number(permits)?.try_into().ok().filter(|permits| *permits > 0)?;
        if kind == b'c' {
            let (name, zone) = match rest.split_once('/') {
                Some((name, zone)) => (name, Some(zone)),
                None => (rest, None),
            };
            let unit = UNITS.into_iter().find(|unit| unit.name() == name)?;
            return Some(Self { kind, permits, length: Length::Calendar(unit, zone), capacity: permits });
        }
        let (millis, capacity) = rest.split_once('/')?;
        let length = Length::Millis(number(millis)?);
        Some(Self { kind, permits, length, capacity: number(capacity)?.try_into().ok()? })
    }

    fn read_state(self, text: &str) -> Option<State> {
        if matches!(self.kind, b'l' | b'h') {
            return read_log(text).map(|log| State::Log(Box::new(log)));
        }
        let mut fields = text.split(':').map(number);
        let micros = fields.next()?.filter(|micros| *micros <= MOST_MICROS)?;
        let (nanos, count) = (micros * 1_000, u32::try_from(fields.next()??).ok()?);
        let state = match self.kind {
            b'b' => {
                // Microseconds and 1/permits of one, into nanoseconds and 1/permits of one.
                let (permits, rest) = (u64::from(self.permits), u64::from(count) * 1_000);
                if count >= self.permits {
                    return None;
                }
                State::Schedule { full_at: nanos + rest / permits, fraction: (rest % permits) as u32 }
            }
            b's' => State::Sliding { start: nanos, current: count, previous: fields.next()??.try_into().ok()? },
            _ => State::Window { start: nanos, count },
        };
        fields.next().is_none().then_some(state)
    }

    fn write_state(self, state: &State, out: &mut String) {
        let _ = match *state {
            State::Log(ref log) => {
                // In one piece; the script cuts it.
                let _ = write!(out, " {self}:{}:{}:0:0:", log.total(), log.entries().len());
                for (at, count) in log.entries() {
                    let _ = write!(out, "{:016}{count:05}", at.div_ceil(1_000));
                }
                out.write_char(':')
            }
            State::Schedule { full_at, fraction } => {
                let permits = u128::from(self.permits);
                // Exact for states made at whole microseconds; else up, so that nothing is freed.
                let units = (u128::from(full_at) * permits + u128::from(fraction)).div_ceil(1_000);
                write!(out, " {self}:{}:{}", units / permits, units % permits)
            }
            State::Window { start, count } => write!(out, " {self}:{}:{count}", start / 1_000),
            State::Sliding { start, current, previous } => {
                write!(out, " {self}:{}:{current}:{previous}", start / 1_000)
            }
            State::Custom(_) => Ok(()),
        };
    }
}

impl fmt::Display for Code<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/", self.kind as char, self.permits)?;
        match self.length {
            Length::Millis(millis) => write!(f, "{millis}/{}", self.capacity),
            Length::Calendar(unit, None) => f.write_str(unit.name()),
            Length::Calendar(unit, Some(zone)) => write!(f, "{}/{zone}", unit.name()),
        }
    }
}

/// Why a value does not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Another version of this store wrote it.
    Version(String),
    /// Something else did.
    Foreign,
}

/// A value's limits and states.
pub(super) type Entry<'a> = SmallVec<[(Code<'a>, State); 2]>;

/// Reads a value.
pub(super) fn read(raw: &[u8]) -> Result<Entry<'_>, Flaw> {
    let text = std::str::from_utf8(raw).map_err(|_| Flaw::Foreign)?;
    let mut words = text.split(' ');
    let version = words.next().unwrap_or("");
    if version != VERSION {
        let digits = !version.is_empty() && version.len() < 10 && version.bytes().all(|byte| byte.is_ascii_digit());
        return Err(if digits && text.len() > version.len() {
            Flaw::Version(version.to_owned())
        } else {
            Flaw::Foreign
        });
    }
    let entry: Entry<'_> = words.map(read_word).collect::<Option<_>>().ok_or(Flaw::Foreign)?;
    if entry.is_empty() { Err(Flaw::Foreign) } else { Ok(entry) }
}

fn read_word(word: &str) -> Option<(Code<'_>, State)> {
    let (code, state) = word.split_once(':')?;
    let code = Code::read(code)?;
    Some((code, code.read_state(state)?))
}

/// A log as a value has it: `TOTAL:SIZE:LOW:HIGH:FRONT:BACK`. What is in chunks elsewhere counts as
/// taken at the newest instant.
fn read_log(text: &str) -> Option<Log> {
    let mut fields = text.split(':');
    let mut count = || number(fields.next()?).filter(|count| *count <= MOST_MICROS);
    let (total, _size, _low, _high) = (count()?, count()?, count()?, count()?);
    let (front, back) = (fields.next()?, fields.next()?);
    let mut entries = Vec::with_capacity((front.len() + back.len()) / RECORD);
    for record in front.as_bytes().chunks(RECORD).chain(back.as_bytes().chunks(RECORD)) {
        let record = std::str::from_utf8(record).ok().filter(|record| record.len() == RECORD)?;
        entries.push((number(&record[..16])? * 1_000, number(&record[16..])? as u32));
    }
    let here: u64 = entries.iter().map(|(_, count)| u64::from(*count)).sum();
    let ordered = entries.is_sorted_by(|one, other| one.0 < other.0);
    let elsewhere = u32::try_from(total.checked_sub(here)?).ok()?;
    match entries.last_mut() {
        Some((_, count)) => *count += elsewhere,
        None if elsewhere > 0 => return None,
        None => {}
    }
    (ordered && fields.next().is_none()).then(|| Log::from_iter(entries))
}

/// How the limits of a charge stand, as the script says where one has a log: `1`, then for each
/// ` CODE:PERMITS:NEWEST:FREEING` of a log, ` CODE:STATE` of another, ` -` where there is none. What is
/// made of it is judged, with this cost, like the state itself.
pub(super) fn read_standing(raw: &[u8], policy: &Policy, cost: u32) -> Option<SmallVec<[Option<State>; 2]>> {
    let mut words = std::str::from_utf8(raw).ok()?.split(' ');
    (words.next() == Some(VERSION)).then_some(())?;
    let mut states = SmallVec::new();
    for limit in policy.limits() {
        let word = words.next()?;
        if word == "-" {
            states.push(None);
            continue;
        }
        let (code, text) = word.split_once(':')?;
        let code = Code::read(code).filter(|code| *code == Code::of(limit))?;
        states.push(Some(match limit.algorithm().is_log() {
            true => read_summary(text, limit, cost)?,
            false => code.read_state(text)?,
        }));
    }
    words.next().is_none().then_some(states)
}

/// A log of two entries that is judged like the one it sums up.
fn read_summary(text: &str, limit: &Limit, cost: u32) -> Option<State> {
    let mut fields = text.split(':').map(|field| number(field).filter(|count| *count <= MOST_MICROS));
    let (total, newest, freeing) = (fields.next()??, fields.next()?? * 1_000, fields.next()?? * 1_000);
    let total = u32::try_from(total).ok()?;
    let excess = (u64::from(total) + u64::from(cost)).saturating_sub(u64::from(limit.capacity()));
    let freed = if freeing > 0 && freeing < newest { excess.min(u64::from(total)) as u32 } else { 0 };
    Some(State::Log(Box::new(Log::from_iter([(freeing, freed), (newest, total - freed)]))))
}

/// Whether an entry was written for exactly these limits.
pub(super) fn is_of(entry: &Entry<'_>, policy: &Policy) -> bool {
    entry.len() == policy.limits().len()
        && entry.iter().zip(policy.limits()).all(|((code, _), limit)| *code == Code::of(limit))
}

/// The value for `policy` that keeps what `entry` has spent of other limits. `None` when the entry
/// names a limit that cannot be.
pub(super) fn carry(entry: &Entry<'_>, policy: &Policy, now: Timestamp) -> Option<String> {
    let limits: SmallVec<[Limit; 2]> = entry.iter().map(|(code, _)| code.limit()).collect::<Option<_>>()?;
    let old: SmallVec<[_; 2]> = limits.iter().zip(entry.iter().map(|(_, state)| state.clone())).collect();
    Some(carried(&old, policy, now))
}

/// The same of the bytes of an algorithm of one's own.
pub(super) fn carry_bytes(bytes: &[u8], policy: &Policy, now: Timestamp) -> Option<String> {
    let saved = read_states(bytes).ok()?;
    let old: SmallVec<[_; 2]> = saved.iter().map(|(limit, state)| (limit, state.clone())).collect();
    Some(carried(&old, policy, now))
}

fn carried(old: &[(&Limit, State)], policy: &Policy, now: Timestamp) -> String {
    let mut text = VERSION.to_owned();
    for (limit, state) in policy.limits().iter().zip(carry_states(old, policy, now)) {
        Code::of(limit).write_state(&state, &mut text);
    }
    text
}

/// A value as the bytes that algorithms of one's own are kept in.
pub(super) fn as_bytes(raw: &[u8]) -> Option<Vec<u8>> {
    let (mut limits, mut states) = (Vec::new(), Vec::new());
    for (code, state) in read(raw).ok()? {
        limits.push(code.limit()?);
        states.push(state);
    }
    let algorithm = limits.iter().map(Limit::algorithm).find(|algorithm| *algorithm != Algorithm::Calendar);
    let rates = limits.iter().map(|limit| limit.rate().clone()).collect();
    let policy = Policy::from_rates("carried", rates, algorithm.unwrap_or(Algorithm::Calendar)).ok()?;
    Some(write_states(&policy, &states))
}

/// The edges of a calendar limit's periods around an instant, in microseconds: those of the period
/// before, of the one that holds it, and of the three after.
pub(super) fn edges(limit: &Limit, at: Timestamp) -> Option<[u64; 6]> {
    let (start, mut end) = limit.calendar_window(at.nanos())?;
    let mut edges = [limit.calendar_window(start.saturating_sub(1))?.0, start, end, 0, 0, 0];
    for edge in &mut edges[3..] {
        end = limit.calendar_window(end)?.1;
        *edge = end;
    }
    Some(edges.map(|edge| edge / 1_000))
}

fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use tollway_core::decide_one;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn spelled(rates: &str, algorithm: Algorithm) -> String {
        let policy = Policy::new("p", rates, algorithm).unwrap();
        let mut text = VERSION.to_owned();
        for limit in policy.limits() {
            let (_, state) = decide_one(limit, None, NOW, 1);
            Code::of(limit).write_state(&state, &mut text);
        }
        text
    }

    #[test]
    fn values_are_spelled_as_documented() {
        for (rates, algorithm, text) in [
            ("7/s", Algorithm::Gcra, "1 b7/1000/7:1700000000142857:1"),
            ("7/s burst 3", Algorithm::TokenBucket, "1 b7/1000/10:1700000000142857:1"),
            ("7/s smooth burst 3", Algorithm::Gcra, "1 b7/1000/4:1700000000142857:1"),
            ("5/m", Algorithm::FixedWindow(Align::Clock), "1 w5/60000/5:1699999980000000:1"),
            ("5/m", Algorithm::FixedWindow(Align::First), "1 f5/60000/5:1700000000000000:1"),
            ("5/m", Algorithm::SlidingLog, "1 l5/60000/5:1:1:0:0:170000000000000000001:"),
            ("5/m", Algorithm::Concurrency, "1 h5/60000/5:1:1:0:0:170000000000000000001:"),
            ("5/month", Algorithm::Calendar, "1 c5/month:1698796800000000:1"),
            ("5/day America/New_York", Algorithm::Gcra, "1 c5/day/America/New_York:1699938000000000:1"),
            (
                "5/m; 9/h",
                Algorithm::SlidingWindow,
                "1 s5/60000/5:1699999980000000:1:0 s9/3600000/9:1699999200000000:1:0",
            ),
        ] {
            assert_eq!(spelled(rates, algorithm), text);
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for algorithm in Algorithm::all() {
            let rates = match algorithm {
                Algorithm::SlidingLog | Algorithm::Concurrency => "7/s; 10000/ms; 9999/366d; 1/d",
                Algorithm::Calendar => {
                    "7/day Europe/Berlin; 1000000000/week America/New_York; 5/month; 1/year Etc/GMT-14"
                }
                _ => "7/s; 1000000000/ms; 999999937/366d; 1/d",
            };
            let policy = Policy::new("p", rates, algorithm).unwrap();
            let (mut text, mut states) = (VERSION.to_owned(), Vec::new());
            for limit in policy.limits() {
                let (_, state) = decide_one(limit, None, NOW, 1);
                Code::of(limit).write_state(&state, &mut text);
                states.push(state);
            }
            let entry = read(text.as_bytes()).unwrap();
            assert!(is_of(&entry, &policy));
            assert_eq!(entry.iter().map(|(_, state)| state.clone()).collect::<Vec<_>>(), states, "{text}");
            assert_eq!(carry(&entry, &policy, NOW).unwrap(), text);
            for ((code, _), limit) in entry.iter().zip(policy.limits()) {
                assert_eq!(Code::of(&code.limit().unwrap()), Code::of(limit));
            }
        }
    }

    #[test]
    fn flaws_are_told_apart() {
        assert_eq!(read(b"2 b7/1000/7:1:1"), Err(Flaw::Version("2".into())));
        for raw in [
            &b""[..],
            b"1",
            b"1 ",
            b"17",
            b"hello",
            b"\xff",
            b"1 x7/1000/7:1:1",
            b"1 b7/1000/7:1",
            b"1 b7/1000/7:1:7",
            b"1 b7/1000/7:1:1:1",
            b"1 b7/1000/7:-1:1",
            b"1 b7/1000/7:9007199254740992:1",
            b"1 w7/1000/7:1:4294967296",
            b"1 s7/1000/7:1:1",
            b"1  b7/1000/7:1:1",
            b"1 b0/1000/7:1:0",
            b"1 b7/1000/7/7:1:0",
            b"1 c7/decade:1:0",
            b"1 l7/1000/7:1:1:0:0:170000000000000000001",
            b"1 l7/1000/7:1:1:0:0:17000000000000000001:",
            b"1 l7/1000/7:0:1:0:0:170000000000000000001:",
            b"1 l7/1000/7:2:2:0:0:170000000000000000001170000000000000000001:",
            b"1 c7/1000/7:1:0",
        ] {
            assert_eq!(read(raw), Err(Flaw::Foreign), "{}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn a_smooth_limit_survives_its_code() {
        let policy = Policy::new("p", "100/m smooth burst 4", Algorithm::Gcra).unwrap();
        let limit = &policy.limits()[0];
        let again = Code::of(limit).limit().unwrap();
        assert_eq!((again.permits(), again.capacity(), again.period()), (100, 5, limit.period()));
    }
}
