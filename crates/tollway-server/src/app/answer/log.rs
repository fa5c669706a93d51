//! The access log: lines are made where the answer is, and written by a thread of their own.
//!
//! Whoever answers requests never waits: lines go into a bounded buffer, and those that find it
//! full are counted instead. A flood of refusals is a few lines a second and a count.

mod line;
mod sink;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, StatusCode};

pub(super) use line::Line;
use line::Stamp;
pub use line::{Field, LogFormat};
pub use sink::LogTarget;
use sink::Sink;

/// How long lines gather before they are written together.
const GATHER: Duration = Duration::from_millis(50);
/// How long the end of a server waits for its last lines.
const PATIENCE: Duration = Duration::from_secs(1);
/// The span in which refusals are counted.
const SPAN: Duration = Duration::from_secs(1);

/// How an access log is kept.
#[derive(Clone, Debug)]
pub struct LogSpec {
    /// Where lines go.
    pub target: LogTarget,
    /// How lines look.
    pub format: LogFormat,
    /// Most bytes that wait to be written. Lines beyond are dropped and counted.
    pub capacity: usize,
    /// Most refusals written in a second. The others are counted.
    pub refusals: u32,
}

/// The buffer between those who answer and the thread that writes.
#[derive(Debug)]
pub struct AccessLog {
    spec: LogSpec,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    buffer: Mutex<Buffer>,
    changed: Condvar,
    format: LogFormat,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    stamp: Stamp,
    /// Lines dropped since the last report of it.
    dropped: u64,
    refusals: Refusals,
    closed: bool,
    /// The thread has written everything and is gone.
    finished: bool,
}

/// Lines that could not be written since the last that could.
struct Lost {
    lines: u64,
    why: io::ErrorKind,
}

/// Refusals of the current span.
#[derive(Debug, Default)]
struct Refusals {
    since: Option<Instant>,
    written: u32,
    skipped: u64,
}

impl Refusals {
    fn is_over(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) >= SPAN)
    }

    /// Whether one more is written.
    fn admit(&mut self, most: u32, now: Instant) -> bool {
        if self.is_over(now) && self.skipped == 0 {
            *self = Refusals { since: Some(now), ..Refusals::default() };
        }
        let admitted = self.written < most;
        self.written += u32::from(admitted);
        self.skipped += u64::from(!admitted);
        admitted
    }
}

fn lock(mutex: &Mutex<Buffer>) -> MutexGuard<'_, Buffer> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AccessLog {
    /// Opens the file, so that a place that cannot be written to is known before anything is
    /// served. Nothing is written until [`AccessLog::start`].
    ///
    /// # Errors
    /// What the system said about the file.
    pub fn new(spec: LogSpec) -> io::Result<AccessLog> {
        Sink::open(&spec.target)?;
        let shared = Shared {
            buffer: Mutex::default(),
            changed: Condvar::new(),
            format: spec.format,
            dropped: AtomicU64::new(0),
        };
        Ok(AccessLog { spec, shared: Arc::new(shared), thread: Mutex::new(None) })
    }

    /// Starts the thread that writes. To be called in the process that serves: threads do not
    /// survive a fork.
    ///
    /// # Errors
    /// The file cannot be opened, or the system gives no thread.
    pub fn start(&self) -> io::Result<()> {
        let sink = Sink::open(&self.spec.target)?;
        let shared = Arc::clone(&self.shared);
        let spawned = thread::Builder::new().name("tollway-access-log".to_owned()).spawn(move || shared.work(sink))?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(spawned);
        Ok(())
    }

    /// Writes what waits and ends the thread, within a second.
    pub fn close(&self) {
        let running = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut buffer = lock(&self.shared.buffer);
        buffer.closed = true;
        self.shared.changed.notify_all();
        if running.is_some() {
            let waited = self.shared.changed.wait_timeout_while(buffer, PATIENCE, |buffer| !buffer.finished);
            drop(waited);
        }
    }

    /// Lines dropped so far because nobody took them in time, or because they could not be written.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn push(&self, line: &Line, rule: &LogRule, outcome: &Outcome<'_>) {
        let mut buffer = lock(&self.shared.buffer);
        if outcome.refused && !buffer.refusals.admit(self.spec.refusals, line.started + outcome.duration) {
            return;
        }
        let was_empty = buffer.bytes.is_empty();
        let before = buffer.bytes.len();
        let Buffer { bytes, stamp, .. } = &mut *buffer;
        line.write(self.spec.format, &rule.fields, outcome, stamp.at(now()), bytes);
        if bytes.len() > self.spec.capacity {
            bytes.truncate(before);
            buffer.dropped += 1;
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        drop(buffer);
        if was_empty {
            self.shared.changed.notify_all();
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Shared {
    /// The life of the thread.
    fn work(&self, mut sink: Sink) {
        let mut batch = Vec::new();
        let mut lost = None;
        loop {
            let closed = self.gather(&mut batch, lost.as_ref());
            lost = match sink.write(&batch) {
                Ok(()) => None,
                Err(error) => Some(self.lose(&batch, lost, &error)),
            };
            batch.clear();
            if closed {
                break;
            }
        }
        lock(&self.buffer).finished = true;
        self.changed.notify_all();
    }

    /// Counts the lines of a batch that was not written, of which one tells of those `before` it.
    fn lose(&self, batch: &[u8], before: Option<Lost>, error: &io::Error) -> Lost {
        let lines = batch.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let more = lines - u64::from(before.is_some());
        self.dropped.fetch_add(more, Ordering::Relaxed);
        Lost { lines: before.map_or(0, |lost| lost.lines) + more, why: error.kind() }
    }

    /// Waits for lines and takes them all, with a word on those that were `lost` before. Returns
    /// whether they were the last.
    fn gather(&self, batch: &mut Vec<u8>, lost: Option<&Lost>) -> bool {
        let mut buffer = lock(&self.buffer);
        while buffer.bytes.is_empty()
            && !buffer.closed
            && !(buffer.refusals.skipped > 0 && buffer.refusals.is_over(Instant::now()))
        {
            buffer = if buffer.refusals.skipped > 0 {
                self.changed.wait_timeout(buffer, SPAN).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.changed.wait(buffer).unwrap_or_else(PoisonError::into_inner)
            };
        }
        let waited = self.changed.wait_timeout_while(buffer, GATHER, |buffer| !buffer.closed);
        let mut buffer = waited.unwrap_or_else(PoisonError::into_inner).0;
        std::mem::swap(&mut buffer.bytes, batch);
        let stamp = buffer.stamp.at(now()).to_owned();
        if let Some(Lost { lines, why }) = lost {
            line::note(self.format, &stamp, *lines, &format!("lines lost: they could not be written: {why}"), batch);
        }
        let dropped = std::mem::take(&mut buffer.dropped);
        if dropped > 0 {
            line::note(self.format, &stamp, dropped, "lines dropped: the log was not written in time", batch);
        }
        if buffer.refusals.skipped > 0 && (buffer.closed || buffer.refusals.is_over(Instant::now())) {
            let skipped = std::mem::take(&mut buffer.refusals).skipped;
            line::note(self.format, &stamp, skipped, "more refusals", batch);
        }
        buffer.closed
    }
}

/// How a request ended, as far as the log is concerned.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    pub(super) status: StatusCode,
    /// `None` for a body whose length is not known in advance.
    pub(super) size: Option<u64>,
    pub(super) duration: Duration,
    pub(super) id: Option<&'a HeaderValue>,
    /// It was refused: by a limit, or before it was handled. There may be very many of these.
    pub(super) refused: bool,
}

/// Which answers of a route are logged, and what of them.
#[derive(Debug)]
pub struct LogRule {
    log: Arc<AccessLog>,
    fields: Vec<Field>,
    sample: f64,
    min: Duration,
    skip: Vec<u16>,
    seen: AtomicU64,
}

impl LogRule {
    /// Logs to `log`: of the answers below 400 those that took `min` and of these the share
    /// `sample`; all others. Never those with a status in `skip`.
    pub fn new(log: Arc<AccessLog>, mut fields: Vec<Field>, sample: f64, min: Duration, skip: Vec<u16>) -> LogRule {
        fields.sort_unstable();
        fields.dedup();
        LogRule { log, fields, sample: sample.clamp(0.0, 1.0), min, skip, seen: AtomicU64::new(0) }
    }

    pub(super) fn has(&self, field: Field) -> bool {
        self.fields.contains(&field)
    }

    /// Every n-th, so that the share is exact.
    fn samples(&self) -> bool {
        if self.sample >= 1.0 {
            return true;
        }
        let before = self.seen.fetch_add(1, Ordering::Relaxed) as f64;
        ((before + 1.0) * self.sample).floor() > (before * self.sample).floor()
    }

    fn wants(&self, outcome: &Outcome<'_>) -> bool {
        let status = outcome.status.as_u16();
        if self.skip.contains(&status) {
            return false;
        }
        status >= 400 || (outcome.duration >= self.min && self.samples())
    }

    pub(super) fn log(&self, line: &Line, outcome: &Outcome<'_>) {
        if self.wants(outcome) {
            self.log.push(line, self, outcome);
        }
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
