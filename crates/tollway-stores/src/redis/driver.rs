//! The task that owns the connection: it sends what has queued up as one call, and lives through the
//! server's absence.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};
use tollway_core::{StoreError, StoreErrorKind};

use super::address::{Address, Kind};
use super::call::{Call, Leftover, MOST_KEYS, MOST_TRIES};
use super::link::{Cut, Link};
use super::queue::{Job, Queue};
use super::sentinel;
use super::trouble;
use crate::remote::pause;

/// Calls on their way at once: the second is packed while the server works on the first.
const MOST_FLIGHTS: usize = 2;
/// With a call on its way, a second one starts only when it carries at least this many jobs; fewer
/// wait and go together.
const WORTH_A_SECOND: usize = 64;
pub(super) struct Driver {
    pub(super) queue: Arc<Queue>,
    pub(super) address: Address,
    pub(super) connect_timeout: Duration,
    pub(super) command_timeout: Duration,
}

/// A call on its way.
struct Flight {
    call: Call,
    reply: Pin<Box<dyn Future<Output = Result<Vec<Value>, RedisError>> + Send>>,
    deadline: Instant,
}

/// How a connection's service ended.
enum End {
    /// Nobody needs it any more.
    Closed,
    /// The server closed it; what was in flight is back in the queue.
    Broken,
    /// The server does not answer; whether it did over this connection before.
    Stalled { cause: StoreError, answered: bool },
}

/// What to do next.
enum Phase {
    Idle,
    Dial,
    /// `attempt` counts those who were connected in vain before.
    Serve {
        link: Link,
        attempt: u32,
    },
    Away {
        cause: StoreError,
        attempt: u32,
    },
}

impl Drop for Driver {
    /// Also when the runtime drops the task: nobody waits for a driver that is gone.
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

impl Driver {
    /// Serves the queue until it is closed and empty.
    pub(super) async fn run(self) {
        let mut phase = Phase::Idle;
        loop {
            phase = match phase {
                Phase::Idle => {
                    self.queue.idle();
                    if !self.queue.asked().await {
                        return;
                    }
                    Phase::Dial
                }
                Phase::Dial => match self.dial_while_they_wait().await {
                    Ok(link) => Phase::Serve { link, attempt: 0 },
                    Err(cause) => Phase::Away { cause, attempt: 0 },
                },
                Phase::Serve { link, attempt } => match self.serve(link).await {
                    End::Closed => return,
                    // With jobs brought back: dial at once. Without: when somebody comes.
                    End::Broken => Phase::Idle,
                    // One that lets itself be connected to and answers nothing is asked ever more rarely.
                    End::Stalled { cause, answered } => {
                        Phase::Away { cause, attempt: if answered { 0 } else { attempt.saturating_add(1) } }
                    }
                },
                Phase::Away { cause, attempt } => {
                    self.queue.refuse(&cause);
                    if self.queue.is_closed() {
                        return;
                    }
                    tokio::time::sleep(pause(attempt)).await;
                    if self.queue.was_asked() {
                        match self.dial().await {
                            Ok(link) => Phase::Serve { link, attempt },
                            Err(cause) => Phase::Away { cause, attempt: attempt.saturating_add(1) },
                        }
                    } else {
                        // Nobody asks: do not knock for nobody. The next one waits for an attempt.
                        Phase::Idle
                    }
                }
            };
        }
    }

    async fn dial(&self) -> Result<Link, StoreError> {
        let attempts = async {
            for _ in 1..MOST_TRIES {
                // A connection that was made and cut before it served is no sign of absence.
                match self.connect().await {
                    Err((_, Cut(true))) => {}
                    made => return made,
                }
            }
            self.connect().await
        };
        match tokio::time::timeout(self.connect_timeout, attempts).await {
            Ok(made) => made.map_err(|(cause, _)| cause),
            Err(_) => Err(trouble::connecting_timed_out(&self.address, self.connect_timeout)),
        }
    }

    /// Dials, and answers those whose time runs out meanwhile.
    async fn dial_while_they_wait(&self) -> Result<Link, StoreError> {
        let mut dial = pin!(self.dial());
        loop {
            let next = self.queue.expire(Instant::now()).unwrap_or_else(|| Instant::now() + self.connect_timeout);
            tokio::select! {
                link = &mut dial => return link,
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    async fn connect(&self) -> Result<Link, (StoreError, Cut)> {
        match &self.address.kind {
            Kind::Sentinel(sentinels) => sentinel::connect(&self.address, sentinels, self.connect_timeout).await,
            Kind::Server | Kind::Cluster(_) => Link::make(&self.address).await,
        }
    }

    /// Serves the queue over one connection.
    async fn serve(&self, link: Link) -> End {
        let Link { connection, mut pump, mut replaced } = link;
        self.queue.open(Instant::now());
        let mut flights: Vec<Flight> = Vec::with_capacity(MOST_FLIGHTS);
        let mut load = true;
        let mut alarm = pin!(tokio::time::sleep_until(Instant::now().into()));
        let (mut armed, mut answered) = (false, false);
        loop {
            while self.may_start(flights.len()) {
                let jobs = self.queue.take(MOST_KEYS);
                if jobs.is_empty() {
                    break;
                }
                let flight = self.start(jobs, &connection, std::mem::take(&mut load));
                if !armed {
                    let first = flight.call.jobs.iter().map(|job| job.deadline).min().unwrap_or(flight.deadline);
                    alarm.as_mut().reset(first.min(flight.deadline).into());
                    armed = true;
                }
                flights.push(flight);
            }
            if flights.is_empty() && self.queue.is_closed() && self.queue.len() == 0 {
                return End::Closed;
            }
            tokio::select! {
                biased;
                (index, reply) = next_reply(&mut flights), if !flights.is_empty() => {
                    let flight = flights.remove(index);
                    match reply {
                        Ok(replies) => {
                            answered = true;
                            let (missing, demoted) = self.hand_out(flight, replies);
                            load |= missing;
                            if demoted {
                                return self.broken(flights);
                            }
                        }
                        Err(_) => {
                            flights.insert(index, flight);
                            return self.broken(flights);
                        }
                    }
                }
                () = &mut pump => return self.broken(flights),
                () = &mut replaced => return self.broken(flights),
                () = &mut alarm, if armed => match self.expire(&flights) {
                    Ok(next) => {
                        armed = next.is_some();
                        if let Some(next) = next {
                            alarm.as_mut().reset(next.into());
                        }
                    }
                    Err(cause) => {
                        for job in flights.into_iter().flat_map(|flight| flight.call.jobs) {
                            job.finish(Err(trouble::timed_out(&self.address.name, self.command_timeout)));
                        }
                        return End::Stalled { cause, answered };
                    }
                },
                () = self.queue.bell.notified() => {}
            }
        }
    }

    fn may_start(&self, flights: usize) -> bool {
        flights == 0 || (flights < MOST_FLIGHTS && self.queue.len() >= WORTH_A_SECOND)
    }

    fn start(&self, jobs: Vec<Job>, connection: &MultiplexedConnection, load: bool) -> Flight {
        let mut call = Call::pack(jobs, load);
        let pipeline = std::mem::take(&mut call.pipeline);
        let mut connection = connection.clone();
        let count = pipeline.len();
        let reply = Box::pin(async move { connection.send_packed_commands(&pipeline, 0, count).await });
        Flight { call, reply, deadline: Instant::now() + self.command_timeout }
    }

    /// Hands the answers out; says whether the script has to be loaded, and whether the primary is
    /// to be looked for anew.
    fn hand_out(&self, flight: Flight, replies: Vec<Value>) -> (bool, bool) {
        let follow = matches!(self.address.kind, Kind::Sentinel(_));
        let Leftover { again, load, demoted, .. } = flight.call.hand_out(replies, &self.address.name, follow);
        self.queue.put_back(again);
        (load, demoted)
    }

    /// The connection is gone. Calls that were answered before it went are handed out; the others
    /// go back to be sent again, so one may be counted twice and none is counted never; what gives
    /// permits back is not sent again.
    fn broken(&self, flights: Vec<Flight>) -> End {
        let mut again = Vec::new();
        for mut flight in flights {
            match flight.reply.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(replies)) => {
                    self.hand_out(flight, replies);
                }
                _ => again.extend(flight.call.jobs),
            }
        }
        let (again, lost): (Vec<_>, Vec<_>) =
            again.into_iter().partition(|job| job.work.may_repeat() && job.tries + 1 < MOST_TRIES);
        for job in lost {
            let cause = if job.work.may_repeat() { trouble::lost } else { trouble::in_doubt };
            job.finish(Err(cause(&self.address)));
        }
        let again = again.into_iter().map(|mut job| {
            job.tries += 1;
            job
        });
        self.queue.put_back(again.collect());
        End::Broken
    }

    /// Answers those whose time ran out, on their way or waiting, and says when the next one's
    /// does. An error when the server owes an answer for longer than a call may take.
    fn expire(&self, flights: &[Flight]) -> Result<Option<Instant>, StoreError> {
        let now = Instant::now();
        if flights.iter().any(|flight| flight.deadline <= now) {
            let detail = format!(
                "{} left a call unanswered for {} ms; a new connection is being tried",
                self.address.place(),
                self.command_timeout.as_millis()
            );
            return Err(StoreError::new(StoreErrorKind::Unavailable, &self.address.name, detail));
        }
        let mut next = self.queue.expire(now);
        for flight in flights {
            for job in &flight.call.jobs {
                if job.deadline <= now {
                    job.finish(Err(trouble::timed_out(&self.address.name, self.command_timeout)));
                } else if !job.is_abandoned() {
                    next = Some(next.map_or(job.deadline, |next| next.min(job.deadline)));
                }
            }
            next = Some(next.map_or(flight.deadline, |next| next.min(flight.deadline)));
        }
        Ok(next)
    }
}

/// The first answer of any flight. All are polled, so that all get sent.
async fn next_reply(flights: &mut [Flight]) -> (usize, Result<Vec<Value>, RedisError>) {
    poll_fn(|cx| {
        for (index, flight) in flights.iter_mut().enumerate() {
            if let Poll::Ready(reply) = flight.reply.as_mut().poll(cx) {
                return Poll::Ready((index, reply));
            }
        }
        Poll::Pending
    })
    .await
}
