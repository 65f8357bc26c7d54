//! From a template to the sandbox of one actor.

use std::path::PathBuf;

use super::{Container, Label, MachineSettings, RuntimeSettings, Template};
use crate::runtime;

/// Returns the sandbox of an actor.
///
/// `id` names it among the sandboxes of this host, `directory` is for its driver, and `mount_point` tells where each volume of the
/// template is mounted for this actor.
pub(crate) fn sandbox(
    template: &Template,
    id: &str,
    directory: PathBuf,
    mount_point: impl Fn(&Label) -> PathBuf,
) -> runtime::Sandbox {
    runtime::Sandbox {
        id: id.to_owned(),
        directory,
        containers: template.containers.iter().map(|container| inside(container, &mount_point)).collect(),
        network: template.sandbox.network,
        machine: machine(&template.sandbox.runtime),
    }
}

fn inside(container: &Container, mount_point: &impl Fn(&Label) -> PathBuf) -> runtime::Container {
    let mounts = container.volume_mounts.iter().map(|mount| runtime::VolumeMount {
        volume: mount.name.to_string(),
        source: mount_point(&mount.name),
        destination: mount.mount_path.as_path().to_owned(),
    });
    runtime::Container {
        name: container.name.to_string(),
        rootfs: container.rootfs.clone(),
        command: container.command.iter().chain(&container.args).cloned().collect(),
        env: container.env.iter().map(|set| (set.name.clone(), set.value.clone())).collect(),
        working_directory: container.working_dir.clone(),
        user: (container.user.uid, container.user.gid),
        mounts: mounts.collect(),
    }
}

fn machine(settings: &RuntimeSettings) -> runtime::Machine {
    match settings {
        RuntimeSettings::Gvisor { platform, runtime_flags } => runtime::Machine {
            platform: Some(platform.name().to_owned()),
            runtime_flags: runtime_flags.clone(),
            ..runtime::Machine::default()
        },
        RuntimeSettings::Qemu(settings) | RuntimeSettings::CloudHypervisor(settings) => {
            virtual_machine(settings)
        }
        RuntimeSettings::Process {} => runtime::Machine::default(),
    }
}

fn virtual_machine(settings: &MachineSettings) -> runtime::Machine {
    runtime::Machine {
        memory_bytes: settings.memory,
        cpus: settings.cpus,
        kernel: settings.kernel.clone(),
        initramfs: settings.initramfs.clone(),
        kernel_arguments: settings.kernel_arguments.clone(),
        accelerator: settings.accelerator,
        platform: None,
        runtime_flags: settings.runtime_flags.clone(),
    }
}
