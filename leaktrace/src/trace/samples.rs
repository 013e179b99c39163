//! What is different where programs draw the sample themselves: at what distance, and what of a stack is the sampler's own.

use super::Trace;
use super::capture::Spaces;
use crate::model::{Address, Capture};
use crate::process::maps::AddressSpace;
use crate::sources::samples::Books;

impl Trace {
    /// Takes in at what distance the programs have drawn so far.
    pub(super) fn note_distance(&mut self) {
        if self.options.sampler {
            self.options.sample_bytes = self.kernel.drawn_at().or(self.options.sample_bytes);
        }
    }

    /// Has stacks begin with the caller of the library that has drawn their blocks. A stack that lies in it as a whole stays so.
    pub(super) fn leave_sampler_out(&self, capture: &mut Capture, spaces: &Spaces) {
        if self.options.sampler {
            capture.tells_earlier = self.prober.tell_earlier();
            self.read_books(capture, spaces);
        }
        if !self.prober.any_draws() {
            return;
        }
        for site in &mut capture.sites {
            let Some(space) = capture.processes.get(site.process).and_then(|process| spaces.get(process.life)) else {
                continue;
            };
            let is_sampler = |frame: &Address| {
                // Return addresses may lie behind the function that they return to.
                let object = space.locate(Address(frame.0.saturating_sub(1))).and_then(|location| location.object);
                object.is_some_and(|object| self.prober.draws(object.id()))
            };
            let own = site.frames.iter().take_while(|frame| is_sampler(frame)).count();
            if own < site.frames.len() {
                site.frames.drain(..own);
            }
        }
    }

    /// Has the report say what samplers in living processes have lost.
    fn read_books(&self, capture: &mut Capture, spaces: &Spaces) {
        let alive = capture.processes.iter().filter(|process| !process.exited && process.merged == 0);
        let places = alive.filter_map(|process| {
            let address = self.books_in(spaces.get(process.life)?)?;
            Some((format!("{} (pid {})", process.comm, process.pid), (process.pid, address)))
        });
        let (whose, places): (Vec<String>, Vec<_>) = places.unzip();
        if places.is_empty() {
            return;
        }
        match Books::read(places) {
            Some(books) => {
                let found = whose.iter().zip(books).filter_map(|(whose, books)| Some((whose, books?)));
                capture.warnings.extend(found.flat_map(|(whose, books)| books.warnings(whose)));
            }
            None => capture.warnings.push("what the samplers have lost could not be read".to_owned()),
        }
    }

    /// Where in a process the books of leaktrace's sampler are.
    fn books_in(&self, space: &AddressSpace) -> Option<Address> {
        space.mappings().find_map(|location| {
            let object = location.object?;
            let books = self.prober.sampler_state(object.id())?;
            let begin = object.virtual_address(location.offset)?;
            Some(Address(books.wrapping_sub(begin).wrapping_add(location.start.0)))
        })
    }
}
