//! Anthropic: messages.

mod error;
mod provider;

pub use provider::Anthropic;
