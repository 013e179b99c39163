//! A traced child, its registers and memory at each stop, and its executable mappings.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The general-purpose registers by their DWARF numbers, 16 being the return address column (rip).
pub type Registers = [u64; 17];

/// An executable mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecMapping {
    pub start: u64,
    pub end: u64,
    pub offset: u64,
    pub name: String,
}

/// What the tracer is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// A thread stopped, having executed an instruction, or before or after a system call.
    Trap(Pid),
    /// A thread stopped at a breakpoint instruction of its own.
    Breakpoint(Pid),
    /// The process is gone.
    Exited(i32),
}

/// How a stopped thread goes on.
#[derive(Clone, Copy)]
pub enum Go {
    Step,
    Syscall,
    Continue,
}

pub struct Tracee {
    child: Child,
    /// What each stopped thread is to receive when it goes on, signals mostly; keyed by thread.
    pending: Option<(Pid, Signal)>,
    exited: bool,
    /// Addresses in the debug registers.
    breakpoints: Vec<u64>,
}

impl Tracee {
    /// Starts `command` and leaves it stopped after its exec.
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: ptrace(PTRACE_TRACEME) is one system call and touches no memory of the parent's.
        unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
        let child = command.spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(pid, Signal::SIGTRAP));
        ptrace::setoptions(
            pid,
            Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACESYSGOOD,
        )
        .unwrap();
        Self { child, pending: None, exited: false, breakpoints: Vec::new() }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Lets a thread run on, with the signal that it stopped for, if any.
    pub fn go(&mut self, thread: Pid, how: Go) {
        let signal = self.pending.take_if(|(owner, _)| *owner == thread).map(|(_, signal)| signal);
        let result = match how {
            Go::Step => ptrace::step(thread, signal),
            Go::Syscall => ptrace::syscall(thread, signal),
            Go::Continue => ptrace::cont(thread, signal),
        };
        // The thread may have been killed meanwhile; its end is reported by the next wait.
        assert!(matches!(result, Ok(()) | Err(nix::errno::Errno::ESRCH)), "{result:?}");
    }

    /// Waits for the next stop of any thread. `onward` is how threads go on that stop for reasons of their own.
    pub fn wait(&mut self, onward: Go) -> Stop {
        loop {
            match waitpid(None, Some(own())).unwrap() {
                WaitStatus::Exited(pid, status) if pid == self.pid() => {
                    self.exited = true;
                    return Stop::Exited(status);
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.pid() => {
                    self.exited = true;
                    return Stop::Exited(-(signal as i32));
                }
                WaitStatus::PtraceSyscall(pid) => return Stop::Trap(pid),
                WaitStatus::Stopped(pid, Signal::SIGTRAP) => {
                    // si_code tells the int3 (SI_KERNEL) from the step (TRAP_TRACE).
                    let code = ptrace::getsiginfo(pid).map_or(0, |info| info.si_code);
                    return if code == libc::SI_KERNEL { Stop::Breakpoint(pid) } else { Stop::Trap(pid) };
                }
                // A new thread's first stop, and the event in the thread that made it.
                WaitStatus::Stopped(pid, Signal::SIGSTOP) | WaitStatus::PtraceEvent(pid, ..) => self.go(pid, onward),
                WaitStatus::Stopped(pid, signal) => {
                    self.pending = Some((pid, signal));
                    self.go(pid, onward);
                }
                _ => {}
            }
        }
    }

    /// Has a thread stop whenever it is about to execute what lies at `address`, by the processor's debug registers: they
    /// see it before any probe there does. Of more than four addresses the last ones count.
    pub fn break_at(&mut self, thread: Pid, address: u64) {
        self.breakpoints.insert(0, address);
        self.breakpoints.truncate(4);
        let set = |number: usize, value: u64| {
            let place = std::mem::offset_of!(libc::user, u_debugreg) + number * 8;
            ptrace::write_user(thread, place as ptrace::AddressType, value.cast_signed()).unwrap();
        };
        // In register 7 every second bit from 0 enables an address for this thread; kinds and lengths of 0 mean execution.
        set(7, 0);
        let mut enabled = 0;
        for (number, address) in self.breakpoints.iter().enumerate() {
            set(number, *address);
            enabled |= 1 << (2 * number);
        }
        set(7, enabled);
    }

    /// Whether a thread stopped at one of those addresses.
    pub fn is_at_breakpoint(&self, thread: Pid) -> bool {
        self.breakpoints.contains(&Self::registers(thread)[16])
    }

    pub fn registers(thread: Pid) -> Registers {
        let r = ptrace::getregs(thread).unwrap();
        [
            r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
            r.r15, r.rip,
        ]
    }

    /// A word of the process' memory.
    pub fn read(&self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.read_bytes(address, &mut word)?;
        Some(u64::from_le_bytes(word))
    }

    pub fn read_bytes(&self, address: u64, into: &mut [u8]) -> Option<()> {
        use nix::sys::uio::{RemoteIoVec, process_vm_readv};
        let remote = [RemoteIoVec { base: usize::try_from(address).ok()?, len: into.len() }];
        let length = into.len();
        let read = process_vm_readv(self.pid(), &mut [std::io::IoSliceMut::new(into)], &remote).ok()?;
        (read == length).then_some(())
    }

    pub fn exec_mappings(&self) -> Vec<ExecMapping> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.child.id())).unwrap_or_default();
        maps.lines().filter_map(parse).collect()
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if self.exited {
            return;
        }
        let _ = self.child.kill();
        // Every traced thread must be reaped before the process can be.
        while let Ok(status) = waitpid(None, Some(own())) {
            if status.pid() == Some(self.pid()) && matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                break;
            }
        }
    }
}

/// Any thread that this thread traces, and none of another test's.
fn own() -> WaitPidFlag {
    WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD
}

/// `start-end r-xp offset dev inode   name`, where executable.
fn parse(line: &str) -> Option<ExecMapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = fields.next()?;
    let name = fields.nth(2).unwrap_or("").trim();
    permissions.contains('x').then_some(())?;
    let hex = |s| u64::from_str_radix(s, 16).ok();
    Some(ExecMapping { start: hex(start)?, end: hex(end)?, offset: hex(offset)?, name: name.to_owned() })
}

/// A program of this name on the search path.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| Path::is_file(file))
}
