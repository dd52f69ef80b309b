//! The HTTP client: deadlines, TLS, redaction; knows no API.

mod address;
mod client;
mod failure;
mod tls;

pub use address::shown_url;
pub use client::{Client, Options, Response};
