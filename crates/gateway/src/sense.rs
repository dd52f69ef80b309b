//! Whether two questions may have one answer, judged by their words alone. An embedding does not see what this does: to
//! most of them "without sugar" lies next to "with sugar", and 2019 next to 2020.
//!
//! A question is reduced to its sense: the words that can change its answer, in their order. Two questions may share an answer
//! only if their senses are equal. What is left out is a closed list of English words of politeness and grammar;
//! every other word must be there in both. So other languages, names, numbers, dates, units, negations, directions and
//! codes are compared word for word, and what is unknown keeps two questions apart.

/// Longest question that is reduced, in words.
const WORDS_MAX: usize = 64;
/// With fewer words left there is too little to compare.
const WORDS_MIN: usize = 2;

/// Words that change nothing, wherever they stand.
const SILENT: &[&str] = &[
    "a", "an", "the", "please", "kindly", "me", "my", "i", "we", "our", "you", "is", "are", "am", "be",
    "thanks", "thank",
];
/// Words that only lead to a question.
const LEADING: &[&str] = &[
    "hi",
    "hello",
    "hey",
    "can",
    "could",
    "would",
    "will",
    "tell",
    "explain",
    "know",
    "like",
    "want",
    "need",
    "to",
    "show",
    "help",
    "understand",
    "wonder",
    "wondering",
    "quick",
    "question",
];
/// Words that ask.
const QUESTIONS: &[&str] = &["what", "who", "when", "where", "why", "how", "which", "whose", "whom"];
/// Words that help a question word, right after it.
const HELPING: &[&str] = &["do", "does", "can", "could", "to"];
/// Words before "I" that make it the one who asks; after others it counts.
const BEFORE_I: &[&str] = &[
    "do", "did", "can", "could", "should", "would", "will", "may", "might", "must", "am", "was", "have",
    "had", "if", "when", "what", "how", "why", "where", "that", "and", "as", "because", "while", "before",
    "after", "until", "since", "than", "then", "please", "hi", "hello",
];
/// Who asks, and who is asked: where both are left, it matters who does what to whom.
const FIRST_PERSON: &[&str] = &["i", "me", "my", "we", "our"];
const SECOND_PERSON: &[&str] = &["you", "your", "yours"];
/// Where the words after `of` end.
const BOUNDS: &[&str] = &[
    "in", "on", "at", "by", "for", "with", "without", "from", "to", "into", "before", "after", "than", "and",
    "or", "not", "of", "as", "if", "when", "where", "during", "since", "until", "between", "under", "over",
];
/// Questions about words themselves: there none of them is silent.
const ABOUT_WORDS: &[&str] = &[
    "word",
    "words",
    "letter",
    "letters",
    "phrase",
    "sentence",
    "spell",
    "spelled",
    "spelling",
    "mean",
    "means",
    "meaning",
    "translate",
    "translation",
    "pronounce",
    "synonym",
    "grammar",
    "rhyme",
    "rhymes",
    "article",
    "pronoun",
];
/// Words that mean the same.
const ALIKE: &[(&str, &str)] = &[
    ("begin", "start"),
    ("commence", "start"),
    ("e-mail", "email"),
    ("purchase", "buy"),
    ("repair", "fix"),
    ("whats", "what"),
];

/// What a question asks, as the words that can change its answer.
///
/// `None`: it is too long or too short to tell, or about words.
pub(crate) fn sense(text: &str) -> Option<String> {
    let mut words = words(text)?;
    if words.iter().any(|word| ABOUT_WORDS.contains(&word.as_str())) {
        return None;
    }
    let is = |list: &[&str], word: &String| list.contains(&word.as_str());
    // "Could you tell me how …" asks how; without a question word only what comes before the request itself goes.
    let asks = words.iter().position(|word| is(QUESTIONS, word));
    let polite = words.iter().take_while(|word| is(SILENT, word) || is(LEADING, word)).count();
    match asks {
        Some(at) if polite >= at => drop(words.drain(..at)),
        None if words.first().is_some_and(|word| ["please", "can", "could"].contains(&word.as_str())) => {
            let said =
                words.iter().take_while(|word| ["please", "can", "could", "you"].contains(&word.as_str()));
            // "Can dogs swim" asks whether; only with "you" it is a request.
            let count = said.clone().count();
            if said.clone().any(|word| word == "you") || words[0] == "please" {
                words.drain(..count);
            }
        }
        _ => {}
    }
    if words.iter().any(|word| is(FIRST_PERSON, word)) && words.iter().any(|word| is(SECOND_PERSON, word)) {
        return None;
    }
    let mut kept: Vec<String> = Vec::with_capacity(words.len());
    let mut after_question = false;
    for (at, word) in words.into_iter().enumerate() {
        let helps = after_question && is(HELPING, &word);
        after_question = is(QUESTIONS, &word);
        // At the beginning "is" and "are" ask whether.
        if helps || is(SILENT, &word) && !(at == 0 && ["is", "are", "am"].contains(&word.as_str())) {
            continue;
        }
        let alike = ALIKE.iter().find(|(one, _)| *one == word);
        kept.push(alike.map_or(word, |(_, other)| (*other).to_owned()));
    }
    turn(&mut kept);
    (kept.len() >= WORDS_MIN).then(|| kept.join(" "))
}

/// "The capital of France" is "France's capital": the word before `of` goes behind those after it.
fn turn(words: &mut Vec<String>) {
    while let Some(of) = words.iter().rposition(|word| word == "of") {
        let ends = words[of + 1..].iter().position(|word| BOUNDS.contains(&word.as_str()));
        let end = ends.map_or(words.len(), |more| of + 1 + more);
        if of == 0 || end == of + 1 || QUESTIONS.contains(&words[of - 1].as_str()) {
            // Nothing to turn; kept under another name, so that this ends.
            words[of] = "of ".into();
            continue;
        }
        words.remove(of);
        words[of - 1..end - 1].rotate_left(1);
    }
}

/// The words in lower case, contractions in full; numbers, codes and signs as they are. `None`: too many, or something is
/// quoted, so that it is meant literally.
fn words(text: &str) -> Option<Vec<String>> {
    let text = text.replace('\u{2019}', "'");
    let characters: Vec<char> = text.trim().chars().collect();
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let is_part = |at: usize| characters.get(at).is_some_and(|next| next.is_alphanumeric());
    for (at, &character) in characters.iter().enumerate() {
        let digit =
            |at: Option<usize>| at.and_then(|at| characters.get(at)).is_some_and(char::is_ascii_digit);
        let (before, after) = (at.checked_sub(1), Some(at + 1));
        // What is quoted is meant literally; brackets, factorials and a point in front belong to a calculation.
        if "\"`\u{201c}\u{201d}\u{2018}\u{ab}\u{bb}()".contains(character)
            || character == '\'' && !(at > 0 && is_part(at - 1))
            || character == '!' && digit(before)
            || character == '.' && digit(after) && !digit(before)
        {
            return None;
        }
        let inside = at > 0 && is_part(at - 1) && is_part(at + 1);
        let numbers = inside && characters[at - 1].is_ascii_digit() && characters[at + 1].is_ascii_digit();
        if character.is_alphanumeric()
            || character == '_'
            || inside && ".'-".contains(character)
            || numbers && ",:".contains(character)
        {
            word.push(character);
            continue;
        }
        finish(&mut word, &mut words);
        if !character.is_whitespace() && !".,!?;:'".contains(character) {
            words.push(character.to_string());
        }
    }
    finish(&mut word, &mut words);
    (words.len() <= WORDS_MAX).then_some(words)
}

/// Adds a word that has ended: in lower case, contractions in full.
fn finish(word: &mut String, words: &mut Vec<String>) {
    if word.is_empty() {
        return;
    }
    let written = std::mem::take(word);
    let lower = written.to_lowercase();
    let is_listed =
        |word: &str| [SILENT, LEADING, QUESTIONS, HELPING, BOUNDS].iter().any(|list| list.contains(&word));
    // "5 Mb" is not "5 MB".
    if words.last().is_some_and(|word| word.starts_with(|first: char| first.is_ascii_digit())) {
        words.push(written);
        return;
    }
    // "plan A", "type I".
    let is_pronoun = |word: &String| BEFORE_I.contains(&word.as_str());
    if written == "A" && !words.is_empty() || written == "I" && !words.last().is_none_or(is_pronoun) {
        words.push(written);
        return;
    }
    // "IT", "US" and "WHO" are names.
    if written.len() > 1
        && written.chars().all(char::is_uppercase)
        && (is_listed(&lower) || ["it", "us"].contains(&lower.as_str()))
    {
        words.push(written);
        return;
    }
    let (stem, more) = match lower.as_str() {
        "cannot" | "can't" => ("can", Some("not")),
        "won't" => ("will", Some("not")),
        other => match other.split_once('\'') {
            Some((stem, "t")) if stem.ends_with('n') => (&stem[..stem.len() - 1], Some("not")),
            // "What's" and "France's": is and has say nothing here, and neither does the owner's mark.
            Some((stem, "s" | "re" | "m")) => (stem, None),
            Some((stem, "ll")) => (stem, Some("will")),
            Some((stem, "ve")) => (stem, Some("have")),
            Some((stem, "d")) => (stem, Some("would")),
            _ => (other, None),
        },
    };
    words.push(stem.to_owned());
    words.extend(more.map(str::to_owned));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_with_one_answer_have_one_sense() {
        for (one, other) in [
            ("What is the capital of France?", "what's France's capital"),
            ("How do I reset my password?", "How to reset the password"),
            ("Could you please tell me how to boil an egg?", "how do you boil an egg"),
            ("What is the population of New York in 2020?", "What is New York's population in 2020?"),
            ("Please summarise the French Revolution", "Can you summarise the French Revolution?"),
            ("Where can I purchase stamps?", "where do I buy stamps"),
        ] {
            assert_eq!(sense(one), sense(other), "{one} / {other}");
            assert!(sense(one).is_some(), "{one}");
        }
    }

    #[test]
    fn questions_with_two_answers_have_two() {
        for (one, other) in [
            ("What is the capital of France?", "What is the capital of Spain?"),
            ("How many days are in 2019?", "How many days are in 2020?"),
            ("Is it safe to mix these?", "Is it not safe to mix these?"),
            ("Why doesn't it work?", "Why does it work?"),
            ("Convert 5 euros to dollars", "Convert 5 dollars to euros"),
            ("Does the cat chase the dog?", "Does the dog chase the cat?"),
            ("Who was the president?", "Who is the president?"),
            ("What does a compiler do?", "What is a compiler?"),
            ("When was the tower built?", "Where was the tower built?"),
            ("What is 3.5 kg in pounds?", "What is 3.5 km in pounds?"),
            ("What is -5 plus 3?", "What is 5 plus 3?"),
            ("Is C++ compiled?", "Is C compiled?"),
            ("Who founded WHO?", "Who founded who?"),
            ("Can dogs eat grapes?", "Should dogs eat grapes?"),
            ("Coffee with milk, how much?", "Coffee without milk, how much?"),
            ("child of the president", "president of the child"),
            ("What is a type I error?", "What is a type error?"),
            ("What does plan A cost?", "What does the plan cost?"),
            ("How many bytes are 5 Mb?", "How many bytes are 5 MB?"),
            ("What is 2 mW in W?", "What is 2 MW in W?"),
        ] {
            assert_ne!(sense(one), sense(other), "{one} / {other}");
        }
    }

    #[test]
    fn pairs_that_may_not_share_an_answer_have_other_senses() {
        let mut count = 0;
        for line in include_str!("../tests/gateway/pairs.csv").lines().filter(|line| line.starts_with("no,"))
        {
            let Some((one, other)) = line.splitn(3, ',').nth(2).and_then(|pair| pair.split_once("?,")) else {
                continue;
            };
            let (one, other) = (sense(one), sense(other));
            assert!(one.is_none() || one != other, "{line}");
            count += 1;
        }
        assert!(count > 40, "{count}");
    }

    #[test]
    fn what_is_not_reduced() {
        for text in [
            "hello",
            "",
            "who are you",
            "What does 'the' mean?",
            "What is \"a\"?",
            "Translate the house",
            "How is a spelled?",
            "What is (2+3)*4?",
            "What is 5! plus 3?",
            "What is .5 * 4?",
            "When do I pay you?",
            "When do you pay me?",
        ] {
            assert_eq!(sense(text), None, "{text}");
        }
        assert_eq!(sense(&"many words ".repeat(40)), None);
    }
}
