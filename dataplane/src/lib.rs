//! The data plane: one request's way from a caller to a registry and back, on one core.
//!
//! Start reading at `exchange`. Modules stand in the order in which a request meets them.

pub mod vocabulary;
pub mod snapshot;
pub mod limits;
pub mod error;
pub mod counters;
mod parse;
mod target;
mod rewrite;
mod mailbox;
mod worker;
mod body;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

pub use mailbox::{Postbox, Question};
pub use worker::{Dataplane, IoMode, Settings};
