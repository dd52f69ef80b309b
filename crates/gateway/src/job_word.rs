//! What providers say about files and jobs: which of them a path means, and how a job stands.
//!
//! Source: OpenAI API reference "Files", "Uploads", "Batch", "Fine-tuning"; Anthropic API reference "Message Batches".

use http::Method;
use serde_json::Value;
use wire::{Format, Usage};

use crate::meter::What;

/// A kind of work that takes hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// OpenAI's batch of a file of requests.
    Batch,
    /// Anthropic's batch of messages.
    MessageBatch,
    /// Training.
    FineTuning,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Batch, Kind::MessageBatch, Kind::FineTuning];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::MessageBatch => "message_batch",
            Self::FineTuning => "fine_tuning",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    pub(crate) fn what(self) -> What {
        if self == Self::FineTuning { What::FineTuning } else { What::Batches }
    }

    pub(crate) fn format(self) -> Format {
        if self == Self::MessageBatch { Format::Messages } else { Format::Chat }
    }

    /// The path of all jobs of the kind, after the version.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Batch => "/batches",
            Self::MessageBatch => "/messages/batches",
            Self::FineTuning => "/fine_tuning/jobs",
        }
    }
}

/// What a call means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted<'p> {
    /// A file, or an upload in parts, is made: remembered as this kind.
    New(&'static str),
    /// A part of an upload, its end, or its cancellation.
    OfUpload(&'p str),
    /// Everything of a kind.
    List(&'static str),
    /// The description of a file.
    File(&'p str),
    /// The content of a file.
    Content(&'p str),
    /// A file is deleted.
    Delete(&'p str),
    /// A job is made.
    Create(Kind),
    /// A job is looked at, or changed.
    Job(Kind, &'p str),
    /// What lies below a job: events, checkpoints, results.
    Below(Kind, &'p str),
    /// A job's record is deleted.
    Forget(Kind, &'p str),
}

impl<'p> Wanted<'p> {
    /// What is meant; `None`: nothing that is offered.
    pub(crate) fn of(method: &Method, path: &'p str) -> Option<Self> {
        let (get, post, delete) = (method == Method::GET, method == Method::POST, method == Method::DELETE);
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let jobs = |kind: Kind, rest: &[&'p str]| match rest {
            [] if post => Some(Self::Create(kind)),
            [] if get => Some(Self::List(kind.as_str())),
            [id] if get => Some(Self::Job(kind, id)),
            [id] if delete && kind == Kind::MessageBatch => Some(Self::Forget(kind, id)),
            [id, "cancel"] if post => Some(Self::Job(kind, id)),
            [id, "pause" | "resume"] if post && kind == Kind::FineTuning => Some(Self::Job(kind, id)),
            [id, "events" | "checkpoints"] if get && kind == Kind::FineTuning => Some(Self::Below(kind, id)),
            [id, "results"] if get && kind == Kind::MessageBatch => Some(Self::Below(kind, id)),
            _ => None,
        };
        match parts.as_slice() {
            ["files"] if post => Some(Self::New("file")),
            ["files"] if get => Some(Self::List("file")),
            ["files", id] if get => Some(Self::File(id)),
            ["files", id] if delete => Some(Self::Delete(id)),
            ["files", id, "content"] if get => Some(Self::Content(id)),
            ["uploads"] if post => Some(Self::New("upload")),
            ["uploads", id, "parts" | "complete" | "cancel"] if post => Some(Self::OfUpload(id)),
            ["batches", rest @ ..] => jobs(Kind::Batch, rest),
            ["messages", "batches", rest @ ..] => jobs(Kind::MessageBatch, rest),
            ["fine_tuning", "jobs", rest @ ..] => jobs(Kind::FineTuning, rest),
            _ => None,
        }
    }

    /// The file or job that the path names.
    pub(crate) fn id(&self) -> Option<&'p str> {
        match self {
            Self::New(_) | Self::List(_) | Self::Create(_) => None,
            Self::OfUpload(id)
            | Self::File(id)
            | Self::Content(id)
            | Self::Delete(id)
            | Self::Job(_, id)
            | Self::Below(_, id)
            | Self::Forget(_, id) => Some(id),
        }
    }
}

/// How a job stands, in the provider's words.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Word {
    pub id: String,
    pub status: String,
    /// Nothing more happens.
    pub has_ended: bool,
    /// It did all that it should.
    pub has_succeeded: bool,
    /// Where the answers are.
    pub output_file: Option<String>,
    /// Files that it made.
    pub files: Vec<String>,
    /// Requests that were answered, if it is told.
    pub completed: Option<u64>,
    pub failed: Option<u64>,
    /// Usage over all requests, if it is told.
    pub usage: Option<Usage>,
    pub trained_tokens: Option<u64>,
    pub tuned_model: Option<String>,
}

/// Reads a job's description; `None`: it is none.
pub(crate) fn read(kind: Kind, object: &Value) -> Option<Word> {
    let text = |name: &str| object[name].as_str().map(str::to_owned);
    let id = text("id")?;
    let mut word = Word { id, ..Word::default() };
    match kind {
        Kind::Batch => {
            word.status = text("status")?;
            word.has_ended = matches!(word.status.as_str(), "completed" | "failed" | "expired" | "cancelled");
            word.has_succeeded = word.status == "completed";
            word.output_file = text("output_file_id");
            word.files = word.output_file.iter().cloned().chain(text("error_file_id")).collect();
            word.completed = object["request_counts"]["completed"].as_u64();
            word.failed = object["request_counts"]["failed"].as_u64();
            word.usage = total(&object["usage"]);
        }
        Kind::MessageBatch => {
            word.status = text("processing_status")?;
            word.has_ended = word.status == "ended";
            let counts = &object["request_counts"];
            word.completed = counts["succeeded"].as_u64();
            let sum = |names: [&str; 3]| names.iter().filter_map(|name| counts[*name].as_u64()).sum::<u64>();
            word.failed = Some(sum(["errored", "canceled", "expired"]));
            word.has_succeeded = word.has_ended && word.failed == Some(0);
        }
        Kind::FineTuning => {
            word.status = text("status")?;
            word.has_ended = matches!(word.status.as_str(), "succeeded" | "failed" | "cancelled");
            word.has_succeeded = word.status == "succeeded";
            word.trained_tokens = object["trained_tokens"].as_u64();
            word.tuned_model = text("fine_tuned_model");
            let results = object["result_files"].as_array().into_iter().flatten();
            word.files =
                results.filter_map(|file| file.as_str().or(file["id"].as_str()).map(str::to_owned)).collect();
        }
    }
    Some(word)
}

/// The usage in a batch's own description.
fn total(usage: &Value) -> Option<Usage> {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let (input, output) = (usage["input_tokens"].as_u64()?, count(&usage["output_tokens"]));
    let cached = count(&usage["input_tokens_details"]["cached_tokens"]).min(input);
    // A batch that has not begun says 0 everywhere.
    (input > 0).then(|| Usage {
        input: input - cached,
        cache_read: cached,
        output,
        reasoning: count(&usage["output_tokens_details"]["reasoning_tokens"]).min(output),
        ..Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_mean_something_or_are_not_offered() {
        for (method, path, wanted) in [
            ("POST", "/files", Some(Wanted::New("file"))),
            ("GET", "/files", Some(Wanted::List("file"))),
            ("GET", "/files/f", Some(Wanted::File("f"))),
            ("GET", "/files/f/content", Some(Wanted::Content("f"))),
            ("DELETE", "/files/f", Some(Wanted::Delete("f"))),
            ("POST", "/uploads/u/complete", Some(Wanted::OfUpload("u"))),
            ("POST", "/batches", Some(Wanted::Create(Kind::Batch))),
            ("POST", "/batches/b/cancel", Some(Wanted::Job(Kind::Batch, "b"))),
            ("POST", "/messages/batches", Some(Wanted::Create(Kind::MessageBatch))),
            ("GET", "/messages/batches/b/results", Some(Wanted::Below(Kind::MessageBatch, "b"))),
            ("DELETE", "/messages/batches/b", Some(Wanted::Forget(Kind::MessageBatch, "b"))),
            ("DELETE", "/batches/b", None),
            ("POST", "/fine_tuning/jobs", Some(Wanted::Create(Kind::FineTuning))),
            ("GET", "/fine_tuning/jobs/j/events", Some(Wanted::Below(Kind::FineTuning, "j"))),
            // What would share a model with other accounts, or cost money that nobody counts.
            ("POST", "/fine_tuning/checkpoints/c/permissions", None),
            ("POST", "/fine_tuning/alpha/graders/run", None),
            ("PUT", "/files/f", None),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(Wanted::of(&method, path), wanted, "{method} {path}");
        }
    }

    #[test]
    fn the_state_of_a_job_is_read() {
        let batch = json!({
            "id": "b", "status": "expired", "output_file_id": "o", "error_file_id": "e",
            "request_counts": { "total": 3, "completed": 2, "failed": 1 },
            "usage": { "input_tokens": 10, "input_tokens_details": { "cached_tokens": 4 }, "output_tokens": 3 },
        });
        let word = read(Kind::Batch, &batch).unwrap();
        assert!(word.has_ended && !word.has_succeeded);
        assert_eq!((word.completed, word.files.len()), (Some(2), 2));
        let usage = word.usage.unwrap();
        assert_eq!((usage.input, usage.cache_read, usage.output), (6, 4, 3));
        let batch = json!({ "id": "m", "processing_status": "ended",
            "request_counts": { "succeeded": 1, "errored": 0, "canceled": 2, "expired": 0 } });
        let word = read(Kind::MessageBatch, &batch).unwrap();
        assert!(word.has_ended && !word.has_succeeded);
        let job = json!({ "id": "j", "status": "succeeded", "trained_tokens": 900, "fine_tuned_model": "ft:x",
            "result_files": ["r"] });
        let word = read(Kind::FineTuning, &job).unwrap();
        assert_eq!((word.trained_tokens, word.tuned_model.as_deref()), (Some(900), Some("ft:x")));
        assert_eq!(read(Kind::Batch, &json!({ "object": "list" })), None);
    }
}
