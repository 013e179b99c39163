//! Where the fields of the kernel's structures are, from its own type information (`/sys/kernel/btf/vmlinux`).
//!
//! Pure over bytes but for [`read`]. Layout: Documentation/bpf/btf.rst of the kernel.

use std::ops::Range;
use std::{fs, io};

const MAGIC: u16 = 0xeb9f;
/// Bytes of a type before what is particular to its kind: name, information, size or type.
const TYPE_BYTES: usize = 12;
/// Bytes of a structure's member: name, type, offset.
const MEMBER_BYTES: usize = 12;
/// How deep structures without a name may lie in one another.
const MAX_NESTING: u32 = 8;

// Kinds of types.
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// Type information that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// There is none.
    #[error("the kernel does not tell its types (/sys/kernel/btf/vmlinux: {0})")]
    Missing(#[from] io::Error),
    /// It is not as it should be.
    #[error("the kernel's type information cannot be read")]
    Malformed,
}

/// The running kernel's, whole.
pub fn read() -> Result<Vec<u8>, BtfError> {
    Ok(fs::read("/sys/kernel/btf/vmlinux")?)
}

/// Types, by number.
pub struct Btf<'a> {
    bytes: &'a [u8],
    strings: &'a [u8],
    /// Where each begins; type 0 is `void`, which is not there.
    types: Vec<usize>,
    /// Where the structures among them begin: one in ten.
    structures: Vec<usize>,
}

/// A type's first words.
struct Type {
    name: u32,
    kind: u32,
    members: usize,
    /// The upper bits of a member's offset are the width of a bit field.
    has_bit_fields: bool,
}

impl<'a> Btf<'a> {
    /// Finds where the types are.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let malformed = BtfError::Malformed;
        let word = |at| word(bytes, at);
        let header = word(4).ok_or(malformed)? as usize;
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::Malformed);
        }
        let section = |offset, length| -> Option<Range<usize>> {
            let start = header.checked_add(word(offset)? as usize)?;
            Some(start..start.checked_add(word(length)? as usize)?)
        };
        let (types, strings) = (section(8, 12), section(16, 20));
        let (Some(types), Some(strings)) = (types, strings) else { return Err(BtfError::Malformed) };
        let strings = bytes.get(strings).ok_or(BtfError::Malformed)?;
        let mut btf = Self { bytes, strings, types: vec![types.start], structures: Vec::new() };
        let mut at = types.start;
        while at < types.end {
            let found = btf.type_at(at).ok_or(BtfError::Malformed)?;
            btf.types.push(at);
            if found.kind == STRUCT {
                btf.structures.push(at);
            }
            at += length(&found).ok_or(BtfError::Malformed)?;
        }
        Ok(btf)
    }

    /// The offset, in bytes, of a field in a structure; `None` where there is none of the name, or it is a bit field.
    pub fn offset(&self, structure: &str, field: &str) -> Option<u32> {
        self.structures
            .iter()
            .filter(|at| self.type_at(**at).is_some_and(|found| self.is_named(found.name, structure)))
            .find_map(|at| self.field(*at, field, MAX_NESTING))
    }

    /// The number of the type of a function of the kernel's.
    pub fn function(&self, name: &str) -> Option<u32> {
        let is_it =
            |at: &usize| self.type_at(*at).is_some_and(|found| found.kind == FUNC && self.is_named(found.name, name));
        self.types.iter().skip(1).position(is_it).and_then(|index| u32::try_from(index + 1).ok())
    }

    fn field(&self, at: usize, name: &str, nesting: u32) -> Option<u32> {
        let structure = self.type_at(at).filter(|found| matches!(found.kind, STRUCT | UNION))?;
        (0..structure.members).find_map(|index| {
            let member = at + TYPE_BYTES + index * MEMBER_BYTES;
            let (named, of_type, offset) =
                (word(self.bytes, member)?, word(self.bytes, member + 4)?, word(self.bytes, member + 8)?);
            let bits = if structure.has_bit_fields { offset & 0x00ff_ffff } else { offset };
            let is_bit_field = structure.has_bit_fields && offset >> 24 != 0;
            if named == 0 && nesting > 0 {
                // Fields of a structure without a name are the outer one's.
                let inner = self.field(*self.types.get(of_type as usize)?, name, nesting - 1)?;
                return Some(bits / 8 + inner);
            }
            (self.is_named(named, name) && !is_bit_field).then_some(bits / 8)
        })
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = word(self.bytes, at + 4)?;
        Some(Type {
            name: word(self.bytes, at)?,
            kind: info >> 24 & 0x1f,
            members: (info & 0xffff) as usize,
            has_bit_fields: info >> 31 != 0,
        })
    }

    fn is_named(&self, at: u32, name: &str) -> bool {
        let rest = self.strings.get(at as usize..).and_then(|rest| rest.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// Bytes of a type; `None` for a kind that is not known, behind which nothing can be found.
fn length(found: &Type) -> Option<usize> {
    let more = match found.kind {
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION | DATASEC | ENUM64 => found.members * 12,
        ENUM | FUNC_PROTO => found.members * 8,
        // Pointers, forward declarations, typedefs, qualifiers, functions.
        PTR | 7..=11 | FUNC | FLOAT | TYPE_TAG => 0,
        _ => return None,
    };
    Some(TYPE_BYTES + more)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Where pahole, which knows nothing of us, says that a field is: `TYPE NAME; /* OFFSET SIZE */`.
    fn offset_by_pahole(structure: &str, field: &str) -> u32 {
        let output = Command::new("pahole").args(["-C", structure, "/sys/kernel/btf/vmlinux"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| {
            let declared = line.split_once(';').map(|(declared, _)| declared.split('[').next().unwrap_or_default());
            declared.is_some_and(|declared| declared.split_whitespace().last() == Some(field))
        });
        let comment = line.and_then(|line| line.split_once("/*")).map(|(_, comment)| comment.trim());
        let offset = comment.and_then(|comment| comment.split_whitespace().next()?.parse().ok());
        offset.unwrap_or_else(|| panic!("pahole does not know {structure}.{field}:\n{text}"))
    }

    #[test]
    fn fields_are_where_pahole_finds_them() {
        let fields = [
            ("task_struct", "tgid"),
            ("task_struct", "comm"),
            ("task_struct", "group_leader"),
            ("task_struct", "signal"),
            ("signal_struct", "live"),
            ("vm_area_struct", "vm_start"),
            ("vm_area_struct", "vm_pgoff"),
            ("vm_area_struct", "vm_flags"),
            ("vm_area_struct", "vm_file"),
            ("file", "f_inode"),
            ("inode", "i_ino"),
            ("inode", "i_sb"),
            ("super_block", "s_dev"),
            // In a union without a name.
            ("page", "mapping"),
        ];
        let bytes = read().expect("the kernel has BTF");
        let btf = Btf::parse(&bytes).unwrap();
        for (structure, field) in fields {
            let found = btf.offset(structure, field).unwrap();
            assert_eq!(found, offset_by_pahole(structure, field), "{structure}.{field}");
        }
    }

    #[test]
    fn functions_have_the_numbers_that_aya_finds() {
        let bytes = read().expect("the kernel has BTF");
        let btf = Btf::parse(&bytes).unwrap();
        let by_aya = aya_obj::btf::Btf::from_sys_fs().unwrap();
        for name in ["schedule", "vfs_read", "bpf_session_is_return", "no_such_function"] {
            let expected = by_aya.id_by_type_name_kind(name, aya_obj::btf::BtfKind::Func).ok();
            assert_eq!(btf.function(name), expected, "{name}");
        }
        assert!(btf.function("schedule").is_some());
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let bytes = read().expect("the kernel has BTF");
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("task_struct", "no_such_field"), None);
        assert_eq!(btf.offset("no_such_struct", "tgid"), None);
        assert_eq!(btf.offset("task_struct", "in_execve"), None, "a bit field has no offset in bytes");
    }

    #[test]
    fn broken_bytes_are_refused() {
        let bytes = read().expect("the kernel has BTF");
        assert!(Btf::parse(&[]).is_err());
        assert!(Btf::parse(&bytes[..bytes.len() / 2]).is_err());
        assert!(Btf::parse(&bytes[8..]).is_err());
    }
}
