//! What every driver must do, tried on each with real programs and plain directories in place of volumes.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::program::Tool;
use super::{
    AfterSave, Container, Deadline, Machine, Network, Runtime, RuntimeError, Sandbox, SandboxState,
    VolumeMount,
};
use crate::testing::write_program;

/// Writes numbered lines through one descriptor that stays open, answers HTTP, and ends with status 7 once it finds `/vol/stop`.
/// It believes what it wrote into its root.
const PROGRAM: &str = r"
echo kept >/believed
[ -z $PORT ] || busybox httpd -p 0.0.0.0:$PORT -h /vol/www
exec 3>>/vol/log
n=0
until [ -e /vol/stop ]; do
    n=$((n + 1))
    echo $n >&3
    busybox sleep 0.01
done
busybox cat /believed >/vol/believed
exit 7
";

/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// For how long a paused sandbox is watched: a running one writes dozens of lines meanwhile.
const WATCHED: Duration = Duration::from_millis(400);

/// A sandbox for one test, taken away at its end.
pub(super) struct Fixture<'a> {
    pub(super) runtime: &'a dyn Runtime,
    pub(super) sandbox: Sandbox,
    /// What the sandbox sees at `/vol`.
    pub(super) volume: PathBuf,
    /// Where HTTP is answered inside.
    pub(super) port: u16,
    scratch: tempfile::TempDir,
}

/// Returns a deadline that is only there so that a test fails and does not hang.
pub(super) fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

/// Waits until something is so.
pub(super) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

impl<'a> Fixture<'a> {
    /// Returns a sandbox with one container and one volume, of which nothing was made yet.
    pub(super) fn new(runtime: &'a dyn Runtime, network: Network, machine: Machine) -> Fixture<'a> {
        let scratch = tempfile::Builder::new().prefix("durdir-runtime-").tempdir().unwrap();
        // Programs of other users walk through it.
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let at = |name: &str| scratch.path().join(name);
        for directory in ["sandbox", "volume/www", "root/bin"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::write(at("volume/www/ready"), "at your service").unwrap();
        let busybox = Tool { name: "busybox", remedy: "install the package busybox-static" };
        write_program(&at("root/bin/busybox"), &fs::read(busybox.find().unwrap()).unwrap());
        std::os::unix::fs::symlink("busybox", at("root/bin/sh")).unwrap();
        // One that nobody listens at now: with the host's network it is the host's.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let container = Container {
            name: "main".to_owned(),
            rootfs: machine.kernel.is_none().then(|| at("root")),
            command: ["/bin/busybox", "sh", "-c", PROGRAM].map(str::to_owned).into(),
            env: [("PATH", "/bin"), ("PORT", &port.to_string())]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            working_directory: "/".into(),
            user: (0, 0),
            mounts: vec![VolumeMount {
                volume: "home".to_owned(),
                source: at("volume"),
                destination: "/vol".into(),
            }],
        };
        let unique = scratch.path().extension().or(scratch.path().file_name()).unwrap().to_str().unwrap();
        let unique: String = unique.chars().filter(char::is_ascii_alphanumeric).collect();
        let sandbox =
            Sandbox { id: unique, directory: at("sandbox"), containers: vec![container], network, machine };
        Fixture { runtime, sandbox, volume: at("volume"), port, scratch }
    }

    /// Returns a place for a file or directory of the test's own.
    pub(super) fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Makes an empty directory for memory to be saved in.
    pub(super) fn image(&self, name: &str) -> PathBuf {
        let image = self.scratch(name);
        fs::create_dir(&image).unwrap();
        image
    }

    pub(super) fn create(&self) {
        self.runtime.create(&self.sandbox, soon()).unwrap();
    }

    pub(super) fn start(&self) {
        self.runtime.start(&self.sandbox, soon()).unwrap();
    }

    pub(super) fn pause(&self) {
        self.runtime.pause(&self.sandbox, soon()).unwrap();
    }

    pub(super) fn resume(&self) {
        self.runtime.resume(&self.sandbox, soon()).unwrap();
    }

    pub(super) fn kill(&self) {
        self.runtime.kill(&self.sandbox, soon()).unwrap();
    }

    pub(super) fn save(&self, image: &Path) -> AfterSave {
        self.runtime.save(&self.sandbox, image, soon()).unwrap()
    }

    pub(super) fn restore(&self, image: &Path) {
        self.runtime.restore(&self.sandbox, image, soon()).unwrap_or_else(|error| {
            panic!("{error}; it said: {}", self.said());
        });
    }

    pub(super) fn state(&self) -> SandboxState {
        self.runtime.state(&self.sandbox, soon()).unwrap()
    }

    /// Returns everything that programs inside, and the runtime, printed.
    pub(super) fn said(&self) -> String {
        let files = fs::read_dir(&self.sandbox.directory).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()).collect()
    }

    /// Returns how many lines a program wrote into a file of the volume. Fails if any is missing or doubled.
    pub(super) fn lines(&self, log: &str) -> usize {
        let text = fs::read_to_string(self.volume.join(log)).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for (line, number) in whole.lines().zip(1..) {
            assert_eq!(line, number.to_string(), "a line is missing or doubled in {log}");
        }
        whole.lines().count()
    }

    /// Waits until the program has written more lines.
    pub(super) fn assert_running(&self, log: &str) {
        let before = self.lines(log);
        eventually("the program writes on", || {
            let state = self.state();
            assert_eq!(state, SandboxState::Running, "it said: {}", self.said());
            (self.lines(log) > before + 3).then_some(())
        });
    }

    /// Watches that the program writes nothing.
    pub(super) fn assert_stopped(&self, log: &str) {
        let before = self.lines(log);
        thread::sleep(WATCHED);
        assert_eq!(self.lines(log), before, "a paused program goes on");
        assert_eq!(self.state(), SandboxState::Paused);
    }

    /// Asks the program for a file over HTTP.
    pub(super) fn assert_answers(&self) {
        let answer = eventually("the program answers", || {
            let mut stream = self.runtime.connect(&self.sandbox, self.port, soon()).ok()?;
            stream.set_timeout(PATIENCE).unwrap();
            stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = Vec::new();
            // Where something stands between, a connection that nobody takes inside ends here.
            stream.read_to_end(&mut answer).ok()?;
            (!answer.is_empty()).then_some(answer)
        });
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.") && answer.ends_with("at your service"), "{answer}");
    }

    /// Has the program end, and waits until the runtime says so.
    pub(super) fn stop(&self) -> SandboxState {
        fs::write(self.volume.join("stop"), "").unwrap();
        eventually("the program has ended", || {
            let state = self.state();
            (state != SandboxState::Running).then_some(state)
        })
    }
}

impl Drop for Fixture<'_> {
    fn drop(&mut self) {
        let killed = self.runtime.kill(&self.sandbox, soon());
        if !thread::panicking() {
            killed.unwrap();
        }
    }
}

/// The whole life of a sandbox; each call is made again, as a successor does after a call that was cut short.
pub(super) fn whole_life(runtime: &dyn Runtime, machine: Machine, memory: bool) {
    let fixture = Fixture::new(runtime, Network::None, machine);
    let abilities = runtime.probe(soon()).unwrap();
    assert_eq!(abilities.memory, memory);
    assert!(!abilities.version.is_empty());
    runtime.preflight(&fixture.sandbox).unwrap();
    assert_eq!(fixture.state(), SandboxState::Absent);
    fixture.kill();

    fixture.create();
    assert_eq!(fixture.state(), SandboxState::Created);
    fixture.create();
    assert_eq!(fixture.state(), SandboxState::Created);
    assert_eq!(fixture.lines("log"), 0, "a program ran before it was started");
    fixture.start();
    fixture.start();
    fixture.assert_running("log");
    assert!(Path::new(&format!("/proc/{}", runtime.pid(&fixture.sandbox).unwrap().unwrap())).is_dir());
    fixture.assert_answers();

    fixture.pause();
    fixture.assert_stopped("log");
    fixture.pause();
    fixture.assert_stopped("log");
    fixture.resume();
    fixture.assert_running("log");
    fixture.resume();
    fixture.assert_running("log");

    // Wherever a pause is cut short, the sandbox goes on when it is told to.
    for time in [0, 5, 15, 25, 40].map(Duration::from_millis) {
        match runtime.pause(&fixture.sandbox, Deadline::after(time)) {
            Ok(()) | Err(RuntimeError::TimedOut { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        fixture.resume();
        fixture.assert_running("log");
    }

    if memory {
        assert_eq!(runtime.version_of(&fixture.sandbox, soon()).unwrap(), abilities.version);
        saves_and_goes_on(&fixture);
    } else {
        let error = runtime.check_save(&fixture.sandbox).unwrap_err();
        assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
        fixture.pause();
        let error = runtime.save(&fixture.sandbox, &fixture.image("image"), soon()).unwrap_err();
        assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
        assert_eq!(fixture.state(), SandboxState::Paused);
        fixture.resume();
        fixture.assert_running("log");
    }

    let state = fixture.stop();
    let SandboxState::Exited { container, status } = state else { panic!("{state:?}") };
    assert_eq!(container, "main");
    assert!(matches!(status, None | Some(7)), "{status:?}");
    assert_eq!(fs::read_to_string(fixture.volume.join("believed")).unwrap(), "kept\n");
    fixture.kill();
    assert_eq!(fixture.state(), SandboxState::Absent);
    assert_eq!(runtime.pid(&fixture.sandbox).unwrap(), None);
    fixture.kill();
    assert!(
        runtime.connect(&fixture.sandbox, fixture.port, Deadline::after(Duration::from_secs(5))).is_err()
    );
    let root = fixture.scratch("root");
    let names: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["bin"], "the root on the host was changed");
}

fn saves_and_goes_on(fixture: &Fixture<'_>) {
    let runtime = fixture.runtime;
    runtime.check_save(&fixture.sandbox).unwrap();
    fixture.pause();
    let first = fixture.image("image-1");
    match fixture.save(&first) {
        // It goes on as if nothing had happened, and may be saved once more.
        AfterSave::Paused => {
            fixture.assert_stopped("log");
            fixture.resume();
            fixture.assert_running("log");
            fixture.pause();
        }
        AfterSave::Ended => {
            fixture.restore(&first);
            fixture.assert_running("log");
            fixture.pause();
        }
    }
    let image = fixture.image("image-2");
    let after = fixture.save(&image);
    if after == AfterSave::Ended {
        assert_eq!(fixture.state(), SandboxState::Absent);
    }
    fixture.kill();
    assert_eq!(fixture.state(), SandboxState::Absent);
    let lines = fs::read(fixture.volume.join("log")).unwrap();
    fixture.restore(&image);
    fixture.assert_running("log");
    fixture.assert_answers();

    // A restore that is made again, with the volume as it was. `lines` would find a line that was written by the other one.
    fixture.kill();
    fs::write(fixture.volume.join("log"), lines).unwrap();
    fixture.restore(&image);
    fixture.assert_running("log");
    fixture.pause();
    fixture.assert_stopped("log");
    fixture.resume();
}

/// A sandbox that cannot be made or restored in time is an error, soon, and can be taken away.
pub(super) fn deadlines(runtime: &dyn Runtime, machine: Machine) {
    let fixture = Fixture::new(runtime, Network::None, machine);
    for time in [0, 20, 60].map(Duration::from_millis) {
        let started = Instant::now();
        match runtime.create(&fixture.sandbox, Deadline::after(time)) {
            Ok(()) => assert!(!time.is_zero()),
            Err(error) => assert!(matches!(error, RuntimeError::TimedOut { .. }), "{error}"),
        }
        assert!(started.elapsed() < PATIENCE);
    }
    fixture.kill();
    assert_eq!(fixture.state(), SandboxState::Absent);
    fixture.create();
    assert_eq!(fixture.state(), SandboxState::Created);
}

/// An image that is none is refused, and nothing is left.
pub(super) fn broken_image(runtime: &dyn Runtime, machine: Machine) {
    let fixture = Fixture::new(runtime, Network::None, machine);
    let image = fixture.image("image");
    assert!(runtime.restore(&fixture.sandbox, &image, soon()).is_err());
    assert_eq!(fixture.state(), SandboxState::Absent);
    assert_eq!(runtime.pid(&fixture.sandbox).unwrap(), None);
    assert_eq!(fs::read_dir(&image).unwrap().count(), 0, "the image was changed");
}

/// Returns the directory that `examples/microvm/build` filled.
pub(super) fn microvm() -> PathBuf {
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
