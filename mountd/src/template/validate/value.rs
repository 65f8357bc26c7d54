//! The rules of single values.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::super::fields::{Given, Items};
use super::super::problem::{Place, Problems};

/// The longest path that Linux takes.
const MAX_PATH_BYTES: usize = 4095;

/// Checks every item of a list; `None` where one is wrong.
pub(super) fn each<T, U>(
    items: Items<T>,
    place: &Place,
    check: impl Fn(T, &Place) -> Option<U>,
) -> Option<Vec<U>> {
    // All are checked before the first wrong one counts: every problem is to be reported.
    let checked: Vec<Option<U>> = items
        .into_iter()
        .enumerate()
        .map(|(number, item)| check(item.value()?, &place.item(number)))
        .collect();
    checked.into_iter().collect()
}

/// Checks how long a list is.
pub(super) fn at_most<T>(items: &Given<Items<T>>, most: usize, place: &Place, problems: &Problems) {
    if let Given::Value(items) = items
        && items.len() > most
    {
        problems.report(place, format!("at most {most} are allowed, and there are {}", items.len()));
    }
}

/// Checks that a number is in a range.
pub(super) fn number<N: TryFrom<i128> + Copy + Into<i128>>(
    given: Given<i128>,
    range: RangeInclusive<N>,
    place: &Place,
    problems: &Problems,
) -> Given<N> {
    let (least, most): (i128, i128) = ((*range.start()).into(), (*range.end()).into());
    check(given, place, problems, |number| match N::try_from(number) {
        Ok(small) if (least..=most).contains(&number) => Ok(small),
        _ => Err(format!("must be {least} to {most}, not {number}")),
    })
}

/// Checks that a text is the absolute path of something on the host.
pub(super) fn host_path(given: Given<String>, place: &Place, problems: &Problems) -> Given<PathBuf> {
    check(given, place, problems, |path| {
        if !path.starts_with('/') {
            Err("must be an absolute path".to_owned())
        } else if path.len() > MAX_PATH_BYTES {
            Err(format!("must be at most {MAX_PATH_BYTES} bytes long, not {}", path.len()))
        } else if path.contains('\0') {
            Err("must not contain NUL".to_owned())
        } else {
            Ok(PathBuf::from(path))
        }
    })
}

/// Checks that a text can be a word of a command.
pub(super) fn word(text: String, place: &Place, problems: &Problems) -> Option<String> {
    if text.contains('\0') {
        problems.report(place, "must not contain NUL");
        return None;
    }
    Some(text)
}

/// Checks that a text is one of these names.
pub(super) fn one_of<T: Copy>(
    given: Given<String>,
    names: &[(&str, T)],
    place: &Place,
    problems: &Problems,
) -> Given<T> {
    check(given, place, problems, |name| {
        let known = names.iter().find(|(known, _)| *known == name);
        known.map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<&str> = names.iter().map(|(known, _)| *known).collect();
            format!("must be {}, not {name:?}", either(&known))
        })
    })
}

/// Checks a value that is there.
pub(super) fn check<T, U>(
    given: Given<T>,
    place: &Place,
    problems: &Problems,
    rule: impl FnOnce(T) -> Result<U, String>,
) -> Given<U> {
    match given {
        Given::Absent => Given::Absent,
        Given::Wrong => Given::Wrong,
        Given::Value(value) => match rule(value) {
            Ok(value) => Given::Value(value),
            Err(fault) => {
                problems.report(place, fault);
                Given::Wrong
            }
        },
    }
}

/// `a`, `a or b`, `a, b or c`
fn either(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [before @ .., last] => format!("{} or {last}", before.join(", ")),
    }
}
