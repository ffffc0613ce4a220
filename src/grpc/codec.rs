//! Protocol Buffers, with buffers of the size of our messages.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// What a stream holds for messages as long as it is open, in bytes; it grows where a message needs more. The
/// library would take 8 KiB, which is most of what an idle watch costs, and a verdict has 200 bytes.
pub(super) const BUFFER: usize = 512;
/// Messages that are ready are sent together, up to so many bytes. As the library has it.
pub(super) const TOGETHER: usize = 32 * 1024;

/// The codec of all our services.
#[derive(Debug)]
pub(super) struct MessageCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MessageCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for MessageCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, TOGETHER))
    }
}
