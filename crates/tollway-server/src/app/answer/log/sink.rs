//! Where lines end up.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// A file, appended to. Several processes can share it. When it is moved or deleted, a new one
    /// is made.
    File(PathBuf),
}

/// An open target.
pub(super) enum Sink {
    Stderr,
    File { path: PathBuf, file: File },
}

impl Sink {
    pub(super) fn open(target: &LogTarget) -> io::Result<Sink> {
        match target {
            LogTarget::Stderr => Ok(Sink::Stderr),
            LogTarget::File(path) => Ok(Sink::File { path: path.clone(), file: append(path)? }),
        }
    }

    /// Writes lines with one call.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        match self {
            Sink::Stderr => io::stderr().lock().write_all(lines),
            Sink::File { path, file } => {
                // Until there can be a new file the old one goes on: it is there under another name.
                if has_moved(path, file)
                    && let Ok(fresh) = append(path)
                {
                    *file = fresh;
                }
                file.write_all(lines)
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Whether the path no longer leads to the open file.
fn has_moved(path: &Path, file: &File) -> bool {
    let identity = |found: io::Result<std::fs::Metadata>| found.ok().map(|data| (data.dev(), data.ino()));
    identity(path.metadata()) != identity(file.metadata())
}
