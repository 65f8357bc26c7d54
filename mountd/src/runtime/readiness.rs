//! Waiting until the program in a sandbox is ready for work.
//!
//! # Invariants
//! - Ready is what answers HTTP 200 on the path and port that the template names, asked from inside the sandbox's network.
//! - A container that ends while it is waited for ends the waiting, with an error that names it.
//! - All is over when the longest time of any probe has passed, however many there are, but for one try of each.

use std::thread;
use std::time::{Duration, Instant};

use super::http::{self, Wanted};
use super::{Deadline, Runtime, RuntimeError, Sandbox, SandboxState};

/// What is asked for: the template's `readyz.httpGet`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HttpGet {
    /// Starts with `/`.
    pub(crate) path: String,
    /// On which the program listens.
    pub(crate) port: u16,
}

/// How often, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pace {
    /// Between the first two tries. Later ones are further apart, each by half more.
    pub(crate) first_pause: Duration,
    /// Between two tries at most.
    pub(crate) longest_pause: Duration,
    /// How long one try may take. One that took as long gets twice the time the next time, up to eight times: on a busy machine none
    /// would ever succeed otherwise.
    pub(crate) one_try: Duration,
    /// How long all of it may take, from when the first of all probes was begun with.
    pub(crate) total: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            first_pause: Duration::from_micros(500),
            longest_pause: Duration::from_millis(50),
            one_try: Duration::from_millis(250),
            total: Duration::from_secs(30),
        }
    }
}

/// Between two questions to the runtime how the sandbox is, which may cost a process.
const LOOK: Duration = Duration::from_millis(100);

/// Waits until the programs in a sandbox say that they are ready, one after another: while one is waited for, the others get ready.
pub(crate) fn await_ready(
    runtime: &dyn Runtime,
    sandbox: &Sandbox,
    probes: impl IntoIterator<Item = (HttpGet, Pace)>,
) -> Result<(), RuntimeError> {
    let begun = Instant::now();
    probes.into_iter().try_for_each(|(wanted, pace)| {
        // One whose time went by while others were waited for is asked once.
        let left = pace.total.saturating_sub(begun.elapsed()).max(pace.one_try.min(pace.total));
        await_one(runtime, sandbox, &wanted, &pace, Deadline::after(left))
    })
}

fn await_one(
    runtime: &dyn Runtime,
    sandbox: &Sandbox,
    wanted: &HttpGet,
    pace: &Pace,
    end: Deadline,
) -> Result<(), RuntimeError> {
    let (mut pause, mut one_try) = (pace.first_pause, pace.one_try);
    let mut looked = Instant::now();
    let mut last = String::from("none");
    loop {
        let this_try = end.at_most(one_try);
        match ask(runtime, sandbox, wanted, this_try)? {
            Ok(()) => return Ok(()),
            // A try that was cut off by the end of it all says less than the one before.
            Err(_) if end.passed() => {}
            Err(why) => last = why,
        }
        if this_try.passed() {
            one_try = (one_try * 2).min(pace.one_try * 8);
        }
        if end.passed() {
            return Err(RuntimeError::TimedOut {
                program: format!("GET {} on port {}", wanted.path, wanted.port),
                action: format!("(last answer: {last})"),
            });
        }
        if looked.elapsed() >= LOOK {
            must_run(runtime, sandbox, end.at_least(LOOK))?;
            looked = Instant::now();
        }
        thread::sleep(pause.min(end.left()));
        pause = (pause * 3 / 2).min(pace.longest_pause);
    }
}

/// Asks once; says why not. An error: it is no use to ask.
fn ask(
    runtime: &dyn Runtime,
    sandbox: &Sandbox,
    wanted: &HttpGet,
    deadline: Deadline,
) -> Result<Result<(), String>, RuntimeError> {
    let mut connection = match runtime.connect(sandbox, wanted.port, deadline) {
        Ok(connection) => connection,
        Err(error @ RuntimeError::Unsupported { .. }) => return Err(error),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let answer = http::ask(&mut connection, "GET", &wanted.path, b"", Wanted::Status, deadline);
    Ok(match answer.map(|answer| answer.status) {
        Ok(200) => Ok(()),
        Ok(other) => Err(format!("status {other}")),
        Err(error) => Err(error.to_string()),
    })
}

fn must_run(runtime: &dyn Runtime, sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
    match runtime.state(sandbox, deadline) {
        Ok(SandboxState::Exited { container, status }) => Err(RuntimeError::Exited { container, status }),
        Ok(SandboxState::Absent) => Err(RuntimeError::Failed {
            program: runtime.name().to_owned(),
            action: "wait until it is ready".to_owned(),
            detail: format!("there is no sandbox {}", sandbox.id),
        }),
        Ok(SandboxState::Created | SandboxState::Running | SandboxState::Paused) => Ok(()),
        // It did not answer this time; the next time may be better.
        Err(RuntimeError::TimedOut { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;

    use super::super::{Abilities, AfterSave, Connection, Network};
    use super::*;

    /// A sandbox whose only port is one of this host.
    struct Fake {
        port: u16,
        state: SandboxState,
    }

    impl Runtime for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }
        fn probe(&self, _: Deadline) -> Result<Abilities, RuntimeError> {
            unreachable!()
        }
        fn preflight(&self, _: &Sandbox) -> Result<(), RuntimeError> {
            unreachable!()
        }
        fn check_save(&self, _: &Sandbox) -> Result<(), RuntimeError> {
            unreachable!()
        }
        fn version_of(&self, _: &Sandbox, _: Deadline) -> Result<String, RuntimeError> {
            unreachable!()
        }
        fn create(&self, _: &Sandbox, _: Deadline) -> Result<(), RuntimeError> {
            unreachable!()
        }
        fn start(&self, _: &Sandbox, _: Deadline) -> Result<(), RuntimeError> {
            unreachable!()
        }
        fn pause(&self, _: &Sandbox, _: Deadline) -> Result<(), RuntimeError> {
            unreachable!()
        }
        fn resume(&self, _: &Sandbox, _: Deadline) -> Result<(), RuntimeError> {
            unreachable!()
        }
        fn save(&self, _: &Sandbox, _: &Path, _: Deadline) -> Result<AfterSave, RuntimeError> {
            unreachable!()
        }
        fn restore(&self, _: &Sandbox, _: &Path, _: Deadline) -> Result<(), RuntimeError> {
            unreachable!()
        }
        fn kill(&self, _: &Sandbox, _: Deadline) -> Result<(), RuntimeError> {
            unreachable!()
        }
        fn state(&self, _: &Sandbox, _: Deadline) -> Result<SandboxState, RuntimeError> {
            Ok(self.state.clone())
        }
        fn programs(&self, _: &Sandbox) -> Result<Option<Vec<u32>>, RuntimeError> {
            unreachable!()
        }
        fn pid(&self, _: &Sandbox) -> Result<Option<u32>, RuntimeError> {
            unreachable!()
        }
        fn connect(&self, _: &Sandbox, port: u16, deadline: Deadline) -> Result<Connection, RuntimeError> {
            assert_eq!(port, 80);
            Connection::tcp("fake", (Ipv4Addr::LOCALHOST, self.port).into(), deadline)
        }
    }

    fn sandbox() -> Sandbox {
        Sandbox {
            id: "x".to_owned(),
            directory: "/x".into(),
            containers: Vec::new(),
            network: Network::None,
            machine: Default::default(),
        }
    }

    /// Waits for a server that gives these answers, one to each connection, and the last one for ever after.
    fn waits(
        state: SandboxState,
        answers: &'static [&'static str],
        pace: Pace,
    ) -> (Result<(), RuntimeError>, usize) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let fake = Fake { port: listener.local_addr().unwrap().port(), state };
        let asked = AtomicUsize::new(0);
        let wanted = HttpGet { path: "/readyz".to_owned(), port: 80 };
        let result = thread::scope(|scope| {
            scope.spawn(|| {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut request = [0; 256];
                    let count = stream.read(&mut request).unwrap_or_default();
                    if request.starts_with(b"stop") {
                        break;
                    }
                    let request = String::from_utf8_lossy(&request[..count]).into_owned();
                    assert!(request.starts_with("GET /readyz HTTP/1.1\r\n"), "{request}");
                    let answer = answers[asked.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)];
                    // Who asked may have given up by now.
                    stream.write_all(answer.as_bytes()).ok();
                }
            });
            let result = await_ready(&fake, &sandbox(), [(wanted, pace)]);
            let mut stop = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, fake.port)).unwrap();
            stop.write_all(b"stop").unwrap();
            result
        });
        (result, asked.load(Ordering::SeqCst))
    }

    fn short() -> Pace {
        Pace { total: Duration::from_secs(2), ..Pace::default() }
    }

    #[test]
    fn only_status_200_is_ready() {
        let answers = &[
            "",
            "HTTP/1.1 503 Wait\r\n\r\n",
            "SMTP\r\n",
            "HTTP/1.1 204 No\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        ];
        let (result, asked) = waits(SandboxState::Running, answers, Pace::default());
        result.unwrap();
        // One that is answered late is asked again.
        assert!(asked >= 5, "{asked}");
    }

    #[test]
    fn a_program_that_never_gets_ready_is_told_with_its_last_answer() {
        let (result, asked) = waits(SandboxState::Running, &["HTTP/1.1 503 Wait\r\n\r\n"], short());
        let error = result.unwrap_err();
        assert!(matches!(error, RuntimeError::TimedOut { .. }));
        assert!(error.to_string().contains("status 503"), "{error}");
        assert!(asked > 3, "{asked}");
    }

    #[test]
    fn a_container_that_ends_ends_the_waiting() {
        let state = SandboxState::Exited { container: "main".to_owned(), status: Some(3) };
        let (result, _) = waits(state, &["HTTP/1.1 503 Wait\r\n\r\n"], Pace::default());
        assert_eq!(result.unwrap_err().to_string(), "container main has ended with status 3");
    }

    #[test]
    fn the_time_of_all_probes_begins_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let fake = Fake { port: listener.local_addr().unwrap().port(), state: SandboxState::Running };
        let probe = |path: &str, total| {
            let pace = Pace { total: Duration::from_millis(total), ..Pace::default() };
            (HttpGet { path: path.to_owned(), port: 80 }, pace)
        };
        // `/late` is ready then, `/ready` always, and `/never` never.
        let late = Mutex::new(Instant::now());
        let serve = || {
            loop {
                let mut stream = listener.accept().unwrap().0;
                let mut request = [0; 256];
                let count = stream.read(&mut request).unwrap_or_default();
                let request = request.get(..count).unwrap_or_default();
                if request.starts_with(b"stop") {
                    break;
                }
                let is_ready = request.starts_with(b"GET /ready ")
                    || request.starts_with(b"GET /late ") && Instant::now() >= *late.lock();
                let answer = if is_ready { "HTTP/1.1 200 OK\r\n\r\n" } else { "HTTP/1.1 503 Wait\r\n\r\n" };
                // Who asked may have given up by now.
                stream.write_all(answer.as_bytes()).ok();
            }
        };
        let (never, took, asked_late) = thread::scope(|scope| {
            scope.spawn(serve);
            let begun = Instant::now();
            *late.lock() = begun + Duration::from_millis(2800);
            let never = await_ready(&fake, &sandbox(), [probe("/late", 3000), probe("/never", 3000)]);
            let took = begun.elapsed();
            *late.lock() = Instant::now() + Duration::from_millis(300);
            let asked_late = await_ready(&fake, &sandbox(), [probe("/late", 30_000), probe("/ready", 100)]);
            let mut stop = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, fake.port)).unwrap();
            stop.write_all(b"stop").unwrap();
            (never, took, asked_late)
        });
        assert!(matches!(never, Err(RuntimeError::TimedOut { .. })), "{never:?}");
        // One after the other they would take 5.8 s.
        assert!((Duration::from_secs(3)..Duration::from_millis(5800)).contains(&took), "{took:?}");
        // One whose time went by meanwhile is not given up unasked.
        asked_late.unwrap();
    }

    #[test]
    fn nobody_listening_is_waited_out() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let fake = Fake { port, state: SandboxState::Running };
        let wanted = HttpGet { path: "/readyz".to_owned(), port: 80 };
        let error = await_ready(&fake, &sandbox(), [(wanted, short())]).unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
