//! Which instruction of a function to probe. The first bytes say what function it is and where it lies:
//! name, flags, an address (8 bytes, little-endian), the place where it is entered from elsewhere; the rest is its code.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use leaktrace::probes::functions::Table;
use leaktrace::probes::site::{Cost, Destination, Emulation, Function, Machine, Reached, Site, calls, forward, select};

/// One function of each kind, and two whose arguments come later.
const NAMES: [&str; 11] = [
    "malloc",
    "free",
    "calloc",
    "realloc",
    "reallocarray",
    "memalign",
    "posix_memalign",
    "strdup",
    "xallocx",
    "mi_heap_realloc",
    "mi_heap_reallocn",
];
/// Flags.
const NOT_WHOLE: u8 = 1;
const ENTERED: u8 = 2;
const ARM: u8 = 4;

pub fn run(input: &[u8]) {
    let Some((&[name, flags], rest)) = input.split_first_chunk() else { return };
    let Some((address, rest)) = rest.split_first_chunk() else { return };
    let Some((&[entered], code)) = rest.split_first_chunk() else { return };
    let address = u64::from_le_bytes(*address);
    // A function whose code wraps around the address space lies in no image.
    if address.checked_add(code.len() as u64).is_none() {
        return;
    }
    let name = NAMES[usize::from(name) % NAMES.len()];
    let Some(known) = Table::new([], &[]).find(name.as_bytes()) else { return };
    let function = Function {
        machine: if flags & ARM == 0 { Machine::X86_64 } else { Machine::Aarch64 },
        address,
        code,
        whole: flags & NOT_WHOLE == 0,
        entered_at: (flags & ENTERED != 0).then(|| address.saturating_add(1 + u64::from(entered))),
    };
    let nothing = |_: Destination| None::<Reached<()>>;
    let _ = (calls(&function, nothing), forward(&function, known.signature, nothing));
    let Ok(site) = select(&function, known.signature, Emulation::BASELINE) else { return };
    let offset = site.offset as usize;
    if offset > 0 {
        assert!(offset < code.len(), "the site lies behind the function");
        assert!(function.whole && site.cost == Cost::Emulated);
        assert!(function.entered_at.is_none_or(|at| at > address + u64::from(site.offset)), "entered before its site");
        assert!(site.stack_shift.is_multiple_of(8) && site.stack_shift <= 524_280);
        moved(&function, &site);
    }
}

/// Every way from the entry passes the site exactly once, as a straight disassembly shows.
fn moved(function: &Function<'_>, site: &Site) {
    let site = u64::from(site.offset);
    let mut on_instruction = false;
    for instruction in &mut Decoder::with_ip(64, function.code, function.address, DecoderOptions::NONE) {
        let from = instruction.ip().wrapping_sub(function.address);
        on_instruction |= from == site;
        assert!(!instruction.is_invalid(), "moved in what is not all code");
        assert!(from != site || instruction.mnemonic() != Mnemonic::Pause, "a pause is stepped");
        if from < site {
            let flow = instruction.flow_control();
            assert!(
                matches!(flow, FlowControl::Next | FlowControl::ConditionalBranch),
                "+{from} leads away before the site at +{site}"
            );
        }
        if let Some(target) = target(&instruction) {
            let target = target.wrapping_sub(function.address);
            assert!(target == 0 || target > site, "a branch at +{from} leads to +{target}, the site is +{site}");
        }
    }
    assert!(on_instruction, "the site is inside an instruction");
}

fn target(instruction: &Instruction) -> Option<u64> {
    let branches = [FlowControl::ConditionalBranch, FlowControl::UnconditionalBranch, FlowControl::Call];
    let is_near =
        instruction.is_jcc_short_or_near() || instruction.is_jmp_short_or_near() || instruction.is_call_near();
    (is_near && branches.contains(&instruction.flow_control())).then(|| instruction.near_branch_target())
}
