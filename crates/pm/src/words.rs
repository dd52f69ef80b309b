//! Words of a text as the matcher compares them: lower case, stemmed, forgiving of a slip of the keyboard.

/// A word with where it stood, so that a sentence can be quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// As written, in lower case.
    pub(crate) raw: String,
    /// Without its ending.
    pub(crate) stem: String,
}

/// The words of `text`. Letters, digits and underscores make a word; an apostrophe inside one belongs to it.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let inside_apostrophe = matches!(c, '\'' | '’')
            && !word.is_empty()
            && chars.peek().is_some_and(|next| next.is_alphanumeric());
        if c.is_alphanumeric() || c == '_' {
            word.extend(c.to_lowercase());
        } else if inside_apostrophe {
            word.push('\'');
        } else if !word.is_empty() {
            tokens.push(token(std::mem::take(&mut word)));
        }
    }
    if !word.is_empty() {
        tokens.push(token(word));
    }
    tokens
}

fn token(raw: String) -> Token {
    // A migration's name, such as 0003_add_status, says what is meant as well as the word does.
    let stem = if is_migration_name(&raw) { stem("migration") } else { stem(&raw) };
    Token { raw, stem }
}

/// At least three digits, an underscore and a name.
pub(crate) fn is_migration_name(word: &str) -> bool {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    digits >= 3 && word[digits..].starts_with('_') && word.len() > digits + 1
}

/// The word without plural, tense and derivation endings: `indices` and `indexes` become `index`, `migrations`,
/// `migrate` and `migrating` become `migrat`.
pub(crate) fn stem(word: &str) -> String {
    let word = word.strip_suffix("'s").unwrap_or(word);
    if word.chars().any(|c| c.is_ascii_digit() || c == '_') || !word.is_ascii() {
        return word.to_owned();
    }
    if word == "indices" {
        return "index".to_owned();
    }
    let mut stem = word.to_owned();
    if let Some(base) = stem.strip_suffix("ies").filter(|base| base.len() >= 2) {
        stem = format!("{base}y");
    } else if let Some(base) = stem.strip_suffix("es").filter(|base| ends_with_hiss(base)) {
        stem = base.to_owned();
    } else if stem.len() > 3
        && stem.ends_with('s')
        && !["ss", "us", "is"].iter().any(|end| stem.ends_with(end))
    {
        stem.pop();
    }
    for ending in ["ing", "ed", "ion"] {
        if let Some(base) = stem
            .strip_suffix(ending)
            .filter(|base| base.len() >= 4 || (ending != "ion" && has_vowel(base) && base.len() >= 3))
        {
            stem = undouble(base);
            break;
        }
    }
    if stem.len() > 4 && stem.ends_with('e') {
        stem.pop();
    }
    stem
}

fn ends_with_hiss(base: &str) -> bool {
    base.len() >= 3 && ["x", "ch", "sh", "ss", "z"].iter().any(|end| base.ends_with(end))
}

fn has_vowel(base: &str) -> bool {
    base.contains(['a', 'e', 'i', 'o', 'u', 'y'])
}

fn undouble(base: &str) -> String {
    let bytes = base.as_bytes();
    let doubled = bytes.len() >= 2
        && bytes[bytes.len() - 1] == bytes[bytes.len() - 2]
        && !matches!(bytes[bytes.len() - 1], b'l' | b's' | b'e');
    base[..base.len() - usize::from(doubled)].to_owned()
}

/// Whether `written` is probably a slip for `meant`: one edit for five letters and more, two for eight and more.
///
/// The first letters agree or are swapped, since people rarely miss the first key; without this rule `stable` would be
/// read as `table`.
pub(crate) fn is_slip(written: &str, meant: &str) -> bool {
    let letters = meant.chars().count();
    let allowed = match letters {
        0..5 => return false,
        5..8 => 1,
        _ => 2,
    };
    if written.chars().count().abs_diff(letters) > allowed || !same_start(written, meant) {
        return false;
    }
    distance(written, meant) <= allowed
}

fn same_start(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.chars(), b.chars());
    let (a, b) = ((a.next(), a.next()), (b.next(), b.next()));
    a.0 == b.0 || (a.0 == b.1 && a.1 == b.0)
}

/// Edits between two words: insert, delete, replace, swap neighbours (optimal string alignment).
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// The known word nearest to `written`, if it can be a slip: for hints.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    known
        .into_iter()
        .map(|word| (distance(&written, &word.to_lowercase()), word))
        .filter(|(edits, word)| *edits <= 1 + word.chars().count() / 4)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_of_a_word_share_a_stem() {
        for forms in [
            &["index", "indexes", "indices", "indexed", "indexing"][..],
            &["migration", "migrations", "migrate", "migrating", "migrated"],
            &["query", "queries"],
            &["orphan", "orphans", "orphaned"],
            &["table", "tables"],
            &["optimize", "optimized", "optimizing"],
            &["check", "checks", "checked", "checking"],
            &["schema", "schemas"],
            &["change", "changes", "changed", "changing"],
        ] {
            for form in forms {
                assert_eq!(stem(form), stem(forms[0]), "{form}");
            }
        }
    }

    #[test]
    fn slips_are_forgiven_and_other_words_are_not() {
        for (written, meant, slip) in [
            ("idnex", "index", true),
            ("perfomance", "performance", true),
            ("preformence", "performance", true),
            ("consistancy", "consistency", true),
            ("migratoin", "migration", true),
            ("nidex", "index", true),
            ("stable", "table", false),
            ("cable", "table", false),
            ("slot", "slow", false),
        ] {
            assert_eq!(is_slip(written, meant), slip, "{written} for {meant}");
        }
    }

    proptest! {
        #[test]
        fn distance_is_symmetric_and_zero_for_equals(a in "[a-z]{0,9}", b in "[a-z]{0,9}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &a), 0);
        }

        #[test]
        fn any_text_can_be_tokenised(text in "\\PC{0,60}") {
            for token in tokens(&text) {
                prop_assert!(!token.raw.is_empty());
            }
        }
    }
}
