//! Plain processes in a cgroup.

use std::fs;
use std::path::Path;

use durdir_tests::support::*;
use serde_json::json;

use super::agent::LIMIT;

fn process(store: &Store, mount_path: &std::path::Path, command: &str) {
    named_process(store, "p", mount_path, command);
}

fn named_process(store: &Store, id: &str, mount_path: &std::path::Path, command: &str) {
    let template = json!({
        "volumes": [{"name": "home", "durableDir": {}}],
        "containers": [{
            "name": "job",
            "rootfs": "/",
            "command": ["/bin/sh", "-c", command],
            "volumeMounts": [{"name": "home", "mountPath": mount_path}],
        }],
        "sandboxClass": "process",
        "sandbox": {"network": "host"},
        "snapshotsConfig": {
            "location": format!("file://{}", store.side_dir().display()), "onPause": "Data", "onCommit": "Data",
        },
    });
    let file = store.side_dir().join("job.json");
    fs::write(&file, template.to_string()).unwrap();
    store.ok(["actor", "create", "-f", file.to_str().unwrap(), "--id", id]);
}

fn lines(store: &Store) -> usize {
    lines_of(store, "p")
}

fn lines_of(store: &Store, actor: &str) -> usize {
    let log = store.path().join("actors").join(actor).join("volumes/home/log");
    fs::read_to_string(log).map_or(0, |log| log.lines().count())
}

#[test]
fn the_example_runs() {
    let store = Store::new();
    let commits = store.side_dir();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/process.yaml");
    let example = fs::read_to_string(example).unwrap();
    let (before, location) = example.split_once("location: file:///").unwrap();
    let after = location.split_once('\n').unwrap().1;
    let file = store.side_dir().join("process.yaml");
    fs::write(&file, format!("{before}location: file://{}/my%20commits\n{after}", commits.display()))
        .unwrap();
    store.ok(["actor", "create", "-f", file.to_str().unwrap(), "--id", "example"]);
    store.ok(["actor", "start", "example"]);
    eventually("it writes", LIMIT, || (lines_of(&store, "example") > 0).then_some(()));
    let commit = store.json(["actor", "commit", "example"]);
    let manifest = commits.join("my commits").join(commit["capture"].as_str().unwrap()).join("manifest.json");
    assert!(manifest.is_file(), "{}", manifest.display());
    store.ok(["actor", "pause", "example"]);
    store.ok(["actor", "resume", "example"]);
    store.ok(["actor", "suspend", "example"]);
    store.ok(["actor", "rm", "example"]);
}

#[test]
fn processes_are_paused_with_their_volumes_and_started_on_them() {
    let store = Store::new();
    let home = store.side_dir();
    let command = format!("while :; do echo line >> {}/log; sleep 0.01; done", home.display());
    process(&store, &home, &command);
    store.ok(["actor", "start", "p"]);
    eventually("it writes", LIMIT, || (lines(&store) > 3).then_some(()));
    let paused = store.json(["actor", "pause", "p"]);
    assert_eq!((paused["state"].as_str(), paused["scope"].as_str()), (Some("paused"), Some("Data")));
    store.ok(["actor", "resume", "p"]);
    let before = lines(&store);
    assert!(before > 3);
    eventually("it writes on", LIMIT, || (lines(&store) > before + 3).then_some(()));
    let committed = store.json(["actor", "commit", "p"]);
    assert_eq!(committed["state"], "running");
    store.ok(["actor", "rm", "p"]);
}

#[test]
fn a_process_that_ends_is_seen_to_have_ended() {
    let store = Store::new();
    store.expect_alarm("an actor has ended");
    let home = store.side_dir();
    process(&store, &home, &format!("echo x > {}/log; sleep 0.3; exit 7", home.display()));
    store.ok(["actor", "start", "p"]);
    let shown = eventually("it is exited", LIMIT, || {
        Some(store.json(["actor", "show", "p"])).filter(|shown| shown["state"] == "exited")
    });
    assert!(shown["reason"].as_str().unwrap().contains("container job ended"), "{shown}");
    store.refused(4, ["actor", "pause", "p"]);
    store.ok(["actor", "start", "p"]);
    store.ok(["actor", "rm", "p"]);
}

/// A container has mounts of its own, which are made from the host's.
#[test]
fn a_container_holds_nothing_that_is_mounted_elsewhere() {
    let store = Store::new();
    let home = store.side_dir();
    let command = format!("while :; do echo line >> {}/log; sleep 0.01; done", home.display());
    process(&store, &home, &command);
    store.ok(["actor", "start", "p"]);
    let other_home = store.side_dir();
    named_process(&store, "other", &other_home, "while :; do sleep 1; done");
    // With a name that the kernel has to write otherwise.
    store.create_volume("plain");
    let place = store.side_dir().join("a b%s\\1");
    fs::create_dir(&place).unwrap();
    store.ok(["mount", "plain", place.to_str().unwrap()]);
    store.ok(["actor", "start", "other"]);
    store.umount(&place);
    store.ok(["actor", "pause", "p"]);
    store.ok(["actor", "resume", "p"]);
    let before = lines(&store);
    eventually("it writes on", LIMIT, || (lines(&store) > before).then_some(()));
    store.ok(["actor", "rm", "p"]);
    store.ok(["actor", "rm", "other"]);
}

/// mountd has its own place in the order in which processes are killed when memory is short, and room for many files.
#[test]
fn a_program_has_nothing_that_its_daemon_has_for_itself() {
    let store = Store::new();
    let home = store.side_dir();
    let command = format!(
        "cat /proc/self/oom_score_adj > {0}/new; ulimit -n >> {0}/new; mv {0}/new {0}/log; sleep 1000",
        home.display()
    );
    process(&store, &home, &command);
    fs::write(format!("/proc/{}/oom_score_adj", store.worker_pid()), "300").unwrap();
    store.ok(["actor", "start", "p"]);
    let told = eventually("it tells", LIMIT, || {
        fs::read_to_string(store.path().join("actors/p/volumes/home/log")).ok()
    });
    assert_eq!(told, "0\n1024\n");
    store.ok(["actor", "rm", "p"]);
}
