//! Plain processes of the host, for machines that have neither gVisor nor microVMs.
//!
//! # Overview
//! ```text
//!   sandbox.directory/containers/NAME/
//!     run.sh    what runs it
//!     started   claimed by the shell that stands for the container (`container.sh`)
//!     pid       that shell
//!     entered   the program is about to run
//!     exit      how it ended
//!     root      where its root is mounted, in its own namespace
//! ```
//! A container has namespaces of its own for mounts, processes, IPC and its host name; the sandbox has one for the network, unless it
//! uses the host's. It shares the host's kernel and users: walls against accidents, not against attacks.
//!
//! # Invariants
//! - A volume is a bind mount in the container's namespace: its programs' calls are calls on the mount.
//! - A paused sandbox is frozen as one group; a process that was started while it was being frozen is frozen too.
//!
//! # Crash consistency
//! The group is made last: without it there is no sandbox. The shell that runs a container claims it by making a directory, so a
//! second `start` does not run it twice.

mod freezer;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use self::freezer::{Activity, Group, Hierarchy};
use super::files::{self, at};
use super::link::{self, IP, Reach};
use super::preflight::{self, PROBE, refused};
use super::processes::{self, Mark};
use super::program::{Tool, last_lines, start_in_background};
use super::{
    Abilities, AfterSave, Connection, Container, Deadline, Network, Runtime, RuntimeError, Sandbox,
    SandboxState,
};

/// The driver.
#[derive(Debug)]
pub(crate) struct Process {
    /// The hierarchy to use; `None`: the best there is.
    hierarchy: Option<Hierarchy>,
}

const NAME: &str = "process";

/// What runs a container, see its head.
const SCRIPT: &str = include_str!("container.sh");

const FROM_UTIL_LINUX: &str = "install the packages util-linux and mount";

const TOOLS: [Tool; 6] = [
    Tool { name: "setsid", remedy: FROM_UTIL_LINUX },
    Tool { name: "unshare", remedy: FROM_UTIL_LINUX },
    Tool { name: "nsenter", remedy: FROM_UTIL_LINUX },
    Tool { name: "setpriv", remedy: FROM_UTIL_LINUX },
    Tool { name: "mount", remedy: FROM_UTIL_LINUX },
    Tool { name: "umount", remedy: FROM_UTIL_LINUX },
];

/// Between two looks for a file that a container's shell makes.
const LOOK: Duration = Duration::from_millis(1);

impl Process {
    /// Returns the driver.
    pub(crate) fn new() -> Process {
        Process { hierarchy: None }
    }

    fn group(&self, sandbox: &Sandbox) -> Result<Group, RuntimeError> {
        Ok(match &self.hierarchy {
            Some(hierarchy) => hierarchy.group(sandbox),
            None => Hierarchy::find()?.group(sandbox),
        })
    }
}

impl Runtime for Process {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self, _deadline: Deadline) -> Result<Abilities, RuntimeError> {
        let hierarchy = Hierarchy::find()?;
        let version = format!("cgroup {:?}", hierarchy.version).to_lowercase();
        Ok(Abilities { version, memory: false, several_containers: true })
    }

    fn preflight(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        TOOLS.iter().try_for_each(Tool::check)?;
        self.probe(Deadline::after(PROBE))?;
        preflight::check(sandbox)?;
        if sandbox.network != Network::Host {
            IP.check()?;
        }
        if let Some(container) = sandbox.containers.iter().find(|container| container.rootfs.is_none()) {
            return Err(refused(
                format!("containers.{}.rootfs", container.name),
                "a process needs a directory of the host as its root: name one; it is not changed",
            ));
        }
        if let Some(flag) = sandbox.machine.runtime_flags.first() {
            return Err(refused(format!("runtimeFlags {flag}"), "there is no runtime that would take flags"));
        }
        self.group(sandbox).map(drop)
    }

    fn check_save(&self, _sandbox: &Sandbox) -> Result<(), RuntimeError> {
        Err(no_memory())
    }

    fn version_of(&self, _sandbox: &Sandbox, _deadline: Deadline) -> Result<String, RuntimeError> {
        Err(no_memory())
    }

    fn create(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        self.kill(sandbox, deadline)?;
        match sandbox.network {
            Network::None => link::make(sandbox, Reach::Itself, deadline)?,
            Network::Own => link::make(sandbox, Reach::Host, deadline)?,
            Network::Host => {}
        }
        for container in &sandbox.containers {
            let state = state_directory(sandbox, container);
            files::create_directory(&state.join("root"))?;
            files::write(&state.join("run.sh"), SCRIPT)?;
        }
        self.group(sandbox)?.make(sandbox)
    }

    fn start(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        let group = self.group(sandbox)?;
        for container in &sandbox.containers {
            if !state_directory(sandbox, container).join("started").exists() {
                run(sandbox, container, &group.entrance(&container.name), deadline)?;
            }
        }
        sandbox.containers.iter().try_for_each(|container| await_program(sandbox, container, deadline))
    }

    fn pause(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        if !self.group(sandbox)?.freeze(deadline)? {
            return Err(timed_out("pause"));
        }
        match self.state(sandbox, deadline)? {
            SandboxState::Exited { container, status } => Err(RuntimeError::Exited { container, status }),
            _ => Ok(()),
        }
    }

    fn resume(&self, sandbox: &Sandbox, _deadline: Deadline) -> Result<(), RuntimeError> {
        self.group(sandbox)?.thaw()
    }

    fn save(&self, _: &Sandbox, _: &Path, _: Deadline) -> Result<AfterSave, RuntimeError> {
        Err(no_memory())
    }

    fn restore(&self, _: &Sandbox, _: &Path, _: Deadline) -> Result<(), RuntimeError> {
        Err(no_memory())
    }

    fn kill(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        let group = self.group(sandbox)?;
        let dying = || timed_out("dying");
        // A shell may be on its way into the group, and programs of the group carry no mark: hence both, twice.
        if !group.end_processes(deadline)? {
            return Err(dying());
        }
        processes::end(&Mark::of(sandbox), deadline)?;
        if !group.end(deadline)? {
            return Err(dying());
        }
        link::remove(sandbox, deadline)?;
        files::remove_tree(&sandbox.directory.join("containers"))
    }

    fn state(&self, sandbox: &Sandbox, _deadline: Deadline) -> Result<SandboxState, RuntimeError> {
        let activity = self.group(sandbox)?.activity()?;
        if activity == Activity::Absent {
            return Ok(SandboxState::Absent);
        }
        let mut all_started = true;
        for container in &sandbox.containers {
            let state = state_directory(sandbox, container);
            if let Some(status) = files::read(&state.join("exit"))? {
                let container = container.name.clone();
                return Ok(SandboxState::Exited { container, status: status.trim().parse().ok() });
            }
            all_started &= state.join("started").exists();
        }
        Ok(match (activity, sandbox.containers.first()) {
            (Activity::Frozen, _) => SandboxState::Paused,
            (Activity::Empty, Some(first)) if all_started => {
                // Killed from outside together with the shell that would have told.
                SandboxState::Exited { container: first.name.clone(), status: None }
            }
            _ if all_started => SandboxState::Running,
            _ => SandboxState::Created,
        })
    }

    fn programs(&self, sandbox: &Sandbox) -> Result<Option<Vec<u32>>, RuntimeError> {
        self.group(sandbox)?.pids().map(Some)
    }

    fn pid(&self, sandbox: &Sandbox) -> Result<Option<u32>, RuntimeError> {
        let Some(first) = sandbox.containers.first() else { return Ok(None) };
        let pid = files::read(&state_directory(sandbox, first).join("pid"))?;
        let pid = pid.and_then(|text| text.trim().parse().ok());
        processes::marked(pid, &Mark::of(sandbox))
    }

    fn connect(&self, sandbox: &Sandbox, port: u16, deadline: Deadline) -> Result<Connection, RuntimeError> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into();
        if sandbox.network == Network::Host {
            return Connection::tcp(NAME, address, deadline);
        }
        let path = link::namespace_path(sandbox);
        let namespace = File::open(&path).map_err(at("enter", &path))?;
        // A thread of its own enters the sandbox's network: the socket stays there, and the thread ends.
        let entered = thread::Builder::new().name("connect".to_owned()).spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| at("enter", &path)(errno.into()))?;
            Connection::tcp(NAME, address, deadline)
        });
        let entered = entered.map_err(at("connect to", Path::new(NAME)))?.join();
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn no_memory() -> RuntimeError {
    RuntimeError::Unsupported {
        runtime: NAME,
        what: "save memory",
        why: "plain processes have no memory image; capture with scope Data, or use gvisor or microvm"
            .to_owned(),
    }
}

fn timed_out(action: &str) -> RuntimeError {
    RuntimeError::TimedOut { program: NAME.to_owned(), action: action.to_owned() }
}

fn state_directory(sandbox: &Sandbox, container: &Container) -> PathBuf {
    sandbox.directory.join("containers").join(&container.name)
}

/// Starts the shell that runs a container.
fn run(
    sandbox: &Sandbox,
    container: &Container,
    entrance: &Path,
    deadline: Deadline,
) -> Result<(), RuntimeError> {
    let state = state_directory(sandbox, container);
    let network = match sandbox.network {
        Network::Host => PathBuf::new(),
        Network::None | Network::Own => link::namespace_path(sandbox),
    };
    let (uid, gid) = container.user;
    start_in_background(
        sandbox,
        &sandbox.output(&container.name),
        |command| {
            command.arg("sh").arg(state.join("run.sh")).arg("outside").arg(&state);
            command.arg(entrance).arg(network).arg(&sandbox.id).args(&container.rootfs);
            command.arg(&container.working_directory).args([uid, gid].map(|id| id.to_string()));
            command.arg(container.mounts.len().to_string());
            for mount in &container.mounts {
                command.arg(&mount.source).arg(&mount.destination);
            }
            command.arg(container.env.len().to_string());
            command.args(container.env.iter().map(|(name, value)| format!("{name}={value}")));
            command.args(&container.command);
        },
        deadline,
    )
}

/// Waits until a container's program runs, or did.
fn await_program(sandbox: &Sandbox, container: &Container, deadline: Deadline) -> Result<(), RuntimeError> {
    let state = state_directory(sandbox, container);
    loop {
        // Asked first: a program that ran and ended has left both.
        let exited = state.join("exit").exists();
        if state.join("entered").exists() {
            return Ok(());
        }
        if exited {
            let said = files::read(&sandbox.output(&container.name))?.unwrap_or_default();
            return Err(RuntimeError::Failed {
                program: NAME.to_owned(),
                action: format!("start container {}", container.name),
                detail: last_lines(said.as_bytes()),
            });
        }
        if deadline.passed() {
            return Err(timed_out("start"));
        }
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests;
