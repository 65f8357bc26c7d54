//! The log of mountd, without what it is about.
//!
//! An event of this program is a constant text and fields with values. The values may name files, or quote what a program asked for; the
//! text cannot. So of each line only its time, level, origin and text are kept, and whatever is no such line is left out. Events of
//! libraries are left out as well: they write what they are about into the text.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// What the origins of our own events begin with.
const OWN: &str = "durdir_";

/// How much of the end of a log is read.
const TAIL: u64 = 1 << 20;

/// Returns the end of a log, a line for each event.
pub(super) fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line may be the end of one.
    let skipped = usize::from(size > TAIL);
    Ok(text.lines().skip(skipped).filter_map(cut).map(|line| line + "\n").collect())
}

/// Returns what is kept of a line.
fn cut(line: &str) -> Option<String> {
    if line.starts_with('{') {
        return cut_json(line);
    }
    if let Some((_, place)) = line.split_once(" panicked at ").filter(|_| line.starts_with("thread '")) {
        return panicked(place);
    }
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let (time, level) = (words.next()?, words.next()?);
    if !is_time(time) || !is_level(level) {
        return None;
    }
    let rest = words.collect::<Vec<_>>().join(" ");
    rest.starts_with(OWN).then(|| format!("{time} {level} {}", until_fields(&rest)))
}

fn cut_json(line: &str) -> Option<String> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let (time, level) = (text(&event["timestamp"])?, text(&event["level"])?);
    let (target, message) = (text(&event["target"])?, text(&event["fields"]["message"])?);
    if !is_time(&time) || !is_level(&level) || !target.starts_with(OWN) {
        return None;
    }
    Some(format!("{time} {level} {target}: {}", until_fields(&message)))
}

/// `src/x.rs:1:2:` is where; what a panic says may be anything, and is on the next line.
fn panicked(place: &str) -> Option<String> {
    let place = place.strip_suffix(':').unwrap_or(place);
    let is_source = place.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_-.:@".contains(&byte));
    is_source.then(|| format!("panicked at {place}"))
}

/// Returns the beginning of a text up to the first field, `name=value`, or up to something quoted.
fn until_fields(text: &str) -> &str {
    let text = text.split(['"', '{']).next().unwrap_or_default();
    let Some((before, _)) = text.split_once('=') else { return text.trim_end() };
    before.rsplit_once(' ').map_or("", |(before, _)| before).trim_end()
}

fn is_time(word: &str) -> bool {
    word.len() >= 20
        && word.ends_with('Z')
        && word.bytes().all(|byte| byte.is_ascii_digit() || b"-:.TZ".contains(&byte))
}

fn is_level(word: &str) -> bool {
    ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_says_is_kept_and_what_it_is_about_is_not() {
        let time = "2026-11-26T11:27:39.123456Z";
        for (line, kept) in [
            (
                "  INFO durdir_mountd::daemon: mountd is ready version=0.1.0 store=/s",
                Some("INFO durdir_mountd::daemon: mountd is ready"),
            ),
            (
                " ERROR durdir_fs::ops: data does not match its checksum path=\"/secret = 1\" ino=7",
                Some("ERROR durdir_fs::ops: data does not match its checksum"),
            ),
            ("  INFO durdir_fs::x: cannot do \"secret\" pid=7", Some("INFO durdir_fs::x: cannot do")),
            (" DEBUG fuser::request: FUSE(  6) ino 0x1 LOOKUP name \"secret\" thread=fuser-1", None),
            ("  WARN op{name=secret x}: durdir_fs::fuse: request failed error=a secret", None),
            ("  INFO durdir_mountd::daemon: store closed", Some("INFO durdir_mountd::daemon: store closed")),
            ("  LOUD durdir: x", None),
        ] {
            assert_eq!(cut(&format!("{time} {line}")), kept.map(|kept| format!("{time} {kept}")), "{line}");
        }
        for line in ["", "secret", "a secret of two words", "   0: some::frame", "2026 INFO secret"] {
            assert_eq!(cut(line), None, "{line}");
        }
    }

    #[test]
    fn lines_of_json_are_cut_as_well() {
        let line = r#"{"timestamp":"2026-11-26T11:27:39.123456Z","level":"INFO","fields":{"message":"it is done","path":"secret"},"target":"durdir_fs::x"}"#;
        assert_eq!(cut(line).as_deref(), Some("2026-11-26T11:27:39.123456Z INFO durdir_fs::x: it is done"));
        assert_eq!(cut(&line.replace("durdir_fs::x", "fuser")), None);
        assert_eq!(cut("{\"level\":\"INFO\"}"), None);
        assert_eq!(cut("{not json"), None);
    }

    #[test]
    fn of_a_panic_the_place_is_kept() {
        let line = "thread 'fuse-0' (17) panicked at fs/src/ops/io.rs:12:5:";
        assert_eq!(cut(line).as_deref(), Some("panicked at fs/src/ops/io.rs:12:5"));
        assert_eq!(cut("thread 'x' panicked at a secret file"), None);
    }

    #[test]
    fn only_the_end_of_a_long_log_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let line = |number: usize| format!("2026-11-26T11:27:39.123456Z INFO durdir_fs: line {number:06}\n");
        std::fs::write(&path, (0..40_000).map(line).collect::<String>()).unwrap();
        let tail = tail(&path).unwrap();
        assert!(tail.len() <= 1 << 20 && tail.len() > 1_000_000, "{}", tail.len());
        assert!(tail.ends_with(&line(39_999)) && tail.starts_with("2026-"));
        assert!(super::tail(&dir.path().join("missing")).is_err());
    }
}
