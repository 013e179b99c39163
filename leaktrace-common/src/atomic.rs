//! Atomic operations on words in map memory, by raw pointer.
//!
//! `core::sync::atomic` offers no read-modify-write on the BPF target (its specification says the target has no
//! compare-and-swap, which was true before BPF v3), so the intrinsics are called there. The kernel supports these
//! instructions from 5.12. All of them are full barriers in BPF, hence `SeqCst` on the host.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Stores `new` where `word` holds `old`. Returns what `word` held: the exchange happened if that equals `old`.
///
/// # Safety
/// `word` must be valid for reads and writes, 8-byte aligned, and only ever accessed atomically by others.
#[inline(always)]
pub unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
        atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word, old, new).0
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    match unsafe { AtomicU64::from_ptr(word) }.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(held) | Err(held) => held,
    }
}

/// [`compare_exchange`] of half a word.
///
/// # Safety
/// As [`compare_exchange`]; `word` must be 4-byte aligned.
#[inline(always)]
pub unsafe fn compare_exchange_half(word: *mut u32, old: u32, new: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
        atomic_cxchg::<u32, { SeqCst }, { SeqCst }>(word, old, new).0
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    match unsafe { AtomicU32::from_ptr(word) }.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(held) | Err(held) => held,
    }
}

/// Stores `new`, returns what `word` held.
///
/// # Safety
/// As [`compare_exchange`].
#[inline(always)]
pub unsafe fn exchange(word: *mut u64, new: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        use core::intrinsics::{AtomicOrdering::SeqCst, atomic_xchg};
        atomic_xchg::<u64, { SeqCst }>(word, new)
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe { AtomicU64::from_ptr(word) }.swap(new, Ordering::SeqCst)
}

/// Adds `delta` (wrapping: pass `n.wrapping_neg()` to subtract), returns what `word` held before.
///
/// # Safety
/// As [`compare_exchange`].
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, delta: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        use core::intrinsics::{AtomicOrdering::SeqCst, atomic_xadd};
        atomic_xadd::<u64, u64, { SeqCst }>(word, delta)
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe { AtomicU64::from_ptr(word) }.fetch_add(delta, Ordering::SeqCst)
}

/// Adds `delta` and returns nothing, which the kernel compiles to a plain locked add.
///
/// # Safety
/// As [`compare_exchange`].
#[inline(always)]
pub unsafe fn add(word: *mut u64, delta: u64) {
    // SAFETY: the caller's promise.
    unsafe { fetch_add(word, delta) };
}

/// Reads `word` once, whole.
///
/// # Safety
/// As [`compare_exchange`].
#[inline(always)]
#[must_use]
pub unsafe fn load(word: *const u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        word.read_volatile()
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise; the memory is never truly read-only (it is a shared mapping the kernel writes).
    unsafe { AtomicU64::from_ptr(word.cast_mut()) }.load(Ordering::SeqCst)
}

/// Writes `word` once, whole.
///
/// # Safety
/// As [`compare_exchange`].
#[inline(always)]
pub unsafe fn store(word: *mut u64, value: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        word.write_volatile(value)
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe { AtomicU64::from_ptr(word) }.store(value, Ordering::SeqCst);
}
