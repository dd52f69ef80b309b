//! Rotation: every way it can go, and a crash at each step.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use contract::ai::{Failure, FailureClass};
use contract::{Context, ErrorKind, Outcome, Trigger};
use gateway::{Canary, CanaryAnswer, Next, RotateKeys, Rotation, Stage};
use ledger::EventFilter;
use memchr::memmem;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::House;

/// A provider that takes some keys and refuses others.
#[derive(Default)]
struct Provider {
    /// What calls with a key come to, in order; the last one stays. A key that is not here is accepted.
    answers: Mutex<BTreeMap<String, Vec<Result<(), Failure>>>>,
    calls: AtomicUsize,
}

impl Provider {
    fn says(self, key: &str, answers: impl IntoIterator<Item = Result<(), Failure>>) -> Self {
        self.answers.lock().unwrap().insert(key.into(), answers.into_iter().collect());
        self
    }
}

fn refused() -> Result<(), Failure> {
    Err(Failure::new(FailureClass::Key, "Incorrect API key provided"))
}

#[async_trait]
impl Canary for Provider {
    async fn call(
        &self,
        _ctx: &Context,
        provider: &str,
        key: &SecretString,
    ) -> Result<CanaryAnswer, Failure> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        if let Some(answers) = answers.get_mut(key.expose_secret()) {
            let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
            answer?;
        }
        Ok(CanaryAnswer { what: format!("{provider}/model"), status: 200, elapsed: Duration::from_millis(5) })
    }
}

const OLD: &str = "old-key-of-the-provider";
const NEW: &str = "new-key-of-the-provider";

fn request(key: Option<&str>) -> RotateKeys {
    RotateKeys { provider: "openai".into(), key: key.map(str::to_owned), staged: false, overlap_s: None }
}

impl House {
    async fn with_key() -> House {
        let house = House::new().await;
        house.put("openai/main", OLD).await;
        house
    }

    /// The value that serves, and the one that stands by.
    async fn serves(&self, secret: &str) -> (String, Option<String>) {
        let versions = self.vault.versions(&self.ctx, secret).await.unwrap();
        let (current, standby) = self.rotations().serving(&self.ctx).await.unwrap().of(secret, &versions);
        let current = self.vault.version(&self.ctx, secret, current.unwrap()).await.unwrap();
        let standby = match standby {
            Some(version) => {
                Some(self.vault.version(&self.ctx, secret, version).await.unwrap().expose_secret().to_owned())
            }
            None => None,
        };
        (current.expose_secret().to_owned(), standby)
    }

    async fn rotate(
        &self,
        request: &RotateKeys,
        keys: &[&str],
        provider: &Provider,
        value: Option<&str>,
    ) -> Result<Outcome, contract::Error> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let plan = self.rotations().plan(&self.ctx, request, &keys).await?;
        let permit = self.permit(&plan, "key.rotate");
        let value = value.map(SecretString::from);
        self.rotations().rotate(&self.ctx, &permit, &plan, provider, value, &|| false).await
    }

    /// A rotation that was begun, with the new value in the vault or not.
    async fn begun(&self, with_value: bool) -> Rotation {
        let rotation =
            self.rotations().begin(&self.ctx, "openai", "openai/main", Duration::from_mins(1)).await.unwrap();
        if with_value {
            self.put_again("openai/main", NEW).await;
        }
        rotation
    }

    async fn states(&self) -> Vec<Stage> {
        self.rotations().all(&self.ctx).await.unwrap().iter().map(|rotation| rotation.state).collect()
    }

    async fn events(&self) -> Vec<(String, Value)> {
        let filter = EventFilter::project("shop").kind("ai.rotation");
        let events = self.ledger.events(filter).await.unwrap();
        events.into_iter().map(|event| (event.kind, event.body.unwrap_or_default())).collect()
    }
}

fn old() -> (String, Option<String>) {
    (OLD.to_owned(), None)
}

fn new() -> (String, Option<String>) {
    (NEW.to_owned(), None)
}

#[tokio::test]
async fn a_verified_key_takes_over_and_the_proof_is_in_the_ledger() {
    let house = House::with_key().await;
    let provider = Provider::default();
    let outcome = house.rotate(&request(None), &["openai/main"], &provider, Some(NEW)).await.unwrap();
    assert_eq!(house.serves("openai/main").await, new());
    assert!(outcome.text.contains("version 2 serves, version 1 is out of service"), "{}", outcome.text);
    assert!(outcome.text.contains("still takes it: delete it there"), "{}", outcome.text);
    assert!(outcome.findings.iter().all(|finding| finding.escalate.is_none()), "{:?}", outcome.findings);
    let events = house.events().await;
    let kinds: Vec<&str> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "ai.rotation.begun",
            "ai.rotation.added",
            "ai.rotation.overlap",
            "ai.rotation.draining",
            "ai.rotation.done"
        ]
    );
    let steps: Vec<&str> =
        events[4].1["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["add", "canary", "overlap", "drain", "revoke"]);
    assert_eq!(events[4].1["steps"][1]["status"], 200);
    assert_eq!(outcome.evidence.len(), 1);
    house.ledger.flush().await.unwrap();
    let files = house.files();
    assert!(memmem::find(&files, NEW.as_bytes()).is_none() && memmem::find(&files, OLD.as_bytes()).is_none());
    let shown = format!("{} {} {:?} {:?}", outcome.text, outcome.value, outcome.findings, outcome.evidence);
    assert!(!shown.contains(NEW) && !shown.contains(OLD));
}

#[tokio::test]
async fn a_refused_key_leaves_the_old_one_in_service_and_escalates() {
    let house = House::with_key().await;
    let provider = Provider::default().says(NEW, [refused()]);
    let outcome = house.rotate(&request(None), &["openai/main"], &provider, Some(NEW)).await.unwrap();
    assert_eq!(house.serves("openai/main").await, old());
    assert_eq!(house.states().await, [Stage::Failed]);
    assert_eq!(outcome.findings[0].escalate, Some(Trigger::AiApiFailure));
    assert_eq!(provider.calls.load(Ordering::SeqCst), 1, "a refusal is not asked for again");
    // A second try with a good key succeeds, and so does a plain new value of the secret.
    house.wait_s(1);
    house.rotate(&request(None), &["openai/main"], &Provider::default(), Some("better-key")).await.unwrap();
    assert_eq!(house.serves("openai/main").await.0, "better-key");
    house.put_again("openai/main", "by hand").await;
    assert_eq!(house.serves("openai/main").await.0, "by hand");
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_way_are_tried_again_and_count_only_when_they_stay() {
    let fault = || Err(Failure::new(FailureClass::Server, "502"));
    for (answers, done) in [
        (vec![fault(), fault(), Ok(())], true),
        (vec![Err(Failure::new(FailureClass::Overloaded, "529")), Ok(())], true),
        (vec![fault()], false),
        (vec![Err(Failure::new(FailureClass::Timeout, "slow"))], false),
    ] {
        let house = House::with_key().await;
        let provider = Provider::default().says(NEW, answers.clone());
        house.rotate(&request(None), &["openai/main"], &provider, Some(NEW)).await.unwrap();
        let (serves, state) = if done { (new(), Stage::Done) } else { (old(), Stage::Failed) };
        assert_eq!(house.serves("openai/main").await, serves, "{answers:?}");
        assert_eq!(house.states().await, [state], "{answers:?}");
    }
}

#[tokio::test]
async fn while_a_daemon_serves_both_overlap_and_the_old_one_drains() {
    let house = House::with_key().await;
    let (rotations, provider) = (house.rotations(), Provider::default().says(OLD, [refused()]));
    let mut rotation = house.begun(true).await;
    assert_eq!(house.serves("openai/main").await, old(), "nothing serves unverified");
    assert_eq!(rotations.advance(&house.ctx, &mut rotation, &provider, true).await.unwrap(), Next::Go);
    assert_eq!(house.serves("openai/main").await, old(), "nothing serves unverified");
    assert_eq!(rotations.advance(&house.ctx, &mut rotation, &provider, true).await.unwrap(), Next::Go);
    assert_eq!(house.serves("openai/main").await, (NEW.to_owned(), Some(OLD.to_owned())));
    let waits = rotations.advance(&house.ctx, &mut rotation, &provider, true).await.unwrap();
    assert!(matches!(waits, Next::Wait(_)), "{waits:?}");
    house.wait_s(61);
    assert_eq!(rotations.advance(&house.ctx, &mut rotation, &provider, true).await.unwrap(), Next::Go);
    assert_eq!((rotation.state, house.serves("openai/main").await), (Stage::Draining, new()));
    let waits = rotations.advance(&house.ctx, &mut rotation, &provider, true).await.unwrap();
    assert!(matches!(waits, Next::Wait(_)), "calls on the old version are under way: {waits:?}");
    rotations.drained(&house.ctx, &rotation).await.unwrap();
    let ended = rotations.advance_due(&house.ctx, &provider).await.unwrap();
    assert_eq!(ended[0].state, Stage::Done);
    assert!(ended[0].text().contains("refuses it already"), "{}", ended[0].text());
    assert_eq!(ended[0].finding(Vec::new()), None);
}

#[tokio::test]
async fn a_key_that_stops_working_during_the_overlap_is_taken_back() {
    let house = House::with_key().await;
    let provider = Provider::default().says(NEW, [Ok(()), refused()]);
    house.begun(true).await;
    let mut rotation = house.rotations().open(&house.ctx).await.unwrap().remove(0);
    for _ in 0..2 {
        house.rotations().advance(&house.ctx, &mut rotation, &provider, true).await.unwrap();
    }
    house.wait_s(61);
    let ended = house.rotations().advance_due(&house.ctx, &provider).await.unwrap();
    assert_eq!((ended[0].state, house.serves("openai/main").await), (Stage::Failed, old()));
    assert!(ended[0].finding(Vec::new()).is_some_and(|finding| finding.escalate.is_some()));
}

#[tokio::test]
async fn a_crash_at_each_step_is_resumed_or_undone() {
    // Steps that were taken before the process died, the first two being: begun, and begun with the value stored.
    for taken in 0..6 {
        let house = House::with_key().await;
        let keys = ["openai/main".to_owned()];
        let plan = house.rotations().plan(&house.ctx, &request(None), &keys).await.unwrap();
        let provider = Provider::default();
        let mut rotation = house.begun(taken > 0).await;
        for _ in 1..taken {
            house.rotations().advance(&house.ctx, &mut rotation, &provider, false).await.unwrap();
        }
        // Another process, which knows only what is in the state.
        house.rotations().resume(&house.ctx, &plan, &provider, &|| false).await.unwrap();
        let (state, serves) = if taken == 0 { (Stage::Undone, old()) } else { (Stage::Done, new()) };
        assert_eq!(
            (house.states().await, house.serves("openai/main").await),
            (vec![state], serves),
            "{taken}"
        );
        // Once more changes nothing, and the next rotation is not in the way.
        house.rotations().resume(&house.ctx, &plan, &provider, &|| false).await.unwrap();
        assert_eq!(house.states().await, [state], "{taken}");
        house.wait_s(1);
        house.rotate(&request(None), &["openai/main"], &provider, Some("third")).await.unwrap();
        assert_eq!(house.serves("openai/main").await.0, "third", "{taken}");
    }
}

#[tokio::test]
async fn what_nobody_goes_on_with_is_finished_by_the_daemon() {
    let house = House::with_key().await;
    let provider = Provider::default();
    house.begun(true).await;
    assert!(
        house.rotations().advance_due(&house.ctx, &provider).await.unwrap().is_empty(),
        "its process may live"
    );
    assert_eq!(house.states().await, [Stage::Adding]);
    house.wait_s(121);
    house.rotations().advance_due(&house.ctx, &provider).await.unwrap();
    assert_eq!(house.states().await, [Stage::Overlap]);
}

#[tokio::test]
async fn many_keys_are_rotated_one_by_one_and_a_bad_one_stops_nobody() {
    let house = House::with_key().await;
    for name in ["openai/b", "openai/c", "openai/d"] {
        house.put(name, &format!("old of {name}")).await;
    }
    for name in ["openai/main", "openai/b", "openai/c"] {
        house.put(&format!("{name}.next"), &format!("new of {name}")).await;
    }
    let provider = Provider::default().says("new of openai/b", [refused()]);
    let staged = RotateKeys { staged: true, ..request(None) };
    let keys = ["openai/main", "openai/b", "openai/c", "openai/d"];
    let outcome = house.rotate(&staged, &keys, &provider, None).await.unwrap();
    for (name, serves) in [
        ("openai/main", "new of openai/main"),
        ("openai/b", "old of openai/b"),
        ("openai/c", "new of openai/c"),
        ("openai/d", "old of openai/d"),
    ] {
        assert_eq!(house.serves(name).await.0, serves, "{name}");
    }
    let failed: Vec<_> = outcome.findings.iter().filter(|finding| finding.escalate.is_some()).collect();
    assert_eq!(failed.len(), 1, "{:?}", outcome.findings);
    // What was used up is gone; what was refused stays to be looked at.
    assert!(house.vault.versions(&house.ctx, "openai/main.next").await.unwrap().is_empty());
    assert!(!house.vault.versions(&house.ctx, "openai/b.next").await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_clear_is_refused_before_anything_happens() {
    let house = House::with_key().await;
    house.put("openai/b", "another").await;
    let both = ["openai/main", "openai/b"];
    let provider = Provider::default();
    for (request, keys, value, kind) in [
        (request(None), &both[..], Some(NEW), ErrorKind::Invalid),
        (request(Some("openai/x")), &both[..], Some(NEW), ErrorKind::NotFound),
        (request(None), &[][..], Some(NEW), ErrorKind::Invalid),
        (request(None), &["openai/unknown"][..], Some(NEW), ErrorKind::NotFound),
        (RotateKeys { staged: true, ..request(None) }, &both[..], None, ErrorKind::NotFound),
        (
            RotateKeys { overlap_s: Some(u32::MAX), ..request(None) },
            &both[..1],
            Some(NEW),
            ErrorKind::Invalid,
        ),
        (request(Some("openai/main")), &both[..], None, ErrorKind::Invalid),
    ] {
        let error = house.rotate(&request, keys, &provider, value).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{request:?}: {error}");
    }
    house.begun(false).await;
    let error = house.rotate(&request(Some("openai/main")), &both, &provider, Some(NEW)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(provider.calls.load(Ordering::SeqCst), 0);
    assert_eq!(house.serves("openai/main").await, old());
}
