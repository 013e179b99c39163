//! Sections that are packed (`SHF_COMPRESSED`).

use object::LittleEndian as LE;
use object::elf::{CompressionHeader64, ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD};
use object::pod;
use object::read::{CompressedData, CompressionFormat};

use super::bytes::Bytes;
use super::sections::Section;

type Header = CompressionHeader64<LE>;

/// What a packed section says that it unpacks to, bytes; 0 where that cannot be read.
pub fn unpacked_size<B: Bytes>(bytes: &B, section: &Section) -> u64 {
    let start = bytes.run(section.offset, section.size.min(size_of::<Header>() as u64));
    start.ok().and_then(|start| Some(pod::from_bytes::<Header>(&start).ok()?.0.ch_size.get(LE))).unwrap_or(0)
}

/// The content of a packed section's bytes. The caller has looked at [`unpacked_size`].
#[must_use]
pub fn unpack(data: &[u8]) -> Option<Vec<u8>> {
    let (header, data) = pod::from_bytes::<Header>(data).ok()?;
    let format = match header.ch_type.get(LE) {
        ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
        ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
        _ => return None,
    };
    let packed = CompressedData { format, data, uncompressed_size: header.ch_size.get(LE) };
    packed.decompress().ok().map(std::borrow::Cow::into_owned)
}
