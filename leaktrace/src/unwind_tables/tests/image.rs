//! Small ELF images with hand-written `.eh_frame` records.

/// Where the text of every image lies.
pub const TEXT: u64 = 0x40_1000;
/// Where its `.eh_frame` lies, in the file and in memory.
const EH_FRAME_OFFSET: u64 = 0x1000;
const EH_FRAME: u64 = 0x40_0000 + EH_FRAME_OFFSET * 0x10;

/// Initial instructions of every compiler's CIE: CFA = rsp + 8, return address at CFA - 8.
pub const CIE_START: [u8; 5] = [0x0c, 7, 8, 0x90, 1];

/// How the image leads to its `.eh_frame`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LeadsBy {
    Sections,
    Segment,
}

/// An image under construction.
#[derive(Clone)]
pub struct Image {
    pub text_size: u64,
    pub eh_frame: Vec<u8>,
    pub leads_by: LeadsBy,
}

impl Image {
    /// An image with this much text, whose `.eh_frame` has a first CIE.
    pub fn new(text_size: u64) -> Self {
        let mut image = Self { text_size, eh_frame: Vec::new(), leads_by: LeadsBy::Sections };
        image.cie(b"zR\0", &CIE_START);
        image
    }

    /// Appends a CIE with this augmentation (the pointer encoding is absolute) and these instructions; returns its
    /// offset.
    pub fn cie(&mut self, augmentation: &[u8], instructions: &[u8]) -> usize {
        let at = self.eh_frame.len();
        let mut body = vec![0, 0, 0, 0, 1];
        body.extend(augmentation);
        // Code and data alignment factors 1 and -8, return address in column 16; augmentation data: DW_EH_PE_absptr.
        body.extend([1, 0x78, 16, 1, 0]);
        body.extend(instructions);
        self.record(&body);
        at
    }

    /// Appends an FDE of the CIE at `cie` for `len` bytes from `start`.
    pub fn fde_of(&mut self, cie: usize, start: u64, len: u64, instructions: &[u8]) {
        let mut body = ((self.eh_frame.len() + 4 - cie) as u32).to_le_bytes().to_vec();
        body.extend(start.to_le_bytes());
        body.extend(len.to_le_bytes());
        body.push(0);
        body.extend(instructions);
        self.record(&body);
    }

    /// Appends an FDE of the first CIE, `start` counted from the text's.
    pub fn fde(&mut self, start: u64, len: u64, instructions: &[u8]) {
        self.fde_of(0, TEXT + start, len, instructions);
    }

    fn record(&mut self, body: &[u8]) {
        let padded = body.len().next_multiple_of(4);
        self.eh_frame.extend((padded as u32).to_le_bytes());
        self.eh_frame.extend(body);
        self.eh_frame.resize(self.eh_frame.len() + padded - body.len(), 0);
    }

    /// The ELF file.
    pub fn build(&self) -> Vec<u8> {
        let mut file = vec![0; EH_FRAME_OFFSET as usize];
        file.extend(&self.eh_frame);
        // .eh_frame_hdr: version 1, an absolute 8-byte pointer to .eh_frame, no table.
        let hdr_offset = file.len() as u64;
        let hdr = EH_FRAME + self.eh_frame.len() as u64;
        file.extend([1, 0x04, 0xff, 0xff]);
        file.extend(EH_FRAME.to_le_bytes());
        let text_offset = 0x1000u64.max((file.len() as u64).next_multiple_of(0x1000));
        file.resize((text_offset + self.text_size) as usize, 0xcc);
        let names_offset = file.len() as u64;
        let names = b"\0.eh_frame\0.shstrtab\0";
        file.extend(names);
        file.resize(file.len().next_multiple_of(8), 0);
        let sections_offset = file.len() as u64;

        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(16, 0);
        let with_sections = self.leads_by == LeadsBy::Sections;
        // e_type ET_EXEC, e_machine EM_X86_64.
        header.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        header.extend(TEXT.to_le_bytes());
        header.extend(64u64.to_le_bytes());
        header.extend(if with_sections { sections_offset } else { 0 }.to_le_bytes());
        header.extend([0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 64, 0]);
        header.extend(if with_sections { [3, 0, 2, 0] } else { [0; 4] });
        let hdr_size = 12;
        let eh_size = self.eh_frame.len() as u64 + hdr_size;
        // PT_LOAD r--, PT_LOAD r-x, PT_GNU_EH_FRAME.
        for (kind, flags, offset, address, size) in [
            (1, 4, EH_FRAME_OFFSET, EH_FRAME, eh_size),
            (1, 5, text_offset, TEXT, self.text_size),
            (0x6474_e550, 4, hdr_offset, hdr, hdr_size),
        ] {
            header.extend(u32::to_le_bytes(kind));
            header.extend(u32::to_le_bytes(flags));
            for word in [offset, address, address, size, size, 0x1000] {
                header.extend(u64::to_le_bytes(word));
            }
        }
        file[..header.len()].copy_from_slice(&header);
        if with_sections {
            file.extend([0; 64]);
            for (name, kind, address, offset, size) in [
                (1u32, 1u32, EH_FRAME, EH_FRAME_OFFSET, self.eh_frame.len() as u64),
                (11, 3, 0, names_offset, names.len() as u64),
            ] {
                file.extend(name.to_le_bytes());
                file.extend(kind.to_le_bytes());
                for word in [2, address, offset, size, 0, 8, 0] {
                    file.extend(u64::to_le_bytes(word));
                }
            }
        }
        file
    }
}

/// `DW_CFA_advance_loc`.
pub const fn advance(bytes: u8) -> u8 {
    0x40 | bytes
}

/// `DW_CFA_def_cfa_expression`.
pub fn cfa_expression(expression: &[u8]) -> Vec<u8> {
    [&[0x0f, expression.len() as u8], expression].concat()
}

/// `DW_CFA_expression` for a register.
pub fn register_expression(register: u8, expression: &[u8]) -> Vec<u8> {
    [&[0x10, register, expression.len() as u8], expression].concat()
}
