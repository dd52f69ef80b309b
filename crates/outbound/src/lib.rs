//! The HTTP clients: deadlines, TLS, redaction; they know no API.

mod address;
mod client;
mod failure;
mod guard;
mod tls;
mod upstream;

pub use address::shown_url;
pub use client::{Client, Options, Response};
pub use guard::{is_metadata_address, is_metadata_name};
pub use hyper::body::Incoming;
pub use upstream::{Outgoing, SendError, Upstream, UpstreamOptions, retry_after};
