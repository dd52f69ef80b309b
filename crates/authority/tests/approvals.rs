//! People, approvals and tokens on a real ledger; forgeries are raw SQL, as a program of the same user would write it.

#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::sync::Arc;

use authority::{
    AddPerson, ApprovalState, Approvals, Approved, Authority, CreateToken, Decision, DenyApproval, Facts,
    GrantApproval, ListApprovals, People, Question, RemovePerson, RevokeToken, ShowApproval, Terminal,
    Tokens, WRONG_PASSPHRASES_MAX,
};
use contract::{
    Actor, ActorKind, Context, Error, ErrorKind, Plan, PlanDigest, PlanStep, Role, Statement, StepMode,
    TestClock,
};
use jiff::Timestamp;
use ledger::{EventFilter, Keys, Ledger, NewEvent, Options, Write};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use serde_json::json;

const ANNA: &str = "anna has 4 good words";
const BERT: &str = "bert likes 17 tulips";
const HOUR_US: i64 = 3_600_000_000;

struct House {
    folder: tempfile::TempDir,
    ledger: Ledger,
    clock: Arc<TestClock>,
    ctx: Context,
    people: People,
    approvals: Approvals,
    authority: Authority,
}

async fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
    let options = Options::new(folder.path().join("audit.head"));
    let ledger = Ledger::open(&folder.path().join("state.db"), keys, options).await.unwrap();
    let clock = Arc::new(TestClock::at("2026-03-04T05:06:07Z".parse().unwrap()));
    let ctx = Context::new("shop", Actor::local()).with_clock(clock.clone());
    House {
        people: People::new(ledger.clone()),
        approvals: Approvals::new(ledger.clone()),
        authority: Authority::built_in().unwrap(),
        ledger,
        clock,
        ctx,
        folder,
    }
}

fn secret(text: &str) -> SecretString {
    SecretString::from(text)
}

fn plan(sql: &str) -> Plan {
    Plan {
        request: "retention.set".into(),
        arguments: json!({"store": "orders"}),
        project: "shop".into(),
        target: "store:orders".into(),
        summary: format!("runs {sql}"),
        steps: vec![PlanStep {
            reversible: true,
            ..PlanStep::new("1", "the only step", StepMode::Transaction, vec![Statement::new(sql)])
        }],
        pre_state: "abc".into(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    }
}

fn question() -> Question {
    Question::new("retention.change", "store:orders")
}

impl House {
    async fn add(
        &self,
        name: &str,
        roles: &[Role],
        passphrase: &str,
        voucher: Option<(&str, &str)>,
    ) -> Result<(), Error> {
        let request = AddPerson {
            name: name.into(),
            role: roles.to_vec(),
            vouched_by: voucher.map(|(name, _)| name.to_owned()),
        };
        self.people
            .add(&self.ctx, &request, secret(passphrase), voucher.map(|(_, p)| secret(p)))
            .await
            .map(drop)
    }

    async fn anna(&self) {
        self.add("anna", &[Role::Pm], ANNA, None).await.unwrap();
    }

    fn agent(&self) -> Context {
        self.ctx.clone().with_actor(Actor::new(ActorKind::Agent, "ci", [Role::Requester]))
    }

    async fn ask(&self, ctx: &Context, plan: &Plan) -> String {
        self.approvals.request(ctx, &question(), plan, &[Role::Pm]).await.unwrap().id
    }

    async fn grant_as(
        &self,
        ctx: &Context,
        id: &str,
        person: &str,
        passphrase: &str,
    ) -> Result<String, Error> {
        let request = GrantApproval { id: id.into(), person: Some(person.into()) };
        let outcome = self.approvals.grant(ctx, &request, secret(passphrase), Terminal::Yes).await?;
        Ok(outcome.value["record"]["independence"].as_str().unwrap().to_owned())
    }

    async fn granted(&self, plan: &Plan) -> String {
        let id = self.ask(&self.agent(), plan).await;
        self.grant_as(&self.ctx, &id, "anna", ANNA).await.unwrap();
        id
    }

    async fn consume(&self, approved: &[Approved]) -> Result<(), Error> {
        let write = self.approvals.consume(&self.ctx, Write::new(), approved);
        self.ledger.write(&self.ctx, write).await.map(drop)
    }

    async fn raw(&self, sql: &'static str) {
        self.ledger.write(&self.ctx, Write::new().exec(sql, vec![])).await.unwrap();
    }

    async fn refusal(&self, id: &str, plan: &PlanDigest) -> String {
        self.approvals.verify(&self.agent(), id, plan).await.unwrap_err().message().to_owned()
    }
}

#[tokio::test]
async fn an_approval_opens_exactly_one_plan_once() {
    let house = house().await;
    house.anna().await;
    let plan = plan("SELECT 1");
    let agent = house.agent();

    let decision = house.authority.decide(&agent, &question(), &[]);
    let Decision::NeedsApproval { roles, .. } = decision else { panic!("{decision:?}") };
    let error = house.authority.permit(&agent, &question(), &plan, &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NeedsApproval);

    let waiting = house.approvals.request(&agent, &question(), &plan, &roles).await.unwrap();
    let again = house.approvals.request(&agent, &question(), &plan, &roles).await.unwrap();
    assert_eq!(waiting.id, again.id, "asking twice opens one approval");
    assert!(house.approvals.find_granted(&agent, &plan.digest()).await.unwrap().is_empty());

    assert_eq!(house.grant_as(&house.ctx, &waiting.id, "anna", ANNA).await.unwrap(), "second_person");
    let approved = house.approvals.find_granted(&agent, &plan.digest()).await.unwrap();
    let permit = house.authority.permit(&agent, &question(), &plan, &approved).unwrap();
    assert_eq!(permit.approval(), Some(waiting.id.as_str()));
    permit.covers(&agent, &plan).unwrap();

    house.consume(&approved).await.unwrap();
    assert_eq!(house.consume(&approved).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(house.approvals.find_granted(&agent, &plan.digest()).await.unwrap().is_empty());
    assert_eq!(house.refusal(&waiting.id, &plan.digest()).await, "the approval was used before");
    let kinds: Vec<String> = house
        .ledger
        .events(EventFilter::project("shop").kind("approval."))
        .await
        .unwrap()
        .into_iter()
        .map(|event| event.kind)
        .collect();
    assert_eq!(kinds, ["approval.requested", "approval.granted", "approval.used"]);
    assert!(house.ledger.verify().await.unwrap().is_whole());
}

#[tokio::test]
async fn a_changed_plan_is_refused() {
    let house = house().await;
    house.anna().await;
    let (first, second) = (plan("SELECT 1"), plan("SELECT 2"));
    let id = house.granted(&first).await;
    let approved = house.approvals.find_granted(&house.agent(), &first.digest()).await.unwrap();
    assert!(house.approvals.find_granted(&house.agent(), &second.digest()).await.unwrap().is_empty());
    assert_eq!(house.refusal(&id, &second.digest()).await, "the approval is for another plan");
    let error = house.authority.permit(&house.agent(), &question(), &second, &approved).unwrap_err();
    assert_eq!(error.message(), "the approval is for another plan");
    // The same statements on another state are another plan.
    let mut moved = first.clone();
    moved.pre_state = "def".into();
    let error = house.authority.permit(&house.agent(), &question(), &moved, &approved).unwrap_err();
    assert_eq!(error.message(), "the approval is for another plan");
}

#[tokio::test]
async fn an_expired_approval_is_refused() {
    let house = house().await;
    house.anna().await;
    let plan = plan("SELECT 1");
    let id = house.granted(&plan).await;
    let approved = house.approvals.find_granted(&house.agent(), &plan.digest()).await.unwrap();
    house.clock.advance_us(25 * HOUR_US);
    assert_eq!(house.refusal(&id, &plan.digest()).await, "the approval has expired");
    assert!(house.approvals.find_granted(&house.agent(), &plan.digest()).await.unwrap().is_empty());
    let error = house.authority.permit(&house.agent(), &question(), &plan, &approved).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NeedsApproval, "one that was read earlier has expired too");
    // A longer time in the row changes nothing: the signed time counts.
    house.raw("UPDATE approvals SET expires_us = 9000000000000000").await;
    assert_eq!(house.refusal(&id, &plan.digest()).await, "the approval has expired");
    house.raw("UPDATE approvals SET expires_us = 0").await;
    assert_eq!(house.approvals.expire(&house.ctx).await.unwrap(), 1);
    assert_eq!(house.approvals.get(&house.ctx, &id).await.unwrap().state, ApprovalState::Expired);
}

#[tokio::test]
async fn what_waits_too_long_is_not_granted() {
    let house = house().await;
    house.anna().await;
    let id = house.ask(&house.agent(), &plan("SELECT 1")).await;
    house.clock.advance_us(25 * HOUR_US);
    let error = house.grant_as(&house.ctx, &id, "anna", ANNA).await.unwrap_err();
    assert_eq!(error.message(), "the approval does not wait; it is expired");
}

#[tokio::test]
async fn a_replayed_approval_is_refused_even_after_its_row_was_reset() {
    let house = house().await;
    house.anna().await;
    let plan = plan("SELECT 1");
    let id = house.granted(&plan).await;
    let approved = house.approvals.find_granted(&house.agent(), &plan.digest()).await.unwrap();
    house.consume(&approved).await.unwrap();
    house.raw("UPDATE approvals SET state = 'granted', used_us = NULL").await;
    assert_eq!(house.refusal(&id, &plan.digest()).await, "the approval was used before");
    let error = house.approvals.find_granted(&house.agent(), &plan.digest()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
}

#[tokio::test]
async fn forged_approvals_are_refused() {
    const EDITED_ROW: &str = "the approval is forged: the row differs from what was signed";
    const SIGNATURE: &str = "the approval is forged: the signature does not match";
    for (sql, message) in [
        (
            "UPDATE approvals SET state = 'granted', record = NULL",
            "the approval is forged: it was never signed",
        ),
        ("UPDATE approvals SET signature = NULL", "the approval is forged: it was never signed"),
        ("UPDATE approvals SET signature = 'AAAA'", SIGNATURE),
        ("UPDATE approvals SET signature = 'not base64 at all'", SIGNATURE),
        ("UPDATE approvals SET record = '{}'", "the approval is forged: its record cannot be read"),
        ("UPDATE approvals SET record = replace(record, '\"pm\"', '\"security\"')", SIGNATURE),
        ("UPDATE approvals SET record = replace(record, '2026', '2029')", SIGNATURE),
        ("UPDATE approvals SET record = replace(record, '\"uses\":1', '\"uses\":9')", SIGNATURE),
        ("UPDATE approvals SET record = replace(record, 'second_person', 'self_confirmed')", SIGNATURE),
        ("UPDATE approvals SET action = 'ai.budget.raise'", EDITED_ROW),
        ("UPDATE approvals SET subject = 'store:other'", EDITED_ROW),
        ("UPDATE approvals SET approver = 'bert'", EDITED_ROW),
        ("UPDATE approvals SET request = 'store.drop'", EDITED_ROW),
        ("UPDATE people SET public_key = 'AAAA'", "the record of `anna` does not agree with the audit trail"),
        (
            "UPDATE people SET roles = '[\"pm\",\"security\"]'",
            "the record of `anna` does not agree with the audit trail",
        ),
        ("DELETE FROM people", "the approver is unknown or was removed"),
    ] {
        let house = house().await;
        house.anna().await;
        let plan = plan("SELECT 1");
        let id = house.granted(&plan).await;
        assert!(house.approvals.verify(&house.agent(), &id, &plan.digest()).await.is_ok());
        house.raw(sql).await;
        assert_eq!(house.refusal(&id, &plan.digest()).await, message, "{sql}");
        let found = house.approvals.find_granted(&house.agent(), &plan.digest()).await;
        assert_eq!(found.unwrap_err().kind(), ErrorKind::Forbidden, "{sql}");
    }
}

#[tokio::test]
async fn a_record_for_one_approval_does_not_serve_another() {
    let house = house().await;
    house.anna().await;
    let (first, second) = (plan("SELECT 1"), plan("SELECT 2"));
    house.granted(&first).await;
    let other = house.ask(&house.agent(), &second).await;
    house
        .raw(
            "UPDATE approvals SET state = 'granted', approver = 'anna', \
             record = (SELECT record FROM approvals WHERE record IS NOT NULL), \
             signature = (SELECT signature FROM approvals WHERE signature IS NOT NULL) WHERE state = 'waiting'",
        )
        .await;
    assert_eq!(house.refusal(&other, &second.digest()).await, "the approval is for another plan");
    // Nor does a row that was moved to the plan that was approved.
    house.raw("UPDATE approvals SET plan_digest = (SELECT plan_digest FROM approvals ORDER BY created_us LIMIT 1)").await;
    assert_eq!(
        house.refusal(&other, &first.digest()).await,
        "the approval is forged: the row differs from what was signed"
    );
    // Nor one that was moved to another project.
    house.raw("UPDATE approvals SET project = 'billing'").await;
    house.raw("UPDATE people SET project = 'billing'").await;
    let billing = Context::new("billing", Actor::local()).with_clock(house.clock.clone());
    let error = house.approvals.find_granted(&billing, &first.digest()).await.unwrap_err();
    assert_eq!(error.message(), "the record of `anna` does not agree with the audit trail");
}

#[tokio::test]
async fn a_person_written_into_the_table_is_unknown() {
    let house = house().await;
    house.anna().await;
    house
        .raw(
            "INSERT INTO people (project, name, roles, public_key, sealed_key, added_us) \
             SELECT project, 'mallory', roles, public_key, sealed_key, added_us FROM people",
        )
        .await;
    let id = house.ask(&house.agent(), &plan("SELECT 1")).await;
    let error = house.grant_as(&house.ctx, &id, "mallory", ANNA).await.unwrap_err();
    assert_eq!(error.message(), "the record of `mallory` does not agree with the audit trail");
}

#[tokio::test]
async fn a_removed_person_no_longer_counts() {
    let house = house().await;
    house.anna().await;
    house.add("bert", &[Role::Pm], BERT, Some(("anna", ANNA))).await.unwrap();
    let plan = plan("SELECT 1");
    let id = house.granted(&plan).await;
    let request = RemovePerson { name: "anna".into(), vouched_by: "bert".into() };
    house.people.remove(&house.ctx, &request, secret(BERT)).await.unwrap();
    assert_eq!(house.refusal(&id, &plan.digest()).await, "the approver is unknown or was removed");
    house.raw("UPDATE people SET removed_us = NULL").await;
    assert_eq!(
        house.refusal(&id, &plan.digest()).await,
        "the record of `anna` does not agree with the audit trail"
    );
}

#[tokio::test]
async fn the_plan_that_is_shown_is_the_plan_that_is_approved() {
    let house = house().await;
    house.anna().await;
    let id = house.ask(&house.agent(), &plan("DROP TABLE orders")).await;
    let shown = house.approvals.show(&house.ctx, &ShowApproval { id: id.clone() }).await.unwrap();
    assert!(shown.text.contains("DROP TABLE orders"), "{}", shown.text);
    for sql in [
        "UPDATE plans SET body = zeroblob(length(body))",
        "UPDATE approvals SET summary = 'runs SELECT 1'",
        "DELETE FROM plans",
    ] {
        house.raw(sql).await;
        let error = house.approvals.show(&house.ctx, &ShowApproval { id: id.clone() }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{sql}");
        let error = house.grant_as(&house.ctx, &id, "anna", ANNA).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{sql}");
    }
}

#[tokio::test]
async fn agents_schedules_and_steward_never_grant() {
    let house = house().await;
    house.anna().await;
    let id = house.ask(&house.agent(), &plan("SELECT 1")).await;
    for kind in [ActorKind::Agent, ActorKind::Schedule, ActorKind::System] {
        // Even with the person's name, an approving role, a terminal and the right passphrase.
        let ctx = house.ctx.clone().with_actor(Actor::new(kind, "anna", [Role::Pm]));
        let error = house.grant_as(&ctx, &id, "anna", ANNA).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{kind:?}");
        let request = DenyApproval { id: id.clone(), person: None, reason: None };
        let error = house.approvals.deny(&ctx, &request, secret(ANNA), Terminal::Yes).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{kind:?}");
        let add = AddPerson { name: "mallory".into(), role: vec![Role::Pm], vouched_by: Some("anna".into()) };
        let error = house
            .people
            .add(&ctx, &add, secret("mallory knows 3 words"), Some(secret(ANNA)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{kind:?}");
        let create = CreateToken { name: "mallory".into(), role: vec![], days: None };
        let error = Tokens::new(house.ledger.clone()).create(&ctx, &create).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{kind:?}");
    }
    assert_eq!(house.approvals.get(&house.ctx, &id).await.unwrap().state, ApprovalState::Waiting);
}

#[tokio::test]
async fn without_terminal_or_passphrase_nothing_is_granted() {
    let house = house().await;
    house.anna().await;
    let id = house.ask(&house.agent(), &plan("SELECT 1")).await;
    let request = GrantApproval { id: id.clone(), person: None };
    let error = house.approvals.grant(&house.ctx, &request, secret(ANNA), Terminal::No).await.unwrap_err();
    assert_eq!(error.message(), "approvals are granted at a terminal");
    for wrong in 1..=WRONG_PASSPHRASES_MAX {
        for guess in ["yes"] {
            let error = house.grant_as(&house.ctx, &id, "anna", guess).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert_eq!(house.people.wrong_passphrases(&house.ctx, "anna").await.unwrap(), wrong);
        }
    }
    let events = house.ledger.events(EventFilter::project("shop").kind("passphrase.wrong")).await.unwrap();
    assert_eq!(events.len(), WRONG_PASSPHRASES_MAX);
    house.clock.advance_us(2 * HOUR_US);
    assert_eq!(house.people.wrong_passphrases(&house.ctx, "anna").await.unwrap(), 0);
    house.grant_as(&house.ctx, &id, "anna", ANNA).await.unwrap();
}

#[tokio::test]
async fn independence_is_recorded_as_it_was() {
    let house = house().await;
    house.anna().await;
    let as_anna = house.ctx.clone().with_actor(Actor::new(ActorKind::Person, "anna", [Role::Pm]));

    let id = house.ask(&house.ctx, &plan("SELECT 1")).await;
    assert_eq!(house.grant_as(&house.ctx, &id, "anna", ANNA).await.unwrap(), "requester_unproven");

    // Alone, a person may confirm their own request, and it is recorded as that.
    let own = plan("SELECT 2");
    let id = house.ask(&as_anna, &own).await;
    assert_eq!(house.grant_as(&as_anna, &id, "anna", ANNA).await.unwrap(), "self_confirmed");
    let approved = house.approvals.find_granted(&as_anna, &own.digest()).await.unwrap();
    assert_eq!(approved[0].independence(), "self_confirmed");
    house.authority.permit(&as_anna, &question(), &own, &approved).unwrap();

    // With a second person there is no need to.
    house.add("bert", &[Role::Pm], BERT, Some(("anna", ANNA))).await.unwrap();
    let id = house.ask(&as_anna, &plan("SELECT 3")).await;
    let error = house.grant_as(&as_anna, &id, "anna", ANNA).await.unwrap_err();
    assert_eq!(error.message(), "whoever asks does not approve");
    assert_eq!(house.grant_as(&house.ctx, &id, "bert", BERT).await.unwrap(), "second_person");

    // What one approved for another, they do not carry out themselves.
    let other = plan("SELECT 4");
    house.granted(&other).await;
    let error = house.approvals.find_granted(&as_anna, &other.digest()).await.unwrap_err();
    assert_eq!(error.message(), "whoever asks does not approve");
}

#[tokio::test]
async fn only_holders_of_the_role_approve() {
    let house = house().await;
    house.anna().await;
    house.add("sam", &[Role::Security], BERT, Some(("anna", ANNA))).await.unwrap();
    let id = house.ask(&house.agent(), &plan("SELECT 1")).await;
    let error = house.grant_as(&house.ctx, &id, "sam", BERT).await.unwrap_err();
    assert_eq!(error.message(), "`sam` may not approve this");
    assert_eq!(house.approvals.approver(&house.ctx, &id, None).await.unwrap(), "anna");
    // An edited row that asks for another role leads to an approval by that role, which the matrix does not want.
    house.raw("UPDATE approvals SET roles = '[\"security\"]'").await;
    house.grant_as(&house.ctx, &id, "sam", BERT).await.unwrap();
    let plan = plan("SELECT 1");
    let approved = house.approvals.find_granted(&house.agent(), &plan.digest()).await.unwrap();
    let error = house.authority.permit(&house.agent(), &question(), &plan, &approved).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NeedsApproval);
}

#[tokio::test]
async fn a_denied_plan_is_asked_for_anew() {
    let house = house().await;
    house.anna().await;
    let plan = plan("SELECT 1");
    let id = house.ask(&house.agent(), &plan).await;
    let request = DenyApproval { id: id.clone(), person: None, reason: Some("not today".into()) };
    let outcome = house.approvals.deny(&house.ctx, &request, secret(ANNA), Terminal::Yes).await.unwrap();
    assert_eq!(outcome.text, format!("anna denied {id}: not today"));
    assert_eq!(house.refusal(&id, &plan.digest()).await, "the approval was denied");
    let error = house.grant_as(&house.ctx, &id, "anna", ANNA).await.unwrap_err();
    assert_eq!(error.message(), "the approval does not wait; it is denied");
    assert_ne!(house.ask(&house.agent(), &plan).await, id);
    let list = ListApprovals { state: Some("denied".into()) };
    let outcome = house.approvals.list(&house.ctx, &list).await.unwrap();
    assert_eq!(outcome.value["approvals"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn projects_do_not_see_each_other() {
    let house = house().await;
    house.anna().await;
    let plan = plan("SELECT 1");
    let id = house.granted(&plan).await;
    let billing = Context::new("billing", Actor::local()).with_clock(house.clock.clone());
    assert!(house.people.all(&billing).await.unwrap().is_empty());
    assert!(house.approvals.all(&billing).await.unwrap().is_empty());
    assert_eq!(house.approvals.get(&billing, &id).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(house.approvals.find_granted(&billing, &plan.digest()).await.unwrap().is_empty());
    let approved = house.approvals.find_granted(&house.agent(), &plan.digest()).await.unwrap();
    let decision = house.authority.decide(&billing, &question(), &approved);
    assert_eq!(decision.name(), "approval", "an approval of one project counts for nothing in another");
}

#[tokio::test]
async fn people_after_the_first_are_vouched_for() {
    let house = house().await;
    assert!(!house.people.needs_voucher(&house.ctx).await.unwrap());
    house.anna().await;
    assert!(house.people.needs_voucher(&house.ctx).await.unwrap());
    let error = house.add("mallory", &[Role::Pm], BERT, None).await.unwrap_err();
    assert_eq!(error.message(), "someone must vouch for this");
    let error =
        house.add("mallory", &[Role::Pm], BERT, Some(("anna", "a guess of 12 or so"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let error = house.add("mallory", &[Role::Pm], BERT, Some(("mallory", BERT))).await.unwrap_err();
    assert_eq!(error.message(), "`mallory` may not vouch");
    let error = house.add("anna", &[Role::Pm], ANNA, Some(("anna", ANNA))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    house.add("bert", &[Role::Qa], BERT, Some(("anna", ANNA))).await.unwrap();
    let error = house.add("carl", &[Role::Pm], BERT, Some(("bert", BERT))).await.unwrap_err();
    assert_eq!(error.message(), "`bert` may not vouch");
    let request = RemovePerson { name: "anna".into(), vouched_by: "bert".into() };
    let error = house.people.remove(&house.ctx, &request, secret(BERT)).await.unwrap_err();
    assert_eq!(error.message(), "`bert` may not vouch");
}

#[tokio::test]
async fn deleting_or_demoting_people_by_hand_does_not_make_a_new_project() {
    for sql in
        ["DELETE FROM people", "UPDATE people SET removed_us = 1", "UPDATE people SET roles = '[\"reader\"]'"]
    {
        let house = house().await;
        house.anna().await;
        house.raw(sql).await;
        let error = house.add("mallory", &[Role::Pm], BERT, None).await.unwrap_err();
        assert_eq!(error.message(), "the table of people does not agree with the audit trail", "{sql}");
    }
    // In due form it does.
    let house = house().await;
    house.anna().await;
    let request = RemovePerson { name: "anna".into(), vouched_by: "anna".into() };
    house.people.remove(&house.ctx, &request, secret(ANNA)).await.unwrap();
    house.add("bert", &[Role::Pm], BERT, None).await.unwrap();
}

#[tokio::test]
async fn bad_people_are_refused() {
    let house = house().await;
    for (name, roles, passphrase, message) in [
        ("", &[Role::Pm][..], ANNA, "not a usable name"),
        ("Anna", &[Role::Pm], ANNA, "not a usable name"),
        ("a/b", &[Role::Pm], ANNA, "not a usable name"),
        ("anna", &[], ANNA, "a person needs at least one role"),
        ("anna", &[Role::Pm], "short", "the passphrase has fewer than 12 characters"),
    ] {
        let error = house.add(name, roles, passphrase, None).await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Invalid, message), "{name:?}");
    }
}

#[tokio::test]
async fn an_interrupted_change_is_resumed_with_the_approval_it_began_with() {
    let house = house().await;
    house.anna().await;
    let plan = plan("SELECT 1");
    let id = house.granted(&plan).await;
    let approved = house.approvals.find_granted(&house.agent(), &plan.digest()).await.unwrap();
    let intent = |approval: &str| {
        Write::new()
            .exec(
                "INSERT INTO intents (id, project, request, subject, plan_digest, approval, actor, task, holder, begun_us) \
                 VALUES ('intent-1', 'shop', 'retention.set', 'store:orders', ?, ?, '{}', '', 'me', 1)",
                vec![plan.digest().0.as_str().into(), approval.into()],
            )
            .event(NewEvent::new("retention.set.intent", "store:orders", json!({})))
    };
    let write = house.approvals.consume(&house.ctx, intent(&id), &approved);
    house.ledger.write(&house.ctx, write).await.unwrap();
    house.clock.advance_us(30 * HOUR_US);
    let system = house.ctx.clone().with_actor(Actor::system());
    let approved = house.approvals.of_intent(&system, "intent-1").await.unwrap();
    house.authority.permit(&system, &question(), &plan, &approved).unwrap();
    // What was begun is finished also when the approver has left since.
    house.raw("UPDATE people SET removed_us = 1").await;
    house
        .authority
        .permit(&system, &question(), &plan, &house.approvals.of_intent(&system, "intent-1").await.unwrap())
        .unwrap();
    house.raw("UPDATE approvals SET signature = 'AAAA'").await;
    let error = house.approvals.of_intent(&system, "intent-1").await.unwrap_err();
    assert_eq!(error.message(), "the approval is forged: the signature does not match");
    house.raw("UPDATE intents SET finished_us = 2").await;
    let error = house.approvals.of_intent(&system, "intent-1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_the_plan_says_counts_whatever_the_question_says() {
    let house = house().await;
    let mut plan = plan("DROP TABLE orders");
    plan.steps[0].destructive = true;
    let question = Question::new("schema.drop", "store:orders");
    assert!(house.authority.decide(&house.ctx, &question, &[]).is_permitted());
    let error = house.authority.permit(&house.ctx, &question, &plan, &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NeedsApproval);
    let fresh = question.clone().with_facts(Facts { verified_backup_minutes: Some(5), ..Facts::default() });
    house.authority.permit(&house.ctx, &fresh, &plan, &[]).unwrap();
    let other = Question::new("schema.drop", "store:other");
    let error = house.authority.permit(&house.ctx, &other, &plan, &[]).unwrap_err();
    assert_eq!(error.message(), "the plan is for another resource");
    plan.project = "billing".into();
    let error = house.authority.permit(&house.ctx, &fresh, &plan, &[]).unwrap_err();
    assert_eq!(error.message(), "the plan is for another project");
}

#[tokio::test]
async fn a_token_opens_the_door_until_it_ends() {
    let house = house().await;
    let tokens = Tokens::new(house.ledger.clone());
    let now = |house: &House| house.ctx.now();
    let create = CreateToken { name: "ci".into(), role: vec![], days: Some(1) };
    let (outcome, value) = tokens.create(&house.ctx, &create).await.unwrap();
    assert!(value.expose_secret().starts_with("stw_") && value.expose_secret().len() == 47);
    assert!(
        !outcome.text.contains(value.expose_secret())
            && !outcome.value.to_string().contains(value.expose_secret())
    );
    let (project, actor) = tokens.check(now(&house), &value).await.unwrap().unwrap();
    assert_eq!((project.as_str(), actor.to_string().as_str()), ("shop", "agent:ci"));
    assert_eq!(actor.roles.into_iter().collect::<Vec<_>>(), [Role::Requester]);
    for wrong in ["", "stw_", "stw_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "Bearer x"] {
        assert_eq!(tokens.check(now(&house), &secret(wrong)).await.unwrap(), None, "{wrong}");
    }
    // The value is nowhere in the state.
    let rows = house.ledger.query("SELECT token_hash FROM tokens", vec![]).await.unwrap();
    assert!(!rows[0].get_text("token_hash").unwrap().contains(&value.expose_secret()[4..]));
    // A row that was edited to hold an approving role holds none.
    house.raw("UPDATE tokens SET roles = '[\"pm\",\"reader\"]'").await;
    let (_, actor) = tokens.check(now(&house), &value).await.unwrap().unwrap();
    assert_eq!(actor.roles.into_iter().collect::<Vec<_>>(), [Role::Reader]);

    house.clock.advance_us(25 * HOUR_US);
    assert_eq!(tokens.check(now(&house), &value).await.unwrap(), None, "expired");

    let create = CreateToken { name: "bot".into(), role: vec![Role::Reader], days: None };
    let before = house.ledger.generation("tokens").await.unwrap();
    let (_, value) = tokens.create(&house.ctx, &create).await.unwrap();
    assert!(tokens.check(now(&house), &value).await.unwrap().is_some());
    tokens.revoke(&house.ctx, &RevokeToken { token: "bot".into() }).await.unwrap();
    assert_eq!(tokens.check(now(&house), &value).await.unwrap(), None, "revoked");
    assert_eq!(house.ledger.generation("tokens").await.unwrap(), before + 2);
    let error = tokens.revoke(&house.ctx, &RevokeToken { token: "bot".into() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_token_never_holds_a_role_that_approves() {
    let house = house().await;
    let tokens = Tokens::new(house.ledger.clone());
    for role in Role::ALL.into_iter().filter(|role| !matches!(role, Role::Reader | Role::Requester)) {
        let create = CreateToken { name: "ci".into(), role: vec![Role::Requester, role], days: None };
        let error = tokens.create(&house.ctx, &create).await.map(drop).unwrap_err();
        assert_eq!(error.message(), format!("a token cannot hold the role `{role}`"));
    }
}

#[tokio::test]
async fn passphrases_and_private_keys_are_not_in_the_state() {
    let house = house().await;
    house.anna().await;
    let path = house.folder.path();
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        bytes.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    let found = bytes.windows(ANNA.len()).any(|window| window == ANNA.as_bytes());
    assert!(!found);
    let now: Timestamp = house.ctx.now();
    assert!(house.people.all(&house.ctx).await.unwrap()[0].added_at <= now);
}
