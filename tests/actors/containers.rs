//! Several containers in one sandbox, with a volume that they share.

use std::fs;
use std::path::Path;

use durdir_tests::support::{Store, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::agent::{Agent, LIMIT, template};

/// Counts until it is told to stop.
const ASIDE: &str = "while [ ! -e /shared/stop ]; do echo x >> /shared/aside; sleep 0.02; done";

fn with_another(commits: &Path) -> Value {
    let mut template = template(commits, "Full", "Full");
    template["containers"].as_array_mut().unwrap().push(json!({
        "name": "aside",
        "rootfs": "/",
        "command": ["/bin/sh", "-c", ASIDE],
        "volumeMounts": [{"name": "home", "mountPath": "/shared"}],
    }));
    template
}

impl Agent {
    /// Returns how far the other container has counted.
    fn aside(&self) -> u64 {
        fs::metadata(self.path("home", "aside")).map_or(0, |file| file.len())
    }

    fn works_aside(&self) {
        let before = self.aside();
        eventually("the other container counts", LIMIT, || (self.aside() > before).then_some(()));
    }
}

#[test]
fn containers_of_one_sandbox_are_captured_together_and_one_may_end_alone() {
    let agent = Agent::created_from(Store::new(), with_another).started();
    agent.store.expect_alarm("container aside ended, and it was started anew");
    for _ in 0..3 {
        agent.works_aside();
        agent.ask("pause");
        agent.ask("resume");
        agent.works();
        agent.check();
    }
    agent.works_aside();
    fs::write(agent.path("home", "stop"), "").unwrap();
    eventually("the other container has ended", LIMIT, || {
        let paused = agent.store.durdir(["actor", "pause", "a", "--scope", "Data"]);
        if paused.status.success() {
            agent.ask("resume");
            return None;
        }
        assert_eq!(paused.code(), Some(5), "{paused}");
        assert!(paused.complaint().contains("container aside has ended"), "{paused}");
        Some(())
    });
    // What still runs goes on, whoever dies meanwhile.
    agent.works();
    let worker = agent.show()["pid"].clone();
    agent.store.kill_worker(Signal::SIGKILL);
    agent.works();
    assert_eq!((agent.state().as_str(), &agent.show()["pid"]), ("running", &worker));
    agent.store.refused(5, ["actor", "commit", "a"]);
    fs::remove_file(agent.path("home", "stop")).unwrap();
    agent.ask("start");
    agent.works_aside();
    agent.works();
    agent.check();
    agent.ask("pause");
}
