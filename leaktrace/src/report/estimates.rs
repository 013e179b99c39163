//! How estimates from a sample are written, so that nobody takes them for exact: with a tilde, and with the interval that
//! holds the truth 95 times in 100.

use super::human::{Bytes, counted};
use super::net_flow;
use crate::model::{Snapshot, sampling};

/// An amount in words: `1.2 MiB`; for a sample `~1.2 MiB (95%: 1.0 MiB to 1.5 MiB)`, with the interval if it is known.
pub fn bytes(bytes: u64, sampled: bool, interval: Option<[u64; 2]>) -> String {
    match (sampled, interval) {
        (false, _) => Bytes(bytes).to_string(),
        (true, None) => format!("~{}", Bytes(bytes)),
        (true, Some([low, high])) => format!("~{} (95%: {} to {})", Bytes(bytes), Bytes(low), Bytes(high)),
    }
}

/// A number of allocations in words, with a tilde where it is an estimate.
pub fn allocations(count: u64, sampled: bool) -> String {
    format!("{}{}", if sampled { "~" } else { "" }, counted(count, "allocation"))
}

/// What may be outstanding though no byte of it was hit: less than this 95 times in 100. `None` if nothing can be.
pub fn unseen(snapshot: &Snapshot) -> Option<u64> {
    snapshot.options.sample_bytes.filter(|_| snapshot.sampled).map(sampling::overlooked)
}

/// A note that the numbers are estimates, and of what kind of sample; `None` if they are exact.
pub fn note(snapshot: &Snapshot) -> Option<String> {
    net_flow::note(snapshot).or_else(|| sampled(snapshot))
}

fn sampled(snapshot: &Snapshot) -> Option<String> {
    snapshot.sampled.then(|| match snapshot.options.sample_bytes {
        Some(mean) if snapshot.options.sampler => {
            format!(
                "estimated from a sample that the programs draw themselves, one byte in {} hit or more",
                Bytes(mean)
            )
        }
        Some(mean) => format!("estimated from a sample, one byte in {} hit", Bytes(mean)),
        None => "estimated from a sample".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_never_reads_as_an_exact_number() {
        assert_eq!(bytes(1 << 20, false, None), "1.0 MiB");
        assert_eq!(bytes(1 << 20, true, None), "~1.0 MiB");
        let interval = Some([524_288, 3 << 19]);
        assert_eq!(bytes(1 << 20, true, interval), "~1.0 MiB (95%: 512.0 KiB to 1.5 MiB)");
        assert_eq!(
            (allocations(1, false), allocations(1234, true)),
            ("1 allocation".into(), "~1,234 allocations".into())
        );
    }
}
