//! What is allowed: `100/m burst 20`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::calendar;
use crate::{ConfigError, RateError};

/// The most permits a rate may give in one period, and the largest burst.
pub const MAX_PERMITS: u32 = 1_000_000_000;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const DAY: u64 = 86_400 * SECOND;
const WEEK: u64 = 7 * DAY;
const YEAR: u64 = 366 * DAY;
const UNITS: &str = "a unit: ms, s, m, h, d, w (or month, year)";

/// A calendar unit, counted in the real days, weeks, months and years of a time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CalendarUnit {
    /// From midnight to midnight: 23 to 25 hours where clocks are changed.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first of a month to the first of the next.
    Month,
    /// From the first of January to the next.
    Year,
}

impl CalendarUnit {
    /// The word people write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// How long a rate's permits last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// A fixed number of nanoseconds, a whole number of milliseconds.
    Fixed(u64),
    /// A calendar day, week, month or year in an IANA time zone. Months and years without one are
    /// those of UTC; days and weeks without one are fixed lengths.
    Calendar {
        /// The unit.
        unit: CalendarUnit,
        /// The zone's name.
        zone: Option<Arc<str>>,
    },
}

/// Permits in a period, and how many more may come at once.
///
/// `Rate` that exists is a legal rate: 1 to 10⁹ permits, 1 ms to a year.
///
/// ```
/// use tollway_core::Rate;
///
/// let rate: Rate = "100 per minute burst 20".parse()?;
/// assert_eq!(rate.to_string(), "100/m burst 20");
/// assert_eq!(rate.capacity(), 120);
///
/// let error = "5/fortnight".parse::<Rate>().unwrap_err();
/// assert_eq!(error.position, 2);
/// # Ok::<(), tollway_core::RateError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    permits: u32,
    period: Period,
    burst: u32,
    smooth: bool,
}

impl Rate {
    /// `permits` each `period_ns` nanoseconds, and `burst` more at once.
    ///
    /// # Errors
    /// When a number is out of its range or the period is not a whole number of milliseconds.
    pub fn new(permits: u32, period_ns: u64, burst: u32) -> Result<Self, ConfigError> {
        if permits == 0 || permits > MAX_PERMITS {
            return Err(ConfigError::new(format!("a rate has 1 to {MAX_PERMITS} permits, not {permits}")));
        }
        if !period_ns.is_multiple_of(MS) || !(MS..=YEAR).contains(&period_ns) {
            return Err(ConfigError::new(format!(
                "a period is a whole number of milliseconds from 1ms to a year, not {period_ns} ns"
            )));
        }
        if burst > MAX_PERMITS {
            return Err(ConfigError::new(format!("a burst is at most {MAX_PERMITS}, not {burst}")));
        }
        Ok(Self { permits, period: Period::Fixed(period_ns), burst, smooth: false })
    }

    /// `permits` each calendar unit of a time zone, UTC when none is named.
    ///
    /// ```
    /// use tollway_core::{CalendarUnit, Rate};
    ///
    /// let quota = Rate::calendar(10_000, CalendarUnit::Month, Some("europe/berlin"))?;
    /// assert_eq!(quota.to_string(), "10000/month Europe/Berlin");
    /// # Ok::<(), tollway_core::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// When the number is out of its range or there is no such zone.
    pub fn calendar(permits: u32, unit: CalendarUnit, zone: Option<&str>) -> Result<Self, ConfigError> {
        let rate = Self::new(permits, SECOND, 0)?;
        let zone = match zone {
            Some(name) => Some(calendar::zone_name(name).ok_or_else(|| {
                ConfigError::new(format!("there is no time zone {name:?}: write one such as \"Europe/Berlin\""))
            })?),
            None if matches!(unit, CalendarUnit::Day | CalendarUnit::Week) => Some("UTC".into()),
            None => None,
        };
        Ok(Self { period: Period::Calendar { unit, zone }, ..rate })
    }

    /// The same rate spaced evenly from the first request on: it admits `1 + burst` at once.
    #[must_use]
    pub fn smooth(mut self) -> Self {
        self.smooth = true;
        self
    }

    /// Permits in a period.
    pub fn permits(&self) -> u32 {
        self.permits
    }

    /// The period.
    pub fn period(&self) -> &Period {
        &self.period
    }

    /// Permits that may come at once beyond the rate's own.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Whether requests are spaced from the first on.
    pub fn is_smooth(&self) -> bool {
        self.smooth
    }

    /// The most that can pass at one instant: `permits + burst`, or `1 + burst` when smooth.
    pub fn capacity(&self) -> u32 {
        if self.smooth { 1 + self.burst } else { self.permits + self.burst }
    }

    /// So many millionths of the rate: permits and burst rounded down, but at least 1 permit.
    ///
    /// ```
    /// use tollway_core::Rate;
    ///
    /// let rate: Rate = "10/s burst 5".parse()?;
    /// assert_eq!(rate.share(250_000).to_string(), "2/s burst 1");
    /// # Ok::<(), tollway_core::RateError>(())
    /// ```
    #[must_use]
    pub fn share(&self, millionths: u32) -> Self {
        let part = |permits: u32| (u64::from(permits) * u64::from(millionths.min(1_000_000)) / 1_000_000) as u32;
        Self { permits: part(self.permits).max(1), burst: part(self.burst), ..self.clone() }
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let mut parser = Parser { text, at: 0 };
        let rate = parser.rate()?;
        parser.end("the end of the rate (several rates are separated by ';')")?;
        Ok(rate)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.permits, self.period)?;
        if self.smooth {
            f.write_str(" smooth")?;
        }
        if self.burst > 0 {
            write!(f, " burst {}", self.burst)?;
        }
        Ok(())
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(u64, &str); 5] = [
            (7 * 86_400 * SECOND, "w"),
            (86_400 * SECOND, "d"),
            (3_600 * SECOND, "h"),
            (60 * SECOND, "m"),
            (SECOND, "s"),
        ];
        match self {
            Self::Fixed(nanos) => {
                let (size, name) =
                    NAMES.into_iter().find(|(size, _)| nanos.is_multiple_of(*size)).unwrap_or((MS, "ms"));
                match nanos / size {
                    1 => f.write_str(name),
                    count => write!(f, "{count}{name}"),
                }
            }
            Self::Calendar { unit, zone } => {
                f.write_str(unit.name())?;
                zone.as_ref().map_or(Ok(()), |zone| write!(f, " {zone}"))
            }
        }
    }
}

/// One or more rates that hold together: `10/s; 1000/h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates(pub Vec<Rate>);

impl FromStr for Rates {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let mut parser = Parser { text, at: 0 };
        let mut rates = vec![parser.rate()?];
        loop {
            parser.space();
            if !parser.take(';') && !parser.take(',') {
                break;
            }
            parser.space();
            if parser.at == text.len() {
                break;
            }
            rates.push(parser.rate()?);
        }
        parser.end("';' and another rate, or the end")?;
        Ok(Self(rates))
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rate) in self.0.iter().enumerate() {
            write!(f, "{}{rate}", if index > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

/// Nanoseconds of a duration such as `500ms`, `1m`, `1h30m`, `1d`.
///
/// # Errors
/// Names the position at which the text stops being a duration.
pub fn parse_duration(text: &str) -> Result<u64, RateError> {
    let mut parser = Parser { text, at: 0 };
    parser.space();
    let start = parser.at;
    match parser.period()? {
        Period::Fixed(nanos) => parser.end("the end of the duration").map(|()| nanos),
        Period::Calendar { .. } => Err(parser.error(start, "a duration such as 500ms, 1m, 1h30m or 1d")),
    }
}

/// A period such as `1m`, `month` or `day Europe/Berlin`.
///
/// # Errors
/// Names the position at which the text stops being a period.
pub fn parse_period(text: &str) -> Result<Period, RateError> {
    let mut parser = Parser { text, at: 0 };
    parser.space();
    let period = parser.period()?;
    let period = parser.in_zone(period)?;
    parser.end("the end of the period")?;
    Ok(period)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, position: usize, expected: &str) -> RateError {
        RateError { text: self.text.to_owned(), position, expected: expected.to_owned() }
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn run(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn keyword(&mut self, word: &str) -> bool {
        let start = self.at;
        if self.run(|c| c.is_ascii_alphabetic()).eq_ignore_ascii_case(word) {
            return true;
        }
        self.at = start;
        false
    }

    fn end(&mut self, expected: &str) -> Result<(), RateError> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { Err(self.error(self.at, expected)) }
    }

    fn number(&mut self, least: u32, expected: &str) -> Result<u32, RateError> {
        let start = self.at;
        let digits = self.run(|c| c.is_ascii_digit() || c == '_').replace('_', "");
        match digits.parse() {
            Ok(value) if (least..=MAX_PERMITS).contains(&value) => Ok(value),
            _ => Err(self.error(start, expected)),
        }
    }

    fn rate(&mut self) -> Result<Rate, RateError> {
        self.space();
        let permits = self.number(1, "a number of permits from 1 to 1000000000")?;
        self.space();
        if !self.take('/') && !self.keyword("per") {
            return Err(self.error(self.at, "'/' or 'per'"));
        }
        self.space();
        let period = self.period()?;
        let period = self.in_zone(period)?;
        let mut rate = Rate { permits, period, burst: 0, smooth: false };
        loop {
            self.space();
            if self.keyword("burst") {
                self.space();
                rate.burst = self.number(0, "a burst from 0 to 1000000000")?;
            } else if self.keyword("smooth") {
                rate.smooth = true;
            } else {
                return Ok(rate);
            }
        }
    }

    fn period(&mut self) -> Result<Period, RateError> {
        let start = self.at;
        let mut nanos: u64 = 0;
        loop {
            let (count, unit_at) = self.count()?;
            let unit = self.run(|c| c.is_ascii_alphabetic()).to_ascii_lowercase();
            let size = match unit.as_str() {
                "ms" | "msec" | "millisecond" | "milliseconds" => MS,
                "s" | "sec" | "secs" | "second" | "seconds" => SECOND,
                "m" | "min" | "mins" | "minute" | "minutes" => 60 * SECOND,
                "h" | "hr" | "hrs" | "hour" | "hours" => 3_600 * SECOND,
                "d" | "day" | "days" => 86_400 * SECOND,
                "w" | "week" | "weeks" => 7 * 86_400 * SECOND,
                "month" | "year" | "y" if nanos == 0 && matches!(count, None | Some((1, 1))) => {
                    let unit = if unit == "month" { CalendarUnit::Month } else { CalendarUnit::Year };
                    return Ok(Period::Calendar { unit, zone: None });
                }
                "month" | "months" | "year" | "years" | "y" => {
                    return Err(self.error(start, "one calendar month or year, without a count"));
                }
                _ => return Err(self.error(unit_at, UNITS)),
            };
            let (value, scale) = count.unwrap_or((1, 1));
            let part = u128::from(value) * u128::from(size);
            let total = part / u128::from(scale) + u128::from(nanos);
            if !part.is_multiple_of(u128::from(scale) * u128::from(MS)) || total > u128::from(YEAR) || total == 0 {
                return Err(self.error(start, "a whole number of milliseconds from 1ms to a year"));
            }
            nanos = total as u64;
            if count.is_none() || !self.rest().starts_with(|c: char| c.is_ascii_digit()) {
                return Ok(Period::Fixed(nanos));
            }
        }
    }

    /// An optional count such as `30` or `1.5`, as a fraction, and where the unit begins.
    fn count(&mut self) -> Result<(Option<(u64, u64)>, usize), RateError> {
        let start = self.at;
        let whole = self.run(|c| c.is_ascii_digit());
        let mut value: Option<u64> = whole.parse().ok();
        let mut scale = 1;
        if !whole.is_empty() && self.take('.') {
            let part = self.run(|c| c.is_ascii_digit());
            scale = 10_u64.checked_pow(part.len() as u32).filter(|_| !part.is_empty() && part.len() < 10).unwrap_or(0);
            value = value.zip(part.parse().ok()).and_then(|(w, p): (u64, u64)| w.checked_mul(scale)?.checked_add(p));
        }
        if whole.is_empty() {
            return Ok((None, self.at));
        }
        match value {
            Some(value) if scale > 0 => {
                self.space();
                Ok((Some((value, scale)), self.at))
            }
            _ => Err(self.error(start, "a period such as 30s, 1.5h or 1h30m")),
        }
    }

    /// The period, in the time zone that may follow a calendar unit.
    fn in_zone(&mut self, period: Period) -> Result<Period, RateError> {
        let unit = match period {
            Period::Calendar { unit, .. } => unit,
            Period::Fixed(DAY) => CalendarUnit::Day,
            Period::Fixed(WEEK) => CalendarUnit::Week,
            Period::Fixed(_) => return Ok(period),
        };
        let start = self.at;
        self.space();
        let name_at = self.at;
        let name = self.run(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+'));
        let keyword = ["burst", "smooth"].iter().any(|word| name.eq_ignore_ascii_case(word));
        if keyword || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            self.at = start;
            return Ok(period);
        }
        match calendar::zone_name(name) {
            Some(zone) => Ok(Period::Calendar { unit, zone: Some(zone) }),
            None => Err(self.error(name_at, "a time zone such as Europe/Berlin, 'burst', 'smooth' or ';'")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        text.parse::<Rates>().unwrap_or_else(|e| panic!("{e}")).to_string()
    }

    #[test]
    fn every_spelling_reads() {
        for (text, canonical) in [
            ("5/s", "5/s"),
            ("100/m", "100/m"),
            ("1000/h", "1000/h"),
            ("10000/d", "10000/d"),
            ("50000/w", "50000/w"),
            ("100/minute", "100/m"),
            ("100 per minute", "100/m"),
            ("100 PER Minutes", "100/m"),
            ("10/30s", "10/30s"),
            ("10/30 seconds", "10/30s"),
            ("1/2h", "1/2h"),
            ("1/120m", "1/2h"),
            ("5/100ms", "5/100ms"),
            ("5/0.1s", "5/100ms"),
            ("7/1h30m", "7/90m"),
            ("100/m burst 20", "100/m burst 20"),
            ("100/m smooth burst 5", "100/m smooth burst 5"),
            ("1_000/h", "1000/h"),
            ("10/s; 1000/h", "10/s; 1000/h"),
            ("10/s,1000/h;", "10/s; 1000/h"),
            ("10000/month", "10000/month"),
            ("10000/month Europe/Berlin", "10000/month Europe/Berlin"),
            ("1/year utc burst 2", "1/year UTC burst 2"),
            ("500/day europe/berlin", "500/day Europe/Berlin"),
            ("500/1d UTC", "500/day UTC"),
            ("7/week America/New_York; 2/s", "7/week America/New_York; 2/s"),
            ("500/d", "500/d"),
            (" 5 / 10s ", "5/10s"),
        ] {
            assert_eq!(shown(text), canonical, "{text}");
            assert_eq!(shown(canonical), canonical, "{canonical}");
        }
    }

    #[test]
    fn a_bad_rate_names_the_position() {
        for (text, position, part) in [
            ("", 0, "permits"),
            ("abc", 0, "permits"),
            ("0/s", 0, "1 to 1000000000"),
            ("1000000001/s", 0, "1 to 1000000000"),
            ("5", 1, "'/'"),
            ("5/", 2, "unit"),
            ("5/fortnight", 2, "unit"),
            ("5/10", 4, "unit"),
            ("5/10x", 4, "unit"),
            ("5/0s", 2, "1ms"),
            ("5/0.5ms", 2, "milliseconds"),
            ("5/400d", 2, "year"),
            ("5/99999999999999999999s", 2, "period"),
            ("5/2month", 2, "without a count"),
            ("5/s burst", 9, "burst"),
            ("5/s burst x", 10, "burst"),
            ("5/s; ", 5, ""),
            ("5/s; x", 5, "permits"),
            ("5/s hello", 4, ";"),
            ("5/s UTC", 4, ";"),
            ("5/2d UTC", 5, ";"),
            ("5/d Mars/Olympus", 4, "time zone"),
            ("5/month Europe/Berln", 8, "time zone"),
            ("-5/s", 0, "permits"),
            ("5/é", 2, "unit"),
        ] {
            let result = text.parse::<Rates>();
            if part.is_empty() {
                assert!(result.is_ok(), "{text}");
                continue;
            }
            let error = result.expect_err(text);
            assert_eq!(error.position, position, "{error}");
            assert!(error.expected.contains(part), "{error}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn durations_read() {
        assert_eq!(parse_duration("1h30m").unwrap(), 5_400 * SECOND);
        assert_eq!(parse_duration("500ms").unwrap(), 500 * MS);
        assert!(parse_duration("month").is_err());
        assert!(parse_duration("5s x").is_err());
    }

    proptest! {
        #[test]
        fn display_prints_what_parses(permits in 1..=MAX_PERMITS, ms in 1..=366 * 86_400_000_u64, burst in 0..=MAX_PERMITS) {
            let rate = Rate::new(permits, ms * MS, burst).unwrap();
            prop_assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Rates>();
        }

        #[test]
        fn nearly_rates_do_not_panic(text in "[0-9_/. ;,a-z]{0,24}") {
            if let Ok(rates) = text.parse::<Rates>() {
                prop_assert_eq!(rates.to_string().parse::<Rates>().unwrap(), rates);
            }
        }
    }
}
