//! A gVisor sandbox whose home is a volume goes on while workers die.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use durdir_tests::support::*;
use nix::sys::signal::Signal;

const KILLS: usize = 50;
const LIMIT: Duration = Duration::from_secs(60);

/// Keeps one file open for appending, one that has no name any more, and a lock; every line it writes is numbered. Ends when
/// it finds `stop`, and says what it believes.
const PROGRAM: &str = r#"
import fcntl, os, time
home = '/home/agent/'
log = open(home + 'log', 'a')
hidden = open(home + 'hidden', 'w+')
os.unlink(home + 'hidden')
lock = open(home + 'lock', 'w')
fcntl.flock(lock, fcntl.LOCK_EX)
n = 0
while not os.path.exists(home + 'stop'):
    log.write('%d\n' % n)
    log.flush()
    hidden.seek(0)
    hidden.write('%d' % n)
    hidden.flush()
    hidden.seek(0)
    assert hidden.read() == '%d' % n
    os.rename(home + 'moving', home + 'moved') if os.path.exists(home + 'moving') else open(home + 'moving', 'w').close()
    n += 1
    time.sleep(0.002)
log.close()
open(home + 'believed', 'w').write('%d' % n)
"#;

struct Sandbox<'a> {
    root: &'a Path,
}

impl Sandbox<'_> {
    fn runsc(&self) -> Command {
        let mut runsc = Command::new("runsc");
        runsc.args(["--platform=systrap", "--network=none", "--ignore-cgroups", "--overlay2=root:memory"]);
        runsc.args(["--file-access-mounts=shared", "--root"]).arg(self.root);
        runsc
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to be deleted.
        drop(self.runsc().args(["delete", "-force", "agent"]).output());
    }
}

#[test]
fn sandbox_with_open_files_goes_on_through_fifty_kills() {
    let mount = Mount::empty();
    let store = mount.store();
    let (bundle, root) = (store.side_dir(), store.side_dir());
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/home/agent", "args": ["python3", "-c", PROGRAM],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "root": {"path": "/", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/home/agent", "type": "bind", "source": mount.root(), "options": ["rw"]},
        ],
        "linux": {"namespaces": [
            {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"},
        ]},
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let sandbox = Sandbox { root: &root };
    let mut command = sandbox.runsc();
    command.args(["run", "-detach", "-bundle"]).arg(&bundle).arg("agent");
    run(&mut command, LIMIT).ok();
    let lines = || fs::read_to_string(mount.path("log")).map_or(0, |log| log.lines().count());
    eventually("the sandbox writes", LIMIT, || (lines() > 10).then_some(()));
    for kill in 0..KILLS {
        let before = lines();
        store.kill_worker(Signal::SIGKILL);
        eventually(&format!("the sandbox writes on after kill {kill}"), LIMIT, || {
            (lines() > before).then_some(())
        });
    }
    mount.write("stop", "");
    let believed = eventually("the sandbox says what it believes", LIMIT, || {
        fs::read_to_string(mount.path("believed")).ok().filter(|text| !text.is_empty())
    });
    let expected: String = (0..believed.parse::<u64>().unwrap()).map(|line| format!("{line}\n")).collect();
    assert!(mount.text("log") == expected, "lines are missing or doubled");
    assert_eq!(store.takeovers(), KILLS as u64);
    drop(sandbox);
}
