//! The classes of failure that the command line turns into exit codes.

use std::process::ExitCode;

use crate::proto;

/// What kind of failure ended a command. The numbers are the documented exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ExitClass {
    /// The operation was tried and failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Something that was named does not exist.
    NotFound = 3,
    /// Something is in use, or exists already.
    Conflict = 4,
    /// Understood, and not done.
    Refused = 5,
    /// Stored data is not what was written.
    Integrity = 6,
    /// A deadline passed.
    TimedOut = 7,
}

impl ExitClass {
    /// Every class, in the order of the exit codes.
    pub const ALL: [ExitClass; 7] = [
        ExitClass::Failed,
        ExitClass::Usage,
        ExitClass::NotFound,
        ExitClass::Conflict,
        ExitClass::Refused,
        ExitClass::Integrity,
        ExitClass::TimedOut,
    ];

    /// Returns the exit code.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Returns the class of an exit code; `None` for 0 and for codes that are not ours.
    pub fn from_code(code: i32) -> Option<ExitClass> {
        ExitClass::ALL.into_iter().find(|class| i32::from(class.code()) == code)
    }

    /// Returns the class that a daemon reported. A class this build does not know is a failure.
    pub fn from_proto(class: proto::ExitClass) -> ExitClass {
        match class {
            proto::ExitClass::Unspecified | proto::ExitClass::Failed => ExitClass::Failed,
            proto::ExitClass::Usage => ExitClass::Usage,
            proto::ExitClass::NotFound => ExitClass::NotFound,
            proto::ExitClass::Conflict => ExitClass::Conflict,
            proto::ExitClass::Refused => ExitClass::Refused,
            proto::ExitClass::Integrity => ExitClass::Integrity,
            proto::ExitClass::TimedOut => ExitClass::TimedOut,
        }
    }

    /// Returns the class as the API has it.
    pub fn to_proto(self) -> proto::ExitClass {
        match self {
            ExitClass::Failed => proto::ExitClass::Failed,
            ExitClass::Usage => proto::ExitClass::Usage,
            ExitClass::NotFound => proto::ExitClass::NotFound,
            ExitClass::Conflict => proto::ExitClass::Conflict,
            ExitClass::Refused => proto::ExitClass::Refused,
            ExitClass::Integrity => proto::ExitClass::Integrity,
            ExitClass::TimedOut => proto::ExitClass::TimedOut,
        }
    }
}

impl From<ExitClass> for ExitCode {
    fn from(class: ExitClass) -> ExitCode {
        ExitCode::from(class.code())
    }
}

/// Returns an error and its causes on one line, nearest first, with anything that would break the
/// line made visible. A cause that its parent's message ends with already is not repeated.
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    printable(&line)
}

/// Returns the causes of an error, nearest first, one line each.
pub fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut last = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !last.ends_with(&text) {
            causes.push(printable(&text));
        }
        last = text;
        next = cause.source();
    }
    causes
}

/// Returns `text` with control characters escaped, so that it stays on one line and cannot move
/// the cursor of a terminal.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones_and_survive_the_wire() {
        for (class, code) in ExitClass::ALL.into_iter().zip(1..) {
            assert_eq!(class.code(), code);
            assert_eq!(ExitClass::from_code(i32::from(code)), Some(class));
            assert_eq!(ExitClass::from_proto(class.to_proto()), class);
        }
        assert_eq!(ExitClass::from_code(0), None);
        assert_eq!(ExitClass::from_code(101), None);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("read lower /l")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("open: {0}")]
    struct Repeats(#[source] std::io::Error);

    #[test]
    fn a_chain_is_one_line_without_repetition() {
        let io = || std::io::Error::other("disk\nbroke");
        assert_eq!(one_line(&Outer(io())), "read lower /l: disk\\nbroke");
        assert_eq!(causes(&Outer(io())), ["disk\\nbroke"]);
        assert_eq!(one_line(&Repeats(io())), "open: disk\\nbroke");
        assert!(causes(&Repeats(io())).is_empty());
    }
}
