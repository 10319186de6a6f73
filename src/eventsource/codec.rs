//! The protobuf codec with small buffers. A subscriber's stream is idle nearly all the time, and tonic's default keeps
//! 8 KiB for it, and up to 64 KiB after a catch-up. tonic made the codec of generated code configurable for this reason:
//! <https://github.com/grpc/grpc-rust/pull/1599>.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// The initial buffer of a stream: none. tonic allocates it for the first event, and keeps the buffer of the latest
/// events until the next ones.
const EVENT_BUFFER: usize = 0;
/// Ready events are sent together until they exceed this many bytes.
const YIELD_THRESHOLD: usize = 4 * 1024;
/// The initial buffer of a request. A configuration is a few lines.
const REQUEST_BUFFER: usize = 1024;

/// The codec of `proto/generic.proto`, which the generated code uses as `Codec`.
#[derive(Debug)]
pub(crate) struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(EVENT_BUFFER, YIELD_THRESHOLD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(REQUEST_BUFFER, YIELD_THRESHOLD))
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use http_body_util::BodyExt;
    use tonic::codec::EncodeBody;

    use super::*;
    use crate::eventsource::proto::{Event, EventSource};

    /// Each event adds its encoded length and 5 bytes, and a catch-up is not buffered as a whole.
    #[tokio::test]
    async fn events_are_sent_together_up_to_the_threshold() {
        let event = Event { name: "model-update".to_owned(), payload: vec![b'x'; 300] };
        let events = vec![event; 100];
        let bytes: usize = events.iter().map(|event| event.encoded_len() + 5).sum();
        let encoder = SmallBuffers::<Event, EventSource>::default().encoder();
        let ready = stream::iter(events).map(Ok);
        let body = EncodeBody::new_server(encoder, ready, None, Default::default(), None);
        let pieces: Vec<usize> = body
            .into_data_stream()
            .map(|piece| piece.expect("no error").len())
            .take_while(|piece| std::future::ready(*piece > 0))
            .collect()
            .await;
        assert_eq!(pieces.iter().sum::<usize>(), bytes);
        assert!(pieces.iter().all(|piece| *piece < YIELD_THRESHOLD + 400), "{pieces:?}");
        assert!(pieces.len() < 20, "{pieces:?}");
    }
}
