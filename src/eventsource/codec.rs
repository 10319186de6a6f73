//! protobuf, as everywhere in gRPC, but with small buffers: a stream is idle nearly all of its life, and tonic would keep
//! 8 KiB for it, and up to 64 KiB after it has caught up.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Nothing is allocated for a stream before its first event, which brings what it needs; tonic keeps the allocation of
/// the latest events until the next ones come.
const EVENTS: usize = 0;
/// So many octets of events go out together where several are ready.
const TOGETHER: usize = 4 * 1024;
/// A configuration is a few lines.
const REQUEST: usize = 1024;

/// The codec of `proto/generic.proto`: the `Codec` that the generated code asks for.
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
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(EVENTS, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(REQUEST, TOGETHER))
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use http_body_util::BodyExt;
    use tonic::codec::EncodeBody;

    use super::*;
    use crate::eventsource::proto::{Event, EventSource};

    #[tokio::test]
    async fn events_go_out_together_but_not_all_of_a_catch_up_and_each_with_its_length_and_five_octets() {
        let event = Event { name: "model-update".to_owned(), payload: vec![b'x'; 300] };
        let events = vec![event; 100];
        let octets: usize = events.iter().map(|event| event.encoded_len() + 5).sum();
        let encoder = SmallBuffers::<Event, EventSource>::default().encoder();
        let ready = stream::iter(events).map(Ok);
        let body = EncodeBody::new_server(encoder, ready, None, Default::default(), None);
        let pieces: Vec<usize> = body
            .into_data_stream()
            .map(|piece| piece.expect("no error").len())
            .take_while(|piece| std::future::ready(*piece > 0))
            .collect()
            .await;
        assert_eq!(pieces.iter().sum::<usize>(), octets);
        assert!(pieces.iter().all(|piece| *piece < TOGETHER + 400), "{pieces:?}");
        assert!(pieces.len() < 20, "{pieces:?}");
    }
}
