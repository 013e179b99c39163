//! What probes cost before any program does anything: empty BPF programs where leaktrace would put its own, attached as
//! leaktrace attaches them. `cargo xtask bench` measures against it.
//!
//! In: a process. Out: the sites on standard output, a line each, then `ready`; the probes stay until standard input
//! ends. Each line also says at what addresses the site is and what lies there as long as nobody probes it. It records
//! nothing. Perf events, which leaktrace falls back to before Linux 6.6, are not done here.

use std::ffi::CString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use aya_obj::generated::bpf_insn;
use clap::Parser;
use leaktrace::elf;
use leaktrace::host::bpf::{self, AttachType, Places, Program};
use leaktrace::model::Pid;
use leaktrace::probes::plan::{self, Plan, PlanOptions, PlannedPoint, PlannedProbe};
use leaktrace::probes::site::{Emulation, View};
use leaktrace::process::maps::{AddressSpace, Object, ObjectStore};

/// Attaches empty BPF programs to a process' allocators, until standard input ends
#[derive(Parser)]
struct Args {
    /// The process
    pid: u32,
    /// Let entries say that their returns are not wanted, as leaktrace does for what it filters
    #[arg(long)]
    skip_returns: bool,
    /// Probe entries and returns also where leaktrace does with one trap a call
    #[arg(long)]
    two_traps: bool,
    /// Put the probes of free functions on their first instructions, where the kernel may have to single-step
    #[arg(long)]
    free_at_entry: bool,
}

/// `BPF_ALU64 | BPF_MOV | BPF_K` (uapi/linux/bpf.h): sets a register, here r0, to a constant.
const SET: u8 = 0xb7;
/// `BPF_JMP | BPF_EXIT`.
const EXIT: u8 = 0x95;

/// The empty programs, by how they are attached.
struct Programs {
    allocating: OwnedFd,
    /// The attach type of `allocating`: a session where the kernel has them.
    how: AttachType,
    /// For frees, and for returns where there are no sessions.
    multi: OwnedFd,
}

impl Programs {
    fn load(skip_returns: bool) -> Result<Self> {
        ensure!(bpf::multi_knows_processes(), "this kernel attaches by perf events, whose floor is not measured");
        let how = if bpf::supports(AttachType::Session) { AttachType::Session } else { AttachType::Multi };
        Ok(Self { allocating: load(how, skip_returns)?, how, multi: load(AttachType::Multi, false)? })
    }
}

/// A program that does nothing but answer; in a session 1 means that the return is not wanted.
fn load(attach_type: AttachType, answer: bool) -> Result<OwnedFd> {
    let instruction = |code, immediate| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm: immediate,
    };
    let instructions = [instruction(SET, i32::from(answer)), instruction(EXIT, 0)];
    let program =
        Program { name: "floor", attach_type, instructions: &instructions, license: c"Dual MIT/GPL", types: None };
    Ok(bpf::load(&program)?)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let programs = Programs::load(args.skip_returns)?;
    let store = ObjectStore::new();
    let space = AddressSpace::capture(Pid(args.pid), &store)?;
    let mut links = Vec::new();
    let planned = planned(&space, !args.two_traps)?;
    for (object, plan) in plan::choose(planned.iter().map(|(object, plan)| (object, plan))) {
        for probe in &plan.probes {
            let names = probe.names.join(" = ");
            let inside = probe.at_once.as_ref().ok().and_then(|points| points.first());
            let (at, offset) =
                inside.map_or((probe.site.offset, probe.offset), |planned| (planned.point.offset, planned.offset));
            print!("{}: {names} at +{at} ", object.path().display());
            println!("({})", untouched(&space, object, offset)?);
        }
        links.extend(attach(&args, &programs, object, plan)?);
    }
    ensure!(!links.is_empty(), "process {} has no allocator that we know", args.pid);
    println!("ready");
    io::stdout().flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// What leaktrace would probe.
fn planned(space: &AddressSpace, at_once: bool) -> Result<Vec<(Arc<Object>, Plan)>> {
    let mut objects: Vec<&Arc<Object>> = space.mappings().filter_map(|location| location.object).collect();
    objects.sort_by_key(|object| object.id());
    objects.dedup_by_key(|object| object.id());
    let options = PlanOptions { prefix: None, symbols: &[], emulation: emulation()?, at_once };
    let mut planned = Vec::new();
    for object in objects {
        let file = object.open().with_context(|| format!("cannot open {}", object.path().display()))?;
        let Ok(bytes) = elf::what_is_loaded(&file) else { continue };
        if let Ok(plan) = plan::plan(&bytes, &options) {
            planned.push((Arc::clone(object), plan));
        }
    }
    Ok(planned)
}

/// Where a place of a file is mapped, and the four bytes that the file has there: `ADDRESS=BYTES`, in hexadecimal.
fn untouched(space: &AddressSpace, object: &Object, offset: u64) -> Result<String> {
    let mut bytes = [0; 4];
    object.open()?.read_exact_at(&mut bytes, offset)?;
    let here = space.mappings().filter(|location| location.object.is_some_and(|other| other.id() == object.id()));
    let (start, mapped) = here
        .map(|location| (location.start.0, location.offset))
        .filter(|(_, mapped)| *mapped <= offset)
        .max_by_key(|(_, mapped)| *mapped)
        .context("a probe outside of what is mapped")?;
    Ok(format!("{:#x}={:08x}", start + (offset - mapped), u32::from_be_bytes(bytes)))
}

fn emulation() -> Result<Emulation> {
    let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok(Emulation::for_kernel(major, minor)),
        _ => Ok(Emulation::BASELINE),
    }
}

fn attach(args: &Args, programs: &Programs, object: &Object, plan: &Plan) -> Result<Vec<OwnedFd>> {
    let (allocating, freeing): (Vec<_>, Vec<_>) = plan.probes.iter().partition(|probe| probe.needs_return());
    let inside = |probe: &&&PlannedProbe| probe.at_once.is_ok();
    let points = allocating.iter().flat_map(|probe| probe.at_once.iter().flatten());
    let (entered, seen): (Vec<&PlannedPoint>, Vec<&PlannedPoint>) =
        points.partition(|planned| matches!(planned.point.view, View::Entry { .. }));
    let seen: Vec<u64> = seen.iter().map(|planned| planned.offset).collect();
    let entries = allocating.iter().filter(|probe| !inside(probe)).map(|probe| probe.offset);
    let allocating: Vec<u64> = entries.chain(entered.iter().map(|planned| planned.offset)).collect();
    let freeing: Vec<u64> =
        freeing.iter().map(|probe| if args.free_at_entry { probe.entry_offset } else { probe.offset }).collect();
    let file = object.open()?;
    let path = bpf::path_of(file.as_raw_fd());
    let link = |program: &OwnedFd, attach_type, offsets: &[u64], returns| {
        if offsets.is_empty() {
            return Ok(None);
        }
        let link = set(&path, args.pid, program, attach_type, offsets, returns)
            .with_context(|| format!("cannot probe {}", object.path().display()))?;
        Ok::<_, anyhow::Error>(Some(link))
    };
    let mut links = vec![
        link(&programs.multi, AttachType::Multi, &freeing, false)?,
        link(&programs.multi, AttachType::Multi, &seen, false)?,
        link(&programs.allocating, programs.how, &allocating, false)?,
    ];
    if programs.how == AttachType::Multi && !args.skip_returns {
        links.push(link(&programs.multi, AttachType::Multi, &allocating, true)?);
    }
    Ok(links.into_iter().flatten().collect())
}

fn set(
    path: &CString,
    pid: u32,
    program: &OwnedFd,
    attach_type: AttachType,
    offsets: &[u64],
    returns: bool,
) -> io::Result<OwnedFd> {
    let (offsets, cookies) = (offsets.to_vec(), vec![0; offsets.len()]);
    bpf::link(program.as_fd(), attach_type, path, &Places { offsets, cookies, semaphores: Vec::new(), pid, returns })
}
