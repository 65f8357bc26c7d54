//! Bytes of a file, as the document that they are.

use super::node::Node;
use super::{json, yaml};

/// How large a document may be: no template comes near.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Why a text is no document.
#[derive(PartialEq, Debug)]
pub(super) struct Misread {
    /// Line and column up to which it made sense, from 1.
    pub(super) at: (usize, usize),
    /// What is wrong there.
    pub(super) message: String,
}

/// Reads YAML or JSON.
pub(super) fn read(bytes: &[u8]) -> Result<Node, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("the document is larger than {} MiB", MAX_BYTES >> 20));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("the document is not UTF-8 text at byte {}", error.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Nearly every JSON is YAML too, but not every one: what a string may hold differs. Only YAML may begin with a brace and be none.
    if !text.trim_start().starts_with('{') {
        return yaml::read(text).map_err(|misread| misread.message);
    }
    let no_json = match json::read(text) {
        Ok(node) => return Ok(node),
        Err(misread) => misread,
    };
    // It was meant to be what it is for longer.
    yaml::read(text).map_err(|no_yaml| if no_yaml.at > no_json.at { no_yaml } else { no_json }.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_yaml_are_told_apart() {
        let expected = Node::Mapping(vec![("a".to_owned(), Node::Text("b\u{7f}".to_owned()))]);
        for document in
            ["{\"a\": \"b\u{7f}\"}", "\u{feff} {\"a\":\"b\\u007f\"}", "a: \"b\\x7f\"", "{a: \"b\\x7F\"}"]
        {
            assert_eq!(read(document.as_bytes()), Ok(expected.clone()), "{document}");
        }
    }

    #[test]
    fn what_is_no_text_or_too_large_is_refused() {
        assert!(read(b"a: \xff").unwrap_err().contains("not UTF-8 text at byte 3"));
        assert!(read(&[b'\n'; MAX_BYTES + 1]).unwrap_err().contains("larger than 1 MiB"));
        assert!(read(&[b'\n'; MAX_BYTES]).unwrap_err().contains("empty"));
    }
}
