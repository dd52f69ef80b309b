//! Questions that were asked before in other words: where they are remembered, and how alike two of them are.
//!
//! Two judges must agree before an answer is given again: the words (`sense`), which decide where a question is remembered,
//! and an embedding. Only questions that the words let pass are ever embedded, so most requests cost nothing here.

use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use quick_cache::Weighter;
use serde::Deserialize;

use crate::cache::Key;
use crate::meter::RequestId;

/// Bytes of questions and their embeddings that are held in memory.
const MEMORY_BYTES_MAX: u64 = 16 << 20;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 256;
/// Wordings of one sense that are remembered, and as many of their echoes.
const WORDINGS_MAX: usize = 4;
/// Longest embedding that is read, in numbers.
const DIMENSIONS_MAX: usize = 16_384;
/// Two answers at least this alike, with the same numbers in them, agree.
const ANSWERS_ALIKE: f32 = 0.9;

/// Where a question is remembered: SHA-256 over tenant, frame and sense.
pub(crate) type Place = [u8; 32];

/// A question that was answered.
#[derive(Debug, Clone)]
pub(crate) struct Saying {
    pub(crate) text: Arc<str>,
    /// Its embedding, once somebody needed it.
    pub(crate) vector: Option<Arc<[f32]>>,
    /// Under which the reply is kept.
    pub(crate) key: Key,
    /// The request that the reply was made for.
    pub(crate) request: RequestId,
    pub(crate) until: SystemTime,
    /// It was answered with what another wording was answered: remembered so that it is not embedded again. Nothing is
    /// compared with it, or likeness would creep from wording to wording.
    pub(crate) is_echo: bool,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Place, Arc<Vec<Saying>>> for Weight {
    fn weight(&self, _: &Place, sayings: &Arc<Vec<Saying>>) -> u64 {
        let bytes = |saying: &Saying| {
            let vector = saying.vector.as_ref().map_or(0, |vector| 4 * vector.len());
            (saying.text.len() + vector) as u64 + ENTRY_BYTES
        };
        sayings.iter().map(bytes).sum::<u64>() + ENTRY_BYTES
    }
}

/// What was asked and answered, by sense; in memory, bounded, the least used is forgotten first.
pub(crate) struct Sayings(quick_cache::sync::Cache<Place, Arc<Vec<Saying>>, Weight>);

impl Default for Sayings {
    fn default() -> Self {
        Self(crate::cache::in_memory(MEMORY_BYTES_MAX, Weight))
    }
}

impl Sayings {
    /// The wordings of this sense whose answers are still good.
    pub(crate) fn find(&self, place: &Place, now: SystemTime) -> Vec<Saying> {
        let found = self.0.get(place);
        found.iter().flat_map(|sayings| sayings.iter()).filter(|saying| saying.until > now).cloned().collect()
    }

    /// Remembers a wording, or what was learned of it. Of two that do so at once one may be lost, which costs a hit.
    pub(crate) fn add(&self, place: Place, saying: Saying) {
        let mut sayings: Vec<Saying> = self.0.get(&place).map_or_else(Vec::new, |known| known.to_vec());
        // What was answered itself does not make way for its echoes.
        let mut others = 0;
        sayings.retain(|known| {
            others += usize::from(known.is_echo == saying.is_echo && known.text != saying.text);
            known.text != saying.text
        });
        if others >= WORDINGS_MAX
            && let Some(oldest) = sayings.iter().position(|known| known.is_echo == saying.is_echo)
        {
            sayings.remove(oldest);
        }
        sayings.push(saying);
        self.0.insert(place, Arc::new(sayings));
    }
}

/// The embeddings in a reply of OpenAI's format, in the order of the texts; `None` unless there is one for each.
pub(crate) fn vectors(body: &[u8], count: usize) -> Option<Vec<Arc<[f32]>>> {
    #[derive(Deserialize)]
    struct Reply {
        data: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        index: Option<usize>,
        embedding: Vec<f32>,
    }
    let reply: Reply = serde_json::from_slice(body).ok()?;
    let mut all: Vec<(usize, Arc<[f32]>)> = reply
        .data
        .into_iter()
        .enumerate()
        .filter(|(_, one)| !one.embedding.is_empty() && one.embedding.len() <= DIMENSIONS_MAX)
        .map(|(at, one)| (one.index.unwrap_or(at), one.embedding.into()))
        .collect();
    all.sort_by_key(|(index, _)| *index);
    (all.len() == count).then(|| all.into_iter().map(|(_, vector)| vector).collect())
}

/// The cosine of the angle between two embeddings; `None`: they are not of one kind, or say nothing.
pub(crate) fn similarity(one: &[f32], other: &[f32]) -> Option<f32> {
    if one.len() != other.len() {
        return None;
    }
    let product =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let lengths = (product(one, one) * product(other, other)).sqrt();
    let cosine = product(one, other) / lengths;
    #[allow(clippy::cast_possible_truncation, reason = "a figure between -1 and 1")]
    (lengths > 0.0 && cosine.is_finite()).then_some(cosine as f32)
}

/// A similarity in ten-thousandths, as it is recorded.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10,000")]
pub(crate) fn per_ten_thousand(similarity: f32) -> u16 {
    (similarity.clamp(0.0, 1.0) * 10_000.0).round() as u16
}

/// Whether two answers are one in other letters: the same words in the same order.
pub(crate) fn same_words(one: &str, other: &str) -> bool {
    words(one).eq(words(other))
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

/// Whether two answers agree: they are alike, and name the same numbers.
pub(crate) fn agree(one: (&str, &[f32]), other: (&str, &[f32])) -> bool {
    let numbers = |text: &str| {
        let mut numbers: Vec<String> =
            words(text).filter(|word| word.chars().any(|character| character.is_ascii_digit())).collect();
        numbers.sort();
        numbers.dedup();
        numbers
    };
    similarity(one.1, other.1).is_some_and(|similarity| similarity >= ANSWERS_ALIKE)
        && numbers(one.0) == numbers(other.0)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CheckLabels {
    pub(crate) steward_project: String,
    pub(crate) steward_route: String,
    /// `yes` or `no`.
    pub(crate) agrees: &'static str,
}

/// Answers to another wording that were asked for once more, by whether both agree.
pub(crate) type Checks = Family<CheckLabels, Counter>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn saying(text: &str) -> Saying {
        Saying {
            text: text.into(),
            vector: None,
            key: Key([0; 32]),
            request: RequestId::new(jiff::Timestamp::UNIX_EPOCH),
            until: UNIX_EPOCH + Duration::from_secs(10),
            is_echo: false,
        }
    }

    #[test]
    fn few_wordings_are_remembered_and_none_for_too_long() {
        let sayings = Sayings::default();
        for text in ["a", "b", "c", "d", "e", "e"] {
            sayings.add([1; 32], saying(text));
        }
        let texts =
            |now| sayings.find(&[1; 32], now).iter().map(|it| it.text.to_string()).collect::<Vec<_>>();
        assert_eq!(texts(UNIX_EPOCH), ["b", "c", "d", "e"]);
        assert!(texts(UNIX_EPOCH + Duration::from_secs(10)).is_empty());
        assert!(sayings.find(&[2; 32], UNIX_EPOCH).is_empty());
        for text in ["1", "2", "3", "4", "5"] {
            sayings.add([1; 32], Saying { is_echo: true, ..saying(text) });
        }
        assert_eq!(texts(UNIX_EPOCH), ["b", "c", "d", "e", "2", "3", "4", "5"], "echoes push out echoes");
        sayings.add([1; 32], saying("2"));
        assert_eq!(texts(UNIX_EPOCH), ["c", "d", "e", "3", "4", "5", "2"]);
    }

    #[test]
    fn memory_is_bounded() {
        let sayings = Sayings::default();
        let text = "x".repeat(2_000);
        for number in 0..20_000_u64 {
            let mut place = [0; 32];
            place[..8].copy_from_slice(&number.to_be_bytes());
            sayings.add(place, saying(&text));
        }
        assert!(sayings.0.weight() <= MEMORY_BYTES_MAX, "{}", sayings.0.weight());
    }

    #[test]
    fn similarities() {
        assert_eq!(similarity(&[1.0, 0.0], &[1.0, 0.0]), Some(1.0));
        assert_eq!(similarity(&[1.0, 0.0], &[0.0, 2.0]), Some(0.0));
        assert_eq!(similarity(&[1.0, 0.0], &[1.0]), None);
        assert_eq!(similarity(&[0.0, 0.0], &[1.0, 0.0]), None);
        assert_eq!(per_ten_thousand(0.98764), 9876);
        assert_eq!(per_ten_thousand(-1.0), 0);
    }

    #[test]
    fn replies_of_another_shape_hold_no_vectors() {
        let good = br#"{"data":[{"index":1,"embedding":[0.5]},{"index":0,"embedding":[1]}]}"#;
        assert_eq!(vectors(good, 2).unwrap()[0].as_ref(), [1.0]);
        for (body, count) in [
            (&good[..], 1),
            (b"{}", 0),
            (br#"{"data":[{"embedding":"AAAA"}]}"#, 1),
            (br#"{"data":[{"embedding":[]}]}"#, 1),
        ] {
            assert!(vectors(body, count).is_none());
        }
    }

    #[test]
    fn answers_agree_when_they_say_the_same() {
        assert!(same_words("Paris.", " paris"));
        assert!(!same_words("Paris", "Not Paris"));
        let (one, far) = ([1.0, 0.0], [0.0, 1.0]);
        assert!(agree(("It is Paris", &one), ("Paris it is", &one)));
        assert!(!agree(("It is Paris", &one), ("Rome", &far)));
        assert!(!agree(("in 1889", &one), ("in 1887", &one)));
    }
}
