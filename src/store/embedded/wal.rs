//! Finds damage in the write-ahead log of SQLite before SQLite opens it.
//!
//! SQLite ends its recovery silently at the first invalid frame. That is right after a crash, which can leave at most
//! one transaction half written, but it loses acknowledged transactions if the log is damaged in the middle. So two
//! or more complete transactions behind an invalid frame mean damage.
//!
//! The format is described at <https://www.sqlite.org/fileformat2.html#walformat>.

use std::{
    fs::File,
    io::{self, BufReader, Read as _},
    path::Path,
};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// The header is invalid, so no frame can be read.
    Header,
    /// A frame, counted from 1, is invalid.
    Frame { number: u64, transactions_behind: u64 },
}

/// Reads the log at `path`. A missing or empty log has no damage.
pub(super) fn find_damage(path: &Path) -> io::Result<Option<Damage>> {
    let mut wal = match File::open(path) {
        Ok(file) => BufReader::with_capacity(256 * 1024, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut header = [0; HEADER];
    if !read_full(&mut wal, &mut header)? {
        return Ok(None);
    }
    let Some(format) = Format::read(&header) else { return Ok(Some(Damage::Header)) };
    let mut frame = vec![0; FRAME_HEADER + format.page_size];
    let (mut number, mut first_invalid) = (0, None);
    // The checksum that the next frame continues.
    let mut checksum = format.checksum;
    // The complete transactions in the current run of valid frames behind the first invalid one.
    let mut transactions_behind = 0;
    while read_full(&mut wal, &mut frame)? {
        number += 1;
        let stored = (word(&frame, 16), word(&frame, 20));
        let is_valid = frame[8..16] == format.salts && format.frame_checksum(checksum, &frame) == stored;
        if !is_valid {
            // Frames of an older log also end the run.
            first_invalid = first_invalid.or(Some(number));
            transactions_behind = 0;
        }
        checksum = stored;
        let is_commit = word(&frame, 4) != 0;
        transactions_behind += u64::from(is_valid && first_invalid.is_some() && is_commit);
        if let Some(number) = first_invalid.filter(|_| transactions_behind >= 2) {
            return Ok(Some(Damage::Frame { number, transactions_behind }));
        }
    }
    Ok(None)
}

struct Format {
    big_endian: bool,
    page_size: usize,
    salts: [u8; 8],
    checksum: (u32, u32),
}

impl Format {
    fn read(header: &[u8; HEADER]) -> Option<Self> {
        let big_endian = match word(header, 0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let page_size = usize::try_from(word(header, 8)).ok()?;
        let salts = header[16..24].try_into().ok()?;
        let checksum = (word(header, 24), word(header, 28));
        let format = Self { big_endian, page_size, salts, checksum };
        let is_valid = page_size.is_power_of_two()
            && (512..=65_536).contains(&page_size)
            && format.add((0, 0), &header[..24]) == checksum;
        is_valid.then_some(format)
    }

    /// Returns the checksum of a frame, which continues that of the frame before it.
    fn frame_checksum(&self, previous: (u32, u32), frame: &[u8]) -> (u32, u32) {
        self.add(self.add(previous, &frame[..8]), &frame[FRAME_HEADER..])
    }

    fn add(&self, (mut first, mut second): (u32, u32), bytes: &[u8]) -> (u32, u32) {
        let word = |bytes: &[u8], at| {
            let word = word(bytes, at);
            if self.big_endian { word } else { word.swap_bytes() }
        };
        for pair in bytes.chunks_exact(8) {
            first = first.wrapping_add(word(pair, 0)).wrapping_add(second);
            second = second.wrapping_add(word(pair, 4)).wrapping_add(first);
        }
        (first, second)
    }
}

/// Fills the buffer. Returns false at the end of the file, also behind a partial read.
fn read_full(file: &mut BufReader<File>, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
