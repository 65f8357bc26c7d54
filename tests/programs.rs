//! Real programs in a volume: databases that are killed, version control, builds, package managers,
//! archives.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use durdir_tests::lower;
use durdir_tests::support::*;
use nix::sys::signal::Signal;

const MINUTE: Duration = Duration::from_secs(60);

// SQLite.

fn sqlite(database: &Path, sql: &str) -> String {
    program("sqlite3", "sqlite3").arg("-batch").arg("-bail").arg(database).input(sql).ok().text()
}

/// Inserts numbers, one transaction each, until it is killed; nothing acknowledged is missing then.
fn sqlite_survives_the_death_of_its_writer(journal: &str) {
    let mount = Mount::empty();
    let database = mount.path("test.db");
    let setup =
        format!("PRAGMA journal_mode={journal}; CREATE TABLE t (n INTEGER PRIMARY KEY, filling BLOB);");
    assert_eq!(sqlite(&database, &setup).trim(), journal);
    for _ in 0..3 {
        let already: u64 = sqlite(&database, "SELECT count(*) FROM t;").trim().parse().unwrap();
        let insert = |number| {
            format!(
                "INSERT INTO t VALUES ({number}, randomblob({})); SELECT 'done {number}';\n",
                number % 3000
            )
        };
        let sql: String = (already + 1..already + 20_000).map(insert).collect();
        let side = tempfile::tempdir().unwrap();
        let writer = program("sqlite3", "sqlite3")
            .arg("-batch")
            .arg(&database)
            .input(sql)
            .start(side.path().join("log"));
        eventually("the writer is under way", MINUTE, || {
            (writer.output().lines().count() > 400).then_some(())
        });
        signal(writer.pid(), Signal::SIGKILL);
        let output = writer.output();
        writer.kill();
        let acknowledged =
            output.lines().rev().find_map(|line| line.strip_prefix("done ")?.parse::<u64>().ok()).unwrap();
        assert_eq!(sqlite(&database, "PRAGMA integrity_check;").trim(), "ok");
        let numbers = sqlite(&database, "SELECT count(*) || ' ' || max(n) FROM t;");
        let (count, last) = numbers.trim().split_once(' ').unwrap();
        assert_eq!(count, last, "a transaction in the middle is missing");
        // The last line of a killed program may be cut short.
        assert!(last.parse::<u64>().unwrap() + 1 >= acknowledged, "{last} of {acknowledged}");
    }
    let before = sqlite(&database, "SELECT sum(length(filling)) FROM t;");
    let mount = mount.restart();
    assert_eq!(sqlite(&mount.path("test.db"), "PRAGMA integrity_check;").trim(), "ok");
    assert_eq!(sqlite(&mount.path("test.db"), "SELECT sum(length(filling)) FROM t;"), before);
}

#[test]
fn sqlite_in_wal_mode_survives_the_death_of_its_writer() {
    sqlite_survives_the_death_of_its_writer("wal");
}

#[test]
fn sqlite_with_a_rollback_journal_survives_the_death_of_its_writer() {
    sqlite_survives_the_death_of_its_writer("delete");
}

#[test]
fn sqlite_database_of_a_lower_is_changed_in_the_volume_only() {
    let base = tempfile::tempdir().unwrap();
    let original = base.path().join("test.db");
    sqlite(
        &original,
        "CREATE TABLE t (n); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n < 20000) INSERT INTO t SELECT n FROM c;",
    );
    let mount = Mount::over(lower! { "test.db" => fs::read(&original).unwrap() });
    let database = mount.path("test.db");
    sqlite(
        &database,
        "PRAGMA journal_mode=wal; UPDATE t SET n = n + 1 WHERE n % 100 = 0; DELETE FROM t WHERE n > 19000;",
    );
    let sums = |database: &Path| sqlite(database, "SELECT count(*), sum(n) FROM t; PRAGMA integrity_check;");
    let (changed, unchanged) = (sums(&database), sums(&original));
    assert_ne!(changed, unchanged);
    let mount = mount.restart();
    assert_eq!(sums(&mount.path("test.db")), changed);
}

#[test]
fn sqlite_readers_and_writers_share_a_wal_database() {
    let mount = Mount::empty();
    let database = mount.path("test.db");
    sqlite(&database, "PRAGMA journal_mode=wal; CREATE TABLE t (n);");
    let busy = "PRAGMA busy_timeout=60000;";
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let database = &database;
            scope.spawn(move || {
                let inserts: String = (0..100)
                    .map(|number| format!("INSERT INTO t VALUES ({});", writer * 1000 + number))
                    .collect();
                sqlite(database, &format!("{busy}{inserts}"));
            });
        }
    });
    assert_eq!(sqlite(&database, "SELECT count(DISTINCT n) FROM t; PRAGMA integrity_check;"), "300\nok\n");
}

// PostgreSQL.

/// A PostgreSQL server with its data in a directory of a volume.
struct Postgres {
    data: PathBuf,
    /// For socket and log.
    side: tempfile::TempDir,
}

fn give_to_postgres(dir: &Path) {
    program("chown", "coreutils").arg("postgres:postgres").arg(dir).ok();
}

impl Postgres {
    fn new(data: PathBuf) -> Postgres {
        let side = tempfile::tempdir().unwrap();
        give_to_postgres(side.path());
        Postgres { data, side }
    }

    /// Makes a cluster with the tables of pgbench, and starts it.
    fn with_tables(data: PathBuf) -> Postgres {
        let server = Postgres::new(data);
        fs::create_dir(&server.data).unwrap();
        give_to_postgres(&server.data);
        server.run("initdb", &["-D", server.data(), "--auth=trust", "-E", "UTF8", "--locale=C"]);
        server.start();
        server.bench(&["-i", "-q", "-s", "1"]).ok();
        server
    }

    fn data(&self) -> &str {
        self.data.to_str().unwrap()
    }

    fn socket(&self) -> &str {
        self.side.path().to_str().unwrap()
    }

    /// A PostgreSQL program as user postgres.
    fn program(&self, name: &str, args: &[&str]) -> Program {
        let file = Path::new("/usr/lib/postgresql/15/bin").join(name);
        drop(program_at(&file, "postgresql-15"));
        program("runuser", "util-linux")
            .args(["-u", "postgres", "--"])
            .arg(file)
            .args(args)
            .in_dir("/")
            .within(2 * MINUTE)
    }

    fn run(&self, name: &str, args: &[&str]) -> Finished {
        self.program(name, args).ok()
    }

    fn start(&self) {
        let options = format!("-k {} -c listen_addresses='' -c shared_buffers=16MB", self.socket());
        let log = self.side.path().join("log");
        let args =
            ["-D", self.data(), "-w", "-t", "60", "-l", log.to_str().unwrap(), "-o", &options, "start"];
        let started = self.program("pg_ctl", &args).finish();
        assert!(started.status.success(), "{started}\n{}", fs::read_to_string(&log).unwrap_or_default());
    }

    fn stop(&self) {
        self.run("pg_ctl", &["-D", self.data(), "-w", "-m", "fast", "stop"]);
    }

    /// Kills the server and all its helpers at once.
    fn kill(&self) {
        let pid = fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        let pid: i32 = pid.lines().next().unwrap().parse().unwrap();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        let all: Vec<i32> = std::iter::once(pid).chain(children).collect();
        for &pid in &all {
            signal(pid, Signal::SIGKILL);
        }
        // Dead is not enough: the next server takes a zombie of that number for a living one.
        for pid in all {
            let gone = || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(());
            eventually("the killed processes of PostgreSQL are reaped", MINUTE, gone);
        }
    }

    fn query(&self, sql: &str) -> String {
        self.run("psql", &["-h", self.socket(), "-d", "postgres", "-X", "-A", "-t", "-c", sql])
            .text()
            .trim()
            .to_owned()
    }

    fn bench(&self, args: &[&str]) -> Program {
        self.program("pgbench", &[&["-h", self.socket(), "-d", "postgres"], args].concat())
    }

    /// Starts transactions that go on until they are killed, and waits until some are done.
    fn load(&self) -> Background {
        let before = self.transactions();
        let load = self.bench(&["-T", "300", "-c", "2", "-n"]).start(self.side.path().join("pgbench"));
        eventually("pgbench is under way", MINUTE, || (self.transactions() > before + 200).then_some(()));
        load
    }

    fn transactions(&self) -> u64 {
        self.query("SELECT count(*) FROM pgbench_history").parse().unwrap()
    }

    /// pgbench moves money about: whatever happened, all books agree.
    #[track_caller]
    fn books_agree(&self) {
        let sums = self.query(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers) \
             AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches) \
             AND (SELECT coalesce(sum(delta), 0) FROM pgbench_history) = (SELECT sum(bbalance) FROM pgbench_branches)",
        );
        assert_eq!(sums, "t");
        self.run("pg_amcheck", &["-h", self.socket(), "-d", "postgres", "--install-missing"]);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            self.kill();
        }
    }
}

#[test]
fn postgres_recovers_from_crashes_under_load() {
    let mount = Mount::empty();
    let server = Postgres::with_tables(mount.path("data"));
    for _ in 0..2 {
        let load = server.load();
        let acknowledged = server.transactions();
        server.kill();
        load.kill();
        server.start();
        assert!(server.transactions() >= acknowledged, "{} of {acknowledged}", server.transactions());
        server.books_agree();
    }
    let done = server.transactions();
    server.stop();
    let mount = mount.restart();
    let server = Postgres::new(mount.path("data"));
    server.start();
    assert_eq!(server.transactions(), done);
    server.books_agree();
    server.stop();
}

#[test]
fn postgres_starts_from_snapshots_taken_under_load() {
    let mount = Mount::empty();
    let store = mount.store().clone();
    let server = Postgres::with_tables(mount.path("data"));
    let load = server.load();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        acknowledged.push(server.transactions());
        store.snapshot("v", &format!("s{round}"));
        let after = server.transactions();
        eventually("transactions go on", MINUTE, || (server.transactions() > after).then_some(()));
    }
    load.kill();
    server.stop();
    for (round, acknowledged) in acknowledged.into_iter().enumerate() {
        let name = format!("w{round}");
        store.fork(&format!("v@s{round}"), &name);
        let fork = store.mount(&name);
        // It tells of the server that wrote it.
        fs::remove_file(fork.path("data/postmaster.pid")).unwrap();
        let copy = Postgres::new(fork.path("data"));
        copy.start();
        assert!(copy.transactions() >= acknowledged, "{} of {acknowledged}", copy.transactions());
        copy.books_agree();
        copy.stop();
    }
}

// Git.

fn git(dir: &Path, args: &[&str]) -> String {
    program("git", "git")
        .in_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .args(["-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "init.defaultBranch=main"])
        .args(["-c", "protocol.file.allow=always", "-c", "safe.directory=*"])
        .args(args)
        .ok()
        .text()
}

/// Makes a repository with some history.
fn make_repository(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    git(dir, &["init", "-q"]);
    for commit in 0..8u64 {
        for number in 0..60 {
            let path = dir.join(format!("src/{}/f{number}", number % 7));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let line = |line: u64| {
                format!("line {line} of file {number}, {}\n", if line % 8 <= commit { commit } else { 0 })
            };
            fs::write(path, (0..100).map(line).collect::<String>()).unwrap();
        }
        fs::write(dir.join("binary"), noise(commit, 0, 200_000)).unwrap();
        git(dir, &["add", "-A"]);
        git(dir, &["commit", "-q", "-m", &format!("commit {commit}")]);
    }
    git(dir, &["tag", "v1", "HEAD~3"]);
    git(dir, &["branch", "side", "HEAD~5"]);
}

#[test]
fn git_clones_commits_collects_and_checks() {
    let outside = tempfile::tempdir().unwrap();
    make_repository(outside.path());
    let mount = Mount::empty();
    git(mount.root(), &["clone", "-q", "--no-local", outside.path().to_str().unwrap(), "clone"]);
    let clone = mount.path("clone");
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    fs::write(clone.join("src/1/f1"), "changed\n").unwrap();
    fs::write(clone.join("new"), "new\n").unwrap();
    git(&clone, &["add", "-A"]);
    git(&clone, &["commit", "-q", "-m", "in the volume"]);
    git(&clone, &["checkout", "-q", "-b", "other", "v1"]);
    git(&clone, &["checkout", "-q", "main"]);
    git(&clone, &["gc", "-q", "--aggressive", "--prune=now"]);
    git(&clone, &["fsck", "--strict", "--full"]);
    let head = git(&clone, &["rev-parse", "HEAD^{tree}"]);
    let mount = mount.restart();
    let clone = mount.path("clone");
    git(&clone, &["fsck", "--strict", "--full"]);
    assert_eq!(git(&clone, &["rev-parse", "HEAD^{tree}"]), head);
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    assert_eq!(git(&clone, &["log", "--oneline"]).lines().count(), 9);
    git(&clone, &["push", "-q", outside.path().to_str().unwrap(), "HEAD:refs/heads/back"]);
    assert_eq!(git(outside.path(), &["rev-parse", "back^{tree}"]), head);
}

#[test]
fn git_works_in_a_checkout_that_is_a_lower() {
    let lower = tempfile::tempdir().unwrap();
    make_repository(lower.path());
    let before = Tree::with_access_times(lower.path());
    {
        let store = Store::new();
        let mount = store.mount_over("v", &[lower.path()]);
        assert_eq!(git(mount.root(), &["status", "--porcelain"]), "");
        git(mount.root(), &["mv", "src", "source"]);
        git(mount.root(), &["commit", "-q", "-m", "renamed"]);
        git(mount.root(), &["checkout", "-q", "side"]);
        git(mount.root(), &["merge", "-q", "-m", "merged", "main"]);
        git(mount.root(), &["gc", "-q", "--prune=now"]);
        git(mount.root(), &["fsck", "--strict"]);
        let mount = mount.restart();
        assert_eq!(git(mount.root(), &["status", "--porcelain"]), "");
        assert!(mount.path("source/3/f3").exists() && !mount.path("src").exists());
    }
    assert_eq!(differences(&before, &Tree::with_access_times(lower.path())), Vec::<String>::new());
}

// Builds.

#[test]
fn cargo_builds_a_crate_with_dependencies() {
    let mount = Mount::holding(lower! {
        "app/Cargo.toml" => "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\nserde_json = \"1\"\nitertools = \"0.14\"\n\n[profile.dev]\ndebug = false\n\n[workspace]\n",
        "app/src/main.rs" => "use itertools::Itertools;\nfn main() {\n    let v: serde_json::Value = serde_json::from_str(\"[3, 1, 2]\").unwrap();\n    println!(\"{}\", v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sorted().join(\" \"));\n}\n",
    });
    let cargo = |arg: &str| {
        program("cargo", "cargo")
            .in_dir(mount.path("app"))
            // Its registry, with its many small files and its locks, is in the volume too.
            .env("CARGO_HOME", mount.path("cargo-home"))
            .without_env("CARGO_TARGET_DIR")
            .without_env("CARGO")
            .without_env("RUSTFLAGS")
            .args([arg])
            .within(4 * MINUTE)
            .ok()
    };
    cargo("build");
    let binary = mount.path("app/target/debug/app");
    assert_eq!(program_at(&binary, "cargo").ok().text(), "1 2 3\n");
    let again = cargo("build").complaint();
    assert!(!again.contains("Compiling"), "everything is fresh: {again}");
    fs::write(mount.path("app/src/main.rs"), "fn main() { println!(\"changed\") }\n").unwrap();
    set_times(mount.path("app/src/main.rs"), (0, libc::UTIME_OMIT), (4_000_000_000, 0)).unwrap();
    let again = cargo("build").complaint();
    assert_eq!(again.matches("Compiling").count(), 1, "only what changed: {again}");
    assert_eq!(program_at(&binary, "cargo").ok().text(), "changed\n");
    cargo("clean");
    assert!(!mount.path("app/target").exists());
}

// Package managers.

#[test]
fn npm_installs_hundreds_of_packages_and_rm_removes_them() {
    let mount = Mount::holding(
        lower! { "app/package.json" => r#"{"name": "app", "version": "1.0.0", "private": true}"# },
    );
    let app = mount.path("app");
    program("npm", "npm")
        .in_dir(&app)
        .args(["install", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error", "jest@29.7.0"])
        .within(4 * MINUTE)
        .ok();
    let packages = names_in(app.join("node_modules")).unwrap();
    let count = |name: &std::ffi::OsString| match name.as_encoded_bytes()[0] {
        b'@' => names_in(app.join("node_modules").join(name)).unwrap().len(),
        _ => 1,
    };
    let packages: usize = packages.iter().map(count).sum();
    assert!(packages > 200, "only {packages} packages");
    fs::write(app.join("sum.test.js"), "test('adds', () => expect(1 + 2).toBe(3));\n").unwrap();
    program("node", "nodejs").in_dir(&app).args(["node_modules/.bin/jest", "--ci", "-w", "1"]).ok();

    // Out of the volume by copying, and compared.
    let outside = tempfile::tempdir().unwrap();
    program("cp", "coreutils").arg("-a").arg(app.join("node_modules")).arg(outside.path()).ok();
    assert_same_tree(app.join("node_modules"), outside.path().join("node_modules"));
    let mount = mount.restart();
    assert_same_tree(mount.path("app/node_modules"), outside.path().join("node_modules"));
    program("rm", "coreutils").arg("-rf").arg(mount.path("app/node_modules")).ok();
    assert!(!mount.path("app/node_modules").exists());
    let mount = mount.restart();
    assert!(!mount.path("app/node_modules").exists());
}

// Archives.

/// Everything that an archive can hold.
fn archivable() -> Layout {
    let mut layout = lower! {
        "tree/file" => file("content").mode(0o640).owner(11, 12).mtime(1_000_000, 0).xattr("user.k", "v"),
        "tree/twin" => hard_link("tree/file"),
        "tree/d/third" => hard_link("tree/file"),
        "tree/suid" => file("x").mode(0o6755),
        "tree/sparse" => sparse(256 << 20, &[(1 << 20, b"island"), (200 << 20, b"another")]),
        "tree/large" => noise(1, 0, 5 << 20),
        "tree/link" => symlink_to("d/third"),
        "tree/dangling" => symlink_to("/nowhere/at/all"),
        "tree/pipe" => fifo().mode(0o600),
        "tree/null" => device(libc::S_IFCHR, 1, 3),
        "tree/sticky" => dir().mode(0o1777).owner(21, 22),
        "tree/empty" => "",
        "tree/name\nwith newline" => "x",
        "tree/caf\u{e9}" => "x",
        "tree" => dir().mode(0o755).mtime(2_000_000, 0),
    };
    for number in 0..300u64 {
        layout = layout.with(
            format!("tree/many/{}/{number}", number % 9),
            noise(number, 0, usize::try_from(number * 50).unwrap()),
        );
    }
    layout
}

fn tar(dir: &Path, args: &[&str], archive: &Path, more: &[&str]) {
    program("tar", "tar")
        .in_dir(dir)
        .args([
            "--format=posix",
            "--xattrs",
            "--xattrs-include=*",
            "--acls",
            "--sparse",
            "--numeric-owner",
            "--same-owner",
            "-p",
        ])
        .args(args)
        .arg("-f")
        .arg(archive)
        .args(more)
        .ok();
}

#[test]
fn tar_goes_in_and_comes_out_the_same() {
    let outside = tempfile::tempdir().unwrap();
    archivable().build_in(outside.path());
    let archive = outside.path().join("archive.tar");
    tar(outside.path(), &["-c"], &archive, &["tree"]);

    let mount = Mount::empty();
    tar(mount.root(), &["-x"], &archive, &[]);
    assert_same_tree(outside.path().join("tree"), mount.path("tree"));
    assert!(mount.stat("tree/sparse").blocks() * 512 < 16 * MIB, "it stays sparse");
    let mount = mount.restart();
    assert_same_tree(outside.path().join("tree"), mount.path("tree"));

    let (back, copy) = (outside.path().join("back.tar"), outside.path().join("copy"));
    tar(mount.root(), &["-c"], &back, &["tree"]);
    fs::create_dir(&copy).unwrap();
    tar(&copy, &["-x"], &back, &[]);
    assert_same_tree(outside.path().join("tree"), copy.join("tree"));
}

#[test]
fn copies_of_a_tree_are_equal_to_it() {
    let mount = Mount::over(archivable());
    program("cp", "coreutils").args(["-a", "tree", "copy"]).in_dir(mount.root()).ok();
    assert_same_tree(mount.path("tree"), mount.path("copy"));
    assert!(mount.stat("copy/sparse").blocks() * 512 < 16 * MIB, "it stays sparse");
    fs::rename(mount.path("tree"), mount.path("moved")).unwrap();
    let mount = mount.restart();
    assert_same_tree(mount.path("moved"), mount.path("copy"));
}

#[test]
fn find_and_du_and_diff_see_the_whole_tree() {
    let mount = Mount::over(archivable());
    let here = |name: &str, package: &str| program(name, package).in_dir(mount.root());
    let found = here("find", "findutils").args(["tree", "-type", "f", "-print0"]).ok();
    let files = Tree::of(mount.path("tree")).0.values().filter(|record| record.kind == "file").count();
    assert_eq!(found.stdout.split(|&byte| byte == 0).filter(|name| !name.is_empty()).count(), files);
    let leaves = here("find", "findutils").args(["tree", "-type", "d"]).ok().text().lines().count();
    assert_eq!(
        leaves,
        Tree::of(mount.path("tree")).0.values().filter(|record| record.kind == "directory").count()
    );
    let kib: u64 = here("du", "coreutils")
        .args(["-sk", "tree"])
        .ok()
        .text()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((5 * 1024..60 * 1024).contains(&kib), "{kib} KiB");
    // Not against the lower itself: reading it would change its access times.
    let copy = tempfile::tempdir().unwrap();
    archivable().build_in(copy.path());
    let many = copy.path().join("tree/many");
    here("diff", "diffutils").args(["-r", "--no-dereference", "tree/many"]).arg(many).ok();
}
