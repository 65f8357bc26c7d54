//! The problems that are told apart, with what is to be done about each. Their kinds are a contract.

use std::path::Path;

use crate::units::{format_micros, format_size};

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem {
    pub(crate) kind: &'static str,
    pub(crate) volume: Option<String>,
    pub(crate) detail: String,
    pub(crate) remedy: String,
}

impl Problem {
    fn of_node(kind: &'static str, detail: String, remedy: impl Into<String>) -> Problem {
        Problem { kind, volume: None, detail, remedy: remedy.into() }
    }

    fn of_volume(kind: &'static str, volume: &str, detail: String, remedy: String) -> Problem {
        Problem { kind, volume: Some(volume.to_owned()), detail, remedy }
    }

    /// The process is there and does not run.
    pub(super) fn daemon_stopped(pid: u32) -> Problem {
        let detail = format!("mountd (pid {pid}) is stopped, as by SIGSTOP or a debugger");
        Problem::of_node("daemon-stopped", detail, format!("kill -CONT {pid}"))
    }

    /// The process runs and does not answer.
    pub(super) fn daemon_silent(pid: u32, why: &str, log: &Path) -> Problem {
        let detail = format!("mountd (pid {pid}) does not answer: {why}");
        let remedy = format!("look at {}; kill -9 {pid} loses nothing that was acknowledged", log.display());
        Problem::of_node("daemon-silent", detail, remedy)
    }

    /// The process has the store and is not at the socket.
    pub(super) fn daemon_unreachable(pid: u32, socket: &Path) -> Problem {
        let socket = socket.display();
        let detail = format!("process {pid} has the store, but nobody listens at {socket}");
        let remedy = "wait if it is starting or ending; pass its --socket if it has another";
        Problem::of_node("daemon-unreachable", detail, remedy)
    }

    /// The supervisor is there and does not answer as it should.
    pub(super) fn supervisor_silent(why: &str) -> Problem {
        let detail = format!("the supervisor of mountd does not answer: {why}");
        Problem::of_node(
            "supervisor-silent",
            detail,
            "look at mountd.log in the store; restart mountd when it suits",
        )
    }

    /// The worker was started by a supervisor that is gone.
    pub(super) fn supervisor_gone(worker: u32, supervisor: u32) -> Problem {
        let detail = format!(
            "the supervisor of mountd (pid {supervisor}) is gone: if the worker (pid {worker}) dies, its mounts end with it"
        );
        let remedy = format!("when it suits: unmount, kill {worker}, and mount again");
        Problem::of_node("supervisor-gone", detail, remedy)
    }

    /// After a failed write the store takes no more of them.
    pub(super) fn store_stopped(log: &Path) -> Problem {
        let detail = "the store stopped after a failed write: every change is refused, reads go on";
        let remedy = format!(
            "{} tells why; where a supervisor runs, the store is opened anew by itself once its disk can be written, else restart mountd",
            log.display()
        );
        Problem::of_node("store-stopped", detail.to_owned(), remedy)
    }

    /// A request killed workers, and was failed.
    pub(super) fn flagged_volume(volume: &str, what: &str, count: u32) -> Problem {
        let detail =
            format!("{count} requests killed workers and were answered with EIO, the last was: {what}");
        let remedy =
            "report it with the log; `durdir fsck --repair` checks the store and takes the flag away";
        Problem::of_volume("flagged-volume", volume, detail, remedy.to_owned())
    }

    /// A thread waits for the kernel and does not get on.
    pub(super) fn stuck_thread(pid: u32, thread: &str) -> Problem {
        let detail = format!("mountd (pid {pid}): {thread}");
        let remedy = "look at the disk under the store and under the lowers: dmesg, iostat";
        Problem::of_node("stuck-thread", detail, remedy)
    }

    /// A request is not answered.
    pub(super) fn stuck_request(volume: &str, operation: &str, age_us: u64, place: Option<&Path>) -> Problem {
        let place = place.map_or(String::new(), |place| format!(" at {}", place.display()));
        let detail = format!("a {operation}{place} is worked on for {}", format_micros(age_us));
        let remedy =
            "look at the lowers of the volume and at the disk of the store; the log names the request";
        Problem::of_volume("stuck-request", volume, detail, remedy.to_owned())
    }

    /// Requests wait for a daemon that does not answer.
    pub(super) fn waiting_requests(volume: &str, waiting: u64, place: &Path, connection: u32) -> Problem {
        let detail = format!("{waiting} requests wait at {}", place.display());
        let remedy = format!(
            "get the daemon to answer; echo 1 > /sys/fs/fuse/connections/{connection}/abort fails them all"
        );
        Problem::of_volume("waiting-requests", volume, detail, remedy)
    }

    /// Nobody serves a mount.
    pub(super) fn dead_mount(volume: &str, place: &Path) -> Problem {
        let detail = format!("nobody serves the mount at {}", place.display());
        Problem::of_volume("dead-mount", volume, detail, format!("durdir umount {}", place.display()))
    }

    /// Nothing can be written any more.
    pub(super) fn disk_full(store: &Path, available: u64) -> Problem {
        let detail = format!("{} has {} left", store.display(), format_size(available));
        let remedy = "remove snapshots, volumes or files, then `durdir gc`; deletes work on a full disk";
        Problem::of_node("disk-full", detail, remedy)
    }

    /// The store is not one, or not one that this version reads.
    pub(super) fn store_unreadable(why: &str) -> Problem {
        let remedy =
            "if a newer durdir wrote it, use that; else restore FORMAT from another store of the version";
        Problem::of_node("store-unreadable", why.to_owned(), remedy)
    }

    /// What is read to open the store is not what was written.
    pub(super) fn store_damaged(why: &str) -> Problem {
        let remedy = "look at the disk under the store: dmesg, smartctl; then bring the directory of the store back from a backup: \
                      no durdir can repair this";
        Problem::of_node("store-damaged", format!("the store cannot be opened: {why}"), remedy)
    }

    /// Nobody knows what the store holds.
    pub(super) fn records_unread(why: &str) -> Problem {
        let detail =
            format!("the records of the store cannot be read, and are not looked at for damage: {why}");
        let remedy =
            "look at the disk under the store, and whose it is: dmesg, iostat, ls -l; then try again";
        Problem::of_node("store-unread", detail, remedy)
    }

    /// The record of an actor makes no sense to this version.
    pub(super) fn unreadable_actor(id: &str, log: &Path) -> Problem {
        let detail = format!("what is stored of actor {id} cannot be read; nobody looks after it");
        let remedy = format!("if a newer durdir wrote it, use that; {} tells more", log.display());
        Problem::of_node("unreadable-actor", detail, remedy)
    }

    /// Records do not parse and are passed over.
    pub(super) fn quarantined_records(count: u64) -> Problem {
        let detail = format!("{count} records cannot be read and are passed over");
        Problem::of_node("quarantined-records", detail, "durdir fsck names them")
    }
}
