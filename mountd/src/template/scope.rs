//! What a capture holds.

use std::fmt;

use serde::Serialize;

use super::location::Location;

/// What a capture of an actor holds. Each holds what the smaller ones do: a capture may be narrowed, and never widened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub(crate) enum Scope {
    /// Nothing: the actor always starts afresh.
    None,
    /// The volumes.
    Data,
    /// Memory, changes of the root file system, and the volumes.
    Full,
}

impl Scope {
    /// Every scope, the widest first.
    pub(crate) const ALL: [Scope; 3] = [Scope::Full, Scope::Data, Scope::None];

    /// Returns the scope of this name.
    pub(crate) fn from_name(name: &str) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| scope.name() == name)
    }

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scope::None => "None",
            Scope::Data => "Data",
            Scope::Full => "Full",
        }
    }

    /// Tells whether a capture of this scope can be narrowed from one of `other`.
    pub(crate) fn is_subset_of(self, other: Scope) -> bool {
        self <= other
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is captured when, and where commits go. What is committed is a subset of what a pause captures.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SnapshotsConfig {
    /// Where commits go.
    pub(crate) location: Location,
    /// What a pause captures.
    pub(crate) on_pause: Scope,
    /// What a commit holds.
    pub(crate) on_commit: Scope,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_in_data_is_in_full() {
        use Scope::{Data, Full, None};
        for (narrow, wide, fits) in [
            (None, None, true),
            (None, Data, true),
            (None, Full, true),
            (Data, None, false),
            (Data, Data, true),
            (Data, Full, true),
            (Full, None, false),
            (Full, Data, false),
            (Full, Full, true),
        ] {
            assert_eq!(narrow.is_subset_of(wide), fits, "{narrow} in {wide}");
        }
    }

    #[test]
    fn scopes_are_named_exactly() {
        for scope in Scope::ALL {
            assert_eq!(Scope::from_name(scope.name()), Some(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.name());
        }
        for name in ["", "full", "FULL", "DATA_ON_GOLDEN", "none"] {
            assert_eq!(Scope::from_name(name), None);
        }
    }
}
