//! The registers at a probe: stack pointer, frame pointer, and the arguments wherever the probe site has them.

use core::ffi::c_void;
use core::marker::PhantomData;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use aya_ebpf::helpers::{self, bpf_get_attach_cookie, bpf_probe_read_kernel};
use aya_ebpf::programs::ProbeContext;
use leaktrace_common::abi::{self, EVENT_THREAD, Event, THREAD_REGISTERS, ThreadEvent};

use crate::config;
use crate::maps::EVENTS;
use crate::process::Id;
use crate::stats::lose;

pub use arch::{instruction, result, returned_sp, returns_to_kernel};

/// Where a probe's arguments are.
pub trait Placement {
    /// Whether the attach cookie tells.
    const MAPPED: bool;
}

/// The probe is where the arguments are in the registers of the calling convention and the stack pointer is that of
/// the entry.
pub struct Standard;

/// The probe is further in; the cookie tells (`leaktrace_common::cookie`).
pub struct Mapped;

impl Placement for Standard {
    const MAPPED: bool = false;
}

impl Placement for Mapped {
    const MAPPED: bool = true;
}

/// An entry probe being handled.
pub struct Entry<'a, P> {
    ctx: &'a ProbeContext,
    cookie: u64,
    placement: PhantomData<P>,
}

impl<'a, P: Placement> Entry<'a, P> {
    #[inline(always)]
    pub fn new(ctx: &'a ProbeContext) -> Self {
        // SAFETY: the helper takes the context and nothing else.
        let cookie = if P::MAPPED { unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } } else { 0 };
        Self { ctx, cookie, placement: PhantomData }
    }

    /// Which function this is: one of the `FUNCTION_` constants.
    #[inline(always)]
    pub fn function(&self) -> u32 {
        abi::cookie_function(self.cookie)
    }

    /// Whether the function calls no other probed one. Plain probes are set on such functions only.
    #[inline(always)]
    pub fn is_leaf(&self) -> bool {
        !P::MAPPED || self.cookie & abi::COOKIE_LEAF != 0
    }

    /// Whether probes on the function's ways out see its returns.
    #[inline(always)]
    pub fn has_exits(&self) -> bool {
        P::MAPPED && self.cookie & abi::COOKIE_EXITS != 0
    }

    /// Whether the allocator calls this function itself at a thread's end. Asked seldom, so that plain probes need no cookie.
    #[inline(always)]
    pub fn empties_thread_cache(&self) -> bool {
        // SAFETY: the helper takes the context and nothing else.
        let cookie = if P::MAPPED { self.cookie } else { unsafe { bpf_get_attach_cookie(self.ctx.as_ptr()) } };
        cookie & abi::COOKIE_THREAD_CACHE != 0
    }

    #[inline(always)]
    pub fn ctx(&self) -> &ProbeContext {
        self.ctx
    }

    /// The address of the probe.
    #[inline(always)]
    pub fn ip(&self) -> u64 {
        instruction(self.ctx)
    }
}

/// Tells userspace the registers with which the current thread came into the kernel for the last time, unless it ends by
/// itself.
#[inline(always)]
pub fn tell_end(id: Id) {
    let Some(mut entry) = EVENTS.reserve::<ThreadEvent>(0) else {
        lose!(events_lost);
        return;
    };
    let told = entry.as_mut_ptr();
    // SAFETY: the ring gives room for the event, all of which is written; the helpers check what they read, and userspace looked
    // up where the fields of a task are.
    let ends_by_itself = unsafe {
        let task = bpf_get_current_task_btf();
        let tgid = id.tgid() as u32;
        (&raw mut (*told).event).write(Event { kind: EVENT_THREAD, process: 0, tgid, seen: 0 });
        (*told).tid = id.tid();
        let base = |offset: u32| {
            if offset == 0 {
                0
            } else {
                bpf_probe_read_kernel(task.cast::<u8>().add(offset as usize).cast::<u64>()).unwrap_or(0)
            }
        };
        (*told).bases = [base(config::thread_base()), base(config::thread_gs_base())];
        let registers = &raw mut (*told).registers;
        registers.write([0; THREAD_REGISTERS]);
        let from = bpf_task_pt_regs(task) as *const c_void;
        let result = helpers::generated::bpf_probe_read_kernel(registers.cast(), (arch::REGISTERS * 8) as u32, from);
        result != 0 || arch::ends_by_itself(&*registers)
    };
    if ends_by_itself { entry.discard(0) } else { entry.submit(0) }
}

#[cfg(bpf_target_arch = "x86_64")]
mod arch {
    use aya_ebpf::bindings::pt_regs;
    use aya_ebpf::helpers::bpf_probe_read_user;
    use aya_ebpf::programs::{ProbeContext, RetProbeContext};
    use leaktrace_common::cookie::{self, Register};

    use super::{Entry, Placement};

    /// Words in `struct pt_regs`.
    pub const REGISTERS: usize = 21;

    /// Whether a thread with these registers has called `exit`, not `exit_group`, and was not killed: by `orig_rax`.
    #[inline(always)]
    pub fn ends_by_itself(registers: &[u64]) -> bool {
        const EXIT: u64 = 60;
        registers[15] == EXIT
    }

    impl<P: Placement> Entry<'_, P> {
        #[inline(always)]
        fn regs(&self) -> &pt_regs {
            // SAFETY: the context of a uprobe program is a `pt_regs`.
            unsafe { &*self.ctx.regs }
        }

        /// The first two arguments that matter. Where they are is asked once for both: most functions have them where the
        /// calling convention does.
        #[inline(always)]
        pub fn ab(&self) -> (u64, u64) {
            if !P::MAPPED || cookie::begins_as_called(self.cookie) {
                (self.regs().rdi, self.regs().rsi)
            } else {
                let register = |argument| by_number(self.regs(), cookie::register(self.cookie, argument));
                (register(0), register(1))
            }
        }

        /// The first of them.
        #[inline(always)]
        pub fn a(&self) -> u64 {
            self.ab().0
        }

        /// The third.
        #[inline(always)]
        pub fn c(&self) -> u64 {
            if P::MAPPED { by_number(self.regs(), cookie::register(self.cookie, 2)) } else { self.regs().rdx }
        }

        /// The stack pointer at the function's entry: the address of the return address.
        #[inline(always)]
        pub fn sp(&self) -> u64 {
            self.regs().rsp + cookie::stack_shift(self.cookie)
        }

        /// The frame pointer, still the caller's.
        #[inline(always)]
        pub fn fp(&self) -> u64 {
            self.regs().rbp
        }

        /// Where the function will return to, if a register says; 0 where it stands on the stack.
        #[inline(always)]
        pub fn caller(&self) -> u64 {
            0
        }

        /// Where the function will return to; 0 where that cannot be read.
        #[inline(always)]
        pub fn return_address(&self) -> u64 {
            // SAFETY: the helper checks the address.
            unsafe { bpf_probe_read_user(self.sp() as *const u64) }.unwrap_or(0)
        }
    }

    /// Where the probe is.
    #[inline(always)]
    pub fn instruction(ctx: &ProbeContext) -> u64 {
        // SAFETY: the context of a uprobe program is a `pt_regs`.
        unsafe { (*ctx.regs).rip }
    }

    /// Whether the call that was entered with this stack pointer is still under way, as far as its return address tells:
    /// the kernel has put the address of its return trampoline there, which begins a page. A call that was left by longjmp
    /// keeps it only until the stack is used again.
    #[inline(always)]
    pub fn returns_to_kernel(sp: u64) -> bool {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user(sp as *const u64) }.map_or(true, |address| address & 0xfff == 0)
    }

    /// At a return: the stack pointer that the entry had. The return address has been popped since.
    #[inline(always)]
    pub fn returned_sp(ctx: &RetProbeContext) -> u64 {
        // SAFETY: the context of a uretprobe program is a `pt_regs`.
        unsafe { (*ctx.regs).rsp - 8 }
    }

    /// At a return: what the function returned.
    #[inline(always)]
    pub fn result(ctx: &RetProbeContext) -> u64 {
        // SAFETY: as above.
        unsafe { (*ctx.regs).rax }
    }

    macro_rules! load {
        ($regs:ident.$field:ident) => {{
            let value: u64;
            // SAFETY: reads a field of the context at its own offset.
            unsafe {
                core::arch::asm!(
                    "{value} = *(u64 *)({regs} + {offset})",
                    value = out(reg) value,
                    regs = in(reg) core::ptr::from_ref($regs),
                    offset = const core::mem::offset_of!(pt_regs, $field),
                    options(nostack, readonly, preserves_flags),
                );
            }
            value
        }};
    }

    /// A register by its number in instruction encodings. The context may be read at fixed offsets only, and the
    /// compiler would turn sixteen of those into one at a computed offset: hence each load by hand.
    #[inline(always)]
    fn by_number(regs: &pt_regs, register: Register) -> u64 {
        match register.0 {
            0 => load!(regs.rax),
            1 => load!(regs.rcx),
            2 => load!(regs.rdx),
            3 => load!(regs.rbx),
            4 => load!(regs.rsp),
            5 => load!(regs.rbp),
            6 => load!(regs.rsi),
            7 => load!(regs.rdi),
            8 => load!(regs.r8),
            9 => load!(regs.r9),
            10 => load!(regs.r10),
            11 => load!(regs.r11),
            12 => load!(regs.r12),
            13 => load!(regs.r13),
            14 => load!(regs.r14),
            _ => load!(regs.r15),
        }
    }
}

#[cfg(bpf_target_arch = "aarch64")]
mod arch {
    use aya_ebpf::bindings::user_pt_regs;
    use aya_ebpf::programs::{ProbeContext, RetProbeContext};

    use super::{Entry, Placement};

    /// Words in `struct user_pt_regs`.
    pub const REGISTERS: usize = 34;

    /// Whether a thread with these registers has called `exit`, not `exit_group`, and was not killed: by x8.
    #[inline(always)]
    pub fn ends_by_itself(registers: &[u64]) -> bool {
        const EXIT: u64 = 93;
        registers[8] == EXIT
    }

    // Probes are never moved on this architecture: its kernel steps no instruction that allocators begin with.
    impl<P: Placement> Entry<'_, P> {
        #[inline(always)]
        fn regs(&self) -> &user_pt_regs {
            // SAFETY: the context of a uprobe program begins with a `user_pt_regs`.
            unsafe { &*self.ctx.regs.cast() }
        }

        /// The first two arguments.
        #[inline(always)]
        pub fn ab(&self) -> (u64, u64) {
            (self.regs().regs[0], self.regs().regs[1])
        }

        /// The first of them.
        #[inline(always)]
        pub fn a(&self) -> u64 {
            self.ab().0
        }

        /// The third.
        #[inline(always)]
        pub fn c(&self) -> u64 {
            self.regs().regs[2]
        }

        /// The stack pointer at the function's entry.
        #[inline(always)]
        pub fn sp(&self) -> u64 {
            self.regs().sp
        }

        /// The frame pointer, still the caller's.
        #[inline(always)]
        pub fn fp(&self) -> u64 {
            self.regs().regs[29]
        }

        /// Where the function will return to, if a register says; 0 where it stands on the stack.
        #[inline(always)]
        pub fn caller(&self) -> u64 {
            self.return_address()
        }

        /// Where the function will return to.
        #[inline(always)]
        pub fn return_address(&self) -> u64 {
            self.regs().regs[30]
        }
    }

    /// Where the probe is.
    #[inline(always)]
    pub fn instruction(ctx: &ProbeContext) -> u64 {
        // SAFETY: the context of a uprobe program begins with a `user_pt_regs`.
        unsafe { (*ctx.regs.cast::<user_pt_regs>()).pc }
    }

    /// Whether the call that was entered with this stack pointer is still under way: the return address was in a register,
    /// which tells nothing later.
    #[inline(always)]
    pub fn returns_to_kernel(_sp: u64) -> bool {
        true
    }

    /// At a return: the stack pointer that the entry had.
    #[inline(always)]
    pub fn returned_sp(ctx: &RetProbeContext) -> u64 {
        // SAFETY: the context of a uretprobe program begins with a `user_pt_regs`.
        unsafe { (*ctx.regs.cast::<user_pt_regs>()).sp }
    }

    /// At a return: what the function returned.
    #[inline(always)]
    pub fn result(ctx: &RetProbeContext) -> u64 {
        // SAFETY: as above.
        unsafe { (*ctx.regs.cast::<user_pt_regs>()).regs[0] }
    }
}
