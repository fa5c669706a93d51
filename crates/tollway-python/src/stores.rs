//! From a URL to a store.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyList;
use tollway::{
    BreakerSettings, Clock, FailMode, Failover, LeaseSettings, Leases, Limiter, NearCache, Share, Store, Strategy,
};
use tollway_stores::cas::CasStore;
use tollway_stores::memory::MemoryStore;
#[cfg(feature = "redis")]
use tollway_stores::redis::{RedisOptions, RedisStore};
#[cfg(all(feature = "shm", target_os = "linux"))]
use tollway_stores::shm::{ShmOptions, ShmStore};
#[cfg(feature = "sql")]
use tollway_stores::sql::{SqlOptions, SqlStore};

use crate::cell::PyCell;
use crate::errors;
use crate::observe::{FailureLog, metrics};
use crate::runtime::runtime;

/// Where state lives.
#[derive(Clone)]
pub(crate) enum Backend {
    Url(String),
    Custom(PyCell),
}

/// What a limiter is made of; kept so that a forked child can make its own.
#[derive(Clone)]
pub(crate) struct Recipe {
    /// One, or several that stand in for each other.
    pub(crate) backends: Vec<Backend>,
    pub(crate) strategy: Strategy,
    pub(crate) fail_mode: FailMode,
    /// What this process grants of each limit while the backend is away.
    pub(crate) local_share: f64,
    pub(crate) prefix: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) command_timeout: Duration,
    /// The calls that may wait for a remote backend at once.
    pub(crate) queue: usize,
    pub(crate) max_keys: usize,
    pub(crate) breaker: BreakerSettings,
    /// Permits of a hot key that are taken in advance.
    pub(crate) lease: Option<LeaseSettings>,
    /// How long a refusal may be repeated without asking; zero asks every time.
    pub(crate) near_cache: Duration,
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

const SCHEMES: [&str; 12] = [
    "memory",
    "shm",
    "redis",
    "rediss",
    "redis+unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
    "postgres",
    "mysql",
    "sqlite",
];

impl Recipe {
    /// Whether state lives in this process, so that a fork simply has its own.
    pub(crate) fn is_local(&self) -> bool {
        let in_memory = |backend: &Backend| matches!(backend, Backend::Url(url) if url.starts_with("memory:"));
        self.backends.iter().all(in_memory)
    }

    /// Whether state lives on this host, so that the answer is there at once.
    pub(crate) fn is_here(&self) -> bool {
        let shared = |backend: &Backend| matches!(backend, Backend::Url(url) if url.starts_with("shm:"));
        self.is_local() || self.backends.iter().all(shared)
    }

    /// Whether every backend is a server, so that an answer has to be waited for.
    pub(crate) fn is_remote(&self) -> bool {
        !self.is_here() && self.backends.iter().all(|backend| matches!(backend, Backend::Url(_)))
    }

    /// Where another limiter would find the counts of this one; nowhere, when only this one has them.
    pub(crate) fn counts_at(&self) -> Option<String> {
        let mut place = self.prefix.clone();
        for backend in &self.backends {
            match backend {
                Backend::Url(url) if !url.starts_with("memory:") => place = format!("{place} {url}"),
                _ => return None,
            }
        }
        Some(place)
    }

    /// Makes the limiter. Connects to nothing.
    pub(crate) fn make(&self) -> PyResult<Limiter> {
        let mut stores = self.backends.iter().map(|backend| self.store(backend)).collect::<PyResult<Vec<_>>>()?;
        let store: Arc<dyn Store> = if stores.len() == 1 && self.is_here() {
            stores.remove(0)
        } else {
            // A failover of one is a breaker, and nothing else.
            let failover = Failover::new(stores, self.strategy, self.breaker);
            let failover = failover.map_err(|error| errors::from_config(&error))?;
            self.watch(&failover)?;
            Arc::new(failover)
        };
        let store = match self.lease {
            Some(settings) if !self.is_here() => {
                let leases = Leases::new(store, settings);
                runtime()?.handle().spawn(leases.watch());
                Arc::new(leases)
            }
            _ => store,
        };
        let store = if self.is_here() || self.near_cache.is_zero() {
            store
        } else {
            Arc::new(NearCache::new(store, self.near_cache))
        };
        let limiter = Limiter::new(store, self.fail_mode).with_metrics(metrics());
        // Memory does not fail, and a call is saved.
        if self.is_local() {
            return Ok(limiter);
        }
        let log = Arc::new(FailureLog::new(self.fail_mode));
        Ok(limiter.with_observer(log).with_local(self.local()?))
    }

    /// What counts while the backend is away.
    fn local(&self) -> PyResult<Arc<dyn Store>> {
        let memory = Arc::new(MemoryStore::new(self.max_keys));
        let share = Share::new(memory.clone(), self.local_share);
        let share = share.map_err(|error| errors::config(format!("local_share: {error}")))?;
        Ok(if self.local_share < 1.0 { Arc::new(share) } else { memory })
    }

    /// Lets pings find out whether a backend is back. One written in Python is left to the requests:
    /// it may block, and each ping would then keep one of the threads that they need.
    fn watch(&self, failover: &Failover) -> PyResult<()> {
        for (backend, guard) in self.backends.iter().zip(failover.guards()) {
            if let Backend::Url(_) = backend {
                runtime()?.handle().spawn(guard.watch());
            }
        }
        Ok(())
    }

    fn store(&self, backend: &Backend) -> PyResult<Arc<dyn Store>> {
        let url = match backend {
            Backend::Url(url) => url,
            Backend::Custom(cell) => return Ok(Arc::new(CasStore::new(Arc::new(cell.clone()), &self.prefix))),
        };
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme {
            "memory" => {
                if url != "memory://" {
                    return Err(errors::config(format!(
                        "backend {:?} takes no host or path: write \"memory://\"",
                        url
                    )));
                }
                Ok(Arc::new(match &self.clock {
                    Some(clock) => MemoryStore::with_clock(self.max_keys, Arc::clone(clock)),
                    None => MemoryStore::new(self.max_keys),
                }))
            }
            _ if self.clock.is_some() => {
                Err(errors::config("a clock can be given to memory:// only: other backends use their server's"))
            }
            #[cfg(all(feature = "shm", target_os = "linux"))]
            "shm" => {
                let store = ShmStore::open(url, ShmOptions::default());
                Ok(Arc::new(store.map_err(|error| errors::from_config(&error))?))
            }
            #[cfg(all(feature = "shm", not(target_os = "linux")))]
            "shm" => Err(errors::config(
                "backend shm:// needs Linux: use redis:// for one limit of all processes, or memory:// for each alone",
            )),
            #[cfg(feature = "redis")]
            "redis" | "rediss" | "redis+unix" | "redis+sentinel" | "rediss+sentinel" | "redis+cluster"
            | "rediss+cluster" => {
                let options = RedisOptions {
                    prefix: self.prefix.clone(),
                    connect_timeout: self.connect_timeout,
                    command_timeout: self.command_timeout,
                    queue: self.queue,
                };
                let store = RedisStore::open(url, options, runtime()?.handle());
                Ok(Arc::new(store.map_err(|error| errors::from_config(&error))?))
            }
            #[cfg(feature = "sql")]
            "postgres" | "postgresql" | "mysql" | "mariadb" | "sqlite" => {
                let options = SqlOptions {
                    prefix: self.prefix.clone(),
                    connect_timeout: self.connect_timeout,
                    command_timeout: self.command_timeout,
                    queue: self.queue,
                    ..SqlOptions::default()
                };
                let store = SqlStore::open(url, options, runtime()?.handle());
                Ok(Arc::new(store.map_err(|error| errors::from_config(&error))?))
            }
            _ => Err(errors::config(unknown_scheme(scheme))),
        }
    }
}

/// One backend, or several that stand in for each other: URLs or objects.
pub(crate) fn backends(given: Option<&Bound<'_, PyAny>>, patience: Duration) -> PyResult<Vec<Backend>> {
    let one = |given: &Bound<'_, PyAny>| match given.extract() {
        Ok(url) => Ok(Backend::Url(url)),
        Err(_) => PyCell::new(given, patience).map(Backend::Custom),
    };
    match given {
        None => Ok(vec![Backend::Url("memory://".to_owned())]),
        Some(given) => match given.cast::<PyList>() {
            Ok(several) => several.iter().map(|given| one(&given)).collect(),
            Err(_) => Ok(vec![one(given)?]),
        },
    }
}

/// A time in seconds, if it can be meant.
pub(crate) fn timeout(name: &str, seconds: f64) -> PyResult<Duration> {
    if !(0.001..=60.0).contains(&seconds) {
        return Err(errors::config(format!("{name} is from 0.001 to 60 seconds, not {seconds}")));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// How long somebody is ready to wait, if it can be meant.
pub(crate) fn patience(seconds: f64) -> PyResult<Duration> {
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err(errors::config(format!("timeout is from 0 to 86400 seconds, not {seconds}")));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// What keys begin with, if a store can have it.
pub(crate) fn usable_prefix(prefix: &str) -> PyResult<String> {
    let usable = |c: char| c.is_ascii_graphic() && !matches!(c, '{' | '}');
    if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(usable) {
        return Err(errors::config(format!(
            "prefix {prefix:?} is not usable: 1 to 64 visible characters without braces"
        )));
    }
    Ok(prefix.to_owned())
}

/// The permits of a lease and how long they are held, if that can be meant; no permits, no leases.
pub(crate) fn usable_lease(permits: i64, seconds: f64) -> PyResult<Option<LeaseSettings>> {
    let hold = timeout("lease_time", seconds)?;
    if permits == 0 {
        return Ok(None);
    }
    let permits = u32::try_from(permits).map_err(|_| {
        errors::config(format!("lease is a number of permits, 2 or more, or 0 for none; not {permits}"))
    })?;
    let settings = LeaseSettings { permits, hold }.checked();
    settings.map(Some).map_err(|error| errors::from_config(&error))
}

/// How many calls may wait, if it can be meant.
pub(crate) fn usable_queue(calls: usize) -> PyResult<usize> {
    if calls == 0 {
        return Err(errors::config("queue is the number of calls that may wait for the backend: 1 or more"));
    }
    Ok(calls)
}

fn unknown_scheme(scheme: &str) -> String {
    let known: Vec<_> = SCHEMES.iter().map(|scheme| format!("{scheme}://")).collect();
    let near = SCHEMES.iter().find(|known| {
        let start = known.len().min(scheme.len()).min(3);
        start > 1 && known.as_bytes()[..start] == scheme.as_bytes()[..start]
    });
    let hint = near.map_or_else(String::new, |near| format!(" Did you mean {near}://?"));
    // The URL itself may hold a password, so only its scheme is shown.
    format!("backend scheme {scheme:?} is not known: use one of {}.{hint}", known.join(", "))
}
