//! MicroVMs of QEMU, through its monitor, with virtiofsd between them and their volumes.
//!
//! # Overview
//! ```text
//!   sandbox.directory/
//!     initramfs         the template's, and what the guest is told (`guest.rs`)
//!     qmp.sock          the monitor for calls, qmp-2.sock for questions that may come meanwhile
//!     vN.sock           volume N's virtiofsd, vN.pid its pid
//!     status            what the guest says of its command's end
//!     accelerator       who executes its instructions
//!     boot              in which run of the host it was made
//!     restoring         a restore was begun and is not over
//! ```
//! A machine holds one container, whose root it brings itself.
//!
//! # Invariants
//! - A guest's write to a volume is a write on the host's mount before the guest is answered; see `virtiofsd.rs`.
//! - A paused machine's processors are stopped, and what its devices had begun is done.
//! - A machine goes on only once no memory of it is being written.
//!
//! # Crash consistency
//! QEMU and virtiofsd are nobody's children, and carry the sandbox's directory in their environment. `pid`, `qmp.sock` and
//! `boot` say what is there; a `restoring` that is found makes it remains.

mod accelerator;
mod command_line;
mod qmp;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use self::accelerator::Kind;
use self::command_line::{Begin, INITRAMFS, MONITOR, PID, SECOND_MONITOR, STATUS};
use self::qmp::{Qmp, failed};
use super::files::{self, at};
use super::machine::{self, CLEAN_UP, console, kernel, only_container};
use super::preflight::{self, PROBE, refused};
use super::processes::{self, Mark};
use super::program::{Tool, append_to, last_lines, ordinary};
use super::remembered::Remembered;
use super::{
    Abilities, AfterSave, Connection, Deadline, Network, Runtime, RuntimeError, Sandbox, SandboxState, guest,
    virtiofsd,
};

/// The driver.
#[derive(Debug)]
pub(crate) struct Qemu;

const NAME: &str = "qemu";

const QEMU: Tool = Tool {
    name: "qemu-system-x86_64",
    remedy: "install the package qemu-system-x86, 10.0 or newer; Debian 12 has it in bookworm-backports",
};

/// Saving a mounted virtio-fs works from this version on.
const OLDEST: u32 = 10;

/// Files of an image.
const MEMORY: &str = "memory";
const ACCELERATOR: &str = "accelerator";

/// Between two questions whether memory has been written or read.
const LOOK: Duration = Duration::from_millis(5);

/// How often memory is saved at most until virtiofsd knows a path of every file, and how long the guest may run in between.
const SAVES: u32 = 3;
const FORGETTING: Duration = Duration::from_millis(20);

/// How long a question may take that has no deadline of its own.
const QUESTION: Duration = Duration::from_secs(10);

/// How long the closing of a port may take, however long it took to open it.
const CLOSING: Duration = Duration::from_secs(2);

/// How long a process may take from closing its monitor to its end.
const ENDING: Duration = Duration::from_secs(2);

fn ask_version(deadline: Deadline) -> Result<String, RuntimeError> {
    let printed = QEMU.output(QEMU.plain_command().arg("--version"), "--version", deadline)?;
    let printed = String::from_utf8_lossy(&printed);
    let first = printed.lines().next().unwrap_or_default();
    let version = first.strip_prefix("QEMU emulator version ").unwrap_or(first);
    Ok(version.split(' ').next().unwrap_or_default().to_owned())
}

impl Runtime for Qemu {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self, deadline: Deadline) -> Result<Abilities, RuntimeError> {
        static VERSION: Remembered<String> = Remembered::nothing();
        let version = VERSION.or_ask(&QEMU, || ask_version(deadline))?;
        let major = version.split('.').next().and_then(|major| major.parse().ok());
        if major.is_none_or(|major: u32| major < OLDEST) {
            return Err(RuntimeError::Unsupported {
                runtime: NAME,
                what: "run sandboxes",
                why: format!("version {version} cannot save a mounted virtio-fs; {}", QEMU.remedy),
            });
        }
        virtiofsd::check(NAME, deadline)?;
        Ok(Abilities { version, memory: true, several_containers: false })
    }

    fn preflight(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        self.probe(Deadline::after(PROBE))?;
        preflight::check(sandbox)?;
        preflight::check_machine(sandbox)?;
        if sandbox.network == Network::Host {
            return Err(refused(
                "network",
                "a machine has a network of its own, or none: it cannot use the host's",
            ));
        }
        command_line::check_flags(sandbox)
    }

    fn check_save(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        let mut qmp = Qmp::open(sandbox, SECOND_MONITOR, Deadline::after(QUESTION))?;
        let transfer = qmp.execute("query-migrate", json!({}))?;
        let Some(Value::Array(reasons)) = transfer.get("blocked-reasons") else { return Ok(()) };
        let reasons: Vec<_> = reasons.iter().filter_map(Value::as_str).collect();
        let why = format!("{}; capture with scope Data", reasons.join("; "));
        Err(RuntimeError::Unsupported { runtime: NAME, what: "save memory", why })
    }

    fn version_of(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<String, RuntimeError> {
        let version = Qmp::open(sandbox, SECOND_MONITOR, deadline)?.execute("query-version", json!({}))?;
        let number = |name| version.get("qemu").and_then(|qemu| qemu.get(name)).and_then(Value::as_u64);
        match (number("major"), number("minor"), number("micro")) {
            (Some(major), Some(minor), Some(micro)) => Ok(format!("{major}.{minor}.{micro}")),
            _ => Err(failed("query-version", format!("{version} is no version"))),
        }
    }

    fn create(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        self.kill(sandbox, deadline)?;
        let kind = accelerator::choose(sandbox, &kernel(sandbox)?, deadline)?;
        launch(sandbox, kind, Begin::Kernel, deadline)
    }

    fn start(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        self.resume(sandbox, deadline)
    }

    fn pause(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        change(sandbox, "stop", deadline)
    }

    fn resume(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        change(sandbox, "cont", deadline)
    }

    fn save(&self, sandbox: &Sandbox, image: &Path, deadline: Deadline) -> Result<AfterSave, RuntimeError> {
        let kind = stored_accelerator(&sandbox.directory)?;
        let mut qmp = Qmp::open(sandbox, MONITOR, deadline)?;
        // By itself it is content with 128 MiB a second, out of regard for a machine that runs. Zero is no limit.
        qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 0 }))?;
        let path = image.join(MEMORY);
        let mut tries = 1;
        loop {
            let printed = virtiofsd::Printed::so_far(sandbox)?;
            // What an attempt before wrote is not written over.
            files::remove(&path)?;
            let saved = qmp
                .execute("migrate", json!({ "channels": [channel(&path)] }))
                .and_then(|_| await_transfer(&mut qmp, "migrate", deadline));
            if let Err(error) = saved {
                cancel(sandbox);
                return Err(error);
            }
            match printed.check_saved(sandbox, NAME) {
                Ok(()) => break,
                Err(error) if tries == SAVES => return Err(error),
                // A file that was just removed is known until the guest has said that it forgets it. Its volumes are not cut yet.
                Err(_) => {
                    qmp.execute("cont", json!({}))?;
                    thread::sleep(FORGETTING.min(deadline.left()));
                    qmp.execute("stop", json!({}))?;
                    tries += 1;
                }
            }
        }
        files::write(&image.join(ACCELERATOR), kind.name())?;
        Ok(AfterSave::Paused)
    }

    /// A migration is a stream, whatever it goes into.
    fn appended(&self) -> Option<&'static str> {
        Some(MEMORY)
    }

    fn restore(&self, sandbox: &Sandbox, image: &Path, deadline: Deadline) -> Result<(), RuntimeError> {
        machine::restore(self, sandbox, deadline, || {
            let printed = virtiofsd::Printed::so_far(sandbox)?;
            launch(sandbox, stored_accelerator(image)?, Begin::Memory, deadline)?;
            load(sandbox, image, deadline)?;
            printed.tell_lost(sandbox)
        })
    }

    fn kill(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
        let own = [MONITOR, SECOND_MONITOR, STATUS, PID, INITRAMFS, ACCELERATOR];
        machine::end(sandbox, &own, deadline)
    }

    fn state(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<SandboxState, RuntimeError> {
        if !machine::was_made(sandbox)? {
            return Ok(SandboxState::Absent);
        }
        let Some(pid) = self.pid(sandbox)? else { return exited(sandbox) };
        if !machine::is_served(sandbox)? {
            return exited(sandbox);
        }
        let status = Qmp::open(sandbox, SECOND_MONITOR, deadline)
            .and_then(|mut qmp| qmp.execute("query-status", json!({})));
        let status = match status {
            Ok(status) => status,
            // It is ending just now.
            Err(RuntimeError::Failed { .. } | RuntimeError::Io { .. })
                if processes::ends_within(pid, deadline.at_most(ENDING))? =>
            {
                return exited(sandbox);
            }
            Err(error) => return Err(error),
        };
        match status.get("status").and_then(Value::as_str).unwrap_or_default() {
            "prelaunch" => Ok(SandboxState::Created),
            "running" => Ok(SandboxState::Running),
            "paused" | "postmigrate" | "finish-migrate" | "save-vm" | "suspended" => Ok(SandboxState::Paused),
            "shutdown" | "guest-panicked" | "internal-error" | "io-error" | "watchdog" => exited(sandbox),
            _ => Err(failed("query-status", format!("{status} is not expected"))),
        }
    }

    /// A guest's mappings are its own business: virtiofsd, without a DAX window, reads and writes.
    fn programs(&self, _: &Sandbox) -> Result<Option<Vec<u32>>, RuntimeError> {
        Ok(Some(Vec::new()))
    }

    fn pid(&self, sandbox: &Sandbox) -> Result<Option<u32>, RuntimeError> {
        let pid = files::read(&sandbox.directory.join(PID))?.and_then(|text| text.trim().parse().ok());
        processes::marked(pid, &Mark::of(sandbox))
    }

    /// By way of a port of this host's loopback device, open for just as long as it takes to connect.
    fn connect(&self, sandbox: &Sandbox, port: u16, deadline: Deadline) -> Result<Connection, RuntimeError> {
        let qmp = Qmp::open(sandbox, SECOND_MONITOR, deadline)?;
        let mut forwarding = Forwarding { sandbox, host: None };
        let connected = forwarding.connect(qmp, port, deadline);
        match forwarding.remove() {
            Ok(()) => connected,
            // The error that is told is the first one.
            Err(error) => connected.and(Err(error)),
        }
    }
}

/// Starts virtiofsd and QEMU. It waits for the monitor's word before anything of the guest runs.
fn launch(sandbox: &Sandbox, kind: Kind, begin: Begin, deadline: Deadline) -> Result<(), RuntimeError> {
    let container = only_container(sandbox)?;
    let initramfs = sandbox.machine.initramfs.clone();
    let initramfs = initramfs.ok_or_else(|| refused("initramfs", "a machine needs one"))?;
    let target = sandbox.directory.join(INITRAMFS);
    let network = command_line::network_of_the_guest(sandbox);
    guest::write_initramfs(sandbox, container, &initramfs, &network, &target)?;
    files::write(&sandbox.directory.join(ACCELERATOR), kind.name())?;
    virtiofsd::start(sandbox, deadline)?;

    let mut command = QEMU.command(sandbox);
    command_line::add_to(&mut command, sandbox, &kernel(sandbox)?, &console(sandbox)?, kind, begin);
    let mut command = ordinary(&command);
    let log = sandbox.directory.join("qemu.log");
    let said = append_to(&log)?;
    let begin = said.metadata().map_err(at("read", &log))?.len();
    command.stdout(std::process::Stdio::null()).stderr(said);
    let finished = QEMU.finish(&mut command, "start", deadline)?;
    if !finished.status.success() {
        let said = std::fs::read(&log).map_err(at("read", &log))?;
        let said = usize::try_from(begin).ok().and_then(|begin| said.get(begin..)).unwrap_or_default();
        return Err(QEMU.failed("start", last_lines(said).as_bytes(), finished.status));
    }
    machine::is_made(sandbox)
}

fn stored_accelerator(directory: &Path) -> Result<Kind, RuntimeError> {
    let path = directory.join(ACCELERATOR);
    let stored = files::read(&path)?.as_deref().and_then(Kind::parse);
    stored.ok_or_else(|| failed("read", format!("{} does not say what the machine ran on", path.display())))
}

/// Returns how QEMU is told of the file that holds memory: as a stream. With `mapped-ram` each page would have its own place in it, which
/// pays where a machine runs on meanwhile; of a stopped one the same bytes are written, into a file with holes.
fn channel(path: &Path) -> Value {
    let address = json!({ "transport": "file", "filename": path.to_string_lossy(), "offset": 0 });
    json!({ "channel-type": "main", "addr": address })
}

/// Waits until memory was written, or read.
fn await_transfer(qmp: &mut Qmp, action: &str, deadline: Deadline) -> Result<(), RuntimeError> {
    loop {
        let transfer = qmp.execute("query-migrate", json!({}))?;
        match transfer.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(()),
            // Without a status there is nothing that would come to an end.
            None | Some("failed" | "cancelled") => {
                let why =
                    transfer.get("error-desc").and_then(Value::as_str).unwrap_or("QEMU does not say why");
                return Err(failed(action, why.to_owned()));
            }
            _ => thread::sleep(LOOK.min(deadline.left())),
        }
    }
}

/// Ends the writing of memory that is not wanted any more. The machine stays paused.
fn cancel(sandbox: &Sandbox) {
    let deadline = Deadline::after(CLEAN_UP);
    let cancelled =
        Qmp::open(sandbox, SECOND_MONITOR, deadline).and_then(|mut qmp| end_save(&mut qmp, deadline));
    if let Err(error) = cancelled {
        // Whoever lets the machine go on has to end it first.
        tracing::warn!(%error, sandbox = sandbox.id, "saving memory could not be cancelled");
    }
}

/// Makes sure that no memory is being written, also for a worker that died since: QEMU goes on without it, and would stop the machine
/// once more when it is done.
fn end_save(qmp: &mut Qmp, deadline: Deadline) -> Result<(), RuntimeError> {
    loop {
        let transfer = qmp.execute("query-migrate", json!({}))?;
        let is_over = match transfer.get("status").and_then(Value::as_str) {
            // What is completed has still to be taken note of.
            None | Some("none" | "completed" | "failed" | "cancelled") => {
                let status = qmp.execute("query-status", json!({}))?;
                status.get("status").and_then(Value::as_str) != Some("finish-migrate")
            }
            Some("cancelling") => false,
            Some(_) => {
                qmp.execute("migrate_cancel", json!({}))?;
                false
            }
        };
        if is_over {
            return Ok(());
        }
        thread::sleep(LOOK.min(deadline.left()));
    }
}

fn load(sandbox: &Sandbox, image: &Path, deadline: Deadline) -> Result<(), RuntimeError> {
    let mut qmp = Qmp::open(sandbox, MONITOR, deadline)?;
    let path = image.join(MEMORY);
    qmp.execute("migrate-incoming", json!({ "channels": [channel(&path)], "exit-on-error": false }))?;
    await_transfer(&mut qmp, "migrate-incoming", deadline)?;
    qmp.execute("cont", json!({})).map(drop)
}

/// Has the machine stop or go on. That it does already is no error.
fn change(sandbox: &Sandbox, command: &str, deadline: Deadline) -> Result<(), RuntimeError> {
    let changed = Qmp::open(sandbox, MONITOR, deadline).and_then(|mut qmp| {
        if command == "cont" {
            end_save(&mut qmp, deadline)?;
        }
        qmp.execute(command, json!({})).map(drop)
    });
    if changed.is_err()
        && let SandboxState::Exited { container, status } = Qemu.state(sandbox, deadline)?
    {
        return Err(RuntimeError::Exited { container, status });
    }
    changed
}

/// Returns how the machine's only container ended, as far as the guest told.
fn exited(sandbox: &Sandbox) -> Result<SandboxState, RuntimeError> {
    let told = files::read(&sandbox.directory.join(STATUS))?.unwrap_or_default();
    let status = told.lines().rev().find_map(|line| line.trim().strip_prefix("exited ")?.parse().ok());
    Ok(SandboxState::Exited { container: only_container(sandbox)?.name.clone(), status })
}

/// A port of this host's loopback device that leads to a port of the guest's.
struct Forwarding<'a> {
    sandbox: &'a Sandbox,
    /// The one that may be open: known before QEMU is told.
    host: Option<u16>,
}

impl Forwarding<'_> {
    fn connect(&mut self, mut qmp: Qmp, port: u16, deadline: Deadline) -> Result<Connection, RuntimeError> {
        let address = self.add(&mut qmp, port)?;
        let connection = Connection::tcp(NAME, address, deadline)?;
        // QEMU takes the connection between two commands, and would let go of it with the port.
        for _ in 0..2 {
            qmp.execute("query-status", json!({}))?;
        }
        Ok(connection)
    }

    fn add(&mut self, qmp: &mut Qmp, port: u16) -> Result<SocketAddr, RuntimeError> {
        const TRIES: usize = 16;
        let mut last = None;
        for _ in 0..TRIES {
            // One that is free; somebody else may take it first.
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
            let host = free.map_err(at("find a free port of", Path::new("127.0.0.1")))?.port();
            self.host = Some(host);
            match qmp.human(&format!("hostfwd_add net tcp:127.0.0.1:{host}-:{port}")) {
                Ok(()) => return Ok((Ipv4Addr::LOCALHOST, host).into()),
                Err(error @ RuntimeError::Failed { .. }) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        self.host = None;
        Err(last.unwrap_or_else(|| failed("hostfwd_add", "no port is free".to_owned())))
    }

    /// Closes the port, with a connection and a deadline of its own: whatever was asked before may not have been answered.
    fn remove(self) -> Result<(), RuntimeError> {
        let Some(host) = self.host else { return Ok(()) };
        let mut qmp = Qmp::open(self.sandbox, SECOND_MONITOR, Deadline::after(CLOSING))?;
        match qmp.human(&format!("hostfwd_remove net tcp:127.0.0.1:{host}")) {
            // What it says is where it removed something.
            Ok(()) | Err(RuntimeError::Failed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
