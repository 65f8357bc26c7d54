//! Reading YAML 1.2.
//!
//! # Overview
//! The parser tells events; here they become a [`Node`], without recursion. Plain scalars mean what the core schema says: `yes`, `on` and
//! `0123` are no surprises.
//!
//! # Invariants
//! - A document of n bytes becomes a tree of O(n) bytes, and a copy for an alias is paid for out of one fixed allowance: a few lines of
//!   aliases of aliases cannot fill the memory.
//! - No tree is deeper than [`MAX_DEPTH`]: whoever walks it may recurse.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, options};

use super::document::Misread;
use super::node::Node;

/// How deep collections may be nested. A template needs six.
const MAX_DEPTH: usize = 64;

/// How much all anchors and aliases of a document may take together.
const MAX_COPIES: usize = 4 << 20;

/// Reads the one document of a YAML stream.
pub(super) fn read(text: &str) -> Result<Node, Misread> {
    let options = options! { emit_comments: false, flow_nesting_limit: MAX_DEPTH };
    let mut tree = Tree::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| at(error.marker(), &error.info()))?;
        tree.take(event).map_err(|message| at(&span.start, &message))?;
    }
    tree.document.ok_or_else(|| Misread { at: (0, 0), message: "the document is empty".to_owned() })
}

fn at(marker: &Marker, message: &str) -> Misread {
    let (line, column) = (marker.line(), marker.col() + 1);
    Misread { at: (line, column), message: format!("{message} at line {line} column {column}") }
}

/// What was read so far.
#[derive(Default)]
struct Tree {
    document: Option<Node>,
    /// The collections that are not complete, outermost first.
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    /// What anchors and aliases have taken of [`MAX_COPIES`].
    copied: usize,
}

/// A collection that is not complete.
struct Open {
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Mapping {
        entries: Vec<(String, Node)>,
        /// The key whose value comes next.
        key: Option<String>,
    },
}

impl Tree {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        if event.tag().is_some() {
            return Err("tags are not supported".to_owned());
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                if self.awaits_key() {
                    return self.key(text.into_owned(), anchor);
                }
                let node = match style {
                    ScalarStyle::Plain => plain(text.into_owned()),
                    _ => Node::Text(text.into_owned()),
                };
                self.value(node, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.open(anchor, Content::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                self.open(anchor, Content::Mapping { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => {
                if self.awaits_key() {
                    return Err("an alias cannot be a key".to_owned());
                }
                // Unknown inside of what it names, too: it would contain itself.
                let node = self.anchors.get(&anchor).ok_or("the alias names nothing complete")?;
                let weight = node.weight();
                pay(&mut self.copied, weight)?;
                let node = node.clone();
                self.value(node, 0)
            }
            Event::DocumentStart(..) if self.document.is_some() => {
                Err("only one document is expected".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Mapping { key: None, .. }, .. }))
    }

    fn key(&mut self, text: String, anchor: usize) -> Result<(), String> {
        if text == "<<" {
            return Err("merge keys are not supported".to_owned());
        }
        if anchor != 0 {
            return Err("a key cannot have an anchor".to_owned());
        }
        if let Some(Open { content: Content::Mapping { key, .. }, .. }) = self.open.last_mut() {
            *key = Some(text);
        }
        Ok(())
    }

    fn open(&mut self, anchor: usize, content: Content) -> Result<(), String> {
        if self.awaits_key() {
            return Err("a key must be text".to_owned());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("collections are nested more than {MAX_DEPTH} deep"));
        }
        self.open.push(Open { anchor, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(Open { anchor, content }) = self.open.pop() else { return Ok(()) };
        let node = match content {
            Content::List(items) => Node::List(items),
            Content::Mapping { entries, .. } => Node::Mapping(entries),
        };
        self.value(node, anchor)
    }

    fn value(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        if anchor != 0 {
            pay(&mut self.copied, node.weight())?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.document = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Mapping { entries, key }) => entries.extend(key.take().map(|key| (key, node))),
        }
        Ok(())
    }
}

fn pay(copied: &mut usize, weight: usize) -> Result<(), String> {
    *copied = copied.saturating_add(weight);
    if *copied > MAX_COPIES {
        return Err(format!("anchors and aliases stand for more than {} MiB", MAX_COPIES >> 20));
    }
    Ok(())
}

/// Returns what a plain scalar means in the core schema, <https://yaml.org/spec/1.2.2/#103-core-schema>.
fn plain(text: String) -> Node {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Node::Null,
        "true" | "True" | "TRUE" => return Node::Boolean(true),
        "false" | "False" | "FALSE" => return Node::Boolean(false),
        ".nan" | ".NaN" | ".NAN" => return Node::Fraction(text),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    if let Some(number) = integer(&text, unsigned) {
        return Node::Integer(number);
    }
    let is_number = matches!(unsigned, ".inf" | ".Inf" | ".INF")
        || (unsigned.bytes().all(|byte| b"0123456789.eE+-".contains(&byte))
            && unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.')
            && unsigned.parse::<f64>().is_ok());
    if is_number { Node::Fraction(text) } else { Node::Text(text) }
}

fn integer(text: &str, unsigned: &str) -> Option<i128> {
    let digits = |digits: &str, radix| {
        let all = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
        if all { i128::from_str_radix(digits, radix).ok() } else { None }
    };
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, 8);
    }
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        return digits(hexadecimal, 16);
    }
    let number = digits(unsigned, 10)?;
    Some(if text.starts_with('-') { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Node {
        Node::Text(text.to_owned())
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (scalar, node) in [
            ("~", Node::Null),
            ("null", Node::Null),
            ("True", Node::Boolean(true)),
            ("FALSE", Node::Boolean(false)),
            ("yes", text("yes")),
            ("on", text("on")),
            ("0", Node::Integer(0)),
            ("-12", Node::Integer(-12)),
            ("+12", Node::Integer(12)),
            ("0123", Node::Integer(123)),
            ("0o17", Node::Integer(15)),
            ("0xfF", Node::Integer(255)),
            ("1.10", Node::Fraction("1.10".to_owned())),
            ("-1e3", Node::Fraction("-1e3".to_owned())),
            (".5", Node::Fraction(".5".to_owned())),
            (".inf", Node::Fraction(".inf".to_owned())),
            ("1.2.3", text("1.2.3")),
            ("10GiB", text("10GiB")),
            ("1_000", text("1_000")),
            ("0x", text("0x")),
            ("0o9", text("0o9")),
            (".", text(".")),
            ("e5", text("e5")),
            ("\"12\"", text("12")),
            ("'~'", text("~")),
        ] {
            assert_eq!(read(scalar), Ok(node), "{scalar}");
        }
    }

    #[test]
    fn collections_keep_order_and_repetitions() {
        let document = "# a comment\nb: [1, {c: d}]\na: |\n  two\n  lines\nb:\n- x\n-\n";
        let expected = vec![
            (
                "b".to_owned(),
                Node::List(vec![Node::Integer(1), Node::Mapping(vec![("c".to_owned(), text("d"))])]),
            ),
            ("a".to_owned(), text("two\nlines\n")),
            ("b".to_owned(), Node::List(vec![text("x"), Node::Null])),
        ];
        assert_eq!(read(document), Ok(Node::Mapping(expected)));
    }

    #[test]
    fn aliases_repeat_what_they_name() {
        let document = "a: &list [1, &two 2]\nb: *list\nc: *two\n";
        let list = Node::List(vec![Node::Integer(1), Node::Integer(2)]);
        let expected =
            vec![("a".to_owned(), list.clone()), ("b".to_owned(), list), ("c".to_owned(), Node::Integer(2))];
        assert_eq!(read(document), Ok(Node::Mapping(expected)));
    }

    #[test]
    fn what_is_not_supported_is_refused_with_its_place() {
        for (document, message) in [
            ("", "empty"),
            ("# nothing\n", "empty"),
            ("a: 1\n---\nb: 2\n", "only one document"),
            ("a: !!str 1", "tags are not supported at line 1 column"),
            ("a: !secret x", "tags"),
            ("a: &x 1\nb: {<<: *x}", "merge keys"),
            ("? [a]\n: b", "a key must be text"),
            ("a: &x b\n*x : c", "cannot be a key"),
            ("&x a: b", "cannot have an anchor"),
            ("a: *unknown", "line 1"),
            ("a: &x [*x]", "names nothing complete at line 1"),
            ("a: [", "line"),
            ("a: \"", "line"),
            ("a: b: c", "line 1"),
            ("a: @b", "line 1"),
        ] {
            let found = read(document).unwrap_err().message;
            assert!(found.contains(message), "{document:?}: {found}");
        }
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        let refused = read(&bomb).unwrap_err().message;
        assert!(refused.contains("stand for more than 4 MiB"), "{refused}");
        let mut nested = (0..60).map(|level| format!("&n{level} [")).collect::<String>();
        nested.push_str(&"x".repeat(500_000));
        nested.push_str(&"]".repeat(60));
        assert!(read(&nested).unwrap_err().message.contains("stand for more than 4 MiB"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&"- ".repeat(100_000)).unwrap_err().message.contains("more than 64 deep"));
        let deep: String = (0..1000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        assert!(read(&deep).unwrap_err().message.contains("more than 64 deep"));
    }
}
