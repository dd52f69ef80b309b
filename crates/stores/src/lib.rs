//! Databases: inventory, queries, setup, migrations, index advice, consistency.

mod check;
mod consistency;
mod drift;
mod inquiry;
mod inspect;
mod list;
mod measure;
mod query;
mod text;

pub use check::{CheckStore, check};
pub use consistency::{CheckConsistency, Orphans, consistency};
pub use drift::{DiffStore, diff};
pub use inspect::{InspectStore, SchemaFormat, inspect};
pub use list::{ListStores, list};
pub use measure::{MeasureStore, Measured, measure};
pub use query::{QueryStore, query};
