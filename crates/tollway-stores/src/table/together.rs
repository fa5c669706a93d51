//! Several parts of one request, each in a slot of its own: all are charged or none.

use smallvec::SmallVec;
use tollway_core::Decision;

use super::level::Moment;

/// How often a request begins again because others were faster.
const TRIES: usize = 16;

/// What charging a part came to.
pub(crate) struct Applied<B, A> {
    pub(crate) decision: Decision,
    /// What was spent before, and after.
    pub(crate) before: B,
    pub(crate) after: A,
}

/// Where the parts `P` of a request are charged.
pub(crate) trait Together<P> {
    type Before;
    type After;
    type Error;
    /// What a charge would start from.
    fn look(&self, part: &P, moment: &mut Moment<'_>) -> Result<Self::Before, Self::Error>;
    /// Charges one part, whatever becomes of the others.
    fn charge(&self, part: &P, moment: &mut Moment<'_>) -> Result<Applied<Self::Before, Self::After>, Self::Error>;
    /// Hands back what came to the state `after`.
    fn refund(&self, part: &P, after: &Self::After, moment: &mut Moment<'_>) -> Result<(), Self::Error>;
    /// The decision of all of them.
    fn decide(&self, parts: &[P], before: &[Self::Before], moment: &Moment<'_>) -> Decision;
}

/// Charges one after the other; when one does not pass after all, those before it are handed back.
///
/// Whoever dies in between has spent permits that nobody used, and has freed none.
#[cold]
pub(crate) fn together<P, T: Together<P>>(
    store: &T,
    parts: &[P],
    peek: bool,
    moment: &mut Moment<'_>,
) -> Result<Decision, T::Error> {
    let mut tries = 0;
    loop {
        let mut before: SmallVec<[T::Before; 4]> = SmallVec::new();
        for part in parts {
            before.push(store.look(part, moment)?);
        }
        let decision = store.decide(parts, &before, moment);
        if peek || !decision.allowed {
            return Ok(decision);
        }
        before.clear();
        let mut after: SmallVec<[T::After; 4]> = SmallVec::new();
        let mut refused = None;
        for part in parts {
            match store.charge(part, moment) {
                Ok(applied) if applied.decision.allowed => {
                    before.push(applied.before);
                    after.push(applied.after);
                }
                stopped => {
                    refused = Some(stopped.map(|applied| applied.decision));
                    break;
                }
            }
        }
        let Some(refused) = refused else {
            return Ok(store.decide(parts, &before, moment));
        };
        for (part, after) in parts.iter().zip(&after) {
            store.refund(part, after, moment)?;
        }
        let refused = refused?;
        tries += 1;
        if tries == TRIES {
            return Ok(refused);
        }
    }
}
