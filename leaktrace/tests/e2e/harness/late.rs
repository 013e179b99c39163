//! A static program that a shell starts, which nobody had mapped before: it is found and probed while it runs.
//!
//! In: a victim and its arguments. Out: the tracer, once the victim is probed, and the victim that waits for a line until then.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::Tracer;
use super::tracer::path_str;

/// A victim that is traced in part.
pub struct Late {
    tracer: Tracer,
    pipe: PathBuf,
    _directory: TempDir,
}

impl Late {
    /// Starts `program wait ARGUMENTS` beneath a shell that is traced with these options, and waits until it is probed.
    pub fn start(program: &Path, arguments: &str, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (ready, pipe) = (directory.path().join("ready"), directory.path().join("pipe"));
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let program = path_str(program);
        let script = format!("{program} wait {arguments} 0<>{} >{}", path_str(&pipe), path_str(&ready));
        let tracer = Tracer::start_unready(&[options, &["-vv", "--", "/bin/sh", "-c", &script]].concat());
        let is_said = |line: &str| line.contains(program) && line.contains("after it was mapped");
        tracer.wait_for_message("that it is probed", is_said);
        Self { tracer, pipe, _directory: directory }
    }

    /// Lets the victim go on: to its work, then to its end.
    pub fn go(&self) {
        std::fs::write(&self.pipe, "\n").unwrap();
    }

    /// Lets the victim go on to its end, and gives the tracer back.
    pub fn end(self) -> Tracer {
        self.go();
        self.tracer
    }
}

impl Deref for Late {
    type Target = Tracer;

    fn deref(&self) -> &Tracer {
        &self.tracer
    }
}
