//! The supervisor is gone. Nobody goes on with a mount when the worker dies, but it need not die.

use std::time::Duration;

use durdir_tests::support::*;
use nix::sys::signal::Signal;

use crate::problems;

#[test]
fn mount_without_a_supervisor_is_made_all_the_same_and_the_doctor_tells() {
    let store = Store::new();
    store.expect_alarm("whoever keeps mounts is gone");
    store.expect_alarm("whoever watched over this process is gone");
    store.expect_alarm("cannot tell that this is the end");
    store.expect_alarm("cannot take back a socket");
    let before = store.mount("before");
    before.write("file", "x");
    assert_eq!(problems(&store), [] as [String; 0]);
    let (supervisor, worker) = (store.supervisor_pid(), store.worker_pid());
    signal(supervisor, Signal::SIGKILL);
    assert!(wait_for_exit(supervisor, Duration::from_secs(20)));
    let after = store.mount("after");
    after.write("file", "y");
    assert_eq!((before.text("file"), after.text("file")), ("x".into(), "y".into()));
    assert!(store.log().contains("whoever keeps mounts is gone"), "{}", store.log_tail());
    assert_eq!(problems(&store), ["supervisor-gone"]);
    assert_eq!(store.daemon(), [worker]);
    before.unmount();
    after.unmount();
    // It is an ordinary end, and an ordinary beginning.
    store.stop_daemon();
    let after = store.mount("after");
    assert_eq!(after.text("file"), "y");
    assert_eq!(problems(&store), [] as [String; 0]);
    store.kill_worker(Signal::SIGKILL);
    assert_eq!(after.text("file"), "y");
}
