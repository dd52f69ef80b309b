//! Which API a path belongs to.

use std::borrow::Cow;

use http::{HeaderMap, Method};
use wire::Format;

use crate::meter::What;

/// What a client asks for, by method and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Surface {
    /// Text.
    Generate {
        format: Format,
        /// From the path, where it is said there.
        model: Option<String>,
        /// From the path, where it is said there.
        streaming: Option<bool>,
        /// A stream is one JSON array and not events: Gemini without `alt=sse`.
        array: bool,
    },
    /// Vectors; `Format::Chat` for OpenAI's words.
    Embed { format: Format, model: Option<String>, batch: bool },
    /// The number of tokens of a prompt.
    CountTokens { format: Format, model: Option<String> },
    /// The models, or one of them.
    Models { format: Format, one: Option<String> },
    /// Files, batches, training, and answers that are kept: forwarded to a provider that has them. The path begins after the
    /// version.
    Forward { format: Format, what: What, path: String },
}

impl Surface {
    /// In whose words errors are told.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Generate { format, .. }
            | Self::Embed { format, .. }
            | Self::CountTokens { format, .. }
            | Self::Models { format, .. }
            | Self::Forward { format, .. } => *format,
        }
    }
}

/// Whether a path is one of the AI surfaces.
pub(crate) fn is_surface(path: &str) -> bool {
    ["/v1/", "/v1beta/", "/openai/", "/anthropic/", "/gemini/", "/upload/v1beta/"]
        .iter()
        .any(|prefix| path.starts_with(prefix))
}

/// In whose words an error is told when the path says nothing.
pub(crate) fn likely_format(path: &str, headers: &HeaderMap) -> Format {
    if headers.contains_key("anthropic-version")
        || path.starts_with("/anthropic/")
        || path.starts_with("/v1/messages")
    {
        Format::Messages
    } else if headers.contains_key("x-goog-api-key")
        || is_google(path)
        || path.contains("/models/") && path.contains(':')
    {
        Format::Gemini
    } else {
        Format::Chat
    }
}

/// The surface of a request; `None`: there is nothing at this path.
pub(crate) fn recognise(method: &Method, path: &str, query: &str, headers: &HeaderMap) -> Option<Surface> {
    let is_post = method == Method::POST;
    if let Some(rest) = path.strip_prefix("/openai/deployments/") {
        let (deployment, rest) = rest.split_once('/')?;
        let model = Some(decoded(deployment).into_owned());
        return match rest {
            "chat/completions" if is_post => {
                Some(Surface::Generate { format: Format::Chat, model, streaming: None, array: false })
            }
            "embeddings" if is_post => Some(Surface::Embed { format: Format::Chat, model, batch: false }),
            _ => None,
        };
    }
    // Azure without a version in the path has it in the query.
    let unversioned = path.strip_prefix("/openai/").filter(|rest| !rest.starts_with("v1/"));
    let rest = match unversioned {
        Some(rest) => rest,
        None => ["/openai", "/anthropic", "/gemini", ""]
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix).filter(|rest| rest.starts_with("/v1")))
            .and_then(|rest| rest.strip_prefix("/v1/").or_else(|| rest.strip_prefix("/v1beta/")))?,
    };
    // Google's files, batches and caches are others than OpenAI's, and it has no other words; see `not_offered`.
    if is_google(path) && rest != "models" && !rest.starts_with("models/") {
        return None;
    }
    let generate = |format| Surface::Generate { format, model: None, streaming: None, array: false };
    match rest {
        "chat/completions" if is_post => return Some(generate(Format::Chat)),
        "responses" if is_post => return Some(generate(Format::Responses)),
        "messages" if is_post => return Some(generate(Format::Messages)),
        "embeddings" if is_post => {
            return Some(Surface::Embed { format: Format::Chat, model: None, batch: false });
        }
        "messages/count_tokens" if is_post => {
            return Some(Surface::CountTokens { format: Format::Messages, model: None });
        }
        "models" if method == Method::GET => {
            return Some(Surface::Models { format: likely_format(path, headers), one: None });
        }
        _ => {}
    }
    if let Some(named) = rest.strip_prefix("models/") {
        let Some((model, verb)) = named.rsplit_once(':').filter(|_| is_post) else {
            let one = Some(decoded(named).into_owned());
            let get = method == Method::GET;
            return get.then(|| Surface::Models { format: likely_format(path, headers), one });
        };
        let (format, model) = (Format::Gemini, Some(decoded(model).into_owned()));
        let array = !query.split('&').any(|pair| pair == "alt=sse");
        return Some(match verb {
            "generateContent" => Surface::Generate { format, model, streaming: Some(false), array: false },
            "streamGenerateContent" => Surface::Generate { format, model, streaming: Some(true), array },
            "embedContent" => Surface::Embed { format, model, batch: false },
            "batchEmbedContents" => Surface::Embed { format, model, batch: true },
            "countTokens" => Surface::CountTokens { format, model },
            _ => return None,
        });
    }
    let lies_in = |folder: &str| crate::config::within(folder, rest);
    let (format, what) = if lies_in("messages/batches") {
        (Format::Messages, What::Batches)
    } else if lies_in("files") || lies_in("uploads") {
        (Format::Chat, What::Files)
    } else if lies_in("batches") {
        (Format::Chat, What::Batches)
    } else if lies_in("fine_tuning") {
        (Format::Chat, What::FineTuning)
    } else {
        let kept = match (method, rest.split('/').collect::<Vec<_>>().as_slice()) {
            (&Method::GET | &Method::DELETE, ["responses", id]) => !id.is_empty(),
            (&Method::GET, ["responses", _, "input_items"]) | (&Method::POST, ["responses", _, "cancel"]) => {
                true
            }
            _ => false,
        };
        if !kept {
            return None;
        }
        (Format::Responses, What::Responses)
    };
    // A part `..` would lead out of what was checked.
    let leads_out = rest.split('/').any(|part| matches!(&*decoded(part), "." | ".."));
    (!leads_out).then(|| Surface::Forward { format, what, path: format!("/{rest}") })
}

/// Whether a path belongs to Google's API.
fn is_google(path: &str) -> bool {
    ["/v1beta/", "/gemini/", "/upload/v1beta/"].iter().any(|prefix| path.starts_with(prefix))
}

/// What there is in an API and not here, in words; `None`: it is nothing known.
pub(crate) fn not_offered(path: &str) -> Option<&'static str> {
    let prefixes = ["/openai", "/gemini", "/upload"];
    let rest = prefixes.iter().find_map(|prefix| path.strip_prefix(prefix)).unwrap_or(path);
    let rest = rest.strip_prefix("/v1beta/").or_else(|| rest.strip_prefix("/v1/"))?;
    let first = rest.split(['/', ':', '?']).next().unwrap_or_default();
    if is_google(path)
        && ["files", "batches", "cachedContents", "tunedModels", "fileSearchStores"].contains(&first)
    {
        return Some(
            "Gemini's files, batches, caches and tuned models are not offered: send the data inline, or declare the API \
             under `ai.pass_through`",
        );
    }
    let others = [
        "conversations",
        "vector_stores",
        "assistants",
        "threads",
        "containers",
        "audio",
        "images",
        "videos",
    ];
    others.contains(&first).then_some(
        "this part of the API is not offered: declare it under `ai.pass_through`, with what a call costs",
    )
}

/// The text with `%2F` and the like resolved.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = (byte == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(code.unwrap_or(byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &Method, path: &str) -> Option<Surface> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        recognise(method, path, query, &HeaderMap::new())
    }

    #[test]
    fn paths_have_surfaces() {
        let generate = |format, model: Option<&str>, streaming, array| {
            Some(Surface::Generate { format, model: model.map(str::to_owned), streaming, array })
        };
        let forward =
            |what, path: &str| Some(Surface::Forward { format: Format::Chat, what, path: path.into() });
        let kept = |path: &str| {
            Some(Surface::Forward { format: Format::Responses, what: What::Responses, path: path.into() })
        };
        for (path, surface) in [
            ("/v1/chat/completions", generate(Format::Chat, None, None, false)),
            ("/openai/v1/chat/completions", generate(Format::Chat, None, None, false)),
            (
                "/openai/deployments/d%2Fx/chat/completions?api-version=1",
                generate(Format::Chat, Some("d/x"), None, false),
            ),
            ("/openai/responses?api-version=1", generate(Format::Responses, None, None, false)),
            ("/v1/responses", generate(Format::Responses, None, None, false)),
            ("/v1/messages", generate(Format::Messages, None, None, false)),
            ("/anthropic/v1/messages", generate(Format::Messages, None, None, false)),
            (
                "/v1beta/models/fast:generateContent",
                generate(Format::Gemini, Some("fast"), Some(false), false),
            ),
            (
                "/v1/models/openai/gpt:streamGenerateContent?alt=sse",
                generate(Format::Gemini, Some("openai/gpt"), Some(true), false),
            ),
            (
                "/gemini/v1beta/models/a:streamGenerateContent",
                generate(Format::Gemini, Some("a"), Some(true), true),
            ),
            (
                "/v1/messages/count_tokens",
                Some(Surface::CountTokens { format: Format::Messages, model: None }),
            ),
            (
                "/v1beta/models/a:countTokens",
                Some(Surface::CountTokens { format: Format::Gemini, model: Some("a".into()) }),
            ),
            ("/v1/embeddings", Some(Surface::Embed { format: Format::Chat, model: None, batch: false })),
            (
                "/v1/models/e:batchEmbedContents",
                Some(Surface::Embed { format: Format::Gemini, model: Some("e".into()), batch: true }),
            ),
            ("/v1/files/f/content", forward(What::Files, "/files/f/content")),
            ("/v1/fine_tuning/jobs", forward(What::FineTuning, "/fine_tuning/jobs")),
            ("/openai/files?api-version=1", forward(What::Files, "/files")),
            ("/v1/responses/r/cancel", kept("/responses/r/cancel")),
            ("/v1/responses/r", None),
            ("/v1/responses/r/input_items", None),
            ("/v1/responses/../cancel", None),
            // Not OpenAI's.
            ("/v1beta/files", None),
            ("/v1beta/chat/completions", None),
            ("/v1beta/messages", None),
            ("/v1beta/responses", None),
            ("/gemini/v1beta/embeddings", None),
            ("/upload/v1beta/files", None),
            ("/gemini/v1beta/batches", None),
            ("/v1/files/../models", None),
            ("/v1/files/%2e%2e/models", None),
            ("/v1/filesystem", None),
            ("/v1/audio/speech", None),
            ("/v2/chat/completions", None),
            ("/v1/models/a:sing", None),
        ] {
            assert_eq!(of(&Method::POST, path), surface, "{path}");
        }
        assert_eq!(of(&Method::GET, "/v1/responses/r"), kept("/responses/r"));
        assert_eq!(of(&Method::DELETE, "/openai/v1/responses/r"), kept("/responses/r"));
        assert_eq!(of(&Method::GET, "/v1/responses/r/input_items?limit=2"), kept("/responses/r/input_items"));
        assert_eq!(of(&Method::GET, "/v1/responses/"), None);
        for (path, said) in [
            ("/v1beta/files", Some("inline")),
            ("/upload/v1beta/files", Some("inline")),
            ("/gemini/v1beta/cachedContents/x", Some("inline")),
            ("/v1/conversations", Some("pass_through")),
            ("/v1/nothing", None),
            ("/v1/files", None),
        ] {
            let told = not_offered(path);
            assert_eq!(told.is_some(), said.is_some(), "{path}");
            assert!(told.unwrap_or_default().contains(said.unwrap_or_default()), "{path}");
        }
        assert_eq!(of(&Method::GET, "/v1/chat/completions"), None);
        assert_eq!(of(&Method::GET, "/v1/models"), Some(Surface::Models { format: Format::Chat, one: None }));
        assert_eq!(
            of(&Method::GET, "/v1beta/models/a"),
            Some(Surface::Models { format: Format::Gemini, one: Some("a".into()) })
        );
    }
}
