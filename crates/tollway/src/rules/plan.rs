//! Which rates a limit comes to, for whom and when.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ahash::HashMap;
use tollway_core::{Algorithm, ConfigError, Policy, Rate, Timestamp};

use super::When;
use super::paths::Pattern;
use super::subject::{By, Directory};

/// Policies kept ready for each variant; others are made anew for each request.
const MAX_MADE: usize = 1_024;
/// What a shadow's state is kept under.
const SHADOW: &str = "~shadow";

/// Why a limit is what it is for somebody: `tier pro`, `override user:42, schedule Mon-Fri`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub(super) what: Option<Arc<str>>,
    pub(super) when: Option<Arc<str>>,
}

impl Rule {
    /// Whether there is nothing to say: the limit is its own.
    pub fn is_plain(&self) -> bool {
        self.what.is_none() && self.when.is_none()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.what, &self.when) {
            (None, None) => Ok(()),
            (Some(what), None) => f.write_str(what),
            (None, Some(when)) => write!(f, "schedule {when}"),
            (Some(what), Some(when)) => write!(f, "{what}, schedule {when}"),
        }
    }
}

/// Rates, and others at some times.
#[derive(Debug)]
pub(super) struct Quota {
    /// `None`: those of the policy that the door gives.
    pub(super) rates: Option<Vec<Rate>>,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) schedule: Vec<(When, Vec<Rate>)>,
}

/// A quota in a place: the policies it becomes, made when they are first asked for.
#[derive(Debug)]
pub(super) struct Variant {
    /// What the policy's name gets: nothing, `@pro`, `@override`.
    suffix: Box<str>,
    quota: Quota,
    made: RwLock<HashMap<Box<str>, Made>>,
}

#[derive(Debug)]
struct Made {
    given: Option<Arc<Policy>>,
    /// The plain one, then one for each time in the schedule; enforced and shadow.
    policies: Vec<[Arc<Policy>; 2]>,
}

impl Variant {
    /// A variant of a limit. `name` is for checking only: every rate must be one its algorithm keeps.
    pub(super) fn new(suffix: &str, quota: Quota) -> Result<Self, ConfigError> {
        let variant = Self { suffix: suffix.into(), quota, made: RwLock::default() };
        let algorithm = variant.quota.algorithm.unwrap_or(Algorithm::Gcra);
        let all = variant.quota.rates.iter().chain(variant.quota.schedule.iter().map(|(_, rates)| rates));
        for rates in all {
            Policy::from_rates("rates", rates.clone(), algorithm)?;
        }
        Ok(variant)
    }

    /// Whether it has rates of its own at all times.
    pub(super) fn has_rates(&self) -> bool {
        self.quota.rates.is_some()
    }

    /// The policy that holds at `now`, and the time in the schedule that made it so.
    ///
    /// # Errors
    /// When the given policy's algorithm cannot keep these rates.
    pub(super) fn policy(
        &self,
        name: &str,
        given: Option<&Arc<Policy>>,
        shadow: bool,
        now: impl FnOnce() -> Timestamp,
    ) -> Result<(Arc<Policy>, Option<Arc<str>>), ConfigError> {
        let slot = if self.quota.schedule.is_empty() {
            None
        } else {
            let now = now();
            self.quota.schedule.iter().position(|(when, _)| when.holds(now))
        };
        if let (Some(given), None, None, true, false) = (given, slot, &self.quota.rates, self.suffix.is_empty(), shadow)
        {
            return Ok((Arc::clone(given), None));
        }
        let when = slot.map(|slot| Arc::clone(self.quota.schedule[slot].0.text()));
        let pick = |made: &Made| Arc::clone(&made.policies[slot.map_or(0, |slot| slot + 1)][usize::from(shadow)]);
        let same = |made: &Made| match (&made.given, given) {
            (Some(known), Some(given)) => Arc::ptr_eq(known, given) || known == given,
            (known, given) => known.is_none() && given.is_none(),
        };
        {
            let known = self.made.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(made) = known.get(name).filter(|made| same(made)) {
                return Ok((pick(made), when));
            }
        }
        let made = self.make(name, given)?;
        let policy = pick(&made);
        let mut known = self.made.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_MADE || known.contains_key(name) {
            known.insert(name.into(), made);
        }
        Ok((policy, when))
    }

    fn make(&self, name: &str, given: Option<&Arc<Policy>>) -> Result<Made, ConfigError> {
        let given_algorithm = || given.map(|policy| policy.algorithm());
        let algorithm = self.quota.algorithm.or_else(given_algorithm).unwrap_or(Algorithm::Gcra);
        let own: Vec<Rate> = match (&self.quota.rates, given) {
            (Some(rates), _) => rates.clone(),
            (None, Some(policy)) => policy.limits().iter().map(|limit| limit.rate().clone()).collect(),
            (None, None) => Vec::new(),
        };
        // What else the given policy says goes on holding: its bucket, and what is answered in trouble.
        let bucket = given.filter(|policy| algorithm == Algorithm::TokenBucket && policy.algorithm() == algorithm);
        let bucket = bucket.map(|policy| *policy.limits()[0].bucket());
        let named = |name: String, rates: &Vec<Rate>| -> Result<Arc<Policy>, ConfigError> {
            let mut policy = Policy::from_rates(&name, rates.clone(), algorithm)?;
            if let Some(bucket) = bucket {
                policy = policy.with_bucket(bucket)?;
            }
            if let Some(fail_mode) = given.and_then(|given| given.fail_mode()) {
                policy = policy.with_fail_mode(fail_mode);
            }
            Ok(Arc::new(policy))
        };
        let both = |rates: &Vec<Rate>| -> Result<[Arc<Policy>; 2], ConfigError> {
            let suffix = &self.suffix;
            Ok([named(format!("{name}{suffix}"), rates)?, named(format!("{name}{suffix}{SHADOW}"), rates)?])
        };
        let all = std::iter::once(&own).chain(self.quota.schedule.iter().map(|(_, rates)| rates));
        Ok(Made { given: given.cloned(), policies: all.map(both).collect::<Result<_, _>>()? })
    }
}

/// One level of a limit: the caller's own, the organisation's, everybody's.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) name: Arc<str>,
    /// By what it is counted; empty when the door says.
    pub(super) by: Vec<By>,
    /// What its policy is called when no door has named it.
    pub(super) policy_name: Box<str>,
    pub(super) base: Variant,
    pub(super) tiers: HashMap<Box<str>, (Variant, Arc<str>)>,
}

/// An exception for somebody.
#[derive(Debug)]
pub(super) struct Override {
    pub(super) cause: Arc<str>,
    pub(super) by: By,
    pub(super) level: Option<Box<str>>,
    /// `None`: not limited at this level.
    pub(super) variant: Option<Arc<Variant>>,
    pub(super) from: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
}

impl Override {
    pub(super) fn holds(&self, now: impl Fn() -> Timestamp) -> bool {
        self.from.is_none_or(|from| from <= now()) && self.until.is_none_or(|until| now() < until)
    }

    /// Which level of a plan it is about.
    pub(super) fn target(&self, plan: &Plan) -> usize {
        let named = |level: &Level| match &self.level {
            Some(name) => *level.name == **name,
            None => level.by == [self.by],
        };
        plan.levels.iter().position(named).unwrap_or(0)
    }
}

/// How often a shadow was asked, and how often it would have refused.
#[derive(Debug, Default)]
pub struct ShadowCount {
    asked: AtomicU64,
    refused: AtomicU64,
}

impl ShadowCount {
    pub(super) fn note(&self, refused: bool) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.refused.fetch_add(u64::from(refused), Ordering::Relaxed);
    }

    /// Requests it saw.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Requests it would have refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// One limit as the rules have it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: Box<str>,
    /// The requests it is for; none when doors name it.
    pub(super) patterns: Vec<Pattern>,
    pub(super) levels: Vec<Level>,
    pub(super) overrides: Directory<Override>,
    /// Of ten thousand keys, how many it binds; the others see a shadow.
    pub(super) enforce: u16,
    pub(super) shadow: Arc<ShadowCount>,
}

impl Plan {
    /// Whether it is a shadow for the client with this key. Raising the share only ever adds clients
    /// to those it binds.
    pub(super) fn is_shadow(&self, key: &str) -> bool {
        match self.enforce {
            10_000.. => false,
            0 => true,
            share => bucket(&self.name, key) >= share,
        }
    }
}

/// One of ten thousand places: the same for the same texts in every process and release.
fn bucket(name: &str, key: &str) -> u16 {
    // FNV-1a, and a mixer for its weak low bits.
    let bytes = name.bytes().chain([0]).chain(key.bytes());
    let mut hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    ((hash ^ (hash >> 33)) % 10_000) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_keys_is_even_and_a_key_stays_where_it_is() {
        let within = |share: u16| (0..20_000).filter(|n| bucket("search", &format!("user:{n}")) < share).count();
        for (share, low, high) in [(100, 140, 260), (1_000, 1_850, 2_150), (5_000, 9_700, 10_300)] {
            assert!((low..high).contains(&within(share)), "{share}: {}", within(share));
        }
        // Pinned: another release must put keys into the same places.
        let places = [("search", "user:42"), ("search", "user:43"), ("login", "user:42")];
        assert_eq!(places.map(|(name, key)| bucket(name, key)), [7844, 2847, 4366]);
    }
}
