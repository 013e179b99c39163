//! Kernel functions without a helper number.
//!
//! aya resolves no kernel symbols, so calls to them are written as helper calls with numbers of our own
//! (`leaktrace_common::abi`), which the loader rewrites. Where the kernel has no such function, the code must be dead.

use core::ffi::c_void;

use leaktrace_common::abi::KFUNC_SESSION_IS_RETURN;

/// Whether the program of a uprobe session runs at the function's return.
///
/// # Safety
/// Only in a program attached as a session, with that program's context.
#[inline(always)]
pub unsafe fn session_is_return(ctx: *mut c_void) -> bool {
    // SAFETY: a call to this number is what the loader looks for; the function returns a C bool, of which only the low byte
    // means anything. It takes the context from Linux 7.0 on, and before nothing, so that the register is not looked at.
    unsafe {
        let function: unsafe extern "C" fn(*mut c_void) -> u64 = core::mem::transmute(KFUNC_SESSION_IS_RETURN as usize);
        function(ctx) as u8 != 0
    }
}
