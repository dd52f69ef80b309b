//! A local server that speaks the wire formats of AI providers, answers deterministically, and fails as told.
//!
//! It writes its own HTTP/1.1, so that it can also misbehave: cut a stream after any byte, reset a connection, split
//! events anywhere, stay silent. It is a simulation for tests, demonstrations and measurements; no model runs here.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use fake_ai::{Ending, FakeAi, Reply};
//!
//! let fake = FakeAi::start().await?;
//! fake.next(Reply::text("half of an answer").cut_after_events(2, Ending::Reset));
//! // … a client sends its request to fake.url() …
//! let exchange = fake.request(0).await;
//! assert_eq!(exchange.path, "/v1/chat/completions");
//! # Ok(()) }
//! ```

mod answer;
mod chat;
mod embeddings;
mod gate;
mod gemini;
mod http;
mod jobs;
mod journal;
mod messages;
mod models;
mod reply;
mod responses;
mod server;
mod sse;
mod surface;

pub use answer::{Answer, Finish, Part, ToolDeltas, Usage};
pub use gate::Gate;
pub use jobs::JobPlan;
pub use journal::{Ended, Exchange};
pub use reply::{Ending, On, Reply};
pub use server::{FakeAi, refused_address};
pub use sse::{Event, LineEnd};
pub use surface::Surface;
