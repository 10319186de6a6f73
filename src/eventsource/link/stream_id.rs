//! The header by which a handler learns which stream of its connection it answers: hyper knows, but does not tell.

use http::HeaderMap;

/// The name of the header that the link adds to every request whose octets it can account for. Its value means
/// something to [`LinkInfo::account`](super::LinkInfo::account) only.
///
/// A handler takes the **last** value: the link's own stands behind whatever the peer sent under that name.
pub const STREAM_ID_HEADER: &str = "x-link-stream-id";

/// The length of the value: eight hexadecimal digits of stream id, sixteen of the connection's token.
const VALUE: usize = 24;

/// "Literal header field never indexed, new name" (RFC 7541, 6.2.3): it leaves both sides' tables as they are.
const NEVER_INDEXED: u8 = 0x10;

/// The length of [`literal`] in octets.
pub(super) const LITERAL: u32 = 3 + STREAM_ID_HEADER.len() as u32 + VALUE as u32;

/// The header in HPACK.
pub(super) fn literal(stream: u32, token: u64) -> Vec<u8> {
    // Both lengths fit in the seven bits that HPACK has for them in one octet.
    let mut literal = vec![NEVER_INDEXED, STREAM_ID_HEADER.len() as u8];
    literal.extend_from_slice(STREAM_ID_HEADER.as_bytes());
    literal.push(VALUE as u8);
    literal.extend_from_slice(format!("{stream:08x}{token:016x}").as_bytes());
    literal
}

/// The stream id that the link added to these headers, if it did.
pub(super) fn find(headers: &HeaderMap, token: u64) -> Option<u32> {
    let value = headers.get_all(STREAM_ID_HEADER).iter().next_back()?.to_str().ok()?;
    let (stream, rest) = value.split_at_checked(8)?;
    (rest == format!("{token:016x}")).then(|| u32::from_str_radix(stream, 16).ok())?
}

const _: () = assert!(STREAM_ID_HEADER.len() < 127 && VALUE < 127);

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
    fn the_literal_is_as_long_as_it_says_and_leaves_the_table_alone() {
        let literal = literal(7, TOKEN);
        assert_eq!(literal.len(), usize::try_from(LITERAL).expect("small"));
        assert_eq!(literal[0], 0x10);
        assert_eq!(&literal[2..18], STREAM_ID_HEADER.as_bytes());
        assert_eq!(&literal[19..], b"000000070000000000c0ffee");
    }

    #[test]
    fn the_last_value_wins_over_the_peers_own() {
        let headers = headers(&["00000001aaaaaaaaaaaaaaaa", "3", "000000070000000000c0ffee"]);
        assert_eq!(find(&headers, TOKEN), Some(7));
    }

    #[test]
    fn a_value_that_the_link_did_not_write_is_no_stream() {
        for value in ["", "7", "00000007", "00000007000000000000c0ff", "0000000700000000deadbeef", "\u{e9}"] {
            assert_eq!(find(&headers(&[value]), TOKEN), None, "{value}");
        }
        assert_eq!(find(&HeaderMap::new(), TOKEN), None);
    }
}
