//! The one tokio runtime of a process, made when a remote store is first used, and who drives it.
//!
//! A thread that blocks until it is answered has nothing else to do. So where such callers come one
//! soon after the other they drive the runtime themselves, and nobody is woken for them but by the
//! server. Otherwise a thread of its own does: while answers are awaited elsewhere, as by an event
//! loop, while several callers wait, and while nobody does.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread::{Builder, Thread};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::{PyResult, Python};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use crate::interpreter::Visit;

/// How long a caller that drives stays the newest before the thread takes over again, and how often
/// the thread looks.
const SOON: Duration = Duration::from_millis(5);
/// Calls of backends written in Python that may be at work beside whoever drives.
pub(crate) const MOST_ASIDE: usize = 64;
/// Further threads beside whoever drives: names are looked up on them, whatever those backends do.
const OTHERS_ASIDE: usize = 8;
/// The longest a fork waits for whoever drives, and whoever drives for the fork.
const PATIENCE: Duration = Duration::from_secs(1);

thread_local! {
    /// What this thread drives, or waits to.
    static DRIVES: Cell<Option<&'static Runtime>> = const { Cell::new(None) };
    /// Whether this thread is one aside, which may block.
    static ASIDE: Cell<bool> = const { Cell::new(false) };
    /// What a caller on this thread does once it is answered.
    static AFTERWARDS: RefCell<Vec<Afterwards>> = const { RefCell::new(Vec::new()) };
}

type Afterwards = Box<dyn FnOnce(Python<'_>)>;

/// The process it was made in, and the runtime. A forked child must not touch its parent's, not
/// even to drop it: its threads are not there.
static RUNTIME: Mutex<Option<(u32, &'static Runtime)>> = Mutex::new(None);

/// The runtime of this process.
pub(crate) fn runtime() -> PyResult<&'static Runtime> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    let here = std::process::id();
    if let Some((process, runtime)) = *runtime
        && process == here
    {
        return Ok(runtime);
    }
    let made = Runtime::make();
    let made = made.map_err(|error| PyRuntimeError::new_err(format!("no thread for the stores: {error}")))?;
    *runtime = Some((here, made));
    Ok(made)
}

/// A runtime that anybody who waits can drive, one at a time; tokio passes it on.
pub(crate) struct Runtime {
    tokio: tokio::runtime::Runtime,
    /// Its own thread.
    thread: OnceLock<Thread>,
    /// Whether the thread is at it, and not at rest.
    driving: AtomicBool,
    /// Tells the thread that a caller drives.
    leave: Notify,
    /// Room for calls beside whoever drives.
    aside: Semaphore,
    /// How many wait for answers elsewhere.
    wanted: AtomicUsize,
    /// How many callers block.
    callers: AtomicUsize,
    made: Instant,
    /// When the newest caller came, in microseconds after `made`.
    newest: AtomicU64,
}

impl Runtime {
    fn make() -> std::io::Result<&'static Self> {
        let made: &'static Self = Box::leak(Box::new(Self {
            tokio: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .thread_name("tollway-aside")
                .max_blocking_threads(MOST_ASIDE + OTHERS_ASIDE)
                .build()?,
            thread: OnceLock::new(),
            driving: AtomicBool::new(true),
            leave: Notify::new(),
            aside: Semaphore::new(MOST_ASIDE),
            wanted: AtomicUsize::new(0),
            callers: AtomicUsize::new(0),
            made: Instant::now(),
            newest: AtomicU64::new(0),
        }));
        let thread = Builder::new().name("tollway".into()).spawn(|| made.drive())?;
        made.thread.get_or_init(|| thread.thread().clone());
        Ok(made)
    }

    /// The thread's work.
    fn drive(&'static self) {
        loop {
            self.block_on(self.leave.notified());
            self.driving.store(false, SeqCst);
            while !self.needs_the_thread() {
                std::thread::park_timeout(SOON);
            }
            self.driving.store(true, SeqCst);
        }
    }

    fn block_on<T>(&'static self, answer: impl Future<Output = T>) -> T {
        DRIVES.set(Some(self));
        let _leaving = Leaving;
        self.tokio.block_on(answer)
    }

    fn needs_the_thread(&self) -> bool {
        let callers = self.callers.load(SeqCst);
        self.wanted.load(SeqCst) > 0
            || callers > 1
            || callers == 0 && !self.is_soon(self.newest.load(SeqCst), self.now())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn is_soon(&self, before: u64, now: u64) -> bool {
        Duration::from_micros(now.saturating_sub(before)) < SOON
    }

    /// Where stores are driven. What is waited for there and not by [`Self::wait`] needs the thread:
    /// say so by [`Self::want_thread`].
    pub(crate) fn handle(&self) -> &Handle {
        self.tokio.handle()
    }

    /// Blocks until the answer is there, without the GIL. Stores bound the wait.
    ///
    /// # Errors
    /// `RuntimeError` where somebody else is driven, who may be who brings the answer.
    pub(crate) fn wait<T: Send>(&'static self, py: Python<'_>, answer: impl Future<Output = T> + Send) -> PyResult<T> {
        if DRIVES.get().is_some() || !ASIDE.get() && Handle::try_current().is_ok() {
            return Err(PyRuntimeError::new_err(
                "an algorithm asked a limiter over a server while such a limiter asked it: decide by the state alone",
            ));
        }
        let answer = py.detach(|| {
            let others = self.callers.fetch_add(1, SeqCst);
            let _caller = Counted(&self.callers);
            let now = self.now();
            let before = self.newest.swap(now, SeqCst);
            // One that comes alone and rarely is answered as soon by the thread.
            let drives = others == 0 && self.wanted.load(SeqCst) == 0 && self.is_soon(before, now);
            if drives && self.driving.load(SeqCst) {
                self.leave.notify_one();
            }
            self.block_on(answer)
        });
        AFTERWARDS.take().into_iter().for_each(|step| step(py));
        Ok(answer)
    }

    /// The runtime, where what blocks would hold up others: then it belongs on a thread aside.
    pub(crate) fn driven_here() -> Option<&'static Self> {
        DRIVES.get()
    }

    /// Runs a step in the interpreter that may block, and may ask a limiter itself, where that holds up
    /// nobody: by whoever waits on this thread, once it is answered, or beside the runtime's own.
    pub(crate) fn afterwards(&self, step: impl FnOnce(Python<'_>) + Send + 'static) {
        if self.thread.get().is_none_or(|own| own.id() != std::thread::current().id()) {
            AFTERWARDS.with_borrow_mut(|steps| steps.push(Box::new(step)));
        } else if let Some(visit) = Visit::announce() {
            self.aside(|| visit.enter(step));
        }
    }

    /// Runs a step that may block on a thread of its own.
    pub(crate) fn aside<T: Send + 'static>(&self, step: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.tokio.spawn_blocking(|| {
            ASIDE.set(true);
            step()
        })
    }

    /// The right to one of [`MOST_ASIDE`] threads, once one is free.
    pub(crate) async fn room_aside(&'static self) -> Option<SemaphorePermit<'static>> {
        // It is never closed.
        self.aside.acquire().await.ok()
    }

    /// The thread drives while this lives.
    pub(crate) fn want_thread(&'static self) -> Wanted {
        self.wanted.fetch_add(1, SeqCst);
        if !self.driving.load(SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
        Wanted { _count: Counted(&self.wanted) }
    }
}

/// Says at its end, which may be a panic's, that this thread drives no more.
struct Leaving;

impl Drop for Leaving {
    fn drop(&mut self) {
        DRIVES.set(None);
    }
}

/// One that is counted while this lives.
#[derive(Debug)]
struct Counted(&'static AtomicUsize);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Somebody waits who does not block.
#[derive(Debug)]
pub(crate) struct Wanted {
    _count: Counted,
}

/// Whoever drives the runtime stands still while this lives.
///
/// A forked child gets what that thread was in the middle of, and not the thread: a lock that it held,
/// or a value of the whole process that it was the first to make, would be waited for in the child
/// for ever. Inside this task it holds nothing.
pub(crate) struct Still {
    process: u32,
    _wanted: Wanted,
    release: Option<mpsc::Sender<()>>,
}

impl Still {
    /// Waits without the GIL, which whoever drives may need before it gets here, for at most a second.
    pub(crate) fn stand(py: Python<'_>) -> Option<Self> {
        let process = std::process::id();
        let made = *RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, runtime) = made.filter(|(made_in, _)| *made_in == process)?;
        let (arrived, arrival) = mpsc::sync_channel(1);
        let (release, released) = mpsc::channel::<()>();
        runtime.handle().spawn(async move {
            // Whether it is still waited for or not; and no longer than that if others of the program
            // wait for an answer before the fork, which nobody would bring.
            let _ = arrived.send(());
            let _ = released.recv_timeout(PATIENCE);
        });
        let wanted = runtime.want_thread();
        py.detach(move || arrival.recv_timeout(PATIENCE).ok());
        Some(Self { process, _wanted: wanted, release: Some(release) })
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            // In a child nobody waits for it, and its own lock may have been copied while it was held.
            std::mem::forget(self.release.take());
        }
    }
}
