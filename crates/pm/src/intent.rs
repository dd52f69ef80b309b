//! Which known job a text asks for: counted, not guessed.

use std::collections::BTreeSet;

use crate::runbook::{Intent, Ruling, Runbook, Territory};
use crate::words::{self, Token};
use crate::{prose, runbook};

/// Least weight that recognises a job.
const THRESHOLD: f64 = 3.0;
/// A job that is part of another one is done for itself when its own clause weighs this much.
const OWN_RIGHT: f64 = 4.0;
/// Least lead over the next job.
const MARGIN: f64 = 1.0;
/// Words allowed between two words of a phrase.
const GAP_MAX: usize = 2;
/// A slip counts for less than the word itself.
const SLIP_FACTOR: f64 = 0.8;
/// Words of one clause that are looked at; a task that needs more to say one thing says nothing.
const CLAUSE_WORDS_MAX: usize = 400;
/// Clauses of a task that are looked at.
const CLAUSES_MAX: usize = 400;

/// A job that was recognised, in the words that did it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recognised {
    /// Index into the runbooks.
    pub(crate) runbook: usize,
    /// The words, as they were written.
    pub(crate) words: Vec<String>,
    score: f64,
}

/// A part of the text that is someone else's work.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Foreign {
    pub(crate) territory: String,
    pub(crate) title: String,
    pub(crate) owner: String,
    pub(crate) ruling: Ruling,
    /// The clause.
    pub(crate) text: String,
}

/// What a text asks for.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Jobs, in the order of the text.
    pub(crate) jobs: Vec<Recognised>,
    /// Parts that are not Steward's.
    pub(crate) not_ours: Vec<Foreign>,
    /// Jobs that a clause could equally mean, by index of runbook.
    pub(crate) ambiguous: Vec<(String, Vec<usize>)>,
    /// Clauses that have nothing to do with any job that was recognised.
    pub(crate) unread: Vec<String>,
    /// The text forbids changes.
    pub(crate) forbids_changes: bool,
}

/// The vocabulary of all jobs, ready to be compared with.
pub(crate) struct Matcher {
    runbooks: Vec<Vocabulary>,
    territories: Vec<(Territory, Vocabulary)>,
    /// Every known stem: a word that is known is never taken for a slip of another.
    known: BTreeSet<String>,
}

struct Vocabulary {
    /// Word, stem, weight.
    words: Vec<(String, String, f64)>,
    /// Stems of the phrase, weight.
    phrases: Vec<(Vec<String>, f64)>,
    /// Stems of the words that name parts of the job.
    parts: BTreeSet<String>,
    covers: Vec<usize>,
}

/// Words that a list of parts may hold besides the parts.
const LIST_WORDS: [&str; 16] = [
    "the",
    "its",
    "all",
    "with",
    "of",
    "for",
    "and",
    "including",
    "also",
    "plus",
    "please",
    "a",
    "an",
    "needed",
    "proper",
    "everything",
];

impl Vocabulary {
    fn of(intent: &Intent) -> Self {
        let words =
            intent.words.iter().map(|(word, weight)| (word.clone(), words::stem(word), *weight)).collect();
        let phrases = intent
            .phrases
            .iter()
            .map(|(phrase, weight)| (words::tokens(phrase).into_iter().map(|t| t.stem).collect(), *weight))
            .collect();
        let parts = intent.parts.iter().map(|word| words::stem(word)).collect();
        Self { words, phrases, parts, covers: Vec::new() }
    }
}

/// Everyday words that stand one letter from a word of ours.
const NOT_SLIPS: [&str; 28] = [
    "score",
    "scores",
    "stare",
    "store",
    "stores",
    "stored",
    "shop",
    "share",
    "shares",
    "change",
    "changes",
    "state",
    "states",
    "phase",
    "speech",
    "spend",
    "simple",
    "sample",
    "samples",
    "server",
    "service",
    "serve",
    "reverse",
    "contact",
    "complain",
    "complaint",
    "complaints",
    "complains",
];

impl Matcher {
    pub(crate) fn new(runbooks: &[Runbook]) -> Self {
        let mut vocabularies: Vec<Vocabulary> = runbooks.iter().map(|r| Vocabulary::of(&r.intent)).collect();
        for (vocabulary, runbook) in vocabularies.iter_mut().zip(runbooks) {
            vocabulary.covers = runbook
                .covers
                .iter()
                .filter_map(|name| runbooks.iter().position(|other| other.name == *name))
                .collect();
        }
        let territories: Vec<(Territory, Vocabulary)> = runbook::territories()
            .into_iter()
            .map(|territory| {
                let vocabulary = Vocabulary::of(&territory.intent);
                (territory, vocabulary)
            })
            .collect();
        let known = vocabularies
            .iter()
            .chain(territories.iter().map(|(_, vocabulary)| vocabulary))
            .flat_map(|vocabulary| {
                let words = vocabulary.words.iter().map(|(_, stem, _)| stem.clone());
                words.chain(vocabulary.phrases.iter().flat_map(|(stems, _)| stems.clone()))
            })
            .chain(NOT_SLIPS.iter().map(|word| words::stem(word)))
            .collect();
        Self { runbooks: vocabularies, territories, known }
    }

    /// Reads what `texts` (one per bullet or sentence) ask for. `names` are names of stores and tables, which say
    /// nothing about the job.
    pub(crate) fn read(&self, texts: &[String], names: &BTreeSet<String>) -> Reading {
        let mut reading = Reading::default();
        let mut clauses: Vec<Vec<Token>> = Vec::new();
        for text in texts {
            for sentence in prose::sentences(&without_code(text)) {
                let (kept, forbids) = without_prohibitions(&sentence);
                reading.forbids_changes |= forbids;
                clauses.extend(self.clauses(&kept, names));
            }
        }
        clauses.truncate(CLAUSES_MAX);
        for clause in &clauses {
            self.read_clause(clause, &mut reading);
        }
        if reading.jobs.is_empty() && reading.not_ours.is_empty() && reading.ambiguous.is_empty() {
            // No clause says it alone; perhaps they say it together.
            let all: Vec<Token> = clauses.concat();
            self.read_clause(&all, &mut reading);
        }
        self.settle(&mut reading);
        for clause in clauses.iter().filter(|clause| clause.len() > 1) {
            let said = spoken(clause);
            let is_known = self.is_part(clause, &reading)
                || reading.jobs.iter().any(|job| self.score(&self.runbooks[job.runbook], clause).0 > 0.0)
                || reading.not_ours.iter().any(|other| other.text == said)
                || reading.ambiguous.iter().any(|(text, _)| *text == said);
            if !is_known && !reading.unread.contains(&said) {
                reading.unread.push(said);
            }
        }
        reading
    }

    /// The sentence as one clause, or as several when their parts ask for different things.
    fn clauses(&self, sentence: &str, names: &BTreeSet<String>) -> Vec<Vec<Token>> {
        let parts: Vec<Vec<Token>> = split(sentence)
            .into_iter()
            .map(|part| {
                let mut tokens = words::tokens(&part);
                tokens.retain(|token| !names.contains(&token.raw));
                tokens.truncate(CLAUSE_WORDS_MAX);
                tokens
            })
            .filter(|tokens| !tokens.is_empty())
            .collect();
        let clear: Vec<Option<Best>> = parts.iter().map(|part| self.best(part)).collect();
        let different: BTreeSet<&Best> = clear.iter().flatten().collect();
        if different.len() < 2 {
            return if parts.is_empty() { Vec::new() } else { vec![parts.concat()] };
        }
        // Parts that say nothing of their own belong to the part before.
        let mut clauses: Vec<Vec<Token>> = Vec::new();
        let mut last: Option<Best> = None;
        for (part, best) in parts.into_iter().zip(clear) {
            match clauses.last_mut() {
                Some(clause) if best.is_none() || best == last => clause.extend(part),
                _ => clauses.push(part),
            }
            last = best.or(last);
        }
        clauses
    }

    /// What the clause clearly asks for, if it does.
    fn best(&self, clause: &[Token]) -> Option<Best> {
        let (scores, foreign) = self.scores(clause);
        let job = ranked(&scores);
        let other = ranked(&foreign);
        match (job.first(), other.first()) {
            (Some(job), Some(other)) if other.1 > job.1 && other.1 >= THRESHOLD => {
                Some(Best::Territory(other.0))
            }
            (Some(first), _) if first.1 >= THRESHOLD => {
                let lead = first.1 - job.get(1).map_or(0.0, |second| second.1);
                (lead >= MARGIN).then_some(Best::Runbook(first.0))
            }
            _ => None,
        }
    }

    fn scores(&self, clause: &[Token]) -> (Vec<f64>, Vec<f64>) {
        let scores = self.runbooks.iter().map(|vocabulary| self.score(vocabulary, clause).0).collect();
        let foreign =
            self.territories.iter().map(|(_, vocabulary)| self.score(vocabulary, clause).0).collect();
        (scores, foreign)
    }

    /// Whether the clause only lists parts of a job that was already asked for.
    fn is_part(&self, clause: &[Token], reading: &Reading) -> bool {
        reading.jobs.iter().any(|job| {
            let parts = &self.runbooks[job.runbook].parts;
            let listed =
                |token: &Token| LIST_WORDS.contains(&token.raw.as_str()) || parts.contains(&token.stem);
            clause.iter().any(|token| parts.contains(&token.stem)) && clause.iter().all(listed)
        })
    }

    fn read_clause(&self, clause: &[Token], reading: &mut Reading) {
        if self.is_part(clause, reading) {
            return;
        }
        let (scores, foreign) = self.scores(clause);
        let said = spoken(clause);
        let jobs = ranked(&scores);
        let (first, first_score) = jobs.first().copied().unwrap_or((0, 0.0));
        let (other, other_score) = ranked(&foreign).first().copied().unwrap_or((0, 0.0));
        if other_score >= THRESHOLD && other_score > first_score {
            let territory = &self.territories[other].0;
            reading.not_ours.push(Foreign {
                territory: territory.name.clone(),
                title: territory.title.clone(),
                owner: territory.owner.clone(),
                ruling: territory.ruling,
                text: said,
            });
            return;
        }
        if first_score < THRESHOLD {
            return;
        }
        let close: Vec<usize> =
            jobs.iter().filter(|(_, score)| first_score - score < MARGIN).map(|(index, _)| *index).collect();
        if close.len() > 1 {
            // A job that has the other as a part is the one that is meant.
            let covering =
                close.iter().find(|a| close.iter().all(|b| a == &b || self.runbooks[**a].covers.contains(b)));
            match covering {
                Some(&runbook) => self.claim(runbook, clause, reading),
                None => reading.ambiguous.push((said, close)),
            }
            return;
        }
        self.claim(first, clause, reading);
    }

    fn claim(&self, runbook: usize, clause: &[Token], reading: &mut Reading) {
        let (score, words) = self.score(&self.runbooks[runbook], clause);
        match reading.jobs.iter_mut().find(|job| job.runbook == runbook) {
            Some(job) => {
                job.score = job.score.max(score);
                for word in words {
                    if !job.words.contains(&word) {
                        job.words.push(word);
                    }
                }
            }
            None => reading.jobs.push(Recognised { runbook, words, score }),
        }
    }

    /// Drops jobs that are part of another, and doubts that another clause has settled.
    fn settle(&self, reading: &mut Reading) {
        let claimed: Vec<usize> = reading.jobs.iter().map(|job| job.runbook).collect();
        reading.ambiguous.retain(|(_, close)| !close.iter().any(|runbook| claimed.contains(runbook)));
        let covered: BTreeSet<usize> =
            claimed.iter().flat_map(|runbook| self.runbooks[*runbook].covers.clone()).collect();
        reading.jobs.retain(|job| !covered.contains(&job.runbook) || job.score >= OWN_RIGHT);
        reading.not_ours.dedup_by(|a, b| a.territory == b.territory);
    }

    /// The weight of the words found, each counted once, and the words.
    fn score(&self, vocabulary: &Vocabulary, clause: &[Token]) -> (f64, Vec<String>) {
        let mut found: Vec<String> = Vec::new();
        let mut stems: BTreeSet<&str> = BTreeSet::new();
        let mut total = 0.0;
        for token in clause {
            let hit = vocabulary
                .words
                .iter()
                .filter_map(|(word, stem, weight)| {
                    self.similar(token, stem, word).map(|factor| (stem.as_str(), weight * factor))
                })
                .max_by(|a, b| a.1.total_cmp(&b.1));
            if let Some((stem, weight)) = hit
                && stems.insert(stem)
            {
                total += weight;
                found.push(token.raw.clone());
            }
        }
        for (phrase, weight) in &vocabulary.phrases {
            if let Some(words) = self.phrase(phrase, clause) {
                total += weight;
                found.push(words);
            }
        }
        (total, found)
    }

    fn similar(&self, token: &Token, stem: &str, word: &str) -> Option<f64> {
        if token.stem == stem {
            return Some(1.0);
        }
        let slip = !self.known.contains(&token.stem)
            && (words::is_slip(&token.raw, word)
                || (stem.len() + 2 >= word.len() && word.len() >= 5 && words::is_slip(&token.stem, stem)));
        slip.then_some(SLIP_FACTOR)
    }

    /// Where the phrase's words follow one another, as they were written.
    fn phrase(&self, phrase: &[String], clause: &[Token]) -> Option<String> {
        'start: for start in 0..clause.len() {
            let mut at = start;
            for (i, stem) in phrase.iter().enumerate() {
                let reach = if i == 0 { at..at + 1 } else { at + 1..(at + 2 + GAP_MAX).min(clause.len()) };
                match reach.into_iter().find(|&j| self.similar(&clause[j], stem, stem).is_some()) {
                    Some(next) => at = next,
                    None => continue 'start,
                }
            }
            let words: Vec<&str> = clause[start..=at].iter().map(|token| token.raw.as_str()).collect();
            return Some(words.join(" "));
        }
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Best {
    Runbook(usize),
    Territory(usize),
}

/// The clause's words.
fn spoken(clause: &[Token]) -> String {
    clause.iter().map(|token| token.raw.as_str()).collect::<Vec<_>>().join(" ")
}

/// Index and score, best first; the earlier wins a tie.
fn ranked(scores: &[f64]) -> Vec<(usize, f64)> {
    let mut ranked: Vec<(usize, f64)> = scores.iter().copied().enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked
}

/// The text without fences and without SQL in backticks: what is inside is an object, not a wish.
fn without_code(text: &str) -> String {
    let mut kept = String::new();
    for (i, part) in text.split("```").enumerate() {
        if i % 2 == 1 {
            continue;
        }
        for (j, span) in part.split('`').enumerate() {
            let is_sql = j % 2 == 1 && looks_like_sql(span);
            if !is_sql {
                kept.push_str(span);
            }
        }
        kept.push(' ');
    }
    kept
}

/// Whether a quoted text is a query.
pub(crate) fn looks_like_sql(text: &str) -> bool {
    let mut words = text.split_whitespace().map(str::to_lowercase);
    let first = words.next().unwrap_or_default();
    (first == "select" || first == "with") && words.next().is_some()
}

/// The parts of a sentence between commas, semicolons, "and", "then", "also", "plus".
fn split(sentence: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for word in sentence.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        if ["and", "then", "also", "plus", "afterwards"].contains(&bare.as_str()) {
            parts.push(String::new());
            continue;
        }
        let part = parts.last_mut().expect("there is always a part");
        part.push_str(word);
        part.push(' ');
        if word.ends_with([',', ';', ':']) {
            parts.push(String::new());
        }
    }
    parts
}

/// The sentence without what it says must not be done, and whether it forbids changes as such.
fn without_prohibitions(sentence: &str) -> (String, bool) {
    let words: Vec<&str> = sentence.split_whitespace().collect();
    let bare: Vec<String> = words
        .iter()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).replace('’', "'").to_lowercase())
        .collect();
    let said = bare.join(" ");
    let mut forbids = [
        "read only",
        "read-only",
        "readonly",
        "plan only",
        "plan_only",
        "dry run",
        "dry-run",
        "only plan",
        "just plan",
        "only report",
        "just report",
    ]
    .iter()
    .any(|phrase| said.contains(phrase));
    let mut kept = String::new();
    let mut i = 0;
    while i < words.len() {
        let length = prohibition(&bare[i..]);
        if length == 0 {
            kept.push_str(words[i]);
            kept.push(' ');
            i += 1;
            continue;
        }
        // Up to the end of the clause.
        let mut end = i + length;
        let mut ended = words[end - 1].ends_with([',', ';', '.', ':', ')']);
        while end < words.len() && !ended {
            if ["but", "just", "only", "instead", "rather", "unless", "until", "before"]
                .contains(&bare[end].as_str())
            {
                break;
            }
            ended = words[end].ends_with([',', ';', '.', ':', ')']);
            end += 1;
        }
        forbids |= forbids_change(&bare[i..end]);
        kept.push_str(", ");
        i = end;
    }
    (kept, forbids)
}

/// Whether rules, such as standards and constraints, forbid changes.
pub(crate) fn forbid_changes(rules: &[String]) -> bool {
    rules.iter().flat_map(|rule| prose::sentences(rule)).any(|sentence| without_prohibitions(&sentence).1)
}

/// How many words a prohibition begins with; 0 if none does here.
fn prohibition(bare: &[String]) -> usize {
    let word = |i: usize| bare.get(i).map_or("", String::as_str);
    let modal = ["do", "must", "should", "shall", "may", "please", "can", "could"];
    match word(0) {
        "don't" | "dont" | "never" | "mustn't" | "shouldn't" => 1,
        first if modal.contains(&first) && word(1) == "not" => 2,
        "not" if word(1) == "to" => 2,
        "without" if word(1).ends_with("ing") => 1,
        "no" if ["changes", "change", "modifications", "writes", "alterations", "ddl"].contains(&word(1)) => {
            1
        }
        "nothing"
            if bare
                .iter()
                .take(5)
                .any(|w| ["changed", "modified", "altered", "written", "change"].contains(&w.as_str())) =>
        {
            1
        }
        _ => 0,
    }
}

/// Whether what is forbidden is changing as such, and not one particular thing.
fn forbids_change(words: &[String]) -> bool {
    let stems: BTreeSet<String> = words.iter().map(|word| words::stem(word)).collect();
    let says = |list: &[&str]| list.iter().any(|word| stems.contains(&words::stem(word)));
    let changing = says(&[
        "change",
        "changes",
        "modify",
        "modifications",
        "alter",
        "alterations",
        "touch",
        "write",
        "writes",
        "apply",
        "execute",
        "create",
        "add",
        "fix",
        "migrate",
        "update",
        "edit",
    ]);
    let removing = says(&["drop", "delete", "remove", "truncate"]);
    let anything = says(&["anything", "nothing", "any", "data", "database"]);
    changing || (removing && anything)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<String>, Vec<String>, bool, bool) {
        let runbooks = runbook::runbooks().unwrap();
        let matcher = Matcher::new(&runbooks);
        let names = ["orders".to_owned(), "customers".to_owned()].into();
        let reading = matcher.read(&[text.to_owned()], &names);
        let jobs = reading.jobs.iter().map(|job| runbooks[job.runbook].name.clone()).collect();
        let foreign = reading.not_ours.iter().map(|foreign| foreign.owner.clone()).collect();
        (jobs, foreign, reading.forbids_changes, !reading.ambiguous.is_empty())
    }

    #[test]
    fn texts_are_understood() {
        for (text, jobs, foreign, plan_only) in [
            ("Take stock of what is in the orders database", &["inventory"][..], &[][..], false),
            ("Which tables do we have, and how many rows?", &["inventory"], &[], false),
            ("The order lookup is slow, please add an index", &["performance-review"], &[], false),
            ("Perfomance of orders is bad, idnex missing?", &["performance-review"], &[], false),
            ("Looking up orders takes far too long", &["performance-review"], &[], false),
            ("Apply migration 0003_add_status", &["safe-schema-change"], &[], false),
            ("Add a new column status to orders", &["safe-schema-change"], &[], false),
            ("Check orders for orphan rows", &["consistency-check"], &[], false),
            (
                "Are there orders that refer to customers which no longer exist?",
                &["consistency-check"],
                &[],
                false,
            ),
            (
                "Check the consistancy, then apply the pending migratoins",
                &["consistency-check", "safe-schema-change"],
                &[],
                false,
            ),
            ("Review the slow queries but do not change anything", &["performance-review"], &[], true),
            ("Do not apply migrations, just check the integrity", &["consistency-check"], &[], true),
            ("Make the checkout button blue", &[], &["engineer"], false),
            (
                "Write unit tests for the loader and check for orphan rows",
                &["consistency-check"],
                &["qa"],
                false,
            ),
            ("Configure nginx as a reverse proxy", &[], &["ops"], false),
            ("Update the README and the user guide", &[], &["documentation"], false),
            ("Decide the retention policy for customer data", &[], &["pm"], false),
            ("Take a backup of orders", &["backup"], &[], false),
            ("Back up orders and prove it by a restore", &["backup"], &[], false),
            ("Before the release, make a proven backup", &["backup"], &[], false),
            ("Tkae a bakcup of orders", &["backup"], &[], false),
            // Nobody who wants data back, a look or fewer backups wants another one.
            ("Restore the backup of orders", &[], &["data engineer"], false),
            ("Restore orders from last night's snapshot", &[], &["data engineer"], false),
            ("Recover orders from the backup of yesterday", &[], &["data engineer"], false),
            ("Delete the old backups of orders", &[], &["data engineer"], false),
            ("Which backups of orders do we have?", &[], &["data engineer"], false),
            ("Please help", &[], &[], false),
            ("Make it good", &[], &[], false),
            ("Apply 0003_x migration but never drop the old column", &["safe-schema-change"], &[], false),
            ("Document the schema of orders", &["inventory"], &[], false),
            ("What indexes exist on orders?", &["inventory"], &[], false),
            ("Why does `SELECT 1 FROM a` need 3 seconds?", &["performance-review"], &[], false),
            ("Deploy 0003_add_status", &["safe-schema-change"], &[], false),
            ("Bring the schema up to date", &["safe-schema-change"], &[], false),
            ("Find items whose order is missing", &["consistency-check"], &[], false),
            ("Are there duplicates in customers?", &["consistency-check"], &[], false),
            ("Is there a row whose parent does not exist?", &["consistency-check"], &[], false),
            ("Ensure data integrity across all storage systems", &["consistency-check"], &[], false),
            (
                "Review performance, check consistency and take inventory",
                &["performance-review", "consistency-check", "inventory"],
                &[],
                false,
            ),
            ("Delete all test customers", &[], &["data engineer"], false),
            ("Truncate the orders table", &[], &["data engineer"], false),
            ("Grant me access to production", &[], &["security"], false),
            ("Rotate the API keys", &[], &["data engineer"], false),
            ("Fix the bug in the login form", &[], &["engineer"], false),
            ("Find the bottleneck, do not touch anything", &["performance-review"], &[], true),
            (
                "Without touching the data, tell whether references are broken",
                &["consistency-check"],
                &[],
                true,
            ),
            (
                "Make sure there are no orphans before we add the foreign key",
                &["consistency-check"],
                &[],
                false,
            ),
            ("Measure `SELECT * FROM migration_schema`, it is slow", &["performance-review"], &[], false),
        ] {
            let (found, owners, forbids, _) = read(text);
            assert_eq!(
                (found, owners, forbids),
                (
                    jobs.iter().map(ToString::to_string).collect(),
                    foreign.iter().map(ToString::to_string).collect(),
                    plan_only
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn a_clause_that_could_be_two_jobs_is_ambiguous() {
        let (jobs, _, _, ambiguous) =
            read("Validate the column references, constraint and schema of orders, broken migration?");
        assert!(ambiguous || !jobs.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_read(text in "\\PC{0,80}") {
            read(&text);
        }
    }
}
