//! Getting in: the handshake of MySQL and MariaDB, with TLS when the URL asks for it.

use std::io;

use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::wire::{Failure, Reader, Wire, said, strange};
use crate::sql::secure::Secure;

/// Protocol 4.1, a database, transactions, a password that is not sent, several statements at once
/// with several results, and named ways to log in.
const ABILITIES: u32 = 0x1 | 0x2 | 0x4 | 0x200 | 0x2000 | 0x8000 | 0x1_0000 | 0x2_0000 | 0x8_0000;
const WITH_DATABASE: u32 = 0x8;
const WITH_TLS: u32 = 0x800;
/// `utf8mb4_general_ci`; all that is sent is ASCII.
const CHARSET: u8 = 45;
/// Both ways to log in hash the password with a salt of this length.
const SALT: usize = 20;

/// Who logs in, and where.
pub(super) struct Login<'a> {
    pub(super) user: &'a str,
    pub(super) password: &'a str,
    pub(super) database: &'a str,
    pub(super) host: &'a str,
    pub(super) secure: &'a Secure,
    /// Whether nobody can listen: a Unix socket.
    pub(super) private: bool,
}

/// Why nobody got in.
#[derive(Debug)]
pub(super) enum Refusal {
    Failed(Failure),
    /// The handshake of TLS failed.
    #[cfg(feature = "sql-tls")]
    Tls(io::Error),
    /// The URL wants TLS and the server has none.
    NoTls,
    /// The server wants to be told the password itself, and somebody could listen.
    Exposed,
    /// The server wants another way to log in.
    Unknown(String),
}

impl<E: Into<Failure>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What the server says first.
struct Greeting {
    version: String,
    abilities: u32,
    salt: Vec<u8>,
    plugin: Vec<u8>,
}

impl Greeting {
    fn read(packet: &[u8]) -> Result<Self, Failure> {
        if packet.first() == Some(&0xFF) {
            return Err(said(packet));
        }
        let mut reader = Reader(packet);
        if reader.number(1)? != 10 {
            return Err(strange().into());
        }
        let version = String::from_utf8_lossy(reader.text()).into_owned();
        reader.take(4)?;
        let mut salt = reader.take(8)?.to_vec();
        reader.take(1)?;
        let low = reader.number(2)?;
        reader.take(3)?;
        let high = reader.number(2)?;
        let length = reader.number(1)? as usize;
        reader.take(10)?;
        salt.extend_from_slice(reader.take(length.saturating_sub(8).max(13))?);
        salt.truncate(SALT);
        Ok(Self { version, abilities: (low | high << 16) as u32, salt, plugin: reader.text().to_vec() })
    }
}

/// Logs in over a fresh stream. Returns the wire and the server's version.
pub(super) async fn enter(mut wire: Wire, login: &Login<'_>) -> Result<(Wire, String), Refusal> {
    let greeting = Greeting::read(&wire.receive().await?)?;
    let mut abilities = ABILITIES;
    if !login.database.is_empty() {
        abilities |= WITH_DATABASE;
    }
    let mut private = login.private;
    if wants_tls(login, &greeting)? {
        abilities |= WITH_TLS;
        wire.send(&head(abilities)).await?;
        wire = secured(wire, login).await?;
        private = true;
    }
    let mut answer = head(abilities);
    answer.extend_from_slice(login.user.as_bytes());
    answer.push(0);
    let proof = prove(&greeting.plugin, login.password, &greeting.salt).unwrap_or_default();
    answer.push(proof.len() as u8);
    answer.extend_from_slice(&proof);
    if !login.database.is_empty() {
        answer.extend_from_slice(login.database.as_bytes());
        answer.push(0);
    }
    answer.extend_from_slice(&greeting.plugin);
    answer.push(0);
    wire.send(&answer).await?;
    confirm(&mut wire, login, private).await?;
    Ok((wire, greeting.version))
}

/// What both the request for TLS and the answer begin with.
fn head(abilities: u32) -> Vec<u8> {
    let mut head = Vec::with_capacity(128);
    head.extend_from_slice(&abilities.to_le_bytes());
    head.extend_from_slice(&(1_u32 << 24).to_le_bytes());
    head.push(CHARSET);
    head.extend_from_slice(&[0; 23]);
    head
}

fn wants_tls(login: &Login<'_>, greeting: &Greeting) -> Result<bool, Refusal> {
    let offered = greeting.abilities & WITH_TLS != 0 && !login.private;
    match login.secure {
        Secure::Never => Ok(false),
        #[cfg(feature = "sql-tls")]
        Secure::Offered(_) => Ok(offered),
        #[cfg(feature = "sql-tls")]
        Secure::Always(_) if offered => Ok(true),
        #[cfg(feature = "sql-tls")]
        Secure::Always(_) => Err(Refusal::NoTls),
    }
    .map(|wanted| wanted && offered)
}

async fn secured(wire: Wire, login: &Login<'_>) -> Result<Wire, Refusal> {
    match login.secure {
        #[cfg(feature = "sql-tls")]
        Secure::Offered(tls) | Secure::Always(tls) => {
            let (stream, sequence) = wire.into_stream();
            let stream = tls.wrap(login.host, stream).await.map_err(Refusal::Tls)?;
            Ok(Wire::resumed(Box::new(stream), sequence))
        }
        Secure::Never => Ok(wire),
    }
}

/// Answers what the server asks until it lets us in.
async fn confirm(wire: &mut Wire, login: &Login<'_>, private: bool) -> Result<(), Refusal> {
    loop {
        let packet = wire.receive().await?;
        match packet.as_slice() {
            [0x00, ..] => return Ok(()),
            [0xFF, ..] => return Err(said(&packet).into()),
            // The quick way worked: the server knew the password's hash.
            [0x01, 0x03] => {}
            // It does not know it yet, and wants the password itself.
            [0x01, 0x04] if private => {
                let mut password = login.password.as_bytes().to_vec();
                password.push(0);
                wire.send(&password).await?;
            }
            [0x01, 0x04] => return Err(Refusal::Exposed),
            [0xFE, rest @ ..] if !rest.is_empty() => {
                let mut reader = Reader(rest);
                let plugin = reader.text();
                let salt = reader.0.get(..SALT).unwrap_or(reader.0);
                let proof = prove(plugin, login.password, salt)
                    .ok_or_else(|| Refusal::Unknown(String::from_utf8_lossy(plugin).into_owned()))?;
                wire.send(&proof).await?;
            }
            _ => return Err(strange().into()),
        }
    }
}

/// What shows that we know the password, without saying it. None for a way that is not known.
fn prove(plugin: &[u8], password: &str, salt: &[u8]) -> Option<Vec<u8>> {
    let mix = |one: &[u8], other: &[u8]| one.iter().zip(other).map(|(one, other)| one ^ other).collect();
    match plugin {
        // The system vouches for the user of a socket.
        b"unix_socket" | b"auth_socket" => Some(Vec::new()),
        b"mysql_native_password" | b"caching_sha2_password" if password.is_empty() => Some(Vec::new()),
        b"mysql_native_password" => {
            let once = Sha1::digest(password);
            let salted = Sha1::new().chain_update(salt).chain_update(Sha1::digest(once)).finalize();
            Some(mix(&once, &salted))
        }
        b"caching_sha2_password" => {
            let once = Sha256::digest(password);
            let salted = Sha256::new().chain_update(Sha256::digest(Sha256::digest(once))).chain_update(salt).finalize();
            Some(mix(&once, &salted))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn proofs_are_those_of_the_servers() {
        let salt: Vec<u8> = (1..=20).collect();
        // By `SHA1(p) XOR SHA1(salt || SHA1(SHA1(p)))` and its like in another language.
        assert_eq!(hex(&prove(b"mysql_native_password", "hunter2", &salt).unwrap()), NATIVE);
        assert_eq!(hex(&prove(b"caching_sha2_password", "hunter2", &salt).unwrap()), CACHING);
        assert_eq!(prove(b"caching_sha2_password", "", &salt), Some(Vec::new()));
        assert_eq!(prove(b"dialog", "hunter2", &salt), None);
    }

    const NATIVE: &str = "be2cbec13fd268cf921774da8dde99447d699455";
    const CACHING: &str = "04917479a40a673ae2388df86966d1b73768b4452df9a624881d93be865dc44c";
}
