//! Reading JSON.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::document::Misread;
use super::node::Node;

/// Reads a JSON document. How deep it may be nested is limited by the parser.
pub(super) fn read(text: &str) -> Result<Node, Misread> {
    serde_json::from_str(text)
        .map_err(|error| Misread { at: (error.line(), error.column()), message: error.to_string() })
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // With its fraction or exponent, which told the parser what it is.
        Ok(Node::Fraction(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut mapping = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            mapping.push(entry);
        }
        Ok(Node::Mapping(mapping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_read_and_nothing_is_lost() {
        let text = r#"{"a": [null, true, -1, 18446744073709551615, 1.5], "b": "x\ud83d\ude00\/", "b": {}}"#;
        let list = [
            Node::Null,
            Node::Boolean(true),
            Node::Integer(-1),
            Node::Integer(u64::MAX.into()),
            Node::Fraction("1.5".to_owned()),
        ];
        let expected = vec![
            ("a".to_owned(), Node::List(list.to_vec())),
            ("b".to_owned(), Node::Text("x😀/".to_owned())),
            ("b".to_owned(), Node::Mapping(Vec::new())),
        ];
        assert_eq!(read(text), Ok(Node::Mapping(expected)));
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_line() {
        for text in ["", "{", "{} {}", "{\n'a': 1}", "{\"a\": 01}"] {
            assert!(read(text).unwrap_err().message.contains("line "), "{text}");
        }
        assert!(read(&"[".repeat(100_000)).is_err());
    }
}
