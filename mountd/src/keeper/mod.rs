//! Keeping descriptors over the death of this process, with whoever started it.
//!
//! ```text
//!            FDSTORE=1, FDNAME=…, descriptors            LISTEN_FDS, LISTEN_FDNAMES
//!   worker ───────────────────────────────────▶ keeper ───────────────────────────▶ next worker
//! ```
//!
//! The keeper is [mountd's own supervisor](crate::supervisor) or systemd: both speak the protocol of
//! `sd_notify(3)` and `sd_listen_fds(3)`, so a worker has one code path. Where nobody keeps anything, [`Keeper::none`]
//! takes its place and agrees to everything.
//!
//! # Invariants
//! - What [`Keeper::keep`] returned for is with the keeper: a successor has all of it, in the same order, or, if it
//!   was released, none of it. Half of a name is never handed on.
//! - Nothing inherited is leaked to a program that this process starts.
//!
//! # Crash consistency
//! The keeper takes messages in the order they were sent, also those of a worker that died meanwhile, before it starts
//! the next.

mod channel;
mod environment;
mod inheritance;
mod wire_name;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use environment::{Handover, Predecessor, variable};
pub(crate) use inheritance::Inheritance;

use channel::Channel;
use wire_name::WireName;

/// Ours, and ignored by others: the answer to whoever asked for a preparation.
pub(crate) const PREPARED: &str = "X_DURDIR_PREPARED";

/// A handle to whoever keeps descriptors for this process. Clones are the same handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keeper(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    channel: Channel,
    /// How long the keeper waits for a sign of life before it takes this process for hung.
    watchdog: Option<Duration>,
    /// How many descriptors it takes, where it says so. One that takes no more says nothing.
    limit: Option<usize>,
    /// How many descriptors each name stands for.
    kept: Mutex<BTreeMap<String, usize>>,
}

impl Keeper {
    /// Returns the keeper of a process that nobody keeps anything for.
    pub(crate) fn none() -> Keeper {
        Keeper(None)
    }

    /// Takes over what the environment says about the keeper, and what it kept. To be called once, before there are
    /// threads: descriptors are moved.
    pub(crate) fn from_environment() -> io::Result<(Keeper, Inheritance)> {
        let environment = environment::Environment::of_this_process();
        let inheritance = Inheritance::take(&environment)?;
        let Some(address) = &environment.notify_socket else {
            return Ok((Keeper::none(), inheritance));
        };
        let inner = Inner {
            channel: Channel::new(address)?,
            watchdog: environment.watchdog,
            limit: environment.limit,
            kept: Mutex::new(inheritance.counts()),
        };
        Ok((Keeper(Some(Arc::new(inner))), inheritance))
    }

    /// Returns a handle to whoever supervises this process, for telling it things; nothing is taken over from it.
    pub(crate) fn to_be_told() -> Keeper {
        let environment = environment::Environment::of_this_process();
        let channel = environment.notify_socket.as_deref().and_then(|address| Channel::new(address).ok());
        let inner =
            channel.map(|channel| Inner { channel, watchdog: None, limit: None, kept: Mutex::default() });
        Keeper(inner.map(Arc::new))
    }

    /// Returns whether there is somebody who keeps descriptors.
    pub(crate) fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Hands over duplicates of `descriptors`, under a name made of `a-z`, `0-9`, `.` and `-`. Returns when the keeper
    /// has them all. Without a keeper this does nothing.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken, `QuotaExceeded` if the keeper takes no more, whatever else if the keeper
    /// cannot be reached. A successor gets nothing under this name then.
    pub(crate) fn keep(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(inner) = &self.0 else { return Ok(()) };
        WireName::check(name)?;
        inner.reserve(name, descriptors.len())?;
        let sent = inner.send_descriptors(name, descriptors).and_then(|()| inner.channel.barrier());
        if sent.is_err() {
            inner.kept.lock().remove(name);
        }
        sent
    }

    /// Has the keeper close what it keeps under a name. A name that is not kept is fine.
    pub(crate) fn release(&self, name: &str) -> io::Result<()> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let Some(count) = inner.kept.lock().remove(name) else { return Ok(()) };
        for wire in WireName::all(name, count) {
            inner.channel.send(&format!("FDSTOREREMOVE=1\nFDNAME={wire}"), &[])?;
        }
        inner.channel.barrier()
    }

    /// Says that clients are served from now on.
    pub(crate) fn ready(&self) -> io::Result<()> {
        self.say("READY=1")
    }

    /// Says that this process may be replaced: its successor will be ready soon.
    pub(crate) fn prepared(&self) -> io::Result<()> {
        self.say(&format!("{PREPARED}=1"))
    }

    /// Says in a line what this process is doing.
    pub(crate) fn status(&self, line: &str) -> io::Result<()> {
        self.say(&format!("STATUS={}", line.replace('\n', " ")))
    }

    /// Says that this process is about to end because it wants to.
    pub(crate) fn stopping(&self) -> io::Result<()> {
        self.say("STOPPING=1")
    }

    /// Asks for so much more time to come to an end, from now on.
    pub(crate) fn more_time(&self, time: Duration) -> io::Result<()> {
        self.say(&format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()))
    }

    /// Says that this process is alive and well.
    pub(crate) fn alive(&self) -> io::Result<()> {
        self.say("WATCHDOG=1")
    }

    /// Returns how often [`alive`](Keeper::alive) must be said: three times in the time that the keeper allows.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.0.as_ref().and_then(|inner| inner.watchdog).map(|limit| limit / 3)
    }

    fn say(&self, message: &str) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |inner| inner.channel.send(message, &[]))
    }
}

impl Inner {
    fn reserve(&self, name: &str, count: usize) -> io::Result<()> {
        let mut kept = self.kept.lock();
        if kept.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} is kept already")));
        }
        let total = kept.values().sum::<usize>() + count;
        if self.limit.is_some_and(|limit| total > limit) {
            let message = format!("no room for {total} descriptors with whoever keeps them");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
        }
        kept.insert(name.to_owned(), count);
        Ok(())
    }

    /// One message each: systemd forgets the order of what comes in one.
    fn send_descriptors(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        for (wire, descriptor) in WireName::all(name, descriptors.len()).zip(descriptors) {
            // What has ended on the other side is still to be taken over: a poll must not drop it.
            let message = format!("FDSTORE=1\nFDNAME={wire}\nFDPOLL=0");
            self.channel.send(&message, std::slice::from_ref(descriptor))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
