//! What is wrong with a template: everything at once, each with its place.

use std::cell::RefCell;
use std::fmt;

use serde::Serialize;

/// How many problems are told. A document that has more of them is no template at all.
const MAX_PROBLEMS: usize = 1000;

/// Where in a template something is: `containers[0].volumeMounts[1].mountPath`; empty is the whole of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Place(String);

impl Place {
    /// Returns the whole template.
    pub(super) fn root() -> Place {
        Place::default()
    }

    /// Returns the field of this name inside of this place.
    pub(super) fn field(&self, key: &str) -> Place {
        let is_plain = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        if !is_plain {
            // As JavaScript writes it, so that nobody takes a dot in a name for a step.
            return Place(format!("{}[{}]", self.0, serde_json::Value::from(key)));
        }
        match self.0.as_str() {
            "" => Place(key.to_owned()),
            before => Place(format!("{before}.{key}")),
        }
    }

    /// Returns the item with this number of a list, from 0.
    pub(super) fn item(&self, number: usize) -> Place {
        Place(format!("{}[{number}]", self.0))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One thing that is wrong with a template.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Problem {
    /// Where: `containers[0].volumeMounts[1].mountPath`; empty where the whole document is meant.
    pub(crate) path: String,
    /// What is wrong, with the names that the document uses.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

/// Collects what is wrong, while reading goes on.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Found>);

#[derive(Debug, Default)]
struct Found {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    untold: usize,
}

impl Problems {
    /// Reports one.
    pub(super) fn report(&self, place: &Place, message: impl Into<String>) {
        let mut found = self.0.borrow_mut();
        if found.problems.len() < MAX_PROBLEMS {
            found.problems.push(Problem { path: place.to_string(), message: message.into() });
        } else {
            found.untold += 1;
        }
    }

    /// Notes what is no error of the template, and has to be there before an actor of it can be started.
    pub(super) fn warn(&self, place: &Place, message: impl Into<String>) {
        let mut found = self.0.borrow_mut();
        if found.warnings.len() < MAX_PROBLEMS {
            found.warnings.push(Problem { path: place.to_string(), message: message.into() });
        }
    }

    /// Returns the warnings, if there is no error.
    pub(super) fn finish(self) -> Result<Vec<Problem>, TemplateError> {
        let Found { mut problems, warnings, untold } = self.0.into_inner();
        if untold > 0 {
            let message = format!("{untold} more problems were found");
            problems.push(Problem { path: String::new(), message });
        }
        if problems.is_empty() { Ok(warnings) } else { Err(TemplateError { problems }) }
    }
}

/// A document that is no valid template.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", joined(problems))]
pub(crate) struct TemplateError {
    /// Everything that is wrong with it, in the order of its fields; at least one.
    pub(crate) problems: Vec<Problem>,
}

impl TemplateError {
    /// Returns the error of a document that cannot even be read.
    pub(super) fn unreadable(message: impl Into<String>) -> TemplateError {
        TemplateError { problems: vec![Problem { path: String::new(), message: message.into() }] }
    }
}

fn joined(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_in_javascript() {
        let root = Place::root();
        assert_eq!(root.to_string(), "");
        let mount = root.field("containers").item(0).field("volumeMounts").item(1).field("mountPath");
        assert_eq!(mount.to_string(), "containers[0].volumeMounts[1].mountPath");
        assert_eq!(root.field("a.b").field("").field("c-d").to_string(), r#"["a.b"][""].c-d"#);
    }

    #[test]
    fn endless_problems_are_counted() {
        let problems = Problems::default();
        for number in 0..MAX_PROBLEMS + 5 {
            problems.report(&Place::root().item(number), "is wrong");
        }
        let error = problems.finish().unwrap_err();
        assert_eq!(error.problems.len(), MAX_PROBLEMS + 1);
        assert_eq!(error.problems.last().unwrap().message, "5 more problems were found");
        assert_eq!(Problems::default().finish(), Ok(Vec::new()));
    }
}
