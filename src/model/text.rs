//! Texts of tenants, which may have any length.

/// Returns the longest beginning of a text that has at most `max` bytes.
pub(crate) fn beginning(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_ends_between_characters() {
        for (max, expected) in [(0, ""), (1, "a"), (2, "a"), (3, "a\u{e9}"), (4, "a\u{e9}b"), (5, "a\u{e9}b")] {
            assert_eq!(beginning("a\u{e9}b", max), expected, "{max}");
        }
    }
}
