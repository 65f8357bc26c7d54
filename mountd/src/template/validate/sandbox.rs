//! The rules of `sandbox`.

use super::super::fields::{Given, Items};
use super::super::problem::{Place, Problems};
use super::super::raw::RawSandbox;
use super::super::settings::{ACCELERATORS, NETWORKS};
use super::super::{MachineSettings, Platform, RuntimeSettings, SandboxClass, SandboxSettings};
use super::value::{check as check_value, each, host_path, number, one_of, word};
use crate::runtime::{Accelerator, Network};

/// The memory of a machine, unless it says otherwise.
const DEFAULT_MEMORY: u64 = 512 << 20;

/// Less than this boots no kernel.
const MIN_MEMORY: u64 = 16 << 20;

/// The runtimes of templates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gvisor,
    Qemu,
    CloudHypervisor,
    Process,
    Firecracker,
}

const KINDS: [(&str, Kind); 5] = [
    ("gvisor", Kind::Gvisor),
    ("qemu", Kind::Qemu),
    ("cloud-hypervisor", Kind::CloudHypervisor),
    ("process", Kind::Process),
    ("firecracker", Kind::Firecracker),
];

impl Kind {
    pub(super) fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    pub(super) fn class(self) -> SandboxClass {
        match self {
            Kind::Gvisor => SandboxClass::Gvisor,
            Kind::Qemu | Kind::CloudHypervisor | Kind::Firecracker => SandboxClass::Microvm,
            Kind::Process => SandboxClass::Process,
        }
    }

    fn default_of(class: SandboxClass) -> Kind {
        match class {
            SandboxClass::Gvisor => Kind::Gvisor,
            SandboxClass::Microvm => Kind::Qemu,
            SandboxClass::Process => Kind::Process,
        }
    }

    /// Returns the one that a template asks for, if there is such a one.
    pub(super) fn asked(given: &Given<String>, class: SandboxClass) -> Option<Kind> {
        match given {
            Given::Absent => Some(Kind::default_of(class)),
            Given::Wrong => None,
            Given::Value(name) => KINDS.iter().find(|(known, _)| known == name).map(|(_, kind)| *kind),
        }
    }
}

/// Applies them; `class` is `None` where it is not known.
pub(super) fn check(
    raw: Given<RawSandbox>,
    class: Option<SandboxClass>,
    place: &Place,
    problems: &Problems,
) -> Option<SandboxSettings> {
    let raw = match raw {
        Given::Absent => RawSandbox::default(),
        Given::Wrong => return None,
        Given::Value(raw) => raw,
    };
    let network = one_of(raw.network.clone(), &NETWORKS, &place.field("network"), problems).or(Network::None);
    let kind = kind(raw.runtime.clone(), class, place, problems);
    let runtime = kind.and_then(|kind| {
        refuse_foreign(&raw, kind, place, problems);
        match kind {
            Kind::Gvisor => gvisor(raw, place, problems),
            Kind::Qemu => machine(raw, kind, place, problems).map(RuntimeSettings::Qemu),
            Kind::CloudHypervisor => {
                machine(raw, kind, place, problems).map(RuntimeSettings::CloudHypervisor)
            }
            Kind::Process => Some(RuntimeSettings::Process {}),
            Kind::Firecracker => None,
        }
    });
    Some(SandboxSettings { runtime: runtime?, network: network? })
}

fn kind(
    given: Given<String>,
    class: Option<SandboxClass>,
    place: &Place,
    problems: &Problems,
) -> Option<Kind> {
    let place = place.field("runtime");
    if let Given::Value(name) = &given
        && name == Kind::Firecracker.name()
    {
        problems.report(
            &place,
            "firecracker has no virtio-fs, so that no volume can be mounted in it: use qemu or cloud-hypervisor",
        );
        return None;
    }
    let legal = &KINDS[..KINDS.len() - 1];
    let kind = match one_of(given, legal, &place, problems) {
        Given::Absent => return class.map(Kind::default_of),
        Given::Wrong => return None,
        Given::Value(kind) => kind,
    };
    if let Some(class) = class
        && class != kind.class()
    {
        problems.report(&place, format!("{} is of sandboxClass {}, not {class}", kind.name(), kind.class()));
    }
    Some(kind)
}

/// Refuses settings that the runtime would not look at.
fn refuse_foreign(raw: &RawSandbox, kind: Kind, place: &Place, problems: &Problems) {
    let is_machine = kind.class() == SandboxClass::Microvm;
    for (field, is_given, applies) in [
        ("platform", raw.platform.is_given(), kind == Kind::Gvisor),
        ("runtimeFlags", raw.runtime_flags.is_given(), kind != Kind::Process),
        ("memory", raw.memory.is_given(), is_machine),
        ("cpus", raw.cpus.is_given(), is_machine),
        ("kernel", raw.kernel.is_given(), is_machine),
        ("initramfs", raw.initramfs.is_given(), is_machine),
        ("kernelArguments", raw.kernel_arguments.is_given(), is_machine),
        ("accelerator", raw.accelerator.is_given(), is_machine),
    ] {
        if is_given && !applies {
            problems.report(&place.field(field), format!("has no effect with runtime {}", kind.name()));
        }
    }
}

fn gvisor(raw: RawSandbox, place: &Place, problems: &Problems) -> Option<RuntimeSettings> {
    let names = Platform::ALL.map(|platform| (platform.name(), platform));
    let platform = one_of(raw.platform, &names, &place.field("platform"), problems).or(Platform::Systrap);
    let runtime_flags = flags(raw.runtime_flags, place, problems);
    Some(RuntimeSettings::Gvisor { platform: platform?, runtime_flags: runtime_flags? })
}

fn machine(raw: RawSandbox, kind: Kind, place: &Place, problems: &Problems) -> Option<MachineSettings> {
    let memory = check_value(raw.memory, &place.field("memory"), problems, |memory| {
        if memory >= MIN_MEMORY {
            Ok(memory)
        } else {
            Err(format!("must be at least {} MiB", MIN_MEMORY >> 20))
        }
    });
    let cpus = number(raw.cpus, 1..=1024_u32, &place.field("cpus"), problems);
    let kernel = host_path(raw.kernel, &place.field("kernel"), problems);
    let initramfs = host_path(raw.initramfs, &place.field("initramfs"), problems);
    let arguments_place = place.field("kernelArguments");
    let kernel_arguments = check_value(raw.kernel_arguments, &arguments_place, problems, |text| {
        if text.chars().any(char::is_control) {
            Err("must not contain control characters".to_owned())
        } else {
            Ok(text)
        }
    });
    let accelerator_place = place.field("accelerator");
    let accelerator =
        one_of(raw.accelerator, &ACCELERATORS, &accelerator_place, problems).or(Accelerator::Auto);
    if kind == Kind::CloudHypervisor && accelerator == Some(Accelerator::Tcg) {
        problems.report(&accelerator_place, "tcg is QEMU's: cloud-hypervisor needs KVM");
    }
    let runtime_flags = flags(raw.runtime_flags, place, problems);
    Some(MachineSettings {
        memory: memory.or(DEFAULT_MEMORY)?,
        cpus: cpus.or(1)?,
        kernel: kernel.optional()?,
        initramfs: initramfs.optional()?,
        kernel_arguments: kernel_arguments.or(String::new())?,
        accelerator: accelerator?,
        runtime_flags: runtime_flags?,
    })
}

fn flags(raw: Given<Items<String>>, place: &Place, problems: &Problems) -> Option<Vec<String>> {
    each(raw.or(Items::new())?, &place.field("runtimeFlags"), |flag, place| word(flag, place, problems))
}
