//! Runs a system program for its output, within limits.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// Where the system's programs are, whatever this program's `PATH` says.
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
/// The most that is read of an output, bytes.
const MAX_OUTPUT: u64 = 8 << 20;

/// Runs programs, all of them until one deadline.
pub(super) struct Tools {
    pub(super) deadline: Instant,
}

impl Tools {
    /// What a program prints, whether or not it succeeds: a program that is asked about many things fails at the first that
    /// it does not know. `None` if the program is not installed, or has not finished in time.
    pub(super) fn output<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Option<String> {
        let left = |now| self.deadline.checked_duration_since(now).filter(|left| !left.is_zero());
        left(Instant::now())?;
        let mut child = Command::new(find(program)?)
            .args(arguments)
            .env_clear()
            .envs([("PATH", DIRECTORIES.join(":").as_str()), ("LC_ALL", "C"), ("HOME", "/")])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let stdout = child.stdout.take()?;
        let (sender, output) = channel();
        let reader = thread::Builder::new().name("packages".to_owned()).spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.take(MAX_OUTPUT).read_to_end(&mut text);
            let _ = sender.send(text);
        });
        let left = left(Instant::now()).unwrap_or_default();
        let text = reader.ok().and_then(|_| output.recv_timeout(left).ok());
        // It has closed its output, or its time is over; in either case it is not waited for.
        let _ = child.kill();
        for _ in 0..100 {
            match child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(1)),
                // Also an error: if SIGCHLD is ignored, the kernel has already reaped the child.
                _ => break,
            }
        }
        Some(String::from_utf8_lossy(&text?).into_owned())
    }

    pub(super) fn has(program: &str) -> bool {
        find(program).is_some()
    }
}

fn find(program: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(program)).find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(within: Duration) -> Tools {
        Tools { deadline: Instant::now() + within }
    }

    #[test]
    fn what_a_program_prints_counts_whatever_its_exit_status() {
        let tools = tools(Duration::from_mins(2));
        assert_eq!(tools.output("sh", &["-c", "echo $LC_ALL$DEBUGINFOD_URLS; exit 3"]).as_deref(), Some("C\n"));
        assert_eq!(tools.output("no-such-program-of-ours", &["x"]), None);
    }

    #[test]
    fn a_program_that_does_not_end_costs_its_time_and_no_more() {
        assert_eq!(tools(Duration::ZERO).output("echo", &["x"]), None, "its time is over before it begins");
        let begun = Instant::now();
        assert_eq!(tools(Duration::from_millis(100)).output("sleep", &["1000"]), None);
        assert!(begun.elapsed() < Duration::from_mins(2), "{:?}", begun.elapsed());
    }
}
