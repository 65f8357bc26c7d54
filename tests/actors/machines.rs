//! MicroVMs in QEMU, emulated: no machine that runs tests is sure to have KVM. They need what `examples/microvm/build` makes,
//! virtiofsd in `PATH`, and what it takes to compile a program for them; `scripts/test` provides all of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use durdir_tests::support::{Store, eventually};

use super::agent::{Agent, Class, LIMIT, unlinking};
use super::shims;

fn microvm() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let directory = variable("DURDIR_MICROVM").or_else(|| Some(cache()?.join("durdir/microvm"))).unwrap();
    assert!(
        directory.join("initramfs").is_file(),
        "no microVM in {0}: run examples/microvm/build {0}",
        directory.display()
    );
    directory
}

/// Returns the initial file system with `guest.c` in it, as `/bin/guest`. The kernel takes several archives, one after the other.
fn initramfs() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (root, made) = (directory.join("guest-root"), directory.join("guest-initramfs"));
        let part = directory.join(format!("guest-initramfs.{}", std::process::id()));
        fs::create_dir_all(root.join("bin")).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/actors/guest.c");
        let compiled = Command::new("gcc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o"])
            .arg(root.join("bin/guest"))
            .args([source, "-lsqlite3", "-lpthread", "-ldl", "-lm"])
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        fs::copy(microvm().join("initramfs"), &part).unwrap();
        let appended = Command::new("sh")
            .args(["-c", "find bin | cpio --quiet -o -H newc >>\"$1\"", "sh"])
            .arg(&part)
            .current_dir(&root)
            .status()
            .unwrap();
        assert!(appended.success());
        fs::rename(&part, &made).unwrap();
        made
    })
}

/// The template of such an actor.
pub(crate) fn template(commits: &Path, on_pause: &str, on_commit: &str) -> Value {
    let machine = microvm();
    json!({
        "volumes": [{"name": "home", "durableDir": {}}, {"name": "db", "durableDir": {}}],
        "containers": [{
            "name": "guest",
            "command": ["/bin/guest"],
            "env": [{"name": "PATH", "value": "/bin"}, {"name": "UNLINK", "value": "no"}],
            "readyz": {"httpGet": {"port": 8080}},
            "volumeMounts": [
                {"name": "home", "mountPath": "/home/agent"}, {"name": "db", "mountPath": "/srv/db"},
            ],
        }],
        "sandboxClass": "microvm",
        "sandbox": {
            "runtime": "qemu", "memory": "256MiB", "cpus": 1, "accelerator": "tcg",
            "kernel": machine.join("vmlinuz"), "initramfs": initramfs(),
        },
        "snapshotsConfig": {
            "location": format!("file://{}", commits.display()), "onPause": on_pause, "onCommit": on_commit,
        },
    })
}

#[test]
fn a_machine_is_committed_and_forked() {
    let agent = Agent::running_in(Class::Microvm, "Full", "Full");
    let before = agent.written();
    let committed = agent.ask("commit");
    assert_eq!(committed["state"], "running");
    agent.store.ok(["actor", "fork", committed["capture"].as_str().unwrap(), "b"]);
    let fork = agent.other("b");
    fork.ask("resume");
    fork.works();
    fork.check();
    assert!(fork.written() > before);
    agent.works();
    agent.check();
    agent.ask("rm");
    fork.ask("rm");
}

#[test]
fn a_machine_keeps_its_removed_files_open() {
    let template = |commits: &Path| unlinking(template(commits, "Full", "Full"));
    let agent = Agent::created_from(Store::new(), template).started();
    // Its program finds what it wrote into the file that it removed, and writes on, whatever comes.
    for _ in 0..2 {
        agent.ask("pause");
        agent.ask("resume");
        agent.works();
        agent.check();
    }
    agent.store.kill_worker(Signal::SIGKILL);
    agent.works();
    let committed = agent.ask("commit");
    let fork = agent.other("b");
    agent.store.ok(["actor", "fork", committed["capture"].as_str().unwrap(), "b"]);
    fork.ask("resume");
    for one in [&agent, &fork] {
        one.works();
        one.check();
    }
    fork.ask("pause");
    fork.ask("resume");
    fork.works();
    // Without memory nothing refers to it, and it takes no room.
    let inodes = || agent.store.volume("a.home")["used_inodes"].as_u64().unwrap();
    let with_it = inodes();
    agent.ask_with("pause", &["--scope", "Data"]);
    // What was mounted is taken away in the background.
    eventually("it is gone", LIMIT, || (inodes() + 1 == with_it).then_some(()));
    for one in [agent, fork] {
        one.ask("rm");
    }
}

/// They would run the machine, and only fail when its memory is saved.
#[test]
fn programs_that_are_too_old_are_refused_before_a_machine_is_started() {
    for (name, version) in
        [("qemu-system-x86_64", "QEMU emulator version 7.2.0 (Debian)"), ("virtiofsd", "virtiofsd 1.10.0")]
    {
        let script = format!("[ \"$1\" != --version ] || exec echo '{version}'\nexec $REAL \"$@\"\n");
        let store = shims::store_with(&[(name, script)]);
        let agent = Agent::created_from(store, |commits| template(commits, "Full", "Full"));
        let complaint = agent.store.refused(5, ["actor", "start", "a"]);
        let number = version.split(' ').find(|word| word.contains('.')).unwrap();
        assert!(
            complaint.contains(&format!("version {number} "))
                || complaint.contains(&format!("virtiofsd {number} ")),
            "{complaint}"
        );
        assert_eq!(agent.state(), "created");
    }
}
