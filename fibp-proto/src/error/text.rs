//! Texts of others within ours: escaped and of bounded length, so that none of them forges or floods a log.

use core::fmt::{self, Write as _};

/// About how many characters of a text of the server's are shown.
const SHOWN: usize = 500;

/// A text in quotation marks.
pub(crate) fn quoted(text: &str) -> impl fmt::Display {
    Escaped { text, quoted: true }
}

/// A text without quotation marks, its own left as they are.
pub(crate) fn escaped(text: &str) -> impl fmt::Display {
    Escaped { text, quoted: false }
}

struct Escaped<'a> {
    text: &'a str,
    quoted: bool,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = if self.quoted { SHOWN } else { 8 * SHOWN };
        let (shown, cut) = match self.text.char_indices().nth(limit) {
            Some((at, _)) => self.text.split_at(at),
            None => (self.text, ""),
        };
        if self.quoted {
            write!(f, "{shown:?}")?;
        } else {
            for c in shown.chars() {
                match c {
                    '"' | '\'' | '\\' => f.write_char(c)?,
                    _ => write!(f, "{}", c.escape_debug())?,
                }
            }
        }
        if !cut.is_empty() {
            write!(f, "… ({} bytes more)", cut.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_forges_a_line_of_a_log() {
        let evil = "a\0b\nERROR forged\r\u{1b}[31m\u{202e}\u{2028}\"c\"";
        for shown in [quoted(evil).to_string(), escaped(evil).to_string()] {
            assert!(
                !shown.contains(|c: char| c.is_control() || c == '\u{202e}' || c == '\u{2028}'),
                "{shown:?}"
            );
        }
        assert_eq!(quoted("a\nb\"").to_string(), r#""a\nb\"""#);
        assert_eq!(escaped("a\nb \"c\" é").to_string(), r#"a\nb "c" é"#);
    }

    #[test]
    fn long_texts_are_cut() {
        let long = "ä".repeat(100_000);
        assert!(quoted(&long).to_string().len() < 2_000);
        assert!(quoted(&long).to_string().ends_with("bytes more)"));
        assert!(escaped(&long).to_string().len() < 10_000);
    }
}
