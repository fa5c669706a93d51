//! The types a parameter can have, and how their text is read.

use std::borrow::Cow;

use super::calendar::{Date, DateTime, Time};
use super::form::FormFile;

/// Longest text of an integer that does not fit 64 bits.
const MAX_INT_DIGITS: usize = 4300;

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Any text.
    Str,
    /// A whole number of up to 4300 digits.
    Int,
    /// A finite decimal number.
    Float,
    /// `true false 1 0 yes no on off t f y n`, in any case.
    Bool,
    /// 32 hexadecimal digits, with hyphens in the usual places or without.
    Uuid,
    /// `YYYY-MM-DD`.
    Date,
    /// `HH:MM[:SS[.fraction]][Z|+HH:MM]`.
    Time,
    /// A date and a time with `T` or a space between them.
    DateTime,
    /// An exact decimal number, kept as text.
    Decimal,
}

/// A parameter as read. Text borrows from the request where it needs no decoding.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// The parameter was not sent and has a default.
    Absent,
    /// Any text.
    Str(Cow<'a, str>),
    /// A whole number that fits 64 bits.
    Int(i64),
    /// A larger whole number: an optional `-` and digits.
    BigInt(Cow<'a, str>),
    /// A finite number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A UUID as one number.
    Uuid(u128),
    /// A day.
    Date(Date),
    /// A time of day.
    Time(Time),
    /// A day and a time of day.
    DateTime(DateTime),
    /// A decimal number as its text.
    Decimal(Cow<'a, str>),
    /// A file of a form.
    File(&'a FormFile),
    /// The values of a parameter that may come several times.
    List(Vec<Value<'a>>),
}

impl Kind {
    /// The kind with this name in a route's description, for example `"int"`.
    pub fn from_name(name: &str) -> Option<Kind> {
        Some(match name {
            "str" => Kind::Str,
            "int" => Kind::Int,
            "float" => Kind::Float,
            "bool" => Kind::Bool,
            "uuid" => Kind::Uuid,
            "date" => Kind::Date,
            "time" => Kind::Time,
            "datetime" => Kind::DateTime,
            "decimal" => Kind::Decimal,
            _ => return None,
        })
    }

    /// The names that [`Kind::from_name`] knows.
    pub const NAMES: &'static [&'static str] =
        &["str", "int", "float", "bool", "uuid", "date", "time", "datetime", "decimal"];

    /// The `type` of the error for text that cannot be read.
    pub fn error_code(self) -> &'static str {
        match self {
            Kind::Str => "string_unicode",
            Kind::Int => "int_parsing",
            Kind::Float => "float_parsing",
            Kind::Bool => "bool_parsing",
            Kind::Uuid => "uuid_parsing",
            Kind::Date => "date_parsing",
            Kind::Time => "time_parsing",
            Kind::DateTime => "datetime_parsing",
            Kind::Decimal => "decimal_parsing",
        }
    }

    /// What was expected, as a part of a sentence.
    pub fn expectation(self) -> &'static str {
        match self {
            Kind::Str => "text in UTF-8",
            Kind::Int => "a whole number",
            Kind::Float => "a number",
            Kind::Bool => "true or false",
            Kind::Uuid => "a UUID",
            Kind::Date => "a date like 2025-01-31",
            Kind::Time => "a time like 13:45:00",
            Kind::DateTime => "a date and time like 2025-01-31T13:45:00Z",
            Kind::Decimal => "a decimal number",
        }
    }

    /// Reads decoded text. Spaces around anything but text are ignored.
    pub fn read<'a>(self, text: Cow<'a, str>) -> Option<Value<'a>> {
        if self == Kind::Str {
            return Some(Value::Str(text));
        }
        let trimmed = text.trim_matches(' ');
        match self {
            Kind::Int => read_int(trimmed),
            Kind::Float => read_float(trimmed).map(Value::Float),
            Kind::Bool => read_bool(trimmed).map(Value::Bool),
            Kind::Uuid => read_uuid(trimmed).map(Value::Uuid),
            Kind::Date => Date::parse(trimmed).map(Value::Date),
            Kind::Time => Time::parse(trimmed).map(Value::Time),
            Kind::DateTime => DateTime::parse(trimmed).map(Value::DateTime),
            Kind::Decimal => is_decimal(trimmed).then(|| Value::Decimal(Cow::Owned(trimmed.to_owned()))),
            Kind::Str => None,
        }
    }
}

fn read_int(text: &str) -> Option<Value<'static>> {
    if let Ok(value) = text.parse::<i64>() {
        return Some(Value::Int(value));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain =
        !unsigned.is_empty() && unsigned.len() <= MAX_INT_DIGITS && unsigned.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text.strip_prefix('+').unwrap_or(text);
    plain.then(|| Value::BigInt(Cow::Owned(canonical.to_owned())))
}

fn read_float(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    value.is_finite().then_some(value)
}

fn read_bool(text: &str) -> Option<bool> {
    const TRUE: [&str; 6] = ["true", "1", "yes", "on", "t", "y"];
    const FALSE: [&str; 6] = ["false", "0", "no", "off", "f", "n"];
    if TRUE.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        Some(true)
    } else if FALSE.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        Some(false)
    } else {
        None
    }
}

fn read_uuid(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    let hyphens = match bytes.len() {
        32 => false,
        36 => true,
        _ => return None,
    };
    let mut value: u128 = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if hyphens && matches!(at, 8 | 13 | 18 | 23) {
            if byte != b'-' {
                return None;
            }
            continue;
        }
        value = value << 4 | u128::from(char::from(byte).to_digit(16)?);
    }
    Some(value)
}

/// `[+-] digits [. digits] [e [+-] digits]`, at least one digit before the exponent.
fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (number, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(exponent)),
        None => (unsigned, None),
    };
    if let Some(exponent) = exponent {
        let power = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if power.is_empty() || power.len() > 9 || !digits(power) {
            return false;
        }
    }
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    digits(whole) && digits(part) && !(whole.is_empty() && part.is_empty()) && text.len() <= MAX_INT_DIGITS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, text: &str) -> Option<Value<'_>> {
        kind.read(Cow::Borrowed(text))
    }

    #[test]
    fn integers_of_any_size() {
        assert_eq!(read(Kind::Int, "-7"), Some(Value::Int(-7)));
        assert_eq!(read(Kind::Int, " +7 "), Some(Value::Int(7)));
        let big = "9".repeat(30);
        assert_eq!(read(Kind::Int, &big), Some(Value::BigInt(big.clone().into())));
        let huge = "9".repeat(4301);
        for bad in ["", "-", "+", "1.0", "1_000", "0x10", "1e3", "\u{661}", &huge] {
            assert_eq!(read(Kind::Int, bad), None, "{bad}");
        }
    }

    #[test]
    fn floats_are_finite() {
        assert_eq!(read(Kind::Float, "1.5e3"), Some(Value::Float(1500.0)));
        for bad in ["", "nan", "inf", "-infinity", "1e999", "1,5", "x"] {
            assert_eq!(read(Kind::Float, bad), None, "{bad}");
        }
    }

    #[test]
    fn booleans_in_any_case() {
        for (text, value) in [("TRUE", true), ("1", true), ("On", true), ("no", false), ("F", false)] {
            assert_eq!(read(Kind::Bool, text), Some(Value::Bool(value)));
        }
        for bad in ["", "2", "maybe", "tru"] {
            assert_eq!(read(Kind::Bool, bad), None, "{bad}");
        }
    }

    #[test]
    fn uuids_with_and_without_hyphens() {
        let plain = 0x1234_5678_9abc_def0_1234_5678_9abc_def0_u128;
        for text in ["12345678-9abc-def0-1234-56789abcdef0", "123456789ABCDEF0123456789abcdef0"] {
            assert_eq!(read(Kind::Uuid, text), Some(Value::Uuid(plain)));
        }
        for bad in ["", "12345678-9abc-def0-1234-56789abcdefg", "12345678-9abcdef0-1234-56789abcdef0-"] {
            assert_eq!(read(Kind::Uuid, bad), None, "{bad}");
        }
    }

    #[test]
    fn decimals_keep_their_text() {
        for good in ["1", "-1.50", "+.5", "1.", "1e-5", "0.1E+2"] {
            assert_eq!(read(Kind::Decimal, good), Some(Value::Decimal(good.into())), "{good}");
        }
        for bad in ["", ".", "-", "1e", "NaN", "Infinity", "1.2.3", "1_0", "e5"] {
            assert_eq!(read(Kind::Decimal, bad), None, "{bad}");
        }
    }

    #[test]
    fn every_name_has_a_kind() {
        for name in Kind::NAMES {
            assert!(Kind::from_name(name).is_some(), "{name}");
        }
        assert_eq!(Kind::from_name("complex"), None);
    }
}
