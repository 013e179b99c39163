//! One sample: walk it three ways and compare.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Unwinder};
use leaktrace::model::Pid;
use leaktrace::unwind_tables::{Code, CodeMapping, PoolWriter, Registry, UnwindTable};
use leaktrace_common::unwind::{CHUNK_WORDS, Chunk, ProcessWord, Regs, Stop, Walk, find_rule, step, step_plain};
use object::{Object, ObjectSection, ObjectSymbol};

use crate::reference::{self, End, Mapped, Module};
use crate::tracee::{ExecMapping, Registers, Tracee};

/// Chunks of the pool under test: 64 MiB.
const POOL: u32 = 16 << 10;

/// Depth to which walks are compared; deeper than the oracle goes.
const MAX_FRAMES: usize = 2000;

/// What came of the samples.
#[derive(Default)]
pub struct Tally {
    pub samples: u32,
    /// Samples left out, as somebody traces the whole system meanwhile.
    hidden: u32,
    /// Our frames and our end are gimli's.
    equal: u32,
    /// Our walk reached the outermost frame.
    complete: u32,
    /// gimli's did.
    reference_complete: u32,
    /// framehop walked to an end, and its frames are ours.
    framehop_equal: u32,
    framehop_complete: u32,
    ends: BTreeMap<Stop, u32>,
    differences: Vec<String>,
}

impl Tally {
    /// Adds another tally's numbers.
    pub fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.hidden += other.hidden;
        self.equal += other.equal;
        self.complete += other.complete;
        self.reference_complete += other.reference_complete;
        self.framehop_equal += other.framehop_equal;
        self.framehop_complete += other.framehop_complete;
        for (stop, count) in other.ends {
            *self.ends.entry(stop).or_default() += count;
        }
        self.differences.extend(other.differences);
    }

    /// The bar: at least 99.9 % equal, at least 99.5 % complete.
    pub fn assert_good(&self) {
        let message = || format!("{self}\n{}", self.differences.join("\n"));
        assert!(self.equal * 1000 >= self.samples * 999, "{}", message());
        assert!(self.complete * 1000 >= self.samples * 995, "{}", message());
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} samples ({} hidden): {} equal to gimli's, {} complete (gimli {}), {} of framehop's {} complete ones equal; ends: {:?}",
            self.samples,
            self.hidden,
            self.equal,
            self.complete,
            self.reference_complete,
            self.framehop_equal,
            self.framehop_complete,
            self.ends
        )
    }
}

/// A pool in memory.
struct Pool(Vec<Chunk>);

impl PoolWriter for Pool {
    fn write(&mut self, first_chunk: u32, words: &[u64]) {
        let first = first_chunk as usize;
        self.0[first..first + words.len() / CHUNK_WORDS].as_flattened_mut().copy_from_slice(words);
    }

    // Walks on the host search every time.
    fn forget_rules(&mut self) {}
}

/// What gimli says of a stack.
pub enum Reference {
    /// All its frames.
    Whole(Vec<u64>),
    /// Those up to where gimli has nothing to go by.
    Cut(Vec<u64>),
    /// A return probe stands in the way.
    Hidden,
}

/// The address space of a traced process as each of the three sees it; rebuilt when its mappings change.
pub struct Space {
    mappings: Vec<ExecMapping>,
    modules: HashMap<String, Option<Rc<Module>>>,
    mapped: Vec<Mapped>,
    framehop: UnwinderX86_64<Vec<u8>>,
    framehop_cache: CacheX86_64,
    registry: Registry<String>,
    pool: Pool,
    process: ProcessWord,
}

impl Default for Space {
    fn default() -> Self {
        Self {
            mappings: Vec::new(),
            modules: HashMap::new(),
            mapped: Vec::new(),
            framehop: UnwinderX86_64::new(),
            framehop_cache: CacheX86_64::new(),
            registry: Registry::new(POOL),
            pool: Pool(vec![[0; CHUNK_WORDS]; POOL as usize]),
            process: ProcessWord::default(),
        }
    }
}

impl Space {
    /// Walks the stopped thread's stack in all three ways.
    pub fn sample(&mut self, tracee: &Tracee, thread: nix::unistd::Pid, tally: &mut Tally) {
        self.refresh(tracee);
        let registers = Tracee::registers(thread);
        let read = |address| tracee.read(address);
        let (expected, end) = reference::walk(&registers, &self.mapped, &read);
        let (frames, stop) = self.ours(&registers, &read);
        let framehop = self.by_framehop(&registers, &read);

        // Another tracer's return probe hides the caller from everyone.
        if expected.last().is_some_and(|&address| self.is_trampoline(address)) {
            tally.hidden += 1;
            return;
        }
        tally.samples += 1;
        *tally.ends.entry(stop).or_default() += 1;
        tally.complete += u32::from(stop.is_complete());
        tally.reference_complete += u32::from(end == End::Outermost);
        let equal = match end {
            End::Outermost => frames == expected && stop.is_complete(),
            // Where gimli has nothing to go by, ours may still follow a frame pointer.
            End::NoInformation | End::Unknown | End::TooDeep => frames.starts_with(&expected),
        };
        tally.equal += u32::from(equal);
        if let Some(framehop) = &framehop {
            tally.framehop_complete += 1;
            tally.framehop_equal += u32::from(*framehop == frames);
        }
        if (!equal || !stop.is_complete()) && tally.differences.len() < 20 {
            tally.differences.push(format!(
                "gimli {end:?} {}\nours  {stop:?} {}",
                self.describe(&expected),
                self.describe(&frames)
            ));
        }
    }

    /// The stopped thread's stack by gimli.
    pub fn reference_stack(&mut self, tracee: &Tracee, thread: nix::unistd::Pid) -> Reference {
        self.refresh(tracee);
        let (frames, end) = reference::walk(&Tracee::registers(thread), &self.mapped, &|address| tracee.read(address));
        match end {
            End::Outermost => Reference::Whole(frames),
            // A return probe further up hides the caller.
            _ if frames.last().is_some_and(|&address| self.is_trampoline(address)) => Reference::Hidden,
            _ => Reference::Cut(frames),
        }
    }

    /// Addresses of the functions of these names in objects mapped since the last call; not the dynamic linker's own,
    /// which serve it until the C library is there.
    pub fn new_functions(&mut self, tracee: &Tracee, names: &[&str]) -> Vec<u64> {
        let known: Vec<u64> = self.mappings.iter().map(|m| m.start).collect();
        self.refresh(tracee);
        let new = self.mappings.iter().filter(|m| !known.contains(&m.start) && !m.name.contains("/ld-"));
        let mut found = Vec::new();
        for m in new {
            let Some(module) = &self.modules[&m.name] else { continue };
            let Some(bias) = module.bias(m.start, m.offset) else { continue };
            let file = object::File::parse(&*module.bytes).unwrap();
            let symbols = file.dynamic_symbols().filter(ObjectSymbol::is_definition);
            let wanted = symbols.filter(|s| s.name().is_ok_and(|name| names.contains(&name)));
            let addresses = wanted.map(|s| s.address().wrapping_add(bias));
            found.extend(addresses.filter(|address| (m.start..m.end).contains(address)));
        }
        found
    }

    fn ours(&self, registers: &Registers, mut read: &dyn Fn(u64) -> Option<u64>) -> (Vec<u64>, Stop) {
        let mut walk = Walk::from_instruction(Regs { ip: registers[16], sp: registers[7], fp: registers[6] });
        let mut frames = Vec::new();
        while frames.len() < MAX_FRAMES {
            let rule = find_rule(self.pool.0.as_slice(), self.process, walk.lookup_address());
            if let Some(stop) = walk.refuses(rule) {
                return (frames, stop);
            }
            frames.push(walk.ip());
            if rule.is_plain() {
                // What the kernel program inlines for most frames is what stands for all of them.
                let plain = step_plain(&walk.regs(), rule, &mut read);
                assert_eq!(plain, step(&walk.regs(), rule, &mut read).map(|next| next.regs), "{rule:?}");
            }
            if let Err(stop) = walk.advance(rule, true, &mut read) {
                return (frames, stop);
            }
        }
        (frames, Stop::TooDeep)
    }

    /// framehop's frames, where it finds the end.
    fn by_framehop(&mut self, registers: &Registers, read: &dyn Fn(u64) -> Option<u64>) -> Option<Vec<u64>> {
        let mut read = |address| read(address).ok_or(());
        let start = UnwindRegsX86_64::new(registers[16], registers[7], registers[6]);
        let mut iterator = self.framehop.iter_frames(registers[16], start, &mut self.framehop_cache, &mut read);
        let mut frames = Vec::new();
        while frames.len() < MAX_FRAMES {
            match iterator.next() {
                Ok(Some(frame)) => frames.push(frame.address()),
                Ok(None) => return Some(frames),
                Err(_) => return None,
            }
        }
        None
    }

    fn refresh(&mut self, tracee: &Tracee) {
        let mappings = tracee.exec_mappings();
        if mappings == self.mappings {
            return;
        }
        for mapping in &mappings {
            self.modules.entry(mapping.name.clone()).or_insert_with(|| {
                let bytes = if mapping.name == "[vdso]" {
                    let mut image = vec![0; (mapping.end - mapping.start) as usize];
                    tracee.read_bytes(mapping.start, &mut image)?;
                    image
                } else {
                    std::fs::read(&mapping.name).ok()?
                };
                Module::parse(bytes).map(Rc::new)
            });
        }
        self.mappings = mappings;
        self.map_for_reference();
        self.map_for_us();
        self.map_for_framehop();
    }

    fn map_for_reference(&mut self) {
        self.mapped = self
            .mappings
            .iter()
            .filter_map(|m| {
                let module = self.modules[&m.name].clone()?;
                Some(Mapped { start: m.start, end: m.end, bias: module.bias(m.start, m.offset)?, module })
            })
            .collect();
    }

    fn map_for_us(&mut self) {
        const PID: Pid = Pid(1);
        let list = self
            .mappings
            .iter()
            .map(|m| CodeMapping {
                start: m.start,
                end: m.end,
                file_offset: m.offset,
                code: match m.name.as_str() {
                    "" => Code::Anonymous,
                    "[uprobes]" => Code::ReturnTrampoline,
                    name => Code::Object(name.to_owned()),
                },
            })
            .collect();
        for name in self.registry.set_mappings(PID, list) {
            let table = match &self.modules[&name] {
                Some(module) => UnwindTable::build(&module.bytes),
                None => Err(leaktrace::unwind_tables::TableError::NoUnwindInformation),
            };
            self.registry.table_built(&name, table, &mut self.pool);
        }
        self.process = self.registry.publish(PID, &mut self.pool).unwrap().unwrap();
        self.registry.reclaim();
    }

    fn map_for_framehop(&mut self) {
        self.framehop = UnwinderX86_64::new();
        self.framehop_cache = CacheX86_64::new();
        for m in &self.mappings {
            let Some(module) = &self.modules[&m.name] else { continue };
            let Some(bias) = module.bias(m.start, m.offset) else { continue };
            let file = object::File::parse(&*module.bytes).unwrap();
            let range = |name| file.section_by_name(name).map(|s| s.address()..s.address() + s.size());
            let data = |name| file.section_by_name(name).and_then(|s| Some(s.uncompressed_data().ok()?.into_owned()));
            self.framehop.add_module(framehop::Module::new(
                m.name.clone(),
                m.start..m.end,
                bias,
                ExplicitModuleSectionInfo {
                    base_svma: 0,
                    text_svma: range(".text"),
                    text: data(".text"),
                    got_svma: range(".got"),
                    eh_frame_svma: range(".eh_frame"),
                    eh_frame: data(".eh_frame"),
                    eh_frame_hdr_svma: range(".eh_frame_hdr"),
                    eh_frame_hdr: data(".eh_frame_hdr"),
                    ..Default::default()
                },
            ));
        }
    }

    fn is_trampoline(&self, address: u64) -> bool {
        self.mappings.iter().any(|m| m.name == "[uprobes]" && m.start <= address && address < m.end)
    }

    pub fn describe(&self, frames: &[u64]) -> String {
        let one = |&address: &u64| match self.mappings.iter().find(|m| m.start <= address && address < m.end) {
            Some(m) => format!("{}+{:#x}", m.name.rsplit('/').next().unwrap_or(""), address - m.start + m.offset),
            None => format!("{address:#x}"),
        };
        frames.iter().take(12).map(one).collect::<Vec<_>>().join(" < ")
    }
}
