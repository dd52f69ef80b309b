//! From what the server says to our kinds.

use contract::{Error, ErrorKind};

/// The table from the first word of an error reply.
///
/// Source: Redis, "Redis serialization protocol specification", simple errors, and the server's own words.
pub(crate) fn of_reply(text: &str) -> Error {
    let kind = match text.split_whitespace().next().unwrap_or_default() {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => ErrorKind::Denied,
        "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" => ErrorKind::Unavailable,
        "OOM" => ErrorKind::LimitExceeded,
        "READONLY" | "MOVED" | "ASK" | "NOSCRIPT" => ErrorKind::Unsupported,
        "WRONGTYPE" => ErrorKind::Conflict,
        _ => ErrorKind::Other,
    };
    Error::new(kind, "the server of shared counters refused").because(text.to_owned())
}

pub(crate) fn of_io(cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the server of shared counters cannot be reached").because(cause)
}

pub(crate) fn odd_reply() -> Error {
    Error::new(ErrorKind::Other, "the server of shared counters answered something else")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_have_their_kind() {
        for (text, kind) in [
            ("NOAUTH Authentication required.", ErrorKind::Denied),
            ("WRONGPASS invalid username-password pair", ErrorKind::Denied),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable),
            ("OOM command not allowed", ErrorKind::LimitExceeded),
            ("READONLY You can't write against a read only replica.", ErrorKind::Unsupported),
            ("ERR unknown command", ErrorKind::Other),
            ("", ErrorKind::Other),
        ] {
            assert_eq!(of_reply(text).kind(), kind, "{text}");
        }
    }
}
