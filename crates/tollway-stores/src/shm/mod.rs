//! `shm://`: one limit for all processes of a host, in memory they share. Linux only.
//!
//! A segment is a file in `/dev/shm`, mapped by every process: a header, and a flat table of slots for
//! each limit. A check is one exchange of one word, as in `memory://`, and the same code. Nobody waits
//! for anybody, so a process may die at any instant: what it had charged stays charged, and nothing
//! else happens. Sizes are fixed when the segment is made.
//!
//! What is promised: never more is admitted than a limit allows, by any number of threads in any
//! number of processes. A refusal has charged nothing once it has returned. Limits of one request
//! pass together or not at all; while such a request is being answered, others may briefly see a part
//! of it charged that is then handed back, so they may be refused too early, never too late; if its
//! process dies in between, that part stays spent. When every slot a new key may take is held by a key
//! with something spent, the one that loses least is pushed out, and the newcomer starts with what
//! that key had spent: a flood refuses newcomers, it frees nobody.
//!
//! Only states that fit a word can be kept: see [`ShmStore`].

mod address;
mod directory;
mod ground;
mod resets;
mod segment;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use siphasher::sip::SipHasher13;
use smallvec::SmallVec;
use tollway_core::{
    Capabilities, Change, Charge, Clock, ConfigError, Decision, Part as Share, Policy, Reply, Request, State, Store,
    StoreError, StoreErrorKind, Timestamp, carry_states, decide,
};

use crate::places::Places;
use crate::table::{Applied, Blocked, Moment, Together, together};
use address::Address;
use directory::{Directory, Refused, Seat};
use resets::Resets;
use segment::{Segment, Shape};

/// Where segments lie, and what their names begin with.
const FOLDER: &str = "/dev/shm";
const PREFIX: &str = "tollway-";
/// Policies of one name whose tables are remembered; one more is met again each time.
const VERSIONS: usize = 64;

/// What an [`ShmStore`] is opened with, apart from its URL.
#[derive(Clone, Debug, Default)]
pub struct ShmOptions {
    /// Another folder than `/dev/shm`. It must be in memory, or checks wait for a disk.
    pub folder: Option<PathBuf>,
    /// Another clock than the one all processes of the host share: for tests. All who open the
    /// segment must use the same.
    pub clock: Option<Arc<dyn Clock>>,
}

/// A segment of memory that processes of this host share.
///
/// The URL is `shm://name?max_keys=100000&tables=64`; both options may be left out. `max_keys` is how
/// many keys each limit has room for (18 bytes each), rounded up to eight: one and a half times
/// the keys you expect to have something spent at one time. `tables` is how many limits there may be,
/// each of which takes its memory when it is first used. The file is `/dev/shm/tollway-name`, readable
/// by its owner only; it stays when all processes have ended, and is begun anew after a reboot.
///
/// Kept are all algorithms whose state fits 79 bits: GCRA, token and leaky buckets, fixed and
/// sliding windows and calendar quotas, with the numbers people use (up to 10⁹ permits in a window; to 16,383 where windows
/// begin with the first request, to a million a second in sliding ones). Other limits are refused by name when
/// their policy is first used.
///
/// Open it after forking: a child that uses its parent's can check only policies the parent has used.
///
/// ```
/// use std::sync::Arc;
/// use tollway_core::{Algorithm, Charge, Policy, Request, Store};
/// use tollway_stores::shm::{ShmOptions, ShmStore};
///
/// let url = format!("shm://doc-{}?max_keys=1000", std::process::id());
/// let (one, two) = (ShmStore::open(&url, ShmOptions::default())?, ShmStore::open(&url, ShmOptions::default())?);
/// let policy = Arc::new(Policy::new("login", "5/m", Algorithm::Gcra)?);
/// let charges = [Charge { policy: &policy, key: "203.0.113.7", cost: 1 }];
/// let request = Request { charges: &charges, peek: false };
/// assert_eq!(one.apply_now(&request).unwrap()?.remaining, 4);
/// assert_eq!(two.apply_now(&request).unwrap()?.remaining, 3);
/// # std::fs::remove_file(one.path())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ShmStore {
    name: String,
    segment: Segment,
    clock: Time,
    hasher: SipHasher13,
    process: u32,
    places: Places<Arc<Known>>,
    directory: Mutex<Books>,
    resets: Resets,
}

/// What is known of a policy.
struct Known {
    policy: Arc<Policy>,
    seats: Vec<Seat>,
    /// Tables of the same name for other limits, as of a change of the directory.
    others: RwLock<(u64, Arc<[Seat]>)>,
}

struct Books {
    directory: Directory,
    names: HashMap<Box<str>, Vec<Arc<Known>>>,
}

/// The clock all processes share, called directly, or another.
#[derive(Debug)]
enum Time {
    /// What to add to the clock of all processes.
    Shared(u64),
    Other(Arc<dyn Clock>),
}

impl Clock for Time {
    #[inline]
    fn now(&self) -> Timestamp {
        match self {
            Self::Shared(offset) => Timestamp::from_nanos(offset.wrapping_add(tollway_mapping::monotonic())),
            Self::Other(clock) => clock.now(),
        }
    }
}

/// One limit of one charge of a request.
struct Part<'a> {
    known: &'a Known,
    seat: &'a Seat,
    id: u64,
    cost: u32,
    charge: u16,
}

impl ShmStore {
    /// Opens the segment that `url` names, or makes it.
    ///
    /// # Errors
    /// When the URL does not read; when the file belongs to another user, may be opened by others, is a
    /// link or not a segment; when it was made for other sizes, by another layout version or in another
    /// time namespace; when there is no memory for it. Each names the file and the next step.
    pub fn open(url: &str, options: ShmOptions) -> Result<Self, ConfigError> {
        let address = Address::parse(url)?;
        let folder = options.folder.unwrap_or_else(|| PathBuf::from(FOLDER));
        let path = folder.join(format!("{PREFIX}{}", address.name));
        let shape = Shape::new(address.max_keys, address.tables);
        let name = format!("shm://{}", address.name);
        let segment =
            Segment::open(&path, shape).map_err(|detail| ConfigError::new(format!("backend \"{name}\": {detail}")))?;
        Ok(Self {
            name,
            clock: options.clock.map_or(Time::Shared(segment.offset), Time::Other),
            hasher: SipHasher13::new_with_keys(segment.seed[0], segment.seed[1]),
            process: std::process::id(),
            places: Places::new(),
            directory: Mutex::new(Books { directory: Directory::new(&segment), names: HashMap::new() }),
            resets: Resets::default(),
            segment,
        })
    }

    /// The file.
    pub fn path(&self) -> &std::path::Path {
        &self.segment.path
    }

    /// A fingerprint that is the same in all processes stands for a key in its policy's tables.
    #[inline]
    fn id(&self, policy: &Policy, key: &str) -> u64 {
        let mix = self.resets.mix(&self.segment, || self.hasher.hash(policy.name().as_bytes()), key);
        ((self.hasher.hash(key.as_bytes()) ^ mix) >> 16).max(1)
    }

    fn error(&self, kind: StoreErrorKind, detail: impl Into<String>) -> StoreError {
        StoreError::new(kind, &self.name, detail)
    }

    /// A slot is marked as no living version marks any.
    #[cold]
    fn broken(&self, _: Blocked) -> StoreError {
        let path = self.segment.path.display();
        self.error(
            StoreErrorKind::Corrupt,
            format!("{path} was written by something else: stop all processes that use it, and remove the file"),
        )
    }

    #[inline]
    fn known<T>(
        &self,
        policy: &Arc<Policy>,
        now: Timestamp,
        step: impl FnOnce(&Arc<Known>) -> T,
    ) -> Result<T, StoreError> {
        self.places.with(policy, || self.meet(policy, now), step)
    }

    /// Finds or makes the tables of a policy.
    #[cold]
    fn meet(&self, policy: &Arc<Policy>, now: Timestamp) -> Result<Arc<Known>, StoreError> {
        if std::process::id() != self.process {
            return Err(self.error(
                StoreErrorKind::Misconfigured,
                format!("it was opened by the parent of this process: open it again after the fork, before policy {:?} is used", policy.name()),
            ));
        }
        let mut books = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let Books { directory, names } = &mut *books;
        let same = |known: &&Arc<Known>| known.policy == *policy;
        if let Some(known) = names.get(policy.name()).and_then(|versions| versions.iter().find(same)) {
            return Ok(Arc::clone(known));
        }
        let trouble = |detail| self.error(StoreErrorKind::Misconfigured, detail);
        let _lock = self.segment.lock().map_err(trouble)?;
        let seats = directory.seats(&self.segment, policy, now).map_err(|refused| match refused {
            Refused::Unfit(detail) => self.error(StoreErrorKind::Unsupported, detail),
            Refused::Trouble(detail) => trouble(detail),
        })?;
        let changes = directory::changes(&self.segment);
        let others = directory.others(&self.segment, policy.name(), &seats, now).map_err(trouble)?;
        let known =
            Arc::new(Known { policy: Arc::clone(policy), seats, others: RwLock::new((changes, others.into())) });
        let versions = names.entry(policy.name().into()).or_default();
        if versions.len() < VERSIONS {
            versions.push(Arc::clone(&known));
        }
        Ok(known)
    }

    /// The tables of the same name for other limits.
    fn others(&self, known: &Known, now: Timestamp) -> Arc<[Seat]> {
        let changes = directory::changes(&self.segment);
        {
            let others = known.others.read().unwrap_or_else(PoisonError::into_inner);
            if others.0 == changes || std::process::id() != self.process {
                return Arc::clone(&others.1);
            }
        }
        let mut books = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut others = known.others.write().unwrap_or_else(PoisonError::into_inner);
        // What cannot be read now the next request reads: the number of changes stays the old one.
        if let Ok(_lock) = self.segment.lock() {
            let changes = directory::changes(&self.segment);
            let name = known.policy.name();
            if let Ok(list) = books.directory.others(&self.segment, name, &known.seats, now) {
                *others = (changes, list.into());
            }
        }
        Arc::clone(&others.1)
    }

    /// Brings a key that comes from an earlier rate of its policy, with its share of what was spent.
    fn bring(&self, known: &Known, seat: &Seat, id: u64, now: Timestamp) -> Result<(), StoreError> {
        let others = self.others(known, now);
        if others.is_empty() || seat.level.holds(&seat.layout, id) {
            return Ok(());
        }
        let last = others.iter().map(|other| other.index).filter(|index| *index <= seat.index).max();
        let mut mark = 0;
        for other in others.iter().filter(|other| Some(other.index) == last) {
            if let Some(state) = other.level.peek(&other.layout, id) {
                let states = carry_states(&[(other.layout.limit(), state)], &known.policy, now);
                mark = seat.layout.join(mark, seat.layout.mark(&states[usize::from(seat.index)]));
            }
        }
        if mark == 0 || seat.layout.is_idle(mark, now) {
            return Ok(());
        }
        seat.level.settle(&seat.layout, id, mark, now).map_err(|blocked| self.broken(blocked))
    }

    fn answer(&self, request: &Request<'_>) -> Result<Decision, StoreError> {
        let mut moment = Moment::new(&self.clock, self.clock.now());
        if let [charge] = request.charges {
            if let (false, Some(known)) = (request.peek, self.places.seen(charge.policy))
                && let [seat] = &known.seats[..]
            {
                let id = self.id(charge.policy, charge.key);
                if let Some(verdict) = seat.level.charge_plainly(&seat.layout, id, charge.cost, moment.now) {
                    return Ok(Decision::of_one(seat.layout.limit(), verdict, charge.cost, moment.now));
                }
            }
            return self
                .known(charge.policy, moment.now, |known| self.one(known, charge, request.peek, &mut moment))?;
        }
        let mut known: SmallVec<[Arc<Known>; 4]> = SmallVec::new();
        for charge in request.charges {
            known.push(self.known(charge.policy, moment.now, Arc::clone)?);
        }
        let mut parts: SmallVec<[Part<'_>; 8]> = SmallVec::new();
        for (number, (charge, known)) in request.charges.iter().zip(&known).enumerate() {
            parts.extend(self.parts(known, charge, number as u16));
        }
        together(self, &parts, request.peek, &mut moment)
    }

    fn parts<'a>(
        &self,
        known: &'a Known,
        charge: &Charge<'_>,
        number: u16,
    ) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let (id, cost) = (self.id(charge.policy, charge.key), charge.cost);
        known.seats.iter().map(move |seat| Part { known, seat, id, cost, charge: number })
    }

    #[inline(never)]
    fn one(
        &self,
        known: &Known,
        charge: &Charge<'_>,
        peek: bool,
        moment: &mut Moment<'_>,
    ) -> Result<Decision, StoreError> {
        if let ([seat], false) = (&known.seats[..], peek) {
            let id = self.id(charge.policy, charge.key);
            let part = Part { known, seat, id, cost: charge.cost, charge: 0 };
            return Ok(self.charge(&part, moment)?.decision);
        }
        let parts: SmallVec<[Part<'_>; 4]> = self.parts(known, charge, 0).collect();
        together(self, &parts, peek, moment)
    }

    fn settle(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Result<Decision, StoreError> {
        let mut moment = Moment::new(&self.clock, self.clock.now());
        self.known(policy, moment.now, |known| {
            let charge = Charge { policy, key, cost: 0 };
            let parts: SmallVec<[Part<'_>; 4]> = self.parts(known, &charge, 0).collect();
            let mut states: SmallVec<[Option<State>; 4]> = SmallVec::new();
            for Part { seat, id, .. } in &parts {
                self.bring(known, seat, *id, moment.now)?;
                let mark = seat.level.adjust(&seat.layout, *id, change, &mut moment, false);
                states.push(seat.layout.state(mark.map_err(|blocked| self.broken(blocked))?));
            }
            Ok(self.decide(&parts, &states, &moment))
        })?
    }

    fn forget(&self, policy: &Arc<Policy>, key: &str) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.known(policy, now, |known| {
            let id = self.id(policy, key);
            for seat in known.seats.iter().chain(self.others(known, now).iter()) {
                seat.level.reset(&seat.layout, id, now).map_err(|blocked| self.broken(blocked))?;
            }
            Ok(())
        })?
    }

    fn forget_prefix(&self, policy: &Policy, prefix: &str) -> Result<(), StoreError> {
        let trouble = |detail| self.error(StoreErrorKind::Misconfigured, detail);
        let _books = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let _lock = self.segment.lock().map_err(trouble)?;
        resets::add(&self.segment, self.hasher.hash(policy.name().as_bytes()), prefix).map_err(trouble)
    }
}

impl<'a> Together<Part<'a>> for ShmStore {
    type Before = Option<State>;
    type After = Option<State>;
    type Error = StoreError;

    fn look(&self, part: &Part<'a>, moment: &mut Moment<'_>) -> Result<Option<State>, StoreError> {
        let Part { known, seat, id, .. } = part;
        self.bring(known, seat, *id, moment.now)?;
        let state = seat.level.look(&seat.layout, *id, moment.now, false);
        state.map_err(|blocked| self.broken(blocked))
    }

    fn charge(
        &self,
        part: &Part<'a>,
        moment: &mut Moment<'_>,
    ) -> Result<Applied<Option<State>, Option<State>>, StoreError> {
        let Part { known, seat, id, cost, charge } = part;
        self.bring(known, seat, *id, moment.now)?;
        let layout = &seat.layout;
        let charged = seat.level.charge(layout, *id, *cost, moment, false);
        let charged = charged.map_err(|blocked| self.broken(blocked))?;
        let decision = Decision::of_one(layout.limit(), charged.verdict, *cost, moment.now);
        Ok(Applied {
            decision: Decision { charge: *charge, index: seat.index, ..decision },
            before: layout.state(charged.before),
            after: layout.state(charged.after),
        })
    }

    fn refund(&self, part: &Part<'a>, after: &Option<State>, _: &mut Moment<'_>) -> Result<(), StoreError> {
        let Part { seat, id, cost, .. } = part;
        let Some(after) = after else { return Ok(()) };
        seat.level.refund(&seat.layout, *id, after, *cost).map_err(|blocked| self.broken(blocked))
    }

    fn decide(&self, parts: &[Part<'a>], states: &[Option<State>], moment: &Moment<'_>) -> Decision {
        let mut shares: SmallVec<[Share<'_>; 8]> = (parts.iter().zip(states))
            .map(|(part, state)| Share {
                limit: part.seat.layout.limit(),
                state: state.clone(),
                cost: part.cost,
                charge: part.charge,
                index: part.seat.index,
            })
            .collect();
        decide(&mut shares, moment.now).0
    }
}

impl fmt::Debug for ShmStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmStore").field("path", &self.segment.path).field("shape", &self.segment.shape).finish()
    }
}

fn ready<T: Send + 'static>(answer: Result<T, StoreError>) -> Reply<T> {
    Box::pin(std::future::ready(answer))
}

impl Store for ShmStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            multi_key_atomic: true,
            server_clock: false,
            native_expiry: true,
            batch: true,
            approximate: false,
        }
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        ready(requests.iter().map(|request| self.answer(request)).collect())
    }

    fn apply_now(&self, request: &Request<'_>) -> Option<Result<Decision, StoreError>> {
        Some(self.answer(request))
    }

    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        ready(self.settle(policy, key, change))
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        ready(self.forget(policy, key))
    }

    /// Errors when 1024 different prefixes have been reset since the segment was made.
    fn reset_prefix(&self, policy: &Arc<Policy>, prefix: &str) -> Reply<()> {
        ready(self.forget_prefix(policy, prefix))
    }

    fn keeps(&self, policy: &Policy) -> Result<(), ConfigError> {
        let fitting = directory::fitting(policy);
        fitting.map(|_| ()).map_err(|detail| ConfigError::new(format!("backend \"{}\": {detail}", self.name)))
    }

    fn ping(&self) -> Reply<()> {
        ready(Ok(()))
    }
}
