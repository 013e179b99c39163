//! The few commands of bpf(2) that aya 0.14 has no way to give: programs of the uprobe-multi attach types, links of one program
//! to many places of a file, and links to perf events that another process opens than the one that loads.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::{fs, io, mem};

use aya_obj::generated::{
    PERF_FLAG_FD_CLOEXEC, bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type, perf_event_attr,
};
use serde::{Deserialize, Serialize};

/// `BPF_F_UPROBE_MULTI_RETURN`: the link is of return probes (uapi/linux/bpf.h).
const UPROBE_MULTI_RETURN: u32 = 1;
/// Where the kernel describes its uprobe events (ABI/testing/sysfs-bus-event_source-devices-format).
pub const UPROBE_EVENTS: &str = "/sys/bus/event_source/devices/uprobe";
/// Where in the attributes of such an event the offset of a counter is (`format/ref_ctr_offset`, `PERF_UPROBE_REF_CTR_OFFSET_SHIFT` of
/// kernel/events/core.c).
const SEMAPHORE_SHIFT: u32 = 32;
/// The kernel refuses a larger log buffer (`UINT_MAX >> 8` before 5.19, `>> 2` since).
const LOG_BYTES: usize = 4 << 20;

/// The kernel's attach types for many uprobes at once (uapi/linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u32)]
pub enum AttachType {
    /// `BPF_TRACE_UPROBE_MULTI`, from Linux 6.6.
    Multi = 48,
    /// `BPF_TRACE_UPROBE_SESSION`, from Linux 6.13: the program runs at the entry and decides there whether it runs at the
    /// return.
    Session = 57,
}

/// A program to be verified.
pub struct Program<'a> {
    /// Shown by the kernel's tools; cut at 15 bytes.
    pub name: &'a str,
    /// Decides where it may be attached.
    pub attach_type: AttachType,
    /// Relocated code.
    pub instructions: &'a [bpf_insn],
    /// The licence that helpers are granted by.
    pub license: &'a CStr,
    /// Types of its functions, which global functions need.
    pub types: Option<Types<'a>>,
}

/// Type information of a program.
pub struct Types<'a> {
    /// BTF in the kernel.
    pub btf: BorrowedFd<'a>,
    /// Records and their size in bytes.
    pub functions: (&'a [u8], usize),
    /// Records and their size in bytes.
    pub lines: (&'a [u8], usize),
}

/// Why the verifier refused.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// The kernel's error number.
    pub error: io::Error,
    /// The end of the verifier's log.
    pub log: String,
}

/// Verifies and loads a program.
pub fn load(program: &Program<'_>) -> Result<OwnedFd, Refused> {
    let load = |log: &mut [u8]| {
        let mut attr = zeroed();
        // SAFETY: the member of the union that BPF_PROG_LOAD reads.
        let request = unsafe { &mut attr.__bindgen_anon_3 };
        for (to, from) in request.prog_name.iter_mut().take(15).zip(program.name.as_bytes()) {
            *to = *from as _;
        }
        request.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
        request.expected_attach_type = program.attach_type as u32;
        request.insns = program.instructions.as_ptr() as u64;
        request.insn_cnt = program.instructions.len() as u32;
        request.license = program.license.as_ptr() as u64;
        if let Some(types) = &program.types {
            request.prog_btf_fd = types.btf.as_raw_fd() as u32;
            let (bytes, size) = types.functions;
            request.func_info = bytes.as_ptr() as u64;
            request.func_info_rec_size = size as u32;
            request.func_info_cnt = (bytes.len() / size.max(1)) as u32;
            let (bytes, size) = types.lines;
            request.line_info = bytes.as_ptr() as u64;
            request.line_info_rec_size = size as u32;
            request.line_info_cnt = (bytes.len() / size.max(1)) as u32;
        }
        if !log.is_empty() {
            request.log_level = 1;
            request.log_buf = log.as_mut_ptr() as u64;
            request.log_size = log.len() as u32;
        }
        descriptor(bpf_cmd::BPF_PROG_LOAD, &mut attr)
    };
    load(&mut []).or_else(|error| {
        // Once more for the reason; it may even succeed, the first time having been interrupted.
        let mut log = vec![0; LOG_BYTES];
        load(&mut log).map_err(|_| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            Refused { error, log: String::from_utf8_lossy(&log[..end]).into_owned() }
        })
    })
}

/// Loads BTF.
pub fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: the member of the union that BPF_BTF_LOAD reads.
    let request = unsafe { &mut attr.__bindgen_anon_7 };
    request.btf = bytes.as_ptr() as u64;
    request.btf_size = bytes.len() as u32;
    descriptor(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// Places of one file to be probed, and in which process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Places {
    /// Offsets in the file, each once.
    pub offsets: Vec<u64>,
    /// A cookie for each offset.
    pub cookies: Vec<u64>,
    /// Offsets of counters (16 bits) that the kernel raises in every process in which the place is probed, 0 for none; no elements if
    /// no place has one.
    pub semaphores: Vec<u64>,
    /// The process to be probed; 0 for all.
    pub pid: u32,
    /// Whether the returns of the functions at these places are probed, rather than the places.
    pub returns: bool,
}

/// Attaches a program of that attach type to places in the file at any path that leads to it; closing the descriptor detaches
/// it.
pub fn link(program: BorrowedFd<'_>, attach_type: AttachType, path: &CStr, places: &Places) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: the member of the union that BPF_LINK_CREATE reads.
    let request = unsafe { &mut attr.link_create };
    request.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    request.attach_type = attach_type as u32;
    // SAFETY: the member that it reads for these attach types.
    let multi = unsafe { &mut request.__bindgen_anon_3.uprobe_multi };
    multi.path = path.as_ptr() as u64;
    multi.offsets = places.offsets.as_ptr() as u64;
    multi.cookies = places.cookies.as_ptr() as u64;
    if places.semaphores.len() == places.offsets.len() && !places.semaphores.is_empty() {
        multi.ref_ctr_offsets = places.semaphores.as_ptr() as u64;
    }
    multi.cnt = places.offsets.len().min(places.cookies.len()) as u32;
    multi.flags = if places.returns { UPROBE_MULTI_RETURN } else { 0 };
    multi.pid = places.pid;
    descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Whether a descriptor is of a program that was verified to be run by probes.
pub fn is_probe_program(descriptor: BorrowedFd<'_>) -> bool {
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd())).unwrap_or_default();
    let kind = facts.lines().find_map(|line| line.strip_prefix("prog_type:")?.trim().parse::<u32>().ok());
    kind == Some(bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32)
}

/// Puts a breakpoint at the first of the places, for one process or for all (0), at the function's returns or there; closing the
/// descriptor removes it.
pub fn uprobe_event(path: &CStr, places: &Places) -> io::Result<OwnedFd> {
    let Places { pid, returns, .. } = *places;
    let offset = *places.offsets.first().ok_or(io::ErrorKind::InvalidInput)?;
    let number = |name: &str, prefix: &str| {
        let text = fs::read_to_string(format!("{UPROBE_EVENTS}/{name}"))?;
        text.trim().strip_prefix(prefix).unwrap_or_default().parse::<u32>().map_err(io::Error::other)
    };
    // SAFETY: zeroed is valid for a struct of plain integers.
    let mut attr = unsafe { mem::zeroed::<perf_event_attr>() };
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.type_ = number("type", "")?;
    if returns {
        attr.config = 1 << number("format/retprobe", "config:")?;
    }
    if let Some(semaphore) = places.semaphores.first().filter(|semaphore| **semaphore != 0) {
        // As "config:32-63": the kernel has 32 bits for it.
        let semaphore = u32::try_from(*semaphore).map_err(io::Error::other)?;
        attr.config |= u64::from(semaphore) << SEMAPHORE_SHIFT;
    }
    attr.__bindgen_anon_3.config1 = path.as_ptr() as u64;
    attr.__bindgen_anon_4.config2 = offset;
    // One process on all CPUs, or all processes; the program runs on every CPU then, too.
    let (pid, cpu) = if pid == 0 { (-1, 0) } else { (pid as i32, -1) };
    // SAFETY: the kernel reads the attributes, of the size that they say, and the path, which outlives the call.
    let event =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC) };
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(event as RawFd) })
}

/// Has a program run at a perf event; closing the descriptor ends that.
pub fn link_event(program: BorrowedFd<'_>, event: BorrowedFd<'_>, cookie: u64) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: the member of the union that BPF_LINK_CREATE reads.
    let request = unsafe { &mut attr.link_create };
    request.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    request.__bindgen_anon_2.target_fd = event.as_raw_fd() as u32;
    request.attach_type = bpf_attach_type::BPF_PERF_EVENT as u32;
    request.__bindgen_anon_3.perf_event.bpf_cookie = cookie;
    descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Whether links of this attach type can be made. That a program can be loaded says nothing: kernels before 6.6 load it for
/// any attach type, known or not.
pub fn supports(attach_type: AttachType) -> bool {
    refusal(attach_type, 0) == Some(libc::EBADF)
}

/// Whether a multi link's pid means a process. Before 6.10 it meant a thread; the fix came with a check of the pid before
/// that of the path, so that a wrong path and a wrong pid together tell.
pub fn multi_knows_processes() -> bool {
    supports(AttachType::Multi) && refusal(AttachType::Multi, u32::MAX) == Some(libc::EINVAL)
}

/// The error number of a link to `/`, which is no regular file: the kernel finds that out only after all checks that need no
/// file.
fn refusal(attach_type: AttachType, pid: u32) -> Option<i32> {
    let program = trivial(attach_type).ok()?;
    let nowhere = Places { offsets: vec![0], cookies: vec![0], semaphores: Vec::new(), pid, returns: false };
    link(program.as_fd(), attach_type, c"/", &nowhere).err()?.raw_os_error()
}

fn trivial(attach_type: AttachType) -> Result<OwnedFd, Refused> {
    /// `r0 = 0`, `exit`.
    const CODE: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: instructions are 8 bytes of plain data.
    let instructions: [bpf_insn; 2] = unsafe { mem::transmute(CODE) };
    load(&Program { name: "probe", attach_type, instructions: &instructions, license: c"Dual MIT/GPL", types: None })
}

/// A path of an open file, for the kernel to open it by.
pub fn path_of(file: RawFd) -> CString {
    // No digit is a NUL.
    CString::new(format!("/proc/self/fd/{file}")).unwrap_or_default()
}

/// A request with everything unused.
pub fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain integers; the kernel demands that what is not used be 0.
    unsafe { mem::zeroed() }
}

/// Makes a request whose answer is a new descriptor.
pub fn descriptor(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is what `command` reads, its pointers outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<bpf_attr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: these commands return a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}
