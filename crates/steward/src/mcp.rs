//! The door for agents: MCP over standard input and output, and over streamable HTTP.
//!
//! One tool per subject, reads and writes apart, so that the annotations stay true. A tool's schema names its operations
//! only; `describe` gives the full schema of one. The list so stays small however many requests there are.

use std::sync::Arc;

use contract::{Actor, AnswerStatus, Context, Effect, Error, ErrorKind, Progress, RequestSpec};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, JsonObject,
    ListResourcesResult, ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, ProgressToken,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, Resource, ResourceContents,
    ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
};
use rmcp::service::{Peer, RequestContext};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::door::{Options, Steward};
use crate::progress::{Newest, TOLD_EVERY};
use crate::request::Request;

/// Which tool serves which nouns, with the tool's own sentence.
const TOOLS: &[(&str, &[&str], &str)] = &[
    (
        "store",
        &["store", "index", "migration", "access", "session", "backup", "archive", "retention"],
        "Databases: inspect, query read-only, measure, check, advise; backups: make, prove, restore, never delete",
    ),
    ("task", &["task", "report", "inbox"], "Tasks from the PM, their reports, and escalations"),
    (
        "authority",
        &["policy", "approval", "person", "token", "file", "secret"],
        "Who may do what; what waits for whom",
    ),
    (
        "ai",
        &["ai", "keys", "jobs", "prompts"],
        "AI calls: models, routes, keys and their states, exposed keys, real test calls, usage, cost, budgets, batches, training",
    ),
    (
        "audit",
        &["audit", "evidence", "status", "schedule", "docs"],
        "What happened, what numbers rest on, how everything is",
    ),
];

/// Requests that agents never make: they need a person at a terminal, or a secret in hand.
pub(crate) const FOR_PEOPLE: &[&str] = &[
    "approval.grant",
    "approval.deny",
    "secret.put",
    "secret.rotate",
    "person.add",
    "person.remove",
    "token.create",
    // Its recovery key is for whoever keeps it on paper.
    "backup.setup",
    // No agent deletes backups.
    "backup.prune",
    // Nor opens the way to it.
    "backup.accept",
    "backup.rebuild",
    // What every transaction wrote, in the clear.
    "backup.export-logs",
    // It goes on until it is interrupted; `steward up` does it.
    "backup.follow",
];

/// The resource that lists open escalations.
const INBOX_URI: &str = "steward://inbox";

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The project that the caller belongs to.
    pub project: String,
    /// Who it is.
    pub actor: Actor,
}

/// The MCP server.
#[derive(Clone)]
pub(crate) struct Server {
    steward: Arc<Steward>,
    /// The caller over standard input and output; over HTTP each request carries its own.
    caller: Option<Caller>,
}

impl Server {
    /// A server whose every request comes from `caller`, or, without one, from the caller that HTTP authenticated.
    pub(crate) fn new(steward: Arc<Steward>, caller: Option<Caller>) -> Self {
        Self { steward, caller }
    }

    fn context(&self, request: &RequestContext<RoleServer>) -> Result<Context, ErrorData> {
        let caller = match &self.caller {
            Some(caller) => Some(caller),
            None => request
                .extensions
                .get::<axum::http::request::Parts>()
                .and_then(|parts| parts.extensions.get::<Caller>()),
        };
        let caller = caller.ok_or_else(|| ErrorData::invalid_request("not authenticated", None))?;
        Ok(Context::new(&caller.project, caller.actor.clone()).with_cancellation(request.ct.clone()))
    }

    async fn call(
        &self,
        ctx: &Context,
        tool: &str,
        mut arguments: JsonObject,
    ) -> Result<CallToolResult, Error> {
        if tool == "describe" {
            let name = arguments.get("request").and_then(Value::as_str).unwrap_or_default();
            return describe(self.steward.specs(), name);
        }
        let operation = arguments.remove("operation");
        let operation = operation.as_ref().and_then(Value::as_str).unwrap_or_default();
        let known = operations(self.steward.specs(), tool);
        let Some(spec) = known.iter().find(|spec| spec.name == operation) else {
            let names: Vec<&str> = known.iter().map(|spec| spec.name).collect();
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the tool `{tool}` has no operation `{operation}`"),
            )
            .with("argument", "operation")
            .hint(format!("one of: {}", names.join(", "))));
        };
        let dry_run = arguments.remove("dry_run").is_some_and(|value| value == Value::Bool(true));
        let request = arguments.remove("arguments").unwrap_or_else(|| json!({}));
        if let Some(key) = arguments.keys().next() {
            return Err(Error::new(ErrorKind::Invalid, format!("unknown argument `{key}`"))
                .hint("put the operation's own arguments into `arguments`"));
        }
        let options = Options { dry_run, ..Options::default() };
        let answer = self.steward.submit_with(ctx, spec.name, request, options).await?;
        let text = if answer.text.is_empty() { answer.value.to_string() } else { answer.text.clone() };
        let mut content = vec![ContentBlock::text(text)];
        if let Some(more) = summary(&answer) {
            content.push(ContentBlock::text(more));
        }
        let refused = matches!(answer.status, AnswerStatus::Forbidden | AnswerStatus::Escalated);
        let mut result =
            if refused { CallToolResult::error(content) } else { CallToolResult::success(content) };
        result.structured_content = serde_json::to_value(&answer).ok();
        Ok(result)
    }
}

/// What an agent must know beside the text: status, evidence, approval.
fn summary(answer: &contract::Answer) -> Option<String> {
    let mut parts = Vec::new();
    if answer.status != AnswerStatus::Done {
        parts.push(format!("status: {}", serde_json::to_value(answer.status).ok()?.as_str()?));
    }
    if !answer.decided.reason.is_empty() && answer.status != AnswerStatus::Done {
        parts.push(answer.decided.reason.clone());
    }
    if let Some(approval) = &answer.approval
        && answer.status == AnswerStatus::Waiting
    {
        parts.push(format!("a person approves with `steward approval grant {approval}`"));
    }
    if !answer.evidence.is_empty() {
        parts.push(format!("evidence: {}", answer.evidence.join(", ")));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn describe(specs: &[RequestSpec], name: &str) -> Result<CallToolResult, Error> {
    let spec = specs.iter().find(|spec| spec.name == name).ok_or_else(|| {
        let names: Vec<&str> =
            specs.iter().map(|spec| spec.name).filter(|name| !FOR_PEOPLE.contains(name)).collect();
        Error::new(ErrorKind::Invalid, format!("there is no request `{name}`"))
            .with("argument", "request")
            .hint(format!("one of: {}", names.join(", ")))
    })?;
    let changes = Request::leads_to_changes(spec.name, spec.effect);
    let effect = if changes { Effect::Change } else { Effect::Read };
    let value =
        json!({ "request": spec.name, "summary": spec.summary, "effect": effect, "arguments": *spec.schema });
    let mut result = CallToolResult::success(vec![ContentBlock::text(value.to_string())]);
    result.structured_content = Some(value);
    Ok(result)
}

fn noun(spec: &RequestSpec) -> &'static str {
    spec.name.split('.').next().unwrap_or_default()
}

/// The operations of a tool: `store` reads, `store_change` writes.
fn operations<'a>(specs: &'a [RequestSpec], tool: &str) -> Vec<&'a RequestSpec> {
    let (subject, changes) = match tool.strip_suffix("_change") {
        Some(subject) => (subject, true),
        None => (tool, false),
    };
    let nouns = TOOLS.iter().find(|(name, ..)| *name == subject).map_or(&[][..], |(_, nouns, _)| nouns);
    specs
        .iter()
        .filter(|spec| {
            Request::leads_to_changes(spec.name, spec.effect) == changes
                && nouns.contains(&noun(spec))
                && !FOR_PEOPLE.contains(&spec.name)
        })
        .collect()
}

/// All tools, in an order that never changes between calls.
pub(crate) fn tools(specs: &[RequestSpec]) -> Vec<Tool> {
    let mut tools = Vec::new();
    for (subject, _, about) in TOOLS {
        for (name, change) in [((*subject).to_owned(), false), (format!("{subject}_change"), true)] {
            let operations = operations(specs, &name);
            if operations.is_empty() {
                continue;
            }
            let names: Vec<&str> = operations.iter().map(|spec| spec.name).collect();
            let mut properties = json!({
                "operation": { "type": "string", "enum": names },
                "arguments": { "type": "object", "description": "The operation's arguments; `describe` has their schema" },
            });
            if change {
                properties["dry_run"] =
                    json!({ "type": "boolean", "description": "Only plan and decide; change nothing" });
            }
            let schema = json!({
                "type": "object", "properties": properties, "required": ["operation"], "additionalProperties": false,
            });
            let Value::Object(schema) = schema else { unreachable!("an object was written above") };
            let about = if change {
                format!(
                    "{about}: changes. Each is planned and decided by the authority matrix first; it may wait for a person."
                )
            } else {
                format!("{about}. Reads only.")
            };
            let annotations = ToolAnnotations::new()
                .read_only(!change)
                .destructive(change)
                .idempotent(!change)
                .open_world(false);
            tools.push(Tool::new(name, about, Arc::new(schema)).with_annotations(annotations));
        }
    }
    let schema = json!({
        "type": "object", "required": ["request"], "additionalProperties": false,
        "properties": { "request": { "type": "string", "description": "Such as store.inspect" } },
    });
    let Value::Object(schema) = schema else { unreachable!("an object was written above") };
    tools.push(
        Tool::new(
            "describe",
            "The full schema of one operation's arguments, with what each means.",
            Arc::new(schema),
        )
        .with_annotations(ToolAnnotations::new().read_only(true).open_world(false)),
    );
    tools
}

/// Tells a client that asked for it how far its call has come.
async fn tell(client: Peer<RoleServer>, token: ProgressToken, mut newest: watch::Receiver<Option<Progress>>) {
    // The protocol wants a number that only grows; each stage counts from nothing.
    let (mut stage, mut before, mut bytes) = (String::new(), 0, 0);
    while newest.changed().await.is_ok() {
        let Some(progress) = newest.borrow_and_update().clone() else { continue };
        if progress.stage != stage {
            (stage, before) = (progress.stage.clone(), before + bytes);
        }
        bytes = progress.bytes;
        #[allow(clippy::cast_precision_loss)] // A share is shown.
        let number = |bytes: u64| (before + bytes) as f64;
        let mut told =
            ProgressNotificationParam::new(token.clone(), number(bytes)).with_message(progress.stage);
        told.total = progress.expected.filter(|expected| *expected >= bytes).map(number);
        if client.notify_progress(told).await.is_err() {
            return;
        }
        tokio::time::sleep(TOLD_EVERY).await;
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_resources().build();
        let mut info = ServerConfig::new(capabilities);
        info.server_info = Implementation::new("steward", env!("CARGO_PKG_VERSION"));
        info.instructions = Some(
            "Steward looks after this project's data. Ask it to do data work instead of connecting to databases \
             yourself. Numbers come with evidence ids; changes may wait for a person's approval, which you cannot give."
                .into(),
        );
        info
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools(self.steward.specs())))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let mut ctx = self.context(&context)?;
        let arguments = request.arguments.unwrap_or_default();
        if let Some(token) = context.meta.get_progress_token() {
            let (told, newest) = Newest::new();
            ctx = ctx.with_watch(Arc::new(told));
            // Ends with the request, which holds the other end.
            tokio::spawn(tell(context.peer.clone(), token, newest));
        }
        if !tools(self.steward.specs()).iter().any(|tool| tool.name == request.name) {
            return Err(ErrorData::invalid_params(format!("there is no tool `{}`", request.name), None));
        }
        Ok(match self.call(&ctx, &request.name, arguments).await {
            Ok(result) => result.into(),
            Err(error) => {
                let text = self.steward.redact(&error.to_string());
                CallToolResult::error(vec![ContentBlock::text(format!("error: {text}"))]).into()
            }
        })
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let mut inbox = Resource::new(INBOX_URI, "inbox");
        inbox.description = Some("Open escalations: what the PM must hear of".into());
        inbox.mime_type = Some("application/json".into());
        Ok(ListResourcesResult::with_all_items(vec![inbox]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        if request.uri != INBOX_URI {
            return Err(ErrorData::resource_not_found(
                format!("there is no resource `{}`", request.uri),
                None,
            ));
        }
        let ctx = self.context(&context)?;
        let answer = self.steward.submit_with(&ctx, "inbox.list", json!({}), Options::default()).await;
        let answer = answer
            .map_err(|error| ErrorData::internal_error(self.steward.redact(&error.to_string()), None))?;
        Ok(ReadResourceResult::new(vec![
            ResourceContents::text(answer.value.to_string(), INBOX_URI).with_mime_type("application/json"),
        ])
        .into())
    }
}

/// Serves MCP over standard input and output until the client goes away.
///
/// # Errors
///
/// `Unavailable`: the client did not speak MCP, or the pipe broke.
pub(crate) async fn serve_stdio(steward: Arc<Steward>, caller: Caller) -> Result<(), Error> {
    let failed =
        |cause: String| Error::new(ErrorKind::Unavailable, "the MCP connection failed").because(cause);
    let running = Box::pin(Server::new(steward, Some(caller)).serve(rmcp::transport::io::stdio()))
        .await
        .map_err(|cause| failed(cause.to_string()))?;
    running.waiting().await.map_err(|cause| failed(cause.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_a_tool_or_is_for_people() {
        let specs = crate::request::specs();
        for spec in &specs {
            let has_tool = TOOLS.iter().any(|(_, nouns, _)| nouns.contains(&noun(spec)));
            assert!(has_tool, "{} is in no tool: add its noun to TOOLS", spec.name);
        }
        for name in FOR_PEOPLE {
            assert!(specs.iter().any(|spec| spec.name == *name), "{name} is no request");
        }
    }

    #[test]
    fn tool_list_stays_small() {
        let mut specs = crate::request::specs();
        let now = serde_json::to_string(&tools(&specs)).expect("tools are JSON");
        assert!(tools(&specs).len() <= 12, "{}", tools(&specs).len());
        // Four characters a token is the usual rule of thumb for English and JSON.
        assert!(now.len() / 4 < 6_000, "{} tokens", now.len() / 4);
        // Three times as many requests as today still fit: each costs its name only.
        specs.extend((0..2).flat_map(|_| crate::request::specs()));
        let later = serde_json::to_string(&tools(&specs)).expect("tools are JSON");
        assert!(later.len() / 4 < 6_000, "{} tokens", later.len() / 4);
    }

    #[test]
    fn reads_and_writes_are_apart() {
        let specs = crate::request::specs();
        for tool in tools(&specs) {
            let read_only = tool.annotations.as_ref().and_then(|hints| hints.read_only_hint);
            for spec in operations(&specs, &tool.name) {
                let reads = !Request::leads_to_changes(spec.name, spec.effect);
                assert_eq!(read_only, Some(reads), "{}: {}", tool.name, spec.name);
                if ["task.run", "task.resume", "inbox.ack"].contains(&spec.name) {
                    assert!(!reads, "{}: a task's steps may change stores", spec.name);
                }
            }
        }
    }
}
