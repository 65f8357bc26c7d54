//! Bundles: what runsc is told of each container.
//!
//! # Invariants
//! - A volume is a plain bind mount without mount hints: with `--file-access-mounts=shared` each write of a program is a write on the
//!   host's mount before it returns, and no byte of the volume is kept by gVisor.
//! - What is written depends on the sandbox alone, so that a bundle for a restore is equal to the one the image was made with, but for
//!   the places volumes are mounted at on the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::oci::{Capabilities, Config, Linux, Mount, Namespace, Process, Root, User};
use super::root::{self, OWN_MOUNTS};
use crate::runtime::{Container, Network, RuntimeError, Sandbox, files};

/// What programs of the superuser may do inside. The host's kernel never sees these: they are gVisor's own.
const CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Returns what runsc calls a container: the first one is the root of the sandbox, and carries its name. No name may be how another one
/// begins: runsc takes a beginning for the whole.
pub(super) fn runsc_id(sandbox: &Sandbox, container: &Container) -> String {
    if is_root(sandbox, container) {
        sandbox.id.clone()
    } else {
        format!("_{}.{}", container.name, sandbox.id)
    }
}

/// Returns whether a container is the first one.
pub(super) fn is_root(sandbox: &Sandbox, container: &Container) -> bool {
    sandbox.containers.first().is_some_and(|first| first.name == container.name)
}

/// Writes the bundle of a container, and returns its directory.
pub(super) fn write(
    sandbox: &Sandbox,
    container: &Container,
    bundles: &Path,
    network: Option<PathBuf>,
) -> Result<PathBuf, RuntimeError> {
    let rootfs = container.rootfs.as_ref().ok_or_else(|| super::needs_rootfs(container))?;
    let rootfs = root::prepare(sandbox, container, rootfs)?;
    let bundle = bundles.join(&container.name);
    files::create_directory(&bundle)?;
    let config = serde_json::to_vec(&config(sandbox, container, rootfs, network)).map_err(|error| {
        // The only thing that cannot be written is a path that is no text.
        RuntimeError::Refused { setting: format!("containers.{}", container.name), why: error.to_string() }
    })?;
    files::write(&bundle.join("config.json"), config)?;
    Ok(bundle)
}

fn config(sandbox: &Sandbox, container: &Container, rootfs: PathBuf, network: Option<PathBuf>) -> Config {
    let (uid, gid) = container.user;
    // Elsewhere an ordinary user has no capabilities, and none come with programs it runs but through file capabilities.
    let held = if uid == 0 { CAPABILITIES } else { &[] };
    let mut namespaces: Vec<_> =
        ["pid", "ipc", "uts", "mount"].map(|kind| Namespace { kind, path: None }).into();
    if sandbox.network != Network::Host {
        namespaces.push(Namespace { kind: "network", path: network });
    }
    Config {
        oci_version: "1.0.2",
        hostname: sandbox.id.clone(),
        process: Process {
            user: User { uid, gid },
            args: container.command.clone(),
            env: container.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            cwd: container.working_directory.clone(),
            capabilities: Capabilities { bounding: CAPABILITIES, effective: held, permitted: held },
            no_new_privileges: false,
        },
        // Not read-only: changes go into memory (`--overlay2=root:memory`).
        root: Root { path: rootfs, readonly: false },
        mounts: mounts(container),
        linux: Linux { namespaces },
        annotations: annotations(sandbox, container),
    }
}

fn mounts(container: &Container) -> Vec<Mount> {
    let own = OWN_MOUNTS.map(|(destination, kind)| Mount {
        destination: destination.into(),
        kind,
        source: kind.into(),
        options: &[],
    });
    let volumes = container.mounts.iter().map(|mount| Mount {
        destination: mount.destination.clone(),
        kind: "bind",
        source: mount.source.clone(),
        options: &["rw"],
    });
    // A volume at the place of one of our own takes it.
    let taken = |own: &Mount| container.mounts.iter().any(|mount| mount.destination == own.destination);
    own.into_iter().filter(|own| !taken(own)).chain(volumes).collect()
}

/// How gVisor is told, in the words of Kubernetes' runtimes, which containers share a sandbox. Containers are found again by
/// `container-name` when memory is restored.
fn annotations(sandbox: &Sandbox, container: &Container) -> BTreeMap<&'static str, String> {
    let kind = if is_root(sandbox, container) { "sandbox" } else { "container" };
    let mut annotations = BTreeMap::from([("io.kubernetes.cri.container-name", container.name.clone())]);
    if sandbox.containers.len() > 1 {
        annotations.insert("io.kubernetes.cri.container-type", kind.to_owned());
        annotations.insert("io.kubernetes.cri.sandbox-id", sandbox.id.clone());
    }
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::VolumeMount;

    fn sandbox() -> Sandbox {
        let container = |name: &str, user| Container {
            name: name.to_owned(),
            rootfs: Some("/".into()),
            command: vec!["/bin/true".to_owned()],
            env: vec![("A".to_owned(), "b=c".to_owned())],
            working_directory: "/".into(),
            user,
            mounts: vec![VolumeMount {
                volume: "home".to_owned(),
                source: "/mnt/home".into(),
                destination: format!("/{name}").into(),
            }],
        };
        Sandbox {
            id: "web-1".to_owned(),
            directory: "/d".into(),
            containers: vec![container("main", (0, 0)), container("tmp", (1000, 1000))],
            network: Network::None,
            machine: Default::default(),
        }
    }

    fn json(sandbox: &Sandbox, index: usize) -> serde_json::Value {
        serde_json::to_value(config(sandbox, &sandbox.containers[index], "/r".into(), None)).unwrap()
    }

    #[test]
    fn volumes_are_plain_bind_mounts_without_hints() {
        let sandbox = sandbox();
        let main = json(&sandbox, 0);
        let expected = serde_json::json!(
            {"destination": "/main", "type": "bind", "source": "/mnt/home", "options": ["rw"]}
        );
        assert_eq!(main["mounts"][3], expected);
        assert!(!main["annotations"].to_string().contains("dev.gvisor"), "{main}");
        assert_eq!(main["process"]["env"][0], "A=b=c");
    }

    #[test]
    fn a_volume_may_take_the_place_of_a_mount_of_ours() {
        let destinations: Vec<_> =
            json(&sandbox(), 1)["mounts"].as_array().unwrap().iter().map(|m| m["type"].clone()).collect();
        assert_eq!(destinations, ["proc", "tmpfs", "bind"]);
    }

    #[test]
    fn only_several_containers_are_tied_together() {
        let mut sandbox = sandbox();
        assert_eq!(json(&sandbox, 0)["annotations"]["io.kubernetes.cri.container-type"], "sandbox");
        assert_eq!(json(&sandbox, 1)["annotations"]["io.kubernetes.cri.sandbox-id"], "web-1");
        sandbox.containers.pop();
        assert_eq!(json(&sandbox, 0)["annotations"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn an_ordinary_user_has_no_capabilities() {
        assert_eq!(json(&sandbox(), 1)["process"]["capabilities"]["effective"], serde_json::json!([]));
        assert_ne!(json(&sandbox(), 0)["process"]["capabilities"]["effective"], serde_json::json!([]));
    }

    #[test]
    fn the_hosts_network_is_no_namespace() {
        let mut sandbox = sandbox();
        assert_eq!(json(&sandbox, 0)["linux"]["namespaces"].as_array().unwrap().len(), 5);
        sandbox.network = Network::Host;
        assert_eq!(json(&sandbox, 0)["linux"]["namespaces"].as_array().unwrap().len(), 4);
    }
}
