//! Every format into every other, as files: what goes in, and what came out when someone last looked.
//!
//! `STEWARD_TEST_WRITE_GOLDEN=1 cargo test -p wire --test golden` writes what comes out now; the difference is reviewed like code.

#![allow(clippy::unwrap_used, reason = "functions beside the tests are tests too")]

use bytes::{Bytes, BytesMut};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use wire::sse::Splitter;
use wire::{Embedding, End, Format, Shown, StreamConverter, StreamOptions, Target};

const SHOWN: Shown<'static> = Shown { model: "fast", created_s: 1_760_000_001, seed: 7 };

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The inputs of all formats.
fn inputs(name: &str) -> Vec<(String, Format, Vec<u8>)> {
    inputs_of(name, &Format::ALL.map(|format| (format.name(), format)))
}

/// The inputs: `<kind>-<case>.<ending>`, without the outputs, which have `.to-` in their name. There are some of each kind.
fn inputs_of<K: Copy + PartialEq>(name: &str, kinds: &[(&str, K)]) -> Vec<(String, K, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(folder(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.to_string_lossy().contains(".to-"))
        .map(|path| {
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            let (_, kind) = *kinds.iter().find(|(kind, _)| stem.starts_with(kind)).unwrap();
            (stem, kind, std::fs::read(&path).unwrap())
        })
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    assert!(kinds.iter().all(|(_, kind)| found.iter().any(|(_, from, _)| from == kind)), "{name}");
    found
}

/// JSON with line breaks; numbers and order as they are.
fn readable(json: &[u8]) -> String {
    let (mut out, mut depth, mut in_text, mut escaped) = (String::new(), 0usize, false, false);
    let text = std::str::from_utf8(json).unwrap();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth * 2));
    };
    let mut before = ' ';
    for character in text.chars() {
        if in_text {
            out.push(character);
            in_text = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else {
            match character {
                '{' | '[' => {
                    out.push(character);
                    depth += 1;
                    line(&mut out, depth);
                }
                '}' | ']' => {
                    depth -= 1;
                    if matches!(before, '{' | '[') {
                        out.truncate(out.trim_end().len());
                    } else {
                        line(&mut out, depth);
                    }
                    out.push(character);
                }
                ',' => {
                    out.push(character);
                    line(&mut out, depth);
                }
                ':' => out.push_str(": "),
                other => {
                    in_text = other == '"';
                    out.push(other);
                }
            }
        }
        before = character;
    }
    out.push('\n');
    out
}

fn check(folder_name: &str, file: &str, now: &str, problems: &mut Vec<String>) {
    let path = folder(folder_name).join(file);
    if std::env::var_os("STEWARD_TEST_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, now).unwrap();
        return;
    }
    let then = std::fs::read_to_string(&path).unwrap_or_default();
    if then != now {
        problems.push(format!("{folder_name}/{file} is now:\n{now}"));
    }
}

/// A request as it goes to the provider, with what of it is lost.
fn request(converted: Result<wire::Converted, wire::BadRequest>) -> String {
    match converted {
        Ok(converted) => {
            serde_json::from_slice::<serde_json::Value>(&converted.body).unwrap();
            let mut text = readable(&converted.body);
            for field in converted.dropped {
                writeln!(text, "dropped: {field}").unwrap();
            }
            for field in converted.changed {
                writeln!(text, "changed: {field}").unwrap();
            }
            text
        }
        Err(error) => format!("refused: {error} ({:?})\n", error.field),
    }
}

/// A reply as the client gets it.
fn reply(converted: Result<Vec<u8>, wire::BadReply>) -> String {
    match converted {
        Ok(body) => {
            serde_json::from_slice::<serde_json::Value>(&body).unwrap();
            readable(&body)
        }
        Err(error) => format!("bad: {error}\n"),
    }
}

fn others(from: Format) -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(move |to| *to != from)
}

#[test]
fn requests() {
    let mut problems = Vec::new();
    for (stem, from, body) in inputs("requests") {
        for to in others(from) {
            // The newer generation of Gemini has levels and wants calls signed.
            let model = if to == Format::Gemini && stem.ends_with("everything") {
                "gemini-3-flash"
            } else {
                "model-1"
            };
            let now = request(wire::convert_request(from, to, &body, &Target::new(model)));
            check("requests", &format!("{stem}.to-{to}.txt"), &now, &mut problems);
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn replies() {
    let mut problems = Vec::new();
    for (stem, from, body) in inputs("replies") {
        for to in others(from) {
            let now = reply(wire::convert_reply(from, to, &body, &SHOWN));
            check("replies", &format!("{stem}.to-{to}.txt"), &now, &mut problems);
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The forms of embeddings by name.
const EMBEDDINGS: [(&str, Embedding); 3] = [
    ("openai", Embedding::OpenAi),
    ("gemini-one", Embedding::GeminiOne),
    ("gemini-batch", Embedding::GeminiBatch),
];

#[test]
fn embedding_requests() {
    let mut problems = Vec::new();
    for (stem, from, body) in inputs_of("embeddings", &EMBEDDINGS) {
        for (name, to) in EMBEDDINGS.into_iter().filter(|(_, to)| to.format() != from.format()) {
            let mut now = request(wire::convert_embedding_request(from, to, &body, "embed-1"));
            if from == Embedding::OpenAi && wire::wants_base64(&body) {
                now.push_str("wanted back: base64\n");
            }
            check("embeddings", &format!("{stem}.to-{name}.txt"), &now, &mut problems);
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn embedding_replies() {
    let mut problems = Vec::new();
    for (stem, from, body) in inputs_of("embedding-replies", &EMBEDDINGS) {
        for (name, to) in EMBEDDINGS.into_iter().filter(|(_, to)| to.format() != from.format()) {
            let mut say = |name: &str, base64| {
                let now = reply(wire::convert_embedding_reply(from, to, &body, &SHOWN, base64));
                check("embedding-replies", &format!("{stem}.to-{name}.txt"), &now, &mut problems);
            };
            say(name, false);
            if to == Embedding::OpenAi {
                say("openai-base64", true);
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The formats in which a client may ask for a count.
const COUNTING: [(&str, Format); 2] = [("messages", Format::Messages), ("gemini", Format::Gemini)];

#[test]
fn count_requests() {
    let mut problems = Vec::new();
    for (stem, from, body) in inputs_of("counts", &COUNTING) {
        for to in others(from) {
            let mut now = request(wire::convert_count_request(from, to, &body, &Target::new("model-1")));
            if to == Format::Chat {
                // Nobody else counts for it.
                let input = wire::input_tokens(from, &body);
                writeln!(now, "estimated: {} tokens, at most {}", input.estimate, input.bound).unwrap();
            }
            check("counts", &format!("{stem}.to-{to}.txt"), &now, &mut problems);
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn count_replies() {
    let mut problems = Vec::new();
    let kinds = [COUNTING[0], COUNTING[1], ("responses", Format::Responses)];
    for (stem, from, body) in inputs_of("count-replies", &kinds) {
        for (name, to) in COUNTING {
            let now = match wire::read_count_tokens(from, &body) {
                Some(count) => readable(&wire::count_tokens_reply(to, count)),
                None => "no count\n".to_owned(),
            };
            check("count-replies", &format!("{stem}.to-{name}.txt"), &now, &mut problems);
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn convert(from: Format, to: Format, stream: &[u8], piece_bytes: usize) -> (String, wire::Ending) {
    let options =
        StreamOptions { model: "fast".into(), created_s: 1_760_000_001, seed: 7, include_usage: true };
    let mut converter = StreamConverter::new(from, to, options);
    let (mut splitter, mut out) = (Splitter::new(), BytesMut::new());
    for piece in stream.chunks(piece_bytes) {
        splitter.push(Bytes::copy_from_slice(piece));
        while let Some(event) = splitter.next() {
            converter.push(&event, &mut out);
        }
    }
    while let Some(event) = splitter.finish() {
        converter.push(&event, &mut out);
    }
    let ending = converter.finish(End::Complete, &mut out);
    // What comes after the end is not passed on.
    let length = out.len();
    splitter.push(Bytes::copy_from_slice(stream));
    while let Some(event) = splitter.next() {
        converter.push(&event, &mut out);
    }
    assert_eq!(converter.finish(End::Truncated, &mut out), ending);
    assert_eq!(out.len(), length);
    (String::from_utf8(out.to_vec()).unwrap(), ending)
}

#[test]
fn streams() {
    let mut problems = Vec::new();
    for (stem, from, stream) in inputs("streams") {
        for to in others(from) {
            let (now, ending) = convert(from, to, &stream, usize::MAX);
            assert_eq!(convert(from, to, &stream, 7).0, now, "{stem} to {to}, in pieces of 7 bytes");
            let is_broken =
                ["error", "truncated", "malformed", "failed"].iter().any(|case| stem.ends_with(case));
            assert_eq!(ending == wire::Ending::Error, is_broken, "{stem} to {to}");
            if is_broken {
                for mark in
                    ["[DONE]", "message_stop", "response.completed", "\"STOP\"", "\"stop\"", "end_turn"]
                {
                    assert!(!now.contains(mark), "{stem} to {to} ends with {mark}");
                }
                let last = now.trim_end().rsplit("\n\n").next().unwrap();
                assert!(last.contains("error"), "{stem} to {to}: {last}");
            }
            check("streams", &format!("{stem}.to-{to}.sse"), &now, &mut problems);
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_stream_cut_anywhere_is_never_closed_as_whole() {
    for (stem, from, stream) in inputs("streams") {
        if !stem.ends_with("tools") {
            continue;
        }
        // Before the first sign of the end.
        let text = String::from_utf8(stream.clone()).unwrap();
        let end = ["\"finish_reason\":\"", "\"stop_reason\":\"", "\"finishReason\"", "response.completed"]
            .iter()
            .filter_map(|mark| text.find(mark))
            .min()
            .unwrap();
        for cut in (1..end).step_by(13) {
            for to in others(from) {
                let (now, ending) = convert(from, to, &stream[..cut], usize::MAX);
                assert_eq!(ending, wire::Ending::Error, "{stem} to {to}, cut at {cut}");
                let last = now.trim_end().rsplit("\n\n").next().unwrap();
                assert!(
                    last.contains("the provider's stream stopped before its end"),
                    "{stem} to {to}, cut at {cut}: {last}"
                );
                assert!(
                    !now.contains("[DONE]") && !now.contains("message_stop"),
                    "{stem} to {to}, cut at {cut}"
                );
            }
        }
    }
}
