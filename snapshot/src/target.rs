//! A place that captures are published to.

use std::io;
use std::path::{Path, PathBuf};

/// What is published: a manifest, and the files that it names.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// What the capture is called: letters, digits and `-`.
    pub id: &'a str,
    /// The manifest, byte for byte.
    pub manifest: &'a [u8],
    /// The directory that the files lie in.
    pub files: &'a Path,
    /// Their names in it, without directories.
    pub names: &'a [String],
}

/// A capture that was published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The manifest, byte for byte. Nobody has checked it.
    pub manifest: Vec<u8>,
    /// A directory with the files that it names. They are not to be changed, and nobody has checked them either.
    pub files: PathBuf,
}

/// A place that captures are published to, and opened from.
pub trait Target: Send + Sync {
    /// Checks that something can be published here, as far as that can be told before.
    fn check(&self) -> Result<(), TargetError>;

    /// Publishes a capture. It can be seen as a whole, and for good, on return, and not at all before. Doing it again with the same
    /// capture does nothing.
    fn publish(&self, publication: Publication<'_>) -> Result<(), TargetError>;

    /// Removes a capture, or what an attempt to publish it has left; that there is none is fine.
    fn withdraw(&self, id: &str) -> Result<(), TargetError>;

    /// Opens a capture.
    fn open(&self, id: &str) -> Result<Opened, TargetError>;
}

/// Something that did not work with a place for captures.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It has no such capture.
    #[error("there is no capture {id} in {}", place.display())]
    NotFound {
        /// Its name.
        id: String,
        /// The place.
        place: PathBuf,
    },
    /// Another capture has the name.
    #[error("another capture is called {id} in {}", place.display())]
    Other {
        /// The name.
        id: String,
        /// The place.
        place: PathBuf,
    },
    /// A name that is none.
    #[error("{name:?} is no name of a capture, nor of a file in one")]
    BadName {
        /// As it was given.
        name: String,
    },
    /// Something could not be written or read.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },
}
