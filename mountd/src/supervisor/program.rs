//! Which program the worker runs.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

/// A program, whatever becomes of the path it was found at.
#[derive(Clone, Debug)]
pub(super) enum Program {
    /// The one that this process runs.
    Own,
    /// Another one, held open.
    Other(Rc<Opened>),
}

/// A program that is held open, so that what was checked is what is started.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    path: PathBuf,
}

impl Program {
    /// Opens the program at a path.
    pub(super) fn open(path: &Path) -> io::Result<Program> {
        let path = path.canonicalize()?;
        // Not to be read: there are programs that may only be run.
        let file = File::options().read(true).custom_flags(libc::O_PATH).open(&path)?;
        Ok(Program::Other(Rc::new(Opened { file, path })))
    }

    /// Returns the path that the kernel finds this very program at, for as long as this process has it open. A script is
    /// opened once more by its interpreter, in another process: hence the pid.
    pub(super) fn executable(&self) -> PathBuf {
        match self {
            Program::Own => PathBuf::from("/proc/self/exe"),
            Program::Other(opened) => {
                format!("/proc/{}/fd/{}", std::process::id(), opened.file.as_raw_fd()).into()
            }
        }
    }

    /// Returns what the program is called.
    pub(super) fn name(&self) -> OsString {
        match self {
            Program::Own => std::env::args_os().next().unwrap_or_else(|| OsString::from("mountd")),
            Program::Other(opened) => opened.path.clone().into_os_string(),
        }
    }

    /// Returns the file, where it is not the one that this process runs.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Program::Own => None,
            Program::Other(opened) => Some(opened.file.as_fd()),
        }
    }

    /// Returns a command that runs it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(self.executable());
        command.arg0(self.name());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write_program;

    #[test]
    fn what_was_opened_is_run_though_its_path_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let replace = |content: &[u8]| {
            let aside = dir.path().join("aside");
            write_program(&aside, content);
            std::fs::rename(aside, &path).unwrap();
        };
        replace(b"#!/bin/sh\necho old $1\n");
        let program = Program::open(&path).unwrap();
        replace(b"#!/bin/sh\necho new $1\n");
        let output = program.command().arg("x").output().unwrap();
        assert_eq!(output.stdout, b"old x\n");
        assert!(program.name().to_str().unwrap().ends_with("/program"));
        assert_eq!(Program::open(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
