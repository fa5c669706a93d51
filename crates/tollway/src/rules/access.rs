//! Who is turned away, and who is not counted.

use std::fmt;
use std::str::FromStr;

use arc_swap::ArcSwap;
use jiff::civil;
use tollway_core::{ConfigError, Timestamp};

use super::subject::{By, Directory};
use super::{Subject, Who};

/// The most entries one list may hold.
const MAX_ENTRIES: usize = 5_000_000;

/// What a list says of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Passes, and is not counted.
    Allow,
    /// Is turned away.
    Deny,
}

impl Access {
    /// The word people write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl FromStr for Access {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            _ => Err(ConfigError::new(format!("{text:?} is neither \"allow\" nor \"deny\""))),
        }
    }
}

/// One entry: `deny 203.0.113.0/24 until 2027-01-01T00:00:00Z`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom it is about.
    pub who: Who,
    /// What it says.
    pub access: Access,
    /// When it ends; `None` for never.
    pub until: Option<Timestamp>,
}

impl Entry {
    /// Reads one entry; one that says neither allow nor deny means `plain`.
    ///
    /// # Errors
    /// Names the part that does not read.
    pub fn parse(text: &str, plain: Access) -> Result<Self, ConfigError> {
        let mut words = text.split_whitespace().peekable();
        let access = match words.peek() {
            Some(&"allow") => Access::Allow,
            Some(&"deny") => Access::Deny,
            _ => plain,
        };
        words.next_if(|word| matches!(*word, "allow" | "deny"));
        let who = words.next().ok_or_else(|| ConfigError::new(format!("entry {text:?} names nobody")))?.parse()?;
        let until = match (words.next(), words.next(), words.next()) {
            (None, ..) => None,
            (Some("until"), Some(time), None) => Some(parse_time(time)?),
            _ => {
                return Err(ConfigError::new(format!(
                    "entry for {who}: expected nothing more, or \"until\" and a time such as 2027-01-01T00:00:00Z"
                )));
            }
        };
        Ok(Self { who, access, until })
    }

    /// Reads entries, one a line; what follows `#` or `;` is a comment.
    ///
    /// # Errors
    /// Names the line that does not read.
    pub fn parse_all(text: &str, plain: Access) -> Result<Vec<Self>, ConfigError> {
        let mut entries = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split(['#', ';']).next().unwrap_or("").trim();
            if !line.is_empty() {
                let named = |error| ConfigError::new(format!("line {}: {error}", number + 1));
                entries.push(Self::parse(line, plain).map_err(named)?);
            }
        }
        Ok(entries)
    }

    fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.access.name(), self.who)?;
        match self.until {
            Some(until) => write!(f, " until {}", time_text(until)),
            None => Ok(()),
        }
    }
}

/// Who is turned away and who is not counted, by address, network, user, API key and organisation.
///
/// Of networks the narrowest speaks: `deny 10.0.0.0/8` with `allow 10.1.0.0/16` denies 10.2.0.1 and
/// allows 10.1.0.1. Between a subject's address, user, key and organisation, and between two equal
/// entries, deny wins. An entry that has ended is as if it were not there.
///
/// A change is prepared aside and put in place at once: nobody sees half of it. Share it in an `Arc`.
///
/// ```
/// use tollway::rules::{Access, AccessList, Subject};
/// use tollway::Timestamp;
///
/// let list = AccessList::parse("deny 203.0.113.0/24   # a bad neighbourhood\nallow 203.0.113.7", Access::Deny)?;
/// let from = |address: &str| Subject { address: address.parse().ok(), ..Subject::default() };
/// let now = Timestamp::from_secs(1_800_000_000);
/// assert_eq!(list.judge(&from("203.0.113.8"), now).map(|entry| entry.access), Some(Access::Deny));
/// assert_eq!(list.judge(&from("::ffff:203.0.113.7"), now).map(|entry| entry.access), Some(Access::Allow));
/// assert_eq!(list.judge(&from("198.51.100.1"), now), None);
/// # Ok::<(), tollway::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct AccessList {
    table: ArcSwap<Table>,
    plain: Access,
}

#[derive(Debug, Default)]
struct Table {
    entries: Vec<Entry>,
    /// Whether any of them ends: otherwise nobody need look at a clock.
    ends: bool,
    by: Directory<u32>,
}

impl Table {
    fn new(entries: Vec<Entry>) -> Result<Self, ConfigError> {
        if entries.len() > MAX_ENTRIES {
            return Err(ConfigError::new(format!(
                "an access list holds at most {MAX_ENTRIES} entries, not {}",
                entries.len()
            )));
        }
        // Later ones count first, and deny wins.
        let indices = || entries.iter().enumerate().map(|(index, entry)| (entry, index as u32));
        let with = |access| indices().filter(move |(entry, _)| entry.access == access);
        let ordered = with(Access::Allow).chain(with(Access::Deny)).map(|(entry, index)| (entry.who.clone(), index));
        let by = Directory::new(ordered);
        let ends = entries.iter().any(|entry| entry.until.is_some());
        Ok(Self { entries, ends, by })
    }
}

impl AccessList {
    /// A list of these entries.
    ///
    /// # Errors
    /// When there are more than five million.
    pub fn new(entries: Vec<Entry>, plain: Access) -> Result<Self, ConfigError> {
        Ok(Self { table: ArcSwap::from_pointee(Table::new(entries)?), plain })
    }

    /// A list from text, one entry a line; what follows `#` or `;` is a comment. An entry that says
    /// neither allow nor deny means `plain`.
    ///
    /// # Errors
    /// Names the line that does not read.
    pub fn parse(text: &str, plain: Access) -> Result<Self, ConfigError> {
        Self::new(Entry::parse_all(text, plain)?, plain)
    }

    /// What an entry means that says neither allow nor deny.
    pub fn plain(&self) -> Access {
        self.plain
    }

    /// Puts these entries in place of all that are there, at once.
    ///
    /// # Errors
    /// As [`AccessList::new`]; the list stays as it was.
    pub fn replace(&self, entries: Vec<Entry>) -> Result<(), ConfigError> {
        self.table.store(Table::new(entries)?.into());
        Ok(())
    }

    /// The same from text.
    ///
    /// # Errors
    /// As [`AccessList::parse`]; the list stays as it was.
    pub fn replace_text(&self, text: &str) -> Result<(), ConfigError> {
        self.replace(Entry::parse_all(text, self.plain)?)
    }

    /// Adds an entry, or changes what is said of the same one. Costs a rebuild: feed many at once
    /// with [`AccessList::replace`].
    ///
    /// # Errors
    /// When the list is full.
    pub fn add(&self, entry: Entry) -> Result<(), ConfigError> {
        self.change(|entries| {
            entries.retain(|known| known.who != entry.who);
            entries.push(entry.clone());
            true
        })
        .map(|_| ())
    }

    /// Removes what is said of `who`; true when something was.
    pub fn remove(&self, who: &Who) -> bool {
        let changed = self.change(|entries| {
            let before = entries.len();
            entries.retain(|known| known.who != *who);
            entries.len() != before
        });
        changed.unwrap_or(false)
    }

    fn change(&self, edit: impl Fn(&mut Vec<Entry>) -> bool) -> Result<bool, ConfigError> {
        loop {
            let old = self.table.load_full();
            let mut entries = old.entries.clone();
            if !edit(&mut entries) {
                return Ok(false);
            }
            let next = std::sync::Arc::new(Table::new(entries)?);
            let found = self.table.compare_and_swap(&old, next);
            // Somebody else was faster: begin again from what they left.
            if std::sync::Arc::ptr_eq(&found, &old) {
                return Ok(true);
            }
        }
    }

    /// The entries, in the order they came.
    pub fn entries(&self) -> Vec<Entry> {
        self.table.load().entries.clone()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.table.load().entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry that speaks for a subject, if any.
    pub fn judge(&self, subject: &Subject<'_>, now: Timestamp) -> Option<Entry> {
        self.judge_when(subject, || now)
    }

    /// The same, asking for the time only when an entry ends.
    pub(super) fn judge_when(&self, subject: &Subject<'_>, now: impl Fn() -> Timestamp) -> Option<Entry> {
        let table = self.table.load();
        if table.entries.is_empty() {
            return None;
        }
        let mut allowed = None;
        for by in [By::Key, By::User, By::Org, By::Ip] {
            let holds = |index: &u32| !table.ends || table.entries[*index as usize].holds(now());
            let found = table.by.find(by, subject, holds);
            let Some(entry) = found.map(|index| &table.entries[*index as usize]) else { continue };
            if entry.access == Access::Deny {
                return Some(entry.clone());
            }
            allowed = allowed.or(Some(entry));
        }
        allowed.cloned()
    }
}

/// A moment: `2027-01-01T00:00:00Z`, with an offset, or without one and then in UTC.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, ConfigError> {
    let civil = || text.parse::<civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let found = text.parse::<jiff::Timestamp>().ok().or_else(|| Some(civil()?.timestamp()));
    found.and_then(|time| u64::try_from(time.as_nanosecond()).ok()).map(Timestamp::from_nanos).ok_or_else(|| {
        ConfigError::new(format!("{text:?} is no time: write one such as \"2027-01-01T00:00:00Z\" or \"2027-01-01\""))
    })
}

fn time_text(time: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time.nanos()))
        .map_or_else(|_| time.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn judged(list: &str, subject: &Subject<'_>) -> Option<String> {
        AccessList::parse(list, Access::Deny).unwrap().judge(subject, NOW).map(|entry| entry.to_string())
    }

    #[test]
    fn the_narrowest_network_speaks_and_deny_wins_between_kinds() {
        let list = "deny 10.0.0.0/8\nallow 10.1.0.0/16\nallow user:anna\ndeny user:mallory\n10.1.2.3";
        let from = |address: &str, user| Subject { address: address.parse().ok(), user, ..Subject::default() };
        for (address, user, spoken) in [
            ("10.2.0.1", None, Some("deny 10.0.0.0/8")),
            ("10.1.0.1", None, Some("allow 10.1.0.0/16")),
            ("10.1.2.3", None, Some("deny 10.1.2.3")),
            ("10.1.0.1", Some("mallory"), Some("deny user:mallory")),
            ("10.2.0.1", Some("anna"), Some("deny 10.0.0.0/8")),
            ("192.0.2.1", Some("anna"), Some("allow user:anna")),
            ("192.0.2.1", Some("bob"), None),
        ] {
            assert_eq!(judged(list, &from(address, user)).as_deref(), spoken, "{address} {user:?}");
        }
        assert_eq!(judged("allow 10.0.0.1\ndeny 10.0.0.1", &from("10.0.0.1", None)).as_deref(), Some("deny 10.0.0.1"));
        assert_eq!(judged("deny 10.0.0.1\nallow 10.0.0.1", &from("10.0.0.1", None)).as_deref(), Some("deny 10.0.0.1"));
    }

    #[test]
    fn an_entry_that_has_ended_leaves_the_wider_one() {
        let list = "deny 10.0.0.0/8\nallow 10.1.0.0/16 until 2020-01-01\nallow 10.2.0.0/16 until 2100-01-01T00:00:00Z";
        let from = |address: &str| Subject { address: address.parse().ok(), ..Subject::default() };
        assert_eq!(judged(list, &from("10.1.0.1")).as_deref(), Some("deny 10.0.0.0/8"));
        assert_eq!(judged(list, &from("10.2.0.1")).as_deref(), Some("allow 10.2.0.0/16 until 2100-01-01T00:00:00Z"));
    }

    #[test]
    fn what_is_changed_is_changed_at_once_or_not_at_all() {
        let list = AccessList::parse("10.0.0.1", Access::Deny).unwrap();
        list.add(Entry::parse("allow 10.0.0.1", Access::Deny).unwrap()).unwrap();
        assert_eq!(list.entries().len(), 1);
        assert!(list.remove(&"10.0.0.1".parse().unwrap()) && list.is_empty());
        assert!(!list.remove(&"10.0.0.1".parse().unwrap()));
        list.replace_text("10.0.0.2").unwrap();
        let error = list.replace_text("10.0.0.3\nnobody here").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("nobody"), "{error}");
        assert_eq!(list.entries()[0].to_string(), "deny 10.0.0.2");
    }

    #[test]
    fn threads_that_add_lose_nothing() {
        let list = AccessList::new(Vec::new(), Access::Deny).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let list = &list;
                scope.spawn(move || {
                    for number in 0..50 {
                        list.add(Entry::parse(&format!("user:{thread}-{number}"), Access::Deny).unwrap()).unwrap();
                    }
                });
            }
        });
        assert_eq!(list.len(), 200);
    }

    #[test]
    fn a_bad_entry_is_named_and_a_key_in_clear_is_not_repeated() {
        for (text, part) in [
            ("deny", "names nobody"),
            ("10.0.0.0/33", "names nobody"),
            ("10.0.0.1 until tomorrow", "no time"),
            ("10.0.0.1 forever", "until"),
            ("key:sk-live-secret", "hash_identity"),
        ] {
            let error = Entry::parse(text, Access::Deny).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("sk-live"), "{error}");
        }
    }
}
