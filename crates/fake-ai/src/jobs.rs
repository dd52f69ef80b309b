//! Files, batches and fine-tuning jobs, kept in memory. A job advances one state each time that it is looked at.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::Exchange;
use crate::chat::{CREATED, error};
use crate::http::find;

/// Things of a list when the request does not say how many.
const PAGE: usize = 20;

/// How jobs go that are made from now on.
#[derive(Debug, Clone)]
pub struct JobPlan {
    /// The status in which a batch ends, such as `completed`, `expired` or `failed`.
    pub batch_ends: &'static str,
    /// Requests of a batch that are answered; `None`: all.
    pub answered: Option<usize>,
    /// Tokens of each prompt and of each answer.
    pub tokens: (u64, u64),
    /// Whether a batch's description tells its usage.
    pub tells_usage: bool,
    /// The status in which training ends, such as `succeeded` or `failed`.
    pub training_ends: &'static str,
    /// Tokens that a training tells; `None`: three times a fifth of the file's bytes.
    pub trained_tokens: Option<u64>,
}

impl Default for JobPlan {
    fn default() -> Self {
        Self {
            batch_ends: "completed",
            answered: None,
            tokens: (10, 1),
            tells_usage: false,
            training_ends: "succeeded",
            trained_tokens: None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Jobs {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    plan: JobPlan,
    made: usize,
    files: BTreeMap<String, (Value, Vec<u8>)>,
    batches: BTreeMap<String, (Value, JobPlan)>,
    tunings: BTreeMap<String, (Value, JobPlan)>,
    /// Anthropic's, with the requests.
    messages: BTreeMap<String, (Value, Vec<Value>, JobPlan)>,
    uploads: BTreeMap<String, (Value, Vec<u8>)>,
}

/// A body with its type.
pub(crate) struct Content {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) bytes: Vec<u8>,
}

fn answer(status: u16, body: &Value) -> Content {
    Content { status, kind: "application/json", bytes: body.to_string().into_bytes() }
}

fn missing(what: &str) -> Content {
    answer(404, &error(404, "not_found", &format!("no such {what}")))
}

/// A page of a list, as `limit` and `after` (or `after_id`) want it.
fn list<'a>(exchange: &Exchange, all: impl Iterator<Item = &'a Value>) -> Content {
    let asked = |wanted: &str| {
        let mut pairs = exchange.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
    };
    let limit = asked("limit").and_then(|limit| limit.parse().ok()).unwrap_or(PAGE);
    let all: Vec<&Value> = all.collect();
    let after = asked("after").or_else(|| asked("after_id"));
    let from = after.and_then(|after| all.iter().position(|one| one["id"] == after)).map_or(0, |at| at + 1);
    let page = &all[from.min(all.len())..(from + limit).min(all.len())];
    let id = |one: Option<&&Value>| one.map_or(Value::Null, |one| one["id"].clone());
    let body = json!({"object": "list", "data": page, "has_more": from + limit < all.len(),
        "first_id": id(page.first()), "last_id": id(page.last())});
    answer(200, &body)
}

impl Jobs {
    pub(crate) fn go(&self, plan: JobPlan) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).plan = plan;
    }

    pub(crate) fn answer(&self, exchange: &Exchange) -> Content {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let parts: Vec<&str> = exchange.path.split('/').filter(|part| !part.is_empty()).collect();
        let known = ["files", "uploads", "batches", "fine_tuning"];
        let from = parts.iter().position(|part| known.contains(part)).unwrap_or(parts.len());
        let of_messages = from > 0 && parts[from - 1] == "messages";
        let parts = &parts[from..];
        match (exchange.method.as_str(), parts) {
            (method, ["batches", rest @ ..]) if of_messages => kept.message_batches(exchange, method, rest),
            ("POST", ["files"]) => kept.upload(exchange),
            ("GET", ["files"]) => list(exchange, kept.files.values().map(|(file, _)| file)),
            ("GET", ["files", id]) => {
                kept.files.get(*id).map_or_else(|| missing("file"), |(file, _)| answer(200, file))
            }
            ("GET", ["files", id, "content"]) => kept.files.get(*id).map_or_else(
                || missing("file"),
                |(_, bytes)| Content { status: 200, kind: "application/octet-stream", bytes: bytes.clone() },
            ),
            ("DELETE", ["files", id]) => match kept.files.remove(*id) {
                Some(_) => answer(200, &json!({"id": id, "object": "file", "deleted": true})),
                None => missing("file"),
            },
            ("POST", ["uploads", rest @ ..]) => kept.uploads(exchange, rest),
            ("POST", ["batches"]) => kept.batch(exchange),
            ("GET", ["batches"]) => list(exchange, kept.batches.values().map(|(batch, _)| batch)),
            ("GET", ["batches", id]) => kept.advance_batch(id, None),
            ("POST", ["batches", id, "cancel"]) => kept.advance_batch(id, Some("cancelled")),
            ("POST", ["fine_tuning", "jobs"]) => kept.tuning(exchange),
            ("GET", ["fine_tuning", "jobs"]) => list(exchange, kept.tunings.values().map(|(job, _)| job)),
            ("GET", ["fine_tuning", "jobs", id]) => kept.advance_tuning(id, None),
            ("POST", ["fine_tuning", "jobs", id, "cancel"]) => kept.advance_tuning(id, Some("cancelled")),
            ("GET", ["fine_tuning", "jobs", id, "events"]) => match kept.tunings.get(*id) {
                Some((job, _)) => list(exchange, events(id, job).iter()),
                None => missing("job"),
            },
            _ => missing("path"),
        }
    }
}

/// What a training tells of itself, the newest first.
fn events(id: &str, job: &Value) -> Vec<Value> {
    let words = match job["status"].as_str() {
        Some("validating_files") => vec!["Validating training file"],
        Some("running") => vec!["Fine-tuning job started", "Validating training file"],
        Some("succeeded") => {
            vec!["The job has successfully completed", "Fine-tuning job started", "Validating training file"]
        }
        _ => vec!["The job has ended without a model", "Validating training file"],
    };
    let event = |(number, word): (usize, &&str)| {
        json!({"object": "fine_tuning.job.event", "id": format!("{id}-event{number}"), "created_at": CREATED,
            "level": "info", "message": format!("{word} (a simulation: nothing is trained)"), "type": "message"})
    };
    words.iter().enumerate().map(event).collect()
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).unwrap_or_default()).collect()
}

impl Kept {
    fn number(&mut self) -> usize {
        self.made += 1;
        self.made - 1
    }

    fn add_file(&mut self, name: &str, purpose: &str, bytes: Vec<u8>) -> Value {
        let id = format!("file-fake{}", self.number());
        let file = json!({"id": id, "object": "file", "bytes": bytes.len(), "created_at": CREATED,
            "filename": name, "purpose": purpose, "status": "processed"});
        self.files.insert(id, (file.clone(), bytes));
        file
    }

    fn upload(&mut self, exchange: &Exchange) -> Content {
        let Some(parts) = fields(exchange) else {
            return answer(400, &error(400, "invalid_request", "a file comes as multipart/form-data"));
        };
        let (mut name, mut purpose, mut content) = (String::from("file"), String::new(), None);
        for (head, body) in parts {
            if head.contains("name=\"purpose\"") {
                purpose = String::from_utf8_lossy(body).into_owned();
            } else if head.contains("name=\"file\"") {
                if let Some((_, rest)) = head.split_once("filename=\"") {
                    rest.split('"').next().unwrap_or_default().clone_into(&mut name);
                }
                content = Some(body.to_vec());
            }
        }
        match content {
            Some(bytes) => answer(200, &self.add_file(&name, &purpose, bytes)),
            None => answer(400, &error(400, "invalid_request", "the form has no file")),
        }
    }

    /// An upload in parts.
    fn uploads(&mut self, exchange: &Exchange, rest: &[&str]) -> Content {
        if rest.is_empty() {
            let request = exchange.json();
            let id = format!("upload_fake{}", self.number());
            let upload = json!({"id": id, "object": "upload", "created_at": CREATED, "status": "pending",
                "filename": request["filename"], "purpose": request["purpose"], "bytes": request["bytes"]});
            self.uploads.insert(id, (upload.clone(), Vec::new()));
            return answer(200, &upload);
        }
        let (id, verb) = (rest[0], rest.get(1).copied().unwrap_or_default());
        let number = self.number();
        let Some((upload, bytes)) = self.uploads.get_mut(id) else { return missing("upload") };
        match verb {
            "parts" => {
                let parts = fields(exchange).unwrap_or_default();
                if let Some((_, data)) = parts.iter().find(|(head, _)| head.contains("name=\"data\"")) {
                    bytes.extend_from_slice(data);
                }
                answer(
                    200,
                    &json!({"id": format!("part_fake{number}"), "object": "upload.part",
                    "created_at": CREATED, "upload_id": id}),
                )
            }
            "complete" => {
                let (name, purpose) = (upload["filename"].clone(), upload["purpose"].clone());
                let bytes = std::mem::take(bytes);
                upload["status"] = json!("completed");
                let mut upload = upload.clone();
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                upload["file"] = self.add_file(&text(&name), &text(&purpose), bytes);
                answer(200, &upload)
            }
            "cancel" => {
                upload["status"] = json!("cancelled");
                answer(200, upload)
            }
            _ => missing("path"),
        }
    }

    fn batch(&mut self, exchange: &Exchange) -> Content {
        let request = exchange.json();
        let input = request["input_file_id"].as_str().unwrap_or_default();
        let Some((_, bytes)) = self.files.get(input) else { return missing("file") };
        let total = lines(bytes).len();
        let id = format!("batch_fake{}", self.number());
        let batch = json!({
            "id": id, "object": "batch", "endpoint": request["endpoint"], "errors": null, "input_file_id": input,
            "completion_window": "24h", "status": "validating", "output_file_id": null, "error_file_id": null,
            "created_at": CREATED, "request_counts": {"total": total, "completed": 0, "failed": 0},
            "metadata": request["metadata"],
        });
        self.batches.insert(id, (batch.clone(), self.plan.clone()));
        answer(200, &batch)
    }

    /// Goes one state on; `end`: ends now, in this status, unless it has ended.
    fn advance_batch(&mut self, id: &str, end: Option<&'static str>) -> Content {
        let Some((mut batch, plan)) = self.batches.get(id).cloned() else { return missing("batch") };
        let ends = match (batch["status"].as_str(), end) {
            (Some("validating"), None) => {
                batch["status"] = json!("in_progress");
                None
            }
            (Some("validating" | "in_progress"), end) => Some(end.unwrap_or(plan.batch_ends)),
            _ => None,
        };
        if let Some(ends) = ends {
            let input = batch["input_file_id"].as_str().unwrap_or_default();
            let asked = self.files.get(input).map(|(_, bytes)| lines(bytes)).unwrap_or_default();
            let answered = plan.answered.unwrap_or(if ends == "completed" { asked.len() } else { 0 });
            let answered = answered.min(asked.len());
            let mut output = String::new();
            for asked in &asked[..answered] {
                let body =
                    answered_one(batch["endpoint"].as_str().unwrap_or_default(), &asked["body"], &plan);
                let result = json!({"id": "batch_req_fake", "custom_id": asked["custom_id"], "error": null,
                    "response": {"status_code": 200, "request_id": "req_fake", "body": body}});
                output.push_str(&result.to_string());
                output.push('\n');
            }
            if answered > 0 {
                let file = self.add_file("output.jsonl", "batch_output", output.into_bytes());
                batch["output_file_id"] = file["id"].clone();
            }
            if plan.tells_usage {
                let of = |each: u64| each * answered as u64;
                batch["usage"] = json!({"input_tokens": of(plan.tokens.0), "output_tokens": of(plan.tokens.1),
                    "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": of(plan.tokens.0 + plan.tokens.1)});
            }
            batch["status"] = json!(ends);
            batch["completed_at"] = json!(CREATED + 60);
            batch["request_counts"] =
                json!({"total": asked.len(), "completed": answered, "failed": asked.len() - answered});
        }
        self.batches.insert(id.to_owned(), (batch.clone(), plan));
        answer(200, &batch)
    }

    fn tuning(&mut self, exchange: &Exchange) -> Content {
        let request = exchange.json();
        if !self.files.contains_key(request["training_file"].as_str().unwrap_or_default()) {
            return answer(400, &error(400, "invalid_training_file", "no such training file"));
        }
        let id = format!("ftjob-fake{}", self.number());
        let job = json!({
            "id": id, "object": "fine_tuning.job", "model": request["model"], "created_at": CREATED,
            "finished_at": null, "fine_tuned_model": null, "organization_id": "org-fake", "result_files": [],
            "status": "validating_files", "training_file": request["training_file"],
            "validation_file": request["validation_file"], "hyperparameters": {"n_epochs": 3},
            "trained_tokens": null, "error": null, "seed": 1, "method": request["method"], "metadata": request["metadata"],
            "suffix": request["suffix"],
        });
        self.tunings.insert(id, (job.clone(), self.plan.clone()));
        answer(200, &job)
    }

    fn advance_tuning(&mut self, id: &str, end: Option<&'static str>) -> Content {
        let Some((job, plan)) = self.tunings.get_mut(id) else { return missing("job") };
        let ends = match (job["status"].as_str(), end) {
            (Some("validating_files"), None) => {
                job["status"] = json!("running");
                None
            }
            (Some("validating_files" | "running"), end) => Some(end.unwrap_or(plan.training_ends)),
            _ => None,
        };
        if let Some(ends) = ends {
            job["status"] = json!(ends);
            job["finished_at"] = json!(CREATED + 600);
            if ends == "succeeded" {
                let training = job["training_file"].as_str().unwrap_or_default();
                let bytes = self.files.get(training).map_or(0, |(_, bytes)| bytes.len() as u64);
                job["trained_tokens"] = json!(plan.trained_tokens.unwrap_or(bytes.div_ceil(5) * 3));
                let suffix = job["suffix"].as_str().unwrap_or_default();
                job["fine_tuned_model"] =
                    json!(format!("ft:{}:fake:{suffix}:{id}", job["model"].as_str().unwrap_or_default()));
            } else {
                job["trained_tokens"] = json!(plan.trained_tokens);
                job["error"] = json!({"code": ends, "message": "it was told to end so", "param": null});
            }
        }
        answer(200, job)
    }

    /// Anthropic's batches of messages.
    fn message_batches(&mut self, exchange: &Exchange, method: &str, rest: &[&str]) -> Content {
        match (method, rest) {
            ("POST", []) => {
                let requests = exchange.json()["requests"].as_array().cloned().unwrap_or_default();
                let id = format!("msgbatch_fake{}", self.number());
                let batch = json!({"id": id, "type": "message_batch", "processing_status": "in_progress",
                    "request_counts": {"processing": requests.len(), "succeeded": 0, "errored": 0, "canceled": 0,
                        "expired": 0},
                    "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z", "ended_at": null,
                    "archived_at": null, "cancel_initiated_at": null, "results_url": null});
                self.messages.insert(id, (batch.clone(), requests, self.plan.clone()));
                answer(200, &batch)
            }
            ("GET", []) => list(exchange, self.messages.values().map(|(batch, ..)| batch)),
            ("GET", [id]) => self.end_messages(id, "expired"),
            ("POST", [id, "cancel"]) => self.end_messages(id, "canceled"),
            ("DELETE", [id]) => match self.messages.remove(*id) {
                Some(_) => answer(200, &json!({"id": id, "type": "message_batch_deleted"})),
                None => missing("batch"),
            },
            ("GET", [id, "results"]) => match self.messages.get(*id) {
                Some((batch, requests, plan)) if batch["processing_status"] == "ended" => {
                    let succeeded = batch["request_counts"]["succeeded"].as_u64().unwrap_or(0);
                    let mut results = String::new();
                    for (number, request) in (0..).zip(requests) {
                        let result = if number < succeeded {
                            let (input, output) = plan.tokens;
                            json!({"type": "succeeded", "message": {"id": "msg_fake", "type": "message",
                                "role": "assistant", "model": request["params"]["model"],
                                "content": [{"type": "text", "text": "done"}], "stop_reason": "end_turn",
                                "stop_sequence": null,
                                "usage": {"input_tokens": input, "output_tokens": output}}})
                        } else {
                            json!({"type": "expired"})
                        };
                        let line = json!({"custom_id": request["custom_id"], "result": result});
                        results.push_str(&line.to_string());
                        results.push('\n');
                    }
                    Content { status: 200, kind: "application/x-jsonl", bytes: results.into_bytes() }
                }
                _ => missing("result"),
            },
            _ => missing("path"),
        }
    }

    /// A batch of messages ends when it is looked at.
    fn end_messages(&mut self, id: &str, otherwise: &str) -> Content {
        let Some((batch, requests, plan)) = self.messages.get_mut(id) else { return missing("batch") };
        if batch["processing_status"] != "ended" {
            let succeeded = plan.answered.unwrap_or(requests.len()).min(requests.len());
            batch["processing_status"] = json!("ended");
            batch["ended_at"] = json!("2026-01-01T01:00:00Z");
            batch["results_url"] = json!(format!("/v1/messages/batches/{id}/results"));
            let counts = &mut batch["request_counts"];
            counts["processing"] = json!(0);
            counts["succeeded"] = json!(succeeded);
            counts[otherwise] = json!(requests.len() - succeeded);
        }
        answer(200, batch)
    }
}

/// The body of an answer in a batch.
fn answered_one(endpoint: &str, asked: &Value, plan: &JobPlan) -> Value {
    let (input, output) = plan.tokens;
    if endpoint.ends_with("/responses") {
        return json!({
            "id": "resp_batch", "object": "response", "created_at": CREATED, "model": asked["model"],
            "status": "completed", "output": [{"type": "message", "id": "msg_batch", "role": "assistant",
                "status": "completed", "content": [{"type": "output_text", "text": "done", "annotations": []}]}],
            "usage": {"input_tokens": input, "output_tokens": output, "total_tokens": input + output},
        });
    }
    if endpoint.ends_with("/embeddings") {
        return json!({"object": "list", "model": asked["model"],
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
            "usage": {"prompt_tokens": input, "total_tokens": input}});
    }
    json!({
        "id": "chatcmpl-batch", "object": "chat.completion", "created": CREATED, "model": asked["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "done"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output},
    })
}

/// Heads and bodies of the fields of a form; `None`: it is none.
fn fields(exchange: &Exchange) -> Option<Vec<(String, &[u8])>> {
    let (_, boundary) = exchange.header("content-type")?.split_once("boundary=")?;
    Some(form(&exchange.body, boundary.trim_matches('"')))
}

/// Heads and bodies of the parts of a form.
fn form<'a>(mut rest: &'a [u8], boundary: &str) -> Vec<(String, &'a [u8])> {
    let boundary = format!("--{boundary}");
    let mut parts = Vec::new();
    while let Some(at) = find(rest, boundary.as_bytes()) {
        rest = &rest[at + boundary.len()..];
        let Some(head_end) = find(rest, b"\r\n\r\n") else { break };
        let Some(end) = find(rest, format!("\r\n{boundary}").as_bytes()) else { break };
        if head_end + 4 <= end {
            parts.push((String::from_utf8_lossy(&rest[..head_end]).into_owned(), &rest[head_end + 4..end]));
        }
    }
    parts
}
