//! virtiofsd, which gives a machine one directory of the host.
//!
//! # Invariants
//! - One serves each volume. It keeps no data: with `--cache=auto` and without `--writeback`, a guest's write is a write on the host's
//!   mount before the guest is answered.
//! - What a guest has open, or only remembers, is part of the machine's memory image: handles, which are the numbers of inodes, found again in the
//!   volume when it is restored, whatever they are called by then, and also if they were removed. What of it was in `.snapshots`, or a directory
//!   that was removed, is not: the guest gets errors for that.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use command_fds::{CommandFdExt, FdMapping};

use super::files::{self, Shortcut, at};
use super::processes::{self, Mark};
use super::program::{Tool, last_lines, start_in_background};
use super::remembered::Remembered;
use super::{Deadline, RuntimeError, Sandbox};

pub(super) const VIRTIOFSD: Tool = Tool {
    name: "virtiofsd",
    remedy: "cargo install virtiofsd --version 1.14.0, which needs libcap-ng-dev and libseccomp-dev",
};

/// What it says is known from this version on: see [`WITHOUT_A_HANDLE`].
const OLDEST: (u32, u32) = (1, 14);

/// The number under which virtiofsd finds its socket.
const SOCKET: i32 = 3;

/// Notes the pid of the program that it becomes.
const NOTE_PID: &str = "echo $$ >\"$0\"; exec \"$@\"";

/// A volume, as a machine is given it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Share<'a> {
    /// Numbers it among those of its machine. Tags have at most 36 bytes, fewer than volumes' names may have.
    pub(super) number: usize,
    /// Where the volume is mounted on the host.
    pub(super) source: &'a Path,
}

impl Share<'_> {
    /// Returns how the guest names it.
    pub(super) fn tag(self) -> String {
        format!("v{}", self.number)
    }

    /// Returns the name of its socket in the sandbox's directory.
    pub(super) fn socket(self) -> String {
        format!("v{}.sock", self.number)
    }
}

/// Checks that it is there, and new enough.
pub(super) fn check(runtime: &'static str, deadline: Deadline) -> Result<(), RuntimeError> {
    static VERSION: Remembered<String> = Remembered::nothing();
    let version = VERSION.or_ask(&VIRTIOFSD, || {
        let printed = VIRTIOFSD.output(VIRTIOFSD.plain_command().arg("--version"), "--version", deadline)?;
        Ok(String::from_utf8_lossy(&printed).split_whitespace().nth(1).unwrap_or_default().to_owned())
    })?;
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    if numbers.next().zip(numbers.next()).is_some_and(|version| version >= OLDEST) {
        return Ok(());
    }
    Err(RuntimeError::Unsupported {
        runtime,
        what: "run sandboxes",
        why: format!(
            "virtiofsd {version} does not tell which files it would not find again; {}",
            VIRTIOFSD.remedy
        ),
    })
}

/// Returns the volumes of a sandbox, in an order that depends on their names alone.
pub(super) fn shares(sandbox: &Sandbox) -> BTreeMap<&str, Share<'_>> {
    let mounts = sandbox.containers.iter().flat_map(|container| &container.mounts);
    let sources: BTreeMap<_, _> =
        mounts.map(|mount| (mount.volume.as_str(), mount.source.as_path())).collect();
    let numbered = sources.into_iter().enumerate();
    numbered.map(|(number, (volume, source))| (volume, Share { number, source })).collect()
}

/// Returns the file that holds the pid of the one that serves a volume.
pub(super) fn pid_file(sandbox: &Sandbox, share: Share<'_>) -> PathBuf {
    sandbox.directory.join(format!("v{}.pid", share.number))
}

/// Returns a volume of a machine that nobody serves any more, if there is one: its guest waits for it for ever.
pub(super) fn unserved(sandbox: &Sandbox) -> Result<Option<&str>, RuntimeError> {
    for (volume, share) in shares(sandbox) {
        let pid = files::read(&pid_file(sandbox, share))?.and_then(|text| text.trim().parse().ok());
        // Of one that an older mountd made it is not known.
        if let Some(pid) = pid
            && (!processes::is_marked(pid, &Mark::of(sandbox))?
                || processes::started_at(pid).map_err(at("read", Path::new("/proc")))?.is_none())
        {
            return Ok(Some(volume));
        }
    }
    Ok(None)
}

fn log(sandbox: &Sandbox) -> PathBuf {
    sandbox.directory.join("virtiofsd.log")
}

/// Returns what it printed; nothing, where there is no volume and so none of them.
fn printed(sandbox: &Sandbox) -> Result<Vec<u8>, RuntimeError> {
    let log = log(sandbox);
    match std::fs::read(&log) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(at("read", &log)),
    }
}

/// How many bytes virtiofsd had printed before memory was saved.
pub(super) struct Printed(usize);

/// What it says of each file that the guest knows and that it cannot tell its successor of.
const WITHOUT_A_HANDLE: &str = "marking as invalid";

impl Printed {
    /// Looks how much that is now.
    pub(super) fn so_far(sandbox: &Sandbox) -> Result<Printed, RuntimeError> {
        printed(sandbox).map(|bytes| Printed(bytes.len()))
    }

    /// Refuses a save that could not be restored.
    pub(super) fn check_saved(self, sandbox: &Sandbox, runtime: &'static str) -> Result<(), RuntimeError> {
        let printed = printed(sandbox)?;
        let since = printed.get(self.0..).unwrap_or_default();
        if !String::from_utf8_lossy(since).contains(WITHOUT_A_HANDLE) {
            return Ok(());
        }
        Err(RuntimeError::Unsupported {
            runtime,
            what: "save memory",
            why: format!(
                "the guest knows a file of a volume that virtiofsd would not find again; capture with scope Data ({})",
                last_lines(since)
            ),
        })
    }
}

/// What it says of each file that a guest goes on without.
const LOST: [&str; 2] = ["Invalid inode", "Invalid handle"];

impl Printed {
    /// Tells of what was not found again of the files that a guest knew.
    pub(super) fn tell_lost(self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        let printed = printed(sandbox)?;
        let since = String::from_utf8_lossy(printed.get(self.0..).unwrap_or_default());
        let lost = since.lines().filter(|line| LOST.iter().any(|said| line.contains(said)));
        for line in lost {
            tracing::warn!(
                sandbox = sandbox.id,
                said = line,
                "a machine goes on without a file that it knew"
            );
        }
        Ok(())
    }
}

/// Starts one for each volume. Each ends by itself when its machine does.
pub(super) fn start(sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
    let program = VIRTIOFSD.find()?;
    let shortcut = Shortcut::to(&sandbox.directory)?;
    for share in shares(sandbox).into_values() {
        let path = shortcut.path(&share.socket());
        files::remove(&path)?;
        // Ours, so that whoever connects finds it however late virtiofsd comes.
        let listener = UnixListener::bind(&path).map_err(at("listen at", &path))?;
        let mapping = FdMapping { parent_fd: listener.into(), child_fd: SOCKET };
        let mut mapped = Ok(());
        start_in_background(
            sandbox,
            &log(sandbox),
            |command| {
                command.args(["sh", "-c", NOTE_PID]).arg(pid_file(sandbox, share));
                command.arg(&program).arg(format!("--fd={SOCKET}")).arg("--shared-dir").arg(share.source);
                command.args(["--cache=auto", "--xattr", "--sandbox=namespace", "--log-level=warn"]);
                // To open a file by its handle is the superuser's. It does so where memory goes on alone: what the guest knows stays open.
                command.args(["--modcaps=+dac_read_search", "--inode-file-handles=never"]);
                command.args(["--migration-mode=file-handles", "--migration-on-error=guest-error"]);
                mapped = command.fd_mappings(vec![mapping]).map(drop);
            },
            deadline,
        )?;
        mapped.map_err(|error| RuntimeError::Failed {
            program: VIRTIOFSD.name.to_owned(),
            action: "start".to_owned(),
            detail: error.to_string(),
        })?;
    }
    Ok(())
}
