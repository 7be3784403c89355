//! The stories: every promise of this program, told to the real binary over real sockets.
//!
//! One binary, so that the program links once. Read them in this order.

mod support;

mod startup;
mod naming;
mod pull;
mod push;
mod docker;
mod deny;
mod harbor;
mod login;
mod clients;
mod rewriting;
mod redirects;
mod revealing;
mod reload;
mod drain;
mod rolling;
mod balance;
mod looking;
mod audit;
mod check;
mod authority;
mod forward;
mod tunnels;
mod intercept;
mod faults;
mod conventions;
mod admission;
mod cluster;
mod reviews;
mod probes;
mod controller;
mod rotation;
mod hostile;
mod csi;
mod memory;
mod manifests;
mod image;
mod leak;
mod guides;
mod quickstart;
mod tidy;
