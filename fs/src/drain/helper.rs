//! The helper: a process that opens files of our mounts, so that the daemon need not.
//!
//! # Overview
//! The daemon starts its own program again with [`HELPER_ARGUMENT`], writes one line per inode to
//! it, and reads one line per failure, and a last one when all is done. The helper does nothing else, and ends when nobody listens
//! any more: the end of a program of this size takes longer than most drains, and would be in the way of who waits.
//!
//! ```text
//!  4711 map_files/7f31c6a00000-7f31c6a08000 0:51 17 /srv/home/db.sqlite-shm
//! ```
//!
//! # Cancellation
//! At the deadline the helper is killed. If it hangs in a call that only the daemon can answer, it
//! goes away when that is answered or the mount is aborted, and a thread collects it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::DrainError;
use super::scan::MaybeDirty;
use crate::fuse::DeviceId;

/// The first argument that makes a program a helper. Not for people.
pub const HELPER_ARGUMENT: &str = "__write-out-mapped-files";

/// What the helper says last, on a line of its own.
const DONE: &[u8] = b"done\n";

/// Files are written out this many at a time.
const PARALLEL: usize = 8;

/// To start a thread takes as long as to write out some files.
const WORTH_A_THREAD: usize = 4;

/// Failures beyond these are counted, not listed.
const LISTED_FAILURES: usize = 5;

/// A helper that waits for its work. It ends if there is none.
#[derive(Debug)]
pub struct Helper {
    /// None once the work was handed to it.
    child: Option<Child>,
}

impl Helper {
    pub(super) fn start(program: &Path) -> Result<Helper, DrainError> {
        let child = Command::new(program)
            .arg0("durdir-drain")
            .arg(HELPER_ARGUMENT)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| DrainError::Helper { step: "start", source })?;
        Ok(Helper { child: Some(child) })
    }

    /// Writes `files` out, until `deadline` counted from `started`.
    pub(super) fn write_out(
        mut self,
        deadline: Duration,
        started: Instant,
        files: &[MaybeDirty],
    ) -> Result<(), DrainError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        match talk(&mut child, deadline, started, files) {
            Ok(said) => match before_done(&said) {
                Some(b"") => {
                    collect(child);
                    Ok(())
                }
                Some(failures) => {
                    collect(child);
                    Err(DrainError::Failed { failures: summarize(failures) })
                }
                // It has closed its output, which it does by ending.
                None => {
                    let code =
                        child.wait().map_err(|source| DrainError::Helper { step: "collect", source })?;
                    let told = Some(summarize(&said)).filter(|told| !told.is_empty());
                    let failures: Vec<_> =
                        told.into_iter().chain([format!("the helper ended with {code}")]).collect();
                    Err(DrainError::Failed { failures: failures.join("; ") })
                }
            },
            Err(error) => {
                abandon(child);
                Err(error)
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            abandon(child);
        }
    }
}

/// Sends the list and returns what the helper says, up to [`DONE`] or to its end.
fn talk(
    child: &mut Child,
    deadline: Duration,
    started: Instant,
    files: &[MaybeDirty],
) -> Result<Vec<u8>, DrainError> {
    let failed = |step| move |source| DrainError::Helper { step, source };
    let mut list = Vec::new();
    for file in files {
        // The helper reads until the end before it does anything, so neither waits for the other.
        write_line(&mut list, file);
    }
    // Dropped at the end of the statement, which is the end of the list.
    let sent = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(&list));
    sent.map_err(failed("write to"))?;
    let Some(mut output) = child.stdout.take() else {
        return Ok(Vec::new());
    };
    let mut said = Vec::new();
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(DrainError::TimedOut { deadline }),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(failed("wait for")(errno.into())),
        }
        let mut chunk = [0; 4096];
        match output.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => said.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("read from")(error)),
        }
        if before_done(&said).is_some() {
            break;
        }
    }
    Ok(said)
}

/// Returns the failures, if the helper has told all of them.
fn before_done(said: &[u8]) -> Option<&[u8]> {
    said.strip_suffix(DONE).filter(|before| before.last().is_none_or(|byte| *byte == b'\n'))
}

/// Kills the helper, and waits for nothing: it may hang in a call that cannot be broken off.
fn abandon(mut child: Child) {
    if let Err(error) = child.kill() {
        tracing::warn!(%error, "cannot stop the helper that writes mapped files out");
    }
    collect(child);
}

/// Leaves it to a thread to take note that the helper has ended.
fn collect(mut child: Child) {
    let reaper = std::thread::Builder::new().name("durdir-reaper".into()).spawn(move || child.wait());
    if let Err(error) = reaper {
        tracing::warn!(%error, "a helper stays a zombie");
    }
}

fn summarize(failures: &[u8]) -> String {
    let failures = String::from_utf8_lossy(failures);
    let count = failures.lines().count();
    let mut summary = failures.lines().take(LISTED_FAILURES).collect::<Vec<_>>().join("; ");
    if count > LISTED_FAILURES {
        summary.push_str(&format!("; and {} more", count - LISTED_FAILURES));
    }
    summary
}

fn write_line(list: &mut Vec<u8>, file: &MaybeDirty) {
    let MaybeDirty { pid, link, device, inode, path } = file;
    list.extend_from_slice(format!("{pid} {link} {device} {inode} ").as_bytes());
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'\n' => list.extend_from_slice(b"\\012"),
            b'\\' => list.extend_from_slice(b"\\134"),
            byte => list.push(*byte),
        }
    }
    list.push(b'\n');
}

fn parse_line(line: &[u8]) -> Option<MaybeDirty> {
    let mut words = line.splitn(5, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(words.next()?).ok();
    let pid = text()?.parse().ok()?;
    let link = text()?.to_owned();
    let (major, minor) = text()?.split_once(':')?;
    let inode = text()?.parse().ok()?;
    let device = DeviceId { major: major.parse().ok()?, minor: minor.parse().ok()? };
    let path = PathBuf::from(OsStr::from_bytes(&crate::fuse::unescape(words.next()?)));
    Some(MaybeDirty { pid, link, device, inode, path })
}

/// Runs as the helper: reads the list from standard input, writes the files out, and failures to standard
/// output.
pub fn helper_main() -> ExitCode {
    let mut list = Vec::new();
    if let Err(error) = io::stdin().lock().read_to_end(&mut list) {
        report(format_args!("read the list: {error}"));
        return ExitCode::FAILURE;
    }
    let files: Vec<_> = list.split(|byte| *byte == b'\n').filter_map(parse_line).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = write_out(file) {
                failed.fetch_add(1, Ordering::Relaxed);
                report(format_args!("{} (inode {}): {error}", file.path.display(), file.inode));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..PARALLEL.min(files.len() / WORTH_A_THREAD) {
            scope.spawn(work);
        }
        work();
    });
    // The daemon goes on from here, if it is still there.
    io::stdout().lock().write_all(DONE).ok();
    await_no_reader(&io::stdout());
    match failed.into_inner() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Waits until nobody reads a pipe any more.
fn await_no_reader(pipe: &impl AsFd) {
    // What is told of a pipe besides what was asked for: POLLERR, when its last reader is gone.
    while poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::empty())], PollTimeout::NONE) == Err(Errno::EINTR) {
    }
}

/// Tells the daemon, if it is still there.
fn report(failure: std::fmt::Arguments<'_>) {
    writeln!(io::stdout().lock(), "{failure}").ok();
}

/// Writes back all dirty pages of one inode, and waits until the store has answered for them.
///
/// By closing it: `fuse_flush` of fs/fuse/file.c writes the inode out and waits for the writes in flight, also where the file
/// system has no use for FLUSH. `fsync(2)` would do that and have the store sync its disk on top, which nobody asked for.
/// `sync_file_range(2)` waits for the pages alone, which before Linux 6.16 were done when they had been copied.
fn write_out(wanted: &MaybeDirty) -> io::Result<()> {
    match open_inode(wanted)? {
        Some(file) => match nix::unistd::close(file) {
            // Interrupted or not, it is closed; there is no handler that could interrupt it.
            Ok(()) => Ok(()),
            Err(errno) => Err(errno.into()),
        },
        // Nobody uses the inode any more: what was dirty was written back when the last use ended.
        None => Ok(()),
    }
}

/// Opens the inode; `None` if nothing leads to it any more.
fn open_inode(wanted: &MaybeDirty) -> io::Result<Option<File>> {
    let MaybeDirty { pid, link, path, .. } = wanted;
    let direct = open_if_same(Path::new(&format!("/proc/{pid}/{link}")), wanted);
    let refusal = match direct {
        Ok(Some(file)) => return Ok(Some(file)),
        Ok(None) => None,
        Err(error) => Some(error),
    };
    // The mapping may be gone, or only root may follow its link. The name, and the descriptors of
    // the process, lead to the same inode.
    let mut root = PathBuf::from(format!("/proc/{pid}/root"));
    root.push(path.strip_prefix("/").unwrap_or(path));
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut others = [root, path.clone()].into_iter().chain(descriptors.map(|entry| entry.path()));
    match others.find_map(|other| open_if_same(&other, wanted).ok().flatten()) {
        Some(file) => Ok(Some(file)),
        None => refusal.map_or(Ok(None), Err),
    }
}

/// Opens `path` if it leads to the wanted inode; `None` if it does not, or leads nowhere.
///
/// Names are chosen by others and may change at any time, so what is opened is what was checked:
/// opening a device node in its place could do harm.
fn open_if_same(path: &Path, wanted: &MaybeDirty) -> io::Result<Option<File>> {
    let handle = match OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path) {
        Ok(handle) => handle,
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::ENOTDIR) => return Ok(None),
            _ => return Err(error),
        },
    };
    let metadata = handle.metadata()?;
    let device = DeviceId { major: libc::major(metadata.dev()), minor: libc::minor(metadata.dev()) };
    if !metadata.is_file() || device != wanted.device || metadata.ino() != wanted.inode {
        return Ok(None);
    }
    let checked = format!("/proc/self/fd/{}", handle.as_raw_fd());
    match File::open(&checked) {
        // A file that its owner may only write.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            OpenOptions::new().write(true).open(&checked).map(Some)
        }
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_survives_any_name() {
        for name in [&b"/a b/c"[..], b"", b"/new\nline", b"/back\\slash\\012", b"/\xff\xfe (deleted)"] {
            let file = MaybeDirty {
                pid: 4711,
                link: "map_files/1000-2000".into(),
                device: DeviceId { major: 0, minor: 51 },
                inode: 17,
                path: PathBuf::from(OsStr::from_bytes(name)),
            };
            let mut list = Vec::new();
            write_line(&mut list, &file);
            assert_eq!(list.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(parse_line(&list[..list.len() - 1]), Some(file));
        }
        assert_eq!(parse_line(b""), None);
        assert_eq!(parse_line(b"1 fd/3 0:1 x /a"), None);
    }

    #[test]
    fn a_helper_without_work_ends() {
        let helper = Helper::start(Path::new("/bin/cat")).unwrap();
        let pid = helper.child.as_ref().unwrap().id();
        drop(helper);
        let begun = Instant::now();
        while Path::new(&format!("/proc/{pid}/task/{pid}")).exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it stays");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Hands work to a helper that takes it, says this, and does something else then. Returns what came of it, and how long that took.
    fn saying(said: &str, then: &str) -> (Result<(), DrainError>, Duration) {
        let script = format!("cat >/dev/null; printf '{said}'; exec >&-; {then}");
        let mut command = Command::new("sh");
        let child =
            command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        let written = Helper { child: Some(child) }.write_out(Duration::from_secs(20), begun, &[]);
        (written, begun.elapsed())
    }

    #[test]
    fn a_helper_is_not_waited_for_once_it_has_said_that_it_is_done() {
        let (written, took) = saying("done\\n", "sleep 30");
        assert!(written.is_ok() && took < Duration::from_secs(10), "{written:?} after {took:?}");
        let (written, took) = saying("/a: no\\ndone\\n", "sleep 30");
        assert_eq!(written.unwrap_err().to_string(), "write mapped files out: /a: no");
        assert!(took < Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn a_helper_that_ends_before_it_is_done_has_failed() {
        for said in ["", "/a/un", "/a/undone\\n", "done"] {
            let (written, _) = saying(said, "exit 3");
            let told = written.unwrap_err().to_string();
            assert!(told.ends_with("the helper ended with exit status: 3"), "{said}: {told}");
        }
    }

    #[test]
    fn many_failures_are_counted() {
        let failures = b"a\nb\nc\nd\ne\nf\ng\n";
        assert_eq!(summarize(failures), "a; b; c; d; e; and 2 more");
    }

    #[test]
    fn only_the_wanted_inode_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let device = DeviceId { major: libc::major(metadata.dev()), minor: libc::minor(metadata.dev()) };
        let wanted = MaybeDirty {
            pid: std::process::id(),
            link: "fd/9999".into(),
            device,
            inode: metadata.ino(),
            path,
        };
        assert!(open_inode(&wanted).unwrap().is_some());
        // A number that no file has: its neighbour may well be open in this process, by another test.
        assert!(open_inode(&MaybeDirty { inode: u64::MAX, ..wanted.clone() }).unwrap().is_none());
        fs::remove_file(&wanted.path).unwrap();
        write_out(&wanted).unwrap();
    }
}
