//! Forks: new volumes that begin as a snapshot and share everything with it until they change.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use durdir_tests::lower;
use durdir_tests::support::*;

fn start() -> Mount {
    let mount =
        Mount::over(lower! { "low" => noise(1, 0, 100_000), "d/x" => "x", "d/y" => hard_link("d/x") });
    mount.write("up", noise(2, 0, 100_000));
    mount.write("small", "origin");
    mount.store().snapshot("v", "s");
    mount
}

#[test]
fn fork_is_the_snapshot_and_knows_its_parent() {
    let mount = start();
    let before = Tree::of(mount.root());
    mount.write("small", "changed after the snapshot");
    let store = mount.store().clone();
    store.fork("v@s", "w");
    let fork = store.mount("w");
    assert_eq!(differences(&before, &Tree::of(fork.root())), Vec::<String>::new());
    let shown = store.volume("w");
    assert!(shown["parent"].as_str().unwrap().starts_with("v@"), "{shown}");
}

#[test]
fn parent_is_what_the_snapshot_is_called_now() {
    let store = Store::new();
    store.create_volume("v");
    store.snapshot("v", "s");
    store.snapshot("v", "other");
    store.fork("v@s", "w");
    let parent = |volume: &str| store.volume(volume)["parent"].clone();
    assert_eq!(parent("w"), "v@s");
    store.ok(["volume", "rename", "v", "renamed"]);
    let others = store.mount("v");
    others.write("file", "of another volume");
    store.snapshot("v", "s");
    let now = store.json(["snapshot", "show", "renamed@s"])["snapshot"].clone();
    assert_eq!(parent("w"), now);
    // Neither a rollback nor a restart makes it another one.
    store.snapshot("w", "own");
    store.ok(["volume", "rollback", "w", "w@own"]);
    store.ok(["volume", "rename", "w", "fork"]);
    others.unmount();
    store.stop_daemon();
    assert_eq!(parent("fork"), now);
    assert!(parent("renamed").is_null() && parent("v").is_null());
    store.ok(["snapshot", "rm", "renamed@s"]);
    assert!(parent("fork").is_null());
}

#[test]
fn parent_is_not_taken_for_a_volume_that_came_later() {
    let store = Store::new();
    store.create_volume("v");
    store.snapshot("v", "s");
    store.fork("v@s", "w");
    store.ok(["volume", "rm", "v"]);
    assert!(store.volume("w")["parent"].is_null());
    store.create_volume("v");
    store.snapshot("v", "s");
    assert!(store.volume("w")["parent"].is_null());
    assert!(store.json(["volume", "ls"])[1]["parent"].is_null());
}

#[test]
fn fork_does_not_keep_what_was_open_and_had_no_name() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("kept", noise(1, 0, 100_000));
    mount.write("gone", noise(2, 0, 1_000_000));
    let open = File::open(mount.path("gone")).unwrap();
    fs::remove_file(mount.path("gone")).unwrap();
    store.snapshot("v", "s");
    let used = |volume: &str| {
        let shown = store.volume(volume);
        (shown["used_bytes"].as_u64().unwrap(), shown["used_inodes"].as_u64().unwrap())
    };
    store.fork("v@s", "w");
    let fork = store.mount("w");
    assert_eq!(used("w"), (102_400, 1));
    assert_eq!(fork.names("/"), ["kept"]);
    assert!(open.read_at(&mut [0; 10], 0).unwrap() == 10, "the origin's is still open");
    drop(open);
    // Gone from the origin by now, and not from the snapshot.
    eventually("the origin removes it", Duration::from_secs(20), || {
        (used("v") == (102_400, 1)).then_some(())
    });
    store.fork("v@s", "x");
    drop(store.mount("x"));
    assert_eq!(used("x"), (102_400, 1));
    store.ok(["volume", "rollback", "v", "v@s"]);
    assert_eq!(used("v"), (102_400, 1));
    assert!(mount.read("kept") == noise(1, 0, 100_000));
}

#[test]
fn fork_and_origin_do_not_see_each_other() {
    let mount = start();
    let store = mount.store().clone();
    store.fork("v@s", "w");
    let fork = store.mount("w");
    fork.write("small", "in the fork");
    fork.write("low", "in the fork");
    open(mount.path("up"), libc::O_RDWR, 0).unwrap().write_all_at(b"in the origin", 10).unwrap();
    fs::remove_dir_all(mount.path("d")).unwrap();
    fork.write("d/y", "in the fork");
    fork.write("only here", "");
    assert_eq!(
        (mount.text("small"), mount.names("/")),
        ("origin".into(), ["low", "small", "up"].map(Into::into).to_vec())
    );
    assert!(mount.read("low") == noise(1, 0, 100_000));
    assert!(fork.read("up") == noise(2, 0, 100_000));
    assert_eq!(fork.text("d/x"), "in the fork");
    let both = [Tree::of(mount.root()), Tree::of(fork.root())];
    fork.unmount();
    let mount = mount.restart();
    let fork = store.mount("w");
    assert_eq!(differences(&both[0], &Tree::of(mount.root())), Vec::<String>::new());
    assert_eq!(differences(&both[1], &Tree::of(fork.root())), Vec::<String>::new());
    assert_eq!(store.mount_snapshot("v@s").text("small"), "origin");
}

#[test]
fn fork_takes_no_time_and_no_room() {
    let mount = Mount::empty();
    for number in 0..1000u64 {
        mount.write(format!("f{number}"), noise(number, 0, 10_000));
    }
    File::open(mount.root()).unwrap().sync_all().unwrap();
    let store = mount.store().clone();
    store.snapshot("v", "s");
    let before = store.allocated();
    let fork = |number| {
        let started = Instant::now();
        store.fork("v@s", &format!("w{number}"));
        started.elapsed()
    };
    let best = (0..10).map(fork).min().unwrap();
    assert!(best < Duration::from_secs(1), "{best:?}");
    let grown = store.allocated().saturating_sub(before);
    assert!(grown < MIB, "ten forks took {grown} bytes");
    assert!(store.mount("w9").read("f999") == noise(999, 0, 10_000));
}

#[test]
fn fork_of_a_fork_of_a_fork_reads_as_fast() {
    const DEPTH: usize = 20;
    let mount = start();
    let store = mount.store().clone();
    let mut parent = "v@s".to_owned();
    for depth in 0..DEPTH {
        let name = format!("w{depth}");
        store.fork(&parent, &name);
        let fork = store.mount(&name);
        fork.write(format!("made-{depth}"), depth.to_string());
        fork.write("small", format!("depth {depth}"));
        if depth == 3 {
            fs::remove_file(fork.path("d/x")).unwrap();
        }
        store.snapshot(&name, "s");
        parent = format!("{name}@s");
    }
    let deepest = store.mount(&format!("w{}", DEPTH - 1));
    assert_eq!(deepest.text("small"), format!("depth {}", DEPTH - 1));
    assert_eq!((deepest.names("/").len(), deepest.names("d")), (4 + DEPTH, vec!["y".into()]));
    for depth in 0..DEPTH {
        assert_eq!(deepest.text(format!("made-{depth}")), depth.to_string());
    }
    assert!(deepest.read("up") == noise(2, 0, 100_000));
    assert_eq!(mount.text("small"), "origin");
    assert_eq!(store.mount("w7").text("small"), "depth 7");
}

#[test]
fn fork_lives_on_without_its_origin() {
    let mount = start();
    let store = mount.store().clone();
    store.fork("v@s", "w");
    let before = Tree::of(mount.root());
    mount.unmount();
    store.ok(["volume", "rm", "v"]);
    store.ok(["gc"]);
    let fork = store.mount("w");
    assert_eq!(differences(&before, &Tree::of(fork.root())), Vec::<String>::new());
    let fork = fork.restart();
    assert_eq!(differences(&before, &Tree::of(fork.root())), Vec::<String>::new());
}

#[test]
fn fork_lives_on_without_its_snapshot() {
    let mount = start();
    let store = mount.store().clone();
    store.fork("v@s", "w");
    let before = Tree::of(mount.root());
    fs::remove_file(mount.path("up")).unwrap();
    store.ok(["snapshot", "rm", "v@s"]);
    store.ok(["gc"]);
    let fork = store.mount("w");
    assert_eq!(differences(&before, &Tree::of(fork.root())), Vec::<String>::new());
}

#[test]
fn many_forks_of_one_snapshot_are_independent() {
    let mount = start();
    let store = mount.store().clone();
    let forks: Vec<Mount> = (0..6)
        .map(|number| {
            let name = format!("w{number}");
            store.fork("v@s", &name);
            store.mount(&name)
        })
        .collect();
    std::thread::scope(|scope| {
        for (number, fork) in forks.iter().enumerate() {
            scope.spawn(move || {
                let file = open(fork.path("up"), libc::O_RDWR, 0).unwrap();
                for page in 0..24u64 {
                    file.write_all_at(&noise(number as u64 + 100, page * 4096, 4096), page * 4096).unwrap();
                }
                fork.write("small", number.to_string());
            });
        }
    });
    for (number, fork) in forks.iter().enumerate() {
        assert_eq!(fork.text("small"), number.to_string());
        read_noise_at(&File::open(fork.path("up")).unwrap(), number as u64 + 100, 0, 24 * 4096);
    }
    assert!(mount.read("up") == noise(2, 0, 100_000));
}

#[test]
fn fork_can_be_mounted_by_the_same_command() {
    let mount = start();
    let store = mount.store().clone();
    let place = store.mountpoint();
    store.ok(["fork".as_ref(), "v@s".as_ref(), "w".as_ref(), "--mount".as_ref(), place.as_os_str()]);
    assert_eq!(fs::read_to_string(place.join("small")).unwrap(), "origin");
    store.umount(&place);
}

#[test]
fn fork_needs_a_snapshot_and_a_free_name() {
    let mount = start();
    let store = mount.store().clone();
    store.refused(3, ["fork", "v@missing", "w"]);
    store.refused(3, ["fork", "missing@s", "w"]);
    store.refused(4, ["fork", "v@s", "v"]);
    store.refused(5, ["fork", "v@s", "not/a/name"]);
    assert_eq!(store.json(["volume", "ls"]).as_array().unwrap().len(), 1);
}
