//! Whatever is changed behind the ledger's back is found, at its place.

use contract::{ErrorKind, sha256_hex};
use ledger::{Head, Verified};
use proptest::prelude::*;
use rusqlite::Connection;

use crate::support::{Home, all, ctx, event};

const EVENTS: u64 = 12;
const COLUMNS: [&str; 10] =
    ["id", "project", "at_us", "kind", "actor", "subject", "task", "body_hash", "prev_hash", "hash"];

/// A change of the file, and the first bad entry afterwards.
#[derive(Debug, Clone)]
enum Tampering {
    Edit { seq: u64, column: &'static str, value: String },
    Move { seq: u64 },
    Delete { seq: u64, body_too: bool },
    DeleteBody { seq: u64 },
    EditBody { seq: u64, byte: usize },
    SwapEntries { seq: u64, with: u64 },
    SwapBodies { seq: u64, with: u64 },
    CutTail { from: u64, bodies_too: bool },
    Insert { seq: u64 },
}

impl Tampering {
    fn first_bad(&self) -> u64 {
        match self {
            Tampering::Edit { seq, .. }
            | Tampering::Move { seq }
            | Tampering::Delete { seq, .. }
            | Tampering::DeleteBody { seq }
            | Tampering::EditBody { seq, .. }
            | Tampering::CutTail { from: seq, .. }
            | Tampering::Insert { seq } => *seq,
            Tampering::SwapEntries { seq, with } | Tampering::SwapBodies { seq, with } => *seq.min(with),
        }
    }

    fn apply(&self, raw: &Connection) {
        let run = |sql: &str| raw.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        match self {
            Tampering::Edit { seq, column, value } => {
                let sql = format!("UPDATE events SET {column} = {value} WHERE seq = {seq}");
                assert_eq!(raw.execute(&sql, []).unwrap(), 1, "{sql}");
            }
            Tampering::Move { seq } => run(&format!("UPDATE events SET seq = 1000 WHERE seq = {seq}")),
            Tampering::Delete { seq, body_too } => {
                run(&format!("DELETE FROM events WHERE seq = {seq}"));
                if *body_too {
                    run(&format!("DELETE FROM bodies WHERE seq = {seq}"));
                }
            }
            Tampering::DeleteBody { seq } => run(&format!("DELETE FROM bodies WHERE seq = {seq}")),
            Tampering::EditBody { seq, byte } => {
                let sql = format!("SELECT body FROM bodies WHERE seq = {seq}");
                let mut body: Vec<u8> = raw.query_row(&sql, [], |row| row.get(0)).unwrap();
                let byte = byte % body.len();
                body[byte] ^= 1;
                raw.execute("UPDATE bodies SET body = ? WHERE seq = ?", (body, seq.cast_signed())).unwrap();
            }
            Tampering::SwapEntries { seq, with } => run(&format!(
                "UPDATE events SET seq = -1 WHERE seq = {seq}; UPDATE events SET seq = {seq} WHERE seq = {with};
                 UPDATE events SET seq = {with} WHERE seq = -1;"
            )),
            Tampering::SwapBodies { seq, with } => run(&format!(
                "UPDATE bodies SET seq = -1 WHERE seq = {seq}; UPDATE bodies SET seq = {seq} WHERE seq = {with};
                 UPDATE bodies SET seq = {with} WHERE seq = -1;"
            )),
            Tampering::CutTail { from, bodies_too } => {
                run(&format!("DELETE FROM events WHERE seq >= {from}"));
                if *bodies_too {
                    run(&format!("DELETE FROM bodies WHERE seq >= {from}"));
                }
            }
            Tampering::Insert { seq } => {
                run(&format!(
                    "UPDATE events SET seq = -seq - 1 WHERE seq >= {seq}; UPDATE events SET seq = -seq WHERE seq < 0;
                     UPDATE bodies SET seq = -seq - 1 WHERE seq >= {seq}; UPDATE bodies SET seq = -seq WHERE seq < 0;
                     INSERT INTO events SELECT {seq}, 'forged', project, at_us, kind, actor, subject, task, body_hash,
                         prev_hash, hash FROM events WHERE seq = {seq} + 1;
                     INSERT INTO bodies SELECT {seq}, body FROM bodies WHERE seq = {seq} + 1;"
                ));
            }
        }
    }
}

fn tamperings() -> impl Strategy<Value = Tampering> {
    let seq = || 1..=EVENTS;
    let pair = || (seq(), 1..EVENTS).prop_map(|(a, by)| (a, (a - 1 + by) % EVENTS + 1));
    let value = |column: &'static str| match column {
        "at_us" => prop_oneof![Just("at_us + 1"), Just("at_us - 1"), Just("'never'"), Just("0")].boxed(),
        "task" => prop_oneof![Just("'x'"), Just("x'00'")].boxed(),
        "hash" | "prev_hash" | "body_hash" => prop_oneof![
            Just("replace(upper(hash), '0', '1')"),
            Just("replace(replace(prev_hash, '0', 'f'), '1', 'e')"),
            Just("''"),
        ]
        .boxed(),
        "subject" => prop_oneof![Just("kind"), Just("subject || 'x'"), Just("''")].boxed(),
        _ => prop_oneof![Just("'x'"), Just("subject || 'x'"), Just("''")].boxed(),
    };
    prop_oneof![
        6 => (seq(), proptest::sample::select(&COLUMNS[..])).prop_flat_map(move |(seq, column)| {
            value(column).prop_map(move |value| Tampering::Edit { seq, column, value: value.to_owned() })
        }),
        1 => seq().prop_map(|seq| Tampering::Move { seq }),
        1 => (seq(), any::<bool>()).prop_map(|(seq, body_too)| Tampering::Delete { seq, body_too }),
        1 => seq().prop_map(|seq| Tampering::DeleteBody { seq }),
        2 => (seq(), any::<usize>()).prop_map(|(seq, byte)| Tampering::EditBody { seq, byte }),
        1 => pair().prop_map(|(seq, with)| Tampering::SwapEntries { seq, with }),
        1 => pair().prop_map(|(seq, with)| Tampering::SwapBodies { seq, with }),
        1 => (seq(), any::<bool>()).prop_map(|(from, bodies_too)| Tampering::CutTail { from, bodies_too }),
        1 => seq().prop_map(|seq| Tampering::Insert { seq }),
    ]
}

async fn verify_after(home: &Home, change: impl FnOnce(&Connection)) -> Verified {
    let copy = home.copy();
    change(&copy.raw());
    copy.open().await.verify().await.unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn any_single_change_is_found_at_its_place() {
    let runtime = runtime();
    let home = runtime.block_on(Home::with_events(EVENTS));
    let untouched = runtime.block_on(verify_after(&home, |_| {}));
    assert!(untouched.is_whole(), "{untouched:?}");
    assert_eq!((untouched.events, untouched.head_seq), (EVENTS, Some(EVENTS)));

    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(tampering in tamperings())| {
        let verified = runtime.block_on(verify_after(&home, |raw| tampering.apply(raw)));
        let problem = verified.problem.expect("the change is found");
        prop_assert_eq!(problem.seq, tampering.first_bad(), "{}", problem.why);
    });
}

#[tokio::test]
async fn every_header_column_is_covered() {
    let home = Home::with_events(5).await;
    for column in COLUMNS {
        let value = if column == "at_us" { "at_us + 1" } else { "'edited'" };
        for seq in 1..=5 {
            let tampering = Tampering::Edit { seq, column, value: value.to_owned() };
            let verified = verify_after(&home, |raw| tampering.apply(raw)).await;
            assert_eq!(verified.problem.expect(column).seq, seq, "{column}");
        }
    }
}

/// SHA-256 over the header as `docs` of the format say it, written a second time.
fn rehash(raw: &Connection, seq: i64) {
    let (prev_hash, at_us): (String, i64) = raw
        .query_row("SELECT coalesce((SELECT hash FROM events WHERE seq = ?1 - 1), prev_hash), at_us FROM events WHERE seq = ?1", [seq], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let mut bytes = b"steward.event.1\0".to_vec();
    bytes.extend(seq.to_be_bytes());
    bytes.extend(at_us.to_be_bytes());
    for column in ["id", "project", "kind", "actor", "subject", "task", "body_hash"] {
        let sql = format!("SELECT {column} FROM events WHERE seq = {seq}");
        let text: String = raw.query_row(&sql, [], |row| row.get(0)).unwrap();
        bytes.extend((text.len() as u64).to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes.extend((prev_hash.len() as u64).to_be_bytes());
    bytes.extend(prev_hash.as_bytes());
    raw.execute(
        "UPDATE events SET prev_hash = ?, hash = ? WHERE seq = ?",
        (prev_hash, sha256_hex(&bytes), seq),
    )
    .unwrap();
}

#[tokio::test]
async fn history_rewritten_with_all_its_hashes_is_found_by_the_head() {
    let home = Home::with_events(EVENTS).await;
    let untouched = verify_after(&home, |raw| (1..=12).for_each(|seq| rehash(raw, seq))).await;
    assert!(untouched.is_whole(), "the second implementation agrees: {untouched:?}");
    let rewritten = verify_after(&home, |raw| {
        raw.execute("UPDATE events SET actor = 'person:nobody' WHERE seq = 4", []).unwrap();
        (4..=12).for_each(|seq| rehash(raw, seq));
    })
    .await;
    assert_eq!(rewritten.problem.unwrap().seq, EVENTS);
}

#[tokio::test]
async fn cut_tail_is_found_against_a_copy_even_when_the_head_was_cut_too() {
    let home = Home::with_events(6).await;
    let early = Head::read(&home.head()).unwrap();
    let early_text = std::fs::read(home.head()).unwrap();
    let ledger = home.open().await;
    for number in 7..=9 {
        ledger.append(&ctx(), event(number)).await.unwrap();
    }
    ledger.close().await.unwrap();
    let late = Head::read(&home.head()).unwrap();
    assert_eq!(home.open().await.head().await.unwrap().as_ref(), Some(&late));

    // An older head stays true of the chain.
    assert!(home.open().await.verify_against(&early).await.unwrap().is_whole());
    // Someone cuts the tail and puts the old head back.
    Tampering::CutTail { from: 7, bodies_too: true }.apply(&home.raw());
    std::fs::write(home.head(), early_text).unwrap();
    let ledger = home.open().await;
    assert!(ledger.verify().await.unwrap().is_whole(), "this is what the copy elsewhere is for");
    let verified = ledger.verify_against(&late).await.unwrap();
    assert_eq!(verified.problem.unwrap().seq, 7);
    // Someone goes on writing and reaches the same place.
    for number in 7..=9 {
        ledger.append(&ctx(), event(number)).await.unwrap();
    }
    assert_eq!(ledger.verify_against(&late).await.unwrap().problem.unwrap().seq, 9);
    // A head that this ledger did not sign proves nothing.
    let forged = Head { seq: 2, ..early };
    let verified = ledger.verify_against(&forged).await.unwrap();
    assert!(verified.problem.unwrap().why.contains("not signed"), "{forged:?}");
}

#[tokio::test]
async fn missing_and_damaged_heads_are_told() {
    let home = Home::with_events(3).await;
    for (text, seq) in [(None, 3), (Some(""), 0), (Some("{}"), 0), (Some("\u{0}\u{1}"), 0)] {
        let copy = home.copy();
        match text {
            None => std::fs::remove_file(copy.head()).unwrap(),
            Some(text) => std::fs::write(copy.head(), text).unwrap(),
        }
        let problem = copy.open().await.verify().await.unwrap().problem.unwrap();
        assert_eq!(problem.seq, seq, "{text:?}: {}", problem.why);
    }
    assert!(Home::new().open().await.verify().await.unwrap().is_whole(), "an empty chain needs no head");
}

#[tokio::test]
async fn head_that_the_chain_does_not_know_is_never_overwritten() {
    let home = Home::with_events(5).await;
    Tampering::CutTail { from: 3, bodies_too: true }.apply(&home.raw());
    let before = std::fs::read(home.head()).unwrap();
    let ledger = home.open().await;
    for number in 0..10 {
        ledger.append(&ctx(), event(number)).await.unwrap();
    }
    assert_eq!(std::fs::read(home.head()).unwrap(), before);
    assert_eq!(ledger.verify().await.unwrap().problem.unwrap().seq, 5);
}

#[tokio::test]
async fn chain_is_whole_after_an_erasure_and_only_then() {
    let home = Home::with_events(6).await;
    let ledger = home.open().await;
    ledger.erase_body(&ctx(), 2, "the customer asked").await.unwrap();
    let verified = ledger.verify().await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    assert_eq!((verified.events, verified.bodies, verified.erased), (7, 6, 1));
    let events = all(&ledger).await;
    assert_eq!(events[1].body, None);
    assert_eq!(events[6].kind, "audit.erasure");
    assert_eq!(events[6].body.as_ref().unwrap()["reason"], "the customer asked");

    let other = contract::Context::new("other", contract::Actor::local());
    for (ctx, seq) in [(&ctx(), 2), (&ctx(), 99), (&other, 3)] {
        let error = ledger.erase_body(ctx, seq, "again").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{seq}");
    }
    assert_eq!(all(&ledger).await.len(), 7);
    ledger.append(&ctx(), event(8)).await.unwrap();
    ledger.close().await.unwrap();

    // An erasure permits exactly its own entry, and only entries before it.
    for seq in [1, 3, 7, 8] {
        let verified = verify_after(&home, |raw| Tampering::DeleteBody { seq }.apply(raw)).await;
        assert_eq!(verified.problem.unwrap().seq, seq);
    }
    let unsaid = verify_after(&home, |raw| {
        raw.execute_batch("UPDATE events SET subject = 'event:3' WHERE seq = 7").unwrap();
    });
    assert_eq!(unsaid.await.problem.unwrap().seq, 2);
}

#[tokio::test]
async fn erased_body_is_nowhere_in_the_files() {
    let home = Home::with_events(4).await;
    let sealed: Vec<u8> =
        home.copy().raw().query_row("SELECT body FROM bodies WHERE seq = 3", [], |row| row.get(0)).unwrap();
    let holds = |home: &Home| {
        std::fs::read_dir(home.path().parent().unwrap()).unwrap().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes.windows(sealed.len()).any(|window| window == sealed)
        })
    };
    assert!(holds(&home));
    let ledger = home.open().await;
    ledger.erase_body(&ctx(), 3, "the customer asked").await.unwrap();
    assert!(!holds(&home));
}

/// Someone who has the sealing key exchanges a body: it opens, but is not what the entry was written with.
#[tokio::test]
async fn body_sealed_anew_with_the_right_key_is_found() {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let home = Home::with_events(3).await;
    let seal = |raw: &Connection, plain: &[u8]| {
        let id: String = raw.query_row("SELECT id FROM events WHERE seq = 2", [], |row| row.get(0)).unwrap();
        let belongs_to = [b"steward.body.1\0", &2_i64.to_be_bytes()[..], id.as_bytes()].concat();
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
        let mut body = plain.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key([9; 12]), Aad::from(belongs_to), &mut body)
            .unwrap();
        let body = [&[9; 12], &body[..]].concat();
        raw.execute("UPDATE bodies SET body = ? WHERE seq = 2", [body]).unwrap();
    };
    let verified = verify_after(&home, |raw| seal(raw, b"0123456789abcdef{\"number\":3}")).await;
    let problem = verified.problem.unwrap();
    assert_eq!(problem.seq, 2);
    assert!(problem.why.contains("written with"), "{}", problem.why);
}

#[tokio::test]
async fn entry_with_a_hash_made_anew_is_found_at_the_next() {
    let home = Home::with_events(6).await;
    let verified = verify_after(&home, |raw| {
        raw.execute("UPDATE events SET actor = 'person:nobody' WHERE seq = 3", []).unwrap();
        rehash(raw, 3);
    });
    assert_eq!(verified.await.problem.unwrap().seq, 4);
}

#[tokio::test]
async fn erasure_event_from_before_the_entry_permits_nothing() {
    let home = Home::with_events(2).await;
    let ledger = home.open().await;
    let early = ledger::NewEvent::new("audit.erasure", "event:4", serde_json::json!({}));
    ledger.append(&ctx(), early).await.unwrap();
    ledger.append(&ctx(), event(4)).await.unwrap();
    ledger.close().await.unwrap();
    let verified = verify_after(&home, |raw| Tampering::DeleteBody { seq: 4 }.apply(raw)).await;
    assert_eq!(verified.problem.unwrap().seq, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn body_is_erased_once_and_the_loser_leaves_no_trace() {
    let home = Home::with_events(8).await;
    let ledger = home.open().await;
    for seq in 1..=8 {
        let (a, b) = (ctx(), ctx());
        let (first, second, third) = tokio::join!(
            ledger.erase_body(&a, seq, "first"),
            ledger.erase_body(&b, seq, "second"),
            ledger.append(&a, event(seq)),
        );
        assert!(first.is_ok() != second.is_ok(), "{seq}: {first:?} {second:?}");
        third.unwrap();
    }
    let verified = ledger.verify().await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    assert_eq!((verified.events, verified.erased), (24, 8));
}
