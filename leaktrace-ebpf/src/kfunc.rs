//! Kernel functions without a helper number.
//!
//! aya resolves no kernel symbols, so calls to them are written as helper calls with numbers of our own
//! (`leaktrace_common::abi`), which the loader rewrites. Where the kernel has no such function, the code must be dead.

use core::ffi::c_void;

use leaktrace_common::abi::KFUNC_SESSION_COOKIE;

/// The word that the kernel keeps for a call between the two runs of a uprobe session's program: 0 at the entry, and at the
/// return what the entry has left there. Null where the program is in no session, though others are.
///
/// # Safety
/// Only in a program attached as a session, or kept from it by the loader, with that program's context.
#[inline(always)]
pub unsafe fn session_cookie(ctx: *mut c_void) -> *mut u64 {
    // SAFETY: a call to this number is what the loader looks for. The function takes the context from Linux 7.0 on, and
    // before nothing, so that the register is not looked at.
    unsafe {
        let function: unsafe extern "C" fn(*mut c_void) -> *mut u64 =
            core::mem::transmute(KFUNC_SESSION_COOKIE as usize);
        function(ctx)
    }
}
