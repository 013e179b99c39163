//! Reading a saved snapshot, with an exact word on what is wrong with one.
//!
//! In: the bytes of a file. Out: a [`Snapshot`] whose sums are known not to overflow, or a [`SnapshotError`].

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::error::Category;

use super::snapshot::{SCHEMA, Snapshot};

/// Why bytes are not a snapshot. Each message names the next step.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is nothing to read.
    #[error("it is empty; give a file that --json wrote")]
    Empty,
    /// The JSON ends in the middle.
    #[error("it is truncated: the JSON ends at line {line} column {column}; take the snapshot again")]
    Truncated {
        /// Line of the end, from 1.
        line: usize,
        /// Column of the end, from 1.
        column: usize,
    },
    /// It is not JSON at all.
    #[error("it is not a snapshot: no JSON at line {line} column {column}; give a file that --json wrote")]
    NotJson {
        /// Line of the first byte that is not JSON, from 1.
        line: usize,
        /// Column of the first byte that is not JSON, from 1.
        column: usize,
    },
    /// JSON, but nothing that says it is a snapshot.
    #[error("it is not a snapshot: it names no leaktrace schema; give a file that --json wrote")]
    NotASnapshot,
    /// A later leaktrace wrote it.
    #[error("its schema is {found}, newer than the {SCHEMA} that this leaktrace reads; use a newer leaktrace")]
    Newer {
        /// The schema it names.
        found: String,
    },
    /// The schema is right and the contents are not.
    #[error("it breaks its own schema {SCHEMA}: {what}; take the snapshot again")]
    Broken {
        /// What is wrong, and where.
        what: String,
    },
}

/// The part of a snapshot that every schema version shares.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    schema: Option<Value>,
}

impl Snapshot {
    /// Reads what `--json` wrote. Fields that this version does not know are ignored.
    ///
    /// # Errors
    /// A [`SnapshotError`] that says which of the ways not to be a snapshot this is.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SnapshotError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(SnapshotError::Empty);
        }
        // The schema decides how the rest is to be read, so it is read alone first.
        let unreadable = |error: serde_json::Error| unreadable(&error, bytes);
        if !is_object(bytes) {
            serde_json::from_slice::<IgnoredAny>(bytes).map_err(unreadable)?;
            return Err(SnapshotError::NotASnapshot);
        }
        let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
        match head.schema {
            Some(Value::String(schema)) if schema == SCHEMA => {}
            Some(Value::String(schema)) if is_newer(&schema) => return Err(SnapshotError::Newer { found: schema }),
            _ => return Err(SnapshotError::NotASnapshot),
        }
        let snapshot: Self =
            serde_json::from_slice(bytes).map_err(|error| SnapshotError::Broken { what: error.to_string() })?;
        if snapshot.overflows() {
            return Err(SnapshotError::Broken { what: "its sites add up to more than 64 bits hold".to_owned() });
        }
        Ok(snapshot)
    }

    /// Whether the sums that reports form would overflow; no trace can produce such numbers.
    fn overflows(&self) -> bool {
        let sums = self.sites.iter().try_fold((0u64, 0u64), |(bytes, count), site| {
            Some((bytes.checked_add(site.outstanding_bytes)?, count.checked_add(site.outstanding_count)?))
        });
        sums.is_none()
    }
}

fn is_object(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"{")
}

fn unreadable(error: &serde_json::Error, bytes: &[u8]) -> SnapshotError {
    let (line, column) = (error.line(), error.column());
    // A file cut inside a number, after "1." say, is a syntax error at its very end to serde_json.
    let lines_before: usize =
        bytes.split_inclusive(|&byte| byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let at_end = is_object(bytes) && lines_before + column >= bytes.len();
    match error.classify() {
        _ if at_end => SnapshotError::Truncated { line, column },
        Category::Eof => SnapshotError::Truncated { line, column },
        Category::Syntax | Category::Io => SnapshotError::NotJson { line, column },
        Category::Data => SnapshotError::NotASnapshot,
    }
}

/// Whether `schema` is one of ours with a version above the one read here.
fn is_newer(schema: &str) -> bool {
    let (family, version) = SCHEMA.split_once('/').unwrap_or((SCHEMA, ""));
    let known: u64 = version.parse().unwrap_or(0);
    schema
        .strip_prefix(family)
        .and_then(|rest| rest.strip_prefix('/'))
        .and_then(|version| version.split('.').next())
        .and_then(|major| major.parse::<u64>().ok())
        .is_some_and(|major| major > known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":1.5,
        "target":{"mode":"system"}}"#;

    fn error(text: &str) -> SnapshotError {
        Snapshot::from_json(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn the_required_fields_are_enough() {
        let snapshot = Snapshot::from_json(MINIMAL.as_bytes()).unwrap();
        assert_eq!(snapshot.elapsed, std::time::Duration::from_millis(1500));
        assert!(snapshot.sites.is_empty() && snapshot.losses.is_lossless());
    }

    #[test]
    fn unknown_fields_modes_and_trends_are_read_past() {
        let text = MINIMAL
            .replace("\"mode\":\"system\"", "\"mode\":\"telepathy\",\"host\":\"a\"")
            .replace("\"elapsed_s\"", "\"moon\":{\"phase\":[1,2]},\"elapsed_s\"");
        let snapshot = Snapshot::from_json(text.as_bytes()).unwrap();
        assert_eq!(snapshot.target.mode, crate::model::TraceMode::Unknown);
    }

    #[test]
    fn every_proper_prefix_is_truncated() {
        let body = MINIMAL.trim_end();
        for end in 1..body.len() {
            let error = error(&body[..end]);
            assert!(matches!(error, SnapshotError::Truncated { .. }), "{end} bytes: {error}");
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        assert!(matches!(error(""), SnapshotError::Empty));
        assert!(matches!(error("\n \n"), SnapshotError::Empty));
        assert!(matches!(error("main;foo 12\n"), SnapshotError::NotJson { line: 1, column: 1 }));
        assert!(matches!(error("\x7fELF"), SnapshotError::NotJson { .. }));
        assert!(matches!(error("{}"), SnapshotError::NotASnapshot));
        assert!(matches!(error("[1,2]"), SnapshotError::NotASnapshot));
        assert!(matches!(error(r#"{"schema":"heaptrack/1"}"#), SnapshotError::NotASnapshot));
        assert!(matches!(error(r#"{"schema":"leaktrace/0"}"#), SnapshotError::NotASnapshot));
        assert!(matches!(error(r#"{"schema":7}"#), SnapshotError::NotASnapshot));
        assert!(matches!(error(r#"{"schema":"leaktrace/2","new":true}"#), SnapshotError::Newer { .. }));
        assert!(matches!(error(r#"{"schema":"leaktrace/10.1"}"#), SnapshotError::Newer { .. }));
        assert!(matches!(error(r#"{"schema":"leaktrace/1"}"#), SnapshotError::Broken { .. }));
        assert!(matches!(error(&format!("{MINIMAL}{MINIMAL}")), SnapshotError::NotJson { line: 2, .. }));
    }

    #[test]
    fn impossible_numbers_are_refused_and_named() {
        let negative = MINIMAL.replace("1.5", "-1.5");
        assert!(error(&negative).to_string().contains("-1.5 is not a number of seconds"));
        let site = r#"{"pid":1,"outstanding_bytes":18446744073709551615,"outstanding_count":1}"#;
        let overflowing = MINIMAL.replace("\"elapsed_s\"", &format!("\"sites\":[{site},{site}],\"elapsed_s\""));
        assert!(error(&overflowing).to_string().contains("64 bits"));
        for address in ["12", "0x", "0x+1", "0xg", "0x11112222333344445"] {
            let frame = format!(r#"{{"address":"{address}"}}"#);
            let site = format!(r#"{{"pid":1,"outstanding_bytes":1,"outstanding_count":1,"stack":[{frame}]}}"#);
            let text = MINIMAL.replace("\"elapsed_s\"", &format!("\"sites\":[{site}],\"elapsed_s\""));
            assert!(error(&text).to_string().contains("hexadecimal"), "{address}");
        }
    }

    #[test]
    fn a_path_that_is_not_utf8_is_written_all_the_same() {
        use std::os::unix::ffi::OsStrExt;
        let mut frame = crate::model::Frame::unresolved(crate::model::Address(0xff));
        frame.module = Some(std::path::PathBuf::from(std::ffi::OsStr::from_bytes(b"/tmp/a\xffb")));
        let text = serde_json::to_string(&frame).unwrap();
        assert_eq!(
            text,
            "{\"function\":null,\"module\":\"/tmp/a\u{fffd}b\",\"file\":null,\"line\":null,\"inlined\":false,\
             \"address\":\"0xff\",\"module_offset\":null}"
        );
    }
}
