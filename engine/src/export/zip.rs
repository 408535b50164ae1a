//! A ZIP archive of a few small files, stored as they are: a header before each, a list of them all at the end. By
//! APPNOTE.TXT of PKWARE, without what only large, packed or secret files need.

use std::collections::BTreeMap;

/// An archive, or `None` if it would be larger than a plain one can be.
pub(crate) fn zip(files: &BTreeMap<String, Vec<u8>>) -> Option<Vec<u8>> {
    let (mut archive, mut list) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let offset = u32::try_from(archive.len()).ok()?;
        let mut header = Vec::new();
        push(&mut header, &[10, UTF_8, STORED, MIDNIGHT, NEW_YEAR_1980]);
        header.extend(crc32fast::hash(bytes).to_le_bytes());
        header.extend(u32::try_from(bytes.len()).ok()?.to_le_bytes());
        header.extend(u32::try_from(bytes.len()).ok()?.to_le_bytes());
        header.extend(u16::try_from(name.len()).ok()?.to_le_bytes());
        // Nothing extra.
        push(&mut header, &[0]);

        archive.extend(b"PK\x03\x04");
        archive.extend(&header);
        archive.extend(name.as_bytes());
        archive.extend(bytes);

        list.extend(b"PK\x01\x02");
        push(&mut list, &[MADE_ON_UNIX]);
        list.extend(&header);
        // No comment, on the first disk, of no kind.
        push(&mut list, &[0, 0, 0]);
        list.extend((REGULAR_FILE << 16).to_le_bytes());
        list.extend(offset.to_le_bytes());
        list.extend(name.as_bytes());
    }
    let (offset, size) = (u32::try_from(archive.len()).ok()?, u32::try_from(list.len()).ok()?);
    let count = u16::try_from(files.len()).ok()?;
    archive.extend(list);
    archive.extend(b"PK\x05\x06");
    push(&mut archive, &[0, 0, count, count]);
    archive.extend(size.to_le_bytes());
    archive.extend(offset.to_le_bytes());
    push(&mut archive, &[0]);
    Some(archive)
}

/// Names are UTF-8.
const UTF_8: u16 = 1 << 11;
const STORED: u16 = 0;
/// The same bytes whenever it is made.
const MIDNIGHT: u16 = 0;
const NEW_YEAR_1980: u16 = 1 << 5 | 1;
/// By the specification's version 1.0.
const MADE_ON_UNIX: u16 = 3 << 8 | 10;
/// Readable by all, as `st_mode` has it.
const REGULAR_FILE: u32 = 0o100_644;

fn push(bytes: &mut Vec<u8>, values: &[u16]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}
