//! Rules, then the limiter.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tollway_core::{Charge, Decision, Mode, NEVER, Policy, Reason, Request, StoreError, StoreErrorKind, Timestamp};

use super::{Resolution, Rule, Ruled, RuledCharge, Rules, Subject};
use crate::Limiter;

/// A decision, and which rules made it.
#[derive(Clone, Debug)]
pub struct Ruling {
    /// The decision. Its `charge` counts among [`Ruling::policies`], or among the charges as they
    /// were given when that is `None`.
    pub decision: Decision,
    /// What the shadows said, when there were any: it never refuses, and `reason` says whether it
    /// would have.
    pub shadow: Option<Decision>,
    ruled: Option<Arc<Ruled>>,
    why: Option<Arc<str>>,
}

impl Ruling {
    fn plain(decision: Decision) -> Self {
        Self { decision, shadow: None, ruled: None, why: None }
    }

    /// The charge that speaks, when rules made it.
    pub fn charge(&self) -> Option<&RuledCharge> {
        let ruled = self.ruled.as_ref()?;
        let from = if ruled.charges.is_empty() { &ruled.shadows[..] } else { &ruled.charges[..] };
        from.get(usize::from(self.decision.charge))
    }

    /// The level that speaks: `client`, `org`, `global`, as the rules name it.
    pub fn level(&self) -> Option<&str> {
        self.charge().map(|charge| &*charge.level)
    }

    /// The rule that chose the rate that speaks; `None` when the limit holds as it was written.
    pub fn rule(&self) -> Option<&Rule> {
        self.charge().map(|charge| &charge.rule).filter(|rule| !rule.is_plain())
    }

    /// The entry, path or override because of which nothing was counted.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// The policies of the shadows, in the order of [`Ruling::shadow`]'s `charge`.
    pub fn shadow_policies(&self) -> Arc<[Arc<Policy>]> {
        let shadows = self.ruled.iter().flat_map(|ruled| &ruled.shadows);
        shadows.map(|charge| Arc::clone(&charge.policy)).collect()
    }

    /// The policies that were charged; `None` when they are those that were given.
    pub fn policies(&self) -> Option<Arc<[Arc<Policy>]>> {
        if self.why.is_some() {
            return Some(Arc::new([]));
        }
        let ruled = self.ruled.as_ref()?;
        let from = if ruled.charges.is_empty() { &ruled.shadows[..] } else { &ruled.charges[..] };
        Some(from.iter().map(|charge| Arc::clone(&charge.policy)).collect())
    }
}

/// A ruling, or the wait for it.
pub enum Asked {
    /// Known at once.
    Done(Result<Ruling, StoreError>),
    /// The store is a remote one.
    Wait(Pin<Box<dyn Future<Output = Result<Ruling, StoreError>> + Send>>),
}

impl Rules {
    /// Decides without waiting, or `None` when the store is a remote one. Costs no round trip.
    ///
    /// # Errors
    /// What the store said, when the fail mode is closed.
    pub fn check_now(
        &self,
        limiter: &Limiter,
        charges: &[Charge<'_>],
        subject: &Subject<'_>,
    ) -> Option<Result<Ruling, StoreError>> {
        match self.check(limiter, charges, subject, false) {
            Asked::Done(ruling) => Some(ruling),
            Asked::Wait(_) => None,
        }
    }

    /// Decides, in one round trip on a remote store and none for a client that is turned away or
    /// not counted. With `peek`, nothing is spent.
    ///
    /// A shadow is asked in the same round trip, whatever the enforced limits say.
    pub fn check(&self, limiter: &Limiter, charges: &[Charge<'_>], subject: &Subject<'_>, peek: bool) -> Asked {
        let untold = |decision: Decision, why: String| {
            limiter.tell(&Request { charges, peek }, &decision);
            Asked::Done(Ok(Ruling { why: Some(why.into()), ..Ruling::plain(decision) }))
        };
        let cost = charges.first().map_or(1, |charge| charge.cost);
        match self.resolve(charges, subject) {
            Resolution::Denied(entry) => untold(
                uncounted(self.now(), cost, false, Reason::Denied),
                format!("{} {}", entry.access.name(), entry.who),
            ),
            Resolution::Exempt(why) => untold(uncounted(self.now(), cost, true, Reason::Exempt), why),
            Resolution::AsGiven if charges.is_empty() => {
                untold(uncounted(self.now(), cost, true, Reason::Exempt), "no limit".to_owned())
            }
            Resolution::AsGiven => {
                let now = if peek { limiter.peek_now(charges) } else { limiter.check_now(charges) };
                match now {
                    Some(answer) => Asked::Done(answer.map(Ruling::plain)),
                    None => {
                        let answer = if peek { limiter.peek(charges) } else { limiter.check(charges) };
                        Asked::Wait(Box::pin(async move { answer.await.map(Ruling::plain) }))
                    }
                }
            }
            Resolution::Ruled(ruled) => ask(limiter, ruled, peek),
        }
    }
}

/// A decision that no store made.
fn uncounted(at: Timestamp, cost: u32, allowed: bool, reason: Reason) -> Decision {
    Decision {
        allowed,
        charge: u16::MAX,
        index: 0,
        limit: 0,
        remaining: 0,
        cost,
        reset_after: 0,
        retry_after: if allowed { 0 } else { NEVER },
        at,
        mode: Mode::Enforced,
        degraded: reason == Reason::StoreUnavailable,
        reason,
    }
}

fn ask(limiter: &Limiter, ruled: Ruled, peek: bool) -> Asked {
    let ruled = Arc::new(ruled);
    let charges: Vec<_> = ruled.charges.iter().map(RuledCharge::charge).collect();
    let shadows: Vec<_> = ruled.shadows.iter().map(RuledCharge::charge).collect();
    let all = [Request { charges: &charges, peek }, Request { charges: &shadows, peek }];
    // An empty half is not asked.
    let requests = &all[usize::from(charges.is_empty())..2 - usize::from(shadows.is_empty())];
    if let Some(error) = requests.iter().find_map(|request| limiter.distinct(request.charges).err()) {
        return Asked::Done(Err(error));
    }
    let now: Option<Vec<_>> = requests.iter().map(|request| limiter.store().apply_now(request)).collect();
    if let Some(answers) = now {
        drop((charges, shadows));
        return Asked::Done(settle(limiter, ruled, peek, answers));
    }
    let reply = limiter.store().apply(requests);
    let count = requests.len();
    let limiter = limiter.clone();
    drop((charges, shadows));
    Asked::Wait(Box::pin(async move {
        let answers = match reply.await {
            Ok(decisions) => decisions.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); count],
        };
        settle(&limiter, ruled, peek, answers)
    }))
}

fn settle(
    limiter: &Limiter,
    ruled: Arc<Ruled>,
    peek: bool,
    answers: Vec<Result<Decision, StoreError>>,
) -> Result<Ruling, StoreError> {
    let mut answers = answers.into_iter();
    let mut next = || {
        answers.next().unwrap_or_else(|| {
            Err(StoreError::new(StoreErrorKind::Corrupt, limiter.store().name(), "it answered fewer than it was asked"))
        })
    };
    let enforced = if ruled.charges.is_empty() {
        None
    } else {
        let charges: Vec<_> = ruled.charges.iter().map(RuledCharge::charge).collect();
        let answer = next();
        Some(limiter.settle(&Request { charges: &charges, peek }, answer)?)
    };
    let shadow = if ruled.shadows.is_empty() {
        None
    } else {
        // A shadow that nobody could count says nothing, and refuses nobody.
        let answer = next().ok().map(|decision| Decision { allowed: true, mode: Mode::Shadow, ..decision });
        if let Some(decision) = &answer {
            let charges: Vec<_> = ruled.shadows.iter().map(RuledCharge::charge).collect();
            ruled.counts.iter().for_each(|count| count.note(decision.reason != Reason::Allowed));
            limiter.tell(&Request { charges: &charges, peek }, decision);
        }
        answer
    };
    let decision =
        enforced.or(shadow).unwrap_or_else(|| uncounted(Timestamp::default(), 1, true, Reason::StoreUnavailable));
    Ok(Ruling { decision, shadow, ruled: Some(ruled), why: None })
}
