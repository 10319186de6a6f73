//! A TCP proxy that checks the HTTP/2 frames of the server.

use std::{net::SocketAddr, ops::Deref};

use test_support::TcpProxy;

pub(crate) struct FrameProxy(TcpProxy);

impl Deref for FrameProxy {
    type Target = TcpProxy;
    fn deref(&self) -> &TcpProxy {
        &self.0
    }
}

impl FrameProxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        Self(TcpProxy::start(server).await)
    }

    /// Checks the framing of the server's bytes and returns the number of its PINGs.
    pub(crate) fn check(&self) -> usize {
        self.frames().into_iter().filter(|(kind, flags)| (*kind, flags & 1) == (6, 0)).count()
    }

    /// Returns whether the server has sent GOAWAY.
    pub(crate) fn saw_goaway(&self) -> bool {
        self.frames().into_iter().any(|(kind, _)| kind == 7)
    }

    /// Returns type and flags of every frame that the server has sent.
    fn frames(&self) -> Vec<(u8, u8)> {
        let sent = self.sent_by_server();
        let (mut rest, mut frames, mut block) = (&sent[..], Vec::new(), None);
        while let Some((head, tail)) = rest.split_first_chunk::<9>() {
            let [a, b, c, kind, flags, id @ ..] = *head;
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            let stream = u32::from_be_bytes(id);
            assert!(!frames.is_empty() || kind == 4, "the first frame is not SETTINGS");
            assert!(kind <= 9, "an unknown frame of type {kind}: the framing is lost");
            assert_eq!(block.is_some(), kind == 9, "a frame of type {kind} within a header block, or the reverse");
            assert!(kind != 6 || (len, stream) == (8, 0), "a malformed PING");
            if matches!(kind, 1 | 9) {
                block = (flags & 4 == 0).then_some(stream);
            }
            frames.push((kind, flags));
            let Some(tail) = tail.get(len..) else { break };
            rest = tail;
        }
        frames
    }
}
