//! Where each policy's keys are kept: chosen when a policy is first seen.
//!
//! A policy of one limit whose state fits a word gets a flat table of its own. Everything else is
//! kept in the map: several limits at once, and limits with very odd numbers (see `Layout::new`).
//! When a name comes back with other limits, its table is closed, and its keys move to the map one
//! by one as they are asked for, each with its share of what was spent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tollway_core::{Policy, Timestamp};

use crate::table::{Layout, Room, Table};

/// Policies found by their address alone, and how many places one may stand in. Others, such as
/// policies built anew for each call, are found by name, under a lock.
const PLACES: usize = 256;
const TRIES: usize = 8;

/// A table and the policy it was built for.
pub(super) struct Home {
    pub(super) policy: Arc<Policy>,
    pub(super) table: Table,
}

/// A policy with the table of its name.
#[derive(Clone)]
pub(super) struct Known {
    policy: Arc<Policy>,
    /// The table of that name, if it has or had one.
    pub(super) home: Option<Arc<Home>>,
    /// Whether the table is for this very policy, not for one that had its name before.
    pub(super) is_flat: bool,
}

impl Known {
    /// The table that the policy is counted in.
    #[inline]
    pub(super) fn flat(&self) -> Option<&Home> {
        self.home.as_deref().filter(|_| self.is_flat)
    }
}

pub(super) struct Policies {
    places: Box<[OnceLock<Known>]>,
    names: Mutex<HashMap<Box<str>, Option<Arc<Home>>>>,
}

impl Policies {
    pub(super) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| OnceLock::new()).collect(), names: Mutex::new(HashMap::new()) }
    }

    /// Runs `step` with what is known of `policy`.
    #[inline]
    pub(super) fn with<T>(
        &self,
        policy: &Arc<Policy>,
        room: &Room,
        most: usize,
        now: Timestamp,
        step: impl FnOnce(&Known) -> T,
    ) -> T {
        match self.seen(policy) {
            Some(known) => step(known),
            None => step(&self.met(policy, room, most, now)),
        }
    }

    /// Where a policy may stand among those found by their address.
    #[inline]
    fn places(&self, policy: &Arc<Policy>) -> impl Iterator<Item = &OnceLock<Known>> {
        let first = (Arc::as_ptr(policy) as usize).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        (0..TRIES).map(move |turn| &self.places[(first + turn) % PLACES])
    }

    /// What is known of a policy that stands there.
    #[inline]
    pub(super) fn seen(&self, policy: &Arc<Policy>) -> Option<&Known> {
        self.places(policy).map_while(OnceLock::get).find(|known| Arc::ptr_eq(&known.policy, policy))
    }

    #[cold]
    fn met(&self, policy: &Arc<Policy>, room: &Room, most: usize, now: Timestamp) -> Known {
        let known = self.meet(policy, room, most, now);
        if let Some(place) = self.places(policy).find(|place| place.get().is_none()) {
            // Kept alive here, so its address stays its own.
            let _ = place.set(known.clone());
        }
        known
    }

    fn meet(&self, policy: &Arc<Policy>, room: &Room, most: usize, now: Timestamp) -> Known {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let home = match names.get(policy.name()) {
            Some(home) => home.clone(),
            None => {
                let layout = if let [limit] = policy.limits() { Layout::new(limit) } else { None };
                let home = layout
                    .map(|layout| Arc::new(Home { policy: Arc::clone(policy), table: Table::new(layout, most, room) }));
                names.insert(policy.name().into(), home.clone());
                home
            }
        };
        let is_flat = home.as_ref().is_some_and(|home| home.policy == *policy);
        if let Some(home) = &home
            && !is_flat
        {
            home.table.close(now);
        }
        Known { policy: Arc::clone(policy), home, is_flat }
    }

    /// Keys in all tables.
    pub(super) fn held(&self) -> usize {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.values().flatten().map(|home| home.table.held()).sum()
    }
}
