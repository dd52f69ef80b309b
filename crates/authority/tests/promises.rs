//! What holds whatever the facts are.

#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::path::Path;
use std::sync::LazyLock;

use authority::{Authority, Case, Environment, Facts, Question, Territory};
use contract::{Actor, ActorKind, Context, Role};
use proptest::prelude::*;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::built_in().unwrap());

fn facts() -> impl Strategy<Value = Facts> {
    let amount = || 0_u64..3_000_000_000_000;
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let environment = prop::sample::select(Environment::ALL.to_vec());
    (environment, flags, prop::option::of(0_u64..200), amount(), prop::option::of(amount())).prop_map(
        |(environment, (destructive, reversible, personal_data, cross_project), backup, cost, left)| Facts {
            environment,
            destructive,
            reversible,
            verified_backup_minutes: backup,
            cost_usd_nanos: cost,
            budget_left_usd_nanos: left,
            personal_data,
            cross_project,
            ..Facts::default()
        },
    )
}

fn action() -> impl Strategy<Value = String> {
    let names: Vec<String> = AUTHORITY.actions().into_iter().map(|(name, _)| name.to_owned()).collect();
    prop::sample::select(names)
}

fn actor() -> impl Strategy<Value = Actor> {
    let kinds =
        vec![ActorKind::Local, ActorKind::Person, ActorKind::Agent, ActorKind::Schedule, ActorKind::System];
    (prop::sample::select(kinds), prop::sample::subsequence(Role::ALL.to_vec(), 0..=9))
        .prop_map(|(kind, roles)| Actor::new(kind, "someone", roles))
}

fn is_read(action: &str) -> bool {
    action.split('.').next_back() == Some("read")
        || ["index.advise", "consistency.check", "compliance.scan"].contains(&action)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nothing_dangerous_is_permitted_without_what_it_needs(
        actor in actor(), action in action(), facts in facts()
    ) {
        let ctx = Context::new("shop", actor.clone());
        let question = Question::new(&action, "store:orders").with_facts(facts.clone());
        let decision = AUTHORITY.decide(&ctx, &question, &[]);
        prop_assert!(!decision.reason().is_empty());
        if decision.is_permitted() {
            let fresh = facts.verified_backup_minutes.is_some_and(|minutes| minutes <= 60);
            prop_assert!(fresh || (!facts.destructive && facts.reversible), "{action} {facts:?}");
            prop_assert!(action != "backup.restore" || !facts.destructive, "{facts:?}");
            prop_assert!(facts.budget_left_usd_nanos.is_none_or(|left| facts.cost_usd_nanos <= left));
            prop_assert!(facts.cost_usd_nanos < facts.major_cost_usd_nanos);
            prop_assert!(!facts.cross_project);
            prop_assert!(action != "key.reveal");
            let asks = matches!(actor.kind, ActorKind::Local | ActorKind::Person);
            prop_assert!(asks || !["approval.decide", "person.add", "person.remove", "token.create"].contains(&action.as_str()));
            let reader = actor.kind == ActorKind::Agent && !actor.roles.contains(&Role::Requester);
            prop_assert!(!reader || is_read(&action) || action == "escalation.raise", "{action}");
        }
    }

    #[test]
    fn a_path_that_leaves_the_project_is_outside(before in "[a-z./]{0,12}", after in "[a-z./]{0,12}") {
        let path = format!("{}/../{after}", before.trim_start_matches('/'));
        let territory = Territory::of(&path);
        prop_assert!(matches!(territory, Territory::Outside), "{path} is {territory}");
    }

    #[test]
    fn any_path_has_an_answer(path in "\\PC*") {
        let question = Question::new("file.write", format!("path:{path}"));
        let decision = AUTHORITY.decide(&Context::new("shop", Actor::local()), &question, &[]);
        prop_assert_eq!(decision.is_permitted() && Territory::of(&path).owner().is_some(), false);
    }

    #[test]
    fn any_text_is_cases_or_an_error_with_its_line(text in "(action,expected\n)?[a-z,\"\n#.]{0,80}") {
        if let Err(error) = Case::parse(Path::new("tests.csv"), &text) {
            prop_assert!(error.to_string().contains("line: "));
        }
    }
}
