//! Where a container sees a volume.

use std::path::Path;

use serde::Serialize;

const MIN_BYTES: usize = 2;
const MAX_BYTES: usize = 4096;

/// A clean absolute path other than `/`: what it says is where it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub(crate) struct MountPath(String);

impl MountPath {
    /// Takes a path if it is clean; else returns everything that is wrong with it.
    pub(super) fn parse(path: &str) -> Result<MountPath, Vec<String>> {
        let mut faults = Vec::new();
        let mut rule = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        let length = format!("must be {MIN_BYTES} to {MAX_BYTES} bytes long, not {}", path.len());
        rule((MIN_BYTES..=MAX_BYTES).contains(&path.len()), &length);
        rule(path.starts_with('/'), "must start with '/'");
        rule(path.len() < MIN_BYTES || !path.ends_with('/'), "must not end with '/'");
        rule(!path.contains("//"), "must not contain '//'");
        rule(!path.contains(':'), "must not contain ':'");
        rule(!path.bytes().any(|byte| byte.is_ascii_control()), "must not contain control characters");
        let dots = path.split('/').any(|component| matches!(component, "." | ".."));
        rule(!dots, "must not contain '.' or '..' as a component");
        if faults.is_empty() { Ok(MountPath(path.to_owned())) } else { Err(faults) }
    }

    /// Returns it.
    pub(crate) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

/// Tells whether one path lies inside of another, component by component: `/a/b` lies inside of `/a`, and `/ab` does not.
pub(super) fn lies_inside(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_absolute_paths_are_legal() {
        let longest = format!("/{}", "x".repeat(4095));
        for path in [
            "/a",
            "/home/.config",
            "/x/..config",
            "/x..y",
            "/my home directory",
            "/x/...",
            "/...",
            "/.x",
            "/x.",
            "/x..",
            "/ ",
            "/\u{80}",
            "/\u{a0}ä/日本",
            "/a\\b",
            "/*?[]{}$'\"",
            "/-",
            &longest,
        ] {
            assert_eq!(MountPath::parse(path).map(|path| path.0), Ok(path.to_owned()));
        }
    }

    #[test]
    fn each_broken_rule_is_told() {
        for (path, faults) in [
            ("", &["2 to 4096 bytes", "start with '/'"][..]),
            ("/", &["2 to 4096 bytes"]),
            ("a", &["2 to 4096 bytes", "start with '/'"]),
            ("home/agent", &["start with '/'"]),
            (" /home", &["start with '/'"]),
            ("/home/", &["end with '/'"]),
            ("//", &["end with '/'", "'//'"]),
            ("/a//b", &["'//'"]),
            ("/a:b", &["':'"]),
            ("/.", &["'.' or '..'"]),
            ("/..", &["'.' or '..'"]),
            ("/a/./b", &["'.' or '..'"]),
            ("/a/../b", &["'.' or '..'"]),
            ("/a/..", &["'.' or '..'"]),
            ("./a", &["start with '/'", "'.' or '..'"]),
            ("../a/", &["start with '/'", "end with '/'", "'.' or '..'"]),
        ] {
            let found = MountPath::parse(path).unwrap_err();
            assert_eq!(found.len(), faults.len(), "{path:?}: {found:?}");
            for (found, fault) in found.iter().zip(faults) {
                assert!(found.contains(fault), "{path:?}: {found}");
            }
        }
        let long = format!("/{}", "x".repeat(4096));
        assert_eq!(MountPath::parse(&long), Err(vec!["must be 2 to 4096 bytes long, not 4097".to_owned()]));
    }

    #[test]
    fn every_control_character_is_refused() {
        for byte in (0x00..0x20).chain([0x7f]) {
            let path = format!("/a{}b", char::from(byte));
            let faults = MountPath::parse(&path).unwrap_err();
            assert_eq!(faults, ["must not contain control characters"], "{byte:#x}");
        }
    }

    #[test]
    fn nesting_goes_by_components() {
        for (inner, outer, lies) in [
            ("/a/b", "/a", true),
            ("/a/b/c", "/a", true),
            ("/a", "/a", false),
            ("/ab", "/a", false),
            ("/a b", "/a", false),
            ("/a", "/a/b", false),
            ("/b/a", "/a", false),
        ] {
            assert_eq!(lies_inside(inner, outer), lies, "{inner} in {outer}");
        }
    }
}
