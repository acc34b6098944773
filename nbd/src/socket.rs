//! A connected socket: scattered receives, gathered sends.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use rustix::net::{recvmsg, sendmsg, shutdown};

/// Unix or TCP: they behave the same here.
#[derive(Debug)]
pub(crate) struct Socket(pub(crate) OwnedFd);

impl Socket {
    /// Receives what is there, filling `into` in order; 0 is the end.
    pub(crate) fn receive(&self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.receive_with(into, RecvFlags::empty())
    }

    /// Like `receive`, but `None` if nothing is there yet.
    pub(crate) fn receive_now(&self, into: &mut [IoSliceMut<'_>]) -> io::Result<Option<usize>> {
        match self.receive_with(into, RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    /// Like `receive`, for as long as `patient` says so.
    pub(crate) fn receive_while(&self, into: &mut [IoSliceMut<'_>], patient: &impl Fn() -> bool) -> io::Result<usize> {
        loop {
            match self.receive_now(into)? {
                Some(count) if patient() => return Ok(count),
                None if patient() => self.wait(PollFlags::IN)?,
                _ => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    /// Like `send`, for as long as `patient` says so.
    pub(crate) fn send_while(&self, head: &[u8], data: &[u8], patient: &impl Fn() -> bool) -> io::Result<()> {
        let mut left = &mut [IoSlice::new(head), IoSlice::new(data)][..];
        while left.iter().any(|slice| !slice.is_empty()) {
            if !patient() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.0, left, &mut SendAncillaryBuffer::default(), flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                outcome => IoSlice::advance_slices(&mut left, outcome?),
            }
        }
        Ok(())
    }

    /// Until something can be done, or for a while.
    fn wait(&self, what: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.0, what)], Some(&A_WHILE)) {
            Err(Errno::INTR) | Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn receive_with(&self, into: &mut [IoSliceMut<'_>], flags: RecvFlags) -> io::Result<usize> {
        loop {
            // Without room for control messages, descriptors a client sends along are closed by the kernel.
            match recvmsg(&self.0, into, &mut RecvAncillaryBuffer::default(), flags) {
                Err(Errno::INTR) => {}
                outcome => return Ok(outcome?.bytes),
            }
        }
    }

    /// Bytes that can be received without waiting.
    pub(crate) fn arrived(&self) -> io::Result<usize> {
        Ok(usize::try_from(ioctl_fionread(&self.0)?).unwrap_or(usize::MAX))
    }

    /// Fills `into`; false if the client left before its first byte.
    pub(crate) fn receive_exact(&self, into: &mut [u8]) -> io::Result<bool> {
        let mut have = 0;
        while have < into.len() {
            match self.receive(&mut [IoSliceMut::new(&mut into[have..])])? {
                0 if have == 0 => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => have += count,
            }
        }
        Ok(true)
    }

    /// Sends `head`, then `data`, in one call if the socket takes it.
    pub(crate) fn send(&self, head: &[u8], data: &[u8]) -> io::Result<()> {
        self.send_all(&mut [IoSlice::new(head), IoSlice::new(data)])
    }

    /// Sends all of it in order, in one call if the socket takes it.
    pub(crate) fn send_all(&self, mut left: &mut [IoSlice<'_>]) -> io::Result<()> {
        while left.iter().any(|slice| !slice.is_empty()) {
            match sendmsg(&self.0, left, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                outcome => IoSlice::advance_slices(&mut left, outcome?),
            }
        }
        Ok(())
    }

    /// How long a receive or a send waits before it fails; for ever if `None`.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        set_socket_timeout(&self.0, Timeout::Recv, patience)?;
        Ok(set_socket_timeout(&self.0, Timeout::Send, patience)?)
    }

    /// Ends receives, those that wait too. Replies still go out.
    pub(crate) fn stop_receiving(&self) {
        // It fails only on a socket that is gone already.
        let _ = shutdown(&self.0, Shutdown::Read);
    }

    /// Ends everything.
    pub(crate) fn close(&self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

/// After which it is asked whether there is patience left.
const A_WHILE: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_peer_that_stalls_is_waited_for_only_so_long() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (socket, asked) = (Socket(ours.into()), Cell::new(0));
        let thrice = || {
            asked.set(asked.get() + 1);
            asked.get() < 3
        };
        let mut byte = [0];
        let outcome = socket.receive_while(&mut [IoSliceMut::new(&mut byte)], &thrice);
        assert_eq!((outcome.unwrap_err().kind(), asked.replace(0)), (io::ErrorKind::TimedOut, 3));
        let outcome = socket.send_while(&[], &vec![0; 8 << 20], &thrice);
        assert_eq!((outcome.unwrap_err().kind(), asked.get()), (io::ErrorKind::TimedOut, 3));
    }
}
