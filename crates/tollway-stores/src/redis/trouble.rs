//! What went wrong, by meaning, with the next step. Never holds a password: errors of the server and
//! of the system do not, and the store's name is redacted.

use std::io;
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerError};
use tollway_core::{StoreError, StoreErrorKind};

use super::address::Address;
pub(super) use crate::remote::trouble::{forked, full, timed_out, undriven, unexpected};

/// No connection could be made.
pub(super) fn connecting(address: &Address, error: &RedisError) -> StoreError {
    let (kind, detail) = match error.kind() {
        ErrorKind::AuthenticationFailed => (
            StoreErrorKind::Misconfigured,
            "wrong user name or password: correct them in the URL, redis://USER:PASSWORD@HOST".into(),
        ),
        ErrorKind::RESP3NotSupported => {
            (StoreErrorKind::Misconfigured, "the server does not speak RESP3: drop protocol=3 from the URL".into())
        }
        ErrorKind::Parse if !was_cut(error) => (
            StoreErrorKind::Misconfigured,
            format!("what answers at {} does not speak the Redis protocol: check host and port", address.place()),
        ),
        _ => match error.code() {
            Some(code) => return server(&address.name, code, error.detail().unwrap_or_default()),
            None => {
                let detail = format!("{} accepted and closed the connection ({error}): see its log", address.place());
                (StoreErrorKind::Unavailable, detail)
            }
        },
    };
    StoreError::new(kind, &address.name, detail)
}

/// Whether the connection was closed, be it in the middle of a reply.
pub(super) fn was_cut(error: &RedisError) -> bool {
    let in_a_reply = || error.kind() == ErrorKind::Parse && error.to_string().contains("end of input");
    error.is_connection_dropped() || in_a_reply()
}

/// No connection could be made, for a reason the system gave.
pub(super) fn connecting_io(address: &Address, error: &io::Error) -> StoreError {
    let place = address.place();
    let detail = match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            format!("nothing listens at {place}: is Redis running? Start it with `{}`", address.remedy())
        }
        io::ErrorKind::PermissionDenied => format!("no permission to open {place}: check the socket's owner and mode"),
        _ => format!("cannot connect to {place} ({error}): is Redis running and the host name right?"),
    };
    StoreError::new(StoreErrorKind::Unavailable, &address.name, detail)
}

/// The TLS handshake failed.
#[cfg(feature = "redis-tls")]
pub(super) fn tls(address: &Address, error: &io::Error) -> StoreError {
    let (kind, detail) = crate::tls::explain(&address.place(), error, &crate::tls::Names::default());
    StoreError::new(kind, &address.name, detail)
}

/// Nobody answered the attempt to connect.
pub(super) fn connecting_timed_out(address: &Address, after: Duration) -> StoreError {
    #[cfg(feature = "redis-tls")]
    let port = if address.tls.is_some() { ", and the port its TLS port" } else { "" };
    #[cfg(not(feature = "redis-tls"))]
    let port = "";
    let detail = format!(
        "{} accepted no connection within {} ms: is the host reachable and the server not stopped{port}?",
        address.place(),
        after.as_millis()
    );
    StoreError::new(StoreErrorKind::Timeout, &address.name, detail)
}

/// Connection after connection was lost with the same call in flight.
pub(super) fn lost(address: &Address) -> StoreError {
    let detail = format!("{} closed every connection before it answered: see the server's log", address.place());
    StoreError::new(StoreErrorKind::Unavailable, &address.name, detail)
}

/// A connection was lost while permits were given back over it.
pub(super) fn in_doubt(address: &Address) -> StoreError {
    let detail = format!(
        "{} closed the connection before it answered; permits that were to be given back may still count, and are \
         not given back twice",
        address.place()
    );
    StoreError::new(StoreErrorKind::Unavailable, &address.name, detail)
}

/// The sentinels named a replica again and again.
pub(super) fn demoted(name: &str) -> StoreError {
    let detail = "the server became a replica and the sentinels name no other: a failover is under way";
    StoreError::new(StoreErrorKind::Unavailable, name, detail)
}

/// Asked for the slots of its cluster, a node has none.
pub(super) fn no_cluster(node: &Address, said: &str) -> StoreError {
    let detail = format!("{} is no node of a cluster ({said}): use redis://", node.place());
    StoreError::new(StoreErrorKind::Misconfigured, &node.name, detail)
}

/// Asked for the slots of its cluster, a node knows none yet.
pub(super) fn no_slots(node: &Address) -> StoreError {
    let detail = format!("{} knows no slots yet: make the cluster with `redis-cli --cluster create`", node.place());
    StoreError::new(StoreErrorKind::Unavailable, &node.name, detail)
}

/// A command failed.
pub(super) fn command(name: &str, error: &ServerError) -> StoreError {
    server(name, error.code(), error.details().unwrap_or_default())
}

/// A command inside the script failed for one key.
pub(super) fn in_script(name: &str, key: &str, message: &[u8]) -> StoreError {
    let message = String::from_utf8_lossy(message);
    // Redis 6 puts the place in front: "@user_script: 12: -READONLY You can't write …".
    let own = message.strip_prefix("@user_script: ").and_then(|rest| rest.split_once(": "));
    let own = own.map_or(&*message, |(_, own)| own).trim_start_matches('-');
    let (code, text) = own.split_once(' ').unwrap_or((own, ""));
    if code == "WRONGTYPE" {
        let detail = format!(
            "key {key:?} holds another type of value: choose another prefix, or delete it with `redis-cli DEL '{key}'`"
        );
        return StoreError::new(StoreErrorKind::Corrupt, name, detail);
    }
    server(name, code, text)
}

/// A key's value was written by something else.
pub(super) fn foreign(name: &str, key: &str, value: &[u8]) -> StoreError {
    let start: String = String::from_utf8_lossy(value).chars().take(40).collect();
    let detail = format!(
        "key {key:?} holds {start:?}, which is no state of a limit: choose another prefix, or delete it with \
         `redis-cli DEL '{key}'`"
    );
    StoreError::new(StoreErrorKind::Corrupt, name, detail)
}

/// A key's value was written by another version of this store.
pub(super) fn version(name: &str, key: &str, found: &str, ours: &str) -> StoreError {
    let detail = format!(
        "key {key:?} holds a state of version {found} and this build reads version {ours}: run one version of \
         Tollway on this prefix, or choose another prefix"
    );
    StoreError::new(StoreErrorKind::Corrupt, name, detail)
}

fn server(name: &str, code: &str, text: &str) -> StoreError {
    use StoreErrorKind::{Misconfigured, Unavailable, Unsupported};
    let (kind, step) = match code {
        "NOAUTH" => (Misconfigured, "the server wants a password: put it in the URL, redis://USER:PASSWORD@HOST"),
        "WRONGPASS" => (Misconfigured, "wrong user name or password: correct them in the URL"),
        "NOPERM" => (
            Misconfigured,
            "give the user `~PREFIX:* +evalsha +script|load +get +set +del +hget +hset +hdel +exists +pexpire +scan +unlink +eval +time +ping +select`",
        ),
        "LOADING" => (Unavailable, "the server is loading its data: it answers when that is done"),
        "BUSY" => (Unavailable, "another script blocks the server: end it with `redis-cli SCRIPT KILL`"),
        "MASTERDOWN" | "READONLY" => (Unavailable, "the server is a replica: name the master in the URL"),
        "OOM" => (Unavailable, "the server is out of memory: raise maxmemory or set maxmemory-policy volatile-ttl"),
        "MISCONF" => (Unavailable, "the server cannot save its data and refuses writes: see its log"),
        "NOREPLICAS" => (Unavailable, "too few replicas are connected for the server to accept writes"),
        "MOVED" | "CROSSSLOT" | "CLUSTERDOWN" | "ASK" | "TRYAGAIN" => {
            (Unsupported, "the server is a Redis Cluster node: write redis+cluster:// in the URL")
        }
        "NOSCRIPT" => (Unavailable, "the server lost the script again and again: does something run SCRIPT FLUSH?"),
        _ if text.contains("max number of clients") => (Unavailable, "raise maxclients or use fewer processes"),
        _ if text.contains("unknown command") => (Unsupported, "Redis 6.2 or later is needed, with scripts allowed"),
        _ if text.contains("invalid DB index") || text.contains("DB index is out of range") => {
            (Misconfigured, "correct the database number at the end of the URL")
        }
        _ => (Unavailable, "see the server's log"),
    };
    StoreError::new(kind, name, format!("{step} (the server said: {code} {})", text.trim()))
}
