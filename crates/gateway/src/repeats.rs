//! Requests that come again: which share of them a cache would have answered, by how long it keeps a reply.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::json;

use crate::usage::UsageRow;

/// Times for which a reply could be kept, in seconds.
pub(crate) const KEPT_S: [i64; 4] = [60, 600, 3_600, 86_400];
/// Questions that are remembered; later ones count as new each time.
const QUESTIONS_MAX: usize = 500_000;
/// One question in so many is looked at on a route without a cache.
const ONE_IN: u64 = 16;
/// Larger requests are not looked at: their canonical form costs too much.
pub(crate) const BODY_BYTES_MAX: usize = 256 << 10;

/// Whether a request is in the sample. The same bytes always are, or never, so that repeats are seen as such.
pub(crate) fn is_in_sample(body: &[u8]) -> bool {
    if body.len() > BODY_BYTES_MAX {
        return false;
    }
    let mut mixed = body.len() as u64;
    let mut mix = |word: u64| mixed = (mixed ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let mut chunks = body.chunks_exact(8);
    for chunk in &mut chunks {
        mix(u64::from_le_bytes(chunk.try_into().expect("chunks have 8 bytes")));
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(u64::from_le_bytes(last));
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).is_multiple_of(ONE_IN)
}

/// What came again on a route, among the requests whose question is known.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// Requests whose question is known.
    pub(crate) seen: u64,
    /// Those that sample: only a cache with `sampled` answers them.
    pub(crate) samples: u64,
    /// By [`KEPT_S`]: requests that a cache would have answered, and what they cost.
    pub(crate) answered: [u64; 4],
    pub(crate) saved: [i64; 4],
    /// Until when, in microseconds, the reply to a question would be kept.
    kept: HashMap<u128, [i64; 4]>,
}

/// What a receipt says of its question.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    question: Option<String>,
    samples: bool,
}

impl Repeats {
    /// Takes a row; rows come in the order of their time.
    pub(crate) fn see(&mut self, row: &UsageRow) {
        let asked: Asked = serde_json::from_str(&row.receipt).unwrap_or_default();
        let Some(question) = asked.question.and_then(|text| u128::from_str_radix(&text, 16).ok()) else {
            return;
        };
        self.seen += 1;
        self.samples += u64::from(asked.samples);
        let at = row.at.as_microsecond();
        let was_whole = row.ending == "complete";
        if self.kept.len() >= QUESTIONS_MAX && !self.kept.contains_key(&question) {
            return;
        }
        let kept = self.kept.entry(question).or_insert([i64::MIN; 4]);
        for (index, seconds) in KEPT_S.into_iter().enumerate() {
            if kept[index] > at {
                self.answered[index] += 1;
                self.saved[index] = self.saved[index].saturating_add(row.cost.nanos());
            } else if was_whole {
                kept[index] = at.saturating_add(seconds * 1_000_000);
            }
        }
    }

    /// The shortest time that gives nearly as much as a day.
    pub(crate) fn best(&self) -> usize {
        let day = self.answered[KEPT_S.len() - 1];
        self.answered.iter().position(|answered| answered * 10 >= day * 9).unwrap_or(0)
    }

    /// What it would be for all requests of the route, of which these are a sample.
    pub(crate) fn scaled(&self, amount: i64, requests: u64) -> i64 {
        let scaled = i128::from(amount) * i128::from(requests) / i128::from(self.seen.max(1));
        i64::try_from(scaled).unwrap_or(i64::MAX)
    }

    /// For programs.
    pub(crate) fn value(&self, requests: u64) -> serde_json::Value {
        let times: Vec<_> = KEPT_S
            .into_iter()
            .enumerate()
            .map(|(index, ttl_s)| {
                json!({
                    "ttl_s": ttl_s, "answered": self.answered[index],
                    "share_thousandths": self.answered[index] * 1000 / self.seen.max(1),
                    "would_save_usd_nanos": self.scaled(self.saved[index], requests),
                })
            })
            .collect();
        json!({ "looked_at": self.seen, "of_requests": requests, "sampling": self.samples, "kept_for": times })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_in_sixteen_is_in_the_sample_and_always_the_same() {
        let body = |number: u32| {
            format!(r#"{{"model":"fast","messages":[{{"role":"user","content":"question {number}"}}]}}"#)
        };
        let count = (0..16_000).filter(|number| is_in_sample(body(*number).as_bytes())).count();
        assert!((700..1_300).contains(&count), "{count}");
        // Wherever they differ.
        let large = |number: u32| format!("{number:>6000}{}", " ".repeat(20_000));
        let count = (0..1_600).filter(|number| is_in_sample(large(*number).as_bytes())).count();
        assert!((50..200).contains(&count), "{count}");
        assert!(!is_in_sample(&vec![b' '; BODY_BYTES_MAX + 1]));
    }
}
