//! A program that notices itself when its memory and its volumes do not belong together.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use durdir_tests::support::*;
use serde_json::{Value, json};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Keeps a file open for append, one that it rewrites, one that has no name any more if it is told so, one that is mapped, a directory
/// and a lock, in two volumes. Before it writes the next number it looks whether everything says the last one.
pub(crate) const PROGRAM: &str = r#"
import fcntl, mmap, os, time
home, db = '/home/agent/', '/srv/db/'
log = open(home + 'log', 'a')
number = sum(1 for _ in open(home + 'log'))
def number_file(path):
    file = open(path, 'w+')
    file.write('%012d' % number)
    file.flush()
    return file
state = number_file(db + 'state')
hidden = number_file(home + 'hidden')
if os.environ['UNLINK'] == 'yes':
    os.unlink(home + 'hidden')
mapped_file = number_file(db + 'mapped')
mapped = mmap.mmap(mapped_file.fileno(), 12)
lock = open(home + 'lock', 'w')
fcntl.flock(lock, fcntl.LOCK_EX)
directory = os.open(home, os.O_RDONLY)
def same(what, found):
    if int(found) != number:
        open(home + 'wrong', 'w').write('%s says %s, not %d' % (what, found, number))
        raise SystemExit(17)
def read(file):
    file.seek(0)
    return file.read(12)
while True:
    same('the log', len(open(home + 'log').read().splitlines()))
    same('the state', open(db + 'state').read())
    same('the open state', read(state))
    same('the hidden file', read(hidden))
    same('the mapping', mapped[0:12])
    assert 'log' in os.listdir(directory)
    number += 1
    log.write('%d\n' % number)
    log.flush()
    for file in (state, hidden):
        file.seek(0)
        file.write('%012d' % number)
        file.flush()
    mapped[0:12] = b'%012d' % number
    time.sleep(0.01)
"#;

/// A store with an actor `a`.
pub(crate) struct Agent {
    pub(crate) store: Store,
    pub(crate) commits: PathBuf,
    id: String,
}

impl Agent {
    /// Makes one in gVisor, and does not start it.
    pub(crate) fn created(on_pause: &str, on_commit: &str) -> Agent {
        Agent::created_from(|commits| template(commits, on_pause, on_commit))
    }

    /// Makes one of a template, which is told where commits go, and does not start it.
    pub(crate) fn created_from(template: impl FnOnce(&Path) -> Value) -> Agent {
        let store = Store::new();
        let commits = store.side_dir();
        let file = store.side_dir().join("agent.json");
        fs::write(&file, template(&commits).to_string()).unwrap();
        store.ok(["actor", "create", "-f", file.to_str().unwrap(), "--id", "a"]);
        Agent { store, commits, id: "a".to_owned() }
    }

    /// Makes one that has done some work.
    pub(crate) fn running(on_pause: &str, on_commit: &str) -> Agent {
        let agent = Agent::created(on_pause, on_commit);
        agent.ask("start");
        agent.works();
        agent
    }

    /// Returns another actor of the same store.
    pub(crate) fn other(&self, id: &str) -> Agent {
        Agent { store: self.store.clone(), commits: self.commits.clone(), id: id.to_owned() }
    }

    #[track_caller]
    pub(crate) fn ask(&self, what: &str) -> Value {
        self.ask_with(what, &[])
    }

    #[track_caller]
    pub(crate) fn ask_with(&self, what: &str, options: &[&str]) -> Value {
        self.store.json([&["actor", what, &self.id], options].concat())
    }

    pub(crate) fn show(&self) -> Value {
        self.store.json(["actor", "show", &self.id])
    }

    #[track_caller]
    pub(crate) fn state(&self) -> String {
        self.show()["state"].as_str().unwrap().to_owned()
    }

    /// Returns where a file of a volume is while the actor runs.
    pub(crate) fn path(&self, volume: &str, file: &str) -> PathBuf {
        self.store.path().join("actors").join(&self.id).join("volumes").join(volume).join(file)
    }

    /// Returns how many numbers the program has written.
    pub(crate) fn written(&self) -> usize {
        fs::read_to_string(self.path("home", "log")).map_or(0, |log| log.lines().count())
    }

    /// Waits until the program has written some more, and found everything in order over that.
    #[track_caller]
    pub(crate) fn works(&self) {
        let before = self.written();
        eventually(&format!("actor {} writes", self.id), LIMIT, || {
            let wrong = fs::read_to_string(self.path("home", "wrong")).unwrap_or_default();
            assert_eq!(wrong, "", "{}", self.id);
            (self.written() > before + 5).then_some(())
        });
    }

    /// Asserts that the numbers have no gap.
    #[track_caller]
    pub(crate) fn check(&self) {
        let log = fs::read_to_string(self.path("home", "log")).unwrap();
        for (at, line) in log.lines().enumerate() {
            assert_eq!(line, (at + 1).to_string(), "a gap in the log of {}", self.id);
        }
    }

    /// Returns where the files of the last capture on this node lie.
    pub(crate) fn capture_files(&self) -> PathBuf {
        let id = self.show()["last_capture"]["id"].as_str().unwrap().to_owned();
        self.store.path().join("actors").join(&self.id).join("captures").join(id)
    }
}

/// The template of such an actor.
pub(crate) fn template(commits: &Path, on_pause: &str, on_commit: &str) -> Value {
    json!({
        "volumes": [{"name": "home", "durableDir": {}}, {"name": "db", "durableDir": {}}],
        "containers": [{
            "name": "agent",
            "rootfs": "/",
            "command": ["/usr/bin/python3", "-c", PROGRAM],
            "env": [{"name": "PATH", "value": "/usr/bin:/bin"}, {"name": "UNLINK", "value": "no"}],
            "workingDir": "/",
            "volumeMounts": [
                {"name": "home", "mountPath": "/home/agent"}, {"name": "db", "mountPath": "/srv/db"},
            ],
        }],
        "sandboxClass": "gvisor",
        "snapshotsConfig": {
            "location": format!("file://{}", commits.display()), "onPause": on_pause, "onCommit": on_commit,
        },
    })
}
