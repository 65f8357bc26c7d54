//! What the kernel's requests leave behind for a worker that comes after this one, and what this one found.
//!
//! # Overview
//! While a thread executes a request, the session's [memory](super::session_memory) says so. A successor finds there what its
//! predecessor died over. The kernel sends those requests again, marked; one that was executed is answered from the store
//! ([`VolumeFs::replay`]), the others are executed.
//!
//! A request that kills its worker would do so again. What was executed when a worker crashed is a *suspect*: suspects are
//! executed alone, one after the other, so that the next crash tells which it was. One that two workers crashed over is
//! *condemned*: answered with EIO, logged with all that is known of it, and its volume is flagged. A kill from outside says
//! next to nothing, also not a few in a row: somebody may kill faster than a disk syncs. But the kernel kills whoever takes all
//! memory, so that many count as a crash.
//!
//! # Invariants
//! - Nothing of a predecessor is executed twice, and nothing is answered from the store that was not executed.
//! - While there is a suspect, it is executed alone. Without one nobody waits.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::session_memory::{Begun, InFlight, SessionMemory};
use super::stats::OpKind;
use crate::ops::Unanswered;
use crate::request::{Executing, KernelRequest, Ledger, THREADS};

/// The mark of a request that is sent again, in its number.
const RESENT: u64 = 1 << 63;

/// What a crash counts: twice that condemns.
const CRASH: u64 = 32;
/// What a kill from outside counts.
const KILL: u64 = 1;
/// From here on a request is executed alone.
const SUSPECT: u64 = CRASH / 2;
const CONDEMNED: u64 = 2 * CRASH;

/// The kernel sends everything again that it waits for as soon as a successor asks for it. What does not come had its answer, or gets none.
const SENT_AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// How the process that served a mount before has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// By a fault of its own: a signal such as SIGSEGV or SIGABRT.
    Crashed,
    /// From outside, or in a way that nobody knows.
    Killed,
    /// By its own will, because its store had stopped: what it failed may have been done all the same.
    GaveWay,
}

/// Tells a successor what happens to the requests of a session.
pub(super) struct Handover {
    memory: Arc<SessionMemory>,
    threads: AtomicU16,
    /// Requests that workers died over, and how that counts.
    suspects: Mutex<Vec<(u64, u64)>>,
    suspicious: AtomicBool,
    /// When those are given up that were not sent again.
    until: Mutex<Instant>,
    /// Held to read by every request while there are suspects, to write by a suspect.
    alone: RwLock<()>,
    condemned: Mutex<Vec<InFlight>>,
}

/// What a predecessor had not answered when it died.
pub(super) fn left_unanswered(memory: &SessionMemory) -> Vec<Unanswered> {
    let in_flight = memory.in_flight().into_iter();
    in_flight.map(|InFlight { unique, pages, written, .. }| Unanswered { unique, pages, written }).collect()
}

/// A request that a worker must not execute any more.
pub(super) struct Condemned;

thread_local! {
    /// The number of the calling thread in the session it belongs to.
    static THREAD: Cell<Option<u16>> = const { Cell::new(None) };
}

impl Handover {
    /// Begins a session, or goes on with one that a process served which ended by `death`.
    pub(super) fn of(memory: Arc<SessionMemory>, death: Option<Death>) -> Handover {
        let handover = Handover {
            suspects: Mutex::new(memory.suspects()),
            memory,
            threads: AtomicU16::new(0),
            suspicious: AtomicBool::new(false),
            until: Mutex::new(Instant::now() + SENT_AGAIN_WITHIN),
            alone: RwLock::default(),
            condemned: Mutex::default(),
        };
        if let Some(death) = death {
            handover.suspect(death);
        }
        handover
    }

    fn suspect(&self, death: Death) {
        let weight = match death {
            Death::Crashed => CRASH,
            Death::Killed | Death::GaveWay => KILL,
        };
        let mut suspects = self.suspects.lock();
        let mut condemned = self.condemned.lock();
        for request in self.memory.in_flight() {
            let known = suspects.iter().position(|&(unique, _)| unique == request.unique);
            let at = known.unwrap_or_else(|| {
                suspects.insert(0, (request.unique, 0));
                0
            });
            let Some((_, sum)) = suspects.get_mut(at) else { continue };
            *sum += weight;
            if *sum >= CONDEMNED {
                condemned.push(request);
            }
        }
        // Newest first: of too many, the oldest have long been answered.
        suspects.truncate(usize::from(THREADS));
        self.memory.set_suspects(&suspects);
        self.suspicious.store(!suspects.is_empty(), Ordering::SeqCst);
        self.memory.clear_slots();
    }

    /// Returns, once, the requests that are answered with EIO from now on.
    pub(super) fn take_condemned(&self) -> Vec<InFlight> {
        std::mem::take(&mut self.condemned.lock())
    }

    /// Returns where is noted what a thread takes before it commits.
    pub(super) fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::clone(&self.memory) as Arc<dyn Ledger>
    }

    /// Returns how many requests of the session were answered from the store, by whichever process.
    pub(super) fn replayed(&self) -> u64 {
        self.memory.replayed()
    }

    pub(super) fn count_replayed(&self) {
        self.memory.count_replayed();
    }

    /// Returns the calling thread's part in the execution of a request; `None` if it is one thread too many, which no session
    /// has.
    pub(super) fn executing(&self, unique: u64) -> Option<Executing> {
        let request = KernelRequest { session: self.memory.session(), unique: unique & !RESENT };
        self.thread().map(|thread| Executing { request, thread })
    }

    /// Notes that the calling thread executes a request, until what is returned is dropped. Waits for suspects.
    pub(super) fn admit(&self, mut request: Begun<'_>) -> Result<Admitted<'_>, Condemned> {
        let resent = is_resent(request.unique);
        request.unique &= !RESENT;
        let mut turn = None;
        if self.suspicious.load(Ordering::SeqCst) {
            self.give_up_unsent();
            let weight = self.weight(request.unique);
            match weight {
                CONDEMNED.. => {
                    self.clear(request.unique);
                    return Err(Condemned);
                }
                SUSPECT.. => turn = Some(Turn::Alone(self.alone.write())),
                ..SUSPECT => turn = Some(Turn::Shared(self.alone.read())),
            }
        }
        let thread = self.thread();
        if let Some(thread) = thread {
            self.memory.begin(thread, &request);
        }
        Ok(Admitted { handover: self, thread, unique: request.unique, resent, turn })
    }

    fn thread(&self) -> Option<u16> {
        THREAD.get().or_else(|| {
            let number = self.threads.fetch_add(1, Ordering::Relaxed);
            let thread = (number < THREADS).then_some(number);
            THREAD.set(thread);
            thread
        })
    }

    fn weight(&self, unique: u64) -> u64 {
        let suspects = self.suspects.lock();
        suspects.iter().find(|suspect| suspect.0 == unique).map_or(0, |suspect| suspect.1)
    }

    /// Takes those off the list, after a while, that the kernel has not sent again and that nobody executes.
    fn give_up_unsent(&self) {
        let mut until = self.until.lock();
        if Instant::now() < *until {
            return;
        }
        *until = Instant::now() + SENT_AGAIN_WITHIN;
        drop(until);
        let executed: Vec<u64> = self.memory.in_flight().iter().map(|request| request.unique).collect();
        let mut suspects = self.suspects.lock();
        suspects.retain(|suspect| executed.contains(&suspect.0));
        self.memory.set_suspects(&suspects);
        self.suspicious.store(!suspects.is_empty(), Ordering::SeqCst);
    }

    /// Takes a request off the list: it was answered.
    fn clear(&self, unique: u64) {
        let mut suspects = self.suspects.lock();
        suspects.retain(|suspect| suspect.0 != unique);
        self.memory.set_suspects(&suspects);
        self.suspicious.store(!suspects.is_empty(), Ordering::SeqCst);
    }
}

/// Tells whether the kernel has sent the request before.
pub(super) fn is_resent(unique: u64) -> bool {
    unique & RESENT != 0
}

/// Returns the number of a request as it was when it was first sent.
pub(super) fn first_sent(unique: u64) -> u64 {
    unique & !RESENT
}

/// A request that is being executed.
pub(super) struct Admitted<'a> {
    handover: &'a Handover,
    thread: Option<u16>,
    unique: u64,
    resent: bool,
    turn: Option<Turn<'a>>,
}

#[expect(dead_code, reason = "held for what they keep others from")]
enum Turn<'a> {
    Shared(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread {
            self.handover.memory.end(thread);
        }
        if self.resent && self.turn.is_some() {
            self.handover.clear(self.unique);
        }
    }
}

/// Says what a request was, for the log: everything that is known, names as text and as bytes.
pub(super) fn describe(request: &InFlight) -> String {
    let kind = OpKind::ALL.get(request.kind).map_or("unknown", |kind| kind.name());
    let hex: String = request.arguments.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{kind} of node {} by uid {} pid {}, arguments {:?} = {hex}",
        request.node,
        request.uid,
        request.pid,
        String::from_utf8_lossy(&request.arguments)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Arc<SessionMemory> {
        Arc::new(SessionMemory::create(None, b"").unwrap())
    }

    fn request(unique: u64) -> Begun<'static> {
        Begun { unique, kind: OpKind::Unlink as usize, node: 1, uid: 0, pid: 9, arguments: &[b"name"] }
    }

    /// A worker that dies while it executes requests.
    fn die_over(memory: &Arc<SessionMemory>, death: Option<Death>, uniques: &[u64]) {
        let handover = Handover::of(Arc::clone(memory), death);
        std::thread::scope(|scope| {
            for &unique in uniques {
                let handover = &handover;
                scope.spawn(move || std::mem::forget(handover.admit(request(unique))));
            }
        });
    }

    #[test]
    fn two_crashes_condemn_and_only_what_was_executed_alone() {
        let memory = memory();
        die_over(&memory, None, &[2, 4]);
        // Both are suspects, the first that is sent again kills again.
        die_over(&memory, Some(Death::Crashed), &[2 | RESENT]);
        let handover = Handover::of(memory, Some(Death::Crashed));
        let condemned = handover.take_condemned();
        assert_eq!(condemned.len(), 1);
        assert_eq!(describe(&condemned[0]), "unlink of node 1 by uid 0 pid 9, arguments \"name\" = 6e616d65");
        assert!(handover.admit(request(2 | RESENT)).is_err());
        assert!(handover.admit(request(4 | RESENT)).is_ok());
        // Nobody is suspect any more.
        assert!(!handover.suspicious.load(Ordering::SeqCst));
    }

    #[test]
    fn a_few_kills_from_outside_condemn_nothing() {
        let memory = memory();
        die_over(&memory, None, &[2]);
        for _ in 0..40 {
            die_over(&memory, Some(Death::Killed), &[2 | RESENT]);
        }
        let handover = Handover::of(Arc::clone(&memory), Some(Death::Killed));
        assert_eq!(handover.take_condemned(), []);
        assert_eq!(handover.weight(2), 41);
        drop(handover.admit(request(2 | RESENT)));
        // It was answered: what comes later begins anew.
        assert_eq!(memory.suspects(), []);
    }

    #[test]
    fn who_is_not_sent_again_is_no_suspect_for_ever() {
        let memory = memory();
        die_over(&memory, None, &[2, 4]);
        let handover = Handover::of(Arc::clone(&memory), Some(Death::Killed));
        let (begun, over) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let executed = handover.admit(request(2 | RESENT));
                begun.wait();
                over.wait();
                drop(executed);
            });
            begun.wait();
            drop(handover.admit(request(6)));
            assert_eq!(memory.suspects().len(), 2);
            *handover.until.lock() = Instant::now();
            drop(handover.admit(request(8)));
            let left = memory.suspects();
            over.wait();
            assert_eq!(left, [(2, 1)]);
        });
        assert!(!handover.suspicious.load(Ordering::SeqCst));
    }

    #[test]
    fn a_suspect_is_executed_alone() {
        let memory = memory();
        die_over(&memory, None, &[2]);
        let handover = Handover::of(memory, Some(Death::Crashed));
        let suspect = handover.admit(request(2 | RESENT)).unwrap_or_else(|_| panic!("not condemned"));
        std::thread::scope(|scope| {
            let other = scope.spawn(|| drop(handover.admit(request(6))));
            assert!(handover.alone.try_read().is_none());
            drop(suspect);
            other.join().unwrap();
        });
    }
}
