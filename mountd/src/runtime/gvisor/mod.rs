//! Sandboxes of gVisor, through its program runsc.
//!
//! # Overview
//! ```text
//!   sandbox.directory/
//!     runsc/          runsc's own state
//!     bundles/NAME/   config.json of each container
//!     roots/NAME/     where runsc sees its root, see `root.rs`
//!     pid             the sandbox's process on the host
//!     runsc.log       what runsc says that has no reader
//!     version         of the runsc that it was made by
//!     pausing         a pause was begun and may not be over
//!     restoring       a restore was begun and is not over
//!     network         see `link.rs`
//! ```
//! The first container is the root of the sandbox: when it ends, gVisor ends the others.
//!
//! # Invariants
//! - Writes of programs reach the mounts before they return: see `bundle.rs` and `flags.rs`.
//! - A restore that failed leaves no process, and no name of gVisor's in a volume.
//!
//! # Crash consistency
//! runsc goes on when a worker dies over it. It locks a container's state, so the successor's calls come after; what makes or
//! takes away a sandbox ends such a left-over first. Of a pause that was not seen to end, the outcome is looked up: runsc may have been killed
//! before it noted what gVisor did. A `restoring` that is found says that volumes may hold names that gVisor made.

mod bundle;
mod flags;
mod oci;
mod root;
mod runsc;
mod sweep;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::bundle::runsc_id;
use self::root::{MOUNT, UNSHARE, XARGS};
use self::runsc::{RUNSC, Runsc, Status};
use self::sweep::FIND;
use super::files::{self, Shortcut, at};
use super::link::{self, IP, Link, Reach};
use super::preflight::{self, PROBE, refused};
use super::program::{Finished, await_one, readable};
use super::remembered::Remembered;
use super::{
    Abilities, AfterSave, Connection, Container, Deadline, Network, Runtime, RuntimeError, Sandbox,
    SandboxState, processes, version,
};

/// The driver.
#[derive(Debug)]
pub(crate) struct GVisor;

const NAME: &str = "gvisor";

impl Runtime for GVisor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self, deadline: Deadline) -> Result<Abilities, RuntimeError> {
        static ABILITIES: Remembered<Abilities> = Remembered::nothing();
        ABILITIES.or_ask(&RUNSC, || ask(deadline))
    }

    fn preflight(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        self.probe(Deadline::after(PROBE))?;
        for tool in [UNSHARE, MOUNT, FIND, XARGS] {
            tool.check()?;
        }
        preflight::check(sandbox)?;
        if let Some(container) = sandbox.containers.iter().find(|container| container.rootfs.is_none()) {
            return Err(needs_rootfs(container));
        }
        if sandbox.network != Network::Host {
            IP.check()?;
        }
        flags::check(sandbox)
    }

    fn check_save(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        let unsupported = |why| Err(RuntimeError::Unsupported { runtime: NAME, what: "save memory", why });
        if sandbox.network == Network::Host {
            let why = "sockets of the host's network are not the sandbox's to save; give it a network of its own, or none";
            return unsupported(why.to_owned());
        }
        let deadline = Deadline::after(QUESTION);
        let (running, installed) = (self.version_of(sandbox, deadline)?, self.probe(deadline)?.version);
        if running != installed {
            // The one that is installed would ask the one that runs to save, and no version of gVisor is made for that.
            return unsupported(format!(
                "the sandbox runs on version {running}, and version {installed} was installed since; capture with scope \
                 Data, or install version {running} again"
            ));
        }
        Ok(())
    }

    fn version_of(&self, sandbox: &Sandbox, _deadline: Deadline) -> Result<String, RuntimeError> {
        version::noted(sandbox, NAME)
    }

    fn create(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        self.kill(sandbox, deadline)?;
        for (container, bundle) in prepare(sandbox, deadline)? {
            create_one(sandbox, container, &bundle, deadline)?;
        }
        Ok(())
    }

    fn start(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        let runsc = Runsc::of(sandbox);
        for (container, status) in sandbox.containers.iter().zip(runsc.statuses(deadline)?) {
            // The others were started by a call that was cut short.
            if matches!(status, Some(Status::Created)) {
                let mut command = root::show(sandbox, container, runsc.command("start"));
                RUNSC.output(command.arg(runsc_id(sandbox, container)), "start", deadline)?;
            }
        }
        Ok(())
    }

    fn pause(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        files::write(&pausing(sandbox), "")?;
        let finished = ask_for(sandbox, "pause", deadline)?;
        // One that was killed may have paused the sandbox, and not noted it.
        if finished.status.code().is_some() {
            files::remove(&pausing(sandbox))?;
        }
        judge(sandbox, "pause", Status::Paused, &finished, deadline)
    }

    fn resume(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        if pausing(sandbox).exists() {
            // Were it to pause the sandbox after this call, nobody would resume it.
            if !processes::await_marked(&Runsc::of(sandbox).mark(), "pause", deadline)? {
                return Err(RuntimeError::TimedOut { program: NAME.to_owned(), action: "pause".to_owned() });
            }
            check_noted(sandbox, deadline)?;
            files::remove(&pausing(sandbox))?;
        }
        let finished = ask_for(sandbox, "resume", deadline)?;
        judge(sandbox, "resume", Status::Running, &finished, deadline)
    }

    fn save(&self, sandbox: &Sandbox, image: &Path, deadline: Deadline) -> Result<AfterSave, RuntimeError> {
        self.check_save(sandbox)?;
        let runsc = Runsc::of(sandbox);
        let mut command = runsc.command("checkpoint");
        command.args(["--leave-running", "--image-path"]).arg(image).arg(&sandbox.id);
        match RUNSC.output(&mut command, "checkpoint", deadline) {
            Ok(_) => Ok(AfterSave::Paused),
            Err(RuntimeError::Failed { detail, .. }) if detail.contains(WITHOUT_A_NAME) => {
                Err(RuntimeError::Unsupported {
                    runtime: NAME,
                    what: "save memory",
                    why: format!(
                        "a program keeps a file of a volume open that was removed, which this version of gVisor cannot save; \
                         capture with scope Data, or use a newer version ({detail})"
                    ),
                })
            }
            Err(error) => Err(error),
        }
    }

    fn restore(&self, sandbox: &Sandbox, image: &Path, deadline: Deadline) -> Result<(), RuntimeError> {
        self.kill(sandbox, deadline)?;
        sweep::begin(sandbox)?;
        let restored = restore_all(sandbox, image, deadline);
        match restored {
            Ok(()) => sweep::end(sandbox),
            Err(error) => {
                // Also takes away what gVisor left in the volumes. The error that is told is the first one.
                if let Err(also) = self.kill(sandbox, deadline.at_least(CLEAN_UP)) {
                    tracing::warn!(error = %also, sandbox = sandbox.id, "a sandbox that could not be restored leaves remains");
                }
                Err(error)
            }
        }
    }

    fn kill(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        let runsc = Runsc::of(sandbox);
        // Everything that belongs to it has its state directory among its arguments. runsc itself would do the same, a process for
        // each container, and stumble over what an interrupted call left.
        processes::end(&runsc.mark(), deadline)?;
        sweep::after_failed_restore(sandbox, deadline)?;
        link::remove(sandbox, deadline)?;
        for path in [runsc.root(), bundles(sandbox)] {
            files::remove_tree(&path)?;
        }
        root::remove(sandbox)?;
        version::forget(sandbox)?;
        files::remove(&pausing(sandbox))?;
        files::remove(&runsc.pid_file())
    }

    fn state(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<SandboxState, RuntimeError> {
        if sweep::is_under_way(sandbox) {
            return Ok(SandboxState::Absent);
        }
        let runsc = Runsc::of(sandbox);
        // From a call that was cut short: it is paused, or will be in a moment.
        if pausing(sandbox).exists()
            && !processes::await_marked(&runsc.mark(), "pause", Deadline::after(Duration::ZERO))?
        {
            return Ok(SandboxState::Paused);
        }
        let statuses = runsc.statuses(deadline)?;
        if let Some(container) = find(sandbox, &statuses, Status::Stopped) {
            let status = exit_status(sandbox, container, &statuses, deadline)?;
            return Ok(SandboxState::Exited { container: container.name.clone(), status });
        }
        Ok(match statuses.first().copied().flatten() {
            // What is paused is the whole sandbox, and only its root is marked.
            Some(Status::Paused) => SandboxState::Paused,
            _ if statuses.contains(&None) || statuses.contains(&Some(Status::Creating)) => {
                SandboxState::Absent
            }
            _ if statuses.contains(&Some(Status::Created)) => SandboxState::Created,
            _ => SandboxState::Running,
        })
    }

    /// The sentry maps what programs map, and so do the processes that run them for it: its children.
    fn programs(&self, sandbox: &Sandbox) -> Result<Option<Vec<u32>>, RuntimeError> {
        Ok(Runsc::of(sandbox).pid()?.and_then(processes::with_descendants))
    }

    fn pid(&self, sandbox: &Sandbox) -> Result<Option<u32>, RuntimeError> {
        Runsc::of(sandbox).pid()
    }

    fn connect(&self, sandbox: &Sandbox, port: u16, deadline: Deadline) -> Result<Connection, RuntimeError> {
        let address = match sandbox.network {
            Network::None => return forward(sandbox, port, deadline),
            Network::Host => SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            Network::Own => match Link::of(sandbox)? {
                Some(link) => link.port(port),
                None => return Err(not_there(sandbox)),
            },
        };
        Connection::tcp(NAME, address.into(), deadline)
    }
}

/// Asks runsc what it can do.
fn ask(deadline: Deadline) -> Result<Abilities, RuntimeError> {
    let printed = RUNSC.output(RUNSC.plain_command().arg("--version"), "--version", deadline)?;
    let printed = String::from_utf8_lossy(&printed);
    let version = printed.lines().next().unwrap_or_default();
    let version = version.strip_prefix("runsc version ").unwrap_or(version).trim().to_owned();
    let mut command = RUNSC.plain_command();
    command.arg("flags").stdout(Stdio::piped()).stderr(Stdio::piped());
    // Told on the one or on the other, and with any status.
    let told = RUNSC.finish(&mut command, "flags", deadline)?;
    if ![told.stdout, told.stderr].iter().any(|told| String::from_utf8_lossy(told).contains("-overlay2")) {
        return Err(RuntimeError::Unsupported {
            runtime: NAME,
            what: "run sandboxes",
            why: format!("runsc {version} is too old: it has no setting overlay2; {}", RUNSC.remedy),
        });
    }
    Ok(Abilities { version, memory: true, several_containers: true })
}

/// What gVisor says where it meets such a file. The sandbox stays as it was.
const WITHOUT_A_NAME: &str = "deleted and invalidated dentries";

/// How long what is to be cleaned up after a failure may take, whatever was left of the call's own time.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// How long a question may take that has no deadline of its own.
const QUESTION: Duration = Duration::from_secs(10);

fn needs_rootfs(container: &Container) -> RuntimeError {
    refused(
        format!("containers.{}.rootfs", container.name),
        "gVisor runs programs of a directory of the host: name one; it is not changed",
    )
}

/// Returns the file that says that a call of `runsc pause` was begun and is not known to be over.
fn pausing(sandbox: &Sandbox) -> PathBuf {
    sandbox.directory.join("pausing")
}

fn not_there(sandbox: &Sandbox) -> RuntimeError {
    RuntimeError::Failed {
        program: NAME.to_owned(),
        action: "connect".to_owned(),
        detail: format!("there is no sandbox {}", sandbox.id),
    }
}

fn bundles(sandbox: &Sandbox) -> PathBuf {
    sandbox.directory.join("bundles")
}

/// Writes all bundles, and makes the network. The order is that of the template, in which runsc needs them as well.
fn prepare(sandbox: &Sandbox, deadline: Deadline) -> Result<Vec<(&Container, PathBuf)>, RuntimeError> {
    version::note(sandbox, &GVisor.probe(deadline)?.version)?;
    let reach = match sandbox.network {
        Network::None => Some(Reach::Itself),
        Network::Own => Some(Reach::Host),
        Network::Host => None,
    };
    if let Some(reach) = reach {
        link::make(sandbox, reach, deadline)?;
    }
    let network = reach.map(|_| link::namespace_path(sandbox));
    files::create_directory(&Runsc::of(sandbox).root())?;
    let bundles = bundles(sandbox);
    sandbox
        .containers
        .iter()
        .map(|container| Ok((container, bundle::write(sandbox, container, &bundles, network.clone())?)))
        .collect()
}

fn create_one(
    sandbox: &Sandbox,
    container: &Container,
    bundle: &Path,
    deadline: Deadline,
) -> Result<(), RuntimeError> {
    let runsc = Runsc::of(sandbox);
    let mut command = root::show(sandbox, container, runsc.command("create"));
    command.arg("--bundle").arg(bundle);
    if bundle::is_root(sandbox, container) {
        command.arg("--pid-file").arg(runsc.pid_file());
    }
    command.arg(runsc_id(sandbox, container));
    runsc.leave_running(container, command, "create", deadline)
}

/// Restores each container. gVisor waits until it was told of all that were saved, and then lets them go on together.
fn restore_all(sandbox: &Sandbox, image: &Path, deadline: Deadline) -> Result<(), RuntimeError> {
    let runsc = Runsc::of(sandbox);
    for (container, bundle) in prepare(sandbox, deadline)? {
        let mut command = root::show(sandbox, container, runsc.command("restore"));
        command.args(["--detach", "--image-path"]).arg(image).arg("--bundle").arg(&bundle);
        if bundle::is_root(sandbox, container) {
            command.arg("--pid-file").arg(runsc.pid_file());
        }
        command.arg(runsc_id(sandbox, container));
        runsc.leave_running(container, command, "restore", deadline)?;
    }
    Ok(())
}

/// Asks for a state, which is that of the root, and returns how runsc ended over that.
fn ask_for(sandbox: &Sandbox, action: &str, deadline: Deadline) -> Result<Finished, RuntimeError> {
    // runsc notes the state after gVisor is in it: cut off in between, it would not know of a pause, and refuse to end it.
    let mut command = Runsc::of(sandbox).command(action);
    RUNSC.finish_or_leave(command.arg(&sandbox.id), action, deadline)
}

/// Refuses a sandbox that stands still though runsc noted that it runs. runsc resumes nothing but what it knows to be paused, and to
/// pause it once more does not help: gVisor counts, and would have to be resumed twice.
fn check_noted(sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
    let runsc = Runsc::of(sandbox);
    let noted = runsc.statuses(deadline)?.first().copied().flatten();
    if matches!(noted, Some(Status::Created | Status::Running)) && runsc.stands_still(deadline)? {
        return Err(RuntimeError::Failed {
            program: RUNSC.name.to_owned(),
            action: "resume".to_owned(),
            detail: "runsc was killed while it paused the sandbox, which it cannot resume since".to_owned(),
        });
    }
    Ok(())
}

/// Returns what came of asking for a state; that the sandbox is in it already is no error.
fn judge(
    sandbox: &Sandbox,
    action: &str,
    wanted: Status,
    finished: &Finished,
    deadline: Deadline,
) -> Result<(), RuntimeError> {
    if finished.status.success() {
        return Ok(());
    }
    let refused = RUNSC.failed(action, &finished.stderr, finished.status);
    if Runsc::of(sandbox).statuses(deadline)?.first() == Some(&Some(wanted)) {
        return Ok(());
    }
    match GVisor.state(sandbox, deadline)? {
        SandboxState::Exited { container, status } => Err(RuntimeError::Exited { container, status }),
        _ => Err(refused),
    }
}

fn find<'a>(sandbox: &'a Sandbox, statuses: &[Option<Status>], wanted: Status) -> Option<&'a Container> {
    let mut pairs = sandbox.containers.iter().zip(statuses);
    pairs.find(|(_, status)| **status == Some(wanted)).map(|(container, _)| container)
}

/// Returns how a container ended. While the sandbox lives it remembers that; its root takes the knowledge along.
fn exit_status(
    sandbox: &Sandbox,
    container: &Container,
    statuses: &[Option<Status>],
    deadline: Deadline,
) -> Result<Option<i32>, RuntimeError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Waited {
        exit_status: i32,
    }
    if statuses.first() == Some(&Some(Status::Stopped)) {
        return Ok(None);
    }
    let id = runsc_id(sandbox, container);
    match Runsc::of(sandbox).output("wait", &[&id], deadline) {
        Ok(printed) => Ok(serde_json::from_slice(&printed).ok().map(|Waited { exit_status }| exit_status)),
        // The sandbox ended meanwhile.
        Err(RuntimeError::Failed { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Has gVisor connect a socket of ours to a port inside: the only way into a sandbox without a network.
fn forward(sandbox: &Sandbox, port: u16, deadline: Deadline) -> Result<Connection, RuntimeError> {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    let shortcut = Shortcut::to(&sandbox.directory)?;
    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let path = shortcut.path(&format!("connect-{}-{number}", std::process::id()));
    // Of an earlier process that had our number.
    files::remove(&path)?;
    let listener = UnixListener::bind(&path).map_err(at("listen at", &path))?;
    let connected = forward_to(&listener, &path, sandbox, port, deadline);
    files::remove(&path)?;
    connected
}

fn forward_to(
    listener: &UnixListener,
    path: &Path,
    sandbox: &Sandbox,
    port: u16,
    deadline: Deadline,
) -> Result<Connection, RuntimeError> {
    let action = "port-forward";
    let mut command = Runsc::of(sandbox).command(action);
    command.arg("--stream").arg(path).arg(&sandbox.id).arg(port.to_string());
    RUNSC.output(&mut command, action, deadline)?;
    if !await_one(&mut [readable(listener)], deadline).map_err(at("accept from", path))? {
        return Err(RuntimeError::TimedOut { program: RUNSC.name.to_owned(), action: action.to_owned() });
    }
    let (stream, _) = listener.accept().map_err(at("accept from", path))?;
    Ok(Connection::Unix(stream))
}

#[cfg(test)]
mod tests;
