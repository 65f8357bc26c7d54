//! A microVM in QEMU, emulated: no machine that runs tests is sure to have KVM. It needs what `examples/microvm/build` makes, and
//! virtiofsd in `PATH`; `scripts/test` provides both.

use std::fs;
use std::path::{Path, PathBuf};

use durdir_tests::support::eventually;
use serde_json::{Value, json};

use super::agent::{Agent, LIMIT};

/// Numbers in a file that stays open for append.
const COUNT: &str = "exec >> /home/log; n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done";

fn microvm() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let directory = variable("DURDIR_MICROVM").or_else(|| Some(cache()?.join("durdir/microvm"))).unwrap();
    assert!(
        directory.join("initramfs").is_file(),
        "no microVM in {0}: run examples/microvm/build {0}",
        directory.display()
    );
    directory
}

fn template(commits: &Path) -> Value {
    let machine = microvm();
    json!({
        "volumes": [{"name": "home", "durableDir": {}}],
        "containers": [{
            "name": "guest",
            "command": ["/bin/sh", "-c", COUNT],
            "volumeMounts": [{"name": "home", "mountPath": "/home"}],
        }],
        "sandboxClass": "microvm",
        "sandbox": {
            "runtime": "qemu", "memory": "256MiB", "cpus": 1, "accelerator": "tcg",
            "kernel": machine.join("vmlinuz"), "initramfs": machine.join("initramfs"),
        },
        "snapshotsConfig": {
            "location": format!("file://{}", commits.display()), "onPause": "Full", "onCommit": "Full",
        },
    })
}

/// Waits until the guest has written another number, and asserts that there is no gap.
#[track_caller]
fn counts(agent: &Agent) -> usize {
    let before = agent.written();
    eventually("the guest counts", LIMIT, || (agent.written() > before).then_some(()));
    let log = fs::read_to_string(agent.path("home", "log")).unwrap();
    // The last line may be half of one.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for (at, line) in whole.lines().enumerate() {
        assert_eq!(line, (at + 1).to_string(), "a gap");
    }
    agent.written()
}

#[test]
fn a_guest_with_an_open_file_is_paused_committed_and_forked() {
    let agent = Agent::created_from(template);
    agent.ask("start");
    counts(&agent);
    let paused = agent.ask("pause");
    assert_eq!((paused["state"].as_str(), paused["scope"].as_str()), (Some("paused"), Some("Full")));
    agent.ask("resume");
    let at_commit = counts(&agent);
    let committed = agent.ask("commit");
    assert_eq!(committed["state"], "running");
    agent.store.ok(["actor", "fork", committed["capture"].as_str().unwrap(), "b"]);
    let fork = agent.other("b");
    fork.ask("resume");
    assert!(counts(&fork) > at_commit, "it went on, and did not start anew");
    counts(&agent);
    agent.ask("rm");
    fork.ask("rm");
}
