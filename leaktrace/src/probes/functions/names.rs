//! The fixed part of the table: every name, by family, with its arguments.
//!
//! Sources: POSIX and C23 for the C names, glibc's and musl's sources for their aliases, jemalloc(3), gperftools'
//! `tcmalloc.h`, Google tcmalloc's `internal_malloc_extension.h`, mimalloc's `mimalloc.h` (1.8 to 3.6), oneTBB's
//! `scalable_allocator.h`, `rpmalloc.h`, snmalloc's Rust bindings, the Itanium C++ ABI for the mangled operators.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::kind::Kind::{Calloc, Free, Malloc, Memalign, PosixMemalign, Realloc, ReallocArray, Strdup, Xallocx};
use super::kind::{Family, Kind, Listed, Signature};

type Entry = (&'static str, Signature);

/// A function whose arguments are where its kind expects them.
const fn at(name: &'static str, kind: Kind) -> Entry {
    (name, Signature::shifted(kind, 0))
}

/// The same behind `by` further arguments (a heap, an alignment).
const fn behind(name: &'static str, kind: Kind, by: u8) -> Entry {
    (name, Signature::shifted(kind, by))
}

/// A function with its A, B and C elsewhere.
const fn placed(name: &'static str, kind: Kind, positions: [u8; 3]) -> Entry {
    (name, Signature { kind, positions })
}

/// The C library's own names.
pub(super) const C: &[Entry] = &[
    at("malloc", Malloc),
    at("calloc", Calloc),
    at("realloc", Realloc),
    at("reallocarray", ReallocArray),
    at("memalign", Memalign),
    at("aligned_alloc", Memalign),
    at("posix_memalign", PosixMemalign),
    at("valloc", Malloc),
    at("pvalloc", Malloc),
    at("free", Free),
    at("cfree", Free),
    at("free_sized", Free),
    at("free_aligned_sized", Free),
];

/// jemalloc's non-standard interface; also behind whatever prefix it was built with.
pub(super) const JEMALLOC: &[Entry] =
    &[at("mallocx", Malloc), at("rallocx", Realloc), at("xallocx", Xallocx), at("dallocx", Free), at("sdallocx", Free)];

/// Prefixes of well-known builds of jemalloc: its own (redis, and many who bundle it), Rust's, FreeBSD's.
pub(super) const PREFIXES: &[&str] = &["je_", "_rjem_", "__je_"];

const C_ALIASES: &[Entry] = &[
    at("__libc_malloc", Malloc),
    at("__libc_calloc", Calloc),
    at("__libc_realloc", Realloc),
    at("__libc_reallocarray", ReallocArray),
    at("__libc_memalign", Memalign),
    at("__libc_aligned_alloc", Memalign),
    at("__posix_memalign", PosixMemalign),
    at("__libc_posix_memalign", PosixMemalign),
    at("__libc_valloc", Malloc),
    at("__libc_pvalloc", Malloc),
    at("__libc_free", Free),
    at("__libc_cfree", Free),
];

const TCMALLOC: &[Entry] = &[
    at("tc_malloc", Malloc),
    at("tc_malloc_skip_new_handler", Malloc),
    at("tc_calloc", Calloc),
    at("tc_realloc", Realloc),
    at("tc_memalign", Memalign),
    at("tc_posix_memalign", PosixMemalign),
    at("tc_valloc", Malloc),
    at("tc_pvalloc", Malloc),
    at("tc_new", Malloc),
    at("tc_new_nothrow", Malloc),
    at("tc_new_aligned", Malloc),
    at("tc_new_aligned_nothrow", Malloc),
    at("tc_newarray", Malloc),
    at("tc_newarray_nothrow", Malloc),
    at("tc_newarray_aligned", Malloc),
    at("tc_newarray_aligned_nothrow", Malloc),
    at("tc_free", Free),
    at("tc_cfree", Free),
    at("tc_free_sized", Free),
    at("tc_free_aligned_sized", Free),
    at("tc_delete", Free),
    at("tc_delete_nothrow", Free),
    at("tc_delete_sized", Free),
    at("tc_delete_aligned", Free),
    at("tc_delete_aligned_nothrow", Free),
    at("tc_delete_sized_aligned", Free),
    at("tc_deletearray", Free),
    at("tc_deletearray_nothrow", Free),
    at("tc_deletearray_sized", Free),
    at("tc_deletearray_aligned", Free),
    at("tc_deletearray_aligned_nothrow", Free),
    at("tc_deletearray_sized_aligned", Free),
    at("TCMallocInternalMalloc", Malloc),
    at("TCMallocInternalCalloc", Calloc),
    at("TCMallocInternalRealloc", Realloc),
    at("TCMallocInternalReallocArray", ReallocArray),
    at("TCMallocInternalMemalign", Memalign),
    at("TCMallocInternalAlignedAlloc", Memalign),
    at("TCMallocInternalPosixMemalign", PosixMemalign),
    at("TCMallocInternalValloc", Malloc),
    at("TCMallocInternalPvalloc", Malloc),
    at("TCMallocInternalNew", Malloc),
    at("TCMallocInternalNewNothrow", Malloc),
    at("TCMallocInternalNewAligned", Malloc),
    at("TCMallocInternalNewAlignedNothrow", Malloc),
    at("TCMallocInternalNewArray", Malloc),
    at("TCMallocInternalNewArrayNothrow", Malloc),
    at("TCMallocInternalNewArrayAligned", Malloc),
    at("TCMallocInternalNewArrayAlignedNothrow", Malloc),
    // They return the block in rax and its usable size in rdx.
    at("__size_returning_new", Malloc),
    at("__size_returning_new_hot_cold", Malloc),
    at("__size_returning_new_aligned", Malloc),
    at("__size_returning_new_aligned_hot_cold", Malloc),
    at("TCMallocInternalFree", Free),
    at("TCMallocInternalCfree", Free),
    at("TCMallocInternalFreeSized", Free),
    at("TCMallocInternalFreeAlignedSized", Free),
    at("TCMallocInternalSdallocx", Free),
    at("TCMallocInternalDelete", Free),
    at("TCMallocInternalDeleteNothrow", Free),
    at("TCMallocInternalDeleteSized", Free),
    at("TCMallocInternalDeleteAligned", Free),
    at("TCMallocInternalDeleteAlignedNothrow", Free),
    at("TCMallocInternalDeleteSizedAligned", Free),
    at("TCMallocInternalDeleteArray", Free),
    at("TCMallocInternalDeleteArrayNothrow", Free),
    at("TCMallocInternalDeleteArraySized", Free),
    at("TCMallocInternalDeleteArrayAligned", Free),
    at("TCMallocInternalDeleteArrayAlignedNothrow", Free),
    at("TCMallocInternalDeleteArraySizedAligned", Free),
];

/// mimalloc's functions that exist as `mi_X(…)`, as `mi_heap_X(heap, …)` and, from version 3, as `mi_theap_X(theap, …)`.
const MIMALLOC_OF_A_HEAP: &[(&str, Kind)] = &[
    ("malloc", Malloc),
    ("zalloc", Malloc),
    ("malloc_small", Malloc),
    ("zalloc_small", Malloc),
    ("malloc_aligned", Malloc),
    ("malloc_aligned_at", Malloc),
    ("zalloc_aligned", Malloc),
    ("zalloc_aligned_at", Malloc),
    ("calloc", Calloc),
    ("mallocn", Calloc),
    ("calloc_aligned", Calloc),
    ("calloc_aligned_at", Calloc),
    ("realloc", Realloc),
    ("rezalloc", Realloc),
    ("realloc_aligned", Realloc),
    ("realloc_aligned_at", Realloc),
    ("rezalloc_aligned", Realloc),
    ("rezalloc_aligned_at", Realloc),
    ("reallocn", ReallocArray),
    ("recalloc", ReallocArray),
    ("recalloc_aligned", ReallocArray),
    ("recalloc_aligned_at", ReallocArray),
    ("alloc_new", Malloc),
    ("alloc_new_nothrow", Malloc),
    ("alloc_new_n", Calloc),
    ("strdup", Strdup),
    ("strndup", Strdup),
];

const MIMALLOC: &[Entry] = &[
    at("mi_reallocarray", ReallocArray),
    at("mi_aligned_recalloc", ReallocArray),
    at("mi_aligned_offset_recalloc", ReallocArray),
    at("mi_memalign", Memalign),
    at("mi_aligned_alloc", Memalign),
    at("mi_posix_memalign", PosixMemalign),
    at("mi_valloc", Malloc),
    at("mi_pvalloc", Malloc),
    at("mi_new", Malloc),
    at("mi_new_nothrow", Malloc),
    at("mi_new_aligned", Malloc),
    at("mi_new_aligned_nothrow", Malloc),
    at("mi_new_n", Calloc),
    at("mi_new_realloc", Realloc),
    at("mi_new_reallocn", ReallocArray),
    at("mi_umalloc", Malloc),
    at("mi_umalloc_small", Malloc),
    at("mi_umalloc_aligned", Malloc),
    at("mi_uzalloc_small", Malloc),
    at("mi_uzalloc_aligned", Malloc),
    at("mi_ucalloc", Calloc),
    at("mi_urealloc", Realloc),
    at("mi_free", Free),
    at("mi_ufree", Free),
    at("mi_cfree", Free),
    at("mi_free_size", Free),
    at("mi_free_size_aligned", Free),
    at("mi_free_aligned", Free),
    at("mi_free_small", Free),
    at("mi_free_small_nonnull", Free),
    at("mi_free_small_local", Free),
    at("mi_free_small_local_nonnull", Free),
];

const OVERRIDDEN: &[Entry] = &[at("strdup", Strdup), at("strndup", Strdup), at("vfree", Free)];

const TBB: &[Entry] = &[
    at("scalable_malloc", Malloc),
    at("scalable_calloc", Calloc),
    at("scalable_realloc", Realloc),
    at("scalable_posix_memalign", PosixMemalign),
    at("scalable_aligned_malloc", Malloc),
    at("scalable_aligned_realloc", Realloc),
    at("scalable_free", Free),
    at("scalable_aligned_free", Free),
    at("__TBB_malloc_safer_realloc", Realloc),
    at("__TBB_malloc_safer_aligned_realloc", Realloc),
    at("__TBB_malloc_safer_free", Free),
];

const RPMALLOC: &[Entry] = &[
    at("rpmalloc", Malloc),
    at("rpzalloc", Malloc),
    at("rpcalloc", Calloc),
    at("rprealloc", Realloc),
    at("rpmemalign", Memalign),
    at("rpaligned_alloc", Memalign),
    at("rpaligned_zalloc", Memalign),
    at("rpposix_memalign", PosixMemalign),
    behind("rpaligned_calloc", Calloc, 1),
    placed("rpaligned_realloc", Realloc, [0, 2, 3]),
    behind("rpmalloc_heap_alloc", Malloc, 1),
    behind("rpmalloc_heap_calloc", Calloc, 1),
    behind("rpmalloc_heap_realloc", Realloc, 1),
    behind("rpmalloc_heap_aligned_alloc", Memalign, 1),
    at("rpfree", Free),
    behind("rpmalloc_heap_free", Free, 1),
];

const SNMALLOC: &[Entry] = &[
    at("sn_malloc", Malloc),
    at("sn_calloc", Calloc),
    at("sn_realloc", Realloc),
    at("sn_free", Free),
    at("sn_rust_alloc", Memalign),
    at("sn_rust_alloc_zeroed", Memalign),
    placed("sn_rust_realloc", Realloc, [0, 3, 2]),
    at("sn_rust_dealloc", Free),
];

/// What follows `_Znwm` and `_Znam`.
const NEW_ENDINGS: &[&str] = &[
    "",
    "RKSt9nothrow_t",
    "St11align_val_t",
    "St11align_val_tRKSt9nothrow_t",
    // Google tcmalloc's hint, and its place behind the others.
    "12__hot_cold_t",
    "RKSt9nothrow_t12__hot_cold_t",
    "St11align_val_t12__hot_cold_t",
    "St11align_val_tRKSt9nothrow_t12__hot_cold_t",
];

/// What follows `_ZdlPv` and `_ZdaPv`.
const DELETE_ENDINGS: &[&str] = &[
    "",
    "m",
    "RKSt9nothrow_t",
    "St11align_val_t",
    "mSt11align_val_t",
    "St11align_val_tRKSt9nothrow_t",
    "mRKSt9nothrow_t",
    "mSt11align_val_tRKSt9nothrow_t",
];

/// Functions under C names that are `operator new` inside and throw as it does.
pub(super) const THROWING: &[&str] = &[
    "tc_new",
    "tc_new_aligned",
    "tc_newarray",
    "tc_newarray_aligned",
    "TCMallocInternalNew",
    "TCMallocInternalNewAligned",
    "TCMallocInternalNewArray",
    "TCMallocInternalNewArrayAligned",
    "__size_returning_new",
    "__size_returning_new_hot_cold",
    "__size_returning_new_aligned",
    "__size_returning_new_aligned_hot_cold",
    "mi_new",
    "mi_new_aligned",
    "mi_new_n",
    "mi_new_realloc",
    "mi_new_reallocn",
    "mi_heap_alloc_new",
    "mi_heap_alloc_new_n",
    "mi_theap_alloc_new",
    "mi_theap_alloc_new_n",
];

/// No fixed name is longer, in bytes (a test holds it to that).
pub(super) const LONGEST: usize = 48;

/// The function of that name, if the fixed part of the table has it.
pub(super) fn fixed(name: &str) -> Option<Listed> {
    all().get(name).copied()
}

/// Every fixed name.
pub(super) fn all() -> &'static HashMap<String, Listed> {
    static ALL: OnceLock<HashMap<String, Listed>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = HashMap::new();
        let mut add = |name: String, signature, family| all.insert(name, Listed { signature, family });
        let lists = [
            (C, Family::C),
            (C_ALIASES, Family::C),
            (JEMALLOC, Family::C),
            (TCMALLOC, Family::Tcmalloc),
            (MIMALLOC, Family::Mimalloc),
            (OVERRIDDEN, Family::Overridden),
            (TBB, Family::Tbb),
            (RPMALLOC, Family::Rpmalloc),
            (SNMALLOC, Family::Snmalloc),
        ];
        for (list, family) in lists {
            for (name, signature) in list {
                add((*name).to_owned(), *signature, family);
            }
        }
        for prefix in PREFIXES {
            for (base, signature) in C.iter().chain(JEMALLOC) {
                add(format!("{prefix}{base}"), *signature, Family::Prefixed);
            }
        }
        for (prefix, by) in [("mi_", 0), ("mi_heap_", 1), ("mi_theap_", 1)] {
            for (base, kind) in MIMALLOC_OF_A_HEAP {
                add(format!("{prefix}{base}"), Signature::shifted(*kind, by), Family::Mimalloc);
            }
        }
        for (operator, endings, kind) in [
            ("_Znwm", NEW_ENDINGS, Malloc),
            ("_Znam", NEW_ENDINGS, Malloc),
            ("_ZdlPv", DELETE_ENDINGS, Free),
            ("_ZdaPv", DELETE_ENDINGS, Free),
        ] {
            for ending in endings {
                add(format!("{operator}{ending}"), Signature::shifted(kind, 0), Family::Cxx);
            }
        }
        all
    })
}
