//! Which table belongs to which limit of which policy.
//!
//! A limit has one table for each policy name it stands in, found by the name and the limit's text.
//! A policy whose rate changes gets new tables; the old ones stay until all their keys are idle and
//! no living process has them open, because a key starts in a new table with the share it had spent
//! in the old one.

use tollway_core::{Algorithm, Limit, Policy, Timestamp};

use super::ground::Mapped;
use super::segment::{ENTRY, NEWS, Segment};
use crate::table::{Layout, Level};

/// Bytes that an entry has for a name, and for a limit.
const NAME: usize = 13 * WORD;
const LIMIT: usize = (ENTRY - 1) * WORD - NAME;
const WORD: usize = tollway_mapping::WORD;
/// Set in an entry's first word once the rest of it is there.
const USED: u128 = 1 << 127;

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    /// Algorithm and rate.
    limit: String,
    /// Which limit of its policy it is.
    index: u16,
}

/// One limit's table.
pub(super) struct Seat {
    pub(super) table: usize,
    pub(super) index: u16,
    pub(super) layout: Layout,
    pub(super) level: Level<Mapped>,
}

/// Why a policy has no tables.
pub(super) enum Refused {
    /// It can never have any.
    Unfit(String),
    /// Not as things are.
    Trouble(String),
}

/// A limit as an entry has it, if what is read from there has the same law. What a bucket may have
/// besides has no layout, or is the caller's business.
fn spell(limit: &Limit) -> Option<String> {
    let text = format!("{} {}", limit.algorithm(), limit.rate());
    let is_same = |read: Limit| read.rate() == limit.rate() && read.algorithm() == limit.algorithm();
    (text.len() <= LIMIT && read(&text).is_some_and(is_same)).then_some(text)
}

fn read(text: &str) -> Option<Limit> {
    let (algorithm, rate) = text.split_once(' ')?;
    let policy = Policy::new("read", rate, algorithm.parse::<Algorithm>().ok()?).ok()?;
    policy.limits().first().cloned()
}

/// The layouts and texts of a policy's limits, or why shared memory cannot keep it.
pub(super) fn fitting(policy: &Policy) -> Result<Vec<(Layout, String)>, String> {
    let fit = |limit: &Limit| Layout::new(limit).zip(spell(limit));
    let unfit = |limit: &Limit| {
        format!(
            "policy {:?} keeps {} by {}, and its state does not fit the word that shared memory has for a key: use \
             another algorithm or rounder numbers, or a Redis backend",
            policy.name(),
            limit.rate(),
            limit.algorithm()
        )
    };
    policy.limits().iter().map(|limit| fit(limit).ok_or_else(|| unfit(limit))).collect()
}

/// The tables of a segment, and which of them this store has open.
pub(super) struct Directory {
    open: Vec<bool>,
}

impl Directory {
    pub(super) fn new(segment: &Segment) -> Self {
        Self { open: vec![false; segment.shape.tables] }
    }

    /// The tables of a policy, made where there are none. Under the segment's lock.
    pub(super) fn seats(&mut self, segment: &Segment, policy: &Policy, now: Timestamp) -> Result<Vec<Seat>, Refused> {
        let name = policy.name();
        let fitting = fitting(policy).map_err(Refused::Unfit)?;
        let mut seats = Vec::new();
        for (index, (layout, text)) in fitting.into_iter().enumerate() {
            let entry = Entry { name: name.to_owned(), limit: text, index: index as u16 };
            let table = match self.find(segment, &entry) {
                Some(table) => table,
                None => self.add(segment, &entry, now).map_err(Refused::Trouble)?,
            };
            self.hold(segment, table).map_err(Refused::Trouble)?;
            let level = Level::new(Mapped::new(segment, table));
            seats.push(Seat { table, index: entry.index, layout, level });
        }
        Ok(seats)
    }

    /// Tables of the same name for limits it no longer has, that may have something to say. Under the
    /// segment's lock.
    pub(super) fn others(
        &mut self,
        segment: &Segment,
        name: &str,
        own: &[Seat],
        now: Timestamp,
    ) -> Result<Vec<Seat>, String> {
        let mut others = Vec::new();
        for table in 0..segment.shape.tables {
            let Some(entry) = entry(segment, table).filter(|entry| entry.name == name) else { continue };
            if own.iter().any(|seat| seat.table == table) || self.retire(segment, table, &entry, now)? {
                continue;
            }
            self.hold(segment, table)?;
            if let Some(layout) = read(&entry.limit).and_then(|limit| Layout::new(&limit)) {
                let level = Level::new(Mapped::new(segment, table));
                others.push(Seat { table, index: entry.index, layout, level });
            }
        }
        Ok(others)
    }

    fn find(&self, segment: &Segment, wanted: &Entry) -> Option<usize> {
        (0..segment.shape.tables).find(|table| {
            entry(segment, *table).is_some_and(|entry| entry.name == wanted.name && entry.limit == wanted.limit)
        })
    }

    /// Says to other processes that this one has a table open.
    fn hold(&mut self, segment: &Segment, table: usize) -> Result<(), String> {
        if !self.open[table] {
            let held = segment.mapping.hold(table);
            held.map_err(|error| format!("{}: table {table}: {error}", segment.path.display()))?;
            self.open[table] = true;
        }
        Ok(())
    }

    /// Takes a table back in which all keys are idle and which no living process has open.
    fn retire(&self, segment: &Segment, table: usize, entry: &Entry, now: Timestamp) -> Result<bool, String> {
        let failed = |error| format!("{}: table {table}: {error}", segment.path.display());
        if self.open[table] || !segment.mapping.claim(table).map_err(failed)? {
            return Ok(false);
        }
        let layout = read(&entry.limit).and_then(|limit| Layout::new(&limit));
        let idle = layout.is_none_or(|layout| Level::new(Mapped::new(segment, table)).is_idle(&layout, now));
        if idle {
            segment.store(segment.shape.entry(table), 0);
            announce(segment);
        }
        segment.mapping.release(table).map_err(failed)?;
        Ok(idle)
    }

    fn add(&self, segment: &Segment, wanted: &Entry, now: Timestamp) -> Result<usize, String> {
        let free = |segment: &Segment| (0..segment.shape.tables).find(|table| entry(segment, *table).is_none());
        let table = match free(segment) {
            Some(table) => table,
            None => {
                for table in 0..segment.shape.tables {
                    if let Some(entry) = entry(segment, table) {
                        self.retire(segment, table, &entry, now)?;
                    }
                }
                free(segment).ok_or_else(|| {
                    format!(
                        "{} has {} tables, one for each limit of each policy, and all are in use: policy {:?} needs one \
                         for {}; stop all processes that use it, remove the file, and give them a larger tables=",
                        segment.path.display(),
                        segment.shape.tables,
                        wanted.name,
                        wanted.limit
                    )
                })?
            }
        };
        // Whatever was there, or was begun by somebody who died.
        segment.clear(table)?;
        segment.reserve(table)?;
        let place = segment.shape.entry(table);
        write(segment, place + 1, wanted.name.as_bytes());
        write(segment, place + 1 + NAME / WORD, wanted.limit.as_bytes());
        let lengths = (wanted.name.len() as u128) << 32 | (wanted.limit.len() as u128) << 16;
        segment.store(place, USED | lengths | u128::from(wanted.index));
        announce(segment);
        Ok(table)
    }
}

/// How often the directory has changed.
pub(super) fn changes(segment: &Segment) -> u64 {
    (segment.load(NEWS) >> 64) as u64
}

fn announce(segment: &Segment) {
    segment.store(NEWS, segment.load(NEWS).wrapping_add(1 << 64));
}

fn entry(segment: &Segment, table: usize) -> Option<Entry> {
    let place = segment.shape.entry(table);
    let first = segment.load(place);
    if first & USED == 0 {
        return None;
    }
    let text = |word: usize, length: u128, most: usize| {
        let bytes: Vec<u8> = (0..most / WORD).flat_map(|at| segment.load(word + at).to_le_bytes()).collect();
        String::from_utf8_lossy(&bytes[..(length as usize & 0xFFFF).min(most)]).into_owned()
    };
    Some(Entry {
        name: text(place + 1, first >> 32, NAME),
        limit: text(place + 1 + NAME / WORD, first >> 16, LIMIT),
        index: first as u16,
    })
}

/// Puts text into words, from `word` on.
pub(super) fn write(segment: &Segment, word: usize, bytes: &[u8]) {
    for (at, chunk) in bytes.chunks(WORD).enumerate() {
        let mut padded = [0; WORD];
        padded[..chunk.len()].copy_from_slice(chunk);
        segment.store(word + at, u128::from_le_bytes(padded));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_back_from_their_text() {
        let mut read_back = 0;
        for algorithm in Algorithm::all() {
            for rate in ["5/m", "77/7s", "13/7ms", "1000000000/365d", "1/ms", "20/1500ms"] {
                let Ok(policy) = Policy::new("p", rate, algorithm) else { continue };
                let limit = policy.limits()[0].clone();
                if Layout::new(&limit).is_some() {
                    assert_eq!(spell(&limit).and_then(|text| read(&text)), Some(limit), "{rate} {algorithm}");
                    read_back += 1;
                }
            }
        }
        assert!(read_back > 30, "{read_back}");
        for (rate, algorithm) in [
            ("5/m burst 3", Algorithm::Gcra),
            ("5/m smooth", Algorithm::Gcra),
            ("10000/month Europe/Berlin", Algorithm::Calendar),
            ("500/day UTC", Algorithm::Calendar),
        ] {
            let limit = Policy::new("p", rate, algorithm).unwrap().limits()[0].clone();
            assert!(spell(&limit).is_some(), "{rate}");
        }
    }
}
