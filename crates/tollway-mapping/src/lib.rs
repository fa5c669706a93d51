//! A file of 128-bit words that processes of one host read and exchange together, and large pages.
//!
//! What a limiter asks of memory and Rust calls `unsafe`; this crate is all of it, and knows nothing else. On other systems than Linux it is empty.
//!
//! ```
//! use portable_atomic::Ordering;
//! use tollway_mapping::Mapping;
//!
//! let path = std::env::temp_dir().join(format!("tollway-mapping-{}", std::process::id()));
//! let open = || std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
//! open()?.set_len(4_096)?;
//! let (one, two) = (Mapping::new(open()?, 256)?, Mapping::new(open()?, 256)?);
//! one.words()[7].store(42, Ordering::Release);
//! assert_eq!(two.words()[7].load(Ordering::Acquire), 42);
//! # std::fs::remove_file(&path)?;
//! # Ok::<(), std::io::Error>(())
//! ```
#![cfg(target_os = "linux")]
#![warn(missing_docs)]
#![deny(clippy::undocumented_unsafe_blocks)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use portable_atomic::AtomicU128;

/// Bytes of a word.
pub const WORD: usize = size_of::<AtomicU128>();

/// The largest page that systems use everywhere.
const PAGE: usize = 64 * 1024;
/// A large one, where the others are the smallest there are.
const LARGE_PAGE: usize = 2 * 1024 * 1024;

/// Locks on tables lie here in the file, where no bytes are: a lock needs a place, not a byte.
const LOCKS: i64 = 1 << 60;

/// The beginning of a file, mapped and shared with everybody else who maps it.
///
/// The pages stay as long as this value lives, whoever unlinks the file. Whoever makes the file
/// shorter than what is mapped kills those who touch the rest: nobody must.
#[derive(Debug)]
pub struct Mapping {
    file: File,
    start: NonNull<AtomicU128>,
    words: usize,
}

// SAFETY: the words are atomics, and the pointer is only ever used to reach them.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `words` words of `file`, which is open for reading and writing.
    ///
    /// # Errors
    /// When the file is shorter than that, the processor cannot exchange 128 bits in one step (then
    /// processes could not share them), or the system has no room.
    pub fn new(file: File, words: usize) -> io::Result<Self> {
        if !AtomicU128::is_lock_free() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this processor has no exchange of 128 bits in one step",
            ));
        }
        let bytes = words.checked_mul(WORD).filter(|bytes| *bytes > 0 && isize::try_from(*bytes).is_ok());
        let bytes = bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no such number of words"))?;
        if file.metadata()?.len() < bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than what is to be mapped"));
        }
        // SAFETY: a new mapping at an address of the kernel's choice; no memory of ours is replaced.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { file, start, words })
    }

    /// The words. Others change them at any time.
    #[inline(always)]
    pub fn words(&self) -> &[AtomicU128] {
        // SAFETY: so many words are mapped until `self` is dropped, at an address that is a multiple of
        // a page; any bits are a valid atomic, and everybody changes them by atomic operations.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes sure that there is memory for these words, so that touching them cannot fail.
    ///
    /// # Errors
    /// `StorageFull` when there is not.
    pub fn reserve(&self, words: Range<usize>) -> io::Result<()> {
        self.allocate(0, words)
    }

    /// Makes these words zero again, and gives their memory back. Nobody else may be using them.
    ///
    /// # Errors
    /// What the system says.
    pub fn clear(&self, words: Range<usize>) -> io::Result<()> {
        self.allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, words)
    }

    fn allocate(&self, mode: i32, words: Range<usize>) -> io::Result<()> {
        assert!(words.start < words.end && words.end <= self.words, "words outside the mapping");
        let (from, length) = (words.start * WORD, words.len() * WORD);
        loop {
            // SAFETY: a system call on a file of ours, with no pointers.
            let done = unsafe { libc::fallocate(self.file.as_raw_fd(), mode, from as i64, length as i64) };
            if done == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Says that this process uses part `number`, until this value and all its copies in forked
    /// children are gone. The kernel takes it back from a process that dies.
    ///
    /// # Errors
    /// `WouldBlock` when somebody has [claimed](Self::claim) it.
    pub fn hold(&self, number: usize) -> io::Result<()> {
        self.lock(number, libc::F_RDLCK)
    }

    /// Takes part `number` for this process alone, unless somebody else holds it. A later
    /// [`hold`](Self::hold) or [`release`](Self::release) by this process ends it.
    ///
    /// # Errors
    /// What the system says; that others hold it is `Ok(false)`.
    pub fn claim(&self, number: usize) -> io::Result<bool> {
        match self.lock(number, libc::F_WRLCK) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets part `number` go.
    ///
    /// # Errors
    /// What the system says.
    pub fn release(&self, number: usize) -> io::Result<()> {
        self.lock(number, libc::F_UNLCK)
    }

    fn lock(&self, number: usize, kind: i32) -> io::Result<()> {
        let lock = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: LOCKS + number as i64,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the lock is read during the call and outlives it.
        let done = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this address and length; no borrow of the words is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * WORD) };
    }
}

/// The user this process acts as.
pub fn user() -> u32 {
    // SAFETY: always succeeds and touches no memory.
    unsafe { libc::geteuid() }
}

/// Nanoseconds on the clock that all processes of a host share and nobody sets: `CLOCK_MONOTONIC`.
#[inline]
pub fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills in a value of ours; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Asks the system for large pages where `memory` will lie, before it is first written. A table that is
/// read at random places then costs one miss instead of two. Where there are none to be had, nothing
/// changes.
pub fn prefer_large_pages<T>(memory: &mut [MaybeUninit<T>]) {
    let bytes = memory.as_mut_ptr_range();
    let from = bytes.start.addr().next_multiple_of(PAGE);
    let to = bytes.end.addr() / PAGE * PAGE;
    if to > from && to - from >= LARGE_PAGE {
        let start = bytes.start.cast::<u8>().wrapping_add(from - bytes.start.addr());
        // SAFETY: whole pages of memory that is borrowed here; the advice leaves what they hold.
        unsafe { libc::madvise(start.cast(), to - from, libc::MADV_HUGEPAGE) };
    }
}

/// The flag that keeps an open from following a symbolic link.
pub const NO_FOLLOW: i32 = libc::O_NOFOLLOW;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        file
    }

    #[test]
    fn a_file_that_is_too_short_is_not_mapped() {
        let file = file(4_095);
        let error = Mapping::new(file.reopen().unwrap(), 256).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(Mapping::new(file.reopen().unwrap(), 0).is_err());
        assert!(Mapping::new(file.reopen().unwrap(), usize::MAX).is_err());
    }

    #[test]
    fn what_is_held_cannot_be_claimed() {
        let file = file(4_096);
        let [one, two] = [(); 2].map(|()| Mapping::new(file.reopen().unwrap(), 256).unwrap());
        one.hold(3).unwrap();
        two.hold(3).unwrap();
        assert!(!two.claim(3).unwrap());
        assert!(two.claim(4).unwrap());
        assert_eq!(one.hold(4).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        two.release(4).unwrap();
        one.hold(4).unwrap();
        drop(one);
        assert!(two.claim(3).unwrap() && two.claim(4).unwrap());
    }

    #[test]
    fn what_is_cleared_is_zero_for_everybody() {
        use portable_atomic::Ordering;
        let file = file(3 * 4_096);
        let [one, two] = [(); 2].map(|()| Mapping::new(file.reopen().unwrap(), 768).unwrap());
        for word in one.words() {
            word.store(u128::MAX, Ordering::Relaxed);
        }
        one.clear(256..512).unwrap();
        one.reserve(256..512).unwrap();
        let left: Vec<_> = two.words().iter().map(|word| word.load(Ordering::Relaxed) == 0).collect();
        assert!(left[256..512].iter().all(|zero| *zero));
        assert!(!left[..256].iter().chain(&left[512..]).any(|zero| *zero));
    }

    #[test]
    fn large_pages_are_asked_for_within_the_memory() {
        let mut memory: Vec<u128> = Vec::with_capacity(LARGE_PAGE);
        prefer_large_pages(memory.spare_capacity_mut());
        memory.resize(LARGE_PAGE, 7);
        let middle = memory.as_ptr_range().start.addr() + 8 * LARGE_PAGE;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let flags = maps.lines().find(|line| {
            if let Some((from, to)) = line.split_whitespace().next().and_then(|range| range.split_once('-'))
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = (from..to).contains(&middle);
            }
            inside && line.starts_with("VmFlags")
        });
        assert!(flags.unwrap().contains(" hg"), "{flags:?}");
        assert!(memory.iter().all(|word| *word == 7));
        prefer_large_pages::<u8>(&mut []);
    }

    #[test]
    fn time_goes_forward() {
        let first = monotonic();
        assert!(monotonic() >= first);
    }
}
