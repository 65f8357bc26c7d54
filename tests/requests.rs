//! A command whose daemon dies under it: it still gets its result, and what it asked for is done once.
//!
//! The daemon is started with a failpoint (`fs/src/failpoint.rs`) by the command under test, and its worker dies there by SIGKILL.
//! The supervisor starts the next one, and the command sends its request again.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use durdir_tests::support::*;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);

/// A store whose workers die.
fn dying() -> Store {
    let store = Store::new();
    store.expect_alarm("the worker died");
    store
}

/// Runs a command whose daemon dies at `point`, once.
fn dying_at<S: AsRef<OsStr>>(store: &Store, point: &str, args: &[S]) -> Finished {
    store.stop_daemon();
    let marks = store.side_dir();
    let mut command = store.command();
    command.arg("--json").args(args);
    command.env("DURDIR_FAILPOINTS", format!("{point}:kill")).env("DURDIR_FAILPOINT_DIR", &marks);
    let finished = run(&mut command, LIMIT);
    assert!(marks.join(point).exists(), "the daemon did not come to {point}: {finished}");
    finished
}

#[track_caller]
fn document(finished: Finished) -> Value {
    serde_json::from_slice(&finished.ok().stdout).unwrap()
}

fn replayed(store: &Store) -> u64 {
    store.json(["stats"])["replayed_calls"].as_u64().unwrap()
}

/// Where a call may die whose whole effect is one batch, and whether it is answered from the record then.
const POINTS: [(&str, u64); 3] =
    [("change.before-batch", 0), ("change.after-batch", 1), ("api.before-reply", 1)];

/// A volume `v` with a snapshot `one` and a change after it, and a volume `w`.
fn two_volumes() -> Store {
    let store = dying();
    let mount = store.mount("v");
    mount.write("file", "one");
    store.snapshot("v", "one");
    mount.write("file", "two");
    mount.unmount();
    store.create_volume("w");
    store
}

fn names(list: &Value, field: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|one| one[field].as_str().unwrap().to_owned()).collect()
}

fn at_every_point(args: &[&str], check: impl Fn(&Store, &Value)) {
    for (point, answered_from_record) in POINTS {
        let store = two_volumes();
        let answer = document(dying_at(&store, point, args));
        assert_eq!(replayed(&store), answered_from_record, "{point}");
        check(&store, &answer);
    }
}

#[test]
fn a_volume_is_created_once() {
    at_every_point(&["volume", "create", "x", "--quota-bytes", "1MiB"], |store, answer| {
        assert_eq!((answer["name"].as_str(), answer["quota_bytes"].as_u64()), (Some("x"), Some(1 << 20)));
        assert_eq!(store.volume("x")["id"], answer["id"]);
    });
}

#[test]
fn a_volume_is_removed_once() {
    at_every_point(&["volume", "rm", "v"], |store, answer| {
        assert_eq!(*answer, json!({"removed": "v"}));
        assert_eq!(names(&store.json(["volume", "ls"]), "name"), ["w"]);
    });
}

#[test]
fn a_volume_is_renamed_once() {
    at_every_point(&["volume", "rename", "w", "x"], |store, answer| {
        assert_eq!(answer["name"], "x");
        assert_eq!(names(&store.json(["volume", "ls"]), "name"), ["v", "x"]);
    });
}

#[test]
fn a_quota_is_set() {
    at_every_point(&["volume", "set-quota", "w", "--bytes", "2MiB"], |store, answer| {
        assert_eq!(answer["quota_bytes"], 2 << 20);
        assert_eq!(store.volume("w")["quota_bytes"], 2 << 20);
    });
}

#[test]
fn a_volume_is_rolled_back_once() {
    at_every_point(&["volume", "rollback", "v", "one"], |store, answer| {
        // Rolled back twice, it would be an epoch further.
        assert_eq!(store.volume("v")["epoch"], answer["epoch"]);
        assert_eq!(store.mount("v").text("file"), "one");
    });
}

#[test]
fn a_snapshot_is_taken_once() {
    at_every_point(&["snapshot", "create", "v", "w"], |store, answer| {
        let made = names(&answer["snapshots"], "snapshot");
        assert_eq!(made.len(), 2);
        let listed = names(&store.json(["snapshot", "ls"]), "snapshot");
        assert_eq!(listed.len(), 3, "{listed:?}");
        assert!(made.iter().all(|one| listed.contains(one)), "{made:?} {listed:?}");
        assert_eq!(store.mount_snapshot(&made[0]).text("file"), "two");
    });
}

#[test]
fn snapshots_are_removed_all_at_once() {
    for (point, _) in POINTS {
        let store = two_volumes();
        store.snapshot("v", "two");
        let answer = document(dying_at(&store, point, &["snapshot", "rm", "v@one", "v@two"]));
        assert_eq!(answer, json!({"removed": ["v@one", "v@two"]}));
        assert_eq!(store.json(["snapshot", "ls"]), json!([]));
    }
}

#[test]
fn a_snapshot_is_forked_once() {
    at_every_point(&["fork", "v@one", "x"], |store, answer| {
        assert_eq!(answer["name"], "x");
        assert_eq!(store.volume("x")["id"], answer["id"]);
        assert_eq!(store.mount("x").text("file"), "one");
    });
}

#[test]
fn a_question_is_asked_again() {
    let store = two_volumes();
    for args in
        [&["volume", "ls"][..], &["snapshot", "ls"], &["snapshot", "diff", "v@one"], &["log"], &["fsck"]]
    {
        let asked = store.json(args);
        let again = document(dying_at(&store, "api.before-reply", args));
        assert_eq!(asked, again, "{args:?}");
    }
    document(dying_at(&store, "api.before-reply", &["gc"]));
    document(dying_at(&store, "api.before-reply", &["fsck", "--repair"]));
}

fn unmount(store: &Store, mountpoint: &Path) {
    store.umount(mountpoint);
}

#[test]
fn a_volume_is_mounted_wherever_the_daemon_died() {
    for point in [
        "change.before-batch",
        "change.after-batch",
        "mount.after-intent",
        "mount.after-mount",
        "api.before-reply",
    ] {
        let store = dying();
        let mountpoint = store.mountpoint();
        let args = [OsStr::new("mount"), OsStr::new("v"), mountpoint.as_os_str(), OsStr::new("--create")];
        let answer = document(dying_at(&store, point, &args));
        assert_eq!(
            (answer["volume"].as_str(), answer["created"].as_bool()),
            (Some("v"), Some(true)),
            "{point}"
        );
        std::fs::write(mountpoint.join("file"), point).unwrap();
        unmount(&store, &mountpoint);
        assert_eq!(store.mount("v").text("file"), point);
    }
}

#[test]
fn a_mount_that_fails_after_its_daemon_died_takes_back_what_it_began_with() {
    let store = dying();
    store.create_volume("v");
    let nowhere = store.side_dir().join("nowhere");
    let mount = |volume: &'static str, option: &'static [&'static str]| {
        let mut args = vec![OsStr::new("mount"), OsStr::new(volume), nowhere.as_os_str()];
        args.extend(option.iter().map(OsStr::new));
        for point in ["change.after-batch", "mount.after-intent"] {
            let finished = dying_at(&store, point, &args);
            assert_eq!(finished.code(), Some(3), "{point}: {finished}");
        }
    };
    mount("new", &["--create"]);
    assert_eq!(names(&store.json(["volume", "ls"]), "name"), ["v"]);
    mount("v", &["--quota-bytes", "1MiB"]);
    assert_eq!(store.volume("v")["quota_bytes"], Value::Null);
}

#[test]
fn a_fork_is_mounted_wherever_the_daemon_died() {
    for point in [
        "change.before-batch",
        "change.after-batch",
        "mount.after-intent",
        "mount.after-mount",
        "api.before-reply",
    ] {
        let store = two_volumes();
        let mountpoint = store.mountpoint();
        let args = ["fork", "v@one", "x", "--mount"].map(OsStr::new);
        let answer = document(dying_at(&store, point, &[&args[..], &[mountpoint.as_os_str()]].concat()));
        assert_eq!(PathBuf::from(answer["mount"]["mountpoint"].as_str().unwrap()), mountpoint, "{point}");
        assert_eq!(std::fs::read_to_string(mountpoint.join("file")).unwrap(), "one", "{point}");
        unmount(&store, &mountpoint);
    }
}

/// As [`dying_at`], where something is mounted that only the daemon at hand can unmount.
#[test]
fn a_volume_is_unmounted_wherever_the_daemon_died() {
    for point in ["umount.after-intent", "umount.after-unmount", "api.before-reply"] {
        let store = dying();
        let (mountpoint, marks) = (store.mountpoint(), store.side_dir());
        let durdir = |args: &[&OsStr]| {
            let mut command = store.command();
            command.arg("--json").args(args).env("DURDIR_FAILPOINT_DIR", &marks);
            document(run(command.env("DURDIR_FAILPOINTS", format!("{point}:kill@{}", hit(point))), LIMIT))
        };
        durdir(&[OsStr::new("mount"), OsStr::new("v"), mountpoint.as_os_str(), OsStr::new("--create")]);
        let answer = durdir(&[OsStr::new("umount"), OsStr::new("v")]);
        assert!(marks.join(point).exists(), "{point}");
        assert_eq!(names(&answer["unmounted"], "volume"), ["v"], "{point}");
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(mountpoint.to_str().unwrap()), "{point}: a dead mount is left\n{table}");
        store.refused(3, ["umount", "v"]);
    }
}

/// The mount before has been answered by the same daemon.
fn hit(point: &str) -> u32 {
    if point == "api.before-reply" { 2 } else { 1 }
}

#[test]
fn a_storm_of_deaths_loses_and_doubles_nothing() {
    let store = two_volumes();
    store.stop_daemon();
    for (number, point) in
        (0..30).zip(["change.before-batch:kill@2", "change.after-batch:kill@3"].iter().cycle())
    {
        let mut command = store.command();
        command.args(["volume", "create", &format!("x{number}")]).env("DURDIR_FAILPOINTS", point);
        run(&mut command, LIMIT).ok();
    }
    store.stop_daemon();
    assert_eq!(names(&store.json(["volume", "ls"]), "name").len(), 32);
}

#[test]
fn an_id_stands_for_one_command_over_restarts_of_both_sides() {
    let store = dying();
    let id = ["--request-id", "0194c1f0-6f2a-7b3c-8d4e-5f6071829304"];
    let create = |name: &'static str| [&id[..], &["volume", "create", name]].concat();
    let first = store.json(create("v"));
    store.kill_daemon();
    store.ok(["volume", "rename", "v", "w"]);
    assert_eq!(store.json(create("v")), first);
    assert_eq!(names(&store.json(["volume", "ls"]), "name"), ["w"]);
    let complaint = store.refused(4, create("other"));
    assert!(complaint.contains("was used for another request"), "{complaint}");
    let complaint = store.refused(4, [&id[..], &["volume", "rm", "w"]].concat());
    assert!(complaint.contains("was used for another request"), "{complaint}");
    // A refusal is repeated too, although it would go well by now.
    let other = ["--request-id", "0194c1f0-6f2a-7b3c-8d4e-5f6071829305", "volume", "create", "w"];
    let refused = store.refused(4, other);
    store.ok(["volume", "rm", "w"]);
    assert_eq!(store.refused(4, other), refused);
}

#[test]
fn a_request_that_always_kills_the_daemon_is_given_up() {
    let store = dying();
    store.create_volume("v");
    store.stop_daemon();
    let mut command = store.command();
    command.args(["volume", "rename", "v", "w"]).env("DURDIR_FAILPOINTS", "change.before-batch:kill");
    let finished = run(&mut command, LIMIT);
    assert_eq!(finished.code(), Some(1), "{finished}");
    assert!(finished.complaint().contains("went away before it answered"), "{finished}");
    assert_eq!(names(&store.json(["volume", "ls"]), "name"), ["v"]);
}

/// The daemon is asked to end while a call is under way, and has closed its list of mounts when the call gets there.
#[test]
fn a_mount_asked_of_a_daemon_that_ends_is_made_by_the_next() {
    let store = Store::new();
    store.expect_alarm("calls in flight did not end in time");
    let (switches, marks) = (store.side_dir(), store.side_dir());
    let config = store.side_dir().join("mountd.toml");
    std::fs::write(&config, "[shutdown]\ngrace = '60s'\n").unwrap();
    let mut mountd = store.mountd(["--config".as_ref(), config.as_os_str()]);
    // Longer than calls in flight are waited for.
    mountd.env("DURDIR_FAILPOINTS", "mount.after-intent:sleep=20000");
    mountd.env("DURDIR_FAILPOINT_SWITCHES", &switches).env("DURDIR_FAILPOINT_DIR", &marks);
    run(&mut mountd, LIMIT).ok();
    // Its end waits for whoever uses a mount.
    let other = store.mount("other");
    let used = std::fs::File::create(other.path("used")).unwrap();
    let [switch, mark] = [&switches, &marks].map(|directory| directory.join("mount.after-intent"));
    std::fs::write(&switch, "").unwrap();
    let mountpoint = store.mountpoint();
    std::thread::scope(|scope| {
        let mounting = scope.spawn(|| {
            let args = ["mount".as_ref(), "v".as_ref(), mountpoint.as_os_str(), "--create".as_ref()];
            store.durdir(args)
        });
        eventually("the call has come to there", LIMIT, || mark.exists().then_some(()));
        assert_eq!(
            store.json(["volume", "ls"]).as_array().unwrap().len(),
            2,
            "the volume comes with the intent"
        );
        std::fs::remove_file(&switch).unwrap();
        let pids = store.daemon();
        signal(pids[0], Signal::SIGTERM);
        eventually("the call is refused", LIMIT, || {
            store.log().contains("mountd is shutting down").then_some(())
        });
        drop(used);
        for pid in pids {
            assert!(wait_for_exit(pid, LIMIT), "{pid} still runs");
        }
        store.start_daemon([""; 0]);
        mounting.join().unwrap().ok();
    });
    assert!(is_mounted(&mountpoint));
    std::fs::write(mountpoint.join("file"), "x").unwrap();
    store.umount("v");
}
