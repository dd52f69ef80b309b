//! Rust source without what only looks like code.

/// What stays of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Code alone.
    Code,
    /// Code and the texts in quotes.
    Strings,
    /// The texts of comments alone.
    Comments,
}

/// The source with everything else blank; every byte and line stays at its place.
pub(crate) fn only(source: &str, keep: Keep) -> String {
    let bytes = source.as_bytes();
    let mut blank = vec![false; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        let (length, part) = token(bytes, at);
        let stays = match part {
            Part::Code => keep != Keep::Comments,
            Part::Text => keep == Keep::Strings,
            Part::Comment => keep == Keep::Comments,
        };
        blank[at..at + length].fill(!stays);
        at += length;
    }
    let kept = bytes.iter().zip(blank).map(|(&byte, blank)| if blank && byte != b'\n' { b' ' } else { byte });
    String::from_utf8(kept.collect()).expect("whole tokens are blanked, so characters stay whole")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Text,
    Comment,
}

/// Length and sort of what begins at `at`.
fn token(bytes: &[u8], at: usize) -> (usize, Part) {
    let rest = &bytes[at..];
    let after_a_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => {
            (rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()), Part::Comment)
        }
        [b'/', b'*', ..] => (block_comment(rest), Part::Comment),
        [b'"', ..] => (quoted(rest), Part::Text),
        [b'r' | b'b' | b'c', ..] if !after_a_word => match raw(rest) {
            Some(length) => (length, Part::Text),
            None => (1, Part::Code),
        },
        [b'\'', ..] => match character(rest) {
            Some(length) => (length, Part::Text),
            None => (1, Part::Code),
        },
        _ => (1, Part::Code),
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `br#"…"#` and the like.
fn raw(rest: &[u8]) -> Option<usize> {
    let prefix = rest.iter().take_while(|byte| b"rbc".contains(byte)).count();
    if rest[prefix - 1] != b'r' || prefix > 2 {
        return None;
    }
    let hashes = rest[prefix..].iter().take_while(|&&byte| byte == b'#').count();
    let begin = prefix + hashes;
    if rest.get(begin) != Some(&b'"') {
        return None;
    }
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let length = rest[begin + 1..].windows(end.len()).position(|window| window == end);
    Some(length.map_or(rest.len(), |length| begin + 1 + length + end.len()))
}

/// `'x'` and `'\n'`, but not the lifetime `'x`.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        let end = rest.iter().skip(3).position(|&byte| byte == b'\'')?;
        return Some(end + 4);
    }
    let length = match rest.get(1)? {
        0..=0x7f => 1,
        0x80..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    (rest.get(1 + length) == Some(&b'\'')).then_some(length + 2)
}

/// Blanks each item that is compiled for tests alone. Takes code without strings and comments.
pub(crate) fn without_tests(code: &str) -> String {
    let mut kept = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) =
        ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|mark| find(&kept, from, mark)).min()
    {
        let end = item_end(&kept, found);
        for byte in &mut kept[found..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        from = end;
    }
    String::from_utf8(kept).expect("whole items are blanked, so characters stay whole")
}

fn find(bytes: &[u8], from: usize, what: &str) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|window| window == what.as_bytes()).map(|at| from + at)
}

/// The end of the item that begins at `from`: after its `;`, or after the brace that closes its first one.
pub(crate) fn item_end(code: &[u8], from: usize) -> usize {
    let mut depth = 0_usize;
    let mut in_parentheses = 0_usize;
    for (at, byte) in code.iter().enumerate().skip(from) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            b'(' | b'[' => in_parentheses += 1,
            b')' | b']' => in_parentheses = in_parentheses.saturating_sub(1),
            b';' if depth == 0 && in_parentheses == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Lines, counted from 1, in which `word` stands as code and not as part of a longer word.
pub(crate) fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let continues =
        |text: Option<char>| text.is_some_and(|character| character.is_alphanumeric() || character == '_');
    let mut lines: Vec<usize> = code
        .match_indices(word)
        .filter(|(at, _)| {
            let starts_inside = word.starts_with(|first: char| first.is_alphanumeric())
                && continues(code[..*at].chars().next_back());
            let ends_inside = word.ends_with(|last: char| last.is_alphanumeric())
                && continues(code[at + word.len()..].chars().next());
            !starts_inside && !ends_inside
        })
        .map(|(at, _)| code[..at].matches('\n').count() + 1)
        .collect();
    lines.dedup();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_comments_and_characters_are_told_from_code() {
        for (source, code) in [
            ("a // b\nc", "a c"),
            ("a /* b /* c */ d */ e", "a e"),
            (r#"f("a \" // b", 'x')"#, "f( , )"),
            ("r#\"a \" b\"# c", "c"),
            (r#"br"\" c"#, "c"),
            (r"'\'' a '\u{1F600}' b", "a b"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("'é' for", "for"),
            ("var\"x\" r#type", "var r#type"),
            ("\"open", ""),
            ("/* open", ""),
            ("b'x' c", "b c"),
            ("bar + car", "bar + car"),
        ] {
            let kept = only(source, Keep::Code);
            assert_eq!(kept.len(), source.len(), "{source}");
            assert_eq!(kept.split_whitespace().collect::<Vec<_>>().join(" "), code, "{source}");
        }
        assert_eq!(only("a(\"b\") // c", Keep::Strings), "a(\"b\")     ");
        assert_eq!(only("a(\"// b\") // c", Keep::Comments), "          // c");
    }

    #[test]
    fn items_for_tests_are_left_out() {
        let code = "a\n#[cfg(test)]\n#[allow(x)]\nmod tests { fn f() { g(); } }\nb #[cfg(test)] use c; d\n#[cfg(test)]\nmod e;";
        let kept: Vec<String> = without_tests(code).split_whitespace().map(str::to_owned).collect();
        assert_eq!(kept, ["a", "b", "d"]);
        assert_eq!(without_tests("#[cfg(test)] const A: [u8; 2] = [1, 2]; b").trim(), "b");
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(lines_with("env::var(x)\nenv::vars()\nmyenv::var(x)", "env::var"), [1]);
        assert_eq!(lines_with("a\nPermit::mint(x)\nP ::mint (x)\nx::minted", "::mint"), [2, 3]);
        assert_eq!(lines_with("print!(a) eprint!(b)", "print!"), [1]);
    }
}
