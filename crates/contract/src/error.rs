//! The one error type that crosses crate borders.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What went wrong, for callers that decide by it and for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The input is wrong: a flag, a key, a file, a statement. Exit code 2.
    Invalid,
    /// The thing that was named does not exist.
    NotFound,
    /// The thing to be made exists already.
    AlreadyExists,
    /// A server or the operating system refused: wrong password, missing grant, read-only.
    Denied,
    /// The authority matrix refused. Exit code 4.
    Forbidden,
    /// The authority matrix handed the decision to someone else. Exit code 4.
    Escalated,
    /// An approval or an answer is missing; nothing has changed. Exit code 3.
    NeedsApproval,
    /// The store or adapter cannot do this, and says what to do instead.
    Unsupported,
    /// Something changed underneath: a pre-state, a lock, another process.
    Conflict,
    /// The server cannot be reached or went away.
    Unavailable,
    /// The deadline or a statement timeout passed.
    TimedOut,
    /// The caller canceled.
    Canceled,
    /// A bound was reached: rows, bytes, disk, quota.
    LimitExceeded,
    /// Stored data does not hold together.
    Corrupt,
    /// Anything else; the text says what is known.
    Other,
}

/// Whether doing the same again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request fails the same way.
    Never,
    /// A later attempt may succeed.
    Later,
    /// A later attempt may succeed, not before this time has passed.
    After(Duration),
}

/// An error with its kind, the message, what it was about, its cause and a hint.
///
/// The message is lower case without a final full stop; literals stand in backticks; no secret is ever part of it.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    retry: Retry,
    message: String,
    context: Vec<(&'static str, String)>,
    hint: Option<String>,
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a message such as: cannot create index.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let retry = match kind {
            ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::Conflict => Retry::Later,
            _ => Retry::Never,
        };
        Self(Box::new(Inner {
            kind,
            retry,
            message: message.into(),
            context: Vec::new(),
            hint: None,
            cause: None,
        }))
    }

    /// Adds what the error is about, such as `store`, `table`, `file`, `line`, `key`.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Adds what the reader should do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause; its text becomes part of what is printed, so it must hold no secret.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.cause = Some(Arc::from(cause.into()));
        self
    }

    /// Sets whether a later attempt may succeed, where the kind alone does not say it.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether doing the same again can help.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The message without context, cause and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the error is about, in the order in which it was added.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// What the reader should do, if we know.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The chain of causes as text, outermost first.
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next: Option<&(dyn std::error::Error + 'static)> =
            self.0.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static));
        while let Some(cause) = next {
            let text = cause.to_string();
            // Many drivers repeat their source's text in their own.
            if !causes.iter().any(|known: &String| known.contains(&text)) {
                causes.push(text);
            }
            next = cause.source();
        }
        causes
    }
}

/// The full text: message, context and causes, one line each; last the hint.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for (name, value) in &self.0.context {
            write!(f, "\n  {name}: {value}")?;
        }
        for cause in self.causes() {
            write!(f, "\n  because: {cause}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_prints_message_context_causes_and_hint() {
        let cause = std::io::Error::other("permission denied for schema public");
        let error = Error::new(ErrorKind::Denied, "cannot create index")
            .with("store", "orders")
            .with("table", "public.orders")
            .because(cause)
            .hint("grant CREATE on the schema to the role `steward_writer`");
        assert_eq!(
            error.to_string(),
            "cannot create index\n  store: orders\n  table: public.orders\n  because: permission denied for \
             schema public\nhint: grant CREATE on the schema to the role `steward_writer`"
        );
    }
}
