//! x
use std::path::PathBuf;
/// x
pub fn run(_: &crate::config::ProxyFlags, _: PathBuf) -> std::io::Result<bool> { Ok(true) }
