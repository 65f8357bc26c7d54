//! What runs an actor: its class of sandboxes, and the settings of the runtime.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::runtime::{Accelerator, Network};

/// A family of runtimes. Memory never crosses from one to another; volumes do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SandboxClass {
    /// A kernel in user space.
    Gvisor,
    /// A small virtual machine.
    Microvm,
    /// Plain processes in a cgroup: no memory is captured, and nothing is isolated that they do not isolate themselves.
    Process,
}

impl SandboxClass {
    /// Every class.
    pub(crate) const ALL: [SandboxClass; 3] =
        [SandboxClass::Gvisor, SandboxClass::Microvm, SandboxClass::Process];

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            SandboxClass::Gvisor => "gvisor",
            SandboxClass::Microvm => "microvm",
            SandboxClass::Process => "process",
        }
    }
}

impl fmt::Display for SandboxClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The runtime, and what it is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct SandboxSettings {
    /// Which one, with what only that one understands.
    #[serde(flatten)]
    pub(crate) runtime: RuntimeSettings,
    /// How programs inside reach others.
    #[serde(serialize_with = "network_name")]
    pub(crate) network: Network,
}

/// A runtime with its settings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "runtime", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum RuntimeSettings {
    /// `runsc`.
    Gvisor {
        /// What runs the guest's instructions.
        platform: Platform,
        /// More flags, as given.
        runtime_flags: Vec<String>,
    },
    /// `qemu-system-*`.
    Qemu(MachineSettings),
    /// `cloud-hypervisor`.
    CloudHypervisor(MachineSettings),
    /// A cgroup.
    Process {},
}

impl RuntimeSettings {
    /// Returns the runtime's name, as [`crate::runtime::Runtime::name`] has it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            RuntimeSettings::Gvisor { .. } => "gvisor",
            RuntimeSettings::Qemu(_) => "qemu",
            RuntimeSettings::CloudHypervisor(_) => "cloud-hypervisor",
            RuntimeSettings::Process {} => "process",
        }
    }

    /// Returns the class that it is of.
    pub(crate) fn class(&self) -> SandboxClass {
        match self {
            RuntimeSettings::Gvisor { .. } => SandboxClass::Gvisor,
            RuntimeSettings::Qemu(_) | RuntimeSettings::CloudHypervisor(_) => SandboxClass::Microvm,
            RuntimeSettings::Process {} => SandboxClass::Process,
        }
    }
}

/// A virtual machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MachineSettings {
    /// The size of its memory in bytes.
    pub(crate) memory: u64,
    /// How many CPUs it has.
    pub(crate) cpus: u32,
    /// Its kernel. Without one it cannot be started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<PathBuf>,
    /// Its initial file system. Without one it cannot be started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) initramfs: Option<PathBuf>,
    /// More words for the kernel's command line.
    pub(crate) kernel_arguments: String,
    /// What runs the guest's instructions.
    #[serde(serialize_with = "accelerator_name")]
    pub(crate) accelerator: Accelerator,
    /// More flags for the monitor, as given.
    pub(crate) runtime_flags: Vec<String>,
}

/// How gVisor runs the guest's instructions. A memory image is bound to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Platform {
    /// Works everywhere.
    Systrap,
    /// The kernel's virtual machines.
    Kvm,
    /// As systrap, slower; for old versions.
    Ptrace,
}

impl Platform {
    /// Every platform.
    pub(super) const ALL: [Platform; 3] = [Platform::Systrap, Platform::Kvm, Platform::Ptrace];

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Platform::Systrap => "systrap",
            Platform::Kvm => "kvm",
            Platform::Ptrace => "ptrace",
        }
    }
}

/// Every network and its name.
pub(super) const NETWORKS: [(&str, Network); 3] =
    [("none", Network::None), ("own", Network::Own), ("host", Network::Host)];

/// Every accelerator and its name.
pub(super) const ACCELERATORS: [(&str, Accelerator); 3] =
    [("auto", Accelerator::Auto), ("kvm", Accelerator::Kvm), ("tcg", Accelerator::Tcg)];

fn network_name<S: Serializer>(network: &Network, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match network {
        Network::None => "none",
        Network::Own => "own",
        Network::Host => "host",
    })
}

fn accelerator_name<S: Serializer>(accelerator: &Accelerator, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match accelerator {
        Accelerator::Auto => "auto",
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg",
    })
}
