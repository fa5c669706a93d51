//! Count by outcome: failed logins lock a client out, a successful one clears what is known of it.

use std::sync::Arc;

use tollway_core::{
    Algorithm, Align, Change, Charge, ConfigError, Decision, Policy, Reply, StoreError, StoreErrorKind,
};

use crate::Limiter;

/// The most combinations of fields one lock-out may count.
const MAX_COMBINATIONS: usize = 8;

/// Limits on failures, counted by combinations of fields such as `username+ip`.
///
/// An attempt takes its place before its outcome is known and keeps it unless it succeeds. So the
/// bound is exact, however many attempts run at once: no more failures than the limit, in any
/// period its algorithm promises. The price is that an attempt that is still running counts as
/// failed for the others.
///
/// With [`Lockout::counting_after`] nothing is held: an attempt looks first and is charged when it
/// has failed. Then at most the limit, and as many more as ran at the same time, can fail; use it where
/// most requests succeed, such as answers of an endpoint that are counted by status.
///
/// ```
/// use std::sync::Arc;
/// use tollway::rules::Lockout;
/// use tollway::{FailMode, Limiter};
/// use tollway_stores::memory::MemoryStore;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let limiter = Limiter::new(Arc::new(MemoryStore::new(1_000)), FailMode::Closed);
/// let lockout = Lockout::new("login", &[("username+ip", "2/15m"), ("ip", "100/h")])?;
/// let anna = [("username", "anna"), ("ip", "203.0.113.7")];
///
/// assert!(lockout.attempt(&limiter, &anna).await?.decision().allowed);     // a wrong password
/// let second = lockout.attempt(&limiter, &anna).await?;                     // the right one
/// second.succeeded(&limiter).await?;                                        // forgets the first
/// for _ in 0..2 {
///     lockout.attempt(&limiter, &anna).await?.failed(&limiter).await?;
/// }
/// let locked = lockout.attempt(&limiter, &anna).await?;
/// assert!(!locked.decision().allowed && locked.combination() == Some("username+ip"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Lockout {
    name: Box<str>,
    combinations: Arc<[Combination]>,
    hold: bool,
}

#[derive(Debug)]
struct Combination {
    text: Box<str>,
    fields: Vec<Box<str>>,
    policy: Arc<Policy>,
    /// Whether a success forgets its failures.
    clears: bool,
}

impl Lockout {
    /// A lock-out with a rate for each combination of fields, in windows that begin with the first
    /// failure.
    ///
    /// A success forgets the failures of combinations of several fields, since these have just proved
    /// themselves. Those of a single field get back only what the attempt itself took: else an
    /// attacker could clear an address by logging in to an account of their own.
    ///
    /// # Errors
    /// When a combination or a rate does not read, or a rate is not one that the algorithm keeps.
    pub fn new(name: &str, limits: &[(&str, &str)]) -> Result<Self, ConfigError> {
        Self::with_algorithm(name, limits, Algorithm::FixedWindow(Align::First))
    }

    /// The same with another algorithm.
    ///
    /// # Errors
    /// As [`Lockout::new`].
    pub fn with_algorithm(name: &str, limits: &[(&str, &str)], algorithm: Algorithm) -> Result<Self, ConfigError> {
        if limits.is_empty() || limits.len() > MAX_COMBINATIONS {
            return Err(ConfigError::new(format!(
                "lock-out {name:?} has {} limits: give it 1 to {MAX_COMBINATIONS}, such as username+ip: 5/15m",
                limits.len()
            )));
        }
        let mut combinations: Vec<Combination> = Vec::new();
        for (text, rate) in limits {
            let fields: Vec<Box<str>> = text.split('+').map(|field| field.trim().into()).collect();
            let legal =
                |field: &str| !field.is_empty() && field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !fields.iter().all(|field| legal(field)) || combinations.iter().any(|known| *known.text == **text) {
                return Err(ConfigError::new(format!(
                    "lock-out {name:?}: {text:?} is no combination of fields of its own: write names joined by \
                     \"+\", such as \"username+ip\""
                )));
            }
            let policy = Policy::new(&format!("{name}/{text}"), rate, algorithm)?;
            let clears = fields.len() > 1;
            combinations.push(Combination { text: (*text).into(), fields, policy: Arc::new(policy), clears });
        }
        Ok(Self { name: name.into(), combinations: combinations.into(), hold: true })
    }

    /// The same where a success forgets the failures of these combinations.
    ///
    /// # Errors
    /// When one of them is not counted.
    pub fn clearing(mut self, clears: &[&str]) -> Result<Self, ConfigError> {
        if let Some(unknown) = clears.iter().find(|text| !self.combinations.iter().any(|known| *known.text == ***text))
        {
            let known: Vec<_> = self.combinations.iter().map(|known| &*known.text).collect();
            return Err(ConfigError::new(format!(
                "lock-out {:?} does not count {unknown:?}: it counts {}",
                self.name,
                known.join(", ")
            )));
        }
        let marked = |known: &Combination| Combination {
            text: known.text.clone(),
            fields: known.fields.clone(),
            policy: Arc::clone(&known.policy),
            clears: clears.contains(&&*known.text),
        };
        self.combinations = self.combinations.iter().map(marked).collect();
        Ok(self)
    }

    /// The same without holding a place while the outcome is not known.
    #[must_use]
    pub fn counting_after(mut self) -> Self {
        self.hold = false;
        self
    }

    /// What its combinations are counted by, in their order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.combinations.iter().map(|combination| &combination.policy)
    }

    /// Begins an attempt: refused when any combination has used up its limit, and then nothing is
    /// charged. Combinations with a field that is not given are left out. One round trip.
    ///
    /// # Errors
    /// What the store said, when the fail mode is closed; `Unsupported` when no combination has all
    /// of its fields.
    pub fn attempt(&self, limiter: &Limiter, fields: &[(&str, &str)]) -> Reply<Attempt> {
        self.ask(limiter, fields, !self.hold)
    }

    /// What [`Lockout::attempt`] would say; nothing is charged. One round trip.
    ///
    /// # Errors
    /// As [`Lockout::attempt`].
    pub fn peek(&self, limiter: &Limiter, fields: &[(&str, &str)]) -> Reply<Attempt> {
        self.ask(limiter, fields, true)
    }

    fn ask(&self, limiter: &Limiter, fields: &[(&str, &str)], peek: bool) -> Reply<Attempt> {
        let places = self.places(fields);
        if places.is_empty() {
            return Box::pin(std::future::ready(Err(self.lacking(limiter))));
        }
        let pairs = places.iter().map(|(index, key)| (&self.combinations[*index].policy, key));
        let charges: Vec<_> = pairs.map(|(policy, key)| Charge { policy, key, cost: 1 }).collect();
        let answer = if peek { limiter.peek(&charges) } else { limiter.check(&charges) };
        drop(charges);
        let (combinations, hold) = (Arc::clone(&self.combinations), self.hold);
        Box::pin(async move { Ok(Attempt { decision: answer.await?, combinations, places, hold }) })
    }

    /// Forgets every failure of these fields: unlocks. One round trip for each combination.
    ///
    /// # Errors
    /// What the store said.
    pub fn clear(&self, limiter: &Limiter, fields: &[(&str, &str)]) -> Reply<()> {
        let places = self.places(fields);
        if places.is_empty() {
            return Box::pin(std::future::ready(Err(self.lacking(limiter))));
        }
        all(places.iter().map(|(index, key)| limiter.reset(&self.combinations[*index].policy, key)).collect())
    }

    /// The key of each combination that has all of its fields.
    fn places(&self, fields: &[(&str, &str)]) -> Vec<(usize, Box<str>)> {
        let value = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let key = |combination: &Combination| {
            let mut key = String::new();
            for field in &combination.fields {
                let value = value(field).filter(|value| !value.is_empty())?;
                if !key.is_empty() {
                    key.push('+');
                }
                key.push_str(field);
                key.push('=');
                // So that what one field holds is never read as two.
                key.push_str(&value.replace('%', "%25").replace('+', "%2B"));
            }
            Some(key.into())
        };
        let numbered = self.combinations.iter().enumerate();
        numbered.filter_map(|(index, combination)| Some((index, key(combination)?))).collect()
    }

    fn lacking(&self, limiter: &Limiter) -> StoreError {
        let known: Vec<_> = self.combinations.iter().map(|known| &*known.text).collect();
        let detail = format!("lock-out {:?} counts {}: give it the fields of one", self.name, known.join(", "));
        StoreError::new(StoreErrorKind::Unsupported, limiter.store().name(), detail)
    }
}

/// An attempt whose outcome is awaited. Dropping it counts as a failure, unless nothing was held.
#[derive(Debug)]
#[must_use = "an attempt that is dropped counts as failed"]
pub struct Attempt {
    decision: Decision,
    combinations: Arc<[Combination]>,
    places: Vec<(usize, Box<str>)>,
    hold: bool,
}

impl Attempt {
    /// Whether it may go on, and how long a client that is locked out has to wait.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The combination that speaks: the one that locks, or the one with the fewest failures left.
    pub fn combination(&self) -> Option<&str> {
        let (index, _) = self.places.get(usize::from(self.decision.charge))?;
        Some(&self.combinations[*index].text)
    }

    /// The policies that were asked, in the order of the decision's `charge`.
    pub fn policies(&self) -> Arc<[Arc<Policy>]> {
        self.places.iter().map(|(index, _)| Arc::clone(&self.combinations[*index].policy)).collect()
    }

    /// It has failed. Costs nothing where a place is held, else one round trip for each combination.
    ///
    /// # Errors
    /// What the store said.
    pub fn failed(self, limiter: &Limiter) -> Reply<()> {
        if self.hold || !self.decision.allowed {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.change(limiter, 1, |_| false)
    }

    /// It has succeeded: the failures of the combinations that clear are forgotten, the others get
    /// back what this attempt took. One round trip for each.
    ///
    /// # Errors
    /// What the store said.
    pub fn succeeded(self, limiter: &Limiter) -> Reply<()> {
        if !self.decision.allowed {
            return Box::pin(std::future::ready(Ok(())));
        }
        let back = if self.hold { -1 } else { 0 };
        self.change(limiter, back, |combination| combination.clears)
    }

    /// It came to nothing, neither way: what it took is given back.
    ///
    /// # Errors
    /// What the store said.
    pub fn cancel(self, limiter: &Limiter) -> Reply<()> {
        if !self.decision.allowed || !self.hold {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.change(limiter, -1, |_| false)
    }

    fn change(&self, limiter: &Limiter, delta: i64, forget: impl Fn(&Combination) -> bool) -> Reply<()> {
        let mut replies: Vec<Reply<()>> = Vec::new();
        for (index, key) in &self.places {
            let combination = &self.combinations[*index];
            if forget(combination) {
                replies.push(limiter.reset(&combination.policy, key));
            } else if delta != 0 {
                let reply = limiter.adjust(&combination.policy, key, Change::by(delta), self.decision.degraded);
                replies.push(Box::pin(async move { reply.await.map(|_| ()) }));
            }
        }
        all(replies)
    }
}

/// All of them, one after the other; the first error.
fn all(replies: Vec<Reply<()>>) -> Reply<()> {
    Box::pin(async move {
        let mut first = Ok(());
        for reply in replies {
            first = first.and(reply.await);
        }
        first
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (limits, part) in [
            (&[][..], "has 0 limits"),
            (&[("username ip", "5/m")], "\"username ip\""),
            (&[("a+", "5/m")], "\"a+\""),
            (&[("ip", "5/m"), ("ip", "6/m")], "of its own"),
            (&[("ip", "five")], "position 0"),
        ] {
            let error = Lockout::new("login", limits).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = Lockout::new("login", &[("ip", "5/m")]).unwrap().clearing(&["user"]).unwrap_err().to_string();
        assert!(error.contains("\"user\"") && error.contains("counts ip"), "{error}");
    }

    #[test]
    fn values_that_look_like_two_fields_stay_one() {
        let lockout = Lockout::new("login", &[("a+b", "5/m")]).unwrap();
        let one = lockout.places(&[("a", "x+b=y"), ("b", "z")]);
        let other = lockout.places(&[("a", "x"), ("b", "y+b=z")]);
        assert_ne!(one, other);
        assert!(lockout.places(&[("a", "x")]).is_empty());
    }
}
