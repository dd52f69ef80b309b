//! Escalations: raised once, delivered signed, retried, acknowledged.

#![allow(clippy::unwrap_used)] // Also in what tests share.

mod support;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use contract::{Context, Error, ErrorKind, Severity, TestClock, Trigger};
use jiff::Timestamp;
use pm::{AcknowledgeEscalation, ListInbox, NewEscalation, Sender, Webhook};
use secrecy::SecretString;
use serde_json::{Value, json};
use support::{ctx, ledger};

fn escalation(key: &str) -> NewEscalation {
    NewEscalation {
        title: "orders lost 12 rows".into(),
        subject: "store:orders".into(),
        evidence: vec!["ev-1".into()],
        dedup_key: key.into(),
        ..NewEscalation::of(Trigger::DataLossRisk)
    }
}

struct Sent {
    url: String,
    signature: String,
    idempotency: String,
    body: Vec<u8>,
}

/// Receives everything, with these statuses in turn; 0 is a connection that fails.
struct Receiver {
    statuses: Mutex<Vec<u16>>,
    sent: Mutex<Vec<Sent>>,
}

impl Receiver {
    fn answering(statuses: &[u16]) -> Self {
        Self { statuses: Mutex::new(statuses.to_vec()), sent: Mutex::default() }
    }
}

#[async_trait]
impl Sender for Receiver {
    async fn post(
        &self,
        _: &Context,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<u16, Error> {
        let header = |name: &str| headers.iter().find(|(key, _)| *key == name).unwrap().1.to_owned();
        self.sent.lock().unwrap().push(Sent {
            url: url.into(),
            signature: header("X-Steward-Signature"),
            idempotency: header("Idempotency-Key"),
            body,
        });
        match self.statuses.lock().unwrap().pop() {
            Some(0) => Err(Error::new(ErrorKind::Unavailable, "connection refused")),
            Some(status) => Ok(status),
            None => Ok(200),
        }
    }
}

fn webhook() -> Webhook {
    Webhook {
        name: "pager".into(),
        url: "https://127.0.0.1/hook".into(),
        secret: SecretString::from("shared"),
    }
}

#[tokio::test]
async fn the_same_escalation_is_counted_until_someone_takes_note() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let first = pm::raise(&ctx(), &ledger, &[], escalation("a")).await.unwrap();
    assert_eq!(pm::raise(&ctx(), &ledger, &[], escalation("a")).await.unwrap(), first);
    assert_ne!(pm::raise(&ctx(), &ledger, &[], escalation("b")).await.unwrap(), first);
    let inbox = pm::list_inbox(&ctx(), &ledger, &ListInbox::default()).await.unwrap();
    assert_eq!(inbox.value["escalations"].as_array().unwrap().len(), 2);
    let seen: Vec<&Value> =
        inbox.value["escalations"].as_array().unwrap().iter().map(|e| &e["seen"]).collect();
    assert!(seen.contains(&&json!(2)));
    assert!(inbox.text.contains("steward inbox ack"));
    let request = AcknowledgeEscalation { escalation: first.clone() };
    pm::acknowledge_escalation(&ctx(), &ledger, &request).await.unwrap();
    let error = pm::acknowledge_escalation(&ctx(), &ledger, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let again = pm::raise(&ctx(), &ledger, &[], escalation("a")).await.unwrap();
    assert_ne!(again, first, "a closed escalation is opened anew");
    let all = pm::list_inbox(&ctx(), &ledger, &ListInbox { all: true }).await.unwrap();
    assert_eq!(all.value["escalations"].as_array().unwrap().len(), 3);
    let other = Context::new("other", contract::Actor::local());
    let empty = pm::list_inbox(&other, &ledger, &ListInbox { all: true }).await.unwrap();
    assert_eq!(empty.value["escalations"], json!([]), "another project sees none of them");
    let events = ledger.events(ledger::EventFilter::project("demo").kind("escalation.")).await.unwrap();
    assert_eq!(events.len(), 4, "three raised, one acknowledged");
}

#[tokio::test]
async fn many_at_once_open_one_escalation() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let ledger = ledger.clone();
        tasks.push(tokio::spawn(
            async move { pm::raise(&ctx(), &ledger, &[], escalation("a")).await.unwrap() },
        ));
    }
    let mut ids = std::collections::BTreeSet::new();
    for task in tasks {
        ids.insert(task.await.unwrap());
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_delivery_is_signed_and_tried_until_it_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let clock = Arc::new(TestClock::at(Timestamp::from_second(1_800_000_000).unwrap()));
    let ctx = ctx().with_clock(clock.clone());
    let id = pm::raise(&ctx, &ledger, &["pager".into()], escalation("a")).await.unwrap();
    // Popped from the end: refused, then an error of the server, then received.
    let receiver = Receiver::answering(&[200, 503, 0]);
    let hooks = [webhook()];
    let round = pm::deliver_due(&ctx, &ledger, &hooks, &receiver).await.unwrap();
    assert_eq!((round.delivered, round.postponed), (0, 1));
    let round = pm::deliver_due(&ctx, &ledger, &hooks, &receiver).await.unwrap();
    assert_eq!(round, pm::Delivered::default(), "nothing is due yet");
    for expected in [(0, 1), (1, 0), (0, 0)] {
        clock.advance_us(60_000_000);
        let round = pm::deliver_due(&ctx, &ledger, &hooks, &receiver).await.unwrap();
        assert_eq!((round.delivered, round.postponed), expected);
    }
    let sent = receiver.sent.lock().unwrap();
    assert_eq!(sent.len(), 3);
    for attempt in sent.iter() {
        assert_eq!(attempt.url, "https://127.0.0.1/hook");
        assert_eq!(attempt.idempotency, format!("{id}:pager"), "the receiver can see that it is the same");
        let (at, signature) = attempt.signature.split_once(",v1=").unwrap();
        let at: i64 = at.strip_prefix("t=").unwrap().parse().unwrap();
        assert_eq!(pm::sign(&SecretString::from("shared"), at, &attempt.body), signature);
        assert_ne!(pm::sign(&SecretString::from("other"), at, &attempt.body), signature);
    }
    let body: Value = serde_json::from_slice(&sent[0].body).unwrap();
    let mut keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "created", "detail", "evidence", "id", "last", "project", "seen", "severity", "subject", "task",
            "title", "trigger", "type", "version"
        ]
    );
    assert_eq!((&body["trigger"], &body["severity"]), (&json!("data_loss_risk"), &json!("critical")));
}

#[tokio::test]
async fn what_was_acknowledged_or_is_unknown_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let receiver = Receiver::answering(&[]);
    let id = pm::raise(&ctx(), &ledger, &["pager".into()], escalation("a")).await.unwrap();
    pm::acknowledge(&ctx(), &ledger, &id).await.unwrap();
    pm::raise(&ctx(), &ledger, &["gone".into()], escalation("b")).await.unwrap();
    let round = pm::deliver_due(&ctx(), &ledger, &[webhook()], &receiver).await.unwrap();
    assert_eq!((round.delivered, round.given_up), (0, 1));
    assert!(receiver.sent.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up_and_the_inbox_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let clock = Arc::new(TestClock::at(Timestamp::from_second(1_800_000_000).unwrap()));
    let ctx = ctx().with_clock(clock.clone());
    pm::raise(&ctx, &ledger, &["pager".into()], escalation("a")).await.unwrap();
    let receiver = Receiver::answering(&[500; 50]);
    let mut given_up = 0;
    for _ in 0..30 {
        clock.advance_us(5_000_000_000);
        given_up += pm::deliver_due(&ctx, &ledger, &[webhook()], &receiver).await.unwrap().given_up;
    }
    assert_eq!(given_up, 1);
    assert_eq!(receiver.sent.lock().unwrap().len(), 12);
    assert_eq!(pm::list(&ctx, &ledger, false).await.unwrap().len(), 1);
}

#[test]
fn findings_that_demand_it_become_escalations() {
    let mut finding = contract::Finding {
        code: "corruption".into(),
        severity: Severity::Critical,
        title: "page 7 is damaged".into(),
        object: "orders".into(),
        recommendation: None,
        evidence: vec!["ev-9".into()],
        escalate: Some(Trigger::DataCorruption),
    };
    let escalation = NewEscalation::of_finding("store:shop", &finding).unwrap();
    assert_eq!(escalation.dedup_key, "corruption:store:shop:orders");
    assert_eq!(escalation.evidence, ["ev-9"]);
    finding.escalate = None;
    assert_eq!(NewEscalation::of_finding("store:shop", &finding), None);
}
