//! A Rust source file as the rules see it: the paths it names and the strings it contains, each with its line and whether it
//! is test code. Comments are dropped, so that they may name what the code must not name.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What a [`Word`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `std::fs::read`, `aya`, `x`; a `use` of several things is several paths.
    Path,
    /// A path that is called as a macro, or stands in an attribute.
    Macro,
    /// A literal as written, quotes included. Literals in attributes, ABI names and the arguments of `asm!` are left out.
    String,
}

/// One word of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Word {
    pub kind: Kind,
    pub text: String,
    pub line: usize,
    /// Inside an item under `#[cfg(test)]` or `#[test]`.
    pub in_test: bool,
    /// In a `use` that re-exports the name: `pub use`, `pub(crate) use`.
    pub passed_on: bool,
}

/// The words of a source file in order.
pub fn words(source: &str) -> Result<Vec<Word>> {
    let tokens: TokenStream = source.parse().map_err(|error| anyhow!("not Rust: {error}"))?;
    let mut reader = Reader { words: Vec::new(), attribute: false, passes_on: false };
    reader.read(tokens, "", false);
    Ok(reader.words)
}

struct Reader {
    words: Vec<Word>,
    /// Inside an attribute's brackets.
    attribute: bool,
    /// Inside a `pub use`.
    passes_on: bool,
}

impl Reader {
    /// Reads one level of tokens. `prefix` is the path in front of a brace of a `use`, with its `::`.
    fn read(&mut self, tokens: TokenStream, prefix: &str, in_test: bool) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let punctuation =
            |at: usize, sign: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == sign);
        // Whether the item that is being read is a test, by the attributes in front of it.
        let mut item_is_test = false;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    // `#![…]` is the enclosing item's.
                    at += usize::from(punctuation(at, '!'));
                    if let Some(TokenTree::Group(group)) = tokens.get(at) {
                        at += 1;
                        item_is_test |= marks_test(&group.stream());
                        self.attribute = true;
                        self.read(group.stream(), "", in_test);
                        self.attribute = false;
                    }
                }
                TokenTree::Punct(punct) => {
                    if punct.as_char() == ';' {
                        item_is_test = false;
                        self.passes_on = false;
                    }
                }
                TokenTree::Ident(ident) => {
                    let line = ident.span().start().line;
                    if ident == "pub" {
                        let restricted = matches!(tokens.get(at), Some(TokenTree::Group(_)));
                        let next = tokens.get(at + usize::from(restricted));
                        self.passes_on = matches!(next, Some(TokenTree::Ident(next)) if next == "use");
                    }
                    let mut path = format!("{prefix}{ident}");
                    while punctuation(at, ':') && punctuation(at + 1, ':') {
                        at += 2;
                        match tokens.get(at) {
                            Some(TokenTree::Ident(next)) => path = format!("{path}::{next}"),
                            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                                self.read(group.stream(), &format!("{path}::"), in_test || item_is_test);
                            }
                            // A turbofish, or `use a::*`.
                            _ => break,
                        }
                        at += 1;
                    }
                    let called = punctuation(at, '!') && matches!(tokens.get(at + 1), Some(TokenTree::Group(_)));
                    let kind = if called || self.attribute { Kind::Macro } else { Kind::Path };
                    let unread = path == "extern" && matches!(tokens.get(at), Some(TokenTree::Literal(_)));
                    let assembly = called && path.ends_with("asm");
                    self.words.push(Word {
                        kind,
                        text: path,
                        line,
                        in_test: in_test || item_is_test,
                        passed_on: self.passes_on,
                    });
                    at += usize::from(unread) + 2 * usize::from(assembly);
                }
                TokenTree::Group(group) => {
                    self.read(group.stream(), "", in_test || item_is_test);
                    if group.delimiter() == Delimiter::Brace {
                        item_is_test = false;
                    }
                }
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    if text.ends_with(['"', '#']) && !self.attribute {
                        let line = literal.span().start().line;
                        self.words.push(Word {
                            kind: Kind::String,
                            text,
                            line,
                            in_test: in_test || item_is_test,
                            passed_on: self.passes_on,
                        });
                    }
                }
            }
        }
    }
}

/// Whether an attribute makes its item test code.
fn marks_test(attribute: &TokenStream) -> bool {
    let text = attribute.to_string().replace(' ', "");
    text == "test" || text.ends_with("::test") || text.starts_with("cfg(test") || text.starts_with("cfg(all(test")
}

#[cfg(test)]
mod tests {
    use super::{Kind, words};

    fn of(source: &str) -> Vec<(Kind, String, usize, bool)> {
        words(source).unwrap().into_iter().map(|word| (word.kind, word.text, word.line, word.in_test)).collect()
    }

    #[test]
    fn a_use_of_several_things_is_several_paths() {
        let words = of("use std::{fs::{self, File}, io};\nlet x = std::net::TcpStream::connect();");
        let paths: Vec<_> = words.iter().map(|(_, text, ..)| text.as_str()).collect();
        for path in ["std::fs::self", "std::fs::File", "std::io", "std::net::TcpStream::connect"] {
            assert!(paths.contains(&path), "{path} in {paths:?}");
        }
    }

    #[test]
    fn comments_say_what_they_like() {
        let words = of("// std::fs \"x\"\n/* aya */\n/// tokio \"y\"\nstruct S;");
        let texts: Vec<_> = words.iter().map(|(_, text, ..)| text.as_str()).collect();
        assert_eq!(texts, ["doc", "struct", "S"]);
    }

    #[test]
    fn test_code_is_told_from_the_rest() {
        let words = of("fn a() { b(); }\n#[cfg(test)]\nmod tests { fn c() {} }\nfn d() {}");
        let test = |name: &str| words.iter().find(|(_, text, ..)| text == name).unwrap().3;
        assert_eq!(["a", "b", "c", "d"].map(test), [false, false, true, false]);
    }

    #[test]
    fn strings_are_told_from_what_only_looks_like_them() {
        let words = of(r#"#[doc = "a"] extern "C" fn f() { asm!("nop"); g("b", 'c', b"d", 1); }"#);
        let strings: Vec<_> = words.iter().filter(|(kind, ..)| *kind == Kind::String).map(|w| w.1.as_str()).collect();
        assert_eq!(strings, ["\"b\"", "b\"d\""]);
    }

    #[test]
    fn macros_and_attributes_are_marked() {
        let words = of("#[ignore]\nfn f() { panic!(); }");
        assert_eq!(words[0], (Kind::Macro, "ignore".into(), 1, false));
        assert!(words.contains(&(Kind::Macro, "panic".into(), 2, false)));
    }
}
