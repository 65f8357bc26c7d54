//! What a program said of itself, as long as it is the same program.
//!
//! Asking a runtime for its version costs a process of some tens of milliseconds, and each capture and each restore of memory has to know it.
//! An upgrade puts another file in the program's place, or writes to it, which its identity tells. Of a script it does not:
//! what the script starts may be upgraded behind its back. So only of a compiled program anything is remembered.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use parking_lot::Mutex;

use super::RuntimeError;
use super::program::Tool;

const COMPILED: [u8; 4] = *b"\x7fELF";

/// An answer, and the program that gave it.
pub(super) struct Remembered<T>(Mutex<Option<(Identity, T)>>);

/// Tells a file from another, and from what it was before it was written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<T: Clone> Remembered<T> {
    pub(super) const fn nothing() -> Remembered<T> {
        Remembered(Mutex::new(None))
    }

    /// Returns what `ask` said of this program before, or asks.
    pub(super) fn or_ask(
        &self,
        tool: &Tool,
        ask: impl FnOnce() -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        self.or_ask_at(&tool.find()?, ask)
    }

    fn or_ask_at(
        &self,
        program: &Path,
        ask: impl FnOnce() -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        // Before it is asked: what is replaced meanwhile is asked again.
        let Some(identity) = identity_of(program) else { return ask() };
        if let Some((known, answer)) = &*self.0.lock()
            && *known == identity
        {
            return Ok(answer.clone());
        }
        let answer = ask()?;
        *self.0.lock() = Some((identity, answer.clone()));
        Ok(answer)
    }
}

/// Returns the identity of a compiled program; `None` if there is no way to tell.
fn identity_of(program: &Path) -> Option<Identity> {
    let mut file = File::open(program).ok()?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).ok()?;
    let metadata = file.metadata().ok().filter(|_| magic == COMPILED)?;
    Some(Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;

    #[test]
    fn a_program_is_asked_once_and_its_successor_again() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("p");
        let (known, asked) = (Remembered::nothing(), Cell::new(0));
        let ask = || {
            asked.set(asked.get() + 1);
            Ok(asked.get())
        };
        fs::copy("/bin/true", &program).unwrap();
        assert_eq!(
            (known.or_ask_at(&program, ask).unwrap(), known.or_ask_at(&program, ask).unwrap()),
            (1, 1)
        );
        // By another file, as packages do it.
        fs::copy("/bin/false", dir.path().join("new")).unwrap();
        fs::rename(dir.path().join("new"), &program).unwrap();
        assert_eq!(
            (known.or_ask_at(&program, ask).unwrap(), known.or_ask_at(&program, ask).unwrap()),
            (2, 2)
        );
        // In its place.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::copy("/bin/true", &program).unwrap();
        assert_eq!(known.or_ask_at(&program, ask).unwrap(), 3);
    }

    #[test]
    fn a_script_is_always_asked_and_so_is_what_failed() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("p");
        let (known, asked) = (Remembered::nothing(), Cell::new(0));
        let ask = || {
            asked.set(asked.get() + 1);
            Ok(asked.get())
        };
        fs::write(&program, "#!/bin/sh\nexec other --version\n").unwrap();
        assert_eq!(
            (known.or_ask_at(&program, ask).unwrap(), known.or_ask_at(&program, ask).unwrap()),
            (1, 2)
        );
        fs::copy("/bin/true", &program).unwrap();
        let failed = || Err(RuntimeError::TimedOut { program: "p".to_owned(), action: "ask".to_owned() });
        assert!(known.or_ask_at(&program, failed).is_err());
        assert_eq!(known.or_ask_at(&program, ask).unwrap(), 3);
    }
}
