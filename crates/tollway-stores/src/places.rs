//! What is known of a policy, found by the policy's address alone.

use std::sync::{Arc, OnceLock};

use tollway_core::Policy;

/// How many policies are found so, and how many places one may stand in. Others, such as policies
/// built anew for each call, are met again each time.
const PLACES: usize = 256;
const TRIES: usize = 8;

/// A policy, kept alive so that its address stays its own, with what is known of it.
type Place<T> = OnceLock<(Arc<Policy>, T)>;

pub(crate) struct Places<T>(Box<[Place<T>]>);

impl<T: Clone> Places<T> {
    pub(crate) fn new() -> Self {
        Self((0..PLACES).map(|_| OnceLock::new()).collect())
    }

    /// Where a policy may stand.
    #[inline]
    fn places(&self, policy: &Arc<Policy>) -> impl Iterator<Item = &Place<T>> {
        let first = (Arc::as_ptr(policy) as usize).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        (0..TRIES).map(move |turn| &self.0[(first + turn) % PLACES])
    }

    /// What is known of a policy that stands here.
    #[inline]
    pub(crate) fn seen(&self, policy: &Arc<Policy>) -> Option<&T> {
        let mut there = self.places(policy).map_while(OnceLock::get);
        there.find(|(there, _)| Arc::ptr_eq(there, policy)).map(|(_, known)| known)
    }

    /// Runs `step` with what is known of `policy`, which `meet` finds out the first time.
    #[inline]
    pub(crate) fn with<R, E>(
        &self,
        policy: &Arc<Policy>,
        meet: impl FnOnce() -> Result<T, E>,
        step: impl FnOnce(&T) -> R,
    ) -> Result<R, E> {
        match self.seen(policy) {
            Some(known) => Ok(step(known)),
            None => Ok(step(&self.keep(policy, meet()?))),
        }
    }

    #[cold]
    fn keep(&self, policy: &Arc<Policy>, known: T) -> T {
        if let Some(place) = self.places(policy).find(|place| place.get().is_none()) {
            // Who was faster has the place; what is known here is found out again the next time.
            let _ = place.set((Arc::clone(policy), known.clone()));
        }
        known
    }
}
