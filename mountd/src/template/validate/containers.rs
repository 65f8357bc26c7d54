//! The rules of `containers` and of `readyz`.

use std::path::PathBuf;

use super::super::fields::{Given, Items};
use super::super::problem::{Place, Problems};
use super::super::raw::{RawContainer, RawReadyz, RawUser, RawVariable, RawVolumeMount};
use super::super::readyz::check_path;
use super::super::{Container, HttpGet, Label, MountPath, Readyz, SandboxClass, User, Variable, VolumeMount};
use super::value::{at_most, check as check_value, each, host_path, number, word};
use super::volumes::label;

/// How many containers an actor may have.
const MAX_CONTAINERS: usize = 10;

/// How many mounts a container may have.
const MAX_MOUNTS: usize = 32;

/// The largest id of a user or group; the one above means "no change".
const MAX_ID: u32 = u32::MAX - 1;

/// Applies them; `class` is `None` where it is not known.
pub(super) fn check(
    raw: Given<Items<RawContainer>>,
    class: Option<SandboxClass>,
    place: &Place,
    problems: &Problems,
) -> Option<Vec<Container>> {
    at_most(&raw, MAX_CONTAINERS, place, problems);
    let containers = raw.or(Items::new())?;
    if containers.is_empty() {
        problems.report(place, "at least one container is needed");
    }
    if class == Some(SandboxClass::Microvm) && containers.len() > 1 {
        problems.report(
            place,
            format!("sandboxClass microvm runs one container, and there are {}", containers.len()),
        );
    }
    each(containers, place, |container, place| check_one(container, place, problems))
}

fn check_one(raw: RawContainer, place: &Place, problems: &Problems) -> Option<Container> {
    let name = label(raw.name, &place.field("name"), problems);
    let image = check_value(raw.image, &place.field("image"), problems, |image| {
        if image.contains('@') {
            Ok(image)
        } else {
            Err("must be pinned by its digest: NAME@sha256:…".to_owned())
        }
    });
    let rootfs = host_path(raw.rootfs, &place.field("rootfs"), problems);

    let words = |raw: Given<Items<String>>, field: &str| {
        each(raw.or(Items::new())?, &place.field(field), |text, place| word(text, place, problems))
    };
    let says_nothing = |given: &Given<Items<String>>| match given {
        Given::Absent => true,
        Given::Wrong => false,
        Given::Value(words) => words.is_empty(),
    };
    if says_nothing(&raw.command) && says_nothing(&raw.args) {
        problems.warn(&place.field("command"), "is needed to start it: the program and its arguments");
    }
    let (command, args) = (words(raw.command, "command"), words(raw.args, "args"));

    let env = environment(raw.env, &place.field("env"), problems);
    let working_dir = host_path(raw.working_dir, &place.field("workingDir"), problems);
    let user = user(raw.user, &place.field("user"), problems);
    let volume_mounts = mounts(raw.volume_mounts, &place.field("volumeMounts"), problems);
    let readyz = readyz(raw.readyz, &place.field("readyz"), problems);
    Some(Container {
        name: name?,
        image: image.optional()?,
        rootfs: rootfs.optional()?,
        command: command?,
        args: args?,
        env: env?,
        working_dir: working_dir.or(PathBuf::from("/"))?,
        user: user?,
        volume_mounts: volume_mounts?,
        readyz: readyz?,
    })
}

fn environment(raw: Given<Items<RawVariable>>, place: &Place, problems: &Problems) -> Option<Vec<Variable>> {
    each(raw.or(Items::new())?, place, |variable, place| {
        let name_place = place.field("name");
        let name = check_value(variable.name, &name_place, problems, |name| {
            let is_legal = |byte: u8| (byte == b' ' || byte.is_ascii_graphic()) && byte != b'=';
            if !name.is_empty() && name.bytes().all(is_legal) {
                Ok(name)
            } else {
                Err("must be printable ASCII without '=', at least one character".to_owned())
            }
        })
        .required(&name_place, problems);
        let value_place = place.field("value");
        let value = variable.value.required(&value_place, problems);
        let value = value.and_then(|value| word(value, &value_place, problems));
        Some(Variable { name: name?, value: value? })
    })
}

fn user(raw: Given<RawUser>, place: &Place, problems: &Problems) -> Option<User> {
    let raw = match raw {
        Given::Absent => return Some(User { uid: 0, gid: 0 }),
        Given::Wrong => return None,
        Given::Value(raw) => raw,
    };
    let uid = number(raw.uid, 0..=MAX_ID, &place.field("uid"), problems);
    let uid = uid.required(&place.field("uid"), problems);
    let gid = number(raw.gid, 0..=MAX_ID, &place.field("gid"), problems);
    let uid_or_root = uid.unwrap_or_default();
    let gid = gid.or(uid_or_root);
    Some(User { uid: uid?, gid: gid? })
}

fn mounts(raw: Given<Items<RawVolumeMount>>, place: &Place, problems: &Problems) -> Option<Vec<VolumeMount>> {
    at_most(&raw, MAX_MOUNTS, place, problems);
    each(raw.or(Items::new())?, place, |mount, place| {
        // That it is the name of a volume was checked; that this is a label is said of the volume.
        let name = mount.name.required(&place.field("name"), problems);
        let name = name.and_then(|name| Label::parse(&name).ok());
        let path_place = place.field("mountPath");
        let path = mount.mount_path.required(&path_place, problems);
        let mount_path = path.and_then(|path| {
            let faults = match MountPath::parse(&path) {
                Ok(path) => return Some(path),
                Err(faults) => faults,
            };
            for fault in faults {
                problems.report(&path_place, fault);
            }
            None
        });
        Some(VolumeMount { name: name?, mount_path: mount_path? })
    })
}

/// Applies the rules of a probe, which need not be there.
pub(super) fn readyz(raw: Given<RawReadyz>, place: &Place, problems: &Problems) -> Option<Option<Readyz>> {
    let raw = match raw {
        Given::Absent => return Some(None),
        Given::Wrong => return None,
        Given::Value(raw) => raw,
    };
    let http_place = place.field("httpGet");
    let http_get = raw.http_get.required(&http_place, problems).and_then(|raw| {
        let path = check_value(raw.path, &http_place.field("path"), problems, |path| {
            check_path(&path).map(|()| path)
        });
        let port_place = http_place.field("port");
        let port = number(raw.port, 1..=u16::MAX, &port_place, problems).required(&port_place, problems);
        Some(HttpGet { path: path.or("/readyz".to_owned())?, port: port? })
    });
    let limit =
        |given, range, field: &str, default| number(given, range, &place.field(field), problems).or(default);
    let timeout = limit(raw.timeout_seconds, 1..=3600, "timeoutSeconds", 30);
    let try_timeout = limit(raw.try_timeout_milliseconds, 1..=60_000, "tryTimeoutMilliseconds", 250);
    let interval = limit(raw.interval_microseconds, 100..=1_000_000, "intervalMicroseconds", 500);
    Some(Some(Readyz {
        http_get: http_get?,
        timeout_seconds: timeout?,
        try_timeout_milliseconds: try_timeout?,
        interval_microseconds: interval?,
    }))
}
