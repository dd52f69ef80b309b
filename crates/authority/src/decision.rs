//! What the matrix answers.

use contract::{Context, Decided, Role};
use serde::Serialize;

/// An approval whose signature, digest, expiry and single use were verified; made by this crate alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) plan_digest: String,
    pub(crate) action: String,
    pub(crate) role: Role,
    pub(crate) approver: String,
    pub(crate) independence: String,
    pub(crate) expires_us: i64,
}

impl Approved {
    /// What an approval by `role` would be, to ask what would be decided; covers no plan.
    pub(crate) fn assumed(ctx: &Context, action: &str, role: Role) -> Self {
        Self {
            id: String::new(),
            project: ctx.project().to_owned(),
            plan_digest: String::new(),
            action: action.to_owned(),
            role,
            approver: String::new(),
            independence: String::new(),
            expires_us: i64::MAX,
        }
    }

    /// The approval's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// In which role it was given.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who gave it.
    pub fn approver(&self) -> &str {
        &self.approver
    }

    /// `second_person`, `self_confirmed` or `requester_unproven`.
    pub fn independence(&self) -> &str {
        &self.independence
    }
}

/// What the matrix answers; `policies` are the ids that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Decision {
    /// It may be done.
    Permitted {
        /// The policies that permit it.
        policies: Vec<String>,
        /// Why, in a sentence.
        reason: String,
    },
    /// It may be done once someone with one of these roles has approved exactly this plan. Where several must approve,
    /// the next question asks for the next of them.
    #[serde(rename = "approval")]
    NeedsApproval {
        /// Any one of these is enough for this step.
        roles: Vec<Role>,
        /// The policies that demand it.
        policies: Vec<String>,
        /// Why, in a sentence.
        reason: String,
    },
    /// Nobody may decide it inside Steward; it goes to someone else.
    Escalate {
        /// Whom it goes to.
        to: Role,
        /// The policies that demand it.
        policies: Vec<String>,
        /// Why, in a sentence.
        reason: String,
    },
    /// It may not be done.
    Forbidden {
        /// The policies that forbid it; empty when none permits it.
        policies: Vec<String>,
        /// Whose territory it is, when it is another agent's.
        owner: Option<Role>,
        /// Why, in a sentence.
        reason: String,
    },
}

impl Decision {
    /// `permitted`, `approval`, `escalate` or `forbidden`.
    pub fn name(&self) -> &'static str {
        match self {
            Decision::Permitted { .. } => "permitted",
            Decision::NeedsApproval { .. } => "approval",
            Decision::Escalate { .. } => "escalate",
            Decision::Forbidden { .. } => "forbidden",
        }
    }

    /// Whether it may be done now.
    pub fn is_permitted(&self) -> bool {
        matches!(self, Decision::Permitted { .. })
    }

    /// The ids of the policies that decided.
    pub fn policies(&self) -> &[String] {
        match self {
            Decision::Permitted { policies, .. }
            | Decision::NeedsApproval { policies, .. }
            | Decision::Escalate { policies, .. }
            | Decision::Forbidden { policies, .. } => policies,
        }
    }

    /// Why, in a sentence.
    pub fn reason(&self) -> &str {
        match self {
            Decision::Permitted { reason, .. }
            | Decision::NeedsApproval { reason, .. }
            | Decision::Escalate { reason, .. }
            | Decision::Forbidden { reason, .. } => reason,
        }
    }

    /// The short form that goes into answers and the ledger.
    pub fn decided(&self) -> Decided {
        let approvers = match self {
            Decision::NeedsApproval { roles, .. } => roles.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        Decided {
            decision: self.name().to_owned(),
            policies: self.policies().to_vec(),
            approvers,
            reason: self.reason().to_owned(),
        }
    }
}
