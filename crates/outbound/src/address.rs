//! URLs as they may be shown.

use url::Url;

/// A longer part of a path is taken for a token, as in the webhook addresses of many services.
const PATH_PART_SHOWN_MAX: usize = 20;

/// The URL without what could be secret: user and password are left out; query values, the fragment and long parts
/// of the path become `…`. What is no URL at all is not shown.
pub fn shown_url(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) if url.has_host() => shown(&url),
        _ => "(not a URL)".into(),
    }
}

pub(crate) fn shown(url: &Url) -> String {
    let mut text = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
    if let Some(port) = url.port() {
        text.push(':');
        text.push_str(&port.to_string());
    }
    for part in url.path().split('/').skip(1) {
        text.push('/');
        text.push_str(if part.len() > PATH_PART_SHOWN_MAX { "…" } else { part });
    }
    if url.query().is_some_and(|query| !query.is_empty()) {
        // Names too: a token is often given as a name without a value.
        text.push_str("?…");
    }
    text
}

/// What in a URL may be secret, as texts to look for in an answer that repeats it.
pub(crate) fn secret_parts(url: &Url) -> Vec<String> {
    let mut parts = vec![url.username().to_owned(), url.password().unwrap_or_default().to_owned()];
    parts.extend(url.query().map(str::to_owned));
    for (name, value) in url.query_pairs() {
        parts.extend([name.into_owned(), value.into_owned()]);
    }
    parts.extend(url.path().split('/').filter(|part| part.len() > PATH_PART_SHOWN_MAX).map(str::to_owned));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_urls_are_not_shown() {
        for (url, shown) in [
            ("https://hooks.example.com/steward", "https://hooks.example.com/steward"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("https://anna:hunter2@example.com:8443/a/b", "https://example.com:8443/a/b"),
            ("https://example.com/hook?token=hunter2&x=1", "https://example.com/hook?…"),
            ("https://example.com/hook?hunter2", "https://example.com/hook?…"),
            ("https://example.com/hook#hunter2", "https://example.com/hook"),
            ("https://example.com/services/T0/xyzxyzxyzxyzxyzxyzxyzxyz", "https://example.com/services/T0/…"),
            ("http://[::1]:9/x", "http://[::1]:9/x"),
            ("hunter2", "(not a URL)"),
            ("mailto:anna@example.com", "(not a URL)"),
        ] {
            assert_eq!(shown_url(url), shown, "{url}");
        }
    }
}
