//! Strict assertions on errno: a failure with the wrong errno is a failure of the test.

use std::io;

use nix::errno::Errno;

/// An error that carries an errno.
pub trait Failure {
    /// Returns the errno, or `None` for an error that did not come from the kernel.
    fn errno(&self) -> Option<Errno>;
}

impl Failure for io::Error {
    fn errno(&self) -> Option<Errno> {
        self.raw_os_error().map(Errno::from_raw)
    }
}

impl Failure for Errno {
    fn errno(&self) -> Option<Errno> {
        Some(*self)
    }
}

/// Returns the errno that `result` failed with, or `None` where it did not fail.
///
/// # Panics
/// When it failed with something that is not an errno.
pub fn errno_of<T, E: Failure + std::fmt::Debug>(result: &Result<T, E>) -> Option<Errno> {
    let err = result.as_ref().err()?;
    let errno = err.errno();
    assert!(errno.is_some(), "failed without an errno: {err:?}");
    errno
}

/// Asserts that an operation fails with exactly this errno (or one of these).
#[macro_export]
macro_rules! assert_errno {
    ($result:expr, $($errno:ident)|+) => {{
        let result = $result;
        let seen = $crate::support::errno_of(&result);
        assert!(
            matches!(seen, $(Some(nix::errno::Errno::$errno))|+),
            "`{}` gave {}, expected {}",
            stringify!($result),
            seen.map_or_else(|| "success".to_owned(), |errno| format!("{errno:?}")),
            stringify!($($errno)|+),
        );
    }};
}
