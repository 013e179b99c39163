//! Writing a snapshot in one of its forms, without a copy of what it holds.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::Schema;
use super::forms::{Document, HiddenForm, SiteForm, SuppressionForm};
use crate::model::hidden::Suppressed;
use crate::model::snapshot::{Site, Snapshot};
use crate::model::stack_state::StackState;
use crate::model::suppression::Hidden;
use crate::model::types::Frame;

/// A snapshot as it is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// What to write.
    pub snapshot: &'a Snapshot,
    /// In which form.
    pub schema: Schema,
    /// Whether sites without outstanding blocks are written, too.
    pub all_sites: bool,
}

impl<'a> Serialize for Written<'a> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.schema {
            Schema::V1 => self.document(|site| Cow::Borrowed(site.stack.as_slice())).serialize(serializer),
            Schema::V2 => {
                let mut table = Table::default();
                let mut places = HashMap::new();
                // Most frames are shared by many stacks, and comparing pointers is faster than comparing frames.
                let mut place =
                    |frame: &'a Arc<Frame>| *places.entry(Arc::as_ptr(frame)).or_insert_with(|| table.place(frame));
                let mut document = self.document(|site| site.stack.iter().map(&mut place).collect::<Vec<_>>());
                document.frames = Some(table.frames);
                document.serialize(serializer)
            }
        }
    }
}

impl<'a> Written<'a> {
    fn document<S>(&self, mut stack: impl FnMut(&'a Site) -> S) -> Document<'a, S> {
        // Destructured so that a field added later cannot be forgotten here.
        let Snapshot {
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
            sites,
            sites_left_out,
            stacks,
            timeline,
            untraced,
            losses,
            warnings,
            notes,
            recommendations,
        } = self.snapshot;
        let kept = |site: &&Site| self.all_sites || site.is_outstanding();
        let suppressed = self.snapshot.suppressed();
        let places: HashMap<_, _> = suppressed.iter().enumerate().map(|(at, it)| (Arc::as_ptr(&it.rule), at)).collect();
        let hidden = |site: &Site| -> Vec<HiddenForm> {
            let place = |hidden: &Hidden| {
                let kinds = site.verdict.is_some().then_some(hidden.kinds);
                Some(HiddenForm { rule: *places.get(&Arc::as_ptr(&hidden.rule))?, kinds })
            };
            site.suppressed.iter().filter(|hidden| site.hidden_by(hidden).count > 0).filter_map(place).collect()
        };
        let written = |site| SiteForm { suppressed_by: hidden(site), ..form(site, stack(site)) };
        let sites_in: Vec<_> = sites.iter().filter(kept).map(written).collect();
        Document {
            schema: Cow::Borrowed(self.schema.name()),
            leaktrace_version: Cow::Borrowed(leaktrace_version),
            started: *started,
            elapsed: *elapsed,
            sequence: *sequence,
            is_final: *is_final,
            sampled: *sampled,
            outstanding_bytes_ci95: *outstanding_bytes_ci95,
            target: Cow::Borrowed(target),
            options: Cow::Borrowed(options),
            reproduction: reproduction.as_ref().map(Cow::Borrowed),
            bursts: *bursts,
            processes: Cow::Borrowed(processes),
            frames: None,
            sites_left_out: *sites_left_out + (sites.len() - sites_in.len()) as u64,
            sites: sites_in,
            stacks: *stacks,
            timeline: timeline.as_ref().map(Cow::Borrowed),
            suppressions: suppressed.iter().map(suppression).collect(),
            untraced: Cow::Borrowed(untraced),
            losses: Cow::Borrowed(losses),
            warnings: Cow::Borrowed(warnings),
            notes: Cow::Borrowed(notes),
            recommendations: Cow::Borrowed(recommendations),
        }
    }
}

fn suppression(suppressed: &Suppressed) -> SuppressionForm<'static> {
    SuppressionForm {
        name: Cow::Owned(suppressed.rule.name.clone()),
        source: Cow::Owned(suppressed.rule.source.clone()),
        bytes: suppressed.hidden.bytes,
        count: suppressed.hidden.count,
        sites: suppressed.sites,
    }
}

fn form<S>(site: &Site, stack_form: S) -> SiteForm<'_, S> {
    let Site {
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
        suppressed,
        type_name,
        holders,
        pinned_bytes,
        trend,
        growth_bytes_per_s,
        growth,
        truncated,
        stack_state,
        sampled,
        outstanding_bytes_ci95,
        stack: _,
        blocks,
    } = site;
    let first = suppressed.iter().find(|hidden| site.hidden_by(hidden).count > 0);
    let shown = site.shown();
    SiteForm {
        pid: *pid,
        process: *process,
        id: *id,
        outstanding_bytes: *outstanding_bytes,
        outstanding_count: *outstanding_count,
        alloc_bytes: *alloc_bytes,
        alloc_count: *alloc_count,
        free_bytes: *free_bytes,
        free_count: *free_count,
        temporary_count: *temporary_count,
        oldest: *oldest,
        youngest: *youngest,
        ages: ages.clone(),
        sizes: sizes.clone(),
        verdict: *verdict,
        ignored: *ignored,
        suppressed: first.map(|hidden| Cow::Borrowed(hidden.rule.name.as_str())),
        suppressed_bytes: outstanding_bytes.saturating_sub(shown.bytes),
        suppressed_count: outstanding_count.saturating_sub(shown.count),
        suppressed_by: Vec::new(),
        type_name: type_name.clone(),
        holders: holders.as_deref().map(Cow::Borrowed),
        pinned_bytes: *pinned_bytes,
        trend: *trend,
        growth_bytes_per_s: *growth_bytes_per_s,
        growth: growth.as_ref().map(Cow::Borrowed),
        truncated: *truncated,
        // Readers of the schema know three states.
        stack_state: stack_state.map(|state| match state.settled() {
            StackState::Guessed | StackState::Unsure => StackState::Gap,
            state => state,
        }),
        guessed: *stack_state == Some(StackState::Guessed),
        unsure: *stack_state == Some(StackState::Unsure),
        sampled: *sampled,
        outstanding_bytes_ci95: *outstanding_bytes_ci95,
        stack: stack_form,
        blocks: blocks.as_deref().map(Cow::Borrowed),
    }
}

/// The frames of all stacks, each once, in the order of their first appearance.
#[derive(Default)]
pub(super) struct Table<'a> {
    pub frames: Vec<Cow<'a, Frame>>,
    places: HashMap<&'a Frame, u32>,
}

impl<'a> Table<'a> {
    pub fn place(&mut self, frame: &'a Frame) -> u32 {
        match self.places.entry(frame) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                // As many frames as 32 bits count take a terabyte.
                let place = *entry.insert(self.frames.len() as u32);
                self.frames.push(Cow::Borrowed(frame));
                place
            }
        }
    }
}
