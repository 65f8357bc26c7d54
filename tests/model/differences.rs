//! What a diff of two trees must say.

use std::collections::{BTreeMap, BTreeSet};

use crate::expect::Differences;
use crate::reference::{Body, Fs, Id, Name};
use crate::wire::{DeltaKind, ROOT};

/// Returns how two trees differ: names as bindings in a directory, whatever became of the directory's own path.
pub(crate) fn differences(old: &Fs, new: &Fs) -> Differences {
    let (old_paths, new_paths) = (paths(old), paths(new));
    let mut found = Differences::default();
    let mut renamed: BTreeSet<Id> = BTreeSet::new();
    for (from, to, to_paths, rebound) in
        [(new, old, &old_paths, &mut found.gone), (old, new, &new_paths, &mut found.new)]
    {
        for (dir, dir_paths) in to_paths {
            let Body::Dir(entries) = &to.node(*dir).body else { continue };
            let before = from.nodes.get(dir).filter(|_| *dir == ROOT || !from.is_dead(*dir));
            for (name, child) in entries {
                let bound = before.and_then(|node| match &node.body {
                    Body::Dir(entries) => entries.get(name),
                    _ => None,
                });
                if bound != Some(child) {
                    let path = dir_paths.first().expect("a directory of the tree has a path");
                    rebound.insert(join(path, name));
                    renamed.insert(*child);
                }
            }
        }
    }
    let (old_bindings, new_bindings) = (bindings(old, &old_paths), bindings(new, &new_paths));
    for path in found.gone.intersection(&found.new) {
        let ((dir, was), (_, now)) = (old_bindings[path], new_bindings[path]);
        // Elsewhere now, the directory has lost a name there.
        let in_place = new_paths.get(&dir).is_none_or(|paths| *paths == old_paths[&dir]);
        let (was, now) = (&old.node(was).body, &new.node(now).body);
        if in_place && is_of_a_kind(was, now) {
            found.replaced.insert(path.clone(), matches!(now, Body::Dir(_)));
        }
    }
    for (id, paths) in &new_paths {
        let Some(before) = old.nodes.get(id).filter(|_| old_paths.contains_key(id) && !renamed.contains(id))
        else {
            continue;
        };
        let after = new.node(*id);
        let kind = if matches!(after.body, Body::File(_)) && before.body != after.body {
            DeltaKind::Modified {}
        } else if (before.perm, before.uid, before.gid) != (after.perm, after.uid, after.gid)
            || before.xattrs != after.xattrs
        {
            DeltaKind::Metadata {}
        } else {
            continue;
        };
        found.changed.push((kind, paths.clone()));
    }
    found
}

fn is_of_a_kind(one: &Body, other: &Body) -> bool {
    match (one, other) {
        (Body::Special { kind, .. }, Body::Special { kind: other, .. }) => kind == other,
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}

/// Returns what each path is: a name in a directory, and what that leads to.
fn bindings(fs: &Fs, paths: &BTreeMap<Id, BTreeSet<Name>>) -> BTreeMap<Name, (Id, Id)> {
    let mut all = BTreeMap::new();
    for (dir, dir_paths) in paths {
        let Body::Dir(entries) = &fs.node(*dir).body else { continue };
        for (name, child) in entries {
            all.extend(dir_paths.iter().map(|path| (join(path, name), (*dir, *child))));
        }
    }
    all
}

fn join(path: &[u8], name: &[u8]) -> Name {
    let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
    [path, separator, name].concat()
}

/// Returns all paths of every node that is in the tree.
fn paths(fs: &Fs) -> BTreeMap<Id, BTreeSet<Name>> {
    let mut all = BTreeMap::from([(ROOT, BTreeSet::from([Name::new()]))]);
    let mut left = vec![(Name::new(), ROOT)];
    while let Some((path, id)) = left.pop() {
        for (name, &child) in fs.entries(id) {
            let path = join(&path, name);
            if fs.node(child).is_dir() {
                left.push((path.clone(), child));
            }
            all.entry(child).or_default().insert(path);
        }
    }
    all
}
