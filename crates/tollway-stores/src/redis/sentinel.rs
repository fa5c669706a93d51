//! Sentinels: who is the primary now.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::{Cmd, ConnectionAddr, RedisConnectionInfo, Value};
use tollway_core::{StoreError, StoreErrorKind};

use super::address::Address;
use super::link::{Cut, Link};
use super::trouble;

/// How often the sentinels are asked whether the primary still is one: a replaced one counts on for
/// seconds until it is told.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a URL says of its sentinels.
#[derive(Clone)]
pub(super) struct Sentinels {
    pub(super) service: String,
    hosts: Vec<ConnectionAddr>,
    /// How to log in at the sentinels themselves.
    login: (Option<String>, Option<String>),
    /// The one that answered last.
    first: Arc<AtomicUsize>,
}

impl Sentinels {
    pub(super) fn new(service: String, login: (Option<String>, Option<String>)) -> Self {
        Self { service, hosts: Vec::new(), login, first: Arc::default() }
    }

    pub(super) fn at(self, hosts: Vec<ConnectionAddr>) -> Self {
        Self { hosts, ..self }
    }

    fn settings(&self) -> RedisConnectionInfo {
        let settings = RedisConnectionInfo::default();
        let settings = match &self.login.0 {
            Some(user) => settings.set_username(user),
            None => settings,
        };
        match &self.login.1 {
            Some(password) => settings.set_password(password),
            None => settings,
        }
    }
}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sentinels").field("service", &self.service).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// Connects to the primary that the sentinels name, when it says so itself. Each sentinel gets its
/// share of `within`.
pub(super) async fn connect(
    address: &Address,
    sentinels: &Sentinels,
    within: Duration,
) -> Result<Link, (StoreError, Cut)> {
    let primary = find(address, sentinels, within).await.map_err(|cause| (cause, Cut(false)))?;
    let mut link = Link::make(&primary).await?;
    // Asked of a server that was just replaced, a sentinel may still name it.
    if let Ok(Value::Array(role)) = link.ask(Cmd::new().arg("ROLE")).await
        && matches!(role.first(), Some(Value::BulkString(role)) if role == b"slave")
    {
        let detail = format!(
            "the sentinels name {}, which is a replica: a failover of {:?} is under way",
            primary.place(),
            sentinels.service
        );
        return Err((StoreError::new(StoreErrorKind::Unavailable, &address.name, detail), Cut(false)));
    }
    let (address, sentinels, current) = (address.clone(), sentinels.clone(), primary.info.addr().clone());
    link.replaced = Box::pin(async move {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            if let Ok(found) = find(&address, &sentinels, within).await
                && *found.info.addr() != current
            {
                return;
            }
        }
    });
    Ok(link)
}

/// The primary's address, of the first sentinel that knows it.
async fn find(address: &Address, sentinels: &Sentinels, within: Duration) -> Result<Address, StoreError> {
    let count = sentinels.hosts.len();
    let share = within / (count as u32 + 1);
    let first = sentinels.first.load(Ordering::Relaxed);
    let mut causes = Vec::new();
    for number in (0..count).map(|step| (first + step) % count) {
        let sentinel = address.at(sentinels.hosts[number].clone()).with(sentinels.settings());
        match tokio::time::timeout(share, ask(&sentinel, &sentinels.service)).await {
            Ok(Ok(primary)) => {
                sentinels.first.store(number, Ordering::Relaxed);
                return Ok(address.at(primary));
            }
            Ok(Err(cause)) => causes.push(cause),
            Err(_) => causes.push(trouble::connecting_timed_out(&sentinel, share)),
        }
    }
    // Whoever answered knows more than those who did not.
    causes.sort_by_key(StoreError::is_transient);
    let cause = causes.into_iter().next();
    let cause = cause.unwrap_or_else(|| trouble::unexpected(&address.name, "there is no sentinel to ask"));
    let detail = format!("no sentinel names the primary of {:?}: {}", sentinels.service, cause.detail);
    Err(StoreError::new(cause.kind, &address.name, detail))
}

async fn ask(sentinel: &Address, service: &str) -> Result<ConnectionAddr, StoreError> {
    let mut link = Link::make(sentinel).await.map_err(|(cause, _)| cause)?;
    let answer = link.ask(Cmd::new().arg("SENTINEL").arg("get-master-addr-by-name").arg(service)).await;
    let place = sentinel.place();
    let fail = |kind, detail: String| Err(StoreError::new(kind, &sentinel.name, detail));
    match answer {
        Ok(Value::Nil) => fail(
            StoreErrorKind::Misconfigured,
            format!("the sentinel at {place} watches no such service: see `redis-cli SENTINEL MASTERS` there"),
        ),
        Ok(Value::ServerError(error)) if error.code() == "ERR" => fail(
            StoreErrorKind::Misconfigured,
            format!("{place} is no sentinel (it said: {})", error.details().unwrap_or_default()),
        ),
        Ok(Value::ServerError(error)) => Err(trouble::command(&sentinel.name, &error)),
        Ok(value) => match redis::from_redis_value::<(String, u16)>(value) {
            Ok((host, port)) => Ok(ConnectionAddr::Tcp(host, port)),
            Err(_) => fail(StoreErrorKind::Misconfigured, format!("{place} does not answer as a sentinel does")),
        },
        Err(error) => Err(trouble::connecting(sentinel, &error)),
    }
}
