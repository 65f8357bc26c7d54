//! Sandboxes, behind one interface: what an actor needs of whatever runs its programs.
//!
//! # Overview
//! ```text
//!            create ──▶ start ──▶ pause ◀─▶ resume
//!   absent ──┤                      │
//!            └── restore ◀── save ──┘          kill: back to absent, from anywhere
//! ```
//! A driver is one module per runtime. Its calls block, and are made from threads that may: drivers wait for processes and sockets,
//! and nothing here needs an executor.
//!
//! # Invariants
//! - A driver keeps nothing in memory between two calls. What it must know it reads from the sandbox's directory, or asks the
//!   runtime: a worker may be killed between any two calls, and its successor goes on with the same sandbox.
//! - No call outlasts its [`Deadline`]: what does not answer is killed, if the driver started it, and reported as
//!   [`RuntimeError::TimedOut`].
//! - Nothing of a volume is ever in a memory image; a driver refuses settings that would let writes bypass the mount.
//!
//! # Crash consistency
//! A call that was cut short may have had its effect. [`Runtime::state`] tells, and each call may be made again.

mod choose;
mod cloud_hypervisor;
mod connection;
#[cfg(test)]
mod contract;
mod deadline;
mod error;
mod files;
mod guest;
mod gvisor;
mod http;
mod link;
mod machine;
mod preflight;
mod process;
mod processes;
mod program;
mod qemu;
pub(crate) mod readiness;
mod remembered;
mod sandbox;
mod version;
mod virtiofsd;

use std::path::Path;

pub(crate) use choose::choose;
pub(crate) use connection::Connection;
pub(crate) use deadline::Deadline;
pub(crate) use error::RuntimeError;
pub(crate) use processes::started_at;
pub(crate) use sandbox::{Accelerator, Container, Machine, Network, Sandbox, VolumeMount};

/// What a runtime can do here, as found by asking it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Abilities {
    /// The version that is installed, as the runtime itself reports it: new sandboxes run on it.
    pub(crate) version: String,
    /// Whether it can save the memory of a sandbox and go on from it.
    pub(crate) memory: bool,
    /// Whether one sandbox may hold more than one container.
    pub(crate) several_containers: bool,
}

/// What became of a sandbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SandboxState {
    /// There is none, or only remains that [`Runtime::kill`] takes away.
    Absent,
    /// Made, and nothing of it ran yet.
    Created,
    /// All its containers run.
    Running,
    /// All its containers are there, and none makes progress.
    Paused,
    /// A container ended by itself.
    Exited {
        /// Its name in the template.
        container: String,
        /// Its exit status, or 128 + the signal that ended it; `None` where the runtime does not tell.
        status: Option<i32>,
    },
}

/// What is left of a sandbox whose memory was saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AfterSave {
    /// It is still paused: [`Runtime::resume`] lets it go on.
    Paused,
    /// The runtime ended it: only [`Runtime::restore`] brings it back.
    #[cfg_attr(not(test), expect(dead_code, reason = "no driver here ends what it saves"))]
    Ended,
}

/// A way to run sandboxes.
///
/// Calls for one sandbox are never made at the same time, except for [`Runtime::state`] and [`Runtime::connect`].
pub(crate) trait Runtime: Send + Sync {
    /// Returns its name, as templates and manifests write it: `gvisor`, `qemu`, `cloud-hypervisor`, `process`.
    fn name(&self) -> &'static str;

    /// Asks the runtime what it can do here. Costs a process or two, the first time.
    fn probe(&self, deadline: Deadline) -> Result<Abilities, RuntimeError>;

    /// Checks everything about a sandbox that can be checked before it is made or paused: programs and files that are needed,
    /// settings that contradict each other, settings that would bypass a mount.
    fn preflight(&self, sandbox: &Sandbox) -> Result<(), RuntimeError>;

    /// Checks that the memory of this sandbox could be saved, as far as that can be told without pausing it: not every runtime can,
    /// and some not with every setting.
    fn check_save(&self, sandbox: &Sandbox) -> Result<(), RuntimeError>;

    /// Returns the version of the runtime that this sandbox runs on: the one that its memory is saved by, and bound to. An upgrade
    /// since may have installed another.
    fn version_of(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<String, RuntimeError>;

    /// Makes the sandbox. Its volumes are mounted already. Remains of an earlier attempt are taken away first.
    fn create(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError>;

    /// Starts the programs of a sandbox that was made.
    fn start(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError>;

    /// Stops all progress in the sandbox. When it returns, every operation of it on a volume has been answered, or will be held by
    /// the mount until it is resumed. May be called on a paused sandbox.
    fn pause(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError>;

    /// Lets a paused sandbox go on. May be called on a running one.
    fn resume(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError>;

    /// Writes the memory of a paused sandbox into files of `image`, an empty directory. What is written is on the disk only after the
    /// caller has synced it. An error leaves the sandbox paused, or absent where [`Runtime::state`] says so.
    fn save(&self, sandbox: &Sandbox, image: &Path, deadline: Deadline) -> Result<AfterSave, RuntimeError>;

    /// Returns the name of the file of an image that [`Runtime::save`] writes from its beginning to its end, and never goes back in. Saving
    /// it once more makes another file. It can be read while it grows.
    fn appended(&self) -> Option<&'static str> {
        None
    }

    /// Makes the sandbox from saved memory and lets it go on. Its volumes are mounted, and as they were when it was saved.
    /// An error leaves no sandbox behind; the image is never changed.
    fn restore(&self, sandbox: &Sandbox, image: &Path, deadline: Deadline) -> Result<(), RuntimeError>;

    /// Ends the sandbox, if there is one, and takes away everything that was made for it outside of its volumes. When it returns no
    /// process of it holds a volume.
    fn kill(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError>;

    /// Returns what became of the sandbox.
    fn state(&self, sandbox: &Sandbox, deadline: Deadline) -> Result<SandboxState, RuntimeError>;

    /// Returns the processes of this host that may have files of the paused sandbox's volumes in their memory; `None` where that
    /// cannot be told, and any process may.
    fn programs(&self, sandbox: &Sandbox) -> Result<Option<Vec<u32>>, RuntimeError>;

    /// Returns the process that stands for the sandbox on the host, if there is one.
    fn pid(&self, sandbox: &Sandbox) -> Result<Option<u32>, RuntimeError>;

    /// Connects to a TCP port on which a program inside the sandbox listens, also where the sandbox has a network of its own, or none.
    /// Where something stands between, the connection may be accepted though nobody listens: it ends before a byte arrives then.
    fn connect(&self, sandbox: &Sandbox, port: u16, deadline: Deadline) -> Result<Connection, RuntimeError>;
}
