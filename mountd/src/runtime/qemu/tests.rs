//! Real microVMs, emulated: what KVM can do differs from machine to machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use super::*;
use crate::runtime::contract::{self, Fixture, eventually, microvm, soon};
use crate::runtime::{Accelerator, Container, Machine};

fn machine() -> Machine {
    let directory = microvm();
    Machine {
        memory_bytes: 128 << 20,
        kernel: Some(directory.join("vmlinuz")),
        initramfs: Some(directory.join("initramfs")),
        accelerator: Accelerator::Tcg,
        ..Machine::default()
    }
}

#[test]
fn a_sandbox_lives_its_whole_life() {
    contract::whole_life(&Qemu, machine(), true);
}

#[test]
fn deadlines_are_kept() {
    contract::deadlines(&Qemu, machine());
}

#[test]
fn an_image_that_is_none_leaves_nothing() {
    contract::broken_image(&Qemu, machine());
}

#[test]
fn a_guest_finds_its_arguments_environment_directory_user_and_volumes() {
    let mut fixture = Fixture::new(&Qemu, Network::Own, machine());
    let second = fixture.scratch("second");
    fs::create_dir(&second).unwrap();
    std::os::unix::fs::chown(&second, Some(1234), Some(567)).unwrap();
    let container = &mut fixture.sandbox.containers[0];
    let script =
        r#"{ env; pwd; id -u; id -g; hostname; ip route; echo "$0 $1"; } >/other/place/told; exit 42"#;
    script.clone_into(container.command.last_mut().unwrap());
    container.command.extend(["an argument", "A=b $(x)"].map(str::to_owned));
    container.env.push(("LINES".to_owned(), "a\n'b' \"c\"".to_owned()));
    container.working_directory = "/vol/www".into();
    container.user = (1234, 567);
    container.mounts.push(crate::runtime::VolumeMount {
        // Longer than a virtio-fs tag may be.
        volume: "a".repeat(63),
        source: second.clone(),
        destination: "/other/place".into(),
    });
    Qemu.preflight(&fixture.sandbox).unwrap();
    fixture.create();
    fixture.start();
    let status = eventually("the guest has ended", || match fixture.state() {
        SandboxState::Exited { status, .. } => Some(status),
        _ => None,
    });
    assert_eq!(status, Some(42), "{}", fixture.said());
    let told = fs::read_to_string(second.join("told")).unwrap();
    assert!(told.contains("LINES=a\n'b' \"c\"\n"), "{told}");
    assert!(told.contains("default via 10.0.2.2"), "{told}");
    assert!(told.contains(&format!("/vol/www\n1234\n567\n{}\n", fixture.sandbox.id)), "{told}");
    assert!(told.ends_with("\nan argument A=b $(x)\n"), "{told}");
    assert_eq!(fs::metadata(second.join("told")).unwrap().uid(), 1234);
}

#[test]
fn what_does_not_fit_a_machine_is_refused() {
    let refusal = |change: fn(&mut Sandbox)| {
        let mut fixture = Fixture::new(&Qemu, Network::None, machine());
        change(&mut fixture.sandbox);
        Qemu.preflight(&fixture.sandbox).unwrap_err().to_string()
    };
    assert!(refusal(|s| s.network = Network::Host).starts_with("network: "));
    assert!(refusal(|s| s.machine.kernel = None).starts_with("kernel: "));
    assert!(refusal(|s| s.machine.initramfs = Some("/none".into())).starts_with("initramfs: "));
    assert!(refusal(|s| s.containers[0].rootfs = Some("/".into())).starts_with("containers.main.rootfs: "));
    let second = refusal(|s| {
        let second = Container { name: "second".to_owned(), ..s.containers[0].clone() };
        s.containers.push(second);
    });
    assert!(second.contains("one container"), "{second}");
}

#[test]
fn a_machine_that_was_killed_from_outside_has_exited() {
    let fixture = Fixture::new(&Qemu, Network::None, machine());
    fixture.create();
    let held = processes::Held::of(Qemu.pid(&fixture.sandbox).unwrap().unwrap()).unwrap().unwrap();
    held.kill().unwrap();
    assert!(held.wait(soon()).unwrap());
    assert_eq!(fixture.state(), SandboxState::Exited { container: "main".to_owned(), status: None });
    let error = Qemu.pause(&fixture.sandbox, soon()).unwrap_err();
    assert!(matches!(error, RuntimeError::Exited { .. }), "{error}");
    // From before the host was started anew: there is nothing any more.
    fs::write(fixture.sandbox.directory.join("boot"), "another\n").unwrap();
    assert_eq!(fixture.state(), SandboxState::Absent);
}

#[test]
fn the_accelerator_that_is_chosen_by_itself_is_remembered() {
    let mut fixture = Fixture::new(&Qemu, Network::None, machine());
    let kernel = kernel(&fixture.sandbox).unwrap();
    let choose = |sandbox: &Sandbox| accelerator::choose(sandbox, &kernel, soon()).unwrap();
    assert_eq!(choose(&fixture.sandbox), Kind::Tcg);
    fixture.sandbox.machine.accelerator = Accelerator::Auto;
    let chosen = choose(&fixture.sandbox);
    let again = |_| {
        let started = std::time::Instant::now();
        assert_eq!(choose(&fixture.sandbox), chosen);
        started.elapsed()
    };
    let best = (0..5).map(again).min().unwrap();
    assert!(best < Duration::from_millis(100), "it was tried once more: {best:?}");
}

/// Returns what QEMU says of its migration.
fn migration(qmp: &mut Qmp) -> String {
    let status = qmp.execute("query-migrate", json!({})).unwrap();
    status.get("status").and_then(Value::as_str).unwrap_or("none").to_owned()
}

/// A save belongs to QEMU, not to the worker that began it, and would stop the machine once more when it is over.
#[test]
fn a_save_whose_worker_died_does_not_stop_the_machine_that_was_resumed() {
    let fixture = Fixture::new(&Qemu, Network::None, machine());
    fixture.create();
    fixture.start();
    fixture.assert_running("log");
    fixture.pause();
    let mut qmp = Qmp::open(&fixture.sandbox, MONITOR, soon()).unwrap();
    qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 1 << 20 })).unwrap();
    let path = fixture.image("image").join(MEMORY);
    qmp.execute("migrate", json!({ "channels": [channel(&path)] })).unwrap();
    eventually("memory is written", || (migration(&mut qmp) == "active").then_some(()));
    drop(qmp);
    fixture.resume();
    let mut qmp = Qmp::open(&fixture.sandbox, MONITOR, soon()).unwrap();
    qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 1_u64 << 40 })).unwrap();
    eventually("the save is over", || {
        ["none", "completed", "failed", "cancelled"].contains(&&*migration(&mut qmp)).then_some(())
    });
    drop(qmp);
    fixture.assert_running("log");
}

/// A guest with a device that QEMU does not save.
#[test]
fn a_machine_that_cannot_be_saved_is_told_before_it_is_paused() {
    let mut fixture = Fixture::new(&Qemu, Network::None, machine());
    Qemu.preflight(&fixture.sandbox).unwrap();
    let unsaved =
        ["-device", "qemu-xhci", "-chardev", "null,id=nobody", "-device", "usb-serial,chardev=nobody"];
    fixture.sandbox.machine.runtime_flags = unsaved.map(str::to_owned).into();
    fixture.create();
    fixture.start();
    fixture.assert_running("log");
    let error = Qemu.check_save(&fixture.sandbox).unwrap_err();
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("usb-serial"), "{error}");
    fixture.assert_running("log");
    fixture.pause();
    let started = Instant::now();
    Qemu.save(&fixture.sandbox, &fixture.image("image"), soon()).unwrap_err();
    assert!(started.elapsed() < CLEAN_UP, "nothing was written, and yet its end was waited for");
    fixture.resume();
}

#[test]
fn a_machine_whose_volume_is_not_served_any_more_has_ended() {
    let fixture = Fixture::new(&Qemu, Network::None, machine());
    fixture.create();
    fixture.start();
    fixture.assert_running("log");
    let volume = fixture.volume.to_str().unwrap().as_bytes();
    let serves = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == volume)
    };
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let servers: Vec<u32> = pids.filter(serves).collect();
    // The last one has the volume; those before it wait for it.
    let held = processes::Held::of(*servers.iter().max().unwrap()).unwrap().unwrap();
    held.kill().unwrap();
    let status = eventually("the machine has ended", || match fixture.state() {
        SandboxState::Exited { status, .. } => Some(status),
        _ => None,
    });
    assert_eq!(status, None);
}

/// Stands for QEMU: tells what it is asked to do on behalf of people, and answers but what it is `deaf` to.
fn monitor(fixture: &Fixture<'_>, deaf: &'static str) -> Receiver<String> {
    let listener = UnixListener::bind(fixture.sandbox.directory.join(SECOND_MONITOR)).unwrap();
    let (told, asked) = mpsc::channel();
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(b"{\"QMP\": {}}\n").unwrap();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let request: Value = serde_json::from_str(&line.unwrap()).unwrap();
                let command = &request["arguments"]["command-line"];
                if let Some(command) = command.as_str()
                    && told.send(command.to_owned()).is_err()
                {
                    return;
                }
                if let Some(added) =
                    command.as_str().and_then(|command| command.strip_prefix("hostfwd_add net tcp:"))
                {
                    // It is open until the test is over.
                    let address = added.split_once('-').unwrap().0;
                    open.push(TcpListener::bind(address).unwrap());
                }
                if !request.to_string().contains(deaf) {
                    stream.write_all(b"{\"return\": {}}\n").unwrap();
                }
            }
        }
    });
    asked
}

#[test]
fn no_port_stays_open_into_a_guest_that_is_not_reached_in_time() {
    // Before the port is known to be open, and after.
    for deaf in ["hostfwd_add", "query-status"] {
        let fixture = Fixture::new(&Qemu, Network::None, machine());
        let asked = monitor(&fixture, deaf);
        let late = Qemu.connect(&fixture.sandbox, 80, Deadline::after(Duration::from_millis(100)));
        assert!(matches!(late, Err(RuntimeError::TimedOut { .. })), "{late:?}");
        let added = asked.recv_timeout(Duration::from_secs(20)).unwrap();
        let port =
            added.strip_prefix("hostfwd_add net tcp:127.0.0.1:").unwrap().strip_suffix("-:80").unwrap();
        let removed = asked.recv_timeout(Duration::from_secs(20)).expect("a port stays open");
        assert_eq!(removed, format!("hostfwd_remove net tcp:127.0.0.1:{port}"));
    }
}
