//! The place of a request in a trace that its client began.
//!
//! Source: W3C, "Trace Context", level 1, sections 3.2 (`traceparent`) and 4 (processing).

use http::HeaderValue;
use http::header::{HeaderMap, HeaderName};

use crate::random;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Version, trace, parent and flags with their dashes.
const LENGTH: usize = 55;
/// Flags that mean something here: sampled, and a random trace id.
const FLAGS: u8 = 0b11;

/// A trace with the client's span and ours below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub id: u128,
    /// The client's span.
    pub parent: u64,
    /// The gateway's span for the request.
    pub span: u64,
    /// As the client set them: bit 0 says that the trace is recorded.
    pub flags: u8,
}

impl Trace {
    /// The trace that the client's headers name; one that is not well-formed is none, as the standard wants it.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let (one, None) = (all.next()?, all.next()) else { return None };
        let (id, parent, flags) = read(one.as_bytes())?;
        Some(Self { id, parent, span: random::number().max(1), flags })
    }

    /// The span of an attempt, by its number from 0.
    pub fn attempt(&self, number: usize) -> u64 {
        // Spread over all values; the same again for whoever records it later.
        let step = (number as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.span.wrapping_add(step).max(1)
    }

    /// The header for the attempt: what happens at the provider is below the attempt's span.
    fn header(&self, number: usize) -> Option<HeaderValue> {
        let text = format!("00-{:032x}-{:016x}-{:02x}", self.id, self.attempt(number), self.flags & FLAGS);
        HeaderValue::try_from(text).ok()
    }

    /// Adds what a provider is told of the trace, with the state that the client gave it.
    pub(crate) fn pass_on(&self, number: usize, from: &HeaderMap, to: &mut HeaderMap) {
        if let Some(value) = self.header(number) {
            to.insert(TRACEPARENT, value);
            for state in from.get_all(TRACESTATE) {
                to.append(TRACESTATE, state.clone());
            }
        }
    }
}

/// Trace, parent and flags.
fn read(value: &[u8]) -> Option<(u128, u64, u8)> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let hex = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(digits)
    };
    let version = hex(0, 2)?;
    // Later versions may add to the end.
    let ends = text.len() == LENGTH || (version != "00" && text.as_bytes().get(LENGTH) == Some(&b'-'));
    let dashes = [2, 35, 52].into_iter().all(|at| text.as_bytes().get(at) == Some(&b'-'));
    if version == "ff" || !ends || !dashes {
        return None;
    }
    let id = u128::from_str_radix(hex(3, 35)?, 16).ok()?;
    let parent = u64::from_str_radix(hex(36, 52)?, 16).ok()?;
    let flags = u8::from_str_radix(hex(53, LENGTH)?, 16).ok()?;
    (id != 0 && parent != 0).then_some((id, parent, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn of(values: &[&str]) -> Option<Trace> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        Trace::of(&headers)
    }

    #[test]
    fn only_well_formed_parents_are_taken() {
        let good = format!("00-{ID}-{PARENT}-01");
        let trace = of(&[&good]).unwrap();
        assert_eq!(
            (trace.id, trace.parent, trace.flags),
            (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7, 1)
        );
        assert!(
            trace.span != trace.parent
                && trace.attempt(0) != trace.attempt(1)
                && trace.attempt(0) != trace.span
        );
        assert!(of(&[&format!("01-{ID}-{PARENT}-01-more")]).is_some(), "a later version may say more");
        for bad in [
            format!("00-{ID}-{PARENT}-01-more"),
            format!("ff-{ID}-{PARENT}-01"),
            format!("00-{ID}-{PARENT}"),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{ID}-{}-01", "0".repeat(16)),
            format!("00-{}-{PARENT}-01", ID.to_uppercase()),
            format!("00_{ID}-{PARENT}-01"),
            "00-1".to_owned(),
            String::new(),
        ] {
            assert_eq!(of(&[&bad]), None, "{bad}");
        }
        assert_eq!(of(&[&good, &good]), None, "two of them are none");
    }

    #[test]
    fn the_attempt_is_the_parent_of_what_follows() {
        let trace = of(&[&format!("00-{ID}-{PARENT}-01")]).unwrap();
        let mut from = HeaderMap::new();
        from.append(TRACESTATE, HeaderValue::from_static("a=1"));
        from.append(TRACESTATE, HeaderValue::from_static("b=2"));
        let mut to = HeaderMap::new();
        trace.pass_on(1, &from, &mut to);
        assert_eq!(to[TRACEPARENT], format!("00-{ID}-{:016x}-01", trace.attempt(1)).as_str());
        assert_eq!(to.get_all(TRACESTATE).iter().count(), 2);
    }
}
