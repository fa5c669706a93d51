//! Days, weeks, months and years as they really are in a time zone.

use std::sync::Arc;

use jiff::civil::Weekday;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{ToSpan, Zoned};

use crate::CalendarUnit;

/// One calendar unit in one zone. Zones are those bundled with the build, the same on every host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Calendar {
    unit: CalendarUnit,
    zone: TimeZone,
}

fn database() -> &'static TimeZoneDatabase {
    static ZONES: std::sync::OnceLock<TimeZoneDatabase> = std::sync::OnceLock::new();
    ZONES.get_or_init(TimeZoneDatabase::bundled)
}

/// A zone's name in its own spelling, when there is such a zone.
pub(crate) fn zone_name(name: &str) -> Option<Arc<str>> {
    database().get(name).ok()?.iana_name().map(Arc::from)
}

impl Calendar {
    /// The calendar of a zone, UTC when none is named. `None` when there is no such zone.
    pub(crate) fn new(unit: CalendarUnit, zone: Option<&str>) -> Option<Self> {
        let zone = match zone {
            Some(name) => database().get(name).ok()?,
            None => TimeZone::UTC,
        };
        Some(Self { unit, zone })
    }

    /// The longest a unit lasts, in nanoseconds, with two hours to spare for changes of clocks.
    pub(crate) fn longest(&self) -> u64 {
        let days = match self.unit {
            CalendarUnit::Day => 1,
            CalendarUnit::Week => 7,
            CalendarUnit::Month => 31,
            CalendarUnit::Year => 366,
        };
        (days * 24 + 2) * 3_600 * 1_000_000_000
    }

    /// The unit that holds the instant `at`: its first instant and that of the next, in nanoseconds
    /// since the epoch.
    pub(crate) fn window(&self, at: u64) -> (u64, u64) {
        self.edges(at).unwrap_or((at, at.saturating_add(self.longest())))
    }

    fn edges(&self, at: u64) -> Option<(u64, u64)> {
        let here = jiff::Timestamp::from_nanosecond(i128::from(at)).ok()?.to_zoned(self.zone.clone());
        let day = here.start_of_day().ok()?;
        let (start, span) = match self.unit {
            CalendarUnit::Day => (day, 1.day()),
            CalendarUnit::Week => {
                let since = i64::from(day.weekday().since(Weekday::Monday));
                (day.checked_sub(since.days()).ok()?, 1.week())
            }
            CalendarUnit::Month => (day.first_of_month().ok()?, 1.month()),
            CalendarUnit::Year => (day.first_of_year().ok()?, 1.year()),
        };
        // By date, then that day's first instant: a day need not begin at midnight.
        let next = start.date().checked_add(span).ok()?;
        let next = next.to_zoned(self.zone.clone()).ok()?.start_of_day().ok()?;
        let start = start.start_of_day().ok()?;
        Some((nanos(&start)?, nanos(&next)?))
    }
}

fn nanos(at: &Zoned) -> Option<u64> {
    Some(u64::try_from(at.timestamp().as_nanosecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000_000_000;
    const UNITS: [CalendarUnit; 4] = [CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month, CalendarUnit::Year];

    fn seconds(text: &str) -> u64 {
        text.parse::<jiff::Timestamp>().unwrap().as_second() as u64 * 1_000_000_000
    }

    #[test]
    fn edges_are_where_the_calendar_has_them() {
        for (unit, zone, at, start, end) in [
            (CalendarUnit::Day, "Europe/Berlin", "2024-03-31T12:00Z", "2024-03-30T23:00Z", "2024-03-31T22:00Z"),
            (CalendarUnit::Day, "Europe/Berlin", "2024-10-27T12:00Z", "2024-10-26T22:00Z", "2024-10-27T23:00Z"),
            (CalendarUnit::Month, "UTC", "2024-02-29T23:59Z", "2024-02-01T00:00Z", "2024-03-01T00:00Z"),
            (CalendarUnit::Month, "America/New_York", "2024-03-15T00:00Z", "2024-03-01T05:00Z", "2024-04-01T04:00Z"),
            (CalendarUnit::Week, "UTC", "2024-02-29T00:00Z", "2024-02-26T00:00Z", "2024-03-04T00:00Z"),
            (CalendarUnit::Year, "Asia/Tokyo", "2024-12-31T15:00Z", "2024-12-31T15:00Z", "2025-12-31T15:00Z"),
            // Clocks go from 23:59:59 to 01:00:00: the day begins at one.
            (CalendarUnit::Day, "Africa/Cairo", "2024-04-26T12:00Z", "2024-04-25T22:00Z", "2024-04-26T21:00Z"),
            // Samoa had no 30 December 2011.
            (CalendarUnit::Day, "Pacific/Apia", "2011-12-30T09:00Z", "2011-12-29T10:00Z", "2011-12-30T10:00Z"),
        ] {
            let calendar = Calendar::new(unit, Some(zone)).unwrap();
            assert_eq!(calendar.window(seconds(at)), (seconds(start), seconds(end)), "{unit:?} {zone} {at}");
        }
    }

    #[test]
    fn zones_are_found_in_any_spelling_of_case() {
        assert_eq!(zone_name("europe/BERLIN").as_deref(), Some("Europe/Berlin"));
        assert_eq!(zone_name("Europe/Berln"), None);
    }

    proptest! {
        #[test]
        fn units_follow_each_other_without_a_gap(
            unit in prop::sample::select(UNITS.to_vec()),
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia", "Africa/Cairo"]),
            at in 0..4_000_000_000_000_000_000_u64,
        ) {
            let calendar = Calendar::new(unit, Some(zone)).unwrap();
            let (start, end) = calendar.window(at);
            prop_assert!(start <= at && at < end);
            prop_assert!(end - start <= calendar.longest() && end - start >= 22 * HOUR);
            prop_assert_eq!(calendar.window(start), (start, end));
            prop_assert_eq!(calendar.window(end - 1), (start, end));
            prop_assert_eq!(calendar.window(end).0, end);
        }
    }
}
