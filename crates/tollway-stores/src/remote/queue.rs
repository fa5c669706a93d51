//! Where callers leave their jobs for the driver.
//!
//! A lock around a deque rather than a channel: the driver takes all that waits at once, and can
//! refuse at the door while the server is away, and answer those whose time runs out in the queue.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use tokio::sync::Notify;
use tollway_core::StoreError;

use super::lookout::{Lookout, Waits};
use super::trouble;

/// What a caller wants.
pub(crate) trait Work: Debug + Send + 'static {
    /// What comes of it.
    type Done: Debug + Send + 'static;

    /// How many keys it names.
    fn size(&self) -> usize;

    /// Whether it travels with no other.
    fn is_alone(&self) -> bool {
        false
    }
}

/// One caller's work and where its outcome goes.
#[derive(Debug)]
pub(crate) struct Job<W: Work> {
    pub(crate) work: W,
    pub(crate) deadline: Instant,
    /// Times it was on its way and came back undone.
    pub(crate) tries: u8,
    /// None when it is the store's own.
    reply: Option<Arc<Wish<W::Done>>>,
}

/// Where an outcome goes; empty once the caller has one.
#[derive(Debug)]
struct Wish<D>(Mutex<Option<oneshot::Sender<Result<D, StoreError>>>>);

impl<D> Wish<D> {
    fn sender(&self) -> MutexGuard<'_, Option<oneshot::Sender<Result<D, StoreError>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fulfil(&self, outcome: Result<D, StoreError>) {
        let sender = self.sender().take();
        if let Some(sender) = sender {
            // A caller that gave up does not want it any more.
            let _ = sender.send(outcome);
        }
    }

    fn is_over(&self) -> bool {
        self.sender().as_ref().is_none_or(oneshot::Sender::is_canceled)
    }
}

impl<W: Work> Job<W> {
    /// Work of the store itself, which nobody waits for.
    #[cfg(feature = "sql")]
    pub(crate) fn own(work: W) -> Self {
        Self { work, deadline: Instant::now(), tries: 0, reply: None }
    }

    /// Whether nobody ever waited for it.
    #[cfg(feature = "sql")]
    pub(crate) fn is_own(&self) -> bool {
        self.reply.is_none()
    }

    /// Gives the caller its outcome, also while the work is still on its way; one who is gone, or has
    /// one, does not mind.
    pub(crate) fn finish(&self, outcome: Result<W::Done, StoreError>) {
        if let Some(reply) = &self.reply {
            reply.fulfil(outcome);
        }
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(|reply| reply.is_over())
    }
}

/// What a caller keeps of its job.
#[derive(Debug)]
pub(crate) struct Ticket<D> {
    outcome: oneshot::Receiver<Result<D, StoreError>>,
    name: Arc<str>,
    /// Until when it is answered.
    #[cfg(feature = "redis")]
    pub(crate) deadline: Instant,
}

impl<D> Ticket<D> {
    /// Waits for what the driver says, for the driver's end, or for the lookout.
    pub(crate) async fn outcome(self) -> Result<D, StoreError> {
        self.outcome.await.unwrap_or_else(|_| Err(trouble::undriven(&self.name)))
    }
}

/// What happens to those who come.
#[derive(Debug)]
enum Gate {
    /// No connection, and no reason to think that none can be had: they wait for it.
    Idle,
    /// Connected: they wait for an answer.
    Open,
    /// The server is away: they are told why, at once.
    Refusing(StoreError),
    /// The store or its runtime is gone.
    Closed,
}

#[derive(Debug)]
struct State<W: Work> {
    waiting: VecDeque<Job<W>>,
    /// The jobs that the driver took, until the next ones are taken.
    taken: Vec<(Instant, Weak<Wish<W::Done>>)>,
    gate: Gate,
    /// Whether somebody came since the gate began to refuse.
    knocked: bool,
    /// When the lookout looks next, if it does.
    watched: Option<Instant>,
}

/// The queue of one store.
#[derive(Debug)]
pub(crate) struct Queue<W: Work> {
    pub(crate) name: Arc<str>,
    bound: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) command_timeout: Duration,
    process: u32,
    state: Mutex<State<W>>,
    pub(crate) bell: Notify,
    lookout: Arc<Lookout>,
}

impl<W: Work> Queue<W> {
    pub(crate) fn new(
        name: Arc<str>,
        bound: usize,
        connect_timeout: Duration,
        command_timeout: Duration,
        lookout: &Arc<Lookout>,
    ) -> Arc<Self> {
        let state =
            State { waiting: VecDeque::new(), taken: Vec::new(), gate: Gate::Idle, knocked: false, watched: None };
        let queue = Arc::new(Self {
            name,
            bound,
            connect_timeout,
            command_timeout,
            process: std::process::id(),
            state: Mutex::new(state),
            bell: Notify::new(),
            lookout: Arc::clone(lookout),
        });
        let watched: Weak<Self> = Arc::downgrade(&queue);
        lookout.watch(watched);
        queue
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        // No code that can panic runs under the lock with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a job, or says at once why not. `deadline` is that of an earlier try.
    pub(crate) fn push(&self, work: W, deadline: Option<Instant>) -> Result<Ticket<W::Done>, StoreError> {
        if std::process::id() != self.process {
            return Err(trouble::forked(&self.name));
        }
        let now = Instant::now();
        let (sender, outcome) = oneshot::channel();
        let reply = Some(Arc::new(Wish(Mutex::new(Some(sender)))));
        let mut state = self.state();
        let patience = match &state.gate {
            Gate::Open => self.command_timeout,
            Gate::Idle => self.connect_timeout + self.command_timeout,
            Gate::Refusing(cause) => {
                let cause = cause.clone();
                state.knocked = true;
                return Err(cause);
            }
            Gate::Closed => return Err(trouble::closed(&self.name)),
        };
        if state.waiting.len() >= self.bound {
            return Err(trouble::full(&self.name, self.bound));
        }
        let deadline = deadline.unwrap_or(now + patience);
        state.waiting.push_back(Job { work, deadline, tries: 0, reply });
        let late = deadline + self.grace();
        let unwatched = state.watched.is_none_or(|next| late < next);
        if unwatched {
            state.watched = Some(late);
        }
        drop(state);
        self.bell.notify_one();
        if unwatched {
            self.lookout.call();
        }
        Ok(Ticket {
            outcome,
            name: Arc::clone(&self.name),
            #[cfg(feature = "redis")]
            deadline,
        })
    }

    /// How long after a caller's time the lookout answers it: the driver's own time to do so.
    fn grace(&self) -> Duration {
        self.command_timeout / 4
    }

    /// Takes the jobs that waited longest and can travel together: about `keys` keys' worth, or one
    /// that travels alone. Abandoned ones are dropped.
    pub(crate) fn take(&self, keys: usize) -> Vec<Job<W>> {
        let mut state = self.state();
        let mut taken: Vec<Job<W>> = Vec::with_capacity(state.waiting.len().min(keys));
        let mut size = 0;
        while let Some(job) = state.waiting.pop_front() {
            if job.is_abandoned() {
                continue;
            }
            size += job.work.size();
            let alone = job.work.is_alone();
            if !taken.is_empty() && (alone || size > keys) {
                state.waiting.push_front(job);
                break;
            }
            taken.push(job);
            if alone {
                break;
            }
        }
        state.keep_in_sight(&taken);
        taken
    }

    /// Puts jobs back where they were taken from.
    pub(crate) fn put_back(&self, jobs: Vec<Job<W>>) {
        if jobs.is_empty() {
            return;
        }
        let mut state = self.state();
        for job in jobs.into_iter().rev() {
            state.waiting.push_front(job);
        }
        drop(state);
        self.bell.notify_one();
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.state().waiting.len()
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state().gate, Gate::Closed)
    }

    /// Waits for a job; false when there will be none.
    pub(crate) async fn asked(&self) -> bool {
        loop {
            {
                let state = self.state();
                if !state.waiting.is_empty() {
                    return true;
                }
                if matches!(state.gate, Gate::Closed) {
                    return false;
                }
            }
            self.bell.notified().await;
        }
    }

    /// Connected: callers wait for answers, and those who waited for the connection get the time of
    /// a call from here on.
    pub(crate) fn open(&self, now: Instant) {
        let mut state = self.state();
        for job in &mut state.waiting {
            job.deadline = job.deadline.min(now + self.command_timeout);
        }
        state.turn(Gate::Open);
    }

    /// Callers may wait for a connection.
    pub(crate) fn idle(&self) {
        self.state().turn(Gate::Idle);
    }

    /// Tells everybody who waits, and who will come, why it cannot be.
    pub(crate) fn refuse(&self, cause: &StoreError) {
        let waiting = {
            let mut state = self.state();
            state.turn(Gate::Refusing(cause.clone()));
            std::mem::take(&mut state.waiting)
        };
        for job in waiting {
            job.finish(Err(cause.clone()));
        }
    }

    /// Whether somebody came since the gate began to refuse.
    pub(crate) fn was_asked(&self) -> bool {
        self.state().knocked
    }

    /// Answers those whose time ran out while they waited; says when the next one's does.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let (late, next) = {
            let mut state = self.state();
            let late = state.late(now);
            (late, state.waiting.iter().map(|job| job.deadline).min())
        };
        for job in late {
            job.finish(Err(trouble::timed_out(&self.name, self.command_timeout)));
        }
        next
    }

    /// Takes no more jobs; those that wait are still done.
    pub(crate) fn close(&self) {
        self.state().gate = Gate::Closed;
        self.bell.notify_one();
    }

    /// Takes no more jobs and drops those that wait.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.gate = Gate::Closed;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }
}

impl<W: Work> State<W> {
    /// Changes the gate, but a closed one stays closed.
    fn turn(&mut self, gate: Gate) {
        if !matches!(self.gate, Gate::Closed) {
            self.gate = gate;
            self.knocked = false;
        }
    }

    /// Takes out the jobs whose time ran out at `now`.
    fn late(&mut self, now: Instant) -> Vec<Job<W>> {
        let mut late = Vec::new();
        for job in std::mem::take(&mut self.waiting) {
            if job.deadline <= now { late.push(job) } else { self.waiting.push_back(job) }
        }
        late
    }

    /// Remembers what the driver takes, and of what it took before those who are not answered yet:
    /// no more than it has on its way.
    fn keep_in_sight(&mut self, jobs: &[Job<W>]) {
        self.taken.retain(|(_, reply)| reply.upgrade().is_some_and(|reply| !reply.is_over()));
        let known = jobs.iter().filter_map(|job| Some((job.deadline, Arc::downgrade(job.reply.as_ref()?))));
        self.taken.extend(known);
    }
}

impl<W: Work> Waits for Queue<W> {
    fn look(&self, now: Instant) -> Option<Instant> {
        let grace = self.grace();
        let (mut lost, late, next) = {
            let mut state = self.state();
            let late = match now.checked_sub(grace) {
                Some(before) => state.late(before),
                None => Vec::new(),
            };
            let (mut lost, mut open) = (Vec::new(), Vec::new());
            for (deadline, reply) in std::mem::take(&mut state.taken) {
                match reply.upgrade() {
                    Some(reply) if reply.is_over() => {}
                    Some(reply) if deadline + grace <= now => lost.push(reply),
                    Some(_) => open.push((deadline, reply)),
                    None => {}
                }
            }
            state.taken = open;
            let waiting = state.waiting.iter().filter(|job| !job.is_abandoned()).map(|job| job.deadline);
            let taken = state.taken.iter().map(|(deadline, _)| *deadline);
            let next = waiting.chain(taken).min().map(|deadline| deadline + grace);
            state.watched = next;
            (lost, late, next)
        };
        lost.extend(late.into_iter().filter_map(|job| job.reply));
        for reply in lost {
            reply.fulfil(Err(trouble::neglected(&self.name, self.command_timeout)));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::Thread;

    use tollway_core::StoreErrorKind;

    use super::*;

    #[derive(Debug)]
    struct Keys(usize);

    impl Work for Keys {
        type Done = usize;

        fn size(&self) -> usize {
            self.0
        }

        fn is_alone(&self) -> bool {
            self.0 == 0
        }
    }

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(60);

    fn queue(bound: usize, time: Duration) -> Arc<Queue<Keys>> {
        Queue::new("store".into(), bound, time, time, &Lookout::start("store").expect("a thread"))
    }

    /// Waits on no runtime.
    fn outcome(ticket: Ticket<usize>) -> Result<usize, StoreError> {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut outcome = pin!(ticket.outcome());
        loop {
            match outcome.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    #[test]
    fn who_is_neglected_is_answered_in_the_queue_and_on_the_way() {
        let queue = queue(10, SHORT);
        // More than once, with nobody waiting in between.
        for _ in 0..2 {
            let first = queue.push(Keys(1), None).expect("a place");
            let taken = queue.take(1);
            let second = queue.push(Keys(1), None).expect("a place");
            for ticket in [first, second] {
                let error = outcome(ticket).expect_err("nobody answers");
                assert_eq!(error.kind, StoreErrorKind::Timeout);
                assert!(error.to_string().contains("does not move"), "{error}");
            }
            assert_eq!((taken.len(), queue.len()), (1, 0));
            // Too late: the caller has its answer.
            taken[0].finish(Ok(1));
        }
    }

    #[test]
    fn what_is_answered_or_dropped_is_not_waited_for() {
        let queue = queue(10, LONG);
        let [first, second] = [1, 2].map(|keys| queue.push(Keys(keys), None).expect("a place"));
        let mut taken = queue.take(10);
        taken.remove(0).finish(Ok(7));
        assert_eq!(outcome(first).expect("an answer"), 7);
        drop(taken);
        assert_eq!(outcome(second).expect_err("the driver is gone").kind, StoreErrorKind::Unavailable);
        assert_eq!(queue.look(Instant::now()), None);
    }

    #[test]
    fn what_can_travel_together_is_taken_together() {
        let queue = queue(10, LONG);
        let tickets: Vec<_> = [2, 2, 3, 0, 9].map(|keys| queue.push(Keys(keys), None).expect("a place")).into();
        let sizes = || queue.take(4).iter().map(|job| job.work.0).collect::<Vec<_>>();
        assert_eq!([sizes(), sizes(), sizes(), sizes()], [vec![2, 2], vec![3], vec![0], vec![9]]);
        drop(tickets);
        assert!(sizes().is_empty());
    }

    #[test]
    fn what_comes_back_goes_first_unless_its_caller_left() {
        let queue = queue(10, LONG);
        let tickets = [1, 2, 3].map(|keys| queue.push(Keys(keys), None).expect("a place"));
        let taken = queue.take(3);
        assert_eq!(taken.len(), 2);
        queue.put_back(taken);
        let [first, second, third] = tickets;
        drop(second);
        assert_eq!(queue.take(9).iter().map(|job| job.work.0).collect::<Vec<_>>(), [1, 3]);
        drop((first, third));
    }

    #[test]
    fn the_queue_and_what_it_remembers_are_bounded() {
        let queue = queue(2, LONG);
        for _ in 0..100 {
            let _tickets = [1, 1].map(|keys| queue.push(Keys(keys), None).expect("a place"));
            let full = queue.push(Keys(1), None).expect_err("no place");
            assert_eq!(full.kind, StoreErrorKind::Overloaded);
            queue.take(10).iter().for_each(|job| job.finish(Ok(0)));
            assert!(queue.state().taken.len() <= 2);
        }
    }

    #[test]
    fn who_comes_while_the_server_is_away_is_told_why() {
        let queue = queue(10, LONG);
        let waiting = queue.push(Keys(1), None).expect("a place");
        let cause = StoreError::new(StoreErrorKind::Unavailable, "store", "it rains");
        queue.refuse(&cause);
        assert!(!queue.was_asked());
        assert!(outcome(waiting).expect_err("refused").to_string().contains("it rains"));
        assert!(queue.push(Keys(1), None).expect_err("refused").to_string().contains("it rains"));
        assert!(queue.was_asked());
        queue.open(Instant::now());
        queue.close();
        queue.idle();
        assert!(queue.push(Keys(1), None).expect_err("closed").to_string().contains("closed"));
    }
}
