//! Why a process is not copied. It has not been changed then.

use std::io;

use crate::model::Pid;

/// Why there is no copy of a process. The process is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// System calls are injected by the registers of one kind of processor.
    #[error("processes can be copied on x86-64 only")]
    Machine,
    /// There is nothing left to copy.
    #[error("process {0} has ended: its memory is no longer there")]
    Ended(Pid),
    /// What was examined is gone.
    #[error("process {0} executed another program meanwhile; try again")]
    Replaced(Pid),
    /// It runs again already.
    #[error("process {0} runs again: it was stopped for too long to be copied")]
    Released(Pid),
    /// Registers may be changed only where the program cannot notice.
    #[error("process {0} cannot be copied now: none of its threads waits in a system call; try again later")]
    Busy(Pid),
    /// The threads that wait have no stack on which a way back could be written.
    #[error(
        "process {0} cannot be copied: no thread that waits in a system call has enough room in memory below its stack pointer, \
         on a stack that is known to be one"
    )]
    Stack(Pid),
    /// There is no way back without them.
    #[error(
        "process {0} cannot be copied: its code has no plain system call or no return from signal handlers, which it would be \
         copied by"
    )]
    Code(Pid),
    /// A filter may kill for a system call that it does not expect.
    #[error("process {0} cannot be copied: seccomp restricts its system calls, and might kill it for one more")]
    Seccomp(Pid),
    /// Returns have to be where calls were.
    #[error("process {0} cannot be copied: its shadow stack permits no return that no call preceded")]
    ShadowStack(Pid),
    /// Calls outside of a certain range are signals.
    #[error("process {0} cannot be copied: it handles its system calls itself (PR_SET_SYSCALL_USER_DISPATCH)")]
    Dispatch(Pid),
    /// Its stacks lie in its heap and end anywhere.
    #[error(
        "process {0} cannot be copied: it is a Go program, whose stacks have no room for more than Go itself needs"
    )]
    Go(Pid),
    /// The copy would become its child.
    #[error(
        "process {0} cannot be copied: it adopts orphans, as pid 1 of a container or by PR_SET_CHILD_SUBREAPER, and would see its copy as a child"
    )]
    Adopts(Pid),
    /// Nobody would reap the copy.
    #[error(
        "process {pid} cannot be copied: process {init}, the first of its container, does not wait for orphans, and would keep its copy as a zombie"
    )]
    Unreaped {
        /// The process.
        pid: Pid,
        /// Its container's first process, by our numbers.
        init: Pid,
    },
    /// After a fork it might find none of them left.
    #[error(
        "process {0} cannot be copied: it has private huge pages, and would be killed if it wrote to one while none was left"
    )]
    HugePages(Pid),
    /// What a device still writes might go to the copy.
    #[error(
        "process {0} cannot be copied: it uses asynchronous input and output (io_uring or io_submit), which may be under way"
    )]
    AsynchronousIo(Pid),
    /// A fork may wait for an answer of the process that is stopped.
    #[error(
        "process {0} cannot be copied: it handles page faults itself (userfaultfd), and would have to while it is stopped"
    )]
    PageFaults(Pid),
    /// Each page that is written while there is a copy is there twice.
    #[error(
        "process {pid} cannot be copied: if it wrote to all of its {} MiB meanwhile, the memory of the machine or of its control \
         group would not suffice, of which {} MiB are free",
        .needed >> 20, .free >> 20
    )]
    Memory {
        /// The process.
        pid: Pid,
        /// Bytes that may have to be copied.
        needed: u64,
        /// Bytes that are there.
        free: u64,
    },
    /// The kernel would book all of it twice.
    #[error("process {0} cannot be copied: this machine grants no more memory than it has (vm.overcommit_memory is 2)")]
    Commitment(Pid),
    /// It could not create threads meanwhile.
    #[error("process {pid} cannot be copied: its control group or its user may have only {left} tasks more")]
    Tasks {
        /// The process.
        pid: Pid,
        /// How many.
        left: u64,
    },
    /// A stopped job may not run for a moment.
    #[error("process {0} cannot be copied while it is stopped by a signal; continue it (SIGCONT), then try again")]
    JobControl(Pid),
    /// A signal, or something else that stops a thread, came between.
    #[error("process {0} was not copied: something else happened to it at the same time; try again")]
    Disturbed(Pid),
    /// It takes longer than the process may be stopped.
    #[error("process {0} was not copied: that took longer than it may be stopped")]
    Late(Pid),
    /// Something that should not fail did.
    #[error("process {pid} was not copied: {doing} failed ({error})")]
    Kernel {
        /// The process.
        pid: Pid,
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl Refused {
    pub(super) fn kernel(pid: Pid, doing: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => Self::Ended(pid),
            _ => Self::Kernel { pid, doing, error },
        }
    }
}
