//! The HTTP client: deadlines, TLS, redaction; knows no API.
