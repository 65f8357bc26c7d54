//! What is stored of an actor and of a capture: the documents in the store's records, and what is kept of them in memory.
//!
//! # On disk
//! JSON in the records `0x31` and `0x32` of `docs/on-disk.md`. `version` is raised when older code would misread what newer code
//! wrote; a document of another version is refused, and harms nobody else. Fields that are not known are passed over.

use std::sync::Arc;

use durdir_fs::attr::Timestamp;
use durdir_fs::ids::{CaptureId, VolumeId};
use durdir_fs::store::ActorRecords;
use durdir_fs::store::record::{Actor as ActorRecord, Capture as CaptureRecord, CapturedV1};
use serde::{Deserialize, Serialize};

use super::names;
use super::phases::Phases;
use super::recipe::Recipe;
use super::state::{CaptureKind, Held, Operation, Standing, State};
use crate::template::Scope;

const VERSION: u32 = 1;

/// An actor, as it is stored and as it is kept in memory.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    /// Its name: a DNS label.
    pub(crate) id: String,
    /// When it was made.
    pub(crate) created: Timestamp,
    /// Its volumes, in the order of the template.
    pub(crate) volumes: Vec<VolumeId>,
    /// What its template asks for.
    pub(crate) recipe: Arc<Recipe>,
    /// Everything else.
    pub(crate) document: ActorDocument,
}

/// The document of an actor.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct ActorDocument {
    version: u32,
    /// Names its sandbox among those of the host.
    pub(crate) sandbox: String,
    /// The template, as it was stored: JSON with all defaults.
    pub(crate) template: String,
    /// Where it stands.
    pub(crate) standing: Standing,
    /// What is being done with it.
    pub(crate) operation: Option<Operation>,
    /// What it goes on from.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// What its new volumes began with, where it may have to go back to that.
    #[serde(with = "names::optional_capture_id")]
    pub(crate) birth: Option<CaptureId>,
    /// The capture that was made last.
    pub(crate) last_capture: Option<CaptureView>,
    /// The start or resume that was done last.
    pub(crate) done: Option<DoneView>,
}

/// What an actor goes on from: a capture, and where its own volumes are as that has them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The capture.
    #[serde(with = "names::capture_id")]
    pub(crate) capture: CaptureId,
    /// What it holds.
    #[serde(with = "names::scope")]
    pub(crate) scope: Scope,
    /// The actor's own volumes at that moment.
    pub(crate) volumes: Vec<Held>,
}

/// A capture, for people.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct CaptureView {
    /// What it is called.
    pub(crate) id: String,
    /// What for.
    pub(crate) kind: CaptureKind,
    /// What it holds.
    #[serde(with = "names::scope")]
    pub(crate) scope: Scope,
    /// How long its phases took.
    pub(crate) phases: Phases,
}

/// A start or resume that was done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct DoneView {
    /// Which.
    pub(crate) id: String,
    /// How long its phases took.
    pub(crate) phases: Phases,
    /// What was gone on from, if anything was.
    #[serde(default)]
    pub(crate) from: Option<Box<CaptureView>>,
}

/// A record that was read, and makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("its document does not parse")]
    Syntax(#[from] serde_json::Error),
    #[error("its document has version {found}; this mountd reads {VERSION}")]
    Version { found: u32 },
    #[error("its template: {why}")]
    Template { why: String },
}

impl ActorDocument {
    /// Returns that of a new actor.
    pub(crate) fn new(sandbox: String, template: String) -> ActorDocument {
        ActorDocument {
            version: VERSION,
            sandbox,
            template,
            standing: Standing::Created,
            operation: None,
            checkpoint: None,
            birth: None,
            last_capture: None,
            done: None,
        }
    }
}

impl Actor {
    /// Reads a record.
    pub(crate) fn decode(id: &str, record: &ActorRecord) -> Result<Actor, RecordError> {
        let document: ActorDocument = serde_json::from_slice(&record.document)?;
        if document.version != VERSION {
            return Err(RecordError::Version { found: document.version });
        }
        let recipe = Recipe::parse(&document.template).map_err(|why| RecordError::Template { why })?;
        Ok(Actor {
            id: id.to_owned(),
            created: record.created,
            volumes: record.volumes.clone(),
            recipe: Arc::new(recipe),
            document,
        })
    }

    /// Returns the record.
    pub(crate) fn encode(&self) -> ActorRecord {
        let document = serde_json::to_vec(&self.document).expect("strings and numbers are JSON");
        ActorRecord { created: self.created, volumes: self.volumes.clone(), document }
    }

    /// Returns what people see.
    pub(crate) fn state(&self) -> State {
        State::of(&self.document.standing, self.document.operation.as_ref())
    }

    /// Returns the store's name of one of its volumes.
    pub(crate) fn volume_name(&self, volume: &str) -> String {
        volume_name(&self.id, volume)
    }

    /// Returns its volumes: their names in the template, and which they are.
    pub(crate) fn named_volumes(&self) -> impl Iterator<Item = (&str, VolumeId)> {
        self.recipe.volumes.iter().map(|volume| volume.name.as_str()).zip(self.volumes.iter().copied())
    }
}

/// Returns the store's name of an actor's volume. Neither an actor's id nor a volume's name has a dot in it.
pub(crate) fn volume_name(actor: &str, volume: &str) -> String {
    format!("{actor}.{volume}")
}

/// Describes a record that a newer version has written, if there is one. What does not parse is none.
pub(crate) fn newer_document(records: &ActorRecords) -> Option<String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let newer = |document: &[u8]| {
        let found = serde_json::from_slice::<Versioned>(document).ok()?.version;
        (found > VERSION).then_some(found)
    };
    let told = |what: String, found: u32| {
        format!("{what} has version {found}, the newest that is known is {VERSION}")
    };
    let mut of_actors = records.actors.iter().filter_map(|(id, record)| {
        newer(&record.document).map(|found| told(format!("the document of actor {id}"), found))
    });
    let mut of_captures = records.captures.iter().filter_map(|(id, record)| {
        newer(&record.document).map(|found| told(format!("the document of capture {id}"), found))
    });
    of_actors.next().or_else(|| of_captures.next())
}

/// A capture, as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    pub(crate) id: CaptureId,
    pub(crate) created: Timestamp,
    /// Every snapshot that it needs: of the actor's volumes, and of those that stand for a committed capture.
    pub(crate) snapshots: Vec<CapturedV1>,
    pub(crate) document: CaptureDocument,
}

/// The document of a capture.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct CaptureDocument {
    version: u32,
    /// The actor that it is of. It may be gone.
    pub(crate) actor: String,
    /// What for.
    pub(crate) kind: CaptureKind,
    /// What it holds.
    #[serde(with = "names::scope")]
    pub(crate) scope: Scope,
    /// The BLAKE3 of its manifest, in hexadecimal.
    pub(crate) manifest: String,
    /// The template that it can be restored with, where nothing else is given.
    pub(crate) template: String,
    /// The URL of the place that it was brought to. `None`: it is in the actor's directory.
    pub(crate) location: Option<String>,
    /// The volumes that stand for it once it is committed: what forks begin with.
    pub(crate) published: Vec<Held>,
    /// Whether its actor goes on from another one by now.
    pub(crate) replaced: bool,
    /// Snapshots that it needs no more, and that are yet to be removed.
    pub(crate) dropping: Vec<Held>,
    /// The URL of the place from which it, or half of it, is yet to be taken away.
    #[serde(default)]
    pub(crate) withdrawing: Option<String>,
}

impl CaptureDocument {
    /// Returns that of a capture that was just bound.
    pub(crate) fn new(actor: &Actor, kind: CaptureKind, scope: Scope, manifest: String) -> CaptureDocument {
        let template = actor.document.template.clone();
        CaptureDocument { manifest, template, ..CaptureDocument::of(&actor.id, kind, scope) }
    }

    /// Returns that of a capture of which nothing else is known.
    pub(super) fn of(actor: &str, kind: CaptureKind, scope: Scope) -> CaptureDocument {
        CaptureDocument {
            version: VERSION,
            actor: actor.to_owned(),
            kind,
            scope,
            manifest: String::new(),
            template: String::new(),
            location: None,
            published: Vec::new(),
            replaced: false,
            dropping: Vec::new(),
            withdrawing: None,
        }
    }
}

impl Capture {
    /// Reads a record.
    pub(crate) fn decode(id: CaptureId, record: &CaptureRecord) -> Result<Capture, RecordError> {
        let document: CaptureDocument = serde_json::from_slice(&record.document)?;
        if document.version != VERSION {
            return Err(RecordError::Version { found: document.version });
        }
        Ok(Capture { id, created: record.created, snapshots: record.snapshots.clone(), document })
    }

    /// Returns the record.
    pub(crate) fn encode(&self) -> CaptureRecord {
        let document = serde_json::to_vec(&self.document).expect("strings and numbers are JSON");
        CaptureRecord { created: self.created, snapshots: self.snapshots.clone(), document }
    }

    /// Tells whether it was brought to permanent storage, and outlives its actor.
    pub(crate) fn is_committed(&self) -> bool {
        self.document.location.is_some()
    }
}

/// Returns ends of epochs as the store keeps them.
pub(crate) fn captured<'a>(held: impl IntoIterator<Item = &'a Held>) -> Vec<CapturedV1> {
    let captured =
        held.into_iter().map(|held| CapturedV1 { volume: held.volume, epoch: held.epoch, owned: held.owned });
    captured.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_of_another_version_is_refused() {
        let mut document = ActorDocument::new("s".to_owned(), String::new());
        document.version = 2;
        let record = ActorRecord {
            created: Timestamp::default(),
            volumes: Vec::new(),
            document: serde_json::to_vec(&document).unwrap(),
        };
        let refused = Actor::decode("a", &record).unwrap_err();
        assert!(matches!(refused, RecordError::Version { found: 2 }), "{refused}");
        let record = ActorRecord { document: b"[]".to_vec(), ..record };
        assert!(matches!(Actor::decode("a", &record), Err(RecordError::Syntax(_))));
    }
}
