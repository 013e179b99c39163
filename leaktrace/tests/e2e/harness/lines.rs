//! A child's output, line by line as it comes, with deadlines, and as a whole afterwards.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::DEADLINE;

/// Reads a pipe to its end in a thread of its own, so that the writer never waits for us.
pub struct Lines {
    what: &'static str,
    news: Receiver<String>,
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    /// `what` names the stream in failures.
    pub fn of(what: &'static str, stream: impl Read + Send + 'static) -> Self {
        let (sender, news) = channel();
        let text = Arc::new(Mutex::new(String::new()));
        let all = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut bytes = Vec::new();
            while stream.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
                let line = String::from_utf8_lossy(&bytes).into_owned();
                bytes.clear();
                all.lock().unwrap().push_str(&line);
                // Nobody may be waiting for lines any more; the text still grows.
                let _ = sender.send(line.trim_end_matches('\n').to_owned());
            }
        });
        Self { what, news, text, reader: Some(reader) }
    }

    /// The next line for which `wanted` holds; those before it are passed over.
    pub fn wait_for(&self, expected: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.collect_until(expected, wanted).pop().expect("the line waited for is the last one")
    }

    /// The lines up to and including the first for which `wanted` holds.
    pub fn collect_until(&self, expected: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let end = Instant::now() + DEADLINE;
        let mut lines = Vec::new();
        loop {
            match self.news.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = wanted(&line);
                    lines.push(line);
                    if found {
                        return lines;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{}: no {expected} in time, only:\n{}", self.what, self.text())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{} ended without {expected}:\n{}", self.what, self.text())
                }
            }
        }
    }

    /// Everything read so far.
    pub fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Everything there was, once the writer has closed its end.
    pub fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reading thread does not panic");
        }
        self.text()
    }
}
