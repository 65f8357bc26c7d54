//! MicroVMs of Cloud Hypervisor, through its HTTP interface, with virtiofsd between them and their volumes.
//!
//! # Overview
//! ```text
//!   sandbox.directory/
//!     initramfs         the template's, and what the guest is told (`guest.rs`)
//!     api.sock          the monitor
//!     vN.sock           volume N's virtiofsd, vN.pid its pid
//!     version           of the monitor that it was made by
//!     boot              in which run of the host it was made
//!     restore/          the image that is restored, with paths of this sandbox
//!     restoring         a restore was begun and is not over
//! ```
//! A machine holds one container, whose root it brings itself. It has no network: its ports cannot be reached.
//!
//! # Invariants
//! - A guest's write to a volume is a write on the host's mount before the guest is answered; see `virtiofsd.rs`.
//! - An image is never changed: what has to be different for this sandbox goes into a directory beside it.

mod api;

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use serde_json::{Value, json};

use super::files::{self, Shortcut, at};
use super::machine::{self, console, kernel, only_container};
use super::preflight::{self, PROBE, refused};
use super::processes::{self, Mark};
use super::program::{Tool, start_in_background};
use super::{
    Abilities, Accelerator, AfterSave, Connection, Deadline, Network, Runtime, RuntimeError, Sandbox,
    SandboxState, guest, version, virtiofsd,
};

/// The driver.
#[derive(Debug)]
pub(crate) struct CloudHypervisor {
    program: PathBuf,
    /// The kernel's interface for machines.
    kvm: PathBuf,
}

const NAME: &str = "cloud-hypervisor";

const PROGRAM: Tool =
    Tool { name: NAME, remedy: "get it from https://github.com/cloud-hypervisor/cloud-hypervisor/releases" };

const MONITOR: &str = "api.sock";
const INITRAMFS: &str = "initramfs";
/// The number under which it finds the monitor's socket.
const SOCKET: i32 = 3;

/// What an image consists of.
const DESCRIPTION: &str = "config.json";
const OTHER_FILES: [&str; 2] = ["state.json", "memory-ranges"];

/// What a monitor says that has no machine.
const NO_MACHINE: &str = "VM is not created";

/// How long a question may take that has no deadline of its own.
const QUESTION: Duration = Duration::from_secs(2);

impl CloudHypervisor {
    /// Returns the driver.
    pub(crate) fn new() -> CloudHypervisor {
        CloudHypervisor { program: NAME.into(), kvm: "/dev/kvm".into() }
    }

    fn program(&self) -> Result<PathBuf, RuntimeError> {
        if self.program.is_absolute() { Ok(self.program.clone()) } else { PROGRAM.find() }
    }

    /// Starts virtiofsd and the monitor, which has no machine yet.
    fn launch(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        let initramfs = sandbox.machine.initramfs.clone();
        let initramfs = initramfs.ok_or_else(|| refused("initramfs", "a machine needs one"))?;
        version::note(sandbox, &self.probe(deadline)?.version)?;
        let target = sandbox.directory.join(INITRAMFS);
        guest::write_initramfs(sandbox, only_container(sandbox)?, &initramfs, "", &target)?;
        virtiofsd::start(sandbox, deadline)?;
        let program = self.program()?;
        let shortcut = Shortcut::to(&sandbox.directory)?;
        let path = shortcut.path(MONITOR);
        // Ours, so that the first call finds it however late the monitor comes.
        let listener = UnixListener::bind(&path).map_err(at("listen at", &path))?;
        let mapping = FdMapping { parent_fd: listener.into(), child_fd: SOCKET };
        let mut mapped = Ok(());
        start_in_background(
            sandbox,
            &sandbox.directory.join("cloud-hypervisor.log"),
            |command| {
                command.arg(program).arg("--api-socket").arg(format!("fd={SOCKET}"));
                command.current_dir(&sandbox.directory);
                mapped = command.fd_mappings(vec![mapping]).map(drop);
            },
            deadline,
        )?;
        mapped.map_err(|error| failed("start", error.to_string()))?;
        // It answers once it is there.
        api::call(sandbox, "GET", "vmm.ping", None, deadline)?;
        machine::is_made(sandbox)
    }

    fn load(&self, sandbox: &Sandbox, image: &Path, deadline: Deadline) -> Result<(), RuntimeError> {
        let source = image.join(DESCRIPTION);
        let text = std::fs::read(&source).map_err(at("read", &source))?;
        let description: Result<Value, _> = serde_json::from_slice(&text);
        let mut description = description.map_err(|error| failed("restore", error.to_string()))?;
        if !description.is_object() {
            return Err(failed("restore", format!("{} is no description of a machine", source.display())));
        }
        api::place(&mut description, sandbox, &kernel(sandbox)?, &console(sandbox)?);
        let directory = sandbox.directory.join("restore");
        files::create_directory(&directory)?;
        files::write(&directory.join(DESCRIPTION), description.to_string())?;
        for name in OTHER_FILES {
            let link = directory.join(name);
            symlink(image.join(name), &link).map_err(at("write", &link))?;
        }
        self.launch(sandbox, deadline)?;
        let source = json!({ "source_url": url(&directory), "prefault": false });
        api::call(sandbox, "PUT", "vm.restore", Some(&source), deadline)?;
        api::call(sandbox, "PUT", "vm.resume", None, deadline).map(drop)
    }
}

impl Runtime for CloudHypervisor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self, deadline: Deadline) -> Result<Abilities, RuntimeError> {
        let mut command = std::process::Command::new(self.program()?);
        let printed = PROGRAM.output(command.arg("--version"), "--version", deadline)?;
        let printed = String::from_utf8_lossy(&printed);
        let version = printed.split_whitespace().nth(1).unwrap_or_default().to_owned();
        virtiofsd::check(NAME, deadline)?;
        if std::fs::File::options().read(true).write(true).open(&self.kvm).is_err() {
            return Err(RuntimeError::Unsupported {
                runtime: NAME,
                what: "run sandboxes",
                why: format!(
                    "{} is not there, or must not be opened; qemu can do without",
                    self.kvm.display()
                ),
            });
        }
        Ok(Abilities { version, memory: true, several_containers: false })
    }

    fn preflight(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        self.probe(Deadline::after(PROBE))?;
        preflight::check(sandbox)?;
        preflight::check_machine(sandbox)?;
        if sandbox.network != Network::None {
            return Err(refused("network", "only `none` works with cloud-hypervisor so far"));
        }
        if sandbox.machine.accelerator == Accelerator::Tcg {
            return Err(refused("accelerator", "cloud-hypervisor has KVM alone; use qemu"));
        }
        match sandbox.machine.runtime_flags.first() {
            None => Ok(()),
            Some(flag) => Err(refused(format!("runtimeFlags {flag}"), "cloud-hypervisor is given no flags")),
        }
    }

    fn check_save(&self, _sandbox: &Sandbox) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn version_of(&self, sandbox: &Sandbox, _deadline: Deadline) -> Result<String, RuntimeError> {
        version::noted(sandbox, NAME)
    }

    fn create(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        self.kill(sandbox, deadline)?;
        self.launch(sandbox, deadline)?;
        let description = api::machine(sandbox, &kernel(sandbox)?, &console(sandbox)?);
        api::call(sandbox, "PUT", "vm.create", Some(&description), deadline).map(drop)
    }

    fn start(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        self.change(sandbox, "vm.boot", SandboxState::Running, deadline)
    }

    fn pause(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        self.change(sandbox, "vm.pause", SandboxState::Paused, deadline)
    }

    fn resume(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        self.change(sandbox, "vm.resume", SandboxState::Running, deadline)
    }

    fn save(&self, sandbox: &Sandbox, image: &Path, deadline: Deadline) -> Result<AfterSave, RuntimeError> {
        let target = json!({ "destination_url": url(image) });
        let printed = virtiofsd::Printed::so_far(sandbox)?;
        api::call(sandbox, "PUT", "vm.snapshot", Some(&target), deadline)?;
        printed.check_saved(sandbox, NAME)?;
        Ok(AfterSave::Paused)
    }

    fn restore(&self, sandbox: &Sandbox, image: &Path, deadline: Deadline) -> Result<(), RuntimeError> {
        machine::restore(self, sandbox, deadline, || self.load(sandbox, image, deadline))
    }

    fn kill(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        machine::end(sandbox, &[MONITOR, INITRAMFS], deadline)?;
        version::forget(sandbox)?;
        files::remove_tree(&sandbox.directory.join("restore"))
    }

    fn state(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<SandboxState, RuntimeError> {
        if !machine::was_made(sandbox)? {
            return Ok(SandboxState::Absent);
        }
        let info = match api::call(sandbox, "GET", "vm.info", None, deadline) {
            Ok(info) => info,
            // The monitor ends with its machine.
            Err(error) if is_gone(&error) => return exited(sandbox),
            // It was started, and has not been given its machine: `create` was cut short.
            Err(RuntimeError::Failed { detail, .. }) if detail.contains(NO_MACHINE) => {
                return Ok(SandboxState::Absent);
            }
            Err(error) => return Err(error),
        };
        if !machine::is_served(sandbox)? {
            return exited(sandbox);
        }
        match info.get("state").and_then(Value::as_str).unwrap_or_default() {
            "Created" => Ok(SandboxState::Created),
            "Running" => Ok(SandboxState::Running),
            "Paused" => Ok(SandboxState::Paused),
            "Shutdown" => exited(sandbox),
            other => Err(failed("vm.info", format!("the state {other:?} is not expected"))),
        }
    }

    /// As with QEMU: no mapping of a guest is one of the host.
    fn programs(&self, _: &Sandbox) -> Result<Option<Vec<u32>>, RuntimeError> {
        Ok(Some(Vec::new()))
    }

    fn pid(&self, sandbox: &Sandbox) -> Result<Option<u32>, RuntimeError> {
        let ping = api::call(sandbox, "GET", "vmm.ping", None, Deadline::after(QUESTION));
        let pid = match ping {
            Ok(answer) => answer.get("pid").and_then(Value::as_u64).and_then(|pid| pid.try_into().ok()),
            Err(error) if is_gone(&error) => None,
            Err(error) => return Err(error),
        };
        processes::marked(pid, &Mark::of(sandbox))
    }

    fn connect(&self, _: &Sandbox, _: u16, _: Deadline) -> Result<Connection, RuntimeError> {
        Err(RuntimeError::Unsupported {
            runtime: NAME,
            what: "connect to a port inside",
            why: "its machines have no network so far; leave readyz out, or use qemu".to_owned(),
        })
    }
}

impl CloudHypervisor {
    /// Asks for a state; that the machine is in it already is no error.
    fn change(
        &self,
        sandbox: &Sandbox,
        action: &str,
        wanted: SandboxState,
        deadline: Deadline,
    ) -> Result<(), RuntimeError> {
        let Err(error) = api::call(sandbox, "PUT", action, None, deadline) else { return Ok(()) };
        if matches!(error, RuntimeError::TimedOut { .. }) {
            return Err(error);
        }
        match self.state(sandbox, deadline)? {
            state if state == wanted => Ok(()),
            SandboxState::Exited { container, status } => Err(RuntimeError::Exited { container, status }),
            _ => Err(error),
        }
    }
}

/// Tells whether nobody listens at the monitor's socket any more. Whatever else goes wrong says nothing about it.
fn is_gone(error: &RuntimeError) -> bool {
    let gone = [ErrorKind::NotFound, ErrorKind::ConnectionRefused];
    matches!(error, RuntimeError::Io { source, .. } if gone.contains(&source.kind()))
}

fn failed(action: &str, detail: String) -> RuntimeError {
    RuntimeError::Failed { program: NAME.to_owned(), action: action.to_owned(), detail }
}

fn url(directory: &Path) -> String {
    format!("file://{}", directory.display())
}

/// The machine ended; how its command did is not told.
fn exited(sandbox: &Sandbox) -> Result<SandboxState, RuntimeError> {
    Ok(SandboxState::Exited { container: only_container(sandbox)?.name.clone(), status: None })
}

#[cfg(test)]
mod tests;
