//! Descriptors that came as mere numbers from the program that this process ran before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Makes descriptors ours: each is replaced by one that is closed on exec. The numbers are free afterwards.
///
/// No safe function turns a number into a descriptor. The kernel does, if it is asked for a duplicate of what has
/// that number in this very process.
///
/// # Errors
/// A number that is not open.
pub(crate) fn take_over(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let Some(highest) = numbers.iter().max() else { return Ok(Vec::new()) };
    // What is made here must not land on a number that is still to be taken, nor be taken for one that is missing.
    let above = highest.saturating_add(1);
    let this = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let this = fcntl_dupfd_cloexec(this, above)?;
    numbers.iter().map(|number| take_over_one(this.as_fd(), *number, above)).collect()
}

fn take_over_one(this: BorrowedFd<'_>, number: RawFd, above: RawFd) -> io::Result<OwnedFd> {
    let missing = |error: rustix::io::Errno| {
        let kind = io::Error::from(error).kind();
        io::Error::new(kind, format!("descriptor {number} was promised: {error}"))
    };
    let duplicate = pidfd_getfd(this, number, PidfdGetfdFlags::empty()).map_err(missing)?;
    let duplicate = fcntl_dupfd_cloexec(duplicate, above)?;
    nix::unistd::close(number)?;
    Ok(duplicate)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn a_number_becomes_a_descriptor_that_is_closed_on_exec() {
        // Far above what other tests of this process have open.
        let file = File::open("/dev/null").unwrap();
        let numbers = [905, 901].map(|number| fcntl_dupfd_cloexec(&file, number).unwrap().into_raw_fd());
        let taken = take_over(&numbers).unwrap();
        assert_eq!(taken.len(), 2);
        for descriptor in &taken {
            assert!(descriptor.as_raw_fd() > 905);
            let flags = rustix::io::fcntl_getfd(descriptor).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
        let error = take_over(&numbers).unwrap_err();
        assert!(error.to_string().contains("905"), "{error}");
    }
}
