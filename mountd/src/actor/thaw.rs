//! Letting sandboxes go on that a worker left paused, where no worker comes to do it.
//!
//! # Overview
//! The next worker brings every actor where its record says it should be, within a moment of the death of the last one. This is for the
//! case that none gets that far: the store cannot be opened, the disk is full, the program is broken. It needs no store: what it must
//! know lies in a note beside the sandbox.
//!
//! ```text
//!   note ─▶ pause ─▶ … ─▶ capture there ─▶ … ─▶ operation over ─▶ note removed
//!   └─────── the sandbox goes on ─────┘└─ a pause: it is over with; a commit: it goes on ─┘
//! ```
//!
//! # Invariants
//! - No sandbox is let go on while a worker has the store: it may be in the middle of a capture. The store's lock is held meanwhile, so
//!   that none begins either.
//! - A capture after which the sandbox is ended is not disturbed once it is there: what the sandbox did from then on would be lost. One that is not
//!   there loses its manifest before the sandbox goes on, or a host that loses power after that would take it for whole.
//!
//! # Crash consistency
//! A note is not synced: a host that loses power has no sandboxes afterwards. One that is left over leads to a sandbox that is not
//! paused, which is left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use durdir_fs::store::{StoreError, StoreLock};
use durdir_snapshot::sync_directory;
use serde::{Deserialize, Serialize};

use super::directory::{ActorDirectory, ActorsDirectory, CaptureDirectory, failed};
use super::error::ActorError;
use super::world::limits;
use crate::exit::one_line;
use crate::runtime::{Runtime, RuntimeError, Sandbox, SandboxState, choose};

/// The version of a note. Another one is not understood.
const VERSION: u32 = 1;

/// How long nobody may have seen to a sandbox before it is let go on: a worker that is restarted needs a fraction.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// What is needed to let a sandbox go on.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    version: u32,
    runtime: String,
    sandbox: Sandbox,
    /// The sandbox is ended, and not let go on, once this file is there: a manifest.
    over_with: Option<PathBuf>,
    /// And this one is not.
    #[serde(default)]
    unless: Option<PathBuf>,
}

impl Note {
    /// `over_with`: a capture after which the sandbox is ended.
    pub(super) fn new(runtime: &str, sandbox: Sandbox, over_with: Option<&CaptureDirectory>) -> Note {
        Note {
            version: VERSION,
            runtime: runtime.to_owned(),
            sandbox,
            over_with: over_with.map(CaptureDirectory::manifest),
            unless: over_with.map(CaptureDirectory::unsynced),
        }
    }

    /// Tells whether the sandbox is to be ended.
    fn is_over(&self) -> bool {
        let is_there = |path: &Option<PathBuf>| path.as_deref().is_some_and(Path::exists);
        is_there(&self.over_with) && !is_there(&self.unless)
    }

    /// Takes the manifest away of a capture that is not there.
    fn unbind(&self) -> io::Result<()> {
        let Some(manifest) = &self.over_with else { return Ok(()) };
        match fs::remove_file(manifest) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| manifest.parent().map_or(Ok(()), sync_directory)),
        }
    }

    /// Writes it beside the sandbox, which is paused after that. It is there as a whole or not at all.
    pub(super) fn write(&self, directory: &ActorDirectory) -> Result<(), ActorError> {
        let path = directory.paused_note();
        let draft = path.with_extension("new");
        // A path that is not UTF-8 cannot be told in it: then nothing is paused.
        let bytes = serde_json::to_vec(self).map_err(io::Error::from);
        let written =
            bytes.and_then(|bytes| fs::write(&draft, bytes)).and_then(|()| fs::rename(&draft, &path));
        written.map_err(|error| failed("write", &path, error))
    }

    /// Removes it, if it is there.
    pub(super) fn remove(directory: &ActorDirectory) -> Result<(), ActorError> {
        let path = directory.paused_note();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Reads one, if it is there and old enough.
    fn due(path: &Path) -> Result<Option<Note>, NoteError> {
        let read = |error| NoteError::Read { path: path.to_owned(), source: error };
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata.map_err(read)?,
        };
        // A clock that was set back must not keep a sandbox paused.
        let age = metadata.modified().map(|at| SystemTime::now().duration_since(at).unwrap_or(PATIENCE));
        if age.map_err(read)? < PATIENCE {
            return Ok(None);
        }
        let note: Note = serde_json::from_slice(&fs::read(path).map_err(read)?)
            .map_err(|source| NoteError::Parse { path: path.to_owned(), source })?;
        Ok(Some(note).filter(|note| note.version == VERSION && !note.is_over()))
    }

    /// Lets the sandbox go on if it is paused. Returns whether it was.
    fn act(&self, choose: &ChooseRuntime) -> Result<bool, RuntimeError> {
        let runtime = choose(&self.runtime)?;
        match runtime.state(&self.sandbox, limits::state())? {
            SandboxState::Paused => {}
            // It may be paused, without the one that has ended.
            SandboxState::Exited { container, .. } if !self.sandbox.ends_with(&container) => {}
            _ => return Ok(false),
        }
        if let Err(error) = self.unbind() {
            // Where nothing can be removed nothing is written either: the sandbox does nothing that could be lost.
            tracing::error!(error = one_line(&error), "the manifest of a capture that is none stays");
        }
        runtime.resume(&self.sandbox, limits::resume()).map(|()| true)
    }
}

/// Why a note leads nowhere.
#[derive(Debug, thiserror::Error)]
enum NoteError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("parse {}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

type ChooseRuntime = dyn Fn(&str) -> Result<Arc<dyn Runtime>, RuntimeError> + Sync;

/// What became of the sandboxes of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Thawed {
    /// How many go on.
    pub(crate) resumed: usize,
    /// How many could not be looked at, or do not go on.
    pub(crate) failed: usize,
}

/// Lets every sandbox of a store go on that was left paused for [`PATIENCE`].
///
/// # Errors
/// Somebody has the store, and sees to its sandboxes.
pub(crate) fn thaw(store: &Path) -> Result<Thawed, StoreError> {
    thaw_with(store, &|name| choose(name).map(Arc::from))
}

fn thaw_with(store: &Path, choose: &ChooseRuntime) -> Result<Thawed, StoreError> {
    let _nobody_else = StoreLock::take(store)?;
    let directory = ActorsDirectory::of_store(store);
    let actors = directory.list().unwrap_or_else(|error| {
        tracing::error!(error = one_line(&error), "cannot look for sandboxes that were left paused");
        Vec::new()
    });
    // Beside each other: a runtime that hangs must not keep another's sandbox.
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> = actors
            .iter()
            .map(|actor| (actor, directory.of(actor).paused_note()))
            .map(|(actor, path)| (actor, scope.spawn(move || go_on(&path, choose))))
            .collect();
        let joined = |(actor, thread): (_, std::thread::ScopedJoinHandle<'_, _>)| (actor, thread.join());
        started.into_iter().map(joined).collect()
    });
    let mut thawed = Thawed::default();
    for (actor, outcome) in outcomes {
        match outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!(
                    actor,
                    "an actor that was left paused goes on, though nobody serves its volumes yet"
                );
                thawed.resumed += 1;
            }
            Err(error) => {
                tracing::error!(
                    actor,
                    error = one_line(&error),
                    "an actor that was left paused does not go on"
                );
                thawed.failed += 1;
            }
        }
    }
    Ok(thawed)
}

fn go_on(note: &Path, choose: &ChooseRuntime) -> Result<bool, NoteError> {
    match Note::due(note)? {
        Some(note) => Ok(note.act(choose)?),
        None => Ok(false),
    }
}
