//! Text that others have written, such as tenants, other programs and files, on terminals and pages.
//!
//! Names, annotations, metadata and the messages of servers may contain anything. On a terminal, control characters move
//! the cursor and change colors, and invisible ones let a text look like another (Unicode TR 36). So all of it passes
//! through [`one_line`]; JSON and YAML keep it, in escapes.

/// Returns whether a character acts on a terminal or is invisible: control characters, line and paragraph separators,
/// changes of the direction, joiners and tags.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Returns the text on one line, with spaces instead of the characters of [`is_unsafe`].
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_unsafe(c) { ' ' } else { c }).collect()
}

/// Returns the text without the characters of [`is_unsafe`], but with its lines and tabs.
pub fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").chars().map(|c| if is_unsafe(c) && !"\n\t".contains(c) { ' ' } else { c }).collect()
}

/// Returns JSON with escapes for the characters of [`is_unsafe`] beyond ASCII. They occur only in strings, so the value
/// stays the same.
pub fn escaped_json(json: &str) -> String {
    escaped(json, |c| c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect())
}

/// Returns YAML of JSON, with escapes as [`escaped_json`]. YAML has one escape for a character, and no surrogates.
pub fn escaped_yaml(json: &str) -> String {
    escaped(
        json,
        |c| if c > '\u{ffff}' { format!("\\U{:08x}", u32::from(c)) } else { format!("\\u{:04x}", u32::from(c)) },
    )
}

fn escaped(json: &str, escape: impl Fn(char) -> String) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_unsafe(c) && (c == '\u{7f}' || !c.is_ascii()) {
            escaped.push_str(&escape(c));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_act_on_a_terminal() {
        let hostile = "a\x1b]0;t\x07b\r\n\u{9b}2Jc\u{7f}d\u{202e}e\u{2066}f\u{200b}g\u{2028}h\u{e0041}";
        assert_eq!(one_line(hostile), "a ]0;t b   2Jc d e f g h ");
        assert_eq!(one_line("größe 模型 ✓ e\u{301}"), "größe 模型 ✓ e\u{301}");
        assert_eq!(lines("a\r\n\tb\x1b[31mc\n"), "a\n\tb [31mc\n");
    }

    #[test]
    fn escapes_keep_the_value_of_json() {
        let value = serde_json::json!({"a\u{202e}": "\x1b[2J\u{9b}\u{7f}\u{e0041}ä\n"});
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let escaped = escaped_json(&pretty);
        assert!(!escaped.chars().any(|c| is_unsafe(c) && c != '\n'), "{escaped:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
