//! The loop: take an input that is known, damage it, run it, and keep it where it reaches code that none before has reached.

use crate::coverage::Coverage;
use crate::mutate::Mutator;
use crate::random::Random;
use crate::slot::Slot;
use crate::targets::{Target, endings};
use crate::{Args, corpus, limits};
use anyhow::{Context as _, Result};
use std::path::Path;
use std::time::{Duration, Instant};

/// A thread of leaktrace has so much stack (std's default), bytes; the first thread of a process has four times that.
const STACK: usize = 2 << 20;
/// As many damages on top of each other.
const MOST_DAMAGES: usize = 12;
/// The inputs kept last are chosen as often as all others together.
const RECENT: usize = 32;

/// Tries inputs for as long as was asked for.
pub fn run(args: &Args, slot: &Path) -> Result<()> {
    let target = args.target;
    let mut known = Vec::new();
    if target.name != endings::NAME {
        known.extend(corpus::read(&corpus::seeds(target.name))?);
    }
    if let Some(dir) = &args.corpus {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        known.extend(corpus::read(dir)?);
    }
    let run = Run {
        target,
        slot: Slot::open(slot)?,
        coverage: Coverage::new(),
        random: Random::new(args.seed.unwrap_or_default()),
        known: Vec::new(),
        kept: args.corpus.clone(),
        tried: 0,
    };
    let duration = Duration::from_secs(args.seconds);
    on_small_stack(move || run.until(&known, duration))?
}

/// Runs something where it has no more stack than in leaktrace.
pub fn on_small_stack<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(what).context("starting a thread")?;
    thread.join().map_err(|_| anyhow::anyhow!("the input made its thread panic"))
}

struct Run {
    target: &'static Target,
    slot: Slot,
    coverage: Coverage,
    random: Random,
    known: Vec<Vec<u8>>,
    /// Where inputs that reach new code are written to.
    kept: Option<std::path::PathBuf>,
    tried: u64,
}

impl Run {
    fn until(mut self, seeds: &[Vec<u8>], duration: Duration) -> Result<()> {
        limits::guard(self.target);
        let begun = Instant::now();
        for seed in seeds {
            self.try_one(seed);
            self.known.push(seed.clone());
        }
        let mut input = Vec::new();
        while begun.elapsed() < duration {
            self.choose().clone_into(&mut input);
            let mut mutator = Mutator { random: &mut self.random, known: &self.known, shape: self.target.shape };
            // Mostly few.
            let most = 1 + mutator.random.below(MOST_DAMAGES);
            for _ in 0..=mutator.random.below(most) {
                mutator.damage(&mut input);
            }
            input.truncate(self.target.longest);
            if self.try_one(&input) {
                if let Some(dir) = &self.kept {
                    let path = dir.join(corpus::name(self.target.name, &input));
                    std::fs::write(&path, &input).with_context(|| format!("writing {}", path.display()))?;
                }
                self.known.push(input.clone());
            }
        }
        println!(
            "   {}: {} inputs in {} s; {} of {} places reached, by {} inputs of which {} are seeds",
            self.target.name,
            self.tried,
            begun.elapsed().as_secs(),
            self.coverage.reached(),
            self.coverage.places(),
            self.known.len(),
            seeds.len(),
        );
        Ok(())
    }

    /// Runs an input; whether it reached something new.
    fn try_one(&mut self, input: &[u8]) -> bool {
        self.tried += 1;
        self.slot.write(input);
        self.coverage.reset();
        limits::one(|| (self.target.run)(input));
        self.coverage.is_new()
    }

    /// An input to begin with: of two, mostly the shorter one.
    fn choose(&mut self) -> &[u8] {
        const NOTHING: &[u8] = &[];
        if self.known.is_empty() {
            return NOTHING;
        }
        let random = &mut self.random;
        let all = &self.known[..];
        let recent = &all[all.len().saturating_sub(RECENT)..];
        let from = if random.once_in(2) { recent } else { all };
        let (one, other) = (random.pick(from), random.pick(from));
        let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
        if random.once_in(4) { long } else { short }
    }
}
