//! Dates and times as ISO 8601 writes them and RFC 3339 profiles them, read without a
//! calendar library: what arrives is checked to be a real day and a real time of day.

/// A day in the proleptic Gregorian calendar, years 1 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// 1 to 9999.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

/// A time of day, with an offset from UTC where one was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999 999. Further digits of a fraction are cut off.
    pub microsecond: u32,
    /// Seconds east of UTC, less than a day either way. `None` when no zone was given.
    pub offset: Option<i32>,
}

/// A day and a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// The day.
    pub date: Date,
    /// The time of day.
    pub time: Time,
}

impl Date {
    /// Reads `YYYY-MM-DD`.
    pub fn parse(text: &str) -> Option<Date> {
        let (date, rest) = read_date(text.as_bytes())?;
        rest.is_empty().then_some(date)
    }
}

impl Time {
    /// Reads `HH:MM`, `HH:MM:SS` or `HH:MM:SS.fraction`, then nothing, `Z` or `+HH:MM`.
    pub fn parse(text: &str) -> Option<Time> {
        read_time(text.as_bytes())
    }
}

impl DateTime {
    /// Reads a date, then `T`, `t`, `_` or a space, then a time.
    pub fn parse(text: &str) -> Option<DateTime> {
        let (date, rest) = read_date(text.as_bytes())?;
        let (separator, rest) = rest.split_first()?;
        if !b"Tt _".contains(separator) {
            return None;
        }
        Some(DateTime { date, time: read_time(rest)? })
    }
}

fn read_date(text: &[u8]) -> Option<(Date, &[u8])> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(after(rest, b'-')?, 2)?;
    let (day, rest) = digits(after(rest, b'-')?, 2)?;
    let real = (1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    real.then_some((Date { year: year as u16, month: month as u8, day: day as u8 }, rest))
}

fn read_time(text: &[u8]) -> Option<Time> {
    let (hour, rest) = digits(text, 2)?;
    let (minute, mut rest) = digits(after(rest, b':')?, 2)?;
    let (mut second, mut microsecond) = (0, 0);
    if let Some(tail) = after(rest, b':') {
        (second, rest) = digits(tail, 2)?;
        if let Some(tail) = after(rest, b'.').or_else(|| after(rest, b',')) {
            (microsecond, rest) = fraction(tail)?;
        }
    }
    let offset = read_offset(rest)?;
    (hour < 24 && minute < 60 && second < 60).then_some(Time {
        hour: hour as u8,
        minute: minute as u8,
        second: second as u8,
        microsecond,
        offset,
    })
}

/// The digits after the point as microseconds.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 || count > 18 {
        return None;
    }
    let kept = count.min(6);
    let (value, _) = digits(text, kept)?;
    Some((value * 10_u32.pow(6 - kept as u32), &text[count..]))
}

/// `None` for a malformed zone, `Some(None)` for no zone.
fn read_offset(text: &[u8]) -> Option<Option<i32>> {
    let (&sign, rest) = match text.split_first() {
        None => return Some(None),
        Some(first) => first,
    };
    if matches!(sign, b'Z' | b'z') {
        return rest.is_empty().then_some(Some(0));
    }
    let direction = match sign {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, rest) = digits(rest, 2)?;
    let (minutes, rest) = match rest {
        [] => (0, rest),
        _ => digits(after(rest, b':').unwrap_or(rest), 2)?,
    };
    let fits = rest.is_empty() && hours < 24 && minutes < 60;
    fits.then_some(Some(direction * (hours * 3600 + minutes * 60) as i32))
}

fn after(text: &[u8], mark: u8) -> Option<&[u8]> {
    match text.split_first() {
        Some((&first, rest)) if first == mark => Some(rest),
        _ => None,
    }
}

/// Exactly `count` digits (at most 9) as a number.
fn digits(text: &[u8], count: usize) -> Option<(u32, &[u8])> {
    let (head, rest) = text.split_at_checked(count)?;
    let mut value = 0;
    for byte in head {
        value = value * 10 + char::from(*byte).to_digit(10)?;
    }
    Some((value, rest))
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_days_are_read() {
        for good in ["2024-02-29", "2000-02-29", "0001-01-01", "9999-12-31"] {
            assert!(Date::parse(good).is_some(), "{good}");
        }
        for bad in [
            "2023-02-29",
            "1900-02-29",
            "0000-01-01",
            "2024-13-01",
            "2024-00-01",
            "2024-04-31",
            "2024-1-01",
            "24-01-01",
            "2024-01-01x",
            "2024/01/01",
            "",
            "+024-01-01",
            "2024-01-01T",
        ] {
            assert!(Date::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn times_carry_fractions_and_zones() {
        let time = Time::parse("23:59:58.1234567+05:30").unwrap();
        assert_eq!((time.hour, time.minute, time.second), (23, 59, 58));
        assert_eq!((time.microsecond, time.offset), (123_456, Some(19_800)));
        assert_eq!(Time::parse("01:02Z").unwrap().offset, Some(0));
        assert_eq!(Time::parse("01:02-0100").unwrap().offset, Some(-3600));
        assert_eq!(Time::parse("01:02:03.5").unwrap().microsecond, 500_000);
        for bad in ["24:00", "1:00", "01:60", "01:02:60", "01:02:03.", "01:02+24:00", "01:02 Z", "01:02Zx"] {
            assert!(Time::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_date_time_needs_both_halves() {
        assert!(DateTime::parse("2024-02-29T10:00:00Z").is_some());
        assert!(DateTime::parse("2024-02-29 10:00").is_some());
        for bad in ["2024-02-29", "2024-02-29T", "2024-02-29x10:00", "10:00", "2024-02-30T10:00"] {
            assert!(DateTime::parse(bad).is_none(), "{bad}");
        }
    }
}
