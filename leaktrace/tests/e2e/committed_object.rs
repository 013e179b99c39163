//! Every probe program of the committed BPF object carries the cure of a kernel crash.
//!
//! From Linux 6.13 the x86 JIT gives KPROBE-type programs whose functions use 64 bytes of stack or more a stack per CPU
//! (`BPF_PRIV_STACK_MIN_SIZE` in kernel/bpf/verifier.c). A uprobe program can be preempted there, and the next one on that
//! CPU overwrites its stack: "BUG: unable to handle page fault". A program that contains a tail call is given none.
//! These tests read instructions; they need no privileges and no kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SectionKind};

/// From this many bytes of stack on a function gets a private one.
const PRIVATE_STACK: i64 = 64;
/// `BPF_FUNC_tail_call` (linux/bpf.h).
const TAIL_CALL: i32 = 12;

/// `struct bpf_insn`: opcode, two registers of four bits, an offset, an immediate.
#[derive(Debug, Clone, Copy)]
struct Instruction {
    opcode: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn decode(bytes: &[u8]) -> Self {
        Self {
            opcode: bytes[0],
            destination: bytes[1] & 0xf,
            source: bytes[1] >> 4,
            offset: i16::from_le_bytes([bytes[2], bytes[3]]),
            immediate: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }

    fn is_call(self) -> bool {
        self.opcode == 0x85
    }

    /// A call of another function of the program (`BPF_PSEUDO_CALL`).
    fn is_local_call(self) -> bool {
        self.is_call() && self.source == 1
    }

    fn is_tail_call(self) -> bool {
        self.is_call() && self.source == 0 && self.immediate == TAIL_CALL
    }
}

/// The frame pointer, read-only: the stack lies below it.
const R10: u8 = 10;
/// `BPF_ALU64 | BPF_MOV | BPF_X` and `BPF_ALU64 | BPF_ADD | BPF_K`.
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;

/// The deepest byte below r10 that a function touches or takes the address of.
fn stack_use(code: &[Instruction]) -> i64 {
    let mut deepest = 0;
    // Registers that hold r10 plus something, along the straight line; a join forgets nothing that matters, because
    // compilers compute such addresses where they use them.
    let mut derived: HashMap<u8, i64> = HashMap::from([(R10, 0)]);
    for instruction in code {
        let Instruction { opcode, destination, source, offset, immediate } = *instruction;
        let class = opcode & 7;
        // Loads address by their source, stores by their destination.
        let base = match class {
            1 => derived.get(&source),
            2 | 3 => derived.get(&destination),
            _ => None,
        };
        if let Some(base) = base {
            deepest = deepest.min(base + i64::from(offset));
        }
        match (opcode, derived.get(&source).copied(), derived.get(&destination).copied()) {
            (MOVE, Some(base), _) => {
                derived.insert(destination, base);
            }
            (ADD, _, Some(base)) if destination != R10 => {
                derived.insert(destination, base + i64::from(immediate));
                deepest = deepest.min(base + i64::from(immediate));
            }
            // Any other write to a register.
            _ if matches!(class, 0 | 1 | 4 | 7) && destination != R10 => {
                derived.remove(&destination);
            }
            _ if instruction.is_call() => derived.retain(|register, _| *register > 5),
            _ => {}
        }
    }
    -deepest
}

/// Where a function begins: index of its section, and the offset there.
type Place = (usize, u64);

/// A function of the object, and where it calls other functions of it.
struct Function {
    code: Vec<Instruction>,
    callees: BTreeSet<Place>,
}

type Functions = BTreeMap<Place, Function>;

fn functions(file: &object::File) -> Functions {
    let mut functions = Functions::new();
    for symbol in file.symbols() {
        let Some(index) = symbol.section_index() else { continue };
        let section = file.section_by_index(index).unwrap();
        if section.kind() != SectionKind::Text || symbol.size() == 0 {
            continue;
        }
        let relocations: HashMap<u64, _> = section.relocations().collect();
        let data = section.data().unwrap();
        let start = symbol.address();
        let mut function = Function { code: Vec::new(), callees: BTreeSet::new() };
        for at in (start..start + symbol.size()).step_by(8) {
            let instruction = Instruction::decode(&data[at as usize..at as usize + 8]);
            function.code.push(instruction);
            if instruction.is_local_call() {
                function.callees.insert(match relocations.get(&at).map(object::Relocation::target) {
                    // Relative to the symbol: the immediate counts instructions from its start, less one.
                    Some(RelocationTarget::Symbol(target)) => {
                        let target = file.symbol_by_index(target).unwrap();
                        let within = (i64::from(instruction.immediate) + 1) * 8;
                        (target.section_index().unwrap().0, target.address().wrapping_add_signed(within))
                    }
                    _ => (index.0, at.wrapping_add_signed((i64::from(instruction.immediate) + 1) * 8)),
                });
            }
        }
        functions.insert((index.0, start), function);
    }
    functions
}

/// All functions that a program consists of.
fn reachable(functions: &Functions, entry: Place) -> BTreeSet<Place> {
    let mut found = BTreeSet::from([entry]);
    let mut pending = vec![entry];
    while let Some(next) = pending.pop() {
        let function = functions.get(&next).unwrap_or_else(|| panic!("a call to no function, at {next:?}"));
        pending.extend(function.callees.iter().filter(|callee| found.insert(**callee)));
    }
    found
}

fn objects() -> Vec<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("prebuilt");
    let files = std::fs::read_dir(&directory).expect("the compiled BPF objects are committed in leaktrace/prebuilt");
    let mut objects: Vec<_> = files.map(|entry| entry.unwrap().path()).filter(|path| is_elf(path)).collect();
    objects.sort();
    objects
}

fn is_elf(path: &std::path::Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"))
}

#[test]
fn every_probe_program_with_a_deep_stack_contains_a_tail_call() {
    let objects = objects();
    assert!(!objects.is_empty());
    for path in objects {
        let bytes = std::fs::read(&path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let functions = functions(&file);
        let mut cured = Vec::new();
        for entry in functions.keys() {
            let section = file.section_by_index(SectionIndex(entry.0)).unwrap();
            let section = section.name().unwrap();
            if !(section.starts_with("uprobe") || section.starts_with("uretprobe") || section.starts_with("kprobe")) {
                continue;
            }
            let parts = reachable(&functions, *entry);
            let stack = parts.iter().map(|part| stack_use(&functions[part].code)).max().unwrap();
            let tail_call = parts.iter().any(|part| functions[part].code.iter().any(|i| i.is_tail_call()));
            let what = format!("{}: {section}+{:#x} uses {stack} bytes of stack", path.display(), entry.1);
            assert!(tail_call || stack < PRIVATE_STACK, "{what} and contains no tail call");
            cured.push((what, tail_call));
        }
        assert!(cured.len() >= 3, "malloc, free and a return have programs: {cured:?}");
        // Were there none, the measure above would be the one to doubt.
        assert!(cured.iter().any(|(_, tail_call)| *tail_call), "{cured:?}");
    }
}

#[test]
fn the_objects_are_loadable_by_kernels_that_ask_for_a_gpl_licence() {
    for path in objects() {
        let bytes = std::fs::read(&path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let licence = file.section_by_name("license").expect("a licence section");
        assert_eq!(licence.data().unwrap(), b"Dual MIT/GPL\0", "{}", path.display());
    }
}

#[test]
fn the_measure_of_stacks_sees_stores_loads_and_addresses() {
    let instruction =
        |opcode, destination, source, offset, immediate| Instruction { opcode, destination, source, offset, immediate };
    let store = |offset| instruction(0x7b, R10, 1, offset, 0);
    assert_eq!(stack_use(&[store(-8), store(-56)]), 56);
    // r1 = *(u64 *)(r10 - 72)
    assert_eq!(stack_use(&[instruction(0x79, 1, R10, -72, 0)]), 72);
    // r2 = r10; r2 += -128; a helper writes there.
    let taken = [instruction(MOVE, 2, R10, 0, 0), instruction(ADD, 2, 0, 0, -128), instruction(0x85, 0, 0, 0, 112)];
    assert_eq!(stack_use(&taken), 128);
    // r6 = r10; r6 += -64; *(r6 - 16) = r1 across a call, which keeps r6.
    let kept = [
        instruction(MOVE, 6, R10, 0, 0),
        instruction(ADD, 6, 0, 0, -64),
        instruction(0x85, 0, 0, 0, 14),
        instruction(0x7b, 6, 1, -16, 0),
    ];
    assert_eq!(stack_use(&kept), 80);
    // r1 = 0 forgets what r1 was; a store through it is none of ours.
    let forgotten = [instruction(MOVE, 1, R10, 0, 0), instruction(0xb7, 1, 0, 0, 0), instruction(0x7b, 1, 2, -400, 0)];
    assert_eq!(stack_use(&forgotten), 0);
}
