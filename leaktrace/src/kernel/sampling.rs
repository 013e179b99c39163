//! Fills the tables by which the BPF programs sample; [`crate::model::sampling`] computes their values.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::Array;

use crate::model::sampling;

/// Fills the maps for this mean distance in bytes.
///
/// # Errors
/// The object lacks a table, or the kernel does not take it.
pub fn fill(ebpf: &mut Ebpf, mean: u64) -> Result<()> {
    for (name, values) in [("SAMPLE_GAPS", sampling::gaps(mean)), ("SAMPLE_WEIGHTS", sampling::factors())] {
        let map = ebpf.map_mut(name).with_context(|| format!("the BPF object has no map {name}"))?;
        let mut array: Array<_, u64> = Array::try_from(map)?;
        for (index, value) in (0..).zip(values) {
            array.set(index, value, 0).with_context(|| format!("cannot fill the BPF map {name}"))?;
        }
    }
    Ok(())
}
