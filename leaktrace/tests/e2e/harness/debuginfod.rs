//! A debuginfod server on this machine's loopback, as far as clients ask of one, and its misbehaviour.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use super::DEADLINE;
use super::build::{self, Recipe};

/// What it answers with, by path; anything else is not found.
pub type Files = HashMap<String, Vec<u8>>;

/// A server, which ends with the test program.
pub struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Receiver<()>,
}

impl Server {
    /// Has these files.
    pub fn with(files: Files) -> Self {
        Self::start(Some(files))
    }

    /// Takes connections and says nothing.
    pub fn silent() -> Self {
        Self::start(None)
    }

    fn start(files: Option<Files>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback works");
        let address = listener.local_addr().expect("it is bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (announce, connections) = channel();
        let seen = Arc::clone(&asked);
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = announce.send(());
                match files.clone() {
                    None => held.push(stream),
                    Some(files) => {
                        let seen = Arc::clone(&seen);
                        thread::spawn(move || answer(stream, &files, &seen));
                    }
                }
            }
        });
        Self { address, asked, connections }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until somebody has connected.
    pub fn wait_for_connection(&self) {
        self.connections.recv_timeout(DEADLINE).expect("somebody asks");
    }

    /// The paths asked for up to now.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How many connections there were up to now, but for those waited for.
    pub fn connections(&self) -> usize {
        self.connections.try_iter().count()
    }
}

fn answer(mut stream: TcpStream, files: &Files, asked: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    // The headers say nothing that matters here.
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, body) = match files.get(&path) {
        Some(body) if request.starts_with("GET ") => ("200 OK", body.as_slice()),
        _ => ("404 Not Found", &b"not found"[..]),
    };
    asked.lock().unwrap().push(path);
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // Whoever hangs up has heard enough.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// A program without names and the file that has them.
pub struct Split {
    pub program: PathBuf,
    pub debug: Vec<u8>,
    pub build_id: String,
}

impl Split {
    /// Splits a program that was built with a build id, as distributions do.
    pub fn of(recipe: Recipe, into: &Path) -> Self {
        let whole = recipe.built();
        let program = into.join(recipe.name);
        let debug = into.join(format!("{}.debug", recipe.name));
        let objcopy = |arguments: &[&str], to: &Path| {
            let status = Command::new("objcopy").args(arguments).arg(&whole).arg(to).status();
            assert!(status.is_ok_and(|status| status.success()), "binutils are installed with the compiler");
        };
        objcopy(&["--only-keep-debug"], &debug);
        objcopy(&["--strip-all"], &into.join("stripped"));
        build::copied(&into.join("stripped"), &program);
        let notes = Command::new("readelf").arg("-n").arg(&program).output().expect("binutils are installed");
        let notes = String::from_utf8(notes.stdout).expect("text");
        let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: "));
        let build_id = id.expect("it was linked with one").to_owned();
        Self { program, debug: std::fs::read(debug).expect("it was just made"), build_id }
    }

    /// Where a server has its debug file.
    pub fn path(&self) -> String {
        format!("/buildid/{}/debuginfo", self.build_id)
    }
}
