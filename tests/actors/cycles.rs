use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use durdir_tests::support::{MIB, Store, eventually};

use super::agent::{Agent, Class, LIMIT, template, unlinking};
use super::ballast::{Ballast, tar};
use super::disk::Disk;
use super::stolen::Ticks;
use super::times::Times;

/// Pauses and resumes an actor, with its memory and without by turns. `DURDIR_CYCLES` says how often, `DURDIR_FILES` and `DURDIR_BYTES` what a
/// volume is to hold for as many more; `scripts/actor-cycles` is the long form.
fn take_turns(class: Class, cycles: usize) {
    let cycles = std::env::var("DURDIR_CYCLES").map_or(cycles, |cycles| cycles.parse().unwrap());
    let agent = Agent::running_in(class, "Full", "Full");
    measure(&agent, cycles);
    println!("{cycles} cycles in class {class:?}, {} numbers without a gap", agent.written());
    let Some(ballast) = Ballast::of_environment() else { return };
    let begun = Instant::now();
    ballast.put(&agent.path("home", "ballast"));
    println!("{ballast} put into a volume in {:.0?}", begun.elapsed());
    // Gigabytes that are still being written out are not what is measured.
    let begun = Instant::now();
    nix::unistd::sync();
    println!("on the disk after {:.1?} more", begun.elapsed());
    let times = measure(&agent, cycles);
    println!("{cycles} more cycles, {} numbers without a gap", agent.written());
    if class == Class::Gvisor {
        let tarred = tar(&agent, "home");
        agent.works();
        agent.check();
        let seconds = (tarred.pause + tarred.tar + tarred.resume).as_secs_f64();
        let ratio = |operation: &str| seconds * 1e3 / times.ours(operation);
        println!(
            "runsc pause {:.1?}, tar {:.1?} ({} MiB), runsc resume {:.1?}: {:.0} times what is ours of a pause Full, {:.0} of Data",
            tarred.pause,
            tarred.tar,
            tarred.bytes / MIB,
            tarred.resume,
            ratio("pause Full"),
            ratio("pause Data"),
        );
        // Whatever was looked at is let go of when the volume is unmounted.
        println!("a pause after that, {}", agent.ask_with("pause", &["--scope", "Data"])["phases_ms"]);
    }
}

/// Pauses and resumes an actor so many times, and prints how long that took.
fn measure(agent: &Agent, cycles: usize) -> Times {
    let begun = Ticks::now();
    let mut times = Times::default();
    let mut disk = Disk::at(&agent.store.side_dir());
    for cycle in 0..cycles {
        let scope = ["Full", "Data"][cycle % 2];
        let paused = agent.ask_with("pause", &["--scope", scope]);
        assert_eq!(paused["scope"], scope);
        times.add(&format!("pause {scope}"), &paused);
        let captured = agent.capture_files();
        let image = (scope == "Full").then(|| captured.join("image"));
        if image.is_some() {
            times.add_image(&captured);
        }
        times.add_disk(&format!("pause {scope}"), disk.take(image.as_deref()));
        times.add(&format!("resume {scope}"), &agent.ask("resume"));
        agent.works();
        agent.check();
    }
    times.print();
    println!("{:28} {:9.1}", "stolen of the CPUs, %", begun.stolen_since());
    times
}

#[test]
fn captures_of_both_scopes_take_turns() {
    take_turns(Class::Gvisor, 6);
}

#[test]
fn captures_of_a_machine_take_turns() {
    take_turns(Class::Microvm, 3);
}

#[test]
fn start_and_resume_return_when_the_program_answers() {
    let agent = Agent::created("Full", "Full");
    agent.ask("start");
    // It answers from its first number on, and says so before its answer leaves.
    assert!(agent.written() > 0 && agent.answered() > 0);
    for scope in ["Full", "Data"] {
        let before = agent.answered();
        agent.ask_with("pause", &["--scope", scope]);
        let resumed = agent.ask("resume");
        assert!(resumed["phases_ms"]["ready"].as_f64().is_some(), "{resumed}");
        assert!(agent.answered() > before, "{scope}");
    }
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
        eventually("nothing is mounted any more", LIMIT, || {
            (!agent.path("home", "log").exists()).then_some(())
        });
        let resumed = agent.ask("resume");
        assert_eq!(resumed["state"], "running");
        agent.works();
        agent.check();
    }
    let shown = agent.show();
    assert_eq!(shown["last_capture"]["kind"], "pause");
    assert!(shown["pid"].as_u64().is_some(), "{shown}");
}

/// What all of these tests rest upon.
#[test]
fn a_program_notices_what_its_memory_does_not_know() {
    for class in [Class::Gvisor, Class::Microvm] {
        let agent = Agent::running_in(class, "Full", "Full");
        agent.store.expect_alarm("an actor has ended");
        let mut log = fs::File::options().append(true).open(agent.path("home", "log")).unwrap();
        log.write_all(b"1\n").unwrap();
        drop(log);
        eventually("it gives up", LIMIT, || (agent.state() == "exited").then_some(()));
    }
}

/// Not every version of gVisor can save a file that is open and has no name any more.
#[test]
fn a_program_that_cannot_be_saved_runs_on_as_before() {
    let template = |commits: &Path| unlinking(template(commits, "Full", "Full"));
    let agent = Agent::created_from(Store::new(), template).started();
    let paused = agent.store.durdir(["actor", "pause", "a"]);
    if paused.status.success() {
        agent.ask("resume");
    } else {
        agent.store.expect_alarm("runsc checkpoint");
        assert_eq!(agent.state(), "running");
        let left = agent.store.json(["snapshot", "ls"]);
        assert!(
            left.as_array().unwrap().iter().all(|one| one["epoch"] == 1),
            "how the volumes began: {left}"
        );
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
fn a_dry_run_tells_what_would_be_captured_and_lost() {
    let agent = Agent::running("Full", "Data");
    let snapshots = agent.store.json(["snapshot", "ls"]);
    let told = |what: &str, options: &[&str]| {
        let told = agent.ask_with(what, &[options, &["--dry-run"]].concat());
        assert_eq!(told["dry_run"], true);
        let lost = told["lost"].as_array().unwrap().iter().map(|part| part.as_str().unwrap().to_owned());
        (told["scope"].as_str().unwrap().to_owned(), lost.collect::<Vec<_>>().join(" "))
    };
    let is = |scope: &str, lost: &str| (scope.to_owned(), lost.to_owned());
    assert_eq!(told("pause", &[]), is("Full", ""));
    assert_eq!(told("pause", &["--scope", "Data"]), is("Data", "memory"));
    assert_eq!(told("pause", &["--scope", "None"]), is("None", "memory volumes"));
    assert_eq!(told("suspend", &[]), is("Data", "memory"));
    assert_eq!(told("commit", &[]), is("Data", ""));
    let complaint = agent.store.refused(5, ["actor", "suspend", "a", "--scope", "Full", "--dry-run"]);
    assert!(complaint.contains("cannot be widened"), "{complaint}");
    assert_eq!((agent.state(), agent.store.json(["snapshot", "ls"])), ("running".to_owned(), snapshots));
    agent.works();
    agent.check();
    agent.ask("pause");
    assert_eq!(told("pause", &["--scope", "Data"]), is("Data", "memory"));
    let complaint = agent.store.refused(4, ["actor", "pause", "a", "--dry-run"]);
    assert!(complaint.contains("paused already"), "{complaint}");
    assert_eq!(agent.ask_with("rm", &["--dry-run"])["captures"].as_array().unwrap().len(), 1);
    // What would be refused is refused.
    agent.store.snapshot("a.home", "seen");
    let mounted = agent.store.mount_snapshot("a.home@seen");
    let complaint = agent.store.refused(4, ["actor", "rm", "a", "--dry-run"]);
    assert!(complaint.contains("a.home"), "{complaint}");
    drop(mounted);
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
