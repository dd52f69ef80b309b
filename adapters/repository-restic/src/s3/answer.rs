//! What a server says: elements of XML, and what each refusal means.

use http::HeaderMap;

use crate::error::{Fault, FaultKind};

/// More levels than any answer of S3 has.
const DEPTH_MAX: usize = 16;

/// An element with its text and the elements in it; attributes and namespaces mean nothing here.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// The element that a document is.
    pub(crate) fn read(document: &[u8]) -> Option<Self> {
        let mut rest = std::str::from_utf8(document).ok()?;
        let mut open: Vec<Element> = vec![Element::default()];
        while let Some(start) = rest.find('<') {
            open.last_mut()?.text.push_str(&unescaped(&rest[..start])?);
            rest = &rest[start..];
            if let Some(after) = rest.strip_prefix("<![CDATA[") {
                let (text, after) = after.split_once("]]>")?;
                open.last_mut()?.text.push_str(text);
                rest = after;
            } else if let Some(after) = rest.strip_prefix("<!--") {
                rest = after.split_once("-->")?.1;
            } else if rest.starts_with("<?") || rest.starts_with("<!") {
                rest = rest.split_once('>')?.1;
            } else if let Some(after) = rest.strip_prefix("</") {
                let (name, after) = after.split_once('>')?;
                let done = open.pop()?;
                (done.name == local(name)).then_some(())?;
                open.last_mut()?.children.push(done);
                rest = after;
            } else {
                let (tag, after) = rest[1..].split_once('>')?;
                let closed = tag.ends_with('/');
                let tag = tag.trim_end_matches('/');
                let name = local(tag.split_ascii_whitespace().next()?).to_owned();
                let element = Element { name, ..Element::default() };
                if closed {
                    open.last_mut()?.children.push(element);
                } else {
                    open.push(element);
                    (open.len() <= DEPTH_MAX).then_some(())?;
                }
                rest = after;
            }
        }
        let [document] = &mut open[..] else { return None };
        let only = document.children.pop()?;
        document.children.is_empty().then_some(only)
    }

    /// The elements of this name in it.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// All elements in it, in their order.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Element> {
        self.children.iter()
    }

    /// The first of this name in it.
    pub(crate) fn get(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first element of this name in it, if there is any.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(|child| child.text.trim()).filter(|text| !text.is_empty())
    }
}

/// A name without its namespace.
fn local(name: &str) -> &str {
    let name = name.trim();
    name.rsplit(':').next().unwrap_or(name)
}

fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        let (name, after) = rest[start + 1..].split_once(';')?;
        out.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = name.strip_prefix('#')?;
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(code)?
            }
        });
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

/// An answer without success.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// S3's word, such as `AccessDenied`; empty where the server gave none.
    pub(crate) code: String,
    message: String,
    /// Where the bucket is, if the server says so.
    region: Option<String>,
    server_time: Option<String>,
}

/// What the words of a refusal are filled with.
pub(crate) struct Asked<'a> {
    pub(crate) doing: &'a str,
    pub(crate) path: &'a str,
    pub(crate) bucket: &'a str,
    pub(crate) region: &'a str,
    pub(crate) endpoint: &'a str,
    /// Name of the secret with the credentials.
    pub(crate) secret: &'a str,
    /// The time here.
    pub(crate) now: &'a str,
}

impl Refusal {
    pub(crate) fn read(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let header = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let element = Element::read(body).filter(|element| element.name == "Error").unwrap_or_default();
        let text = |name| element.text(name).map(str::to_owned);
        Self {
            status,
            code: text("Code").unwrap_or_default(),
            message: text("Message").unwrap_or_default().chars().take(300).collect(),
            region: text("Region").or_else(|| header("x-amz-bucket-region")),
            server_time: text("ServerTime").or_else(|| header("date")),
        }
    }

    /// Whether the same request may be answered otherwise soon.
    ///
    /// Source: Amazon S3 API Reference, "Error Responses".
    pub(crate) fn passes(&self) -> bool {
        // The last three say that the bytes were changed on their way.
        matches!(
            self.code.as_str(),
            "SlowDown"
                | "InternalError"
                | "ServiceUnavailable"
                | "RequestTimeout"
                | "OperationAborted"
                | "ConditionalRequestConflict"
                | "TooManyRequests"
                | "RequestLimitExceeded"
                | "Throttling"
                | "BadDigest"
                | "IncompleteBody"
                | "XAmzContentSHA256Mismatch"
        ) || matches!(self.status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
    }

    /// Whether other credentials under the same name may be accepted.
    pub(crate) fn is_expired(&self) -> bool {
        matches!(
            self.code.as_str(),
            "ExpiredToken"
                | "TokenRefreshRequired"
                | "InvalidToken"
                | "InvalidAccessKeyId"
                | "RequestExpired"
        )
    }

    /// The words for a person.
    pub(crate) fn fault(&self, asked: &Asked<'_>) -> Fault {
        let Asked { doing, path, bucket, region, endpoint, secret, now } = asked;
        let put = format!("put the right ones into the vault: steward secret rotate {secret}");
        let new = |kind, message: String| Fault::new(kind, message);
        let elsewhere = self.region.as_deref().filter(|there| there != region);
        match (self.code.as_str(), self.status) {
            ("NoSuchBucket", _) => {
                new(FaultKind::Invalid, format!("there is no bucket `{bucket}` at {endpoint}"))
                    .hint("make the bucket, or correct `url` and `endpoint`")
            }
            ("InvalidAccessKeyId", _) => {
                new(FaultKind::Denied, format!("{endpoint} does not know the access key in `{secret}`")).hint(put)
            }
            ("SignatureDoesNotMatch", _) => new(
                FaultKind::Denied,
                format!("{endpoint} does not accept the signature: the secret key in `{secret}` is not the access key's"),
            )
            .hint(put),
            ("ExpiredToken" | "TokenRefreshRequired" | "InvalidToken", _) => {
                new(FaultKind::Denied, format!("the credentials in `{secret}` have expired")).hint(put)
            }
            ("RequestTimeTooSkewed" | "RequestExpired", _) => new(
                FaultKind::Unavailable,
                format!(
                    "the clocks differ too much: it is {now} here and {} at {endpoint}",
                    self.server_time.as_deref().unwrap_or("another time")
                ),
            )
            .hint("set this machine's clock right; S3 refuses signatures that are more than 15 minutes off"),
            ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException", _)
            | (_, 301 | 307) => {
                let there = elsewhere.map_or("another region".to_owned(), |there| format!("the region `{there}`"));
                let set = elsewhere.map_or("set `region` and `endpoint` to the bucket's".to_owned(), |there| {
                    format!("set `region: {there}`")
                });
                new(FaultKind::Invalid, format!("the bucket `{bucket}` is in {there}, not in `{region}`")).hint(set)
            }
            ("InvalidRequest" | "ObjectLockConfigurationNotFoundError", _) if self.message.contains("Lock") => new(
                FaultKind::Invalid,
                format!("`object_lock` is set, and the bucket `{bucket}` has no object lock"),
            )
            .hint("make a bucket with object lock, or remove `object_lock`"),
            ("QuotaExceeded" | "XMinioStorageFull" | "EntityTooLarge" | "InsufficientStorage", _) | (_, 507) => {
                new(FaultKind::Full, format!("cannot {doing} `{path}`: {}", self.said()))
            }
            ("AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "ObjectLocked", _) | (_, 401 | 403) => new(
                FaultKind::Denied,
                format!("{endpoint} refuses to {doing} `{path}` with the credentials in `{secret}`: {}", self.said()),
            )
            .hint("the guide on backups elsewhere has the bucket policy that a writer and a pruner need"),
            _ => new(FaultKind::Unavailable, format!("cannot {doing} `{path}`: {}", self.said())),
        }
    }

    fn said(&self) -> String {
        match (self.code.as_str(), self.message.as_str()) {
            ("", _) => format!("the server answers {}", self.status),
            (code, "") => format!("the server answers {}, `{code}`", self.status),
            (code, message) => format!("the server answers {}, `{code}`: {message}", self.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read() {
        let document =
            br#"<?xml version="1.0"?><!-- x --><List xmlns="http://x/"><Key>a&amp;b&#33;&#x41;</Key>
            <s:Key><![CDATA[<c>]]></s:Key><Empty/><IsTruncated>false</IsTruncated></List>"#;
        let list = Element::read(document).unwrap();
        assert_eq!(list.name, "List");
        let keys: Vec<_> = list.all("Key").map(|key| key.text.as_str()).collect();
        assert_eq!(keys, ["a&b!A", "<c>"]);
        assert_eq!((list.text("IsTruncated"), list.text("Empty")), (Some("false"), None));
        for bad in
            [&b""[..], b"text", b"<a>", b"<a></b>", b"</a>", b"<a/><b/>", b"<a>&x;</a>", b"<a", b"\xff"]
        {
            assert_eq!(Element::read(bad), None, "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(Element::read("<a>".repeat(100).as_bytes()), None);
    }

    #[test]
    fn refusals_say_what_to_do() {
        let asked = Asked {
            doing: "read",
            path: "config",
            bucket: "b",
            region: "us-east-1",
            endpoint: "https://s3.example.net",
            secret: "far/writer",
            now: "20260304T020000Z",
        };
        for (status, body, kind, message) in [
            (404, "<Error><Code>NoSuchBucket</Code></Error>", FaultKind::Invalid, "there is no bucket `b`"),
            (
                403,
                "<Error><Code>InvalidAccessKeyId</Code></Error>",
                FaultKind::Denied,
                "does not know the access key in `far/writer`",
            ),
            (
                403,
                "<Error><Code>SignatureDoesNotMatch</Code></Error>",
                FaultKind::Denied,
                "the secret key in `far/writer`",
            ),
            (403, "<Error><Code>ExpiredToken</Code></Error>", FaultKind::Denied, "have expired"),
            (
                403,
                "<Error><Code>RequestTimeTooSkewed</Code><ServerTime>2026-03-04T03:00:00Z</ServerTime></Error>",
                FaultKind::Unavailable,
                "it is 20260304T020000Z here and 2026-03-04T03:00:00Z at",
            ),
            (
                400,
                "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>",
                FaultKind::Invalid,
                "in the region `eu-west-1`, not in `us-east-1`",
            ),
            (301, "", FaultKind::Invalid, "in another region"),
            (
                400,
                "<Error><Code>InvalidRequest</Code><Message>Bucket is missing Object Lock Configuration</Message></Error>",
                FaultKind::Invalid,
                "has no object lock",
            ),
            (
                403,
                "<Error><Code>AccessDenied</Code><Message>no</Message></Error>",
                FaultKind::Denied,
                "`AccessDenied`: no",
            ),
            (507, "", FaultKind::Full, "the server answers 507"),
            (500, "<html>", FaultKind::Unavailable, "the server answers 500"),
        ] {
            let fault = Refusal::read(status, &HeaderMap::new(), body.as_bytes()).fault(&asked);
            assert_eq!(fault.kind, kind, "{body}");
            assert!(fault.to_string().contains(message), "{body}: {fault}");
        }
    }
}
