//! A redis-server that has something to do for as long as it runs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The load on a server that is still to be started. Ends when dropped.
pub struct Redis {
    program: PathBuf,
    socket: PathBuf,
    over: Arc<AtomicBool>,
    load: Option<JoinHandle<()>>,
}

impl Redis {
    /// A server that will listen in `dir`.
    pub fn new(program: PathBuf, dir: &Path) -> Self {
        let socket = dir.join("redis");
        let over = Arc::new(AtomicBool::new(false));
        let load = {
            let (socket, over) = (socket.clone(), Arc::clone(&over));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Not there yet, or not any more.
                    if set_values(&socket, &over).is_err() {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            })
        };
        Self { program, socket, over, load: Some(load) }
    }

    /// What starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&self.socket);
        command.current_dir(self.socket.parent().unwrap());
        command
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(load) = self.load.take() {
            let _ = load.join();
        }
    }
}

/// Sets one key after the other, until the server has gone or it is over.
fn set_values(socket: &Path, over: &AtomicBool) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    // A server that stands still must not keep us.
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut answer = [0; 64];
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        write!(stream, "LPUSH list{} {number} {}\r\n", number % 50, "x".repeat(number % 300))?;
        if stream.read(&mut answer)? == 0 {
            break;
        }
    }
    Ok(())
}
