//! How an actor is found to be ready.

use std::time::Duration;

use serde::Serialize;

const MAX_PATH_BYTES: usize = 1024;

/// A readiness probe: the actor is ready once an HTTP GET is answered with 200.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Readyz {
    /// What is asked.
    pub(crate) http_get: HttpGet,
    /// Seconds until it is given up.
    pub(crate) timeout_seconds: u32,
    /// Milliseconds that one try may take.
    pub(crate) try_timeout_milliseconds: u32,
    /// Microseconds between the end of a try and the next one, at first.
    pub(crate) interval_microseconds: u32,
}

impl Readyz {
    /// Returns how long is tried at all.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }

    /// Returns how long one try may take.
    pub(crate) fn try_timeout(&self) -> Duration {
        Duration::from_millis(self.try_timeout_milliseconds.into())
    }

    /// Returns how long to wait after a try, at first.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_micros(self.interval_microseconds.into())
    }
}

/// An HTTP GET to a program in the sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct HttpGet {
    /// The path, percent-encoded, without a query.
    pub(crate) path: String,
    /// The TCP port; not 0.
    pub(crate) port: u16,
}

/// Checks a path: the characters of RFC 3986, without a query or fragment.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err("must start with '/'".to_owned());
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("must be at most {MAX_PATH_BYTES} bytes long, not {}", path.len()));
    }
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let is_legal = match byte {
            b'%' => {
                let mut is_hex = || rest.next().is_some_and(|digit| digit.is_ascii_hexdigit());
                is_hex() && is_hex()
            }
            byte => byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte),
        };
        if !is_legal {
            return Err("must be a path as in a URL, percent-encoded, without '?' and '#'".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_urls() {
        let longest = format!("/{}", "x".repeat(1023));
        for path in ["/", "/readyz", "/a/b", "/a%20b", "/~x/;y=1,2@(z)!$&'*+:", "//", "/a/", &longest] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
        let long = format!("/{}", "x".repeat(1024));
        for path in
            ["", "readyz", "/a?b", "/a#b", "/a b", "/%", "/%2", "/%2g", "/ä", "/a\r\nHost: x", "/\\", &long]
        {
            assert!(check_path(path).is_err(), "{path}");
        }
    }
}
