//! HTML as text: everything but the server's own tags is escaped and limited.

/// Characters of a name or text on the page. Kubernetes limits names to 253.
const MAX_TEXT: usize = 300;

/// A piece of a page.
#[derive(Debug, Default)]
pub(super) struct Html(String);

/// A cell of a table.
#[derive(Debug)]
pub(super) enum Cell {
    /// Text.
    Text(String),
    /// A name or word of a machine.
    Code(String),
    /// A number, or a duration.
    Number(String),
    /// A reason, in a color of its own.
    Tag(&'static str, Tone),
    /// A time: its distance from now, and the time itself.
    Time { ago: String, time: String },
    /// A link to another page, with its text.
    Link { address: String, text: String },
    /// Nothing.
    Empty,
}

/// The importance of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Neutral,
    Bad,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Neutral => "neutral",
            Self::Bad => "bad",
        }
    }
}

impl Html {
    /// Adds markup of this server.
    pub(super) fn raw(&mut self, markup: &str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        let mut rest = text.chars();
        rest.by_ref().take(MAX_TEXT).for_each(|c| self.escape(c));
        if rest.next().is_some() {
            self.0.push('…');
        }
        self
    }

    /// Adds the whole value of an attribute.
    fn attribute(&mut self, text: &str) -> &mut Self {
        text.chars().for_each(|c| self.escape(c));
        self
    }

    fn escape(&mut self, c: char) {
        match c {
            '&' => self.0.push_str("&amp;"),
            '<' => self.0.push_str("&lt;"),
            '>' => self.0.push_str("&gt;"),
            '"' => self.0.push_str("&quot;"),
            '\'' => self.0.push_str("&#39;"),
            c if c.is_control() => self.0.push(' '),
            c => self.0.push(c),
        }
    }

    /// Adds a table with this caption, or a sentence where it has no rows. On a narrow screen, each row becomes a card,
    /// whose cells are labelled with the headings; the roles keep it a table for screen readers.
    pub(super) fn table<const N: usize>(
        &mut self,
        caption: &str,
        headings: [&str; N],
        rows: impl Iterator<Item = [Cell; N]>,
        empty: &str,
    ) {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            self.raw("<p class=\"empty\">").text(empty).raw("</p>\n");
            return;
        }
        self.raw("<table role=\"table\"><caption class=\"hidden\">").text(caption);
        self.raw("</caption>\n<thead role=\"rowgroup\"><tr role=\"row\">");
        for heading in headings {
            self.raw("<th role=\"columnheader\" scope=\"col\">").text(heading).raw("</th>");
        }
        self.raw("</tr></thead>\n<tbody role=\"rowgroup\">\n");
        for row in rows {
            self.raw("<tr role=\"row\">");
            for (heading, cell) in headings.iter().zip(&row) {
                let class = match cell {
                    Cell::Number(_) => " class=\"number\"",
                    Cell::Empty => " class=\"none\"",
                    _ => "",
                };
                self.raw("<td role=\"cell\"").raw(class).raw(" data-label=\"").text(heading).raw("\">");
                self.cell(cell);
                self.raw("</td>");
            }
            self.raw("</tr>\n");
        }
        self.raw("</tbody></table>\n");
    }

    fn cell(&mut self, cell: &Cell) {
        match cell {
            Cell::Text(text) | Cell::Number(text) => self.text(text),
            Cell::Code(text) => self.raw("<code>").text(text).raw("</code>"),
            Cell::Tag(text, tone) => {
                self.raw("<span class=\"tag ").raw(tone.class()).raw("\">").text(text).raw("</span>")
            }
            Cell::Time { ago, time } => self
                .raw("<time datetime=\"")
                .text(time)
                .raw("\" title=\"")
                .text(time)
                .raw("\">")
                .text(ago)
                .raw("</time>"),
            Cell::Link { address, text } => {
                self.raw("<a rel=\"noreferrer\" href=\"").attribute(address).raw("\">").text(text).raw("</a>")
            }
            Cell::Empty => self,
        };
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// A duration for people: the two largest units.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_limited() {
        let mut html = Html::default();
        html.text("<script>\"a\" & 'b'\n</script>");
        assert_eq!(html.into_string(), "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39; &lt;/script&gt;");
        let mut html = Html::default();
        html.text(&"é".repeat(1000));
        assert_eq!(html.into_string(), format!("{}…", "é".repeat(MAX_TEXT)));
    }

    #[test]
    fn a_table_without_rows_is_a_sentence() {
        let mut html = Html::default();
        html.table("Deliveries", ["Run"], std::iter::empty(), "None yet.");
        assert_eq!(html.into_string(), "<p class=\"empty\">None yet.</p>\n");
    }

    #[test]
    fn cells_have_labels_and_links_whole_addresses() {
        let (mut html, address) = (Html::default(), format!("https://h/?a=\"{}", "x".repeat(500)));
        let row = [Cell::Link { address: address.clone(), text: "<1>".to_owned() }, Cell::Number("2".to_owned())];
        html.table("Runs", ["Trace", "<N>"], [row].into_iter(), "None");
        let html = html.into_string();
        let link = format!("href=\"{}\">&lt;1&gt;</a>", address.replace('"', "&quot;"));
        assert!(html.contains(&link) && html.contains("data-label=\"&lt;N&gt;\">2</td>"), "{html}");
    }

    #[test]
    fn durations_have_two_units() {
        let texts = [59, 60, 3599, 3600, 90_000, 200_000].map(duration);
        assert_eq!(texts, ["59 s", "1 min", "59 min", "1 h 0 min", "1 d 1 h", "2 d 7 h"]);
    }
}
