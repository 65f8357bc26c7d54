//! The worker dies at each step that is stored, and after each effect.

use std::fs;

use durdir_tests::support::*;

use super::agent::{Agent, LIMIT};

/// Runs an operation over which the worker dies at `point`. The client sends it again, so it is done in the end.
fn dies_at(agent: &Agent, point: &str, args: &[&str]) {
    let store = &agent.store;
    // Whatever runs is paused for that, and must run again.
    let ran = agent.state() == "running";
    store.stop_daemon();
    let marks = store.side_dir();
    let mut command = store.command();
    command.env("DURDIR_FAILPOINTS", format!("{point}:kill")).env("DURDIR_FAILPOINT_DIR", &marks);
    if ran {
        // The daemon at hand is the one that dies, so it is started by this.
        fs::write(marks.join(point), "").unwrap();
        run(command.args(["actor", "resume", "a"]), LIMIT).ok();
        fs::remove_file(marks.join(point)).unwrap();
        agent.works();
    } else {
        run(command.args(["volume", "ls"]), LIMIT).ok();
    }
    let finished = run(store.command().args(args), LIMIT);
    assert!(
        marks.join(point).exists(),
        "the daemon did not come to {point}: {finished}\n{}",
        store.log_tail()
    );
    assert!(finished.status.success(), "{point}: {finished}\n{}", store.log_tail());
}

fn agent() -> Agent {
    let agent = Agent::running("Full", "Full");
    agent.store.expect_alarm("the worker died");
    agent.store.expect_alarm("was left paused");
    agent
}

#[test]
fn a_pause_is_completed_or_taken_back_and_done_again() {
    for point in [
        "actor.quiesce",
        "actor.paused",
        "actor.save",
        "actor.saved",
        "actor.cut",
        "actor.was-cut",
        "actor.bind",
        "actor.manifest",
        "actor.bound",
        "actor.killed",
        "actor.unmounted",
        "api.before-reply",
    ] {
        let agent = agent();
        dies_at(&agent, point, &["actor", "pause", "a"]);
        assert_eq!(agent.state(), "paused", "{point}");
        agent.ask("resume");
        agent.works();
        agent.check();
        agent.ask("rm");
    }
}

#[test]
fn a_commit_leaves_the_actor_running_wherever_the_worker_dies() {
    for point in [
        "actor.paused",
        "actor.saved",
        "actor.bound",
        "actor.resumed",
        "actor.publish",
        "actor.volumes-published",
    ] {
        let agent = agent();
        dies_at(&agent, point, &["actor", "commit", "a"]);
        assert_eq!(agent.state(), "running", "{point}");
        agent.works();
        agent.check();
        let commit = agent.show()["last_capture"]["id"].as_str().unwrap().to_owned();
        agent.store.ok(["actor", "fork", &commit, "b"]);
        let fork = agent.other("b");
        fork.ask("resume");
        fork.works();
        fork.check();
        fork.ask("rm");
        agent.ask("rm");
    }
}

#[test]
fn a_resume_is_done_in_the_end_wherever_the_worker_dies() {
    for point in ["actor.resume", "actor.mounted", "actor.up", "api.before-reply"] {
        let agent = agent();
        agent.ask("pause");
        dies_at(&agent, point, &["actor", "resume", "a"]);
        assert_eq!(agent.state(), "running", "{point}");
        agent.works();
        agent.check();
        agent.ask("rm");
    }
}

#[test]
fn nothing_stays_frozen_when_nobody_asks_again() {
    let agent = agent();
    agent.ask("pause");
    agent.store.stop_daemon();
    let marks = agent.store.side_dir();
    let point = "actor.saved";
    let mut command = agent.store.command();
    command.env("DURDIR_FAILPOINTS", format!("{point}:kill")).env("DURDIR_FAILPOINT_DIR", &marks);
    run(command.args(["actor", "resume", "a"]), LIMIT).ok();
    agent.works();
    // The client goes away with its daemon.
    let mut client = agent.store.command().args(["actor", "pause", "a"]).spawn().unwrap();
    eventually("the worker dies", LIMIT, || marks.join(point).exists().then_some(()));
    client.kill().unwrap();
    client.wait().unwrap();
    // Were it quick enough to ask again, the actor would be paused by now, and not frozen.
    if eventually("what was in hand is done", LIMIT, || {
        Some(agent.state()).filter(|state| state == "running" || state == "paused")
    }) == "paused"
    {
        agent.ask("resume");
    }
    agent.works();
    agent.check();
}

#[test]
fn a_worker_that_dies_by_itself_disturbs_no_actor() {
    let agent = agent();
    for _ in 0..3 {
        agent.store.kill_worker(nix::sys::signal::Signal::SIGKILL);
        agent.works();
        assert_eq!(agent.state(), "running");
    }
    agent.ask("pause");
    agent.ask("resume");
    agent.works();
    agent.check();
}
