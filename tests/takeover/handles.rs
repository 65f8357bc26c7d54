//! What programs hold when the worker dies.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::time::Duration;

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::sys::signal::Signal;

use crate::start_with_failpoints;

const LEN: usize = 3 * 4096;

fn kill(mount: &Mount) {
    mount.store().kill_worker(Signal::SIGKILL);
}

#[test]
fn open_files_go_on_whatever_became_of_their_names() {
    on_both(lower! { "plain" => "plain", "gone" => noise(1, 0, LEN), "moved" => "moved" }, |mount| {
        let mut log = open(mount.path("log"), libc::O_CREAT | libc::O_APPEND | libc::O_RDWR, 0o644).unwrap();
        let gone = open(mount.path("gone"), libc::O_RDWR, 0).unwrap();
        let mut moved = File::open(mount.path("moved")).unwrap();
        let plain = File::open(mount.path("plain")).unwrap();
        fs::remove_file(mount.path("gone")).unwrap();
        fs::rename(mount.path("moved"), mount.path("elsewhere")).unwrap();
        let never_named = mount.path("temporary");
        let temporary = open(&never_named, libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
        fs::remove_file(&never_named).unwrap();
        for round in 0..3u8 {
            kill(mount);
            log.write_all(&[round]).unwrap();
            gone.write_all_at(&[round; 8], u64::from(round) * 4096).unwrap();
            temporary.write_all_at(&[round; 5000], 100).unwrap();
            let mut text = String::new();
            moved.seek(SeekFrom::Start(0)).unwrap();
            moved.read_to_string(&mut text).unwrap();
            assert_eq!(text, "moved");
            drop_cached_pages(&plain).unwrap();
            let mut bytes = [0; 5];
            plain.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes, b"plain");
            drop_cached_pages(&gone).unwrap();
            let mut seen = vec![0; LEN];
            gone.read_exact_at(&mut seen, 0).unwrap();
            assert_eq!(seen[usize::from(round) * 4096..][..8], [round; 8]);
            assert!(seen[100..4096] == noise(1, 0, LEN)[100..4096]);
            drop_cached_pages(&temporary).unwrap();
            let mut seen = [9; 5000];
            temporary.read_exact_at(&mut seen, 100).unwrap();
            assert_eq!(seen, [round; 5000]);
            assert_eq!(temporary.metadata().unwrap().nlink(), 0);
        }
        assert_eq!(mount.read("log"), [0, 1, 2]);
        assert_eq!(mount.text("elsewhere"), "moved");
        // With the last handle goes the file: its room comes back.
        drop((gone, temporary));
        let store = mount.store();
        eventually("the room of unlinked files", Duration::from_secs(20), || {
            let inodes = store.volume(mount.volume_name())["used_inodes"].as_u64().unwrap();
            let names = mount.names("/").len() as u64;
            (inodes <= names + 1).then_some(())
        });
    });
}

/// Files that the kernel knew before the takeover or not, and that are made after it.
#[test]
fn room_of_files_that_are_removed_after_a_takeover_comes_back() {
    let layout = lower! { "below" => noise(1, 0, LEN) };
    for mount in [Mount::holding(layout.clone()), Mount::over(layout)] {
        for name in ["known", "unknown", "open"] {
            mount.write(name, noise(2, 0, LEN));
        }
        let mount = mount.remount();
        mount.ino("known");
        let mut held = File::open(mount.path("open")).unwrap();
        fs::remove_file(mount.path("open")).unwrap();
        kill(&mount);
        mount.write("new", noise(3, 0, LEN));
        for name in ["known", "unknown", "new", "below"] {
            fs::remove_file(mount.path(name)).unwrap();
        }
        let is_used = |inodes: u64, bytes: usize| {
            let volume = mount.store().volume(mount.volume_name());
            let used = |what: &str| volume[what].as_u64().unwrap();
            (used("used_inodes") <= inodes && used("used_bytes") == bytes as u64).then_some(())
        };
        eventually("the room of removed files", Duration::from_secs(20), || is_used(2, LEN));
        drop_cached_pages(&held).unwrap();
        let mut bytes = Vec::new();
        held.read_to_end(&mut bytes).unwrap();
        assert!(bytes == noise(2, 0, LEN));
        drop(held);
        eventually("the room of the last", Duration::from_secs(20), || is_used(1, 0));
    }
}

#[test]
fn inodes_of_a_lower_that_nobody_changed_are_found_again() {
    let layout = (0..300).fold(lower! { "deep/er" => dir() }, |layout, number| {
        layout.with(format!("deep/er/file-{number}"), file(format!("content {number}")))
    });
    let mount = Mount::over(layout);
    // The kernel knows their numbers from here on, and asks by number alone.
    let numbers: Vec<u64> = (0..300).map(|number| mount.ino(format!("deep/er/file-{number}"))).collect();
    let held: Vec<File> = (0..300)
        .step_by(7)
        .map(|number| File::open(mount.path(format!("deep/er/file-{number}"))).unwrap())
        .collect();
    let stand = File::open(mount.path("deep/er")).unwrap();
    for _ in 0..2 {
        kill(&mount);
        for (file, number) in held.iter().zip((0..300).step_by(7)) {
            drop_cached_pages(file).unwrap();
            let mut bytes = vec![0; format!("content {number}").len()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, format!("content {number}").into_bytes());
        }
        open_at(&stand, "file-1", libc::O_RDONLY, 0).unwrap();
        let again: Vec<u64> = (0..300).map(|number| mount.ino(format!("deep/er/file-{number}"))).collect();
        assert_eq!(again, numbers);
    }
    // A first change after all that: it is the same file.
    mount.write("deep/er/file-7", "changed");
    let mut bytes = [0; 7];
    held[1].read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((&bytes, mount.ino("deep/er/file-7")), (b"changed", numbers[7]));
}

#[test]
fn listing_goes_on_where_it_was() {
    let layout = (0..2000).fold(lower! {}, |layout, number| layout.with(format!("name-{number}"), ""));
    on_both(layout, |mount| {
        let mut stream = DirStream::open(mount.root()).unwrap();
        let mut names: Vec<_> =
            stream.next_batch(4096).unwrap().into_iter().map(|entry| entry.name).collect();
        assert!(names.len() < 1000);
        kill(mount);
        names.extend(stream.next_batch(4096).unwrap().into_iter().map(|entry| entry.name));
        kill(mount);
        names.extend(stream.rest().unwrap().into_iter().map(|entry| entry.name));
        names.retain(|name| name != "." && name != "..");
        names.sort();
        let mut expected: Vec<_> =
            (0..2000).map(|number| std::ffi::OsString::from(format!("name-{number}"))).collect();
        expected.sort();
        assert!(names == expected, "{} names", names.len());
    });
}

#[test]
fn mappings_stay_mapped() {
    on_both(lower! { "file" => noise(1, 0, LEN) }, |mount| {
        let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
        let shared = Mapping::shared(&file, LEN).unwrap();
        let private = Mapping::private(&file, LEN).unwrap();
        shared.write(0, b"before");
        kill(mount);
        assert_eq!(shared.read(0, 6), b"before");
        shared.write(4096, b"after");
        shared.sync().unwrap();
        // A page that was never touched is read from the successor.
        assert!(private.read(8192, 4096) == noise(1, 0, LEN)[8192..]);
        drop_cached_pages(&file).unwrap();
        let seen = mount.read("file");
        assert_eq!((&seen[..6], &seen[4096..4101]), (&b"before"[..], &b"after"[..]));
    });
}

#[test]
fn locks_stay_locked() {
    let mount = Mount::holding(lower! { "whole" => "", "range" => "0123456789" });
    let whole = Flock::lock(File::open(mount.path("whole")).unwrap(), FlockArg::LockExclusive).unwrap();
    let range = open(mount.path("range"), libc::O_RDWR, 0).unwrap();
    let lock = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 2, l_len: 3, l_pid: 0 };
    fcntl(&range, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let tried = |lock: &str| {
        let program = "import fcntl, sys; f = open(sys.argv[1], 'r+')\n".to_owned() + lock;
        let path = if lock.contains("flock") { mount.path("whole") } else { mount.path("range") };
        run(Command::new("python3").arg("-c").arg(program).arg(path), Duration::from_secs(20))
    };
    const WHOLE: &str = "fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)";
    const INSIDE: &str = "fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 3)";
    const BESIDE: &str = "fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 6)";
    for _ in 0..2 {
        kill(&mount);
        assert_eq!(tried(WHOLE).code(), Some(1));
        assert_eq!(tried(INSIDE).code(), Some(1));
        tried(BESIDE).ok();
    }
    drop(whole);
    drop(range);
    tried(WHOLE).ok();
    tried(INSIDE).ok();
}

#[test]
fn snapshots_that_are_browsed_and_mounted_go_on() {
    let mount = Mount::over(lower! { "below" => "below" });
    mount.write("file", "old");
    let store = mount.store().clone();
    store.snapshot("v", "first");
    mount.write("file", "new");
    let apart = store.mount_snapshot("v@first");
    let browsed = File::open(mount.path(".snapshots/first/file")).unwrap();
    let below = File::open(mount.path(".snapshots/first/below")).unwrap();
    let inside = File::open(mount.path(".snapshots/first")).unwrap();
    for _ in 0..2 {
        kill(&mount);
        let read = |file: &File, length| {
            drop_cached_pages(file).unwrap();
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, 0).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!((read(&browsed, 3), read(&below, 5)), ("old".to_owned(), "below".to_owned()));
        let mut again = String::new();
        open_at(&inside, "file", libc::O_RDONLY, 0).unwrap().read_to_string(&mut again).unwrap();
        assert_eq!(again, "old");
        assert_eq!((mount.text("file"), apart.text("file")), ("new".to_owned(), "old".to_owned()));
        store.snapshot("v", &format!("s{}", store.takeovers()));
    }
}

/// The kernel still has what was open of it, and may name it to a worker that has looked at nothing yet.
#[test]
fn snapshot_that_is_removed_after_a_takeover_does_not_come_back() {
    for dies in [false, true] {
        let mount = Mount::empty();
        let store = mount.store();
        mount.write("file", "first");
        store.snapshot("v", "first");
        mount.write("file", "second");
        for name in ["only", "unasked"] {
            mount.write(name, "second");
        }
        store.snapshot("v", "second");
        mount.write("file", "third");
        fs::remove_file(mount.path("only")).unwrap();
        let [browsed, only] = ["file", "only"].map(|name| mount.path(".snapshots/second").join(name));
        let (browsed, only) = (File::open(browsed).unwrap(), File::open(only).unwrap());
        let inside = File::open(mount.path(".snapshots/second")).unwrap();
        if dies {
            kill(&mount);
        }
        store.ok(["snapshot", "rm", "v@second"]);
        store.ok(["gc"]);
        // Nobody has read them yet: the kernel has no pages of them.
        for file in [&browsed, &only] {
            assert_errno!(file.read_at(&mut [0; 6], 0), ESTALE);
        }
        // A name that it knows it would open without asking.
        assert_errno!(open_at(&inside, "unasked", libc::O_RDONLY, 0), ESTALE);
        assert_errno!(fs::symlink_metadata(mount.path(".snapshots/second")), ENOENT);
        // Nor does any of that keep the one that its bytes would have come from.
        store.ok(["snapshot", "rm", "v@first"]);
        assert_eq!(mount.text("file"), "third");
    }
}

#[test]
fn what_is_open_after_a_rollback_goes_on_too() {
    let mount = Mount::over(lower! { "below" => "below", "dir/inner" => "inner" });
    mount.write("file", "old");
    mount.store().snapshot("v", "first");
    mount.write("file", "new");
    mount.store().ok(["volume", "rollback", "v", "first"]);
    let mut file = open(mount.path("file"), libc::O_RDWR | libc::O_APPEND, 0).unwrap();
    let below = File::open(mount.path("below")).unwrap();
    let inner = File::open(mount.path("dir/inner")).unwrap();
    let numbers = (mount.ino("file"), mount.ino("below"), mount.ino("dir/inner"));
    for round in 0..3 {
        kill(&mount);
        file.write_all(b"+").unwrap();
        for (held, content) in [(&below, "below"), (&inner, "inner")] {
            drop_cached_pages(held).unwrap();
            let mut bytes = [0; 5];
            held.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes, content.as_bytes());
        }
        assert_eq!(mount.text("file"), format!("old{}", "+".repeat(round + 1)));
        assert_eq!((mount.ino("file"), mount.ino("below"), mount.ino("dir/inner")), numbers);
        mount.write(format!("made-{round}"), "made");
    }
}

/// The numbers by which the kernel calls what was open before a rollback are inode numbers that the restored tree has, too.
#[test]
fn what_was_open_before_a_rollback_is_stale_to_a_successor_as_well() {
    // Before the rollback, after it, and both.
    for (first, second) in [(true, false), (false, true), (true, true)] {
        let mount = Mount::over(lower! { "below" => noise(1, 0, LEN), "dir/inner" => "inner" });
        mount.write("file", noise(2, 0, LEN));
        mount.store().snapshot("v", "first");
        mount.write("file", noise(3, 0, LEN));
        let held =
            ["file", "below", "dir/inner"].map(|name| open(mount.path(name), libc::O_RDWR, 0).unwrap());
        let dir = File::open(mount.path("dir")).unwrap();
        if first {
            kill(&mount);
        }
        mount.store().ok(["volume", "rollback", "v", "first"]);
        let restored = File::open(mount.path("below")).unwrap();
        if second {
            kill(&mount);
        }
        for file in &held {
            assert_errno!(file.write_at(b"stray", 0).and_then(|_| file.sync_all()), ESTALE);
            assert_errno!(file.set_len(1), ESTALE);
        }
        assert_errno!(open_at(&dir, "stray", libc::O_CREAT | libc::O_WRONLY, 0o600), ESTALE);
        // Nor does the end of the old ones take anything from the restored.
        drop((held, dir));
        drop_cached_pages(&restored).unwrap();
        let mut bytes = vec![0; LEN];
        restored.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == noise(1, 0, LEN));
        drop(restored);
        let check = |mount: &Mount| {
            assert!(mount.read("file") == noise(2, 0, LEN) && mount.read("below") == noise(1, 0, LEN));
            assert_eq!(
                (mount.text("dir/inner"), mount.names("dir")),
                ("inner".to_owned(), vec!["inner".into()])
            );
        };
        check(&mount);
        check(&mount.restart());
    }
}

/// The worker that did it dies before the kernel was told that names and attributes are other ones.
#[test]
fn rollback_shows_though_the_worker_dies_over_it() {
    let store = Store::new();
    store.expect_alarm("the worker died");
    start_with_failpoints(&store, "rollback.turned:kill", true);
    let mount = store.mount("v");
    mount.write("file", "first");
    mount.write("gone", "first");
    store.snapshot("v", "first");
    mount.write("file", "second, and longer");
    mount.write("new", "second");
    fs::remove_file(mount.path("gone")).unwrap();
    for known in ["file", "new", "gone"] {
        // Also that a name is not there is something that the kernel keeps.
        fs::metadata(mount.path(known)).ok();
    }
    store.ok(["volume", "rollback", "v", "first"]);
    assert_eq!(store.takeovers(), 1);
    assert_errno!(fs::metadata(mount.path("new")), ENOENT);
    assert_eq!((mount.text("file"), mount.text("gone")), ("first".to_owned(), "first".to_owned()));
    assert_eq!(mount.names("/"), ["file", "gone"]);
}

#[test]
fn room_of_unlinked_files_comes_back_in_a_tree_that_was_rolled_back_to() {
    // The worker dies after the rollback, or before it.
    for dies_after in [true, false] {
        let mount = Mount::empty();
        mount.write("stays", noise(1, 0, LEN));
        mount.write("inherited", noise(2, 0, LEN));
        let inherited = File::open(mount.path("inherited")).unwrap();
        fs::remove_file(mount.path("inherited")).unwrap();
        mount.store().snapshot("v", "first");
        if !dies_after {
            kill(&mount);
        }
        mount.store().ok(["volume", "rollback", "v", "first"]);
        let names = ["untouched", "read", "written"];
        let mut held = names.map(|name| {
            mount.write(name, noise(3, 0, LEN));
            let file = open(mount.path(name), libc::O_RDWR, 0).unwrap();
            fs::remove_file(mount.path(name)).unwrap();
            file
        });
        if dies_after {
            kill(&mount);
        }
        let [_, read, written] = &mut held;
        drop_cached_pages(read).unwrap();
        let mut bytes = Vec::new();
        read.read_to_end(&mut bytes).unwrap();
        assert!(bytes == noise(3, 0, LEN));
        written.write_all_at(b"changed", 0).unwrap();
        let used = |inodes: u64, bytes: usize| {
            let volume = mount.store().volume(mount.volume_name());
            let used = |what: &str| volume[what].as_u64().unwrap();
            (used("used_inodes") == inodes && used("used_bytes") == bytes as u64).then_some(())
        };
        // What the snapshot had without a name is nobody's here.
        eventually("what was inherited", Duration::from_secs(20), || used(5, 4 * LEN));
        drop(inherited);
        drop(held);
        eventually("the room of unlinked files", Duration::from_secs(20), || used(2, LEN));
        assert!(mount.read("stays") == noise(1, 0, LEN));
        mount.store().ok(["fsck"]);
    }
}
