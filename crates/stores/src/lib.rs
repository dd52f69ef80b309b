//! Databases: inventory, queries, setup, migrations, index advice, consistency.

pub mod access;
mod advise;
mod bisect;
mod check;
mod compare;
mod consistency;
pub mod document;
mod drift;
mod execute;
mod health;
pub mod index;
mod inquiry;
mod inspect;
pub mod lint;
mod list;
mod locks;
mod measure;
pub mod migration;
pub mod operate;
mod pace;
mod plan_text;
mod prestate;
mod promise;
mod query;
mod request;
mod sample;
pub mod setup;
mod slow;
mod steps;
mod text;

pub use access::{GrantAccess, ListAccess, ReviewAccess, RevokeAccess, Rights};
pub use advise::advise;
pub use check::{CheckStore, check};
pub use compare::{
    CompareStores, ComparedColumn, Comparison, Difference, DifferentValue, RowCheck, compare,
    compare_declared,
};
pub use consistency::{CheckConsistency, Orphans, consistency};
pub use document::{DocumentSchema, document};
pub use drift::{DiffStore, diff};
pub use execute::{execute, progress};
pub use health::{CheckHealth, health};
pub use inspect::{InspectStore, SchemaFormat, inspect};
pub use list::{ListStores, list};
pub use locks::{StoreLocks, locks};
pub use measure::{MeasureStore, Measured, measure};
pub use operate::{ConfigureStore, Considered, EndSession, RebuildIndex, VacuumStore};
pub use plan_text::plan_text;
pub use query::{QueryStore, query};
pub use request::{
    AdviseIndexes, ApplyMigrations, CreateIndex, DropIndex, MigrationStatus, NewMigration, PlanMigrations,
    RewriteMigration, RollbackMigrations, SetupStore,
};
pub use slow::{Earlier, ListSlowStatements, OwnTime, slow};
