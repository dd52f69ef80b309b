//! The public formats of AI APIs, what passes by in them, and the conversions between them; no IO.
//!
//! Same format in and out: [`scan`] finds the few fields that a gateway decides on, [`Rewrite`] replaces them by byte range, and [`Tap`]
//! reads usage and ending from what passes. Nothing else of the body is touched, so unknown fields and numbers survive as written.
//!
//! Another format: [`convert_request`], [`convert_reply`] and [`StreamConverter`] go through what is said (`neutral`), and list what is lost.

mod chat;
mod convert;
mod count;
mod decode;
mod embedding;
mod encode;
mod error;
mod format;
mod gemini;
mod json;
mod mark;
mod measure;
mod messages;
mod model;
mod names;
mod neutral;
mod question;
mod replay;
mod responses;
mod scan;
pub mod sse;
mod stream;
mod tap;
mod usage;

pub use convert::{Converted, convert_reply, convert_request};
pub use count::{convert_count_request, count_tokens_reply, read_count_tokens};
pub use embedding::{Embedding, convert_embedding_reply, convert_embedding_request, wants_base64};
pub use error::{
    BadReply, BadRequest, ErrorClass, ErrorDetail, ProviderError, error_body, error_event, read_error,
};
pub use format::Format;
pub use measure::{InputTokens, estimate_input_tokens, input_tokens, input_tokens_bound};
pub use model::{Model, model_entry, models_list, read_models};
pub use names::{Named, names};
pub use neutral::{Shown, Target};
pub use question::{Question, Single, question, single};
pub use replay::{Nature, events_as_reply, reply_as_events, reply_nature, reply_text};
pub use scan::{Field, Rewrite, Scanned, scan, splice};
pub use stream::{End, Ending, StreamConverter, StreamOptions, keep_alive};
pub use tap::{Observed, Tap};
pub use usage::Usage;
