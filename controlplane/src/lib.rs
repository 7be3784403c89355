//! The control plane: what the user wrote becomes what the data plane reads.
//!
//! Modules stand in reading order: flags, the user's contract, the sources of it, its meaning, and
//! then what the verbs `proxy`, `csi` and `controller` are made of. `compile` is the heart.

pub mod config;
pub mod telemetry;
pub mod crd;
pub mod condition;
pub mod cluster;
pub mod source;
pub mod compile;
pub mod review;
pub mod registry;
pub mod login;
pub mod bridge;
pub mod authority;
pub mod admin;
pub mod proxy;
pub mod csi;
pub mod lease;
pub mod controller;
pub mod check;
pub mod seccomp;
