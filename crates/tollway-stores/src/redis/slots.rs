//! Which node of a cluster has which slots.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ConnectionAddr, Value};
use tollway_core::StoreError;

use super::address::Address;
use super::cluster::Node;
use super::link::Link;
use super::trouble;

const COUNT: usize = 16_384;
const NOBODY: u16 = u16::MAX;
/// How many nodes that do not answer may be met in one reading.
const MOST_SILENT: u32 = 3;

/// Slots from the first to the last, and who has them.
pub(super) type Range = (u16, u16, ConnectionAddr);

/// The nodes that have slots, and which of them has each.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) nodes: Vec<Arc<Node>>,
    owners: Box<[u16]>,
}

impl Slots {
    pub(super) fn new(ranges: Vec<Range>, node: impl Fn(ConnectionAddr) -> Arc<Node>) -> Self {
        let mut slots = Self { nodes: Vec::new(), owners: vec![NOBODY; COUNT].into() };
        for (first, last, place) in ranges {
            let known = slots.nodes.iter().position(|node| node.place == place);
            let owner = known.unwrap_or_else(|| {
                slots.nodes.push(node(place));
                slots.nodes.len() - 1
            });
            slots.owners[usize::from(first)..=usize::from(last)].fill(owner as u16);
        }
        slots
    }

    pub(super) fn node(&self, slot: u16) -> Option<Arc<Node>> {
        self.nodes.get(usize::from(self.owners[usize::from(slot)])).map(Arc::clone)
    }
}

/// Asks one node after the other, beginning with number `turn`, until one knows.
pub(super) async fn read(
    address: &Address,
    places: &[ConnectionAddr],
    turn: usize,
    within: Duration,
) -> Result<Vec<Range>, StoreError> {
    let share = within / MOST_SILENT;
    let mut causes = Vec::new();
    for step in 0..places.len() {
        let node = address.at(places[(turn + step) % places.len()].clone());
        match tokio::time::timeout(share, ask(&node)).await {
            Ok(Ok(ranges)) => return Ok(ranges),
            Ok(Err(cause)) => causes.push(cause),
            Err(_) => causes.push(trouble::connecting_timed_out(&node, share)),
        }
    }
    // Whoever answered knows more than those who did not.
    causes.sort_by_key(StoreError::is_transient);
    Err(causes.into_iter().next().unwrap_or_else(|| trouble::unexpected(&address.name, "there is no node to ask")))
}

async fn ask(node: &Address) -> Result<Vec<Range>, StoreError> {
    let mut link = Link::make(node).await.map_err(|(cause, _)| cause)?;
    let answer = link.ask(Cmd::new().arg("CLUSTER").arg("SLOTS")).await;
    match answer {
        Ok(Value::Array(rows)) if !rows.is_empty() => rows
            .iter()
            .map(|row| range(row, node.info.addr()))
            .collect::<Option<_>>()
            .ok_or_else(|| trouble::unexpected(&node.name, "CLUSTER SLOTS answers in another form")),
        Ok(Value::ServerError(error)) => Err(trouble::no_cluster(node, &error.to_string())),
        Ok(_) => Err(trouble::no_slots(node)),
        Err(error) => Err(trouble::connecting(node, &error)),
    }
}

/// One row: the first slot, the last, the primary, its replicas.
fn range(row: &Value, teller: &ConnectionAddr) -> Option<Range> {
    let Value::Array(row) = row else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = row.as_slice() else { return None };
    let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        _ => "",
    };
    let slot = |number: i64| u16::try_from(number).ok().filter(|number| usize::from(*number) < COUNT);
    let (first, last) = (slot(*first)?, slot(*last)?);
    (first <= last).then_some((first, last, place_of(host, u16::try_from(*port).ok()?, teller)))
}

/// A node's place; a node that does not know its own host is where it was asked.
pub(super) fn place_of(host: &str, port: u16, teller: &ConnectionAddr) -> ConnectionAddr {
    match teller {
        ConnectionAddr::Tcp(own, _) if host.is_empty() || host == "?" => ConnectionAddr::Tcp(own.clone(), port),
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    }
}
