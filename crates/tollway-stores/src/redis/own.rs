//! Algorithms of one's own: bytes that are loaded and swapped, on the server's clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use redis::Value;
use tollway_core::{Cell, Clock, Loaded, Reply, Timestamp};

use super::queue::Command;
use super::{Server, form, trouble};
use crate::SystemClock;
use crate::cas::CasStore;

/// What a key holds; of a limit with a log, which is a hash, its state.
const HELD: &str = "\
local held = redis.pcall('GET', KEYS[1])
if type(held) == 'table' then held = redis.call('HGET', KEYS[1], 'state') end ";

const LOAD: &str = "\
local time = redis.call('TIME')
return { time[1] * 1000000 + time[2], held }";

const SWAP: &str = "\
if (held or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1";

/// The server's clock, as it was told with what was loaded last.
#[derive(Debug, Default)]
struct ServerClock {
    here: SystemClock,
    ahead: AtomicI64,
}

impl ServerClock {
    fn set(&self, there: Timestamp) {
        let ahead = i128::from(there.nanos()) - i128::from(self.here.now().nanos());
        self.ahead.store(i64::try_from(ahead).unwrap_or(0), Ordering::Relaxed);
    }
}

impl Clock for ServerClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.here.now().nanos().saturating_add_signed(self.ahead.load(Ordering::Relaxed)))
    }
}

struct RedisCell {
    name: Arc<str>,
    server: Server,
    clock: Arc<ServerClock>,
}

impl fmt::Debug for RedisCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCell").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A store of the same keys whose algorithms are anybody's.
pub(super) fn store(name: &Arc<str>, prefix: &str, server: &Server) -> CasStore {
    let clock = Arc::new(ServerClock::default());
    let cell = RedisCell { name: Arc::clone(name), server: server.clone(), clock: Arc::clone(&clock) };
    CasStore::with_clock(Arc::new(cell), prefix, clock)
}

impl Cell for RedisCell {
    fn name(&self) -> &str {
        &self.name
    }

    fn load(&self, key: &str) -> Reply<Option<Loaded>> {
        let reply = self.server.say(&self.name, key, Command::new(["EVAL", &[HELD, LOAD].concat(), "1", key]));
        let (name, clock) = (Arc::clone(&self.name), Arc::clone(&self.clock));
        Box::pin(async move {
            let unexpected = || trouble::unexpected(&name, "the answer to a load has another form");
            let Value::Array(parts) = reply.await? else { return Err(unexpected()) };
            let mut parts = parts.into_iter();
            let Some(Value::Int(now)) = parts.next() else { return Err(unexpected()) };
            clock.set(Timestamp::from_micros(u64::try_from(now).map_err(|_| unexpected())?));
            match parts.next() {
                Some(Value::BulkString(version)) => {
                    // What a built-in algorithm left behind is carried over like any other limit.
                    let bytes = form::as_bytes(&version).unwrap_or_else(|| version.clone());
                    Ok(Some(Loaded { bytes, version }))
                }
                _ => Ok(None),
            }
        })
    }

    fn swap(&self, key: &str, expected: Option<Vec<u8>>, bytes: Option<Vec<u8>>, ttl: Duration) -> Reply<bool> {
        let (expected, bytes) = (expected.unwrap_or_default(), bytes.unwrap_or_default());
        let millis = (ttl.as_nanos().div_ceil(1_000_000) + 1).to_string();
        let script = [HELD, SWAP].concat();
        let words = [b"EVAL", script.as_bytes(), b"1", key.as_bytes(), &expected, &bytes, millis.as_bytes()];
        // Sent twice it would find its own bytes, and be taken for another's.
        let reply = self.server.say(&self.name, key, Command::new(words).once());
        Box::pin(async move { reply.await.map(|value| value == Value::Int(1)) })
    }
}
