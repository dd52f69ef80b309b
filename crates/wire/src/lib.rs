//! The public formats of AI APIs, what passes by in them, and the conversions between them; no IO.

mod format;
mod usage;

pub use format::Format;
pub use usage::Usage;
