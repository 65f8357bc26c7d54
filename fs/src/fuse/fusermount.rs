//! `fusermount3`, the setuid helper through which ordinary users mount and unmount.
//!
//! It opens the device and mounts it, always with `nosuid` and `nodev`, and sends the descriptor
//! over a socket.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};

use super::mountpoint::{DEVICE, failed};
use super::transport::{MountError, MountOptions};

const PROGRAM: &str = "fusermount3";
const SUBTYPE: &str = "durdir";

/// Mounts at `mountpoint` and returns the device.
pub(super) fn mount(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
        .map_err(|errno| failed("mount at", mountpoint, errno.into()))?;
    let mut words = vec![
        format!("fsname={}", escape(&options.fs_name)),
        format!("subtype={SUBTYPE}"),
        "default_permissions".into(),
    ];
    if options.allow_other {
        words.push("allow_other".into());
    }
    if options.read_only {
        words.push("ro".into());
    }
    let mut command = Command::new(PROGRAM);
    command.arg("-o").arg(words.join(",")).arg("--").arg(mountpoint);
    // The helper sends the device over the descriptor named here: its standard input.
    command.env("_FUSE_COMMFD", "0").stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| missing(mountpoint, error))?;
    // Closes our copy of the helper's end, so that its exit ends the wait below.
    drop(command);
    let received = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(|error| failed("mount at", mountpoint, error))?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Ok(_) => Err(MountError::Refused {
            mountpoint: mountpoint.into(),
            message: with_remedy(one_line(&output.stderr, "fusermount3 gave no reason")),
        }),
        Err(errno) => Err(failed("mount at", mountpoint, errno.into())),
    }
}

/// Adds what to do about the one thing that is wrong with many machines.
fn with_remedy(message: String) -> String {
    match message.contains(DEVICE) && message.contains("Permission denied") {
        true => format!("{message}; let users open it (`chmod 666 {DEVICE}`), or run mountd as root"),
        false => message,
    }
}

/// Receives a descriptor that the peer of `socket` sends; `None` if it hangs up without.
fn receive_descriptor(socket: &OwnedFd) -> nix::Result<Option<OwnedFd>> {
    let mut byte = [0u8; 1];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(std::os::fd::RawFd);
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(Errno::EINTR) => parts = [IoSliceMut::new(&mut byte)],
            result => break result?,
        }
    };
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(&descriptor) = descriptors.first()
        {
            // SAFETY: the kernel has just put this descriptor into our table for this message, and
            // the message is read once: nobody else owns it.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) }));
        }
    }
    Ok(None)
}

/// Unmounts, with `flags` for the helper.
pub(super) fn umount(mountpoint: &Path, flags: &[&str]) -> Result<(), MountError> {
    let output = Command::new(PROGRAM)
        .arg("-u")
        .args(flags)
        .arg("--")
        .arg(mountpoint)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| missing(mountpoint, error))?;
    if output.status.success() {
        return Ok(());
    }
    let message = one_line(&output.stderr, "fusermount3 gave no reason");
    if message.contains("busy") {
        return Err(MountError::Busy { mountpoint: mountpoint.into() });
    }
    Err(MountError::Refused { mountpoint: mountpoint.into(), message })
}

fn missing(mountpoint: &Path, error: io::Error) -> MountError {
    match error.kind() {
        io::ErrorKind::NotFound => {
            MountError::NoFuse { what: "an ordinary user needs fusermount3 (package fuse3)", path: DEVICE }
        }
        _ => failed("start fusermount3 for", mountpoint, error),
    }
}

/// Escapes what separates mount options.
fn escape(word: &str) -> String {
    word.replace('\\', "\\\\").replace(',', "\\,")
}

fn one_line(output: &[u8], silence: &str) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { silence.into() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_cannot_smuggle_in_another() {
        assert_eq!(escape(r"durdir:a,suid\"), r"durdir:a\,suid\\");
    }
}
