//! A cluster: each slot's calls go to the node that has it, over a connection for each node.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{ConnectionAddr, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tollway_core::{Decision, Reply, StoreError, StoreErrorKind};

use super::address::Address;
use super::ask::{Answer, Ask, Asks};
use super::driver::Driver;
use super::hop::{Hop, Route, slot};
use super::queue::{Command, Done, Errand, Outcome, Queue, Work};
use super::share::{Share, back, one_slot, shares, tighter};
use super::slots::{self, Slots};
use super::{RedisOptions, Way, decide, said, sweep, trouble};
use crate::remote::Lookout;

/// How often a request follows a node's word that the slot is elsewhere.
const MOST_HOPS: usize = 8;
/// Requests of one slot in one job: they are answered, or sent elsewhere, as one.
const MOST_ASKS: usize = 128;
/// The pause before a request is tried again whose keys are being moved.
const MOVING_PAUSE: Duration = Duration::from_millis(10);
/// The pause after reading the slots: what bounds how often it is done.
const READING_PAUSE: Duration = Duration::from_millis(100);
/// How long a failure to read the slots answers for the next one.
const FRESH: Duration = Duration::from_secs(1);

/// A node's queue, closed with the last who knows it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: ConnectionAddr,
    queue: Arc<Queue>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// What is known of the slots.
type Known = Option<Result<Arc<Slots>, (StoreError, Instant)>>;

pub(super) struct Cluster {
    address: Address,
    seeds: Vec<ConnectionAddr>,
    name: Arc<str>,
    options: RedisOptions,
    lookout: Arc<Lookout>,
    runtime: Handle,
    process: u32,
    /// Calls not yet answered.
    busy: AtomicUsize,
    nodes: Mutex<HashMap<String, Arc<Node>>>,
    known: watch::Sender<Known>,
    /// Rung when the slots have to be read.
    stale: Notify,
    closed: AtomicBool,
}

/// Counts a call until it is answered.
struct Busy(Arc<Cluster>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cluster {
    pub(super) fn open(
        address: Address,
        seeds: Vec<ConnectionAddr>,
        name: Arc<str>,
        options: RedisOptions,
        lookout: Arc<Lookout>,
        runtime: &Handle,
    ) -> Arc<Self> {
        let cluster = Arc::new(Self {
            address,
            seeds,
            name,
            options,
            lookout,
            runtime: runtime.clone(),
            process: std::process::id(),
            busy: AtomicUsize::new(0),
            nodes: Mutex::default(),
            known: watch::Sender::new(None),
            stale: Notify::new(),
            closed: AtomicBool::new(false),
        });
        runtime.spawn(Arc::clone(&cluster).keep_slots());
        cluster
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.stale.notify_one();
    }

    pub(super) fn waiting(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Runs a call on the store's runtime, for at most as long as a call may take.
    fn run<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Reply<T> {
        let cluster = Arc::clone(self);
        self.run_in_steps(async move { cluster.in_time(call).await })
    }

    /// Waits for a call for at most as long as one may take.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let patience = self.options.connect_timeout + self.options.command_timeout;
        let late = || {
            let error = trouble::timed_out(&self.name, patience);
            let knows_slots = matches!(&*self.known.borrow(), Some(Ok(_)));
            Err(if knows_slots { error.of_a_part() } else { error })
        };
        tokio::time::timeout(patience, call).await.unwrap_or_else(|_| late())
    }

    /// Runs a call on the store's runtime that sees to its own time.
    fn run_in_steps<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Reply<T> {
        let bound = self.options.queue;
        let refused = if std::process::id() != self.process {
            Some(trouble::forked(&self.name))
        } else if self
            .busy
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < bound).then_some(n + 1))
            .is_err()
        {
            Some(trouble::full(&self.name, bound))
        } else {
            None
        };
        if let Some(error) = refused {
            return Box::pin(std::future::ready(Err(error)));
        }
        let busy = Busy(Arc::clone(self));
        let task = self.runtime.spawn(async move {
            let answer = call.await;
            if answer.as_ref().is_err_and(StoreError::is_transient) {
                busy.0.stale.notify_one();
            }
            answer
        });
        let gone = trouble::undriven(&self.name);
        Box::pin(async move { task.await.unwrap_or(Err(gone)) })
    }

    pub(super) fn apply(self: &Arc<Self>, asks: Vec<Ask>) -> Reply<Vec<Decision>> {
        let cluster = Arc::clone(self);
        self.run(async move {
            let mut decisions = vec![None; asks.len()];
            let mut groups = BTreeMap::new();
            for (place, ask) in asks.into_iter().enumerate() {
                match one_slot(&ask) {
                    Some(slot) => groups.entry(slot).or_insert_with(Vec::new).push((place, ask)),
                    None => {
                        cluster.flush(std::mem::take(&mut groups), &mut decisions).await?;
                        decisions[place] = Some(cluster.spread(&ask).await?);
                    }
                }
            }
            cluster.flush(groups, &mut decisions).await?;
            Ok(decisions.into_iter().flatten().collect())
        })
    }

    pub(super) fn adjust(self: &Arc<Self>, ask: Ask) -> Reply<Decision> {
        let cluster = Arc::clone(self);
        self.run(async move { cluster.decide_one(slot(&ask.dues[0].key), ask).await })
    }

    /// Has a command about a key carried out.
    pub(super) fn say(self: &Arc<Self>, key: &str, command: Command) -> Reply<Value> {
        let (cluster, number) = (Arc::clone(self), slot(key));
        self.run(async move { cluster.say_at(number, command).await })
    }

    async fn say_at(&self, slot: u16, command: Command) -> Result<Value, StoreError> {
        said(self.travel(slot, Work::Say(command)).await?, &self.name)
    }

    /// Unlinks every key that matches, node by node. Each step may take as long as a call.
    pub(super) fn sweep(self: &Arc<Self>, pattern: String) -> Reply<()> {
        let cluster = Arc::clone(self);
        self.run_in_steps(async move {
            for node in &cluster.in_time(cluster.slots()).await?.nodes {
                let mut cursor = sweep::START.to_vec();
                loop {
                    let scan = Work::Say(sweep::scan(&cursor, &pattern));
                    let page = cluster.in_time(cluster.send(node, scan, Route::Alone { asking: false })).await?;
                    let (next, keys) = sweep::page(said(page, &cluster.name)?, &cluster.name)?;
                    for some in keys.chunks(sweep::AT_ONCE) {
                        let unlink = |key: &Vec<u8>| {
                            let number = slot(&String::from_utf8_lossy(key));
                            cluster.in_time(cluster.say_at(number, sweep::unlink(std::slice::from_ref(key))))
                        };
                        together(some.iter().map(unlink).collect())
                            .await
                            .into_iter()
                            .try_for_each(|done| done.map(drop))?;
                    }
                    if next == sweep::START {
                        break;
                    }
                    cursor = next;
                }
            }
            Ok(())
        })
    }

    /// Asks every node that has slots.
    pub(super) fn ping(self: &Arc<Self>) -> Reply<()> {
        let cluster = Arc::clone(self);
        self.run(async move {
            let slots = cluster.slots().await?;
            let asked = slots.nodes.iter().map(|node| {
                let ping = Work::Say(Command::new(["PING"]));
                cluster.send(node, ping, Route::Alone { asking: false })
            });
            let asked: Vec<_> = asked.collect();
            together(asked).await.into_iter().try_for_each(|answer| answer.map(drop))
        })
    }

    /// Decides requests that have a slot each, all at once.
    async fn flush(
        &self,
        groups: BTreeMap<u16, Vec<(usize, Ask)>>,
        decisions: &mut [Option<Decision>],
    ) -> Result<(), StoreError> {
        let (mut places, mut calls) = (Vec::new(), Vec::new());
        for (slot, group) in groups {
            let (own, asks): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            places.extend(own);
            let mut asks = asks.into_iter().peekable();
            while asks.peek().is_some() {
                let some: Asks = asks.by_ref().take(MOST_ASKS).collect();
                calls.push(self.decide_slot(slot, some));
            }
        }
        let mut places = places.into_iter();
        for answer in together(calls).await {
            for (decision, place) in answer?.into_iter().zip(places.by_ref()) {
                decisions[place] = Some(decision);
            }
        }
        Ok(())
    }

    async fn decide_slot(&self, slot: u16, asks: Asks) -> Result<Vec<Decision>, StoreError> {
        decide(&self.name, self.exchange(slot, asks), Way::Slot(self, slot)).await
    }

    async fn decide_one(&self, slot: u16, ask: Ask) -> Result<Decision, StoreError> {
        let asks = Asks::from_iter([ask]);
        let decisions = self.decide_slot(slot, asks).await?;
        decisions.first().copied().ok_or_else(|| trouble::unexpected(&self.name, "an answer is missing"))
    }

    /// A request whose keys are in several slots: looked at everywhere, then charged slot by slot, and
    /// given back when a later slot refuses after all.
    async fn spread(&self, ask: &Ask) -> Result<Decision, StoreError> {
        let looked = self.all_of(shares(ask, true)).await?;
        if ask.peek || !looked.allowed {
            return Ok(looked);
        }
        let (mut charged, mut decisions) = (Vec::new(), Vec::new());
        for share in shares(ask, false) {
            let dues = share.ask.dues.clone();
            match self.decide_share(share).await {
                Ok(decision) if decision.allowed => {
                    charged.extend(dues.into_iter().map(|due| back(due, decision.at)));
                    decisions.push(decision);
                }
                answer => {
                    self.give_back(charged).await;
                    return answer;
                }
            }
        }
        decisions.into_iter().reduce(tighter).ok_or_else(|| trouble::unexpected(&self.name, "nothing was charged"))
    }

    async fn all_of(&self, shares: Vec<Share>) -> Result<Decision, StoreError> {
        let asked: Vec<_> = shares.into_iter().map(|share| self.decide_share(share)).collect();
        let answers = together(asked).await;
        let decisions = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        decisions.into_iter().reduce(tighter).ok_or_else(|| trouble::unexpected(&self.name, "nothing was asked"))
    }

    async fn decide_share(&self, share: Share) -> Result<Decision, StoreError> {
        let mut decision = self.decide_one(share.slot, share.ask).await?;
        decision.charge = share.charges.get(usize::from(decision.charge)).copied().unwrap_or_default();
        Ok(decision)
    }

    /// What cannot be given back stays charged: too little may pass then, and never too much.
    async fn give_back(&self, asks: Vec<Ask>) {
        let back: Vec<_> = asks.into_iter().map(|ask| self.decide_one(slot(&ask.dues[0].key), ask)).collect();
        together(back).await;
    }

    /// Has requests of one slot answered, wherever the slot is.
    pub(super) async fn exchange(&self, slot: u16, asks: Asks) -> Result<(Asks, Vec<Answer>), StoreError> {
        let (mut asked, mut answers) = (Asks::new(), Vec::new());
        let mut open = VecDeque::from([asks]);
        while let Some(asks) = open.pop_front() {
            match self.travel(slot, Work::Apply(asks)).await? {
                Done::Applied(some, their) => {
                    asked.extend(some);
                    answers.extend(their);
                }
                // Some keys are here and some there: one request at a time.
                Done::Elsewhere(Work::Apply(asks), _) => {
                    asks.into_iter().rev().for_each(|ask| open.push_front(Asks::from_iter([ask])));
                }
                _ => return Err(trouble::unexpected(&self.name, "a decision was asked for and none came")),
            }
        }
        Ok((asked, answers))
    }

    /// Brings a job to the node that has its slot. Several requests whose slot is being moved come
    /// back; a single one is brought to where its keys are.
    async fn travel(&self, slot: u16, mut work: Work) -> Outcome {
        let (mut node, mut route, mut hops) = (self.node_of(slot).await?, Route::Slot(slot), 0);
        loop {
            let (back, hop) = match self.send(&node, work, route).await? {
                Done::Elsewhere(back, hop) => (back, hop),
                done => return Ok(done),
            };
            let several = matches!(&back, Work::Apply(asks) if asks.len() > 1);
            work = back;
            match hop {
                Hop::Moved(place) => {
                    self.stale.notify_one();
                    (node, route) = (self.node_named(&place, &node)?, Route::Slot(slot));
                }
                Hop::Down(why) => return Err(self.down(slot, &why)),
                hop if several => return Ok(Done::Elsewhere(work, hop)),
                Hop::Ask(place) => (node, route) = (self.node_named(&place, &node)?, Route::Alone { asking: true }),
                Hop::TryAgain => {
                    // Until the slot is there or the caller's time is over.
                    tokio::time::sleep(MOVING_PAUSE).await;
                    (node, route, hops) = (self.node_of(slot).await?, Route::Alone { asking: false }, 0);
                }
            }
            hops += 1;
            if hops > MOST_HOPS {
                return Err(self.down(slot, "its nodes point at each other"));
            }
        }
    }

    /// A node that fails fails alone: its queue refuses while it is away, and the others go on.
    async fn send(&self, node: &Node, work: Work, route: Route) -> Outcome {
        let sent = async { node.queue.push(Errand { work, route }, None)?.outcome().await };
        sent.await.map_err(StoreError::of_a_part)
    }

    fn down(&self, slot: u16, why: &str) -> StoreError {
        let detail = format!("the cluster does not serve slot {slot} ({why}): see `redis-cli CLUSTER INFO`");
        StoreError::new(StoreErrorKind::Unavailable, &*self.name, detail).of_a_part()
    }

    /// A node by the `HOST:PORT` that `teller` gave; without a host it is the teller's own.
    fn node_named(&self, place: &str, teller: &Node) -> Result<Arc<Node>, StoreError> {
        let read = || {
            let (host, port) = place.rsplit_once(':')?;
            Some(slots::place_of(host, port.parse().ok()?, &teller.place))
        };
        let place = read().ok_or_else(|| trouble::unexpected(&self.name, &format!("a node named {place:?}")))?;
        Ok(self.node(place))
    }

    /// The node there; its connection is made when somebody uses it.
    fn node(&self, place: ConnectionAddr) -> Arc<Node> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let RedisOptions { connect_timeout, command_timeout, queue, .. } = self.options;
        let made = nodes.entry(place.to_string()).or_insert_with(|| {
            let queue = Queue::new(Arc::clone(&self.name), queue, connect_timeout, command_timeout, &self.lookout);
            let address = self.address.at(place.clone());
            let driver = Driver { queue: Arc::clone(&queue), address, connect_timeout, command_timeout };
            self.runtime.spawn(driver.run());
            Arc::new(Node { place, queue })
        });
        Arc::clone(made)
    }

    async fn node_of(&self, slot: u16) -> Result<Arc<Node>, StoreError> {
        let slots = self.slots().await?;
        slots.node(slot).ok_or_else(|| {
            self.stale.notify_one();
            self.down(slot, "no node has it")
        })
    }

    /// The slots as they were read last, or as they are read now.
    async fn slots(&self) -> Result<Arc<Slots>, StoreError> {
        let mut known = self.known.subscribe();
        loop {
            match &*known.borrow_and_update() {
                Some(Ok(slots)) => return Ok(Arc::clone(slots)),
                Some(Err((cause, at))) if at.elapsed() < FRESH => {
                    self.stale.notify_one();
                    return Err(cause.clone());
                }
                _ => self.stale.notify_one(),
            }
            if known.changed().await.is_err() {
                return Err(trouble::unexpected(&self.name, "nobody reads the slots"));
            }
        }
    }

    /// Reads the slots whenever somebody found them wrong; each time another node is asked first.
    async fn keep_slots(self: Arc<Self>) {
        let mut turn = 0;
        loop {
            self.stale.notified().await;
            if self.closed.load(Ordering::Relaxed) {
                return;
            }
            let read = slots::read(&self.address, &self.candidates(), turn, self.options.connect_timeout).await;
            turn += 1;
            match read {
                Ok(ranges) => {
                    let slots = Arc::new(Slots::new(ranges, |place| self.node(place)));
                    let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
                    nodes.retain(|_, node| slots.nodes.iter().any(|used| Arc::ptr_eq(used, node)));
                    drop(nodes);
                    self.known.send_replace(Some(Ok(slots)));
                }
                // Old slots are better than none.
                Err(_) if matches!(&*self.known.borrow(), Some(Ok(_))) => {}
                Err(cause) => drop(self.known.send_replace(Some(Err((cause, Instant::now()))))),
            }
            tokio::time::sleep(READING_PAUSE).await;
        }
    }

    /// Who may know the slots: the nodes that have some, and those of the URL.
    fn candidates(&self) -> Vec<ConnectionAddr> {
        let mut places: Vec<_> = match &*self.known.borrow() {
            Some(Ok(slots)) => slots.nodes.iter().map(|node| node.place.clone()).collect(),
            _ => Vec::new(),
        };
        for seed in &self.seeds {
            if !places.contains(seed) {
                places.push(seed.clone());
            }
        }
        places
    }
}

/// Waits for all, at once.
fn together<F: Future>(futures: Vec<F>) -> impl Future<Output = Vec<F::Output>> {
    let mut open: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = open.iter().map(|_| None).collect();
    std::future::poll_fn(move |cx| {
        for (future, done) in open.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *done = Some(output);
            }
        }
        match done.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(done.drain(..).flatten().collect()),
            false => std::task::Poll::Pending,
        }
    })
}
