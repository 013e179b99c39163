//! Where to ask, and within which limits: the environment variables of debuginfod's own client (debuginfod-client-config(7)).

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The largest file that is fetched, bytes: `crate::elf` reads no more of any file.
const MAX_SIZE: u64 = 1 << 30;
/// debuginfod's client has the same default.
const TIMEOUT: Duration = Duration::from_secs(90);
/// debuginfod's client has no such default; a report must not wait indefinitely.
const LONGEST: Duration = Duration::from_mins(10);

/// Where to ask, and within which limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Servers, without a slash at the end.
    pub(super) urls: Vec<String>,
    /// Where files are kept; `None` where that cannot be known.
    pub(super) cache: Option<PathBuf>,
    /// How long a server may take to begin its answer, and for each 100 KB of it.
    pub(super) timeout: Duration,
    /// How long one file may take.
    pub(super) longest: Duration,
    /// Bytes of one file.
    pub(super) max_size: u64,
}

impl Settings {
    /// As this process' environment has them.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::from_variables(&|name| env::var_os(name))
    }

    pub(super) fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| variable(name)?.into_string().ok();
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok().filter(|number| *number > 0);
        let longest = number("DEBUGINFOD_MAXTIME").map_or(LONGEST, Duration::from_secs);
        Self {
            urls: servers(&text("DEBUGINFOD_URLS").unwrap_or_default()),
            cache: cache(variable),
            timeout: number("DEBUGINFOD_TIMEOUT").map_or(TIMEOUT, Duration::from_secs).min(longest),
            longest,
            max_size: number("DEBUGINFOD_MAXSIZE").unwrap_or(MAX_SIZE).min(MAX_SIZE),
        }
    }

    /// Whether there is a server to ask.
    #[must_use]
    pub fn has_servers(&self) -> bool {
        !self.urls.is_empty()
    }
}

/// The servers that we can ask: the list may also hold directories (`file://`) and policies (`ima:enforcing`).
fn servers(list: &str) -> Vec<String> {
    let urls = list.split_whitespace().map(|url| url.trim_end_matches('/'));
    urls.filter(|url| url.starts_with("http://") || url.starts_with("https://")).map(str::to_owned).collect()
}

fn cache(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    path("DEBUGINFOD_CACHE_PATH")
        .or_else(|| Some(path("XDG_CACHE_HOME")?.join("debuginfod_client")))
        .or_else(|| Some(path("HOME")?.join(".cache/debuginfod_client")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::from_variables(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_variables_of_debuginfods_client_are_heeded() {
        let urls = "  https://a.example/ ima:enforcing http://localhost:8002  file:///var/debug ";
        let all = settings(&[
            ("DEBUGINFOD_URLS", urls),
            ("DEBUGINFOD_TIMEOUT", "5"),
            ("DEBUGINFOD_MAXTIME", "20"),
            ("DEBUGINFOD_MAXSIZE", "1000"),
            ("DEBUGINFOD_CACHE_PATH", "/c"),
            ("HOME", "/home/me"),
        ]);
        let expected = Settings {
            urls: vec!["https://a.example".to_owned(), "http://localhost:8002".to_owned()],
            cache: Some(PathBuf::from("/c")),
            timeout: Duration::from_secs(5),
            longest: Duration::from_secs(20),
            max_size: 1000,
        };
        assert_eq!(all, expected);
    }

    #[test]
    fn nothing_is_without_a_limit() {
        let none = settings(&[]);
        assert!(!none.has_servers());
        assert_eq!((none.timeout, none.longest, none.max_size), (TIMEOUT, LONGEST, MAX_SIZE));
        // "No limit" in debuginfod's client; and words.
        let odd = [("DEBUGINFOD_TIMEOUT", "0"), ("DEBUGINFOD_MAXTIME", "-1"), ("DEBUGINFOD_MAXSIZE", "much")];
        assert_eq!(settings(&odd), none);
        assert_eq!(settings(&[("DEBUGINFOD_MAXSIZE", "9999999999999")]).max_size, MAX_SIZE);
        assert_eq!(settings(&[("DEBUGINFOD_MAXTIME", "3")]).timeout, Duration::from_secs(3));
    }

    #[test]
    fn the_cache_is_where_other_clients_look() {
        let cache = |variables: &[(&str, &str)]| settings(variables).cache;
        let path = |path: &str| Some(PathBuf::from(path));
        assert_eq!(cache(&[("HOME", "/root")]), path("/root/.cache/debuginfod_client"));
        assert_eq!(cache(&[("HOME", "/root"), ("XDG_CACHE_HOME", "/x")]), path("/x/debuginfod_client"));
        assert_eq!(cache(&[("HOME", "relative")]), None);
    }
}
