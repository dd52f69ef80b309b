//! The compiled table says what Cedar says.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use authority::{Authority, Environment, Facts, Question};
use contract::{Clock, Context, Role, TestClock};
use gateway::{Callable, VirtualKey, compile};

/// A team's own policies, which differ by route, role, name, environment and provider.
const POLICIES: &str = r#"
@id("team.smart-in-production")
@reason("the expensive route is for named programs in production")
forbid (principal, action == Action::"ai.call", resource == Resource::"ai:route/smart")
when { context.environment == "production" }
unless { ["k1", "k3", "k5", "k7"].contains(context.actor.name) };

@id("team.no-azure-for-k2")
@reason("k2 has no contract with Azure")
forbid (principal == Actor::"agent:k2", action == Action::"ai.call", resource == Resource::"ai:provider/azure");

@id("team.vision-needs-approval")
@reason("images go out only after Security has agreed")
forbid (principal, action == Action::"ai.call", resource == Resource::"ai:pass_through/vision")
unless { context.approvals.contains("security") };

@id("team.staging-is-quiet")
@reason("only odd keys in staging")
forbid (principal, action == Action::"ai.call", resource)
when { context.environment == "staging" && ["k0", "k2", "k4", "k6", "k8"].contains(context.actor.name) };
"#;

/// A small generator that gives the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn some(&mut self, of: &[&str]) -> Vec<String> {
        of.iter().filter(|_| self.below(3) == 0).map(|name| (*name).to_owned()).collect()
    }
}

#[test]
fn the_table_answers_ten_thousand_random_requests_as_cedar_does() {
    let authority = Authority::built_in()
        .unwrap()
        .with_user_policies(vec![(PathBuf::from("policies/team.cedar"), POLICIES.to_owned())])
        .unwrap();
    let clock: Arc<dyn Clock> = Arc::new(TestClock::at("2026-03-04T05:06:07Z".parse().unwrap()));
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let (routes, providers, forwarded) =
        (names(&["fast", "smart", "local"]), names(&["openai", "azure"]), names(&["vision", "speech"]));
    let callable = Callable { routes: &routes, providers: &providers, pass_through: &forwarded };
    let mut numbers = Numbers(2026);
    let mut keys = Vec::new();
    for number in 0..60 {
        let mut key = VirtualKey {
            id: format!("key-{number}"),
            name: format!("k{}", number % 10),
            project: "shop".into(),
            routes: numbers.some(&["fast", "smart", "vision", "gone", "speech"]),
            models: numbers.some(&["openai/a", "openai/*", "azure/b", "other/c"]),
            role: if numbers.below(5) == 0 { Role::Reader } else { Role::Requester },
            person: None,
            rpm: None,
            tpm: None,
            concurrent: None,
            created_at: clock.now(),
            regenerated_at: None,
            expires_at: None,
            revoked_at: None,
        };
        if numbers.below(4) == 0 {
            key.routes = names(&["*"]);
        }
        if numbers.below(4) == 0 {
            key.models = names(&["*"]);
        }
        keys.push(key);
    }
    let environments = Environment::ALL;
    let mut tables = HashMap::new();
    let (mut allowed, mut denied) = (0, 0);
    for _ in 0..10_000 {
        let (which, environment) = (numbers.below(keys.len()), environments[numbers.below(4)]);
        let key = &keys[which];
        let (reach, rights) = tables
            .entry((which, environment.as_str()))
            .or_insert_with(|| compile(&authority, environment, &clock, key, callable));
        let (asked, resource, in_scope) = match numbers.below(3) {
            0 => {
                let route = ["fast", "smart", "local", "gone"][numbers.below(4)];
                (
                    route.to_owned(),
                    format!("ai:route/{route}"),
                    routes.contains(&route.to_owned()) && key.names_route(route),
                )
            }
            1 => {
                let (provider, model) =
                    (["openai", "azure", "other"][numbers.below(3)], ["a", "b", "c", "d"][numbers.below(4)]);
                let known = providers.contains(&provider.to_owned());
                (
                    format!("{provider}/{model}"),
                    format!("ai:provider/{provider}"),
                    known && key.names_model(provider, model),
                )
            }
            _ => {
                let name = ["vision", "speech"][numbers.below(2)];
                (name.to_owned(), format!("ai:pass_through/{name}"), key.names_route(name))
            }
        };
        let ctx = Context::new("shop", key.actor()).with_clock(Arc::clone(&clock));
        let facts = Facts { environment, ..Facts::default() };
        let question = Question::new("ai.call", resource).with_facts(facts);
        let expected = in_scope && authority.decide(&ctx, &question, &[]).is_permitted();
        assert_eq!(
            rights.call && reach.allows(&asked),
            expected,
            "{asked} by {key:?} in {}",
            environment.as_str()
        );
        if expected { allowed += 1 } else { denied += 1 }
    }
    assert!(allowed > 1_000 && denied > 1_000, "{allowed} allowed, {denied} denied: the test says little");
}

#[test]
fn a_key_that_may_only_read_can_call_nothing() {
    let authority = Authority::built_in().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(TestClock::at("2026-03-04T05:06:07Z".parse().unwrap()));
    let all = ["fast".to_owned()];
    let callable = Callable { routes: &all, providers: &all, pass_through: &all };
    let key = VirtualKey {
        id: "key-1".into(),
        name: "watcher".into(),
        project: "shop".into(),
        routes: vec!["*".into()],
        models: vec!["*".into()],
        role: Role::Reader,
        person: None,
        rpm: None,
        tpm: None,
        concurrent: None,
        created_at: clock.now(),
        regenerated_at: None,
        expires_at: None,
        revoked_at: None,
    };
    let (reach, rights) = compile(&authority, Environment::Production, &clock, &key, callable);
    assert!(!reach.allows("fast") && !rights.call && !rights.fine_tune);
    let caller = VirtualKey { role: Role::Requester, ..key };
    let (reach, rights) = compile(&authority, Environment::Production, &clock, &caller, callable);
    assert!(reach.allows("fast") && reach.allows("fast/x") && rights.call && rights.fine_tune);
}
