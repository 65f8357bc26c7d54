//! What actors and mounts of one node are to each other: none holds what is another's.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use durdir_tests::support::*;
use serde_json::json;

use super::agent::LIMIT;

/// Makes an actor whose root is the host's own, and whose volume is where the host has a directory.
fn created(store: &Store, id: &str, class: &str, mount_path: &Path) {
    let commits = store.side_dir();
    let template = json!({
        "volumes": [{"name": "home", "durableDir": {}}],
        "containers": [{
            "name": "job",
            "rootfs": "/",
            "command": ["/bin/sh", "-c", format!("while :; do echo line >> {}/log; sleep 0.01; done", mount_path.display())],
            "volumeMounts": [{"name": "home", "mountPath": mount_path}],
        }],
        "sandboxClass": class,
        "sandbox": {"network": "host"},
        "snapshotsConfig": {
            "location": format!("file://{}", commits.display()), "onPause": "Data", "onCommit": "Data",
        },
    });
    let file = commits.join("job.json");
    fs::write(&file, template.to_string()).unwrap();
    store.ok(["actor", "create", "-f", file.to_str().unwrap(), "--id", id]);
    store.ok(["actor", "start", id]);
    works(store, id);
}

fn works(store: &Store, id: &str) {
    let log = store.path().join("actors").join(id).join("volumes/home/log");
    let lines = || fs::read_to_string(&log).map_or(0, |log| log.lines().count());
    let before = lines();
    eventually(&format!("{id} writes"), LIMIT, || (lines() > before).then_some(()));
}

#[test]
fn a_sandbox_whose_root_is_the_hosts_holds_nothing_that_is_mounted_in_there() {
    let store = Store::new();
    store.create_volume("plain");
    let place = store.mountpoint();
    store.ok(["mount".as_ref(), "plain".as_ref(), place.as_os_str()]);
    // Everything that runsc needs a place for is there.
    let there = Path::new("/mnt");
    assert!(there.is_dir());
    created(&store, "one", "gvisor", there);
    created(&store, "other", "gvisor", there);
    store.umount(&place);
    store.ok(["actor", "pause", "one"]);
    store.ok(["actor", "resume", "one"]);
    works(&store, "one");
    store.ok(["actor", "rm", "one"]);
    works(&store, "other");
    store.ok(["actor", "rm", "other"]);
}

/// Somebody's container, or a shell with mounts of its own, has copies of all that was mounted when it began, where mounts of the host are not
/// shared with others.
#[test]
fn a_volume_of_an_actor_that_somebody_has_a_copy_of_is_taken_away_when_it_is_at_rest() {
    let store = Store::new();
    let home = store.side_dir();
    created(&store, "one", "process", &home);
    // What other tests have mounted just now is let go of at once.
    let script = "for place in $(findmnt --raw --noheadings --types fuse.durdir --output TARGET); do
            case $place in \"$0\"/*) ;; *) umount --lazy \"$place\" ;; esac
        done 2>&-
        echo there; read until";
    let mut stranger = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(store.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stranger.stdout.take().unwrap()), &mut told)
        .unwrap();
    assert_eq!(told, "there\n");
    store.expect_alarm("taken away from programs that use it");
    store.ok(["actor", "pause", "one"]);
    store.ok(["actor", "resume", "one"]);
    works(&store, "one");
    drop(stranger.stdin.take());
    stranger.wait().unwrap();
    store.ok(["actor", "rm", "one"]);
}
