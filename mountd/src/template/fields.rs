//! The fields of a mapping, read one by one: their types, those that are missing, repeated or unknown.

use std::collections::HashMap;

use super::node::{Node, beginning};
use super::problem::{Place, Problems};
use crate::units::parse_size;

/// What a document says about one field.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum Given<T> {
    /// Nothing, or null.
    #[default]
    Absent,
    /// Something of another type. It has been reported.
    Wrong,
    /// This.
    Value(T),
}

impl<T> Given<T> {
    /// Returns the value of a field that must be there; `None` is reported.
    pub(super) fn required(self, place: &Place, problems: &Problems) -> Option<T> {
        if matches!(self, Given::Absent) {
            problems.report(place, "is required");
        }
        self.value()
    }

    /// Returns the value of a field that has a default; `None` is reported.
    pub(super) fn or(self, default: T) -> Option<T> {
        match self {
            Given::Absent => Some(default),
            Given::Wrong => None,
            Given::Value(value) => Some(value),
        }
    }

    /// Returns the value of a field that need not be there: `None` is reported, `Some(None)` is its absence.
    pub(super) fn optional(self) -> Option<Option<T>> {
        match self {
            Given::Absent => Some(None),
            Given::Wrong => None,
            Given::Value(value) => Some(Some(value)),
        }
    }

    /// Returns the value, if there is one of the right type.
    pub(super) fn value(self) -> Option<T> {
        match self {
            Given::Absent | Given::Wrong => None,
            Given::Value(value) => Some(value),
        }
    }

    /// Tells whether the document says anything about the field.
    pub(super) fn is_given(&self) -> bool {
        !matches!(self, Given::Absent)
    }
}

/// The items of a list. One of another type keeps its number.
pub(super) type Items<T> = Vec<Given<T>>;

/// The fields of one mapping.
///
/// Whatever is not asked for is unknown, and reported by [`Fields::read`] at the end.
pub(super) struct Fields<'a> {
    place: Place,
    entries: HashMap<&'a str, &'a Node>,
    /// In the order of the document.
    keys: Vec<&'a str>,
    known: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Fields<'a> {
    /// Reads a mapping with `read`, and reports what it did not ask for.
    pub(super) fn read<T>(
        node: &'a Node,
        place: Place,
        problems: &'a Problems,
        read: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Given<T> {
        let Node::Mapping(pairs) = node else {
            problems.report(&place, format!("must be a mapping, not {}", node.kind()));
            return Given::Wrong;
        };
        let mut fields =
            Fields { place, entries: HashMap::new(), keys: Vec::new(), known: Vec::new(), problems };
        for (key, value) in pairs {
            if fields.entries.insert(key, value).is_some() {
                problems.report(&fields.place.field(key), "is given twice");
            } else {
                fields.keys.push(key);
            }
        }
        let value = read(&mut fields);
        for key in &fields.keys {
            if !fields.known.contains(key) {
                let known = fields.known.join(", ");
                problems.report(&fields.place.field(key), format!("is unknown; known here: {known}"));
            }
        }
        Given::Value(value)
    }

    /// Returns where this mapping is.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Tells whether a field is there, if only as null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Takes note of a field whose value does not matter.
    pub(super) fn skip(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// Reports a field that is known, and that cannot be there. It is not among those that are told to be known.
    pub(super) fn refuse(&mut self, key: &str, reason: &str) {
        if self.has(key) {
            self.problems.report(&self.place.field(key), reason);
            self.keys.retain(|other| *other != key);
        }
    }

    /// Reports something that is wrong with the mapping as a whole.
    pub(super) fn complain(&self, message: &str) {
        self.problems.report(&self.place, message);
    }

    /// Reads text.
    pub(super) fn text(&mut self, key: &'static str) -> Given<String> {
        self.field(key, text)
    }

    /// Reads a number without a fraction.
    pub(super) fn integer(&mut self, key: &'static str) -> Given<i128> {
        self.field(key, |node, place, problems| match node {
            Node::Integer(number) => Given::Value(*number),
            Node::Fraction(number) => {
                problems.report(&place, no_integer(number));
                Given::Wrong
            }
            other => wrong("a number without a fraction", other, &place, problems),
        })
    }

    /// Reads bytes: a number, or text with a unit.
    pub(super) fn size(&mut self, key: &'static str) -> Given<u64> {
        self.field(key, |node, place, problems| {
            let size = match node {
                Node::Integer(number) => u64::try_from(*number).map_err(|_| format!("{number} is no size")),
                Node::Text(text) => parse_any_size(text),
                other => {
                    return wrong("a size, such as 512MiB or 536870912", other, &place, problems);
                }
            };
            match size {
                Ok(size) => Given::Value(size),
                Err(message) => {
                    problems.report(&place, message);
                    Given::Wrong
                }
            }
        })
    }

    /// Reads a list of texts.
    pub(super) fn texts(&mut self, key: &'static str) -> Given<Items<String>> {
        self.list(key, text)
    }

    /// Reads a list of mappings.
    pub(super) fn mappings<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut Fields<'a>) -> T,
    ) -> Given<Items<T>> {
        self.list(key, |node, place, problems| Fields::read(node, place, problems, &read))
    }

    /// Reads a mapping.
    pub(super) fn mapping<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Given<T> {
        self.field(key, |node, place, problems| Fields::read(node, place, problems, read))
    }

    /// Reads a mapping that is a choice by being there: null is not the same as its absence.
    pub(super) fn choice<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Given<T> {
        if self.entries.get(key).is_some_and(|node| **node == Node::Null) {
            self.known.push(key);
            self.problems.report(&self.place.field(key), format!("must be a mapping: write {key}: {{}}"));
            return Given::Wrong;
        }
        self.mapping(key, read)
    }

    fn list<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&'a Node, Place, &'a Problems) -> Given<T>,
    ) -> Given<Items<T>> {
        self.field(key, |node, place, problems| match node {
            Node::List(items) => {
                let item = |(number, item): (usize, &'a Node)| read(item, place.item(number), problems);
                Given::Value(items.iter().enumerate().map(item).collect())
            }
            other => wrong("a list", other, &place, problems),
        })
    }

    fn field<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'a Node, Place, &'a Problems) -> Given<T>,
    ) -> Given<T> {
        self.known.push(key);
        match self.entries.get(key) {
            None | Some(Node::Null) => Given::Absent,
            Some(node) => read(node, self.place.field(key), self.problems),
        }
    }
}

fn text(node: &Node, place: Place, problems: &Problems) -> Given<String> {
    match node {
        Node::Text(text) => Given::Value(text.clone()),
        Node::Null | Node::List(_) | Node::Mapping(_) => wrong("text", node, &place, problems),
        Node::Boolean(_) | Node::Integer(_) | Node::Fraction(_) => {
            problems.report(&place, format!("must be text, not {}: quote it", node.kind()));
            Given::Wrong
        }
    }
}

fn wrong<T>(expected: &str, found: &Node, place: &Place, problems: &Problems) -> Given<T> {
    problems.report(place, format!("must be {expected}, not {}", found.shown()));
    Given::Wrong
}

/// Says why a number cannot be counted with. JSON's parser gives large integers as fractions.
fn no_integer(number: &str) -> String {
    let is_large = number.parse::<f64>().is_ok_and(|value| value.is_finite() && value.abs() >= TOO_LARGE);
    let shown = beginning(number);
    if is_large {
        format!("{shown} is too large a number")
    } else {
        format!("must be a number without fraction and exponent, not {shown}")
    }
}

/// Two to the power of 64: no field takes more.
const TOO_LARGE: f64 = 18_446_744_073_709_551_616.0;

/// Reads `512MiB`, and `512Mi` as Kubernetes has it.
fn parse_any_size(text: &str) -> Result<u64, String> {
    let is_short = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().any(|unit| text.ends_with(unit));
    if is_short { parse_size(&format!("{text}B")) } else { parse_size(text) }
        .map_err(|_| format!("{text:?} is no size; write bytes or a unit: 4096, 64KiB, 10GiB"))
}
