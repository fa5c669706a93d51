//! SQLite: the suite, processes that share a file, and files that cannot be used.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tollway_core::{Algorithm, Align, Charge, Request, Store, StoreErrorKind, conformance};
use tollway_stores::sql::{SqlOptions, SqlStore, before_fork};

use super::{check, open, patient, policy, recovered, rows, together};

const TABLE: &str = "tollway_states";

/// A folder of its own, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tollway-sqlite-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        Self(dir)
    }

    fn url(&self, name: &str) -> String {
        format!("sqlite:///{}", self.0.join(name).display())
    }

    fn connect(&self) -> Connection {
        let connection = Connection::open(self.0.join("limits.db")).expect("the file");
        connection.busy_timeout(Duration::from_secs(20)).expect("a time-out");
        connection
    }

    /// Runs SQL past the store and returns the first column of the first row.
    fn sql(&self, text: &str) -> String {
        let connection = self.connect();
        if !text.starts_with("SELECT") {
            connection.execute_batch(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            return String::new();
        }
        let value = connection.query_row(text, [], |row| row.get::<_, rusqlite::types::Value>(0));
        match value.unwrap_or_else(|error| panic!("{text}: {error}")) {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms() {
    let folder = Folder::make();
    for seed in ["one", "two"] {
        conformance::run(open(&folder.url("limits.db"), patient()), seed).await;
    }
    assert_eq!(folder.sql("SELECT sum(1) FROM pragma_journal_mode WHERE journal_mode = 'wal'"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_share_it() {
    let folder = Folder::make();
    let url = folder.url("limits.db");
    together::processes_get_the_limit(&url).await;
    together::tasks_get_the_limit(&url).await;
    together::crossing_keys_block_nobody(&url).await;
    rows::a_caller_that_leaves_disturbs_nobody(&url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_rows_are_kept_well() {
    let folder = Folder::make();
    let url = folder.url("limits.db");
    let sql = |text: &str| folder.sql(text);
    rows::expired_rows_go_under_traffic(&url, &sql, TABLE).await;
    rows::new_rows_pay_for_old_ones(&url, &sql, TABLE).await;
    rows::a_foreign_row_is_left_alone(&url, &sql, TABLE, "x'39'").await;
    rows::a_dropped_table_is_made_again(&url, &sql, TABLE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_write_nothing() {
    let folder = Folder::make();
    let store = open(&folder.url("limits.db"), patient());
    let one = policy("one", "1/h", Algorithm::Gcra);
    check(&store, &one, "k", 1).await.unwrap();
    let other = folder.connect();
    // It changes whenever another connection has written.
    let version = || other.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).unwrap();
    let before = version();
    for _ in 0..20 {
        assert!(!check(&store, &one, "k", 1).await.unwrap().allowed);
        let charges = [Charge { policy: &one, key: "never seen", cost: 1 }];
        assert!(store.apply(&[Request { charges: &charges, peek: true }]).await.unwrap()[0].allowed);
    }
    assert_eq!(version(), before);
    check(&store, &one, "another", 1).await.unwrap();
    assert_ne!(version(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_locks_costs_one_time_out() {
    let folder = Folder::make();
    let store = open(&folder.url("limits.db"), SqlOptions::default());
    let five = policy("p", "5/h", Algorithm::Gcra);
    recovered(&store, &five, "k").await;
    let holder = folder.connect();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let start = Instant::now();
    let error = check(&store, &five, "k", 1).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    assert!(error.detail.contains("limits.db locked"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    holder.execute_batch("COMMIT").unwrap();
    recovered(&store, &five, "k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_goes_is_made_again() {
    let folder = Folder::make();
    let stores = [open(&folder.url("limits.db"), patient()), open(&folder.url("limits.db"), patient())];
    let five = policy("p", "5/h", Algorithm::Gcra);
    for store in &stores {
        check(store, &five, "k", 1).await.unwrap();
    }
    for name in ["limits.db", "limits.db-wal", "limits.db-shm"] {
        std::fs::remove_file(folder.0.join(name)).unwrap();
    }
    // Both see the new file, and each other.
    for (left, store) in [(4, &stores[0]), (3, &stores[1]), (2, &stores[0])] {
        assert_eq!(check(store, &five, "k", 1).await.unwrap().remaining, left);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_say_why() {
    let folder = Folder::make();
    let runtime = tokio::runtime::Handle::current();
    for (url, part) in [
        ("sqlite:///".to_owned(), "names no file"),
        ("sqlite:///:memory:".to_owned(), "memory://"),
        ("sqlite://limits.db".to_owned(), "names a host"),
        ("sqlite:///no/such/limits.db".to_owned(), "four slashes"),
        (folder.url("none/limits.db"), "which is no folder"),
        (folder.url("limits.db?table=a.b"), "names a schema"),
        (folder.url("limits.db?mode=ro"), "\"mode\""),
    ] {
        let error = SqlStore::open(&url, SqlOptions::default(), &runtime).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    std::fs::write(folder.0.join("text.db"), "a text that is no database at all, and long enough to be none").unwrap();
    std::fs::create_dir(folder.0.join("folder.db")).unwrap();
    let foreign = Connection::open(folder.0.join("django.db")).unwrap();
    foreign.execute_batch("CREATE TABLE django_migrations (id INTEGER)").unwrap();
    for (name, part) in [
        ("text.db", "no SQLite database"),
        ("folder.db", "cannot be opened"),
        ("django.db", "another program's database"),
    ] {
        let error = open(&folder.url(name), patient()).ping().await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{name}: {error}");
        assert!(error.detail.contains(part), "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_store_answers_what_was_asked_and_closes_the_file() {
    let folder = Folder::make();
    let path = folder.0.join("limits.db");
    let is_open = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|file| file == path)
    };
    let store = open(&folder.url("limits.db"), patient());
    store.ping().await.unwrap();
    assert!(is_open());
    let last = store.ping();
    drop(Arc::into_inner(store).expect("one owner"));
    last.await.unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while is_open() {
        assert!(Instant::now() < end, "the file is still open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fork_finds_the_file_closed_and_nobody_notices() {
    let folder = Folder::make();
    let store = open(&folder.url("limits.db"), patient());
    let limit = policy("forked", "100000/d", Algorithm::FixedWindow(Align::Clock));
    let served: Vec<_> = (0..4)
        .map(|_| {
            let (store, limit) = (Arc::clone(&store), Arc::clone(&limit));
            tokio::spawn(async move {
                for _ in 0..200 {
                    check(&store, &limit, "k", 1).await.expect("an answer");
                }
            })
        })
        .collect();
    let path = folder.0.join("limits.db");
    let forks = tokio::task::spawn_blocking(move || {
        for _ in 0..50 {
            let forking = before_fork();
            let open = std::fs::read_dir("/proc/self/fd").expect("this process");
            let open = open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
            assert_eq!(open.filter(|file| *file == path).count(), 0);
            drop(forking);
        }
    });
    forks.await.expect("the file was closed each time");
    for task in served {
        task.await.expect("every check was answered");
    }
    assert_eq!(check(&store, &limit, "k", 0).await.expect("an answer").remaining, 100_000 - 800);
}
