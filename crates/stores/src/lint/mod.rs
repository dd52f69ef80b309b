//! Will this migration hurt? What each statement of a file locks, scans, rewrites and breaks.

mod alter;
mod judge;
mod lock;
pub(crate) mod loss;
pub mod operation;
mod parse;
mod report;
mod request;
mod rules;
mod sqlite;
pub(crate) mod types;
mod world;

pub use judge::{RelationLock, Remark, Verdict, Work};
pub use lock::{Blocking, Lock};
pub use parse::{read, read_statement};
pub use request::{Catalog, LintFormat, LintMigrations, lint, lint_text};
pub use rules::{RULES, Rule, rule_of, rules_page};
