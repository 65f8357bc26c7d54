//! Why a command did not succeed.

use std::io;
use std::path::{Path, PathBuf};

use durdir_fs::FsError;

use crate::api::exit_class_of;
use crate::client::ClientError;
use crate::exit::ExitClass;
use crate::paths;

/// A command that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The call to mountd did not work.
    #[error("{action}")]
    Call {
        /// What was being done, in the words of the command.
        action: String,
        /// Why not.
        source: ClientError,
    },
    /// No call was made yet.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The store was opened without a daemon, and that did not work.
    #[error("{action}")]
    Store {
        /// What was being done.
        action: String,
        /// Why not.
        source: FsError,
    },
    /// There is no store to be opened.
    #[error("there is no store in {}", dir.display())]
    NoStore {
        /// Where it should be.
        dir: PathBuf,
    },
    /// The command line is fine one by one, but not together.
    #[error("{0}")]
    Usage(String),
    /// Where the store is cannot be told.
    #[error("find the store")]
    Endpoint(#[source] io::Error),
    /// A file cannot be read.
    #[error("read {}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("write {}", path.display())]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output cannot be written.
    #[error("write to standard output")]
    Output(#[source] io::Error),
    /// The system does not give what every command needs.
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    /// The command did what it should, and the outcome is bad: its output says so already.
    #[error("{what}")]
    Found {
        /// One line about it.
        what: String,
        /// The class of the outcome.
        exit: ExitClass,
    },
}

/// Refuses a directory without a store.
pub(super) fn check_store(dir: &Path) -> Result<(), CliError> {
    match paths::is_store(dir) {
        Ok(true) => Ok(()),
        Ok(false) => Err(CliError::NoStore { dir: dir.to_owned() }),
        Err(source) => Err(CliError::ReadFile { path: dir.to_owned(), source }),
    }
}

impl CliError {
    /// Returns the class of exit code for this.
    pub(super) fn exit_class(&self) -> ExitClass {
        match self {
            CliError::Call { source, .. } | CliError::Client(source) => source.exit_class(),
            CliError::Store { source, .. } => exit_class_of(source),
            CliError::NoStore { .. } => ExitClass::NotFound,
            CliError::ReadFile { source, .. } | CliError::WriteFile { source, .. }
                if source.kind() == io::ErrorKind::NotFound =>
            {
                ExitClass::NotFound
            }
            CliError::WriteFile { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                ExitClass::Conflict
            }
            CliError::Usage(_) => ExitClass::Usage,
            CliError::Found { exit, .. } => *exit,
            CliError::Endpoint(_)
            | CliError::ReadFile { .. }
            | CliError::WriteFile { .. }
            | CliError::Output(_)
            | CliError::Runtime(_) => ExitClass::Failed,
        }
    }

    /// Returns whether whoever reads standard output has seen enough.
    pub(super) fn is_reader_gone(&self) -> bool {
        matches!(self, CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
