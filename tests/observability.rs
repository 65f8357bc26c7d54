//! What a node tells of itself: doctor, top, metrics, the watchdog.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use durdir_tests::support::*;
use nix::sys::signal::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

/// What the doctor says, and its exit code.
fn doctor(store: &Store) -> (Value, i32) {
    let finished = store.durdir(["--json", "doctor"]);
    let document = serde_json::from_slice(&finished.stdout).unwrap_or_else(|err| panic!("{err}: {finished}"));
    (document, finished.code().unwrap())
}

fn kinds(diagnosis: &Value) -> Vec<&str> {
    diagnosis["problems"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect()
}

/// Continues a process that a failing test has stopped.
struct Stopped(i32);

impl Stopped {
    fn now(pid: i32) -> Stopped {
        signal(pid, Signal::SIGSTOP);
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, Signal::SIGCONT);
    }
}

#[test]
fn a_healthy_node_has_no_problems() {
    let store = Store::new();
    let mount = store.mount("healthy");
    mount.write("file", "x");
    store.snapshot("healthy", "one");
    let snapshot = store.mount_snapshot("healthy@one");
    let (diagnosis, code) = doctor(&store);
    assert_eq!((kinds(&diagnosis), code), (vec![], 0), "{diagnosis}");
    let pid = i32::try_from(diagnosis["worker_pid"].as_i64().unwrap()).unwrap();
    assert!(store.daemon().contains(&pid));
    assert_eq!(diagnosis["takeovers"], 0);
    assert_eq!(diagnosis["supervisor_pid"], store.supervisor_pid());
    drop((snapshot, mount));
    store.stop_daemon();
    // Nobody runs, nothing is mounted: all is well, and nobody is started.
    let (diagnosis, code) = doctor(&store);
    assert_eq!((kinds(&diagnosis), code), (vec![], 0), "{diagnosis}");
    assert!(diagnosis["worker_pid"].is_null() && store.daemon().is_empty());
}

#[test]
fn a_store_that_cannot_be_opened_is_found_while_no_daemon_runs() {
    let store = Store::new();
    store.expect_damage();
    // Mounts are known by the names of volumes, whichever store they are of: other tests have a `v`.
    store.create_volume("unopened");
    store.stop_daemon();
    let db = store.path().join("db");
    let tables = || {
        let files = std::fs::read_dir(&db).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect::<Vec<_>>()
    };
    assert_eq!(doctor(&store).1, 0);
    assert!(!tables().is_empty(), "what is closed is in tables");
    for table in tables() {
        let file = std::fs::OpenOptions::new().write(true).open(table).unwrap();
        file.write_all_at(b"damaged!", 40).unwrap();
    }
    let complaint = store.refused(6, ["volume", "ls"]);
    assert!(complaint.contains("checksum mismatch"), "{complaint}");
    let (diagnosis, code) = doctor(&store);
    assert_eq!((kinds(&diagnosis), code), (vec!["store-damaged"], 1), "{diagnosis}");
    let problem = &diagnosis["problems"][0];
    assert!(problem["detail"].as_str().unwrap().contains("checksum mismatch"), "{problem}");
    assert!(problem["remedy"].as_str().unwrap().contains("backup"), "{problem}");
    assert!(store.daemon().is_empty());
}

#[test]
fn a_doctor_without_a_store_makes_none() {
    let store = Store::new();
    store.refused(3, ["doctor"]);
    assert!(!store.path().exists());
}

#[test]
fn a_stopped_daemon_is_told_while_its_mount_hangs() {
    let store = Store::new();
    let mount = store.mount("stopped");
    mount.write("file", "content");
    let pid = store.worker_pid();
    let stopped = Stopped::now(pid);
    // A call that hangs, in a process of its own: the kernel has to ask the daemon for this.
    let mut hanging = Command::new("ls").arg(mount.path("not-cached")).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let (diagnosis, code) = doctor(&store);
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    assert_eq!(code, 1);
    assert!(kinds(&diagnosis).contains(&"daemon-stopped"), "{diagnosis}");
    assert!(!kinds(&diagnosis).contains(&"dead-mount"), "{diagnosis}");
    assert_eq!(diagnosis["worker_pid"], pid);
    let remedy = diagnosis["problems"][0]["remedy"].as_str().unwrap();
    assert_eq!(remedy, format!("kill -CONT {pid}"));
    drop(stopped);
    hanging.wait().unwrap();
    let (diagnosis, code) = doctor(&store);
    assert_eq!((kinds(&diagnosis), code), (vec![], 0), "{diagnosis}");
}

#[test]
fn a_dead_mount_is_told_and_the_remedy_helps() {
    let store = Store::new();
    let mountpoint = store.mountpoint();
    store.ok(["mount".as_ref(), "dead".as_ref(), mountpoint.as_os_str(), "--create".as_ref()]);
    store.kill_daemon();
    for daemon_runs in [false, true] {
        if daemon_runs {
            store.ok(["volume", "ls"]);
        }
        let (diagnosis, code) = doctor(&store);
        assert_eq!((kinds(&diagnosis), code), (vec!["dead-mount"], 1), "{diagnosis}");
        let problem = &diagnosis["problems"][0];
        assert_eq!(problem["volume"], "dead");
        assert_eq!(problem["remedy"], format!("durdir umount {}", mountpoint.display()));
        assert_eq!(!store.daemon().is_empty(), daemon_runs);
    }
    store.umount(&mountpoint);
    let (diagnosis, code) = doctor(&store);
    assert_eq!((kinds(&diagnosis), code), (vec![], 0), "{diagnosis}");
}

#[test]
fn a_dead_mount_of_another_store_is_not_told() {
    let (ours, others) = (Store::new(), Store::new());
    ours.create_volume("same");
    let mountpoint = others.mountpoint();
    others.ok(["mount".as_ref(), "same".as_ref(), mountpoint.as_os_str(), "--create".as_ref()]);
    others.kill_daemon();
    assert_eq!(kinds(&doctor(&others).0), ["dead-mount"]);
    let (diagnosis, code) = doctor(&ours);
    assert_eq!((kinds(&diagnosis), code), (vec![], 0), "{diagnosis}");
    others.umount(&mountpoint);
}

#[test]
fn a_request_that_hangs_is_told_by_everybody() {
    let store = Store::new();
    let mountpoint = store.mountpoint();
    let mut mounting = store.command();
    mounting
        .args(["mount", "hung"])
        .arg(&mountpoint)
        .arg("--create")
        .env("DURDIR_FAILPOINTS", "fuse.read.before:sleep=30000@1");
    run(&mut mounting, LIMIT).ok();
    std::fs::write(mountpoint.join("file"), noise(1, 0, 100_000)).unwrap();
    store.umount("hung");
    // Another mount of the same daemon: nothing is cached.
    store.ok(["mount".as_ref(), "hung".as_ref(), mountpoint.as_os_str()]);
    let mut reading = Command::new("cat").arg(mountpoint.join("file")).stdout(Stdio::null()).spawn().unwrap();
    let age = |stats: &Value| stats["oldest_requests"]["hung"]["age_us"].as_u64();
    eventually("the read is seen", LIMIT, || age(&store.json(["stats"])));
    let sample = store.json(["top", "--interval", "10ms"]);
    assert_eq!(sample["volumes"][0]["oldest_request"]["operation"], "read");
    let (diagnosis, code) = doctor(&store);
    assert_eq!((kinds(&diagnosis), code), (vec![], 0), "it is not worked on for long yet: {diagnosis}");
    eventually("the read takes long", LIMIT, || age(&store.json(["stats"])).filter(|&age| age > 10_300_000));
    let (diagnosis, code) = doctor(&store);
    assert_eq!((kinds(&diagnosis), code), (vec!["stuck-request"], 1), "{diagnosis}");
    assert_eq!(diagnosis["problems"][0]["volume"], "hung");
    let detail = diagnosis["problems"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("read") && detail.contains(mountpoint.to_str().unwrap()), "{detail}");
    assert!(reading.wait().unwrap().success());
    assert_eq!(age(&store.json(["stats"])), None);
    store.expect_alarm("a request is not answered");
    let told = store.log().matches("a request is not answered").count();
    assert_eq!(told, 1, "{}", store.log());
    store.umount("hung");
}

/// A daemon that serves metrics, started as a service would be.
struct Daemon {
    process: Child,
    address: String,
}

impl Daemon {
    fn start(store: &Store) -> Daemon {
        // Free when it is asked for; whoever takes it meanwhile makes the start fail, not the test pass.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let log = store.side_dir().join("log");
        let mut command = Command::new(binary("mountd"));
        command.arg("--store").arg(store.path()).args(["--foreground", "--metrics", &address]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let daemon = Daemon { process: command.spawn().unwrap(), address };
        eventually("mountd serves metrics", LIMIT, || TcpStream::connect(&daemon.address).ok());
        daemon
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    fn scrape(&self) -> Vec<(String, f64)> {
        let answer = self.get("/metrics");
        let samples = answer.lines().filter(|line| line.starts_with("durdir_"));
        samples
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), value.parse().unwrap_or_else(|err| panic!("{line}: {err}")))
            })
            .collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        signal(i32::try_from(self.process.id()).unwrap(), Signal::SIGTERM);
        self.process.wait().unwrap();
    }
}

/// The names in the tables of docs/metrics.md.
fn documented() -> Vec<String> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let rows = BufReader::new(File::open(file).unwrap()).lines().map(Result::unwrap);
    let names = rows.filter_map(|row| Some(row.strip_prefix("| `durdir_")?.split('`').next()?.to_owned()));
    names.map(|name| format!("durdir_{name}")).collect()
}

#[test]
fn every_documented_metric_is_served_and_moves() {
    let store = Store::new();
    let daemon = Daemon::start(&store);
    assert!(daemon.get("/healthz").ends_with("ok\n"));
    let mount = store.mount("measured");
    mount.write("file", noise(1, 0, 65_536));
    let value = |samples: &[(String, f64)], name: &str, labels: &[&str]| -> f64 {
        let matching = samples.iter().filter(|(sample, _)| {
            let (own, rest) = sample.split_once('{').unwrap_or((sample, ""));
            own == name && labels.iter().all(|label| rest.contains(label))
        });
        matching.map(|(_, value)| value).sum()
    };
    let before = daemon.scrape();
    let names = documented();
    assert!(names.len() > 15, "{names:?}");
    for name in &names {
        let of_histogram = format!("{name}_bucket");
        let served = |(sample, _): &(String, f64)| {
            let own = sample.split('{').next().unwrap();
            own == name || own == of_histogram
        };
        assert!(before.iter().any(served), "{name} is not served: {before:?}");
    }
    store.snapshot("measured", "one");
    mount.write("file", noise(2, 0, 65_536));
    let file = File::open(mount.path("file")).unwrap();
    file.read_exact_at(&mut [0; 4096], 0).unwrap();
    std::fs::read(mount.path("nothing-here")).unwrap_err();
    store.refused(3, ["volume", "show", "nothing"]);
    drop(file);
    let after = daemon.scrape();
    let moved = |name: &str, labels: &[&str]| value(&after, name, labels) - value(&before, name, labels);
    assert_eq!(moved("durdir_cuts_total", &[]), 1.0);
    assert!(moved("durdir_cut_held_seconds_total", &[]) > 0.0);
    assert!(moved("durdir_requests_total", &[]) >= 2.0);
    assert_eq!(moved("durdir_failed_requests_total", &[]), 1.0);
    assert_eq!(moved("durdir_kept_replies", &[]), 1.0);
    let written = ["volume=\"measured\"", "operation=\"write\""];
    assert_eq!(moved("durdir_operation_bytes_total", &written), 65_536.0);
    assert!(moved("durdir_operation_duration_seconds_count", &written) >= 1.0);
    assert!(moved("durdir_operation_duration_seconds_sum", &written) > 0.0);
    let all = [&written[..], &["le=\"+Inf\""]].concat();
    assert_eq!(
        value(&after, "durdir_operation_duration_seconds_bucket", &all),
        value(&after, "durdir_operation_duration_seconds_count", &written)
    );
    assert_eq!(value(&after, "durdir_mounts", &[]), 1.0);
    // `stats` shows the same numbers.
    let stats = store.json(["stats"]);
    assert_eq!(stats["cuts"].as_f64(), Some(value(&after, "durdir_cuts_total", &[])));
    mount.unmount();
}

#[test]
fn top_shows_what_a_volume_does_and_ends_with_its_reader() {
    let store = Store::new();
    let mount = store.mount("busy");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::create(mount.path("file")).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all_at(&[1; 4096], 0).unwrap();
            }
        });
        let seen = eventually("top sees writes", LIMIT, || {
            let sample = store.json(["top", "--interval", "200ms"]);
            (sample["volumes"][0]["written_bytes_per_s"].as_u64() > Some(0)).then_some(sample)
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let busy = &seen["volumes"][0];
        assert_eq!(busy["volume"], "busy");
        assert!(busy["operations_per_s"].as_u64() > Some(0) && busy["p99_us"].as_u64() > Some(0), "{seen}");
    });
    // In a pipe it goes on until nobody reads any more, and that is no failure.
    let mut top = store.command().args(["top", "--interval", "10ms"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
    let tables = lines.by_ref().map(Result::unwrap).filter(|line| line.starts_with("VOLUME")).take(3);
    assert_eq!(tables.count(), 3);
    drop(lines);
    assert!(top.wait().unwrap().success());
    mount.unmount();
}

#[test]
fn a_store_of_another_format_is_told() {
    let store = Store::new();
    store.create_volume("of-another-format");
    store.stop_daemon();
    let format = store.path().join("FORMAT");
    let own = std::fs::read(&format).unwrap();
    std::fs::write(&format, "durdir store format 99\n").unwrap();
    let (diagnosis, code) = doctor(&store);
    assert_eq!((kinds(&diagnosis), code), (vec!["store-unreadable"], 1), "{diagnosis}");
    std::fs::write(&format, own).unwrap();
    assert_eq!(doctor(&store).1, 0);
}
