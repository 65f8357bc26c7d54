//! Why something was not done with an actor.

use std::io;
use std::path::PathBuf;

use durdir_fs::ids::CaptureId;

use super::state::{OperationKind, State};
use crate::runtime::RuntimeError;
use crate::template::Scope;

/// Something that was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActorError {
    /// There is no such actor.
    #[error("actor {id} does not exist; `durdir actor ls` lists what does")]
    NotFound {
        /// Its id.
        id: String,
    },
    /// There is one.
    #[error("actor {id} exists already; choose another id")]
    Exists {
        /// Its id.
        id: String,
    },
    /// An id that no actor can have.
    #[error("{id:?} cannot be the id of an actor: {why}")]
    BadId {
        /// As it was given.
        id: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something else is being done with it.
    #[error("actor {id} is {}; try again when that is done", doing.participle())]
    Busy {
        /// The actor.
        id: String,
        /// What is being done.
        doing: OperationKind,
    },
    /// It makes no sense where the actor stands.
    #[error("actor {id} is {state}: {remedy}")]
    Misplaced {
        /// The actor.
        id: String,
        /// What people see of it.
        state: State,
        /// What can be done.
        remedy: &'static str,
    },
    /// There is no such capture.
    #[error("there is no committed capture {id} on this node; `durdir actor commit` makes one")]
    NoCommit {
        /// Its id, as it was given.
        id: String,
    },
    /// Only what is committed can be forked.
    #[error(
        "capture {id} is not committed, and only that can be forked; `durdir actor commit {actor}` makes one that is"
    )]
    NotCommitted {
        /// The capture.
        id: CaptureId,
        /// Its actor.
        actor: String,
    },
    /// A scope that does not exist.
    #[error("there is no scope {name:?}; it is Full, Data or None")]
    UnknownScope {
        /// As it was given.
        name: String,
    },
    /// A kind of capture that does not exist.
    #[error("{name:?} is no kind of capture: pause, suspend and commit are")]
    UnknownKind {
        /// What was asked for.
        name: String,
    },
    /// More was asked for than there is.
    #[error("{what} holds {has}, and cannot be widened to {asked}; `--scope {has}` takes what there is")]
    Widened {
        /// The capture or setting.
        what: String,
        /// What it holds.
        has: Scope,
        /// What was asked for.
        asked: Scope,
    },
    /// There is nothing that could be captured.
    #[error("actor {id}: {why}")]
    NothingToCapture {
        /// The actor.
        id: String,
        /// Why.
        why: &'static str,
    },
    /// A fork whose template does not fit the capture.
    #[error("capture {id} cannot become that actor: {why}")]
    Unfit {
        /// The capture.
        id: CaptureId,
        /// Why.
        why: String,
    },
    /// A capture cannot be gone on from here: it is whole, and does not belong to what is here.
    #[error("capture {id} does not belong to {what}; nothing was changed{}", remedy.as_deref().map_or(String::new(), |remedy| format!(", {remedy}")))]
    Mismatched {
        /// The capture.
        id: CaptureId,
        /// What is here.
        what: String,
        /// What helps.
        remedy: Option<String>,
    },
    /// A capture is not what was captured.
    #[error("capture {id} is damaged: {what}; nothing was changed")]
    Damaged {
        /// The capture.
        id: CaptureId,
        /// What is wrong.
        what: String,
    },
    /// The runtime refused or failed.
    #[error("actor {id}")]
    Runtime {
        /// The actor.
        id: String,
        /// What the runtime said.
        source: RuntimeError,
    },
    /// A container is not running that must.
    #[error("actor {id}: container {container} has ended{}; `durdir actor start` starts it anew", status.map_or(String::new(), |code| format!(" with status {code}")))]
    Exited {
        /// The actor.
        id: String,
        /// The container.
        container: String,
        /// Its exit status, if known.
        status: Option<i32>,
    },
    /// A volume is not there any more, for which it ran.
    #[error("actor {id}: its volume {volume} is not mounted any more: the daemon that served it is gone")]
    Unmounted {
        /// The actor.
        id: String,
        /// The volume.
        volume: String,
    },
    /// There is no sandbox where there must be one.
    #[error("actor {id}: its sandbox is gone; `durdir actor start` starts it anew")]
    Gone {
        /// The actor.
        id: String,
    },
    /// A committed capture could not be brought to its place.
    #[error("publish capture {id}")]
    Publish {
        /// The capture.
        id: CaptureId,
        /// Why.
        source: durdir_snapshot::TargetError,
    },
    /// The disk of the store has no room for the memory.
    #[error("actor {id}: its memory, up to {} MiB, does not fit on the disk of the store; free some room, or `--scope Data` captures its volumes", bytes.div_ceil(1 << 20))]
    NoRoom {
        /// The actor.
        id: String,
        /// What its sandbox has in memory.
        bytes: u64,
    },
    /// The place that committed captures go to does not answer.
    #[error("capture {id}: its location did not answer within {} s", limit.as_secs())]
    NoAnswer {
        /// The capture.
        id: CaptureId,
        /// How long that was tried.
        limit: std::time::Duration,
    },
    /// Committed captures cannot go there.
    #[error("commits cannot go to {location}: only file:///DIRECTORY is known to this version")]
    NoTarget {
        /// As the template has it.
        location: String,
    },
    /// A mount is where none may be.
    #[error("{} is still mounted below {}; nothing was removed", mounted.display(), directory.display())]
    StillMounted {
        /// The mount.
        mounted: PathBuf,
        /// What was to be removed.
        directory: PathBuf,
    },
    /// A file of an actor could not be written or read.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },
    /// A volume or snapshot belongs to an actor.
    #[error("{what} belongs to actor {actor}; {remedy}")]
    Owned {
        /// The volume or snapshot.
        what: String,
        /// The actor.
        actor: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// What is stored of the actor could not be read when mountd started.
    #[error("what is stored of actor {id} cannot be read; the log of mountd tells more")]
    Unreadable {
        /// The actor.
        id: String,
    },
}
