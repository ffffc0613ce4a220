//! As much of the protocol of Redis as a server in a test needs.

/// Takes a command, an array of bulk strings, from the beginning of a buffer. Returns `None` if it is not complete.
pub(crate) fn take_command(buffer: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let mut at = 0;
    let count = number(buffer, &mut at, b'*')?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        words.push(bulk(buffer, &mut at)?.to_vec());
    }
    buffer.drain(..at);
    Some(words)
}

/// Returns the bytes of the bulk string that a reply begins with.
pub(crate) fn first_bulk(reply: &[u8]) -> Option<&[u8]> {
    bulk(reply, &mut 0)
}

/// Encodes a bulk string.
pub(crate) fn encode_bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn bulk<'a>(buffer: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let length = number(buffer, at, b'$')?;
    let bytes = buffer.get(*at..at.checked_add(length)?)?;
    *at += length;
    if buffer.get(*at..*at + 2)? != b"\r\n" {
        return None;
    }
    *at += 2;
    Some(bytes)
}

fn number(buffer: &[u8], at: &mut usize, kind: u8) -> Option<usize> {
    let rest = buffer.get(*at..)?;
    if *rest.first()? != kind {
        return None;
    }
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let number = std::str::from_utf8(&rest[1..end]).ok()?.parse().ok()?;
    *at += end + 2;
    Some(number)
}
