//! QEMU's monitor (see <https://www.qemu.org/docs/master/interop/qmp-spec.html>): a line of JSON each way, over a Unix socket.
//!
//! # Invariants
//! - No call outlasts its deadline, also where QEMU says something all the time, but not what was asked.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::runtime::files::{Shortcut, at};
use crate::runtime::{Deadline, RuntimeError, Sandbox};

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
        let stream = UnixStream::connect(&path).map_err(at("connect to", &path))?;
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
        let read = self.bounded(command, |stream| stream.read_until(b'\n', &mut line))?;
        if read == 0 {
            return Err(failed(command, "QEMU has ended".to_owned()));
        }
        serde_json::from_slice(&line).map_err(|error| failed(command, error.to_string()))
    }

    fn bounded<T>(
        &mut self,
        command: &str,
        work: impl FnOnce(&mut BufReader<UnixStream>) -> io::Result<T>,
    ) -> Result<T, RuntimeError> {
        let timed_out =
            || RuntimeError::TimedOut { program: super::QEMU.name.to_owned(), action: command.to_owned() };
        if self.deadline.passed() {
            return Err(timed_out());
        }
        let left = Some(self.deadline.left().max(Duration::from_millis(1)));
        let stream = self.stream.get_ref();
        let bounded = stream.set_read_timeout(left).and_then(|()| stream.set_write_timeout(left));
        bounded.and_then(|()| work(&mut self.stream)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => timed_out(),
            _ => failed(command, error.to_string()),
        })
    }
}

/// Returns an error in QEMU's words.
pub(super) fn failed(command: &str, detail: String) -> RuntimeError {
    RuntimeError::Failed { program: super::QEMU.name.to_owned(), action: command.to_owned(), detail }
}
