//! Answers the data plane's questions: whose token is it, and may its bearer use the connector?
//!
//! A token and a connector in, a [`Verdict`](dataplane::vocabulary::Verdict) out. Who knows the
//! answer depends on the source: under `--file` it is a table made of the same folder, in a cluster
//! it is the API server.

pub mod file;
pub mod kube;
