//! Which of many are kept or drawn, where there is not room for all.
//!
//! In: by what each is ranked. Out: the largest, and few of those that leak faster than they are large.

use std::cmp::Reverse;

/// What leaks and is not among the largest takes the place of the smallest of them, at most so many times.
pub const LEAKS: usize = 2;

/// One of many.
pub struct Candidate<T> {
    /// What it is.
    pub of: T,
    /// The most that it ever had, bytes.
    pub most: u64,
    /// How fast it leaks, if it does, bytes a second.
    pub leak: Option<f64>,
}

/// At most so many of them, the largest first; of equal ones in their order. The fastest leaks are among them.
pub fn largest<T>(mut all: Vec<Candidate<T>>, room: usize) -> Vec<Candidate<T>> {
    all.sort_by_key(|candidate| Reverse(candidate.most));
    let mut leaks: Vec<(f64, usize)> =
        all.iter().enumerate().filter_map(|(place, candidate)| Some((candidate.leak?, place))).collect();
    leaks.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let beyond: Vec<usize> =
        leaks.into_iter().take(LEAKS).map(|(_, place)| place).filter(|place| *place >= room).collect();
    let among = room.saturating_sub(beyond.len());
    let mut place = 0..all.len();
    all.retain(|_| place.next().is_some_and(|place| place < among || beyond.contains(&place)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(all: &[(u64, Option<f64>)], room: usize) -> Vec<usize> {
        let candidate = |(of, (most, leak)): (usize, &(u64, Option<f64>))| Candidate { of, most: *most, leak: *leak };
        largest(all.iter().enumerate().map(candidate).collect(), room).into_iter().map(|chosen| chosen.of).collect()
    }

    #[test]
    fn the_largest_are_chosen_and_the_two_fastest_leaks() {
        assert_eq!(chosen(&[(5, None), (9, None), (9, None), (7, None)], 3), [1, 2, 3]);
        let leaks = [(1, Some(2.0)), (90, None), (80, None), (70, None), (2, Some(9.0)), (3, Some(4.0))];
        assert_eq!(chosen(&leaks, 3), [1, 5, 4], "the third leak has no place");
        assert_eq!(chosen(&[(9, Some(5.0)), (8, None), (7, Some(4.0)), (1, Some(1.0))], 3), [0, 1, 2]);
        assert_eq!(chosen(&leaks[..1], 3), [0]);
    }
}
