//! Jobs on their way: one transaction for many requests, or one command.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use tollway_core::StoreError;

use super::ask::{self, Answers, Asks};
use super::link::{Link, Server, Trouble};
use super::queue::{Done, Job, Queue, Work};
use super::trouble;

/// How often a transaction is tried when others make the same new rows or the server breaks a
/// deadlock.
const MOST_SWAPS: usize = 16;
/// How often a job is sent when its connection is lost.
const MOST_TRIES: u8 = 3;

/// What is left of a flight.
pub(super) struct Landing<L> {
    /// The connection, when it can be used again.
    pub(super) link: Option<L>,
    /// Jobs that are to be sent again.
    pub(super) again: Vec<Job>,
    /// No connection could be made, or the server does not answer: what everybody is to be told.
    pub(super) away: Option<StoreError>,
    /// Rows that were made.
    pub(super) new_rows: usize,
    /// Whether this was a sweep of the store's own.
    pub(super) swept: bool,
    /// Whether a sweep deleted all that it may, so that more may be left.
    pub(super) more: bool,
}

/// Brings `jobs` to the server, over `link` or a connection of its own.
pub(super) async fn fly<S: Server>(
    server: Arc<S>,
    queue: Arc<Queue>,
    link: Option<S::Link>,
    jobs: Vec<Job>,
) -> Landing<S::Link> {
    let swept = jobs.iter().any(Job::is_own);
    let mut landing = Landing { link: None, again: Vec::new(), away: None, new_rows: 0, swept, more: false };
    let mut link = match link {
        Some(link) => link,
        None => match dial(&*server, &queue).await {
            Ok(link) => link,
            Err(cause) => {
                (landing.again, landing.away) = (jobs, Some(cause));
                return landing;
            }
        },
    };
    let kept = if jobs.iter().any(|job| job.work.asks().is_some()) {
        decide(&mut link, &queue, jobs, &mut landing).await
    } else {
        command(&mut link, &queue, jobs, &mut landing).await
    };
    if kept {
        landing.link = Some(link);
    }
    landing
}

/// A new connection, within the time for one.
pub(super) async fn dial<S: Server>(server: &S, queue: &Queue) -> Result<S::Link, StoreError> {
    let made = tokio::time::timeout(queue.connect_timeout, server.connect()).await;
    let link = made.unwrap_or_else(|_| Err(server.silent()))?;
    queue.open(Instant::now());
    Ok(link)
}

/// How a transaction ended.
enum End {
    /// With these answers; whether it is still open, with nothing written.
    Decided(Vec<Answers>, bool),
    /// Whether it had begun to write.
    Failed(Trouble, bool),
    Stalled,
}

/// One transaction for the requests of all jobs. Says whether the connection is to be kept.
async fn decide<L: Link>(link: &mut L, queue: &Queue, mut jobs: Vec<Job>, landing: &mut Landing<L>) -> bool {
    let take = |job: &mut Job| match std::mem::replace(&mut job.work, Work::Ping) {
        Work::Decide(asks) => asks,
        _ => Asks::new(),
    };
    let callers: Vec<Asks> = jobs.iter_mut().map(take).collect();
    let end = {
        let mut flight = pin!(transact(link, &callers, &queue.name, &mut landing.new_rows));
        let limit = Instant::now() + queue.command_timeout;
        loop {
            let waiting = jobs.iter().filter(|job| !job.is_abandoned()).map(|job| job.deadline);
            let next = waiting.min().map_or(limit, |next| next.min(limit));
            tokio::select! {
                biased;
                end = &mut flight => break end,
                () = tokio::time::sleep_until(next.into()) => {
                    let now = Instant::now();
                    for job in jobs.iter().filter(|job| job.deadline <= now) {
                        job.finish(Err(trouble::timed_out(&queue.name, queue.command_timeout)));
                    }
                    if limit <= now {
                        break End::Stalled;
                    }
                }
            }
        }
    };
    match end {
        End::Decided(answers, open) => {
            for (job, answer) in jobs.iter().zip(answers) {
                job.finish(answer.map(Done::Decided));
            }
            // Nobody waits for the end of a transaction that wrote nothing.
            !open || in_time(queue, link.leave()).await.is_some_and(|left| left.is_ok())
        }
        End::Failed(Trouble::Cut(cause), in_doubt) => {
            for (mut job, asks) in jobs.into_iter().zip(callers) {
                job.work = Work::Decide(asks);
                send_again(job, in_doubt, &cause, queue, landing);
            }
            false
        }
        End::Failed(trouble, _) => {
            let cause = trouble.into_error();
            jobs.iter().for_each(|job| job.finish(Err(cause.clone())));
            true
        }
        End::Stalled => {
            let cause = trouble::timed_out(&queue.name, queue.command_timeout);
            jobs.iter().for_each(|job| job.finish(Err(cause.clone())));
            landing.away = Some(trouble::stalled(&queue.name, queue.command_timeout));
            false
        }
    }
}

async fn transact<L: Link>(link: &mut L, callers: &[Asks], store: &str, new_rows: &mut usize) -> End {
    let keys = ask::keys(callers.iter());
    let mut tries = 0;
    loop {
        tries += 1;
        let (rows, now) = match link.read(&keys).await {
            Ok(read) => read,
            Err(trouble) if trouble.is_lost() && tries < MOST_SWAPS => continue,
            Err(trouble) => return End::Failed(trouble, false),
        };
        let (answers, puts) = ask::settle(callers.iter(), rows, now, store);
        if puts.is_empty() {
            return End::Decided(answers, true);
        }
        match link.write(&puts).await {
            Ok(()) => {
                *new_rows = puts.new.len();
                return End::Decided(answers, false);
            }
            Err(trouble) if trouble.is_lost() && tries < MOST_SWAPS => {}
            Err(trouble) => return End::Failed(trouble, true),
        }
    }
}

/// Commands, one after the other. Says whether the connection is to be kept.
async fn command<L: Link>(link: &mut L, queue: &Queue, jobs: Vec<Job>, landing: &mut Landing<L>) -> bool {
    let mut jobs = jobs.into_iter();
    while let Some(job) = jobs.next() {
        let done = async {
            match &job.work {
                Work::Forget { from, to } => link.forget(from, to).await,
                Work::Sweep(most) => link.sweep(*most).await,
                Work::Decide(_) | Work::Ping => link.ping().await.map(|()| 0),
            }
        };
        match in_time(queue, done).await {
            Some(Ok(count)) => {
                landing.more = matches!(job.work, Work::Sweep(most) if count >= u64::from(most));
                job.finish(Ok(Done::Deleted(count)));
            }
            Some(Err(Trouble::Cut(cause))) => {
                send_again(job, false, &cause, queue, landing);
                landing.again.extend(jobs);
                return false;
            }
            Some(Err(trouble)) => job.finish(Err(trouble.into_error())),
            None => {
                job.finish(Err(trouble::timed_out(&queue.name, queue.command_timeout)));
                landing.away = Some(trouble::stalled(&queue.name, queue.command_timeout));
                landing.again.extend(jobs);
                return false;
            }
        }
    }
    true
}

/// What comes of it within the time of a call.
async fn in_time<T>(queue: &Queue, done: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(queue.command_timeout, done).await.ok()
}

/// The job's connection was lost. A check that may have been counted is counted again, so it counts
/// twice at worst; what gives permits back is not done again.
fn send_again<L>(mut job: Job, in_doubt: bool, cause: &StoreError, queue: &Queue, landing: &mut Landing<L>) {
    job.tries += 1;
    if in_doubt && !job.work.may_repeat() {
        job.finish(Err(trouble::in_doubt(&queue.name)));
    } else if job.tries < MOST_TRIES {
        landing.again.push(job);
    } else {
        job.finish(Err(cause.clone()));
    }
}
