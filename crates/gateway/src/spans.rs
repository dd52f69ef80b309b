//! A span for each request and one for each attempt, sent to an OpenTelemetry collector.
//!
//! Names are those of the OpenTelemetry semantic conventions for generative AI. Spans are made when a request has been
//! settled, from what was recorded of it, so the path of the request itself knows nothing of them. Prompts and answers
//! are never in them.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use contract::{Error, ErrorKind};
use opentelemetry::trace::{
    Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
    TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::runtime;
use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider};

use crate::meter::{Ending, Settlement};
use crate::usd::Usd;

/// How long a batch may take to be sent.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

thread_local! {
    /// The id of the next span that this thread makes; 0: any.
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// Gives spans the ids that providers were told already, and others random ones.
#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        self.0.new_trace_id()
    }

    fn new_span_id(&self) -> SpanId {
        match NEXT.take() {
            0 => self.0.new_span_id(),
            told => SpanId::from_bytes(told.to_be_bytes()),
        }
    }
}

/// Sends spans in batches; what the collector does not take is dropped, never waited for.
pub struct Spans {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    url: String,
}

impl Drop for Spans {
    fn drop(&mut self) {
        let provider = self.provider.clone();
        // It waits for the runtime to send, so not on a thread of the runtime.
        std::thread::spawn(move || {
            if let Err(error) = provider.shutdown() {
                tracing::warn!(%error, "the last spans were not taken by the collector");
            }
        });
    }
}

impl Spans {
    /// To a collector that takes OTLP over HTTP at this address, such as `http://127.0.0.1:4318/v1/traces`.
    ///
    /// Needs the runtime to send.
    ///
    /// # Errors
    ///
    /// `Invalid`: the address cannot be used.
    pub fn to(url: &str) -> Result<Self, Error> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|cause| {
                Error::new(ErrorKind::Invalid, "spans cannot be sent to this address")
                    .with("url", url)
                    .because(cause)
            })?;
        let provider = SdkTracerProvider::builder()
            .with_id_generator(Ids::default())
            .with_resource(Resource::builder().with_service_name("steward").build())
            .with_span_processor(BatchSpanProcessor::builder(exporter, runtime::Tokio).build())
            .build();
        let tracer = provider.tracer("steward.gateway");
        Ok(Self { provider, tracer, url: url.to_owned() })
    }

    /// Records a request that has ended.
    pub fn record(&self, project: &str, settlement: &Settlement, cost: Usd) {
        let started = SystemTime::from(settlement.started);
        let served = settlement.served_by();
        let asked = served.map_or(&*settlement.asked_model, |attempt| &attempt.target.model);
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", settlement.what.as_str()),
            KeyValue::new("gen_ai.request.model", asked.to_owned()),
            KeyValue::new("http.response.status_code", i64::from(settlement.status)),
            KeyValue::new("steward.project", project.to_owned()),
            KeyValue::new("steward.request_id", settlement.request.to_string()),
            KeyValue::new("steward.route", settlement.route.name.to_string()),
            KeyValue::new("steward.ending", settlement.ending.as_str()),
            KeyValue::new("steward.cache", settlement.cache.as_str()),
            KeyValue::new("steward.cost_usd_nanos", cost.nanos()),
        ];
        if let Some(attempt) = served {
            let provider = attempt.target.provider.kind.as_str();
            attributes.push(KeyValue::new("gen_ai.provider.name", provider_name(provider)));
        }
        if let Some(model) = &settlement.reported_model {
            attributes.push(KeyValue::new("gen_ai.response.model", model.to_string()));
        }
        if let Some(usage) = settlement.usage {
            let written = usage.cache_write_5m.saturating_add(usage.cache_write_1h);
            for (name, tokens) in [
                ("gen_ai.usage.input_tokens", usage.prompt()),
                ("gen_ai.usage.output_tokens", usage.completion()),
                ("gen_ai.usage.cache_read.input_tokens", usage.cache_read),
                ("gen_ai.usage.cache_creation.input_tokens", written),
            ] {
                attributes.push(KeyValue::new(name, i64::try_from(tokens).unwrap_or(i64::MAX)));
            }
        }
        // Below the client's span, if it sent one; what it does not record is not recorded here either.
        let parent = settlement.trace.map_or_else(Context::new, |trace| {
            let (id, span) =
                (TraceId::from_bytes(trace.id.to_be_bytes()), SpanId::from_bytes(trace.parent.to_be_bytes()));
            let flags = TraceFlags::new(trace.flags);
            Context::new().with_remote_span_context(SpanContext::new(id, span, flags, true, TraceState::NONE))
        });
        NEXT.set(settlement.trace.map_or(0, |trace| trace.span));
        let mut span = self
            .tracer
            .span_builder(format!("{} {asked}", settlement.what.as_str()))
            .with_kind(SpanKind::Client)
            .with_start_time(started)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &parent);
        if settlement.ending != Ending::Complete {
            let failure = settlement.attempts.last().and_then(|attempt| attempt.failure);
            let kind = failure.map_or(settlement.ending.as_str(), contract::ai::FailureClass::as_str);
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error(settlement.ending.as_str()));
        }
        if let Some(first) = settlement.first_byte {
            span.add_event_with_timestamp("first byte", started + first, Vec::new());
        }
        let whole = Context::new().with_remote_span_context(span.span_context().clone());
        for (number, attempt) in settlement.attempts.iter().enumerate() {
            NEXT.set(settlement.trace.map_or(0, |trace| trace.attempt(number)));
            let mut one = self
                .tracer
                .span_builder(format!("attempt {}", number + 1))
                .with_kind(SpanKind::Client)
                .with_start_time(started + attempt.began)
                .with_attributes([
                    KeyValue::new(
                        "gen_ai.provider.name",
                        provider_name(attempt.target.provider.kind.as_str()),
                    ),
                    KeyValue::new("gen_ai.request.model", attempt.target.model.to_string()),
                    KeyValue::new("steward.provider", attempt.target.provider.name.to_string()),
                    KeyValue::new("steward.key", attempt.key.to_string()),
                ])
                .start_with_context(&self.tracer, &whole);
            if let Some(status) = attempt.status {
                one.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
            }
            if let Some(failure) = attempt.failure {
                one.set_attribute(KeyValue::new("error.type", failure.as_str()));
                one.set_status(Status::error(failure.as_str()));
            }
            one.end_with_timestamp(started + attempt.began + attempt.took);
        }
        NEXT.set(0);
        span.end_with_timestamp(started + settlement.duration);
    }

    /// Where they are sent.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// A kind of provider in the words of the convention, `gen_ai.provider.name`.
pub(crate) fn provider_name(kind: &str) -> &str {
    match kind {
        "azure_openai" => "azure.ai.openai",
        "gemini" => "gcp.gemini",
        other => other,
    }
}
