//! Files that rules and lists follow.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use tollway_core::ConfigError;

use super::{AccessList, Rules};

/// The shortest pause between two looks at a file.
const SHORTEST: Duration = Duration::from_millis(20);

/// What a text can replace as a whole: [`Rules`] and [`AccessList`].
pub trait Replace: Send + Sync + 'static {
    /// Puts what the text says in place.
    ///
    /// # Errors
    /// When it cannot work; then everything stays as it was.
    fn replace_all(&self, text: &str) -> Result<(), ConfigError>;
}

impl Replace for Rules {
    fn replace_all(&self, text: &str) -> Result<(), ConfigError> {
        self.replace(text).map(|_| ())
    }
}

impl Replace for AccessList {
    fn replace_all(&self, text: &str) -> Result<(), ConfigError> {
        self.replace_text(text)
    }
}

/// Keeps rules, or an access list, as a file has them. The file is read before this returns; then a
/// thread looks each `every` (at least 20 ms) whether its time or size has changed, until nobody
/// holds `target` any more. What cannot be read or cannot work changes nothing and is given to
/// `told`, once for each fault.
///
/// Replace the file by renaming another over it, so that nobody reads half of it.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use tollway::rules::{Rules, follow_file};
///
/// let rules = Arc::new(Rules::new("{}")?);
/// let error = follow_file(&rules, "no-such-rules.json", Duration::from_millis(500), |_| {}).unwrap_err();
/// assert!(error.to_string().starts_with("no-such-rules.json: "));
/// # Ok::<(), tollway::ConfigError>(())
/// ```
///
/// # Errors
/// When the file cannot be read or holds what cannot work, or when no thread can be started.
pub fn follow_file<T: Replace>(
    target: &Arc<T>,
    path: impl Into<PathBuf>,
    every: Duration,
    told: impl Fn(&ConfigError) + Send + 'static,
) -> Result<(), ConfigError> {
    let path = path.into();
    let mut version = load(&**target, &path, None)?;
    let target: Weak<T> = Arc::downgrade(target);
    let every = every.max(SHORTEST);
    let look = move || {
        let mut said = None;
        loop {
            thread::sleep(every);
            let Some(target) = target.upgrade() else { return };
            match load(&*target, &path, version) {
                Ok(found) => (version, said) = (found, None),
                Err(error) => {
                    if said.as_ref() != Some(&error) {
                        told(&error);
                        said = Some(error);
                    }
                }
            }
        }
    };
    let started = thread::Builder::new().name("tollway-rules".to_owned()).spawn(look);
    started.map(drop).map_err(|error| ConfigError::new(format!("no thread to follow a file with: {error}")))
}

type Version = Option<(SystemTime, u64)>;

/// Reads a file that has changed since `known`; answers its version now.
fn load(target: &impl Replace, path: &Path, known: Version) -> Result<Version, ConfigError> {
    let named = |error: &dyn std::fmt::Display| ConfigError::new(format!("{}: {error}", path.display()));
    let found = fs::metadata(path).map_err(|error| named(&error))?;
    let version = Some((found.modified().map_err(|error| named(&error))?, found.len()));
    if version != known {
        let text = fs::read_to_string(path).map_err(|error| named(&error))?;
        target.replace_all(&text).map_err(|error| named(&error))?;
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::rules::Access;

    fn until(what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_file_is_followed_its_faults_are_told_once_and_the_thread_ends() {
        let folder = std::env::temp_dir().join(format!("tollway-follow-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (path, new) = (folder.join("list.txt"), folder.join("list.new"));
        let write = |text: &str| {
            fs::write(&new, text).unwrap();
            fs::rename(&new, &path).unwrap();
        };
        write("10.0.0.1");
        let list = Arc::new(AccessList::new(Vec::new(), Access::Deny).unwrap());
        let (tell, told) = mpsc::channel();
        follow_file(&list, &path, Duration::ZERO, move |error| tell.send(error.to_string()).unwrap_or(())).unwrap();
        assert_eq!(list.len(), 1);
        write("10.0.0.1\n10.0.0.2");
        until("the change is seen", || list.len() == 2);
        write("somebody else");
        let fault = told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(fault.contains("list.txt: line 1: ") && list.len() == 2, "{fault}");
        assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "a fault that goes on is told once");
        write("10.0.0.9\n10.0.0.8\n10.0.0.7");
        until("it recovers", || list.len() == 3);
        drop(list);
        until("the thread ends", || matches!(told.try_recv(), Err(mpsc::TryRecvError::Disconnected)));
        fs::remove_dir_all(&folder).unwrap();
    }
}
