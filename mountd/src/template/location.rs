//! Where commits of an actor go.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde::Serialize;

const MAX_BYTES: usize = 2048;

/// The URL of an object store, with a prefix: `file:///directory`, `s3://bucket/prefix`, `gs://…`, `az://…`.
///
/// It holds no credentials: a template is shown to whoever may see the actor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Location(String);

impl Location {
    /// Takes a URL if it can be one of an object store.
    pub(super) fn parse(url: &str) -> Result<Location, String> {
        if url.is_empty() {
            return Err("must not be empty".to_owned());
        }
        if url.len() > MAX_BYTES {
            return Err(format!("must be at most {MAX_BYTES} bytes long, not {}", url.len()));
        }
        if url.chars().any(|character| character.is_control() || character.is_whitespace()) {
            return Err("must not contain spaces or control characters: write %20 for a space".to_owned());
        }
        let known =
            "must be file:///DIRECTORY, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX";
        let (scheme, rest) = url.split_once("://").ok_or(known)?;
        let (host, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        match scheme {
            "file" if !path.is_empty() && host.is_empty() => {}
            "file" => return Err("must name a directory by an absolute path: file:///DIRECTORY".to_owned()),
            "s3" | "gs" | "az" if host.is_empty() => {
                return Err(format!("must name a bucket: {scheme}://BUCKET/PREFIX"));
            }
            "s3" | "gs" | "az" => {}
            _ => return Err(known.to_owned()),
        }
        if host.contains('@') {
            return Err("must not contain credentials: the daemon has them in its environment".to_owned());
        }
        if url.contains(['?', '#']) {
            return Err("must not contain '?' or '#'".to_owned());
        }
        // What is decoded by nobody but a bucket's own server is taken as it is.
        let path = if scheme == "file" { decode(path)? } else { path.as_bytes().to_owned() };
        if path.contains(&0) {
            return Err("must not contain NUL".to_owned());
        }
        if path.split(|byte| *byte == b'/').any(|component| matches!(component, b"." | b"..")) {
            return Err("must not contain '.' or '..' as a component".to_owned());
        }
        Ok(Location(url.to_owned()))
    }

    /// Returns the URL.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the directory that a URL of the scheme `file` names; `None` for any other.
pub(crate) fn directory_of(location: &str) -> Option<PathBuf> {
    let path = location.strip_prefix("file://").filter(|path| path.starts_with('/'))?;
    Some(PathBuf::from(OsString::from_vec(decode(path).ok()?)))
}

/// Returns the bytes that a path of a URL stands for (RFC 3986, section 2.1).
fn decode(path: &str) -> Result<Vec<u8>, String> {
    let mut bytes = path.bytes();
    let mut decoded = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let escaped = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        decoded.push(escaped.ok_or("must not contain '%' but in an escape: %20, or %25 for itself")?);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_stores_are_legal() {
        for url in [
            "file:///var/lib/commits",
            "file:///",
            "s3://bucket",
            "s3://bucket/",
            "s3://bucket/a/b.c/..d",
            "gs://my-bucket/prefix/",
            "az://container/prefix",
            "s3://bucket/a%20b",
            "s3://bucket/a@b",
            "file:///my%20commits/%C3%A4%ff",
            "file:///a%252e",
        ] {
            assert_eq!(Location::parse(url).map(|location| location.0), Ok(url.to_owned()));
        }
    }

    #[test]
    fn a_directory_may_have_any_name() {
        let path = |bytes: &[u8]| Some(PathBuf::from(OsString::from_vec(bytes.to_owned())));
        assert_eq!(directory_of("file:///my%20commits/%C3%A4%ff"), path(b"/my commits/\xc3\xa4\xff"));
        assert_eq!(directory_of("file:///a%252e"), path(b"/a%2e"), "decoded once");
        assert_eq!(directory_of("file:///"), path(b"/"));
        for other in ["s3://bucket/a", "file://host/a", "file:///%", "/a"] {
            assert_eq!(directory_of(other), None, "{other}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        let long = format!("s3://bucket/{}", "x".repeat(2048));
        for (url, message) in [
            ("", "empty"),
            ("bucket/prefix", "must be file:///"),
            ("/var/lib", "must be file:///"),
            ("http://host/x", "must be file:///"),
            ("S3://bucket", "must be file:///"),
            ("s3:/bucket", "must be file:///"),
            ("s3://", "must name a bucket"),
            ("s3:///prefix", "must name a bucket"),
            ("gs:///", "must name a bucket"),
            ("file://relative", "absolute path"),
            ("file://host/dir", "absolute path"),
            ("file://", "absolute path"),
            ("s3://key:secret@bucket/x", "credentials"),
            ("s3://bucket/a b", "spaces"),
            ("s3://bucket/a\n", "spaces"),
            ("s3://bucket/../other", "'..'"),
            ("file:///a/./b", "'..'"),
            ("file:///a/%2e%2e/b", "'..'"),
            ("file:///a%2F%2E.", "'..'"),
            ("file:///a b", "%20"),
            ("file:///a%", "escape"),
            ("file:///a%2", "escape"),
            ("file:///a%2g", "escape"),
            ("file:///a%+1", "escape"),
            ("file:///a%00b", "NUL"),
            ("s3://bucket?x=y", "'?'"),
            ("s3://bucket/x#tag", "'#'"),
            (&long, "at most 2048"),
        ] {
            let found = Location::parse(url).unwrap_err();
            assert!(found.contains(message), "{url:?}: {found}");
        }
    }
}
