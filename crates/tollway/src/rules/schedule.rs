//! Times at which something holds: `Mon-Fri 22:00-06:00 Europe/Berlin`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use tollway_core::{ConfigError, Timestamp};

/// Minutes of a day.
const DAY: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const EXPECTED: &str = "days such as Mon-Fri, times such as 09:00-17:00, dates such as 2026-12-24..2026-12-26 or \
                        12-24..01-02, and a time zone such as Europe/Berlin";

/// Recurring times, told as a clock on the wall of their time zone shows them.
///
/// Days, times of day and dates, in any order, and an IANA time zone (UTC when none is named). A
/// span that ends before it begins goes past midnight and belongs to the day on which it began:
/// `Fri 22:00-06:00` holds on Saturday at five. When clocks are put forward, an hour that is left
/// out does not happen; when they are put back, one that comes twice holds twice.
///
/// ```
/// use tollway::rules::When;
/// use tollway::Timestamp;
///
/// let night: When = "Fri 22:00-06:00 Europe/Berlin".parse()?;
/// assert!(night.holds(Timestamp::from_secs(1_785_553_200)));   // Saturday, 2026-08-01 05:00 in Berlin
/// assert!(!night.holds(Timestamp::from_secs(1_785_556_800)));  // 06:00
/// # Ok::<(), tollway::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct When {
    text: Arc<str>,
    days: u8,
    times: Vec<(u16, u16)>,
    dates: Vec<Dates>,
    zone: TimeZone,
    /// The minute that was last asked about, and the answer in the lowest bit: civil times and
    /// zones change at whole minutes.
    last: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Dates {
    Once(Date, Date),
    /// Month and day; may go past New Year.
    Yearly((i8, i8), (i8, i8)),
}

impl Dates {
    fn has(self, day: Date) -> bool {
        match self {
            Self::Once(first, last) => (first..=last).contains(&day),
            Self::Yearly(first, last) => {
                let day = (day.month(), day.day());
                if first <= last { first <= day && day <= last } else { first <= day || day <= last }
            }
        }
    }
}

impl When {
    /// Whether it holds at `now`.
    pub fn holds(&self, now: Timestamp) -> bool {
        let minute = now.nanos() / 60_000_000_000;
        let last = self.last.load(Ordering::Relaxed);
        if last >> 1 == minute {
            return last & 1 == 1;
        }
        let holds = self.holds_at(minute);
        self.last.store(minute << 1 | u64::from(holds), Ordering::Relaxed);
        holds
    }

    fn holds_at(&self, minute: u64) -> bool {
        let Ok(time) = jiff::Timestamp::from_second(minute.saturating_mul(60).cast_signed()) else { return false };
        let local = self.zone.to_datetime(time);
        let (today, minute) = (local.date(), local.hour() as u16 * 60 + local.minute() as u16);
        if self.times.is_empty() {
            return self.on(today);
        }
        self.times.iter().any(|&(from, to)| {
            if from < to {
                from <= minute && minute < to && self.on(today)
            } else {
                (from <= minute && self.on(today)) || (minute < to && today.yesterday().is_ok_and(|day| self.on(day)))
            }
        })
    }

    /// Whether a span may begin on `day`.
    fn on(&self, day: Date) -> bool {
        self.days & bit(day.weekday()) != 0 && (self.dates.is_empty() || self.dates.iter().any(|dates| dates.has(day)))
    }

    /// The text it was read from.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }
}

fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for When {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut when = Self {
            text: text.trim().into(),
            days: 0,
            times: Vec::new(),
            dates: Vec::new(),
            zone: TimeZone::UTC,
            last: AtomicU64::new(u64::MAX),
        };
        let mut zoned = false;
        for word in text.split_whitespace() {
            if let Some(days) = days(word) {
                when.days |= days;
            } else if let Some(times) = list(word, times) {
                when.times.extend(times);
            } else if let Some(dates) = list(word, dates) {
                when.dates.extend(dates);
            } else if let (false, Ok(zone)) = (zoned, TimeZone::get(word)) {
                (when.zone, zoned) = (zone, true);
            } else {
                return Err(ConfigError::new(format!("{word:?} in {text:?} does not read: expected {EXPECTED}")));
            }
        }
        if text.trim().is_empty() {
            return Err(ConfigError::new(format!("times are missing: expected {EXPECTED}")));
        }
        if when.days == 0 {
            when.days = 0b111_1111;
        }
        Ok(when)
    }
}

fn list<T>(word: &str, one: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    word.split(',').map(one).collect()
}

/// `Mon-Fri`, `Sat,Sun`, `Fri-Mon`.
fn days(word: &str) -> Option<u8> {
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    word.split(',').try_fold(0, |set, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let count = (last + 7 - first) % 7;
        Some((0..=count).fold(set, |set, step| set | 1 << ((first + step) % 7)))
    })
}

/// `09:00-17:00`, in minutes; the end may be 24:00.
fn times(part: &str) -> Option<(u16, u16)> {
    let time = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let two = |text: &str| (text.len() == 2).then(|| text.parse::<u16>().ok()).flatten();
        let (hour, minute) = (two(hour)?, two(minute)?);
        (minute < 60 && hour * 60 + minute <= DAY).then_some(hour * 60 + minute)
    };
    let (from, to) = part.split_once('-')?;
    let (from, to) = (time(from)?, time(to)?);
    (from != to && from < DAY).then_some((from, to))
}

/// `2026-12-24`, `2026-12-24..2026-12-26`, `12-24`, `12-24..01-02`.
fn dates(part: &str) -> Option<Dates> {
    let (first, last) = part.split_once("..").unwrap_or((part, part));
    if let (Ok(first), Ok(last)) = (first.parse::<Date>(), last.parse::<Date>()) {
        return (first <= last).then_some(Dates::Once(first, last));
    }
    let yearly = |text: &str| {
        let (month, day) = text.split_once('-')?;
        let (month, day) = (month.parse().ok()?, day.parse().ok()?);
        // A leap year, so that the 29th of February can be named.
        Date::new(2024, month, day).ok().map(|_| (month, day))
    };
    Some(Dates::Yearly(yearly(first)?, yearly(last)?))
}

#[cfg(test)]
mod tests {
    use jiff::{Span, Zoned};

    use super::*;

    fn at(text: &str) -> Timestamp {
        let zoned: Zoned = text.parse().unwrap();
        Timestamp::from_nanos(zoned.timestamp().as_nanosecond().try_into().unwrap())
    }

    #[test]
    fn a_span_past_midnight_belongs_to_the_day_it_began() {
        let night: When = "Fri 22:00-06:00 Europe/Berlin".parse().unwrap();
        for (time, holds) in [
            ("2026-07-31T21:59[Europe/Berlin]", false),
            ("2026-07-31T22:00[Europe/Berlin]", true),
            ("2026-08-01T05:59[Europe/Berlin]", true),
            ("2026-08-01T06:00[Europe/Berlin]", false),
            ("2026-08-01T22:30[Europe/Berlin]", false),
            ("2026-07-31T05:00[Europe/Berlin]", false),
        ] {
            assert_eq!(night.holds(at(time)), holds, "{time}");
        }
    }

    #[test]
    fn what_clocks_leave_out_does_not_happen_and_what_they_repeat_happens_twice() {
        let when: When = "02:15-02:45 Europe/Berlin".parse().unwrap();
        let minutes = |date: &str| {
            let first = at(&format!("{date}T00:00[Europe/Berlin]"));
            (0..25 * 60).filter(|minute| when.holds(first.plus(minute * 60_000_000_000))).count()
        };
        assert_eq!(minutes("2026-03-28"), 30, "a usual day");
        assert_eq!(minutes("2026-03-29"), 0, "clocks go from 02:00 to 03:00");
        assert_eq!(minutes("2026-10-25"), 60, "clocks go from 03:00 to 02:00");
    }

    #[test]
    fn dates_are_inclusive_and_yearly_ones_go_past_new_year() {
        let once: When = "2026-12-24..2026-12-26 09:00-17:00".parse().unwrap();
        let yearly: When = "12-24..01-02".parse().unwrap();
        for (time, in_once, in_yearly) in [
            ("2026-12-23T12:00[UTC]", false, false),
            ("2026-12-24T09:00[UTC]", true, true),
            ("2026-12-26T16:59[UTC]", true, true),
            ("2026-12-26T17:00[UTC]", false, true),
            ("2027-01-02T23:59[UTC]", false, true),
            ("2027-01-03T00:00[UTC]", false, false),
        ] {
            assert_eq!((once.holds(at(time)), yearly.holds(at(time))), (in_once, in_yearly), "{time}");
        }
    }

    /// A model that knows nothing of offsets: it walks real minutes and asks the calendar of each.
    fn model(day_names: &[Weekday], from: (i8, i8), to: (i8, i8), time: &Zoned) -> bool {
        let clock = (time.hour(), time.minute());
        let before = time.date().checked_sub(Span::new().days(1)).unwrap().weekday();
        let today = day_names.contains(&time.weekday());
        if from < to {
            today && from <= clock && clock < to
        } else {
            (today && clock >= from) || (day_names.contains(&before) && clock < to)
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
        #[test]
        fn it_agrees_with_a_walk_over_every_minute(
            zone in proptest::sample::select(vec![
                "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca",
                "America/Sao_Paulo", "Pacific/Apia", "UTC",
            ]),
            from in 0u16..24 * 60, length in 1u16..24 * 60, mask in 1u8..128, start in 1_700_000_000i64..1_900_000_000,
        ) {
            let to = (from + length) % DAY;
            let hand = |minute: u16| ((minute / 60) as i8, (minute % 60) as i8);
            let names: Vec<&str> = (0..7).filter(|day| mask >> day & 1 == 1).map(|day| DAYS[day]).collect();
            let days: Vec<Weekday> = (0..7).filter(|day| mask >> day & 1 == 1)
                .map(|day| Weekday::from_monday_zero_offset(day).unwrap()).collect();
            let ((fh, fm), (th, tm)) = (hand(from), hand(to));
            let text = format!("{} {fh:02}:{fm:02}-{th:02}:{tm:02} {zone}", names.join(","));
            let when: When = text.parse().unwrap();
            let zone = TimeZone::get(zone).unwrap();
            // Both changes of the clocks lie within a year: every 7th minute of 13 months, from anywhere.
            for step in 0..(400 * 24 * 60 / 7) {
                let second = start - start % 60 + step * 7 * 60;
                let zoned = jiff::Timestamp::from_second(second).unwrap().to_zoned(zone.clone());
                let expected = model(&days, (fh, fm), (th, tm), &zoned);
                let told = when.holds(Timestamp::from_secs(second as u64));
                proptest::prop_assert_eq!(told, expected, "{} at {}", text, zoned);
            }
        }
    }

    #[test]
    fn what_does_not_read_is_named() {
        for (text, part) in [
            ("Mon-Fri 9:00-17:00", "\"9:00-17:00\""),
            ("Mon-Fri 09:00-25:00", "\"09:00-25:00\""),
            ("Europe/Berlinn", "\"Europe/Berlinn\""),
            ("2026-12-26..2026-12-24", "\"2026-12-26..2026-12-24\""),
            ("Mon UTC Europe/Berlin", "\"Europe/Berlin\""),
            ("", "missing"),
        ] {
            let error = text.parse::<When>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
