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

pub use arch::{first_frame, frame, instruction, register, result, returned_sp, returns_to_kernel};

/// Beside an instruction's address for [`first_frame`]: no address of a program has this bit.
pub const KNOWN: u64 = 1 << 63;

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
    use leaktrace_common::abi::Scratch;
    use leaktrace_common::cookie::{self, Register};
    use leaktrace_common::whole;

    use super::{Entry, KNOWN, Placement};
    use crate::maps::unknown;
    use crate::stack;

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

        /// The frame pointer, still the caller's unless [`Self::apart`] says where that is.
        #[inline(always)]
        pub fn fp(&self) -> u64 {
            self.regs().rbp
        }

        /// Where the caller's frame pointer is on the stack, for [`first_frame`]; 0 where it is in its register.
        #[inline(always)]
        pub fn apart(&self) -> u64 {
            let below = if P::MAPPED { whole::cookie_slot(self.cookie, whole::COOKIE_FRAME_SHIFT) } else { 0 };
            if below == 0 { 0 } else { self.sp().wrapping_sub(below) }
        }

        /// Whether the call is one that counts at this probe, by the zero flag.
        #[inline(always)]
        pub fn counts(&self) -> bool {
            const ZERO: u64 = 1 << 6;
            let only = self.cookie & (whole::COOKIE_IF_ZERO | whole::COOKIE_IF_NOT_ZERO);
            only == 0 || (only == whole::COOKIE_IF_ZERO) == (self.regs().eflags & ZERO != 0)
        }

        /// Of a [`FUNCTION_ALLOCATED`](whole::FUNCTION_ALLOCATED): the size that was asked for, and what will be returned.
        #[inline(always)]
        pub fn size_and_result(&self) -> (u64, u64) {
            let (mut size, result) = self.ab();
            let below = whole::cookie_slot(self.cookie, whole::COOKIE_SIZE_SHIFT);
            if below != 0 {
                // SAFETY: the helper checks the address. It is in the frame that was just used.
                size = unsafe { bpf_probe_read_user(self.sp().wrapping_sub(below) as *const u64) }.unwrap_or(0);
            }
            (size, result)
        }

        /// Where the function will return to; 0 where that cannot be read.
        #[inline(always)]
        pub fn return_address(&self) -> u64 {
            // SAFETY: the helper checks the address.
            unsafe { bpf_probe_read_user(self.sp() as *const u64) }.unwrap_or(0)
        }
    }

    /// Where a call that was entered with the stack pointer `sp` will return to, or 0, and the caller's stack and frame pointers: what
    /// is pushed at the call is gone after the return. The frame pointer is `fp`, or at `apart` if that is not 0. Both are read at
    /// once: the window of scratch slot `slot` goes up from the first word that is asked for. With [`KNOWN`] in `apart` the rest of it
    /// is where the innermost frame is, and `sp` and `fp` are that one's.
    #[inline(always)]
    pub fn first_frame(scratch: *mut Scratch, slot: u64, apart: u64, sp: u64, fp: u64) -> (u64, u64, u64) {
        let (mut ip, mut fp) = (0, fp);
        if apart == 0 {
            ip = stack::first_word(scratch, sp).unwrap_or(0);
        } else if apart & KNOWN != 0 {
            return (apart & !KNOWN, sp, fp);
        } else if let Some(saved) = stack::read_word(scratch, slot, apart) {
            // By the call that this makes: of a window that is filled here the compiler knows the length, and leaves out the bounds that
            // the oldest verifiers need.
            fp = saved;
            ip = stack::read_word(scratch, slot, sp).unwrap_or(0);
        }
        (unknown(ip), sp + 8, unknown(fp))
    }

    /// Where the probe is.
    #[inline(always)]
    pub fn instruction(ctx: &ProbeContext) -> u64 {
        // SAFETY: the context of a uprobe program is a `pt_regs`.
        unsafe { (*ctx.regs).rip }
    }

    /// The stack pointer and the frame pointer there.
    #[inline(always)]
    pub fn frame(ctx: &ProbeContext) -> (u64, u64) {
        // SAFETY: as above.
        unsafe { ((*ctx.regs).rsp, (*ctx.regs).rbp) }
    }

    /// A register there, by its number in instruction encodings.
    #[inline(always)]
    pub fn register(ctx: &ProbeContext, number: u8) -> u64 {
        // SAFETY: as above.
        by_number(unsafe { &*ctx.regs }, Register(number))
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
    use leaktrace_common::abi::Scratch;

    use super::{Entry, KNOWN, Placement};

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

        /// Where the function will return to, for [`first_frame`].
        #[inline(always)]
        pub fn apart(&self) -> u64 {
            self.return_address()
        }

        /// Whether the call is one that counts at this probe.
        #[inline(always)]
        pub fn counts(&self) -> bool {
            true
        }

        /// Of a call that one probe sees whole, which there is none of on this architecture.
        #[inline(always)]
        pub fn size_and_result(&self) -> (u64, u64) {
            self.ab()
        }

        /// Where the function will return to.
        #[inline(always)]
        pub fn return_address(&self) -> u64 {
            self.regs().regs[30]
        }
    }

    /// Where a call will return to, or the innermost frame is (`apart`, with or without [`KNOWN`]), and its stack and frame pointers.
    #[inline(always)]
    pub fn first_frame(_scratch: *mut Scratch, _slot: u64, apart: u64, sp: u64, fp: u64) -> (u64, u64, u64) {
        (apart & !KNOWN, sp, fp)
    }

    /// Where the probe is.
    #[inline(always)]
    pub fn instruction(ctx: &ProbeContext) -> u64 {
        // SAFETY: the context of a uprobe program begins with a `user_pt_regs`.
        unsafe { (*ctx.regs.cast::<user_pt_regs>()).pc }
    }

    /// The stack pointer and the frame pointer there.
    #[inline(always)]
    pub fn frame(ctx: &ProbeContext) -> (u64, u64) {
        // SAFETY: as above.
        let regs = unsafe { &*ctx.regs.cast::<user_pt_regs>() };
        (regs.sp, regs.regs[29])
    }

    macro_rules! load {
        ($regs:ident + $offset:expr) => {{
            let value: u64;
            // SAFETY: reads a field of the context at its own offset.
            unsafe {
                core::arch::asm!(
                    "{value} = *(u64 *)({regs} + {offset})",
                    value = out(reg) value,
                    regs = in(reg) $regs,
                    offset = const $offset,
                    options(nostack, readonly, preserves_flags),
                );
            }
            value
        }};
    }

    macro_rules! by_number {
        ($regs:ident, $number:ident: $($known:literal)*) => {
            match $number {
                $($known => load!($regs + $known * 8),)*
                // The stack pointer, which follows the others.
                _ => load!($regs + core::mem::offset_of!(user_pt_regs, sp)),
            }
        };
    }

    /// A register there by its number: `x0` to `x30`, and the stack pointer. Each load by hand, since the context may be read at fixed
    /// offsets only.
    #[inline(always)]
    pub fn register(ctx: &ProbeContext, number: u8) -> u64 {
        let regs = ctx.regs.cast::<user_pt_regs>();
        by_number!(regs, number:
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30)
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
