//! Bearer tokens: how programs and agents are known over HTTP and MCP. Only their hashes are stored.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::{Actor, ActorKind, Context, Effect, Error, ErrorKind, Outcome, Request, Role, sha256_hex};
use jiff::{SignedDuration, Timestamp};
use ledger::{Ledger, NewEvent, Row, Write};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::person::{names, people_only, validate_name};
use crate::sealed_key::fill;

/// What every token begins with, so that scanners for leaked secrets can find it.
const PREFIX: &str = "stw_";

/// Makes a bearer token for an agent or a program; its value is shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Name of the agent or program, such as `ci`.
    pub name: String,
    /// `reader` may look, `requester` may also ask for changes. Default: requester.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub role: Vec<Role>,
    /// Days until it expires. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
}

impl Request for CreateToken {
    const NAME: &'static str = "token.create";
    const SUMMARY: &'static str = "Make a bearer token for HTTP and MCP; its value is shown once";
    const EXAMPLE: &'static str = "steward token create ci --role requester --days 90";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "token.create";
    const POSITIONAL: &'static [&'static str] = &["name"];
}

/// Lists tokens without their values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListTokens {}

impl Request for ListTokens {
    const NAME: &'static str = "token.list";
    const SUMMARY: &'static str = "List tokens, without their values";
    const EXAMPLE: &'static str = "steward token list";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "token.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Withdraws a token; the daemon refuses it within a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeToken {
    /// Id of the token, or its name if only one valid token has it.
    pub token: String,
}

impl Request for RevokeToken {
    const NAME: &'static str = "token.revoke";
    const SUMMARY: &'static str = "Withdraw a token";
    const EXAMPLE: &'static str = "steward token revoke ci";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "token.revoke";
    const POSITIONAL: &'static [&'static str] = &["token"];
}

/// A token without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// What it may ask for.
    pub roles: BTreeSet<Role>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was withdrawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

impl Token {
    /// Whether it opens the door at this time.
    pub fn valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires| expires > now)
    }
}

/// The tokens of all projects. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Ledger);

impl Tokens {
    /// The tokens recorded in this ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self(ledger)
    }

    /// Makes a token. Its value is nowhere but in the second part of the answer, which is shown once.
    ///
    /// # Errors
    ///
    /// `Invalid`: the name, or a role that approves. `Forbidden`: an agent asks.
    pub async fn create(
        &self,
        ctx: &Context,
        request: &CreateToken,
    ) -> Result<(Outcome, SecretString), Error> {
        people_only(ctx, "makes tokens")?;
        validate_name(&request.name)?;
        let mut roles: BTreeSet<Role> = request.role.iter().copied().collect();
        if roles.is_empty() {
            roles.insert(Role::Requester);
        }
        if let Some(role) = roles.iter().find(|role| !matches!(role, Role::Reader | Role::Requester)) {
            return Err(Error::new(ErrorKind::Invalid, format!("a token cannot hold the role `{role}`"))
                .hint("tokens are for agents, which never approve: use `reader` or `requester`"));
        }
        let mut bytes = [0; 32];
        fill(&mut bytes);
        let value = SecretString::from(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)));
        let id = format!("token-{}", uuid::Uuid::now_v7().simple());
        let now = ctx.now();
        let expires = match request.days {
            None => None,
            Some(0) => {
                return Err(
                    Error::new(ErrorKind::Invalid, "`days` is 0").hint("the token would never be valid")
                );
            }
            Some(days) => Some(
                now.saturating_add(SignedDuration::from_hours(24 * i64::from(days)))
                    .unwrap_or(Timestamp::MAX),
            ),
        };
        let event = NewEvent::new(
            "token.created",
            format!("token:{id}"),
            json!({"name": request.name, "roles": roles, "expires_at": expires}),
        );
        let write = Write::new()
            .exec(
                "INSERT INTO tokens (id, project, name, token_hash, roles, created_us, expires_us) \
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
                vec![
                    id.as_str().into(),
                    ctx.project().into(),
                    request.name.as_str().into(),
                    sha256_hex(value.expose_secret().as_bytes()).into(),
                    serde_json::to_string(&roles).expect("roles are JSON").into(),
                    now.into(),
                    expires.into(),
                ],
            )
            .event(event)
            .bump("tokens");
        self.0.write(ctx, write).await?;
        let held: Vec<Role> = roles.iter().copied().collect();
        let until =
            expires.map_or_else(|| "until it is revoked".to_owned(), |expires| format!("until {expires}"));
        let outcome = Outcome::new(
            json!({"id": id, "name": request.name, "roles": roles, "expires_at": expires}),
            format!(
                "made token {id} for {} with {}, valid {until}; its value is shown only now",
                request.name,
                names(&held)
            ),
        );
        Ok((outcome, value))
    }

    /// All tokens of the project, the newest first.
    ///
    /// # Errors
    ///
    /// What the ledger returns.
    pub async fn all(&self, ctx: &Context) -> Result<Vec<Token>, Error> {
        let rows = self
            .0
            .query(
                "SELECT id, name, roles, created_us, expires_us, revoked_us FROM tokens \
                 WHERE project = ? ORDER BY created_us DESC, id",
                vec![ctx.project().into()],
            )
            .await?;
        rows.iter().map(token).collect()
    }

    /// The list, as an answer.
    ///
    /// # Errors
    ///
    /// What the ledger returns.
    pub async fn list(&self, ctx: &Context, _request: &ListTokens) -> Result<Outcome, Error> {
        let tokens = self.all(ctx).await?;
        let mut lines = Vec::new();
        for token in &tokens {
            let roles: Vec<Role> = token.roles.iter().copied().collect();
            let state = match (token.revoked_at, token.expires_at) {
                (Some(_), _) => "revoked".to_owned(),
                (None, Some(expires)) if expires <= ctx.now() => "expired".to_owned(),
                (None, Some(expires)) => format!("valid until {expires}"),
                (None, None) => "valid".to_owned(),
            };
            lines.push(format!("{}  {:<16} {:<18} {state}", token.id, token.name, names(&roles)));
        }
        if tokens.is_empty() {
            lines.push("no tokens; `steward token create NAME` makes one".to_owned());
        }
        Ok(Outcome::new(json!({ "tokens": tokens }), lines.join("\n")))
    }

    /// Withdraws a token.
    ///
    /// # Errors
    ///
    /// `NotFound`. `Invalid`: several valid tokens have this name. `Forbidden`: an agent asks.
    pub async fn revoke(&self, ctx: &Context, request: &RevokeToken) -> Result<Outcome, Error> {
        people_only(ctx, "revokes tokens")?;
        let now = ctx.now();
        let tokens = self.all(ctx).await?;
        let by_id = tokens.iter().find(|token| token.id == request.token);
        let named: Vec<&Token> =
            tokens.iter().filter(|token| token.name == request.token && token.valid(now)).collect();
        let token = match (by_id, named.as_slice()) {
            (Some(token), _) => token,
            (None, [only]) => *only,
            (None, []) => {
                return Err(Error::new(ErrorKind::NotFound, format!("no valid token `{}`", request.token))
                    .hint("`steward token list` shows them"));
            }
            (None, several) => {
                let ids: Vec<&str> = several.iter().map(|token| token.id.as_str()).collect();
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("several tokens are called `{}`", request.token),
                )
                .hint(format!("name one by its id: {}", ids.join(", "))));
            }
        };
        if token.revoked_at.is_some() {
            return Ok(Outcome::new(
                json!({"id": token.id, "revoked": false}),
                format!("nothing to do: {} is revoked already", token.id),
            ));
        }
        let event =
            NewEvent::new("token.revoked", format!("token:{}", token.id), json!({"name": token.name}));
        let write = Write::new()
            .exec(
                "UPDATE tokens SET revoked_us = ? WHERE project = ? AND id = ? AND revoked_us IS NULL",
                vec![now.into(), ctx.project().into(), token.id.as_str().into()],
            )
            .event(event)
            .bump("tokens");
        self.0.write(ctx, write).await?;
        Ok(Outcome::new(
            json!({"id": token.id, "revoked": true}),
            format!("revoked {} of {}", token.id, token.name),
        ))
    }

    /// Whose token this is, and in which project it opens the door; `None` for one that is unknown, expired or revoked.
    ///
    /// # Errors
    ///
    /// What the ledger returns.
    pub async fn check(
        &self,
        now: Timestamp,
        value: &SecretString,
    ) -> Result<Option<(String, Actor)>, Error> {
        if !value.expose_secret().starts_with(PREFIX) {
            return Ok(None);
        }
        // Found by the hash of 256 random bits: how long the look-up takes says nothing about a token.
        let rows = self
            .0
            .query(
                "SELECT id, project, name, roles, created_us, expires_us, revoked_us FROM tokens WHERE token_hash = ?",
                vec![sha256_hex(value.expose_secret().as_bytes()).into()],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let token = token(row)?;
        if !token.valid(now) {
            return Ok(None);
        }
        // Whatever the row says: a token never holds a role that approves.
        let roles = token.roles.into_iter().filter(|role| matches!(role, Role::Reader | Role::Requester));
        Ok(Some((row.get_text("project")?.to_owned(), Actor::new(ActorKind::Agent, token.name, roles))))
    }
}

fn token(row: &Row) -> Result<Token, Error> {
    Ok(Token {
        id: row.get_text("id")?.to_owned(),
        name: row.get_text("name")?.to_owned(),
        roles: row.get_json("roles")?,
        created_at: row.get_time("created_us")?,
        expires_at: row.get_opt_time("expires_us")?,
        revoked_at: row.get_opt_time("revoked_us")?,
    })
}
