//! Checks the framing of a chunked body.

use memchr::memchr;

use super::head::{field, is_text};
use super::{Limits, Refusal};

/// Longest line that gives the size of a chunk, with its extensions.
const MAX_SIZE_LINE: usize = 1024;
/// Most bytes of chunk extensions in one body.
const MAX_EXTENSIONS: usize = 8 * 1024;
/// Most bytes of trailers after one body.
const MAX_TRAILERS: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// Follows the bytes of one chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    part: Part,
    /// Bytes of data promised by the chunks seen so far.
    promised: u64,
    extensions: usize,
    trailers: usize,
    trailer_bytes: usize,
    /// How much of the current line was searched for its end already.
    searched: usize,
}

impl Chunked {
    pub(super) fn is_done(&self) -> bool {
        self.part == Part::Done
    }

    /// Clears one part of the framing. 0 means more input is needed.
    pub(super) fn advance(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Refusal> {
        match self.part {
            Part::Size => self.size(bytes, limits),
            Part::Data(left) => {
                let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - count as u64;
                self.part = if left == 0 { Part::DataEnd } else { Part::Data(left) };
                Ok(count)
            }
            Part::DataEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.part = Part::Size;
                    Ok(2)
                }
                [] | [b'\r'] => Ok(0),
                _ => Err(Refusal::BadChunk),
            },
            Part::Trailers => self.trailer(bytes, limits),
            Part::Done => Ok(0),
        }
    }

    fn size(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Refusal> {
        let Some(line) = self.line(bytes, MAX_SIZE_LINE, Refusal::BadChunk)? else {
            return Ok(0);
        };
        let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
        let (number, extension) = line.split_at(digits);
        if number.is_empty() || number.len() > 16 {
            return Err(Refusal::BadChunk);
        }
        if !extension.is_empty() && (extension[0] != b';' || !is_text(extension)) {
            return Err(Refusal::BadChunk);
        }
        self.extensions += extension.len();
        if self.extensions > MAX_EXTENSIONS {
            return Err(Refusal::BadChunk);
        }
        let size = number.iter().fold(0_u64, |sum, digit| (sum << 4) | hex(*digit));
        self.promised = self.promised.saturating_add(size);
        if self.promised > limits.max_body_bytes {
            return Err(Refusal::BodyTooLarge);
        }
        self.part = if size == 0 { Part::Trailers } else { Part::Data(size) };
        Ok(line.len() + 2)
    }

    fn trailer(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Refusal> {
        let room = MAX_TRAILERS - self.trailer_bytes;
        let Some(line) = self.line(bytes, room, Refusal::HeadTooLarge)? else {
            return Ok(0);
        };
        if line.is_empty() {
            self.part = Part::Done;
            return Ok(2);
        }
        field(line)?;
        self.trailers += 1;
        self.trailer_bytes += line.len() + 2;
        if self.trailers > limits.max_headers {
            return Err(Refusal::TooManyHeaders);
        }
        Ok(line.len() + 2)
    }

    /// The line at the start of `bytes` without its end, if it is complete.
    fn line<'a>(&mut self, bytes: &'a [u8], longest: usize, too_long: Refusal) -> Result<Option<&'a [u8]>, Refusal> {
        match memchr(b'\n', &bytes[self.searched..]) {
            Some(found) => {
                let end = self.searched + found;
                if end >= longest {
                    return Err(too_long);
                }
                self.searched = 0;
                bytes[..end].strip_suffix(b"\r").ok_or(Refusal::BareLf).map(Some)
            }
            None if bytes.len() > longest => Err(too_long),
            None => {
                self.searched = bytes.len();
                Ok(None)
            }
        }
    }
}

fn hex(digit: u8) -> u64 {
    u64::from((digit as char).to_digit(16).unwrap_or(0))
}
