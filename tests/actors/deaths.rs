//! The worker dies, and not at a step of what its actor does: those are in `steps.rs`.

use nix::sys::signal::Signal;

use super::agent::Agent;

fn agent() -> Agent {
    let agent = Agent::running("Full", "Full");
    agent.store.expect_alarm("the worker died");
    agent.store.expect_alarm("was left paused");
    agent
}

#[test]
fn a_worker_that_dies_by_itself_disturbs_no_actor() {
    let agent = agent();
    for _ in 0..3 {
        agent.store.kill_worker(Signal::SIGKILL);
        agent.works();
        assert_eq!(agent.state(), "running");
    }
    agent.ask("pause");
    agent.ask("resume");
    agent.works();
    agent.check();
}
