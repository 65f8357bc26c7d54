//! Names that gVisor makes in volumes while it restores.
//!
//! # Overview
//! A file that is open and has no name any more is part of a memory image. To open it again, newer versions of gVisor make it anew in its
//! volume, under a name that ends with [`INFIX`] and digits, and remove that before programs go on. A restore that fails in between leaves it.
//!
//! # Crash consistency
//! A mark in the sandbox's directory says that a restore was begun. It is removed once that is over, one way or the other; while it
//! is there the volumes are searched before anything else is done. So a restore that works never costs a search. What cannot be searched, or not
//! in time, is left as it is: a name too many harms nobody, and nothing may be kept from an actor for it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::runtime::program::Tool;
use crate::runtime::{Deadline, RuntimeError, Sandbox, files};

/// Looks for them. mountd does not look itself: the volumes are its own mounts.
pub(super) const FIND: Tool = Tool { name: "find", remedy: "install the package findutils" };

/// What is put behind the name that the file had, and how many hexadecimal digits behind that (`randomNameForDeleted` in gVisor's
/// `pkg/sentry/fsimpl/gofer/save_restore.go`).
const INFIX: &str = ".tmp-gvisor-restore-";
const DIGITS: usize = 16;

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
        let mut command = FIND.plain_command();
        let name = format!("*{INFIX}{}", "[0-9a-f]".repeat(DIGITS));
        command.args(sources).arg("-xdev").args(["-type", "f", "-name", &name, "-delete"]);
        if let Err(error) = FIND.output(&mut command, "names that gVisor left", deadline) {
            tracing::warn!(%error, sandbox = sandbox.id, "a restore that failed may have left files in volumes");
        }
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
        let left = volume.join("deep/er/log.tmp-gvisor-restore-0123456789abcdef");
        fs::write(&left, "").unwrap();
        fs::write(volume.join("deep/kept"), "").unwrap();
        // A user's own, whatever they are called.
        let others = [
            "x.tmp-gvisor-restore-1/kept",
            "y.tmp-gvisor-restore-0123456789abcdef/kept",
            "z.tmp-gvisor-restore-1",
        ];
        for other in others.map(|other| volume.join(other)) {
            fs::create_dir_all(other.parent().unwrap()).unwrap();
            fs::write(other, "").unwrap();
        }
        let soon = Deadline::after(Duration::from_secs(20));
        begin(&sandbox).unwrap();
        end(&sandbox).unwrap();
        after_failed_restore(&sandbox, soon).unwrap();
        assert!(left.exists());
        begin(&sandbox).unwrap();
        after_failed_restore(&sandbox, soon).unwrap();
        assert!(!left.exists());
        assert!(volume.join("deep/kept").exists());
        assert!(others.iter().all(|other| volume.join(other).exists()));
        assert!(!is_under_way(&sandbox));
        // One that cannot be looked through does not keep its actor from anything.
        let mut sandbox = sandbox;
        sandbox.containers[0].mounts[0].source = dir.path().join("gone");
        begin(&sandbox).unwrap();
        after_failed_restore(&sandbox, soon).unwrap();
        assert!(!is_under_way(&sandbox));
    }
}
