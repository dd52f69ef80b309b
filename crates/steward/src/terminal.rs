//! Where people sit: questions, passphrases, and what they read.

use std::io::{IsTerminal, Read, Write};

use contract::{Error, ErrorKind};
use secrecy::SecretString;

/// Longest secret that is read from standard input, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// What is said when there was none.
const NO_SECRET: &str = "no secret was given";
/// JSON on its way to standard output.
const JSON_BUFFER_BYTES: usize = 64 << 10;

/// Whether a person can be asked: standard input and standard error are a terminal.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Writes data to standard output; a reader that went away ends the program quietly.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe is the reader's decision, not an error of ours.
    let _closed = out
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") });
    let _closed = out.flush();
}

/// Writes data to standard output as JSON, as it is made: a large answer is never one text.
pub fn print_json(value: &impl serde::Serialize) {
    let mut out = std::io::BufWriter::with_capacity(JSON_BUFFER_BYTES, std::io::stdout().lock());
    // The only error here is a closed pipe.
    let _closed = serde_json::to_writer_pretty(&mut out, value)
        .map_err(std::io::Error::from)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
}

/// Writes everything else to standard error.
pub fn note(text: &str) {
    let mut err = std::io::stderr().lock();
    let _closed = writeln!(err, "{}", text.trim_end_matches('\n'));
}

/// Asks a yes-or-no question; anything but `y` or `yes` is no.
pub fn confirm(question: &str) -> bool {
    let mut err = std::io::stderr().lock();
    if write!(err, "{question} [y/N] ").and_then(|()| err.flush()).is_err() {
        return false;
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}

/// A secret typed without echo, or piped in; one trailing line break is dropped.
///
/// # Errors
///
/// `Invalid`: nothing came, or too much.
pub fn secret(prompt: &str) -> Result<SecretString, Error> {
    let failed =
        |cause: std::io::Error| Error::new(ErrorKind::Invalid, "cannot read the secret").because(cause);
    let text = if std::io::stdin().is_terminal() {
        rpassword::prompt_password(format!("{prompt}: ")).map_err(failed)?
    } else {
        let mut text = String::new();
        // One more than fits, and a line break: a value that is too long is refused, never cut.
        std::io::stdin().lock().take(SECRET_BYTES_MAX + 3).read_to_string(&mut text).map_err(failed)?;
        text
    };
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, NO_SECRET)
            .hint("type it at the prompt, or pipe it in: `printf %s \"$VALUE\" | steward …`"));
    }
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(Error::new(ErrorKind::Invalid, "the secret is too long")
            .hint(format!("at most {SECRET_BYTES_MAX} bytes are kept")));
    }
    Ok(SecretString::from(text.to_owned()))
}

/// As [`secret`]; `None` when nothing was typed or piped in.
///
/// # Errors
///
/// `Invalid`: too much.
pub fn secret_if_any(prompt: &str) -> Result<Option<SecretString>, Error> {
    match secret(prompt) {
        Ok(secret) => Ok(Some(secret)),
        Err(error) if error.message() == NO_SECRET => Ok(None),
        Err(error) => Err(error),
    }
}

/// A new passphrase, typed twice on a terminal.
///
/// # Errors
///
/// `Invalid`: the two differ, or nothing came.
pub fn new_passphrase(prompt: &str) -> Result<SecretString, Error> {
    use secrecy::ExposeSecret;
    let first = secret(prompt)?;
    if std::io::stdin().is_terminal() {
        let second = secret("once more")?;
        if first.expose_secret() != second.expose_secret() {
            return Err(Error::new(ErrorKind::Invalid, "the two passphrases differ").hint("try again"));
        }
    }
    Ok(first)
}
