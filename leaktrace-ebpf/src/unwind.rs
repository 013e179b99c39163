//! Walking a stack by the tables that userspace builds from `.eh_frame` (`leaktrace_common::unwind`).
//!
//! Each frame takes one rule, from the rule cache or, one time in thousands, by searching the process' mappings and the
//! mapping's table, or, where the list of mappings lacks the address, the kernel's own ([`vma`]). What frames save is read by way of the scratch slot's window.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use leaktrace_common::abi::{MAX_DEPTH, SITE_GUESSED, SITE_UNREADY, Scratch, UNWIND_AUTO, Walked};
use leaktrace_common::unwind::{
    CacheKey, Chunk, Chunks, Memory, ProcessWord, Regs, Rule, Stop, Walk, cache_word, cached_rule, find_rule,
    goes_second, is_cacheable, step_plain,
};

use crate::maps::{RULE_CACHE, SCRATCH, UNWIND_POOL, unknown};
use crate::registers::first_frame;
use crate::stretch::Stretch;
use crate::{config, process, sites, stack, vma};

/// Tables and lists of mappings.
pub struct Pool;

impl Chunks for Pool {
    #[inline(always)]
    fn chunk(&self, index: u32) -> Option<&Chunk> {
        UNWIND_POOL.get(index)
    }
}

/// The user's stack through a scratch slot's window.
struct Window {
    scratch: *mut Scratch,
    slot: u64,
}

impl Memory for Window {
    #[inline(always)]
    fn read(&mut self, address: u64) -> Option<u64> {
        stack::read_word(self.scratch, self.slot, address)
    }
}

/// Walks from an entry, of which `apart`, `sp` and `fp` are what [`first_frame`] takes. Leaves the frames in the scratch slot, one
/// more than may be kept if the stack has more.
/// Returns the stack's key, as [`sites::site_of`] takes it, or [`GOES_ON`](crate::stretch::GOES_ON) at the end of a stretch.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unwind_walk(slot: u64, process: u32, apart: u64, sp: u64, fp: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return 1 };
    let Some(life) = process::of(process) else { return 1 };
    // SAFETY: the slot was claimed by our caller; an element of the map.
    let list = unsafe {
        let layout = process::layout(life);
        (*scratch).length = 0;
        (*scratch).guesses = 0;
        (*scratch).layout = layout;
        process::unwind_list(life, layout)
    };
    let (ip, sp, fp) = first_frame(scratch, slot, apart, sp, fp);
    if ip == 0 {
        return sites::end_of_stretch::<true, 0>(process, scratch, 0, Walked::new(0, Stop::BadRead as u32, 0));
    }
    // SAFETY: as above.
    unsafe { (*scratch).list = list };
    walk::<true>(slot, process, scratch, Regs { ip, sp, fp }, 0, 0)
}

/// Goes on where [`unwind_walk`] or this has returned [`GOES_ON`](crate::stretch::GOES_ON), and returns the same.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unwind_walk_on(slot: u64, process: u32) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return 1 };
    // SAFETY: the slot was claimed by our caller.
    let ([ip, sp, fp, state], walked) = unsafe { ((*scratch).walk, (*scratch).walked) };
    walk::<false>(slot, process, scratch, Regs { ip, sp, fp }, state, Walked::from_bits(walked).depth())
}

/// A stretch of a walk that has `depth` frames already.
#[inline(always)]
fn walk<const FIRST: bool>(slot: u64, process: u32, scratch: *mut Scratch, regs: Regs, state: u64, depth: u32) -> u64 {
    let (mut regs, mut state, mut depth, from) = (regs, state, depth, if FIRST { 0 } else { depth });
    let mut memory = Window { scratch, slot };
    // SAFETY: the slot was claimed by our caller.
    let list = unsafe { (*scratch).list };
    let mut stop = Stop::TooDeep as u32;
    let mut stretch = Stretch::<FIRST>::new();
    while stretch.holds(depth) {
        let index = Stretch::<FIRST>::index(depth);
        if index > MAX_DEPTH {
            break;
        }
        // The way of nearly every frame, without a call; a walk's state is 0 at a return address that a row led to.
        let rule = cached(list, regs.ip.wrapping_sub(1));
        if rule.is_plain() && state == 0 {
            // SAFETY: the slot was claimed by our caller.
            unsafe { (*scratch).frames[index] = regs.ip };
            depth += 1;
            match step_plain(&regs, rule, &mut memory) {
                Ok(next) => regs = next,
                Err(why) => {
                    stop = why as u32;
                    break;
                }
            }
            continue;
        }
        // SAFETY: as above.
        unsafe { (*scratch).walk = [regs.ip, regs.sp, regs.fp, state] };
        let step = unknown(unwind_frame(slot, list, depth)) as u32;
        if step & 0xff != HAS_CALLER {
            depth += u32::from(step & IS_FRAME != 0);
            stop = step & 0xff;
            break;
        }
        depth += 1;
        // SAFETY: as above.
        let walk = unsafe { (*scratch).walk };
        regs = Regs { ip: walk[0], sp: walk[1], fp: walk[2] };
        state = walk[3];
    }
    if stop == Stop::TooDeep as u32 {
        // SAFETY: as above.
        unsafe { (*scratch).walk = [regs.ip, regs.sp, regs.fp, state] };
    }
    // SAFETY: as above.
    let guesses = unsafe { (*scratch).guesses } as u32;
    Stretch::<FIRST>::end(process, scratch, from, Walked::new(depth, stop, guesses))
}

/// What [`unwind_frame`] returns instead of a [`Stop`] where there is a next frame.
const HAS_CALLER: u32 = 0xff;
/// Set in what it returns where the frame is one.
const IS_FRAME: u32 = 1 << 16;

/// Records the frame that the walk in a scratch slot has come to, as frame number `depth`, and goes on to its caller.
///
/// A global function: verified once, not at every frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unwind_frame(slot: u64, list: u64, depth: u32) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return Stop::BadRead as u64 };
    // SAFETY: the slot was claimed by our caller's caller.
    let [ip, sp, fp, state] = unsafe { (*scratch).walk };
    let mut walk = Walk::resume(Regs { ip, sp, fp }, state);
    let rule = rule(slot, list, walk.lookup_address());
    if let Some(stop) = walk.refuses(rule) {
        return stop as u64;
    }
    let index = depth as usize;
    if index > MAX_DEPTH {
        return Stop::TooDeep as u64;
    }
    // SAFETY: as above.
    unsafe { (*scratch).frames[index] = ip };
    if let Err(stop) = walk.advance(rule, config::unwind() == UNWIND_AUTO, &mut Window { scratch, slot }) {
        return u64::from(stop as u32 | IS_FRAME);
    }
    let Regs { ip, sp, fp } = walk.regs();
    // SAFETY: as above.
    unsafe {
        (*scratch).walk = [ip, sp, fp, walk.state()];
        if walk.is_guess() {
            (*scratch).guesses |=
                u64::from(if walk.is_premature() { SITE_GUESSED | SITE_UNREADY } else { SITE_GUESSED });
        }
    }
    u64::from(HAS_CALLER | IS_FRAME)
}

/// The rule for an address, if the first way of the cache has it, or [`Rule::NONE`].
#[inline(always)]
fn cached(list: u64, address: u64) -> Rule {
    if let Some(key) = CacheKey::new(ProcessWord::from_bits(list), address)
        && let Some(word) = RULE_CACHE.get(key.slot)
    {
        // SAFETY: an element of the map, only ever stored whole.
        return cached_rule(key, unsafe { core::ptr::from_ref(word).read_volatile() });
    }
    Rule::NONE
}

/// What lies where a key's rule would be.
#[inline(always)]
fn word_at(key: CacheKey) -> u64 {
    // SAFETY: an element of the map, only ever stored whole.
    RULE_CACHE.get(key.slot).map_or(0, |word| unsafe { core::ptr::from_ref(word).read_volatile() })
}

/// The rule for an address, from the cache or else by searching, with the help of a scratch slot.
#[inline(always)]
fn rule(slot: u64, list: u64, address: u64) -> Rule {
    let rule = cached(list, address);
    if rule != Rule::NONE {
        return rule;
    }
    let rule = Rule::from_bits(unknown(cached_second(list, address)) as u32);
    if rule != Rule::NONE {
        return rule;
    }
    let rule = Rule::from_bits(unknown(unwind_find(list, address)) as u32);
    if config::knows_vma() != 0 && is_unlisted(list, rule) {
        let rule = Rule::from_bits(unknown(vma::vma_rule(slot, address, rule.to_bits())) as u32);
        if vma::may_be_trampoline(address, rule) {
            return Rule::from_bits(unknown(vma::vma_trampoline(slot, address)) as u32);
        }
        return rule;
    }
    rule
}

/// Whether a rule is missing because the process has no list of mappings yet, or one without the address.
#[inline(always)]
fn is_unlisted(list: u64, rule: Rule) -> bool {
    list == 0 || rule == Rule::unsupported(Stop::NoMapping)
}

/// The rule for an address, if the second way of the cache has it, as its bits.
///
/// A global function: verified once, not at every frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cached_second(list: u64, address: u64) -> u64 {
    let key = CacheKey::new(ProcessWord::from_bits(list), address).map(CacheKey::second);
    u64::from(key.map_or(Rule::NONE, |key| cached_rule(key, word_at(key))).to_bits())
}

/// The rule for an address in a list of mappings, as its bits; kept in the cache where it stays true.
///
/// A global function: verified once, not at every frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unwind_find(list: u64, address: u64) -> u64 {
    let process = ProcessWord::from_bits(list);
    let rule = find_rule(&Pool, process, address);
    if is_cacheable(rule)
        && let Some(first) = CacheKey::new(process, address)
    {
        let second = first.second();
        // SAFETY: the helper takes nothing.
        let coin = || unsafe { bpf_get_prandom_u32() };
        let key = if goes_second(word_at(first), word_at(second), coin) { second } else { first };
        if let Some(word) = RULE_CACHE.get_ptr_mut(key.slot) {
            // SAFETY: an element of the map; the word is stored whole, whoever else stores there.
            unsafe { word.write_volatile(cache_word(key, rule)) };
        }
    }
    u64::from(rule.to_bits())
}
