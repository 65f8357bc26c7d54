//! Manifests that are found: of a worker that died, and of a host that lost power.

use std::path::{Path, PathBuf};

use durdir_fs::ids::Epoch;
use durdir_fs::store::{ActorChange, Durability};

use super::fake::Fault;
use super::protocol::{COMMIT, PAUSE, SUSPEND, bring_back, dies, full, number_of};
use super::*;
use crate::actor::state::{CaptureStep, Operation};

/// A node whose worker died when a manifest had its name and nobody had taken note of that, and where the manifest is.
fn dead_with_a_manifest() -> (Node, PathBuf) {
    dead_at("actor.manifest")
}

fn dead_at(step: &'static str) -> (Node, PathBuf) {
    let node = full();
    node.host.plan(Fault::DieAt(number_of(full, PAUSE, step)));
    assert!(dies(&node, PAUSE));
    let capture = node.dir.path().join("store/actors/a/captures").join(node.begun().unwrap());
    (node, capture.join("manifest.json"))
}

#[test]
fn a_host_that_lost_power_after_the_manifest_has_the_capture() {
    for ask in [PAUSE, SUSPEND, COMMIT] {
        let mut node = full();
        node.host.plan(Fault::DieAt(number_of(full, ask, "actor.manifest")));
        assert!(dies(&node, ask));
        // The record as it was when the log was synced last: by the cut.
        let mut actor = node.actor();
        let Some(Operation::Capture(capturing)) = &mut actor.document.operation else { panic!("{actor:?}") };
        assert_eq!(capturing.step, CaptureStep::Bind);
        let cut = std::mem::take(&mut capturing.cut);
        capturing.step = CaptureStep::Cut;
        let record = actor.encode();
        let change = ActorChange { actors: vec![("a", Some(&record))], captures: Vec::new() };
        node.store.change_actors(&change, Durability::Disk, Receipt::none(), &()).unwrap();
        node.host.reboot();
        node.restart();
        node.check("after the loss of power");
        let standing = node.standing();
        if ask == COMMIT {
            // What ran is lost with the host, and the commit is not.
            assert!(matches!(standing, Standing::Exited { .. }), "{standing:?}");
            let commit = node.actor().document.last_capture.unwrap().id;
            node.fork(&commit, "f", None).unwrap();
            node.ask("f", Ask::Resume).unwrap();
        } else {
            assert!(matches!(standing, Standing::Paused | Standing::Suspended), "{standing:?}");
            assert_eq!(node.actor().document.checkpoint.unwrap().volumes, cut);
            node.ask("a", Ask::Resume).unwrap();
        }
        assert_eq!(node.host.counters(), [3], "{ask:?}");
        node.check("gone on");
    }
}

#[test]
fn a_capture_whose_manifest_cannot_be_read_for_a_while_is_kept() {
    let (mut node, manifest) = dead_with_a_manifest();
    let aside = manifest.with_extension("aside");
    std::fs::rename(&manifest, &aside).unwrap();
    std::fs::create_dir(&manifest).unwrap();
    node.restart();
    assert!(node.actor().document.operation.is_some());
    std::fs::remove_dir(&manifest).unwrap();
    std::fs::rename(&aside, &manifest).unwrap();
    node.actors.look(|_| true);
    node.check("readable again");
    assert_eq!(node.standing(), Standing::Paused);
    node.ask("a", Ask::Resume).unwrap();
    assert_eq!(node.host.counters(), [3]);
}

/// A disk may have failed to take what a manifest names, and have told so to nobody but a worker that is dead.
#[test]
fn a_manifest_with_a_mark_is_none_in_this_boot() {
    let (mut node, manifest) = dead_at("actor.written");
    assert!(manifest.exists());
    node.restart();
    node.check("taken back");
    assert_eq!((node.standing(), node.host.counters()), (Standing::Running, vec![3]));
    assert!(!manifest.exists());
    bring_back(&node, "taken back");

    // After a loss of power everything that is there was on the disk.
    let (mut node, manifest) = dead_at("actor.written");
    std::fs::write(manifest.with_file_name("unsynced"), "another boot").unwrap();
    node.host.reboot();
    node.restart();
    node.check("after the loss of power");
    assert_eq!(node.standing(), Standing::Paused);
    node.ask("a", Ask::Resume).unwrap();
    assert_eq!(node.host.counters(), [3]);
}

#[test]
fn a_manifest_that_cannot_be_removed_keeps_nobody_frozen() {
    let (mut node, manifest) = dead_at("actor.written");
    std::fs::remove_file(&manifest).unwrap();
    std::fs::create_dir(&manifest).unwrap();
    node.restart();
    assert!(node.actor().document.operation.is_some());
    node.work(2);
    assert_eq!(node.host.counters(), [5]);
    std::fs::remove_dir(&manifest).unwrap();
    node.actors.look(|_| true);
    node.check("taken back");
    assert_eq!((node.standing(), node.host.counters()), (Standing::Running, vec![5]));
}

#[test]
fn a_manifest_of_something_else_is_not_believed() {
    for (from, to) in
        [("\"actor\": \"a\"", "\"actor\": \"b\""), ("\"volume\": ", "\"volume\": 7"), ("{", "[")]
    {
        let (mut node, manifest) = dead_with_a_manifest();
        let text = std::fs::read_to_string(&manifest).unwrap();
        assert!(text.contains(from));
        std::fs::write(&manifest, text.replacen(from, to, 1)).unwrap();
        node.restart();
        node.check(to);
        assert_eq!((node.standing(), node.host.counters()), (Standing::Running, vec![3]), "{to}");
    }
}

#[test]
fn half_of_a_manifest_after_a_loss_of_power_is_none() {
    for torn in [
        |text: &str| text[..text.len() / 2].to_owned(),
        |_: &str| String::new(),
        |text: &str| "\0".repeat(text.len()),
    ] {
        let (mut node, manifest) = dead_with_a_manifest();
        let text = std::fs::read_to_string(&manifest).unwrap();
        std::fs::write(&manifest, torn(&text)).unwrap();
        node.host.reboot();
        node.restart();
        node.check("torn");
        assert!(matches!(node.standing(), Standing::Exited { .. }));
        bring_back(&node, "torn");
    }
}

/// A host loses power while image, cut and manifest are on their way to the disk, in which they come in any order.
#[test]
fn a_manifest_without_its_memory_after_a_loss_of_power_is_none() {
    for lose in [
        |memory: &Path| std::fs::remove_file(memory),
        |memory: &Path| std::fs::write(memory, ""),
        |memory: &Path| {
            std::fs::metadata(memory).and_then(|m| std::fs::write(memory, vec![0; m.len() as usize]))
        },
    ] {
        let (mut node, manifest) = dead_with_a_manifest();
        lose(&manifest.with_file_name("image").join("memory")).unwrap();
        node.host.reboot();
        node.restart();
        node.check("memory was lost");
        assert!(matches!(node.standing(), Standing::Exited { .. }), "{:?}", node.standing());
        bring_back(&node, "memory was lost");
    }
}

#[test]
fn a_manifest_without_its_cut_after_a_loss_of_power_is_none() {
    for cut_by_another in [false, true] {
        let (_whole, manifest) = dead_with_a_manifest();
        let mut node = full();
        node.host.plan(Fault::DieAt(number_of(full, PAUSE, "actor.cut")));
        assert!(dies(&node, PAUSE));
        let capture = node.dir.path().join("store/actors/a/captures").join(node.begun().unwrap());
        assert_eq!(
            manifest.parent().unwrap().file_name(),
            capture.file_name(),
            "ids are the same in each node"
        );
        for name in ["manifest.json", "image/memory"] {
            std::fs::copy(manifest.with_file_name(name), capture.join(name)).unwrap();
        }
        if cut_by_another {
            // Its epochs end after all, with something else in them.
            node.work(1);
            node.store.cut(&["a.home", "a.db"], None, Receipt::none()).unwrap();
        }
        node.host.reboot();
        node.restart();
        assert!(matches!(node.standing(), Standing::Exited { .. }), "{:?}", node.standing());
        assert!(!capture.exists());
        // What is left but how the volumes began, which is the actor's.
        for snapshot in node.store.snapshots(None).unwrap().iter().filter(|one| one.epoch > Epoch(1)) {
            let called = format!("{}@{}", snapshot.volume, snapshot.epoch);
            node.store.remove_snapshots(&[&called], Receipt::none()).unwrap();
        }
        bring_back(&node, "its cut was lost");
    }
}
