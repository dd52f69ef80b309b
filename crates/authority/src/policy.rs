//! What can be asked about the matrix itself. Nothing here changes anything.

use std::path::Path;

use contract::{Context, Effect, Error, ErrorKind, Finding, Outcome, Request, Role, Severity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cases::{Case, actor};
use crate::{Approved, Authority, Decision, Environment, Facts, People, PolicyText, Question, Territory};

/// Rows that hold whatever a project adds.
const INVARIANTS: &str = include_str!("invariants.csv");

/// Asks what would be decided, and who could approve; nothing is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckPolicy {
    /// Action of the matrix, such as `schema.drop`.
    pub action: String,
    /// On what, such as `store:orders` or `path:src/main.rs`. Default: the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Who would ask: `local`, `person:anna`, `agent:ci`, `schedule`. Default: whoever asks now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Roles of that actor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub role: Vec<Role>,
    /// Environment of the resource. Default: production.
    #[serde(default)]
    pub environment: Environment,
    /// Data or objects would be lost.
    #[serde(default)]
    pub destructive: bool,
    /// It could not be undone.
    #[serde(default)]
    pub irreversible: bool,
    /// Age in minutes of the newest verified backup. Default: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_minutes: Option<u64>,
    /// What it would cost, in US dollars.
    #[serde(default)]
    pub cost_usd: f64,
    /// What would be left of the budget, in US dollars. Default: no budget is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_left_usd: Option<f64>,
    /// Personal data would be read out, moved or changed.
    #[serde(default)]
    pub personal_data: bool,
    /// It would reach beyond the project.
    #[serde(default)]
    pub cross_project: bool,
    /// Roles that would have approved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved_by: Vec<Role>,
}

impl Request for CheckPolicy {
    const NAME: &'static str = "policy.check";
    const SUMMARY: &'static str = "What would be decided, by which policy, and who could approve";
    const EXAMPLE: &'static str = "steward policy check schema.drop --resource store:orders --destructive";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "policy.read";
    const POSITIONAL: &'static [&'static str] = &["action"];
}

/// Shows the policies that speak of an action, with the mission's lines behind them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainPolicy {
    /// An action, such as `schema.drop`, or a policy's id, such as `guard.budget`.
    pub name: String,
}

impl Request for ExplainPolicy {
    const NAME: &'static str = "policy.explain";
    const SUMMARY: &'static str =
        "The policies that speak of an action, with the mission's lines behind them";
    const EXAMPLE: &'static str = "steward policy explain schema.drop";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "policy.read";
    const POSITIONAL: &'static [&'static str] = &["name"];
}

/// Lists the actions of the matrix and the policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListPolicies {}

impl Request for ListPolicies {
    const NAME: &'static str = "policy.list";
    const SUMMARY: &'static str = "List the matrix: actions and policies";
    const EXAMPLE: &'static str = "steward policy list";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "policy.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Runs `policies/tests.csv`, if there is one, and the cases that always hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestPolicies {}

impl Request for TestPolicies {
    const NAME: &'static str = "policy.test";
    const SUMMARY: &'static str = "Run the project's policy tests and the cases that always hold";
    const EXAMPLE: &'static str = "steward policy test";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "policy.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

impl Authority {
    /// What would be decided. The facts are the caller's, so the answer says what would be, not what may be done.
    ///
    /// # Errors
    ///
    /// `NotFound`: unknown action. `Invalid`: the actor or an amount. What the ledger returns.
    pub async fn check(
        &self,
        ctx: &Context,
        people: &People,
        request: &CheckPolicy,
    ) -> Result<Outcome, Error> {
        if !self.actions().iter().any(|(name, _)| *name == request.action) {
            return Err(self.unknown_action(&request.action));
        }
        let facts = Facts {
            environment: request.environment,
            destructive: request.destructive,
            reversible: !request.irreversible,
            verified_backup_minutes: request.backup_minutes,
            cost_usd_nanos: nanos("cost_usd", request.cost_usd)?,
            budget_left_usd_nanos: request
                .budget_left_usd
                .map(|left| nanos("budget_left_usd", left))
                .transpose()?,
            personal_data: request.personal_data,
            cross_project: request.cross_project,
            ..Facts::default()
        };
        let resource = request.resource.clone().unwrap_or_else(|| format!("project:{}", ctx.project()));
        let question = Question::new(&request.action, &resource).with_facts(facts);
        let asking = match &request.actor {
            None => ctx.clone(),
            Some(text) => {
                let roles: Vec<&str> = request.role.iter().map(|role| role.as_str()).collect();
                let actor =
                    actor(text, &roles.join("+")).map_err(|why| Error::new(ErrorKind::Invalid, why))?;
                ctx.clone().with_actor(actor)
            }
        };
        let approved: Vec<Approved> =
            request.approved_by.iter().map(|role| Approved::assumed(ctx, &request.action, *role)).collect();
        let decision = self.decide(&asking, &question, &approved);
        let able: Vec<String> = match &decision {
            Decision::NeedsApproval { roles, .. } => people
                .all(ctx)
                .await?
                .into_iter()
                .filter(|person| roles.iter().any(|role| person.roles.contains(role)))
                .map(|person| person.name)
                .collect(),
            _ => Vec::new(),
        };
        let territory = resource.strip_prefix("path:").map(|path| Territory::of(path).as_str());
        let mut text =
            format!("{}: {} on {resource} by {}", verdict(&decision), request.action, asking.actor());
        text.push_str("\nwhy      ");
        text.push_str(decision.reason());
        if let Some(territory) = territory {
            text.push_str("\nfile of  ");
            text.push_str(territory);
        }
        for id in decision.policies() {
            if let Some(policy) = self.policies().find(|policy| policy.id == *id) {
                text.push_str("\npolicy   ");
                text.push_str(&one_line(policy));
            }
        }
        if let Decision::NeedsApproval { roles, .. } = &decision {
            let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
            text.push_str("\napproval ");
            text.push_str(&roles.join(" or "));
            text.push_str(": ");
            let nobody = "nobody holds this role yet; `steward person add NAME --role …` adds someone";
            text.push_str(&if able.is_empty() { nobody.to_owned() } else { able.join(", ") });
        }
        let value = json!({
            "decision": decision, "action": request.action, "resource": resource, "actor": asking.actor().to_string(),
            "territory": territory, "people": able,
        });
        Ok(Outcome::new(value, text))
    }

    /// The policies that speak of an action, as an answer.
    ///
    /// # Errors
    ///
    /// `NotFound`: neither an action nor a policy.
    pub fn explained(&self, request: &ExplainPolicy) -> Result<Outcome, Error> {
        let policies = self.explain(&request.name)?;
        let mut lines = Vec::new();
        if let Some((name, about)) = self.actions().into_iter().find(|(name, _)| *name == request.name) {
            lines.push(format!("{name}: {about}"));
        }
        for policy in &policies {
            lines.push(format!("\n{}", one_line(policy)));
            if !policy.mission.is_empty() {
                lines.push(format!("  mission: {}", policy.mission.replace("**", "")));
            }
            let rule = policy.text.lines().filter(|line| !line.trim_start().starts_with('@'));
            for line in rule {
                lines.push(format!("    {line}"));
            }
        }
        Ok(Outcome::new(json!({ "name": request.name, "policies": policies }), lines.join("\n").trim()))
    }

    /// The actions and policies, as an answer.
    pub fn listed(&self, _request: &ListPolicies) -> Outcome {
        let actions = self.actions();
        let mut lines = vec!["actions".to_owned()];
        for (name, about) in &actions {
            lines.push(format!("  {name:<26} {about}"));
        }
        lines.push("\npolicies".to_owned());
        for policy in self.policies() {
            lines.push(format!("  {}", one_line(policy)));
        }
        let actions: Vec<_> =
            actions.into_iter().map(|(name, about)| json!({"action": name, "about": about})).collect();
        let policies: Vec<&PolicyText> = self.policies().collect();
        Outcome::new(json!({ "actions": actions, "policies": policies }), lines.join("\n"))
    }

    /// Runs the project's cases (`policies/tests.csv` with its text, if there is one) and those that always hold. What
    /// is decided otherwise is a finding.
    ///
    /// # Errors
    ///
    /// `Invalid`: a row cannot be read; names file and line.
    pub fn test(&self, _request: &TestPolicies, cases: Option<(&Path, &str)>) -> Result<Outcome, Error> {
        let built_in = Path::new("built-in");
        let mut findings = Vec::new();
        let mut count = 0;
        let files = [Some((built_in, INVARIANTS)), cases];
        for (file, source) in files.into_iter().flatten() {
            for case in Case::parse(file, source)? {
                count += 1;
                if let Some(why) = case.failure(self) {
                    findings.push(Finding {
                        code: "policy_test_failed".to_owned(),
                        severity: if file == built_in { Severity::Critical } else { Severity::Warning },
                        title: format!("{} line {}: {}: {why}", file.display(), case.line, case.case),
                        object: case.question.action.clone(),
                        recommendation: None,
                        evidence: Vec::new(),
                        escalate: None,
                    });
                }
            }
        }
        let mut text = format!("{count} cases, {} decided otherwise", findings.len());
        for finding in &findings {
            text.push('\n');
            text.push_str(&finding.title);
        }
        let mut outcome = Outcome::new(json!({ "cases": count, "failed": findings.len() }), text);
        outcome.findings = findings;
        Ok(outcome)
    }
}

fn verdict(decision: &Decision) -> &'static str {
    match decision {
        Decision::Permitted { .. } => "permitted",
        Decision::NeedsApproval { .. } => "needs approval",
        Decision::Escalate { .. } => "escalates",
        Decision::Forbidden { .. } => "forbidden",
    }
}

fn one_line(policy: &PolicyText) -> String {
    let reason = if policy.reason.is_empty() { "no reason given" } else { &policy.reason };
    format!("{:<32} {:<6} {:<13} {reason}", policy.id, policy.effect, policy.tier)
}

fn nanos(name: &str, dollars: f64) -> Result<u64, Error> {
    /// Above this, dollars in thousand-millionths are no longer exact enough to be worth asking about.
    const DOLLARS_MAX: f64 = 1e9;
    if !(0.0..=DOLLARS_MAX).contains(&dollars) {
        return Err(Error::new(ErrorKind::Invalid, format!("`{name}` is not an amount of money"))
            .with("value", dollars)
            .hint("US dollars, from 0 to 1,000,000,000"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just above")]
    Ok((dollars * 1e9).round() as u64)
}
