//! DirectoryReads for damage in the write-ahead log of SQLite before it is opened.
//!
//! SQLite ends its recovery at the first frame that is not whole, and says nothing: that is right after a crash, which
//! can leave one transaction half written, and loses what was acknowledged where the log is damaged in the middle. So
//! whole transactions behind a frame that is not whole are damage: a crash leaves one at the most.
//!
//! The format is that of <https://www.sqlite.org/fileformat2.html#walformat>.

use std::{
    fs::File,
    io::{self, BufReader, Read as _},
    path::Path,
};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Where a log is damaged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Its header: nothing in it can be read.
    Header,
    /// A frame, counted from 1: so many transactions behind it cannot be read.
    Frame { number: u64, lost: u64 },
}

/// DirectoryReads for damage in the log at `path`; one that is missing or empty has none.
pub(super) fn damage(path: &Path) -> io::Result<Option<Damage>> {
    let mut log = match File::open(path) {
        Ok(file) => BufReader::with_capacity(256 * 1024, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut header = [0; HEADER];
    if !fill(&mut log, &mut header)? {
        return Ok(None);
    }
    let Some(format) = Format::read(&header) else { return Ok(Some(Damage::Header)) };
    let mut frame = vec![0; FRAME_HEADER + format.page_size];
    let (mut number, mut broken) = (0, None);
    // Behind which sum a frame continues the log.
    let mut sum = format.sum;
    // Transactions that end in an unbroken row of frames.
    let mut row = 0;
    while fill(&mut log, &mut frame)? {
        number += 1;
        let stored = (word(&frame, 16), word(&frame, 20));
        let is_next = frame[8..16] == format.salts && format.continued(sum, &frame) == stored;
        if !is_next {
            // What an older log has left behind is not of this one, and begins no row.
            broken = broken.or(Some(number));
            row = 0;
        }
        sum = stored;
        row += u64::from(is_next && broken.is_some() && word(&frame, 4) != 0);
        if let Some(number) = broken.filter(|_| row >= 2) {
            return Ok(Some(Damage::Frame { number, lost: row }));
        }
    }
    Ok(None)
}

struct Format {
    big_endian: bool,
    page_size: usize,
    salts: [u8; 8],
    sum: (u32, u32),
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
        let sum = (word(header, 24), word(header, 28));
        let format = Self { big_endian, page_size, salts, sum };
        let whole = page_size.is_power_of_two()
            && (512..=65_536).contains(&page_size)
            && format.add((0, 0), &header[..24]) == sum;
        whole.then_some(format)
    }

    /// The sum behind a frame.
    fn continued(&self, before: (u32, u32), frame: &[u8]) -> (u32, u32) {
        self.add(self.add(before, &frame[..8]), &frame[FRAME_HEADER..])
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

/// Reads the next piece; whether there was a whole one.
fn fill(from: &mut BufReader<File>, piece: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(piece) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
