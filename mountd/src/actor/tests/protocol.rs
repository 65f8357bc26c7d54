use std::panic::AssertUnwindSafe;

use durdir_fs::store::{ActorChange, Durability};

use super::fake::{Death, Fault, count};
use super::*;
use crate::actor::driver::Driver;
use crate::actor::state::Operation;

pub(super) const PAUSE: Ask = Ask::Capture(CaptureKind::Pause, None);
pub(super) const SUSPEND: Ask = Ask::Capture(CaptureKind::Suspend, None);
pub(super) const COMMIT: Ask = Ask::Capture(CaptureKind::Commit, None);

/// Asks, and tells whether the process died over it.
pub(super) fn dies(node: &Node, ask: Ask) -> bool {
    let asked = std::panic::catch_unwind(AssertUnwindSafe(|| node.ask("a", ask)));
    match asked {
        Ok(_) => false,
        Err(payload) if payload.is::<Death>() => true,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Returns how many events there are when nothing goes wrong.
fn events(prepare: impl Fn() -> Node, ask: Ask) -> usize {
    let node = prepare();
    node.host.calm();
    node.ask("a", ask).unwrap();
    let events = node.host.events().len();
    node.check("nothing went wrong");
    events
}

/// The process dies at each event of an operation. Afterwards everything is as before, or as asked; and the same request, sent again,
/// gets what it asked for.
fn at_every_death(prepare: impl Fn() -> Node, ask: Ask, expected: Option<Standing>) {
    let all = events(&prepare, ask);
    assert!(all > 3, "there is something to die at");
    for at in 1..=all {
        let mut node = prepare();
        let (before, earlier) = (node.standing(), node.begun());
        node.host.plan(Fault::DieAt(at));
        assert!(dies(&node, ask), "death {at} of {all} did not happen: {:?}", node.host.events());
        let when = format!("{ask:?}, death {at} of {all}, after {:?}", node.host.events().last());
        let begun = node.begun().filter(|begun| Some(begun) != earlier.as_ref());
        node.restart();
        if let Ok(actor) = node.actors.get("a") {
            node.check(&when);
            let standing = actor.document.standing;
            assert!(standing == before || Some(&standing) == expected.as_ref(), "{when}: {standing:?}");
        } else {
            assert_eq!(expected, None, "{when}");
        }
        node.work(1);
        node.ask_again("a", ask, begun).unwrap_or_else(|error| panic!("{when}: again: {error:?}"));
        match &expected {
            Some(expected) => {
                node.check(&format!("{when}, and again"));
                assert_eq!(node.standing(), *expected, "{when}");
                bring_back(&node, &when);
            }
            None => assert!(node.actors.get("a").is_err(), "{when}"),
        }
    }
}

/// Each event of an operation fails. Afterwards everything is as before, or as asked.
fn at_every_failure(prepare: impl Fn() -> Node, ask: Ask, expected: Option<Standing>) {
    let all = events(&prepare, ask);
    for at in 1..=all {
        let node = prepare();
        let before = node.standing();
        node.host.plan(Fault::FailAt(at));
        let done = node.ask("a", ask);
        let events = node.host.events();
        let when =
            format!("{ask:?}, failure {at} of {all}, {:?}: {:?}", events.get(at - 1), done.as_ref().err());
        node.host.calm();
        // What could not even be undone, or taken away, is when somebody looks next.
        node.actors.look(|_| true);
        let Ok(actor) = node.actors.get("a") else {
            assert_eq!(expected, None, "{when}");
            continue;
        };
        node.check(&when);
        let standing = actor.document.standing;
        assert!(standing == before || Some(&standing) == expected.as_ref(), "{when}: {standing:?}");
        bring_back(&node, &when);
    }
}

/// Wherever the actor stands, it can be brought to run, and what it believes is in its volumes.
pub(super) fn bring_back(node: &Node, when: &str) {
    match node.standing() {
        Standing::Running => {}
        Standing::Paused | Standing::Suspended => drop(node.ask("a", Ask::Resume).unwrap()),
        Standing::Created | Standing::Exited { .. } => drop(node.ask("a", Ask::Start).unwrap()),
    }
    node.work(2);
    node.check(&format!("{when}, and running again"));
    assert!(node.host.counters()[0] >= 5, "{when}: {:?}", node.host.counters());
}

pub(super) fn full() -> Node {
    Node::running(Scope::Full, Scope::Full)
}

fn data() -> Node {
    Node::running(Scope::Data, Scope::Data)
}

/// The runtime ends what it saves.
fn ending() -> Node {
    let node = full();
    node.host.end_when_saved();
    node
}

fn after(node: Node, asked: &[Ask]) -> Node {
    for ask in asked {
        node.ask("a", *ask).unwrap();
    }
    node
}

#[test]
fn memory_and_volumes_belong_together_over_many_cycles() {
    for prepare in [full, ending] {
        let node = prepare();
        for cycle in 0..10u64 {
            let ask = if cycle % 3 == 2 { SUSPEND } else { PAUSE };
            let outcome = node.ask("a", ask).unwrap().unwrap();
            assert_eq!(outcome.capture.unwrap().scope, Scope::Full);
            node.check("paused");
            assert!(node.host.counters().is_empty());
            node.ask("a", Ask::Resume).unwrap();
            node.check("resumed");
            assert_eq!(node.host.counters(), [3 + 2 * cycle], "without a gap");
            node.work(2);
        }
    }
}

#[test]
fn phases_are_told() {
    let node = full();
    let names = |outcome: Outcome| -> Vec<String> {
        outcome.phases.iter().map(|(name, _)| name.to_owned()).collect()
    };
    let paused = names(node.ask("a", PAUSE).unwrap().unwrap());
    assert_eq!(paused, ["record", "quiesce", "drain", "save", "cut", "bind", "tear_down", "total"]);
    let resumed = names(node.ask("a", Ask::Resume).unwrap().unwrap());
    assert_eq!(resumed, ["verify", "mount", "resume", "ready", "total"]);
    let committed = names(node.ask("a", COMMIT).unwrap().unwrap());
    assert_eq!(
        committed,
        ["record", "quiesce", "drain", "save", "cut", "bind", "resume", "publish", "total"]
    );
}

#[test]
fn a_pause_survives_every_death() {
    at_every_death(full, PAUSE, Some(Standing::Paused));
    at_every_death(data, PAUSE, Some(Standing::Paused));
    at_every_death(ending, PAUSE, Some(Standing::Paused));
}

#[test]
fn a_pause_survives_every_failure() {
    at_every_failure(full, PAUSE, Some(Standing::Paused));
    at_every_failure(data, PAUSE, Some(Standing::Paused));
    at_every_failure(ending, PAUSE, Some(Standing::Paused));
}

#[test]
fn a_pause_that_replaces_another_survives_every_death() {
    let prepare = || {
        let node = after(full(), &[PAUSE, Ask::Resume]);
        node.work(1);
        node
    };
    at_every_death(prepare, PAUSE, Some(Standing::Paused));
}

#[test]
fn a_suspend_survives_every_death_and_failure() {
    at_every_death(full, SUSPEND, Some(Standing::Suspended));
    at_every_failure(full, SUSPEND, Some(Standing::Suspended));
    at_every_failure(ending, SUSPEND, Some(Standing::Suspended));
}

#[test]
fn a_commit_survives_every_death_and_failure() {
    at_every_death(full, COMMIT, Some(Standing::Running));
    at_every_death(ending, COMMIT, Some(Standing::Running));
    at_every_failure(full, COMMIT, Some(Standing::Running));
    at_every_failure(ending, COMMIT, Some(Standing::Running));
}

#[test]
fn a_resume_survives_every_death_and_failure() {
    let paused = || after(full(), &[PAUSE]);
    at_every_death(paused, Ask::Resume, Some(Standing::Running));
    at_every_failure(paused, Ask::Resume, Some(Standing::Running));
    let suspended = || after(data(), &[SUSPEND]);
    at_every_death(suspended, Ask::Resume, Some(Standing::Running));
    at_every_failure(suspended, Ask::Resume, Some(Standing::Running));
}

#[test]
fn a_paused_actor_is_suspended_without_waking_it() {
    let paused = || after(full(), &[PAUSE]);
    at_every_death(paused, SUSPEND, Some(Standing::Suspended));
    at_every_failure(paused, SUSPEND, Some(Standing::Suspended));
    let narrowed = Ask::Capture(CaptureKind::Suspend, Some(Scope::Data));
    at_every_death(paused, narrowed, Some(Standing::Suspended));
    let node = paused();
    node.host.calm();
    node.ask("a", narrowed).unwrap();
    let events = node.host.events();
    assert!(!events.iter().any(|event| ["resume", "restore", "start"].contains(event)), "{events:?}");
    node.ask("a", Ask::Resume).unwrap();
    assert!(node.host.events().contains(&"start"));
    node.check("started on its volumes");
}

#[test]
fn a_start_survives_every_death_and_failure() {
    let created = || {
        let node = Node::new();
        node.create("a", Scope::Full, Scope::Data);
        node
    };
    let check = |node: &Node, when: &str| {
        node.host.calm();
        node.check(when);
    };
    let all = events(created, Ask::Start);
    for at in 1..=all {
        let mut node = created();
        node.host.plan(Fault::DieAt(at));
        assert!(dies(&node, Ask::Start));
        let begun = node.begun();
        node.restart();
        check(&node, &format!("death {at}"));
        node.ask_again("a", Ask::Start, begun).unwrap();
        check(&node, &format!("death {at}, and again"));
        let node = created();
        node.host.plan(Fault::FailAt(at));
        let started = node.ask("a", Ask::Start);
        node.host.calm();
        node.actors.look(|_| true);
        check(&node, &format!("failure {at}: {:?}", started.err()));
    }
}

#[test]
fn a_removal_survives_every_death() {
    at_every_death(full, Ask::Remove, None);
    at_every_death(|| after(full(), &[COMMIT, PAUSE]), Ask::Remove, None);
    let node = after(full(), &[PAUSE]);
    node.ask("a", Ask::Remove).unwrap();
    assert!(node.store.volumes().unwrap().is_empty());
    assert!(!node.dir.path().join("store/actors/a").exists());
}

#[test]
fn an_actor_that_captures_nothing_always_starts_afresh() {
    let none = || Node::running(Scope::None, Scope::None);
    let mut node = none();
    node.ask("a", PAUSE).unwrap();
    node.check("paused");
    assert_eq!(count(&node.store, "a.home"), 3, "nothing is removed before it is needed");
    node.ask("a", Ask::Resume).unwrap();
    node.check("resumed");
    assert_eq!(node.host.counters(), [0]);
    node.restart();
    node.check("restarted");
}

#[test]
fn whatever_the_template_says_a_pause_may_keep_nothing() {
    let none = Ask::Capture(CaptureKind::Pause, Some(Scope::None));
    for narrowed in [false, true] {
        let node = full();
        if narrowed {
            node.ask("a", PAUSE).unwrap();
        }
        node.ask("a", none).unwrap();
        node.check("paused");
        node.ask("a", Ask::Resume).unwrap();
        node.check("resumed");
        assert_eq!(node.host.counters(), [0], "narrowed: {narrowed}");
    }
}

#[test]
fn a_scope_of_data_captures_no_memory() {
    let node = data();
    node.host.calm();
    node.ask("a", PAUSE).unwrap();
    assert!(!node.host.events().contains(&"save"));
    node.ask("a", Ask::Resume).unwrap();
    assert!(!node.host.events().contains(&"restore"));
    assert_eq!(node.host.counters(), [3]);
}

#[test]
fn ten_forks_of_a_commit_stand_side_by_side() {
    let node = full();
    let commit = node.ask("a", COMMIT).unwrap().unwrap().capture.unwrap().id;
    node.work(5);
    for number in 0..10 {
        let id = format!("fork-{number}");
        node.fork(&commit, &id, None).unwrap();
        node.check("forked");
        node.ask(&id, Ask::Resume).unwrap();
    }
    node.check("resumed");
    let mut counters = node.host.counters();
    counters.sort_unstable();
    assert_eq!(counters, [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 8]);
    node.work(1);
    node.ask("fork-3", PAUSE).unwrap();
    // A fork of a commit outlives the actor that it was of.
    node.ask("a", Ask::Remove).unwrap();
    node.ask("fork-3", Ask::Resume).unwrap();
    node.fork(&commit, "late", None).unwrap();
    node.ask("late", Ask::Resume).unwrap();
    node.work(1);
    node.check("in the end");
}

#[test]
fn a_fork_survives_every_death() {
    let prepare = || {
        let node = full();
        let commit = node.ask("a", COMMIT).unwrap().unwrap().capture.unwrap().id;
        (node, commit)
    };
    let (node, commit) = prepare();
    node.host.calm();
    node.fork(&commit, "f", None).unwrap();
    let all = node.host.events().len();
    for at in 1..=all {
        let (mut node, commit) = prepare();
        node.host.plan(Fault::DieAt(at));
        let died = std::panic::catch_unwind(AssertUnwindSafe(|| node.fork(&commit, "f", None)));
        assert!(died.is_err_and(|payload| payload.is::<Death>()));
        node.restart();
        node.check(&format!("death {at} of {all}"));
        if node.actors.get("f").is_err() {
            node.fork(&commit, "f", None).unwrap();
        }
        node.ask("f", Ask::Resume).unwrap();
        node.check(&format!("death {at} of {all}, and resumed"));
    }
}

#[test]
fn whoever_is_found_paused_goes_on_and_whoever_ended_is_told() {
    let mut node = full();
    node.host.exit_all();
    node.restart();
    node.check("exited");
    let Standing::Exited { reason } = node.standing() else { panic!("{:?}", node.standing()) };
    assert_eq!(reason, "container main ended with status 3");
    bring_back(&node, "exited");
    node.host.reboot();
    node.restart();
    node.check("rebooted");
    assert!(matches!(node.standing(), Standing::Exited { .. }));
    bring_back(&node, "rebooted");
}

#[test]
fn a_capture_survives_the_host_going_down() {
    let mut node = after(full(), &[PAUSE]);
    node.host.reboot();
    node.restart();
    assert_eq!(node.standing(), Standing::Paused);
    node.ask("a", Ask::Resume).unwrap();
    assert_eq!(node.host.counters(), [3]);
}

#[test]
fn a_daemon_that_ends_pauses_what_runs() {
    let mut node = full();
    node.actors.shut_down();
    node.check("ended");
    assert_eq!(node.standing(), Standing::Paused);
    node.restart();
    node.ask("a", Ask::Resume).unwrap();
    assert_eq!(node.host.counters(), [3]);
}

/// Returns the number of an event among those of an operation.
pub(super) fn number_of(prepare: impl Fn() -> Node, ask: Ask, event: &str) -> usize {
    let node = prepare();
    node.host.calm();
    node.ask("a", ask).unwrap();
    1 + node.host.events().iter().position(|name| *name == event).unwrap()
}

#[test]
fn a_pause_that_returned_is_there_after_a_loss_of_power_that_takes_its_record() {
    let early = full();
    early.host.plan(Fault::DieAt(number_of(full, PAUSE, "actor.was-cut")));
    assert!(dies(&early, PAUSE));
    let mut node = full();
    node.ask("a", PAUSE).unwrap();
    // What is in the log up to the sync of the cut.
    let mut actor = node.actor();
    let capture = actor.document.checkpoint.take().unwrap().capture;
    (actor.document.standing, actor.document.last_capture) = (Standing::Running, None);
    actor.document.operation = early.actor().document.operation;
    let record = actor.encode();
    let change = ActorChange { actors: vec![("a", Some(&record))], captures: vec![(capture, None)] };
    node.store.change_actors(&change, Durability::Disk, Receipt::none(), &()).unwrap();
    node.host.reboot();
    node.restart();
    node.check("after the loss of power");
    assert_eq!(node.standing(), Standing::Paused);
    node.ask("a", Ask::Resume).unwrap();
    assert_eq!(node.host.counters(), [3]);
}

#[test]
fn nothing_is_restored_on_volumes_that_are_gone() {
    for event in ["actor.paused", "actor.saved", "actor.was-cut"] {
        let mut node = ending();
        node.host.plan(Fault::DieAt(number_of(ending, PAUSE, event)));
        assert!(dies(&node, PAUSE));
        node.host.reboot();
        node.restart();
        node.check(event);
        assert!(matches!(node.standing(), Standing::Exited { .. }), "{event}: {:?}", node.standing());
        bring_back(&node, event);
    }
}

#[test]
fn what_could_not_be_taken_away_after_a_pause_is_taken_away_later() {
    let node = full();
    node.host.plan(Fault::FailAt(number_of(full, PAUSE, "unmount")));
    node.ask("a", PAUSE).unwrap();
    let directory = node.actors.directory.of("a");
    assert!(directory.volumes().exists());
    node.host.calm();
    node.actors.look(|_| true);
    node.check("later");
    assert_eq!(node.standing(), Standing::Paused);
}

/// Whatever happens while a suspend is taken back: what the sandbox does once it goes on is not lost.
#[test]
fn a_suspend_that_is_taken_back_survives_every_death() {
    for prepare in [full, ending] {
        let fails = number_of(prepare, SUSPEND, "target-publish");
        let all = {
            let node = prepare();
            node.host.plan(Fault::FailAt(fails));
            node.ask("a", SUSPEND).unwrap_err();
            node.check("taken back");
            node.host.events().len()
        };
        assert!(all >= fails + 5, "there is something to die at");
        for at in fails + 1..=all {
            let mut node = prepare();
            node.host.plan(Fault::FailThenDieAt(fails, at));
            assert!(dies(&node, SUSPEND));
            let when = format!("death {at} of {all}, after {:?}", node.host.events().last());
            node.host.calm();
            node.work(2);
            let counted = node.host.counters();
            node.restart();
            node.check(&when);
            match node.standing() {
                Standing::Running => assert!(node.host.counters() == counted || counted.is_empty(), "{when}"),
                Standing::Suspended => assert!(counted == [3] || counted.is_empty(), "{when}: {counted:?}"),
                standing => panic!("{when}: {standing:?}"),
            }
            bring_back(&node, &when);
        }
    }
}

#[test]
fn what_ends_while_a_capture_is_taken_back_leaves_nothing() {
    let made = number_of(ending, PAUSE, "actor.was-cut");
    for step in 1.. {
        let mut node = ending();
        node.host.plan(Fault::DieAt(made));
        assert!(dies(&node, PAUSE));
        node.host.reboot();
        // It dies once more while that is undone.
        node.host.plan(Fault::DieAt(step));
        let recovered = std::panic::catch_unwind(AssertUnwindSafe(|| {
            node.actors = load(&node.store, &node.host);
            let turn = node.actors.try_take_own("a").unwrap();
            node.actors.recover_one(turn);
        }));
        node.restart();
        node.check(&format!("death {step}"));
        assert!(matches!(node.standing(), Standing::Exited { .. }));
        if recovered.is_ok() {
            assert!(step > 3, "there is something to die at");
            break;
        }
    }
}

#[test]
fn a_capture_that_is_taken_back_is_not_completed_after_all() {
    let mut node = full();
    node.host.plan(Fault::DieAt(number_of(full, PAUSE, "actor.manifest")));
    assert!(dies(&node, PAUSE));
    // An error, had it lived on: the name was not brought to the disk.
    node.host.plan(Fault::DieAt(number_of_abort()));
    let aborted = std::panic::catch_unwind(AssertUnwindSafe(|| abort_what_is_in_hand(&node)));
    assert!(aborted.is_err_and(|payload| payload.is::<Death>()));
    node.work(2);
    node.restart();
    node.check("taken back");
    assert_eq!((node.standing(), node.host.counters()), (Standing::Running, vec![5]));
}

/// Returns the number of the event after which the sandbox goes on, among those of [`abort_what_is_in_hand`].
fn number_of_abort() -> usize {
    let node = full();
    node.host.plan(Fault::DieAt(number_of(full, PAUSE, "actor.manifest")));
    assert!(dies(&node, PAUSE));
    node.host.calm();
    abort_what_is_in_hand(&node);
    1 + node.host.events().iter().position(|name| *name == "actor.aborted").unwrap()
}

fn abort_what_is_in_hand(node: &Node) {
    let actors = load(&node.store, &node.host);
    let mut driver = Driver::new(&actors, actors.try_take_own("a").unwrap());
    let Some(Operation::Capture(capturing)) = driver.actor.document.operation.clone() else {
        panic!("no capture is in hand")
    };
    driver.abort(&capturing).unwrap();
}
