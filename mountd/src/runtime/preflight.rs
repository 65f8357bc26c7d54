//! What is checked of a sandbox whichever runtime runs it.

use std::collections::HashSet;
use std::path::{Component, Path};
use std::time::Duration;

use super::{Container, RuntimeError, Sandbox};

/// How long a runtime may take to say what it can do, where nobody else set a deadline.
pub(super) const PROBE: Duration = Duration::from_secs(20);

/// Checks a description. Volumes are not looked at: they may be mounts of this very process, which it must not touch.
pub(super) fn check(sandbox: &Sandbox) -> Result<(), RuntimeError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !(1..=63).contains(&sandbox.id.len()) || !sandbox.id.bytes().all(legal) {
        return Err(refused("id", format!("{:?} is not 1 to 63 letters, digits and `-`", sandbox.id)));
    }
    if sandbox.containers.is_empty() {
        return Err(refused("containers", "at least one is needed".to_owned()));
    }
    let mut names = HashSet::new();
    for container in &sandbox.containers {
        if !names.insert(&container.name) {
            return Err(refused("containers", format!("two are named {}", container.name)));
        }
        check_container(container)?;
    }
    Ok(())
}

/// Returns the refusal of one setting.
pub(super) fn refused(setting: impl Into<String>, why: impl Into<String>) -> RuntimeError {
    RuntimeError::Refused { setting: setting.into(), why: why.into() }
}

/// Checks what only holds for microVMs.
pub(super) fn check_machine(sandbox: &Sandbox) -> Result<(), RuntimeError> {
    if let [_, second, ..] = sandbox.containers.as_slice() {
        let why = format!("a microVM runs one container, and {} is a second one; use gvisor", second.name);
        return Err(refused("containers", why));
    }
    if let Some(container) = sandbox.containers.iter().find(|container| container.rootfs.is_some()) {
        let why = "a microVM brings its own root, its initramfs: leave it out";
        return Err(refused(format!("containers.{}.rootfs", container.name), why));
    }
    for (name, file) in [("kernel", &sandbox.machine.kernel), ("initramfs", &sandbox.machine.initramfs)] {
        match file {
            None => return Err(refused(name, "a microVM needs one; examples/microvm/build makes one")),
            Some(path) if !(path.is_absolute() && path.is_file()) => {
                return Err(refused(name, format!("{} is not a file", path.display())));
            }
            Some(_) => {}
        }
    }
    if sandbox.machine.kernel_arguments.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(refused("kernelArguments", "they are one line"));
    }
    Ok(())
}

fn check_container(container: &Container) -> Result<(), RuntimeError> {
    let setting = |name: &str| format!("containers.{}.{name}", container.name);
    // It names files of the driver's.
    if container.name.is_empty() || container.name.contains(['/', '\0']) || container.name.starts_with('.') {
        return Err(refused("containers.name", format!("{:?} is no DNS label", container.name)));
    }
    if container.command.is_empty() {
        return Err(refused(setting("command"), "at least one word is needed"));
    }
    if !container.working_directory.is_absolute() {
        return Err(refused(setting("workingDirectory"), "must be an absolute path"));
    }
    for (name, _) in &container.env {
        if name.is_empty() || name.contains('=') {
            return Err(refused(setting("env"), format!("{name:?} cannot be the name of a variable")));
        }
    }
    let strings = container.env.iter().flat_map(|(name, value)| [name, value]).chain(&container.command);
    if strings.into_iter().any(|string| string.contains('\0')) {
        return Err(refused(setting("command"), "neither it nor the environment can hold a NUL"));
    }
    if let Some(rootfs) = &container.rootfs
        && !(rootfs.is_absolute() && rootfs.is_dir())
    {
        return Err(refused(setting("rootfs"), format!("{} is not a directory", rootfs.display())));
    }
    check_mounts(container).map_err(|why| refused(setting("volumeMounts"), why))
}

fn check_mounts(container: &Container) -> Result<(), String> {
    let mut before: Vec<&Path> = Vec::new();
    for mount in &container.mounts {
        let path = mount.destination.as_path();
        let plain = |component| matches!(component, Component::RootDir | Component::Normal(_));
        if !path.is_absolute() || path == Path::new("/") || !path.components().all(plain) {
            return Err(format!("{} cannot be the place of a volume", path.display()));
        }
        if !mount.source.is_absolute() {
            return Err(format!("{} is not where a volume is mounted", mount.source.display()));
        }
        if let Some(other) = before.iter().find(|other| path.starts_with(other) || other.starts_with(path)) {
            return Err(format!("{} and {} are the same or nested", other.display(), path.display()));
        }
        before.push(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Network, VolumeMount};

    fn sandbox() -> Sandbox {
        Sandbox {
            id: "web-1".to_owned(),
            directory: "/d".into(),
            containers: vec![Container {
                name: "main".to_owned(),
                rootfs: Some("/".into()),
                command: vec!["/bin/true".to_owned()],
                env: vec![("A".to_owned(), "b".to_owned())],
                working_directory: "/".into(),
                user: (0, 0),
                mounts: ["/a", "/a b", "/..c"].map(volume).into(),
            }],
            network: Network::None,
            machine: Default::default(),
        }
    }

    fn volume(destination: &str) -> VolumeMount {
        VolumeMount { volume: "v".to_owned(), source: "/mnt".into(), destination: destination.into() }
    }

    #[test]
    fn each_fault_is_refused_under_the_name_of_its_setting() {
        check(&sandbox()).unwrap();
        type Fault = fn(&mut Sandbox);
        let faults: [(&str, Fault); 13] = [
            ("id", |s| s.id = "a/b".to_owned()),
            ("id", |s| s.id = "a".repeat(64)),
            ("containers", |s| s.containers.clear()),
            ("containers", |s| s.containers.push(s.containers[0].clone())),
            ("containers.name", |s| s.containers[0].name = "../x".to_owned()),
            ("containers.main.command", |s| s.containers[0].command.clear()),
            ("containers.main.command", |s| s.containers[0].command.push("\0".to_owned())),
            ("containers.main.env", |s| s.containers[0].env[0].0 = "A=".to_owned()),
            ("containers.main.workingDirectory", |s| s.containers[0].working_directory = "x".into()),
            ("containers.main.rootfs", |s| s.containers[0].rootfs = Some("/none".into())),
            ("containers.main.volumeMounts", |s| s.containers[0].mounts.push(volume("/a/b"))),
            ("containers.main.volumeMounts", |s| s.containers[0].mounts.push(volume("/x/../y"))),
            ("containers.main.volumeMounts", |s| s.containers[0].mounts.push(volume("/"))),
        ];
        for (setting, fault) in faults {
            let mut sandbox = sandbox();
            fault(&mut sandbox);
            let error = check(&sandbox).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{setting}: ")), "{error}");
        }
    }
}
