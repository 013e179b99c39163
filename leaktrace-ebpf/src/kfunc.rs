//! Kernel functions without a helper number.
//!
//! aya resolves no kernel symbols, so calls to them are written as helper calls with numbers of our own
//! (`leaktrace_common::abi`), which the loader rewrites. Where the kernel has no such function, the code must be dead.

use leaktrace_common::abi::KFUNC_SESSION_IS_RETURN;

/// Whether the program of a uprobe session runs at the function's return.
///
/// # Safety
/// Only in a program attached as a session.
#[inline(always)]
pub unsafe fn session_is_return() -> bool {
    // SAFETY: a call to this number is what the loader looks for; the function takes nothing and returns a C bool, of
    // which only the low byte means anything.
    unsafe {
        let function: unsafe extern "C" fn() -> u64 = core::mem::transmute(KFUNC_SESSION_IS_RETURN as usize);
        function() as u8 != 0
    }
}
