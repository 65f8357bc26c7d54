//! What does not belong together is not restored.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use durdir_tests::support::*;

use super::agent::{Agent, LIMIT, template};
use super::shims;

/// The largest file of a memory image.
fn image_of(capture: &Path) -> PathBuf {
    let files = fs::read_dir(capture.join("image")).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).expect("memory has files")
}

#[test]
fn memory_that_was_touched_is_refused_and_the_actor_stays_paused() {
    let agent = Agent::running("Full", "Full");
    agent.store.expect_alarm("is damaged");
    agent.ask("pause");
    let image = image_of(&agent.capture_files());
    let whole = fs::read(&image).unwrap();
    fs::write(&image, &whole[..whole.len() - 1]).unwrap();
    let complaint = agent.store.refused(6, ["actor", "resume", "a"]);
    assert!(complaint.contains("is damaged") && complaint.contains("bytes, not"), "{complaint}");
    let mut other = whole.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    fs::write(&image, other).unwrap();
    let complaint = agent.store.refused(6, ["actor", "resume", "a"]);
    assert!(complaint.contains("is not what was saved"), "{complaint}");
    assert_eq!(agent.state(), "paused");
    fs::write(&image, whole).unwrap();
    agent.ask("resume");
    agent.works();
    agent.check();
}

#[test]
fn a_manifest_that_was_edited_or_comes_from_another_pause_is_refused() {
    let agent = Agent::running("Full", "Full");
    agent.store.expect_alarm("is damaged");
    agent.ask("pause");
    let first = agent.store.side_dir().join("first");
    let manifest = agent.capture_files().join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let edited = text.replacen("\"epoch\": ", "\"epoch\": 9", 1);
    assert_ne!(edited, text);
    fs::write(&manifest, edited).unwrap();
    let complaint = agent.store.refused(6, ["actor", "resume", "a"]);
    assert!(complaint.contains("manifest is not the one that was written"), "{complaint}");
    fs::write(&manifest, text).unwrap();
    run(
        std::process::Command::new("cp").arg("-a").arg(agent.capture_files()).arg(&first),
        super::agent::LIMIT,
    )
    .ok();
    agent.ask("resume");
    agent.works();
    agent.ask("pause");
    let second = agent.capture_files();
    fs::remove_dir_all(&second).unwrap();
    fs::rename(&first, &second).unwrap_or_else(|_| {
        run(std::process::Command::new("cp").arg("-a").arg(&first).arg(&second), super::agent::LIMIT).ok();
    });
    agent.store.refused(6, ["actor", "resume", "a"]);
    assert_eq!(agent.state(), "paused");
}

#[test]
fn what_a_capture_needs_cannot_be_taken_away() {
    let agent = Agent::running("Full", "Full");
    // Whether it is mounted or not.
    let owned = agent.store.refused(4, ["volume", "rm", "a.home"]);
    assert!(owned.contains("belongs to actor a"), "{owned}");
    agent.ask("pause");
    let snapshots = agent.store.json(["snapshot", "ls", "a.home"]);
    let snapshot = snapshots.as_array().unwrap().last().unwrap()["snapshot"].as_str().unwrap().to_owned();
    let mountpoint = agent.store.mountpoint();
    for args in [
        vec!["volume", "rm", "a.home"],
        vec!["volume", "rename", "a.home", "b"],
        vec!["volume", "rollback", "a.home", &snapshot],
        vec!["snapshot", "rm", &snapshot],
        vec!["mount", "a.home", mountpoint.to_str().unwrap()],
    ] {
        let complaint = agent.store.refused(4, &args);
        assert!(complaint.contains("belongs to actor a"), "{args:?}: {complaint}");
    }
    // Looking is free.
    let seen = agent.store.mount_snapshot(&snapshot);
    assert!(seen.text("log").lines().count() > 5);
    seen.unmount();
    agent.ask("resume");
    agent.works();
}

#[test]
fn the_volumes_of_a_commit_keep_their_quota_and_those_of_an_actor_may_be_given_more() {
    let agent = Agent::created("Full", "Data");
    let store = &agent.store;
    let commit = agent.ask("commit")["capture"].as_str().unwrap().to_owned();
    let volumes = store.json(["volume", "ls"]);
    let published: Vec<&str> =
        volumes.as_array().unwrap().iter().filter_map(|volume| volume["name"].as_str()).collect();
    let published: Vec<&str> = published.into_iter().filter(|name| name.starts_with("_commit.")).collect();
    assert_eq!(published.len(), 2, "{volumes}");
    for volume in published {
        for limit in [["--bytes", "1"], ["--inodes", "none"]] {
            let complaint = store.refused(4, [&["volume", "set-quota", volume][..], &limit].concat());
            assert!(complaint.contains("belongs to actor captures"), "{complaint}");
        }
        assert!(store.volume(volume)["quota_bytes"].is_null());
    }
    store.ok(["volume", "set-quota", "a.home", "--bytes", "1MiB"]);
    store.ok(["actor", "fork", &commit, "b"]);
    assert_eq!(store.volume("a.home")["quota_bytes"], MIB);
    assert!(store.volume("b.home")["quota_bytes"].is_null());
}

#[test]
fn the_mount_of_a_running_actor_is_not_for_others_to_take_away() {
    let store = Store::new();
    // What a pause leaves mounted goes after its answer: here so late that whoever asks comes before it.
    run(store.command().env("DURDIR_FAILPOINTS", "actor.tidy:sleep=500").args(["volume", "ls"]), LIMIT).ok();
    let agent = Agent::created_from(store, |commits| template(commits, "Full", "Full")).started();
    let store = &agent.store;
    let place = agent.path("home", "");
    let begun = Instant::now();
    for target in ["a.home".as_ref(), place.as_os_str()] {
        let complaint = store.refused(4, ["umount".as_ref(), target]);
        assert!(complaint.contains("belongs to actor a; `durdir actor pause`"), "{complaint}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    agent.works();
    // What others have mounted is theirs to unmount.
    store.snapshot("a.home", "seen");
    let seen = store.mount_snapshot("a.home@seen");
    store.umount("a.home@seen");
    drop(seen);
    agent.works();
    agent.ask("pause");
    store.refused(3, ["umount", "a.home"]);
    agent.ask("resume");
    agent.works();
    agent.check();
}

#[test]
fn nobody_else_sees_what_an_actor_leaves_on_the_disk() {
    let agent = Agent::running("Full", "Full");
    agent.ask("pause");
    let captures = agent.capture_files();
    for path in [agent.store.path().join("actors"), captures.clone(), captures.join("image")] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o77, 0, "{}", path.display());
    }
    let manifest = fs::metadata(captures.join("manifest.json")).unwrap();
    assert_eq!(manifest.permissions().mode() & 0o777, 0o600);
}

/// A package is upgraded under a sandbox that runs on: what saves it is the old version, and what asks for it the new one.
#[test]
fn memory_is_not_saved_by_two_versions_of_a_runtime() {
    let side = tempfile::tempdir().unwrap();
    let version = side.path().join("version");
    fs::write(&version, "runsc version one\n").unwrap();
    let script = format!("[ \"$1\" != --version ] || exec cat {}\nexec $REAL \"$@\"\n", version.display());
    let store = shims::store_with(&[("runsc", script)]);
    let agent = Agent::created_from(store, |commits| template(commits, "Full", "Data")).started();
    fs::write(&version, "runsc version two\n").unwrap();
    let complaint = agent.store.refused(5, ["actor", "pause", "a"]);
    assert!(complaint.contains("runs on version one") && complaint.contains("version two"), "{complaint}");
    assert!(complaint.contains("scope Data"), "{complaint}");
    assert_eq!(agent.state(), "running");
    agent.works();
    agent.ask_with("pause", &["--scope", "Data"]);
    agent.ask("resume");
    agent.works();
    // Of the new one.
    agent.ask("pause");
    let manifest = fs::read_to_string(agent.capture_files().join("manifest.json")).unwrap();
    assert!(manifest.contains("\"two\""), "{manifest}");
    agent.ask("resume");
    agent.works();
    agent.check();
}
