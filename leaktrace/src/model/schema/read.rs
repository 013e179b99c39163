//! Reads a saved snapshot; an error says exactly what is wrong with it.
//!
//! In: the bytes of a file. Out: a [`Snapshot`] whose sums are known not to overflow, or a [`SnapshotError`].

use std::borrow::Cow;
use std::sync::Arc;

use leaktrace_common::sampling::{BYTES_SHIFT, MAX_SAMPLE_BYTES};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::error::Category;

use super::Schema;
use super::forms::{Document, Frames, HiddenForm, Places, SiteForm, SuppressionForm};
use crate::model::snapshot::{Block, Site, Snapshot};
use crate::model::stack_state::StackState;
use crate::model::suppression::{Hidden, Kinds, Rule};
use crate::model::types::Frame;

/// The latest schema that this version reads.
const LATEST: &str = "leaktrace/2";

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
    #[error("its schema is {found}, newer than the {LATEST} that this leaktrace reads; use a newer leaktrace")]
    Newer {
        /// The schema it names.
        found: String,
    },
    /// The schema is right and the contents are not.
    #[error("it breaks its own schema: {what}; take the snapshot again")]
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
    /// Of several, a line each as `--json -` writes interval reports, the last.
    ///
    /// # Errors
    /// A [`SnapshotError`] that says which of the ways not to be a snapshot this is.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SnapshotError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(SnapshotError::Empty);
        }
        let bytes = last_line(bytes);
        // The schema determines how the rest is read, so it is read alone first.
        let unreadable = |error: serde_json::Error| unreadable(&error, bytes);
        if !is_object(bytes) {
            serde_json::from_slice::<IgnoredAny>(bytes).map_err(unreadable)?;
            return Err(SnapshotError::NotASnapshot);
        }
        let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
        let schema = match head.schema {
            Some(Value::String(name)) => match Schema::named(&name) {
                Some(schema) => schema,
                None if is_newer(&name) => return Err(SnapshotError::Newer { found: name }),
                None => return Err(SnapshotError::NotASnapshot),
            },
            _ => return Err(SnapshotError::NotASnapshot),
        };
        let broken = |what: String| SnapshotError::Broken { what };
        let snapshot = match schema {
            Schema::V1 => {
                let document: Document<'_, Frames<'_>> =
                    serde_json::from_slice(bytes).map_err(|error| broken(error.to_string()))?;
                in_memory(document, |_, stack| Ok(stack.into_owned()))
            }
            Schema::V2 => {
                let mut document: Document<'_, Places> =
                    serde_json::from_slice(bytes).map_err(|error| broken(error.to_string()))?;
                let frames = document.frames.take().unwrap_or_default();
                let table: Vec<_> = frames.into_iter().map(|frame| Arc::new(frame.into_owned())).collect();
                in_memory(document, |site, stack| look_up(&table, site, &stack))
            }
        }
        .map_err(broken)?;
        if let Some(mean) = snapshot.options.sample_bytes.filter(|mean| !(1..=MAX_SAMPLE_BYTES).contains(mean)) {
            return Err(broken(format!("nobody samples one byte in {mean}")));
        }
        if snapshot.overflows() {
            return Err(broken("its sites or blocks add up to more than 64 bits hold".to_owned()));
        }
        Ok(snapshot)
    }

    /// Whether the sums that reports form would overflow; no trace can produce such numbers.
    fn overflows(&self) -> bool {
        let sums = self.sites.iter().try_fold((0u64, 0u64), |(bytes, count), site| {
            Some((bytes.checked_add(site.outstanding_bytes)?, count.checked_add(site.outstanding_count)?))
        });
        // Filtering by age uses the blocks' numbers, whatever the sites' numbers are.
        let mut blocks = self.sites.iter().flat_map(|site| site.blocks.iter().flatten());
        let weighs =
            |block: &Block| block.weight.map_or(Some(block.size), |weight| weight.get().checked_mul(1 << BYTES_SHIFT));
        sums.is_none() || blocks.try_fold(0u64, |bytes, block| bytes.checked_add(weighs(block)?)).is_none()
    }
}

/// What a file says, in the types of memory; `frames` makes the frames of a site's stack.
fn in_memory<S>(
    document: Document<'_, S>,
    frames: impl Fn(usize, S) -> Result<Vec<Arc<Frame>>, String>,
) -> Result<Snapshot, String> {
    let Document {
        schema: _,
        leaktrace_version,
        started,
        elapsed,
        sequence,
        is_final,
        sampled,
        outstanding_bytes_ci95,
        target,
        options,
        reproduction,
        bursts,
        processes,
        frames: _,
        sites,
        sites_left_out,
        stacks,
        timeline,
        suppressions,
        untraced,
        losses,
        warnings,
        notes,
        recommendations,
    } = document;
    let rule =
        |form: SuppressionForm<'_>| Arc::new(Rule { name: form.name.into_owned(), source: form.source.into_owned() });
    let rules: Vec<_> = suppressions.into_iter().map(rule).collect();
    let sites = sites.into_iter().enumerate().map(|(index, mut form)| {
        let suppressed = hidden(&rules, index, std::mem::take(&mut form.suppressed_by))?;
        let read = site(form, |stack| frames(index, stack))?;
        Ok(Site { suppressed, ..read })
    });
    Ok(Snapshot {
        leaktrace_version: leaktrace_version.into_owned(),
        started,
        elapsed,
        sequence,
        is_final,
        sampled,
        outstanding_bytes_ci95,
        target: target.into_owned(),
        options: options.into_owned(),
        reproduction: reproduction.map(Cow::into_owned),
        bursts,
        processes: processes.into_owned(),
        sites: sites.collect::<Result<_, String>>()?,
        sites_left_out,
        stacks,
        timeline: timeline.map(Cow::into_owned),
        untraced: untraced.into_owned(),
        losses: losses.into_owned(),
        warnings: warnings.into_owned(),
        notes: notes.into_owned(),
        recommendations: recommendations.into_owned(),
    })
}

fn site<S>(form: SiteForm<'_, S>, frames: impl FnOnce(S) -> Result<Vec<Arc<Frame>>, String>) -> Result<Site, String> {
    let SiteForm {
        pid,
        process,
        id,
        outstanding_bytes,
        outstanding_count,
        alloc_bytes,
        alloc_count,
        free_bytes,
        free_count,
        temporary_count,
        oldest,
        youngest,
        ages,
        sizes,
        verdict,
        ignored,
        suppressed: _,
        suppressed_bytes: _,
        suppressed_count: _,
        suppressed_by: _,
        type_name,
        holders,
        pinned_bytes,
        trend,
        growth_bytes_per_s,
        growth,
        truncated,
        stack_state,
        guessed,
        unsure,
        sampled,
        outstanding_bytes_ci95,
        stack,
        blocks,
    } = form;
    Ok(Site {
        pid,
        process,
        id,
        outstanding_bytes,
        outstanding_count,
        alloc_bytes,
        alloc_count,
        free_bytes,
        free_count,
        temporary_count,
        oldest,
        youngest,
        ages,
        sizes,
        verdict,
        ignored,
        suppressed: Vec::new(),
        type_name,
        holders: holders.map(Cow::into_owned),
        pinned_bytes,
        trend,
        growth_bytes_per_s,
        growth: growth.map(Cow::into_owned),
        truncated,
        stack_state: match (unsure, guessed) {
            (true, _) => Some(StackState::Unsure),
            (false, true) => Some(StackState::Guessed),
            (false, false) => stack_state,
        },
        sampled,
        outstanding_bytes_ci95,
        stack: frames(stack)?,
        blocks: blocks.map(Cow::into_owned),
    })
}

/// What rules hide of a site, by their places in the table of rules.
fn hidden(rules: &[Arc<Rule>], site: usize, forms: Vec<HiddenForm>) -> Result<Vec<Hidden>, String> {
    let hidden = |HiddenForm { rule: place, kinds }| match rules.get(place) {
        Some(rule) => Ok(Hidden { rule: Arc::clone(rule), kinds: kinds.unwrap_or(Kinds::ALL) }),
        None => Err(format!(
            "suppressed_by of site {site}: there is no rule {place} in suppressions, which has {}",
            rules.len()
        )),
    };
    forms.into_iter().map(hidden).collect()
}

/// The frames that a stack names by their indices in the table. They are shared: otherwise a small file could become large
/// in memory by naming one long frame a million times.
fn look_up(table: &[Arc<Frame>], site: usize, stack: &[u32]) -> Result<Vec<Arc<Frame>>, String> {
    let frame = |place: &u32| {
        let frame = table.get(*place as usize).map(Arc::clone);
        frame.ok_or_else(|| format!("stack of site {site}: there is no frame {place} in a table of {}", table.len()))
    };
    stack.iter().map(frame).collect()
}

fn is_object(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"{")
}

/// The last of several interval reports, which are a line each and cumulative; or all of it.
fn last_line(bytes: &[u8]) -> &[u8] {
    let text = bytes.trim_ascii_end();
    let last = text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    // A document that is laid out in lines ends with a brace of its own.
    if last.starts_with(b"{") { last } else { bytes }
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
    let (family, version) = LATEST.split_once('/').unwrap_or((LATEST, ""));
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
    fn of_several_reports_the_last_is_read() {
        let line = MINIMAL.replace('\n', " ");
        let lines = [line.clone(), line.replace("1.5", "2.5"), line.replace("1.5", "3.5")].join("\n") + "\n";
        assert_eq!(Snapshot::from_json(lines.as_bytes()).unwrap().elapsed, std::time::Duration::from_millis(3500));
        let cut = &lines[..lines.len() - 10];
        assert!(matches!(error(cut), SnapshotError::Truncated { .. }), "{}", error(cut));
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
        assert!(matches!(error(r#"{"schema":"leaktrace/3","new":true}"#), SnapshotError::Newer { .. }));
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
        for mean in ["0", "6130892861308928"] {
            let options = format!("\"options\":{{\"sample_bytes\":{mean}}},\"elapsed_s\"");
            assert!(error(&MINIMAL.replace("\"elapsed_s\"", &options)).to_string().contains("one byte in"), "{mean}");
        }
        let block = r#"{"address":"0x1","size":18446744073709551615,"age_s":9}"#;
        let site = format!(r#"{{"pid":1,"outstanding_bytes":1,"outstanding_count":1,"blocks":[{block},{block}]}}"#);
        let overflowing = MINIMAL.replace("\"elapsed_s\"", &format!("\"sites\":[{site}],\"elapsed_s\""));
        assert!(error(&overflowing).to_string().contains("64 bits"));
        for address in ["12", "0x", "0x+1", "0xg", "0x11112222333344445"] {
            let frame = format!(r#"{{"address":"{address}"}}"#);
            let site = format!(r#"{{"pid":1,"outstanding_bytes":1,"outstanding_count":1,"stack":[{frame}]}}"#);
            let text = MINIMAL.replace("\"elapsed_s\"", &format!("\"sites\":[{site}],\"elapsed_s\""));
            assert!(error(&text).to_string().contains("hexadecimal"), "{address}");
        }
    }

    const TABLE: &str = r#"{"schema":"leaktrace/2","started":"2026-01-31T12:00:00Z","elapsed_s":1.5,
        "target":{"mode":"system"},"frames":[{"function":"f","address":"0x1"},{"function":"main","address":"0x2"}],
        "sites":[{"pid":1,"outstanding_bytes":1,"outstanding_count":1,"stack":[0,1]},
                 {"pid":1,"outstanding_bytes":1,"outstanding_count":1,"stack":[1]}]}"#;

    #[test]
    fn stacks_are_looked_up_in_the_table() {
        let snapshot = Snapshot::from_json(TABLE.as_bytes()).unwrap();
        let names: Vec<_> = snapshot.sites[0].stack.iter().map(|frame| frame.function.as_deref()).collect();
        assert_eq!(names, [Some("f"), Some("main")]);
        assert!(Arc::ptr_eq(&snapshot.sites[0].stack[1], &snapshot.sites[1].stack[0]), "shared, not copied");
    }

    #[test]
    fn a_place_outside_the_table_is_refused() {
        for wrong in ["[2]", "[0,4294967295]", "[-1]", "[0.5]", "[4294967296]", "[\"f\"]", "[{}]"] {
            let error = error(&TABLE.replace("[0,1]", wrong));
            assert!(matches!(error, SnapshotError::Broken { .. }), "{wrong}: {error}");
        }
        assert!(error(&TABLE.replace("[0,1]", "[2]")).to_string().contains("no frame 2 in a table of 2"));
        // Without a table there is nothing to name.
        assert!(matches!(error(&TABLE.replace("\"frames\"", "\"other\"")), SnapshotError::Broken { .. }));
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
