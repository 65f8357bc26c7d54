//! A worker that dies or hangs is replaced.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use durdir_tests::support::*;
use nix::sys::signal::Signal;

use crate::served;

#[test]
fn whatever_kills_the_worker_the_supervisor_starts_the_next() {
    let store = served();
    let supervisor = store.supervisor_pid();
    let deaths = [Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGBUS];
    for (takeovers, signal) in (1..).zip(deaths) {
        let old = store.kill_worker(signal);
        assert_eq!(store.json(["volume", "ls"])[0]["name"], "v");
        assert_eq!(store.supervisor_pid(), supervisor);
        let status = store.status();
        assert_eq!(status["supervisor_pid"], supervisor);
        assert_eq!(status["worker_pid"], store.worker_pid());
        assert_ne!(status["worker_pid"], old);
        assert_eq!(status["takeovers"], takeovers, "{status}");
        assert_eq!(status["last_death"]["pid"], old, "{status}");
        assert_eq!(status["last_death"]["how"], signal.as_str(), "{status}");
    }
}

/// The best of some: how long the machine takes for other things is not what is measured here.
#[test]
fn calls_are_answered_again_in_well_under_a_second() {
    let store = served();
    let gap = |_| {
        store.kill_worker(Signal::SIGKILL);
        let killed = Instant::now();
        store.ok(["volume", "ls"]);
        killed.elapsed()
    };
    let gaps: Vec<Duration> = (0..30)
        .map(gap)
        .scan(false, |met, gap| {
            let enough = std::mem::replace(met, *met || gap < Duration::from_secs(1));
            (!enough).then_some(gap)
        })
        .collect();
    assert!(gaps.iter().any(|gap| *gap < Duration::from_secs(1)), "{gaps:?}");
}

#[test]
fn clients_that_come_while_there_is_no_worker_wait_and_are_served() {
    let store = served();
    let socket = store.path().join("mountd.sock");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let knocking = scope.spawn(|| {
            let mut connected = 0;
            while !stop.load(Ordering::SeqCst) {
                UnixStream::connect(&socket)
                    .unwrap_or_else(|err| panic!("after {connected} connections: {err}"));
                connected += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            connected
        });
        for _ in 0..10 {
            store.kill_worker(Signal::SIGKILL);
            store.ok(["volume", "show", "v"]);
        }
        stop.store(true, Ordering::SeqCst);
        assert!(knocking.join().unwrap() > 10);
    });
}

#[test]
fn metrics_are_answered_by_the_next_worker_at_the_same_address() {
    use std::io::{Read, Write};
    let store = Store::new();
    store.start_daemon(["--metrics", "127.0.0.1:0"]);
    let address = listening_address(store.worker_pid());
    let get = || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get().starts_with("HTTP/1.1 200"), "{}", get());
    store.kill_worker(Signal::SIGKILL);
    assert!(get().starts_with("HTTP/1.1 200"));
}

/// Returns the address of the one TCP socket at which a process listens.
fn listening_address(pid: i32) -> std::net::SocketAddr {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let links: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let is_own = |fields: &Vec<&str>| fields[3] == "0A" && links.contains(&format!("socket:[{}]", fields[9]));
    let found = table.lines().skip(1).map(|line| line.split_whitespace().collect()).find(is_own);
    let port = found.unwrap()[1].split_once(':').unwrap().1;
    ([127, 0, 0, 1], u16::from_str_radix(port, 16).unwrap()).into()
}

#[test]
fn a_worker_that_hangs_is_replaced_and_the_supervisor_answers_meanwhile() {
    let store = Store::new();
    store.start_daemon(["--watchdog", "15s"]);
    let worker = store.worker_pid();
    signal(worker, Signal::SIGSTOP);
    let status = store.status();
    assert_eq!(status["worker_pid"], worker, "it was not replaced so soon");
    store.expect_alarm("the worker gives no sign of life");
    store.expect_alarm("the worker died");
    store.ok(["volume", "ls"]);
    assert_ne!(store.worker_pid(), worker);
    assert_eq!(store.status()["last_death"]["how"], "SIGKILL");
}

#[test]
fn a_worker_that_cannot_start_for_a_while_is_tried_again_until_it_can() {
    let store = served();
    let supervisor = store.supervisor_pid();
    // What the next worker needs is away: it fails before it is ready, again and again.
    let (format, aside) = (store.path().join("FORMAT"), store.side_dir().join("FORMAT"));
    std::fs::rename(&format, &aside).unwrap();
    store.kill_worker(Signal::SIGKILL);
    eventually("some workers have failed", Duration::from_secs(60), || {
        (store.status()["takeovers"].as_u64().unwrap() > 3).then_some(())
    });
    assert_eq!(store.status()["ready"], false);
    std::fs::rename(&aside, &format).unwrap();
    store.ok(["volume", "show", "v"]);
    assert_eq!(store.supervisor_pid(), supervisor);
}

#[test]
fn a_configuration_that_was_broken_meanwhile_does_not_keep_the_next_worker_from_serving() {
    let store = Store::new();
    let file = store.side_dir().join("mountd.toml");
    std::fs::write(&file, "[log]\nfilter = 'info'\n").unwrap();
    store.start_daemon(["--config".as_ref(), file.as_os_str()]);
    std::fs::write(&file, "nonsense = 1\n").unwrap();
    store.kill_worker(Signal::SIGKILL);
    store.ok(["volume", "ls"]);
    assert!(store.log().contains("going on without"), "{}", store.log());
}

#[test]
fn a_worker_that_cannot_have_metrics_goes_on_with_the_mounts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let store = Store::new();
    store.expect_alarm("there are no metrics");
    let config = store.side_dir().join("mountd.toml");
    std::fs::write(&config, "[log]\nfilter = 'info'\n").unwrap();
    store.start_daemon(["--config".as_ref(), config.as_os_str()]);
    let mount = store.mount("v");
    mount.write("f", "before");
    let file = std::fs::File::options().append(true).open(mount.path("f")).unwrap();
    let address = taken.local_addr().unwrap();
    std::fs::write(&config, format!("metrics = '{address}'\n")).unwrap();
    store.kill_worker(Signal::SIGKILL);
    std::io::Write::write_all(&mut &file, b" and after").unwrap();
    assert_eq!(mount.text("f"), "before and after");
    store.ok(["volume", "ls"]);
    assert!(store.log().contains("there are no metrics"), "{}", store.log());
}

#[test]
fn a_worker_that_cannot_have_its_socket_gives_way_and_the_mounts_stay() {
    let store = Store::new();
    store.expect_alarm("cannot serve clients");
    let switches = store.side_dir().join("switches");
    std::fs::create_dir(&switches).unwrap();
    let armed = [("DURDIR_FAILPOINTS", "worker.listen:errno=98".as_ref())];
    let armed = armed.into_iter().chain([("DURDIR_FAILPOINT_SWITCHES", switches.as_os_str())]);
    let nothing: [&str; 0] = [];
    run(store.mountd(nothing).envs(armed), Duration::from_secs(60)).ok();
    let mount = store.mount("v");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let file = std::fs::File::create(mount.path(format!("f{number}"))).unwrap();
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    std::io::Write::write_all(&mut &file, b"written").unwrap();
                    file.sync_all().unwrap();
                }
            });
        }
        std::fs::write(switches.join("worker.listen"), "").unwrap();
        store.kill_worker(Signal::SIGKILL);
        eventually("some workers have given way", Duration::from_secs(60), || {
            (store.log().matches("cannot serve clients").count() > 3).then_some(())
        });
        std::fs::remove_file(switches.join("worker.listen")).unwrap();
        stop.store(true, Ordering::SeqCst);
    });
    // Nobody has seen an error, and no volume is suspected of anything.
    assert_eq!(store.json(["volume", "show", "v"])["flag"], serde_json::Value::Null);
}
