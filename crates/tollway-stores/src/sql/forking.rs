//! Forking while files are open.
//!
//! A child gets its parent's memory, and so all that SQLite remembers: the locks on files, which the
//! child does not hold, and the locks on SQLite's own tables, which threads held that the child does
//! not have. A child that went on with that would wait for ever, or take for locked what is not and
//! for its own what is not. So whoever forks waits until no thread is inside SQLite and closes the
//! files: the child finds SQLite as a new process does, and both open the files anew.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

/// The longest a fork waits for those who are inside SQLite.
const PATIENCE: Duration = Duration::from_secs(1);

static FILES: Mutex<Files> = Mutex::new(Files { process: None, inside: 0, forks: 0, resting: Vec::new(), torn: false });
static CHANGED: Condvar = Condvar::new();

/// Who uses SQLite in this process.
struct Files {
    process: Option<u32>,
    /// Threads in the middle of something.
    inside: usize,
    /// Forks that wait for them, and for which nobody else begins.
    forks: usize,
    /// Open files that nobody uses at the moment, by the number of their owner.
    resting: Vec<(u64, Connection)>,
    /// Whether this process was forked in the middle of something.
    torn: bool,
}

impl Files {
    /// In a forked child: nothing that is known here is its own.
    fn belong_here(&mut self) {
        let here = std::process::id();
        if self.process.is_some_and(|process| process != here) {
            let left = std::mem::take(&mut self.resting);
            self.torn |= self.inside > 0 || !left.is_empty();
            // The parent's: closing them here would touch what SQLite remembers of the parent.
            std::mem::forget(left);
            (self.inside, self.forks) = (0, 0);
        }
        self.process = Some(here);
    }
}

fn files() -> MutexGuard<'static, Files> {
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    files.belong_here();
    files
}

/// This process was forked in the middle of something, and cannot use SQLite.
pub(super) struct Torn;

/// The right to call SQLite, which keeps the process from forking.
pub(super) struct Inside(());

impl Inside {
    /// Waits while the process forks.
    pub(super) fn enter() -> Result<Self, Torn> {
        let waited = CHANGED.wait_while(files(), |files| files.forks > 0);
        let mut files = waited.unwrap_or_else(PoisonError::into_inner);
        if files.torn {
            return Err(Torn);
        }
        files.inside += 1;
        Ok(Self(()))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        files().inside -= 1;
        CHANGED.notify_all();
    }
}

/// A file that is kept open between its uses, unless the process forks.
pub(super) struct Kept(u64);

impl Kept {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self(COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// The file, if it is still open.
    pub(super) fn take(&self, _inside: &Inside) -> Option<Connection> {
        let mut files = files();
        let place = files.resting.iter().position(|(number, _)| *number == self.0)?;
        Some(files.resting.swap_remove(place).1)
    }

    /// Leaves the file open for the next use.
    pub(super) fn put(&self, _inside: &Inside, connection: Connection) {
        files().resting.push((self.0, connection));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Ok(inside) = Inside::enter() {
            drop(self.take(&inside));
        }
    }
}

/// A fork that is about to happen, or has: while this lives, no SQLite store of the process has its
/// file open. Made by [`before_fork`].
#[must_use = "the files may be opened again as soon as this is dropped"]
pub struct Forking {
    files: MutexGuard<'static, Files>,
}

/// Call this before the process forks while it has a `sqlite://` store, and drop what it gives right
/// after the fork, in the parent and in the child.
///
/// It waits, for at most a second, until no transaction is on its way, and closes the files. The
/// parent's stores open them again by themselves; the child opens stores of its own, as after every
/// fork. Without it, or when that second was not enough, a `sqlite://` store in the child refuses or
/// times out; SQLite does not survive being forked in the middle of a call.
///
/// The Python package does this for `os.fork` and all that uses it. Threads of the program that call
/// SQLite on their own, through `rusqlite` for example, are its own care.
///
/// ```
/// use tollway_stores::sql::before_fork;
///
/// let forking = before_fork();
/// // The system's fork() goes here.
/// drop(forking);
/// ```
pub fn before_fork() -> Forking {
    let mut files = files();
    files.forks += 1;
    let waited = CHANGED.wait_timeout_while(files, PATIENCE, |files| files.inside > 0);
    let (mut files, _) = waited.unwrap_or_else(PoisonError::into_inner);
    files.forks -= 1;
    for (_, connection) in files.resting.drain(..) {
        // Quickly: what is in the log stays there, and whoever opens the file next reads it.
        let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        drop(connection);
    }
    Forking { files }
}

impl Drop for Forking {
    fn drop(&mut self) {
        self.files.belong_here();
        CHANGED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use tollway_core::{Store, StoreErrorKind};

    use super::*;
    use crate::sql::{SqlOptions, SqlStore};

    #[test]
    fn a_fork_waits_for_those_inside_and_closes_what_rests() {
        let kept = Kept::new();
        let inside = Inside::enter().ok().expect("no child");
        kept.put(&inside, Connection::open_in_memory().expect("memory"));
        let leaving = std::thread::spawn(move || {
            while files().forks == 0 {
                std::thread::yield_now();
            }
            drop(inside);
        });
        let forking = before_fork();
        assert_eq!((forking.files.inside, forking.files.resting.len()), (0, 0));
        let entering = std::thread::spawn(|| Inside::enter().is_ok());
        drop(forking);
        leaving.join().expect("the thread left");
        assert!(entering.join().expect("the thread entered"));
        let inside = Inside::enter().ok().expect("no child");
        assert!(kept.take(&inside).is_none());
    }

    #[test]
    fn a_caller_whose_driver_is_stuck_is_answered() {
        let path = std::env::temp_dir().join(format!("tollway-stuck-{}.db", std::process::id()));
        let options = SqlOptions { connect_timeout: Duration::from_secs(20), ..SqlOptions::default() };
        let url = format!("sqlite:///{}", path.display());
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let store = SqlStore::open(&url, options, runtime.handle()).expect("a legal URL");
        runtime.block_on(store.ping()).expect("the file is made");
        {
            // Its thread waits for this, and keeps nobody's time meanwhile.
            let _stuck = files();
            let error = runtime.block_on(store.ping()).expect_err("nobody is at work");
            assert_eq!(error.kind, StoreErrorKind::Timeout);
            assert!(error.to_string().contains("does not move"), "{error}");
        }
        runtime.block_on(store.ping()).expect("it moves again");
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
    }
}
