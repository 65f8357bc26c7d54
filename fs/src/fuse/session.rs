//! The classic transport: requests are read from `/dev/fuse` by fuser's threads.
//!
//! # Overview
//! One thread per CPU, all on one descriptor. A descriptor of their own for each (`clone_fd`) would
//! gain nothing, since the kernel keeps one queue, and would lose the requests read through it if
//! the process died and a successor took over.
//!
//! fuser begins every session with the INIT request, which the kernel sends once in the life of a mount. A successor therefore
//! begins on a socket, with an INIT of its own making, and then puts the device in the place of the socket.
//!
//! # Concurrency
//! The thread `durdir-session` waits for fuser's threads and reports their end; it answers no
//! requests.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{Config, Session, SessionACL};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::adapter::Adapter;
use super::affinity::Cpus;
use super::handover::{self, Death, Handover};
use super::invalidate::KernelCaches;
use super::mount::{Mount, SessionEnd};
use super::mount_table::DeviceId;
use super::mountpoint::{self, Attached, failed};
use super::reply::Requests;
use super::session_memory::{Phase, SessionMemory};
use super::stats::OpStats;
use super::transport::{Adoption, MountError, MountOptions, Succession, Transport};
use super::wire::{self, Device};
use crate::FsError;
use crate::failpoint;
use crate::ops::VolumeFs;
use crate::request;

/// How far the kernel reads ahead. It offers 128 KiB at most; the rest is set from outside.
const READ_AHEAD_KB: &str = "1024";

/// More threads than this find no work to do; some of a session's numbers stay for those that wait for the disk.
const MOST_THREADS: usize = request::THREADS as usize / 2;

/// FUSE through `/dev/fuse`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Classic;

impl Transport for Classic {
    fn name(&self) -> &'static str {
        "classic"
    }

    fn mount(
        &self,
        fs: Arc<VolumeFs>,
        options: &MountOptions,
        succession: Option<Succession<'_>>,
    ) -> Result<Mount, MountError> {
        // A snapshot is never written: the kernel may as well say so without asking.
        let options = &MountOptions { read_only: options.read_only || fs.is_read_only(), ..options.clone() };
        let keep = |device: BorrowedFd<'_>| succession.as_ref().map_or(Ok(()), |by| (by.keep)(device));
        let Attached { device: session_fd, mountpoint, id } = mountpoint::attach(options, &keep)?;
        failpoint::hit("mount.attached");
        let memory = succession.map(|succession| succession.memory);
        if let Some(memory) = &memory {
            memory.set_device(id);
            fs.set_journal(Box::new(Arc::clone(memory)));
        }
        let handover = memory.clone().map(|memory| Handover::of(memory, None));
        let serving = Serving::new(self, &fs, &mountpoint, id, handover);
        let serve = || -> io::Result<_> {
            let device = Arc::new(Device::beside(&session_fd)?);
            let (session, device) = serving.begin(options, memory.clone(), device, session_fd)?;
            raise_read_ahead(id);
            if let Some(memory) = &memory {
                memory.set_phase(Phase::Serving);
                failpoint::hit("mount.serving");
            }
            serving.spawn(session, device)
        };
        match serve() {
            Ok(server) => {
                tracing::info!(mountpoint = %mountpoint.display(), source = options.fs_name, device = %id, "mounted");
                Ok(serving.into_mount(server))
            }
            Err(source) => {
                // Closing the device has ended the session; only the dead mount is left to remove.
                if let Err(error) = mountpoint::detach(&mountpoint, id) {
                    tracing::warn!(%error, "a mount that could not be served is left behind");
                }
                Err(failed("serve", &mountpoint, source))
            }
        }
    }

    fn adopt(
        &self,
        fs: Arc<VolumeFs>,
        options: &MountOptions,
        adoption: Adoption,
    ) -> Result<Mount, MountError> {
        let Adoption { memory, device: kernel, death } = adoption;
        let mountpoint = options.mountpoint.clone();
        let wrong = |source| MountError::CannotAdopt {
            mountpoint: options.mountpoint.clone(),
            source: Box::new(source),
        };
        let id = memory
            .device()
            .ok_or_else(|| wrong(FsError::Invalid { what: "session that was never attached" }))?;
        let facts = memory.facts().map_err(|source| wrong(FsError::Session { source }))?;
        let unanswered = handover::left_unanswered(&memory);
        fs.adopt(memory.session(), facts, &unanswered).map_err(wrong)?;
        fs.set_journal(Box::new(Arc::clone(&memory)));
        let handover = Handover::of(Arc::clone(&memory), Some(death));
        for request in handover.take_condemned() {
            let what = handover::describe(&request);
            tracing::error!(
                volume = fs.volume_name(),
                request = request.unique,
                what,
                "a request has killed workers and is answered with EIO"
            );
            fs.flag(&what).map_err(wrong)?;
        }
        let serving = Serving::new(self, &fs, &mountpoint, id, Some(handover));
        let serve = || -> io::Result<_> {
            let (ours, fusers) =
                socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
            let device = Arc::new(Device::behind(&kernel, &fusers)?);
            nix::unistd::write(&ours, &wire::init(memory.offered()))?;
            let (session, device) = serving.begin(options, Some(memory), device, fusers)?;
            replace(session.as_fd(), kernel.as_fd())?;
            device.resend()?;
            serving.spawn(session, device)
        };
        let server = serve().map_err(|source| failed("go on to serve", &mountpoint, source))?;
        if death == Death::GaveWay || serving.fs.was_rolled_back() {
            serving.fs.distrust_kernel();
        }
        tracing::info!(mountpoint = %mountpoint.display(), device = %id, "went on with a mount");
        Ok(serving.into_mount(server))
    }
}

/// A session that is about to be served.
struct Serving {
    fs: Arc<VolumeFs>,
    mountpoint: PathBuf,
    id: DeviceId,
    transport: &'static str,
    stats: Arc<OpStats>,
    requests: Arc<Requests>,
    end: Arc<SessionEnd>,
}

impl Serving {
    fn new(
        transport: &Classic,
        fs: &Arc<VolumeFs>,
        mountpoint: &Path,
        id: DeviceId,
        handover: Option<Handover>,
    ) -> Serving {
        let stats = Arc::new(OpStats::new());
        Serving {
            fs: Arc::clone(fs),
            mountpoint: mountpoint.to_owned(),
            id,
            transport: transport.name(),
            requests: Arc::new(Requests::new(Arc::clone(&stats), handover)),
            stats,
            end: Arc::default(),
        }
    }

    /// Begins with the INIT request that waits in `channel`.
    fn begin(
        &self,
        options: &MountOptions,
        memory: Option<Arc<SessionMemory>>,
        device: Arc<Device>,
        channel: OwnedFd,
    ) -> io::Result<(Session<Adapter>, Arc<Device>)> {
        let threads = options.threads.unwrap_or_else(|| Cpus::of_this_process().count());
        let threads = threads.clamp(1, MOST_THREADS);
        let mut config = Config::default();
        config.n_threads = Some(threads);
        config.clone_fd = false;
        let (fs, requests) = (Arc::clone(&self.fs), Arc::clone(&self.requests));
        let adapter = Adapter::new(fs, Arc::clone(&device), requests, memory, threads, options.cache);
        // Who may enter is the kernel's decision, by `allow_other`. fuser's own check would
        // refuse what the kernel does on behalf of others.
        let session = Session::from_fd(adapter, channel, SessionACL::All, config)?;
        self.fs.set_invalidator(Arc::new(KernelCaches::of(&device)));
        Ok((session, device))
    }

    fn spawn(&self, session: Session<Adapter>, device: Arc<Device>) -> io::Result<JoinHandle<()>> {
        let (end, place, id) = (Arc::clone(&self.end), self.mountpoint.clone(), self.id);
        std::thread::Builder::new()
            .name("durdir-session".into())
            .spawn(move || serve_to_the_end(session, &device, &place, id, &end))
    }

    fn into_mount(self, server: JoinHandle<()>) -> Mount {
        let Serving { mountpoint, id, transport, stats, requests, end, .. } = self;
        Mount::new(mountpoint, id, transport, stats, requests, end, server)
    }
}

fn serve_to_the_end(
    session: Session<Adapter>,
    device: &Device,
    place: &Path,
    id: DeviceId,
    end: &SessionEnd,
) {
    match session.run() {
        Ok(()) => {
            device.close_disowned();
            tracing::info!(mountpoint = %place.display(), "the session has ended");
        }
        Err(error) => {
            tracing::error!(mountpoint = %place.display(), %error, "the session ended with an error");
            // Threads may be left that nobody waits for, and callers that wait for those that are
            // gone.
            if let Err(error) = mountpoint::abort(place, id) {
                tracing::warn!(%error, "cannot abort the session");
            }
        }
    }
    failpoint::hit("session.ended");
    end.report();
}

/// Makes the descriptor `target` one of what `with` is of.
fn replace(target: BorrowedFd<'_>, with: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are open, and `target` stays the number of a descriptor that its owner closes: only what is behind it
    // becomes another file.
    let done = unsafe { libc::dup3(with.as_raw_fd(), target.as_raw_fd(), libc::O_CLOEXEC) };
    Ok(Errno::result(done).map(drop)?)
}

/// Raises the readahead window of the mount; without permission it stays as it is.
fn raise_read_ahead(id: DeviceId) {
    let setting = format!("/sys/class/bdi/{id}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KB) {
        tracing::debug!(setting, %error, "readahead stays at the kernel's default");
    }
}
