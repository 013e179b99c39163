//! What a report says, read at one moment: the tables, and what is known of the processes.

use anyhow::Result;

use super::Trace;
use super::capture::{self, Occasion};
use super::remarks::{self, Remarks};
use crate::kernel::drain;
use crate::model::Capture;

impl Trace {
    /// Reads the tables, and what else a report says of the traced processes.
    pub(super) fn read(&mut self, is_final: bool) -> Result<Capture> {
        self.sequence += 1;
        if !is_final {
            self.refresh();
        }
        self.reclaim()?;
        self.make_up_for_lost_records(!is_final)?;
        let occasion =
            Occasion { started: self.started, elapsed: self.since.elapsed(), sequence: self.sequence, is_final };
        let accounts = drain::accounts(&self.kernel);
        // What lay where when they were booked.
        self.take_in();
        let (kernel, processes) = (&self.kernel, &mut self.processes);
        let mut capture = capture::capture(kernel, accounts, processes, &occasion, &self.target, &self.options)?;
        let Remarks { notes, warnings } = remarks::of(&capture.processes, &self.processes, &self.prober);
        capture.untraced = self.list_untraced();
        if capture.saw_nothing() {
            self.watch_growth();
            let then = self.growth.then(self.processes.going_on());
            capture.silence = remarks::of_silence(&then, self.left_out);
        } else if is_final && self.options.sample_bytes.is_none() {
            self.watch_growth();
            let then = self.growth.then(self.processes.going_on());
            capture.warnings.extend(remarks::of_growth(&then, &capture.processes));
        }
        capture.notes.extend(notes);
        capture.warnings.extend(self.warnings.iter().cloned().chain(warnings));
        capture.losses.events_lost += self.lost_records - self.made_up_records;
        Ok(capture)
    }
}
