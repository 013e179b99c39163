//! Parts of a process' memory that were copied at another moment, to be taken for what is there now.

/// Copies, by address, disjoint.
#[derive(Debug, Default)]
pub struct Overlay(Vec<(u64, Vec<u64>)>);

impl Overlay {
    /// Adds a copy of memory from `start` on, a multiple of 8 bytes. What another copy has already is left out.
    pub fn add(&mut self, start: u64, words: Vec<u64>) {
        let place = self.0.partition_point(|copy| copy.0 < start);
        let is_free_before = place.checked_sub(1).is_none_or(|before| end(&self.0[before]) <= start);
        let next = self.0.get(place).map_or(u64::MAX, |copy| copy.0);
        if is_free_before && start + bytes(&words) <= next {
            self.0.insert(place, (start, words));
        }
    }

    /// Replaces what was copied of the memory from `address` on, a multiple of 8 bytes.
    pub fn lay_over(&self, address: u64, words: &mut [u64]) {
        let to = address.saturating_add(bytes(words));
        let first = self.0.partition_point(|copy| end(copy) <= address);
        for (start, copied) in self.0[first..].iter().take_while(|copy| copy.0 < to) {
            let (from, to) = (address.max(*start), to.min(start + bytes(copied)));
            let here = ((from - address) / 8) as usize..((to - address) / 8) as usize;
            let there = ((from - start) / 8) as usize..((to - start) / 8) as usize;
            words[here].copy_from_slice(&copied[there]);
        }
    }
}

fn bytes(words: &[u64]) -> u64 {
    size_of_val(words) as u64
}

fn end((start, words): &(u64, Vec<u64>)) -> u64 {
    start + bytes(words)
}

#[cfg(test)]
mod tests {
    use super::Overlay;

    #[test]
    fn copies_take_the_place_of_what_is_there() {
        let mut overlay = Overlay::default();
        overlay.add(0x1020, vec![5, 6]);
        overlay.add(0x1000, vec![1, 2]);
        overlay.add(0x1028, vec![9, 9]);
        overlay.add(0x0ff8, vec![8, 8]);
        let read = |address, count| -> Vec<u64> {
            let mut words = vec![0; count];
            overlay.lay_over(address, &mut words);
            words
        };
        assert_eq!(read(0x0ff8, 8), [0, 1, 2, 0, 0, 5, 6, 0], "the first copy of each place counts");
        assert_eq!(read(0x1008, 4), [2, 0, 0, 5]);
        assert_eq!(read(0x1028, 1), [6]);
        assert_eq!(read(0x1030, 2), [0, 0]);
        assert!(read(0x1010, 0).is_empty());
    }
}
