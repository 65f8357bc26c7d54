//! Programs that notice themselves when their memory and their volumes do not belong together.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use durdir_tests::support::*;
use serde_json::{Value, json};

use super::machines;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What an actor runs in gVisor.
const PROGRAM: &str = include_str!("agent.py");

/// Where an actor runs, and so what it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// `agent.py`, in gVisor.
    Gvisor,
    /// `guest.c`, in QEMU.
    Microvm,
}

impl Class {
    /// Returns the template of an actor that is captured with these scopes.
    pub(crate) fn template(self, commits: &Path, on_pause: &str, on_commit: &str) -> Value {
        match self {
            Class::Gvisor => template(commits, on_pause, on_commit),
            Class::Microvm => machines::template(commits, on_pause, on_commit),
        }
    }
}

/// A store with an actor `a`.
pub(crate) struct Agent {
    pub(crate) store: Store,
    pub(crate) commits: PathBuf,
    id: String,
}

impl Agent {
    /// Makes one in gVisor, and does not start it.
    pub(crate) fn created(on_pause: &str, on_commit: &str) -> Agent {
        Agent::created_from(Store::new(), |commits| template(commits, on_pause, on_commit))
    }

    /// Makes one of a template, which is told where commits go, and does not start it.
    pub(crate) fn created_from(store: Store, template: impl FnOnce(&Path) -> Value) -> Agent {
        let commits = store.side_dir();
        let file = store.side_dir().join("agent.json");
        fs::write(&file, template(&commits).to_string()).unwrap();
        store.ok(["actor", "create", "-f", file.to_str().unwrap(), "--id", "a"]);
        Agent { store, commits, id: "a".to_owned() }
    }

    /// Makes one in gVisor that has done some work.
    pub(crate) fn running(on_pause: &str, on_commit: &str) -> Agent {
        Agent::running_in(Class::Gvisor, on_pause, on_commit)
    }

    /// Makes one that has done some work.
    pub(crate) fn running_in(class: Class, on_pause: &str, on_commit: &str) -> Agent {
        Agent::created_from(Store::new(), |commits| class.template(commits, on_pause, on_commit)).started()
    }

    /// Starts it, and waits until it has done some work.
    pub(crate) fn started(self) -> Agent {
        self.ask("start");
        self.works();
        self
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
        let asked = self.store.durdir([&["--json", "actor", what, &self.id], options].concat());
        assert!(
            asked.status.success(),
            "{asked}\nwhat its program says: {}\n{}",
            self.complaint(),
            self.store.log_tail(),
        );
        serde_json::from_slice(&asked.stdout).unwrap()
    }

    /// Returns what the program says was wrong, whether it runs or not.
    fn complaint(&self) -> String {
        let volume = format!("{}.home", self.id);
        self.store.durdir(["snapshot", "create", &volume, "--name", "complaint"]);
        let (snapshot, place) = (format!("{volume}@complaint"), self.store.side_dir());
        let place_named = place.display().to_string();
        self.store.durdir(["mount", &volume, &place_named, "--snapshot", &snapshot]);
        let complaint = fs::read_to_string(place.join("wrong"));
        self.store.durdir(["umount", &place_named]);
        complaint.unwrap_or_else(|error| format!("nothing ({error})"))
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

    /// Returns how often the program was asked whether it is ready, and was.
    pub(crate) fn answered(&self) -> u64 {
        fs::metadata(self.path("home", "ready")).map_or(0, |file| file.len())
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

/// Has the program of a template keep a file open that has no name any more.
pub(crate) fn unlinking(mut template: Value) -> Value {
    template["containers"][0]["env"][1]["value"] = "yes".into();
    template
}

/// The template of such an actor in gVisor.
pub(crate) fn template(commits: &Path, on_pause: &str, on_commit: &str) -> Value {
    json!({
        "volumes": [{"name": "home", "durableDir": {}}, {"name": "db", "durableDir": {}}],
        "containers": [{
            "name": "agent",
            "rootfs": "/",
            "command": ["/usr/bin/python3", "-c", PROGRAM],
            "readyz": {"httpGet": {"port": 8080}},
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
