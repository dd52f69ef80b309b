//! Google Gemini: generateContent.

mod error;
mod provider;

pub use provider::Gemini;
