//! Calling runsc.
//!
//! # Invariants
//! - Each sandbox has a state directory of its own, so whatever mentions it belongs to the sandbox, and nobody else's is touched.
//! - Our own flags come last, and so decide.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::bundle::{is_root, runsc_id};
use crate::runtime::files::{self, at};
use crate::runtime::processes::{self, Mark};
use crate::runtime::program::{Tool, append_to, last_lines, ordinary};
use crate::runtime::{Container, Deadline, Network, RuntimeError, Sandbox};

pub(super) const RUNSC: Tool = Tool {
    name: "runsc",
    remedy: "install gVisor, e.g. the package runsc; Debian 12 has a usable one in bookworm-backports",
};

/// What a template gets that does not name a platform.
const PLATFORM: &str = "systrap";

/// The runsc of one sandbox.
pub(super) struct Runsc<'a> {
    sandbox: &'a Sandbox,
}

/// What runsc says of a container.
#[derive(Deserialize, Debug)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) status: Status,
}

/// The states of a container, in the words of the OCI runtime specification.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl<'a> Runsc<'a> {
    pub(super) fn of(sandbox: &'a Sandbox) -> Runsc<'a> {
        Runsc { sandbox }
    }

    /// Returns the directory in which runsc keeps what it knows of this sandbox.
    pub(super) fn root(&self) -> PathBuf {
        self.sandbox.directory.join("runsc")
    }

    /// Returns by what the processes of this sandbox are known.
    pub(super) fn mark(&self) -> Mark {
        Mark::of(self.sandbox).or_argument(&self.root_flag())
    }

    /// Returns where runsc writes the pid of a container's sandbox.
    pub(super) fn pid_file(&self) -> PathBuf {
        self.sandbox.directory.join("pid")
    }

    fn root_flag(&self) -> OsString {
        let mut flag = OsString::from("--root=");
        flag.push(self.root());
        flag
    }

    fn log(&self) -> PathBuf {
        self.sandbox.directory.join("runsc.log")
    }

    /// Returns a command of runsc, up to and including its own command's name.
    pub(super) fn command(&self, action: &str) -> Command {
        let machine = &self.sandbox.machine;
        let network = match self.sandbox.network {
            // Not `none`: its ports could not be reached for the readiness probe. The namespace it gets has nothing but itself.
            Network::None | Network::Own => "sandbox",
            Network::Host => "host",
        };
        let mut log = OsString::from("--log=");
        log.push(self.log());
        let mut command = RUNSC.command(self.sandbox);
        command.arg("--overlay2=root:memory");
        command.args(&machine.runtime_flags);
        command.args([
            "--file-access-mounts=shared".to_owned(),
            "--ignore-cgroups".to_owned(),
            format!("--platform={}", machine.platform.as_deref().unwrap_or(PLATFORM)),
            format!("--network={network}"),
            // Connections over a link end when memory is saved, as they would anyway; otherwise they keep it from being saved.
            "--net-disconnect-ok=true".to_owned(),
        ]);
        command.arg(log).arg(self.root_flag()).arg(action);
        command
    }

    /// Runs a command that answers on its standard output.
    pub(super) fn output(
        &self,
        action: &str,
        arguments: &[&str],
        deadline: Deadline,
    ) -> Result<Vec<u8>, RuntimeError> {
        RUNSC.output(self.command(action).args(arguments), action, deadline)
    }

    /// Runs a command that leaves processes behind, whose output is collected with the container's.
    pub(super) fn leave_running(
        &self,
        container: &Container,
        command: Command,
        action: &str,
        deadline: Deadline,
    ) -> Result<(), RuntimeError> {
        let path = self.sandbox.output(&container.name);
        let output = append_to(&path)?;
        let begin = output.metadata().map_err(at("read", &path))?.len();
        let error = output.try_clone().map_err(at("write", &path))?;
        let mut command = ordinary(&command);
        let finished =
            RUNSC.finish(command.stdout(Stdio::from(output)).stderr(Stdio::from(error)), action, deadline)?;
        if finished.status.success() {
            return Ok(());
        }
        // runsc says why on the container's standard error, the only one it has.
        let said = std::fs::read(&path).map_err(at("read", &path))?;
        let said = usize::try_from(begin).ok().and_then(|begin| said.get(begin..)).unwrap_or_default();
        Err(RUNSC.failed(action, last_lines(said).as_bytes(), finished.status))
    }

    /// Returns the process of the sandbox, if it is there.
    pub(super) fn pid(&self) -> Result<Option<u32>, RuntimeError> {
        let pid = files::read(&self.pid_file())?.and_then(|text| text.trim().parse().ok());
        processes::marked(pid, &self.mark())
    }

    /// Returns the states of the sandbox's containers, in their order; `None` for one that is not there.
    pub(super) fn statuses(&self, deadline: Deadline) -> Result<Vec<Option<Status>>, RuntimeError> {
        if !self.root().is_dir() {
            return Ok(vec![None; self.sandbox.containers.len()]);
        }
        // What was noted last: runsc looks whether it is still so only where it is asked for one.
        let noted = self.listed(deadline)?;
        let is_alive = self.pid()?.is_some();
        let status = |(container, noted): (&Container, &Option<Status>)| match noted {
            Some(Status::Created | Status::Running | Status::Paused) if !is_alive => {
                Ok(Some(Status::Stopped))
            }
            Some(Status::Running) if !is_root(self.sandbox, container) => {
                let printed = self.output("state", &[&runsc_id(self.sandbox, container)], deadline)?;
                Ok(Some(self.parse::<Listed>("state", &printed)?.status))
            }
            other => Ok(*other),
        };
        self.sandbox.containers.iter().zip(&noted).map(status).collect()
    }

    /// Tells whether the tasks of the sandbox stand still, whatever was noted: gVisor itself is asked where they are.
    pub(super) fn stands_still(&self, deadline: Deadline) -> Result<bool, RuntimeError> {
        let printed = self.output("debug", &["--stacks", &self.sandbox.id], deadline)?;
        stand_still(&String::from_utf8_lossy(&printed)).ok_or_else(|| RuntimeError::Failed {
            program: RUNSC.name.to_owned(),
            action: "debug".to_owned(),
            detail: "it does not tell whether the sandbox is paused".to_owned(),
        })
    }

    fn listed(&self, deadline: Deadline) -> Result<Vec<Option<Status>>, RuntimeError> {
        let printed = self.output("list", &["--format=json"], deadline)?;
        // Go's way of writing an empty list is `null`.
        let listed: Vec<Listed> = self.parse::<Option<_>>("list", &printed)?.unwrap_or_default();
        let status = |container| {
            let id = runsc_id(self.sandbox, container);
            listed.iter().find(|listed| listed.id == id).map(|listed| listed.status)
        };
        Ok(self.sandbox.containers.iter().map(status).collect())
    }

    fn parse<'d, T: Deserialize<'d>>(&self, action: &str, printed: &'d [u8]) -> Result<T, RuntimeError> {
        serde_json::from_slice(printed).map_err(|error| {
            let detail = format!("{error} in {}", String::from_utf8_lossy(printed));
            RuntimeError::Failed { program: RUNSC.name.to_owned(), action: action.to_owned(), detail }
        })
    }
}

/// Tells from the stacks of gVisor whether all its tasks wait for being let go on; `None` if there is none, or their names are others.
fn stand_still(stacks: &str) -> Option<bool> {
    const TASK: &str = "kernel.(*Task).run(";
    const STOPPED: &str = "kernel.(*Task).doStop(";
    let mut tasks = stacks.split("\n\n").filter(|stack| stack.contains(TASK)).peekable();
    tasks.peek()?;
    Some(tasks.all(|stack| stack.contains(STOPPED)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_stands_still_when_all_its_tasks_do() {
        let other = "goroutine 1 [running]:\nlog.Stacks(0x1)\n";
        let task = |name: &str| {
            format!("goroutine 7 [select]:\nkernel.(*Task).{name}(0xc0)\nkernel.(*Task).run(0xc0)\n")
        };
        let told = |stacks: &[&str]| stand_still(&stacks.join("\n"));
        let (stopped, blocked) = (task("doStop"), task("block"));
        assert_eq!(told(&[other, &stopped, &stopped]), Some(true));
        assert_eq!(told(&[other, &stopped, &blocked]), Some(false));
        assert_eq!(told(&[other]), None);
    }
}
