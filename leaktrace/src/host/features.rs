//! What this kernel lets us do, found out by trying.
//!
//! In: nothing. Out: whether each thing worked, or the kernel's error number. Everything tried is undone at once; no other
//! process notices.

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::BpfHelper;
use aya_obj::generated::{bpf_cmd, bpf_insn, bpf_prog_type};

use super::bpf::{self, AttachType, Places};

/// How a try went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// It works.
    Works,
    /// The kernel refused, with this error number.
    Refused(c_int),
    /// It was not tried, because something that it needs is missing.
    Not,
}

impl Tried {
    fn of<T>(result: &io::Result<T>) -> Self {
        match result {
            Ok(_) => Self::Works,
            Err(error) => Self::Refused(error.raw_os_error().unwrap_or(libc::EINVAL)),
        }
    }
}

/// Whether the kernel has uprobes (`CONFIG_UPROBE_EVENTS`).
#[must_use]
pub fn has_uprobes() -> bool {
    fs::exists(bpf::UPROBE_EVENTS).unwrap_or(false)
}

/// The mark of a page that was written, in an entry of `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst).
pub const IS_WRITTEN: u64 = 1 << 55;

/// Whether the kernel marks pages that are written (`CONFIG_MEM_SOFT_DIRTY`): then one of ours that was just written has its mark.
/// `None` if that cannot be read.
#[must_use]
pub fn marks_written_pages() -> Option<bool> {
    let mut word = Box::new(0_u8);
    // Written for certain.
    *std::hint::black_box(&mut *word) = 1;
    let page = (&raw const *word) as u64 / procfs::page_size();
    let mut entry = [0; size_of::<u64>()];
    let pagemap = fs::File::open("/proc/self/pagemap").ok()?;
    pagemap.read_exact_at(&mut entry, page * size_of::<u64>() as u64).ok()?;
    Some(u64::from_ne_bytes(entry) & IS_WRITTEN != 0)
}

/// Loads a program of the type that uprobes run.
#[must_use]
pub fn load_program() -> Tried {
    Tried::of(&program())
}

/// Creates a ring buffer.
#[must_use]
pub fn create_ring_buffer() -> Tried {
    match aya::sys::is_map_supported(MapType::RingBuf) {
        Ok(true) => Tried::Works,
        Ok(false) => Tried::Refused(libc::EINVAL),
        Err(error) => Tried::Refused(error.io_error.raw_os_error().unwrap_or(libc::EINVAL)),
    }
}

/// Attaches a program with a cookie to a function of ours, for this process alone, and detaches it, which waits for a grace
/// period of the kernel: tens of milliseconds.
#[must_use]
pub fn attach_probe() -> Tried {
    Tried::of(&probe_ourselves())
}

/// Whether the kernel has multi links whose pid filter means a process (6.10), and uprobe sessions, in which the program decides
/// at the entry whether it wants the return (6.13).
#[must_use]
pub fn multi_and_sessions() -> (bool, bool) {
    (bpf::multi_knows_processes(), bpf::supports(AttachType::Session))
}

/// Whether programs can ask what is mapped at an address of the process they run in (`bpf_find_vma`, 5.17), so that stacks
/// are whole from a program's first instruction on.
#[must_use]
pub fn finds_mappings() -> bool {
    has_helper(ProgramType::KProbe, BpfHelper::BPF_FUNC_find_vma)
}

/// Whether programs at tracepoints can read the registers of the thread that they run in (`bpf_task_pt_regs`, 5.15), so that
/// those of threads which end with their process are known.
#[must_use]
pub fn tells_registers() -> bool {
    has_helper(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_task_pt_regs)
}

fn has_helper(program: ProgramType, helper: BpfHelper) -> bool {
    match aya::sys::is_helper_supported(program, helper) {
        Ok(supported) => supported,
        Err(error) => {
            log::debug!("cannot find out whether programs have {helper:?}: {error}");
            false
        }
    }
}

fn program() -> io::Result<OwnedFd> {
    /// `r0 = 0`, `exit`.
    const CODE: [u64; 2] = [0xb7, 0x95];
    const _: () = assert!(size_of::<bpf_insn>() == size_of::<u64>());
    let mut attr = bpf::zeroed();
    // SAFETY: the member of the union that BPF_PROG_LOAD reads.
    let request = unsafe { &mut attr.__bindgen_anon_3 };
    request.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
    request.insns = CODE.as_ptr() as u64;
    request.insn_cnt = CODE.len() as u32;
    request.license = c"Dual MIT/GPL".as_ptr() as u64;
    bpf::descriptor(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// A function to be probed, which nobody calls.
#[inline(never)]
extern "C" fn nobody_calls_this() -> c_int {
    std::hint::black_box(0)
}

fn probe_ourselves() -> io::Result<()> {
    let program = program()?;
    let (file, offset) = place_of(nobody_calls_this as *const () as u64)?;
    let pid = std::process::id();
    let place = Places { offsets: vec![offset], cookies: vec![1], semaphores: Vec::new(), pid, returns: false };
    let event = bpf::uprobe_event(&file, &place)?;
    bpf::link_event(program.as_fd(), event.as_fd(), 1).map(|_| ())
}

/// The file that `address` of this process is mapped from, and where in it.
fn place_of(address: u64) -> io::Result<(std::ffi::CString, u64)> {
    let maps = procfs::process::Process::myself().and_then(|process| process.maps()).map_err(io::Error::other)?;
    let map = maps.iter().find(|map| (map.address.0..map.address.1).contains(&address));
    match map.map(|map| (&map.pathname, map)) {
        Some((procfs::process::MMapPath::Path(path), map)) => {
            let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
            Ok((path, address - map.address.0 + map.offset))
        }
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Whether a seccomp filter sees the system call by which return probes work from Linux 6.11 on. Where it does, a program
/// whose filter kills at unknown calls dies at a return probe; kernels let the call pass unseen since commit
/// cf6cb56ef244 ("seccomp: passthrough uretprobe systemcall without filtering", 6.14 and stable series).
///
/// `None` where it could not be found out.
#[must_use]
pub fn seccomp_sees_return_probes() -> Option<bool> {
    if !cfg!(target_arch = "x86_64") || super::version::version() < (6, 11) {
        return Some(false);
    }
    // SAFETY: the child only makes system calls.
    match unsafe { nix::unistd::fork() }.ok()? {
        nix::unistd::ForkResult::Child => {
            let status = call_under_filter();
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(status) }
        }
        nix::unistd::ForkResult::Parent { child } => match nix::sys::wait::waitpid(child, None).ok()? {
            nix::sys::wait::WaitStatus::Exited(_, FILTERED) => Some(true),
            // Outside of a return probe the call is answered by SIGILL.
            nix::sys::wait::WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGILL, _) => Some(false),
            _ => None,
        },
    }
}

/// The exit status of a child whose filter saw the call.
const FILTERED: c_int = 1;

/// Installs a filter that answers the call with an error of its own, and makes the call.
fn call_under_filter() -> c_int {
    /// `uretprobe` (`arch/x86/entry/syscalls/syscall_64.tbl`).
    const URETPROBE: u32 = 335;
    /// An error number that the call itself does not return.
    const MARK: c_int = libc::EDOM;
    let statement = |code: u32, k: u32, jump_false| libc::sock_filter { code: code as u16, jt: 0, jf: jump_false, k };
    let filter = [
        // The number of the call is at the start of struct seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, URETPROBE, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | MARK as u32, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let filter = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the filter lives through the call, which copies it. The first line keeps a SIGILL from dumping core.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) != 0 {
            return FILTERED + 1;
        }
        let result = libc::syscall(i64::from(URETPROBE));
        if result == -1 && *libc::__errno_location() == MARK { FILTERED } else { FILTERED + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_on_a_kernel_with_uprobes_can_attach() {
        // SAFETY: only reads a number.
        assert_eq!(unsafe { libc::geteuid() }, 0, "these tests run as root");
        assert!(has_uprobes());
        assert_eq!(load_program(), Tried::Works);
        assert_eq!(create_ring_buffer(), Tried::Works);
        assert_eq!(attach_probe(), Tried::Works);
    }

    #[test]
    fn the_call_of_return_probes_is_tried_without_harm() {
        let seen = seccomp_sees_return_probes();
        match crate::host::version::version() {
            // Stable releases of these series differ.
            (6, 11..=13) => assert!(seen.is_some()),
            _ => assert_eq!(seen, Some(false), "not there before 6.11, cured in 6.14"),
        }
    }
}
