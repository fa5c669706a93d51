//! Why a connection is refused, and the answer that says so.

/// Why a request cannot be accepted. The connection is closed after the answer,
/// because where the next request would begin is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The request line is not `METHOD target HTTP/x.y`.
    BadRequestLine,
    /// The target is not a path, `*` with OPTIONS, or an http URL.
    BadTarget,
    /// A header line is not `name: value` in allowed characters.
    BadHeader,
    /// A line ends in LF without CR.
    BareLf,
    /// A header value goes on in the next line.
    FoldedLine,
    /// HTTP/1.1 without Host.
    NoHost,
    /// More than one Host.
    SeveralHosts,
    /// Host is not a name or an address with a port.
    BadHost,
    /// Host is not the host of an absolute target.
    OtherHost,
    /// Content-Length is not a number.
    BadLength,
    /// More than one Content-Length.
    SeveralLengths,
    /// Both Content-Length and Transfer-Encoding.
    LengthAndCoding,
    /// More than one Transfer-Encoding.
    SeveralCodings,
    /// Transfer-Encoding in HTTP/1.0.
    CodingIn10,
    /// Transfer-Encoding that is not `chunked`.
    UnknownCoding,
    /// The chunk framing is broken.
    BadChunk,
    /// The head is larger than allowed.
    HeadTooLarge,
    /// More header lines than allowed.
    TooManyHeaders,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The target is longer than allowed.
    TargetTooLong,
    /// Expect that is not `100-continue`.
    UnknownExpectation,
    /// A version other than 1.0 and 1.1.
    UnknownVersion,
    /// CONNECT.
    Tunnel,
    /// The head took too long to arrive.
    HeadTimeout,
    /// The body took too long to arrive.
    BodyTimeout,
}

impl Refusal {
    /// The HTTP status of the answer.
    pub fn status(self) -> u16 {
        self.parts().0
    }

    /// One sentence about what is wrong.
    pub fn detail(self) -> &'static str {
        self.parts().1
    }

    fn parts(self) -> (u16, &'static str) {
        match self {
            Refusal::BadRequestLine => (400, "The request line is not 'METHOD target HTTP/1.1'."),
            Refusal::BadTarget => (400, "The request target is not a path or an http URL."),
            Refusal::BadHeader => (400, "A header line is not 'name: value' in allowed characters."),
            Refusal::BareLf => (400, "A line does not end in CR LF."),
            Refusal::FoldedLine => (400, "A header value goes on in the next line."),
            Refusal::NoHost => (400, "The Host header is missing."),
            Refusal::SeveralHosts => (400, "There is more than one Host header."),
            Refusal::BadHost => (400, "The Host header is not a name or an address with a port."),
            Refusal::OtherHost => (400, "The request target and the Host header name different hosts."),
            Refusal::BadLength => (400, "Content-Length is not a number of bytes."),
            Refusal::SeveralLengths => (400, "There is more than one Content-Length."),
            Refusal::LengthAndCoding => (400, "There is both a Content-Length and a Transfer-Encoding."),
            Refusal::SeveralCodings => (400, "There is more than one Transfer-Encoding."),
            Refusal::CodingIn10 => (400, "HTTP/1.0 has no Transfer-Encoding."),
            Refusal::BadChunk => (400, "The chunked body is malformed."),
            Refusal::HeadTimeout => (408, "The request head took too long to arrive."),
            Refusal::BodyTimeout => (408, "The request body took too long to arrive."),
            Refusal::BodyTooLarge => (413, "The request body is larger than this server accepts."),
            Refusal::TargetTooLong => (414, "The request target is longer than this server accepts."),
            Refusal::UnknownExpectation => (417, "The only known expectation is 100-continue."),
            Refusal::HeadTooLarge => (431, "The request head is larger than this server accepts."),
            Refusal::TooManyHeaders => (431, "The request has more headers than are accepted."),
            Refusal::UnknownCoding => (501, "The only known Transfer-Encoding is chunked."),
            Refusal::Tunnel => (501, "CONNECT is not offered."),
            Refusal::UnknownVersion => (505, "The only known versions are HTTP/1.0 and HTTP/1.1."),
        }
    }
}

/// A problem document (RFC 9457). The words need no escaping.
pub(crate) fn problem(status: u16, title: &str, detail: &str) -> String {
    format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\
         \"detail\":\"{detail}\"}}"
    )
}
