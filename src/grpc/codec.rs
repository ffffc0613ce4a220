//! The Protocol Buffers codec of all services, with small buffers, and the limits of requests.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec, CompressionEncoding};
use tonic_prost::ProstCodec;

/// Maximum size of a request, in bytes. A compressed request is limited both before and after its decompression.
pub(crate) const MAX_REQUEST: usize = 64 * 1024;
/// The compression of requests. Responses are not compressed, because most are too small to gain from it.
pub(super) const COMPRESSION: CompressionEncoding = CompressionEncoding::Gzip;
/// Initial size of the buffer that each open stream holds, in bytes. A verdict has 200 bytes. The default of the
/// library, 8 KiB, would be most of the memory of an idle watch.
pub(super) const BUFFER_SIZE: usize = 512;
/// Ready messages are sent together up to this many bytes, the default of the library.
pub(super) const YIELD_THRESHOLD: usize = 32 * 1024;

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
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_SIZE, YIELD_THRESHOLD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_SIZE, YIELD_THRESHOLD))
    }
}
