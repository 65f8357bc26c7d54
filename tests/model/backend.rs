//! Where calls are carried out: in this process, in a worker that can be killed, or on a local directory.

use std::io::{BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::executor::Executor;
use crate::local_dir::LocalDir;
use crate::wire::{self, Call, Reply, Wire};

/// Something that carries out calls.
pub(crate) enum Backend {
    Here(Box<Executor>),
    Worker(Worker),
    Directory(LocalDir),
}

impl Backend {
    /// Carries out calls in order. `Err`: nobody is there any more to do so.
    pub(crate) fn run(&mut self, calls: &[&Call]) -> Result<Vec<Reply>, String> {
        match self {
            Backend::Here(executor) => Ok(calls.iter().map(|call| executor.execute(call)).collect()),
            Backend::Directory(directory) => Ok(calls.iter().map(|call| directory.execute(call)).collect()),
            Backend::Worker(worker) => {
                worker.send(calls, false)?;
                let replies = worker.receive(calls.len());
                if replies.len() < calls.len() {
                    return Err(format!("the worker ended by itself: {}", worker.end()));
                }
                Ok(replies)
            }
        }
    }
}

/// A process that holds a store.
pub(crate) struct Worker {
    dir: PathBuf,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts a worker on the store in `dir`.
    pub(crate) fn start(dir: &Path) -> Worker {
        let mut child = Command::new(env!("CARGO_BIN_EXE_model-worker"))
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::with_capacity(1 << 20, child.stdout.take().unwrap());
        Worker { dir: dir.to_path_buf(), child, input, output }
    }

    fn send(&mut self, calls: &[&Call], flush_each: bool) -> Result<(), String> {
        let mut frame = Vec::new();
        flush_each.put(&mut frame);
        u32::try_from(calls.len()).unwrap().put(&mut frame);
        for call in calls {
            call.put(&mut frame);
        }
        wire::write_frame(&mut self.input, &frame)
            .and_then(|()| self.input.flush())
            .map_err(|error| format!("the worker does not listen ({error}): {}", self.end()))
    }

    /// Reads up to `count` replies, fewer only if the worker ends.
    fn receive(&mut self, count: usize) -> Vec<Reply> {
        let mut replies = Vec::new();
        while replies.len() < count {
            match wire::read_frame(&mut self.output).unwrap() {
                Some(frame) => replies.push(Reply::get(&mut &frame[..])),
                None => break,
            }
        }
        replies
    }

    /// Sends calls, kills the worker `delay` after that many replies, and starts another. Returns all the
    /// replies that the first one gave.
    pub(crate) fn kill_during(
        &mut self,
        calls: &[&Call],
        replies: usize,
        delay: Duration,
    ) -> Result<Vec<Reply>, String> {
        self.send(calls, true)?;
        let mut given = self.receive(replies.min(calls.len()));
        if given.len() < replies.min(calls.len()) {
            return Err(format!("the worker ended by itself: {}", self.end()));
        }
        // Sleeping is too coarse to hit the middle of an operation.
        let until = Instant::now() + delay;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        self.child.kill().unwrap();
        given.extend(self.receive(calls.len() - given.len()));
        let status = self.child.wait().unwrap();
        if status.signal() != Some(libc::SIGKILL) {
            return Err(format!("the worker ended by itself: {status}"));
        }
        *self = Worker::start(&self.dir);
        Ok(given)
    }

    fn end(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already; either way it is reaped below.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
