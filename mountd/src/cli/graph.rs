//! The history as a graph of text, as `git log --graph` draws one.
//!
//! ```text
//! o  web                 head
//! | o  trial             head
//! | *  trial@6           2 min ago
//! |/
//! *  web@5  before-move  5 min ago
//! *  web@2               1 h ago
//! ```
//!
//! Time goes up. `o` is a volume as it is now, `*` a snapshot. Every line of descent has a column of its own, which
//! bends into the column of the snapshot it started at. A snapshot has one parent at most, so lines only ever join
//! downwards.

use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::exit::printable;
use crate::proto::LogEntry;

/// Columns are aligned up to this width: one line far to the right must not push away all others.
const WIDE: usize = 40;

/// A snapshot or a head, to be drawn as one line.
struct Node<'a> {
    sign: char,
    label: &'a str,
    name: Option<&'a str>,
    when: When,
    parent: Option<&'a str>,
    /// The parent's key of this node; heads are nobody's parent.
    key: Option<&'a str>,
}

enum When {
    Now,
    At(i64),
}

/// Draws the entries; `time` tells a moment for people.
pub(super) fn draw(entries: &[LogEntry], time: impl Fn(i64) -> String) -> String {
    let nodes = nodes(entries);
    let mut lanes: Vec<Option<&str>> = Vec::new();
    let mut drawn: Vec<Line<'_>> = Vec::new();
    for index in order(&nodes) {
        let node = &nodes[index];
        let waiting = |lane: &Option<&str>| lane.is_some() && *lane == node.key;
        // Lines that end here bend towards the leftmost of them, the furthest first.
        if let Some(target) = lanes.iter().position(waiting) {
            while let Some(from) = lanes.iter().rposition(waiting).filter(|from| *from > target) {
                drawn.push(Line { lanes: bend(&lanes, target, from), node: None });
                lanes[from] = None;
                trim(&mut lanes);
            }
        }
        let column = lanes.iter().position(waiting).unwrap_or_else(|| free_lane(&mut lanes));
        drawn.push(Line { lanes: row(&lanes, column, node.sign), node: Some(node) });
        lanes[column] = node.parent;
        trim(&mut lanes);
    }
    render(&drawn, time)
}

struct Line<'a> {
    lanes: String,
    node: Option<&'a Node<'a>>,
}

/// Returns a node for every snapshot and for every head that comes after one.
fn nodes(entries: &[LogEntry]) -> Vec<Node<'_>> {
    let known: HashSet<&str> = entries.iter().map(|entry| entry.snapshot.as_str()).collect();
    // A fork that has snapshots has its head after the newest of them.
    let with_head: HashSet<&str> = entries.iter().filter_map(|entry| entry.head_of.as_deref()).collect();
    let mut nodes = Vec::new();
    for entry in entries {
        let forks = entry.forks.iter().map(String::as_str);
        let heads =
            entry.head_of.as_deref().into_iter().chain(forks.filter(|fork| {
                !with_head.contains(fork) && !entries.iter().any(|other| other.volume == **fork)
            }));
        nodes.extend(heads.map(|volume| Node {
            sign: 'o',
            label: volume,
            name: None,
            when: When::Now,
            parent: Some(&entry.snapshot),
            key: None,
        }));
        nodes.push(Node {
            sign: '*',
            label: &entry.snapshot,
            name: entry.name.as_deref(),
            when: When::At(entry.created_unix_ns),
            // What was removed cannot be drawn: the line starts here.
            parent: entry.parent.as_deref().filter(|parent| known.contains(parent)),
            key: Some(&entry.snapshot),
        });
    }
    nodes
}

/// Returns the nodes newest first, but never a parent before its children, whatever the clock did.
fn order(nodes: &[Node<'_>]) -> Vec<usize> {
    let by_key: HashMap<&str, usize> =
        nodes.iter().enumerate().filter_map(|(index, node)| Some((node.key?, index))).collect();
    let parent = |node: &Node<'_>| node.parent.and_then(|key| by_key.get(key).copied());
    let mut children = vec![0_usize; nodes.len()];
    for node in nodes {
        if let Some(parent) = parent(node) {
            children[parent] += 1;
        }
    }
    // A head belongs right above the snapshot it comes after.
    let at = |node: &Node<'_>| match node.when {
        When::At(time) => (time, false),
        When::Now => match parent(node).map(|parent| &nodes[parent].when) {
            Some(When::At(time)) => (*time, true),
            Some(When::Now) | None => (i64::MAX, true),
        },
    };
    // Of equals, the one listed first.
    let rank = |index: usize| (at(&nodes[index]), std::cmp::Reverse(index));
    let mut ready: BinaryHeap<_> =
        (0..nodes.len()).filter(|index| children[*index] == 0).map(|index| (rank(index), index)).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some((_, index)) = ready.pop() {
        order.push(index);
        if let Some(parent) = parent(&nodes[index]) {
            children[parent] -= 1;
            if children[parent] == 0 {
                ready.push((rank(parent), parent));
            }
        }
    }
    order
}

fn free_lane(lanes: &mut Vec<Option<&str>>) -> usize {
    lanes.iter().position(Option::is_none).unwrap_or_else(|| {
        lanes.push(None);
        lanes.len() - 1
    })
}

fn trim(lanes: &mut Vec<Option<&str>>) {
    while lanes.last().is_some_and(Option::is_none) {
        lanes.pop();
    }
}

/// `| | o`
fn row(lanes: &[Option<&str>], column: usize, sign: char) -> String {
    let cells = lanes.iter().enumerate().map(|(index, lane)| match (index == column, lane) {
        (true, _) => sign,
        (false, Some(_)) => '|',
        (false, None) => ' ',
    });
    spaced(cells)
}

/// `|/`, or `|_|_|/` over lines in between.
fn bend(lanes: &[Option<&str>], target: usize, from: usize) -> String {
    let mut line = String::new();
    for (index, lane) in lanes.iter().enumerate() {
        let bar = if lane.is_some() && index != from { '|' } else { ' ' };
        let between = index > target && index < from;
        line.push(if between && bar == ' ' { '_' } else { bar });
        line.push(match index + 1 {
            next if next == from => '/',
            next if next > target + 1 && next < from => '_',
            next if next == target + 1 && next < from => '_',
            _ => ' ',
        });
    }
    line.trim_end().to_owned()
}

fn spaced(cells: impl Iterator<Item = char>) -> String {
    let mut line = String::new();
    for cell in cells {
        line.push(cell);
        line.push(' ');
    }
    line.trim_end().to_owned()
}

/// Puts labels, names and times beside the graph, each in a column of its own.
fn render(lines: &[Line<'_>], time: impl Fn(i64) -> String) -> String {
    let width = |text: &str| text.chars().count();
    let texts = lines.iter().map(|line| {
        let (label, name, when) = match line.node {
            None => (String::new(), String::new(), String::new()),
            Some(node) => (
                printable(node.label),
                node.name.map(printable).unwrap_or_default(),
                match node.when {
                    When::Now => "head".to_owned(),
                    When::At(at) => time(at),
                },
            ),
        };
        (format!("{}  {label}", line.lanes), name, when, line.node.is_some())
    });
    let texts: Vec<_> = texts.collect();
    let widest = |column: fn(&(String, String, String, bool)) -> &String| {
        texts.iter().map(|text| width(column(text))).max().unwrap_or(0)
    };
    let (labels, names) = (widest(|text| &text.0).min(WIDE), widest(|text| &text.1).min(WIDE));
    let mut out = String::new();
    for (label, name, when, is_node) in &texts {
        if *is_node {
            let pad = |text: &str, to: usize| " ".repeat(to.saturating_sub(width(text)) + 2);
            out.push_str(label);
            out.push_str(&pad(label, labels));
            if names > 0 {
                out.push_str(name);
                out.push_str(&pad(name, names));
            }
            out.push_str(when);
        } else {
            out.push_str(label.trim_end());
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(snapshot: &str, parent: Option<&str>, at: i64) -> LogEntry {
        let (volume, epoch) = snapshot.split_once('@').unwrap();
        LogEntry {
            volume: volume.to_owned(),
            snapshot: snapshot.to_owned(),
            epoch: epoch.parse().unwrap(),
            created_unix_ns: at,
            parent: parent.map(str::to_owned),
            ..LogEntry::default()
        }
    }

    fn head(volume: &str, mut entry: LogEntry) -> LogEntry {
        entry.head_of = Some(volume.to_owned());
        entry
    }

    fn forked(volumes: &[&str], mut entry: LogEntry) -> LogEntry {
        entry.forks = volumes.iter().map(|volume| (*volume).to_owned()).collect();
        entry
    }

    fn named(name: &str, mut entry: LogEntry) -> LogEntry {
        entry.name = Some(name.to_owned());
        entry
    }

    fn drawing(entries: &[LogEntry]) -> String {
        draw(entries, |at| format!("t{at}"))
    }

    #[test]
    fn one_volume_is_one_line_of_descent() {
        let entries =
            [head("web", entry("web@2", Some("web@1"), 2)), named("first", entry("web@1", None, 1))];
        let expected = "\
o  web           head
*  web@2         t2
*  web@1  first  t1
";
        assert_eq!(drawing(&entries), expected);
    }

    #[test]
    fn a_fork_bends_into_its_snapshot() {
        let entries = [
            head("web", entry("web@3", Some("web@2"), 4)),
            head("trial", entry("trial@3", Some("web@2"), 3)),
            forked(&["trial"], entry("web@2", Some("web@1"), 2)),
            entry("web@1", None, 1),
        ];
        let expected = "\
o  web        head
*  web@3      t4
| o  trial    head
| *  trial@3  t3
|/
*  web@2      t2
*  web@1      t1
";
        assert_eq!(drawing(&entries), expected);
    }

    #[test]
    fn forks_without_snapshots_show_their_heads() {
        let entries = [head("web", forked(&["a", "b"], entry("web@1", None, 1)))];
        let expected = "\
o  web    head
| o  a    head
| | o  b  head
|_|/
|/
*  web@1  t1
";
        assert_eq!(drawing(&entries), expected);
    }

    #[test]
    fn a_line_bends_over_others() {
        let entries = [
            head("a", entry("a@9", Some("root@1"), 9)),
            head("b", entry("b@8", Some("other@1"), 8)),
            head("c", entry("c@7", Some("root@1"), 7)),
            entry("root@1", None, 2),
            entry("other@1", None, 1),
        ];
        let expected = "\
o  a          head
*  a@9        t9
| o  b        head
| *  b@8      t8
| | o  c      head
| | *  c@7    t7
|_|/
* |  root@1   t2
  *  other@1  t1
";
        assert_eq!(drawing(&entries), expected);
    }

    #[test]
    fn a_line_that_ended_makes_room() {
        let entries = [
            head("a", entry("a@9", Some("root@1"), 9)),
            entry("b@8", None, 8),
            entry("c@7", Some("root@1"), 7),
            entry("root@1", None, 1),
        ];
        let expected = "\
o  a       head
*  a@9     t9
| *  b@8   t8
| *  c@7   t7
|/
*  root@1  t1
";
        assert_eq!(drawing(&entries), expected);
    }

    #[test]
    fn a_parent_that_is_gone_ends_the_line() {
        let entries = [entry("web@5", Some("(removed)@2"), 5)];
        assert_eq!(drawing(&entries), "*  web@5  t5\n");
    }

    #[test]
    fn a_clock_that_ran_backwards_does_not_turn_history_around() {
        let entries = [entry("web@1", None, 9), head("web", entry("web@2", Some("web@1"), 2))];
        let expected = "\
o  web    head
*  web@2  t2
*  web@1  t9
";
        assert_eq!(drawing(&entries), expected);
    }

    #[test]
    fn a_cycle_of_broken_records_does_not_hang() {
        let entries = [entry("web@1", Some("web@2"), 1), entry("web@2", Some("web@1"), 2)];
        assert_eq!(drawing(&entries), "");
    }
}
