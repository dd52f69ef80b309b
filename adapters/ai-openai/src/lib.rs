//! OpenAI, and every server that speaks its API.

mod error;
mod provider;

pub use error::classify;
pub use provider::OpenAi;
