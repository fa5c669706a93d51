//! The file that processes share: who may open it, what it must look like, and where things lie in it.
//!
//! ```text
//! word   0        magic: being made, or ready
//!        1 … 5    layout version and size; seed of the hash; boot; clock; shape
//!        8        news: how often the directory changed, and how often a prefix was reset
//!      256        directory: an entry of 32 words for each table
//!                 resets: an entry of 8 words for each prefix
//!                 tables: buckets of eight slots, then a floor for each bucket; each on pages of its own
//! ```
//!
//! Magic, version and boot stand at the same place in every layout version. All but slots and floors
//! is written under a file lock, which the kernel takes back from a process that dies; and whatever is
//! written takes effect by one word at its end, so a writer may die anywhere.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portable_atomic::{AtomicU128, Ordering};
use tollway_mapping::{Mapping, NO_FOLLOW, WORD, monotonic, user};

use crate::table::WAYS;

/// Raised whenever what lies in the file changes its place or its meaning, or the order changes in
/// which slots are looked at: processes that let one key in must agree where.
pub(super) const LAYOUT: u64 = 1;
const READY: u128 = u128::from_be_bytes(*b"tollway segment\n");
const BEING_MADE: u128 = u128::from_be_bytes(*b"tollway unready\n");

const MAGIC: usize = 0;
const VERSION: usize = 1;
const SEED: usize = 2;
const BOOT: usize = 3;
const CLOCK: usize = 4;
const SHAPE: usize = 5;
pub(super) const NEWS: usize = 8;
/// Words of a page; the header takes one.
const PAGE: usize = 4_096 / WORD;
pub(super) const ENTRY: usize = 32;
pub(super) const RESET: usize = 8;
/// Prefixes that may be reset.
pub(super) const RESETS: usize = 1_024;

/// How long to wait for another process that makes the segment or adds a table: milliseconds, unless
/// it was stopped in the middle.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);

/// How large everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) tables: usize,
    pub(super) buckets: usize,
}

impl Shape {
    /// Room for `max_keys` keys of each of `tables` limits, rounded up.
    pub(super) fn new(max_keys: usize, tables: usize) -> Self {
        Self { tables, buckets: max_keys.div_ceil(WAYS).max(2) }
    }

    pub(super) fn slots(self) -> usize {
        self.buckets * WAYS
    }

    pub(super) fn entry(self, table: usize) -> usize {
        PAGE + table * ENTRY
    }

    pub(super) fn reset(self, number: usize) -> usize {
        self.entry(self.tables) + number * RESET
    }

    /// Words before the first table.
    fn front(self) -> usize {
        self.reset(RESETS).next_multiple_of(PAGE)
    }

    /// Words of a table.
    pub(super) fn table(self) -> usize {
        (self.buckets * (WAYS + 1)).next_multiple_of(PAGE)
    }

    /// Where a table begins.
    pub(super) fn place(self, table: usize) -> usize {
        self.front() + table * self.table()
    }

    fn words(self) -> usize {
        self.place(self.tables)
    }

    fn word(self) -> u128 {
        (self.tables as u128) << 64 | self.slots() as u128
    }
}

/// This boot of this host, as its processes see time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Host {
    boot: u128,
    /// The time namespace: processes in another one read another clock.
    times: u64,
}

impl Host {
    fn here() -> Result<Self, String> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        let text = std::fs::read_to_string(BOOT_ID).map_err(|error| format!("cannot read {BOOT_ID}: {error}"))?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let boot = u128::from_str_radix(&digits, 16).map_err(|_| format!("{BOOT_ID} holds no boot id: {text:?}"))?;
        // Kernels before 5.6 have one time for all.
        let times = std::fs::read_link("/proc/self/ns/time").ok().map_or(0, |link| {
            let digits: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
            digits.parse().unwrap_or(0)
        });
        Ok(Self { boot, times })
    }
}

/// A file lock, given back when dropped or when the process dies.
pub(super) struct Lock(File);

impl Lock {
    fn take(file: File, path: &Path) -> Result<Self, String> {
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(std::fs::TryLockError::WouldBlock) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                Err(error) => {
                    return Err(format!(
                        "cannot lock {} within {} s ({error}): some process was stopped while it held the lock; let it \
                         go on, or end it",
                        path.display(),
                        PATIENCE.as_secs()
                    ));
                }
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not left to closing: a child forked meanwhile has the file open too. Where it fails, closing
        // is all there is.
        let _ = self.0.unlock();
    }
}

/// The file, mapped.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) mapping: Arc<Mapping>,
    pub(super) shape: Shape,
    pub(super) path: PathBuf,
    /// The keys of the hash.
    pub(super) seed: [u64; 2],
    /// What to add to the clock of all processes to get the time of day when the segment was made.
    pub(super) offset: u64,
}

impl Segment {
    /// Opens the segment at `path`, or makes it. Whoever comes while another makes it waits.
    pub(super) fn open(path: &Path, shape: Shape) -> Result<Self, String> {
        let host = Host::here()?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let file = open(path)?;
            let lock = Lock::take(file.try_clone().map_err(|error| at(path, &error))?, path)?;
            // It may have been removed while we waited, and made again.
            if !is_same(path, &file.metadata().map_err(|error| at(path, &error))?) {
                continue;
            }
            let is_made = inspect(&file, path, shape, host)?;
            let segment = if is_made { Self::map(file, path, shape) } else { Self::make(file, path, shape, host) };
            drop(lock);
            return segment;
        }
        Err(format!("{} is removed again and again: give the segment another name", path.display()))
    }

    fn map(file: File, path: &Path, shape: Shape) -> Result<Self, String> {
        let mapping = Mapping::new(file, shape.words()).map_err(|error| at(path, &error))?;
        let load = |word: usize| mapping.words()[word].load(Ordering::Acquire);
        let (seed, offset) = (load(SEED), load(CLOCK) as u64);
        let seed = [(seed >> 64) as u64, seed as u64];
        Ok(Self { mapping: Arc::new(mapping), shape, path: path.to_owned(), seed, offset })
    }

    fn make(file: File, path: &Path, shape: Shape, host: Host) -> Result<Self, String> {
        let failed = |error: io::Error| at(path, &error);
        // Whatever was there: from here on it is nothing, until it is ready.
        file.set_len(0).map_err(failed)?;
        file.write_all_at(&BEING_MADE.to_le_bytes(), 0).map_err(failed)?;
        file.set_len((shape.words() * WORD) as u64).map_err(failed)?;
        let mapping = Mapping::new(file, shape.words()).map_err(failed)?;
        reserve(&mapping, 0..shape.front(), path)?;
        let store = |word: usize, value: u128| mapping.words()[word].store(value, Ordering::Release);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        store(VERSION, (shape.words() as u128) << 64 | u128::from(LAYOUT));
        store(SEED, random());
        store(BOOT, host.boot);
        store(CLOCK, u128::from(host.times) << 64 | u128::from(wall.wrapping_sub(monotonic())));
        store(SHAPE, shape.word());
        store(MAGIC, READY);
        let file = mapping.file().try_clone().map_err(failed)?;
        drop(mapping);
        Self::map(file, path, shape)
    }

    /// Keeps other processes from changing the directory or the resets.
    pub(super) fn lock(&self) -> Result<Lock, String> {
        // Opened anew: a lock belongs to an open file, and a forked child shares ours.
        let link = format!("/proc/self/fd/{}", self.mapping.file().as_raw_fd());
        let file = OpenOptions::new().read(true).write(true).open(link).map_err(|error| at(&self.path, &error))?;
        Lock::take(file, &self.path)
    }

    #[inline(always)]
    pub(super) fn word(&self, word: usize) -> &AtomicU128 {
        &self.mapping.words()[word]
    }

    pub(super) fn load(&self, word: usize) -> u128 {
        self.word(word).load(Ordering::Acquire)
    }

    pub(super) fn store(&self, word: usize, value: u128) {
        self.word(word).store(value, Ordering::Release);
    }

    /// Makes sure that a table has its memory.
    pub(super) fn reserve(&self, table: usize) -> Result<(), String> {
        let place = self.shape.place(table);
        reserve(&self.mapping, place..place + self.shape.table(), &self.path)
    }

    /// Makes a table empty. Nobody may be using it.
    pub(super) fn clear(&self, table: usize) -> Result<(), String> {
        let place = self.shape.place(table);
        self.mapping.clear(place..place + self.shape.table()).map_err(|error| at(&self.path, &error))
    }
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Bits nobody can guess: the standard library's hash keys come from the system.
fn random() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    let [high, low] = [(); 2].map(|()| RandomState::new().hash_one(monotonic()));
    u128::from(high) << 64 | u128::from(low)
}

fn reserve(mapping: &Mapping, words: std::ops::Range<usize>, path: &Path) -> Result<(), String> {
    let bytes = words.len() * WORD;
    mapping.reserve(words).map_err(|error| match error.kind() {
        ErrorKind::StorageFull => format!(
            "{} needs {} KiB more than its file system has free: give it more memory (for a container --shm-size), or \
             use a smaller max_keys",
            path.display(),
            bytes / 1_024
        ),
        _ => at(path, &error),
    })
}

fn open(path: &Path) -> Result<File, String> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(NO_FOLLOW)
        .open(path)
        .map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => format!(
                "{} belongs to another user, who must be the one to open it: give the segment another name",
                path.display()
            ),
            _ if path.is_symlink() => {
                format!("{} is a symbolic link, which is never followed: remove it", path.display())
            }
            _ => at(path, &error),
        })?;
    let meta = file.metadata().map_err(|error| at(path, &error))?;
    if !meta.is_file() {
        return Err(format!("{} is not a file: give the segment another name", path.display()));
    }
    if meta.uid() != user() {
        return Err(format!(
            "{} belongs to user {}, and this process is user {}: give the segment another name",
            path.display(),
            meta.uid(),
            user()
        ));
    }
    if meta.mode() & 0o077 != 0 || meta.nlink() > 1 {
        return Err(format!(
            "{} may be opened by others (mode {:o}, {} links): whoever can write it can lift every limit; remove it",
            path.display(),
            meta.mode() & 0o777,
            meta.nlink()
        ));
    }
    Ok(file)
}

fn is_same(path: &Path, meta: &Metadata) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (meta.dev(), meta.ino()))
}

/// Whether there is a segment as this process needs it; else whether one may be made there.
fn inspect(file: &File, path: &Path, shape: Shape, host: Host) -> Result<bool, String> {
    let length = file.metadata().map_err(|error| at(path, &error))?.len();
    let mut bytes = vec![0; length.min((PAGE * WORD) as u64) as usize];
    file.read_exact_at(&mut bytes, 0).map_err(|error| at(path, &error))?;
    let word = |word: usize| {
        let chunk = bytes.get(word * WORD..(word + 1) * WORD).and_then(|chunk| chunk.try_into().ok());
        u128::from_le_bytes(chunk.unwrap_or_default())
    };
    let path = path.display();
    let magic = word(MAGIC);
    if magic == BEING_MADE || bytes.iter().all(|byte| *byte == 0) {
        // Whoever began it died: we have the lock.
        return Ok(false);
    }
    if magic != READY {
        return Err(format!("{path} is not a segment of tollway: give the segment another name, or remove the file"));
    }
    if word(BOOT) != host.boot {
        // Its times are of a clock that is gone.
        return Ok(false);
    }
    let version = word(VERSION) as u64;
    if version != LAYOUT {
        return Err(format!(
            "{path} has layout version {version}, and this build has version {LAYOUT}: stop all processes that use it, \
             remove the file, and start them again with one version"
        ));
    }
    let there = word(SHAPE);
    if there != shape.word() {
        return Err(format!(
            "{path} was made for max_keys={} and tables={}, and this process asks for max_keys={} and tables={}: give \
             all processes the same, or stop them all and remove the file",
            there as u64,
            (there >> 64) as u64,
            shape.slots(),
            shape.tables
        ));
    }
    let whole = (shape.words() * WORD) as u64;
    if length != whole || (word(VERSION) >> 64) as usize != shape.words() {
        return Err(format!(
            "{path} has {length} bytes of {whole}: somebody cut it; stop all processes that use it, and remove the file"
        ));
    }
    let times = (word(CLOCK) >> 64) as u64;
    if times != host.times {
        return Err(format!(
            "{path} was made in time namespace {times}, and this process is in {}: their clocks differ; give the \
             segment another name",
            host.times
        ));
    }
    Ok(true)
}
