//! The request a thread is executing, and what it is answered with.
//!
//! # Overview
//! A request that changes something must take effect once, also if the worker dies between the change and the answer and
//! the kernel sends the request again to its successor. So what it is answered with is stored in the batch of the change
//! itself ([`Txn::commit`](crate::store::Txn::commit)), under the number of the thread that executes it, and a successor
//! answers from there. Which request a thread executes is not handed through every operation: the transport says it
//! here, the transaction asks here.
//!
//! A change that consists of nothing but bytes written in place has no batch left to store an answer in: its thread notes outside of
//! the process that it is done, before anybody else may touch the file.
//!
//! Pages of a segment are written before the batch that refers to them. Those that a thread was handed are noted outside of
//! the process until the batch is written: a successor gives back what belongs to a request that was not executed.
//!
//! # Invariants
//! - A thread's stored answer is overwritten by its next change only, which begins after the answer was sent.
//! - No two threads of a session have the same number.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::ids::{Ino, SessionId};

/// The most threads a session may have.
pub const THREADS: u16 = 96;

/// Names a request of a session, whoever executes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KernelRequest {
    /// The mount it came through.
    pub session: SessionId,
    /// The kernel's number for it, without the mark of a request that is sent again. Never used twice in a session.
    pub unique: u64,
}

/// What a request that changed something is answered with, beside attributes, which are looked up again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// That it is done.
    Done,
    /// The inode that has a new name.
    Inode(Ino),
    /// How many bytes were written or copied.
    Count(u64),
}

/// A request on the thread that executes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Executing {
    /// Which request.
    pub request: KernelRequest,
    /// The number of the thread in its session, below [`THREADS`].
    pub thread: u16,
}

/// Keeps, for a successor, what a thread has taken and not committed yet, and what it has done that no batch says.
pub trait Ledger: Send + Sync {
    /// Notes that the thread's request has written so many bytes in place and is done, but for being answered.
    fn written(&self, thread: u16, count: u64);
    /// Notes that a thread was handed pages of a segment. Of too many runs the last are not noted.
    fn pages_taken(&self, thread: u16, segment: u32, page: u32, count: u32);
    /// Notes that what the thread was handed is committed, or given back.
    fn pages_settled(&self, thread: u16);
}

thread_local! {
    static EXECUTING: Cell<Option<Executing>> = const { Cell::new(None) };
    static LEDGER: RefCell<Option<Arc<dyn Ledger>>> = const { RefCell::new(None) };
}

/// Runs `work` as the execution of a request: what it commits stores the answer too, and what it takes before is noted in
/// `ledger`.
pub fn execute<T>(executing: Executing, ledger: Arc<dyn Ledger>, work: impl FnOnce() -> T) -> T {
    // Also on the way of a panic: what the thread does later must not pass for this request.
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            EXECUTING.set(None);
            LEDGER.set(None);
        }
    }
    EXECUTING.set(Some(executing));
    LEDGER.set(Some(ledger));
    let _ended = Ended;
    work()
}

/// Returns what the calling thread executes, if it is a request that may be sent again.
pub(crate) fn executing() -> Option<Executing> {
    EXECUTING.get()
}

/// Notes that the calling thread was handed pages of a segment.
pub(crate) fn note_pages(segment: u32, page: u32, count: u32) {
    with_ledger(|ledger, thread| ledger.pages_taken(thread, segment, page, count));
}

/// Notes that what the calling thread was handed is committed, or given back.
pub(crate) fn note_settled() {
    with_ledger(|ledger, thread| ledger.pages_settled(thread));
}

/// Notes that the request of the calling thread has written so many bytes in place and is done, but for being answered.
pub(crate) fn note_written(count: u64) {
    with_ledger(|ledger, thread| ledger.written(thread, count));
}

fn with_ledger(tell: impl FnOnce(&dyn Ledger, u16)) {
    if let Some(Executing { thread, .. }) = executing() {
        LEDGER.with_borrow(|ledger| {
            if let Some(ledger) = ledger.as_deref() {
                tell(ledger, thread);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Ledger for Nothing {
        fn written(&self, _: u16, _: u64) {}
        fn pages_taken(&self, _: u16, _: u32, _: u32, _: u32) {}
        fn pages_settled(&self, _: u16) {}
    }

    #[test]
    fn a_thread_executes_a_request_until_it_returns_or_panics() {
        let executed = Executing { request: KernelRequest { session: SessionId(1), unique: 2 }, thread: 3 };
        assert_eq!(execute(executed, Arc::new(Nothing), executing), Some(executed));
        assert_eq!(executing(), None);
        let panicked =
            std::panic::catch_unwind(|| execute(executed, Arc::new(Nothing), || panic!("on purpose")));
        assert!(panicked.is_err() && executing().is_none());
    }
}
