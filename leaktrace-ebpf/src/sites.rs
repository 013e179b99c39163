//! Sites: the account of each (process, stack).

use leaktrace_common::abi::{
    self, Block, FRAMES_PER_CHUNK, MAX_CHUNKS, SITE_FRAMELESS, SITE_GUESSED, SITE_STOP_SHIFT, SITE_TRUNCATED,
    SITE_UNREADY, Scratch, Site, Thread, Walked,
};
use leaktrace_common::atomic;
use leaktrace_common::table::{self, Inserted, Place};
use leaktrace_common::unwind::Stop;

use crate::maps::{FRAME_KEYS, FRAMES, Keys, SCRATCH, SITE_KEYS, SITES, unknown};
use crate::{blocks, config, stats::lose, stretch::GOES_ON};

#[inline(always)]
fn keys() -> Keys {
    Keys::new(&SITE_KEYS, config::site_buckets())
}

/// The hash of a stack in a process: 64 bits, every bit of it dependent on every frame (MurmurHash3's mixing).
struct Hash(u64);

impl Hash {
    #[inline(always)]
    fn new(process: u32, layout: u64) -> Self {
        // Most processes have layout 0 for good.
        Self(u64::from(process) ^ layout.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[inline(always)]
    fn add(&mut self, word: u64) {
        let mut k = word.wrapping_mul(0x87c3_7b91_1142_53d5);
        k = k.rotate_left(31).wrapping_mul(0x4cf5_ad43_2745_937f);
        self.0 = (self.0 ^ k).rotate_left(27).wrapping_mul(5).wrapping_add(0x52dc_e729);
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.0 = (self.0 ^ self.0 >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.0 = (self.0 ^ self.0 >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        // 0 marks a free place.
        (self.0 ^ self.0 >> 33).max(1)
    }
}

const NONE: u64 = u64::MAX;
/// Set in what [`site_insert`] returns where the key was there already.
const PRESENT: u64 = 1 << 62;

/// How many of a stack's frames are kept.
#[inline(always)]
fn kept(walked: u64) -> usize {
    let (depth, limit) = (Walked::from_bits(walked).depth(), config::max_depth());
    if depth > limit { limit as usize } else { depth as usize }
}

/// Whether the stack had more frames than are kept.
#[inline(always)]
fn is_truncated(walked: u64) -> bool {
    Walked::from_bits(walked).depth() > config::max_depth()
}

/// Ends a stretch of at most `MOST` frames, the first of which is number `from` (0 in the `FIRST` stretch). Gives the key of the
/// stack in the scratch slot, or [`GOES_ON`] where the stretch was too short for it ([`Stop::TooDeep`]). Keeps what the walk has
/// to say, and the hash so far of one that goes on.
#[inline(always)]
pub fn end_of_stretch<const FIRST: bool, const MOST: usize>(
    process: u32,
    scratch: *mut Scratch,
    from: u32,
    walked: Walked,
) -> u64 {
    // Read back, so that the loop below is verified for any number of frames at once and not for each number apart.
    // SAFETY: the slot was claimed by our caller.
    let walked = unsafe {
        (&raw mut (*scratch).walked).write_volatile(walked.to_bits());
        (&raw const (*scratch).walked).read_volatile()
    };
    // SAFETY: as above.
    let frames = unsafe { &(*scratch).frames };
    let kept = kept(walked);
    // SAFETY: as above.
    let mut hash =
        if FIRST { Hash::new(process, unsafe { (*scratch).layout }) } else { Hash(unsafe { (*scratch).hash }) };
    let mut i = 0;
    while i < MOST {
        let index = if FIRST { i } else { unknown(u64::from(from) + i as u64) as usize };
        if index >= kept {
            break;
        }
        let Some(frame) = frames.get(index) else { break };
        hash.add(*frame);
        i += 1;
    }
    if Walked::from_bits(walked).flags() >> SITE_STOP_SHIFT == Stop::TooDeep as u32 && !is_truncated(walked) {
        // SAFETY: as above.
        unsafe { (*scratch).hash = hash.0 };
        return GOES_ON;
    }
    // Stacks that end for different reasons are different stacks, whatever frames they share. A stack that was cut is
    // the same however it goes on.
    hash.add(if is_truncated(walked) { 0 } else { u64::from(Walked::from_bits(walked).flags()) });
    hash.finish()
}

// The global functions below are verified once each, with arguments that may have any value; inlined into one another
// their loops would multiply.

/// The place of a site as a word, or [`NONE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn site_find(key: u64) -> u64 {
    table::find(&keys(), key).map_or(NONE, Place::word)
}

/// A place for a site, with [`PRESENT`] where it had one; [`NONE`] where the table is full.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn site_insert(key: u64) -> u64 {
    match table::insert(&keys(), key) {
        Inserted::New(place) => place.word(),
        Inserted::Present(place) => place.word() | PRESENT,
        Inserted::Full => NONE,
    }
}

/// Writes the frames of a new site and publishes it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn site_record(index: u32, process: u32, slot: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return 0 };
    // SAFETY: the slot was claimed by our caller.
    let (frames, walked, layout) = unsafe { (&(*scratch).frames, (*scratch).walked, (*scratch).layout) };
    let kept = kept(walked);
    if let Some(words) = FRAMES.get_ptr_mut(index) {
        let mut i = 0;
        while i < kept && i < FRAMES_PER_CHUNK {
            // SAFETY: an element of the map, at this site's own place.
            unsafe { (*words)[i] = frames[i] };
            i += 1;
        }
    }
    let mut flags = Walked::from_bits(walked).flags();
    if is_truncated(walked) {
        flags = SITE_TRUNCATED;
    }
    let mut depth = kept as u32;
    let mut chunk = 1;
    while chunk < MAX_CHUNKS && chunk * FRAMES_PER_CHUNK < kept {
        if unknown(frames_record(index, chunk as u32, slot)) == NONE {
            depth = (chunk * FRAMES_PER_CHUNK) as u32;
            flags = flags & (SITE_GUESSED | SITE_UNREADY) | (Stop::NoRoom as u32) << SITE_STOP_SHIFT;
            break;
        }
        chunk += 1;
    }
    if flags & SITE_TRUNCATED != 0 {
        lose!(stacks_truncated);
    }
    publish(index, process, layout, depth, flags);
    0
}

/// Writes those frames of a new site that are its chunk number `chunk`, from 1 on; [`NONE`] where there is no room.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn frames_record(index: u32, chunk: u32, slot: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return NONE };
    let keys = Keys::new(&FRAME_KEYS, config::frame_buckets());
    let place = match table::insert(&keys, abi::frames_key(index, chunk)) {
        // Nobody else can have inserted it: the index is this site's.
        Inserted::New(place) | Inserted::Present(place) => place,
        Inserted::Full => return NONE,
    };
    let Some(words) = FRAMES.get_ptr_mut(config::first_outer() + place.index()) else { return NONE };
    // Compared here and not before, since the oldest verifiers forget it of a number that was on the stack meanwhile.
    let chunk = unknown(u64::from(chunk)) as usize;
    if chunk >= MAX_CHUNKS {
        return NONE;
    }
    // SAFETY: the slot was claimed by our caller's caller; `chunk` was compared.
    let frames = unsafe { (&raw const (*scratch).frames).cast::<u64>().add(chunk * FRAMES_PER_CHUNK) };
    let mut i = 0;
    // All of them, however many the stack has: readers know its depth.
    while i < FRAMES_PER_CHUNK {
        // SAFETY: an element of the map, at this site's own place. Volatile, so that no call of memcpy is made of the loop.
        unsafe { (*words)[i] = frames.add(i).read_volatile() };
        i += 1;
    }
    0
}

/// The site of the stack in a scratch slot, by the key that the walk gave: its index plus one, 0 where there is no room for
/// another.
#[inline(always)]
pub fn site_of(process: u32, slot: u64, key: u64) -> u32 {
    let mut word = match table::find_first(&keys(), key) {
        Some(place) => place.word(),
        None => unknown(site_find(key)),
    };
    if word == NONE {
        word = unknown(site_insert(key));
        if word == NONE {
            return 0;
        }
        if word & PRESENT == 0 {
            site_record(Place::from_word(word).index(), process, slot);
        }
    }
    Place::from_word(word & !PRESENT).index() + 1
}

/// Makes the site that takes the blocks of a process whose stacks find no room. Its index plus one, or 0.
#[inline(always)]
pub fn frameless(process: u32) -> u32 {
    let key = Hash::new(process, 0).finish();
    let word = unknown(site_insert(key));
    if word == NONE {
        return 0;
    }
    let index = Place::from_word(word & !PRESENT).index();
    publish(index, process, 0, 0, SITE_FRAMELESS);
    index + 1
}

/// Completes a new site; readers skip it until its process is set.
#[inline(always)]
fn publish(index: u32, process: u32, layout: u64, depth: u32, flags: u32) {
    if let Some(site) = SITES.get_ptr_mut(index) {
        // SAFETY: an element of the map, this site's own. Nobody else writes these fields.
        unsafe {
            (&raw mut (*site).layout).write_volatile(layout);
            (&raw mut (*site).depth).write_volatile(depth);
            (&raw mut (*site).flags).write_volatile(flags);
            (&raw mut (*site).process).write_volatile(process);
        }
    }
}

/// Books what a block weighs as allocated at the site of this index plus one.
#[inline(always)]
pub fn count_alloc(site: u32, (bytes, count): (u64, u64)) {
    if let Some(site) = get(site) {
        // SAFETY: an element of the map; counters are written by atomics alone.
        unsafe {
            atomic::add(&raw mut (*site).alloc_bytes, bytes);
            atomic::add(&raw mut (*site).alloc_count, count);
        }
    }
}

/// Books what a block weighs as freed at the site of this index plus one, with how it ended.
#[inline(always)]
pub fn count_free(site: u32, (bytes, count): (u64, u64), end: End) {
    if let Some(site) = get(site) {
        // SAFETY: as above.
        unsafe {
            atomic::add(&raw mut (*site).free_bytes, bytes);
            atomic::add(&raw mut (*site).free_count, count);
            if end.is_temporary {
                atomic::add(&raw mut (*site).temporary_count, count);
            }
            let longest = &raw mut (*site).longest_life;
            let mut seen = longest.read_volatile();
            // Each failure means that another thread raised it meanwhile; as many in a row as CPUs can race.
            let mut attempt = 0;
            while end.life > seen && attempt < 16 {
                let held = atomic::compare_exchange_half(longest, seen, end.life);
                if held == seen {
                    break;
                }
                seen = held;
                attempt += 1;
            }
        }
    }
}

/// How a block ended.
#[derive(Clone, Copy)]
pub struct End {
    /// How long it had lived, jiffies.
    pub life: u32,
    /// Its thread has called nothing between its allocation and this.
    pub is_temporary: bool,
}

impl End {
    /// Nobody saw it.
    pub const UNSEEN: Self = Self { life: 0, is_temporary: false };

    /// A thread frees it now. The thread's last allocation is forgotten: its next call does not follow that any more.
    #[inline(always)]
    pub fn by(thread: *mut Thread, address: u64, record: &Block) -> Self {
        // SAFETY: the thread's own state.
        let last = unsafe { core::mem::take(&mut (*thread).last_allocated) };
        Self { life: abi::jiffies_since(record.time, blocks::now()), is_temporary: last == address }
    }
}

#[inline(always)]
fn get(site: u32) -> Option<*mut Site> {
    SITES.get_ptr_mut(site.wrapping_sub(1))
}
