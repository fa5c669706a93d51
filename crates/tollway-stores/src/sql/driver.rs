//! The task that owns the connections: it sends what has queued up as one transaction, and lives
//! through the server's absence.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use tokio::time::MissedTickBehavior;
use tollway_core::StoreError;

use super::flight::{Landing, dial, fly};
use super::link::Server;
use super::queue::{Job, Queue, Work};
use crate::remote::pause;

/// Keys in one transaction.
const MOST_KEYS: usize = 512;
/// Expired rows that the store deletes at a time.
const SWEEP: u32 = 64;
/// What a sweep costs, in credits: a transaction earns one, a new row sixteen. So new rows pay for
/// deleting twice as many, and traffic on known keys finishes what is left. Credits are kept while
/// sweeps are slow, and forgotten when one finds nothing more to delete.
const SWEEP_COST: usize = 512;
const NEW_ROW: usize = 16;
pub(super) struct Driver<S: Server> {
    pub(super) queue: Arc<Queue>,
    pub(super) server: Arc<S>,
    /// Connections at once.
    pub(super) connections: usize,
}

type Flight<S> = Pin<Box<dyn Future<Output = Landing<<S as Server>::Link>> + Send>>;

/// The connections, at rest and on their way.
struct Crew<S: Server> {
    links: Vec<S::Link>,
    flights: Vec<Flight<S>>,
    /// Connections that can be had.
    most: usize,
    /// Whether the flights take so long that those who wait deserve another one.
    held_up: bool,
    /// Whether one of the flights is a sweep.
    sweeping: bool,
    /// What was earned towards the next sweep.
    credits: usize,
    /// Why nothing is sent any more.
    away: Option<StoreError>,
}

impl<S: Server> Drop for Driver<S> {
    /// Also when the runtime drops the task: nobody waits for a driver that is gone.
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

impl<S: Server> Driver<S> {
    /// Serves the queue until it is closed and empty.
    pub(super) async fn run(self) {
        let mut links = Vec::new();
        loop {
            if links.is_empty() {
                self.queue.idle();
            }
            if !self.queue.asked().await {
                return;
            }
            let Err(cause) = self.serve(std::mem::take(&mut links)).await else { return };
            match self.away(cause).await {
                Some(link) => links = Vec::from_iter(link),
                None => return,
            }
        }
    }

    /// The server is away: refuses until it is back, or nobody asks any more. None when closed.
    async fn away(&self, mut cause: StoreError) -> Option<Option<S::Link>> {
        let mut attempt = 0;
        loop {
            self.queue.refuse(&cause);
            if self.queue.is_closed() {
                return None;
            }
            tokio::time::sleep(pause(attempt)).await;
            if !self.queue.was_asked() {
                // Do not knock for nobody. The next one waits for an attempt.
                return Some(None);
            }
            match dial(&*self.server, &self.queue).await {
                Ok(link) => return Some(Some(link)),
                Err(again) => cause = again,
            }
            attempt += 1;
        }
    }

    /// Serves the queue. An error when the server is away.
    ///
    /// One connection does the work, since two that want the same rows wait for each other. Another
    /// one helps when a transaction is held up, by a row that somebody else has locked or a slow disk.
    async fn serve(&self, links: Vec<S::Link>) -> Result<(), StoreError> {
        let mut crew = Crew::new(links, self.connections);
        // Jobs that wait are looked after this often.
        let mut tick = tokio::time::interval(self.queue.command_timeout / 4);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let idle = crew.flights.is_empty();
            self.send(&mut crew);
            if crew.flights.is_empty() {
                if let Some(cause) = crew.away {
                    return Err(cause);
                }
                if self.queue.is_closed() && self.queue.len() == 0 {
                    return Ok(());
                }
            } else if idle {
                tick.reset();
            }
            tokio::select! {
                biased;
                landing = next_landing(&mut crew.flights), if !crew.flights.is_empty() => self.land(&mut crew, landing),
                _ = tick.tick(), if !crew.flights.is_empty() => {
                    self.queue.expire(Instant::now());
                    crew.held_up = true;
                }
                () = self.queue.bell.notified() => {}
            }
        }
    }

    /// Starts what may start.
    fn send(&self, crew: &mut Crew<S>) {
        if crew.away.is_some() || crew.flights.len() >= crew.most {
            return;
        }
        // A sweep is in nobody's way, unless it has the only connection: it is short.
        let busy = crew.flights.len() > usize::from(crew.sweeping && !crew.links.is_empty());
        if !busy || crew.held_up {
            let jobs = self.queue.take(MOST_KEYS);
            if !jobs.is_empty() {
                crew.credits += 1;
                self.start(crew, jobs);
            }
            crew.held_up = false;
        }
        let room = crew.flights.len() < crew.most && !crew.links.is_empty();
        if room && !crew.sweeping && crew.credits >= SWEEP_COST {
            crew.credits -= SWEEP_COST;
            crew.sweeping = true;
            self.start(crew, vec![Job::own(Work::Sweep(SWEEP))]);
        }
    }

    fn start(&self, crew: &mut Crew<S>, jobs: Vec<Job>) {
        let link = crew.links.pop();
        crew.flights.push(Box::pin(fly(Arc::clone(&self.server), Arc::clone(&self.queue), link, jobs)));
    }

    /// Takes in what came back.
    fn land(&self, crew: &mut Crew<S>, landing: Landing<S::Link>) {
        let Landing { link, again, away, new_rows, swept, more } = landing;
        if swept {
            crew.sweeping = false;
            crew.credits = if more { crew.credits } else { 0 };
        }
        crew.credits += NEW_ROW * new_rows;
        let lost = link.is_none();
        crew.links.extend(link);
        let alone = crew.links.is_empty() && crew.flights.is_empty();
        match away {
            // One connection more cannot be had: the others go on.
            Some(_) if !again.is_empty() && !alone => {
                crew.most = (crew.links.len() + crew.flights.len()).max(1);
                self.queue.put_back(again);
            }
            Some(cause) => {
                crew.links.clear();
                for job in again {
                    job.finish(Err(cause.clone()));
                }
                self.queue.refuse(&cause);
                crew.away = Some(cause);
            }
            None => {
                if lost {
                    // What closed one has probably closed all.
                    crew.links.clear();
                    if crew.flights.is_empty() {
                        self.queue.idle();
                    }
                }
                self.queue.put_back(again);
            }
        }
    }
}

impl<S: Server> Crew<S> {
    fn new(links: Vec<S::Link>, most: usize) -> Self {
        let flights = Vec::new();
        // Rows may be left from earlier: the first sweep is free.
        Self { links, flights, most, held_up: false, sweeping: false, credits: SWEEP_COST, away: None }
    }
}

/// The first flight that lands. All are polled, so that all get sent.
async fn next_landing<L>(flights: &mut Vec<Pin<Box<dyn Future<Output = Landing<L>> + Send>>>) -> Landing<L> {
    poll_fn(|cx| {
        for index in 0..flights.len() {
            if let Poll::Ready(landing) = flights[index].as_mut().poll(cx) {
                drop(flights.swap_remove(index));
                return Poll::Ready(landing);
            }
        }
        Poll::Pending
    })
    .await
}
