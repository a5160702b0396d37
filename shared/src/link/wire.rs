//! Messages on a QUIC stream: a big-endian u32 length, then that many bytes of protobuf.

use prost::Message;

use super::bounds::{self, Bounded};

/// The largest message, in bytes, the length before it not counted.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream failed or ended inside a message.
    #[error("link stream: {0}")]
    Stream(#[from] quinn::ReadExactError),
    /// The peer announces more than [`MAX_MESSAGE`].
    #[error("a message of {0} bytes is above the bound of {MAX_MESSAGE}")]
    TooLarge(usize),
    /// It repeats something too often.
    #[error("a message is refused: {0}")]
    Bound(String),
    /// Not the message that belongs here.
    #[error("a message cannot be read")]
    Unreadable,
}

/// `message` with its length before it.
pub fn frame(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    assert!(length <= MAX_MESSAGE, "we never build a message above the bound");
    let mut out = Vec::with_capacity(4 + length);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    message.encode(&mut out).expect("a Vec grows");
    out
}

/// The next message of `stream`, and how many bytes of the stream it took; `None` at its end.
pub async fn read<M: Message + Bounded + Default>(
    stream: &mut quinn::RecvStream,
) -> Result<Option<(M, u64)>, WireError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(WireError::TooLarge(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    bounds::check::<M>(&body).map_err(WireError::Bound)?;
    let message = M::decode(body.as_slice()).map_err(|_| WireError::Unreadable)?;
    Ok(Some((message, 4 + length as u64)))
}
