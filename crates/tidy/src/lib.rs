//! Tests on the house: dependency edges, names, adapter shape, licences, generated files.
//!
//! A rule is a function from what stands in the repository to a list of problems, one sentence each. The rules are
//! applied in `tests/tidy.rs`; beside each rule a test shows that it can fail.

mod adapter;
mod code;
mod dependency;
mod edge;
mod generated;
mod license;
mod manifest;
mod name;
mod repository;
mod source;

pub use adapter::misshapen_adapters;
pub use dependency::{banned_packages, drivers_out_of_place, outdated_packages};
pub use edge::forbidden_edges;
pub use generated::stale_files;
pub use license::forbidden_licenses;
pub use manifest::untidy_manifests;
pub use name::vague_names;
pub use repository::{Crate, Dependency, Kind, Package, Repository};
pub use source::{
    empty_crates, minted_permits, outside_contacts, printable_secrets, unfinished_work, unloaded_sql,
};
