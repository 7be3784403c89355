//! The data plane: one request's way from a caller to a registry and back, on one core.
//!
//! Start reading at `exchange`. Modules stand in the order in which a request meets them.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::unreachable
)]

// The nouns that both planes speak.
pub mod vocabulary;
pub mod snapshot;
pub mod limits;
pub mod error;
pub mod counters;
pub mod courtesy;

// The life of one request, in order.
mod exchange;
mod accept;
mod authorise;
mod route;
mod login;
mod rewrite;
mod connect;
mod intercept;
mod passthrough;
mod stream;
mod follow;
mod reply;
mod account;

// The grammar that they read by: pure functions of bytes.
mod parse;
mod target;
mod body;

// What the stages stand on.
mod worker;
mod mailbox;
mod balance;
mod own;
mod wiped;
mod io;
mod transport;
mod buffer;
mod spares;
mod pipes;
mod pool;
mod hashed;
mod tls;
mod certificates;
mod handshake;
mod resolve;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(test, feature = "counting"))]
#[doc(hidden)]
pub mod counting;

pub use certificates::{Certificate, Commission, Subject};
pub use mailbox::{Cores, Granted, LoginQuestion, Postbox, Question, Wish};
pub use own::Own;
pub use passthrough::{Hosts, Passthrough};
pub use pool::Key as Account;
pub use resolve::is_forbidden;
pub use tls::config as tls_config;
pub use worker::{Dataplane, IoMode, Settings};
