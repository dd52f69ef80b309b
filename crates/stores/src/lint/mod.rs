//! Will this migration hurt? What each statement of a file locks, scans, rewrites and breaks.

mod columns;
mod constraints;
mod folder;
mod indexes;
mod judge;
mod lock;
pub(crate) mod loss;
mod objects;
pub mod operation;
mod parse;
mod report;
mod request;
mod rows;
mod rules;
mod sqlite;
mod tables;
pub(crate) mod types;
mod verdict;
mod world;

pub(crate) use judge::judge;
pub use lock::{Blocking, Lock};
pub use parse::{read, read_statement};
pub(crate) use request::read_world;
pub use request::{Catalog, LintFormat, LintMigrations, lint, lint_text};
pub use rules::{RULES, Rule, rule_of, rules_page};
pub use verdict::{RelationLock, Remark, Verdict, Work};
pub(crate) use world::World;
