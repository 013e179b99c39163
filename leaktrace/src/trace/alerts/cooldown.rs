//! That no alert is repeated at once: one of a kind about a process in five minutes. Pure.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::commands::About;

/// How long there is no other.
const COOLDOWN: Duration = Duration::from_mins(5);
/// By how much two readings of a process' start may differ: it is known in hundredths of a second, or by another clock.
const SAME_START: SignedDuration = SignedDuration::from_secs(2);

/// The last alerts: when, and when the process had started.
#[derive(Default)]
pub(super) struct Cooldown {
    last: HashMap<About, (Duration, Option<Timestamp>)>,
}

impl Cooldown {
    /// Whether there may be an alert at this time since the trace began; if so, there is one. A number may have come to mean another
    /// process, which has started later. By another program it is still the same.
    pub(super) fn allows(&mut self, about: About, started: Option<Timestamp>, at: Duration) -> bool {
        self.last.retain(|_, (then, _)| at.saturating_sub(*then) < COOLDOWN);
        let is_other = |then: Timestamp| started.is_some_and(|now| now.duration_since(then).abs() > SAME_START);
        if self.last.get(&about).is_some_and(|(_, then)| !then.is_some_and(is_other)) {
            return false;
        }
        self.last.insert(about, (at, started));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::course::Kind;
    use super::*;
    use crate::model::Pid;

    #[test]
    fn there_is_one_in_five_minutes_of_a_process_and_kind() {
        let (mut cooldown, about) = (Cooldown::default(), (Pid(7), Kind::Bytes));
        let started = Some(Timestamp::from_second(1_000_000).unwrap());
        let mut at = |seconds, about, started| cooldown.allows(about, started, Duration::from_secs(seconds));
        assert!(at(1, about, started));
        assert!(!at(2, about, started) && !at(300, about, started));
        assert!(at(2, (Pid(7), Kind::Rate), started) && at(2, (Pid(8), Kind::Bytes), started));
        assert!(at(301, about, started) && !at(302, about, started));
        // Read by another clock, or not at all.
        let nearly = Some(Timestamp::from_millisecond(1_000_000_990).unwrap());
        assert!(!at(303, about, nearly) && !at(303, about, None));
        let later = Some(Timestamp::from_second(1_000_300).unwrap());
        assert!(at(303, about, later), "another process of this number");
        assert!(!at(304, about, later));
    }
}
