//! What no runtime can run, as far as the template tells: what its driver would refuse at each start, pause or probe.

use super::super::fields::Given;
use super::super::problem::{Place, Problems};
use super::super::raw::{RawContainer, RawSandbox, RawSnapshotsConfig, RawTemplate};
use super::super::{SandboxClass, Scope};
use super::sandbox::Kind;

/// Applies these rules, as far as what they are about is known.
pub(super) fn check(raw: &RawTemplate, class: SandboxClass, problems: &Problems) {
    let place = Place::root();
    if let Given::Value(containers) = &raw.containers {
        for (number, container) in containers.iter().enumerate() {
            if let Given::Value(container) = container {
                root(container, class, &place.field("containers").item(number), problems);
            }
        }
    }
    let nothing = RawSandbox::default();
    let sandbox = match &raw.sandbox {
        Given::Absent => &nothing,
        Given::Wrong => return,
        Given::Value(sandbox) => sandbox,
    };
    // One of another class is refused for that.
    match Kind::asked(&sandbox.runtime, class).filter(|kind| kind.class() == class) {
        None | Some(Kind::Process | Kind::Firecracker) => {}
        Some(Kind::Gvisor) => memory(sandbox, raw, problems),
        Some(kind @ (Kind::Qemu | Kind::CloudHypervisor)) => {
            machine(sandbox, kind, &place.field("sandbox"), problems);
            if kind == Kind::CloudHypervisor {
                probes(raw, problems);
            }
        }
    }
}

fn root(container: &RawContainer, class: SandboxClass, place: &Place, problems: &Problems) {
    let place = place.field("rootfs");
    match (class, container.rootfs.is_given()) {
        (SandboxClass::Gvisor, false) => problems.warn(
            &place,
            "is needed to start it in gvisor: a directory of the host with an unpacked image (nothing is pulled here)",
        ),
        (SandboxClass::Process, false) => problems.warn(
            &place,
            "is needed to start it as a process: a directory of the host, which is not changed; / is the host's own root",
        ),
        (SandboxClass::Microvm, true) => {
            problems.report(&place, "has no effect with sandboxClass microvm: its root is its initramfs");
        }
        (SandboxClass::Gvisor | SandboxClass::Process, true) | (SandboxClass::Microvm, false) => {}
    }
}

fn machine(sandbox: &RawSandbox, kind: Kind, place: &Place, problems: &Problems) {
    let runtime = kind.name();
    if !sandbox.initramfs.is_given() {
        let reason = "with it the machine is told what to run; examples/microvm/build makes one";
        problems.warn(&place.field("initramfs"), format!("is needed to start it in {runtime}: {reason}"));
    }
    if !sandbox.kernel.is_given() {
        let message = format!("is needed to start it in {runtime}; examples/microvm/build makes one");
        problems.warn(&place.field("kernel"), message);
    }
    if let Given::Value(network) = &sandbox.network {
        let wrong = match (kind, network.as_str()) {
            (Kind::CloudHypervisor, "own" | "host") => Some("none"),
            (_, "host") => Some("none or own"),
            _ => None,
        };
        if let Some(legal) = wrong {
            problems.report(
                &place.field("network"),
                format!("must be {legal} with runtime {runtime}, not {network}"),
            );
        }
    }
    if let (Kind::CloudHypervisor, Given::Value(flags)) = (kind, &sandbox.runtime_flags)
        && !flags.is_empty()
    {
        let place = place.field("runtimeFlags");
        problems.report(&place, format!("has no effect with runtime {runtime}: it is given no flags"));
    }
}

/// Ports of Cloud Hypervisor's machines are not reached.
fn probes(raw: &RawTemplate, problems: &Problems) {
    let place = Place::root();
    let refuse = |place: &Place| {
        let message = "cannot be asked with runtime cloud-hypervisor, whose machines have no network: leave it out, or use qemu";
        problems.report(&place.field("readyz"), message);
    };
    if raw.readyz.is_given() {
        refuse(&place);
    }
    let Given::Value(containers) = &raw.containers else { return };
    for (number, container) in containers.iter().enumerate() {
        if let Given::Value(container) = container
            && container.readyz.is_given()
        {
            refuse(&place.field("containers").item(number));
        }
    }
}

/// gVisor does not save sockets of the host.
fn memory(sandbox: &RawSandbox, raw: &RawTemplate, problems: &Problems) {
    let (Given::Value(network), Given::Value(config)) = (&sandbox.network, &raw.snapshots_config) else {
        return;
    };
    if network != "host" {
        return;
    }
    let RawSnapshotsConfig { on_pause, on_commit, .. } = config;
    for (given, field) in [(on_pause, "onPause"), (on_commit, "onCommit")] {
        let full = match given {
            Given::Absent => "Full, the default,",
            Given::Value(scope) if scope == Scope::Full.name() => "Full",
            Given::Value(_) | Given::Wrong => continue,
        };
        problems.report(
            &Place::root().field("snapshotsConfig").field(field),
            format!("{full} cannot be captured with network host: its sockets are not gVisor's to save"),
        );
    }
}
