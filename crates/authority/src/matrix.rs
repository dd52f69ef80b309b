//! The authority matrix: Cedar policies, parsed once, asked for every request.
//!
//! Cedar knows only "allow" and "deny". The mission's three tiers are found by asking again: denied now but allowed
//! with an approver's role assumed means that this role may approve; denied with every role assumed means that a
//! `forbid` stands in the way, and its tier says whether that is an escalation or a refusal.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cedar_policy::ffi::DetailedError;
use cedar_policy::{
    ActionConstraint, Authorizer, Decision as Verdict, Effect, Entities, Entity, EntityId, EntityTypeName,
    EntityUid, Policy, PolicyId, PolicySet, Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use contract::{ActorKind, Context, Error, ErrorKind, Permit, Plan, Role};
use serde::Serialize;

use crate::{Approved, Decision, Question, Territory};

const SCHEMA: &str = include_str!("../policies/steward.cedarschema");
const BUILT_IN: &[(&str, &str)] = &[
    ("access.cedar", include_str!("../policies/access.cedar")),
    ("own.cedar", include_str!("../policies/own.cedar")),
    ("collaborative.cedar", include_str!("../policies/collaborative.cedar")),
    ("escalation.cedar", include_str!("../policies/escalation.cedar")),
    ("guard-rails.cedar", include_str!("../policies/guard-rails.cedar")),
    ("territories.cedar", include_str!("../policies/territories.cedar")),
];

/// The roles that can approve something.
pub(crate) const APPROVERS: [Role; 7] =
    [Role::Pm, Role::Architect, Role::Security, Role::Ops, Role::Engineer, Role::Qa, Role::Documentation];

/// How long a permit is good for: longer than the longest index build that we would wait for.
const PERMIT_VALID: Duration = Duration::from_hours(12);

/// One policy, as people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyText {
    /// Its id, such as `guard.verified-backup`.
    pub id: String,
    /// `own`, `collaborative`, `escalation`, `guard`, `territory`, `access`; `project` for added ones.
    pub tier: String,
    /// `permit` or `forbid`.
    pub effect: String,
    /// The mission's line, verbatim; empty for added ones.
    pub mission: String,
    /// Why, in a sentence.
    pub reason: String,
    /// The file it stands in.
    pub file: String,
    /// Whom an escalation goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Role>,
    /// Whose territory it protects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Role>,
    /// The policy itself.
    pub text: String,
}

/// An action with the policies that can say anything about it.
#[derive(Clone)]
struct Action {
    uid: EntityUid,
    about: &'static str,
    group: &'static str,
    policies: PolicySet,
}

/// The matrix of one project: the built-in policies and those that the project added. Cheap to clone.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    entities: Entities,
    authorizer: Authorizer,
    actor_type: EntityTypeName,
    resource_type: EntityTypeName,
    texts: BTreeMap<String, PolicyText>,
    policies: Vec<Policy>,
    actions: HashMap<String, Action>,
    /// Approving roles that any policy mentions; asking for others cannot change the verdict.
    approvers: Vec<Role>,
}

impl Authority {
    /// The mission's matrix alone.
    ///
    /// # Errors
    ///
    /// `Other`: the embedded policies do not parse, which a test rules out.
    pub fn built_in() -> Result<Authority, Error> {
        // Parsed once for all projects.
        static READ: LazyLock<Result<Authority, Error>> = LazyLock::new(Authority::read_built_in);
        READ.clone()
    }

    fn read_built_in() -> Result<Authority, Error> {
        let mut policies = Vec::new();
        let mut texts = BTreeMap::new();
        for (file, source) in BUILT_IN {
            for (policy, text) in parse(Path::new(file), source)? {
                texts.insert(text.id.clone(), text);
                policies.push(policy);
            }
        }
        Self::assemble(policies, texts)
    }

    /// This matrix with a project's own policies on top.
    ///
    /// An added `forbid` may refuse anything, or demand an approval by `unless { context.approvals.contains("qa") }`.
    /// An added `permit` may only open actions of the collaborative tier; the built-in `forbid`s stay above it.
    /// `@id`, `@reason`, and for a `forbid` `@tier("escalation")` with `@to("pm")` are understood.
    ///
    /// # Errors
    ///
    /// `Invalid`: a file does not parse, does not agree with the schema, reuses an id, or permits too much; names
    /// file, line and column.
    pub fn with_user_policies(&self, files: Vec<(PathBuf, String)>) -> Result<Authority, Error> {
        if files.is_empty() {
            return Ok(self.clone());
        }
        let validator = Validator::new(schema()?);
        let mut policies = self.0.policies.clone();
        let mut texts = self.0.texts.clone();
        for (file, source) in files {
            let parsed = parse(&file, &source)?;
            let own = PolicySet::from_policies(parsed.iter().map(|(policy, _)| policy.clone()))
                .map_err(|error| invalid_at(&file, &source, 0, &error.to_string()))?;
            let checked = validator.validate(&own, ValidationMode::Strict);
            if let Some(error) = checked.validation_errors().next() {
                return Err(invalid(&file, &source, &DetailedError::from(error)));
            }
            for (policy, mut text) in parsed {
                let line = source.find(text.text.trim()).unwrap_or(0);
                if texts.contains_key(&text.id) {
                    return Err(invalid_at(
                        &file,
                        &source,
                        line,
                        &format!("the policy id `{}` is taken", text.id),
                    )
                    .hint("give it another `@id`"));
                }
                if policy.effect() == Effect::Permit && !self.only_collaborative(&policy) {
                    return Err(invalid_at(
                        &file,
                        &source,
                        line,
                        "an added `permit` may only open actions of the collaborative tier",
                    )
                    .hint(format!(
                        "name the actions: `action in [{}]`; everything else is the mission's to permit",
                        self.collaborative()
                            .map(|name| format!("Action::\"{name}\""))
                            .collect::<Vec<_>>()
                            .join(", ")
                    )));
                }
                if text.tier != "escalation" || policy.effect() == Effect::Permit {
                    "project".clone_into(&mut text.tier);
                }
                text.mission.clear();
                texts.insert(text.id.clone(), text);
                policies.push(policy);
            }
        }
        Self::assemble(policies, texts)
    }

    /// This matrix without one policy: shows what the policy is there for.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such policy.
    pub fn without(&self, id: &str) -> Result<Authority, Error> {
        let mut texts = self.0.texts.clone();
        if texts.remove(id).is_none() {
            return Err(unknown_policy(id));
        }
        let policies =
            self.0.policies.iter().filter(|policy| policy.id().to_string() != id).cloned().collect();
        Self::assemble(policies, texts)
    }

    fn assemble(policies: Vec<Policy>, texts: BTreeMap<String, PolicyText>) -> Result<Authority, Error> {
        let mut entities = Vec::new();
        for words in catalogue() {
            entities.push(Entity::new_no_attrs(
                action_uid(words.action),
                HashSet::from([action_uid(words.group)]),
            ));
        }
        let groups: HashSet<EntityUid> = catalogue().map(|words| action_uid(words.group)).collect();
        entities.extend(groups.into_iter().map(|uid| Entity::new_no_attrs(uid, HashSet::new())));
        let entities = Entities::from_entities(entities, None).map_err(|e| broken("schema", &e))?;
        let mut actions = HashMap::new();
        for words in catalogue() {
            let uid = action_uid(words.action);
            let relevant = policies.iter().filter(|policy| match policy.action_constraint() {
                ActionConstraint::Any => true,
                ActionConstraint::Eq(other) => other == uid,
                ActionConstraint::In(others) => {
                    others.iter().any(|other| *other == uid || entities.is_ancestor_of(other, &uid))
                }
            });
            let policies = PolicySet::from_policies(relevant.cloned()).map_err(|e| broken("policies", &e))?;
            let action = Action { uid, about: words.about, group: words.group, policies };
            actions.insert(words.action.to_owned(), action);
        }
        let approvers = APPROVERS
            .into_iter()
            .filter(|role| {
                let quoted = format!("\"{role}\"");
                texts.values().any(|text| text.text.contains("approvals") && text.text.contains(&quoted))
            })
            .collect();
        let type_name = |name: &str| EntityTypeName::from_str(name).map_err(|e| broken("schema", &e));
        Ok(Authority(Arc::new(Inner {
            entities,
            authorizer: Authorizer::new(),
            actor_type: type_name("Actor")?,
            resource_type: type_name("Resource")?,
            texts,
            policies,
            actions,
            approvers,
        })))
    }

    fn collaborative(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> = self
            .0
            .actions
            .iter()
            .filter(|(_, action)| action.group == "collaborative")
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_unstable();
        names.into_iter()
    }

    fn only_collaborative(&self, policy: &Policy) -> bool {
        let open: BTreeSet<&str> = self.collaborative().chain(["collaborative"]).collect();
        match policy.action_constraint() {
            ActionConstraint::Any => false,
            ActionConstraint::Eq(uid) => open.contains(uid.id().unescaped()),
            ActionConstraint::In(uids) => uids.iter().all(|uid| open.contains(uid.id().unescaped())),
        }
    }

    /// Every action and what it means, by name.
    pub fn actions(&self) -> Vec<(&str, &str)> {
        let mut actions: Vec<_> =
            self.0.actions.iter().map(|(name, action)| (name.as_str(), action.about)).collect();
        actions.sort_unstable();
        actions
    }

    /// Every policy, by id.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyText> {
        self.0.texts.values()
    }

    /// The policies that can say anything about `action`, or the one policy with this id.
    ///
    /// # Errors
    ///
    /// `NotFound`: neither an action nor a policy; the hint names near ones.
    pub fn explain(&self, action_or_policy: &str) -> Result<Vec<&PolicyText>, Error> {
        if let Some(text) = self.0.texts.get(action_or_policy) {
            return Ok(vec![text]);
        }
        let Some(action) = self.0.actions.get(action_or_policy) else {
            return Err(self.unknown_action(action_or_policy));
        };
        let mut texts: Vec<&PolicyText> = action
            .policies
            .policies()
            .filter_map(|policy| self.0.texts.get(&policy.id().to_string()))
            .collect();
        texts.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(texts)
    }

    pub(crate) fn unknown_action(&self, name: &str) -> Error {
        let noun = name.split('.').next().unwrap_or(name);
        let near: Vec<&str> = self
            .actions()
            .into_iter()
            .map(|(known, _)| known)
            .filter(|known| known.split('.').next() == Some(noun))
            .collect();
        let hint = if near.is_empty() {
            "`steward policy list` shows the actions and policies".to_owned()
        } else {
            format!("did you mean one of: {}", near.join(", "))
        };
        Error::new(ErrorKind::NotFound, format!("`{name}` is neither an action nor a policy")).hint(hint)
    }

    /// Decides whether the context's actor may do what the question asks, now, with these approvals.
    ///
    /// Approvals for another project or action, and expired ones, count for nothing.
    pub fn decide(&self, ctx: &Context, question: &Question, approved: &[Approved]) -> Decision {
        let Some(action) = self.0.actions.get(&question.action) else {
            return Decision::Forbidden {
                policies: Vec::new(),
                owner: None,
                reason: format!("`{}` is not an action of the matrix", question.action),
            };
        };
        let now_us = ctx.now().as_microsecond();
        let held: BTreeSet<Role> = approved
            .iter()
            .filter(|approval| {
                approval.project == ctx.project()
                    && approval.action == question.action
                    && approval.expires_us > now_us
            })
            .map(|approval| approval.role)
            .collect();

        let (now, policies) = self.ask(ctx, action, question, &held);
        match now {
            Some(Verdict::Allow) => return Decision::Permitted { reason: self.reason(&policies), policies },
            Some(Verdict::Deny) => {}
            None => return undecidable(policies),
        }

        let mut everyone = held.clone();
        everyone.extend(&self.0.approvers);
        let (with_all, blocking) = self.ask(ctx, action, question, &everyone);
        match with_all {
            Some(Verdict::Allow) => self.approval(ctx, action, question, &held, policies),
            Some(Verdict::Deny) => self.refusal(question, blocking),
            None => undecidable(blocking),
        }
    }

    /// Which role must approve next: any single one that suffices, else the first of the fewest that do together.
    fn approval(
        &self,
        ctx: &Context,
        action: &Action,
        question: &Question,
        held: &BTreeSet<Role>,
        blocking: Vec<String>,
    ) -> Decision {
        let allowed = |roles: &BTreeSet<Role>| {
            let (verdict, policies) = self.ask(ctx, action, question, roles);
            (verdict == Some(Verdict::Allow)).then_some(policies)
        };
        let missing: Vec<Role> =
            self.0.approvers.iter().copied().filter(|role| !held.contains(role)).collect();
        let mut roles = Vec::new();
        let mut permitting = Vec::new();
        for &role in &missing {
            let mut with = held.clone();
            with.insert(role);
            if let Some(policies) = allowed(&with) {
                roles.push(role);
                permitting = policies;
            }
        }
        let mut together = roles.clone();
        if roles.is_empty() {
            let mut needed: BTreeSet<Role> = held.iter().chain(&missing).copied().collect();
            for role in missing {
                let mut fewer = needed.clone();
                fewer.remove(&role);
                if let Some(policies) = allowed(&fewer) {
                    needed = fewer;
                    permitting = policies;
                }
            }
            together = needed.difference(held).copied().collect();
            roles.extend(together.first());
        }
        let any_one = roles.len() == together.len();
        // Denied by default: the policy that would permit it is the one that demands the approval.
        let policies = if blocking.is_empty() { permitting } else { blocking };
        let list =
            |joint: &str| together.iter().map(|role| format!("`{role}`")).collect::<Vec<_>>().join(joint);
        let who = if any_one { list(" or ") } else { list(" and ") };
        let reason = format!("{}; approval by {who} is needed", self.reason(&policies));
        Decision::NeedsApproval { roles, policies, reason }
    }

    fn refusal(&self, question: &Question, blocking: Vec<String>) -> Decision {
        let texts: Vec<&PolicyText> = blocking.iter().filter_map(|id| self.0.texts.get(id)).collect();
        if let Some(first) = texts.first()
            && texts.iter().all(|text| text.tier == "escalation")
        {
            let to = first.to.unwrap_or(Role::Pm);
            let reason = format!("{}; it goes to `{to}`", self.reason(&blocking));
            return Decision::Escalate { to, policies: blocking, reason };
        }
        let owner = texts.iter().find_map(|text| text.owner);
        let mut reason = match path_of(question) {
            _ if !blocking.is_empty() => self.reason(&blocking),
            Some(path) => format!("no rule says whose file `{path}` is, so it is not the data engineer's"),
            None => format!("no policy permits `{}` here", question.action),
        };
        if let Some(owner) = owner {
            reason = format!("{reason}; ask `{owner}`");
        }
        Decision::Forbidden { policies: blocking, owner, reason }
    }

    fn reason(&self, policies: &[String]) -> String {
        let reasons: Vec<&str> = policies
            .iter()
            .filter_map(|id| self.0.texts.get(id))
            .map(|text| text.reason.as_str())
            .filter(|reason| !reason.is_empty())
            .collect();
        if reasons.is_empty() { format!("by policy {}", policies.join(", ")) } else { reasons.join("; ") }
    }

    /// Cedar's verdict with these roles assumed to have approved, and the ids that decided; no verdict when a policy
    /// could not be evaluated, since a `forbid` that fails must not count as one that does not match.
    fn ask(
        &self,
        ctx: &Context,
        action: &Action,
        question: &Question,
        approvals: &BTreeSet<Role>,
    ) -> (Option<Verdict>, Vec<String>) {
        let Some(request) = self.request(ctx, action, question, approvals) else {
            return (None, Vec::new());
        };
        let response = self.0.authorizer.is_authorized(&request, &action.policies, &self.0.entities);
        let failed: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        if !failed.is_empty() {
            tracing::error!(
                action = question.action,
                error = failed.join("; "),
                "a policy could not be evaluated"
            );
            return (None, Vec::new());
        }
        let mut policies: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
        policies.sort_unstable();
        (Some(response.decision()), policies)
    }

    fn request(
        &self,
        ctx: &Context,
        action: &Action,
        question: &Question,
        approvals: &BTreeSet<Role>,
    ) -> Option<Request> {
        let string = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let long = |number: u64| RestrictedExpression::new_long(i64::try_from(number).unwrap_or(i64::MAX));
        let roles = |roles: &BTreeSet<Role>| {
            RestrictedExpression::new_set(roles.iter().map(|role| string(role.as_str())))
        };
        let actor = ctx.actor();
        let facts = &question.facts;
        let elsewhere = question.resource.strip_prefix("project:").is_some_and(|name| name != ctx.project());
        let territory = match path_of(question) {
            Some(path) if question.action == "file.write" => Territory::of(path).as_str(),
            _ => "",
        };
        let asking = RestrictedExpression::new_record([
            ("kind".to_owned(), string(kind(actor.kind))),
            ("name".to_owned(), string(&actor.name)),
            ("roles".to_owned(), roles(&actor.roles)),
        ])
        .ok()?;
        let mut pairs = vec![
            ("project".to_owned(), string(ctx.project())),
            ("actor".to_owned(), asking),
            ("approvals".to_owned(), roles(approvals)),
            ("environment".to_owned(), string(facts.environment.as_str())),
            ("destructive".to_owned(), RestrictedExpression::new_bool(facts.destructive)),
            ("reversible".to_owned(), RestrictedExpression::new_bool(facts.reversible)),
            ("cost_usd_nanos".to_owned(), long(facts.cost_usd_nanos)),
            ("major_cost_usd_nanos".to_owned(), long(facts.major_cost_usd_nanos)),
            ("personal_data".to_owned(), RestrictedExpression::new_bool(facts.personal_data)),
            ("cross_project".to_owned(), RestrictedExpression::new_bool(facts.cross_project || elsewhere)),
            ("territory".to_owned(), string(territory)),
        ];
        if let Some(minutes) = facts.verified_backup_minutes {
            pairs.push(("backup_minutes".to_owned(), long(minutes)));
        }
        if let Some(left) = facts.budget_left_usd_nanos {
            pairs.push(("budget_left_usd_nanos".to_owned(), long(left)));
        }
        let context = cedar_policy::Context::from_pairs(pairs).ok()?;
        let principal =
            EntityUid::from_type_name_and_id(self.0.actor_type.clone(), EntityId::new(actor.to_string()));
        let resource =
            EntityUid::from_type_name_and_id(self.0.resource_type.clone(), EntityId::new(&question.resource));
        Request::new(principal, action.uid.clone(), resource, context, None).ok()
    }

    /// Decides about a plan and, where the matrix permits it, makes the permit for exactly this plan.
    ///
    /// What the plan says about destruction, undo and cost is added to the question's facts.
    ///
    /// # Errors
    ///
    /// `Forbidden`: the plan is for another project or resource, or an approval is for another plan.
    pub fn rule(
        &self,
        ctx: &Context,
        question: &Question,
        plan: &Plan,
        approved: &[Approved],
    ) -> Result<(Decision, Option<Permit>), Error> {
        let refuse = |why: &str| {
            Error::new(ErrorKind::Forbidden, why)
                .with("action", &question.action)
                .with("resource", &question.resource)
        };
        if plan.project != ctx.project() {
            return Err(refuse("the plan is for another project").with("project", &plan.project));
        }
        if plan.target != question.resource {
            return Err(refuse("the plan is for another resource").with("target", &plan.target));
        }
        let digest = plan.digest();
        if let Some(other) = approved.iter().find(|approval| approval.plan_digest != digest.0) {
            return Err(refuse("the approval is for another plan")
                .with("approval", &other.id)
                .hint("the plan changed after it was approved; ask for the change again"));
        }
        let question = question.clone().with_facts(question.facts.clone().of_plan(plan));
        let decision = self.decide(ctx, &question, approved);
        let permit = decision.is_permitted().then(|| {
            let ids: Vec<&str> = approved.iter().map(Approved::id).collect();
            let approval = (!ids.is_empty()).then(|| ids.join(","));
            Permit::mint(ctx, &question.action, &question.resource, digest, approval, PERMIT_VALID)
        });
        Ok((decision, permit))
    }

    /// The permit for exactly this plan.
    ///
    /// # Errors
    ///
    /// As [`Authority::rule`]. `Forbidden`, `NeedsApproval`, `Escalated`: so decided.
    pub fn permit(
        &self,
        ctx: &Context,
        question: &Question,
        plan: &Plan,
        approved: &[Approved],
    ) -> Result<Permit, Error> {
        let (decision, permit) = self.rule(ctx, question, plan, approved)?;
        permit.ok_or_else(|| decision.error(question))
    }
}

/// What the schema says about one action.
struct Words {
    action: &'static str,
    group: &'static str,
    about: &'static str,
}

/// The actions of the schema, read from its text line by line: parsing it in full takes longer than everything else
/// at start, and is only needed to validate added policies. A test compares both.
fn catalogue() -> impl Iterator<Item = Words> {
    let lines = SCHEMA.lines().zip(SCHEMA.lines().skip(1));
    lines.filter_map(|(above, line)| {
        let about = above.strip_prefix("@doc(\"")?.strip_suffix("\")")?;
        let mut quoted = line.strip_prefix("action ")?.split('"').skip(1).step_by(2);
        Some(Words { action: quoted.next()?, group: quoted.next()?, about })
    })
}

fn schema() -> Result<Schema, Error> {
    Schema::from_cedarschema_str(SCHEMA).map(|(schema, _)| schema).map_err(|error| broken("schema", &error))
}

fn action_uid(name: &str) -> EntityUid {
    let action = EntityTypeName::from_str("Action").expect("`Action` is a type name");
    EntityUid::from_type_name_and_id(action, EntityId::new(name))
}

fn broken(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Other, format!("the embedded {what} is broken: {error}"))
}

impl Decision {
    /// The refusal as an error; `Permitted` has none and gives `Other`.
    pub fn error(&self, question: &Question) -> Error {
        let (kind, message) = match self {
            Decision::Permitted { .. } => (ErrorKind::Other, "permitted"),
            Decision::NeedsApproval { .. } => (ErrorKind::NeedsApproval, "an approval is needed"),
            Decision::Escalate { .. } => (ErrorKind::Escalated, "the decision belongs to someone else"),
            Decision::Forbidden { .. } => (ErrorKind::Forbidden, "the authority matrix refuses"),
        };
        let mut error = Error::new(kind, message)
            .with("action", &question.action)
            .with("resource", &question.resource)
            .with("reason", self.reason());
        if !self.policies().is_empty() {
            error = error.with("policy", self.policies().join(", "));
        }
        error.hint(format!("`steward policy explain {}` shows the rules", question.action))
    }
}

fn undecidable(policies: Vec<String>) -> Decision {
    Decision::Forbidden {
        policies,
        owner: None,
        reason: "a policy could not be evaluated, so the answer is no".to_owned(),
    }
}

fn path_of(question: &Question) -> Option<&str> {
    question.facts.path.as_deref().or_else(|| question.resource.strip_prefix("path:"))
}

fn kind(kind: ActorKind) -> &'static str {
    match kind {
        ActorKind::Local => "local",
        ActorKind::Person => "person",
        ActorKind::Agent => "agent",
        ActorKind::Schedule => "schedule",
        ActorKind::System => "system",
    }
}

pub(crate) fn unknown_policy(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no policy `{id}`")).hint("`steward policy list` shows them")
}

/// The policies of a file, with their ids taken from `@id`, in the file's order.
fn parse(file: &Path, source: &str) -> Result<Vec<(Policy, PolicyText)>, Error> {
    let set =
        PolicySet::from_str(source).map_err(|error| invalid(file, source, &DetailedError::from(&error)))?;
    if let Some(template) = set.templates().next() {
        return Err(invalid_at(
            file,
            source,
            0,
            &format!("`{}` is a template; templates are not used", template.id()),
        )
        .hint("write the policy without `?principal` and `?resource`"));
    }
    // The parser numbers policies in the order of the text: policy0, policy1 …
    let mut policies: Vec<(usize, &Policy)> = set
        .policies()
        .map(|policy| {
            (policy.id().to_string().trim_start_matches("policy").parse().unwrap_or(usize::MAX), policy)
        })
        .collect();
    policies.sort_by_key(|(number, _)| *number);
    let stem = file.file_stem().map_or_else(|| "policies".into(), |stem| stem.to_string_lossy());
    let mut parsed: Vec<(Policy, PolicyText)> = Vec::with_capacity(policies.len());
    for (number, policy) in policies {
        // All at once: to ask for one makes the library parse its name, which shows at every start.
        let annotations: BTreeMap<&str, &str> = policy.annotations().collect();
        let annotation = |key: &str| annotations.get(key).copied().unwrap_or_default().to_owned();
        let text = policy.to_cedar().unwrap_or_else(|| policy.to_string());
        let at = source.find(text.trim()).unwrap_or(0);
        let mut id = annotation("id");
        if id.is_empty() {
            id = format!("{stem}.{}", number + 1);
        }
        let role = |key: &str| match annotations.get(key).copied() {
            None => Ok(None),
            Some(name) => Role::parse(name)
                .map(Some)
                .ok_or_else(|| invalid_at(file, source, at, &format!("`@{key}` names no role: `{name}`"))),
        };
        if parsed.iter().any(|(_, other)| other.id == id) {
            return Err(invalid_at(file, source, at, &format!("the policy id `{id}` is taken"))
                .hint("give it another `@id`"));
        }
        let text = PolicyText {
            tier: annotation("tier"),
            effect: policy.effect().to_string(),
            mission: annotation("mission"),
            reason: annotation("reason"),
            file: file.display().to_string(),
            to: role("to")?,
            owner: role("owner")?,
            text,
            id,
        };
        parsed.push((policy.new_id(PolicyId::new(&text.id)), text));
    }
    Ok(parsed)
}

fn invalid(file: &Path, source: &str, error: &DetailedError) -> Error {
    let at = error.source_locations.first().map_or(0, |label| label.loc.start);
    let mut message = error.message.clone();
    if let Some(label) = error.source_locations.first().and_then(|label| label.label.as_deref()) {
        message = format!("{message}: {label}");
    }
    let problem = invalid_at(file, source, at, &message);
    match &error.help {
        Some(help) => problem.hint(help.clone()),
        None => problem
            .hint("`steward policy list` shows the actions; `steward policy explain ACTION` shows examples"),
    }
}

fn invalid_at(file: &Path, source: &str, at: usize, message: &str) -> Error {
    let before = source.get(..at).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Error::new(ErrorKind::Invalid, format!("invalid policy: {message}"))
        .with("file", file.display())
        .with("line", line)
        .with("column", column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Actor;

    #[test]
    fn built_in_policies_are_valid_by_the_schema() {
        let authority = Authority::built_in().unwrap();
        let set = PolicySet::from_policies(authority.0.policies.clone()).unwrap();
        let result = Validator::new(schema().unwrap()).validate(&set, ValidationMode::Strict);
        let problems: Vec<String> = result
            .validation_errors()
            .map(ToString::to_string)
            .chain(result.validation_warnings().map(ToString::to_string))
            .collect();
        assert_eq!(problems, Vec::<String>::new());
        for text in authority.policies() {
            assert!(!text.mission.is_empty() && !text.reason.is_empty() && !text.tier.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn the_catalogue_is_the_schema() {
        let schema = schema().unwrap();
        let groups: HashSet<&EntityUid> = schema.action_groups().collect();
        let mut known: Vec<String> = schema
            .actions()
            .filter(|uid| !groups.contains(uid))
            .map(|uid| uid.id().unescaped().to_owned())
            .collect();
        known.sort_unstable();
        let mut read: Vec<&str> = catalogue().map(|words| words.action).collect();
        read.sort_unstable();
        assert_eq!(read, known);
        let authority = Authority::built_in().unwrap();
        for uid in schema.actions() {
            let of = |entities: &Entities| -> HashSet<EntityUid> {
                entities.ancestors(uid).into_iter().flatten().cloned().collect()
            };
            assert_eq!(of(&authority.0.entities), of(&schema.action_entities().unwrap()), "{uid}");
        }
    }

    #[test]
    fn three_tiers_are_found() {
        let authority = Authority::built_in().unwrap();
        let ctx = Context::new("shop", Actor::local());
        let ask = |action: &str| authority.decide(&ctx, &Question::new(action, "store:orders"), &[]);
        assert_eq!(ask("schema.migrate").name(), "permitted");
        let Decision::NeedsApproval { roles, .. } = ask("retention.change") else { panic!() };
        assert_eq!(roles, [Role::Pm]);
        assert_eq!(ask("governance.change").name(), "escalate");
        assert_eq!(ask("made.up").name(), "forbidden");
    }
}
