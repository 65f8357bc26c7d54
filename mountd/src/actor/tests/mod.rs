//! The protocol against a world that fails, or in which the process dies, at every single event.

mod fake;
mod found;
mod keeping;
mod protocol;
mod refusals;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::Arc;

use durdir_fs::ids::RequestId;
use durdir_fs::store::record::OutcomeV1;
use durdir_fs::store::{Receipt, RequestKey, Store, StoreOptions};
use tempfile::TempDir;

use super::driver::{Outcome, Request};
use super::record::Actor;
use super::registry::Actors;
use super::state::{CaptureKind, Standing};
use crate::api::ApiError;
use crate::template::{Scope, Template};
use fake::Host;

/// A node whose process may die: what is on the disk and on the host outlives it, what is in memory does not.
struct Node {
    dir: TempDir,
    store: Arc<Store>,
    host: Host,
    actors: Arc<Actors>,
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ask {
    Start,
    Resume,
    Capture(CaptureKind, Option<Scope>),
    Remove,
}

impl Node {
    fn new() -> Node {
        Node::with_store("store".as_ref())
    }

    fn with_store(name: &OsStr) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(&dir.path().join(name), &options).unwrap();
        let host = Host::new(&store);
        let actors = load(&store, &host);
        Node { dir, store, host, actors }
    }

    /// A node with an actor `a` with two volumes that runs and has done some work.
    fn running(on_pause: Scope, on_commit: Scope) -> Node {
        Node::new().running_one(on_pause, on_commit)
    }

    fn running_one(self, on_pause: Scope, on_commit: Scope) -> Node {
        self.create("a", on_pause, on_commit);
        self.ask("a", Ask::Start).unwrap();
        self.work(3);
        self
    }

    fn template(&self, on_pause: Scope, on_commit: Scope, class: &str) -> Template {
        let location = self.dir.path().join("commits");
        let sandbox = if class == "microvm" {
            serde_json::json!({"runtime": "qemu", "kernel": "/k", "initramfs": "/i", "memory": "256MiB"})
        } else {
            serde_json::json!({})
        };
        let mut container = serde_json::json!({
            "name": "main", "command": ["/bin/work"],
            "volumeMounts": [{"name": "home", "mountPath": "/home"}, {"name": "db", "mountPath": "/db"}],
        });
        if class == "gvisor" {
            container["rootfs"] = "/".into();
        }
        let document = serde_json::json!({
            "volumes": [{"name": "home", "durableDir": {}}, {"name": "db", "durableDir": {}}],
            "containers": [container],
            "sandboxClass": class,
            "sandbox": sandbox,
            "snapshotsConfig": {
                "location": format!("file://{}", location.display()),
                "onPause": on_pause.name(), "onCommit": on_commit.name(),
            },
        });
        Template::parse(document.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn create(&self, id: &str, on_pause: Scope, on_commit: Scope) -> Outcome {
        let template = self.template(on_pause, on_commit, "gvisor");
        self.create_from(template, Some(id), None).unwrap()
    }

    fn create_from(
        &self,
        template: Template,
        id: Option<&str>,
        begun: Option<String>,
    ) -> Result<Outcome, ApiError> {
        let begin = |operation: &str| {
            let operation = operation.to_owned();
            Receipt::new(intent_key(), move |(): &()| OutcomeV1::Begun(operation.into_bytes()))
        };
        let request = Request { begin: &begin, begun, at_the_end: false };
        self.actors.create(template, id.map(str::to_owned), &request, Receipt::none())
    }

    fn fork(&self, commit: &str, id: &str, scope: Option<Scope>) -> Result<Outcome, ApiError> {
        self.fork_with(commit, id, scope, None)
    }

    fn fork_with(
        &self,
        commit: &str,
        id: &str,
        scope: Option<Scope>,
        template: Option<Template>,
    ) -> Result<Outcome, ApiError> {
        let begin = |_: &str| Receipt::none();
        let request = Request { begin: &begin, begun: None, at_the_end: false };
        self.actors.fork(commit, id.to_owned(), template, scope, &request, Receipt::none())
    }

    fn ask(&self, id: &str, ask: Ask) -> Result<Option<Outcome>, ApiError> {
        self.ask_again(id, ask, None)
    }

    /// Asks with the intent that an earlier attempt has stored. Which operation that was is on record under a key of the test's own.
    fn ask_again(&self, id: &str, ask: Ask, begun: Option<String>) -> Result<Option<Outcome>, ApiError> {
        let begin = |operation: &str| {
            let operation = operation.to_owned();
            Receipt::new(intent_key(), move |(): &()| OutcomeV1::Begun(operation.into_bytes()))
        };
        let request = Request { begin: &begin, begun, at_the_end: false };
        match ask {
            Ask::Start => self.actors.start(id, &request, Receipt::none()).map(Some),
            Ask::Resume => self.actors.resume(id, &request, Receipt::none()).map(Some),
            Ask::Capture(kind, scope) => {
                self.actors.make_capture(id, kind, scope, &request, Receipt::none()).map(Some)
            }
            Ask::Remove => self.actors.remove(id, &request, Receipt::none()).map(|()| None),
        }
    }

    /// Returns the operation that was begun last.
    fn begun(&self) -> Option<String> {
        match self.store.reply_to(intent_key()).unwrap() {
            durdir_fs::store::Known::Outcome(OutcomeV1::Begun(operation)) => {
                Some(String::from_utf8(operation).unwrap())
            }
            _ => None,
        }
    }

    /// The process dies, and the next one recovers every actor.
    fn restart(&mut self) {
        self.host.calm();
        self.actors = load(&self.store, &self.host);
        for actor in self.actors.all() {
            let turn = self.actors.try_take_own(&actor.id).unwrap();
            self.actors.recover_one(turn);
        }
    }

    fn actor(&self) -> Actor {
        self.actors.get("a").unwrap()
    }

    fn standing(&self) -> Standing {
        self.actor().document.standing
    }

    /// Every sandbox that runs does something so many times.
    fn work(&self, times: usize) {
        (0..times).for_each(|_| self.host.work());
    }

    /// What must hold whenever nothing is in hand.
    #[track_caller]
    fn check(&self, when: &str) {
        self.host.check(when);
        let actors = self.actors.all();
        for actor in &actors {
            assert_eq!(actor.document.operation, None, "{when}: something is still in hand");
            let runs = self.host.runs(&actor.document.sandbox);
            assert_eq!(
                runs,
                actor.document.standing == Standing::Running,
                "{when}: {:?}",
                actor.document.standing
            );
            let directory = self.actors.directory.of(&actor.id);
            let mounted = runs && !actor.volumes.is_empty();
            assert_eq!(directory.volumes().exists(), mounted, "{when}: mount points");
        }
        // No half capture: what has a directory has a record, and every snapshot belongs to a record.
        let captures = self.actors.all_captures();
        let here = captures.iter().filter(|capture| self.actors.has_files(capture.id));
        let known: BTreeSet<String> = here.map(|capture| capture.id.to_string()).collect();
        for actor in &actors {
            for found in self.actors.directory.of(&actor.id).list_captures().unwrap() {
                assert!(known.contains(&found), "{when}: files of no capture: {found}");
            }
        }
        let held: BTreeSet<(u32, u64)> = captures
            .iter()
            .flat_map(|capture| &capture.snapshots)
            .map(|held| (held.volume.0, held.epoch.0))
            .collect();
        for volume in self.store.volumes().unwrap() {
            let owned = actors.iter().any(|actor| actor.volumes.contains(&volume.id));
            let published = self.actors.is_published(&volume.name, volume.id);
            assert!(owned || published, "{when}: a volume of nobody: {}", volume.name);
        }
        for snapshot in self.store.snapshots(None).unwrap() {
            let volume = self.store.volume(&snapshot.volume).unwrap();
            assert!(
                held.contains(&(volume.id.0, snapshot.epoch.0)),
                "{when}: a snapshot of no capture: {}",
                snapshot.snapshot
            );
        }
        let report = durdir_fs::check::check(&self.store, durdir_fs::check::Repair::No).unwrap();
        assert!(report.issues.is_empty(), "{when}: {:?}", report.issues);
    }
}

fn load(store: &Arc<Store>, host: &Host) -> Arc<Actors> {
    Arc::new(Actors::load(Arc::clone(store), Box::new(host.clone())).unwrap())
}

fn intent_key() -> RequestKey {
    RequestKey::new(RequestId([9; 16]), "test", &[])
}
