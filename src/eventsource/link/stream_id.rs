//! The header that contains the id of a request's stream. h2 exposes the id
//! (<https://github.com/hyperium/h2/issues/289>), but hyper does not pass it on to a handler.

use http::HeaderMap;

/// The name of the header that the link appends to every request whose stream it tracks. Only
/// [`LinkInfo::stream_acks`](super::LinkInfo::stream_acks) interprets the value.
///
/// The **last** value is the link's: headers of this name that the peer sends precede it.
pub const STREAM_ID_HEADER: &str = "x-link-stream-id";

/// The length of the value: eight hexadecimal digits of the stream id, sixteen of the connection's token.
const VALUE_LEN: usize = 24;

/// "Literal Header Field Never Indexed -- New Name" (RFC 7541, section 6.2.3): the dynamic tables of both sides stay
/// as they are.
const NEVER_INDEXED: u8 = 0x10;

/// The length of [`literal`] in bytes.
pub(super) const LITERAL_LEN: u32 = 3 + STREAM_ID_HEADER.len() as u32 + VALUE_LEN as u32;

/// The header in HPACK.
pub(super) fn literal(stream: u32, token: u64) -> Vec<u8> {
    // Both lengths fit into the seven bits of HPACK's one-byte form (RFC 7541, section 5.2).
    let mut literal = vec![NEVER_INDEXED, STREAM_ID_HEADER.len() as u8];
    literal.extend_from_slice(STREAM_ID_HEADER.as_bytes());
    literal.push(VALUE_LEN as u8);
    literal.extend_from_slice(format!("{stream:08x}{token:016x}").as_bytes());
    literal
}

/// The stream id that the link of this token appended to these headers.
pub(super) fn find(headers: &HeaderMap, token: u64) -> Option<u32> {
    let value = headers.get_all(STREAM_ID_HEADER).iter().next_back()?.to_str().ok()?;
    let (stream, rest) = value.split_at_checked(8)?;
    (rest == format!("{token:016x}")).then(|| u32::from_str_radix(stream, 16).ok())?
}

const _: () = assert!(STREAM_ID_HEADER.len() < 127 && VALUE_LEN < 127);

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: u64 = 0x00c0_ffee;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().fold(HeaderMap::new(), |mut headers, value| {
            headers.append(STREAM_ID_HEADER, value.parse().expect("a header value"));
            headers
        })
    }

    #[test]
    fn the_literal_is_never_indexed_and_has_its_declared_length() {
        let literal = literal(7, TOKEN);
        assert_eq!(literal.len(), usize::try_from(LITERAL_LEN).expect("small"));
        assert_eq!(literal[0], 0x10);
        assert_eq!(&literal[2..18], STREAM_ID_HEADER.as_bytes());
        assert_eq!(&literal[19..], b"000000070000000000c0ffee");
    }

    #[test]
    fn the_last_value_wins_over_a_value_of_the_peer() {
        let headers = headers(&["00000001aaaaaaaaaaaaaaaa", "3", "000000070000000000c0ffee"]);
        assert_eq!(find(&headers, TOKEN), Some(7));
    }

    #[test]
    fn a_value_that_the_link_did_not_write_is_ignored() {
        for value in ["", "7", "00000007", "00000007000000000000c0ff", "0000000700000000deadbeef", "\u{e9}"] {
            assert_eq!(find(&headers(&[value]), TOKEN), None, "{value}");
        }
        assert_eq!(find(&HeaderMap::new(), TOKEN), None);
    }
}
