//! Names of volumes and containers.

use std::fmt;

use serde::Serialize;

/// The longest label of DNS.
const MAX_BYTES: usize = 63;

/// A label as RFC 1123 has it: at most 63 lower-case letters, digits and `-`, beginning and ending with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub(crate) struct Label(String);

impl Label {
    /// Takes a name if it is a label.
    pub(super) fn parse(name: &str) -> Result<Label, String> {
        let is_edge =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = name.as_bytes();
        let is_label = bytes.len() <= MAX_BYTES
            && is_edge(bytes.first())
            && is_edge(bytes.last())
            && bytes.iter().all(|byte| *byte == b'-' || is_edge(Some(byte)));
        if is_label {
            return Ok(Label(name.to_owned()));
        }
        Err(format!(
            "must be a DNS label: 1 to {MAX_BYTES} lower-case letters, digits and '-', beginning and ending with a \
             letter or digit"
        ))
    }

    /// Returns it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_rfc_1123() {
        for name in ["a", "7", "home", "a-b", "a--b", "0-9", &"x".repeat(63)] {
            assert!(Label::parse(name).is_ok(), "{name}");
        }
        for name in
            ["", "-", "-a", "a-", "A", "aB", "a.b", "a_b", "a b", "ä", "a\n", "a/b", "..", &"x".repeat(64)]
        {
            assert!(Label::parse(name).is_err(), "{name}");
        }
    }
}
