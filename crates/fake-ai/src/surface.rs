//! Which provider's interface a path belongs to.

/// The interface that a request speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Surface {
    /// `POST /v1/chat/completions`, also of an Azure deployment, whose name is the model.
    Chat {
        /// The deployment in the path.
        deployment: Option<String>,
    },
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/embeddings`, also of an Azure deployment.
    Embeddings {
        /// The deployment in the path.
        deployment: Option<String>,
    },
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/messages/count_tokens`
    CountTokens,
    /// `models/{model}:generateContent` or `:streamGenerateContent`
    Gemini {
        /// The model in the path.
        model: String,
        /// Whether it is the streaming method.
        stream: bool,
    },
    /// `models/{model}:embedContent`, `:batchEmbedContents` or `:countTokens`
    GeminiOther {
        /// The model in the path.
        model: String,
        /// What follows the colon.
        method: String,
    },
    /// `GET` of models, in whichever shape the headers ask for.
    Models,
    /// Files, batches and fine-tuning jobs.
    Jobs,
    /// Anything else.
    Unknown,
}

impl Surface {
    pub(crate) fn of(method: &str, path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let post = method == "POST";
        match parts.as_slice() {
            // OpenAI-compatible servers put anything before `/v1`.
            [.., "chat", "completions"] if post => Self::Chat { deployment: deployment(&parts) },
            [.., "embeddings"] if post => Self::Embeddings { deployment: deployment(&parts) },
            [.., "responses"] if post => Self::Responses,
            [.., "messages"] if post => Self::Messages,
            [.., "messages", "count_tokens"] if post => Self::CountTokens,
            [.., "models", call] if post && call.contains(':') => {
                let (model, method) = call.split_once(':').unwrap_or_default();
                let (model, method) = (model.to_owned(), method.to_owned());
                match method.as_str() {
                    "generateContent" => Self::Gemini { model, stream: false },
                    "streamGenerateContent" => Self::Gemini { model, stream: true },
                    _ => Self::GeminiOther { model, method },
                }
            }
            [.., "models"] | [.., "models", _] if method == "GET" => Self::Models,
            parts
                if parts.iter().any(|part| ["files", "uploads", "batches", "fine_tuning"].contains(part)) =>
            {
                Self::Jobs
            }
            _ => Self::Unknown,
        }
    }

    pub(crate) fn model(&self) -> Option<&str> {
        match self {
            Self::Gemini { model, .. } | Self::GeminiOther { model, .. } => Some(model),
            Self::Chat { deployment } | Self::Embeddings { deployment } => deployment.as_deref(),
            _ => None,
        }
    }

    /// Whether the answer is made by a model: the requests that [`crate::FakeAi::next`] means.
    pub fn is_generation(&self) -> bool {
        matches!(self, Self::Chat { .. } | Self::Responses | Self::Messages | Self::Gemini { .. })
    }
}

fn deployment(parts: &[&str]) -> Option<String> {
    let at = parts.iter().position(|part| *part == "deployments")?;
    parts.get(at + 1).map(|name| (*name).to_owned())
}
