//! Escalations on their way to webhooks: signed, retried, deduplicable.

use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use contract::{Context, Error, ErrorKind};
use jiff::SignedDuration;
use ledger::{Ledger, Row, Write};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

/// Attempts before a delivery is given up; the escalation stays in the inbox.
const ATTEMPTS_MAX: i64 = 12;
/// Wait after the first failure; doubled with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_hours(1);
/// Deliveries of one round.
const ROUND_MAX: i64 = 100;
/// Longest time for one request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where escalations go.
#[derive(Clone)]
pub struct Webhook {
    /// Its name in the project file.
    pub name: String,
    /// Where the JSON is posted.
    pub url: String,
    /// Key of the signature; shared with the receiver.
    pub secret: SecretString,
}

/// Sends a body and gives the HTTP status; implemented over `outbound::Client`, and by tests.
#[async_trait]
pub trait Sender: Send + Sync {
    /// Posts JSON with these headers.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `TimedOut`, `Denied`: no answer came.
    async fn post(
        &self,
        ctx: &Context,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<u16, Error>;
}

#[async_trait]
impl Sender for outbound::Client {
    async fn post(
        &self,
        ctx: &Context,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<u16, Error> {
        Ok(self.post_json(ctx, url, headers, body).await?.status())
    }
}

/// What a round of deliveries did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Received with a status of 2xx.
    pub delivered: u64,
    /// To be tried again.
    pub postponed: u64,
    /// Given up after the last attempt, or because the webhook is no longer configured.
    pub given_up: u64,
}

/// Sends every delivery that is due. Safe to call from several processes: each delivery is claimed before it is sent.
///
/// The receiver sees `X-Steward-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.body">` and `Idempotency-Key`,
/// which stays the same over all attempts. A process that ends between sending and recording sends again.
///
/// # Errors
///
/// As the ledger; a receiver that fails is not an error but a later attempt.
pub async fn deliver_due(
    ctx: &Context,
    ledger: &Ledger,
    webhooks: &[Webhook],
    sender: &dyn Sender,
) -> Result<Delivered, Error> {
    let due = ledger
        .query(
            "SELECT d.escalation, d.target, d.attempts, d.next_us, e.trigger, e.severity, e.title, e.detail, e.subject, \
             e.evidence, e.seen, e.task, e.created_us, e.last_us FROM deliveries d \
             JOIN escalations e ON e.id = d.escalation AND e.project = d.project \
             WHERE d.project = ? AND d.next_us IS NOT NULL AND d.next_us <= ? ORDER BY d.next_us LIMIT ?",
            vec![ctx.project().into(), ctx.now().into(), ROUND_MAX.into()],
        )
        .await?;
    let mut round = Delivered::default();
    for row in &due {
        let escalation = row.get_text("escalation")?;
        let target = row.get_text("target")?;
        let attempts = row.get_i64("attempts")? + 1;
        let next = ctx.now().saturating_add(signed(backoff(attempts))).unwrap_or(jiff::Timestamp::MAX);
        // Claimed by counting the attempt: whoever reads next finds it not due.
        let claim = Write::new().exec(
            "UPDATE deliveries SET attempts = ?, next_us = ? \
             WHERE project = ? AND escalation = ? AND target = ? AND next_us = ?",
            vec![
                attempts.into(),
                next.into(),
                ctx.project().into(),
                escalation.into(),
                target.into(),
                row.get_i64("next_us")?.into(),
            ],
        );
        if ledger.write(ctx, claim).await?.rows_changed != [1] {
            continue;
        }
        let Some(webhook) = webhooks.iter().find(|webhook| webhook.name == target) else {
            round.given_up += 1;
            settle(ctx, ledger, row, false, Some("the webhook is no longer configured"), true).await?;
            continue;
        };
        match send(ctx, webhook, row, sender).await {
            Ok(()) => {
                round.delivered += 1;
                settle(ctx, ledger, row, true, None, true).await?;
            }
            Err(error) => {
                let last = attempts >= ATTEMPTS_MAX;
                round.given_up += u64::from(last);
                round.postponed += u64::from(!last);
                settle(ctx, ledger, row, false, Some(error.message()), last).await?;
                tracing::warn!(
                    webhook = target,
                    attempt = attempts,
                    error = error.message(),
                    "webhook not delivered"
                );
            }
        }
    }
    Ok(round)
}

async fn settle(
    ctx: &Context,
    ledger: &Ledger,
    row: &Row,
    delivered: bool,
    error: Option<&str>,
    last: bool,
) -> Result<(), Error> {
    let write = Write::new().exec(
        "UPDATE deliveries SET delivered_us = ?, last_error = ?, next_us = CASE WHEN ? = 1 THEN NULL ELSE next_us END \
         WHERE project = ? AND escalation = ? AND target = ?",
        vec![
            delivered.then(|| ctx.now()).into(),
            error.into(),
            i64::from(last).into(),
            ctx.project().into(),
            row.get_text("escalation")?.into(),
            row.get_text("target")?.into(),
        ],
    );
    ledger.write(ctx, write).await.map(|_| ())
}

async fn send(ctx: &Context, webhook: &Webhook, row: &Row, sender: &dyn Sender) -> Result<(), Error> {
    let evidence: Vec<String> = row.get_json("evidence")?;
    let id = row.get_text("escalation")?;
    let body = json!({
        "version": 1,
        "type": "escalation",
        "id": id,
        "project": ctx.project(),
        "trigger": row.get_text("trigger")?,
        "severity": row.get_text("severity")?,
        "title": row.get_text("title")?,
        "detail": row.get_text("detail")?,
        "subject": row.get_text("subject")?,
        "evidence": evidence,
        "seen": row.get_i64("seen")?,
        "task": row.get_text("task")?,
        "created": row.get_time("created_us")?.to_string(),
        "last": row.get_time("last_us")?.to_string(),
    });
    let body = body.to_string().into_bytes();
    let at = ctx.now().as_second();
    let signature = format!("t={at},v1={}", sign(&webhook.secret, at, &body));
    let idempotency = format!("{id}:{}", webhook.name);
    let headers = [
        ("X-Steward-Signature", signature.as_str()),
        ("Idempotency-Key", idempotency.as_str()),
        ("X-Steward-Event", "escalation"),
    ];
    let ctx = ctx.clone().with_timeout(TIMEOUT);
    let status = ctx.run(sender.post(&ctx, &webhook.url, &headers, body)).await?;
    if (200..300).contains(&status) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, format!("the webhook answered {status}"))
        .with("webhook", &webhook.name))
}

/// Hex of HMAC-SHA256 over `t.body`, as a receiver computes it again.
pub fn sign(secret: &SecretString, at: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let mut mac = hmac::Context::with_key(&key);
    mac.update(format!("{at}.").as_bytes());
    mac.update(body);
    mac.sign().as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        use std::fmt::Write;
        write!(hex, "{byte:02x}").expect("writing to a string does not fail");
        hex
    })
}

/// Wait before the attempt after this one: doubling, with a jitter of up to a quarter so that many do not come at once.
fn backoff(attempts: i64) -> Duration {
    let doublings = u32::try_from(attempts - 1).unwrap_or(0).min(16);
    let wait = BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    wait + wait / 4 * random / 255
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_stay_bounded() {
        for (attempts, least, most) in
            [(1, 5.0, 6.3), (2, 10.0, 12.6), (5, 80.0, 100.1), (40, 3600.0, 4500.1)]
        {
            for _ in 0..20 {
                let wait = backoff(attempts).as_secs_f64();
                assert!((least..=most).contains(&wait), "attempt {attempts}: {wait}");
            }
        }
    }

    #[test]
    fn signature_is_hmac_sha256_of_time_and_body() {
        // Computed with: printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key
        let signature = sign(&SecretString::from("key"), 1_700_000_000, br#"{"a":1}"#);
        assert_eq!(signature, "a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03");
    }
}
