//! Death after death, of every kind, with all kinds of programs at work on several mounts.
//!
//! Every program checks each of its own calls, and keeps outside of the volume what it did: at the end nothing may be
//! missing, and nothing may be there twice. How long calls took while the worker was replaced is printed.
//!
//! `DURDIR_KILLS` sets the number of deaths, `DURDIR_SEED` when and how they come, `DURDIR_FILES` how many files one of the volumes
//! holds, all of them known to the kernel; `DURDIR_CHECK_EVERY` after how many deaths the store is checked; `scripts/kill-storm` sets them all. `DURDIR_DEATH` has all of them be of one kind, by its name in
//! `death.rs`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use durdir_tests::assert_errno;
use durdir_tests::lower;
use durdir_tests::support::*;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

use crate::counter;
use crate::death::{Death, Executioner};

/// Enough to meet every kind of death, in the time that a suite may take.
const KILLS: u64 = 30;
/// Files in one directory.
const TOGETHER: u64 = 1000;
/// Every so many deaths the store is checked while all goes on, if nothing else is said.
const CHECK_EVERY: u64 = 10;
const LIMIT: Duration = Duration::from_secs(60);

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// A generator that a printed seed repeats: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }
}

/// When a call began and when it returned.
type Call = (Instant, Instant);

/// Returns how long each call took that a worker's death fell into, and how many deaths those were, in ascending order.
fn stalls(calls: &[Call], deaths: &[Instant]) -> Vec<(Duration, usize)> {
    let hits = |call: &Call| deaths.iter().filter(|death| (call.0..=call.1).contains(death)).count();
    let stalls = calls.iter().map(|call| (call.1 - call.0, hits(call)));
    let mut stalls: Vec<(Duration, usize)> = stalls.filter(|&(_, deaths)| deaths > 0).collect();
    stalls.sort_unstable();
    stalls
}

fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len().saturating_sub(1) as f64 * share).round();
    sorted.get(at as usize).copied().unwrap_or_default()
}

#[test]
fn nobody_notices_that_workers_die() {
    let (kills, seed) =
        (setting("DURDIR_KILLS", KILLS), setting("DURDIR_SEED", u64::from(std::process::id())));
    let (files, check_every) = (setting("DURDIR_FILES", 0), setting("DURDIR_CHECK_EVERY", CHECK_EVERY));
    println!("{kills} deaths, {files} files, DURDIR_SEED={seed}");
    let store = Store::new();
    let mut executioner = Executioner::of(&store);
    let (plain, other) = (store.mount("plain"), store.mount("other"));
    let lower = lower! { "base/file" => noise(7, 0, 300_000), "base/list" => "one\ntwo\n" };
    let over = store.mount_over_layout("over", lower);
    let held = hold(plain.root(), files);
    let stop = AtomicBool::new(false);
    let measured = Mutex::new(Vec::new());
    let mut deaths = Vec::new();
    let mut kinds = BTreeMap::<String, u64>::new();
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let stop = &stop;
        let programs = [
            scope.spawn(|| append(plain.root(), stop)),
            scope.spawn(|| make_and_move(plain.root(), stop)),
            scope.spawn(|| make_and_move(over.root(), stop)),
            scope.spawn(|| rewrite(over.root(), stop)),
            scope.spawn(|| map(other.root(), stop)),
            scope.spawn(|| count_locked(other.root(), stop)),
            scope.spawn(|| sqlite(plain.root(), stop)),
            scope.spawn(|| git(other.root(), stop)),
            scope.spawn(|| measure(plain.root(), &measured, stop)),
        ];
        let mut random = Random(seed);
        for kill in 1..=kills {
            // The next worker may be killed while it begins: the pause is short against a start.
            std::thread::sleep(Duration::from_millis(20 + random.below(150)));
            let death = Death::only().unwrap_or_else(|| choose(kill, &mut random));
            let died = executioner.end_worker(death, random.below(1 << 20));
            deaths.push(died);
            *kinds.entry(format!("{death:?}")).or_default() += 1;
            executioner.settle(death);
            if kill % check_every == 0 {
                store.ok(["fsck"]);
            }
            if let Some(failed) = programs.iter().position(|program| program.is_finished()) {
                panic!("program {failed} has given up after {kill} deaths, the last by {death:?}");
            }
        }
        stop.store(true, Ordering::SeqCst);
        for program in programs {
            let done = program.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            println!("{done}");
        }
    });
    still_holds(plain.root(), files, &held);
    let kinds: Vec<String> = kinds.iter().map(|(death, count)| format!("{count} by {death}")).collect();
    println!("workers died: {}", kinds.join(", "));
    let (replayed, takeovers) = (counter(&store, "replayed_requests"), store.takeovers());
    let stalls = stalls(&measured.into_inner().unwrap(), &deaths);
    let single: Vec<Duration> = stalls.iter().filter(|stall| stall.1 == 1).map(|stall| stall.0).collect();
    println!(
        "{takeovers} takeovers, {replayed} requests answered from the store; {} calls met one death: p50 {:?}, p99 {:?}, \
         longest {:?}; {} met several, the longest {:?}",
        single.len(),
        quantile(&single, 0.5),
        quantile(&single, 0.99),
        quantile(&single, 1.0),
        stalls.len() - single.len(),
        stalls.last()
    );
    assert!(!stalls.is_empty(), "no call was measured while a worker died");
    assert_eq!(takeovers, kills);
    assert!(replayed > 0 || kills < 100, "nobody died between a change and its answer");
}

/// Chooses how the worker dies. A short storm meets every way, too.
fn choose(number: u64, random: &mut Random) -> Death {
    let mix = Death::MIX;
    match mix.get(usize::try_from(number - 1).unwrap() / 2) {
        Some(&death) if number.is_multiple_of(2) => death,
        _ => mix[usize::try_from(random.below(mix.len() as u64)).unwrap()],
    }
}

/// Makes files, and has the kernel know all of them. Returns some of their inode numbers.
fn hold(root: &Path, files: u64) -> Vec<u64> {
    for number in 0..files {
        let dir = root.join(format!("held-{}", number / TOGETHER));
        if number.is_multiple_of(TOGETHER) {
            fs::create_dir(&dir).unwrap();
        }
        fs::write(dir.join(number.to_string()), number.to_string()).unwrap();
    }
    let inode = |number| fs::metadata(held_path(root, number)).unwrap().ino();
    (0..files).step_by(97).map(inode).collect()
}

fn held_path(root: &Path, number: u64) -> PathBuf {
    root.join(format!("held-{}", number / TOGETHER)).join(number.to_string())
}

/// They are as they were.
fn still_holds(root: &Path, files: u64, inodes: &[u64]) {
    for (number, inode) in (0..files).step_by(97).zip(inodes) {
        let path = held_path(root, number);
        assert_eq!(fs::metadata(&path).unwrap().ino(), *inode, "{}", path.display());
        assert_eq!(fs::read_to_string(&path).unwrap(), number.to_string());
    }
    for dir in 0..files.div_ceil(TOGETHER) {
        let count = names_in(root.join(format!("held-{dir}"))).unwrap().len() as u64;
        assert_eq!(count, TOGETHER.min(files - dir * TOGETHER), "held-{dir}");
    }
}

/// Ends the programs also when the test fails, so that it does.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn goes_on(stop: &AtomicBool) -> bool {
    !stop.load(Ordering::SeqCst)
}

/// Appends numbered lines.
fn append(root: &Path, stop: &AtomicBool) -> String {
    let path = root.join("appended");
    let mut file = open(&path, libc::O_CREAT | libc::O_APPEND | libc::O_WRONLY, 0o644).unwrap();
    let mut lines = 0u64;
    while goes_on(stop) {
        writeln!(file, "{lines:08}").unwrap();
        lines += 1;
        if lines.is_multiple_of(500) {
            file.sync_data().unwrap();
        }
    }
    let expected: String = (0..lines).map(|line| format!("{line:08}\n")).collect();
    assert!(fs::read_to_string(&path).unwrap() == expected, "lines are missing, doubled or torn");
    format!("{lines} lines appended")
}

/// Makes, links, renames and removes, and checks the outcome of every call.
fn make_and_move(root: &Path, stop: &AtomicBool) -> String {
    let home = root.join("moving");
    fs::create_dir(&home).unwrap();
    let mut rounds = 0u64;
    while goes_on(stop) {
        let (a, b, c) = (home.join(format!("a{rounds}")), home.join(format!("b{rounds}")), home.join("kept"));
        let sub = home.join(format!("d{rounds}"));
        let mut file = File::create_new(&a).unwrap();
        file.write_all(rounds.to_string().as_bytes()).unwrap();
        fs::hard_link(&a, &b).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 2);
        fs::create_dir(&sub).unwrap();
        assert_errno!(fs::create_dir(&sub), EEXIST);
        fs::rename(&b, sub.join("b")).unwrap();
        assert_errno!(fs::metadata(&b), ENOENT);
        fs::rename(&a, &c).unwrap();
        set_xattr(&c, "user.round", rounds.to_string()).unwrap();
        fs::remove_file(sub.join("b")).unwrap();
        fs::remove_dir(&sub).unwrap();
        assert_eq!(fs::read_to_string(&c).unwrap(), rounds.to_string());
        assert_eq!(file.metadata().unwrap().nlink(), 1);
        rounds += 1;
    }
    assert_eq!(names_in(&home).unwrap(), ["kept"]);
    format!("{rounds} rounds of making and moving")
}

/// Rewrites parts of a file that comes from a lower, cuts it and makes holes.
fn rewrite(root: &Path, stop: &AtomicBool) -> String {
    let path = root.join("base/file");
    let file = open(&path, libc::O_RDWR, 0).unwrap();
    let mut model = noise(7, 0, 300_000);
    let mut random = Random(11);
    let mut rounds = 0u64;
    while goes_on(stop) {
        let (offset, length) = (random.below(290_000) as usize, 1 + random.below(9_000) as usize);
        match random.below(6) {
            0 => {
                file.set_len(offset as u64).unwrap();
                file.set_len(300_000).unwrap();
                model[offset..].fill(0);
            }
            1 => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                fallocate(&file, mode, offset as i64, length as i64).unwrap();
                model[offset..(offset + length).min(300_000)].fill(0);
            }
            _ => {
                let data = noise(rounds, offset as u64, length);
                file.write_all_at(&data, offset as u64).unwrap();
                file.set_len(300_000).unwrap();
                let end = (offset + length).min(300_000);
                model[offset..end].copy_from_slice(&data[..end - offset]);
            }
        }
        if rounds.is_multiple_of(50) {
            drop_cached_pages(&file).unwrap();
            let mut seen = vec![0; 300_000];
            file.read_exact_at(&mut seen, 0).unwrap();
            assert!(seen == model, "after {rounds} rounds");
        }
        rounds += 1;
    }
    assert!(fs::read(&path).unwrap() == model);
    format!("{rounds} rewrites")
}

/// Stores through a shared mapping.
fn map(root: &Path, stop: &AtomicBool) -> String {
    const LEN: usize = 64 << 10;
    let path = root.join("mapped");
    let file = open(&path, libc::O_CREAT | libc::O_RDWR, 0o644).unwrap();
    file.set_len(LEN as u64).unwrap();
    let mapping = Mapping::shared(&file, LEN).unwrap();
    let mut rounds = 0u64;
    while goes_on(stop) {
        let at = (rounds as usize * 4096 + 8) % LEN;
        mapping.write(at, &rounds.to_le_bytes());
        if rounds.is_multiple_of(40) {
            mapping.sync().unwrap();
        }
        assert_eq!(mapping.read(at, 8), rounds.to_le_bytes());
        rounds += 1;
        std::thread::sleep(Duration::from_micros(200));
    }
    mapping.sync().unwrap();
    let shown = mapping.read(0, LEN);
    drop_cached_pages(&file).unwrap();
    assert!(fs::read(&path).unwrap() == shown);
    format!("{rounds} stores through a mapping")
}

/// Two programs count in one file, each number once, kept apart by locks.
fn count_locked(root: &Path, stop: &AtomicBool) -> String {
    let path = root.join("counted");
    fs::write(&path, "0").unwrap();
    let count = |posix: bool| {
        let mut counted = 0u64;
        while goes_on(stop) {
            let file = open(&path, libc::O_RDWR, 0).unwrap();
            let mut file = Flock::lock(file, FlockArg::LockExclusive).unwrap();
            if posix {
                let whole =
                    libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
                fcntl(&*file, FcntlArg::F_OFD_SETLKW(&whole)).unwrap();
            }
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            let number: u64 = text.parse().unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            write!(file, "{}", number + 1).unwrap();
            counted += 1;
        }
        counted
    };
    let (one, two) = std::thread::scope(|scope| {
        let (one, two) = (scope.spawn(|| count(false)), scope.spawn(|| count(true)));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(fs::read_to_string(&path).unwrap(), (one + two).to_string());
    format!("{} counted under locks", one + two)
}

/// SQLite with a log that goes ahead, one transaction after the other.
fn sqlite(root: &Path, stop: &AtomicBool) -> String {
    const PROGRAM: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60)
db.execute('pragma journal_mode=wal')
db.execute('create table if not exists t (n integer primary key, text text)')
count = db.execute('select count(*) from t').fetchone()[0]
for n in range(count, count + 20):
    with db:
        db.execute('insert into t values (?, ?)', (n, 'x' * (n % 3000)))
assert db.execute('pragma integrity_check').fetchone()[0] == 'ok'
print(db.execute('select count(*) from t').fetchone()[0])
";
    let path = root.join("database");
    let mut rows = 0u64;
    while goes_on(stop) {
        let done = run(Command::new("python3").arg("-c").arg(PROGRAM).arg(&path), LIMIT).ok();
        rows += 20;
        assert_eq!(done.text().trim(), rows.to_string());
    }
    format!("{rows} rows inserted")
}

/// Git: commits, and the whole history at the end.
fn git(root: &Path, stop: &AtomicBool) -> String {
    let home = root.join("repository");
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "gc.auto=0"]);
        run(command.args(args).current_dir(&home), LIMIT).ok()
    };
    fs::create_dir(&home).unwrap();
    git(&["init", "-q"]);
    let mut commits = 0u64;
    while goes_on(stop) {
        fs::write(home.join(format!("file-{}", commits % 7)), noise(commits, 0, 5000)).unwrap();
        git(&["add", "."]);
        git(&["commit", "-q", "-m", &format!("commit {commits}")]);
        commits += 1;
    }
    git(&["fsck", "--strict"]);
    let history = git(&["rev-list", "--count", "HEAD"]);
    assert_eq!(history.text().trim(), commits.to_string());
    assert_eq!(git(&["status", "--porcelain"]).text(), "");
    format!("{commits} commits")
}

/// Makes small calls that need the worker, and notes how long they took.
fn measure(root: &Path, measured: &Mutex<Vec<Call>>, stop: &AtomicBool) -> String {
    let file = open(root.join("measured"), libc::O_CREAT | libc::O_WRONLY, 0o644).unwrap();
    let mut calls = Vec::new();
    while goes_on(stop) {
        let begun = Instant::now();
        file.write_all_at(b"x", calls.len() as u64 % 100).unwrap();
        calls.push((begun, Instant::now()));
        std::thread::sleep(Duration::from_micros(500));
    }
    let count = calls.len();
    *measured.lock().unwrap() = calls;
    format!("{count} calls measured")
}
