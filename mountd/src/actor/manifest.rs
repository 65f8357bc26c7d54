//! The manifest of a capture: what belongs together, with hashes.
//!
//! # On disk
//! `manifest.json`, beside the files that it names. `format` is raised when older code would misread it. It is written last: a capture
//! without one does not exist. Its own BLAKE3 is in the capture's record, so that one which was edited, or comes from elsewhere, is
//! noticed.

use std::io;
use std::path::Path;

use durdir_fs::ids::CaptureId;
use durdir_snapshot::read_small;
use serde::{Deserialize, Serialize};

use super::error::ActorError;
use super::image::{ImageFile, names_in};
use super::names;
use super::record::Actor;
use super::state::Held;
use crate::template::Scope;

const FORMAT: u32 = 1;

/// What belongs together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    /// What the capture is called.
    #[serde(with = "names::capture_id")]
    pub(crate) id: CaptureId,
    /// The actor that it is of.
    pub(crate) actor: String,
    /// What it holds.
    #[serde(with = "names::scope")]
    pub(crate) scope: Scope,
    /// The family of runtimes that saved the memory.
    pub(crate) sandbox_class: String,
    /// What saved the memory; `None` where there is none.
    pub(crate) runtime: Option<RuntimeVersion>,
    /// The BLAKE3 of the template.
    pub(crate) template: String,
    /// The end of the epoch of each volume that belongs to it.
    pub(crate) volumes: Vec<Held>,
    /// The files of the memory image, in the order of their names.
    pub(crate) files: Vec<ImageFile>,
}

/// A runtime and its version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RuntimeVersion {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// What a manifest is made of.
pub(crate) struct Contents<'a> {
    pub(crate) id: CaptureId,
    pub(crate) actor: &'a str,
    pub(crate) scope: Scope,
    pub(crate) sandbox_class: &'a str,
    pub(crate) runtime: Option<RuntimeVersion>,
    pub(crate) template: &'a str,
    pub(crate) volumes: &'a [Held],
    pub(crate) files: Vec<ImageFile>,
}

impl Manifest {
    /// Returns the manifest of a capture.
    pub(crate) fn of(contents: Contents<'_>) -> Manifest {
        Manifest {
            format: FORMAT,
            id: contents.id,
            actor: contents.actor.to_owned(),
            scope: contents.scope,
            sandbox_class: contents.sandbox_class.to_owned(),
            runtime: contents.runtime,
            template: contents.template.to_owned(),
            volumes: contents.volumes.to_vec(),
            files: contents.files,
        }
    }

    /// Returns its bytes, and their hash.
    pub(crate) fn encode(&self) -> (Vec<u8>, String) {
        let mut bytes = serde_json::to_vec_pretty(self).expect("strings and numbers are JSON");
        bytes.push(b'\n');
        let hash = hash_of(&bytes);
        (bytes, hash)
    }

    /// Reads a manifest that has this hash.
    pub(crate) fn decode(id: CaptureId, bytes: &[u8], hash: &str) -> Result<Manifest, ActorError> {
        let damaged = |what: &str| ActorError::Damaged { id, what: what.to_owned() };
        if hash_of(bytes) != hash {
            return Err(damaged("its manifest is not the one that was written"));
        }
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|_| damaged("its manifest does not parse"))?;
        if manifest.format != FORMAT {
            let what = format!(
                "this version of mountd: its manifest has format {}, and {FORMAT} is known",
                manifest.format
            );
            return Err(ActorError::Mismatched { id, what, remedy: None });
        }
        if manifest.id != id {
            return Err(damaged("its manifest is one of another capture"));
        }
        Ok(manifest)
    }

    /// Reads a manifest whose hash is not on record yet, and returns that too; `None` if there is none.
    pub(crate) fn found(id: CaptureId, path: &Path) -> Result<Option<(Manifest, String)>, ActorError> {
        match read_small(path) {
            Ok(bytes) => {
                let hash = hash_of(&bytes);
                Ok(Some((Manifest::decode(id, &bytes, &hash)?, hash)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ActorError::Io { action: "read", path: path.to_owned(), source }),
        }
    }

    /// Checks that one whose hash was on nobody's record is of this actor, and about its volumes alone.
    pub(crate) fn check_is_of(&self, actor: &Actor, scope: Scope) -> Result<(), ActorError> {
        let is_own = |held: &Held| {
            let mut volumes = actor.named_volumes();
            volumes.any(|(name, volume)| held.name == name && held.volume == volume)
        };
        if self.actor == actor.id && self.scope == scope && self.volumes.iter().all(is_own) {
            return Ok(());
        }
        let what = "its manifest is not of what was being captured".to_owned();
        Err(ActorError::Damaged { id: self.id, what })
    }

    /// Checks that the files in `image` are those that were saved: all of them, nothing else, byte for byte.
    pub(crate) fn check_files(&self, image: &Path) -> Result<(), ActorError> {
        let damaged = |what: String| Err(ActorError::Damaged { id: self.id, what });
        let there = if self.files.is_empty() { Vec::new() } else { names_in(image)? };
        if let Some(more) = there.iter().find(|name| !self.files.iter().any(|file| file.name == **name)) {
            return damaged(format!("{more} does not belong to it"));
        }
        for file in &self.files {
            if !there.contains(&file.name) {
                return damaged(format!("{} is missing", file.name));
            }
            let of_file = &file.name;
            let bytes = match ImageFile::size_of(image, of_file) {
                // A link, or anything else in its place.
                Err(ActorError::Io { source, .. }) if is_no_file(&source) => {
                    return damaged(format!("{of_file} is not a regular file"));
                }
                size => size?,
            };
            if bytes != file.bytes {
                return damaged(format!("{of_file} has {bytes} bytes, not {}", file.bytes));
            }
            if ImageFile::of(image, &file.name)?.blake3 != file.blake3 {
                return damaged(format!("{} is not what was saved", file.name));
            }
        }
        Ok(())
    }
}

/// Tells whether [`durdir_snapshot::open_regular`] found something else.
fn is_no_file(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput || error.raw_os_error() == Some(nix::libc::ELOOP)
}

fn hash_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use durdir_fs::ids::{Epoch, VolumeId};
    use proptest::prelude::*;

    use super::*;

    fn manifest(image: &Path) -> Manifest {
        let held = Held { name: "home".to_owned(), volume: VolumeId(3), epoch: Epoch(4), owned: true };
        Manifest::of(Contents {
            id: CaptureId([1; 16]),
            actor: "web",
            scope: Scope::Full,
            sandbox_class: "gvisor",
            runtime: Some(RuntimeVersion { name: "gvisor".to_owned(), version: "1".to_owned() }),
            template: "t",
            volumes: &[held],
            files: ImageFile::all(image).unwrap(),
        })
    }

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("checkpoint.img"), "memory").unwrap();
        std::fs::write(dir.path().join("pages.img"), vec![7; 100_000]).unwrap();
        dir
    }

    #[test]
    fn a_manifest_that_was_touched_is_refused() {
        let image = image();
        let manifest = manifest(image.path());
        let (bytes, hash) = manifest.encode();
        assert_eq!(Manifest::decode(manifest.id, &bytes, &hash).unwrap(), manifest);
        let edited = String::from_utf8(bytes.clone()).unwrap().replace("\"epoch\": 4", "\"epoch\": 5");
        assert_ne!(edited.as_bytes(), bytes);
        for wrong in [edited.as_bytes(), b"", b"{}"] {
            let refused = Manifest::decode(manifest.id, wrong, &hash).unwrap_err();
            assert!(matches!(refused, ActorError::Damaged { .. }), "{refused}");
        }
        assert!(Manifest::decode(CaptureId([2; 16]), &bytes, &hash).is_err());
    }

    #[test]
    fn an_image_is_what_was_saved_or_it_is_refused() {
        let image = image();
        let manifest = manifest(image.path());
        manifest.check_files(image.path()).unwrap();
        let pages = image.path().join("pages.img");
        let refused = |what: &str| {
            let refused = manifest.check_files(image.path()).unwrap_err().to_string();
            assert!(refused.contains(what), "{refused}");
        };
        std::fs::write(&pages, vec![7; 99_999]).unwrap();
        refused("pages.img has 99999 bytes, not 100000");
        std::fs::write(&pages, vec![8; 100_000]).unwrap();
        refused("pages.img is not what was saved");
        std::fs::remove_file(&pages).unwrap();
        refused("pages.img is missing");
        std::fs::write(&pages, vec![7; 100_000]).unwrap();
        let (aside, more) = (tempfile::tempdir().unwrap(), image.path().join("more"));
        std::fs::write(&more, "").unwrap();
        refused("more does not belong to it");
        std::fs::remove_file(&more).unwrap();
        let copy = aside.path().join("pages.img");
        std::fs::rename(&pages, &copy).unwrap();
        std::os::unix::fs::symlink(&copy, &pages).unwrap();
        refused("pages.img is not a regular file");
        std::fs::remove_file(&pages).unwrap();
        std::fs::create_dir(&pages).unwrap();
        refused("pages.img is not a regular file");
    }

    proptest! {
        /// Also what has the hash that is on record: whoever wrote it may have been another version.
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let id = CaptureId([1; 16]);
            prop_assert!(Manifest::decode(id, &bytes, &hash_of(&bytes)).is_err());
        }

        #[test]
        fn one_wrong_byte_is_noticed(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let manifest = manifest(tempfile::tempdir().unwrap().path());
            let (mut bytes, hash) = manifest.encode();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            let refused = Manifest::decode(manifest.id, &bytes, &hash).unwrap_err();
            let is_told = matches!(refused, ActorError::Damaged { .. });
            prop_assert!(is_told, "{}", refused);
            // Without a hash to compare it with it is read, or refused.
            drop(Manifest::decode(manifest.id, &bytes, &hash_of(&bytes)));
        }
    }
}
