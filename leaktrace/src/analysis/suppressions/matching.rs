//! Which rules match a stack.
//!
//! Stacks share frames, so what a frame matches is found once. A stack then takes at most as many steps for a rule as the product
//! of its frames and the rule's lines.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;

use super::allocation_functions;
use super::pattern::Pattern;
use super::rule::{Line, Part, Rule, Stacks};
use crate::model::Frame;

/// What memcheck calls a function, or an object, of which it knows nothing.
const UNKNOWN: &[u8] = b"???";
/// What memcheck calls the functions that call `main`, and those functions.
const BELOW_MAIN: &[u8] = b"(below main)";
const CALLERS_OF_MAIN: [&str; 4] =
    ["__libc_start_main", "__libc_start_main_impl", "__libc_start_call_main", "generic_start_main"];

/// Rules, ready to be matched with the stacks of one snapshot.
#[derive(Default)]
pub struct Matcher<'a> {
    /// The rules' patterns, each once.
    patterns: Vec<(Part, &'a Pattern)>,
    /// Places of those without wildcards, by what they are for and the name. Large files have little else.
    literals: HashMap<(Part, Vec<u8>), usize>,
    /// Places of the others.
    wildcards: Vec<usize>,
    rules: Vec<Ready>,
    /// The patterns that a frame matches: that of the allocation function, then those of the stacks.
    matched: Vec<Matched>,
    /// Where a frame's are.
    places: HashMap<*const Frame, usize>,
}

/// A rule with its patterns by their places.
enum Ready {
    Passing(usize),
    BeginningWith {
        /// `None` stands for any number of frames.
        lines: Vec<Option<usize>>,
        /// The first line cannot be an allocation function, so that it must be the caller of one.
        begins_at_caller: bool,
    },
}

/// What is known of a frame.
struct Matched {
    /// The patterns that it matches, a bit each.
    patterns: Box<[u64]>,
    /// Whether it is an allocation function.
    allocates: bool,
}

impl Matched {
    fn has(&self, pattern: usize) -> bool {
        self.patterns.get(pattern / 64).is_some_and(|word| word & (1 << (pattern % 64)) != 0)
    }
}

/// Place of the allocation function's frame.
const ALLOCATION: usize = 0;

impl<'a> Matcher<'a> {
    /// Prepares rules. What is found of a frame is kept by its address: the stacks must stay where they are meanwhile.
    pub fn new(rules: &'a [Rule]) -> Self {
        let mut matcher = Self::default();
        let mut known = HashMap::new();
        let mut place = |part: Part, pattern: &'a Pattern, patterns: &mut Vec<(Part, &'a Pattern)>| {
            *known.entry((part, pattern)).or_insert_with(|| {
                patterns.push((part, pattern));
                patterns.len() - 1
            })
        };
        for rule in rules {
            let ready = match &rule.stacks {
                Stacks::Passing(pattern) => Ready::Passing(place(Part::Any, pattern, &mut matcher.patterns)),
                Stacks::BeginningWith(lines) => {
                    let lines = lines.iter().map(|line| match line {
                        Line::Frames => None,
                        Line::Frame(part, pattern) => Some(place(*part, pattern, &mut matcher.patterns)),
                    });
                    Ready::BeginningWith { lines: lines.collect(), begins_at_caller: false }
                }
            };
            matcher.rules.push(ready);
        }
        for (place, (part, pattern)) in matcher.patterns.iter().enumerate() {
            match pattern.literal() {
                Some(name) => drop(matcher.literals.insert((*part, name), place)),
                None => matcher.wildcards.push(place),
            }
        }
        let allocation = matcher.matched(&Names::of_allocation_function());
        for rule in &mut matcher.rules {
            if let Ready::BeginningWith { lines, begins_at_caller } = rule {
                *begins_at_caller = matches!(lines.first(), Some(Some(first)) if !allocation.has(*first));
            }
        }
        matcher.matched.push(allocation);
        matcher
    }

    /// The places of the rules that match a stack, which is innermost first and begins with the caller of the allocation function.
    pub fn matching(&mut self, stack: &[Arc<Frame>]) -> Vec<usize> {
        let mut all = vec![ALLOCATION];
        for frame in stack {
            all.push(self.place(frame));
        }
        // A file that was made without debug information does not name inlined functions.
        let is_whole = |(_, frame): &(&usize, &Arc<Frame>)| !frame.inlined;
        let mut whole = vec![ALLOCATION];
        whole.extend(all.iter().skip(1).zip(stack).filter(is_whole).map(|(place, _)| *place));
        let variants = if whole.len() < all.len() { vec![all.clone(), whole] } else { vec![all.clone()] };
        let is_matched = |rule: &Ready| match rule {
            Ready::Passing(pattern) => all.iter().any(|place| self.has(*place, *pattern)),
            Ready::BeginningWith { lines, begins_at_caller } => variants.iter().any(|stack| {
                // C++'s operators, which call malloc or each other, are frames of ours; memcheck has put its own in their place.
                let is_operator = |place: &&usize| self.matched.get(**place).is_some_and(|frame| frame.allocates);
                let allocating = stack.iter().take_while(is_operator).count();
                let from_caller = stack.get(allocating..).unwrap_or_default();
                let from_allocation = || iter::once(&ALLOCATION).chain(from_caller).copied().collect::<Vec<_>>();
                self.begins_with(stack, lines)
                    || (allocating > 1 && self.begins_with(&from_allocation(), lines))
                    || (*begins_at_caller && self.begins_with(from_caller, lines))
            }),
        };
        let matched = self.rules.iter().enumerate().filter(|(_, rule)| is_matched(rule));
        matched.map(|(place, _)| place).collect()
    }

    fn has(&self, frame: usize, pattern: usize) -> bool {
        self.matched.get(frame).is_some_and(|matched| matched.has(pattern))
    }

    /// Whether the first frames of a stack match the lines; those behind may be any.
    fn begins_with(&self, stack: &[usize], lines: &[Option<usize>]) -> bool {
        let (mut line, mut at) = (0, 0);
        // The line behind the last `...`, and the frame that it was tried with: as in `Pattern::matches`.
        let mut again: Option<(usize, usize)> = None;
        while let Some(pattern) = lines.get(line) {
            match (pattern, stack.get(at)) {
                (None, _) => {
                    line += 1;
                    again = Some((line, at));
                }
                (Some(_), None) => return false,
                (Some(pattern), Some(frame)) if self.has(*frame, *pattern) => {
                    line += 1;
                    at += 1;
                }
                (Some(_), Some(_)) => match &mut again {
                    Some((behind, tried)) => {
                        *tried += 1;
                        (line, at) = (*behind, *tried);
                    }
                    None => return false,
                },
            }
        }
        true
    }

    fn place(&mut self, frame: &Arc<Frame>) -> usize {
        if let Some(place) = self.places.get(&Arc::as_ptr(frame)) {
            return *place;
        }
        let matched = self.matched(&Names::of_frame(frame));
        self.matched.push(matched);
        self.places.insert(Arc::as_ptr(frame), self.matched.len() - 1);
        self.matched.len() - 1
    }

    /// What matches a frame of these names.
    fn matched(&self, names: &Names<'_>) -> Matched {
        let mut words = vec![0u64; self.patterns.len().div_ceil(64)];
        let mut mark = |place: usize| {
            if let Some(word) = words.get_mut(place / 64) {
                *word |= 1 << (place % 64);
            }
        };
        for place in &self.wildcards {
            let matches = |(part, pattern): &(Part, &Pattern)| names.of(*part).any(|name| pattern.matches(name));
            if self.patterns.get(*place).is_some_and(matches) {
                mark(*place);
            }
        }
        for part in [Part::Function, Part::Object, Part::Source, Part::Any] {
            for name in names.of(part) {
                self.literals.get(&(part, name.to_vec())).into_iter().for_each(|place| mark(*place));
            }
        }
        Matched { patterns: words.into_boxed_slice(), allocates: names.allocates }
    }
}

/// What a frame is called.
struct Names<'a> {
    functions: Vec<&'a [u8]>,
    object: &'a [u8],
    sources: Vec<Vec<u8>>,
    /// Whether it is, or stands for, an allocation function.
    allocates: bool,
    /// Whether reports show it, so that LeakSanitizer's rules are about it.
    is_shown: bool,
}

impl<'a> Names<'a> {
    fn of_allocation_function() -> Self {
        let (functions, object) = (allocation_functions::names().collect(), allocation_functions::object());
        Self { functions, object, sources: Vec::new(), allocates: true, is_shown: false }
    }

    fn of_frame(frame: &'a Frame) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let mut functions: Vec<&[u8]> =
            [&frame.function, &frame.symbol].into_iter().flatten().map(String::as_bytes).collect();
        if frame.function.as_deref().is_some_and(|name| CALLERS_OF_MAIN.contains(&name)) {
            functions.push(BELOW_MAIN);
        }
        if functions.is_empty() {
            functions.push(UNKNOWN);
        }
        let mut sources = Vec::new();
        if let Some(file) = &frame.file {
            for name in [Some(file.as_os_str()), file.file_name()].into_iter().flatten() {
                sources.push(name.as_bytes().to_vec());
                if let Some(line) = frame.line {
                    sources.push([name.as_bytes(), format!(":{line}").as_bytes()].concat());
                }
            }
        }
        let object = frame.module.as_deref().map_or(UNKNOWN, |module| module.as_os_str().as_bytes());
        let allocates =
            [&frame.function, &frame.symbol].into_iter().flatten().any(|it| allocation_functions::is_one(it));
        Self { functions, object, sources, allocates, is_shown: true }
    }

    fn of(&self, part: Part) -> impl Iterator<Item = &[u8]> {
        let (functions, objects, sources) = match part {
            Part::Function => (true, false, false),
            Part::Object => (false, true, false),
            Part::Source => (false, false, true),
            Part::Any => (self.is_shown, self.is_shown, self.is_shown),
        };
        let functions = self.functions.iter().copied().filter(move |_| functions);
        let objects = iter::once(self.object).filter(move |_| objects);
        functions.chain(objects).chain(self.sources.iter().map(Vec::as_slice).filter(move |_| sources))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::super::parse::parse;
    use super::*;
    use crate::model::Address;

    fn frame(text: &str) -> Arc<Frame> {
        let mut words = text.split('|');
        let mut next = || words.next().filter(|word| !word.is_empty());
        let function = next().map(str::to_owned);
        let symbol = next().map(str::to_owned);
        let module = next().map(Into::into);
        let file = next().map(Into::into);
        let line = next().map(|line| line.parse().unwrap());
        let inlined = next().is_some();
        Arc::new(Frame { function, symbol, module, file, line, inlined, ..Frame::unresolved(Address(1)) })
    }

    fn matches(rules: &str, stack: &[&str]) -> bool {
        let rules = parse(rules.as_bytes(), "test").unwrap();
        let stack: Vec<_> = stack.iter().map(|text| frame(text)).collect();
        !Matcher::new(&rules).matching(&stack).is_empty()
    }

    fn block(lines: &[&str]) -> String {
        format!("{{\n a\n Memcheck:Leak\n {}\n}}\n", lines.join("\n "))
    }

    #[test]
    fn memchecks_allocation_function_is_the_frame_before_ours() {
        for first in ["fun:malloc", "fun:calloc", "fun:*alloc", "obj:*/vgpreload_memcheck-*.so", "fun:*", "fun:_Znwm"] {
            assert!(matches(&block(&[first, "fun:f"]), &["f", "main"]), "{first}");
            assert!(!matches(&block(&[first, "fun:f"]), &["g", "f", "main"]), "{first}");
        }
        assert!(matches(&block(&["fun:malloc", "fun:strdup", "fun:f"]), &["strdup", "f", "main"]));
        assert!(!matches(&block(&["fun:malloc", "fun:f", "fun:main"]), &["f"]), "the stack is shorter");
    }

    #[test]
    fn operators_of_cxx_that_call_malloc_are_memchecks_allocation_functions() {
        let stack = ["operator new(unsigned long)|_Znwm", "f()|_Z1fv", "main"];
        assert!(matches(&block(&["fun:_Znwm", "fun:_Z1fv"]), &stack));
        assert!(matches(&block(&["fun:_Znwm", "fun:_Z1f*"]), &stack));
        assert!(matches(&block(&["fun:*", "fun:f()"]), &stack));
        assert!(matches(&block(&["fun:_Znwm", "fun:_Z1fv"]), &stack[1..]), "an allocator's own operator is no frame");
        assert!(matches(&block(&["fun:_Znam", "fun:_Z1fv"]), &stack), "new[] jumps to new, and leaves no frame");
        assert!(matches(&block(&["fun:f()", "fun:main"]), &stack), "from the caller on");
        assert!(!matches(&block(&["fun:_Znwm", "fun:main"]), &stack));
    }

    #[test]
    fn a_block_that_begins_with_another_function_begins_at_the_caller() {
        assert!(matches(&block(&["fun:f", "fun:main"]), &["f", "main"]));
        assert!(!matches(&block(&["fun:f", "fun:main"]), &["g", "f", "main"]));
        assert!(matches(&block(&["obj:/opt/a.so"]), &["f||/opt/a.so", "main"]));
    }

    #[test]
    fn an_ellipsis_is_any_number_of_frames() {
        let rule = block(&["fun:malloc", "...", "fun:a", "...", "fun:b", "fun:c"]);
        assert!(matches(&rule, &["a", "b", "c", "main"]));
        assert!(matches(&rule, &["x", "a", "b", "x", "b", "c"]));
        assert!(!matches(&rule, &["x", "b", "c", "a"]) && !matches(&rule, &["a", "b", "x", "c"]));
        assert!(matches(&block(&["...", "obj:*/libx.so*"]), &["f||/lib/libc.so.6", "g||/lib/libx.so.1"]));
        assert!(matches(&block(&["fun:f", "..."]), &["f"]));
    }

    /// What the lines of a block mean, as briefly as it can be said; takes exponential time.
    fn means(lines: &[&str], stack: &[&str]) -> bool {
        match (lines, stack) {
            ([], _) => true,
            (["...", rest @ ..], _) => means(rest, stack) || (!stack.is_empty() && means(lines, &stack[1..])),
            ([line, rest @ ..], [frame, behind @ ..]) => {
                (*line == "fun:?" || line.strip_prefix("fun:") == Some(frame)) && means(rest, behind)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_is_what_lines_mean(
            lines in prop::collection::vec(prop::sample::select(vec!["...", "fun:a", "fun:b", "fun:?"]), 0..7),
            stack in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..9),
        ) {
            let lines = [&["fun:malloc"], lines.as_slice()].concat();
            let expected = means(&lines[1..], &stack);
            prop_assert_eq!(matches(&block(&lines), &stack), expected);
        }
    }

    #[test]
    fn many_ellipses_take_no_exponential_time() {
        let lines = [vec!["fun:malloc"], ["...", "fun:a"].repeat(300), vec!["fun:b"]].concat();
        let begun = Instant::now();
        assert!(!matches(&block(&lines), &["a"; 1024]));
        // Some hundred thousand steps.
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn objects_and_places_in_sources_are_told_by_path() {
        let stack = ["f||/usr/lib/libx.so.1|/src/a/leak.c|12", "main"];
        assert!(matches(&block(&["fun:malloc", "obj:/usr/lib/libx.so.1"]), &stack));
        assert!(!matches(&block(&["fun:malloc", "obj:libx.so.1"]), &stack), "the pattern covers the whole path");
        for place in ["leak.c", "leak.c:12", "/src/*/leak.c:12", "*.c:1?"] {
            assert!(matches(&block(&["fun:malloc", &format!("src:{place}")]), &stack), "{place}");
        }
        assert!(!matches(&block(&["fun:malloc", "src:leak.c:1"]), &stack));
        assert!(matches(&block(&["fun:malloc", "obj:*", "fun:*"]), &["", "main"]), "nothing is known of the frame");
    }

    #[test]
    fn inlined_functions_may_be_named_or_left_out() {
        let stack = ["tiny||||7|inlined", "f", "main"];
        assert!(matches(&block(&["fun:malloc", "fun:tiny", "fun:f"]), &stack));
        assert!(matches(&block(&["fun:malloc", "fun:f", "fun:main"]), &stack));
    }

    #[test]
    fn below_main_is_what_calls_main() {
        let rule = block(&["fun:malloc", "fun:main", "fun:(below main)"]);
        assert!(matches(&rule, &["main", "__libc_start_call_main"]) && !matches(&rule, &["main", "f"]));
    }

    #[test]
    fn leak_sanitizer_looks_at_every_frame() {
        let stack = ["f()|_Z1fv|/opt/app|/src/leak.cc|3", "g||/usr/lib/libx.so.1", "main"];
        for pattern in ["f()", "^g$", "libx.so", "leak.cc", "/usr/lib/*.so"] {
            assert!(matches(&format!("leak:{pattern}"), &stack), "{pattern}");
        }
        assert!(!matches("leak:malloc", &stack) && !matches("leak:^in", &stack));
        assert!(!matches("leak:f", &[]), "a site without stack");
    }
}
