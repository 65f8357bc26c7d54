//! Names that gVisor makes in volumes while it restores.
//!
//! # Overview
//! A file that is open and has no name any more is part of a memory image. To open it again, newer versions of gVisor make it anew in its
//! volume, under a name with [`INFIX`] in it, and remove that before programs go on. A restore that fails in between leaves it.
//!
//! # Crash consistency
//! A mark in the sandbox's directory says that a restore was begun. It is removed once that is over, one way or the other; while it
//! is there the volumes are searched before anything else is done. So a restore that works never costs a search.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use crate::runtime::program::Tool;
use crate::runtime::{Deadline, RuntimeError, Sandbox, files};

/// Looks for them. mountd does not look itself: the volumes are its own mounts.
const FIND: Tool = Tool { name: "find", remedy: "install the package findutils" };

/// What such a name contains.
const INFIX: &str = ".tmp-gvisor-restore-";

fn mark(sandbox: &Sandbox) -> PathBuf {
    sandbox.directory.join("restoring")
}

/// Notes that a restore begins.
pub(super) fn begin(sandbox: &Sandbox) -> Result<(), RuntimeError> {
    files::write(&mark(sandbox), "")
}

/// Returns whether a restore was begun and did not end.
pub(super) fn is_under_way(sandbox: &Sandbox) -> bool {
    mark(sandbox).exists()
}

/// Notes that a restore succeeded.
pub(super) fn end(sandbox: &Sandbox) -> Result<(), RuntimeError> {
    files::remove(&mark(sandbox))
}

/// Removes what a restore left that did not succeed. Its processes have ended.
pub(super) fn after_failed_restore(sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
    if !is_under_way(sandbox) {
        return Ok(());
    }
    let mounts = sandbox.containers.iter().flat_map(|container| &container.mounts);
    let sources: BTreeSet<_> = mounts.map(|mount| &mount.source).collect();
    if !sources.is_empty() {
        let mut command = Command::new(FIND.name);
        command.args(sources).arg("-xdev").args(["-name", &format!("*{INFIX}*"), "-delete"]);
        FIND.output(&mut command, "names that gVisor left", deadline)?;
    }
    end(sandbox)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::runtime::{Container, Network, VolumeMount};

    #[test]
    fn names_are_searched_for_only_after_a_restore_that_did_not_end() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("deep/er")).unwrap();
        let sandbox = Sandbox {
            id: "sweep".to_owned(),
            directory: dir.path().to_owned(),
            containers: vec![Container {
                name: "main".to_owned(),
                rootfs: None,
                command: Vec::new(),
                env: Vec::new(),
                working_directory: "/".into(),
                user: (0, 0),
                mounts: vec![VolumeMount {
                    volume: "home".to_owned(),
                    source: volume.clone(),
                    destination: "/home".into(),
                }],
            }],
            network: Network::None,
            machine: Default::default(),
        };
        let left = volume.join("deep/er/log.tmp-gvisor-restore-1f");
        fs::write(&left, "").unwrap();
        fs::write(volume.join("deep/kept"), "").unwrap();
        let soon = Deadline::after(Duration::from_secs(20));
        begin(&sandbox).unwrap();
        end(&sandbox).unwrap();
        after_failed_restore(&sandbox, soon).unwrap();
        assert!(left.exists());
        begin(&sandbox).unwrap();
        after_failed_restore(&sandbox, soon).unwrap();
        assert!(!left.exists());
        assert!(volume.join("deep/kept").exists());
        assert!(!is_under_way(&sandbox));
    }
}
