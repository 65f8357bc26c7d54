use std::collections::BTreeMap;

use serde_json::Value;

use super::agent::{Agent, template};

/// How long each phase took, in milliseconds.
#[derive(Default)]
struct Times(BTreeMap<String, Vec<f64>>);

impl Times {
    fn add(&mut self, operation: &str, answer: &Value) {
        for (phase, took) in answer["phases_ms"].as_object().unwrap() {
            self.0.entry(format!("{operation:12} {phase}")).or_default().push(took.as_f64().unwrap());
        }
        let of = |names: &[&str]| -> f64 {
            names.iter().filter_map(|name| answer["phases_ms"][name].as_f64()).sum()
        };
        let shares = [
            ("(the runtime's)", of(&["quiesce", "save", "tear_down", "resume", "ready"])),
            ("(ours)", of(&["verify", "drain", "cut", "bind", "mount"])),
        ];
        for (share, took) in shares {
            self.0.entry(format!("{operation:12} {share}")).or_default().push(took);
        }
    }

    fn print(&mut self) {
        println!("{:28} {:>9} {:>9}", "", "p50 ms", "p99 ms");
        for (phase, times) in &mut self.0 {
            times.sort_by(f64::total_cmp);
            let at = |percent: usize| times[(times.len() * percent).div_ceil(100).saturating_sub(1)];
            println!("{phase:28} {:9.2} {:9.2}", at(50), at(99));
        }
    }
}

/// `scripts/actor-cycles` is the long form.
#[test]
fn captures_of_both_scopes_take_turns() {
    let cycles = std::env::var("DURDIR_CYCLES").map_or(6, |cycles| cycles.parse().unwrap());
    let agent = Agent::running("Full", "Full");
    let mut times = Times::default();
    for cycle in 0..cycles {
        let scope = ["Full", "Data"][cycle % 2];
        let paused = agent.ask_with("pause", &["--scope", scope]);
        assert_eq!(paused["scope"], scope);
        times.add(&format!("pause {scope}"), &paused);
        times.add(&format!("resume {scope}"), &agent.ask("resume"));
        agent.works();
        agent.check();
    }
    println!("{cycles} cycles, {} numbers without a gap", agent.written());
    times.print();
}

#[test]
fn a_paused_program_goes_on_where_it_was() {
    let agent = Agent::running("Full", "Full");
    for _ in 0..5 {
        let paused = agent.ask("pause");
        assert_eq!((paused["state"].as_str(), paused["scope"].as_str()), (Some("paused"), Some("Full")));
        for phase in ["quiesce", "drain", "save", "cut", "bind", "total"] {
            assert!(paused["phases_ms"][phase].as_f64().unwrap() >= 0.0, "{paused}");
        }
        assert!(!agent.path("home", "log").exists(), "nothing is mounted any more");
        let resumed = agent.ask("resume");
        assert_eq!(resumed["state"], "running");
        agent.works();
        agent.check();
    }
    let shown = agent.show();
    assert_eq!(shown["last_capture"]["kind"], "pause");
    assert!(shown["pid"].as_u64().is_some(), "{shown}");
}

/// Not every version of gVisor can save a file that is open and has no name any more.
#[test]
fn a_program_that_cannot_be_saved_runs_on_as_before() {
    let agent = Agent::created_from(|commits| {
        let mut template = template(commits, "Full", "Full");
        template["containers"][0]["env"][1]["value"] = "yes".into();
        template
    });
    agent.ask("start");
    agent.works();
    let paused = agent.store.durdir(["actor", "pause", "a"]);
    if paused.status.success() {
        agent.ask("resume");
    } else {
        agent.store.expect_alarm("runsc checkpoint");
        assert_eq!(agent.state(), "running");
        assert_eq!(agent.store.json(["snapshot", "ls"]), serde_json::json!([]));
        // What needs no memory is not harmed.
        agent.works();
        agent.ask_with("commit", &["--scope", "Data"]);
    }
    agent.works();
    agent.check();
    agent.ask("rm");
}

#[test]
fn a_capture_of_data_starts_the_program_on_its_volumes() {
    let agent = Agent::running("Data", "Data");
    for _ in 0..2 {
        let paused = agent.ask("pause");
        assert_eq!(paused["scope"], "Data");
        assert!(paused["phases_ms"].get("save").is_none(), "{paused}");
        agent.ask("resume");
        agent.works();
        agent.check();
    }
}

#[test]
fn a_suspended_program_goes_on_from_its_commit() {
    let agent = Agent::running("Full", "Full");
    let suspended = agent.ask("suspend");
    assert_eq!(suspended["state"], "suspended");
    let published = agent.commits.join(suspended["capture"].as_str().unwrap());
    assert!(published.join("manifest.json").exists());
    assert!(!agent.capture_files().exists(), "what is committed is not kept twice");
    agent.ask("resume");
    agent.works();
    agent.check();
}

#[test]
fn a_paused_actor_is_suspended_with_less_and_is_not_woken() {
    let agent = Agent::running("Full", "Full");
    agent.ask("pause");
    let suspended = agent.ask_with("suspend", &["--scope", "Data"]);
    assert_eq!((suspended["state"].as_str(), suspended["scope"].as_str()), (Some("suspended"), Some("Data")));
    assert_eq!(agent.show()["pid"], serde_json::Value::Null);
    agent.ask("resume");
    agent.works();
    agent.check();
}

#[test]
fn the_daemon_may_end_and_come_back_between_pause_and_resume() {
    let agent = Agent::running("Full", "Data");
    agent.ask("pause");
    agent.store.stop_daemon();
    assert_eq!(agent.state(), "paused");
    agent.ask("resume");
    agent.works();
    // An end while it runs pauses it.
    agent.store.stop_daemon();
    assert_eq!(agent.state(), "paused");
    agent.ask("resume");
    agent.works();
    agent.check();
}

#[test]
fn an_actor_goes_with_everything_that_is_not_committed() {
    let agent = Agent::running("Full", "Full");
    let told = agent.ask_with("rm", &["--dry-run"]);
    assert_eq!(told["volumes"].as_array().unwrap().len(), 2);
    assert_eq!(agent.state(), "running");
    agent.ask("rm");
    assert!(!agent.store.path().join("actors/a").exists());
    assert_eq!(agent.store.json(["volume", "ls"]), serde_json::json!([]));
    agent.store.refused(3, ["actor", "show", "a"]);
}
