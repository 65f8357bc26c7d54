//! Network namespaces for sandboxes, and their links to the host.
//!
//! # Overview
//! ```text
//!   host                           namespace durdir-ID
//!   durdirN  169.254.x.y+1/30 ──── eth0  169.254.x.y+2/30, default route by way of the host
//! ```
//! N numbers the /30 networks of 169.254.0.0/16. Nothing is forwarded or translated: whoever wants the sandbox to reach further
//! sets that up on the host.
//!
//! # Invariants
//! - No two sandboxes have the same N: the kernel lets only one link have a name, whichever daemon makes it.
//! - N is written into the sandbox's directory before the link is made, and tried first the next time, so a sandbox keeps its
//!   address unless another one has it meanwhile.
//! - Only what is in the sandbox's own namespace is removed; a name on the host may be another sandbox's.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::program::Tool;
use super::{Deadline, RuntimeError, Sandbox, files};

pub(super) const IP: Tool = Tool { name: "ip", remedy: "install the package iproute2" };

/// The first and the last 256 addresses are reserved (RFC 3927).
const NETWORKS: std::ops::Range<u16> = 64..16320;
/// 169.254.169.254, where clouds answer their machines.
const OF_THE_CLOUD: u16 = (169 * 256 + 254) / 4;

/// What a namespace has, beside its loopback device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// Nothing.
    Itself,
    /// A link to the host.
    Host,
}

/// One end-to-end link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link {
    number: u16,
}

impl Link {
    fn address(self, last: u16) -> Ipv4Addr {
        let [high, low] = (self.number * 4 + last).to_be_bytes();
        Ipv4Addr::new(169, 254, high, low)
    }

    fn host_address(self) -> Ipv4Addr {
        self.address(1)
    }

    fn device(self) -> String {
        format!("durdir{}", self.number)
    }

    /// Returns where the sandbox is reached from the host.
    pub(super) fn port(self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.address(2), port)
    }

    /// Returns the link of a sandbox, as it was made last.
    pub(super) fn of(sandbox: &Sandbox) -> Result<Option<Link>, RuntimeError> {
        let text = files::read(&number_file(sandbox))?;
        let number = text.and_then(|text| text.trim().parse().ok());
        Ok(number.filter(|number| NETWORKS.contains(number)).map(|number| Link { number }))
    }

    /// Returns all links, in the order in which a sandbox should try them.
    fn candidates(sandbox: &Sandbox) -> Result<impl Iterator<Item = Link>, RuntimeError> {
        let count = NETWORKS.end - NETWORKS.start;
        // Any number will do that spreads them, so that a free one is found soon.
        let spread =
            sandbox.id.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let start = u16::try_from(spread % u32::from(count)).unwrap_or_default();
        let others = (0..count).map(move |n| Link { number: NETWORKS.start + (start + n) % count });
        let others = others.filter(|link| link.number != OF_THE_CLOUD);
        Ok(Link::of(sandbox)?.into_iter().chain(others))
    }
}

fn number_file(sandbox: &Sandbox) -> PathBuf {
    sandbox.directory.join("network")
}

fn namespace(sandbox: &Sandbox) -> String {
    format!("durdir-{}", sandbox.id)
}

/// Returns where a sandbox's network namespace is, once it was made.
pub(super) fn namespace_path(sandbox: &Sandbox) -> PathBuf {
    Path::new("/run/netns").join(namespace(sandbox))
}

/// Makes the network namespace of a sandbox. Remains of an earlier one are taken away.
pub(super) fn make(sandbox: &Sandbox, reach: Reach, deadline: Deadline) -> Result<(), RuntimeError> {
    remove(sandbox, deadline)?;
    let name = namespace(sandbox);
    ip(&["netns", "add", &name], deadline)?;
    ip(&["-n", &name, "link", "set", "lo", "up"], deadline)?;
    if reach == Reach::Itself {
        return Ok(());
    }
    let link = add_link(sandbox, &name, deadline)?;
    let (host, guest) = (format!("{}/30", link.host_address()), format!("{}/30", link.address(2)));
    ip(&["address", "add", &host, "dev", &link.device()], deadline)?;
    ip(&["link", "set", &link.device(), "up"], deadline)?;
    ip(&["-n", &name, "address", "add", &guest, "dev", "eth0"], deadline)?;
    ip(&["-n", &name, "link", "set", "eth0", "up"], deadline)?;
    let host = link.host_address().to_string();
    ip(&["-n", &name, "route", "add", "default", "via", &host], deadline)
}

fn add_link(sandbox: &Sandbox, namespace: &str, deadline: Deadline) -> Result<Link, RuntimeError> {
    let path = number_file(sandbox);
    for link in Link::candidates(sandbox)? {
        files::write(&path, format!("{}\n", link.number))?;
        let device = link.device();
        match ip(
            &["link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns", namespace],
            deadline,
        ) {
            Ok(()) => return Ok(link),
            Err(RuntimeError::Failed { detail, .. }) if detail.contains("File exists") => {}
            Err(error) => return Err(error),
        }
    }
    Err(RuntimeError::Refused {
        setting: "network".to_owned(),
        why: format!("all {} links to sandboxes of this host are in use", NETWORKS.len()),
    })
}

/// Takes the network namespace of a sandbox away, if there is one, and its link with it.
pub(super) fn remove(sandbox: &Sandbox, deadline: Deadline) -> Result<(), RuntimeError> {
    let name = namespace(sandbox);
    if !namespace_path(sandbox).exists() {
        return Ok(());
    }
    // The namespace itself goes when the kernel comes round to it, and would keep the name of the host's end until then.
    match ip(&["-n", &name, "link", "delete", "eth0"], deadline) {
        // There is none; or it is no namespace any more, but an empty file that its unmounting left.
        Ok(()) | Err(RuntimeError::Failed { .. }) => {}
        Err(error) => return Err(error),
    }
    ip(&["netns", "delete", &name], deadline)
}

fn ip(arguments: &[&str], deadline: Deadline) -> Result<(), RuntimeError> {
    let mut command = IP.plain_command();
    command.args(arguments).stdin(Stdio::null());
    IP.output(&mut command, &arguments.join(" "), deadline).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    fn sandbox(id: &str, directory: &Path) -> Sandbox {
        Sandbox {
            id: format!("{id}-{}", std::process::id()),
            directory: directory.to_owned(),
            containers: Vec::new(),
            network: super::super::Network::Own,
            machine: Default::default(),
        }
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    #[test]
    fn addresses_of_a_link_are_neighbours_and_never_the_clouds() {
        let link = Link { number: 64 };
        assert_eq!(link.host_address(), Ipv4Addr::new(169, 254, 1, 1));
        assert_eq!(link.port(80), "169.254.1.2:80".parse().unwrap());
        assert_eq!(Link { number: 16319 }.port(1), "169.254.254.254:1".parse().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<_> = Link::candidates(&sandbox("all", dir.path())).unwrap().collect();
        assert_eq!(all.len(), NETWORKS.len() - 1);
        let metadata = Ipv4Addr::new(169, 254, 169, 254);
        assert!(all.iter().all(|link| *link.port(1).ip() != metadata && link.host_address() != metadata));
    }

    #[test]
    fn a_sandbox_keeps_its_link_and_never_takes_anothers() {
        let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut one, other) = (sandbox("one", dir.path()), sandbox("other", other_dir.path()));
        make(&one, Reach::Host, soon()).unwrap();
        let first = Link::of(&one).unwrap().unwrap();
        make(&one, Reach::Host, soon()).unwrap();
        assert_eq!(Link::of(&one).unwrap(), Some(first), "made again, it has another address");
        // The other one believes in the same number: from before a reboot, say.
        fs::copy(number_file(&one), number_file(&other)).unwrap();
        make(&other, Reach::Host, soon()).unwrap();
        assert_ne!(Link::of(&other).unwrap(), Some(first));
        // What is removed twice, or with a stale number, does not take the other's link away.
        remove(&other, soon()).unwrap();
        fs::copy(number_file(&one), number_file(&other)).unwrap();
        remove(&other, soon()).unwrap();
        ip(&["link", "show", &first.device()], soon()).unwrap();
        // A program inside is reached, and only there.
        let mut echo = Command::new("nsenter");
        echo.arg(format!("--net={}", namespace_path(&one).display()));
        echo.args(["busybox", "nc", "-l", "-p", "7070", "-e", "cat"]);
        let mut echo = echo.spawn().unwrap();
        let address = first.port(7070).into();
        let mut stream = loop {
            match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                Ok(stream) => break stream,
                Err(_) => assert!(echo.try_wait().unwrap().is_none(), "nobody listens in the namespace"),
            }
        };
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        echo.kill().unwrap();
        echo.wait().unwrap();
        remove(&one, soon()).unwrap();
        assert!(ip(&["link", "show", &first.device()], soon()).is_err());
        one.id.push('x');
        remove(&one, soon()).unwrap();
    }
}
