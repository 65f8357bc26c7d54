//! Where the files of actors lie.
//!
//! ```text
//! STORE/actors/ID/volumes/VOLUME/               where the volume is mounted while the actor is not at rest
//!                 sandbox/                      the runtime's own
//!                 paused.json                   while it is paused for a capture: what lets it go on
//!                 captures/CAPTURE/image/…      saved memory
//!                                  manifest.json   what belongs together
//!                                  unsynced        while not all of that is on the disk: the boot of the host
//! ```
//!
//! # Invariants
//! - A capture is there when its manifest is, and `unsynced` is not or is of another boot.
//! - Every directory is private to the user that mountd runs as.
//! - Nothing is removed through a mount: mount points go by `rmdir`, and before anything goes with its content the kernel is
//!   asked whether something is mounted below.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use durdir_fs::fuse::mounted_below;
use durdir_fs::ids::CaptureId;
use durdir_snapshot::{sync_directory, sync_files};

use super::error::ActorError;
use crate::boot;

/// The directory of all actors of a store.
#[derive(Clone, Debug)]
pub(crate) struct ActorsDirectory(PathBuf);

/// The directory of one actor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ActorDirectory(PathBuf);

/// The directory of one capture on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CaptureDirectory(PathBuf);

impl ActorsDirectory {
    /// Returns that of a store, which is absolute and without symbolic links, as mounts need it.
    pub(crate) fn of_store(store: &Path) -> ActorsDirectory {
        let store = store.canonicalize().unwrap_or_else(|_| store.to_owned());
        ActorsDirectory(store.join("actors"))
    }

    pub(crate) fn of(&self, actor: &str) -> ActorDirectory {
        ActorDirectory(self.0.join(actor))
    }

    /// Lists the actors that have one.
    pub(crate) fn list(&self) -> Result<Vec<String>, ActorError> {
        list(&self.0)
    }
}

impl ActorDirectory {
    pub(crate) fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }

    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(name)
    }

    pub(crate) fn sandbox(&self) -> PathBuf {
        self.0.join("sandbox")
    }

    pub(crate) fn paused_note(&self) -> PathBuf {
        self.0.join("paused.json")
    }

    pub(crate) fn capture(&self, id: CaptureId) -> CaptureDirectory {
        CaptureDirectory(self.captures().join(id.to_string()))
    }

    fn captures(&self) -> PathBuf {
        self.0.join("captures")
    }

    /// Lists the captures that have a directory.
    pub(crate) fn list_captures(&self) -> Result<Vec<String>, ActorError> {
        list(&self.captures())
    }

    /// Makes what a sandbox needs.
    pub(crate) fn prepare<'a>(&self, volumes: impl Iterator<Item = &'a str>) -> Result<(), ActorError> {
        create(&self.sandbox())?;
        for volume in volumes {
            create(&self.volume(volume))?;
        }
        Ok(())
    }

    /// Removes what a sandbox needed. Its volumes are not mounted any more.
    pub(crate) fn clear(&self) -> Result<(), ActorError> {
        remove_with_content(&self.sandbox())?;
        for volume in list(&self.volumes())? {
            remove_empty(&self.volume(&volume))?;
        }
        remove_empty(&self.volumes())
    }

    /// Removes everything. Nothing is mounted below any more.
    pub(crate) fn remove(&self) -> Result<(), ActorError> {
        self.clear()?;
        remove_with_content(&self.0)
    }
}

impl CaptureDirectory {
    pub(crate) fn image(&self) -> PathBuf {
        self.0.join("image")
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.0.join("manifest.json")
    }

    /// Is there while a manifest is not to be believed.
    pub(crate) fn unsynced(&self) -> PathBuf {
        self.0.join("unsynced")
    }

    /// Takes note that from now on a manifest says nothing in this boot of the host: it, or what it names, may never reach the disk. Not brought to
    /// the disk: after another boot what is there tells for itself.
    pub(crate) fn doubt(&self) -> Result<(), ActorError> {
        let path = self.unsynced();
        std::fs::write(&path, this_boot()?).map_err(|error| failed("write", &path, error))
    }

    /// Takes note that the manifest and all that it names are on the disk: the capture is there.
    pub(crate) fn trust(&self) -> Result<(), ActorError> {
        let path = self.unsynced();
        std::fs::remove_file(&path).map_err(|error| failed("remove", &path, error))
    }

    /// Tells whether a manifest is not to be believed.
    pub(crate) fn is_doubted(&self) -> Result<bool, ActorError> {
        let path = self.unsynced();
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            boot => Ok(boot.map_err(|error| failed("read", &path, error))? == this_boot()?),
        }
    }

    /// Makes it, with an empty image: remains of an earlier attempt go.
    pub(crate) fn create(&self) -> Result<(), ActorError> {
        self.remove()?;
        // Above it all is made once.
        let above: Vec<&Path> = self.0.ancestors().skip(1).take_while(|path| !path.exists()).collect();
        create(&self.image())?;
        above.iter().filter_map(|made| made.parent()).try_for_each(sync)
    }

    /// Brings its own name to the disk.
    pub(crate) fn sync_place(&self) -> Result<(), ActorError> {
        self.0.parent().map_or(Ok(()), sync)
    }

    /// Removes it.
    pub(crate) fn remove(&self) -> Result<(), ActorError> {
        // The manifest first: half of a capture is none.
        self.remove_manifest()?;
        remove_with_content(&self.0)
    }

    /// Makes sure that it has no manifest, on the disk either.
    pub(crate) fn unbind(&self) -> Result<(), ActorError> {
        self.remove_manifest()?;
        match sync(&self.0) {
            Err(error) if self.0.exists() => {
                // A sandbox waits. What a host remembers that loses power now is less than what it does until then.
                tracing::error!(
                    error = crate::exit::one_line(&error),
                    "a manifest that is gone may come back"
                );
                Ok(())
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Brings what is in it to the disk.
    pub(crate) fn sync(&self) -> Result<(), ActorError> {
        for directory in [&self.image(), &self.0] {
            sync_files(directory).map_err(|error| failed("sync", directory, error))?;
        }
        Ok(())
    }

    fn remove_manifest(&self) -> Result<(), ActorError> {
        let manifest = self.manifest();
        // On a file system that is read-only not even what is not there can be removed.
        match std::fs::symlink_metadata(&manifest).and_then(|_| std::fs::remove_file(&manifest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &manifest, error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn this_boot() -> Result<String, ActorError> {
    boot::this_boot().map_err(|error| failed("read", Path::new(boot::BOOT_ID), error))
}

fn sync(directory: &Path) -> Result<(), ActorError> {
    sync_directory(directory).map_err(|error| failed("sync", directory, error))
}

fn create(path: &Path) -> Result<(), ActorError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| failed("create", path, error))
}

fn remove_empty(path: &Path) -> Result<(), ActorError> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn remove_with_content(path: &Path) -> Result<(), ActorError> {
    check_not_mounted_below(path)?;
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Refuses where anything is mounted at a directory or below.
fn check_not_mounted_below(directory: &Path) -> Result<(), ActorError> {
    let mounted =
        mounted_below(directory).map_err(|error| failed("look for mounts below", directory, error))?;
    match mounted {
        Some(mounted) => Err(ActorError::StillMounted { mounted, directory: directory.to_owned() }),
        None => Ok(()),
    }
}

fn list(path: &Path) -> Result<Vec<String>, ActorError> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed("list", path, error))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| failed("list", path, error))?.file_name();
        // Whatever has another name is not ours.
        names.extend(name.into_string().ok());
    }
    names.sort();
    Ok(names)
}

pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> ActorError {
    ActorError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nothing_is_readable_for_others_and_all_of_it_goes() {
        let store = tempfile::tempdir().unwrap();
        let actor = ActorsDirectory::of_store(store.path()).of("a");
        actor.prepare(["home", "db"].into_iter()).unwrap();
        let capture = actor.capture(CaptureId([1; 16]));
        capture.create().unwrap();
        std::fs::write(capture.image().join("memory"), "x").unwrap();
        std::fs::write(actor.sandbox().join("state"), "x").unwrap();
        for path in [actor.volume("home"), actor.sandbox(), capture.image(), actor.volumes()] {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", path.display());
        }
        assert_eq!(actor.list_captures().unwrap(), [CaptureId([1; 16]).to_string()]);
        actor.clear().unwrap();
        assert!(!actor.volumes().exists() && !actor.sandbox().exists() && capture.image().exists());
        actor.remove().unwrap();
        assert!(!store.path().join("actors/a").exists());
        actor.remove().unwrap();
    }

    #[test]
    fn what_lies_in_a_mount_point_is_never_removed() {
        let store = tempfile::tempdir().unwrap();
        let actor = ActorsDirectory::of_store(store.path()).of("a");
        actor.prepare(["home"].into_iter()).unwrap();
        std::fs::write(actor.volume("home").join("thesis"), "x").unwrap();
        assert!(actor.remove().is_err());
        assert!(actor.volume("home").join("thesis").exists());
    }

    #[test]
    fn nothing_has_to_be_removed_from_a_file_system_that_is_read_only() {
        struct Mounted(tempfile::TempDir);
        impl Drop for Mounted {
            fn drop(&mut self) {
                nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
            }
        }
        use nix::mount::{MsFlags, mount};
        let none: Option<&str> = None;
        let place = tempfile::tempdir().unwrap();
        mount(none, place.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let place = Mounted(place);
        let (here, path) = (place.0.path(), |name: &str| CaptureDirectory(place.0.path().join(name)));
        path("empty").create().unwrap();
        path("bound").create().unwrap();
        std::fs::write(path("bound").manifest(), "{}").unwrap();
        mount(none, here, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).unwrap();
        path("empty").unbind().unwrap();
        path("never made").unbind().unwrap();
        assert!(path("bound").unbind().is_err());
        mount(none, here, none, MsFlags::MS_REMOUNT, none).unwrap();
        path("bound").unbind().unwrap();
        assert!(!path("bound").manifest().exists());
    }

    #[test]
    fn nothing_is_removed_with_what_is_mounted_below() {
        let refused = check_not_mounted_below(Path::new("/proc")).unwrap_err();
        assert!(matches!(refused, ActorError::StillMounted { .. }), "{refused}");
    }
}
