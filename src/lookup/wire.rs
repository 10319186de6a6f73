//! A reader of messages in protocol buffers. It passes each field in place, so that a conversion copies what it
//! needs and nothing else. Generated types would first build every property of every row, many times the message's size.

use super::error::CallError;

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    /// A text, a message, or bytes.
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Field<'a> {
    /// An integer or an enum.
    pub(crate) fn int(self) -> Result<i64, CallError> {
        match self {
            // Negative numbers are encoded in two's complement.
            Self::Varint(value) => Ok(value as i64),
            _ => Err(wrong_type()),
        }
    }

    pub(crate) fn double(self) -> Result<f64, CallError> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(wrong_type()),
        }
    }

    /// A message, or bytes.
    pub(crate) fn bytes(self) -> Result<&'a [u8], CallError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(wrong_type()),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, CallError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| CallError::malformed("a text is not UTF-8"))
    }
}

fn wrong_type() -> CallError {
    CallError::malformed("a field has another type than in the protocol")
}

fn truncated() -> CallError {
    CallError::malformed("a message ends within a field")
}

/// Passes the number and the value of each field of a message, in the message's order.
pub(crate) fn fields<'a>(
    message: &'a [u8],
    mut each: impl FnMut(u32, Field<'a>) -> Result<(), CallError>,
) -> Result<(), CallError> {
    let mut rest = message;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let number = u32::try_from(key >> 3).map_err(|_| CallError::malformed("a field's number is too large"))?;
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut rest)?),
            1 => Field::Fixed64(u64::from_le_bytes(take_array(&mut rest)?)),
            2 => {
                let length = varint(&mut rest)?;
                Field::Bytes(take(&mut rest, usize::try_from(length).map_err(|_| truncated())?)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(take_array(&mut rest)?)),
            _ => return Err(CallError::malformed("a field has an unknown type")),
        };
        each(number, field)?;
    }
    Ok(())
}

/// Returns the key and the value of an entry of a map.
pub(crate) fn map_entry<'a>(entry: Field<'a>) -> Result<(&'a [u8], &'a [u8]), CallError> {
    let (mut key, mut value) = (&[][..], &[][..]);
    fields(entry.bytes()?, |number, field| {
        match number {
            1 => key = field.bytes()?,
            2 => value = field.bytes()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((key, value))
}

fn varint(rest: &mut &[u8]) -> Result<u64, CallError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or_else(truncated)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CallError::malformed("a number is longer than 64 bits"))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], CallError> {
    let (taken, after) = rest.split_at_checked(length).ok_or_else(truncated)?;
    *rest = after;
    Ok(taken)
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CallError> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or_else(truncated)?;
    *rest = after;
    Ok(*taken)
}

#[cfg(test)]
mod tests;
