//! Reads the records of `.eh_frame` and evaluates each function's call frame instructions.
//!
//! The walk needs only the records' lengths, so a record that cannot be decoded affects only its own function.

use gimli::{
    CommonInformationEntry, EhFrame, EndianSlice, LittleEndian, RegisterRule, UnwindContext, UnwindContextStorage,
    UnwindOffset, UnwindSection, UnwindTableRow, X86_64,
};
use leaktrace_common::unwind::{Row, Rule, Stop};

use super::TableError;
use super::rows::Collection;
use super::rules::{self, Columns};
use super::unwindable::Unwindable;

type Slice<'data> = EndianSlice<'data, LittleEndian>;
type Cie<'data> = CommonInformationEntry<Slice<'data>>;

/// Longest CIE whose instructions are run for each of its functions; real ones have 20 to 40 bytes.
const MAX_CIE: usize = 256;

/// Decoded CIEs that are kept, by a hash of their offsets: an object has a handful, used in turns.
const CIE_SLOTS: usize = 64;

/// How often each byte of the section may be processed: once as part of its record, and a CIE once more for each of its
/// functions. Real sections, in which FDEs are about as long as their CIEs, stay below 2.
const MAX_PASSES: usize = 4;

/// Rows allowed for an object almost without text.
const MIN_ROWS: u64 = 4096;

/// Bytes of text for which one row is allowed; real code has one for every 35 to 100 bytes.
const TEXT_PER_ROW: u64 = 8;

/// Rows allowed for any object: 128 MiB.
const MAX_ROWS: u64 = 16 << 20;

/// Memory for the evaluation of one function: rules for the 17 columns of a signal frame, and a few remembered states. It is
/// small since remembering a state copies all rules.
struct Storage;

impl UnwindContextStorage<usize> for Storage {
    type Rules = [(gimli::Register, RegisterRule<usize>); 24];
    type Stack = [UnwindTableRow<usize, Self>; 6];
}

/// All rows of an object, in order.
pub(super) fn rows(object: &Unwindable<'_>) -> Result<Vec<Row>, TableError> {
    let mut section = EhFrame::new(object.eh_frame, LittleEndian);
    section.set_address_size(8);
    let mut builder = Builder {
        object,
        section,
        context: Box::new(UnwindContext::new_in()),
        cies: vec![None; CIE_SLOTS],
        collection: Collection::default(),
        row_limit: (object.text_size() / TEXT_PER_ROW).clamp(MIN_ROWS, MAX_ROWS),
        work_left: object.eh_frame.len().saturating_mul(MAX_PASSES).saturating_add(MAX_CIE),
    };
    let mut at = 0;
    while let Some(record) = Record::read(object.eh_frame, &mut at, object.exact_length) {
        if !record.is_cie {
            builder.function(&record)?;
        }
    }
    Ok(builder.collection.finish())
}

/// One record's place in the section.
struct Record {
    offset: usize,
    length: usize,
    is_cie: bool,
}

impl Record {
    /// The record at `at`, which is moved behind the record. A length of zero ends the section, or is skipped if more is
    /// known to follow. A record too short to have an id is skipped; one that reaches beyond the section ends it.
    fn read(section: &[u8], at: &mut usize, skip_terminators: bool) -> Option<Self> {
        loop {
            let offset = *at;
            let rest = section.get(offset..)?;
            let (&short, rest) = rest.split_first_chunk()?;
            let (header, length, rest) = match u32::from_le_bytes(short) {
                0 if skip_terminators => {
                    *at += 4;
                    continue;
                }
                0 => return None,
                u32::MAX => {
                    let (&long, rest) = rest.split_first_chunk()?;
                    (12, usize::try_from(u64::from_le_bytes(long)).ok()?, rest)
                }
                length => (4, length as usize, rest),
            };
            let body = rest.get(..length)?;
            *at = offset + header + length;
            // In .eh_frame the id is four bytes long, whatever the size of the length field.
            let Some((&id, _)) = body.split_first_chunk() else { continue };
            return Some(Self { offset, length, is_cie: u32::from_le_bytes(id) == 0 });
        }
    }
}

struct Builder<'object, 'data> {
    object: &'object Unwindable<'data>,
    section: EhFrame<Slice<'data>>,
    context: Box<UnwindContext<usize, Storage>>,
    cies: Vec<Option<Cie<'data>>>,
    collection: Collection,
    row_limit: u64,
    work_left: usize,
}

impl Builder<'_, '_> {
    /// Adds the rows of the function that an FDE describes.
    fn function(&mut self, record: &Record) -> Result<(), TableError> {
        let object = self.object;
        let section = self.section;
        let cies = &mut self.cies;
        let fde = section
            .partial_fde_from_offset(&object.bases, record.offset.into())
            .and_then(|partial| partial.parse(|section, bases, offset| cached_cie(cies, section, bases, offset)));
        let Ok(fde) = fde else { return Ok(()) };

        let (start, end) = (fde.initial_address(), fde.end_address());
        // Functions that the linker discarded keep an FDE for address 0 or some other place without code.
        if start >= end || !object.is_text(start, end) {
            return Ok(());
        }
        let (Some(start), Some(end)) = (self.relative(start), self.relative(end)) else { return Ok(()) };

        let cie_length = fde.cie().entry_len();
        let Some(work_left) = self.work_left.checked_sub(record.length + cie_length.min(MAX_CIE)) else {
            let limit = (object.eh_frame.len() * MAX_PASSES) as u64;
            return Err(TableError::TooLarge { what: "the work on .eh_frame", found: limit + 1, limit });
        };
        self.work_left = work_left;
        self.collection.begin(start, end);
        if cie_length > MAX_CIE || fde.cie().return_address_register() != X86_64::RA {
            self.collection.push(Row::new(start, Rule::unsupported(Stop::Malformed)));
            return Ok(());
        }

        let mut next = start;
        let complete = match fde.rows(&section, &object.bases, &mut self.context) {
            Ok(mut table) => loop {
                match table.next_row() {
                    Ok(Some(row)) => {
                        let columns = Columns {
                            cfa: row.cfa(),
                            return_address: row.register(X86_64::RA),
                            frame_pointer: row.register(X86_64::RBP),
                        };
                        let Some(pc) = row.start_address().checked_sub(object.base) else { break false };
                        let Ok(pc) = u32::try_from(pc) else { break false };
                        self.collection.push(Row::new(pc, rules::rule(&section, &columns)));
                        next = row.end_address().checked_sub(object.base).map_or(end, |pc| pc.min(end.into()) as u32);
                    }
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            },
            Err(_) => false,
        };
        if !complete {
            self.collection.push(Row::new(next, Rule::unsupported(Stop::Malformed)));
        }
        let found = self.collection.len() as u64;
        if found > self.row_limit {
            return Err(TableError::TooLarge { what: "the number of unwind rows", found, limit: self.row_limit });
        }
        Ok(())
    }

    fn relative(&self, vaddr: u64) -> Option<u32> {
        u32::try_from(vaddr.checked_sub(self.object.base)?).ok().filter(|&pc| pc < u32::MAX)
    }
}

/// The CIE at `offset`. It stays decoded until another CIE takes its slot.
fn cached_cie<'data>(
    cies: &mut [Option<Cie<'data>>],
    section: &EhFrame<Slice<'data>>,
    bases: &gimli::BaseAddresses,
    offset: gimli::EhFrameOffset,
) -> gimli::Result<Cie<'data>> {
    let at: usize = UnwindOffset::into(offset);
    // CIEs are aligned to 4 bytes and about 24 long.
    let slot = &mut cies[(at / 4).wrapping_mul(7) % CIE_SLOTS];
    if let Some(cie) = slot
        && cie.offset() == at
    {
        return Ok(cie.clone());
    }
    Ok(slot.insert(section.cie_from_offset(bases, offset)?).clone())
}
