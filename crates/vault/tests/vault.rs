//! The vault over a real state file.
#![allow(clippy::unwrap_used)] // Also in the functions that the tests share.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use contract::{
    Actor, Context, Error, ErrorKind, Outcome, Permit, Plan, PlanStep, Request, SecretSource, Statement,
    StepMode, TestClock,
};
use ledger::{EventFilter, Keys, Ledger, Options, Write};
use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tempfile::TempDir;
use vault::{KeySource, ListSecrets, MasterKey, PutSecret, RemoveSecret, RotateSecret, Vault};

const VALUE: &str = "correct-horse-battery-staple";

/// A state with its master key, and a clock that stands still.
struct State {
    folder: TempDir,
    master: MasterKey,
    clock: Arc<TestClock>,
    ledger: Ledger,
    vault: Vault,
}

impl State {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let master = MasterKey::create(&KeySource::File(folder.path().join("master.key"))).unwrap();
        let clock = Arc::new(TestClock::at("2026-03-04T02:00:00Z".parse().unwrap()));
        let ledger = open_ledger(folder.path(), &master, &clock).await;
        let vault = Vault::new(ledger.clone(), &master);
        Self { folder, master, clock, ledger, vault }
    }

    fn ctx(&self, project: &str) -> Context {
        Context::new(project, Actor::local()).with_clock(self.clock.clone())
    }

    /// The same state under a master key that is not its own.
    fn with_wrong_key(&self) -> Vault {
        let path = self.folder.path().join("other.key");
        Vault::new(self.ledger.clone(), &MasterKey::create(&KeySource::File(path)).unwrap())
    }

    async fn change(&self, sql: &'static str) {
        let write = Write::new().exec(sql, Vec::new());
        self.ledger.write(&self.ctx("shop"), write).await.unwrap();
    }

    /// Everything that a failed call must leave as it is.
    async fn fingerprint(&self) -> (usize, i64, Vec<String>) {
        let events = self.ledger.events(EventFilter::default()).await.unwrap().len();
        let generation = self.ledger.generation("secrets").await.unwrap();
        let sql = "SELECT project, name, version, hex(data_key) || hex(value) AS sealed FROM secrets ORDER BY 1, 2, 3";
        let rows = self.ledger.query(sql, Vec::new()).await.unwrap();
        let rows = rows
            .iter()
            .map(|row| {
                let (project, name) = (row.get_text("project").unwrap(), row.get_text("name").unwrap());
                let (version, sealed) = (row.get_i64("version").unwrap(), row.get_text("sealed").unwrap());
                format!("{project} {name} {version} {sealed}")
            })
            .collect();
        (events, generation, rows)
    }
}

async fn open_ledger(folder: &Path, master: &MasterKey, clock: &Arc<TestClock>) -> Ledger {
    let options = Options { clock: clock.clone(), ..Options::new(folder.join("audit.head")) };
    open_ledger_with(folder, master, options).await
}

async fn open_ledger_with(folder: &Path, master: &MasterKey, options: Options) -> Ledger {
    let keys = Keys { seal: master.derive("ledger/seal"), sign: master.derive("ledger/sign") };
    Ledger::open(&folder.join("state.db"), keys, options).await.unwrap()
}

fn permit(ctx: &Context, plan: &Plan) -> Permit {
    Permit::mint(ctx, "key.write", &plan.target, plan.digest(), None, Duration::from_mins(1))
}

async fn execute(vault: &Vault, ctx: &Context, plan: &Plan, value: Option<&str>) -> Result<Outcome, Error> {
    vault.execute(ctx, &permit(ctx, plan), plan, value.map(SecretString::from)).await
}

async fn put(vault: &Vault, ctx: &Context, name: &str, value: &str) -> Result<Outcome, Error> {
    let plan = vault.plan_put(ctx, &PutSecret { name: name.into() }).await?;
    execute(vault, ctx, &plan, Some(value)).await
}

async fn rotate(vault: &Vault, ctx: &Context, name: &str, value: &str) -> Result<Outcome, Error> {
    let plan = vault.plan_rotate(ctx, &RotateSecret { name: name.into() }).await?;
    execute(vault, ctx, &plan, Some(value)).await
}

async fn remove(vault: &Vault, ctx: &Context, name: &str, version: Option<i64>) -> Result<Outcome, Error> {
    let plan = vault.plan_remove(ctx, &RemoveSecret { name: name.into(), version }).await?;
    assert!(plan.destructive() && !plan.reversible(), "a removed secret cannot be brought back");
    execute(vault, ctx, &plan, None).await
}

async fn get(vault: &Vault, ctx: &Context, name: &str) -> Result<String, ErrorKind> {
    match vault.secret(ctx, name).await {
        Ok(value) => Ok(value.expose_secret().to_owned()),
        Err(error) => {
            assert!(!error.to_string().contains(VALUE), "{error}");
            Err(error.kind())
        }
    }
}

#[tokio::test]
async fn versions_are_kept_until_removed_and_the_newest_is_read() {
    let state = State::new().await;
    let (vault, ctx) = (&state.vault, &state.ctx("shop"));
    assert_eq!(get(vault, ctx, "orders/password").await, Err(ErrorKind::NotFound));
    assert_eq!(rotate(vault, ctx, "orders/password", "x").await.unwrap_err().kind(), ErrorKind::NotFound);
    let outcome = put(vault, ctx, "orders/password", "first value").await.unwrap();
    assert_eq!(outcome.value, json!({"name": "orders/password", "version": 1}));
    let again = put(vault, ctx, "orders/password", "x").await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert!(again.hint_text().unwrap().contains("secret rotate orders/password"));
    rotate(vault, ctx, "orders/password", "second value").await.unwrap();
    rotate(vault, ctx, "orders/password", "third value").await.unwrap();
    assert_eq!(get(vault, ctx, "orders/password").await.unwrap(), "third value");
    remove(vault, ctx, "orders/password", Some(3)).await.unwrap();
    assert_eq!(get(vault, ctx, "orders/password").await.unwrap(), "second value");
    let error = remove(vault, ctx, "orders/password", Some(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.hint_text().unwrap(), "it has versions 1, 2");
    let outcome = remove(vault, ctx, "orders/password", None).await.unwrap();
    assert_eq!(outcome.text, "removed secret orders/password, versions 1, 2");
    assert_eq!(get(vault, ctx, "orders/password").await, Err(ErrorKind::NotFound));
}

#[tokio::test]
async fn list_shows_versions_and_last_use_without_values() {
    let state = State::new().await;
    let (vault, ctx) = (&state.vault, &state.ctx("shop"));
    assert_eq!(vault.list(ctx, &ListSecrets {}).await.unwrap().text, "no secrets");
    put(vault, ctx, "orders/password", VALUE).await.unwrap();
    put(vault, ctx, "hook", "another value").await.unwrap();
    rotate(vault, ctx, "orders/password", VALUE).await.unwrap();
    state.clock.advance_us(3_600_000_000);
    get(vault, ctx, "orders/password").await.unwrap();
    let outcome = vault.list(ctx, &ListSecrets {}).await.unwrap();
    assert_eq!(
        outcome.text,
        "hook             version 1  written 2026-03-04T02:00Z  never used\n\
         orders/password  version 1, 2  written 2026-03-04T02:00Z  last used 2026-03-04T03:00Z"
    );
    assert_eq!(outcome.value["secrets"][1]["versions"], json!([1, 2]));
    assert!(!outcome.value.to_string().contains(VALUE));
}

#[tokio::test]
async fn last_use_is_written_at_most_once_a_minute() {
    let state = State::new().await;
    let (vault, ctx) = (&state.vault, &state.ctx("shop"));
    put(vault, ctx, "a", VALUE).await.unwrap();
    let begun = ctx.now().as_microsecond();
    for (advance_us, recorded_us) in [(0, begun), (30_000_000, begun), (31_000_000, begun + 61_000_000)] {
        state.clock.advance_us(advance_us);
        get(vault, ctx, "a").await.unwrap();
        let rows = state.ledger.query("SELECT last_used_us FROM secrets", Vec::new()).await.unwrap();
        assert_eq!(rows[0].get_i64("last_used_us").unwrap(), recorded_us, "{advance_us}");
    }
}

#[tokio::test]
async fn wrong_master_key_is_denied_and_nothing_is_written() {
    let state = State::new().await;
    let ctx = &state.ctx("shop");
    put(&state.vault, ctx, "orders/password", VALUE).await.unwrap();
    state.vault.check(ctx).await.unwrap();
    for key_check_is_lost in [false, true] {
        if key_check_is_lost {
            state.change("DELETE FROM meta WHERE name = 'vault_key_check'").await;
        }
        let before = state.fingerprint().await;
        let other = Vault::new(
            state.ledger.clone(),
            &MasterKey::load(&KeySource::Environment { value: SecretString::from("A".repeat(43) + "=") })
                .unwrap(),
        );
        let errors = [
            other.check(ctx).await.unwrap_err(),
            other.get(ctx, "orders/password").await.unwrap_err(),
            put(&other, ctx, "new", "another value").await.unwrap_err(),
            put(&other, &state.ctx("bank"), "new", "another value").await.unwrap_err(),
            rotate(&other, ctx, "orders/password", "another value").await.unwrap_err(),
            remove(&other, ctx, "orders/password", None).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(error.hint_text().unwrap().contains("master.key"), "{error}");
        }
        assert_eq!(state.fingerprint().await, before);
        assert_eq!(get(&state.vault, ctx, "orders/password").await.unwrap(), VALUE);
    }
    rotate(&state.vault, ctx, "orders/password", "with the right key").await.unwrap();
    assert_eq!(get(&state.with_wrong_key(), ctx, "orders/password").await, Err(ErrorKind::Denied));
}

#[tokio::test]
async fn altered_and_moved_rows_are_corrupt() {
    for (what, sql) in [
        ("value", "UPDATE secrets SET value = x'01' || substr(value, 2, 20) || x'00' || substr(value, 22)"),
        ("data key", "UPDATE secrets SET data_key = zeroblob(61)"),
        ("cut", "UPDATE secrets SET value = substr(value, 1, 5)"),
        ("other name", "UPDATE secrets SET name = 'orders/password' WHERE name = 'other'"),
        (
            "other project",
            "UPDATE secrets SET project = 'shop', name = 'orders/password' WHERE project = 'bank'",
        ),
        ("other version", "UPDATE secrets SET version = 2 WHERE name = 'orders/password'"),
        (
            "value of another row",
            "UPDATE secrets SET value = (SELECT value FROM secrets WHERE name = 'other') WHERE name = 'orders/password'",
        ),
    ] {
        let state = State::new().await;
        let ctx = &state.ctx("shop");
        let moves = what.starts_with("other ") && what != "other version";
        if !moves {
            put(&state.vault, ctx, "orders/password", VALUE).await.unwrap();
        }
        put(&state.vault, ctx, "other", VALUE).await.unwrap();
        put(&state.vault, &state.ctx("bank"), "orders/password", VALUE).await.unwrap();
        state.change(sql).await;
        assert_eq!(get(&state.vault, ctx, "orders/password").await, Err(ErrorKind::Corrupt), "{what}");
    }
}

#[tokio::test]
async fn one_project_does_not_see_the_secrets_of_another() {
    let state = State::new().await;
    let (shop, bank) = (&state.ctx("shop"), &state.ctx("bank"));
    put(&state.vault, shop, "orders/password", VALUE).await.unwrap();
    assert_eq!(get(&state.vault, bank, "orders/password").await, Err(ErrorKind::NotFound));
    assert_eq!(state.vault.list(bank, &ListSecrets {}).await.unwrap().text, "no secrets");
    let error = remove(&state.vault, bank, "orders/password", None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    put(&state.vault, bank, "orders/password", "the bank's").await.unwrap();
    assert_eq!(get(&state.vault, shop, "orders/password").await.unwrap(), VALUE);
    assert_eq!(get(&state.vault, bank, "orders/password").await.unwrap(), "the bank's");
    let plan = state.vault.plan_rotate(shop, &RotateSecret { name: "orders/password".into() }).await.unwrap();
    let error = execute(&state.vault, bank, &plan, Some("x-crossing")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
}

#[tokio::test]
async fn only_the_permitted_plan_on_its_pre_state_is_carried_out() {
    let state = State::new().await;
    let (vault, ctx) = (&state.vault, &state.ctx("shop"));
    put(vault, ctx, "a", VALUE).await.unwrap();
    let plan = vault.plan_rotate(ctx, &RotateSecret { name: "a".into() }).await.unwrap();
    let other = vault.plan_put(ctx, &PutSecret { name: "b".into() }).await.unwrap();
    let before = state.fingerprint().await;
    let foreign = permit(ctx, &other);
    let error = vault.execute(ctx, &foreign, &plan, Some(VALUE.into())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    for value in [None, Some(""), Some(&*"x".repeat(70_000))] {
        assert_eq!(execute(vault, ctx, &plan, value).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(state.fingerprint().await, before);
    rotate(vault, ctx, "a", "second value").await.unwrap();
    let error = execute(vault, ctx, &plan, Some("stale")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(get(vault, ctx, "a").await.unwrap(), "second value");
}

#[tokio::test]
async fn of_two_rotations_at_once_one_is_refused() {
    let state = State::new().await;
    let (vault, ctx) = (&state.vault, &state.ctx("shop"));
    put(vault, ctx, "a", VALUE).await.unwrap();
    let plan = vault.plan_rotate(ctx, &RotateSecret { name: "a".into() }).await.unwrap();
    let (one, two) = tokio::join!(
        execute(vault, ctx, &plan, Some("value one")),
        execute(vault, ctx, &plan, Some("value two"))
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert_eq!(one.err().or(two.err()).unwrap().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn changes_are_events_without_values_and_bump_the_generation() {
    let state = State::new().await;
    let (vault, ctx) = (&state.vault, &state.ctx("shop"));
    put(vault, ctx, "a", VALUE).await.unwrap();
    rotate(vault, ctx, "a", VALUE).await.unwrap();
    get(vault, ctx, "a").await.unwrap();
    remove(vault, ctx, "a", Some(1)).await.unwrap();
    let events = state.ledger.events(EventFilter::default()).await.unwrap();
    let told: Vec<String> = events
        .iter()
        .filter(|event| event.kind.starts_with("secret."))
        .map(|event| format!("{} {} {}", event.kind, event.subject, event.body.as_ref().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            r#"secret.put secret:a {"name":"a","version":1}"#,
            r#"secret.rotate secret:a {"name":"a","version":2}"#,
            r#"secret.remove secret:a {"name":"a","version":1}"#,
        ]
    );
    assert_eq!(state.ledger.generation("secrets").await.unwrap(), 3);
}

#[tokio::test]
async fn the_state_on_disk_holds_no_secret() {
    let state = State::new().await;
    let (vault, ctx) = (&state.vault, &state.ctx("shop"));
    put(vault, ctx, "a", VALUE).await.unwrap();
    rotate(vault, ctx, "a", &VALUE.to_uppercase()).await.unwrap();
    state.ledger.flush().await.unwrap();
    let mut bytes = Vec::new();
    for file in state.folder.path().read_dir().unwrap() {
        bytes.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    let holds = |needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
    assert!(holds("vault_key_check"), "the right files were read");
    for form in [VALUE, &VALUE.to_uppercase(), "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ"] {
        assert!(!holds(form), "{form}");
    }
    // The key file is of 32 random bytes; of the state's files none holds it.
    let master = state.master.text();
    for file in ["state.db", "state.db-wal"] {
        let text = std::fs::read(state.folder.path().join(file)).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains(master.expose_secret()), "{file}");
    }
}

#[tokio::test]
async fn what_went_through_the_vault_is_redacted() {
    let state = State::new().await;
    let (vault, ctx) = (&state.vault, &state.ctx("shop"));
    put(vault, ctx, "a", VALUE).await.unwrap();
    let line = format!("password {VALUE}, key {}", state.master.text().expose_secret());
    assert_eq!(vault.redactor().redact(&line), "password [redacted], key [redacted]");
    let fresh = Vault::new(state.ledger.clone(), &state.master);
    assert_eq!(fresh.redactor().redact(VALUE), VALUE);
    get(&fresh, ctx, "a").await.unwrap();
    assert_eq!(fresh.redactor().redact(VALUE), "[redacted]");
    let findings = put(vault, ctx, "short", "12345").await.unwrap().findings;
    assert_eq!(findings[0].code, "short_secret");
    assert!(!format!("{findings:?}").contains("12345"));
}

#[tokio::test]
async fn missing_secrets_of_a_permitted_plan_are_generated_once() {
    let state = State::new().await;
    let (vault, ctx) = (&state.vault, &state.ctx("shop"));
    put(vault, ctx, "orders/steward_reader", VALUE).await.unwrap();
    let mut statement = Statement::new("ALTER ROLE r PASSWORD {{reader}}; ALTER ROLE w PASSWORD {{writer}}");
    statement.secrets.insert("reader".into(), "orders/steward_reader".into());
    statement.secrets.insert("writer".into(), "orders/steward_writer".into());
    let plan = Plan {
        request: "store.setup".into(),
        arguments: json!({"store": "orders"}),
        project: "shop".into(),
        target: "store:orders".into(),
        summary: String::new(),
        steps: vec![PlanStep {
            reversible: true,
            ..PlanStep::new("1", String::new(), StepMode::Transaction, vec![statement])
        }],
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    };
    let made = vault.generate_missing(ctx, &permit(ctx, &plan), &plan).await.unwrap();
    assert_eq!(made, ["orders/steward_writer"]);
    assert_eq!(get(vault, ctx, "orders/steward_reader").await.unwrap(), VALUE);
    let value = get(vault, ctx, "orders/steward_writer").await.unwrap();
    assert_eq!(value.len(), 32);
    assert_eq!(vault.generate_missing(ctx, &permit(ctx, &plan), &plan).await.unwrap(), Vec::<String>::new());
    assert_eq!(get(vault, ctx, "orders/steward_writer").await.unwrap(), value);
    let other = Plan { request: "store.other".into(), ..plan.clone() };
    let error = vault.generate_missing(ctx, &permit(ctx, &plan), &other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
}

#[tokio::test]
async fn plans_are_the_same_in_every_process_and_hold_no_value() {
    let state = State::new().await;
    let ctx = &state.ctx("shop");
    let request = PutSecret { name: "a".into() };
    let first = state.vault.plan_put(ctx, &request).await.unwrap();
    state.clock.advance_us(1_000_000);
    let second = Vault::new(state.ledger.clone(), &state.master).plan_put(ctx, &request).await.unwrap();
    assert_eq!(first.digest(), second.digest());
    assert_eq!((first.request.as_str(), first.target.as_str()), (PutSecret::NAME, "secret:a"));
    assert!(first.reversible() && !first.destructive());
}

#[tokio::test]
async fn state_that_cannot_be_written_still_gives_its_secrets() {
    let state = State::new().await;
    let ctx = &state.ctx("shop");
    put(&state.vault, ctx, "a", VALUE).await.unwrap();
    let State { folder, master, clock, ledger, vault } = state;
    drop((ledger, vault));
    let options =
        Options { clock: clock.clone(), read_only: true, ..Options::new(folder.path().join("audit.head")) };
    let vault = Vault::new(open_ledger_with(folder.path(), &master, options).await, &master);
    assert_eq!(get(&vault, ctx, "a").await.unwrap(), VALUE);
    let error = rotate(&vault, ctx, "a", "another value").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_eq!(get(&vault, ctx, "a").await.unwrap(), VALUE);
}

#[tokio::test]
async fn full_disk_refuses_a_new_version_and_keeps_the_old_one() {
    let state = State::new().await;
    let ctx = &state.ctx("shop");
    put(&state.vault, ctx, "a", VALUE).await.unwrap();
    let State { folder, master, clock, ledger, vault } = state;
    drop((ledger, vault));
    let options = Options {
        clock: clock.clone(),
        pages_max: Some(70),
        ..Options::new(folder.path().join("audit.head"))
    };
    let vault = Vault::new(open_ledger_with(folder.path(), &master, options).await, &master);
    let large = "x".repeat(60_000);
    let mut written = VALUE.to_owned();
    let error = loop {
        let value = format!("{large}{}", written.len());
        match rotate(&vault, ctx, "a", &value).await {
            Ok(_) => written = value,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    assert!(!error.to_string().contains("xxxxxx"), "the value is not shown");
    assert_eq!(get(&vault, ctx, "a").await.unwrap(), written);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn what_was_put_is_got_after_a_restart(
        values in proptest::collection::vec(("[a-z]{1,8}", "[a-z0-9]{1,8}(/[a-z0-9]{1,8})?", "\\PC{1,80}"), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let state = State::new().await;
            let mut expected = std::collections::BTreeMap::new();
            for (project, name, value) in &values {
                let ctx = &state.ctx(project);
                match expected.insert((project, name), value) {
                    None => put(&state.vault, ctx, name, value).await.unwrap(),
                    Some(_) => rotate(&state.vault, ctx, name, value).await.unwrap(),
                };
            }
            let State { folder, master, clock, ledger, vault } = state;
            drop((ledger, vault));
            let ledger = open_ledger(folder.path(), &master, &clock).await;
            let vault = Vault::new(ledger, &master);
            for ((project, name), value) in expected {
                let ctx = Context::new(project, Actor::local()).with_clock(clock.clone());
                assert_eq!(&get(&vault, &ctx, name).await.unwrap(), value);
            }
        });
    }
}
