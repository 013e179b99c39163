//! Runtimes that have their own heap, in which no allocation function is called for each object.

use std::fmt;

use crate::probes::image::Image;

/// A runtime with a heap of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Runtime {
    /// Python's own: objects up to 512 bytes come from pymalloc.
    CPython,
    /// V8, in node, Deno and Chromium.
    V8,
    /// The Java virtual machine, of any vendor.
    Jvm,
    /// Go's own.
    Go,
}

/// Functions that the runtimes export for those who embed them.
const MARKS: &[(&[u8], Runtime)] = &[
    (b"PyObject_Malloc", Runtime::CPython),
    (b"_ZN2v87Isolate10GetCurrentEv", Runtime::V8),
    (b"_ZN2v87Isolate8AllocateEv", Runtime::V8),
    (b"JNI_CreateJavaVM", Runtime::Jvm),
];

/// The owner of the note that Go's linker writes into every program, stripped or not.
const GO_NOTE: &[u8] = b"Go";

impl Runtime {
    /// The runtime that defines a symbol of this name.
    pub(super) fn by_symbol(name: &[u8]) -> Option<Self> {
        MARKS.iter().find(|(mark, _)| *mark == name).map(|(_, runtime)| *runtime)
    }

    /// The runtime that has left a note in the image.
    pub(super) fn by_note(image: &Image<'_>) -> Option<Self> {
        image.has_note_of(GO_NOTE).then_some(Self::Go)
    }

    /// Which part of its memory is not seen, and what makes it visible, in a sentence.
    #[must_use]
    pub fn note(self) -> &'static str {
        match self {
            Self::CPython => {
                "CPython keeps objects of up to 512 bytes in a heap of its own, which is not traced; with \
                 PYTHONMALLOC=malloc in its environment they are"
            }
            Self::V8 => {
                "V8 keeps JavaScript objects in a heap of its own, which is not traced; node \
                 --heapsnapshot-signal=SIGUSR2 shows them, and with --perf-basic-prof functions have their names in stacks"
            }
            Self::Jvm => {
                "the JVM keeps Java objects in a heap of its own, which is not traced; jcmd PID GC.class_histogram shows \
                 them; with java -XX:+PreserveFramePointer stacks lead through Java code, and jcmd PID Compiler.perfmap \
                 before the trace names it"
            }
            Self::Go => {
                "Go keeps its objects in a heap of its own, which is not traced; its profiler shows them \
                 (net/http/pprof, /debug/pprof/heap)"
            }
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CPython => "CPython",
            Self::V8 => "V8",
            Self::Jvm => "the JVM",
            Self::Go => "Go",
        })
    }
}
