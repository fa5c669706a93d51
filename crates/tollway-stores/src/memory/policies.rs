//! Where each policy's keys are kept: chosen when a policy is first seen.
//!
//! A policy of one limit whose state fits a word gets a flat table of its own. Everything else is
//! kept in the map: several limits at once, and limits with very odd numbers (see `Layout::new`).
//! When a name comes back with other limits, its table is closed, and its keys move to the map one
//! by one as they are asked for, each with its share of what was spent.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use tollway_core::{Policy, Timestamp};

use crate::places::Places;
use crate::table::{Layout, Room, Table};

/// A table and the policy it was built for.
pub(super) struct Home {
    pub(super) policy: Arc<Policy>,
    pub(super) table: Table,
}

/// A policy with the table of its name.
#[derive(Clone)]
pub(super) struct Known {
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
    places: Places<Known>,
    names: Mutex<HashMap<Box<str>, Option<Arc<Home>>>>,
}

impl Policies {
    pub(super) fn new() -> Self {
        Self { places: Places::new(), names: Mutex::new(HashMap::new()) }
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
        let Ok(done) = self.places.with(policy, || Ok::<_, Infallible>(self.meet(policy, room, most, now)), step);
        done
    }

    /// What is known of a policy that was seen before.
    #[inline]
    pub(super) fn seen(&self, policy: &Arc<Policy>) -> Option<&Known> {
        self.places.seen(policy)
    }

    #[cold]
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
        Known { home, is_flat }
    }

    /// Keys in all tables.
    pub(super) fn held(&self) -> usize {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.values().flatten().map(|home| home.table.held()).sum()
    }
}
