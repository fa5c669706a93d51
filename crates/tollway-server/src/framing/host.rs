//! What may stand in a Host header.

/// Whether `value` is a host name or address, with or without a port.
///
/// Names may have every character that a URL allows there; what a name resolves
/// to, and whether it is one of ours, is not asked.
pub(crate) fn is_host(value: &[u8]) -> bool {
    let (name_ok, port) = match value {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
            (is_address(&rest[..end]), &rest[end + 1..])
        }
        _ => {
            let end = value.iter().position(|&byte| byte == b':').unwrap_or(value.len());
            (end > 0 && value[..end].iter().all(|&byte| is_name_byte(byte)), &value[end..])
        }
    };
    name_ok && (port.is_empty() || is_port(port))
}

/// An IPv6 address, without its brackets.
fn is_address(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

/// A colon and up to five digits.
fn is_port(text: &[u8]) -> bool {
    text[0] == b':' && text.len() <= 6 && text[1..].iter().all(u8::is_ascii_digit)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::is_host;

    #[test]
    fn tells_hosts_from_other_text() {
        for good in ["a", "a.b-c:80", "127.0.0.1:8000", "[::1]", "[2001:db8::1]:443", "a:", "xn--4ca.example", "_a"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in ["", ":80", "a:b", "a:80:80", "a:123456", "[::1", "[]", "[a]", "[::1]a", "::1", "a@b", "a/b", "a b"]
        {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
