//! A mount as its owner sees it: it is served, until it ends.
//!
//! # Overview
//! ```text
//!   mounted ──unmount──▶ detached ──last user leaves──▶ ended
//!      └────────── umount, abort or crash by others ─────▲
//! ```
//! The transport's thread reports the end through [`SessionEnd`], whoever brought it about; the
//! owner waits for it or is called back.
//!
//! # Invariants
//! - A mount that is still in use is never pulled away: [`Mount::unmount`] reports
//!   [`MountError::Busy`] and everything goes on.
//! - After `unmount` returned `Ok`, no thread of the session runs and no request is in flight.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::in_flight::OldestRequest;
use super::mount_table::{DeviceId, MountTable};
use super::mountpoint;
use super::reply::Requests;
use super::stats::{OpStats, OpSummary};
use super::transport::MountError;

/// How long the kernel may take to end a session whose mount is gone.
const END_GRACE: Duration = Duration::from_secs(10);

/// A mounted volume. Unmounted when dropped, if nobody uses it.
pub struct Mount {
    mountpoint: PathBuf,
    device: DeviceId,
    transport: &'static str,
    stats: Arc<OpStats>,
    requests: Arc<Requests>,
    end: Arc<SessionEnd>,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl Mount {
    pub(super) fn new(
        mountpoint: PathBuf,
        device: DeviceId,
        transport: &'static str,
        stats: Arc<OpStats>,
        requests: Arc<Requests>,
        end: Arc<SessionEnd>,
        server: JoinHandle<()>,
    ) -> Self {
        Self { mountpoint, device, transport, stats, requests, end, server: Mutex::new(Some(server)) }
    }

    /// Returns the mountpoint, absolute and without symbolic links.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Returns the `st_dev` of every file in the mount.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Returns the number of its directory in `/sys/fs/fuse/connections`.
    pub fn connection(&self) -> u64 {
        u64::from(self.device.minor)
    }

    /// Returns the name of the transport that carries its requests.
    pub fn transport(&self) -> &'static str {
        self.transport
    }

    /// Returns what its operations have cost so far.
    pub fn stats(&self) -> Vec<OpSummary> {
        self.stats.summary()
    }

    /// Returns how many requests were answered from the store that a predecessor had executed.
    pub fn replayed(&self) -> u64 {
        self.requests.replayed()
    }

    /// Returns the request that is being worked on for the longest time.
    pub fn oldest_request(&self) -> Option<OldestRequest> {
        self.stats.in_flight().oldest()
    }

    /// Tells whether requests are still answered, also if the mount is no longer at its mountpoint.
    pub fn is_alive(&self) -> bool {
        !self.end.has_come()
    }

    /// Tells whether the mount is at its mountpoint. A lazy unmount by somebody else takes it away
    /// from there, while files in use go on being served.
    pub fn is_attached(&self) -> bool {
        MountTable::load().is_ok_and(|table| table.has(&self.mountpoint, self.device))
    }

    /// Waits until the session has ended, at most for `timeout`, and tells whether it has.
    pub fn wait_for_end(&self, timeout: Duration) -> bool {
        self.end.wait(timeout)
    }

    /// Has `callback` called when the session has ended, at once if it has already.
    ///
    /// It runs on the session's last thread and must neither block nor unmount.
    pub fn on_end(&self, callback: impl FnOnce() + Send + 'static) {
        self.end.call(Box::new(callback));
    }

    /// Unmounts, and returns when the last request has been answered. May be tried again after an
    /// error.
    ///
    /// Fails with [`MountError::Busy`] while anything in the mount is in use, and with
    /// [`MountError::HeldElsewhere`] if it is still mounted in another place or mount namespace.
    pub fn unmount(&self) -> Result<(), MountError> {
        mountpoint::detach(&self.mountpoint, self.device)?;
        if !self.end.wait(END_GRACE) {
            return Err(MountError::HeldElsewhere { mountpoint: self.mountpoint.clone() });
        }
        self.join();
        Ok(())
    }

    /// Ends the session at once, for a mount that hangs: every call in flight and every later one
    /// fails. Only root can.
    ///
    /// A dead mount may stay at its mountpoint; [`Mount::unmount`] removes it.
    pub fn abort(&self) -> Result<(), MountError> {
        mountpoint::abort(&self.mountpoint, self.device)
    }

    fn join(&self) {
        if let Some(server) = self.server.lock().take()
            && server.join().is_err()
        {
            tracing::error!(mountpoint = %self.mountpoint.display(), "the thread of an ended session had panicked");
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.server.lock().is_none() {
            return;
        }
        if let Err(error) = self.unmount() {
            tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "left mounted");
        }
    }
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount")
            .field("mountpoint", &self.mountpoint)
            .field("device", &self.device)
            .field("alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}

type Callback = Box<dyn FnOnce() + Send>;

/// The end of a session: comes once, and can be waited for.
#[derive(Default)]
pub(super) struct SessionEnd {
    state: Mutex<EndState>,
    came: Condvar,
}

#[derive(Default)]
struct EndState {
    has_come: bool,
    callbacks: Vec<Callback>,
}

impl SessionEnd {
    /// Reports the end and calls everybody who asked to be.
    pub(super) fn report(&self) {
        let callbacks = {
            let mut state = self.state.lock();
            state.has_come = true;
            self.came.notify_all();
            std::mem::take(&mut state.callbacks)
        };
        callbacks.into_iter().for_each(|callback| callback());
    }

    fn has_come(&self) -> bool {
        self.state.lock().has_come
    }

    fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.state.lock();
        while !state.has_come {
            if self.came.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.has_come
    }

    fn call(&self, callback: Callback) {
        let mut state = self.state.lock();
        if !state.has_come {
            state.callbacks.push(callback);
            return;
        }
        drop(state);
        callback();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_end_reaches_everybody_once() {
        let end = Arc::new(SessionEnd::default());
        let calls = Arc::new(AtomicUsize::new(0));
        let count = || {
            let calls = Arc::clone(&calls);
            Box::new(move || {
                calls.fetch_add(1, Ordering::Relaxed);
            })
        };
        end.call(count());
        assert!(!end.wait(Duration::from_millis(1)));
        let waiter = std::thread::spawn({
            let end = Arc::clone(&end);
            move || end.wait(Duration::from_secs(60))
        });
        end.report();
        end.call(count());
        assert!(waiter.join().unwrap() && end.has_come());
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
}
