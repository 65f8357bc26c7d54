//! What is kept, for how long, and by whom.

use super::*;
use crate::actor::ActorError;
use crate::actor::registry::Claim;
use crate::actor::state::OperationKind;
use durdir_fs::FsError;
use durdir_fs::store::{ActorChange, Durability};

const PAUSE: Ask = Ask::Capture(CaptureKind::Pause, None);
const SUSPEND: Ask = Ask::Capture(CaptureKind::Suspend, None);
const COMMIT: Ask = Ask::Capture(CaptureKind::Commit, None);

fn full() -> Node {
    Node::running(Scope::Full, Scope::Full)
}

fn captured(node: &Node, ask: Ask) -> String {
    node.ask("a", ask).unwrap().unwrap().capture.unwrap().id
}

/// A node with an actor without volumes, that runs.
fn without_volumes() -> Node {
    let node = Node::new();
    let location = node.dir.path().join("commits");
    let document = serde_json::json!({
        "volumes": [],
        "containers": [{"name": "main", "command": ["/bin/work"], "rootfs": "/"}],
        "snapshotsConfig": {"location": format!("file://{}", location.display())},
    });
    let template = Template::parse(document.to_string().as_bytes()).unwrap();
    node.create_from(template, Some("a"), None).unwrap();
    node.ask("a", Ask::Start).unwrap();
    node.work(3);
    node
}

#[test]
fn a_suspend_of_nothing_starts_afresh() {
    let none = Ask::Capture(CaptureKind::Suspend, Some(Scope::None));
    let back = || Node::running(Scope::Full, Scope::None);
    let node = back();
    node.ask("a", none).unwrap();
    node.check("suspended");
    node.ask("a", Ask::Resume).unwrap();
    node.check("resumed");
    assert_eq!(node.host.counters(), [0]);
    let node = back();
    node.ask("a", PAUSE).unwrap();
    node.ask("a", none).unwrap();
    node.ask("a", Ask::Resume).unwrap();
    node.check("narrowed");
    assert_eq!(node.host.counters(), [0]);
}

#[test]
fn a_commit_without_volumes_outlives_its_actor_and_its_next_capture() {
    let node = without_volumes();
    let commit = captured(&node, COMMIT);
    node.ask("a", Ask::Remove).unwrap();
    node.fork(&commit, "f", None).unwrap();
    node.ask("f", Ask::Resume).unwrap();
    assert_eq!(node.host.counters(), [3]);
    let node = without_volumes();
    let commit = captured(&node, SUSPEND);
    node.fork(&commit, "f", None).unwrap();
    node.ask("a", Ask::Resume).unwrap();
    node.ask("a", PAUSE).unwrap();
    node.ask("f", Ask::Resume).unwrap();
    node.check("replaced");
}

#[test]
fn a_snapshot_that_was_given_a_name_outlives_its_capture() {
    let node = full();
    node.ask("a", PAUSE).unwrap();
    let kept = node.store.snapshot(&["a.home"], Some("keep"), Receipt::none()).unwrap();
    assert!(!kept.snapshots[0].made);
    node.ask("a", Ask::Resume).unwrap();
    node.work(1);
    node.ask("a", PAUSE).unwrap();
    node.store.find_snapshot("a.home@keep").unwrap();
    let of_db = node.store.snapshots(Some("a.db")).unwrap();
    let epochs: Vec<_> = of_db.iter().map(|snapshot| snapshot.epoch.0).collect();
    assert_eq!(epochs, [1, 3], "how it began, and what it was paused with: {of_db:?}");
}

#[test]
fn an_actor_is_not_removed_while_somebody_looks_at_a_snapshot_of_it() {
    let node = full();
    node.ask("a", PAUSE).unwrap();
    let held = node.actor().document.checkpoint.unwrap().volumes[0].clone();
    let snapshot = node.store.snapshot_at(held.volume, held.epoch).unwrap();
    let view = node.store.open_snapshot(&snapshot).unwrap();
    let refused = node.ask("a", Ask::Remove).unwrap_err();
    assert!(matches!(refused, ApiError::Fs(FsError::SnapshotMounted { .. })), "{refused:?}");
    node.check("refused");
    assert_eq!(node.standing(), Standing::Paused);
    node.ask("a", Ask::Resume).unwrap();
    drop(view);
    node.ask("a", Ask::Remove).unwrap();
    assert!(node.actors.all().is_empty());
}

#[test]
fn a_capture_that_cannot_be_read_is_left_alone() {
    let mut node = full();
    let id = captured(&node, PAUSE);
    let checkpoint = node.actor().document.checkpoint.unwrap();
    let record = durdir_fs::store::record::Capture {
        created: durdir_fs::attr::Timestamp::default(),
        snapshots: crate::actor::record::captured(&checkpoint.volumes),
        document: b"{".to_vec(),
    };
    let change = ActorChange { actors: Vec::new(), captures: vec![(checkpoint.capture, Some(&record))] };
    node.store.change_actors(&change, Durability::Process, Receipt::none(), &()).unwrap();
    node.restart();
    let files = node.dir.path().join("store/actors/a/captures").join(&id);
    assert!(files.join("manifest.json").exists() && files.join("image/memory").exists());
    assert!(node.ask("a", Ask::Resume).is_err());
    for held in &checkpoint.volumes {
        assert!(node.actors.is_held(held, None));
    }
}

#[test]
fn a_creation_without_a_name_that_comes_again_makes_one_actor() {
    let create = |node: &Node, begun| {
        let template = node.template(Scope::Full, Scope::Full, "gvisor");
        node.create_from(template, None, begun)
    };
    let node = Node::new();
    node.host.calm();
    create(&node, None).unwrap();
    let all = node.host.events().len();
    for at in 1..=all {
        let mut node = Node::new();
        node.host.plan(fake::Fault::DieAt(at));
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| create(&node, None)));
        assert!(died.is_err_and(|payload| payload.is::<fake::Death>()));
        let begun = node.begun();
        node.restart();
        create(&node, begun).unwrap();
        node.check(&format!("death {at} of {all}"));
        assert_eq!(node.actors.all().len(), 1, "death {at} of {all}");
    }
}

#[test]
fn a_commit_that_failed_leaves_nothing_where_it_was_to_go() {
    let publishing = {
        let node = full();
        node.host.calm();
        node.ask("a", COMMIT).unwrap();
        1 + node.host.events().iter().position(|event| *event == "target-publish").unwrap()
    };
    let node = full();
    node.host.plan(fake::Fault::FailAt(publishing));
    let id = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    // What an attempt leaves that fails half way.
    let left = node.dir.path().join("commits");
    node.host.leave_half_published(&left);
    node.ask("a", COMMIT).unwrap_err();
    let found: Vec<_> = std::fs::read_dir(&left).unwrap().map(id).collect();
    assert!(found.is_empty(), "{found:?}");
    node.host.calm();
    node.check("failed");
}

#[test]
fn one_container_may_end_alone_and_a_start_begins_anew() {
    let mut node = full();
    node.host.exit_one_of_all("side");
    node.restart();
    assert_eq!(node.standing(), Standing::Running, "what still runs is not ended");
    node.host.exit_one_of_all("side");
    let refused = node.ask("a", PAUSE).unwrap_err();
    assert!(matches!(refused, ApiError::Actor(ActorError::Exited { .. })), "{refused:?}");
    assert_eq!(node.standing(), Standing::Running);
    node.ask("a", Ask::Start).unwrap();
    node.check("started anew");
    assert_eq!(node.host.counters(), [3]);
    node.host.exit_all();
    node.ask("a", Ask::Start).unwrap();
    node.check("started anew, again");
    let refused = node.ask("a", Ask::Start).unwrap_err();
    assert!(matches!(refused, ApiError::Actor(ActorError::Misplaced { .. })), "{refused:?}");
}

#[test]
fn nobody_gets_a_turn_when_mountd_ends() {
    let node = full();
    node.actors.shut_down();
    assert_eq!(node.standing(), Standing::Paused);
    assert!(matches!(node.ask("a", Ask::Resume), Err(ApiError::ShuttingDown)));
    node.check("ended");
}

#[test]
fn a_removal_that_comes_again_removes_no_other_actor() {
    let files_gone = {
        let node = full();
        node.host.calm();
        node.ask("a", Ask::Remove).unwrap();
        1 + node.host.events().iter().position(|event| *event == "actor.files-gone").unwrap()
    };
    let mut node = full();
    node.host.plan(fake::Fault::DieAt(files_gone));
    let died =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.ask("a", Ask::Remove).map(drop)));
    assert!(died.is_err_and(|payload| payload.is::<fake::Death>()));
    let begun = node.begun();
    node.restart();
    assert!(node.actors.get("a").is_err());
    node.create("a", Scope::Full, Scope::Full);
    node.ask_again("a", Ask::Remove, begun).unwrap();
    node.check("asked again");
    assert_eq!(node.standing(), Standing::Created);
}

#[test]
fn an_actor_at_rest_is_narrowed_where_it_is() {
    let (pause, suspend) = (CaptureKind::Pause, CaptureKind::Suspend);
    for (kind, standing) in [(pause, Standing::Paused), (suspend, Standing::Suspended)] {
        let node = full();
        node.ask("a", Ask::Capture(kind, None)).unwrap();
        // Its memory is of no use any more.
        node.host.upgrade_runtime();
        let refused = node.ask("a", Ask::Resume).unwrap_err();
        assert!(matches!(refused, ApiError::Actor(ActorError::Mismatched { .. })), "{refused}");
        let verb = kind.name();
        let remedy = format!("`durdir actor {verb} a --scope Data`");
        assert!(refused.to_string().contains(&remedy), "{refused}");
        for same in [None, Some(Scope::Full)] {
            let refused = node.ask("a", Ask::Capture(kind, same)).unwrap_err();
            assert!(matches!(refused, ApiError::Actor(ActorError::Misplaced { .. })), "{refused}");
        }
        node.ask("a", Ask::Capture(kind, Some(Scope::Data))).unwrap();
        node.check("narrowed");
        assert_eq!(node.standing(), standing);
        let refused = node.ask("a", Ask::Capture(kind, Some(Scope::Full))).unwrap_err();
        assert!(matches!(refused, ApiError::Actor(ActorError::Widened { .. })), "{refused}");
        node.ask("a", Ask::Resume).unwrap();
        node.check("resumed");
        assert_eq!(node.host.counters(), [3]);
    }
}

#[test]
fn a_fork_is_narrowed_too() {
    let node = full();
    let commit = captured(&node, COMMIT);
    node.fork(&commit, "f", None).unwrap();
    node.host.upgrade_runtime();
    node.ask("f", Ask::Resume).unwrap_err();
    node.ask("f", Ask::Capture(CaptureKind::Suspend, Some(Scope::Data))).unwrap();
    node.ask("f", Ask::Resume).unwrap();
    node.check("resumed");
    // The commit is still what it was.
    node.fork(&commit, "g", Some(Scope::Data)).unwrap();
    node.ask("g", Ask::Resume).unwrap();
    node.check("forked again");
}

#[test]
fn what_was_gone_on_from_is_told() {
    let node = full();
    let told = |asked: Result<Option<Outcome>, ApiError>| {
        asked.unwrap().unwrap().capture.map(|capture| (capture.id, capture.scope))
    };
    let commit = captured(&node, COMMIT);
    node.fork(&commit, "f", None).unwrap();
    assert_eq!(told(node.ask("f", Ask::Resume)), Some((commit, Scope::Full)));
    let paused = captured(&node, PAUSE);
    node.ask("a", Ask::Capture(CaptureKind::Commit, Some(Scope::Data))).unwrap();
    assert_eq!(told(node.ask("a", Ask::Resume)), Some((paused.clone(), Scope::Full)));
    let done = node.actor().document.done.unwrap().id;
    assert_eq!(told(node.ask_again("a", Ask::Resume, Some(done))), Some((paused, Scope::Full)));
    node.host.exit_all();
    node.actors.look(|_| true);
    assert_eq!(told(node.ask("a", Ask::Start)), None);
}

/// A node with an actor that is being suspended, to where nothing can be brought, and whose worker has died over that.
fn suspending_to_nowhere() -> Node {
    let publishing = {
        let node = full();
        node.host.calm();
        node.ask("a", SUSPEND).unwrap();
        1 + node.host.events().iter().position(|event| *event == "target-publish").unwrap()
    };
    let node = full();
    node.host.plan(fake::Fault::DieAt(publishing));
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.ask("a", SUSPEND).map(drop)));
    assert!(died.is_err_and(|payload| payload.is::<fake::Death>()));
    let commits = node.dir.path().join("commits");
    if commits.exists() {
        std::fs::remove_dir_all(&commits).unwrap();
    }
    std::fs::write(commits, "in the way").unwrap();
    node
}

#[test]
fn who_looks_at_a_snapshot_keeps_no_capture_in_hand() {
    let mut node = suspending_to_nowhere();
    let of_home = node.store.snapshots(Some("a.home")).unwrap();
    let view = node.store.open_snapshot(&of_home[0].snapshot).unwrap();
    node.restart();
    assert_eq!((node.standing(), node.actor().document.operation), (Standing::Running, None));
    drop(view);
    node.restart();
    node.check("nobody looks any more");
}

#[test]
fn the_volumes_of_a_commit_are_not_anybodys_while_it_is_published() {
    let node = suspending_to_nowhere();
    let volumes = node.store.volumes().unwrap();
    let published: Vec<_> = volumes.iter().filter(|volume| volume.name.starts_with("_commit.")).collect();
    assert_eq!(published.len(), 2);
    let actors = load(&node.store, &node.host);
    assert!(published.iter().all(|volume| actors.is_published(&volume.name, volume.id)));
    assert!(!actors.is_published("_commit.x.home", durdir_fs::ids::VolumeId(999)));
}

#[test]
fn a_suspend_that_failed_leaves_the_last_capture() {
    let node = full();
    let paused = captured(&node, PAUSE);
    std::fs::write(node.dir.path().join("commits"), "in the way").unwrap();
    node.ask("a", SUSPEND).unwrap_err();
    node.check("failed");
    assert_eq!(node.actor().document.last_capture.unwrap().id, paused);
}

#[test]
fn a_place_that_hangs_keeps_nobody_stopped() {
    let node = full();
    let hanging = node.host.hang_publications();
    let held = hanging.lock();
    let refused = node.ask("a", SUSPEND).unwrap_err();
    assert!(matches!(refused, ApiError::Actor(ActorError::NoAnswer { .. })), "{refused}");
    node.check("given up");
    assert_eq!(node.standing(), Standing::Running);
    drop(held);
}

#[test]
fn nobody_captures_a_volume_of_which_a_snapshot_is_removed() {
    let node = full();
    let volume = node.actor().volumes[0];
    let waits = |work: &(dyn Fn() + Sync)| {
        let held = node.actors.hold_owners(&[volume, volume]).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(work);
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!waiting.is_finished() && node.standing() == Standing::Running);
            drop(held);
        });
    };
    // What mountd does of itself is waited for, this way round too.
    waits(&|| drop(node.actors.hold_owners(&[volume]).unwrap()));
    waits(&|| drop(node.ask("a", PAUSE).unwrap()));
    let asked = node.actors.take("a", OperationKind::Resume, Claim::First).unwrap();
    let refused = node.actors.hold_owners(&[volume]).map(drop).unwrap_err();
    assert!(matches!(refused, ActorError::Busy { doing: OperationKind::Resume, .. }), "{refused}");
    drop(asked);
    assert!(node.actors.hold_owners(&[durdir_fs::ids::VolumeId(999)]).unwrap().is_empty());
}

#[test]
fn what_a_place_did_not_give_back_is_taken_away_later() {
    let (publish, withdraw) = {
        let node = full();
        node.host.plan(fake::Fault::FailAt(number_of(&full(), "target-publish")));
        node.ask("a", SUSPEND).unwrap_err();
        let events = node.host.events();
        let number = |name| 1 + events.iter().position(|event| *event == name).unwrap();
        (number("target-publish"), number("target-withdraw"))
    };
    let mut node = full();
    let commits = node.dir.path().join("commits");
    node.host.leave_half_published(&commits);
    node.host.plan(fake::Fault::FailBothAt(publish, withdraw));
    node.ask("a", SUSPEND).unwrap_err();
    let left = || std::fs::read_dir(&commits).unwrap().count();
    assert_eq!((node.standing(), left()), (Standing::Running, 1));
    // Nothing that needs no commits waits for that.
    node.host.calm();
    node.ask("a", PAUSE).unwrap();
    assert_eq!(left(), 1);
    node.restart();
    node.check("taken away");
    assert_eq!(left(), 0);
}

/// Returns the number of an event of a suspend.
fn number_of(node: &Node, event: &str) -> usize {
    node.host.calm();
    node.ask("a", SUSPEND).unwrap();
    1 + node.host.events().iter().position(|name| *name == event).unwrap()
}

#[test]
fn a_place_that_hangs_keeps_no_turn() {
    let node = full();
    node.ask("a", SUSPEND).unwrap();
    let hanging = node.host.hang_publications();
    let held = hanging.lock();
    let refused = node.ask("a", Ask::Resume).unwrap_err();
    assert!(matches!(refused, ApiError::Actor(ActorError::NoAnswer { .. })), "{refused}");
    drop(held);
    node.ask("a", Ask::Resume).unwrap();
    node.check("it answers again");
}
