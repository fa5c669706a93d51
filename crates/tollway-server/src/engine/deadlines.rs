//! How long the exchanges of one connection may still take.

use std::cell::RefCell;
use std::task::Waker;
use std::time::Instant;

use smallvec::SmallVec;

/// One exchange that waits.
struct Entry {
    /// `None` once it was woken for it.
    at: Option<Instant>,
    waker: Waker,
}

/// Names an entry of [`Deadlines`] for as long as its exchange waits.
#[derive(Debug, Default)]
pub(super) struct Place(Option<usize>);

/// The exchanges of a connection that wait, each with its deadline. There is one
/// at most over HTTP/1, and one for each open stream over HTTP/2.
#[derive(Default)]
pub(super) struct Deadlines {
    entries: RefCell<SmallVec<[Option<Entry>; 1]>>,
}

impl Deadlines {
    /// Sets the deadline of an exchange, and whom to wake then.
    pub(super) fn set(&self, place: &mut Place, at: Instant, waker: &Waker) {
        let entries = &mut *self.entries.borrow_mut();
        let index = match place.0 {
            Some(index) => index,
            None => match entries.iter().position(Option::is_none) {
                Some(index) => index,
                None => {
                    entries.push(None);
                    entries.len() - 1
                }
            },
        };
        place.0 = Some(index);
        match &mut entries[index] {
            Some(entry) if entry.waker.will_wake(waker) => entry.at = Some(at),
            slot => *slot = Some(Entry { at: Some(at), waker: waker.clone() }),
        }
    }

    /// The exchange waits no more.
    pub(super) fn clear(&self, place: &mut Place) {
        if let Some(index) = place.0.take() {
            let entry = self.entries.borrow_mut()[index].take();
            drop(entry);
        }
    }

    /// The first deadline.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.entries.borrow().iter().flatten().filter_map(|entry| entry.at).min()
    }

    /// Wakes every exchange whose deadline has come.
    pub(super) fn wake_due(&self, now: Instant) {
        let mut due: SmallVec<[Waker; 4]> = SmallVec::new();
        for entry in self.entries.borrow_mut().iter_mut().flatten() {
            if entry.at.take_if(|at| *at <= now).is_some() {
                due.push(entry.waker.clone());
            }
        }
        due.into_iter().for_each(Waker::wake);
    }
}
