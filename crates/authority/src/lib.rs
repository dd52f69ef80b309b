//! Who may do what: the mission's authority matrix, approvals, people, escalation triggers; mints permits.

mod approval;
mod cases;
mod decision;
mod matrix;
mod person;
mod policy;
mod question;
mod sealed_key;
mod territory;
mod token;

pub use approval::{
    APPROVAL_VALID, Approval, ApprovalState, Approvals, DenyApproval, GrantApproval, ListApprovals,
    ShowApproval, Terminal,
};
pub use cases::Case;
pub use decision::{Approved, Decision};
pub use matrix::{Authority, PolicyText};
pub use person::{AddPerson, ListPeople, People, Person, RemovePerson, WRONG_PASSPHRASES_MAX};
pub use policy::{CheckPolicy, ExplainPolicy, ListPolicies, TestPolicies};
pub use question::{Environment, Facts, Question};
pub use sealed_key::PASSPHRASE_CHARACTERS_MIN;
pub use territory::Territory;
pub use token::{CreateToken, ListTokens, RevokeToken, Token, Tokens};
