use super::*;

fn signature(name: &str) -> (Kind, Vec<u8>) {
    let known = Table::new([], &[]).find(name.as_bytes()).unwrap_or_else(|| panic!("{name} is not in the table"));
    (known.signature.kind, known.signature.read_positions().collect())
}

#[test]
fn arguments_are_where_the_headers_declare_them() {
    // void *malloc(size_t size); void *valloc(size_t size);
    assert_eq!(signature("malloc"), (Kind::Malloc, vec![0]));
    assert_eq!(signature("pvalloc"), (Kind::Malloc, vec![0]));
    // void *calloc(size_t nmemb, size_t size); void *reallocarray(void *ptr, size_t nmemb, size_t size);
    assert_eq!(signature("calloc"), (Kind::Calloc, vec![0, 1]));
    assert_eq!(signature("reallocarray"), (Kind::ReallocArray, vec![0, 1, 2]));
    // void *aligned_alloc(size_t alignment, size_t size); int posix_memalign(void **memptr, size_t alignment, size_t size);
    assert_eq!(signature("aligned_alloc"), (Kind::Memalign, vec![1]));
    assert_eq!(signature("posix_memalign"), (Kind::PosixMemalign, vec![0, 2]));
    // void *rallocx(void *ptr, size_t size, int flags); size_t xallocx(void *ptr, size_t size, size_t extra, int flags);
    assert_eq!(signature("_rjem_rallocx"), (Kind::Realloc, vec![0, 1]));
    assert_eq!(signature("xallocx"), (Kind::Xallocx, vec![0, 1]));
    // void sdallocx(void *ptr, size_t size, int flags); void operator delete[](void*, size_t, std::align_val_t);
    assert_eq!(signature("je_sdallocx"), (Kind::Free, vec![0]));
    assert_eq!(signature("_ZdaPvmSt11align_val_t"), (Kind::Free, vec![0]));
    // void* operator new(size_t, std::align_val_t, const std::nothrow_t&);
    assert_eq!(signature("_ZnwmSt11align_val_tRKSt9nothrow_t"), (Kind::Malloc, vec![0]));
    // void* mi_malloc_aligned(size_t size, size_t alignment); mi_heap_malloc_aligned(mi_heap_t*, size_t, size_t);
    assert_eq!(signature("mi_malloc_aligned"), (Kind::Malloc, vec![0]));
    assert_eq!(signature("mi_heap_malloc_aligned"), (Kind::Malloc, vec![1]));
    // void* mi_heap_reallocn(mi_heap_t* heap, void* p, size_t count, size_t size);
    assert_eq!(signature("mi_heap_reallocn"), (Kind::ReallocArray, vec![1, 2, 3]));
    // void* rpmalloc_heap_aligned_alloc(rpmalloc_heap_t* heap, size_t alignment, size_t size);
    assert_eq!(signature("rpmalloc_heap_aligned_alloc"), (Kind::Memalign, vec![2]));
    // void* sn_rust_realloc(void* ptr, size_t alignment, size_t old_size, size_t new_size);
    assert_eq!(signature("sn_rust_realloc"), (Kind::Realloc, vec![0, 3]));
    assert_eq!(signature("mi_strdup"), (Kind::Strdup, vec![]));
}

#[test]
fn every_mangled_operator_is_known() {
    // Demangled from libstdc++.so.6's own dynamic symbols: 8 + 12 of them there.
    let new = ["", "RKSt9nothrow_t", "St11align_val_t", "St11align_val_tRKSt9nothrow_t"];
    let delete = ["", "m", "RKSt9nothrow_t", "St11align_val_t", "mSt11align_val_t", "St11align_val_tRKSt9nothrow_t"];
    for (operators, endings, kind) in
        [(["_Znwm", "_Znam"], &new[..], Kind::Malloc), (["_ZdlPv", "_ZdaPv"], &delete[..], Kind::Free)]
    {
        for operator in operators {
            for ending in endings {
                assert_eq!(signature(&format!("{operator}{ending}")).0, kind);
            }
        }
    }
}

#[test]
fn what_merely_passes_through_malloc_is_not_probed() {
    let table = Table::new([], &[]);
    for name in [
        "asprintf",
        "getline",
        "mi_reallocf",
        "reallocf",
        "mallctl",
        "malloc_usable_size",
        "je_malloc_default",
        "nallocx",
    ] {
        assert_eq!(table.find(name.as_bytes()), None, "{name}");
    }
    // Only mimalloc's own strdup allocates by itself.
    assert_eq!(table.find(b"strdup").unwrap().family, Family::Overridden);
}

#[test]
fn a_prefix_brings_the_whole_family() {
    let table = Table::new(["my_"], &[]);
    assert_eq!(table.find(b"my_malloc").unwrap().signature.kind, Kind::Malloc);
    assert_eq!(table.find(b"my_sdallocx").unwrap().family, Family::Prefixed);
    assert_eq!(table.find(b"malloc").unwrap().family, Family::C);
    assert_eq!(table.find(b"your_malloc"), None);
}

#[test]
fn jemalloc_shows_its_prefix_by_mallocx() {
    assert_eq!(unusual_jemalloc_prefix(b"je_arrow_mallocx"), Some("je_arrow_"));
    assert_eq!(unusual_jemalloc_prefix(b"mallocx"), None);
    assert_eq!(unusual_jemalloc_prefix(b"_rjem_mallocx"), None);
    assert_eq!(unusual_jemalloc_prefix(b"malloc"), None);
}

#[test]
fn what_frees_behind_a_prefix_tells_it_too() {
    let prefixes = |name| prefixed_jemalloc_frees(name).collect::<Vec<_>>();
    assert_eq!(prefixes(b"je_arrow_dallocx"), ["je_arrow_"]);
    assert!(prefixes(b"je_arrow_sdallocx").contains(&"je_arrow_"));
    assert!(prefixes(b"dallocx").is_empty() && prefixes(b"free").is_empty() && prefixes(b"\xff_dallocx").is_empty());
}

#[test]
fn user_symbols_say_or_show_what_they_are_like() {
    let symbol: AllocSymbol = "pool_get=malloc".parse().unwrap();
    assert_eq!((symbol.name.as_str(), symbol.signature.kind), ("pool_get", Kind::Malloc));
    assert_eq!("xmalloc".parse::<AllocSymbol>().unwrap().signature.kind, Kind::Malloc);
    assert_eq!("my_posix_memalign".parse::<AllocSymbol>().unwrap().signature.kind, Kind::PosixMemalign);
    assert_eq!("g_free".parse::<AllocSymbol>().unwrap().signature.kind, Kind::Free);
    assert_eq!("heap_get = mi_heap_malloc".parse::<AllocSymbol>().unwrap().signature.positions(), [1, 2, 3]);
    assert_eq!("pool_get".parse::<AllocSymbol>(), Err(AllocSymbolError::Unguessable("pool_get".into())));
    assert_eq!("a=b".parse::<AllocSymbol>(), Err(AllocSymbolError::UnknownLike("b".into())));
    assert_eq!("=malloc".parse::<AllocSymbol>(), Err(AllocSymbolError::Empty));
}

#[test]
fn the_users_word_counts_more_than_ours() {
    let table = Table::new([], &["valloc=calloc".parse().unwrap()]);
    assert_eq!(table.find(b"valloc").unwrap().signature.kind, Kind::Calloc);
}

#[test]
fn no_name_is_longer_than_the_bound_that_readers_rely_on() {
    let longest = names::all().keys().map(String::len).max().unwrap();
    assert_eq!(longest, names::LONGEST);
    let long = "x".repeat(90);
    assert_eq!(Table::new([], &[format!("{long}=free").parse().unwrap()]).longest_name(), 90);
}

#[test]
fn no_function_reads_an_argument_that_is_not_in_a_register() {
    // System V AMD64 ABI 3.2.3: six integer arguments in registers; AAPCS64: eight.
    assert!(names::all().values().all(|known| known.signature.read_positions().all(|position| position < 6)));
}
