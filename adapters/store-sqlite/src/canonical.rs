//! The canonical encoding of values, as `docs/internals/canonical-encoding.md` specifies it, and the hashes of rows.

use std::io::Write as _;

use contract::{Form, RowHash};
use md5::{Digest as _, Md5};
use rusqlite::types::ValueRef;

/// Digits before or after the point of a decimal number; PostgreSQL has no more.
const DECIMAL_DIGITS_MAX: i64 = 131_072;
/// JSON inside JSON.
const JSON_DEPTH_MAX: usize = 512;
/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;
/// The Julian day at which Unix time begins.
const UNIX_EPOCH_JULIAN: f64 = 2_440_587.5;

/// How a value stands to the form it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Null,
    Fits,
    /// Written as it is stored, after a `!`.
    Odd,
}

/// Writes a value as part of a row, without the `;` that ends it.
pub(crate) fn encode(form: Form, value: ValueRef<'_>, out: &mut Vec<u8>) -> Fit {
    if !form.has_length() {
        return plain(form, value, out);
    }
    // Texts in place, without a copy: the most common case.
    if let (Form::Text, ValueRef::Text(text)) = (form, value) {
        write!(out, "{}:", text.len()).expect("writing to memory does not fail");
        out.extend_from_slice(text);
        return Fit::Fits;
    }
    let mut inner = Vec::new();
    let fit = plain(form, value, &mut inner);
    match fit {
        Fit::Null => out.push(b':'),
        Fit::Fits => {
            write!(out, "{}:", inner.len()).expect("writing to memory does not fail");
            out.extend_from_slice(&inner);
        }
        Fit::Odd => out.extend_from_slice(&inner),
    }
    fit
}

/// Writes a value as part of a key: without its length.
pub(crate) fn plain(form: Form, value: ValueRef<'_>, out: &mut Vec<u8>) -> Fit {
    let start = out.len();
    let fits = match (form, value) {
        (_, ValueRef::Null) => return Fit::Null,
        (Form::Boolean, value) => boolean(value).map(|truth| out.push(if truth { b't' } else { b'f' })),
        (Form::Integer | Form::Decimal | Form::Json, ValueRef::Integer(number)) => {
            write!(out, "{number}").ok()
        }
        (Form::Decimal, ValueRef::Real(number)) => real_as_decimal(number, out),
        (Form::Decimal, ValueRef::Text(text)) => decimal(text, false, out),
        (Form::Json, ValueRef::Real(number)) if number.is_finite() => real_as_decimal(number, out),
        (Form::Float64, value) => float(value).and_then(|number| write!(out, "{:016x}", bits(number)).ok()),
        (Form::Float32, value) => float(value).and_then(|number| float32(number, out)),
        (Form::Text, ValueRef::Text(text)) => {
            std::str::from_utf8(text).is_ok().then(|| out.extend_from_slice(text))
        }
        (Form::Bytes, ValueRef::Blob(bytes)) => {
            hex(bytes, out);
            Some(())
        }
        (Form::Timestamp, value) => timestamp(value).and_then(|us| write_timestamp(us, out)),
        (Form::Date, ValueRef::Text(text)) => date(text).and_then(|day| write_date(day, out)),
        (Form::Time, ValueRef::Text(text)) => time_of_day(text, out),
        (Form::Json, ValueRef::Text(text)) => json(text, out),
        (Form::Uuid, value) => uuid(value, out),
        (Form::Stored, value) => {
            stored(value, out);
            Some(())
        }
        _ => None,
    };
    if fits.is_some() {
        return Fit::Fits;
    }
    out.truncate(start);
    out.push(b'!');
    match value {
        ValueRef::Null => {}
        ValueRef::Integer(number) => write!(out, "i{number}").expect("writing to memory does not fail"),
        ValueRef::Real(number) => write!(out, "r{number:e}").expect("writing to memory does not fail"),
        ValueRef::Text(text) if std::str::from_utf8(text).is_ok() => {
            write!(out, "t{}:", text.len()).expect("writing to memory does not fail");
            out.extend_from_slice(text);
        }
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            out.push(b'b');
            hex(bytes, out);
        }
    }
    Fit::Odd
}

fn boolean(value: ValueRef<'_>) -> Option<bool> {
    match value {
        ValueRef::Integer(0) => Some(false),
        ValueRef::Integer(1) => Some(true),
        ValueRef::Text(text) if text.eq_ignore_ascii_case(b"true") || text.eq_ignore_ascii_case(b"t") => {
            Some(true)
        }
        ValueRef::Text(text) if text.eq_ignore_ascii_case(b"false") || text.eq_ignore_ascii_case(b"f") => {
            Some(false)
        }
        _ => None,
    }
}

/// The bits, with one zero and one NaN.
fn bits(number: f64) -> u64 {
    if number.is_nan() { f64::NAN.to_bits() } else { (number + 0.0).to_bits() }
}

fn float(value: ValueRef<'_>) -> Option<f64> {
    match value {
        ValueRef::Real(number) => Some(number),
        ValueRef::Integer(number) => {
            #[allow(clippy::cast_precision_loss, reason = "what loses precision is refused")]
            let float = number as f64;
            #[allow(clippy::cast_possible_truncation, reason = "compared with the number itself")]
            let back = float as i128;
            (back == i128::from(number)).then_some(float)
        }
        // SQLite stores what it does not know as a number as text.
        ValueRef::Text(b"NaN") => Some(f64::NAN),
        ValueRef::Text(b"Infinity") => Some(f64::INFINITY),
        ValueRef::Text(b"-Infinity") => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn float32(number: f64, out: &mut Vec<u8>) -> Option<()> {
    let size = number.abs();
    if number == 0.0
        || !number.is_finite()
        || (1.401_298_464_324_817e-45..=3.402_823_466_385_288_6e38).contains(&size)
    {
        #[allow(clippy::cast_possible_truncation, reason = "the form has 32 bits")]
        let short = number as f32;
        let short = if short.is_nan() { f32::NAN } else { short + 0.0 };
        return write!(out, "{:08x}", short.to_bits()).ok();
    }
    write!(out, "{:016x}", bits(number)).ok()
}

fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(
        bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
    );
}

fn stored(value: ValueRef<'_>, out: &mut Vec<u8>) {
    let write = "writing to memory does not fail";
    match value {
        ValueRef::Null => {}
        ValueRef::Integer(number) => write!(out, "i{number}").expect(write),
        ValueRef::Real(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
            #[allow(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
            let whole = number as i64;
            write!(out, "i{whole}").expect(write);
        }
        ValueRef::Real(number) => write!(out, "r{:016x}", bits(number)).expect(write),
        ValueRef::Text(text) => {
            out.push(b't');
            out.extend_from_slice(text);
        }
        ValueRef::Blob(blob) => {
            out.push(b'b');
            hex(blob, out);
        }
    }
}

fn real_as_decimal(number: f64, out: &mut Vec<u8>) -> Option<()> {
    if number.is_nan() {
        out.extend_from_slice(b"NaN");
        return Some(());
    }
    if number.is_infinite() {
        out.extend_from_slice(if number > 0.0 { b"Infinity" } else { b"-Infinity" });
        return Some(());
    }
    // The shortest digits that read back as the same number, such as `-1.25e3`.
    decimal(format!("{number:e}").as_bytes(), false, out)
}

/// A decimal number in plain notation; without zeros at the end, or with as many as `keep_scale` says by its own
/// digits.
fn decimal(text: &[u8], keep_scale: bool, out: &mut Vec<u8>) -> Option<()> {
    let text = text.trim_ascii();
    if !keep_scale {
        for (word, written) in [("nan", "NaN"), ("infinity", "Infinity"), ("-infinity", "-Infinity")] {
            if text.eq_ignore_ascii_case(word.as_bytes()) {
                out.extend_from_slice(written.as_bytes());
                return Some(());
            }
        }
    }
    let (negative, rest) = match text.first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match rest.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (&rest[..at], std::str::from_utf8(&rest[at + 1..]).ok()?.parse::<i64>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, &mantissa[..0]),
    };
    if whole.len() + fraction.len() == 0 || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let mut digits: Vec<u8> = whole.iter().chain(fraction).copied().collect();
    let mut scale = i64::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
    if scale.abs() > DECIMAL_DIGITS_MAX {
        return None;
    }
    while scale < 0 {
        digits.push(b'0');
        scale += 1;
    }
    let mut scale = usize::try_from(scale).ok()?;
    if !keep_scale {
        while scale > 0 && digits.last() == Some(&b'0') {
            digits.pop();
            scale -= 1;
        }
    }
    if digits.len() <= scale {
        digits.splice(0..0, std::iter::repeat_n(b'0', scale + 1 - digits.len()));
    }
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let leading = whole.iter().take_while(|digit| **digit == b'0').count().min(whole.len() - 1);
    if negative && digits.iter().any(|digit| *digit != b'0') {
        out.push(b'-');
    }
    out.extend_from_slice(&whole[leading..]);
    if scale > 0 {
        out.push(b'.');
        out.extend_from_slice(fraction);
    }
    Some(())
}

/// Two or more digits at `at`, as a number.
fn digits(text: &[u8], at: usize, count: usize) -> Option<i64> {
    text.get(at..at + count)?
        .iter()
        .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

/// Days since 1970-01-01 of a date of the Gregorian calendar.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a day number.
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `2026-03-04` at the beginning of a text.
fn leading_day(text: &[u8]) -> Option<i64> {
    let (year, month, day) = (digits(text, 0, 4)?, digits(text, 5, 2)?, digits(text, 8, 2)?);
    if text[4] != b'-' || text[7] != b'-' || year == 0 || !(1..=12).contains(&month) || day < 1 {
        return None;
    }
    let number = day_number(year, month, day);
    (civil(number) == (year, month, day)).then_some(number)
}

/// `05:06:07.89` at the beginning of a text, as microseconds, and what follows it.
fn leading_time(text: &[u8]) -> Option<(i64, &[u8])> {
    let (hour, minute) = (digits(text, 0, 2)?, digits(text, 3, 2)?);
    if text[2] != b':' || hour > 23 || minute > 59 {
        return None;
    }
    let (mut us, mut rest) = ((hour * 60 + minute) * 60_000_000, &text[5..]);
    if rest.first() == Some(&b':') {
        let second = digits(rest, 1, 2).filter(|second| *second <= 59)?;
        us += second * 1_000_000;
        rest = &rest[3..];
        if matches!(rest.first(), Some(b'.' | b',')) {
            let count = rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if count == 0 || count > 18 {
                return None;
            }
            let fraction = digits(rest, 1, count)?;
            let count = u32::try_from(count).ok()?;
            us += if let Some(missing) = 6_u32.checked_sub(count) {
                fraction * 10_i64.pow(missing)
            } else {
                let unit = 10_i64.pow(count - 6);
                (fraction + unit / 2) / unit
            };
            rest = &rest[1 + count as usize..];
        }
    }
    Some((us, rest))
}

/// Microseconds since 1970 in UTC.
fn timestamp(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Integer(seconds) => seconds.checked_mul(1_000_000),
        ValueRef::Real(julian) if (1_721_425.5..5_373_484.5).contains(&julian) => {
            // A Julian day in a double is good for a millisecond at best.
            #[allow(clippy::cast_possible_truncation, reason = "the range was checked")]
            let ms = ((julian - UNIX_EPOCH_JULIAN) * 86_400_000.0).round() as i64;
            Some(ms * 1_000)
        }
        ValueRef::Text(text) => {
            let text = text.trim_ascii();
            let day = leading_day(text)?.checked_mul(DAY_US)?;
            let rest = &text[10..];
            if rest.is_empty() {
                return Some(day);
            }
            if !matches!(rest[0], b' ' | b'T' | b't') {
                return None;
            }
            let (time, rest) = leading_time(&rest[1..])?;
            let zone = rest.trim_ascii_start();
            let offset = match zone {
                b"" | b"Z" | b"z" => 0,
                [sign @ (b'+' | b'-'), at @ ..] => {
                    let hours = digits(at, 0, 2)?;
                    let minutes = match &at[2..] {
                        [] => 0,
                        [b':', minutes @ ..] | minutes if minutes.len() == 2 => digits(minutes, 0, 2)?,
                        _ => return None,
                    };
                    if hours > 15 || minutes > 59 {
                        return None;
                    }
                    (hours * 60 + minutes) * 60_000_000 * if *sign == b'-' { -1 } else { 1 }
                }
                _ => return None,
            };
            Some(day + time - offset)
        }
        _ => None,
    }
}

fn date(text: &[u8]) -> Option<i64> {
    let text = text.trim_ascii();
    let day = leading_day(text)?;
    match &text[10..] {
        [] => Some(day),
        // A date that went through a timestamp.
        [b' ' | b'T', time @ ..] => {
            leading_time(time).filter(|(us, rest)| *us == 0 && matches!(*rest, b"" | b"Z")).map(|_| day)
        }
        _ => None,
    }
}

fn write_date(day: i64, out: &mut Vec<u8>) -> Option<()> {
    let (year, month, day) = civil(day);
    (1..=9999).contains(&year).then_some(())?;
    write!(out, "{year:04}-{month:02}-{day:02}").ok()
}

fn write_time(us: i64, out: &mut Vec<u8>) -> Option<()> {
    let seconds = us / 1_000_000;
    write!(out, "{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60).ok()?;
    let fraction = us % 1_000_000;
    if fraction > 0 {
        write!(out, ".{fraction:06}").ok()?;
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
    Some(())
}

fn write_timestamp(us: i64, out: &mut Vec<u8>) -> Option<()> {
    write_date(us.div_euclid(DAY_US), out)?;
    out.push(b' ');
    write_time(us.rem_euclid(DAY_US), out)
}

fn time_of_day(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let text = text.trim_ascii();
    if text == b"24:00:00" {
        out.extend_from_slice(text);
        return Some(());
    }
    let (us, rest) = leading_time(text)?;
    if !rest.is_empty() {
        return None;
    }
    if us == DAY_US {
        out.extend_from_slice(b"24:00:00");
        return Some(());
    }
    write_time(us, out)
}

fn uuid(value: ValueRef<'_>, out: &mut Vec<u8>) -> Option<()> {
    let mut compact = Vec::with_capacity(32);
    match value {
        ValueRef::Blob(bytes) if bytes.len() == 16 => hex(bytes, &mut compact),
        ValueRef::Text(text) => {
            let text = text.trim_ascii();
            let text = text.strip_prefix(b"{").and_then(|text| text.strip_suffix(b"}")).unwrap_or(text);
            match text.len() {
                36 if [8, 13, 18, 23].iter().all(|at| text[*at] == b'-') => {
                    compact.extend(text.iter().filter(|byte| **byte != b'-').map(u8::to_ascii_lowercase));
                }
                32 => compact.extend(text.iter().map(u8::to_ascii_lowercase)),
                _ => return None,
            }
        }
        _ => return None,
    }
    if compact.len() != 32 || !compact.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (i, byte) in compact.into_iter().enumerate() {
        if [8, 12, 16, 20].contains(&i) {
            out.push(b'-');
        }
        out.push(byte);
    }
    Some(())
}

/// JSON as `jsonb` writes it.
fn json(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    std::str::from_utf8(text).ok()?;
    let mut reader = Json { rest: text };
    reader.value(0, out)?;
    reader.space();
    reader.rest.is_empty().then_some(())
}

struct Json<'a> {
    rest: &'a [u8],
}

impl Json<'_> {
    fn space(&mut self) {
        let spaces = self.rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.rest = &self.rest[spaces..];
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.space();
        self.rest = self.rest.strip_prefix(&[byte])?;
        Some(())
    }

    fn value(&mut self, depth: usize, out: &mut Vec<u8>) -> Option<()> {
        if depth > JSON_DEPTH_MAX {
            return None;
        }
        self.space();
        for word in [b"true".as_slice(), b"false", b"null"] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                out.extend_from_slice(word);
                return Some(());
            }
        }
        match self.rest.first()? {
            b'"' => {
                let text = self.string()?;
                quote(&text, out);
            }
            b'[' => {
                self.take(b'[')?;
                out.push(b'[');
                if self.take(b']').is_none() {
                    loop {
                        self.value(depth + 1, out)?;
                        if self.take(b']').is_some() {
                            break;
                        }
                        self.take(b',')?;
                        out.extend_from_slice(b", ");
                    }
                }
                out.push(b']');
            }
            b'{' => {
                self.take(b'{')?;
                let mut members: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
                if self.take(b'}').is_none() {
                    loop {
                        self.space();
                        let name = self.string()?;
                        self.take(b':')?;
                        let mut value = Vec::new();
                        self.value(depth + 1, &mut value)?;
                        members.push((name, value));
                        if self.take(b'}').is_some() {
                            break;
                        }
                        self.take(b',')?;
                    }
                }
                // Of equal names the last one counts; a stable sort leaves it behind the others.
                members.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
                out.push(b'{');
                let mut first = true;
                for (i, (name, value)) in members.iter().enumerate() {
                    if members.get(i + 1).is_some_and(|(next, _)| next == name) {
                        continue;
                    }
                    if !first {
                        out.extend_from_slice(b", ");
                    }
                    first = false;
                    quote(name, out);
                    out.extend_from_slice(b": ");
                    out.extend_from_slice(value);
                }
                out.push(b'}');
            }
            _ => {
                let count = self
                    .rest
                    .iter()
                    .take_while(|byte| {
                        byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E')
                    })
                    .count();
                let (number, rest) = self.rest.split_at(count);
                is_json_number(number).then_some(())?;
                self.rest = rest;
                decimal(number, true, out)?;
            }
        }
        Some(())
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        self.rest = self.rest.strip_prefix(b"\"")?;
        let mut text = Vec::new();
        loop {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'"' => return Some(text),
                b'\\' => {
                    let (escape, rest) = self.rest.split_first()?;
                    self.rest = rest;
                    let c = match escape {
                        b'"' | b'\\' | b'/' => char::from(*escape),
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'n' => '\n',
                        b'r' => '\r',
                        b't' => '\t',
                        b'u' => self.escaped()?,
                        _ => return None,
                    };
                    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                0..0x20 => return None,
                byte => text.push(*byte),
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        let first = self.hex4()?;
        let code = if (0xd800..0xdc00).contains(&first) {
            self.rest = self.rest.strip_prefix(b"\\u")?;
            let second = self.hex4().filter(|second| (0xdc00..0xe000).contains(second))?;
            0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        // PostgreSQL's text has no NUL.
        char::from_u32(code).filter(|c| *c != '\0')
    }

    fn hex4(&mut self) -> Option<u32> {
        let (four, rest) = self.rest.split_at_checked(4)?;
        self.rest = rest;
        four.iter().try_fold(0, |code, byte| Some(code * 16 + char::from(*byte).to_digit(16)?))
    }
}

/// `-0.5e+3`, and nothing that begins with a superfluous zero.
fn is_json_number(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let whole = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if whole == 0 || (whole > 1 && text[0] == b'0') {
        return false;
    }
    let mut rest = &text[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return false;
        }
        rest = &fraction[count..];
    }
    match rest {
        [] => true,
        [b'e' | b'E', exponent @ ..] => {
            let digits = match exponent {
                [b'+' | b'-', digits @ ..] | digits => digits,
            };
            !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

/// A string of JSON with as few escapes as there must be.
fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => write!(out, "\\u{byte:04x}").expect("writing to memory does not fail"),
            byte => out.push(*byte),
        }
    }
    out.push(b'"');
}

/// The hash of a row's encoding.
pub(crate) fn hash(how: RowHash, row: &[u8]) -> [i64; 2] {
    match how {
        RowHash::Fast => [lookup3(row), 0],
        RowHash::Md5 => {
            let digest = Md5::digest(row);
            let half = |at: usize| {
                i64::from_be_bytes(digest[at..at + 8].try_into().expect("a half has eight bytes"))
            };
            [half(0), half(8)]
        }
    }
}

/// Bob Jenkins' lookup3 with 64 bits of result, as PostgreSQL's `hashtextextended(text, 0)` on a little-endian machine.
///
/// Source: burtleburtle.net, "lookup3.c"; PostgreSQL, `src/common/hashfn.c`, `hash_bytes_extended`.
fn lookup3(bytes: &[u8]) -> i64 {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let start = 0x9e37_79b9_u32.wrapping_add(length).wrapping_add(3_923_095);
    let (mut a, mut b, mut c) = (start, start, start);
    let word = |at: &[u8]| at.iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
    let mut blocks = bytes.chunks_exact(12);
    for block in &mut blocks {
        a = a.wrapping_add(u32::from_le_bytes([block[0], block[1], block[2], block[3]]));
        b = b.wrapping_add(u32::from_le_bytes([block[4], block[5], block[6], block[7]]));
        c = c.wrapping_add(u32::from_le_bytes([block[8], block[9], block[10], block[11]]));
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
    }
    let rest = blocks.remainder();
    a = a.wrapping_add(word(&rest[..rest.len().min(4)]));
    b = b.wrapping_add(word(&rest[rest.len().min(4)..rest.len().min(8)]));
    // The lowest byte of the last word is the length's.
    c = c.wrapping_add(word(&rest[rest.len().min(8)..]) << 8);
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    c = (c ^ b).wrapping_sub(b.rotate_left(24));
    (u64::from(b) << 32 | u64::from(c)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of `SELECT hashtextextended(…, 0)`.
    #[test]
    fn hash_is_that_of_postgresql() {
        for (text, hash) in [
            ("Steward", 5_899_731_808_360_570_942),
            ("", -6_939_563_903_564_495_251),
            ("a", 3_591_986_179_850_072_241),
            ("abcdefghijk", 3_112_909_444_737_856_467),
            ("abcdefghijkl", -7_556_637_188_122_330_412),
            ("abcdefghijklm", 8_871_624_171_452_417_744),
            ("žluťoučký 🦔 long text over twelve", 1_508_991_183_066_524_828),
        ] {
            assert_eq!(lookup3(text.as_bytes()), hash, "{text}");
        }
        assert_eq!(
            hash(RowHash::Md5, b""),
            [0xd41d_8cd9_8f00_b204_u64.cast_signed(), 0xe980_0998_ecf8_427e_u64.cast_signed()]
        );
    }

    fn written(form: Form, value: ValueRef<'_>) -> String {
        let mut out = Vec::new();
        encode(form, value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_written_as_specified() {
        let text = |text: &'static str| ValueRef::Text(text.as_bytes());
        for (form, value, expected) in [
            (Form::Boolean, ValueRef::Integer(1), "t"),
            (Form::Boolean, text("False"), "f"),
            (Form::Boolean, ValueRef::Integer(2), "!i2"),
            (Form::Integer, ValueRef::Integer(i64::MIN), "-9223372036854775808"),
            (Form::Integer, text("5"), "!t1:5"),
            (Form::Integer, ValueRef::Null, ""),
            (Form::Decimal, ValueRef::Real(12.34), "12.34"),
            (Form::Decimal, ValueRef::Real(1e21), "1000000000000000000000"),
            (Form::Decimal, ValueRef::Real(-1.5e-7), "-0.00000015"),
            (Form::Decimal, ValueRef::Real(-0.0), "0"),
            (Form::Decimal, text("+0012.3400"), "12.34"),
            (Form::Decimal, text("1.2e3"), "1200"),
            (Form::Decimal, text(".5"), "0.5"),
            (Form::Decimal, text("12,5"), "!t4:12,5"),
            (Form::Float64, ValueRef::Real(1.5), "3ff8000000000000"),
            (Form::Float64, ValueRef::Real(-0.0), "0000000000000000"),
            (Form::Float64, ValueRef::Integer(3), "4008000000000000"),
            (Form::Float32, ValueRef::Real(0.1), "3dcccccd"),
            (Form::Text, text("a;b"), "3:a;b"),
            (Form::Text, text(""), "0:"),
            (Form::Text, ValueRef::Null, ":"),
            (Form::Text, ValueRef::Integer(5), "!i5"),
            (Form::Bytes, ValueRef::Blob(&[0, 255]), "4:00ff"),
            (Form::Timestamp, text("2026-03-04T05:06:07.890Z"), "2026-03-04 05:06:07.89"),
            (Form::Timestamp, text("2026-03-04 00:30:00+01:00"), "2026-03-03 23:30:00"),
            (Form::Timestamp, text("2026-03-04 05:06:07.1234567"), "2026-03-04 05:06:07.123457"),
            (Form::Timestamp, text("2026-03-04"), "2026-03-04 00:00:00"),
            (Form::Timestamp, text("2026-02-30"), "!t10:2026-02-30"),
            (Form::Timestamp, ValueRef::Integer(1_772_600_767), "2026-03-04 05:06:07"),
            (Form::Timestamp, ValueRef::Real(2_440_587.5), "1970-01-01 00:00:00"),
            (Form::Timestamp, text("1969-12-31 23:59:59.5"), "1969-12-31 23:59:59.5"),
            (Form::Date, text("2024-02-29"), "2024-02-29"),
            (Form::Date, text("2024-02-29 00:00:00"), "2024-02-29"),
            (Form::Date, text("2024-02-29 00:00:01"), "!t19:2024-02-29 00:00:01"),
            (Form::Time, text("05:06"), "05:06:00"),
            (Form::Time, text("05:06:07.500"), "05:06:07.5"),
            (
                Form::Uuid,
                text("{0188F0C2-0000-7000-8000-00000000000A}"),
                "0188f0c2-0000-7000-8000-00000000000a",
            ),
            (Form::Uuid, ValueRef::Blob(&[255; 16]), "ffffffff-ffff-ffff-ffff-ffffffffffff"),
            (Form::Stored, ValueRef::Real(5.0), "2:i5"),
            (Form::Stored, ValueRef::Integer(5), "2:i5"),
        ] {
            assert_eq!(written(form, value), expected, "{form:?} {value:?}");
        }
    }

    #[test]
    fn json_is_written_as_jsonb_writes_it() {
        for (json, expected) in [
            ("{\"bb\":1,\"a\":[ 1.50,-0, 1e3 ],\"a\":null}", "{\"a\": null, \"bb\": 1}"),
            ("[1.50,-0,1e3,1.5e-2]", "[1.50, 0, 1000, 0.015]"),
            ("\"\\u00e9\\n\\u0001\\/\\ud83e\\udd94\"", "\"é\\n\\u0001/🦔\""),
            ("{}", "{}"),
            (" [] ", "[]"),
        ] {
            let mut out = Vec::new();
            assert!(super::json(json.as_bytes(), &mut out).is_some(), "{json}");
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        for json in ["", "{", "[1,]", "01", "1.", "\"\\u0000\"", "\"\\ud800\"", "tru", "1 2", "{a:1}"] {
            assert!(super::json(json.as_bytes(), &mut Vec::new()).is_none(), "{json}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (day, civil_date) in
            [(0, (1970, 1, 1)), (-719_162, (1, 1, 1)), (11_016, (2000, 2, 29)), (2_932_896, (9999, 12, 31))]
        {
            assert_eq!(civil(day), civil_date);
            assert_eq!(day_number(civil_date.0, civil_date.1, civil_date.2), day);
        }
    }
}
