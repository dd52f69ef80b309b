//! Keys and other secrets in texts that should not hold them: prompts, replies, logs, files.
//!
//! What is found is a kind, a place and a length. The value itself is never part of an answer, so a finding can be
//! shown, recorded and sent.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind as Kind, packed};
use memchr::memmem;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::fingerprint::{Fingerprint, Fingerprints};

/// Fewer bytes than this are not looked for as a known secret: they occur by chance.
pub const KNOWN_LENGTH_MIN: usize = 8;

/// Bytes after a match that a rule may look at.
const REACH: usize = 4096;

/// Bytes of a stream that are kept, so that a key cut in two by a border of chunks is found.
const TAIL: usize = 256;

/// Bytes before a match that a rule may look at.
const CONTEXT: usize = 4;

/// Lines with a name before the base64 of a private key.
const ARMOR_HEADS_MAX: u32 = 8;

/// What a text gave away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leak {
    /// A key of OpenAI, or of a server that speaks its protocol.
    OpenaiKey,
    /// A key of Anthropic.
    AnthropicKey,
    /// A key of a Google service, such as Gemini.
    GoogleKey,
    /// A key of an Azure AI service.
    AzureKey,
    /// A key of another AI service.
    AiKey,
    /// Names an AWS key; the secret belongs to it.
    AwsAccessKeyId,
    /// The secret of an AWS key, or a key of Amazon Bedrock.
    AwsSecretKey,
    /// A token of GitHub or GitLab.
    GitToken,
    /// A token or webhook of Slack.
    SlackToken,
    /// A live or test key of Stripe.
    StripeKey,
    /// A private key in PEM, or in the armor of OpenPGP.
    PrivateKey,
    /// A virtual key of this gateway.
    StewardKey,
    /// A bearer token of Steward.
    StewardToken,
    /// Something that is assigned to a name such as `api_key` and looks random.
    ApiKey,
    /// Exactly the value of a secret in the vault.
    VaultSecret,
}

impl Leak {
    /// The name used in answers and in the ledger, such as `openai_key`.
    pub fn as_str(self) -> &'static str {
        match self {
            Leak::OpenaiKey => "openai_key",
            Leak::AnthropicKey => "anthropic_key",
            Leak::GoogleKey => "google_key",
            Leak::AzureKey => "azure_key",
            Leak::AiKey => "ai_key",
            Leak::AwsAccessKeyId => "aws_access_key_id",
            Leak::AwsSecretKey => "aws_secret_key",
            Leak::GitToken => "git_token",
            Leak::SlackToken => "slack_token",
            Leak::StripeKey => "stripe_key",
            Leak::PrivateKey => "private_key",
            Leak::StewardKey => "steward_key",
            Leak::StewardToken => "steward_token",
            Leak::ApiKey => "api_key",
            Leak::VaultSecret => "vault_secret",
        }
    }

    /// The words for people.
    pub fn about(self) -> &'static str {
        match self {
            Leak::OpenaiKey => "a key in OpenAI's form",
            Leak::AnthropicKey => "an Anthropic key",
            Leak::GoogleKey => "a Google key",
            Leak::AzureKey => "an Azure key",
            Leak::AiKey => "a key of an AI service",
            Leak::AwsAccessKeyId => "the id of an AWS key",
            Leak::AwsSecretKey => "an AWS secret",
            Leak::GitToken => "a Git server's token",
            Leak::SlackToken => "a Slack token",
            Leak::StripeKey => "a Stripe key",
            Leak::PrivateKey => "a private key",
            Leak::StewardKey => "a virtual key of this gateway",
            Leak::StewardToken => "a bearer token of Steward",
            Leak::ApiKey => "what looks like an API key",
            Leak::VaultSecret => "a secret of the vault",
        }
    }
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The characters that a key is made of.
#[derive(Clone, Copy)]
enum Class {
    /// Letters and digits.
    Alnum,
    /// Letters, digits, `-` and `_`.
    Url,
    /// Letters, digits and `-`.
    Dashed,
    /// Capital letters and digits.
    Upper,
    /// Digits and `a` to `f`.
    Hex,
    /// Letters, digits, `+`, `/` and `=`.
    Base64,
    /// Letters, digits, `_` and `/`, as in a path.
    Path,
}

impl Class {
    fn has(self, byte: u8) -> bool {
        match self {
            Class::Alnum => byte.is_ascii_alphanumeric(),
            Class::Url => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
            Class::Dashed => byte.is_ascii_alphanumeric() || byte == b'-',
            Class::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Class::Hex => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
            Class::Base64 => byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='),
            Class::Path => byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_'),
        }
    }
}

/// How a key goes on after the words that it begins with.
#[derive(Clone, Copy)]
enum Shape {
    /// This many characters of a class, and then another one or the end.
    Run(Class, usize, usize),
    /// The same, with letters and digits before the mark as well: Azure writes its mark into the middle.
    Inside { before: usize, after: usize },
    /// `PRIVATE KEY-----` or `PRIVATE KEY BLOCK-----` and base64.
    Pem,
    /// A name such as `api_key`, to which something random is assigned.
    Assigned(Class, usize, usize),
}

struct Rule {
    mark: &'static str,
    leak: Leak,
    shape: Shape,
}

const fn rule(mark: &'static str, leak: Leak, class: Class, min: usize, max: usize) -> Rule {
    Rule { mark, leak, shape: Shape::Run(class, min, max) }
}

const fn assigned(mark: &'static str, leak: Leak, class: Class, min: usize, max: usize) -> Rule {
    Rule { mark, leak, shape: Shape::Assigned(class, min, max) }
}

/// What is looked for everywhere. Forms: the services' own documentation, and keys as they are handed out in 2026.
const RULES: &[Rule] = &[
    rule("sk-steward-", Leak::StewardKey, Class::Url, 43, 43),
    rule("stw_", Leak::StewardToken, Class::Url, 43, 43),
    rule("sk-ant-", Leak::AnthropicKey, Class::Url, 40, 200),
    rule("sk-proj-", Leak::OpenaiKey, Class::Url, 40, 250),
    rule("sk-svcacct-", Leak::OpenaiKey, Class::Url, 40, 250),
    rule("sk-admin-", Leak::OpenaiKey, Class::Url, 40, 250),
    rule("sk-or-v1-", Leak::AiKey, Class::Hex, 64, 64),
    rule("sk-", Leak::OpenaiKey, Class::Alnum, 32, 64),
    rule("AIza", Leak::GoogleKey, Class::Url, 35, 35),
    rule("AQ.Ab", Leak::GoogleKey, Class::Url, 40, 80),
    Rule { mark: "JQQJ99", leak: Leak::AzureKey, shape: Shape::Inside { before: 52, after: 26 } },
    rule("AKIA", Leak::AwsAccessKeyId, Class::Upper, 16, 16),
    rule("ASIA", Leak::AwsAccessKeyId, Class::Upper, 16, 16),
    rule("ABSK", Leak::AwsSecretKey, Class::Base64, 100, 300),
    rule("ghp_", Leak::GitToken, Class::Alnum, 36, 36),
    rule("gho_", Leak::GitToken, Class::Alnum, 36, 36),
    rule("ghu_", Leak::GitToken, Class::Alnum, 36, 36),
    rule("ghs_", Leak::GitToken, Class::Alnum, 36, 36),
    rule("ghr_", Leak::GitToken, Class::Alnum, 36, 76),
    rule("github_pat_", Leak::GitToken, Class::Url, 60, 100),
    rule("glpat-", Leak::GitToken, Class::Url, 20, 60),
    rule("xoxb-", Leak::SlackToken, Class::Dashed, 24, 250),
    rule("xoxp-", Leak::SlackToken, Class::Dashed, 24, 250),
    rule("xoxa-", Leak::SlackToken, Class::Dashed, 24, 250),
    rule("xoxs-", Leak::SlackToken, Class::Dashed, 24, 250),
    rule("xapp-", Leak::SlackToken, Class::Dashed, 40, 250),
    rule("hooks.slack.com/services/T", Leak::SlackToken, Class::Path, 30, 80),
    rule("sk_live_", Leak::StripeKey, Class::Alnum, 20, 200),
    rule("rk_live_", Leak::StripeKey, Class::Alnum, 20, 200),
    rule("sk_test_", Leak::StripeKey, Class::Alnum, 20, 200),
    rule("hf_", Leak::AiKey, Class::Alnum, 30, 40),
    rule("gsk_", Leak::AiKey, Class::Alnum, 48, 60),
    rule("xai-", Leak::AiKey, Class::Alnum, 70, 100),
    Rule { mark: "-----BEGIN ", leak: Leak::PrivateKey, shape: Shape::Pem },
];

/// What is looked for in files only: a name alone is a weak sign, and a prompt that speaks of one is no incident.
const RULES_OF_FILES: &[Rule] = &[
    assigned("secret_access_key", Leak::AwsSecretKey, Class::Base64, 40, 40),
    assigned("SECRET_ACCESS_KEY", Leak::AwsSecretKey, Class::Base64, 40, 40),
    assigned("ecretAccessKey", Leak::AwsSecretKey, Class::Base64, 40, 40),
    assigned("api-key", Leak::AzureKey, Class::Hex, 32, 32),
    assigned("api_key", Leak::ApiKey, Class::Url, 24, 200),
    assigned("API_KEY", Leak::ApiKey, Class::Url, 24, 200),
    assigned("apiKey", Leak::ApiKey, Class::Url, 24, 200),
    assigned("ubscription-Key", Leak::AzureKey, Class::Hex, 32, 32),
];

/// Text that stands where a key will be put.
const PLACEHOLDERS: &[&str] = &[
    "example",
    "placeholder",
    "redacted",
    "changeme",
    "xxxxx",
    "00000",
    "your-",
    "your_",
    "yourkey",
    "-here",
];

/// Finds marks: by vector instructions where the processor has them, otherwise by an automaton.
enum Marks {
    Packed(Box<packed::Searcher>),
    Automaton(Box<AhoCorasick>),
}

impl Marks {
    fn new(rules: &[&'static Rule]) -> Self {
        let marks = rules.iter().map(|rule| rule.mark);
        let kind = packed::MatchKind::LeftmostFirst;
        match packed::Config::new().match_kind(kind).builder().extend(marks.clone()).build() {
            Some(searcher) => Marks::Packed(Box::new(searcher)),
            None => Marks::Automaton(Box::new(
                AhoCorasick::builder()
                    .match_kind(Kind::LeftmostFirst)
                    .build(marks)
                    .expect("a few dozen short marks make a small automaton"),
            )),
        }
    }

    /// The next mark from `at` on: which, and where.
    fn next(&self, bytes: &[u8], at: usize) -> Option<(usize, Range<usize>)> {
        let found = match self {
            Marks::Packed(searcher) => {
                searcher.find_in(bytes, aho_corasick::Span { start: at, end: bytes.len() })
            }
            Marks::Automaton(automaton) => {
                automaton.find(aho_corasick::Input::new(bytes).span(at..bytes.len()))
            }
        }?;
        Some((found.pattern().as_usize(), found.range()))
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// What it is.
    pub leak: Leak,
    /// Where it lies in the bytes.
    pub range: Range<usize>,
    /// Name of the secret or virtual key, when it is one of ours.
    pub name: Option<String>,
}

/// Looks for keys. Made once, used from many threads.
pub struct Detector {
    quick: (Vec<&'static Rule>, Marks),
    thorough: (Vec<&'static Rule>, Marks),
}

impl Default for Detector {
    fn default() -> Self {
        Self::new()
    }
}

impl Detector {
    /// A detector with all rules.
    pub fn new() -> Self {
        let quick: Vec<&Rule> = RULES.iter().collect();
        let thorough: Vec<&Rule> = RULES.iter().chain(RULES_OF_FILES).collect();
        let (quick_marks, thorough_marks) = (Marks::new(&quick), Marks::new(&thorough));
        Self { quick: (quick, quick_marks), thorough: (thorough, thorough_marks) }
    }

    /// The first key in a text, such as a prompt or a reply. About as cheap as looking for one word.
    pub fn first(&self, bytes: &[u8]) -> Option<Leak> {
        let mut found = None;
        find(&self.quick, bytes, |hit| {
            found = Some(hit.leak);
            false
        });
        found
    }

    /// Every key in a text, with the signs that only files have.
    pub fn all(&self, bytes: &[u8]) -> Vec<Hit> {
        let mut hits = Vec::new();
        find(&self.thorough, bytes, |hit| {
            hits.push(hit);
            true
        });
        hits
    }

    /// Looks at a text that comes in pieces.
    pub fn stream(self: &Arc<Self>) -> Stream {
        Stream { detector: Arc::clone(self), tail: Vec::new(), found: None }
    }
}

/// Calls `see` for each hit in order until it answers `false`.
fn find((rules, marks): &(Vec<&'static Rule>, Marks), bytes: &[u8], mut see: impl FnMut(Hit) -> bool) {
    let mut at = 0;
    while let Some((pattern, mark)) = marks.next(bytes, at) {
        at = mark.start + 1;
        let rule = rules[pattern];
        if let Some(range) = matches(rule, bytes, &mark) {
            at = range.end.max(at);
            if !see(Hit { leak: rule.leak, range, name: None }) {
                return;
            }
        }
    }
}

/// Where the key lies whose mark was found, if it is one.
fn matches(rule: &Rule, bytes: &[u8], mark: &Range<usize>) -> Option<Range<usize>> {
    let after = &bytes[mark.end..bytes.len().min(mark.end + REACH)];
    let run = |class: Class, of: &[u8]| of.iter().take_while(|byte| class.has(**byte)).count();
    match rule.shape {
        Shape::Run(class, min, max) => {
            if !begins_a_word(bytes, mark.start) {
                return None;
            }
            let length = run(class, after);
            if !(min..=max).contains(&length) || !plausible(&after[..length]) {
                return None;
            }
            Some(mark.start..mark.end + length)
        }
        Shape::Inside { before, after: least } => {
            let start = mark.start.checked_sub(before)?;
            let head = &bytes[start..mark.start];
            let length = run(Class::Alnum, after);
            let whole = head.iter().all(u8::is_ascii_alphanumeric) && length == least;
            (whole && begins_a_word(bytes, start) && plausible(head)).then(|| start..mark.end + length)
        }
        Shape::Pem => {
            let label = &after[..after.len().min(40)];
            let end = ["PRIVATE KEY-----", "PRIVATE KEY BLOCK-----"]
                .iter()
                .find_map(|words| Some(memmem::find(label, words.as_bytes())? + words.len()))?;
            // At least a line of base64; line breaks may be written as `\n`.
            let (mut count, mut heads, mut at) = (0, 0, end);
            while let Some(byte) = after.get(at) {
                at += 1;
                match byte {
                    b'\n' | b'\r' | b'\\' | b' ' | b'"' | b',' | b'+' => {}
                    // A line before the base64, such as `Version: GnuPG v2`.
                    b':' if heads < ARMOR_HEADS_MAX => {
                        (count, heads) = (0, heads + 1);
                        let rest = &after[at..];
                        let ends = [memmem::find(rest, b"\n"), memmem::find(rest, b"\\n").map(|end| end + 1)];
                        at += ends.into_iter().flatten().min()? + 1;
                    }
                    byte if Class::Base64.has(*byte) => count += 1,
                    _ => break,
                }
                if count >= 40 {
                    return Some(mark.start..mark.end + end);
                }
            }
            None
        }
        Shape::Assigned(class, min, max) => {
            let gap = after.iter().take(8).take_while(|byte| b" \t=:\"'>\\".contains(byte)).count();
            if gap == 0 {
                return None;
            }
            let length = run(class, &after[gap..]);
            let value = &after[gap..gap + length];
            let mixed = value.iter().any(u8::is_ascii_digit) && value.iter().any(u8::is_ascii_alphabetic);
            let bits = if matches!(class, Class::Hex) { 3.0 } else { 3.7 };
            let random = (min..=max).contains(&length) && mixed && plausible(value) && entropy(value) >= bits;
            random.then(|| mark.end + gap..mark.end + gap + length)
        }
    }
}

/// Whether no word goes on here: `task-…` holds no `sk-`. An escape before it, as in JSON or a URL, is no word.
fn begins_a_word(bytes: &[u8], start: usize) -> bool {
    let before = &bytes[..start];
    match before {
        [] | [.., b'\\', b'n' | b'r' | b't'] => true,
        [.., b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => true,
        [.., last] => !(last.is_ascii_alphanumeric() || *last == b'_'),
    }
}

/// Bits of information in each byte, by how often each byte occurs.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let total = f64::from(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) / total)
        .map(|share| -share * share.log2())
        .sum()
}

/// Whether it looks random rather than typed: placeholders and counted-up letters are no keys.
fn plausible(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    let steps =
        lower.windows(2).filter(|pair| pair[1] == pair[0] || pair[1] == pair[0].wrapping_add(1)).count();
    let least = if value.len() <= 20 { 2.5 } else { 3.0 };
    steps * 2 < lower.len()
        && entropy(value) >= least
        && PLACEHOLDERS.iter().all(|word| memmem::find(&lower, word.as_bytes()).is_none())
}

/// A text in pieces: the body of a request, a reply, the events of a stream.
pub struct Stream {
    detector: Arc<Detector>,
    tail: Vec<u8>,
    found: Option<Leak>,
}

impl Stream {
    /// Looks at the next piece. The first thing that is found stays the answer, and nothing more is looked at.
    pub fn push(&mut self, piece: &[u8]) -> Option<Leak> {
        if self.found.is_some() || piece.is_empty() {
            return self.found;
        }
        if !self.tail.is_empty() {
            let kept = self.tail.len();
            self.tail.extend_from_slice(&piece[..piece.len().min(TAIL)]);
            self.found = self.detector.first(&self.tail);
            self.tail.truncate(kept);
        }
        if self.found.is_none() {
            self.found = self.detector.first(piece);
        }
        let keep = piece.len().min(TAIL);
        if keep == TAIL {
            self.tail.clear();
        } else {
            let over = (self.tail.len() + keep).saturating_sub(TAIL);
            self.tail.drain(..over);
        }
        self.tail.extend_from_slice(&piece[piece.len() - keep..]);
        self.found
    }

    /// Looks at the data of one event of a streamed reply. A model writes a key in several events, so the texts in them
    /// are put together; of other events the data itself is looked at.
    pub fn push_event(&mut self, data: &[u8]) -> Option<Leak> {
        match delta(data) {
            Some(text) => self.push(text),
            None => self.found.or_else(|| self.detector.first(data)),
        }
    }
}

/// The piece of text in an event, as it stands in the JSON, of any of the four protocols.
pub(crate) fn delta(data: &[u8]) -> Option<&[u8]> {
    const NAMES: [&[u8]; 5] =
        [br#""content":"#, br#""text":"#, br#""delta":"#, br#""partial_json":"#, br#""arguments":"#];
    let start = NAMES.iter().find_map(|name| {
        let value = memmem::find(data, name)? + name.len();
        let blank = data[value..].iter().take_while(|byte| **byte == b' ').count();
        (data.get(value + blank) == Some(&b'"')).then_some(value + blank + 1)
    })?;
    let mut end = start;
    while let Some(byte) = data.get(end) {
        match byte {
            b'"' => return Some(&data[start..end]),
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    None
}

/// Secrets whose exact values are looked for, known only by their hashes.
pub struct Known {
    fingerprints: Fingerprints,
    salt: u64,
    /// One bit for each mark of a value's first bytes: nearly every place in a text is passed over by one look.
    filter: Box<[u64; 1024]>,
    /// By the mark of the first bytes: length, keyed hash and name.
    values: HashMap<u64, Vec<(usize, Fingerprint, String)>>,
    length_max: usize,
    /// Virtual keys by keyed hash.
    keys: HashMap<Fingerprint, String>,
}

impl Known {
    /// Knows nothing yet. `fingerprints` are those by which virtual keys are stored.
    pub fn new(fingerprints: Fingerprints) -> Self {
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).expect("the operating system gives random bytes");
        Self {
            fingerprints,
            salt: u64::from_le_bytes(salt),
            filter: Box::new([0; 1024]),
            values: HashMap::new(),
            length_max: 0,
            keys: HashMap::new(),
        }
    }

    /// Adds a secret of the vault; too short ones are left out.
    pub fn add(&mut self, name: &str, value: &SecretString) {
        // A file's last line break is no part of what is looked for.
        let value = value.expose_secret().trim_end().as_bytes();
        let Some(first) = value.first_chunk() else { return };
        let mark = self.mark(*first);
        let (word, bit) = place(mark);
        self.filter[word] |= bit;
        let entry = (value.len(), self.fingerprints.of(value), name.to_owned());
        self.values.entry(mark).or_default().push(entry);
        self.length_max = self.length_max.max(value.len());
    }

    /// Adds a virtual key by the hash that it is stored by.
    pub fn add_key(&mut self, name: &str, hash: Fingerprint) {
        self.keys.insert(hash, name.to_owned());
    }

    /// The longest value that is looked for, in bytes.
    pub fn length_max(&self) -> usize {
        self.length_max
    }

    /// The first bytes of a value, mixed so that they cannot be read from it without the salt.
    fn mark(&self, first: [u8; KNOWN_LENGTH_MIN]) -> u64 {
        (u64::from_le_bytes(first) ^ self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Adds what is known to what the rules found, and finds what no rule would.
    pub fn complete(&self, bytes: &[u8], hits: &mut Vec<Hit>) {
        for hit in hits.iter_mut().filter(|hit| hit.leak == Leak::StewardKey) {
            hit.name = self.keys.get(&self.fingerprints.of(&bytes[hit.range.clone()])).cloned();
        }
        if self.values.is_empty() {
            return;
        }
        let mut passed = 0;
        for (start, window) in bytes.windows(KNOWN_LENGTH_MIN).enumerate() {
            let mark = self.mark(window.try_into().expect("the windows have this length"));
            let (word, bit) = place(mark);
            if self.filter[word] & bit == 0 || start < passed {
                continue;
            }
            let is_it = |(length, hash, _): &&(usize, Fingerprint, String)| {
                bytes.get(start..start + length).is_some_and(|value| self.fingerprints.of(value) == *hash)
            };
            // Of values that begin alike, the longest.
            let entries = self.values.get(&mark).into_iter().flatten();
            let Some((length, _, name)) = entries.filter(is_it).max_by_key(|(length, ..)| *length) else {
                continue;
            };
            let range = start..start + length;
            passed = range.end;
            match hits.iter_mut().find(|hit| overlap(&hit.range, &range)) {
                Some(hit) => hit.name = Some(name.clone()),
                None => hits.push(Hit { leak: Leak::VaultSecret, range, name: Some(name.clone()) }),
            }
        }
        hits.sort_by_key(|hit| hit.range.start);
    }
}

/// Which bit of the filter stands for a mark: its upper 16 bits say it.
fn place(mark: u64) -> (usize, u64) {
    let index = usize::try_from(mark >> 48).expect("16 bits");
    (index / 64, 1 << (index % 64))
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Where in a file something was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// The file, as it was named.
    pub file: String,
    /// Line, counted from 1.
    pub line: u64,
    /// What it is.
    pub kind: Leak,
    /// How many bytes it has.
    pub length: usize,
    /// Name of the secret or virtual key, when it is one of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Git keeps the file: whoever has the repository has the key, and its history keeps it.
    pub tracked: bool,
    /// It stands so in Git's last commit, and the file is gone or has changed in the work tree.
    pub committed: bool,
}

/// One file, looked at in pieces, so that its size does not matter.
pub struct FileScan<'d> {
    detector: &'d Detector,
    known: &'d Known,
    buffer: Vec<u8>,
    /// Line of the buffer's first byte.
    line: u64,
    /// Bytes at the buffer's beginning in which everything that begins there was told.
    context: usize,
    overlap: usize,
    found: Vec<(u64, Hit)>,
}

impl<'d> FileScan<'d> {
    /// Begins with an empty file.
    pub fn new(detector: &'d Detector, known: &'d Known) -> Self {
        let overlap = REACH.max(known.length_max());
        Self { detector, known, buffer: Vec::new(), line: 1, context: 0, overlap, found: Vec::new() }
    }

    /// Looks at the next piece of the file.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
        // A hit that begins in the last stretch is judged when what follows it is there.
        let settled = self.buffer.len().saturating_sub(self.overlap);
        if settled >= self.overlap {
            self.look(settled);
        }
    }

    /// Ends the file: each hit with its line.
    pub fn finish(mut self) -> Vec<(u64, Hit)> {
        self.look(self.buffer.len());
        self.found
    }

    fn look(&mut self, settled: usize) {
        let mut hits = self.detector.all(&self.buffer);
        self.known.complete(&self.buffer, &mut hits);
        let (mut line, mut counted, mut done) = (self.line, 0, settled);
        for hit in hits {
            if hit.range.start >= settled {
                break;
            }
            // Told already; it was kept so that the word after it is seen with what stands before it.
            if hit.range.start < self.context {
                continue;
            }
            line += lines(&self.buffer[counted..hit.range.start]);
            counted = hit.range.start;
            done = done.max(hit.range.end);
            self.found.push((line, hit));
        }
        let done = done.min(self.buffer.len());
        self.context = done.min(CONTEXT);
        let dropped = done - self.context;
        self.line += lines(&self.buffer[..dropped]);
        self.buffer.drain(..dropped);
    }
}

fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Random-looking characters that are the same in every run.
    fn random(seed: u64, length: usize, alphabet: &[u8]) -> String {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                char::from(alphabet[usize::try_from(state >> 33).expect("31 bits") % alphabet.len()])
            })
            .collect()
    }

    const ALNUM: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    const HEX: &[u8] = b"0123456789abcdef";

    /// A key of each kind that every text is searched for; none is or was anyone's.
    fn keys() -> Vec<(Leak, String)> {
        let r = random;
        vec![
            (Leak::StewardKey, format!("sk-steward-{}", r(1, 43, ALNUM))),
            (Leak::StewardToken, format!("stw_{}", r(2, 43, ALNUM))),
            (Leak::AnthropicKey, format!("sk-ant-api03-{}AA", r(3, 93, ALNUM))),
            (Leak::OpenaiKey, format!("sk-proj-{}T3BlbkFJ{}", r(4, 74, ALNUM), r(5, 74, ALNUM))),
            (Leak::OpenaiKey, format!("sk-svcacct-{}", r(6, 60, ALNUM))),
            (Leak::OpenaiKey, format!("sk-{}T3BlbkFJ{}", r(7, 20, ALNUM), r(8, 20, ALNUM))),
            (Leak::AiKey, format!("sk-or-v1-{}", r(9, 64, HEX))),
            (Leak::GoogleKey, format!("AIza{}", r(10, 35, ALNUM))),
            (Leak::AzureKey, format!("{}JQQJ99{}", r(11, 52, ALNUM), r(12, 26, ALNUM))),
            (Leak::AwsAccessKeyId, format!("AKIA{}", r(13, 16, UPPER))),
            (Leak::AwsSecretKey, format!("ABSK{}", r(14, 128, ALNUM))),
            (Leak::GitToken, format!("ghp_{}", r(15, 36, ALNUM))),
            (Leak::GitToken, format!("github_pat_{}_{}", r(16, 22, ALNUM), r(17, 59, ALNUM))),
            (Leak::GitToken, format!("glpat-{}", r(18, 20, ALNUM))),
            (Leak::SlackToken, format!("xoxb-{}-{}", r(19, 12, b"0123456789"), r(20, 24, ALNUM))),
            (
                Leak::SlackToken,
                format!(
                    "hooks.slack.com/services/T{}/B{}/{}",
                    r(21, 8, UPPER),
                    r(22, 8, UPPER),
                    r(23, 24, ALNUM)
                ),
            ),
            (Leak::StripeKey, format!("sk_live_{}", r(24, 24, ALNUM))),
            (Leak::AiKey, format!("hf_{}", r(25, 34, ALNUM))),
            (Leak::AiKey, format!("gsk_{}", r(26, 52, ALNUM))),
            (Leak::AiKey, format!("xai-{}", r(27, 80, ALNUM))),
            (Leak::PrivateKey, format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n", r(28, 64, ALNUM))),
            (Leak::PrivateKey, format!("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{}\n", r(29, 64, ALNUM))),
            (
                Leak::PrivateKey,
                format!(
                    "-----BEGIN PGP PRIVATE KEY BLOCK-----\r\nVersion: GnuPG v2.0.22 (GNU/Linux)\r\nComment: a (test)\r\n\r\n{}",
                    r(30, 64, ALNUM)
                ),
            ),
            (
                Leak::PrivateKey,
                format!("-----BEGIN PGP PRIVATE KEY BLOCK-----\\nVersion: (1)\\n\\n{}", r(31, 64, ALNUM)),
            ),
        ]
    }

    #[test]
    fn each_kind_of_key_is_found_wherever_it_stands() {
        let detector = Detector::new();
        for (leak, key) in keys() {
            for (before, after) in [
                ("", ""),
                ("my key is ", " and nothing else"),
                ("OPENAI_KEY=", "\n"),
                ("{\"key\":\"", "\"}"),
                ("line\\n", "\\n"),
                ("https://host/?key%3D", "&x=1"),
                ("Authorization: Bearer ", "\r\n"),
            ] {
                let text = format!("{before}{key}{after}");
                assert_eq!(detector.first(text.as_bytes()), Some(leak), "{leak} in {before}…{after}");
                let hits = detector.all(text.as_bytes());
                assert_eq!(hits[0].leak, leak, "{leak} in {before}…{after}");
                if leak != Leak::PrivateKey {
                    assert_eq!(&text[hits[0].range.clone()], key, "{leak}");
                }
            }
        }
    }

    #[test]
    fn what_only_looks_like_a_key_is_none() {
        let detector = Detector::new();
        let long = random(40, 48, ALNUM);
        for text in [
            "the task-force of disk-based risk-averse people",
            &format!("task-{long}"),
            &format!("desk-{long}"),
            "sk-1234",
            "sk-your-api-key-here-put-it-in-the-vault-please-1234",
            "sk-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGH",
            "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "sk-proj-00000000000000000000000000000000000000000000000000",
            "AKIAIOSFODNN7EXAMPLE",
            "AKIAaaaaaaaaaaaaaaaa",
            "AIzaSy-too-short",
            "ghp_tooShort",
            "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n",
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\n-----END PGP PRIVATE KEY BLOCK-----",
            "-----BEGIN PRIVATE KEY----- goes here -----END PRIVATE KEY-----",
            "JQQJ99",
            "api_key: the name of the secret, such as openai/main",
            "api_key=os.environ/OPENAI_API_KEY_FOR_PRODUCTION_USE",
            "0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(detector.all(text.as_bytes()), [], "{text}");
            assert_eq!(detector.first(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn names_count_in_files_and_not_in_prompts() {
        let detector = Detector::new();
        let secret = random(50, 40, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
        let hex = random(51, 32, HEX);
        let key = random(52, 32, ALNUM);
        for (text, leak) in [
            (format!("aws_secret_access_key = {secret}"), Leak::AwsSecretKey),
            (format!("\"secretAccessKey\": \"{secret}\""), Leak::AwsSecretKey),
            (format!("api-key: {hex}"), Leak::AzureKey),
            (format!("MY_API_KEY={key}"), Leak::ApiKey),
            (format!("  apiKey: '{key}',"), Leak::ApiKey),
        ] {
            let hits = detector.all(text.as_bytes());
            assert_eq!(hits.iter().map(|hit| hit.leak).collect::<Vec<_>>(), [leak], "{text}");
            assert_eq!(detector.first(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_key_that_a_model_writes_in_many_events_is_found() {
        let detector = Arc::new(Detector::new());
        for (leak, key) in keys() {
            let mut stream = detector.stream();
            let mut found = None;
            let pieces: Vec<char> = key.chars().collect();
            for piece in pieces.chunks(3) {
                let piece = serde_json::to_string(&piece.iter().collect::<String>()).expect("text is JSON");
                let event =
                    format!(r#"{{"choices":[{{"index":0,"delta":{{"role":null,"content": {piece}}}}}]}}"#);
                found = stream.push_event(event.as_bytes());
            }
            let found = found.or_else(|| stream.push_event(br#"{"choices":[{"delta":{"content":" end"}}]}"#));
            // Half a key is a key of fewer letters, for some kinds.
            assert!(found.is_some(), "{leak}");
        }
        let mut stream = detector.stream();
        for word in ["a", " sk", "-", " b", "task", "-force"].repeat(200) {
            assert_eq!(stream.push_event(format!(r#"{{"type":"x","delta":"{word}"}}"#).as_bytes()), None);
        }
    }

    fn fingerprints() -> Fingerprints {
        Fingerprints::new(&secrecy::SecretBox::new(Box::new([7; 32])))
    }

    fn known(values: &[(&str, &str)]) -> Known {
        let mut known = Known::new(fingerprints());
        for (name, value) in values {
            known.add(name, &SecretString::from(*value));
        }
        known
    }

    fn scan(
        detector: &Detector,
        known: &Known,
        text: &[u8],
        piece: usize,
    ) -> Vec<(u64, Leak, Option<String>)> {
        let mut file = FileScan::new(detector, known);
        text.chunks(piece.max(1)).for_each(|piece| file.push(piece));
        file.finish().into_iter().map(|(line, hit)| (line, hit.leak, hit.name)).collect()
    }

    #[test]
    fn secrets_of_the_vault_and_our_own_keys_are_named() {
        let detector = Detector::new();
        let mut known =
            known(&[("db/password", "correct horse!"), ("short", "abc"), ("openai/main", &keys()[5].1)]);
        let own = format!("sk-steward-{}", random(60, 43, ALNUM));
        known.add_key("ci", fingerprints().of(own.as_bytes()));
        let text = format!(
            "a\nurl=postgres://u:correct horse!@h/db\nabc\n{}\n{own}\n{}\n",
            keys()[5].1,
            keys()[0].1
        );
        let found = scan(&detector, &known, text.as_bytes(), 7);
        assert_eq!(
            found,
            [
                (2, Leak::VaultSecret, Some("db/password".to_owned())),
                (4, Leak::OpenaiKey, Some("openai/main".to_owned())),
                (5, Leak::StewardKey, Some("ci".to_owned())),
                (6, Leak::StewardKey, None),
            ]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn pieces_of_any_size_give_the_same_findings(
            filler in proptest::collection::vec((0_usize..3000, 0_usize..21), 1..8),
            piece in 1_usize..9000,
        ) {
            let detector = Detector::new();
            let known = known(&[("db/password", "correct horse!")]);
            let keys = keys();
            let (mut text, mut expected) = (String::new(), Vec::new());
            for (length, which) in filler {
                text.push_str(&"word task-force \n".repeat(length / 16));
                let (leak, key) = &keys[which];
                expected.push((text.matches('\n').count() as u64 + 1, *leak, None));
                text.push_str(key);
                text.push_str("\ncorrect horse!");
                expected.push((text.matches('\n').count() as u64 + 1, Leak::VaultSecret, Some("db/password".to_owned())));
                text.push('\n');
            }
            prop_assert_eq!(scan(&detector, &known, text.as_bytes(), piece), expected);
        }

        #[test]
        fn a_stream_finds_a_key_however_it_is_cut(which in 0_usize..20, cut in 0_usize..200, before in 0_usize..600) {
            let detector = Arc::new(Detector::new());
            let text = format!("{}{} end", "word ".repeat(before / 5), keys()[which].1);
            let cut = cut.min(text.len());
            let mut stream = detector.stream();
            stream.push(&text.as_bytes()[..cut]);
            prop_assert!(stream.push(&text.as_bytes()[cut..]).is_some());
        }

        #[test]
        fn ordinary_text_holds_no_key(text in "[a-z ,.\\n-]{0,400}") {
            prop_assert_eq!(Detector::new().all(text.as_bytes()), []);
        }
    }
}
