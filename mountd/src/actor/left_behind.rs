//! Work that may never end, and is left behind then: somebody else's file system may hang for good, and nothing in this process can end that.

use std::io;
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Does something on a thread of its own. Returns `None` if it did not end in time; it may end later, or never.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (sender, receiver) = channel();
    let thread = std::thread::Builder::new().name("may-hang".to_owned()).spawn(move || {
        // Nobody waits for it any more.
        drop(sender.send(work()));
    })?;
    match receiver.recv_timeout(limit) {
        Ok(done) => Ok(Some(done)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => resume_unwind(panic),
            Ok(()) => unreachable!("a thread that ends well has sent what it came to"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_left_behind() {
        let (ending, ended) = channel::<()>();
        let hangs = move || assert!(ended.recv().is_err());
        assert!(within(Duration::from_millis(10), hangs).unwrap().is_none());
        drop(ending);
        assert_eq!(within(Duration::from_secs(60), || 7).unwrap(), Some(7));
        let panics = std::panic::catch_unwind(|| within(Duration::from_secs(60), || panic!("no")));
        assert!(panics.is_err());
    }
}
