//! Azure OpenAI: OpenAI's formats under deployments.

mod error;
mod provider;

pub use provider::AzureOpenAi;
