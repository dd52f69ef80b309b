//! Who may do what: the mission's authority matrix, approvals, people, escalation triggers; mints permits.

mod decision;
mod matrix;
mod question;
mod territory;

pub use decision::{Approved, Decision};
pub use matrix::{Authority, PolicyText};
pub use question::{Environment, Facts, Question};
pub use territory::Territory;
