//! Money: integer nano-dollars.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nano-dollars in a dollar.
const NANOS: i64 = 1_000_000_000;
/// Digits after the point that are kept.
const DIGITS: usize = 9;

/// An amount in US dollars, exact to nine digits after the point; up to nine milliards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Usd(i64);

impl Usd {
    /// The amount of so many nano-dollars.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The amount in nano-dollars.
    pub const fn nanos(self) -> i64 {
        self.0
    }
}

/// As written: `1.5`, `-0.000001`, `20`.
impl FromStr for Usd {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const NOT: &str = "this is no amount: write it as `1.5`, with at most nine digits after the point";
        let text = text.trim();
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || part.len() > DIGITS || !all_digits(whole) || !all_digits(part) {
            return Err(NOT);
        }
        let whole: i64 = whole.parse().map_err(|_| NOT)?;
        let mut nanos: i64 = 0;
        for at in 0..DIGITS {
            let digit = part.as_bytes().get(at).map_or(0, |byte| i64::from(byte - b'0'));
            nanos = nanos * 10 + digit;
        }
        let amount = whole.checked_mul(NANOS).and_then(|whole| whole.checked_add(nanos)).ok_or(NOT)?;
        Ok(Self(if negative { -amount } else { amount }))
    }
}

/// With the digits that it needs, at least two after the point: `12.50`, `0.000123`.
impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let mut part = format!("{:09}", nanos % NANOS.unsigned_abs());
        while part.len() > 2 && part.ends_with('0') {
            part.pop();
        }
        write!(f, "{sign}{}.{part}", nanos / NANOS.unsigned_abs())
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Amount;
        impl Visitor<'_> for Amount {
            type Value = Usd;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount in dollars such as `1.5`")
            }

            fn visit_i64<E: de::Error>(self, dollars: i64) -> Result<Usd, E> {
                dollars.checked_mul(NANOS).map(Usd).ok_or_else(|| E::custom("the amount is too large"))
            }

            fn visit_u64<E: de::Error>(self, dollars: u64) -> Result<Usd, E> {
                i64::try_from(dollars)
                    .map_err(|_| E::custom("the amount is too large"))
                    .and_then(|dollars| self.visit_i64(dollars))
            }

            // The shortest text that reads as this number is what was written, so no digit is made up.
            fn visit_f64<E: de::Error>(self, dollars: f64) -> Result<Usd, E> {
                self.visit_str(&format!("{dollars}"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Usd, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (text, nanos, shown) in [
            ("1.5", 1_500_000_000, "1.50"),
            ("0.000000001", 1, "0.000000001"),
            ("-3", -3_000_000_000, "-3.00"),
            ("100", 100_000_000_000, "100.00"),
            ("9000000000", 9_000_000_000_000_000_000, "9000000000.00"),
        ] {
            let amount: Usd = text.parse().unwrap();
            assert_eq!((amount.nanos(), amount.to_string().as_str()), (nanos, shown), "{text}");
        }
        for text in ["", ".5", "1e3", "0.0000000001", "9999999999999", "1,5", "-", "1.-5"] {
            assert!(text.parse::<Usd>().is_err(), "{text}");
        }
        for (json, nanos) in
            [("0.1", 100_000_000), ("20", 20_000_000_000), ("\"0.30\"", 300_000_000), ("1e-9", 1)]
        {
            assert_eq!(serde_json::from_str::<Usd>(json).unwrap().nanos(), nanos, "{json}");
        }
    }
}
