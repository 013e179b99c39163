//! The uprobe programs, loaded for the cheapest way of attaching that this kernel has.
//!
//! Sessions (6.13) and multi links (6.6; used from 6.10, where their pid filter means a process) set all probes of a file by
//! one link, which detaches in one grace period where perf events take one each, and they run 6-8 % faster; a session also
//! skips the return of calls that are not wanted. aya 0.14 knows neither, so for these the object is parsed once more and loaded
//! by hand; aya made its maps.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya::programs::{ProgramError, UProbe};
use aya_obj::btf::BtfFeatures;
use aya_obj::generated::bpf_insn;
use aya_obj::{Features, Object};
use leaktrace_common::abi::KFUNC_SESSION_COOKIE;

use crate::host::bpf::{self, AttachType, Program, Refused, Types};
use crate::host::btf;

/// `BPF_JMP | BPF_CALL` of the kernel's `uapi/linux/bpf_common.h`.
const CALL: u8 = 0x85;
/// `BPF_ALU64 | BPF_MOV | BPF_K`: a register is set to a constant.
const MOVE: u8 = 0xb7;
/// `BPF_LD | BPF_DW | BPF_IMM`: a register is set to 64 bits, in two instructions.
const LOAD: u8 = 0x18;
/// `BPF_PSEUDO_MAP_FD`: what is loaded is a map, by its descriptor.
const MAP: u8 = 1;
/// `BPF_PSEUDO_KFUNC_CALL`: the call is of a kernel function, by its BTF id.
const KFUNC_CALL: u8 = 2;

/// How probes are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Technique {
    /// Entries and returns by uprobe sessions, frees by multi links.
    Sessions,
    /// Multi links for entries and others for returns.
    Multi,
    /// A perf event for each probe.
    PerfEvents,
}

impl Technique {
    /// The cheapest that this kernel has.
    pub fn best() -> Self {
        if !bpf::multi_knows_processes() {
            Self::PerfEvents
        } else if bpf::supports(AttachType::Session) {
            Self::Sessions
        } else {
            Self::Multi
        }
    }

    /// The best, or what `LEAKTRACE_ATTACH` (`sessions`, `multi`, `perf`) says, so that tests can try them all.
    pub fn chosen() -> Self {
        match std::env::var("LEAKTRACE_ATTACH").as_deref() {
            Ok("sessions") => Self::Sessions,
            Ok("multi") => Self::Multi,
            Ok("perf") => Self::PerfEvents,
            _ => Self::best(),
        }
    }

    /// The attach type that a program is verified for: a session, which sees returns as well, if wanted and available, else a
    /// multi link. `None` for perf events.
    pub fn attach_type(self, program: &str, with_returns: bool) -> Option<AttachType> {
        match (self, program) {
            (Self::Sessions, "malloc" | "call") if with_returns => Some(AttachType::Session),
            (Self::Sessions | Self::Multi, _) => Some(AttachType::Multi),
            (Self::PerfEvents, _) => None,
        }
    }
}

/// Loads programs without aya.
struct Loader {
    object: Object,
    btf: Option<OwnedFd>,
    session_cookie: Option<u32>,
    /// Descriptors by name, duplicated so that programs can be loaded late.
    maps: HashMap<String, OwnedFd>,
}

impl Loader {
    /// `bytes` is the object that `ebpf` was loaded from; no map may have been taken out of `ebpf`.
    fn new(bytes: &[u8], ebpf: &Ebpf) -> Result<Self> {
        let mut object = Object::parse(bytes).context("the BPF object cannot be parsed")?;
        // Every kernel with multi links has all of these.
        let btf_features = BtfFeatures::new(true, true, true, true, true, true, true, true);
        let btf = match object.fixup_and_sanitize_btf(&btf_features)? {
            Some(btf) => Some(bpf::load_btf(&btf.to_bytes()).context("the kernel refuses the BPF object's BTF")?),
            None => None,
        };
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let wanted = mem::take(&mut object.maps);
        let maps = wanted
            .keys()
            .map(|name| Ok((name.clone(), map_data(ebpf, name)?.fd().as_fd().try_clone_to_owned()?)))
            .collect::<Result<HashMap<String, OwnedFd>>>()?;
        let with_descriptors =
            wanted.iter().filter_map(|(name, map)| Some((name.as_str(), maps.get(name)?.as_raw_fd(), map)));
        object.relocate_maps(with_descriptors, &text)?;
        object.relocate_calls(&text)?;
        object.sanitize_functions(&Features::new(true, true, true, true, true, true, true, Some(btf_features)));
        let session_cookie =
            btf::read().ok().and_then(|types| btf::Btf::parse(&types).ok()?.function("bpf_session_cookie"));
        Ok(Self { object, btf, session_cookie, maps })
    }

    /// Verifies the program called `name`.
    fn load(&self, name: &str, attach_type: AttachType) -> Result<OwnedFd> {
        let program =
            self.object.programs.get(name).with_context(|| format!("the BPF object has no program {name}"))?;
        let function = self
            .object
            .functions
            .get(&program.function_key())
            .with_context(|| format!("the BPF object has no code for {name}"))?;
        let mut instructions = function.instructions.clone();
        for instruction in &mut instructions {
            if attach_type == AttachType::Session {
                self.link_kernel_function(instruction);
            } else {
                self.keep_from_sessions(instruction);
            }
        }
        let (functions, lines) = (function.func_info.func_info_bytes(), function.line_info.line_info_bytes());
        let types = self.btf.as_ref().map(|btf| Types {
            btf: btf.as_fd(),
            functions: (&functions, function.func_info_rec_size),
            lines: (&lines, function.line_info_rec_size),
        });
        bpf::load(&Program { name, attach_type, instructions: &instructions, license: &program.license, types })
            .map_err(|refused| explain(name, refused))
    }

    /// Where the kernel lacks the function, the call stays unresolved, in dead code that the verifier drops.
    fn link_kernel_function(&self, instruction: &mut bpf_insn) {
        if asks_for_cookie_of_session(*instruction)
            && let Some(id) = self.session_cookie
        {
            instruction.set_src_reg(KFUNC_CALL);
            instruction.imm = id as i32;
        }
    }

    /// Patches a program for use outside of sessions: it never runs at a return, gets a null pointer for the session cookie,
    /// and uses another program array than session programs.
    fn keep_from_sessions(&self, instruction: &mut bpf_insn) {
        let map = |name: &str| self.maps.get(name).map(AsRawFd::as_raw_fd);
        if asks_for_cookie_of_session(*instruction) {
            *instruction = bpf_insn { code: MOVE, off: 0, imm: 0, ..*instruction };
            instruction.set_dst_reg(0);
        } else if instruction.code == LOAD
            && instruction.src_reg() == MAP
            && Some(instruction.imm) == map("SESSION_TAILS")
            && let Some(tails) = map("TAILS")
        {
            instruction.imm = tails;
        }
    }
}

fn asks_for_cookie_of_session(instruction: bpf_insn) -> bool {
    instruction.code == CALL && instruction.src_reg() == 0 && instruction.imm as u32 == KFUNC_SESSION_COOKIE
}

fn explain(name: &str, refused: Refused) -> anyhow::Error {
    log::debug!("the verifier's log for {name}:\n{}", refused.log);
    match refused.error.raw_os_error() {
        Some(libc::EPERM) => anyhow!(refused.error).context(format!("cannot load the BPF program {name}")),
        _ => anyhow!("this kernel's verifier refuses the BPF program {name} ({}); -vv shows its log", refused.error),
    }
}

/// Has aya load the uprobe program called `name`, unless it has.
pub fn load_by_aya<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut UProbe> {
    let program: &mut UProbe =
        ebpf.program_mut(name).with_context(|| format!("the BPF object has no program {name}"))?.try_into()?;
    if program.fd().is_err() {
        program.load().map_err(|error| match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                explain(name, Refused { error: io_error, log: verifier_log.to_string() })
            }
            error => anyhow!(error).context(format!("cannot load the BPF program {name}")),
        })?;
    }
    Ok(program)
}

/// How many instructions the verifier followed, which the kernel limits to a million (from 5.16; `bpf_prog_show_fdinfo`).
fn verified_instructions(program: &OwnedFd) -> Option<u64> {
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    facts.lines().find_map(|line| line.strip_prefix("verified_insns:"))?.trim().parse().ok()
}

fn map_data<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a MapData> {
    match ebpf.map(name).with_context(|| format!("the BPF object has no map {name}"))? {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::ProgramArray(data)
        | Map::Queue(data)
        | Map::RingBuf(data)
        | Map::LpmTrie(data)
        | Map::ArrayOfMaps(data)
        | Map::HashOfMaps(data)
        | Map::Unsupported(data) => Ok(data),
        _ => bail!("the BPF object's map {name} is of a kind that is not expected"),
    }
}

/// Programs of sessions or of multi links.
pub struct ByHand {
    technique: Technique,
    loader: Loader,
    programs: Mutex<HashMap<(&'static str, AttachType), Arc<OwnedFd>>>,
}

impl ByHand {
    /// Loads the programs that are always needed.
    fn new(technique: Technique, loader: Loader, names: &[&'static str]) -> Result<Self> {
        let this = Self { technique, loader, programs: Mutex::default() };
        let load = |name: &'static str| {
            let attach_type = technique.attach_type(name, true).context("perf events need no attach type")?;
            Ok(((name, attach_type), this.load(name, attach_type)?))
        };
        // Verification takes longer than everything else at the start, and the kernel verifies programs in parallel.
        let programs = thread::scope(|scope| {
            let threads: Vec<_> = names.iter().map(|name| scope.spawn(move || load(name))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
                .collect::<Result<_>>()
        })?;
        Ok(Self { programs: Mutex::new(programs), ..this })
    }

    fn load(&self, name: &str, attach_type: AttachType) -> Result<Arc<OwnedFd>> {
        let begun = Instant::now();
        let descriptor = self.loader.load(name, attach_type)?;
        let (verified, took) = (verified_instructions(&descriptor), begun.elapsed().as_millis());
        log::info!("BPF program {name}: {} instructions verified in {took} ms", verified.unwrap_or(0));
        Ok(Arc::new(descriptor))
    }

    /// A program, loaded at its first use if it is not there yet.
    pub fn program(&self, name: &'static str, attach_type: AttachType) -> Result<Arc<OwnedFd>> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        match programs.entry((name, attach_type)) {
            Entry::Occupied(there) => Ok(Arc::clone(there.get())),
            Entry::Vacant(missing) => Ok(Arc::clone(missing.insert(self.load(name, attach_type)?))),
        }
    }

    /// How probes are attached.
    pub fn technique(&self) -> Technique {
        self.technique
    }
}

/// The programs of one technique, loaded.
pub enum Programs {
    /// By hand.
    ByHand(Arc<ByHand>),
    /// By aya, as needed.
    ByAya,
}

impl Programs {
    /// Loads all that the technique needs, where programs draw samples themselves only what those tell.
    pub fn load(technique: Technique, are_drawn: bool, object: &[u8], ebpf: &Ebpf) -> Result<Self> {
        let names: &[&'static str] = match technique {
            Technique::PerfEvents => return Ok(Self::ByAya),
            _ if are_drawn => &["sample"],
            Technique::Sessions => &["malloc", "call", "free", "allocated"],
            Technique::Multi => &["malloc", "call", "free", "allocated", "returned"],
        };
        Ok(Self::ByHand(Arc::new(ByHand::new(technique, Loader::new(object, ebpf)?, names)?)))
    }
}
