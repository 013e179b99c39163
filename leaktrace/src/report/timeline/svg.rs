//! Elements of an SVG as text.
//!
//! In: places in pixels, attributes of ours, and words that may be anyone's. Out: well-formed XML. Every word goes through
//! [`Svg::text`] or a tooltip, and there through `clean` and the escapes of XML.

use std::fmt::{Arguments, Write};

use super::super::flamegraph::escape_xml;
use crate::clean::clean;

/// A place, pixels from the left and from the top.
pub type Place = (f64, f64);

/// Elements so far.
#[derive(Default)]
pub struct Svg(String);

impl Svg {
    /// What is written.
    pub fn into_text(self) -> String {
        self.0
    }

    /// An element of ours, without foreign words.
    pub fn put(&mut self, element: Arguments<'_>) {
        // A string takes any text.
        let _ = writeln!(self.0, "{element}");
    }

    /// Words whose base line begins, or ends, here.
    pub fn text(&mut self, (x, y): Place, attributes: &str, words: &str) {
        let words = escape_xml(&clean(words));
        self.put(format_args!(r#"<text x="{x:.1}" y="{y:.1}" {attributes}>{words}</text>"#));
    }

    /// Words, and more of them for who points there.
    pub fn text_with_tooltip(&mut self, (x, y): Place, attributes: &str, words: &str, tooltip: &str) {
        let (words, tooltip) = (escape_xml(&clean(words)), escape_xml(&clean(tooltip)));
        self.put(format_args!(
            r#"<g><title>{tooltip}</title><text x="{x:.1}" y="{y:.1}" {attributes}>{words}</text></g>"#
        ));
    }

    /// A straight line.
    pub fn line(&mut self, (x1, y1): Place, (x2, y2): Place, attributes: &str) {
        self.put(format_args!(r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" {attributes}/>"#));
    }

    /// A rectangle by its upper left corner, width and height.
    pub fn rect(&mut self, (x, y): Place, (width, height): Place, attributes: &str) {
        self.put(format_args!(r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" {attributes}/>"#));
    }

    /// A line through places, closed by its attributes' `fill` if it has one, with words for who points there.
    pub fn path(&mut self, places: impl Iterator<Item = Place>, attributes: &str, tooltip: &str) {
        let mut data = String::new();
        for (index, (x, y)) in places.enumerate() {
            let _ = write!(data, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
        }
        if data.is_empty() {
            return;
        }
        let tooltip = escape_xml(&clean(tooltip));
        self.put(format_args!(r#"<path d="{data}" {attributes}><title>{tooltip}</title></path>"#));
    }
}

/// The words in lines of at most so many characters; a longer word has a line of its own.
pub fn wrapped(words: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_words_are_no_elements() {
        let mut svg = Svg::default();
        svg.text((1.0, 2.0), "", "<a>&\u{1b}");
        svg.path([(0.0, 1.0), (2.25, 3.0)].into_iter(), "fill=\"none\"", "</title>");
        svg.path(std::iter::empty(), "", "nothing");
        assert_eq!(
            svg.into_text(),
            "<text x=\"1.0\" y=\"2.0\" >&lt;a&gt;&amp;?</text>\n\
             <path d=\"M0.0 1.0L2.2 3.0\" fill=\"none\"><title>&lt;/title&gt;</title></path>\n"
        );
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("a longest-word b", 5), ["a", "longest-word", "b"]);
    }
}
