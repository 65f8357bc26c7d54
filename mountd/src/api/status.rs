//! The only place where an error becomes a gRPC status, an exit code and a log level.
//!
//! Every match names every variant: who adds one decides here what clients see.

use durdir_fs::FsError;
use durdir_fs::drain::DrainError;
use durdir_fs::fuse::MountError;
use durdir_fs::overlay::lower::LowerError;
use durdir_fs::store::StoreError;
use durdir_snapshot::TargetError;
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::ApiError;
use crate::actor::ActorError;
use crate::exit::{ExitClass, causes, one_line, printable};
use crate::proto::{ERROR_DETAIL_KEY, ErrorDetail};
use crate::runtime::RuntimeError;

/// What a status says in its message, which is for people that look at a wire: the detail has all of it.
const MESSAGE: usize = 256;

/// How much text an error may have. In base64 it fits into the headers that our client takes.
const LARGEST_TEXT: usize = 1 << 20;

/// Logs a failed call and returns what its client is told.
pub(crate) fn report(call: &'static str, error: &ApiError) -> Status {
    let exit = classify(error);
    let line = one_line(error);
    match exit {
        // A person must look.
        ExitClass::Failed | ExitClass::Integrity | ExitClass::TimedOut => {
            tracing::error!(call, error = line, "call failed");
        }
        ExitClass::Usage | ExitClass::NotFound | ExitClass::Conflict | ExitClass::Refused => {
            tracing::info!(call, error = line, "call refused");
        }
    }
    // As for a connection that breaks: whoever listens there next answers.
    let ending = matches!(error, ApiError::ShuttingDown);
    let message = shortened(line, MESSAGE);
    let mut status = Status::new(if ending { Code::Unavailable } else { code_of(exit) }, message);
    let detail = MetadataValue::from_bytes(&detail(error).encode_to_vec());
    status.metadata_mut().insert_bin(ERROR_DETAIL_KEY, detail);
    status
}

/// Returns an error as programs are told it.
pub(super) fn detail(error: &ApiError) -> ErrorDetail {
    if let ApiError::Recorded { exit, message, causes } = error {
        let (message, causes) = (message.clone(), causes.clone());
        return ErrorDetail { exit_class: exit.to_proto().into(), message, causes };
    }
    ErrorDetail {
        exit_class: classify(error).to_proto().into(),
        message: shortened(printable(&error.to_string()), LARGEST_TEXT),
        causes: causes(error),
    }
}

/// Returns the beginning of a text that is too long.
fn shortened(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let beginning = (0..=most).rev().find_map(|end| text.get(..end));
    format!("{}…", beginning.unwrap_or_default())
}

/// Returns whether the same request would be refused again for as long as nobody else changes anything: then its client
/// gets the same answer however often it asks.
pub(super) fn is_final(error: &ApiError) -> bool {
    let passes_by_itself = matches!(
        error,
        ApiError::ShuttingDown
            | ApiError::MountInTransition { .. }
            | ApiError::Actor(ActorError::Busy { .. })
            | ApiError::Fs(FsError::Retired)
            | ApiError::Fs(FsError::Store(StoreError::Locked { .. }))
    );
    match classify(error) {
        // A full disk, a slow one, a bug: it may be better next time.
        ExitClass::Failed | ExitClass::TimedOut => false,
        ExitClass::Usage
        | ExitClass::NotFound
        | ExitClass::Conflict
        | ExitClass::Refused
        | ExitClass::Integrity => !passes_by_itself,
    }
}

/// Returns the exit code class for an error of the filesystem.
pub(crate) fn exit_class_of(error: &FsError) -> ExitClass {
    classify_fs(error)
}

fn code_of(exit: ExitClass) -> Code {
    match exit {
        ExitClass::Failed => Code::Internal,
        ExitClass::Usage => Code::InvalidArgument,
        ExitClass::NotFound => Code::NotFound,
        // Not ABORTED: trying again at once will not help.
        ExitClass::Conflict | ExitClass::Refused => Code::FailedPrecondition,
        ExitClass::Integrity => Code::DataLoss,
        ExitClass::TimedOut => Code::DeadlineExceeded,
    }
}

fn classify(error: &ApiError) -> ExitClass {
    match error {
        ApiError::Fs(error) => classify_fs(error),
        ApiError::Mount(error) => classify_mount(error),
        ApiError::Drain(error) => classify_drain(error),
        ApiError::Actor(error) => classify_actor(error),
        ApiError::Template(_) => ExitClass::Refused,
        // Our own client never sends such a request: whoever made it used the API wrongly.
        ApiError::Malformed { .. } | ApiError::BadPath { .. } => ExitClass::Usage,
        ApiError::MountpointTaken { .. }
        | ApiError::HeadMounted { .. }
        | ApiError::InUse { .. }
        | ApiError::MountInTransition { .. }
        | ApiError::OtherLowers { .. }
        | ApiError::OtherRequest { .. }
        | ApiError::ShuttingDown => ExitClass::Conflict,
        ApiError::Recorded { exit, .. } => *exit,
        ApiError::NotMounted { .. }
        | ApiError::NoVolumeToMount { .. }
        | ApiError::SnapshotAsVolume { .. } => ExitClass::NotFound,
        ApiError::InsideOwnMount { .. }
        | ApiError::PlaceOfStore { .. }
        | ApiError::Hides { .. }
        | ApiError::MountedInLower { .. }
        | ApiError::ForeignSnapshot { .. }
        | ApiError::NotForSnapshots { .. }
        | ApiError::NoUring
        | ApiError::NamedTwice { .. } => ExitClass::Refused,
        ApiError::Panicked { .. } => ExitClass::Failed,
    }
}

fn classify_mount(error: &MountError) -> ExitClass {
    match error {
        MountError::Missing { .. } => ExitClass::NotFound,
        MountError::AlreadyMounted { .. }
        | MountError::Dead { .. }
        | MountError::Busy { .. }
        | MountError::Covered { .. }
        | MountError::HeldElsewhere { .. } => ExitClass::Conflict,
        MountError::NotDirectory { .. }
        | MountError::InsideVolume { .. }
        // fusermount3 says why: not the owner's directory, user_allow_other is off.
        | MountError::Refused { .. } => ExitClass::Refused,
        MountError::Unusable { .. }
        | MountError::NoFuse { .. }
        | MountError::CannotAdopt { .. }
        | MountError::Failed { .. } => ExitClass::Failed,
    }
}

fn classify_actor(error: &ActorError) -> ExitClass {
    match error {
        ActorError::NotFound { .. } | ActorError::NoCommit { .. } => ExitClass::NotFound,
        ActorError::Exists { .. }
        | ActorError::Busy { .. }
        | ActorError::Misplaced { .. }
        | ActorError::Owned { .. } => ExitClass::Conflict,
        ActorError::BadId { .. }
        | ActorError::NotCommitted { .. }
        | ActorError::UnknownScope { .. }
        | ActorError::UnknownKind { .. }
        | ActorError::Widened { .. }
        | ActorError::NothingToCapture { .. }
        | ActorError::Unfit { .. }
        | ActorError::Mismatched { .. }
        | ActorError::NoTarget { .. }
        // Found out before anything was paused.
        | ActorError::Exited { .. }
        | ActorError::Unmounted { .. }
        | ActorError::Gone { .. } => ExitClass::Refused,
        ActorError::Damaged { .. } | ActorError::Unreadable { .. } => ExitClass::Integrity,
        ActorError::Runtime { source, .. } => classify_runtime(source),
        ActorError::NoAnswer { .. } => ExitClass::TimedOut,
        ActorError::NoRoom { .. } | ActorError::StillMounted { .. } | ActorError::Io { .. } => {
            ExitClass::Failed
        }
        ActorError::Publish { source, .. } => match source {
            TargetError::NotFound { .. } => ExitClass::NotFound,
            TargetError::Other { .. } => ExitClass::Conflict,
            TargetError::BadName { .. } => ExitClass::Refused,
            TargetError::Io { .. } => ExitClass::Failed,
        },
    }
}

fn classify_runtime(error: &RuntimeError) -> ExitClass {
    match error {
        RuntimeError::Missing { .. } | RuntimeError::Unsupported { .. } | RuntimeError::Refused { .. } => {
            ExitClass::Refused
        }
        RuntimeError::TimedOut { .. } => ExitClass::TimedOut,
        RuntimeError::Failed { .. } | RuntimeError::Exited { .. } | RuntimeError::Io { .. } => {
            ExitClass::Failed
        }
    }
}

fn classify_drain(error: &DrainError) -> ExitClass {
    match error {
        DrainError::TimedOut { .. } => ExitClass::TimedOut,
        DrainError::List { .. } | DrainError::Helper { .. } | DrainError::Failed { .. } => ExitClass::Failed,
    }
}

fn classify_fs(error: &FsError) -> ExitClass {
    match error {
        FsError::VolumeNotFound { .. }
        | FsError::SnapshotNotFound { .. }
        | FsError::LowerMissing { .. }
        | FsError::NotFound => ExitClass::NotFound,
        // Somebody else rolled it back or removed it in between: asking again tells.
        FsError::Retired => ExitClass::Conflict,
        FsError::VolumeExists { .. }
        | FsError::VolumeMounted { .. }
        | FsError::SnapshotExists { .. }
        | FsError::SnapshotMounted { .. }
        | FsError::Exists => ExitClass::Conflict,
        FsError::BadName { .. }
        | FsError::OfAnotherVolume { .. }
        | FsError::UnrelatedHead { .. }
        | FsError::Invalid { .. }
        | FsError::Unsupported { .. }
        | FsError::NotPermitted { .. }
        | FsError::AccessDenied
        | FsError::ReadOnly
        | FsError::CrossVolume => ExitClass::Refused,
        FsError::BadLower { .. } => ExitClass::Refused,
        // These are answers to programs on a mount, not to a call of the control plane.
        FsError::NotDirectory { .. }
        | FsError::IsDirectory { .. }
        | FsError::NotEmpty { .. }
        | FsError::Busy
        | FsError::NameTooLong { .. }
        | FsError::Stale { .. }
        | FsError::TooManyLinks
        | FsError::FileTooBig
        | FsError::NoXattr
        | FsError::XattrTooBig
        | FsError::NoData => ExitClass::Failed,
        FsError::NoSpace | FsError::QuotaExceeded { .. } | FsError::Session { .. } => ExitClass::Failed,
        FsError::Lower(error) => classify_lower(error),
        FsError::Store(error) => classify_store(error),
    }
}

fn classify_lower(error: &LowerError) -> ExitClass {
    match error {
        LowerError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            ExitClass::NotFound
        }
        LowerError::Open { .. } => ExitClass::Refused,
        LowerError::Io { .. } => ExitClass::Failed,
        LowerError::NotFound { .. } | LowerError::Changed { .. } => ExitClass::Integrity,
        LowerError::Escapes { .. } => ExitClass::Refused,
    }
}

fn classify_store(error: &StoreError) -> ExitClass {
    match error {
        StoreError::Locked { .. } => ExitClass::Conflict,
        StoreError::NewerFormat { .. } => ExitClass::Refused,
        StoreError::Corrupt { .. } => ExitClass::Integrity,
        StoreError::Database { .. } if error.is_corruption() => ExitClass::Integrity,
        StoreError::Database { .. } | StoreError::Io { .. } | StoreError::Poisoned { .. } => {
            ExitClass::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use durdir_fs::ids::RequestId;

    use super::*;

    fn io(kind: std::io::ErrorKind) -> std::io::Error {
        std::io::Error::from(kind)
    }

    #[test]
    fn what_users_run_into_has_the_documented_exit_code() {
        let name = || "web".to_owned();
        let dir = || PathBuf::from("/d");
        let open = |kind| FsError::Lower(LowerError::Open { dir: dir(), source: io(kind) });
        let not_found = std::io::ErrorKind::NotFound;
        let table: Vec<(ApiError, ExitClass)> = vec![
            (FsError::VolumeNotFound { name: name() }.into(), ExitClass::NotFound),
            (FsError::SnapshotNotFound { name: name() }.into(), ExitClass::NotFound),
            (FsError::VolumeExists { name: name() }.into(), ExitClass::Conflict),
            (FsError::SnapshotMounted { name: name() }.into(), ExitClass::Conflict),
            (FsError::BadName { name: name(), why: "x" }.into(), ExitClass::Refused),
            (open(not_found).into(), ExitClass::NotFound),
            (open(std::io::ErrorKind::NotADirectory).into(), ExitClass::Refused),
            (FsError::Store(StoreError::Locked { dir: dir(), pid: 1 }).into(), ExitClass::Conflict),
            (
                FsError::Store(StoreError::NewerFormat { dir: dir(), found: 2, supported: 1 }).into(),
                ExitClass::Refused,
            ),
            (FsError::Store(StoreError::Corrupt { what: name() }).into(), ExitClass::Integrity),
            (FsError::NoSpace.into(), ExitClass::Failed),
            (MountError::Missing { mountpoint: dir() }.into(), ExitClass::NotFound),
            (MountError::NotDirectory { mountpoint: dir() }.into(), ExitClass::Refused),
            (MountError::Busy { mountpoint: dir() }.into(), ExitClass::Conflict),
            (MountError::AlreadyMounted { mountpoint: dir() }.into(), ExitClass::Conflict),
            (FsError::LowerMissing { path: dir() }.into(), ExitClass::NotFound),
            (ApiError::NoUring, ExitClass::Refused),
            (ApiError::NotMounted { target: name() }, ExitClass::NotFound),
            (ApiError::ShuttingDown, ExitClass::Conflict),
            (ApiError::OtherRequest { id: RequestId([0; 16]) }, ExitClass::Conflict),
        ];
        for (error, class) in table {
            assert_eq!(classify(&error), class, "{error}");
        }
    }

    #[test]
    fn only_what_stays_refused_is_kept_as_refused() {
        let name = || "web".to_owned();
        for lasting in [
            ApiError::from(FsError::VolumeExists { name: name() }),
            FsError::VolumeNotFound { name: name() }.into(),
            ApiError::NoUring,
        ] {
            assert!(is_final(&lasting), "{lasting}");
        }
        for passing in [
            ApiError::ShuttingDown,
            FsError::NoSpace.into(),
            FsError::Retired.into(),
            ApiError::Panicked { call: "x" },
        ] {
            assert!(!is_final(&passing), "{passing}");
        }
    }

    #[test]
    fn only_a_daemon_that_ends_asks_to_be_tried_again() {
        assert_eq!(report("mount", &ApiError::ShuttingDown).code(), Code::Unavailable);
        assert_eq!(report("mount", &FsError::Retired.into()).code(), Code::FailedPrecondition);
    }

    #[test]
    fn a_long_message_is_told_once_and_not_without_end() {
        let fault = |length| ApiError::from(FsError::VolumeNotFound { name: "ä".repeat(length) });
        let status = report("x", &fault(10_000));
        assert!(status.message().len() <= MESSAGE + '…'.len_utf8() && status.message().ends_with('…'));
        assert!(detail(&fault(10_000)).message.contains(&"ä".repeat(10_000)));
        let endless = detail(&fault(LARGEST_TEXT)).message;
        assert!(endless.len() <= LARGEST_TEXT + '…'.len_utf8() && endless.ends_with("ä…"));
    }

    #[test]
    fn a_client_is_told_class_message_and_causes() {
        let source = io(std::io::ErrorKind::PermissionDenied);
        let error = MountError::Unusable { mountpoint: PathBuf::from("/d"), source };
        let status = report("mount", &error.into());
        assert_eq!(status.code(), Code::Internal);
        let detail = status.metadata().get_bin(ERROR_DETAIL_KEY).unwrap().to_bytes().unwrap();
        let detail = ErrorDetail::decode(detail).unwrap();
        assert_eq!(detail.exit_class(), crate::proto::ExitClass::Failed);
        assert_eq!(detail.message, "mount point /d");
        assert_eq!(detail.causes, ["permission denied"]);
    }
}
