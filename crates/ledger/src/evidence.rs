//! What numbers rest on: the answers sealed, their digests in the chain.

use contract::{Context, Error, ErrorKind, Evidence, canonical_json, sha256_hex};
use serde_json::{Value as Json, json};

use crate::{Ledger, NewEvent, Row, Write};

impl Ledger {
    /// Keeps evidence of the context's project for the request of this name. The event `evidence.recorded` puts ids
    /// and digests into the chain, in the same transaction.
    ///
    /// Queued like [`Ledger::append_later`], so that reading neither waits for fsync nor ends with a full disk;
    /// [`Ledger::flush`] tells whether it is written. Evidence whose id is known already is not written again.
    ///
    /// # Errors
    ///
    /// `Denied`: the ledger is read-only. `LimitExceeded`: more than 4 MiB of ids and digests at once.
    pub async fn add_evidence(
        &self,
        ctx: &Context,
        request: &str,
        evidence: &[Evidence],
    ) -> Result<(), Error> {
        if evidence.is_empty() {
            return Ok(());
        }
        let mut write = Write::new();
        let mut recorded = Vec::with_capacity(evidence.len());
        for item in evidence {
            let answer = canonical_json(&item.answer);
            let digest = digest_of(item, &answer);
            let sealed = self.0.sealer.seal(answer.as_bytes(), &belongs_to(ctx.project(), &item.id, &digest));
            recorded.push(json!({ "id": item.id, "digest": digest, "source": item.source }));
            write = write.exec(
                "INSERT INTO evidence \
                 (id, project, request, source, statement, answer, digest, taken_us, elapsed_us, task) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                vec![
                    (&item.id).into(),
                    ctx.project().into(),
                    request.into(),
                    (&item.source).into(),
                    (&item.statement).into(),
                    sealed.into(),
                    digest.into(),
                    item.taken_at.into(),
                    elapsed_us(item.elapsed_ms).into(),
                    ctx.task().unwrap_or_default().into(),
                ],
            );
        }
        let body = json!({ "request": request, "evidence": recorded });
        self.write_later(ctx, write.event(NewEvent::new("evidence.recorded", "", body))).await
    }

    /// The evidence of this id, if the project has it. Its time is exact to the microsecond.
    ///
    /// # Errors
    ///
    /// `Corrupt`: it is not what was recorded.
    pub async fn evidence(&self, project: &str, id: &str) -> Result<Option<Evidence>, Error> {
        self.settle().await;
        let rows = self
            .query(
                "SELECT id, source, statement, answer, digest, taken_us, elapsed_us FROM evidence \
                 WHERE project = ? AND id = ?",
                vec![project.into(), id.into()],
            )
            .await?;
        rows.first().map(|row| self.evidence_of(project, row)).transpose()
    }

    /// The project's newest evidence from `source` for requests of these names, the oldest first; at most 1,000 of each.
    ///
    /// # Errors
    ///
    /// `Corrupt`: it is not what was recorded.
    pub async fn evidence_of_source(
        &self,
        project: &str,
        source: &str,
        requests: &[&str],
    ) -> Result<Vec<Evidence>, Error> {
        self.settle().await;
        let mut found = Vec::new();
        for request in requests {
            let rows = self
                .query(
                    "SELECT id, source, statement, answer, digest, taken_us, elapsed_us FROM evidence \
                     WHERE project = ? AND source = ? AND request = ? ORDER BY taken_us DESC LIMIT 1000",
                    vec![project.into(), source.into(), (*request).into()],
                )
                .await?;
            for row in &rows {
                found.push(self.evidence_of(project, row)?);
            }
        }
        found.sort_by_key(|item: &Evidence| item.taken_at);
        Ok(found)
    }

    fn evidence_of(&self, project: &str, row: &Row) -> Result<Evidence, Error> {
        let id = row.get_text("id")?;
        let damaged = || {
            Error::new(ErrorKind::Corrupt, "the evidence is not what was recorded")
                .with("evidence", id)
                .hint("compare with the event `evidence.recorded` that names it; find the extent with `steward audit verify`")
        };
        let digest = row.get_text("digest")?;
        let mut buffer = Vec::new();
        let text = self
            .0
            .sealer
            .open(row.get_blob("answer")?, &belongs_to(project, id, digest), &mut buffer)
            .and_then(|plain| std::str::from_utf8(plain).ok())
            .ok_or_else(damaged)?;
        let answer = serde_json::from_str::<Json>(text).map_err(|_| damaged())?;
        #[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
        let elapsed_ms = row.get_i64("elapsed_us")? as f64 / 1000.0;
        let evidence = Evidence {
            id: id.to_owned(),
            source: row.get_text("source")?.to_owned(),
            statement: row.get_text("statement")?.to_owned(),
            answer,
            taken_at: row.get_time("taken_us")?,
            elapsed_ms,
        };
        if digest_of(&evidence, text) == digest { Ok(evidence) } else { Err(damaged()) }
    }
}

/// Over the answer's text as it was stored: a float that was read back may differ from the one written in its last bit.
fn digest_of(evidence: &Evidence, answer: &str) -> String {
    sha256_hex(
        canonical_json(&json!({
            "id": evidence.id,
            "source": evidence.source,
            "statement": evidence.statement,
            "answer": answer,
            "taken_us": evidence.taken_at.as_microsecond(),
            "elapsed_us": elapsed_us(evidence.elapsed_ms),
        }))
        .as_bytes(),
    )
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the conversion saturates, which is all one can ask of a duration"
)]
fn elapsed_us(elapsed_ms: f64) -> i64 {
    (elapsed_ms * 1000.0).round() as i64
}

/// The digest is part of it, so that statement and digest cannot be exchanged together.
fn belongs_to(project: &str, id: &str, digest: &str) -> Vec<u8> {
    [b"steward.evidence.1\0", id.as_bytes(), b"\0", digest.as_bytes(), b"\0", project.as_bytes()].concat()
}
