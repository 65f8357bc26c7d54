//! The worker dies at each step that is stored, and after each effect, of all that is done with an actor: the actor runs as before, or it
//! was done. Nothing is frozen, and nothing is half there.
//!
//! One actor goes through all of them. The client asks again, and gets what it asked for; or it is gone with the worker, and the next one
//! brings the actor where it belongs by itself: by turns, and machines, which are slow, come to some places only. With
//! `DURDIR_EVERY_STEP=1` every class comes to every place with both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use durdir_tests::support::*;
use serde_json::Value;

use super::agent::{Agent, Class, LIMIT};

/// Where a worker dies; `+`: and where its successor does, over the same.
type Place = &'static str;

/// What becomes of what a worker was doing that died, when nobody asks for it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It never was.
    Undone,
    /// It is done.
    Done,
}
use End::{Done, Undone};

/// Until a capture is bound.
const UNBOUND: [(Place, End); 9] = [
    ("actor.quiesce", Undone),
    ("actor.paused", Undone),
    ("actor.save", Undone),
    ("actor.saved", Undone),
    ("actor.cut", Undone),
    ("actor.was-cut", Undone),
    ("actor.bind", Undone),
    ("actor.written", Undone),
    ("actor.was-cut+actor.aborted", Undone),
];

const PAUSE: [(Place, End); 8] = [
    ("actor.manifest", Done),
    ("actor.bound", Done),
    ("actor.killed", Done),
    ("actor.captured", Done),
    ("actor.tidy", Done),
    ("actor.unmounted", Done),
    ("actor.killed+actor.unmounted", Done),
    ("api.before-reply", Done),
];

const SUSPEND: [(Place, End); 10] = [
    ("actor.manifest", Done),
    ("actor.bound", Done),
    ("actor.volumes-published", Done),
    ("actor.published", Done),
    ("actor.tear-down", Done),
    ("actor.captured", Done),
    ("actor.killed", Done),
    ("actor.unmounted", Done),
    ("actor.bound+actor.published", Done),
    ("api.before-reply", Done),
];

const COMMIT: [(Place, End); 9] = [
    ("actor.manifest", Done),
    ("actor.bound", Done),
    ("actor.resumed", Done),
    ("actor.publish", Done),
    ("actor.volumes-published", Done),
    ("actor.published", Done),
    ("actor.captured", Done),
    ("actor.resumed+actor.volumes-published", Done),
    ("api.before-reply", Done),
];

const START: [(Place, End); 5] = [
    ("actor.start", Undone),
    ("actor.mounted", Undone),
    ("actor.created", Undone),
    ("actor.up", Undone),
    ("api.before-reply", Done),
];

const RESUME: [(Place, End); 5] = [
    ("actor.resume", Undone),
    ("actor.killed", Undone),
    ("actor.mounted", Undone),
    ("actor.up", Undone),
    ("api.before-reply", Done),
];

/// Where programs are started, and do not go on.
const RESUME_OF_DATA: [(Place, End); 1] = [("actor.created", Undone)];

const FORK: [(Place, End); 4] = [
    ("actor.birth", Done),
    ("actor.born", Done),
    ("actor.birth+actor.born", Done),
    ("api.before-reply", Done),
];

const REMOVE: [(Place, End); 3] =
    [("actor.remove", Done), ("actor.volumes-go", Done), ("actor.files-gone", Done)];

/// Where machines come to in every run of the tests.
const OF_MACHINES: [Place; 9] = [
    "actor.saved",
    "actor.was-cut",
    "actor.written",
    "actor.manifest",
    "actor.unmounted",
    "actor.volumes-published",
    "actor.resumed",
    "actor.up",
    "actor.birth+actor.born",
];

/// What the client does when the worker dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Client {
    AsksAgain,
    IsGone,
}

/// An actor whose worker dies where it is told to.
struct Mortal {
    agent: Agent,
    class: Class,
    switches: PathBuf,
}

/// All that there is of actors in a store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Picture {
    /// By the actor.
    states: BTreeMap<String, String>,
    /// The last capture of `a`.
    capture: Option<String>,
    /// How many snapshots each volume has; none is said, too.
    snapshots: BTreeMap<String, usize>,
    /// The captures of `a` that are on this node.
    captures: BTreeSet<String>,
    /// The commits.
    commits: BTreeSet<String>,
    /// Whether there is a note how the sandbox of `a` is let go on.
    is_noted: bool,
}

impl Mortal {
    /// Makes one that has done some work.
    fn new(class: Class) -> Mortal {
        let Mortal { agent, class, switches } = Mortal::created(class);
        Mortal { agent: agent.started(), class, switches }
    }

    /// Makes one that was never started.
    fn created(class: Class) -> Mortal {
        let store = Store::new();
        let switches = store.side_dir();
        let tables: [&[(Place, End)]; 9] =
            [&UNBOUND, &PAUSE, &SUSPEND, &COMMIT, &START, &RESUME, &RESUME_OF_DATA, &FORK, &REMOVE];
        let places: BTreeSet<Place> =
            tables.into_iter().flatten().flat_map(|(place, _)| place.split('+')).collect();
        let points: Vec<String> = places.into_iter().map(|place| format!("{place}:kill")).collect();
        let mut mountd = store.mountd::<&str>([]);
        mountd.env("DURDIR_FAILPOINTS", points.join(",")).env("DURDIR_FAILPOINT_SWITCHES", &switches);
        run(&mut mountd, LIMIT).ok();
        for alarm in ["the worker died", "was left paused"] {
            store.expect_alarm(alarm);
        }
        let agent = Agent::created_from(store, |commits| class.template(commits, "Full", "Full"));
        Mortal { agent, class, switches }
    }

    /// Returns which places of the tables it comes to, with what the client does there: both by turns, or both at each place.
    fn places(&self, tables: &[&[(Place, End)]]) -> Vec<(Place, End, Client)> {
        let every = std::env::var_os("DURDIR_EVERY_STEP").is_some();
        let mut places = Vec::new();
        for &(place, end) in tables.iter().copied().flatten() {
            if self.class == Class::Microvm && !every && !OF_MACHINES.contains(&place) {
                continue;
            }
            // A reply that is kept for nobody is no news.
            let clients: &[Client] = match place {
                "api.before-reply" => &[Client::AsksAgain],
                _ if every => &[Client::IsGone, Client::AsksAgain],
                _ if places.len() % 2 == 0 => &[Client::IsGone],
                _ => &[Client::AsksAgain],
            };
            places.extend(clients.iter().map(|&client| (place, end, client)));
        }
        places
    }

    /// Does something over which the worker dies at a place. Returns the answer, if somebody asked again.
    #[track_caller]
    fn dies(&self, place: Place, client: Client, args: &[&str]) -> Option<Value> {
        let switches: Vec<PathBuf> = place.split('+').map(|place| self.switches.join(place)).collect();
        for switch in &switches {
            fs::write(switch, "").unwrap();
        }
        let store = &self.agent.store;
        let begun = Instant::now();
        let answer = match client {
            Client::AsksAgain => Some(store.json(args)),
            Client::IsGone => {
                let relay = Relay::to(store);
                let mut client =
                    store.command().arg("--socket").arg(&relay.socket).args(args).spawn().unwrap();
                eventually(&format!("the worker dies at {place}"), LIMIT, || {
                    (!switches.iter().any(|switch| switch.exists())).then_some(())
                });
                client.kill().unwrap();
                client.wait().unwrap();
                relay.end();
                None
            }
        };
        // Some of it is done when the answer is out already.
        for switch in switches {
            let what = format!("somebody comes to {}\n{}", switch.display(), store.log_tail());
            eventually(&what, LIMIT, || (!switch.exists()).then_some(()));
        }
        println!("{:?}: {} at {place}, {client:?}: {:.1?}", self.class, args[1], begun.elapsed());
        answer
    }

    /// Returns all that there is.
    #[track_caller]
    fn picture(&self) -> Picture {
        let store = &self.agent.store;
        let actors = store.json(["actor", "ls"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let states =
            actors.as_array().unwrap().iter().map(|actor| (text(&actor["id"]), text(&actor["state"])));
        let mut snapshots = BTreeMap::new();
        for volume in store.json(["volume", "ls"]).as_array().unwrap() {
            snapshots.insert(text(&volume["name"]), 0);
        }
        for snapshot in store.json(["snapshot", "ls"]).as_array().unwrap() {
            *snapshots.entry(text(&snapshot["volume"])).or_default() += 1;
        }
        Picture {
            states: states.collect(),
            capture: self.agent.show()["last_capture"]["id"].as_str().map(str::to_owned),
            snapshots,
            captures: listed(&store.path().join("actors/a/captures")),
            commits: listed(&self.agent.commits),
            is_noted: store.path().join("actors/a/paused.json").exists(),
        }
    }

    /// Asserts that everything comes to be as it should. What is let go of may go a moment later.
    #[track_caller]
    fn becomes(&self, expected: &Picture, what: &str) {
        let begun = Instant::now();
        let patience = Duration::from_secs(50);
        let seen = eventually(what, LIMIT, || {
            Some(self.picture()).filter(|seen| seen == expected || begun.elapsed() > patience)
        });
        assert_eq!(seen, *expected, "{what}\n{}", self.agent.store.log_tail());
    }

    /// Asserts that the actor works, and that what it knows is what is in its volumes.
    #[track_caller]
    fn works(&self) {
        self.agent.works();
        self.agent.check();
    }
}

/// Lists the captures or commits in a directory. One that is not whole has no name that anybody expects.
#[track_caller]
fn listed(directory: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeSet::new() };
    let name = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if is_whole(&entry.path()) { name } else { format!("{name}, not whole") }
    };
    entries.map(name).collect()
}

/// Tells whether a capture has a manifest, and all files that it names.
fn is_whole(capture: &Path) -> bool {
    let Ok(manifest) = fs::read(capture.join("manifest.json")) else { return false };
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    manifest["files"].as_array().unwrap().iter().all(|file| {
        let name = file["name"].as_str().unwrap();
        let mut places = ["image", "files"].iter().map(|place| capture.join(place).join(name));
        places.any(|path| fs::metadata(path).is_ok_and(|found| Some(found.len()) == file["bytes"].as_u64()))
    })
}

/// A way to the daemon that is there for one client. When the daemon dies, the client does not get to know.
struct Relay {
    socket: PathBuf,
    relaying: JoinHandle<(UnixListener, UnixStream)>,
}

impl Relay {
    fn to(store: &Store) -> Relay {
        let socket = store.side_dir().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = store.path().join("mountd.sock");
        let relaying = std::thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let server = UnixStream::connect(daemon).unwrap();
            let (mut asks, mut asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || io::copy(&mut asks, &mut asked));
            // It ends with the daemon, in whatever way.
            drop(io::copy(&mut &server, &mut &client));
            (listener, client)
        });
        Relay { socket, relaying }
    }

    /// Lets go of the client, which is gone.
    fn end(self) {
        drop(self.relaying.join().unwrap());
    }
}

/// Every capture of an actor that runs, and that is to stand at `state` afterwards.
#[track_caller]
fn captures(class: Class, what: &str, state: &str, rest: &[(Place, End)]) {
    let mortal = Mortal::new(class);
    let agent = &mortal.agent;
    for (place, end, client) in mortal.places(&[&UNBOUND, rest]) {
        let before = mortal.picture();
        let answer = mortal.dies(place, client, &["actor", what, "a"]);
        let told = format!("{what} at {place}, {client:?}");
        if answer.is_none() && end == Undone {
            mortal.becomes(&before, &told);
            mortal.works();
            continue;
        }
        let id = match &answer {
            Some(answer) => answer["capture"].as_str().unwrap().to_owned(),
            None => eventually("a capture", LIMIT, || {
                Some(mortal.picture()).filter(|seen| seen.capture != before.capture)?.capture
            }),
        };
        let mut expected = before.clone();
        expected.states.insert("a".to_owned(), state.to_owned());
        expected.capture = Some(id.clone());
        if what != "commit" {
            // It replaces the one before, and how the volumes began is kept.
            expected.captures.clear();
            expected.snapshots.insert("a.home".to_owned(), 2);
            expected.snapshots.insert("a.db".to_owned(), 2);
        }
        if what == "pause" {
            expected.captures.insert(id.clone());
        } else {
            expected.commits.insert(id.clone());
            for volume in ["home", "db"] {
                expected.snapshots.insert(format!("_commit.{}.{volume}", id.replace('-', "")), 1);
            }
        }
        mortal.becomes(&expected, &told);
        if what == "commit" {
            mortal.works();
            // What is committed is whole.
            agent.store.ok(["actor", "fork", &id, "b"]);
            let fork = agent.other("b");
            fork.ask("resume");
            fork.works();
            fork.check();
            fork.ask("rm");
            mortal.becomes(&expected, &format!("{told}, and its fork is gone"));
        } else {
            agent.ask("resume");
        }
        mortal.works();
    }
}

#[test]
fn a_pause_is_undone_or_done() {
    captures(Class::Gvisor, "pause", "paused", &PAUSE);
}

#[test]
fn a_suspend_is_undone_or_done() {
    captures(Class::Gvisor, "suspend", "suspended", &SUSPEND);
}

#[test]
fn a_commit_is_undone_or_done_and_the_actor_runs() {
    captures(Class::Gvisor, "commit", "running", &COMMIT);
}

#[test]
fn a_pause_of_a_machine_is_undone_or_done() {
    captures(Class::Microvm, "pause", "paused", &PAUSE);
}

#[test]
fn a_suspend_of_a_machine_is_undone_or_done() {
    captures(Class::Microvm, "suspend", "suspended", &SUSPEND);
}

#[test]
fn a_commit_of_a_machine_is_undone_or_done_and_it_runs() {
    captures(Class::Microvm, "commit", "running", &COMMIT);
}

fn starts(class: Class) {
    for (place, end, client) in Mortal::created(class).places(&[&START]) {
        let mortal = Mortal::created(class);
        let created = mortal.picture();
        let mut running = created.clone();
        running.states.insert("a".to_owned(), "running".to_owned());
        let answer = mortal.dies(place, client, &["actor", "start", "a"]);
        let told = format!("start at {place}, {client:?}");
        if answer.is_none() && end == Undone {
            mortal.becomes(&created, &told);
            mortal.agent.ask("start");
        }
        mortal.becomes(&running, &told);
        mortal.works();
    }
}

#[test]
fn a_start_is_undone_or_done() {
    starts(Class::Gvisor);
}

#[test]
fn a_start_of_a_machine_is_undone_or_done() {
    starts(Class::Microvm);
}

fn resumes(class: Class) {
    let mortal = Mortal::new(class);
    let agent = &mortal.agent;
    for (place, end, client) in mortal.places(&[&RESUME, &RESUME_OF_DATA]) {
        let is_of_data = RESUME_OF_DATA.iter().any(|(of_data, _)| *of_data == place);
        let scope = if is_of_data { "Data" } else { "Full" };
        agent.ask_with("pause", &["--scope", scope]);
        // What the pause has replaced is taken away in the background. How the volumes began is kept.
        let paused = eventually("only the last capture is left", LIMIT, || {
            Some(mortal.picture()).filter(|seen| {
                seen.captures.iter().eq(&seen.capture) && seen.snapshots.values().all(|count| *count == 2)
            })
        });
        let mut running = paused.clone();
        running.states.insert("a".to_owned(), "running".to_owned());
        let answer = mortal.dies(place, client, &["actor", "resume", "a"]);
        let told = format!("resume at {place}, {client:?}");
        if answer.is_none() && end == Undone {
            mortal.becomes(&paused, &told);
            agent.ask("resume");
        }
        mortal.becomes(&running, &told);
        mortal.works();
    }
}

#[test]
fn a_resume_is_undone_or_done() {
    resumes(Class::Gvisor);
}

#[test]
fn a_resume_of_a_machine_is_undone_or_done() {
    resumes(Class::Microvm);
}

/// Removals, too: each fork is removed again.
fn forks(class: Class) {
    let mortal = Mortal::new(class);
    let agent = &mortal.agent;
    let commit = agent.ask("commit")["capture"].as_str().unwrap().to_owned();
    mortal.works();
    let before = mortal.picture();
    let removals = mortal.places(&[&REMOVE]);
    for (number, (place, _, client)) in mortal.places(&[&FORK]).into_iter().enumerate() {
        let id = format!("f{number}");
        mortal.dies(place, client, &["actor", "fork", &commit, &id]);
        let told = format!("fork at {place}, {client:?}");
        let mut forked = before.clone();
        forked.states.insert(id.clone(), "suspended".to_owned());
        for volume in ["home", "db"] {
            forked.snapshots.insert(format!("{id}.{volume}"), 1);
        }
        mortal.becomes(&forked, &told);
        let fork = agent.other(&id);
        fork.ask("resume");
        fork.works();
        fork.check();
        match removals.get(number) {
            Some(&(place, _, client)) => drop(mortal.dies(place, client, &["actor", "rm", &id])),
            None => drop(fork.ask("rm")),
        }
        mortal.becomes(&before, &told);
        mortal.works();
    }
}

#[test]
fn a_fork_is_undone_or_done() {
    forks(Class::Gvisor);
}

#[test]
fn a_fork_of_a_machine_is_undone_or_done() {
    forks(Class::Microvm);
}
