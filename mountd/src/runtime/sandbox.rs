//! What a sandbox consists of: a template's section, made concrete for one actor.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything a driver needs to know. Equal descriptions make equal sandboxes: it is derived from the stored actor, and so is the
/// same after a restart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Sandbox {
    /// Names it among the sandboxes of this host: letters, digits and `-`, at most 63.
    pub(crate) id: String,
    /// The driver's own directory: bundles, sockets, state, output. Private to root; the caller makes it, and removes it after
    /// [`super::Runtime::kill`].
    pub(crate) directory: PathBuf,
    /// Its containers, in the order of the template; at least one.
    pub(crate) containers: Vec<Container>,
    /// How programs inside reach others.
    pub(crate) network: Network,
    /// What only some runtimes look at.
    pub(crate) machine: Machine,
}

impl Sandbox {
    /// Returns the file that collects what a container's program prints: standard output and standard error, in order. A machine
    /// has one, its console, which is that of its only container.
    pub(crate) fn output(&self, container: &str) -> PathBuf {
        self.directory.join(format!("output-{container}.log"))
    }

    /// Returns the files and directories of the host that it is made of.
    pub(crate) fn host_files(&self) -> Vec<PathBuf> {
        let roots = self.containers.iter().filter_map(|container| container.rootfs.clone());
        roots.chain(self.machine.kernel.clone()).chain(self.machine.initramfs.clone()).collect()
    }

    /// Tells whether it is over when this container has ended. With its first one it is; another one may end alone.
    pub(crate) fn ends_with(&self, container: &str) -> bool {
        self.containers.first().is_none_or(|first| first.name == container)
    }
}

/// A program with a root file system and volumes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Container {
    /// Its name in the template: a DNS label.
    pub(crate) name: String,
    /// A host directory that is its root, read-only: changes are kept in memory, and so are part of a memory image. `None` where a
    /// machine brings its own.
    pub(crate) rootfs: Option<PathBuf>,
    /// The program and its arguments; at least one word.
    pub(crate) command: Vec<String>,
    /// Its environment, names and values.
    pub(crate) env: Vec<(String, String)>,
    /// Where it starts.
    pub(crate) working_directory: PathBuf,
    /// Its user and group.
    pub(crate) user: (u32, u32),
    /// Its volumes.
    pub(crate) mounts: Vec<VolumeMount>,
}

/// A volume inside a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct VolumeMount {
    /// The volume's name in the template. It may be in several containers, at different places.
    pub(crate) volume: String,
    /// Where it is mounted on the host.
    pub(crate) source: PathBuf,
    /// Where the container sees it.
    pub(crate) destination: PathBuf,
}

/// How programs of a sandbox reach others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Network {
    /// A loopback device and nothing else. mountd still reaches its ports, for the readiness probe, where the runtime allows it.
    #[default]
    None,
    /// A network namespace of its own, with a link to the host.
    Own,
    /// The host's network.
    Host,
}

/// What the machine around the containers is made of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Size of its memory in bytes; 0: the driver's default.
    pub(crate) memory_bytes: u64,
    /// How many CPUs; 0: the driver's default.
    pub(crate) cpus: u32,
    /// A kernel image; microVMs need one.
    pub(crate) kernel: Option<PathBuf>,
    /// An initial file system; its `/init` finds its work on the kernel's command line.
    pub(crate) initramfs: Option<PathBuf>,
    /// More words for the kernel's command line.
    pub(crate) kernel_arguments: String,
    /// What runs the guest's instructions.
    pub(crate) accelerator: Accelerator,
    /// gVisor's platform: `systrap`, `kvm`, `ptrace`; `None`: the driver's default.
    pub(crate) platform: Option<String>,
    /// More flags for the runtime, as given. Those that would bypass a volume are refused.
    pub(crate) runtime_flags: Vec<String>,
}

/// What runs a guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Accelerator {
    /// KVM where it works, TCG otherwise.
    #[default]
    Auto,
    /// The kernel's.
    Kvm,
    /// QEMU's translator: works everywhere, slowly.
    Tcg,
}
