use super::agent::Agent;

#[test]
fn ten_forks_of_a_running_actor_go_on_side_by_side() {
    let agent = Agent::running("Full", "Full");
    let committed = agent.ask("commit");
    assert_eq!(committed["state"], "running");
    let commit = committed["capture"].as_str().unwrap();
    agent.works();
    let forks: Vec<Agent> = (0..10).map(|number| agent.other(&format!("f{number}"))).collect();
    for (number, fork) in forks.iter().enumerate() {
        agent.store.ok(["actor", "fork", commit, &format!("f{number}")]);
        assert_eq!(fork.state(), "suspended");
        fork.ask("resume");
    }
    for fork in &forks {
        fork.works();
        fork.check();
    }
    agent.works();
    agent.check();
    // Each has volumes of its own.
    let one = &forks[0];
    one.ask("pause");
    forks[1].works();
    agent.ask("rm");
    one.ask("resume");
    one.works();
    one.check();
    for fork in &forks {
        fork.ask("rm");
    }
}

#[test]
fn only_what_is_committed_is_forked() {
    let agent = Agent::running("Full", "Data");
    let paused = agent.ask("pause");
    let complaint = agent.store.refused(5, ["actor", "fork", paused["capture"].as_str().unwrap(), "b"]);
    assert!(complaint.contains("only that can be forked"), "{complaint}");
    let committed = agent.ask("commit");
    assert_eq!((committed["state"].as_str(), committed["scope"].as_str()), (Some("paused"), Some("Data")));
    agent.store.ok(["actor", "fork", committed["capture"].as_str().unwrap(), "b"]);
    let fork = agent.other("b");
    fork.ask("resume");
    fork.works();
    fork.check();
}
