//! Why a call to mountd did not work, with the exit code class that the command ends with.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use tonic::metadata::MetadataValue;

use crate::daemon::DetachError;
use crate::exit::ExitClass;
use crate::proto::{ERROR_DETAIL_KEY, ErrorDetail};
use crate::units::format_micros;

/// A call that was not answered, or answered with an error.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon did what it could and reported an error.
    #[error("{}", chain(message, causes))]
    Reported {
        /// Its class.
        exit: ExitClass,
        /// What went wrong.
        message: String,
        /// Why, nearest first.
        causes: Vec<String>,
    },
    /// The connection broke before an answer came.
    #[error("mountd at {} went away before it answered; its log may tell why", socket.display())]
    ConnectionLost {
        /// Where it listened.
        socket: PathBuf,
    },
    /// The daemon answered that it is about to end, and did nothing.
    #[error("mountd at {} is shutting down", socket.display())]
    Ending {
        /// Where it listened.
        socket: PathBuf,
    },
    /// Nothing could be read from or written to the socket.
    #[error("connect to mountd at {}", socket.display())]
    Connect {
        /// Where it should listen.
        socket: PathBuf,
        /// What the connection said.
        source: io::Error,
    },
    /// The daemon that answers serves another store.
    #[error(
        "mountd at {} serves the store {}, not {}; pass the --socket of the mountd that does",
        socket.display(), theirs.display(), ours.display()
    )]
    OtherStore {
        /// Where it listens.
        socket: PathBuf,
        /// What it serves.
        theirs: PathBuf,
        /// What was asked for.
        ours: PathBuf,
    },
    /// The daemon speaks another revision of the API.
    #[error("mountd {version} speaks another protocol than this durdir; restart it as the same version")]
    OtherProtocol {
        /// Its version.
        version: String,
    },
    /// No answer in time. The daemon may still finish what was asked.
    #[error("no answer from mountd within {}; it may still finish", format_micros(u64::try_from(after.as_micros()).unwrap_or(u64::MAX)))]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// The store's directory or a file in it that belongs to the daemon cannot be used.
    #[error("{what} {}", path.display())]
    StoreDirectory {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory that should be a store holds something else.
    #[error(
        "{} holds {example:?} and no durdir store; pass an empty or a new directory as --store",
        path.display()
    )]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// Something that was found in it.
        example: std::ffi::OsString,
    },
    /// Somebody else is starting or ending the mountd of the store and does not get done.
    #[error("another process has been starting the mountd of {} for {} s", store.display(), after.as_secs())]
    StartBusy {
        /// The store.
        store: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The path of the running program cannot be told.
    #[error("find the program that is running")]
    OwnPath {
        /// What the system said.
        source: io::Error,
    },
    /// There is no mountd program.
    #[error("no mountd beside {} nor in PATH; install it there", beside.display())]
    NoProgram {
        /// The directory of the running program.
        beside: PathBuf,
    },
    /// A mountd was to be started and did not get ready.
    #[error(transparent)]
    Start(#[from] DetachError),
}

impl ClientError {
    /// Returns the class of exit code that a command ends with for this.
    pub fn exit_class(&self) -> ExitClass {
        match self {
            ClientError::Reported { exit, .. } => *exit,
            ClientError::Start(error) => error.exit_class(),
            ClientError::NotAStore { .. } => ExitClass::Refused,
            ClientError::OtherStore { .. }
            | ClientError::OtherProtocol { .. }
            | ClientError::Ending { .. } => ExitClass::Conflict,
            ClientError::TimedOut { .. } | ClientError::StartBusy { .. } => ExitClass::TimedOut,
            ClientError::ConnectionLost { .. }
            | ClientError::Connect { .. }
            | ClientError::StoreDirectory { .. }
            | ClientError::OwnPath { .. }
            | ClientError::NoProgram { .. } => ExitClass::Failed,
        }
    }

    /// Returns whether the daemon went away, or is about to, so that the call may be made of the next one.
    pub(super) fn is_loss(&self) -> bool {
        matches!(self, ClientError::ConnectionLost { .. } | ClientError::Ending { .. })
    }

    /// Returns the error that a failed call stands for.
    pub(super) fn from_status(status: &tonic::Status, socket: &std::path::Path) -> ClientError {
        let detail = status
            .metadata()
            .get_bin(ERROR_DETAIL_KEY)
            .and_then(|value| MetadataValue::to_bytes(value).ok())
            .and_then(|bytes| ErrorDetail::decode(bytes).ok());
        match detail {
            Some(_) if status.code() == tonic::Code::Unavailable => {
                ClientError::Ending { socket: socket.to_owned() }
            }
            Some(detail) => ClientError::Reported {
                exit: ExitClass::from_proto(detail.exit_class()),
                message: detail.message,
                causes: detail.causes,
            },
            // Without a detail the status was not made by our service but by the transport.
            None => match status.code() {
                tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown => {
                    ClientError::ConnectionLost { socket: socket.to_owned() }
                }
                code => ClientError::Reported {
                    exit: ExitClass::Failed,
                    message: format!("mountd answered {code:?}: {}", status.message()),
                    causes: Vec::new(),
                },
            },
        }
    }
}

fn chain(message: &str, causes: &[String]) -> String {
    let mut line = message.to_owned();
    for cause in causes {
        line.push_str(": ");
        line.push_str(cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_reported_error_keeps_its_class_and_chain() {
        let detail = ErrorDetail {
            exit_class: crate::proto::ExitClass::Conflict.into(),
            message: "mount point /m is busy".to_owned(),
            causes: vec!["umount".to_owned(), "Device or resource busy".to_owned()],
        };
        let mut status = tonic::Status::failed_precondition("x");
        status.metadata_mut().insert_bin(
            ERROR_DETAIL_KEY,
            tonic::metadata::MetadataValue::from_bytes(&detail.encode_to_vec()),
        );
        let error = ClientError::from_status(&status, Path::new("/s"));
        assert_eq!(error.exit_class(), ExitClass::Conflict);
        assert_eq!(crate::exit::one_line(&error), "mount point /m is busy: umount: Device or resource busy");
    }

    #[test]
    fn a_daemon_that_ends_is_told_from_one_that_refuses() {
        let detail = ErrorDetail { message: "x".to_owned(), ..ErrorDetail::default() };
        let detail = tonic::metadata::MetadataValue::from_bytes(&detail.encode_to_vec());
        let mut status = tonic::Status::unavailable("x");
        status.metadata_mut().insert_bin(ERROR_DETAIL_KEY, detail);
        let error = ClientError::from_status(&status, Path::new("/s"));
        assert!(error.is_loss() && matches!(error, ClientError::Ending { .. }));
    }

    #[test]
    fn a_broken_connection_is_told_from_an_answer() {
        let error = ClientError::from_status(&tonic::Status::unavailable("eof"), Path::new("/s"));
        assert!(matches!(error, ClientError::ConnectionLost { .. }));
        let error = ClientError::from_status(&tonic::Status::out_of_range("big"), Path::new("/s"));
        assert!(matches!(error, ClientError::Reported { .. }));
    }
}
