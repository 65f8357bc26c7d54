//! Each operation that changes something, with the worker dying before it, and between its commit and its answer.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use durdir_tests::assert_errno;
use durdir_tests::lower;
use durdir_tests::support::*;

use crate::{START, counter, start_with_failpoints};

/// An operation: its name in a failpoint, what must be there, and the call with everything that tells how often it was
/// executed.
type Case = (&'static str, fn(&Mount));

const CASES: &[Case] = &[
    ("create", |mount| {
        open(mount.path("new"), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o640).unwrap();
        assert_eq!(mount.mode("new") & 0o7777, 0o640);
    }),
    ("mkdir", |mount| {
        mkdir(mount.path("new"), 0o750).unwrap();
        assert_eq!(mount.stat("/").nlink(), 4);
    }),
    ("mknod", |mount| mkfifo(mount.path("new"), 0o600).unwrap()),
    ("symlink", |mount| {
        std::os::unix::fs::symlink("target", mount.path("new")).unwrap();
        assert_eq!(fs::read_link(mount.path("new")).unwrap().to_str(), Some("target"));
    }),
    ("link", |mount| {
        fs::hard_link(mount.path("file"), mount.path("new")).unwrap();
        assert_eq!(mount.stat("file").nlink(), 2);
    }),
    ("unlink", |mount| {
        fs::remove_file(mount.path("file")).unwrap();
        assert_errno!(fs::metadata(mount.path("file")), ENOENT);
    }),
    ("rmdir", |mount| {
        fs::remove_dir(mount.path("dir")).unwrap();
        assert_eq!(mount.stat("/").nlink(), 2);
    }),
    ("rename", |mount| {
        fs::rename(mount.path("file"), mount.path("dir/moved")).unwrap();
        assert_eq!(mount.text("dir/moved"), "content");
        assert_errno!(fs::metadata(mount.path("file")), ENOENT);
    }),
    ("write", |mount| {
        let mut file = open(mount.path("file"), libc::O_APPEND | libc::O_WRONLY, 0).unwrap();
        file.write_all(b"+").unwrap();
        assert_eq!(mount.text("file"), "content+");
    }),
    // Over a page of this very epoch: its records go ahead, and that it is done is noted.
    ("write", |mount| {
        let file = open(mount.path("big"), libc::O_RDWR, 0).unwrap();
        file.write_all_at(&[b'Y'; 4096], 8192).unwrap();
        file.write_all_at(&[b'Z'; 10], 8190).unwrap();
        let expected = [&[b'x'; 8190][..], &[b'Z'; 10], &[b'Y'; 4088], &[b'x'; 4096]].concat();
        assert_eq!(mount.read("big"), expected);
    }),
    ("setattr", |mount| {
        // A truncation that is done again after a write that followed it would be noticed.
        let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
        file.set_len(3).unwrap();
        file.write_all_at(b"XYZ", 3).unwrap();
        fs::set_permissions(mount.path("file"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!((mount.text("file"), mount.mode("file") & 0o7777), ("conXYZ".to_owned(), 0o600));
    }),
    ("setxattr", |mount| {
        set_xattr_with(mount.path("file"), "user.new", "value", libc::XATTR_CREATE).unwrap();
        assert_eq!(get_xattr(mount.path("file"), "user.new").unwrap(), b"value");
    }),
    ("removexattr", |mount| {
        remove_xattr(mount.path("file"), "user.old").unwrap();
        assert_errno!(get_xattr(mount.path("file"), "user.old"), ENODATA);
    }),
    ("fallocate", |mount| {
        let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
        fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 1, 3).unwrap();
        file.write_all_at(b"!", 2).unwrap();
        assert_eq!(mount.read("file"), b"c\0!\0ent");
    }),
    ("copy_file_range", |mount| {
        let from = fs::File::open(mount.path("file")).unwrap();
        let to = open(mount.path("copy"), libc::O_RDWR, 0).unwrap();
        assert_eq!(copy_range(&from, 0, &to, 2, 7).unwrap(), 7);
        assert_eq!(mount.text("copy"), "cocontent");
    }),
];

fn prepared(mount: &Mount) {
    // What the kernel must know beforehand, so that the failpoint meets the call and not its preparation.
    fs::metadata(mount.path("file")).unwrap();
}

fn layout() -> Layout {
    let big = "x".repeat(16384);
    lower! { "big" => big.as_str(), "file" => file("content").xattr("user.old", "old"), "dir" => dir(), "copy" => "copy" }
}

fn die_at(moment: &str, signal: &str) {
    for (name, call) in CASES {
        let store = Store::new();
        store.expect_alarm("the worker died");
        // The content is made by a worker without failpoints.
        let mount = store.mount("v");
        layout().build_in(mount.root());
        mount.unmount();
        store.stop_daemon();
        start_with_failpoints(&store, &format!("fuse.{name}.{moment}:{signal}"), true);
        let mount = store.mount("v");
        prepared(&mount);
        call(&mount);
        assert_eq!(store.takeovers(), 1, "{name}: the worker was to die once");
        let replayed = counter(&store, "replayed_requests");
        let expected = u64::from(moment == "after");
        assert_eq!(replayed, expected, "{name}: answered from the store");
        let shown = Tree::of(mount.root());
        let mount = mount.restart();
        assert_eq!(differences(&shown, &Tree::of(mount.root())), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn worker_dies_before_the_operation() {
    die_at("before", "kill");
}

#[test]
fn worker_dies_between_commit_and_answer() {
    die_at("after", "kill");
}

#[test]
fn worker_crashes_between_commit_and_answer() {
    die_at("after", "segv");
}

#[test]
fn answer_survives_several_deaths_before_it_is_given() {
    // The first death after the commit; the next two while other requests go on, before the answer is asked for again.
    let store = Store::new();
    store.expect_alarm("the worker died");
    start_with_failpoints(
        &store,
        "fuse.mkdir.after:kill,fuse.getattr.before:kill@2,fuse.lookup.before:kill@1",
        true,
    );
    let mount = store.mount("v");
    mkdir(mount.path("new"), 0o755).unwrap();
    assert_errno!(mkdir(mount.path("new"), 0o755), EEXIST);
    assert!(store.takeovers() >= 2);
}

/// Bytes that are rewritten in place are written before the batch with the answer. A worker that dies in between leaves them, and
/// its successor writes them again. In the meantime nobody writes others there: the kernel holds the inode over a write until it is
/// answered, also over a direct one, and writes a page back when the page's earlier write is answered.
#[test]
fn write_in_place_that_is_executed_again_is_not_executed_after_a_later_one() {
    for (cache, direct) in
        [("write-through", false), ("write-through", true), ("writeback", false), ("writeback", true)]
    {
        let store = Store::new();
        store.expect_alarm("the worker died");
        let switches = store.side_dir();
        let mut mountd = store.mountd::<&str>([]);
        // The successor takes so long for each write that another one would overtake the first.
        let points = "data.rewritten:kill,fuse.write.before:sleep=500";
        mountd.env("DURDIR_FAILPOINTS", points).env("DURDIR_FAILPOINT_SWITCHES", &switches);
        run(&mut mountd, START).ok();
        let mount = store.mount_with("v", &["--cache", cache]);
        let file = mount.path("file");
        fs::write(&file, [b'-'; 8192]).unwrap();
        open(&file, libc::O_RDWR, 0).unwrap().sync_all().unwrap();
        let write = |byte: u8| {
            let flags = if direct { libc::O_WRONLY | libc::O_DIRECT } else { libc::O_WRONLY };
            let file = open(&file, flags, 0).unwrap();
            file.write_all_at(Page::of(byte).bytes(), 0).unwrap();
            file.sync_all().unwrap();
        };
        let on = |place: &str| fs::write(switches.join(place), "").unwrap();
        on("data.rewritten");
        std::thread::scope(|scope| {
            let first = scope.spawn(|| write(b'1'));
            eventually("the first write is half done", START, || {
                (!switches.join("data.rewritten").exists()).then_some(())
            });
            on("fuse.write.before");
            let second = scope.spawn(|| write(b'2'));
            first.join().unwrap();
            second.join().unwrap();
        });
        fs::remove_file(switches.join("fuse.write.before")).unwrap();
        assert_eq!(store.takeovers(), 1);
        let file = fs::File::open(&file).unwrap();
        drop_cached_pages(&file).unwrap();
        let mut seen = [0; 8192];
        file.read_exact_at(&mut seen, 0).unwrap();
        let expected = [[b'2'; 4096], [b'-'; 4096]].concat();
        assert!(seen[..] == expected, "{cache}, direct: {direct}: begins with {:?}", char::from(seen[0]));
    }
}

/// A page of memory that begins where direct writes want it.
struct Page {
    memory: Vec<u8>,
    start: usize,
}

impl Page {
    fn of(byte: u8) -> Page {
        let memory = vec![byte; 2 * 4096];
        let start = memory.as_ptr().align_offset(4096);
        Page { memory, start }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + 4096]
    }
}
