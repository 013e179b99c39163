//! The places at which programs tell of samples of their own: where each has its arguments, for the programs that run there.

use std::collections::HashMap;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use leaktrace_common::drawn::{MAX_SAMPLE_PLACES, SampleArgument, SampleArguments};

use super::probe::Probe;

/// Numbers for ways in which arguments are given; places with the same have one number.
#[derive(Debug, Default)]
pub struct SamplePlaces(HashMap<SampleArguments, u32>);

impl SamplePlaces {
    /// Gives each of these probes that tells of a sample its number.
    ///
    /// # Errors
    /// There are too many ways, or the programs cannot be told.
    pub fn number(&mut self, ebpf: &mut Ebpf, probes: &mut [Probe]) -> Result<()> {
        for probe in probes {
            if let Some(arguments) = probe.arguments {
                probe.placement = Some(u64::from(self.number_of(ebpf, arguments)?));
            }
        }
        Ok(())
    }

    fn number_of(&mut self, ebpf: &mut Ebpf, arguments: SampleArguments) -> Result<u32> {
        if let Some(number) = self.0.get(&arguments) {
            return Ok(*number);
        }
        let number = self.0.len() as u32;
        if number >= MAX_SAMPLE_PLACES {
            anyhow::bail!(
                "programs have their arguments in more than {MAX_SAMPLE_PLACES} ways at otel_memory's probes"
            );
        }
        let map = ebpf.map_mut("SAMPLE_ARGUMENTS").context("the BPF object has no map SAMPLE_ARGUMENTS")?;
        let mut map = Array::<&mut MapData, [SampleArgument; 3]>::try_from(map)?;
        map.set(number, arguments, 0).context("cannot fill the BPF map SAMPLE_ARGUMENTS")?;
        self.0.insert(arguments, number);
        Ok(number)
    }
}
