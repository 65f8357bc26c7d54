use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::actor::ActorError;
use crate::exit::one_line;

const PAUSE: Ask = Ask::Capture(CaptureKind::Pause, None);
const COMMIT: Ask = Ask::Capture(CaptureKind::Commit, None);

fn capture(kind: CaptureKind, scope: Scope) -> Ask {
    Ask::Capture(kind, Some(scope))
}

/// Asks for something that is refused before anything is done.
#[track_caller]
fn refused(node: &Node, id: &str, ask: Ask) -> ActorError {
    node.host.calm();
    let before = node.actors.all().len();
    let error = node.ask(id, ask).unwrap_err();
    let events = node.host.events();
    let harmless = ["preflight", "check-save", "target-check"];
    assert!(events.iter().all(|event| harmless.contains(event)), "{error}: {events:?}");
    assert_eq!(node.actors.all().len(), before);
    node.check("refused");
    match error {
        ApiError::Actor(error) => error,
        error => panic!("{error:?}"),
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_paused() {
    let node = Node::running(Scope::Full, Scope::Data);
    let widened = refused(&node, "a", capture(CaptureKind::Commit, Scope::Full));
    assert_eq!(
        widened.to_string(),
        "onCommit of actor a holds Data, and cannot be widened to Full; `--scope Data` takes what there is"
    );
    assert!(matches!(refused(&node, "a", Ask::Start), ActorError::Misplaced { .. }));
    assert!(matches!(refused(&node, "a", Ask::Resume), ActorError::Misplaced { .. }));
    assert!(matches!(refused(&node, "b", PAUSE), ActorError::NotFound { .. }));
    let nothing = capture(CaptureKind::Commit, Scope::None);
    assert!(matches!(refused(&node, "a", nothing), ActorError::NothingToCapture { .. }));
    node.host.exit_all();
    let error = node.ask("a", PAUSE).unwrap_err();
    assert!(error.to_string().contains("container main has ended with status 3"), "{error}");
}

#[test]
fn a_capture_is_narrowed_and_never_widened() {
    let node = Node::running(Scope::Full, Scope::Full);
    node.ask("a", capture(CaptureKind::Pause, Scope::Data)).unwrap();
    let error = refused(&node, "a", Ask::Capture(CaptureKind::Suspend, None));
    assert_eq!(
        error.to_string(),
        "the capture that actor a is paused with holds Data, and cannot be widened to Full; `--scope Data` takes what there is"
    );
    assert!(matches!(refused(&node, "a", COMMIT), ActorError::Widened { .. }));
    let commit = node.ask("a", capture(CaptureKind::Commit, Scope::Data)).unwrap().unwrap().capture.unwrap();
    assert_eq!(node.standing(), Standing::Paused);
    node.check("committed at rest");
    let ApiError::Actor(error) = node.fork(&commit.id, "f", Some(Scope::Full)).unwrap_err() else { panic!() };
    assert!(matches!(error, ActorError::Widened { .. }), "{error}");
}

#[test]
fn volumes_of_an_actor_that_never_ran_can_be_committed() {
    let node = Node::new();
    node.create("a", Scope::Full, Scope::Full);
    let with_memory = capture(CaptureKind::Commit, Scope::Full);
    assert!(matches!(refused(&node, "a", with_memory), ActorError::NothingToCapture { .. }));
    let commit = node.ask("a", COMMIT).unwrap().unwrap().capture.unwrap();
    assert_eq!(commit.scope, Scope::Data);
    node.check("committed");
    assert_eq!(node.standing(), Standing::Created);
    node.fork(&commit.id, "f", None).unwrap();
    node.ask("f", Ask::Resume).unwrap();
    node.check("forked");
}

#[test]
fn only_what_is_committed_is_forked_and_only_into_what_fits() {
    let node = Node::running(Scope::Full, Scope::Full);
    let pause = node.ask("a", PAUSE).unwrap().unwrap().capture.unwrap().id;
    let error = node.fork(&pause, "f", None).unwrap_err().to_string();
    assert!(error.contains("is not committed"), "{error}");
    let error = node.fork("17", "f", None).unwrap_err().to_string();
    assert!(error.contains("there is no committed capture 17"), "{error}");
    let commit = node.ask("a", COMMIT).unwrap().unwrap().capture.unwrap().id;
    for bad in ["", "A", "-a", "a.b", &"x".repeat(64)] {
        assert!(node.fork(&commit, bad, None).is_err(), "{bad:?}");
    }
    let error = node.fork(&commit, "a", None).unwrap_err().to_string();
    assert_eq!(error, "actor a exists already; choose another id");
    let other = |scope| {
        let template = node.template(Scope::Full, Scope::Full, "microvm");
        node.fork_with(&commit, "vm", scope, Some(template))
    };
    let error = other(None).unwrap_err().to_string();
    assert!(error.contains("memory never goes from class gvisor to class microvm"), "{error}");
    // Data never depends on the class.
    other(Some(Scope::Data)).unwrap();
    node.ask("vm", Ask::Resume).unwrap();
    node.check("in another class");
}

/// Where the files of the last pause lie.
fn pause_files(node: &Node) -> PathBuf {
    let id = node.actor().document.last_capture.unwrap().id;
    node.dir.path().join("store/actors/a/captures").join(id)
}

fn paused() -> Node {
    let node = Node::running(Scope::Full, Scope::Full);
    node.ask("a", PAUSE).unwrap();
    node
}

#[test]
fn memory_that_cannot_be_read_is_refused_and_the_actor_stays_paused() {
    let spoilt: [fn(&Path); 2] = [
        |image| std::fs::remove_dir_all(image).unwrap(),
        |image| {
            std::fs::remove_dir_all(image).unwrap();
            std::fs::write(image, "no directory").unwrap();
        },
    ];
    for spoil in spoilt {
        let node = paused();
        spoil(&pause_files(&node).join("image"));
        let error = refused(&node, "a", Ask::Resume);
        assert!(matches!(error, ActorError::Damaged { .. }), "{error}");
        assert_eq!(node.standing(), Standing::Paused);
        // The volumes do not need it.
        node.ask("a", capture(CaptureKind::Pause, Scope::Data)).unwrap();
        node.ask("a", Ask::Resume).unwrap();
        node.check("resumed without memory");
    }
}

#[test]
fn a_capture_that_was_touched_is_refused_and_nothing_is_changed() {
    type Edit = fn(&str) -> String;
    let edits: [(&str, Edit); 4] = [
        ("manifest.json", |text| text.replace("\"epoch\": 2", "\"epoch\": 3")),
        ("manifest.json", |text| text.replace("gvisor", "qemu")),
        ("image/memory", |text| format!("{text}0")),
        ("image/memory", |_| "7".to_owned()),
    ];
    for (file, edit) in edits {
        let node = paused();
        let path = pause_files(&node).join(file);
        let before = std::fs::read_to_string(&path).unwrap();
        assert_ne!(edit(&before), before);
        std::fs::write(&path, edit(&before)).unwrap();
        let error = refused(&node, "a", Ask::Resume);
        assert!(matches!(error, ActorError::Damaged { .. }), "{error}");
        assert_eq!(node.standing(), Standing::Paused);
        // Put right, it goes on.
        std::fs::write(&path, before).unwrap();
        node.ask("a", Ask::Resume).unwrap();
        node.check("put right");
    }
    let node = paused();
    std::fs::remove_file(pause_files(&node).join("image/memory")).unwrap();
    assert!(refused(&node, "a", Ask::Resume).to_string().contains("memory is missing"));
}

#[test]
fn the_files_of_another_capture_are_refused() {
    let node = paused();
    let first = pause_files(&node);
    let kept = node.dir.path().join("kept");
    assert!(std::process::Command::new("cp").arg("-a").args([&first, &kept]).status().unwrap().success());
    node.ask("a", Ask::Resume).unwrap();
    node.work(1);
    node.ask("a", PAUSE).unwrap();
    let second = pause_files(&node);
    assert_ne!(first, second);
    std::fs::remove_dir_all(&second).unwrap();
    assert!(std::process::Command::new("cp").arg("-a").args([&kept, &second]).status().unwrap().success());
    assert!(matches!(refused(&node, "a", Ask::Resume), ActorError::Damaged { .. }));
}

#[test]
fn memory_is_bound_to_the_version_of_its_runtime_and_volumes_are_not() {
    let node = paused();
    node.host.upgrade_runtime();
    let error = refused(&node, "a", Ask::Resume);
    assert!(matches!(error, ActorError::Mismatched { .. }), "{error}");
    assert!(error.to_string().contains("gvisor 2, it was saved by gvisor 1"), "{error}");
    node.ask("a", capture(CaptureKind::Suspend, Scope::Data)).unwrap();
    node.ask("a", Ask::Resume).unwrap();
    node.check("on its volumes");
}

#[test]
fn an_epoch_that_is_gone_is_noticed() {
    let node = paused();
    let held = node.actor().document.checkpoint.unwrap().volumes[0].clone();
    let snapshot = node.store.snapshot_at(held.volume, held.epoch).unwrap();
    node.store.remove_snapshots(&[&snapshot], Receipt::none()).unwrap();
    let ApiError::Actor(error) = node.ask("a", Ask::Resume).unwrap_err() else { panic!() };
    assert!(matches!(error, ActorError::Mismatched { .. }), "{error}");
    assert!(error.to_string().contains("the epoch"), "{error}");
}

#[test]
fn what_was_written_to_a_volume_of_a_paused_actor_is_not_seen_by_it() {
    let node = paused();
    let fs = node.store.open_head("a.home").unwrap();
    let root = durdir_fs::ops::Caller { uid: 0, gid: 0, pid: 1 };
    fs.mkdir(&root, durdir_fs::ids::NodeId::ROOT, std::ffi::OsStr::new("n4"), 0o755, 0).unwrap();
    drop(fs);
    node.ask("a", Ask::Resume).unwrap();
    node.check("set back");
}

#[test]
fn one_actor_that_cannot_be_read_harms_no_other() {
    let mut node = paused();
    let record = durdir_fs::store::record::Actor {
        created: durdir_fs::attr::Timestamp::default(),
        volumes: Vec::new(),
        document: b"{".to_vec(),
    };
    let change = durdir_fs::store::ActorChange { actors: vec![("b", Some(&record))], captures: Vec::new() };
    let durability = durdir_fs::store::Durability::Process;
    node.store.change_actors(&change, durability, Receipt::none(), &()).unwrap();
    node.restart();
    node.ask("a", Ask::Resume).unwrap();
    assert!(matches!(node.actors.get("b"), Err(ActorError::Unreadable { .. })));
    let begin = |_: &str| Receipt::none();
    let request = Request { begin: &begin, begun: None, at_the_end: false };
    let template = node.template(Scope::Full, Scope::Full, "gvisor");
    assert!(node.actors.create(template, Some("b".to_owned()), &request, Receipt::none()).is_err());
}

/// What lets a paused sandbox go on without the store is a note in JSON.
#[test]
fn nothing_is_paused_whose_place_cannot_be_noted() {
    let node = Node::with_store(OsStr::from_bytes(b"st\xffore")).running_one(Scope::Data, Scope::Data);
    node.host.calm();
    let refused = node.ask("a", Ask::Capture(CaptureKind::Pause, None)).unwrap_err();
    assert!(one_line(&refused).contains("UTF-8"), "{refused:?}");
    assert!(!node.host.events().contains(&"pause"));
    node.work(1);
    node.check("refused");
}
