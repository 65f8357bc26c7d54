//! `mountd --no-supervisor` under a service manager that keeps descriptors, as systemd does.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use durdir_tests::support::*;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

const MINUTE: Duration = Duration::from_secs(60);

/// What systemd is to a service: hears it, and keeps what it is given.
struct Manager {
    store: Store,
    /// What the service is told beside where its store is.
    arguments: Vec<OsString>,
    socket: UnixDatagram,
    path: std::path::PathBuf,
    kept: Vec<(String, OwnedFd)>,
    heard: Vec<String>,
}

impl Manager {
    fn new() -> Manager {
        let store = Store::new();
        let path = store.side_dir().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let arguments = ["--no-supervisor", "--foreground"].map(OsString::from).to_vec();
        Manager { store, arguments, socket, path, kept: Vec::new(), heard: Vec::new() }
    }

    /// Starts the service with everything that is kept.
    fn start(&mut self) -> Child {
        let names: Vec<&str> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
        let service = self.store.mountd(&self.arguments);
        // The shell knows the pid before mountd has it.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
            .arg(service.get_program())
            .args(service.get_args())
            .stdin(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(self.log()).unwrap())
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", "3000000")
            // The end of a session is noticed late: until then a mount that was taken away looks as if it were served.
            .env("DURDIR_FAILPOINTS", "session.ended:sleep=200")
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        let sources: Vec<RawFd> = self.kept.iter().map(|(_, kept)| kept.as_raw_fd()).collect();
        assert!(sources.iter().all(|source| *source >= 3 + 64), "numbers of source and target overlap");
        // SAFETY: only dup2, which is safe to call between fork and exec.
        unsafe {
            command.pre_exec(move || {
                for (source, target) in sources.iter().zip(3..) {
                    if libc::dup2(*source, target) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        command.spawn().unwrap()
    }

    fn log(&self) -> std::path::PathBuf {
        self.path.with_file_name("log")
    }

    /// Does what it is told until it was told this.
    fn serve_until(&mut self, assignment: &str) {
        let deadline = Instant::now() + MINUTE;
        while !self.serve_once().is_some_and(|message| message.lines().any(|line| line == assignment)) {
            let log = || std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(Instant::now() < deadline, "no {assignment} in {:?}\n{}", self.heard, log());
        }
    }

    /// Does what it is told while somebody asks something of the service.
    fn meanwhile<T: Send + 'static>(&mut self, ask: impl FnOnce(Store) -> T + Send + 'static) -> T {
        let store = self.store.clone();
        let asking = std::thread::spawn(move || ask(store));
        while !asking.is_finished() {
            self.serve_once();
        }
        asking.join().unwrap()
    }

    /// Takes one message, if one comes.
    fn serve_once(&mut self) -> Option<String> {
        let mut buffer = [0; 4096];
        let mut space = nix::cmsg_space!([RawFd; 8]);
        let (length, received) = {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Ok(message) => message,
                Err(nix::errno::Errno::EAGAIN) => return None,
                Err(err) => panic!("receive: {err}"),
            };
            let mut received = Vec::new();
            for control in message.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(descriptors) = control {
                    received.extend(descriptors);
                }
            }
            (message.bytes, received)
        };
        // SAFETY: the kernel just made these descriptors for us, and nobody else knows them.
        let received: Vec<OwnedFd> =
            received.into_iter().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }).collect();
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let name = lines.iter().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
        if lines.contains(&"FDSTORE=1") {
            for descriptor in received {
                // Out of the way of the numbers that a service gets them at.
                let raw = nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(200)).unwrap();
                // SAFETY: as above.
                self.kept.push((name.to_owned(), unsafe { OwnedFd::from_raw_fd(raw) }));
            }
        } else if lines.contains(&"FDSTOREREMOVE=1") {
            self.kept.retain(|(own, _)| own != name);
        }
        self.heard.push(text.clone());
        Some(text)
    }
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

#[test]
fn the_service_managers_descriptor_store_takes_the_place_of_the_supervisor() {
    let mut manager = Manager::new();
    let mut service = manager.start();
    manager.serve_until("READY=1");
    let pid = pid_of(&service);
    // One process, and it is the one that was started.
    assert_eq!(manager.store.daemon(), [pid]);
    let names: Vec<&str> = manager.kept.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["api_0of1"]);
    manager.store.create_volume("v");

    signal(pid, Signal::SIGKILL);
    service.wait().unwrap();
    // Comes while nobody serves, and waits.
    let socket = manager.store.path().join("mountd.sock");
    let mut early = UnixStream::connect(&socket).unwrap();
    early.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    // In any order: systemd keeps none.
    manager.kept.reverse();
    let mut service = manager.start();
    manager.serve_until("READY=1");
    assert_eq!(manager.store.json(["volume", "ls"])[0]["name"], "v");
    assert_eq!(manager.store.json(["doctor"])["takeovers"], 1);
    let mut answer = [0; 9];
    std::io::Read::read_exact(&mut early, &mut answer).unwrap();
    assert_eq!(answer[3], 4, "a SETTINGS frame of HTTP/2: {answer:?}");
    drop(early);
    assert_eq!(manager.kept.len(), 1, "what was kept is kept on: {:?}", manager.heard);
    manager.serve_until("WATCHDOG=1");

    signal(pid_of(&service), Signal::SIGTERM);
    manager.serve_until("STOPPING=1");
    // Memory of actors may have to be written.
    manager.serve_until("EXTEND_TIMEOUT_USEC=60000000");
    await_end(&mut manager, &mut service);
    assert!(manager.kept.is_empty(), "{:?}", manager.heard);
}

/// Waits for the end of a service that was asked to end, and hears what it says until then.
fn await_end(manager: &mut Manager, service: &mut Child) {
    eventually("the service ends", MINUTE, || {
        manager.serve_once();
        service.try_wait().unwrap()
    });
    while manager.serve_once().is_some() {}
    assert_eq!(service.wait().unwrap().code(), Some(0));
}

/// Writes a configuration, and returns where it is.
fn configuration(store: &Store, shutdown: &str) -> std::path::PathBuf {
    let file = store.side_dir().join("mountd.toml");
    std::fs::write(&file, format!("[shutdown]\n{shutdown}\n")).unwrap();
    file
}

/// `systemctl restart` is an end and a start.
#[test]
fn a_restart_keeps_mounts_where_the_configuration_says_so() {
    let mut manager = Manager::new();
    let file = configuration(&manager.store, "mounts = 'keep'\ngrace = '60s'");
    manager.arguments.extend(["--config".into(), file.into()]);
    let mut service = manager.start();
    manager.serve_until("READY=1");
    let mount = manager.meanwhile(|store| store.mount("v"));
    let log_of_actor = manager.store.path().join("actors/a/volumes/home/log");
    let lines = || std::fs::read_to_string(&log_of_actor).map_or(0, |log| log.lines().count());
    manager.meanwhile(start_writer);
    while manager.serve_once().is_some() {}
    let kept: Vec<String> = manager.kept.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(kept.len(), 5, "the socket, and two of each mount: {kept:?}");
    // In a process of its own: whoever starts another process closes its files in there, and waits for that.
    std::fs::create_dir(mount.path("there")).unwrap();
    let script = "exec 3>open 4<>gone; rm gone; echo before >&3; echo ready; read go
        echo meanwhile >&3 && mv there elsewhere && echo kept >&4 && echo done; read go";
    let mut program = Command::new("sh")
        .args(["-c", script])
        .current_dir(mount.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut tell = program.stdin.take().unwrap();
    assert_eq!(told.next().unwrap().unwrap(), "ready");

    let pid_of_actor = manager.meanwhile(|store| store.json(["actor", "show", "a"])["pid"].clone());
    assert!(pid_of_actor.is_u64() && lines() > 0, "{pid_of_actor}");
    let store = manager.store.clone();
    let begun = Instant::now();
    signal(pid_of(&service), Signal::SIGTERM);
    await_end(&mut manager, &mut service);
    assert!(begun.elapsed() < Duration::from_secs(40), "nothing is waited for: {:?}", begun.elapsed());
    assert!(manager.heard.iter().any(|said| said.contains("STOPPING=1")), "{:?}", manager.heard);
    let still: Vec<String> = manager.kept.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(still, kept, "all of it is kept");
    assert!(is_mounted(mount.root()));
    // Nobody serves, and programs and clients wait for who does next.
    writeln!(tell, "go").unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| told.next().unwrap().unwrap());
        let asking = scope.spawn(|| store.json(["volume", "ls"]));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished() && !asking.is_finished());
        service = manager.start();
        manager.serve_until("READY=1");
        assert_eq!(waiting.join().unwrap(), "done");
        assert_eq!(asking.join().unwrap()[1]["name"], "v");
    });
    assert_eq!(std::fs::read(mount.path("open")).unwrap(), b"before\nmeanwhile\n");
    assert!(mount.path("elsewhere").exists() && !mount.path("there").exists());
    // The same process, which was not paused.
    assert_eq!(manager.meanwhile(|store| store.json(["actor", "show", "a"])["pid"].clone()), pid_of_actor);
    let written = lines();
    eventually("the actor goes on", MINUTE, || (lines() > written).then_some(()));

    // What it is told since counts, and what only a start takes over is named.
    let text = "[shutdown]\nmounts = 'unmount'\ngrace = '60s'\n[log]\nformat = 'json'\n";
    std::fs::write(manager.arguments.last().unwrap(), text).unwrap();
    signal(pid_of(&service), Signal::SIGHUP);
    let log = manager.log();
    eventually("it has read that", MINUTE, || {
        std::fs::read_to_string(&log).unwrap().contains("keys=\"log.format\"").then_some(())
    });
    // In use by that program, which is no reason to wait; the actor is paused.
    let begun = Instant::now();
    signal(pid_of(&service), Signal::SIGTERM);
    await_end(&mut manager, &mut service);
    assert!(begun.elapsed() < Duration::from_secs(40), "it waited {:?}", begun.elapsed());
    assert!(manager.kept.is_empty(), "{:?}", manager.heard);
    assert!(!is_mounted(mount.root()));
    drop(tell);
    program.wait().unwrap();
}

/// Starts an actor that writes lines into its volume.
fn start_writer(store: Store) {
    let side = store.side_dir();
    let home = store.side_dir();
    let template = serde_json::json!({
        "volumes": [{"name": "home", "durableDir": {}}],
        "containers": [{
            "name": "job",
            "rootfs": "/",
            "command": ["/bin/sh", "-c", format!("while :; do echo line >> {}/log; sleep 0.01; done", home.display())],
            "volumeMounts": [{"name": "home", "mountPath": home}],
        }],
        "sandboxClass": "process",
        "sandbox": {"network": "host"},
        "snapshotsConfig": {
            "location": format!("file://{}", side.display()), "onPause": "Data", "onCommit": "Data",
        },
    });
    let file = side.join("job.json");
    std::fs::write(&file, template.to_string()).unwrap();
    store.ok(["actor", "create", "-f", file.to_str().unwrap(), "--id", "a"]);
    store.ok(["actor", "start", "a"]);
    let log = store.path().join("actors/a/volumes/home/log");
    eventually("it writes", MINUTE, || std::fs::metadata(&log).is_ok_and(|log| log.len() > 0).then_some(()));
}

#[test]
fn mounts_are_not_kept_where_nobody_keeps_them() {
    let store = Store::new();
    let file = configuration(&store, "mounts = 'keep'");
    for arguments in [&["--foreground"][..], &[], &["--foreground", "--no-supervisor"]] {
        let mut mountd = store.mountd(arguments);
        let refused = run(mountd.arg("--config").arg(&file), MINUTE);
        assert_eq!(refused.code(), Some(5), "{refused}");
        assert!(refused.complaint().contains("needs a service manager"), "{refused}");
    }
}

#[test]
fn descriptors_for_another_process_are_left_alone() {
    let mut manager = Manager::new();
    let stranger = UnixDatagram::unbound().unwrap();
    let raw = nix::fcntl::fcntl(&stranger, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(200)).unwrap();
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
    manager.kept.push(("api_0of1".to_owned(), unsafe { OwnedFd::from_raw_fd(raw) }));
    let mut command = manager.store.mountd(["--no-supervisor", "--foreground"]);
    command
        .env("NOTIFY_SOCKET", &manager.path)
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "api_0of1")
        .stderr(Stdio::null());
    let mut service = command.spawn().unwrap();
    manager.serve_until("READY=1");
    manager.store.ok(["volume", "ls"]);
    signal(pid_of(&service), Signal::SIGTERM);
    eventually("the service ends", MINUTE, || {
        manager.serve_once();
        service.try_wait().unwrap()
    });
}

#[test]
fn without_a_service_manager_it_is_a_daemon_of_one_process() {
    let store = Store::new();
    store.start_daemon(["--no-supervisor"]);
    let pids = store.daemon();
    assert_eq!(pids.len(), 1);
    store.ok(["volume", "ls"]);
    let finished = run(&mut store.mountd(["status"]), MINUTE);
    assert_eq!(finished.code(), Some(3), "{finished}");
    store.stop_daemon();
}
