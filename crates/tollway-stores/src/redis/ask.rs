//! A request as it travels to the driver, and what comes of its answer.

use std::sync::Arc;

use smallvec::SmallVec;
use tollway_core::{
    Algorithm, Bucket, Change, Decision, Limit, Part, Policy, Request, State, StoreError, StoreErrorKind, Timestamp,
    adjust_one, decide, store_key,
};

use super::form::{self, Entry, Flaw};
use super::script::Script;
use super::trouble;

/// The requests of one caller, owned.
pub(super) type Asks = SmallVec<[Ask; 1]>;

/// One request, owned.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) peek: bool,
    /// What is changed without asking.
    pub(super) change: Option<Change>,
    pub(super) dues: SmallVec<[Due; 1]>,
    /// For each due, when a policy changed: the value found and the value to read instead.
    pub(super) swaps: Vec<Swap>,
    /// The server's time as it said itself, when its calendar was another than this host's.
    pub(super) around: Option<Timestamp>,
}

/// One charge, owned, with the key as it is spelled in Redis.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) policy: Arc<Policy>,
    pub(super) key: String,
    pub(super) cost: u32,
}

impl Due {
    /// Whether one of its limits has a log: then the key is a hash.
    pub(super) fn has_log(&self) -> bool {
        self.policy.limits().iter().any(|limit| limit.algorithm().is_log())
    }
}

/// A value and what it becomes under a changed policy; empty for none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Swap {
    pub(super) expected: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// What the script said of one request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) now: Timestamp,
    pub(super) letter: u8,
    /// Each charge's value as it was, or the message of a command that failed. Of one with a log how
    /// its limits stand.
    pub(super) raws: SmallVec<[Option<Vec<u8>>; 1]>,
}

/// What comes of an answer.
#[derive(Debug)]
pub(super) enum Settled {
    Decision(Decision),
    /// A policy changed, or the server's clock stands elsewhere: to be asked again as it is now.
    Open,
}

impl Answer {
    /// Whether nothing could be written because the server is a replica: it had no effect.
    pub(super) fn is_of_a_replica(&self) -> bool {
        let refused = |raw: &Vec<u8>| raw.windows(9).any(|part| part == b"READONLY ");
        self.letter == b'E' && self.raws.iter().flatten().any(refused)
    }
}

impl Ask {
    pub(super) fn new(store: &str, prefix: &str, request: &Request<'_>) -> Result<Self, StoreError> {
        let refuse = |why: &str| Err(StoreError::new(StoreErrorKind::Unsupported, store, why));
        if request.charges.is_empty() {
            return refuse("a request without a charge: give it at least one");
        }
        let due = |charge: &tollway_core::Charge<'_>| Due {
            policy: Arc::clone(charge.policy),
            key: store_key(prefix, charge.policy.name(), charge.key),
            cost: charge.cost,
        };
        let dues: SmallVec<[Due; 1]> = request.charges.iter().map(due).collect();
        for (index, due) in dues.iter().enumerate().skip(1) {
            if dues[..index].iter().any(|other| other.key == due.key) {
                return refuse("a request charges one policy and key twice: add the costs up");
            }
        }
        Ok(Self { peek: request.peek, change: None, dues, swaps: Vec::new(), around: None })
    }

    /// A change that nobody is asked about.
    pub(super) fn adjust(prefix: &str, policy: &Arc<Policy>, key: &str, change: Change) -> Self {
        Self::change(Arc::clone(policy), store_key(prefix, policy.name(), key), change)
    }

    /// The same of a key as it is spelled in Redis.
    pub(super) fn change(policy: Arc<Policy>, key: String, change: Change) -> Self {
        let most = policy.limits().iter().map(Limit::capacity).max().unwrap_or(0).saturating_mul(2);
        let (change, cost) = match change {
            Change::Charge(cost) => (Change::Charge(cost.min(most)), cost.min(most)),
            Change::Refund(cost) => (Change::Refund(cost.min(most)), cost.min(most)),
            Change::Release { cost, .. } | Change::Renew { cost, .. } => (change, cost),
        };
        let held = matches!(change, Change::Release { .. } | Change::Renew { .. });
        let nothing = change.is_nothing() || (held && !policy.limits().iter().any(|limit| limit.algorithm().is_log()));
        let due = Due { policy, key, cost: if nothing { 0 } else { cost } };
        Self {
            peek: nothing,
            change: Some(change).filter(|_| !nothing),
            dues: SmallVec::from_iter([due]),
            swaps: Vec::new(),
            around: None,
        }
    }

    /// The script that knows all its limits.
    pub(super) fn script(&self) -> Script {
        let limits = || self.dues.iter().flat_map(|due| due.policy.limits());
        let special = |limit: &Limit| {
            let algorithm = limit.algorithm();
            algorithm.is_log() || algorithm == Algorithm::Calendar || *limit.bucket() != Bucket::default()
        };
        if limits().any(special) { Script::Whole } else { Script::Plain }
    }

    /// Whether the script reads both requests the same way, but for the keys.
    pub(super) fn same_shape(&self, other: &Self) -> bool {
        self.peek == other.peek
            && self.change == other.change
            && self.around == other.around
            && self.swaps.is_empty() == other.swaps.is_empty()
            && self.dues.len() == other.dues.len()
            && (self.dues.iter().zip(&other.dues))
                .all(|(due, other)| due.cost == other.cost && Arc::ptr_eq(&due.policy, &other.policy))
    }

    /// Words the script's answer: the script decides, the engine says how.
    pub(super) fn settle(&mut self, answer: &Answer, store: &str) -> Result<Settled, StoreError> {
        match answer.letter {
            b'A' | b'R' => self.decided(answer, store).map(Settled::Decision),
            b'O' => {
                self.swaps = self.changed(answer, store)?;
                Ok(Settled::Open)
            }
            b'C' => {
                self.around = Some(answer.now);
                Ok(Settled::Open)
            }
            // The failed command's message stands in place of its key's value; others hold values.
            b'E' => Err(self.failed(answer, store)),
            letter => Err(trouble::unexpected(store, &format!("the script answered {:?}", char::from(letter)))),
        }
    }

    fn decided(&self, answer: &Answer, store: &str) -> Result<Decision, StoreError> {
        let allowed = answer.letter == b'A';
        let mut parts: SmallVec<[Part<'_>; 4]> = SmallVec::new();
        for (charge, due) in self.dues.iter().enumerate() {
            let states = self.states(charge, answer, store)?;
            for ((index, limit), mut state) in due.policy.limits().iter().enumerate().zip(states) {
                let mut cost = due.cost;
                // A permit that cannot be renewed is refused as if it were asked for.
                if let Some(change) = self.change.filter(|_| allowed) {
                    if !limit.algorithm().is_log() {
                        state = Some(adjust_one(limit, state, answer.now, change).1);
                    }
                    cost = 0;
                }
                parts.push(Part { limit, state, cost, charge: charge as u16, index: index as u16 });
            }
        }
        let (decision, _) = decide(&mut parts, answer.now);
        if decision.allowed != allowed {
            return Err(trouble::unexpected(store, &format!("script and engine disagree on {:?}", self.dues[0].key)));
        }
        Ok(decision)
    }

    /// What one charge's limits held; of those with a log, after what was changed.
    fn states(&self, charge: usize, answer: &Answer, store: &str) -> Result<SmallVec<[Option<State>; 2]>, StoreError> {
        let (due, said) = (&self.dues[charge], answer.raws[charge].as_ref());
        let swapped = self.swaps.get(charge).map(|swap| &swap.value).filter(|value| !value.is_empty());
        if due.has_log() {
            let raw = said.map_or(&[][..], Vec::as_slice);
            let changed = self.change.is_some() && answer.letter == b'A';
            let states = form::read_standing(raw, &due.policy, if changed { 0 } else { due.cost });
            return states.ok_or_else(|| trouble::unexpected(store, "the script says of a log what cannot be"));
        }
        let Some(raw) = (if self.swaps.is_empty() { said } else { swapped }) else {
            return Ok(due.policy.limits().iter().map(|_| None).collect());
        };
        match form::read(raw) {
            Ok(entry) if form::is_of(&entry, &due.policy) => {
                Ok(entry.into_iter().map(|(_, state)| Some(state)).collect())
            }
            _ => Err(trouble::foreign(store, &due.key, raw)),
        }
    }

    fn changed(&self, answer: &Answer, store: &str) -> Result<Vec<Swap>, StoreError> {
        let mut swaps = Vec::with_capacity(self.dues.len());
        let mut moved = !self.swaps.is_empty();
        for (due, raw) in self.dues.iter().zip(&answer.raws) {
            let (expected, raw) = match raw {
                // Behind the value as it is, the value in one piece.
                Some(raw) if due.has_log() && raw.starts_with(b"1 ") => {
                    match raw.iter().position(|byte| *byte == b'\n') {
                        Some(end) => (raw[..end].to_vec(), Some(&raw[end + 1..])),
                        None => (raw.clone(), Some(&raw[..])),
                    }
                }
                raw => (raw.clone().unwrap_or_default(), raw.as_deref()),
            };
            let value = match raw {
                None => Vec::new(),
                Some(raw) if raw.first() == Some(&1) => {
                    moved = true;
                    let carried = form::carry_bytes(raw, &due.policy, answer.now);
                    carried.ok_or_else(|| trouble::foreign(store, &due.key, raw))?.into_bytes()
                }
                Some(raw) => {
                    let entry = read(raw, &due.key, store)?;
                    if form::is_of(&entry, &due.policy) {
                        raw.to_vec()
                    } else {
                        moved = true;
                        let carried = form::carry(&entry, &due.policy, answer.now);
                        carried.ok_or_else(|| trouble::foreign(store, &due.key, raw))?.into_bytes()
                    }
                }
            };
            swaps.push(Swap { expected, value });
        }
        if !moved {
            // All values read here, and one did not read there: it is spelled in another way.
            let raw = answer.raws.iter().flatten().next().map_or(&[][..], Vec::as_slice);
            return Err(trouble::foreign(store, &self.dues[0].key, raw));
        }
        Ok(swaps)
    }

    fn failed(&self, answer: &Answer, store: &str) -> StoreError {
        let message = |raw: &&Vec<u8>| form::read(raw).is_err();
        let found =
            self.dues.iter().zip(&answer.raws).find_map(|(due, raw)| Some((due, raw.as_ref().filter(message)?)));
        match found {
            Some((due, raw)) => trouble::in_script(store, &due.key, raw),
            None => trouble::unexpected(store, "the script failed without a message"),
        }
    }
}

fn read<'a>(raw: &'a [u8], key: &str, store: &str) -> Result<Entry<'a>, StoreError> {
    form::read(raw).map_err(|flaw| match flaw {
        Flaw::Version(found) => trouble::version(store, key, &found, form::VERSION),
        Flaw::Foreign => trouble::foreign(store, key, raw),
    })
}
