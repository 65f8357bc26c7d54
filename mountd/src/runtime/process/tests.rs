//! Real processes in real control groups, of both versions where this machine has both.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::freezer::Version;
use super::*;
use crate::runtime::contract::{self, Fixture, eventually, soon};
use crate::runtime::{Machine, VolumeMount};

fn machine() -> Machine {
    Machine::default()
}

#[test]
fn a_sandbox_lives_its_whole_life() {
    contract::whole_life(&Process::new(), machine(), false);
}

/// Version 2 may be all there is, as on every current distribution: then there is no version 1 to be tried.
#[test]
fn a_sandbox_lives_its_whole_life_with_the_freezer_of_version_one() {
    let mounts = String::from_utf8_lossy(&fs::read("/proc/self/mountinfo").unwrap()).into_owned();
    let lines: String =
        mounts.lines().filter(|line| !line.contains(" - cgroup2 ")).map(|line| format!("{line}\n")).collect();
    let hierarchy = Hierarchy::among(&lines).or_else(|| Hierarchy::among(&mounts));
    let version = hierarchy.as_ref().map(|hierarchy| hierarchy.version);
    assert!(version == Some(Version::One) || !lines.contains("freezer"), "{version:?}");
    contract::whole_life(&Process { hierarchy }, machine(), false);
}

#[test]
fn deadlines_are_kept() {
    contract::deadlines(&Process::new(), machine());
}

#[test]
fn ports_are_reached_in_a_network_of_its_own_and_in_the_hosts() {
    let runtime = Process::new();
    for network in [Network::Own, Network::Host] {
        let fixture = Fixture::new(&runtime, network, machine());
        fixture.create();
        fixture.start();
        fixture.assert_answers();
    }
}

/// Runs a shell script as one user, and returns its status and what it printed.
fn run_as(user: (u32, u32), script: &str, adjust: impl FnOnce(&mut Fixture<'_>)) -> (Option<i32>, String) {
    let runtime = Process::new();
    let mut fixture = Fixture::new(&runtime, Network::None, machine());
    script.clone_into(fixture.sandbox.containers[0].command.last_mut().unwrap());
    fixture.sandbox.containers[0].user = user;
    adjust(&mut fixture);
    fixture.create();
    if let Err(error) = runtime.start(&fixture.sandbox, soon()) {
        return (None, error.to_string());
    }
    let status = eventually("the program has ended", || match fixture.state() {
        SandboxState::Exited { status, .. } => Some(status),
        _ => None,
    });
    (status, fixture.said())
}

#[test]
fn a_program_finds_its_arguments_environment_directory_and_user() {
    let script = r#"busybox env; busybox pwd; busybox id -u; busybox id -g; busybox hostname; busybox touch /vol/mine; echo "$0 $1""#;
    let (status, said) = run_as((1234, 567), script, |fixture| {
        let container = &mut fixture.sandbox.containers[0];
        container.command.extend(["an argument", "A=b $(x)"].map(str::to_owned));
        container.env.push(("SPACED".to_owned(), "a b 'c' \"d\"".to_owned()));
        container.working_directory = "/vol/www".into();
        std::os::unix::fs::chown(&fixture.volume, Some(1234), Some(567)).unwrap();
    });
    assert_eq!(status, Some(0), "{said}");
    let lines: Vec<_> = said.lines().collect();
    assert!(lines.contains(&"SPACED=a b 'c' \"d\""), "{said}");
    assert!(!said.contains("DURDIR_SANDBOX"), "{said}");
    let [directory, uid, gid, hostname, arguments] = lines[lines.len() - 5..] else { panic!("{said}") };
    assert_eq!((directory, uid, gid), ("/vol/www", "1234", "567"));
    assert!(!hostname.is_empty());
    assert_eq!(arguments, "an argument A=b $(x)");
}

#[test]
fn a_variable_may_have_the_name_of_an_option() {
    let (status, said) = run_as((0, 0), "", |fixture| {
        let container = &mut fixture.sandbox.containers[0];
        // A shell would drop such names. It is not found but in the template's root.
        container.command = ["/bin/busybox", "env"].map(str::to_owned).into();
        let named = [("--chdir", "/tmp"), ("-u", "PATH"), ("--", "x")];
        container.env.splice(0..0, named.map(|(name, value)| (name.to_owned(), value.to_owned())));
    });
    assert_eq!(status, Some(0), "{said}");
    for line in ["--chdir=/tmp", "-u=PATH", "--=x", "PATH=/bin"] {
        assert!(said.lines().any(|said| said == line), "{line} in {said}");
    }
}

#[test]
fn the_superuser_inside_has_no_power_over_the_host() {
    let script = "busybox mount -t tmpfs x /tmp && exit 1
        busybox mknod /tmp/disk b 8 0 && exit 2
        echo x >/proc/sys/kernel/core_pattern && exit 3
        [ $$ = 1 ] || exit 5
        exit 0";
    let (status, said) = run_as((0, 0), script, |_| {});
    assert_eq!(status, Some(0), "{said}");
}

#[test]
fn a_signal_that_ends_a_program_is_told() {
    let (status, said) = run_as((0, 0), "busybox sh -c 'kill -TERM $$'; exit $?", |_| {});
    assert_eq!(status, Some(128 + 15), "{said}");
}

#[test]
fn a_root_that_leads_a_volume_elsewhere_by_a_symbolic_link_is_refused() {
    let (status, said) = run_as((0, 0), "exit 0", |fixture| {
        std::os::unix::fs::symlink(fixture.scratch("sandbox"), fixture.scratch("root/trap")).unwrap();
        fixture.sandbox.containers[0].mounts[0].destination = "/trap/inside".into();
    });
    assert_eq!(status, None);
    assert!(said.contains("leads through a symbolic link: /trap/inside"), "{said}");
}

#[test]
fn two_containers_share_a_volume_and_the_network_and_are_paused_together() {
    let runtime = Process::new();
    let mut fixture = Fixture::new(&runtime, Network::None, machine());
    let mut second = fixture.sandbox.containers[0].clone();
    second.name = "second".to_owned();
    let script = "exec 3>>/a/b/log-2; n=0; until busybox wget -qO- 127.0.0.1:$PORT/ready; do :; done
        until [ -e /a/b/stop ]; do n=$((n + 1)); echo $n >&3; busybox sleep 0.01; done; exit 5";
    script.clone_into(second.command.last_mut().unwrap());
    second.mounts = vec![VolumeMount { destination: "/a/b".into(), ..second.mounts[0].clone() }];
    fixture.sandbox.containers.push(second);
    runtime.preflight(&fixture.sandbox).unwrap();
    fixture.create();
    fixture.start();
    fixture.assert_running("log");
    fixture.assert_running("log-2");
    fixture.pause();
    let second = fixture.lines("log-2");
    fixture.assert_stopped("log");
    assert_eq!(fixture.lines("log-2"), second);
    fixture.resume();
    fixture.assert_running("log-2");
    assert!(matches!(fixture.stop(), SandboxState::Exited { status: Some(5 | 7), .. }));
}

#[test]
fn mounts_of_a_container_are_not_seen_by_the_host() {
    let runtime = Process::new();
    let fixture = Fixture::new(&runtime, Network::None, machine());
    let device = fs::metadata(fixture.scratch("sandbox")).unwrap().dev();
    fixture.create();
    fixture.start();
    fixture.assert_running("log");
    let root = fixture.scratch("sandbox/containers/main/root");
    assert_eq!(fs::metadata(&root).unwrap().dev(), device);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}
