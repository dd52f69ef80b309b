//! Steward's own state: the chain of events, leases, evidence, and the tables in which rooms keep theirs.

mod event;
mod evidence;
mod export;
mod head;
mod lease;
mod ledger;
mod seal;
mod sealed;
mod sqlite;
mod state;
mod value;
mod verify;
mod write;
mod writer;

pub use event::{Event, EventFilter, NewEvent};
pub use head::Head;
pub use lease::Lease;
pub use ledger::{Ledger, Options};
pub use seal::Keys;
pub use sealed::Place;
pub use value::{Row, Value};
pub use verify::{Problem, Verified};
pub use write::{Write, Written};
