//! Where an actor stands, and what is being done with it.
//!
//! ```text
//!            start                 pause                    suspend
//!  created ────────▶ running ────────────────▶ paused ────────────────▶ suspended
//!     ▲              ▲  │  ▲                      │                         │
//!   create           │  │  └───────── resume ─────┴──────── resume ─────────┤
//!                    │  ├──────────────────────── suspend ─────────────────▶┤
//!              start │  ▼ its container ended, or the host went down         ▲
//!                    exited                                               fork
//!
//!  commit: from anywhere, back to the same.      rm: from anywhere, to nothing.
//! ```
//! Each arrow is an [`Operation`]. An actor *stands* where it stood until the operation is done: an operation that fails, or whose
//! worker dies, leaves it there. What people see while one is in hand is [`State`]: `pausing`, `resuming`.
//!
//! # Invariants
//! - A step of an operation is stored before the effect that it names begins.
//! - An actor that stands at `running` has a sandbox that runs, unless a capture is in hand that has stopped it.

use std::fmt;

use durdir_fs::ids::{CaptureId, Epoch, VolumeId};
use serde::{Deserialize, Serialize};

use super::names;
use super::phases::Phases;
use crate::template::Scope;

/// Where an actor stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Standing {
    /// It never ran.
    Created,
    /// Its sandbox runs.
    Running,
    /// It is stopped, and its capture is on this node.
    Paused,
    /// It is stopped, and its capture is committed.
    Suspended,
    /// It ended by itself. Its volumes are as it left them.
    Exited {
        /// What happened.
        reason: String,
    },
}

/// What is being done with an actor, and how far it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub(crate) enum Operation {
    /// Its new volumes are cut, so that it can go back to their beginning.
    Birth,
    /// Its programs are started.
    Start {
        /// Tells it from every other.
        id: String,
    },
    /// A pause, a suspend or a commit.
    Capture(Capturing),
    /// It goes on from its checkpoint.
    Resume {
        /// Tells it from every other.
        id: String,
    },
    /// It is being removed.
    Remove,
}

impl Operation {
    /// Returns what tells it from every other; `None` for one that is done once by its nature.
    pub(crate) fn id(&self) -> Option<String> {
        match self {
            Operation::Birth | Operation::Remove => None,
            Operation::Start { id } | Operation::Resume { id } => Some(id.clone()),
            Operation::Capture(capturing) => Some(capturing.id.to_string()),
        }
    }

    /// Returns what it does to the actor.
    pub(crate) fn kind(&self) -> OperationKind {
        match self {
            Operation::Birth => OperationKind::Create,
            Operation::Start { .. } => OperationKind::Start,
            Operation::Capture(capturing) => match capturing.kind {
                CaptureKind::Pause => OperationKind::Pause,
                CaptureKind::Suspend => OperationKind::Suspend,
                CaptureKind::Commit | CaptureKind::Birth => OperationKind::Commit,
            },
            Operation::Resume { .. } => OperationKind::Resume,
            Operation::Remove => OperationKind::Remove,
        }
    }
}

/// A capture that is being made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Capturing {
    /// What it will be called.
    #[serde(with = "names::capture_id")]
    pub(crate) id: CaptureId,
    /// What for.
    pub(crate) kind: CaptureKind,
    /// What it holds.
    #[serde(with = "names::scope")]
    pub(crate) scope: Scope,
    /// How far it is.
    pub(crate) step: CaptureStep,
    /// The capture it is narrowed from, where the actor does not run.
    #[serde(with = "names::optional_capture_id")]
    pub(crate) from: Option<CaptureId>,
    /// The ends of epochs that it holds, once they are cut.
    pub(crate) cut: Vec<Held>,
    /// How long its phases took, as of when it was bound.
    #[serde(default)]
    pub(crate) phases: Phases,
}

/// What a capture is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CaptureKind {
    /// What new volumes begin with. Nobody sees it.
    Birth,
    /// To go on from on this node.
    Pause,
    /// To go on from anywhere, and to be forked.
    Suspend,
    /// To be forked, while the actor goes on.
    Commit,
}

impl CaptureKind {
    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            CaptureKind::Birth => "birth",
            CaptureKind::Pause => "pause",
            CaptureKind::Suspend => "suspend",
            CaptureKind::Commit => "commit",
        }
    }

    /// Tells whether it goes to permanent storage.
    pub(crate) fn is_committed(self) -> bool {
        matches!(self, CaptureKind::Suspend | CaptureKind::Commit)
    }
}

/// The steps of a capture, in their order; not every capture takes each of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CaptureStep {
    /// The sandbox is paused, and shared mappings are written out.
    Quiesce,
    /// Its memory is written.
    Save,
    /// The epochs of all volumes end.
    Cut,
    /// The manifest is written: when it is there, so is the capture.
    Bind,
    /// A commit lets the sandbox go on.
    Resume,
    /// A committed capture is brought to its permanent place.
    Publish,
    /// A pause or suspend takes the sandbox away.
    TearDown,
    /// One that could not be published is taken back.
    Withdraw,
}

/// The end of an epoch that a capture holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// The volume's name in the template.
    pub(crate) name: String,
    /// The volume.
    #[serde(with = "names::volume_id")]
    pub(crate) volume: VolumeId,
    /// The epoch that ended.
    #[serde(with = "names::epoch")]
    pub(crate) epoch: Epoch,
    /// Whether the snapshot was made for captures.
    pub(crate) owned: bool,
}

/// What can be done with an actor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OperationKind {
    /// It is being made.
    Create,
    /// `durdir actor start`
    Start,
    /// `durdir actor pause`
    Pause,
    /// `durdir actor resume`
    Resume,
    /// `durdir actor suspend`
    Suspend,
    /// `durdir actor commit`
    Commit,
    /// `durdir actor rm`
    Remove,
}

impl OperationKind {
    /// Returns what an actor is while this is done.
    pub(crate) fn participle(self) -> &'static str {
        match self {
            OperationKind::Create => "creating",
            OperationKind::Start => "starting",
            OperationKind::Pause => "pausing",
            OperationKind::Resume => "resuming",
            OperationKind::Suspend => "suspending",
            OperationKind::Commit => "committing",
            OperationKind::Remove => "removing",
        }
    }
}

/// What people see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State(&'static str);

impl State {
    /// Returns the state of an actor that stands somewhere while something is done with it, or nothing.
    pub(crate) fn of(standing: &Standing, operation: Option<&Operation>) -> State {
        State(match operation {
            Some(operation) => operation.kind().participle(),
            None => match standing {
                Standing::Created => "created",
                Standing::Running => "running",
                Standing::Paused => "paused",
                Standing::Suspended => "suspended",
                Standing::Exited { .. } => "exited",
            },
        })
    }

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_in_hand_is_what_people_see() {
        let capturing = Capturing {
            id: CaptureId([1; 16]),
            kind: CaptureKind::Pause,
            scope: Scope::Full,
            step: CaptureStep::Save,
            from: None,
            cut: Vec::new(),
            phases: Phases::default(),
        };
        let pausing = Operation::Capture(capturing);
        assert_eq!(State::of(&Standing::Running, Some(&pausing)).name(), "pausing");
        assert_eq!(State::of(&Standing::Running, None).name(), "running");
        let exited = Standing::Exited { reason: "x".to_owned() };
        assert_eq!(State::of(&exited, None).name(), "exited");
    }

    #[test]
    fn what_is_stored_of_an_operation_is_read_again() {
        let held = Held { name: "home".to_owned(), volume: VolumeId(3), epoch: Epoch(4), owned: true };
        let capturing = Capturing {
            id: CaptureId([1; 16]),
            kind: CaptureKind::Suspend,
            scope: Scope::Data,
            step: CaptureStep::TearDown,
            from: Some(CaptureId([2; 16])),
            cut: vec![held],
            phases: Phases::default(),
        };
        for operation in [
            Operation::Birth,
            Operation::Start { id: "s".to_owned() },
            Operation::Capture(capturing),
            Operation::Resume { id: "r".to_owned() },
            Operation::Remove,
        ] {
            let stored = serde_json::to_string(&operation).unwrap();
            assert_eq!(serde_json::from_str::<Operation>(&stored).unwrap(), operation, "{stored}");
        }
        assert!(CaptureStep::Quiesce < CaptureStep::Bind && CaptureStep::Bind < CaptureStep::TearDown);
    }
}
