//! Real sandboxes, made by the runsc that is installed.

use std::fs;
use std::time::Duration;

use super::*;
use crate::runtime::contract::{self, Fixture, eventually, soon};
use crate::runtime::{Machine, VolumeMount};

fn machine() -> Machine {
    Machine::default()
}

#[test]
fn a_sandbox_lives_its_whole_life() {
    contract::whole_life(&GVisor, machine(), true);
}

#[test]
fn deadlines_are_kept() {
    contract::deadlines(&GVisor, machine());
}

#[test]
fn an_image_that_is_none_leaves_nothing() {
    contract::broken_image(&GVisor, machine());
}

#[test]
fn ports_are_reached_in_a_network_of_its_own_and_in_the_hosts() {
    for network in [Network::Own, Network::Host] {
        let fixture = Fixture::new(&GVisor, network, machine());
        fixture.create();
        fixture.start();
        fixture.assert_answers();
    }
}

#[test]
fn a_network_of_its_own_is_there_after_a_restore() {
    let fixture = Fixture::new(&GVisor, Network::Own, machine());
    fixture.create();
    fixture.start();
    fixture.assert_answers();
    fixture.pause();
    let image = fixture.image("image");
    fixture.save(&image);
    fixture.kill();
    fixture.restore(&image);
    fixture.assert_running("log");
    fixture.assert_answers();
}

#[test]
fn memory_with_the_hosts_network_is_not_saved() {
    let fixture = Fixture::new(&GVisor, Network::Host, machine());
    let error = GVisor.check_save(&fixture.sandbox).unwrap_err();
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
}

/// Two containers with one volume at different places, and one volume that only the second has.
fn two_containers<'a>() -> Fixture<'a> {
    let mut fixture = Fixture::new(&GVisor, Network::None, machine());
    let other = fixture.scratch("other");
    fs::create_dir(&other).unwrap();
    let mut second = fixture.sandbox.containers[0].clone();
    second.name = "second".to_owned();
    let script = "exec 3>>/shared/log-2; n=0; until [ -e /own/stop ]; do n=$((n + 1)); echo $n >&3; busybox sleep 0.01; done; exit 5";
    script.clone_into(second.command.last_mut().unwrap());
    second.mounts[0].destination = "/shared".into();
    second.mounts.push(VolumeMount { volume: "own".to_owned(), source: other, destination: "/own".into() });
    fixture.sandbox.containers.push(second);
    fixture
}

#[test]
fn several_containers_are_paused_saved_and_restored_together() {
    let fixture = two_containers();
    fixture.create();
    assert_eq!(fixture.state(), SandboxState::Created);
    fixture.start();
    let both_run = || ["log", "log-2"].into_iter().for_each(|log| fixture.assert_running(log));
    both_run();
    fixture.pause();
    let second = fixture.lines("log-2");
    fixture.assert_stopped("log");
    assert_eq!(fixture.lines("log-2"), second, "the second container goes on");
    fixture.resume();
    both_run();
    fixture.pause();
    let image = fixture.image("image");
    fixture.save(&image);
    fixture.kill();
    assert_eq!(fixture.state(), SandboxState::Absent);
    fixture.restore(&image);
    both_run();
    fixture.assert_answers();
    fs::write(fixture.scratch("other/stop"), "").unwrap();
    let state = eventually("the second container has ended", || {
        let state = fixture.state();
        (state != SandboxState::Running).then_some(state)
    });
    assert_eq!(state, SandboxState::Exited { container: "second".to_owned(), status: Some(5) });
    // And asked again: how it ended is not forgotten by having been told.
    assert_eq!(fixture.state(), state);
}

#[test]
fn a_sandbox_that_was_killed_from_outside_has_exited() {
    let fixture = Fixture::new(&GVisor, Network::None, machine());
    fixture.create();
    fixture.start();
    fixture.assert_running("log");
    let pid = GVisor.pid(&fixture.sandbox).unwrap().unwrap();
    let held = processes::Held::of(pid).unwrap().unwrap();
    held.kill().unwrap();
    assert!(held.wait(soon()).unwrap());
    let expected = SandboxState::Exited { container: "main".to_owned(), status: None };
    assert_eq!(fixture.state(), expected);
    let error = GVisor.pause(&fixture.sandbox, soon()).unwrap_err();
    assert!(matches!(error, RuntimeError::Exited { .. }), "{error}");
}

#[test]
fn a_program_that_is_not_there_is_an_error_in_runscs_words() {
    let mut fixture = Fixture::new(&GVisor, Network::None, machine());
    fixture.sandbox.containers[0].command = vec!["/no/such/program".to_owned()];
    let made = GVisor.create(&fixture.sandbox, soon()).and_then(|()| GVisor.start(&fixture.sandbox, soon()));
    let error = made.unwrap_err().to_string();
    assert!(error.contains("/no/such/program"), "{error}");
}

#[test]
fn a_port_that_nobody_listens_at_is_an_error() {
    let mut fixture = Fixture::new(&GVisor, Network::None, machine());
    fixture.sandbox.containers[0].env.retain(|(name, _)| name != "PORT");
    fixture.create();
    fixture.start();
    fixture.assert_running("log");
    let error = GVisor.connect(&fixture.sandbox, fixture.port, Deadline::after(Duration::from_secs(10)));
    assert!(error.is_err());
}

/// Holds a file that was renamed, a shared mapping, a directory and a lock, and one whose name is gone where it is told to.
const HOLDER: &str = r"
import fcntl, mmap, os, sys, time
home = '/srv/home/'
os.mkdir(home + 'dir')
directory = os.open(home + 'dir', os.O_RDONLY)
log = open(home + 'before', 'w')
os.rename(home + 'before', home + 'log')
hidden = open(home + 'hidden', 'w+')
if sys.argv[1:] == ['unlink']:
    os.unlink(home + 'hidden')
lock = open(home + 'lock', 'w')
fcntl.flock(lock, fcntl.LOCK_EX)
mapped = open(home + 'mapped', 'w+b')
mapped.truncate(8192)
memory = mmap.mmap(mapped.fileno(), 8192)
hidden.write('secret')
hidden.flush()
n = 0
while not os.path.exists(home + 'stop'):
    n += 1
    memory[0:8] = b'%08d' % n
    log.write('%d\n' % n)
    log.flush()
    hidden.seek(0)
    assert hidden.read() == 'secret'
    other = open(home + 'lock')
    try:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert False, 'the lock is lost'
    except BlockingIOError:
        pass
    other.close()
    time.sleep(0.01)
open(home + 'dir/made', 'w').close()
open(home + 'believed', 'w').write('%d %s' % (n, os.listdir(directory)))
";

/// The whole machine as a root, in which there is no place for the volume.
fn holder<'a>(argument: &str) -> Fixture<'a> {
    let mut fixture = Fixture::new(&GVisor, Network::None, machine());
    let container = &mut fixture.sandbox.containers[0];
    container.rootfs = Some("/".into());
    container.command = ["/usr/bin/python3", "-c", HOLDER, argument].map(str::to_owned).into();
    container.mounts[0].destination = "/srv/home".into();
    fixture.create();
    fixture.start();
    fixture.assert_running("log");
    fixture.pause();
    fixture
}

#[test]
fn what_a_program_holds_is_there_after_a_restore() {
    let fixture = holder("");
    assert!(!Path::new("/srv/home").exists(), "a mount point was made in the root on the host");
    let image = fixture.image("image");
    fixture.save(&image);
    fixture.kill();
    fixture.restore(&image);
    fixture.assert_running("log");
    fixture.stop();
    let lines = fixture.lines("log");
    assert_eq!(fs::read_to_string(fixture.volume.join("believed")).unwrap(), format!("{lines} ['made']"));
    let mapped = fs::read(fixture.volume.join("mapped")).unwrap();
    assert_eq!(&mapped[..8], format!("{lines:08}").as_bytes());
}

/// gVisor of 2024 cannot save it, newer ones can.
#[test]
fn an_open_file_without_a_name_is_saved_or_told_and_the_program_goes_on() {
    let fixture = holder("unlink");
    let image = fixture.image("image");
    match GVisor.save(&fixture.sandbox, &image, soon()) {
        Ok(_) => {
            fixture.kill();
            fixture.restore(&image);
        }
        Err(error) => {
            assert!(error.to_string().contains("a file of a volume open that was removed"), "{error}");
            fixture.assert_stopped("log");
            fixture.resume();
        }
    }
    fixture.assert_running("log");
    let names = fs::read_dir(&fixture.volume).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("hidden")));
}

/// A link of a root leads somewhere else on the host than in the sandbox.
#[test]
fn a_place_behind_a_link_of_the_root_is_not_made_on_the_host() {
    let mut fixture = Fixture::new(&GVisor, Network::None, machine());
    let (root, elsewhere) = (fixture.scratch("root"), fixture.scratch("elsewhere"));
    for place in ["proc", "dev", "tmp"] {
        fs::create_dir(root.join(place)).unwrap();
    }
    fs::create_dir_all(elsewhere.join("x")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, root.join("data")).unwrap();
    fixture.sandbox.containers[0].mounts[0].destination = "/data/x".into();
    // Whether it can be made is gVisor's business.
    drop(GVisor.create(&fixture.sandbox, soon()));
    let mut names: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["bin", "data", "dev", "proc", "tmp"], "the root on the host was changed");
    // Below it is where the link leads inside.
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0, "the root on the host was changed");
}
