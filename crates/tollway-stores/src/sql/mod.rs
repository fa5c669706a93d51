//! `postgres://`, `mysql://` and `sqlite://`: state in a table of a database, shared by everybody
//! who uses it.
//!
//! One transaction decides any number of requests: it locks their rows in the order of their keys,
//! reads the server's clock, decides with the engine's own function, and writes what changed in one
//! statement. Callers that come while a transaction is on its way are combined into the next one;
//! there is no timer, so a lone caller waits for nobody. `docs/postgresql.md` tells what is stored and what
//! happens when the server is away.

#[cfg(any(feature = "mysql", feature = "postgres"))]
mod access;
mod address;
mod ask;
mod driver;
mod flight;
#[cfg(feature = "sqlite")]
mod forking;
mod link;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod queue;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod secure;
#[cfg(feature = "sqlite")]
mod sqlite;
mod trouble;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tollway_core::{
    Capabilities, Change, Condition, ConfigError, Decision, Policy, Reply, Request, Store, StoreError, store_key,
};

use address::Address;
use ask::{Ask, Asks};
use driver::Driver;
#[cfg(feature = "sqlite")]
pub use forking::{Forking, before_fork};
use link::Server;
use queue::{Done, Queue, Work};

use crate::remote::{Lookout, Settings};

/// How a [`SqlStore`] behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlOptions {
    /// What every key begins with, and the table's name too, `PREFIX_states`, unless the URL names
    /// one; `tollway` unless you say otherwise.
    pub prefix: String,
    /// How long an attempt to connect may take; 1 s.
    pub connect_timeout: Duration,
    /// How long a caller waits for its answer, the queue included; 100 ms. One that comes while
    /// there is no connection yet waits for `connect_timeout` longer.
    pub command_timeout: Duration,
    /// How many calls may wait; 10 000. One more is refused at once.
    pub queue: usize,
    /// How many connections there may be at once; 2. The second one is made when the first is held
    /// up or many wait. A SQLite store has one.
    pub connections: usize,
}

impl Default for SqlOptions {
    fn default() -> Self {
        Self {
            prefix: "tollway".into(),
            connect_timeout: Duration::from_secs(1),
            command_timeout: Duration::from_millis(100),
            queue: 10_000,
            connections: 2,
        }
    }
}

impl SqlOptions {
    fn validate(&self) -> Result<(), ConfigError> {
        let Self { prefix, connect_timeout, command_timeout, queue, connections } = self;
        let (connect_timeout, command_timeout, queue) = (*connect_timeout, *command_timeout, *queue);
        Settings { prefix, connect_timeout, command_timeout, queue }.check("database")?;
        if !(1..=64).contains(connections) {
            return Err(ConfigError::new(format!("database connections is {connections}: use 1 to 64")));
        }
        Ok(())
    }
}

/// State in a table of a database.
///
/// ```no_run
/// use std::sync::Arc;
/// use tollway_core::{Algorithm, Charge, Policy, Request, Store};
/// use tollway_stores::sql::{SqlOptions, SqlStore};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = tokio::runtime::Handle::current();
/// let store = SqlStore::open("postgres://me@127.0.0.1/shop", SqlOptions::default(), &runtime)?;
/// let policy = Arc::new(Policy::new("login", "5/m", Algorithm::Gcra)?);
/// let charges = [Charge { policy: &policy, key: "203.0.113.7", cost: 1 }];
/// let decisions = store.apply(&[Request { charges: &charges, peek: false }]).await?;
/// assert!(decisions[0].allowed);
/// # Ok(())
/// # }
/// ```
///
/// Cost: two round trips a call that passes and one that is refused, shared by all callers that wait
/// at that moment. Dropping the store closes its connections once every call already made is
/// answered.
pub struct SqlStore {
    name: Arc<str>,
    prefix: String,
    queue: Arc<Queue>,
    /// Whether time is the server's and not the host's.
    server_clock: bool,
}

impl SqlStore {
    /// A store at `url`, driven on `runtime`, which must have time and I/O enabled and must run.
    /// Does not connect: the first call does, and makes the table where there is none.
    ///
    /// # Errors
    /// When the URL or an option is not usable; the sentence names it, without the password.
    pub fn open(url: &str, options: SqlOptions, runtime: &Handle) -> Result<Self, ConfigError> {
        options.validate()?;
        let address = Address::parse(url, &options.prefix)?;
        match (address.scheme.as_str(), runtime) {
            #[cfg(feature = "postgres")]
            ("postgres" | "postgresql", runtime) => {
                let server = postgres::Postgres::new(&address, &options)?;
                let (store, driver) = Self::prepared(&address, options, server)?;
                runtime.spawn(driver.run());
                Ok(store)
            }
            #[cfg(feature = "mysql")]
            ("mysql" | "mariadb", runtime) => {
                let server = mysql::Mysql::new(&address, &options)?;
                let (store, driver) = Self::prepared(&address, options, server)?;
                runtime.spawn(driver.run());
                Ok(store)
            }
            #[cfg(feature = "sqlite")]
            ("sqlite", _) => {
                let server = sqlite::Sqlite::new(&address, &options)?;
                // One writer at a time is what a file can have.
                let options = SqlOptions { connections: 1, ..options };
                let (mut store, driver) = Self::prepared(&address, options, server)?;
                store.server_clock = false;
                driven_by_a_thread(driver).map_err(|error| {
                    address.refuse(&format!("cannot be opened: there is no thread for it ({error})"))
                })?;
                Ok(store)
            }
            (scheme, _) => Err(address.refuse(&format!("needs a feature of its own: build Tollway with {scheme}"))),
        }
    }

    fn prepared<S: Server>(
        address: &Address,
        options: SqlOptions,
        server: S,
    ) -> Result<(Self, Driver<S>), ConfigError> {
        let name: Arc<str> = address.name.as_str().into();
        let lookout = Lookout::start(&name)?;
        let SqlOptions { prefix, connect_timeout, command_timeout, queue, connections } = options;
        let queue = Queue::new(Arc::clone(&name), queue, connect_timeout, command_timeout, &lookout);
        let driver = Driver { queue: Arc::clone(&queue), server: Arc::new(server), connections };
        Ok((Self { name, prefix, queue, server_clock: true }, driver))
    }

    /// How many calls wait in the queue, those on their way not counted.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Leaves work for the driver and waits for what comes of it.
    fn ask<T: Send + 'static>(
        &self,
        work: Result<Work, StoreError>,
        read: impl FnOnce(Done) -> Option<T> + Send + 'static,
    ) -> Reply<T> {
        let ticket = work.and_then(|work| self.queue.push(work, None));
        let name = Arc::clone(&self.name);
        Box::pin(async move {
            let done = ticket?.outcome().await?;
            read(done).ok_or_else(|| trouble::unexpected(&name, "an answer to something else came"))
        })
    }
}

/// A thread of its own, for a database whose calls block; it ends with the store.
#[cfg(feature = "sqlite")]
fn driven_by_a_thread<S: Server>(driver: Driver<S>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let thread = std::thread::Builder::new().name("tollway-sqlite".into());
    thread.spawn(move || runtime.block_on(driver.run())).map(drop)
}

/// The keys of a policy whose identities begin so: from the first to before the second.
///
/// An identity that is too long to be stored is found by its hash alone, and so by no beginning but
/// the empty one.
fn span(prefix: &str, policy: &str, begins: &str) -> (String, String) {
    let mut from = store_key(prefix, policy, if begins.is_empty() { "-" } else { begins });
    from.pop();
    if begins.is_empty() {
        from.pop();
    }
    // Keys are visible ASCII, so this is above whatever follows.
    let to = format!("{from}\u{7f}");
    (from, to)
}

fn decided(done: Done) -> Option<Vec<Decision>> {
    match done {
        Done::Decided(decisions) => Some(decisions),
        Done::Deleted(_) => None,
    }
}

impl Store for SqlStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            multi_key_atomic: true,
            server_clock: self.server_clock,
            native_expiry: true,
            batch: true,
            approximate: false,
        }
    }

    fn apply(&self, requests: &[Request<'_>]) -> Reply<Vec<Decision>> {
        if requests.is_empty() {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        let asks: Result<Asks, _> =
            requests.iter().map(|request| Ask::new(&self.name, &self.prefix, request)).collect();
        self.ask(asks.map(Work::Decide), decided)
    }

    fn adjust(&self, policy: &Arc<Policy>, key: &str, change: Change) -> Reply<Decision> {
        let asks = Asks::from_iter([Ask::adjust(&self.prefix, policy, key, change)]);
        self.ask(Ok(Work::Decide(asks)), |done| decided(done)?.first().copied())
    }

    fn reset(&self, policy: &Arc<Policy>, key: &str) -> Reply<()> {
        let from = store_key(&self.prefix, policy.name(), key);
        // Keys are visible ASCII: none lies between, also where spaces at the end do not count.
        let to = format!("{from}!");
        self.ask(Ok(Work::Forget { from, to }), |_| Some(()))
    }

    fn reset_prefix(&self, policy: &Arc<Policy>, prefix: &str) -> Reply<()> {
        let (from, to) = span(&self.prefix, policy.name(), prefix);
        self.ask(Ok(Work::Forget { from, to }), |_| Some(()))
    }

    /// Never waits for a row that somebody uses.
    ///
    /// The store does this by itself, in small steps, as new rows are made: call it to have the
    /// table small at once, until it answers less than `most`.
    fn cleanup(&self, most: u32) -> Reply<u64> {
        self.ask(Ok(Work::Sweep(most)), |done| match done {
            Done::Deleted(count) => Some(count),
            Done::Decided(_) => None,
        })
    }

    fn condition(&self) -> Condition {
        Condition { waiting: self.waiting(), ..Condition::default() }
    }

    fn ping(&self) -> Reply<()> {
        self.ask(Ok(Work::Ping), |_| Some(()))
    }
}

impl Drop for SqlStore {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl fmt::Debug for SqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").field("name", &self.name).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
