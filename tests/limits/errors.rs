//! Writes and syncs fail: the store stops, and is opened anew once they would not.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use durdir_tests::assert_errno;
use durdir_tests::support::*;

use crate::{problems, wait_for_recovery};

/// A mountd in which places fail while their switches are there.
struct Faulty {
    store: Store,
    switches: PathBuf,
}

impl Faulty {
    fn at(points: &str) -> Faulty {
        Faulty::with(&[], points)
    }

    fn with(arguments: &[&str], points: &str) -> Faulty {
        let store = Store::new();
        let switches = store.side_dir();
        let mut mountd = store.mountd(arguments);
        mountd.env("DURDIR_FAILPOINTS", points).env("DURDIR_FAILPOINT_SWITCHES", &switches);
        run(&mut mountd, Duration::from_secs(60)).ok();
        for alarm in [
            "store stops",
            "the store stopped",
            "stopped after a failed write",
            "the worker died",
            "os error",
        ] {
            store.expect_alarm(alarm);
        }
        Faulty { store, switches }
    }

    fn turn_on(&self, place: &str) {
        fs::write(self.switches.join(place), "").unwrap();
    }

    fn turn_off(&self, place: &str) {
        fs::remove_file(self.switches.join(place)).unwrap();
    }
}

/// A probe takes the node out of service meanwhile.
#[test]
fn health_is_bad_while_the_store_has_stopped() {
    // Free when it is asked for; whoever takes it meanwhile makes the start fail, not the test pass.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let faulty = Faulty::with(&["--metrics", &address], "log.write:errno=28,trial.write:errno=28");
    let get = || -> String {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let mount = faulty.store.mount("v");
    let good = get();
    assert!(good.starts_with("HTTP/1.1 200") && good.ends_with("ok\n"), "{good}");
    faulty.turn_on("trial.write");
    faulty.turn_on("log.write");
    fs::create_dir(mount.path("refused")).unwrap_err();
    faulty.turn_off("log.write");
    let bad = get();
    assert!(
        bad.starts_with("HTTP/1.1 503") && bad.contains("the store stopped after a failed write"),
        "{bad}"
    );
    faulty.turn_off("trial.write");
    wait_for_recovery(&mount, "again");
    assert!(get().starts_with("HTTP/1.1 200"));
}

#[test]
fn failed_write_of_the_log_stops_the_store_until_it_can_be_written() {
    for (errno, seen) in [(libc::EIO, libc::EIO), (libc::ENOSPC, libc::ENOSPC), (libc::EROFS, libc::EROFS)] {
        let faulty = Faulty::at(&format!("log.write:errno={errno},trial.write:errno={errno}"));
        let store = &faulty.store;
        let mount = store.mount("v");
        mount.write("kept", noise(1, 0, 100_000));
        let mut appended = fs::File::create(mount.path("appended")).unwrap();
        appended.write_all(b"before ").unwrap();
        let worker = store.worker_pid();
        faulty.turn_on("trial.write");
        faulty.turn_on("log.write");
        let refused = fs::create_dir(mount.path("refused")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(seen));
        // It works again, but nobody knows what the disk holds.
        faulty.turn_off("log.write");
        assert_errno!(fs::create_dir(mount.path("refused too")), EIO);
        assert_errno!(appended.write_all(b"lost "), EIO);
        assert!(mount.read("kept") == noise(1, 0, 100_000));
        assert_eq!(problems(store), ["store-stopped"]);
        assert_eq!(store.worker_pid(), worker, "a worker that would be no better off does not end");
        faulty.turn_off("trial.write");
        wait_for_recovery(&mount, "again");
        assert_ne!(store.worker_pid(), worker);
        assert_eq!(store.takeovers(), 1);
        assert_eq!(problems(store), [] as [String; 0]);
        // The handle of before goes on, and what was acknowledged is there.
        appended.write_all(b"after").unwrap();
        assert_eq!(mount.text("appended"), "before after");
        assert_eq!(mount.names("/"), ["again", "appended", "kept"]);
        drop(appended);
        let mount = mount.restart();
        assert!(mount.read("kept") == noise(1, 0, 100_000));
        assert_eq!(mount.text("appended"), "before after");
    }
}

#[test]
fn failed_sync_is_told_to_who_syncs_and_loses_nothing_that_was_synced() {
    for place in ["log.sync", "segment.sync"] {
        let faulty = Faulty::at(&format!("{place}:errno=5"));
        let store = &faulty.store;
        let mount = store.mount("v");
        let file = open(mount.path("file"), libc::O_CREAT | libc::O_RDWR, 0o644).unwrap();
        file.write_all_at(&noise(1, 0, 100_000), 0).unwrap();
        file.sync_all().unwrap();
        file.write_all_at(&noise(2, 0, 50_000), 0).unwrap();
        faulty.turn_on(place);
        assert_errno!(file.sync_all(), EIO);
        faulty.turn_off(place);
        wait_for_recovery(&mount, "again");
        // Written and not synced: it is there, because the host is well.
        let expected = [noise(2, 0, 50_000), noise(1, 50_000, 50_000)].concat();
        assert!(mount.read("file") == expected, "{place}");
        file.sync_all().unwrap();
        drop(file);
        assert!(mount.restart().read("file") == expected, "{place}");
    }
}

/// The batch of what was refused may be in the log. Then it is done, and the kernel, which was told otherwise, must not
/// go on to believe it.
#[test]
fn what_was_refused_and_is_done_is_seen() {
    let faulty = Faulty::at("log.written:errno=5,trial.write:errno=5");
    let store = &faulty.store;
    let mount = store.mount("v");
    mkdir(mount.path("dir"), 0o755).unwrap();
    // Looked for before, so that the kernel knows that it is not there.
    assert_errno!(fs::symlink_metadata(mount.path("dir/new")), ENOENT);
    faulty.turn_on("trial.write");
    faulty.turn_on("log.written");
    assert_errno!(fs::create_dir(mount.path("dir/new")), EIO);
    faulty.turn_off("log.written");
    assert_errno!(fs::symlink_metadata(mount.path("dir/new")), ENOENT);
    faulty.turn_off("trial.write");
    wait_for_recovery(&mount, "again");
    assert!(fs::symlink_metadata(mount.path("dir/new")).unwrap().is_dir());
    assert_eq!(mount.names("dir"), ["new"]);
    fs::remove_dir(mount.path("dir/new")).unwrap();
    fs::remove_dir(mount.path("dir")).unwrap();
}
