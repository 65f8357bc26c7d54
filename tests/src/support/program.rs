//! Programs of the distribution. One that is missing fails the test and names its Debian package:
//! a suite that skips what is not installed would prove nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::process::{Finished, pid_of, run, shown, signal, wait_for_exit};

/// A program about to be run.
#[derive(Debug)]
pub struct Program {
    command: Command,
    limit: Duration,
}

/// Finds a program in `PATH`.
///
/// # Panics
/// When it is not there; the message names the Debian package to install.
pub fn program(name: &str, package: &str) -> Program {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    let found = found.unwrap_or_else(|| panic!("`{name}` is missing: install the Debian package {package}"));
    program_at(&found, package)
}

/// Takes a program that is not in `PATH`.
///
/// # Panics
/// When it is not there; the message names the Debian package to install.
pub fn program_at(file: &Path, package: &str) -> Program {
    assert!(file.is_file(), "`{}` is missing: install the Debian package {package}", file.display());
    let mut command = Command::new(file);
    command.stdin(Stdio::null());
    Program { command, limit: Duration::from_secs(120) }
}

/// Copies a program, to be run from where the copy is.
///
/// A process of its own does it. A program that another test starts meanwhile has what this process has open, until it
/// executes; were the copy among that, open for writing, it could not be run (`ETXTBSY`).
///
/// # Panics
/// When it cannot be copied.
#[track_caller]
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    program("cp", "coreutils").args([from.as_ref(), to.as_ref()]).ok();
}

/// Writes a script, to be run. As [`copy_program`], by a process of its own.
///
/// # Panics
/// When it cannot be written.
#[track_caller]
pub fn write_script(to: impl AsRef<Path>, text: &str) {
    let store = program("sh", "dash").args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]);
    store.arg(to.as_ref()).input(text).ok();
}

impl Program {
    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Program {
        self.command.args(args);
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(self, arg: impl AsRef<OsStr>) -> Program {
        self.args([arg])
    }

    /// Sets the working directory.
    #[must_use]
    pub fn in_dir(mut self, dir: impl AsRef<Path>) -> Program {
        self.command.current_dir(dir);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Program {
        self.command.env(name, value);
        self
    }

    /// Takes an environment variable away.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Program {
        self.command.env_remove(name);
        self
    }

    /// Gives it something to read.
    #[must_use]
    pub fn input(mut self, text: impl AsRef<[u8]>) -> Program {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_ref()).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        self.command.stdin(file);
        self
    }

    /// Gives it longer than two minutes, or less.
    #[must_use]
    pub fn within(self, limit: Duration) -> Program {
        Program { limit, ..self }
    }

    /// Runs it to its end, whatever that is.
    pub fn finish(mut self) -> Finished {
        run(&mut self.command, self.limit)
    }

    /// Runs it to its end, which must be success.
    #[track_caller]
    pub fn ok(self) -> Finished {
        self.finish().ok()
    }

    /// Starts it. Its output goes to `log`.
    pub fn start(mut self, log: PathBuf) -> Background {
        let output = File::create(&log).unwrap();
        self.command.stdout(output.try_clone().unwrap()).stderr(output);
        let name = shown(&self.command);
        let child = self.command.spawn().unwrap_or_else(|err| panic!("start `{name}`: {err}"));
        Background { child, name, log }
    }
}

/// A running program; killed on drop.
#[derive(Debug)]
pub struct Background {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Background {
    /// Returns its process id.
    pub fn pid(&self) -> i32 {
        pid_of(&self.child)
    }

    /// Returns everything it printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Kills it without warning.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it a signal and waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(mut self, with: Signal, limit: Duration) {
        signal(self.pid(), with);
        assert!(wait_for_exit(self.pid(), limit), "`{}` ignores {with}:\n{}", self.name, self.output());
        self.child.wait().unwrap();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have been waited for already, then there is nothing left to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
