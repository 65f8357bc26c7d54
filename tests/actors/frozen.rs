//! Workers that die over a paused sandbox, and none that gets ready after them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use durdir_tests::support::*;
use serde_json::Value;

use super::agent::{Agent, LIMIT, template};
use super::shims;

/// An actor whose worker dies at a step, and whose store cannot be opened from then on.
struct Forsaken {
    agent: Agent,
    switches: PathBuf,
    /// The snapshots of before.
    snapshots: Vec<String>,
}

impl Forsaken {
    /// Has the worker die at `point` of an operation.
    fn at(point: &str, operation: &str) -> Forsaken {
        let agent = Agent::running("Full", "Full");
        for alarm in ["the worker died", "was left paused", "worker.open", "as a test has it"] {
            agent.store.expect_alarm(alarm);
        }
        agent.store.stop_daemon();
        let switches = agent.store.side_dir();
        let mut command = agent.store.command();
        command
            .env("DURDIR_FAILPOINTS", format!("{point}:kill,worker.open:errno=5"))
            .env("DURDIR_FAILPOINT_SWITCHES", &switches);
        run(command.args(["actor", "resume", "a"]), LIMIT).ok();
        agent.works();
        let snapshots = snapshots(&agent.store);
        for switch in ["worker.open", point] {
            fs::write(switches.join(switch), "").unwrap();
        }
        let mut client = agent.store.command().args(["actor", operation, "a"]).spawn().unwrap();
        eventually("the worker dies", LIMIT, || (!switches.join(point).exists()).then_some(()));
        client.kill().unwrap();
        client.wait().unwrap();
        Forsaken { agent, switches, snapshots }
    }

    /// Asks runsc whether programs of the sandbox run: `running`, `paused`.
    fn sandbox(&self) -> String {
        let root = self.agent.store.path().join("actors/a/sandbox/runsc");
        let mut command = Command::new("runsc");
        command.arg(format!("--root={}", root.display())).args(["list", "--format=json"]);
        let listed: Value = serde_json::from_slice(&run(&mut command, LIMIT).ok().stdout).unwrap();
        listed[0]["status"].as_str().unwrap().to_owned()
    }

    /// Waits until the sandbox runs again, which the dead worker had paused.
    fn goes_on(&self) {
        eventually("the sandbox goes on", LIMIT, || (self.sandbox() == "running").then_some(()));
        // Told when the runtime says so, after it is so.
        eventually("it is told that it was paused", LIMIT, || {
            self.agent.store.log().contains("an actor that was left paused goes on").then_some(())
        });
    }

    /// Lets workers open the store again.
    fn relieve(self) -> Agent {
        assert_eq!(self.agent.store.status()["ready"], false, "no worker has become ready");
        fs::remove_file(self.switches.join("worker.open")).unwrap();
        self.agent
    }
}

/// Returns the names of all snapshots. What each has to itself changes while programs write.
fn snapshots(store: &Store) -> Vec<String> {
    let listed = store.json(["snapshot", "ls"]);
    listed.as_array().unwrap().iter().map(|one| one["snapshot"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn programs_go_on_though_no_worker_comes() {
    let forsaken = Forsaken::at("actor.saved", "pause");
    forsaken.goes_on();
    let before = forsaken.snapshots.clone();
    let agent = forsaken.relieve();
    agent.works();
    agent.check();
    eventually("nothing of the capture is left", LIMIT, || {
        (agent.state() == "running" && snapshots(&agent.store) == before).then_some(())
    });
    agent.ask("pause");
    agent.ask("resume");
    agent.works();
    agent.check();
    assert!(!agent.store.path().join("actors/a/paused.json").exists());
}

/// All that is missing is that somebody says that it is there.
#[test]
fn programs_go_on_though_a_pause_was_almost_complete() {
    let forsaken = Forsaken::at("actor.written", "pause");
    forsaken.goes_on();
    let before = forsaken.snapshots.clone();
    let agent = forsaken.relieve();
    agent.works();
    agent.check();
    eventually("nothing of the capture is left", LIMIT, || {
        (agent.state() == "running" && snapshots(&agent.store) == before).then_some(())
    });
}

#[test]
fn programs_go_on_after_a_commit_though_no_worker_comes() {
    let forsaken = Forsaken::at("actor.bound", "commit");
    forsaken.goes_on();
    let agent = forsaken.relieve();
    agent.works();
    agent.check();
    let commit = eventually("the commit is completed", LIMIT, || {
        let last = agent.show()["last_capture"].clone();
        (last["kind"] == "commit").then(|| last["id"].as_str().unwrap().to_owned())
    });
    agent.store.ok(["actor", "fork", &commit, "b"]);
    let fork = agent.other("b");
    fork.ask("resume");
    fork.works();
    fork.check();
}

/// What programs do after the capture is there would be lost.
#[test]
fn programs_stay_paused_where_the_pause_is_complete() {
    let forsaken = Forsaken::at("actor.bound", "pause");
    let store = &forsaken.agent.store;
    let note = store.path().join("actors/a/paused.json");
    eventually("it was looked after", LIMIT, || {
        let age = note.metadata().unwrap().modified().unwrap().elapsed().unwrap();
        // The supervisor's own attempt may be at it, or a worker that is about to find that it cannot open the store.
        let thawed = run(&mut store.mountd(["--thaw"]), LIMIT);
        assert!([Some(0), Some(4)].contains(&thawed.status.code()), "{thawed}");
        (age.as_secs() >= 3 && thawed.status.success()).then_some(())
    });
    assert_eq!(forsaken.sandbox(), "paused");
    let agent = forsaken.relieve();
    eventually("the pause is completed", LIMIT, || (agent.state() == "paused").then_some(()));
    agent.ask("resume");
    agent.works();
    agent.check();
}

#[test]
fn nothing_is_let_go_on_while_a_worker_has_the_store() {
    let agent = Agent::running("Full", "Full");
    let thawed = run(&mut agent.store.mountd(["--thaw"]), LIMIT);
    assert_eq!(thawed.status.code(), Some(4), "{thawed}");
    agent.works();
}

/// runsc notes a pause after gVisor has paused, and may be killed in between.
#[test]
fn a_pause_that_was_not_noted_leaves_no_frozen_actor() {
    let side = tempfile::tempdir().unwrap();
    let switch = side.path().join("on");
    let script = format!(
        "SIDE={}
for word; do case $word in --root=*) root=${{word#--root=}} ;; pause) pause=yes ;; esac; done
if [ -n \"$pause\" ] && rm \"$SIDE/on\" 2>/dev/null; then
    cp \"$root\"/*.state \"$SIDE\"
    $REAL \"$@\"
    cp \"$SIDE\"/*.state \"$root\"
    kill -KILL $$
fi
exec $REAL \"$@\"
",
        side.path().display()
    );
    let store = shims::store_with(&[("runsc", script)]);
    for alarm in ["does not go on", "an actor has ended", "signal: 9"] {
        store.expect_alarm(alarm);
    }
    let agent = Agent::created_from(store, |commits| template(commits, "Data", "Data")).started();
    fs::write(&switch, "").unwrap();
    let paused = agent.store.durdir(["actor", "pause", "a"]);
    assert!(!switch.exists() && !paused.status.success());
    let before = agent.written();
    eventually("it writes on, or has ended", LIMIT, || {
        (agent.state() == "exited" || agent.written() > before + 5).then_some(())
    });
    // It is not in the way of what comes next.
    if agent.state() == "exited" {
        agent.ask("start");
    }
    agent.works();
}
