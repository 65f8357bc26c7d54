//! A document before anybody knows what it means.

/// A value of a YAML or JSON document.
///
/// Mappings keep the order of their entries, and entries that are given twice: whoever reads one reports them, with their place.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Node {
    Null,
    Boolean(bool),
    Integer(i128),
    /// A number that is no integer, as it was written.
    Fraction(String),
    Text(String),
    List(Vec<Node>),
    Mapping(Vec<(String, Node)>),
}

impl Node {
    /// Returns what it is, for a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Node::Null => "nothing",
            Node::Boolean(_) => "true or false",
            Node::Integer(_) | Node::Fraction(_) => "a number",
            Node::Text(_) => "text",
            Node::List(_) => "a list",
            Node::Mapping(_) => "a mapping",
        }
    }

    /// Returns what it is, for a message: a number with a fraction as it was written, for it may look like none.
    pub(super) fn shown(&self) -> String {
        match self {
            Node::Fraction(number) => beginning(number),
            other => other.kind().to_owned(),
        }
    }

    /// Returns about how many bytes of memory it takes.
    pub(super) fn weight(&self) -> usize {
        let inside = match self {
            Node::Null | Node::Boolean(_) | Node::Integer(_) => 0,
            Node::Fraction(text) | Node::Text(text) => text.len(),
            Node::List(items) => items.iter().map(Node::weight).sum(),
            Node::Mapping(entries) => {
                entries.iter().map(|(key, value)| size_of::<String>() + key.len() + value.weight()).sum()
            }
        };
        size_of::<Node>() + inside
    }
}

/// Returns a number as it was written, but not without end.
pub(super) fn beginning(number: &str) -> String {
    const MOST: usize = 40;
    match number.char_indices().nth(MOST) {
        None => number.to_owned(),
        Some((end, _)) => format!("{}…", number.get(..end).unwrap_or_default()),
    }
}
