//! Paths and headers: deployments instead of models, and versions in the query.
//!
//! Source: Azure OpenAI REST API reference, "Data plane inference" and "API version lifecycle".

use std::collections::BTreeMap;

use contract::ai::{Call, Endpoint, Failure, Operation, Provider, Rejection};
use contract::{Error, ErrorKind};
use http::Method;
use http::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use wire::Format;

/// Azure OpenAI with a resource's deployments.
#[derive(Debug, Clone, Default)]
pub struct AzureOpenAi {
    version: Option<String>,
    deployments: BTreeMap<String, String>,
}

impl AzureOpenAi {
    /// `version` such as `2024-10-21`, or `None` for the API without versions; `deployments` by model, where they are
    /// not named alike.
    pub fn new(version: Option<String>, deployments: BTreeMap<String, String>) -> Self {
        Self { version, deployments }
    }

    fn path(&self, deployment: &str, rest: &str) -> String {
        match &self.version {
            None => format!("/openai/v1{rest}"),
            Some(version) if deployment.is_empty() => format!("/openai{rest}?api-version={version}"),
            Some(version) => format!("/openai/deployments/{deployment}{rest}?api-version={version}"),
        }
    }
}

impl Provider for AzureOpenAi {
    fn kind(&self) -> &'static str {
        "azure_openai"
    }

    fn default_url(&self) -> Option<&'static str> {
        None
    }

    fn default_path(&self) -> &'static str {
        ""
    }

    fn name_sent<'a>(&'a self, model: &'a str) -> &'a str {
        self.deployments.get(model).map_or(model, String::as_str)
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::Chat, Format::Responses]
    }

    fn embeds_as(&self) -> Option<Format> {
        Some(Format::Chat)
    }

    fn endpoint(&self, call: &Call<'_>) -> Result<Endpoint, Error> {
        let deployment = self.name_sent(call.model);
        let path = match call.operation {
            Operation::Generate { format: Format::Chat, .. } => self.path(deployment, "/chat/completions"),
            // Responses name the deployment in the body.
            Operation::Generate { format: Format::Responses, .. } => self.path("", "/responses"),
            Operation::Embed => self.path(deployment, "/embeddings"),
            Operation::Models => {
                return Ok(Endpoint { method: Method::GET, ..Endpoint::post(self.path("", "/models")) });
            }
            Operation::Files => self.path("", "/files"),
            Operation::Batches => self.path("", "/batches"),
            Operation::FineTuning => self.path("", "/fine_tuning/jobs"),
            Operation::Generate { .. } | Operation::EmbedBatch | Operation::CountTokens(_) => {
                return Err(Error::new(ErrorKind::Unsupported, "Azure OpenAI has no such call"));
            }
        };
        Ok(Endpoint::post(path))
    }

    fn authorize(&self, key: &SecretString) -> Result<(HeaderName, HeaderValue), Error> {
        let mut value = HeaderValue::try_from(key.expose_secret()).map_err(|_| {
            Error::new(ErrorKind::Invalid, "the key holds characters that no header may have")
        })?;
        value.set_sensitive(true);
        Ok((HeaderName::from_static("api-key"), value))
    }

    fn classify(&self, rejection: &Rejection<'_>) -> Failure {
        crate::error::classify(rejection)
    }
}
