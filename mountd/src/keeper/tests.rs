use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;

use super::*;

/// A keeper as systemd is one: answers until the test is over.
struct FakeKeeper {
    directory: tempfile::TempDir,
    messages: mpsc::Receiver<(String, usize)>,
}

impl FakeKeeper {
    fn start() -> FakeKeeper {
        let directory = tempfile::tempdir().unwrap();
        let socket = crate::socket::bind_datagram(&directory.path().join("notify")).unwrap();
        let (sender, messages) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = [0; 4096];
            loop {
                let mut space = [std::mem::MaybeUninit::uninit(); 64];
                let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
                let mut parts = [io::IoSliceMut::new(&mut text)];
                let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
                let length = rustix::net::recvmsg(&socket, &mut parts, &mut ancillary, flags).unwrap().bytes;
                let mut descriptors: Vec<OwnedFd> = Vec::new();
                for message in ancillary.drain() {
                    if let rustix::net::RecvAncillaryMessage::ScmRights(received) = message {
                        descriptors.extend(received);
                    }
                }
                let text = String::from_utf8(text[..length].to_vec()).unwrap();
                if sender.send((text, descriptors.len())).is_err() {
                    return;
                }
            }
        });
        FakeKeeper { directory, messages }
    }

    fn handle(&self, limit: Option<usize>) -> Keeper {
        connect(&self.directory.path().join("notify"), limit)
    }

    fn heard(&self) -> Vec<(String, usize)> {
        self.messages.try_iter().collect()
    }
}

fn connect(path: &Path, limit: Option<usize>) -> Keeper {
    let channel = Channel::new(path).unwrap();
    let watchdog = Some(Duration::from_secs(3));
    Keeper(Some(Arc::new(Inner { channel, watchdog, limit, kept: Mutex::default() })))
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

#[test]
fn descriptors_are_with_the_keeper_when_keep_returns() {
    let keeper = FakeKeeper::start();
    let handle = keeper.handle(None);
    let (one, two) = (null(), null());
    handle.keep("mount-1", &[one.as_fd(), two.as_fd()]).unwrap();
    let heard = keeper.heard();
    let heard: Vec<(&str, usize)> = heard.iter().map(|(text, count)| (text.as_str(), *count)).collect();
    assert_eq!(
        heard,
        [
            ("FDSTORE=1\nFDNAME=mount-1_0of2\nFDPOLL=0", 1),
            ("FDSTORE=1\nFDNAME=mount-1_1of2\nFDPOLL=0", 1),
            ("BARRIER=1", 1)
        ]
    );
    handle.release("mount-1").unwrap();
    let removed: Vec<String> = keeper.heard().into_iter().map(|(text, _)| text).collect();
    assert_eq!(
        removed,
        ["FDSTOREREMOVE=1\nFDNAME=mount-1_0of2", "FDSTOREREMOVE=1\nFDNAME=mount-1_1of2", "BARRIER=1"]
    );
    handle.release("mount-1").unwrap();
    assert!(keeper.heard().is_empty());
}

#[test]
fn a_name_that_is_taken_or_does_not_fit_is_refused_and_nothing_is_sent() {
    let keeper = FakeKeeper::start();
    let handle = keeper.handle(Some(2));
    let file = null();
    handle.keep("a", &[file.as_fd()]).unwrap();
    keeper.heard();
    let refused = |name: &str, count: usize| {
        let descriptors = vec![file.as_fd(); count];
        handle.keep(name, &descriptors).unwrap_err().kind()
    };
    assert_eq!(refused("a", 1), io::ErrorKind::AlreadyExists);
    assert_eq!(refused("b", 2), io::ErrorKind::QuotaExceeded);
    assert_eq!(refused("B", 1), io::ErrorKind::InvalidInput);
    assert!(keeper.heard().is_empty());
    handle.keep("b", &[file.as_fd()]).unwrap();
}

#[test]
fn a_keeper_that_is_gone_keeps_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = crate::socket::bind_datagram(&path).unwrap();
    let handle = connect(&path, None);
    let file = null();
    // Dies with the messages unread.
    let dying = std::thread::spawn(move || {
        let mut watched = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut watched, None).unwrap();
        assert!(socket.as_raw_fd() >= 0);
        drop(socket);
    });
    handle.keep("a", &[file.as_fd()]).unwrap_err();
    dying.join().unwrap();
    // The name is free again.
    assert_ne!(handle.keep("a", &[file.as_fd()]).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(handle.alive().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn without_a_keeper_everything_is_agreed_to() {
    let keeper = Keeper::none();
    keeper.keep("a", &[null().as_fd()]).unwrap();
    keeper.release("a").unwrap();
    keeper.ready().unwrap();
    assert!(!keeper.is_present());
    assert_eq!(keeper.watchdog(), None);
}

#[test]
fn three_signs_of_life_fit_into_the_time_allowed() {
    assert_eq!(FakeKeeper::start().handle(None).watchdog(), Some(Duration::from_secs(1)));
}
