//! The protocol of MySQL and MariaDB, as much of it as a store needs: packets, and statements in
//! text form, several in one round trip.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// A packet that is this long goes on in the next one.
const WHOLE: usize = 0xFF_FFFF;
/// The most that an answer may hold.
const MOST_BYTES: usize = 64 << 20;
/// Of a statement's status: another result follows.
const MORE_RESULTS: u16 = 0x0008;

/// Whatever the bytes travel over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A row's values, as text.
pub(super) type Values = Vec<Option<Vec<u8>>>;

/// What came of one statement.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Rows changed.
    pub(super) changed: u64,
    pub(super) rows: Vec<Values>,
}

/// Why nothing came of a statement.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said no.
    Said { code: u16, text: String },
    /// The connection broke, or what came over it is not this protocol.
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Packets over a stream.
pub(super) struct Wire {
    stream: BufReader<Box<dyn Stream>>,
    /// The number of the next packet of this exchange.
    sequence: u8,
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream: BufReader::new(stream), sequence: 0 }
    }

    /// The same over what `wrap` makes of the stream, such as TLS.
    pub(super) fn into_stream(self) -> (Box<dyn Stream>, u8) {
        (self.stream.into_inner(), self.sequence)
    }

    pub(super) fn resumed(stream: Box<dyn Stream>, sequence: u8) -> Self {
        Self { stream: BufReader::new(stream), sequence }
    }

    /// One packet's content, its parts joined.
    pub(super) async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let mut head = [0; 4];
            self.stream.read_exact(&mut head).await?;
            let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
            if head[3] != self.sequence || content.len() + length > MOST_BYTES {
                return Err(strange());
            }
            self.sequence = self.sequence.wrapping_add(1);
            let start = content.len();
            content.resize(start + length, 0);
            self.stream.read_exact(&mut content[start..]).await?;
            if length < WHOLE {
                return Ok(content);
            }
        }
    }

    /// Sends one packet.
    pub(super) async fn send(&mut self, content: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(content.len() + 4);
        let mut rest = content;
        loop {
            let (part, after) = rest.split_at(rest.len().min(WHOLE));
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes()[..3]);
            bytes.push(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend_from_slice(part);
            rest = after;
            if part.len() < WHOLE {
                break;
            }
        }
        self.stream.get_mut().write_all(&bytes).await?;
        self.stream.get_mut().flush().await
    }

    /// Runs statements, separated by semicolons, in one round trip. The first that fails ends it.
    pub(super) async fn run(&mut self, sql: &str) -> Result<Vec<Outcome>, Failure> {
        self.sequence = 0;
        let mut command = Vec::with_capacity(sql.len() + 1);
        command.push(0x03);
        command.extend_from_slice(sql.as_bytes());
        self.send(&command).await?;
        let mut outcomes = Vec::new();
        loop {
            let (outcome, status) = self.outcome().await?;
            outcomes.push(outcome);
            if status & MORE_RESULTS == 0 {
                return Ok(outcomes);
            }
        }
    }

    async fn outcome(&mut self) -> Result<(Outcome, u16), Failure> {
        let packet = self.receive().await?;
        match packet.first() {
            Some(0x00) => {
                let mut reader = Reader(&packet[1..]);
                let (changed, _) = (reader.count()?, reader.count()?);
                Ok((Outcome { changed, rows: Vec::new() }, reader.number(2)? as u16))
            }
            Some(0xFF) => Err(said(&packet)),
            // The server asks for a file of this host: never.
            Some(0xFB) | None => Err(strange().into()),
            Some(_) => self.rows(Reader(&packet).count()?).await,
        }
    }

    async fn rows(&mut self, columns: u64) -> Result<(Outcome, u16), Failure> {
        for _ in 0..columns {
            self.receive().await?;
        }
        ended(&self.receive().await?)?.ok_or_else(strange)?;
        let mut rows = Vec::new();
        loop {
            let packet = self.receive().await?;
            if let Some(status) = ended(&packet)? {
                return Ok((Outcome { changed: 0, rows }, status));
            }
            let mut reader = Reader(&packet);
            let values = (0..columns).map(|_| reader.value());
            rows.push(values.collect::<io::Result<Values>>()?);
        }
    }
}

/// The status, when this packet ends a list.
fn ended(packet: &[u8]) -> Result<Option<u16>, Failure> {
    match packet {
        [0xFE, rest @ ..] if packet.len() < 9 => {
            let mut reader = Reader(rest);
            reader.number(2)?;
            Ok(Some(reader.number(2)? as u16))
        }
        [0xFF, ..] => Err(said(packet)),
        _ => Ok(None),
    }
}

/// What the server says in an error packet.
pub(super) fn said(packet: &[u8]) -> Failure {
    let mut reader = Reader(packet.get(1..).unwrap_or_default());
    let Ok(code) = reader.number(2) else { return strange().into() };
    // The state of standard SQL stands in front, behind a #; before the handshake it does not.
    let text = reader.0.strip_prefix(b"#").and_then(|rest| rest.get(5..)).unwrap_or(reader.0);
    Failure::Said { code: code as u16, text: String::from_utf8_lossy(text).into_owned() }
}

/// What came is not this protocol.
pub(super) fn strange() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what answers does not speak the protocol of MySQL")
}

/// What is left to read of a packet.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(length).ok_or_else(strange)?;
        self.0 = rest;
        Ok(part)
    }

    pub(super) fn number(&mut self, width: usize) -> io::Result<u64> {
        let mut word = [0; 8];
        word[..width].copy_from_slice(self.take(width)?);
        Ok(u64::from_le_bytes(word))
    }

    /// Up to a zero byte, or to the end.
    pub(super) fn text(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        text
    }

    /// A number that says itself how long it is.
    fn count(&mut self) -> io::Result<u64> {
        match self.number(1)? {
            0xFC => self.number(2),
            0xFD => self.number(3),
            0xFE => self.number(8),
            0xFB | 0xFF => Err(strange()),
            small => Ok(small),
        }
    }

    fn value(&mut self) -> io::Result<Option<Vec<u8>>> {
        if let [0xFB, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(None);
        }
        let length = usize::try_from(self.count()?).map_err(|_| strange())?;
        Ok(Some(self.take(length)?.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is read when a server answers a statement with these bytes.
    async fn answered(bytes: &[u8]) -> Result<Vec<Outcome>, Failure> {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::new(Box::new(near));
        far.write_all(bytes).await.unwrap();
        drop(far.shutdown().await);
        let (outcome, ()) = tokio::join!(wire.run("SELECT 1"), async {
            let _ = far.read(&mut [0; 64]).await;
            drop(far);
        });
        outcome
    }

    #[tokio::test]
    async fn errors_are_read_with_their_code() {
        let packet = [&[14, 0, 0, 1, 0xFF, 0x26, 0x04][..], b"#23000again"].concat();
        let Err(Failure::Said { code, text }) = answered(&packet).await else { panic!() };
        assert_eq!((code, text.as_str()), (1062, "again"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), sequenced in any::<bool>()) {
            let mut bytes = bytes;
            if sequenced && bytes.len() > 5 {
                (bytes[0], bytes[1], bytes[2], bytes[3]) = ((bytes.len() - 4) as u8, 0, 0, 1);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(answered(&bytes));
        }
    }
}
