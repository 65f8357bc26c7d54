//! The classic transport: requests are read from `/dev/fuse` by fuser's threads.
//!
//! # Overview
//! One thread per CPU, all on one descriptor. A descriptor of their own for each (`clone_fd`) would
//! gain nothing, since the kernel keeps one queue, and would lose the requests read through it if
//! the daemon died and a successor took over.
//!
//! # Concurrency
//! The thread `durdir-session` waits for fuser's threads and reports their end; it answers no
//! requests.

use std::io;
use std::path::Path;
use std::sync::Arc;

use fuser::{Config, Session, SessionACL};

use super::adapter::Adapter;
use super::affinity::Cpus;
use super::invalidate::KernelCaches;
use super::mount::{Mount, SessionEnd};
use super::mount_table::DeviceId;
use super::mountpoint::{self, Attached};
use super::stats::OpStats;
use super::transport::{MountError, MountOptions, Transport};
use super::wire::Device;
use crate::ops::VolumeFs;

/// How far the kernel reads ahead. It offers 128 KiB at most; the rest is set from outside.
const READ_AHEAD_KB: &str = "1024";

/// FUSE through `/dev/fuse`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Classic;

impl Transport for Classic {
    fn name(&self) -> &'static str {
        "classic"
    }

    fn mount(&self, fs: Arc<VolumeFs>, options: &MountOptions) -> Result<Mount, MountError> {
        // A snapshot is never written: the kernel may as well say so without asking.
        let options = &MountOptions { read_only: options.read_only || fs.is_read_only(), ..options.clone() };
        let Attached { device: session_fd, mountpoint, id } = mountpoint::attach(options)?;
        let stats = Arc::new(OpStats::new());
        let end = Arc::new(SessionEnd::default());
        let serve = || -> io::Result<_> {
            let device = Arc::new(Device::beside(&session_fd)?);
            let threads = options.threads.unwrap_or_else(|| Cpus::of_this_process().count()).max(1);
            let mut config = Config::default();
            config.n_threads = Some(threads);
            config.clone_fd = false;
            let (adapted, counted) = (Arc::clone(&fs), Arc::clone(&stats));
            let adapter = Adapter::new(adapted, Arc::clone(&device), counted, threads, options.cache);
            // Who may enter is the kernel's decision, by `allow_other`. fuser's own check would
            // refuse what the kernel does on behalf of others.
            let session = Session::from_fd(adapter, session_fd, SessionACL::All, config)?;
            fs.set_invalidator(Box::new(KernelCaches::of(&device)));
            let (end, place) = (Arc::clone(&end), mountpoint.clone());
            std::thread::Builder::new()
                .name("durdir-session".into())
                .spawn(move || serve_to_the_end(session, &device, &place, id, &end))
        };
        match serve() {
            Ok(server) => {
                raise_read_ahead(id);
                tracing::info!(mountpoint = %mountpoint.display(), source = options.fs_name, device = %id, "mounted");
                Ok(Mount::new(mountpoint, id, self.name(), stats, end, server))
            }
            Err(source) => {
                // Closing the device has ended the session; only the dead mount is left to remove.
                if let Err(error) = mountpoint::detach(&mountpoint, id) {
                    tracing::warn!(%error, "a mount that could not be served is left behind");
                }
                Err(MountError::Failed { step: "serve", mountpoint, source })
            }
        }
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
    end.report();
}

/// Raises the readahead window of the mount; without permission it stays as it is.
fn raise_read_ahead(id: DeviceId) {
    let setting = format!("/sys/class/bdi/{id}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KB) {
        tracing::debug!(setting, %error, "readahead stays at the kernel's default");
    }
}
