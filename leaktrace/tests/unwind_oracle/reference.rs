//! The oracle: every register of every frame by gimli's own evaluation of `.eh_frame`, expressions included.
//!
//! Nothing here is shared with the code under test but gimli's decoding of records.

use std::collections::HashMap;
use std::rc::Rc;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EndianSlice, EvaluationResult, LittleEndian, Location, Register, RegisterRule,
    UnwindContext, UnwindExpression, UnwindSection, Value,
};
use object::{Object, ObjectSection, ObjectSegment};

use crate::tracee::Registers;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

const RBX: usize = 3;
const RBP: usize = 6;
const RSP: usize = 7;
const RIP: usize = 16;
const CALLEE_SAVED: [usize; 6] = [RBX, RBP, 12, 13, 14, 15];

/// More than any stack of the programs under test.
const MAX_FRAMES: usize = 1000;

/// Bytes that code at an entry point takes until it jumps to the program's own (glibc's dynamic linker: 56).
const ENTRY_BYTES: u64 = 64;

/// An object's unwind information, indexed.
pub struct Module {
    pub bytes: Vec<u8>,
    eh_frame: Vec<u8>,
    bases: BaseAddresses,
    /// First address, first after it, offset of the FDE.
    functions: Vec<(u64, u64, usize)>,
    /// File range of each executable segment, and its vaddr - file offset.
    segments: Vec<(u64, u64, u64)>,
    entry: u64,
}

impl Module {
    pub fn parse(bytes: Vec<u8>) -> Option<Self> {
        let file = object::File::parse(&*bytes).ok()?;
        let section = file.section_by_name(".eh_frame")?;
        let eh_frame = section.uncompressed_data().ok()?.into_owned();
        let address = |name| file.section_by_name(name).map_or(0, |s| s.address());
        let bases = BaseAddresses::default()
            .set_eh_frame(section.address())
            .set_text(address(".text"))
            .set_got(address(".got"));
        let segments = file
            .segments()
            .filter(|s| s.permissions().executable())
            .map(|s| {
                (s.file_range().0, s.file_range().0 + s.file_range().1, s.address().wrapping_sub(s.file_range().0))
            })
            .collect();
        let mut functions = Vec::new();
        let parsed = EhFrame::new(&eh_frame, LittleEndian);
        let mut entries = parsed.entries(&bases);
        while let Ok(Some(entry)) = entries.next() {
            if let gimli::CieOrFde::Fde(partial) = entry
                && let Ok(fde) = partial.parse(EhFrame::cie_from_offset)
                && fde.initial_address() < fde.end_address()
            {
                functions.push((fde.initial_address(), fde.end_address(), fde.offset()));
            }
        }
        functions.sort_unstable();
        let entry = file.entry();
        Some(Self { bytes, eh_frame, bases, functions, segments, entry })
    }

    /// What to add to an address of the object to get the process' one.
    pub fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        let (.., delta) = self.segments.iter().find(|(first, end, _)| *first & !0xfff <= offset && offset < *end)?;
        Some(start.wrapping_sub(offset.wrapping_add(*delta)))
    }

    fn function(&self, vaddr: u64) -> Option<(u64, u64, usize)> {
        let after = self.functions.partition_point(|f| f.0 <= vaddr);
        self.functions[..after].last().filter(|f| vaddr < f.1).copied()
    }
}

/// How the oracle's walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Outermost,
    /// No module, or no function of it, covers the address.
    NoInformation,
    /// The information asks for what cannot be known.
    Unknown,
    TooDeep,
}

/// A mapped module: first address, first after it, bias.
pub struct Mapped {
    pub start: u64,
    pub end: u64,
    pub bias: u64,
    pub module: Rc<Module>,
}

/// Walks the stack. The frames' addresses, innermost first, begin with the interrupted instruction.
pub fn walk(registers: &Registers, modules: &[Mapped], read: &dyn Fn(u64) -> Option<u64>) -> (Vec<u64>, End) {
    let mut known: HashMap<usize, u64> = registers.iter().copied().enumerate().collect();
    let mut exact = true;
    let mut frames = Vec::new();
    loop {
        let ip = known[&RIP];
        frames.push(ip);
        if frames.len() > MAX_FRAMES {
            return (frames, End::TooDeep);
        }
        match caller(&known, exact, modules, read) {
            Ok((next, is_signal)) => {
                known = next;
                exact = is_signal;
                if known[&RIP] == 0 {
                    return (frames, End::Outermost);
                }
            }
            Err(end) => return (frames, end),
        }
    }
}

fn caller(
    known: &HashMap<usize, u64>,
    exact: bool,
    modules: &[Mapped],
    read: &dyn Fn(u64) -> Option<u64>,
) -> Result<(HashMap<usize, u64>, bool), End> {
    let ip = known[&RIP];
    let address = if exact { ip } else { ip - 1 };
    let mapped = modules.iter().find(|m| m.start <= address && address < m.end).ok_or(End::NoInformation)?;
    let module = &*mapped.module;
    let vaddr = address.wrapping_sub(mapped.bias);
    let Some((.., offset)) = module.function(vaddr) else {
        // A return to the very start of a function that nothing stands before: made up by makecontext.
        let starts_here = module.function(vaddr + 1).is_some_and(|f| f.0 == vaddr + 1);
        // Where the kernel entered the process, in the dynamic linker: nothing has called that.
        let is_entry = (module.entry..module.entry + ENTRY_BYTES).contains(&vaddr);
        return Err(if !exact && starts_here || is_entry { End::Outermost } else { End::NoInformation });
    };
    let section = EhFrame::new(&module.eh_frame, LittleEndian);
    let fde =
        section.fde_from_offset(&module.bases, offset.into(), EhFrame::cie_from_offset).map_err(|_| End::Unknown)?;
    let mut context = UnwindContext::new();
    let row = fde.unwind_info_for_address(&section, &module.bases, &mut context, vaddr).map_err(|_| End::Unknown)?;

    let mut scope = Scope { known, read, bias: mapped.bias, section: &section };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            known.get(&usize::from(register.0)).ok_or(End::Unknown)?.wrapping_add_signed(*offset)
        }
        CfaRule::Expression(expression) => scope.evaluate(expression, None)?,
    };
    let mut next = HashMap::from([(RSP, cfa)]);
    for number in 0..=RIP {
        let rule = row.register(Register(number as u16));
        let value = match rule {
            None if CALLEE_SAVED.contains(&number) => known.get(&number).copied(),
            None if number == RSP => Some(cfa),
            None | Some(RegisterRule::Undefined) if number == RIP => return Err(End::Outermost),
            Some(RegisterRule::SameValue) => known.get(&number).copied(),
            Some(RegisterRule::Offset(offset)) => Some(read(cfa.wrapping_add_signed(offset)).ok_or(End::Unknown)?),
            Some(RegisterRule::ValOffset(offset)) => Some(cfa.wrapping_add_signed(offset)),
            Some(RegisterRule::Register(other)) => known.get(&usize::from(other.0)).copied(),
            Some(RegisterRule::Expression(expression)) => {
                let place = scope.evaluate(&expression, Some(cfa))?;
                Some(read(place).ok_or(End::Unknown)?)
            }
            Some(RegisterRule::ValExpression(expression)) => Some(scope.evaluate(&expression, Some(cfa))?),
            // Undefined, or by no means that x86-64 knows.
            None | Some(_) => None,
        };
        if let Some(value) = value {
            next.insert(number, value);
        }
    }
    if !next.contains_key(&RIP) {
        return Err(End::Unknown);
    }
    Ok((next, fde.is_signal_trampoline()))
}

struct Scope<'a> {
    known: &'a HashMap<usize, u64>,
    read: &'a dyn Fn(u64) -> Option<u64>,
    bias: u64,
    section: &'a EhFrame<Slice<'a>>,
}

impl Scope<'_> {
    fn evaluate(&mut self, expression: &UnwindExpression<usize>, initial: Option<u64>) -> Result<u64, End> {
        let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
        let mut evaluation = expression.get(self.section).map_err(|_| End::Unknown)?.evaluation(encoding);
        if let Some(initial) = initial {
            evaluation.set_initial_value(initial);
        }
        let mut state = evaluation.evaluate();
        loop {
            state = match state.map_err(|_| End::Unknown)? {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let mut value = *self.known.get(&usize::from(register.0)).ok_or(End::Unknown)?;
                    if usize::from(register.0) == RIP {
                        value = value.wrapping_sub(self.bias);
                    }
                    evaluation.resume_with_register(Value::Generic(value))
                }
                EvaluationResult::RequiresMemory { address, .. } => {
                    evaluation.resume_with_memory(Value::Generic((self.read)(address).ok_or(End::Unknown)?))
                }
                _ => return Err(End::Unknown),
            };
        }
        match evaluation.result().last().map(|piece| piece.location) {
            Some(Location::Address { address }) => Ok(address),
            _ => Err(End::Unknown),
        }
    }
}
