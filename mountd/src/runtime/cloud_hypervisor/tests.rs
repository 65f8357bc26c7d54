//! The wire protocol, against a stand-in that refuses what the real one refuses (`fake.py`); virtiofsd is real. No machine that runs tests is
//! sure to have KVM.

use std::fs;

use super::*;
use crate::runtime::Machine;
use crate::runtime::contract::{Fixture, eventually, microvm, soon};
use crate::runtime::readiness::{HttpGet, Pace, await_ready};
use crate::testing::write_program;

struct Fake {
    runtime: CloudHypervisor,
    _directory: tempfile::TempDir,
}

fn fake() -> Fake {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("cloud-hypervisor");
    write_program(&program, include_bytes!("fake.py"));
    Fake { runtime: CloudHypervisor { program, kvm: "/dev/null".into() }, _directory: directory }
}

fn fixture(runtime: &CloudHypervisor) -> Fixture<'_> {
    let directory = microvm();
    let machine = Machine {
        kernel: Some(directory.join("vmlinuz")),
        initramfs: Some(directory.join("initramfs")),
        ..Machine::default()
    };
    Fixture::new(runtime, Network::None, machine)
}

fn count(fixture: &Fixture<'_>) -> u64 {
    let text = fs::read_to_string(fixture.sandbox.directory.join("fake-count"));
    text.ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[test]
fn a_machine_is_created_paused_saved_and_restored() {
    let fake = fake();
    let abilities = fake.runtime.probe(soon()).unwrap();
    assert_eq!((abilities.version.as_str(), abilities.memory), ("v0.0.0-fake", true));
    let fixture = fixture(&fake.runtime);
    fake.runtime.preflight(&fixture.sandbox).unwrap();
    assert_eq!(fixture.state(), SandboxState::Absent);
    fixture.create();
    fixture.create();
    assert_eq!(fixture.state(), SandboxState::Created);
    fixture.start();
    fixture.start();
    assert_eq!(fixture.state(), SandboxState::Running);
    assert!(fake.runtime.pid(&fixture.sandbox).unwrap().is_some());
    eventually("the machine counts", || (count(&fixture) > 10).then_some(()));

    // The real one saves only what stands still.
    let error = fake.runtime.save(&fixture.sandbox, &fixture.image("running"), soon()).unwrap_err();
    assert!(error.to_string().contains("the VM is Running"), "{error}");
    fixture.pause();
    fixture.pause();
    assert_eq!(fixture.state(), SandboxState::Paused);
    let image = fixture.image("image");
    assert_eq!(fixture.save(&image), AfterSave::Paused);
    fixture.resume();
    fixture.resume();
    assert_eq!(fixture.state(), SandboxState::Running);
    fixture.kill();
    assert_eq!(fixture.state(), SandboxState::Absent);
    assert_eq!(fake.runtime.pid(&fixture.sandbox).unwrap(), None);

    let saved: u64 = fs::read_to_string(image.join("memory-ranges")).unwrap().parse().unwrap();
    fs::remove_file(fixture.sandbox.directory.join("fake-count")).unwrap();
    fixture.restore(&image);
    assert_eq!(fixture.state(), SandboxState::Running);
    let next = eventually("the machine counts on", || Some(count(&fixture)).filter(|count| *count > 0));
    assert!(next > saved);
}

/// A machine that was saved in one directory goes on in another: sockets and files are those of the new one.
#[test]
fn an_image_is_restored_in_another_directory_and_not_changed() {
    let fake = fake();
    let first = fixture(&fake.runtime);
    first.create();
    first.start();
    first.pause();
    let image = first.image("image");
    first.save(&image);
    let path = image.join("config.json");
    let mut description: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    description["fs"][0]["socket"] = json!("/elsewhere/v0.sock");
    description["payload"]["kernel"] = json!("/elsewhere/vmlinuz");
    description["serial"]["file"] = json!("/elsewhere/console");
    fs::write(&path, description.to_string()).unwrap();
    first.kill();
    let second = fixture(&fake.runtime);
    second.restore(&image);
    assert_eq!(second.state(), SandboxState::Running);
    assert_eq!(fs::read_to_string(&path).unwrap(), description.to_string());
}

#[test]
fn a_broken_image_leaves_nothing() {
    let fake = fake();
    let fixture = fixture(&fake.runtime);
    let image = fixture.image("image");
    for content in ["", "{", "[]", "{}"] {
        fs::write(image.join("config.json"), content).unwrap();
        assert!(fake.runtime.restore(&fixture.sandbox, &image, soon()).is_err(), "{content}");
        assert_eq!(fixture.state(), SandboxState::Absent);
    }
}

#[test]
fn a_monitor_that_ended_has_exited_and_one_without_a_machine_is_remains() {
    let fake = fake();
    let fixture = fixture(&fake.runtime);
    fake.runtime.launch(&fixture.sandbox, soon()).unwrap();
    assert_eq!(fixture.state(), SandboxState::Absent);
    fixture.create();
    fixture.start();
    api::call(&fixture.sandbox, "PUT", "vm.shutdown", None, soon()).unwrap();
    let exited = SandboxState::Exited { container: "main".to_owned(), status: None };
    assert_eq!(fixture.state(), exited);
    let pid = fake.runtime.pid(&fixture.sandbox).unwrap().unwrap();
    let held = processes::Held::of(pid).unwrap().unwrap();
    held.kill().unwrap();
    assert!(held.wait(soon()).unwrap());
    assert_eq!(fixture.state(), exited);
    let error = fake.runtime.pause(&fixture.sandbox, soon()).unwrap_err();
    assert!(matches!(error, RuntimeError::Exited { .. }), "{error}");
}

#[test]
fn what_it_cannot_do_is_refused() {
    let fake = fake();
    let fixture = fixture(&fake.runtime);
    let refusal = |change: fn(&mut Sandbox)| {
        let mut sandbox = fixture.sandbox.clone();
        change(&mut sandbox);
        fake.runtime.preflight(&sandbox).unwrap_err().to_string()
    };
    assert!(refusal(|s| s.network = Network::Own).starts_with("network: "));
    assert!(refusal(|s| s.machine.accelerator = Accelerator::Tcg).starts_with("accelerator: "));
    assert!(refusal(|s| s.machine.runtime_flags.push("-v".to_owned())).starts_with("runtimeFlags -v: "));
    let error = fake.runtime.connect(&fixture.sandbox, 80, soon()).unwrap_err();
    assert!(matches!(error, RuntimeError::Unsupported { .. }));
    // Nobody waits for what can never come.
    let wanted = HttpGet { path: "/".to_owned(), port: 80 };
    let error = await_ready(&fake.runtime, &fixture.sandbox, [(wanted, Pace::default())]).unwrap_err();
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
    let without_kvm =
        CloudHypervisor { program: fake.runtime.program.clone(), kvm: "/dev/no-such-device".into() };
    let error = without_kvm.preflight(&fixture.sandbox).unwrap_err();
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
}

#[test]
fn only_a_monitor_that_nobody_has_any_more_has_ended() {
    let fake = fake();
    let fixture = fixture(&fake.runtime);
    machine::is_made(&fixture.sandbox).unwrap();
    let monitor = fixture.sandbox.directory.join(MONITOR);
    let answers = |status: &'static str, body: &'static str| {
        let listener = UnixListener::bind(&monitor).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            std::io::Read::read(&mut stream, &mut request).unwrap();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        });
        let state = fake.runtime.state(&fixture.sandbox, soon());
        server.join().unwrap();
        fs::remove_file(&monitor).unwrap();
        state
    };
    let absent = answers("500 No", "Error from API: The VM info is not available: VM is not created");
    assert_eq!(absent.unwrap(), SandboxState::Absent);
    assert!(answers("500 No", "out of memory").is_err());
    assert!(answers("429 Later", "").is_err());
    // Nobody listens at what is no socket of anybody: not there, or left behind.
    let exited = SandboxState::Exited { container: "main".to_owned(), status: None };
    assert_eq!(fixture.state(), exited);
    drop(UnixListener::bind(&monitor).unwrap());
    assert_eq!(fixture.state(), exited);
    fs::remove_file(&monitor).unwrap();
    // That it cannot be told says nothing.
    std::os::unix::fs::symlink(&monitor, &monitor).unwrap();
    assert!(fake.runtime.state(&fixture.sandbox, soon()).is_err());
    assert!(fake.runtime.pid(&fixture.sandbox).is_err());
    fs::remove_file(&monitor).unwrap();
}
