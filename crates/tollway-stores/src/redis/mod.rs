//! `redis://` and its relatives: state in a Redis server, in one that Sentinel watches, or in a
//! Cluster, shared by everybody who uses it.
//!
//! One script call decides any number of requests on the server's clock. Callers that come while a
//! call is on its way are combined into the next one; there is no timer, so a lone caller waits for
//! nobody. `docs/redis.md` tells what is stored and what happens when the server is away.

mod address;
mod ask;
mod call;
mod cluster;
mod driver;
mod form;
mod hop;
mod link;
mod own;
mod queue;
mod script;
mod sentinel;
mod share;
mod slots;
mod sweep;
mod trouble;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::Value;
use tokio::runtime::Handle;
use tollway_core::{
    Capabilities, Change, Condition, ConfigError, Decision, Policy, Reply, Request, Store, StoreError, StoreErrorKind,
    store_key,
};

use address::{Address, Kind};
use ask::{Answer, Ask, Asks, Settled};
use cluster::Cluster;
use driver::Driver;
use queue::{Command, Done, Errand, Queue, Work};

use crate::cas::CasStore;
use crate::own::has_own;
use crate::remote::{Lookout, Settings, Ticket};

/// How often a request is tried when a policy changed and others keep changing the same key.
const MOST_SWAPS: usize = 8;

/// How a [`RedisStore`] behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisOptions {
    /// What every key begins with; `tollway` unless you say otherwise.
    pub prefix: String,
    /// How long an attempt to connect may take; 1 s.
    pub connect_timeout: Duration,
    /// How long a caller waits for its answer, the queue included; 100 ms. One that comes while
    /// there is no connection yet waits for `connect_timeout` longer.
    pub command_timeout: Duration,
    /// How many calls may wait; 10 000. One more is refused at once.
    pub queue: usize,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            prefix: "tollway".into(),
            connect_timeout: Duration::from_secs(1),
            command_timeout: Duration::from_millis(100),
            queue: 10_000,
        }
    }
}

impl RedisOptions {
    fn validate(&self) -> Result<(), ConfigError> {
        let Self { prefix, connect_timeout, command_timeout, queue } = self;
        let (connect_timeout, command_timeout, queue) = (*connect_timeout, *command_timeout, *queue);
        Settings { prefix, connect_timeout, command_timeout, queue }.check("redis")
    }
}

/// State in a Redis server.
///
/// ```no_run
/// use std::sync::Arc;
/// use tollway_core::{Algorithm, Charge, Policy, Request, Store};
/// use tollway_stores::redis::{RedisOptions, RedisStore};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = tokio::runtime::Handle::current();
/// let store = RedisStore::open("redis://127.0.0.1:6379/0", RedisOptions::default(), &runtime)?;
/// let policy = Arc::new(Policy::new("login", "5/m", Algorithm::Gcra)?);
/// let charges = [Charge { policy: &policy, key: "203.0.113.7", cost: 1 }];
/// let decisions = store.apply(&[Request { charges: &charges, peek: false }]).await?;
/// assert!(decisions[0].allowed);
/// # Ok(())
/// # }
/// ```
///
/// Cost: one round trip a call, shared by all callers that wait at that moment. Dropping the store
/// closes its connection once every call already made is answered.
pub struct RedisStore {
    name: Arc<str>,
    prefix: String,
    server: Server,
    /// Policies whose algorithm is one of their own.
    own: CasStore,
}

/// Who answers.
#[derive(Clone)]
enum Server {
    One(Arc<Queue>),
    Cluster(Arc<Cluster>),
}

impl RedisStore {
    /// A store at `url`, driven on `runtime`, which must have time and I/O enabled and must run.
    /// Does not connect: the first call does.
    ///
    /// # Errors
    /// When the URL or an option is not usable; the sentence names it, without the password.
    pub fn open(url: &str, options: RedisOptions, runtime: &Handle) -> Result<Self, ConfigError> {
        options.validate()?;
        let address = Address::parse(url)?;
        let name: Arc<str> = address.name.as_str().into();
        let lookout = Lookout::start(&name)?;
        if let Kind::Cluster(seeds) = &address.kind {
            let (seeds, prefix) = (seeds.clone(), options.prefix.clone());
            let cluster = Cluster::open(address, seeds, Arc::clone(&name), options, lookout, runtime);
            let server = Server::Cluster(cluster);
            return Ok(Self { own: own::store(&name, &prefix, &server), name, prefix, server });
        }
        let RedisOptions { prefix, connect_timeout, command_timeout, queue } = options;
        let queue = Queue::new(Arc::clone(&name), queue, connect_timeout, command_timeout, &lookout);
        let driver = Driver { queue: Arc::clone(&queue), address, connect_timeout, command_timeout };
        runtime.spawn(driver.run());
        let server = Server::One(queue);
        Ok(Self { own: own::store(&name, &prefix, &server), name, prefix, server })
    }

    /// How many calls wait in the queue, those on their way not counted.
    /// Of a cluster, all that are not answered yet.
    pub fn waiting(&self) -> usize {
        match &self.server {
            Server::One(queue) => queue.len(),
            Server::Cluster(cluster) => cluster.waiting(),
        }
    }

    fn ask(&self, queue: &Arc<Queue>, asks: Result<Asks, StoreError>) -> Reply<Vec<Decision>> {
        let ticket = asks.and_then(|asks| queue.push(Errand::anywhere(Work::Apply(asks)), None));
        let (name, queue) = (Arc::clone(&self.name), Arc::clone(queue));
        Box::pin(async move {
            let ticket = ticket?;
            let deadline = ticket.deadline;
            let first = applied(ticket, &name);
            decide(&name, first, Way::Queue(&queue, &name, deadline)).await
        })
    }
}

impl Server {
    /// Has a command about a key carried out.
    fn say(&self, name: &Arc<str>, key: &str, command: Command) -> Reply<Value> {
        let queue = match self {
            Self::One(queue) => queue,
            Self::Cluster(cluster) => return cluster.say(key, command),
        };
        let (ticket, name) = (queue.push(Errand::anywhere(Work::Say(command)), None), Arc::clone(name));
        Box::pin(async move { said(ticket?.outcome().await?, &name) })
    }

    /// Unlinks every key that matches.
    fn sweep(&self, name: &Arc<str>, pattern: String) -> Reply<()> {
        if let Self::Cluster(cluster) = self {
            return cluster.sweep(pattern);
        }
        let (server, name) = (self.clone(), Arc::clone(name));
        Box::pin(async move {
            let mut cursor = sweep::START.to_vec();
            loop {
                let answer = server.say(&name, "", sweep::scan(&cursor, &pattern)).await?;
                let (next, keys) = sweep::page(answer, &name)?;
                for some in keys.chunks(sweep::AT_ONCE) {
                    server.say(&name, "", sweep::unlink(some)).await?;
                }
                if next == sweep::START {
                    return Ok(());
                }
                cursor = next;
            }
        })
    }
}

impl Store for RedisStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // Keys in several slots are charged one after the other.
            multi_key_atomic: matches!(self.server, Server::One(_)),
            server_clock: true,
            native_expiry: true,
            batch: true,
            approximate: false,
        }
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        if requests.is_empty() {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        if has_own(requests) {
            return crate::own::apply(&self.own, &self.name, requests, |request| {
                self.apply(std::slice::from_ref(request))
            });
        }
        let asks = requests.iter().map(|request| Ask::new(&self.name, &self.prefix, request));
        match &self.server {
            Server::One(queue) => self.ask(queue, asks.collect()),
            Server::Cluster(cluster) => match asks.collect::<Result<Vec<_>, _>>() {
                Ok(asks) => cluster.apply(asks),
                Err(error) => Box::pin(std::future::ready(Err(error))),
            },
        }
    }

    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        if !policy.is_built_in() {
            return self.own.adjust(policy, key, change);
        }
        let ask = Ask::adjust(&self.prefix, policy, key, change);
        let queue = match &self.server {
            Server::One(queue) => queue,
            Server::Cluster(cluster) => return cluster.adjust(ask),
        };
        let (reply, name) = (self.ask(queue, Ok(Asks::from_iter([ask]))), Arc::clone(&self.name));
        Box::pin(async move {
            let decisions = reply.await?;
            decisions.first().copied().ok_or_else(|| trouble::unexpected(&name, "an answer is missing"))
        })
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        let key = store_key(&self.prefix, policy.name(), key);
        let reply = self.server.say(&self.name, &key, Command::new(["DEL", &key]));
        Box::pin(async move { reply.await.map(drop) })
    }

    fn reset_prefix(&self, policy: &Arc<Policy>, prefix: &str) -> Reply<()> {
        match sweep::pattern(&self.name, &self.prefix, policy.name(), prefix) {
            Ok(pattern) => self.server.sweep(&self.name, pattern),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn ping(&self) -> Reply<()> {
        if let Server::Cluster(cluster) = &self.server {
            return cluster.ping();
        }
        let reply = self.server.say(&self.name, "", Command::new(["PING"]));
        Box::pin(async move { reply.await.map(drop) })
    }

    fn condition(&self) -> Condition {
        Condition { waiting: self.waiting(), ..Condition::default() }
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        match &self.server {
            Server::One(queue) => queue.close(),
            Server::Cluster(cluster) => cluster.close(),
        }
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("name", &self.name).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// What a command was answered.
fn said(done: Done, name: &str) -> Result<Value, StoreError> {
    match done {
        Done::Said(value) => Ok(value),
        _ => Err(trouble::unexpected(name, "a command was sent and its answer is none")),
    }
}

/// Waits for the answers to a decision's requests.
async fn applied(ticket: Ticket<Done>, name: &str) -> Result<(Asks, Vec<Answer>), StoreError> {
    match ticket.outcome().await? {
        Done::Applied(asks, answers) => Ok((asks, answers)),
        _ => Err(trouble::unexpected(name, "a decision was asked for and none came")),
    }
}

/// How requests are asked again.
enum Way<'a> {
    Queue(&'a Queue, &'a str, Instant),
    Slot(&'a Cluster, u16),
}

impl Way<'_> {
    async fn ask(&self, asks: Asks) -> Result<(Asks, Vec<Answer>), StoreError> {
        match *self {
            Self::Queue(queue, name, deadline) => {
                let ticket = queue.push(Errand::anywhere(Work::Apply(asks)), Some(deadline))?;
                applied(ticket, name).await
            }
            Self::Slot(cluster, slot) => cluster.exchange(slot, asks).await,
        }
    }
}

/// Words the answers; requests whose policy changed are asked again with what the key held before,
/// and those whose calendar is another at the server with the one there.
async fn decide(
    name: &str,
    first: impl Future<Output = Result<(Asks, Vec<Answer>), StoreError>>,
    way: Way<'_>,
) -> Result<Vec<Decision>, StoreError> {
    let mut decisions: Vec<Option<Decision>> = Vec::new();
    // Which of the requests the asks on their way are, once it is not all of them.
    let mut places: Vec<usize> = Vec::new();
    let (mut asks, mut answers) = first.await?;
    for round in 0..MOST_SWAPS {
        if round == 0 {
            decisions = vec![None; asks.len()];
            places = (0..asks.len()).collect();
        }
        let (mut changed, mut open) = (Asks::new(), Vec::new());
        for ((mut ask, answer), place) in asks.into_iter().zip(answers).zip(places) {
            match ask.settle(&answer, name)? {
                Settled::Decision(decision) => decisions[place] = Some(decision),
                Settled::Open => {
                    changed.push(ask);
                    open.push(place);
                }
            }
        }
        if changed.is_empty() {
            return Ok(decisions.into_iter().flatten().collect());
        }
        places = open;
        (asks, answers) = way.ask(changed).await?;
    }
    let detail = format!("a policy changed and the key was changed by others {MOST_SWAPS} times in a row: try again");
    Err(StoreError::new(StoreErrorKind::Conflict, name, detail))
}
