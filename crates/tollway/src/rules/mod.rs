//! Who gets which limit: access lists, overrides, tiers, schedules, levels, shadows and skips.
//!
//! A door asks for charges (a policy, a key, a cost) and says who is asking ([`Subject`]). [`Rules`]
//! answer what becomes of them: the client is turned away, it is not counted, or it is charged
//! these policies. They are read from data and replaced as a whole while they are used.
//!
//! ```
//! use std::sync::Arc;
//! use tollway::rules::{Rules, Subject};
//! use tollway::{Algorithm, Charge, FailMode, Limiter, Policy};
//! use tollway_stores::memory::MemoryStore;
//!
//! let rules = Rules::new(r#"{
//!     "deny": ["203.0.113.0/24"],
//!     "limits": {"search": {"tiers": {"pro": "100/m"}, "levels": [{"by": "org", "rate": "500/m"}]}},
//!     "overrides": [{"who": "user:42", "rate": "1000/m"}]
//! }"#)?;
//! let limiter = Limiter::new(Arc::new(MemoryStore::new(1_000)), FailMode::Closed);
//! let search = Arc::new(Policy::new("search", "10/m", Algorithm::Gcra)?);
//!
//! let subject = Subject { user: Some("7"), tier: Some("pro"), org: Some("acme"), ..Subject::default() };
//! let charges = [Charge { policy: &search, key: "user:7", cost: 1 }];
//! let ruling = rules.check_now(&limiter, &charges, &subject).expect("memory answers at once")?;
//! assert_eq!((ruling.decision.limit, ruling.rule().unwrap().to_string().as_str()), (100, "tier pro"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod ask;
mod data;
mod follow;
mod lockout;
mod networks;
mod paths;
mod plan;
mod schedule;
mod subject;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use smallvec::SmallVec;
use tollway_core::{Charge, Clock, ConfigError, Policy, Timestamp};

pub use access::{Access, AccessList, Entry};
pub use ask::{Asked, Ruling};
pub use follow::{Replace, follow_file};
pub use lockout::{Attempt, Lockout};
pub use plan::{Rule, ShadowCount};
pub use schedule::When;
pub use subject::{Subject, Who};

use data::Counts;
use paths::Pattern;
use plan::{Level, Override, Plan};
use subject::{By, Directory, key_of};

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// Its client is turned away; the entry that says so.
    Denied(Entry),
    /// It passes and is not counted; why.
    Exempt(String),
    /// No rule speaks: the charges hold as they were given.
    AsGiven,
    /// These are charged.
    Ruled(Ruled),
}

/// What is charged instead of what a door asked for.
#[derive(Clone, Debug, Default)]
pub struct Ruled {
    /// Charged together or not at all.
    pub charges: SmallVec<[RuledCharge; 2]>,
    /// Asked beside them and only recorded.
    pub shadows: Vec<RuledCharge>,
    counts: Vec<Arc<ShadowCount>>,
}

/// One charge, and how it came to be.
#[derive(Clone, Debug)]
pub struct RuledCharge {
    /// Which limits apply.
    pub policy: Arc<Policy>,
    /// Who is charged.
    pub key: Box<str>,
    /// How many permits.
    pub cost: u32,
    /// Which level of its limit this is: `client`, `org`, …
    pub level: Arc<str>,
    /// Why it is not the limit as it was written.
    pub rule: Rule,
}

impl RuledCharge {
    fn charge(&self) -> Charge<'_> {
        Charge { policy: &self.policy, key: &self.key, cost: self.cost }
    }
}

/// The wall clock.
#[derive(Debug)]
struct Wall;

/// The time on the wall, by which schedules go and entries end unless another clock is given.
pub fn wall_now() -> Timestamp {
    Wall.now()
}

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Rules as they hold at one moment.
#[derive(Debug)]
struct Compiled {
    version: u64,
    access: Option<AccessList>,
    skips: Vec<Pattern>,
    /// By name, for the charges of doors.
    named: ahash::HashMap<Box<str>, Plan>,
    /// For requests by their path.
    by_path: Vec<Plan>,
    /// Overrides for every limit.
    everywhere: Option<Directory<Override>>,
    /// What a limit is of which nothing is said.
    bare: Option<Plan>,
    ipv6_prefix: u8,
}

impl Compiled {
    fn new(
        access: Option<AccessList>,
        skips: Vec<Pattern>,
        plans: Vec<Plan>,
        everywhere: Option<Directory<Override>>,
        ipv6_prefix: u8,
    ) -> Self {
        let (by_path, named): (Vec<_>, Vec<_>) = plans.into_iter().partition(|plan| !plan.patterns.is_empty());
        let named = named.into_iter().map(|plan| (plan.name.clone(), plan)).collect();
        let bare = everywhere.is_some().then(Plan::bare);
        Self { version: 1, access, skips, named, by_path, everywhere, bare, ipv6_prefix }
    }

    fn counts(&self) -> Counts {
        let plans = self.named.values().chain(&self.by_path);
        plans.filter(|plan| plan.enforce < 10_000).map(|plan| (plan.name.clone(), Arc::clone(&plan.shadow))).collect()
    }

    /// What is said of a policy: under its name, under the beginning of it up to a `/`, under `*`.
    fn plan(&self, policy: &str) -> Option<&Plan> {
        if self.named.is_empty() {
            return self.bare.as_ref();
        }
        let mut name = policy;
        loop {
            if let Some(plan) = self.named.get(name) {
                return Some(plan);
            }
            match name.rfind('/') {
                Some(end) => name = &name[..end],
                None => return self.named.get("*").or(self.bare.as_ref()),
            }
        }
    }
}

/// Who gets which limit, in a form that answers in a few hundred nanoseconds at most and changes
/// as a whole.
///
/// The order in which rules speak: **deny**, then **allow**, then **skip**; then for each level of
/// each limit an **override** (one for this limit before one for all; of an API key, a user, an
/// organisation, the narrowest network, in this order), else the **tier**, else the limit itself;
/// and whichever holds, its **schedule** picks the rate.
///
/// Data is a JSON object; see the manual's page on rules. Share it in an `Arc`.
#[derive(Debug)]
pub struct Rules {
    compiled: ArcSwap<Compiled>,
    /// Held by whoever replaces.
    replacing: Mutex<()>,
    lists: Vec<Arc<AccessList>>,
    clock: Arc<dyn Clock>,
}

impl Rules {
    /// Rules from a JSON object; `{}` says nothing.
    ///
    /// # Errors
    /// Names the place that cannot work, such as `limits.search.tiers.pro`.
    pub fn new(data: &str) -> Result<Self, ConfigError> {
        let compiled = ArcSwap::from_pointee(data::read(data, &Counts::new())?);
        Ok(Self { compiled, replacing: Mutex::default(), lists: Vec::new(), clock: Arc::new(Wall) })
    }

    /// The same with an access list that is fed from elsewhere; any number may be added. Deny wins
    /// between lists.
    #[must_use]
    pub fn with_list(mut self, list: Arc<AccessList>) -> Self {
        self.lists.push(list);
        self
    }

    /// The same by another clock than the wall's: for schedules and for what ends.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Puts other rules in place of all that hold. Requests see the old ones or the new ones, never
    /// a mixture; whoever has spent a share of a limit keeps it when only the rate changes.
    ///
    /// # Errors
    /// As [`Rules::new`]; then the old ones stay.
    pub fn replace(&self, data: &str) -> Result<u64, ConfigError> {
        let _alone = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.compiled.load();
        let next = Compiled { version: old.version + 1, ..data::read(data, &old.counts())? };
        let version = next.version;
        self.compiled.store(next.into());
        Ok(version)
    }

    /// Counts how often rules were put in place: 1 for the first.
    pub fn version(&self) -> u64 {
        self.compiled.load().version
    }

    /// The lists that are fed from elsewhere.
    pub fn lists(&self) -> &[Arc<AccessList>] {
        &self.lists
    }

    /// The time by which schedules go.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What shadows have seen, by limit.
    pub fn shadows(&self) -> Vec<(Box<str>, Arc<ShadowCount>)> {
        self.compiled.load().counts().into_iter().collect()
    }

    /// What becomes of a request that a door would charge these. Asks no store.
    ///
    /// Rates that a door's own algorithm cannot keep leave that limit as the door has written it, and
    /// its [`Rule`] says so.
    pub fn resolve(&self, charges: &[Charge<'_>], subject: &Subject<'_>) -> Resolution {
        let rules = self.compiled.load();
        let moment = OnceCell::new();
        let now = || *moment.get_or_init(|| self.clock.now());
        let mut allowed = None;
        for list in rules.access.iter().chain(self.lists.iter().map(Arc::as_ref)).filter(|list| !list.is_empty()) {
            match list.judge_when(subject, now) {
                Some(entry) if entry.access == Access::Deny => return Resolution::Denied(entry),
                entry => allowed = allowed.or(entry),
            }
        }
        if let Some(entry) = allowed {
            return Resolution::Exempt(entry.to_string());
        }
        if let Some(path) = subject.path {
            let skip = rules.skips.iter().find(|skip| skip.fit(subject.method, path).is_some());
            if let Some(skip) = skip {
                return Resolution::Exempt(format!("skip {skip}"));
            }
        }
        let by_path = rules.by_path(subject);
        if by_path.is_none() && charges.iter().all(|charge| rules.plan(charge.policy.name()).is_none()) {
            return Resolution::AsGiven;
        }
        let mut asking = Asking { rules: &rules, subject, now: &now, ruled: Ruled::default(), why: None };
        for charge in charges {
            asking.charge(rules.plan(charge.policy.name()), charge);
        }
        if let Some(plan) = by_path {
            asking.plan(plan, None);
        }
        if asking.ruled.charges.is_empty() && asking.ruled.shadows.is_empty() {
            return Resolution::Exempt(asking.why.map_or_else(|| "no limit".to_owned(), |why| why.to_string()));
        }
        Resolution::Ruled(asking.ruled)
    }
}

impl Compiled {
    /// The plan that fits a request's path most closely; of two that fit alike, one that names its method.
    fn by_path(&self, subject: &Subject<'_>) -> Option<&Plan> {
        let path = subject.path.filter(|_| !subject.path_charged)?;
        let fits = self.by_path.iter().flat_map(|plan| plan.patterns.iter().map(move |pattern| (plan, pattern)));
        fits.filter_map(|(plan, pattern)| Some((pattern.fit(subject.method, path)?, plan)))
            .max_by_key(|(closeness, _)| *closeness)
            .map(|(_, plan)| plan)
    }
}

impl Plan {
    /// What holds for a limit of which nothing is said but overrides.
    fn bare() -> Self {
        let quota = plan::Quota { rates: None, algorithm: None, schedule: Vec::new() };
        let base = plan::Variant::new("", quota).expect("no rates to be wrong");
        let level =
            Level { name: "client".into(), by: Vec::new(), policy_name: "".into(), base, tiers: Default::default() };
        Self {
            name: "*".into(),
            patterns: Vec::new(),
            levels: vec![level],
            overrides: Directory::default(),
            enforce: 10_000,
            shadow: Arc::default(),
        }
    }
}

/// One request on its way through the rules.
struct Asking<'r, N> {
    rules: &'r Compiled,
    subject: &'r Subject<'r>,
    now: &'r N,
    ruled: Ruled,
    /// The last reason not to charge something.
    why: Option<Arc<str>>,
}

impl<N: Fn() -> Timestamp> Asking<'_, N> {
    /// A charge that a door asks for.
    fn charge(&mut self, plan: Option<&Plan>, given: &Charge<'_>) {
        match plan {
            Some(plan) => self.plan(plan, Some(given)),
            None => {
                let policy = Arc::clone(given.policy);
                self.push(false, policy, given.key.into(), given.cost, "client".into(), Rule::default());
            }
        }
    }

    fn plan(&mut self, plan: &Plan, given: Option<&Charge<'_>>) {
        let cost = given.map_or(1, |charge| charge.cost);
        let mut shadow = None;
        for (index, level) in plan.levels.iter().enumerate() {
            let own = given.filter(|_| index == 0);
            let key = match own {
                Some(charge) => Some(Cow::Borrowed(charge.key)),
                // The first level falls back to the address: leaving something out is no way round.
                None => key_of(&level.by, self.subject, self.rules.ipv6_prefix)
                    .or_else(|| (index == 0).then(|| self.address())),
            };
            let Some(key) = key else { continue };
            let shadow = *shadow.get_or_insert_with(|| plan.is_shadow(&key));
            let given_policy = own.map(|charge| charge.policy);
            let name = given_policy.map_or(&*level.policy_name, |policy| policy.name());
            let (variant, what) = match self.exception(plan, index) {
                Some(found) => match &found.variant {
                    Some(variant) => (&**variant, Some(&found.cause)),
                    None => {
                        self.why = Some(Arc::clone(&found.cause));
                        continue;
                    }
                },
                None => match self.subject.tier.and_then(|tier| level.tiers.get(tier)) {
                    Some((variant, cause)) => (variant, Some(cause)),
                    None => (&level.base, None),
                },
            };
            let (policy, rule) = match variant.policy(name, given_policy, shadow, self.now) {
                Ok((policy, when)) => (policy, Rule { what: what.cloned(), when }),
                Err(error) => {
                    let what = Arc::from(format!("{} cannot be used: {error}", what.map_or("the limit", |what| what)));
                    match given_policy.filter(|_| !shadow) {
                        Some(given) => (Arc::clone(given), Rule { what: Some(what), when: None }),
                        None => {
                            self.why = Some(what);
                            continue;
                        }
                    }
                }
            };
            self.push(shadow, policy, key.into(), cost, Arc::clone(&level.name), rule);
        }
        if shadow == Some(true) {
            self.ruled.counts.push(Arc::clone(&plan.shadow));
        }
    }

    /// The override that speaks for a level.
    fn exception<'p>(&'p self, plan: &'p Plan, level: usize) -> Option<&'p Override> {
        let accept = |found: &Override| found.target(plan) == level && found.holds(self.now);
        let sets = [Some(&plan.overrides), self.rules.everywhere.as_ref()];
        sets.into_iter().flatten().find_map(|set| {
            [By::Key, By::User, By::Org, By::Ip].into_iter().find_map(|by| set.find(by, self.subject, accept))
        })
    }

    fn address(&self) -> Cow<'static, str> {
        match self.subject.address {
            Some(address) => Cow::Owned(subject::address_text(address, self.rules.ipv6_prefix)),
            None => Cow::Borrowed("local"),
        }
    }

    fn push(&mut self, shadow: bool, policy: Arc<Policy>, key: Box<str>, cost: u32, level: Arc<str>, rule: Rule) {
        let made = RuledCharge { policy, key, cost, level, rule };
        let same = |known: &&mut RuledCharge| known.key == made.key && known.policy.name() == made.policy.name();
        // Two limits of one request may share a level: it is charged once, at the higher cost.
        let known =
            if shadow { self.ruled.shadows.iter_mut().find(same) } else { self.ruled.charges.iter_mut().find(same) };
        match known {
            Some(known) => known.cost = known.cost.max(cost),
            None if shadow => self.ruled.shadows.push(made),
            None => self.ruled.charges.push(made),
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(entry) => entry.fmt(f),
            Self::Exempt(why) => f.write_str(why),
            Self::AsGiven => f.write_str("as given"),
            Self::Ruled(ruled) => {
                let names: Vec<_> = ruled.charges.iter().map(|charge| charge.policy.name()).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests;
