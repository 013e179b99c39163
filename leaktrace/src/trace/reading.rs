//! Reads what a report says: the tables, and what is known of the processes. Between pieces of an interim report the trace
//! handles its events; the last report is read in one go.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Trace;
use super::capture::{Draft, Occasion, Spaces};
use super::growing::chosen;
use super::heaps;
use super::remarks::{self, Found, Remarks};
use super::verdict::findings::{Findings, Judged};
use super::verdict::pause;
use crate::config::Whom;
use crate::kernel::drain;
use crate::model::{Capture, EventKind, Pid, RawProcess, Silence, TraceMode};

/// How long an interim report is read before pending events are handled.
const TURN: Duration = Duration::from_millis(3);
/// Sites per piece: so many take well less than a millisecond.
const SITES: usize = 256;

/// Beside verdicts that not all blocks could take part in.
const OF_SIZES: &str = "what only blocks point to that --min-size or --max-size leaves out may be undecided; leave these options out for a \
                        verdict on all";

/// When pending events were last handled; `None` for the last report, which handles none.
struct Attention(Option<Instant>);

impl Trace {
    /// Reads the tables and what else a report says of the traced processes, with their address spaces as of now.
    ///
    /// While an interim report is read new processes are attached, but none gets the slot of an ended one. `findings` are what
    /// leak checks found just before.
    pub(super) fn read(&mut self, is_final: bool, mut findings: Findings) -> Result<(Capture, Spaces)> {
        self.sequence += 1;
        self.reclaim()?;
        if !is_final {
            self.refresh(TURN);
            self.tell_replaced();
        }
        self.make_up_for_lost_records(!is_final)?;
        let occasion =
            Occasion { started: self.started, elapsed: self.since.elapsed(), sequence: self.sequence, is_final };
        let mut attention = Attention((!is_final).then(Instant::now));
        let lives: Vec<_> = drain::lives(&self.kernel).into_iter().map(|(slot, life)| (slot, life.seen_ns)).collect();
        self.second_look.retain(|life| lives.contains(&life));
        self.second_look.at_report(&self.kernel);
        findings.retain(&lives);
        if !findings.judged.is_empty() && self.options.filters_sizes() {
            findings.warnings.push(OF_SIZES.to_owned());
        }
        if let Ok(plan) = &self.config.leak_check {
            let judged = findings.judged.iter();
            let overruns = judged.filter_map(|judged| pause::overrun(judged.life.pid, judged.check.pause, plan));
            findings.warnings.extend(overruns);
        }
        for judged in &findings.judged {
            self.history.note(occasion.elapsed, judged.life.pid, EventKind::LeakCheck);
        }
        let draft = self.read_tables(&occasion, findings.judged, &mut attention)?;
        let mut found = Found::default();
        for process in &draft.processes {
            found.add(process, &self.processes, &self.prober, self.untraced.begun_ns());
            self.attend(&mut attention);
        }
        let Remarks { notes, warnings } = found.remarks();
        let written = self.written_to(&draft.processes);
        self.note_distance();
        let (mut capture, spaces) = draft.finish(&occasion, &self.target, &self.options);
        self.leave_sampler_out(&mut capture, &spaces);
        capture.bursts = self.bursts();
        capture.untraced = self.list_untraced();
        heaps::mark_partly_traced(&mut capture.processes, &capture.untraced);
        if capture.saw_nothing() {
            self.watch_growth();
            let then = self.growth.then(self.processes.going_on());
            capture.silence = remarks::of_silence(&then, self.left_out);
            let alive: Vec<Pid> = match &self.config.whom {
                Whom::Filtered(filters) => chosen(filters, &self.processes).iter().map(|life| life.pid).collect(),
                _ => self.processes.reported_alive().into_iter().map(|(_, pid)| pid).collect(),
            };
            capture.silence.extend(remarks::of_standstill(&alive));
            if self.target.mode == TraceMode::Filter && capture.untraced.is_empty() && self.growth.none_passed() {
                capture.silence.push(Silence::none_matched(&self.target));
            }
        } else if is_final && self.options.sample_bytes.is_none() && self.bursting.is_none() {
            self.watch_growth();
            let then = self.growth.then(self.processes.going_on());
            capture.warnings.extend(remarks::of_growth(&then, &capture.processes));
        }
        capture.notes.extend(notes);
        capture.warnings.extend(self.warnings.iter().cloned().chain(findings.warnings).chain(warnings));
        capture.warnings.extend(remarks::of_written(&written));
        capture.warnings.extend(self.history.warning());
        capture.warnings.extend(self.alerts.for_report(is_final, occasion.elapsed));
        if is_final {
            let missing = self.prober.missing();
            // Where standard output has no text report, the warnings of the last report go to standard error anyway.
            if self.config.outputs.text_on_stdout() {
                for warning in &missing {
                    log::warn!("{warning}");
                }
            }
            capture.warnings.extend(missing);
        }
        capture.losses.events_lost += self.lost_records - self.made_up_records;
        Ok((capture, spaces))
    }

    /// The files that lost their probes since they were written to. Where processes are chosen by filters, probes are in all, and
    /// only files that the chosen map concern the report.
    fn written_to(&self, processes: &[RawProcess]) -> Vec<PathBuf> {
        let is_mapped = |path: &Path| {
            let mut spaces = processes.iter().filter_map(|process| self.processes.space(process.life));
            spaces.any(|space| space.mappings().any(|location| **location.module == *path))
        };
        let concerns = |path: &&PathBuf| self.target.mode != TraceMode::Filter || is_mapped(path);
        self.prober.written().filter(concerns).cloned().collect()
    }

    fn read_tables(&mut self, occasion: &Occasion, judged: Vec<Judged>, attention: &mut Attention) -> Result<Draft> {
        let mut accounts = Vec::new();
        for piece in drain::site_pieces(&self.kernel) {
            accounts.extend(drain::accounts(&self.kernel, piece));
            self.attend(attention);
        }
        // Applies the layouts under which these accounts were booked.
        self.take_in();
        let mut draft = Draft::begin(&self.kernel, &mut self.processes, &mut accounts)?;
        draft.look_back(&self.kernel, &self.history, occasion.elapsed);
        for (number, account) in accounts.into_iter().enumerate() {
            draft.add(&self.kernel, &self.history, account);
            if number % SITES == 0 {
                self.attend(attention);
            }
        }
        draft.follow(&self.kernel, &self.history, occasion.elapsed);
        if let Some(bursting) = &self.bursting {
            draft.add_flows(&self.kernel, |slot, seen_ns| bursting.net_flow(slot, seen_ns));
        }
        draft.judge(judged);
        draft.take_back(self.second_look.taken_back());
        let pieces = draft.block_pieces(&self.kernel, occasion, &self.options);
        draft.heaps = self.heaps(&draft, occasion);
        for piece in pieces {
            draft.add_blocks(&self.kernel, &piece);
            self.attend(attention);
        }
        for process in 0..draft.processes.len() {
            let life = draft.processes[process].life;
            for piece in (0..self.processes.remains(life).len()).step_by(SITES) {
                let left = self.processes.remains(life).iter().skip(piece).take(SITES);
                left.for_each(|site| draft.add_dead(process, site));
                self.attend(attention);
            }
        }
        Ok(draft)
    }

    /// Handles pending events once [`TURN`] has passed: new processes are attached, and their unwind tables used.
    fn attend(&mut self, attention: &mut Attention) {
        if attention.0.is_none_or(|last| last.elapsed() < TURN) {
            return;
        }
        self.take_in();
        while let Some(built) = self.unwinding.built_by_now() {
            self.unwinding.take(&self.kernel, built);
        }
        while let Some(progress) = self.prober.progress_by_now() {
            if let Err(error) = self.prober.settle(&mut self.kernel, progress) {
                log::warn!("{error:#}");
            }
        }
        attention.0 = Some(Instant::now());
    }
}
