use super::super::super::ObjectStore;
use super::super::overlay;
use super::*;
use crate::model::Pid;

/// A process whose mappings the test makes up, of three files.
struct Told {
    space: AddressSpace,
    files: Vec<Arc<super::super::Object>>,
}

const ALPHA: usize = 0;
const BETA: usize = 1;
const PATHS: [&str; 3] = ["/alpha", "/beta", "/gamma"];
/// Where plug-ins are loaded.
const PLACE: u64 = 0x10_0000;

impl Told {
    fn new() -> Self {
        let store = ObjectStore::with_limit(0);
        let files = PATHS.iter().map(|path| store.for_tests(Path::new(path))).collect();
        Self { space: AddressSpace::empty(Pid(1)), files }
    }

    fn map_at(&mut self, start: u64, file: usize, time_ns: u64) {
        let (module, object) = (Arc::from(Path::new(PATHS[file])), Some(Arc::clone(&self.files[file])));
        let region = Region { start, end: start + 0x2000, offset: 0x1000, module, object, seen: 0 };
        self.space.doubt_what_lies_under(&region, time_ns);
        overlay(Arc::make_mut(&mut self.space.regions), region);
    }

    fn map(&mut self, file: usize, time_ns: u64) {
        self.map_at(PLACE, file, time_ns);
    }

    /// What a return address was in a layout: its new address, the file and the place in it, and whether that is known.
    fn settled_since(&mut self, layout: Layout, since_ns: u64, address: u64) -> (u64, String, bool) {
        let mut frames = [Address(address)];
        let is_known = Settler::new(&mut self.space).settle(layout, since_ns, &mut frames);
        let name = self
            .space
            .locate(Address(frames[0].0 - 1))
            .map_or_else(String::new, |location| format!("{}+{:#x}", location.module.display(), location.offset + 1));
        (frames[0].0, name, is_known)
    }

    fn settled(&mut self, layout: Layout, address: u64) -> (String, bool) {
        let (_, name, is_known) = self.settled_since(layout, 0, address);
        (name, is_known)
    }
}

fn known(name: &str) -> (String, bool) {
    (name.to_owned(), true)
}

#[test]
fn what_is_loaded_where_something_was_unloaded_is_named_apart() {
    let mut told = Told::new();
    told.map(ALPHA, 10);
    told.space.enter(7, (20, 21));
    told.map(BETA, 30);
    told.space.enter(9, (40, 41));
    let at = PLACE + 0x123;
    assert_eq!(told.settled(0, at), known("/alpha+0x1123"));
    assert_eq!(told.settled(9, at), known("/beta+0x1123"));
    // Again, and after that the layouts are as they were.
    for round in 1..4 {
        told.space.enter(7 + 100, (round * 100, round * 100 + 1));
        told.map(ALPHA, round * 100 + 10);
        told.space.enter(8, (round * 100 + 20, round * 100 + 21));
        told.space.enter(7, (round * 100 + 30, round * 100 + 31));
        told.map(BETA, round * 100 + 40);
        told.space.enter(9, (round * 100 + 50, round * 100 + 51));
    }
    let settled = [0, 8, 9].map(|layout| told.settled_since(layout, 0, at));
    assert!(settled.iter().all(|(_, _, is_known)| *is_known));
    assert_eq!(settled[0], settled[1], "one plug-in, one address");
    assert_eq!((settled[0].1.as_str(), settled[2].1.as_str()), ("/alpha+0x1123", "/beta+0x1123"));
    assert_eq!(settled[2].0, at, "what is there keeps its address");
    assert!(!told.space.wants_layout(400), "nothing was replaced but by the linker");
}

#[test]
fn one_file_at_two_addresses_is_the_same_code() {
    let mut told = Told::new();
    told.map(ALPHA, 10);
    told.space.enter(7, (20, 21));
    told.map_at(PLACE + 0x10_0000, ALPHA, 30);
    told.space.enter(9, (40, 41));
    let first = told.settled_since(0, 0, PLACE + 0x10);
    assert_eq!(told.settled_since(9, 0, PLACE + 0x10_0010), first);
    assert_eq!(told.settled_since(9, 0, PLACE + 0x10_0020).0, first.0 + 0x10);
}

#[test]
fn what_is_replaced_without_a_word_is_in_doubt_until_the_programs_know() {
    let mut told = Told::new();
    told.map_at(0x5000, ALPHA, 5);
    told.map(ALPHA, 10);
    told.map(BETA, 20);
    let at = PLACE + 0x10;
    assert!(!told.settled(0, at).1);
    assert_eq!(told.settled(0, 0x5010), known("/alpha+0x1010"), "elsewhere nothing has changed");
    assert!(told.settled_since(0, 20, at).2, "nothing was recorded before");
    assert!(told.space.wants_layout(0) && !told.space.wants_layout(20));
    told.space.enter_replaced((30, 31));
    assert!(!told.space.wants_layout(0));
    assert_eq!(told.settled(1 << 32, at), known("/beta+0x1010"));
    assert!(!told.settled(0, at).1);
    // The linker's layouts go on beside that.
    told.space.enter(9, (40, 41));
    assert_eq!((told.space.layout(), told.space.replaced()), (1 << 32 | 9, 1));
}

#[test]
fn what_is_mapped_while_the_programs_are_told_may_be_in_either_layout() {
    let mut told = Told::new();
    told.map(ALPHA, 10);
    told.space.enter_replaced((20, 30));
    told.map(BETA, 25);
    let at = PLACE + 0x10;
    assert!(!told.settled(0, at).1 && !told.settled(1 << 32, at).1);
    // The other way round: the record came first.
    let mut told = Told::new();
    told.map(ALPHA, 10);
    told.map(BETA, 25);
    told.space.enter(7, (20, 30));
    assert!(!told.settled(0, at).1 && !told.settled(7, at).1);
}

#[test]
fn a_layout_that_comes_back_with_other_code_is_in_doubt() {
    let mut told = Told::new();
    told.map(ALPHA, 10);
    told.space.enter(7, (20, 21));
    told.map(BETA, 30);
    told.space.enter(0, (40, 41));
    assert!(!told.settled(0, PLACE + 0x10).1);
}

#[test]
fn layouts_that_are_not_known_are_in_doubt_and_their_number_is_bounded() {
    let mut told = Told::new();
    told.map(ALPHA, 10);
    assert!(!told.settled(3, PLACE + 0x10).1);
    for number in 1..=MAX_LAYOUTS as u32 + 10 {
        told.space.enter(number, (u64::from(number) * 10, u64::from(number) * 10 + 1));
    }
    assert!(!told.settled(1, PLACE + 0x10).1, "long gone");
    assert_eq!(told.settled(MAX_LAYOUTS as u64, PLACE + 0x10), known("/alpha+0x1010"));
    assert!(told.space.layouts.past.len() <= MAX_LAYOUTS);
    told.space.enter_unknown(5, (1 << 40, 1 << 41));
    assert!(!told.settled(5, PLACE + 0x10).1);
}

#[test]
fn a_child_begins_with_what_lies_there_and_no_layouts() {
    let mut told = Told::new();
    told.map(ALPHA, 10);
    told.space.enter(7, (20, 21));
    told.map(BETA, 30);
    let child = told.space.forked(Pid(2));
    let mut child = Told { space: child, files: told.files };
    assert!(!child.space.has_layouts());
    assert_eq!(child.settled(0, PLACE + 0x10), known("/beta+0x1010"));
}

#[test]
fn code_without_a_file_is_not_called_after_a_file_that_came_later() {
    let mut told = Told::new();
    let module: Arc<Path> = Arc::from(Path::new("[anon]"));
    let region = Region { start: PLACE, end: PLACE + 0x1000, offset: 0, module, object: None, seen: 0 };
    overlay(Arc::make_mut(&mut told.space.regions), region);
    told.space.enter(7, (20, 21));
    told.map(BETA, 30);
    told.space.enter(9, (40, 41));
    assert_eq!(told.settled(0, PLACE + 0x10), known("[anon]+0x10"));
    // Nor what was nothing at all.
    assert_eq!(told.settled(0, PLACE + 0x1010), known(""));
    assert_eq!(told.settled(9, PLACE + 0x1010), known("/beta+0x2010"));
}
