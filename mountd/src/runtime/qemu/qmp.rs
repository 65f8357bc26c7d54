//! QEMU's monitor (see <https://www.qemu.org/docs/master/interop/qmp-spec.html>): a line of JSON each way, over a Unix socket.
//!
//! # Invariants
//! - No call outlasts its deadline, also where QEMU lets nobody in, or says something all the time, but not what was asked.
//! - What it says takes no more memory than [`LONGEST_LINE`].

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::runtime::connection::connect_unix;
use crate::runtime::files::{Shortcut, at};
use crate::runtime::{Deadline, RuntimeError, Sandbox};

/// More than QEMU says in one line, of what it is asked here.
const LONGEST_LINE: usize = 1 << 20;

/// An open monitor.
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
    deadline: Deadline,
}

impl Qmp {
    /// Opens the monitor at a socket in the sandbox's directory. QEMU talks to one client at a time; others wait.
    pub(super) fn open(sandbox: &Sandbox, socket: &str, deadline: Deadline) -> Result<Qmp, RuntimeError> {
        let path = Shortcut::to(&sandbox.directory)?;
        let path = path.path(socket);
        let stream = connect_unix(&path, deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => timed_out("connect"),
            _ => at("connect to", &path)(error),
        })?;
        let mut qmp = Qmp { stream: BufReader::new(stream), deadline };
        let greeting = qmp.read("greeting")?;
        if greeting.get("QMP").is_none() {
            return Err(failed("greeting", format!("{greeting} is no greeting")));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Has a command executed, and returns what it returns.
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, RuntimeError> {
        let request = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.bounded(command, |stream| stream.get_mut().write_all(request.as_bytes()))?;
        loop {
            let mut answer = self.read(command)?;
            if let Some(returned) = answer.get_mut("return") {
                return Ok(returned.take());
            }
            if let Some(error) = answer.get("error") {
                let description = error.get("desc").and_then(Value::as_str);
                return Err(failed(command, description.unwrap_or("it failed").to_owned()));
            }
            // An event.
        }
    }

    /// Has a line of QEMU's monitor for people executed, for what the other one has no command. Anything it answers is an error.
    pub(super) fn human(&mut self, line: &str) -> Result<(), RuntimeError> {
        match self.execute("human-monitor-command", json!({ "command-line": line }))? {
            Value::String(said) if !said.trim().is_empty() => Err(failed(line, said.trim().to_owned())),
            _ => Ok(()),
        }
    }

    fn read(&mut self, command: &str) -> Result<Value, RuntimeError> {
        let mut line = Vec::new();
        // What it waits for is one read, however little that brings.
        while line.last() != Some(&b'\n') {
            let read = self.bounded(command, |stream| {
                let length = stream.fill_buf()?.len();
                stream.take(length as u64).read_until(b'\n', &mut line)
            })?;
            if read == 0 {
                return Err(failed(command, "QEMU has ended".to_owned()));
            }
            if line.len() > LONGEST_LINE {
                return Err(failed(command, format!("QEMU's answer is longer than {LONGEST_LINE} bytes")));
            }
        }
        serde_json::from_slice(&line).map_err(|error| failed(command, error.to_string()))
    }

    fn bounded<T>(
        &mut self,
        command: &str,
        work: impl FnOnce(&mut BufReader<UnixStream>) -> io::Result<T>,
    ) -> Result<T, RuntimeError> {
        if self.deadline.passed() {
            return Err(timed_out(command));
        }
        let left = Some(self.deadline.left().max(Duration::from_millis(1)));
        let stream = self.stream.get_ref();
        let bounded = stream.set_read_timeout(left).and_then(|()| stream.set_write_timeout(left));
        bounded.and_then(|()| work(&mut self.stream)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => timed_out(command),
            _ => failed(command, error.to_string()),
        })
    }
}

fn timed_out(command: &str) -> RuntimeError {
    RuntimeError::TimedOut { program: super::QEMU.name.to_owned(), action: command.to_owned() }
}

/// Returns an error in QEMU's words.
pub(super) fn failed(command: &str, detail: String) -> RuntimeError {
    RuntimeError::Failed { program: super::QEMU.name.to_owned(), action: command.to_owned(), detail }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};

    use super::*;
    use crate::runtime::Network;

    fn sandbox(directory: &Path) -> Sandbox {
        Sandbox {
            id: "vm".to_owned(),
            directory: directory.to_owned(),
            containers: Vec::new(),
            network: Network::None,
            machine: Default::default(),
        }
    }

    /// Opens the monitor, and fails if that takes for ever.
    fn open(directory: &Path, time: Duration) -> (Result<(), RuntimeError>, Duration) {
        let (tell, told) = mpsc::channel();
        let sandbox = sandbox(directory);
        thread::spawn(move || {
            let started = Instant::now();
            let opened = Qmp::open(&sandbox, "qmp.sock", Deadline::after(time)).map(drop);
            // Nobody listens any more once the test has failed.
            tell.send((opened, started.elapsed())).ok();
        });
        told.recv_timeout(Duration::from_secs(30)).expect("a call outlasts its deadline")
    }

    #[test]
    fn a_monitor_that_nobody_answers_at_is_given_up_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(dir.path().join("qmp.sock")).unwrap()).unwrap();
        // As QEMU does.
        listen(&listener, 1).unwrap();
        for _ in 0..4 {
            let (opened, took) = open(dir.path(), Duration::from_millis(50));
            assert!(matches!(opened, Err(RuntimeError::TimedOut { .. })), "{opened:?}");
            assert!(took < Duration::from_secs(20), "{took:?}");
        }
    }

    /// Listens as a monitor that says one thing again and again, with pauses in between.
    fn says(directory: &Path, what: &'static [u8], pause: Duration) {
        let listener = std::os::unix::net::UnixListener::bind(directory.join("qmp.sock")).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // More than there would be memory for; until the other end has had enough.
            for _ in 0..1 << 20 {
                if stream.write_all(what).is_err() {
                    break;
                }
                thread::sleep(pause);
            }
        });
    }

    #[test]
    fn a_monitor_that_says_a_byte_at_a_time_is_given_up_in_time() {
        let dir = tempfile::tempdir().unwrap();
        says(dir.path(), b" ", Duration::from_millis(10));
        let (opened, took) = open(dir.path(), Duration::from_millis(200));
        assert!(matches!(opened, Err(RuntimeError::TimedOut { .. })), "{opened:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        says(dir.path(), &[b' '; 4096], Duration::ZERO);
        let (opened, _) = open(dir.path(), Duration::from_secs(20));
        assert!(opened.as_ref().is_err_and(|error| error.to_string().contains("longer")), "{opened:?}");
    }
}
