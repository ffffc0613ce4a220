//! A file in pieces: what is one account of it, and where that begins.
//!
//! Every format is cut up before it is parsed, because the parsers in use say too little of where they are,
//! and would hold all of a file in memory whose brackets or quotes do not close.

use std::io::BufRead;

/// A longer piece is passed over, in bytes.
const MAX_PIECE: usize = 1 << 20;

/// What a byte means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It stands between pieces.
    Skip,
    /// It belongs to the piece.
    Keep,
    /// It belongs to the piece, which ends with it.
    Last,
    /// It stands after the piece, which is over.
    End,
    /// It cannot stand here, and where the next piece begins cannot be told.
    Wrong(&'static str),
}

/// How a format is cut up.
pub(super) trait Grammar {
    /// What the next byte means, between pieces or, where one has begun, in it.
    fn step(&mut self, byte: u8, begun: bool) -> Step;

    /// Whether a file can end here, or what is wrong with that.
    fn end(&self, begun: bool) -> Result<(), &'static str>;
}

/// A piece of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// The line in which it begins.
    pub(super) line: u64,
    /// What it says; nothing where that is too long.
    pub(super) bytes: Option<&'a [u8]>,
}

/// Why the rest of a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// The line up to which it could.
    pub(super) line: u64,
    /// What is wrong with it, to be read after the line.
    pub(super) reason: String,
}

/// A file that is read from its beginning to its end, once.
pub(super) struct Text {
    reader: Box<dyn BufRead + Send>,
    line: u64,
    offset: u64,
    piece: Vec<u8>,
}

impl Text {
    pub(super) fn new(reader: Box<dyn BufRead + Send>) -> Self {
        Self { reader, line: 1, offset: 0, piece: Vec::new() }
    }

    /// How much of it has been read, in bytes.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next piece, if there is one.
    pub(super) fn next(&mut self, grammar: &mut impl Grammar) -> Result<Option<Piece<'_>>, SyntaxError> {
        self.piece.clear();
        let mut begun = None;
        let mut length = 0;
        loop {
            let line = self.line;
            let broken = |reason: &dyn std::fmt::Display| SyntaxError { line, reason: reason.to_string() };
            let buffer =
                self.reader.fill_buf().map_err(|error| broken(&format!("cannot be read: {error}")))?;
            if buffer.is_empty() {
                grammar.end(begun.is_some()).map_err(|reason| SyntaxError {
                    line: begun.unwrap_or(line),
                    reason: reason.to_owned(),
                })?;
                break;
            }
            let mut used = 0;
            let mut over = false;
            for &byte in buffer {
                let step = grammar.step(byte, begun.is_some());
                if let Step::Wrong(reason) = step {
                    return Err(SyntaxError { line: self.line, reason: reason.to_owned() });
                }
                if matches!(step, Step::Keep | Step::Last) {
                    begun.get_or_insert(self.line);
                    length += 1;
                    if length <= MAX_PIECE {
                        self.piece.push(byte);
                    }
                }
                used += 1;
                self.line += u64::from(byte == b'\n');
                if matches!(step, Step::Last | Step::End) {
                    over = true;
                    break;
                }
            }
            self.reader.consume(used);
            self.offset += used as u64;
            if over {
                break;
            }
        }
        let whole = length <= MAX_PIECE;
        Ok(begun.map(|line| Piece { line, bytes: whole.then_some(self.piece.as_slice()) }))
    }
}

#[cfg(test)]
impl Text {
    /// A text that is handed out in portions of so many bytes, as a pipe would.
    pub(super) fn of(text: &[u8], portion: usize) -> Self {
        let reader = std::io::Cursor::new(text.to_vec());
        Self::new(Box::new(std::io::BufReader::with_capacity(portion.max(1), reader)))
    }
}
