//! Signatures of requests: AWS Signature Version 4, as every S3-compatible server checks them.
//!
//! Source: Amazon S3 API Reference, "Authenticating Requests: Using the Authorization Header".

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::seal::hex;

/// Who asks.
pub(crate) struct Credentials {
    pub(crate) access_key: String,
    secret_key: SecretString,
    /// Of credentials that expire.
    pub(crate) session_token: Option<SecretString>,
}

impl Credentials {
    /// `ACCESS_KEY:SECRET_KEY`, with a session token as the third part; or the three on lines of their own.
    pub(crate) fn parse(text: &SecretString) -> Option<Self> {
        let text = text.expose_secret().trim();
        let mut parts: Vec<&str> = if text.contains('\n') {
            text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
        } else {
            text.splitn(3, ':').map(str::trim).collect()
        };
        let token = (parts.len() == 3).then(|| parts.pop()).flatten();
        let [access_key, secret_key] = parts[..] else { return None };
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
        (plain(access_key) && plain(secret_key) && token.is_none_or(plain)).then(|| Self {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned().into(),
            session_token: token.map(|token| token.to_owned().into()),
        })
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let token = |of: &Self| of.session_token.as_ref().map(|token| token.expose_secret().to_owned());
        self.access_key == other.access_key
            && self.secret_key.expose_secret() == other.secret_key.expose_secret()
            && token(self) == token(other)
    }
}

/// What is signed of a request.
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    /// As it is sent: with escapes.
    pub(crate) path: &'a str,
    /// As it is sent: sorted, with escapes.
    pub(crate) query: &'a str,
    /// Names in lower case, sorted.
    pub(crate) headers: &'a [(String, String)],
    pub(crate) payload_sha256: &'a str,
}

/// `20260304T020000Z`, the form of the header `x-amz-date`.
pub(crate) fn amz_date(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// The value of the header `authorization`.
pub(crate) fn authorization(
    credentials: &Credentials,
    region: &str,
    at: Timestamp,
    signed: &Signed<'_>,
) -> String {
    let names: Vec<&str> = signed.headers.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let mut canonical = format!("{}\n{}\n{}\n", signed.method, signed.path, signed.query);
    for (name, value) in signed.headers {
        canonical.extend([name, ":", value.trim(), "\n"]);
    }
    canonical.extend(["\n", &names, "\n", signed.payload_sha256]);
    let (date, day) = (amz_date(at), at.strftime("%Y%m%d").to_string());
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let first = format!("AWS4{}", credentials.secret_key.expose_secret());
    let mut key = mac(first.as_bytes(), day.as_bytes());
    for part in [region, "s3", "aws4_request"] {
        key = mac(&key, part.as_bytes());
    }
    let signature = hex(&mac(&key, text.as_bytes()));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}",
        credentials.access_key
    )
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

/// Escapes what may not stand in a path or a query; `/` stays where it parts folders.
pub(crate) fn escaped(text: &str, keep_slash: bool) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if keep_slash => out.push('/'),
            _ => out.extend(['%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the reference: a part of an object of `examplebucket`.
    #[test]
    fn the_documented_example_is_signed_as_documented() {
        let credentials =
            Credentials::parse(&"AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into())
                .unwrap();
        let empty = hex(&Sha256::digest(b""));
        let headers = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", empty.as_str()),
            ("x-amz-date", "20130524T000000Z"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let signed =
            Signed { method: "GET", path: "/test.txt", query: "", headers: &headers, payload_sha256: &empty };
        let at: Timestamp = "2013-05-24T00:00:00Z".parse().unwrap();
        let header = authorization(&credentials, "us-east-1", at, &signed);
        assert!(
            header.ends_with(
                "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
                 Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
            ),
            "{header}"
        );
    }

    #[test]
    fn credentials_have_two_or_three_parts() {
        for (text, parts) in [
            ("a:b", Some(("a", false))),
            (" a:b \n", Some(("a", false))),
            ("a:b:c=:/+", Some(("a", true))),
            ("a\nb:b\n", Some(("a", false))),
            ("a\nb\nc\n", Some(("a", true))),
            ("a", None),
            ("", None),
            ("a:", None),
            (":b", None),
            ("a:b:", None),
            ("a b:c", None),
            ("a\nb\nc\nd", None),
        ] {
            let parsed = Credentials::parse(&text.into());
            let found = parsed.as_ref().map(|it| (it.access_key.as_str(), it.session_token.is_some()));
            assert_eq!(found, parts, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_plain_is_escaped() {
        for (text, keep, expected) in [
            ("a/b c", true, "a/b%20c"),
            ("a/b", false, "a%2Fb"),
            ("ü+=&", true, "%C3%BC%2B%3D%26"),
            ("-._~", true, "-._~"),
        ] {
            assert_eq!(escaped(text, keep), expected);
        }
    }
}
