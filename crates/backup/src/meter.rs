//! Counts the bytes that pass, for whoever watches.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use contract::{Context, Error, Part, PartBody, PartRecord, PartSink, PartSource, Progress};

/// A stage of a request, and the bytes that it has behind it.
struct Meter {
    ctx: Context,
    stage: String,
    expected: Option<u64>,
    bytes: AtomicU64,
}

impl Meter {
    fn begin(ctx: &Context, stage: String, expected: Option<u64>) -> Self {
        let meter = Self { ctx: ctx.clone(), stage, expected, bytes: AtomicU64::new(0) };
        meter.add(0);
        meter
    }

    fn add(&self, bytes: u64) {
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.ctx.report(|| Progress { stage: self.stage.clone(), bytes, expected: self.expected });
    }
}

/// Parts on their way into a repository.
pub(crate) struct MeteredSink<'a> {
    sink: &'a dyn PartSink,
    meter: Meter,
}

impl<'a> MeteredSink<'a> {
    /// `expected`: bytes of all parts, as far as the store says.
    pub(crate) fn new(ctx: &Context, stage: String, expected: Option<u64>, sink: &'a dyn PartSink) -> Self {
        Self { sink, meter: Meter::begin(ctx, stage, expected) }
    }
}

#[async_trait]
impl PartSink for MeteredSink<'_> {
    async fn put(&self, part: Part) -> Result<(), Error> {
        let bytes = match &part.body {
            PartBody::Bytes(bytes) => bytes.len() as u64,
            PartBody::File { bytes, .. } => *bytes,
        };
        self.sink.put(part).await?;
        self.meter.add(bytes);
        Ok(())
    }
}

/// Parts on their way out of a repository.
pub(crate) struct MeteredSource {
    source: Box<dyn PartSource>,
    meter: Meter,
}

impl MeteredSource {
    pub(crate) fn new(ctx: &Context, stage: String, source: Box<dyn PartSource>) -> Self {
        let all = source.parts().iter().map(|part| part.bytes).sum();
        Self { source, meter: Meter::begin(ctx, stage, Some(all)) }
    }

    fn passed(&self, path: &str) {
        let bytes = self.source.parts().iter().find(|part| part.path == path).map_or(0, |part| part.bytes);
        self.meter.add(bytes);
    }
}

#[async_trait]
impl PartSource for MeteredSource {
    fn parts(&self) -> &[PartRecord] {
        self.source.parts()
    }

    async fn read(&self, path: &str) -> Result<Bytes, Error> {
        let bytes = self.source.read(path).await?;
        self.meter.add(bytes.len() as u64);
        Ok(bytes)
    }

    async fn read_into(&self, path: &str, file: &Path) -> Result<(), Error> {
        self.source.read_into(path, file).await?;
        self.passed(path);
        Ok(())
    }
}
