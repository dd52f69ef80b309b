//! The proof that a change was decided, which every function that changes the world asks for.

use std::time::Duration;

use jiff::Timestamp;

use crate::{Actor, Context, Error, ErrorKind, Plan, PlanDigest};

/// Says that this actor may do this action on this resource by exactly this plan, until it expires.
///
/// Opaque: only the `authority` crate calls [`Permit::mint`]; `tidy` proves it.
#[derive(Debug, Clone)]
pub struct Permit {
    actor: Actor,
    project: String,
    action: String,
    resource: String,
    plan: PlanDigest,
    approval: Option<String>,
    expires: Timestamp,
}

impl Permit {
    /// Makes a permit. Called by `authority` alone, once it has decided.
    pub fn mint(
        ctx: &Context,
        action: &str,
        resource: &str,
        plan: PlanDigest,
        approval: Option<String>,
        valid_for: Duration,
    ) -> Self {
        let valid_for = jiff::SignedDuration::try_from(valid_for).unwrap_or(jiff::SignedDuration::MAX);
        Self {
            actor: ctx.actor().clone(),
            project: ctx.project().to_owned(),
            action: action.to_owned(),
            resource: resource.to_owned(),
            plan,
            approval,
            expires: ctx.now().saturating_add(valid_for).unwrap_or(Timestamp::MAX),
        }
    }

    /// Refuses unless this permit was made for exactly this plan, this project, and has not expired.
    ///
    /// # Errors
    ///
    /// `Forbidden`: the digest, the project or the target differs, or the permit has expired.
    pub fn covers(&self, ctx: &Context, plan: &Plan) -> Result<(), Error> {
        let refuse = |why: &str| {
            Err(Error::new(ErrorKind::Forbidden, format!("the permit does not cover this plan: {why}"))
                .with("action", &self.action)
                .with("resource", &self.resource)
                .hint("ask for the change again; a plan that changed needs a new decision"))
        };
        if plan.digest() != self.plan {
            return refuse("the plan has another digest");
        }
        if plan.project != self.project || ctx.project() != self.project {
            return refuse("it is for another project");
        }
        if plan.target != self.resource {
            return refuse("it is for another resource");
        }
        if ctx.now() > self.expires {
            return refuse("it has expired");
        }
        Ok(())
    }

    /// Who was permitted.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// What was permitted, such as `schema.migrate`.
    pub fn action(&self) -> &str {
        &self.action
    }

    /// On what, such as `store:orders`.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The approval that it rests on, if one was needed.
    pub fn approval(&self) -> Option<&str> {
        self.approval.as_deref()
    }
}
