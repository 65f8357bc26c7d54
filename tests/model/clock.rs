//! Times in the reference model.
//!
//! The model cannot know the nanosecond at which the filesystem stamps a file. It knows *that* an operation
//! stamps it, so it writes down an event; the first `stat` that shows the time settles it, and from
//! then on every `stat` of every snapshot and fork must show the same.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::wire::Stamp;

/// A time as the model knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// Set explicitly, or read from a lower.
    Exact(Stamp),
    /// The moment of an event.
    Event(u32),
}

/// Something that stamped a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    /// When the model planned it, by the clock that filesystems stamp with: the stamp is not older.
    not_before: Stamp,
    /// A time that may also stand, where an operation may leave the old stamp.
    or: Option<Time>,
}

/// The events so far.
#[derive(Clone, Default, Debug)]
pub(crate) struct Clock {
    events: Vec<Event>,
}

impl Clock {
    /// A stamp by the operation being planned.
    pub(crate) fn now(&mut self) -> Time {
        self.push(None)
    }

    /// A stamp that the operation may or may not make.
    pub(crate) fn maybe(&mut self, old: Time) -> Time {
        self.push(Some(old))
    }

    /// A stamp made before the sequence began.
    pub(crate) fn before(&mut self) -> Time {
        self.events.push(Event { not_before: Stamp { secs: 0, nanos: 0 }, or: None });
        Time::Event(u32::try_from(self.events.len() - 1).unwrap())
    }

    fn push(&mut self, or: Option<Time>) -> Time {
        self.events.push(Event { not_before: stamping_clock(), or });
        Time::Event(u32::try_from(self.events.len() - 1).unwrap())
    }
}

/// What `stat` has shown of the events so far.
#[derive(Clone, Default, Debug)]
pub(crate) struct Witness {
    seen: Vec<Option<Stamp>>,
}

impl Witness {
    /// Compares a time with what a `stat` shows, and remembers it when it is the first to show it.
    pub(crate) fn check(&mut self, clock: &Clock, time: Time, shown: Stamp) -> Result<(), String> {
        if self.accepts(clock, time, shown) {
            return Ok(());
        }
        let show = |stamp: Stamp| format!("{}.{:09}", stamp.secs, stamp.nanos);
        let expected = match time {
            Time::Exact(exact) => show(exact),
            Time::Event(index) => match self.seen.get(index as usize).copied().flatten() {
                Some(known) => format!("{} as shown before", show(known)),
                None => format!("between {} and now", show(clock.events[index as usize].not_before)),
            },
        };
        Err(format!("shows {}, expected {expected}", show(shown)))
    }

    fn accepts(&mut self, clock: &Clock, time: Time, shown: Stamp) -> bool {
        let index = match time {
            Time::Exact(exact) => return exact == shown,
            Time::Event(index) => index as usize,
        };
        if self.seen.len() <= index {
            self.seen.resize(clock.events.len().max(index + 1), None);
        }
        if let Some(known) = self.seen[index] {
            return known == shown;
        }
        let event = clock.events[index];
        let stamped = shown >= event.not_before && shown <= wall_clock();
        let accepted = stamped || event.or.is_some_and(|old| self.accepts(clock, old, shown));
        if accepted {
            self.seen[index] = Some(shown);
        }
        accepted
    }
}

/// Returns the time by the clock that the kernel's filesystems stamp with. It lags behind the other by a tick, or by more where
/// ticks come late.
fn stamping_clock() -> Stamp {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).unwrap();
    Stamp { secs: now.tv_sec(), nanos: u32::try_from(now.tv_nsec()).unwrap() }
}

/// Returns the time of day.
pub(crate) fn wall_clock() -> Stamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Stamp { secs: i64::try_from(now.as_secs()).unwrap(), nanos: now.subsec_nanos() }
}
