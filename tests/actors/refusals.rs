//! What is wrong is told before anything is done, with the documented exit code and a remedy.

use std::fs;

use durdir_tests::support::*;
use serde_json::json;

use super::agent::{Agent, template};
use super::shims;

#[test]
fn what_makes_no_sense_is_told_in_one_line() {
    let agent = Agent::running("Full", "Data");
    let store = &agent.store;
    for (code, args, expected) in [
        (4, vec!["actor", "start", "a"], "it runs already"),
        (4, vec!["actor", "resume", "a"], "it runs already"),
        (3, vec!["actor", "pause", "b"], "actor b does not exist"),
        (5, vec!["actor", "commit", "a", "--scope", "Full"], "cannot be widened to Full"),
        (5, vec!["actor", "commit", "a", "--scope", "None"], "would hold nothing"),
        (3, vec!["actor", "fork", "nonsense", "b"], "no committed capture nonsense"),
        (2, vec!["actor", "pause", "a", "--scope", "full"], ""),
    ] {
        let complaint = store.refused(code, &args);
        assert!(complaint.contains(expected), "{args:?}: {complaint}");
    }
    assert_eq!(agent.state(), "running");
    agent.works();
    agent.ask_with("pause", &["--scope", "Data"]);
    store.refused(4, ["actor", "pause", "a"]);
    agent.ask("resume");
    agent.works();
}

#[test]
fn of_two_pauses_at_once_one_is_done() {
    let agent = Agent::running("Full", "Data");
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let pauses: Vec<_> =
            (0..2).map(|_| scope.spawn(|| agent.store.durdir(["actor", "pause", "a"]))).collect();
        pauses.into_iter().map(|pause| pause.join().unwrap()).collect()
    });
    let mut codes: Vec<_> = outcomes.iter().map(|outcome| outcome.code()).collect();
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(4)], "{} {}", outcomes[0], outcomes[1]);
    assert_eq!(agent.state(), "paused");
    agent.ask("resume");
    agent.works();
    agent.check();
}

#[test]
fn an_id_that_was_used_for_another_request_is_refused() {
    let agent = Agent::running("Full", "Data");
    let with_id = |what: &str| {
        ["--request-id", "0194c1f0-6f2a-7b3c-8d4e-5f6071829306", "actor", what, "a"].map(str::to_owned)
    };
    agent.store.ok(with_id("pause"));
    let complaint = agent.store.refused(4, with_id("resume"));
    assert!(complaint.contains("used for another request"), "{complaint}");
    assert_eq!(agent.state(), "paused");
    agent.ask("resume");
    agent.works();
}

#[test]
fn what_never_gets_ready_is_not_started() {
    let store = Store::new();
    let agent = Agent::created_from(store, |commits| {
        let mut template = template(commits, "Full", "Data");
        template["containers"][0]["readyz"] = json!({"httpGet": {"port": 8081}, "timeoutSeconds": 1});
        template
    });
    agent.store.expect_alarm("did not end in time");
    let complaint = agent.store.refused(7, ["actor", "start", "a"]);
    assert!(complaint.contains("8081"), "{complaint}");
    assert_eq!(agent.state(), "created");
    assert_eq!(agent.show()["pid"], serde_json::Value::Null);
    agent.ask("rm");
}

#[test]
fn all_errors_of_a_template_are_told_however_many() {
    let store = Store::new();
    let unknown: serde_json::Map<_, _> =
        (0..6).map(|number| (format!("aFieldThatNobodyKnows{number}"), json!("x"))).collect();
    let containers: Vec<_> = (0..10)
        .map(|number| {
            let mut container =
                json!({"name": format!("c{number}"), "rootfs": "/", "command": ["/bin/true"]});
            container.as_object_mut().unwrap().extend(unknown.clone());
            container
        })
        .collect();
    let document = json!({"containers": containers, "snapshotsConfig": {"location": "file:///commits"}});
    let file = store.side_dir().join("wrong.json");
    fs::write(&file, document.to_string()).unwrap();
    let complaint = store.refused(5, ["actor", "create", "-f", file.to_str().unwrap()]);
    for path in ["containers[0].aFieldThatNobodyKnows0: ", "containers[9].aFieldThatNobodyKnows5: "] {
        assert!(complaint.contains(path), "{complaint}");
    }
    // More than that is cut short by the template's reader, and fits too.
    let many: serde_json::Map<_, _> =
        (0..2000).map(|number| (format!("{number}{}", "x".repeat(400)), json!(1))).collect();
    fs::write(&file, serde_json::Value::from(many).to_string()).unwrap();
    let complaint = store.refused(5, ["actor", "create", "-f", file.to_str().unwrap()]);
    assert!(complaint.contains("more problems were found"), "{}", complaint.len());
}

/// An orchestrator's templates name an image, and nothing of this host.
#[test]
fn what_a_template_lacks_to_be_started_is_told_before_anything_is_done() {
    let store = Store::new();
    let file = store.side_dir().join("bare.json");
    let document = json!({
        "volumes": [{"name": "home", "durableDir": {}}],
        "containers": [{"name": "main", "volumeMounts": [{"name": "home", "mountPath": "/home"}]}],
        "snapshotsConfig": {"location": "file:///commits"},
    });
    fs::write(&file, document.to_string()).unwrap();
    let path = file.to_str().unwrap();
    let validated = store.json(["actor", "validate", path]);
    assert_eq!(
        (&validated["valid"], &validated["warnings"][0]["path"]),
        (&json!(true), &json!("containers[0].rootfs"))
    );
    let made = store.durdir(["actor", "create", "-f", path, "--id", "a"]).ok();
    let told = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(told.contains("warning: containers[0].rootfs: is needed to start it"), "{told}");
    let complaint = store.refused(5, ["actor", "start", "a"]);
    assert!(complaint.contains("containers.main."), "{complaint}");
    assert_eq!(store.json(["actor", "show", "a"])["state"], "created");
    store.ok(["actor", "rm", "a"]);
}

#[test]
fn a_removal_that_is_asked_for_again_is_answered_as_before() {
    let agent = Agent::created("Full", "Data");
    let removal =
        ["--request-id", "0194c1f0-6f2a-7b3c-8d4e-5f6071829305", "actor", "rm", "a"].map(str::to_owned);
    let removed = agent.store.json(&removal);
    assert!(removed["volumes"].as_array().unwrap().contains(&json!("a.home")), "{removed}");
    assert_eq!(agent.store.json(&removal), removed);
}

#[test]
fn an_actor_is_made_once_and_only_with_a_good_name_and_template() {
    let agent = Agent::created("Full", "Data");
    let store = &agent.store;
    let file = store.side_dir().join("agent.json");
    let path = file.to_str().unwrap();
    fs::write(&file, template(&agent.commits, "Full", "Data").to_string()).unwrap();
    store.refused(4, ["actor", "create", "-f", path, "--id", "a"]);
    store.refused(5, ["actor", "create", "-f", path, "--id", "A/../b"]);
    let made = store.json(["actor", "create", "-f", path]);
    assert!(made["id"].as_str().unwrap().starts_with("actor-"));
    assert_eq!(made["state"], "created");
    let id =
        ["--request-id", "0194c1f0-6f2a-7b3c-8d4e-5f6071829304", "actor", "create", "-f", path, "--id", "c"];
    assert_eq!(store.json(id), store.json(id));
    fs::write(&file, template(&agent.commits, "Data", "Full").to_string()).unwrap();
    let complaint = store.refused(5, ["actor", "create", "-f", path, "--id", "d"]);
    assert!(complaint.contains("onCommit must be a subset of onPause"), "{complaint}");
    let shown = store.json(["actor", "show", "c"]);
    fs::write(&file, template(&agent.commits, "Full", "Data").to_string()).unwrap();
    assert_eq!(shown["template"], store.json(["actor", "validate", path])["template"]);
    store.refused(3, ["actor", "create", "-f", "/nowhere/x.yaml"]);
    assert_eq!(store.json(["actor", "ls"]).as_array().unwrap().len(), 3);
}

/// Starts an actor in a daemon that finds no programs but these, and returns what it complains about.
fn complaint_with(programs: &[&str]) -> String {
    let store = Store::new();
    let directory = store.side_dir();
    for name in programs {
        std::os::unix::fs::symlink(shims::real(name), directory.join(name)).unwrap();
    }
    shims::start(&store, directory.to_str().unwrap());
    let agent = Agent::created_from(store, |commits| template(commits, "Data", "Data"));
    let complaint = agent.store.refused(5, ["actor", "start", "a"]);
    assert_eq!(agent.state(), "created");
    complaint
}

#[test]
fn a_tool_that_is_missing_is_told_by_its_own_name() {
    let all = ["runsc", "ip", "sh", "setsid", "unshare", "mount", "find", "xargs"];
    for missing in ["runsc", "unshare", "mount", "find", "xargs"] {
        let others: Vec<_> = all.into_iter().filter(|name| *name != missing).collect();
        let complaint = complaint_with(&others);
        assert!(complaint.contains(&format!("{missing} is not installed: ")), "{missing}: {complaint}");
    }
}
