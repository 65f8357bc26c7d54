use std::fs;

use super::agent::{Agent, Class};

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

/// Memory belongs to what saved it; what is in volumes does not.
#[test]
fn data_goes_from_one_class_into_the_other_and_memory_does_not() {
    let agent = Agent::running("Full", "Full");
    let store = &agent.store;
    let file = |class: Class| {
        let file = store.side_dir().join("other.json");
        fs::write(&file, class.template(&agent.commits, "Full", "Full").to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (machines, containers) = (file(Class::Microvm), file(Class::Gvisor));
    let full = agent.ask("commit")["capture"].as_str().unwrap().to_owned();
    let complaint = store.refused(5, ["actor", "fork", &full, "b", "-f", &machines]);
    assert!(complaint.contains("class"), "{complaint}");
    let before = agent.written();
    store.ok(["actor", "fork", &full, "b", "-f", &machines, "--scope", "Data"]);
    let machine = agent.other("b");
    assert_eq!(machine.show()["sandbox_class"], "microvm");
    machine.ask("resume");
    machine.works();
    machine.check();
    assert!(machine.written() >= before);
    let data = machine.ask_with("commit", &["--scope", "Data"])["capture"].as_str().unwrap().to_owned();
    let before = machine.written();
    machine.ask("rm");
    store.ok(["actor", "fork", &data, "c", "-f", &containers]);
    let container = agent.other("c");
    container.ask("resume");
    container.works();
    container.check();
    assert!(container.written() >= before.saturating_sub(1));
    agent.works();
    agent.check();
}
