//! What people read about the matrix.

#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::path::{Path, PathBuf};

use authority::{AddPerson, Authority, CheckPolicy, ExplainPolicy, ListPolicies, People, TestPolicies};
use contract::{Actor, Context, ErrorKind, Request, RequestSpec, Role};
use ledger::{Keys, Ledger, Options};
use secrecy::{SecretBox, SecretString};
use serde_json::json;

async fn people() -> (tempfile::TempDir, Context, People) {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
    let options = Options::new(folder.path().join("audit.head"));
    let ledger = Ledger::open(&folder.path().join("state.db"), keys, options).await.unwrap();
    (folder, Context::new("shop", Actor::local()), People::new(ledger))
}

fn check(arguments: serde_json::Value) -> CheckPolicy {
    serde_json::from_value(arguments).unwrap()
}

#[tokio::test]
async fn check_says_what_would_be_decided_by_which_policy_and_who_could_approve() {
    let (_folder, ctx, people) = people().await;
    let authority = Authority::built_in().unwrap();
    let drop = check(json!({"action": "schema.drop", "resource": "store:orders", "destructive": true}));
    let outcome = authority.check(&ctx, &people, &drop).await.unwrap();
    assert_eq!(
        outcome.text,
        "needs approval: schema.drop on store:orders by local\n\
         why      it loses data or cannot be undone, and no backup verified within the last 60 minutes exists; \
         approval by `pm` is needed\n\
         policy   guard.verified-backup            forbid guard         it loses data or cannot be undone, and no \
         backup verified within the last 60 minutes exists\n\
         approval pm: nobody holds this role yet; `steward person add NAME --role …` adds someone"
    );
    let add = AddPerson { name: "anna".into(), role: vec![Role::Pm], vouched_by: None };
    people.add(&ctx, &add, SecretString::from("four unrelated words"), None).await.unwrap();
    let outcome = authority.check(&ctx, &people, &drop).await.unwrap();
    assert_eq!(outcome.value["people"], json!(["anna"]));
    assert_eq!(outcome.value["decision"]["roles"], json!(["pm"]));

    for (arguments, decision) in [
        (json!({"action": "schema.drop", "destructive": true, "backup_minutes": 10}), "permitted"),
        (json!({"action": "schema.drop", "destructive": true, "approved_by": ["pm"]}), "permitted"),
        (json!({"action": "ai.call", "cost_usd": 2.5, "budget_left_usd": 2.4}), "approval"),
        (json!({"action": "file.write", "resource": "path:src/main.rs"}), "forbidden"),
        (json!({"action": "schema.migrate", "actor": "agent:ci", "role": ["reader"]}), "forbidden"),
        (json!({"action": "governance.change"}), "escalate"),
    ] {
        let outcome = authority.check(&ctx, &people, &check(arguments.clone())).await.unwrap();
        assert_eq!(outcome.value["decision"]["decision"], decision, "{arguments}");
    }
    let error = authority.check(&ctx, &people, &check(json!({"action": "schema.dorp"}))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint_text().unwrap().contains("schema.drop"));
    for cost in [-1.0, f64::NAN, 1e30] {
        let request = CheckPolicy { cost_usd: cost, ..check(json!({"action": "ai.call"})) };
        assert_eq!(authority.check(&ctx, &people, &request).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn explain_shows_the_rules_with_the_mission_behind_them() {
    let authority = Authority::built_in().unwrap();
    let outcome = authority.explained(&ExplainPolicy { name: "retention.change".into() }).unwrap();
    for part in [
        "retention.change: How long data, archives and backups are kept.",
        "collaborative.retention",
        "mission: Data Retention Policies: Long-term data storage decisions (requires PM approval)",
        "when { context.approvals.contains(\"pm\") };",
    ] {
        assert!(outcome.text.contains(part), "{part}\n{}", outcome.text);
    }
    let one = authority.explained(&ExplainPolicy { name: "guard.budget".into() }).unwrap();
    assert_eq!(one.value["policies"].as_array().unwrap().len(), 1);
    let error = authority.explained(&ExplainPolicy { name: "nothing".into() }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(authority.listed(&ListPolicies {}).text.contains("territory.migrations"));
}

#[test]
fn tests_of_a_project_are_run_with_the_cases_that_always_hold() {
    let authority = Authority::built_in().unwrap();
    let outcome = authority.test(&TestPolicies {}, None).unwrap();
    assert!(outcome.findings.is_empty(), "{}", outcome.text);
    let source = "case,action,expected\nours,schema.migrate,permit\nwrong,retention.change,permit\n";
    let outcome = authority.test(&TestPolicies {}, Some((Path::new("policies/tests.csv"), source))).unwrap();
    assert_eq!(outcome.findings.len(), 1);
    assert_eq!(
        outcome.findings[0].title,
        "policies/tests.csv line 3: wrong: expected permit, but approval:pm: how long data is kept needs the PM's \
         approval; approval by `pm` is needed"
    );
    let error =
        authority.test(&TestPolicies {}, Some((Path::new("policies/tests.csv"), "action\n"))).unwrap_err();
    assert!(error.to_string().contains("file: policies/tests.csv\n  line: 1"), "{error}");
}

#[test]
fn a_policy_that_demands_an_approval_can_be_tested() {
    let source = "@id(\"shop.qa\")\nforbid (principal, action == Action::\"data.change\", resource)\n\
                  unless { context.approvals.contains(\"qa\") };";
    let authority = Authority::built_in()
        .unwrap()
        .with_user_policies(vec![(PathBuf::from("policies/shop.cedar"), source.to_owned())])
        .unwrap();
    let cases =
        "action,approvals,expected,policy\ndata.change,,approval:qa,shop.qa\ndata.change,qa,permit,\n";
    let outcome = authority.test(&TestPolicies {}, Some((Path::new("policies/tests.csv"), cases))).unwrap();
    assert!(outcome.findings.is_empty(), "{}", outcome.text);
}

#[test]
fn every_request_names_an_action_of_the_matrix() {
    use authority::*;
    fn action<R: Request>() -> (&'static str, &'static str, serde_json::Value) {
        (R::NAME, R::ACTION, RequestSpec::of::<R>().schema.clone())
    }
    let authority = Authority::built_in().unwrap();
    for (name, action, schema) in [
        action::<CheckPolicy>(),
        action::<ExplainPolicy>(),
        action::<ListPolicies>(),
        action::<TestPolicies>(),
        action::<AddPerson>(),
        action::<ListPeople>(),
        action::<RemovePerson>(),
        action::<ListApprovals>(),
        action::<ShowApproval>(),
        action::<GrantApproval>(),
        action::<DenyApproval>(),
        action::<CreateToken>(),
        action::<ListTokens>(),
        action::<RevokeToken>(),
    ] {
        assert!(authority.actions().iter().any(|(known, _)| *known == action), "{name}: {action}");
        assert!(!schema.to_string().to_lowercase().contains("passphrase\":"), "{name}");
    }
}
