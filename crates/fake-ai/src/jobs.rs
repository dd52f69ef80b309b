//! Files, batches and fine-tuning jobs, kept in memory. A job advances one state each time that it is looked at.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::Exchange;
use crate::chat::{CREATED, error};
use crate::http::find;

#[derive(Debug, Default)]
pub(crate) struct Jobs {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    files: BTreeMap<String, (Value, Vec<u8>)>,
    batches: BTreeMap<String, Value>,
    tunings: BTreeMap<String, Value>,
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

fn list<'a>(all: impl Iterator<Item = &'a Value>) -> Content {
    answer(200, &json!({"object": "list", "data": all.collect::<Vec<_>>(), "has_more": false}))
}

impl Jobs {
    pub(crate) fn answer(&self, exchange: &Exchange) -> Content {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let parts: Vec<&str> = exchange.path.split('/').filter(|part| !part.is_empty()).collect();
        let from = parts.iter().position(|part| ["files", "batches", "fine_tuning"].contains(part));
        let parts = &parts[from.unwrap_or(parts.len())..];
        match (exchange.method.as_str(), parts) {
            ("POST", ["files"]) => kept.upload(exchange),
            ("GET", ["files"]) => list(kept.files.values().map(|(file, _)| file)),
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
            ("POST", ["batches"]) => kept.batch(exchange),
            ("GET", ["batches"]) => list(kept.batches.values()),
            ("GET", ["batches", id]) => kept.advance_batch(id),
            ("POST", ["batches", id, "cancel"]) => change(kept.batches.get_mut(*id), "batch", "cancelled"),
            ("POST", ["fine_tuning", "jobs"]) => kept.tuning(exchange),
            ("GET", ["fine_tuning", "jobs"]) => list(kept.tunings.values()),
            ("GET", ["fine_tuning", "jobs", id]) => kept.advance_tuning(id),
            ("POST", ["fine_tuning", "jobs", id, "cancel"]) => {
                change(kept.tunings.get_mut(*id), "job", "cancelled")
            }
            ("GET", ["fine_tuning", "jobs", id, "events"]) if kept.tunings.contains_key(*id) => {
                let event = json!({"object": "fine_tuning.job.event", "id": format!("{id}-event"),
                    "created_at": CREATED, "level": "info", "message": "a simulation: nothing is trained", "type": "message"});
                list([event].iter())
            }
            _ => missing("path"),
        }
    }
}

fn change(job: Option<&mut Value>, what: &str, status: &str) -> Content {
    match job {
        Some(job) => {
            job["status"] = json!(status);
            answer(200, job)
        }
        None => missing(what),
    }
}

impl Kept {
    fn add_file(&mut self, name: &str, purpose: &str, bytes: Vec<u8>) -> Value {
        let id = format!("file-fake{}", self.files.len());
        let file = json!({"id": id, "object": "file", "bytes": bytes.len(), "created_at": CREATED,
            "filename": name, "purpose": purpose, "status": "processed"});
        self.files.insert(id, (file.clone(), bytes));
        file
    }

    fn upload(&mut self, exchange: &Exchange) -> Content {
        let boundary = exchange.header("content-type").and_then(|kind| kind.split_once("boundary="));
        let Some((_, boundary)) = boundary else {
            return answer(400, &error(400, "invalid_request", "a file comes as multipart/form-data"));
        };
        let (mut name, mut purpose, mut content) = (String::from("file"), String::new(), None);
        for (head, body) in form(&exchange.body, boundary.trim_matches('"')) {
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

    fn batch(&mut self, exchange: &Exchange) -> Content {
        let request = exchange.json();
        let input = request["input_file_id"].as_str().unwrap_or_default();
        let Some((_, bytes)) = self.files.get(input) else { return missing("file") };
        let total = String::from_utf8_lossy(bytes).lines().filter(|line| !line.trim().is_empty()).count();
        let id = format!("batch_fake{}", self.batches.len());
        let batch = json!({
            "id": id, "object": "batch", "endpoint": request["endpoint"], "errors": null, "input_file_id": input,
            "completion_window": "24h", "status": "validating", "output_file_id": null, "error_file_id": null,
            "created_at": CREATED, "request_counts": {"total": total, "completed": 0, "failed": 0},
            "metadata": request["metadata"],
        });
        self.batches.insert(id, batch.clone());
        answer(200, &batch)
    }

    fn advance_batch(&mut self, id: &str) -> Content {
        let Some(mut batch) = self.batches.get(id).cloned() else { return missing("batch") };
        match batch["status"].as_str() {
            Some("validating") => batch["status"] = json!("in_progress"),
            Some("in_progress") => {
                let input = batch["input_file_id"].as_str().unwrap_or_default();
                let lines =
                    self.files.get(input).map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned());
                let mut output = String::new();
                for line in lines.unwrap_or_default().lines().filter(|line| !line.trim().is_empty()) {
                    let asked: Value = serde_json::from_str(line).unwrap_or_default();
                    let body = json!({
                        "id": "chatcmpl-batch", "object": "chat.completion", "created": CREATED,
                        "model": asked["body"]["model"],
                        "choices": [{"index": 0, "message": {"role": "assistant", "content": "done"}, "finish_reason": "stop"}],
                        "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11},
                    });
                    let result = json!({"id": "batch_req_fake", "custom_id": asked["custom_id"], "error": null,
                        "response": {"status_code": 200, "request_id": "req_fake", "body": body}});
                    output.push_str(&result.to_string());
                    output.push('\n');
                }
                let file = self.add_file("output.jsonl", "batch_output", output.into_bytes());
                batch["output_file_id"] = file["id"].clone();
                batch["status"] = json!("completed");
                batch["completed_at"] = json!(CREATED + 60);
                batch["request_counts"]["completed"] = batch["request_counts"]["total"].clone();
            }
            _ => {}
        }
        self.batches.insert(id.to_owned(), batch.clone());
        answer(200, &batch)
    }

    fn tuning(&mut self, exchange: &Exchange) -> Content {
        let request = exchange.json();
        if !self.files.contains_key(request["training_file"].as_str().unwrap_or_default()) {
            return answer(400, &error(400, "invalid_training_file", "no such training file"));
        }
        let id = format!("ftjob-fake{}", self.tunings.len());
        let job = json!({
            "id": id, "object": "fine_tuning.job", "model": request["model"], "created_at": CREATED,
            "finished_at": null, "fine_tuned_model": null, "organization_id": "org-fake", "result_files": [],
            "status": "validating_files", "training_file": request["training_file"],
            "validation_file": request["validation_file"], "hyperparameters": {"n_epochs": 3},
            "trained_tokens": null, "error": null, "seed": 1, "method": request["method"], "metadata": request["metadata"],
            "suffix": request["suffix"],
        });
        self.tunings.insert(id, job.clone());
        answer(200, &job)
    }

    fn advance_tuning(&mut self, id: &str) -> Content {
        let Some(job) = self.tunings.get_mut(id) else { return missing("job") };
        match job["status"].as_str() {
            Some("validating_files") => job["status"] = json!("running"),
            Some("running") => {
                let training = job["training_file"].as_str().unwrap_or_default();
                let bytes = self.files.get(training).map_or(0, |(_, bytes)| bytes.len());
                let words = bytes.div_ceil(5) * 3;
                job["status"] = json!("succeeded");
                job["trained_tokens"] = json!(words);
                job["finished_at"] = json!(CREATED + 600);
                let suffix = job["suffix"].as_str().unwrap_or_default();
                job["fine_tuned_model"] =
                    json!(format!("ft:{}:fake:{suffix}:{id}", job["model"].as_str().unwrap_or_default()));
            }
            _ => {}
        }
        answer(200, job)
    }
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
