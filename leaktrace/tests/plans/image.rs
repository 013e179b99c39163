//! ELF images made to order, field by field as the System V ABI lays them out.

/// Where the code is in memory; in the file it is elsewhere.
pub const CODE: u64 = 0x40_1000;

/// Where the head of the file is in memory.
const HEAD: u64 = 0x10_0000;

pub const EM_X86_64: u16 = 62;
pub const EM_AARCH64: u16 = 183;
pub const EM_386: u16 = 3;

const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;

/// In which symbol tables a symbol is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    Exported,
    Hidden,
    Imported,
}

#[derive(Debug, Clone)]
struct Symbol {
    name: String,
    address: u64,
    size: u64,
    kind: u8,
    visibility: Visibility,
}

/// An image in the making.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that images have or have not")]
pub struct Image {
    pub machine: u16,
    /// Two for one address only, three for any.
    pub kind: u16,
    pub soname: Option<&'static str>,
    pub interpreter: bool,
    pub needed: bool,
    pub build_id: Option<&'static [u8]>,
    pub section_headers: bool,
    /// Whether `.symtab` is there.
    pub stripped: bool,
    /// `DT_GNU_HASH` instead of `DT_HASH`.
    pub gnu_hash: bool,
    pub constants: &'static [u8],
    code: Vec<u8>,
    symbols: Vec<Symbol>,
    slots: Vec<(u64, String)>,
}

impl Image {
    /// A shared library with nothing in it.
    pub fn library(soname: &'static str) -> Self {
        Self {
            machine: EM_X86_64,
            kind: 3,
            soname: Some(soname),
            interpreter: false,
            needed: true,
            build_id: None,
            section_headers: true,
            stripped: false,
            gnu_hash: false,
            constants: b"",
            code: Vec::new(),
            symbols: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// A program with nothing in it, linked dynamically.
    pub fn program() -> Self {
        Self { soname: None, interpreter: true, ..Self::library("") }
    }

    /// A program with nothing in it that needs nobody.
    pub fn static_program() -> Self {
        Self { kind: 2, interpreter: false, needed: false, ..Self::program() }
    }

    /// Adds a function and returns its address.
    pub fn function(&mut self, names: &[&str], visibility: Visibility, code: &[u8]) -> u64 {
        let address = self.place(code);
        for name in names {
            self.symbol(name, visibility, address, code.len() as u64);
        }
        address
    }

    /// Adds code without a name and returns its address.
    pub fn place(&mut self, code: &[u8]) -> u64 {
        while !self.code.len().is_multiple_of(16) {
            self.code.push(0x90);
        }
        let address = CODE + self.code.len() as u64;
        self.code.extend(code);
        address
    }

    /// Overwrites code that is there.
    pub fn patch(&mut self, address: u64, code: &[u8]) {
        let at = (address - CODE) as usize;
        self.code[at..at + code.len()].copy_from_slice(code);
    }

    pub fn symbol(&mut self, name: &str, visibility: Visibility, address: u64, size: u64) {
        self.symbols.push(Symbol { name: name.to_owned(), address, size, kind: STT_FUNC, visibility });
    }

    pub fn ifunc(&mut self, name: &str, code: &[u8]) {
        self.function(&[name], Visibility::Exported, code);
        self.symbols.last_mut().unwrap().kind = STT_GNU_IFUNC;
    }

    /// Adds an imported function with a stub of the linkage table, and returns the stub's address.
    pub fn import(&mut self, name: &str) -> u64 {
        self.symbols.push(Symbol {
            name: name.to_owned(),
            address: 0,
            size: 0,
            kind: STT_FUNC,
            visibility: Visibility::Imported,
        });
        let slot = 0x60_0000 + 8 * self.slots.len() as u64;
        self.slots.push((slot, name.to_owned()));
        let stub = self.place(&[0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0, 0, 0, 0]);
        self.patch(stub + 6, &((slot - (stub + 10)) as u32).to_le_bytes());
        stub
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let mut file = File { bytes: vec![0; 64 + 56 * 8] };
        let mut segments = Vec::new();
        let interpreter = file.append(b"/lib64/ld-linux-x86-64.so.2\0");
        if self.interpreter {
            segments.push((3, 4, interpreter, HEAD + interpreter, 28));
        }
        if let Some(id) = self.build_id {
            let mut note = [4_u32, id.len() as u32, 3].map(u32::to_le_bytes).concat();
            note.extend(b"GNU\0");
            note.extend(id);
            let at = file.append(&note);
            segments.push((4, 4, at, HEAD + at, note.len() as u64));
        }
        file.append(self.constants);

        let dynamic: Vec<&Symbol> =
            self.symbols.iter().filter(|symbol| symbol.visibility != Visibility::Hidden).collect();
        let (dynsym, dynstr) = table(&dynamic);
        let soname = dynstr.len() as u64;
        let dynstr = [&dynstr[..], self.soname.unwrap_or("").as_bytes(), b"\0"].concat();
        let (dynsym_at, dynstr_at) = (file.append(&dynsym), file.append(&dynstr));
        let count = dynamic.len() as u32 + 1;
        let hash = if self.gnu_hash {
            // One bucket that begins at symbol 1; the chain ends at the last.
            let mut words = vec![1, 1, 1, 0, 0, 0, 1];
            words.extend((1..count).map(|index| u32::from(index == count - 1)));
            words
        } else {
            [vec![1, count, 0], vec![0; count as usize]].concat()
        };
        let hash_at = file.append(&hash.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
        let relocations: Vec<u8> = self
            .slots
            .iter()
            .flat_map(|(slot, name)| {
                let index = dynamic.iter().position(|symbol| symbol.name == *name).unwrap() as u64 + 1;
                [*slot, index << 32 | 7, 0].map(u64::to_le_bytes).concat()
            })
            .collect();
        let relocations_at = file.append(&relocations);
        let mut tags = vec![
            (5, HEAD + dynstr_at),
            (10, dynstr.len() as u64),
            (6, HEAD + dynsym_at),
            (if self.gnu_hash { 0x6fff_fef5 } else { 4 }, HEAD + hash_at),
            (23, HEAD + relocations_at),
            (2, relocations.len() as u64),
        ];
        if self.soname.is_some() {
            tags.push((14, soname));
        }
        if self.needed {
            tags.push((1, 0));
        }
        tags.push((0, 0));
        if self.kind == 3 {
            let dynamic_section: Vec<u8> = tags
                .iter()
                .flat_map(|(tag, value): &(u64, u64)| [*tag, *value].map(u64::to_le_bytes).concat())
                .collect();
            let at = file.append(&dynamic_section);
            segments.push((2, 4, at, HEAD + at, dynamic_section.len() as u64));
        }
        segments.push((1, 4, 0, HEAD, file.bytes.len() as u64));
        let code_at = file.append(&self.code);
        segments.push((1, 5, code_at, CODE, self.code.len() as u64));

        let mut sections: Vec<[u64; 4]> = vec![[0; 4]];
        if self.kind == 3 {
            sections.push([11, dynsym_at, dynsym.len() as u64, 2]);
            sections.push([3, dynstr_at, dynstr.len() as u64, 0]);
        }
        if !self.stripped {
            let (symtab, strtab) = table(&self.symbols.iter().collect::<Vec<_>>());
            let (symtab_at, strtab_at) = (file.append(&symtab), file.append(&strtab));
            let link = sections.len() as u64 + 1;
            sections.push([2, symtab_at, symtab.len() as u64, link]);
            sections.push([3, strtab_at, strtab.len() as u64, 0]);
        }
        let mut headers = Vec::new();
        for [kind, offset, size, link] in &sections {
            headers.extend(0_u32.to_le_bytes());
            headers.extend((*kind as u32).to_le_bytes());
            headers.extend([0, 0, *offset, *size].map(u64::to_le_bytes).concat());
            headers.extend((*link as u32).to_le_bytes());
            headers.extend(1_u32.to_le_bytes());
            headers.extend([8, if matches!(kind, 2 | 11) { 24_u64 } else { 0 }].map(u64::to_le_bytes).concat());
        }
        let sections_at = file.append(&headers);

        file.write(0, b"\x7fELF\x02\x01\x01");
        if self.machine == EM_386 {
            file.write(4, &[1]);
        }
        file.write(16, &self.kind.to_le_bytes());
        file.write(18, &self.machine.to_le_bytes());
        file.write(20, &1_u32.to_le_bytes());
        file.write(32, &64_u64.to_le_bytes());
        let (shoff, shnum) = if self.section_headers { (sections_at, sections.len() as u16) } else { (0, 0) };
        file.write(40, &shoff.to_le_bytes());
        file.write(52, &[64_u16, 56, segments.len() as u16, 64, shnum, 0].map(u16::to_le_bytes).concat());
        for (index, (kind, flags, offset, address, size)) in segments.iter().enumerate() {
            let header = [
                [*kind as u32, *flags as u32].map(u32::to_le_bytes).concat(),
                [*offset, *address, *address, *size, *size, 4].map(u64::to_le_bytes).concat(),
            ];
            file.write(64 + 56 * index, &header.concat());
        }
        file.bytes
    }

    /// Where in the built file the code at this address is.
    pub fn file_offset(&self, address: u64) -> u64 {
        let file = self.build();
        let at = file.windows(self.code.len()).position(|window| window == self.code).unwrap() as u64;
        at + address - CODE
    }
}

struct File {
    bytes: Vec<u8>,
}

impl File {
    fn append(&mut self, bytes: &[u8]) -> u64 {
        while !self.bytes.len().is_multiple_of(8) {
            self.bytes.push(0);
        }
        let at = self.bytes.len() as u64;
        self.bytes.extend(bytes);
        at
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// A symbol table and its strings.
fn table(symbols: &[&Symbol]) -> (Vec<u8>, Vec<u8>) {
    let (mut table, mut strings) = (vec![0; 24], vec![0]);
    for symbol in symbols {
        table.extend((strings.len() as u32).to_le_bytes());
        strings.extend(symbol.name.bytes());
        strings.push(0);
        // Global; defined in some section, or in none.
        table.extend([0x10 | symbol.kind, 0]);
        table.extend(u16::from(symbol.visibility != Visibility::Imported).to_le_bytes());
        table.extend([symbol.address, symbol.size].map(u64::to_le_bytes).concat());
    }
    (table, strings)
}
