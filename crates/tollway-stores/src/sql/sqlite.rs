//! SQLite: a file that the processes of one host share.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Error, ErrorCode, OpenFlags, OptionalExtension};
use tollway_core::{ConfigError, StoreError, StoreErrorKind, Timestamp};

use super::SqlOptions;
use super::address::{Address, Table};
use super::ask::{Puts, Row};
use super::forking::{Inside, Kept, Torn};
use super::link::{Link, Server, Trouble};

/// What marks a file as one of ours: the four letters `toll`.
const MARK: i32 = 0x746F_6C6C;
/// How often a lock is tried at once before the thread sleeps in between.
const QUICK_TRIES: u32 = 20;
const QUICK_PAUSE: Duration = Duration::from_micros(50);
const PAUSE: Duration = Duration::from_millis(1);

/// A file.
#[derive(Debug)]
pub(super) struct Sqlite(Arc<Place>);

/// Where it is, and what it is called in messages.
#[derive(Debug)]
struct Place {
    name: Arc<str>,
    path: PathBuf,
    table: Table,
    connect_timeout: Duration,
    command_timeout: Duration,
}

/// The file, open between transactions too unless the process forks.
pub(super) struct SqliteLink {
    place: Arc<Place>,
    /// While something is done.
    open: Option<Open>,
    kept: Kept,
    /// Which file it is, wherever its name leads to later.
    file: FileId,
    statements: Statements,
}

/// Device and number.
type FileId = (u64, u64);

/// In this order they are let go.
struct Open {
    connection: Connection,
    inside: Inside,
}

struct Statements {
    read: String,
    write: String,
    forget: String,
    sweep: String,
}

impl Sqlite {
    pub(super) fn new(address: &Address, options: &SqlOptions) -> Result<Self, ConfigError> {
        if address.table.schema.is_some() {
            return Err(address.refuse("names a schema: a file has none, write ?table=NAME"));
        }
        let path = PathBuf::from(&address.database);
        if address.database.is_empty() || address.database.starts_with(':') {
            return Err(address.refuse("names no file: write sqlite:///FILE, or memory:// for no file at all"));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            let hint = if path.is_absolute() { "" } else { "; a path from the root has four slashes, sqlite:////" };
            return Err(address.refuse(&format!("names a file in {folder:?}, which is no folder: make it{hint}")));
        }
        let path = std::path::absolute(&path).map_err(|error| address.refuse(&format!("has no path ({error})")))?;
        Ok(Self(Arc::new(Place {
            name: address.name.as_str().into(),
            path,
            table: address.table.clone(),
            connect_timeout: options.connect_timeout,
            command_timeout: options.command_timeout,
        })))
    }
}

impl Place {
    fn error(&self, kind: StoreErrorKind, detail: impl Into<String>) -> StoreError {
        StoreError::new(kind, &*self.name, detail)
    }

    /// What an error means, and the next step.
    fn explain(&self, error: &Error) -> StoreError {
        use StoreErrorKind::{Corrupt, Misconfigured, Timeout, Unavailable};
        let (path, table) = (self.path.display(), &self.table);
        let (kind, step) = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
                Timeout,
                format!("another process keeps {path} locked for longer than a call may take: is one of them stopped?"),
            ),
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                (Misconfigured, format!("{path} cannot be opened: check its owner and mode, and its folder's"))
            }
            Some(ErrorCode::ReadOnly) => {
                (Misconfigured, format!("{path} or its folder takes no writes: check their owner and mode"))
            }
            Some(ErrorCode::NotADatabase) => {
                (Misconfigured, format!("{path} is no SQLite database: name a file of its own"))
            }
            Some(ErrorCode::DatabaseCorrupt) => {
                (Corrupt, format!("{path} is damaged: delete it, and limits begin anew"))
            }
            Some(ErrorCode::DiskFull) => (Unavailable, format!("the disk of {path} is full")),
            Some(ErrorCode::Unknown) if error.to_string().contains("no such column") => {
                (Misconfigured, format!("the table {table} is another program's: name one with ?table="))
            }
            _ => (Unavailable, format!("{path} does not answer")),
        };
        self.error(kind, format!("{step} (SQLite said: {error})"))
    }

    /// Opens the file and makes it ours, if it is nobody's yet.
    fn open(&self) -> Result<Connection, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(Duration::ZERO)?;
        Ok(connection)
    }

    /// The file's settings and its table. None when it holds something else.
    fn prepare(&self, connection: &Connection) -> Result<Option<()>, Error> {
        // Both at one instant: a process that makes the file ours at this moment does so between them.
        let reading = connection.unchecked_transaction()?;
        let mark: i32 = reading.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        let other = "SELECT name FROM sqlite_master WHERE type = 'table' LIMIT 1";
        let holds = reading.query_row(other, [], |row| row.get::<_, String>(0)).optional()?.is_some();
        reading.finish()?;
        if mark != MARK && holds {
            return Ok(None);
        }
        let table = &self.table;
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE; PRAGMA application_id = {MARK}; \
             CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, state BLOB NOT NULL, expires_at INTEGER) \
             WITHOUT ROWID; \
             CREATE INDEX IF NOT EXISTS {table}_expires_at ON {table} (expires_at) WHERE expires_at IS NOT NULL; COMMIT"
        ))?;
        Ok(Some(()))
    }

    fn file(&self) -> Option<FileId> {
        fs::metadata(&self.path).ok().map(|file| (file.dev(), file.ino()))
    }

    fn enter(&self) -> Result<Inside, StoreError> {
        Inside::enter().map_err(|Torn| {
            let detail = "this process was forked in the middle of a SQLite call that took too long: start it anew, \
                          with `spawn` or `forkserver`";
            self.error(StoreErrorKind::Unavailable, detail)
        })
    }

    /// The file, open and ours, and which one it is.
    async fn connect(&self, patience: Duration) -> Result<(Connection, FileId), StoreError> {
        // A connection that fails is dropped, and with it what it had begun.
        let open = |place: &mut &Self| {
            let connection = place.open()?;
            Ok(place.prepare(&connection)?.map(|()| connection))
        };
        let opened = patiently(&mut &*self, patience, open).await;
        let connection = opened.map_err(|error| self.explain(&error))?.ok_or_else(|| {
            let path = self.path.display();
            self.error(
                StoreErrorKind::Misconfigured,
                format!("{path} is another program's database: name a file of its own, for Tollway alone"),
            )
        })?;
        let file = self.file().ok_or_else(|| {
            self.error(StoreErrorKind::Unavailable, format!("{} was deleted just now", self.path.display()))
        })?;
        Ok((connection, file))
    }
}

/// Tries until nobody else has the lock, or the time is over.
async fn patiently<C: Send, T: Send>(
    context: &mut C,
    patience: Duration,
    attempt: impl Fn(&mut C) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let end = Instant::now() + patience;
    let mut tries = 0;
    loop {
        let done = attempt(context);
        let locked = done.as_ref().is_err_and(is_locked);
        if !locked || Instant::now() >= end {
            return done;
        }
        drop(done);
        tries += 1;
        if tries < QUICK_TRIES { std::thread::sleep(QUICK_PAUSE) } else { tokio::time::sleep(PAUSE).await }
    }
}

/// Whether somebody else has it now.
fn is_locked(error: &Error) -> bool {
    use ErrorCode::{DatabaseBusy, DatabaseLocked, FileLockingProtocolFailed};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked | FileLockingProtocolFailed))
}

impl Server for Sqlite {
    type Link = SqliteLink;

    async fn connect(&self) -> Result<SqliteLink, StoreError> {
        let place = Arc::clone(&self.0);
        let inside = place.enter()?;
        let (connection, file) = place.connect(place.connect_timeout * 4 / 5).await?;
        let table = &place.table;
        let statements = Statements {
            read: format!("SELECT state FROM {table} WHERE key = ?1"),
            write: format!(
                "INSERT INTO {table} (key, state, expires_at) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (key) DO UPDATE SET state = excluded.state, expires_at = excluded.expires_at"
            ),
            forget: format!("DELETE FROM {table} WHERE key >= ?1 AND key < ?2"),
            sweep: format!(
                "DELETE FROM {table} WHERE key IN \
                 (SELECT key FROM {table} WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)"
            ),
        };
        let kept = Kept::new();
        kept.put(&inside, connection);
        Ok(SqliteLink { place, open: None, kept, file, statements })
    }

    fn silent(&self) -> StoreError {
        let detail = format!("{} could not be opened in time: is its disk alive?", self.0.path.display());
        self.0.error(StoreErrorKind::Timeout, detail)
    }
}

impl SqliteLink {
    /// How long a lock is waited for: less than a caller waits for all of it.
    fn patience(&self) -> Duration {
        self.place.command_timeout * 4 / 5
    }

    async fn begin(&mut self) -> Result<(), Trouble> {
        let inside = self.place.enter().map_err(Trouble::Cut)?;
        let patience = self.patience();
        let connection = match self.kept.take(&inside) {
            Some(connection) => connection,
            None => {
                let (connection, file) = self.place.connect(patience).await.map_err(Trouble::Cut)?;
                self.file = file;
                connection
            }
        };
        if self.place.file() != Some(self.file) {
            drop(connection);
            let detail = format!("{} was deleted or replaced", self.place.path.display());
            return Err(Trouble::Cut(self.place.error(StoreErrorKind::Unavailable, detail)));
        }
        let open = self.open.insert(Open { connection, inside });
        let begin = |connection: &mut Connection| connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]);
        let begun = patiently(&mut open.connection, patience, begin).await;
        begun.map(drop).map_err(|error| self.trouble(&error))
    }

    /// The connection of what was begun.
    fn connection(&self) -> Result<&Connection, Error> {
        self.open.as_ref().map(|open| &open.connection).ok_or(Error::InvalidQuery)
    }

    /// Leaves the file open for the next one.
    fn rest(&mut self) {
        if let Some(Open { connection, inside }) = self.open.take() {
            self.kept.put(&inside, connection);
        }
    }

    /// Ends what was begun, after an error.
    fn trouble(&mut self, error: &Error) -> Trouble {
        let ended = self
            .connection()
            .is_ok_and(|connection| connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok());
        if !ended {
            self.open = None;
            return Trouble::Cut(self.place.explain(error));
        }
        self.rest();
        match error.sqlite_error_code() {
            // The table is gone, or its file is not what it was.
            Some(ErrorCode::Unknown | ErrorCode::SchemaChanged | ErrorCode::SystemIoFailure) => {
                Trouble::Cut(self.place.explain(error))
            }
            _ => Trouble::Refused(self.place.explain(error)),
        }
    }

    /// What became of a transaction that is over unless it failed.
    fn end<T>(&mut self, done: Result<T, Error>) -> Result<T, Trouble> {
        match done {
            Ok(done) => {
                self.rest();
                Ok(done)
            }
            Err(error) => Err(self.trouble(&error)),
        }
    }

    fn look(&self, keys: &[Arc<str>]) -> Result<Vec<Row>, Error> {
        let mut statement = self.connection()?.prepare_cached(&self.statements.read)?;
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(state) = statement.query_row([&**key], |row| row.get(0)).optional()? {
                rows.push(Row { key: key.to_string(), state });
            }
        }
        Ok(rows)
    }

    fn put(&self, puts: &Puts) -> Result<(), Error> {
        let connection = self.connection()?;
        let mut statement = connection.prepare_cached(&self.statements.write)?;
        for put in puts.known.iter().chain(&puts.new) {
            statement.execute((&*put.key, &put.state, put.expires_at))?;
        }
        connection.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    fn alone(&self, sql: &str, values: impl rusqlite::Params) -> Result<u64, Error> {
        let connection = self.connection()?;
        let count = connection.prepare_cached(sql)?.execute(values)?;
        connection.execute_batch("COMMIT").map(|()| count as u64)
    }
}

/// The host's clock, which all processes share.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::from_nanos(since.map_or(0, |since| since.as_nanos() as u64))
}

impl Link for SqliteLink {
    async fn read(&mut self, keys: &[Arc<str>]) -> Result<(Vec<Row>, Timestamp), Trouble> {
        self.begin().await?;
        self.look(keys).map(|rows| (rows, now())).map_err(|error| self.trouble(&error))
    }

    async fn write(&mut self, puts: &Puts) -> Result<(), Trouble> {
        let done = self.put(puts);
        self.end(done)
    }

    async fn leave(&mut self) -> Result<(), Trouble> {
        let end = |connection: &Connection| connection.prepare_cached("ROLLBACK")?.execute([]).map(drop);
        let left = self.connection().and_then(end);
        self.end(left)
    }

    async fn forget(&mut self, from: &str, to: &str) -> Result<u64, Trouble> {
        self.begin().await?;
        let done = self.alone(&self.statements.forget, (from, to));
        self.end(done)
    }

    async fn sweep(&mut self, most: u32) -> Result<u64, Trouble> {
        self.begin().await?;
        let done = self.alone(&self.statements.sweep, ((now().nanos() / 1_000_000_000) as i64, most));
        self.end(done)
    }

    async fn ping(&mut self) -> Result<(), Trouble> {
        self.begin().await?;
        self.leave().await
    }
}
