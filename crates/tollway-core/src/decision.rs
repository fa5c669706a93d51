//! The answer, and the rule that makes one of many.

use smallvec::SmallVec;

use crate::{Algorithm, Change, Leak, Limit, Policy, State, Timestamp, Verdict, adjust_one, decide_one, judge_one};

/// A `retry_after` that never comes: the cost is above the limit.
pub const NEVER: u64 = u64::MAX;

/// Whether a decision binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// A refusal refuses.
    Enforced,
    /// A refusal is only recorded.
    Shadow,
}

/// Why a decision came out as it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There was room.
    Allowed,
    /// A limit was used up.
    RateLimited,
    /// The cost is more than a limit ever holds: waiting does not help.
    CostAboveLimit,
    /// The store did not answer and the fail mode decided.
    StoreUnavailable,
    /// An access list turns the client away.
    Denied,
    /// Nothing was counted: an access list, a skip or an override says so.
    Exempt,
}

impl Reason {
    /// The word for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::RateLimited => "rate_limited",
            Self::CostAboveLimit => "cost_above_limit",
            Self::StoreUnavailable => "store_unavailable",
            Self::Denied => "denied",
            Self::Exempt => "exempt",
        }
    }
}

/// Whether a request may pass, and what its client needs to know.
///
/// Of several limits it reports the tightest: when refused, the one to wait for longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may pass.
    pub allowed: bool,
    /// Which charge of the request speaks here.
    pub charge: u16,
    /// Which of that policy's limits speaks here.
    pub index: u16,
    /// That limit's capacity.
    pub limit: u32,
    /// Permits left of it.
    pub remaining: u32,
    /// The cost asked for; of a bucket that serves in part, what was taken.
    pub cost: u32,
    /// Nanoseconds until nothing of it is spent.
    pub reset_after: u64,
    /// Nanoseconds until the same request can pass: 0 when allowed, [`NEVER`] when it cannot.
    pub retry_after: u64,
    /// The time on the store's clock.
    pub at: Timestamp,
    /// Whether it binds.
    pub mode: Mode,
    /// Whether a fallback answered instead of the store.
    pub degraded: bool,
    /// Why.
    pub reason: Reason,
}

impl Decision {
    /// The decision of a request of one charge with one limit, of which `verdict` is the outcome at
    /// `cost` and the time `now`.
    ///
    /// ```
    /// use tollway_core::{Algorithm, Decision, Policy, Reason, Timestamp, decide_one};
    ///
    /// let policy = Policy::new("mail", "10/s", Algorithm::Gcra)?;
    /// let (limit, now) = (&policy.limits()[0], Timestamp::from_nanos(0));
    /// let (verdict, _) = decide_one(limit, None, now, 11);
    /// assert_eq!(Decision::of_one(limit, verdict, 11, now).reason, Reason::CostAboveLimit);
    /// # Ok::<(), tollway_core::ConfigError>(())
    /// ```
    #[inline]
    pub fn of_one(limit: &Limit, verdict: Verdict, cost: u32, now: Timestamp) -> Self {
        let reason = match (verdict.allowed, verdict.retry_after) {
            (true, _) => Reason::Allowed,
            (false, NEVER) => Reason::CostAboveLimit,
            (false, _) => Reason::RateLimited,
        };
        Self {
            allowed: verdict.allowed,
            charge: 0,
            index: 0,
            limit: limit.capacity(),
            remaining: verdict.remaining,
            cost,
            reset_after: verdict.reset_after,
            retry_after: verdict.retry_after,
            at: now,
            mode: Mode::Enforced,
            degraded: false,
            reason,
        }
    }

    /// The same for one part of several, which pass together or not at all.
    fn of(part: &Part<'_>, verdict: Verdict, allowed: bool, now: Timestamp) -> Self {
        let one = Self::of_one(part.limit, Verdict { allowed, ..verdict }, part.cost, now);
        Self { charge: part.charge, index: part.index, ..one }
    }

    /// Nanoseconds this request has to wait for its turn, when `policy` (the one that speaks here) is
    /// a leaky bucket that queues; else 0.
    ///
    /// ```
    /// use tollway_core::{Algorithm, Leak, Part, Policy, Timestamp, decide};
    ///
    /// let policy = Policy::new("mail", "10/s", Algorithm::LeakyBucket(Leak::Queue))?;
    /// let (mut state, mut delays) = (None, Vec::new());
    /// for _ in 0..3 {
    ///     let part = Part { limit: &policy.limits()[0], state: state.take(), cost: 1, charge: 0, index: 0 };
    ///     let (decision, mut next) = decide(&mut [part], Timestamp::from_secs(100));
    ///     delays.push(decision.delay(&policy));
    ///     state = next.pop();
    /// }
    /// assert_eq!(delays, [0, 100_000_000, 200_000_000]);
    /// # Ok::<(), tollway_core::ConfigError>(())
    /// ```
    pub fn delay(&self, policy: &Policy) -> u64 {
        let limit = policy.limits().get(usize::from(self.index));
        let queues = matches!(policy.algorithm(), Algorithm::LeakyBucket(Leak::Queue));
        match limit.filter(|_| queues && self.allowed && self.cost > 0) {
            Some(limit) => self.reset_after.saturating_sub(limit.span(self.cost).nanos),
            None => 0,
        }
    }

    /// What a client is told to wait: whole seconds, rounded up, at least 1. `None` when allowed or
    /// when waiting does not help.
    pub fn retry_after_secs(&self) -> Option<u64> {
        (!self.allowed && self.retry_after != NEVER).then(|| self.retry_after.div_ceil(1_000_000_000).max(1))
    }

    /// Whole seconds until nothing is spent, rounded up.
    pub fn reset_after_secs(&self) -> u64 {
        self.reset_after.div_ceil(1_000_000_000)
    }
}

/// One limit's share of a request.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// The limit.
    pub limit: &'a Limit,
    /// What is remembered of the key.
    pub state: Option<State>,
    /// The cost.
    pub cost: u32,
    /// Which charge of the request this is.
    pub charge: u16,
    /// Which limit of its policy this is.
    pub index: u16,
}

/// The states of one request's limits, in the order of its parts.
pub type States = SmallVec<[State; 4]>;

/// Decides limits that pass together or not at all.
///
/// When one refuses, every state comes back as it was. Otherwise the new states are in the order
/// of `parts`, which holds at least one. The states are taken out of the parts.
pub fn decide(parts: &mut [Part<'_>], now: Timestamp) -> (Decision, States) {
    if let [part] = parts {
        let (verdict, state) = decide_one(part.limit, part.state.take(), now, part.cost);
        if !verdict.allowed && verdict.remaining > 0 && part.limit.bucket().partial {
            part.cost = verdict.remaining;
            let (verdict, state) = decide_one(part.limit, Some(state), now, part.cost);
            return (Decision::of(part, verdict, verdict.allowed, now), States::from_iter([state]));
        }
        return (Decision::of(part, verdict, verdict.allowed, now), States::from_iter([state]));
    }
    let judge = |part: &Part<'_>| judge_one(part.limit, part.state.as_ref(), now, part.cost);
    let mut verdicts: SmallVec<[Verdict; 4]> = parts.iter().map(judge).collect();
    let allowed = verdicts.iter().all(|verdict| verdict.allowed);
    let mut states = States::new();
    for (part, verdict) in parts.iter_mut().zip(&mut verdicts) {
        // Where one refuses, a limit that had room spends nothing either, and says what it had.
        let cost = if allowed { part.cost } else { 0 };
        let (done, state) = decide_one(part.limit, part.state.take(), now, cost);
        if verdict.allowed {
            *verdict = done;
        }
        states.push(state);
    }
    let (part, verdict) = tightest(parts, &verdicts, allowed);
    (Decision::of(part, verdict, allowed, now), states)
}

/// Changes what is spent of several limits without asking, all of them or, when permits cannot be
/// renewed, none; answers how they stand then. The costs of the parts do not matter, and their states
/// are taken out of them.
pub fn adjust(parts: &mut [Part<'_>], now: Timestamp, change: Change) -> (Decision, States) {
    let before: SmallVec<[Option<State>; 4]> = match change {
        Change::Renew { .. } => parts.iter().map(|part| part.state.clone()).collect(),
        _ => SmallVec::new(),
    };
    let mut done = true;
    for part in parts.iter_mut() {
        let (made, state) = adjust_one(part.limit, part.state.take(), now, change);
        done &= made;
        (part.state, part.cost) = (Some(state), 0);
    }
    if let (false, Change::Renew { cost, .. }) = (done, change) {
        // As they were, and the refusal that taking the permits anew would meet.
        for (part, state) in parts.iter_mut().zip(before) {
            (part.state, part.cost) = (state, cost);
        }
    }
    decide(parts, now)
}

/// The limit that speaks: of refusing ones the longest wait, else the fewest permits left.
fn tightest<'a>(parts: &'a [Part<'a>], verdicts: &[Verdict], allowed: bool) -> (&'a Part<'a>, Verdict) {
    let mut best = 0;
    for (index, verdict) in verdicts.iter().enumerate().skip(1) {
        let tighter = if allowed {
            (verdict.remaining, std::cmp::Reverse(verdict.reset_after))
                < (verdicts[best].remaining, std::cmp::Reverse(verdicts[best].reset_after))
        } else {
            (!verdict.allowed, verdict.retry_after) > (!verdicts[best].allowed, verdicts[best].retry_after)
        };
        if tighter {
            best = index;
        }
    }
    (&parts[best], verdicts[best])
}
