//! How a core that sleeps is told that it has mail.
//!
//! A connected Unix socket in, a wait out that ends when somebody rang. Any number of rings are
//! one; what was rung with is thrown away.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::net::RecvFlags;

use super::descriptor;

/// The end of a doorbell that a core listens to (see `mailbox`).
pub(crate) struct Doorbell(monoio::net::UnixStream);

impl Doorbell {
    /// Makes `doorbell`, already non-blocking, this core's.
    pub(crate) fn adopt(doorbell: UnixStream) -> io::Result<Self> {
        Ok(Self(monoio::net::UnixStream::from_std(doorbell)?))
    }

    /// Waits until it has rung since the last call.
    pub(crate) async fn rung(&self) -> io::Result<()> {
        let mut rings = [0; 64];
        loop {
            match rustix::net::recv(descriptor::of(&self.0), &mut rings, RecvFlags::empty()) {
                Ok((0, _)) => return Err(io::ErrorKind::BrokenPipe.into()),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => self.0.readable(false).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
