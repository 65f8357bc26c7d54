//! The host, as runsc is shown it.
//!
//! # Overview
//! gVisor keeps a program's changes of the root in memory, but runsc makes a directory on the host for each mount the root has no place
//! for. Where one is missing, runsc runs in a mount namespace of its own, in which the root is an overlay whose upper layer is
//! in memory. What runsc leaves running keeps what it needs of that namespace, and the rest ends with runsc.
//!
//! runsc binds a root with all that is mounted in it, and holds that for as long as the sandbox runs. Where other volumes are mounted in there, as in a
//! root that is `/`, they are taken out of such a namespace first: nobody could unmount them meanwhile.
//!
//! Before runsc takes devices from a network namespace it makes sure that it is not the host's, by a file that older kernels showed there
//! only. Newer ones show it everywhere, so it is hidden.
//!
//! # Invariants
//! - Nothing is written into the directory that a template names as a root.

use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use durdir_fs::fuse;

use crate::runtime::program::Tool;
use crate::runtime::{Container, Network, RuntimeError, Sandbox, files};

/// What the namespace is made with.
pub(super) const UNSHARE: Tool = Tool { name: "unshare", remedy: "install the package util-linux" };
pub(super) const XARGS: Tool = Tool { name: "xargs", remedy: "install the package findutils" };
pub(super) const MOUNT: Tool = Tool { name: "mount", remedy: "install the package mount" };

/// Mounts that every container has.
pub(super) const OWN_MOUNTS: [(&str, &str); 3] = [("/proc", "proc"), ("/dev", "tmpfs"), ("/tmp", "tmpfs")];

/// Paths in options may not hold commas and colons, so these are relative.
const SCRIPT: &str = r#"
set -e
if [ -n "$1" ]; then
    mount -t tmpfs -o mode=755 tmpfs "$1"
    cd "$1"
    mkdir lower upper work merged
    mount --bind "$2" lower
    mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged
    cd /
fi
if [ "$3" = own ]; then
    mount -t tmpfs -o mode=755,ro tmpfs /proc/sys/net
fi
if [ -n "$4" ]; then
    # What went by itself meanwhile is no error. No place is looked at: somebody may serve it who hangs.
    xargs -0 umount --lazy --internal-only --no-canonicalize -- <"$4" || :
fi
shift 4
exec "$@"
"#;

fn stage(sandbox: &Sandbox, container: &Container) -> PathBuf {
    sandbox.directory.join("roots").join(&container.name)
}

fn strangers(sandbox: &Sandbox, container: &Container) -> PathBuf {
    // No container's name has a dot.
    sandbox.directory.join("roots").join(format!("{}.strangers", container.name))
}

/// Decides how a container's root is shown to runsc, and returns the path it has there.
pub(super) fn prepare(
    sandbox: &Sandbox,
    container: &Container,
    rootfs: &Path,
) -> Result<PathBuf, RuntimeError> {
    let own = OWN_MOUNTS.iter().map(|(destination, _)| Path::new(destination));
    let mut places = own.chain(container.mounts.iter().map(|mount| mount.destination.as_path()));
    if places.all(|place| has(rootfs, place)) {
        list_strangers(&strangers(sandbox, container), container, rootfs)?;
        return Ok(rootfs.to_owned());
    }
    let stage = stage(sandbox, container);
    files::create_directory(&stage)?;
    Ok(stage.join("merged"))
}

/// Lists where volumes are mounted in a root that are not the container's, whoever serves them, each place with a zero byte after it.
fn list_strangers(list: &Path, container: &Container, rootfs: &Path) -> Result<(), RuntimeError> {
    // What is wrong with a root is told by runsc.
    let real = rootfs.canonicalize().unwrap_or_else(|_| rootfs.to_owned());
    let volumes = fuse::mounted_volumes().map_err(files::at("read", Path::new("/proc/self/mountinfo")))?;
    let is_own = |place: &Path| container.mounts.iter().any(|mount| mount.source == place);
    let places = volumes.into_iter().map(|volume| volume.mountpoint);
    let strangers = places.filter(|place| place.starts_with(&real) && !is_own(place));
    let bytes: Vec<u8> =
        strangers.flat_map(|place| [place.into_os_string().into_vec(), vec![0]].concat()).collect();
    if bytes.is_empty() {
        return files::remove(list);
    }
    list.parent().map_or(Ok(()), files::create_directory)?;
    files::write(list, bytes)
}

/// Tells whether a root has a directory, and no link on the way to it: where that leads on the host says nothing.
fn has(rootfs: &Path, place: &Path) -> bool {
    let mut path = rootfs.to_owned();
    let mut names = place.components().filter(|component| *component != Component::RootDir);
    names.all(|name| {
        path.push(name);
        path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
    })
}

/// Returns the command with which runsc sees the host as it was prepared. More arguments may be added to it.
pub(super) fn show(sandbox: &Sandbox, container: &Container, runsc: Command) -> Command {
    let stage = stage(sandbox, container);
    let rootfs = container.rootfs.as_ref().filter(|_| stage.is_dir());
    let own_network = sandbox.network != Network::Host;
    let strangers = Some(strangers(sandbox, container)).filter(|list| rootfs.is_none() && list.is_file());
    if rootfs.is_none() && strangers.is_none() && !own_network {
        return runsc;
    }
    let mut command = UNSHARE.plain_command();
    command.args(["--mount", "--propagation", "slave", "sh", "-c", SCRIPT, "sh"]);
    match rootfs {
        Some(rootfs) => command.arg(stage).arg(rootfs),
        None => command.args(["", ""]),
    };
    command.arg(if own_network { "own" } else { "other" });
    command.arg(strangers.unwrap_or_default());
    command.arg(runsc.get_program()).args(runsc.get_args());
    command.envs(runsc.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Takes away what was prepared for a sandbox. Nothing is mounted there, but in namespaces that are gone.
pub(super) fn remove(sandbox: &Sandbox) -> Result<(), RuntimeError> {
    files::remove_tree(&sandbox.directory.join("roots"))
}
